"""A run folder read back: what was asked, what happened, what came out, as far as it got.

Nothing here imports torch, and a folder of an interrupted search, or of an older version, can still be read.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hardware.cost import CostTable, price_by, price_space
from hardware.latency import PHONE, LatencySource, filled, load_latency_source, shipped
from proxyless_arch.apps.per_class import FILE as PER_CLASS_FILE
from proxyless_arch.apps.per_class import read_per_class
from proxyless_arch.apps.train_result import SCHEMA as TRAINING_RESULT
from proxyless_arch.apps.train_settings import FORMAT as TRAINING
from proxyless_arch.apps.train_settings import read_recorded as read_training_settings
from proxyless_arch.arch.codec import read_spec
from proxyless_arch.arch.spec import ArchSpec, Preprocessing, imagenet_preprocessing
from proxyless_arch.arch.walk import walk
from proxyless_arch.base.errors import InputError
from proxyless_arch.base.files import read_json
from proxyless_arch.base.runs import METRICS_FILE, RESULT_FILE, read_metrics, resume_command
from proxyless_arch.base.schema import judge, judged
from proxyless_arch.base.settings import check_kinds
from proxyless_arch.base.strict import Node, counted
from proxyless_arch.base.text import readable
from proxyless_arch.base.units import Unit
from proxyless_arch.space.mbconv import MACROS, mbconv_space
from proxyless_arch.space.search_space import FILE as SPACE_FILE
from proxyless_arch.space.search_space import SearchSpace, read_space
from proxyless_arch.weights.lookup import SPEC_FILE
from search.config import FORMAT, TARGET_KEY, SearchConfig, default_resolution, default_space
from search.reporting.schema import (
    ENVIRONMENT,
    EPOCH,
    NEEDED_BESIDE,
    NEEDED_OF_EPOCH,
    NEEDED_OF_RANDOM,
    NEEDED_OF_SEARCH,
    NEVER_NULL,
    RANDOM,
    SEARCH,
)

ROOT = Path(__file__).resolve().parents[2]
CLASSES_OF = {"digits": 10, "cifar10": 10, "imagenet": 1000}
LATENCY_FILE = "latency_table"  # a copy of what priced the run, where it was not shipped
COST_KEY = {Unit.MS: "predicted_latency_ms", Unit.MACS: "macs"}
ARGMAX_KEY = {Unit.MS: "argmax_latency_ms", Unit.MACS: "argmax_macs"}
"""Where result.json has the cost of the derived network and of the most probable one, by its unit."""
OVERRULED_PERCENT = 1.0  # an operation less probable was taken against the search
SAME_COST = 1e-6  # relative: prices computed again must give the recorded cost


@dataclass(frozen=True, kw_only=True)
class TrainedRun:
    """A finished run of train.py: the network, the settings it was trained with (config.json) and its result.json.

    An older run has fewer settings than there are today; what it was done with in the others is not known.
    """

    folder: Path
    spec: ArchSpec
    settings: Mapping[str, Any]
    result: Mapping[str, Any]
    by_class: Mapping[str, Any] | None = None
    """Its per_class.json, where there is one."""

    @property
    def top1_percent(self) -> float:
        """On the test images."""
        return self.result["test_top1_percent"]

    @property
    def n_images(self) -> int:
        """The test images."""
        return self.result["n_test_images"]

    def text(self) -> str:
        """How it was trained, in a few words."""
        epochs = self.settings.get("n_epochs")
        count = counted(epochs, "epoch") if epochs is not None else "a not recorded number of epochs"
        return f"{count} of train.py in {readable(self.folder.name)}"


@dataclass(frozen=True, kw_only=True)
class Run:
    """What a run folder holds. ``result`` is None when the run did not come to its end.

    ``settings``: config.json, flat. ``spec``: the derived network. ``space``: of space.json. ``source``, ``table``:
    made again from the settings, None where that is impossible; ``notes`` then says why, for the reader of the report.
    """

    folder: Path
    settings: Mapping[str, Any]
    environment: Mapping[str, Any]
    records: Sequence[Mapping[str, Any]]
    result: Mapping[str, Any] | None
    spec: ArchSpec | None
    space: SearchSpace | None
    source: LatencySource | None
    table: CostTable | None
    notes: tuple[str, ...]
    trained: Mapping[str, Sequence[TrainedRun]] = field(default_factory=dict)
    """What train.py made of its networks, by their spec files' names within the folder; see with_trained."""
    by_class: Mapping[str, Any] | None = None
    """per_class.json of the network found, where there is one."""
    shown_as: str = ""
    """What pages that hold several runs call it; see titles.told_apart."""

    @property
    def name(self) -> str:
        return readable(self.folder.resolve().name)

    @property
    def is_random(self) -> bool:
        """Whether the folder holds random control networks instead of a search."""
        return self.settings.get("arch_algo") == "random"

    @property
    def is_searched(self) -> bool:
        """Whether an architecture step was ever taken: if not, the derived network is one more random control."""
        return any(record["arch_step"] > 0 for record in self.records)

    @property
    def unit(self) -> Unit | None:
        """Unit of the costs; None when cost was no matter."""
        return {"none": None, "flops": Unit.MACS}.get(self.settings["target_hardware"], Unit.MS)

    @property
    def target(self) -> float | None:
        """What was asked for, in ``unit``."""
        if self.result is not None:
            key = "target" if self.unit is None or self.is_random else TARGET_KEY[self.unit]
            return self.result.get(key)
        return next((record["target"] for record in reversed(self.records) if record["target"] is not None), None)

    @property
    def predicted(self) -> float | None:
        """Cost of the derived network, in ``unit``; not a measurement."""
        if self.result is None or self.is_random or self.unit is None:
            return None
        return self.result[COST_KEY[self.unit]]

    @property
    def measured_ms(self) -> float | None:
        return self.result.get("measured_latency_ms") if self.result is not None else None

    @property
    def table_scale(self) -> float:
        """What the table was multiplied by to predict the derived network, after it was measured."""
        return (self.result or {}).get("table_scale") or 1.0

    def costs(self, spec: ArchSpec, scale: float = 1.0) -> list[float] | None:
        """The price of each layer of ``spec`` and any constant behind them, in ``unit`` and times ``scale``."""
        if self.table is None:
            return None
        return [scale * cost for cost in price_by(self.source).costs(walk(spec))]


