"""Make the latency table of a device: profile its operations, fit the predictor, validate on whole networks.

    python hardware/profile_latency.py --target_hardware cpu
    python hardware/profile_latency.py --target_hardware cpu --runtime litert --quick
    python hardware/profile_latency.py --target_hardware gpu8

For a phone or any other machine: export the operations, run run.py there (or Android's LiteRT benchmark_model on the
.tflite files), and read the timings back.

    python hardware/profile_latency.py --export_ops phone/ --runtime litert
    python phone/run.py --runtime litert
    python hardware/profile_latency.py --import_results phone/results-litert.csv --device_name "my phone"

The output folder holds table.json and predictor.json (for --latency_table of the search), validation.json,
validation.png, and raw.jsonl with every timing: interrupt the command, give it again, and it goes on where it was
(--fresh measures anew).
Exit status 1: measured, but the table did not pass its validation.
"""

from __future__ import annotations

import argparse
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":  # started as a script: the packages lie beside this folder, and nothing in it is top-level
    sys.path[:] = [str(ROOT), *(entry for entry in sys.path if Path(entry or ".").resolve() != ROOT / "hardware")]

from tqdm import tqdm  # noqa: E402

from hardware.profile import exported_ops, profiling  # noqa: E402
from hardware.profile.fit import NetErrors  # noqa: E402
from hardware.profile.measure import Runtime, parse_hardware, runtime_named  # noqa: E402
from hardware.profile.profiling import MIN_SCORED, QUICK, Anchor, Bench, Outcome, Plan, Protocol, RawLog  # noqa: E402
from proxyless_arch.arch.spec import imagenet_preprocessing  # noqa: E402
from proxyless_arch.base.cli import BAD_INPUT, INTERRUPTED, Parser  # noqa: E402
from proxyless_arch.base.errors import InputError  # noqa: E402
from proxyless_arch.base.files import open_bytes, parse_json, write_json  # noqa: E402
from proxyless_arch.base.strict import listed  # noqa: E402
from proxyless_arch.space.mbconv import MACROS, macro_named, mbconv_space  # noqa: E402
from proxyless_arch.space.search_space import SearchSpace  # noqa: E402
from search import config  # noqa: E402
from search.reporting.pictures import draw_validation  # noqa: E402

FAILED_GATE = 1
MATCHED = ("device", "runtime", "runtime_version", "threads", "dtype", "clock")  # of a runtime's facts, to resume
METHODS = ("in_network", "isolated")
IMAGES = "FOLDER_OF_YOUR_IMAGES"
MAY_GROW = ("rounds", "extra_rounds")  # of the protocol: more rounds are added to those that are there


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(prog="profile_latency.py", description=__doc__)
    add = parser.add_argument
    add("--target_hardware", default="cpu", help="cpu, or gpuN for batches of N on a GPU [cpu]")
    add("--runtime", help="onnxruntime, litert or torch (default: onnxruntime on a CPU, torch on a GPU)")
    add("--threads", type=int, default=1, help="threads on a CPU [1]")
    add("--batch_size", type=int, help="images per run on a CPU [1]; a GPU's is in its name")
    add("--space", default="imagenet", help=f"search space: {', '.join(MACROS)} [imagenet]")
    add("--width_mult", type=float, default=1.0, help="width multiplier [1.0]")
    add("--resolution", type=int, help="input pixels [224; 32 for small, 16 for tiny]")
    add("--num_classes", type=int, default=1000, help="classes of the classifier [1000]")
    add("--method", default=METHODS[0], help="in_network (whole networks as well) or isolated operations [in_network]")
    add("--quick", action="store_true", help="fewer rounds and networks")
    add("--rounds", type=int, help=f"rounds over everything [{Protocol.rounds}; {QUICK.rounds} with --quick]")
    add("--design_nets", type=int, help=f"networks to solve from [{Protocol.design_nets}; {QUICK.design_nets} quick]")
    add("--validation_nets", type=int, help=f"networks that vouch, 10 of them calibrate [{Protocol.validation_nets}]; "
        f"a table passes with {Protocol.calibration_nets + MIN_SCORED} at least")  # fmt: skip
    add("--seed", type=int, default=0, help="of the order and the networks [0]")
    add("--output", type=Path, help="folder (default: runs/latency/<device>-<runtime>-t1-b1-r224-w1.0)")
    add("--fresh", action="store_true", help="measure anew; what the folder holds is kept as raw-<date>.jsonl")
    add("--export_ops", type=Path, metavar="DIR", help="write the operations for another machine, and stop")
    add("--export_networks", type=int, default=40, help="whole networks among the exported, to validate with [40]")
    add("--import_results", type=Path, metavar="FILE", help="timings from another machine (a file or a folder)")
    add("--manifest", type=Path, help="manifest.json of the export (default: beside the results)")
    add("--device_name", help="the other machine, where its results do not name it")
    return parser.parse_strictly(argv)


