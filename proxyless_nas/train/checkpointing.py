"""Checkpoint files: written atomically, read without running anything, refused when damaged."""

from __future__ import annotations

import pickle
import struct
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from proxyless_arch.base.errors import InputError
from proxyless_arch.base.files import atomic_path
from proxyless_arch.base.runs import CHECKPOINT_FILE

NAME = CHECKPOINT_FILE
ANEW = "no earlier one is kept: start over in a new --run_dir"
# what zipfile and torch's restricted unpickler raise on bytes that are not what torch.save wrote
_UNREADABLE = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    pickle.UnpicklingError,
    RuntimeError,
    EOFError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    AssertionError,
)


def save_fields(path: Path, format_name: str, version: int, fields: Mapping[str, Any]) -> None:
    """Write atomically: a full disk or a kill leaves the previous checkpoint as it was."""
    with atomic_path(path) as temporary:
        torch.save({"format": format_name, "version": version, **fields}, temporary)


def load_fields(
    path: Path,
    format_name: str,
    version: int,
    names: Iterable[str],
    what: str,
    optional: Iterable[str] = (),
    advice: str = ANEW,
) -> dict[str, Any]:
    """The fields called ``names`` of a checkpoint (tensors and plain values only; no code is run).

    Args:
        what: what wrote it, for the message: 'search', 'training'.
        optional: fields that an older one does not have; None there.
        advice: what to do about a damaged one.

    Raises:
        InputError: the file is missing, cut off, damaged, or not one of ours.
    """
    if not path.is_file():
        raise InputError("no checkpoint here to resume from", source=str(path))
    try:
        with zipfile.ZipFile(path) as archive:  # torch itself does not compare the checksums
            damaged = archive.testzip()
        if damaged is not None:
            raise zipfile.BadZipFile(f"{damaged} is damaged")
        raw = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror or error}", source=str(path)) from None
    except _UNREADABLE:
        raise InputError(
            f"not a readable checkpoint: truncated, altered or damaged; {advice}", source=str(path)
        ) from None
    if not isinstance(raw, dict) or raw.get("format") != format_name:
        raise InputError(f"not a checkpoint of this {what}", source=str(path))
    if raw.get("version") != version:
        raise InputError(f"expected version {version}, got {raw.get('version')!r}", "version", str(path))
    missing = [name for name in names if name not in raw]
    if missing:
        raise InputError(f"missing {', '.join(missing)}", source=str(path))
    return {name: raw.get(name) for name in (*names, *optional)}
