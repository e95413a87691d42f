"""What a step of the search costs beside a plain training step of the same network.

    python benchmarks/bench_search.py
    python benchmarks/bench_search.py --cases 32 --rounds 9 --save_json search.json

The plain step is what a person would write first: the network of the same path alone, in NCHW memory and float32.
Weight and architecture steps are those of search/run/loop.py, on the CPU (or ``--device cuda``, which has not been
run). Images are random. Each task is timed between two plain steps; ``null`` is the plain step again, and says what a
ratio is worth here. ``peak`` is memory beyond what a process held before, one process per task. The exit status is 1
where a ratio misses what it should be.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":  # started as a script: the packages lie beside this folder
    sys.path[0] = str(ROOT)

from benchmarks.search_steps import CASES, FOLDED, PLAIN, SCORED, WEIGHT, Case, Tasks  # noqa: E402
from benchmarks.turns import (  # noqa: E402
    CLOCKS,
    Ratio,
    Rounds,
    beside,
    circumstances,
    median_of,
    peak_bytes,
    relative,
    stated,
    verdict,
)
from proxyless_arch.base import settings  # noqa: E402
from proxyless_arch.base.cli import exit_code  # noqa: E402
from proxyless_arch.base.errors import InputError, LostProcessError  # noqa: E402
from proxyless_arch.base.files import write_json  # noqa: E402
from proxyless_arch.base.machine import tune_allocator  # noqa: E402
from proxyless_arch.base.memory import format_bytes  # noqa: E402
from proxyless_arch.base.settings import setting  # noqa: E402
from proxyless_arch.base.strict import listed  # noqa: E402
from proxyless_arch.base.text import align  # noqa: E402
from proxyless_arch.base.words import (  # noqa: E402
    AUTO_KERNELS,
    DEVICE,
    KERNEL_CHOICES,
    KERNELS,
    SAVE_JSON,
    THREADS,
    new_file,
)

MOST_MEMORY = 1.15
"""Of the plain step's peak, for any step of the search."""


@dataclass(frozen=True)
class Goal:
    """A task, what it is compared with, and what the ratio should be at most."""

    task: str
    base: str
    most: float | None = None


def goals(case: Case) -> tuple[Goal, ...]:
    return (
        Goal("null", PLAIN),
        Goal("plain, channels_last", PLAIN),
        Goal("plain, channels_last, kernels", PLAIN),
        Goal("plain, channels_last, bf16, kernels", PLAIN),
        Goal(WEIGHT, PLAIN, case.weight),
        Goal("two", WEIGHT, 0.8),
        Goal("full_v2", WEIGHT, 1.35),
        Goal("REINFORCE, 10 paths", WEIGHT, 1.8),
        Goal(FOLDED, PLAIN),
        Goal(SCORED, FOLDED, 1.1),
    )


def _in_the_end(device: Any, run: Callable[[], object]) -> None:
    """``run``, and all that it started has finished."""
    run()
    if device.type == "cuda":
        import torch

        torch.cuda.synchronize(device)


# ------------------------------------------------------------------------------------------------------- the report


