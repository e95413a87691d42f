"""A fitted price of layers: a sum of terms that a layer's shape determines.

The terms are multiply-accumulates of the 1x1 convolutions, taps of the depthwise one, elements written.
``tables/pixel1.json`` was fitted on the published Pixel 1 table mobile_trim.yaml; its errors are in the file.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from hardware.formats import (
    MAX_MS,
    STEM_KERNEL,
    check_format,
    parse_calibration,
    parse_hwc,
    parse_ms,
    parse_remarks,
    shape_text,
)
from proxyless_arch.arch.ops import Bottleneck, Conv, Linear, strided
from proxyless_arch.arch.walk import LayerCall
from proxyless_arch.base.errors import InputError
from proxyless_arch.base.strict import Node

PREDICTOR_FORMAT = "proxyless-latency/predictor"
PREDICTOR_VERSIONS = (1,)

FeatureSet = Literal["core", "full"]


# Features of the predictor ------------------------------------------------------------------------------------------


def mean_taps(size: int, kernel: int, stride: int) -> float:
    """Mean number of kernel taps per output position that fall inside an image of ``size`` pixels, in 1-D, exactly.

    It is the same for symmetric padding k//2 and TensorFlow's "SAME": where the two differ (stride 2, even size)
    they are mirror images.
    """
    outputs = strided(size, stride)
    starts = (index * stride - kernel // 2 for index in range(outputs))
    return sum(min(start + kernel, size) - max(start, 0) for start in starts) / outputs


CORE_FEATURES = ("pw_mac", "dw_mac_eff", "exp_out_el", "dw_out_el", "skip_el")
FULL_FEATURES = (*CORE_FEATURES, "exp_in_el", "proj_out_el", "w_pw", "w_dw")
FEATURES: Mapping[str, tuple[str, ...]] = {"core": CORE_FEATURES, "full": FULL_FEATURES}


def mbconv_features(call: LayerCall, channel_tile: int) -> dict[str, float]:
    """Per image, in 1e6 multiply-accumulates, elements or weights; a coefficient is then ns per one of them.

    Channels are padded to ``channel_tile`` where a matrix product works on whole tiles. The depthwise term counts
    taps inside the image only: measured times are linear in those, not in kernel_size ** 2.
    Raises TypeError when the layer is no inverted bottleneck.
    """
    op, parts = call.op, call.op.bottleneck
    if parts is None:
        raise TypeError(f"expected an inverted bottleneck (MBConv), got {type(op).__name__}")
    (height, width, c_in), (out_height, out_width, c_out) = call.in_hwc, call.out_hwc
    mid, kernel, expands = parts.hidden_channels, parts.kernel_size, parts.expands
    pixels, out_pixels = height * width, out_height * out_width

    def tiled(channels: int) -> int:
        return -(-channels // channel_tile) * channel_tile

    taps = mean_taps(height, kernel, op.stride) * mean_taps(width, kernel, op.stride)
    counts = {
        "pw_mac": expands * pixels * tiled(c_in) * tiled(mid) + out_pixels * tiled(mid) * tiled(c_out),
        "dw_mac_eff": out_pixels * mid * taps,
        "exp_out_el": expands * pixels * tiled(mid),
        "dw_out_el": out_pixels * tiled(mid),
        "skip_el": call.skip * out_pixels * c_out,
        "exp_in_el": expands * pixels * c_in,
        "proj_out_el": out_pixels * c_out,
        "w_pw": expands * c_in * mid + mid * c_out,
        "w_dw": kernel * kernel * mid,
    }
    return {name: count / 1e6 for name, count in counts.items()}


# Predictor ----------------------------------------------------------------------------------------------------------


class FixedOp(NamedTuple):
    """A measured layer that networks have once, from which its like are scaled."""

    in_shape: tuple[int, ...]
    out_shape: tuple[int, ...]
    ms: float


def fixed_name(call: LayerCall) -> str | None:
    """As the files call a layer that networks have once: stem, 1x1 convolution, classifier; None of another."""
    match call.op:
        case Conv(kernel_size=1):
            return "Conv_1"
        case Conv():
            return "Conv"
        case Linear():
            return "Logits"
    return None


def fixed_shapes(call: LayerCall) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Input and output of such a layer as the files have them: behind a pool, the features alone."""
    if call.op.pools_first:
        return (call.op.in_channels,), (call.op.out_channels,)
    return call.in_hwc, call.out_hwc


