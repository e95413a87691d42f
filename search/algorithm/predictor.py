"""The search that asks a trained supernet a few hundred times: random networks, a regression, projections.

1. ``n_random`` different networks within the limits are scored: their loss, with inherited weights.
2. A ridge regression finds what each choice adds to the loss (regression.py).
3. Coefficients are projected: as they are, and drawn from their posterior, so that choices about which the scores say
   little vary; the best network within the limits is found as a knapsack (hardware/projection.py). With local moves
   around the best, judged by the regression with its pairs, they make a round of ``n_rescored`` networks; where these
   are too few, random ones that the regression thinks best fill it up.
4. They are scored, the regression is fitted to everything, and so on, until the best gains no more.

No learning rate, no weight of the cost, no schedule. The search is a state machine that asks and is told:

    search = Predictor(limits, PredictorOptions(), seed)
    while paths := search.ask():
        search.tell([loss_of(path) for path in paths])
    result = search.result()

Losses are lower for better networks, and must be of the same images for all. ``tell`` takes the losses of the first
paths asked for, as many as there are by then; ``state_dict`` is JSON, and ``load_state_dict`` goes on from it as if
nothing had happened: whatever is random in a round is a function of (seed, round).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hardware.cost import Path
from hardware.projection import Limit, k_best, project, project_draws
from proxyless_arch.base.errors import InputError
from proxyless_arch.base.strict import Node
from proxyless_arch.data.streams import Stream, numpy_rng
from search.algorithm.random_control import sample_up_to
from search.algorithm.regression import Agreement, Attributes, Regression, fit, kendall, spearman

DIVERGED = "the supernet's training diverged: begin again with a lower --warmup_lr or --init_lr"
FEWEST = 16  # random networks that a fit is trusted with
FLOOR = 2.0  # standard deviations above chance that a cross-validated rank correlation must have
POOL = 512  # networks among which local moves are drawn
KEPT = 8  # of the best networks, those whose neighbours are looked at


@dataclass(frozen=True)
class PredictorOptions:
    """How much is scored: ``n_random`` at first, then rounds of ``n_rescored``, at most ``max_rounds``.

    The search ends after ``patience`` rounds in which the best loss fell by less than ``least_gain`` of the random
    networks' standard deviation. ``projected``: the share of a round that are projections; local moves are the rest.
    """

    n_random: int = 256
    n_rescored: int = 32
    max_rounds: int = 6
    patience: int = 2
    least_gain: float = 0.02
    projected: float = 0.5


@dataclass
class Round:
    """Networks asked for together, and the losses of the first of them, as many as are known."""

    paths: list[Path]
    losses: list[float] = field(default_factory=list)

    @property
    def is_complete(self) -> bool:
        return len(self.losses) == len(self.paths)


@dataclass(frozen=True)
class Ranking:
    """How well the fit to some networks orders others, which it has not seen: rank correlations over ``n`` networks.

    Of the random networks alone, each left out in turn.
    """

    kendall: float
    spearman: float
    n: int

    @property
    def chance(self) -> float:
        """Standard deviation of Kendall's tau where nothing is ordered."""
        return math.sqrt(2 * (2 * self.n + 5) / (9 * self.n * (self.n - 1))) if self.n > 1 else math.inf

    @property
    def ranks(self) -> bool:
        return self.kendall > FLOOR * self.chance


@dataclass(frozen=True)
class Found:
    """The network taken and how far it can be trusted. Losses in the unit of those told.

    ``is_fallback``: the losses order nothing, so ``path`` is the projection of what was fitted and no more.
    ``gain``: how much lower its loss is than the random networks' mean, halfway between the fit and what was measured,
    which chance made low as well; ``gain_low``, ``gain_high``: 95 %, on the same images (not on others).
    ``in_sd``: the gain in standard deviations of the random networks' losses. ``predicted``: its loss by the fit.
    ``n_scored``, ``n_broken``: networks scored, and of them those whose loss was no number.
    """

    path: Path
    loss: float | None
    predicted: float
    random_mean: float
    random_sd: float
    gain: float
    gain_low: float
    gain_high: float
    ranking: Ranking
    penalty: float
    pair_share: float
    n_scored: int
    n_broken: int
    is_fallback: bool

    @property
    def in_sd(self) -> float:
        return self.gain / self.random_sd if self.random_sd else 0.0


