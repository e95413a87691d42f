"""Tars of others in WebDataset's layout, which have no index of ours: it is made by looking through them.

An image is ``KEY.jpg`` (or another ending of images); its class is in ``KEY.cls`` (a number), ``KEY.json`` (one of
CLASS_KEYS) or ``KEY.txt`` (a name). Names for the numbers are the lines of a classes.txt beside the tars. A split is
what a tar's name says, or the folder it is in.
"""

from __future__ import annotations

import functools
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from proxyless_arch.base.errors import InputError
from proxyless_arch.base.files import parse_json, read_bytes, require_regular
from proxyless_arch.base.strict import counted, listed, shown
from proxyless_arch.data.images import names_an_image
from proxyless_arch.data.layout import SPLITS, role_of
from proxyless_arch.data.shards import TAR, UNCHECKED, Shard, Shards, Table
from proxyless_arch.data.sources import MAX_FILE_BYTES

CLASS_KEYS = ("class_name", "class", "label", "cls", "target", "class_id", "label_id")
"""Members of a sample's .json that say its class, the first that is there."""
NAMES = ("classes.txt", "classnames.txt", "class_names.txt", "labels.txt")
"""Files beside the tars that name the classes, one a line."""
LABELS = (".cls", ".json", ".txt")
MOST_LABEL_BYTES = 2**20
LONGEST_CLASS = 100
"""Characters; what is longer is a caption."""
MOST_CLASSES = 1_000_000

Class = int | str


class _Sample(NamedTuple):
    """An image in a tar, and its class."""

    name: str
    offset: int
    size: int
    label: Class


def tars_in(folder: Path) -> dict[str, list[Path]]:
    """The tars in a folder by split, sorted; empty where it holds anything but tars, or folders of them by split.

    Raises InputError where the names of some say a split, and of others none.
    """
    visible = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    folders = [path for path in visible if path.is_dir()]
    tars = [path for path in visible if path.suffix == TAR and path.is_file()]
    if tars and not folders:
        return _by_split({path: path.stem for path in tars}, folder)
    if tars or not folders or not all(role_of(path.name) for path in folders):
        return {}
    within = {path: sorted(path.glob(f"*{TAR}")) for path in folders}
    if not all(within.values()) or any(each.is_dir() for path in folders for each in path.iterdir()):
        return {}
    return _by_split({tar: path.name for path, tars in within.items() for tar in tars}, folder)


def _by_split(names: Mapping[Path, str], folder: Path) -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = {}
    for path, name in names.items():
        role = role_of(name)
        found.setdefault(role.split if role else "", []).append(path)
    if "" in found and len(found) > 1:
        raise InputError(f"no split in the name of {found[''][0].name}, but in those of others", source=str(folder))
    return {split: found[split] for split in ("", *SPLITS) if split in found}


def scanned(home: str, tars: Mapping[str, Sequence[Path]]) -> Shards:
    """The shards that tars without an index are. Raises InputError for one that is cut, and images without a class."""
    samples = {path: _scan(str(path), *_state(path)) for each in tars.values() for path in each}
    names = _class_names({split: [samples[path] for path in each] for split, each in tars.items()}, Path(home))
    classes = tuple(sorted(set(names.values())))
    label_of = {label: classes.index(name) for label, name in names.items()}
    tables: dict[str, Table] = {}
    parts = {}
    for split, each in tars.items():
        found = {path.relative_to(home).as_posix(): samples[path] for path in each}
        tables |= _tables(found, label_of)
        parts[split] = tuple(Shard(name, len(found[name]), Path(home, name).stat().st_size, "", "") for name in found)

    def is_there(shard: Shard) -> None:
        """It was looked through just before."""

    return Shards(home, classes, parts, lambda shard: tables[shard.file], Path(home), is_there)


def _state(path: Path) -> tuple[int, int]:
    """Size and time of change: a tar of which both are as before is not looked through again."""
    found = path.stat()
    return found.st_size, found.st_mtime_ns


def _tables(found: Mapping[str, Sequence[_Sample]], label_of: Mapping[Class, int]) -> dict[str, Table]:
    """The tables of a part's tars: class by class, as folders are read, and within one as they lie."""
    labels = np.array([label_of[sample.label] for samples in found.values() for sample in samples], dtype=np.int64)
    positions = np.empty_like(labels)
    positions[np.argsort(labels, kind="stable")] = np.arange(len(labels))
    tables, first = {}, 0
    for file, samples in found.items():
        rows = slice(first, first + len(samples))
        tables[file] = Table(
            [f"{file.removesuffix(TAR)}/{sample.name}" for sample in samples],
            labels[rows],
            positions[rows],
            np.array([sample.offset for sample in samples], dtype=np.int64),
            np.array([sample.size for sample in samples], dtype=np.int64),
            np.full(len(samples), UNCHECKED, dtype=np.int64),
        )
        first = rows.stop
    return tables


# ------------------------------------------------------------------------------------------------------- the classes


