"""Measured layers with exact keys, and their file."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from hardware.formats import MAX_MS, check_format, parse_calibration, parse_hwc, parse_ms, parse_remarks, shape_text
from proxyless_arch.arch.codec import MIXES, STEMS
from proxyless_arch.arch.ops import BLOCK_OPERATIONS, EntryForm, Hwc, Linear, Operation, strided
from proxyless_arch.arch.preact import TREE_EDGES
from proxyless_arch.arch.walk import LayerCall
from proxyless_arch.base.errors import InputError
from proxyless_arch.base.files import write_json
from proxyless_arch.base.strict import Node

TABLE_FORMAT = "proxyless-latency/table"
TABLE_VERSIONS = (1, 2)  # the last one is written; of the first, see _entry
MAX_FACT = 10**12


class LayerKey(NamedTuple):
    """What identifies a measured layer. ``mid``: what an expand convolution puts out, 0 for a layer without one.

    An MBConv may expand to as many channels as it takes in; one without expansion has one convolution less.
    ``facts``: what else the latency of an operation depends on, by name.
    """

    op: str
    in_hwc: Hwc
    out_hwc: Hwc
    kernel: int
    mid: int
    stride: int
    skip: bool
    facts: tuple[tuple[str, int], ...] = ()

    def __str__(self) -> str:
        text = f"{self.op} {shape_text(self.in_hwc)} to {shape_text(self.out_hwc)}"
        form = self.form
        if form.kernels is not None:
            text += f" kernel {self.kernel} stride {self.stride}"
        if not form.has_skip:
            return text
        ratio = self.expand_ratio
        width = f"mid {self.mid}" if ratio is None else f"expand {ratio}"
        others = "".join(f" {name} {value}" for name, value in self.facts)
        return f"{text} {width}{others} {'with' if self.skip else 'without'} skip"

    @property
    def form(self) -> EntryForm:
        """Of its operation; what any may have where none of that name is known."""
        op = _kinds().get(self.op)
        return op.entry_form if op is not None else EntryForm()

    @property
    def expand_ratio(self) -> int | None:
        """1 without expansion, else expanded over input width; None where that is 1 or no whole number."""
        ratio, rest = divmod(self.mid, self.in_hwc[2])
        if not self.mid:
            return 1
        return None if rest or ratio == 1 else ratio


def layer_key(call: LayerCall) -> LayerKey | None:
    """The key of a layer; None for one that costs nothing by rule: it vanishes, or its time is part of others'."""
    if call.op.vanishes or not call.op.is_timed:
        return None
    facts = {"kernel_size": 1, "mid": 0, "stride": 1} | call.op.latency_facts()
    sizes = call.in_hwc, call.out_hwc
    kernel, mid, stride = (facts.pop(name) for name in ("kernel_size", "mid", "stride"))
    others = tuple(sorted((name, +value) for name, value in facts.items()))  # True as the 1 that a file holds
    return LayerKey(call.op.kind, *sizes, kernel, mid, stride, call.skip, others)


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
        version = check_format(node, TABLE_FORMAT, TABLE_VERSIONS)
        top = node.fields(("format", "version", "unit", "entries"), ("provenance", "validation", "net_calibration"))
        entries: dict[LayerKey, Timing] = {}
        places: dict[LayerKey, str] = {}
        for entry in top["entries"].elements(minimum=1):
            key, timing = _entry(entry, version)
            if key in entries:
                raise InputError(f"the same layer as {places[key]}: {key}", entry.path)
            entries[key], places[key] = timing, entry.path
        given = top.get("net_calibration")
        scale, offset_ms, n_nets = (1.0, 0.0, 0) if given is None else parse_calibration(given)
        return cls(
            source=source,
            entries=entries,
            provenance=parse_remarks(top.get("provenance")),
            validation=parse_remarks(top.get("validation")),
            scale=scale,
            offset_ms=offset_ms,
            n_nets=n_nets,
        )

    def price_ms(self, call: LayerCall) -> float:
        """The measured ms of a layer or of its parts, times ``scale``; a classifier may be scaled from one of other
        classes.

        Raises InputError naming the key when it was not measured.
        """
        return math.fsum(map(self._part_ms, call.parts))

    def _part_ms(self, call: LayerCall) -> float:
        key = layer_key(call)
        if key is None:
            return 0.0
        if key in self.entries:
            return self.scale * self.entries[key].ms
        other = self._other_classifier(key)
        if other is None:
            raise InputError(
                f"no latency for {key}: it was not measured",
                call.name,
                self.source,
            )
        return self.scale * self.entries[other].ms * key.out_hwc[2] / other.out_hwc[2]

    def extrapolated(self, call: LayerCall) -> tuple[str, ...]:
        """A classifier that was measured with another number of classes; everything else is a measurement."""
        key = layer_key(call) if call.op.pools_first else None
        other = self._other_classifier(key) if key is not None and key not in self.entries else None
        if key is None or other is None:
            return ()
        return (f"the time for {key.out_hwc[2]} classes is scaled from the measured {other.out_hwc[2]}",)

    def _other_classifier(self, key: LayerKey) -> LayerKey | None:
        """The measured classifier on the same features whose number of classes is nearest."""
        if not key.form.scales:
            return None
        found = [other for other in self.entries if other.op == key.op and other.in_hwc == key.in_hwc]
        return min(found, key=lambda other: abs(other.out_hwc[2] - key.out_hwc[2]), default=None)

    def has(self, call: LayerCall) -> bool:
        """Whether ``call``, or each of its parts, has an entry or needs none (Zero)."""
        keys = map(layer_key, call.parts)
        return all(key is None or key in self.entries for key in keys)

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


