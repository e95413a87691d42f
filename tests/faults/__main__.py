"""The command; see the package."""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from proxyless_arch.base.text import align
from tests.faults.cases import CASES, Bench, NotHeldError, NotPossibleError

HELD, NOT_HELD, SKIPPED = OUTCOMES = ("held", "not held", "skipped")


def parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--count", type=int, default=1, help="how often each fault is tried, at another moment")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--only", default="", help="beginnings of the names of faults, by commas (default: all)")
    return parser.parse_args(argv)


def outcome_of(name: str, number: int, seed: int, bench: Bench) -> tuple[str, str]:
    """(outcome, why) of one trial of a fault."""
    rng = random.Random(f"{seed} {name} {number}")
    with tempfile.TemporaryDirectory(prefix="fault") as folder:
        try:
            CASES[name](bench, Path(folder), rng)
        except NotPossibleError as error:
            return SKIPPED, str(error)
        except (NotHeldError, AssertionError) as error:
            return NOT_HELD, str(error)[:2000]
    return HELD, ""


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parsed(argv)
    names = [name for name in CASES if name.startswith(tuple(arguments.only.split(",")))]
    counts, begun = {name: Counter[str]() for name in names}, time.monotonic()
    with tempfile.TemporaryDirectory(prefix="bench") as folder:
        bench = Bench(Path(folder))
        for name in names:
            for number in range(arguments.count):
                outcome, why = outcome_of(name, number, arguments.seed, bench)
                counts[name][outcome] += 1
                print(f"{name} {number}: {outcome} {why}".rstrip(), file=sys.stderr, flush=True)
    rows = [["fault", *OUTCOMES], *([name, *(str(counts[name][each]) for each in OUTCOMES)] for name in names)]
    total = sum(counts.values(), Counter[str]())
    print("\n".join(align([*rows, ["all", *(str(total[each]) for each in OUTCOMES)]])))
    print(f"{bench.n_equal} of {bench.n_resumed} resumed runs are equal to the undisturbed ones, bit for bit")
    print(f"seed {arguments.seed}, {time.monotonic() - begun:.0f} s")
    return 1 if total[NOT_HELD] else 0


if __name__ == "__main__":
    sys.exit(main())
