"""Drawings as values: shapes in pixels, y downwards, that become SVG for a page, a picture file or an animation.

A shape names classes of STYLES, as in CSS, and these name COLORS, each with a shade for light and one for dark pages:
``css`` hands both to a page, and an SVG file has both: it follows the reader's theme. PNG and GIF have the light shades
and are drawn by matplotlib's object interface, imported when a file is asked for: no window, no global figure.
The colors of data are those of Okabe and Ito, which people with any kind of color vision can tell apart.
"""

from __future__ import annotations

import html
import os
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path as FilePath
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from proxyless_arch.base.errors import InputError
from proxyless_arch.base.files import atomic_path, write_text
from proxyless_arch.base.strict import listed

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SUFFIXES = (".png", ".svg")
FONTS = 'system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue","Liberation Sans",Arial,sans-serif'
PIXELS_PER_INCH, POINTS_PER_PIXEL = 96, 0.75
MOST_DOTS_PER_INCH, MOST_DOTS = 200, 60_000
LETTER, CAPITAL, WIDEST = 0.6, 0.72, 1.0  # widths over the size of the type; on the wide side
SWATCH_WIDTH, SWATCH_HEIGHT = 22.0, 14.0
LINE = 1.75  # height of a line of a legend over the size of its type
ON_DARK = "@media screen and (prefers-color-scheme:dark)"  # paper is light

INK, GREY, BLUE, VERMILION = "#1a1e24", "#5a6370", "#0072B2", "#D55E00"
COLORS: Mapping[str, tuple[str, str]] = {
    "ink": (INK, "#e7eaee"),
    "grey": (GREY, "#a0a9b5"),
    "card": ("#ffffff", "#171b21"),
    "grid": ("#e9ecf0", "#262c35"),
    "shade": ("#f1f2f5", "#1d222a"),
    "band": ("#dcebf6", "#1c3547"),
    "bar": ("#8b939e", "#7b8592"),
    "accent": (BLUE, "#56B4E9"),
    "s1": (BLUE, "#56B4E9"),
    "s2": (VERMILION, "#F0803C"),
    "s3": ("#009E73", "#2FC79B"),
    "s4": ("#B0568A", "#DE92BB"),
    "s5": ("#B87F00", "#E69F00"),
    "s6": ("#3A97CC", "#8FCDF2"),
    "s7": (GREY, "#a0a9b5"),
    "k3": ("#56B4E9", "#56B4E9"),
    "k5": ("#E69F00", "#E69F00"),
    "k7": ("#00A97C", "#00A97C"),
    "ffn": ("#DE92BB", "#DE92BB"),
    "fixed": ("#cfd4da", "#cfd4da"),
    "on-block": ("#14181d", "#14181d"),
    "outline": ("#5f6264", "#0c0d0e"),
}
N_SERIES_COLORS = 7


@dataclass(frozen=True, kw_only=True)
class Style:
    """Colors by name or "none", widths and sizes in pixels. What is None is left to the class before it."""

    fill: str | None = None
    stroke: str | None = None
    stroke_width: float | None = None
    stroke_dasharray: tuple[float, float] | None = None
    font_size: float | None = None
    font_weight: int | None = None


