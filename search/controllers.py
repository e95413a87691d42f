"""Updating the architecture parameters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from search import objective
from search.config import ArchOpt, Target
from search.cost_table import CostTable
from search.gates import BinaryMode, Gate, keep_other_probabilities, probabilities, sample
from search.supernet import Supernet


class NonFiniteLossError(ArithmeticError):
    """A loss or gradient that is not a finite number; raised before anything is updated."""


@dataclass(frozen=True)
class ArchStats:
    """What one architecture step saw. Costs in the table's unit."""

    loss: float
    cross_entropy: float
    top1_hits: int
    n_images: int
    expected_cost: float | None
    temperature: float
    lam: float | None


def step_rng(seed: int, stream: int, step: int) -> torch.Generator:
    """The random numbers of one step, a function of (seed, stream, step) alone: nothing to save, nothing to resume."""
    state = np.random.SeedSequence([seed, stream, step]).generate_state(2, np.uint32)
    return torch.Generator().manual_seed((int(state[0]) << 32 | int(state[1])) & (2**63 - 1))


def init_alphas(space_sizes: Sequence[int], std: float, seed: int, device: torch.device | str = "cpu") -> list[Tensor]:
    """One leaf tensor per searched block, drawn from N(0, std^2)."""
    rng = step_rng(seed, 0, 0)
    return [(torch.randn(n, generator=rng) * std).to(device).requires_grad_() for n in space_sizes]


def resolved_arch_lr(opt: ArchOpt, total_steps: int) -> float:
    """The given learning rate, or 60 / steps within 0.001..0.1: alpha can then move far enough to decide."""
    return opt.arch_lr if opt.arch_lr is not None else min(0.1, max(0.001, 60 / max(total_steps, 1)))


class ExpectedCost:
    """E[cost] = fixed + sum_b sum_j p_bj c_bj (eq. 5), differentiable in alpha; exact, as costs are additive."""

    def __init__(self, table: CostTable, device: torch.device | str, scale: float = 1.0) -> None:
        self.fixed = table.fixed * scale
        self.edges = [torch.tensor(edge, dtype=torch.float64, device=device) * scale for edge in table.per_edge]

    def __call__(
        self, alphas: Sequence[Tensor], temperature: float = 1.0, gates: Sequence[Gate] | None = None
    ) -> Tensor:
        """The expected cost under softmax(alpha / temperature).

        With the ``gates`` of mode ``two`` the value is the same, and the gradient is the one within the sampled pair
        at constant probability of all other operations, which is how that mode moves alpha.
        """
        terms = []
        for block, (p, cost) in enumerate(
            zip(probabilities([a.double() for a in alphas], temperature), self.edges, strict=True)
        ):
            candidates = gates[block].candidates if gates is not None else range(len(p))
            if len(candidates) == len(p):
                terms.append((p * cost).sum())
            else:
                pair = list(candidates)
                outside = (p * cost).sum() - (p[pair] * cost[pair]).sum()
                within = F.softmax(alphas[block][pair].double() / temperature, dim=0)
                terms.append(outside.detach() + p[pair].sum().detach() * (within * cost[pair]).sum())
        return torch.stack(terms).sum() + self.fixed


