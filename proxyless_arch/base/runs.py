"""A run folder: where it is, the metrics in it, and the record of what it ran on."""

from __future__ import annotations

import contextlib
import errno
import functools
import json
import os
import platform
import shlex
import signal
import socket
import subprocess
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from proxyless_arch.base.cli import command_line
from proxyless_arch.base.errors import InputError, LostProcessError
from proxyless_arch.base.files import is_url, parse_json, read_bytes, remove_abandoned, write_json
from proxyless_arch.base.machine import cpu_name
from proxyless_arch.base.schema import judged
from proxyless_arch.base.strict import Node
from proxyless_arch.base.text import in_one_line

METRICS_FILE, CHECKPOINT_FILE, PREVIOUS_FILE = "metrics.jsonl", "checkpoint.pt", "checkpoint.previous.pt"
CONFIG_FILE, RESULT_FILE, ENVIRONMENT_FILE = "config.json", "result.json", "environment.json"
LOCK_FILE = ".lock"
AUTO = "auto"
"""``--resume auto``: start a run, or go on where there is one."""
WALL_CLOCK_FIELDS = ("images_per_second", "seconds")
"""Fields of a metrics record that differ between two runs of the same command."""


class RunStopped(KeyboardInterrupt):
    """A run ended by Ctrl-C (or SIGTERM); the message says what is kept and how to go on.

    ``folder``: the run folder; None where the run had none yet.
    """

    def __init__(self, message: str, folder: Path | None = None) -> None:
        super().__init__(message)
        self.folder = folder


class StopRequest:
    """Turns the first Ctrl-C (or SIGTERM) into a wish that is granted between two steps; the second one is final.

    A context: the handlers that were there come back at its end. Only the main thread can have any: in another one
    nothing asks.
    """

    def __init__(self) -> None:
        self.wanted = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._ask) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: Any) -> None:
        self.wanted = True
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)


@contextlib.contextmanager
def sigterm_interrupts() -> Iterator[None]:
    """Within it a SIGTERM ends what runs as a Ctrl-C does, of the main thread; in others nothing can be handled."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def resume_command(script: str, run_dir: Path) -> str:
    """What a person pastes, in the current folder, to continue a run."""
    return command_line(script, "--run_dir", str(run_dir), "--resume")


def after_interrupt(script: str, run_dir: Path | None) -> str:
    """What is true after a Ctrl-C that was not granted between two steps.

    ``run_dir``: None where the run had none yet.
    """
    if run_dir is None or not (run_dir / CONFIG_FILE).is_file():
        return "\ninterrupted before the first step: there is nothing to resume"
    again = resume_command(script, run_dir)
    if not has_checkpoint(run_dir):
        return f"\ninterrupted before the first step; start over with\n  {again}"
    return f"\ninterrupted; continue from the last checkpoint with\n  {again}"


UNWRITTEN = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.EFBIG)
"""What a disk says that takes no more."""


@contextlib.contextmanager
def naming_the_way_on(script: str, run_dir: Path, kept: str = "") -> Iterator[None]:
    """A disk that takes no more, or a process that is gone: the error tells what is safe, and the command that goes on.

    ``kept``: what is safe, of runs without checkpoints.
    """
    try:
        yield
    except (OSError, LostProcessError) as error:
        found = "the last checkpoint is whole" if has_checkpoint(run_dir) else "there is no checkpoint yet"
        kept = kept or found
        if isinstance(error, LostProcessError | BrokenPipeError):
            error.add_note(f"{kept}; go on with {resume_command(script, run_dir)}")
        elif error.errno in UNWRITTEN:
            error.add_note(f"{kept}; make room or give permission, then go on with {resume_command(script, run_dir)}")
        raise


def resumes(asked: bool | str, run_dir: Path | None) -> bool:
    """Whether a command goes on with the run in a folder: asked for, or ``auto`` and there is one.

    Processes that train together find the same, for none makes a run before all of them have joined the others.

    Raises InputError where no folder is named.
    """
    if asked and run_dir is None:
        raise InputError("needs the run folder: add --run_dir FOLDER", "--resume")
    if asked == AUTO:
        assert run_dir is not None
        return (run_dir / CONFIG_FILE).is_file()
    return bool(asked)


def config_to_resume(run_dir: Path) -> Path:
    """config.json of the run in a folder. Raises InputError where there is none."""
    path = run_dir / CONFIG_FILE
    if not path.is_file():
        problem = "no run to resume there: there is no config.json in it" if run_dir.is_dir() else "no such folder"
        raise InputError(problem, "--run_dir", str(run_dir))
    return path


def check_images_are_there(data_path: str | os.PathLike[str] | None, run_dir: Path) -> None:
    """Raises InputError where the images of the run in a folder are not at ``data_path`` (None: embedded) any more."""
    if data_path is not None and not is_url(data_path) and not Path(data_path).exists():
        problem = f"the images of the run are not at {os.fspath(data_path)} any more: say where they are"
        raise InputError(problem, "--data_path", str(run_dir / CONFIG_FILE))


@contextlib.contextmanager
def locked(folder: Path, flag: str = "--run_dir") -> Iterator[None]:
    """Keep every other process from writing a folder, which must exist, until the block or this process ends.

    The system itself holds the lock (flock) and drops it with the process, however that dies; processes forked from
    this one have no part in it. A folder in which nothing can be written needs none. The file is gone afterwards. What
    killed processes left half-written there, and in folders of it that no other process holds, is removed first.

    Args:
        flag: that named the folder, for the error.

    Raises:
        InputError: another process has it; the message has its number and machine.
    """
    held = _lock(folder, flag)
    try:
        for place in (folder, *(each for each in folder.glob("*/") if not (each / LOCK_FILE).exists())):
            remove_abandoned(place)
        yield
    finally:
        if held is not None:
            _locks.discard(held)
            with contextlib.suppress(OSError):
                (folder / LOCK_FILE).unlink()
            os.close(held)


_locks: set[int] = set()


def _forget_locks() -> None:
    """In a forked process (a reader of images): the lock is its parent's alone, and dies with that."""
    for held in _locks:
        os.close(held)
    _locks.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_locks)


