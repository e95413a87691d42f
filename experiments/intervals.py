"""Means over seeds, and how far they are uncertain."""

from __future__ import annotations

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
