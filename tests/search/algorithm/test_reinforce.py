"""REINFORCE: the estimate against enumeration, the rewards, the freeze and the baseline."""

import itertools

import pytest
import torch

from hardware.cost import CostTable
from proxyless_arch.base.units import Unit
from search.algorithm import objective
from search.algorithm.controllers import (
    ReinforceController,
    log_probability,
    reinforce_gradient,
    rewards_of_others,
    step_rng,
)
from search.algorithm.gates import sample_paths
from search.config import ArchOpt, Target

TABLE = CostTable(1.0, ((0.0, 1.0, 3.0), (0.5, 2.0)), Unit.MS, "made up")
ALPHAS = ((0.3, -0.2, 0.5), (0.1, -0.4))


def leaves() -> list[torch.Tensor]:
    return [torch.tensor(values, dtype=torch.float64, requires_grad=True) for values in ALPHAS]


def reward_of(path) -> float:
    return 0.2 + 0.3 * path[0] - 0.15 * path[1] * path[0] + 0.1 * path[1]


@pytest.mark.parametrize("baselines_of", [lambda rewards: [0.37] * len(rewards), rewards_of_others])
def test_estimate_is_unbiased(baselines_of):
    alphas = leaves()
    paths = list(itertools.product(range(3), range(2)))
    expected_reward = (log_probability(alphas, paths).exp() * torch.tensor([reward_of(p) for p in paths])).sum()
    exact = torch.cat(torch.autograd.grad(-expected_reward, alphas))
    rng = step_rng(3, 1, 0)
    estimates = []
    for _ in range(1000):
        drawn = sample_paths(alphas, rng, 4)
        rewards = [reward_of(p) for p in drawn]
        parts = reinforce_gradient(alphas, drawn, rewards, baselines_of(rewards))
        estimates.append(torch.cat(parts))
    stacked = torch.stack(estimates)
    error = stacked.std(0) / len(stacked) ** 0.5
    assert bool(((stacked.mean(0) - exact).abs() < 4 * error).all())
    # and the interval is narrow enough for a wrong sign or a wrong baseline term to show
    assert bool((error < 0.2 * exact.abs().max()).all())


def test_what_images_do_to_all_rewards_cancels_in_the_baseline_of_the_others():
    alphas, drawn = leaves(), [(0, 0), (1, 1), (2, 0), (2, 1)]
    rewards = [reward_of(p) for p in drawn]
    for shift in (0.0, 5.0):
        shifted = [reward + shift for reward in rewards]
        got = reinforce_gradient(alphas, drawn, shifted, rewards_of_others(shifted))
        # by hand: the mean of m / (m - 1) times (R_m - mean R) grad log p
        spread = [4 / 3 * (reward - sum(rewards) / 4) for reward in rewards]
        expected = reinforce_gradient(alphas, drawn, spread, [0.0] * 4)
        for one, other in zip(got, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


def test_rewards_by_hand():
    assert objective.paper_reward(0.6, 120.0, 80.0, 0.1) == pytest.approx(0.6 * (80 / 120) ** 0.1)
    assert objective.absolute_reward(0.6, 100.0, 80.0, 0.3) == pytest.approx(0.6 - 0.3 * 0.25)
    assert objective.absolute_reward(0.6, 60.0, 80.0, 0.3) == objective.absolute_reward(0.6, 100.0, 80.0, 0.3)


class FakeSupernet:
    """Always answers class 0 for even choices of the first block, so accuracy is known."""

    def __call__(self, images, path, gates=None):
        logits = torch.zeros(len(images), 2)
        logits[:, path[0] % 2] = 5.0
        return logits


def controller(total_steps=40, goal=4.0, **settings) -> ReinforceController:
    alphas = [torch.zeros(n, requires_grad=True) for n in (3, 2)]
    opt = ArchOpt(**{"arch_algo": "rl", "arch_lr": 0.2, "rl_batch_size": 16, **settings})
    return ReinforceController(alphas, TABLE, goal, opt, Target(), total_steps, seed=0)


def test_alpha_rests_for_the_first_quarter_and_the_baseline_follows_rewards():
    control = controller()
    images, labels = torch.zeros(4, 3, 2, 2), torch.zeros(4, dtype=torch.long)
    for _ in range(10):
        control.update(FakeSupernet(), images, labels)
    assert all(bool((alpha == 0).all()) for alpha in control.alphas)
    control.update(FakeSupernet(), images, labels)
    assert any(bool((alpha != 0).any()) for alpha in control.alphas)


def test_baseline_is_the_exponential_mean_of_the_mean_rewards():
    control = controller(rl_freeze=1.0)
    images, labels = torch.zeros(4, 3, 2, 2), torch.zeros(4, dtype=torch.long)
    expected = None
    for step in range(5):
        rng = step_rng(0, 1, step)
        drawn = sample_paths(control.alphas, rng, 16)
        mean = sum(control.reward(float(p[0] % 2 == 0), p) for p in drawn) / 16
        expected = mean if expected is None else 0.95 * expected + 0.05 * mean
        control.update(FakeSupernet(), images, labels)
        assert control.baseline == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("rule", ["others", "past", "release"])
def test_which_baseline_an_update_subtracts(rule):
    """The release moves its baseline by 0.99 of the way to the mean reward first; ``past`` is of the updates before."""
    control = controller(rl_freeze=0.0, rl_baseline_momentum=0.01, rl_baseline_rule=rule)
    applied = []
    control.apply = applied.append  # alpha stays: every update draws from the same probabilities
    baseline = None
    for step in range(4):
        rng = step_rng(0, 1, step)
        drawn = sample_paths(control.alphas, rng, 16)
        rewards = [control.reward(float(p[0] % 2 == 0), p) for p in drawn]
        mean = sum(rewards) / 16
        before = mean if baseline is None else baseline
        baseline = mean if baseline is None else baseline + 0.99 * (mean - baseline)
        used = {
            "others": [(sum(rewards) - reward) / 15 for reward in rewards],
            "past": [before] * 16,
            "release": [baseline] * 16,
        }[rule]
        control.update(FakeSupernet(), torch.zeros(4, 3, 2, 2), torch.zeros(4, dtype=torch.long))
        expected = reinforce_gradient(control.alphas, drawn, rewards, used)
        for got, wanted in zip(applied[-1], expected, strict=True):
            torch.testing.assert_close(got, wanted, rtol=1e-6, atol=1e-9)
        assert control.baseline == pytest.approx(baseline, rel=1e-12)


@pytest.mark.trains
def test_it_learns_the_best_path():
    control = controller(total_steps=400, goal=4.5, rl_absolute_weight=1.0, arch_lr=0.05)
    images, labels = torch.zeros(4, 3, 2, 2), torch.zeros(4, dtype=torch.long)
    for _ in range(400):
        control.update(FakeSupernet(), images, labels)
    # accuracy 1 needs choice 0 or 2 of the first block, cost 4.5 then needs choices (2, 0): reward 1, next best 0.67
    assert [int(alpha.argmax()) for alpha in control.alphas] == [2, 0]


def test_state_round_trip():
    control, images, labels = controller(), torch.zeros(4, 3, 2, 2), torch.zeros(4, dtype=torch.long)
    for _ in range(15):
        control.update(FakeSupernet(), images, labels)
    other = controller()
    other.load_state_dict(control.state_dict())
    for _ in range(5):
        control.update(FakeSupernet(), images, labels)
        other.update(FakeSupernet(), images, labels)
    assert all(torch.equal(a, b) for a, b in zip(control.alphas, other.alphas, strict=True))
    assert control.baseline == other.baseline
