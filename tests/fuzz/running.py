"""Reading mutated files in a child process that may crash or hang, and counting what comes of them.

A case is a function of (seed, reader, number): the same number is the same file. The child answers each with one word;
where it does not answer within LIMIT_S of processor time, or is gone, its parent counts that and starts another.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import multiprocessing
import os
import random
import resource
import shutil
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch

from proxyless_arch.base.errors import InputError, StoppedError
from tests.fuzz.mutators import Mutate

LIMIT_S = 5.0
"""Processor time for one file. Beside other work a second takes longer: the wall clock may show twelve times that."""
MEMORY = 6 * 2**30
"""Bytes of address space that a child gets beyond what it has."""
TYPED, ACCEPTED, UNTYPED, NOT_FINITE, CRASHED, HUNG = OUTCOMES = (
    "typed", "accepted", "untyped", "not finite", "crashed", "hung"
)  # fmt: skip
NO_FILE = "no file was made"
FAULTS = (UNTYPED, NOT_FINITE, CRASHED, HUNG)
ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Reader:
    """What reads one kind of file.

    ``seeds``: whole files, written by what writes them. ``read``: reads the file at a path as a command does, and gives
    what came of it, whose numbers must be finite. ``file``: what the file is called. ``home``: makes the folder that
    the file lies in; what is there is not changed by ``read``.
    """

    name: str
    seeds: Callable[[], Sequence[bytes]]
    mutate: Mutate
    read: Callable[[Path], Any]
    file: str
    home: Callable[[Path], None] = lambda folder: None


@dataclass(frozen=True)
class Fault:
    """A case that ended otherwise than typed or accepted. ``detail``: the last lines of its traceback."""

    reader: str
    case: int
    outcome: str
    detail: str

    @property
    def place(self) -> str:
        """By which faults are told apart."""
        return f"{self.reader}: {self.outcome}: {self.detail}"


@dataclass
class Tally:
    """Outcomes by reader, and the faults."""

    counts: dict[str, Counter[str]] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def n_inputs(self) -> int:
        return sum(counter.total() for counter in self.counts.values())

    def add(self, reader: str, case: int, outcome: str, detail: str) -> None:
        self.counts.setdefault(reader, Counter())[outcome] += 1
        if outcome in FAULTS:
            self.faults.append(Fault(reader, case, outcome, detail))

    def of(self, outcome: str) -> int:
        return sum(counter[outcome] for counter in self.counts.values())


def mutated(reader: Reader, seeds: Sequence[bytes], seed: int, case: int) -> bytes:
    """The file of a case."""
    rng = random.Random(f"{seed} {reader.name} {case}")
    return reader.mutate(rng.choice(seeds), rng)


def outcome_of(read: Callable[[], Any]) -> tuple[str, str]:
    """(outcome, detail) of reading one file."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = read()
    except (InputError, StoppedError):
        return TYPED, ""
    except Exception as error:  # noqa: BLE001 (this is what is looked for)
        return UNTYPED, _frames(error)
    odd = next(_not_finite(found), None)
    return (ACCEPTED, "") if odd is None else (NOT_FINITE, odd)


