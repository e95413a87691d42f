"""What the pages say, as values that templates/*.html lay out: every text is decided here, every tag there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from proxyless_arch.apps.scores import shown_counts, shown_percent, shown_score
from proxyless_arch.arch.codec import read_spec
from proxyless_arch.arch.draw import draw_stages
from proxyless_arch.arch.spec import ArchSpec
from proxyless_arch.arch.tables import describe
from proxyless_arch.arch.walk import total_macs, total_params
from proxyless_arch.base.runs import format_seconds
from proxyless_arch.base.scene import Scene
from proxyless_arch.base.units import Unit, format_count
from search.config import RECIPE_DIR, TARGET_KEY, from_recipe, to_dict
from search.reporting.charts import Chart, Series, line_chart, series_color
from search.reporting.commands import next_commands
from search.reporting.film import film
from search.reporting.history import (
    choice_map,
    choice_name,
    column,
    cost_axis,
    cost_charts,
    cost_text,
    learning_charts,
    phase_name,
    phases_of,
)
from search.reporting.networks import Plane, accuracy_of, networks_of, plane_of
from search.reporting.run_folder import Run

MAX_DRAWN_CONTROLS = 8
PAGE_WIDTH, LARGEST_SCALE = 1150.0, 1.4
MINUS = "\N{MINUS SIGN}"


@dataclass(frozen=True)
class Exact:
    """A number for people that carries the exact one of result.json."""

    key: str
    value: float
    text: str


@dataclass(frozen=True)
class Power:
    """A count that has many digits, as people write it: ``mantissa`` times ten to ``exponent``."""

    mantissa: str
    exponent: int


Part = str | Exact | Power


@dataclass(frozen=True)
class Tile:
    """One result. ``value`` is None where there is none; ``absent`` then says so."""

    what: str
    value: Part | None
    more: Sequence[Part] = ()
    absent: str = "not known"


@dataclass(frozen=True)
class Drawing:
    """A network's stages, shown ``scale`` times as large so that they fill a wide page."""

    stages: Sequence[Scene]

    @property
    def scale(self) -> float:
        return min(LARGEST_SCALE, max(1.0, PAGE_WIDTH / sum(stage.width for stage in self.stages)))


@dataclass(frozen=True, kw_only=True)
class Network:
    """A network under its title. ``priced``: what the shares are of; ``film``: the player's data."""

    title: str
    drawing: Drawing
    priced: str = ""
    table: str = ""
    film: Mapping[str, Any] | None = None
    color: str = ""


@dataclass(frozen=True)
class Setting:
    key: str
    value: str
    changed: bool = False


@dataclass(frozen=True, kw_only=True)
class Settings:
    command: str
    about: str
    configuration: Sequence[Setting]
    environment: Sequence[Setting]


@dataclass(frozen=True, kw_only=True)
class Controls:
    """Random networks; ``more`` says how many are not drawn."""

    networks: Sequence[Network]
    more: str


@dataclass(frozen=True, kw_only=True)
class RunPage:
    """The page of one run; ``unfinished`` says how far it came, and is empty when it came to its end."""

    title: str
    lead: Sequence[Part]
    unfinished: str
    notes: Sequence[str]
    tiles: Sequence[Tile]
    network: Network | None
    controls: Controls | None
    choices: Sequence[Chart]
    charts: Sequence[Chart]
    plane: Plane | None
    commands: Sequence[tuple[str, str]]
    settings: Settings
    record: Sequence[Setting]


@dataclass(frozen=True, kw_only=True)
class ResultRow:
    name: str
    color: str
    cells: Sequence[Part]


@dataclass(frozen=True, kw_only=True)
class ComparisonPage:
    """The page that sets runs side by side. ``differences``: a setting and its value in each run."""

    title: str
    names: Sequence[str]
    unfinished: Sequence[str]
    headings: Sequence[str]
    results: Sequence[ResultRow]
    plane: Plane | None
    networks: Sequence[Network]
    priced: str
    charts: Sequence[Chart]
    differences: Sequence[tuple[str, Sequence[str]]]


