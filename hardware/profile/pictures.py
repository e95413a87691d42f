"""Predicted against measured latency, a scene of proxyless_arch/drawing/scene.py."""

from __future__ import annotations

import os
from collections.abc import Sequence

from proxyless_arch.base.strict import counted
from proxyless_arch.drawing.axes import Axis, Frame
from proxyless_arch.drawing.charts import Guide, Point, compose, plane
from proxyless_arch.drawing.scene import check_suffix, write_picture

FRAME = Frame(width=560, height=540)
BAND = 0.05


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
        n_calibration: the first so many networks fitted scale and offset; they are diamonds.
        path: the picture, ``.png`` or ``.svg``; an earlier file is replaced only by a whole new one.
        note: the figures, under the title.

    Raises:
        InputError: another suffix. ValueError: not as many predictions as measurements, or none.
    """
    check_suffix(path)
    if not measured_ms or len(measured_ms) != len(predicted_ms):
        raise ValueError("expected as many predictions as measurements, one or more")
    unseen = f"{counted(len(measured_ms) - n_calibration, 'network')} never seen"
    calibration = f"{counted(n_calibration, 'network')} of the calibration"
    points = [
        Point(x=measured, y=predicted, group=unseen)
        if index >= n_calibration
        else Point(x=measured, y=predicted, group=calibration, mark="diamond", color="s2")
        for index, (measured, predicted) in enumerate(zip(measured_ms, predicted_ms, strict=True))
    ]
    low, high = 0.95 * min(*measured_ms, *predicted_ms), 1.05 * max(*measured_ms, *predicted_ms)
    above, below = 1 + BAND, 1 - BAND
    band = [(low, below * low), (high, below * high), (high, above * high), (low, above * low)]
    chart = plane(
        "",
        points,
        x=Axis(label="measured latency (ms)"),
        y=Axis(label="predicted latency (ms)"),
        guides=[
            Guide(points=band, label=f"within {100 * BAND:g} %", style="band", is_area=True),
            Guide(points=[(low, low), (high, high)], style="axis"),
        ],
        frame=FRAME,
    )
    write_picture(compose(title, [chart], 1, [note]), path)
