"""A regression from choices to losses, fitted to a few hundred scored networks.

    loss(path) = mean + sum_b f_b(choice_b) + sum_{b<c} f_bc(choice_b, choice_c) + rest

Ridge on one coefficient per choice and, where they pay, per pair of choices, in its dual form: kernel ridge regression,
which is also the mean of a Gaussian process. The kernels count the blocks, and the pairs of blocks, in which two
networks agree, so the number of pairs costs nothing. How strong the penalty is and how much of the prior variance is
given to pairs is chosen by leave-one-out cross-validation, which has a closed form here (Allen's PRESS).

What the choices have in common may be said: ``attributes[b][j]`` are the values of choice ``j`` of block ``b`` (of a
block of MobileNetV2: kernel size, expansion); two choices then agree by their share of equal values.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from hardware.cost import Path

Attributes = Sequence[Sequence[Sequence[Hashable]]]
PENALTIES = np.logspace(-3, 3, 25)  # times the prior variance of the loss
PAIR_SHARES = (0.0, 0.25, 0.5, 0.75)  # of the prior variance
JITTER = 1e-6  # of a draw's variance
MEAN_VARIANCE = 1e4  # prior, over that of the loss: the mean is not penalized


@dataclass(frozen=True)
class Agreement:
    """How much two choices of a block are alike, from 0 to 1: ``blocks[b]`` is symmetric, with ones on its diagonal."""

    blocks: tuple[np.ndarray, ...]

    @classmethod
    def of(cls, sizes: Sequence[int], attributes: Attributes | None = None) -> Agreement:
        """Of blocks with ``sizes`` choices: equal or not; half of it their share of ``attributes``, if any."""
        equal = [np.eye(size) for size in sizes]
        if attributes is None:
            return cls(tuple(equal))
        shared = [
            np.array([[_share(one, other) for other in choices] for one in choices], dtype=float)
            for choices in attributes
        ]
        return cls(tuple((same + alike) / 2 for same, alike in zip(equal, shared, strict=True)))

    def sums(self, some: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(over blocks, over pairs of blocks) mean agreement of ``some`` (n, blocks) with ``others`` (m, blocks)."""
        single = np.zeros((len(some), len(others)))
        squares = np.zeros_like(single)
        for block, alike in enumerate(self.blocks):
            part = alike[np.ix_(some[:, block], others[:, block])]
            single += part
            squares += part * part
        count = len(self.blocks)
        pairs = (single * single - squares) / max(count * (count - 1), 1)
        return single / count, pairs


def _share(one: Sequence[Hashable], other: Sequence[Hashable]) -> float:
    if len(one) != len(other):
        return 0.0
    return sum(mine == theirs for mine, theirs in zip(one, other, strict=True)) / max(len(one), 1)


