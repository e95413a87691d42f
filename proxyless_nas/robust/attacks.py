"""Attacks along the gradient of the network itself: FGSM, R+FGSM, PGD and APGD, within a ball of L-infinity.

Rounding inside a quantized network has the gradient of the identity (straight-through), as in its training: an attack
that stopped at it would measure nothing (Athalye et al. 2018).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from proxyless_nas.robust.ball import Ball, Forward, Found, Loss, log_odds, margins

PGD_STEP = 0.25
"""Of epsilon: Madry et al.'s 2 of 8."""
RANDOM_SHARE = 0.5
"""Of epsilon that R+FGSM spends on its random step."""
MOMENTUM, OSCILLATES, FIRST_CHECK, SHORTER, SHORTEST = 0.75, 0.75, 0.22, 0.03, 0.06
"""APGD's alpha and rho, and its first interval between checks, by how much each is shorter, and the shortest."""


class Looked(NamedTuple):
    """What the network makes of images: (N,) losses and margins, and the gradient of the loss to the pixels."""

    losses: Tensor
    margins: Tensor
    gradient: Tensor


def look(forward: Forward, ball: Ball, x: Tensor, labels: Tensor, loss: Loss = log_odds) -> Looked:
    """At the whole steps of ``x``."""
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        logits = forward(ball.whole(x))
        losses = loss(logits, labels)
        (gradient,) = torch.autograd.grad(losses.sum(), x, allow_unused=True)
    if gradient is None:  # nothing that the network does has one
        gradient = torch.zeros_like(x)
    return Looked(losses.detach(), margins(logits.detach(), labels), gradient)


def vanishes(gradient: Tensor) -> Tensor:
    """Where the gradient of an image is 0 in all pixels, (N,) of bool."""
    return gradient.flatten(1).abs().amax(1) == 0


@torch.no_grad()
def answer(forward: Forward, pixels: Tensor, labels: Tensor) -> Tensor:
    """The margins of images."""
    return margins(forward(pixels), labels)


# ---------------------------------------------------------------------------------------------------------- one step


def fgsm(forward: Forward, ball: Ball, labels: Tensor, loss: Loss = log_odds) -> Found:
    """x + epsilon sign(gradient) (Goodfellow et al. 2015): its image alone, be it better or not."""
    seen = look(forward, ball, ball.pixels, labels, loss)
    return _single(forward, ball, ball.pixels + ball.steps * seen.gradient.sign(), labels)


def r_fgsm(forward: Forward, ball: Ball, labels: Tensor, rng: torch.Generator) -> Found:
    """A step of half of epsilon to a random corner, then FGSM with the other half (Tramer et al. 2018)."""
    first = RANDOM_SHARE * ball.steps
    start = ball.project(ball.pixels + first * noise(ball, rng).sign())
    seen = look(forward, ball, start, labels)
    return _single(forward, ball, start + (ball.steps - first) * seen.gradient.sign(), labels)


def _single(forward: Forward, ball: Ball, x: Tensor, labels: Tensor) -> Found:
    pixels = ball.whole(ball.project(x))
    found = answer(forward, pixels, labels)
    return Found(pixels, found, torch.full((len(labels),), 2))


def noise(ball: Ball, rng: torch.Generator) -> Tensor:
    """Uniform in -1..1, as the pixels are; drawn on the CPU, so that any device has the same."""
    shape = ball.pixels.shape
    return (2 * torch.rand(shape, generator=rng) - 1).to(ball.pixels.device)


# -------------------------------------------------------------------------------------------------------- many steps


