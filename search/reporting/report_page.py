"""report.html: a search on one page that holds everything it shows and asks no network for anything."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from proxyless_arch.apps.scores import shown_counts, shown_percent, shown_score
from proxyless_arch.apps.train_settings import TrainConfig
from proxyless_arch.arch import pictures
from proxyless_arch.arch.codec import read_spec
from proxyless_arch.arch.cost import total_macs, total_params
from proxyless_arch.arch.tables import describe, format_cost, format_count, op_label
from proxyless_arch.base.errors import InputError
from proxyless_arch.base.files import write_text
from proxyless_arch.base.runs import format_seconds
from proxyless_arch.base.settings import flags
from search.config import RECIPE_DIR, from_recipe, to_dict
from search.reporting.markup import Markup, joined, tag
from search.reporting.report_blocks import blocks, film, film_data, legend
from search.reporting.report_charts import N_SERIES_COLOURS, Phase, Point, Series, heat_map, line_chart, plane
from search.reporting.run_folder import (
    SPEC_FILE,
    Run,
    TrainedRun,
    frames,
    next_commands,
    phase_name,
    published_points,
    read_run,
    read_trained,
    with_trained,
)

REPORT_FILE = "report.html"
HERE = Path(__file__).parent
POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"
MAX_DRAWN_CONTROLS = 8
INDIFFERENT = frozenset(
    {"recipe", "arch", "manual_seed", "split_seed", "device", "save_every_seconds", "test_batch_size", "n_worker"}
    | {"dataset", "data_path"}  # with_trained has compared the images
)
"""Settings of train.py that need not agree in trainings that are compared; the test images are looked at themselves."""
MINUS, TIMES = "\N{MINUS SIGN}", "\N{MULTIPLICATION SIGN}"


def write_report(
    folder: str | os.PathLike[str], output: str | os.PathLike[str] | None = None, trained: Sequence[Path] = ()
) -> Path:
    """Write the report of one run; returns its path, by default ``report.html`` in the run folder.

    ``trained``: run folders of train.py that trained its network or networks. Raises InputError when a folder is no
    run or has nothing to do with it, or the report cannot be written (nothing is then left).
    """
    (run,) = with_trained([read_run(Path(folder))], list(map(read_trained, trained)))
    return _write(output if output is not None else run.folder / REPORT_FILE, report(run))


def write_comparison(
    folders: Sequence[str | os.PathLike[str]], output: str | os.PathLike[str], trained: Sequence[Path] = ()
) -> Path:
    """Write one page that compares runs. ``trained`` and errors: as for ``write_report``."""
    runs = [read_run(Path(folder)) for folder in folders]
    return _write(output, comparison(with_trained(runs, list(map(read_trained, trained)))))


def write_film(folder: str | os.PathLike[str], output: str | os.PathLike[str]) -> Path:
    """Write the film of a search as an animated GIF.

    Raises InputError when the folder is no run or its choices are not known, or the film cannot be written.
    """
    run = read_run(Path(folder))
    shots = frames(run)
    if not shots or run.space is None:
        raise InputError("holds no architecture to film: no epoch was finished, or it is no search", source=str(folder))
    pictures_of = []
    for shot in shots:
        spec = run.space.spec_for(shot.path, run.name)
        certainty = {f"blocks.{block + 1}": value for block, value in enumerate(shot.confidence)}
        pictures_of.append((f"{run.name}: {shot.caption}", spec, run.costs(spec, shot.scale), certainty))
    with _writing(output):
        pictures.draw_film(pictures_of, output, unit=run.unit or "ms")
    return Path(output)


def _write(output: str | os.PathLike[str], page: str) -> Path:
    with _writing(output):
        write_text(output, page)
    return Path(output)


@contextlib.contextmanager
def _writing(path: str | os.PathLike[str]) -> Iterator[None]:
    """What the system refuses is bad input: another place may work."""
    try:
        yield
    except OSError as error:
        raise InputError(f"cannot be written: {error.strerror or error}", source=str(path)) from None


# ---------------------------------------------------------------------------------------------------- one run


def report(run: Run) -> str:
    """The page of one run as HTML text."""
    if run.is_random:
        title, lead = f"{run.name}: random networks", _random_lead(run)
        sections = [_controls(run), _plane_section([run])]
    else:
        title, lead = run.name, _lead(run)
        sections = [_architecture(run), _probabilities(run), _over_time(run), _plane_section([run])]
    body = [
        tag("header", tag("h1", title), tag("p", lead, class_="lead")),
        tag(
            "main",
            _warnings(run),
            _tiles(run) if not run.is_random else None,
            *sections,
            _commands(run),
            _settings(run),
            _record(run),
        ),
    ]
    return _page(title, body)


def _page(title: str, body: Sequence[Markup]) -> str:
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", http_equiv="Content-Security-Policy", content=POLICY),
        tag("link", rel="icon", href="data:,"),
        tag("title", f"{title} - ProxylessNAS"),
        tag("style", Markup(_asset("report_page.css"))),
    )
    footer = tag("footer", "Made by search/report.py of ProxylessNAS. This file holds all it shows.")
    script = tag("script", Markup(_asset("report_page.js")))
    return f"<!DOCTYPE html>\n{tag('html', head, tag('body', *body, footer, script), lang='en')}\n"


def _asset(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")


def _lead(run: Run) -> Markup:
    dataset = run.settings["dataset"]
    images = "scikit-learn's digits" if dataset == "digits" else str(run.settings.get("data_path") or dataset)
    hardware = run.settings["target_hardware"]
    goal = _cost_text(run, run.target) if run.target is not None else "accuracy alone"
    if run.unit == "ms":
        goal += f" on {hardware}"
    date = str(run.environment.get("date", ""))[:10]
    found = joined(", out of ", _big(run.space.size), " networks") if run.space is not None else None
    return joined(f"Searched for {goal} with {images}", found, f", {date}." if date else ".")


def _big(count: int) -> Markup:
    """A count that may have many digits: ``2.2 x 10^17`` as people write it."""
    if count < 1_000_000:
        return Markup(f"{count:,}")
    mantissa, exponent = f"{count:.1e}".split("e+")
    return joined(f"{mantissa} {TIMES} 10", tag("sup", int(exponent)))


def _random_lead(run: Run) -> str:
    count = len(run.result["networks"]) if run.result is not None else 0
    goal = f" of {_cost_text(run, run.target)}" if run.target is not None else ""
    return f"{count} networks drawn at random at a cost{goal}: what a search must beat to have been worth it."


def _warnings(run: Run) -> Markup | None:
    lines: list[Markup] = []
    if run.result is None:
        if run.records:
            done = run.records[-1]
            where = f"{phase_name(done['phase'])} epoch {done['epoch'] + 1} of {done['n_epochs']}"
            what = f"The last finished epoch is {where}; the page shows what there is until then."
        else:
            what = "No epoch was finished, so there is nothing to show but the settings."
        lines.append(tag("p", tag("strong", "This search did not come to its end. "), what))
    lines += [tag("p", note) for note in run.notes]
    skipped = (run.result or {}).get("unreadable_images")
    if skipped:
        lines.append(tag("p", f"{skipped} images could not be read and were left out."))
    return tag("div", *lines, class_="warning", role="note") if lines else None


def _tiles(run: Run) -> Markup:
    tiles = [_asked(run), _predicted(run), _measured(run)] if run.unit is not None else []
    result = run.result
    if result is not None:
        tuned = "finetuned_test_top1_percent" in result
        test = "finetuned_test_top1_percent" if tuned else "test_top1_percent"
        valid = "finetuned_top1_percent" if tuned else "top1_percent"
        weights = "fine-tuned" if tuned else "weights inherited"
        n_test, n_valid = result.get("n_test_images"), result.get("n_valid_images")
        tiles.append(
            _tile(
                "Test accuracy",
                _exact(test, result[test], shown_percent(result[test], n_test)),
                f"{shown_counts(result[test], n_test, 'test images')}, {weights}; validation ",
                _exact(valid, result[valid], shown_percent(result[valid], n_valid)),
                f" ({shown_counts(result[valid], n_valid)})",
            )
        )
        tiles.append(
            _tile(
                "Size",
                _exact("macs", result["macs"], f"{format_count(result['macs'])}"),
                "MACs, ",
                _exact("params", result["params"], format_count(result["params"])),
                " parameters",
            )
        )
        if "wall_seconds" in result:
            seconds = result["wall_seconds"]
            device = run.environment.get("device", "")
            tiles.append(_tile("Search time", _exact("wall_seconds", seconds, format_seconds(seconds)), device))
    elif run.records:
        accuracy = run.records[-1].get("valid_top1_percent")
        shown = f"{accuracy:.2f} %" if accuracy is not None else None
        tiles.append(_tile("Validation accuracy so far", shown, "of sampled networks inside the supernet"))
    return tag("section", *tiles, class_="tiles", aria_label="Results")


def _tile(what: str, value: Markup | str | None, *more: object) -> Markup:
    shown = tag(
        "div", value if value is not None else "not known", class_="value" if value is not None else "value absent"
    )
    return tag("div", tag("div", what, class_="what"), shown, tag("div", *more, class_="more"), class_="card tile")


def _exact(key: str, value: float, text: str) -> Markup:
    """A number for people that carries the exact one of result.json."""
    return tag("data", text, value=repr(value), data_key=key)


def _cost_text(run: Run, cost: float) -> str:
    if run.unit == "MACs":
        return f"{format_count(cost)} MACs"
    return f"{cost:.4g} ms"


def _asked(run: Run) -> Markup:
    if run.target is None:
        return _tile("Asked", None)
    given = run.settings.get("target_latency_ms") or run.settings.get("target_macs")
    why = "as given" if given else "default: 0.7 of the mean of the space"
    key = "target_latency_ms" if run.unit == "ms" else "target_macs"
    return _tile(
        "Asked", _exact(key, run.target, _cost_text(run, run.target)), f"{run.settings['target_hardware']}, {why}"
    )


def _predicted(run: Run) -> Markup:
    heading = "Predicted" if run.unit == "ms" else "Counted"
    if run.predicted is None:
        expected = run.records[-1]["expected_cost"] if run.records else None
        if expected is None:
            return _tile(heading, None)
        return _tile("Expected so far", _cost_text(run, expected), "mean over the architectures the search still draws")
    key = "predicted_latency_ms" if run.unit == "ms" else "macs_cost"
    apart = _apart(run.predicted, run.target)
    source = str((run.result or {}).get("latency_source") or "")
    by = f"by {Path(source).name}" if source and run.unit == "ms" else ""
    more = ", ".join(filter(None, [f"{apart} from asked" if apart else "", by]))
    return _tile(heading, _exact(key, run.predicted, _cost_text(run, run.predicted)), more)


def _apart(value: float, asked: float | None) -> str:
    if not asked:
        return ""
    text = f"{100 * (value / asked - 1):+.2f} %"
    return text.replace("-", MINUS)


def _measured(run: Run) -> Markup | None:
    if run.unit != "ms":
        return None
    if run.measured_ms is None:
        absent = tag("div", "not measured", class_="value absent")
        more = tag("div", "no device ran this network", class_="more")
        return tag("div", tag("div", "Measured", class_="what"), absent, more, class_="card tile")
    apart = _apart(run.measured_ms, run.target)
    words = [f"{apart} from asked"] if apart else []
    at_table_speed = (run.result or {}).get("measured_at_table_speed_ms")
    if at_table_speed is not None:
        own = _apart(at_table_speed, run.target)
        words.append(f"{_cost_text(run, at_table_speed)} ({own}) at the speed that the table was measured at")
    return _tile(
        "Measured", _exact("measured_latency_ms", run.measured_ms, _cost_text(run, run.measured_ms)), "; ".join(words)
    )


def _section(title: str, *children: object) -> Markup:
    return tag("section", tag("h2", title), *children)


def _architecture(run: Run) -> Markup | None:
    shots = film(run)
    if shots is None:
        if run.spec is None:
            return None
        drawing = blocks(run.spec, run.costs(run.spec, run.table_scale), run.unit or "ms")
        return _section("The network", tag("div", legend(None), drawing, class_="card"), _table(run, run.spec))
    drawing = blocks(shots.spec, shots.costs, run.unit or "ms", prefix="film-", top_share=shots.top_share)
    controls = tag(
        "div",
        tag("button", "Play", type="button", id="film-play"),
        tag(
            "input",
            type="range",
            min=0,
            max=len(shots.frames) - 1,
            step=1,
            id="film-epoch",
            aria_label="Moment of the search",
        ),
        tag("output", shots.frames[-1].caption, id="film-caption", for_="film-epoch"),
        class_="controls",
        id="film-controls",
        hidden=True,
    )
    title = "The network, and how it formed" if run.spec is not None else "The most probable network so far"
    note = (
        "Play shows, epoch by epoch, the leading choice of each block; the paler a block, the less decided it is. "
        "Below the film stands the layer table."
    )
    card = tag("div", controls, legend(run.unit if run.table is not None else None), drawing, class_="card film")
    known = run.spec is not None or run.settings["dataset"] != "imagefolder"
    return _section(
        title, card, tag("p", note, class_="note"), film_data(shots), _table(run, shots.spec) if known else None
    )


def _table(run: Run, spec: Any) -> Markup:
    text = describe(spec, costs=run.costs(spec, run.table_scale), unit=run.unit or "ms")
    return tag("details", tag("summary", "Layer by layer"), tag("div", tag("pre", text), class_="card"))


def _phases(records: Sequence[Mapping[str, Any]]) -> list[Phase]:
    found, first = [], 1
    for phase, group in groupby(records, key=lambda record: record["phase"]):
        last = first + len(list(group)) - 1
        found.append(Phase(name=phase_name(phase), first=first, last=last))
        first = last + 1
    return found


def _probabilities(run: Run) -> Markup | None:
    records = [record for record in run.records if record.get("probabilities")]
    if not records or len({tuple(map(len, record["probabilities"])) for record in records}) != 1:
        return None
    phases, maps = _phases(records), []
    calls = [block.op for block in run.spec.blocks[1:]] if run.spec is not None else None
    for block in range(len(records[0]["probabilities"])):
        rows = list(zip(*(record["probabilities"][block] for record in records), strict=True))
        choices = run.space.choices[block] if run.space is not None and block < run.space.n_blocks else ()
        fits = len(choices) == len(rows)
        labels = [_choice(op_label(choices[row]) if fits else f"choice {row}") for row in range(len(rows))]
        width = f", {choices[0].out_channels} channels" if fits else ""
        taken = f": {_choice(op_label(calls[block]))}" if calls is not None and block < len(calls) else ""
        maps.append(heat_map(f"Block {block + 1}{width}{taken}", labels, rows, phases))
    note = (
        "One map per searched block, one row per choice, one column per epoch: the more probable, the stronger the "
        "colour. Right: the last probability; bold: the leading choice. The heading names what the final network has. "
        "The dashed line ends the warm-up, in which the architecture is left alone."
    )
    return _section("How the choices were made", tag("div", *maps, class_="maps card"), tag("p", note, class_="note"))


def _choice(label: str) -> str:
    return label.removesuffix(" s2").removeprefix("-- ").replace("x", TIMES)


def _column(records: Sequence[Mapping[str, Any]], field: str, scale: float = 1.0) -> list[float | None]:
    return [None if record.get(field) is None else record[field] * scale for record in records]


def _scaled(unit: str | None) -> tuple[float, str, str, Callable[[float], str]]:
    """(factor of the axis, name of the cost, its label, how a value is written)."""
    if unit == "MACs":
        return 1e-6, "MACs", "million MACs", lambda value: f"{value:.4g} million MACs"
    return 1.0, "latency", "predicted latency (ms)", lambda value: f"{value:.4g} ms"


def _over_time(run: Run) -> Markup | None:
    records = run.records
    if not records:
        return None
    phases = _phases(records)
    factor, name, axis, shown = _scaled(run.unit)
    charts: list[Markup] = []
    if run.unit is not None:
        goal = run.target * factor if run.target is not None else None
        label = f"asked: {_cost_text(run, run.target)}" if run.target is not None else ""
        charts.append(
            line_chart(
                f"E[{name}] on its way to the target" if goal is not None else f"E[{name}]",
                [
                    Series(label=f"E[{name}]", values=_column(records, "expected_cost", factor)),
                    Series(label="most probable network", values=_column(records, "argmax_cost", factor), style="s2"),
                ],
                y_label=axis, shown=shown, phases=phases, target=goal, target_label=label,
            )
        )  # fmt: skip
        charts.append(
            line_chart(
                "Lambda, the weight of the target",
                [Series(label="lambda", values=_column(records, "lambda"))],
                y_label="lambda", shown=lambda value: f"{value:.4g}", phases=phases, may_be_log=True,
            )
        )  # fmt: skip
    charts.append(
        line_chart(
            "Entropy of the architecture",
            [Series(label="entropy", values=_column(records, "entropy"))],
            y_label="nats, all blocks", shown=lambda value: f"{value:.3f} nats", phases=phases, from_zero=True,
        )
    )  # fmt: skip
    for title, field, axis_label, write, zero in (
        ("Accuracy of sampled networks", "top1_percent", "top-1 (%)", lambda value: f"{value:.2f} %", True),
        ("Loss of sampled networks", "loss", "cross-entropy (nats)", lambda value: f"{value:.3f}", False),
    ):
        charts.append(
            line_chart(
                title,
                [
                    Series(label="training images", values=_column(records, f"train_{field}")),
                    Series(label="validation images", values=_column(records, f"valid_{field}"), style="s2"),
                ],
                y_label=axis_label, shown=write, phases=phases, from_zero=zero,
            )
        )  # fmt: skip
    return _section("Over time", tag("div", *charts, class_="grid"))


# ---------------------------------------------------------------------------------------------------- the plane


def _accuracy(result: Mapping[str, Any]) -> float | None:
    return result.get("finetuned_test_top1_percent", result.get("test_top1_percent"))


def _run_points(run: Run, style: str, named: bool, factor: float) -> list[Point]:
    """What a run adds to the plane: its derived network, or its random controls where their accuracy is known."""
    if run.result is None or run.unit is None:
        return []
    _, _, _, shown = _scaled(run.unit)

    def point(file: str, cost: float, accuracy: float, n_images: int | None, label: str, how: str) -> Point:
        kind = "run" if run.is_searched else "control"
        name = f"{run.name}, {file}" if run.is_random else run.name
        tip = f"{name}: {shown(cost * factor)}, {how} {shown_score(accuracy, n_images, 'test images')}"
        return Point(label=label, x=cost * factor, y=accuracy, kind=kind, style=style, tip=tip)

    points = []
    for file, cost, accuracy in _networks_of(run):
        label = run.name if named and not run.is_random else ""
        if accuracy is not None:
            points.append(point(file, cost, accuracy, run.result.get("n_test_images"), label, "top-1"))
        for each in run.trained.get(file, ()):
            label = f"{run.name}, trained" if not run.is_random else ""
            points.append(point(file, cost, each.top1_percent, each.n_images, label, f"{each.text()}: top-1"))
    return points


def _networks_of(run: Run) -> list[tuple[str, float, float | None]]:
    """(spec file, cost, test accuracy in percent where the run has one) of what a finished run made."""
    assert run.result is not None
    if run.is_random:
        return [(entry.get("spec", ""), entry["cost"], _accuracy(entry)) for entry in run.result["networks"]]
    return [(SPEC_FILE, run.predicted, _accuracy(run.result))] if run.predicted is not None else []


def _same_axes(runs: Sequence[Run]) -> str | None:
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


def _plane_section(runs: Sequence[Run]) -> Markup | None:
    run = runs[0]
    if run.unit is None:
        return None
    title = "Latency and accuracy" if run.unit == "ms" else "MACs and accuracy"
    different = _same_axes(runs)
    if different is not None:
        text = f"Not drawn: the runs differ in their {different}, so their networks cannot share the axes."
        return _section(title, tag("div", tag("p", text), class_="card"))
    factor, _, axis, shown = _scaled(run.unit)
    points = [
        point for index, each in enumerate(runs) for point in _run_points(each, _style(index), len(runs) > 1, factor)
    ]
    released = published_points(run)
    points += [
        Point(
            label=each.name, x=each.cost * factor, y=each.top1_percent, kind="published", style="s7",
            tip=f"{each.name}: {shown(each.cost * factor)} predicted, {each.top1_percent} % published",
        )
        for each in released
    ]  # fmt: skip
    if not points:
        return None
    trail = []
    if len(runs) == 1 and not released:  # beside whole networks, what a supernet scores would only squeeze the axis
        trail = [
            (record["expected_cost"] * factor, record["valid_top1_percent"])
            for record in run.records
            if record["phase"] == "search"
            and record["expected_cost"] is not None
            and record.get("valid_top1_percent") is not None
        ]
    goals = {each.target for each in runs}
    goal = goals.pop() if len(goals) == 1 else None
    note = " ".join(filter(None, _plane_notes(runs, bool(released), bool(trail))))
    chart = plane(
        title, points, x_label=axis if run.unit == "ms" else "million MACs", y_label="top-1 (%)", trail=trail,
        target=goal * factor if goal is not None else None,
        target_label=f"asked: {_cost_text(run, goal)}" if goal is not None else "",
    )  # fmt: skip
    return _section(
        "Against other networks", tag("div", chart, tag("div", tag("p", note), class_="card"), class_="grid")
    )


def _plane_notes(runs: Sequence[Run], released: bool, trail: bool) -> list[str]:
    run = runs[0]
    notes = []
    if trail:
        notes.append(
            "The thin line is the way of the search: the expected cost and the validation accuracy of sampled "
            "networks inside the supernet, epoch by epoch."
        )
    if released:
        notes.append(
            "Released networks: published ImageNet accuracy after full training, cost predicted by this run's own "
            "source. Searched networks have inherited weights unless fine-tuned: train them before comparing accuracy."
        )
    else:
        dataset = run.settings["dataset"]
        why = (
            "their cost by this run's source is not known" if dataset == "imagenet" else f"this search ran on {dataset}"
        )
        notes.append(f"Released networks are not shown: their published accuracy is on ImageNet, and {why}.")
    controls = [point for each in runs for point in _run_points(each, "s1", False, 1.0) if point.kind == "control"]
    if not controls:
        drawn = any(each.is_random for each in runs)
        notes.append(
            "Random controls are not shown: "
            + (
                "the accuracy of these is not known; train some with train.py and give search/report.py their run "
                "folders after --trained."
                if drawn
                else "give search/report.py runs of --arch_algo random, or of 0 search epochs, beside this one."
            )
        )
    trained = [each for run in runs for found in run.trained.values() for each in found]
    if trained:
        notes.append("Trained networks: test accuracy after train.py; the tips say for how long.")
        unlike, unknown = _unlike(trained)
        if unlike:
            notes.append(f"They were not trained alike, so do not compare them: they differ in {', '.join(unlike)}.")
        if unknown:
            notes.append(
                "Whether they were trained alike is not known: of older runs some settings were not recorded: "
                f"{', '.join(unknown)}."
            )
        if any(run.is_searched and not run.trained for run in runs):
            notes.append("A searched network that was not trained so has the weights it inherited: train it too.")
    return notes


def _unlike(trained: Sequence[TrainedRun]) -> tuple[list[str], list[str]]:
    """The settings that matter for accuracy (the seed is not among them), and the test images: those in which trainings
    differ, and those that were not recorded of each of them, with the folders concerned. One training is unlike none.
    """
    differ, unknown = [], []
    for name in flags(TrainConfig) if len(trained) > 1 else ():
        if name in INDIFFERENT:
            continue
        known = [each.settings[name] for each in trained if name in each.settings]
        if any(value != known[0] for value in known):
            differ.append(name)
        if len(known) < len(trained):
            silent = [each.folder.name for each in trained if name not in each.settings]
            unknown.append(f"{name} (in {', '.join(silent)})")
    tested = [each.result.get("test_images") for each in trained]
    if len({images for images in tested if images is not None}) > 1:
        differ.append("the test images")
    if silent := [each.folder.name for each, images in zip(trained, tested, strict=True) if images is None]:
        unknown += [f"the test images (in {', '.join(silent)})"] if len(trained) > 1 else []
    return differ, unknown


# ------------------------------------------------------------------------------------------- settings and records


def _controls(run: Run) -> Markup | None:
    if run.result is None:
        return None
    drawn = []
    for index, entry in enumerate(run.result["networks"][:MAX_DRAWN_CONTROLS]):
        spec = read_spec(run.folder / entry["spec"])
        cost = format_cost(entry["cost"], run.unit or "ms")
        drawn.append(tag("h3", f"{spec.name}: {cost}, {format_count(total_params(spec))} parameters"))
        drawn.append(blocks(spec, None, run.unit or "ms", prefix=f"c{index}-"))
    n_more = len(run.result["networks"]) - MAX_DRAWN_CONTROLS
    more = tag("p", f"and {n_more} more in {run.folder}/specs", class_="note") if n_more > 0 else None
    return _section("The networks", tag("div", legend(None), *drawn, more, class_="card"))


def _commands(run: Run) -> Markup:
    entries: list[Markup] = []
    for what, command in next_commands(run):
        entries.append(tag("dt", what))
        entries.append(tag("dd", tag("div", tag("pre", command), class_="command")))
    return _section("Go on", tag("div", tag("dl", *entries), class_="card"))


def _defaults(run: Run) -> Mapping[str, Any]:
    """The settings of the run's recipe; nothing when it is not among those that are shipped."""
    recipe = run.settings.get("recipe")
    if not isinstance(recipe, str) or not (RECIPE_DIR / f"{recipe}.json").is_file():
        return {}
    return to_dict(from_recipe(recipe))


