"""Least squares behind channels left out: closed forms against numpy's solver, and what must never be worse."""

import numpy as np
import pytest

from compress.pruning import reconstruct
from compress.pruning.reconstruct import Moments, best_ridge, by_size, error, fit, importance, ridge_of

CHANNELS, OUTPUTS = 9, 4


def features(rows=400, seed=0):
    """Correlated, not centred, with one dead channel."""
    rng = np.random.default_rng(seed)
    found = rng.standard_normal((rows, CHANNELS)) @ rng.standard_normal((CHANNELS, CHANNELS)) + 0.7
    found = np.maximum(found, 0)
    found[:, 4] = 0.0
    return found


def weights(seed=1):
    return np.random.default_rng(seed).standard_normal((CHANNELS, OUTPUTS))


def covariance(rows):
    moments = Moments.zeros(CHANNELS)
    for part in np.array_split(rows, 3):
        moments.add(part)
    return moments.settled(True)


def residual(rows, old, kept, new):
    """As a share, means taken out: from the rows themselves."""
    target = rows @ old - (rows @ old).mean(0)
    got = rows[:, kept] @ new
    return float(((target - (got - got.mean(0))) ** 2).sum() / (target**2).sum())


def test_moments_are_the_covariance():
    rows = features()
    np.testing.assert_allclose(covariance(rows).spread, np.cov(rows.T, bias=True), atol=1e-10)


def test_without_a_ridge_it_is_least_squares():
    rows, old, kept = features(), weights(), np.array([0, 2, 3, 7])
    centred = rows - rows.mean(0)
    expected, *_ = np.linalg.lstsq(centred[:, kept], centred @ old, rcond=None)
    found = fit(covariance(rows), old, kept, 1e-12)
    np.testing.assert_allclose(found.weights, expected, atol=1e-6)
    np.testing.assert_allclose(found.shift, (rows @ old - rows[:, kept] @ found.weights).mean(0), atol=1e-8)


@pytest.mark.parametrize("ridge", [1e-8, 1e-2, 1.0, 1e3])
def test_never_worse_than_leaving_channels_out_alone(ridge):
    rows, old = features(), weights()
    cov = covariance(rows)
    rng = np.random.default_rng(2)
    for _ in range(20):
        kept = np.sort(rng.permutation(CHANNELS)[: rng.integers(1, CHANNELS)])
        new = fit(cov, old, kept, ridge).weights
        own, sliced = (error(cov, cov.spread, old, kept, each) for each in (new, old[kept]))
        assert own <= sliced + 1e-12
        assert own == pytest.approx(residual(rows, old, kept, new), abs=1e-9)


def test_all_channels_give_the_weights_back():
    old = weights()
    found = fit(covariance(features()), old, np.arange(CHANNELS), 0.3)
    assert np.array_equal(found.weights, old)
    assert not found.shift.any()


def test_other_features_are_fitted_to_the_old_output():
    """As behind a smaller kernel: all channels there, none as it was."""
    rows, old = features(), weights()
    others = np.tanh(rows) + 0.1 * features(seed=5)
    moments = Moments.zeros(CHANNELS)
    moments.add(others, rows)
    cov = moments.settled(False)
    kept = np.arange(CHANNELS)
    found = fit(cov, old, kept, 1e-10)
    target = rows @ old
    expected, *_ = np.linalg.lstsq(others - others.mean(0), target - target.mean(0), rcond=None)
    np.testing.assert_allclose(
        (others - others.mean(0)) @ found.weights, (others - others.mean(0)) @ expected, atol=1e-5
    )
    spread = covariance(rows).spread
    assert error(cov, spread, old, kept, found.weights) <= error(cov, spread, old, kept, old)


def test_the_least_important_channel_is_the_one_whose_loss_costs_least():
    rows, old = features(), weights()
    cov, ridge = covariance(rows), 1e-9
    order = importance(cov.spread, old, ridge)
    assert sorted(order) == list(range(CHANNELS))
    assert order[-1] == 4  # the dead one

    def lost(gone, before):
        kept = np.setdiff1d(np.arange(CHANNELS), [*gone, *before])
        return residual(rows, old, kept, fit(cov, old, kept, ridge).weights)

    for count in (1, 2, 3):  # greedy: each step by brute force
        before = list(order[::-1][:count])
        rest = [channel for channel in range(CHANNELS) if channel not in before]
        assert min(rest, key=lambda channel: lost([channel], before)) == order[::-1][count]


@pytest.mark.parametrize("block", [1, 2, CHANNELS - 1, CHANNELS, 64])
def test_channels_go_in_the_same_order_in_blocks_of_any_size(block, monkeypatch):
    """As one after the other, with the whole inverse updated each time."""
    cov, old, ridge = covariance(features()), weights(), 1e-3
    inverse, left, gone = np.linalg.inv(cov.spread + ridge * np.eye(CHANNELS)), list(range(CHANNELS)), []
    rest = old.copy()
    while left:
        worst = min(left, key=lambda channel: np.sum(rest[channel] ** 2) / inverse[channel, channel])
        rest -= np.outer(inverse[:, worst] / inverse[worst, worst], rest[worst])
        inverse -= np.outer(inverse[:, worst], inverse[worst]) / inverse[worst, worst]
        left.remove(worst)
        gone.append(worst)
    monkeypatch.setattr(reconstruct, "BLOCK", block)
    assert importance(cov.spread, old, ridge).tolist() == gone[::-1]


def test_size_is_the_sum_of_absolute_weights():
    old = np.array([[1.0, -1.0], [3.0, 0.0], [0.0, 0.5]])
    assert by_size(old).tolist() == [1, 0, 2]


def test_the_ridge_is_one_of_those_there_are():
    rows = features(rows=30)
    share = best_ridge(covariance(rows[::2]), covariance(rows[1::2]), weights())
    assert ridge_of(covariance(rows).spread, share) > 0
