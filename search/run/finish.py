"""A finished search becomes a network, its record, pictures and report."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from hardware.profile.landing import TOLERANCE, Landing, lands
from hardware.projection import Projection
from proxyless_arch.apps.per_class import FILE as PER_CLASS_FILE
from proxyless_arch.apps.per_class import ClassScore, numbered, per_class_record
from proxyless_arch.apps.prediction import class_names
from proxyless_arch.apps.scores import EvalResult
from proxyless_arch.apps.train_settings import Optimization
from proxyless_arch.arch import codec
from proxyless_arch.arch.spec import ArchSpec
from proxyless_arch.arch.walk import total_macs, total_params
from proxyless_arch.base.files import atomic_path, read_bytes, write_json
from proxyless_arch.base.text import readable
from proxyless_arch.base.timing import Stopwatch
from proxyless_arch.base.units import Unit
from proxyless_arch.data.datasets import ImageDataset
from proxyless_arch.space.search_space import Path as Choices
from proxyless_arch.space.search_space import SearchSpace
from proxyless_arch.weights.files import save_safetensors
from proxyless_arch.weights.lookup import SPEC_FILE, WEIGHT_FILES, own_weights
from proxyless_nas import distributed
from proxyless_nas.data import train_batches
from proxyless_nas.fast import accelerate
from proxyless_nas.network import ProxylessNet
from proxyless_nas.steps import NonFiniteLossError, evaluate, recalibrate_bn
from proxyless_nas.train.training import EpochSums, Schedule, Training
from proxyless_nas.weights import to_named
from search.algorithm.derive import inherit, log_odds, log_probabilities
from search.algorithm.gates import argmax_path, probabilities
from search.config import to_dict
from search.reporting.pictures import draw_pictures
from search.reporting.report_page import REPORT_FILE, write_report
from search.reporting.run_folder import LATENCY_FILE, read_run
from search.reporting.titles import network_name
from search.result import PICTURES
from search.run.choosing import Chooser, MostProbable
from search.run.device import timed_space
from search.run.job import Job
from search.run.log import RunLog
from search.run.loop import Search

NOT_IN_A_FINETUNE = (
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
"""Fields of an epoch record that say nothing of one network."""


def _scores(job: Job, net: ProxylessNet, images: ImageDataset, unreadable: set[str]) -> EvalResult:
    """The score on all of ``images``; the places of those that cannot be read are added to ``unreadable``."""
    return _by_class(job, net, images, unreadable).total


def _by_class(job: Job, net: ProxylessNet, images: ImageDataset, unreadable: set[str]) -> ClassScore:
    """As _scores, and by class."""
    net.eval()
    batches = job.eval_batches(numbered(images))
    score = evaluate(net, batches, job.device, ClassScore(images.labels))
    unreadable.update(batches.unreadable.places)
    return score


def recalibrated(
    job: Job, net: ProxylessNet, unreadable: set[str]
) -> tuple[ProxylessNet, EvalResult, dict[str, float]]:
    """``net`` with BN statistics of training images, augmented or as they are: whichever scores better.

    Weights are trained on augmented images and used on others; which of the two they need differs from one data set
    to the next (docs/decisions.md). Cross-entropy on alpha's images decides. Returns the better network, its score on
    them, and the cross-entropy of each way, the better one first.
    """
    tried = []
    for name, augment in job.recalibrations().items():
        own = copy.deepcopy(net)
        batches = job.recalibration_batches(augment)
        recalibrate_bn(own, batches, job.device)
        unreadable.update(batches.unreadable.places)
        score = _scores(job, own, job.data.valid, unreadable)
        tried.append((score.loss_sum / max(score.n_images, 1), name, own, score))
    tried.sort(key=lambda one: one[0])
    *_, better, score = tried[0]
    return better, score, {name: loss for loss, name, *_ in tried}


def finetune(job: Job, net: ProxylessNet, log: RunLog, steps_before: int) -> tuple[str, ...]:
    """Train the derived network alone for ``finetune_epochs``; one record per epoch. Returns the unreadable images."""
    config, weights = job.config, job.config.weights
    epochs, watch = config.finish.finetune_epochs, Stopwatch()
    settings = Optimization(
        n_epochs=epochs,
        warmup_epochs=0,
        init_lr=config.finish.finetune_lr,
        momentum=weights.momentum,
        nesterov=weights.nesterov,
        weight_decay=weights.weight_decay,
        no_decay_bn=weights.no_decay_bn,
        label_smoothing=weights.label_smoothing,
        grad_clip=weights.grad_clip,
        accumulation=job.memory.parts_of(config.data.train_batch_size) if job.memory is not None else 1,
        ema_decay=0.0,
    )
    schedule = Schedule(
        steps_per_epoch=job.schedule.steps_per_epoch,
        n_epochs=epochs,
        warmup_epochs=0,
        init_lr=settings.init_lr,
        fits_run=False,  # its BN statistics are of these images
    )
    batches = train_batches(
        job.data.train,
        job.space.preprocessing,
        job.augment,
        batch_size=config.data.train_batch_size,
        seed=config.manual_seed + 2,
        n_steps=schedule.total_steps,
        n_workers=job.n_workers,
        strict=config.data.strict_data,
    )
    accelerate(net, job.kernels)
    with distributed.by_itself():
        training = Training(
            net,
            settings,
            schedule,
            batch_size=config.data.train_batch_size,
            seed=config.manual_seed,
            precision=config.precision,
        )
        try:
            for sums in training.epochs(batches):
                log.epoch(_finetune_record(job, training, sums, watch.lap(), steps_before))
        except NonFiniteLossError as error:
            first = ", ".join(batches.first_images)
            raise NonFiniteLossError(f"{error} of the fine-tune; its first images: {first}") from None
    net.eval()
    return tuple(batches.unreadable.places)


def _finetune_record(
    job: Job, training: Training, sums: EpochSums, seconds: float, steps_before: int
) -> dict[str, Any]:
    """The record of the fine-tune's epoch just finished, in the schema of log.EpochRecord."""
    return {
        **dict.fromkeys(NOT_IN_A_FINETUNE),
        "phase": "finetune",
        "epoch": training.step // training.schedule.steps_per_epoch - 1,
        "n_epochs": training.schedule.n_epochs,
        "step": steps_before + training.step,
        "arch_step": job.schedule.arch_steps,
        "train_loss": sums.loss / sums.images,
        "train_top1_percent": 100 * sums.hits / sums.images,
        "learning_rate": training.schedule.learning_rate(training.step - 1),
        "cost_unit": (job.table.unit if job.table else Unit.MS).value,
        "images_per_second": sums.images / seconds,
        "seconds": seconds,
    }


