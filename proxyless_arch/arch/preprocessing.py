"""Preprocessing as JSON: the object that both dialects call ``recipe``."""

from __future__ import annotations

from typing import Any

from proxyless_arch.arch.spec import Preprocessing
from proxyless_arch.base.sides import to_json
from proxyless_arch.base.strict import Node, judged_at, plain_number

_KEYS = ("resolution", "resize", "interpolation", "mean", "std")


def preprocessing_from_node(node: Node) -> Preprocessing:
    """The preprocessing that a JSON object describes."""
    parts = node.fields(_KEYS, ("exif",))
    with judged_at(node.path):
        return Preprocessing(**{key: part.as_tuple() for key, part in parts.items()})


def preprocessing_to_dict(preprocessing: Preprocessing) -> dict[str, Any]:
    return {
        "resolution": to_json(preprocessing.resolution),
        "resize": to_json(preprocessing.resize),
        "interpolation": preprocessing.interpolation,
        "mean": list(map(plain_number, preprocessing.mean)),
        "std": list(map(plain_number, preprocessing.std)),
        **({} if preprocessing.exif is None else {"exif": preprocessing.exif}),
    }


def assumption(preprocessing: Preprocessing) -> tuple[str, ...]:
    """A line on a preprocessing that no file named; none where one did."""
    if not preprocessing.assumed:
        return ()
    return (f"how images are prepared was assumed: {preprocessing.assumed}",)
