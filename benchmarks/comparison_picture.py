"""Published accuracy over measured latency, drawn in the manner of proxyless_arch/base/scene.py."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from proxyless_arch.arch import catalog
from proxyless_arch.base.files import atomic_path
from proxyless_arch.base.scene import BLUE, GREY, INK, VERMILION

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.text import Annotation
    from matplotlib.transforms import Bbox

CLOCKS: Mapping[str, str] = {
    "thread_cpu": "CPU time of the thread",
    "wall": "wall clock",
    "cuda_graph": "replayed CUDA graph",
}
TICKS = tuple(step * 10.0**power for power in range(-4, 6) for step in (1, 1.5, 2, 3, 4, 5, 6, 8))
DISTANCES = (9, 15, 22, 30, 40)  # of a label from its point, in points of type
ANGLES = (0, 180, 90, 270, 45, 135, 225, 315)  # degrees, the preferred ones first
FAR = 14  # from here on a line joins label and point


class Dot(NamedTuple):
    """A network: its latency in ms with the quartiles around it, its accuracy in percent."""

    low: float
    median: float
    high: float
    top1_percent: float
    label: str


def draw(record: Mapping[str, Any], path: Path) -> bool:
    """Draw a comparison's record (see compare_networks.py) as ``.png`` or ``.svg``; bars join the quartiles.

    Returns:
        Whether there was something to draw: networks without a published accuracy are not in the picture.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullFormatter, ScalarFormatter

    shown = [one for one in record["networks"] if one["published_top1_percent"] is not None]
    if not shown:
        return False
    facts, settings = record["environment"], record["settings"]
    figure = Figure(figsize=(8.4, 5.6), facecolor="white", dpi=150)
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.09, 0.11, 0.87, 0.74))
    dots = {
        one["name"]: Dot(
            one["latency_ms"]["low"],
            one["latency_ms"]["median"],
            one["latency_ms"]["high"],
            one["published_top1_percent"],
            one["label"],
        )
        for one in shown
    }
    ours = [dot for name, dot in dots.items() if name in catalog.RELEASES]
    others = [dot for name, dot in dots.items() if name not in catalog.RELEASES]
    _scatter(axes, ours, VERMILION, "o", "networks of ProxylessNAS")
    _scatter(axes, others, BLUE, "s", "networks of others")
    low = min(dot.low for dot in dots.values()) / 1.18
    high = max(dot.high for dot in dots.values()) * 1.18
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    axes.margins(y=0.12)
    axes.set_xticks([tick for tick in TICKS if low <= tick <= high])
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_formatter(NullFormatter())
    what = f"ms per batch of {settings['batch_size']}, {CLOCKS[facts['clock']]}; logarithmic"
    axes.set_xlabel(f"measured latency ({what})", fontsize=9, color=INK)
    axes.set_ylabel("published ImageNet top-1 accuracy (%)", fontsize=9, color=INK)
    axes.tick_params(labelsize=8, colors=INK, which="both")
    axes.grid(True, color="#E4E4E4", linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.legend(fontsize=8, frameon=False, loc="lower right")
    place_labels(axes, list(dots.values()))
    threads = "" if facts["threads"] is None else f", {facts['threads']} thread{'s' * (facts['threads'] > 1)}"
    load = f", load average {facts['load_average'][0]:.1f}" if facts["load_average"] else ""
    note = (
        f"{facts['device']}, {facts['runtime']} {facts['runtime_version']}, {facts['dtype']}{threads}, "
        f"{settings['resolution']} px, {facts['date'][:10]}{load}\n"
        f"bars: interquartile range over {record['drift']['rounds_kept']} rounds"
    )
    style: dict[str, Any] = {"va": "top", "ha": "left", "parse_math": False}
    figure.text(0.09, 0.97, "Accuracy and latency", fontsize=11, fontweight="bold", color=INK, **style)
    figure.text(0.09, 0.925, note, fontsize=8.5, color=GREY, linespacing=1.4, **style)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format=path.suffix.removeprefix("."), dpi=150)
    return True


