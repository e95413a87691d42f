"""Where published weights are found: a given file, the user's folder, the cache, and last their URL.

A published file is used only when its git blob id is the one of the catalog, wherever it was found. A download goes
to a temporary file in the cache, which gets its name when it is whole and verified.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from proxyless_arch.arch import catalog
from proxyless_arch.arch.catalog import Release
from proxyless_arch.base.download import STALL_S, Wanted, download
from proxyless_arch.base.errors import InputError
from proxyless_arch.base.files import cache_folder, expanded, open_bytes
from proxyless_arch.base.strict import listed
from proxyless_arch.weights.files import git_blob_sha1

Kind = Literal["pth", "tfinit"]

HOME_VARIABLE = "PROXYLESSNAS_HOME"
MAX_DOWNLOAD_BYTES = 200 * 2**20


@dataclass(frozen=True, kw_only=True)
class _Published:
    """A published file: how it is called, what it must be, where it is, and where a person may put it."""

    name: str
    blob_sha1: str
    url: str
    cache: Path
    home: Path | None

    def advice(self) -> str:
        own = f"{self.home} (${HOME_VARIABLE})" if self.home else f"a folder that ${HOME_VARIABLE} names"
        return (
            f"Put {self.name} (git blob sha1 {self.blob_sha1}, published at {self.url}) into {self.cache} or {own}, "
            "or give the path of a weight file"
        )

    def failed(self, problem: str) -> InputError:
        return InputError(f"{self.name} could not be downloaded: {problem}. {self.advice()}")


# ------------------------------------------------------------------------------------------------------- the search


def home_folder() -> Path | None:
    """The folder that ``$PROXYLESSNAS_HOME`` names, None without it; InputError when there is no such folder."""
    text = os.environ.get(HOME_VARIABLE, "")
    if not text:
        return None
    folder = Path(expanded(text))
    if not folder.is_dir():
        raise InputError(f"expected a folder, got {text!r}", HOME_VARIABLE)
    return folder


def find_weights(
    release: str | Release,
    kind: Kind = "pth",
    *,
    path: str | os.PathLike[str] | None = None,
    base_url: str | None = None,
    stall_s: float = STALL_S,
) -> Path:
    """A file with the published weights of ``release``.

    Looked for in ``$PROXYLESSNAS_HOME``, then the cache (cache_folder), then downloaded into the cache from where the
    catalog says it was published.

    Args:
        release: a released name, or a Release.
        kind: which of its files.
        path: a file, or a folder that holds one, to take instead, whatever it is called; it is not compared with the
            published one.
        base_url: a mirror of the published folder, the only way to a plain http URL.
        stall_s: how long the server may send nothing.

    Raises:
        InputError: an unknown release; ``path`` is no file; a file that is not the published one (in the cache it is
            removed, elsewhere left alone); no network, an HTTP error or a broken download, with the file to put where.
    """
    if path is not None:
        found = Path(expanded(os.fspath(path)))
        if not found.is_dir():  # which read_tensors looks into
            with open_bytes(found):
                pass
        return found
    release = catalog.release(release) if isinstance(release, str) else release
    name = f"{release.name}.{kind}"
    if name not in release.blob_sha1:
        raise InputError(f"expected {listed(release.blob_sha1) or 'none'}, got {name!r}", "kind")
    file = _Published(
        name=name,
        blob_sha1=release.blob_sha1[name],
        url=_url(release.weights_base_url if base_url is None else base_url, name, ("http",) if base_url else ()),
        cache=cache_folder(),
        home=home_folder(),
    )
    if file.home is not None and _is_there(file.home / name):
        _check_own(file.home / name, file)
        return file.home / name
    if not _is_there(file.cache / name):
        _download(file, stall_s)
    _check_cached(file.cache / name, file)
    return file.cache / name


def _url(base: str, name: str, also: tuple[str, ...]) -> str:
    try:
        parts = urlsplit(base)
        good = (
            parts.scheme in ("https", *also)
            and parts.hostname
            and base.isascii()
            and base.isprintable()
            and " " not in base
        )
    except ValueError:
        good = False
    if not good:
        raise InputError(f"expected an {listed(('https', *also))} URL, got {base!r}", "base_url")
    return f"{base.rstrip('/')}/{name}"


def _is_there(path: Path) -> bool:
    """Whether ``path`` is there; InputError when that cannot be seen."""
    try:
        path.stat()
    except FileNotFoundError:
        return False
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", source=str(path)) from None
    return True


def _mismatch(found: str, file: _Published) -> str:
    return f"expected git blob sha1 {file.blob_sha1}, got {found}: the file is truncated, altered or another"


def _check_own(path: Path, file: _Published) -> None:
    """The user's own file must be the published one."""
    found = git_blob_sha1(path)
    if found != file.blob_sha1:
        raise InputError(
            f"{_mismatch(found, file)}. It was left there, for it is yours: put the file published at {file.url} in "
            "its place, or give the path of the weights you want",
            source=str(path),
        )


def _check_cached(path: Path, file: _Published) -> None:
    """The file in the cache must be the published one; it is removed when it is not."""
    found = git_blob_sha1(path)
    if found == file.blob_sha1:
        return
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(
            f"{_mismatch(found, file)}. Remove it (here that failed: {error.strerror})", source=str(path)
        ) from None
    raise InputError(f"{_mismatch(found, file)}. It was removed; the next call downloads it again", source=str(path))


# ----------------------------------------------------------------------------------------------------- the download


def _download(file: _Published, stall_s: float) -> None:
    """Bring ``file`` into the cache: whole and verified, or not at all."""

    def check(path: Path) -> None:
        found = git_blob_sha1(path)
        if found != file.blob_sha1:
            raise file.failed(f"{_mismatch(found, file)}; it was discarded")

    wanted = Wanted(name=file.name, url=file.url, at_most=MAX_DOWNLOAD_BYTES, failed=file.failed)
    download(wanted, file.cache / file.name, check, stall_s)
