"""Training steps, evaluation and BN recalibration."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from proxyless_arch.apps.scores import AnyScore, EvalResult
from proxyless_arch.base.errors import ElsewhereError, StoppedError
from proxyless_arch.data.streams import TorchStream, dropout_seed
from proxyless_nas import distributed

Batches = Iterable[tuple[Tensor, Tensor]]


DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""The number formats in which layers may compute; parameters, batch statistics and losses are float32 always."""


def computing_in(precision: str, device: torch.device) -> torch.autocast:
    """Within it layers compute in ``precision``, of this thread alone; nothing changes for fp32."""
    return torch.autocast(device.type, DTYPES[precision], enabled=precision != "fp32")


EXPLODED = 1e6
"""Nats. Guessing among a million classes costs 14."""


LOST = 20.0
"""Times the loss of guessing, as the mean of an epoch: what no training that learns has."""


class NonFiniteLossError(ArithmeticError):
    """A loss or gradient that is not a finite number, or a loss that explodes; raised before anything is updated.

    Of several processes each raises it. ``here``: it may come from this one's share of the batch.
    """

    def __init__(self, problem: str, here: bool = True) -> None:
        super().__init__(problem)
        self.here = here


def is_sound(loss: float) -> bool:
    """Whether training can go on from a mean loss, in nats: one so large is no longer learnt from, long before NaN."""
    return math.isfinite(loss) and abs(loss) < EXPLODED


def check_learns(loss: float | None, top1_percent: float | None, n_images: int, n_classes: int, flag: str) -> None:
    """Stop training that has diverged and comes to no end by itself: an epoch whose mean loss is many times that of
    guessing, and whose answers are no more often right.

    ``flag``: of the learning rate. Raises StoppedError, or ElsewhereError of several processes in all but the first.
    """
    if loss is None or top1_percent is None or n_classes < 2 or loss <= LOST * math.log(n_classes):
        return
    share = 1 / n_classes
    if top1_percent > 100 * (share + 2 * math.sqrt(share * (1 - share) / max(1, n_images))):
        return
    if not distributed.is_main():
        raise ElsewhereError
    raise StoppedError(
        f"training diverged: the loss of an epoch is {loss:.3g} nats, where guessing has {math.log(n_classes):.3g}, "
        f"and {top1_percent:.1f} % of its answers are right, as by guessing; begin again with a lower {flag}, or "
        "--grad_clip"
    )


def cosine_lr(initial: float, step: int, steps: int) -> float:
    """Half a cosine from ``initial`` at step 0 to 0 at ``steps``."""
    return 0.5 * initial * (1 + math.cos(math.pi * step / max(steps, 1)))


def warmup_cosine_lr(initial: float, step: int, steps: int, warmup_steps: int) -> float:
    """The learning rate of step ``step`` of ``steps`` (from 0): a line, then half a cosine from ``initial`` to 0.

    The line is ``initial * (step + 1) / (warmup_steps + 1)``: no step is wasted on 0, and ``initial`` itself is reached
    at step ``warmup_steps``, where the cosine starts.
    """
    if step < warmup_steps:
        return initial * (step + 1) / (warmup_steps + 1)
    return cosine_lr(initial, step - warmup_steps, steps - warmup_steps)


def sgd(
    module: nn.Module,
    *,
    lr: float,
    momentum: float,
    nesterov: bool,
    weight_decay: float,
    no_decay_bn: bool,
    backbone_lr_mult: float = 1.0,
) -> torch.optim.SGD:
    """SGD with L2 in the gradient; ``no_decay_bn`` spares vectors (BN scale and shift, the classifier's bias).

    ``backbone_lr_mult``: the learning rate of all but ``module.classifier``, as a multiple of ``lr`` (see set_lr).
    """
    decay = {True: weight_decay, False: 0.0 if no_decay_bn else weight_decay}
    if backbone_lr_mult == 1:
        parts = [(list(module.parameters()), {})]
    else:
        head = list(module.classifier.parameters())
        others = [p for p in module.parameters() if not any(p is own for own in head)]
        parts = [(others, {"lr_mult": backbone_lr_mult}), (head, {"lr_mult": 1.0})]
    groups = [
        {"params": [p for p in parameters if (p.ndim > 1) is is_matrix], "weight_decay": decay[is_matrix], **rate}
        for parameters, rate in parts
        for is_matrix in (True, False)
    ]
    return torch.optim.SGD(groups, lr=lr, momentum=momentum, nesterov=nesterov and momentum > 0)