def _within(value: float, low: float, high: float, flag: str) -> None:
    if not low <= value <= high:
        raise InputError(f"expected {low:g}..{high:g}, got {value:g}", flag)


def _check_networks(count: int, arguments: argparse.Namespace, maximum: int, flag: str) -> None:
    enough = Protocol.calibration_nets + MIN_SCORED
    if 20 <= count < enough and not arguments.quick:
        raise InputError(
            f"expected {enough}..{maximum}, got {count}: {Protocol.calibration_nets} calibrate and {MIN_SCORED} must "
            "score; with --quick fewer are measured, and the table does not pass",
            flag,
        )
    _within(count, 20, maximum, flag)


def protocol_of(arguments: argparse.Namespace) -> Protocol:
    """The protocol the flags ask for. Raises InputError."""
    protocol = QUICK if arguments.quick else Protocol()
    given = {name: getattr(arguments, name) for name in ("rounds", "design_nets", "validation_nets", "seed")}
    protocol = replace(protocol, **{name: value for name, value in given.items() if value is not None})
    _within(protocol.rounds, 1, 100, "--rounds")
    _within(protocol.design_nets, 20, 10_000, "--design_nets")
    _check_networks(protocol.validation_nets, arguments, 10_000, "--validation_nets")
    _within(protocol.seed, 0, 2**31 - 1, "--seed")
    if arguments.method not in METHODS:
        raise InputError(f"expected {' or '.join(METHODS)}, got {arguments.method!r}", "--method")
    return protocol


def space_of(name: str, width_mult: float, resolution: int, num_classes: int) -> SearchSpace:
    """The space a table is made for. Raises InputError."""
    _within(resolution, 8, 4096, "--resolution")
    _within(num_classes, 1, 65_536, "--num_classes")
    return mbconv_space(
        macro=macro_named(name),
        width_mult=width_mult,
        num_classes=num_classes,
        preprocessing=imagenet_preprocessing(resolution),
    )


def _resolution(arguments: argparse.Namespace) -> int:
    if arguments.resolution is not None:
        return arguments.resolution
    return {"small": 32, "tiny": 16}.get(arguments.space, 224)


def conditions_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """What the flags fix about the network's input and the space; JSON values."""
    hardware = parse_hardware(arguments.target_hardware)
    if arguments.batch_size is not None and hardware.kind != "cpu":
        raise InputError(f"the batch size of {arguments.target_hardware} is in its name", "--batch_size")
    batch_size = hardware.batch_size if arguments.batch_size is None else arguments.batch_size
    _within(batch_size, 1, 4096, "--batch_size")
    macro_named(arguments.space)
    return {
        "batch_size": batch_size,
        "resolution": _resolution(arguments),
        "space": arguments.space,
        "width_mult": arguments.width_mult,
        "num_classes": arguments.num_classes,
    }


def default_output(conditions: dict[str, Any]) -> Path:
    """runs/latency/<device>-<runtime>-t1-b1-r224-w1.0, with the space in it when it is not imagenet."""
    device = re.sub(r"[^a-z0-9]+", "-", str(conditions["device"]).lower()).strip("-") or "device"
    space = "" if conditions["space"] == "imagenet" else f"-{conditions['space']}"
    classes = "" if conditions["num_classes"] == 1000 else f"-c{conditions['num_classes']}"
    threads = f"-t{conditions['threads']}" if conditions["threads"] else ""
    return ROOT / "runs" / "latency" / (
        f"{device}-{conditions['runtime']}{threads}-b{conditions['batch_size']}-r{conditions['resolution']}"
        f"-w{conditions['width_mult']}{space}{classes}"
    )  # fmt: skip


def _tool() -> str:
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
        lines.append(f"What was measured is kept in {folder}; more rounds add to it, --fresh measures anew.")
    else:
        lines.append(f"\nwritten to {folder}")
    return "\n".join(lines)


