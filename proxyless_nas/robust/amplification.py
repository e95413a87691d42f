"""How an error grows from layer to layer: D_l = ||X_l - X_l'|| / ||X_l||, X' being that of the attacked image.

Lin, Gan and Han's figure 3: in a quantized network it grows faster with depth than in a float one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from proxyless_nas.network import ProxylessNet
from proxyless_nas.robust.ball import Forward, pixel_forward


def places(net: ProxylessNet) -> Iterator[tuple[str, nn.Module]]:
    """The image, the stem, each block, the feature mix and the logits: what D is measured behind."""
    yield "first_conv", net.first_conv
    for index, block in enumerate(net.blocks):
        yield f"blocks.{index}", block
    if not isinstance(net.feature_mix_layer, nn.Identity):
        yield "feature_mix_layer", net.feature_mix_layer
    yield "classifier", net.classifier


class Recorder:
    """Notes what passes the places of a network while it is open."""

    def __init__(self, net: ProxylessNet) -> None:
        self.net, self.seen = net, dict[str, Tensor]()
        self.forward: Forward = pixel_forward(net, net.spec.preprocessing)

    @torch.no_grad()
    def activations(self, pixels: Tensor) -> dict[str, Tensor]:
        """Of each place, the image's pixels first, (N, ...)."""
        self.seen = {"image": pixels}
        handles = [module.register_forward_hook(self._noting(name)) for name, module in places(self.net)]
        try:
            self.forward(pixels)
        finally:
            for handle in handles:
                handle.remove()
        return self.seen

    def _noting(self, name: str):  # type: ignore[no-untyped-def]
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            self.seen[name] = output.clone()

        return hook


@dataclass
class Amplification:
    """The sums of D over images, by place."""

    sums: dict[str, float] = field(default_factory=dict)
    n_images: int = 0

    def plus(self, other: Amplification) -> Amplification:
        names = self.sums or other.sums
        joined = {name: self.sums.get(name, 0.0) + other.sums.get(name, 0.0) for name in names}
        return Amplification(joined, self.n_images + other.n_images)

    @property
    def means(self) -> dict[str, float]:
        return {name: total / max(1, self.n_images) for name, total in self.sums.items()}


def amplification(net: ProxylessNet, pixels: Tensor, attacked: Tensor) -> Amplification:
    """Of the images ``pixels`` and what became of them. Images whose activation is 0 throughout count as 0."""
    recorder = Recorder(net)
    clean, noisy = recorder.activations(pixels), recorder.activations(attacked)
    sums = {name: _relative(clean[name], noisy[name]).sum().item() for name in clean}
    return Amplification(sums, len(pixels))


def _relative(clean: Tensor, noisy: Tensor) -> Tensor:
    """(N,) of float64, on the CPU."""
    size = clean.flatten(1).double().norm(dim=1)
    error = (clean.double() - noisy.double()).flatten(1).norm(dim=1)
    return torch.where(size > 0, error / size.clamp(min=1e-30), torch.zeros_like(size)).cpu()
