"""What a pruning has measured so far, line by line in its metrics.jsonl: a run that goes on is answered from there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
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


_SCORE: Schema = {"loss": quantity, "hits": count, "n_images": factor}
_DAMAGE: Schema = {"n_images": factor, "losses": lambda node: [quantity(loss) for _, loss in node.items()]}
_PARENT: Schema = dict.fromkeys(("valid", "test", "ms"), amount)


def _judge_line(node: Node) -> None:
    """A line of metrics.jsonl by the first word of its key."""
    key = dict(node.items()).get("key", Node(None, "key")).text()
    kind = key.partition(" ")[0]
    if kind in ("plan", "damage"):
        schema = _SCORE if kind == "plan" else _DAMAGE
        judge(node, schema, list(schema))
    elif kind == "time":
        judge(node, dict.fromkeys(Measured._fields, amount), Measured._fields)
    elif kind == "parent":
        judge(node, _PARENT)
        for name in _PARENT:
            if name not in node.value:
                raise InputError("missing", name)


def read_record(path: Path) -> tuple[list[dict[str, Any]], int]:
    """(the lines of a pruning's metrics.jsonl that have an end, their bytes). Raises InputError for a bad one."""
    lines, end = read_whole_lines(path)
    for number, line in enumerate(lines, start=1):
        try:
            _judge_line(Node(line))
        except InputError as error:
            raise InputError(error.problem, f"line {number}: {error.place}", str(path)) from None
    return lines, end