def _frames(error: BaseException) -> str:
    """``KeyError: 'a' < run_folder.py:12 read < report.py:3 run``: the exception and our frames, innermost first."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename.startswith(str(ROOT))]
    ours = [frame for frame in frames if "/tests/" not in frame.filename]
    places = [
        f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in reversed(ours[-2:] or frames[-1:])
    ]
    return " < ".join([f"{type(error).__name__}: {ascii(str(error))[:80]}", *places])


def _not_finite(value: Any, at: str = "", depth: int = 0) -> Iterator[str]:
    """Where in what was read a number is NaN or infinite."""
    if depth > 12:
        return
    if isinstance(value, float) and not math.isfinite(value):
        yield at or "the value"
    elif isinstance(value, np.ndarray) and value.dtype.kind == "f" and not np.isfinite(value).all():
        yield at or "an array"
    elif isinstance(value, torch.Tensor) and value.is_floating_point() and not torch.isfinite(value).all():
        yield at or "a tensor"
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        yield from _not_finite(vars(value) if hasattr(value, "__dict__") else {}, at, depth + 1)
    elif isinstance(value, dict):
        for key, member in dict.items(value):
            yield from _not_finite(member, f"{at}.{str(key)[:40]}", depth + 1)
    elif isinstance(value, list | tuple | set | frozenset):
        for member in value:
            yield from _not_finite(member, f"{at}[]", depth + 1)


# ------------------------------------------------------------------------------------------------------ the child


def _serve(theirs: Connection, pipe: Connection, readers: dict[str, Reader], folder: Path, seed: int) -> None:
    """Answer (reader, first case, how many) with one (outcome, detail) per case, for ever."""
    theirs.close()  # else this process would outlive one that was killed
    _be_small()
    seeds: dict[str, Sequence[bytes]] = {}
    while True:
        try:
            name, first, count = pipe.recv()
        except EOFError:
            return
        reader = readers[name]
        home = folder / name
        if name not in seeds:
            home.mkdir(exist_ok=True)
            reader.home(home)
            seeds[name] = reader.seeds()
        for case in range(first, first + count):
            pipe.send(_answer_to(reader, home, seeds[name], seed, case))


def _answer_to(reader: Reader, home: Path, seeds: Sequence[bytes], seed: int, case: int) -> tuple[str, str]:
    try:
        content = mutated(reader, seeds, seed, case)
    except Exception as error:  # noqa: BLE001 (a fault of the fuzzer is told as one)
        return UNTYPED, f"{NO_FILE}: {_frames(error)}"
    return read_case(reader, home, content)


def read_case(reader: Reader, home: Path, content: bytes) -> tuple[str, str]:
    """Put a file where it belongs and read it."""
    path = home / reader.file
    path.write_bytes(content)
    return outcome_of(lambda: reader.read(path))


def _be_small() -> None:
    """Bounds on the memory of this process; nothing that it prints is seen."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        has = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        resource.setrlimit(resource.RLIMIT_AS, (has + MEMORY, resource.RLIM_INFINITY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (1, 2):
        os.dup2(nowhere, stream)
    torch.set_num_threads(1)


class Child:
    """A process that reads, and its other end."""

    def __init__(self, readers: dict[str, Reader], seed: int) -> None:
        place = "/dev/shm" if Path("/dev/shm").is_dir() else None
        self.folder = Path(tempfile.mkdtemp(prefix="fuzz", dir=place))
        context = multiprocessing.get_context("fork")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(self._pipe, theirs, readers, self.folder, seed), daemon=True
        )
        self._process.start()
        theirs.close()

    def answers(self, reader: str, first: int, count: int) -> Iterator[tuple[str, str]]:
        """Of each case in turn; CRASHED or HUNG is the last, and the end of this child."""
        self._pipe.send((reader, first, count))
        for _ in range(count):
            answer = self._answer()
            yield answer
            if answer[0] in (CRASHED, HUNG):
                return

    def _answer(self) -> tuple[str, str]:
        begun, used = time.monotonic(), self._seconds_used()
        while not self._pipe.poll(LIMIT_S / 10):
            spent = self._seconds_used() - used
            if spent > LIMIT_S or time.monotonic() - begun > 12 * LIMIT_S:
                self.close()
                return HUNG, f"{spent:.0f} s of processor time"
        try:
            answer: tuple[str, str] = self._pipe.recv()
        except (EOFError, ConnectionResetError):
            self._process.join()
            status = self._process.exitcode
            self.close()
            return CRASHED, f"status {status}"
        return answer

    def _seconds_used(self) -> float:
        """Processor time of the child so far; 0 where the system does not tell."""
        with contextlib.suppress(OSError, ValueError, IndexError):
            fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
            return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
        return 0.0

    def close(self) -> None:
        self._process.kill()
        self._process.join()
        self._pipe.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def fuzz(
    readers: Sequence[Reader],
    *,
    seconds: float = math.inf,
    inputs: float = math.inf,
    seed: int = 0,
    at_once: int = 20,
    told: Callable[[Tally], None] = lambda tally: None,
) -> Tally:
    """Readers in turn, each for about as long as the others, until ``seconds`` are over or ``inputs`` were read.

    ``told``: called now and then with what was counted so far.
    """
    tally, by_name = Tally(), {reader.name: reader for reader in readers}
    following, spent = Counter[str](), dict.fromkeys(by_name, 0.0)
    child, begun = Child(by_name, seed), time.monotonic()
    try:
        while (now := time.monotonic() - begun) < seconds and tally.n_inputs < inputs:
            tally.seconds = now
            name = min(spent, key=lambda each: spent[each])
            start, last = time.monotonic(), ACCEPTED
            for last, detail in child.answers(name, following[name], at_once):
                tally.add(name, following[name], last, detail)
                following[name] += 1
            spent[name] += time.monotonic() - start
            if last in (CRASHED, HUNG):
                child = Child(by_name, seed)
            told(tally)
    finally:
        child.close()
    tally.seconds = time.monotonic() - begun
    return tally
