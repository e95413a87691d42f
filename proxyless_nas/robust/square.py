"""Square attack (Andriushchenko et al. 2020): it asks the network for answers alone, and needs no gradient.

A random search over squares of one color per channel at the edge of the ball; a square stays where it lowers the
margin. Where it beats the attacks along the gradient, these were misled.
"""

from __future__ import annotations

import torch
from torch import Tensor

from proxyless_nas.robust.attacks import answer
from proxyless_nas.robust.ball import Ball, Forward, Found

FIRST_SHARE = 0.8
"""Of the image that the first square covers."""
HALVED_AT = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
"""Queries, of FULL, at which the share is halved."""
FULL = 10_000
DONE = -1e-3
"""The margin at which an image is left alone: another framework's last digits do not take it back."""


def share_at(query: int, queries: int) -> float:
    """Of the image, that the square of a query covers."""
    at = int(query / queries * FULL)
    return FIRST_SHARE / 2 ** sum(at > limit for limit in HALVED_AT)


def side_at(query: int, queries: int, height: int, width: int) -> int:
    """Of the square, in pixels."""
    side = round((share_at(query, queries) * height * width) ** 0.5)
    return max(1, min(side, height - 1, width - 1))


@torch.no_grad()
def square(forward: Forward, ball: Ball, labels: Tensor, rng: torch.Generator, *, queries: int = 1000) -> Found:
    """At most ``queries`` answers for each image; fewer for one that fools the network."""
    found = Found.of(ball, answer(forward, ball.pixels, labels))
    height, width = ball.pixels.shape[2:]
    stripes = _signs((len(labels), 3, 1, width), rng, ball.pixels)
    _try(forward, ball, labels, found, torch.arange(len(labels)), ball.pixels + ball.steps * stripes)
    for query in range(1, queries):
        left = (found.margins > DONE).nonzero()[:, 0].cpu()
        if not len(left):
            break
        side = side_at(query, queries, height, width)
        inside = _windows(len(left), side, height, width, rng).to(ball.pixels.device)
        signs = _signs((len(left), 3, 1, 1), rng, ball.pixels)
        moved = torch.where(inside, ball.pixels[left] + ball.steps * signs, found.pixels[left])
        _try(forward, ball, labels, found, left, moved)
    return found


def _signs(shape: tuple[int, ...], rng: torch.Generator, like: Tensor) -> Tensor:
    """-1 or 1 at random; drawn on the CPU."""
    return (2.0 * torch.randint(2, shape, generator=rng) - 1).to(like.device)


def _windows(count: int, side: int, height: int, width: int, rng: torch.Generator) -> Tensor:
    """Where the square of each image lies, (count, 1, height, width) of bool."""
    top = torch.randint(height - side + 1, (count, 1, 1, 1), generator=rng)
    left = torch.randint(width - side + 1, (count, 1, 1, 1), generator=rng)
    rows, columns = torch.arange(height).view(1, 1, -1, 1), torch.arange(width).view(1, 1, 1, -1)
    return (rows >= top) & (rows < top + side) & (columns >= left) & (columns < left + side)


def _try(forward: Forward, ball: Ball, labels: Tensor, found: Found, left: Tensor, moved: Tensor) -> None:
    """Ask for the images ``left`` as they are ``moved``, and keep those that are better."""
    pixels = ball.some(left).project(moved)
    now = answer(forward, pixels, labels[left])
    found.queries[left] += 1
    better = left[(now < found.margins[left]).cpu()]
    kept = (now < found.margins[left]).nonzero()[:, 0]
    found.pixels[better], found.margins[better] = pixels[kept], now[kept]
