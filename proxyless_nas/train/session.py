"""What surrounds the training steps: settings become data and a network, a trained network becomes files and a record.

With several processes rank 0 alone writes the run folder, and reads the weights it wrote for all. A resume reads the
folder in every process.
"""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from proxyless_arch.apps.evaluation import DIGITS, NO_BITS, READER_SHARE, describe_preprocessing
from proxyless_arch.apps.few_images import FROM_SCRATCH, notes_on_few_images
from proxyless_arch.apps.memory import ANY_AMOUNT, Free, Plan
from proxyless_arch.apps.next_commands import pruning
from proxyless_arch.apps.orientation import note_on_edition
from proxyless_arch.apps.per_class import FILE as PER_CLASS_FILE
from proxyless_arch.apps.per_class import ClassScore, numbered, per_class_record
from proxyless_arch.apps.prediction import class_names
from proxyless_arch.apps.scores import AnyScore, EvalResult, shown_score
from proxyless_arch.apps.train_settings import (
    INHERIT,
    NO_TEACHER,
    SCRATCH,
    Optimization,
    Start,
    TrainConfig,
    anchored,
    augment_for,
    changes_of_resume,
    from_dict,
    open_data,
    start_of,
    to_dict,
)
from proxyless_arch.arch import codec
from proxyless_arch.arch.bits import PLAN_FILE, BitPlan, check_folds, read_plan, write_plan
from proxyless_arch.arch.preprocessing import assumption
from proxyless_arch.arch.shrink import can_shrink
from proxyless_arch.arch.spec import ArchSpec
from proxyless_arch.arch.walk import total_macs, total_params
from proxyless_arch.base import runs
from proxyless_arch.base.cli import command_line
from proxyless_arch.base.errors import InputError
from proxyless_arch.base.files import expanded, write_json
from proxyless_arch.base.machine import usable_cores, workers_text
from proxyless_arch.base.schema import Schema, amount, count, judge, mapping, plain
from proxyless_arch.base.strict import Node, counted
from proxyless_arch.base.text import labeled, number_of, readable
from proxyless_arch.base.timing import Stopwatch
from proxyless_arch.base.units import format_count
from proxyless_arch.base.words import TORCH_KERNELS
from proxyless_arch.data.batches import (
    BatchPlan,
    batch_for,
    eval_steps,
    note_on_few_steps,
    read_batch,
    seconds_of,
)
from proxyless_arch.data.datasets import ImageDataset, SearchData
from proxyless_arch.data.images import Augment
from proxyless_arch.data.streams import Stream, numpy_rng
from proxyless_arch.weights.files import WeightFile, read_tensors, save_safetensors
from proxyless_arch.weights.lookup import JUDGED_FILE, SPEC_FILE, WEIGHT_FILES, find_trained, own_weights
from proxyless_nas import distributed
from proxyless_nas.data import Batches, eval_batches, train_batches
from proxyless_nas.defensive import CALIBRATED, activation_plan, calibrate
from proxyless_nas.devices import device_name
from proxyless_nas.fast import accelerate, kernels_in_use, kernels_text
from proxyless_nas.network import ProxylessNet, build
from proxyless_nas.quantized import build_quantized
from proxyless_nas.quantized_training import learnt_plan
from proxyless_nas.steps import check_learns, evaluate
from proxyless_nas.train import checkpointing, memory
from proxyless_nas.train.probe import best_penalty, features_of, fit_linear
from proxyless_nas.train.training import Ema, Schedule, Training, over_ranks
from proxyless_nas.weights import assign, load_named, to_named

CHECKPOINT_FORMAT, CHECKPOINT_VERSION = "proxyless-nas/training-checkpoint", 1
CHECKPOINT_FIELDS = ("config", "training", "best", "metrics_offset", "wall_seconds")
CHECKPOINT_YOUNGER = ("data", "ran_on")
"""Fields that older checkpoints do not have."""
BEST_FILE, LAST_FILE = WEIGHT_FILES[0], "last.safetensors"
MAX_READERS = 8
CLEARLY_BELOW = 0.97
"""Of the fitted start's loss: an epoch with more is not told from it by few images, and it is the lesser change."""
FIT_IMAGES = 20_000
"""Most images that a classifier is fitted to before the first step: 100 MB of features."""


