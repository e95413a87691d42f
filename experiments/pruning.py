"""What prune_proof.py and prune_time.py share: a person's photos, a trained network, and ways to smaller ones.

Each product is scored with BN statistics of the calibration images, then trained for the same epochs on the same images
with the parent as its teacher, and scored again with the weights of its best epoch on held-out images. Test images are
looked at for these two scores alone.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from compress import PruneConfig, run_pruning
from compress.pruning.runner import PRUNED, finetune_config
from compress.pruning.session import Job, prepare
from compress.pruning.statistics import make_bn_true
from experiments.class_folders import subset, write_images
from proxyless_arch.apps.scores import Z, hits_in_top
from proxyless_arch.arch.codec import write_spec
from proxyless_arch.arch.spec import ArchSpec, Preprocessing
from proxyless_arch.arch.walk import total_macs, total_params
from proxyless_arch.base.errors import InputError
from proxyless_arch.base.files import read_json, write_json
from proxyless_arch.base.settings import REQUIRED, setting
from proxyless_arch.data.datasets import ImageDataset, open_folder, stratified_split
from proxyless_arch.weights.files import save_safetensors
from proxyless_arch.weights.lookup import SPEC_FILE, WEIGHT_FILES
from proxyless_nas import distributed, load
from proxyless_nas.data import eval_batches
from proxyless_nas.network import ProxylessNet, build
from proxyless_nas.steps import evaluate, recalibrate_bn
from proxyless_nas.train import TrainConfig, run_training
from proxyless_nas.weights import load_named, to_named
from search import SearchConfig, run_search

FORMAT, VERSION = "proxyless-compress/proof", 1
CPU = torch.device("cpu")
SHARES = (0.5, 0.3)
EXACT = "exact"
OWN_TEST = 0.15
N_RANDOM = 12


@dataclass(frozen=True, kw_only=True)
class Person:
    """A person's photos and trained network, and how much is done to it: of prune_time.py as well."""

    work: Path = setting(REQUIRED, "folder of the tasks' files", metavar="DIR")
    cifar: Path | None = setting(None, "the zip of CIFAR-10", metavar="FILE")
    n_photos: int = setting(2000, "photos of the person: 15 % to test, of the others 15 % held out", minimum=100)
    n_judges: int = setting(1500, "further test images, by which all is compared", minimum=100)
    resolution: int = setting(64, "px", minimum=16)
    parent_epochs: int = setting(10, "epochs of the parent's fine-tuning", minimum=1)
    finetune_epochs: int = setting(2, "epochs behind each pruning", minimum=1)
    finetune_lr: float = setting(0.02, "learning rate of them", minimum=0)
    evaluations: int = setting(16, "plans that each way scores", minimum=1)
    images: int = setting(256, "images that calibrate, and as many that choose", minimum=16)
    search_epochs: int = setting(6, "epochs of a search's warm-up, and as many of the search", minimum=1)

    @property
    def photos(self) -> Path:
        return self.work / "photos"

    @property
    def judges(self) -> Path:
        return self.work / "judges"

    @property
    def parent(self) -> Path:
        return self.work / "parent"


@dataclass(frozen=True)
class Way:
    """A way to a smaller network. ``given``: settings of prune.py; None where it is none of its ways."""

    name: str
    given: Mapping[str, Any] | None = field(default_factory=dict)


def random_way(number: int) -> Way:
    return Way(f"random {number}", {"method": "random", "evaluations": 1, "manual_seed": 100 + number})


PRUNINGS = (
    Way(EXACT, {"method": "exact"}),
    Way("uniform", {"method": "uniform"}),
    Way("amc", {"method": "amc"}),
    Way("best random", {"method": "random"}),
    *map(random_way, range(N_RANDOM)),
)
DEPTH = Way("depth", {"method": "exact", "smallest_width": 1.0, "prune_kernels": False})
TWICE = (EXACT, "uniform", "amc", "best random")
"""Run with a second seed."""
MAGNITUDE = Way("magnitude", None)
SEARCHED = Way("searched", None)
SIZES = {36: Way("36 px", None), 32: Way("32 px", None)}
"""Between them there is nothing: feature maps have whole numbers of pixels. 36 px cost 64 % of 64 px, 32 px 25 %."""