def _measured(job: Job, landing: Landing | None) -> dict[str, Any]:
    """What the derived network took on the device searched for; None where that is not this machine."""
    if landing is None or job.prices.device is None:
        return {"measured_latency_ms": None}
    facts, final, reference_ms = job.prices.device.facts(), landing.final, landing.reference_ms
    return {
        "measured_latency_ms": final.raw_ms,
        "measured_at_table_speed_ms": final.ms if reference_ms is not None else None,
        "anchor_ms": final.anchor_ms,
        "table_anchor_ms": reference_ms,
        "measured_standard_error_percent": 100 * final.noise,
        "measured_spread_percent": 100 * final.sd / final.ms,
        "measured_rounds": final.rounds,
        "measured_other_clock_ms": final.other_ms if math.isfinite(final.other_ms) else None,
        "measured_on": {name: facts[name] for name in ("device", "runtime", "runtime_version", "threads", "clock")},
        "measured_load_average": facts.get("load_average"),
        "landing": [attempt.to_json() for attempt in landing.attempts],
        "landing_stopped": landing.stopped,
    }


def _landed(job: Job, derived: Derived) -> dict[str, Any]:
    """Whether the derived network came out at the target: by its measurement, else by what prices it; None without a
    target."""
    table, goal, landing = job.table, job.goal, derived.landing
    if table is None or goal is None:
        return {"landed": None}
    lower = job.config.target.window
    cost = landing.final.ms if landing is not None else table.of_path(derived.path)
    return {
        "landed": landing.landed if landing is not None else lands(cost, goal, lower),
        "landed_by": "measured" if landing is not None else "predicted",
        "landing_error_percent": 100 * (cost / goal - 1),
        "landing_tolerance_percent": 100 * TOLERANCE,
    }


