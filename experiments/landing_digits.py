"""Does a search end where it was asked to? Twenty seeds, three targets, three algorithms, on the digits' space.

    nice python experiments/landing_digits.py --picture docs/landing.svg

Each search is a shortened digits search (the settings are in the JSON); the searches of one seed share its warm-up,
which depends on neither target nor algorithm. A target is a share of the space's mean cost; the smallest cannot be met
without leaving blocks out. Written down: E[cost] at the end, the cost of the most probable network (argmax) and of the
derived one. Accuracy is no matter here. The figures go to experiments/landing_digits.json after every search; given
again, the command goes on where it stopped.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":  # started as a script: the packages lie beside this folder
    sys.path[0] = str(ROOT)

import torch  # noqa: E402

from hardware.cost import CostTable  # noqa: E402
from proxyless_arch.base.cli import exit_code  # noqa: E402
from proxyless_arch.base.errors import InputError  # noqa: E402
from proxyless_arch.base.files import read_json, write_json  # noqa: E402
from proxyless_arch.base.machine import cpu_name  # noqa: E402
from proxyless_arch.base.progress import Progress  # noqa: E402
from proxyless_arch.base.settings import parse, setting  # noqa: E402
from proxyless_arch.drawing.axes import Axis, Frame  # noqa: E402
from proxyless_arch.drawing.charts import Guide, Point, compose, plane, series_color  # noqa: E402
from proxyless_arch.drawing.scene import write_picture  # noqa: E402
from search.algorithm.derive import choose_path  # noqa: E402
from search.algorithm.gates import argmax_path, entropy  # noqa: E402
from search.config import SearchConfig, from_recipe, with_settings  # noqa: E402
from search.run import job as jobs  # noqa: E402
from search.run import loop  # noqa: E402
from search.run.checkpoint import Checkpoint  # noqa: E402

FORMAT, VERSION = "proxyless-nas/landing-digits", 1
OUTPUT = ROOT / "experiments" / "landing_digits.json"
RECIPE = "digits"
# 480 images in 30 steps an epoch; 2 epochs of warm-up, then 1 epoch with 10 architecture steps behind each weight step
SHORT: dict[str, Any] = {
    "device": "cpu", "valid_size": 957.0, "train_batch_size": 16, "warmup_epochs": 2, "n_epochs": 1,
    "grad_update_steps": 10, "target_hardware": "mobile",
}  # fmt: skip
ALGORITHMS: dict[str, dict[str, Any]] = {
    "full_v2": {"arch_algo": "grad", "grad_binary_mode": "full_v2", "grad_data_batch": 4},
    "two": {"arch_algo": "grad", "grad_binary_mode": "two", "grad_data_batch": 4},
    "rl": {
        "arch_algo": "rl", "rl_reward": "absolute", "rl_baseline_rule": "others", "rl_batch_size": 5,
        "grad_data_batch": 8,
    },
}  # fmt: skip
TITLES = {"full_v2": "Gradient", "two": "Gradient, two operations a step", "rl": "REINFORCE"}
STAGES = {
    "expected_distance_percent": "mean of the\nsampled\nnetworks",
    "argmax_distance_percent": "most\nprobable\nnetwork",
    "derived_distance_percent": "network\nfound",
}
FRAME = Frame(width=330, height=300, foot=62)
SHARES = (0.55, 0.7, 0.9)
LOWER = 0.99


def settings(algorithm: str, seed: int, target_ms: float | None) -> SearchConfig:
    """The config of one search; the target in ms."""
    changes = {**SHORT, **ALGORITHMS[algorithm], "manual_seed": seed, "target_latency_ms": target_ms}
    return with_settings(from_recipe(RECIPE), changes)


def warm_up(seed: int) -> Checkpoint:
    """The state at the end of a seed's warm-up, which all its searches start from."""
    job = jobs.prepare(settings("full_v2", seed, None), torch.device("cpu"))
    search = jobs.new_search(job)
    last = job.schedule.warmup_steps
    loop.run(
        search,
        job.train_batches(0),
        job.valid_batches(0),
        on_epoch=lambda record: None,
        on_step=lambda state: state.step < last,
    )
    return search.checkpoint({}, {}, 0, 0.0)