@dataclass(frozen=True)
class Task:
    """A way at a share of the parent's MACs, with a seed; what it leaves is one file."""

    way: Way
    share: float | None
    seed: int

    @property
    def name(self) -> str:
        share = f"{self.share:g}" if self.share is not None else "any"
        return f"{share}-{self.way.name.replace(' ', '_')}-{self.seed}"


@dataclass(frozen=True)
class Hits:
    """A score that keeps which images a network gets right, as a text of 0 and 1."""

    text: str = ""

    def plus(self, logits: np.ndarray, labels: np.ndarray) -> Hits:
        return Hits(self.text + "".join("01"[int(hit)] for hit in hits_in_top(logits, labels, 1)))

    @property
    def percent(self) -> float:
        return 100 * self.text.count("1") / len(self.text)


@dataclass(frozen=True)
class Bench:
    """The parent with its images, as a pruning with a seed has them."""

    study: Person
    seed: int

    def config(self, **given: Any) -> PruneConfig:
        study = self.study
        common = {
            "arch": study.parent, "data_path": study.photos, "target_hardware": "flops", "device": "cpu", "n_worker": 0,
            "calibration_images": study.images, "choosing_images": study.images, "evaluations": study.evaluations,
            "finetune_epochs": 0, "manual_seed": self.seed,
        }  # fmt: skip
        return PruneConfig.of(**common | given)

    @cached_property
    def job(self) -> Job:
        return prepare(self.config(keep=SHARES[0]), CPU, distributed.least_free(CPU))

    @cached_property
    def judges(self) -> ImageDataset:
        return open_folder(self.study.judges)

    def hits(self, folder: Path) -> Hits:
        net = load(folder)
        return evaluate(net, eval_batches(self.judges, net.spec.preprocessing, batch_size=100), CPU, Hits())

    def pruned(self, task: Task, folder: Path) -> Path:
        """The folder of a task's network, before it is trained on."""
        if task.way.given is not None:
            result = run_pruning(
                self.config(keep=task.share, **task.way.given), folder, resume=(folder / "config.json").is_file()
            )
            assert result is not None
            return folder / PRUNED
        if task.share is None:
            net = self.on_smaller_images(task.way)
        else:
            budget = task.share * total_macs(self.job.spec)
            if task.way == SEARCHED:
                return self.searched(folder, {"target_hardware": "flops", "target_macs": budget})
            net = self.by_magnitude(lambda spec: total_macs(spec) <= budget)
        save(net, folder, self.study)
        return folder

    def parent(self) -> ProxylessNet:
        """With BN statistics of its own inputs, as prune.py begins: frozen ones do not bear to be recalibrated."""
        net = build(self.job.spec)
        load_named(net, self.job.spec, self.job.tensors)
        make_bn_true(net.eval(), self.job.calibration, CPU)
        return net

    def on_smaller_images(self, way: Way) -> ProxylessNet:
        net = build(smaller_images(self.job.spec, way))
        load_named(net, net.spec, to_named(self.parent()))
        self._recalibrate(net, net.spec.preprocessing)
        return net

    def by_magnitude(self, is_small: Callable[[ArchSpec], bool]) -> ProxylessNet:
        """Channels go by torch-pruning's global ranking until the network is small enough."""
        spec = self.job.spec
        net = self.parent()
        for smaller in magnitude_steps(net, spec):
            if is_small(smaller):
                pruned = build(smaller)
                load_named(pruned, smaller, to_named(net))
                self._recalibrate(pruned, spec.preprocessing)
                return pruned
        raise InputError("magnitudes do not make it so small", "magnitude")

    def searched(self, folder: Path, target: Mapping[str, Any], warmup_from: Path | None = None) -> Path:
        """The run folder of a search.

        Args:
            target: settings of the search that say for what.
            warmup_from: the run folder of another one, whose warm-up stands for its own.
        """
        study = self.study
        config = SearchConfig.of(
            data_path=study.photos, space="imagenet", resolution=study.resolution, warmup_epochs=study.search_epochs,
            n_epochs=study.search_epochs, manual_seed=self.seed, device="cpu", n_worker=0, **target,
        )  # fmt: skip
        begun = (folder / "config.json").is_file()
        behind = None if begun else warmup_from
        run_search(None if begun else config, folder, resume=begun, warmup_from=behind, say=None)
        return folder

    def _recalibrate(self, net: ProxylessNet, pixels: Preprocessing) -> None:
        images = self.job.data.train.subset(range(self.study.images))
        recalibrate_bn(net, list(eval_batches(images, pixels, batch_size=64)), CPU)

    def trained_on(self, folder: Path, place: Path) -> Path:
        """The run folder of the fine-tuning of a pruned network: prune.py's own, of which the best epoch is kept."""
        job = replace(self.job, config=self.config(
            keep=SHARES[0], finetune_epochs=self.study.finetune_epochs, init_lr=self.study.finetune_lr
        ))  # fmt: skip
        begun = (place / "config.json").is_file()
        config = finetune_config(job, folder, self.study.parent)
        run_training(None if begun else config, place, resume=begun, say=None)
        return place

    def trained_searched(self, folder: Path, place: Path) -> Path:
        """The run folder of a searched network's training."""
        study = self.study
        begun = (place / "config.json").is_file()
        config = TrainConfig.of(
            arch=folder, data_path=study.photos, n_epochs=study.parent_epochs + study.finetune_epochs,
            manual_seed=self.seed, device="cpu", n_worker=0,
        )  # fmt: skip
        run_training(None if begun else config, place, resume=begun, say=None)
        return place