def _changes(
    space: SearchSpace, odds: Sequence[torch.Tensor], best: Sequence[int], path: Sequence[int]
) -> list[dict[str, Any]]:
    """Where the derived network is not the most probable one: which block of it, the operations and their
    probabilities, in percent."""
    found = []
    for place, block, labels, argmax, chosen in zip(space.places, odds, space.choice_labels, best, path, strict=True):
        if argmax != chosen:
            found.append(
                {
                    "block": place,
                    "argmax": labels[argmax],
                    "argmax_percent": 100 * float(block[argmax]),
                    "chosen": labels[chosen],
                    "chosen_percent": 100 * float(block[chosen]),
                }
            )
    return found


@dataclass(frozen=True)
class Derived:
    """The choices that a search comes to, and how: ``projection`` and ``landing`` are None where there was none."""

    path: Choices
    projection: Projection | None
    landing: Landing | None


@dataclass(frozen=True)
class Scored:
    """The derived network with the weights it ends with, and what it scored.

    ``recalibration``: cross-entropy on alpha's images of each way to recalibrate BN, the better one first. ``tuned``:
    the accuracies behind a fine-tune, empty without one. ``by_class``: the test images with the final weights.
    ``beside``: the accuracies of the most probable network, where it is not the derived one, and of the whole network,
    where its weights are shared. ``left_out``: places of the images that cannot be read.
    """

    net: ProxylessNet
    valid: EvalResult
    test: EvalResult
    by_class: ClassScore
    recalibration: Mapping[str, float]
    tuned: Mapping[str, float]
    beside: Mapping[str, float]
    left_out: frozenset[str]


def finish(
    job: Job,
    search: Search,
    run_dir: Path,
    log: RunLog,
    wall_seconds: float,
    warmup_from: Path | None = None,
    chooser: Chooser | None = None,
) -> None:
    """Derive, score, write and draw: from a trained supernet to a whole run folder.

    ``wall_seconds``: time spent in the search so far; the time taken here is added. ``warmup_from``: the run that did
    the warm-up, where it was another. ``chooser``: by default the most probable network is taken.
    """
    watch = Stopwatch(wall_seconds)
    with distributed.by_itself():
        derived = derive(job, search, chooser)
    name = network_name(run_dir, to_dict(job.config), job.goal, job.table.unit if job.table is not None else None)
    scored = score(job, search, derived, name, log)
    seconds = round(watch.seconds, 2)
    names = class_names(scored.net.spec)
    write_json(run_dir / PER_CLASS_FILE, per_class_record(scored.by_class, job.data.test, names))
    record = record_of(job, search, derived, scored, seconds, warmup_from)
    write(job, run_dir, scored.net, record | (chooser.record(derived.path) if chooser is not None else {}))
    complete(run_dir)


def derive(job: Job, search: Search, chooser: Chooser | None = None) -> Derived:
    """The network that the search comes to, at the target's cost; on a device that is here, at the measured cost."""
    chooser = chooser or MostProbable(log_probabilities(search.alphas))
    if not job.asked and isinstance(chooser, MostProbable):
        return Derived(argmax_path(search.alphas), None, None)
    if not job.asked:
        return Derived(chooser.choose(job.candidates).path, None, None)
    if job.prices.device is None or job.table is None or job.goal is None:
        projection = chooser.choose(job.asked)
        return Derived(projection.path, projection, None)
    assert job.prices.source is not None
    landing = job.prices.device.land(
        job.space,
        chooser.choose,
        job.table,
        job.goal,
        job.prices.source,
        job.limits,
        job.config.target.window,
        timed_space(job.config.target, job.space, job.config.space.parent),
    )
    projection = landing.best.projection
    return Derived(projection.path, projection, landing)


