"""The renderer of architectures: as a row of stages for a page, as a picture file, as an animation.

A block's color is its kernel, its height the expansion ratio, its width the square root of the output channels or,
where a search chose how many, their share of the most (Room), to scale, in front of a shade as wide as that; a dashed
outline is a block that is skipped. A tree-structured cell is drawn edge by edge, from left to right. Above stand
output size and channels; below, where costs are given, each layer's share of their sum. Sizes are in pixels.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from types import MappingProxyType

from proxyless_arch.arch.ops import Tile
from proxyless_arch.arch.spec import ArchSpec
from proxyless_arch.arch.tables import check_costs
from proxyless_arch.arch.walk import LayerCall, total_macs, total_params, walk
from proxyless_arch.base.sides import in_words
from proxyless_arch.base.units import Unit, format_count
from proxyless_arch.drawing.scene import (
    STYLES,
    Entry,
    Group,
    Rect,
    Scene,
    Shape,
    Text,
    every_shape,
    legend_rows,
    line,
    text_width,
    write_film,
    write_picture,
)

PAD, GAP = 5.0, 4.0
HEAD, BODY, BARS = 36.0, 122.0, 58.0
MIDDLE, BARS_TOP = HEAD + BODY / 2, HEAD + BODY + 4
LOWEST, HIGHEST, FIXED_HEIGHT = 60.0, 114.0, 66.0
USUAL_EXPANSION = 6.0  # stands for HIGHEST unless a drawing holds a larger one
NARROWEST_STAGE, WIDEST_BOX = 58.0, 52.0
BAR, LONGEST_BAR = 14.0, 34.0
TREE_WIDTH = 92.0  # of a block that is drawn in parts
PALEST = 0.12  # opacity of a block whose choice is quite undecided
TIMES = "\N{MULTIPLICATION SIGN}"
SYMBOLS = (
    ("3", f"depthwise-separable 3{TIMES}3"),
    ("3d", "dilated"),
    ("c3", "grouped convolution"),
    ("M", "max pool"),
    ("A", "mean pool"),
    ("-", "identity"),
)
"""Of the edges in a cell."""

MARGIN, TITLE, ROW_GAP, LINE_GAP, NOTE = 24.0, 34.0, 22.0, 12.0, 18.0  # of a picture file
MIN_WIDTH, MOST_WIDTH = 860.0, 1560.0  # of the networks; a longer one goes on below
FILM_FRAMES, LAST_FRAME_SECONDS = 80, 3


# ------------------------------------------------------------------------------------------------------- a layer


@dataclass(frozen=True)
class Look:
    """How a layer is drawn: classes and height of its box, label, tooltip; ``cost`` is None when not priced.

    ``width`` of the box, which stands for ``channels``. ``tiles``: what it is drawn as in place of its label.
    """

    style: str
    height: float
    label: str
    tip: str
    cost: float | None
    width: float
    channels: int
    tiles: tuple[Tile, ...] = ()


@dataclass(frozen=True)
class Room:
    """The most ``channels`` that a layer could put out, and the number of the stage whose layers are as wide as it."""

    channels: int
    stage: int


def with_times(text: str) -> str:
    """With a multiplication sign between numbers: ``7x7`` is 7 by 7, ``max`` a word."""
    return re.sub(r"(?<=\d)x(?=\d)", TIMES, text)


def shows_trees(stages: Sequence[Scene]) -> bool:
    """Whether there is a tree-structured cell in a drawing."""
    return any("symbol" in shape.style.split() for stage in stages for shape in every_shape(stage.shapes))


def shows_rooms(stages: Sequence[Scene]) -> bool:
    """Whether widths that were chosen are in a drawing."""
    return any("room" in shape.style.split() for stage in stages for shape in every_shape(stage.shapes))


def _color(kernel: int | None) -> str:
    style = f"k{kernel}"
    return style if style in STYLES else "fixed"


def look(
    call: LayerCall, cost: float | None, unit: Unit, highest: float = USUAL_EXPANSION, room: Room | None = None
) -> Look:
    """The look of a layer in a drawing whose largest expansion is ``highest``; ``room``: where its width is chosen."""
    op, drawing, channels = call.op, call.op.drawing, call.out_hwc[2]
    width = _slot(call, room) * (channels / room.channels if room is not None else 1.0)
    if op.vanishes:
        return Look("box gone", FIXED_HEIGHT, "", f"{call.name}: skipped", cost, width, channels)
    expansion = drawing.expansion
    style = "ffn" if expansion is not None and drawing.kernel is None else _color(drawing.kernel)
    height = FIXED_HEIGHT if expansion is None else LOWEST + (HIGHEST - LOWEST) * (expansion - 1) / (highest - 1)
    sizes = " to ".join("x".join(map(str, hwc)) for hwc in (call.in_hwc, call.out_hwc))
    price = f", {unit.short(cost)}" if cost is not None and unit is not Unit.MACS else ""
    facts = f"{op.label}, {sizes}, {call.params:,} parameters, {call.macs:,} MACs{price}"
    label, tip = map(with_times, (drawing.label, facts))
    if drawing.tiles:
        return Look("box ground", HIGHEST, "", f"{call.name}: {tip}", cost, width, channels, drawing.tiles)
    return Look(f"box {style}", height, label, f"{call.name}: {tip}", cost, width, channels)


def highest_expansion(*specs: ArchSpec) -> float:
    """The expansion that the highest block of a drawing of these networks stands for."""
    return max((USUAL_EXPANSION, *(block.op.drawing.expansion or 1.0 for spec in specs for block in spec.blocks)))


def percent_text(share: float) -> str:
    """A share in percent, without the sign: ``12``, ``3.4``; nothing for nothing."""
    if share <= 0:
        return ""
    return f"{100 * share:.1f}" if share < 0.0995 else f"{100 * share:.0f}"


def shares_of(costs: Sequence[float] | None) -> list[float]:
    """Each cost's share of the sum; nothing where there is no sum."""
    total = sum(costs) if costs is not None else 0.0
    return [cost / total for cost in costs or ()] if total > 0 else []


