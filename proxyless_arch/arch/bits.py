"""A bit plan: in which format each layer of a network keeps its weights and takes its input in.

A plan is a value beside a spec, as its weights are: the spec says what is computed, the plan with how many bits. It
lies as ``bits.json`` in a run folder, and in the metadata of weight files and exported files.

Layers are convolutions (with the batch normalization behind them, folded) and the linear layer, by the names of the
modules that hold their weights: ``first_conv``, ``blocks.3.mobile_inverted_conv.depth_conv``, ``classifier.linear``.
The activation format of a layer is that of its input. A skip passes on what the first layer of its block takes in, and
adds to it: so the inputs along a chain of skips have one activation format.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from proxyless_arch.arch.ops import ConvCall, Shape
from proxyless_arch.arch.spec import ArchSpec
from proxyless_arch.arch.walk import LayerCall, walk
from proxyless_arch.base.checks import check, check_one_of, is_int, is_number
from proxyless_arch.base.errors import InputError
from proxyless_arch.base.files import parse_json, read_bytes, write_text
from proxyless_arch.base.strict import Node, judged_at, nearest

FORMAT, VERSION = "proxyless-arch/bits", 1
PLAN_FILE = "bits.json"
FLOAT_BITS = 32
"""Of a weight or an activation that is not quantized."""
MAX_WEIGHT_BITS, MAX_ACTIVATION_BITS = 8, 16
CHANNEL, TENSOR, KMEANS = "channel", "tensor", "kmeans"
QUANTIZERS = (CHANNEL, TENSOR, KMEANS)
"""How weights are quantized (weights/quantizer.py): a step per output channel; a step per layer, or a codebook per
layer, as HAQ does."""
SMALLEST_CLIP, LARGEST_CLIP = 1e-30, 1e30
IMAGE_LAYER = "first_conv"
"""It takes the image in."""


def _check_bits(place: str, value: int | None, most: int) -> None:
    check(value is None or (is_int(value) and 1 <= value <= most), place, f"1..{most} bits or null", value)


@dataclass(frozen=True)
class Format:
    """How a layer keeps its weights and takes its input in; None: float32."""

    weight_bits: int | None = None
    activation_bits: int | None = None

    def __post_init__(self) -> None:
        _check_bits("weight_bits", self.weight_bits, MAX_WEIGHT_BITS)
        _check_bits("activation_bits", self.activation_bits, MAX_ACTIVATION_BITS)

    @property
    def is_float(self) -> bool:
        return self.weight_bits is None and self.activation_bits is None

    def __str__(self) -> str:
        """As the field writes it: ``W4A8``, ``W4`` (float activations), ``float32``."""
        if self.is_float:
            return "float32"
        return "".join(
            f"{letter}{bits}" for letter, bits in (("W", self.weight_bits), ("A", self.activation_bits)) if bits
        )


FLOAT32, INT8 = Format(), Format(8, 8)


@dataclass(frozen=True)
class Range:
    """What an activation is clipped to: 0..clip or, where it is ``signed``, -clip..clip. ``clip`` is a float32."""

    clip: float
    signed: bool = False

    def __post_init__(self) -> None:
        good = is_number(self.clip) and SMALLEST_CLIP <= self.clip <= LARGEST_CLIP
        check(good, "clip", f"a number in {SMALLEST_CLIP:g}..{LARGEST_CLIP:g}", self.clip)
        object.__setattr__(self, "clip", float(np.float32(self.clip)))


# ------------------------------------------------------------------------------------------------------- the layers


@dataclass(frozen=True)
class BitLayer:
    """A layer that has a format.

    ``call``: the operation it is part of; ``conv``: its sizes; ``weight``, ``shape``: its weight tensor; ``leads``:
    it takes in what its operation does.
    """

    name: str
    call: LayerCall
    conv: ConvCall
    weight: str
    shape: Shape
    leads: bool

    @property
    def is_depthwise(self) -> bool:
        return len(self.shape) == 4 and self.shape[1] == 1 and self.conv.in_hwc[2] > 1

    @property
    def n_weights(self) -> int:
        return math.prod(self.shape)

    @property
    def macs(self) -> int:
        return math.prod(self.conv.out_hwc) * math.prod(self.shape[1:])

    @property
    def input_place(self) -> str:
        """The module whose input is quantized: a block for its first layer, so that the skip passes on the same."""
        return self.call.name if self.leads and self.call.name.startswith("blocks.") else self.name

    def n_bytes(self, format: Format) -> float:
        """Of weights and bias; quantized weights have a float32 scale per output channel beside them."""
        scales = 0 if format.weight_bits is None else 4 * self.shape[0]
        return self.n_weights * (format.weight_bits or FLOAT_BITS) / 8 + 4 * self.shape[0] + scales


def bit_layers(spec: ArchSpec) -> tuple[BitLayer, ...]:
    """The layers of ``spec`` that have a format, in network order."""
    return tuple(layer for call in walk(spec) for layer in _layers_of(call))


def count_weights(spec: ArchSpec) -> int:
    """Of the layers between the first and the last one, which change with the channels of images and the classes."""
    return sum(layer.n_weights for layer in bit_layers(spec)[1:-1])


def least_share(spec: ArchSpec) -> float:
    """Of its bytes in float32, what ``spec`` takes with all weights in 8 bits: biases and scales stay float32."""
    layers = bit_layers(spec)
    floats, least = (math.fsum(layer.n_bytes(format) for layer in layers) for format in (FLOAT32, INT8))
    return least / floats


def _layers_of(call: LayerCall) -> list[BitLayer]:
    weights = [
        (name, shape)
        for name, shape in call.op.tensors(call.tensor_prefix)
        if name.endswith(".weight") and len(shape) in (2, 4)
    ]
    convs: Sequence[ConvCall] = [conv for conv in call.op.convolutions(call.in_hwc) if conv.is_weighted]
    if not convs:
        convs = [ConvCall((1, 1, call.in_hwc[2]), call.out_hwc, 1, activated=False)] * len(weights)
    return [
        BitLayer(name.removesuffix(".weight").removesuffix(".conv"), call, conv, name, shape, leads=index == 0)
        for index, ((name, shape), conv) in enumerate(zip(weights, convs, strict=True))
    ]


def folds(spec: ArchSpec) -> bool:
    """Whether plans are made for ``spec``: see check_folds."""
    return all(layer.conv.norm == "behind" for layer in bit_layers(spec))


def check_folds(spec: ArchSpec) -> None:
    """Raises InputError where a batch normalization stands in front of a convolution: a plan knows those behind one."""
    for layer in bit_layers(spec):
        if layer.conv.norm != "behind":
            raise InputError(
                "batch normalization stands in front of its convolutions, and is not folded into them: bit plans are "
                "not made for tree-structured cells",
                layer.call.name,
            )


def ties(spec: ArchSpec) -> tuple[tuple[str, ...], ...]:
    """Layers whose inputs are joined by skips, which share an activation format; all others are alone."""
    leaders = [(layer.name, layer.call) for layer in bit_layers(spec) if layer.leads]
    alone = {layer.name: (layer.name,) for layer in bit_layers(spec) if not layer.leads}
    chains: list[list[str]] = []
    is_joined = False
    for name, call in leaders:
        if is_joined and not call.op.pools_first:
            chains[-1].append(name)
        else:
            chains.append([name])
        is_joined = call.skip
    of_leader = {chain[0]: tuple(chain) for chain in chains}
    found = {**alone, **of_leader}
    return tuple(found[layer.name] for layer in bit_layers(spec) if layer.name in found)


# --------------------------------------------------------------------------------------------------------- the plan


@dataclass(frozen=True, kw_only=True)
class BitPlan:
    """The format of every layer of a network, and the range of every input that is quantized.

    ``network``: its name; ``quantizer``: of the weights; ``n_weights``: their number (count_weights), which tells
    a network from the one that it was pruned from (None: not known, as of the first plans).
    """

    network: str
    formats: Mapping[str, Format]
    ranges: Mapping[str, Range] = field(default_factory=dict)
    quantizer: str = CHANNEL
    n_weights: int | None = None

    def __post_init__(self) -> None:
        check_one_of("quantizer", self.quantizer, QUANTIZERS)
        for name, format in self.formats.items():
            self._check_layer(name, format)
        for name in self.ranges:
            check(name in self.formats, f"layers.{name}", "a format beside its range", None)

    def _check_layer(self, name: str, format: Format) -> None:
        place = f"layers.{name}"
        if format.weight_bits == 1 and self.quantizer != KMEANS:
            raise InputError(f"1 bit is a codebook of two numbers: for {KMEANS}, not {self.quantizer}", place)
        if format.activation_bits is None:
            return
        given = self.ranges.get(name)
        if given is None:
            raise InputError("its input is quantized, but has no range: calibrate it", place)
        if given.signed and format.activation_bits == 1:
            raise InputError("expected at least 2 bits for an input with a sign, got 1", f"{place}.activation_bits")

    def n_bytes(self, spec: ArchSpec) -> float:
        """Of all weights, biases and scales."""
        return math.fsum(layer.n_bytes(self.formats[layer.name]) for layer in bit_layers(spec))

    def average_bits(self, spec: ArchSpec) -> float:
        """Of a weight."""
        layers = bit_layers(spec)
        bits = sum(layer.n_weights * (self.formats[layer.name].weight_bits or FLOAT_BITS) for layer in layers)
        return bits / sum(layer.n_weights for layer in layers)

    @property
    def digest(self) -> str:
        """12 hexadecimal digits that another plan does not have."""
        return hashlib.sha256(plan_to_json(self).encode()).hexdigest()[:12]

    def with_formats(self, formats: Mapping[str, Format]) -> BitPlan:
        return replace(self, formats={**self.formats, **formats})

    def __str__(self) -> str:
        """``4 x float32, 12 x W8A8``: how many layers have which format."""
        counts: dict[str, int] = {}
        for format in self.formats.values():
            counts[str(format)] = counts.get(str(format), 0) + 1
        return ", ".join(f"{count} x {name}" for name, count in counts.items())


def uniform_plan(
    spec: ArchSpec, format: Format, ranges: Mapping[str, Range], *, quantizer: str = CHANNEL, image: bool = False
) -> BitPlan:
    """One format for all layers; the image stays as it is unless ``image``."""
    formats = {layer.name: format for layer in bit_layers(spec)}
    if not image:
        formats[IMAGE_LAYER] = replace(format, activation_bits=None)
    used = {name: ranges[name] for name, each in formats.items() if each.activation_bits is not None and name in ranges}
    return BitPlan(network=spec.name, formats=formats, ranges=used, quantizer=quantizer, n_weights=count_weights(spec))


def check_plan(plan: BitPlan, spec: ArchSpec, source: str | None = None) -> None:
    """Whether ``plan`` is one of ``spec``: its name, every layer once, and joined inputs in one format.

    Raises InputError naming the layer.
    """
    names = [layer.name for layer in bit_layers(spec)]
    for name in plan.formats:
        if name not in names:
            problem = f"a plan of another network: {spec.name!r} has no such layer{nearest(name, names)}"
            raise InputError(problem, f"layers.{name}", source)
    for name in names:
        if name not in plan.formats:
            problem = f"a plan of another network, or of a part: {spec.name!r} has this layer, too"
            raise InputError(problem, f"layers.{name}", source)
    if plan.network != spec.name:
        raise InputError(f"a plan of another network: expected {spec.name!r}, got {plan.network!r}", "network", source)
    if plan.n_weights not in (None, (own := count_weights(spec))):
        problem = (
            f"a plan of another network of this name, as of one before it was pruned: expected {own} weights, got "
        )
        raise InputError(f"{problem}{plan.n_weights}", "weights", source)
    for chain in ties(spec):
        for one, other in itertools.pairwise(chain):
            bits = [plan.formats[name].activation_bits for name in (one, other)]
            if bits[0] != bits[1]:
                problem = f"its input is joined by a skip with that of {one}: expected {_bits(bits[0])}, got "
                raise InputError(problem + _bits(bits[1]), f"layers.{other}.activation_bits", source)


def _bits(bits: int | None) -> str:
    return "null" if bits is None else str(bits)


# ------------------------------------------------------------------------------------------------------------- JSON


def plan_to_json(plan: BitPlan) -> str:
    """Text with one layer per line."""
    head: dict[str, Any] = {"format": FORMAT, "version": VERSION, "network": plan.network, "quantizer": plan.quantizer}
    head |= {} if plan.n_weights is None else {"weights": plan.n_weights}
    lines = [f"  {json.dumps(key)}: {json.dumps(value)}," for key, value in head.items()]
    layers = [f"    {json.dumps(name)}: {json.dumps(_layer_to_dict(plan, name))}" for name in plan.formats]
    return "\n".join(["{", *lines, '  "layers": {', ",\n".join(layers), "  }", "}", ""])


def _layer_to_dict(plan: BitPlan, name: str) -> dict[str, Any]:
    format, found = plan.formats[name], plan.ranges.get(name)
    value: dict[str, Any] = {"weight_bits": format.weight_bits, "activation_bits": format.activation_bits}
    return value if found is None else {**value, "clip": found.clip, "signed": found.signed}


def parse_plan(text: str | bytes, source: str) -> BitPlan:
    """The plan of JSON ``text``. Raises InputError with the place and ``source``."""
    try:
        return _plan_from_node(Node(parse_json(text, source)))
    except InputError as error:
        raise error.from_source(source) from None


def _plan_from_node(node: Node) -> BitPlan:
    fields = node.fields(("format", "version", "network", "quantizer", "layers"), ("weights",))
    fields["format"].exactly(FORMAT)
    fields["version"].exactly(VERSION)
    formats: dict[str, Format] = {}
    ranges: dict[str, Range] = {}
    for name, layer in fields["layers"].items():
        parts = layer.fields(("weight_bits", "activation_bits"), ("clip", "signed"))
        with judged_at(layer.path):
            formats[name] = Format(parts["weight_bits"].value, parts["activation_bits"].value)
            if "clip" in parts:
                ranges[name] = Range(parts["clip"].number(), "signed" in parts and parts["signed"].boolean())
    quantizer = fields["quantizer"].text(QUANTIZERS)
    n_weights = fields["weights"].integer(1, 2**53) if "weights" in fields else None
    return BitPlan(
        network=fields["network"].text(), formats=formats, ranges=ranges, quantizer=quantizer, n_weights=n_weights
    )


def read_plan(path: str | os.PathLike[str], spec: ArchSpec | None = None) -> BitPlan:
    """The plan of a file, checked against ``spec`` where that is given. Raises InputError."""
    plan = parse_plan(read_bytes(path), str(path))
    if spec is not None:
        check_plan(plan, spec, str(path))
    return plan


def write_plan(path: str | os.PathLike[str], plan: BitPlan) -> None:
    write_text(Path(path), plan_to_json(plan))
