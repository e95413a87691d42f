"""What choosing is worth where a trained network is pruned to a share of its time on this machine.

    python experiments/prune_time.py --cifar cifar10.zip --work DIR --evaluations 8

The parent, its photos and the images that judge are those of prune_proof.py, in the same ``--work``. Layers are priced
by a table of what the parent's own may become, measured on this machine at these pixels, once for onnxruntime and once
for LiteRT (``hardware/profile_latency.py --from``; made now where it is not there). Each way chooses for a share of the
parent's predicted time. Then all networks of a runtime are timed in one sitting: rounds over all of them in an order of
their own, each between two timings of the parent's smallest pruning, as in a landing. Where a network is more than 2 %
off its share of what the parent took beside that at first, it is chosen again for what makes up for it
(hardware/profile/landing.py), and timed again. A last sitting, after the choice, gives the times that are reported: the
median over its rounds of the ratio to the parent in the same round.

What prune_proof.py left in ``--work``, at shares of the MACs, is timed too, in a sitting of its own (``--macs_alone``:
that and no more).

The ways are those of prune_proof.py: exact, amc, uniform and the best of as many random plans as exact scores, each
with ``--seeds`` seeds; twelve random plans, depth alone, magnitude (where torch-pruning is there, see there) and a
searched network with the first; and smaller images, whose time is what it is. Magnitudes change widths that no table
has: the model that the profile fits prices them. One warm-up stands behind the searches for all times. All are trained
on as in prune_proof.py. What is there in ``--work`` is not done again.
"""

from __future__ import annotations

import hashlib
import math
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":  # started as a script: the packages lie beside this folder
    sys.path[0] = str(ROOT)

import torch  # noqa: E402

from compress import PruneConfig  # noqa: E402
from compress.methods import best  # noqa: E402
from compress.pruning.choices import price_groups  # noqa: E402
from compress.pruning.choosing import plans  # noqa: E402
from compress.pruning.device import PREDICTOR, latency_source  # noqa: E402
from compress.pruning.environment import Environment, measured_environment  # noqa: E402
from compress.pruning.session import smallest  # noqa: E402
from compress.record import Record  # noqa: E402
from experiments import pruning  # noqa: E402
from experiments.pruning import (  # noqa: E402
    CPU,
    DEPTH,
    EXACT,
    MAGNITUDE,
    PRUNINGS,
    SEARCHED,
    SHARES,
    SIZES,
    TWICE,
    Hits,
    Way,
    gap,
    has_torch_pruning,
    shown,
    way_of,
)
from hardware.cost import MACS, PARAMS, price_by  # noqa: E402
from hardware.latency import LatencySource, load_latency_source, network_ms  # noqa: E402
from hardware.predictor import Predictor  # noqa: E402
from hardware.profile.landing import cost_of_time  # noqa: E402
from hardware.profile.pricing import Bench as Place  # noqa: E402
from hardware.profile.profiling import time_once  # noqa: E402
from hardware.projection import Limit  # noqa: E402
from proxyless_arch.arch.codec import read_spec, spec_to_json  # noqa: E402
from proxyless_arch.arch.shrink import Shrunk, shrink  # noqa: E402
from proxyless_arch.arch.spec import ArchSpec  # noqa: E402
from proxyless_arch.arch.walk import total_macs, walk  # noqa: E402
from proxyless_arch.base import runs  # noqa: E402
from proxyless_arch.base.cli import exit_code  # noqa: E402
from proxyless_arch.base.errors import InputError  # noqa: E402
from proxyless_arch.base.files import read_json, write_json  # noqa: E402
from proxyless_arch.base.machine import cpu_name  # noqa: E402
from proxyless_arch.base.settings import parse, setting  # noqa: E402
from proxyless_arch.data.streams import Stream, numpy_rng  # noqa: E402
from proxyless_arch.space.shrinking import change_of, groups_of  # noqa: E402
from proxyless_arch.weights.lookup import SPEC_FILE  # noqa: E402
from proxyless_nas import load  # noqa: E402
from proxyless_nas.network import ProxylessNet  # noqa: E402

