"""Means over seeds, and how far they are uncertain."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np


def interval(values: Sequence[float]) -> dict[str, Any]:
    """The mean, and its 95% interval by Student's distribution (None of one value)."""
    from scipy.stats import t

    mean, count = float(np.mean(values)), len(values)
    if count < 2:
        return {"mean": mean, "interval_95": None}
    half = float(t.ppf(0.975, count - 1) * np.std(values, ddof=1) / np.sqrt(count))
    return {"mean": mean, "interval_95": [mean - half, mean + half]}


def paired(ours: Sequence[float] | np.ndarray, others: Sequence[float] | np.ndarray) -> dict[str, float]:
    """By how many points ``ours`` is right more often on the same images, and half of a 95% interval over images."""
    gains = np.asarray(ours, float) - np.asarray(others, float)
    half = 1.96 * float(gains.std(ddof=1)) / math.sqrt(len(gains))
    return {"points": 100 * float(gains.mean()), "half_width": 100 * half}
