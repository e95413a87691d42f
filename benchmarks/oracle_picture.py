"""What each algorithm gains of what the optimum gains, by cost: a scene of proxyless_arch/drawing/scene.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from proxyless_arch.drawing.axes import PERCENT, Axis, Frame
from proxyless_arch.drawing.charts import Point, compose, plane, series_color
from proxyless_arch.drawing.scene import write_picture

MARKS = ("circle", "square", "triangle", "diamond")
SPREAD = 0.6  # of the distance of two costs, that their algorithms take
SHOWN = {"macs": "MACs", "a100": "A100", "3090": "RTX\n3090", "tpuv2": "TPUv2", "tpuv3": "TPUv3", "zcu102": "ZCU\n102",
         "vck190": "VCK\n190"}  # fmt: skip


def draw(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """``rows``: of search_oracles.py. Bars are the intervals over seeds."""
    cases = list(dict.fromkeys((row["table"], row["cost"]) for row in rows))
    names = list(dict.fromkeys(row["algorithm"] for row in rows))
    counts = sorted({row["n_seeds"] for row in rows})
    seeds = f"{counts[0]} to {counts[-1]}" if len(counts) > 1 else counts[0]
    x = Axis(label="", names=[_shown(table, cost) for table, cost in cases])
    y = Axis(label="share of the optimum (%)", bounds=PERCENT)
    frame = Frame(width=max(420, 110 * len(cases)), height=330, foot=56)
    points = [_point(row, cases.index((row["table"], row["cost"])), names) for row in rows]
    facts = (
        "what the network found gains over the mean of all networks of that cost, of what the best one gains",
        f"mean of {seeds} imitated supernets; bars: 95% intervals",
    )
    chart = plane("at equal image forwards", points, x=x, y=y, frame=frame)
    write_picture(compose("Searches on tables of trained networks", [chart], 1, facts), path)


def _shown(table: str, cost: str) -> str:
    shown = SHOWN.get(cost, cost)
    return f"{shown}\n(Macro)" if table == "nas-bench-macro" else shown


def _point(row: Mapping[str, Any], place: int, names: Sequence[str]) -> Point:
    number = names.index(row["algorithm"])
    return Point(
        x=place + SPREAD * ((number + 0.5) / len(names) - 0.5),
        y=100 * row["share"],
        group=row["algorithm"],
        mark=MARKS[number % len(MARKS)],
        color=series_color(number),
        tip=f"{row['algorithm']}: {100 * row['share']:.1f} %",
        y_range=(100 * row["low"], 100 * row["high"]),
    )
