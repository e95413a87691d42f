"""Make the latency table of a device: profile its operations, fit the predictor, validate on whole networks.

    python hardware/profile_latency.py --target_hardware cpu
    python hardware/profile_latency.py --target_hardware cpu --runtime litert --quick
    python hardware/profile_latency.py --target_hardware gpu8
    python hardware/profile_latency.py --target_hardware cpu --from runs/photos    # all that prune.py may make of it

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

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":  # started as a script: the packages lie beside this folder, and nothing in it is top-level
    sys.path[:] = [str(ROOT), *(entry for entry in sys.path if Path(entry or ".").resolve() != ROOT / "hardware")]

from hardware.profile import exported_ops, profiling  # noqa: E402
from hardware.profile.device import (  # noqa: E402
    Profiled,
    ProfileSettings,
    Sitting,
    check_networks,
    conditions_of,
    default_output,
    profile_device,
    protocol_of,
    space_of,
    tool_name,
    write,
)
from hardware.profile.measure import parse_hardware  # noqa: E402
from hardware.profile.profiling import Outcome, Plan, Protocol  # noqa: E402
from proxyless_arch.base import settings  # noqa: E402
from proxyless_arch.base.cli import command_line, exit_code  # noqa: E402
from proxyless_arch.base.errors import InputError  # noqa: E402
from proxyless_arch.base.settings import setting  # noqa: E402
from proxyless_arch.base.strict import Node, listed  # noqa: E402
from proxyless_arch.base.timing import Stopwatch  # noqa: E402
from proxyless_arch.base.words import DRY_RUN  # noqa: E402

FAILED_GATE = 1
IMAGES = "FOLDER_OF_YOUR_IMAGES"
# what a search can use; its tests type the commands that are printed here
SEARCHED = ("mobile", "cpu", "gpu8")
SEARCHED_PIXELS = (8, 1024)
MAX_DIGITS = 64  # pixels up to which a table of the tiny space serves the embedded digits


EXPORTED, IMPORTED = "for another machine", "timings from another machine"

DRY = "dry run: a few layers and networks were timed for that, nothing was written"


@dataclass(frozen=True, kw_only=True)
class ProfileConfig:
    """What profile_latency.py is asked to do."""

    profile: ProfileSettings = field(default_factory=ProfileSettings)
    dry_run: bool = DRY_RUN.setting(False, common=True)
    export_ops: Path | None = setting(
        None, "write the operations for another machine, and stop", group=EXPORTED, metavar="DIR", common=True
    )
    export_networks: int = setting(40, "whole networks among the exported, to validate with", group=EXPORTED, minimum=1)
    import_results: Path | None = setting(
        None, "its timings (a file or a folder)", group=IMPORTED, metavar="FILE", common=True
    )
    manifest: Path | None = setting(
        None, "manifest.json of the export (default: beside the results)", group=IMPORTED, metavar="FILE"
    )
    device_name: str | None = setting(
        None, "the other machine, where its results do not name it", group=IMPORTED, common=True
    )


def search_words(known: Mapping[str, Any], target_hardware: str, table: Path) -> list[str]:
    """The command that searches with a table of these conditions, each of them a flag.

    Complete but for the images, or, for a table of the tiny space, on the embedded digits. Raises InputError where no
    search can use it.
    """
    Node(target_hardware, "target_hardware").text(SEARCHED)
    Node(known["resolution"], "resolution").integer(*SEARCHED_PIXELS)
    batch_size = 1 if target_hardware == "mobile" else parse_hardware(target_hardware).batch_size
    for name, wanted in (("batch_size", batch_size), ("dtype", "float32")):
        if known[name] != wanted:
            raise InputError(f"--target_hardware {target_hardware} needs {wanted}, got {known[name]}", name)
    flags = {"target_hardware": target_hardware, "latency_table": table}
    on_digits = known["space"] == "tiny" and known["resolution"] <= MAX_DIGITS
    flags |= {} if on_digits else {"data_path": IMAGES}
    flags |= {name: known[name] for name in ("space", "width_mult", "resolution")}
    if target_hardware == "cpu":
        flags |= {"runtime": known["runtime"], "latency_threads": known["threads"]}
    words = (str(word) for name, value in flags.items() for word in (f"--{name}", value))
    return ["search/imagenet_arch_search.py", *words]


def next_step(outcome: Outcome, folder: Path, target_hardware: str, parent: str | None = None) -> str:
    """What a person does with a table that passed; empty where it did not."""
    if not outcome.verdict.passed:
        return ""
    known, table = outcome.table.provenance, folder / "table.json"
    if parent is not None:
        flags = {"arch": parent, "target_hardware": target_hardware, "runtime": known["runtime"],
                 "latency_threads": known["threads"], "latency_table": table, "keep": 0.5}  # fmt: skip
        given = (str(word) for name, value in flags.items() for word in (f"--{name}", value))
        return f"now prune by it:\n   {command_line('prune.py', *given)}"
    try:
        words = search_words(known, target_hardware, table)
    except InputError as error:
        show = command_line("search/show.py", "proxyless_mobile", "--latency", str(table))
        return f"no search can use this table ({error}); it prices networks:\n   {show}"
    return (
        f"now search for it:\n   {command_line(*words)}\n"
        f"   (made for images of {known['num_classes']} classes; for any other number the classifier's time is scaled "
        "in proportion, and the run says so)"
    )


def export_ops(arguments: ProfileConfig, protocol: Protocol, conditions: dict[str, Any]) -> None:
    space = space_of(*(conditions[name] for name in ("space", "width_mult", "resolution", "num_classes")))
    check_networks(arguments.export_networks, arguments.profile, 1000, "--export_networks")
    protocol = replace(protocol, validation_nets=arguments.export_networks)
    plan = Plan.of(space, protocol, "isolated")
    runtimes = list(exported_ops.SUFFIX_OF) if arguments.profile.runtime is None else [arguments.profile.runtime]
    if runtimes[0] not in exported_ops.SUFFIX_OF:
        raise InputError(f"expected {listed(exported_ops.SUFFIX_OF)} to export for, got {runtimes[0]!r}", "--runtime")
    suffixes = [exported_ops.SUFFIX_OF[name] for name in runtimes]
    conditions = conditions | {"seed": protocol.seed, "validation_nets": protocol.validation_nets}
    folder, watch = arguments.export_ops, Stopwatch()
    assert folder is not None
    size = exported_ops.export(folder, plan.op_cases(), plan.network_cases(), conditions, suffixes)
    print(
        f"{len(plan.ops)} operations and {len(plan.validation)} networks as {' and '.join(suffixes)}: "
        f"{size / 1e6:.0f} MB, written in {watch.seconds:.0f} s to {folder}\n"
        f"copy it to the machine, run there:   python run.py --runtime {' (or) --runtime '.join(runtimes)}\n"
        f"bring results-*.csv back, and:       "
        + command_line("hardware/profile_latency.py", "--import_results", f"{folder}/results-{runtimes[0]}.csv")
    )


def import_results(arguments: ProfileConfig, protocol: Protocol) -> int:
    results = arguments.import_results
    assert results is not None
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
    provenance = facts | conditions | {"tool": tool_name(), "source": results.name}
    elsewhere = ("runs_per_round", "warmup", "anchor_drift_pct")  # not our protocol: they are not known
    provenance |= dict.fromkeys(elsewhere) | {"statistic": "of the results, median over their rounds"}
    names = {case.name for case in plan.op_cases()}
    ops = {name: measured for name, measured in read.cases.items() if name in names}
    networks = {name: measured for name, measured in read.cases.items() if name not in names}
    protocol = replace(protocol, rounds=min(measured.rounds for measured in read.cases.values()))
    outcome = profiling.assemble(plan, protocol, ops, networks, 0.0, provenance)
    folder = arguments.profile.output or default_output(conditions | facts)
    folder.mkdir(parents=True, exist_ok=True)
    write(outcome, plan, folder, protocol.calibration_nets)
    hardware = "mobile" if known["batch_size"] == 1 else f"gpu{known['batch_size']}"  # not this machine
    print(Profiled(outcome, folder).summary(), next_step(outcome, folder, hardware), sep="\n")
    return 0 if outcome.verdict.passed else FAILED_GATE


def run(argv: Sequence[str]) -> int:
    arguments = settings.parse(ProfileConfig, argv, "profile_latency.py", __doc__)
    asked = arguments.profile
    if asked.target_hardware == "mobile":
        raise InputError(
            "a phone is timed where it is: --export_ops DIR writes what runs there, --import_results FILE reads times",
            "--target_hardware",
        )
    protocol = protocol_of(asked)
    if arguments.import_results is not None:
        return import_results(arguments, protocol)
    if arguments.export_ops is not None:
        if asked.parent is not None:
            raise InputError("has no meaning with --export_ops, which writes the layers of a space", "--from")
        export_ops(arguments, protocol, conditions_of(asked))
        return 0
    if arguments.dry_run:
        sitting = Sitting.of(asked)
        print(sitting.header(), sitting.foretold(asked.fresh), DRY, sep="\n")
        return 0
    done = profile_device(asked)
    print(done.summary(), next_step(done.outcome, done.folder, asked.target_hardware, asked.parent), sep="\n")
    return 0 if done.verdict.passed else FAILED_GATE


def main(argv: Sequence[str] | None = None) -> int:
    return exit_code(run, argv, _after_interrupt)


def _after_interrupt(words: Sequence[str]) -> str:
    again = command_line("hardware/profile_latency.py", *(word for word in words if word != "--fresh"))
    return f"interrupted; every timing is kept. Continue with\n  {again}"


if __name__ == "__main__":
    raise SystemExit(main())
