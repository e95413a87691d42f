"""Which network a search comes to: the most probable one, the best of some that are scored, or what a predictor finds.

All three answer the same question: the network within these limits. It is asked once for the target and, where a device
is measured, again whenever its table was off.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from hardware.cost import MACS, price_space
from hardware.projection import Limit, Projection, project, projection_of
from proxyless_arch.space.search_space import Path, SearchSpace
from search.algorithm.predictor import Found, Predictor, PredictorOptions, rescored
from search.config import SearchConfig

AGAIN = 4
"""How many times fewer networks are scored for a table that was rescaled."""
Losses = Callable[[Sequence[Path]], Sequence[float]]
Reliability = Callable[[Sequence[Path]], float | None]
"""Of networks' losses, see split_half_reliability; None where it is not known."""


class Chooser(Protocol):
    """What finds a network."""

    def choose(self, limits: Sequence[Limit]) -> Projection:
        """The network within ``limits``. Raises InputError where there is none."""

    def record(self, path: Path) -> dict[str, Any]:
        """How this one of its choices was chosen, as members of result.json."""


@dataclass(frozen=True)
class MostProbable:
    """The most probable network by ``log_probs``, those of each block's choices."""

    log_probs: Sequence[np.ndarray]

    def choose(self, limits: Sequence[Limit]) -> Projection:
        return project(self.log_probs, limits)

    def record(self, path: Path) -> dict[str, Any]:
        return {}


@dataclass
class BestScored:
    """The best by its loss of the ``count`` most probable networks; the most probable one where the images cannot tell
    them apart at all: the least of such losses is chance. Asked for other limits than the ``first``, since a
    device's table was off, it scores AGAIN times fewer.

    ``scored``: by what was chosen, all of them. ``n_images``: that losses are of.
    """

    log_probs: Sequence[np.ndarray]
    count: int
    losses: Losses
    reliability: Reliability = lambda paths: None
    n_images: int | None = None
    first: tuple[Limit, ...] = ()
    scored: dict[Path, list[tuple[Path, float]]] = field(default_factory=dict)

    def choose(self, limits: Sequence[Limit]) -> Projection:
        first = self.first = self.first or tuple(limits)
        count = self.count if tuple(limits) == first else max(1, self.count // AGAIN)
        path, scored = rescored(self.log_probs, limits, count, self.losses)
        reliability = self.reliability([each for each, _ in scored])
        if reliability is not None and reliability <= 0 and math.isfinite(scored[0][1]):
            path = scored[0][0]
        projection = projection_of(self.log_probs, limits, path)
        self.scored[projection.path] = scored
        return projection

    def record(self, path: Path) -> dict[str, Any]:
        scored = self.scored[path]
        most_probable = scored[0][1]
        return {
            "rescored": {
                "networks": len(scored),
                "loss": dict(scored)[path],
                "loss_of_most_probable": most_probable if math.isfinite(most_probable) else None,
                "reliability": self.reliability([each for each, _ in scored]),
                "n_images": self.n_images,
            }
        }


@dataclass
class Predicted:
    """What a predictor finds (search/algorithm/predictor.py): for the limits that it was made for by as many rounds as
    pay, for others by one more round, from all that was scored. ``on_round``: told of each round that is scored.

    ``found``: by what was chosen. ``reliability``: of the networks' losses, see split_half_reliability. ``n_images``:
    that they are of.
    """

    predictor: Predictor
    losses: Losses
    on_round: Callable[[Predictor], Any] = lambda predictor: None
    reliability: Reliability = lambda paths: None
    n_images: int | None = None
    found: dict[Path, Found] = field(default_factory=dict)

    def choose(self, limits: Sequence[Limit]) -> Projection:
        if tuple(limits) == self.predictor.limits:
            while paths := self.predictor.ask():
                self.predictor.tell(self.losses(paths))
                self.on_round(self.predictor)
            found = self.predictor.result()
        else:
            found = self.predictor.within(limits, self.losses)
        projection = projection_of(self.log_probs, limits, found.path)
        self.found[projection.path] = found
        return projection

    @property
    def log_probs(self) -> list[np.ndarray]:
        """Minus what each choice adds to the loss: what is projected."""
        return [-values for values in self.predictor.coefficients()]

    def record(self, path: Path) -> dict[str, Any]:
        found = self.found[path]
        flat = dataclasses.asdict(found)
        ranking = flat.pop("ranking")
        paths = self.predictor.rounds[0].paths
        return {
            "predictor": {
                **{name: value for name, value in flat.items() if name != "path"},
                "gain_in_sd": found.in_sd,
                "kendall": ranking["kendall"],
                "spearman": ranking["spearman"],
                "n_random": ranking["n"],
                "n_images": self.n_images,
                "reliability": self.reliability(paths),
                "foretold": [list(pair) for pair in self.predictor.foretold()],
                "coefficients": [values.tolist() for values in self.predictor.coefficients()],
            }
        }


def preferences(predictor: Predictor) -> list[np.ndarray]:
    """What each choice adds to the loss as log-probabilities that can be seen: minus it, in standard deviations of a
    block's part in the loss of random networks, if all blocks had an equal part."""
    coefficients = predictor.coefficients()
    unit = predictor.result().random_sd / math.sqrt(len(coefficients)) or 1.0
    return [-values / unit for values in coefficients]


def split_half_reliability(halves: Sequence[tuple[float, float]]) -> float | None:
    """How much of the differences between losses is not chance in the choice of images, from 0 to 1: the correlation of
    the losses on two halves of the images, by Spearman and Brown for all of them. None where it is not known."""
    found = np.array([pair for pair in halves if all(map(math.isfinite, pair))])
    if len(found) < 3 or not found.std(0).all():
        return None
    correlation = float(np.corrcoef(found.T)[0, 1])
    return max(0.0, 2 * correlation / (1 + correlation)) if correlation > -1 else 0.0


def predictor_of(config: SearchConfig, limits: Sequence[Limit]) -> Predictor:
    """A predictor that has asked for nothing yet. Raises InputError where too few networks are within the limits."""
    n_rescored = config.arch.rescore or PredictorOptions.n_rescored  # 0 is a recipe's, for gradients
    options = PredictorOptions(n_random=config.arch.score_networks, n_rescored=n_rescored)
    return Predictor(limits, options, config.manual_seed)


def any_cost(space: SearchSpace) -> Limit:
    """What every network of the space keeps to."""
    table = price_space(space, MACS)
    return Limit(table, table.maximum, table.minimum)
