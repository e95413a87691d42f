"""Updating the architecture parameters."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from hardware.cost import CostTable
from proxyless_arch.data.streams import TorchStream, torch_seed
from proxyless_arch.space.search_space import Path
from proxyless_nas import distributed
from proxyless_nas.steps import NonFiniteLossError, in_parts
from search.algorithm import objective
from search.algorithm.gates import (
    BinaryMode,
    Gate,
    fixed_gates,
    keep_other_probabilities,
    probabilities,
    sample,
    sample_paths,
)
from search.algorithm.supernet import PathSupernet
from search.config import ArchOpt, Target


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


def step_rng(seed: int, stream: TorchStream, step: int = 0, *place: int) -> torch.Generator:
    """The random numbers of one step, a function of (seed, stream, step, place) alone: nothing to save, nothing to
    resume."""
    return torch.Generator().manual_seed(torch_seed(seed, stream, step, *place))


def init_alphas(space_sizes: Sequence[int], std: float, seed: int, device: torch.device | str = "cpu") -> list[Tensor]:
    """One leaf tensor per searched block, drawn from N(0, std^2)."""
    rng = step_rng(seed, TorchStream.ALPHA)
    return [(torch.randn(n, generator=rng) * std).to(device).requires_grad_() for n in space_sizes]


def resolved_arch_lr(opt: ArchOpt, total_steps: int) -> float:
    """The given learning rate, or 60 / steps within 0.001..0.1: alpha can then move far enough to decide."""
    return opt.arch_lr if opt.arch_lr is not None else min(0.1, max(0.001, 60 / max(total_steps, 1)))


class ExpectedCost:
    """E[cost] = fixed + sum_b sum_j p_bj c_bj (eq. 5), differentiable in alpha.

    What choices cost together (cost.Term) is a sum over all of their combinations, each with the product of its
    probabilities: choices of different entries are drawn independently, so this is exact, too.
    """

    def __init__(self, table: CostTable, scale: float = 1.0) -> None:
        # in double precision, which mps does not have: on the CPU
        self.fixed = table.fixed * scale
        self.parts = [(part.groups, torch.tensor(part.costs, dtype=torch.float64) * scale) for part in table.parts]

    def __call__(
        self, alphas: Sequence[Tensor], temperature: float = 1.0, gates: Sequence[Gate] | None = None
    ) -> Tensor:
        """The expected cost under softmax(alpha / temperature).

        With the ``gates`` of mode ``two`` the value is the same, and the gradient is the one within the sampled pair
        at constant probability of all other operations, which is how that mode moves alpha.
        """
        moved = [alpha.cpu().double() for alpha in alphas]
        rows = probabilities(moved, temperature)
        if gates is not None:
            rows = [_within_pair(*each, temperature) for each in zip(rows, moved, gates, strict=True)]
        terms = []
        for groups, costs in self.parts:
            for group in reversed(groups):  # the last axis first
                costs = (rows[group] * costs).sum(-1)
            terms.append(costs)
        return torch.stack(terms).sum() + self.fixed


def _within_pair(p: Tensor, alpha: Tensor, gate: Gate, temperature: float) -> Tensor:
    """The probabilities ``p``, with a gradient within the candidates of ``gate`` alone: their sum and all others are
    constant."""
    if len(gate.candidates) == len(p):
        return p
    pair, found = list(gate.candidates), p.detach().clone()
    within = F.softmax(alpha[pair] / temperature, dim=0)
    return found.index_put((torch.tensor(pair),), p[pair].sum().detach() * within)


def _widths(supernet: PathSupernet) -> tuple[int, ...]:
    """The entries of a path that are widths; a supernet may be any function."""
    return supernet.space.width_entries if isinstance(supernet, PathSupernet) else ()


def _losses_of_other_widths(
    supernet: PathSupernet, images: Tensor, labels: Tensor, path: Path, gates: Sequence[Gate]
) -> dict[int, dict[int, Tensor]]:
    """By entry and candidate of its gate: the loss of the network that differs from ``path``'s in that width alone."""
    found: dict[int, dict[int, Tensor]] = {}
    for entry in _widths(supernet):
        found[entry] = {}
        for choice in gates[entry].candidates:
            if choice != path[entry]:
                other = (*path[:entry], choice, *path[entry + 1 :])
                with torch.no_grad():
                    logits = supernet(images, other, fixed_gates(other, images.device))
                    found[entry][choice] = F.cross_entropy(logits, labels)
    return found


