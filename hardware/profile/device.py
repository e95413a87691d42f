"""Profiling a device as a call: settings in, a latency table with all that vouches for it out.

    profiled = profile_device(ProfileSettings(target_hardware="cpu", quick=True))
    profiled.table, profiled.verdict.passed, profiled.figures

The folder holds table.json, predictor.json, validation.json, validation.png and raw.jsonl with every timing, so that
the same call goes on where an earlier one was interrupted.
"""

from __future__ import annotations

import hashlib
import re
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from hardware.profile import profiling
from hardware.profile.fit import NetErrors
from hardware.profile.measure import Runtime, parse_hardware, runtime_named
from hardware.profile.pictures import draw_validation
from hardware.profile.profiling import MIN_SCORED, QUICK, Anchor, Bench, Outcome, Plan, Protocol, RawLog, Verdict
from hardware.table import LookupTable
from proxyless_arch.arch import codec
from proxyless_arch.arch.spec import ArchSpec, imagenet_preprocessing
from proxyless_arch.arch.walk import LayerCall
from proxyless_arch.base.errors import InputError
from proxyless_arch.base.files import open_bytes, parse_json, write_json
from proxyless_arch.base.progress import Progress
from proxyless_arch.base.runs import format_seconds, locked
from proxyless_arch.base.settings import setting
from proxyless_arch.base.sides import in_words
from proxyless_arch.base.strict import counted, judged_at, listed
from proxyless_arch.base.words import RESOLUTION, SEED, THREADS
from proxyless_arch.space.named import TIMED, space_named
from proxyless_arch.space.search_space import SearchSpace
from proxyless_arch.space.shrinking import Freedom, groups_of, layers_of, space_around
from proxyless_arch.weights.lookup import find_network

ROOT = Path(__file__).resolve().parents[2]
RAW_FILE = "raw.jsonl"
MATCHED = ("device", "runtime", "runtime_version", "threads", "dtype", "clock")  # of a runtime's facts, to resume
METHODS = ("in_network", "isolated")
OF_A_SPACE = ("space", "width_mult", "num_classes")
"""Settings that a trained network has its own of."""
OF_A_NETWORK = ("width_multiple", "smallest_width")
"""Settings of what it may become."""
MAY_GROW = ("rounds", "extra_rounds")  # of the protocol: more rounds are added to those that are there


@dataclass(frozen=True, kw_only=True)
class ProfileSettings:
    """What is profiled and how; None stands for a default that depends on the rest."""

    target_hardware: str = setting("cpu", "cpu, or gpuN for batches of N on a GPU", common=True)
    runtime: str | None = setting(
        None, "onnxruntime, litert or torch (default: onnxruntime on a CPU, torch on a GPU)", common=True
    )
    threads: int = THREADS.setting(1, common=True)
    batch_size: int | None = setting(None, "images per run on a CPU (default: 1); a GPU's is in its name")
    space: str = setting("imagenet", "search space", TIMED, common=True)
    width_mult: float = setting(1.0, "width multiplier", minimum=0.05, maximum=10)
    resolution: int | None = RESOLUTION.setting(
        None, " (default: that of the space: 224; 32 for small and tiny)", common=True
    )
    num_classes: int = setting(1000, "classes of the classifier", common=True)
    parent: str | None = setting(
        None,
        "a trained network, a run folder or a known name: the layers of all that prune.py may make of it, in place of "
        "a space",
        flag="--from",
        aliases=("--parent",),
        metavar="RUN_OR_NAME",
        common=True,
    )
    width_multiple: int = setting(8, "with --from: widths are multiples of it", minimum=1, maximum=1024)
    smallest_width: float = setting(0.2, "with --from: smallest share of a width", minimum=0.01, maximum=1)
    method: str = setting(METHODS[0], "in_network (whole networks as well) or isolated operations")
    quick: bool = setting(False, "fewer rounds and networks", common=True)
    rounds: int | None = setting(
        None, f"rounds over everything (default: {Protocol.rounds}; {QUICK.rounds} with --quick)"
    )
    design_nets: int | None = setting(
        None, f"networks to solve from (default: {Protocol.design_nets}; {QUICK.design_nets} with --quick)"
    )
    validation_nets: int | None = setting(
        None,
        f"networks that vouch, 10 of them calibrate (default: {Protocol.validation_nets}); a table passes with "
        f"{Protocol.calibration_nets + MIN_SCORED} at least",
    )
    seed: int = SEED.setting(0, ": the order and the networks")
    output: Path | None = setting(
        None, "folder (default: runs/latency/<device>-<runtime>-t1-b1-r224-w1.0)", metavar="DIR", common=True
    )
    fresh: bool = setting(False, "measure anew; what the folder holds is kept as raw-<date>.jsonl")

    def command(self) -> str:
        """The command that does the same, for a person."""
        words = ["python", "hardware/profile_latency.py"]
        always = {"target_hardware", "threads", "resolution"} | (set(OF_A_SPACE) if self.parent is None else set())
        usual = ProfileSettings()
        for name, value in asdict(self).items():
            flag = "--from" if name == "parent" else f"--{name}"
            if isinstance(value, bool):
                words += [flag] if value else []
            elif value is not None and (name in always or value != getattr(usual, name)):
                words += [flag, str(value)]
        return shlex.join(words)


