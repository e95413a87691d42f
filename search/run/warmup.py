"""One warm-up for several searches: it depends on neither target nor algorithm, so a search can start behind another's.

At the end of its warm-up every search keeps ``warmup.pt`` in its run folder, a checkpoint of that moment. A search that
starts from it ends where it would have ended with a warm-up of its own, on the CPU of one machine bit for bit. What is
checked to be the same: the settings that a warm-up depends on, the images, the number of processes, the kind of device,
and torch's version and threads. The machine is not: another processor may round otherwise, and a GPU does so from run
to run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from proxyless_arch.base.errors import InputError
from proxyless_arch.base.files import read_json
from proxyless_arch.base.runs import METRICS_FILE, read_metrics
from proxyless_arch.base.settings import absent
from proxyless_arch.base.strict import Node, shown
from proxyless_arch.base.words import TORCH_KERNELS
from proxyless_nas.fast import kernels_in_use
from search.config import PATHS, SearchConfig, flags, from_dict, to_dict
from search.run import checkpoint
from search.run.checkpoint import Checkpoint
from search.run.log import RunLog
from search.run.loop import Schedule, Search

NAME = "warmup.pt"
FLAG = "--warmup_from"
DAMAGED = f"take the warm-up of another run, or run it again without {FLAG}"
NO_PART_GROUPS = ("arch", "target", "finish")
NO_PART = ("n_epochs", "init_lr", "test_batch_size", "n_worker", "kernels")
"""Settings, beside those groups, that a warm-up does not depend on, or that are told by what computed it."""
NO_PART_OF_DIGITS = ("exif", "data_edition")
"""Settings that images in no folder do not depend on."""
NO_PART_DATA = ("latency_table", "target")
CHOOSE_IMAGES = ("dataset", "data_path", "valid_size", "manual_seed")
"""Settings that the images of each part follow from; a difference in them is said first."""
FOLLOWS = {
    "num_threads": ("torch_threads",),
    "device_type": ("device",),
    "class_names": ("dataset", "data_path"),
    **{f"{part}_images": CHOOSE_IMAGES for part in ("train", "valid", "test")},
    **{f"{part}_names": (*CHOOSE_IMAGES, f"{part}_images") for part in ("train", "valid", "test")},
}
"""What is not said where one of these differs: it is a consequence."""
HASHED = {
    "train_names": "other training images",
    "valid_names": "other architecture-validation images",
    "test_names": "other test images",
    "class_names": "other classes",
}
CARRIED = ("train_loss", "train_top1_percent", "learning_rate", "images_per_second", "seconds")
"""Fields of an epoch record that the warm-up wrote; the others follow from the search that takes it over."""


@dataclass(frozen=True)
class WarmUp:
    """The warm-up of the run in ``folder``: the state at its end, and for each epoch the CARRIED fields."""

    folder: Path
    state: Checkpoint
    epochs: tuple[dict[str, float | None], ...]

    @property
    def seconds(self) -> float:
        """What it took, in the run that did it."""
        return self.state.wall_seconds

    def put_before(self, search: Search) -> None:
        """Bring ``search``, a new one, to the end of this warm-up. Raises InputError when its supernet is another."""
        _check_tensors(self.state.supernet, search.supernet.state_dict(), str(self.folder / NAME))
        search.start_behind(self.state, str(self.folder / NAME))


def settings_with_a_part() -> list[str]:
    """The settings that a warm-up depends on. A new setting is one of them until it is said to be none."""
    return [name for name, (group, *_) in flags().items() if group not in NO_PART_GROUPS and name not in NO_PART]


def lacks_a_part(theirs: Any) -> bool:
    """Whether config.json data lack a setting that a warm-up depends on, being older."""
    return isinstance(theirs, dict) and bool(set(absent(SearchConfig, theirs)) & set(settings_with_a_part()))


def differences(ours: dict[str, Any], theirs: dict[str, Any], source: str) -> dict[str, str]:
    """``name was VALUE, here it is VALUE`` for every setting that makes two warm-ups differ, by its name.

    Both are config.json data. Raises InputError naming ``source`` when ``theirs`` is none, or lacks one of these, being
    older; what else it lacks has no part in a warm-up.
    """
    without = NO_PART_OF_DIGITS if ours["dataset"] == "digits" else ()
    names = [name for name in dict.fromkeys((*CHOOSE_IMAGES, *settings_with_a_part())) if name not in without]
    older = lacks_a_part(theirs)
    before = to_dict(from_dict(theirs, source, fill_missing=not older))
    if ours["mixed_resolutions"] is not None and ours["mixed_resolutions"] == before["mixed_resolutions"]:
        names.remove("resolution")  # whichever of the sizes is a run's own
    return _unequal(_anywhere({name: ours[name] for name in names}), _anywhere(before))


def _anywhere(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings with their paths absolute."""
    found = {name: settings[name] for name in PATHS if settings.get(name) is not None}
    return {**settings, **{name: str(Path(value).absolute()) for name, value in found.items()}}