def _through_gates(supernet: PathSupernet, images: Tensor, path: Path, gates: Sequence[Gate]) -> Tensor:
    """Logits that only the gates have a gradient of: a layer of ours cannot see that its weights' is not asked for."""
    weights = supernet.weights if isinstance(supernet, PathSupernet) else []  # any function of these will do
    try:
        for weight in weights:
            weight.requires_grad_(False)
        return supernet(images, path, gates)
    finally:
        for weight in weights:
            weight.requires_grad_()


def _cross_entropy(
    supernet: PathSupernet, images: Tensor, labels: Tensor, path: Path, gates: Sequence[Gate]
) -> tuple[Tensor, Tensor]:
    """(the loss of ``path``, its logits); the gates have a gradient of the loss.

    That of a width's gate for width k is the loss of the network with k in place of the width chosen. With softmax's
    Jacobian it is the derivative of the expected loss by this width's alpha, the other choices as they were drawn
    (Titsias, Lazaro-Gredilla, "Local expectation gradients for black box variational inference", NeurIPS 2015).
    Deviation: TuNAS learns widths by REINFORCE alone; eq. 4 would need the outputs that a smaller width leaves out.
    """
    others = _losses_of_other_widths(supernet, images, labels, path, gates)
    logits = _through_gates(supernet, images, path, gates)
    loss = F.cross_entropy(logits, labels)
    own = loss.detach()
    for entry, losses in others.items():
        gate = gates[entry]
        row = torch.stack([losses.get(choice, own) for choice in gate.candidates])
        loss = loss + ((gate.values - gate.values.detach()) * row).sum()
    return loss, logits


class Controller:
    """The architecture parameters, their Adam optimizer and where they stand.

    ``table`` and ``goal`` (in the table's unit) may be None: then only accuracy counts. ``state_dict`` holds all that
    resuming needs, and ``update`` takes one architecture step on validation images.
    """

    STATE: tuple[str, ...] = ("step",)

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
        self.table, self.total_steps = table, total_steps
        self.learning_rate = resolved_arch_lr(opt, total_steps)
        self.optimizer = torch.optim.Adam(
            alphas,
            lr=self.learning_rate,
            betas=(opt.arch_adam_beta1, opt.arch_adam_beta2),
            eps=opt.arch_adam_eps,
            weight_decay=opt.arch_weight_decay,
        )
        # the losses see millions of MACs, the unit of the release
        self.scale = table.unit.in_loss if table is not None else 1.0
        self.goal = goal * self.scale if goal is not None else None
        self.step = 0

    @property
    def temperature(self) -> float:
        """Softmax temperature of the current step."""
        return 1.0

    @property
    def shown_lambda(self) -> float | None:
        """The weight of the cost term where it changes, for the log."""
        return None

    def update(self, supernet: PathSupernet, images: Tensor, labels: Tensor, parts: int = 1) -> ArchStats:
        raise TypeError("a Controller is a GradientController or a ReinforceController")

    def apply(self, gradients: Sequence[Tensor | None]) -> None:
        """Adam on alpha with the mean gradient over all processes; a block whose gradient is None stays.

        Raises NonFiniteLossError before alpha moves.
        """
        distributed.all_reduce_mean([gradient for gradient in gradients if gradient is not None])
        if not all(bool(torch.isfinite(g).all()) for g in gradients if g is not None):
            raise NonFiniteLossError(f"gradient that is not finite at architecture step {self.step}")
        for alpha, gradient in zip(self.alphas, gradients, strict=True):
            alpha.grad = gradient
        self.optimizer.step()

    def state_dict(self) -> dict[str, Any]:
        own = {name: getattr(self, name) for name in self.STATE}
        alphas = [alpha.detach().clone() for alpha in self.alphas]
        return {"alphas": alphas, "optimizer": copy.deepcopy(self.optimizer.state_dict()), **own}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        with torch.no_grad():
            for alpha, saved in zip(self.alphas, state["alphas"], strict=True):
                alpha.copy_(saved)
        self.optimizer.load_state_dict(state["optimizer"])
        for name in self.STATE:
            setattr(self, name, state[name])