@dataclass(frozen=True)
class Regression:
    """What was fitted. Losses are standardized inside; everything given out is in the losses' own unit.

    ``held_out``: each network's loss as predicted by the fit to all others.
    """

    agreement: Agreement
    paths: np.ndarray
    losses: np.ndarray
    penalty: float
    pair_share: float
    held_out: np.ndarray

    @cached_property
    def _scale(self) -> tuple[float, float]:
        return float(self.losses.mean()), float(self.losses.std()) or 1.0

    @cached_property
    def _inverse(self) -> np.ndarray:
        noise = self.penalty * np.eye(len(self.paths))
        return np.linalg.inv(self._kernel(self.paths, self.paths) + MEAN_VARIANCE + noise)

    @cached_property
    def _weights(self) -> np.ndarray:
        mean, sd = self._scale
        return self._inverse @ ((self.losses - mean) / sd)

    @cached_property
    def _variance(self) -> float:
        """Of the prior, in standardized losses: what makes the data as likely as can be."""
        mean, sd = self._scale
        return float((self.losses - mean) / sd @ self._weights) / len(self.losses)

    @property
    def rest(self) -> float:
        """Standard deviation of what the choices and their pairs do not explain, noise of the scores included."""
        return self._scale[1] * float(np.sqrt(self.penalty * self._variance))

    def _kernel(self, some: np.ndarray, others: np.ndarray) -> np.ndarray:
        single, pairs = self.agreement.sums(some, others)
        return (1 - self.pair_share) * single + self.pair_share * pairs

    def predict(self, paths: Sequence[Path]) -> tuple[np.ndarray, np.ndarray]:
        """(losses expected, their standard deviations) of ``paths``; of the expected loss, without the rest."""
        mean, sd = self._scale
        asked = np.asarray(paths, dtype=np.int64).reshape(len(paths), -1)
        known = self._kernel(asked, self.paths) + MEAN_VARIANCE
        spread = 1 + MEAN_VARIANCE - np.einsum("ij,jk,ik->i", known, self._inverse, known, optimize=True)
        return mean + sd * (known @ self._weights), sd * np.sqrt(np.maximum(spread, 0) * self._variance)

    def sampled_losses(self, paths: Sequence[Path], rng: np.random.Generator, count: int) -> np.ndarray:
        """``count`` draws (count, paths) of the expected losses from their joint posterior."""
        mean, sd = self._scale
        asked = np.asarray(paths, dtype=np.int64)
        known = self._kernel(asked, self.paths) + MEAN_VARIANCE
        posterior = self._kernel(asked, asked) + MEAN_VARIANCE - known @ self._inverse @ known.T
        draws = rng.standard_normal((count, len(asked))) @ _root(posterior * self._variance).T
        return mean + sd * (known @ self._weights + draws)

    @cached_property
    def coefficients(self) -> list[np.ndarray]:
        """What each choice adds to the loss, (choices,) per block; pairs left out."""
        return self._by_block(self._scale[1] * self._design @ self._weights)

    def of_choices(self, path: Path) -> float:
        """What the choices of ``path`` add to the loss, pairs left out."""
        return float(sum(values[choice] for values, choice in zip(self.coefficients, path, strict=True)))

    def sampled_coefficients(self, rng: np.random.Generator, count: int) -> list[list[np.ndarray]]:
        """``count`` draws of the coefficients from their posterior."""
        sizes = [len(alike) for alike in self.agreement.blocks]
        prior = np.zeros((sum(sizes), sum(sizes)))
        start = 0
        for alike in self.agreement.blocks:
            prior[start : start + len(alike), start : start + len(alike)] = alike
            start += len(alike)
        prior *= (1 - self.pair_share) / len(sizes)
        posterior = prior - self._design @ self._inverse @ self._design.T
        draws = rng.standard_normal((count, len(posterior))) @ _root(posterior * self._variance).T
        return [self._by_block(self._scale[1] * (self._design @ self._weights + draw)) for draw in draws]

    @cached_property
    def _design(self) -> np.ndarray:
        """Prior covariance of (coefficients, losses of the fitted networks)."""
        columns = [alike[:, self.paths[:, block]] for block, alike in enumerate(self.agreement.blocks)]
        return np.concatenate(columns) * ((1 - self.pair_share) / len(columns))

    def _by_block(self, values: np.ndarray) -> list[np.ndarray]:
        ends = np.cumsum([len(alike) for alike in self.agreement.blocks])[:-1]
        return np.split(values, ends)


def _root(covariance: np.ndarray) -> np.ndarray:
    """R with R R^T = ``covariance``, which rounding may have made a little indefinite."""
    symmetric = (covariance + covariance.T) / 2
    try:  # a tenth of the time of what is exact
        return np.linalg.cholesky(symmetric + JITTER * symmetric.diagonal().mean() * np.eye(len(symmetric)))
    except np.linalg.LinAlgError:
        values, vectors = np.linalg.eigh(symmetric)
        return vectors * np.sqrt(np.maximum(values, 0))


def fit(
    agreement: Agreement, paths: Sequence[Path], losses: Sequence[float], pair_shares: Sequence[float] = PAIR_SHARES
) -> Regression:
    """The penalty and share of pairs with the least squared leave-one-out error; the first of equal ones."""
    chosen = np.asarray(paths, dtype=np.int64)
    values = np.asarray(losses, dtype=np.float64)
    standard = (values - values.mean()) / (values.std() or 1.0)
    single, pairs = agreement.sums(chosen, chosen)
    best: tuple[float, float, float, np.ndarray] | None = None
    for share in pair_shares:
        kernel = (1 - share) * single + share * pairs + MEAN_VARIANCE
        eigenvalues, vectors = np.linalg.eigh(kernel)
        turned, squared = vectors.T @ standard, vectors * vectors
        for penalty in PENALTIES:
            shrunk = 1 / (eigenvalues + penalty)
            errors = (vectors @ (shrunk * turned)) / (squared @ shrunk)
            squares = float(errors @ errors)
            if best is None or squares < best[0] * (1 - 1e-9):
                best = squares, float(penalty), share, errors
    assert best is not None
    _, penalty, share, errors = best
    held_out = values - errors * (values.std() or 1.0)
    return Regression(agreement, chosen, values, penalty, share, held_out)


def kendall(some: np.ndarray, others: np.ndarray) -> float:
    """Kendall's tau-b: (concordant - discordant) / all pairs, corrected for ties; 0 where one side is constant."""
    upper = np.triu_indices(len(some), 1)
    one = np.sign(np.subtract.outer(some, some)[upper])
    other = np.sign(np.subtract.outer(others, others)[upper])
    norm = np.sqrt(float(one @ one) * float(other @ other))
    return float(one @ other) / norm if norm else 0.0


def spearman(some: np.ndarray, others: np.ndarray) -> float:
    """Pearson correlation of ranks, equal values sharing theirs; 0 where one side is constant."""
    one, other = _ranks(some), _ranks(others)
    norm = np.sqrt(float(one @ one) * float(other @ other))
    return float(one @ other) / norm if norm else 0.0


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks less their mean."""
    _, index, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[index]
    return ranks - ranks.mean()
