"""Probabilities over epochs as a heat map, a scene of proxyless_arch/drawing/scene.py."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from proxyless_arch.drawing.axes import Epochs, Phase
from proxyless_arch.drawing.charts import Chart, Value
from proxyless_arch.drawing.scene import Entry, Path, Rect, Scene, Shape, Text, line, text_width

HEAT_LEVELS, HEAT_ROW = 12, 15.0
LABEL, LABEL_GAP = 10.5, 5.0  # size of type, distance from the cells


@dataclass(frozen=True, kw_only=True)
class HeatRow:
    """Values from 0 to 1, one per epoch (None: not known), between the texts to their left and right."""

    label: str
    values: Sequence[Value]
    last: str
    style: str = "choice"
    tip: str = ""


def heat_map(
    title: str,
    rows: Sequence[HeatRow],
    phases: Sequence[Phase],
    *,
    width: float = 300.0,
    label_width: float = 62.0,
    last_width: float = 44.0,
    entries: Sequence[Entry] = (),
) -> Chart:
    """Values from 0 to 1 (rows) over epochs (columns), the more, the stronger the color.

    Cells of one shade are one path, so that a map of many epochs stays small. ``label_width``: at least, and as much as
    the labels need.
    """
    label_width = max(label_width, *(text_width(row.label, LABEL) + 2 * LABEL_GAP for row in rows))
    n_epochs = max(len(row.values) for row in rows)
    left, right, top = label_width, width - last_width, 2.0
    bottom, x = top + HEAT_ROW * len(rows), Epochs.of(phases, n_epochs, left, right)
    shapes: list[Shape] = [Rect(left, top, right - left, bottom - top, style="shade")]
    cells: dict[int, list[list[tuple[float, float]]]] = {}
    for index, row in enumerate(rows):
        y = top + HEAT_ROW * index
        for level, first, last in _runs([round((value or 0.0) * HEAT_LEVELS) for value in row.values]):
            x1, x2, y2 = x(first + 0.5), x(last + 0.5), y + HEAT_ROW - 1
            cells.setdefault(level, []).append([(x1, y), (x2, y), (x2, y2), (x1, y2)])
    shapes += [
        Path(corners, True, style="heat", opacity=level / HEAT_LEVELS)
        for level, corners in sorted(cells.items())
        if level
    ]
    shapes += [line(at, top, at, bottom, "border") for at in (x(phase.first - 0.5) for phase in phases[1:])]
    for index, row in enumerate(rows):
        shapes += _heat_texts(row, top + HEAT_ROW * index, width, left)
    shapes += _epochs(phases, n_epochs, x, bottom + 12)
    name = f"{title}: probability of each choice over {n_epochs} epochs"
    return Chart(title=title, scene=Scene(shapes, width, bottom + 16, name), entries=entries)


def _runs(levels: Sequence[int]) -> list[tuple[int, int, int]]:
    """(level, first, behind the last) of cells beside each other that are alike."""
    starts = [index for index, level in enumerate(levels) if index == 0 or level != levels[index - 1]]
    return [(levels[first], first, last) for first, last in zip(starts, [*starts[1:], len(levels)], strict=True)]


def _heat_texts(row: HeatRow, y: float, width: float, left: float) -> list[Shape]:
    return [
        Text(left - LABEL_GAP, y + 11, row.label, "end", style=row.style),
        Text(width - 2, y + 11, row.last, "end", style=row.style),
        *([Rect(0, y, width, HEAT_ROW, opacity=0.0, style="ground", tip=row.tip)] if row.tip else []),
    ]


def _epochs(phases: Sequence[Phase], n_epochs: int, x: Epochs, y: float) -> list[Shape]:
    """The first and the last epoch of the phase that is shown wide, under its ends."""
    shown = next((phase for phase in phases if not phase.aside), Phase(name="", first=1, last=n_epochs))
    left, right = x(shown.first - 0.5), x(shown.last + 0.5)
    shapes = [Text(left, y, "1", style="phase"), Text((left + right) / 2, y, "epoch", "middle", style="phase")]
    return [*shapes, *([Text(right, y, str(shown.length), "end", style="phase")] if shown.length > 1 else [])]
