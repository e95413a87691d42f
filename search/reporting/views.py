"""What the pages show, as values: drawings, tables and lists that templates/*.html lay out among their sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from proxyless_arch.apps.per_class_pictures import PerClassView, per_class_view
from proxyless_arch.arch.codec import read_spec
from proxyless_arch.arch.draw import draw_stages, shows_ffn, shows_rooms, shows_trees
from proxyless_arch.arch.spec import ArchSpec
from proxyless_arch.arch.tables import describe
from proxyless_arch.arch.walk import total_macs, total_params
from proxyless_arch.base.errors import InputError
from proxyless_arch.base.text import readable
from proxyless_arch.base.units import Unit, format_count
from proxyless_arch.drawing.axes import Axis
from proxyless_arch.drawing.charts import Chart, Guide, Point, Series, line_chart, plane, series_color
from proxyless_arch.drawing.scene import Scene
from search.config import RECIPE_DIR, from_recipe, to_dict
from search.reporting.commands import next_commands
from search.reporting.film import film, rooms_of
from search.reporting.history import (
    SEARCHES,
    choice_map,
    choice_name,
    column,
    cost_axis,
    cost_chart,
    cost_text,
    inner_charts,
    learning_charts,
    phases_of,
)
from search.reporting.networks import Plane, plane_of
from search.reporting.run_folder import Run
from search.reporting.summary import scored_lines
from search.reporting.titles import is_named, title_of, told_apart

MAX_DRAWN_CONTROLS = 8
MOST_IMAGE_BYTES = 500_000  # of test images on a page; those of further trainings are in their folders
PAGE_WIDTH, LARGEST_SCALE = 1150.0, 1.4
MINUS = "\N{MINUS SIGN}"


@dataclass(frozen=True)
class Drawing:
    """A network's stages, shown ``scale`` times as large so that they fill a wide page."""

    stages: Sequence[Scene]

    @property
    def scale(self) -> float:
        return min(LARGEST_SCALE, max(1.0, PAGE_WIDTH / sum(stage.width for stage in self.stages)))

    @property
    def has_trees(self) -> bool:
        return shows_trees(self.stages)

    @property
    def has_rooms(self) -> bool:
        return shows_rooms(self.stages)

    @property
    def has_ffn(self) -> bool:
        return shows_ffn(self.stages)


@dataclass(frozen=True, kw_only=True)
class Network:
    """A network under its title. ``priced``: what the shares are of; ``film``: the player's data."""

    title: str
    drawing: Drawing
    priced: str = ""
    table: str = ""
    film: Mapping[str, Any] | None = None
    color: str = ""


@dataclass(frozen=True, kw_only=True)
class RunPage:
    """The page of one run. ``controls``: networks drawn at random.

    ``changed``: settings that are not the recipe's; None where the recipe is not known. ``scored``: what networks were
    scored to choose, as (label, text), and ``foretold``: how well a predictor knew them before.
    """

    title: str
    run: Run
    network: Network | None
    controls: Sequence[Network]
    choices: Sequence[Chart]
    charts: Sequence[Chart]
    inner_charts: Sequence[Chart]
    scored: Sequence[tuple[str, str]]
    foretold: Chart | None
    plane: Plane | None
    by_class: Sequence[tuple[str, PerClassView]]
    commands: Sequence[tuple[str, str]]
    settings: Sequence[tuple[str, str]]
    changed: Sequence[str] | None
    environment: Sequence[tuple[str, str]]


@dataclass(frozen=True, kw_only=True)
class ComparisonPage:
    """The page that sets runs side by side. ``differences``: a setting and its value in each run."""

    title: str
    runs: Sequence[Run]
    plane: Plane | None
    networks: Sequence[Network]
    priced: str
    charts: Sequence[Chart]
    inner_charts: Sequence[Chart]
    differences: Sequence[tuple[str, Sequence[str]]]


# ------------------------------------------------------------------------------------------------------- one run


def run_page(run: Run) -> RunPage:
    """What the page of one run shows."""
    searched = not run.is_random
    return RunPage(
        title=title_of(run),
        run=run,
        network=_network(run) if searched else None,
        controls=_controls(run),
        choices=_choice_maps(run) if searched else (),
        charts=_charts(run) if searched else (),
        inner_charts=inner_charts(run.records) if searched and run.records else (),
        scored=list(scored_lines(run.result or {})),
        foretold=foretold_chart(run),
        plane=plane_of([run]),
        by_class=_by_class(run),
        commands=next_commands(run),
        settings=[(key, _plain(value)) for key, value in run.settings.items() if key not in ("format", "version")],
        changed=_changed(run),
        environment=[(key, _plain(value)) for key, value in run.environment.items() if key != "command"],
    )


