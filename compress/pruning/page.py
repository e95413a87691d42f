"""The page of a family of pruned networks: its curve, a row for each network, and the commands that go on with one.

One file that holds all it shows. The rows are also what the command prints.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from proxyless_arch.base.files import write_text
from proxyless_arch.base.units import format_count
from proxyless_arch.drawing.pages import rendered
from proxyless_arch.drawing.scene import Scene

if TYPE_CHECKING:
    from compress.pruning.result import PruneResult

FILE = "family.html"
HEADER = ("network", "asked", "predicted ms", "measured ms", "MACs", "parameters", "top-1 pruned, %", "fine-tuned, %")
TEMPLATES = Path(__file__).parent / "templates"


def rows(family: Sequence[PruneResult]) -> list[tuple[str, ...]]:
    """The network before pruning, then each of the family: cells as HEADER names them."""
    record = family[0].record
    before = (
        record["parent"] or "-",
        "",
        _number(record["parent_predicted_latency_ms"]),
        _number(record["parent_measured_latency_ms"]),
        format_count(record["parent_macs"]),
        format_count(record["parent_params"]),
        _number(record["parent_test_top1_percent"], ".1f"),
        "",
    )
    return [before, *map(_row, family)]


def _row(result: PruneResult) -> tuple[str, ...]:
    record = result.record
    ms, macs = record["target_latency_ms"], record["target_macs"]
    return (
        result.folder.name,
        f"{ms:.4g} ms" if ms is not None else f"{format_count(macs)} MACs" if macs is not None else "",
        _number(record["predicted_latency_ms"]),
        _number(record["measured_latency_ms"]) + ("" if record["landed"] in (None, True) else ", not landed"),
        format_count(record["macs"]),
        format_count(record["params"]),
        _number(record["inherited_test_top1_percent"], ".1f"),
        _number(record["test_top1_percent"], ".1f") if record["finetune_epochs"] else "",
    )


def _number(value: float | None, form: str = ".4g") -> str:
    return "-" if value is None else f"{value:{form}}"


@dataclass(frozen=True)
class FamilyPage:
    """What templates/family.html lays out."""

    title: str
    n_test_images: int
    curve: Scene
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    commands: Sequence[tuple[str, Sequence[str]]]


def write_page(family: Sequence[PruneResult], curve: Scene, commands: Sequence[Sequence[str]], file: Path) -> None:
    """``commands``: of each network, a line each."""
    page = FamilyPage(
        title=f"{family[0].record['parent'] or 'a network'}, pruned to {len(family)} targets",
        n_test_images=family[0].record["n_test_images"],
        curve=curve,
        header=HEADER,
        rows=rows(family),
        commands=[(result.folder.name, lines) for result, lines in zip(family, commands, strict=True)],
    )
    write_text(file, rendered(TEMPLATES, "family.html", page))
