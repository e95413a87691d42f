"""Predicted against measured latency, drawn in the manner of proxyless_arch/base/scene.py."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from proxyless_arch.base.errors import InputError
from proxyless_arch.base.files import atomic_path
from proxyless_arch.base.scene import BLUE, GREY, INK, SUFFIXES, VERMILION
from proxyless_arch.base.strict import listed


def draw_validation(
    measured_ms: Sequence[float],
    predicted_ms: Sequence[float],
    n_calibration: int,
    path: str | os.PathLike[str],
    *,
    title: str,
    note: str,
) -> None:
    """One dot per network: measured latency across, predicted latency up, the diagonal and a band of 5 %.

    Args:
        n_calibration: the first so many networks fitted scale and offset; they are drawn hollow.
        path: the picture, ``.png`` or ``.svg``; an earlier file is replaced only by a whole new one.
        note: the figures, under the title.

    Raises:
        InputError: another suffix. ValueError: not as many predictions as measurements, or none.
    """
    if Path(path).suffix.lower() not in SUFFIXES:
        raise InputError(f"expected a file name that ends in {listed(SUFFIXES)}", source=str(path))
    if not measured_ms or len(measured_ms) != len(predicted_ms):
        raise ValueError("expected as many predictions as measurements, one or more")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 6.6), facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.12, 0.1, 0.84, 0.76))
    low = 0.95 * min(*measured_ms, *predicted_ms)
    high = 1.05 * max(*measured_ms, *predicted_ms)
    ends = [low, high]
    axes.fill_between(ends, [0.95 * end for end in ends], [1.05 * end for end in ends], color="#EDF3F8", zorder=0,
                      label="within 5 %")  # fmt: skip
    axes.plot(ends, ends, color=GREY, linewidth=1, zorder=1)
    axes.plot(measured_ms[n_calibration:], predicted_ms[n_calibration:], "o", color=BLUE, markersize=5, alpha=0.85,
              label=f"{len(measured_ms) - n_calibration} networks never seen")  # fmt: skip
    if n_calibration:
        axes.plot(measured_ms[:n_calibration], predicted_ms[:n_calibration], "o", markerfacecolor="none",
                  color=VERMILION, markersize=5, label=f"{n_calibration} networks of the calibration")  # fmt: skip
    axes.set_xlim(low, high)
    axes.set_ylim(low, high)
    axes.set_xlabel("measured latency (ms)", fontsize=9, color=INK)
    axes.set_ylabel("predicted latency (ms)", fontsize=9, color=INK)
    axes.tick_params(labelsize=8, colors=INK)
    axes.grid(True, color="#E4E4E4", linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.legend(fontsize=8, frameon=False, loc="upper left")
    style: dict[str, Any] = {"va": "center", "ha": "left", "parse_math": False}
    figure.text(0.12, 0.95, title, fontsize=11, fontweight="bold", color=INK, **style)
    figure.text(0.12, 0.905, note, fontsize=8.5, color=GREY, **style)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format=Path(path).suffix.lower().removeprefix("."), dpi=150)
