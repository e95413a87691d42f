"""Training one network: SGD, schedule, averaged weights, on one process or several. train.py, a search's fine-tune
and the experiments all train with it; a supernet, of which each step moves another path, has steps of its own.

Everything random is a function of (seed, step, rank), so the state between two steps is small and a resumed run
continues bit for bit (on one kind of CPU, with the same number of threads, and of processes up to two: more add the
gradients up in the order of DistributedDataParallel's buckets, which is another one in the first step behind a start).
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import get_ema_multi_avg_fn

from proxyless_arch.apps.scores import EvalResult
from proxyless_arch.apps.train_settings import Optimization
from proxyless_arch.arch.bits import BitPlan
from proxyless_arch.base.errors import InputError
from proxyless_arch.data.streams import TorchStream
from proxyless_nas import distributed
from proxyless_nas.defensive import orthogonality, quantize_activations, share_clips
from proxyless_nas.network import ProxylessNet
from proxyless_nas.quantized import quantizers
from proxyless_nas.quantized_training import look_for_clips, share_weight_clips, train_under, weight_clips
from proxyless_nas.steps import (
    DTYPES,
    NonFiniteLossError,
    computing_in,
    cosine_lr,
    distillation_loss,
    in_parts,
    is_sound,
    limit_gradients,
    seed_dropout,
    set_lr,
    sgd,
    smoothed_loss,
    warmup_cosine_lr,
    weighted_loss,
)
from proxyless_nas.train.checkpointing import check_like, check_optimizer
from proxyless_nas.trees import set_path_drop

LONGEST_WARMUP = 0.25
"""Of the steps that train everything: a run that ends as its warm-up does would end at its highest rate."""
FORGOTTEN = 0.01
"""What is left of the BN statistics at the start, when half of the steps have been taken."""


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How many steps, the learning rate of each, and which train the classifier alone (the first ones).

    ``fits_run``: warm-up and BN momentum fit the number of steps; else they are as given, as before December 2026.
    """

    steps_per_epoch: int
    n_epochs: int
    warmup_epochs: int
    init_lr: float
    freeze_epochs: int = 0
    fits_run: bool = True

    @property
    def total_steps(self) -> int:
        return self.n_epochs * self.steps_per_epoch

    @property
    def frozen_steps(self) -> int:
        return min(self.freeze_epochs, self.n_epochs) * self.steps_per_epoch

    @property
    def warmup_steps(self) -> int:
        """At most LONGEST_WARMUP of the run that it fits, else the run."""
        steps = self.total_steps - self.frozen_steps
        limit = int(LONGEST_WARMUP * steps) if self.fits_run else steps
        return min(self.warmup_epochs * self.steps_per_epoch, limit)

    def learning_rate(self, step: int) -> float:
        """Of step ``step``, from 0: a cosine to 0 for the classifier; then linear warm-up and a cosine to 0 for all."""
        frozen = self.frozen_steps
        if step < frozen:
            return cosine_lr(self.init_lr, step, frozen)
        return warmup_cosine_lr(self.init_lr, step - frozen, self.total_steps - frozen, self.warmup_steps)

    def bn_momentum(self, momentum: float) -> float:
        """The weight of a batch in BN running statistics: ``momentum``, or more in a run too short for it.

        (1 - m)^(steps / 2) = FORGOTTEN: statistics of other images are gone in time, however few the steps. They move
        while all is trained.
        """
        steps = self.total_steps - self.frozen_steps
        return max(momentum, 1 - FORGOTTEN ** (2 / steps)) if steps and self.fits_run else momentum


class Ema:
    """An exponential moving average of a network: parameters and BN statistics alike.

    After update t (from 0) ``average <- d average + (1 - d) network`` with ``d = min(decay, (1 + t) / (10 + t))``: the
    random start is forgotten within a few updates, whatever the decay, and the average is over the last ninth of the
    updates at most.
    """

    def __init__(self, net: nn.Module, decay: float) -> None:
        self.net = copy.deepcopy(net).eval().requires_grad_(False)
        self.decay = decay
        self.updates = 0

    @staticmethod
    def decay_at(decay: float, updates: int) -> float:
        """That of an update behind ``updates`` others."""
        return min(decay, (1 + updates) / (10 + updates))

    def update(self, net: nn.Module) -> None:
        decay = self.decay_at(self.decay, self.updates)
        averages, values = self.net.state_dict(), net.state_dict()
        floating = [name for name, tensor in averages.items() if tensor.is_floating_point()]
        get_ema_multi_avg_fn(decay)([averages[name] for name in floating], [values[name] for name in floating], 0)
        for name in averages.keys() - set(floating):
            averages[name].copy_(values[name])
        self.updates += 1