# a later class wins over an earlier one, as in CSS
STYLES: Mapping[str, Style] = {
    "text": Style(fill="ink", font_size=11.5, font_weight=400),
    "title": Style(font_size=15, font_weight=700),
    "heading": Style(font_size=13, font_weight=700),
    "label": Style(fill="grey", font_size=12),
    "phase": Style(fill="grey", font_size=10.5),
    "name": Style(font_size=11),
    "size": Style(font_weight=600),
    "channels": Style(fill="grey", font_size=10.5),
    "op": Style(fill="on-block", font_weight=550),
    "symbol": Style(font_size=10),
    "percent": Style(font_size=10.5),
    "choice": Style(fill="grey", font_size=10.5),
    "lead": Style(fill="ink", font_weight=700),
    "other": Style(fill="s2"),
    "ground": Style(fill="card"),
    "grid": Style(stroke="grid", stroke_width=1),
    "axis": Style(stroke="grey", stroke_width=1),
    "whisker": Style(stroke="ink", stroke_width=1.2),
    "shade": Style(fill="shade"),
    "room": Style(fill="shade", stroke="grid", stroke_width=1),
    "band": Style(fill="band"),
    "flow": Style(stroke="bar", stroke_width=1.4),
    "share": Style(fill="bar"),
    "heat": Style(fill="accent"),
    "border": Style(stroke="ink", stroke_width=1, stroke_dasharray=(2, 2)),
    "line": Style(fill="none", stroke_width=2),
    "target": Style(stroke="ink", stroke_width=1.5, stroke_dasharray=(5, 4)),
    "trail": Style(fill="none", stroke="bar", stroke_width=1.2),
    "bar": Style(fill="none", stroke_width=1.5),
    "dot": Style(stroke="card", stroke_width=0.8),
    "mark": Style(stroke="card", stroke_width=1),
    **{f"line-s{index}": Style(stroke=f"s{index}") for index in range(1, N_SERIES_COLORS + 1)},
    **{f"dot-s{index}": Style(fill=f"s{index}") for index in range(1, N_SERIES_COLORS + 1)},
    "hollow": Style(fill="card", stroke_width=2),
    "box": Style(stroke="outline", stroke_width=1),
    **{kind: Style(fill=kind) for kind in ("k3", "k5", "k7", "ffn", "fixed")},
    "gone": Style(fill="none", stroke="grey", stroke_width=1.2, stroke_dasharray=(4, 3)),
    "block": Style(),
}


@dataclass(frozen=True, kw_only=True)
class Shape:
    """``style``: classes, separated by spaces. ``tip``: what a pointer brings up. ``opacity``: of the filling."""

    style: str = ""
    tip: str = ""
    opacity: float | None = None


@dataclass(frozen=True)
class Rect(Shape):
    x: float
    y: float
    width: float
    height: float
    radius: float = 0.0


@dataclass(frozen=True)
class Circle(Shape):
    x: float
    y: float
    radius: float


@dataclass(frozen=True)
class Path(Shape):
    """Lines, each through its points."""

    lines: Sequence[Sequence[tuple[float, float]]]
    closed: bool = False


@dataclass(frozen=True)
class Text(Shape):
    """``x`` is its start, middle or end by ``anchor``, ``y`` its baseline; ``turned``: it runs upwards."""

    x: float
    y: float
    text: str
    anchor: str = "start"
    turned: bool = False


@dataclass(frozen=True)
class Group(Shape):
    """Shapes moved by (x, y)."""

    shapes: Sequence[Shape]
    x: float = 0.0
    y: float = 0.0
    id: str = ""


@dataclass(frozen=True)
class Scene:
    """Shapes on a ground of a size; ``name`` says what is seen to those who do not see it."""

    shapes: Sequence[Shape]
    width: float
    height: float
    name: str = ""


def line(x1: float, y1: float, x2: float, y2: float, style: str) -> Path:
    return Path([[(x1, y1), (x2, y2)]], style=style)


def text_width(text: str, size: float = 11.5) -> float:
    """About how wide a text is: what stands after it clears it in any of the usual fonts."""
    return size * sum(map(_letter_width, text))


def _letter_width(letter: str) -> float:
    if letter in "MW@\N{HORIZONTAL ELLIPSIS}" or unicodedata.east_asian_width(letter) in "WF":
        return WIDEST
    return CAPITAL if letter.isupper() else LETTER


@dataclass(frozen=True)
class Entry:
    """A line of a legend: its swatch is drawn within SWATCH_WIDTH by SWATCH_HEIGHT."""

    label: str
    swatch: Shape

    @property
    def scene(self) -> Scene:
        return Scene([self.swatch], SWATCH_WIDTH, SWATCH_HEIGHT)


def legend_rows(entries: Sequence[Entry], x: float, y: float, width: float) -> tuple[Group, float]:
    """(the entries from left to right, in as many rows as ``width`` asks for; their height)."""
    shapes: list[Shape] = []
    left, top, row = 0.0, 0.0, LINE * 11.5
    for entry in entries:
        length = SWATCH_WIDTH + 6 + text_width(entry.label)
        if left > 0 and left + length > width:
            left, top = 0.0, top + row
        shapes.append(Group([entry.swatch], left, top))
        shapes.append(Text(left + SWATCH_WIDTH + 6, top + 11, entry.label))
        left += length + 12
    return Group(shapes, x, y), (top + row if entries else 0.0)


