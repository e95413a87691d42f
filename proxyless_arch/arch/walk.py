"""Where every layer's input and output lie, and what it costs, found without running a network."""

from __future__ import annotations

from dataclasses import dataclass

from proxyless_arch.arch.ops import Hwc, Operation
from proxyless_arch.arch.spec import ArchSpec


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
    def macs(self) -> int:
        """Multiply-accumulates per image."""
        return self.op.macs(self.in_hwc)

    @property
    def params(self) -> int:
        """Trainable parameters: convolution weights, batch-normalization scale and shift, linear weight and bias."""
        return self.op.params


def walk(spec: ArchSpec, resolution: int | None = None) -> tuple[LayerCall, ...]:
    """Every layer of ``spec`` in order, at ``resolution`` (pixels; default: the spec's own)."""
    size = resolution if resolution is not None else spec.resolution
    hwc: Hwc = (size, size, spec.stem.in_channels)
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


def total_macs(spec: ArchSpec, resolution: int | None = None) -> int:
    """MACs of a whole network for one image."""
    return sum(call.macs for call in walk(spec, resolution))


def total_params(spec: ArchSpec) -> int:
    """Trainable parameters of a whole network."""
    return sum(call.params for call in walk(spec))
