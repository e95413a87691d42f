"""Where runs that do not need each other are done, and what becomes of them.

    launcher = Launcher("local", jobs=2)
    for end in launcher.run(lambda ended: jobs, folder):
        print(end.line)

A job is a function by its name and what it is called with, so that it can be done in any process of any machine that
sees the same folders; it must go on where it was when it is called again. With one job at a time on this machine there
is no other process: the function is called.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from proxyless_arch.base.cli import BAD_INPUT, FAILED
from proxyless_arch.base.errors import InputError, StoppedError
from proxyless_arch.base.files import write_json
from proxyless_arch.base.machine import usable_cores
from proxyless_arch.base.runs import format_seconds, sigterm_interrupts
from proxyless_arch.base.strict import counted
from proxyless_arch.base.text import in_one_line
from proxyless_arch.base.words import JOBS, LAUNCHER, LAUNCHER_OPTIONS
from proxyless_arch.launch.process import GRACE_S, TICK_S, Process, call, last_lines

KINDS = LOCAL, RAY, SLURM = "local", "ray", "slurm"
JOBS_FOLDER = "jobs"
LISTING_S = 5.0
"""How often it is asked whether another job can begin, where none has ended."""
GPUS = Path("/proc/driver/nvidia/gpus")


@dataclass(frozen=True)
class Job:
    """A run: its name, unique among those it is listed with, and the function that does it."""

    name: str
    function: str
    arguments: Mapping[str, Any]
    """Of JSON, by keyword."""

    @property
    def file_name(self) -> str:
        return self.name.replace(os.sep, "-")


Listed = Callable[[Collection[str]], Sequence[Job]]
"""The jobs that can be done now, also those that were begun already, given the names of those that have ended."""


@dataclass(frozen=True)
class Ended:
    """What became of a job: its exit status (base/cli), the end of what it said, and how long it took here."""

    name: str
    status: int
    told: str
    seconds: float

    @property
    def line(self) -> str:
        """For a person; of one that failed with the last lines of it."""
        if not self.status:
            return f"{self.name}: done in {format_seconds(self.seconds)}"
        return f"{self.name}: failed (status {self.status})\n" + "\n".join(f"  {e}" for e in self.told.splitlines())


class Running(Protocol):
    """A job that was begun somewhere."""

    def status(self) -> int | None:
        """The exit status; None while it is not known."""

    def stop(self) -> None:
        """Ask it to end and keep what it has."""

    def kill(self) -> None:
        """End it, if it still runs."""


class Place(Protocol):
    """Where jobs are begun. ``most``: at a time, None for all; ``tick_s``: how often it is worth asking."""

    @property
    def most(self) -> int | None: ...

    @property
    def tick_s(self) -> float: ...

    def begin(self, request: Path, slot: int) -> Running: ...


@dataclass(frozen=True)
class _Processes:
    """On this machine, sharing its cores and GPUs."""

    most: int
    tick_s: float = TICK_S

    def begin(self, request: Path, slot: int) -> Running:
        return Process(request, shares(self.most, slot))


def shares(jobs: int, slot: int) -> dict[str, str]:
    """What a job of so many at a time finds in its environment: threads for its cores, and a GPU.

    A number of threads that a person has set stays.
    """
    found = {"OMP_NUM_THREADS": str(max(1, usable_cores() // jobs))} if "OMP_NUM_THREADS" not in os.environ else {}
    if gpus := _gpus():
        found["CUDA_VISIBLE_DEVICES"] = gpus[slot % len(gpus)]
    return found


def _gpus() -> list[str]:
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        return [word for word in given.split(",") if word]
    return [str(number) for number, _ in enumerate(GPUS.iterdir())] if GPUS.is_dir() else []


@dataclass(frozen=True)
class Launcher:
    """Where jobs are done: ``local`` (this machine), ``ray`` or ``slurm``, at most ``jobs`` at a time.

    ``jobs``: by default one here, and all elsewhere. ``options``: of a job, by Ray's or submitit's names.
    """

    kind: str = LOCAL
    jobs: int | None = None
    options: Mapping[str, Any] | None = None

    @property
    def is_here(self) -> bool:
        """Whether jobs are done in this process."""
        return self.kind == LOCAL and self.jobs in (None, 1)

    def run(
        self,
        listed: Listed,
        folder: Path,
        *,
        goes_on: bool = True,
        say: Callable[[str], Any] = print,
    ) -> Generator[Ended, None, None]:
        """Do jobs; each end as it comes. However this is left, no job goes on.

        Args:
            listed: it is asked again when a job has ended and from time to time, until nothing new is in it and nothing
                runs.
            folder: has a folder for what is asked of each job and what it says; not where they are done here.
            goes_on: behind a job that failed here; else its error is raised.
            say: gets a line where a job begins in another process.

        Raises:
            InputError: options that the launcher does not take.
            ModuleNotFoundError: Ray or submitit is not installed.
        """
        if self.is_here:
            yield from _here(listed, goes_on)
            return
        home = folder / JOBS_FOLDER
        home.mkdir(parents=True, exist_ok=True)
        with sigterm_interrupts():  # and so the jobs, too, end with this process
            yield from _elsewhere(self._place(home), listed, home, say)

    def _place(self, home: Path) -> Place:
        options = dict(self.options or {})
        if self.kind == RAY:
            from proxyless_arch.launch.on_ray import ray_place

            return ray_place(options, self.jobs)
        if self.kind == SLURM:
            from proxyless_arch.launch.on_slurm import slurm_place

            return slurm_place(options, self.jobs, home)
        if options:
            raise InputError("has no meaning with --launcher local: ray and slurm take it", LAUNCHER_OPTIONS.flag)
        return _Processes(self.jobs or 1)


def _here(listed: Listed, goes_on: bool) -> Generator[Ended, None, None]:
    begun: set[str] = set()
    while job := next((job for job in listed(begun) if job.name not in begun), None):
        begun.add(job.name)
        start = time.monotonic()
        status, told = 0, ""
        try:
            call(job.function, job.arguments)
        except (InputError, StoppedError) as error:
            if not goes_on:
                raise
            status, told = BAD_INPUT if isinstance(error, InputError) else FAILED, f"error: {in_one_line(str(error))}"
        yield Ended(job.name, status, told, time.monotonic() - start)


@dataclass
class _Begun:
    """A job on its way."""

    running: Running
    request: Path
    slot: int
    start: float

    def end(self, name: str, status: int) -> Ended:
        told = last_lines(self.request) or getattr(self.running, "told", lambda: "")()
        return Ended(name, status, told if status else "", time.monotonic() - self.start)


def _elsewhere(place: Place, listed: Listed, home: Path, say: Callable[[str], Any]) -> Generator[Ended, None, None]:
    begun: set[str] = set()
    under_way: dict[str, _Begun] = {}
    asked = -LISTING_S
    try:
        while True:
            if time.monotonic() - asked >= LISTING_S:
                asked = time.monotonic()
                for job in listed(begun - set(under_way)):
                    if job.name not in begun and (place.most is None or len(under_way) < place.most):
                        begun.add(job.name)
                        under_way[job.name] = _begin(place, job, home, {each.slot for each in under_way.values()})
                        say(f"{job.name}: begun, {home / job.file_name}.log")
            ends = [(name, status) for name, each in under_way.items() if (status := each.running.status()) is not None]
            for name, status in ends:
                yield under_way.pop(name).end(name, status)
                asked = -LISTING_S
            if not under_way and not ends:
                return
            time.sleep(place.tick_s if not ends else 0)
    except KeyboardInterrupt:
        say(f"\nstopping {counted(len(under_way), 'run')}: give the command again to go on")
        raise
    finally:
        _end([each.running for each in under_way.values()])


def _begin(place: Place, job: Job, home: Path, taken: set[int]) -> _Begun:
    request = home / f"{job.file_name}.json"
    write_json(request, {"function": job.function, "arguments": dict(job.arguments)})
    request.with_suffix(".log").unlink(missing_ok=True)
    slot = next(number for number in range(len(taken) + 1) if number not in taken)
    return _Begun(place.begin(request, slot), request, slot, time.monotonic())


def _end(left: Sequence[Running]) -> None:
    """All that still run are told to stop, and killed when that takes GRACE_S or another Ctrl-C comes."""
    try:
        for each in left:
            each.stop()
        end = time.monotonic() + GRACE_S
        while any(each.status() is None for each in left) and time.monotonic() < end:
            time.sleep(TICK_S)
    finally:
        for each in left:
            each.kill()


def all_done(ends: Generator[Ended, None, None], what: str, say: Callable[[str], Any] = print) -> None:
    """Tell each end as it comes, here or elsewhere.

    Raises:
        StoppedError: jobs failed (InputError where each of them refused its input); the message names them, with the
            last line of the first.
    """
    failed = []
    with contextlib.closing(ends):
        for end in ends:
            say(end.line)
            failed += [end] if end.status else []
    if failed:
        names = ", ".join(end.name for end in failed)
        last = next(iter(reversed(failed[0].told.splitlines())), "").removeprefix("error: ")
        problem = f"{counted(len(failed), what)} did not finish: {names}{f': {last}' if last else ''}"
        if all(end.status == BAD_INPUT for end in failed):
            raise InputError(problem)
        raise StoppedError(problem)


def options_of(text: str) -> dict[str, Any]:
    """``a=1,b=x`` as ``{"a": 1, "b": "x"}``. Raises InputError."""
    found: dict[str, Any] = {}
    for word in text.split(","):
        name, equals, value = word.strip().partition("=")
        if not name or not equals:
            raise InputError(f"expected NAME=VALUE, or several with commas between them, got {word!r}")
        found[name] = _number(value)
    return found


def _number(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _checked(text: str) -> str:
    options_of(text)
    return text


@dataclass(frozen=True, kw_only=True)
class LaunchFlags:
    """The flags of a command that makes several runs."""

    launcher: str = LAUNCHER.setting(LOCAL, allowed=KINDS, group="where the runs are done")
    jobs: int | None = JOBS.setting(None, group="where the runs are done", minimum=1, maximum=100_000)
    launcher_options: str | None = LAUNCHER_OPTIONS.setting(
        None, group="where the runs are done", metavar="NAME=VALUE,...", check=_checked
    )

    @property
    def chosen(self) -> Launcher:
        given = self.launcher_options
        return Launcher(self.launcher, self.jobs, options_of(given) if given is not None else None)
