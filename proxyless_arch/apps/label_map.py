"""Which class of a network each class folder is: certain from its name, or said by hand in a file.

A network is often scored on images of some of its classes. A folder is matched by its wnid (``n01440764``, also in
front of a name), by its class's name (upper and lower case, blanks and punctuation are one) or, where a network has
ImageNet's classes or names none, by its class's number. What is not certain is refused, with the way to say it.
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from proxyless_arch.apps.prediction import class_names, imagenet_classes
from proxyless_arch.arch.spec import ArchSpec
from proxyless_arch.base.errors import InputError
from proxyless_arch.base.files import read_json
from proxyless_arch.base.strict import Node, nearest

AUTO, STRICT = "auto", "none"
FLAG = "--label_map"
MOST_SHOWN = 3
_WNID = re.compile(r"([nN]\d{8})(?!\d)")
_NUMBERED = re.compile(r"\d+[\W_]+(?=\D)")
"""The number in front of a name: ``003.goldfish``."""


@dataclass(frozen=True)
class LabelMap:
    """``classes``: the number of each folder's class in the network, by the folder's name; ``by``: how it is known."""

    classes: Mapping[str, int]
    by: str

    def text(self, n_classes: int) -> str:
        """For a person: ``8 of 1,000, folders matched by wnid``."""
        return f"{len(set(self.classes.values())):,} of {n_classes:,}, folders matched by {self.by}"


def class_key(name: str) -> str:
    """What names of one class have in common: letters and digits, without case."""
    return re.sub(r"[\W_]+", "", unicodedata.normalize("NFKC", name).casefold())


def wnids_of(spec: ArchSpec) -> tuple[str, ...]:
    """ImageNet's wnids where the network's classes are ImageNet's, or are as many and have no names; else none."""
    wnids = imagenet_classes()
    return tuple(wnids) if class_names(spec) == tuple(wnids.values()) else ()


@dataclass(frozen=True)
class Classes:
    """The classes of a network as folders may name them: numbers by the name as it is, and by its key."""

    names: tuple[str, ...]
    wnids: tuple[str, ...]
    by_name: Mapping[str, frozenset[int]]
    by_key: Mapping[str, frozenset[int]]

    @classmethod
    def of(cls, spec: ArchSpec) -> Classes:
        wnids, names = wnids_of(spec), class_names(spec)
        known = [*enumerate(spec.class_names), *(enumerate(names) if spec.class_names or wnids else ())]
        keys = [(number, class_key(name)) for number, name in known]
        return cls(names, wnids, _numbers(known), _numbers(keys))

    def named(self, text: str) -> tuple[frozenset[int], str]:
        """(the classes that a text may mean, ``wnid`` or ``class name``); of synonyms behind commas one is enough."""
        wnid = _WNID.match(text)
        if wnid is not None and wnid[1].lower() in self.wnids:
            return frozenset([self.wnids.index(wnid[1].lower())]), "wnid"
        meant = self.by_name.get(text) or self.by_key.get(class_key(text))
        if meant is None:
            parts = (self.by_key.get(class_key(part), frozenset()) for part in text.split(","))
            meant = frozenset().union(*parts)
        if not meant and (number := _NUMBERED.match(text)) is not None:
            return self.named(text[number.end() :])
        return meant, "class name"

    def problem(self, text: str, meant: frozenset[int]) -> str:
        """Why a text does not name one class."""
        if not meant:
            return f"{text!r} is none of the network's classes{nearest(text, self.names)}"
        several = (self.wnids[number] if self.wnids else f"class {number}" for number in sorted(meant))
        return f"{text!r} may be {' or '.join(several)}"


def _numbers(names: Iterable[tuple[int, str]]) -> Mapping[str, frozenset[int]]:
    """The numbers of each name; an empty one has none."""
    found: dict[str, set[int]] = defaultdict(set)
    for number, name in names:
        if name:
            found[name].add(number)
    return {name: frozenset(numbers) for name, numbers in found.items()}


def auto_map(folders: Sequence[str], spec: ArchSpec) -> LabelMap:
    """The class of every folder, from its name.

    Raises:
        InputError: one that is not certain; the message names the first few.
    """
    classes, found, ways, problems = Classes.of(spec), {}, [], []
    if (classes.wnids or not spec.class_names) and all(folder.isdecimal() for folder in folders):
        return _by_number(folders, spec)
    for folder in folders:
        meant, way = classes.named(folder)
        if len(meant) == 1:
            (found[folder],) = meant
            ways.append(way)
        else:
            problems.append(classes.problem(folder, meant))
    if problems:
        more = f"; and {len(problems) - MOST_SHOWN} more" if len(problems) > MOST_SHOWN else ""
        raise InputError(
            f"{len(problems)} of {len(folders)} class folders are not certain: "
            f"{'; '.join(problems[:MOST_SHOWN])}{more}. {FLAG} FILE.json gives the class of each folder"
        )
    return LabelMap(found, " and ".join(dict.fromkeys(ways)))


def _by_number(folders: Sequence[str], spec: ArchSpec) -> LabelMap:
    numbers = {folder: int(folder) for folder in folders}
    if len(numbers) > 1 and sorted(numbers.values()) == list(range(1, len(numbers) + 1)):
        raise InputError(
            f"folders numbered 1 to {len(numbers)}: the classes are numbered from 0, and these may be counted from 1. "
            f"{FLAG} FILE.json gives the class of each folder"
        )
    if max(numbers.values()) >= spec.num_classes:
        raise InputError(
            f"expected folders numbered 0 to {spec.num_classes - 1}, got {min(numbers.values())} to "
            f"{max(numbers.values())}. {FLAG} FILE.json gives the class of each folder"
        )
    return LabelMap(numbers, "number")


def read_map(path: Path, folders: Sequence[str], spec: ArchSpec) -> LabelMap:
    """The map in a JSON file: ``{folder: class name, wnid or number}``; it may name more folders than there are.

    Raises:
        InputError: not such a file, a folder that it does not name, or a class that is not one.
    """
    classes, found = Classes.of(spec), {}
    try:
        entries = dict(Node(read_json(path)).items())
        for folder in folders:
            if folder not in entries:
                raise InputError(f"missing{nearest(folder, entries)}", folder)
            node = entries[folder]
            if isinstance(node.value, str):
                meant, _ = classes.named(node.value)
                if len(meant) != 1:
                    raise InputError(classes.problem(node.value, meant), folder)
                (found[folder],) = meant
            else:
                found[folder] = node.integer(0, spec.num_classes - 1)
    except InputError as error:
        raise error.from_source(str(path)) from None
    return LabelMap(found, str(path))