def peak(config: Config, case: str, task: str) -> int | None:
    """Bytes of a task's third step, in a process of its own."""
    words = [sys.executable, str(Path(__file__).resolve()), "--cases", case, "--memory_of", task]
    words += ["--device", config.device, "--kernels", config.kernels, "--threads", str(config.threads)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise LostProcessError(f"{task}: {done.stderr.strip().splitlines()[-1:]}")
    return json.loads(done.stdout.splitlines()[-1])


def measured_peak(config: Config) -> int | None:
    """In this process."""
    import torch

    tasks = Tasks(CASES[config.cases.split(",")[0]], config.device, config.kernels, config.seed)
    step = partial(_in_the_end, tasks.device, tasks.named(config.memory_of or PLAIN))
    if tasks.device.type == "cuda":
        step()
        torch.cuda.reset_peak_memory_stats(tasks.device)
        step()
        return torch.cuda.max_memory_allocated(tasks.device)
    return peak_bytes(lambda: [step() for _ in range(3)])


def ratios(rounds: Rounds, case: Case) -> Iterator[dict[str, Any]]:
    """Of each goal by both clocks; the verdict is by the processor's, which other work slows down least."""
    for goal in goals(case):
        row: dict[str, Any] = {"task": goal.task, "over": goal.base, "at_most": goal.most}
        for clock in CLOCKS:
            values = relative(rounds, goal.task, clock)
            if goal.base != PLAIN:
                values = values / relative(rounds, goal.base, clock)
            row[clock] = median_of(values)._asdict()
            row[f"{clock}_ms"] = round(median(getattr(own, clock) for own, _ in rounds[goal.task]), 2)
        yield {**row, "verdict": verdict(Ratio(**row["cpu"]), goal.most)}


def compared(config: Config, name: str) -> dict[str, Any]:
    """All of one case, for the record."""
    import torch

    case = CASES[name]
    torch.set_num_threads(config.threads)
    tasks = Tasks(case, config.device, config.kernels, config.seed)
    steps = {goal.task: partial(_in_the_end, tasks.device, tasks.named(goal.task)) for goal in goals(case)}
    rounds = beside(partial(_in_the_end, tasks.device, tasks.named(PLAIN)), steps, config.rounds, config.block)
    peaks = {}
    if config.memory:
        peaks = {task: peak(config, name, task) for task in (PLAIN, WEIGHT, "two", "full_v2", "REINFORCE, 10 paths")}
    return {
        "case": f"{case.pixels} px, batch {case.batch}, space {case.space}",
        "kernels": tasks.kernels,
        "ratios": list(ratios(rounds, case)),
        "peak_bytes": peaks,
        "memory": list(memory(peaks)),
    }


def memory(peaks: Mapping[str, int | None]) -> Iterator[dict[str, Any]]:
    """Of each step its peak as a share of the plain step's; nothing where no system tells them."""
    plain = peaks.get(PLAIN)
    for task, size in peaks.items():
        if task != PLAIN and size is not None and plain:
            share = round(size / plain, 4)
            judged = "holds" if share <= MOST_MEMORY else "MISSED"
            yield {"task": task, "share": share, "at_most": MOST_MEMORY, "verdict": judged}


def table(found: Mapping[str, Any]) -> list[str]:
    rows = [("step", "over", "CPU time", "interval", "wall", "interval", "at most", "")]
    for row in found["ratios"]:
        shown = []
        for clock in CLOCKS:
            ratio = row[clock]
            shown += [f"{ratio['median']:.2f}", f"{ratio['low']:.2f} to {ratio['high']:.2f}"]
        most = "-" if row["at_most"] is None else f"{row['at_most']:g}"
        rows.append((row["task"], row["over"], *shown, most, row["verdict"]))
    lines = [f"{found['case']}, kernels by {found['kernels']}", *align(rows, left=(0, 1, 7))]
    plain = found["peak_bytes"].get(PLAIN)
    if plain is not None:
        lines.append(f"peak of {PLAIN}: {format_bytes(plain)}")
    for row in found["memory"]:
        size = format_bytes(found["peak_bytes"][row["task"]])
        lines.append(f"peak of {row['task']}: {size}, {row['share']:.2f} of it: {row['verdict']}")
    return lines


@dataclass(frozen=True, kw_only=True)
class Config:
    """What bench_search.py is asked to do."""

    cases: str = setting("32,224", "sizes of images, between commas: 32 (batch 64), 224 (batch 8)")
    rounds: int = setting(5, "in which each task takes its turn", minimum=2)
    block: int = setting(1, "steps of a task in a row", minimum=1)
    threads: int = THREADS.setting(1, minimum=1, maximum=1024)
    device: str = DEVICE.setting("cpu")
    kernels: str = KERNELS.setting(AUTO_KERNELS, allowed=KERNEL_CHOICES)
    seed: int = setting(0, "of the path, the weights and the images")
    tuned: bool = setting(False, "with the C library's allocator tuned, as eval.py has it")
    memory: bool = setting(True, "measure the peak of each step too, in processes of their own")
    memory_of: str | None = setting(None, "only the peak of this task, in this process, as JSON")
    save_json: Path | None = SAVE_JSON.setting(None, metavar="FILE", check=new_file)


def run(argv: Sequence[str]) -> int:
    config = settings.parse(Config, argv, "bench_search.py", __doc__)
    if config.tuned:
        tune_allocator()
    if config.memory_of is not None:
        print(json.dumps(measured_peak(config)))
        return 0
    record: dict[str, Any] = {**circumstances(["benchmarks/bench_search.py", *argv]), "cases": []}
    for name in cases_of(config.cases):
        found = compared(config, name)
        record["cases"].append(found)
        print(*table(found), "", sep="\n")
    print(stated(record))
    if config.save_json is not None:
        write_json(config.save_json, record)
    judged = [row["verdict"] for found in record["cases"] for row in (*found["ratios"], *found["memory"])]
    return 1 if "MISSED" in judged else 0


def cases_of(cases: str) -> list[str]:
    """The names of cases. Raises InputError for another."""
    names = cases.split(",")
    for name in names:
        if name not in CASES:
            raise InputError(f"expected {listed(CASES)}, got {name!r}", "--cases")
    return names


def main(argv: Sequence[str] | None = None) -> int:
    return exit_code(run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
