"""An exported file: how it runs, what it takes, and what it says of its network, whoever wrote it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from proxyless_arch.apps.evaluation import Network, describe_preprocessing
from proxyless_arch.apps.prediction import class_names
from proxyless_arch.arch.bits import BitPlan, plan_to_json
from proxyless_arch.arch.codec import spec_from_node, spec_to_dict
from proxyless_arch.arch.preprocessing import assumption
from proxyless_arch.arch.spec import ArchSpec, Preprocessing
from proxyless_arch.base.errors import InputError
from proxyless_arch.base.files import parse_json, read_bytes
from proxyless_arch.base.strict import Node

FORMAT, VERSION = "proxyless-arch/export", 1
BAKED = "uint8 RGB, 0..255"
"""The input of a file that scales its images itself, in its metadata."""
METADATA_NAME = "proxyless_arch.json"
"""What the metadata is called inside every exported file."""
MAX_METADATA = 2**24  # bytes

Forward = Callable[[np.ndarray], np.ndarray]
"""Images in the runtime's own layout, float32 -> (N, classes) float32 logits; a file with baked preprocessing takes
uint8 pixels as well."""


class Loaded(NamedTuple):
    """An exported file in its runtime."""

    forward: Forward
    runtime: str
    version: str


def as_uint8(images: np.ndarray, preprocessing: Preprocessing, channels: int) -> np.ndarray:
    """The uint8 pixels that ``normalize`` made these images of. ``channels``: which axis they are along."""
    shape = [preprocessing.channels if axis == channels % images.ndim else 1 for axis in range(images.ndim)]
    mean, std = (
        np.reshape(np.asarray(values, np.float64), shape) for values in (preprocessing.mean, preprocessing.std)
    )
    return np.clip(np.rint(255 * (images * std + mean)), 0, 255).astype(np.uint8)


def metadata_text(network: Network, bits: BitPlan | None = None, **more: Any) -> str:
    """What a file says about itself, as JSON: spec (with preprocessing), class names, where the weights come from.

    Args:
        network: the source.
        bits: the plan that the file was made by.
        more: facts of the format and the framework, as JSON values.
    """
    spec = network.spec
    value = {
        "format": FORMAT,
        "version": VERSION,
        "preprocessing": "; ".join(
            (
                describe_preprocessing(spec.preprocessing),
                "RGB, (pixel / 255 - mean) / std",
                *assumption(spec.preprocessing),
            )
        ),
        "class_names": list(class_names(spec)),
        "spec": spec_to_dict(spec),
        "provenance": {
            "weights": Path(network.weights).name,
            "weights_blob_sha1": network.weights_blob_sha1,
            "weight_file_says": dict(network.provenance),
            "exported": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            **more,
        },
    }
    if bits is not None:
        value["bits"] = json.loads(plan_to_json(bits))
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def metadata_in(content: bytes) -> dict[str, Any] | None:
    """The metadata inside the bytes of an exported file, of whatever format: all hold it as one piece of text."""
    start = content.find(json.dumps({"format": FORMAT})[:-1].encode())
    if start < 0:
        return None
    try:
        value, _ = json.JSONDecoder().raw_decode(content[start : start + MAX_METADATA].decode(errors="replace"))
    except ValueError:
        return None
    return value


def _describes(value: Mapping[str, Any], network: Network) -> bool:
    """Whether metadata are those of ``network``: the same spec with the same weights."""
    told = value["provenance"] if isinstance(value.get("provenance"), dict) else {}
    mine = [spec_to_dict(network.spec), Path(network.weights).name, network.weights_blob_sha1]
    return [value.get("spec"), told.get("weights"), told.get("weights_blob_sha1")] == json.loads(json.dumps(mine))


def check_free(target: Path, network: Network) -> None:
    """Whether a file may be written: there is none, or it holds the same network.

    Raises:
        InputError: another network's file, or none of ours.
    """
    if not target.exists():
        return
    files = [file for file in target.rglob(METADATA_NAME) if file.is_file()] if target.is_dir() else [target]
    found = next(filter(None, map(metadata_in, map(read_bytes, files))), None)
    if found is None or not _describes(found, network):
        what = "is there and holds no network of ours" if found is None else "holds another network, or other weights"
        raise InputError(f"{what}: give another --output, or a --name", "--output", str(target))


def read_metadata(text: str | bytes | None, source: str) -> tuple[ArchSpec, dict[str, Any]]:
    """(spec, provenance) from the metadata of an exported file.

    Raises:
        InputError: the file holds none (``text`` is None), or it is not ours.
    """
    if text is None:
        raise InputError("it says nothing about its network: not a file of export.py or export_tf.py", source=source)
    try:
        fields = Node(parse_json(text, source)).fields(
            ("format", "version", "spec"), ("preprocessing", "class_names", "provenance", "bits")
        )
        fields["format"].exactly(FORMAT)
        fields["version"].exactly(VERSION)
        provenance = {key: part.value for key, part in fields["provenance"].items()} if "provenance" in fields else {}
        return spec_from_node(fields["spec"]), provenance
    except InputError as error:
        raise error.from_source(source) from None