def search_words(known: Mapping[str, Any], target_hardware: str, table: Path) -> list[str]:
    """The command that searches with a table of these conditions: every flag that differs from the search's defaults.

    Complete but for the images, or, for a table of the tiny space, on the embedded digits. Raises InputError where no
    search can use it.
    """
    on_digits = known["space"] == "tiny" and known["resolution"] <= config.SMALL_IMAGE
    base = config.from_recipe("digits" if on_digits else "default")
    always = {"target_hardware": target_hardware, "latency_table": str(table)}
    always |= {} if on_digits else {"data_path": IMAGES}
    needed = {name: known[name] for name in ("space", "width_mult", "resolution")}
    if target_hardware == "cpu":
        needed |= {"runtime": known["runtime"], "latency_threads": known["threads"]}
    config.with_settings(base, always | needed)
    batch_size = 1 if target_hardware == "mobile" else parse_hardware(target_hardware).batch_size
    for name, wanted in (("batch_size", batch_size), ("dtype", "float32")):
        if known[name] != wanted:
            raise InputError(f"--target_hardware {target_hardware} needs {wanted}, got {known[name]}", name)
    usual = {"runtime": "onnxruntime", "space": config.default_space(known["resolution"])}
    usual |= {name: value for name, value in config.to_dict(base).items() if value is not None}
    told = {name: value for name, value in needed.items() if name in usual and value != usual[name]}
    pixels = base.data.resolution or config.default_resolution(base.data.dataset, told.get("space"))
    told |= {} if known["resolution"] == pixels else {"resolution": known["resolution"]}
    flags = [str(word) for name, value in (always | told).items() for word in (f"--{name}", value)]
    return ["python", "search/imagenet_arch_search.py", *flags]


def next_step(outcome: Outcome, folder: Path, target_hardware: str) -> str:
    """What a person does with a table that passed; empty where it did not."""
    if not outcome.verdict.passed:
        return ""
    known, table = outcome.table.provenance, folder / "table.json"
    try:
        words = search_words(known, target_hardware, table)
    except InputError as error:
        show = shlex.join(["python", "hardware/show.py", "proxyless_mobile", "--latency", str(table)])
        return f"no search can use this table ({error}); it prices networks:\n   {show}"
    return (
        f"now search for it:\n   {shlex.join(words)}\n"
        f"   (made for images of {known['num_classes']} classes; for any other number the classifier's time is scaled "
        "in proportion, and the run says so)"
    )


def export_ops(arguments: argparse.Namespace, protocol: Protocol, conditions: dict[str, Any]) -> None:
    space = space_of(*(conditions[name] for name in ("space", "width_mult", "resolution", "num_classes")))
    _check_networks(arguments.export_networks, arguments, 1000, "--export_networks")
    protocol = replace(protocol, validation_nets=arguments.export_networks)
    plan = Plan.of(space, protocol, "isolated")
    runtimes = list(exported_ops.SUFFIX_OF) if arguments.runtime is None else [arguments.runtime]
    if runtimes[0] not in exported_ops.SUFFIX_OF:
        raise InputError(f"expected {listed(exported_ops.SUFFIX_OF)} to export for, got {runtimes[0]!r}", "--runtime")
    suffixes = [exported_ops.SUFFIX_OF[name] for name in runtimes]
    conditions = conditions | {"seed": protocol.seed, "validation_nets": protocol.validation_nets}
    folder, start = arguments.export_ops, time.monotonic()
    size = exported_ops.export(folder, plan.op_cases(), plan.network_cases(), conditions, suffixes)
    print(
        f"{len(plan.ops)} operations and {len(plan.validation)} networks as {' and '.join(suffixes)}: "
        f"{size / 1e6:.0f} MB, written in {time.monotonic() - start:.0f} s to {folder}\n"
        f"copy it to the machine, run there:   python run.py --runtime {' (or) --runtime '.join(runtimes)}\n"
        f"bring results-*.csv back, and:       python hardware/profile_latency.py --import_results "
        f"{folder}/results-{runtimes[0]}.csv"
    )


