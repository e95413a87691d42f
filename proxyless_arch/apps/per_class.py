"""What a classifier gets right by class: accuracies, what is taken for what, and the most confident mistakes.

Counts are kept, not logits: memory grows with the pairs of classes that occur, not with the images.
"""

from __future__ import annotations

import contextlib
import heapq
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from proxyless_arch.apps.contact_sheet import picture_uri
from proxyless_arch.apps.scores import EvalResult, hits_in_top
from proxyless_arch.base.errors import InputError
from proxyless_arch.base.files import read_json
from proxyless_arch.base.strict import Node
from proxyless_arch.data.datasets import ImageDataset

FORMAT, VERSION = "proxyless-arch/per-class", 1
FILE = "per_class.json"
"""What the record is called in a run folder."""
WORST = 24
"""So many mistakes are kept as images."""
SAMPLES = 12
"""So many images, right or wrong, are kept: spread evenly over the data set, which is sorted by class or mixed."""
UNCLEAR = -1
"""In place of a predicted class, where the logits are not finite."""


class Prediction(NamedTuple):
    """What an image, by its number, was taken for. Probabilities (of that, and of its own class) are in 0..1."""

    probability: float
    image: int
    label: int
    predicted: int
    of_label: float


@dataclass
class ClassScore:
    """Counts over batches of images that are known by their numbers in a data set.

    Args:
        labels: int64, of every image of the data set.
        total: the score of all images so far.
        pairs: how many images of a class were taken for a class, by (class, predicted).
        top5: hits among the five most likely, by class.
        mistakes: a heap of the WORST most confident ones.
        samples: what SAMPLES of the images were taken for, by their numbers.
    """

    labels: np.ndarray
    total: EvalResult = field(default_factory=EvalResult)
    pairs: Counter[tuple[int, int]] = field(default_factory=Counter)
    top5: Counter[int] = field(default_factory=Counter)
    mistakes: list[tuple[float, int, Prediction]] = field(default_factory=list)
    samples: dict[int, Prediction] = field(default_factory=dict)

    @cached_property
    def _sampled(self) -> np.ndarray:
        """The numbers of the images whose predictions are kept."""
        n_images = len(self.labels)
        return (np.arange(min(SAMPLES, n_images)) + 0.5) * n_images // max(min(SAMPLES, n_images), 1)

    def plus(self, logits: np.ndarray, numbers: np.ndarray) -> ClassScore:
        """With one more batch of (N, classes) logits of the images of these (N,) numbers; this one is changed."""
        labels = self.labels[numbers]
        self.total = self.total.plus(logits, labels)
        finite = np.isfinite(logits).all(1)
        predicted = np.where(finite, logits.argmax(1), UNCLEAR)
        self.pairs.update(zip(labels.tolist(), predicted.tolist(), strict=True))
        self.top5.update(labels[hits_in_top(logits, labels, 5)].tolist())
        sampled = np.isin(numbers, self._sampled)
        for row in np.flatnonzero(finite & ((predicted != labels) | sampled)).tolist():
            found = _prediction(logits[row], int(numbers[row]), int(labels[row]), int(predicted[row]))
            if sampled[row]:
                self.samples[found.image] = found
            if found.predicted != found.label:
                self._push((found.probability, -found.image, found))  # of equally confident ones the first image stays
        return self

    def _push(self, entry: tuple[float, int, Prediction]) -> None:
        if len(self.mistakes) < WORST:
            heapq.heappush(self.mistakes, entry)
        else:
            heapq.heappushpop(self.mistakes, entry)

    @classmethod
    def joined(cls, parts: Sequence[ClassScore]) -> ClassScore:
        """The score of all images, from those of shares of them: each image in one."""
        whole = cls(parts[0].labels)
        for part in parts:
            whole.total = whole.total.joined(part.total)
            whole.pairs.update(part.pairs)
            whole.top5.update(part.top5)
            whole.samples.update(part.samples)
            for entry in part.mistakes:
                whole._push(entry)
        return whole

    @property
    def worst(self) -> list[Prediction]:
        """The mistakes kept, the most confident first."""
        return [mistake for *_, mistake in sorted(self.mistakes, reverse=True)]


def _prediction(logits: np.ndarray, image: int, label: int, predicted: int) -> Prediction:
    wide = logits.astype(np.float64)
    shares = np.exp(wide - wide.max())
    shares /= shares.sum()
    return Prediction(float(shares[predicted]), image, label, predicted, float(shares[label]))


