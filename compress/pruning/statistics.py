"""One pass over calibration images: the moments of the features in front of every site (pruner.py)."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compress.pruning.pruner import Statistics, sites_of
from compress.pruning.reconstruct import Moments
from proxyless_arch.arch.shrink import FEATURE_MIX, LAST_STAGE
from proxyless_arch.data.streams import TorchStream, torch_seed
from proxyless_arch.space.shrinking import Group
from proxyless_nas.network import ProxylessNet

ROWS_OF_IMAGE = 128
"""Positions of a feature map that are taken of an image, at most: neighbours say the same."""


def kernels_of(groups: Iterable[Group]) -> dict[int, tuple[int, ...]]:
    """The smaller kernels to choose from, by block."""
    return {
        int(axis.name.removeprefix("blocks.")): axis.options[:-1]
        for group in groups
        for axis in group.axes
        if axis.kind == "kernel"
    }


def rows_of(features: Tensor, generator: torch.Generator) -> tuple[np.ndarray, Tensor]:
    """((rows, channels) of some positions of (N, channels, h, w), these positions): the same ones of all images."""
    flat = features.flatten(2)
    count = flat.shape[2]
    places = torch.randperm(count, generator=generator)[:ROWS_OF_IMAGE].sort().values
    return taken(features, places), places


def taken(features: Tensor, places: Tensor) -> np.ndarray:
    rows = features.flatten(2)[:, :, places.to(features.device)].permute(0, 2, 1)
    return rows.reshape(-1, features.shape[1]).float().cpu().numpy()


@torch.no_grad()
def make_bn_true(net: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], device: torch.device) -> None:
    """Give every BN the statistics of its own inputs, and its weight and bias what keeps its output as it was.

    A network fine-tuned on few images may hold the BN statistics of the images it was trained on first. It computes
    the same behind this, but recalibrating it, whole or pruned, and training it on no longer changes what it means.
    """
    layers = [layer for layer in net.modules() if isinstance(layer, nn.BatchNorm2d)]
    sums = {layer: torch.zeros(3, layer.num_features, dtype=torch.float64, device=device) for layer in layers}

    def hook(layer: nn.Module, given: tuple[Tensor]) -> None:
        x = given[0].double().transpose(0, 1).flatten(1)
        sums[layer] += torch.stack([torch.full_like(x[:, 0], x.shape[1]), x.sum(1), (x * x).sum(1)])  # type: ignore[index]

    handles = [layer.register_forward_pre_hook(hook) for layer in layers]
    try:
        for images, _ in batches:
            net.eval()(images.to(device))
    finally:
        for handle in handles:
            handle.remove()
    for layer, (count, first, second) in sums.items():
        mean = first / count
        variance = (second / count - mean**2).clamp(min=0)
        scale = layer.weight / torch.sqrt(layer.running_var.double() + layer.eps)
        layer.bias += scale * (mean - layer.running_mean)
        layer.weight.copy_(scale * torch.sqrt(variance + layer.eps))
        layer.running_mean.copy_(mean)
        layer.running_var.copy_(variance)


class _Collector:
    """Hooks on a network that add up moments while it runs."""

    def __init__(self, net: ProxylessNet, kernels: dict[int, tuple[int, ...]], seed: int) -> None:
        self.generator = torch.Generator().manual_seed(torch_seed(seed, TorchStream.FEATURE_PLACES))
        self.halves: dict[str, tuple[Moments, Moments]] = {}
        self.cropped: dict[tuple[str, int], Moments] = {}
        self.kernel_bn: dict[tuple[str, int], list[np.ndarray]] = {}
        self.batch = 0
        self.handles = []
        for name, site in sites_of(net.spec).items():
            if site.block is not None and site.maker is not None:
                layer = net.get_submodule(site.maker)
                self.handles.append(layer.register_forward_hook(self._hook(name, kernels.get(site.block, ()))))
            elif name == LAST_STAGE:
                self.handles.append(net.blocks[-1].register_forward_hook(self._hook(name, ())))
            elif name == FEATURE_MIX:
                self.handles.append(net.feature_mix_layer.register_forward_hook(self._hook(name, ())))

    def _hook(self, name: str, kernels: tuple[int, ...]) -> Callable[..., None]:
        def hook(module: nn.Module, given: tuple[Tensor], output: Tensor) -> None:
            rows, places = rows_of(output, self.generator)
            width = rows.shape[1]
            halves = self.halves.setdefault(name, (Moments.zeros(width), Moments.zeros(width)))
            halves[self.batch % 2].add(rows)
            for kernel in kernels:
                other, mean, variance = _with_kernel(module, given[0], kernel)
                self.cropped.setdefault((name, kernel), Moments.zeros(width)).add(taken(other, places), rows)
                sums = self.kernel_bn.setdefault((name, kernel), [np.zeros(width), np.zeros(width)])
                sums[0] += mean
                sums[1] += variance

        return hook

    def settled(self, n_images: int) -> Statistics:
        found = {name: _sum(*halves).settled(True) for name, halves in self.halves.items()}
        return Statistics(
            n_images=n_images,
            covariances=found,
            halves={
                name: tuple(half.settled(True) if half.n else found[name] for half in halves)  # type: ignore[misc]
                for name, halves in self.halves.items()
            },
            cropped={key: moments.settled(False) for key, moments in self.cropped.items()},
            kernel_bn={key: (sums[0] / self.batch, sums[1] / self.batch) for key, sums in self.kernel_bn.items()},
        )


def _sum(one: Moments, other: Moments) -> Moments:
    return Moments(*(getattr(one, name) + getattr(other, name) for name in vars(one)))


def _with_kernel(layer: nn.Module, x: Tensor, kernel: int) -> tuple[Tensor, np.ndarray, np.ndarray]:
    """(what the middle of a depthwise convolution's kernel gives, BN by the batch; that batch's mean and variance)."""
    conv = layer.conv
    margin = (conv.kernel_size[0] - kernel) // 2
    weight = conv.weight[..., margin : margin + kernel, margin : margin + kernel]
    smaller = type(conv)(
        conv.in_channels,
        conv.out_channels,
        kernel,
        stride=conv.stride,
        padding=conv.padding if isinstance(conv.padding, str) or conv.padding == (0, 0) else kernel // 2,
        groups=conv.groups,
        bias=False,
    ).to(x.device)
    smaller.weight = nn.Parameter(weight.contiguous(), requires_grad=False)
    raw = smaller(x)
    variance, mean = torch.var_mean(raw.double(), dim=(0, 2, 3))
    bn = layer.bn
    normal = F.batch_norm(raw, mean.float(), variance.float(), bn.weight, bn.bias, False, 0.0, bn.eps)
    return layer.act(normal), mean.cpu().numpy(), variance.cpu().numpy()


@torch.no_grad()
def collect(
    net: ProxylessNet,
    batches: Iterable[tuple[Tensor, Tensor]],
    groups: Iterable[Group],
    device: torch.device,
    seed: int,
) -> Statistics:
    """Run the network in eval mode on calibration images; see Statistics."""
    collector = _Collector(net.eval(), kernels_of(groups), seed)
    n_images = 0
    try:
        for images, _ in batches:
            net(images.to(device))
            n_images += len(images)
            collector.batch += 1
    finally:
        for handle in collector.handles:
            handle.remove()
    return collector.settled(n_images)
