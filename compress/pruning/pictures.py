"""Pictures of a pruning: the network before and after, damage against saving, and the curve of accuracy over cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.pruning.environment import Environment
from hardware.cost import Path as Choices
from proxyless_arch.arch.draw import draw_architectures
from proxyless_arch.arch.spec import ArchSpec
from proxyless_arch.base.units import Unit
from proxyless_arch.drawing.axes import Axis
from proxyless_arch.drawing.charts import Point, compose, plane
from proxyless_arch.drawing.scene import Scene, write_picture

if TYPE_CHECKING:
    from compress.pruning.session import Job

ARCHITECTURE, DAMAGE, CURVE = "architecture.png", "damage.png", "curve.png"
STAGES = (("inherited_test_top1_percent", "pruned", "s2"), ("test_top1_percent", "fine-tuned", "s1"))
"""Members of result.json, what they are, and their colors."""


def draw_plan(job: Job, environment: Environment, path: Choices, spec: ArchSpec, folder: Path) -> None:
    """The network before and after, and where damages were measured each choice in a plane."""
    draw_architectures([("before", job.spec, None), ("pruned", spec, None)], folder / ARCHITECTURE)
    if job.config.method == "exact":
        draw_damage(job, environment, path, folder / DAMAGE)


def draw_damage(job: Job, environment: Environment, path: Choices, file: Path) -> None:
    """What each choice saves, and what it does to the loss when it alone is taken; the chosen ones marked."""
    unit, points = job.table.unit, []
    for group, costs, damages, taken in zip(job.groups, job.table.groups, environment.damages(), path, strict=True):
        for choice, (cost, damage) in enumerate(zip(costs, damages, strict=True)):
            if choice == group.whole or (len(costs) > 100 and choice != taken):
                continue
            is_gone, is_taken = choice > group.whole, choice == taken
            points.append(
                Point(
                    x=costs[group.whole] - cost,
                    y=float(damage),
                    group="chosen" if is_taken else "block left out" if is_gone else "narrower, or a smaller kernel",
                    label=group.layers[0] if is_taken else "",
                    mark="diamond" if is_taken else "triangle" if is_gone else "small",
                    color="s2" if is_taken else "s3" if is_gone else "s1",
                )
            )
    chart = plane(
        "What each choice saves and costs",
        points,
        x=Axis(label=f"saved, {unit}"),
        y=Axis(label="loss added"),
    )
    write_picture(compose("", [chart], 1), file)


def curve(records: Sequence[Mapping[str, Any]], names: Sequence[str], parent: Mapping[str, Any], unit: Unit) -> Scene:
    """Top-1 of the test images over cost: before pruning, pruned, fine-tuned; ``names`` of the networks beside them."""
    is_ms = unit is Unit.MS
    cost = "predicted_latency_ms" if is_ms else "macs"
    points = []
    whole = parent[f"parent_{cost}"]
    if parent["parent_test_top1_percent"] is not None:
        points.append(Point(x=whole, y=parent["parent_test_top1_percent"], group="before", mark="square", color="s3"))
    for record, label in zip(records, names, strict=True):
        stages = STAGES if record["finetune_epochs"] else STAGES[:1]
        for name, group, color in stages:
            beside = label if len(records) > 1 and name == stages[-1][0] else ""
            if record[name] is not None:
                points.append(Point(x=record[cost], y=record[name], group=group, label=beside, color=color))
    chart = plane(
        "Accuracy over cost", points, x=Axis(label="ms, predicted" if is_ms else "MACs"), y=Axis(label="top-1, %")
    )
    return compose("", [chart], 1)