def is_overruled(change: Mapping[str, Any]) -> bool:
    """Whether the projection took an operation (an entry of ``projection_changes``) against the search."""
    return change["chosen_percent"] < OVERRULED_PERCENT


def times_as_rare(log_odds: float) -> str:
    """exp(-log_odds) for a person: ``40`` or ``10^12``."""
    return f"{math.exp(-log_odds):.2g}" if log_odds > -math.log(1e5) else f"10^{-log_odds / math.log(10):.0f}"


def read_run(folder: Path) -> Run:
    """A run folder. Raises InputError when it is none (it has no config.json) or when a file in it is damaged."""
    if not folder.is_dir():
        problem = "expected a run folder, got a file" if folder.exists() else "no such folder"
        raise InputError(problem, source=str(folder))
    if not (folder / "config.json").is_file():
        raise InputError("expected the run folder of a search: there is no config.json in it", source=str(folder))
    settings = _settings(folder / "config.json")
    environment = judged(folder / "environment.json", ENVIRONMENT) if (folder / "environment.json").is_file() else {}
    result = _result(folder / "result.json") if (folder / "result.json").is_file() else None
    metrics = folder / METRICS_FILE
    records = _records(metrics) if metrics.is_file() else []
    spec = read_spec(folder / SPEC_FILE) if result is not None and (folder / SPEC_FILE).is_file() else None
    notes: list[str] = []
    if result is not None and spec is None and "networks" not in result:
        notes.append("There is no spec.json in the folder: the derived network cannot be drawn.")
    has_space = (folder / SPACE_FILE).is_file()
    space = read_space(folder / SPACE_FILE) if has_space else _space_of_first_version(settings, spec)
    if space is not None:
        _check_choices(space, records, result, folder)
    source, table = _pricing(folder, settings, space, notes)
    if table is not None and not _agrees(table, result, records):
        notes.append(
            "Prices computed now differ from those of the run (another latency file or version): latency shares "
            "are left out; the numbers shown are the recorded ones."
        )
        source = table = None
    return Run(
        folder=folder,
        settings=settings,
        environment=environment,
        records=records,
        result=result,
        spec=spec,
        space=space,
        source=source,
        table=table,
        notes=tuple(notes),
        by_class=_by_class(folder) if result is not None else None,
    )