def in_parts(images: Tensor, labels: Tensor, parts: int | None) -> Iterator[tuple[Tensor, Tensor]]:
    """A batch in at most ``parts`` whose sizes differ by one image at most; None: whole."""
    parts = min(parts or 1, len(images))
    yield from zip(images.tensor_split(parts), labels.tensor_split(parts), strict=True)


def limit_gradients(parameters: Iterable[Tensor], limit: float | None, where: str, *, overflows: bool = False) -> None:
    """Clip the norm of all gradients to ``limit``.

    Args:
        overflows: an infinite gradient is ordinary (loss scaling passes over the step).

    Raises:
        NonFiniteLossError: a gradient that is not finite.
    """
    moved = [parameter for parameter in parameters if parameter.grad is not None]
    norm = torch.nn.utils.get_total_norm([parameter.grad for parameter in moved if parameter.grad is not None])
    if not overflows and not torch.isfinite(norm):
        raise NonFiniteLossError(f"gradient norm {norm.item()} at {where}")
    if limit is not None:
        torch.nn.utils.clip_grads_with_norm_(moved, limit, norm)


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_mult", 1.0)


def seed_dropout(seed: int, stream: TorchStream, step: int) -> None:
    """Seed torch's own generator, which dropout alone draws from: the masks of a step are other ones on each rank."""
    torch.manual_seed(dropout_seed(seed, stream, step, distributed.rank()))


@torch.no_grad()
def evaluate(
    forward: Callable[[Tensor], Tensor],
    batches: Batches,
    device: torch.device | str = "cpu",
    score: AnyScore | None = None,
) -> AnyScore:
    """``score`` (by default of hits and loss) with all batches. Put a module into eval mode first."""
    result = EvalResult() if score is None else score
    for images, labels in batches:
        logits = forward(images.to(device, non_blocking=True))
        result = result.plus(logits.float().cpu().numpy(), labels.cpu().numpy())
    return result


@torch.no_grad()
def recalibrate_bn(net: nn.Module, batches: Batches, device: torch.device | str = "cpu") -> int:
    """Replace every BN's running statistics by the average over ``batches``; returns the number of images used.

    A path inherited from a supernet has statistics mixed over all paths; its weights are right only after this.
    Every batch weighs the same, so one less than half as large as the first (what is left over at the end) is passed
    over; a single image of 1 x 1 pixels would not even have a variance. The network is left in eval mode.
    """
    layers = [layer for layer in net.modules() if isinstance(layer, nn.BatchNorm2d)]
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # torch: None means the cumulative average
    net.train()
    count = full = 0
    try:
        for images, _ in batches:
            full = full or len(images)
            if 2 * len(images) >= full:
                net(images.to(device, non_blocking=True))
                count += len(images)
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
        net.eval()
    return count


def smoothed_loss(logits: Tensor, labels: Tensor, label_smoothing: float) -> Tensor:
    """Cross-entropy against (1 - s) onehot + s / classes."""
    return F.cross_entropy(logits, labels, label_smoothing=label_smoothing)


def distillation_loss(logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Cross-entropy against the probabilities of a teacher (Hinton et al. 2015, at temperature 1)."""
    return F.cross_entropy(logits, teacher_logits.softmax(1))


def weighted_loss(logits: Tensor, labels: Tensor, label_smoothing: float, weights: Tensor) -> Tensor:
    """smoothed_loss where an image counts as often as ``weights``, (classes,), says of its class.

    The sum is divided by the number of images, so that the parts of a batch add up to it; torch's own weighted mean is
    divided by the weights within the batch.
    """
    return (weights[labels] * F.cross_entropy(logits, labels, label_smoothing=label_smoothing, reduction="none")).mean()
