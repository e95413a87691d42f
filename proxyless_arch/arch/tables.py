"""A network as a table that a person reads in a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from proxyless_arch.arch.ops import Hwc
from proxyless_arch.arch.spec import ArchSpec
from proxyless_arch.arch.walk import LayerCall, walk
from proxyless_arch.base.sides import Sides, as_sides, in_words
from proxyless_arch.base.strict import counted
from proxyless_arch.base.text import align, ruled
from proxyless_arch.base.units import Unit, format_count

MAX_COLUMNS = 100
WORDS = range(4)
"""Columns of the table of layers that hold names and sizes."""
CONSTANT = "constant"


def check_costs(calls: Sequence[LayerCall], costs: Sequence[float] | None) -> None:
    """ValueError when ``costs`` does not hold one number per layer of ``walk(spec)``, or that and a constant."""
    if costs is not None and len(costs) not in (len(calls), len(calls) + 1):
        raise ValueError(f"costs: expected one per layer of walk(spec), that is {len(calls)}, got {len(costs)}")


def describe(
    spec: ArchSpec, resolution: Sides | None = None, costs: Sequence[float] | None = None, unit: Unit = Unit.MS
) -> str:
    """The architecture as a plain-text table, one line per layer and a line of totals, within 100 columns.

    Where names of operations are long, inputs, which are the outputs of the line above, are left out for that.

    Args:
        spec: the network.
        resolution: input pixels; by default the spec's own.
        costs: one predicted cost per layer of ``walk(spec, resolution)``, in ``unit``, and behind them, where there is
            one, a constant that is no layer's; the last column is then the share of their sum. Without costs (and
            where these are MACs themselves) it is the share of the MACs.
        unit: unit of ``costs``.

    Raises:
        ValueError: ``costs`` has another length than the network has layers.
    """
    calls = walk(spec, resolution)
    check_costs(calls, costs)
    vanished = sum(block.op.vanishes for block in spec.blocks)
    size = in_words(as_sides(*calls[0].in_hwc[:2]))
    name = spec.name if len(spec.name) <= 40 else spec.name[:37] + "..."
    skipped = f" ({vanished} skipped)" if vanished else ""
    n_classes = counted(spec.num_classes, "class", "classes")
    caption = f"{name}: {counted(len(spec.blocks), 'block')}{skipped}, {size} px, {n_classes}"
    lines = align(_cells(calls, costs, unit, exact=True), WORDS)
    if len(lines[0]) > MAX_COLUMNS:
        lines = align(_cells(calls, costs, unit, exact=False), WORDS)
    for exact in (True, False):
        if len(lines[0]) > MAX_COLUMNS:
            cells = _cells(calls, costs, unit, exact)
            lines = align([(*row[:2], *row[3:]) for row in cells], WORDS[:-1])
    body = ruled(lines, totals=True)
    return "\n".join([caption, body[1], *body])


def _cells(calls: Sequence[LayerCall], costs: Sequence[float] | None, unit: Unit, exact: bool) -> list[tuple[str, ...]]:
    """Header, layers and totals as text cells; counts to the digit when ``exact``, else in four digits."""
    weights = costs if costs is not None else [call.macs for call in calls]
    total = sum(weights)
    priced = costs is not None and unit is not Unit.MACS
    decimals = unit.decimals(total)

    def numbers(params_: int, macs_: int, weight: float) -> tuple[str, ...]:
        return (*(f"{count:,}" if exact else format_count(count) for count in (params_, macs_)), *weighed(weight))

    def weighed(weight: float) -> tuple[str, ...]:
        cost = [f"{weight:,.{decimals}f}"] if priced else []
        return (*cost, f"{100 * weight / total:.1f} %" if total > 0 else "-")

    rows: list[tuple[str, ...]] = [
        ("layer", "op", "input", "output", "params", "MACs", *([str(unit)] * priced), "share")
    ]
    for call, weight in zip(calls, weights[: len(calls)], strict=True):
        if call.op.vanishes and weight == 0:
            rows.append((call.name, call.op.label, *[""] * (len(rows[0]) - 2)))
        else:
            sizes = _size(call.in_hwc), _size(call.out_hwc)
            rows.append((call.name, call.op.label, *sizes, *numbers(call.params, call.macs, weight)))
    rows += [(CONSTANT, *[""] * 5, *weighed(constant)) for constant in weights[len(calls) :]]
    totals = sum(call.params for call in calls), sum(call.macs for call in calls)
    rows.append(("total", "", "", "", *numbers(*totals, total)))
    return rows


def _size(hwc: Hwc) -> str:
    return "x".join(map(str, hwc))