def _unequal(ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, str]:
    found = {}
    for name, value in ours.items():
        if name not in theirs:
            found[name] = f"{name} was not recorded, here it is {shown(value)}"
        elif theirs[name] != value:
            found[name] = HASHED.get(name, f"{name} was {shown(theirs[name])}, here it is {shown(value)}")
    return found


def _data(fingerprint: dict[str, Any]) -> dict[str, Any]:
    """What a warm-up depends on beside its settings: the images, and what computes where that is in it."""
    return {name: value for name, value in fingerprint.items() if name not in NO_PART_DATA}


def _unequal_data(ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, str]:
    """As _unequal. An older warm-up, which has no kind of device, is taken to be of this one and of torch's kernels."""
    theirs = {"kernels": TORCH_KERNELS, **theirs}
    return _unequal({name: value for name, value in ours.items() if name in theirs or name != "device_type"}, theirs)


def computed_alike(folder: Path, device: torch.device, threads: int | None, kernels: str) -> bool:
    """Whether a search on ``device``, with this ``torch_threads`` and ``kernels`` (as in use), computes as the warm-up
    in ``folder`` did.

    Raises InputError when its warmup.pt is damaged.
    """
    data = checkpoint.load(folder / NAME, DAMAGED).data
    return not _unequal_data(checkpoint.computes(device, threads, kernels), data)


def keep(run_dir: Path, state: Checkpoint) -> None:
    """Write warmup.pt, atomically. ``state``: the search at the end of its warm-up."""
    checkpoint.save(run_dir / NAME, replace(state, data=_data(state.data)))


def read(
    folder: Path,
    schedule: Schedule,
    config: dict[str, Any],
    fingerprint: Callable[[Mapping[str, Any]], dict[str, Any]],
    device: torch.device,
) -> WarmUp:
    """The warm-up of the run in ``folder``, for a search of this ``schedule`` and ``config`` here.

    ``fingerprint``: of this search, for that of a run whose images may be these within other folders (job.fingerprint).

    Raises InputError when there is none, when a file of it is damaged, and when it is not the warm-up that the search
    would do: the message names what differs and both values.
    """
    if schedule.warmup_steps == 0:
        raise InputError("this search has no warm-up that another's could stand for (warmup_epochs is 0)", FLAG)
    path = folder / NAME
    if not path.is_file():
        is_run = (folder / "config.json").is_file()
        problem = "this run has not come to the end of a warm-up" if is_run else "expected the folder of a run"
        raise InputError(f"{problem}: there is no {NAME} in it", FLAG, str(folder))
    state = checkpoint.load(path, DAMAGED)
    theirs = {name: node.value for name, node in Node(state.data, "data").items()}
    unequal = differences(config, state.config, str(path))
    kernels = kernels_in_use(config["kernels"], device)
    own = {**_data(fingerprint(theirs)), **checkpoint.computes(device, kernels=kernels)}
    unequal |= _unequal_data(own, theirs)
    if not any(name in unequal for name in HASHED):  # the same images, wherever they are now
        unequal.pop("data_path", None)
    if unequal:
        said = [text for name, text in unequal.items() if not any(cause in unequal for cause in FOLLOWS.get(name, ()))]
        raise InputError(f"not the warm-up that this search would do: {'; '.join(said)}", FLAG, str(folder))
    if state.step != schedule.warmup_steps:
        last = f"expected {schedule.warmup_steps}, the last step of the warm-up"
        raise InputError(f"{last}, got {shown(state.step)}", "step", str(path))
    return WarmUp(folder, state, _epochs(folder / METRICS_FILE, schedule))


