"""What a run records of its choice, where the device makes it choose more than once."""

import numpy as np
import pytest

from hardware.cost import CostTable
from hardware.profile.landing import land
from hardware.profile.profiling import Measured
from hardware.projection import Limit, project, window
from proxyless_arch.base.units import Unit
from search.algorithm.predictor import Predictor, PredictorOptions
from search.reporting.summary import notes_on_images
from search.run.choosing import BestScored, Predicted

TARGET = 6.0
RNG = np.random.default_rng(0)
TABLE = CostTable(0.0, tuple(tuple(map(float, RNG.uniform(0.1, 2, 5))) for _ in range(6)), Unit.MS, "made up")
ROWS = [RNG.normal(size=5) for _ in range(6)]
LIMITS = [Limit(TABLE, TARGET, 0.99 * TARGET)]


def loss_of(path):
    """Of each network its own, whatever its choices."""
    return float(np.random.default_rng(path).uniform(1, 2))


def losses_of(paths):
    return [loss_of(path) for path in paths]


def timed(seed):
    """A device that no table foretells: little lands, and an earlier network may be the nearest."""

    def time_of(path):
        ms = TABLE.of_path(path) * (1 + 0.2 * np.random.default_rng((seed, *path)).uniform(-1, 1))
        return Measured(ms, 0.0, 9, 9, ms, ms, 1.0)

    return time_of


def rescoring():
    return BestScored(ROWS, 16, losses_of)


def predicting():
    return Predicted(Predictor(LIMITS, PredictorOptions(n_random=20, n_rescored=4), 0), losses_of)


@pytest.mark.parametrize(("kind", "chooser"), [("rescored", rescoring), ("predictor", predicting)])
def test_the_record_is_of_the_network_that_was_taken(kind, chooser):
    not_the_last = 0
    for seed in range(12):
        one = chooser()
        landing = land(one.choose, TABLE, TARGET, timed(seed))
        taken, last = landing.best.projection.path, landing.attempts[-1].projection.path
        record = one.record(taken)[kind]
        if record["loss"] is not None:  # a predictor may take one that was not scored
            assert record["loss"] == pytest.approx(loss_of(taken))
            not_the_last += taken != last and one.record(last)[kind]["loss"] != record["loss"]
    assert not_the_last


def test_a_table_that_was_off_asks_for_few_networks_more():
    scored = []

    def counted_losses(paths):
        scored.append(len(paths))
        return losses_of(paths)

    chooser = BestScored(ROWS, 16, counted_losses)
    first = chooser.choose([window(TABLE, TARGET, 0.99)])
    landing = land(chooser.choose, TABLE, TARGET, timed(0))
    assert landing.attempts[0].projection == first
    assert scored[:2] == [16, 16] and set(scored[2:]) == {4} and len(scored) > len(landing.attempts) > 1


@pytest.mark.parametrize(("reliability", "is_chance"), [(None, False), (0.3, False), (0.0, True)])
def test_where_the_images_tell_nothing_the_most_probable_network_is_taken(reliability, is_chance):
    chooser = BestScored(ROWS, 16, losses_of, lambda paths: reliability, n_images=20)
    path = chooser.choose(LIMITS).path
    most_probable = project(ROWS, LIMITS).path
    assert (path == most_probable) == is_chance
    record = chooser.record(path)["rescored"]
    assert (record["reliability"], record["n_images"], record["networks"]) == (reliability, 20, 16)
    assert record["loss"] == pytest.approx(loss_of(path))
    assert (record["loss"] < record["loss_of_most_probable"]) != is_chance
    notes = list(notes_on_images(record))
    if reliability is None:
        assert not notes
    elif is_chance:
        assert "20 images cannot tell these networks apart" in notes[0]
    else:
        assert "109 would" in notes[0]  # Spearman, Brown: 20 x .7 (1 - .3) / (.3 (1 - .7))
