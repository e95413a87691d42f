"""Which channels a layer can do without, and the best weights of the layer behind them, in closed form.

The layer behind (a 1x1 convolution or the classifier) computes Y = F W from features F (rows, channels): rows are
positions of images. With S = cov(F) every kept set K has its least-squares weights, and its error, without a further
pass over the images:

    W_K = argmin ||Y - F_K W||^2 + ridge ||W - W0_K||^2 = (S_KK + ridge I)^-1 (C_K W0 + ridge W0_K)        (1)

with C = cov(F_new, F_old), which is S where the features are the old ones (they are not where a kernel became smaller).
The ridge pulls to the old weights W0: so the error of (1) is never above that of leaving channels out alone, and all
channels kept gives W0 itself. Means are taken out, and go into the BN or the bias behind.

Deviation: AMC (He et al., ECCV 2018, section 3.2) fits on ten random positions of an image, without a ridge and without
an intercept, and chooses channels by the size of their weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

RIDGES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Of the mean variance of a channel; the one that fits the other half of the images best is taken."""

BLOCK = 64
"""Channels that go between two updates of the whole inverse: products of matrices take a tenth of the time of as many
updates by a vector."""


@dataclass
class Moments:
    """Sums over rows: of the features, of their products with themselves and with the old features."""

    n: int
    first: np.ndarray
    old_first: np.ndarray
    second: np.ndarray
    cross: np.ndarray

    @staticmethod
    def zeros(channels: int) -> Moments:
        square = (channels, channels)
        return Moments(0, np.zeros(channels), np.zeros(channels), np.zeros(square), np.zeros(square))

    def add(self, new: np.ndarray, old: np.ndarray | None = None) -> None:
        """Features of some rows, (rows, channels); ``old``: as they were, where these are others."""
        self.n += len(new)
        self.first += new.sum(0, dtype=np.float64)
        self.second += new.T @ new
        if old is not None:
            self.old_first += old.sum(0, dtype=np.float64)
            self.cross += new.T @ old

    def settled(self, is_old: bool) -> Covariance:
        """``is_old``: the features are the old ones."""
        mean = self.first / self.n
        old_mean = mean if is_old else self.old_first / self.n
        spread = self.second / self.n - np.outer(mean, mean)
        cross = spread if is_old else self.cross / self.n - np.outer(mean, old_mean)
        return Covariance(mean, old_mean, spread, cross)


class Covariance(NamedTuple):
    """Means (channels,) and covariances (channels, channels) of the features with themselves and with the old ones."""

    mean: np.ndarray
    old_mean: np.ndarray
    spread: np.ndarray
    cross: np.ndarray


class Fit(NamedTuple):
    """Weights (kept, outputs) of the layer behind; ``shift`` (outputs,): how much lower the mean of its output is."""

    weights: np.ndarray
    shift: np.ndarray


def ridge_of(spread: np.ndarray, share: float) -> float:
    """A share of the mean variance of a channel; never 0, since channels may be dead."""
    return share * max(float(np.trace(spread)) / len(spread), 1e-12)


def fit(cov: Covariance, old: np.ndarray, kept: np.ndarray, ridge: float) -> Fit:
    """Equation (1). ``old``: W0, (channels, outputs), float64."""
    is_whole = len(kept) == len(old) and cov.cross is cov.spread
    if is_whole:
        weights = old[kept]
    else:
        system = cov.spread[np.ix_(kept, kept)] + ridge * np.eye(len(kept))
        weights = np.linalg.solve(system, cov.cross[kept] @ old + ridge * old[kept])
    shift = np.zeros(old.shape[1]) if is_whole else cov.old_mean @ old - cov.mean[kept] @ weights
    return Fit(weights, shift)


def error(cov: Covariance, old_spread: np.ndarray, old: np.ndarray, kept: np.ndarray, weights: np.ndarray) -> float:
    """||Y - F_K W||^2 as a share of ||Y||^2, means taken out. ``old_spread``: the covariance of the old features."""
    whole = float(np.sum(old * (old_spread @ old)))
    explained = 2 * np.sum(weights * (cov.cross[kept] @ old))
    own = np.sum(weights * (cov.spread[np.ix_(kept, kept)] @ weights))
    return max(0.0, float(whole - explained + own)) / max(whole, 1e-30)


def importance(spread: np.ndarray, old: np.ndarray, ridge: float) -> np.ndarray:
    """The channels, the most important first: the one whose loss raises the error of (1) least goes, again and again.

    Removing channel j raises the error by ||W_j||^2 / [H^-1]_jj with H = S + ridge I, and changes the others' weights
    by what is known in closed form (Hassibi and Stork 1993, optimal brain surgeon).
    """
    inverse = np.linalg.inv(spread + ridge * np.eye(len(spread)))
    weights, names = old.copy(), np.arange(len(old))
    gone: list[np.ndarray] = []
    while len(names):
        order, updates = _least(inverse, weights, min(BLOCK, len(names)))
        gone.append(names[order])
        left = np.setdiff1d(np.arange(len(names)), order)
        rows = updates[left]
        inverse = inverse[np.ix_(left, left)] - rows @ rows.T
        weights, names = weights[left], names[left]
    return np.concatenate(gone)[::-1]


def _least(inverse: np.ndarray, weights: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """(the ``count`` channels that go next, in order; U (channels, count): the inverse behind them is H^-1 - U U').

    ``weights`` become those behind them, in place.
    """
    diagonal, left = np.diag(inverse).copy(), np.ones(len(inverse), dtype=bool)
    order, updates = np.zeros(count, dtype=int), np.zeros((len(inverse), count))
    for step in range(count):
        costs = np.einsum("ij,ij->i", weights, weights) / np.maximum(diagonal, 1e-30)
        worst = int(np.argmin(np.where(left, costs, np.inf)))
        column = inverse[:, worst] - updates[:, :step] @ updates[worst, :step]
        column[~left] = 0.0
        own = max(float(column[worst]), 1e-30)
        weights -= np.outer(column / own, weights[worst])
        updates[:, step] = column / np.sqrt(own)
        diagonal -= updates[:, step] ** 2
        order[step], left[worst] = worst, False
    return order, updates


def by_size(old: np.ndarray) -> np.ndarray:
    """The channels by the sum of their absolute weights, as AMC chooses them; the largest first."""
    return np.argsort(-np.abs(old).sum(1), kind="stable")


def best_ridge(half: Covariance, other: Covariance, old: np.ndarray) -> float:
    """The share of RIDGES that, fitted on one half of the images with half of the channels, errs least on the other."""
    kept = np.sort(by_size(old)[: max(1, len(old) // 2)])

    def off(share: float) -> float:
        weights = fit(half, old, kept, ridge_of(half.spread, share)).weights
        return error(other, other.spread, old, kept, weights)

    return min(RIDGES, key=off)
