"""The paper's comparison on this machine: the released networks beside those they were published against.

    python benchmarks/compare_networks.py
    python benchmarks/compare_networks.py --runtime torch --threads 2 --batch 8
    python benchmarks/compare_networks.py --also runs/mine --networks proxyless_mobile mobilenetv2 mnasnet_a1
    python benchmarks/compare_networks.py --device cuda

Measured: latency, every network on the same runtime. In every round each network takes its turn, in a new order, so
that whatever else the machine does falls on all of them. An anchor network is timed before and after each, and a time
is given at the anchor's median speed over the run: a machine's speed wanders by some per cent within seconds. The
figure is the median over rounds of the median in a round, with the quartiles over rounds; the ratio to MobileNetV2 1.0
is taken within a round. Published: top-1 accuracy, with its source, never measured here.

The networks of others come from an optional package (pip install -e '.[compare]') and are left out without
it. Their first export to ONNX takes 10 to 30 s each and is kept. --device cuda is the paper's GPU table, at batch 8,
timed by replaying CUDA graphs; it was written without a GPU at hand and has not run on one.
"""

from __future__ import annotations

import importlib.metadata
import itertools
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":  # started as a script: the packages lie beside this folder
    sys.path[0] = str(ROOT)


from benchmarks import published_networks as published  # noqa: E402
from benchmarks.comparison_scene import draw  # noqa: E402
from benchmarks.published_networks import FOREIGN, REFERENCE, Foreign  # noqa: E402
from hardware.profile.graphs import RandomWeights, to_onnx, trace  # noqa: E402
from hardware.profile.measure import (  # noqa: E402
    ROTATED_INPUTS,
    CpuSession,
    CudaSession,
    Hardware,
    OnnxRuntime,
    Runtime,
    TorchCpu,
    TorchCuda,
    TorchSession,
    machine_facts,
    runtime_named,
)
from proxyless_arch.arch import catalog  # noqa: E402
from proxyless_arch.arch.spec import ArchSpec  # noqa: E402
from proxyless_arch.arch.walk import (  # noqa: E402
    total_macs,
    total_params,
    walk,
)
from proxyless_arch.base import settings  # noqa: E402
from proxyless_arch.base.cli import exit_code  # noqa: E402
from proxyless_arch.base.errors import InputError  # noqa: E402
from proxyless_arch.base.files import write_json  # noqa: E402
from proxyless_arch.base.progress import Progress  # noqa: E402
from proxyless_arch.base.settings import setting  # noqa: E402
from proxyless_arch.base.strict import listed, nearest  # noqa: E402
from proxyless_arch.base.text import align, ruled  # noqa: E402
from proxyless_arch.base.timing import Session, anchor_drift, measure, quartiles, steady_rounds  # noqa: E402
from proxyless_arch.base.words import BATCH_SIZE, RESOLUTION, SEED, THREADS  # noqa: E402
from proxyless_arch.data.streams import Stream, numpy_rng  # noqa: E402
from proxyless_arch.weights.lookup import find_spec  # noqa: E402

if TYPE_CHECKING:
    import torch

