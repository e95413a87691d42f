"""What a run writes down: metrics.jsonl, TensorBoard events and a console line per epoch."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, TypedDict

from proxyless_arch.base.runs import MetricsFile
from proxyless_arch.base.text import number_of
from proxyless_arch.base.units import Unit, format_count

TENSORBOARD_FOLDER = "tensorboard"

# functional syntax, since "lambda" is a Python keyword
EpochRecord = TypedDict(
    "EpochRecord",
    {
        "phase": str,  # "warmup", "search", "predictor" (rounds in place of epochs, see rounds.py) or "finetune"
        "epoch": int,  # within the phase, from 0
        "n_epochs": int,  # of the phase
        "step": int,  # weight steps since the start of the run
        "arch_step": int,
        "train_loss": float | None,
        "train_top1_percent": float | None,
        "valid_loss": float | None,
        "valid_top1_percent": float | None,
        "learning_rate": float | None,
        "expected_cost": float | None,  # in cost_unit
        "argmax_cost": float | None,  # in cost_unit
        "cost_unit": str,  # of Unit
        "target": float | None,  # in cost_unit
        "lambda": float | None,
        "temperature": float | None,
        "entropy": float | None,  # nats, summed over the blocks
        "probabilities": list[list[float]] | None,  # one list per block
        "argmax_path": list[int] | None,
        "images_per_second": float | None,
        "seconds": float | None,
    },
)
FIELDS: tuple[str, ...] = tuple(EpochRecord.__annotations__)


class RunLog:
    """The owner of a run's metrics: metrics.jsonl, TensorBoard events and the console line of each epoch.

    A line is on disk (fsync) before ``epoch`` returns. A checkpoint stores ``offset``; a run resumed with it drops
    the lines written after that checkpoint, so that it leaves the same file as an uninterrupted run, wall-clock
    fields (``WALL_CLOCK_FIELDS``) apart.

    Args:
        run_dir: the run folder; created when missing.
        resume_at: None for a new run; else the ``offset`` stored in the checkpoint the run resumes from, in bytes.
        say: receives the console line; above a progress bar where one is on.

    Raises:
        InputError: a new run in a folder that already holds metrics, or an offset that is not the end of a line.
    """

    def __init__(
        self, run_dir: str | os.PathLike[str], resume_at: int | None = None, *, say: Callable[[str], Any] = print
    ) -> None:
        self._metrics = MetricsFile(run_dir, resume_at)
        last = self._metrics.last_kept
        # the first weight step that is not covered by the lines kept
        self._purge_step = None if resume_at is None else int(last["step"]) + 1 if last else 0
        self._tensorboard_folder = Path(run_dir) / TENSORBOARD_FOLDER
        self._say = say
        self._writer: Any = None

    @property
    def offset(self) -> int:
        """Bytes of metrics.jsonl written so far; what a checkpoint stores for ``resume_at``."""
        return self._metrics.offset

    def epoch(self, record: Mapping[str, Any]) -> None:
        """Write one EpochRecord down and say its console line. Fields beyond the schema are kept.

        Raises:
            ValueError: a field of the schema is missing (use None for "not known"), or a number is NaN or infinite.
        """
        missing = [field for field in FIELDS if field not in record]
        if missing:
            raise ValueError(f"epoch record: missing {', '.join(missing)}")
        ordered = {field: record[field] for field in FIELDS} | dict(record)
        self._metrics.append(ordered)
        self._write_events(ordered)
        self._say(format_epoch(ordered))

    def _write_events(self, record: Mapping[str, Any]) -> None:
        if self._writer is None:
            from tensorboardX import SummaryWriter

            # the suffix keeps a run resumed within the same second off the events of its first part
            suffix = f".{self.offset}"
            self._writer = SummaryWriter(
                str(self._tensorboard_folder), purge_step=self._purge_step, filename_suffix=suffix
            )
        for tag, value in scalars(record).items():
            self._writer.add_scalar(tag, value, record["step"])
        self._writer.flush()

    def close(self) -> None:
        """Close both files; harmless when called twice."""
        self._metrics.close()
        if self._writer is not None:
            self._writer.close()

    def __enter__(self) -> RunLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def scalars(record: Mapping[str, Any]) -> dict[str, float]:
    """``{TensorBoard tag: value}`` of a record; fields that are None have no tag.

    Warm-up and search train the same supernet and share their tags; a fine-tune has its own.
    """
    unit = record["cost_unit"]
    prefix = "finetune/" if record["phase"] == "finetune" else ""
    tags = {
        "loss/train": "train_loss",
        "loss/valid": "valid_loss",
        "top1_percent/train": "train_top1_percent",
        "top1_percent/valid": "valid_top1_percent",
        f"cost/expected_{unit}": "expected_cost",
        f"cost/argmax_{unit}": "argmax_cost",
        f"cost/target_{unit}": "target",
        "architecture/entropy_nats": "entropy",
        "architecture/lambda": "lambda",
        "architecture/temperature": "temperature",
        "optimizer/learning_rate": "learning_rate",
        "speed/images_per_second": "images_per_second",
    }
    return {prefix + tag: record[field] for tag, field in tags.items() if record[field] is not None}


def format_epoch(record: Mapping[str, Any]) -> str:
    """The console line of an epoch: lines of one run align, within 110 columns but for costs below 0.1 ms.

    MACs are counted without naming them (``320.4M``).
    ``acc`` is top-1 in percent on training/validation images, ``E`` the expected cost on its way to the target and
    ``H`` the entropy of the architecture in nats. A value that is not known is a dash; costs nobody knows are left out.
    """
    if record["phase"] == "predictor":
        return _format_round(record)
    epochs = f"{record['epoch'] + 1:>{len(str(record['n_epochs']))}}/{record['n_epochs']}"
    parts = [
        f"{record['phase']:<8} {epochs:>5}",
        f"loss {number_of(record['train_loss'], 5, 3)}",
        f"acc {_percent(record['train_top1_percent'])}/{_percent(record['valid_top1_percent'])}%",
    ]
    if record["expected_cost"] is not None or record["argmax_cost"] is not None:
        unit = Unit(record["cost_unit"])
        decimals = unit.decimals(record["target"] or record["expected_cost"] or record["argmax_cost"])
        target = f" -> {_cost(record['target'], unit, decimals).strip()}" if record["target"] is not None else ""
        parts += [
            f"E {_cost(record['expected_cost'], unit, decimals)}{target}{'' if unit.is_counted else f' {unit}'}",
            f"argmax {_cost(record['argmax_cost'], unit, decimals)}",
            f"lam {number_of(record['lambda'], 5, 2)}",
            f"H {number_of(record['entropy'], 4, 1)}",
        ]
    parts.append(f"{number_of(record['images_per_second'], 4, 0)} img/s")
    return "  ".join(parts)


def _format_round(record: Mapping[str, Any]) -> str:
    """The console line of a predictor's round: ``tau`` is the rank correlation of what it foretold of others."""
    return "  ".join(
        [
            f"predictor {record['epoch']}/{record['n_epochs'] - 1}",
            f"{record['n_networks']:>4} {'network' if record['n_networks'] == 1 else 'networks':<8}",
            f"loss {number_of(record['mean_valid_loss'], 5, 3)} on average",
            f"best {number_of(record['valid_loss'], 5, 3)}",
            f"tau {number_of(record['kendall'], 5, 2)}",
            f"{record['seconds']:.0f} s",
        ]
    )


def _percent(value: float | None) -> str:
    return " 100" if value is not None and value >= 99.95 else number_of(value, 4, 1)


def _cost(value: float | None, unit: Unit, decimals: int) -> str:
    width = 6 if unit.is_counted else 3 + max(2, decimals - 1)
    if value is None:
        return "-".rjust(width)
    if unit.is_counted:
        return format_count(value).replace(" ", "").rjust(width)
    return f"{value:.{1 if value >= 99.995 else decimals}f}".rjust(width)