def _settings(run: Run) -> Markup:
    defaults = _defaults(run)
    rows = []
    for key, value in run.settings.items():
        if key in ("format", "version"):
            continue
        changed = key in defaults and key != "recipe" and defaults[key] != value
        rows.append((key, _plain(value), "changed" if changed else None))
    n_changed = sum(style is not None for *_, style in rows)
    recipe = run.settings.get("recipe", "unknown")
    about = f"recipe {recipe}, {n_changed} settings changed (bold)" if defaults else f"recipe {recipe}"
    command = run.environment.get("command")
    return _section(
        "Settings and surroundings",
        tag(
            "div",
            tag("h3", "Command"),
            tag("div", tag("pre", command or "not recorded"), class_="command"),
            tag("details", tag("summary", f"Configuration: {about}"), _rows(rows)),
            tag(
                "details",
                tag("summary", "Environment"),
                _rows([(key, _plain(value), None) for key, value in run.environment.items() if key != "command"]),
            ),
            class_="card",
        ),
    )


def _plain(value: Any) -> str:
    if value is None:
        return "default"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _rows(rows: Sequence[tuple[str, object, str | None]]) -> Markup:
    lines = [tag("tr", tag("th", key, scope="row"), tag("td", value, class_=style)) for key, value, style in rows]
    return tag("table", tag("tbody", *lines))


