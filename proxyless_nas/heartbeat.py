"""Which of several processes does not move: each leaves a sign of life in the store that torchrun gives them all.

A process that is stopped (SIGSTOP, a debugger, a machine that sleeps) or whose machine is gone leaves none. Without
this the others would wait in silence until the time limit of the group.
"""

from __future__ import annotations

import datetime
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType

import torch.distributed as dist

from proxyless_arch.base.runs import format_seconds
from proxyless_arch.base.text import in_one_line

EVERY_SECONDS = 10.0
"""Between two signs."""
SILENT_SECONDS = 60.0
"""After which a process is named."""


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


@dataclass
class Heartbeat:
    """The signs of process ``rank`` of ``size``, and what it knows of the others; a context.

    Args:
        store: gives a connection of its own to the store of the group; called in another thread.
        patience: what the group waits in all, in seconds.
        say: gets a line for a person.
    """

    rank: int
    size: int
    store: Callable[[], dist.Store]
    patience: float
    say: Callable[[str], None] = _say
    _seen: dict[int, tuple[str, float]] = field(default_factory=dict)
    _named: set[int] = field(default_factory=set)

    @classmethod
    def of_environment(cls, rank: int, size: int, patience: float) -> Heartbeat:
        """In the group whose address torchrun's variables have."""

        def store() -> dist.Store:
            limit = datetime.timedelta(seconds=3 * EVERY_SECONDS)
            address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
            return dist.TCPStore(address, port, is_master=False, wait_for_workers=False, timeout=limit)

        return cls(rank, size, store, patience)

    def __enter__(self) -> Heartbeat:
        self._end = threading.Event()
        threading.Thread(target=self._beat, name="heartbeat", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()

    def _beat(self) -> None:
        store: dist.Store | None = None
        count, last = 0, time.monotonic()
        while not self._end.wait(EVERY_SECONDS if count else 0):
            count += 1
            try:
                store = store or self.store()
                store.set(_key(self.rank), f"{count} {os.getpid()} {socket.gethostname()}")
                self._look(store)
                last = time.monotonic()
            except (RuntimeError, OSError, ValueError):  # it is kept by one that is stopped, or by one that has ended
                store = None
                if self.rank and time.monotonic() - last > SILENT_SECONDS and not self._end.is_set():
                    self._name(0, "the one that all others meet at")

    def _look(self, store: dist.Store) -> None:
        now = time.monotonic()
        for other in range(self.size):
            if other == self.rank or not store.check([_key(other)]):
                continue
            sign = store.get(_key(other)).decode(errors="replace")
            if self._seen.get(other, ("", 0.0))[0] != sign:
                self._seen[other] = (sign, now)
                if other in self._named:
                    self._named.discard(other)
                    self.say(f"process {other} moves again")
        silent = {other for other, (_, since) in self._seen.items() if now - since > SILENT_SECONDS}
        if self.rank == min(set(range(self.size)) - silent):  # one speaks for all
            for other in sorted(silent):
                _, number, host = self._seen[other][0].split(" ", 2)
                self._name(other, in_one_line(f"number {number} on {host}; kill -CONT {number} lets it go on"))

    def _name(self, other: int, what: str) -> None:
        if other not in self._named:
            self._named.add(other)
            self.say(
                f"waiting for process {other} of {self.size}, which has not moved for "
                f"{format_seconds(SILENT_SECONDS)} ({what}); without it the run ends after "
                f"{format_seconds(self.patience)}, and --resume continues it"
            )


def _key(rank: int) -> str:
    return f"proxyless_nas/heartbeat/{rank}"
