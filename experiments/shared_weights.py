"""How well does a supernet of shared weights rank networks, by how its weights are trained? On the digits, small.

    python experiments/shared_weights.py --work DIR
    python experiments/shared_weights.py --work DIR --summary

Networks of about one cost, of a space whose widths are chosen, are trained alone, with two seeds, and scored on the
test images: the truth. Each way of training a supernet (WAYS) has as many forward and backward passes as the others;
then the networks are scored with its weights on the architecture-validation images, once with BN statistics made anew
for each, and once with the running ones, which are mixed over all widths. The record has Kendall's tau between losses
and the truth, with an interval over networks (bootstrap), and the same of the differences between ways.

Work is cut into tasks as in proof.py: give the command again to go on, or twice to use two cores.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
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
from proxyless_arch.base import settings  # noqa: E402
from proxyless_arch.base.cli import exit_code  # noqa: E402
from proxyless_arch.base.files import read_json, write_json  # noqa: E402
from proxyless_arch.base.machine import cpu_name  # noqa: E402
from proxyless_arch.base.settings import REQUIRED, setting  # noqa: E402
from proxyless_arch.space.mbconv import Macro, Stage  # noqa: E402
from proxyless_arch.space.search_space import Path as Choices  # noqa: E402
from proxyless_arch.space.search_space import SearchSpace  # noqa: E402
from proxyless_arch.space.wide import wide_space  # noqa: E402
from proxyless_nas.network import build  # noqa: E402
from proxyless_nas.steps import cosine_lr, evaluate, set_lr, sgd, smoothed_loss  # noqa: E402
from search.algorithm.derive import inherit  # noqa: E402
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
TRUTH_SEEDS = (0, 1)
RECALIBRATED, RUNNING = "recalibrated", "running"
RESAMPLED = 2000


@dataclass(frozen=True, kw_only=True)
class Study:
    """How much is trained."""

    work: Path = setting(REQUIRED, "folder of the tasks' files", metavar="DIR")
    n_networks: int = setting(24, "networks", minimum=4)
    n_epochs: int = setting(4, "epochs of every network that is trained alone", minimum=1)
    supernet_epochs: int = setting(12, "epochs of every supernet by the sandwich rule", minimum=1)
    resolution: int = setting(8, "px", minimum=8)
    summary: bool = setting(False, "write what there is, and stop")


FACTS = ("n_networks", "n_epochs", "supernet_epochs", "resolution")
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


def rank_by_supernet(study: Study, way: str) -> dict[str, Any]:
    """A supernet trained so, and the losses of the networks with its weights."""
    given = WAYS[way]
    factor = 1 if given["shared_rule"] == "sandwich" else PASSES
    job = job_of(study, factor * study.supernet_epochs, 0, **given)
    search = new_search(job)
    for images, labels in job.train_batches(0):
        search.weight_step(images, labels)
    paths = networks(study)
    folder = study.work / "scores" / way.replace(", ", "-").replace(" ", "_")
    folder.mkdir(parents=True, exist_ok=True)

    def running(path: Choices) -> float:
        found = evaluate(inherit(search.supernet, job.space, path).eval(), job.eval_batches(job.data.valid))
        return found.loss_sum / found.n_images

    return {
        "way": way,
        "steps": job.schedule.total_steps,
        RECALIBRATED: Scorer(job, search.supernet, folder).losses(paths),
        RUNNING: list(map(running, paths)),
    }


def alone_file(study: Study, index: int, seed: int) -> Path:
    return study.work / "alone" / f"{index}-{seed}.json"


def way_file(study: Study, way: str) -> Path:
    return study.work / "supernet" / f"{list(WAYS).index(way)}.json"


def tasks(study: Study) -> list[Task]:
    """The supernets, and then the networks by themselves."""
    alone = [
        Task(alone_file(study, index, seed), partial(train_alone, study, path, seed))
        for seed in TRUTH_SEEDS
        for index, path in enumerate(networks(study))
    ]
    return [*(Task(way_file(study, way), partial(rank_by_supernet, study, way)) for way in WAYS), *alone]


# What came out ------------------------------------------------------------------------------------------------------


def tau(losses: Sequence[float], truth: Sequence[float]) -> float:
    return float(kendalltau(losses, truth).statistic)


def interval_95(value: Callable[[np.ndarray], float], n: int) -> list[float]:
    """Of ``value`` of the networks with these indices, over networks drawn with replacement."""
    rng = np.random.default_rng(0)
    drawn = [value(rng.integers(0, n, n)) for _ in range(RESAMPLED)]
    return [float(edge) for edge in np.nanpercentile(drawn, (2.5, 97.5))]


def summarize(study: Study) -> dict[str, Any]:
    """What is done so far; networks without both trainings are left out."""
    n = len(networks(study))
    done = [index for index in range(n) if all(alone_file(study, index, seed).exists() for seed in TRUTH_SEEDS)]
    trained = [[read_json(alone_file(study, index, seed)) for seed in TRUTH_SEEDS] for index in done]
    both = np.array([[each["test_loss"] for each in pair] for pair in trained]).reshape(-1, len(TRUTH_SEEDS))
    truth = both.mean(1)
    losses: dict[str, np.ndarray] = {}
    for way in WAYS:
        if way_file(study, way).exists():
            found = read_json(way_file(study, way))
            losses |= {f"{way}, {kind}": np.array(found[kind])[done] for kind in (RECALIBRATED, RUNNING)}

    def of(name: str, chosen: np.ndarray) -> float:
        return tau(losses[name][chosen], truth[chosen])

    whole, first = np.arange(len(done)), f"{next(iter(WAYS))}, {RECALIBRATED}"
    ways = {}
    for name in losses if len(done) > 2 else ():
        ways[name] = {"tau": of(name, whole), "interval_95": interval_95(partial(of, name), len(done))}
        if name != first and first in losses:
            ahead = partial(lambda chosen, name: of(name, chosen) - of(first, chosen), name=name)
            ways[name] |= {"ahead_of_the_first": ahead(whole), "ahead_interval_95": interval_95(ahead, len(done))}
    return {
        "format": FORMAT,
        "version": VERSION,
        "study": facts_of(study, FACTS),
        "macro": asdict(MACRO),
        "machine": cpu_name(),
        "n_networks": len(done),
        "test_top1_percent": [[each["test_top1_percent"] for each in pair] for pair in trained],
        "tau_between_training_seeds": tau(*both.T) if len(done) > 2 else None,
        "ways": ways,
    }


def run(argv: Sequence[str]) -> None:
    study = settings.parse(Study, argv, "shared_weights.py", __doc__)
    torch.set_num_threads(1)
    check_same(study, FACTS)
    if not study.summary:
        run_tasks(lambda: tasks(study))
    record = summarize(study)
    write_json(OUTPUT, record)
    print(f"{record['n_networks']} networks; tau between their two trainings {record['tau_between_training_seeds']}")
    for name, found in record["ways"].items():
        low, high = found["interval_95"]
        print(f"{name}: {found['tau']:.2f} ({low:.2f} to {high:.2f})")


def main(argv: Sequence[str] | None = None) -> int:
    return exit_code(run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
