"""The fifth comparison: what a predictor finds behind new supernets, against the random networks of proof.json.

    python experiments/proof_predictor.py --data_path cifar10.zip --work DIR
    python experiments/proof_predictor.py --work DIR --summary

Space, targets, training recipe, the 20 random networks of each target and their two trainings are those of proof.py,
and stay. The alpha images are cut in two: networks are chosen by their loss on the ones, and judged on the others.

1. Supernets are trained as proof.py trains them (``--supernet_steps``).
2. Behind each, at each target: the predictor; the gradient and REINFORCE, each with the best of RESCORED networks
   around its probabilities.
3. The gate: the network found is at least GATE standard deviations of the random networks better than their median,
   in inherited loss on the images that chose nothing. What does not pass is not trained until it is known why
   (``--below_gate``). The deviation is that of the
   middle of the networks (1.4826 times their median distance from the median): of the 20 at the high target one is so
   bad that it alone makes the usual one 1.6 times as large. That was seen at the first gate; both are recorded.
4. The networks found are trained alone, with two seeds, and compared with the random networks' recorded accuracies.

Work is cut into tasks as in proof.py: give the command again to go on, with ``--jobs 2`` to use two cores.
"""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "experiments")]

import proof  # noqa: E402
from proof import TABLE, TARGETS, Choices, Images, Lengths, Task  # noqa: E402

from hardware.projection import Limit, window  # noqa: E402
from proxyless_arch.base import settings  # noqa: E402
from proxyless_arch.base.cli import exit_code  # noqa: E402
from proxyless_arch.base.errors import InputError  # noqa: E402
from proxyless_arch.base.files import read_json, write_json  # noqa: E402
from proxyless_arch.base.settings import REQUIRED, setting  # noqa: E402
from proxyless_arch.base.words import DATA_PATH  # noqa: E402
from proxyless_arch.launch.launcher import LaunchFlags  # noqa: E402
from proxyless_nas.steps import evaluate, recalibrate_bn  # noqa: E402
from search.algorithm.derive import log_probabilities  # noqa: E402
from search.algorithm.predictor import Predictor, PredictorOptions, rescored  # noqa: E402
from search.algorithm.supernet import PathSupernet  # noqa: E402
from search.run.scoring import statistics_kept  # noqa: E402

PREDICTOR = "predictor"
ALGORITHMS = (PREDICTOR, "grad", "rl_others")
GATE = 2.0
MAD_TO_SD = 1.4826  # of a normal distribution
OF_GATE = ("algorithm", "target", "seed", "z", "z_of_the_middle", "seconds", "path")
RESCORED = 64  # networks around the probabilities of the gradient and of REINFORCE
TRAINING_SEEDS = (0, 1)  # those of the random networks


@dataclass(frozen=True)
class Sizes:
    """How much is scored, and on how many images."""

    predictor: PredictorOptions = PredictorOptions()
    rescored: int = RESCORED
    recalibration_batches: int = proof.RECALIBRATION_BATCHES


