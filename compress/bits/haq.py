"""HAQ: an agent walks through the network and decides the bits of each layer (Wang et al., CVPR 2019).

Per layer first those of its weights, then those of its input, where there is a choice. Whatever it decides, behind the
last layer bits are taken away until the budget is kept: from the last layer to the first one step each, of the input
and then of the weights, again and again. The agent is AMC's (compress/ddpg.py), with the reward .1 x (top-1 - top-1 of
the float network), in points.

Deviation: the reward is top-1 on held-out images; the released linear mode takes that of training images while it
trains an epoch. Nothing is trained in an episode. Deviation: the replay holds the bits that were carried out, and
joined inputs are decided once. ``as_released``: actions in the replay are the raw ones, and the first and the last
layer keep the most bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from compress.bits.choices import BitGroup
from compress.bits.environment import BitEnvironment
from compress.ddpg import Agent, AgentSettings
from compress.methods import Found, Tell
from compress.pruning.amc import scaled
from hardware.cost import Path
from hardware.projection import Limit
from proxyless_arch.arch.bits import Format

WARMUP_SHARE = 20 / 600
"""Of the episodes, in the released code."""
FEWEST_WARMUP = 4
REWARD_SCALE = 0.1
SETTINGS = AgentSettings(replay=128, decay=0.99)


@dataclass(frozen=True)
class BitDecision:
    """The weights (``is_weight``) or the input of a group, and the numbers of bits there are, fewest first."""

    group: int
    is_weight: bool
    bits: tuple[int, ...]


def decisions_of(groups: Sequence[BitGroup], followers: frozenset[int]) -> tuple[BitDecision, ...]:
    """In the order of the paper. ``followers``: groups whose input is decided with an earlier one."""
    found = []
    for number, group in enumerate(groups):
        weights = sorted({format.weight_bits or 32 for format in group.formats})
        inputs = sorted({format.activation_bits or 32 for format in group.formats})
        is_pair = len(group.formats) < len(weights) * len(inputs)  # {float32, W8A8}: one follows the other
        if len(weights) > 1:
            found.append(BitDecision(number, True, tuple(weights)))
        if len(inputs) > 1 and not is_pair and number not in followers:
            found.append(BitDecision(number, False, tuple(inputs)))
    return tuple(found)


class Bits:
    """An episode on its way: the bits of each decision, at first the most."""

    def __init__(self, environment: BitEnvironment, decisions: Sequence[BitDecision]) -> None:
        self.environment, self.decisions = environment, decisions
        self.chosen = [len(decision.bits) - 1 for decision in decisions]

    @property
    def path(self) -> Path:
        """The choices of all groups, joined inputs in one format."""
        groups = self.environment.groups
        wanted = [list(_pair(group.formats[group.whole])) for group in groups]
        for decision, chosen in zip(self.decisions, self.chosen, strict=True):
            wanted[decision.group][0 if decision.is_weight else 1] = decision.bits[chosen]
        return self.environment.settled(
            tuple(_choice(group, weight, input) for group, (weight, input) in zip(groups, wanted, strict=True))
        )

    def reduce(self, limits: Sequence[Limit], pinned: frozenset[int]) -> None:
        """From the last to the first one step less, until all limits are kept or there is nothing to take away."""
        while not all(limit.holds(self.path) for limit in limits):
            before = list(self.chosen)
            for index in reversed(range(len(self.decisions))):
                if self.chosen[index] > 0 and self.decisions[index].group not in pinned:
                    self.chosen[index] -= 1
                    if all(limit.holds(self.path) for limit in limits):
                        return
            if before == self.chosen:
                return


def _pair(format: Format) -> tuple[int, int]:
    return format.weight_bits or 32, format.activation_bits or 32


def _choice(group: BitGroup, weight: int, input: int) -> int:
    """The format of these bits; of {float32, W8A8} that of the weights."""
    pairs = [_pair(format) for format in group.formats]
    if (weight, input) in pairs:
        return pairs.index((weight, input))
    return next(index for index, pair in enumerate(pairs) if pair[0] == weight)


def option_of(action: float, count: int) -> int:
    """round((max - min + 1) a + min - 1/2) of the paper; halves, which it rounds to even and below the fewest, up."""
    return min(count - 1, int(action * count))


def states_of(groups: Sequence[BitGroup], decisions: Sequence[BitDecision]) -> np.ndarray:
    """Depthwise?, in, out, stride, kernel, weights, pixels in, index, which of the two: each column in [0, 1]."""
    rows = []
    for index, decision in enumerate(decisions):
        layer = groups[decision.group].layer
        stride = layer.conv.in_hwc[0] // layer.conv.out_hwc[0]
        pixels = layer.conv.in_hwc[0] * layer.conv.in_hwc[1]
        rows.append(
            (layer.is_depthwise, layer.conv.in_hwc[2], layer.shape[0], stride, layer.conv.kernel_size, layer.n_weights,
             pixels, index, decision.is_weight)
        )  # fmt: skip
    return scaled(np.array(rows, dtype=np.float64))


def haq(
    environment: BitEnvironment,
    limits: Sequence[Limit],
    count: int,
    seed: int,
    tell: Tell,
    whole_top1_percent: float,
    *,
    as_released: bool = False,
) -> list[Found]:
    """``count`` episodes, each of which scores one plan; those that no reduction brings within the limits do not."""
    groups = environment.groups
    decisions = decisions_of(groups, frozenset(match.groups[1] for match in environment.matches))
    pinned = frozenset({0, len(groups) - 1}) if as_released else frozenset()
    settings = replace(SETTINGS, warmup=max(FEWEST_WARMUP, round(WARMUP_SHARE * count)))
    facts = states_of(groups, decisions)
    agent = Agent(facts.shape[1] + 1, len(decisions), settings, seed)
    found = []
    for _ in range(count):
        bits, states, actions, last = Bits(environment, decisions), [], [], 1.0
        for index, decision in enumerate(decisions):
            states.append(np.append(facts[index], last))
            actions.append(agent.act(states[-1]))
            bits.chosen[index] = option_of(actions[-1], len(decision.bits))
            last = bits.chosen[index] / (len(decision.bits) - 1)
        bits.reduce(limits, pinned)
        done = [(each + 0.5) / len(decision.bits) for each, decision in zip(bits.chosen, decisions, strict=True)]
        path = bits.path
        if not all(limit.holds(path) for limit in limits):
            continue
        found.append(Found(path, environment.score(path)))
        reward = REWARD_SCALE * (found[-1].score.top1_percent - whole_top1_percent)
        agent.learn(list(zip(states, actions if as_released else done, strict=True)), reward)
        tell(found[-1])
    return found
