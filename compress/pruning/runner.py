"""A pruning from its settings to its product: measure once, choose for each target, fine-tune, and write.

``run_pruning`` is what prune.py does, for a program or a notebook:

    from compress import PruneConfig, run_pruning
    run_pruning(PruneConfig.of(arch="runs/photos", target_hardware="flops", keep=0.5), "runs/small")

A run folder is the product, or with several targets one folder of each is, called as its target. Everything scored is
in metrics.jsonl, and everything chosen follows from it and the seed: a run that is resumed takes the same way again,
and asks for nothing twice.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from compress.folder import top1_percent, write_config
from compress.methods import HALVINGS, Found, best, cheapest
from compress.opening import Kind, Opening, run
from compress.pruning import page, pictures
from compress.pruning.choosing import plans
from compress.pruning.config import SETTINGS, PruneConfig
from compress.pruning.environment import measured_environment, measured_places
from compress.pruning.result import PruneResult, commands, read_result
from compress.pruning.session import Goal, Job, Whole, prepare
from compress.record import read_record
from compress.run import Run
from compress.run import header as described
from hardware.cost import Path as Choices
from hardware.latency import network_ms
from hardware.profile.device import subject_of
from hardware.profile.landing import land, lands, settled
from hardware.profile.profiling import Measured, unique_ops
from hardware.projection import Limit, Projection
from proxyless_arch.apps import train_settings
from proxyless_arch.apps.train_settings import TrainConfig
from proxyless_arch.arch import codec
from proxyless_arch.arch.shrink import Shrunk, widths_of
from proxyless_arch.arch.spec import ArchSpec
from proxyless_arch.arch.walk import total_macs, total_params, walk
from proxyless_arch.base import runs
from proxyless_arch.base.errors import InputError
from proxyless_arch.base.files import write_json
from proxyless_arch.base.progress import speak
from proxyless_arch.base.sides import in_words
from proxyless_arch.base.strict import counted
from proxyless_arch.base.text import labeled, readable
from proxyless_arch.base.timing import wall_ms
from proxyless_arch.base.units import Unit, format_count
from proxyless_arch.chain.page import write_chain
from proxyless_arch.drawing.scene import write_picture
from proxyless_arch.launch.launcher import Job as LaunchedJob
from proxyless_arch.launch.launcher import Launcher, all_done
from proxyless_arch.space.shrinking import change_of, whole_path
from proxyless_arch.weights.files import NamedTensors, read_tensors, save_safetensors
from proxyless_arch.weights.lookup import SPEC_FILE, WEIGHT_FILES
from proxyless_nas import distributed
from proxyless_nas.network import ProxylessNet, build
from proxyless_nas.opening import Say
from proxyless_nas.train import TrainingStopped, run_training
from proxyless_nas.weights import load_named, to_named

COMMAND = "prune.py"
PRUNED, FINETUNED = "pruned", "finetune"
"""Folders of a product: the network before fine-tuning, and the fine-tuning."""
ORDERING_SECONDS = 5e-10
"""Times the cube of a width: what it takes to order its channels (reconstruct.importance), on one core."""
FAR = 0.25  # of a time from its prediction, which a busy machine explains
RIVALS = 4
"""Plans that are measured for a target, the best first, until one takes the time that was asked for."""
FINETUNING = "compress.pruning.runner:finetune"
HERE = Launcher()
CHANCE = 2.0
"""Standard deviations of what guessing gets right, within which a network is called no better."""


class PruningStopped(runs.RunStopped):
    """A pruning ended by Ctrl-C or SIGTERM."""


def run_pruning(
    config: PruneConfig | None = None,
    path: str | os.PathLike[str] | None = None,
    *,
    resume: bool = False,
    say: Say | None = speak,
    command: Sequence[str] | None = None,
    dry_run: bool = False,
    launcher: Launcher = HERE,
) -> PruneResult | None:
    """Make a trained network smaller.

    Args:
        config: the settings. A resumed pruning keeps its own; these may only repeat them.
        path: the run folder (default: a dated one under runs/).
        resume: go on with the pruning in ``path``.
        say: gets each line that is for a person; None for silence.
        command: the words of the command line, for environment.json.
        dry_run: say what would be done, with memory and time, and stop; nothing is written.
        launcher: where the networks of several targets are fine-tuned. One that fails leaves the others alone.

    Returns:
        The product (of several targets the first, whose ``family`` has them all); None of a dry run.

    Raises:
        InputError: settings, images, weights or prices that do not fit; nothing is written then.
        PruningStopped: a Ctrl-C; the run can be resumed.
        StoppedError: fine-tunings that another process did have failed; the message names them.
    """
    how = {"resume": resume, "say": say, "command": command, "dry_run": dry_run}

    def finish(job: Job, home: Path, tell: Say) -> PruneResult:
        return _Run(job, home, tell, launcher).finish()

    return run(Kind(COMMAND, SETTINGS, PruningStopped, _prepared, header, expected, finish), config, path, **how)


def _prepared(config: PruneConfig, opening: Opening) -> Job:
    known = whole_of(opening.resumed) if opening.resumed is not None else None
    free = distributed.least_free(opening.device)
    return prepare(config, opening.device, free, measure=not opening.dry_run, known=known)


def whole_of(folder: Path) -> Whole | None:
    """What the whole network took when the run began; None where that is not in its record."""
    lines, _ = read_record(folder / runs.METRICS_FILE)
    found = next((line for line in lines if line.get("key") == "parent" and line.get("ms")), None)
    return Whole(found["ms"], found.get("anchor_ms")) if found is not None else None


# --------------------------------------------------------------------------------------------------- what is said


def header(job: Job) -> str:
    """What is about to happen, for a person."""
    config, table = job.config, job.table
    widths = sum(axis.kind == "width" for group in job.groups for axis in group.axes)
    kernels = sum(axis.kind == "kernel" for group in job.groups for axis in group.axes)
    blocks = sum(group.block is not None for group in job.groups)
    lines = [
        (
            "choices",
            f"{counted(widths, 'width')} (multiples of {config.width_multiple} from {100 * config.smallest_width:g} % "
            f"on), {counted(kernels, 'smaller kernel')}, {counted(blocks, 'block')} to leave out",
        ),
        *_cost_lines(job),
        *([("measured", _measured_text(job))] if job.whole_ms is not None else []),
        ("method", f"{config.method}, {counted(config.n_plans, 'plan')} scored for each target"),
        ("training", _finetuning_text(config)),
    ]
    if job.measured_on is not None and abs(job.scale - 1) > FAR:
        slower = f"{100 * abs(job.scale - 1):.0f} % {'more' if job.scale > 1 else 'less'}"
        lines.append(("note", f"it takes {slower} than predicted: where other work is why, so is what --keep asks for"))
    if table.extrapolated:
        count = len(table.extrapolated)
        lines.append(("note", f"{counted(count, 'layer price')} outside the latency model's fitted range: estimates"))
    size = f", {job.spec.num_classes} classes, {in_words(job.spec.resolution)} px"
    return described(job, lines, images="training images", more=size)


def _cost_lines(job: Job) -> Iterator[tuple[str, str]]:
    if job.unmeasured is not None:
        subject = subject_of(job.unmeasured)
        layers = counted(len(unique_ops(subject.space, subject.more)), "layer")
        yield "target", "cpu, whose latency table would be measured first"
        yield "", f"{layers} and whole networks, once: {job.unmeasured.command()} (--dry_run says how long)"
        return
    table = job.table
    yield "target", _target_text(job)
    yield "reachable", f"{table.reachable}; the network costs {table.shown(job.whole_cost)} ({table.source})"


def _target_text(job: Job) -> str:
    hardware = job.config.target_hardware
    if job.config.max_drop is not None:
        what = f"the cheapest network within {job.config.max_drop:g} points of top-1, before fine-tuning"
    else:
        what = ", ".join(job.table.shown(goal.value) for goal in job.goals)
    most = f"; at most {job.config.max_params:,.0f} parameters" if job.config.max_params is not None else ""
    return f"{hardware}: {what}{most}"


def _ms(ms: float) -> str:
    """In thousandths, or finer where that is less than three digits."""
    return f"{ms:.{max(3, Unit.MS.decimals(ms))}f} ms"


def _measured_text(job: Job) -> str:
    assert job.whole_ms is not None and job.predicted_ms is not None
    return f"the network takes {_ms(job.whole_ms)} here, predicted were {_ms(job.predicted_ms)}"


def _finetuning_text(config: PruneConfig) -> str:
    if not config.finetune_epochs:
        return "none"
    share = (
        f", {100 * config.distillation:g} % of the loss from the network before pruning" if config.distillation else ""
    )
    return f"{counted(config.finetune_epochs, 'epoch')}, lr {config.init_lr:g}{share}"


def expected(job: Job) -> str:
    """How long measuring and choosing take, by the time of a batch; fine-tuning says its own."""
    images = job.calibration[0][0].to(job.device)
    net = build(job.spec)
    load_named(net, job.spec, job.tensors)
    net.to(job.device).eval()
    with torch.no_grad():
        net(images[:2])
        each = wall_ms(lambda: net(images)) / 1000 / len(images)
    singles = sum(
        sum(len(measured_places(axis)) for axis in group.axes) + (group.block is not None) for group in job.groups
    )
    n_choosing, n_calibrating = (sum(len(labels) for _, labels in part) for part in (job.choosing, job.calibration))
    targets = HALVINGS if job.config.max_drop is not None else max(1, len(job.goals))
    plans = targets * job.config.n_plans
    measuring = 0.6 * singles * n_choosing if job.config.method == "exact" else 0
    total = each * (measuring + 3 * n_calibrating + 0.8 * plans * (n_choosing + 1.5 * n_calibrating))
    total += sum(ORDERING_SECONDS * width**3 for width in widths_of(job.spec).values())
    return f"about {runs.format_seconds(total)} to measure and choose ({1000 * each:.1f} ms per image)"


# ------------------------------------------------------------------------------------------------------- the run


def doubts(job: Job, top1_percent: float | None) -> list[str]:
    """Whether the images are those of a network whose weights do not say what its classes are called."""
    if top1_percent is None:
        return []
    chance = 1 / job.spec.num_classes
    most = chance + CHANCE * math.sqrt(chance * (1 - chance) / len(job.data.valid))
    if top1_percent > 100 * most:
        return []
    return [f"the network gets {top1_percent:.1f} % of the held-out images right, as guessing would: are these the "
            "classes that it was trained for?"]  # fmt: skip


@dataclass(frozen=True)
class Chosen:
    """A plan that was taken, all that were scored for it, and its time where it was measured."""

    goal: Goal
    found: Found
    scored: tuple[Found, ...]
    scale: float
    timing: Measured | None
    landed: bool | None


class _Run(Run[Job]):
    """A pruning on its way."""

    def __init__(self, job: Job, home: Path, tell: Say, launcher: Launcher) -> None:
        self.launcher = launcher
        super().__init__(job, home, tell)
        self.n_timed: Counter[str] = Counter()
        self.parent, self.environment = measured_environment(
            job.spec, job.tensors, job.groups, job.calibration, job.choosing, job.device, self.record,
            seed=job.config.manual_seed, reconstructs=job.config.reconstruct, by_size=job.config.as_released,
            watch=self.doing,
        )  # fmt: skip
        self.pruner = self.environment.pruner

    def finish(self) -> PruneResult:
        job = self.job
        parent = self._parent_scores()
        for note in doubts(job, parent["parent_top1_percent"]):
            self.tell(labeled("note", note))
        chosen = [self._within_drop()] if job.config.max_drop is not None else [self._land(goal) for goal in job.goals]
        folders = [self.home] if len(chosen) == 1 else [self.home / each.goal.name for each in chosen]
        if not self.launcher.is_here and job.config.finetune_epochs:
            self._finetune_elsewhere(chosen, folders)
        records = [self._product(each, folder, parent) for each, folder in zip(chosen, folders, strict=True)]
        self.metrics.close()
        curve = pictures.curve(records, [folder.name for folder in folders], parent, job.table.unit)
        write_picture(curve, self.home / pictures.CURVE)
        if len(chosen) > 1:
            write_json(self.home / runs.RESULT_FILE, {"family": [folder.name for folder in folders], **parent})
            family = read_result(self.home).family
            page.write_page(family, curve, [commands(result) for result in family], self.home / page.FILE)
        for folder in folders:
            write_chain(folder)
        return read_result(self.home)

    # choosing

    def _choose(self, limits: Sequence[Limit]) -> list[Found]:
        self.n_told = 0
        tables = {"macs": self.job.macs, "params": self.job.params}
        return plans(self.job.config, self.environment, limits, tables, self.tell_plan)

    def _land(self, goal: Goal) -> Chosen:
        """Choose; where the device is here, measure, and choose again on rescaled prices while that is off."""
        job, scored = self.job, dict[Choices, tuple[Found, tuple[Found, ...]]]()
        target, *others = job.limits(goal.value, goal.flag)

        def choose(limits: Sequence[Limit]) -> Projection:
            try:
                tried = self._choose(limits)
            except InputError:  # no plan of this method in the window: one that costs less
                tried = self._choose([Limit(limits[0].table, limits[0].upper, flag=goal.flag), *limits[1:]])
            found = self._nearest(tried, goal) if job.measured_on is not None else best(tried)
            scored[found.path] = found, tuple(tried)
            return Projection(found.path, tuple(limit.table.of_path(found.path) for limit in limits), 0.0, 0)

        if job.measured_on is None:
            return Chosen(goal, *scored[choose([target, *others]).path], 1.0, None, None)
        landing = land(choose, job.table, goal.value, lambda path: self._told(path, goal), limits=others)
        if landing.stopped:
            self.tell(f"  {landing.stopped}")
        return Chosen(goal, *scored[landing.best.projection.path], landing.best.scale, landing.final, landing.landed)

    def _nearest(self, tried: Sequence[Found], goal: Goal) -> Found:
        """Of the best plans, which cost the same by their prices, the first that measures as was asked for.

        Prices are off by some per cent, and for each plan by others. Where none of them does, the one that is nearest.
        """
        ms = dict[Choices, float]()
        for found in sorted(tried, key=lambda each: each.score.loss)[:RIVALS]:
            ms[found.path] = settled(lambda path=found.path: self._told(path, goal)).ms  # type: ignore[misc]
            if lands(ms[found.path], goal.value):
                return found
        return min((found for found in tried if found.path in ms), key=lambda each: abs(ms[each.path] / goal.value - 1))

    def _told(self, path: Choices, goal: Goal) -> Measured:
        timing = self._timed(change_of(self.job.groups, path))
        self.tell(f"  measured {_ms(timing.ms)} of {_ms(goal.value)}")
        return timing

    def _timed(self, change: Shrunk) -> Measured:
        """One measurement, another one each time; of a run that goes on, those that it has, in order."""
        assert self.job.measured_on is not None
        self.n_timed[change.key] += 1
        key = f"time {change.key} {self.n_timed[change.key]}"
        line = self.record.get(key)
        if line is None:
            spec, _ = self.pruner.pruned(change)
            line = self.record.put(key, **self.job.measured_on.time(walk(spec))._asdict())
        return Measured(**{name: line[name] for name in Measured._fields})

    def _within_drop(self) -> Chosen:
        """The cheapest plan found whose top-1 is within --max_drop of the parent's."""
        job, path = self.job, whole_path(self.job.groups)
        assert job.config.max_drop is not None
        whole = Found(path, self.environment.score(path))
        found, tries = cheapest(
            lambda target: self._choose(job.limits(target, flag="--max_drop")),
            job.table, whole, whole.score.top1_percent - job.config.max_drop,
        )  # fmt: skip
        scored = next((tuple(each) for each in reversed(tries) if found in each), ())
        goal = Goal(job.table.of_path(found.path), "within" if scored else "whole", "--max_drop")
        change = change_of(job.groups, found.path)
        timing = settled(lambda: self._timed(change)) if job.measured_on is not None else None
        return Chosen(goal, found, scored, 1.0, timing, None)

    # the product

    def _parent_scores(self) -> dict[str, Any]:
        """Of the network as it was, as members of result.json."""
        job = self.job
        found = self.record.get("parent")
        if found is None:
            valid, test = (
                top1_percent(self.parent.eval(), job.data.valid, job),
                top1_percent(self.parent.eval(), job.data.test, job),
            )
            speed = job.measured_on.reference_ms if job.measured_on is not None else None
            found = self.record.put("parent", valid=valid, test=test, ms=job.whole_ms, anchor_ms=speed)
        return {
            "parent": readable(job.spec.name),
            "parent_top1_percent": found["valid"],
            "parent_test_top1_percent": found["test"],
            "parent_macs": total_macs(job.spec),
            "parent_params": total_params(job.spec),
            "parent_predicted_latency_ms": job.predicted_ms,
            "parent_measured_latency_ms": found.get("ms"),
        }

    def _product(self, chosen: Chosen, folder: Path, parent: dict[str, Any]) -> dict[str, Any]:
        """Write the network of a target, fine-tuned where that is asked for; result.json."""
        if (folder / runs.RESULT_FILE).is_file():
            return dict(read_result(folder).record)
        job, change = self.job, change_of(self.job.groups, chosen.found.path)
        net = self._pruned(chosen, folder)
        inherited = top1_percent(net.eval(), job.data.valid, job), top1_percent(net.eval(), job.data.test, job)
        pictures.draw_plan(job, self.environment, chosen.found.path, net.spec, folder)
        tensors, after, tuned = to_named(net), inherited, None
        self.tell(labeled("pruned", f"{_cost_text(job, net.spec)}; top-1 {_percent(inherited[0])} of held-out images"))
        if job.config.finetune_epochs:
            learnt, tuned = self._finetune(folder, net.spec)
            if tuned[0] is None or inherited[0] is None or tuned[0] >= inherited[0]:
                tensors, after = learnt, tuned
        self._save(folder, net.spec, tensors, self._provenance(folder))
        kept = {"finetuned_top1_percent": tuned[0] if tuned else None, "finetuning_is_kept": after is tuned}
        record = self._record(chosen, net.spec, change, inherited, after) | kept | parent
        write_json(folder / runs.RESULT_FILE, record)
        return record

    def _save(self, folder: Path, spec: ArchSpec, tensors: NamedTensors, provenance: dict[str, Any]) -> None:
        folder.mkdir(exist_ok=True)
        codec.write_spec(folder / SPEC_FILE, spec)
        save_safetensors(folder / WEIGHT_FILES[0], spec, tensors, provenance)

    def _provenance(self, folder: Path) -> dict[str, Any]:
        return {"command": "prune", "run": readable(folder.name), "of": readable(self.job.spec.name)}

    def _pruned(self, chosen: Chosen, folder: Path) -> ProxylessNet:
        """The network of a target before fine-tuning, written with its settings."""
        folder.mkdir(exist_ok=True)
        if folder != self.home:
            write_config(SETTINGS, self.job.config, self.job.training, folder)
        net = self.environment.network(change_of(self.job.groups, chosen.found.path))
        self._save(folder / PRUNED, net.spec, to_named(net), self._provenance(folder))
        return net

    def _finetuning(self, folder: Path) -> TrainConfig:
        """The settings of a target's fine-tuning, whose teacher is written."""
        teacher = self.home / "parent"
        if self.job.config.distillation and not (teacher / SPEC_FILE).is_file():
            provenance = {"command": "prune", "of": readable(self.job.spec.name)}
            self._save(teacher, self.job.spec, self.job.tensors, provenance)
        return finetune_config(self.job, folder / PRUNED, teacher)

    def _finetune(self, folder: Path, spec: ArchSpec) -> tuple[NamedTensors, tuple[float | None, float | None]]:
        """Train the pruned network with the train library, on the images of the pruning; (weights, top-1)."""
        place = folder / FINETUNED
        begun = (place / runs.CONFIG_FILE).is_file()
        config = None if begun else self._finetuning(folder)
        try:
            result = run_training(config, place, resume=begun, say=self.tell, command=[COMMAND])
        except TrainingStopped:
            raise KeyboardInterrupt from None
        assert result is not None
        return dict(read_tensors(result.weights).tensors), (result.top1_percent, result.test_top1_percent)

    def _finetune_elsewhere(self, chosen: Sequence[Chosen], folders: Sequence[Path]) -> None:
        """Every fine-tuning to its end, where the launcher does them; _finetune then finds it."""
        listed = []
        for each, folder in zip(chosen, folders, strict=True):
            if not (folder / runs.RESULT_FILE).is_file():
                self._pruned(each, folder)
                config = train_settings.anchored(self._finetuning(folder))
                arguments = {"config": train_settings.to_dict(config), "folder": str((folder / FINETUNED).absolute())}
                listed.append(LaunchedJob(folder.name, FINETUNING, arguments))
        all_done(self.launcher.run(lambda ended: listed, self.home, say=self.tell), "fine-tuning", self.tell)

    def _record(
        self,
        chosen: Chosen,
        spec: ArchSpec,
        change: Shrunk,
        inherited: tuple[float | None, float | None],
        after: tuple[float | None, float | None],
    ) -> dict[str, Any]:
        """result.json."""
        job, unit, timing = self.job, self.job.table.unit, chosen.timing
        is_ms = unit is Unit.MS
        asked = chosen.goal.value if job.config.max_drop is None and chosen.goal.flag != "--max_params" else None
        return {
            "target_hardware": job.config.target_hardware,
            "target_latency_ms": asked if is_ms else None,
            "target_macs": asked if not is_ms else None,
            "max_params": job.config.max_params,
            "max_drop": job.config.max_drop,
            "method": job.config.method,
            "evaluations": len(chosen.scored),
            "macs": total_macs(spec),
            "params": total_params(spec),
            "predicted_latency_ms": network_ms(job.source, walk(spec)) if job.source is not None else None,
            "table_scale": chosen.scale * job.scale,
            "measured_latency_ms": timing.ms if timing is not None else None,
            "runtime": job.source.provenance.get("runtime") if job.source is not None and timing is not None else None,
            "landed": chosen.landed,
            "latency_source": job.source.source if job.source is not None else None,
            "inherited_top1_percent": inherited[0],
            "inherited_test_top1_percent": inherited[1],
            "top1_percent": after[0],
            "test_top1_percent": after[1],
            "finetune_epochs": job.config.finetune_epochs,
            "n_valid_images": len(job.data.valid),
            "n_test_images": len(job.data.test),
            "choosing_loss": chosen.found.score.loss,
            "choosing_top1_percent": chosen.found.score.top1_percent,
            "change": change.to_json(),
            "resolution": spec.resolution,
            "num_classes": spec.num_classes,
            "manual_seed": job.config.manual_seed,
            "images": job.data.fingerprint(),
            "scored": [{"cost": job.table.of_path(each.path), **asdict(each.score)} for each in chosen.scored],
            "wall_seconds": self.watch.seconds,
        }


