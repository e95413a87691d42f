"""What surrounds the loop: a config becomes data, space, costs and target; a finished search becomes files."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from proxyless_arch import codec, pictures
from proxyless_arch.cost import macs, total_macs, total_params
from proxyless_arch.datasets import ImageDataset, SearchData, load_for_search
from proxyless_arch.errors import InputError
from proxyless_arch.files import atomic_path, read_bytes, read_json, write_json
from proxyless_arch.images import Augment
from proxyless_arch.runs import environment as run_environment
from proxyless_arch.scores import EvalResult, shown_score
from proxyless_arch.shapes import LayerCall, walk
from proxyless_arch.space import SearchSpace, macro_named
from proxyless_arch.spec import ArchSpec, BatchNorm, Recipe, imagenet_recipe
from proxyless_arch.tables import describe, format_count, op_label
from proxyless_arch.weights import save_h5
from proxyless_nas import distributed
from proxyless_nas.data import Batches, eval_batches, train_batches
from proxyless_nas.devices import device_name
from proxyless_nas.network import ProxylessNet
from proxyless_nas.steps import NonFiniteLossError, cosine_lr, evaluate, recalibrate_bn, set_lr, sgd, smoothed_loss
from proxyless_nas.weights import to_named
from search import objective
from search.config import SMALL_IMAGE, SearchConfig, Target, default_resolution, default_space
from search.controllers import resolved_arch_lr
from search.cost_table import CostTable, check_target, default_target, latency_cost_table, macs_cost_table
from search.derive import choose_path, inherit
from search.device import MEASURABLE, Device, load_table, make_missing_table
from search.gates import argmax_path
from search.landing import Landing
from search.latency import LatencySource, LookupTable, Predictor, WithFallback, load_latency_source, shipped
from search.loop import Schedule, Search, schedule_of
from search.projection import Projection
from search.random_control import sample_at_cost
from search.report import METRICS_FILE, RunLog, format_seconds, read_metrics
from search.report_page import write_report
from search.run_folder import LATENCY_FILE, next_commands, read_run


@dataclass(frozen=True)
class Job:
    """A config with everything it refers to found, opened and checked."""

    config: SearchConfig
    data: SearchData
    space: SearchSpace
    source: LatencySource | None
    table: CostTable | None
    goal: float | None
    schedule: Schedule
    device: torch.device
    target_device: Device | None
    table_file: Path | None
    augment: Augment | None

    def train_batches(self, first_step: int) -> Batches:
        """Batches of the weight steps from ``first_step`` to the end of the schedule."""
        return self._batches(
            self.data.train,
            self.augment,
            self.config.data.train_batch_size,
            self.schedule.total_steps,
            first_step,
            self.config.manual_seed,
        )

    def first_batch(self) -> tuple[torch.Tensor, torch.Tensor]:
        """One batch of this process's share, read here: no worker process is left behind."""
        size = self.config.data.train_batch_size // distributed.world_size()
        single = train_batches(
            self.data.train, self.space.recipe, self.augment, batch_size=size, seed=self.config.manual_seed, n_steps=1
        )
        return next(single)

    def valid_batches(self, first_step: int) -> Batches:
        """Batches of the architecture steps: held-out images, not augmented, in an order of their own."""
        size = min(self.config.arch.grad_data_batch or self.config.data.train_batch_size, len(self.data.valid))
        size -= size % distributed.world_size()
        return self._batches(
            self.data.valid, None, size, self.schedule.arch_steps, first_step, self.config.manual_seed + 1
        )

    def _batches(
        self, images: ImageDataset, augment: Augment | None, size: int, n_steps: int, first: int, seed: int
    ) -> Batches:
        return train_batches(
            images,
            self.space.recipe,
            augment,
            batch_size=size,
            seed=seed,
            first_step=first,
            n_steps=n_steps - first,
            n_workers=self.n_workers,
            rank=distributed.rank(),
            world_size=distributed.world_size(),
            strict=self.config.data.strict_data,
        )

    def eval_batches(self, images: ImageDataset, limit: int | None = None) -> Batches:
        return eval_batches(
            images,
            self.space.recipe,
            batch_size=self.config.data.test_batch_size,
            n_workers=self.n_workers,
            limit=limit,
            strict=self.config.data.strict_data,
        )

    @property
    def n_workers(self) -> int:
        if self.config.data.n_worker is not None:
            return self.config.data.n_worker
        return 0 if self.config.data.dataset == "digits" else min(4, os.cpu_count() or 1)

    def costs(self, calls: Sequence[LayerCall]) -> list[float] | None:
        """The price of each layer, in the table's unit."""
        if self.table is None:
            return None
        if self.source is None:
            return [float(macs(call)) for call in calls]
        return [self.source.price_ms(call) for call in calls]