FORMAT, VERSION = "proxyless-compress/time-proof", 1
PARENT = "parent"
BY_MACS = (EXACT, "uniform", "amc", "best random", "depth", "magnitude")
NEAR = 0.02
"""Of its share, how far off a network may be that is not chosen again."""
MOST_SITTINGS = 8
WAYS = (*PRUNINGS, DEPTH, MAGNITUDE, SEARCHED)


@dataclass(frozen=True, kw_only=True)
class TimeStudy(pruning.Person):
    """What is compared, and on what."""

    runtimes: str = setting("onnxruntime,litert", "what runs the networks")
    rounds: int = setting(9, "of a sitting", minimum=3)
    seeds: int = setting(1, "of each way", minimum=1)
    macs_alone: bool = setting(False, "time prune_proof.py's networks, and choose none")
    output: Path = setting(ROOT / "experiments" / "prune_time.json", "record", shown="experiments/prune_time.json")

    @property
    def home(self) -> Path:
        return self.work / "time"


class Product(NamedTuple):
    """A way at a share of the parent's time, with a seed."""

    share: float
    way: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.share:g}-{self.way.replace(' ', '_')}-{self.seed}"


def products(study: TimeStudy) -> Iterator[Product]:
    able = [way for way in WAYS if way != MAGNITUDE or has_torch_pruning()]
    for seed in range(study.seeds):
        ways = able if seed == 0 else [way for way in able if way.name in TWICE]
        yield from (Product(share, way.name, seed) for share in SHARES for way in ways)


# ---------------------------------------------------------------------------------------------------------- choosing


class Choice(NamedTuple):
    """A network, and the share of the parent's time that its prices predict.

    ``change``: what it is of the parent; None for one that prune.py does not make. ``folder``: of its search.
    """

    spec: ArchSpec
    predicted: float
    change: Shrunk | None = None
    folder: Path | None = None

    @property
    def key(self) -> str:
        """Of its layers, whatever it is called."""
        return hashlib.sha256(spec_to_json(replace(self.spec, name="any")).encode()).hexdigest()[:16]


@dataclass
class Chooser:
    """A seed's images, and the parent's layers measured on them: for every runtime and way the same."""

    study: TimeStudy
    seed: int

    @cached_property
    def bench(self) -> pruning.Bench:
        return pruning.Bench(self.study, self.seed)

    @cached_property
    def environment(self) -> Environment:
        job, home = self.bench.job, self.study.home / f"seed-{self.seed}"
        home.mkdir(parents=True, exist_ok=True)
        file = home / runs.METRICS_FILE
        lines = runs.read_metrics(file) if file.is_file() else []
        record = Record.opened(runs.MetricsFile(home, file.stat().st_size if lines else None), lines)
        groups = groups_of(job.spec, PruneConfig().freedom)
        images = job.calibration, job.choosing
        return measured_environment(job.spec, job.tensors, groups, *images, CPU, record, seed=self.seed)[1]

    def choose(self, way: Way, source: LatencySource, share: float) -> Choice:
        """For a share of the parent's predicted time, a way of prune.py's.

        Raises InputError where it has nothing that costs so little, as the other ways do.
        """
        assert way.given is not None
        config, spec = self.bench.config(**way.given), self.bench.job.spec
        environment = replace(self.environment, groups=groups_of(spec, config.freedom))
        table, *counts = (price_groups(spec, environment.groups, each) for each in (price_by(source), MACS, PARAMS))
        whole = network_ms(source, walk(spec))
        found = plans(
            config,
            environment,
            [Limit(table, share * whole, flag="--target_latency_ms")],
            dict(zip(("macs", "params"), counts, strict=True)),
        )
        path = best(found).path
        change = change_of(environment.groups, path)
        return Choice(shrink(spec, change), table.of_path(path) / whole, change)

    @cached_property
    def magnitudes(self) -> list[ArchSpec]:
        return list(pruning.magnitude_steps(self.bench.parent(), self.bench.job.spec))

    def by_magnitude(self, source: LatencySource, share: float) -> Choice:
        model = model_of(source)
        whole = network_ms(model, walk(self.bench.job.spec))
        for spec in self.magnitudes:
            if (predicted := network_ms(model, walk(spec)) / whole) <= share:
                return Choice(spec, predicted)
        raise InputError("magnitudes do not make it so small", "magnitude")

    def searched(self, runtime: str, share: float, parent_ms: float) -> Choice:
        """The search has a table and a landing of its own: what it was asked for is what it predicts."""
        home = self.study.home
        macs = {"target_hardware": "flops", "target_macs": SHARES[0] * total_macs(self.bench.job.spec)}
        warm = self.bench.searched(home / f"warmup-{self.seed}", macs)
        target = {
            "target_hardware": "cpu", "runtime": runtime, "target_latency_ms": share * parent_ms,
            "force_latency_table": True,  # on a busy machine none passes, and what lands was measured
        }  # fmt: skip
        folder = home / f"{runtime}-search-{self.seed}-{share:.4f}"
        self.bench.searched(folder, target, warm)
        return Choice(read_spec(folder / SPEC_FILE), share, folder=folder)

    def network(self, choice: Choice) -> ProxylessNet:
        if choice.change is not None:
            return self.environment.network(choice.change)
        if choice.folder is not None:
            return load(choice.folder)
        return self.bench.by_magnitude(lambda spec: spec == choice.spec)


