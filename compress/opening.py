"""How a run of this room goes from its settings to its end: its folder, which one process holds, and what a Ctrl-C
leaves."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import torch

from compress.config import TrainedConfig
from compress.folder import write_config, write_environment
from proxyless_arch.apps.train_settings import TrainConfig
from proxyless_arch.base import runs, settings
from proxyless_arch.base.errors import InputError
from proxyless_arch.base.run_settings import RunSettings
from proxyless_arch.base.text import labeled
from proxyless_arch.base.words import DRY
from proxyless_nas.devices import pick_device
from proxyless_nas.opening import ROOT, Say, be_silent, with_threads

KEPT = "what was measured is kept"
TOLD = ("dataset", "data_path", "valid_size", "split_seed", "data_edition")
"""Settings that config.json has as they were found, also where they were not given."""
Config = TypeVar("Config", bound=TrainedConfig)
Product = TypeVar("Product")


class Opened(Protocol):
    """What every job has: its settings, and those with which train.py would take the network up."""

    @property
    def config(self) -> TrainedConfig: ...

    @property
    def training(self) -> TrainConfig: ...


Job = TypeVar("Job", bound=Opened)


@dataclass(frozen=True)
class Opening:
    """What a run is opened with. ``resumed``: the folder of one that goes on."""

    device: torch.device
    resumed: Path | None
    dry_run: bool


@dataclass(frozen=True)
class Kind(Generic[Config, Job, Product]):
    """What runs of a command do between their opening and their end.

    Attributes:
        prepare: opens everything; raises InputError before anything is written.
        header: what is about to happen, for a person.
        expected: how long it will take; None where that is not said.
        finish: to the product, from the start or from what the folder has.
    """

    command: str
    settings: RunSettings[Config]
    stopped: type[runs.RunStopped]
    prepare: Callable[[Config, Opening], Job]
    header: Callable[[Job], str]
    expected: Callable[[Job], str] | None
    finish: Callable[[Job, Path, Say], Product]

    def tell_time(self, job: Job, tell: Say) -> None:
        if self.expected is not None:
            tell(labeled("expected", self.expected(job)))


def run(
    kind: Kind[Config, Job, Product],
    config: Config | None,
    path: str | os.PathLike[str] | None,
    *,
    resume: bool,
    say: Say | None,
    command: Sequence[str] | None,
    dry_run: bool,
) -> Product | None:
    """A run from its settings to its product: run_pruning and run_quantization, whose arguments these are."""
    tell = say or be_silent
    folder = folder_of(path, resume)
    resumed = folder if resume else None
    if resumed is not None:
        saved = kind.settings.read(runs.config_to_resume(resumed))
        config = as_resumed(saved, config, kind.settings.free, kind.settings.paths)
        runs.check_images_are_there(config.data_path, resumed)
    config = config or kind.settings.kind()
    how = {"resume": resume, "dry_run": dry_run, "threads": config.torch_threads}
    with opened(kind.command, kind.stopped, folder, tell, **how) as claim:
        opening = Opening(pick_device(config.device), resumed, dry_run)
        job = kind.prepare(config, opening)
        tell(kind.header(job))
        if dry_run:
            runs.free_run_dir(folder, ROOT) if not resume else None
            kind.tell_time(job, tell)
            tell(DRY)
            return None
        home = claim()
        tell(labeled("run folder", str(home)))
        words = list(command) if command is not None else [kind.command, "--run_dir", str(home)]
        write_environment(home, words, opening.device, resume)
        write_config(kind.settings, job.config, job.training, home)
        kind.tell_time(job, tell)
        return kind.finish(job, home, tell)


def folder_of(path: Any, resume: bool) -> Path | None:
    """The run folder as a Path. Raises InputError where a resumed run has none."""
    if resume and path is None:
        raise InputError("needs the run folder: add --run_dir FOLDER", "--resume")
    return Path(path) if path is not None else None


def as_resumed(saved: Config, given: Config | None, free: tuple[str, ...], paths: tuple[str, ...]) -> Config:
    """The settings of a resumed run: its own, ``saved``, with those of ``free`` that ``given`` changes.

    Raises InputError naming the others in which ``given`` differs.
    """
    if given is None:
        return saved
    own: Any = given
    usual = {field.name: field.default for field in fields(own)}
    left_open = {name: getattr(saved, name) for name in TOLD if getattr(own, name) == usual[name]}
    wanted: Config = replace(own, **left_open)
    settings.resumed(saved, wanted, free, paths)
    return wanted


@contextlib.contextmanager
def opened(
    command: str,
    stopped: type[runs.RunStopped],
    folder: Path | None,
    tell: Say,
    *,
    resume: bool,
    dry_run: bool,
    threads: int | None = None,
) -> Iterator[Callable[[], Path]]:
    """A run, from its folder to its end: gives what claims the folder, once everything else is known.

    A resumed run's folder is locked at once, a new one's when it is made. Ctrl-C and SIGTERM become ``stopped``, which
    says how to go on; an error of the disk says it too.

    Args:
        command: the script that goes on.
        threads: of torch on a CPU, while it lasts; None leaves them.
    """
    claimed: list[Path] = []
    with contextlib.ExitStack() as held, runs.sigterm_interrupts(), with_threads(threads):
        if folder is not None and resume and not dry_run:
            held.enter_context(runs.locked(folder))

        def claim() -> Path:
            own = folder if folder is not None and resume else held.enter_context(runs.claimed(folder, ROOT))
            held.enter_context(runs.naming_the_way_on(command, own, KEPT))
            claimed.append(own)
            return own

        try:
            yield claim
        except stopped:
            raise
        except KeyboardInterrupt:
            home = claimed[0] if claimed else folder if resume else None
            message = _after_interrupt(command, home)
            tell(f"\n{message}")
            raise stopped(message, home) from None


def _after_interrupt(command: str, home: Path | None) -> str:
    if home is None:
        return "stopped before the run began: give the same command again"
    return f"stopped; {KEPT}: continue with\n  {runs.resume_command(command, home)}"