FORMAT = "proxyless-comparison"
RUNTIMES = ("onnxruntime", "torch")
NAMES = (*catalog.names(), *catalog.LAYOUTS, *FOREIGN)
VERSIONS_OF = ("numpy", "torch", "onnx", "onnxruntime", published.PACKAGE)


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How much is timed. ``max_drift`` is relative; a run shorter than ``min_ms`` is repeated within a timing."""

    rounds: int = 15
    runs: int = 10
    warmup: int = 3
    min_ms: float = 2.0
    max_drift: float = 0.1
    extra_rounds: int = 5
    seed: int = 0


QUICK = Protocol(rounds=3, runs=3, warmup=1, extra_rounds=1)


class Conditions(NamedTuple):
    """What every network runs on: images per run, and their side in pixels."""

    batch_size: int
    resolution: int


class Contender(NamedTuple):
    """A network with what is known of it before it runs. ``macs`` are for one image."""

    name: str
    label: str
    origin: str
    params: int
    macs: int
    counted: str
    top1_percent: float | None
    source: str | None
    network: ArchSpec | Foreign


# What takes part ----------------------------------------------------------------------------------------------------


def contender(name: str, resolution: int) -> Contender:
    """The network called ``name``; a foreign one needs its package."""
    if name in FOREIGN:
        foreign = FOREIGN[name]
        module = published.module_of(foreign, "meta")
        return Contender(
            name, foreign.label, f"{published.PACKAGE} {published.VERSION}", published.count_params(module),
            published.count_macs(module, resolution), "forward pass", foreign.top1_percent, foreign.source, foreign,
        )  # fmt: skip
    known = catalog.published(name)
    return _ours(name, catalog.load(name), resolution, known.top1_percent, known.source)


def _ours(
    name: str, spec: ArchSpec, resolution: int, top1_percent: float | None = None, source: str | None = None
) -> Contender:
    return Contender(
        name, name, "this repository", total_params(spec), total_macs(spec, resolution), "closed form", top1_percent,
        source, spec,
    )  # fmt: skip


def contenders(names: Sequence[str] | None, also: Sequence[str], resolution: int) -> tuple[list[Contender], list[str]]:
    """(those that take part, the labels of those left out because their package is missing).

    Args:
        names: what to compare, or None for everything there is.
        also: spec files or run folders that take part as well.

    Raises:
        InputError: an unknown name, one given twice, a foreign network asked for by name whose package is missing.
    """
    for name in names or ():
        if name not in NAMES:
            raise InputError(f"expected {listed(NAMES)}, got {name!r}{nearest(name, NAMES)}", "--networks")
    reason = published.unavailable()
    asked_for = [name for name in names or () if name in FOREIGN]
    if reason and asked_for:
        raise InputError(f"{asked_for[0]}: {reason}", "--networks")
    chosen = NAMES if names is None else names
    left_out = [FOREIGN[name].label for name in chosen if reason and name in FOREIGN]
    found = [contender(name, resolution) for name in chosen if not (reason and name in FOREIGN)]
    found += [_ours(Path(word).stem or word, find_spec(word), resolution) for word in also]
    labels = [one.name for one in found]
    twice = [name for name in labels if labels.count(name) > 1]
    if twice:
        raise InputError(f"two networks are called {twice[0]!r}", "--networks")
    if not found:
        raise InputError("expected at least one network here or with --also", "--networks")
    return found, left_out


# Made ready to run --------------------------------------------------------------------------------------------------


def torch_net(network: ArchSpec | Foreign) -> torch.nn.Module:
    """The network in PyTorch: eval mode, batch normalization folded, channels_last."""
    import torch

    from proxyless_nas.inference import fold_bn
    from proxyless_nas.network import build

    match network:
        case ArchSpec():
            module: torch.nn.Module = fold_bn(build(network))
        case Foreign():
            module = published.folded(published.module_of(network))
    return module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def onnx_file(network: ArchSpec | Foreign, conditions: Conditions, exports: Path) -> bytes:
    """The network as an ONNX file, batch normalization folded: built directly, or exported once and kept."""
    match network:
        case ArchSpec():
            graph = trace(walk(network, conditions.resolution), network.padding)
            return to_onnx(graph, RandomWeights(), conditions.batch_size)
        case Foreign():
            return published.onnx_of(network, conditions.resolution, conditions.batch_size, exports)


def session_on(runtime: Runtime, network: ArchSpec | Foreign, conditions: Conditions, exports: Path) -> Session:
    """A network ready to be timed on random images, in the manner of ``runtime``."""
    shape = (conditions.batch_size, 3, conditions.resolution, conditions.resolution)
    weights = RandomWeights()
    if isinstance(runtime, OnnxRuntime):
        loaded = runtime.load(onnx_file(network, conditions, exports))
        bindings = []
        for _ in range(ROTATED_INPUTS):
            binding = loaded.io_binding()
            binding.bind_cpu_input(loaded.get_inputs()[0].name, weights.normal(shape).copy())
            binding.bind_output(loaded.get_outputs()[0].name, "cpu")
            bindings.append(binding)
        turn = itertools.cycle(bindings)
        return CpuSession(lambda: loaded.run_with_iobinding(next(turn)), runtime.clock == "thread_cpu")
    import torch

    module = torch_net(network)
    images = [torch.from_numpy(weights.normal(shape).copy()) for _ in range(ROTATED_INPUTS)]
    images = [image.contiguous(memory_format=torch.channels_last) for image in images]
    if isinstance(runtime, TorchCuda):
        return CudaSession(module.to(runtime.device), images[0].to(runtime.device))
    rotated = itertools.cycle(images)

    @torch.inference_mode()
    def run() -> None:
        module(next(rotated))

    assert isinstance(runtime, TorchCpu)
    return TorchSession(run, runtime.threads)


# Timed --------------------------------------------------------------------------------------------------------------


class Round(NamedTuple):
    """Every network's median in ms by both clocks, the anchor's beside it, and how far that drifted, relative."""

    ms: Mapping[str, float]
    other_ms: Mapping[str, float]
    anchor_ms: Mapping[str, float]
    drift: float

    def at(self, reference_ms: float, name: str) -> float:
        """The time of a network at the speed at which the anchor takes ``reference_ms``."""
        return self.ms[name] * reference_ms / self.anchor_ms[name]


def one_round(
    sessions: Mapping[str, Session], anchor: str, protocol: Protocol, number: int, tick: Callable[[str], Any]
) -> Round:
    """One pass over the networks in an order of its own, the anchor timed before each and at the end."""

    def timed(name: str) -> tuple[float, float]:
        found = measure(sessions[name], runs=protocol.runs, warmup=protocol.warmup, min_ms=protocol.min_ms)
        return float(np.median(found.ms)), float(np.median(found.other_ms))

    ms, other_ms, beside = {}, {}, {}
    names = list(sessions)
    anchors = [timed(anchor)[0]]
    for index in numpy_rng(protocol.seed, Stream.TIMING_ORDER, number).permutation(len(names)):
        name = names[index]
        ms[name], other_ms[name] = timed(name)
        anchors.append(timed(anchor)[0])
        beside[name] = sum(anchors[-2:]) / 2
        tick(name)
    return Round(ms, other_ms, beside, anchor_drift(anchors))


def take_turns(
    sessions: Mapping[str, Session], anchor: str, protocol: Protocol, tick: Callable[[str], Any]
) -> tuple[list[Round], int]:
    """(the rounds that count, how many were repeated): those without drift, then those that drifted least."""
    rounds: list[Round] = []

    def take(number: int) -> float:
        rounds.append(one_round(sessions, anchor, protocol, number, tick))
        return rounds[-1].drift

    kept, _ = steady_rounds(take, protocol.rounds, protocol.extra_rounds, protocol.max_drift)
    return [rounds[number] for number in kept], len(rounds) - len(kept)


def row(one: Contender, rounds: Sequence[Round], reference: str | None) -> dict[str, Any]:
    """What the record holds of a network; JSON values."""
    anchor_ms = float(np.median([ms for turn in rounds for ms in turn.anchor_ms.values()]))
    times = [turn.at(anchor_ms, one.name) for turn in rounds]
    latency = quartiles(times)._asdict()
    ratio = None
    if reference is not None:
        ratio = quartiles([turn.at(anchor_ms, one.name) / turn.at(anchor_ms, reference) for turn in rounds])._asdict()
    return {
        "name": one.name,
        "label": one.label,
        "origin": one.origin,
        "params": one.params,
        "macs": one.macs,
        "macs_counted_by": one.counted,
        "latency_ms": latency,
        "as_clocked_ms": quartiles([turn.ms[one.name] for turn in rounds]).median,
        "spread_percent": round(100 * (latency["high"] - latency["low"]) / latency["median"], 2),
        "other_clock_ms": quartiles([turn.other_ms[one.name] for turn in rounds]).median,
        "ratio_to_reference": ratio,
        "published_top1_percent": one.top1_percent,
        "published_source": one.source,
        "round_medians_ms": [round(value, 4) for value in times],
    }


# Shown --------------------------------------------------------------------------------------------------------------


def table(record: Mapping[str, Any]) -> str:
    """The record for a person, fastest network first; what was measured, and what others published."""
    facts, settings, reference = record["environment"], record["settings"], record["reference"]
    label = next((one["label"] for one in record["networks"] if one["name"] == reference), None)
    rows = [("network", "parameters", "MACs", "latency ms", "spread %", f"x {label}" if label else "ratio", "top-1 %")]
    for one in sorted(record["networks"], key=lambda one: one["latency_ms"]["median"]):
        ratio, top1 = one["ratio_to_reference"], one["published_top1_percent"]
        rows.append(
            (
                one["label"],
                f"{one['params']:,}",
                f"{one['macs']:,}",
                f"{one['latency_ms']['median']:.2f}",
                f"{one['spread_percent']:.1f}",
                "-" if ratio is None else f"{ratio['median']:.2f}",
                "-" if top1 is None else f"{top1:.1f}",
            )
        )
    lines = ruled(align(rows))
    drift = record["drift"]
    sources: dict[str, list[str]] = {}
    for one in record["networks"]:
        if one["published_source"]:
            sources.setdefault(one["published_source"], []).append(one["label"])
    threads = "" if facts["threads"] is None else f", threads {facts['threads']}"
    notes = [
        f"measured: {facts['device']}, {facts['runtime']} {facts['runtime_version']}, {facts['dtype']}{threads}, "
        f"batch {settings['batch_size']}, {settings['resolution']} px",
        f"  {facts['date']}, load average {facts['load_average']} to {record['load_average_end']}, clock "
        f"{facts['clock']}",
        f"  medians and interquartile range over {drift['rounds_kept']} rounds ({drift['rounds_repeated']} repeated); "
        f"the anchor drifted by {drift['anchor_percent']:.1f} % within a round at most",
        "published, not measured: top-1 accuracy on ImageNet",
        *(f"  {', '.join(labels)}: {source}" for source, labels in sources.items()),
    ]
    if drift["anchor_percent"] > drift["limit_percent"]:
        notes.insert(3, f"  that is above {drift['limit_percent']:g} %: a busy machine; small differences are noise")
    return "\n".join([*lines, lines[1], *notes])


# The command --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class CompareConfig:
    """What compare_networks.py is asked to do."""

    device: str = setting("cpu", "what the networks run on", ("cpu", "cuda"))
    runtime: str | None = setting(None, "default: onnxruntime on a CPU, torch on a GPU", RUNTIMES)
    threads: int = THREADS.setting(1, minimum=1, maximum=1024)
    batch_size: int | None = BATCH_SIZE.setting(
        None, " (default: 1 on a CPU, 8 on a GPU)", aliases=("--batch",), minimum=1, maximum=4096
    )
    resolution: int = RESOLUTION.setting(224, minimum=32, maximum=4096)
    networks: tuple[str, ...] | None = setting(
        None, f"what to compare (default: all of {', '.join(NAMES)})", may_be_empty=True, metavar="NAME"
    )
    also: tuple[str, ...] = setting((), "spec files or run folders that take part as well", metavar="SPEC")
    rounds: int | None = setting(
        None,
        f"rounds over all networks (default: {Protocol.rounds}; {QUICK.rounds} with --quick)",
        minimum=1,
        maximum=10_000,
    )
    quick: bool = setting(False, "fewer rounds and runs")
    seed: int = SEED.setting(0, ": the order")
    output: Path | None = setting(
        None, "folder of the record and the picture (default: runs/compare/DATE)", metavar="DIR"
    )
    exports: Path = setting(
        ROOT / "runs" / "compare" / "onnx", "where exported networks are kept", shown="runs/compare/onnx", metavar="DIR"
    )


def runtime_for(device: str, name: str | None, threads: int) -> Runtime:
    """What runs the networks. Raises InputError when it is not here."""
    if device == "cuda":
        import torch

        if not torch.cuda.is_available():
            raise InputError(f"torch {torch.__version__} sees no GPU here; --device cpu needs none", "--device")
        return runtime_named(Hardware("cuda", 8), name)
    return runtime_named(Hardware("cpu", 1), name, threads)


def versions() -> dict[str, str]:
    """Of the installed packages that take part."""
    installed = {one.name: one.version for one in importlib.metadata.distributions()}
    return {name: installed[name] for name in VERSIONS_OF if name in installed}


def compare(
    runtime: Runtime, taking_part: Sequence[Contender], conditions: Conditions, protocol: Protocol, exports: Path
) -> dict[str, Any]:
    """Measure, with progress on standard error: the record, but for the command."""
    facts = runtime.facts()
    layout = "{desc} {bar}| {n_fmt}/{total_fmt} {postfix} [{elapsed} passed, {remaining} left]"
    sessions: dict[str, Session] = {}
    with Progress(len(taking_part), doing="preparing", bar_format=layout) as bar:
        for one in taking_part:
            sessions[one.name] = session_on(runtime, one.network, conditions, exports)
            bar.update(about=one.label)
    reference = REFERENCE if REFERENCE in sessions else None
    timings = protocol.rounds * len(sessions)
    with Progress(timings, doing="measuring", bar_format=layout) as bar:

        def tick(name: str) -> None:
            bar.total = max(timings, bar.done + 1)  # repeated rounds come on top
            bar.update(about=name)

        rounds, repeated = take_turns(sessions, reference or taking_part[0].name, protocol, tick)
    return {
        "format": FORMAT,
        "version": 1,
        "environment": facts,
        "load_average_end": machine_facts()["load_average"],
        "versions": versions(),
        "settings": {
            "batch_size": conditions.batch_size, "resolution": conditions.resolution, "runs_per_round": protocol.runs,
            "warmup": protocol.warmup, "seed": protocol.seed,
        },
        "statistic": "median and quartiles over rounds of the median in a round; ratios within a round",
        "reference": reference,
        "drift": {
            "anchor": reference or taking_part[0].name,
            "anchor_percent": round(100 * max(one.drift for one in rounds), 2),
            "limit_percent": 100 * protocol.max_drift,
            "rounds_kept": len(rounds),
            "rounds_repeated": repeated,
        },
        "networks": [row(one, rounds, reference) for one in taking_part],
    }  # fmt: skip


def run(argv: Sequence[str]) -> None:
    arguments = settings.parse(CompareConfig, argv, "compare_networks.py", __doc__)
    usual = 8 if arguments.device == "cuda" else 1
    conditions = Conditions(arguments.batch_size or usual, arguments.resolution)
    protocol = replace(QUICK if arguments.quick else Protocol(), seed=arguments.seed)
    if arguments.rounds is not None:
        protocol = replace(protocol, rounds=arguments.rounds)
    runtime = runtime_for(arguments.device, arguments.runtime, arguments.threads)
    taking_part, left_out = contenders(arguments.networks, arguments.also, conditions.resolution)
    if left_out:
        print(f"left out: {', '.join(left_out)}; {published.unavailable()}", flush=True)
    folder = arguments.output or ROOT / "runs" / "compare" / time.strftime("%Y-%m-%d")
    threads = "" if arguments.device == "cuda" else f"-t{arguments.threads}"
    stem = f"{arguments.device}-{runtime.name}{threads}-b{conditions.batch_size}-r{conditions.resolution}"
    record = compare(runtime, taking_part, conditions, protocol, arguments.exports)
    record |= {"command": shlex.join(["python", "benchmarks/compare_networks.py", *argv]), "left_out": left_out}
    write_json(folder / f"{stem}.json", record)
    drawn = draw(record, folder / f"{stem}.png")
    print(table(record))
    print(f"\nwritten to {folder}: {stem}.json{f', {stem}.png' if drawn else ''}")


def main(argv: Sequence[str] | None = None) -> int:
    return exit_code(run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
