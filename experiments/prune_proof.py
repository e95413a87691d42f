"""What is choosing worth where a trained network is pruned? Every way of prune.py, and simpler ones, trained on alike.

    python experiments/prune_proof.py --cifar cifar10.zip --work DIR
    python experiments/prune_proof.py --work DIR --summary

EfficientNet-Lite0 is fine-tuned on photos of CIFAR-10 at 64 px: the parent. Then it is made smaller, to shares of its
MACs: unlike milliseconds they are the same on every machine, however busy. The ways:

* exact, amc, uniform, and ``best random`` (as many random plans as exact scores, the one of least loss): prune.py's;
* exact 400, amc 400, best random 400: with the number of plans that AMC's paper scores, on half of the images;
* random 0, 1, ...: plans drawn as the control draws them, none chosen;
* depth: blocks left out alone, chosen as exact chooses; image size: the parent on smaller images;
* magnitude: torch-pruning's global ranking of channels by the norm of their weights, residual streams included. It
  runs where torch-pruning 1.6.1 can be imported (``pip install --no-deps --target X torch-pruning``, PYTHONPATH=X);
* searched: no trained network at all. A search on the same photos in the imagenet space, its network trained on from
  the search's weights, as train.py does it, for as many epochs as the parent and its fine-tuning have together.

And without fine-tuning: EfficientNet-Lite0 with its published weights on photos of ImageNet (``--imagenet``), which
calibrate, choose and judge in three disjoint parts.

Each product is scored with BN statistics of the calibration images, then trained for the same epochs on the same images
with the parent as its teacher, and scored again with the weights of its best epoch on held-out images. Test images are
looked at for these two scores alone. Each task writes one file into ``--work``; one whose file is there is not done
again. ``--summary`` reads them and writes experiments/prune_proof.json and docs/prune_proof.svg.
"""

from __future__ import annotations

import itertools
import math
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":  # started as a script: the packages lie beside this folder
    sys.path[0] = str(ROOT)

import torch  # noqa: E402

from compress import PruneConfig  # noqa: E402
from compress.methods import best  # noqa: E402
from compress.pruning.choices import price_groups  # noqa: E402
from compress.pruning.choosing import plans  # noqa: E402
from compress.pruning.environment import Environment, measured_environment  # noqa: E402
from compress.record import Record  # noqa: E402
from experiments.launched import run_launched  # noqa: E402
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
    Person,
    Task,
    Way,
    done,
    file_of,
    gap,
    has_torch_pruning,
    make_parent,
    make_photos,
    score_parent,
    shown,
    way_of,
)
from hardware.cost import MACS, PARAMS  # noqa: E402
from hardware.projection import Limit  # noqa: E402
from proxyless_arch.arch.shrink import Shrunk  # noqa: E402
from proxyless_arch.arch.walk import total_macs  # noqa: E402
from proxyless_arch.base import runs  # noqa: E402
from proxyless_arch.base.cli import exit_code  # noqa: E402
from proxyless_arch.base.files import read_json, write_json  # noqa: E402
from proxyless_arch.base.machine import cpu_name  # noqa: E402
from proxyless_arch.base.settings import parse, setting  # noqa: E402
from proxyless_arch.data.datasets import ImageDataset, open_folder  # noqa: E402
from proxyless_arch.data.streams import Stream, numpy_rng  # noqa: E402
from proxyless_arch.drawing.axes import PERCENT, Axis  # noqa: E402
from proxyless_arch.drawing.charts import Chart, Guide, Point, compose, plane  # noqa: E402
from proxyless_arch.drawing.scene import write_picture  # noqa: E402
from proxyless_arch.launch.launcher import LaunchFlags  # noqa: E402
from proxyless_arch.space.shrinking import change_of, groups_of  # noqa: E402
from proxyless_arch.weights.lookup import find_trained  # noqa: E402
from proxyless_nas.data import eval_batches  # noqa: E402
from proxyless_nas.network import ProxylessNet  # noqa: E402
from proxyless_nas.steps import evaluate  # noqa: E402

FORMAT, VERSION = "proxyless-compress/proof", 1