def _check_choices(
    space: SearchSpace, records: Sequence[Mapping[str, Any]], result: Mapping[str, Any] | None, folder: Path
) -> None:
    """Raises InputError where a path or the probabilities are of another space than the run's."""
    sizes = list(space.sizes)

    def check(path: Sequence[int] | None, place: str, file: str) -> None:
        if path is None:
            return
        if len(path) != len(sizes) or any(choice >= size for choice, size in zip(path, sizes, strict=True)):
            raise InputError("not a path through the space of this run", place, str(folder / file))

    for number, record in enumerate(records, start=1):
        check(record.get("argmax_path"), f"line {number}: argmax_path", METRICS_FILE)
        probabilities = record.get("probabilities")
        if probabilities and [len(each) for each in probabilities] != sizes:
            problem = "expected a probability for each choice of the run's space"
            raise InputError(problem, f"line {number}: probabilities", str(folder / METRICS_FILE))
    for name in ("path", "argmax_path"):
        check((result or {}).get(name), name, RESULT_FILE)
    for number, entry in enumerate((result or {}).get("networks", ())):
        check(entry["path"], f"networks[{number}].path", RESULT_FILE)


def read_trained(folder: Path) -> TrainedRun:
    """A run folder of train.py. Raises InputError when it is none, not finished, or was scored on no test images."""
    settings = read_training_settings(folder / "config.json")
    if not (folder / "result.json").is_file():
        again = resume_command("train.py", folder)
        raise InputError(f"this training did not come to its end; continue it with: {again}", source=str(folder))
    result = judged(folder / RESULT_FILE, TRAINING_RESULT)
    try:
        Node(result.get("test_top1_percent"), "test_top1_percent").number(0, 100)
        Node(result.get("n_test_images"), "n_test_images").integer(1, 2**40)
    except InputError as error:
        raise error.from_source(str(folder / "result.json")) from None
    return TrainedRun(
        folder=folder,
        spec=read_spec(folder / "spec.json"),
        settings=settings,
        result=result,
        by_class=_by_class(folder),
    )


def _by_class(folder: Path) -> Mapping[str, Any] | None:
    """What a run's network scored by class; None in the folder of an older run."""
    path = folder / PER_CLASS_FILE
    return read_per_class(path) if path.is_file() else None


def _object(path: Path) -> dict[str, Any]:
    value = read_json(path)
    if not isinstance(value, dict):
        raise Node(value).fail("an object").from_source(str(path))
    return value


def _settings(path: Path) -> dict[str, Any]:
    """config.json as it is: a report can be made of a run whose settings have other names by now."""
    settings = _object(path)
    if settings.get("format") == TRAINING:
        folder = path.parent
        raise InputError(
            f"expected the run folder of a search, got one of train.py: its numbers are in {folder / 'result.json'}; "
            f"score it with: {shlex.join(['python', 'eval.py', '--arch', str(folder)])}; show it on the page of the "
            f"search it came from with: {shlex.join(['python', 'search/report.py', 'RUN', '--trained', str(folder)])}"
        )
    try:
        Node(settings.get("format"), "format").exactly(FORMAT)
        for key in ("target_hardware", "dataset"):
            Node(settings.get(key), key).text()
    except InputError as error:
        raise error.from_source(str(path)) from None
    check_kinds(SearchConfig, settings, str(path))
    return settings


