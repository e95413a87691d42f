"""Charts as scenes of scene.py: lines over epochs, and marks in a plane."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from proxyless_arch.base.text import shortened
from proxyless_arch.drawing.axes import (
    Axis,
    Epochs,
    Frame,
    Phase,
    Scale,
    epoch_ticks,
    phase_shapes,
    scale,
    ticks_of,
    with_room,
    x_axis,
    y_axis,
)
from proxyless_arch.drawing.labels import Box, Name, is_far, place
from proxyless_arch.drawing.scene import (
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

FRAME = Frame()
MAX_DOTS = 200
MARK = 5.5  # half the size of one
NAME_SIZE, NAME_HEIGHT = 11.0, 13.0
LONGEST_NAME = 0.4  # of a frame's width
MARGIN, HEADING, FACTS = 24.0, 26.0, 18.0  # of a panel in a picture; of a line below its title

Value = float | None


@dataclass(frozen=True, kw_only=True)
class Series:
    """A line of a chart: one value per epoch (None: not known). ``color``: see series_color."""

    label: str
    values: Sequence[Value]
    color: str = "s1"


@dataclass(frozen=True, kw_only=True)
class Point:
    """A mark in a plane: a circle, diamond, square or triangle of its ``group``, which the legend names.

    ``label`` stands beside it, unless it is "". ``x_range``, ``y_range``: how far its value is uncertain, as bars.
    """

    x: float
    y: float
    group: str
    label: str = ""
    mark: str = "circle"
    color: str = "s1"
    tip: str = ""
    x_range: tuple[float, float] | None = None
    y_range: tuple[float, float] | None = None


@dataclass(frozen=True, kw_only=True)
class Guide:
    """A line through points in the numbers of the axes, or an area of them; infinite ones lie at the edge."""

    points: Sequence[tuple[float, float]]
    label: str = ""
    style: str = "line target"
    is_area: bool = False


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


def _nothing(title: str, words: str, note: str) -> Chart:
    """A chart of what there is not."""
    text = Text(FRAME.width / 2, FRAME.height / 2, words, "middle", style="label")
    return Chart(title=title, scene=Scene([text], FRAME.width, FRAME.height, f"{title}: {words}"), note=note)


# -------------------------------------------------------------------------------------------- lines over epochs


def line_chart(
    title: str,
    series: Sequence[Series],
    *,
    y: Axis,
    shown: Callable[[float], str],
    phases: Sequence[Phase] = (),
    target: Target | None = None,
    from_zero: bool = False,
    may_be_log: bool = False,
    note: str = "",
) -> Chart:
    """Lines over epochs, with a dashed line at ``target``. ``shown`` writes a value in a tooltip.

    ``phases``: all of them or none. ``may_be_log``: take a logarithmic axis when the values are positive and span more
    than a factor of 20.
    """
    known = [value for each in series for value in each.values if value is not None]
    lines = [each for each in series if any(value is not None for value in each.values)]
    if not known:
        return _nothing(title, "not recorded", note)
    n_epochs = max(len(each.values) for each in series)
    log = may_be_log and min(known) > 0 and max(known) > 20 * min(known)
    limits = [*known, *([target.value] if target is not None else [])]
    axis = Axis(label=y.label, bounds=y.bounds, log=log)
    up = scale(limits, FRAME.bottom, FRAME.top, axis, floor=0.0 if from_zero else None)
    frame = with_room(FRAME, up)
    across = Epochs.of(phases, n_epochs, frame.left, frame.right)
    shapes = [
        *phase_shapes(phases, across, frame.top, frame.bottom),
        *y_axis(frame, up, y.label),
        *x_axis(frame, across, "epoch", epoch_ticks(phases, n_epochs)),
    ]
    if target is not None:
        shapes.append(line(frame.left, up(target.value), frame.right, up(target.value), "line target"))
    for each in lines:
        shapes += [_polyline(each, across, up), *_dots(each, phases, across, up, shown)]
    entries = [_line_entry(each.label, f"line line-{each.color}") for each in lines]
    entries = entries if len(lines) > 1 or target is not None else []
    entries += [_line_entry(target.label, "line target")] if target is not None else []
    scene = Scene(shapes, FRAME.width, FRAME.height, f"{title} over {n_epochs} epochs")
    return Chart(title=title, scene=scene, entries=entries, note=note)


def _polyline(series: Series, x: Epochs, y: Scale) -> Path:
    """The line, with a gap where a value is not known."""
    lines: list[list[tuple[float, float]]] = [[]]
    for epoch, value in enumerate(series.values, start=1):
        if value is not None:
            lines[-1].append((x(epoch), y(value)))
        elif lines[-1]:
            lines.append([])
    return Path([points for points in lines if points], style=f"line line-{series.color}")


def _dots(series: Series, phases: Sequence[Phase], x: Epochs, y: Scale, shown: Callable[[float], str]) -> list[Shape]:
    step = -(-len(series.values) // MAX_DOTS)
    # few are set off from their line; many would cut it into dashes
    radius, style = (3.0, "dot ") if len(series.values) <= 20 else (1.6, "")
    return [
        Circle(
            x(epoch), y(value), radius, style=f"{style}dot-{series.color}",
            tip=f"{_epoch_name(epoch, phases)}: {series.label} {shown(value)}",
        )
        for epoch, value in enumerate(series.values, start=1)
        if value is not None and (epoch - 1) % step == 0
    ]  # fmt: skip


def _epoch_name(epoch: int, phases: Sequence[Phase]) -> str:
    """``search, epoch 3``: counted within its phase."""
    phase = next((each for each in phases if each.first <= epoch <= each.last), None)
    return f"epoch {epoch}" if phase is None else f"{phase.name}, epoch {epoch - phase.first + 1}"


def _line_entry(label: str, style: str) -> Entry:
    return Entry(label, line(1, 7, 21, 7, style))


# ------------------------------------------------------------------------------------------------ marks in a plane


def plane(
    title: str,
    points: Sequence[Point],
    *,
    x: Axis,
    y: Axis,
    trail: Sequence[tuple[float, float]] = (),
    guides: Sequence[Guide] = (),
    frame: Frame = FRAME,
    note: str = "",
) -> Chart:
    """Marks in a plane. ``trail``: the way to one of them, as a thin line."""
    if not points:
        return _nothing(title, "nothing to show yet", note)
    ends = [each for guide in guides for each in guide.points]
    own = [(point.x, point.y) for point in points]
    xs = [*(at for at, _ in (*own, *trail, *ends)), *(at for point in points for at in point.x_range or ())]
    ys = [*(at for _, at in (*own, *trail, *ends)), *(at for point in points for at in point.y_range or ())]
    up = scale(list(filter(math.isfinite, ys)), frame.bottom, frame.top, y)
    frame = with_room(frame, up)
    across = scale(list(filter(math.isfinite, xs)), frame.left, frame.right, x)
    areas = [_guide(guide, across, up) for guide in guides if guide.is_area]
    shapes = [*areas, *y_axis(frame, up, y.label), *x_axis(frame, across, x.label, ticks_of(x, across, frame))]
    shapes += [_guide(guide, across, up) for guide in guides if not guide.is_area]
    if trail:
        shapes.append(Path([[(across(at), up(value)) for at, value in trail]], style="trail"))
    highest_first = sorted(points, key=lambda each: -each.y)
    shapes += [bar for each in highest_first for bar in _bars(each, across, up)]
    shapes += [_mark(across(each.x), up(each.y), each.mark, each.color, each.tip or each.label) for each in points]
    shapes += _names(highest_first, guides, across, up, frame)
    scene = Scene(shapes, frame.width, frame.height, title)
    return Chart(title=title, scene=scene, entries=_plane_entries(points, guides), note=note)


def _mark(x: float, y: float, mark: str, color: str, tip: str = "") -> Shape:
    if mark == "square":
        return Rect(x - 4.5, y - 4.5, 9, 9, style=f"mark dot-{color}", tip=tip)
    if mark == "diamond":
        corners = [(x, y - 6), (x + 6, y), (x, y + 6), (x - 6, y)]
        return Path([corners], True, style=f"mark hollow line-{color}", tip=tip)
    if mark == "triangle":
        return Path([[(x, y - 5.5), (x + 5.5, y + 4.5), (x - 5.5, y + 4.5)]], True, style=f"mark dot-{color}", tip=tip)
    if mark == "small":
        return Circle(x, y, 2.5, style=f"dot-{color}", tip=tip)
    return Circle(x, y, 5, style=f"mark dot-{color}", tip=tip)


def _guide(guide: Guide, x: Scale, y: Scale) -> Path:
    return Path([[(x(at), y(value)) for at, value in guide.points]], guide.is_area, style=guide.style)


def _bars(point: Point, x: Scale, y: Scale) -> list[Shape]:
    """How far a point's values are uncertain: lines with an end across."""
    at_x, at_y = x(point.x), y(point.y)
    lines: list[list[tuple[float, float]]] = []
    if point.y_range is not None:
        low, high = map(y, point.y_range)
        lines += [[(at_x, low), (at_x, high)], *([(at_x - 4, end), (at_x + 4, end)] for end in (low, high))]
    if point.x_range is not None:
        low, high = map(x, point.x_range)
        lines += [[(low, at_y), (high, at_y)], *([(end, at_y - 4), (end, at_y + 4)] for end in (low, high))]
    return [Path(lines, style=f"bar line-{point.color}")] if lines else []


