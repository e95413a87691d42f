"""Networks by cost and accuracy: those of searches, random ones, released ones, in one plane where they compare."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hardware.latency import network_ms
from proxyless_arch.apps.scores import shown_score
from proxyless_arch.arch import catalog
from proxyless_arch.arch.walk import walk
from proxyless_arch.base.errors import InputError
from search.reporting.charts import Chart, Point, plane, series_color
from search.reporting.history import cost_axis, target_of
from search.reporting.run_folder import SPEC_FILE, Run
from search.reporting.trainings import unlike


@dataclass(frozen=True, kw_only=True)
class Plane:
    """The plane of some runs, or why there is none; ``note`` says what is in it and what is not."""

    title: str
    chart: Chart | None
    note: str


@dataclass(frozen=True)
class PublishedPoint:
    """A released network in the latency-accuracy plane: accuracy as published, cost as predicted for this run."""

    name: str
    cost: float
    top1_percent: float


def published_points(run: Run) -> list[PublishedPoint]:
    """The released networks, when their published ImageNet accuracy can be compared with this run's; else none."""
    if run.settings["dataset"] != "imagenet" or run.unit is None or run.table is None:
        return []
    points = []
    for name in catalog.names():
        calls = walk(catalog.load(name))
        try:
            cost = network_ms(run.source, calls) if run.source is not None else float(sum(call.macs for call in calls))
        except InputError:  # a table without its layers
            continue
        points.append(PublishedPoint(name, cost, catalog.release(name).top1_percent))
    return points


def accuracy_of(result: Mapping[str, Any]) -> float | None:
    """On the test images, in percent; None where the network was not scored."""
    return result.get("finetuned_test_top1_percent", result.get("test_top1_percent"))


def networks_of(run: Run) -> list[tuple[str, float, float | None]]:
    """(spec file, cost, test accuracy in percent where the run has one) of what a finished run made."""
    assert run.result is not None
    if run.is_random:
        return [(entry.get("spec", ""), entry["cost"], accuracy_of(entry)) for entry in run.result["networks"]]
    return [(SPEC_FILE, run.predicted, accuracy_of(run.result))] if run.predicted is not None else []


def plane_of(runs: Sequence[Run]) -> Plane | None:
    """The plane of the runs' networks; None where cost was no matter or there is no network."""
    run = runs[0]
    if run.unit is None:
        return None
    title = f"{run.unit if run.unit.is_counted else 'Latency'} and accuracy"
    different = _apart(runs)
    if different is not None:
        note = f"Not drawn: the runs differ in their {different}, so their networks cannot share the axes."
        return Plane(title=title, chart=None, note=note)
    own = [point for index, each in enumerate(runs) for point in _points(each, series_color(index), len(runs) > 1)]
    released = _released(run)
    if not own and not released:
        return None
    # beside whole networks, what a supernet scores would only squeeze the axis
    trail = _trail(run) if len(runs) == 1 and not released else []
    goals = {each.target for each in runs}
    chart = plane(
        title, [*own, *released], x_label=cost_axis(run.unit).label, y_label="top-1 (%)", trail=trail,
        target=target_of(goals.pop(), run.unit) if len(goals) == 1 else None,
    )  # fmt: skip
    controls = any(point.kind == "control" for point in own)
    notes = [_trail_note(bool(trail)), _released_note(run, bool(released)), *_control_notes(runs, controls)]
    return Plane(title=title, chart=chart, note=" ".join(filter(None, [*notes, *_training_notes(runs)])))


def _apart(runs: Sequence[Run]) -> str | None:
    """Why networks of these runs cannot share a plane; None when they can."""
    for what, values in (
        ("data set", {(run.settings["dataset"], run.settings.get("data_path")) for run in runs}),
        ("unit of cost", {run.unit for run in runs}),
        ("target hardware", {run.settings["target_hardware"] for run in runs}),
        ("latency file", {run.settings.get("latency_table") for run in runs}),
        ("resolution", {run.settings.get("resolution") for run in runs}),
    ):
        if len(values) > 1:
            return what
    return None


def _points(run: Run, color: str, named: bool) -> list[Point]:
    """What a run adds to the plane: its derived network, or its random controls where their accuracy is known."""
    if run.result is None or run.unit is None:
        return []
    axis = cost_axis(run.unit)

    def point(file: str, cost: float, accuracy: float, n_images: int | None, label: str, how: str) -> Point:
        kind = "run" if run.is_searched else "control"
        name = f"{run.name}, {file}" if run.is_random else run.name
        tip = f"{name}: {axis.shown(cost * axis.factor)}, {how} {shown_score(accuracy, n_images, 'test images')}"
        return Point(label=label, x=cost * axis.factor, y=accuracy, kind=kind, color=color, tip=tip)

    points = []
    for file, cost, accuracy in networks_of(run):
        label = run.name if named and not run.is_random else ""
        if accuracy is not None:
            points.append(point(file, cost, accuracy, run.result.get("n_test_images"), label, "top-1"))
        for each in run.trained.get(file, ()):
            label = f"{run.name}, trained" if not run.is_random else ""
            points.append(point(file, cost, each.top1_percent, each.n_images, label, f"{each.text()}: top-1"))
    return points


def _released(run: Run) -> list[Point]:
    axis = cost_axis(run.unit)
    return [
        Point(
            label=each.name, x=each.cost * axis.factor, y=each.top1_percent, kind="published", color="s7",
            tip=f"{each.name}: {axis.shown(each.cost * axis.factor)} predicted, {each.top1_percent} % published",
        )
        for each in published_points(run)
    ]  # fmt: skip


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


# --------------------------------------------------------------------------------------------------------- notes


def _trail_note(trail: bool) -> str:
    return (
        "The thin line is the way of the search: the expected cost and the validation accuracy of sampled networks "
        "inside the supernet, epoch by epoch."
        if trail
        else ""
    )


def _released_note(run: Run, released: bool) -> str:
    if released:
        return (
            "Released networks: published ImageNet accuracy after full training, cost predicted by this run's own "
            "source. Searched networks have inherited weights unless fine-tuned: train them before comparing accuracy."
        )
    dataset = run.settings["dataset"]
    why = "their cost by this run's source is not known" if dataset == "imagenet" else f"this search ran on {dataset}"
    return f"Released networks are not shown: their published accuracy is on ImageNet, and {why}."


def _control_notes(runs: Sequence[Run], shown: bool) -> list[str]:
    if shown:
        return []
    if any(run.is_random for run in runs):
        why = (
            "the accuracy of these is not known; train some with train.py and give search/report.py their run folders "
            "after --trained."
        )
    else:
        why = "give search/report.py runs of --arch_algo random, or of 0 search epochs, beside this one."
    return [f"Random controls are not shown: {why}"]


def _training_notes(runs: Sequence[Run]) -> list[str]:
    trained = [each for run in runs for found in run.trained.values() for each in found]
    if not trained:
        return []
    notes = ["Trained networks: test accuracy after train.py; the tips say for how long."]
    differ, unknown = unlike(trained)
    if differ:
        notes.append(f"They were not trained alike, so do not compare them: they differ in {', '.join(differ)}.")
    if unknown:
        words = "Whether they were trained alike is not known: of older runs some settings were not recorded:"
        notes.append(f"{words} {', '.join(unknown)}.")
    if any(run.is_searched and not run.trained for run in runs):
        notes.append("A searched network that was not trained so has the weights it inherited: train it too.")
    return notes
