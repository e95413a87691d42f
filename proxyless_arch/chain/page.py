"""report.html of a run that stands in a chain: what every step came to, in one picture, one table, and what is next."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from proxyless_arch.apps.scores import shown_score
from proxyless_arch.base.files import write_text, writing
from proxyless_arch.base.text import readable, shell_line
from proxyless_arch.base.timing import MAX_DRIFT
from proxyless_arch.base.units import format_count
from proxyless_arch.chain.commands import not_done_yet
from proxyless_arch.chain.pictures import charts, picture
from proxyless_arch.chain.reading import read_chain
from proxyless_arch.chain.values import Attack, Chain, Cost, Export, How, Step
from proxyless_arch.drawing.charts import Chart
from proxyless_arch.drawing.pages import rendered
from proxyless_arch.drawing.scene import write_picture

REPORT_FILE, PICTURE = "report.html", "chain.svg"
TEMPLATES = Path(__file__).parent / "templates"
HEADER = ("step", "run", "top-1", "ms per image", "size", "notes")


@dataclass(frozen=True, kw_only=True)
class Row:
    """A line of the table; ``is_step``: whether it is one, or a file or an attack below it."""

    cells: Sequence[str]
    is_step: bool


@dataclass(frozen=True, kw_only=True)
class ChainPage:
    """What templates/chain.html lays out. ``warnings``: of runs that were moved or are gone."""

    title: str
    chain: Chain
    charts: Sequence[Chart]
    header: Sequence[str]
    rows: Sequence[Row]
    warnings: Sequence[str]
    commands: Sequence[str]


def write_chain(folder: Path, output: Path | None = None) -> Path:
    """Write the page of the chain that ends at a run; returns its path, by default ``report.html`` in the run folder.

    Raises InputError for no such run, or where the page cannot be written.
    """
    chain = read_chain(folder)
    home = chain.last.folder
    assert home is not None
    path = output if output is not None else home / REPORT_FILE
    with writing(path):
        write_text(path, rendered(TEMPLATES, "chain.html", chain_page(chain)))
    return path


def write_chain_picture(folder: Path, output: Path) -> Path:
    """Write the picture of the chain that ends at a run into a folder, for documents. Errors: as of write_chain."""
    chain = read_chain(folder)
    with writing(output):
        output.mkdir(parents=True, exist_ok=True)
        write_picture(picture(chain), output / PICTURE)
    return output / PICTURE


def chain_page(chain: Chain) -> ChainPage:
    return ChainPage(
        title=" → ".join(step.name for step in chain.steps),
        chain=chain,
        charts=charts(chain),
        header=HEADER,
        rows=[row for step in chain.steps for row in _rows(step)],
        warnings=[f"{step.name}: {note}" for step in chain.steps for note in step.notes],
        commands=[shell_line(["python", *words]) for words in not_done_yet(chain.last)],
    )


def _rows(step: Step) -> Iterator[Row]:
    accuracy = step.accuracy
    score = shown_score(accuracy.percent, accuracy.n_images, accuracy.images) if accuracy is not None else "-"
    times, sizes = map(_costs, (step.latencies, step.sizes))
    yield Row(cells=(step.kind, step.name, score, times, sizes, "; ".join(step.notes)), is_step=True)
    for attack in step.attacks:
        yield Row(cells=_attack_cells(attack), is_step=False)
    for export in step.exports:
        yield Row(cells=_export_cells(export), is_step=False)


def _costs(costs: Sequence[Cost]) -> str:
    return "; ".join(f"{_amount(cost)}, {cost.how} ({cost.by})" for cost in costs) or "-"


def _amount(cost: Cost) -> str:
    return f"{format_count(cost.value)}B" if cost.how is How.COUNTED else f"{cost.value:.4g} ms"


def _attack_cells(attack: Attack) -> tuple[str, ...]:
    signs = f"{attack.n_alarms} alarms" if attack.n_alarms else "no sign"
    as_float = ", as float" if attack.as_float else ""
    score = f"{shown_score(attack.percent, attack.n_images)}, each pixel by {attack.epsilon}{as_float}"
    return "attacked", readable(attack.folder.name), score, "", "", f"{signs} that the gradients mislead"


def _export_cells(export: Export) -> tuple[str, ...]:
    score = shown_score(export.percent, export.n_images) if export.percent is not None else "-"
    ms, size = f"{export.ms:.4g} ms, measured ({export.runtime})", f"{format_count(export.n_bytes)}B"
    moved = f"; the machine's speed moved by {export.drift_percent:.0f} % while it was timed"
    note = export.format + (moved if export.drift_percent > 100 * MAX_DRIFT else "")
    return "exported", readable(export.file.name), score, ms, size, note