def model_of(source: LatencySource) -> Predictor:
    """What was fitted to the layers of a table, which prices others as well."""
    model = source if isinstance(source, Predictor) else load_latency_source(Path(source.source).with_name(PREDICTOR))
    assert isinstance(model, Predictor)
    return model


# ------------------------------------------------------------------------------------------------------------ timing


Ratios = Mapping[str, Sequence[float]]
"""By network, its time of each round, relative to another's."""


def sitting(place: Place, networks: Mapping[str, ArchSpec], rounds: int, seed: int) -> dict[str, list[float]]:
    """Relative to the anchor's beside it."""
    names, found = list(networks), {name: list[float]() for name in networks}
    calls = {name: walk(spec) for name, spec in networks.items()}
    for number in range(rounds):
        for index in numpy_rng(seed, Stream.TIMING_ORDER, number, len(names)).permutation(len(names)):
            timed = time_once(place.anchor, calls[names[index]], 10, 5, place.anchor.min_ms)
            found[names[index]].append(float(np.median(timed.times.ms)) / timed.beside)
    return found


def beside_parent(ratios: Ratios) -> dict[str, list[float]]:
    """Relative to the parent's in the same round."""
    parent = ratios[PARENT]
    return {name: [one / other for one, other in zip(own, parent, strict=True)] for name, own in ratios.items()}


def median_interval(values: Sequence[float]) -> tuple[float, float]:
    """The 95 % interval of a median, by order statistics: whatever the distribution (the range of fewer than 6)."""
    ordered, count = sorted(values), len(values)
    least = max(0, math.floor((count - 1.96 * math.sqrt(count)) / 2))
    return ordered[least], ordered[count - 1 - least]


class Parent(NamedTuple):
    """Its time, relative to the anchor's, and as the clock showed it."""

    beside_anchor: float
    ms: float


