"""What a finished quantization came to, read from its run folder: no framework is imported."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compress.bits.config import RUNTIMES, SETTINGS, BitsConfig
from proxyless_arch.apps.evaluation import DIGITS
from proxyless_arch.apps.next_commands import attacking
from proxyless_arch.arch.bits import PLAN_FILE, BitPlan, read_plan
from proxyless_arch.arch.spec import ArchSpec
from proxyless_arch.base.cli import command_line
from proxyless_arch.base.errors import InputError
from proxyless_arch.base.runs import CONFIG_FILE, RESULT_FILE, format_seconds
from proxyless_arch.base.schema import Schema, amount, count, factor, judged, percent
from proxyless_arch.base.strict import Node
from proxyless_arch.base.text import labeled
from proxyless_arch.base.units import Unit, format_count
from proxyless_arch.chain.commands import export_words
from proxyless_arch.chain.page import REPORT_FILE
from proxyless_arch.weights.lookup import find_network


@dataclass(frozen=True, kw_only=True)
class BitsResult:
    """A finished quantization: the network, its weights, its plan and its record."""

    folder: Path
    config: BitsConfig
    spec: ArchSpec
    weights: Path
    plan: BitPlan
    record: Mapping[str, Any]

    @property
    def top1_percent(self) -> float | None:
        return self.record["top1_percent"]

    @property
    def test_top1_percent(self) -> float | None:
        return self.record["test_top1_percent"]

    def __str__(self) -> str:
        return "\n".join(["", *(labeled(*line) for line in _lines(self))])


_SCORES = ("top1_percent", "test_top1_percent", "parent_top1_percent", "parent_test_top1_percent")
_SCHEMA: Schema = {
    **dict.fromkeys(("hardware", "method", "source", "plan", "parent"), Node.text),
    "unit": lambda node: node.text([str(each) for each in Unit]),
    **dict.fromkeys(_SCORES, percent),
    **dict.fromkeys(("target", "max_drop", "cost", "average_bits", "wall_seconds"), amount),
    **dict.fromkeys(("size_bytes", "parent_size_bytes"), factor),
    **dict.fromkeys(("evaluations", "macs", "params", "n_valid_images", "n_test_images"), count),
}
_NEEDED = ("unit", "source", "cost", "size_bytes", "parent_size_bytes", "average_bits", "n_test_images", "wall_seconds")


def read_result(folder: Path | str) -> BitsResult:
    """The product of a finished quantization. Raises InputError when there is none, or a file of it is damaged."""
    home = Path(folder)
    if not (home / RESULT_FILE).is_file():
        raise InputError("this run did not come to its end: there is no result.json in it", source=str(folder))
    spec, weights = find_network(str(home))
    if weights is None:
        raise InputError("the weights of this run are gone", source=str(folder))
    return BitsResult(
        folder=home,
        config=SETTINGS.read(home / CONFIG_FILE),
        spec=spec,
        weights=weights,
        plan=read_plan(home / PLAN_FILE, spec),
        record=_record(home / RESULT_FILE),
    )


def _record(path: Path) -> dict[str, Any]:
    """result.json; what was not scored is null."""
    return dict.fromkeys(_SCORES) | judged(path, _SCHEMA, _NEEDED)


def _lines(result: BitsResult) -> list[tuple[str, str]]:
    """The end of a quantization, for a person."""
    record, config = result.record, result.config
    unit = Unit(record["unit"])
    lines = [
        ("formats", str(result.plan)),
        (
            "size",
            f"{format_count(record['size_bytes'])}B of weights, {record['average_bits']:.2f} bits each; float32 takes "
            f"{record['parent_size_bytes'] / record['size_bytes']:.2f} times as much",
        ),
    ]
    if unit is not Unit.BYTES:
        lines.append(("cost", f"{unit.exact(record['cost'])} ({record['source']})"))
    lines.append(
        (
            "accuracy",
            f"{_top1(record.get('test_top1_percent'))} of {record['n_test_images']} test images; "
            f"{_top1(record.get('parent_test_top1_percent'))} in float32",
        )
    )
    if config.hardware not in RUNTIMES:
        lines.append(
            ("note", "computed as if: no runtime here has a convolution below 8 bits, such weights are storage")
        )
    lines.append(("page", str(result.folder / REPORT_FILE)))
    lines.append(("time", format_seconds(record["wall_seconds"])))
    first, *others = _commands(result)
    return [*lines, ("next", first), *(("", line) for line in others)]


def _commands(result: BitsResult) -> list[str]:
    """What goes on with a quantized network, as a person would paste it."""
    run, images = result.folder, result.config.data_path
    found = [("eval.py", "--arch", str(run), "--data_path", images or DIGITS), attacking(run, images)]
    words = export_words(run, images, result.plan, result.spec, result.config.hardware)
    if words is not None:
        found.append(words)
    found.append(("train.py", "--arch", str(run), "--bits", str(run / PLAN_FILE)))
    return [command_line(*words) for words in found]


def _top1(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} %"