def _record(run: Run) -> Markup | None:
    if run.result is None:
        return None
    rows = [(key, str(value), None) for key, value in run.result.items() if key != "networks"]
    return tag("div", tag("details", tag("summary", "result.json, to the last digit"), _rows(rows)), class_="card")


# ---------------------------------------------------------------------------------------------------- comparison


def _style(index: int) -> str:
    return f"s{index % N_SERIES_COLOURS + 1}"


def comparison(runs: Sequence[Run]) -> str:
    """The page that sets runs side by side as HTML text."""
    if not runs:
        raise ValueError("runs: expected at least one")
    names = [run.name for run in runs]
    title = " and ".join(names) if len(runs) < 4 else f"{len(runs)} runs"
    unfinished = [run.name for run in runs if run.result is None]
    warning = (
        tag("div", tag("p", f"Not finished, so without a result: {', '.join(unfinished)}."), class_="warning")
        if unfinished
        else None
    )
    body = [
        tag("header", tag("h1", f"Compared: {title}"), tag("p", ", ".join(names), class_="lead")),
        tag(
            "main",
            warning,
            _summary(runs),
            _plane_section(runs),
            _networks(runs),
            _costs_over_time(runs),
            _differences(runs),
        ),
    ]
    return _page(f"Compared: {title}", body)


