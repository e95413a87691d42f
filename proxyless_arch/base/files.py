"""Reading and writing files so that nothing already written is ever lost."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from proxyless_arch.base.errors import InputError

TEMPORARY = re.compile(r"\..+\.([1-9][0-9]{0,8})-[a-z0-9_]{8}\.tmp(\..+)?")
"""The names that atomic_path gives, with the number of the process that writes."""
LONGEST_NAME = 255
"""Bytes of the name of a file, on most systems."""


def expanded(word: str) -> str:
    """A path as a person types it: ``~/photos`` and ``~ann/photos`` begin with a home folder, which shells expand only
    where it begins a word. The same text where there is no such home."""
    return os.path.expanduser(word) if word.startswith("~") else word  # noqa: PTH111  (that of Path fails on others)


def is_url(word: str | os.PathLike[str]) -> bool:
    """Whether a place is on the network, and no path."""
    return isinstance(word, str) and word.startswith(("http://", "https://"))


def cache_folder() -> Path:
    """``proxyless_nas`` in ``$XDG_CACHE_HOME``, or in ``~/.cache`` where that is unset or relative."""
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not base.is_absolute():
        try:
            base = Path.home() / ".cache"
        except RuntimeError:
            raise InputError("you have no home folder: set XDG_CACHE_HOME") from None
    return base / "proxyless_nas"


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; rename it onto ``path`` when the block succeeds.

    On any failure (a full disk, Ctrl-C) the temporary file is removed and an earlier ``path`` is untouched; what the
    system refused names ``path``. A process that is killed leaves the temporary file behind: remove_abandoned. A link
    is followed. A device or pipe gets the bytes when they are whole, and stays what it is.
    """
    target = Path(path)
    try:
        if _is_stream(target):
            with _collected(target) as temporary:
                yield temporary
        else:
            with _replacing(Path(os.path.realpath(target))) as temporary:
                yield temporary
    except OSError as error:
        if error.filename is None or TEMPORARY.fullmatch(Path(os.fsdecode(error.filename)).name):
            error.filename, error.filename2 = str(target), None
        raise


@contextlib.contextmanager
def _replacing(target: Path) -> Iterator[Path]:
    target.parent.mkdir(parents=True, exist_ok=True)
    prefix, suffix = f".{target.name}.{os.getpid()}-", f".tmp{target.suffix}"
    handle, name = tempfile.mkstemp(prefix=prefix, suffix=suffix, dir=target.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def _collected(target: Path) -> Iterator[Path]:
    """A file elsewhere, whose bytes go to a device or pipe at the end."""
    with tempfile.TemporaryDirectory() as folder:
        temporary = Path(folder, f"whole{target.suffix}")
        yield temporary
        with open(temporary, "rb") as whole, open(target, "wb") as stream:
            shutil.copyfileobj(whole, stream)


def _is_stream(path: Path) -> bool:
    """Whether a path, its links followed, is a device, pipe or descriptor: nothing that can be replaced."""
    if str(path.absolute()).startswith(("/dev/fd/", "/dev/std", "/proc/")):
        return True
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)


def remove_abandoned(folder: Path) -> None:
    """Delete the temporary files of atomic_path that killed processes left in ``folder``.

    Call it before this process writes there: only another living process keeps its files. (One that is started again
    in a container may have the number of the one that was killed.)
    """
    for path in folder.glob(".*.tmp*"):
        found = TEMPORARY.fullmatch(path.name)
        if found is not None and (int(found[1]) == os.getpid() or not _is_alive(int(found[1]))):
            with contextlib.suppress(OSError):
                path.unlink()


def _is_alive(process: int) -> bool:
    """Whether there is a process of that number on this machine; true where that cannot be asked."""
    if os.name != "posix":
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        return True
    return True


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


@contextlib.contextmanager
def writing(path: str | os.PathLike[str]) -> Iterator[None]:
    """What the system refuses to write at ``path`` is an InputError: another place may work."""
    try:
        yield
    except OSError as error:
        raise InputError(f"cannot be written: {error.strerror or error}", source=str(path)) from None


def write_bytes(path: str | os.PathLike[str], *parts: bytes) -> None:
    """Write ``parts``, one behind the other, atomically."""
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        file.writelines(parts)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write ``text`` as UTF-8, atomically. Bytes of a name that are no text become escapes, which JSON reads back."""
    write_bytes(path, text.encode("utf-8", errors="backslashreplace"))


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write ``value`` as indented JSON, atomically. Raises ValueError on NaN or infinity."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False, ensure_ascii=False) + "\n")


def require_regular(path: str | os.PathLike[str]) -> None:
    """Raises InputError at a pipe, a device or a socket, which would wait or never end; a missing file passes."""
    try:
        mode = Path(path).stat().st_mode
    except OSError:
        return
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        kind = "a pipe" if stat.S_ISFIFO(mode) else "a socket" if stat.S_ISSOCK(mode) else "a device"
        raise InputError(f"expected a file on a disk, got {kind}", source=str(path))


@contextlib.contextmanager
def open_bytes(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A file opened for reading bytes; InputError when it is missing, a folder, no regular file or unreadable."""
    require_regular(path)
    try:
        with open(path, "rb") as file:
            yield file
    except FileNotFoundError:
        raise InputError("no such file", source=str(path)) from None
    except IsADirectoryError:
        raise InputError("expected a file, got a folder", source=str(path)) from None
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", source=str(path)) from None


def read_bytes(path: str | os.PathLike[str], at_most: int | None = None) -> bytes:
    """The bytes of a file; InputError when it is missing, a folder, unreadable or longer than ``at_most`` bytes."""
    with open_bytes(path) as file:
        size = os.fstat(file.fileno()).st_size
        if at_most is not None and size > at_most:
            raise InputError(f"expected at most {at_most} bytes, got {size}", source=str(path))
        return file.read()


def parse_json(text: str | bytes, source: str) -> Any:
    """Strict JSON: duplicate keys, NaN, infinities, bad UTF-8 and runaway nesting are InputErrors."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        seen: dict[str, Any] = {}
        for key, value in pairs:
            if key in seen:
                raise InputError(f"key {key!r} appears twice in one object", source=source)
            seen[key] = value
        return seen

    def constant(name: str) -> Any:
        raise InputError(f"{name} is not JSON", source=source)

    try:
        return json.loads(text, object_pairs_hook=unique, parse_constant=constant)
    except InputError:
        raise
    except json.JSONDecodeError as error:
        raise InputError(f"not JSON: {error.msg}", f"line {error.lineno} column {error.colno}", source) from None
    except UnicodeDecodeError:
        raise InputError("not JSON: the file is not UTF-8 text", source=source) from None
    except RecursionError:
        raise InputError("not JSON we read: nested too deeply", source=source) from None
    except ValueError as error:
        raise InputError(f"not JSON: {error}", source=source) from None


def read_json(path: str | os.PathLike[str]) -> Any:
    """Parse a JSON file strictly (see parse_json)."""
    return parse_json(read_bytes(path), str(path))
