"""The picture of an evaluation under attack: how the error grows from layer to layer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from proxyless_arch.drawing.axes import Axis
from proxyless_arch.drawing.charts import Guide, Point, compose, plane, series_color
from proxyless_arch.drawing.scene import write_picture


def draw_curves(means: Mapping[str, Mapping[str, float]], file: Path) -> None:
    """A line for each network through the relative error behind each place, the image first and the logits last."""
    points, guides = [], []
    for index, (name, by_place) in enumerate(means.items()):
        color = series_color(index)
        line = list(enumerate(by_place.values()))
        guides.append(Guide(points=line, style=f"line line-{color}"))
        points += [
            Point(x=at, y=value, group=name, mark="small", color=color, tip=f"{place}: {value:.3f}")
            for (at, value), place in zip(line, by_place, strict=True)
        ]
    chart = plane(
        "How an attack's error grows with depth",
        points,
        x=Axis(label="layer, from the image (0) to the logits"),
        y=Axis(label="relative error"),
        guides=guides,
    )
    write_picture(compose("", [chart], 1), file)
