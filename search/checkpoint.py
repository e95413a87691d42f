"""One schema for everything that makes a resume exact, written atomically."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from proxyless_arch.errors import InputError
from proxyless_nas.checkpointing import NAME, load_fields, save_fields
from search.config import from_dict, to_dict

__all__ = ["FORMAT", "NAME", "VERSION", "Checkpoint", "load", "save"]
FORMAT, VERSION = "proxyless-nas/checkpoint", 1


@dataclass(frozen=True)
class Checkpoint:
    """The state of a search between two steps.

    ``step``: weight steps done. ``sums``: the running sums of the unfinished epoch. ``metrics_offset``: bytes of
    metrics.jsonl that belong to this state. ``wall_seconds``: time spent so far, over all runs. ``data``: what
    the run was started on (session.fingerprint). ``unreadable``: places of the images left out so far.
    """

    config: dict[str, Any]
    step: int
    supernet: dict[str, Any]
    optimizer: dict[str, Any]
    controller: dict[str, Any]
    sums: dict[str, float]
    metrics_offset: int
    wall_seconds: float
    torch_rng: list[torch.Tensor]
    data: dict[str, Any]
    unreadable: list[str]


def check_same(saved: Checkpoint, config: dict[str, Any], data: dict[str, Any], source: str) -> None:
    """Raises InputError when the config or the data (images, classes, prices, goal) are not those of the checkpoint.

    A setting that the checkpoint is too old to have counts as its default, as it does in config.json.
    """
    before = to_dict(from_dict(saved.config, source, fill_missing=True))
    for place, ours, theirs in (("config.json", config, before), ("data", data, saved.data)):
        changed = [name for name in {**ours, **theirs} if ours.get(name) != theirs.get(name)]
        if changed:
            raise InputError(f"not what this run was started with; differs in {', '.join(changed)}", place, source)


def save(path: Path, checkpoint: Checkpoint) -> None:
    """Write atomically: a full disk or a kill leaves the previous checkpoint as it was."""
    save_fields(path, FORMAT, VERSION, vars(checkpoint))


def load(path: Path) -> Checkpoint:
    """Read a checkpoint (tensors and plain values only; no code is run).

    Raises InputError when the file is missing, cut off, damaged, or not one of ours.
    """
    return Checkpoint(**load_fields(path, FORMAT, VERSION, Checkpoint.__dataclass_fields__, "search"))
