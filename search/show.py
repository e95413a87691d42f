"""Print a network layer by layer, with MACs, parameters and predicted latency.

    python search/show.py proxyless_mobile
    python search/show.py runs/mine --latency my_phone.json

Without --latency a search's network is priced by what priced its search, any other by the fitted Pixel 1 predictor. A
predicted number is not a measurement.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":  # started as a script: the packages lie beside this folder, and nothing in it is top-level
    sys.path[:] = [str(ROOT), *(entry for entry in sys.path if Path(entry or ".").resolve() != ROOT / "search")]

from hardware.cost import latency_price  # noqa: E402
from hardware.latency import LatencySource, load_latency_source, network_ms, shipped, shipped_names  # noqa: E402
from proxyless_arch.arch import catalog  # noqa: E402
from proxyless_arch.arch.tables import describe  # noqa: E402
from proxyless_arch.arch.walk import walk  # noqa: E402
from proxyless_arch.base import settings  # noqa: E402
from proxyless_arch.base.cli import exit_code  # noqa: E402
from proxyless_arch.base.files import read_json  # noqa: E402
from proxyless_arch.base.settings import REQUIRED, setting  # noqa: E402
from proxyless_arch.base.strict import counted  # noqa: E402
from proxyless_arch.base.text import in_one_line  # noqa: E402
from proxyless_arch.base.units import Unit  # noqa: E402
from proxyless_arch.weights.lookup import find_spec  # noqa: E402
from search.config import FORMAT  # noqa: E402
from search.reporting.run_folder import Run, read_run  # noqa: E402

DEFAULT = "pixel1"


@dataclass(frozen=True, kw_only=True)
class ShowConfig:
    """What show.py is asked to do."""

    networks: tuple[str, ...] = setting(
        REQUIRED, "a known name, a spec file or a run folder", is_positional=True, metavar="NAME_OR_FILE"
    )
    latency: str | None = setting(
        None, f"a shipped latency file by name, or a file (default: the run's own, else {DEFAULT})"
    )


def named(latency: str) -> LatencySource:
    return shipped(latency) if latency in shipped_names() else load_latency_source(latency)


def search_in(word: str) -> Run | None:
    """The search whose run folder ``word`` names; None for any other network."""
    config = Path(word) / "config.json"
    if word in catalog.known_names() or not config.is_file():
        return None
    found = read_json(config)
    is_search = isinstance(found, dict) and found.get("format") == FORMAT
    return read_run(Path(word)) if is_search else None


def run(argv: Sequence[str]) -> None:
    arguments = settings.parse(ShowConfig, argv, "show.py", __doc__)
    given = named(arguments.latency) if arguments.latency is not None else None
    for word in arguments.networks:
        spec = find_spec(word)
        own = search_in(word) if given is None else None
        source = given or (own.source if own is not None else None) or shipped(DEFAULT)
        scale = own.table_scale if own is not None and own.source is not None else 1.0
        calls = walk(spec)
        print(describe(spec, costs=[scale * cost for cost in latency_price(source).costs(calls)]))
        how = f" times {scale:.4f}, as measured" if scale != 1 else "; not measured"
        print(f"predicted: {Unit.MS.short(scale * network_ms(source, calls))} by {in_one_line(source.source)}{how}")
        if own is not None and own.unit is Unit.MS and own.source is None:
            print("note: what priced this search is not there any more, or prices otherwise by now")
        outside = sum(bool(source.extrapolated(call)) for call in calls)
        if outside:
            layers = counted(outside, "layer")
            print(f"note: outside the data behind it: {layers}; compare networks with it, do not quote it")


def main(argv: Sequence[str] | None = None) -> int:
    return exit_code(run, argv)


if __name__ == "__main__":
    sys.exit(main())
