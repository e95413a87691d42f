"""How what a search does grows with batch, resolution, width, choices, blocks, classes, epochs and images.

    python benchmarks/bench_growth.py
    python benchmarks/bench_growth.py --only projection --rounds 9
    python benchmarks/bench_growth.py --most_images 1300000 --output growth.json --picture growth.svg

Sizes take turns, so that what else the machine does falls on all of them; times are of the processor, all threads
together. An exponent is the slope of log time over log work through the three largest sizes, where what is paid once
counts least; its interval (95 %) is by bootstrap over the rounds. What may grow with the exponent 1 holds up to 1.1.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":  # started as a script: the packages lie beside this folder
    sys.path[0] = str(ROOT)

from benchmarks.growth_tasks import Growth, growths  # noqa: E402
from benchmarks.turns import CONFIDENCE, RESAMPLES, Ratio, circumstances, stated, verdict  # noqa: E402
from proxyless_arch.base import settings  # noqa: E402
from proxyless_arch.base.cli import exit_code  # noqa: E402
from proxyless_arch.base.errors import InputError  # noqa: E402
from proxyless_arch.base.files import write_json  # noqa: E402
from proxyless_arch.base.settings import setting  # noqa: E402
from proxyless_arch.base.text import align  # noqa: E402
from proxyless_arch.base.timing import cpu_ms, in_turn  # noqa: E402
from proxyless_arch.base.words import new_file  # noqa: E402
from proxyless_arch.drawing.axes import Axis  # noqa: E402
from proxyless_arch.drawing.charts import Chart, Guide, Point, compose, plane  # noqa: E402
from proxyless_arch.drawing.scene import Scene, write_picture  # noqa: E402

FITTED = 3
"""Sizes, the largest, that an exponent is fitted through."""
SLACK = 0.1


@dataclass(frozen=True, kw_only=True)
class GrowthConfig:
    """What is timed."""

    only: str | None = setting(None, "those with this in their name: 'weight step / batch', projection, images")
    rounds: int = setting(5, "timings of each size", minimum=2)
    most_images: int = setting(100_000, "names of images, at most; 1300000 take 0.2 GB of disk", minimum=1000)
    output: Path | None = setting(None, "write the record to this file", metavar="FILE", check=new_file)
    picture: Path | None = setting(None, "draw the times (.svg or .png)", metavar="FILE", check=new_file)


@dataclass(frozen=True)
class Found:
    """The times of a growth by size, and the exponent."""

    name: str
    work: tuple[float, ...]
    ms: tuple[float, ...]
    exponent: Ratio
    most: float

    @property
    def verdict(self) -> str:
        return verdict(self.exponent, self.most + SLACK)


def slope(work: np.ndarray, ms: np.ndarray) -> np.ndarray:
    """Of log time over log work through the last sizes; ``ms``: (..., sizes), the exponents have its leading axes."""
    x = np.log(work[-FITTED:])
    y = np.log(ms[..., -FITTED:])
    x = x - x.mean()
    return (y @ x) / (x @ x)


def exponent_of(work: Sequence[float], rounds: np.ndarray, seed: int = 0) -> Ratio:
    """The exponent of the medians over rounds, with its interval; ``rounds``: ms, (rounds, sizes)."""
    count, sizes = rounds.shape
    chosen = np.random.default_rng(seed).integers(0, count, (RESAMPLES, count, sizes))
    drawn = np.median(np.take_along_axis(rounds[None], chosen, axis=1), axis=1)
    low, high = np.percentile(slope(np.asarray(work), drawn), (50 - CONFIDENCE / 2, 50 + CONFIDENCE / 2))
    middle = float(slope(np.asarray(work), np.median(rounds, axis=0)))
    return Ratio(*(round(value, 3) for value in (middle, float(low), float(high))))


def measure(growth: Growth, rounds: int) -> Found:
    made = {size: growth.make(size) for size in growth.sizes}
    times = in_turn({size: (lambda run=run: cpu_ms(run)) for size, (_, run) in made.items()}, rounds, 1)
    work = tuple(float(amount) for amount, _ in made.values())
    table = np.array([times[size] for size in growth.sizes]).T
    medians = tuple(round(float(ms), 3) for ms in np.median(table, axis=0))
    return Found(f"{growth.name} / {growth.of}", work, medians, exponent_of(work, table), growth.most)


def chart(found: Found) -> Chart:
    """Time by work, both by their first sizes, as powers of two; and the line of what grows as it may."""
    x, y = ([float(value) for value in np.log2(np.asarray(own) / own[0])] for own in (found.work, found.ms))
    measured = list(zip(x, y, strict=True))
    points = [Point(x=across, y=up, group="measured") for across, up in measured]
    name, of = found.name.split(" / ")
    title = f"{name}: exponent {found.exponent.median:.2f}"
    may = Guide(points=[(0.0, 0.0), (x[-1], found.most * x[-1])], label="may be")
    return plane(
        title, points, x=Axis(label=f"{of}, doublings"), y=Axis(label="time, doublings"), trail=measured, guides=[may]
    )


def picture(record: Mapping[str, Any]) -> Scene:
    """Of a record of this command."""
    found = [
        Found(own["name"], tuple(own["work"]), tuple(own["ms"]), Ratio(*own["exponent"]), own["most"])
        for own in record["growths"]
    ]
    return compose("How the work grows", [chart(each) for each in found], 4, [stated(record)])


def rows(all_found: Sequence[Found]) -> list[tuple[str, ...]]:
    lines = [("what / of what", "ms by size", "exponent", "interval", "may be", "verdict")]
    for found in all_found:
        middle, low, high = found.exponent
        times = " ".join(f"{ms:.3g}" for ms in found.ms)
        lines.append((found.name, times, f"{middle:.2f}", f"{low:.2f} to {high:.2f}", f"{found.most:g}", found.verdict))
    return lines


def chosen(config: GrowthConfig, every: Mapping[str, Growth]) -> list[Growth]:
    found = [growth for name, growth in every.items() if config.only is None or config.only in name]
    if not found:
        raise InputError(f"nothing is called so: {', '.join(every)}", "--only")
    return found


def run(argv: Sequence[str]) -> int:
    config = settings.parse(GrowthConfig, argv, "bench_growth.py", __doc__)
    record: dict[str, Any] = circumstances(["benchmarks/bench_growth.py", *argv]) | {"rounds": config.rounds}
    found = list[Found]()
    with tempfile.TemporaryDirectory(prefix="growth") as folder:
        for growth in chosen(config, growths(Path(folder), config.most_images)):
            found.append(measure(growth, config.rounds))
            print(*align(rows(found[-1:])), sep="\n", flush=True)
            record["growths"] = [asdict(each) | {"verdict": each.verdict} for each in found]
            if config.output is not None:  # the last ones may take long
                write_json(config.output, record)
    print("", *align(rows(found)), sep="\n")
    print(stated(record))
    faster = [each.name for each in found if each.verdict == "MISSED"]
    print(f"grows faster than the work: {', '.join(faster)}" if faster else "nothing grows faster than the work")
    if config.picture is not None:
        write_picture(picture(record), config.picture)
    return 1 if faster else 0


def main(argv: Sequence[str] | None = None) -> int:
    return exit_code(run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
