"""What an expression's values are measured in, found from the names of its metrics and what is done with them.

A dimension is a triple of powers: of seconds, of bytes, of things counted. A counter of seconds is (1, 0, 0), its rate
(0, 0, 0): a share, or cores. A counter of calls is (0, 0, 1), its rate (-1, 0, 1).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeAlias

import promql_parser as promql

from dashboards.panels import Unit

if TYPE_CHECKING:
    from collections.abc import Mapping

Dimension: TypeAlias = tuple[int, int, int]
SECONDS: Final[Dimension] = (1, 0, 0)
BYTES: Final[Dimension] = (0, 1, 0)
THINGS: Final[Dimension] = (0, 0, 1)
NOTHING: Final[Dimension] = (0, 0, 0)
OF_UNIT: Final[Mapping[str, Dimension]] = {
    Unit.COUNT.value: THINGS,
    Unit.PER_SECOND.value: (-1, 0, 1),
    Unit.SECONDS.value: SECONDS,
    Unit.BYTES.value: BYTES,
    Unit.BYTES_PER_SECOND.value: (-1, 1, 0),
    Unit.RATIO.value: NOTHING,
    Unit.CORES.value: NOTHING,
    Unit.DEVICES.value: NOTHING,
}
_PER_SECOND: Final = frozenset({"rate", "irate", "deriv"})


class Dimensions:
    """Knows the recording rules, whose dimension is that of what they record."""

    def __init__(self, recorded: Mapping[str, str]) -> None:
        self._recorded = recorded

    def of(self, expr: str, *, rows: bool = False) -> Dimension | None:
        """Return an expression's dimension; None for a plain number. With `rows`, that of a histogram's bounds."""
        node = promql.parse(expr)
        return _of_bounds(node) if rows else self._of(node)

    def _of(self, node: promql.Expr) -> Dimension | None:
        if isinstance(node, promql.VectorSelector | promql.MatrixSelector):
            return self._of_selector(node if isinstance(node, promql.VectorSelector) else node.vector_selector)
        if isinstance(node, promql.Call):
            return self._of_call(node)
        if isinstance(node, promql.BinaryExpr):
            return self._of_binary(node)
        if isinstance(node, promql.AggregateExpr):
            return THINGS if str(node.op) == "count" else self._of(node.expr)
        if isinstance(node, promql.ParenExpr | promql.UnaryExpr | promql.SubqueryExpr):
            return self._of(node.expr)
        return None

    def _of_selector(self, node: promql.VectorSelector) -> Dimension | None:
        name = node.name or ""
        if any(each.name == "resource" and each.value == "memory" for each in node.matchers.matchers):
            return BYTES
        return self._of(promql.parse(self._recorded[name])) if name in self._recorded else _of_name(name)

    def _of_call(self, node: promql.Call) -> Dimension | None:
        if node.func.name == "histogram_quantile":
            return _of_bounds(node)
        found = next((of for of in map(self._of, node.args) if of is not None), None)
        return _times(found, SECONDS, -1) if node.func.name in _PER_SECOND else found

    def _of_binary(self, node: promql.BinaryExpr) -> Dimension | None:
        left, right = self._of(node.lhs), self._of(node.rhs)
        operator = str(node.op)
        if operator == "/":
            return _times(left, right, -1)
        if operator == "*":
            return _times(left, right, 1)
        return right if left is None else left


def _of_bounds(node: promql.Expr) -> Dimension:
    """Return what the bounds of the histogram that an expression asks for are measured in."""
    names: list[str] = []

    def visit(each: promql.Expr) -> None:
        if isinstance(each, promql.VectorSelector) and each.name:
            names.append(each.name)

    promql.walk(node, visit)
    return _of_name(names[0].removesuffix("_bucket"))


def _of_name(name: str) -> Dimension:
    if name.endswith(("_bucket", "_count")):
        return THINGS
    base = name.removesuffix("_sum").removesuffix("_total")
    if base.endswith("_seconds"):
        return SECONDS
    if base.endswith("_bytes"):
        return BYTES
    return NOTHING if base.endswith("_cores") else THINGS


def _times(left: Dimension | None, right: Dimension | None, power: int) -> Dimension | None:
    if left is None and right is None:
        return None
    a, b = left or NOTHING, right or NOTHING
    return (a[0] + power * b[0], a[1] + power * b[1], a[2] + power * b[2])
