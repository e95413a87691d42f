"""Choosing an architecture for a latency: ``from search import SearchConfig, run_search``.

Nothing is imported before it is asked for: the settings, and a finished run, are read without a framework.
"""

from __future__ import annotations

import importlib
from typing import Any

_HOMES = {
    "SearchConfig": "search.config",
    "SearchResult": "search.result",
    "RandomResult": "search.result",
    "read_result": "search.result",
    "SearchStopped": "search.run.runner",
    "draw_random": "search.run.runner",
    "run_search": "search.run.runner",
}
__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
