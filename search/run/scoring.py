"""What networks of a trained supernet lose with inherited weights: the score that networks are chosen by.

A network is a path of the supernet. Its BN statistics are made anew on training images, as they are when a network is
derived, and its score is the cross-entropy on the architecture-validation images. That is a function of the supernet
and the path alone: not of the process that computes it, of how many there are, or of what was scored before. So scores
are kept in a file of the run folder as they come, and a resumed search asks for the same ones and finds them there.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from proxyless_arch.apps.memory import image_bytes
from proxyless_arch.apps.scores import cross_entropies
from proxyless_arch.base.errors import InputError
from proxyless_arch.base.runs import MetricsFile, read_whole_lines
from proxyless_arch.base.strict import Node
from proxyless_arch.space.search_space import Path as Choices
from proxyless_nas import distributed
from proxyless_nas.data import Batches, TensorBatch
from proxyless_nas.inference import prepared
from proxyless_nas.network import ProxylessNet
from proxyless_nas.steps import computing_in, evaluate, recalibrate_bn
from search.algorithm.derive import inherit
from search.algorithm.supernet import PathSupernet
from search.run import memory
from search.run.job import Job, mixed

FILE = "scores.jsonl"
RECALIBRATED_ON = 512  # training images; a network that is taken gets the statistics of all that the settings name
SCORED_AT_ONCE = 4  # times as many as in training, where what each layer gives is kept for the gradient
MOST_KEPT = 4 * 2**30
"""Bytes of prepared images that a process keeps at most; where they are more, they are read for each network."""


@dataclass(frozen=True)
class Score:
    """The cross-entropy of one network on the architecture-validation images, in nats; and on every other one of them,
    beginning with the first and with the second, which tells how far it depends on the images."""

    loss: float
    halves: tuple[float, float]


@dataclass(frozen=True)
class ImageLosses:
    """The cross-entropy of each image, in the order of the batches."""

    values: tuple[np.ndarray, ...] = ()

    def plus(self, logits: np.ndarray, labels: np.ndarray) -> ImageLosses:
        return ImageLosses((*self.values, cross_entropies(logits, labels)))

    def score(self) -> Score:
        losses = np.concatenate(self.values)
        first, second = (float(losses[start::2].mean()) for start in (0, 1))
        return Score(float(losses.mean()), (first, second))


@contextlib.contextmanager
def statistics_kept(net: torch.nn.Module) -> Iterator[None]:
    """Within it BN statistics may change; afterwards they and the mode are what they were."""
    buffers = [(buffer, buffer.clone()) for buffer in net.buffers()]
    modes = [(module, module.training) for module in net.modules()]
    try:
        yield
    finally:
        for buffer, before in buffers:
            buffer.copy_(before)
        for module, was in modes:
            module.training = was


def recalibration_images(job: Job) -> int:
    """How many training images the BN statistics of a network that is scored are of."""
    return min(RECALIBRATED_ON, job.config.finish.recalibration_images, len(job.data.train))


def scored_images(job: Job) -> int:
    """How many architecture-validation images a network is scored on."""
    return min(job.config.arch.score_images, len(job.data.valid))


class _Images:
    """The batches of some images, over and over: read once where ``keeps``."""

    def __init__(self, read: Callable[[], Batches], keeps: bool) -> None:
        self._read, self._keeps = read, keeps
        self._kept: list[TensorBatch] = []

    def __iter__(self) -> Iterator[TensorBatch]:
        if self._kept:
            yield from self._kept
            return
        read = []
        for batch in self._read():
            if self._keeps:
                read.append(batch)
            yield batch
        self._kept = read


@dataclass
class Scorer:
    """Scores networks of a trained supernet and keeps what it has scored, in memory and in the run folder.

    With several processes every one has a Scorer, asks for the same networks at the same time, and gets all scores;
    each computes its share of those that are not known, and the first alone writes. ``between``: called after each
    network of every process; it raises where the run is to stop.
    """

    job: Job
    supernet: PathSupernet
    folder: Path
    between: Callable[[int], None] = lambda count: None
    known: dict[Choices, Score] = field(default_factory=dict)

    def __post_init__(self) -> None:
        with distributed.fail_together():
            known, self._end = read_scores(self.folder / FILE) if distributed.is_main() else ({}, 0)
        self.known |= distributed.broadcast_value(known)
        job, size = self.job, self.job.normalized_together
        augment = job.augment if job.config.finish.recalibration == "augmented" else None
        training = mixed(job.data.train, recalibration_images(job), job.config.manual_seed)
        n_images = recalibration_images(job) + scored_images(job)
        needed = n_images * image_bytes(job.space.preprocessing)
        keeps = needed <= (MOST_KEPT if job.memory is None else min(MOST_KEPT, memory.room(job.memory)))

        def of_training() -> Batches:
            return job.eval_batches(training, augment=augment, batch_size=size)

        def of_validation() -> Batches:  # in batches whose size is not free: it has a part in how sums are rounded
            return job.eval_batches(job.data.valid, limit=scored_images(job), batch_size=SCORED_AT_ONCE * size)

        self._training = _Images(of_training, keeps)
        self._validation = _Images(of_validation, keeps)

    def losses(self, paths: Sequence[Choices]) -> list[float]:
        """The loss of each network; NaN for one whose logits are no numbers."""
        new = [path for path in dict.fromkeys(paths) if path not in self.known]
        size = distributed.world_size()
        with contextlib.ExitStack() as files:
            file = None
            if new and distributed.is_main():
                file = files.enter_context(MetricsFile(self.folder, self._end, name=FILE))
            for start in range(0, len(new), size):
                group = new[start : start + size]
                mine = group[distributed.rank()] if distributed.rank() < len(group) else None
                scores = distributed.gathered(self._score(mine) if mine is not None else None)[: len(group)]
                for path, score in zip(group, scores, strict=True):
                    self.known[path] = score
                    if file is not None:
                        file.append(_entry(path, score))
                        self._end = file.offset
                self.between(len(group))
        return [self.known[path].loss for path in paths]

    @torch.no_grad()
    def _score(self, path: Choices) -> Score:
        net, device = self.supernet.network(path), self.job.device
        with statistics_kept(net):
            with computing_in(self.supernet.precision, device):
                recalibrate_bn(net, self._training, device)
            return evaluate(folded(self.supernet, path, net, device), self._validation, device, ImageLosses()).score()


def folded(
    supernet: PathSupernet, path: Choices, net: torch.nn.Module, device: torch.device
) -> Callable[[torch.Tensor], torch.Tensor]:
    """The fast forward pass of ``net``, which is ``path`` by itself with BN statistics made anew, in the supernet's
    precision."""
    if not all(bool(torch.isfinite(weight).all()) for weight in net.parameters()):
        return net.eval()  # whose loss says so; a network by itself has numbers for weights
    by_itself = net if isinstance(net, ProxylessNet) else inherit(supernet, supernet.space, path)
    return prepared(by_itself, device, supernet.precision)


def _entry(path: Choices, score: Score) -> dict[str, Any]:
    """A line of the file; null for what is no number."""

    def number(value: float) -> float | None:
        return value if math.isfinite(value) else None

    return {"path": list(path), "loss": number(score.loss), "halves": list(map(number, score.halves))}


def read_scores(path: Path) -> tuple[dict[Choices, Score], int]:
    """(what a run has scored, the bytes of whole lines of that file). Raises InputError for a line that is none."""
    records, end = read_whole_lines(path)
    return dict(_read_entry(record, number, path) for number, record in enumerate(records, 1)), end


def _read_entry(record: Mapping[str, Any], number: int, source: Path) -> tuple[Choices, Score]:
    """The inverse of _entry. Raises InputError for a line that is none."""

    def loss(node: Node) -> float:
        return math.nan if node.value is None else node.number(0)

    try:
        parts = Node(record).fields(["path", "loss", "halves"])
        path = tuple(choice.integer(0) for choice in parts["path"].elements(1))
        first, second = parts["halves"].elements(2, 2)
        return path, Score(loss(parts["loss"]), (loss(first), loss(second)))
    except InputError as error:
        raise error.under(f"line {number}").from_source(str(source)) from None