def landed(algorithm: str, seed: int, share: float, mean_ms: float, warm: Checkpoint) -> dict[str, Any]:
    """One search to its end, as a row of the JSON: costs in ms, distances from the target in percent of it."""
    start = time.process_time()
    job = jobs.prepare(settings(algorithm, seed, share * mean_ms), torch.device("cpu"))
    assert job.table is not None
    assert job.goal is not None
    search = jobs.new_search(job)
    search.start_behind(warm)
    loop.run(
        search,
        job.train_batches(search.step),
        job.valid_batches(0),
        on_epoch=lambda record: None,
        on_step=lambda state: True,
    )
    row = {"algorithm": algorithm, "target_share": share, "seed": seed}
    expected = search.expected_cost()
    assert expected is not None
    most_probable = job.table.of_path(argmax_path(search.alphas))

    def distance(cost: float) -> float:
        assert job.goal is not None
        return 100 * (cost / job.goal - 1)

    row |= {
        "asked_ms": job.goal,
        "expected_ms": expected,
        "expected_distance_percent": distance(expected),
        "argmax_ms": most_probable,
        "argmax_distance_percent": distance(most_probable),
        "entropy_nats": float(entropy([alpha.detach() for alpha in search.alphas], search.controller.temperature)),
        "cpu_seconds": round(time.process_time() - start, 2),
    }
    try:
        path, projection = choose_path(search.alphas, job.table, job.goal)
    except InputError as error:  # no network of the space costs that: a row as well, and no landing
        return {**row, "derived_ms": None, "inside": False, "problem": str(error)}
    assert projection is not None
    return {
        **row,
        "derived_ms": projection.cost,
        "derived_distance_percent": distance(projection.cost),
        "inside": LOWER * job.goal <= job.table.of_path(path) <= job.goal,
        "blocks_changed": projection.n_changed_from_argmax,
        "blocks_left_out": sum(ops[j].vanishes for ops, j in zip(job.space.choices, path, strict=True)),
    }


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Figures over ``rows``: the share of derived networks within [0.99 T, T], and how far off the rest was."""

    def spread(key: str) -> dict[str, float]:
        values = np.abs([row[key] for row in rows])
        return {
            "median": round(float(np.median(values)), 3),
            "percentile_90": round(float(np.percentile(values, 90)), 3),
            "max": round(float(values.max()), 3),
        }

    changed = [row["blocks_changed"] for row in rows if "blocks_changed" in row]
    lucky = [LOWER * row["asked_ms"] <= row["argmax_ms"] <= row["asked_ms"] for row in rows]
    return {
        "searches": len(rows),
        "derived_inside_percent": 100 * sum(row["inside"] for row in rows) / len(rows),
        "argmax_inside_percent": round(100 * sum(lucky) / len(rows), 3),
        "absolute_expected_distance_percent": spread("expected_distance_percent"),
        "absolute_argmax_distance_percent": spread("argmax_distance_percent"),
        "blocks_changed": {"mean": round(float(np.mean(changed)), 3), "max": max(changed)} if changed else None,
    }


def by_algorithm(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """summary() per algorithm, and within it per target."""
    found: dict[str, Any] = {}
    for algorithm in dict.fromkeys(row["algorithm"] for row in rows):
        own = [row for row in rows if row["algorithm"] == algorithm]
        shares = sorted({row["target_share"] for row in own})
        targets = {f"{share:g}": summary([row for row in own if row["target_share"] == share]) for share in shares}
        found[algorithm] = {**summary(own), "targets": targets}
    return found


@dataclass(frozen=True)
class Space:
    """What the searches have in common: costs in ms, and the schedule."""

    table: CostTable
    cheapest_without_zero: float
    schedule: loop.Schedule

    @classmethod
    def of(cls, seed: int) -> Space:
        job = jobs.prepare(settings("full_v2", seed, None), torch.device("cpu"))
        assert job.table is not None
        cheapest = [
            min(cost for cost, op in zip(edges, ops, strict=True) if not op.vanishes)
            for edges, ops in zip(job.table.groups, job.space.choices, strict=True)
        ]
        return cls(job.table, math.fsum((job.table.fixed, *cheapest)), job.schedule)

    def facts(self) -> dict[str, Any]:
        """What every search of this file was run with."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "what": "shortened searches on the digits: where E[cost], the most probable and the derived network end",
            "recipe": RECIPE,
            "settings": SHORT,
            "algorithms": ALGORITHMS,
            "warmup_steps": self.schedule.warmup_steps,
            "weight_steps": self.schedule.search_steps,
            "architecture_steps": self.schedule.arch_steps,
            "cost_source": self.table.source,
            "mean_ms": self.table.uniform_expected,
            "reachable_ms": [self.table.minimum, self.table.maximum],
            "cheapest_without_leaving_blocks_out_ms": self.cheapest_without_zero,
        }