class Predictor:
    """Asks for networks within ``limits`` and is told their losses; the first limit is the target's window.

    Raises InputError where fewer than FEWEST networks are within the limits. ``attributes``: see regression.py.
    """

    def __init__(
        self,
        limits: Sequence[Limit],
        options: PredictorOptions | None = None,
        seed: int = 0,
        attributes: Attributes | None = None,
    ) -> None:
        self.limits, self.options, self.seed = tuple(limits), options or PredictorOptions(), seed
        self.agreement = Agreement.of([len(group) for group in limits[0].table.groups], attributes)
        self.rounds = [Round(self._random_networks())]
        self._fits: dict[int, Regression] = {}  # by the number of scores that they are fitted to

    def _random_networks(self) -> list[Path]:
        paths = sample_up_to(self.limits, self.options.n_random, self._rng(0))
        if len(paths) < FEWEST:
            limit = self.limits[0]
            beside = "".join(f" with {other}" for other in self.limits[1:])
            raise InputError(
                f"found {len(paths)} networks that cost {limit}{beside}; a predictor needs {FEWEST} or more to learn "
                "from: set another target or a wider window",
                limit.flag,
            )
        return paths

    def _rng(self, number: int) -> np.random.Generator:
        return numpy_rng(self.seed, Stream.PREDICTOR, number)

    # The dialogue ----------------------------------------------------------------------------------------------------

    def ask(self) -> list[Path]:
        """The networks to be scored now, different from all before; none when the search is over."""
        if self.rounds[-1].is_complete and (paths := self._next_round()):
            self.rounds.append(Round(paths))
        last = self.rounds[-1]
        return last.paths[len(last.losses) :]

    def tell(self, losses: Sequence[float]) -> None:
        """The losses of the first networks that ``ask`` gave. Infinite and NaN ones count as broken networks.

        Raises InputError where more than half of the random networks are broken.
        """
        last = self.rounds[-1]
        if len(losses) > len(last.paths) - len(last.losses):
            raise ValueError(f"expected at most {len(last.paths) - len(last.losses)} losses, got {len(losses)}")
        last.losses += map(float, losses)
        first = self.rounds[0]
        broken = sum(not math.isfinite(loss) for loss in first.losses)
        if first.is_complete and 2 * broken > len(first.losses):
            problem = f"expected finite losses, got {broken} of {len(first.losses)} that are not; {DIVERGED}"
            raise InputError(problem, "losses")

    def state_dict(self) -> dict[str, Any]:
        """All that resuming needs, as JSON; a loss that is no number is None."""
        return {
            "rounds": [
                {
                    "paths": [list(path) for path in each.paths],
                    "losses": [loss if math.isfinite(loss) else None for loss in each.losses],
                }
                for each in self.rounds
            ]
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a ``state_dict``. Raises InputError where it is damaged, or of other limits."""
        node = Node(state, "predictor")
        rounds = [self._read_round(each) for each in node.fields(["rounds"])["rounds"].elements(1)]
        if any(not each.is_complete for each in rounds[:-1]):
            raise InputError("expected complete rounds but for the last", "predictor.rounds")
        if rounds[0].paths != self.rounds[0].paths:
            raise InputError("the random networks are of another seed, target or number", "predictor.rounds[0]")
        self.rounds, self._fits = rounds, {}

    def _read_round(self, node: Node) -> Round:
        parts = node.fields(["paths", "losses"])
        paths = [tuple(choice.integer(0) for choice in path.elements()) for path in parts["paths"].elements(1)]
        for index, path in enumerate(paths):
            if not self._holds(path):
                raise InputError(
                    f"expected a network within the limits, got {list(path)}", f"{node.path}.paths[{index}]"
                )
        losses = [math.nan if loss.value is None else loss.number() for loss in parts["losses"].elements(0, len(paths))]
        return Round(paths, losses)

    # What is known ---------------------------------------------------------------------------------------------------

    def _scored(self, rounds: Sequence[Round]) -> dict[Path, float]:
        """``{path: loss}`` of the networks that are not broken."""
        pairs = ((p, loss) for each in rounds for p, loss in zip(each.paths, each.losses, strict=False))
        return {path: loss for path, loss in pairs if math.isfinite(loss)}

    def _fit(self, rounds: Sequence[Round]) -> Regression:
        n_scores = sum(len(each.losses) for each in rounds)
        if n_scores not in self._fits:
            scored = self._scored(rounds)
            self._fits[n_scores] = fit(self.agreement, list(scored), list(scored.values()))
        return self._fits[n_scores]

    def ranking(self) -> Ranking:
        """Of the random networks, each predicted by the fit to the others; they must have been scored."""
        fitted = self._fit(self.rounds[:1])
        args = fitted.held_out, fitted.losses
        return Ranking(kendall(*args), spearman(*args), len(fitted.losses))

    def foretold(self) -> list[tuple[float, float]]:
        """(foretold by the fit to the others, measured) loss of each random network."""
        fitted = self._fit(self.rounds[:1])
        return list(zip(fitted.held_out.tolist(), fitted.losses.tolist(), strict=True))

    # The next round --------------------------------------------------------------------------------------------------

    def _next_round(self) -> list[Path]:
        number = len(self.rounds)
        if not self.ranking().ranks:
            best = self._fallback()
            return [best] if number == 1 and best not in self.rounds[0].paths else []
        if number > self.options.max_rounds or self._has_settled():
            return []
        known = {path for each in self.rounds for path in each.paths}
        return self._proposals(self._fit(self.rounds), known, self._rng(number))

    def _has_settled(self) -> bool:
        """Whether the last ``patience`` rounds gained next to nothing."""
        if len(self.rounds) <= self.options.patience:
            return False
        random = list(self._scored(self.rounds[:1]).values())
        before = min(self._scored(self.rounds[: -self.options.patience]).values())
        return before - min(self._scored(self.rounds).values()) < self.options.least_gain * float(np.std(random))

    def _projected(self, coefficients: Sequence[np.ndarray]) -> Path:
        return project([-values for values in coefficients], self.limits).path

    def _projected_draws(self, draws: Sequence[Sequence[np.ndarray]]) -> list[Path]:
        """Each draw's best network, exactly or nearly so: chance is in the draws."""
        if len(self.limits) > 1:
            return [self._projected(draw) for draw in draws]
        nearly = project_draws([[-values for values in draw] for draw in draws], self.limits[0])
        return [self._projected(draw) if path is None else path for draw, path in zip(draws, nearly, strict=True)]

    def _fallback(self) -> Path:
        """What is taken where the losses order nothing: the projection of the first fit."""
        return self._projected(self._fit(self.rounds[:1]).coefficients)

    def _proposals(self, fitted: Regression, known: set[Path], rng: np.random.Generator) -> list[Path]:
        """``n_rescored`` networks that are not ``known``: projections first, then local moves, then networks anywhere
        within the limits that the fit thinks best; fewer where no more turn up."""
        count = self.options.n_rescored
        n_projected = round(self.options.projected * count)
        found: dict[Path, None] = {}
        projected = [self._projected(fitted.coefficients)]
        draws = fitted.sampled_coefficients(rng, n_projected - 1)
        projected += self._projected_draws(draws)
        found.update(dict.fromkeys(path for path in projected if path not in known))
        scored = self._scored(self.rounds)
        expected = dict(zip(scored, fitted.predict(list(scored))[0], strict=True))
        starts = [*sorted(expected, key=lambda path: expected[path])[:KEPT], *projected]
        pool = sorted({path for start in starts for path in neighbours(start, self.limits)} - known - set(found))
        found.update(dict.fromkeys(drawn_best(fitted, pool, rng, count - len(found))))
        if len(found) < count:  # few projections in a small round, and next to no neighbour within a narrow window
            anywhere = sample_up_to(self.limits, len(known) + 4 * count, rng)
            others = [path for path in anywhere if path not in known and path not in found]
            found.update(dict.fromkeys(drawn_best(fitted, others, rng, count - len(found))))
        return list(found)

    # The end ---------------------------------------------------------------------------------------------------------

    def result(self) -> Found:
        """The network taken, when ``ask`` has no more; before that, the best so far."""
        fitted, ranking = self._fit(self.rounds), self.ranking()
        scored = self._scored(self.rounds)
        random = np.array(list(self._scored(self.rounds[:1]).values()))
        inside = {path: loss for path, loss in scored.items() if self._holds(path)}
        path = chosen(fitted, inside) if ranking.ranks and inside else self._fallback()
        expected, deviation = (float(values[0]) for values in fitted.predict([path]))
        believed = (expected + scored.get(path, expected)) / 2
        gain, half = float(random.mean()) - believed, 1.96 * math.hypot(deviation, fitted.rest / 2)
        losses = [loss for each in self.rounds for loss in each.losses]
        return Found(
            path=path,
            loss=scored.get(path),
            predicted=expected,
            random_mean=float(random.mean()),
            random_sd=float(random.std(ddof=1)),
            gain=gain,
            gain_low=gain - half,
            gain_high=gain + half,
            ranking=ranking,
            penalty=fitted.penalty,
            pair_share=fitted.pair_share,
            n_scored=len(losses),
            n_broken=len(losses) - len(scored),
            is_fallback=not ranking.ranks,
        )

    def coefficients(self) -> Sequence[np.ndarray]:
        """What each choice adds to the loss, by the fit that the network is taken by."""
        return self._fit(self.rounds if self.ranking().ranks else self.rounds[:1]).coefficients

    def within(self, limits: Sequence[Limit], losses_of: Callable[[list[Path]], Sequence[float]]) -> Found:
        """The network taken within other limits, as when a device's table was off: by one more round, from all scores.

        This search stays as it is.
        """
        other = copy.copy(self)
        other.limits, other.rounds, other._fits = tuple(limits), list(self.rounds), {}
        if self.ranking().ranks:
            known = {path for each in self.rounds for path in each.paths}
            paths = other._proposals(self._fit(self.rounds), known, self._rng(len(self.rounds)))
            other.rounds.append(Round(paths, [float(loss) for loss in losses_of(paths)]))
        return other.result()

    def _holds(self, path: Path) -> bool:
        return all(limit.holds(path) for limit in self.limits)


def chosen(fitted: Regression, scored: Mapping[Path, float]) -> Path:
    """The network of those scored whose loss is lowest by the fit: a low score by chance alone is not taken.

    Of those that the fit cannot tell from it (by one standard deviation) the one with the best choices, pairs left out:
    what is said of a choice comes from far more networks than what is said of a pair, and flatters less.
    """
    paths = list(scored)
    means, deviations = fitted.predict(paths)
    best = int(np.argmin(means))
    near = [path for path, mean in zip(paths, means, strict=True) if mean <= means[best] + deviations[best]]
    return min(near, key=fitted.of_choices)


def drawn_best(fitted: Regression, pool: Sequence[Path], rng: np.random.Generator, count: int) -> list[Path]:
    """``count`` different networks of ``pool``, each the best by a draw of the loss from its posterior."""
    if not pool or count <= 0:
        return []
    means, deviations = fitted.predict(pool)
    kept = np.argsort(means - 2 * deviations, kind="stable")[:POOL]
    few = [pool[index] for index in kept]
    draws = fitted.sampled_losses(few, rng, 4 * count)
    best = dict.fromkeys(few[index] for index in draws.argmin(axis=1))
    best.update(dict.fromkeys(few))  # fewer different ones than asked for: the most promising
    return list(best)[:count]


def neighbours(path: Path, limits: Sequence[Limit]) -> list[Path]:
    """Networks within ``limits`` that differ from ``path`` in one block, or in two."""
    groups = limits[0].table.groups
    moves = [(b, j) for b, group in enumerate(groups) for j in range(len(group)) if j != path[b]]
    blocks, choices = np.array(moves).reshape(-1, 2).T
    one, other = np.triu_indices(len(moves))  # both moves, where they are the same that one alone
    is_pair = (blocks[one] != blocks[other]) | (one == other)
    one, other = one[is_pair], other[is_pair]
    changed = np.tile(np.array(path), (len(one), 1))
    for move in (one, other):
        changed[np.arange(len(one)), blocks[move]] = choices[move]
    for limit in limits:
        cost, slack = limit.table.of_paths(changed), 1e-9 * max(abs(limit.upper), abs(limit.table.maximum))
        changed = changed[(cost <= limit.upper + slack) & (cost >= limit.lower - slack)]
    found = [tuple(choices) for choices in changed.tolist()]
    return [near for near in found if all(limit.holds(near) for limit in limits)]


def rescored(
    log_probs: Sequence[np.ndarray],
    limits: Sequence[Limit],
    count: int,
    losses_of: Callable[[list[Path]], Sequence[float]],
) -> tuple[Path, list[tuple[Path, float]]]:
    """The best by its loss of the ``count`` most probable networks within ``limits``, and all of them with theirs.

    For any algorithm that ends with probabilities: its projection comes first, and is taken where it is no worse.
    Raises InputError where no loss is finite.
    """
    paths = [projection.path for projection in k_best(log_probs, limits, count)]
    losses = [float(loss) for loss in losses_of(paths)]
    best = min(range(len(paths)), key=lambda i: losses[i] if math.isfinite(losses[i]) else math.inf)
    if not math.isfinite(losses[best]):
        raise InputError(f"expected finite losses, got {len(losses)} that are not; {DIVERGED}", "losses")
    return paths[best], list(zip(paths, losses, strict=True))
