"""Pictures of dashboards, drawn from the very queries that Grafana sends."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Final

import matplotlib as mpl
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, MultipleLocator
from PIL import Image

from dashboards.panels import Colour, Kind, Unit
from dashboards.stored import filled

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.axes import Axes

    from dashboards.checking import Span
    from dashboards.panels import Board, Panel
    from dashboards.prometheus import Prometheus, Series

_COLUMNS: Final = 24
_INCHES_A_COLUMN: Final = 0.54
_INCHES_A_LINE: Final = 0.27
_TITLE: Final = 0.45
_LEFT, _RIGHT, _ABOVE, _BELOW = 0.72, 0.12, 0.26, 0.26
"""Inches around a panel's axes, for what is written there."""
_DPI: Final = 92
_COLOURS: Final = 96
"""Of the picture's palette: a third of the bytes, and nobody sees it."""
_SHADES: Final = {Colour.WELL: "#2e8b57", Colour.DOUBTFUL: "#e08a00", Colour.BAD: "#c8322d"}
_STEPS: Final = 200
_LEGEND_MAX: Final = 6
_LEGEND_ROOM: Final = 1.35
"""Above the highest value."""
_NAME_MAX: Final = 32
_NEARLY_NOTHING: Final = 1e-6
_THOUSAND: Final = 1000.0
_BINARY: Final = 1024.0
_MINUTE: Final = 60.0
_Named = tuple[str, "Series"]


def draw(board: Board, prometheus: Prometheus, span: Span, path: Path) -> None:
    """Write the picture of a dashboard in a span of time."""
    mpl.use("Agg")
    plt.rcParams.update(
        {"font.size": 7, "axes.titlesize": 8, "axes.grid": True, "grid.alpha": 0.3, "axes.axisbelow": True}
    )
    lines = _layout(board)
    width = _COLUMNS * _INCHES_A_COLUMN
    height = _TITLE + sum(_height(line) for line in lines)
    figure = Figure(figsize=(width, height))
    figure.text(0.5, 1 - _TITLE / 2 / height, board.title, fontsize=12, fontweight="bold", ha="center", va="center")
    top = height - _TITLE
    for line in lines:
        left = 0.0
        for panel in line:
            place = (left + _LEFT, top - _height(line) + _BELOW, panel.width * _INCHES_A_COLUMN - _LEFT - _RIGHT)
            box = (place[0] / width, place[1] / height, place[2] / width, (_height(line) - _BELOW - _ABOVE) / height)
            _draw_panel(figure.add_axes(box), panel, _found(panel, prometheus, span), span)
            left += panel.width * _INCHES_A_COLUMN
        top -= _height(line)
    _save(figure, path)


def _height(line: list[Panel]) -> float:
    return line[0].height * _INCHES_A_LINE


def _layout(board: Board) -> list[list[Panel]]:
    """Return the panels in lines of 24 columns, as Grafana lays them out."""
    lines: list[list[Panel]] = []
    for row in board.rows:
        taken = _COLUMNS
        for panel in row.panels:
            if taken + panel.width > _COLUMNS or lines[-1][0].height != panel.height:
                lines.append([])
                taken = 0
            lines[-1].append(panel)
            taken += panel.width
    return lines


def _found(panel: Panel, prometheus: Prometheus, span: Span) -> list[_Named]:
    step = max(1.0, span.seconds / _STEPS)
    found = []
    for query in panel.queries:
        expr = filled(query.expr, range_s=span.seconds, rate_s=10, variables=dict.fromkeys(("worker", "backend"), ".+"))
        for series in prometheus.range(expr, span.start, span.end, step):
            name = query.legend
            for label, value in series.labels.items():
                name = name.replace(f"{{{{{label}}}}}", value)
            found.append((name, series))
    return found


def _draw_panel(axes: Axes, panel: Panel, found: list[_Named], span: Span) -> None:
    axes.set_title(panel.title, loc="left", fontweight="bold")
    found = [(name, series) for name, series in found if series.points]
    if not found:
        _say(axes, "nothing, as it should be")
        return
    if panel.kind is Kind.NUMBER:
        _draw_numbers(axes, panel, found)
        return
    axes.set_xlim(0, span.seconds)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda at, _: f"{at:g} s"))
    if panel.kind is Kind.BUCKETS:
        _draw_buckets(axes, panel, found, span)
        return
    if panel.kind is Kind.ROWS:
        _draw_rows(axes, panel, found, span)
        return
    _draw_lines(axes, panel, found, span)


def _say(
    axes: Axes, text: str, *, colour: str = "#777777", size: int = 8, at: tuple[float, float] = (0.5, 0.5)
) -> None:
    axes.text(*at, text, transform=axes.transAxes, ha="center", va="center", color=colour, fontsize=size)
    axes.set_xticks([])
    axes.set_yticks([])


def _draw_numbers(axes: Axes, panel: Panel, found: list[_Named]) -> None:
    for number, (name, series) in enumerate(found):
        x = (number + 0.5) / len(found)
        value = series.points[-1][1]
        _say(axes, _text(value, panel.unit), colour=_shade(panel, value), size=15, at=(x, 0.58))
        _say(axes, name, at=(x, 0.15))


def _shade(panel: Panel, value: float) -> str:
    colour = Colour.BAD if panel.low_is_bad else Colour.WELL
    for threshold in panel.thresholds:
        if value >= threshold.value:
            colour = threshold.colour
    return _SHADES[colour]