def _scatter(axes: Axes, dots: Sequence[Dot], colour: str, marker: str, label: str) -> None:
    if dots:
        middle = [dot.median for dot in dots]
        below, above = [dot.median - dot.low for dot in dots], [dot.high - dot.median for dot in dots]
        axes.errorbar(
            middle, [dot.top1_percent for dot in dots], xerr=[below, above], fmt=marker, color=colour, markersize=7,
            elinewidth=1.6, capsize=3.5, label=label, zorder=3,
        )  # fmt: skip


def place_labels(axes: Axes, dots: Sequence[Dot]) -> list[Annotation]:
    """A label beside every dot, each where it covers no other label, no dot and no bar, as near as there is room."""
    figure = axes.figure
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined, union-attr]
    scale = figure.dpi / 72  # pixels per point of type
    taken = [_around(axes, dot, scale) for dot in dots]
    inside = axes.get_window_extent(renderer)
    placed = []
    for dot in dots:
        text, box = _best_place(axes, dot, taken, inside)
        placed.append(text)
        taken.append(box.padded(1.5 * scale))
        (left, y), (x, _), (right, _) = axes.transData.transform([(end, dot.top1_percent) for end in dot[:3]])
        near = (float(np.clip(x, box.x0, box.x1)), float(np.clip(y, box.y0, box.y1)))
        across = max(left - near[0], near[0] - right, 0.0)  # from the bar: a line along it would look like more of it
        if math.hypot(across, near[1] - y) > FAR * scale:
            ends = axes.transData.inverted().transform([(x, y), near])
            axes.plot(*ends.T, color=GREY, linewidth=0.7, zorder=2)
    return placed


def _around(axes: Axes, dot: Dot, scale: float) -> Bbox:
    """The box of a dot and its bar, in pixels."""
    from matplotlib.transforms import Bbox

    (left, y), (right, _) = axes.transData.transform([(dot.low, dot.top1_percent), (dot.high, dot.top1_percent)])
    return Bbox.from_extents(left - 6 * scale, y - 6 * scale, right + 6 * scale, y + 6 * scale)


def _best_place(axes: Axes, dot: Dot, taken: Sequence[Bbox], inside: Bbox) -> tuple[Annotation, Bbox]:
    """The first place without overlap, else the one with the least; a label to the right or left clears the bar."""
    renderer = axes.figure.canvas.get_renderer()  # type: ignore[attr-defined, union-attr]
    best: tuple[float, Annotation, Bbox] | None = None
    for distance in DISTANCES:
        for angle in ANGLES:
            across, up = (round(function(math.radians(angle)), 3) for function in (math.cos, math.sin))
            start = dot.high if angle == 0 else dot.low if angle == 180 else dot.median
            text = axes.annotate(
                dot.label, (start, dot.top1_percent), (across * distance, up * distance), textcoords="offset points",
                fontsize=8.5, color=INK, ha="left" if across > 0 else "right" if across < 0 else "center",
                va="bottom" if up > 0 else "top" if up < 0 else "center_baseline", parse_math=False,
            )  # fmt: skip
            box = text.get_window_extent(renderer)
            overlap = sum(_shared_area(box, other) for other in taken)
            overlap += box.width * box.height - _shared_area(box, inside)
            if best is not None and overlap >= best[0] - 1e-6:
                text.remove()
                continue
            if best is not None:
                best[1].remove()
            best = (overlap, text, box)
            if overlap < 1e-6:
                return text, box
    assert best is not None
    return best[1], best[2]


def _shared_area(one: Bbox, other: Bbox) -> float:
    width = min(one.x1, other.x1) - max(one.x0, other.x0)
    height = min(one.y1, other.y1) - max(one.y0, other.y0)
    return max(width, 0.0) * max(height, 0.0)