@dataclass(frozen=True)
class Profiled:
    """The outcome and the folder that it was written to."""

    outcome: Outcome
    folder: Path

    @property
    def table(self) -> LookupTable:
        return self.outcome.table

    @property
    def predictor(self) -> dict[str, Any] | None:
        """The file's content; None where no predictor could be fitted."""
        return self.outcome.predictor

    @property
    def verdict(self) -> Verdict:
        return self.outcome.verdict

    @property
    def figures(self) -> NetErrors:
        """Of the table, on networks that it has not seen."""
        return self.outcome.chosen.errors

    def summary(self) -> str:
        """What came out, for a person."""
        return summary(self.outcome, self.folder)


def check_within(value: float, low: float, high: float, flag: str) -> None:
    if not low <= value <= high:
        raise InputError(f"expected {low:g}..{high:g}, got {value:g}", flag)


def check_networks(count: int, settings: ProfileSettings, maximum: int, flag: str) -> None:
    enough = Protocol.calibration_nets + MIN_SCORED
    if 20 <= count < enough and not settings.quick:
        raise InputError(
            f"expected {enough}..{maximum}, got {count}: {Protocol.calibration_nets} calibrate and {MIN_SCORED} must "
            "score; with --quick fewer are measured, and the table does not pass",
            flag,
        )
    check_within(count, 20, maximum, flag)


def protocol_of(settings: ProfileSettings) -> Protocol:
    """The protocol the flags ask for. Raises InputError."""
    protocol = QUICK if settings.quick else Protocol()
    given = {name: getattr(settings, name) for name in ("rounds", "design_nets", "validation_nets", "seed")}
    protocol = replace(protocol, **{name: value for name, value in given.items() if value is not None})
    check_within(protocol.rounds, 1, 100, "--rounds")
    check_within(protocol.design_nets, 20, 10_000, "--design_nets")
    check_networks(protocol.validation_nets, settings, 10_000, "--validation_nets")
    check_within(protocol.seed, 0, 2**31 - 1, "--seed")
    if settings.method not in METHODS:
        raise InputError(f"expected {' or '.join(METHODS)}, got {settings.method!r}", "--method")
    return protocol


def space_of(name: str, width_mult: float, resolution: int, num_classes: int) -> SearchSpace:
    """The space a table is made for. Raises InputError."""
    check_within(resolution, 8, 4096, "--resolution")
    check_within(num_classes, 1, 65_536, "--num_classes")
    space = space_named(name).build(
        width_mult=width_mult,
        num_classes=num_classes,
        preprocessing=imagenet_preprocessing(resolution),
    )
    space.check_side(resolution, "--resolution")
    return space


@dataclass(frozen=True)
class Subject:
    """What is profiled: the networks of a space, and layers that none of them has.

    ``name``: of the space, as a table says it. ``around``: a network, and what may be changed of it.
    """

    space: SearchSpace
    name: str
    around: tuple[ArchSpec, Freedom] | None = None

    @cached_property
    def more(self) -> tuple[LayerCall, ...]:
        """All layers that the network may have; in thousands, so only where they are asked for."""
        if self.around is None:
            return ()
        spec, freedom = self.around
        return tuple(layers_of(spec, groups_of(spec, freedom)))


def subject_of(settings: ProfileSettings) -> Subject:
    """Raises InputError for a space that is not timed, or a network that is not there or cannot become smaller."""
    if settings.parent is not None:
        return _around(settings, settings.parent)
    _check_usual(settings, OF_A_NETWORK, "goes with --from: a space has widths of its own")
    if not space_named(settings.space).is_timed:
        raise InputError(f"expected {listed(map(repr, TIMED))}, got {settings.space!r}", "--space")
    resolution = settings.resolution or space_named(settings.space).resolution
    return Subject(space_of(settings.space, settings.width_mult, resolution, settings.num_classes), settings.space)