def numbered(images: ImageDataset) -> ImageDataset:
    """The same images, each labelled with its own number."""
    return replace(images, labels=np.arange(len(images), dtype=np.int64))


def per_class_record(score: ClassScore, images: ImageDataset, names: Sequence[str]) -> dict[str, Any]:
    """per_class.json: ``classes`` that have images, ``confusions`` [class, predicted, images], ``worst`` mistakes,
    ``samples`` of right and wrong ones.

    Args:
        score: of ``images``.
        images: the data set.
        names: of the network's classes.
    """
    counts: Counter[int] = Counter()
    for (label, _), count in score.pairs.items():
        counts[label] += count
    classes: list[dict[str, Any]] = [
        {
            "class": label,
            "name": names[label],
            "n_images": count,
            "top1_hits": score.pairs[label, label],
            "top5_hits": score.top5[label],
            "top1_percent": round(100 * score.pairs[label, label] / count, 6),
        }
        for label, count in sorted(counts.items())
    ]
    confused = [(label, predicted, count) for (label, predicted), count in score.pairs.items() if label != predicted]
    shares = [entry["top1_percent"] for entry in classes]
    return {
        "format": FORMAT,
        "version": VERSION,
        "class_names": list(names),
        "n_images": score.total.n_images,
        "top1_hits": score.total.top1_hits,
        "mean_class_top1_percent": round(sum(shares) / max(len(shares), 1), 6),
        "classes": classes,
        "confusions": sorted(map(list, confused), key=lambda entry: (-entry[2], entry[0], entry[1])),
        "worst": list(_entries(score.worst, images, names)),
        "samples": list(_entries((found for _, found in sorted(score.samples.items())), images, names)),
    }


def _entries(found: Iterable[Prediction], images: ImageDataset, names: Sequence[str]) -> Iterator[dict[str, Any]]:
    """One for each image that can still be read: a record is not lost because a photo went away meanwhile."""
    for each in found:
        with contextlib.suppress(InputError):
            yield _entry(each, images, names)


def _entry(found: Prediction, images: ImageDataset, names: Sequence[str]) -> dict[str, Any]:
    return {
        "image": images.place(found.image),
        "class": found.label,
        "name": names[found.label],
        "percent": round(100 * found.of_label, 3),
        "predicted": found.predicted,
        "predicted_name": names[found.predicted],
        "predicted_percent": round(100 * found.probability, 3),
        "thumbnail": picture_uri(images.read(found.image, upright=True)),
    }


_CLASS = ("class", "name", "n_images", "top1_hits", "top5_hits", "top1_percent")
_PREDICTION = ("image", "class", "name", "percent", "predicted", "predicted_name", "predicted_percent", "thumbnail")


def read_per_class(path: Path) -> Mapping[str, Any]:
    """A record that ``per_class_record`` made, as it is. Raises InputError at what is not of the right kind in it."""
    value = read_json(path)
    try:
        required = ("class_names", "n_images", "top1_hits", "mean_class_top1_percent", "classes", "confusions", "worst")
        fields = Node(value).fields(("format", "version", *required), ("samples",))
        fields["format"].exactly(FORMAT)
        fields["version"].exactly(VERSION)
        n_classes = len([node.text() for node in fields["class_names"].elements(1)])
        for name in ("n_images", "top1_hits"):
            fields[name].integer(0, 2**40)
        fields["mean_class_top1_percent"].number(0, 100)
        for node in fields["classes"].elements():
            entry = node.fields(_CLASS)
            entry["class"].integer(0, n_classes - 1)
            entry["name"].text()
            total = entry["n_images"].integer(1, 2**40)
            for name in ("top1_hits", "top5_hits"):
                entry[name].integer(0, total)
            entry["top1_percent"].number(0, 100)
        for node in fields["confusions"].elements(0, 2**40):
            label, predicted, count = node.elements(3, 3)
            label.integer(0, n_classes - 1)
            predicted.integer(UNCLEAR, n_classes - 1)
            count.integer(1, 2**40)
        samples = fields["samples"].elements() if "samples" in fields else []
        for node in (*fields["worst"].elements(), *samples):
            entry = node.fields(_PREDICTION)
            for name in ("image", "name", "predicted_name"):
                entry[name].text()
            for name in ("class", "predicted"):
                entry[name].integer(0, n_classes - 1)
            for name in ("percent", "predicted_percent"):
                entry[name].number(0, 100)
            if not entry["thumbnail"].text().startswith("data:image/"):
                raise entry["thumbnail"].fail("a picture as a data: address")
    except InputError as error:
        raise error.from_source(str(path)) from None
    return value
