"""AMC: an agent walks through the network and decides how much of each layer's input stays (He et al., ECCV 2018).

An episode decides one width after the other. The action wall keeps the budget: a width is at most so large that all
later ones could still be the smallest. At the end the network is scored, and the agent learns from that alone.

Deviation: widths are those of an ArchSpec (stem, hidden layers, last stage, feature mix), not all inputs of all layers.
Deviation: the wall knows the widths there are, so no plan is above the budget; the released one rounds up behind it.
Deviation: the replay holds the actions that were carried out. Deviation: the reward is top-1, on held-out images, with
BN recalibrated; the released code takes top-5 of training images. ``as_released`` takes the first three of the defects
back: raw actions in the replay, a wall in front of the rounding, channels by the size of their weights.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from compress.ddpg import Agent, AgentSettings
from compress.methods import Found, Tell
from compress.pruning.environment import Environment
from compress.scoring import Score
from hardware.cost import CostTable, Path
from hardware.projection import Limit
from proxyless_arch.arch.spec import ArchSpec
from proxyless_arch.arch.walk import LayerCall, walk
from proxyless_arch.space.shrinking import Group

WARMUP_SHARE = 0.25
"""Of the episodes: 100 of 400 in the paper."""


@dataclass(frozen=True)
class Decision:
    """A width to decide: the ``axis`` of the ``group``, and what the agent is told of its layer."""

    group: int
    axis: int
    options: tuple[int, ...]
    facts: tuple[float, ...]


def decisions_of(spec: ArchSpec, groups: Sequence[Group]) -> tuple[Decision, ...]:
    """Every width, in network order. Facts: n, c, h, w, stride, k of the layer that takes the channels in (of a block:
    of its depthwise convolution where the 1x1 behind it has none)."""
    calls = {call.name: call for call in walk(spec)}
    found = []
    for number, group in enumerate(groups):
        for place, axis in enumerate(group.axes):
            if axis.kind == "width":
                facts = _facts(axis.name, calls, group)
                found.append(Decision(number, place, axis.options, (facts[0], axis.options[-1], *facts[1:])))
    return tuple(found)


def _facts(name: str, calls: dict[str, LayerCall], group: Group) -> tuple[float, ...]:
    taker = {"first_conv": "blocks.0", "last_stage": "feature_mix_layer", "feature_mix_layer": "classifier"}
    call = calls[taker.get(name, name)]
    kernel = call.op.shrinkable.kernel_size if call.op.shrinkable is not None else 1
    return (call.op.out_channels, *call.in_hwc[:2], call.op.stride, kernel)


class Walk:
    """An episode on its way: what is decided so far, and what may still be. A wall is at the upper ends of ``limits``
    alone: what is decided costs least with all that follows at its smallest."""

    def __init__(self, groups: Sequence[Group], decisions: Sequence[Decision], limits: Sequence[Limit]) -> None:
        self.groups, self.decisions = groups, decisions
        self.limits = [replace(limit, lower=-math.inf) for limit in limits]
        self.chosen = [[len(axis.options) - 1 for axis in group.axes] for group in groups]
        for decision in decisions:
            self.chosen[decision.group][decision.axis] = 0
        self.step = 0
        self.last_action = 1.0

    @property
    def is_over(self) -> bool:
        return self.step == len(self.decisions)

    @property
    def path(self) -> Path:
        return tuple(group.index(options) for group, options in zip(self.groups, self.chosen, strict=True))

    def path_with(self, option: int) -> Path:
        """The path so far, the next width at ``option`` and later ones the smallest."""
        decision = self.decisions[self.step]
        before = self.chosen[decision.group][decision.axis]
        self.chosen[decision.group][decision.axis] = option
        path = self.path
        self.chosen[decision.group][decision.axis] = before
        return path

    def allowed(self) -> list[int]:
        """The options of the next width that keep to all limits; the smallest where none does."""
        count = len(self.decisions[self.step].options)
        found = [option for option in range(count) if all(limit.holds(self.path_with(option)) for limit in self.limits)]
        return found or [0]

    def wanted(self, action: float) -> int:
        """The option that an action asks for: its share of the width, rounded up to an option."""
        options = self.decisions[self.step].options
        return next(place for place, width in enumerate(options) if width >= action * options[-1] - 1e-9)

    def take(self, action: float) -> float:
        """Decide the next width, within the wall; the action that was carried out."""
        wanted = self.wanted(action)
        allowed = self.allowed()
        return self._set(max((option for option in allowed if option <= wanted), default=allowed[0]))

    def take_as_released(self, action: float, lower: float) -> float:
        """As the released code: the wall before the rounding, so that the plan may cost a little too much."""
        options, limit = self.decisions[self.step].options, self.limits[0]
        costs = [limit.table.of_path(self.path_with(option)) for option in range(len(options))]
        if costs[-1] > limit.upper:
            most = float(np.interp(limit.upper, costs, np.array(options) / options[-1]))
            action = max(min(action, most), lower)
        return self._set(self.wanted(action))

    def _set(self, option: int) -> float:
        decision = self.decisions[self.step]
        self.chosen[decision.group][decision.axis] = option
        self.step += 1
        self.last_action = decision.options[option] / decision.options[-1]
        return self.last_action


class States:
    """What the agent sees before each decision, in [0, 1]: t, n, c, h, w, stride, k, cost, reduced, rest, last."""

    def __init__(self, groups: Sequence[Group], decisions: Sequence[Decision], table: CostTable) -> None:
        self.table = table
        self.whole = table.of_path(tuple(group.whole for group in groups))
        costs = [table.groups[decision.group][groups[decision.group].whole] for decision in decisions]
        last = {decision.group: index for index, decision in enumerate(decisions)}
        self.rest = [
            math.fsum(table.groups[group][groups[group].whole] for group, final in last.items() if final > index)
            for index in range(len(decisions))
        ]
        columns = [
            (index, *decision.facts, cost) for index, (decision, cost) in enumerate(zip(decisions, costs, strict=True))
        ]
        self.fixed = scaled(np.array(columns, dtype=np.float64))

    def at(self, walk: Walk) -> np.ndarray:
        reduced = 1 - self.table.of_path(walk.path) / self.whole
        rest = self.rest[walk.step] / self.whole
        return np.array([*self.fixed[walk.step], reduced, rest, walk.last_action])


def scaled(values: np.ndarray) -> np.ndarray:
    """Each column to [0, 1]; a constant one is left 0."""
    low, high = values.min(0), values.max(0)
    return (values - low) / np.where(high > low, high - low, 1.0)


def reward_of(name: str, score: Score, tables: Mapping[str, CostTable], path: Path) -> float:
    """accuracy: top-1 as a share; macs, params: -error x log(cost), where accuracy is to be kept and nothing asked."""
    top1 = score.hits / score.n_images
    if name == "accuracy":
        return top1
    return -(1 - top1) * math.log(tables[name].of_path(path))


def amc(
    environment: Environment,
    spec: ArchSpec,
    limits: Sequence[Limit],
    count: int,
    seed: int,
    tell: Tell,
    *,
    reward: str = "accuracy",
    tables: Mapping[str, CostTable] | None = None,
    as_released: bool = False,
    lower: float = 0.2,
    settings: AgentSettings | None = None,
) -> list[Found]:
    """``count`` episodes, of which a quarter are random; each scores one plan."""
    groups, decisions = environment.groups, decisions_of(spec, environment.groups)
    settings = settings or replace(AgentSettings(), warmup=max(1, round(WARMUP_SHARE * count)))
    states = States(groups, decisions, limits[0].table)
    agent = Agent(states.fixed.shape[1] + 3, len(decisions), settings, seed)
    found = []
    for _ in range(count):
        walk_now, steps = Walk(groups, decisions, limits), []
        while not walk_now.is_over:
            state = states.at(walk_now)
            raw = agent.act(state)
            done = walk_now.take_as_released(raw, lower) if as_released else walk_now.take(raw)
            steps.append((state, raw if as_released else done))
        path = walk_now.path
        found.append(Found(path, environment.score(path)))
        agent.learn(steps, reward_of(reward, found[-1].score, tables or {}, path))
        tell(found[-1])
    return found