def _around(settings: ProfileSettings, word: str) -> Subject:
    """All that may be pruned of a network, by prune.py's settings."""
    _check_usual(settings, OF_A_SPACE, "has no meaning with --from: the network has its own")
    freedom = Freedom(multiple=settings.width_multiple, smallest=settings.smallest_width)
    spec, _ = find_network(word, "--from")
    side = settings.resolution or spec.resolution
    if isinstance(side, tuple):
        raise InputError(f"latencies are those of squares, not of {in_words(side)} pixels", "--from", word)
    check_within(side, 8, 4096, "--resolution")
    spec = replace(spec, preprocessing=replace(spec.preprocessing, resolution=side, resize=side))
    with judged_at("", {"blocks": "--from", "feature_mix": "--from"}):
        space = space_around(spec, freedom)
    space.check_side(side, "--resolution")
    what = codec.spec_to_json(spec) + (f"{freedom}" if freedom != Freedom() else "")
    digest = hashlib.sha256(what.encode()).hexdigest()[:8]
    return Subject(space, f"around {spec.name} {digest}", (spec, freedom))


def _check_usual(settings: ProfileSettings, names: tuple[str, ...], problem: str) -> None:
    """Raises InputError for a setting that was given where it has no meaning."""
    usual = ProfileSettings()
    for name in names:
        if getattr(settings, name) != getattr(usual, name):
            raise InputError(problem, f"--{name}")


def conditions_of(settings: ProfileSettings, subject: Subject | None = None) -> dict[str, Any]:
    """What the flags fix about the network's input and the space; JSON values."""
    hardware = parse_hardware(settings.target_hardware)
    if settings.batch_size is not None and hardware.kind != "cpu":
        raise InputError(f"the batch size of {settings.target_hardware} is in its name", "--batch_size")
    batch_size = hardware.batch_size if settings.batch_size is None else settings.batch_size
    check_within(batch_size, 1, 4096, "--batch_size")
    found = subject or subject_of(settings)
    return {
        "batch_size": batch_size,
        "resolution": found.space.preprocessing.side,
        "space": found.name,
        "width_mult": found.space.width_mult,
        "num_classes": found.space.num_classes,
    }


def default_output(conditions: dict[str, Any]) -> Path:
    """runs/latency/<device>-<runtime>-t1-b1-r224-w1.0, with the space in it when it is not imagenet."""
    device = _slug(str(conditions["device"])) or "device"
    space = "" if conditions["space"] == "imagenet" else f"-{_slug(conditions['space'])}"
    classes = "" if conditions["num_classes"] == 1000 else f"-c{conditions['num_classes']}"
    threads = f"-t{conditions['threads']}" if conditions["threads"] else ""
    return ROOT / "runs" / "latency" / (
        f"{device}-{conditions['runtime']}{threads}-b{conditions['batch_size']}-r{conditions['resolution']}"
        f"-w{conditions['width_mult']}{space}{classes}"
    )  # fmt: skip


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def tool_name() -> str:
    """This repository at its commit, as far as git says."""
    try:
        words = ["git", "rev-parse", "--short", "HEAD"]
        found = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return "proxyless-nas"
    return f"proxyless-nas@{found.stdout.strip()}" if found.returncode == 0 else "proxyless-nas"


def write(outcome: Outcome, plan: Plan, folder: Path, n_calibration: int) -> None:
    """table.json, predictor.json, validation.json and validation.png, each whole or not at all."""
    outcome.table.save(folder / "table.json")
    if outcome.predictor is not None:
        write_json(folder / "predictor.json", outcome.predictor)
    else:
        (folder / "predictor.json").unlink(missing_ok=True)
    networks = [
        {
            "path": list(path),
            "role": "calibration" if index < n_calibration else "score",
            "measured_ms": outcome.measured_ms[index],
            "predicted_ms": {name: way.predicted_ms[index] for name, way in outcome.priced.items()},
        }
        for index, path in enumerate(plan.validation)
    ]
    write_json(
        folder / "validation.json",
        {
            "figures": {name: way.errors.to_json() for name, way in outcome.priced.items()},
            "calibration": {name: way.calibration._asdict() for name, way in outcome.priced.items()},
            "passed": outcome.verdict.passed,
            "reasons": list(outcome.verdict.reasons),
            "network_noise_pct": round(100 * outcome.noise, 3),
            "networks": networks,
        },
    )
    facts = outcome.table.provenance
    draw_validation(
        outcome.measured_ms,
        outcome.chosen.predicted_ms,
        n_calibration,
        folder / "validation.png",
        title=f"{facts['device']}, {facts['runtime']}: whole networks",
        note=_figures(outcome.chosen.errors),
    )