# ------------------------------------------------------------------------------------------------------- one run


def run_page(run: Run) -> RunPage:
    """What the page of one run says."""
    searched = not run.is_random
    return RunPage(
        title=run.name if searched else f"{run.name}: random networks",
        lead=_lead(run) if searched else [_random_lead(run)],
        unfinished=_unfinished(run),
        notes=_notes(run),
        tiles=_tiles(run) if searched else (),
        network=_network(run) if searched else None,
        controls=_controls(run) if run.is_random and run.result is not None else None,
        choices=_choice_maps(run) if searched else (),
        charts=_charts(run) if searched else (),
        plane=plane_of([run]),
        commands=next_commands(run),
        settings=_settings(run),
        record=[Setting(key, str(value)) for key, value in (run.result or {}).items() if key != "networks"],
    )


def _lead(run: Run) -> list[Part]:
    dataset = run.settings["dataset"]
    images = "scikit-learn's digits" if dataset == "digits" else str(run.settings.get("data_path") or dataset)
    goal = cost_text(run.target, run.unit) if run.target is not None else "accuracy alone"
    if run.unit is Unit.MS:
        goal += f" on {run.settings['target_hardware']}"
    date = str(run.environment.get("date", ""))[:10]
    found: list[Part] = [", out of ", count_of(run.space.size), " networks"] if run.space is not None else []
    return [f"Searched for {goal} with {images}", *found, f", {date}." if date else "."]


def count_of(count: int) -> Part:
    """A count that may have many digits."""
    if count < 1_000_000:
        return f"{count:,}"
    mantissa, exponent = f"{count:.1e}".split("e+")
    return Power(mantissa, int(exponent))


def _random_lead(run: Run) -> str:
    count = len(run.result["networks"]) if run.result is not None else 0
    goal = f" of {cost_text(run.target, run.unit)}" if run.target is not None else ""
    return f"{count} networks drawn at random at a cost{goal}: what a search must beat to have been worth it."


def _unfinished(run: Run) -> str:
    if run.result is not None:
        return ""
    if not run.records:
        return "No epoch was finished, so there is nothing to show but the settings."
    done = run.records[-1]
    where = f"{phase_name(done['phase'])} epoch {done['epoch'] + 1} of {done['n_epochs']}"
    return f"The last finished epoch is {where}; the page shows what there is until then."


def _notes(run: Run) -> list[str]:
    skipped = (run.result or {}).get("unreadable_images")
    return [*run.notes, *([f"{skipped} images could not be read and were left out."] if skipped else [])]


# ------------------------------------------------------------------------------------------------------- results


def _tiles(run: Run) -> list[Tile]:
    costs = [_asked(run), _predicted(run), *([_measured(run)] if run.unit is Unit.MS else [])]
    return [*(costs if run.unit is not None else []), *_outcome(run)]


def _asked(run: Run) -> Tile:
    if run.target is None:
        return Tile("Asked", None)
    given = run.settings.get("target_latency_ms") or run.settings.get("target_macs")
    why = "as given" if given else "default: 0.7 of the mean of the space"
    key = TARGET_KEY[run.unit or Unit.MS]
    value = Exact(key, run.target, cost_text(run.target, run.unit))
    return Tile("Asked", value, [f"{run.settings['target_hardware']}, {why}"])