@dataclass(frozen=True, kw_only=True)
class Study(Person, LaunchFlags):
    """What is compared, and on what."""

    imagenet: Path | None = setting(None, "photos of ImageNet, one of each class", metavar="FILE")
    imagenet_resolution: int = setting(128, "px of them", minimum=32)
    summary: bool = setting(False, "only read what is there")
    output: Path = setting(ROOT / "experiments" / "prune_proof.json", "record", shown="experiments/prune_proof.json")
    picture: Path = setting(ROOT / "docs" / "prune_proof.svg", "picture", shown="docs/prune_proof.svg")


PAPER_PLANS = 400
FEW = {"calibration_images": 128, "choosing_images": 128}
"""What so many plans are scored with."""
PATIENT = tuple(
    Way(f"{name} {PAPER_PLANS}", {"method": method, "evaluations": PAPER_PLANS, **FEW})
    for name, method in (("amc", "amc"), (EXACT, "exact"), ("best random", "random"))
)


def tasks() -> Iterator[Task]:
    """All of it, in the order in which it is worth doing."""
    high, low = SHARES
    yield from (Task(way, high, 0) for way in (*PRUNINGS[:4], *PRUNINGS[4:7], DEPTH, MAGNITUDE))
    yield from (Task(way, None, 0) for way in SIZES.values())
    yield from (Task(way, high, 0) for way in PRUNINGS[7:])
    yield from (Task(way, low, 0) for way in (*PRUNINGS[:4], MAGNITUDE, *PRUNINGS[4:7]))
    second = [way for way in PRUNINGS if way.name in TWICE]
    yield from (Task(way, share, 1) for share, way in itertools.product(SHARES, second))
    yield from (Task(way, low, 0) for way in PRUNINGS[7:])
    yield from (Task(way, share, 0) for share, way in itertools.product(SHARES, PATIENT))
    yield from (Task(SEARCHED, share, 0) for share in SHARES)


# ----------------------------------------------------------------------------------------------- without fine-tuning

SAMPLE = {"exact": {}, "uniform": {}, "amc": {}, "random": {}}
"""Settings of prune.py, by method."""
SAMPLE_SHARES = (0.75, 0.5)
CALIBRATING, CHOOSING = 256, 192
"""Photos of ImageNet; all others judge."""


@dataclass(frozen=True)
class Sample:
    """A trained network and photos of its classes, in three parts: they calibrate, choose, and judge."""

    study: Study

    @cached_property
    def parts(self) -> tuple[ImageDataset, ImageDataset, ImageDataset]:
        assert self.study.imagenet is not None
        photos = open_folder(self.study.imagenet, "val")
        order = numpy_rng(0, Stream.RECALIBRATION).permutation(len(photos))
        ends = (0, CALIBRATING, CALIBRATING + CHOOSING, len(photos))
        calibrating, choosing, judging = (photos.subset(order[a:b]) for a, b in itertools.pairwise(ends))
        return calibrating, choosing, judging

    @cached_property
    def environment(self) -> Environment:
        trained, size = find_trained("efficientnet_lite0"), self.study.imagenet_resolution
        pixels = replace(trained.spec.preprocessing, resolution=size, resize=round(size * 256 / 224))
        spec = replace(trained.spec, preprocessing=pixels)
        calibrating, choosing = (list(eval_batches(part, pixels, batch_size=64)) for part in self.parts[:2])
        home = self.study.work / "imagenet"
        home.mkdir(exist_ok=True)
        file = home / runs.METRICS_FILE
        lines = runs.read_metrics(file) if file.is_file() else []
        record = Record.opened(runs.MetricsFile(home, file.stat().st_size if lines else None), lines)
        groups = groups_of(spec, PruneConfig().freedom)
        return measured_environment(spec, trained.weights.tensors, groups, calibrating, choosing, CPU, record)[1]

    def hits(self, net: ProxylessNet) -> Hits:
        return evaluate(net, eval_batches(self.parts[2], net.spec.preprocessing, batch_size=64), CPU, Hits())

    def done(self, method: str, share: float) -> dict[str, Any]:
        """The record of a method at a share of the MACs."""
        config = PruneConfig.of(method=method, evaluations=self.study.evaluations)
        spec = self.environment.pruner.spec
        environment = replace(self.environment, groups=groups_of(spec, config.freedom))
        macs, params = (price_groups(spec, environment.groups, price) for price in (MACS, PARAMS))
        limit = Limit(macs, share * total_macs(spec), flag="--keep")
        scored = plans(config, environment, [limit], {"macs": macs, "params": params})
        chosen = {"best": best(scored)} if method != "random" else {"best": best(scored), "first": scored[0]}
        found = {}
        for name, plan in chosen.items():
            net = environment.network(change_of(environment.groups, plan.path))
            found[name] = {"macs": total_macs(net.spec), "hits": self.hits(net).text}
        return {"method": method, "share": share, "evaluations": len(scored), **found}


