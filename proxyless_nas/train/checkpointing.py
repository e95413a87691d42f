"""Checkpoint files: written atomically with their hash, read without running anything, refused when damaged.

The last two are kept. A file is torch's (a zip), whose comment is the SHA-256 of all that is before it; older ones have
no comment, and only the checksums of the zip.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import pickle
import secrets
import struct
import warnings
import zipfile
import zlib
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from proxyless_arch.base.errors import InputError
from proxyless_arch.base.files import read_bytes, write_bytes
from proxyless_arch.base.runs import CHECKPOINT_FILE, PREVIOUS_FILE
from proxyless_arch.base.strict import Node, shown
from proxyless_nas import distributed

NAME = CHECKPOINT_FILE
ANEW = "no earlier one can be read: start over in a new --run_dir"
_HASH = b"sha256:"
_ENDING = 2 + len(_HASH) + 64  # the comment and, before it, its length
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


class DamagedError(InputError):
    """A checkpoint that was cut or altered; an earlier one may be whole."""


def save_fields(path: Path, format_name: str, version: int, fields: Mapping[str, Any]) -> None:
    """Write atomically: a full disk or a kill leaves the previous checkpoint as it was.

    What ``path`` held is kept as PREVIOUS_FILE where it is a run's CHECKPOINT_FILE. It gets that name behind the new
    file: at any moment one of the two is whole.
    """
    buffer = io.BytesIO()  # torch, writing to a file itself, would not say that the disk is full
    torch.save({"format": format_name, "version": version, **fields}, buffer)
    content = buffer.getvalue()[:-2]  # torch's zip ends with the length of its comment, 0
    comment = _HASH + hashlib.sha256(content).hexdigest().encode()
    kept = _kept(path) if path.name == CHECKPOINT_FILE else None
    try:
        write_bytes(path, content, struct.pack("<H", len(comment)), comment)
        if kept is not None:
            kept.replace(path.with_name(PREVIOUS_FILE))
    finally:
        if kept is not None:
            kept.unlink(missing_ok=True)


def _kept(path: Path) -> Path | None:
    """A second name of the file at ``path``, as atomic_path would give; None where there is none, or can be none."""
    name = path.with_name(f".{PREVIOUS_FILE}.{os.getpid()}-{secrets.token_hex(4)}.tmp{path.suffix}")
    with contextlib.suppress(OSError):  # the first checkpoint, or a file system without hard links
        os.link(path, name)
        return name
    return None


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

    A run's CHECKPOINT_FILE that is gone or damaged is replaced by the one before, with a warning.

    Args:
        what: what wrote it, for the message: 'search', 'training'.
        optional: fields that an older one does not have; None there.
        advice: what to do about a damaged one.

    Raises:
        InputError: the file is missing, cut off, damaged, or not one of ours.
    """
    before = path.with_name(PREVIOUS_FILE)
    spare = before if path.name == CHECKPOINT_FILE and before.is_file() else None
    try:
        raw = _read(path, advice)
    except DamagedError as error:
        if spare is None:
            raise
        try:
            raw, path = _read(spare, advice), spare
        except DamagedError:
            raise error from None
        if distributed.is_main():
            warnings.warn(f"{error}; it goes on from the checkpoint before, {spare.name}", stacklevel=2)
    if not isinstance(raw, dict) or not _is(raw.get("format"), format_name):
        raise InputError(f"not a checkpoint of this {what}", source=str(path))
    if not _is(raw.get("version"), version):
        raise InputError(f"expected version {version}, got {shown(raw.get('version'))}", "version", str(path))
    missing = [name for name in names if name not in raw]
    if missing:
        raise InputError(f"missing {', '.join(missing)}", source=str(path))
    return {name: raw.get(name) for name in (*names, *optional)}


def _is(value: object, wanted: object) -> bool:
    """Whether they are the same; a tensor, whose comparison is none, is nothing that is wanted."""
    return type(value) is type(wanted) and value == wanted


def _read(path: Path, advice: str) -> Any:
    """What torch.save wrote there, its hash compared."""
    if not path.is_file():
        raise DamagedError("no checkpoint here to resume from", source=str(path))
    content = read_bytes(path)
    try:
        _check_hash(content)
        with zipfile.ZipFile(io.BytesIO(content)) as archive:  # torch itself does not compare the checksums
            damaged = archive.testzip()
        if damaged is not None:
            raise zipfile.BadZipFile(f"{damaged} is damaged")
        return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except (*_UNREADABLE, OSError):
        raise DamagedError(
            f"not a readable checkpoint: truncated, altered or damaged; {advice}", source=str(path)
        ) from None


def _check_hash(content: bytes) -> None:
    """Raises ValueError where the hash at the end is another one. An older file ends as a zip without comment."""
    if content[-22:-18] == b"PK\5\6" and content[-2:] == bytes(2):
        return
    expected = _HASH + hashlib.sha256(content[:-_ENDING]).hexdigest().encode()
    if content[-_ENDING:] != struct.pack("<H", len(expected)) + expected:
        raise ValueError("another hash")


# ---------------------------------------------------------------------------------------- what a checkpoint may hold

_STATE: tuple[tuple[type[torch.optim.Optimizer], tuple[str, ...]], ...] = (
    (torch.optim.SGD, ("momentum_buffer",)),
    (torch.optim.Adam, ("step", "exp_avg", "exp_avg_sq")),
)
"""What an optimizer keeps of each tensor once it has moved it."""


