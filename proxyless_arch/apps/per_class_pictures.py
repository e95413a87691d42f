"""The record of per_class.py as drawings, for a page and for files: accuracy by class, what is taken for what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from proxyless_arch.apps.per_class import UNCLEAR
from proxyless_arch.apps.scores import score_interval, shown_percent
from proxyless_arch.base.strict import counted
from proxyless_arch.base.text import shortened
from proxyless_arch.drawing.charts import FRAME, Chart, compose
from proxyless_arch.drawing.scene import Rect, Scene, Shape, Text, line, text_width, write_picture

MOST_IN_MATRIX, MOST_ROWS = 25, 25
"""Classes that a whole matrix is drawn of; bars of a chart."""
ROW, WIDTH, NAMES = 19.0, FRAME.width, 130.0
CELL = 24.0


@dataclass(frozen=True)
class SeenImage:
    """An image to be shown: its picture as a data: address, and what it is and was taken for."""

    picture: str
    place: str
    is_text: str
    taken_text: str
    is_right: bool


@dataclass(frozen=True)
class PerClassView:
    """All that a page shows of a per-class record; ``summary`` is one sentence."""

    summary: str
    charts: Sequence[Chart]
    worst: Sequence[SeenImage]
    samples: Sequence[SeenImage]


def per_class_view(record: Mapping[str, Any]) -> PerClassView:
    """The record of ``per_class_record`` or ``read_per_class`` as drawings and texts."""
    classes, n_images = record["classes"], record["n_images"]
    mean = shown_percent(record["mean_class_top1_percent"], None)
    summary = (
        f"{n_images:,} images of {counted(len(classes), 'class', 'classes')}; mean of the classes' accuracies {mean}"
    )
    charts = [_accuracies(classes)]
    if record["confusions"]:
        whole = len(record["class_names"]) <= MOST_IN_MATRIX
        charts.append(_matrix(record) if whole else _pairs(record))
    worst, samples = ([_seen(entry) for entry in record.get(key, ())] for key in ("worst", "samples"))
    return PerClassView(summary, charts, worst, samples)


def write_per_class_picture(record: Mapping[str, Any], path: Path) -> None:
    """All drawings one below the other, as .svg (or .png, which takes matplotlib). Raises OSError."""
    view = per_class_view(record)
    write_picture(compose("", view.charts, 1, [view.summary]), path)


def _seen(entry: Mapping[str, Any]) -> SeenImage:
    return SeenImage(
        picture=entry["thumbnail"],
        place=entry["image"],
        is_text=f"{entry['name']} ({entry['percent']:.1f} %)",
        taken_text=f"{entry['predicted_name']} ({entry['predicted_percent']:.1f} %)",
        is_right=entry["class"] == entry["predicted"],
    )


def _accuracies(classes: Sequence[Mapping[str, Any]]) -> Chart:
    """Top-1 by class, the lowest first."""
    ordered = sorted(classes, key=lambda entry: (entry["top1_percent"], entry["class"]))
    rows = [
        _Bar(
            entry["name"],
            entry["top1_hits"] / entry["n_images"],
            f"{entry['top1_hits']} of {entry['n_images']}",
            score_interval(100 * entry["top1_hits"] / entry["n_images"], entry["n_images"]),
        )
        for entry in ordered[:MOST_ROWS]
    ]
    left = ordered[MOST_ROWS:]
    rest = f"; {len(left)} more classes have {shown_percent(left[0]['top1_percent'], None)} or above" if left else ""
    note = f"thin lines: 95 % intervals, from the number of images{rest}"
    return Chart(
        title="Accuracy of each class, the lowest first", scene=_bars(rows, "Accuracy of each class"), note=note
    )


def _pairs(record: Mapping[str, Any]) -> Chart:
    """The most frequent mistakes, as shares of the class's images."""
    n_images = {entry["class"]: entry["n_images"] for entry in record["classes"]}
    rows = [
        _Bar(
            f"{_name(record, label)} → {_name(record, predicted)}",
            count / n_images[label],
            f"{count} of {n_images[label]}",
        )
        for label, predicted, count in sorted(
            record["confusions"], key=lambda entry: (-entry[2], n_images[entry[0]], entry[0])
        )[:MOST_ROWS]
    ]
    left = len(record["confusions"]) - len(rows)
    note = f"and {left:,} more pairs, in the record" if left else ""
    return Chart(
        title="Most often mistaken: class → what it was taken for",
        scene=_bars(rows, "The most confused pairs", "dot-s2"),
        note=note,
    )