# ---------------------------------------------------------------------------------------------------- styles, SVG


def style_of(shape: Shape) -> Style:
    """What a shape's classes come to."""
    names = {*shape.style.split(), *(["text"] if isinstance(shape, Text) else [])}
    unknown = names - set(STYLES)
    if unknown:
        raise ValueError(f"no such style: {', '.join(sorted(unknown))}")
    merged = Style()
    for name, style in STYLES.items():
        if name in names:
            known = {each.name: getattr(style, each.name) for each in fields(Style)}
            merged = replace(merged, **{key: value for key, value in known.items() if value is not None})
    return merged


def css() -> str:
    """The style sheet of every scene on a page: variables for COLORS, a rule for each of STYLES."""
    light, dark = ("".join(f"--{name}:{shades[index]};" for name, shades in COLORS.items()) for index in (0, 1))
    rules = [
        f"svg {'text' if name == 'text' else f'.{name}'}{{{_declarations(style)}}}" for name, style in STYLES.items()
    ]
    return "\n".join([f":root{{{light}}}", f"{ON_DARK}{{:root{{{dark}}}}}", *rules]) + "\n"


def _selector(name: str) -> str:
    return "text" if name == "text" else f".{name}"


def _declarations(style: Style, shade: int | None = None) -> str:
    """The style as CSS; ``shade``: its colors are written as that one of COLORS, not as variables."""

    def written(key: str, value: Any) -> str:
        if key in ("fill", "stroke") and value != "none":
            return f"var(--{value})" if shade is None else COLORS[value][shade]
        if isinstance(value, tuple):
            return " ".join(map(_number, value))
        return value if isinstance(value, str) else _number(value) + ("px" if key == "font_size" else "")

    found = {each.name: getattr(style, each.name) for each in fields(Style)}
    return ";".join(
        f"{key.replace('_', '-')}:{written(key, value)}" for key, value in found.items() if value is not None
    )


def to_svg(scene: Scene, attributes: Mapping[str, str] = MappingProxyType({})) -> str:
    """The scene as an SVG element for a page that holds ``css()``; ``attributes`` are added to it."""
    named = {"role": "img", "aria_label": scene.name} if scene.name else {"aria_hidden": "true"}
    return _element("svg", {"viewBox": _view(scene), **named, **attributes}, map(_svg, scene.shapes))


def _view(scene: Scene) -> str:
    return f"0 0 {_number(scene.width)} {_number(scene.height)}"


def _file(scene: Scene) -> str:
    """The scene as an SVG file: it brings the rules of its own styles, for light and for dark surroundings.

    Variables would be shorter; programs other than browsers do not know them.
    """
    used = {"text", "ground", *(name for shape in every_shape(scene.shapes) for name in shape.style.split())}
    own = {name: style for name, style in STYLES.items() if name in used}
    rules = "".join(f"{_selector(name)}{{{_declarations(style, 0)}}}" for name, style in own.items())
    dark = "".join(f"{_selector(name)}{{{_declarations(colors, 1)}}}" for name, colors in _colors_of(own))
    ground = Rect(0, 0, scene.width, scene.height, style="ground")
    sheet = _element("style", {}, [html.escape(f"{rules}{ON_DARK}{{{dark}}}", quote=False)])
    children = [sheet, *map(_svg, (ground, *scene.shapes))]
    attributes = {
        "xmlns": "http://www.w3.org/2000/svg", "viewBox": _view(scene), "width": _number(scene.width),
        "height": _number(scene.height), "font_family": FONTS, "role": "img", "aria_label": scene.name,
    }  # fmt: skip
    return _element("svg", attributes, children) + "\n"


def _colors_of(styles: Mapping[str, Style]) -> Iterator[tuple[str, Style]]:
    """The styles that have a color, with nothing but that."""
    for name, style in styles.items():
        if style.fill is not None or style.stroke is not None:
            yield name, Style(fill=style.fill, stroke=style.stroke)