def score(job: Job, search: Search, derived: Derived, name: str, log: RunLog) -> Scored:
    """The derived network with inherited weights, BN recalibrated, on alpha's and the test images; then fine-tuned.

    Where it is not the most probable one, that is scored as well: last, so that nothing else changes by it.
    """
    left_out = set(search.unreadable)
    net = inherit(search.supernet, job.space, derived.path, name=name).to(job.device)
    net, valid, losses = recalibrated(job, net, left_out)
    by_class = _by_class(job, net, job.data.test, left_out)
    test = by_class.total
    tuned: dict[str, float] = {}
    if job.config.finish.finetune_epochs:
        left_out.update(finetune(job, net, log, search.step))
        by_class = _by_class(job, net, job.data.test, left_out)
        tuned = {
            "finetuned_top1_percent": _scores(job, net, job.data.valid, left_out).top1_percent,
            "finetuned_test_top1_percent": by_class.total.top1_percent,
        }
    has_argmax = job.config.arch.arch_algo != "predictor" and derived.path != argmax_path(search.alphas)
    others = {"argmax": argmax_path(search.alphas)} if has_argmax else {}
    if job.space.shares_weights:
        others["whole"] = job.space.largest_path
    beside = {key: value for name, path in others.items() for key, value in _of_path(job, search, path, name, left_out)}
    return Scored(net, valid, test, by_class, losses, tuned, beside, frozenset(left_out))


def _of_path(job: Job, search: Search, path: Choices, name: str, left_out: set[str]) -> Iterator[tuple[str, float]]:
    """What a network scores with inherited weights, BN recalibrated, as members of result.json that begin with
    ``name``."""
    net = inherit(search.supernet, job.space, path).to(job.device)
    net, valid, _ = recalibrated(job, net, left_out)
    yield f"{name}_top1_percent", valid.top1_percent
    yield f"{name}_test_top1_percent", _scores(job, net, job.data.test, left_out).top1_percent


def record_of(
    job: Job, search: Search, derived: Derived, scored: Scored, seconds: float, warmup_from: Path | None
) -> dict[str, Any]:
    """result.json of a search that took ``seconds``."""
    spec, best = scored.net.spec, argmax_path(search.alphas)
    return {
        **_costs(job, search, derived, spec, best),
        "top1_percent": scored.valid.top1_percent,
        "test_top1_percent": scored.test.top1_percent,
        **scored.tuned,
        **scored.beside,
        "n_valid_images": scored.valid.n_images,
        "n_test_images": scored.test.n_images,
        "weights": f"inherited from the supernet, BN recalibrated on {next(iter(scored.recalibration))} images"
        + (", then fine-tuned" if scored.tuned else ""),
        "bn_recalibration_losses": scored.recalibration,
        "path": list(derived.path),
        "argmax_path": list(best),
        **_overruled(job, search, derived.path, best),
        "resolution": spec.resolution,
        "num_classes": spec.num_classes,
        "manual_seed": job.config.manual_seed,
        "images": job.data.fingerprint(),
        "warmup_from": str(warmup_from) if warmup_from is not None else None,
        "unreadable_images": len(scored.left_out),
        "left_out": job.data.left_out.to_json(),
        "wall_seconds": seconds,
    }