def _name(record: Mapping[str, Any], number: int) -> str:
    return record["class_names"][number] if number >= 0 else "(no finite logits)"


@dataclass(frozen=True)
class _Bar:
    """A share from 0 to 1 under its name; ``interval``: within which it is certain, in percent."""

    label: str
    share: float
    text: str
    interval: tuple[float, float] | None = None


def _bars(rows: Sequence[_Bar], name: str, style: str = "heat") -> Scene:
    """A bar from 0 to 1 for each row, with its text at the right."""
    room = min(NAMES, max((text_width(row.label) for row in rows), default=0.0))
    start, end = room + 8, WIDTH - max((text_width(row.text) for row in rows), default=0.0) - 8
    shapes: list[Shape] = [line(start, 0, start, ROW * len(rows), "axis")]
    for number, row in enumerate(rows):
        top, middle = number * ROW, number * ROW + ROW / 2
        shapes.append(Text(start - 8, top + 13, shortened(row.label, text_width, room), "end", style="name"))
        if row.share > 0:
            shapes.append(Rect(start, top + 3, (end - start) * row.share, ROW - 6, 2, style=style))
        if row.interval is not None:
            low, high = (start + (end - start) * at / 100 for at in row.interval)
            shapes.append(line(low, middle, high, middle, "whisker"))
        shapes.append(Text(WIDTH, top + 13, row.text, "end", style="name", tip=f"{row.label}: {row.text}"))
    return Scene(shapes, WIDTH, ROW * len(rows) + 4, name=name)


def _matrix(record: Mapping[str, Any]) -> Chart:
    """Rows: what the images are; columns: what they were taken for; the stronger, the larger the share of a row."""
    rows = record["classes"]
    cells = {(entry["class"], entry["class"]): entry["top1_hits"] for entry in rows}
    cells |= {(label, predicted): count for label, predicted, count in record["confusions"]}
    columns = [*range(len(record["class_names"])), *{UNCLEAR}.intersection(predicted for _, predicted in cells)]
    titles = [_name(record, number) for number in columns]
    beside = min(NAMES, max(text_width(entry["name"]) for entry in rows))
    above = min(NAMES, max(map(text_width, titles)))
    left, top = beside + 8, above + 8
    shapes: list[Shape] = [
        Text(left + (at + 0.5) * CELL + 4, top - 6, shortened(title, text_width, above), turned=True, style="name")
        for at, title in enumerate(titles)
    ]
    for number, entry in enumerate(rows):
        y = top + number * CELL
        shapes.append(Text(left - 8, y + 16, shortened(entry["name"], text_width, beside), "end", style="name"))
        shapes += _cells(entry, columns, titles, cells, left, y)
    size = left + CELL * len(columns) + 4, top + CELL * len(rows) + 4
    note = "rows: what the images are; columns: what they were taken for; numbers: images"
    return Chart(
        title="What is taken for what",
        scene=Scene(shapes, max(size[0], WIDTH), size[1], name="Confusion matrix"),
        note=note,
    )


def _cells(
    entry: Mapping[str, Any],
    columns: Sequence[int],
    titles: Sequence[str],
    cells: Mapping[tuple[int, int], int],
    left: float,
    y: float,
) -> list[Shape]:
    """One row of the matrix."""
    shapes: list[Shape] = []
    for at, (predicted, title) in enumerate(zip(columns, titles, strict=True)):
        count, x = cells.get((entry["class"], predicted), 0), left + at * CELL
        is_right = predicted == entry["class"]
        shapes.append(Rect(x + 1, y + 1, CELL - 2, CELL - 2, 3, style="shade"))
        if not count:
            continue
        share, tip = count / entry["n_images"], f"{entry['name']} taken for {title}: {count} of {entry['n_images']}"
        style = "heat" if is_right else "dot-s2"
        shapes.append(Rect(x + 1, y + 1, CELL - 2, CELL - 2, 3, style=style, opacity=0.15 + 0.65 * share, tip=tip))
        shapes.append(Text(x + CELL / 2, y + 16, str(count) if count < 1000 else "…", "middle", style="name"))
    return shapes
