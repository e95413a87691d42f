"""Files of others for a library that can crash or hang on one: read in a process of its own.

A module that does so has ``answer_to(data)``, which gives the exit status and the answer to the bytes of a file, and
ends with ``raise SystemExit(serve(answer_to))``. The child gets the bytes on its standard input.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from proxyless_arch.base.errors import InputError

TIME_LIMIT_S = 120.0
REFUSED = 3
"""The child's exit status when its answer is why the file is refused."""

Answer = tuple[int, bytes]


def ask(module: str, data: bytes, reader: str, time_limit_s: float = TIME_LIMIT_S) -> bytes:
    """What ``answer_to`` of a module answers, in a process of its own.

    Args:
        reader: what reads there, for the errors: "the HDF5 reader".

    Raises:
        InputError: refused there, a crash, or no answer within ``time_limit_s``. Without a source: the caller knows
            where the bytes are from.
    """
    status, answer = _run(module, data, reader, time_limit_s)
    if status == REFUSED:
        said = json.loads(answer)
        raise InputError(said["problem"], said["place"], said["source"])
    if status:
        raise InputError(f"crashed {reader} (status {status})")
    return answer


def _run(module: str, data: bytes, reader: str, time_limit_s: float) -> Answer:
    home = str(Path(__file__).resolve().parents[2])
    paths = os.pathsep.join([home, *filter(None, [os.environ.get("PYTHONPATH")])])
    # -P: a file in the current folder cannot stand in for a module of the standard library
    command = [sys.executable, "-P", "-m", module]
    try:
        done = subprocess.run(
            command,
            input=data,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": paths},
            timeout=time_limit_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise InputError(f"kept {reader} busy for more than {time_limit_s:g} s") from None
    return done.returncode, done.stdout


def refusal(error: InputError) -> Answer:
    """The answer to a file that is refused."""
    return REFUSED, json.dumps({"problem": error.problem, "place": error.place, "source": error.source}).encode()


def serve(answer_to: Callable[[bytes], Answer]) -> int:
    """Answer what is asked on standard input; the exit status."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # nothing that prints may come into the answer
    status, answer = answer_to(sys.stdin.buffer.read())
    with contextlib.suppress(BrokenPipeError), answers:
        answers.write(answer)
    return status
