"""Charts as scenes of scene.py: lines over epochs, networks in a plane."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from proxyless_arch.base.scene import (
    N_SERIES_COLORS,
    Circle,
    Entry,
    Group,
    Path,
    Rect,
    Scene,
    Shape,
    Text,
    legend_rows,
    line,
    text_width,
)

WIDTH, HEIGHT = 420.0, 236.0
LEFT, RIGHT, TOP, BOTTOM = 50.0, WIDTH - 12.0, 20.0, HEIGHT - 38.0
MAX_MARKS = 200
MARGIN, HEADING = 24.0, 26.0  # of a panel in a picture

Value = float | None


@dataclass(frozen=True, kw_only=True)
class Series:
    """A line of a chart: one value per epoch (None: not known). ``color``: see series_color."""

    label: str
    values: Sequence[Value]
    color: str = "s1"


@dataclass(frozen=True, kw_only=True)
class Phase:
    """Epochs ``first`` to ``last`` (from 1) of a run, shaded."""

    name: str
    first: int
    last: int


@dataclass(frozen=True, kw_only=True)
class Point:
    """A mark in a plane. ``kind``: "run", "control" or "published"; a label of "" is not written."""

    label: str
    x: float
    y: float
    kind: str
    color: str = "s1"
    tip: str = ""


@dataclass(frozen=True, kw_only=True)
class Target:
    """What was asked for, and how the legend says so."""

    value: float
    label: str


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A drawing under its title, with the entries of its legend and a note."""

    title: str
    scene: Scene
    entries: Sequence[Entry] = ()
    note: str = ""


def series_color(index: int) -> str:
    """The color of the series or run ``index``, from 0: a class of scene.COLORS."""
    return f"s{index % N_SERIES_COLORS + 1}"


# --------------------------------------------------------------------------------------------------------- axes


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About ``count`` round numbers from ``low`` to ``high``."""
    if not high > low:
        return [low]
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = power * next(factor for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [index * step for index in range(first, math.floor(high / step + 1e-9) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    factors, step = ((1,), -(-len(decades) // 7)) if len(decades) > 3 else ((1, 2, 5), 1)
    return [
        factor * 10.0**power for power in decades[::step] for factor in factors if low <= factor * 10.0**power <= high
    ]


def label_of(value: float) -> str:
    """A tick's text, every digit of the round number that it is: ``0.25``, ``1.885``, ``1,200``."""
    return f"{float(f'{value:.9g}'):,}".removesuffix(".0")