def _class_names(parts: Mapping[str, Sequence[Sequence[_Sample]]], home: Path) -> dict[Class, str]:
    """What each class is called: its name, the line of its number in a file of NAMES, else the number.

    Raises InputError where some classes are numbers and some names, or those of the splits differ.
    """
    known = {split: {sample.label for samples in each for sample in samples} for split, each in parts.items()}
    every = set.union(*known.values())
    for split, labels in known.items():
        if missing := sorted(map(str, every - labels)):
            some = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
            problem = f"{counted(len(missing), 'class', 'classes')} of other splits without an image in {split}: {some}"
            raise InputError(problem, source=str(home))
    numbers = [label for label in every if isinstance(label, int)]
    if len(numbers) < len(every):
        if numbers:
            raise InputError("some images have a number for their class, others a name", source=str(home))
        return {label: str(label) for label in every}
    file = next((home / name for name in NAMES if (home / name).is_file()), None)
    if file is None:
        width = len(str(max(numbers)))  # so that the order of the names is that of the numbers
        return {number: f"{number:0{width}d}" for number in numbers}
    lines = [line.strip() for line in read_bytes(file).decode("utf-8", "replace").splitlines() if line.strip()]
    if max(numbers) >= len(lines) or len(set(lines)) < len(lines):
        problem = (
            f"expected a name of its own, one a line, for each class from 0 to {max(numbers)}, got {len(lines)} names"
        )
        raise InputError(problem, source=str(file))
    return {number: lines[number] for number in numbers}


# --------------------------------------------------------------------------------------------------------- one tar


@functools.lru_cache(maxsize=100_000)
def _scan(tar: str, size: int, changed_ns: int) -> tuple[_Sample, ...]:
    """The images of a tar that has this size and was changed then, in its order. Raises InputError."""
    require_regular(tar)
    images: dict[str, tuple[str, int, int]] = {}
    said: dict[str, dict[str, Class]] = {}
    endings: dict[str, None] = {}
    try:
        with tarfile.open(tar, "r:") as archive:
            for member in archive:
                if not member.isfile() or (named := _key_and_ending(member.name)) is None:
                    continue
                key, ending = named
                endings[ending] = None
                if names_an_image(f".{ending.rpartition('.')[2]}") and key not in images:
                    images[key] = (member.name.removeprefix("./"), member.offset_data, member.size)
                elif f".{ending}" in LABELS:
                    said.setdefault(key, {})[f".{ending}"] = _label(archive, member, tar)
            is_whole = archive.offset + tarfile.BLOCKSIZE <= size  # it ends with blocks of zeros
    except (tarfile.TarError, OSError, ValueError, EOFError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"expected a .tar that is whole and not compressed: {error}", source=tar) from None
    if not is_whole:
        raise InputError("the tar is cut: it has no end", source=tar)
    if not images:
        found = f"found {listed(f'.{ending}' for ending in list(endings)[:5])}" if endings else "it is empty"
        raise InputError(f"no images in it: {found}", source=tar)
    return tuple(_sample(tar, image, said.get(key, {})) for key, image in images.items())


def _key_and_ending(name: str) -> tuple[str, str] | None:
    """``train/0001`` and ``seg.png`` of ``train/0001.seg.png``; None for a hidden file or one without ending."""
    folder, slash, base = name.removeprefix("./").rpartition("/")
    stem, _, ending = base.partition(".")
    return (f"{folder}{slash}{stem}", ending.lower()) if stem and ending else None


def _sample(tar: str, image: tuple[str, int, int], said: Mapping[str, Class]) -> _Sample:
    name, offset, size = image
    if size > MAX_FILE_BYTES:
        raise InputError(f"expected at most {MAX_FILE_BYTES} bytes, got {size}", source=f"{tar}:{name}")
    label = next((said[ending] for ending in LABELS if ending in said), None)
    if label is None:
        problem = (
            "nothing beside it says its class: expected a .cls (a number or name), a .json with "
            f"{listed(CLASS_KEYS)}, or a .txt (a name); where each tar is a class, unpack it into a folder of its name"
        )
        raise InputError(problem, source=f"{tar}:{name}")
    return _Sample(name, offset, size, label)


def _label(archive: tarfile.TarFile, member: tarfile.TarInfo, tar: str) -> Class:
    """The class that a .cls, .json or .txt says."""
    place = f"{tar}:{member.name}"
    if member.size > MOST_LABEL_BYTES:
        raise InputError(f"expected at most {MOST_LABEL_BYTES} bytes, got {member.size}", source=place)
    file = archive.extractfile(member)
    assert file is not None
    content = file.read()
    if member.name.endswith(".json"):
        found = parse_json(content, place)
        value = next((found[key] for key in CLASS_KEYS if key in found), None) if isinstance(found, dict) else found
    else:
        value = content.decode("utf-8", "replace").strip()
    return _class(value, place)


def _class(value: object, place: str) -> Class:
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) < 10:
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < MOST_CLASSES:
        return value
    if isinstance(value, str) and 0 < len(value) <= LONGEST_CLASS and "\n" not in value:
        return value
    raise InputError(f"expected a class: a number below {MOST_CLASSES} or a name, got {shown(value)}", source=place)
