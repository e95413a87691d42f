"""The command; see the package."""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from proxyless_arch.base.text import align
from tests.fuzz.running import FAULTS, NO_FILE, OUTCOMES, Reader, Tally, fuzz, mutated

CORPUS = Path(__file__).parent / "corpus"


def parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=math.inf, help="stop after so many")
    parser.add_argument("--inputs", type=float, default=math.inf, help="stop after so many")
    parser.add_argument("--readers", default="", help="names, or beginnings of them, by commas (default: all)")
    parser.add_argument("--seed", type=int, default=0, help="another one makes other files")
    parser.add_argument("--keep", action="store_true", help="write the first file of each fault to corpus/")
    parser.add_argument("--show", metavar="READER:CASE", help="write the file of a case to standard output")
    return parser.parse_args(argv)


def table(tally: Tally) -> str:
    """For a person: a line for each reader, and their sum."""
    rows = [["reader", "inputs", *OUTCOMES]]
    for name, counter in sorted(tally.counts.items()):
        rows.append([name, str(counter.total()), *(str(counter[outcome]) for outcome in OUTCOMES)])
    rows.append(["all", str(tally.n_inputs), *(str(tally.of(outcome)) for outcome in OUTCOMES)])
    return "\n".join(align(rows))


def faults(tally: Tally) -> str:
    """Each kind of fault once, the most frequent first, with the first case of it."""
    kinds: dict[str, list[int]] = {}
    for fault in tally.faults:
        kinds.setdefault(fault.place, []).append(fault.case)
    return "\n".join(
        f"{len(cases):5} x {place}   [case {cases[0]}]"
        for place, cases in sorted(kinds.items(), key=lambda e: -len(e[1]))
    )


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parsed(argv)
    from tests.fuzz.readers import READERS  # which imports everything there is

    wanted = tuple(arguments.readers.split(","))
    readers = [reader for reader in READERS if reader.name.startswith(wanted)]
    if arguments.show:
        name, _, case = arguments.show.partition(":")
        reader = next(each for each in READERS if each.name == name)
        sys.stdout.buffer.write(mutated(reader, reader.seeds(), arguments.seed, int(case)))
        return 0
    last = time.monotonic()

    n_said = 0

    def told(tally: Tally) -> None:
        nonlocal last, n_said
        for fault in tally.faults[n_said:]:
            print(f"{fault.place}   [case {fault.case}]", file=sys.stderr, flush=True)
        n_said = len(tally.faults)
        if time.monotonic() - last > 60:
            last = time.monotonic()
            print(f"{tally.seconds:.0f} s  {tally.n_inputs} inputs  {len(tally.faults)} faults", file=sys.stderr)

    if math.inf == arguments.seconds == arguments.inputs:
        arguments.seconds = 600
    tally = fuzz(readers, seconds=arguments.seconds, inputs=arguments.inputs, seed=arguments.seed, told=told)
    print(table(tally))
    print(faults(tally))
    print(f"{tally.n_inputs} inputs in {tally.seconds:.0f} s, seed {arguments.seed}: {len(tally.faults)} faults")
    if arguments.keep:
        keep(tally, arguments.seed, {reader.name: reader for reader in readers})
    return 1 if any(map(tally.of, FAULTS)) else 0


def keep(tally: Tally, seed: int, readers: Mapping[str, Reader]) -> None:
    """Write the first file of each fault to the corpus."""
    seen = set[str]()
    for fault in tally.faults:
        if fault.place not in seen and not fault.detail.startswith(NO_FILE):
            seen.add(fault.place)
            reader = readers[fault.reader]
            folder = CORPUS / fault.reader
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{seed}-{fault.case}").write_bytes(mutated(reader, reader.seeds(), seed, fault.case))


if __name__ == "__main__":
    sys.exit(main())