def _by_class(run: Run) -> list[tuple[str, PerClassView]]:
    """The scores by class, each under its title: of the network as it was found, and as it was trained."""
    records = [("as it was found", run.by_class)]
    records += [(trained.text(), trained.by_class) for each in run.trained.values() for trained in each]
    views = [(title, per_class_view(record)) for title, record in records if record is not None]
    room, kept = MOST_IMAGE_BYTES, []
    for title, view in views:
        size = sum(len(image.picture) for image in (*view.samples, *view.worst))
        shown = view if size <= room else replace(view, samples=(), worst=())
        room -= size if size <= room else 0
        kept.append((title, shown))
    return kept


def percent_apart(value: float, target: float) -> str:
    """How far a cost is from its target: ``+1.25 %``."""
    return signed_percent(100 * (value / target - 1))


def signed_percent(value: float) -> str:
    """``+1.25 %``."""
    return f"{value:+.2f} %".replace("-", MINUS)


# --------------------------------------------------------------------------------------- the network, its history


def _network(run: Run) -> Network | None:
    shots, unit = film(run), run.unit or Unit.MS
    if shots is None:
        if run.spec is None:
            return None
        costs = run.costs(run.spec, run.table_scale)
        drawing = Drawing(draw_stages(run.spec, costs, unit, rooms=rooms_of(run.space)))
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
    return describe(replace(spec, name=title_of(run)), costs=run.costs(spec, run.table_scale), unit=run.unit or Unit.MS)


def _controls(run: Run) -> list[Network]:
    """The first of the networks drawn at random."""
    if not run.is_random or run.result is None:
        return []
    unit, drawn = run.unit or Unit.MS, []
    for index, entry in enumerate(run.result["networks"][:MAX_DRAWN_CONTROLS]):
        spec = read_spec(run.folder / entry["spec"])
        title = f"{spec.name}: {unit.short(entry['cost'])}, {format_count(total_params(spec))} parameters"
        stages = draw_stages(spec, None, unit, prefix=f"c{index}-", rooms=rooms_of(run.space))
        drawn.append(Network(title=title, drawing=Drawing(stages)))
    return drawn


def _taken_labels(run: Run) -> list[str]:
    """What the derived network has by each choice; nothing where that is not known."""
    if run.spec is None or run.space is None:
        return []
    try:
        path = run.space.path_of(run.spec)
    except InputError:  # a spec of another space
        return []
    return [labels[choice] for labels, choice in zip(run.space.choice_labels, path, strict=True)]


def _choice_maps(run: Run) -> list[Chart]:
    """One map per searched block or edge; nothing where the probabilities do not belong together."""
    records = [record for record in run.records if record.get("probabilities")]
    if not records or len({tuple(map(len, record["probabilities"])) for record in records}) != 1:
        return []
    phases, maps = phases_of(records), []
    taken_labels = _taken_labels(run)
    for block in range(len(records[0]["probabilities"])):
        rows = list(zip(*(record["probabilities"][block] for record in records), strict=True))
        named = run.space.choice_labels[block] if run.space is not None and block < run.space.n_edges else ()
        fits = len(named) == len(rows)
        labels = [choice_name(named[row] if fits else f"choice {row}") for row in range(len(rows))]
        taken = f": {choice_name(taken_labels[block])}" if block < len(taken_labels) else ""
        title = run.space.titles[block] if fits and run.space is not None else f"Block {block + 1}"
        maps.append(choice_map(f"{title}{taken}", labels, rows, phases))
    return maps


def _charts(run: Run) -> list[Chart]:
    if not run.records:
        return []
    costs = [cost_chart(run.records, run.target, run.unit)] if run.unit is not None else []
    return [*costs, *learning_charts(run.records)]


