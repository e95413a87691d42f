"""A family of networks: several searches that differ in their target, and share their warm-up.

    from search import SearchConfig, run_family
    runs = run_family(SearchConfig.of(data_path="photos/"), "runs/family", target_latency_ms=(60, 80, 100))

The warm-up depends on no target: the first search does it, the others start behind it. Each has its run folder within
the family's. A search that is there already is taken as it is, an unfinished one is resumed: call it again.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from proxyless_arch.apps.scores import shown_score
from proxyless_arch.base.errors import ElsewhereError, InputError, StoppedError
from proxyless_arch.base.files import write_json
from proxyless_arch.base.progress import speak
from proxyless_arch.base.runs import CONFIG_FILE, RESULT_FILE, locked, new_run_dir
from proxyless_arch.base.schema import judged
from proxyless_arch.base.strict import counted, listed, plain_number
from proxyless_arch.base.text import align, ruled
from proxyless_arch.base.units import Unit, format_count
from proxyless_arch.drawing.scene import write_picture
from proxyless_nas import distributed
from proxyless_nas.devices import pick_device
from proxyless_nas.opening import ROOT
from search.config import LEFT_OPEN, TARGET_KEY, SearchConfig, to_dict, with_settings
from search.reporting.networks import plane_of
from search.reporting.run_folder import Run, read_run
from search.reporting.titles import told_apart
from search.run import job as jobs
from search.run import warmup
from search.run.runner import run_search

RECORD, CURVE = "family.json", "family.png"


def run_family(
    config: SearchConfig,
    path: str | os.PathLike[str] | None = None,
    *,
    warmup_from: str | os.PathLike[str] | None = None,
    dry_run: bool = False,
    **targets: Sequence[float],
) -> list[Run] | None:
    """Search a network for each of several targets; the settings are ``config``'s otherwise.

    Args:
        path: the family's folder (default: a dated one under runs/).
        targets: ``target_latency_ms`` or ``target_macs``, several of them.
        warmup_from, dry_run: as for run_search.

    Returns the runs; None in all processes but the first, and of a dry run. Raises what run_search raises, and
    InputError for a target that is named twice or cannot be met, before anything is begun.
    """
    unit, values = _asked(targets)
    if config.arch.arch_algo == "random":
        raise InputError("--arch_algo random takes one target", f"--{TARGET_KEY[unit]}")
    members = {name_of(unit, each): with_settings(config, {TARGET_KEY[unit]: each}) for each in values}
    source = Path(warmup_from) if warmup_from is not None else None
    own = Path(path) if path is not None else None
    with distributed.init_from_environment(config.device) as device:
        if dry_run:
            say_what_would_be_done(members, own, source)
            return None
        for each in members.values():
            jobs.prepare(each, device, lambda line: None, measures=False)
        with claimed(own) as folder:
            search_all(members, folder, source)
            if not distributed.is_main():
                return None
            runs = [read_run(folder / name) for name in members]
            _write(folder, unit, runs)
            return runs


def _asked(targets: Mapping[str, Sequence[float]]) -> tuple[Unit, Sequence[float]]:
    """The unit and the targets. Raises InputError."""
    units = {key: unit for unit, key in TARGET_KEY.items()}
    if unknown := [name for name in targets if name not in units]:
        raise InputError(f"expected {listed(units)}, got {unknown[0]}", "targets")
    if len(targets) != 1:
        raise InputError("several targets of one kind at a time", f"--{list(targets)[-1]}" if targets else "targets")
    ((key, values),) = targets.items()
    if len(set(values)) != len(values) or not values:
        raise InputError("a target is named twice" if values else "expected targets, got none", f"--{key}")
    return units[key], values


def name_of(unit: Unit, target: float) -> str:
    """Of a search's folder: ``80ms``, ``300000000macs``."""
    return f"{plain_number(target)}{unit.name.lower()}"


# Searches that share a warm-up, by the names of their run folders ---------------------------------------------------


@contextmanager
def claimed(path: Path | None) -> Iterator[Path]:
    """The folder of a family, which may be there already, held against other processes.

    One that was made for it is removed where nothing was written. Raises InputError.
    """
    with ExitStack() as held:
        with distributed.fail_together():
            own, made = path, path is None or not path.exists()
            if distributed.is_main():
                own = _made(path)
                held.enter_context(locked(own))
        folder = distributed.broadcast_value(own or Path())
        try:
            yield folder
        finally:
            held.close()
            if made and distributed.is_main() and not any(folder.iterdir()):
                folder.rmdir()


def _made(path: Path | None) -> Path:
    if path is None:
        return new_run_dir(None, ROOT)
    if (path / CONFIG_FILE).is_file():
        raise InputError("holds one search; several need a folder of their own", "--run_dir", str(path))
    path.mkdir(parents=True, exist_ok=True)
    return path