def _figures(errors: NetErrors) -> str:
    return (
        f"MAPE {errors.mape:.2f} %, RMSE {errors.rmse_ms:.3f} ms, bias {errors.bias_ms:+.3f} ms, "
        f"Spearman {errors.spearman:.3f}, Kendall {errors.kendall:.3f}"
    )


def summary(outcome: Outcome, folder: Path) -> str:
    """What came out, for a person."""
    score = outcome.chosen.errors.n
    lines = [f"\n{score} measured networks that the table has not seen, {min(outcome.measured_ms):.2f} to "
             f"{max(outcome.measured_ms):.2f} ms:"]  # fmt: skip
    for name, way in outcome.priced.items():
        mark = "*" if name == outcome.method else " "
        lines.append(f" {mark} {name:<11} {_figures(way.errors)}")
        scale, offset_ms, n_nets = way.calibration
        lines.append(
            f"               after scale {scale:.4f} and offset {offset_ms:+.3f} ms, fitted on {n_nets} others"
        )
    if outcome.fit is not None:
        cv = ", ".join(f"{name.replace('_', ' ')} {e.mape:.1f} %" for name, e in outcome.fit.cv.items() if e)
        lines.append(
            f"   predictor on operations: {outcome.fit.feature_set}, channel tile {outcome.fit.channel_tile}, "
            f"fit {outcome.fit.errors.mape:.1f} %; {cv}"
        )
    else:
        lines.append(f"   no predictor: {outcome.no_predictor}")
    known = outcome.table.provenance
    noise = f"a network's time is uncertain by {100 * outcome.noise:.2f} %"
    if known["rounds"] < 2:
        noise = "not known: one round does not tell it from the runtime"
    moved = known["anchor_drift_pct"]
    lines.append(f"   noise: {noise}" + (f"; the anchor moved by {moved:.1f} % at most" if moved is not None else ""))
    if not outcome.verdict.passed:
        lines.append("\nNOT GOOD ENOUGH to search with:")
        lines += [f"   {reason}" for reason in outcome.verdict.reasons]
        lines.append(
            f"What was measured is kept in {folder}; the same command with --rounds {2 * known['rounds']} adds to it, "
            "with --fresh it measures anew."
        )
    else:
        lines.append(f"\nwritten to {folder}")
    return "\n".join(lines)


def set_aside(raw: Path) -> None:
    """Rename raw.jsonl to raw-<date of its last timing>.jsonl, so that everything is measured anew."""
    if not raw.exists():
        return
    name = f"raw-{time.strftime('%Y%m%d-%H%M%S', time.localtime(raw.stat().st_mtime))}"
    number, kept = 1, raw.with_name(f"{name}.jsonl")
    while kept.exists():
        number += 1
        kept = raw.with_name(f"{name}-{number}.jsonl")
    raw.rename(kept)