def pgd(
    forward: Forward, ball: Ball, labels: Tensor, rng: torch.Generator, *, steps: int = 20, restarts: int = 1
) -> Found:
    """Projected gradient ascent from random starts (Madry et al. 2018); the best image of all that it looked at.

    ``by_step`` is that of the first start.
    """
    found = Found.of(ball, answer(forward, ball.pixels, labels))
    for _ in range(restarts):
        x = ball.project(ball.pixels + ball.steps * noise(ball, rng))
        for _ in range(steps):
            seen = look(forward, ball, x, labels)
            found.see(ball.whole(x), seen.margins)
            x = ball.project(x + PGD_STEP * ball.steps * seen.gradient.sign())
        found.see(ball.whole(x), answer(forward, ball.whole(x), labels))
    found.by_step = found.by_step[: steps + 1]
    return found


def apgd(
    forward: Forward,
    ball: Ball,
    labels: Tensor,
    rng: torch.Generator,
    *,
    loss: Loss = log_odds,
    steps: int = 50,
    restarts: int = 1,
) -> Found:
    """Auto-PGD (Croce and Hein 2020): with momentum, and steps that are halved where the loss does not rise.

    It ends when every image fools the network.
    """
    found = Found.of(ball, answer(forward, ball.pixels, labels))
    for _ in range(restarts):
        if not found.held.any():
            break
        start = ball.project(ball.pixels + ball.steps * _to_the_edge(noise(ball, rng)))
        _ascend(forward, ball, labels, start, loss, steps, found)
    return found


def _to_the_edge(direction: Tensor) -> Tensor:
    """So that the largest component of each image is 1."""
    return direction / direction.flatten(1).abs().amax(1).clamp(min=1e-12)[:, None, None, None]


class Check:
    """When APGD looks back at its steps: at 0.22 of them, then in intervals that become shorter."""

    def __init__(self, steps: int) -> None:
        self.interval = max(1, int(FIRST_CHECK * steps))
        self.shorter, self.shortest = max(1, int(SHORTER * steps)), max(1, int(SHORTEST * steps))
        self.since = 0

    def is_due(self) -> bool:
        self.since += 1
        return self.since == self.interval

    def rest(self) -> None:
        self.since, self.interval = 0, max(self.interval - self.shorter, self.shortest)


def _ascend(forward: Forward, ball: Ball, labels: Tensor, start: Tensor, loss: Loss, steps: int, found: Found) -> None:
    """One start of APGD; what it looks at goes to ``found``."""
    x, before = start, start
    size = torch.full_like(labels, 2 * ball.steps, dtype=torch.float32)
    seen = look(forward, ball, x, labels, loss)
    found.see(ball.whole(x), seen.margins)
    best_x, best = x, seen
    rises, check = torch.zeros_like(labels), Check(steps)
    best_before, was_halved = seen.losses, torch.ones_like(labels, dtype=torch.bool)
    for number in range(steps):
        share = MOMENTUM if number else 1.0
        ahead = ball.project(x + _wide(size) * seen.gradient.sign())
        x, before = ball.project(x + share * (ahead - x) + (1 - share) * (x - before)), x
        last, seen = seen, look(forward, ball, x, labels, loss)
        found.see(ball.whole(x), seen.margins)
        if not found.held.any():
            return
        rises += seen.losses > last.losses
        better = seen.losses > best.losses
        best_x, best = torch.where(_wide(better), x, best_x), _chosen(better, seen, best)
        if check.is_due():
            stuck = (rises <= OSCILLATES * check.interval) | (~was_halved & (best_before >= best.losses))
            size = torch.where(stuck, size / 2, size)
            x, before, seen = (
                torch.where(_wide(stuck), best_x, x),
                torch.where(_wide(stuck), best_x, before),
                _chosen(stuck, best, seen),
            )
            best_before, was_halved, rises = best.losses, stuck, torch.zeros_like(rises)
            check.rest()


def _wide(values: Tensor) -> Tensor:
    """(N,) for images."""
    return values[:, None, None, None]


def _chosen(first: Tensor, one: Looked, other: Looked) -> Looked:
    """``one`` where ``first``, else ``other``."""
    return Looked(
        torch.where(first, one.losses, other.losses),
        torch.where(first, one.margins, other.margins),
        torch.where(_wide(first), one.gradient, other.gradient),
    )
