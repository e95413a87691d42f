"""Do wider spaces have more to find? Networks of three spaces at equal measured time, on CIFAR-10 at 32 px.

    python experiments/spaces_proof.py --data_path cifar10.zip --work DIR --target_ms 0.25
    python experiments/spaces_proof.py --work DIR --target_ms 0.25 --summary

The spaces share the macro-architecture of proof.py: the paper's operations, ``wide``, ``uib``. Everything is timed on
this machine beside one anchor, at one speed of the machine.

1. The layers of each space are profiled. Random networks are drawn at the target by that table, measured, and taken
   where they cost the target within WITHIN; so are two hand-made layouts, one block of MobileNetV2's and of
   MobileNetV4's kind everywhere, as wide as the target allows.
2. All are trained by proof.py's recipe with two training seeds.
3. The gate: the true standard deviation of a space's random networks, without the training seed's noise, is MIN_SPREAD
   points or more; where it is not, there is nothing to find.
4. Behind a supernet of each space that passed, the predictor finds a network of the target, which is measured, found
   again by a table scaled to that where it is off, and trained alike. A supernet of own weights trains one path a step,
   one of shared weights PASSES: it has so many times fewer steps.

Work is cut into tasks as in proof.py: give the command again to go on. Timing wants a quiet machine: do not run two.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "experiments")]

import proof  # noqa: E402
from proof import Images, Lengths, Task  # noqa: E402
from proof_predictor import Scorer, Sizes, predicted  # noqa: E402

from experiments.intervals import interval  # noqa: E402
from experiments.one_study import check_same, facts_of  # noqa: E402
from hardware.cost import CostTable, latency_price, price_space  # noqa: E402
from hardware.latency import load_latency_source  # noqa: E402
from hardware.profile import profiling  # noqa: E402
from hardware.profile.measure import Runtime, parse_hardware, runtime_named  # noqa: E402
from hardware.profile.profiling import Anchor, Bench, Plan, Protocol, RawLog, measure_network  # noqa: E402
from hardware.projection import window  # noqa: E402
from proxyless_arch.arch.spec import ArchSpec, Preprocessing  # noqa: E402
from proxyless_arch.arch.walk import total_macs, walk  # noqa: E402
from proxyless_arch.base import settings  # noqa: E402
from proxyless_arch.base.cli import exit_code  # noqa: E402
from proxyless_arch.base.errors import InputError  # noqa: E402
from proxyless_arch.base.files import read_json, write_json  # noqa: E402
from proxyless_arch.base.machine import cpu_name  # noqa: E402
from proxyless_arch.base.settings import REQUIRED, setting  # noqa: E402
from proxyless_arch.base.words import DATA_PATH  # noqa: E402
from proxyless_arch.space.mbconv import mbconv_space  # noqa: E402
from proxyless_arch.space.search_space import SearchSpace  # noqa: E402
from proxyless_arch.space.uib import uib_space  # noqa: E402
from proxyless_arch.space.wide import wide_space  # noqa: E402
from search.algorithm.predictor import Predictor  # noqa: E402
from search.algorithm.random_control import sample_at_cost  # noqa: E402
from search.config import SearchConfig, with_settings  # noqa: E402
from search.run.loop import Schedule, Search  # noqa: E402

FORMAT, VERSION = "proxyless-nas/spaces-study", 1
COMMON: Mapping[str, Any] = {
    "num_classes": 10,
    "preprocessing": Preprocessing(resolution=32, resize=32, mean=proof.MEAN, std=proof.STD),
}
SPACES: Mapping[str, SearchSpace] = {
    "paper": proof.SPACE,
    "wide": wide_space(proof.MACRO, **COMMON),
    "uib": uib_space(proof.MACRO, **COMMON),
}
HAND_MADE: Mapping[str, tuple[Callable[..., SearchSpace], int]] = {
    "MobileNetV2-like": (mbconv_space, 3),  # MB6 3x3
    "MobileNetV4-like": (uib_space, 2),  # ExtraDW 3x3
}
"""By name: a space, and the operation that each block has."""
WIDTH_MULTS = tuple(float(width) for width in np.round(np.arange(0.5, 3.01, 0.05), 2))
WITHIN = 0.02  # of the target, to be of its time
DRAWN_FOR_EACH = 6  # networks that are drawn and measured for each that is wanted, at most
CALIBRATED_ON = 5
"""Drawn networks whose measured over predicted time scales a table for the draws that count."""
LOWER = 0.98
LANDINGS = 5
"""Networks that are found and measured at most, until one is of the target: behind each the table is scaled to it."""
MIN_SPREAD = 1.0  # percentage points
PASSES = 4
TRAINING_SEEDS = (0, 1)
PROTOCOL = Protocol(rounds=2, runs=6, warmup=3, design_nets=70, validation_nets=40, extra_rounds=1)


@dataclass(frozen=True, kw_only=True)
class Study:
    """How much is done, at which target."""

    data_path: Path | None = DATA_PATH.setting(None, ": cifar10.zip, with train/ and test/")
    work: Path = setting(REQUIRED, "folder of the tasks' files", metavar="DIR")
    target_ms: float = setting(REQUIRED, "the time of all networks, on this machine", minimum=1e-4)
    runtime: str = setting("onnxruntime", "what times them", ("onnxruntime", "litert"))
    n_random: int = setting(10, "random networks of each space", minimum=3)
    train_steps: int = setting(Lengths.train_steps, "of every training", minimum=20)
    supernet_steps: int = setting(20_000, "of the supernets of own weights", minimum=PASSES)
    only_gate: bool = setting(False, "stop behind the gate")
    summary: bool = setting(False, "write what there is, and stop")
    output: Path = setting(ROOT / "experiments" / "spaces_proof.json", "record", shown="experiments/spaces_proof.json")

    @property
    def lengths(self) -> Lengths:
        return Lengths(self.train_steps, self.supernet_steps)


FACTS = ("target_ms", "runtime", "n_random", "train_steps", "supernet_steps")
"""What makes two studies one."""


# Times --------------------------------------------------------------------------------------------------------------


@dataclass
class Timer:
    """Times networks of every space beside the anchor of the paper's, at the speed at which that takes
    ``reference_ms``: what it took when the study began, which is kept in ``work``."""

    work: Path
    runtime: Runtime
    protocol: Protocol = PROTOCOL
    anchor: Anchor = field(init=False)

    def __post_init__(self) -> None:
        self.anchor = Anchor(self.runtime, SPACES["paper"], 1, self.protocol.anchor_runs, self.protocol.min_ms)

    @cached_property
    def reference_ms(self) -> float:
        file = self.work / "anchor.json"
        if not file.exists():
            write_json(file, {"ms": self.anchor.now()})
        return float(read_json(file)["ms"])

    def ms(self, spec: ArchSpec) -> float:
        return measure_network(self.anchor, walk(spec), self.reference_ms).ms

    def table(self, name: str) -> CostTable:
        """What the layers of a space cost; measured once, and kept."""
        folder, space = self.work / "profile" / name, SPACES[name]
        if not (folder / "table.json").exists():
            folder.mkdir(parents=True, exist_ok=True)
            plan, facts = Plan.of(space, self.protocol, "in_network"), self.runtime.facts()
            conditions = {key: facts[key] for key in ("device", "runtime", "threads")} | {"space": name}
            with RawLog(folder / "raw.jsonl", conditions) as log:
                bench = Bench(Anchor(self.runtime, space, 1), log, self.protocol)
                print(f"{name}: {profiling.left_to_measure(bench, plan)}", flush=True)
                outcome = profiling.profile(bench, plan, facts | {"batch_size": 1, "resolution": 32})
            outcome.table.save(folder / "table.json")
        return price_space(space, latency_price(load_latency_source(folder / "table.json")))


def is_of_the_target(ms: float, study: Study) -> bool:
    return abs(ms / study.target_ms - 1) <= WITHIN


def scaled_to_measured(study: Study, timer: Timer, name: str) -> CostTable:
    """A space's table times the median of measured over predicted, of some networks of the target; that is kept."""
    table, file = timer.table(name), study.work / "profile" / name / "scale.json"
    if not file.exists():
        paths = sample_at_cost(table, study.target_ms, CALIBRATED_ON, np.random.default_rng(0), LOWER)
        ratios = [timer.ms(SPACES[name].spec_for(path)) / table.of_path(path) for path in paths]
        write_json(file, {"measured_over_predicted": float(np.median(ratios))})
    return table.scaled(read_json(file)["measured_over_predicted"])


