"""Programs in processes of their own, forked from one that has imported them: a start takes a tenth of a second.

What a person types is started as such in a few tests; where a test needs another process only to kill it, or to have a
second rank, it forks one.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import socket
import tempfile
from collections.abc import Callable, Mapping, Sequence
from multiprocessing import forkserver
from pathlib import Path

import pytest
import torch

_CONTEXT = multiprocessing.get_context("forkserver")
_COMMANDS = ["train", "search.imagenet_arch_search", "proxyless_nas.train.session", "search.run.runner", "pytest"]
# what they import once they need it: torch._dynamo alone, for the first optimizer, takes two seconds
_LATER = ["torch._dynamo", "sklearn.datasets", "scipy.optimize", "matplotlib.figure", "matplotlib.backends.backend_agg"]
_preloaded = [*_COMMANDS, *_LATER]
_CONTEXT.set_forkserver_preload(_preloaded)
ROOT = Path(__file__).resolve().parents[1]
PATIENCE = 240


def preload(*modules: str) -> None:
    """Have more of them imported once for all processes; before the first one is started."""
    _preloaded.extend(modules)
    _CONTEXT.set_forkserver_preload(_preloaded)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


class Child:
    """A running ``program(words)``, with one thread; its output goes to files. Its status is that of a script."""

    def __init__(
        self,
        program: Callable[[list[str]], int | None],
        words: Sequence[object] = (),
        *,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="child")
        self._out, self._err = (Path(self._folder.name, name) for name in ("out", "err"))
        arguments = (program, [str(word) for word in words], dict(environment or {}), Path.cwd(), self._out, self._err)
        with pytest.MonkeyPatch.context() as patch:  # what is imported is this checkout, wherever the test stands
            patch.setenv("PYTHONPATH", str(ROOT))
            patch.setenv("OMP_NUM_THREADS", "1")
            forkserver.ensure_running()
        self._process = _CONTEXT.Process(target=_run, args=arguments)
        self._process.start()

    def poll(self) -> int | None:
        return self._process.exitcode

    @property
    def pid(self) -> int | None:
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    @property
    def output(self) -> str:
        """What it has printed so far."""
        return self._out.read_text() if self._out.exists() else ""

    @property
    def errors(self) -> str:
        return self._err.read_text() if self._err.exists() else ""

    def kill(self) -> None:
        self._process.kill()

    def send_signal(self, number: int) -> None:
        assert self._process.pid is not None
        os.kill(self._process.pid, number)

    def wait(self, timeout: float = PATIENCE) -> int:
        """Its status. A process that is still there after ``timeout`` seconds is killed and the test fails."""
        self._process.join(timeout)
        if self._process.exitcode is None:
            self._process.kill()
            self._process.join()
            raise AssertionError(f"not done after {timeout} s\n{self.output}\n{self.errors}")
        return self._process.exitcode

    def must_succeed(self) -> str:
        """What it printed, once it has ended well."""
        assert self.wait() == 0, self.errors
        return self.output


def _run(
    program: Callable[[list[str]], int | None],
    words: list[str],
    environment: Mapping[str, str],
    folder: Path,
    out: Path,
    err: Path,
) -> None:
    os.environ.update({"OMP_NUM_THREADS": "1", **environment})
    os.chdir(folder)
    for stream, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
    torch.set_num_threads(1)
    raise SystemExit(program(words))


@contextlib.contextmanager
def ranks(program, words=(), n_ranks=2):
    """The ranks of a distributed program, started as torchrun starts them; none of them outlives the block."""
    port, size = str(free_port()), str(n_ranks)
    group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size}
    found = [
        Child(program, words, environment=group | {"RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank in range(n_ranks)
    ]
    try:
        yield found
    finally:
        for child in found:
            child.kill()


def ended(program, words=(), n_ranks=2) -> tuple[list[int], list[str]]:
    """What the ranks of a program end with: their statuses and complaints."""
    with ranks(program, words, n_ranks) as found:
        statuses = [child.wait() for child in found]
        return statuses, [child.errors for child in found]
