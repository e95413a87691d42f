"""The end of a search by scores: networks of the trained supernet are scored until the chooser has found one.

Every process takes part. What is scored is in the run folder at once, so a run that is stopped or killed goes on with
the network that it was at.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from proxyless_arch.base.timing import Stopwatch
from proxyless_arch.base.units import Unit
from proxyless_arch.space.search_space import Path as Choices
from search.algorithm.derive import log_probabilities
from search.algorithm.predictor import Predictor
from search.run.choosing import (
    BestScored,
    Chooser,
    MostProbable,
    Predicted,
    predictor_of,
    preferences,
    split_half_reliability,
)
from search.run.job import Job
from search.run.loop import Search
from search.run.scoring import Scorer, scored_images

NOT_IN_A_ROUND = (
    "train_loss",
    "train_top1_percent",
    "valid_top1_percent",
    "learning_rate",
    "lambda",
    "temperature",
    "images_per_second",
)
"""Fields of an epoch record that say nothing of networks that are scored."""
RESCORED = 64  # behind which the gradient search was compared (experiments/proof_predictor.json)


def most_scored(job: Job) -> int:
    """How many networks are scored at most before one is chosen; 0 where the most probable one is taken."""
    arch = job.config.arch
    if arch.arch_algo == "random":
        return 0
    if arch.arch_algo != "predictor":
        by_default = RESCORED if job.config.target.derive == "projected" else 0
        return by_default if arch.rescore is None else arch.rescore
    options = predictor_of(job.config, job.candidates).options
    return options.n_random + options.max_rounds * options.n_rescored


def chooser_of(
    job: Job,
    search: Search,
    folder: Path,
    between: Callable[[int], None],
    write: Callable[[dict[str, Any]], None],
) -> Chooser:
    """What finds the network of a search at its end.

    Args:
        folder: of the run, in which scores are kept.
        between: called after each network; it raises where the run is to stop.
        write: is given the record of each of a predictor's rounds.
    """
    rows = log_probabilities(search.alphas)
    if not most_scored(job):
        return MostProbable(rows)
    scorer = Scorer(job, search.supernet, folder, between)

    def reliability(paths: Sequence[Choices]) -> float | None:
        return split_half_reliability([scorer.known[path].halves for path in paths])

    if job.config.arch.arch_algo != "predictor":
        return BestScored(rows, most_scored(job), scorer.losses, reliability, scored_images(job))
    watch = Stopwatch()
    return Predicted(
        predictor_of(job.config, job.candidates),
        scorer.losses,
        lambda predictor: write(round_record(job, search, predictor, watch.lap())),
        reliability,
        scored_images(job),
    )


def round_record(job: Job, search: Search, predictor: Predictor, seconds: float) -> dict[str, Any]:
    """A round of networks just scored, in the schema of log.EpochRecord: its networks in place of those of an epoch.

    ``expected_cost``: the mean cost of the round's networks; ``argmax_cost`` and ``argmax_path``: the best network so
    far, ``valid_loss`` its cross-entropy. ``probabilities``: preferences(), as a softmax.
    """
    last, found, table = predictor.rounds[-1], predictor.result(), job.table
    weights = [_softmax(row) for row in preferences(predictor)]
    losses = [loss for loss in last.losses if math.isfinite(loss)]
    return {
        **dict.fromkeys(NOT_IN_A_ROUND),
        "phase": "predictor",
        "epoch": len(predictor.rounds) - 1,
        "n_epochs": predictor.options.max_rounds + 1,
        "step": search.step,
        "arch_step": found.n_scored,
        "valid_loss": found.loss,
        "mean_valid_loss": float(np.mean(losses)) if losses else None,
        "n_networks": len(last.paths),
        "kendall": found.ranking.kendall,
        "expected_cost": float(np.mean([table.of_path(path) for path in last.paths])) if table is not None else None,
        "argmax_cost": table.of_path(found.path) if table is not None else None,
        "cost_unit": (table.unit if table is not None else Unit.MS).value,
        "target": job.goal,
        "entropy": float(-sum((row * np.log(row)).sum() for row in weights)),
        "probabilities": [[round(float(value), 6) for value in row] for row in weights],
        "argmax_path": list(found.path),
        "seconds": seconds,
    }


def _softmax(row: np.ndarray) -> np.ndarray:
    powers = np.exp(row - row.max())
    return powers / powers.sum()


def choose(job: Job, search: Search, chooser: Chooser) -> None:
    """Let the processes score together what ``chooser`` asks for; it then knows the answer for the target.

    A predictor's preferences become alpha, of which pictures and records are made.
    """
    if isinstance(chooser, MostProbable):
        return
    chooser.choose(job.candidates)
    if isinstance(chooser, Predicted):
        with torch.no_grad():
            for alpha, row in zip(search.alphas, preferences(chooser.predictor), strict=True):
                alpha.copy_(torch.from_numpy(row))