@dataclass
class Clock:
    """A runtime of this machine, what prices layers for it, and what was timed there."""

    study: TimeStudy
    runtime: str
    choosers: Mapping[int, Chooser]
    tried: dict[Product, list[tuple[Choice, float]]] = field(default_factory=dict)
    """By product: choices, and the shares that were measured of them."""

    @cached_property
    def spec(self) -> ArchSpec:
        return self.choosers[0].bench.job.spec

    @cached_property
    def priced(self) -> tuple[LatencySource, Place]:
        config = self.choosers[0].bench.config(target_hardware="cpu", runtime=self.runtime, keep=SHARES[0])
        source, place = latency_source(config, self.spec)
        assert source is not None and place is not None
        anchor = smallest(self.spec, groups_of(self.spec, PruneConfig().freedom))
        return source, place.beside(anchor, 1.0)  # its own time is of no use where all are ratios to it

    @cached_property
    def parent(self) -> Parent:
        """As it is now; from its file if there."""
        file = self.study.home / f"{self.runtime}-parent.json"
        if not file.is_file():
            place = self.priced[1]
            ratios = sitting(place, {PARENT: self.spec}, 3 * self.study.rounds, 0)[PARENT]
            beside = float(np.median(ratios))
            write_json(file, Parent(beside, beside * place.anchor.now())._asdict())
        return Parent(**read_json(file))

    def specs(self, choices: Mapping[Product, Choice]) -> dict[str, ArchSpec]:
        """The parent, smaller images, and what was chosen."""
        smaller = {way.name: pruning.smaller_images(self.spec, way) for way in SIZES.values()}
        chosen = {product.name: choice.spec for product, choice in choices.items()}
        return {PARENT: self.spec, **smaller, **chosen}

    def timed(self, number: int | str, choices: Mapping[Product, Choice]) -> Ratios:
        """A sitting (relative to the anchor), from its file where that is of the same networks."""
        file = self.study.home / f"{self.runtime}-sitting-{number}.json"
        keys = {product.name: choice.key for product, choice in choices.items()}
        if file.is_file() and (known := read_json(file))["networks"] == keys:
            return known["ratios"]
        seed = MOST_SITTINGS if isinstance(number, str) else number
        ratios = sitting(self.priced[1], self.specs(choices), self.study.rounds, seed)
        write_json(file, {"networks": keys, "ratios": ratios, "load_average": os.getloadavg()})
        return ratios

    def next_choice(self, product: Product) -> Choice | None:
        """None where what was tried is near enough, or the way has nothing else that costs about so much."""
        share, tried = product.share, self.tried.get(product, [])
        if not tried:
            return self._choice(product, share)
        known = {choice.key: measured for choice, measured in tried}
        if abs(list(known.values())[-1] / share - 1) <= NEAR:
            return None
        asked = cost_of_time([(choice.predicted, measured) for choice, measured in tried], share)
        for _ in range(3):  # one that comes again: a little further from it
            choice = self._choice(product, asked)
            if choice is None or choice.key not in known:
                return choice
            asked *= 1 - NEAR if known[choice.key] > share else 1 + NEAR
        return None

    def _choice(self, product: Product, asked: float) -> Choice | None:
        """None where the way has nothing that costs so little."""
        way = next(way for way in WAYS if way.name == product.way)
        chooser, source = self.choosers[product.seed], self.priced[0]
        try:
            if way == SEARCHED:
                return chooser.searched(self.runtime, asked, self.parent.ms)
            return chooser.by_magnitude(source, asked) if way == MAGNITUDE else chooser.choose(way, source, asked)
        except InputError as error:
            print(f"{self.runtime} {product.name}: {error.problem}", flush=True)
            return None

    @cached_property
    def landed(self) -> tuple[dict[Product, Choice], Ratios]:
        """What was measured nearest to its share, and the last sitting (relative to the parent)."""
        for number in range(MOST_SITTINGS):
            choices = {product: self.next_choice(product) for product in products(self.study)}
            fresh = {product: choice for product, choice in choices.items() if choice is not None}
            if not fresh:
                break
            ratios = self.timed(number, fresh)
            for product, choice in fresh.items():
                share = float(np.median(ratios[product.name])) / self.parent.beside_anchor
                self.tried.setdefault(product, []).append((choice, share))
                print(f"{self.runtime} {product.name}: {self.tried[product][-1][1]:.3f} of the parent", flush=True)
        nearest = {
            product: min(tried, key=lambda each, share=product.share: abs(each[1] / share - 1))[0]  # type: ignore[misc]
            for product, tried in self.tried.items()
        }
        return nearest, beside_parent(self.timed("last", nearest))


# ---------------------------------------------------------------------------------------------------------- products


def file_of(clock: Clock, product: Product) -> Path:
    return clock.study.home / f"{clock.runtime}-{product.name}.json"


def scored(clock: Clock, product: Product, choice: Choice) -> None:
    """The network of a product, and its record before it is trained on."""
    chooser, file = clock.choosers[product.seed], file_of(clock, product)
    folder = file.with_suffix("")
    if file.is_file() and read_json(file)["network"] == choice.key:
        return
    net = chooser.network(choice)
    pruning.save(net, folder, clock.study)
    found = {
        "network": choice.key,
        "way": product.way,
        "share": product.share,
        "seed": product.seed,
        "macs_share": total_macs(net.spec) / total_macs(clock.spec),
        "hits_before": chooser.bench.hits(folder).text,
    }
    write_json(file, found)
    print(f"{folder.name}: {Hits(found['hits_before']).percent:.1f} % before training", flush=True)