def random_networks(study: Study, timer: Timer, name: str) -> dict[str, Any]:
    """Random networks of a space that cost the target, as measured."""
    table, found = scaled_to_measured(study, timer, name), []
    count = study.n_random * DRAWN_FOR_EACH
    for n_drawn, path in enumerate(sample_at_cost(table, study.target_ms, count, np.random.default_rng(1), LOWER), 1):
        ms = timer.ms(SPACES[name].spec_for(path))
        if is_of_the_target(ms, study):
            found.append({"path": list(path), "ms": ms})
        if len(found) == study.n_random:
            return {"networks": found, "n_drawn": n_drawn}
    raise InputError(f"{len(found)} of {count} networks of space {name} cost the target, as measured", "--target_ms")


def hand_made(study: Study, timer: Timer, name: str) -> dict[str, Any]:
    """A layout with one operation everywhere, at the width whose time is nearest to the target."""
    build, choice = HAND_MADE[name]

    def spec_at(width: float) -> ArchSpec:
        space = build(proof.MACRO, width, **COMMON)
        return space.spec_for(space.same_choice(choice))

    low, high = 0, len(WIDTH_MULTS) - 1
    times: dict[int, float] = {}
    while high - low > 1:
        middle = (low + high) // 2
        times[middle] = timer.ms(spec_at(WIDTH_MULTS[middle]))
        low, high = (middle, high) if times[middle] < study.target_ms else (low, middle)
    nearest = min(times, key=lambda index: abs(times[index] / study.target_ms - 1))
    return {"width_mult": WIDTH_MULTS[nearest], "ms": times[nearest]}


