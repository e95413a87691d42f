"""How a search went, epoch by epoch, from the records of its metrics.jsonl (search/run/log.py): the same charts for the
report and for search.png."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from proxyless_arch.arch.draw import with_times
from proxyless_arch.base.units import Unit
from proxyless_arch.drawing.axes import PERCENT, Axis, Phase
from proxyless_arch.drawing.charts import FRAME, Chart, Series, Target, compose, line_chart
from proxyless_arch.drawing.scene import Entry, Text, write_picture
from search.reporting.heat_map import HeatRow, heat_map

Records = Sequence[Mapping[str, Any]]
SEARCHES = ("search", "predictor")
"""The phases in which an architecture is chosen."""
PHASE_NAMES = {"warmup": "warm-up", "finetune": "fine-tune"}
SAME_PROBABILITY = 1e-3  # a block whose choices differ by less is undecided
OVERRULED = Entry("chosen to meet the target, not leading", Text(2, 11, "0.0", style="other"))


def phase_name(phase: str) -> str:
    return PHASE_NAMES.get(phase, phase)


def phases_of(records: Records) -> list[Phase]:
    """The phases of the run, by epochs counted from 1. The charts are about the search, if there was one."""
    found, first = [], 1
    for phase, group in groupby(records, key=lambda record: record["phase"]):
        last = first + len(list(group)) - 1
        found.append(Phase(name=phase_name(phase), first=first, last=last, aside=phase not in SEARCHES))
        first = last + 1
    return found


def column(records: Records, field: str, scale: float = 1.0) -> list[float | None]:
    """One field over the epochs; None where it is not known."""
    return [None if record.get(field) is None else record[field] * scale for record in records]


@dataclass(frozen=True)
class CostAxis:
    """Costs on an axis: times ``factor``, under ``label``, each written as ``shown`` does."""

    factor: float
    name: str
    label: str
    shown: Callable[[float], str]


def cost_axis(unit: Unit | None) -> CostAxis:
    """Counts are shown in millions."""
    if unit is not None and unit.is_counted:
        return CostAxis(1e-6, unit.quantity, f"million {unit}", lambda value: f"{value:.4g} million {unit}")
    return CostAxis(1.0, "latency", "predicted latency (ms)", lambda value: f"{value:.4g} ms")


def cost_text(cost: float, unit: Unit | None) -> str:
    """A cost in four digits: ``1.895 ms``, ``5.00 M MACs``."""
    return unit.short(cost) if unit is not None and unit.is_counted else f"{cost:.4g} ms"


def target_of(cost: float | None, unit: Unit | None) -> Target | None:
    """What was asked for, on the axis of ``unit``."""
    if cost is None:
        return None
    return Target(value=cost * cost_axis(unit).factor, label=f"target: {cost_text(cost, unit)}")


def choice_name(label: str) -> str:
    """The label of an operation beside others of its block, which share its stride."""
    return with_times(label.removesuffix(" s2").removeprefix("-- "))


# ------------------------------------------------------------------------------------------------------ the charts


def cost_chart(records: Records, target: float | None, unit: Unit) -> Chart:
    """The cost on its way to the target."""
    axis = cost_axis(unit)
    name = axis.name[0].upper() + axis.name[1:]
    return line_chart(
        name + (", approaching the target" if target is not None else ""),
        [
            Series(label="mean of the sampled networks", values=column(records, "expected_cost", axis.factor)),
            Series(label="most probable network", values=column(records, "argmax_cost", axis.factor), color="s2"),
        ],
        y=Axis(label=axis.label), shown=axis.shown, phases=phases_of(records), target=target_of(target, unit),
    )  # fmt: skip


def learning_charts(records: Records) -> list[Chart]:
    """Accuracy and loss of the networks sampled."""
    scores = (
        ("Accuracy of sampled networks", "top1_percent", "top-1 (%)", "{:.2f} %", True),
        ("Loss of sampled networks", "loss", "cross-entropy (nats)", "{:.3f}", False),
    )
    return [
        line_chart(
            title,
            [
                Series(label="training images", values=column(records, f"train_{field}")),
                Series(label="validation images", values=column(records, f"valid_{field}"), color="s2"),
            ],
            y=Axis(label=label, bounds=PERCENT) if is_percent else Axis(label=label), shown=shown.format,
            phases=phases_of(records), from_zero=is_percent,
        )
        for title, field, label, shown, is_percent in scores
    ]  # fmt: skip


def inner_charts(records: Records) -> list[Chart]:
    """What goes on inside the search: how undecided it is, and the weight that the target has."""
    phases = phases_of(records)
    return [
        line_chart(
            "Entropy of the choices",
            [Series(label="entropy", values=column(records, "entropy"))],
            y=Axis(label="nats, all blocks"), shown="{:.3f} nats".format, phases=phases, from_zero=True,
        ),
        line_chart(
            "Lambda, the weight of the target",
            [Series(label="lambda", values=column(records, "lambda"))],
            y=Axis(label="lambda"), shown="{:.4g}".format, phases=phases, may_be_log=True,
        ),
    ]  # fmt: skip


def choice_map(title: str, labels: Sequence[str], rows: Sequence[Sequence[float]], phases: Sequence[Phase]) -> Chart:
    """The probabilities of one block's choices, a row each; the leading one stands out where one leads."""
    last = [values[-1] for values in rows]
    leader = last.index(max(last)) if max(last) - min(last) > SAME_PROBABILITY else None
    return heat_map(
        title,
        [
            HeatRow(
                label=label, values=values, last=_percent(values[-1]),
                style="choice lead" if index == leader else "choice",
                tip=f"{label}: {_percent(values[0])} in the first epoch, {_percent(values[-1])} in the last",
            )
            for index, (label, values) in enumerate(zip(labels, rows, strict=True))
        ],
        phases,
    )  # fmt: skip


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %" if 0.0005 <= share < 0.9995 else "100 %" if share > 0.5 else "0 %"