def import_results(arguments: argparse.Namespace, protocol: Protocol) -> int:
    results = arguments.import_results
    beside = results / "manifest.json" if results.is_dir() else results.with_name("manifest.json")
    if arguments.manifest is None and not beside.is_file():
        raise InputError(
            f"expected the export's manifest.json beside the results, there is none in {beside.parent}: name it with "
            "--manifest",
            "--import_results",
        )
    manifest = exported_ops.read_manifest(arguments.manifest or beside)
    known = manifest.conditions
    space = space_of(*(known[name] for name in ("space", "width_mult", "resolution", "num_classes")))
    protocol = replace(protocol, validation_nets=known["validation_nets"], seed=known["seed"])
    plan = Plan.of(space, protocol, "isolated")
    read = exported_ops.read_results(results, manifest)
    facts = {"dtype": "float32", "threads": None, "runtime": None, "date": None} | read.facts
    facts["device"] = arguments.device_name or facts.get("device")
    if facts["device"] is None:
        raise InputError("the results do not name their machine: say which with --device_name", "--device_name")
    conditions = {name: known[name] for name in ("batch_size", "resolution", "space", "width_mult", "num_classes")}
    provenance = facts | conditions | {"tool": _tool(), "source": results.name}
    elsewhere = ("runs_per_round", "warmup", "anchor_drift_pct")  # not our protocol: they are not known
    provenance |= dict.fromkeys(elsewhere) | {"statistic": "of the results, median over their rounds"}
    names = {case.name for case in plan.op_cases()}
    ops = {name: measured for name, measured in read.cases.items() if name in names}
    networks = {name: measured for name, measured in read.cases.items() if name not in names}
    protocol = replace(protocol, rounds=min(measured.rounds for measured in read.cases.values()))
    outcome = profiling.assemble(plan, protocol, ops, networks, 0.0, provenance)
    folder = arguments.output or default_output(conditions | facts)
    folder.mkdir(parents=True, exist_ok=True)
    write(outcome, plan, folder, protocol.calibration_nets)
    hardware = "mobile" if known["batch_size"] == 1 else f"gpu{known['batch_size']}"  # not this machine
    print(summary(outcome, folder), next_step(outcome, folder, hardware), sep="\n")
    return 0 if outcome.verdict.passed else FAILED_GATE


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


def profile(
    arguments: argparse.Namespace, protocol: Protocol, conditions: dict[str, Any], runtime: Runtime
) -> tuple[Outcome, Path]:
    """Measure what the output folder lacks, and write its files."""
    space = space_of(*(conditions[name] for name in ("space", "width_mult", "resolution", "num_classes")))
    facts = runtime.facts()
    fixed = {name: facts[name] for name in MATCHED} | conditions
    folder = arguments.output or default_output(fixed)
    plan = Plan.of(space, protocol, arguments.method)
    print(
        f"  device     {facts['device']}, {facts['runtime']} {facts['runtime_version']}, threads {facts['threads']}, "
        f"batch {conditions['batch_size']}, clock {facts['clock']}\n"
        f"  space      {conditions['space']}, width {conditions['width_mult']:g}, {conditions['resolution']} px: "
        f"{len(plan.ops)} operations, {len(plan.design)} networks to solve from, {len(plan.validation)} to validate\n"
        f"  protocol   {protocol.rounds} rounds of {protocol.runs} timings; load average "
        f"{facts['load_average']}, governor {facts['governor'] or 'not readable'}\n"
        f"  folder     {folder}",
        flush=True,
    )
    if arguments.fresh:
        set_aside(folder / "raw.jsonl")
    steady = {name: value for name, value in asdict(protocol).items() if name not in MAY_GROW}
    now = {"date": facts.get("date"), "load_average": facts["load_average"], "tool": _tool()}
    opened, begun = open_log(folder / "raw.jsonl", fixed | steady, now)
    with opened as log:
        if len(log):
            print(f"  resumed    {len(log)} timings are there already", flush=True)
        layout = "{l_bar}{bar}| {elapsed} passed, {remaining} left"
        total = profiling.total_effort(plan, protocol)
        with tqdm(total=total, bar_format=layout, disable=None, dynamic_ncols=True, desc="measuring") as bar:

            def tick(effort: float) -> None:
                bar.total = max(bar.total, bar.n + effort)  # repeated rounds come on top
                bar.update(effort)

            anchor = Anchor(runtime, space, conditions["batch_size"], protocol.anchor_runs, protocol.min_ms)
            bench = Bench(anchor, log, protocol, tick)
            provenance = facts | conditions | begun | {"source": "measured here"}
            outcome = profiling.profile(bench, plan, provenance)
    write(outcome, plan, folder, protocol.calibration_nets)
    return outcome, folder


def run(arguments: argparse.Namespace) -> int:
    protocol = protocol_of(arguments)
    if arguments.import_results is not None:
        return import_results(arguments, protocol)
    conditions = conditions_of(arguments)
    if arguments.export_ops is not None:
        export_ops(arguments, protocol, conditions)
        return 0
    runtime = runtime_named(parse_hardware(arguments.target_hardware), arguments.runtime, arguments.threads)
    outcome, folder = profile(arguments, protocol, conditions, runtime)
    print(summary(outcome, folder), next_step(outcome, folder, arguments.target_hardware), sep="\n")
    return 0 if outcome.verdict.passed else FAILED_GATE


def main(argv: Sequence[str] | None = None) -> int:
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        return run(parse(words))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        again = shlex.join(["python", "hardware/profile_latency.py", *(word for word in words if word != "--fresh")])
        print(f"\ninterrupted; every timing is kept. Go on with\n  {again}", file=sys.stderr)
        return INTERRUPTED


if __name__ == "__main__":
    raise SystemExit(main())
