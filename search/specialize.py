"""Search one network for each of several targets, and cross them: every network on every device.

    python search/specialize.py --targets mobile,cpu,flops
    python search/specialize.py --targets mobile,cpu:onnxruntime,cpu:litert --run_dir runs/special --data_path photos/
    python search/specialize.py --targets mobile,flops --launcher local --jobs 2

A target is a --target_hardware of the search, for the CPU with a runtime behind a colon. All other flags go to each
search. The warm-up depends on no target: the first search does it, the others start behind it. A search that is there
already is taken as it is, an unfinished one is resumed: give the command again. The folder then holds one run folder
per target, specialization.json and specialization.png. Latencies are predicted by each device's table; where the device
is this machine they are measured as well.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":  # started as a script: the packages lie beside this folder, and nothing in it is top-level
    sys.path[:] = [str(ROOT), *(entry for entry in sys.path if Path(entry or ".").resolve() != ROOT / "search")]

from hardware.latency import LatencySource, network_ms  # noqa: E402
from hardware.profile.pricing import Asked, Bench, device_of  # noqa: E402
from proxyless_arch.apps.scores import shown_score  # noqa: E402
from proxyless_arch.arch.draw import draw_architectures  # noqa: E402
from proxyless_arch.arch.spec import ArchSpec  # noqa: E402
from proxyless_arch.arch.walk import total_macs, walk  # noqa: E402
from proxyless_arch.base import settings  # noqa: E402
from proxyless_arch.base.cli import exit_code  # noqa: E402
from proxyless_arch.base.errors import InputError  # noqa: E402
from proxyless_arch.base.files import write_json  # noqa: E402
from proxyless_arch.base.machine import tune_allocator  # noqa: E402
from proxyless_arch.base.settings import REQUIRED, setting  # noqa: E402
from proxyless_arch.base.strict import listed  # noqa: E402
from proxyless_arch.base.text import align, in_one_line, ruled  # noqa: E402
from proxyless_arch.base.units import Unit, format_count  # noqa: E402
from proxyless_arch.base.words import DRY_RUN, RUN_DIR  # noqa: E402
from proxyless_arch.launch.launcher import LaunchFlags  # noqa: E402
from search.config import SearchConfig, effective_config  # noqa: E402
from search.reporting.run_folder import Run, read_run  # noqa: E402
from search.run import family  # noqa: E402

HARDWARE = ("mobile", "cpu", "gpu8", "flops")


@dataclass(frozen=True)
class Goal:
    """One target of the command line: ``cpu:litert`` is hardware cpu, runtime litert."""

    hardware: str
    runtime: str | None

    @property
    def name(self) -> str:
        return self.hardware if self.runtime is None else f"{self.hardware}-{self.runtime}"

    def settings(self) -> dict[str, str]:
        return {"target_hardware": self.hardware, **({"runtime": self.runtime} if self.runtime else {})}


@dataclass(frozen=True)
class Common:
    """What the flags say of every search: settings, the recipe, and the run whose warm-up it starts behind."""

    given: Mapping[str, Any]
    recipe: str | None = None
    warmup_from: Path | None = None

    def config(self, goal: Goal) -> SearchConfig:
        """The settings of the search for one goal."""
        return effective_config({**self.given, **goal.settings()}, self.recipe)


@dataclass(frozen=True)
class Device:
    """A column of the table: what prices a network and, for this machine, where it is measured."""

    name: str
    source: LatencySource
    bench: Bench | None = None

    def predicted_ms(self, spec: ArchSpec) -> float | None:
        """None when the device's table does not hold a layer of this network."""
        try:
            return network_ms(self.source, walk(spec))
        except InputError:
            return None

    def measured(self, spec: ArchSpec) -> dict[str, float] | None:
        if self.bench is None:
            return None
        found = self.bench.time(walk(spec))
        return {"ms": found.ms, "raw_ms": found.raw_ms, "standard_error_percent": 100 * found.noise}


def parse_goals(text: str) -> list[Goal]:
    """The targets of --targets. Raises InputError for an unknown one, or one named twice."""
    goals = []
    for word in text.split(","):
        hardware, _, runtime = word.strip().partition(":")
        if hardware not in HARDWARE or (runtime and hardware != "cpu"):
            raise InputError(f"expected {listed(HARDWARE)}, or cpu:RUNTIME, got {word!r}", "--targets")
        goals.append(Goal(hardware, runtime or None))
    if len(set(goals)) != len(goals):
        raise InputError(f"a target is named twice: {text}", "--targets")
    return goals


def members(goals: Sequence[Goal], common: Common) -> dict[str, SearchConfig]:
    """The settings of each search by the name of its run folder."""
    return {goal.name: common.config(goal) for goal in goals}


