"""The agent of AMC (He et al., ECCV 2018, section 3.1): deep deterministic policy gradients, one action per layer.

Networks, learning rates, replay and exploration are those of the released code (METHODS: lib/agent.py); targets are
r - b + Q'(s', mu'(s')) with discount 1 and the final reward for every step, as there.
"""

from __future__ import annotations

import copy
from collections import deque
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from proxyless_arch.data.streams import Stream, TorchStream, numpy_rng, torch_seed


@dataclass(frozen=True, kw_only=True)
class AgentSettings:
    """As published. ``warmup``: episodes of random actions; ``replay``: transitions kept, per decision."""

    hidden: int = 300
    actor_lr: float = 1e-4
    critic_lr: float = 1e-3
    tau: float = 0.01
    batch: int = 64
    replay: int = 100
    warmup: int = 100
    sigma: float = 0.5
    decay: float = 0.95
    baseline: float = 0.5


class Actor(nn.Module):
    """A state to an action in [0, 1]."""

    def __init__(self, states: int, hidden: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(states, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, 1)
        )

    def forward(self, state: Tensor) -> Tensor:
        return torch.sigmoid(self.layers(state))


class Critic(nn.Module):
    """A state and an action to a value."""

    def __init__(self, states: int, hidden: int) -> None:
        super().__init__()
        self.of_state, self.of_action = nn.Linear(states, hidden), nn.Linear(1, hidden)
        self.hidden, self.out = nn.Linear(hidden, hidden), nn.Linear(hidden, 1)

    def forward(self, state: Tensor, action: Tensor) -> Tensor:
        return self.out(F.relu(self.hidden(F.relu(self.of_state(state) + self.of_action(action)))))


class Agent:
    """Chooses actions, and learns from whole episodes. Everything random comes from ``seed``."""

    def __init__(self, states: int, decisions: int, settings: AgentSettings, seed: int) -> None:
        self.settings = settings
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(torch_seed(seed, TorchStream.AGENT_WEIGHTS))
            self.actor, self.critic = Actor(states, settings.hidden), Critic(states, settings.hidden)
        self.late_actor, self.late_critic = copy.deepcopy(self.actor), copy.deepcopy(self.critic)
        self.actor_steps = torch.optim.Adam(self.actor.parameters(), lr=settings.actor_lr)
        self.critic_steps = torch.optim.Adam(self.critic.parameters(), lr=settings.critic_lr)
        self.memory: deque[tuple[np.ndarray, float, float, np.ndarray | None]] = deque(
            maxlen=settings.replay * decisions
        )
        self.rng = numpy_rng(seed, Stream.AGENT)
        self.episodes = 0
        self.mean_reward: float | None = None

    def act(self, state: np.ndarray) -> float:
        """Uniform in the warm-up; then around the actor's choice, by a normal distribution cut to [0, 1]."""
        if self.episodes < self.settings.warmup:
            return float(self.rng.uniform())
        with torch.no_grad():
            middle = self.actor(torch.as_tensor(state, dtype=torch.float32)).item()
        sigma = self.settings.sigma * self.settings.decay ** (self.episodes - self.settings.warmup)
        return truncated_normal(self.rng, middle, sigma)

    def learn(self, steps: list[tuple[np.ndarray, float]], reward: float) -> None:
        """From the (state, action) of an episode, which ended with ``reward``; one update per step behind warm-up."""
        followers = [*(state for state, _ in steps[1:]), None]
        for (state, action), follower in zip(steps, followers, strict=True):
            self.memory.append((state, action, reward, follower))
        if self.episodes >= self.settings.warmup:
            for _ in steps:
                self._update()
        self.episodes += 1

    def _update(self) -> None:
        picked = self.rng.choice(len(self.memory), size=min(self.settings.batch, len(self.memory)), replace=False)
        rows = [self.memory[int(index)] for index in picked]
        states = torch.tensor(np.stack([state for state, *_ in rows]), dtype=torch.float32)
        actions = torch.tensor([[action] for _, action, *_ in rows], dtype=torch.float32)
        rewards = np.array([reward for _, _, reward, _ in rows])
        share = self.settings.baseline
        mean = float(rewards.mean())
        self.mean_reward = mean if self.mean_reward is None else share * self.mean_reward + (1 - share) * mean
        nexts = torch.tensor(
            np.stack([row[3] if row[3] is not None else np.zeros_like(row[0]) for row in rows]), dtype=torch.float32
        )
        goes_on = torch.tensor([[float(row[3] is not None)] for row in rows])
        with torch.no_grad():
            later = self.late_critic(nexts, self.late_actor(nexts))
            gained = torch.tensor(rewards - self.mean_reward, dtype=torch.float32).unsqueeze(1)
            target = gained + goes_on * later
        self._step(self.critic_steps, F.mse_loss(self.critic(states, actions), target))
        self._step(self.actor_steps, -self.critic(states, self.actor(states)).mean())
        _follow(self.late_actor, self.actor, self.settings.tau)
        _follow(self.late_critic, self.critic, self.settings.tau)

    def _step(self, optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
        self.actor_steps.zero_grad()
        self.critic_steps.zero_grad()
        loss.backward()
        optimizer.step()


def truncated_normal(rng: np.random.Generator, middle: float, sigma: float) -> float:
    """Normal, drawn again outside [0, 1]; ``middle`` itself where sigma is next to nothing."""
    if sigma < 1e-6:
        return middle
    while True:
        value = float(rng.normal(middle, sigma))
        if 0 <= value <= 1:
            return value


@torch.no_grad()
def _follow(late: nn.Module, net: nn.Module, tau: float) -> None:
    for own, other in zip(late.parameters(), net.parameters(), strict=True):
        own.lerp_(other, tau)
