"""Counting what a classifier gets right: integers per image, divided once."""

from __future__ import annotations

import math
from dataclasses import astuple, dataclass
from typing import Protocol, Self, TypeVar

import numpy as np


def hits_in_top(logits: np.ndarray, labels: np.ndarray, k: int) -> np.ndarray:
    """Which of the (N, classes) ``logits`` rows have their (N,) label among the k largest: (N,) of bool.

    A label's rank counts the classes with a strictly larger logit and, among equal ones, those with a lower index, so
    that ties are decided the same way everywhere. A row with NaN is a miss.
    """
    rows = np.arange(len(labels))
    own = logits[rows, labels][:, None]
    classes = np.arange(logits.shape[1])[None, :]
    ahead = (logits > own) | ((logits == own) & (classes < labels[:, None]))
    return (ahead.sum(1) < k) & np.isfinite(logits).all(1)


def top_k_hits(logits: np.ndarray, labels: np.ndarray, k: int) -> int:
    """How many rows have their label among the k largest: see hits_in_top."""
    return int(hits_in_top(logits, labels, k).sum())


Z = 1.959964  # 95 % of a normal distribution lie within so many standard deviations
FEW_IMAGES = 1000
"""Below so many images one more hit moves the first decimal of a percentage: the second would say nothing."""


def shown_percent(percent: float, n_images: int | None) -> str:
    """A share of ``n_images`` (None: not known) for people, with no more decimals than they carry."""
    few = n_images is None or n_images < FEW_IMAGES
    return f"{percent:.{1 if few else 2}f} %"


def shown_counts(percent: float, n_images: int | None, what: str = "images") -> str:
    """The counts behind a share of right answers: ``351 of 360 test images``. ``what`` was counted."""
    if n_images is None:
        return f"of the {what}, whose number was not recorded"
    return f"{round(percent * n_images / 100):,} of {n_images:,} {what}"


def shown_score(percent: float, n_images: int | None, what: str = "images") -> str:
    """A share of right answers, with its counts: ``97.5 % (351 of 360 test images)``."""
    return f"{shown_percent(percent, n_images)} ({shown_counts(percent, n_images, what)})"


def score_interval(percent: float, n_images: int) -> tuple[float, float]:
    """What share of all such images a network may get right that got ``percent`` of ``n_images``: 95 %, in percent.

    Wilson's interval: the shares p from which what was seen lies Z standard deviations sqrt(p (1 - p) / n) or less.
    """
    share, ratio = percent / 100, Z**2 / n_images
    middle = (share + ratio / 2) / (1 + ratio)
    half = math.sqrt(ratio * share * (1 - share) + ratio**2 / 4) / (1 + ratio)
    return 100 * max(middle - half, 0.0), 100 * min(middle + half, 1.0)


def cross_entropies(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The (N,) cross-entropies in nats of (N, classes) ``logits`` and their (N,) labels, in float64."""
    wide = logits.astype(np.float64)
    peak = wide.max(1)
    log_sum = peak + np.log(np.exp(wide - peak[:, None]).sum(1))
    return log_sum - wide[np.arange(len(labels)), labels]


@dataclass(frozen=True)
class EvalResult:
    """Sums over images; percentages are derived from them."""

    top1_hits: int = 0
    top5_hits: int = 0
    n_images: int = 0
    loss_sum: float = 0.0

    def plus(self, logits: np.ndarray, labels: np.ndarray) -> EvalResult:
        """With one more batch of (N, classes) logits and (N,) labels. The loss is cross-entropy in float64."""
        return EvalResult(
            self.top1_hits + top_k_hits(logits, labels, 1),
            self.top5_hits + top_k_hits(logits, labels, 5),
            self.n_images + len(labels),
            self.loss_sum + float(cross_entropies(logits, labels).sum()),
        )

    def joined(self, other: EvalResult) -> EvalResult:
        """The sums of both."""
        return EvalResult(*(mine + theirs for mine, theirs in zip(astuple(self), astuple(other), strict=True)))

    @property
    def top1_percent(self) -> float:
        return 100 * self.top1_hits / max(self.n_images, 1)

    @property
    def top5_percent(self) -> float:
        return 100 * self.top5_hits / max(self.n_images, 1)

    @property
    def loss(self) -> float:
        """Mean cross-entropy per image, in nats."""
        return self.loss_sum / max(self.n_images, 1)


class Score(Protocol):
    """What grows by batches of (N, classes) logits and the (N,) labels of their images."""

    def plus(self, logits: np.ndarray, labels: np.ndarray) -> Self:
        """With one more batch."""


AnyScore = TypeVar("AnyScore", bound=Score)