def open_log(raw: Path, conditions: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[RawLog, dict[str, Any]]:
    """(the log, when and how its first timing was taken): ``now`` for a new one, else what its header says.

    Raises InputError when it holds the timings of other conditions.
    """
    try:
        known = _header(raw)
        begun = dict(now) if known is None else {name: known.get(name) for name in now}
        return RawLog(raw, {**conditions, **begun}), begun
    except InputError as error:
        raise InputError(f"{error.problem}, or measure anew with --fresh", error.place, error.source) from None


def _header(raw: Path) -> dict[str, Any] | None:
    """The conditions in the first line of a log; None where there is none yet."""
    if not raw.exists():
        return None
    with open_bytes(raw) as file:
        line = file.readline()
    if not line.endswith(b"\n"):  # a kill cut it off
        return None
    first = parse_json(line, str(raw))
    conditions = first.get("conditions") if isinstance(first, dict) else None
    return conditions if isinstance(conditions, dict) else {}


@dataclass(frozen=True)
class Sitting:
    """What a profile is about to measure, on what, and where to."""

    protocol: Protocol
    conditions: dict[str, Any]
    runtime: Runtime
    space: SearchSpace
    facts: dict[str, Any]
    folder: Path
    plan: Plan

    @staticmethod
    def of(settings: ProfileSettings, runtime: Runtime | None = None) -> Sitting:
        """Raises InputError for settings outside what is allowed, or a runtime that is not installed."""
        protocol, subject = protocol_of(settings), subject_of(settings)
        conditions = conditions_of(settings, subject)
        if runtime is None:
            runtime = runtime_named(parse_hardware(settings.target_hardware), settings.runtime, settings.threads)
        facts = runtime.facts()
        folder = settings.output or default_output(conditions | {name: facts[name] for name in MATCHED})
        plan = Plan.of(subject.space, protocol, settings.method, subject.more)
        return Sitting(protocol, conditions, runtime, subject.space, facts, folder, plan)

    def header(self) -> str:
        """For a person."""
        facts, conditions, plan, protocol = self.facts, self.conditions, self.plan, self.protocol
        return (
            f"  device     {facts['device']}, {facts['runtime']} {facts['runtime_version']}, threads "
            f"{facts['threads']}, batch {conditions['batch_size']}, clock {facts['clock']}\n"
            f"  space      {conditions['space']}, width {conditions['width_mult']:g}, {conditions['resolution']} px: "
            f"{len(plan.ops)} operations, {len(plan.design)} networks to solve from, {len(plan.validation)} to "
            "validate\n"
            f"  protocol   {protocol.rounds} rounds of {protocol.runs} timings; load average "
            f"{facts['load_average']}, governor {facts['governor'] or 'not readable'}\n"
            f"  folder     {self.folder}"
        )

    def opened(self, raw: Path) -> tuple[RawLog, dict[str, Any]]:
        """As open_log: the timings of these conditions."""
        fixed = {name: self.facts[name] for name in MATCHED} | self.conditions
        steady = {name: value for name, value in asdict(self.protocol).items() if name not in MAY_GROW}
        now = {"date": self.facts.get("date"), "load_average": self.facts["load_average"], "tool": tool_name()}
        return open_log(raw, fixed | steady, now)

    def bench(self, log: RawLog, *told: Callable[[float], Any]) -> Bench:
        """What times; ``told``: of the effort spent, and of what is left."""
        batch, protocol = self.conditions["batch_size"], self.protocol
        anchor = Anchor(self.runtime, self.space, batch, protocol.anchor_runs, protocol.min_ms)
        return Bench(anchor, log, protocol, *told)

    def foretold(self, anew: bool) -> str:
        """``expected``, from timing a few layers and networks now; nothing of it is kept. ``anew``: all is measured."""
        with tempfile.TemporaryDirectory() as place:
            raw = Path(place, RAW_FILE)
            if (self.folder / RAW_FILE).is_file() and not anew:
                shutil.copyfile(self.folder / RAW_FILE, raw)
            with self.opened(raw)[0] as log:
                return expected(profiling.left_to_measure(self.bench(log), self.plan))


def expected(left: profiling.Left) -> str:
    """What is about to be measured and how long that takes, for a person."""
    return (
        f"  expected   about {format_seconds(left.seconds)}: {counted(left.ops, 'timing')} of operations and "
        f"{counted(left.networks, 'timing')} of networks are left"
        + (", and repeats: this machine is doing other work" if left.times_repeated > 1 else "")
    )


def profile_device(
    settings: ProfileSettings, runtime: Runtime | None = None, say: Callable[[str], Any] = print
) -> Profiled:
    """Measure what the output folder lacks, and write its files.

    Args:
        runtime: what runs the layers (None: the one that the settings name).
        say: takes what is about to be measured, for a person.

    Raises:
        InputError: settings outside what is allowed, a runtime that is not installed, a folder with the timings of
        other conditions, or one that another process writes.
    """
    sitting = Sitting.of(settings, runtime)
    protocol, folder, plan = sitting.protocol, sitting.folder, sitting.plan
    say(sitting.header())
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder, "--output"):
        if settings.fresh:
            set_aside(folder / RAW_FILE)
        opened, begun = sitting.opened(folder / RAW_FILE)
        with opened as log:
            if len(log):
                say(f"  resumed    {len(log)} timings are there already")
            layout = "{l_bar}{bar}| {elapsed} passed, {remaining} left"
            with Progress(profiling.total_effort(plan, protocol), doing="measuring", bar_format=layout) as bar:
                bench = sitting.bench(log, bar.update, bar.expect)
                say(expected(profiling.left_to_measure(bench, plan)))
                provenance = sitting.facts | sitting.conditions | begun | {"source": "measured here"}
                outcome = profiling.profile(bench, plan, provenance)
        write(outcome, plan, folder, protocol.calibration_nets)
    return Profiled(outcome, folder)
