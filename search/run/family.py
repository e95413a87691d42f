"""A family of networks: several searches that differ in their target, and share their warm-up.

    from search import SearchConfig, run_family
    runs = run_family(SearchConfig.of(data_path="photos/"), "runs/family", target_latency_ms=(60, 80, 100))

The warm-up depends on no target: the first search does it, the others start behind it. Each has its run folder within
the family's. A search that is there already is taken as it is, an unfinished one is resumed: call it again.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from proxyless_arch.apps.scores import score_interval, shown_score
from proxyless_arch.base.errors import InputError
from proxyless_arch.base.files import write_json
from proxyless_arch.base.progress import speak
from proxyless_arch.base.runs import CONFIG_FILE, RESULT_FILE, locked, new_run_dir
from proxyless_arch.base.schema import judged
from proxyless_arch.base.strict import counted, listed, plain_number
from proxyless_arch.base.text import align, ruled
from proxyless_arch.base.units import Unit, format_count
from proxyless_arch.base.words import LAUNCHER, MEASURABLE
from proxyless_arch.drawing.scene import write_picture
from proxyless_arch.launch.launcher import LOCAL, Job, Launcher, all_done
from proxyless_nas import distributed
from proxyless_nas.devices import pick_device
from proxyless_nas.fast import kernels_in_use
from proxyless_nas.opening import ROOT
from search.config import (
    LEFT_OPEN,
    TARGET_KEY,
    SearchConfig,
    anchored,
    check_size,
    default_space,
    from_dict,
    to_dict,
    with_settings,
)
from search.reporting.networks import plane_of
from search.reporting.run_folder import Run, read_run
from search.reporting.titles import told_apart
from search.run import job as jobs
from search.run import warmup
from search.run.loop import search_epochs
from search.run.runner import run_search

RECORD, CURVE = "family.json", "family.png"
MEMBER = "search.run.family:search_member"
HERE = Launcher()
SIZE = "resolution"


def run_family(
    config: SearchConfig,
    path: str | os.PathLike[str] | None = None,
    *,
    warmup_from: str | os.PathLike[str] | None = None,
    dry_run: bool = False,
    launcher: Launcher = HERE,
    **several: Sequence[float],
) -> list[Run] | None:
    """Search a network for each of several targets, or at each of several image sizes; else by ``config``'s settings.

    Args:
        path: the family's folder (default: a dated one under runs/).
        several: ``target_latency_ms``, ``target_macs`` or ``resolution``, several of one of them. Sizes are compared at
            the target of ``config``, behind one warm-up whose steps have images of all of them.
        warmup_from, dry_run: as for run_search.
        launcher: where the searches are done. One that fails leaves the others alone.

    Returns the runs; None in all processes but the first, and of a dry run. Raises InputError for a target or size that
    is named twice or cannot be met, before anything is begun, and what search_all raises.
    """
    members = _members(config, several)
    source = Path(warmup_from) if warmup_from is not None else None
    own = Path(path) if path is not None else None
    with distributed.init_from_environment(config.device) as device:
        if dry_run:
            say_what_would_be_done(members, own, source)
            return None
        for name, each in members.items():
            with _named(name) if SIZE in several else nullcontext():
                jobs.prepare(each, device, lambda line: None, measures=False)
        with claimed(own) as folder:
            search_all(members, folder, source, launcher)
            if not distributed.is_main():
                return None
            runs = [read_run(folder / name) for name in members]
            _write(folder, runs)
            return runs


def _members(config: SearchConfig, several: Mapping[str, Sequence[float]]) -> dict[str, SearchConfig]:
    """The settings of each search, by the name of its folder. Raises InputError."""
    units = {key: unit for unit, key in TARGET_KEY.items()}
    if unknown := [name for name in several if name not in (*units, SIZE)]:
        raise InputError(f"expected {listed((*units, SIZE))}, got {unknown[0]}", "targets")
    if len(several) != 1:
        raise InputError("several values of one kind at a time", f"--{list(several)[-1]}" if several else "targets")
    ((key, values),) = several.items()
    what = "target" if key in units else "size"
    if len(set(values)) != len(values) or not values:
        raise InputError(f"a {what} is named twice" if values else f"expected {what}s, got none", f"--{key}")
    if config.arch.arch_algo == "random":
        raise InputError(f"--arch_algo random takes one {what}", f"--{key}")
    if key == SIZE:
        return _of_sizes(config, sorted(map(int, values), reverse=True))
    return {name_of(units[key], each): with_settings(config, {key: each}) for each in values}


def _of_sizes(config: SearchConfig, sizes: Sequence[int]) -> dict[str, SearchConfig]:
    """The largest comes first: it does the warm-up, whose images are made smaller for the other sizes."""
    if config.data.mixed_resolutions is not None:
        raise InputError(f"has no meaning with --{SIZE}s, which are those of the warm-up", "--mixed_resolutions")
    check_size(*sizes, flag=f"--{SIZE}s")
    if config.target.target_latency_ms is None and config.target.target_macs is None:
        raise InputError(
            "sizes are compared at one target: add --target_latency_ms MS or --target_macs N", f"--{SIZE}s"
        )
    common = {
        "mixed_resolutions": ",".join(map(str, reversed(sizes))),
        "space": config.space.space or default_space(sizes[0]),
    }
    return {f"{size}px": with_settings(config, {**common, SIZE: size}) for size in sizes}


@contextmanager
def _named(name: str) -> Iterator[None]:
    """An InputError says which search of the family it is of."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{name}: {error.problem}", error.place, error.source) from None


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