def _predicted(run: Run) -> Tile:
    heading = "Predicted" if run.unit is Unit.MS else "Counted"
    if run.predicted is None:
        expected = run.records[-1]["expected_cost"] if run.records else None
        if expected is None:
            return Tile(heading, None)
        more = ["mean over the architectures the search still draws"]
        return Tile("Expected so far", cost_text(expected, run.unit), more)
    key = "predicted_latency_ms" if run.unit is Unit.MS else "macs_cost"
    apart = _apart(run.predicted, run.target)
    source = str((run.result or {}).get("latency_source") or "")
    by = f"by {Path(source).name}" if source and run.unit is Unit.MS else ""
    more = [", ".join(filter(None, [f"{apart} from asked" if apart else "", by]))]
    return Tile(heading, Exact(key, run.predicted, cost_text(run.predicted, run.unit)), more)


def _measured(run: Run) -> Tile:
    if run.measured_ms is None:
        return Tile("Measured", None, ["no device ran this network"], absent="not measured")
    apart = _apart(run.measured_ms, run.target)
    words = [f"{apart} from asked"] if apart else []
    at_table_speed = (run.result or {}).get("measured_at_table_speed_ms")
    if at_table_speed is not None:
        own = f"{cost_text(at_table_speed, Unit.MS)} ({_apart(at_table_speed, run.target)})"
        words.append(f"{own} at the speed that the table was measured at")
    value = Exact("measured_latency_ms", run.measured_ms, cost_text(run.measured_ms, Unit.MS))
    return Tile("Measured", value, ["; ".join(words)])


def _apart(value: float, asked: float | None) -> str:
    """How far from what was asked: ``+1.25 %``."""
    return f"{100 * (value / asked - 1):+.2f} %".replace("-", MINUS) if asked else ""


def _outcome(run: Run) -> list[Tile]:
    """What the search came to, or how far it is."""
    result = run.result
    if result is not None:
        macs = Exact("macs", result["macs"], format_count(result["macs"]))
        params = Exact("params", result["params"], format_count(result["params"]))
        tiles = [_accuracy_tile(result), Tile("Size", macs, ["MACs, ", params, " parameters"])]
        if "wall_seconds" in result:
            seconds = Exact("wall_seconds", result["wall_seconds"], format_seconds(result["wall_seconds"]))
            tiles.append(Tile("Search time", seconds, [str(run.environment.get("device", ""))]))
        return tiles
    if not run.records:
        return []
    accuracy = run.records[-1].get("valid_top1_percent")
    shown = f"{accuracy:.2f} %" if accuracy is not None else None
    return [Tile("Validation accuracy so far", shown, ["of sampled networks inside the supernet"])]


def _accuracy_tile(result: Mapping[str, Any]) -> Tile:
    tuned = "finetuned_" if "finetuned_test_top1_percent" in result else ""
    test, valid = f"{tuned}test_top1_percent", f"{tuned}top1_percent"
    n_test, n_valid = result.get("n_test_images"), result.get("n_valid_images")
    weights = "fine-tuned" if tuned else "weights inherited"
    return Tile(
        "Test accuracy",
        Exact(test, result[test], shown_percent(result[test], n_test)),
        [
            f"{shown_counts(result[test], n_test, 'test images')}, {weights}; validation ",
            Exact(valid, result[valid], shown_percent(result[valid], n_valid)),
            f" ({shown_counts(result[valid], n_valid)})",
        ],
    )


# --------------------------------------------------------------------------------------- the network, its history


def _network(run: Run) -> Network | None:
    shots, unit = film(run), run.unit or Unit.MS
    if shots is None:
        if run.spec is None:
            return None
        drawing = Drawing(draw_stages(run.spec, run.costs(run.spec, run.table_scale), unit))
        return Network(title="The network", drawing=drawing, table=_table(run, run.spec))
    title = "The network, and how it formed" if run.spec is not None else "The most probable network so far"
    known = run.spec is not None or run.settings["dataset"] != "imagefolder"
    return Network(
        title=title,
        drawing=Drawing(shots.stages),
        priced=run.unit.priced if run.unit is not None and run.table is not None else "",
        table=_table(run, shots.spec) if known else "",
        film=shots.data,
    )


def _table(run: Run, spec: ArchSpec) -> str:
    return describe(spec, costs=run.costs(spec, run.table_scale), unit=run.unit or Unit.MS)