class GradientController(Controller):
    """Binarized-path gradient of the validation loss plus the gradient of the cost term (section 3.2 and 3.3)."""

    STATE = ("step", "lam", "deviation")

    def __init__(self, alphas: list[Tensor], table: CostTable | None, *settings: Any, **named: Any) -> None:
        super().__init__(alphas, table, *settings, **named)
        self.cost = ExpectedCost(table, self.scale) if table is not None else None
        self.start_cost = table.uniform_expected * self.scale if table is not None else None
        self.lam = self.target.hard_lambda
        self.deviation = 0.0

    @property
    def is_hard(self) -> bool:
        return self.goal is not None and self.target.grad_reg_loss_type == "hard"

    @property
    def shown_lambda(self) -> float | None:
        return self.lam if self.is_hard else None

    @property
    def temperature(self) -> float:
        if not self.is_hard:
            return 1.0
        return objective.annealed_temperature(self.step, self.total_steps, self.target.final_temperature)

    def _loss(self, ce: Tensor, cost: Tensor | None) -> Tensor:
        if cost is None or self.goal is None:
            return ce
        cost = cost.to(ce)
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

    def _gates(self) -> tuple[Path, list[Gate]]:
        """The path and gates of the current step; each call gives the same ones, with a graph of their own to alpha."""
        mode = cast(BinaryMode, self.opt.grad_binary_mode)
        return sample(self.alphas, step_rng(self.seed, TorchStream.ARCH_STEP, self.step), mode, self.temperature)

    def update(self, supernet: PathSupernet, images: Tensor, labels: Tensor, parts: int = 1) -> ArchStats:
        """One architecture step on validation images. Raises NonFiniteLossError before alpha moves.

        ``parts``: the images are computed in, one after the other. The gradient of the cross-entropy adds up over them
        (batch normalization sees one part at a time); then the loss, which need not be linear in it, is taken once.
        """
        temperature = self.temperature
        *earlier, (part, answers) = in_parts(images, labels, parts)
        ce_before, hits, moved = 0.0, 0, []
        for some, right in earlier:
            path, gates = self._gates()
            loss, logits = _cross_entropy(supernet, some, right, path, gates)
            share = loss * (len(right) / len(labels))
            moved.append(torch.autograd.grad(share, self.alphas))
            ce_before += share.item()
            hits += int((logits.argmax(1) == right).sum())
        path, gates = self._gates()
        ce, logits = _cross_entropy(supernet, part, answers, path, gates)
        if earlier:
            ce = ce * (len(answers) / len(labels)) + ce_before
        cost = self.cost(self.alphas, temperature, gates) if self.cost is not None else None
        hits += int((logits.argmax(1) == answers).sum())
        totals = distributed.summed(ce.item() * len(labels), hits, len(labels))
        feedback = self.lam, self.deviation  # which _loss moves
        # of the whole batch: a process that could not read all of its images counts for less in the mean over all
        loss = self._loss(ce * (len(labels) * distributed.world_size() / totals[2]), cost)
        broken = not math.isfinite(loss.item())
        loss_sum, n_broken = distributed.summed(loss.item(), broken)
        by_ce, *found = torch.autograd.grad(loss, [ce, *self.alphas])
        gradients: list[Tensor | None] = [sum((by_ce * part[b] for part in moved), g) for b, g in enumerate(found)]
        if self.opt.zero_rule == "release":
            for entry in supernet.space.vanishing(path):
                gradients[entry] = None
        before = [alpha.detach().clone() for alpha in self.alphas]
        try:
            if n_broken:
                mean = loss_sum / distributed.world_size()
                raise NonFiniteLossError(f"loss {mean} at architecture step {self.step}", broken)
            self.apply(gradients)
        except NonFiniteLossError:
            self.lam, self.deviation = feedback
            raise
        if self.opt.grad_binary_mode == "two":
            with torch.no_grad():
                for alpha, old, gate in zip(self.alphas, before, gates, strict=True):
                    keep_other_probabilities(alpha, old, gate.candidates, temperature)
        self.step += 1
        return ArchStats(
            loss=loss.item(),
            cross_entropy=totals[0] / totals[2],
            top1_hits=int(totals[1]),
            n_images=int(totals[2]),
            expected_cost=cost.item() / self.scale if cost is not None else None,
            temperature=temperature,
            lam=self.shown_lambda,
        )


def log_probability(alphas: Sequence[Tensor], paths: Sequence[Sequence[int]]) -> Tensor:
    """(M,): log p(path_m) = sum_b log softmax(alpha_b)[path_mb]."""
    choices = torch.tensor(paths, device=alphas[0].device).unbind(1)
    terms = [F.log_softmax(alpha, 0)[chosen] for alpha, chosen in zip(alphas, choices, strict=True)]
    return torch.stack(terms).sum(0)


def rewards_of_others(rewards: Sequence[float]) -> list[float]:
    """Each path's baseline by the rule ``others``: the mean reward of the other paths of the update.

    Raises ZeroDivisionError for one path. Kool, van Hoof, Welling, "Buy 4 REINFORCE samples, get a baseline for free!"
    (2019).
    """
    total = sum(rewards)
    return [(total - reward) / (len(rewards) - 1) for reward in rewards]


