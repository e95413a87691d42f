"""Where every layer's input and output lie, and what it costs, found without running a network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from proxyless_arch.arch.ops import Hwc, Operation
from proxyless_arch.arch.spec import ArchSpec
from proxyless_arch.base.errors import InputError
from proxyless_arch.base.sides import Sides, height_width


@dataclass(frozen=True)
class LayerCall:
    """One layer applied to one input size.

    ``in_hwc`` and ``out_hwc`` are (height, width, channels). For the classifier ``in_hwc`` is the feature map in
    front of the global average pool and ``out_hwc`` is (1, 1, classes). ``skip``: an identity skip is added.
    """

    name: str
    op: Operation
    in_hwc: Hwc
    out_hwc: Hwc
    skip: bool = False

    @property
    def tensor_prefix(self) -> str:
        """What the names of its weight tensors start with."""
        return f"{self.name}.mobile_inverted_conv" if self.name.startswith("blocks.") else self.name

    @property
    def parts(self) -> tuple[LayerCall, ...]:
        """The layers that latency tables hold of it: itself, unless it is made of others."""
        parts = [
            LayerCall(f"{self.name}.{name}", op, in_hwc, op.out_hwc(in_hwc))
            for name, op, in_hwc in self.op.parts(self.in_hwc)
        ]
        return tuple(parts) or (self,)

    @property
    def macs(self) -> int:
        """Multiply-accumulates per image."""
        return self.op.macs(self.in_hwc)

    @property
    def params(self) -> int:
        """Trainable parameters: convolution weights, batch-normalization scale and shift, linear weight and bias."""
        return self.op.params


def walk(spec: ArchSpec, resolution: Sides | None = None) -> tuple[LayerCall, ...]:
    """Every layer of ``spec`` in order, at ``resolution`` (pixels; default: the spec's own)."""
    sides = resolution if resolution is not None else spec.resolution
    hwc: Hwc = (*height_width(sides), spec.stem.in_channels)
    calls: list[LayerCall] = []
    for name, op, skip in (
        ("first_conv", spec.stem, False),
        *((f"blocks.{index}", block.op, block.skip) for index, block in enumerate(spec.blocks)),
        *([("feature_mix_layer", spec.feature_mix, False)] if spec.feature_mix is not None else []),
        ("classifier", spec.classifier, False),
    ):
        calls.append(LayerCall(name, op, hwc, op.out_hwc(hwc), skip))
        hwc = calls[-1].out_hwc
    return tuple(calls)


def total_macs(spec: ArchSpec, resolution: Sides | None = None) -> int:
    """MACs of a whole network for one image."""
    return sum(call.macs for call in walk(spec, resolution))


def total_params(spec: ArchSpec) -> int:
    """Trainable parameters of a whole network."""
    return sum(call.params for call in walk(spec))


@dataclass(frozen=True)
class Stage:
    """The last layer at one size of the feature maps. ``reduction``: pixels of the image per pixel of the map."""

    name: str
    reduction: int
    channels: int


def stages(spec: ArchSpec) -> tuple[Stage, ...]:
    """Where the feature maps of each size are finished: what a detector or a segmentation takes, large maps first."""
    found: dict[int, Stage] = {}
    reduction = 1
    for name, op in (("first_conv", spec.stem), *((f"blocks.{k}", block.op) for k, block in enumerate(spec.blocks))):
        reduction *= op.stride
        found[reduction] = Stage(name, reduction, op.out_channels)
    return tuple(found.values())


def chosen_stages(spec: ArchSpec, indices: Sequence[int] | None) -> tuple[Stage, ...]:
    """Some of the stages, by their numbers (from the end when negative); all for None.

    Raises:
        InputError: no such stage.
    """
    every = stages(spec)
    for index in indices or ():
        if not -len(every) <= index < len(every):
            raise InputError(f"expected numbers in {-len(every)}..{len(every) - 1}, got {index}", "out_indices")
    return every if indices is None else tuple(every[index] for index in indices)
