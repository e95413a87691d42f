"""The weights of a network for images of other channels: those of RGB for grey ones, and timm's way for several."""

from __future__ import annotations

import numpy as np

FIRST = "first_conv.conv.weight"
"""The first layer's weights, (out, channels, k, k)."""
SUMMED = "the first layer's weights for RGB were added up, for grey images"


def is_for_rgb(tensors: dict[str, np.ndarray]) -> bool:
    """Whether the first layer takes RGB images."""
    first = tensors.get(FIRST)
    return first is not None and first.ndim == 4 and first.shape[1] == 3


def for_channels(tensors: dict[str, np.ndarray], n_channels: int) -> dict[str, np.ndarray]:
    """``tensors``, of RGB images, with the first layer's as images of ``n_channels`` want them.

    One channel gets the sum of the RGB weights: where all channels are normalized alike, a grey image gives what it
    gives in all three. Several repeat them in turn, times 3 / n, as timm does.
    """
    rgb = tensors[FIRST]
    if n_channels == rgb.shape[1]:
        return tensors
    if n_channels == 1:
        return tensors | {FIRST: rgb.sum(1, keepdims=True)}
    repeated = rgb[:, np.arange(n_channels) % rgb.shape[1]]
    return tensors | {FIRST: repeated * np.float32(rgb.shape[1] / n_channels)}
