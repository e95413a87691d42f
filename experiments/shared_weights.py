"""How well does a supernet of shared weights rank networks, by how its weights are trained and its BN statistics kept?
On the digits, small.

    python experiments/shared_weights.py --work DIR
    python experiments/shared_weights.py --work DIR --summary

Networks of about one cost, of a space whose widths are chosen, are trained alone, with some seeds, and scored on the
test images: the truth. Each way of training a supernet (WAYS) has as many forward and backward passes as the others;
then the networks are scored with its weights on the architecture-validation images, with BN statistics made anew for
each, with the running ones, which are mixed over all widths, and with running ones kept for each number of channels.
The record has Kendall's tau between losses and the truth, a mean over supernets, with an interval over networks
(bootstrap), and the same of the differences between ways and between statistics.

Work is cut into tasks as in proof.py: give the command again to go on, or twice to use two cores.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import kendalltau

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "experiments")]

from proof import Task, run_tasks  # noqa: E402

from experiments.one_study import check_same, facts_of  # noqa: E402
from hardware.cost import MACS, price_space  # noqa: E402
from hardware.projection import window  # noqa: E402
from proxyless_arch.arch.spec import Preprocessing  # noqa: E402
from proxyless_arch.arch.tensors import expected_tensors  # noqa: E402
from proxyless_arch.base import settings  # noqa: E402
from proxyless_arch.base.cli import exit_code  # noqa: E402
from proxyless_arch.base.files import read_json, write_json  # noqa: E402
from proxyless_arch.base.machine import cpu_name  # noqa: E402
from proxyless_arch.base.settings import REQUIRED, setting  # noqa: E402
from proxyless_arch.space.mbconv import Macro, Stage  # noqa: E402
from proxyless_arch.space.search_space import Path as Choices  # noqa: E402
from proxyless_arch.space.search_space import SearchSpace  # noqa: E402
from proxyless_arch.space.wide import wide_space  # noqa: E402
from proxyless_nas.network import ProxylessNet, build  # noqa: E402
from proxyless_nas.steps import cosine_lr, evaluate, set_lr, sgd, smoothed_loss  # noqa: E402
from search.algorithm.derive import inherit  # noqa: E402
from search.algorithm.elastic import ElasticNet  # noqa: E402
from search.algorithm.random_control import sample_up_to  # noqa: E402
from search.config import SearchConfig  # noqa: E402
from search.run.job import Job, new_search, prepare  # noqa: E402
from search.run.scoring import Scorer  # noqa: E402

FORMAT, VERSION = "proxyless-nas/shared-weights-study", 1
OUTPUT = ROOT / "experiments" / "shared_weights.json"
CPU = torch.device("cpu")
MACRO = Macro(name="few", stem_width=8, stem_stride=1, first_width=8, stages=(Stage(16, 2, 2), Stage(32, 2, 2)),
              mix_width=64)  # fmt: skip
LOWEST = 0.9  # of the mean cost of the space: the networks cost from so much of it to all of it
PASSES = 4  # networks of a step by the sandwich rule: by another rule there are so many times as many steps
WAYS: Mapping[str, Mapping[str, Any]] = {
    "sandwich": {"shared_rule": "sandwich"},
    "sandwich, kernel transform": {"shared_rule": "sandwich", "kernel_transform": True},
    "largest first": {"shared_rule": "largest_first"},
}
RECALIBRATED, RUNNING, BY_WIDTH = "recalibrated", "running", "by width"
STATISTICS = (RECALIBRATED, RUNNING, BY_WIDTH)
RESAMPLED = 2000
MIN_RANKED = 3  # networks


@dataclass(frozen=True, kw_only=True)
class Study:
    """How much is trained."""

    work: Path = setting(REQUIRED, "folder of the tasks' files", metavar="DIR")
    n_networks: int = setting(24, "networks", minimum=4)
    n_epochs: int = setting(4, "epochs of every network that is trained alone", minimum=1)
    truth_seeds: int = setting(2, "trainings of every network alone", minimum=2)
    supernet_epochs: int = setting(12, "epochs of every supernet by the sandwich rule", minimum=1)
    supernets: int = setting(1, "supernets for each way", minimum=1)
    resolution: int = setting(8, "px", minimum=8)
    summary: bool = setting(False, "write what there is, and stop")


FACTS = ("n_networks", "n_epochs", "truth_seeds", "supernet_epochs", "supernets", "resolution")
"""What makes two studies one."""


def space_of(study: Study) -> SearchSpace:
    size = study.resolution
    digits = Preprocessing(resolution=size, resize=size, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    names = tuple(map(str, range(10)))
    return wide_space(MACRO, num_classes=10, preprocessing=digits, class_names=names)


def job_of(study: Study, epochs: int, seed: int, **given: Any) -> Job:
    config = SearchConfig.of(
        recipe="digits", space="wide_tiny", resolution=study.resolution, target_hardware="flops", device="cpu",
        train_batch_size=32, arch_algo="predictor", warmup_epochs=epochs, manual_seed=seed, split_seed=0,
        torch_threads=1, **given,
    )  # fmt: skip
    return prepare(config, CPU, lambda line: None, space=space_of(study))


def networks(study: Study) -> list[Choices]:
    """Different ones, of about the mean cost."""
    table = price_space(space_of(study), MACS)
    within = window(table, table.uniform_expected, LOWEST)
    return sample_up_to([within], study.n_networks, np.random.default_rng(0))


def train_alone(study: Study, path: Choices, seed: int) -> dict[str, Any]:
    """The test loss and accuracy of a network trained from random weights."""
    job = job_of(study, study.n_epochs, seed)
    weights, steps, rate = job.config.weights, job.schedule.total_steps, job.config.warmup.warmup_lr
    net = build(job.space.spec_for(path), torch.Generator().manual_seed(seed)).train()
    optimizer = sgd(net, lr=rate, momentum=weights.momentum, nesterov=weights.nesterov,
                    weight_decay=weights.weight_decay, no_decay_bn=weights.no_decay_bn)  # fmt: skip
    for step, (images, labels) in enumerate(job.train_batches(0)):
        set_lr(optimizer, cosine_lr(rate, step, steps))
        optimizer.zero_grad()
        smoothed_loss(net(images), labels, weights.label_smoothing).backward()
        optimizer.step()
    found = evaluate(net.eval(), job.eval_batches(job.data.test))
    return {"path": list(path), "seed": seed, "steps": steps, "test_loss": found.loss_sum / found.n_images,
            "test_top1_percent": found.top1_percent}  # fmt: skip


class StatisticsByWidth:
    """Running statistics of every BN for each number of its channels, as slimmable networks have them (Yu et al., ICLR
    2019), followed beside those of a supernet while it is trained.

    A pass moves a statistic to (1 - momentum) of what it was, plus what the batch adds: which is read off the
    supernet's own.
    """

    def __init__(self, supernet: ElasticNet) -> None:
        self._supernet, self._before = supernet, dict[str, torch.Tensor]()
        self._kept: dict[tuple[str, int], torch.Tensor] = {}
        supernet.register_forward_pre_hook(self._remember)
        supernet.register_forward_hook(self._follow)

    def _remember(self, supernet: torch.nn.Module, args: tuple[Any, ...]) -> None:
        if supernet.training:
            self._before = {name: buffer.clone() for name, buffer in supernet.named_buffers()}

    def _follow(self, supernet: torch.nn.Module, args: tuple[Any, ...], logits: torch.Tensor) -> None:
        if not supernet.training:
            return
        left, after = 1 - self._supernet.space.bn.momentum, dict(supernet.named_buffers())
        for name, (channels, *_) in self._statistics(args[1]):
            added = after[name][:channels] - left * self._before[name][:channels]
            self._kept[name, channels] = left * self._at(name, channels) + added

    def _statistics(self, path: Choices) -> list[tuple[str, Sequence[int]]]:
        tensors = expected_tensors(self._supernet.space.spec_for(path)).items()
        return [(name, shape) for name, shape in tensors if name in self._names]

    @cached_property
    def _names(self) -> frozenset[str]:
        return frozenset(name for name, _ in self._supernet.named_buffers())

    def _at(self, name: str, channels: int) -> torch.Tensor:
        """Where no pass was, 0 and 1."""
        start = torch.ones if name.endswith("running_var") else torch.zeros
        return self._kept.get((name, channels), start(channels))

    def network(self, path: Choices) -> ProxylessNet:
        """With the supernet's weights, and the statistics of its own numbers of channels."""
        net = inherit(self._supernet, self._supernet.space, path)
        for name, (channels, *_) in self._statistics(path):
            net.get_buffer(name).copy_(self._at(name, channels))
        return net


