"""A spec becomes a torch module."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from proxyless_arch.apps.prediction import class_names
from proxyless_arch.arch.spec import ArchSpec, with_classes
from proxyless_arch.arch.walk import Stage, chosen_stages, walk
from proxyless_arch.base.errors import InputError
from proxyless_arch.base.sides import height_width
from proxyless_nas.data import ImageTransform
from proxyless_nas.layers import ResidualBlock, build_op, init_weights, zero_last_gamma


class ProxylessNet(nn.Module):
    """A network of the ProxylessNAS family; takes (N, channels, H, W) at any size, gives (N, classes) logits.

    ``spec`` is the architecture it was built from; its preprocessing says how images are prepared. Without its top the
    network has no classifier and gives the feature map in front of the pool, (N, features, h, w), or with
    ``global_pool`` "avg" the mean of each of its features, (N, features).

    Other names and habits are timm's: ``reset_classifier``, ``forward_head``, ``num_features``, ``default_cfg``.

    Args:
        spec: the architecture.
        include_top: whether it has the pool and the classifier.
        global_pool: without its top, "avg" or "" (none).
        in_chans: channels of its input, in place of the spec's. The spec stays as it is, and with another number the
            weights are no longer those of the contract: save the state dict.
    """

    def __init__(
        self, spec: ArchSpec, include_top: bool = True, *, global_pool: str = "", in_chans: int | None = None
    ) -> None:
        super().__init__()
        self.spec = spec
        self.include_top = include_top
        self.global_pool = "avg" if include_top else _pool(global_pool)
        self.first_conv = build_op(
            replace(spec.stem, in_channels=in_chans or spec.stem.in_channels), spec.bn, spec.padding
        )
        self.blocks = nn.ModuleList(ResidualBlock(block, spec.bn, spec.padding) for block in spec.blocks)
        mix = spec.feature_mix
        self.feature_mix_layer = nn.Identity() if mix is None else build_op(mix, spec.bn, spec.padding)
        if include_top:
            self.classifier = build_op(spec.classifier, spec.bn, spec.padding)

    def __iter__(self) -> Iterator[Any]:
        """``net, transform, classes = load(...)``: itself, how an image becomes its input, the names of its classes."""
        return iter((self, ImageTransform(self.spec.preprocessing), class_names(self.spec)))

    def forward_features(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) -> the feature map in front of the pool, (N, features, h, w)."""
        x = self.first_conv(x)
        for block in self.blocks:
            x = block(x)
        return self.feature_mix_layer(x)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """What comes behind forward_features; with ``pre_logits`` without the classifier."""
        if self.global_pool:
            x = x.mean((2, 3))
        return self.classifier(x) if self.include_top and not pre_logits else x

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))

    @property
    def num_features(self) -> int:
        """Width of the feature map in front of the pool."""
        return self.spec.classifier.in_features

    @property
    def num_classes(self) -> int:
        """0 without a classifier."""
        return self.spec.num_classes if self.include_top else 0

    @property
    def default_cfg(self) -> dict[str, Any]:
        """What timm's models say of themselves: input, preprocessing, names of the first and the last layer."""
        how = self.spec.preprocessing
        return {
            "architecture": self.spec.name,
            "num_classes": self.num_classes,
            "input_size": (self.first_conv.conv.in_channels, *how.hwc[:2]),
            "pool_size": walk(self.spec)[-1].in_hwc[:2],
            "crop_pct": how.hwc[0] / height_width(how.resize)[0],
            "interpolation": how.interpolation,
            "mean": how.mean,
            "std": how.std,
            "first_conv": "first_conv.conv",
            "classifier": "classifier.linear",
        }

    @property
    def pretrained_cfg(self) -> dict[str, Any]:
        """The same as default_cfg."""
        return self.default_cfg

    def get_classifier(self) -> nn.Module:
        """The linear layer of the classifier; an identity without one."""
        return self.classifier.linear if self.include_top else nn.Identity()

    def reset_classifier(self, num_classes: int, global_pool: str = "avg") -> None:
        """A fresh classifier for ``num_classes`` classes; 0 removes it.

        Args:
            num_classes: of the new one.
            global_pool: where it is removed, "avg" or "" (none).

        Raises:
            InputError: no number of classes, or another pool.
        """
        pool = _pool(global_pool)
        if num_classes == 0:
            self.include_top, self.global_pool = False, pool
            self._modules.pop("classifier", None)
            return
        weight = self.first_conv.conv.weight
        self.spec = with_classes(self.spec, num_classes)
        head = build_op(self.spec.classifier, self.spec.bn, self.spec.padding).to(weight.device, weight.dtype)
        init_weights(head)
        self.classifier = head.train(self.training)
        self.include_top, self.global_pool = True, "avg"


def _pool(word: str) -> str:
    if word not in ("avg", ""):
        raise InputError(f"expected 'avg' or '', got {word!r}", "global_pool")
    return word


class FeatureNet(nn.Module):
    """A network as the backbone of another: takes (N, 3, H, W), gives the list of its feature maps, large ones first.

    ``feature_info`` has the layer, the reduction and the channels of each.

    Args:
        net: its layers are shared, not copied.
        out_indices: which of the sizes; all by default.

    Raises:
        InputError: no such size.
    """

    def __init__(self, net: ProxylessNet, out_indices: Sequence[int] | None = None) -> None:
        super().__init__()
        self.feature_info = FeatureInfo(chosen_stages(net.spec, out_indices))
        wanted = [stage.name for stage in self.feature_info.stages]
        names = ["first_conv", *(f"blocks.{index}" for index in range(len(net.blocks)))]
        self._names = names[: 1 + max(map(names.index, wanted))]
        self.spec = net.spec
        self.first_conv = net.first_conv
        self.blocks = net.blocks[: len(self._names) - 1]

    def forward(self, x: Tensor) -> list[Tensor]:
        maps: dict[str, Tensor] = {}
        for name, layer in zip(self._names, (self.first_conv, *self.blocks), strict=True):
            maps[name] = x = layer(x)
        return [maps[stage.name] for stage in self.feature_info.stages]


@dataclass(frozen=True)
class FeatureInfo:
    """The maps of a FeatureNet, as timm's feature_info says it."""

    stages: tuple[Stage, ...]

    def channels(self) -> list[int]:
        return [stage.channels for stage in self.stages]

    def reduction(self) -> list[int]:
        return [stage.reduction for stage in self.stages]

    def module_name(self) -> list[str]:
        return [stage.name for stage in self.stages]


def build(
    spec: ArchSpec,
    generator: torch.Generator | None = None,
    *,
    include_top: bool = True,
    zero_gamma: bool = False,
    global_pool: str = "",
    in_chans: int | None = None,
) -> ProxylessNet:
    """The network of ``spec`` with He fan-out weights, in channels_last memory.

    Args:
        spec: the architecture.
        generator: of the initial weights.
        include_top: without it the output is the feature map in front of the pool, (N, feature_mix width, h, w).
        zero_gamma: start every block with a skip as the identity, which trains faster in short runs.
        global_pool: see ProxylessNet.
        in_chans: see ProxylessNet.
    """
    net = ProxylessNet(spec, include_top, global_pool=global_pool, in_chans=in_chans)
    init_weights(net, generator)
    if zero_gamma:
        for block in net.blocks:
            if block.skip:
                zero_last_gamma(block.mobile_inverted_conv)
    return net.to(memory_format=torch.channels_last)
