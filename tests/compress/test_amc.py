"""The agent's walk: the wall, the decisions, and what it learns from."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from compress.ddpg import Agent, AgentSettings, truncated_normal
from compress.pruning.amc import States, Walk, decisions_of
from compress.pruning.choices import price_groups
from hardware.cost import MACS, PARAMS
from hardware.projection import Limit
from proxyless_arch.arch import catalog
from proxyless_arch.space.shrinking import Freedom, groups_of
from tests.compress.specs import SPEC

WIDTHS_ONLY = Freedom(multiple=2, most=5, kernels=False, depth=False)


def walk_of(spec, share, freedom=WIDTHS_ONLY, params=None):
    groups = groups_of(spec, freedom)
    table = price_groups(spec, groups, MACS)
    limits = [Limit(table, table.minimum + share * (table.maximum - table.minimum))]
    if params is not None:
        counted = price_groups(spec, groups, PARAMS)
        limits.append(Limit(counted, counted.minimum + params * (counted.maximum - counted.minimum)))
    return Walk(groups, decisions_of(spec, groups), limits)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.93, 1.0])
def test_no_policy_exceeds_the_budget(share):
    rng = np.random.default_rng(0)
    for trial in range(8):
        walk = walk_of(SPEC, share, params=0.6 if trial % 2 and share > 0.3 else None)
        while not walk.is_over:
            walk.take(float(rng.random()) if trial else 1.0)
        assert all(limit.holds(walk.path) for limit in walk.limits)


def test_a_window_leaves_what_its_upper_end_leaves():
    """A landing asks for plans between 99 and 100 % of a target, which no plan is while it has its smallest widths."""
    plain, windowed = walk_of(SPEC, 0.6), walk_of(SPEC, 0.6)
    (limit,) = plain.limits
    windowed = Walk(windowed.groups, windowed.decisions, [replace(limit, lower=0.99 * limit.upper)])
    while not plain.is_over:
        assert plain.allowed() == windowed.allowed()
        plain.take(0.9)
        windowed.take(0.9)
    assert plain.path == windowed.path and limit.table.of_path(plain.path) > 0.6 * limit.upper


def test_the_released_wall_is_passed_by_rounding():
    """Its defect, on the network of its paper's kind; ours keeps to the same budget."""
    spec, freedom = catalog.load("efficientnet_lite0"), Freedom(kernels=False, depth=False, most=6)
    over = []
    for share in np.linspace(0.2, 0.8, 7):
        walk = walk_of(spec, share, freedom)
        while not walk.is_over:
            walk.take_as_released(1.0, 0.2)
        over.append(walk.limits[0].table.of_path(walk.path) > walk.limits[0].upper)
    assert any(over)


def test_with_room_an_action_is_the_share_rounded_up():
    walk = walk_of(SPEC, 1.0)
    assert walk.decisions[0].options == (2, 4, 6, 8)
    assert walk.take(0.3) == 0.5  # 2.4 of 8 channels
    while not walk.is_over:
        walk.take(1.0)
    assert walk.path[0] == 1


def test_states_are_shares():
    walk = walk_of(SPEC, 0.5)
    states = States(walk.groups, walk.decisions, walk.limits[0].table)
    seen = []
    while not walk.is_over:
        seen.append(states.at(walk))
        walk.take(0.7)
    assert np.shape(seen) == (6, 11)
    assert np.min(seen) >= 0 and np.max(seen) <= 1
    assert seen[0][-1] == 1.0  # no action before the first
    assert seen[-1][9] == 0.0  # nothing behind the last group


def test_the_agent_finds_the_rewarded_action():
    agent = Agent(
        2, 1, AgentSettings(hidden=32, warmup=60, batch=32, actor_lr=1e-3, critic_lr=1e-2, replay=400), seed=0
    )
    state = np.array([0.5, 0.5])
    for _ in range(400):
        action = agent.act(state)
        agent.learn([(state, action)], -((action - 0.3) ** 2))
    with torch.no_grad():
        found = agent.actor(torch.tensor(state, dtype=torch.float32)).item()
    assert found == pytest.approx(0.3, abs=0.15)


def test_the_same_seed_acts_alike():
    one, other = (Agent(2, 1, AgentSettings(hidden=4, warmup=2), seed=7) for _ in range(2))
    for agent in (one, other):
        for _ in range(5):
            agent.learn([(np.zeros(2), agent.act(np.zeros(2)))], 1.0)
    assert one.act(np.ones(2)) == other.act(np.ones(2))
    rng = np.random.default_rng(0)
    assert all(0 <= truncated_normal(rng, 0.9, 0.5) <= 1 for _ in range(50))
