"""The search itself: a warm-up of the weights, then weight steps with an architecture step every few of them.

Everything random is a function of (seed, step) or, for dropout, (seed, step, rank), so the state between two steps is
small and a resumed run continues bit for bit. With several processes (torchrun) each takes its share of every batch and
trains a path of its own on it (paths_per_step); gradients are averaged over the images, and the counts of an epoch are
sums over all. BN uses each path's own share of the batch. One process that trains as many paths in turn ends with the
same weights.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import InitVar, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from hardware.cost import CostTable
from proxyless_arch.base.errors import InputError
from proxyless_arch.base.timing import Stopwatch
from proxyless_arch.base.units import Unit
from proxyless_arch.data.streams import Stream, TorchStream, numpy_rng
from proxyless_arch.space.search_space import Path, SearchSpace
from proxyless_arch.weights.files import NamedTensors
from proxyless_nas import distributed
from proxyless_nas.fast import accelerate, kernels_in_use
from proxyless_nas.steps import (
    NonFiniteLossError,
    cosine_lr,
    distillation_loss,
    in_parts,
    is_sound,
    limit_gradients,
    seed_dropout,
    set_lr,
    sgd,
    smoothed_loss,
)
from proxyless_nas.train.checkpointing import check_like, check_optimizer
from search.algorithm.controllers import CONTROLLERS, init_alphas, step_rng
from search.algorithm.elastic import ElasticNet
from search.algorithm.gates import argmax_path, entropy, fixed_gates, probabilities, sample_path
from search.algorithm.supernet import PathSupernet, Supernet
from search.config import SearchConfig
from search.run.checkpoint import Checkpoint

Batches = Iterator[tuple[Tensor, Tensor]]
Losses = Iterator[tuple[Tensor, Tensor | None, Tensor]]
"""(loss; logits where it is on labels; labels) of each part of a step, to be differentiated one at a time."""


@dataclass(frozen=True)
class Schedule:
    """How many steps of what: derived from the config and the number of training images.

    ``arch_repeats`` architecture steps follow every ``arch_every`` weight steps of the search; or, where it is given,
    there are ``arch_per_epoch`` in an epoch: evenly spread, at most one behind a weight step, or all ``at_epoch_end``.
    In the first ``arch_rest_epochs`` of the search there are none.
    """

    steps_per_epoch: int
    warmup_epochs: int
    search_epochs: int
    arch_every: int
    arch_repeats: int
    arch_rest_epochs: int = 0
    arch_per_epoch: int | None = None
    at_epoch_end: bool = False

    @property
    def warmup_steps(self) -> int:
        return self.warmup_epochs * self.steps_per_epoch

    @property
    def search_steps(self) -> int:
        return self.search_epochs * self.steps_per_epoch

    @property
    def total_steps(self) -> int:
        return self.warmup_steps + self.search_steps

    @property
    def arch_steps(self) -> int:
        return self.arch_steps_before(self.total_steps)

    def arch_steps_before(self, step: int) -> int:
        """Architecture steps done when ``step`` weight steps are done."""
        searched = max(0, step - self.warmup_steps - self.arch_rest_epochs * self.steps_per_epoch)
        if self.arch_per_epoch is None:
            return searched // self.arch_every * self.arch_repeats
        epochs, within = divmod(searched, self.steps_per_epoch)
        if self.at_epoch_end:
            return epochs * self.arch_per_epoch
        # the release cuts the epoch into segments, the first ones a step longer, and updates at the end of each
        segments = min(self.arch_per_epoch, self.steps_per_epoch)
        length, longer = divmod(self.steps_per_epoch, segments)
        return epochs * segments + max(within // (length + 1), (within - longer) // length)


def search_epochs(config: SearchConfig) -> int:
    """A predictor has none: behind the warm-up it scores networks."""
    return 0 if config.arch.arch_algo == "predictor" else config.weights.n_epochs


def schedule_of(config: SearchConfig, n_train: int) -> Schedule:
    rl = config.arch.arch_algo == "rl"
    return Schedule(
        steps_per_epoch=max(1, n_train // config.data.train_batch_size),
        warmup_epochs=config.warmup.warmup_epochs,
        search_epochs=search_epochs(config),
        arch_every=config.arch.grad_update_arch_param_every,
        arch_repeats=config.arch.grad_update_steps,
        arch_rest_epochs=config.arch.arch_rest_epochs,
        arch_per_epoch=config.arch.rl_update_steps_per_epoch if rl else None,
        at_epoch_end=config.arch.rl_update_per_epoch,
    )


@dataclass
class EpochSums:
    """Running sums of an unfinished epoch; part of the checkpoint."""

    train_loss: float = 0.0
    train_hits: float = 0.0
    train_images: float = 0.0
    valid_loss: float = 0.0
    valid_hits: float = 0.0
    valid_images: float = 0.0


@dataclass
class Search:
    """A supernet, its optimizers and where they stand. ``step`` counts weight steps.

    ``tensors``: what an elastic supernet begins with, those of its largest network; without them its weights are
    random.
    """

    config: SearchConfig
    space: SearchSpace
    table: CostTable | None
    goal: float | None
    schedule: Schedule
    device: torch.device
    step: int = 0
    sums: EpochSums = field(default_factory=EpochSums)
    unreadable: set[str] = field(default_factory=set)
    tensors: InitVar[NamedTensors | None] = None

    def __post_init__(self, tensors: NamedTensors | None) -> None:
        seed = self.config.manual_seed
        self.supernet = self._new_supernet(step_rng(seed, TorchStream.SUPERNET), tensors)
        self.supernet.to(self.device)
        self.supernet.precision = self.config.precision
        accelerate(self.supernet, self.kernels)
        weights = self.config.weights
        self.optimizer = sgd(
            self.supernet,
            lr=weights.init_lr,
            momentum=weights.momentum,
            nesterov=weights.nesterov,
            weight_decay=weights.weight_decay,
            no_decay_bn=weights.no_decay_bn,
        )
        sizes = self.space.sizes
        alphas = init_alphas(sizes, self.config.arch.arch_init_ratio, seed, self.device)
        self.controller = CONTROLLERS[self.config.arch.arch_algo](
            alphas, self.table, self.goal, self.config.arch, self.config.target, self.schedule.arch_steps, seed
        )

    def _new_supernet(self, rng: torch.Generator, tensors: NamedTensors | None) -> PathSupernet:
        zero_gamma, transform = self.config.space.zero_gamma, self.config.weights.kernel_transform
        if self.space.shares_weights:
            return ElasticNet(self.space, rng, tensors, kernel_transform=transform, zero_gamma=zero_gamma)
        return Supernet(self.space, rng, zero_gamma=zero_gamma)

    @property
    def kernels(self) -> str:
        """What computes beside torch: fast.kernels_in_use."""
        return kernels_in_use(self.config.kernels, self.device)

    @property
    def alphas(self) -> list[Tensor]:
        return self.controller.alphas

    @property
    def in_warmup(self) -> bool:
        return self.step < self.schedule.warmup_steps

    def learning_rate(self) -> float:
        """Cosine to 0 within each phase."""
        if self.in_warmup:
            return cosine_lr(self.config.warmup.warmup_lr, self.step, self.schedule.warmup_steps)
        step = self.step - self.schedule.warmup_steps
        return cosine_lr(self.config.weights.init_lr, step, self.schedule.search_steps)

    @property
    def n_paths(self) -> int:
        """How many paths a weight step trains, over all processes."""
        return self.config.weights.paths_per_step or distributed.world_size()

    def trained_paths(self) -> list[Path]:
        """Of the current weight step; by the sandwich rule the largest first, and the smallest."""
        if not self.is_sandwich:
            return [self._sampled_or_largest(number) for number in range(self.n_paths)]
        sampled = [self.sampled_path(number) for number in range(self.config.weights.sandwich_paths)]
        return [self.space.largest_path, self.space.smallest_path, *sampled]

    @property
    def is_sandwich(self) -> bool:
        """Whether weights are shared and trained by the sandwich rule."""
        return self.space.shares_weights and self.config.weights.shared_rule == "sandwich"

    def _sampled_or_largest(self, number: int) -> Path:
        """Where weights are shared the largest with a probability that falls from 1 to 0 over the first quarter of the
        steps (TuNAS, Bender et al., CVPR 2020): of the warm-up's, where there is one, so that it may stand for that of
        a search with more or fewer behind it."""
        if self.space.shares_weights:
            rng = step_rng(self.config.manual_seed, TorchStream.LARGEST_PATH, self.step, number)
            steps = self.schedule.warmup_steps or self.schedule.total_steps
            if float(torch.rand((), generator=rng)) >= 4 * self.step / max(steps, 1):
                return self.space.largest_path
        return self.sampled_path(number)

    def sampled_path(self, number: int = 0) -> Path:
        """A path of the current weight step: uniform in the warm-up (alpha is still near 0), then from alpha."""
        uniform = self.in_warmup or self.config.arch.path_sampling == "uniform"
        alphas = [torch.zeros_like(alpha) for alpha in self.alphas] if uniform else self.alphas
        temperature = 1.0 if uniform else self.controller.temperature
        rng = step_rng(self.config.manual_seed, TorchStream.WEIGHT_PATH, self.step, number)
        return sample_path(alphas, rng, temperature)

    def _shares(self, images: Tensor, labels: Tensor, paths: Sequence[Path]) -> Iterator[tuple[Path, Tensor, Tensor]]:
        """This process's paths, each with every how manyeth of its images it trains on, part by part.

        Every process has an equal number of the step's ``paths``, or the only one. Image i of the whole batch belongs
        to path i modulo their number, whichever process computes it.
        """
        own = paths[distributed.rank() :: distributed.world_size()] if len(paths) > 1 else paths
        parts = -(-(self.config.data.accumulation or 1) // len(own))
        for number, path in enumerate(own):
            share, answers = images[number :: len(own)], labels[number :: len(own)]
            if len(answers):  # none where all of them could not be read
                yield from ((path, *part) for part in in_parts(share, answers, parts))

    def _sized(self, images: Tensor) -> Tensor:
        """The images of a weight step: in a warm-up on several sizes, all at one that is drawn for the step."""
        sizes = self.config.data.warmup_sizes
        if not sizes or not self.in_warmup:
            return images
        rng = numpy_rng(self.config.manual_seed, Stream.WARMUP_SIZE, self.step)
        size = sizes[int(rng.integers(len(sizes)))]
        return (
            images if images.shape[-1] == size else interpolate(images, (size, size), mode="bilinear", antialias=True)
        )

    def _seed_dropout(self, stream: TorchStream, step: int) -> None:
        if self.space.dropout_rate:
            seed_dropout(self.config.manual_seed, stream, step)

    def weight_step(self, images: Tensor, labels: Tensor) -> None:
        """Train the weights of the sampled paths. Raises NonFiniteLossError before any weight moves.

        Gradients add up over the parts of the batch; batch normalization sees one part at a time.
        """
        weights, paths = self.config.weights, self.trained_paths()
        if not self.supernet.training:
            self.supernet.train()
        self._seed_dropout(TorchStream.WEIGHT_DROPOUT, self.step)
        set_lr(self.optimizer, self.learning_rate())
        self.optimizer.zero_grad(set_to_none=True)
        (n_images,) = distributed.summed(len(labels))
        loss_sum, hits = 0.0, 0
        losses = self._sandwich_losses if self.is_sandwich else self._losses
        for loss, logits, answers in losses(self._sized(images), labels, paths):
            # of the whole batch: a process that could not read all of its images counts for less in the mean over all
            (loss * (len(answers) * distributed.world_size() / n_images)).backward()
            if logits is None:
                continue
            loss_sum += loss.item() * len(answers)
            hits += int((logits.argmax(1) == answers).sum())
        broken = not is_sound(loss_sum / max(1, len(labels)))
        totals = distributed.summed(loss_sum, hits, len(labels), broken)
        if totals[3]:
            raise NonFiniteLossError(f"training loss {totals[0] / totals[2]:.4g} at weight step {self.step}", broken)
        self._average_gradients(paths)
        limit_gradients(self.supernet.weights, weights.grad_clip, f"weight step {self.step}")
        self.optimizer.step()
        self.sums.train_loss += totals[0]
        self.sums.train_hits += totals[1]
        self.sums.train_images += totals[2]
        self.step += 1

    def _losses(self, images: Tensor, labels: Tensor, paths: Sequence[Path]) -> Losses:
        """Each path on its share of the images."""
        for path, part, answers in self._shares(images, labels, paths):
            logits = self.supernet(part, path)
            yield smoothed_loss(logits, answers, self.config.weights.label_smoothing), logits, answers

    def _sandwich_losses(self, images: Tensor, labels: Tensor, paths: Sequence[Path]) -> Losses:
        """The largest network on labels, and the others on what it says of the same images."""
        largest, *others = paths
        parts = in_parts(images, labels, self.config.data.accumulation) if len(labels) else ()
        for part, answers in parts:  # none where none could be read
            logits = self.supernet(part, largest)
            yield smoothed_loss(logits, answers, self.config.weights.label_smoothing), logits, answers
            said = logits.detach()
            for path in others:
                yield distillation_loss(self.supernet(part, path), said), None, answers

    def _average_gradients(self, paths: Sequence[Path]) -> None:
        """Average the gradients over the processes: every one has those of its own paths, and gets those of all."""
        if distributed.world_size() == 1:
            return
        trained = self.supernet.parameters_on(paths)
        for parameter in trained:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        distributed.all_reduce_mean([parameter.grad for parameter in trained if parameter.grad is not None])

    def arch_step(self, images: Tensor, labels: Tensor) -> None:
        """Update alpha on held-out images; weights and BN statistics stay."""
        self._seed_dropout(TorchStream.ARCH_DROPOUT, self.controller.step)
        stats = self.controller.update(self.supernet, images, labels, self.arch_parts(len(labels)))
        self.sums.valid_loss += stats.cross_entropy * stats.n_images
        self.sums.valid_hits += stats.top1_hits
        self.sums.valid_images += stats.n_images

    def arch_parts(self, n_images: int) -> int:
        """In how many parts an architecture step computes its images: none is larger than those of a weight step."""
        parts = self.config.data.accumulation or 1
        share = self.config.data.train_batch_size // distributed.world_size()
        return -(-n_images // -(-share // parts)) if parts > 1 else 1

    def arch_steps_due(self) -> int:
        """Architecture steps to take now, after a weight step."""
        return self.schedule.arch_steps_before(self.step) - self.controller.step

    @property
    def epoch_is_over(self) -> bool:
        return self.step % self.schedule.steps_per_epoch == 0

    def expected_cost(self) -> float | None:
        """E[cost] under the current alpha and temperature, in the table's unit."""
        if self.table is None:
            return None
        alphas = [alpha.detach().cpu().double() for alpha in self.alphas]
        return self.table.expected([p.numpy() for p in probabilities(alphas, self.temperature)])

    @property
    def temperature(self) -> float:
        """Of the probabilities at this moment."""
        return 1.0 if self.in_warmup else self.controller.temperature

    def record(self, seconds: float, images_before: float = 0.0) -> dict[str, Any]:
        """What the finished epoch was, in the schema of log.EpochRecord; resets the sums.

        ``seconds``: that its steps took in this process, in which it began after ``images_before`` training images
        (not 0 where the run was resumed within the epoch).
        """
        sums, self.sums = self.sums, EpochSums()

        def mean(total: float, count: float) -> float | None:
            return total / count if count else None

        return {
            **self.unmeasured_record(self.step // self.schedule.steps_per_epoch - 1),
            "train_loss": mean(sums.train_loss, sums.train_images),
            "train_top1_percent": mean(100 * sums.train_hits, sums.train_images),
            "valid_loss": mean(sums.valid_loss, sums.valid_images),
            "valid_top1_percent": mean(100 * sums.valid_hits, sums.valid_images),
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            "images_per_second": (sums.train_images - images_before) / seconds if seconds > 0 else None,
            "seconds": seconds,
        }

    def unmeasured_record(self, done: int) -> dict[str, Any]:
        """The record of epoch ``done`` (from 0, over both phases), with alpha and its costs as they are now.

        What the epoch's steps measure (losses, hits, the learning rate, time) is None.
        """
        warm = done < self.schedule.warmup_epochs
        temperature = 1.0 if warm else self.controller.temperature
        alphas = [alpha.detach().cpu().double() for alpha in self.alphas]
        probs = [p.tolist() for p in probabilities(alphas, temperature)]
        table, path = self.table, argmax_path(alphas)
        return {
            "phase": "warmup" if warm else "search",
            "epoch": done if warm else done - self.schedule.warmup_epochs,
            "n_epochs": self.schedule.warmup_epochs if warm else self.schedule.search_epochs,
            "step": (done + 1) * self.schedule.steps_per_epoch,
            "arch_step": self.controller.step,
            **dict.fromkeys(("train_loss", "train_top1_percent", "valid_loss", "valid_top1_percent", "learning_rate")),
            "expected_cost": self.expected_cost(),
            "argmax_cost": table.of_path(path) if table is not None else None,
            "cost_unit": (table.unit if table is not None else Unit.MS).value,
            "target": self.goal,
            "lambda": self.controller.shown_lambda if not warm else None,
            "temperature": temperature,
            "entropy": float(entropy(alphas, temperature)),
            "probabilities": [[round(value, 6) for value in block] for block in probs],
            "argmax_path": list(path),
            **dict.fromkeys(("images_per_second", "seconds")),
        }

    def checkpoint(
        self, config: dict[str, Any], data: dict[str, Any], metrics_offset: int, wall_seconds: float
    ) -> Checkpoint:
        return Checkpoint(
            config=config,
            step=self.step,
            supernet=self.supernet.state_dict(),
            optimizer=self.optimizer.state_dict(),
            controller=self.controller.state_dict(),
            sums=dict(vars(self.sums)),
            metrics_offset=metrics_offset,
            wall_seconds=wall_seconds,
            data=data,
            unreadable=sorted(self.unreadable),
        )

    def start_behind(self, warm: Checkpoint, source: str | None = None) -> None:
        """Take over the end of another search's warm-up: weights, BN, optimizer and the step.

        Alpha stays as this search drew it: no warm-up moves it. ``warm`` may be used again: torch's optimizer would
        keep the momentum it is given, and move it.
        """
        own = self.controller.state_dict()
        self.restore(replace(warm, optimizer=copy.deepcopy(warm.optimizer), controller=own), source)

    def restore(self, checkpoint: Checkpoint, source: str | None = None) -> None:
        """Stand where a checkpoint does. Raises InputError, with ``source``, for one that no such search can have."""
        self._check_fits(checkpoint, source)
        self.supernet.load_state_dict(checkpoint.supernet)
        self.optimizer.load_state_dict(checkpoint.optimizer)
        self.controller.load_state_dict(checkpoint.controller)
        self.step = checkpoint.step
        self.sums = EpochSums(**checkpoint.sums)
        self.unreadable = set(checkpoint.unreadable)

    def _check_fits(self, checkpoint: Checkpoint, source: str | None) -> None:
        check_like(checkpoint.supernet, self.supernet.state_dict(), "supernet", source)
        check_optimizer(checkpoint.optimizer, self.optimizer, "optimizer", source)
        own = self.controller.state_dict()
        check_like(checkpoint.controller, own, "controller", source, apart=("optimizer",))
        check_optimizer(checkpoint.controller["optimizer"], self.controller.optimizer, "controller.optimizer", source)
        check_like(checkpoint.sums, vars(self.sums), "sums", source)
        steps, arch_steps = checkpoint.step, checkpoint.controller["step"]
        if not 0 <= steps <= self.schedule.total_steps:
            raise InputError(f"expected at most {self.schedule.total_steps} steps, got {steps}", "step", source)
        if arch_steps != (due := self.schedule.arch_steps_before(steps)):
            problem = f"expected {due} architecture steps behind {steps} weight steps, got {arch_steps}"
            raise InputError(problem, "controller.step", source)


def run(
    search: Search,
    train_batches: Batches,
    valid_batches: Batches,
    *,
    on_epoch: Callable[[dict[str, Any]], None],
    on_step: Callable[[Search], bool],
) -> bool:
    """Run to the end of the schedule; true when it got there.

    ``train_batches`` and ``valid_batches`` start at the search's current weight and architecture steps. ``on_step`` is
    called between two steps and stops the run by returning false; ``on_epoch`` gets each finished epoch's record.
    """
    device = search.device
    watch, images_before = Stopwatch(), search.sums.train_images
    while search.step < search.schedule.total_steps:
        images, labels = next(train_batches)
        search.weight_step(images.to(device, non_blocking=True), labels.to(device, non_blocking=True))
        for _ in range(search.arch_steps_due()):
            images, labels = next(valid_batches)
            search.arch_step(images.to(device, non_blocking=True), labels.to(device, non_blocking=True))
        if search.epoch_is_over:
            if not distributed.same_on_all_ranks(search.alphas):
                raise RuntimeError(f"the processes' alphas differ at step {search.step}")
            on_epoch(search.record(watch.lap(), images_before))
            images_before = 0.0
        if not on_step(search):
            return False
    return True


ENOUGH_SECONDS = 10.0
"""Of timing, behind which one round is enough."""


def seconds_per_step(
    search: Search, train: Sequence[Tensor], arch_images: int, step_images: int | None = None, repeats: int = 3
) -> tuple[float, float]:
    """Measured seconds of a weight step and of an architecture step, without changing any state.

    ``train``: (images, labels) of a batch or of its first images; both kinds are measured with them, and the times
    scaled to the step's ``step_images`` (default: these) and ``arch_images``. The first round warms up and is not
    counted; fewer than ``repeats`` follow where they take long.
    """
    images, labels = (tensor.to(search.device) for tensor in train)
    weight: list[float] = []
    arch: list[float] = []
    search.supernet.train()
    parameters = list(search.supernet.parameters())
    controller = copy.deepcopy(search.controller)

    watch = Stopwatch()

    def lap() -> float:
        if search.device.type == "cuda":
            torch.cuda.synchronize(search.device)
        return watch.lap()

    # dropout draws from torch's own generator
    with torch.random.fork_rng(devices=[search.device] if search.device.type == "cuda" else []):
        for repeat in range(repeats + 1):
            if weight and sum(weight) + sum(arch) > ENOUGH_SECONDS:
                break
            path = sample_path(search.alphas, step_rng(search.config.manual_seed, TorchStream.STEP_TIMING, repeat))
            lap()
            for trained in search.trained_paths() if search.is_sandwich else [path]:
                logits = search.supernet(images, trained, fixed_gates(trained, search.device))
                torch.autograd.grad(smoothed_loss(logits, labels, 0.0), parameters, allow_unused=True)
            seconds = lap()
            if search.schedule.arch_steps:
                controller.update(search.supernet, images, labels)
            if repeat:
                weight.append(seconds)
                arch.append(lap())

    def of(seconds: list[float], wanted: int) -> float:
        return sorted(seconds)[len(seconds) // 2] * wanted / len(images)

    return of(weight, step_images or len(images)), of(arch, arch_images)


@torch.no_grad()
def seconds_per_forward(search: Search, images: Tensor, repeats: int = 3) -> float:
    """Measured seconds in which a sampled network computes ``images``, without changing any state."""
    images, taken = images.to(search.device), []
    for repeat in range(repeats):
        path = sample_path(search.alphas, step_rng(search.config.manual_seed, TorchStream.STEP_TIMING, repeat))
        watch = Stopwatch()
        search.supernet(images, path, fixed_gates(path, search.device))[0, 0].item()
        taken.append(watch.seconds)
    return sorted(taken)[len(taken) // 2]
