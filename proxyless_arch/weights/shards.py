"""Weights in several files with an index of them (``model.safetensors.index.json``), and folders that hold weights."""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePath

from proxyless_arch.base.errors import InputError
from proxyless_arch.base.files import LONGEST_NAME, read_json
from proxyless_arch.base.strict import Node, counted

PART = re.compile(r"(.+)-(\d{3,6})-of-(\d{3,6})(\.[a-z.]+)", re.IGNORECASE)
"""One part's name: ``model-00002-of-00003.safetensors``."""
INDEX = ".index.json"
USUAL = (
    *("weights.safetensors", "weights.h5", f"model.safetensors{INDEX}", "model.safetensors"),
    *(f"pytorch_model.bin{INDEX}", "pytorch_model.bin", "model.keras", "model.weights.h5"),
)
"""What the weights in a folder are called, those of ours first."""
ENDINGS = (".safetensors", ".pth", ".pt", ".ckpt", ".bin", ".keras", ".h5", ".tfinit")


def is_index(path: str | os.PathLike[str]) -> bool:
    """Whether a file is called as an index of parts is."""
    return Path(path).name.lower().endswith(INDEX)


def parts_of(index: Path) -> tuple[Path, ...]:
    """The files that an index names, sorted.

    Raises:
        InputError: not such an index, a name that leads elsewhere, or a file that is missing.
    """
    root = Node(read_json(index))
    places = dict(root.items()).get("weight_map", Node(None, "weight_map"))
    names = sorted({_name(node) for _, node in places.items()})
    missing = [name for name in names if not (index.parent / name).is_file()]
    if missing:
        raise InputError(f"{counted(len(missing), 'part')} of {len(names)} not there: {', '.join(missing[:3])}")
    return tuple(index.parent / name for name in names)


def _name(node: Node) -> str:
    name = node.value
    if not isinstance(name, str) or name in ("", ".", "..") or PurePath(name).name != name or "\\" in name:
        raise node.fail("the name of a file beside the index")
    if len(name.encode("utf-8", "surrogatepass")) > LONGEST_NAME:
        raise node.fail(f"a name of at most {LONGEST_NAME} bytes")
    return name


def refuse_one_part(path: Path) -> None:
    """Raises InputError for one of several files by its name: it is no network alone."""
    found = PART.fullmatch(path.name)
    if found is None or int(found[3]) < 2:
        return
    index = path.with_name(f"{found[1]}{found[4]}{INDEX}")
    advice = f"give {index.name}" if index.is_file() else f"{index.name}, which lists them, is not beside it"
    raise InputError(f"part {int(found[2])} of {int(found[3])} of the weights: {advice}")


def file_in(folder: Path) -> Path:
    """The weight file in a folder: of a usual name, or the only one there.

    Raises:
        InputError: none, or several; a checkpoint of torch.distributed.
    """
    for name in USUAL:
        if (folder / name).is_file():
            return folder / name
    inside = sorted(path for path in folder.iterdir() if path.suffix.lower() in ENDINGS and path.is_file())
    if len(inside) == 1:
        return inside[0]
    if (folder / ".metadata").is_file():
        command = "python -m torch.distributed.checkpoint.format_utils dcp_to_torch FOLDER FILE"
        raise InputError(f"a checkpoint of torch.distributed, in pieces; where torch is: {command}")
    if (folder / "saved_model.pb").is_file():
        raise InputError("a SavedModel, an exported network, whose weights are not read back: give its source")
    more = ", ..." if len(inside) > 3 else ""
    names = f"one of {', '.join(path.name for path in inside[:3])}{more}" if inside else "none in it"
    raise InputError(f"expected a file of weights, got a folder: {names}")