def reinforce_gradient(
    alphas: Sequence[Tensor], paths: Sequence[Sequence[int]], rewards: Sequence[float], baselines: Sequence[float]
) -> list[Tensor]:
    """Minus the estimate of the reward's gradient: -mean_m (R_m - baseline_m) grad log p(path_m) (eq. 11).

    Unbiased for independent paths drawn from softmax(alpha) and baselines that do not depend on their own path.
    """
    gains = [reward - baseline for reward, baseline in zip(rewards, baselines, strict=True)]
    log_probs = log_probability(alphas, paths)
    return list(torch.autograd.grad(-(log_probs.new_tensor(gains) * log_probs).mean(), list(alphas)))


class ReinforceController(Controller):
    """REINFORCE on the validation accuracy of sampled paths, with the cost in the reward (section 3.3).

    Each update samples ``rl_batch_size`` paths and scores them on the same validation images with batch statistics,
    without moving any. For the first ``rl_freeze`` of the steps alpha stays while the weights settle (TuNAS, Bender et
    al. 2020). By the rule ``others`` a path's baseline is the mean reward of the update's other paths, which saw the
    same images: what easy or hard images do to all rewards cancels. The other rules have an exponential mean of
    rewards, whose first value is the first mean reward: ``past`` subtracts that of the updates before, ``release`` the
    one that its own rewards have moved already.
    """

    STATE = ("step", "baseline")

    def __init__(self, alphas: list[Tensor], table: CostTable | None, *settings: Any, **named: Any) -> None:
        super().__init__(alphas, table, *settings, **named)
        self.baseline: float | None = None

    def reward(self, accuracy: float, path: Sequence[int]) -> float:
        """The reward of one path; ``accuracy`` is a fraction."""
        if self.table is None or self.goal is None:
            return accuracy
        cost = self.table.of_path(tuple(path)) * self.scale
        if self.opt.rl_reward == "paper":
            return objective.paper_reward(accuracy, cost, self.goal, self.opt.rl_tradeoff_ratio)
        return objective.absolute_reward(accuracy, cost, self.goal, self.opt.rl_absolute_weight)

    def update(self, supernet: PathSupernet, images: Tensor, labels: Tensor, parts: int = 1) -> ArchStats:
        """One update from ``rl_batch_size`` sampled paths, all on the same validation images, in ``parts``."""
        rng = step_rng(self.seed, TorchStream.ARCH_STEP, self.step)
        paths = sample_paths(self.alphas, rng, self.opt.rl_batch_size)
        losses, hits, n_images = [], [], 0
        for path in paths:
            gates = fixed_gates(path, images.device)
            with torch.no_grad():
                logits = torch.cat([supernet(part, path, gates) for part, _ in in_parts(images, labels, parts)])
            loss = F.cross_entropy(logits, labels).item()
            right = int((logits.argmax(1) == labels).sum())
            broken = not math.isfinite(loss)
            totals = distributed.summed(loss * len(labels), right, len(labels), broken)
            if totals[3]:
                problem = f"loss {totals[0] / totals[2]} at architecture step {self.step}"
                raise NonFiniteLossError(problem, broken)
            n_images = int(totals[2])
            losses.append(totals[0] / n_images)
            hits.append(int(totals[1]))
        rewards = [self.reward(hit / n_images, path) for hit, path in zip(hits, paths, strict=True)]
        mean_reward = sum(rewards) / len(rewards)
        past = mean_reward if self.baseline is None else self.baseline
        moved = past + (1 - self.opt.rl_baseline_momentum) * (mean_reward - past)
        if self.step >= self.opt.rl_freeze * self.total_steps:
            if self.opt.rl_baseline_rule == "others":
                baselines = rewards_of_others(rewards)
            else:
                baselines = [moved if self.opt.rl_baseline_rule == "release" else past] * len(rewards)
            self.apply(reinforce_gradient(self.alphas, paths, rewards, baselines))
        self.baseline = moved
        self.step += 1
        return ArchStats(
            loss=-mean_reward,
            cross_entropy=sum(losses) / len(losses),
            top1_hits=sum(hits),
            n_images=n_images * len(paths),
            expected_cost=None,
            temperature=1.0,
            lam=None,
        )


CONTROLLERS: dict[str, type[Controller]] = {
    "grad": GradientController,
    "rl": ReinforceController,
    "predictor": Controller,  # whose alpha rests: it is of no matter to a warm-up
}