def _lock(folder: Path, flag: str) -> int | None:
    """The open, locked file; None where the folder cannot be written to or the file system has no locks."""
    path = folder / LOCK_FILE
    while True:
        try:
            file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
                return None
            raise
        with contextlib.ExitStack() as closing:
            closing.callback(os.close, file)
            is_had = _try_flock(file)
            if is_had is None:
                raise InputError(
                    f"another process is writing there: {_owner(file)}; wait for its end, or stop it", flag, str(folder)
                )
            if is_had and not _is_at(file, path):  # that one was just given back
                continue
            os.ftruncate(file, 0)
            os.write(file, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode())
            closing.pop_all()
        _locks.add(file)
        return file


def _try_flock(file: int) -> bool | None:
    """Whether there is a lock now; None where another process has it. A file system without locks is said."""
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return None
    except (ImportError, OSError) as error:
        reason = getattr(error, "strerror", None) or error
        warnings.warn(f"no lock on the run folder ({reason}): start no second process there", stacklevel=4)
        return False
    return True


def _is_at(file: int, path: Path) -> bool:
    """Whether an open file is the one that has the name."""
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False


def _owner(file: int) -> str:
    """Who wrote a lock file, in words."""
    try:
        found = parse_json(os.pread(file, 1000, 0), LOCK_FILE)
        return f"process {int(found['pid'])} on {in_one_line(str(found['host']))}"
    except (InputError, LookupError, TypeError, ValueError, OverflowError):
        return "which one is not known"


@contextlib.contextmanager
def claimed(path: Path | None, home: Path) -> Iterator[Path]:
    """The folder of a new run, created (new_run_dir) and locked: of two processes that want the same, one has it."""
    folder = new_run_dir(path, home)
    with locked(folder):
        if path is not None:  # another one may have had it meanwhile
            free_run_dir(path, home)
        yield folder


def has_checkpoint(run_dir: Path) -> bool:
    """Whether a folder has a checkpoint, be it only the last but one."""
    return any((run_dir / name).exists() for name in (CHECKPOINT_FILE, PREVIOUS_FILE))


