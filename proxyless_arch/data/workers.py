"""Batches read by other processes that import neither torch nor TensorFlow.

TensorFlow does not survive a fork, and multiprocessing's other ways of starting a worker run the caller's main module
in it again, TensorFlow and all. So a worker is a plain Python process that runs this module: it takes its orders from
standard input and answers with batches on standard output.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from proxyless_arch.base.errors import LostProcessError
from proxyless_arch.data.batches import Batch, Sample

ReadBatch = Callable[[Sequence[Sample]], Batch]
"""Reads the images of a batch; picklable: a partial of batches.read_batch."""


def batches(read: ReadBatch, steps: Sequence[Sequence[Sample]], n_workers: int) -> Iterator[Batch]:
    """``read(samples)`` for each step, in order, read ahead by worker processes.

    Worker k reads the steps k, k + n_workers, ... and is at most one batch and a pipe's length ahead of the caller.
    The processes end with the iterator, finished or not.

    Args:
        read: a function of one step's samples.
        steps: the samples of each batch.
        n_workers: processes; 0 reads here, when a batch is asked for.

    Raises:
        LostProcessError: a worker ended early (killed, out of memory).
    """
    if not n_workers:
        yield from map(read, steps)
        return
    with contextlib.ExitStack() as running:
        workers = [running.enter_context(_worker(read, steps[k::n_workers])) for k in range(min(n_workers, len(steps)))]
        for position in range(len(steps)):
            yield _receive(workers[position % len(workers)])


@contextlib.contextmanager
def _worker(read: ReadBatch, steps: Sequence[Sequence[Sample]]) -> Iterator[subprocess.Popen[bytes]]:
    """A process that reads ``steps``; it is stopped at the end."""
    home = str(Path(__file__).resolve().parents[2])
    paths = os.pathsep.join([home, *filter(None, [os.environ.get("PYTHONPATH")])])
    # -P: a file in the current folder cannot stand in for a module of the standard library
    command = [sys.executable, "-P", "-m", "proxyless_arch.data.workers"]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": paths}
    )
    try:
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError), process.stdin as orders:  # a dead worker is reported by _receive
            pickle.dump((read, list(steps)), orders)
        yield process
    finally:
        process.kill()
        assert process.stdout is not None
        process.stdout.close()
        process.wait()


def _receive(process: subprocess.Popen[bytes]) -> Batch:
    assert process.stdout is not None
    try:
        # not a file: the pipe of a process that this one started, which runs this module
        return pickle.load(process.stdout)
    except (EOFError, pickle.UnpicklingError):
        code = process.wait()
        raise LostProcessError(f"an image loading process ended early, with status {code}") from None


def work(orders: BinaryIO, answers: BinaryIO) -> None:
    """A worker's life: read the steps that are ordered and answer each with its batch."""
    # the pipe of the process that started this one
    read, steps = pickle.load(orders)
    for samples in steps:
        pickle.dump(read(samples), answers, protocol=5)
        answers.flush()


def main() -> None:
    # Ctrl-C reaches the whole process group; the parent decides, and a worker ends when its pipe closes.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # nothing that prints may come between the batches
    with contextlib.suppress(BrokenPipeError), answers:
        work(sys.stdin.buffer, answers)


if __name__ == "__main__":
    main()