def run_sample(study: Study) -> None:
    if study.imagenet is None:
        return
    sample = Sample(study)
    whole = study.work / "imagenet-parent.json"
    if not whole.exists():
        net = sample.environment.network(Shrunk())
        write_json(whole, {"hits": sample.hits(net).text, "macs": total_macs(net.spec)})
    for share, method in itertools.product(SAMPLE_SHARES, SAMPLE):
        file = study.work / f"imagenet-{share:g}-{method}.json"
        if not file.exists():
            start = time.perf_counter()
            write_json(file, sample.done(method, share))
            print(f"{file.stem}: {time.perf_counter() - start:.0f} s", flush=True)


# --------------------------------------------------------------------------------------------------------- the study


def run_tasks(study: Study, argv: Sequence[str] = ()) -> None:
    score_parent(study)
    wanted = [task for task in tasks() if not file_of(study, task).exists()]
    able = [task for task in wanted if task.way != MAGNITUDE or has_torch_pruning()]
    for task in wanted:
        if task not in able:
            print(f"{task.name}: not run, there is no torch-pruning", flush=True)
    if not study.chosen.is_here:
        names = [task.name for task in able]
        run_launched(study.chosen, study.work, "experiments.prune_proof:do_one", argv, lambda: names)
        return
    for task in able:
        do_task(study, task)


def do_task(study: Study, task: Task) -> None:
    start = time.perf_counter()
    found = done(study, task)
    write_json(file_of(study, task), found)
    before, after = Hits(found["hits_before"]).percent, Hits(found["hits_after"]).percent
    seconds = time.perf_counter() - start
    print(f"{task.name}: {seconds:.0f} s, {before:.1f} % before, {after:.1f} % after", flush=True)


def do_one(argv: Sequence[str], name: str) -> None:
    """The task of this name, in a process of its own; ``argv``: the words that the study was started with."""
    study = parse(Study, argv, "prune_proof.py", __doc__)
    torch.set_num_threads(1)
    do_task(study, next(task for task in tasks() if task.name == name))


# ------------------------------------------------------------------------------------------------------- the summary


