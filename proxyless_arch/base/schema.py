"""What a JSON file holds, as far as anything here reads it: which kind of value stands under which key.

A schema is ``{key: check}``; a check gets the Node under the key and raises InputError. A key that a file has beyond
these is kept and not judged; one that it lacks, or that is null, is judged only where it is needed, since older files
have fewer. Settings have their own types (settings.py).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from proxyless_arch.base.errors import InputError
from proxyless_arch.base.files import read_json
from proxyless_arch.base.strict import Node

LARGEST = 1e30
"""Of numbers that something is computed with: products of two are numbers still."""

Check = Callable[[Node], Any]
Schema = Mapping[str, Check]


def judge(node: Node, schema: Schema, needed: Collection[str] = ()) -> None:
    """Raises InputError at the first member that is missing or of the wrong kind."""
    members = dict(node.items())
    for key in needed:
        if key not in members:
            raise InputError("missing", f"{node.path}.{key}" if node.path else key)
    for key, check in schema.items():
        if key in members and (key in needed or members[key].value is not None):
            check(members[key])


def count(node: Node) -> int:
    return node.integer(0, 2**62)


def sides(node: Node) -> None:
    """Of an image: one number, or [height, width]."""
    for each in node.elements(2, 2) if isinstance(node.value, list) else (node,):
        count(each)


def quantity(node: Node) -> float:
    if abs(node.number()) > LARGEST:
        raise node.fail(f"a number of at most {LARGEST:g}")
    return float(node.value)


def amount(node: Node) -> float:
    if node.number(0) > LARGEST:
        raise node.fail(f"a number of at most {LARGEST:g}")
    return float(node.value)


def factor(node: Node) -> float:
    if not amount(node) >= 1 / LARGEST:
        raise node.fail("a number above 0")
    return float(node.value)


def path_of_choices(node: Node) -> list[int]:
    return [each.integer(0) for each in node.elements()]


def list_of(schema: Schema, needed: Collection[str] = ()) -> Check:
    """Objects, each of the ``schema``."""

    def check(node: Node) -> None:
        for each in node.elements():
            judge(each, schema, needed)

    return check


def mapping(node: Node) -> Mapping[str, Any]:
    """An object, whatever is in it."""
    if not isinstance(node.value, dict):
        raise node.fail("an object")
    return node.value


def plain(node: Node) -> Mapping[str, Any]:
    """An object of values as JSON has them: they can be compared, which tensors cannot."""
    try:
        json.dumps(mapping(node))
    except (TypeError, ValueError, RecursionError):
        raise node.fail("an object of plain values") from None
    return mapping(node)


def texts(node: Node) -> list[str]:
    return [each.text() for each in node.elements()]


def percent(node: Node) -> float:
    return node.number(0, 100)


def judged(path: Path, schema: Schema, needed: Collection[str] = ()) -> dict[str, Any]:
    """The object in a JSON file, of the right kind in all that it has of ``schema``. Raises InputError."""
    value = read_json(path)
    try:
        judge(Node(value), schema, needed)
    except InputError as error:
        raise error.from_source(str(path)) from None
    return value
