"""Binary gates: sampling a path from the architecture parameters, and the gradient through it.

Cai, Zhu, Han (ICLR 2019), section 3.2. With p = softmax(alpha) and a one-hot sample g of p (eq. 2) the
architecture gradient is estimated by dL/dalpha_i = sum_j dL/dg_j * p_j * (delta_ij - p_i) (eq. 4), where
dL/dg_j = <dL/dout, o_j(x)>. Writing the gates as ``onehot + p - p.detach()`` (straight-through) makes autograd
apply the softmax Jacobian by itself; what is left is dL/dg, which ``BinarizedPath`` delivers while only the
sampled operation is in the graph.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from proxyless_arch.space.search_space import Path
from proxyless_nas.side_by_side import each, spare_threads

Product = Callable[[Tensor, Tensor], Tensor | None]
"""(x, dL/dout) -> <dL/dout, o(x)> of an operation, without side effects; None for inputs that it does not take."""
BinaryMode = Literal["two", "full", "full_v2"]
MOST_AT_ONCE = 16_000_000
"""Bytes of a block's input up to which its candidates run side by side: the memory of several is not planned for."""
BINARY_MODES: tuple[BinaryMode, ...] = ("full_v2", "full", "two")


@dataclass(frozen=True)
class Gate:
    """The gates of one block: ``values[i]`` belongs to the operation ``candidates[i]``; the active one is 1.

    ``keep_outputs``: the other candidates run in the forward pass and their outputs are kept (mode ``full``);
    otherwise each is run again in the backward pass, one at a time.
    """

    candidates: tuple[int, ...]
    values: Tensor
    keep_outputs: bool = False


def probabilities(alphas: Sequence[Tensor], temperature: float = 1.0) -> list[Tensor]:
    """softmax(alpha / temperature) of every block."""
    return [F.softmax(alpha / temperature, dim=0) for alpha in alphas]


def entropy(alphas: Sequence[Tensor], temperature: float = 1.0) -> Tensor:
    """Sum over blocks of the entropy of the choice, in nats. For equal alphas it is the sum of log n."""
    terms = [-(F.softmax(a / temperature, 0) * F.log_softmax(a / temperature, 0)).sum() for a in alphas]
    return torch.stack(terms).sum()


def argmax_path(alphas: Sequence[Tensor]) -> Path:
    """The most probable operation of every block (the first among equals)."""
    return tuple(int(alpha.argmax()) for alpha in alphas)


def sample_path(alphas: Sequence[Tensor], rng: torch.Generator, temperature: float = 1.0) -> Path:
    """One choice per block from softmax(alpha / temperature)."""
    probs = probabilities([alpha.detach().cpu().double() for alpha in alphas], temperature)
    return tuple(int(torch.multinomial(p, 1, generator=rng)) for p in probs)


def sample_paths(alphas: Sequence[Tensor], rng: torch.Generator, count: int) -> list[Path]:
    """``count`` independent paths, one choice per block from softmax(alpha)."""
    probs = probabilities([alpha.detach().cpu().double() for alpha in alphas])
    choices = [torch.multinomial(p, count, replacement=True, generator=rng).tolist() for p in probs]
    return list(zip(*choices, strict=True))


def fixed_gates(path: Path, device: torch.device | str) -> list[Gate]:
    """Gates without gradient that hold ``path`` open: the supernet then runs it without moving BN statistics."""
    value = torch.ones(1, device=device)
    return [Gate((choice,), value) for choice in path]


def sample(
    alphas: Sequence[Tensor], rng: torch.Generator, mode: BinaryMode = "full_v2", temperature: float = 1.0
) -> tuple[Path, list[Gate]]:
    """A path and its gates; gradients flow from the gates to ``alphas``.

    Modes: ``full`` and ``full_v2`` give every operation of a block a gate. ``two`` samples two operations from the
    multinomial of p without replacement, renormalises over the pair and samples the active one from it (section 3.2.1).
    """
    path, gates = [], []
    for alpha in alphas:
        if mode == "two" and len(alpha) > 2:
            p = F.softmax(alpha.detach().cpu().double() / temperature, dim=0)
            pair = torch.multinomial(p, 2, replacement=False, generator=rng)
            candidates = tuple(int(index) for index in pair)
        else:
            candidates = tuple(range(len(alpha)))
        probs = F.softmax(alpha[list(candidates)] / temperature, dim=0)
        active = int(torch.multinomial(probs.detach().cpu().double(), 1, generator=rng))
        onehot = torch.zeros_like(probs)
        onehot[active] = 1.0
        path.append(candidates[active])
        gates.append(Gate(candidates, onehot + probs - probs.detach(), keep_outputs=mode == "full"))
    return tuple(path), gates


def keep_other_probabilities(
    alpha: Tensor, before: Tensor, candidates: tuple[int, ...], temperature: float = 1.0
) -> None:
    """Shift the updated pair of ``alpha`` in place so that the probabilities of all other operations stay what they
    were at ``before`` (mode ``two``): the pair's log-sum-exp is restored, and so are the others themselves, which
    momentum or weight decay may have moved."""
    pair = list(candidates)
    old = torch.logsumexp(before[pair] / temperature, dim=0)
    updated = alpha[pair]
    alpha.copy_(before)
    alpha[pair] = updated + temperature * (old - torch.logsumexp(updated / temperature, dim=0))


class BinarizedPath(torch.autograd.Function):
    """out = sum_j g_j o_j(x) at a one-hot g, with only the active o_j in the graph.

    Backward gives dL/do_active = dL/dout and dL/dg_j = <dL/dout, o_j(x)> for every candidate: the gradient of the
    dense mixture, for the gates and for x alike.
    """

    @staticmethod
    def forward(  # type: ignore[override]
        ctx,
        active_out: Tensor,
        values: Tensor,
        x: Tensor,
        active: int,
        others: Sequence[Callable[[Tensor], Tensor]],
        keep_outputs: bool,
        products: Sequence[Product | None] | None = None,
    ) -> Tensor:
        """``others[j]`` computes o_j(x) without side effects; the entry of the active candidate is not called.

        ``products[j]`` may compute <dL/dout, o_j(x)> faster than that.
        """
        ctx.active, ctx.others = active, others
        ctx.products = products or [None] * len(others)
        kind = x.device.type
        ctx.precision = kind, torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind)
        ctx.kept = None
        if keep_outputs:
            ctx.kept = [None if j == active else run(x) for j, run in enumerate(others)]
        ctx.save_for_backward(active_out, x)
        return active_out.view_as(active_out)

    @staticmethod
    def backward(ctx, grad_out: Tensor):  # type: ignore[override]
        active_out, x = ctx.saved_tensors

        def output(j: int) -> Tensor:
            if j == ctx.active:
                return active_out
            return ctx.others[j](x) if ctx.kept is None else ctx.kept[j]

        wide = torch.promote_types(grad_out.dtype, torch.float32)

        def gradient(j: int) -> Tensor:
            kind, dtype, is_lower = ctx.precision
            with torch.no_grad(), torch.autocast(kind, dtype, enabled=is_lower):  # which every thread has to be told
                faster = ctx.products[j] if j != ctx.active and ctx.kept is None else None
                found = faster(x, grad_out) if faster is not None else None
                if found is not None:
                    return found
                out = output(j)
            return (grad_out.to(wide) * out.to(wide)).sum()

        small = x.device.type == "cpu" and x.nbytes <= MOST_AT_ONCE
        found = each(gradient, range(len(ctx.others)), spare_threads() if small else 1)
        return grad_out, torch.stack(found), *[None] * 5