def _slot(call: LayerCall, room: Room | None) -> float:
    """The width that a layer takes in its row: of its box, unless that is narrower than its room."""
    if call.op.drawing.tiles:
        return TREE_WIDTH
    if room is not None:
        return WIDEST_BOX
    return 32.0 if call.op.pools_first else min(WIDEST_BOX, 22 + 0.85 * math.sqrt(call.out_hwc[2]))


@dataclass(frozen=True)
class _Block:
    call: LayerCall
    look: Look
    share: float | None
    opacity: float
    room: Room | None

    @property
    def slot(self) -> float:
        return _slot(self.call, self.room)


def _draw_block(block: _Block, left: float, top_share: float, prefix: str) -> Group:
    drawn, slot, width = block.look, block.slot, block.look.width
    centre = left + slot / 2
    opacity = block.opacity if block.opacity < 1 else None
    top = MIDDLE - drawn.height / 2
    shapes: list[Shape] = []
    if block.room is not None:
        shapes.append(Rect(left, MIDDLE - HIGHEST / 2, slot, HIGHEST, 4, style="room"))
        shapes.append(line(left, MIDDLE, left + slot, MIDDLE, "flow"))
    left = centre - width / 2
    shapes.append(Rect(left, top, width, drawn.height, 4, style=drawn.style, opacity=opacity))
    if drawn.tiles:
        for tile in drawn.tiles:
            shapes += _draw_tile(tile, Rect(left, top, width, drawn.height), opacity)
    else:
        shapes.append(Text(centre + 4, MIDDLE, drawn.label, "middle", True, style="op"))
    if block.share is not None:
        length = LONGEST_BAR * max(0.0, block.share) / top_share
        shapes.append(Rect(centre - BAR / 2, BARS_TOP, BAR, length, style="share"))
        shapes.append(Text(centre, BARS_TOP + length + 12, percent_text(block.share), "middle", style="percent"))
    return Group(shapes, id=f"{prefix}{block.call.name}", style="block", tip=drawn.tip)