def _result(path: Path) -> dict[str, Any]:
    """result.json of a search or of random networks."""
    result = _object(path)
    if "networks" in result:
        return judged(path, RANDOM, NEEDED_OF_RANDOM)
    if "predicted_latency_ms" not in result:  # null where the target is not a latency
        raise InputError("missing", "predicted_latency_ms", str(path))
    record = judged(path, SEARCH, NEEDED_OF_SEARCH)
    for first, others in NEEDED_BESIDE.items():
        missing = [name for name in others if record.get(name) is None]
        if record.get(first) is not None and missing:
            raise InputError(f"missing, beside {first}", missing[0], str(path))
    return record


def _records(path: Path) -> list[dict[str, Any]]:
    """metrics.jsonl, each record with what every page needs."""
    records = read_metrics(path)
    for number, record in enumerate(records, start=1):
        place = f"line {number}"
        for key in NEEDED_OF_EPOCH:
            if key not in record:
                raise InputError(f"{key} is missing", place, str(path))
        try:
            judge(Node(record), EPOCH, NEVER_NULL)
        except InputError as error:
            raise InputError(error.problem, f"{place}: {error.place}", str(path)) from None
    return records


def _space_of_first_version(settings: Mapping[str, Any], spec: ArchSpec | None) -> SearchSpace | None:
    """The space of a run that left no space.json, made again from its settings.

    Where the run did not come to its end, with as many classes as can be known; None for a space not known any more.
    """
    dataset = settings["dataset"]
    if settings.get("space") not in (None, *MACROS):
        return None
    resolution = settings.get("resolution") or default_resolution(dataset, settings.get("space"))
    name = settings.get("space") or default_space(resolution)
    preprocessing: Preprocessing = spec.preprocessing if spec is not None else imagenet_preprocessing(resolution)
    return mbconv_space(
        macro=MACROS[name],
        width_mult=settings.get("width_mult", 1.0),
        num_classes=spec.num_classes if spec is not None else CLASSES_OF.get(dataset, 1000),
        preprocessing=preprocessing,
    )


def _pricing(
    folder: Path, settings: Mapping[str, Any], space: SearchSpace | None, notes: list[str]
) -> tuple[LatencySource | None, CostTable | None]:
    hardware, file = settings["target_hardware"], settings.get("latency_table")
    if (folder / LATENCY_FILE).is_file():
        file = str(folder / LATENCY_FILE)
    if space is None or hardware == "none":
        return None, None
    if hardware == "flops":
        return None, price_space(space, price_by(None))
    if file is None and hardware != "mobile":
        notes.append("The latency table of the run is not named in config.json: latency shares are left out.")
        return None, None
    try:
        found = shipped(PHONE) if file is None else load_latency_source(file)
        source = filled(found, settings.get("latency_fallback"))
        return source, price_space(space, price_by(source))
    except InputError as error:
        notes.append(f"Latency shares are left out: the latency file of the run cannot be used ({error}).")
        return None, None


def _agrees(table: CostTable, result: Mapping[str, Any] | None, records: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the table gives the costs that the run wrote down."""
    found: list[tuple[Sequence[int], float]] = []
    predicted = (result or {}).get("predicted_latency_ms")
    if result is not None and "path" in result and predicted is not None and table.unit is Unit.MS:
        found.append((result["path"], predicted / (result.get("table_scale") or 1.0)))
    found += [
        (record["argmax_path"], record["argmax_cost"])
        for record in records[-1:]
        if record.get("argmax_path") is not None and record["argmax_cost"] is not None
    ]
    try:
        return all(math.isclose(table.of_path(tuple(path)), cost, rel_tol=SAME_COST) for path, cost in found)
    except InputError:  # a path of another space
        return False
