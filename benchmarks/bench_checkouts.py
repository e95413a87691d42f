"""How long the steps of the default search take here, beside those of another checkout of this repository.

    git worktree add ../first 5f08150
    python benchmarks/bench_checkouts.py ../first

Each checkout has a process of its own with one thread, and they take their turns; ``null`` is the other checkout again,
and says what a ratio is worth. Milliseconds are of CPU time, of a warm-up's weight step and of an architecture step on
the digits. Checkouts back to November 22, 2026 are known. Here steps are as ``--kernels`` says, in the other one by
torch.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":
    sys.path[0] = str(ROOT)

from benchmarks.turns import circumstances, median_of, stated  # noqa: E402
from proxyless_arch.base import settings  # noqa: E402
from proxyless_arch.base.cli import exit_code  # noqa: E402
from proxyless_arch.base.errors import InputError  # noqa: E402
from proxyless_arch.base.settings import setting  # noqa: E402
from proxyless_arch.base.text import align  # noqa: E402
from proxyless_arch.base.words import AUTO_KERNELS, KERNEL_CHOICES, KERNELS, TORCH_KERNELS  # noqa: E402

KINDS = {"weight": "weight step", "architecture": "architecture step"}
STEPS = """
import os, sys, time
sys.path.insert(0, os.getcwd())
is_first = not os.path.isdir("search/run")
if not is_first:
    from proxyless_arch.base.machine import tune_allocator
    tune_allocator()
import torch
torch.set_num_threads(1)
if is_first:
    from search import session as jobs
    from search.config import from_recipe
    job = jobs.prepare(from_recipe("digits"), torch.device("cpu"))
else:
    from search.config import effective_config
    from search.run import job as jobs
    job = jobs.prepare(effective_config({"kernels": sys.argv[1]}), torch.device("cpu"), lambda line: None)
search = jobs.new_search(job)
train, valid = ([next(batches) for _ in range(8)] for batches in (job.train_batches(0), job.valid_batches(0)))
steps = {"weight": (search.weight_step, train), "architecture": (search.arch_step, valid)}
for line in sys.stdin:
    kind, count = line.split()
    step, batches = steps[kind]
    start = time.process_time()
    for number in range(int(count)):
        step(*batches[number % len(batches)])
    print("took", 1000 * (time.process_time() - start) / int(count), flush=True)
"""
"""What a process of a checkout runs: it takes the steps that are asked for, and says what each took."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """What bench_checkouts.py is asked to do."""

    other: Path = setting(settings.REQUIRED, "the other checkout", is_positional=True, metavar="FOLDER")
    rounds: int = setting(5, "in which each checkout takes its turn", minimum=2)
    block: int = setting(3, "steps in a row", minimum=1)
    kernels: str = KERNELS.setting(AUTO_KERNELS, allowed=KERNEL_CHOICES)


class Checkout:
    """A process that takes steps of the search of the checkout in ``folder``."""

    def __init__(self, folder: Path, kernels: str) -> None:
        if not (folder / "search" / "imagenet_arch_search.py").is_file():
            raise InputError("expected a checkout of this repository", source=str(folder))
        self._process = subprocess.Popen(
            [sys.executable, "-c", STEPS, kernels],
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )

    def ms(self, kind: str, count: int) -> float:
        """CPU milliseconds of a step, the mean of ``count``."""
        assert self._process.stdin is not None and self._process.stdout is not None
        print(kind, count, file=self._process.stdin, flush=True)
        for line in self._process.stdout:
            if line.startswith("took "):
                return float(line.split()[1])
        raise InputError(f"its search ended with status {self._process.wait()}", source=str(self._process.args))

    def close(self) -> None:
        self._process.communicate()


def measured(checkouts: Mapping[str, Checkout], kind: str, rounds: int, block: int) -> dict[str, np.ndarray]:
    """Milliseconds of a kind of step, of each checkout and round; one round before is not counted."""
    taken = [[checkout.ms(kind, block) for checkout in checkouts.values()] for _ in range(rounds + 1)]
    return dict(zip(checkouts, np.array(taken[1:]).T, strict=True))


def run(argv: Sequence[str]) -> None:
    config = settings.parse(Config, argv, "bench_checkouts.py", __doc__)
    before = config.other, TORCH_KERNELS
    asked = {"other": before, "here": (ROOT, config.kernels), "null": before}
    checkouts = {name: Checkout(*how) for name, how in asked.items()}
    rows = [("step", "other, ms", "here, ms", "here / other", "null")]
    for kind, name in KINDS.items():
        ms = measured(checkouts, kind, config.rounds, config.block)
        ratios = [median_of(ms[own] / ms["other"]) for own in ("here", "null")]
        shown = [f"{ratio.median:.2f} ({ratio.low:.2f} to {ratio.high:.2f})" for ratio in ratios]
        rows.append((name, *(f"{np.median(ms[own]):.1f}" for own in ("other", "here")), *shown))
    for checkout in checkouts.values():
        checkout.close()
    print(*align(rows, left=(0,)), sep="\n")
    print(stated(circumstances(["benchmarks/bench_checkouts.py", *argv])))


def main(argv: Sequence[str] | None = None) -> int:
    return exit_code(run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
