"""One schema for everything that makes a resume exact, written atomically."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from proxyless_arch.base.errors import InputError
from proxyless_arch.base.schema import Schema, amount, count, judge, mapping, plain, texts
from proxyless_arch.base.strict import Node, shown
from proxyless_arch.base.words import TORCH_KERNELS
from proxyless_nas import distributed
from proxyless_nas.train.checkpointing import ANEW, NAME, load_fields, save_fields
from search.config import FREE, from_dict, to_dict

__all__ = ["ANEW", "FORMAT", "NAME", "VERSION", "Checkpoint", "load", "save"]
FORMAT, VERSION = "proxyless-nas/checkpoint", 1


@dataclass(frozen=True)
class Checkpoint:
    """The state of a search between two steps.

    ``step``: weight steps done. ``sums``: the running sums of the unfinished epoch. ``metrics_offset``: bytes of
    metrics.jsonl that belong to this state. ``wall_seconds``: time spent so far, over all runs. ``data``: what
    the run was started on (job.fingerprint) and what computes (computes). ``unreadable``: places of the images left
    out so far.
    """

    config: dict[str, Any]
    step: int
    supernet: dict[str, Any]
    optimizer: dict[str, Any]
    controller: dict[str, Any]
    sums: dict[str, float]
    metrics_offset: int
    wall_seconds: float
    data: dict[str, Any]
    unreadable: list[str]


SCHEMA: Schema = {
    **dict.fromkeys(("supernet", "optimizer", "controller", "sums"), mapping),
    **dict.fromkeys(("config", "data"), plain),
    **dict.fromkeys(("step", "metrics_offset"), count),
    "wall_seconds": amount,
    "unreadable": texts,
}
"""Of what kind each field is; what is inside is compared with the search that goes on (Search.restore)."""

COMPUTES = ("processes", "torch_version", "num_threads", "device_type", "kernels")
"""The names of what computes, beside the images and prices in ``Checkpoint.data``."""


def computes(device: torch.device, threads: int | None = None, kernels: str = TORCH_KERNELS) -> dict[str, Any]:
    """What computes: the processes matter to the BN of a share, all else to the order of sums.

    ``threads``: of torch (default: those it has now). ``kernels``: fast.kernels_in_use.
    """
    n_threads = threads or torch.get_num_threads()
    values = (distributed.world_size(), str(torch.__version__), n_threads, device.type, kernels)
    return dict(zip(COMPUTES, values, strict=True))


def computed_otherwise(saved: Checkpoint, device: torch.device, kernels: str = TORCH_KERNELS) -> str | None:
    """A line on other processes, another torch, kind of device, number of threads or kernels than the checkpoint's: the
    run goes on, but not bit for bit. Threads and kernels count where both are the CPU's.

    None where they are the same, and where the checkpoint is too old to have them; from GPU to GPU, which is never bit
    for bit, the processes alone are told: batch normalization sees the share of each.
    """
    before = {"kernels": TORCH_KERNELS, **saved.data}
    own = computes(device, kernels=kernels)
    now = {name: value for name, value in own.items() if before.get(name, value) != value}
    if device.type != "cpu" and "device_type" not in now:
        now = {name: value for name, value in now.items() if name == "processes"}
    if "device_type" in now:
        now = {name: value for name, value in now.items() if name not in ("num_threads", "kernels")}
    changed = [f"{name} was {shown(before[name])}, here it is {shown(value)}" for name, value in now.items()]
    return f"{'; '.join(changed)}: no longer equal to an uninterrupted run bit for bit" if changed else None


def check_same(saved: Checkpoint, config: dict[str, Any], data: dict[str, Any], source: str) -> None:
    """Raises InputError when config or data (images, classes, prices, goal) are others.

    A setting that the checkpoint is too old to have counts as its default, as it does in config.json.
    """
    before = to_dict(from_dict(saved.config, source, fill_missing=True))
    for place, ours, theirs in (("config.json", config, before), ("data", data, saved.data)):
        names = [name for name in {**ours, **theirs} if name not in (FREE if place == "config.json" else COMPUTES)]
        changed = [name for name in names if ours.get(name) != theirs.get(name)]
        if changed:
            raise InputError(f"not what this run was started with; differs in {', '.join(changed)}", place, source)


def save(path: Path, checkpoint: Checkpoint) -> None:
    """Write atomically: a full disk or a kill leaves the previous checkpoint as it was."""
    save_fields(path, FORMAT, VERSION, vars(checkpoint))


def load(path: Path, advice: str = ANEW) -> Checkpoint:
    """Read a checkpoint (tensors and plain values only; no code is run). ``advice``: what to do about a damaged one.

    Raises InputError when the file is missing, cut off, damaged, or not one of ours.
    """
    fields = load_fields(path, FORMAT, VERSION, Checkpoint.__dataclass_fields__, "search", advice=advice)
    try:
        judge(Node(fields), SCHEMA, list(SCHEMA))
    except InputError as error:
        raise error.from_source(str(path)) from None
    return Checkpoint(**fields)
