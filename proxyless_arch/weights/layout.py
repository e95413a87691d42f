"""TensorFlow's layouts of the tensors of the contract, whose own layouts are torch's (arch/tensors.py)."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

_TO_TF: Mapping[str, tuple[int, ...]] = MappingProxyType(
    {
        "convolution": (2, 3, 1, 0),  # out, in, k, k -> k, k, in, out
        "depthwise": (2, 3, 0, 1),  # C, 1, k, k -> k, k, C, 1
        "linear": (1, 0),  # out, in -> in, out
    }
)


def is_depthwise(name: str, channels: int, per_group: int, kernel: int) -> bool:
    """Whether the weight ``name`` of ``channels`` is of a depthwise convolution, each with an input channel of its own.

    The stem may have a single channel to take in (an image without colors); no other layer is that narrow.
    """
    return per_group == 1 and kernel > 1 and channels > 1 and not name.startswith("first_conv.")


def _tf_axes(shape: tuple[int, ...], depthwise: bool) -> tuple[int, ...]:
    """Axes that carry a tensor from torch's layout to TensorFlow's; vectors stay as they are."""
    if len(shape) == 4:
        return _TO_TF["depthwise" if depthwise else "convolution"]
    return _TO_TF["linear"] if len(shape) == 2 else tuple(range(len(shape)))


def to_tf_layout(name: str, tensor: np.ndarray) -> np.ndarray:
    """A tensor of the contract in TensorFlow's layout (a contiguous copy)."""
    depthwise = tensor.ndim == 4 and is_depthwise(name, *tensor.shape[:3])
    return np.array(tensor.transpose(_tf_axes(tensor.shape, depthwise)), order="C")


def from_tf_layout(name: str, tensor: np.ndarray) -> np.ndarray:
    """The inverse of to_tf_layout."""
    depthwise = tensor.ndim == 4 and is_depthwise(name, tensor.shape[2], tensor.shape[3], tensor.shape[0])
    axes = _tf_axes(tensor.shape, depthwise)
    return np.array(tensor.transpose([axes.index(axis) for axis in range(len(axes))]), order="C")