class GradientController:
    """Adam on alpha with the binarized-path gradient of validation loss plus the cost term (section 3.2 and 3.3).

    ``table`` and ``goal`` (in the table's unit) may be None: then only accuracy counts. The controller owns lambda and
    the step counter; ``state_dict`` holds all that resuming needs.
    """

    def __init__(
        self,
        alphas: list[Tensor],
        table: CostTable | None,
        goal: float | None,
        opt: ArchOpt,
        target: Target,
        total_steps: int,
        seed: int,
    ) -> None:
        self.alphas, self.opt, self.target, self.seed = alphas, opt, target, seed
        self.total_steps = total_steps
        self.learning_rate = resolved_arch_lr(opt, total_steps)
        self.optimizer = torch.optim.Adam(
            alphas,
            lr=self.learning_rate,
            betas=(opt.arch_adam_beta1, opt.arch_adam_beta2),
            eps=opt.arch_adam_eps,
            weight_decay=opt.arch_weight_decay,
        )
        # the losses see millions of MACs, the unit of the release
        self.scale = 1e-6 if table is not None and table.unit == "MACs" else 1.0
        self.cost = ExpectedCost(table, alphas[0].device, self.scale) if table is not None else None
        self.goal = goal * self.scale if goal is not None else None
        self.start_cost = table.uniform_expected * self.scale if table is not None else None
        self.step = 0
        self.lam = target.hard_lambda
        self.deviation = 0.0

    @property
    def is_hard(self) -> bool:
        return self.goal is not None and self.target.grad_reg_loss_type == "hard"

    @property
    def temperature(self) -> float:
        """Softmax temperature of the current step."""
        if not self.is_hard:
            return 1.0
        return objective.annealed_temperature(self.step, self.total_steps, self.target.final_temperature)

    def _loss(self, ce: Tensor, cost: Tensor | None) -> Tensor:
        if cost is None or self.goal is None:
            return ce
        target = self.target
        if target.grad_reg_loss_type == "mul#log":
            return objective.mul_log(ce, cost, self.goal, target.grad_reg_loss_alpha, target.grad_reg_loss_beta)
        if target.grad_reg_loss_type == "add#linear":
            return objective.add_linear(ce, cost, self.goal, target.grad_reg_loss_lambda)
        assert self.start_cost is not None
        ramped = objective.ramped_target(self.start_cost, self.goal, self.step, self.total_steps)
        interval = objective.lambda_interval(self.total_steps)
        decay = 1 - 1 / interval
        self.deviation = decay * self.deviation + (1 - decay) * (cost.item() / ramped - 1)
        if self.step and self.step % interval == 0:
            self.lam = objective.raised_lambda(self.lam, self.deviation)
        return objective.hard_target(ce, cost, ramped, self.lam)

    def update(self, supernet: Supernet, images: Tensor, labels: Tensor) -> ArchStats:
        """One architecture step on validation images. Raises NonFiniteLossError before alpha moves."""
        temperature = self.temperature
        mode = cast(BinaryMode, self.opt.grad_binary_mode)
        path, gates = sample(self.alphas, step_rng(self.seed, 1, self.step), mode, temperature)
        logits = supernet(images, path, gates)
        ce = F.cross_entropy(logits, labels)
        cost = self.cost(self.alphas, temperature, gates) if self.cost is not None else None
        feedback = self.lam, self.deviation  # which _loss moves
        loss = self._loss(ce, cost)
        gradients = torch.autograd.grad(loss, self.alphas)
        if not torch.isfinite(loss) or not all(bool(torch.isfinite(g).all()) for g in gradients):
            self.lam, self.deviation = feedback
            raise NonFiniteLossError(f"loss {loss.item()} at architecture step {self.step}")
        before = [alpha.detach().clone() for alpha in self.alphas]
        for alpha, gradient in zip(self.alphas, gradients, strict=True):
            alpha.grad = gradient
        self.optimizer.step()
        if mode == "two":
            with torch.no_grad():
                for alpha, old, gate in zip(self.alphas, before, gates, strict=True):
                    keep_other_probabilities(alpha, old, gate.candidates, temperature)
        self.step += 1
        return ArchStats(
            loss=loss.item(),
            cross_entropy=ce.item(),
            top1_hits=int((logits.argmax(1) == labels).sum()),
            n_images=len(labels),
            expected_cost=cost.item() / self.scale if cost is not None else None,
            temperature=temperature,
            lam=self.lam if self.is_hard else None,
        )

    def state_dict(self) -> dict[str, Any]:
        return {
            "alphas": [alpha.detach().clone() for alpha in self.alphas],
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "lam": self.lam,
            "deviation": self.deviation,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        with torch.no_grad():
            for alpha, saved in zip(self.alphas, state["alphas"], strict=True):
                alpha.copy_(saved)
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.lam, self.deviation = state["step"], state["lam"], state["deviation"]
