"""What a training needs in memory, and how long its steps will take: known before it starts."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from proxyless_arch.apps.memory import HEAP, SCORING_HEAP, Free, Plan, Reading, cached_bytes, image_bytes, places, plan
from proxyless_arch.apps.train_settings import TrainConfig, augment_for
from proxyless_arch.arch.memory import BYTES, scoring_bytes, training_bytes
from proxyless_arch.arch.spec import ArchSpec
from proxyless_arch.arch.walk import total_params, walk
from proxyless_arch.base.timing import Stopwatch
from proxyless_arch.data.datasets import SearchData
from proxyless_nas import distributed

WEIGHT_COPIES = 4
"""Weights, gradients, momentum, and the network that is scored at the end; an EMA is one more."""
LOADERS = 2
"""While an epoch is scored the next batches of training wait."""
TIMED_PIXELS, FEWEST_TIMED, TIMED_ROUNDS = 8 * 224**2, 2, 2
"""A CPU's time grows with the images from the first on; a GPU times a whole part."""
FORWARD_SHARE = 1 / 3
"""Of a step's time: what scoring an image takes."""


def plan_of(
    config: TrainConfig, data: SearchData, spec: ArchSpec, n_workers: int, free: Free, *, resumed: bool = False
) -> Plan:
    """How this process computes its share of each batch.

    Raises InputError when that fits in no way, or not in the way that was asked for; a ``resumed`` training keeps its
    way whatever is free now.
    """
    calls, optimization = walk(spec), config.optimization
    reading = Reading(
        image_bytes=image_bytes(spec.preprocessing),
        readers=n_workers,
        loaders=LOADERS,
        n_images=len(data.train),
        cached_bytes=cached_bytes(spec.preprocessing, (data.train, augment_for(config, spec.resolution))),
    )
    here = places(
        free,
        fixed=BYTES * total_params(spec) * (WEIGHT_COPIES + (optimization.ema_decay > 0)),
        per_image=training_bytes(calls, spec.padding),
        reading=reading,
        heap=HEAP,
    )
    world = distributed.world_size()
    share = config.data.train_batch_size // world
    return plan(here, share, optimization.accumulation, world, keeps=resumed)


def most_scored(here: Plan, spec: ArchSpec, wanted: int) -> int:
    """How many images are scored at a time: ``wanted``, or fewer where memory is short.

    Tensors larger than those of a step do not fit into the holes that it leaves in the heap, so they count beside it.
    """
    filled = [replace(place, fixed=place.needed(here.images, here.parts)) for place in here.places]
    each = int(SCORING_HEAP * scoring_bytes(walk(spec), spec.padding))
    return max(replace(here, places=tuple(filled)).at_most(wanted, each), min(wanted, here.part_images))


def timed_images(here: Plan, spec: ArchSpec, device: torch.device) -> int:
    """How many images to time a step with."""
    few = max(FEWEST_TIMED, TIMED_PIXELS // math.prod(spec.preprocessing.hwc[:2]))
    return min(here.part_images, few) if device.type == "cpu" else here.part_images


def seconds_per_image(net: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Of a forward and a backward pass through all layers, frozen or not; nothing changes. The first round warms up."""
    mode, parameters = net.training, {name: p.detach().requires_grad_() for name, p in net.named_parameters()}
    buffers = {name: buffer.clone() for name, buffer in net.named_buffers()}
    found = []
    with torch.random.fork_rng(devices=[images.device] if images.device.type == "cuda" else []):
        for _ in range(TIMED_ROUNDS):
            watch = Stopwatch()
            logits = torch.func.functional_call(net.train(), parameters | buffers, (images,))
            torch.autograd.grad(F.cross_entropy(logits, labels), list(parameters.values()))
            if images.device.type == "cuda":
                torch.cuda.synchronize(images.device)
            found.append(watch.seconds)
    net.train(mode)
    return found[-1] / len(images)