def trained(clock: Clock, product: Product, choice: Choice) -> None:
    """And behind it."""
    bench, file = clock.choosers[product.seed].bench, file_of(clock, product)
    folder, known = file.with_suffix(""), read_json(file)
    if "hits_after" in known:
        return
    place = folder.with_name(f"{folder.name}-finetune")
    if choice.folder is not None:
        after = bench.hits(bench.trained_searched(choice.folder, place))
    else:
        after = bench.hits(bench.trained_on(folder, place))
    write_json(file, known | {"hits_after": after.text})
    print(f"{folder.name}: {after.percent:.1f} % behind training", flush=True)


def macs_networks(study: TimeStudy) -> list[tuple[pruning.Task, ArchSpec]]:
    """What prune_proof.py pruned to shares of the MACs, as far as it is there."""
    tasks = [pruning.Task(Way(name), share, 0) for share in SHARES for name in BY_MACS]
    files = [(task, study.work / task.name / SPEC_FILE) for task in tasks]
    return [(task, read_spec(file)) for task, file in files if file.is_file()]


def times_by_macs(clock: Clock) -> dict[str, Any]:
    """By share of the MACs and way, times of a sitting of all of them and of smaller images; from its file if there."""
    networks = macs_networks(clock.study)
    file = clock.study.home / f"{clock.runtime}-macs.json"
    if not file.is_file():
        specs = clock.specs({}) | {task.name: spec for task, spec in networks}
        timed = sitting(clock.priced[1], specs, clock.study.rounds, 0)
        write_json(file, {"ratios": timed, "load_average": os.getloadavg()})
    ratios = beside_parent(read_json(file)["ratios"])
    found: dict[str, Any] = {}
    for task, _ in networks:
        found.setdefault(f"{task.share:g}", {})[task.way.name] = ratio_of(ratios[task.name])
    return found | {"any": {way.name: ratio_of(ratios[way.name]) for way in SIZES.values()}}


def on_smaller_images(study: TimeStudy, way: Way) -> dict[str, Any]:
    """prune_proof.py's record of them."""
    task = pruning.Task(way, None, 0)
    file = pruning.file_of(study, task)
    if not file.exists():
        write_json(file, pruning.done(study, task))
    return read_json(file)


def ratio_of(ratios: Sequence[float]) -> dict[str, Any]:
    return {"median": float(np.median(ratios)), "interval_95": list(median_interval(ratios)), "rounds": len(ratios)}


def entry(
    records: Sequence[Mapping[str, Any]],
    times: Sequence[Sequence[float]],
    exact: Sequence[Mapping[str, Any]] | None,
) -> dict[str, Any]:
    """Of a way: accuracies, times by the last sitting, and what exact is ahead by."""
    found: dict[str, Any] = {
        "networks": len(records),
        "macs_share": float(np.mean([each["macs_share"] for each in records])),
        "time_shares": [ratio_of(each) for each in times],
    }
    for stage in ("hits_before", "hits_after"):
        if all(stage in each for each in records):
            hits, name = [each[stage] for each in records], stage.removeprefix("hits_")
            found[name] = shown(hits)
            if exact is not None and exact is not records and all(stage in each for each in exact):
                found[f"exact_ahead_{name}"] = gap([each[stage] for each in exact], hits)
    return found


def of_runtime(clock: Clock) -> dict[str, Any]:
    """What is there of a runtime: by share of its time, and of the MACs, and way."""
    source, place = clock.priced
    facts = getattr(source, "provenance", {})
    return {
        "runtime_version": place.anchor.runtime.facts()["runtime_version"],
        "predictor": {name: facts.get(name) for name in ("date", "tool", "rounds")},
        "by_macs": times_by_macs(clock),
        "summary": {} if clock.study.macs_alone else by_time(clock),
    }


def by_time(clock: Clock) -> dict[str, Any]:
    choices, last = clock.landed
    records = {product: read_json(file_of(clock, product)) for product in choices}
    found: dict[str, Any] = {}
    for share in SHARES:
        ways: dict[str, list[Product]] = {way_of(way.name): [] for way in WAYS}
        for product in records:
            if product.share == share:
                ways[way_of(product.way)].append(product)
        own = {way: [records[product] for product in list_] for way, list_ in ways.items()}
        found[f"{share:g}"] = {
            way: entry(own[way], [last[product.name] for product in list_], own[EXACT])
            for way, list_ in ways.items()
            if list_
        }
    found["any"] = {
        way.name: entry([on_smaller_images(clock.study, way)], [last[way.name]], None) for way in SIZES.values()
    }
    return found