# Supernets ----------------------------------------------------------------------------------------------------------


def new_search(study: Study, timer: Timer, name: str) -> Search:
    space = SPACES[name]
    steps = study.supernet_steps // (PASSES if space.shares_weights else 1)
    config = with_settings(SearchConfig(), {**proof.SUPERNET, "arch_algo": "predictor", "manual_seed": 0})
    schedule = Schedule(steps_per_epoch=steps, warmup_epochs=1, search_epochs=0, arch_every=1, arch_repeats=1)
    return Search(config, space, timer.table(name), study.target_ms, schedule, torch.device("cpu"))


def find(study: Study, timer: Timer, images: Images, name: str, sizes: Sizes) -> dict[str, Any] | None:
    """The network of the target that the predictor takes behind the space's supernet; None where the space did not pass
    the gate, or its networks are not trained yet."""
    spread = spread_of(study, name)
    if spread is None or not spread["passed"]:
        return None
    search = new_search(study, timer, name)
    proof.warm_up(images, search, study.work / "supernet" / f"{name}.pt")
    scorer = Scorer(images, search.supernet, sizes)
    table = scaled_to_measured(study, timer, name)
    limits = [window(table, study.target_ms, LOWER)]
    state = study.work / "supernet" / f"{name}.state.json"
    path = predicted(limits, scorer, state, 0)
    predictor = Predictor(limits, sizes.predictor, 0)
    predictor.load_state_dict(read_json(state))
    tried = []
    for _ in range(LANDINGS):
        tried.append({"path": list(path), "ms": timer.ms(SPACES[name].spec_for(path))})
        if is_of_the_target(tried[-1]["ms"], study):
            break
        table = table.scaled(tried[-1]["ms"] / table.of_path(path))
        path = predictor.within([window(table, study.target_ms, LOWER)], scorer.chooses).path
    nearest = min(tried, key=lambda each: abs(each["ms"] / study.target_ms - 1))  # type: ignore[operator]
    return nearest | {"tried": tried}


# Tasks --------------------------------------------------------------------------------------------------------------


def alone_file(study: Study, kind: str, index: int, seed: int) -> Path:
    return study.work / "alone" / f"{kind}-{index}-{seed}.json".replace(" ", "_")


def specs_of(study: Study, kind: str) -> list[ArchSpec]:
    """The networks of a kind (a space's random ones, a hand-made one, what was found) that are known so far."""
    file = study.work / "networks" / f"{kind}.json"
    if not file.exists():
        return []
    record = read_json(file)
    if kind in HAND_MADE:
        build, choice = HAND_MADE[kind]
        space = build(proof.MACRO, record["width_mult"], **COMMON)
        return [space.spec_for(space.same_choice(choice))]
    space = SPACES[kind.removeprefix("found ")]
    return [space.spec_for(tuple(each["path"])) for each in record.get("networks", [record])]


