"""The regression from choices to losses, against its textbook forms."""

import itertools

import numpy as np
import pytest
from scipy import stats

from search.algorithm.regression import MEAN_VARIANCE, Agreement, Regression, fit, kendall, spearman

SIZES = (3, 4, 2)


def some_paths(n, seed=0):
    rng = np.random.default_rng(seed)
    every = list(itertools.product(*map(range, SIZES)))
    return [every[index] for index in rng.permutation(len(every))[:n]]


def one_hot(paths):
    return np.array([np.concatenate([np.eye(size)[j] for size, j in zip(SIZES, p, strict=True)]) for p in paths])


def losses_of(paths, seed=1, pairs=0.0, noise=0.0):
    rng = np.random.default_rng(seed)
    single = [rng.standard_normal(size) for size in SIZES]
    both = rng.standard_normal(SIZES[:2])
    noises = noise * rng.standard_normal(len(paths))
    return [
        5 + sum(f[j] for f, j in zip(single, p, strict=True)) + pairs * both[p[:2]] + e
        for p, e in zip(paths, noises, strict=True)
    ]


def test_coefficients_are_those_of_ridge_regression():
    """The dual form against the primal one, with its mean as one more feature that is hardly penalized."""
    paths = some_paths(15)
    losses = np.array(losses_of(paths, noise=0.3))
    fitted = fit(Agreement.of(SIZES), paths, losses, pair_shares=(0.0,))
    features = np.column_stack([one_hot(paths) / np.sqrt(len(SIZES)), np.full(len(paths), np.sqrt(MEAN_VARIANCE))])
    standard = (losses - losses.mean()) / losses.std()
    gram = features.T @ features + fitted.penalty * np.eye(features.shape[1])
    primal = np.linalg.solve(gram, features.T @ standard)[:-1] / np.sqrt(len(SIZES)) * losses.std()
    assert np.concatenate(fitted.coefficients) == pytest.approx(primal, abs=1e-5)


@pytest.mark.parametrize("pairs", [0.0, 2.0])
def test_held_out_losses_are_those_of_fits_without_the_network(pairs):
    paths = some_paths(18)
    losses = np.array(losses_of(paths, pairs=pairs, noise=0.2))
    fitted = fit(Agreement.of(SIZES), paths, losses)
    mean, sd = losses.mean(), losses.std()
    for left_out in range(len(paths)):
        rest = [index for index in range(len(paths)) if index != left_out]
        kernel = fitted._kernel(fitted.paths, fitted.paths) + MEAN_VARIANCE
        inner = kernel[np.ix_(rest, rest)] + fitted.penalty * np.eye(len(rest))
        again = mean + sd * kernel[left_out, rest] @ np.linalg.solve(inner, (losses[rest] - mean) / sd)
        assert fitted.held_out[left_out] == pytest.approx(again, abs=1e-6)


def test_pairs_are_used_where_they_pay():
    paths = some_paths(22)
    assert fit(Agreement.of(SIZES), paths, losses_of(paths, noise=0.1)).pair_share == 0
    assert fit(Agreement.of(SIZES), paths, losses_of(paths, pairs=3.0)).pair_share > 0


def test_an_additive_loss_is_predicted_where_it_was_not_seen():
    paths = some_paths(24)
    losses = losses_of(paths)
    fitted = fit(Agreement.of(SIZES), paths[:16], losses[:16])
    expected, deviations = fitted.predict(paths[16:])
    assert expected == pytest.approx(losses[16:], abs=0.1)
    assert (deviations < 0.5).all()


def test_draws_have_the_mean_and_the_spread_of_the_posterior():
    paths = some_paths(12)
    fitted = fit(Agreement.of(SIZES), paths, losses_of(paths, noise=1.0))
    asked = some_paths(20, seed=3)
    means, deviations = fitted.predict(asked)
    draws = fitted.sampled_losses(asked, np.random.default_rng(0), 4000)
    assert draws.mean(0) == pytest.approx(means, abs=5 * deviations.max() / 60)
    assert draws.std(0) == pytest.approx(deviations, rel=0.1, abs=1e-3)
    rows = [np.concatenate(draw) for draw in fitted.sampled_coefficients(np.random.default_rng(0), 4000)]
    center = np.concatenate(fitted.coefficients)
    assert np.mean(rows, 0) == pytest.approx(center, abs=5 * np.std(rows, 0).max() / 60)


def test_choices_agree_by_their_attributes():
    attributes = [[("k3", "e3"), ("k3", "e6"), ("zero",)]]
    assert Agreement.of([3], attributes).blocks[0].tolist() == [[1, 0.25, 0], [0.25, 1, 0], [0, 0, 1]]


def test_equal_losses_predict_themselves():
    paths = some_paths(16)
    fitted = fit(Agreement.of(SIZES), paths, [2.0] * 16)
    assert isinstance(fitted, Regression)
    assert fitted.held_out == pytest.approx(2.0)
    assert np.concatenate(fitted.coefficients) == pytest.approx(0.0)


def test_rank_correlations():
    rng = np.random.default_rng(0)
    one = rng.integers(0, 20, 50).astype(float)
    other = one + rng.integers(0, 30, 50)
    assert kendall(one, other) == pytest.approx(stats.kendalltau(one, other).statistic)
    assert spearman(one, other) == pytest.approx(stats.spearmanr(one, other).statistic)
    assert kendall(one, np.ones(50)) == spearman(np.ones(50), other) == 0
