"""Charts of a report as inline SVG: colours are CSS classes, so that a page can turn them dark."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from search.reporting.markup import Markup, joined, tag

WIDTH, HEIGHT = 420, 236
LEFT, RIGHT, TOP, BOTTOM = 50, 12, 20, 38
N_SERIES_COLOURS = 7
HEAT_LEVELS = 12
MAX_MARKS = 200

Value = float | None


@dataclass(frozen=True, kw_only=True)
class Series:
    """A line of a chart: one value per epoch (None: not known). ``style`` is its CSS class."""

    label: str
    values: Sequence[Value]
    style: str = "s1"


@dataclass(frozen=True, kw_only=True)
class Phase:
    """Epochs ``first`` to ``last`` (from 1) of a run, shaded."""

    name: str
    first: int
    last: int


@dataclass(frozen=True, kw_only=True)
class Point:
    """A mark in a plane. ``kind``: "run", "control", "published"; ``style`` its colour class."""

    label: str
    x: float
    y: float
    kind: str
    style: str = "s1"
    tip: str = ""


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
    bottom = low - pad if floor is None else floor
    return _Scale(bottom, high + pad, start, end)


def _axes(x: _Scale, y: _Scale, x_label: str, y_label: str, x_ticks: Sequence[float]) -> Markup:
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    parts: list[Markup] = []
    for value in y.ticks(5):
        at = y(value)
        parts.append(tag("line", x1=LEFT, x2=right, y1=at, y2=at, class_="grid"))
        parts.append(tag("text", label_of(value), x=LEFT - 6, y=at + 4, text_anchor="end"))
    for value in x_ticks:
        at = x(value)
        parts.append(tag("line", x1=at, x2=at, y1=bottom, y2=bottom + 4, class_="axis"))
        parts.append(tag("text", label_of(value), x=at, y=bottom + 17, text_anchor="middle"))
    parts.append(tag("line", x1=LEFT, x2=right, y1=bottom, y2=bottom, class_="axis"))
    middle = (TOP + bottom) / 2
    parts.append(tag("text", x_label, x=(LEFT + right) / 2, y=HEIGHT - 5, text_anchor="middle", class_="label"))
    parts.append(
        tag("text", y_label, transform=f"translate(11 {middle:g}) rotate(-90)", text_anchor="middle", class_="label")
    )
    return joined(*parts)


def _figure(title: str, note: str | None, entries: Sequence[Markup], body: Markup, name: str) -> Markup:
    legend = tag("div", *entries, class_="legend") if entries else None
    svg = tag("svg", tag("title", name), body, viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", class_="chart")
    return tag(
        "figure", tag("figcaption", tag("h3", title), tag("p", note) if note else None), legend, svg, class_="card"
    )


def _entry(label: str, style: str, kind: str = "line") -> Markup:
    mark = tag("line", x1=1, x2=21, y1=6, y2=6, class_=f"line {style}") if kind == "line" else _mark(11, 6, kind, style)
    return tag("span", tag("svg", mark, viewBox="0 0 22 12", class_="swatch", aria_hidden="true"), label)


def line_chart(
    title: str,
    series: Sequence[Series],
    *,
    y_label: str,
    shown: Callable[[float], str],
    phases: Sequence[Phase] = (),
    target: float | None = None,
    target_label: str = "",
    from_zero: bool = False,
    may_be_log: bool = False,
    note: str | None = None,
) -> Markup:
    """Lines over epochs, with a dashed line at ``target``. ``shown`` writes a value in a tooltip.

    ``may_be_log``: take a logarithmic axis when the values are positive and span more than a factor of 20.
    """
    known = [value for line in series for value in line.values if value is not None]
    lines = [line for line in series if any(value is not None for value in line.values)]
    if not known:
        text = tag("text", "not recorded", x=WIDTH / 2, y=HEIGHT / 2, text_anchor="middle", class_="label")
        return _figure(title, note, (), text, f"{title}: not recorded")
    n_epochs = max(len(line.values) for line in series)
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    log = may_be_log and min(known) > 0 and max(known) > 20 * min(known)
    limits = [*known, *([target] if target is not None else [])]
    x = _Scale(0.5, n_epochs + 0.5, LEFT, right)
    y = _scale(limits, bottom, TOP, floor=0.0 if from_zero else None, log=log)

    shades: list[Markup] = []
    for phase in phases:
        start, end = x(phase.first - 0.5), x(phase.last + 0.5)
        style = "shade" if phase.name != "search" else "plain"
        shades.append(tag("rect", x=start, y=TOP, width=end - start, height=bottom - TOP, class_=style))
        if end - start > 6.2 * len(phase.name):
            shades.append(tag("text", phase.name, x=(start + end) / 2, y=TOP - 6, text_anchor="middle", class_="phase"))
    whole = [value for value in ticks(1, n_epochs, 6) if value == int(value) and value >= 1] or [1]
    marks: list[Markup] = []
    if target is not None:
        marks.append(tag("line", x1=LEFT, x2=right, y1=y(target), y2=y(target), class_="line target"))
    for line in lines:
        marks.append(_polyline(line, x, y))
        marks.extend(_dots(line, x, y, shown))
    entries = [_entry(line.label, line.style) for line in lines] if len(lines) > 1 or target is not None else []
    if target is not None:
        entries.append(_entry(target_label, "target"))
    body = joined(*shades, _axes(x, y, "epoch", y_label, whole), *marks)
    return _figure(title, note, entries, body, f"{title} over {n_epochs} epochs")


def _polyline(line: Series, x: _Scale, y: _Scale) -> Markup:
    """The line, with a gap where a value is not known."""
    path, pen = [], "M"
    for epoch, value in enumerate(line.values, start=1):
        if value is None:
            pen = "M"
            continue
        path.append(f"{pen}{x(epoch):.1f} {y(value):.1f}")
        pen = "L"
    return tag("path", d="".join(path), class_=f"line {line.style}")


def _dots(line: Series, x: _Scale, y: _Scale, shown: Callable[[float], str]) -> list[Markup]:
    step = -(-len(line.values) // MAX_MARKS)
    radius = 3 if len(line.values) <= 40 else 1.6
    return [
        tag(
            "circle", tag("title", f"epoch {epoch}: {line.label} {shown(value)}"),
            cx=x(epoch), cy=y(value), r=radius, class_=f"dot {line.style}",
        )
        for epoch, value in enumerate(line.values, start=1)
        if value is not None and (epoch - 1) % step == 0
    ]  # fmt: skip


def _mark(x: float, y: float, kind: str, style: str, tip: str = "") -> Markup:
    """Circle: a searched network. Hollow diamond: a control. Square: a published network."""
    title = tag("title", tip) if tip else None
    if kind == "published":
        return tag("rect", title, x=x - 4.5, y=y - 4.5, width=9, height=9, class_=f"mark {style}")
    if kind == "control":
        path = f"M{x:.1f} {y - 6:.1f}l6 6l-6 6l-6 -6z"
        return tag("path", title, d=path, class_=f"mark hollow {style}")
    return tag("circle", title, cx=x, cy=y, r=5.5, class_=f"mark {style}")


def plane(
    title: str,
    points: Sequence[Point],
    *,
    x_label: str,
    y_label: str,
    trail: Sequence[tuple[float, float]] = (),
    target: float | None = None,
    target_label: str = "",
    note: str | None = None,
) -> Markup:
    """Networks by cost and accuracy. ``trail``: where a search came from, as a thin line."""
    if not points:
        text = tag("text", "nothing to show yet", x=WIDTH / 2, y=HEIGHT / 2, text_anchor="middle", class_="label")
        return _figure(title, note, (), text, f"{title}: nothing to show")
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    x = _scale(
        [*(point.x for point in points), *(at for at, _ in trail), *([target] if target is not None else [])],
        LEFT,
        right,
    )
    y = _scale([*(point.y for point in points), *(at for _, at in trail)], bottom, TOP)
    marks: list[Markup] = []
    if target is not None:
        marks.append(tag("line", x1=x(target), x2=x(target), y1=TOP, y2=bottom, class_="line target"))
    if trail:
        places = "L".join(f"{x(cost):.1f} {y(score):.1f}" for cost, score in trail)
        marks.append(tag("path", d=f"M{places}", class_="trail"))
    labels: list[Markup] = []
    taken: list[tuple[float, float, float]] = []
    for point in sorted(points, key=lambda each: -each.y):
        at_x, at_y = x(point.x), y(point.y)
        marks.append(_mark(at_x, at_y, point.kind, point.style, point.tip or point.label))
        if not point.label:
            continue
        length = 6.1 * len(point.label)
        before = at_x + 9 + length > right
        start = at_x - 9 - length if before else at_x + 9
        text_y = at_y + 4
        while any(start < end and start + length > begin and abs(text_y - other) < 12 for begin, end, other in taken):
            text_y += 4
        taken.append((start, start + length, text_y))
        anchor = {"text_anchor": "end"} if before else {}
        labels.append(tag("text", point.label, x=at_x - 9 if before else at_x + 9, y=text_y, class_="name", **anchor))
    kinds = {"run": "searched network", "control": "random control", "published": "released network"}
    entries = [
        _entry(text, next(point.style for point in points if point.kind == kind), kind)
        for kind, text in kinds.items()
        if any(point.kind == kind for point in points)
    ]
    if target is not None:
        entries.append(_entry(target_label, "target"))
    body = joined(_axes(x, y, x_label, y_label, x.ticks(6)), *marks, *labels)
    return _figure(title, note, entries, body, title)


def heat_map(title: str, labels: Sequence[str], rows: Sequence[Sequence[float]], phases: Sequence[Phase]) -> Markup:
    """Probabilities of one block's choices (rows) over epochs (columns), darker where more probable.

    Cells of one shade are one path, so that a map of many epochs stays small.
    """
    name_width, last_width, row, top = 62.0, 44.0, 15.0, 2.0
    width = 300.0
    n_epochs = max(map(len, rows))
    cell = (width - name_width - last_width) / n_epochs
    height = top + row * len(rows) + 18
    paths: dict[int, list[str]] = {}
    parts: list[Markup] = [
        tag("rect", x=name_width, y=top, width=cell * n_epochs, height=row * len(rows), class_="heat-ground")
    ]
    finals = [values[-1] for values in rows]
    leader = finals.index(max(finals))
    texts: list[Markup] = []
    for index, (label, values) in enumerate(zip(labels, rows, strict=True)):
        y = top + row * index
        start = 0
        levels = [round(value * HEAT_LEVELS) for value in values]
        for epoch in range(1, n_epochs + 1):
            if epoch == n_epochs or levels[epoch] != levels[start]:
                if levels[start]:
                    x = name_width + cell * start
                    paths.setdefault(levels[start], []).append(
                        f"M{x:.1f} {y:g}h{cell * (epoch - start):.1f}v{row - 1:g}h-{cell * (epoch - start):.1f}z"
                    )
                start = epoch
        decided = " lead" if index == leader and finals[leader] - min(finals) > 1e-3 else ""
        texts.append(tag("text", label, x=name_width - 5, y=y + 11, text_anchor="end", class_=f"choice{decided}"))
        texts.append(
            tag("text", _percent(values[-1]), x=width - 2, y=y + 11, text_anchor="end", class_=f"choice{decided}")
        )
        tip = tag("title", f"{label}: {_percent(values[0])} in the first epoch, {_percent(values[-1])} in the last")
        texts.append(tag("rect", tip, x=0, y=y, width=width, height=row, class_="touch"))
    parts += [
        tag("path", d="".join(shapes), class_="heat", fill_opacity=round(level / HEAT_LEVELS, 3))
        for level, shapes in sorted(paths.items())
    ]
    bottom = top + row * len(rows)
    for phase in phases[1:]:
        x = name_width + cell * (phase.first - 1)
        parts.append(tag("line", x1=x, x2=x, y1=top, y2=bottom, class_="border"))
    parts.append(tag("text", "1", x=name_width, y=bottom + 12, class_="phase"))
    right = name_width + cell * n_epochs
    if n_epochs > 1:
        parts.append(tag("text", str(n_epochs), x=right, y=bottom + 12, text_anchor="end", class_="phase"))
    parts.append(tag("text", "epoch", x=(name_width + right) / 2, y=bottom + 12, text_anchor="middle", class_="phase"))
    view: dict[str, Any] = {"viewBox": f"0 0 {width:g} {height:g}", "role": "img", "class_": "heat-map"}
    caption = f"{title}: probability of each choice over {n_epochs} epochs"
    return tag("figure", tag("figcaption", tag("h4", title)), tag("svg", tag("title", caption), *parts, *texts, **view))


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %" if 0.0005 <= share < 0.9995 else "100 %" if share > 0.5 else "0 %"