@dataclass(frozen=True)
class _Scale:
    """Numbers to pixels, linear or logarithmic."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high, at = (
            (math.log(self.low), math.log(self.high), math.log(max(value, self.low)))
            if self.log
            else (self.low, self.high, value)
        )
        return self.start + (self.end - self.start) * (at - low) / (high - low)

    def ticks(self, count: int) -> list[float]:
        return _log_ticks(self.low, self.high) if self.log else ticks(self.low, self.high, count)


def _scale(
    values: Sequence[float], start: float, end: float, *, floor: float | None = None, log: bool = False
) -> _Scale:
    low, high = min(values), max(values)
    if log:
        return _Scale(low / 1.3, high * 1.3, start, end, True)
    pad = 0.08 * (high - low) or 0.05 * abs(high) or 1.0
    return _Scale(low - pad if floor is None else floor, high + pad, start, end)


def _axes(x: _Scale, y: _Scale, x_label: str, y_label: str, x_ticks: Sequence[float]) -> list[Shape]:
    shapes: list[Shape] = []
    for value in y.ticks(5):
        shapes.append(line(LEFT, y(value), RIGHT, y(value), "grid"))
        shapes.append(Text(LEFT - 6, y(value) + 4, label_of(value), "end"))
    for value in x_ticks:
        shapes.append(line(x(value), BOTTOM, x(value), BOTTOM + 4, "axis"))
        shapes.append(Text(x(value), BOTTOM + 17, label_of(value), "middle"))
    shapes.append(line(LEFT, BOTTOM, RIGHT, BOTTOM, "axis"))
    shapes.append(Text((LEFT + RIGHT) / 2, HEIGHT - 5, x_label, "middle", style="label"))
    shapes.append(Text(11, (TOP + BOTTOM) / 2, y_label, "middle", True, style="label"))
    return shapes


def _nothing(title: str, words: str, note: str) -> Chart:
    """A chart of what there is not."""
    text = Text(WIDTH / 2, HEIGHT / 2, words, "middle", style="label")
    return Chart(title=title, scene=Scene([text], WIDTH, HEIGHT, f"{title}: {words}"), note=note)


# -------------------------------------------------------------------------------------------- lines over epochs


def line_chart(
    title: str,
    series: Sequence[Series],
    *,
    y_label: str,
    shown: Callable[[float], str],
    phases: Sequence[Phase] = (),
    target: Target | None = None,
    from_zero: bool = False,
    may_be_log: bool = False,
    note: str = "",
) -> Chart:
    """Lines over epochs, with a dashed line at ``target``. ``shown`` writes a value in a tooltip.

    ``may_be_log``: take a logarithmic axis when the values are positive and span more than a factor of 20.
    """
    known = [value for each in series for value in each.values if value is not None]
    lines = [each for each in series if any(value is not None for value in each.values)]
    if not known:
        return _nothing(title, "not recorded", note)
    n_epochs = max(len(each.values) for each in series)
    log = may_be_log and min(known) > 0 and max(known) > 20 * min(known)
    limits = [*known, *([target.value] if target is not None else [])]
    x = _Scale(0.5, n_epochs + 0.5, LEFT, RIGHT)
    y = _scale(limits, BOTTOM, TOP, floor=0.0 if from_zero else None, log=log)
    whole = [value for value in ticks(1, n_epochs, 6) if value == int(value) and value >= 1] or [1]
    shapes = [*_shades(phases, x), *_axes(x, y, "epoch", y_label, whole)]
    if target is not None:
        shapes.append(line(LEFT, y(target.value), RIGHT, y(target.value), "line target"))
    for each in lines:
        shapes += [_polyline(each, x, y), *_dots(each, x, y, shown)]
    entries = [_line_entry(each.label, f"line-{each.color}") for each in lines]
    entries = entries if len(lines) > 1 or target is not None else []
    scene = Scene(shapes, WIDTH, HEIGHT, f"{title} over {n_epochs} epochs")
    return Chart(title=title, scene=scene, entries=[*entries, *_target_entry(target)], note=note)


def _shades(phases: Sequence[Phase], x: _Scale) -> list[Shape]:
    shapes: list[Shape] = []
    for phase in phases:
        start, end = x(phase.first - 0.5), x(phase.last + 0.5)
        if phase.name != "search":
            shapes.append(Rect(start, TOP, end - start, BOTTOM - TOP, style="shade"))
        if end - start > text_width(phase.name, 10.5):
            shapes.append(Text((start + end) / 2, TOP - 6, phase.name, "middle", style="phase"))
    return shapes


def _polyline(series: Series, x: _Scale, y: _Scale) -> Path:
    """The line, with a gap where a value is not known."""
    lines: list[list[tuple[float, float]]] = [[]]
    for epoch, value in enumerate(series.values, start=1):
        if value is not None:
            lines[-1].append((x(epoch), y(value)))
        elif lines[-1]:
            lines.append([])
    return Path([points for points in lines if points], style=f"line line-{series.color}")


def _dots(series: Series, x: _Scale, y: _Scale, shown: Callable[[float], str]) -> list[Shape]:
    step = -(-len(series.values) // MAX_MARKS)
    # few are set off from their line; many would cut it into dashes
    radius, style = (3.0, "dot ") if len(series.values) <= 40 else (1.6, "")
    return [
        Circle(
            x(epoch), y(value), radius, style=f"{style}dot-{series.color}",
            tip=f"epoch {epoch}: {series.label} {shown(value)}",
        )
        for epoch, value in enumerate(series.values, start=1)
        if value is not None and (epoch - 1) % step == 0
    ]  # fmt: skip


def _line_entry(label: str, style: str) -> Entry:
    return Entry(label, line(1, 7, 21, 7, f"line {style}"))


def _target_entry(target: Target | None) -> list[Entry]:
    return [_line_entry(target.label, "target")] if target is not None else []


# -------------------------------------------------------------------------------------------- networks in a plane


def _mark(x: float, y: float, kind: str, color: str, tip: str = "") -> Shape:
    """Circle: a searched network. Hollow diamond: a control. Square: a published network."""
    if kind == "published":
        return Rect(x - 4.5, y - 4.5, 9, 9, style=f"mark dot-{color}", tip=tip)
    if kind == "control":
        corners = [(x, y - 6), (x + 6, y), (x, y + 6), (x - 6, y)]
        return Path([corners], True, style=f"mark hollow line-{color}", tip=tip)
    return Circle(x, y, 5.5, style=f"mark dot-{color}", tip=tip)


def plane(
    title: str,
    points: Sequence[Point],
    *,
    x_label: str,
    y_label: str,
    trail: Sequence[tuple[float, float]] = (),
    target: Target | None = None,
    note: str = "",
) -> Chart:
    """Networks by cost and accuracy. ``trail``: where a search came from, as a thin line."""
    if not points:
        return _nothing(title, "nothing to show yet", note)
    asked = [target.value] if target is not None else []
    x = _scale([*(point.x for point in points), *(at for at, _ in trail), *asked], LEFT, RIGHT)
    y = _scale([*(point.y for point in points), *(at for _, at in trail)], BOTTOM, TOP)
    shapes = _axes(x, y, x_label, y_label, x.ticks(6))
    if target is not None:
        shapes.append(line(x(target.value), TOP, x(target.value), BOTTOM, "line target"))
    if trail:
        shapes.append(Path([[(x(cost), y(score)) for cost, score in trail]], style="trail"))
    highest_first = sorted(points, key=lambda each: -each.y)
    shapes += [_mark(x(each.x), y(each.y), each.kind, each.color, each.tip or each.label) for each in highest_first]
    shapes += _names([(each.label, x(each.x), y(each.y)) for each in highest_first if each.label])
    kinds = {"run": "searched network", "control": "random control", "published": "released network"}
    entries = [
        Entry(text, _mark(11, 7, kind, next(point.color for point in points if point.kind == kind)))
        for kind, text in kinds.items()
        if any(point.kind == kind for point in points)
    ]
    scene = Scene(shapes, WIDTH, HEIGHT, title)
    return Chart(title=title, scene=scene, entries=[*entries, *_target_entry(target)], note=note)


def _names(marks: Sequence[tuple[str, float, float]]) -> list[Shape]:
    """Labels beside their marks, moved down until they clear those before them."""
    labels: list[Shape] = []
    taken: list[tuple[float, float, float]] = []
    for label, x, y in marks:
        length = 6.1 * len(label)
        before = x + 9 + length > RIGHT
        start, text_y = (x - 9 - length if before else x + 9), y + 4
        while any(start < end and start + length > begin and abs(text_y - other) < 12 for begin, end, other in taken):
            text_y += 4
        taken.append((start, start + length, text_y))
        labels.append(Text(x - 9 if before else x + 9, text_y, label, "end" if before else "start", style="name"))
    return labels


# ------------------------------------------------------------------------------------------------------- files


def compose(title: str, charts: Sequence[Chart], columns: int) -> Scene:
    """Charts side by side under a title as one scene, for a picture file."""
    shapes: list[Shape] = [Text(MARGIN, MARGIN + 12, title, style="title")] if title else []
    top = MARGIN + (HEADING if title else 0)
    for start in range(0, len(charts), columns):
        row = charts[start : start + columns]
        legends = [legend_rows(chart.entries, 0, HEADING, WIDTH) for chart in row]
        drop = HEADING + max(height for _, height in legends)  # the drawings of a row start at one height
        for index, (chart, (entries, _)) in enumerate(zip(row, legends, strict=True)):
            panel = [Text(0, 14, chart.title, style="heading"), entries, Group(chart.scene.shapes, 0, drop)]
            if chart.note:
                panel.append(Text(WIDTH, drop + chart.scene.height + 12, chart.note, "end", style="other"))
            shapes.append(Group(panel, MARGIN + index * (WIDTH + MARGIN), top))
        top += drop + max(chart.scene.height for chart in row) + MARGIN
    return Scene(shapes, MARGIN + columns * (WIDTH + MARGIN), top, title)