def _summary(runs: Sequence[Run]) -> Markup:
    headings = (
        "run",
        "asked",
        "predicted",
        "from asked",
        "measured",
        "test accuracy",
        "MACs",
        "parameters",
        "seed",
        "time",
    )
    lines = []
    for index, run in enumerate(runs):
        result = run.result or {}
        known = run.predicted is not None and run.result is not None
        accuracy = _accuracy(result)
        cells = [
            joined(tag("span", class_=f"key {_style(index)}"), run.name),
            _cost_text(run, run.target) if run.target is not None else "-",
            _predicted_cell(run),
            (_apart(run.predicted, run.target) or "-") if run.predicted is not None else "-",
            _cost_text(run, run.measured_ms) if run.measured_ms is not None else "not measured",
            shown_score(accuracy, result.get("n_test_images")) if accuracy is not None else "-",
            format_count(result["macs"]) if known else "-",
            format_count(result["params"]) if known else "-",
            str(result.get("manual_seed", run.settings.get("manual_seed", "-"))),
            format_seconds(result["wall_seconds"]) if "wall_seconds" in result else "-",
        ]
        lines.append(tag("tr", *(tag("td", cell) for cell in cells)))
    head = tag("thead", tag("tr", *(tag("th", heading, scope="col") for heading in headings)))
    table = tag("table", head, tag("tbody", *lines), class_="wide")
    return _section("Results", tag("div", tag("div", table, class_="scroll"), class_="card"))