def _overruled(job: Job, search: Search, path: Choices, best: Choices) -> dict[str, Any]:
    """Where the network is not the most probable one, as members of result.json; a predictor has no probabilities."""
    if job.config.arch.arch_algo == "predictor":
        return {"projection_changes": [], "projection_log_odds": None}
    odds = probabilities([alpha.detach() for alpha in search.alphas], search.temperature)
    return {
        "projection_changes": _changes(job.space, odds, best, path),
        "projection_log_odds": log_odds(search.alphas, path, best, search.temperature),
    }


def _costs(job: Job, search: Search, derived: Derived, spec: ArchSpec, best: Choices) -> dict[str, Any]:
    """What the derived network costs beside what was asked for, as members of result.json."""
    table, goal, projection, landing = job.table, job.goal, derived.projection, derived.landing
    is_ms, is_macs = table is not None and table.unit is Unit.MS, table is not None and table.unit is Unit.MACS
    return {
        "target_hardware": job.config.target.target_hardware,
        "target_latency_ms": goal if is_ms else None,
        "target_macs": goal if is_macs else None,
        "predicted_latency_ms": (projection.cost if projection else table.of_path(derived.path))
        if table and is_ms
        else None,
        "table_scale": landing.best.scale if landing is not None else 1.0,
        **_measured(job, landing),
        **_landed(job, derived),
        "argmax_latency_ms": table.of_path(best) if table is not None and is_ms else None,
        "argmax_macs": total_macs(job.space.spec_for(best)),
        "expected_cost": search.expected_cost(),
        "cost_unit": table.unit if table is not None else None,
        "latency_source": table.source if table is not None and is_ms else None,
        "macs": total_macs(spec),
        "params": total_params(spec),
        **({"whole_macs": total_macs(_whole(job.space))} if job.space.shares_weights else {}),
    }


def _whole(space: SearchSpace) -> ArchSpec:
    """The largest network of a space, whose weights the others share."""
    return space.spec_for(space.largest_path)


def write(job: Job, run_dir: Path, net: ProxylessNet, record: dict[str, Any]) -> None:
    """Write spec.json, weights.safetensors, a copy of the table that priced the run and, last, result.json."""
    (run_dir / "result.json").unlink(missing_ok=True)  # one left by a finish of which the weights are gone
    codec.write_spec(run_dir / "spec.json", net.spec)
    provenance = {"run": readable(run_dir.name), "command": "search", **_provenance(record)}
    save_safetensors(run_dir / WEIGHT_FILES[0], net.spec, to_named(net), provenance)
    for older in WEIGHT_FILES[1:]:  # of a run that the first edition began
        (run_dir / older).unlink(missing_ok=True)
    if job.prices.file is not None:  # the run stays readable when the table changes
        with atomic_path(run_dir / LATENCY_FILE) as part:
            part.write_bytes(read_bytes(job.prices.file))
    write_result(run_dir, record)


def write_result(run_dir: Path, record: dict[str, Any]) -> None:
    """Write result.json, which makes a run a finished one."""
    for name in (*PICTURES, REPORT_FILE):  # those of an unfinished run
        (run_dir / name).unlink(missing_ok=True)
    write_json(run_dir / "result.json", record)


def is_finished(run_dir: Path) -> bool:
    """Whether the folder has the product of its run; what is made of the folder may be missing (see complete)."""
    if not (run_dir / "result.json").is_file():
        return False
    return read_run(run_dir).is_random or ((run_dir / SPEC_FILE).is_file() and own_weights(run_dir) is not None)


def complete(run_dir: Path) -> None:
    """Make what a finished run makes of its folder and a kill may have left out: the pictures and the report."""
    run = read_run(run_dir)
    if run.spec is not None and not all((run_dir / name).exists() for name in PICTURES):
        draw_pictures(run, run_dir, ".png")
    if not (run_dir / REPORT_FILE).exists():
        write_report(run_dir)


def _provenance(record: dict[str, Any]) -> dict[str, Any]:
    kept = ("weights", "top1_percent", "test_top1_percent", "manual_seed", "target_hardware")
    return {key: record[key] for key in kept}