@dataclass
class Scorer:
    """Losses with inherited weights: on the even alpha images, which choose, and on the odd ones, which judge."""

    images: Images
    supernet: PathSupernet
    sizes: Sizes

    @cached_property
    def _training(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        return list(self.images.train_batches(proof.RECALIBRATION_BATCH, 0, 0, self.sizes.recalibration_batches))

    @cached_property
    def _halves(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        pixels, labels = self.images.sets["valid"]
        return [(self.images.tensor(pixels[i::2]), torch.from_numpy(labels[i::2])) for i in (0, 1)]

    @torch.no_grad()
    def both(self, path: Choices) -> tuple[float, float]:
        """(loss on the images that choose, on those that judge)."""
        net = self.supernet.network(path)
        with statistics_kept(net):
            recalibrate_bn(net, self._training)
            found = [evaluate(net, zip(*(part.split(500) for part in half), strict=True)) for half in self._halves]
        return found[0].loss_sum / found[0].n_images, found[1].loss_sum / found[1].n_images

    def chooses(self, paths: Sequence[Choices]) -> list[float]:
        return [self.both(path)[0] for path in paths]


def find(images: Images, search: proof.Search, algorithm: str, target: str, state: Path, sizes: Sizes) -> Choices:
    """The network that ``algorithm`` finds. A predictor's rounds are kept in ``state``, from which it goes on."""
    limits = [window(TABLE, TARGETS[target])]
    scorer = Scorer(images, search.supernet, sizes)
    if algorithm != PREDICTOR:
        proof.move_alpha(images, search, algorithm, target)
        return rescored(log_probabilities(search.alphas), limits, sizes.rescored, scorer.chooses)[0]
    return predicted(limits, scorer, state, search.config.manual_seed)


def predicted(limits: Sequence[Limit], scorer: Scorer, state: Path, seed: int) -> Choices:
    """The network that a predictor takes. Its rounds are kept in ``state``, from which it goes on."""
    predictor = Predictor(limits, scorer.sizes.predictor, seed)
    if state.exists():
        predictor.load_state_dict(read_json(state))
    while paths := predictor.ask():
        predictor.tell(scorer.chooses(paths[:16]))
        write_json(state, predictor.state_dict())
    return predictor.result().path


def found_behind(
    images: Images, work: Path, algorithm: str, target: str, seed: int, lengths: Lengths, sizes: Sizes
) -> dict[str, Any] | None:
    """What is found, and how it stands among the random networks on the images that judge: the gate.

    None while the supernet of ``seed`` is not finished.
    """
    given, steps, _ = proof.ALGORITHMS.get(algorithm, ({}, 1, 0))
    search = proof.trained_supernet(work, seed, given, TARGETS[target], steps, lengths)
    if search is None:
        return None
    start = time.perf_counter()
    state = work / "found" / f"{algorithm}-{target}-{seed}.state.json"
    path = find(images, search, algorithm, target, state, sizes)
    seconds = time.perf_counter() - start
    scorer = Scorer(images, search.supernet, sizes)
    random = np.array([scorer.both(each) for each in proof.random_paths(target)])
    chosen, judged = scorer.both(path)
    mean, sd = random.mean(0), random.std(0, ddof=1)
    middle = np.median(random, axis=0)
    spread = MAD_TO_SD * np.median(np.abs(random - middle), axis=0)
    return {
        "algorithm": algorithm, "target": target, "seed": seed, "path": list(path), "macs": TABLE.of_path(path),
        "loss": {"chosen": chosen, "judged": judged},
        "z": {"chosen": float((mean[0] - chosen) / sd[0]), "judged": float((mean[1] - judged) / sd[1])},
        "z_of_the_middle": float((middle[1] - judged) / spread[1]),
        "random_losses": random.tolist(), "seconds": seconds,
    }  # fmt: skip


def passed(found: dict[str, Any], below_gate: bool = False) -> bool:
    return below_gate or found["z_of_the_middle"] >= GATE


def tasks(
    images: Images, work: Path, seeds: Sequence[int], lengths: Lengths, sizes: Sizes, below_gate: bool = False
) -> list[Task]:
    """All of it, in the order in which it is worth doing: supernet by supernet, the predictor first."""
    listed: list[Task] = []
    for seed in seeds:

        def train(seed: int = seed) -> dict[str, Any]:
            search = proof.new_search(seed, {}, TARGETS["high"], 1, lengths)
            proof.warm_up(images, search, proof.supernet_file(work, seed))
            return {"seed": seed, "steps": lengths.supernet_steps}

        listed.append(Task(proof.finished_supernet(work, seed), train))
        for algorithm in ALGORITHMS:
            listed += _behind(images, work, algorithm, seed, lengths, sizes, below_gate)
    return listed


def _behind(
    images: Images, work: Path, algorithm: str, seed: int, lengths: Lengths, sizes: Sizes, below_gate: bool
) -> list[Task]:
    """The searches of ``algorithm`` behind a supernet, and the trainings of what passed the gate."""
    searches = [
        Task(
            found_file(work, algorithm, target, seed),
            lambda target=target: found_behind(images, work, algorithm, target, seed, lengths, sizes),
            proof.finished_supernet(work, seed),
        )
        for target in TARGETS
    ]
    paths = [
        tuple(found["path"])
        for task in searches
        if task.file.exists() and passed(found := read_json(task.file), below_gate)
    ]
    trainings = [
        Task(
            proof.alone_file(work, path, training_seed),
            lambda path=path, training_seed=training_seed: proof.train_alone(images, path, training_seed, lengths),
        )
        for training_seed in TRAINING_SEEDS
        for path in paths
    ]
    return [*searches, *trainings]


def found_file(work: Path, algorithm: str, target: str, seed: int) -> Path:
    return work / "found" / f"{algorithm}-{target}-{seed}.json"


def power(n_searches: int, gain: float, random_sd: float, n_random: int) -> float:
    """Chance that Welch's test at 5 % sees ``gain`` points, if both kinds of networks have ``random_sd``."""
    error = random_sd * np.sqrt(1 / n_searches + 1 / n_random)
    freedom = n_searches + n_random - 2
    edge = stats.t.ppf(0.975, freedom)
    return float(stats.nct.sf(edge, freedom, gain / error) + stats.nct.cdf(-edge, freedom, gain / error))


def summarize(work: Path, seeds: Sequence[int], lengths: Lengths, recorded: Path) -> dict[str, Any]:
    """What is done so far: the gate of every search, and the trained networks among the recorded random ones."""
    random = read_json(recorded)["targets"]
    record: dict[str, Any] = {"facts": proof.facts(lengths), "gate": [], "targets": {}}
    for target in TARGETS:
        random_top1 = np.array(random[target]["random"]["test_top1_percent"])
        networks: list[dict[str, Any]] = []
        for algorithm, seed in itertools.product(ALGORITHMS, seeds):
            if not (file := found_file(work, algorithm, target, seed)).exists():
                continue
            found = read_json(file)
            record["gate"].append({key: found[key] for key in OF_GATE})
            trained = proof.alone_records(work, tuple(found["path"]))
            if all(each in trained for each in TRAINING_SEEDS):
                top1 = [trained[each]["test_top1_percent"] for each in TRAINING_SEEDS]
                networks.append({**record["gate"][-1], "test_top1_percent": top1, **proof.place(top1, random_top1)})
        entry: dict[str, Any] = {"networks": networks}
        for algorithm in ALGORITHMS:
            own = np.array([each["mean"] for each in networks if each["algorithm"] == algorithm])
            if len(own) > 1:
                sd = float(random_top1.std(ddof=1))
                powers = {f"{gain:g}": power(len(own), gain, sd, len(random_top1)) for gain in (0.8, 1.3, 2.0)}
                entry[algorithm] = {**proof.against(own, random_top1), "power_by_points": powers}
        record["targets"][target] = entry
    return record


@dataclass(frozen=True, kw_only=True)
class ComparisonConfig(LaunchFlags):
    """What proof_predictor.py is asked to do."""

    data_path: Path | None = DATA_PATH.setting(None, ": cifar10.zip, with train/ and test/")
    work: Path = setting(REQUIRED, "folder of the tasks' files", metavar="DIR")
    supernets: int = setting(3, "supernets", minimum=1, maximum=20)
    train_steps: int = setting(Lengths.train_steps, "of every training: the recorded ones have these", minimum=20)
    supernet_steps: int = setting(Lengths.supernet_steps, "of every supernet", minimum=1)
    below_gate: bool = setting(False, "train what did not pass the gate, too")
    summary: bool = setting(False, "only read what is there")
    recorded: Path = setting(
        ROOT / "experiments" / "proof.json", "record of the random networks", shown="experiments/proof.json"
    )
    output: Path = setting(
        ROOT / "experiments" / "proof_predictor.json", "record of --summary", shown="experiments/proof_predictor.json"
    )


def _tasks_of(config: ComparisonConfig, images: Images) -> list[Task]:
    lengths, seeds = Lengths(config.train_steps, config.supernet_steps), range(config.supernets)
    return tasks(images, config.work, seeds, lengths, Sizes(), config.below_gate)


def do_one(argv: Sequence[str], name: str) -> None:
    """As in proof.py."""
    config = settings.parse(ComparisonConfig, argv, "proof_predictor.py", __doc__)
    assert config.data_path is not None
    torch.set_num_threads(1)
    images = Images.load(config.data_path, config.work)
    proof.do_task(proof.named(_tasks_of(config, images), name, config.work))


def run(argv: Sequence[str]) -> None:
    config = settings.parse(ComparisonConfig, argv, "proof_predictor.py", __doc__)
    lengths, seeds = Lengths(config.train_steps, config.supernet_steps), range(config.supernets)
    torch.set_num_threads(1)
    if config.summary:
        proof.check_same_work(config.work, lengths)
        record = summarize(config.work, seeds, lengths, config.recorded)
        write_json(config.output, record)
        for entry in record["gate"]:
            print(f"{entry['algorithm']} {entry['target']} supernet {entry['seed']}: {entry['z_of_the_middle']:.2f} sd")
        return
    if config.data_path is None:
        raise InputError("expected the zip of CIFAR-10", DATA_PATH.flag)
    proof.begin_work(config.work, lengths)
    images = Images.load(config.data_path, config.work)
    list_tasks = lambda: _tasks_of(config, images)  # noqa: E731
    proof.run_all(list_tasks, config.chosen, config.work, "experiments.proof_predictor:do_one", argv)


def main(argv: Sequence[str] | None = None) -> int:
    return exit_code(run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
