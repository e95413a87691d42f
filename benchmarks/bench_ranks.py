"""How much faster two processes that share a search are than one.

    python benchmarks/bench_ranks.py
    python benchmarks/bench_ranks.py --ranks 4 --rounds 9 --save_json ranks.json

Steps of the search (search/run/loop.py) at equal images per process: of one process, and of ``--ranks`` of them that
add up their gradients by gloo on this machine, one thread each. They take their turns, by the clock on the wall; a rate
is images a second of all processes together, relative to the one's. ``null`` is the one process again; ``1 process, 2
threads`` is what its other core gives it without a second process. A machine with fewer cores than processes says
nothing here. The exit status is 1 where the rate misses what it should be, 1.7 for two processes.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":  # started as a script: the packages lie beside this folder
    sys.path[0] = str(ROOT)

from benchmarks.search_steps import CASES, WEIGHT, Tasks  # noqa: E402
from benchmarks.turns import circumstances, median_of, stated, verdict  # noqa: E402
from proxyless_arch.base import settings  # noqa: E402
from proxyless_arch.base.cli import exit_code  # noqa: E402
from proxyless_arch.base.errors import LostProcessError  # noqa: E402
from proxyless_arch.base.files import write_json  # noqa: E402
from proxyless_arch.base.machine import tune_allocator  # noqa: E402
from proxyless_arch.base.settings import setting  # noqa: E402
from proxyless_arch.base.text import align  # noqa: E402
from proxyless_arch.base.timing import wall_ms  # noqa: E402
from proxyless_arch.base.words import AUTO_KERNELS, KERNEL_CHOICES, KERNELS, SAVE_JSON, new_file  # noqa: E402

STEPS = (WEIGHT, "full_v2")
LEAST = 0.85
"""Of as many times the rate of one process as there are processes."""
TOOK = "took "


@dataclass(frozen=True, kw_only=True)
class Config:
    """What bench_ranks.py is asked to do."""

    ranks: int = setting(2, "processes that share a search", minimum=2, maximum=1024)
    rounds: int = setting(5, "in which each group of processes takes its turn", minimum=2)
    block: int = setting(1, "steps in a row", minimum=1)
    kernels: str = KERNELS.setting(AUTO_KERNELS, allowed=KERNEL_CHOICES)
    threads: int = setting(1, "of this process, where it is one of a group", minimum=1)
    serves: bool = setting(False, "take the steps that are asked for on standard input, as one of a group")
    save_json: Path | None = SAVE_JSON.setting(None, metavar="FILE", check=new_file)


# ---------------------------------------------------------------------------------------------- one process of a group


def serve(config: Config) -> None:
    """Lines of JSON, [case, step, count], are answered by the milliseconds of one step."""
    import torch

    from proxyless_nas.distributed import init_from_environment

    tune_allocator()
    torch.set_num_threads(config.threads)
    with init_from_environment("cpu"):
        steps: dict[tuple[str, str], Any] = {}
        for line in sys.stdin:
            case, name, count = json.loads(line)
            if (case, name) not in steps:
                steps[case, name] = Tasks(CASES[case], "cpu", config.kernels).named(name)
            step = steps[case, name]
            ms = wall_ms(lambda step=step, count=count: [step() for _ in range(count)]) / count
            print(f"{TOOK}{ms}", flush=True)


class Group:
    """Processes that share a search."""

    def __init__(self, ranks: int, threads: int, kernels: str) -> None:
        words = [sys.executable, str(Path(__file__).resolve()), "--serves", "--threads", str(threads)]
        words += ["--kernels", kernels]
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = str(probe.getsockname()[1])
        common = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        if ranks > 1:
            common |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(ranks)}
            common |= {"LOCAL_WORLD_SIZE": str(ranks)}
        self.ranks = ranks
        self._processes = [
            subprocess.Popen(
                words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                env=common | ({"RANK": str(rank), "LOCAL_RANK": str(rank)} if ranks > 1 else {}),
            )
            for rank in range(ranks)
        ]  # fmt: skip

    def images_per_second(self, case: str, step: str, count: int) -> float:
        """Of all its processes, the slowest of which is waited for."""
        for process in self._processes:
            assert process.stdin is not None
            print(json.dumps([case, step, count]), file=process.stdin, flush=True)
        slowest = max(map(self._ms, self._processes))
        return 1000 * self.ranks * CASES[case].batch / slowest

    def _ms(self, process: subprocess.Popen[str]) -> float:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith(TOOK):
                return float(line.removeprefix(TOOK))
        raise LostProcessError(f"a process that took steps ended with status {process.wait()}")

    def close(self) -> None:
        for process in self._processes:
            process.communicate()


# ----------------------------------------------------------------------------------------------------- the comparison


def groups_of(config: Config) -> dict[str, Group]:
    """By name, the one process first."""
    alone, together = "1 process", f"{config.ranks} processes"
    asked = {alone: (1, 1), "null": (1, 1), together: (config.ranks, 1), f"{alone}, 2 threads": (1, 2)}
    return {name: Group(*how, config.kernels) for name, how in asked.items()}


def rates(groups: Mapping[str, Group], case: str, step: str, config: Config) -> dict[str, np.ndarray]:
    """Images a second of each group, by round; one round before is not counted."""
    taken = [
        [group.images_per_second(case, step, config.block) for group in groups.values()]
        for _ in range(config.rounds + 1)
    ]
    return dict(zip(groups, np.array(taken[1:]).T, strict=True))


def compared(case: str, step: str, found: Mapping[str, np.ndarray], ranks: int) -> list[dict[str, Any]]:
    """Of each group its rate over the one process's, with a verdict on the processes that share a search."""
    alone, *others = found
    rows = []
    for name in others:
        ratio = median_of(found[name] / found[alone])
        goal = LEAST * ranks if name == f"{ranks} processes" else None
        rows.append({
            "case": f"{CASES[case].pixels} px, batch {CASES[case].batch}", "step": step, "group": name,
            "images_per_second": round(float(np.median(found[name])), 1), "over_one": ratio._asdict(),
            "at_least": goal, "verdict": verdict(ratio, goal, is_least=True),
        })  # fmt: skip
    return rows


def table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = [("images", "step", "", "images a second", "over 1 process", "interval", "at least", "")]
    for row in rows:
        ratio, goal = row["over_one"], row["at_least"]
        lines.append((
            row["case"], row["step"], row["group"], f"{row['images_per_second']:.0f}", f"{ratio['median']:.2f}",
            f"{ratio['low']:.2f} to {ratio['high']:.2f}", "-" if goal is None else f"{goal:g}", row["verdict"],
        ))  # fmt: skip
    return align(lines, left=(0, 1, 2, 7))


def run(argv: Sequence[str]) -> int:
    config = settings.parse(Config, argv, "bench_ranks.py", __doc__)
    if config.serves:
        serve(config)
        return 0
    groups, rows = groups_of(config), []
    try:
        for case in CASES:
            for step in STEPS:
                rows += compared(case, step, rates(groups, case, step, config), config.ranks)
    finally:
        for group in groups.values():
            group.close()
    print(*table(rows), sep="\n")
    record = circumstances(["benchmarks/bench_ranks.py", *argv])
    print(stated(record))
    if config.save_json is not None:
        write_json(config.save_json, {**record, "rows": rows})
    return 1 if any(row["verdict"] == "MISSED" for row in rows) else 0


def main(argv: Sequence[str] | None = None) -> int:
    return exit_code(run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
