"""What the files of latencies have in common: format, version and unit, times, shapes, a calibration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from proxyless_arch.arch.ops import Hwc
from proxyless_arch.base.errors import InputError
from proxyless_arch.base.strict import Node, listed

MAX_MS = 1e6  # a layer that takes longer than this is a typing error
STEM_KERNEL = 3  # of the stem that fixed_ops.Conv was measured on; every network of the family has it


def shape_text(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))


def check_format(node: Node, name: str, versions: Sequence[int]) -> int:
    """The version; format, version and unit come first, so that a newer file is not blamed for its newer keys."""
    if not isinstance(node.value, dict):
        raise node.fail("an object")
    for key, allowed in (("format", (name,)), ("version", versions), ("unit", ("ms",))):
        if key not in node.value:
            raise InputError(f"missing; expected {listed(map(repr, allowed))}", key)
        Node(node.value[key], key).exactly(*allowed)
    return int(node.value["version"])


def parse_remarks(node: Node | None) -> dict[str, Any]:
    """An object kept as it is: provenance and error figures, for people and reports."""
    return {} if node is None else {key: child.value for key, child in node.items()}


def parse_calibration(node: Node) -> tuple[float, float, int]:
    """(scale, offset_ms, networks it was fitted on)."""
    keys = node.fields(("scale", "offset_ms"), ("n_nets",))
    n_nets = keys["n_nets"].integer(minimum=0) if "n_nets" in keys else 0
    return keys["scale"].number(1e-3, 1e3), keys["offset_ms"].number(-MAX_MS, MAX_MS), n_nets


def parse_hwc(node: Node) -> Hwc:
    height, width, channels = (element.integer(1, 65_536) for element in node.elements(3, 3))
    return height, width, channels


def parse_ms(node: Node) -> float:
    value = node.number(maximum=MAX_MS)
    if value <= 0:
        raise node.fail("a time above 0 ms")
    return value
