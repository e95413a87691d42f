"""Machine code of kernels that were compiled before, in the user's cache folder: reading it costs next to nothing.

A file is named by all that its code depends on: the program, the processor, the compiler. It is run, so it is taken
only where nobody but this user could have written it, and whole: it begins with the SHA-256 of its name and code. What
cannot be read or written, or has no owner that the system tells, is compiled, without a word.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import tempfile
from pathlib import Path

from proxyless_arch.base.errors import InputError
from proxyless_arch.base.files import cache_folder

MOST_FILES = 512
"""Of some 20 kB each: those that were written first go."""
OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
DIGEST = hashlib.sha256().digest_size


def key_of(*parts: str) -> str:
    """A name for what is made of ``parts``."""
    digest = hashlib.sha256()
    for part in parts:
        encoded = part.encode()
        digest.update(b"%d:" % len(encoded) + encoded)  # two parts are never one
    return digest.hexdigest()


def load(key: str) -> bytes | None:
    """The code of that name; None where it is not there, damaged, or another user's to change."""
    try:
        folder = _folder()
        with open(folder / key, "rb") as file:
            if not all(map(_is_own, (folder.stat(), os.fstat(file.fileno())))):
                return None
            found = file.read()
    except (OSError, InputError):
        return None
    code = found[DIGEST:]
    return code if _digest(key, code) == found[:DIGEST] else None


def store(key: str, code: bytes) -> None:
    """Keep it for later processes, where that is possible."""
    with contextlib.suppress(OSError, InputError):
        folder = _folder()
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if _is_own(folder.stat()):
            _write(folder, key, code)
            _make_room(folder)


def _digest(key: str, code: bytes) -> bytes:
    """Of the name too: under another one it is damaged."""
    return hashlib.sha256(key.encode() + code).digest()


def _write(folder: Path, key: str, code: bytes) -> None:
    """Whole or not at all, and by files that at no moment anybody else may write, whatever the umask."""
    handle, name = tempfile.mkstemp(dir=folder)  # of mode 0600
    try:
        with open(handle, "wb") as file:
            file.writelines((_digest(key, code), code))
        Path(name).replace(folder / key)
    finally:
        Path(name).unlink(missing_ok=True)  # where it still has that name


def _folder() -> Path:
    return cache_folder() / "kernels"


def _is_own(found: os.stat_result) -> bool:
    return hasattr(os, "getuid") and found.st_uid == os.getuid() and not found.st_mode & OTHERS_WRITE


def _make_room(folder: Path) -> None:
    files = list(folder.iterdir())
    if len(files) > MOST_FILES:
        for file in sorted(files, key=lambda file: file.stat().st_mtime)[: len(files) - MOST_FILES]:
            file.unlink(missing_ok=True)