def _predicted_cell(run: Run) -> Markup | str:
    """The cost of the derived network, or of random ones: ``20 networks of 1.882 ms to 1.9 ms``."""
    if run.predicted is not None:
        return _exact("predicted", run.predicted, _cost_text(run, run.predicted))
    if run.result is None or not run.is_random:
        return "-"
    costs = [cost for _, cost, _ in _networks_of(run)]
    ends = dict.fromkeys(_cost_text(run, end(costs)) for end in (min, max))
    return f"{len(costs)} networks of {' to '.join(ends)}"


def _networks(runs: Sequence[Run]) -> Markup | None:
    drawn: list[Markup] = []
    for index, run in enumerate(runs):
        if run.spec is None:
            continue
        facts = [f"{format_count(total_macs(run.spec))} MACs", f"{format_count(total_params(run.spec))} parameters"]
        if run.predicted is not None and run.unit == "ms":
            facts.insert(0, f"{_cost_text(run, run.predicted)} predicted")
        heading = joined(tag("span", class_=f"key {_style(index)}"), f"{run.name}: {', '.join(facts)}")
        costs = run.costs(run.spec, run.table_scale)
        drawn += [tag("h3", heading), blocks(run.spec, costs, run.unit or "ms", prefix=f"r{index}-")]
    units = {run.unit for run in runs if run.table is not None}
    return _section(
        "The networks", tag("div", legend(units.pop() if len(units) == 1 else None), *drawn, class_="card")
    ) if drawn else None  # fmt: skip


