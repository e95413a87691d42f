"""Pricing layers in milliseconds, without running them.

Two sources of prices, and their combination:

* LookupTable: measured layers, exact keys. Our JSON format, or the YAML that was released with ProxylessNAS.
* Predictor: a fitted sum of terms a layer's shape determines (multiply-accumulates of the 1x1 convolutions, taps of
  the depthwise one, elements written). ``tables/pixel1.json`` was fitted on the published Pixel 1 table
  mobile_trim.yaml; its errors are in the file.
* WithFallback: the table, and the predictor for layers the table lacks.

A number from here is predicted; it is never to be reported as measured.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

from proxyless_arch.arch.ops import Conv, Hwc, Linear, MBConv, Zero, strided
from proxyless_arch.arch.walk import LayerCall
from proxyless_arch.base.errors import InputError
from proxyless_arch.base.files import parse_json, read_bytes, write_json
from proxyless_arch.base.strict import Node, listed, nearest

if TYPE_CHECKING:
    import yaml

TABLE_FORMAT = "proxyless-latency/table"
PREDICTOR_FORMAT = "proxyless-latency/predictor"
PREDICTOR_VERSIONS = (1,)
TABLE_VERSIONS = (1, 2)  # the last one is written; of the first, see _entry
SHIPPED_FOLDER = Path(__file__).parent / "tables"
MAX_MS = 1e6  # a layer that takes longer than this is a typing error
# of the released YAML, which names no unit; a Pixel 1 does 3e6 a millisecond, its whole table takes 400 ms
MAX_MACS_PER_MS = 1e9  # on one image; layers this small keep a server's GPU below it
MAX_TABLE_MS = 1e5  # all layers together, a few networks' worth
STEM_KERNEL = 3  # of the stem that fixed_ops.Conv was measured on; every network of the family has it

FeatureSet = Literal["core", "full"]


class LatencySource(Protocol):
    """Whatever prices layers; a network costs ``offset_ms`` plus the sum of ``price_ms`` over its layers."""

    @property
    def source(self) -> str:
        """Where the numbers come from, for a person."""

    @property
    def offset_ms(self) -> float: ...

    def price_ms(self, call: LayerCall) -> float: ...

    def extrapolated(self, call: LayerCall) -> tuple[str, ...]:
        """Why the price of ``call`` lies outside the data behind it; empty when it does not."""


def network_costs(source: LatencySource, calls: Iterable[LayerCall]) -> list[float]:
    """``price_ms`` of each layer and behind them, where it is not 0, ``offset_ms``: what adds up to ``network_ms``."""
    return [*map(source.price_ms, calls), *([source.offset_ms] if source.offset_ms else [])]


def network_ms(source: LatencySource, calls: Iterable[LayerCall]) -> float:
    """Predicted latency of a whole network in ms."""
    return math.fsum(network_costs(source, calls))


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
    Raises TypeError when the layer is not an MBConv.
    """
    op = call.op
    if not isinstance(op, MBConv):
        raise TypeError(f"expected an MBConv, got {type(op).__name__}")
    (height, width, c_in), (out_height, out_width, c_out) = call.in_hwc, call.out_hwc
    mid, kernel, expands = op.hidden_channels, op.kernel_size, op.expand_ratio > 1
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
        _check_format(node, PREDICTOR_FORMAT, PREDICTOR_VERSIONS)
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
        scale, offset_ms, _ = _calibration(top["net_calibration"])
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
            provenance=_remarks(top.get("provenance")),
            error=_remarks(top.get("error")),
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
        match op:
            case Zero():
                return 0.0
            case MBConv():
                features = mbconv_features(call, self.channel_tile)
                return math.fsum(
                    (self.const_ms, *(self.coefficients[name] * features[name] for name in self.coefficients))
                )
            case Conv(kernel_size=1):
                reference = self.fixed_ops["Conv_1"]
                ratio = self._pointwise_terms(call.in_hwc, call.out_hwc) / self._pointwise_terms(*reference[:2])
                return reference.ms * ratio
            case Conv():
                reference = self.fixed_ops["Conv"]
                reference_macs = STEM_KERNEL**2 * reference.in_shape[2] * math.prod(reference.out_shape)
                return reference.ms * op.kernel_size**2 * op.in_channels * math.prod(call.out_hwc) / reference_macs
            case Linear():
                reference = self.fixed_ops["Logits"]
                weights = reference.in_shape[-1] * reference.out_shape[-1]
                return reference.ms * op.in_features * op.out_features / weights
            case _:
                raise InputError(f"the predictor has no price for {op.label}", call.name, self.source)

    def _pointwise_terms(self, in_shape: Sequence[int], out_shape: Sequence[int]) -> float:
        """ms that the MBConv coefficients give a lone 1x1 convolution, before scaling to the measured one."""
        tile = self.channel_tile
        c_in, c_out = (-(-shape[2] // tile) * tile for shape in (in_shape, out_shape))
        pixels = out_shape[0] * out_shape[1]
        return (self.coefficients["pw_mac"] * c_in + self.coefficients["exp_out_el"]) * pixels * c_out / 1e6

    def extrapolated(self, call: LayerCall) -> tuple[str, ...]:
        """What about ``call`` lies outside the layers the predictor was fitted on; empty inside."""
        op = call.op
        match op:
            case Zero():
                return ()
            case MBConv():
                received = (
                    ("h", "input size", call.in_hwc[:2]),
                    ("h", "output size", call.out_hwc[:2]),
                    ("cin", "in_channels", (op.in_channels,)),
                    ("cout", "out_channels", (op.out_channels,)),
                    ("mid", "mid_channels", (op.hidden_channels,)),
                    ("kernel", "kernel_size", (op.kernel_size,)),
                    ("expand", "expand_ratio", (op.expand_ratio,)),
                )
                return tuple(
                    f"{label} {max(values) if max(values) > high else min(values)} is outside {low:g}..{high:g}"
                    for key, label, values in received
                    for low, high in (self.validity[key],)
                    if not low <= min(values) <= max(values) <= high
                )
            case Conv(kernel_size=1):
                return self._scaled("Conv_1", call.in_hwc, call.out_hwc)
            case Conv():
                return self._scaled("Conv", call.in_hwc, call.out_hwc)
            case Linear():
                return self._scaled("Logits", (op.in_features,), (op.out_features,))
            case _:
                return ()

    def _scaled(self, name: str, in_shape: tuple[int, ...], out_shape: tuple[int, ...]) -> tuple[str, ...]:
        reference = self.fixed_ops[name]
        if (reference.in_shape, reference.out_shape) == (in_shape, out_shape):
            return ()
        return (
            f"{_shape(in_shape)} to {_shape(out_shape)} is scaled from the measured "
            f"{_shape(reference.in_shape)} to {_shape(reference.out_shape)}",
        )


_FIXED_RULES = {
    "Conv": "linear in out_channels",
    "Conv_1": "pw_mac+exp_out scaled to ref",
    "Logits": "linear in in_features",
}


def _shape(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))


def _check_format(node: Node, name: str, versions: Sequence[int]) -> int:
    """The version; format, version and unit come first, so that a newer file is not blamed for its newer keys."""
    if not isinstance(node.value, dict):
        raise node.fail("an object")
    for key, allowed in (("format", (name,)), ("version", versions), ("unit", ("ms",))):
        if key not in node.value:
            raise InputError(f"missing; expected {listed(map(repr, allowed))}", key)
        Node(node.value[key], key).exactly(*allowed)
    return int(node.value["version"])


def _fixed_ops(node: Node) -> dict[str, FixedOp]:
    parsed = {}
    for name, entry in node.fields(tuple(_FIXED_RULES)).items():
        keys = entry.fields(("rule", "ref", "ms"))
        keys["rule"].exactly(_FIXED_RULES[name])
        ref = keys["ref"].fields(("in", "out"))
        in_shape, out_shape = (
            (ref[key].integer(maximum=65_536),) if name == "Logits" else _hwc(ref[key]) for key in ("in", "out")
        )
        parsed[name] = FixedOp(in_shape, out_shape, _positive_ms(keys["ms"]))
    return parsed


def _validity(node: Node) -> dict[str, tuple[float, float]]:
    parsed = {}
    for key, entry in node.fields(("h", "cin", "cout", "mid", "kernel", "expand")).items():
        low, high = (bound.number(0) for bound in entry.elements(2, 2))
        if low > high:
            raise entry.fail("[smallest, largest]")
        parsed[key] = (low, high)
    return parsed


def _remarks(node: Node | None) -> dict[str, Any]:
    """An object kept as it is: provenance and error figures, for people and reports."""
    return {} if node is None else {key: child.value for key, child in node.items()}


def _calibration(node: Node) -> tuple[float, float, int]:
    """(scale, offset_ms, networks it was fitted on)."""
    keys = node.fields(("scale", "offset_ms"), ("n_nets",))
    n_nets = keys["n_nets"].integer(minimum=0) if "n_nets" in keys else 0
    return keys["scale"].number(1e-3, 1e3), keys["offset_ms"].number(-MAX_MS, MAX_MS), n_nets


def _hwc(node: Node) -> Hwc:
    height, width, channels = (element.integer(1, 65_536) for element in node.elements(3, 3))
    return height, width, channels


def _positive_ms(node: Node) -> float:
    value = node.number(maximum=MAX_MS)
    if value <= 0:
        raise node.fail("a time above 0 ms")
    return value


# Look-up table ------------------------------------------------------------------------------------------------------


class LayerKey(NamedTuple):
    """What identifies a measured layer. ``mid``: what an expand convolution puts out, 0 for a layer without one.

    An MBConv may expand to as many channels as it takes in; one without expansion has one convolution less.
    """

    op: str
    in_hwc: Hwc
    out_hwc: Hwc
    kernel: int
    mid: int
    stride: int
    skip: bool

    def __str__(self) -> str:
        text = f"{self.op} {_shape(self.in_hwc)} to {_shape(self.out_hwc)}"
        if self.op == "linear":
            return text
        text += f" kernel {self.kernel} stride {self.stride}"
        if self.op == "conv":
            return text
        ratio = self.expand_ratio
        width = f"mid {self.mid}" if ratio is None else f"expand {ratio}"
        return f"{text} {width} {'with' if self.skip else 'without'} skip"

    @property
    def expand_ratio(self) -> int | None:
        """1 without expansion, else expanded over input width; None where that is 1 or no whole number."""
        ratio, rest = divmod(self.mid, self.in_hwc[2])
        if not self.mid:
            return 1
        return None if rest or ratio == 1 else ratio


def layer_key(call: LayerCall) -> LayerKey | None:
    """The key of a layer; None for one that vanishes, which costs nothing by rule."""
    if call.op.vanishes:
        return None
    facts = {"kernel_size": 1, "mid": 0, "stride": 1} | call.op.latency_facts()
    sizes = call.in_hwc, call.out_hwc
    return LayerKey(call.op.kind, *sizes, facts["kernel_size"], facts["mid"], facts["stride"], call.skip)


class Timing(NamedTuple):
    """A measured time: ms, its standard deviation in ms and the number of measurements (None: not known)."""

    ms: float
    sd: float | None = None
    n: int | None = None


@dataclass(frozen=True)
class LookupTable:
    """Measured layers. A layer it lacks is an error, never a guess; but for the classifier of another number of
    classes, a matrix product whose time is in proportion to them. ``extrapolated`` names it.

    ``scale`` and ``offset_ms`` were fitted on ``n_nets`` measured whole networks, as a predictor's are: a network
    costs ``offset_ms`` plus ``scale`` times its entries.
    """

    source: str
    entries: Mapping[LayerKey, Timing] = field(hash=False)
    provenance: Mapping[str, Any] = field(default_factory=dict, hash=False)
    validation: Mapping[str, Any] = field(default_factory=dict, hash=False)
    scale: float = 1.0
    offset_ms: float = 0.0
    n_nets: int = 0

    @classmethod
    def from_node(cls, node: Node, source: str) -> LookupTable:
        """Parse our JSON format strictly. Raises InputError naming the entry."""
        version = _check_format(node, TABLE_FORMAT, TABLE_VERSIONS)
        top = node.fields(("format", "version", "unit", "entries"), ("provenance", "validation", "net_calibration"))
        entries: dict[LayerKey, Timing] = {}
        places: dict[LayerKey, str] = {}
        for entry in top["entries"].elements(minimum=1):
            key, timing = _entry(entry, version)
            if key in entries:
                raise InputError(f"the same layer as {places[key]}: {key}", entry.path)
            entries[key], places[key] = timing, entry.path
        scale, offset_ms, n_nets = _calibration(top["net_calibration"]) if "net_calibration" in top else (1.0, 0.0, 0)
        return cls(
            source=source,
            entries=entries,
            provenance=_remarks(top.get("provenance")),
            validation=_remarks(top.get("validation")),
            scale=scale,
            offset_ms=offset_ms,
            n_nets=n_nets,
        )

    @classmethod
    def from_released_yaml(cls, text: bytes, source: str) -> LookupTable:
        """Parse the YAML released with ProxylessNAS (mobile_trim.yaml): ``layer description: {mean, var, count}``.

        The format names no unit; the released file is in ms, and so must any other one be: times that no device has
        are refused. Raises InputError naming the line.
        """
        entries: dict[LayerKey, Timing] = {}
        for name, children, line in _yaml_mapping(_yaml_root(text)):
            place = f"line {line}"
            key = _released_key(name, place)
            if key in entries:
                raise InputError(f"the layer {name!r} appears twice", place)
            if children is None:
                raise InputError(f"expected mean, var and count of {name!r}", place)
            entries[key] = _released_timing(children, place)
        if not entries:
            raise InputError("expected layers and their times, got none")
        _check_plausible(entries)
        return cls(source, entries, {"source": source})

    def price_ms(self, call: LayerCall) -> float:
        """The measured ms of a layer, times ``scale``; a classifier may be scaled from one of other classes.

        Raises InputError naming the key when it was not measured.
        """
        key = layer_key(call)
        if key is None:
            return 0.0
        if key in self.entries:
            return self.scale * self.entries[key].ms
        other = self._other_classifier(key)
        if other is None:
            raise InputError(
                f"no latency for {key}; measure it, or let the fitted predictor fill in with "
                "--latency_fallback predictor",
                call.name,
                self.source,
            )
        return self.scale * self.entries[other].ms * key.out_hwc[2] / other.out_hwc[2]

    def extrapolated(self, call: LayerCall) -> tuple[str, ...]:
        """A classifier that was measured with another number of classes; everything else is a measurement."""
        key = layer_key(call)
        other = self._other_classifier(key) if key is not None and key not in self.entries else None
        if key is None or other is None:
            return ()
        return (f"the time for {key.out_hwc[2]} classes is scaled from the measured {other.out_hwc[2]}",)

    def _other_classifier(self, key: LayerKey) -> LayerKey | None:
        """The measured classifier on the same features whose number of classes is nearest."""
        found = [other for other in self.entries if key.op == other.op == "linear" and other.in_hwc == key.in_hwc]
        return min(found, key=lambda other: abs(other.out_hwc[2] - key.out_hwc[2]), default=None)

    def has(self, call: LayerCall) -> bool:
        """Whether ``call`` has an entry, or needs none (Zero)."""
        key = layer_key(call)
        return key is None or key in self.entries

    def to_json(self) -> dict[str, Any]:
        """The table in our JSON format, entries in a fixed order."""
        value: dict[str, Any] = {
            "format": TABLE_FORMAT,
            "version": TABLE_VERSIONS[-1],
            "unit": "ms",
            "provenance": dict(self.provenance),
            "entries": [_entry_json(key, self.entries[key]) for key in sorted(self.entries)],
        }
        if (self.scale, self.offset_ms, self.n_nets) != (1.0, 0.0, 0):
            value["net_calibration"] = {"scale": self.scale, "offset_ms": self.offset_ms, "n_nets": self.n_nets}
        return value | ({"validation": dict(self.validation)} if self.validation else {})

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write our JSON format, atomically."""
        write_json(path, self.to_json())


def _entry(node: Node, version: int) -> tuple[LayerKey, Timing]:
    """An element of ``entries``. ``"expand": 1`` is a block without expansion, ``mid`` the width of one with it.

    Version 1 knew a block by the width of its depthwise convolution alone: there a ``mid`` of the input width is a
    block without expansion.
    """
    if not isinstance(node.value, dict) or "op" not in node.value:
        raise node.fail("an object with op, in, out and ms")
    op = Node(node.value["op"], f"{node.path}.op").text(("conv", "mbconv", "linear"))
    common = ("op", "in", "out", "ms")
    required = {
        "linear": common,
        "conv": (*common, "kernel", "stride"),
        "mbconv": (*common, "kernel", "stride", "skip"),
    }[op]
    keys = node.fields(required, ("sd", "n", *(("expand", "mid") if op == "mbconv" else ())))
    in_hwc, out_hwc = _hwc(keys["in"]), _hwc(keys["out"])
    mid = 0
    if op == "mbconv":
        if ("expand" in keys) == ("mid" in keys):
            raise InputError("expected either expand or mid", node.path)
        mid = keys["mid"].integer(1, 65_536) if "mid" in keys else keys["expand"].integer(1, 64) * in_hwc[2]
        if mid == in_hwc[2] and ("expand" in keys or version == 1):
            mid = 0
    key = _checked_key(
        LayerKey(
            op=op,
            in_hwc=in_hwc,
            out_hwc=out_hwc,
            kernel=keys["kernel"].exactly(1, 3, 5, 7) if "kernel" in keys else 1,
            mid=mid,
            stride=keys["stride"].exactly(1, 2) if "stride" in keys else 1,
            skip="skip" in keys and keys["skip"].boolean(),
        ),
        node.path,
    )
    sd = keys["sd"].number(0, MAX_MS) if "sd" in keys and keys["sd"].value is not None else None
    n = keys["n"].integer(maximum=10**12) if "n" in keys and keys["n"].value is not None else None
    return key, Timing(_positive_ms(keys["ms"]), sd, n)


def _entry_json(key: LayerKey, timing: Timing) -> dict[str, Any]:
    value: dict[str, Any] = {"op": key.op, "in": list(key.in_hwc), "out": list(key.out_hwc)}
    if key.op != "linear":
        value |= {"kernel": key.kernel, "stride": key.stride}
    if key.op == "mbconv":
        ratio = key.expand_ratio
        value |= {"mid": key.mid} if ratio is None or ratio > 64 else {"expand": ratio}
        value["skip"] = key.skip
    return value | timing._asdict()


def _checked_key(key: LayerKey, place: str) -> LayerKey:
    """``key`` itself; InputError when no layer can have these shapes."""
    if key.op == "linear":
        expected = (1, 1, key.out_hwc[2])
    else:
        expected = (strided(key.in_hwc[0], key.stride), strided(key.in_hwc[1], key.stride), key.out_hwc[2])
    if key.out_hwc != expected:
        raise InputError(f"expected output {_shape(expected)}, got {_shape(key.out_hwc)}: {key}", place)
    if key.op == "mbconv" and key.kernel == 1:
        raise InputError(f"expected kernel 3, 5 or 7, got 1: {key}", place)
    if key.skip and key.in_hwc != key.out_hwc:
        raise InputError(f"expected no skip where input and output differ: {key}", place)
    return key


# The released YAML --------------------------------------------------------------------------------------------------

_SHAPES = r"-input:(?P<in>[0-9]{1,5}x[0-9]{1,5}x[0-9]{1,5})-output:(?P<out>[0-9]{1,5}(?:x[0-9]{1,5}x[0-9]{1,5})?)"
_RELEASED_KEY = re.compile(
    rf"(?P<op>Conv|Conv_1|Logits|expanded_conv){_SHAPES}"
    r"(?P<mbconv>-expand:(?P<expand>[0-9]{1,2})-kernel:(?P<kernel>[0-9])-stride:(?P<stride>[12])-idskip:(?P<skip>[01]))?"
)
_RELEASED_NUMBER = re.compile(r"[+]?[0-9]+(\.[0-9]*)?([eE][-+]?[0-9]{1,3})?")


def _released_key(name: str, place: str) -> LayerKey:
    match = _RELEASED_KEY.fullmatch(name)
    is_mbconv = match is not None and match["op"] == "expanded_conv"
    if match is None or is_mbconv != (match["mbconv"] is not None):
        foreign = re.search("-se:|-hs:", name)
        why = " (networks with squeeze-and-excitation or h-swish are not of this family)" if foreign else ""
        raise InputError(f"expected a layer of mobile_trim.yaml, got {name[:120]!r}{why}", place)
    height, width, c_in = map(int, match["in"].split("x"))
    out = tuple(map(int, match["out"].split("x")))
    if (len(out) == 1) != (match["op"] == "Logits") or min(height, width, c_in, *out) < 1:
        raise InputError(f"unexpected shapes in {name!r}", place)
    in_hwc = (height, width, c_in)
    if match["op"] == "Logits":
        return LayerKey("linear", in_hwc, (1, 1, out[0]), 1, 0, 1, False)
    out_hwc = (out[0], out[1], out[2])
    if not is_mbconv:
        # the names hold neither kernel nor stride: "Conv" is the 3x3 stem, "Conv_1" the 1x1 feature mix
        kernel = STEM_KERNEL if match["op"] == "Conv" else 1
        stride = 1 if in_hwc[:2] == out_hwc[:2] else 2
        return _checked_key(LayerKey("conv", in_hwc, out_hwc, kernel, 0, stride, False), place)
    kernel, expand, stride = (int(match[group]) for group in ("kernel", "expand", "stride"))
    if kernel not in (3, 5, 7) or not 1 <= expand <= 64:
        raise InputError(f"expected kernel 3, 5 or 7 and expand 1..64 in {name!r}", place)
    mid = c_in * expand if expand > 1 else 0
    return _checked_key(LayerKey("mbconv", in_hwc, out_hwc, kernel, mid, stride, match["skip"] == "1"), place)


def _check_plausible(entries: Mapping[LayerKey, Timing]) -> None:
    """Raises InputError when the times must be in another unit than ms."""
    total, macs = math.fsum(timing.ms for timing in entries.values()), sum(map(_macs, entries))
    if macs > MAX_MACS_PER_MS * total:
        why = f"{macs / total * 1e3:.1e} multiply-accumulates per second on one image. Are they in seconds?"
    elif total > MAX_TABLE_MS:
        why = f"more than {MAX_TABLE_MS:g}. Are they in microseconds?"
    else:
        return
    raise InputError(
        f"expected times in ms, but the {len(entries)} layers would take {total:.4g} ms together, {why} "
        "(This format names no unit; our JSON format does)"
    )


def _macs(key: LayerKey) -> int:
    """Multiply-accumulates of a layer, from its key."""
    (height, width, c_in), (out_height, out_width, c_out) = key.in_hwc, key.out_hwc
    out_pixels = out_height * out_width
    if key.op != "mbconv":
        return out_pixels * key.kernel**2 * c_in * c_out
    depthwise = out_pixels * (key.mid or c_in) * (key.kernel**2 + c_out)
    return height * width * c_in * key.mid + depthwise


def _yaml_root(text: bytes) -> yaml.Node:
    """The document as nodes. Nothing is constructed, so no tag can do anything, and every node knows its line."""
    import yaml

    try:
        # not CSafeLoader: deep nesting overflows its C stack and kills the process
        root = yaml.compose(text.decode("utf-8-sig"), Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        raise InputError(f"not YAML: {error.problem}", f"line {mark.line + 1}" if mark else "") from None
    except yaml.YAMLError as error:
        raise InputError(f"not YAML: {str(error).splitlines()[0]}") from None
    except UnicodeDecodeError:
        raise InputError("not YAML: the file is not UTF-8 text") from None
    except RecursionError:
        raise InputError("not YAML we read: nested too deeply") from None
    if root is None:
        raise InputError("the file is empty")
    return root


def _yaml_mapping(node: yaml.Node) -> list[tuple[str, yaml.Node, int]]:
    """(key, value, line) of a mapping with text keys; an empty value is an error of whoever reads it."""
    import yaml

    line = node.start_mark.line + 1
    if not isinstance(node, yaml.MappingNode):
        raise InputError("expected 'name: value' pairs", f"line {line}")
    pairs = []
    for key, value in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise InputError("expected a name before the colon", f"line {key.start_mark.line + 1}")
        pairs.append((key.value, value, key.start_mark.line + 1))
    return pairs


def _released_timing(node: yaml.Node, place: str) -> Timing:
    import yaml

    numbers: dict[str, float] = {}
    for name, value, line in _yaml_mapping(node):
        where = f"line {line}"
        if name not in ("mean", "var", "std", "count"):
            raise InputError(f"expected {listed(('mean', 'var', 'std', 'count'))}, got {name[:60]!r}", where)
        if name in numbers:
            raise InputError(f"{name} appears twice", where)
        text = value.value if isinstance(value, yaml.ScalarNode) else ""
        if not _RELEASED_NUMBER.fullmatch(text) or not float(text) <= MAX_MS**2:
            raise InputError(f"{name}: expected a number of 0 or more, got {text[:60]!r}", where)
        numbers[name] = float(text)
    if "mean" not in numbers:
        raise InputError("mean is missing", place)
    if not 0 < numbers["mean"] <= MAX_MS:
        raise InputError(f"mean: expected a time above 0 ms, got {numbers['mean']!r}", place)
    sd = numbers.get("std", math.sqrt(numbers["var"]) if "var" in numbers else None)
    return Timing(numbers["mean"], sd, int(numbers["count"]) if numbers.get("count") else None)


# Both ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class WithFallback:
    """The table where it has the layer, the predictor where it has not.

    The predictor fills in with the whole-network calibration of the table instead of its own: like the entries, it
    then gives the time of a layer.
    """

    table: LookupTable
    predictor: Predictor

    @property
    def source(self) -> str:
        return f"{self.table.source}, missing layers by {self.predictor.source}"

    @property
    def offset_ms(self) -> float:
        return self.table.offset_ms

    def price_ms(self, call: LayerCall) -> float:
        """ms of one layer."""
        if self.table.has(call):
            return self.table.price_ms(call)
        return self.table.scale * self.predictor.op_ms(call)

    def extrapolated(self, call: LayerCall) -> tuple[str, ...]:
        return () if self.table.has(call) else self.predictor.extrapolated(call)

    def missing(self, calls: Iterable[LayerCall]) -> tuple[LayerCall, ...]:
        """The layers that the predictor prices."""
        return tuple(call for call in calls if not self.table.has(call))

    def summary(self, calls: Iterable[LayerCall]) -> str:
        """``20 of 23 layers from mobile_trim.yaml, 3 predicted by pixel1: blocks.1, blocks.2, blocks.5``."""
        priced = [call for call in calls if not call.op.vanishes]
        missing = self.missing(priced)
        text = f"{len(priced) - len(missing)} of {len(priced)} layers from {self.table.source}"
        if not missing:
            return text
        names = ", ".join(dict.fromkeys(call.name for call in missing))
        return f"{text}, {len(missing)} predicted by {self.predictor.source}: {names}"


# Use ----------------------------------------------------------------------------------------------------------------

# what a latency depends on besides the layers; the runtime's version and the load are recorded but may differ
CONDITIONS = ("device", "runtime", "threads", "batch_size", "dtype", "resolution", "clock")


def check_matches(provenance: Mapping[str, Any], wanted: Mapping[str, Any], source: str) -> None:
    """A table or predictor must have been measured under the conditions it is used for.

    Args:
        provenance: of the file. A condition that it does not record (absent, null or "(assumed)") cannot be compared.
        wanted: any of CONDITIONS with the value of this run, for example ``{"batch_size": 1, "resolution": 224}``.
        source: the file, for the error.

    Raises:
        InputError: naming every condition that differs, with both values. KeyError: ``wanted`` holds another name.
    """
    unknown = [name for name in wanted if name not in CONDITIONS]
    if unknown:
        raise KeyError(f"not a condition: {', '.join(unknown)}")
    different = [
        f"{name} {provenance[name]!r} instead of {value!r}"
        for name, value in wanted.items()
        if value is not None and _recorded(provenance, name) not in (None, value)
    ]
    if different:
        raise InputError(
            f"was measured for {'; '.join(different)}: measure it for this run with hardware/profile_latency.py, or "
            "use it all the same with --force_latency_table",
            "provenance",
            source,
        )


def _recorded(provenance: Mapping[str, Any], name: str) -> Any:
    value = provenance.get(name)
    return None if isinstance(value, str) and value.endswith("(assumed)") else value


# Files --------------------------------------------------------------------------------------------------------------


def parse_latency_source(content: bytes, source: str) -> Predictor | LookupTable:
    """A predictor or a table, by content: JSON by its ``format``, anything else as the released YAML.

    Raises InputError with ``source`` and the place in it.
    """
    try:
        if not content.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{"):
            return LookupTable.from_released_yaml(content, source)
        node = Node(parse_json(content, source))
        if not isinstance(node.value, dict) or "format" not in node.value:
            raise InputError(f"missing; expected {PREDICTOR_FORMAT!r} or {TABLE_FORMAT!r}", "format")
        kind = Node(node.value["format"], "format").text((PREDICTOR_FORMAT, TABLE_FORMAT))
        return (Predictor if kind == PREDICTOR_FORMAT else LookupTable).from_node(node, source)
    except InputError as error:
        raise error.from_source(source) from None


def load_latency_source(path: str | os.PathLike[str]) -> Predictor | LookupTable:
    """Read a latency file: our two JSON formats, or the YAML released with ProxylessNAS. Raises InputError."""
    return parse_latency_source(read_bytes(path), str(path))


def shipped_names() -> tuple[str, ...]:
    """The latency files that come with this repository."""
    return tuple(sorted(path.stem for path in SHIPPED_FOLDER.glob("*.json")))


def shipped(name: str) -> Predictor | LookupTable:
    """One of the latency files that come with this repository, by name (``pixel1``). Raises InputError."""
    names = shipped_names()
    if name not in names:
        raise InputError(f"expected {listed(map(repr, names))}, got {name!r}{nearest(name, names)}", "latency")
    return parse_latency_source(read_bytes(SHIPPED_FOLDER / f"{name}.json"), f"{name}.json")