def leading_map(
    records: Records,
    labels: Sequence[Sequence[str]] | None,
    chosen: Sequence[int] | None,
    places: Sequence[int] | None = None,
) -> Chart:
    """One row per block: how probable its leading choice was, and at the end of the row which choice was taken.

    ``places``: which blocks of the network they are (SearchSpace.places); by default those from the second on.
    ``chosen``: the choices of the derived network; one that does not lead is named in the leader's stead, in another
    color and with its own probability.
    """
    title = "Probability of each block's leading operation"
    columns = [record.get("probabilities") or [] for record in records]
    n_blocks = max(map(len, columns), default=0)
    if not n_blocks:
        return line_chart(title, [], y=Axis(label=""), shown=str)
    final, rows = next(each for each in reversed(columns) if each), []
    for block, probabilities in enumerate(final):
        leader = probabilities.index(max(probabilities))
        choice = leader if chosen is None else chosen[block]
        name = choice_name(labels[block][choice]) if labels else f"choice {choice}"
        undecided = min(probabilities) == max(probabilities)
        rows.append(
            HeatRow(
                label=str(places[block] if places else block + 1),
                values=[max(each[block]) if block < len(each) else None for each in columns],
                last="undecided" if undecided else f"{name} {probabilities[choice]:.2f}",
                style="choice" if undecided else "name" if probabilities[choice] == max(probabilities) else "other",
            )
        )
    entries = [OVERRULED] if any(row.style == "other" for row in rows) else []
    return heat_map(title, rows, phases_of(records), width=FRAME.width, label_width=26, last_width=110, entries=entries)


def draw_search(
    records: Records,
    path: str | os.PathLike[str],
    *,
    target: float | None,
    unit: Unit,
    labels: Sequence[Sequence[str]] | None = None,
    chosen: Sequence[int] | None = None,
    places: Sequence[int] | None = None,
    title: str = "",
) -> None:
    """Draw how a search went: cost against target, learning, each block's leading operation.

    Args:
        records: oldest first; may be empty. Fields that are None leave a gap.
        path: the picture to write, ``.png`` or ``.svg``; an earlier file is replaced only by a whole new one.
        target: the cost asked for, in ``unit``, or None.
        unit: unit of the costs.
        labels: per block, the name of each choice (``op_label``). ``chosen``, ``places``: see leading_map.
        title: over the panels.

    Raises:
        InputError: another suffix. OSError: it cannot be written.
    """
    leading = leading_map(records, labels, chosen, places)
    charts = [cost_chart(records, target, unit), *learning_charts(records), leading]
    write_picture(compose(title, charts, columns=2), path)