@dataclass(frozen=True)
class Predictor:
    """A fitted price of layers, in ms.

    MBConv: ``sum(coefficients[f] * features[f]) + const_ms``.
    Stem ("Conv"): the measured one scaled by multiply-accumulates, that is linear in output channels and output area.
    1x1 convolution ("Conv_1"): its pw_mac and exp_out_el terms, scaled so that the measured one is met.
    Classifier with its pooling ("Logits"): linear in input features and classes. Zero: 0.

    ``scale`` and ``offset_ms`` were fitted on measured whole networks (1 and 0: not calibrated).
    ``provenance`` and ``error`` are the file's own words on where the numbers come from and how far off they are.
    """

    source: str
    channel_tile: int
    feature_set: FeatureSet
    coefficients: Mapping[str, float] = field(hash=False)
    const_ms: float
    fixed_ops: Mapping[str, FixedOp] = field(hash=False)
    validity: Mapping[str, tuple[float, float]] = field(hash=False)
    scale: float = 1.0
    offset_ms: float = 0.0
    provenance: Mapping[str, Any] = field(default_factory=dict, hash=False)
    error: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @classmethod
    def from_node(cls, node: Node, source: str) -> Predictor:
        """Parse the predictor format strictly. Raises InputError naming the key."""
        check_format(node, PREDICTOR_FORMAT, PREDICTOR_VERSIONS)
        top = node.fields(
            ("format", "version", "unit", "model", "fixed_ops", "net_calibration", "validity"),
            ("feature_unit", "provenance", "error"),
        )
        model = top["model"].fields(("kind", "loss", "padding", "channel_tile", "feature_set", "coefficients"))
        feature_set = model["feature_set"].text(tuple(FEATURES))
        model["kind"].exactly("nnls_roofline_sum")
        model["loss"].exactly("relative")
        model["padding"].exactly("SAME", "symmetric")  # no feature depends on which
        names = FEATURES[feature_set]
        numbers = model["coefficients"].fields((*names, "const_ms"))
        coefficients = {name: numbers[name].number(0, MAX_MS) for name in names}
        scale, offset_ms, _ = parse_calibration(top["net_calibration"])
        predictor = cls(
            source=source,
            channel_tile=model["channel_tile"].integer(1, 1024),
            feature_set="core" if feature_set == "core" else "full",
            coefficients=coefficients,
            const_ms=numbers["const_ms"].number(0, MAX_MS),
            fixed_ops=_fixed_ops(top["fixed_ops"]),
            validity=_validity(top["validity"]),
            scale=scale,
            offset_ms=offset_ms,
            provenance=parse_remarks(top.get("provenance")),
            error=parse_remarks(top.get("error")),
        )
        if predictor._pointwise_terms(*predictor.fixed_ops["Conv_1"][:2]) <= 0:
            raise InputError("expected pw_mac or exp_out_el above 0: they scale Conv_1", "model.coefficients")
        return predictor

    def price_ms(self, call: LayerCall) -> float:
        """One layer, with the scale (not the offset) of the whole-network calibration."""
        return self.scale * self.op_ms(call)

    def op_ms(self, call: LayerCall) -> float:
        """One layer as it would be timed by itself: without whole-network calibration."""
        op = call.op
        if op.vanishes:
            return 0.0
        if op.bottleneck is not None:
            features = mbconv_features(call, self.channel_tile)
            return math.fsum((self.const_ms, *(self.coefficients[name] * features[name] for name in self.coefficients)))
        name = fixed_name(call)
        if name is None:
            raise InputError(f"the predictor has no price for {op.label}", call.name, self.source)
        reference = self.fixed_ops[name]
        if name == "Conv_1":
            ratio = self._pointwise_terms(call.in_hwc, call.out_hwc) / self._pointwise_terms(*reference[:2])
            return reference.ms * ratio
        if name == "Conv":
            reference_macs = STEM_KERNEL**2 * reference.in_shape[2] * math.prod(reference.out_shape)
            kernel = op.latency_facts()["kernel_size"]
            return reference.ms * kernel**2 * op.in_channels * math.prod(call.out_hwc) / reference_macs
        weights = reference.in_shape[-1] * reference.out_shape[-1]
        return reference.ms * op.in_channels * op.out_channels / weights

    def _pointwise_terms(self, in_shape: Sequence[int], out_shape: Sequence[int]) -> float:
        """ms that the MBConv coefficients give a lone 1x1 convolution, before scaling to the measured one."""
        tile = self.channel_tile
        c_in, c_out = (-(-shape[2] // tile) * tile for shape in (in_shape, out_shape))
        pixels = out_shape[0] * out_shape[1]
        return (self.coefficients["pw_mac"] * c_in + self.coefficients["exp_out_el"]) * pixels * c_out / 1e6

    def extrapolated(self, call: LayerCall) -> tuple[str, ...]:
        """What about ``call`` lies outside the layers the predictor was fitted on; empty inside."""
        op = call.op
        if op.bottleneck is not None:
            return self._beyond_validity(call, op.bottleneck)
        name = fixed_name(call)
        return () if name is None else self._scaled(name, *fixed_shapes(call))

    def _beyond_validity(self, call: LayerCall, parts: Bottleneck) -> tuple[str, ...]:
        received = (
            ("h", "input size", call.in_hwc[:2]),
            ("h", "output size", call.out_hwc[:2]),
            ("cin", "in_channels", (call.op.in_channels,)),
            ("cout", "out_channels", (call.op.out_channels,)),
            ("mid", "mid_channels", (parts.hidden_channels,)),
            ("kernel", "kernel_size", (parts.kernel_size,)),
            ("expand", "expand_ratio", (parts.expand_ratio,)),
        )
        return tuple(
            f"{label} {max(values) if max(values) > high else min(values)} is outside {low:g}..{high:g}"
            for key, label, values in received
            for low, high in (self.validity[key],)
            if not low <= min(values) <= max(values) <= high
        )

    def _scaled(self, name: str, in_shape: tuple[int, ...], out_shape: tuple[int, ...]) -> tuple[str, ...]:
        reference = self.fixed_ops[name]
        if (reference.in_shape, reference.out_shape) == (in_shape, out_shape):
            return ()
        return (
            f"{shape_text(in_shape)} to {shape_text(out_shape)} is scaled from the measured "
            f"{shape_text(reference.in_shape)} to {shape_text(reference.out_shape)}",
        )


FIXED_RULES = {
    "Conv": "linear in out_channels",
    "Conv_1": "pw_mac+exp_out scaled to ref",
    "Logits": "linear in in_features",
}


def _fixed_ops(node: Node) -> dict[str, FixedOp]:
    parsed = {}
    for name, entry in node.fields(tuple(FIXED_RULES)).items():
        keys = entry.fields(("rule", "ref", "ms"))
        keys["rule"].exactly(FIXED_RULES[name])
        ref = keys["ref"].fields(("in", "out"))
        in_shape, out_shape = (
            (ref[key].integer(maximum=65_536),) if name == "Logits" else parse_hwc(ref[key]) for key in ("in", "out")
        )
        parsed[name] = FixedOp(in_shape, out_shape, parse_ms(keys["ms"]))
    return parsed


def _validity(node: Node) -> dict[str, tuple[float, float]]:
    parsed = {}
    for key, entry in node.fields(("h", "cin", "cout", "mid", "kernel", "expand")).items():
        low, high = (bound.number(0) for bound in entry.elements(2, 2))
        if low > high:
            raise entry.fail("[smallest, largest]")
        parsed[key] = (low, high)
    return parsed