def has_begun(run_dir: Path) -> bool:
    """Whether the run in a folder got to its first checkpoint. One that was killed before has nothing to lose."""
    metrics = run_dir / METRICS_FILE
    return has_checkpoint(run_dir) or (metrics.is_file() and metrics.stat().st_size > 0)


def new_run_dir(path: Path | None, home: Path) -> Path:
    """The folder of a new run, created: ``path``, or a dated one under ``home``/runs that no other run gets.

    Where ``home`` is the current folder the dated one is named from there, as a person would type it.

    Raises:
        InputError: ``path`` already contains a run, or no folder that can be written to can be made there.
    """
    folder = path or _home_of_runs(home)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):  # can be written to
            pass
        if path is None:
            return _dated(folder)
    except OSError as error:
        raise InputError(f"expected a folder to write the run to: {error.strerror}", "--run_dir", str(folder)) from None
    return free_run_dir(folder, home)


def free_run_dir(path: Path | None, home: Path) -> Path:
    """The folder that a new run would take; nothing is made. Raises InputError where ``path`` contains a run."""
    folder = path or _home_of_runs(home) / "YYYYMMDD-HHMMSS"
    files = (CONFIG_FILE, METRICS_FILE, RESULT_FILE)
    if any((folder / name).exists() for name in files) or any(folder.glob("checkpoint*.pt")):
        raise InputError(
            "already contains a run: continue it with --resume, or name another folder", "--run_dir", str(path)
        )
    return folder


def _home_of_runs(home: Path) -> Path:
    return (Path() if home == Path.cwd() else home) / "runs"


def _dated(home: Path) -> Path:
    """A folder named by the time. The one process whose mkdir succeeds has it."""
    stem = time.strftime("%Y%m%d-%H%M%S")
    number = 1
    while True:
        folder = home / (stem if number == 1 else f"{stem}-{number}")
        try:
            folder.mkdir()
        except FileExistsError:
            number += 1
        else:
            return folder


def environment(argv: Sequence[str], **more: Any) -> dict[str, Any]:
    """What a run ran on, for environment.json; ``more`` adds the framework's facts (versions, threads, device)."""
    return {
        "command": shlex.join(["python", *argv]),
        "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "git_commit": _git_commit(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": cpu_name(),
        "cpu_count": os.cpu_count(),
        **more,
    }


def write_environment(run_dir: Path, now: Mapping[str, Any], resumed: bool) -> None:
    """Write ``now`` to environment.json. A resume is added to what is there, under ``resumed``; the start stays."""
    path = run_dir / ENVIRONMENT_FILE
    if resumed and path.is_file():
        first = judged(path, {"resumed": Node.elements})
        now = {**first, "resumed": [*(first.get("resumed") or ()), dict(now)]}
    write_json(path, now)


@functools.cache
def _git_commit() -> str | None:
    try:
        found = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() if found.returncode == 0 else None