def _controls(run: Run) -> Controls:
    assert run.result is not None
    entries, unit = run.result["networks"], run.unit or Unit.MS
    drawn = []
    for index, entry in enumerate(entries[:MAX_DRAWN_CONTROLS]):
        spec = read_spec(run.folder / entry["spec"])
        title = f"{spec.name}: {unit.short(entry['cost'])}, {format_count(total_params(spec))} parameters"
        drawn.append(Network(title=title, drawing=Drawing(draw_stages(spec, None, unit, prefix=f"c{index}-"))))
    n_more = len(entries) - MAX_DRAWN_CONTROLS
    return Controls(networks=drawn, more=f"and {n_more} more in {run.folder}/specs" if n_more > 0 else "")


def _choice_maps(run: Run) -> list[Chart]:
    """One map per searched block; nothing where the probabilities do not belong together."""
    records = [record for record in run.records if record.get("probabilities")]
    if not records or len({tuple(map(len, record["probabilities"])) for record in records}) != 1:
        return []
    phases, maps = phases_of(records), []
    places = run.space.places if run.space is not None else ()
    taken_ops = [run.spec.blocks[place].op for place in places] if run.spec is not None else []
    for block in range(len(records[0]["probabilities"])):
        rows = list(zip(*(record["probabilities"][block] for record in records), strict=True))
        choices = run.space.choices[block] if run.space is not None and block < run.space.n_edges else ()
        fits = len(choices) == len(rows)
        labels = [choice_name(choices[row].label if fits else f"choice {row}") for row in range(len(rows))]
        width = f", {choices[0].out_channels} channels" if fits else ""
        taken = f": {choice_name(taken_ops[block].label)}" if block < len(taken_ops) else ""
        maps.append(choice_map(f"Block {block + 1}{width}{taken}", labels, rows, phases))
    return maps


def _charts(run: Run) -> list[Chart]:
    if not run.records:
        return []
    costs = cost_charts(run.records, run.target, run.unit) if run.unit is not None else []
    return [*costs, *learning_charts(run.records)]


# ------------------------------------------------------------------------------------------------------ settings


def _settings(run: Run) -> Settings:
    defaults = _defaults(run)
    configuration = [
        Setting(key, _plain(value), key in defaults and key != "recipe" and defaults[key] != value)
        for key, value in run.settings.items()
        if key not in ("format", "version")
    ]
    n_changed = sum(setting.changed for setting in configuration)
    recipe = run.settings.get("recipe", "unknown")
    return Settings(
        command=run.environment.get("command") or "not recorded",
        about=f"recipe {recipe}, {n_changed} settings changed (bold)" if defaults else f"recipe {recipe}",
        configuration=configuration,
        environment=[Setting(key, _plain(value)) for key, value in run.environment.items() if key != "command"],
    )


def _defaults(run: Run) -> Mapping[str, Any]:
    """The settings of the run's recipe; nothing when it is not among those that are shipped."""
    recipe = run.settings.get("recipe")
    if not isinstance(recipe, str) or not (RECIPE_DIR / f"{recipe}.json").is_file():
        return {}
    return to_dict(from_recipe(recipe))


def _plain(value: Any) -> str:
    if value is None:
        return "default"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)


# ---------------------------------------------------------------------------------------------------- comparison


def comparison_page(runs: Sequence[Run]) -> ComparisonPage:
    """What the page that sets runs side by side says."""
    if not runs:
        raise ValueError("runs: expected at least one")
    names = [run.name for run in runs]
    units = {run.unit for run in runs if run.table is not None and run.unit is not None}
    results = [_result_cells(run) for run in runs]
    return ComparisonPage(
        title=f"Compared: {' and '.join(names) if len(runs) < 4 else f'{len(runs)} runs'}",
        names=names,
        unfinished=[run.name for run in runs if run.result is None],
        headings=["run", *results[0]],
        results=[
            ResultRow(name=run.name, color=series_color(index), cells=list(cells.values()))
            for index, (run, cells) in enumerate(zip(runs, results, strict=True))
        ],
        plane=plane_of(runs),
        networks=[_compared(run, index) for index, run in enumerate(runs) if run.spec is not None],
        priced=units.pop().priced if len(units) == 1 else "",
        charts=_compared_charts(runs),
        differences=_differences(runs),
    )


