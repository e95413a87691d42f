"""A job in a process of its own: asked for by a file, heard in a log, and ended with the process that started it.

What is asked for is ``{"function": "package.module:name", "arguments": {...}}``, and the function is called with these
as keywords. All that a job leaves is what that function writes; its exit status is a command's (base/cli).
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from proxyless_arch.base.files import read_bytes

ROOT = Path(__file__).resolve().parents[2]
WORKER = "proxyless_arch.launch.worker"
TICK_S = 0.05
GRACE_S = 60.0
"""How long a job that is told to stop has, to write a checkpoint; then it is killed."""
TOLD_LINES = 5


def call(function: str, arguments: Mapping[str, Any]) -> None:
    """Call ``package.module:name`` with keywords."""
    module, _, name = function.partition(":")
    getattr(import_module(module), name)(**arguments)


def log_of(request: Path) -> Path:
    return request.with_suffix(".log")


def last_lines(request: Path) -> str:
    """The end of a job's log; empty where it wrote none."""
    log = log_of(request)
    text = read_bytes(log).decode(errors="replace") if log.is_file() else ""
    return "\n".join([line for line in text.splitlines() if line.strip()][-TOLD_LINES:])


def import_paths() -> str:
    """PYTHONPATH with this project in front, so that a job finds it wherever it is started."""
    return os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])


@contextlib.contextmanager
def finding_us() -> Iterator[None]:
    """What is started within the block, and takes over this environment, finds this project."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = import_paths()
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


class Process:
    """A job that runs on this machine.

    It holds the reading end of a pipe whose other end is ours: when that is closed, be it because this process was
    killed, the job stops as at a SIGTERM.
    """

    def __init__(self, request: Path, environment: Mapping[str, str] | None = None) -> None:
        with open(log_of(request), "ab") as log:
            # a session of its own: a Ctrl-C comes to it from us, once, and its readers can be killed with it
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", WORKER, str(request)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(environment or {}), "PYTHONPATH": import_paths()},
                start_new_session=True,
            )

    def status(self) -> int | None:
        """The exit status; None while it runs."""
        return self._process.poll()

    def stop(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


@contextlib.contextmanager
def ended_at_last(process: Process) -> Iterator[None]:
    """However the block ends, the job has: told to stop, and killed when that takes GRACE_S or another Ctrl-C comes."""
    try:
        yield
    finally:
        try:
            process.stop()
            end = time.monotonic() + GRACE_S
            while process.status() is None and time.monotonic() < end:
                time.sleep(TICK_S)
        finally:
            process.kill()


def carried_out(request: str) -> int:
    """Do a job on the machine where this is called, to its end; its exit status."""
    process = Process(Path(request))
    with ended_at_last(process):
        while (status := process.status()) is None:
            time.sleep(TICK_S)  # and no wait(), which the KeyboardInterrupt of a cancelled Ray task does not reach
    return status