def _check_tensors(found: dict[str, Any], expected: dict[str, Tensor], source: str) -> None:
    """Raises InputError when the supernet of the file is not the one of this code."""
    for name, tensor in expected.items():
        got = found.get(name)
        shape = list(got.shape) if isinstance(got, Tensor) else None
        if shape != list(tensor.shape):
            raise InputError(f"expected shape {list(tensor.shape)}, got {shape}", f"supernet.{name}", source)
    unknown = [name for name in found if name not in expected]
    if unknown:
        raise InputError("the supernet of this search has no such tensor", f"supernet.{unknown[0]}", source)


def _epochs(path: Path, schedule: Schedule) -> tuple[dict[str, float | None], ...]:
    """The CARRIED fields of the warm-up's epochs. Raises InputError when the metrics do not hold them all."""
    wanted = schedule.warmup_epochs
    records = read_metrics(path)[:wanted]
    if len(records) < wanted:
        raise InputError(f"expected the {wanted} epochs of the warm-up, got {len(records)}", source=str(path))
    epochs = []
    for number, record in enumerate(records, start=1):
        try:
            values = dict(Node(record).items())
            missing = [name for name in ("phase", "step", *CARRIED) if name not in values]
            if missing:
                raise InputError(f"missing {', '.join(missing)}")
            values["phase"].exactly("warmup")
            values["step"].exactly(number * schedule.steps_per_epoch)
            epochs.append({name: None if values[name].value is None else values[name].number() for name in CARRIED})
        except InputError as error:
            raise error.under(f"line {number}").from_source(str(path)) from None
    return tuple(epochs)


def begin(run_dir: Path, warm: WarmUp, search: Search, config: dict[str, Any], fingerprint: dict[str, Any]) -> int:
    """Make ``run_dir`` whole, as if the warm-up had been done there; nothing refers to its source's files any more.

    Writes the epochs' records (in costs and alphas of ``search``), warmup.pt and, last, the first checkpoint.
    ``wall_seconds`` starts at 0: the warm-up took this run no time. Returns the bytes of metrics written.
    """
    with RunLog(run_dir, 0, say=lambda line: None) as log:
        for epoch, carried in enumerate(warm.epochs):
            log.epoch({**search.unmeasured_record(epoch), **carried})
        state = search.checkpoint(config, fingerprint, log.offset, 0.0)
    keep(run_dir, replace(state, wall_seconds=warm.state.wall_seconds))
    checkpoint.save(run_dir / checkpoint.NAME, state)
    return log.offset


def recorded(run_dir: Path) -> Path | None:
    """The folder that a run's warm-up was taken from, as its environment.json has it; None where it did its own.

    Raises InputError when that file is damaged.
    """
    path = run_dir / "environment.json"
    if not path.is_file():
        return None
    try:
        found = dict(Node(read_json(path)).items()).get("warmup_from")
        return Path(Node(found.value, "warmup_from").text()) if found is not None else None
    except InputError as error:
        raise error.from_source(str(path)) from None


def check_kept(run_dir: Path, given: Path | None) -> None:
    """Raises InputError where a resumed run is given another warm-up than the one that it was started with."""
    kept = recorded(run_dir)
    if given is not None and (kept is None or given.absolute() != kept.absolute()):
        raise InputError(f"a resumed run keeps its warm-up ({kept or 'its own'}); got {given}", FLAG)
