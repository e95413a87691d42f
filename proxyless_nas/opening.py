"""How all processes of a training or a search open a run folder: one makes, locks and writes it, all know it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from proxyless_arch.base import runs
from proxyless_nas import distributed

ROOT = Path(__file__).resolve().parents[1]
Say = Callable[[str], Any]


def be_silent(line: str) -> None:
    pass


def listener(say: Say | None) -> Say:
    """Whom this process tells what it does: ``say`` in the first one, nobody in the others."""
    return say if say is not None and distributed.is_main() else be_silent


@contextlib.contextmanager
def with_threads(asked: int | None) -> Iterator[None]:
    """torch's threads while it lasts; None leaves them. Whatever is set within, they are what they were behind it."""
    before = torch.get_num_threads()
    if asked is not None:
        torch.set_num_threads(asked)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def interrupts_as(
    stopped: type[runs.RunStopped], command: str, folder: Callable[[], Path | None], tell: Say
) -> Iterator[None]:
    """A Ctrl-C that no step grants becomes ``stopped``, which says how to go on.

    Args:
        command: the script that goes on.
        folder: gives the run folder; None while there is none to go on with.
    """
    try:
        yield
    except stopped:
        raise
    except KeyboardInterrupt:
        message = runs.after_interrupt(command, folder())
        tell(message)
        raise stopped(message.strip(), folder()) from None


@dataclass(frozen=True)
class Place:
    """The run folder that was asked for; None for a dated one under runs/. ``resume``: it is there already."""

    path: Path | None
    resume: bool

    @property
    def home(self) -> Path:
        """The folder of a resumed run."""
        assert self.path is not None
        return self.path

    def hold(self, held: contextlib.ExitStack) -> None:
        """Lock the folder of a resumed run, in the one process that writes to it; ``held`` gives it back."""
        with distributed.fail_together():
            if self.resume and distributed.is_main():
                held.enter_context(runs.locked(self.home))

    def claimed(self, held: contextlib.ExitStack) -> Path:
        """The folder, which one process makes and locks for all where it is new; ``held`` gives it back."""
        if self.resume:
            return self.home
        with distributed.fail_together():
            own = held.enter_context(runs.claimed(self.path, ROOT)) if distributed.is_main() else None
        return distributed.broadcast_value(own)

    def to_claim(self) -> Path:
        """The folder, without making it."""
        if self.resume:
            return self.home
        with distributed.fail_together():
            return runs.free_run_dir(self.path, ROOT)
