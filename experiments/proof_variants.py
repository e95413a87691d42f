"""Two questions that the comparison of experiments/proof.py left open, answered in its space and its work folder.

    python experiments/proof_variants.py --data_path cifar10.zip --work DIR

1. ``fair``: does a supernet rank random networks of equal cost better when each operation of a block is trained exactly
   once in a round of steps (the order of FairNAS, Chu et al., ICCV 2021, without its sum of gradients) in place of
   independent draws?
2. ``in_turn``: is alpha better moved behind frozen weights, as experiments/proof.py does, or in turn with the weights,
   as the recipes of ``search/`` do? Same algorithm, as many weight steps and architecture steps in all; the first half
   is the warm-up.

Supernets of 20,000 steps: the folder is one of ``experiments/proof.py --supernet_steps 20000``, whose supernets,
searches and trainings are what the variants are held against. As there: tasks that each write one file, done once, by
as many processes as are started. ``--summary`` reads the files and writes experiments/proof_variants.json.
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import proof
import torch
from proof import (
    ALGORITHMS,
    SEARCH_SEEDS,
    SPACE,
    TABLE,
    TARGETS,
    TRAIN_BATCH,
    Images,
    Task,
    alone_file,
    alone_records,
    correlation,
    inherited_scores,
    new_search,
    random_paths,
    run_tasks,
    train_alone,
    warm_up,
)

from proxyless_arch.cli import exit_code
from proxyless_arch.files import read_json, write_json
from proxyless_arch.machine import cpu_name
from proxyless_arch.space import Path as Choices
from search.derive import choose_path
from search.gates import argmax_path
from search.loop import Search

VARIANTS = ("in_turn", "fair")
TRAINING_SEEDS = (0, 1)
STEPS = 20_000
HALF = STEPS // 2
ARCH_STEPS, ARCH_IMAGES = ALGORITHMS["grad"][1:]


class FairSearch(Search):
    """Its warm-up takes each operation of a block once in every round of as many steps as the block has operations."""

    def sampled_path(self) -> Choices:
        path = []
        for block, ops in enumerate(SPACE.choices):
            turn, index = divmod(self.step, len(ops))
            order = np.random.default_rng([self.config.manual_seed, 5, block, turn]).permutation(len(ops))
            path.append(int(order[index]))
        return tuple(path)


def fair_supernet(seed: int) -> Search:
    """Untrained; its alpha is not moved."""
    plain = new_search(seed, {}, TARGETS["high"], 1, STEPS)
    return FairSearch(plain.config, SPACE, TABLE, plain.goal, plain.schedule, plain.device)


def in_turn(seed: int, goal: float) -> Search:
    """A gradient search of STEPS weight steps: half of them warm-up, then alpha and the weights in turn.

    The learning rate falls from 0.1 to 0 in the warm-up and from 0.05 to 0 behind it, as in the recipe ``fast``; behind
    the warm-up paths are drawn from alpha. So the two schedules differ in the weights' learning rate too.
    """
    search = new_search(seed, {**ALGORITHMS["grad"][0], "init_lr": 0.05}, goal, ARCH_STEPS, HALF)
    repeats = 3
    schedule = replace(search.schedule, arch_every=HALF * repeats // ARCH_STEPS, arch_repeats=repeats)
    assert schedule.arch_steps == ARCH_STEPS
    return Search(search.config, SPACE, TABLE, goal, schedule, search.device)


def search_in_turn(images: Images, folder: Path, target: str, seed: int) -> dict[str, Any]:
    """From the end of the warm-up, which the targets share, to the derived network."""
    search = in_turn(seed, TARGETS[target])
    state = torch.load(folder / f"warmup-{seed}.pt", weights_only=True)
    search.supernet.load_state_dict(state["supernet"])
    search.optimizer.load_state_dict(state["optimizer"])
    search.step = HALF
    start = time.perf_counter()
    for batch, labels in images.train_batches(TRAIN_BATCH, seed, HALF, STEPS):
        search.weight_step(batch, labels)
        for _ in range(search.arch_steps_due()):
            search.arch_step(*images.valid_batch(ARCH_IMAGES, seed, search.controller.step))
    path, _ = choose_path(search.alphas, TABLE, TARGETS[target])
    return {
        **inherited_scores(images, search, path),
        "target": target,
        "seed": seed,
        "macs": TABLE.of_path(path),
        "argmax_path": list(argmax_path(search.alphas)),
        "seconds": time.perf_counter() - start,
    }


def tasks(images: Images, work: Path, variants: Sequence[str]) -> list[Task]:
    """Those of ``variants``, first all of the first search seed; the second trainings of all are the last."""
    folder = work / "variants"

    def warmed(search: Search, file: Path) -> dict[str, Any]:
        warm_up(images, search, file.with_suffix(".pt"))
        return {"seed": search.config.manual_seed, "steps": search.step}

    def ranking(seed: int) -> dict[str, Any]:
        search = fair_supernet(seed)
        search.supernet.load_state_dict(torch.load(folder / f"fair-{seed}.pt", weights_only=True)["supernet"])
        return {target: [inherited_scores(images, search, path) for path in random_paths(target)] for target in TARGETS}

    def of_result(file: Path) -> list[Task]:
        if not file.exists():
            return []
        path = tuple(read_json(file)["path"])
        return [Task(alone_file(work, path, one), partial(train_alone, images, path, one)) for one in TRAINING_SEEDS]

    def of_supernet(seed: int) -> list[Task]:
        file = folder / f"fair-{seed}.json"
        first = Task(file, lambda: warmed(fair_supernet(seed), file))
        return [first, Task(folder / f"fair-{seed}-ranking.json", lambda: ranking(seed))] if file.exists() else [first]

    def of_search(seed: int) -> list[Task]:
        file = folder / f"warmup-{seed}.json"
        if not file.exists():
            return [Task(file, lambda: warmed(in_turn(seed, TARGETS["high"]), file))]
        found = {target: folder / f"in_turn-grad-{target}-{seed}.json" for target in TARGETS}
        every = [
            [Task(one, partial(search_in_turn, images, folder, target, seed)), *of_result(one)]
            for target, one in found.items()
        ]
        return [task for tasks in every for task in tasks]

    listed: list[Task] = []
    for seed, variant in itertools.product(SEARCH_SEEDS, variants):
        listed += of_search(seed) if variant == "in_turn" else of_supernet(seed)
    return sorted(listed, key=lambda task: task.file.name.endswith(f"-seed{TRAINING_SEEDS[-1]}.json"))


def summarize(work: Path) -> dict[str, Any]:
    """What is done so far. Accuracies are test top-1 on 10,000 images, in percent."""
    return {
        "what": "fair supernets, and alpha in turn with the weights, beside experiments/proof.py",
        "facts": {**proof.facts(), "in_turn_warmup_steps": HALF},
        "machine": f"{cpu_name()}, one thread a process, other work on the machine; torch {torch.__version__}",
        "date": f"{datetime.date.today()}",
        "ranking": {target: rankings(work, target) for target in TARGETS},
        "searches": {target: searches(work, target) for target in TARGETS},
    }


def rankings(work: Path, target: str) -> dict[str, Any]:
    """Spearman of inherited accuracy (and cross-entropy) and stand-alone accuracy, for every finished supernet."""
    alone = [alone_records(work, path) for path in random_paths(target)]
    seeds = sorted(set.intersection(*(set(records) for records in alone)))
    if not seeds:
        return {"training_seeds": []}
    truth = np.array([np.mean([records[seed]["test_top1_percent"] for seed in seeds]) for records in alone])
    files = {f"plain-{seed}": work / "ranking" / f"{seed}-{target}.json" for seed in SEARCH_SEEDS}
    scores = {name: read_json(file)["scores"] for name, file in files.items() if file.exists()}
    for file in sorted((work / "variants").glob("*-ranking.json")):
        scores[file.stem.removesuffix("-ranking")] = read_json(file)[target]

    def shown(scored: Sequence[dict[str, Any]]) -> dict[str, Any]:
        accuracy = np.array([one["inherited_valid_top1_percent"] for one in scored])
        loss = np.array([one["inherited_valid_loss"] for one in scored])
        return {
            "mean_inherited_top1_percent": float(accuracy.mean()),
            "accuracy": correlation(accuracy, truth),
            "loss": correlation(-loss, truth),
        }

    return {"training_seeds": seeds, **{name: shown(scored) for name, scored in scores.items()}}


def searches(work: Path, target: str) -> list[dict[str, Any]]:
    """What the gradient search found behind frozen weights ("plain") and in turn, with the scores by training seed."""
    listed = []
    for variant, seed in itertools.product(("plain", "in_turn"), SEARCH_SEEDS):
        plain = work / "search" / f"grad-{target}-{seed}.json"
        file = plain if variant == "plain" else work / "variants" / f"{variant}-grad-{target}-{seed}.json"
        if not file.exists():
            continue
        one = read_json(file)
        records = alone_records(work, tuple(one["path"]))
        kept = ("path", "argmax_path", "macs", "inherited_valid_top1_percent")
        listed.append(
            {
                "variant": variant,
                "seed": seed,
                **{name: one[name] for name in kept},
                "test_top1_percent": {str(n): record["test_top1_percent"] for n, record in records.items()},
            }
        )
    return listed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_path", type=Path, help="cifar10.zip: class folders in train/ and test/")
    parser.add_argument("--work", type=Path, required=True, help="folder of the tasks' files, of experiments/proof.py")
    parser.add_argument("--train_steps", type=int, default=proof.TRAIN_STEPS, help=f"[{proof.TRAIN_STEPS}]")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=VARIANTS, help=f"[{' '.join(VARIANTS)}]")
    parser.add_argument("--summary", action="store_true", help="only read what is there")
    parser.add_argument("--output", type=Path, default=proof.ROOT / "experiments" / "proof_variants.json")
    arguments = parser.parse_args()
    proof.TRAIN_STEPS, proof.SUPERNET_STEPS = arguments.train_steps, STEPS
    torch.set_num_threads(1)
    if arguments.summary:
        proof.check_same_work(arguments.work)
        write_json(arguments.output, summarize(arguments.work))
        return
    if arguments.data_path is None:
        parser.error("--data_path is needed: the zip of CIFAR-10")
    proof.begin_work(arguments.work)
    images = Images.load(arguments.data_path, arguments.work)
    (arguments.work / "variants").mkdir(exist_ok=True)
    run_tasks(lambda: tasks(images, arguments.work, arguments.variants))


if __name__ == "__main__":
    raise SystemExit(exit_code(main))
