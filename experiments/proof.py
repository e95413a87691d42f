"""Does searching beat not searching? Both algorithms against random networks of equal cost, with gates on the way.

    python experiments/proof.py --data_path cifar10.zip --work DIR

Everything is trained on CIFAR-10 by one recipe. Space, targets, learning rates and the random networks were fixed
before any search; the lengths of trainings and warm-ups, the augmentation of alpha's images and the scoring were
changed after earlier comparisons had been seen: this is the fourth (docs/decisions.md). The gates:

a. the training recipe separates sizes by more than 3 standard deviations of the training seed;
b. the supernet ranks random networks of equal cost: Spearman of inherited and stand-alone accuracy at least 0.5;
c. both algorithms run at two targets, one so low that blocks must vanish, with two search seeds each (REINFORCE
   once more, afterwards, with a baseline that is of the same images);
d. the searched networks are compared with random networks of equal cost (search/algorithm/random_control.py) and with
   simple controls, all trained alike, with two training seeds.

They are judged at the end: nothing stops where one fails, and the searches run before the trainings that gate b needs.

Work is cut into tasks that each write one file into ``--work``; a task whose file is there is not done again, and
several processes may work on the same folder at once (``--jobs 2``, or --launcher). ``--summary`` reads the files and
writes experiments/proof.json and docs/proof.svg. A task takes a few minutes; the training of a supernet, most of an
hour, saves its state as it goes.
"""

from __future__ import annotations

import dataclasses
import datetime
import fcntl
import itertools
import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from experiments.launched import run_launched  # noqa: E402
from hardware.cost import MACS, CostTable, price_space  # noqa: E402
from proxyless_arch.apps.train_settings import Optimization  # noqa: E402
from proxyless_arch.arch.spec import ArchSpec, Preprocessing  # noqa: E402
from proxyless_arch.base import settings  # noqa: E402
from proxyless_arch.base.cli import exit_code  # noqa: E402
from proxyless_arch.base.errors import InputError  # noqa: E402
from proxyless_arch.base.files import atomic_path, read_json, write_json  # noqa: E402
from proxyless_arch.base.machine import cpu_name  # noqa: E402
from proxyless_arch.base.settings import REQUIRED, setting  # noqa: E402
from proxyless_arch.base.words import DATA_PATH  # noqa: E402
from proxyless_arch.data.datasets import load_for_search  # noqa: E402
from proxyless_arch.data.streams import ProofStream, numpy_rng  # noqa: E402
from proxyless_arch.drawing.axes import PERCENT, Axis, Frame  # noqa: E402
from proxyless_arch.drawing.charts import Chart, Guide, Point, compose, plane  # noqa: E402
from proxyless_arch.drawing.scene import Group, Scene, write_picture  # noqa: E402
from proxyless_arch.launch.launcher import Launcher, LaunchFlags  # noqa: E402
from proxyless_arch.space.mbconv import Macro, Stage, mbconv_space  # noqa: E402
from proxyless_arch.space.search_space import Path as Choices  # noqa: E402
from proxyless_nas.network import build  # noqa: E402
from proxyless_nas.steps import evaluate, recalibrate_bn  # noqa: E402
from proxyless_nas.train.checkpointing import load_fields, save_fields  # noqa: E402
from proxyless_nas.train.training import Schedule, Training  # noqa: E402
from search.algorithm.derive import choose_path, inherit  # noqa: E402
from search.algorithm.gates import argmax_path, probabilities  # noqa: E402
from search.algorithm.random_control import sample_at_cost  # noqa: E402
from search.config import SearchConfig, with_settings  # noqa: E402
from search.run.loop import Schedule as SearchSchedule  # noqa: E402
from search.run.loop import Search  # noqa: E402

# 9 searched blocks at 8 x 8 and 4 x 4 positions: small enough to train twenty networks an hour on one CPU core
MACRO = Macro(
    name="proof",
    stem_width=16,
    stem_stride=2,
    first_width=8,
    stages=(Stage(16, 3, 2), Stage(24, 3, 2), Stage(40, 3, 1)),
    mix_width=160,
)
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616)
SPACE = mbconv_space(
    macro=MACRO, num_classes=10, preprocessing=Preprocessing(resolution=32, resize=32, mean=MEAN, std=STD)
)
TABLE: CostTable = price_space(SPACE, MACS)
TARGETS = {"high": 1.9e6, "low": 0.95e6}  # MACs; without skipped blocks the cheapest network has 1.26e6
VALID = 5000

TRAIN_BATCH = 64
RECALIBRATION_BATCH, RECALIBRATION_BATCHES = 500, 4
SPLIT_SEED, RANDOM_SEED = 0, 2026
TRAIN_PARTS = 20  # the first of which is the warm-up of the learning rate
TRAIN = Optimization(
    n_epochs=TRAIN_PARTS,
    warmup_epochs=1,
    init_lr=0.2,
    weight_decay=1e-4,
    label_smoothing=0.0,
    zero_gamma=True,
    ema_decay=0.0,
)


@dataclass(frozen=True)
class Lengths:
    """How long everything is trained, in steps of TRAIN_BATCH images: 5,400 are 7.7 epochs."""

    train_steps: int = 5400
    supernet_steps: int = 60_000


