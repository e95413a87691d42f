"""Print a network layer by layer, with MACs, parameters and predicted latency.

    python search/show.py proxyless_mobile
    python search/show.py runs/mine --latency my_phone.json

Without --latency the fitted Pixel 1 predictor is asked. A predicted number is not a measurement.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":  # started as a script: the packages lie beside this folder, and nothing in it is top-level
    sys.path[:] = [str(ROOT), *(entry for entry in sys.path if Path(entry or ".").resolve() != ROOT / "search")]

from proxyless_arch.cli import Parser, exit_code  # noqa: E402
from proxyless_arch.lookup import find_spec  # noqa: E402
from proxyless_arch.shapes import walk  # noqa: E402
from proxyless_arch.tables import describe  # noqa: E402
from search.latency import LatencySource, load_latency_source, network_ms, shipped, shipped_names  # noqa: E402


def run(argv: Sequence[str] | None) -> None:
    parser = Parser(prog="show.py", description=__doc__)
    parser.add_argument("networks", nargs="+", metavar="NAME_OR_FILE", help="a known name, a spec file or a run folder")
    parser.add_argument("--latency", default="pixel1", help="a shipped latency file by name, or a file [pixel1]")
    arguments = parser.parse_strictly(argv)
    source: LatencySource
    if arguments.latency in shipped_names():
        source = shipped(arguments.latency)
    else:
        source = load_latency_source(arguments.latency)
    for word in arguments.networks:
        spec = find_spec(word)
        calls = walk(spec)
        print(describe(spec, costs=list(map(source.price_ms, calls))))
        print(f"predicted: {network_ms(source, calls):.2f} ms by {source.source}; not measured")
        outside = sum(bool(source.extrapolated(call)) for call in calls)
        if outside:
            print(f"note: {outside} layers lie outside the data behind it: compare networks with it, do not quote it")


def main(argv: Sequence[str] | None = None) -> int:
    return exit_code(lambda: run(argv))


if __name__ == "__main__":
    sys.exit(main())