def _recipe(resolution: int, dataset: str) -> Recipe:
    """ImageNet's recipe for photos of some size; small images are resized to the resolution as a whole."""
    if dataset == "digits":
        return Recipe(resolution=resolution, resize=resolution, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    small = resolution <= SMALL_IMAGE
    return replace(imagenet_recipe(resolution), resize=resolution) if small else imagenet_recipe(resolution)


def _augment(config: SearchConfig, resolution: int) -> Augment | None:
    name = config.data.augment
    if name is None:
        small = resolution <= SMALL_IMAGE
        name = "digits" if config.data.dataset == "digits" else "small" if small else "imagenet"
    found = {
        "digits": lambda: Augment.digits(resolution),
        "small": lambda: Augment.small(resolution),
        "imagenet": Augment.imagenet,
        "none": lambda: None,
    }[name]()
    if found is not None and config.data.resize_scale is not None:
        found = replace(found, min_scale=config.data.resize_scale)
    return found


def _check_target(target: Target) -> None:
    """Raises InputError for flags that do not go together, before anything is measured."""
    hardware = target.target_hardware
    if hardware not in MEASURABLE and target.runtime is not None:
        raise InputError(f"nothing runs networks with --target_hardware {hardware}", "--runtime")
    if target.latency_fallback is not None and (hardware != "mobile" or target.latency_table is None):
        raise InputError(
            "the shipped predictor is a Pixel 1's: it fills the gaps of a table given with --target_hardware mobile",
            "--latency_fallback",
        )


def _latency_source(
    config: SearchConfig, space: SearchSpace
) -> tuple[LatencySource | None, Device | None, Path | None]:
    """What prices layers in ms for the target hardware (None when cost is not latency), the device to measure on (None
    when the target is not this machine), and the file of a table (None for what is shipped)."""
    target = config.target
    hardware = target.target_hardware
    if hardware in ("flops", "none"):
        if target.latency_table is not None:
            raise InputError(f"a latency table has no use with --target_hardware {hardware}", "--latency_table")
        return None, None, None
    if hardware in MEASURABLE:
        found, device, path = load_table(target, space)
        return _with_fallback(found, target.latency_fallback), device, path
    if target.latency_table is None:
        return shipped("pixel1"), None, None
    path = Path(target.latency_table)
    return _with_fallback(load_latency_source(path), target.latency_fallback), None, path


def _with_fallback(found: LookupTable | Predictor, fallback: str | None) -> LatencySource:
    if isinstance(found, LookupTable) and fallback == "predictor":
        predictor = shipped("pixel1")
        assert isinstance(predictor, Predictor)
        return WithFallback(found, predictor)
    return found


def _cost_table(config: SearchConfig, space: SearchSpace, source: LatencySource | None) -> CostTable | None:
    hardware = config.target.target_hardware
    if hardware == "none":
        return None
    return macs_cost_table(space) if source is None else latency_cost_table(space, source)


def _goal(config: SearchConfig, table: CostTable | None) -> float | None:
    target = config.target
    in_ms, in_macs = target.target_latency_ms, target.target_macs
    unit = table.unit if table is not None else None
    for flag, given, needed in (("--target_latency_ms", in_ms, "ms"), ("--target_macs", in_macs, "MACs")):
        if given is not None and unit != needed:
            raise InputError(f"has no meaning with --target_hardware {target.target_hardware}", flag)
    if table is None:
        return None
    flag, given = ("--target_latency_ms", in_ms) if unit == "ms" else ("--target_macs", in_macs)
    goal = check_target(given, table, flag) if given is not None else default_target(table)
    if target.grad_reg_loss_type == "mul#log" and config.arch.arch_algo == "grad":
        scale = 1e-6 if unit == "MACs" else 1.0
        objective.check_logarithm(table.minimum * scale, goal * scale)
    return goal


def prepare(config: SearchConfig, device: torch.device) -> Job:
    """Open the data, build the space, price it and check the target. Every process calls it: they fail together.

    Raises InputError before anything is written but the latency table of this device, which is made where it lacks.
    """
    with distributed.fail_together():
        _check_target(config.target)
        data, space = _open(config)
    with distributed.fail_together():  # the others wait here for the one that measures
        if config.target.target_hardware in MEASURABLE and distributed.is_main():
            make_missing_table(config.target, space)
    with distributed.fail_together():
        return _priced(config, data, space, device)


def _open(config: SearchConfig) -> tuple[SearchData, SearchSpace]:
    resolution = config.data.resolution or default_resolution(config.data.dataset, config.space.space)
    valid_size = config.data.valid_size
    if valid_size >= 1 and valid_size != int(valid_size):
        raise InputError(f"expected a fraction below 1 or a whole number of images, got {valid_size}", "valid_size")
    data = load_for_search(
        config.data.dataset,
        config.data.data_path,
        valid_size if valid_size < 1 else int(valid_size),
        config.manual_seed,
    )
    if config.data.train_batch_size > len(data.train):
        raise InputError(
            f"{config.data.train_batch_size} images per step, but there are {len(data.train)} to train on; for so few "
            f"try {max(2, len(data.train) // 8)}",
            "--train_batch_size",
        )
    space = SearchSpace(
        macro=macro_named(config.space.space or default_space(resolution)),
        width_mult=config.space.width_mult,
        num_classes=len(data.class_names),
        recipe=_recipe(resolution, config.data.dataset),
        bn=BatchNorm(eps=config.space.bn_eps, momentum=config.space.bn_momentum),
        dropout_rate=config.space.dropout,
        class_names=data.class_names,
    )
    return data, space


def _priced(config: SearchConfig, data: SearchData, space: SearchSpace, device: torch.device) -> Job:
    source, target_device, table_file = _latency_source(config, space)
    table = _cost_table(config, space, source)
    return Job(
        config=config,
        data=data,
        space=space,
        source=source,
        table=table,
        goal=_goal(config, table),
        schedule=schedule_of(config, len(data.train)),
        device=device,
        target_device=target_device,
        table_file=table_file,
        augment=_augment(config, space.recipe.resolution),
    )


def fingerprint(job: Job) -> dict[str, Any]:
    """What a run must find again to be resumed: its images, classes, prices and goal. Plain values."""

    def digest(*values: object) -> str:
        return hashlib.sha256(repr(values).encode()).hexdigest()[:16]

    sets = {"train": job.data.train, "valid": job.data.valid, "test": job.data.test}
    images = {f"{name}_images": len(images) for name, images in sets.items()}
    names = {f"{name}_names": digest(images.names, images.labels.tolist()) for name, images in sets.items()}
    table = job.table
    costs = digest(table.fixed, table.per_edge) if table is not None else None
    return {**images, **names, "class_names": digest(job.data.class_names), "latency_table": costs, "target": job.goal}


def new_search(job: Job) -> Search:
    return Search(job.config, job.space, job.table, job.goal, job.schedule, job.device)


def header(job: Job, run_dir: Path, seconds: tuple[float, float] | None, first_step: int = 0) -> str:
    """What is about to happen, for a person, from weight step ``first_step`` on.

    ``seconds``: measured per weight step and per architecture step.
    """
    config, space, schedule, table = job.config, job.space, job.schedule, job.table
    processes = f"{distributed.world_size()} processes, each on " if distributed.world_size() > 1 else ""
    data = job.data
    name = "digits (scikit-learn, embedded)" if config.data.dataset == "digits" else str(config.data.data_path)
    resolution = space.recipe.resolution
    lines = [
        (
            "data",
            f"{name}: {len(data.train)} images for weights, {len(data.valid)} for alpha, {len(data.test)} to test, "
            f"{space.num_classes} classes, {resolution} px",
        ),
        (
            "space",
            f"{space.macro.name}, width {config.space.width_mult:g}: {space.n_blocks} searched blocks, "
            f"{format_count(space.size)} networks",
        ),
        ("device", f"{processes}{device_name(job.device)}, torch {torch.__version__}"),
    ]
    if table is not None and job.goal is not None:
        unit = "latency" if table.unit == "ms" else "MACs"
        flag = "--target_latency_ms" if table.unit == "ms" else "--target_macs"
        given = config.target.target_latency_ms or config.target.target_macs
        why = "" if given else f" (default: 0.7 x the space's mean; change with {flag})"
        lines.append(("target", f"{config.target.target_hardware}: {table.shown(job.goal)}{why}"))
        lines.append(
            (
                "reachable",
                f"{table.shown(table.minimum)} to {table.shown(table.maximum)}, predicted {unit}; "
                f"mean of the space {table.shown(table.uniform_expected)}",
            )
        )
        lines.append(("priced by", table.source))
        if table.extrapolated:
            lines.append(
                (
                    "note",
                    f"{len(table.extrapolated)} layer prices lie outside the predictor's fitted range: "
                    "compare networks with them, do not quote them",
                )
            )
    else:
        lines.append(("target", "none: accuracy alone"))
    lines.append(
        (
            "schedule",
            f"{schedule.warmup_epochs} warm-up + {schedule.search_epochs} search epochs of "
            f"{schedule.steps_per_epoch} steps, {schedule.arch_steps} architecture steps "
            f"(lr {resolved_arch_lr(config.arch, schedule.arch_steps):.3g}, "
            f"{config.arch.grad_binary_mode}, {config.target.grad_reg_loss_type})",
        )
    )
    if seconds is not None:
        arch_steps = schedule.arch_steps - schedule.arch_steps_before(first_step)
        total = (schedule.total_steps - first_step) * seconds[0] + arch_steps * seconds[1]
        lines.append(
            (
                "expected",
                f"about {format_seconds(total)} ({1000 * seconds[0]:.0f} ms per weight step, "
                f"{1000 * seconds[1]:.0f} ms per architecture step)",
            )
        )
    lines.append(("run folder", str(run_dir)))
    return "\n".join(f"  {label:<10} {text}" for label, text in lines)


def write_environment(
    run_dir: Path, device: torch.device, argv: Sequence[str], resumed: bool, warmup_from: Path | None = None
) -> None:
    """environment.json: what this run ran on, and whose warm-up it started behind, where it did not do its own.

    A resume is added to it; what was there stays.
    """
    now = run_environment(
        argv,
        torch=torch.__version__,
        numpy=np.__version__,
        torch_threads=torch.get_num_threads(),
        device=device_name(device),
        processes=distributed.world_size(),
        **({"warmup_from": str(warmup_from)} if warmup_from is not None else {}),
    )
    path = run_dir / "environment.json"
    if resumed and path.is_file():
        first = read_json(path)
        now = {**first, "resumed": [*first.get("resumed", []), now]}
    write_json(path, now)


def _scores(job: Job, net: ProxylessNet, images: ImageDataset, unreadable: set[str]) -> EvalResult:
    """The score on all of ``images``; the places of those that cannot be read are added to ``unreadable``."""
    net.eval()
    batches = job.eval_batches(images)
    result = evaluate(net, batches, job.device)
    unreadable.update(batches.unreadable.places)
    return result


def finetune(job: Job, net: ProxylessNet, log: RunLog, steps_before: int) -> tuple[str, ...]:
    """Train the derived network alone for ``finetune_epochs``; one record per epoch. Returns the unreadable images."""
    config = job.config
    per_epoch, epochs = job.schedule.steps_per_epoch, config.finish.finetune_epochs
    weights = config.weights
    optimizer = sgd(
        net,
        lr=config.finish.finetune_lr,
        momentum=weights.momentum,
        nesterov=weights.nesterov,
        weight_decay=weights.weight_decay,
        no_decay_bn=weights.no_decay_bn,
    )
    batches = train_batches(
        job.data.train,
        job.space.recipe,
        job.augment,
        batch_size=config.data.train_batch_size,
        seed=config.manual_seed + 2,
        n_steps=epochs * per_epoch,
        n_workers=job.n_workers,
        strict=config.data.strict_data,
    )
    start, loss_sum, hits, count = time.perf_counter(), 0.0, 0, 0
    net.train()
    for step, (images, labels) in enumerate(batches):
        images, labels = images.to(job.device), labels.to(job.device)
        set_lr(optimizer, cosine_lr(config.finish.finetune_lr, step, epochs * per_epoch))
        logits = net(images)
        loss = smoothed_loss(logits, labels, weights.label_smoothing)
        if not torch.isfinite(loss):
            raise NonFiniteLossError(f"training loss {float(loss)} at fine-tune step {step}")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        loss_sum, count = loss_sum + loss.item() * len(labels), count + len(labels)
        hits += int((logits.argmax(1) == labels).sum())
        if (step + 1) % per_epoch == 0:
            now = time.perf_counter()
            empty = dict.fromkeys(
                (
                    "valid_loss",
                    "valid_top1_percent",
                    "expected_cost",
                    "argmax_cost",
                    "target",
                    "lambda",
                    "temperature",
                    "entropy",
                    "probabilities",
                    "argmax_path",
                )
            )
            log.epoch(
                {
                    **empty,
                    "phase": "finetune",
                    "epoch": step // per_epoch,
                    "n_epochs": epochs,
                    "step": steps_before + step + 1,
                    "arch_step": job.schedule.arch_steps,
                    "train_loss": loss_sum / count,
                    "train_top1_percent": 100 * hits / count,
                    "learning_rate": optimizer.param_groups[0]["lr"],
                    "cost_unit": job.table.unit if job.table else "ms",
                    "images_per_second": count / (now - start),
                    "seconds": now - start,
                }
            )
            start, loss_sum, hits, count = now, 0.0, 0, 0
    net.eval()
    return tuple(batches.unreadable.places)


def _measured(job: Job, landing: Landing | None) -> dict[str, Any]:
    """What the derived network took on the device searched for; None where that is not this machine."""
    if landing is None or job.target_device is None:
        return {"measured_latency_ms": None}
    facts = job.target_device.facts()
    return {
        "measured_latency_ms": landing.final.ms,
        "measured_spread_percent": 100 * landing.final.sd / landing.final.ms,
        "measured_on": {name: facts[name] for name in ("device", "runtime", "runtime_version", "threads", "clock")},
        "measured_load_average": facts.get("load_average"),
        "landing": [attempt.to_json() for attempt in landing.attempts],
        "landing_stopped": landing.stopped,
    }


@dataclass(frozen=True)
class Outcome:
    """The derived network and the record that describes it."""

    spec: ArchSpec
    projection: Projection | None
    record: dict[str, Any]


def finish(
    job: Job, search: Search, run_dir: Path, log: RunLog, wall_seconds: float, warmup_from: Path | None = None
) -> Outcome:
    """Derive, recalibrate, score, (fine-tune,) and write spec.json, weights.h5, the pictures and result.json.

    ``wall_seconds``: time spent in the search so far; the time taken here is added. ``warmup_from``: the run that did
    the warm-up, where it was another.
    """
    start = time.perf_counter()
    left_out = set(search.unreadable)
    table, goal, config = job.table, job.goal, job.config
    path, projection = choose_path(search.alphas, table, goal, config.target.derive)
    landing = None
    if job.target_device is not None and table is not None and goal is not None and projection is not None:
        landing = job.target_device.land(job.space, search.alphas, table, goal)
        projection = landing.best.projection
        path = projection.path
    net = inherit(search.supernet, job.space, path, name=run_dir.name).to(job.device)
    calibration = job.eval_batches(job.data.train, config.finish.recalibration_images)
    recalibrate_bn(net, calibration, job.device)
    left_out.update(calibration.unreadable.places)
    valid, test = (_scores(job, net, images, left_out) for images in (job.data.valid, job.data.test))
    tuned: dict[str, float] = {}
    if config.finish.finetune_epochs:
        left_out.update(finetune(job, net, log, search.step))
        tuned = {
            "finetuned_top1_percent": _scores(job, net, job.data.valid, left_out).top1_percent,
            "finetuned_test_top1_percent": _scores(job, net, job.data.test, left_out).top1_percent,
        }
    spec = net.spec
    best = argmax_path(search.alphas)
    is_ms, is_macs = table is not None and table.unit == "ms", table is not None and table.unit == "MACs"
    record = {
        "target_hardware": config.target.target_hardware,
        "target_latency_ms": goal if is_ms else None,
        "target_macs": goal if is_macs else None,
        "predicted_latency_ms": (projection.cost if projection else table.of_path(path)) if table and is_ms else None,
        "table_scale": landing.best.scale if landing is not None else 1.0,
        **_measured(job, landing),
        "argmax_latency_ms": table.of_path(best) if table is not None and is_ms else None,
        "argmax_macs": total_macs(job.space.spec_for(best)),
        "expected_cost": search.expected_cost(),
        "cost_unit": table.unit if table is not None else None,
        "latency_source": table.source if table is not None and is_ms else None,
        "macs": total_macs(spec),
        "params": total_params(spec),
        "top1_percent": valid.top1_percent,
        "test_top1_percent": test.top1_percent,
        **tuned,
        "n_valid_images": valid.n_images,
        "n_test_images": test.n_images,
        "weights": "inherited from the supernet, BN recalibrated" + (", then fine-tuned" if tuned else ""),
        "path": list(path),
        "argmax_path": list(best),
        "resolution": spec.resolution,
        "num_classes": spec.num_classes,
        "manual_seed": config.manual_seed,
        "warmup_from": str(warmup_from) if warmup_from is not None else None,
        "unreadable_images": len(left_out),
        "wall_seconds": round(wall_seconds + time.perf_counter() - start, 2),
    }
    codec.write_spec(run_dir / "spec.json", spec)
    save_h5(
        run_dir / "weights.h5", spec, to_named(net), {"run": run_dir.name, "command": "search", **_provenance(record)}
    )
    if job.table_file is not None:  # the run stays readable when the table changes
        with atomic_path(run_dir / LATENCY_FILE) as copy:
            copy.write_bytes(read_bytes(job.table_file))
    write_json(run_dir / "result.json", record)
    _draw(job, spec, path, run_dir)
    write_report(run_dir)
    return Outcome(spec, projection, record)


def write_random_networks(job: Job, run_dir: Path) -> dict[str, Any]:
    """The random control: ``n_archs`` different networks of the target's cost, each as a spec file, and their list.

    Writes ``specs/random_000.json`` and on, ``architectures.png`` (the first eight) and ``result.json``.
    """
    table, goal, config = job.table, job.goal, job.config
    if table is None or goal is None:
        raise InputError("random networks are drawn at a cost: they need a target", "--target_hardware")
    paths = sample_at_cost(table, goal, config.arch.n_archs, np.random.default_rng([config.manual_seed, 6]))
    entries = []
    rows = []
    for index, path in enumerate(paths):
        spec = job.space.spec_for(path, f"random_{index:03d}")
        codec.write_spec(run_dir / "specs" / f"{spec.name}.json", spec)
        rows.append((spec.name, spec, job.costs(walk(spec))))
        entries.append(
            {
                "spec": f"specs/{spec.name}.json",
                "path": list(path),
                "cost": table.of_path(path),
                "macs": total_macs(spec),
                "params": total_params(spec),
            }
        )
    pictures.draw_architectures(rows[:8], run_dir / "architectures.png", unit=table.unit)
    record = {
        "target": goal,
        "cost_unit": table.unit,
        "cost_source": table.source,
        "target_hardware": config.target.target_hardware,
        "manual_seed": config.manual_seed,
        "networks": entries,
    }
    write_json(run_dir / "result.json", record)
    write_report(run_dir)
    return record


def _provenance(record: dict[str, Any]) -> dict[str, Any]:
    kept = ("weights", "top1_percent", "test_top1_percent", "manual_seed", "target_hardware")
    return {key: record[key] for key in kept}


def _draw(job: Job, spec: ArchSpec, choices: Sequence[int], run_dir: Path) -> None:
    costs = job.costs(walk(spec))
    unit = job.table.unit if job.table else "ms"
    hardware = job.config.target.target_hardware
    title = f"{spec.name}: searched for {hardware}"
    pictures.draw_architectures([(title, spec, costs)], run_dir / "architecture.png", unit=unit)
    labels = [[op_label(op) for op in ops] for ops in job.space.choices]
    pictures.draw_search(
        read_metrics(run_dir / METRICS_FILE),
        run_dir / "search.png",
        target=job.goal,
        unit=unit,
        labels=labels,
        chosen=choices,
        title=title,
    )


def summary(job: Job, outcome: Outcome, run_dir: Path) -> str:
    """The end of a run, for a person: the architecture, what it costs against what was asked, where the files are."""
    record, spec, table = outcome.record, outcome.spec, job.table
    unit = table.unit if table else "ms"
    lines = ["", describe(spec, costs=job.costs(walk(spec)), unit=unit), ""]

    def say(label: str, text: str) -> None:
        lines.append(f"  {label:<10} {text}")

    if table is not None and job.goal is not None:
        cost, best = table.of_path(tuple(record["path"])), table.of_path(tuple(record["argmax_path"]))
        say("asked", table.shown(job.goal))
        measured = record["measured_latency_ms"]
        how = "counted" if table.unit == "MACs" else f"by {table.source}"
        if record["table_scale"] != 1:
            how += f" times {record['table_scale']:.4f}, as measured"
        if table.unit == "ms" and measured is None:
            how += "; not measured"
        if outcome.projection is not None:
            cost = outcome.projection.cost
        say("predicted", f"{table.shown(cost)} ({100 * (cost / job.goal - 1):+.2f} %), {how}")
        if measured is not None:
            on = record["measured_on"]
            say(
                "measured",
                f"{table.shown(measured)} ({100 * (measured / job.goal - 1):+.2f} %), sd of rounds "
                f"{record['measured_spread_percent']:.1f} %; {on['runtime']} {on['runtime_version']}, "
                f"{on['threads']} threads, {on['device']}",
            )
            if len(record["landing"]) > 1 or record["landing_stopped"]:
                steps = ", ".join(f"{step['measured_latency_ms']:.3f}" for step in record["landing"])
                say(
                    "landing",
                    f"measured {steps} ms in turn"
                    + (f"; {record['landing_stopped']}" * bool(record["landing_stopped"])),
                )
        if outcome.projection is not None:
            changed = outcome.projection.n_changed_from_argmax
            say("argmax", f"{table.shown(best)}; projection changed {changed} of {job.space.n_blocks} blocks")
        else:
            say("note", "derived by argmax: nothing makes this network land on the target")
    say(
        "size",
        f"{format_count(record['macs'])} MACs, {format_count(record['params'])} parameters (of this network, "
        "not of the supernet)",
    )
    n_valid, n_test = record["n_valid_images"], record["n_test_images"]
    say(
        "accuracy",
        f"{shown_score(record['top1_percent'], n_valid, 'validation images, which chose alpha')}, "
        f"{shown_score(record['test_top1_percent'], n_test, 'test images')}; inherited weights, BN recalibrated",
    )
    if "finetuned_top1_percent" in record:
        say(
            "fine-tuned",
            f"{shown_score(record['finetuned_top1_percent'], n_valid, 'validation images')}, "
            f"{shown_score(record['finetuned_test_top1_percent'], n_test, 'test images')}, after "
            f"{job.config.finish.finetune_epochs} epochs of training this network alone",
        )
    if record["unreadable_images"]:
        say("unreadable", f"{record['unreadable_images']} images were left out (warnings above name them)")
    behind = f", behind the warm-up of {record['warmup_from']}" if record["warmup_from"] else ""
    say("time", format_seconds(record["wall_seconds"]) + behind)
    say("files", f"{run_dir}/: report.html, spec.json, weights.h5, result.json, architecture.png, search.png")
    lines.append("\nnext:")
    commands = next_commands(read_run(run_dir))
    width = max(len(what) for what, _ in commands)
    lines += [f"  {what:<{width}}  {command}" for what, command in commands]
    return "\n".join(lines)
