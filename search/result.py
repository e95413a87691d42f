"""What a finished search came to, read from its run folder: no framework is imported."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from proxyless_arch.arch.codec import read_spec
from proxyless_arch.arch.spec import ArchSpec
from proxyless_arch.base.errors import InputError
from proxyless_arch.base.files import read_bytes
from proxyless_arch.base.runs import CONFIG_FILE, ENVIRONMENT_FILE, METRICS_FILE, RESULT_FILE
from proxyless_arch.space.search_space import Path as Choices
from proxyless_arch.weights.files import NamedTensors, read_tensors
from proxyless_arch.weights.lookup import SPEC_FILE, find_network
from search.config import SearchConfig, read_config
from search.reporting.report_page import REPORT_FILE
from search.reporting.run_folder import Run, read_run
from search.reporting.summary import summary

PICTURES = ARCHITECTURE_PICTURE, SEARCH_PICTURE = "architecture.png", "search.png"


@dataclass(frozen=True, kw_only=True)
class Costs:
    """What the derived network was to cost and does, in ``unit``: ms or MACs (None when cost was no matter).

    ``measured`` is None where the device searched for is not this machine.
    """

    unit: str | None
    asked: float | None
    predicted: float | None
    measured: float | None


@dataclass(frozen=True, kw_only=True)
class SearchResult:
    """A finished search: the network, its weights, what it costs and scores, and where the files are.

    ``choices``: of each searched block, into the space's operations. ``top1_percent``: on the images that chose alpha;
    ``test_top1_percent``: on images that nothing was chosen by. ``record``: result.json, which holds more. As text it
    is the summary that the command prints; a notebook shows the architecture's picture.
    """

    folder: Path
    config: SearchConfig
    spec: ArchSpec
    choices: Choices
    costs: Costs
    top1_percent: float
    test_top1_percent: float
    weights: Path
    record: Mapping[str, Any]

    @property
    def landed(self) -> bool | None:
        """Whether the network is at its target, as far as that is known: measured where the device is here, else
        predicted. None without a target, and for an older run."""
        return self.record.get("landed")

    @property
    def files(self) -> dict[str, Path]:
        """The files of the run folder that are there, by name."""
        names = (SPEC_FILE, self.weights.name, RESULT_FILE, CONFIG_FILE, ENVIRONMENT_FILE, METRICS_FILE, REPORT_FILE)
        every = (*names, *PICTURES)
        return {name: self.folder / name for name in every if (self.folder / name).is_file()}

    def tensors(self) -> NamedTensors:
        """The weights of the network, by their names in the contract."""
        return read_tensors(self.weights).tensors

    def __str__(self) -> str:
        return summary(self.folder)

    def _repr_png_(self) -> bytes:
        return read_bytes(self.folder / ARCHITECTURE_PICTURE)


@dataclass(frozen=True, kw_only=True)
class RandomResult:
    """Networks drawn at the target's cost: ``specs`` are their files, ``costs`` theirs in ``unit``, in that order."""

    folder: Path
    config: SearchConfig
    specs: tuple[Path, ...]
    choices: tuple[Choices, ...]
    unit: str
    asked: float
    costs: tuple[float, ...]

    def networks(self) -> list[ArchSpec]:
        """The networks, read from their files."""
        return [read_spec(path) for path in self.specs]

    def __str__(self) -> str:
        return summary(self.folder)


def read_result(folder: Path | str) -> SearchResult | RandomResult:
    """The product of a finished run. Raises InputError when there is none, or when a file of it is damaged."""
    run = read_run(Path(folder))
    if run.result is None:
        raise InputError("this search did not come to its end: there is no result.json in it", source=str(folder))
    config = read_config(run.folder / CONFIG_FILE, fill_missing=True)
    return _random(run, config) if run.is_random else _searched(run, config)


def _searched(run: Run, config: SearchConfig) -> SearchResult:
    assert run.result is not None
    spec, weights = find_network(str(run.folder))
    if weights is None:
        raise InputError("the weights of this run are gone", source=str(run.folder))
    return SearchResult(
        folder=run.folder,
        config=config,
        spec=spec,
        choices=tuple(run.result["path"]),
        costs=Costs(unit=run.unit, asked=run.target, predicted=run.predicted, measured=run.measured_ms),
        top1_percent=run.result["top1_percent"],
        test_top1_percent=run.result["test_top1_percent"],
        weights=weights,
        record=run.result,
    )


def _random(run: Run, config: SearchConfig) -> RandomResult:
    assert run.result is not None
    entries = run.result["networks"]
    return RandomResult(
        folder=run.folder,
        config=config,
        specs=tuple(run.folder / entry["spec"] for entry in entries),
        choices=tuple(tuple(entry["path"]) for entry in entries),
        unit=run.result["cost_unit"],
        asked=run.result["target"],
        costs=tuple(entry["cost"] for entry in entries),
    )
