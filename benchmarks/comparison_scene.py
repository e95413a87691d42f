"""The picture of a comparison (see compare_networks.py): published accuracy over measured latency."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from proxyless_arch.arch import catalog
from proxyless_arch.drawing.axes import PERCENT, Axis, Frame
from proxyless_arch.drawing.charts import Point, compose, plane
from proxyless_arch.drawing.scene import write_picture

CLOCKS: Mapping[str, str] = {
    "thread_cpu": "CPU time of the thread",
    "wall": "wall clock",
    "cuda_graph": "replayed CUDA graph",
}
FRAME = Frame(width=720, height=420)


def draw(record: Mapping[str, Any], path: Path) -> bool:
    """Draw a comparison's record (see compare_networks.py) as ``.png`` or ``.svg``; bars join the quartiles.

    Returns:
        Whether there was something to draw: networks without a published accuracy are not in the picture.
    """
    points = [_point(one) for one in record["networks"] if one["published_top1_percent"] is not None]
    if not points:
        return False
    facts, settings = record["environment"], record["settings"]
    what = f"ms per batch of {settings['batch_size']}, {CLOCKS[facts['clock']]}"
    chart = plane(
        "",
        points,
        x=Axis(label=f"measured latency ({what}; logarithmic)", log=True),
        y=Axis(label="published ImageNet top-1 (%)", bounds=PERCENT),
        frame=FRAME,
    )
    write_picture(compose("Accuracy and latency", [chart], 1, _facts(record)), path)
    return True


def _point(one: Mapping[str, Any]) -> Point:
    ms, is_ours = one["latency_ms"], one["name"] in catalog.RELEASES
    return Point(
        x=ms["median"],
        y=one["published_top1_percent"],
        group="networks of ProxylessNAS" if is_ours else "networks of others",
        label=one["label"],
        mark="circle" if is_ours else "square",
        color="s2" if is_ours else "s1",
        x_range=(ms["low"], ms["high"]) if "low" in ms else None,
    )


def _facts(record: Mapping[str, Any]) -> tuple[str, str]:
    """Where, how and when it was measured, and what the bars are."""
    facts, settings, rounds = record["environment"], record["settings"], record["drift"]["rounds_kept"]
    threads = "" if facts["threads"] is None else f", {facts['threads']} thread{'s' * (facts['threads'] > 1)}"
    load = f", load average {facts['load_average'][0]:.1f}" if facts["load_average"] else ""
    where = f"{facts['device']}, {facts['runtime']} {facts['runtime_version']}, {facts['dtype']}{threads}"
    when = f"{settings['resolution']} px, {facts['date'][:10]}{load}"
    known = all("low" in one["latency_ms"] for one in record["networks"])
    bars = "; bars: interquartile range" if known else ""
    return f"{where}, {when}", f"median of {rounds} rounds{bars}"
