"""What a network scores on images, and the layers that it runs through one after the other."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from proxyless_arch.base.progress import Progress
from proxyless_nas.network import ProxylessNet

Images = Sequence[tuple[Tensor, Tensor]]
Watch = Callable[[str, float, str], Progress]
"""Shows what is being done, and how far so many of a unit have come."""


def unseen(doing: str, total: float, unit: str) -> Progress:
    return Progress(total, unit, hidden=True)


@dataclass(frozen=True)
class Score:
    """On the images that choose: mean cross-entropy, and hits of top-1."""

    loss: float
    hits: int
    n_images: int

    @property
    def top1_percent(self) -> float:
        return 100 * self.hits / self.n_images


def layers_of(net: ProxylessNet) -> list[nn.Module]:
    """first_conv, blocks, and the rest from the feature mix to the logits."""
    return [net.first_conv, *net.blocks, _Head(net)]


class _Head(nn.Module):
    """Feature mix, pool and classifier."""

    def __init__(self, net: ProxylessNet) -> None:
        super().__init__()
        self.feature_mix_layer, self.classifier = net.feature_mix_layer, net.classifier

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.feature_mix_layer(x).mean((2, 3)))


@torch.no_grad()
def score_of(net: ProxylessNet, batches: Images, device: torch.device) -> Score:
    losses, hits, count = [], 0, 0
    for images, labels in batches:
        logits, labels = net(images.to(device)).float(), labels.to(device)
        losses.append(F.cross_entropy(logits, labels, reduction="sum").item())
        hits += int((logits.argmax(1) == labels).sum())
        count += len(labels)
    return Score(math.fsum(losses) / count, hits, count)