def devices_of(goals: Sequence[Goal], runs: Sequence[Run]) -> list[Device]:
    """The devices whose latency was a target; flops is no device."""
    devices = []
    for goal, run in zip(goals, runs, strict=True):
        if goal.hardware == "flops" or run.source is None:
            continue
        bench = None
        if run.measured_ms is not None and run.space is not None:
            runtime = goal.runtime or run.settings.get("runtime")
            threads = int(run.settings.get("latency_threads", 1))
            here = device_of(Asked(goal.hardware, runtime=runtime, threads=threads))
            assert here is not None  # it was measured
            bench = here.bench(run.space, run.source)
        devices.append(Device(goal.name, run.source, bench))
    return devices


def cross(goals: Sequence[Goal], runs: Sequence[Run], devices: Sequence[Device]) -> dict[str, Any]:
    """Every network on every device, as one record."""
    rows = []
    for goal, run in zip(goals, runs, strict=True):
        assert run.spec is not None and run.result is not None
        spec, result = run.spec, run.result
        rows.append(
            {
                "searched_for": goal.name,
                "run": str(run.folder),
                "asked": result["target_macs"] if goal.hardware == "flops" else result["target_latency_ms"],
                "test_top1_percent": result["test_top1_percent"],
                "n_test_images": result.get("n_test_images"),
                "macs": total_macs(spec),
                "params": result["params"],
                "predicted_ms": {device.name: device.predicted_ms(spec) for device in devices},
                "measured": {device.name: device.measured(spec) for device in devices},
            }
        )
    return {"networks": rows, "devices": [device.name for device in devices]}


def _cell(row: dict[str, Any], device: str) -> str:
    predicted, measured = row["predicted_ms"][device], row["measured"][device]
    text = f"{predicted:.3g}" if predicted is not None else "no price"
    return f"{text} / {measured['ms']:.3g}" if measured else text


def table(record: dict[str, Any]) -> str:
    """The cross table for a terminal; a network's own device is marked."""
    devices = record["devices"]
    lines = [["searched for", "target", "test top-1", "MACs", *(f"{name} ms" for name in devices)]]
    for row in record["networks"]:
        cells = [_cell(row, name) + (" *" if name == row["searched_for"] else "  ") for name in devices]
        macs = format_count(row["macs"]) + (" *" if row["searched_for"] == "flops" else "  ")
        score = shown_score(row["test_top1_percent"], row["n_test_images"])
        in_macs = row["searched_for"] == "flops"
        asked = Unit.MACS.short(row["asked"]) if in_macs else f"{row['asked']:.3g} ms"
        lines.append([row["searched_for"], asked, score, macs, *cells])
    notes = "* what it was searched for; latency: predicted by the device's table / measured, where it is this machine"
    return "\n".join([*ruled(align(lines)), notes])


@dataclass(frozen=True, kw_only=True)
class Options(LaunchFlags):
    """What specialize.py is asked beside the settings of its searches."""

    targets: str = setting(REQUIRED, "comma-separated: mobile, cpu, cpu:RUNTIME, gpu8, flops")
    path: Path | None = RUN_DIR.setting(None, ", of all these runs", metavar="DIR")
    recipe: str | None = setting(None, "of all searches; as for imagenet_arch_search.py")
    warmup_from: Path | None = setting(None, "start every search behind that run's warm-up", metavar="RUN")
    dry_run: bool = DRY_RUN.setting(False)


def parse(argv: Sequence[str]) -> tuple[Options, Common]:
    """The command line. Raises InputError, too, for a target beside --targets."""
    options, given = settings.parse_beside(Options, SearchConfig, argv, "specialize.py", __doc__)
    if "target_hardware" in given:
        raise InputError("the targets are named by --targets", "--target_hardware")
    return options, Common(given, options.recipe, options.warmup_from)


def run(argv: Sequence[str]) -> None:
    options, common = parse(argv)
    goals = parse_goals(options.targets)
    if options.dry_run:
        family.say_what_would_be_done(members(goals, common), options.path, common.warmup_from)
        return
    tune_allocator()
    with family.claimed(options.path) as folder:
        family.search_all(members(goals, common), folder, common.warmup_from, options.chosen)
        _compare(goals, folder)


def _compare(goals: Sequence[Goal], folder: Path) -> None:
    """Every network on every device, as a record, a picture and a table."""
    runs = [read_run(folder / goal.name) for goal in goals]
    record = cross(goals, runs, devices_of(goals, runs))
    write_json(folder / "specialization.json", record)
    rows = []
    for goal, found in zip(goals, runs, strict=True):
        assert found.spec is not None
        prices = found.costs(found.spec, found.table_scale) if found.source is not None else None
        rows.append((f"searched for {goal.name}", found.spec, prices))
    draw_architectures(rows, folder / "specialization.png")
    files = "specialization.json, specialization.png, one run per target"
    print(f"\n{table(record)}\n\nwritten to {in_one_line(str(folder))}: {files}")


def main(argv: Sequence[str] | None = None) -> int:
    return exit_code(run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
