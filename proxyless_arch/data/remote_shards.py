"""Shards on a web server: brought once into the cache, each checked by its hash.

All shards of a part come before its first image is read, so that a connection that breaks later leaves no image out.
What the cache holds need not be fetched again; the index is asked for each time, and may be missed where it was had.
"""

from __future__ import annotations

import contextlib
import hashlib
import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from proxyless_arch.base.download import Wanted, download
from proxyless_arch.base.errors import InputError
from proxyless_arch.base.files import cache_folder, read_json, write_text
from proxyless_arch.data.shards import INDEX, Shard, Shards, check_hash, check_size, judged, read_table

MOST_INDEX_BYTES = 2**30
LOCK = ".lock"
NOTE = ".sha256"


def cache_of(url: str) -> Path:
    """The folder of the cache that keeps the shards of a URL."""
    return cache_folder() / "shards" / hashlib.sha256(url.encode()).hexdigest()[:16]


def shards_at(address: str) -> Shards:
    """The shards at a URL: of the folder that holds index.json, or of that file.

    Raises:
        InputError: no network, an HTTP error, an index that is damaged; when shards are read: one that is another.
    """
    url = _folder_of(address)
    folder = cache_of(url)
    _fetch_index(url, folder)
    classes, parts = judged(read_json(folder / INDEX), f"{url}{INDEX}")

    def table(shard: Shard):
        with _alone(folder):
            if not _is_table(folder / shard.table, shard):
                _fetch(url, folder, shard.table, MOST_INDEX_BYTES, lambda path: _check_table(path, shard))
        return read_table(folder, shard, len(classes))

    return Shards(url, classes, parts, table, folder, partial(_bring, url, folder))


def _folder_of(address: str) -> str:
    """The URL of the folder, with a slash at its end. Raises InputError for none."""
    try:
        parts = urlsplit(address)
        good = bool(parts.hostname) and address.isascii() and address.isprintable() and " " not in address
        good = good and not parts.query and not parts.fragment
    except ValueError:
        good = False
    if not good:
        raise InputError("expected the URL of a folder of shards, without ? and #", source=address)
    return f"{address.removesuffix(INDEX).rstrip('/')}/"


def _fetch_index(url: str, folder: Path) -> None:
    """Today's index; where it cannot be had, the one of an earlier time is taken with a warning."""
    try:
        with _alone(folder):
            _fetch(url, folder, INDEX, MOST_INDEX_BYTES, lambda path: None)
    except InputError as error:
        if not (folder / INDEX).exists():
            raise
        warnings.warn(f"the shards as they were before are used: {error}", stacklevel=4)


def _bring(url: str, folder: Path, shard: Shard) -> None:
    """Make sure that the cache has a shard, whole and the one of the index.

    A file of its name and length may be another: tars end in zeros that make their lengths equal. So the hash that one
    was found to have is kept beside it.
    """
    with _alone(folder):
        path, note = folder / shard.file, folder / f"{shard.file}{NOTE}"
        try:
            check_size(path, shard)
            if note.is_file() and note.read_text() == shard.sha256:
                return
            check_hash(path, shard, str(path))
        except InputError:
            _fetch(url, folder, shard.file, shard.n_bytes, lambda path: check_hash(path, shard, f"{url}{shard.file}"))
        write_text(note, shard.sha256)


def _fetch(url: str, folder: Path, name: str, at_most: int, check) -> None:
    def failed(problem: str) -> InputError:
        return InputError(f"could not be downloaded: {problem}", source=f"{url}{name}")

    download(Wanted(name=name, url=f"{url}{name}", at_most=at_most, failed=failed), folder / name, check)


def _is_table(path: Path, shard: Shard) -> bool:
    return path.exists() and hashlib.sha256(path.read_bytes()).hexdigest() == shard.table_sha256


def _check_table(path: Path, shard: Shard) -> None:
    if not _is_table(path, shard):
        raise InputError(f"expected the table with SHA-256 {shard.table_sha256}, got another", source=shard.table)


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One process at a time fetches: the others wait, and find it done."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / LOCK, "wb") as file:
        with contextlib.suppress(ImportError, OSError):  # where there are no locks, the last one wins
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
        yield