def search_all(
    members: Mapping[str, SearchConfig], folder: Path, warmup_from: Path | None = None, launcher: Launcher = HERE
) -> None:
    """Every search: finished already, resumed, or begun; behind the warm-up of another where that is the one that it
    needs.

    Raises:
        InputError: a launcher that cannot do them; or each search that did not finish refused its input.
        StoppedError: searches did not finish; the message names them. With several processes (torchrun) the first that
            fails ends all, with what run_search raises.
    """
    if distributed.is_main() and (line := sharing(members, folder, warmup_from)) is not None:
        speak(line)
    if not launcher.is_here:
        _check_launcher(members, launcher)
        members = {name: anchored(config) for name, config in members.items()}
        folder, warmup_from = folder.absolute(), warmup_from.absolute() if warmup_from is not None else None
    common = {
        "members": {
            name: to_dict(config if launcher.is_here else anchored(config)) for name, config in members.items()
        },
        "folder": str(folder if launcher.is_here else folder.absolute()),
        "warmup_from": str(warmup_from.absolute()) if warmup_from is not None else None,
    }
    every = {name: Job(name, MEMBER, {"name": name, **common}) for name in members}

    def ready(ended: Collection[str]) -> list[Job]:
        names = members if launcher.is_here else _ready(members, folder, warmup_from, ended)
        return [every[name] for name in names]

    goes_on = distributed.world_size() == 1
    all_done(launcher.run(ready, folder, goes_on=goes_on, say=speak), "run", say=speak)


def _check_launcher(members: Mapping[str, SearchConfig], launcher: Launcher) -> None:
    """Raises InputError where searches in other processes would not do; makes the latency tables that they need."""
    if distributed.world_size() > 1:
        raise InputError("has no use where torchrun starts the processes", LAUNCHER.flag)
    measured = [config for config in members.values() if config.target.target_hardware in MEASURABLE]
    if not measured:
        return
    if launcher.kind != LOCAL:
        hardware = measured[0].target.target_hardware
        raise InputError(
            f"a search for {hardware} measures the machine that it runs on: expected {LOCAL}, got {launcher.kind}",
            LAUNCHER.flag,
        )
    for config in measured:  # now, while the machine is quiet
        jobs.prepare(config, pick_device(config.device), speak)
    speak("note: networks are measured while other searches run, which takes longer and is less exact")


def _ready(
    members: Mapping[str, SearchConfig], folder: Path, source: Path | None, ended: Collection[str]
) -> Iterator[str]:
    """The searches that can begin now. Of those that need a warm-up one does it; the others wait for it."""
    warms_up = False
    for name, config in members.items():
        own = folder / name
        state = _State.of(name, members, folder, source)
        lacks = bool(config.warmup.warmup_epochs) and source is None and state.warmup_from is None
        lacks = lacks and not (state.is_done or name in ended or (own / warmup.NAME).is_file())
        if state.is_begun or not lacks or not warms_up:
            yield name
        warms_up = warms_up or lacks