def _plane_entries(points: Sequence[Point], guides: Sequence[Guide]) -> list[Entry]:
    """One for each group of points, and for each guide that has a name."""
    groups: dict[str, list[Point]] = {}
    for point in points:
        groups.setdefault(point.group, []).append(point)
    named = {guide.label: guide for guide in guides if guide.label}
    return [*map(_group_entry, groups.values()), *map(_guide_entry, named.values())]


def _group_entry(points: Sequence[Point]) -> Entry:
    """The mark of a group, grey where its points have several colors."""
    colors = {point.color for point in points}
    color = colors.pop() if len(colors) == 1 else "s7"
    return Entry(points[0].group, _mark(11, 7, points[0].mark, color))


def _guide_entry(guide: Guide) -> Entry:
    if guide.is_area:
        return Entry(guide.label, Rect(1, 1, 20, 12, style=guide.style))
    return _line_entry(guide.label, guide.style)


def _straight(guide: Guide, x: Scale, y: Scale) -> list[Box]:
    """Boxes along the upright and level parts of a guide that is a line."""
    found = []
    for (x1, y1), (x2, y2) in itertools.pairwise(guide.points if not guide.is_area else ()):
        if x1 == x2 or y1 == y2:
            (left, right), (top, bottom) = sorted((x(x1), x(x2))), sorted((y(y1), y(y2)))
            found.append(Box(left - 1, top - 1, right + 1, bottom + 1))
    return found


