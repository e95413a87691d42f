"""The architecture losses: pure functions of the cross-entropy, the expected cost and the target.

Costs are in ms, or in millions of MACs, so that the logarithm of ``mul#log`` means what it did in the release.
"""

from __future__ import annotations

import torch
from torch import Tensor

from proxyless_arch.base.errors import InputError


def mul_log(ce: Tensor, cost: Tensor, target: float, alpha: float, beta: float) -> Tensor:
    """``alpha * CE * (log E / log T)^beta``, the paper's loss. T is only a factor: it does not set where E lands.

    Both costs must be above 1 (check_logarithm).
    """
    return alpha * ce * (torch.log(cost) / torch.log(torch.as_tensor(target))) ** beta


def check_logarithm(minimum: float, target: float) -> None:
    """Raises InputError when a cost that mul_log may see is not above 1, where its power is not defined."""
    if minimum <= 1 or target <= 1:
        raise InputError(
            f"mul#log takes the logarithm of costs and needs them above 1 (ms, or millions of MACs); here the cheapest "
            f"network costs {minimum:.3g} and the target is {target:.3g}; use hard",
            "--grad_reg_loss_type",
        )


def add_linear(ce: Tensor, cost: Tensor, target: float, lam: float) -> Tensor:
    """``CE + lambda (E - T) / T``, the paper's loss: a constant push towards cheaper networks, below T as above it."""
    return ce + lam * (cost - target) / target


def hard_target(ce: Tensor, cost: Tensor, target: float, lam: float) -> Tensor:
    """``CE + lambda |E / T - 1|``: the push changes sign at T (TuNAS, Bender et al. 2020, as a loss)."""
    return ce + lam * (cost / target - 1).abs()


def paper_reward(accuracy: float, cost: float, target: float, exponent: float) -> float:
    """``acc * (T / cost)^w``, the paper's reward. As in mul_log, T is only a factor."""
    return accuracy * (target / cost) ** exponent


def absolute_reward(accuracy: float, cost: float, target: float, weight: float) -> float:
    """``acc - b |cost / T - 1|``: largest at T for equal accuracy (TuNAS, Bender et al. 2020)."""
    return accuracy - weight * abs(cost / target - 1)


def ramped_target(start: float, target: float, step: int, steps: int) -> float:
    """The target of step ``step``: from the initial expected cost ``start`` to ``target`` over half of the steps."""
    return start + (target - start) * min(1.0, step / (0.5 * max(steps, 1)))


def annealed_temperature(step: int, steps: int, final: float) -> float:
    """1 for the first quarter of the steps, then geometric down to ``final``."""
    progress = max(0.0, step / max(steps, 1) - 0.25) / 0.75
    return final ** min(1.0, progress)


def raised_lambda(lam: float, mean_deviation: float) -> float:
    """lambda a quarter higher while the mean relative deviation from the target exceeds 1 %, at most 100."""
    return min(1.25 * lam, 100.0) if abs(mean_deviation) > 0.01 else lam


def lambda_interval(steps: int) -> int:
    """Architecture steps between two looks at the deviation.

    Deviation: 50 in the simulations that this schedule comes from; runs below 3000 steps look more often (every
    sixtieth of the run, at least every 5 steps), or lambda could not grow in time.
    """
    return max(5, min(50, steps // 60))