def check_like(saved: Any, fresh: Any, place: str, source: str | None = None, apart: Collection[str] = ()) -> None:
    """Raises InputError where ``saved`` is not what ``fresh``, the same thing newly made, may become.

    Tensors are of the same shape and type, and finite; dicts have the same keys, lists the same length; a number or
    text stands where one did, and a number where there was none yet.
    """
    try:
        if apart:
            Node(saved, place).fields(list(fresh))
            saved, fresh = ({name: each[name] for name in fresh if name not in apart} for each in (saved, fresh))
        _check_like(saved, fresh, place)
    except InputError as error:
        raise error.from_source(source) if source else error from None


def _check_like(saved: Any, fresh: Any, place: str) -> None:
    if isinstance(fresh, torch.Tensor):
        _check_tensor(saved, fresh.shape, fresh.dtype, place)
    elif isinstance(fresh, dict):
        for key, node in Node(saved, place).fields([str(key) for key in fresh]).items():
            _check_like(node.value, fresh[key], node.path)
    elif isinstance(fresh, list | tuple):
        if not isinstance(saved, list | tuple) or len(saved) != len(fresh):
            raise InputError(f"expected {len(fresh)} values, got {_kind(saved)}", place)
        for index, (one, other) in enumerate(zip(saved, fresh, strict=True)):
            _check_like(one, other, f"{place}[{index}]")
    elif isinstance(fresh, bool | str):
        if type(saved) is not type(fresh):
            raise InputError(
                f"expected a {'text' if isinstance(fresh, str) else 'yes or no'}, got {_kind(saved)}", place
            )
    elif fresh is None:
        if saved is not None:
            Node(saved, place).number()
    elif isinstance(fresh, int):
        Node(saved, place).integer(0, 2**62)
    else:
        Node(saved, place).number()


def _check_tensor(saved: Any, shape: tuple[int, ...], dtype: torch.dtype | None, place: str) -> None:
    wanted = f"expected a tensor of shape {list(shape)}"
    if not isinstance(saved, torch.Tensor) or saved.shape != shape or saved.layout != torch.strided:
        raise InputError(f"{wanted}, got {_kind(saved)}", place)
    if saved.dtype != dtype and (dtype is not None or not saved.is_floating_point()):
        raise InputError(f"{wanted} and of {dtype or 'floating-point numbers'}, got {saved.dtype}", place)
    if saved.is_floating_point() and not bool(torch.isfinite(saved).all()):
        raise InputError("expected finite numbers, got NaN or infinite ones", place)


def _kind(value: Any) -> str:
    """A received value in words; never the contents of a container, which may be large."""
    if isinstance(value, torch.Tensor):
        return f"one of shape {list(value.shape)}"
    return shown(value) if value is None or isinstance(value, bool | int | float | str) else f"a {type(value).__name__}"


_HAVE_DEFAULTS = (
    "nesterov", "maximize", "foreach", "differentiable", "fused", "capturable", "amsgrad", "decoupled_weight_decay",
    "lr_mult",
)  # fmt: skip
"""Settings of a group that came with a later torch, which sets them where they are not, or with a later one of ours."""


def check_optimizer(saved: Any, optimizer: torch.optim.Optimizer, place: str, source: str | None = None) -> None:
    """Raises InputError where ``saved`` is no state of an optimizer of these tensors. Groups of an older torch may have
    fewer settings."""
    try:
        parts = Node(saved, place).fields(("state", "param_groups"))
        fresh = optimizer.state_dict()["param_groups"]
        groups = parts["param_groups"].elements(len(fresh), len(fresh))
        for group, own in zip(groups, fresh, strict=True):
            needed = [name for name in own if name not in _HAVE_DEFAULTS]
            for key, node in group.fields(needed, [name for name in own if name in _HAVE_DEFAULTS]).items():
                _check_setting(node, own[key], key)
        tensors = [tensor for group in optimizer.param_groups for tensor in group["params"]]
        state = parts["state"]
        if not isinstance(state.value, dict):
            raise state.fail("an object")
        for number, moved in state.value.items():
            if type(number) is not int or not 0 <= number < len(tensors):
                raise InputError(f"expected the numbers of {len(tensors)} tensors, got {_kind(number)}", state.path)
            _check_moved(Node(moved, f"{state.path}[{number}]"), optimizer, tensors[number])
    except InputError as error:
        raise error.from_source(source) if source else error from None


def _check_setting(node: Node, own: Any, key: str) -> None:
    """Of a group of tensors: a finite number, yes, no, nothing, or several of them."""
    if key == "params" and not (isinstance(node.value, list) and all(type(each) is int for each in node.value)):
        raise InputError(f"expected the numbers of {len(own)} tensors, got {_kind(node.value)}", node.path)
    if key == "params" and node.value != own:
        raise InputError("not the tensors of this optimizer", node.path)
    for value in node.value if isinstance(node.value, list | tuple) else [node.value]:
        if value is not None and not isinstance(value, bool):
            Node(value, node.path).number()
    if isinstance(node.value, list | tuple) != isinstance(own, list | tuple):
        raise InputError(f"expected a value like {own!r}, got {_kind(node.value)}", node.path)
    if isinstance(own, list | tuple) and len(own) != len(node.value):
        raise InputError(f"expected {len(own)} values, got {len(node.value)}", node.path)


def _check_moved(node: Node, optimizer: torch.optim.Optimizer, tensor: torch.Tensor) -> None:
    """What is kept of one tensor."""
    names = next(names for kind, names in _STATE if isinstance(optimizer, kind))
    for name, part in node.fields(names).items():
        if name == "step":
            value = (
                part.value.item() if isinstance(part.value, torch.Tensor) and part.value.numel() == 1 else part.value
            )
            Node(value, part.path).number(0)
        elif part.value is not None or name != "momentum_buffer":
            _check_tensor(part.value, tensor.shape, tensor.dtype, part.path)