def _names(points: Sequence[Point], guides: Sequence[Guide], x: Scale, y: Scale, frame: Frame) -> list[Shape]:
    """The labels, each beside its mark; one that stands far off has a line to it."""
    room = LONGEST_NAME * frame.width
    named = [
        replace(point, label=shortened(point.label, lambda text: text_width(text, NAME_SIZE), room))
        for point in points
        if point.label
    ]
    names = [Name(text_width(point.label, NAME_SIZE), NAME_HEIGHT, _beside(point, x, y)) for point in named]
    obstacles = [box for point in points for box in _covered(point, x, y)]
    obstacles += [box for guide in guides for box in _straight(guide, x, y)]
    found = place(names, obstacles, Box(frame.left, 2, frame.right, frame.bottom))
    shapes: list[Shape] = []
    for point, name, box in zip(named, names, found, strict=True):
        if box is None:
            continue
        at_x, at_y = x(point.x), y(point.y)
        if is_far(box, name.mark):
            shapes.append(line(*box.nearest(at_x, at_y), at_x, at_y, "trail"))
        anchor = "start" if box.left >= at_x else "end" if box.right <= at_x else "middle"
        start = {"start": box.left, "end": box.right, "middle": (box.left + box.right) / 2}[anchor]
        shapes.append(Text(start, box.bottom - 3, point.label, anchor, style="name"))
    return shapes


def _beside(point: Point, x: Scale, y: Scale) -> Box:
    """What a name stands beside: the mark, and its bar across."""
    left, right = point.x_range or (point.x, point.x)
    at_x, at_y = x(point.x), y(point.y)
    return Box(min(at_x - MARK, x(left) - 1), at_y - MARK, max(at_x + MARK, x(right) + 1), at_y + MARK)


def _covered(point: Point, x: Scale, y: Scale) -> list[Box]:
    """What of a point a name had better not hide: the mark and its bars."""
    low, high = point.y_range or (point.y, point.y)
    return [_beside(point, x, y), Box(x(point.x) - 4, y(high) - 2, x(point.x) + 4, y(low) + 2)]


# ------------------------------------------------------------------------------------------------------- files


def compose(title: str, charts: Sequence[Chart], columns: int, facts: Sequence[str] = ()) -> Scene:
    """Charts side by side as one scene, for a picture file: under a title, and ``facts``, a line each, under that.

    Where all have the same legend it stands there once.
    """
    shapes: list[Shape] = [Text(MARGIN, MARGIN + 12, title, style="title")] if title else []
    top = MARGIN + (HEADING if title else 0)
    for words in facts:
        shapes.append(Text(MARGIN, top + 8, words, style="label"))
        top += FACTS
    width = max(chart.scene.width for chart in charts)
    inner = min(columns, len(charts)) * (width + MARGIN) - MARGIN
    if len(charts) > 1 and all(list(chart.entries) == list(charts[0].entries) for chart in charts):
        legend, height = legend_rows(charts[0].entries, MARGIN, top, inner)
        shapes, top = [*shapes, legend], top + height + (MARGIN / 2 if height else 0)
        charts = [replace(chart, entries=()) for chart in charts]
    for start in range(0, len(charts), columns):
        row, height = _row(charts[start : start + columns], width)
        shapes.append(Group(row, MARGIN, top))
        top += height + MARGIN
    notes = (chart.note for chart in charts)
    text = max((text_width(words, 12) for words in (*facts, *notes)), default=0.0)
    return Scene(shapes, 2 * MARGIN + max(inner, text, text_width(title, 15)), top, title)


def _row(charts: Sequence[Chart], width: float) -> tuple[list[Shape], float]:
    """Charts side by side, each ``width`` wide and under its title and legend; their drawings start at one height."""
    heading = HEADING if any(chart.title for chart in charts) else 4.0
    legends = [legend_rows(chart.entries, 0, heading, width) for chart in charts]
    drop = heading + max(height for _, height in legends)
    shapes: list[Shape] = []
    for index, (chart, (entries, _)) in enumerate(zip(charts, legends, strict=True)):
        panel = [Text(0, 14, chart.title, style="heading"), entries, Group(chart.scene.shapes, 0, drop)]
        if chart.note:
            panel.append(Text(0, drop + chart.scene.height + 12, chart.note, style="label"))
        shapes.append(Group(panel, index * (width + MARGIN)))
    return shapes, drop + max(chart.scene.height + (FACTS if chart.note else 0) for chart in charts)
