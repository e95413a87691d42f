"""What a pruning or quantization has measured, line by line in metrics.jsonl: a resumed one is answered from there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from hardware.profile.profiling import Measured
from proxyless_arch.base.errors import InputError
from proxyless_arch.base.runs import MetricsFile, read_whole_lines
from proxyless_arch.base.schema import Schema, amount, count, factor, judge, quantity
from proxyless_arch.base.strict import Node


@dataclass
class Record:
    """What was measured, kept in metrics.jsonl."""

    metrics: MetricsFile
    known: dict[str, dict[str, Any]] = field(default_factory=dict)

    @staticmethod
    def opened(metrics: MetricsFile, lines: Sequence[dict[str, Any]]) -> Record:
        return Record(metrics, {line["key"]: line for line in lines if "key" in line})

    def get(self, key: str) -> dict[str, Any] | None:
        return self.known.get(key)

    def put(self, key: str, **values: Any) -> dict[str, Any]:
        line = {"key": key, **values}
        self.metrics.append(line)
        self.known[key] = line
        return line


def _amounts(node: Node) -> list[float]:
    return [quantity(each) for _, each in node.items()]


_SCORE: Schema = {"loss": quantity, "hits": count, "n_images": factor}
_DAMAGE: Schema = {"damages": _amounts, "losses": _amounts, "n_images": factor}
_PARENT: Schema = dict.fromkeys(("valid", "test", "ms", "anchor_ms"), amount)
_KINDS: Mapping[str, tuple[Schema, tuple[str, ...]]] = MappingProxyType(
    {
        "plan": (_SCORE, tuple(_SCORE)),
        "float": (_SCORE, tuple(_SCORE)),
        "time": (dict.fromkeys(Measured._fields, amount), Measured._fields),
        "parent": (_PARENT, ()),
    }
)
"""What is in a line beside its key, and must be, by the first word of the key."""


def _judge_line(node: Node) -> None:
    kind = dict(node.items()).get("key", Node(None, "key")).text().partition(" ")[0]
    if kind == "damage":  # of a pruning: sums of losses; of a quantization: of divergences
        is_pruning = "losses" in node.value or "damages" not in node.value
        judge(node, _DAMAGE, ("losses", "n_images") if is_pruning else ("damages",))
    elif kind in _KINDS:
        judge(node, *_KINDS[kind])
    missing = [name for name in ("valid", "test") if kind == "parent" and name not in node.value]
    if missing:
        raise InputError("missing", missing[0])


def read_record(path: Path) -> tuple[list[dict[str, Any]], int]:
    """(the lines of such a metrics.jsonl that have an end, their bytes). Raises InputError for a bad one."""
    lines, end = read_whole_lines(path)
    for number, line in enumerate(lines, start=1):
        try:
            _judge_line(Node(line))
        except InputError as error:
            raise InputError(error.problem, f"line {number}: {error.place}", str(path)) from None
    return lines, end