def rank_by_supernet(study: Study, way: str, seed: int) -> dict[str, Any]:
    """A supernet trained so, and the losses of the networks with its weights."""
    given = WAYS[way]
    factor = 1 if given["shared_rule"] == "sandwich" else PASSES
    job = job_of(study, factor * study.supernet_epochs, seed, **given)
    search = new_search(job)
    assert isinstance(search.supernet, ElasticNet)
    by_width = StatisticsByWidth(search.supernet)
    for images, labels in job.train_batches(0):
        search.weight_step(images, labels)
    paths = networks(study)
    folder = study.work / "scores" / way_file(study, way, seed).stem
    folder.mkdir(parents=True, exist_ok=True)

    def loss(net: ProxylessNet) -> float:
        found = evaluate(net.eval(), job.eval_batches(job.data.valid))
        return found.loss_sum / found.n_images

    return {
        "way": way,
        "seed": seed,
        "steps": job.schedule.total_steps,
        RECALIBRATED: Scorer(job, search.supernet, folder).losses(paths),
        RUNNING: [loss(inherit(search.supernet, job.space, path)) for path in paths],
        BY_WIDTH: [loss(by_width.network(path)) for path in paths],
    }


def alone_file(study: Study, index: int, seed: int) -> Path:
    return study.work / "alone" / f"{index}-{seed}.json"


