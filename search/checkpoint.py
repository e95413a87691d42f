"""One schema for everything that makes a resume exact, written atomically."""

from __future__ import annotations

import pickle
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from proxyless_arch.errors import InputError
from proxyless_arch.files import atomic_path

FORMAT, VERSION = "proxyless-nas/checkpoint", 1
NAME = "checkpoint.pt"


@dataclass(frozen=True)
class Checkpoint:
    """The state of a search between two steps.

    ``step``: weight steps done. ``sums``: the running sums of the unfinished epoch. ``metrics_offset``: bytes of
    metrics.jsonl that belong to this state. ``wall_seconds``: time spent so far, over all runs.
    """

    config: dict[str, Any]
    step: int
    supernet: dict[str, Any]
    optimizer: dict[str, Any]
    controller: dict[str, Any]
    sums: dict[str, float]
    metrics_offset: int
    wall_seconds: float
    torch_rng: torch.Tensor


def save(path: Path, checkpoint: Checkpoint) -> None:
    """Write atomically: a full disk or a kill leaves the previous checkpoint as it was."""
    with atomic_path(path) as temporary:
        torch.save({"format": FORMAT, "version": VERSION, **vars(checkpoint)}, temporary)


def load(path: Path) -> Checkpoint:
    """Read a checkpoint (tensors and plain values only; no code is run).

    Raises InputError when the file is missing, cut off, or not one of ours.
    """
    if not path.is_file():
        raise InputError("no checkpoint here to resume from", source=str(path))
    try:
        raw = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, zipfile.BadZipFile, ValueError, KeyError, OSError) as error:
        raise InputError(f"not a readable checkpoint: {str(error).splitlines()[0]}", source=str(path)) from None
    if not isinstance(raw, dict) or raw.get("format") != FORMAT:
        raise InputError("not a checkpoint of this search", source=str(path))
    if raw.get("version") != VERSION:
        raise InputError(f"expected version {VERSION}, got {raw.get('version')!r}", "version", str(path))
    fields = {name: raw[name] for name in Checkpoint.__dataclass_fields__ if name in raw}
    missing = [name for name in Checkpoint.__dataclass_fields__ if name not in fields]
    if missing:
        raise InputError(f"missing {', '.join(missing)}", source=str(path))
    return Checkpoint(**fields)