def every_shape(shapes: Iterable[Shape]) -> Iterator[Shape]:
    """All of them, groups and what is in these too."""
    for shape in shapes:
        yield shape
        if isinstance(shape, Group):
            yield from every_shape(shape.shapes)


def _svg(shape: Shape) -> str:
    common = {"class": shape.style, "fill_opacity": _number(shape.opacity) if shape.opacity is not None else ""}
    inner = [_element("title", {}, [html.escape(shape.tip, quote=False)])] if shape.tip else []
    match shape:
        case Rect(x, y, width, height, radius):
            numbers = {"x": x, "y": y, "width": width, "height": height} | ({"rx": radius} if radius else {})
            return _element("rect", _numbers(numbers) | common, inner)
        case Circle(x, y, radius):
            return _element("circle", _numbers({"cx": x, "cy": y, "r": radius}) | common, inner)
        case Path(lines, closed):
            drawn = "".join(_line_data(points) + "z" * closed for points in lines)
            return _element("path", {"d": drawn} | common, inner)
        case Text(x, y, text, anchor, turned):
            place = (
                {"transform": f"translate({_number(x)} {_number(y)})rotate(-90)"}
                if turned
                else _numbers({"x": x, "y": y})
            )
            side = {"text_anchor": anchor if anchor != "start" else ""}
            return _element("text", place | side | common, [*inner, html.escape(text, quote=False)])
        case Group(shapes, x, y, name):
            moved = {"transform": f"translate({_number(x)} {_number(y)})" if x or y else ""}
            return _element("g", {"id": name} | moved | common, [*inner, *map(_svg, shapes)])
    raise TypeError(f"no shape: {shape!r}")


def _line_data(points: Sequence[tuple[float, float]]) -> str:
    """``M1 2H5V3``: a line along an axis is written as one number."""
    (x, y), *others = points
    words = [f"M{_number(x)} {_number(y)}"]
    for next_x, next_y in others:
        if next_y == y:
            words.append(f"H{_number(next_x)}")
        elif next_x == x:
            words.append(f"V{_number(next_y)}")
        else:
            words.append(f"L{_number(next_x)} {_number(next_y)}")
        x, y = next_x, next_y
    return "".join(words)


def _numbers(values: Mapping[str, float]) -> dict[str, str]:
    return {key: _number(value) for key, value in values.items()}


def _number(value: float) -> str:
    """Two decimals are finer than any screen."""
    text = f"{value:.2f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def _element(name: str, attributes: Mapping[str, str], children: Iterable[str]) -> str:
    """Children are markup already; an attribute that is empty is left out."""
    words = [f'{key.replace("_", "-")}="{html.escape(value)}"' for key, value in attributes.items() if value]
    inner = "".join(children)
    return f"<{' '.join([name, *words])}{f'>{inner}</{name}>' if inner else '/>'}"


# ------------------------------------------------------------------------------------------------------- files


def check_suffix(path: str | os.PathLike[str], suffixes: Sequence[str] = SUFFIXES) -> None:
    """InputError when the file is of none of the kinds."""
    if FilePath(path).suffix.lower() not in suffixes:
        raise InputError(f"expected a file name that ends in {listed(suffixes)}", source=str(path))


def write_picture(scene: Scene, path: str | os.PathLike[str]) -> None:
    """Write the scene as ``.png`` or ``.svg``, whole or not at all; the same bytes for the same scene.

    Raises InputError for another suffix, OSError when it cannot be written.
    """
    check_suffix(path)
    if FilePath(path).suffix.lower() == ".svg":
        write_text(path, _file(scene))
        return
    figure = _figure(scene)
    dots_per_inch = min(MOST_DOTS_PER_INCH, int(MOST_DOTS / max(figure.get_size_inches())))
    _paint(figure, scene)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=dots_per_inch)