def finetune(config: Mapping[str, Any], folder: str) -> None:
    """A fine-tuning, from where it stands: what another process is asked for, so all is JSON."""
    begun = (Path(folder) / runs.CONFIG_FILE).is_file()
    settings = None if begun else train_settings.from_dict(config, folder)
    run_training(settings, folder, resume=begun, command=[COMMAND])


def finetune_config(job: Job, pruned: Path, teacher: Path) -> TrainConfig:
    """How a pruned network is trained on: all layers alike, BN as it comes, on the images of the pruning."""
    config, data = job.config, job.training.data
    given: dict[str, Any] = {
        "arch": str(pruned),
        "dataset": data.dataset,
        "valid_size": data.valid_size,
        "split_seed": job.training.manual_seed if data.split_seed is None else data.split_seed,
        "data_edition": data.data_edition,
        "n_epochs": config.finetune_epochs,
        "init_lr": config.init_lr,
        "train_batch_size": min(config.train_batch_size, len(job.data.train)),
        "backbone_lr_mult": 1.0,
        "fit_classifier": False,
        "freeze_bn": False,
        "manual_seed": config.manual_seed,
        "device": config.device,
    }
    if data.data_path is not None:
        given["data_path"] = data.data_path
    if config.n_worker is not None:
        given["n_worker"] = config.n_worker
    if config.distillation:
        given |= {"teacher": str(teacher), "distillation": config.distillation}
    return TrainConfig.of(recipe="finetune", **given)


def _cost_text(job: Job, spec: ArchSpec) -> str:
    macs = f"{format_count(total_macs(spec))} MACs, {format_count(total_params(spec))} parameters"
    return f"{_ms(network_ms(job.source, walk(spec)))} predicted, {macs}" if job.source is not None else macs


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} %"