def save(net: ProxylessNet, folder: Path, study: Person) -> None:
    """As a run folder that train.py takes up."""
    folder.mkdir(parents=True, exist_ok=True)
    write_spec(folder / SPEC_FILE, net.spec)
    save_safetensors(folder / WEIGHT_FILES[0], net.spec, to_named(net), {"of": str(study.parent)})


def smaller_images(spec: ArchSpec, way: Way) -> ArchSpec:
    """The same network, for one of SIZES."""
    size = next(size for size, each in SIZES.items() if each == way)
    return replace(spec, preprocessing=replace(spec.preprocessing, resolution=size, resize=size))


def magnitude_steps(net: ProxylessNet, spec: ArchSpec) -> Iterator[ArchSpec]:
    """Specs of ``net`` while torch-pruning takes channels out of it, in place, a few at a time."""
    import torch_pruning as tp

    size = spec.preprocessing.resolution
    pruner = tp.pruner.BasePruner(
        net,
        torch.zeros(1, 3, size, size),
        importance=tp.importance.GroupMagnitudeImportance(p=2),
        global_pruning=True,
        pruning_ratio=0.9,
        iterative_steps=200,
        ignored_layers=[net.classifier.linear],
        round_to=8,
    )
    for _ in range(200):
        pruner.step()
        yield spec_of(net, spec)


def spec_of(net: ProxylessNet, spec: ArchSpec) -> ArchSpec:
    """``spec`` with the widths that ``net``'s convolutions have."""
    blocks = []
    for block, layer in zip(spec.blocks, net.blocks, strict=True):
        op, parts = block.op, layer.mobile_inverted_conv
        hidden = parts.depth_conv.conv.out_channels
        given = {"mid_channels": hidden} if op.expands else {}
        blocks.append(replace(block, op=replace(
            op,
            in_channels=parts.inverted_bottleneck.conv.in_channels if op.expands else hidden,
            out_channels=parts.point_linear.conv.out_channels,
            **given,
        )))  # fmt: skip
    mix = net.feature_mix_layer.conv
    return replace(
        spec,
        stem=replace(spec.stem, out_channels=net.first_conv.conv.out_channels),
        blocks=tuple(blocks),
        feature_mix=replace(spec.feature_mix, in_channels=mix.in_channels, out_channels=mix.out_channels),
        classifier=replace(spec.classifier, in_features=mix.out_channels),
    )