def search_member(
    name: str, members: Mapping[str, dict[str, Any]], folder: str, warmup_from: str | None = None
) -> None:
    """One search of a family, from where it stands: a job, so all is JSON. Raises what run_search does."""
    configs = {each: from_dict(value, each) for each, value in members.items()}
    own, source = Path(folder) / name, Path(warmup_from) if warmup_from is not None else None
    with distributed.fail_together():
        state = _State.of(name, configs, Path(folder), source) if distributed.is_main() else None
    state = distributed.broadcast_value(state)
    if state.is_done:
        return
    if distributed.is_main():
        shared = state.warmup_from is not None and source is None
        speak(f"\n== {name}{f', behind the warm-up of {state.warmup_from.name}' if shared else ''} ==")
    given = None if state.is_begun else configs[name]
    result = run_search(given, own, resume=state.is_begun, warmup_from=state.warmup_from)
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
        if given is not None and name != next(iter(members)) and state.warmup_from is None:
            given = with_settings(given, {"mixed_resolutions": None})  # the first one's warm-up has the others' sizes
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
    warm, search = found[0].warmup.warmup_epochs, search_epochs(found[0])
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
            device = pick_device(config.device)
            kernels = kernels_in_use(config.kernels, device)
            if not differs and warmup.computed_alike(folder, device, config.torch_threads, kernels):
                return folder
    return None


# What they come to ---------------------------------------------------------------------------------------------------


def _entry(run: Run) -> dict[str, Any]:
    assert run.result is not None
    kept = (
        "resolution",
        "landed",
        "test_top1_percent",
        "n_test_images",
        "top1_percent",
        "macs",
        "params",
        "wall_seconds",
    )
    return {
        "run": run.folder.name,
        "target": run.target,
        "predicted": run.predicted,
        "measured_ms": run.measured_ms,
        **{key: run.result.get(key) for key in kept},
    }


def _write(folder: Path, runs: Sequence[Run]) -> None:
    """The record and the curve of a family."""
    write_json(folder / RECORD, {"cost_unit": runs[0].unit, "networks": [_entry(run) for run in runs]})
    plane = plane_of(told_apart(runs))
    if plane is not None and plane.chart is not None:
        write_picture(plane.chart.scene, folder / CURVE)


def family_table(runs: Sequence[Run]) -> str:
    """The family for a terminal: the runs of run_family."""
    unit, folder = runs[0].unit, runs[0].folder.parent
    assert unit is not None
    lines = [["images", "searched for", "predicted", "measured", "landed", "test top-1", "MACs"]]
    for run in runs:
        entry: Mapping[str, Any] = _entry(run)
        assert run.target is not None and run.predicted is not None
        measured = entry["measured_ms"]
        landed = {True: "yes", False: "NO", None: "-"}[entry["landed"]]
        score = shown_score(entry["test_top1_percent"], entry["n_test_images"])
        cells = [unit.short(run.target), unit.short(run.predicted), Unit.MS.short(measured) if measured else "-"]
        lines.append([f"{entry['resolution']} px", *cells, landed, score, format_count(entry["macs"])])
    sizes = {_entry(run)["resolution"] for run in runs}
    best = [_best_size(runs)] if len(sizes) > 1 else []
    return "\n".join([*ruled(align(lines)), *best, f"written to {folder}: {RECORD}, {CURVE}, one run each"])


def _best_size(runs: Sequence[Run]) -> str:
    """One line on the size that scores best on the images that choose, and on those that chance may have put behind."""
    first, *others = sorted(map(_scored_alike, runs), reverse=True)
    score, n_images, size = first
    low, _ = score_interval(score, n_images)
    beaten = [f"{other[2]} px" for other in others if score_interval(other[0], n_images)[1] < low]
    rest = [f"{other[2]} px" for other in others if f"{other[2]} px" not in beaten]
    doubt = f"; {', '.join(rest)} could be as good (95% intervals overlap)" if rest else ""
    return f"best: {size} px, {shown_score(score, n_images, 'architecture-validation images')}{doubt}"


def _scored_alike(run: Run) -> tuple[float, int, int]:
    """(top-1 in percent, of so many architecture-validation images, resolution): inherited, or fine-tuned."""
    assert run.result is not None
    tuned = run.result.get("finetuned_top1_percent")
    return (
        run.result["top1_percent"] if tuned is None else tuned,
        run.result["n_valid_images"],
        run.result["resolution"],
    )