def draw(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """A dot per search and stage: how far each stage's cost lies from the target.

    The band is what the network found must hit.
    """
    rng = np.random.default_rng(0)
    band = [(-math.inf, -100 * (1 - LOWER)), (math.inf, -100 * (1 - LOWER)), (math.inf, 0.0), (-math.inf, 0.0)]
    allowed = Guide(points=band, label="up to 1 % below the target", style="band", is_area=True)
    distances = [row[stage] for row in rows for stage in STAGES if stage in row]
    ends = min(distances) - 1, max(distances) + 1
    charts = []
    for name, title in TITLES.items():
        points = [
            Point(x=place + rng.uniform(-0.3, 0.3), y=row[stage], group=_target(row), mark="small", color=_color(row))
            for row in rows
            if row["algorithm"] == name
            for place, stage in enumerate(STAGES)
            if stage in row
        ]
        x, y = Axis(label="", names=tuple(STAGES.values())), Axis(label="from the target (%)", ends=ends)
        charts.append(plane(title, points, x=x, y=y, guides=[allowed], frame=FRAME))
    write_picture(compose("", charts, len(charts)), path)


def _target(row: dict[str, Any]) -> str:
    return f"target: {100 * row['target_share']:.0f} % of the mean"


def _color(row: dict[str, Any]) -> str:
    return series_color(SHARES.index(row["target_share"])) if row["target_share"] in SHARES else series_color(0)


def read_rows(path: Path, facts: dict[str, Any]) -> list[dict[str, Any]]:
    """The searches that ``path`` holds already. Raises InputError when they were run with other settings."""
    if not path.is_file():
        return []
    record = read_json(path)
    changed = [name for name, value in facts.items() if not isinstance(record, dict) or record.get(name) != value]
    if changed:
        raise InputError(
            f"holds other searches: differs in {', '.join(changed)}; name another file", "--output", str(path)
        )
    return record["searches"]


@dataclass(frozen=True, kw_only=True)
class DigitsConfig:
    """What landing_digits.py is asked to do."""

    seeds: tuple[int, ...] = setting(tuple(range(20)), "of the searches", shown="0 to 19")
    output: Path = setting(OUTPUT, "the record", shown="experiments/landing_digits.json", metavar="FILE")
    picture: Path | None = setting(None, "also draw the distances from the target, .svg or .png", metavar="FILE")


def run(argv: Sequence[str]) -> None:
    arguments = parse(DigitsConfig, argv, "landing_digits.py", __doc__)
    torch.set_num_threads(1)
    space = Space.of(0)
    facts = space.facts()
    rows = read_rows(arguments.output, facts)
    done = {(row["seed"], row["target_share"], row["algorithm"]) for row in rows}
    every = [(seed, share, name) for seed in arguments.seeds for share in SHARES for name in ALGORITHMS]
    with Progress(len(every), "search", done=len(done.intersection(every))) as bar:
        for seed in arguments.seeds:
            missing = [each for each in every if each[0] == seed and each not in done]
            if not missing:
                continue
            warm = warm_up(seed)
            for _, share, name in missing:
                rows.append(landed(name, seed, share, space.table.uniform_expected, warm))
                machine = {"cpu": cpu_name(), "torch": torch.__version__, "torch_threads": torch.get_num_threads()}
                write_json(arguments.output, {**facts, **machine, "summary": by_algorithm(rows), "searches": rows})
                bar.update(1)
    if arguments.picture is not None:
        draw(rows, arguments.picture)
    for name, found in by_algorithm(rows).items():
        off = found["absolute_argmax_distance_percent"]
        print(
            f"{name:<8} {found['searches']} searches: {found['derived_inside_percent']:.1f} % of the derived networks "
            f"within 0.99 to 1 of the target; argmax off by {off['median']:.2f} % (median), "
            f"{off['percentile_90']:.2f} % (90th percentile), {off['max']:.2f} % (most)"
        )


def main(argv: Sequence[str] | None = None) -> int:
    return exit_code(run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
