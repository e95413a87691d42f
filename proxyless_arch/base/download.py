"""A file from the network: whole and checked, or not at all."""

from __future__ import annotations

import contextlib
import http.client
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from proxyless_arch.base.errors import InputError
from proxyless_arch.base.files import atomic_path
from proxyless_arch.base.progress import Progress

STALL_S = 20.0
TRIES = 3

_PIECE_BYTES = 1 << 16
_HEADERS: Mapping[str, str] = MappingProxyType({"User-Agent": "proxyless-nas", "Accept-Encoding": "identity"})


class _CutError(Exception):
    """The connection broke or stalled; another try may fare better."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """A file to download: how a person calls it, where it is, how long it may be, and what to say when it fails."""

    name: str
    url: str
    at_most: int
    failed: Callable[[str], InputError]


def download(wanted: Wanted, target: Path, check: Callable[[Path], None], stall_s: float = STALL_S) -> None:
    """Bring a file to ``target``, whose folder is made. A broken connection is tried again.

    Args:
        wanted: the file.
        target: it gets this name when it is whole and ``check`` has passed it.
        check: raises InputError for a file that is another.
        stall_s: how long the server may send nothing.

    Raises:
        InputError: no network, an HTTP error, a broken download, a folder that cannot be written.
    """
    problem = ""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        for _ in range(TRIES):
            try:
                with atomic_path(target) as temporary:
                    _receive(temporary, wanted, stall_s)
                    check(temporary)
                return
            except _CutError as cut:
                problem = str(cut)
    except OSError as error:
        raise wanted.failed(f"{error.filename or target.parent} cannot be written: {error.strerror}") from None
    raise wanted.failed(f"{problem}, {TRIES} times")


@contextlib.contextmanager
def _network_errors() -> Iterator[None]:
    try:
        yield
    except TimeoutError:
        raise _CutError("the server stalled") from None
    except (http.client.HTTPException, OSError) as error:
        raise _CutError(f"the connection broke ({error or type(error).__name__})") from None


def _open(wanted: Wanted, stall_s: float) -> http.client.HTTPResponse:
    with _network_errors():
        try:
            request = urllib.request.Request(wanted.url, headers=dict(_HEADERS))
            response: http.client.HTTPResponse = urllib.request.urlopen(request, timeout=stall_s)
        except urllib.error.HTTPError as error:
            error.close()
            raise wanted.failed(f"HTTP {error.code}, {str(error.reason).partition(chr(10))[0]}") from None
        except urllib.error.URLError as error:
            raise wanted.failed(f"no connection ({error.reason})") from None
    if response.status != http.HTTPStatus.OK:
        response.close()
        raise wanted.failed(f"HTTP {response.status}, {response.reason}")
    return response


def _receive(target: Path, wanted: Wanted, stall_s: float) -> None:
    """Write what the server sends to ``target``, with a bar where somebody watches."""
    with contextlib.closing(_open(wanted, stall_s)) as response, open(target, "wb") as written:
        total, done = response.length, 0
        with Progress(total, "B", doing=wanted.name, unit_scale=True, unit_divisor=1024) as bar:
            while max(done, total or 0) <= wanted.at_most and (piece := _read_piece(response)):
                written.write(piece)
                bar.update(len(piece))
                done += len(piece)
    if max(done, total or 0) > wanted.at_most:
        raise wanted.failed(f"expected at most {wanted.at_most} bytes, got {max(done, total or 0)} or more")
    if total is not None and done != total:
        raise _CutError(f"the connection ended after {done} of {total} bytes")


def _read_piece(response: http.client.HTTPResponse) -> bytes:
    with _network_errors():
        return response.read1(_PIECE_BYTES)