def _costs_over_time(runs: Sequence[Run]) -> Markup | None:
    charts: list[Markup] = []
    for unit in ("ms", "MACs"):
        chosen = [(index, run) for index, run in enumerate(runs) if run.unit == unit and run.records]
        if not chosen:
            continue
        factor, name, axis, shown = _scaled(unit)
        lines = [
            Series(label=run.name, values=_column(run.records, "expected_cost", factor), style=_style(index))
            for index, run in chosen
        ]
        charts.append(line_chart(f"E[{name}]", lines, y_label=axis, shown=shown))
    lines = [
        Series(label=run.name, values=_column(run.records, "entropy"), style=_style(index))
        for index, run in enumerate(runs)
        if run.records
    ]
    if lines:
        charts.append(
            line_chart(
                "Entropy", lines, y_label="nats, all blocks", shown=lambda value: f"{value:.3f} nats", from_zero=True
            )
        )
    return _section("Over time", tag("div", *charts, class_="grid")) if charts else None


def _differences(runs: Sequence[Run]) -> Markup | None:
    keys = dict.fromkeys(key for run in runs for key in run.settings)
    rows = []
    for key in keys:
        values = [run.settings.get(key, "not recorded") for run in runs]  # a run may be older than a setting
        if any(value != values[0] for value in values):
            rows.append((key, [_plain(value) for value in values]))
    if not rows:
        return _section("Settings that differ", tag("div", tag("p", "None."), class_="card"))
    head = tag("tr", tag("th", "setting", scope="col"), *(tag("th", run.name, scope="col") for run in runs))
    lines = [tag("tr", tag("th", key, scope="row"), *(tag("td", value) for value in values)) for key, values in rows]
    table = tag("table", tag("thead", head), tag("tbody", *lines), class_="wide")
    return _section("Settings that differ", tag("div", tag("div", table, class_="scroll"), class_="card"))
