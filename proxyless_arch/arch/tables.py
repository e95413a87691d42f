"""A network as a table that a person reads in a terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence

from proxyless_arch.arch.ops import Hwc
from proxyless_arch.arch.spec import ArchSpec
from proxyless_arch.arch.walk import LayerCall, walk
from proxyless_arch.base.strict import counted
from proxyless_arch.base.text import align, ruled

MAX_COLUMNS = 100
WORDS = range(4)
"""Columns of the table of layers that hold names and sizes."""
CONSTANT = "constant"
_UNITS = ("", " k", " M", " G")


def format_count(count: float) -> str:
    """A count in about four digits: ``950``, ``4.08 M``, ``320.4 M``; from 1e12 on ``2.2e17``."""
    scaled = float(count)
    if abs(scaled) < 1000 and scaled.is_integer():
        return str(int(scaled))
    for unit in _UNITS:
        text = f"{scaled:.1f}" if abs(scaled) >= 99.995 else f"{scaled:.2f}"
        if abs(float(text)) < 1000:
            return text + unit
        scaled /= 1000
    return f"{count:.1e}".replace("e+", "e")


def cost_decimals(cost: float) -> int:
    """Decimals of a latency in ms: two, or as many as three significant digits take (``0.0819``)."""
    return 2 - math.floor(math.log10(abs(cost))) if 0 < abs(cost) < 1 else 2


def format_cost(cost: float, unit: str) -> str:
    """A cost with its unit: ``78.00 ms``, ``0.0819 ms``, ``320.4 M MACs``."""
    return f"{format_count(cost)} MACs" if unit == "MACs" else f"{cost:.{cost_decimals(cost)}f} {unit}"


def check_costs(calls: Sequence[LayerCall], costs: Sequence[float] | None) -> None:
    """ValueError when ``costs`` does not hold one number per layer of ``walk(spec)``, or that and a constant."""
    if costs is not None and len(costs) not in (len(calls), len(calls) + 1):
        raise ValueError(f"costs: expected one per layer of walk(spec), that is {len(calls)}, got {len(costs)}")


def describe(
    spec: ArchSpec, resolution: int | None = None, costs: Sequence[float] | None = None, unit: str = "ms"
) -> str:
    """The architecture as a plain-text table, one line per layer and a line of totals, within 100 columns.

    Args:
        spec: the network.
        resolution: input pixels; by default the spec's own.
        costs: one predicted cost per layer of ``walk(spec, resolution)``, in ``unit``, and behind them, where there is
            one, a constant that is no layer's; the last column is then the share of their sum. Without costs (and
            when ``unit`` is "MACs") it is the share of the MACs.
        unit: unit of ``costs``, for example "ms".

    Raises:
        ValueError: ``costs`` has another length than the network has layers.
    """
    calls = walk(spec, resolution)
    check_costs(calls, costs)
    vanished = sum(block.op.vanishes for block in spec.blocks)
    name = spec.name if len(spec.name) <= 40 else spec.name[:37] + "..."
    skipped = f" ({vanished} skipped)" if vanished else ""
    n_classes = counted(spec.num_classes, "class", "classes")
    caption = f"{name}: {counted(len(spec.blocks), 'block')}{skipped}, {calls[0].in_hwc[0]} px, {n_classes}"
    lines = align(_cells(calls, costs, unit, exact=True), WORDS)
    if len(lines[0]) > MAX_COLUMNS:
        lines = align(_cells(calls, costs, unit, exact=False), WORDS)
    body = ruled(lines, totals=True)
    return "\n".join([caption, body[1], *body])


def _cells(calls: Sequence[LayerCall], costs: Sequence[float] | None, unit: str, exact: bool) -> list[tuple[str, ...]]:
    """Header, layers and totals as text cells; counts to the digit when ``exact``, else in four digits."""
    weights = costs if costs is not None else [call.macs for call in calls]
    total = sum(weights)
    priced = costs is not None and unit != "MACs"
    decimals = cost_decimals(total)

    def numbers(params_: int, macs_: int, weight: float) -> tuple[str, ...]:
        return (*(f"{count:,}" if exact else format_count(count) for count in (params_, macs_)), *weighed(weight))

    def weighed(weight: float) -> tuple[str, ...]:
        cost = [f"{weight:,.{decimals}f}"] if priced else []
        return (*cost, f"{100 * weight / total:.1f} %" if total > 0 else "-")

    rows: list[tuple[str, ...]] = [("layer", "op", "input", "output", "params", "MACs", *([unit] * priced), "share")]
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