def _draw_tile(tile: Tile, box: Rect, opacity: float | None) -> list[Shape]:
    """A part of a block within its box."""
    left, top = box.x + tile.left * box.width, box.y + tile.top * box.height
    width, height = tile.width * box.width, tile.height * box.height
    style = "box ground" if tile.drawing.is_empty else f"box {_color(tile.drawing.kernel)}"
    name = "name" if tile.drawing.is_empty else "op symbol"
    return [
        Rect(left, top, width, height, style=style, opacity=opacity),
        Text(left + width / 2, top + height / 2 + 3.5, tile.drawing.label, "middle", style=name),
    ]


# ----------------------------------------------------------------------------------------------------- a network


def draw_stages(
    spec: ArchSpec,
    costs: Sequence[float] | None,
    unit: Unit,
    *,
    prefix: str = "",
    top_share: float | None = None,
    highest: float | None = None,
    certainty: Mapping[str, float] = MappingProxyType({}),
    rooms: Mapping[str, Room] = MappingProxyType({}),
) -> list[Scene]:
    """The network from left to right, one scene per stage: side by side they are the network, wherever a row ends.

    Args:
        costs: one per layer of ``walk(spec)``, in ``unit``, then any constant, or None; shares of their sum hang below.
        prefix: of the ids of the layers' groups, ``{prefix}{layer name}``.
        top_share: the share that the longest bar stands for; default: the largest here.
        highest: the expansion that the highest block stands for; default: see highest_expansion.
        certainty: by layer name how decided a layer is, from 0 (drawn pale) to 1 (which one not named is).
        rooms: by layer name, where widths were chosen.

    Raises:
        ValueError: costs of another length.
    """
    calls = walk(spec)
    check_costs(calls, costs)
    highest = highest or highest_expansion(spec)
    shares = shares_of(costs)
    blocks = [
        _Block(
            call,
            look(call, costs[index] if costs is not None else None, unit, highest, rooms.get(call.name)),
            shares[index] if shares else None,
            PALEST + (1 - PALEST) * certainty.get(call.name, 1.0),
            rooms.get(call.name),
        )
        for index, call in enumerate(calls)
    ]
    top = top_share or max(shares[: len(calls)], default=1.0)
    return [_draw_stage(stage, top, prefix) for stage in _stages(blocks)]


def _stages(blocks: Sequence[_Block]) -> Iterator[list[_Block]]:
    """Layers of one kind (stem, block, head) with one output size and width, chosen together where it is chosen."""
    for _, members in groupby(
        blocks, key=lambda block: (block.call.name.split(".")[0], block.call.out_hwc, block.room)
    ):
        yield list(members)


def _draw_stage(blocks: Sequence[_Block], top_share: float, prefix: str) -> Scene:
    first = blocks[0].call
    inner = sum(block.slot for block in blocks) + GAP * (len(blocks) - 1)
    width = max(inner, NARROWEST_STAGE) + 2 * PAD
    rows, columns, channels = first.out_hwc
    size = "classes" if first.op.pools_first else f"{rows}{TIMES}{columns}"
    shapes: list[Shape] = [
        line(0, MIDDLE, width, MIDDLE, "flow"),  # the data path stays visible through a dashed outline
        Text(width / 2, 12, size, "middle", style="size"),
        Text(width / 2, 27, str(channels), "middle", style="channels"),
    ]
    left = (width - inner) / 2
    for block in blocks:
        shapes.append(_draw_block(block, left, top_share, prefix))
        left += block.slot + GAP
    height = HEAD + BODY + (BARS if blocks[0].share is not None else 0)
    return Scene(shapes, width, height, f"{size}, {channels}: {', '.join(block.call.op.label for block in blocks)}")


