"""A family of networks: one search for each of several targets, behind one warm-up, and the curve that they make.

The first search does the warm-up, which depends on no target; the others start behind it. Each has its run folder
within the family's. A search that is there already is taken as it is, an unfinished one is resumed: call it again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from proxyless_arch.apps.scores import shown_score
from proxyless_arch.base.errors import InputError
from proxyless_arch.base.files import write_json
from proxyless_arch.base.progress import speak
from proxyless_arch.base.runs import CONFIG_FILE, RESULT_FILE, new_run_dir
from proxyless_arch.base.strict import plain_number
from proxyless_arch.base.text import align, ruled
from proxyless_arch.base.units import Unit, format_count
from proxyless_arch.drawing.scene import write_picture
from proxyless_nas import distributed
from search.config import TARGET_KEY, SearchConfig, with_settings
from search.reporting.networks import plane_of
from search.reporting.run_folder import Run, read_run
from search.reporting.titles import told_apart
from search.run import job as jobs
from search.run.runner import ROOT, run_search

RECORD, CURVE = "family.json", "family.png"


def name_of(unit: Unit, target: float) -> str:
    """Of a search's folder: ``80ms``, ``300000000macs``."""
    return f"{plain_number(target)}{unit.name.lower()}"


def run_family(
    config: SearchConfig,
    unit: Unit,
    targets: Sequence[float],
    path: Path | None = None,
    *,
    warmup_from: Path | None = None,
    dry_run: bool = False,
) -> list[Run] | None:
    """Search a network for each of ``targets``, in ``unit``; the settings are ``config``'s otherwise.

    Returns the runs; None in all processes but the first, and of a dry run. Raises what run_search raises, and
    InputError for a target that is named twice or cannot be met, before anything is begun.
    """
    if len(set(targets)) != len(targets):
        raise InputError("a target is named twice", f"--{TARGET_KEY[unit]}")
    configs = [with_settings(config, {TARGET_KEY[unit]: target}) for target in targets]
    with distributed.init_from_environment(config.device) as device:
        if not dry_run:
            for each in configs:
                jobs.prepare(each, device, lambda line: None, measures=False)
        folder = _claimed(path, dry_run)
        found, source = [], warmup_from
        for target, each in zip(targets, configs, strict=True):
            own = folder / name_of(unit, target)
            if distributed.is_main():
                speak(f"\n== {name_of(unit, target)} ==")
            _search(each, own, source, dry_run)
            source = source or (own if each.warmup.warmup_epochs and not dry_run else None)
            found.append(own)
        if dry_run or not distributed.is_main():
            return None
        runs = [read_run(own) for own in found]
        _write(folder, unit, runs)
        return runs


def _claimed(path: Path | None, dry_run: bool) -> Path:
    """The family's folder, which may be there already."""
    with distributed.fail_together():
        own = path
        if path is None and not dry_run and distributed.is_main():
            own = new_run_dir(None, ROOT)
        elif path is not None and not dry_run and distributed.is_main():
            if (path / CONFIG_FILE).is_file():
                raise InputError("holds one search; several need a folder of their own", "--run_dir", str(path))
            path.mkdir(parents=True, exist_ok=True)
    return distributed.broadcast_value(own or Path())


def _search(config: SearchConfig, folder: Path, source: Path | None, dry_run: bool) -> None:
    """One search: finished already, resumed, or begun."""
    with distributed.fail_together():
        is_done = distributed.broadcast_value((folder / RESULT_FILE).is_file())
    if is_done:
        return
    resume = distributed.broadcast_value((folder / CONFIG_FILE).is_file())
    run_search(
        None if resume else config, folder, resume=resume, warmup_from=None if resume else source, dry_run=dry_run
    )


def _entry(run: Run) -> dict[str, Any]:
    assert run.result is not None
    kept = ("landed", "test_top1_percent", "n_test_images", "top1_percent", "macs", "params", "wall_seconds")
    return {
        "run": run.folder.name,
        "target": run.target,
        "predicted": run.predicted,
        "measured_ms": run.measured_ms,
        **{key: run.result.get(key) for key in kept},
    }


def _write(folder: Path, unit: Unit, runs: Sequence[Run]) -> None:
    """The record and the curve of a family."""
    write_json(folder / RECORD, {"cost_unit": unit, "networks": [_entry(run) for run in runs]})
    plane = plane_of(told_apart(runs))
    if plane is not None and plane.chart is not None:
        write_picture(plane.chart.scene, folder / CURVE)


def table(folder: Path, unit: Unit, runs: Sequence[Run]) -> str:
    """The family for a terminal."""
    lines = [["searched for", "predicted", "measured", "landed", "test top-1", "MACs"]]
    for run in runs:
        entry: Mapping[str, Any] = _entry(run)
        assert run.target is not None and run.predicted is not None
        measured = entry["measured_ms"]
        landed = {True: "yes", False: "NO", None: "-"}[entry["landed"]]
        score = shown_score(entry["test_top1_percent"], entry["n_test_images"])
        cells = [unit.short(run.target), unit.short(run.predicted), Unit.MS.short(measured) if measured else "-"]
        lines.append([*cells, landed, score, format_count(entry["macs"])])
    return "\n".join([*ruled(align(lines)), f"written to {folder}: {RECORD}, {CURVE}, one run per target"])
