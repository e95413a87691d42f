"""A search whose best architecture is known by construction finds it, with and without a cost target."""

import itertools

import pytest
import torch

from hardware.cost import CostTable
from proxyless_arch.base.units import Unit
from search.algorithm.controllers import ExpectedCost, GradientController
from search.algorithm.derive import choose_path
from search.config import ArchOpt, Target

pytestmark = pytest.mark.trains

# 4 blocks of 4 operations. Dearer is better with falling returns, and differently so in every block.
COSTS = ((1.0, 2.0, 4.0, 7.0), (0.0, 3.0, 5.0, 8.0), (2.0, 3.0, 6.0, 11.0), (1.0, 4.0, 5.0, 9.0))
UTILITIES = ((0.0, 0.18, 0.3, 0.34), (0.0, 0.2, 0.27, 0.3), (0.04, 0.12, 0.38, 0.42), (0.0, 0.06, 0.28, 0.44))
TABLE = CostTable(fixed=5.0, groups=COSTS, unit=Unit.MS, source="made up")
SLOPES = (0.12, 0.06, 0.034)  # utility per ms
PATHS = list(itertools.product(range(4), repeat=4))
IMAGES, LABELS = torch.zeros(2, 3, 1, 1), torch.zeros(2, dtype=torch.int64)


def utility(path):
    return sum(block[j] for block, j in zip(UTILITIES, path, strict=True))


def toy(images, path, gates):
    """Called as a supernet is: label 0 is the more likely the more useful the operations behind the gates are."""
    total = sum(
        (gate.values * torch.tensor([block[j] for j in gate.candidates], dtype=gate.values.dtype)).sum()
        for gate, block in zip(gates, UTILITIES, strict=True)
    )
    right = (total - 0.8).expand(len(images))
    return torch.stack([right, torch.zeros_like(right)], 1)


def search(mode, steps, goal=None, seed=0, arch_lr=0.1):
    alphas = [torch.zeros(4, dtype=torch.float64, requires_grad=True) for _ in range(4)]
    controller = GradientController(
        alphas,
        TABLE if goal else None,
        goal,
        ArchOpt(grad_binary_mode=mode, arch_lr=arch_lr),
        Target(),
        steps,
        seed,
    )
    for _ in range(steps):
        controller.update(toy, IMAGES, LABELS)
    return controller


def best_at_slope(slope):
    """The path that maximizes utility - slope * cost: what a search at the right multiplier ends in."""
    return tuple(
        max(range(4), key=lambda j, u=u, c=c: u[j] - slope * c[j]) for u, c in zip(UTILITIES, COSTS, strict=True)
    )


@pytest.mark.parametrize(("mode", "steps"), [("full_v2", 150), ("full", 40), ("two", 300)])
def test_without_a_cost_the_most_useful_operations_win(mode, steps):
    controller = search(mode, steps)
    path, projection = choose_path(controller.alphas, None, None)
    assert projection is None
    assert path == max(PATHS, key=utility)
    assert path == (3, 3, 3, 3)


# mode two sees a pair at a time: it takes more and smaller steps to come to rest
@pytest.mark.parametrize(
    ("mode", "steps", "arch_lr", "slope"),
    [
        *(("full_v2", 500, 0.1, slope) for slope in SLOPES),
        *(pytest.param("two", 1000, 0.04, slope, marks=pytest.mark.slow) for slope in SLOPES),
    ],
)
def test_three_targets_are_hit(mode, steps, arch_lr, slope):
    known = best_at_slope(slope)
    goal = TABLE.of_path(known) * 1.004
    in_window = [path for path in PATHS if 0.99 * goal <= TABLE.of_path(path) <= goal]
    ranked = sorted(in_window, key=utility, reverse=True)
    assert ranked[0] == known  # by construction; and it is clear:
    assert len(ranked) == 1 or utility(known) - utility(ranked[1]) > 0.02
    controller = search(mode, steps, goal, arch_lr=arch_lr)
    expected = ExpectedCost(TABLE)(controller.alphas, controller.temperature).item()
    assert expected == pytest.approx(goal, rel=0.02)
    path, projection = choose_path(controller.alphas, TABLE, goal)
    assert 0.99 * goal <= projection.cost <= goal
    assert path == known


def test_the_targets_differ():
    goals = {best_at_slope(slope): TABLE.of_path(best_at_slope(slope)) for slope in SLOPES}
    assert len(goals) == 3
    assert max(goals.values()) > 1.2 * min(goals.values())
    assert TABLE.minimum < min(goals.values()) < max(goals.values()) < TABLE.maximum
