"""What a run's files hold, as far as anything here reads it: which kind of value stands under which key.

A key that a file has beyond these is kept and not judged; one that it lacks, or that is null, is judged only where it
is needed, since older runs have fewer. Settings have their own types (search/config.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath
from types import MappingProxyType

from proxyless_arch.base.schema import Schema, amount, count, factor, judge, list_of, path_of_choices, percent, quantity
from proxyless_arch.base.strict import Node
from proxyless_arch.base.units import Unit


def unit(node: Node) -> str:
    return node.text([str(each) for each in Unit])


def spec_below(node: Node) -> str:
    """A file of the folder: neither an absolute name nor one that leads out of it."""
    place = PurePosixPath(node.text())
    if place.is_absolute() or ".." in place.parts or len(str(place)) > 200:
        raise node.fail("a file in the run folder")
    return str(place)


NEEDED_OF_EPOCH = ("phase", "epoch", "n_epochs", "arch_step", "target", "expected_cost", "argmax_cost", "entropy")
NEVER_NULL = NEEDED_OF_EPOCH[:4]
EPOCH: Schema = {
    "phase": Node.text,
    **dict.fromkeys(("epoch", "n_epochs", "arch_step"), lambda node: node.integer(0, 2**40)),
    **dict.fromkeys(("target", "expected_cost", "argmax_cost", "entropy", "lambda"), quantity),
    **dict.fromkeys(("train_loss", "valid_loss"), quantity),
    **dict.fromkeys(("train_top1_percent", "valid_top1_percent"), percent),
    "argmax_path": path_of_choices,
    "probabilities": lambda node: [[each.number(0, 1) for each in block.elements(1)] for block in node.elements()],
}
"""A line of metrics.jsonl."""

_ATTEMPT: Schema = {"measured_at_anchor_speed_ms": amount}
_CHANGE: Schema = {
    "block": count, "argmax": Node.text, "argmax_percent": percent, "chosen": Node.text, "chosen_percent": percent
}  # fmt: skip
_DEVICE: Schema = {"device": Node.text, "runtime": Node.text, "runtime_version": Node.text, "threads": count}
_RESCORED: Schema = {
    "networks": count, "n_images": count, **dict.fromkeys(("loss", "loss_of_most_probable", "reliability"), amount)
}  # fmt: skip
_PREDICTOR: Schema = {
    **dict.fromkeys(("loss", "reliability", "random_sd"), amount),
    **dict.fromkeys(
        ("predicted", "random_mean", "gain", "gain_low", "gain_high", "gain_in_sd", "kendall", "spearman"), quantity
    ),
    **dict.fromkeys(("n_scored", "n_broken", "n_random", "n_images"), count),
    "is_fallback": Node.boolean,
    "foretold": lambda node: [[quantity(loss) for loss in pair.elements(2, 2)] for pair in node.elements()],
    "coefficients": lambda node: [[quantity(each) for each in block.elements(1)] for block in node.elements()],
}
_NEEDED_OF_PREDICTOR = (
    "random_mean", "random_sd", "gain", "gain_low", "gain_high", "gain_in_sd", "kendall", "n_scored", "n_random",
    "is_fallback",
)  # fmt: skip
NEEDED_OF_SEARCH = (
    "macs", "params", "top1_percent", "test_top1_percent", "path", "n_valid_images", "n_test_images",
    "unreadable_images", "wall_seconds",
)  # fmt: skip
NEEDED_BESIDE: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "landed": ("landing_error_percent", "landed_by", "landing_tolerance_percent"),
        "finetuned_top1_percent": ("finetuned_test_top1_percent",),
        "argmax_top1_percent": ("argmax_test_top1_percent",),
        "whole_top1_percent": ("whole_test_top1_percent", "whole_macs"),
        "table_anchor_ms": ("anchor_ms",),
        "argmax_latency_ms": ("argmax_path",),
        "argmax_macs": ("argmax_path",),
    }
)
"""What a search's result must have as well where it has the first."""
SHARES = tuple(
    f"{whose}{part}top1_percent" for whose in ("", "finetuned_", "argmax_", "whole_") for part in ("", "test_")
)
SEARCH: Schema = {
    **dict.fromkeys(
        ("target_hardware", "latency_source", "weights", "warmup_from", "landing_stopped", "landed_by"), Node.text
    ),
    "cost_unit": unit,
    **dict.fromkeys(
        (
            "target_latency_ms", "target_macs", "predicted_latency_ms", "measured_latency_ms", "argmax_latency_ms",
            "measured_at_table_speed_ms", "measured_other_clock_ms", "measured_standard_error_percent",
            "measured_spread_percent", "argmax_macs", "expected_cost", "landing_tolerance_percent", "wall_seconds",
        ),
        amount,
    ),
    **dict.fromkeys(SHARES, percent),
    **dict.fromkeys(("table_scale", "anchor_ms", "table_anchor_ms"), factor),
    **dict.fromkeys(
        ("macs", "params", "n_valid_images", "n_test_images", "unreadable_images", "measured_rounds", "resolution",
         "num_classes", "manual_seed", "whole_macs"),
        count,
    ),
    **dict.fromkeys(("path", "argmax_path"), path_of_choices),
    "bn_recalibration_losses": lambda node: [quantity(loss) for _, loss in node.items()],
    "projection_changes": list_of(_CHANGE, _CHANGE),
    "measured_on": lambda node: judge(node, _DEVICE, _DEVICE),
    "landing": list_of(_ATTEMPT),
    "landed": Node.boolean,
    "images": lambda node: dict(node.items()),
    "rescored": lambda node: judge(node, _RESCORED, ("networks", "loss")),
    "predictor": lambda node: judge(node, _PREDICTOR, _NEEDED_OF_PREDICTOR),
    **dict.fromkeys(("landing_error_percent", "projection_log_odds"), quantity),
}  # fmt: skip
"""result.json of a search."""

_NETWORK: Schema = {
    "spec": spec_below, "path": path_of_choices, "cost": amount, "macs": count, "params": count,
    **dict.fromkeys(SHARES, percent),
}  # fmt: skip


def _networks(node: Node) -> None:
    node.elements(1)
    list_of(_NETWORK, ("spec", "path", "cost"))(node)


NEEDED_OF_RANDOM = ("target", "cost_unit", "networks")
RANDOM: Schema = {
    "target": amount,
    "cost_unit": unit,
    **dict.fromkeys(("cost_source", "target_hardware"), Node.text),
    "manual_seed": count,
    "networks": _networks,
}
"""result.json of random networks."""

ENVIRONMENT: Schema = dict.fromkeys(("date", "command", "device", "torch"), Node.text)
"""environment.json."""
