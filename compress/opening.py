"""How a run of this room is opened: its settings, its folder, which one process holds, and what a Ctrl-C leaves."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, TypeVar

from proxyless_arch.base import runs, settings
from proxyless_arch.base.errors import InputError
from proxyless_nas.opening import ROOT, Say, with_threads

KEPT = "what was measured is kept"
TOLD = ("dataset", "data_path", "valid_size", "split_seed", "data_edition")
"""Settings that config.json has as they were found, also where they were not given."""
Config = TypeVar("Config")


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
        return "stopped before anything was measured: there is nothing to resume"
    return f"stopped; {KEPT}: continue with\n  {runs.resume_command(command, home)}"
