"""The algorithms of search/ on a table of trained networks, where a supernet's scores are imitated.

A score is a network's accuracy, plus an error that stays (what a supernet has wrong: in part an error of each choice,
which no number of images averages away), plus the noise of the images it is scored on. All algorithms have the same
number of image forwards. What the gradient algorithm needs, the outputs of all operations, no table has.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from types import MappingProxyType

import numpy as np
import torch

from benchmarks.trained_tables import Oracle
from hardware.cost import Path
from hardware.projection import project
from search.algorithm.controllers import ReinforceController, init_alphas
from search.algorithm.derive import choose_path
from search.algorithm.predictor import Predictor, PredictorOptions, neighbours
from search.algorithm.random_control import sample_up_to
from search.algorithm.regression import Agreement, fit
from search.config import ArchOpt, Target

BATCH = 256  # images
OWN_NOISE, COMMON_NOISE = 2.3, 2.4  # points of accuracy in a batch: of each network, and of all networks alike
FORWARDS = 1_280_000  # images times networks, of every algorithm
MOST_IMAGES = 50_000  # there are to score one network on
SAMPLE = 500  # random networks by which an error is scaled
EVALUATIONS = 448  # of evolution: as many as the predictor's at most


@dataclass(frozen=True)
class Scores:
    """What a supernet would say of the networks of ``oracle``, in points of accuracy; a function of ``seed``.

    ``correlation``: of the scores on very many images with the accuracy, over networks within the limit.
    ``additive``: the share of the error's variance that is a sum over choices.
    """

    oracle: Oracle
    seed: int
    correlation: float = 0.8
    additive: float = 0.5
    forwards: int = FORWARDS

    def rng(self, *place: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, *place])

    def images(self, n_networks: int) -> int:
        """That each of so many networks can be scored on."""
        return min(max(self.forwards // n_networks, 1), MOST_IMAGES)

    @cached_property
    def error_sd(self) -> float:
        return self.oracle.summary.sd * math.sqrt(1 / self.correlation**2 - 1)

    @cached_property
    def error_of_choices(self) -> list[np.ndarray]:
        rng = self.rng(1)
        raw = [rng.standard_normal(size) for size in self.oracle.sizes]
        some = np.array(sample_up_to([self.oracle.limit], SAMPLE, self.rng(2)))
        sums = np.sum([values[some[:, block]] for block, values in enumerate(raw)], axis=0)
        return [values * (math.sqrt(self.additive) * self.error_sd / sums.std()) for values in raw]

    def normal(self, what: int, *, path: Path = (), batch: int = 0) -> float:
        """Standard normal, a function of its arguments and the seed: its place among those that a generator counts."""
        place = 0
        for size, choice in zip(self.oracle.sizes, path, strict=False):
            place = place * size + choice
        counted = np.random.Philox(key=self.seed, counter=[0, place, batch, what])
        return float(np.random.Generator(counted).standard_normal())

    @cached_property
    def _fixed(self) -> dict[Path, float]:
        return {}

    def fixed(self, path: Path) -> float:
        """On endlessly many images."""
        if path not in self._fixed:
            error = sum(float(values[choice]) for values, choice in zip(self.error_of_choices, path, strict=True))
            own = math.sqrt(1 - self.additive) * self.error_sd * self.normal(1, path=path)
            self._fixed[path] = self.oracle.of(path) + error + own
        return self._fixed[path]

    def on(self, path: Path, images: int, batch: int = 0) -> float:
        """On ``images`` of them, the set number ``batch``: the same for the same set."""
        own, common = self.normal(2, path=path, batch=batch), self.normal(3, batch=batch)
        return self.fixed(path) + math.sqrt(BATCH / images) * (OWN_NOISE * own + COMMON_NOISE * common)


def bound(scores: Scores) -> float:
    """The accuracy of the network that is best by accuracy plus the error of choices, which no number of networks and
    images averages away: whoever finds better ones by these scores has luck, or knows more of the space."""
    paths, accuracies = scores.oracle.networks
    error = sum(values[paths[:, block]] for block, values in enumerate(scores.error_of_choices))
    return float(accuracies[np.argmax(accuracies + error)])


Search = Callable[[Scores], Path]


def random_best(scores: Scores, count: int) -> Path:
    """The best score of ``count`` random networks."""
    paths = sample_up_to([scores.oracle.limit], count, scores.rng(6))
    return max(paths, key=lambda path: scores.on(path, scores.images(len(paths))))


def ridge(scores: Scores, count: int = 256) -> Path:
    """The projection of a ridge regression on ``count`` random networks: the predictor without its rounds."""
    paths = sample_up_to([scores.oracle.limit], count, scores.rng(6))
    losses = [-scores.on(path, scores.images(len(paths))) for path in paths]
    fitted = fit(Agreement.of(scores.oracle.sizes), paths, losses, pair_shares=(0.0,))
    return project([-values for values in fitted.coefficients], [scores.oracle.limit]).path


def evolution(scores: Scores, population: int = 64, tournament: int = 16) -> Path:
    """Regularized evolution (Real et al. 2019): the best of a tournament has a child, and the oldest dies.

    A child differs in one block, or in two where the cost asks for it.
    """
    rng, limits = scores.rng(7), [scores.oracle.limit]
    images = scores.images(EVALUATIONS)
    alive = sample_up_to(limits, population, rng)
    known = {path: scores.on(path, images) for path in alive}
    while len(known) < EVALUATIONS:
        some = rng.choice(len(alive), min(tournament, len(alive)), replace=False)
        parent = max((alive[index] for index in some), key=lambda path: known[path])
        near = [path for path in neighbours(parent, limits) if path not in known]
        if not near:
            break
        child = near[int(rng.integers(len(near)))]
        known[child] = scores.on(child, images)
        alive = [*alive[1:], child]
    return max(known, key=lambda path: known[path])


def predictor(scores: Scores, options: PredictorOptions | None = None) -> Path:
    """search/algorithm/predictor.py. Rounds that it does not need are forwards that it does not use."""
    options = options or PredictorOptions()
    limit = scores.oracle.limit
    search = Predictor([limit], options, scores.seed)
    images = scores.images(options.n_random + options.max_rounds * options.n_rescored)
    while paths := search.ask():
        search.tell([-scores.on(path, images) for path in paths])
    return search.result().path


class TableSupernet:
    """What an update of REINFORCE calls: logits with as many hits as the score says. ``step``: whose images."""

    def __init__(self, scores: Scores) -> None:
        self.scores, self.step = scores, 0
        right = torch.ones(BATCH, BATCH + 1).triu(1).T  # [hits, image]: the first ``hits`` images are right
        self.logits = torch.stack([right, 1 - right], dim=2)

    def __call__(self, images: torch.Tensor, path: Path, gates: object) -> torch.Tensor:
        accuracy = self.scores.on(tuple(path), BATCH, 1 + self.step) / 100
        return self.logits[round(min(max(accuracy, 0.0), 1.0) * BATCH)]


def reinforce(scores: Scores, rule: str) -> Path:
    """The real controller with its default settings, by a baseline rule."""
    opt = replace(ArchOpt(), rl_baseline_rule=rule)
    table, limit = scores.oracle.limit.table, scores.oracle.limit
    steps = scores.forwards // (BATCH * opt.rl_batch_size)
    alphas = init_alphas(scores.oracle.sizes, opt.arch_init_ratio, scores.seed)
    controller = ReinforceController(alphas, table, limit.upper, opt, Target(), steps, scores.seed)
    net = TableSupernet(scores)
    images, labels = torch.zeros(BATCH, 1), torch.zeros(BATCH, dtype=torch.int64)
    for net.step in range(steps):
        controller.update(net, images, labels)  # type: ignore[arg-type]
    return choose_path(alphas, table, limit.upper, lower=limit.lower / limit.upper)[0]


SEARCHES: Mapping[str, Search] = MappingProxyType(
    {
        "predictor": predictor,
        "ridge_256": ridge,
        "evolution": evolution,
        "reinforce_others": partial(reinforce, rule="others"),
        "reinforce_past": partial(reinforce, rule="past"),
        "reinforce_release": partial(reinforce, rule="release"),
        "random_256": partial(random_best, count=256),
        "random_20": partial(random_best, count=20),
    }
)