def tasks(study: Study, timer: Timer, images: Images, sizes: Sizes) -> list[Task]:
    """All of it, in the order in which it is worth doing: the gate first."""

    def networks(kind: str, work: Callable[[], dict[str, Any] | None]) -> Task:
        return Task(study.work / "networks" / f"{kind}.json", work)

    found = [f"found {name}" for name in SPACES]
    chosen = [networks(name, partial(random_networks, study, timer, name)) for name in SPACES]
    chosen += [networks(name, partial(hand_made, study, timer, name)) for name in HAND_MADE]
    late = [networks(f"found {name}", partial(find, study, timer, images, name, sizes)) for name in SPACES]

    def trainings(kinds: Sequence[str]) -> list[Task]:
        return [
            Task(alone_file(study, kind, index, seed), partial(proof.train_spec, images, spec, seed, study.lengths))
            for kind in kinds
            for index, spec in enumerate(specs_of(study, kind))
            for seed in TRAINING_SEEDS
        ]

    listed = [*chosen, *trainings([*SPACES, *HAND_MADE])]
    return listed if study.only_gate else [*listed, *late, *trainings(found)]


# What came out ------------------------------------------------------------------------------------------------------


def top1_of(study: Study, kind: str) -> np.ndarray:
    """(networks, training seeds) test top-1 of those that are wholly trained."""
    rows = []
    for index in range(len(specs_of(study, kind))):
        files = [alone_file(study, kind, index, seed) for seed in TRAINING_SEEDS]
        if all(file.exists() for file in files):
            rows.append([read_json(file)["test_top1_percent"] for file in files])
    return np.array(rows).reshape(-1, len(TRAINING_SEEDS))


def true_sd(top1: np.ndarray) -> tuple[float, float]:
    """(standard deviation of networks without the training seed's noise, that of the noise): of (networks, seeds)."""
    noise = float(np.mean(top1.var(axis=1, ddof=1)))
    between = float(top1.mean(axis=1).var(ddof=1)) - noise / top1.shape[1]
    return max(0.0, between) ** 0.5, noise**0.5


def spread_of(study: Study, name: str) -> dict[str, Any] | None:
    """The gate of a space; None while fewer than all of its networks are trained."""
    top1 = top1_of(study, name)
    if len(top1) < study.n_random:
        return None
    sd, noise = true_sd(top1)
    return {"true_sd": sd, "noise_sd": noise, "passed": sd >= MIN_SPREAD}


def summarize(study: Study) -> dict[str, Any]:
    """What is done so far; accuracies are test top-1 on 10,000 images, in percent."""
    kinds: dict[str, Any] = {}
    for kind in (*SPACES, *HAND_MADE, *(f"found {name}" for name in SPACES)):
        top1, specs = top1_of(study, kind), specs_of(study, kind)
        if not specs:
            continue
        record = read_json(study.work / "networks" / f"{kind}.json")
        kinds[kind] = {
            "ms": [each["ms"] for each in record.get("networks", [record])],
            "macs": [total_macs(spec) for spec in specs],
            "test_top1_percent": top1.tolist(),
            **({"of_networks": interval(top1.mean(axis=1).tolist())} if len(top1) else {}),
            **({"gate": spread_of(study, kind)} if kind in SPACES else {}),
        }
    facts = facts_of(study, FACTS)
    return {"format": FORMAT, "version": VERSION, "study": facts, "machine": cpu_name(), "networks": kinds}


def run(argv: Sequence[str]) -> None:
    study = settings.parse(Study, argv, "spaces_proof.py", __doc__)
    torch.set_num_threads(1)
    check_same(study, FACTS)
    if not study.summary:
        if study.data_path is None:
            raise InputError("expected the zip of CIFAR-10", DATA_PATH.flag)
        timer = Timer(study.work, runtime_named(parse_hardware("cpu"), study.runtime, 1))
        images = Images.load(study.data_path, study.work)
        proof.run_tasks(lambda: tasks(study, timer, images, Sizes()))
    record = summarize(study)
    write_json(study.output, record)
    for kind, found in record["networks"].items():
        mean = found["of_networks"]["mean"] if "of_networks" in found else float("nan")
        print(f"{kind}: {len(found['test_top1_percent'])} trained, {mean:.2f} %; gate {found.get('gate')}")


def main(argv: Sequence[str] | None = None) -> int:
    return exit_code(run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