def shows_ffn(stages: Sequence[Scene]) -> bool:
    """Whether there is a block without a depthwise convolution in a drawing."""
    return any("ffn" in shape.style.split() for stage in stages for shape in every_shape(stage.shapes))


def legend(has_trees: bool = False, has_ffn: bool = False) -> list[Entry]:
    """What the colors mean, and the symbols in tree-structured cells."""
    kinds = [(f"k{size}", f"kernel {size}{TIMES}{size}") for size in (3, 5, 7)]
    kinds += [("ffn", "feed-forward (FFN)")] if has_ffn else []
    kinds += [("fixed", "stem and head"), ("gone", "skipped block")]
    entries = [Entry(text, Rect(1, 1, 20, 12, 3, style=f"box {style}")) for style, text in kinds]
    symbols = [Entry(text, Text(11, 11, symbol, "middle")) for symbol, text in SYMBOLS]
    return [*entries[:-1], *symbols] if has_trees else entries


def legend_note(priced: str = "", has_trees: bool = False, has_rooms: bool = False) -> str:
    """What the sizes mean. ``priced``: what the shares below are of."""
    widths = "width: output channels"
    if has_rooms:
        widths += " (shade: the most to choose)"
    below = f"; below: share of {priced}, in %" if priced else ""
    shapes = "a cell: edges from left to right" if has_trees else f"height: expansion ratio; {widths}"
    return f"{shapes}; above: output size and channels{below}"


# ------------------------------------------------------------------------------------------------------- files


@dataclass(frozen=True)
class _Row:
    """A network of a picture file."""

    title: str
    facts: str
    stages: Sequence[Scene]

    @cached_property
    def lines(self) -> list[list[Scene]]:
        """Its stages, as many side by side as there is room for."""
        lines: list[list[Scene]] = [[]]
        for stage in self.stages:
            if lines[-1] and sum(each.width for each in lines[-1]) + stage.width > MOST_WIDTH:
                lines.append([])
            lines[-1].append(stage)
        return lines

    @property
    def width(self) -> float:
        return max(sum(stage.width for stage in line) for line in self.lines)

    @property
    def height(self) -> float:
        return TITLE + sum(line[0].height + LINE_GAP for line in self.lines) - LINE_GAP


def draw_architectures(
    rows: Sequence[tuple[str, ArchSpec, Sequence[float] | None]],
    path: str | os.PathLike[str],
    *,
    unit: Unit = Unit.MS,
    rooms: Mapping[str, Room] = MappingProxyType({}),
) -> None:
    """Draw networks one below the other, to one scale, as in the paper's figure of specialized networks.

    Args:
        rows: (title, network, costs); ``costs`` is None or holds one number in ``unit`` per layer of ``walk(spec)``
            and, where there is one, a constant that is no layer's.
        path: the picture to write, ``.png`` or ``.svg``; an earlier file is replaced only by a whole new one.
        unit: unit of the costs.
        rooms: as in draw_stages, of all of them.

    Raises:
        InputError: another suffix. ValueError: no rows, or costs of another length. OSError: it cannot be written.
    """
    if not rows:
        raise ValueError("rows: expected at least one network")
    top_share, highest = _top_share([costs for *_, costs in rows]), highest_expansion(*(spec for _, spec, _ in rows))
    drawn = [
        _Row(
            title,
            _facts(spec, costs, unit),
            draw_stages(spec, costs, unit, prefix=f"row{index}.", top_share=top_share, highest=highest, rooms=rooms),
        )
        for index, (title, spec, costs) in enumerate(rows)
    ]
    has_trees = any(map(_has_trees, (spec for _, spec, _ in rows)))
    write_picture(_compose(drawn, unit.priced if top_share else "", has_trees, bool(rooms)), path)


