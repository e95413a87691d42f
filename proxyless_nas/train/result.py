"""What a finished training came to, read from its run folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from proxyless_arch.apps.per_class import FILE as PER_CLASS_FILE
from proxyless_arch.apps.train_result import read_training_result
from proxyless_arch.apps.train_settings import TrainConfig, read_config
from proxyless_arch.arch.spec import ArchSpec
from proxyless_arch.base.errors import InputError
from proxyless_arch.base.runs import CONFIG_FILE, ENVIRONMENT_FILE, METRICS_FILE, RESULT_FILE
from proxyless_arch.weights.files import NamedTensors, read_tensors
from proxyless_arch.weights.lookup import SPEC_FILE, find_network
from proxyless_nas.train.session import LAST_FILE, summary


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """A finished training: the network, its weights, what it scores, and where the files are.

    ``top1_percent``: on the images that chose the epoch, None where there are none; ``test_top1_percent``: on images
    that nothing was chosen by, None where there are none. ``record``: result.json, which holds more. As text it is the
    summary that the command prints.
    """

    folder: Path
    config: TrainConfig
    spec: ArchSpec
    top1_percent: float | None
    test_top1_percent: float | None
    weights: Path
    record: Mapping[str, Any]

    @property
    def files(self) -> dict[str, Path]:
        """The files of the run folder that are there, by name."""
        product = (SPEC_FILE, self.weights.name, LAST_FILE, RESULT_FILE, PER_CLASS_FILE)
        every = (*product, CONFIG_FILE, ENVIRONMENT_FILE, METRICS_FILE)
        return {name: self.folder / name for name in every if (self.folder / name).is_file()}

    def tensors(self) -> NamedTensors:
        """The weights of the network, by their names in the contract."""
        return read_tensors(self.weights).tensors

    def __str__(self) -> str:
        return summary(self.config, self.record, self.folder)


def read_result(folder: Path | str) -> TrainResult:
    """The product of a finished training. Raises InputError when there is none, or when a file of it is damaged."""
    home = Path(folder)
    config = read_config(home / CONFIG_FILE, fill_missing=True)
    if not (home / RESULT_FILE).is_file():
        raise InputError("this training did not come to its end: there is no result.json in it", source=str(folder))
    spec, weights = find_network(str(home))
    if weights is None:
        raise InputError("the weights of this run are gone", source=str(folder))
    record = read_training_result(home / RESULT_FILE)
    return TrainResult(
        folder=home,
        config=config,
        spec=spec,
        top1_percent=record["top1_percent"],
        test_top1_percent=record["test_top1_percent"],
        weights=weights,
        record=record,
    )
