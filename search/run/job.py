"""What a search starts from: a config becomes data, space, costs and a target, all checked."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import torch

from hardware.cost import MACS, PARAMS, CostTable, check_target, default_target, price_by, price_space
from hardware.latency import LatencySource
from hardware.profile.device import ProfileSettings
from hardware.profile.pricing import Priced
from hardware.projection import Limit, check_limits, window
from hardware.table import LookupTable
from proxyless_arch.apps.memory import Plan
from proxyless_arch.apps.orientation import AUTO, turns_upright
from proxyless_arch.arch.spec import BatchNorm, Preprocessing, imagenet_preprocessing
from proxyless_arch.arch.walk import LayerCall
from proxyless_arch.base.errors import InputError
from proxyless_arch.base.machine import usable_cores
from proxyless_arch.base.strict import judged_at
from proxyless_arch.base.words import MEASURABLE
from proxyless_arch.data.batches import batch_for, seconds_to_read
from proxyless_arch.data.datasets import ImageDataset, SearchData, load_for_search
from proxyless_arch.data.images import Augment
from proxyless_arch.data.streams import Stream, numpy_rng
from proxyless_arch.space import tree
from proxyless_arch.space.named import space_named
from proxyless_arch.space.search_space import SearchSpace
from proxyless_nas import distributed
from proxyless_nas.data import Batches, eval_batches, train_batches
from proxyless_nas.fast import kernels_in_use
from search.algorithm import objective
from search.config import (
    LIMIT_KEY,
    SMALL_IMAGE,
    TARGET_KEY,
    DataConfig,
    SearchConfig,
    Target,
    default_resolution,
    default_space,
)
from search.run import choosing, memory
from search.run.device import has_table, load_prices, make_table, missing_table, profile_settings
from search.run.loop import Schedule, Search, schedule_of
from search.run.parent import Parent, check_around, check_sharing

TIMED_PIXELS = 8 * 224**2
"""Of the images that steps are timed with on a CPU, where time grows with them from the first on."""
FEWEST_TIMED = 2
MOST_READERS = 4
"""Of one process, which shares the cores with the other ranks on its machine."""


def mixed(images: ImageDataset, count: int, seed: int) -> ImageDataset:
    """At most ``count`` images in random order: folders are sorted by class, and a batch must not hold one class."""
    return images.subset(numpy_rng(seed, Stream.RECALIBRATION).permutation(len(images))[:count])


def readers_of(config: SearchConfig) -> int:
    """Processes that read images, for each of the batches' two streams."""
    if config.data.n_worker is not None:
        return config.data.n_worker
    if config.data.dataset == "digits":
        return 0
    return max(1, min(MOST_READERS, usable_cores() // distributed.local_size()))


@dataclass(frozen=True)
class Job:
    """A config with everything it refers to found, opened and checked."""

    config: SearchConfig
    data: SearchData
    space: SearchSpace
    prices: Priced
    table: CostTable | None
    goal: float | None
    schedule: Schedule
    device: torch.device
    augment: Augment | None
    limits: tuple[Limit, ...] = ()
    memory: Plan | None = None
    """How batches are computed in the memory there is; None where nothing is trained."""
    notes: tuple[str, ...] = ()
    parent: Parent | None = None
    """The trained network that the search is around; None of a search in a space."""
    unmeasured: ProfileSettings | None = None
    """In a dry run, what would measure this device first; then nothing is priced."""

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
        """The first images of one part of a batch, to time steps with, read here: no worker process is left behind."""
        size = self.config.data.train_batch_size // distributed.world_size()
        if self.memory is not None:
            size = self.memory.part_images
        if self.device.type == "cpu":
            size = min(size, max(FEWEST_TIMED, TIMED_PIXELS // self.space.preprocessing.side**2))
        single = train_batches(
            self.data.train,
            self.space.preprocessing,
            self.augment,
            batch_size=size,
            seed=self.config.manual_seed,
            n_steps=1,
        )
        return next(single)

    def seconds_to_read(self) -> float:
        """How long this process and its readers need for an image; those in memory take no time to speak of."""
        if self.config.data.data_path is None:
            return 0.0
        each = seconds_to_read(self.data.train, self.space.preprocessing, self.augment)
        return each / max(1, self.n_workers)

    @property
    def arch_batch_size(self) -> int:
        """Images of an architecture step, of all processes together."""
        arch = self.config.arch
        given = arch.rl_data_batch if arch.arch_algo == "rl" and arch.rl_data_batch else arch.grad_data_batch
        size = min(given or self.config.data.train_batch_size, len(self.data.valid))
        return size - size % distributed.world_size()  # only where there are fewer images than are asked for

    def valid_batches(self, first_step: int) -> Batches:
        """Batches of the architecture steps: held-out images in an order of their own, augmented if so configured."""
        return self._batches(
            self.data.valid,
            self.augment if self.config.arch.arch_augment else None,
            self.arch_batch_size,
            self.schedule.arch_steps,
            first_step,
            self.config.manual_seed + 1,
        )

    def _batches(
        self, images: ImageDataset, augment: Augment | None, size: int, n_steps: int, first: int, seed: int
    ) -> Batches:
        return train_batches(
            images,
            self.space.preprocessing,
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

    def eval_batches(
        self,
        images: ImageDataset,
        limit: int | None = None,
        augment: Augment | None = None,
        batch_size: int | None = None,
    ) -> Batches:
        """Every image once, in batches of ``test_batch_size`` (or what fits) unless another is given."""
        wanted = self.config.data.test_batch_size
        size = wanted if self.memory is None else memory.most_scored(self.memory, self.space, wanted)
        return eval_batches(
            images,
            self.space.preprocessing,
            batch_size=batch_size or size,
            n_workers=self.n_workers,
            limit=limit,
            strict=self.config.data.strict_data,
            augment=augment,
            seed=self.config.manual_seed,
        )

    def recalibration_batches(self, augment: Augment | None) -> Batches:
        """Training images for BN statistics, each once; the same ones whether augmented or not.

        In batches as large as those that were normalized in training, whole or in parts: what is derived must not
        depend on how many are scored at a time.
        """
        images = mixed(self.data.train, self.config.finish.recalibration_images, self.config.manual_seed)
        return self.eval_batches(images, augment=augment, batch_size=self.normalized_together)

    @property
    def normalized_together(self) -> int:
        """Images of a batch, or of its part, that batch normalization sees in training."""
        return -(-self.config.data.train_batch_size // (self.config.data.accumulation or 1))

    def recalibrations(self) -> dict[str, Augment | None]:
        """The ways of recalibrating BN that are to be tried, by name."""
        ways: dict[str, Augment | None] = {"plain": None}
        if self.augment is not None:
            ways["augmented"] = self.augment
        chosen = self.config.finish.recalibration
        return ways if chosen == "best" else {chosen: ways[chosen]}

    @property
    def n_workers(self) -> int:
        return readers_of(self.config)

    @property
    def kernels(self) -> str:
        """What computes beside torch: fast.kernels_in_use."""
        return kernels_in_use(self.config.kernels, self.device)

    @property
    def asked(self) -> list[Limit]:
        """What the derived network is to keep to; nothing where the most probable one is taken as it is."""
        if self.config.target.derive == "argmax":
            return []
        at_target = self.table is not None and self.goal is not None
        return [*([self._window()] if at_target else []), *self.limits]

    @property
    def candidates(self) -> list[Limit]:
        """What the networks that are scored keep to: as ``asked`` or, where nothing is asked, any cost."""
        return self.asked or [choosing.any_cost(self.space)]

    def _window(self) -> Limit:
        assert self.table is not None and self.goal is not None
        return window(self.table, self.goal, self.config.target.window, f"--{TARGET_KEY[self.table.unit]}")

    def costs(self, calls: Sequence[LayerCall]) -> list[float] | None:
        """The price of each layer and any constant behind them, in the table's unit."""
        return price_by(self.prices.source).costs(calls) if self.table is not None else None


def _preprocessing(resolution: int, data: DataConfig, class_names: Sequence[str]) -> Preprocessing:
    """ImageNet's preprocessing for photos of some size; small images are resized to the resolution as a whole."""
    if data.dataset == "digits":
        return Preprocessing(resolution=resolution, resize=resolution, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    small = resolution <= SMALL_IMAGE
    resize = resolution if small else imagenet_preprocessing(resolution).resize
    as_before = data.exif == AUTO and data.data_edition == 1
    exif = None if as_before else turns_upright(data.exif, class_names, released_weights=False)
    return replace(imagenet_preprocessing(resolution), resize=resize, exif=exif)


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
    if config.data.resize_scale is not None:
        if found is None or found.pad_crop:
            raise InputError(f"has no use with --augment {name}: nothing is resized at random", "--resize_scale")
        found = replace(found, min_scale=config.data.resize_scale)
    found = found and replace(found, scaled_decoding=config.data.data_edition > 1)
    if found is None and config.finish.recalibration == "augmented":
        raise InputError("has no meaning with --augment none", "--recalibration augmented")
    return found


def check_batches(config: SearchConfig, processes: int) -> None:
    """Raises InputError for a batch that cannot be shared out equally."""
    data, arch = config.data, config.arch
    sizes = {
        "batch_size": data.train_batch_size,
        "grad_data_batch": arch.grad_data_batch,
        "rl_data_batch": arch.rl_data_batch,
    }
    for flag, size in sizes.items():
        if size is not None and size % processes:
            raise InputError(f"expected a multiple of {processes} (the processes), got {size}", f"--{flag}")
    paths = config.weights.paths_per_step
    if paths is not None and paths > 1 and (paths % processes or data.train_batch_size % paths):
        raise InputError(
            f"expected 1, or a multiple of {processes} (the processes) that divides --batch_size "
            f"{data.train_batch_size}, got {paths}",
            "--paths_per_step",
        )


def _cost_table(config: SearchConfig, space: SearchSpace, source: LatencySource | None) -> CostTable | None:
    hardware = config.target.target_hardware
    if hardware == "none":
        return None
    try:
        return price_space(space, price_by(source))
    except InputError as error:
        if not isinstance(source, LookupTable):
            raise
        raise InputError(f"{error.problem}; {_what_has_it(config.target, space)}", error.place, error.source) from None


def _what_has_it(target: Target, space: SearchSpace) -> str:
    """What prices the layers of ``space`` that a table lacks, for a person."""
    if not has_table(space):
        return "a table holds the widths of one space alone: give the predictor.json beside it"
    settings = profile_settings(target, space)
    if target.target_hardware == "mobile":
        export = replace(settings, target_hardware="cpu").command()  # of no matter to what is exported
        return (
            f"measure it ({export} --export_ops DIR), or let the fitted predictor fill in with "
            "--latency_fallback predictor"
        )
    return f"measure this space ({settings.command()}), or give the predictor.json beside it"


def _goal(config: SearchConfig, table: CostTable | None) -> float | None:
    target = config.target
    if table is None:
        return None
    flag, given = f"--{TARGET_KEY[table.unit]}", getattr(target, TARGET_KEY[table.unit])
    goal = check_target(given, table, flag) if given is not None else default_target(table)
    if target.grad_reg_loss_type == "mul#log" and config.arch.arch_algo == "grad":
        objective.check_logarithm(table.minimum * table.unit.in_loss, goal * table.unit.in_loss)
    return goal


def _limits(target: Target, space: SearchSpace) -> tuple[Limit, ...]:
    """What the network must keep to beside its target. Raises InputError for what no network of the space keeps to."""
    limits = []
    for price in (PARAMS, MACS):
        upper, flag = getattr(target, LIMIT_KEY[price.unit]), f"--{LIMIT_KEY[price.unit]}"
        if upper is None:
            continue
        table = price_space(space, price)
        if upper < table.minimum:
            check_target(upper, table, flag)
        limits.append(Limit(table, upper, flag=flag))
    return tuple(limits)


def _check_gaps(config: SearchConfig, table: CostTable | None, goal: float | None, limits: Sequence[Limit]) -> None:
    """Raises InputError where no network meets the target and the limits: before the search, not behind it."""
    is_random = config.arch.arch_algo == "random"  # which says itself how many networks it found
    projected = config.target.derive == "projected" and not is_random
    if table is not None and goal is not None and (projected or limits):
        check_limits([window(table, goal, config.target.window, f"--{TARGET_KEY[table.unit]}"), *limits])
    elif limits:
        check_limits(limits)


def prepare(
    config: SearchConfig,
    device: torch.device,
    say: Callable[[str], Any] = print,
    *,
    resumed: bool = False,
    measures: bool = True,
    space: SearchSpace | None = None,
) -> Job:
    """Open the data, build the space, see what fits the memory, price it and check the target.

    Every process calls it: they fail together. The job's config has the number of parts that a batch is computed in.
    ``resumed``: it goes on as it was begun, whatever is free. ``measures``: else a missing latency table is only named.
    ``space``: the one that a run searches already; by default it is built from the settings.

    Raises InputError before anything is written but the latency table of this device, which is made where it lacks.
    """
    free = distributed.least_free(device)
    with distributed.fail_together():
        check_batches(config, distributed.world_size())
        data = open_images(config)
        parent = _parent(config, data) if space is None or space.shares_weights else None
        space = space or (parent.space if parent is not None else _space(config, data.class_names))
        check_sharing(config, space)
        n_classes = len(data.class_names)
        if space.num_classes != n_classes and not resumed:  # then the fingerprint says what came or went
            raise InputError(f"expected {n_classes} classes, those of the images, got {space.num_classes}", "space")
        _check_sizes(config, space, resumed)
        _check_priced(config.target, space)
        config, notes = _with_batch_for(config, len(data.train))
        plan = None
        if config.arch.arch_algo != "random":
            plan = memory.plan_of(
                config,
                data,
                space,
                _augment(config, space.preprocessing.side),
                readers_of(config),
                free,
                resumed=resumed,
            )
            config = replace(config, data=replace(config.data, accumulation=plan.parts))
    missing = None
    with distributed.fail_together():  # the others wait here for the one that measures
        if config.target.target_hardware in MEASURABLE and distributed.is_main():
            missing = missing_table(config.target, space, config.space.parent)
            if missing is not None and measures:
                make_table(missing, config.target, say)
                missing = None
    if missing is not None:
        unpriced = replace(config, target=Target(target_hardware="none"))
        job = _priced(unpriced, data, space, device)
        return replace(job, config=config, memory=plan, notes=notes, parent=parent, unmeasured=missing)
    with distributed.fail_together():
        found = replace(_priced(config, data, space, device), memory=plan, notes=notes, parent=parent)
        if config.arch.arch_algo == "predictor":  # before the warm-up: are there enough networks to learn from?
            choosing.predictor_of(config, found.candidates)
        return found


def open_images(config: SearchConfig) -> SearchData:
    """The images that the settings name. Raises InputError for none, another layout, or sizes that do not fit."""
    valid_size = config.data.valid_size
    return load_for_search(
        config.data.dataset,
        config.data.data_path,
        valid_size if valid_size < 1 else int(valid_size),
        config.manual_seed if config.data.split_seed is None else config.data.split_seed,
        config.data.data_edition,
    )


def _parent(config: SearchConfig, data: SearchData) -> Parent | None:
    if config.space.parent is None:
        return None
    check_around(config)
    return Parent(config, data.train)


def _space(config: SearchConfig, class_names: tuple[str, ...]) -> SearchSpace:
    """Raises InputError for a setting that the space does not have."""
    resolution = config.data.resolution or default_resolution(config.data.dataset, config.space.space)
    asked, name = config.space, config.space.space or default_space(resolution)
    common: dict[str, Any] = {
        "num_classes": len(class_names),
        "preprocessing": _preprocessing(resolution, config.data, class_names),
        "bn": BatchNorm(eps=asked.bn_eps, momentum=asked.bn_momentum),
        "dropout_rate": asked.dropout,
        "class_names": class_names,
    }
    if name == tree.NAME:
        blocks, width = asked.blocks_per_stage or tree.BLOCKS_PER_STAGE, asked.final_width or tree.FINAL_WIDTH
        with judged_at("", {"final_width": "--final_width", "width_mult": "--width_mult"}):
            return tree.tree_space(blocks, width, asked.width_mult, **common)
    return space_named(name).build(width_mult=asked.width_mult, **common)


def _check_sizes(config: SearchConfig, space: SearchSpace, resumed: bool) -> None:
    """Raises InputError for a size of the warm-up's images that the strides of the space do not divide; and for one of
    all images that they leave less than a pixel of, but where a run that has begun so goes on."""
    wrong = [size for size in config.data.warmup_sizes if size % space.reduction]
    if wrong:
        known = f"expected multiples of {space.reduction} (the strides of space {space.name})"
        raise InputError(f"{known}, got {', '.join(map(str, wrong))}", "--resolutions")
    if config.data.resolution is not None and not resumed:
        space.check_side(config.data.resolution, "--resolution")


def _check_priced(target: Target, space: SearchSpace) -> None:
    """Raises InputError where nothing has the latency of the space's layers and nothing here measures it."""
    hardware = target.target_hardware
    if hardware in ("flops", "none") or target.latency_table is not None:
        return
    is_tree = len(space.edges) < len(space.choices)
    others = [op for ops in space.choices for op in ops if op.bottleneck is None and not op.vanishes]
    if is_tree or (hardware == "mobile" and others):  # the model of a Pixel 1 was fitted on inverted bottlenecks
        what, more = ("tree-structured cells", "") if is_tree else (f"{others[0].label} and the like", "cpu, ")
        raise InputError(
            f"nothing here knows the latency of {what} on {hardware}: give it with --latency_table, or take "
            f"{more}flops or none",
            "--target_hardware",
        )


def _with_batch_for(config: SearchConfig, n_images: int) -> tuple[SearchConfig, tuple[str, ...]]:
    """The settings with a batch that so many images fill, and what to say of it. Raises InputError for one named."""
    given = config.data.train_batch_size
    is_named = config.data.accumulation is not None
    size, notes = batch_for(n_images, given, is_named, distributed.world_size())
    return replace(config, data=replace(config.data, train_batch_size=size)), notes


def _priced(config: SearchConfig, data: SearchData, space: SearchSpace, device: torch.device) -> Job:
    prices = load_prices(config.target, space, config.space.parent)
    table = _cost_table(config, space, prices.source)
    goal, limits = _goal(config, table), _limits(config.target, space)
    _check_gaps(config, table, goal, limits)
    return Job(
        config=config,
        data=data,
        space=space,
        prices=prices,
        table=table,
        goal=goal,
        limits=limits,
        schedule=schedule_of(config, len(data.train)),
        device=device,
        augment=_augment(config, space.preprocessing.side),
    )


def fingerprint(job: Job, told: Mapping[str, Any] = MappingProxyType({})) -> dict[str, Any]:
    """What a run must find again to be resumed: its images, classes, prices and goal. Plain values.

    ``told``: of a run whose images may be these within other folders (SearchData.fingerprint).
    """

    table, costs = job.table, None
    if table is not None:
        terms = (table.terms,) if table.terms else ()
        costs = hashlib.sha256(repr((table.fixed, table.groups, *terms)).encode()).hexdigest()[:16]
    return {**job.data.fingerprint(told), "latency_table": costs, "target": job.goal}


def new_search(job: Job, *, starts: bool = True) -> Search:
    """``starts``: with the weights of a trained network, where it is around one; else a checkpoint has them."""
    tensors = job.parent.tensors if job.parent is not None and starts else None
    return Search(job.config, job.space, job.table, job.goal, job.schedule, job.device, tensors=tensors)
