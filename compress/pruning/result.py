"""What a finished pruning came to, read from its run folder: no framework is imported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compress.pruning import page
from compress.pruning.config import SETTINGS, PruneConfig
from proxyless_arch.apps.evaluation import DIGITS
from proxyless_arch.apps.next_commands import exporting, quantizing
from proxyless_arch.arch.spec import ArchSpec
from proxyless_arch.base.cli import command_line
from proxyless_arch.base.errors import InputError
from proxyless_arch.base.files import LONGEST_NAME
from proxyless_arch.base.runs import CONFIG_FILE, RESULT_FILE, format_seconds
from proxyless_arch.base.schema import Schema, amount, count, factor, judge, judged, list_of, mapping, percent, sides
from proxyless_arch.base.strict import Node
from proxyless_arch.base.text import align, labeled
from proxyless_arch.base.units import format_count
from proxyless_arch.chain.page import REPORT_FILE
from proxyless_arch.weights.lookup import find_network


@dataclass(frozen=True, kw_only=True)
class PruneResult:
    """A finished pruning: the network, its weights, its record, and with several targets all of them in ``family``."""

    folder: Path
    config: PruneConfig
    spec: ArchSpec
    weights: Path
    record: Mapping[str, Any]
    family: tuple[PruneResult, ...] = ()

    @property
    def top1_percent(self) -> float | None:
        return self.record["top1_percent"]

    @property
    def test_top1_percent(self) -> float | None:
        return self.record["test_top1_percent"]

    @property
    def landed(self) -> bool | None:
        """Whether the measured network is at its target; None where nothing was measured."""
        return self.record["landed"]

    def __str__(self) -> str:
        lines = _family_lines(self.family) if self.family else _lines(self)
        return "\n".join(["", *(labeled(*line) for line in lines)])


def read_result(folder: Path | str) -> PruneResult:
    """The product of a finished pruning. Raises InputError when there is none, or when a file of it is damaged."""
    home = Path(folder)
    if not (home / RESULT_FILE).is_file():
        raise InputError("this pruning did not come to its end: there is no result.json in it", source=str(folder))
    record = _record(home / RESULT_FILE)
    if "family" in record:
        family = tuple(read_result(home / name) for name in record["family"])
        return PruneResult(**{**vars(family[0]), "family": family})
    spec, weights = find_network(str(home))
    if weights is None:
        raise InputError("the weights of this run are gone", source=str(folder))
    config = SETTINGS.read(home / CONFIG_FILE)
    return PruneResult(folder=home, config=config, spec=spec, weights=weights, record=record)


_SHARES = tuple(f"{start}{split}top1_percent" for start in ("", "inherited_", "parent_") for split in ("", "test_"))
_SCORED: Schema = {"cost": amount, "loss": amount, "hits": count, "n_images": count}
_SCHEMA: Schema = {
    **dict.fromkeys(("target_hardware", "method", "latency_source", "parent", "runtime"), Node.text),
    **dict.fromkeys((*_SHARES, "choosing_top1_percent", "finetuned_top1_percent"), percent),
    **dict.fromkeys(
        ("target_macs", "max_drop", "max_params", "choosing_loss", "wall_seconds", "measured_latency_ms",
         "parent_predicted_latency_ms", "parent_measured_latency_ms"),
        amount,
    ),
    **dict.fromkeys(
        ("target_latency_ms", "predicted_latency_ms", "table_scale", "parent_macs", "parent_params"), factor
    ),
    **dict.fromkeys(
        ("evaluations", "macs", "params", "finetune_epochs", "n_valid_images", "n_test_images",
         "num_classes", "manual_seed"),
        count,
    ),
    "resolution": sides,
    **dict.fromkeys(("landed", "finetuning_is_kept"), Node.boolean),
    **dict.fromkeys(("change", "images"), mapping),
    "scored": list_of(_SCORED),
}  # fmt: skip
_NEEDED = ("macs", "params", "parent_macs", "parent_params", "n_test_images", "finetune_epochs", "wall_seconds")
_NULLABLE = ("landed", "target_latency_ms", "predicted_latency_ms", "measured_latency_ms", *_SHARES)
"""There, but null where nothing was scored, predicted or measured."""


def _record(path: Path) -> dict[str, Any]:
    """result.json of a pruning, or of a family of them."""
    record = judged(path, {"family": _members}, ())
    if "family" in record and record["family"] is None:
        raise InputError("expected a list, got null", "family", str(path))
    if "family" in record:
        return record
    try:
        judge(Node(record), _SCHEMA, _NEEDED)
        for key in _NULLABLE:
            if key not in record:
                raise InputError("missing", key)
        if record["landed"] is not None and record["target_latency_ms"] is not None:
            amount(Node(record["measured_latency_ms"], "measured_latency_ms"))
    except InputError as error:
        raise error.from_source(str(path)) from None
    return {**dict.fromkeys(_SCHEMA), "finetuning_is_kept": True, **record}


def _members(node: Node) -> None:
    """The folders of a family, each directly in it and no family itself."""
    for each in node.elements(1):
        name = each.text()
        if (
            not 0 < len(name.encode("utf-8", "surrogateescape")) <= LONGEST_NAME
            or name in (".", "..")
            or "/" in name
            or "\\" in name
        ):
            raise each.fail("the name of a folder in the run folder")


def _lines(result: PruneResult) -> list[tuple[str, str]]:
    """The end of a pruning, for a person."""
    record = result.record
    lines = [("network", f"{format_count(record['macs'])} MACs ({_share(record, 'macs')}), "
              f"{format_count(record['params'])} parameters ({_share(record, 'params')})")]  # fmt: skip
    if record["predicted_latency_ms"] is not None:
        measured = record["measured_latency_ms"]
        told = f"; measured {measured:.4g} ms" if measured is not None else "; not measured"
        asked = f", asked {record['target_latency_ms']:.4g} ms" if record["target_latency_ms"] is not None else ""
        lines.append(("latency", f"{record['predicted_latency_ms']:.4g} ms predicted{told}{asked}"))
    if record["landed"] is not None and record["target_latency_ms"] is not None:
        off = 100 * (record["measured_latency_ms"] / record["target_latency_ms"] - 1)
        if record["landed"]:
            lines.append(("landed", f"measured {off:+.2f} % from the target"))
        else:
            lines.append(("NOT LANDED", f"measured {off:+.1f} % from the target; prune again on a quiet machine"))
    lines.append(
        (
            "accuracy",
            f"{_top1(record['test_top1_percent'])} of {record['n_test_images']} test images, {_tuning(record)}; "
            f"{_top1(record['parent_test_top1_percent'])} before pruning",
        )
    )
    lines.append(("page", str(result.folder / REPORT_FILE)))
    lines.append(("time", format_seconds(record["wall_seconds"])))
    first, *others = commands(result)
    return [*lines, ("next", first), *(("", line) for line in others)]


def _family_lines(family: Sequence[PruneResult]) -> list[tuple[str, str]]:
    """The end of a pruning to several targets: a table to pick from, and where to go on with each."""
    head, *rows = align([page.HEADER, *page.rows(family)])
    home = family[0].folder.parent
    return [
        ("networks", head),
        *(("", row) for row in rows),
        ("page", str(home / page.FILE)),
        *(("next" if member is family[0] else "", commands(member)[0]) for member in family),
    ]


def commands(result: PruneResult) -> list[str]:
    """What goes on with a pruned network, as a person would paste it."""
    run, images = result.folder, result.config.data_path
    return [
        command_line("eval.py", "--arch", str(run), "--data_path", images or DIGITS),
        command_line(*quantizing(run, result.spec)),
        command_line(*exporting(run, images, "export.py", "onnx")),
        command_line(*exporting(run, images, "export_tf.py", "litert")),
        command_line("train.py", "--arch", str(run)),
    ]


def _tuning(record: Mapping[str, Any]) -> str:
    if not record["finetune_epochs"]:
        return "not fine-tuned"
    if not record["finetuning_is_kept"]:
        return (
            f"fine-tuning is not kept: it took the held-out images from {_top1(record['inherited_top1_percent'])} to "
            f"{_top1(record['finetuned_top1_percent'])}"
        )
    return f"{_top1(record['inherited_test_top1_percent'])} before fine-tuning"


def _share(record: Mapping[str, Any], name: str) -> str:
    return f"{100 * record[name] / record[f'parent_{name}']:.0f} % of before"


def _top1(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} %"
