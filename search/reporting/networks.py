"""Networks by cost and accuracy: those of searches, random ones, released ones, in one plane where they compare."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any

from hardware.latency import network_ms
from proxyless_arch.apps.scores import score_interval, shown_score
from proxyless_arch.arch import catalog
from proxyless_arch.arch.walk import walk
from proxyless_arch.base.errors import InputError
from proxyless_arch.drawing.axes import PERCENT, Axis
from proxyless_arch.drawing.charts import Chart, Guide, Point, plane, series_color
from proxyless_arch.weights.lookup import SPEC_FILE
from search.reporting.history import cost_axis, target_of
from search.reporting.run_folder import Run
from search.reporting.titles import title_of
from search.reporting.trainings import unlike

SEARCHED, RANDOM, RELEASED = "searched network", "random network", "released network"  # groups of points


@dataclass(frozen=True, kw_only=True)
class Plane:
    """The plane of some runs, and what its note has to say: templates/plane.html.

    ``chart``: None where the runs are ``different`` in something, so that their networks cannot share the axes.
    ``groups``: of the points that are there; ``bars``: whether some show how uncertain their accuracy is. ``unlike``,
    ``unknown``: of the trainings, see trainings.unlike.
    """

    title: str
    chart: Chart | None = None
    different: str = ""
    groups: frozenset[str] = frozenset()
    bars: bool = False
    trail: bool = False
    trained: bool = False
    unlike: Sequence[str] = ()
    unknown: Sequence[str] = ()
    untrained: bool = False


def accuracy_of(result: Mapping[str, Any]) -> float | None:
    """On the test images, in percent; None where the network was not scored."""
    tuned = result.get("finetuned_test_top1_percent")
    return result.get("test_top1_percent") if tuned is None else tuned


def networks_of(run: Run) -> list[tuple[str, float, float | None]]:
    """(spec file, cost, test accuracy in percent where the run has one) of what a finished run made."""
    assert run.result is not None
    if run.is_random:
        return [(entry.get("spec") or "", entry["cost"], accuracy_of(entry)) for entry in run.result["networks"]]
    return [(SPEC_FILE, run.predicted, accuracy_of(run.result))] if run.predicted is not None else []


def plane_of(runs: Sequence[Run]) -> Plane | None:
    """The plane of the runs' networks; None where cost was no matter or there is no network."""
    run = runs[0]
    if run.unit is None:
        return None
    title = f"{run.unit if run.unit.is_counted else 'Latency'} and accuracy"
    different = _different(runs)
    if different:
        return Plane(title=title, different=different)
    own = [point for index, each in enumerate(runs) for point in _points(each, series_color(index), len(runs) > 1)]
    released = released_points(run)
    if not own and not released:
        return None
    goals = {each.target for each in runs}
    target = target_of(goals.pop(), run.unit) if len(goals) == 1 else None
    guides = [Guide(points=[(target.value, -inf), (target.value, inf)], label=target.label)] if target else []
    trained = [each for run in runs for found in run.trained.values() for each in found]
    # beside whole networks, what a supernet scores would only squeeze the axis
    trail = _trail(run) if len(runs) == 1 and not released and not trained else []
    trail = trail if len(trail) > 1 else []
    differ, unknown = unlike(trained)
    return Plane(
        title=title,
        chart=plane(
            title, [*own, *released], x=Axis(label=cost_axis(run.unit).label, bounds=(0.0, inf), span=0.1),
            y=Axis(label="top-1 (%)", bounds=PERCENT), trail=trail, guides=guides,
        ),
        groups=frozenset(point.group for point in (*own, *released)),
        bars=any(point.y_range is not None for point in own),
        trail=bool(trail),
        trained=bool(trained),
        unlike=differ,
        unknown=unknown,
        untrained=any(each.is_searched and not each.trained for each in runs),
    )  # fmt: skip


def _different(runs: Sequence[Run]) -> str:
    """In what the runs differ so that their networks cannot share a plane; "" when they can."""
    for what, values in (
        ("data set", {(run.settings["dataset"], run.settings.get("data_path")) for run in runs}),
        ("unit of cost", {run.unit for run in runs}),
        ("target hardware", {run.settings["target_hardware"] for run in runs}),
        ("latency file", {run.settings.get("latency_table") for run in runs}),
        ("resolution", {run.settings.get("resolution") for run in runs}),
    ):
        if len(values) > 1:
            return what
    return ""


def _points(run: Run, color: str, named: bool) -> list[Point]:
    """What a run adds to the plane: its derived network, or its random controls where their accuracy is known."""
    if run.result is None or run.unit is None:
        return []
    axis = cost_axis(run.unit)

    def point(file: str, cost: float, accuracy: float, n_images: int | None, label: str, how: str) -> Point:
        group, mark = (SEARCHED, "circle") if run.is_searched else (RANDOM, "diamond")
        name = f"{title_of(run)}, {file}" if run.is_random else title_of(run)
        tip = f"{name}: {axis.shown(cost * axis.factor)}, {how} {shown_score(accuracy, n_images, 'test images')}"
        return Point(
            x=cost * axis.factor, y=accuracy, group=group, label=label, mark=mark, color=color, tip=tip,
            y_range=score_interval(accuracy, n_images) if n_images else None,
        )  # fmt: skip

    points = []
    for file, cost, accuracy in networks_of(run):
        label = title_of(run) if named and not run.is_random else ""
        if accuracy is not None:
            points.append(point(file, cost, accuracy, run.result.get("n_test_images"), label, "top-1"))
        for each in run.trained.get(file, ()):
            label = f"{title_of(run)}, trained" if not run.is_random else ""
            points.append(point(file, cost, each.top1_percent, each.n_images, label, f"{each.text()}: top-1"))
    return points


def released_points(run: Run) -> list[Point]:
    """The released networks: accuracy as published, cost as predicted for this run; none where they do not compare."""
    if run.settings["dataset"] != "imagenet" or run.unit is None or run.table is None:
        return []
    axis, points = cost_axis(run.unit), []
    for name in catalog.names():
        calls, accuracy = walk(catalog.load(name)), catalog.release(name).top1_percent
        try:
            cost = network_ms(run.source, calls) if run.source is not None else float(sum(call.macs for call in calls))
        except InputError:  # a table without its layers
            continue
        x = cost * axis.factor
        tip = f"{name}: {axis.shown(x)} predicted, {accuracy} % published"
        points.append(Point(x=x, y=accuracy, group=RELEASED, label=name, mark="square", color="s7", tip=tip))
    return points


def _trail(run: Run) -> list[tuple[float, float]]:
    """(expected cost, validation accuracy) of the search, epoch by epoch."""
    factor = cost_axis(run.unit).factor
    return [
        (record["expected_cost"] * factor, record["valid_top1_percent"])
        for record in run.records
        if record["phase"] == "search"
        and record["expected_cost"] is not None
        and record.get("valid_top1_percent") is not None
    ]
