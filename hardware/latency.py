"""Pricing layers in milliseconds, without running them.

Two sources of prices, and their combination:

* LookupTable: measured layers, exact keys. Our JSON format, or the YAML that was released with ProxylessNAS.
* Predictor: a fitted sum of terms a layer's shape determines.
* WithFallback: the table, and the predictor for layers the table lacks.

A number from here is predicted; it is never to be reported as measured.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from hardware.predictor import PREDICTOR_FORMAT, Predictor
from hardware.released_yaml import parse_released_yaml
from hardware.table import TABLE_FORMAT, LookupTable
from proxyless_arch.arch.walk import LayerCall
from proxyless_arch.base.errors import InputError
from proxyless_arch.base.files import parse_json, read_bytes
from proxyless_arch.base.strict import Node, listed, nearest

SHIPPED_FOLDER = Path(__file__).parent / "tables"
PHONE = "pixel1"
"""The shipped predictor that --target_hardware mobile means where no table is given."""


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


def network_ms(source: LatencySource, calls: Iterable[LayerCall]) -> float:
    """Predicted latency of a whole network in ms."""
    return math.fsum((source.offset_ms, *map(source.price_ms, calls)))


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
            f"was measured for {'; '.join(different)}: measure it for this run with hardware/profile_latency.py",
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
            return parse_released_yaml(content, source)
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


def filled(found: LookupTable | Predictor, fallback: str | None) -> LatencySource:
    """``found`` and, with ``fallback`` "predictor", the phone's predictor for the layers that a table lacks."""
    if not isinstance(found, LookupTable) or fallback != "predictor":
        return found
    predictor = shipped(PHONE)
    assert isinstance(predictor, Predictor)
    return WithFallback(found, predictor)
