"""What is named on a command line and is not there, told before a framework is imported, which takes seconds."""

from __future__ import annotations

import os
from pathlib import Path

from proxyless_arch.arch import catalog
from proxyless_arch.base.files import expanded, is_url, read_bytes
from proxyless_arch.base.strict import judged_at
from proxyless_arch.data.sources import open_source
from proxyless_arch.weights.lookup import find_network

Place = str | os.PathLike[str] | None


def look(data_path: Place = None, arch: Place = None, table: Place = None, arch_flag: str = "--arch") -> None:
    """Raises InputError for what is not there, as it would be told when it is opened.

    Args:
        data_path: images.
        arch: a known name, a file or a run folder; given with ``arch_flag``.
        table: a file; given with --latency_table.
    """
    if arch is not None and os.fspath(arch) not in catalog.known_names() and _is_missing(arch):
        find_network(os.fspath(arch), arch_flag)
    if data_path is not None and _is_missing(data_path):
        open_source(data_path)
    if table is not None and _is_missing(table):
        with judged_at("", {"": "--latency_table"}):
            read_bytes(table)


def _is_missing(place: str | os.PathLike[str]) -> bool:
    return not is_url(place) and not Path(expanded(os.fspath(place))).exists()