@dataclass
class EpochSums:
    """Running sums of an unfinished epoch, over all ranks; part of the checkpoint."""

    loss: float = 0.0
    hits: int = 0
    images: int = 0


class Training:
    """A network, its optimizer, its average and where they stand. ``step`` counts updates.

    Several processes divide each batch among them, and DistributedDataParallel averages the gradient while it is still
    being computed: the update is that of the whole batch, up to the order of floating-point sums.

    ``Deviation:`` batch normalization. Each process (and, with ``accumulation`` above 1, each part of its share)
    normalizes by the statistics of its own images, as the release does on several GPUs, so with BN in training mode
    N processes do not compute exactly what one does with the same batch. The running statistics are averaged over
    the processes after every step, so that all hold the same network; the running variance is then the mean of the
    variances within the shares, which is below the variance of the whole batch by the variance of the shares' means.
    With ``freeze_bn`` there is no such difference.

    Args:
        net: on its device; trained in place.
        batch_size: images of a step over all ranks; gradients are means over it.
        seed: of the dropout masks.
        precision: fp32, bf16 or fp16 (autocast; parameters, BN statistics, logits and loss stay in float32).
        class_weights: of the loss, (classes,); None counts images alike.
        teacher: a network in eval mode whose outputs are ``settings.distillation`` of the loss; None: labels alone.
        bits: the plan under which weights and inputs are rounded; batch normalization is folded then.
    """

    def __init__(
        self,
        net: nn.Module,
        settings: Optimization,
        schedule: Schedule,
        *,
        batch_size: int,
        seed: int,
        precision: str = "fp32",
        class_weights: Tensor | None = None,
        teacher: nn.Module | None = None,
        bits: BitPlan | None = None,
    ) -> None:
        self.net, self.settings, self.schedule = net, settings, schedule
        self.batch_size, self.seed = batch_size, seed
        self.teacher = teacher
        self.device = next(net.parameters()).device
        self.precision, self.dtype = precision, DTYPES[precision]
        self.step = 0
        self.left_out = 0
        """Images of all batches and ranks so far that could not be read."""
        self.sums = EpochSums()
        self._looks_for_clips = bits is not None
        if bits is not None:
            assert isinstance(net, ProxylessNet)
            train_under(net, bits)
        self._parameters = [p for p in net.parameters() if p.requires_grad]
        self._class_weights = class_weights.to(self.device) if class_weights is not None else None
        self._norms = [layer for layer in net.modules() if isinstance(layer, nn.BatchNorm2d)]
        for layer in self._norms:
            if layer.momentum is not None:
                layer.momentum = schedule.bn_momentum(layer.momentum)
        self._freeze(self.is_frozen)
        set_path_drop(net, settings.path_drop)
        if settings.activation_bits:
            assert isinstance(net, ProxylessNet)
            quantize_activations(net, settings.activation_bits)
        self.ema = self._new_average()
        self.optimizer = sgd(
            net,
            lr=settings.init_lr,
            momentum=settings.momentum,
            nesterov=settings.nesterov,
            weight_decay=settings.weight_decay,
            no_decay_bn=settings.no_decay_bn,
            backbone_lr_mult=settings.backbone_lr_mult,
        )
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.dtype == torch.float16)
        self._buffers = [buffer for buffer in net.buffers() if buffer.is_floating_point()]
        self._draws = any(isinstance(layer, nn.Dropout) and layer.p > 0 for layer in net.modules())

    @property
    def epoch_is_over(self) -> bool:
        return self.step % self.schedule.steps_per_epoch == 0

    @property
    def is_frozen(self) -> bool:
        """Whether the next step trains the classifier alone."""
        return self.step < self.schedule.frozen_steps

    def _freeze(self, frozen: bool) -> None:
        """Take all but the classifier out of the training, or in again. Rank 0's network from here on."""
        self._frozen = frozen
        if self.schedule.frozen_steps:
            head = set(self.net.classifier.parameters())
            for parameter in self._parameters:
                parameter.requires_grad_(not frozen or parameter in head)
        if frozen:
            distributed.broadcast(list(self.net.state_dict().values()))
        self._parallel = self.net if frozen else self._joined()

    def _enter_training_mode(self) -> None:
        self.net.train(not self._frozen)
        if self._frozen:
            self.net.classifier.train()  # its dropout
        if self.settings.freeze_bn or self._looks_for_clips:
            for layer in self._norms:
                layer.eval()

    def restart_average(self) -> None:
        """Begin the average anew with the network as it is."""
        self.ema = self._new_average()

    def _new_average(self) -> Ema | None:
        if not self.settings.ema_decay:
            return None
        average = Ema(self.net, self.settings.ema_decay)
        share_clips(self.net, average.net)
        share_weight_clips(self.net, average.net)
        return average

    def _joined(self) -> nn.Module:
        """The network itself or, of several processes, a wrapper that averages its gradients over them."""
        if distributed.world_size() == 1:
            return self.net
        on = [self.device] if self.device.type == "cuda" else None
        # BN statistics are averaged behind each step, not copied from rank 0 in front of it
        return DistributedDataParallel(self.net, device_ids=on, broadcast_buffers=False)

    def forward(self, images: Tensor) -> Tensor:
        """float32 logits, in the training precision."""
        with computing_in(self.precision, self.device):
            return self._parallel(images).float()

    def epochs(self, batches: Iterator[tuple[Tensor, Tensor]]) -> Iterator[EpochSums]:
        """Take all of ``batches``; the sums of each finished epoch."""
        for images, labels in batches:
            self.update(images.to(self.device, non_blocking=True), labels.to(self.device, non_blocking=True))
            if self.epoch_is_over:
                yield self.take_sums()

    def update(self, images: Tensor, labels: Tensor, wants_to_stop: bool = False) -> bool:
        """One step on this rank's share of a batch.

        Returns:
            Whether any rank wants to stop.

        Raises:
            NonFiniteLossError: on every rank, before any weight moves.
        """
        if self._frozen != self.is_frozen:
            self._freeze(self.is_frozen)
        self._enter_training_mode()
        if self._looks_for_clips and self.epoch_is_over:  # the next one begins
            look_for_clips(self.net)
        set_lr(self.optimizer, self.schedule.learning_rate(self.step))
        self.optimizer.zero_grad(set_to_none=True)
        if self._draws:
            seed_dropout(self.seed, TorchStream.TRAIN_DROPOUT, self.step)
        loss_sum = torch.zeros((), device=self.device)
        hits = torch.zeros((), dtype=torch.int64, device=self.device)
        parts = list(in_parts(images, labels, self.settings.accumulation))
        for number, (part, answers) in enumerate(parts, start=1):
            with self._apart() if number < len(parts) else contextlib.nullcontext():
                logits = self.forward(part)
                loss = self._loss(logits, answers, part)
                share = len(answers) * distributed.world_size() / self.batch_size  # of the mean over the ranks
                self.scaler.scale(self._penalized(loss) * share).backward()
            loss_sum += loss.detach() * len(answers)
            hits += (logits.detach().argmax(1) == answers).sum()
        loss_total, n_hits, n_images, n_stops = self._over_ranks(loss_sum, hits, len(labels), wants_to_stop)
        if not is_sound(loss_total / n_images):
            raise NonFiniteLossError(f"training loss {loss_total / n_images:.4g} at {self._where()}")
        if self._frozen:  # what DistributedDataParallel does otherwise
            distributed.all_reduce_mean([p.grad for p in self._parameters if p.grad is not None])
        elif not self.settings.freeze_bn or self.settings.activation_bits:
            distributed.all_reduce_mean(self._buffers)
        self._limit_gradients(n_images)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.ema is not None:
            self.ema.update(self.net)
        self.step += 1
        self.sums.loss += loss_total
        self.sums.hits += n_hits
        self.sums.images += n_images
        self.left_out += self.batch_size - n_images
        return n_stops > 0

    def _penalized(self, loss: Tensor) -> Tensor:
        """With half of ``lipschitz`` times the distance to orthogonal layers: Defensive Quantization.

        The loss that is reported is without it.
        """
        beta = self.settings.lipschitz
        return loss + beta / 2 * orthogonality(self.net) if beta else loss

    def _loss(self, logits: Tensor, labels: Tensor, images: Tensor) -> Tensor:
        of_labels = self._loss_of_labels(logits, labels)
        share = self.settings.distillation
        if self.teacher is None or not share:
            return of_labels
        with torch.no_grad(), computing_in(self.precision, self.device):
            taught = self.teacher(images).float()
        return (1 - share) * of_labels + share * distillation_loss(logits, taught)

    def _loss_of_labels(self, logits: Tensor, labels: Tensor) -> Tensor:
        smoothing = self.settings.label_smoothing
        if self._class_weights is None:
            return smoothed_loss(logits, labels, smoothing)
        return weighted_loss(logits, labels, smoothing, self._class_weights)

    def _over_ranks(self, loss: Tensor, hits: Tensor, images: int, stop: bool) -> tuple[float, int, int, int]:
        counts = torch.cat([hits.view(1), torch.tensor([images, int(stop)], device=self.device)])
        distributed.all_reduce_sum([loss, counts])
        n_hits, n_images, n_stops = counts.tolist()
        return loss.item(), n_hits, n_images, n_stops

    def _apart(self) -> contextlib.AbstractContextManager[None]:
        """Within it gradients add up on each rank."""
        return self._parallel.no_sync() if self._parallel is not self.net else contextlib.nullcontext()

    def _limit_gradients(self, n_images: int) -> None:
        """Check and clip. ``n_images`` is below the batch size where images cannot be read."""
        self.scaler.unscale_(self.optimizer)
        if n_images != self.batch_size:
            for parameter in self._parameters:
                if parameter.grad is not None:
                    parameter.grad.mul_(self.batch_size / n_images)
        # with loss scaling an overflow is ordinary: the scaler passes over the step and lowers its scale
        overflows = self.scaler.is_enabled()
        limit_gradients(self._parameters, self.settings.grad_clip, self._where(), overflows=overflows)

    def _where(self) -> str:
        epoch, batch = divmod(self.step, self.schedule.steps_per_epoch)
        return f"batch {batch + 1} of {self.schedule.steps_per_epoch} of epoch {epoch + 1} (step {self.step})"

    def take_sums(self) -> EpochSums:
        """The sums of the finished epoch, which start anew."""
        sums, self.sums = self.sums, EpochSums()
        return sums

    def state_dict(self) -> dict[str, Any]:
        """Everything a resumed run needs, as tensors and plain values. The same on every rank."""
        return {
            "step": self.step,
            "left_out": self.left_out,
            "net": self.net.state_dict(),
            "ema": self.ema.net.state_dict() if self.ema is not None else None,
            "ema_updates": self.ema.updates if self.ema is not None else 0,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "sums": dict(vars(self.sums)),
            **({"clips": clips} if (clips := self._clips()) else {}),
            **({"weight_clips": weight_clips(self.net)} if self._looks_for_clips else {}),
        }

    def _clips(self) -> dict[str, Tensor]:
        """Of the quantized inputs, which are no weights of the network."""
        return {name: quantizer.clip.detach() for name, quantizer in quantizers(self.net)}

    def check_state(self, state: dict[str, Any], source: str | None = None) -> None:
        """Raises InputError, with ``source``, for a state that no such training can have."""
        own = self.state_dict()
        check_like(state, own, "training", source, apart=("optimizer", "ema"))  # a run that keeps no average has None
        if self.ema is not None:
            check_like(state["ema"], own["ema"], "training.ema", source)
        check_optimizer(state["optimizer"], self.optimizer, "training.optimizer", source)
        if state["step"] > self.schedule.total_steps:
            problem = f"expected at most {self.schedule.total_steps} steps, got {state['step']}"
            raise InputError(problem, "training.step", source)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.net.load_state_dict(state["net"])
        if self.ema is not None:
            self.ema.net.load_state_dict(state["ema"])
            self.ema.updates = state["ema_updates"]
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.step, self.left_out = state["step"], state["left_out"]
        self.sums = EpochSums(**state["sums"])
        for name, clip in self._clips().items():
            clip.copy_(state["clips"][name])
        if self._looks_for_clips:
            for shares, saved in zip(weight_clips(self.net), state["weight_clips"], strict=True):
                shares.copy_(saved)


def over_ranks(result: EvalResult, device: torch.device) -> EvalResult:
    """The sum of every rank's result. Give each rank other images: each is then counted once."""
    counts = torch.tensor([result.top1_hits, result.top5_hits, result.n_images], device=device)
    loss = torch.tensor(
        [result.loss_sum], dtype=torch.float32 if device.type == "mps" else torch.float64, device=device
    )
    distributed.all_reduce_sum([counts, loss])
    top1, top5, images = counts.tolist()
    return EvalResult(top1, top5, images, loss.item() if distributed.world_size() > 1 else result.loss_sum)
