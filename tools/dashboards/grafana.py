"""Dashboards as Grafana reads them, made with Grafana's own builders."""

from __future__ import annotations

import itertools
import json
from typing import TYPE_CHECKING, Final, TypeAlias

from grafana_foundation_sdk.builders import common, heatmap, prometheus, stat, statushistory, timeseries
from grafana_foundation_sdk.builders import dashboard as build
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import dashboard as model
from grafana_foundation_sdk.models.common import (
    BigValueColorMode,
    BigValueGraphMode,
    GraphThresholdsStyleMode,
    LegendDisplayMode,
    LegendPlacement,
    StackingMode,
    VisibilityMode,
)
from grafana_foundation_sdk.models.heatmap import HeatmapColorMode
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

from dashboards.panels import Colour, Kind

if TYPE_CHECKING:
    from dashboards.panels import Board, Panel, Variable

SOURCE: Final = model.DataSourceRef(type_val="prometheus", uid="${source}")
RUNBOOKS: Final = "/public/runbooks"
"""Where Grafana itself serves docs/runbooks in deploy/compose.observability.yaml; a variable of each dashboard."""
_Builder: TypeAlias = timeseries.Panel | stat.Panel | heatmap.Panel | statushistory.Panel


def to_json(board: Board) -> str:
    """Return a dashboard's JSON: the same text for the same dashboard."""
    made = _made(board).build()
    return json.dumps(made, cls=JSONEncoder, sort_keys=True, indent=1, ensure_ascii=False) + "\n"


def _made(board: Board) -> build.Dashboard:
    made = (
        build.Dashboard(board.title)
        .uid(board.uid)
        .description(board.about)
        .tags(["qonduit"])
        .readonly()
        .tooltip(model.DashboardCursorSync.CROSSHAIR)
        .time("now-1h", "now")
        .refresh("30s")
        .timezone("browser")
        .link(_others())
        .with_variable(build.DatasourceVariable("source").label("Prometheus").type("prometheus"))
        .with_variable(build.ConstantVariable("runbooks").label("Where the runbooks are").value(RUNBOOKS))
    )
    for variable in board.variables:
        made.with_variable(_variable(variable))
    numbers = itertools.count(1)
    for row in board.rows:
        made.with_row(build.Row(row.title).id(next(numbers)))
        for panel in row.panels:
            made.with_panel(_panel(panel).id(next(numbers)))
    return made


def _others() -> build.DashboardLink:
    return (
        build.DashboardLink("Qonduit")
        .type(model.DashboardLinkType.DASHBOARDS)
        .tags(["qonduit"])
        .as_dropdown(as_dropdown=True)
        .keep_time(keep_time=True)
    )


def _variable(variable: Variable) -> build.QueryVariable:
    everything = model.VariableOption(text="All", value="$__all", selected=True)
    return (
        build.QueryVariable(variable.name)
        .label(variable.title)
        .query(f"label_values({variable.metric}, {variable.label})")
        .datasource(SOURCE)
        .refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(model.VariableSort.ALPHABETICAL_ASC)
        .multi(multi=True)
        .include_all(include_all=True)
        .all_value(".+")
        .current(everything)
    )


def _panel(panel: Panel) -> _Builder:
    made = _of_kind(panel)
    empty = "".join(f" May be empty: {query.empty}" for query in panel.queries if query.empty)
    made.title(panel.title).description(panel.about + empty).datasource(SOURCE)
    if not isinstance(made, heatmap.Panel):  # There the unit is that of the rows, not of the cells.
        made.unit(panel.unit.value)
    made.span(panel.width).height(panel.height)
    made.thresholds(_thresholds(panel))
    if panel.maximum is not None:
        made.min(0).max(panel.maximum)
    elif panel.kind is not Kind.NUMBER:
        made.min(0)
    made.links([_runbook(alert) for alert in panel.alerts])
    for letter, query in zip("ABCDEFGH", panel.queries, strict=False):
        target = prometheus.Dataquery().ref_id(letter).expr(query.expr).legend_format(query.legend).range()
        made.with_target(target.format(PromQueryFormat.HEATMAP) if panel.kind is Kind.BUCKETS else target)
    return made


def _of_kind(panel: Panel) -> _Builder:
    if panel.kind is Kind.NUMBER:
        last = common.ReduceDataOptions().calcs(["lastNotNull"])
        return stat.Panel().reduce_options(last).graph_mode(BigValueGraphMode.AREA).color_mode(BigValueColorMode.VALUE)
    if panel.kind is Kind.BUCKETS:
        colours = heatmap.HeatmapColorOptions().mode(HeatmapColorMode.SCHEME).scheme("Viridis")
        axis = heatmap.YAxisConfig().unit(panel.unit.value)
        return heatmap.Panel().calculate(calculate=False).color(colours).cell_gap(1).y_axis(axis)
    if panel.kind is Kind.ROWS:
        colour = build.FieldColor().mode(model.FieldColorModeId.CONTINUOUS_GR_YL_RD)
        return statushistory.Panel().show_value(VisibilityMode.NEVER).row_height(0.9).color_scheme(colour)
    legend = common.VizLegendOptions().display_mode(LegendDisplayMode.LIST).placement(LegendPlacement.BOTTOM)
    lines = timeseries.Panel().legend(legend.show_legend(show_legend=True)).line_width(1)
    if panel.kind is Kind.STACKED:
        return lines.fill_opacity(60).stacking(common.StackingConfig().mode(StackingMode.NORMAL).group("A"))
    if panel.thresholds:
        style = common.GraphThresholdsStyleConfig().mode(GraphThresholdsStyleMode.DASHED)
        lines.thresholds_style(style)
    return lines.fill_opacity(8)


def _thresholds(panel: Panel) -> build.ThresholdsConfig:
    lowest = Colour.BAD if panel.low_is_bad else Colour.WELL
    steps = [model.Threshold(value=None, color=lowest.value)]
    steps += [model.Threshold(value=step.value, color=step.colour.value) for step in panel.thresholds]
    return build.ThresholdsConfig().mode(model.ThresholdsMode.ABSOLUTE).steps(steps)


def _runbook(alert: str) -> build.DashboardLink:
    made = build.DashboardLink(f"Runbook: {alert}").type(model.DashboardLinkType.LINK)
    return made.url(f"${{runbooks}}/{alert}.md").target_blank(target_blank=True)
