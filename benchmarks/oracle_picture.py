"""What each algorithm gains of what the optimum gains, a panel per cost: a scene of proxyless_arch/drawing/scene.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from proxyless_arch.drawing.axes import PERCENT, Axis, Frame
from proxyless_arch.drawing.charts import Chart, Point, compose, plane, series_color
from proxyless_arch.drawing.scene import write_picture

FRAME = Frame(width=360, height=230)
MARKS = ("circle", "square", "triangle", "diamond")


def draw(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """``rows``: of search_oracles.py. Bars are the intervals over seeds."""
    cases = list(dict.fromkeys((row["table"], row["cost"]) for row in rows))
    names = list(dict.fromkeys(row["algorithm"] for row in rows))
    charts = [
        _panel(f"{table}, {cost}", [row for row in rows if (row["table"], row["cost"]) == (table, cost)], names)
        for table, cost in cases
    ]
    counts = sorted({row["n_seeds"] for row in rows})
    seeds = f"{counts[0]} to {counts[-1]}" if len(counts) > 1 else counts[0]
    facts = (
        "share of what the best network gains over the mean of all (%), by algorithm from left to right",
        f"mean of {seeds} imitated supernets; bars: 95% intervals",
    )
    write_picture(compose("Searches on tables of trained networks", charts, 2, facts), path)


def _panel(title: str, rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> Chart:
    points = [
        Point(
            x=1 + names.index(row["algorithm"]),
            y=100 * row["share"],
            group=row["algorithm"],
            mark=MARKS[names.index(row["algorithm"]) % len(MARKS)],
            color=series_color(names.index(row["algorithm"])),
            tip=f"{row['algorithm']}: {100 * row['share']:.1f} %",
            y_range=(100 * row["low"], 100 * row["high"]),
        )
        for row in rows
    ]
    return plane(title, points, x=Axis(label=""), y=Axis(label="share (%)", bounds=PERCENT), frame=FRAME)
