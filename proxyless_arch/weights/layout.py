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


def _tf_axes(name: str, rank: int) -> tuple[int, ...]:
    """Axes that carry the tensor ``name`` from torch's layout to TensorFlow's; vectors stay as they are."""
    if rank == 4:
        return _TO_TF[
            "depthwise" if name.endswith((".depth_conv.conv.weight", ".depth_conv.weight")) else "convolution"
        ]
    return _TO_TF["linear"] if rank == 2 else tuple(range(rank))


def to_tf_layout(name: str, tensor: np.ndarray) -> np.ndarray:
    """A tensor of the contract in TensorFlow's layout (a contiguous copy)."""
    return np.array(tensor.transpose(_tf_axes(name, tensor.ndim)), order="C")


def from_tf_layout(name: str, tensor: np.ndarray) -> np.ndarray:
    """The inverse of to_tf_layout."""
    axes = _tf_axes(name, tensor.ndim)
    return np.array(tensor.transpose([axes.index(axis) for axis in range(len(axes))]), order="C")
