"""Does a search among tree-structured cells beat random cells of equal parameters? On a part of CIFAR-10, small.

    nice -n 19 env OMP_NUM_THREADS=1 python experiments/tree_cells.py --data_path cifar10.zip --work DIR

The space is that of the recipe ``cifar_small``. Each search is compared with random networks of its space that have
99% to 100% of the parameters of the one it found; all are trained alike from random weights, on the images that the
search had, and scored on test images that nothing else sees. Everything is written to ``--work`` as it is done, and the
same command goes on where it was stopped, within a search or a training too; ``--summary`` writes what there is to
experiments/tree_cells.json and does no more. The file also has what the paper's run would take (``full_run``), counted.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":  # started as a script: the packages lie beside this folder
    sys.path[0] = str(ROOT)

import torch  # noqa: E402

from experiments.class_folders import subset, write_images  # noqa: E402
from experiments.one_study import check_same  # noqa: E402
from hardware.cost import MACS, PARAMS, price_space  # noqa: E402
from proxyless_arch.apps.scores import score_interval  # noqa: E402
from proxyless_arch.arch import catalog  # noqa: E402
from proxyless_arch.arch.codec import read_spec, write_spec  # noqa: E402
from proxyless_arch.arch.walk import total_macs, total_params  # noqa: E402
from proxyless_arch.base.cli import exit_code  # noqa: E402
from proxyless_arch.base.files import read_json, write_json  # noqa: E402
from proxyless_arch.base.machine import cpu_name  # noqa: E402
from proxyless_arch.base.runs import CONFIG_FILE, RESULT_FILE  # noqa: E402
from proxyless_arch.base.settings import REQUIRED, parse, setting  # noqa: E402
from proxyless_arch.base.text import align  # noqa: E402
from proxyless_arch.base.words import DATA_PATH  # noqa: E402
from proxyless_arch.data.datasets import open_folder  # noqa: E402
from proxyless_arch.data.streams import Stream, numpy_rng  # noqa: E402
from proxyless_arch.space.search_space import read_space  # noqa: E402
from proxyless_arch.space.tree import tree_space  # noqa: E402
from proxyless_nas.train import TrainConfig, run_training  # noqa: E402
from search import SearchConfig, run_search  # noqa: E402
from search.algorithm.random_control import sample_at_cost  # noqa: E402
from search.config import from_recipe  # noqa: E402
from search.run import memory  # noqa: E402

FORMAT, VERSION = "proxyless-nas/tree-cells-study", 1
OUTPUT = ROOT / "experiments" / "tree_cells.json"
BATCH = 50


@dataclass(frozen=True, kw_only=True)
class Study:
    """How much is searched and trained."""

    data_path: str = DATA_PATH.setting(REQUIRED, " of CIFAR-10")
    work: Path = setting(REQUIRED, "folder of all that is done", metavar="DIR")
    n_train: int = setting(4000, "training images, a quarter of which are alpha's in a search", minimum=200)
    n_test: int = setting(3000, "test images", minimum=100)
    n_epochs: int = setting(12, "epochs of each training, and of each half of a search", minimum=1)
    seeds: int = setting(2, "searches, by seed from 0", minimum=1)
    n_random: int = setting(5, "random networks beside each", minimum=2)
    summary: bool = setting(False, "write what there is, and stop")


FACTS = ("n_train", "n_test", "n_epochs", "n_random")
"""What makes two studies one."""


def photos(study: Study) -> Path:
    """The part of the images that is used, as class folders; made once."""
    folder = study.work / "photos"
    if not (folder / "test").exists():
        for part, count in (("train", study.n_train), ("test", study.n_test)):
            write_images(subset(open_folder(study.data_path, part), count, 0), folder / f"{part}.part")
        for part in ("train", "test"):
            (folder / f"{part}.part").rename(folder / part)
    return folder


def search_config(study: Study, seed: int) -> SearchConfig:
    return SearchConfig.of(
        recipe="cifar_small",
        dataset="imagefolder",
        data_path=photos(study),
        valid_size=0.25,
        train_batch_size=BATCH,
        warmup_epochs=study.n_epochs,
        n_epochs=study.n_epochs,
        grad_binary_mode="two",
        n_worker=0,
        torch_threads=1,
        device="cpu",
        manual_seed=seed,
    )


def train_config(study: Study, spec: Path) -> TrainConfig:
    return TrainConfig.of(
        recipe="fast",
        arch=spec,
        weights="scratch",
        data_path=photos(study),
        n_epochs=study.n_epochs,
        warmup_epochs=1,
        train_batch_size=BATCH,
        valid_size=0,
        n_worker=0,
        device="cpu",
    )


def is_begun(folder: Path) -> bool:
    return (folder / CONFIG_FILE).is_file()


def searched(study: Study, seed: int) -> Path:
    """The folder of a finished search."""
    folder = study.work / f"search{seed}"
    if not (folder / RESULT_FILE).is_file():
        begun = is_begun(folder)
        run_search(None if begun else search_config(study, seed), folder, resume=begun, say=None)
    return folder


def beside(study: Study, seed: int) -> list[Path]:
    """The specs of the random networks with as many parameters as the one that a search found."""
    home = study.work / f"search{seed}"
    files = [home / "random" / f"{number}.json" for number in range(study.n_random)]
    if not files[-1].is_file():
        space, goal = read_space(home / "space.json"), total_params(read_spec(home / "spec.json"))
        rng = numpy_rng(seed, Stream.RANDOM_NETWORKS)
        paths = sample_at_cost(price_space(space, PARAMS), goal, study.n_random, rng)
        for path, file in zip(paths, files, strict=True):
            write_spec(file, space.spec_for(path, f"random {file.stem} beside search {seed}"))
    return files


def trained(study: Study, spec: Path) -> None:
    folder = study.work / "trained" / f"{spec.parent.parent.name}-{spec.parent.name}-{spec.stem}"
    if not (folder / RESULT_FILE).is_file():
        begun = is_begun(folder)
        run_training(None if begun else train_config(study, spec), folder, resume=begun, say=None)
    record = read_json(folder / RESULT_FILE)
    own = read_spec(spec)
    write_json(
        spec.with_suffix(".score"),
        {"params": total_params(own), "macs": total_macs(own), "test_top1_percent": record["test_top1_percent"]},
    )


def work(study: Study) -> None:
    """All of it, the searches first; what is there is not done again."""
    for seed in range(study.seeds):
        folder = searched(study, seed)
        for spec in (folder / "spec.json", *beside(study, seed)):
            if not spec.with_suffix(".score").is_file():
                trained(study, spec)
                print(f"{time.strftime('%H:%M')}  {spec}  {read_json(spec.with_suffix('.score'))}", flush=True)


# ---------------------------------------------------------------------------------------------------- what came out


def interval_of_gap(own: float, others: Sequence[float]) -> list[float]:
    """95% for the gap between one network and the mean of random ones, as if it were drawn like them (Student)."""
    from scipy.stats import t

    n, gap = len(others), own - float(np.mean(others))
    half = float(t.ppf(0.975, n - 1) * np.std(others, ddof=1) * np.sqrt(1 + 1 / n))
    return [gap - half, gap + half]


def outcome(study: Study, seed: int) -> dict[str, Any] | None:
    """A search beside its random networks, as far as they are trained; None before the one that it found is.

    There is no gap before two random ones are.
    """
    home = study.work / f"search{seed}"
    own, others = home / "spec.score", sorted((home / "random").glob("*.score"))
    if not own.is_file():
        return None
    found, random = read_json(own), [read_json(file) for file in others]
    top1, scores = found["test_top1_percent"], [each["test_top1_percent"] for each in random]
    result = {
        "seed": seed,
        "searched": {**found, "interval_95": list(score_interval(top1, study.n_test))},
        "random": random,
    }
    if len(scores) < 2:
        return result
    return {
        **result,
        "gap": top1 - float(np.mean(scores)),
        "gap_interval_95": interval_of_gap(top1, scores),
        "better_than": sum(top1 > score for score in scores),
    }


def inherited(study: Study, seed: int) -> dict[str, Any] | None:
    """What a finished search found, with the weights of its supernet."""
    file = study.work / f"search{seed}" / RESULT_FILE
    if not file.is_file():
        return None
    record = read_json(file)
    own = {name: record[name] for name in ("params", "macs", "test_top1_percent")}
    return {"seed": seed, **own, "interval_95": list(score_interval(own["test_top1_percent"], study.n_test))}


V100_FLOPS = 15.7e12
"""Of float32, at its peak."""
SHARES = (0.1, 0.3)
"""Of the peak that such a network may get to: assumptions, not measurements."""


def full_run() -> dict[str, Any]:
    """What the recipe ``cifar`` and the training of the released network take, by MACs and counted memory.

    A step computes each image forwards and, at twice the cost, backwards; an architecture step in mode two one more
    operation per edge. A MAC is two floating-point operations.
    """
    config, space, released = from_recipe("cifar"), tree_space(), catalog.load("proxyless_cifar")
    n_train, batch = 50_000 - int(config.data.valid_size), config.data.train_batch_size
    per_image = price_space(space, MACS).uniform_expected
    epochs, every = config.warmup.warmup_epochs + config.weights.n_epochs, config.arch.grad_update_arch_param_every
    weight_steps = epochs * (n_train // batch)
    arch_steps = config.weights.n_epochs * (n_train // batch) // every
    search = per_image * batch * (3 * weight_steps + 4 * arch_steps)
    training = TrainConfig.of(recipe="cifar", arch="proxyless_cifar", data_path=".").optimization.n_epochs
    train = 3 * total_macs(released) * 50_000 * training
    peak = memory.WEIGHT_COPIES * memory.weight_bytes(space) + batch * memory.arch_step_bytes(space, "two")
    hours = {
        what: [2 * macs / (share * V100_FLOPS) / 3600 for share in reversed(SHARES)]
        for what, macs in (("search", search), ("train", train))
    }
    return {
        "search_macs": search,
        "train_macs": train,
        "search_memory_bytes": peak,
        "hours_on_a_v100_at_shares_of_its_peak": {"shares": list(reversed(SHARES)), **hours},
    }


def table(found: Sequence[Mapping[str, Any]]) -> list[str]:
    rows = []
    for one in found:
        own, random, gap = one["searched"], "none yet", "-"
        if scores := [each["test_top1_percent"] for each in one["random"]]:
            random = f"{np.mean(scores):.1f} ({min(scores):.1f} to {max(scores):.1f}, {len(scores)})"
        if "gap" in one:
            gap = "{:+.1f} ({:+.1f} to {:+.1f})".format(one["gap"], *one["gap_interval_95"])
        rows.append((str(one["seed"]), f"{own['params']:,}", f"{own['test_top1_percent']:.1f}", random, gap))
    return align([("seed", "parameters", "searched, %", "random, %", "gap"), *rows])


def summarize(study: Study) -> list[dict[str, Any]]:
    """What there is so far, written to OUTPUT."""
    found = [one for seed in range(study.seeds) if (one := outcome(study, seed)) is not None]
    before = [one for seed in range(study.seeds) if (one := inherited(study, seed)) is not None]
    machine = {"cpu": cpu_name(), "torch": str(torch.__version__), "threads": 1, "date": time.strftime("%Y-%m-%d")}
    facts = {name: value for name, value in asdict(study).items() if name in FACTS}
    write_json(
        OUTPUT,
        {
            "format": FORMAT,
            "version": VERSION,
            "study": facts,
            "machine": machine,
            "inherited": before,
            "searches": found,
            "full_run": full_run(),
        },
    )
    return found


def run(argv: Sequence[str]) -> int:
    study = parse(Study, argv, "tree_cells.py", __doc__)
    torch.set_num_threads(1)
    check_same(study, FACTS)
    if not study.summary:
        work(study)
    print("\n".join(table(summarize(study))))
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    return exit_code(run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