def foretold_chart(run: Run) -> Chart | None:
    """Each random network's loss beside what the predictor, fitted to the others, said of it."""
    pairs = ((run.result or {}).get("predictor") or {}).get("foretold")
    if not pairs:
        return None
    ends = [bound(loss for pair in pairs for loss in pair) for bound in (min, max)]
    points = [
        Point(x=said, y=measured, group="random network", label="", mark="circle", color="s1",
              tip=f"{measured:.3f} nats; foretold {said:.3f}")
        for said, measured in pairs
    ]  # fmt: skip
    guide = Guide(points=[(end, end) for end in ends], label="as foretold")
    x, y = Axis(label="foretold (nats)"), Axis(label="cross-entropy (nats)")
    return plane("Loss of random networks, foretold and measured", points, x=x, y=y, guides=[guide])


def _changed(run: Run) -> list[str] | None:
    """The settings that are not those of the run's recipe; None when it is not among those that are shipped."""
    recipe = run.settings.get("recipe")
    if not isinstance(recipe, str) or not (RECIPE_DIR / f"{recipe}.json").is_file():
        return None
    defaults: Mapping[str, Any] = to_dict(from_recipe(recipe))
    return [
        key for key, value in run.settings.items() if key in defaults and defaults[key] != value and key != "recipe"
    ]


def _plain(value: Any) -> str:
    if value is None:
        return "default"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)


# ---------------------------------------------------------------------------------------------------- comparison


def comparison_page(runs: Sequence[Run]) -> ComparisonPage:
    """What the page that sets runs side by side shows."""
    if not runs:
        raise ValueError("runs: expected at least one")
    runs = told_apart(runs)
    names = [title_of(run) for run in runs]
    units = {run.unit for run in runs if run.table is not None and run.unit is not None}
    return ComparisonPage(
        title=f"Compared: {' and '.join(names) if len(runs) < 4 else f'{len(runs)} runs'}",
        runs=runs,
        plane=plane_of(runs),
        networks=[_compared(run, index) for index, run in enumerate(runs) if run.spec is not None],
        priced=units.pop().priced if len(units) == 1 else "",
        charts=_compared_charts(runs),
        inner_charts=_compared_inner_charts(runs),
        differences=_differences(runs),
    )


def _compared(run: Run, index: int) -> Network:
    spec = run.spec
    assert spec is not None
    facts = [f"{format_count(total_macs(spec))} MACs", f"{format_count(total_params(spec))} parameters"]
    if run.predicted is not None and run.unit is Unit.MS and is_named(run):
        facts.insert(0, f"{cost_text(run.predicted, Unit.MS)} predicted")
    costs, rooms = run.costs(spec, run.table_scale), rooms_of(run.space)
    stages = draw_stages(spec, costs, run.unit or Unit.MS, prefix=f"r{index}-", rooms=rooms)
    return Network(title=f"{title_of(run)}: {', '.join(facts)}", drawing=Drawing(stages), color=series_color(index))


def _compared_charts(runs: Sequence[Run]) -> list[Chart]:
    """The cost of the sampled networks over the epochs of the search, for each unit that runs have."""
    charts = []
    for unit in (Unit.MS, Unit.MACS):
        axis = cost_axis(unit)
        lines = _lines([run if run.unit == unit else None for run in runs], "expected_cost", axis.factor)
        if lines:
            title = f"Mean {axis.name} of the sampled networks"
            charts.append(line_chart(title, lines, y=Axis(label=axis.label), shown=axis.shown))
    return charts


def _compared_inner_charts(runs: Sequence[Run]) -> list[Chart]:
    lines, axis = _lines(runs, "entropy"), Axis(label="nats, all blocks")
    shown = "{:.3f} nats".format
    return [line_chart("Entropy of the choices", lines, y=axis, shown=shown, from_zero=True)] if lines else []


def _lines(runs: Sequence[Run | None], field: str, factor: float = 1.0) -> list[Series]:
    """A field over the search epochs of each run that has some, in the run's color."""
    lines = []
    for index, run in enumerate(runs):
        searched = [record for record in run.records if record["phase"] in SEARCHES] if run is not None else []
        if run is not None and searched:
            values = column(searched, field, factor)
            lines.append(Series(label=title_of(run), values=values, color=series_color(index)))
    return lines


def _differences(runs: Sequence[Run]) -> list[tuple[str, list[str]]]:
    found = [("run folder", [readable(str(run.folder)) for run in runs])] if len(runs) > 1 else []
    for key in dict.fromkeys(key for run in runs for key in run.settings):
        values = [run.settings.get(key, "not recorded") for run in runs]  # a run may be older than a setting
        if any(value != values[0] for value in values):
            found.append((key, [_plain(value) for value in values]))
    return found