def _kinds() -> dict[str, type[Operation]]:
    """What may be measured: all but what vanishes or has no time of its own."""
    known: dict[str, type[Operation]] = {**STEMS, **MIXES, **BLOCK_OPERATIONS, **TREE_EDGES, Linear.kind: Linear}
    return {kind: op for kind, op in known.items() if op.is_timed and not op.vanishes}


def _entry(node: Node, version: int) -> tuple[LayerKey, Timing]:
    """An element of ``entries``. ``"expand": 1`` is a block without expansion, ``mid`` the width of one with it.

    Version 1 knew a block by the width of its depthwise convolution alone: there a ``mid`` of the input width is a
    block without expansion. Of an operation that is registered besides the family's, ``facts`` holds what is its own.
    """
    if not isinstance(node.value, dict) or "op" not in node.value:
        raise node.fail("an object with op, in, out and ms")
    op = Node(node.value["op"], f"{node.path}.op").text(tuple(_kinds()))
    form = _kinds()[op].entry_form
    sizes = ("kernel", "stride") if form.kernels is not None else ()
    widths = {"mid": ("mid",), "expand": ("expand", "mid"), None: ()}[form.width]
    optional = (*widths, *(("facts",) if form.has_facts else ()))
    required = ("op", "in", "out", "ms", *sizes, *(("skip",) if form.has_skip else ()))
    keys = node.fields(required, ("sd", "n", *optional))
    in_hwc, out_hwc = parse_hwc(keys["in"]), parse_hwc(keys["out"])
    key = checked_key(
        LayerKey(
            op=op,
            in_hwc=in_hwc,
            out_hwc=out_hwc,
            mid=_mid(node, keys, form, in_hwc[2], version),
            kernel=_size(keys.get("kernel"), form.kernels or ()),
            stride=_size(keys.get("stride"), form.strides or ()),
            skip="skip" in keys and keys["skip"].boolean(),
            facts=_facts(keys["facts"]) if "facts" in keys else (),
        ),
        node.path,
    )
    sd = keys["sd"].number(0, MAX_MS) if "sd" in keys and keys["sd"].value is not None else None
    n = keys["n"].integer(maximum=10**12) if "n" in keys and keys["n"].value is not None else None
    return key, Timing(parse_ms(keys["ms"]), sd, n)


def _mid(node: Node, keys: dict[str, Node], form: EntryForm, c_in: int, version: int) -> int:
    """The hidden width as LayerKey has it."""
    if form.width != "expand":
        return keys["mid"].integer() if "mid" in keys else 0
    if ("expand" in keys) == ("mid" in keys):
        raise InputError("expected either expand or mid", node.path)
    mid = keys["mid"].integer(1, 65_536) if "mid" in keys else keys["expand"].integer(1, 64) * c_in
    return 0 if mid == c_in and ("expand" in keys or version == 1) else mid


def _size(node: Node | None, allowed: tuple[int, ...]) -> int:
    """1 where there is none; any size above 0 where ``allowed`` names none."""
    if node is None:
        return 1
    return int(node.exactly(*allowed)) if allowed else node.integer()


def _facts(node: Node) -> tuple[tuple[str, int], ...]:
    return tuple(sorted((name, value.integer(-MAX_FACT, MAX_FACT)) for name, value in node.items()))


def _entry_json(key: LayerKey, timing: Timing) -> dict[str, Any]:
    value: dict[str, Any] = {"op": key.op, "in": list(key.in_hwc), "out": list(key.out_hwc)}
    form = key.form
    if form.kernels is not None:
        value |= {"kernel": key.kernel, "stride": key.stride}
    if form.width == "expand":
        ratio = key.expand_ratio
        value |= {"mid": key.mid} if ratio is None or ratio > 64 else {"expand": ratio}
    elif key.mid:
        value["mid"] = key.mid
    if form.has_skip:
        value["skip"] = key.skip
    if key.facts:
        value["facts"] = dict(key.facts)
    return value | timing._asdict()


def checked_key(key: LayerKey, place: str) -> LayerKey:
    """``key`` itself; InputError when no layer can have these shapes."""
    if _kinds()[key.op].pools_first:
        expected = (1, 1, key.out_hwc[2])
    elif _kinds()[key.op].out_hwc is not Operation.out_hwc:
        expected = key.out_hwc  # by a rule of its own
    else:
        expected = (strided(key.in_hwc[0], key.stride), strided(key.in_hwc[1], key.stride), key.out_hwc[2])
    if key.out_hwc != expected:
        raise InputError(f"expected output {shape_text(expected)}, got {shape_text(key.out_hwc)}: {key}", place)
    if key.form.width == "expand" and key.kernel == 1:
        raise InputError(f"expected kernel 3, 5 or 7, got 1: {key}", place)
    if key.skip and key.in_hwc != key.out_hwc:
        raise InputError(f"expected no skip where input and output differ: {key}", place)
    return key
