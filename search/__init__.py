"""Choosing an architecture for a latency: ``from search import SearchConfig, run_search``.

Nothing is imported before it is asked for: the settings, and a finished run, are read without a framework.
"""

from __future__ import annotations

from proxyless_arch.base.lazy import on_demand

_HOMES = {
    "SearchConfig": "search.config",
    "SearchResult": "search.result",
    "RandomResult": "search.result",
    "read_result": "search.result",
    "SearchStopped": "search.run.runner",
    "draw_random": "search.run.runner",
    "run_search": "search.run.runner",
    "run_family": "search.run.family",
    "family_table": "search.run.family",
}
__all__ = list(_HOMES)
__getattr__, __dir__ = on_demand(__name__, _HOMES)