class MetricsFile:
    """The owner of a metrics.jsonl: one JSON object per line, on disk (fsync) before ``append`` returns.

    A checkpoint stores ``offset``; a run resumed with it drops the lines written after that checkpoint, so that it
    leaves the same file as an uninterrupted run, wall-clock fields (``WALL_CLOCK_FIELDS``) apart.

    Args:
        run_dir: the run folder; created when missing.
        resume_at: None for a new run; else the ``offset`` stored in the checkpoint, in bytes.
        name: of the file, where it is another one of such lines.
        synced: wait for the disk after each line.

    Raises:
        InputError: a new run in a folder that already holds metrics, or an offset that is not the end of a line.
    """

    def __init__(
        self,
        run_dir: str | os.PathLike[str],
        resume_at: int | None = None,
        *,
        name: str = METRICS_FILE,
        synced: bool = True,
    ) -> None:
        folder = Path(run_dir)
        path = folder / name
        written = path.stat().st_size if path.exists() else 0
        if resume_at is None and written:
            raise InputError("already contains the metrics of a run: resume it or choose another folder", str(folder))
        self.last_kept = None if resume_at is None else _last_kept(path, resume_at)
        """The last record that a resumed run keeps."""
        folder.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._file = open(path, "ab", buffering=0)  # noqa: SIM115 (closed by close())
        if resume_at is not None:
            self._file.truncate(resume_at)
            os.fsync(self._file.fileno())
        self._offset, self._synced = resume_at or 0, synced

    @property
    def offset(self) -> int:
        """Bytes written so far; what a checkpoint stores for ``resume_at``."""
        return self._offset

    def append(self, record: Mapping[str, Any]) -> None:
        """Write one record, or nothing.

        Raises:
            ValueError: NaN or infinity.
            OSError: the disk takes no more, or the file is not the one any more that was written to.
        """
        line = json.dumps(record, allow_nan=False).encode() + b"\n"
        try:
            self._check_is_the_same()
            written = 0
            while written < len(line):
                written += self._file.write(line[written:])
            if self._synced:
                os.fsync(self._file.fileno())
        except OSError as error:
            error.filename = str(self._path)
            if error.errno != errno.ESTALE:
                with contextlib.suppress(OSError):
                    self._file.truncate(self._offset)
            raise
        self._offset += len(line)

    def _check_is_the_same(self) -> None:
        """Raises OSError where somebody else deleted, exchanged, cut or continued the file."""
        here = os.fstat(self._file.fileno())
        try:
            is_there = os.path.samestat(here, self._path.stat())
        except FileNotFoundError:
            is_there = False
        if not is_there:
            raise OSError(errno.ESTALE, "was deleted or exchanged while the run wrote to it")
        if here.st_size != self._offset:
            raise OSError(errno.ESTALE, "was changed by something else while the run wrote to it")

    def close(self) -> None:
        """Harmless when called twice."""
        self._file.close()

    def __enter__(self) -> MetricsFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _last_kept(path: Path, offset: int) -> dict[str, Any] | None:
    """The last record within the first ``offset`` bytes of a metrics file; checks the offset."""
    if offset == 0:
        return None
    kept = read_bytes(path)[:offset]
    if len(kept) < offset:
        raise InputError(f"expected at least {offset} bytes (the checkpoint's offset), got {len(kept)}", "", str(path))
    if not kept.endswith(b"\n"):
        raise InputError(f"byte {offset} (the checkpoint's offset) is not the end of a line", "", str(path))
    return _parse_lines(kept, path)[-1]


def read_metrics(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The records of a metrics.jsonl, oldest first.

    A last line that was cut (it has no line end and is not whole) is left out: that is what a killed run leaves.

    Raises:
        InputError: no such file, or a broken line elsewhere; the message gives its line number.
    """
    return _parse_lines(read_bytes(path), Path(path))


def read_whole_lines(path: Path) -> tuple[list[dict[str, Any]], int]:
    """The records of the lines that have an end, and how many bytes they are; none where there is no file.

    Raises InputError for a broken line.
    """
    content = read_bytes(path) if path.is_file() else b""
    end = content.rfind(b"\n") + 1
    return _parse_lines(content[:end], path), end


def _parse_lines(content: bytes, path: Path) -> list[dict[str, Any]]:
    *lines, last = content.split(b"\n")
    records = [_parse_line(line, number, path) for number, line in enumerate(lines, start=1)]
    if last:
        try:
            records.append(_parse_line(last, len(lines) + 1, path))
        except InputError:  # cut while it was written
            return records
    return records


def _parse_line(line: bytes, number: int, path: Path) -> dict[str, Any]:
    place = f"line {number}"
    try:
        value = parse_json(line, str(path))
    except InputError as error:
        raise InputError(error.problem, place, str(path)) from None
    if not isinstance(value, dict):
        raise InputError(f"expected one JSON object, got {line[:60].decode(errors='replace')!r}", place, str(path))
    return value


def format_seconds(seconds: float) -> str:
    """A duration for people: ``0.4 s``, ``45 s``, ``3 min 20 s``, ``2 h 05 min``, ``1 d 3 h``."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(seconds / 60)
    if minutes < 24 * 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    hours = round(seconds / 3600)
    return f"{hours // 24} d {hours % 24} h"
