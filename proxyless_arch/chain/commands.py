"""What comes after a command in a chain, and what was not done yet with the network at the end of one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from proxyless_arch.apps.evaluation import DIGITS
from proxyless_arch.apps.next_commands import (
    after_export,
    attacking,
    exporting,
    pruning,
    quantizing,
    reporting,
)
from proxyless_arch.arch.bits import PLAN_FILE, BitPlan, folds, read_plan
from proxyless_arch.arch.codec import read_spec
from proxyless_arch.arch.shrink import can_shrink
from proxyless_arch.arch.spec import RGB, ArchSpec
from proxyless_arch.base.cli import command_line
from proxyless_arch.chain.reading import is_in_chain
from proxyless_arch.chain.values import Kind, Step
from proxyless_arch.exports.bit_files import HOLDS, formats_for, needs_ranges
from proxyless_arch.exports.exporting import ExportConfig
from proxyless_arch.weights.lookup import SPEC_FILE

Words = tuple[str, ...]


def commands_after_export(arguments: ExportConfig, record: Mapping[str, Any], script: str) -> list[str | None]:
    """A file at work, one with few bits where there is one; and of a run in a chain its page."""
    smallest_first = sorted(record["files"], key=lambda file: file["format"] not in HOLDS)
    files = [arguments.output / file["file"] for file in smallest_first]
    images = arguments.check or (DIGITS if record["check"]["labelled"] else None)
    run = Path(str(arguments.arch))
    page = command_line(*reporting(run)) if is_in_chain(run) else None
    return [after_export(files, images, script), page]


def export_words(
    run: Path, images: str | None, plan: BitPlan | None, spec: ArchSpec, hardware: str | None = None
) -> Words | None:
    """Words that write a run's network for a ``hardware`` of quantize.py, under its plan where it has one; None where
    no file can hold that."""
    kind = formats_for(plan, spec, hardware)
    calibrates = plan is not None and needs_ranges(plan, "litert_mixed")
    return exporting(run, images, *kind, calibrates=calibrates) if kind is not None else None


def not_done_yet(step: Step) -> Iterator[Words]:
    """Words of what can still be done with the last network of a chain."""
    run, images = step.folder, step.data_path
    if run is None or step.accuracy is None:
        return
    spec = read_spec(run / SPEC_FILE)
    plan = read_plan(run / PLAN_FILE, spec) if (run / PLAN_FILE).is_file() else None
    if step.kind in (Kind.SEARCHED, Kind.TRAINED) and plan is None and can_shrink(spec):
        yield pruning(run, spec)
    if plan is None and folds(spec):
        yield quantizing(run, spec)
    if not step.attacks and spec.preprocessing.hwc == (spec.resolution, spec.resolution, RGB):
        yield attacking(run, images)
    if not step.exports and (words := export_words(run, images, plan, spec, step.hardware)) is not None:
        yield words