def write_film(
    scenes: Sequence[Scene], path: str | os.PathLike[str], *, frames_per_second: int, hold_seconds: float
) -> None:
    """Write scenes of one size as an animated ``.gif``; the last one stands for ``hold_seconds``. Errors: as above."""
    from matplotlib.animation import PillowWriter

    check_suffix(path, (".gif",))
    figure = _figure(scenes[0])
    writer = PillowWriter(fps=frames_per_second)
    with atomic_path(path) as temporary:
        writer.setup(figure, temporary, dpi=PIXELS_PER_INCH)
        for scene in scenes:
            figure.clear()
            _paint(figure, scene)
            writer.grab_frame()
        for _ in range(round(hold_seconds * frames_per_second)):
            writer.grab_frame()
        writer.finish()


def _figure(scene: Scene) -> Figure:
    """An empty white figure of the scene's size, with its own canvas."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(scene.width / PIXELS_PER_INCH, scene.height / PIXELS_PER_INCH), facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def _paint(figure: Figure, scene: Scene) -> None:
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, scene.width), ylim=(scene.height, 0))
    axes.set_axis_off()
    for order, (shape, x, y) in enumerate(_placed(scene.shapes, 0.0, 0.0)):
        if isinstance(shape, Text):
            _paint_text(axes, shape, x, y, order)
        else:
            _paint_patch(axes, shape, x, y, order)


def _placed(shapes: Iterable[Shape], x: float, y: float) -> Iterator[tuple[Shape, float, float]]:
    """The shapes that are no groups, from the lowest to the uppermost, with how far their groups move them."""
    for shape in shapes:
        if isinstance(shape, Group):
            yield from _placed(shape.shapes, x + shape.x, y + shape.y)
        else:
            yield shape, x, y


def _paint_text(axes: Axes, text: Text, x: float, y: float, order: int) -> None:
    style = style_of(text)
    assert style.fill is not None and style.font_size is not None
    axes.text(
        text.x + x, text.y + y, text.text, color=COLORS[style.fill][0], fontsize=style.font_size * POINTS_PER_PIXEL,
        fontweight="bold" if (style.font_weight or 400) >= 600 else "normal", rotation=90 if text.turned else 0,
        rotation_mode="anchor", va="baseline", parse_math=False, zorder=order,
        ha={"start": "left", "middle": "center", "end": "right"}[text.anchor],
    )  # fmt: skip


def _paint_patch(axes: Axes, shape: Shape, x: float, y: float, order: int) -> None:
    from matplotlib import patches
    from matplotlib.colors import to_rgba

    style = style_of(shape)
    look: dict[str, Any] = {"facecolor": "none", "edgecolor": "none", "linewidth": 0, "zorder": order}
    # an open line is not filled, as in SVG with fill="none"; what has no fill in its style is a line
    if style.fill not in (None, "none"):
        look["facecolor"] = to_rgba(COLORS[str(style.fill)][0], 1.0 if shape.opacity is None else shape.opacity)
    if style.stroke is not None:
        width = (style.stroke_width or 1.0) * POINTS_PER_PIXEL
        look |= {"edgecolor": COLORS[style.stroke][0], "linewidth": width, "joinstyle": "round"}
        if style.stroke_dasharray is not None:
            look["linestyle"] = (0, tuple(part * POINTS_PER_PIXEL / width for part in style.stroke_dasharray))
    match shape:
        case Rect(left, top, width, height, radius):
            rounding = f"round,pad=0,rounding_size={radius}" if radius else "square,pad=0"
            axes.add_patch(patches.FancyBboxPatch((left + x, top + y), width, height, boxstyle=rounding, **look))
        case Circle(centre_x, centre_y, radius):
            axes.add_patch(patches.Circle((centre_x + x, centre_y + y), radius, **look))
        case Path(lines, closed):
            axes.add_patch(patches.PathPatch(_outline(lines, closed, x, y), **look))


def _outline(lines: Sequence[Sequence[tuple[float, float]]], closed: bool, x: float, y: float) -> Any:
    from matplotlib.path import Path as Outline

    places, codes = [], []
    for points in lines:
        places += [(at_x + x, at_y + y) for at_x, at_y in (*points, *points[:closed])]
        codes += [Outline.MOVETO, *[Outline.LINETO] * (len(points) - 1), *[Outline.CLOSEPOLY] * closed]
    return Outline(places, codes)