def done(study: Person, task: Task) -> dict[str, Any]:
    """Prune, score, train on, score: the record of a task."""
    start, bench = time.process_time(), Bench(study, task.seed)
    folder = study.work / task.name
    small = bench.pruned(task, folder)
    before = bench.hits(small)
    train = bench.trained_searched if task.way == SEARCHED else bench.trained_on
    after = bench.hits(train(small, folder.with_name(f"{task.name}-finetune")))
    spec, parent = load(small).spec, bench.job.spec
    return {
        "way": task.way.name,
        "share": task.share,
        "seed": task.seed,
        "macs": total_macs(spec),
        "macs_share": total_macs(spec) / total_macs(parent),
        "params": total_params(spec),
        "hits_before": before.text,
        "hits_after": after.text,
        "cpu_seconds": time.process_time() - start,
    }


def make_photos(study: Person) -> None:
    """The photos of a person, train/ and test/, and further test images."""
    if study.judges.exists():
        return
    if study.cifar is None:
        raise InputError("expected the zip of CIFAR-10", "--cifar")
    n_test = round(OWN_TEST * study.n_photos)
    train = subset(open_folder(study.cifar, "train"), study.n_photos - n_test, 0)
    test = subset(open_folder(study.cifar, "test"), n_test + study.n_judges, 0)
    more, own = stratified_split(test.labels, n_test, 0)
    write_images(train, study.photos / "train")
    write_images(test.subset(own), study.photos / "test")
    write_images(test.subset(more), study.judges)


def make_parent(study: Person) -> None:
    if (study.parent / "result.json").is_file():
        return
    begun = (study.parent / "config.json").is_file()
    config = TrainConfig.of(
        recipe="finetune", arch="efficientnet_lite0", weights="pretrained", data_path=study.photos,
        image_size=study.resolution, n_epochs=study.parent_epochs, device="cpu",
    )  # fmt: skip
    run_training(None if begun else config, study.parent, resume=begun)


def score_parent(study: Person) -> dict[str, Any]:
    """Its MACs, and its hits on the images that judge: looked at once."""
    file = study.work / "parent.json"
    if not file.exists():
        hits = Bench(study, 0).hits(study.parent)
        write_json(file, {"hits": hits.text, "macs": total_macs(Bench(study, 0).job.spec)})
    return read_json(file)


def file_of(study: Person, task: Task) -> Path:
    return study.work / f"{task.name}.json"


def bits(text: str) -> np.ndarray:
    return np.frombuffer(text.encode(), np.uint8) - ord("0")


def shown(hits: Sequence[str]) -> dict[str, Any]:
    """Top-1 in percent of networks that saw the same images: of each, their mean, and its 95 % interval over images."""
    per_image = np.mean([bits(text) for text in hits], axis=0)
    return {"each": [Hits(text).percent for text in hits], **_mean(per_image)}


def gap(one: Sequence[str], other: Sequence[str]) -> dict[str, Any]:
    """By how many points ``one`` is better, image by image: the mean, and its 95 % interval over images."""
    return _mean(np.mean([bits(text) for text in one], axis=0) - np.mean([bits(text) for text in other], axis=0))


def _mean(per_image: np.ndarray) -> dict[str, Any]:
    mean, half = float(per_image.mean()), Z * float(per_image.std(ddof=1)) / math.sqrt(len(per_image))
    return {"mean": 100 * mean, "interval_95": [100 * (mean - half), 100 * (mean + half)]}


def way_of(name: str) -> str:
    """Random networks are one way."""
    return "random" if name.startswith("random ") else name


def has_torch_pruning() -> bool:
    try:
        import torch_pruning  # noqa: F401
    except ImportError:
        return False
    return True
