"""The images that an attack may take, and what it finds among them.

Images have 8 bits, and so has everything that is attacked: pixels are counted in steps of 1/255, an attack moves within
whole steps around its image, and the network only ever sees whole steps. So the projection is exact in float32, and
what was scored is what a lossless file keeps. Deviation: the papers' attacks see images between the steps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from proxyless_arch.arch.spec import Preprocessing
from proxyless_nas.quantized import straight_rounded

WHITE = 255.0
Forward = Callable[[Tensor], Tensor]
"""(N, 3, H, W) pixels, 0..255 -> (N, classes) logits; differentiable unless an attack needs answers alone."""
Loss = Callable[[Tensor, Tensor], Tensor]
"""(N, classes) logits and (N,) labels -> (N,) losses, which an attack raises."""


def pixel_forward(net: nn.Module, preprocessing: Preprocessing) -> Forward:
    """``net`` on pixels, normalized as its images are (data/images.normalize)."""
    device = next(net.parameters()).device
    constants = (preprocessing.mean, preprocessing.std)
    mean, std = (torch.tensor(each, device=device).view(1, -1, 1, 1) for each in constants)

    def forward(pixels: Tensor) -> Tensor:
        return net((pixels / WHITE - mean) / std).float()

    return forward


@dataclass(frozen=True)
class Ball:
    """Images of 0..255 that differ from ``pixels``, (N, 3, H, W), by ``steps`` of 255 at most (L-infinity)."""

    pixels: Tensor
    steps: int
    low: Tensor = field(init=False)
    high: Tensor = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "low", (self.pixels - self.steps).clamp(min=0))
        object.__setattr__(self, "high", (self.pixels + self.steps).clamp(max=WHITE))

    def project(self, x: Tensor) -> Tensor:
        return torch.minimum(torch.maximum(x, self.low), self.high)

    def whole(self, x: Tensor) -> Tensor:
        """The nearest image of 8 bits, in the ball for an ``x`` in it; with the gradient of the identity."""
        return straight_rounded(x)

    def some(self, chosen: Tensor) -> Ball:
        """Of some of the images."""
        return Ball(self.pixels[chosen], self.steps)


def margins(logits: Tensor, labels: Tensor) -> Tensor:
    """By how much the label's logit is above all others, (N,); below 0 the network is fooled."""
    own = logits.gather(1, labels[:, None])[:, 0]
    return own - logits.scatter(1, labels[:, None], -torch.inf).amax(1)


def log_odds(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy for an attack: log((1 - p) / p) of the label's probability p.

    Cross-entropy is log(1 + exp(this)): it rises with it, and along the same gradient, which is (1 - p) times as long,
    and in float32 is 0 where the network is sure. Here it is not.
    """
    own = logits.gather(1, labels[:, None])[:, 0]
    return logits.scatter(1, labels[:, None], -torch.inf).logsumexp(1) - own


def dlr(logits: Tensor, labels: Tensor) -> Tensor:
    """The difference of logits ratio (Croce and Hein 2020): minus the margin, over the gap from first to third.

    It is the same for logits of any size, and so does not vanish where the network is sure. It takes three classes.
    """
    ordered = logits.sort(1, descending=True).values
    return -margins(logits, labels) / (ordered[:, 0] - ordered[:, 2] + 1e-12)


@dataclass
class Found:
    """The best image so far of each, by its margin; it begins with the images as they are.

    ``queries``: answers of the network that it took, for each image. ``by_step``: the mean margin of the images that
    were looked at, at the start and behind each step.
    """

    pixels: Tensor
    margins: Tensor
    queries: Tensor
    by_step: list[float] = field(default_factory=list)

    @staticmethod
    def of(ball: Ball, clean: Tensor) -> Found:
        """``clean``: the margins of the images as they are."""
        return Found(ball.pixels.clone(), clean.clone(), torch.zeros(len(clean), dtype=torch.int64))

    def see(self, pixels: Tensor, margins: Tensor) -> None:
        """What the network says of ``pixels``, all of which lie in the ball."""
        better = margins < self.margins
        self.pixels = torch.where(better[:, None, None, None], pixels, self.pixels)
        self.margins = torch.where(better, margins, self.margins)
        self.queries += 1
        self.by_step.append(margins.mean().item())

    @property
    def held(self) -> Tensor:
        """Where the network is right on the worst image that was found, (N,) of bool."""
        return self.margins > 0