def summary(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """By share of MACs asked for, or "any", and way: accuracies, and what exact is ahead by where it is there too."""
    found: dict[str, Any] = {}
    for record in records:
        share = f"{record['share']:g}" if record["share"] is not None else "any"
        ways = found.setdefault(share, {})
        ways.setdefault(way_of(record["way"]), []).append(record)
    return {
        share: {way: _entry(own, ways.get(rival_of(way))) for way, own in ways.items()} for share, ways in found.items()
    }


def rival_of(way: str) -> str:
    """The exact way with as many plans."""
    many = str(PAPER_PLANS)
    return f"{EXACT} {many}" if way.endswith(many) else EXACT


def _entry(own: Sequence[Mapping[str, Any]], exact: Sequence[Mapping[str, Any]] | None) -> dict[str, Any]:
    entry: dict[str, Any] = {"networks": len(own), "macs_share": float(np.mean([each["macs_share"] for each in own]))}
    for stage in ("before", "after"):
        hits = [each[f"hits_{stage}"] for each in own]
        entry[stage] = shown(hits)
        if exact is not None and own is not exact:
            entry[f"exact_ahead_{stage}"] = gap([each[f"hits_{stage}"] for each in exact], hits)
    return entry


def sample_summary(work: Path) -> dict[str, Any]:
    """Of the photos of ImageNet, by share and way."""
    found: dict[str, Any] = {}
    for share in SAMPLE_SHARES:
        files = {method: work / f"imagenet-{share:g}-{method}.json" for method in SAMPLE}
        known = {method: read_json(file) for method, file in files.items() if file.exists()}
        hits = {method: record["best"]["hits"] for method, record in known.items()}
        if "random" in known:
            hits["a random one"] = known["random"]["first"]["hits"]
        if hits:
            found[f"{share:g}"] = {
                method: shown([text]) | ({"exact_ahead": gap([hits[EXACT]], [text])} if EXACT in hits else {})
                for method, text in hits.items()
            }
    return found


def summarize(study: Study) -> dict[str, Any]:
    parent = score_parent(study)
    wanted = list(tasks())
    done_tasks = [task for task in wanted if file_of(study, task).exists()]
    records = [read_json(file_of(study, task)) for task in done_tasks]
    whole = study.work / "imagenet-parent.json"
    sample = {"before": shown([read_json(whole)["hits"]])} | sample_summary(study.work) if whole.exists() else None
    facts = {name: value for name, value in asdict(study).items() if isinstance(value, int | float)}
    facts.pop("jobs", None)
    return {
        "format": FORMAT,
        "version": VERSION,
        "study": facts,
        "machine": {"cpu": cpu_name(), "torch": str(torch.__version__), "date": time.strftime("%Y-%m-%d")},
        "parent": {"macs": parent["macs"], **shown([parent["hits"]])},
        "not_run": [task.name for task in wanted if task not in done_tasks],
        "summary": summary(records),
        "imagenet": sample,
    }


def table(record: Mapping[str, Any]) -> list[str]:
    """The rows of docs/results.md."""

    def words(value: Mapping[str, Any] | None) -> str:
        if value is None:
            return ""
        low, high = value["interval_95"]
        return f"{value['mean']:.1f} ({low:.1f} to {high:.1f})"

    lines = ["| asked | way | networks | MACs, % | top-1 pruned | top-1 fine-tuned | exact ahead by |"]
    lines.append("| --- " * 7 + "|")
    for share, ways in record["summary"].items():
        for way, entry in ways.items():
            cells = (
                share, way, str(entry["networks"]), f"{100 * entry['macs_share']:.0f}", words(entry["before"]),
                words(entry["after"]), words(entry.get("exact_ahead_after")),
            )  # fmt: skip
            lines.append(f"| {' | '.join(cells)} |")
    return lines


def chart(share: str, ways: Mapping[str, Any], parent: float) -> Chart:
    """Top-1 by way: pruned, and fine-tuned with its interval."""
    points = []
    for place, entry in enumerate(ways.values()):
        for stage, group, color, mark in (
            ("before", "pruned", "s2", "square"),
            ("after", "fine-tuned", "s1", "circle"),
        ):
            found = entry[stage]
            low, high = found["interval_95"]
            points.append(Point(x=place, y=found["mean"], group=group, y_range=(low, high), color=color, mark=mark))
    names = [f"{way.replace(' ', chr(10))}\n{100 * entry['macs_share']:.0f} %" for way, entry in ways.items()]
    guide = Guide(points=[(-math.inf, parent), (math.inf, parent)], label="before pruning", style="axis")
    title = f"{100 * float(share):g} % of the MACs"
    return plane(title, points, x=Axis(label="", names=names), y=Axis(label="top-1, %", bounds=PERCENT), guides=[guide])


def draw(record: Mapping[str, Any], out: Path) -> None:
    other = record["summary"].get("any", {})
    charts = [
        chart(share, ways | other, record["parent"]["mean"])
        for share, ways in record["summary"].items()
        if share != "any"
    ]
    write_picture(compose("Ways to a smaller network", charts, 1), out)


def run(argv: Sequence[str]) -> int:
    study = parse(Study, argv, "prune_proof.py", __doc__)
    torch.set_num_threads(1)
    if study.summary:
        record = summarize(study)
        write_json(study.output, record)
        draw(record, study.picture)
        print("\n".join(table(record)))
        return 0
    study.work.mkdir(parents=True, exist_ok=True)
    make_photos(study)
    make_parent(study)
    run_tasks(study, argv)
    run_sample(study)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    return exit_code(run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