def draw_film(
    frames: Sequence[tuple[str, ArchSpec, Sequence[float] | None, Mapping[str, float]]],
    path: str | os.PathLike[str],
    *,
    unit: Unit = Unit.MS,
    rooms: Mapping[str, Room] = MappingProxyType({}),
) -> None:
    """Draw how a network formed as an animated GIF, one picture as of ``draw_architectures`` per frame.

    Long films are thinned out to FILM_FRAMES frames; the last frame stands for a while.

    Args:
        frames: (title, network, costs, certainty), all networks of one search space; certainty as in draw_stages.
        path: the film, ``.gif``; an earlier file is replaced only by a whole new one.
        unit: unit of the costs.
        rooms: as in draw_stages.

    Raises:
        InputError: another suffix. ValueError: no frames, or costs of another length. OSError: it cannot be written.
    """
    if not frames:
        raise ValueError("frames: expected at least one")
    step = -(-len(frames) // FILM_FRAMES)
    kept = [*frames[: len(frames) - 1 : step], frames[-1]]
    top_share = _top_share([costs for _, _, costs, _ in kept])
    highest = highest_expansion(*(spec for _, spec, *_ in kept))
    scenes = []
    for title, spec, costs, certainty in kept:
        stages = draw_stages(spec, costs, unit, top_share=top_share, highest=highest, certainty=certainty, rooms=rooms)
        row = _Row(title, _facts(spec, costs, unit), stages)
        scenes.append(_compose([row], unit.priced if top_share else "", _has_trees(spec), bool(rooms)))
    write_film(scenes, path, frames_per_second=max(2, min(10, len(kept) // 8)), hold_seconds=LAST_FRAME_SECONDS)


def _has_trees(spec: ArchSpec) -> bool:
    return any(block.op.drawing.tiles for block in spec.blocks)


def _top_share(costs: Sequence[Sequence[float] | None]) -> float | None:
    """The largest share of all; None where nothing is priced."""
    return max((share for each in costs for share in shares_of(each)), default=None)


def _facts(spec: ArchSpec, costs: Sequence[float] | None, unit: Unit) -> str:
    facts = [
        f"{format_count(total_macs(spec))} MACs",
        f"{format_count(total_params(spec))} parameters",
        f"{in_words(spec.resolution)} px",
    ]
    if costs is not None and sum(costs) > 0:
        constant = len(costs) > len(walk(spec))
        of_it = f" ({unit.short(costs[-1])} of it constant)" if constant else ""
        if unit is not Unit.MACS or constant:
            facts.insert(0, unit.short(sum(costs)) + of_it)
    return ", ".join(facts)


def _compose(rows: Sequence[_Row], priced: str, has_trees: bool, has_rooms: bool) -> Scene:
    """Titles, networks and a legend on one ground."""
    note = legend_note(priced, has_trees, has_rooms)
    heads = (text_width(row.title, 15) + 24 + text_width(row.facts, 12) for row in rows)
    narrowest = text_width(note, 12) if has_rooms else MIN_WIDTH  # which is as long as the usual note
    width = 2 * MARGIN + max(narrowest, *heads, *(row.width for row in rows))
    shapes: list[Shape] = []
    top = ROW_GAP / 2
    for row in rows:
        shapes.append(Text(MARGIN, top + 18, row.title, style="title"))
        shapes.append(Text(width - MARGIN, top + 18, row.facts, "end", style="label"))
        for number, stages in enumerate(row.lines):
            left = MARGIN
            for stage in stages:
                shapes.append(Group(stage.shapes, left, top + TITLE + number * (stage.height + LINE_GAP)))
                left += stage.width
        top += row.height + ROW_GAP
    kinds = legend(has_trees, shows_ffn([stage for row in rows for stage in row.stages]))
    entries, height = legend_rows(kinds, MARGIN, top - ROW_GAP / 2, width - 2 * MARGIN)
    top += height - ROW_GAP / 2
    shapes += [entries, Text(MARGIN, top + NOTE - 4, note, style="label")]
    return Scene(shapes, width, top + NOTE + ROW_GAP / 2, "; ".join(row.title for row in rows))