def readers_of(config: TrainConfig, device: str) -> int:
    """Processes that read images for one rank: the ranks of a machine share its cores."""
    if config.data.n_worker is not None:
        return config.data.n_worker
    if config.data.dataset == "digits":
        return 0
    cores = usable_cores() // distributed.local_size()
    return max(1, min(MAX_READERS, cores if device == "cuda" else cores // READER_SHARE))


@dataclass(frozen=True, kw_only=True)
class Job:
    """Settings with everything they refer to found, opened and checked. ``start`` is None in a resumed run."""

    config: TrainConfig
    data: SearchData
    spec: ArchSpec
    start: Start | None
    schedule: Schedule
    augment: Augment | None
    device: torch.device
    memory: Plan | None = None
    """How batches are computed in the memory there is."""
    notes: tuple[str, ...] = ()
    teacher: ProxylessNet | None = None
    bits: BitPlan | None = None
    """The plan that is trained under; None: float32."""

    @cached_property
    def fingerprint(self) -> dict[str, Any]:
        """Of the images; a resumed run must find the same ones."""
        return self.data.fingerprint()

    @property
    def ran_on(self) -> dict[str, Any]:
        """What the last bits of a run depend on, beside its settings and images."""
        return {
            "torch": str(torch.__version__),
            "device": self.device.type,
            "threads": torch.get_num_threads() if self.device.type == "cpu" else None,
            "processes": distributed.world_size(),
            "kernels": self.kernels,
        }

    @property
    def kernels(self) -> str:
        """What computes beside torch: fast.kernels_in_use."""
        return kernels_in_use(self.config.kernels, self.device)

    @property
    def n_workers(self) -> int:
        """Image reading processes of this rank."""
        found = readers_of(self.config, self.device.type)
        return min(found, self.schedule.total_steps or found)

    def train_batches(self, first_step: int) -> Batches:
        """This rank's share of the batches from ``first_step`` to the end of the schedule."""
        return train_batches(
            self.data.train,
            self.spec.preprocessing,
            self.augment,
            batch_size=self.config.data.train_batch_size,
            seed=self.config.manual_seed,
            n_steps=self.schedule.total_steps - first_step,
            first_step=first_step,
            n_workers=self.n_workers,
            rank=distributed.rank(),
            world_size=distributed.world_size(),
            strict=self.config.data.strict_data,
        )

    def images_of(self, step: int, limit: int = 3) -> list[str]:
        """Places of the first images of a step's batch."""
        plan = BatchPlan(
            n_images=len(self.data.train), batch_size=self.config.data.train_batch_size, seed=self.config.manual_seed
        )
        return [self.data.train.place(sample.image) for sample in next(plan.steps(step, 1))[:limit]]

    def plan_of(self, net: ProxylessNet) -> BitPlan | None:
        """What ``net`` is trained to be rounded to; None where it is not."""
        if self.bits is not None:
            return learnt_plan(self.spec, net, self.bits)
        bits = self.config.optimization.activation_bits
        return activation_plan(self.spec, net, bits) if bits else None

    def score(self, net: nn.Module, images: ImageDataset) -> EvalResult:
        """The network in eval mode and float32 on all of ``images``, which the ranks share; each counts once."""
        return over_ranks(self._on_own_share(net, images, EvalResult()), self.device)

    def score_by_class(self, net: nn.Module, images: ImageDataset) -> ClassScore:
        """As ``score``, and by class."""
        score = self._on_own_share(net, numbered(images), ClassScore(images.labels))
        return ClassScore.joined(distributed.gathered(score))

    def _on_own_share(self, net: nn.Module, images: ImageDataset, score: AnyScore) -> AnyScore:
        """``score`` with this rank's share of ``images``."""
        share = images.subset(np.arange(distributed.rank(), len(images), distributed.world_size()))
        if not len(share):
            return score
        net.eval()
        return evaluate(net, self.batches_as_they_are(share), self.device, score)

    def batches_as_they_are(self, images: ImageDataset) -> Batches:
        """All of ``images`` without augmentation, as many at a time as memory takes."""
        size = self.config.data.test_batch_size
        if self.memory is not None:
            size = memory.most_scored(self.memory, self.spec, size)
        return eval_batches(
            images,
            self.spec.preprocessing,
            batch_size=size,
            n_workers=min(self.n_workers, math.ceil(len(images) / size)),
            strict=self.config.data.strict_data,
        )


def prepare(
    config: TrainConfig,
    device: torch.device,
    spec: ArchSpec | None = None,
    free: Free = ANY_AMOUNT,
    *,
    resumed: bool = False,
) -> Job:
    """Open the data and the weights and check that they fit, and so do batches into the memory that is ``free``.

    The job's config has the number of parts that a batch is computed in. Raises InputError before anything is written.

    Args:
        spec: of a resumed run, whose weights come from its checkpoint.
        resumed: it goes on as it was begun, whatever is free.
    """
    if config.precision == "fp16" and device.type != "cuda":
        raise InputError(f"fp16 needs cuda, got {device.type}; bf16 runs anywhere", "--precision")
    data = open_data(config)
    world, is_named = distributed.world_size(), config.optimization.accumulation is not None
    size, notes = batch_for(len(data.train), config.data.train_batch_size, is_named, world)
    config = replace(config, data=replace(config.data, train_batch_size=size))
    if size % world or size // world < (config.optimization.accumulation or 1):
        raise InputError(
            f"expected a multiple of {world} (the processes) with an image for each of the "
            f"{config.optimization.accumulation or 1} parts of a share, got {size}",
            "--batch_size",
        )
    start = start_of(config, data.train) if spec is None else None
    spec = spec or start.spec if start is not None else spec
    assert spec is not None
    if len(data.class_names) != spec.num_classes:
        raise InputError(f"expected {spec.num_classes} classes, found {len(data.class_names)}", "--data_path")
    check_defensive(config.optimization, spec)
    job = Job(
        config=config,
        data=data,
        spec=spec,
        start=start,
        schedule=Schedule(
            steps_per_epoch=len(data.train) // size,
            n_epochs=config.optimization.n_epochs,
            warmup_epochs=config.optimization.warmup_epochs,
            init_lr=config.optimization.init_lr,
            freeze_epochs=config.optimization.freeze_epochs,
            fits_run=config.optimization.fits_run,
        ),
        augment=augment_for(config, spec.resolution),
        device=device,
        teacher=teacher_of(config, spec),
        bits=bits_of(config, spec),
    )
    plan = memory.plan_of(config, data, spec, job.n_workers, free, resumed=resumed)
    in_parts = replace(config, optimization=replace(config.optimization, accumulation=plan.parts))
    return replace(job, config=in_parts, memory=plan, notes=notes)


def teacher_of(config: TrainConfig, spec: ArchSpec) -> ProxylessNet | None:
    """The network that ``spec``'s learns from, in eval mode; it sees the same images, prepared in the same way.

    Raises InputError for one without weights, or for other classes.
    """
    if config.teacher == NO_TEACHER:
        return None
    trained = find_trained(config.teacher, place="--teacher", flag="--teacher")
    theirs = trained.spec
    if theirs.num_classes != spec.num_classes or (theirs.class_names or spec.class_names) != spec.class_names:
        raise InputError(
            f"expected the {spec.num_classes} classes of the images, got {theirs.num_classes} (or others)",
            "--teacher",
            config.teacher,
        )
    net = build(theirs)
    load_named(net, theirs, trained.weights.tensors, trained.origin)
    return net.eval().requires_grad_(False)


def check_defensive(o: Optimization, spec: ArchSpec) -> None:
    """Raises InputError where layers are penalized or inputs rounded of a network that this is not made for."""
    if not o.lipschitz and not o.activation_bits:
        return
    try:
        check_folds(spec)
    except InputError as error:
        flag = "--lipschitz" if o.lipschitz else "--activation_bits"
        raise InputError(f"not for this network: {error.problem}", flag) from None


def bits_of(config: TrainConfig, spec: ArchSpec) -> BitPlan | None:
    """The plan to train under. Raises InputError for one of another network, or beside other rounding."""
    if config.bits == NO_BITS:
        return None
    if config.optimization.activation_bits:
        raise InputError("not together with --bits: the plan says what is rounded", "--activation_bits")
    return read_plan(expanded(config.bits), spec)


def new_training(job: Job) -> Training:
    """The network at the start: random, or with the weights of ``job.start``."""
    config = job.config
    rng = torch.Generator().manual_seed(config.manual_seed)
    from_scratch = config.weights == SCRATCH
    net = build(job.spec, rng, zero_gamma=from_scratch and config.optimization.zero_gamma)
    if job.start is not None and job.start.tensors:
        assign(net, job.start.tensors)
    if job.bits is None:  # which puts layers of its own in place of these
        accelerate(net, job.kernels)
    return Training(
        net.to(job.device),
        config.optimization,
        job.schedule,
        batch_size=config.data.train_batch_size,
        seed=config.manual_seed,
        precision=config.precision,
        class_weights=class_weights(job),
        teacher=job.teacher.to(job.device) if job.teacher is not None else None,
        bits=job.bits,
    )


def class_weights(job: Job) -> torch.Tensor | None:
    """The weight of each class in the loss, (classes,): images / (classes x images of the class); None to count alike.

    Their mean over the training images is 1.
    """
    if job.config.optimization.class_weights == "none":
        return None
    counts = torch.bincount(torch.from_numpy(job.data.train.labels), minlength=job.spec.num_classes)
    return counts.sum() / (job.spec.num_classes * counts.clamp(min=1).float())


def has_classifier_to_fit(job: Job) -> bool:
    """Whether the classifier is to be fitted to the features of trained layers, before the first step."""
    return job.config.optimization.fit_classifier and job.start is not None and job.start.has_fresh_classifier


def header(job: Job) -> str:
    """What is about to happen, for a person."""
    config, data, spec = job.config, job.data, job.spec
    o, world = config.optimization, distributed.world_size()
    name = "digits (scikit-learn, embedded)" if config.data.dataset == "digits" else str(config.data.data_path)
    few_steps = note_on_few_steps(len(data.train), config.data.train_batch_size, world) if job.start is not None else ()
    from_scratch = job.start is not None and not job.start.tensors
    few_images = notes_on_few_images(data, config.data.data_path, FROM_SCRATCH) if from_scratch else []
    held_out = f"{len(data.valid)} to choose the epoch" if len(data.valid) else "none to choose the epoch: the last"
    lines = [
        (
            "network",
            f"{spec.name}: {format_count(total_macs(spec))} MACs, {format_count(total_params(spec))} parameters",
        ),
        *([("weights", _start_text(job.start, config))] if job.start is not None else []),
        *([("note", note) for note in job.start.notes] if job.start is not None else []),
        (
            "data",
            f"{name}: {len(data.train)} images to train, {held_out}, {len(data.test)} to test, "
            f"{spec.num_classes} classes",
        ),
        *[("note", line) for line in (*note_on_edition(config.data), *data.left_out.lines())],
        ("images", describe_preprocessing(spec.preprocessing)),
        *[("note", note) for note in assumption(spec.preprocessing)],
        *data.kept_in_words(spec.preprocessing, job.augment),
        ("recipe", config.recipe),
        *(
            [("teacher", f"{config.teacher}: {100 * o.distillation:g} % of the loss")]
            if job.teacher is not None
            else []
        ),
        ("changes", job.augment.in_words() if job.augment is not None else "none"),
        ("schedule", _schedule_text(job)),
        *[("note", note) for note in (*job.notes, *few_steps)],
        *few_images,
        (
            "update",
            f"SGD {o.momentum:g}{' nesterov' if o.nesterov else ''}, decay {o.weight_decay:g}"
            f"{' (not on BN and bias)' if o.no_decay_bn else ''}, smoothing {o.label_smoothing:g}, "
            f"{_ema_text(job)}{_defensive_text(job)}",
        ),
        (
            "runs on",
            f"{device_name(job.device)}, {config.precision}, torch {torch.__version__}{kernels_text(job.kernels)}, "
            f"{f'{world} processes, ' if world > 1 else ''}{workers_text(job.n_workers, world)}",
        ),
        *(job.memory.lines() if job.memory is not None else []),
    ]
    return "\n".join(labeled(*line) for line in lines)


def _start_text(start: Start, config: TrainConfig) -> str:
    return f"{start.origin}; --from_scratch starts over" if config.weights == INHERIT else start.origin


def _schedule_text(job: Job) -> str:
    """The epochs and the learning rates that they come to, as the schedule has them."""
    o, schedule = job.config.optimization, job.schedule
    parts = [
        f"{counted(schedule.n_epochs, 'epoch')} of {counted(schedule.steps_per_epoch, 'step')} of "
        f"{job.config.data.train_batch_size} images"
    ]
    if has_classifier_to_fit(job):
        parts.append("the classifier fitted to the features first")
    if o.freeze_bn:
        parts.append("BN statistics as they are")
    if schedule.frozen_steps:
        parts.append(f"the classifier alone for {counted(min(o.freeze_epochs, schedule.n_epochs), 'epoch')}")
    lower = f" ({o.init_lr * o.backbone_lr_mult:g} but for the classifier)" if o.backbone_lr_mult != 1 else ""
    warmup = f" after {counted(schedule.warmup_steps, 'step')} of warm-up" if schedule.warmup_steps else ""
    return ", ".join([*parts, f"lr {o.init_lr:g}{lower}{warmup}", "cosine to 0"])


def _ema_text(job: Job) -> str:
    """The EMA decay that the run gets to."""
    asked, steps = job.config.optimization.ema_decay, job.schedule.total_steps
    if not asked:
        return "no EMA"
    reached = Ema.decay_at(asked, max(0, steps - 1))
    return (
        f"EMA decay {reached:g}" if reached == asked else f"EMA decay up to {reached:.3g}, by {counted(steps, 'step')}"
    )


def _defensive_text(job: Job) -> str:
    o = job.config.optimization
    penalty = f", penalty on expanding layers {o.lipschitz:g}" if o.lipschitz else ""
    penalty += f", branches left out {o.path_drop:g}" if o.path_drop else ""
    if job.bits is not None:
        return f"{penalty}, rounded: {job.bits}"
    return penalty + (f", layers take in {o.activation_bits} bits" if o.activation_bits else "")


def expected(job: Job, training: Training) -> str | None:
    """How long the rest of a training takes, for a person: steps, scoring and reading, by a few images of each.

    None where too few of these can be read.
    """
    size = memory.timed_images(job.memory, job.spec, job.device) if job.memory is not None else memory.FEWEST_TIMED
    samples = eval_steps(len(job.data.train), size, limit=size)[0]
    watch = Stopwatch()
    batch = read_batch(job.data.train.read_once(), job.spec.preprocessing, job.augment, job.config.manual_seed, samples)
    if len(batch.labels) < memory.FEWEST_TIMED:
        return None
    reading = watch.seconds / len(batch.labels)
    images = torch.from_numpy(batch.images).permute(0, 3, 1, 2).to(job.device)
    computing = memory.seconds_per_image(training.net, images, torch.from_numpy(batch.labels).to(job.device))
    schedule, size = job.schedule, job.config.data.train_batch_size
    steps = schedule.total_steps - training.step
    frozen = max(0, schedule.frozen_steps - training.step)
    networks = 1 + (training.ema is not None)
    fitted = min(FIT_IMAGES, len(job.data.train)) if has_classifier_to_fit(job) and training.step == 0 else 0
    scored = len(job.data.valid) * networks * steps / max(1, schedule.steps_per_epoch)
    scored += len(job.data.test) * (1 + networks)
    each = seconds_of(computing, reading, job.n_workers)
    forward = seconds_of(computing * memory.FORWARD_SHARE, reading, job.n_workers)
    slow = "; reading images takes longest" if job.n_workers and each > computing else ""
    shared = (steps - frozen) * size * each + (frozen * size + scored) * forward
    total = shared / distributed.world_size() + fitted * forward
    return f"about {runs.format_seconds(total)} ({1000 * each:.0f} ms per image{slow})"


def environment(job: Job, argv: Sequence[str]) -> dict[str, Any]:
    """What this run ran on, for environment.json."""
    return runs.environment(
        argv,
        torch=torch.__version__,
        numpy=np.__version__,
        torch_threads=torch.get_num_threads(),
        device=device_name(job.device),
        processes=distributed.world_size(),
        kernels=job.kernels,
        omp_num_threads=os.environ.get("OMP_NUM_THREADS"),
    )


# ------------------------------------------------------------------------------------------------------------ the run


@dataclass
class Best:
    """The best epoch so far: ``weights`` is 'raw' (the network) or 'ema' (its average); epoch -1 is the start."""

    epoch: int
    weights: str
    top1_hits: int
    loss: float

    def beats(self, other: Best | None, by: str = "accuracy") -> bool:
        """``by``: the setting ``epoch_by``."""
        if other is None:
            return True
        if by == "loss" and other.epoch < 0 <= self.epoch:
            return self.loss < CLEARLY_BELOW * other.loss
        return (self.top1_hits, -self.loss) > (other.top1_hits, -other.loss)


@dataclass
class Run:
    """A training on its way, with the files it leaves. Every rank has one; rank 0 alone writes."""

    job: Job
    training: Training
    run_dir: Path
    metrics: runs.MetricsFile | None
    best: Best | None = None
    seconds_before: float = 0.0

    def __post_init__(self) -> None:
        self.watch = Stopwatch(self.seconds_before)

    @property
    def wall_seconds(self) -> float:
        return self.watch.seconds

    def save(self) -> None:
        """Write the checkpoint (rank 0)."""
        if self.metrics is not None:
            fields = {
                "config": to_dict(anchored(self.job.config)),
                "training": self.training.state_dict(),
                "best": asdict(self.best) if self.best is not None else None,
                "metrics_offset": self.metrics.offset,
                "wall_seconds": self.wall_seconds,
                "data": self.job.fingerprint,
                "ran_on": self.job.ran_on,
            }
            path = self.run_dir / checkpointing.NAME
            checkpointing.save_fields(path, CHECKPOINT_FORMAT, CHECKPOINT_VERSION, fields)
        self.watch.lap()

    def save_is_due(self) -> bool:
        return self.watch.since_lap >= self.job.config.save_every_seconds

    def module(self, weights: str) -> ProxylessNet:
        """The network ('raw') or its average ('ema')."""
        net = self.training.net if weights == "raw" or self.training.ema is None else self.training.ema.net
        assert isinstance(net, ProxylessNet)
        return net

    def write_weights(self, name: str, best: Best, net: ProxylessNet | None = None) -> None:
        """Write weights.safetensors or last.safetensors (rank 0), and drop what the first edition called so.

        ``net``: what ``best`` names, where it is not that of the training.
        """
        if self.metrics is None:
            return
        provenance = {
            "command": "train",
            "run": readable(self.run_dir.name),
            "weights": _weights_text(best),
            "epoch": best.epoch + 1,
            "n_epochs": self.job.schedule.n_epochs,
            "valid_top1_percent": 100 * best.top1_hits / max(1, len(self.job.data.valid)),
            "manual_seed": self.job.config.manual_seed,
        }
        if not len(self.job.data.valid):
            provenance["valid_top1_percent"] = None
        path = self.run_dir / name
        chosen = net or self.module(best.weights)
        save_safetensors(path, self.job.spec, to_named(chosen), provenance, self.job.plan_of(chosen))
        path.with_suffix(".h5").unlink(missing_ok=True)

    def write_best(self) -> None:
        """Write weights.safetensors where the epoch just finished is the best so far.

        Behind the epoch's checkpoint, from which a run that was killed between the two writes it when it is resumed:
        before it, the epoch would be trained again and, on other threads, need not be the best again. A fitted start is
        there already: see fit_classifier.
        """
        training = self.training
        epoch = training.step // training.schedule.steps_per_epoch - 1
        chosen = epoch >= 0 and (len(self.job.data.valid) > 0 or epoch + 1 == training.schedule.n_epochs)
        if training.epoch_is_over and self.best is not None and self.best.epoch == epoch and chosen:
            self.write_weights(BEST_FILE, self.best)
            if self.metrics is not None:
                (self.run_dir / JUDGED_FILE).unlink(missing_ok=True)

    def end_epoch(self, images: int, seconds: float) -> dict[str, Any]:
        """Score the epoch just finished, keep it when it is the best, and write its record.

        Args:
            images: trained on in this process's life, in this epoch (fewer than all where it was resumed midway).
            seconds: that this took.
        """
        job, training = self.job, self.training
        learning_rate = training.schedule.learning_rate(training.step - 1)
        sums = training.take_sums()
        epoch = training.step // training.schedule.steps_per_epoch - 1
        names = ["raw", *(["ema"] if training.ema is not None else [])]
        scores = {name: job.score(self.module(name), job.data.valid) for name in names} if len(job.data.valid) else {}
        if scores:
            found = [Best(epoch, name, score.top1_hits, _finite(score.loss)) for name, score in scores.items()]
            by = job.config.optimization.epoch_by
            candidate = found[0] if len(found) == 1 or not found[1].beats(found[0], by) else found[1]
            improved = candidate.beats(self.best, by)
        else:  # nothing to choose by: the last epoch
            candidate = Best(epoch, names[-1], 0, 0.0)
            improved = True
        last = epoch + 1 == training.schedule.n_epochs
        if improved:
            self.best = candidate
        if last:
            self.write_weights(LAST_FILE, candidate)
        record: dict[str, Any] = {
            "phase": "train",
            "epoch": epoch,
            "n_epochs": training.schedule.n_epochs,
            "step": training.step,
            "train_loss": sums.loss / sums.images,
            "train_top1_percent": 100 * sums.hits / sums.images,
            "valid_loss": _mean_loss(scores.get("raw")),
            "valid_top1_percent": _top1(scores.get("raw")),
            "ema_valid_loss": _mean_loss(scores.get("ema")),
            "ema_valid_top1_percent": _top1(scores.get("ema")),
            "is_best": bool(scores) and improved,
            "learning_rate": learning_rate,
            "images_per_second": round(images / max(seconds, 1e-9), 2),
            "seconds": round(seconds, 3),
        }
        if self.metrics is not None:
            self.metrics.append(record)
        return record


def calibrate_clips(run: Run) -> None:
    """Begin the clips of rounded inputs with what the layers of trained weights take in. All ranks do the same."""
    job = run.job
    if not job.config.optimization.activation_bits or job.start is None or not job.start.tensors:
        return
    chosen = numpy_rng(job.config.manual_seed, Stream.RECALIBRATION).permutation(len(job.data.train))
    images = job.data.train.subset(chosen[:CALIBRATED])
    calibrate(run.module("raw"), job.batches_as_they_are(images), job.device)


def fit_classifier(run: Run) -> None:
    """Fit the classifier to the training images as they are, FIT_IMAGES of them at most. All ranks do the same.

    The best fit is scored like an epoch: epochs that lose to it are not kept. As no epoch is chosen then, what is kept
    of it is fitted to the images that choose as well; beside it lies what they had no part in (JUDGED_FILE), for whom
    they are to judge again. Training begins with the plain fit: the weights of the best one
    are large where the former classifier's were, and led the old layers astray in the first epochs.
    """
    job, net = run.job, run.module("raw")
    assert job.start is not None
    rng = numpy_rng(job.config.manual_seed, Stream.CLASSIFIER_FIT)
    chosen = rng.permutation(len(job.data.train))[:FIT_IMAGES]
    features, labels = features_of(net, job.batches_as_they_are(job.data.train.subset(chosen)))
    weights, former = class_weights(job), job.start.former_classifier
    trained = torch.from_numpy(former) if former is not None else None
    penalty = best_penalty(features, labels, job.spec.num_classes, weights, trained, rng)
    kept = copy.deepcopy(net)
    fit = partial(fit_linear, kept.classifier.linear, class_weights=weights, trained=trained, penalty=penalty)
    fit(features, labels)
    distributed.broadcast(list(kept.state_dict().values()))
    score = job.score(kept, job.data.valid)  # of none: the last epoch is kept, or this where there is no epoch
    run.best = Best(-1, "raw", score.top1_hits, _finite(score.loss))
    if len(job.data.valid):
        run.write_weights(JUDGED_FILE, run.best, kept)
        more = features_of(net, job.batches_as_they_are(job.data.valid))
        fit(torch.cat([features, more[0]]), torch.cat([labels, more[1]]))
    if len(job.data.valid) or not job.schedule.n_epochs:
        run.write_weights(BEST_FILE, run.best, kept)
    fit_linear(net.classifier.linear, features, labels, weights)
    distributed.broadcast(list(net.state_dict().values()))
    run.training.restart_average()


def restore(job: Job, training: Training, run_dir: Path) -> tuple[dict[str, Any], Best | None]:
    """Put a run's checkpoint into ``training``; returns its fields and the best epoch so far.

    Raises:
        InputError: no checkpoint, a damaged one, one of another network, or of other images.
    """
    path = run_dir / checkpointing.NAME
    fields = read_checkpoint(path)
    try:
        changes_of_resume(from_dict(fields["config"], str(path), fill_missing=True), job.config)
    except InputError:
        raise InputError("config.json and the checkpoint are of different runs", "--resume", str(run_dir)) from None
    if fields["data"] is not None and (
        changed := _changed_images(fields["data"], job.data.fingerprint(fields["data"]))
    ):
        raise InputError(f"not the images this run was started with: {'; '.join(changed)}", "--resume", str(path))
    training.check_state(fields["training"], str(path))
    training.load_state_dict(fields["training"])
    return fields, Best(**fields["best"]) if fields["best"] is not None else None


_BEST: Schema = {
    "epoch": lambda node: node.integer(-1, 2**31),
    "weights": lambda node: node.text(("raw", "ema")),
    "top1_hits": count,
    "loss": Node.number,
}
_IMAGES: Schema = {
    **{f"{name}_images": count for name in ("train", "valid", "test")},
    **{f"{name}_names": Node.text for name in ("train", "valid", "test")},
    "class_names": lambda node: None,
}
_CHECKPOINT: Schema = {
    "config": plain,
    "training": mapping,
    "metrics_offset": count,
    "wall_seconds": amount,
    "best": lambda node: judge(node, _BEST, list(_BEST)),
    "data": lambda node: judge(Node(plain(node), node.path), _IMAGES, list(_IMAGES)),
    "ran_on": lambda node: judge(Node(plain(node), node.path), {"processes": count}, ("processes",)),
}


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The fields of a training's checkpoint, of the right kinds. Raises InputError."""
    fields = checkpointing.load_fields(
        path, CHECKPOINT_FORMAT, CHECKPOINT_VERSION, CHECKPOINT_FIELDS, "training", CHECKPOINT_YOUNGER
    )
    try:
        judge(Node(fields), _CHECKPOINT, ("config", "training", "metrics_offset", "wall_seconds"))
    except InputError as error:
        raise error.from_source(str(path)) from None
    return fields


def _changed_images(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """How two fingerprints of images differ, for a person."""
    changed = []
    for name, purpose in (("train", "to train on"), ("valid", "to choose the epoch by"), ("test", "to test on")):
        count, found = before[f"{name}_images"], now[f"{name}_images"]
        if count != found:
            changed.append(f"{counted(count, 'image')} {purpose}, now {found}")
        elif before[f"{name}_names"] != now[f"{name}_names"]:
            changed.append(f"other names or labels among the {counted(count, 'image')} {purpose}")
    return [*changed, *(["other classes"] if before["class_names"] != now["class_names"] else [])]


def note_on_machine(job: Job, fields: Mapping[str, Any]) -> tuple[str, ...]:
    """One line where the run of a checkpoint goes on with another torch, device, number of threads, kernels or
    processes, each of which normalizes by its own share of a batch; else none."""
    before = {"kernels": TORCH_KERNELS, **(fields["ran_on"] or job.ran_on)}
    changed = [f"{name} {value} (was {before[name]})" for name, value in job.ran_on.items() if value != before[name]]
    if not changed:
        return ()
    return (f"not bit for bit the uninterrupted run: it goes on with {', '.join(changed)}",)


def loop(
    run: Run,
    *,
    wants_to_stop: Callable[[], bool],
    on_step: Callable[[int], None],
    on_epoch: Callable[[dict[str, Any]], None],
) -> bool:
    """Train to the end of the schedule; true when it got there, false when any rank wanted to stop.

    Args:
        on_step: gets the number of images of the step.
        on_epoch: gets the record of each finished epoch.
    """
    training, job = run.training, run.job
    batches = job.train_batches(training.step)
    watch, first = Stopwatch(), training.step
    while training.step < job.schedule.total_steps:
        images, labels = next(batches)
        stop = training.update(
            images.to(job.device, non_blocking=True), labels.to(job.device, non_blocking=True), wants_to_stop()
        )
        on_step(job.config.data.train_batch_size)
        if training.epoch_is_over:
            n_images = (training.step - first) * job.config.data.train_batch_size
            record = run.end_epoch(n_images, watch.lap())
            on_epoch(record)
            n_trained = job.schedule.steps_per_epoch * job.config.data.train_batch_size
            check_learns(
                record["train_loss"], record["train_top1_percent"], n_trained, job.spec.num_classes, "--init_lr"
            )
            first = training.step
        if stop or training.epoch_is_over or run.save_is_due():
            run.save()
            run.write_best()
        if stop and training.step < job.schedule.total_steps:
            return False
    return True


def _weights_of_all(run_dir: Path) -> WeightFile:
    """What the run wrote, read by the process that did: the others may be on machines without its disk."""
    found = None
    with distributed.fail_together():
        if distributed.is_main():
            found = read_tensors(own_weights(run_dir) or run_dir / BEST_FILE)
    return distributed.broadcast_value(found)


def finish(run: Run) -> dict[str, Any]:
    """Score what was written on the test images, write per_class.json and result.json, and return the record.

    ``top1_percent`` and ``test_top1_percent`` are of weights.safetensors; ``last`` has the last epoch's network and
    average.
    """
    job, training = run.job, run.training
    distributed.barrier()  # the weights are whole
    best = run.best
    net: nn.Module = training.net
    if best is not None:
        found = _weights_of_all(run.run_dir)
        if found.bits is not None:
            net = build_quantized(job.spec, found.tensors, found.bits).to(job.device)
            write_plan(run.run_dir / PLAN_FILE, found.bits) if distributed.is_main() else None
        else:
            stored = build(job.spec)
            load_named(stored, job.spec, found.tensors)
            net = stored.to(job.device)
    elif run.metrics is not None:  # no epoch was trained
        told = {"command": "train", "n_epochs": 0}
        plan = job.plan_of(run.module("raw"))
        save_safetensors(run.run_dir / BEST_FILE, job.spec, to_named(training.net), told, plan)
    valid, by_class = job.score(net, job.data.valid), job.score_by_class(net, job.data.test)
    valid_top1 = _top1(valid)
    if best is not None and best.epoch < 0 and valid.n_images:  # what is kept was fitted to these images as well
        valid_top1 = 100 * best.top1_hits / valid.n_images
    test = by_class.total
    last = {"raw": job.score(run.module("raw"), job.data.test)}
    if training.ema is not None:
        last["ema"] = job.score(run.module("ema"), job.data.test)
    record = {
        "arch": job.config.arch,
        "weights": _weights_text(best) if best is not None else "as they were: no epoch was trained",
        "best_epoch": best.epoch + 1 if best is not None else None,
        "n_epochs": job.schedule.n_epochs,
        "steps": training.step,
        "top1_percent": valid_top1,
        "test_top1_percent": _top1(test),
        "test_top5_percent": test.top5_percent if test.n_images else None,
        "test_loss": _mean_loss(test),
        "last_test_top1_percent": {name: _top1(score) for name, score in last.items()},
        "n_train_images": len(job.data.train),
        "n_valid_images": valid.n_images,
        "n_test_images": test.n_images,
        "test_images": job.fingerprint["test_names"],
        "images": job.fingerprint,
        "macs": total_macs(job.spec),
        "params": total_params(job.spec),
        "resolution": job.spec.resolution,
        "num_classes": job.spec.num_classes,
        "manual_seed": job.config.manual_seed,
        "processes": distributed.world_size(),
        "unreadable_images": training.left_out,
        "left_out": job.data.left_out.to_json(),
        "wall_seconds": round(run.wall_seconds, 2),
    }
    if run.metrics is not None:
        if test.n_images:
            names = class_names(job.spec)
            write_json(run.run_dir / PER_CLASS_FILE, per_class_record(by_class, job.data.test, names))
        write_json(run.run_dir / "result.json", record)
    return record


def write_start(job: Job, run_dir: Path) -> None:
    """What a run folder holds before the first step: config.json (with every setting of today) and spec.json."""
    run_dir.mkdir(parents=True, exist_ok=True)
    write_json(run_dir / "config.json", to_dict(anchored(job.config)))
    codec.write_spec(run_dir / SPEC_FILE, job.spec)


def _weights_text(best: Best) -> str:
    if best.epoch < 0:
        return "the classifier fitted at the start, the other layers as they were"
    what = "the average over steps (EMA)" if best.weights == "ema" else "the network itself, not its average"
    return f"{what}, epoch {best.epoch + 1}"


def _finite(loss: float) -> float:
    """The loss, or the largest number where it is not finite: it must compare, and go into a checkpoint."""
    return loss if math.isfinite(loss) else float(np.finfo(np.float64).max)


def _mean_loss(score: EvalResult | None) -> float | None:
    return score.loss if score is not None and score.n_images and math.isfinite(score.loss) else None


def _top1(score: EvalResult | None) -> float | None:
    return score.top1_percent if score is not None and score.n_images else None


def epoch_line(record: dict[str, Any]) -> str:
    """The console line of an epoch: accuracies are top-1 in percent, ``*`` marks the best epoch so far."""
    count = f"{record['epoch'] + 1:>{len(str(record['n_epochs']))}}/{record['n_epochs']}"
    parts = [
        f"epoch {count}",
        f"lr {record['learning_rate']:.5f}",
        f"loss {number_of(record['train_loss'], 6, 3)}",
        f"train {record['train_top1_percent']:5.1f}%",
    ]
    if record["valid_top1_percent"] is not None:
        ema = record["ema_valid_top1_percent"]
        average = f" (EMA {ema:5.1f}%)" if ema is not None else ""
        parts.append(f"valid {record['valid_top1_percent']:5.1f}%{average}")
    parts.append(f"{record['images_per_second']:5.0f} img/s{' *' if record['is_best'] else ''}")
    return "  ".join(parts)


def summary(config: TrainConfig, record: Mapping[str, Any], run_dir: Path) -> str:
    """The end of a run, for a person."""
    images = config.data.data_path or DIGITS

    def score(value: float | None, what: str, n_images: int) -> str:
        return "-" if value is None else shown_score(value, n_images, what)

    n_test, n_valid = record["n_test_images"], record["n_valid_images"]
    accuracy = score(record["test_top1_percent"], "test images", n_test)
    if n_valid:
        accuracy += f", {score(record['top1_percent'], 'validation images; they chose the epoch', n_valid)}"
    left_out = record["unreadable_images"]
    last = ", ".join(
        f"{name} {score(value, 'test images', n_test)}" for name, value in record["last_test_top1_percent"].items()
    )
    lines = [
        ("weights", f"{own_weights(run_dir) or run_dir / BEST_FILE}: {record['weights']}"),
        ("accuracy", accuracy),
        ("last epoch", last),
        *(
            [("unreadable", f"{counted(left_out, 'time')} an image was left out (warnings above name them)")]
            if left_out
            else []
        ),
        ("time", runs.format_seconds(record["wall_seconds"])),
        ("next", command_line("eval.py", "--arch", str(run_dir), "--data_path", images)),
    ]
    if images != DIGITS:
        lines.append(("", command_line("predict.py", images, "--arch", str(run_dir))))
    spec = codec.read_spec(run_dir / SPEC_FILE)
    if can_shrink(spec):
        lines.append(("", command_line(*pruning(run_dir, spec))))
    return "\n".join(["", *(labeled(*line) for line in lines)])
