"""What a network sees in one image: shared by ``predict`` of both zoos and by the evaluation scripts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from proxyless_arch.arch.spec import ArchSpec
from proxyless_arch.base.errors import InputError
from proxyless_arch.base.files import parse_json

TOP = 5


class Prediction(NamedTuple):
    """A class by name, its probability in 0..1, and its number among the network's classes."""

    name: str
    probability: float
    label: int


def most_likely(logits: np.ndarray, spec: ArchSpec, top: int = TOP) -> list[Prediction]:
    """The ``top`` most likely classes of a network, the most likely first; of equal ones the lower label first.

    Args:
        logits: (classes,) of ``spec``.
        spec: the network.
        top: at least 1; a network of fewer classes gives all of them.

    Raises:
        InputError: ``top`` is below 1, there is not one logit per class, or one is not finite.
    """
    if top < 1:
        raise InputError(f"expected 1 or more, got {top}", "top")
    if logits.shape != (spec.num_classes,):
        raise InputError(f"expected {spec.num_classes} logits, got an array of shape {logits.shape}", "logits")
    if not np.isfinite(logits).all():
        raise InputError("expected finite logits, got inf or nan: the weights are damaged or overflow", "logits")
    row = logits.astype(np.float64)
    exponentials = np.exp(row - row.max())
    probabilities, names = exponentials / exponentials.sum(), class_names(spec)
    best = np.argsort(-row, kind="stable")[:top].tolist()
    return [Prediction(names[label], float(probabilities[label]), label) for label in best]


def as_record(best: Sequence[Prediction]) -> list[dict[str, Any]]:
    """The most likely classes as JSON values."""
    return [{"class": label, "name": name, "percent": round(100 * share, 3)} for name, share, label in best]


@cache
def imagenet_classes() -> Mapping[str, str]:
    """{wnid: name} of ImageNet's 1000 classes, in the order of their indices (that of the wnids)."""
    source = "imagenet_classes.json"
    text = resources.files("proxyless_arch.apps").joinpath(source).read_bytes()
    return MappingProxyType(parse_json(text, source))


def class_names(spec: ArchSpec) -> tuple[str, ...]:
    """A name for each class: the spec's own (of wnids, as folders have them, their names in words), ImageNet's for a
    network of 1000 classes, else ``class 0`` and so on."""
    known = imagenet_classes()
    if spec.class_names:
        are_wnids = all(name in known for name in spec.class_names)
        return tuple(known[name] for name in spec.class_names) if are_wnids else spec.class_names
    imagenet = tuple(known.values())
    return imagenet if spec.num_classes == len(imagenet) else tuple(f"class {k}" for k in range(spec.num_classes))