@dataclass(frozen=True)
class _State:
    """Where a search of a family stands, and the run whose warm-up it starts behind."""

    is_done: bool
    is_begun: bool
    warmup_from: Path | None

    @classmethod
    def of(cls, name: str, members: Mapping[str, SearchConfig], folder: Path | None, source: Path | None) -> _State:
        if folder is None:
            return cls(False, False, source)
        own, config = folder / name, members[name]
        is_begun = (own / CONFIG_FILE).is_file()
        if not is_begun and source is None and config.warmup.warmup_epochs:
            source = warmed(config, [folder / other for other in members])
        return cls((own / RESULT_FILE).is_file(), is_begun, None if is_begun else source)


def search_all(members: Mapping[str, SearchConfig], folder: Path, warmup_from: Path | None = None) -> None:
    """Every search in turn: finished already, resumed, or begun; behind the warm-up of another where that is the one
    that it needs. Raises what run_search raises, naming the search that did not finish."""
    if distributed.is_main() and (line := sharing(members, folder, warmup_from)) is not None:
        speak(line)
    for name, config in members.items():
        with distributed.fail_together():
            state = _State.of(name, members, folder, warmup_from) if distributed.is_main() else None
        state = distributed.broadcast_value(state)
        if state.is_done:
            continue
        if distributed.is_main():
            shared = state.warmup_from is not None and warmup_from is None
            speak(f"\n== {name}{f', behind the warm-up of {state.warmup_from.name}' if shared else ''} ==")
        own, given = folder / name, None if state.is_begun else config
        try:
            result = run_search(given, own, resume=state.is_begun, warmup_from=state.warmup_from)
        except ElsewhereError:
            raise
        except (InputError, StoppedError) as error:
            raise InputError(f"the search for this target did not finish: {error}", name, str(own)) from None
        if result is not None:
            speak(str(result))


def say_what_would_be_done(
    members: Mapping[str, SearchConfig], folder: Path | None, warmup_from: Path | None = None
) -> None:
    """The header of each search that is not finished; nothing is written."""
    if distributed.is_main() and (line := sharing(members, folder or Path(), warmup_from)) is not None:
        speak(line)
    for name, config in members.items():
        state = _State.of(name, members, folder, warmup_from)
        if distributed.is_main():
            speak(f"\n== {name} ==" + ("\nfinished already" if state.is_done else ""))
        if state.is_done:
            continue
        own, given = folder / name if folder is not None else None, None if state.is_begun else config
        try:
            run_search(given, own, resume=state.is_begun, warmup_from=state.warmup_from, dry_run=True)
        except InputError as error:
            raise InputError(error.problem, error.place or name, error.source) from None


def sharing(members: Mapping[str, SearchConfig], folder: Path, warmup_from: Path | None = None) -> str | None:
    """One line on the warm-up that the searches still to be begun share; None where they do not."""
    found = [config for name, config in members.items() if not (folder / name / CONFIG_FILE).is_file()]
    if not found or warmup_from is not None or not all(config.warmup.warmup_epochs for config in found):
        return None
    is_there = warmed(found[0], [folder / name for name in members]) is not None
    saved = len(found) if is_there else len(found) - 1
    warm, search = found[0].warmup.warmup_epochs, found[0].weights.n_epochs
    if saved == 0:
        return None
    return (
        f"the warm-up ({counted(warm, 'epoch')}) depends on no target and is done once: "
        f"this saves {saved * warm} of {len(found) * (warm + search)} epochs"
    )


def warmed(config: SearchConfig, others: Sequence[Path]) -> Path | None:
    """The first run folder among ``others`` whose warm-up is the one that ``config`` asks for; None where none is."""
    for folder in others:
        if (folder / warmup.NAME).is_file() and (folder / CONFIG_FILE).is_file():
            theirs = judged(folder / CONFIG_FILE, {})
            if warmup.lacks_a_part(theirs):
                continue  # an older run: what it was done with is not all known
            ours = to_dict(config)
            for name in LEFT_OPEN:  # it takes theirs over with the warm-up
                if ours[name] is None:
                    ours[name] = theirs.get(name, 1)
            differs = warmup.differences(ours, theirs, str(folder / CONFIG_FILE))
            if not differs and warmup.computed_alike(folder, pick_device(config.device), config.torch_threads):
                return folder
    return None


# What they come to ---------------------------------------------------------------------------------------------------


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


def family_table(runs: Sequence[Run]) -> str:
    """The family for a terminal: the runs of run_family."""
    unit, folder = runs[0].unit, runs[0].folder.parent
    assert unit is not None
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