@dataclass(frozen=True)
class Images:
    """uint8 (n, 32, 32, 3) and labels, by set; the sets are disjoint."""

    sets: dict[str, tuple[np.ndarray, np.ndarray]]

    @classmethod
    def load(cls, data_path: Path, work: Path) -> Images:
        """Decoded once into ``work``; the split of data/datasets.py (alpha's images held out of training)."""
        cache = work / "cifar10.npz"
        with locked(cache):
            if not cache.exists():
                data = load_for_search("cifar10", data_path, VALID, SPLIT_SEED)
                arrays = {}
                for name in ("train", "valid", "test"):
                    images = getattr(data, name)
                    arrays[name] = np.stack([np.asarray(images.read(i).convert("RGB")) for i in range(len(images))])
                    arrays[f"{name}_labels"] = np.asarray(images.labels, dtype=np.int64)
                with atomic_path(cache) as part, open(part, "wb") as file:
                    np.savez(file, **arrays)
        with np.load(cache) as arrays:
            return cls({n: (arrays[n], arrays[f"{n}_labels"]) for n in ("train", "valid", "test")})

    def tensor(self, pixels: np.ndarray) -> torch.Tensor:
        """(n, 3, 32, 32) float32, normalized, channels_last."""
        scale = 1 / (255 * np.asarray(STD, np.float32))
        shift = np.asarray(MEAN, np.float32) / np.asarray(STD, np.float32)
        return torch.from_numpy(pixels * scale - shift).permute(0, 3, 1, 2)

    def train_batches(self, size: int, seed: int, first: int, last: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Batches of the steps first .. last - 1: epochs without replacement, shifted by up to 4 pixels, mirrored."""
        pixels, labels = self.sets["train"]
        windows = shifted_windows(pixels)
        per_epoch = len(pixels) // size
        for step in range(first, last):
            epoch, index = divmod(step, per_epoch)
            if step == first or index == 0:
                order = numpy_rng(seed, ProofStream.ORDER, epoch).permutation(len(pixels))
            chosen = order[index * size : (index + 1) * size]
            batch = augmented(windows, chosen, numpy_rng(seed, ProofStream.TRAIN, step))
            yield self.tensor(batch), torch.from_numpy(labels[chosen])

    def batches(self, name: str, size: int = 500) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """All images of a set as they are."""
        pixels, labels = self.sets[name]
        for first in range(0, len(pixels), size):
            part = slice(first, first + size)
            yield self.tensor(pixels[part]), torch.from_numpy(labels[part])

    def valid_batch(self, size: int, seed: int, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        """A random batch of alpha's images, shifted and mirrored like the weights' images."""
        pixels, labels = self.sets["valid"]
        rng = numpy_rng(seed, ProofStream.VALID, step)
        chosen = rng.choice(len(pixels), size, replace=False)
        batch = augmented(shifted_windows(pixels[chosen]), np.arange(size), rng)
        return self.tensor(batch), torch.from_numpy(labels[chosen])


def shifted_windows(pixels: np.ndarray) -> np.ndarray:
    """Every image shifted by -4 .. 4 pixels with a black border: a view, (n, 9, 9, 3, 32, 32)."""
    padded = np.pad(pixels, ((0, 0), (4, 4), (4, 4), (0, 0)))
    return np.lib.stride_tricks.sliding_window_view(padded, (32, 32), axis=(1, 2))


def augmented(windows: np.ndarray, chosen: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The chosen images, (n, 32, 32, 3): each at a random shift, every other one mirrored."""
    rows, columns = rng.integers(0, 9, (2, len(chosen)))
    batch = windows[chosen, rows, columns].transpose(0, 2, 3, 1)
    mirrored = rng.random(len(chosen)) < 0.5
    return np.where(mirrored[:, None, None, None], batch[:, :, ::-1], batch)


@contextmanager
def locked(path: Path, wait: bool = True) -> Iterator[bool]:
    """Hold ``path``.lock; false when another process holds it and ``wait`` is false. A dead process holds nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path.with_name(path.name + ".lock"), "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield True


def train_alone(
    images: Images, path: Choices, seed: int, lengths: Lengths = Lengths(), settings: Optimization = TRAIN
) -> dict[str, Any]:
    """Train the network of ``path`` as ``train_spec`` does."""
    trained = train_spec(images, SPACE.spec_for(path), seed, lengths, settings)
    return {"path": list(path), "seed": seed, "macs": TABLE.of_path(path), **trained}


def train_spec(
    images: Images, spec: ArchSpec, seed: int, lengths: Lengths = Lengths(), settings: Optimization = TRAIN
) -> dict[str, Any]:
    """Train a network from scratch; score it on alpha's images and on the test images, as train.py does.

    That is with the BN statistics that ran along in training.
    """
    start = time.perf_counter()
    net = build(spec, torch.Generator().manual_seed(seed), zero_gamma=settings.zero_gamma)
    schedule = Schedule(
        steps_per_epoch=lengths.train_steps // TRAIN_PARTS,
        n_epochs=settings.n_epochs,
        warmup_epochs=settings.warmup_epochs,
        init_lr=settings.init_lr,
    )
    training = Training(net, settings, schedule, batch_size=TRAIN_BATCH, seed=seed)
    for batch, labels in images.train_batches(TRAIN_BATCH, seed, 0, schedule.total_steps):
        training.update(batch, labels)
    sums = training.take_sums()
    net.eval()
    scores = {name: evaluate(net, images.batches(name)) for name in ("valid", "test")}
    return {
        "train_loss": sums.loss / sums.images,
        **{f"{name}_top1_percent": 100 * score.top1_hits / score.n_images for name, score in scores.items()},
        "test_loss": scores["test"].loss_sum / scores["test"].n_images,
        "seconds": time.perf_counter() - start,
    }


SUPERNET = {"warmup_lr": 0.1, "weight_decay": 1e-4, "label_smoothing": 0.0, "train_batch_size": TRAIN_BATCH}
SAVE_EVERY = 2000
SEARCH_SEEDS = (0, 1)
N_RANDOM = 20
REINFORCE = {"arch_algo": "rl", "rl_batch_size": 10, "rl_reward": "absolute", "rl_absolute_weight": 0.3}
# architecture steps with the weights frozen behind the warm-up: (settings, steps, images of a step)
ALGORITHMS: dict[str, tuple[dict[str, Any], int, int]] = {
    "grad": ({"arch_algo": "grad", "grad_binary_mode": "full_v2", "grad_reg_loss_type": "hard"}, 1500, 64),
    "rl": ({**REINFORCE, "rl_baseline_rule": "past"}, 1000, 128),
    "rl_others": ({**REINFORCE, "rl_baseline_rule": "others"}, 1000, 128),
}
AFTERWARDS = ("rl_others",)
"""Added when the comparison had been seen: in no statistic over all searches, nor in gate a, nor in the budget."""
PLANNED = tuple(name for name in ALGORITHMS if name not in AFTERWARDS)


def new_search(
    seed: int, settings: dict[str, Any], goal: float, arch_steps: int, lengths: Lengths = Lengths()
) -> Search:
    """A search that warms up for ``supernet_steps``; then it moves alpha, the weights are frozen."""
    config = with_settings(SearchConfig(), {**SUPERNET, **settings, "manual_seed": seed})
    schedule = SearchSchedule(
        steps_per_epoch=lengths.supernet_steps,
        warmup_epochs=1,
        search_epochs=1,
        arch_every=lengths.supernet_steps,
        arch_repeats=arch_steps,
    )
    return Search(config, SPACE, TABLE, goal, schedule, torch.device("cpu"))


STATE_FORMAT, STATE_VERSION = "proxyless-nas/proof-supernet", 1


def supernet_file(work: Path, seed: int) -> Path:
    return work / "supernet" / f"{seed}.pt"


def finished_supernet(work: Path, seed: int) -> Path:
    """The file that is there once the supernet is trained."""
    return work / "supernet" / f"{seed}.json"


def read_state(file: Path) -> dict[str, Any]:
    """What ``warm_up`` saved. Raises InputError where it is missing or damaged."""
    names = ("supernet", "optimizer", "step", "seconds")
    return load_fields(file, STATE_FORMAT, STATE_VERSION, names, "experiments/proof.py")


def warm_up(images: Images, search: Search, file: Path) -> None:
    """The whole warm-up of ``search``. Saves its state in ``file``, and continues where that says it stopped."""
    seed, seconds = search.config.manual_seed, 0.0
    if file.exists():
        state = read_state(file)
        search.supernet.load_state_dict(state["supernet"])
        search.optimizer.load_state_dict(state["optimizer"])
        search.step, seconds = state["step"], state["seconds"]
    begin = time.perf_counter() - seconds
    for batch, labels in images.train_batches(TRAIN_BATCH, seed, search.step, search.schedule.warmup_steps):
        search.weight_step(batch, labels)
        if search.step % SAVE_EVERY == 0 or not search.in_warmup:
            state = {"supernet": search.supernet.state_dict(), "optimizer": search.optimizer.state_dict()}
            state |= {"step": search.step, "seconds": time.perf_counter() - begin}
            sums = search.sums
            hits, seen = sums.train_hits, sums.train_images
            print(
                f"{file.parent.name} {file.stem}: {search.step} steps, {100 * hits / seen:.1f} % since the start",
                flush=True,
            )
            save_fields(file, STATE_FORMAT, STATE_VERSION, state)


def trained_supernet(
    work: Path, seed: int, settings: dict[str, Any], goal: float, arch_steps: int, lengths: Lengths = Lengths()
) -> Search | None:
    """None while the supernet of ``seed`` is not finished."""
    if not supernet_file(work, seed).exists():
        return None
    state = read_state(supernet_file(work, seed))
    if state["step"] < lengths.supernet_steps:
        return None
    search = new_search(seed, settings, goal, arch_steps, lengths)
    search.supernet.load_state_dict(state["supernet"])
    search.step = lengths.supernet_steps
    return search


def inherited_scores(images: Images, search: Search, path: Choices) -> dict:
    """Accuracy of ``path`` with the supernet's weights, on alpha's images.

    Its BN statistics are computed again on 2,000 training images, shifted and mirrored as in training.
    """
    net = inherit(search.supernet, SPACE, path)
    recalibrate_bn(net, images.train_batches(RECALIBRATION_BATCH, 0, 0, RECALIBRATION_BATCHES))
    score = evaluate(net, images.batches("valid"))
    return {
        "path": list(path),
        "inherited_valid_top1_percent": 100 * score.top1_hits / score.n_images,
        "inherited_valid_loss": score.loss_sum / score.n_images,
    }


def search_once(
    images: Images, work: Path, algorithm: str, target: str, seed: int, lengths: Lengths = Lengths()
) -> dict[str, Any] | None:
    """None while the supernet of ``seed`` is not finished."""
    settings, steps, _ = ALGORITHMS[algorithm]
    search = trained_supernet(work, seed, settings, TARGETS[target], steps, lengths)
    return move_alpha(images, search, algorithm, target) if search is not None else None


def move_alpha(images: Images, search: Search, algorithm: str, target: str) -> dict[str, Any]:
    """All architecture steps of a search whose weights are trained, and the network that comes out."""
    _, steps, size = ALGORITHMS[algorithm]
    seed = search.config.manual_seed
    start = time.perf_counter()
    curve = []
    for step in range(steps):
        search.arch_step(*images.valid_batch(size, seed, step))
        if (step + 1) % (steps // 20) == 0:
            alphas = [alpha.detach() for alpha in search.alphas]
            curve.append(
                {
                    "step": step + 1,
                    "expected_macs": search.expected_cost(),
                    "argmax_macs": TABLE.of_path(argmax_path(alphas)),
                }
            )
    path, _ = choose_path(search.alphas, TABLE, TARGETS[target])
    found = inherited_scores(images, search, path)
    return {
        **found,
        "algorithm": algorithm,
        "target": target,
        "seed": seed,
        "macs": TABLE.of_path(path),
        "argmax_path": list(argmax_path(search.alphas)),
        "changed_blocks": sum(a != b for a, b in zip(path, argmax_path(search.alphas), strict=True)),
        "probabilities": [
            [round(float(v), 5) for v in p] for p in probabilities([alpha.detach() for alpha in search.alphas])
        ],
        "curve": curve,
        "search_seconds": time.perf_counter() - start,
    }


def filled(target: float, options: Callable[[int], Sequence[int]]) -> Choices:
    """The network nearest below ``target`` among those made of a block's first or second option (or only the first)."""
    best: tuple[float, Choices] | None = None
    for path in itertools.product(*(options(block) for block in range(SPACE.n_edges))):
        cost = TABLE.of_path(path)
        if cost <= target and (best is None or cost > best[0]):
            best = cost, path
    assert best is not None
    return best[1]


K3E3, K3E6 = 0, 3
SIZES = {"3x3e6": (K3E6,) * SPACE.n_edges, "3x3e3": (K3E3,) * SPACE.n_edges, "cheapest": TABLE.min_path}


def random_paths(target: str) -> list[Choices]:
    return sample_at_cost(TABLE, TARGETS[target], N_RANDOM, np.random.default_rng(RANDOM_SEED))


def controls(target: str) -> dict[str, Choices]:
    """What a person would draw: one operation everywhere, and blocks left out (or widened) until it fits."""
    goal = TARGETS[target]

    def or_zero(op: int) -> Choices:
        return filled(goal, lambda block: (op, len(SPACE.choices[block]) - 1) if SPACE.edges[block].skip else (op,))

    found = {"3x3e6, Zero to fit": or_zero(K3E6)}
    if TABLE.of_path(SIZES["3x3e3"]) > goal:
        return {**found, "3x3e3, Zero to fit": or_zero(K3E3)}
    return {**found, "3x3e3, 3x3e6 to fit": filled(goal, lambda block: (K3E3, K3E6))}


@dataclass(frozen=True)
class Task:
    """One piece of work and the file it writes; ``work`` returns None while what it needs is not there yet.

    ``needs``: a file without which it is not worth a process of its own.
    """

    file: Path
    work: Callable[[], dict[str, Any] | None]
    needs: Path | None = None

    @property
    def is_ready(self) -> bool:
        return not self.file.exists() and (self.needs is None or self.needs.exists())

    def name_in(self, work: Path) -> str:
        return self.file.relative_to(work).with_suffix("").as_posix()


def alone_file(folder: Path, path: Choices, seed: int) -> Path:
    return folder / "alone" / f"{'-'.join(map(str, path))}-seed{seed}.json"


def tasks(images: Images, work: Path, lengths: Lengths) -> list[Task]:
    """All of it, in the order in which it is worth doing."""

    def alone(path: Choices, seed: int) -> Task:
        return Task(alone_file(work, path, seed), lambda: train_alone(images, path, seed, lengths))

    def supernet(seed: int) -> Task:
        def train() -> dict[str, Any]:
            warm_up(images, new_search(seed, {}, TARGETS["high"], 1, lengths), supernet_file(work, seed))
            return {"seed": seed, "steps": lengths.supernet_steps}

        return Task(finished_supernet(work, seed), train)

    def ranking(seed: int, target: str) -> Task:
        def rank() -> dict[str, Any] | None:
            search = trained_supernet(work, seed, {}, TARGETS[target], 1, lengths)
            if search is None:
                return None
            return {"scores": [inherited_scores(images, search, path) for path in random_paths(target)]}

        return Task(work / "ranking" / f"{seed}-{target}.json", rank, finished_supernet(work, seed))

    def search(algorithm: str, target: str, seed: int) -> Task:
        return Task(
            work / "search" / f"{algorithm}-{target}-{seed}.json",
            lambda: search_once(images, work, algorithm, target, seed, lengths),
            finished_supernet(work, seed),
        )

    def trained_result(algorithm: str, target: str, seed: int, training_seed: int) -> list[Task]:
        found = work / "search" / f"{algorithm}-{target}-{seed}.json"
        return [alone(tuple(read_json(found)["path"]), training_seed)] if found.exists() else []

    def compare(target: str) -> list[Task]:
        """The networks of one target, each trained once."""
        found = [one for a, s in itertools.product(ALGORITHMS, SEARCH_SEEDS) for one in trained_result(a, target, s, 0)]
        drawn = [alone(path, 0) for path in (*random_paths(target), *controls(target).values())]
        return [*drawn[: N_RANDOM // 2], *found, *drawn[N_RANDOM // 2 :]]

    every = list(itertools.product(ALGORITHMS, TARGETS, SEARCH_SEEDS))
    return [
        *map(supernet, SEARCH_SEEDS),
        *(alone(path, seed) for seed in range(3) for path in SIZES.values()),
        *(ranking(seed, target) for seed in SEARCH_SEEDS for target in TARGETS),
        *(search(algorithm, target, seed) for algorithm, target, seed in every),
        *(task for target in TARGETS for task in compare(target)),
        *(task for one in every for task in trained_result(*one, 1)),
        *(alone(path, 1) for target in TARGETS for path in controls(target).values()),
        *(alone(path, 1) for target in TARGETS for path in random_paths(target)),
    ]


def run_tasks(list_tasks: Callable[[], list[Task]]) -> None:
    """Do what is not done and what no other process is doing, until nothing is left."""
    while True:
        listed = list_tasks()
        for number, task in enumerate(listed, 1):
            if not task.file.exists() and do_task(task, f"[{number}/{len(listed)}] "):
                break
        else:
            return


def do_task(task: Task, prefix: str = "") -> bool:
    """Do a task, unless another process does or what it needs is not there; whether it was done."""
    with locked(task.file, wait=False) as mine:
        if not mine or task.file.exists():
            return False
        start = time.perf_counter()
        result = task.work()
        if result is None:
            return False
        write_json(task.file, result)
    shown = {name: value for name, value in result.items() if isinstance(value, float)}
    line = ", ".join(f"{name} {value:.2f}" for name, value in shown.items())
    print(f"{prefix}{task.file.stem}: {time.perf_counter() - start:.0f} s, {line}", flush=True)
    return True


def do_one(argv: Sequence[str], name: str) -> None:
    """The task of this name, in a process of its own; ``argv``: the words that the experiment was started with."""
    arguments, lengths = read_words(argv)
    images = Images.load(arguments.data_path, arguments.work)
    do_task(named(tasks(images, arguments.work, lengths), name, arguments.work))


def named(listed: Sequence[Task], name: str, work: Path) -> Task:
    return next(task for task in listed if task.name_in(work) == name)


def run_all(
    list_tasks: Callable[[], list[Task]], launcher: Launcher, work: Path, function: str, argv: Sequence[str]
) -> None:
    """Every task, in this process or where ``launcher`` has ``function`` called with the name of each."""
    if launcher.is_here:
        run_tasks(list_tasks)
    else:
        ready = lambda: [task.name_in(work) for task in list_tasks() if task.is_ready]  # noqa: E731
        run_launched(launcher, work, function, argv, ready)


def alone_records(work: Path, path: Choices) -> dict[int, dict[str, Any]]:
    """What was trained from scratch for ``path``, by training seed."""
    files = {seed: alone_file(work, path, seed) for seed in range(3)}
    return {seed: read_json(file) for seed, file in files.items() if file.exists()}


def summarize(work: Path, lengths: Lengths) -> dict[str, Any]:
    """Everything that is done so far, in one record. Accuracies are test top-1 on 10,000 images, in percent."""
    done = [read_json(file) for file in compared_files(work) if file.exists()]
    supernets = [read_state(supernet_file(work, seed))["seconds"] for seed in SEARCH_SEEDS]
    searches = [read_json(f)["search_seconds"] for name in PLANNED for f in (work / "search").glob(f"{name}-*.json")]
    return {
        "what": "searched networks against random networks of equal cost, CIFAR-10 at 32 px, 9 searched blocks",
        "facts": facts(lengths),
        "machine": f"{cpu_name()}, one thread a process, other work on the machine; torch {torch.__version__}",
        "date": f"{datetime.date.today()}",
        "trained_networks": len(done),
        "seconds": {"supernets": supernets, "search": float(np.mean(searches))},
        "gate_a": gate_a(work, done),
        "gate_b": {target: ranked(work, target) for target in TARGETS if finished(work, target)},
        "targets": {
            target: {
                **compared(work, target),
                "search_in_trainings": budget(work, target, float(np.mean(supernets)), lengths),
            }
            for target in TARGETS
            if finished(work, target)
        },
    }


def budget(work: Path, target: str, supernet_seconds: float, lengths: Lengths) -> dict[str, float]:
    """What one search and the training of what it finds cost, in trainings of one network of that target.

    A weight step of the supernet trains one path, of the space's mean MACs: it counts as many training steps as that is
    networks of the target. Architecture steps count by their time, in weight steps.
    """
    files = [file for name in PLANNED for file in (work / "search").glob(f"{name}-{target}-*.json")]
    found = [read_json(file)["search_seconds"] for file in files]
    arch_steps = lengths.supernet_steps * float(np.mean(found)) / supernet_seconds
    step = TABLE.uniform_expected / TARGETS[target] / lengths.train_steps
    return {
        "alone": 1 + step * (lengths.supernet_steps + arch_steps),
        "supernet_shared_by_four": 1 + step * (lengths.supernet_steps / 4 + arch_steps),
    }


def finished(work: Path, target: str) -> bool:
    """Whether every network of a target was searched for and trained once."""
    names = [f"{algorithm}-{target}-{seed}" for algorithm, seed in itertools.product(ALGORITHMS, SEARCH_SEEDS)]
    searched = [work / "search" / f"{name}.json" for name in names]
    if not all(file.exists() for file in searched):
        return False
    paths = [tuple(read_json(file)["path"]) for file in searched]
    return all(alone_records(work, path) for path in (*paths, *random_paths(target), *controls(target).values()))


def compared_files(work: Path) -> list[Path]:
    """The trainings of the planned comparison: other experiments may leave theirs in the same folder."""
    paths = {
        *SIZES.values(),
        *(path for target in TARGETS for path in (*random_paths(target), *controls(target).values())),
    }
    paths |= {tuple(read_json(file)["path"]) for name in PLANNED for file in (work / "search").glob(f"{name}-*.json")}
    return [alone_file(work, path, seed) for path in sorted(paths) for seed in range(3)]


def gate_a(work: Path, done: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """How far apart the sizes are, in standard deviations of the training seed.

    The standard deviation is pooled over every network that was trained with two seeds or more; the sizes' own nine
    trainings give another, with few degrees of freedom.
    """
    sizes = {name: [r["test_top1_percent"] for r in alone_records(work, path).values()] for name, path in SIZES.items()}
    by_path: dict[tuple[int, ...], list[float]] = {}
    for record in done:
        by_path.setdefault(tuple(record["path"]), []).append(record["test_top1_percent"])
    repeated = [values for values in by_path.values() if len(values) > 1]

    def pooled(groups: Sequence[Sequence[float]]) -> tuple[float, int]:
        freedom = sum(len(values) - 1 for values in groups)
        return math.sqrt(sum(np.var(values) * len(values) for values in groups) / freedom), freedom

    (sd, freedom), (own_sd, own_freedom) = pooled(repeated), pooled(list(sizes.values()))
    means = {name: float(np.mean(values)) for name, values in sizes.items()}
    gaps = [means[one] - means[other] for one, other in itertools.pairwise(SIZES)]
    return {
        "test_top1_percent": sizes,
        "gaps": gaps,
        "seed_sd": sd,
        "degrees_of_freedom": freedom,
        "gaps_in_sd": [gap / sd for gap in gaps],
        "seed_sd_of_the_sizes": own_sd,
        "degrees_of_freedom_of_the_sizes": own_freedom,
        "gaps_in_sd_of_the_sizes": [gap / own_sd for gap in gaps],
        "passed": bool(min(gaps) > 3 * sd),
    }


def ranked(work: Path, target: str) -> dict[str, Any]:
    """Spearman's coefficients of one target's random networks, with 95 % intervals by bootstrap over the networks.

    Stand-alone scores are means over the training seeds that all of them have. The gate is about inherited accuracy on
    alpha's images; cross-entropy on the same images, and the mean of both supernets, were looked at afterwards.
    """
    paths = random_paths(target)
    alone = [alone_records(work, path) for path in paths]
    seeds = sorted(set.intersection(*(set(records) for records in alone)))
    by_seed = np.array([[records[seed]["test_top1_percent"] for seed in seeds] for records in alone])
    truth = by_seed.mean(1)
    found: dict[str, Any] = {"n": len(paths), "training_seeds": seeds, "test_top1_percent": truth.tolist()}
    if len(seeds) > 1:
        found["between_training_seeds"] = correlation(by_seed[:, 0], by_seed[:, 1])
    rankings = [read_json(work / "ranking" / f"{seed}-{target}.json")["scores"] for seed in SEARCH_SEEDS]
    accuracy = [np.array([score["inherited_valid_top1_percent"] for score in scores]) for scores in rankings]
    loss = [-np.array([score["inherited_valid_loss"] for score in scores]) for scores in rankings]
    own = [correlation(values, truth) for values in accuracy]
    found["inherited_accuracy"] = own
    found["passed"] = all(one["spearman"] >= 0.5 for one in own)
    found["post_hoc"] = {
        "inherited_loss": [correlation(values, truth) for values in loss],
        "mean_of_both_accuracy": correlation(np.mean(accuracy, 0), truth),
        "mean_of_both_loss": correlation(np.mean(loss, 0), truth),
        "accuracy_between_supernets": correlation(*accuracy),
        "loss_between_supernets": correlation(*loss),
    }
    found["values"] = {"accuracy": [v.tolist() for v in accuracy], "loss": [(-v).tolist() for v in loss]}
    return found


def correlation(one: np.ndarray, other: np.ndarray) -> dict[str, Any]:
    chosen = np.random.default_rng(0).integers(0, len(one), (2000, len(one)))
    draws = [stats.spearmanr(one[c], other[c]).statistic for c in chosen]
    interval = [round(float(np.nanquantile(draws, q)), 3) for q in (0.025, 0.975)]
    return {"spearman": round(float(stats.spearmanr(one, other).statistic), 3), "interval_95": interval}


def compared(work: Path, target: str) -> dict[str, Any]:
    """The searched networks and the controls of one target beside its random networks.

    Compared are means over the training seeds that every network here has. ``best_of_k``: k random networks are trained
    once and the best of them by validation is kept, as it was trained; the mean over all subsets of k and over seeds.
    ``best_of_k_trained_anew``: that network's score by the other seeds, where there are two or more.
    ``chosen_by_inheritance``: the random network that does best with a supernet's weights, for each supernet: a random
    search with weight sharing (Li and Talwalkar, UAI 2019), which costs less than these searches.
    """
    drawn = [alone_records(work, path) for path in random_paths(target)]
    names = [f"{algorithm}-{target}-{seed}" for algorithm, seed in itertools.product(ALGORITHMS, SEARCH_SEEDS)]
    found = [read_json(work / "search" / f"{name}.json") for name in names]
    trained = [alone_records(work, tuple(one["path"])) for one in found]
    by_hand = {name: (path, alone_records(work, path)) for name, path in controls(target).items()}
    everything = [*drawn, *trained, *(records for _, records in by_hand.values())]
    seeds = sorted(set.intersection(*(set(records) for records in everything)))

    def scores(records: dict[int, dict[str, Any]], key: str = "test_top1_percent") -> list[float]:
        return [records[seed][key] for seed in seeds]

    random_top1 = np.array([np.mean(scores(records)) for records in drawn])
    test = np.array([scores(records) for records in drawn]).T
    valid = np.array([scores(records, "valid_top1_percent") for records in drawn]).T
    rows = range(len(seeds)) if len(seeds) > 1 else ()
    rankings = [read_json(work / "ranking" / f"{seed}-{target}.json")["scores"] for seed in SEARCH_SEEDS]
    best = [max(range(len(drawn)), key=lambda i: one[i]["inherited_valid_top1_percent"]) for one in rankings]
    others = np.array([np.delete(test, one, axis=0).mean(0) for one in rows])

    def shown(path: Choices, records: dict[int, dict[str, Any]]) -> dict[str, Any]:
        cost = {"macs": TABLE.of_path(path), "share_of_target": TABLE.of_path(path) / TARGETS[target]}
        return {"path": list(path), **cost, "test_top1_percent": scores(records), **place(scores(records), random_top1)}

    kept = ("algorithm", "seed", "argmax_path", "changed_blocks", "search_seconds")
    kept = (*kept, "inherited_valid_top1_percent", "inherited_valid_loss")
    searched = [
        {**{name: one[name] for name in kept}, **shown(tuple(one["path"]), records)}
        for one, records in zip(found, trained, strict=True)
    ]
    planned = [one for one in searched if one["algorithm"] in PLANNED]
    added = [one for one in searched if one["algorithm"] in AFTERWARDS]
    return {
        "macs": TARGETS[target],
        "training_seeds": seeds,
        "random": {
            "paths": [list(path) for path in random_paths(target)],
            "test_top1_percent": random_top1.tolist(),
            "mean": float(random_top1.mean()),
            "sd": float(random_top1.std(ddof=1)),
            "best_of_k": best_of_each_k(valid, test),
            "best_of_k_trained_anew": best_of_each_k(valid, others),
            "chosen_by_inheritance": [shown(random_paths(target)[i], drawn[i]) for i in best],
        },
        "searched": searched,
        "searched_against_random": against(np.array([one["mean"] for one in planned]), random_top1),
        "added_afterwards_against_random": against(np.array([one["mean"] for one in added]), random_top1),
        "mean_by_supernet": [
            float(np.mean([one["mean"] for one in planned if one["seed"] == s])) for s in SEARCH_SEEDS
        ],
        "controls": {name: shown(path, records) for name, (path, records) in by_hand.items()},
    }


def superiority(own: np.ndarray, random_top1: np.ndarray) -> float:
    """Probability that one of ``own`` beats a random network; ties count half."""
    return float(np.mean((own[:, None] > random_top1) + 0.5 * (own[:, None] == random_top1)))


def place(own: Sequence[float], random_top1: np.ndarray) -> dict[str, Any]:
    """Where the mean over training seeds stands among the random networks; those equal to it count half.

    The interval is Jeffreys' 95 % for the share of all random networks of that cost. It takes the network's own score
    as known, which the training seed moves.
    """
    mean, n = float(np.mean(own)), len(random_top1)
    share = superiority(np.array([mean]), random_top1)
    wins = share * n
    low, high = stats.beta.ppf([0.025, 0.975], wins + 0.5, n - wins + 0.5)
    return {
        "mean": mean,
        "above_random_mean": float(mean - random_top1.mean()),
        "random_beaten": int((random_top1 < mean).sum()),
        "percentile": 100 * share,
        "percentile_interval_95": [100 * float(low) if wins else 0.0, 100 * float(high) if wins < n else 100.0],
    }


def against(own: np.ndarray, random_top1: np.ndarray) -> dict[str, Any]:
    """All searches of a target together against its random networks: mean gap and mean percentile.

    Intervals (95 %): of the gap Welch's; of the percentile by bootstrap over searches and random networks. The p-value
    is of the exact two-sided permutation test of the gap. All take the searches for independent, which they are not
    quite: two share each supernet (``mean_by_supernet`` of the record).
    """
    rng = np.random.default_rng(0)
    draws = [superiority(rng.choice(own, len(own)), rng.choice(random_top1, len(random_top1))) for _ in range(5000)]
    gap = stats.ttest_ind(own, random_top1, equal_var=False).confidence_interval(0.95)

    def difference(one: np.ndarray, other: np.ndarray, axis: int) -> np.ndarray:
        return one.mean(axis) - other.mean(axis)

    test = stats.permutation_test((own, random_top1), difference, vectorized=True, n_resamples=np.inf)
    return {
        "n_searches": len(own),
        "percentile": 100 * superiority(own, random_top1),
        "percentile_interval_95": [100 * float(np.quantile(draws, q)) for q in (0.025, 0.975)],
        "gap": float(own.mean() - random_top1.mean()),
        "gap_interval_95": [float(gap.low), float(gap.high)],
        "permutation_p": float(test.pvalue),
    }


def best_of_k(chosen_by: np.ndarray, score: np.ndarray, k: int) -> float:
    """Mean ``score`` of the best of k networks, chosen by ``chosen_by``, over all subsets of k."""
    ordered = score[np.argsort(-chosen_by, kind="stable")]
    n = len(ordered)
    weights = [math.comb(n - 1 - rank, k - 1) / math.comb(n, k) for rank in range(n)]
    return float(np.dot(weights, ordered))


def best_of_each_k(chosen_by: np.ndarray, scores: np.ndarray) -> dict[str, float]:
    """``best_of_k`` for k from 1 on, its mean over the rows; empty without scores."""
    if not len(scores):
        return {}
    rows = list(zip(chosen_by, scores, strict=True))
    return {str(k): float(np.mean([best_of_k(*row, k) for row in rows])) for k in range(1, len(scores[0]) + 1)}


def table(record: dict[str, Any]) -> str:
    """The comparison as a Markdown table: a line for each kind of network, a column for each target."""
    targets = list(record["targets"].values())
    lines = ["| | " + " | ".join(f"{t['macs'] / 1e6:g} M MACs" for t in targets) + " |"]
    lines.append("| --- |" + " --- |" * len(targets))

    def line(label: str, cells: Sequence[str]) -> None:
        lines.append(f"| {label} | " + " | ".join(cells) + " |")

    def best_of(target: dict[str, Any], which: str) -> str:
        wanted = round(target["search_in_trainings"][which])
        k = min(wanted, N_RANDOM)
        return f"{target['random']['best_of_k'][str(k)]:.1f} ({k}{f' of {wanted}' if wanted > k else ''})"

    def among(one: dict[str, Any]) -> str:
        low, high = one["percentile_interval_95"]
        return f"{one['mean']:.1f} ({one['percentile']:.0f}, {low:.0f} to {high:.0f})"

    line(
        f"{N_RANDOM} random networks, mean (sd)",
        [f"{t['random']['mean']:.1f} ({t['random']['sd']:.1f})" for t in targets],
    )
    line("best by validation of as many as a search costs", [best_of(t, "alone") for t in targets])
    line("the same where four searches share a supernet", [best_of(t, "supernet_shared_by_four") for t in targets])
    for seed in SEARCH_SEEDS:
        cells = [among(t["random"]["chosen_by_inheritance"][seed]) for t in targets]
        line(f"best of the {N_RANDOM} with the weights of supernet {seed}", cells)
    for name in dict.fromkeys(name for target in targets for name in target["controls"]):
        line(shown_control(name), [among(t["controls"][name]) if name in t["controls"] else "" for t in targets])
    labels = {
        "grad": "gradient search",
        "rl": "REINFORCE search",
        "rl_others": "REINFORCE, baseline of the same images",
    }
    for algorithm, label in labels.items():
        for seed in SEARCH_SEEDS:
            found = [[o for o in t["searched"] if (o["algorithm"], o["seed"]) == (algorithm, seed)] for t in targets]
            line(f"{label}, supernet {seed}", [among(one) for (one,) in found])
    return "\n".join(lines)


RANDOM, BASELINE, SEARCHED = "random network", "hand-designed network", "searched network"  # groups of the picture
SEARCH_NAMES = {
    "grad": "gradient\nsearch",
    "rl": "REINFORCE\nsearch",
    "rl_others": "REINFORCE,\nsame-image\nbaseline",
}
FRAME, RANK_FRAME = Frame(width=500, height=330, foot=64), Frame(width=500, height=290)
SCORES, RANKS = "Networks of equal cost, trained alike on CIFAR-10", "Do inherited weights rank random networks?"
SCORES_NOTE = "top-1 on 10,000 test images; a bar ends at a network's two trainings, its mark is their mean"
RANKS_NOTE = "each mark is a random network; both accuracies in percent, the inherited one on 5,000 other images"


def shown_control(name: str) -> str:
    """A baseline's name for people: records say Zero of a block that is skipped."""
    return name.replace("Zero to fit", "skipping to fit")


def _control_below(name: str) -> str:
    """``MB6 3x3``, and what was done to meet the target, in three lines below an axis."""
    blocks, change = name.replace("3x3e", "MB").split(", ")
    op, changed = (f"{word} 3\N{MULTIPLICATION SIGN}3" for word in (blocks, change.removesuffix(" to fit")))
    return f"{op},\nsome\n{'skipped' if 'Zero' in change else changed}"


def scores_chart(found: dict[str, Any]) -> Chart:
    """Test accuracy of a target's networks. A bar ends at the network's two trainings, its mark is their mean."""
    scores, rng = found["random"]["test_top1_percent"], np.random.default_rng(0)
    names = ["random\nnetworks"]
    points = [Point(x=rng.uniform(-0.25, 0.25), y=score, group=RANDOM, color="s7") for score in scores]

    def add(group: str, entry: dict[str, Any], at: float, look: dict[str, str]) -> None:
        trained = entry["test_top1_percent"]
        points.append(Point(x=at, y=float(np.mean(trained)), group=group, y_range=(min(trained), max(trained)), **look))

    for name, control in found["controls"].items():
        add(BASELINE, control, len(names), {"mark": "square", "color": "s5"})
        names.append(_control_below(name))
    for algorithm, label in SEARCH_NAMES.items():
        for one in [one for one in found["searched"] if one["algorithm"] == algorithm]:
            add(SEARCHED, one, len(names) + 0.3 * (one["seed"] - 0.5), {"mark": "triangle", "color": "s1"})
        names.append(label)
    mean = found["random"]["mean"]
    guide = Guide(points=[(-math.inf, mean), (math.inf, mean)], label="mean of the random networks", style="axis")
    x, y = Axis(label="", names=names), Axis(label="test accuracy (%)", bounds=PERCENT)
    return plane(f"{found['macs'] / 1e6:g} M MACs", points, x=x, y=y, guides=[guide], frame=FRAME)


def ranking_chart(target: str, gate: dict[str, Any]) -> Chart:
    """Random networks by accuracy with a supernet's weights and trained alone, for each supernet."""
    points = [
        Point(x=inherited, y=alone, group=f"weights of supernet {seed}", mark=mark, color=color)
        for seed, mark, color in zip(SEARCH_SEEDS, ("circle", "triangle"), ("s1", "s2"), strict=True)
        for inherited, alone in zip(gate["values"]["accuracy"][seed], gate["test_top1_percent"], strict=True)
    ]
    ranks = " and ".join(f"{gate['inherited_accuracy'][seed]['spearman']:.2f}" for seed in SEARCH_SEEDS)
    x, y = Axis(label="accuracy with inherited weights (%)"), Axis(label="trained alone (%)", bounds=PERCENT)
    title = f"{TARGETS[target] / 1e6:g} M MACs: rank correlation {ranks}"
    return plane(title, points, x=x, y=y, frame=RANK_FRAME)


def draw(record: dict[str, Any], out: Path) -> None:
    """Test scores by target, and below how well inherited weights foretell them."""
    charts = [scores_chart(found) for found in record["targets"].values()]
    scores = compose(SCORES, charts, len(charts), [SCORES_NOTE])
    charts = [ranking_chart(target, gate) for target, gate in record["gate_b"].items()]
    ranks = compose(RANKS, charts, len(charts), [RANKS_NOTE])
    shapes = [Group(scores.shapes), Group(ranks.shapes, 0, scores.height)]
    write_picture(Scene(shapes, max(scores.width, ranks.width), scores.height + ranks.height, SCORES), out)


PROTOCOL = "alpha's images augmented; running BN statistics, behind a supernet recalibrated on augmented images"
"""What the functions above do with the settings: change it with them."""


def facts(lengths: Lengths = Lengths()) -> dict[str, Any]:
    """What the files of a work folder depend on."""
    return {
        "macro": dataclasses.asdict(MACRO),
        "targets_macs": TARGETS,
        "images": {"mean": MEAN, "std": STD, "for_alpha": VALID, "split_seed": SPLIT_SEED},
        "random": {"networks": N_RANDOM, "seed": RANDOM_SEED},
        "training": {
            **dataclasses.asdict(TRAIN),
            "steps": lengths.train_steps,
            "parts": TRAIN_PARTS,
            "batch": TRAIN_BATCH,
        },
        "supernet": {**SUPERNET, "steps": lengths.supernet_steps},
        "recalibration": {"images": RECALIBRATION_BATCH * RECALIBRATION_BATCHES, "batch": RECALIBRATION_BATCH},
        "protocol": PROTOCOL,
        "algorithms": {
            name: {**settings, "steps": steps, "images": images}
            for name, (settings, steps, images) in ALGORITHMS.items()
        },
        "torch": torch.__version__,
    }


def begin_work(work: Path, lengths: Lengths) -> None:
    """Note the settings in a new folder; of one begun before, as check_same_work."""
    file = work / "facts.json"
    with locked(file):
        if not file.exists():
            write_json(file, facts(lengths))
    check_same_work(work, lengths)


def check_same_work(work: Path, lengths: Lengths) -> None:
    """Raises InputError when the folder's files were made with other settings, or there are none."""
    file = work / "facts.json"
    if not file.exists():
        raise InputError("no such file: not a folder of this experiment", "--work", str(file))
    now, then = json.loads(json.dumps(facts(lengths))), read_json(file)
    changed = [name for name in now if now[name] != then.get(name)]
    if changed:
        raise InputError(f"the files here were made with other settings: {', '.join(changed)}", "--work", str(file))


@dataclass(frozen=True, kw_only=True)
class ProofConfig(LaunchFlags):
    """What proof.py is asked to do."""

    data_path: Path | None = DATA_PATH.setting(None, ": cifar10.zip, with train/ and test/")
    work: Path = setting(REQUIRED, "folder of the tasks' files", metavar="DIR")
    train_steps: int = setting(Lengths.train_steps, "of every training", minimum=1)
    supernet_steps: int = setting(Lengths.supernet_steps, "of every supernet", minimum=1)
    summary: bool = setting(False, "only read what is there: the targets that are done")
    output: Path = setting(ROOT / "experiments" / "proof.json", "record of --summary", shown="experiments/proof.json")
    picture: Path = setting(ROOT / "docs" / "proof.svg", "picture of --summary", shown="docs/proof.svg")


def read_words(argv: Sequence[str]) -> tuple[ProofConfig, Lengths]:
    arguments = settings.parse(ProofConfig, argv, "proof.py", __doc__)
    lengths = Lengths(arguments.train_steps, arguments.supernet_steps)
    if lengths.train_steps < TRAIN_PARTS or lengths.train_steps % TRAIN_PARTS:
        raise InputError(f"expected a multiple of {TRAIN_PARTS}, got {lengths.train_steps}", "--train_steps")
    torch.set_num_threads(1)
    return arguments, lengths


def run(argv: Sequence[str]) -> None:
    arguments, lengths = read_words(argv)
    if arguments.summary:
        check_same_work(arguments.work, lengths)
        record = summarize(arguments.work, lengths)
        write_json(arguments.output, record)
        draw(record, arguments.picture)
        print(table(record))
        return
    if arguments.data_path is None:
        raise InputError("expected the zip of CIFAR-10", DATA_PATH.flag)
    begin_work(arguments.work, lengths)
    images = Images.load(arguments.data_path, arguments.work)
    list_tasks = lambda: tasks(images, arguments.work, lengths)  # noqa: E731
    list_tasks = lambda: tasks(images, arguments.work, lengths)  # noqa: E731
    run_all(list_tasks, arguments.chosen, arguments.work, "experiments.proof:do_one", argv)


def main(argv: Sequence[str] | None = None) -> int:
    return exit_code(run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