def _draw_lines(axes: Axes, panel: Panel, found: list[_Named], span: Span) -> None:
    palette = plt.get_cmap("tab10")
    if panel.kind is Kind.STACKED:
        at, heights = _aligned(found, span)
        axes.stackplot(
            at, heights, labels=[name for name, _ in found], colors=[palette(i % 10) for i in range(len(found))]
        )
    else:
        for number, (name, series) in enumerate(found):
            at = np.array([moment - span.start for moment, _ in series.points])
            axes.plot(at, [value for _, value in series.points], label=name, color=palette(number % 10), linewidth=1.2)
    nothing = not any(value for _, series in found for _, value in series.points)
    far = [each.value for each in panel.thresholds if each.value > _NEARLY_NOTHING]
    highest = max(far, default=1.0) if nothing else axes.get_ylim()[1]
    axes.set_ylim(0, panel.maximum or highest * _LEGEND_ROOM)
    _draw_thresholds(axes, panel)
    binary = panel.unit in {Unit.BYTES, Unit.BYTES_PER_SECOND}
    axes.yaxis.set_major_locator(MultipleLocator(2.0 ** round(np.log2(highest / 3))) if binary else MaxNLocator(4))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _text(value, panel.unit)))
    handles, labels = axes.get_legend_handles_labels()
    shown = [label if len(label) <= _NAME_MAX else f"…{label[-_NAME_MAX:]}" for label in labels]
    axes.legend(handles[:_LEGEND_MAX], shown[:_LEGEND_MAX], loc="upper left", fontsize=6, framealpha=0.7)


def _draw_thresholds(axes: Axes, panel: Panel) -> None:
    """Draw those that are near what is shown; far ones would make it flat."""
    top = axes.get_ylim()[1]
    for threshold in panel.thresholds:
        if 0 < threshold.value <= top:
            axes.axhline(threshold.value, color=_SHADES[threshold.colour], linestyle="--", linewidth=0.8)


def _aligned(found: list[_Named], span: Span) -> tuple[np.ndarray, np.ndarray]:
    """Return moments, and each series' values at them; 0 where it has none."""
    moments = sorted({moment for _, series in found for moment, _ in series.points})
    column = {moment: number for number, moment in enumerate(moments)}
    values = np.zeros((len(found), len(moments)))
    for row, (_, series) in enumerate(found):
        for moment, value in series.points:
            values[row, column[moment]] = value
    return np.array(moments) - span.start, values


def _draw_rows(axes: Axes, panel: Panel, found: list[_Named], span: Span) -> None:
    at, values = _aligned(found, span)
    edges = (float(at[0]), float(at[-1]), -0.5, len(found) - 0.5)
    image = axes.imshow(
        values,
        aspect="auto",
        origin="lower",
        extent=edges,
        cmap="RdYlGn_r",
        vmin=0,
        vmax=panel.maximum,
        interpolation="none",
    )
    axes.set_yticks(range(len(found)), [name for name, _ in found])
    axes.grid(visible=False)
    axes.figure.colorbar(image, ax=axes, format=FuncFormatter(lambda value, _: _text(value, panel.unit)))


def _draw_buckets(axes: Axes, panel: Panel, found: list[_Named], span: Span) -> None:
    found = sorted(found, key=lambda each: float(each[1].labels["le"]))
    at, cumulative = _aligned(found, span)
    counts = np.diff(cumulative, axis=0, prepend=np.zeros((1, len(at))))
    used = np.flatnonzero(counts.max(axis=1) > 0)
    low, high = (max(0, used[0] - 1), used[-1] + 1) if len(used) else (0, len(found) - 1)
    shown = np.ma.masked_less_equal(counts[low : high + 1], 0)
    edges = (float(at[0]), float(at[-1]), -0.5, shown.shape[0] - 0.5)
    image = axes.imshow(shown, aspect="auto", origin="lower", extent=edges, cmap="viridis", interpolation="none")
    bounds = [float(series.labels["le"]) for _, series in found[low : high + 1]]
    axes.set_yticks(range(len(bounds)), [f"≤ {_text(bound, panel.unit)}" for bound in bounds])
    axes.figure.colorbar(image, ax=axes, format="%g")


def _text(value: float, unit: Unit) -> str:
    """Return a number as people read it."""
    if value == float("inf"):
        return "∞"
    if unit is Unit.RATIO:
        return f"{value * 100:.3g}%"
    if unit is Unit.SECONDS:
        return _seconds(value)
    if unit in {Unit.BYTES, Unit.BYTES_PER_SECOND}:
        return _scaled(value, _BINARY, (" B", " KiB", " MiB", " GiB", " TiB")) + (
            "/s" if unit is not Unit.BYTES else ""
        )
    tail = {Unit.PER_SECOND: "/s", Unit.CORES: " cores", Unit.DEVICES: " QPUs"}.get(unit, "")
    return _scaled(value, _THOUSAND, ("", "k", "M")) + tail


def _scaled(value: float, base: float, names: tuple[str, ...]) -> str:
    for name in names[:-1]:
        if abs(value) < base:
            return f"{value:.3g}{name}"
        value /= base
    return f"{value:.3g}{names[-1]}"


def _seconds(value: float) -> str:
    if value == 0 or _MINUTE * 2 > value >= 1:
        return f"{value:.3g} s"
    if value < 1:
        return f"{value * 1000:.3g} ms"
    return f"{value / _MINUTE:.3g} min" if value < _MINUTE * _MINUTE else f"{value / _MINUTE / _MINUTE:.3g} h"


def _save(figure: Figure, path: Path) -> None:
    raw = io.BytesIO()
    figure.savefig(raw, format="png", dpi=_DPI)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.open(raw).convert("RGB").quantize(_COLOURS).save(path, optimize=True)