def words(value: Mapping[str, Any] | None) -> str:
    if value is None:
        return ""
    low, high = value["interval_95"]
    return f"{value['mean']:.1f} ({low:.1f} to {high:.1f})"


def percent(value: Mapping[str, Any]) -> str:
    low, high = value["interval_95"]
    return f"{100 * value['median']:.1f} ({100 * low:.1f} to {100 * high:.1f})"


def times(shares: Sequence[Mapping[str, Any]]) -> str:
    """Of a network with its interval; of several the least and the greatest."""
    if len(shares) == 1:
        return percent(shares[0])
    medians = [100 * each["median"] for each in shares]
    return f"{min(medians):.1f} to {max(medians):.1f}, {len(medians)} networks"


def table_by_macs(record: Mapping[str, Any]) -> list[str]:
    """The rows of docs/results.md: what each runtime takes for prune_proof.py's networks."""
    every = record["runtimes"]
    lines = [f"| asked, share of the MACs | way | {' | '.join(every)} |", "| --- " * (2 + len(every)) + "|"]
    shares = next(iter(every.values()))["by_macs"]
    for share, ways in shares.items():
        for way in ways:
            cells = [share, way, *(percent(found["by_macs"][share][way]) for found in every.values())]
            lines.append(f"| {' | '.join(cells)} |")
    return lines


def table_by_time(record: Mapping[str, Any]) -> list[str]:
    """And those of the networks that were pruned to shares of its time."""
    lines = [
        "| runtime | asked, % of the time | way | measured, % | MACs, % | top-1 pruned | top-1 fine-tuned "
        "| exact ahead, pruned | exact ahead, fine-tuned |"
    ]
    lines.append("| --- " * 9 + "|")
    for runtime, found in record["runtimes"].items():
        for share, ways in found["summary"].items():
            asked = share if share == "any" else f"{100 * float(share):.0f}"
            for way, each in ways.items():
                cells = (
                    runtime, asked, way, times(each["time_shares"]),
                    f"{100 * each['macs_share']:.0f}", words(each["before"]), words(each.get("after")),
                    words(each.get("exact_ahead_before")), words(each.get("exact_ahead_after")),
                )  # fmt: skip
                lines.append(f"| {' | '.join(cells)} |")
    return lines


def run(argv: Sequence[str]) -> int:
    study = parse(TimeStudy, argv, "prune_time.py", __doc__)
    torch.set_num_threads(1)
    study.work.mkdir(parents=True, exist_ok=True)
    pruning.make_photos(study)
    pruning.make_parent(study)
    choosers = {seed: Chooser(study, seed) for seed in range(study.seeds)}
    clocks = [Clock(study, name, choosers) for name in study.runtimes.split(",")]
    if study.macs_alone:
        write(study, clocks)
        return 0
    for clock in clocks:
        for product, choice in clock.landed[0].items():
            scored(clock, product, choice)
        write(study, clocks[: clocks.index(clock) + 1])
    for clock in clocks:
        for product, choice in clock.landed[0].items():
            trained(clock, product, choice)
        write(study, clocks)
    return 0


def write(study: TimeStudy, clocks: Sequence[Clock]) -> None:
    """The record of what is there, and its table."""
    parent = pruning.score_parent(study)
    record = {
        "format": FORMAT,
        "version": VERSION,
        "study": {
            name: getattr(study, name)
            for name in ("n_photos", "n_judges", "resolution", "finetune_epochs", "evaluations", "images", "rounds",
                         "seeds")
        },
        "machine": {"cpu": cpu_name(), "torch": str(torch.__version__), "date": time.strftime("%Y-%m-%d")},
        "parent": {"macs": parent["macs"], **shown([parent["hits"]])},
        "runtimes": {clock.runtime: of_runtime(clock) for clock in clocks},
    }  # fmt: skip
    write_json(study.output, record)
    print("\n".join([*table_by_macs(record), "", *table_by_time(record)]), flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    return exit_code(run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
