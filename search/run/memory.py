"""What a search needs in memory: its supernet at the largest path, its batches and the processes that read them."""

from __future__ import annotations

from proxyless_arch.apps.memory import USABLE, Free, Plan, Reading, cached_bytes, image_bytes, places, plan
from proxyless_arch.arch.memory import BYTES, LayerMemory, peak_bytes, scored, scoring_bytes, trained, values_in
from proxyless_arch.arch.walk import LayerCall, total_params, walk
from proxyless_arch.data.datasets import SearchData
from proxyless_arch.data.images import Augment
from proxyless_arch.space.search_space import Path, SearchSpace
from proxyless_nas import distributed
from search.config import SearchConfig

WEIGHT_COPIES = 4
"""Weights, gradients, momentum, and the network derived at the end."""
LOADERS = 2
"""Weight steps and architecture steps read ahead at the same time."""


def largest_path(space: SearchSpace) -> Path:
    """The path whose network keeps most while it is trained: sampling may come near it at any step."""

    if space.shares_weights:
        return space.largest_path

    def kept(call: LayerCall) -> int:
        return trained(call, space.padding).kept

    return tuple(max(range(len(calls)), key=lambda choice: kept(calls[choice])) for calls in space.edge_calls)


def weight_bytes(space: SearchSpace) -> int:
    """Of the parameters of all operations; where they share them, of the largest network's."""
    if space.shares_weights:
        return BYTES * total_params(space.spec_for(space.largest_path))
    calls = [*space.fixed_calls, *(call for calls in space.edge_calls for call in calls)]
    return BYTES * sum(call.params for call in calls)


def layers_of_step(space: SearchSpace, mode: str | None = None) -> list[LayerMemory]:
    """The largest path in a weight step or, in a ``grad_binary_mode``, in an architecture step by gradients.

    In the latter (gates.BinarizedPath) a searched block keeps the output of its operation beside the sum with the skip
    and, in mode full, those of the others; in the other modes these run again in the backward pass, one at a time.
    """
    candidates = dict(zip(space.layer_names, space.edge_calls, strict=True)) if mode is not None else {}

    def layer(call: LayerCall) -> LayerMemory:
        own = trained(call, space.padding)
        for part in call.parts:
            if others := candidates.get(part.name, ()):
                out = values_in(part.out_hwc)
                outputs = (part.skip if part is call else 1) + (len(others) - 1) * (mode == "full")
                again = max(scored(other, space.padding).passing for other in others) + out
                own = LayerMemory(own.kept + outputs * out, max(own.passing, again))
        return own

    return list(map(layer, walk(space.spec_for(largest_path(space)))))


def _peak(space: SearchSpace, mode: str | None) -> int:
    return peak_bytes(space.preprocessing.hwc, layers_of_step(space, mode))


def weight_step_bytes(space: SearchSpace) -> int:
    """Peak per image of a weight step."""
    return _peak(space, None)


def arch_step_bytes(space: SearchSpace, mode: str) -> int:
    """Peak per image of an architecture step by gradients, in a ``grad_binary_mode``."""
    return _peak(space, mode)


def step_bytes(config: SearchConfig, space: SearchSpace) -> int:
    """Peak per image of the steps there are."""
    weight, mode = weight_step_bytes(space), config.arch.grad_binary_mode
    algorithm = config.arch.arch_algo
    has_no_gates = algorithm == "rl" or (space.shares_weights and algorithm != "grad")
    return weight if has_no_gates else max(weight, arch_step_bytes(space, mode))


def plan_of(
    config: SearchConfig,
    data: SearchData,
    space: SearchSpace,
    augment: Augment | None,
    n_workers: int,
    free: Free,
    *,
    resumed: bool = False,
) -> Plan:
    """How this process computes its share of each batch.

    Raises InputError when that fits in no way, or not in the way that was asked for; a ``resumed`` search keeps its
    way whatever is free now.
    """
    reading = Reading(
        image_bytes=image_bytes(space.preprocessing),
        readers=n_workers,
        loaders=LOADERS,
        n_images=len(data.train),
        cached_bytes=cached_bytes(
            space.preprocessing,
            (data.train, augment),
            (data.valid, augment if config.arch.arch_augment else None),
        ),
    )
    here = places(
        free,
        fixed=WEIGHT_COPIES * weight_bytes(space),
        per_image=step_bytes(config, space),
        reading=reading,
    )
    share = config.data.train_batch_size // distributed.world_size()
    return plan(here, share, config.data.accumulation, distributed.world_size(), keeps=resumed)


def room(here: Plan) -> int:
    """Bytes of the machine's memory that are left beside the steps; where that is not known, as many as anyone asks."""
    machine = here.places[-1]
    if machine.free is None:
        return 2**62
    return max(0, int(USABLE * machine.free) - machine.needed(here.images, here.parts))


def most_scored(here: Plan, space: SearchSpace, wanted: int) -> int:
    """How many images are scored at a time: ``wanted``, or fewer where memory is short."""
    return here.at_most(wanted, scoring_bytes(walk(space.spec_for(largest_path(space))), space.padding))