def _result_cells(run: Run) -> dict[str, Part]:
    """What a run came to, by heading; a dash where it is not known."""
    result = run.result or {}
    known = run.predicted is not None and run.result is not None
    accuracy = accuracy_of(result)
    return {
        "asked": cost_text(run.target, run.unit) if run.target is not None else "-",
        "predicted": _predicted_cell(run),
        "from asked": (_apart(run.predicted, run.target) or "-") if run.predicted is not None else "-",
        "measured": cost_text(run.measured_ms, Unit.MS) if run.measured_ms is not None else "not measured",
        "test accuracy": shown_score(accuracy, result.get("n_test_images")) if accuracy is not None else "-",
        "MACs": format_count(result["macs"]) if known else "-",
        "parameters": format_count(result["params"]) if known else "-",
        "seed": str(result.get("manual_seed", run.settings.get("manual_seed", "-"))),
        "time": format_seconds(result["wall_seconds"]) if "wall_seconds" in result else "-",
    }


def _predicted_cell(run: Run) -> Part:
    """The cost of the derived network, or of random ones: ``20 networks of 1.882 ms to 1.9 ms``."""
    if run.predicted is not None:
        return Exact("predicted", run.predicted, cost_text(run.predicted, run.unit))
    if run.result is None or not run.is_random:
        return "-"
    costs = [cost for _, cost, _ in networks_of(run)]
    ends = dict.fromkeys(cost_text(end(costs), run.unit) for end in (min, max))
    return f"{len(costs)} networks of {' to '.join(ends)}"


def _compared(run: Run, index: int) -> Network:
    spec = run.spec
    assert spec is not None
    facts = [f"{format_count(total_macs(spec))} MACs", f"{format_count(total_params(spec))} parameters"]
    if run.predicted is not None and run.unit is Unit.MS:
        facts.insert(0, f"{cost_text(run.predicted, Unit.MS)} predicted")
    stages = draw_stages(spec, run.costs(spec, run.table_scale), run.unit or Unit.MS, prefix=f"r{index}-")
    return Network(title=f"{run.name}: {', '.join(facts)}", drawing=Drawing(stages), color=series_color(index))


def _compared_charts(runs: Sequence[Run]) -> list[Chart]:
    charts = []
    recorded = [(index, run) for index, run in enumerate(runs) if run.records]
    for unit in (Unit.MS, Unit.MACS):
        axis = cost_axis(unit)
        lines = [
            Series(label=run.name, values=column(run.records, "expected_cost", axis.factor), color=series_color(index))
            for index, run in recorded
            if run.unit == unit
        ]
        if lines:
            charts.append(line_chart(f"E[{axis.name}]", lines, y_label=axis.label, shown=axis.shown))
    lines = [
        Series(label=run.name, values=column(run.records, "entropy"), color=series_color(index))
        for index, run in recorded
    ]
    if lines:
        shown = "{:.3f} nats".format
        charts.append(line_chart("Entropy", lines, y_label="nats, all blocks", shown=shown, from_zero=True))
    return charts


def _differences(runs: Sequence[Run]) -> list[tuple[str, list[str]]]:
    found = []
    for key in dict.fromkeys(key for run in runs for key in run.settings):
        values = [run.settings.get(key, "not recorded") for run in runs]  # a run may be older than a setting
        if any(value != values[0] for value in values):
            found.append((key, [_plain(value) for value in values]))
    return found