def way_file(study: Study, way: str, seed: int) -> Path:
    return study.work / "supernet" / f"{list(WAYS).index(way)}-{seed}.json"


def tasks(study: Study) -> list[Task]:
    """The supernets, and then the networks by themselves."""
    supernets = [
        Task(way_file(study, way, seed), partial(rank_by_supernet, study, way, seed))
        for seed in range(study.supernets)
        for way in WAYS
    ]
    alone = [
        Task(alone_file(study, index, seed), partial(train_alone, study, path, seed))
        for seed in range(study.truth_seeds)
        for index, path in enumerate(networks(study))
    ]
    return [*supernets, *alone]


# What came out ------------------------------------------------------------------------------------------------------


def tau(losses: Sequence[float], truth: Sequence[float]) -> float:
    return float(kendalltau(losses, truth).statistic)


def resampled_tau(losses: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """(1 + RESAMPLED,) tau of the networks, and of as many drawn with replacement, the same in every call."""
    rng, n = np.random.default_rng(0), len(truth)
    drawn = [np.arange(n), *(rng.integers(0, n, n) for _ in range(RESAMPLED))]
    return np.array([tau(losses[chosen], truth[chosen]) for chosen in drawn])


def with_interval(name: str, resampled: np.ndarray) -> dict[str, Any]:
    """The value, and its 95% interval over networks."""
    edges = np.nanpercentile(resampled[1:], (2.5, 97.5))
    return {name: float(resampled[0]), "interval_95": [float(edge) for edge in edges]}


def losses_of(study: Study, way: str, done: Sequence[int]) -> dict[str, np.ndarray]:
    """By statistics (supernets, networks) losses behind the supernets of a way that are trained."""
    files = [way_file(study, way, seed) for seed in range(study.supernets)]
    found = [read_json(file) for file in files if file.exists()]
    return {kind: np.array([each[kind] for each in found])[:, done] for kind in STATISTICS} if found else {}


def summarize(study: Study) -> dict[str, Any]:
    """What is done so far; networks without all of their trainings are left out."""
    seeds, n = range(study.truth_seeds), len(networks(study))
    done = [index for index in range(n) if all(alone_file(study, index, seed).exists() for seed in seeds)]
    trained = [[read_json(alone_file(study, index, seed)) for seed in seeds] for index in done]
    each_seed = np.array([[each["test_loss"] for each in row] for row in trained]).reshape(-1, len(seeds))
    record = {
        "format": FORMAT,
        "version": VERSION,
        "study": facts_of(study, FACTS),
        "macro": asdict(MACRO),
        "machine": cpu_name(),
        "n_networks": len(done),
        "test_top1_percent": [[each["test_top1_percent"] for each in row] for row in trained],
    }
    if len(done) < MIN_RANKED:
        return record | {"tau_between_training_seeds": None, "ways": {}}
    between = [tau(*each_seed[:, pair].T) for pair in map(list, combinations(seeds, 2))]
    losses = {way: losses_of(study, way, done) for way in WAYS}
    return record | {"tau_between_training_seeds": float(np.mean(between)), **taus(losses, each_seed.mean(1))}


def taus(losses: Mapping[str, Mapping[str, np.ndarray]], truth: np.ndarray) -> dict[str, Any]:
    """Of ways and statistics, means over supernets: ``losses[way][kind]`` is (supernets, networks), the truth
    (networks,)."""
    found = {
        (way, kind): np.mean([resampled_tau(row, truth) for row in rows], axis=0)
        for way, kinds in losses.items()
        for kind, rows in kinds.items()
    }
    first = (next(iter(WAYS)), RECALIBRATED)
    ways = {}
    for (way, kind), values in found.items():
        ways[f"{way}, {kind}"] = with_interval("tau", values) | {"mean_loss": float(losses[way][kind].mean())}
        if first in found and (way, kind) != first:
            ways[f"{way}, {kind}"]["than_the_first"] = with_interval("ahead", values - found[first])
    trained = [way for way, kinds in losses.items() if kinds]
    means = {kind: np.mean([found[way, kind] for way in trained], axis=0) for kind in STATISTICS if trained}
    compared = {kind: with_interval("ahead", means[kind] - means[RECALIBRATED]) for kind in list(means)[1:]}
    return {"ways": ways, "than_recalibrated": compared}


def run(argv: Sequence[str]) -> None:
    study = settings.parse(Study, argv, "shared_weights.py", __doc__)
    torch.set_num_threads(1)
    check_same(study, FACTS)
    if not study.summary:
        run_tasks(lambda: tasks(study))
    record = summarize(study)
    write_json(OUTPUT, record)
    print(f"{record['n_networks']} networks; tau between two trainings {record['tau_between_training_seeds']}")
    for name, found in record["ways"].items():
        low, high = found["interval_95"]
        print(f"{name}: {found['tau']:.2f} ({low:.2f} to {high:.2f})")


def main(argv: Sequence[str] | None = None) -> int:
    return exit_code(run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
