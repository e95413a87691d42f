"""One schema for everything that makes a resume exact, written atomically."""

from __future__ import annotations

import pickle
import struct
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from proxyless_arch.errors import InputError
from proxyless_arch.files import atomic_path

FORMAT, VERSION = "proxyless-nas/checkpoint", 1
NAME = "checkpoint.pt"
# what zipfile and torch's restricted unpickler raise on bytes that are not what torch.save wrote
_UNREADABLE = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    pickle.UnpicklingError,
    RuntimeError,
    EOFError,
    OSError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    AssertionError,
)


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

    Raises InputError when the file is missing, cut off, damaged, or not one of ours.
    """
    if not path.is_file():
        raise InputError("no checkpoint here to resume from", source=str(path))
    try:
        with zipfile.ZipFile(path) as archive:  # torch itself does not compare the checksums
            damaged = archive.testzip()
        if damaged is not None:
            raise zipfile.BadZipFile(f"{damaged} is damaged")
        raw = torch.load(path, map_location="cpu", weights_only=True)
    except _UNREADABLE as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise InputError(f"not a readable checkpoint: {reason}", source=str(path)) from None
    if not isinstance(raw, dict) or raw.get("format") != FORMAT:
        raise InputError("not a checkpoint of this search", source=str(path))
    if raw.get("version") != VERSION:
        raise InputError(f"expected version {VERSION}, got {raw.get('version')!r}", "version", str(path))
    fields = {name: raw[name] for name in Checkpoint.__dataclass_fields__ if name in raw}
    missing = [name for name in Checkpoint.__dataclass_fields__ if name not in fields]
    if missing:
        raise InputError(f"missing {', '.join(missing)}", source=str(path))
    return Checkpoint(**fields)
