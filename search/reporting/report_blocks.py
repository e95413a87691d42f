"""An architecture as inline SVG, stage by stage, so that a narrow screen wraps it; and the film of how it formed."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from proxyless_arch.arch.cost import macs, params
from proxyless_arch.arch.shapes import LayerCall, walk
from proxyless_arch.arch.spec import ArchSpec, Conv, Linear, MBConv, Zero
from proxyless_arch.arch.tables import format_cost, op_label
from search.reporting.markup import Markup, joined, tag
from search.reporting.run_folder import Frame, Run, frames

PAD, GAP = 5.0, 4.0
HEAD, BODY, BARS = 36.0, 122.0, 58.0
LOWEST, HIGHEST = 60.0, 114.0
FIXED_HEIGHT = 66.0
NARROWEST_STAGE = 52.0
PAGE_WIDTH, LARGEST_SCALE = 1150.0, 1.4
LONGEST_BAR = 34.0
BAR = 14.0
TIMES = "\N{MULTIPLICATION SIGN}"


@dataclass(frozen=True)
class Look:
    """How a layer is drawn: CSS class, height, label, tooltip; ``cost`` is None when not priced."""

    style: str
    height: float
    label: str
    tip: str
    cost: float | None


def look(call: LayerCall, cost: float | None, unit: str, highest: float) -> Look:
    """The look of a layer in a drawing whose largest expansion is ``highest``."""
    op, height = call.op, FIXED_HEIGHT
    match op:
        case MBConv():
            style = f"k{op.kernel_size}"
            ratio = op.hidden_channels / op.in_channels
            height = LOWEST + (HIGHEST - LOWEST) * (ratio - 1) / (highest - 1)
            label = op_label(op).split(" s")[0]
        case Zero():
            style, label = "gone", ""
        case Conv():
            style, label = "fixed", op_label(op).split(" s")[0]
        case Linear():
            style, label = "fixed", "pool, FC"
    if isinstance(op, Zero):
        tip = f"{call.name}: skipped, the block vanished"
    else:
        sizes = " to ".join("x".join(map(str, hwc)) for hwc in (call.in_hwc, call.out_hwc))
        price = f", {format_cost(cost, unit)}" if cost is not None and unit != "MACs" else ""
        tip = f"{call.name}: {op_label(op)}, {sizes}, {params(call):,} parameters, {macs(call):,} MACs{price}"
    return Look(
        style, height, label.replace("x", TIMES), tip.replace("x", TIMES) if "skipped" not in tip else tip, cost
    )


def _width(call: LayerCall) -> float:
    return 32.0 if isinstance(call.op, Linear) else min(52.0, 22 + 0.85 * math.sqrt(call.out_hwc[2]))


def _highest(spec: ArchSpec) -> float:
    ratios = [block.op.hidden_channels / block.op.in_channels for block in spec.blocks if isinstance(block.op, MBConv)]
    return max(6.0, *ratios) if ratios else 6.0


def blocks(
    spec: ArchSpec, costs: Sequence[float] | None, unit: str, *, prefix: str = "", top_share: float | None = None
) -> Markup:
    """The network from left to right, one SVG per stage; the row wraps where the page is narrow.

    A block's colour is its kernel, its height the expansion, its width the channels; vanished blocks are dashed.

    Args:
        costs: one per layer of ``walk(spec)``, in ``unit``, then any constant, or None; shares of their sum hang below.
        prefix: of the elements' ids, ``{prefix}{layer name}``.
        top_share: the share that the longest bar stands for; default: the largest here.
    """
    calls, highest = walk(spec), _highest(spec)
    total = sum(costs) if costs else 0.0
    shares = [cost / total for cost in costs[: len(calls)]] if costs and total > 0 else None
    top = top_share or (max(shares) if shares else 1.0)
    looks = [look(call, costs[index] if costs else None, unit, highest) for index, call in enumerate(calls)]
    scale = _scale(calls)
    rows = list(zip(calls, looks, shares if shares is not None else [None] * len(calls), strict=True))
    stages = [_stage(members, prefix, top, shares is not None) for members in _stages(rows)]
    return tag("div", *stages, class_="network", style=f"--scale:{scale:.3f}")


def _stages(rows: Sequence[tuple[LayerCall, Any, Any]]) -> Iterator[list[Any]]:
    """Layers of one kind (stem, block, head) with one output size and width."""
    for _, members in groupby(rows, key=lambda each: (each[0].name.split(".")[0], each[0].out_hwc)):
        yield list(members)


def _inner(calls: Sequence[LayerCall]) -> float:
    return sum(map(_width, calls)) + GAP * (len(calls) - 1)


def _scale(calls: Sequence[LayerCall]) -> float:
    """How much larger than its own pixels a network is shown, so that it fills a wide page."""
    stages = [[call for call, _, _ in members] for members in _stages([(call, None, None) for call in calls])]
    width = sum(max(_inner(stage), NARROWEST_STAGE) + 2 * PAD for stage in stages)
    return min(LARGEST_SCALE, max(1.0, PAGE_WIDTH / width))


def _stage(members: list[tuple[LayerCall, Look, float | None]], prefix: str, top: float, priced: bool) -> Markup:
    widths = [_width(call) for call, _, _ in members]
    inner = _inner([call for call, _, _ in members])
    width = max(inner, NARROWEST_STAGE) + 2 * PAD
    middle = HEAD + BODY / 2
    parts = [tag("line", x1=0, x2=width, y1=middle, y2=middle, class_="flow")]
    height_px, width_px, channels = members[0][0].out_hwc
    is_head = isinstance(members[0][0].op, Linear)
    size = "classes" if is_head else f"{height_px}{TIMES}{width_px}"
    parts.append(tag("text", size, x=width / 2, y=12, text_anchor="middle", class_="size"))
    parts.append(tag("text", str(channels), x=width / 2, y=27, text_anchor="middle", class_="channels"))
    left = (width - inner) / 2
    for (call, drawn, share), block_width in zip(members, widths, strict=True):
        parts.append(_block(call, drawn, share, left, block_width, prefix, top))
        left += block_width + GAP
    height = HEAD + BODY + (BARS if priced else 0)
    return tag(
        "svg", *parts, viewBox=f"0 0 {width:g} {height:g}", style=f"--width:{width:.1f}px", role="img", class_="stage",
        aria_label=f"{size}, {channels}: " + ", ".join(op_label(call.op) for call, _, _ in members),
    )  # fmt: skip


def _block(
    call: LayerCall, drawn: Look, share: float | None, left: float, width: float, prefix: str, top: float
) -> Markup:
    middle, centre = HEAD + BODY / 2, left + width / 2
    parts = [
        tag("title", drawn.tip),
        tag("rect", x=left, y=middle - drawn.height / 2, width=width, height=drawn.height, rx=4, class_="box"),
        tag("text", drawn.label, transform=f"translate({centre:.1f} {middle:.1f}) rotate(-90)", class_="op"),
    ]
    if share is not None:
        line, length = HEAD + BODY + 4, LONGEST_BAR * share / top
        parts.append(tag("rect", x=centre - BAR / 2, y=line, width=BAR, height=length, class_="share"))
        parts.append(tag("text", percent_text(share), x=centre, y=line + length + 12, class_="percent"))
    return tag("g", *parts, id=f"{prefix}{call.name}", class_=f"block {drawn.style}")


def percent_text(share: float) -> str:
    """A share in percent, without the sign: ``12``, ``3.4``; nothing for nothing."""
    if share <= 0:
        return ""
    return f"{100 * share:.1f}" if share < 0.0995 else f"{100 * share:.0f}"


def legend(unit: str | None) -> Markup:
    """What the colours and sizes of ``blocks`` mean."""
    kinds = [(f"k{size}", f"kernel {size}{TIMES}{size}") for size in (3, 5, 7)]
    kinds += [("fixed", "stem and head"), ("gone", "vanished block")]
    entries = [
        tag(
            "span",
            tag(
                "svg",
                tag("g", tag("rect", x=1, y=1, width=20, height=12, rx=3, class_="box"), class_=f"block {style}"),
                viewBox="0 0 22 14", class_="swatch", aria_hidden="true",
            ),
            text,
        )
        for style, text in kinds
    ]  # fmt: skip
    share = {
        None: "",
        "ms": "; below: share of the predicted latency, in %",
        "MACs": "; below: share of the MACs, in %",
    }
    words = f"height: expansion ratio; width: output channels; above: output size and channels{share[unit]}"
    return joined(tag("div", *entries, class_="legend"), tag("p", words, class_="note"))


@dataclass(frozen=True)
class Film:
    """The drawing's last frame, and the frames for the slider as JSON; ``last`` is None when nothing can be drawn."""

    spec: ArchSpec
    costs: Sequence[float] | None
    top_share: float | None
    frames: Sequence[Frame]
    data: str


def film(run: Run) -> Film | None:
    """The film of a run; None when its choices are not known."""
    shots = frames(run)
    if not shots or run.space is None:
        return None
    space, unit = run.space, run.unit or "ms"
    last = run.spec if run.spec is not None else space.spec_for(shots[-1].path, run.name)
    # every network of the space stands at the same sizes, so that a choice looks and costs the same in all of them
    walks = [
        walk(space.spec_for(tuple(min(choice, len(ops) - 1) for ops in space.choices)))
        for choice in range(max(map(len, space.choices)))
    ]
    highest = max(6.0, *map(float, space.expand_ratios))
    n_calls = len(walks[0])
    choices: list[list[Look]] = []
    for index in range(n_calls):
        searched = 2 <= index < 2 + space.n_blocks
        calls = [walks[choice][index] for choice in range(len(space.choices[index - 2]) if searched else 1)]
        prices_of = [_price(run, call) for call in calls]
        scaled = [price if price is None else run.table_scale * price for price in prices_of]
        choices.append([look(call, price, unit, highest) for call, price in zip(calls, scaled, strict=True)])
    rows = [[0, 0, *shot.path, *[0] * (n_calls - 2 - space.n_blocks)] for shot in shots]
    top_share, constant = None, run.table_scale * run.source.offset_ms if run.source is not None else 0.0
    prices = [[choices[index][choice].cost or 0.0 for index, choice in enumerate(row)] for row in rows]
    totals = [constant + sum(row) for row in prices]
    if run.table is not None:
        top_share = max(max(row) / total for row, total in zip(prices, totals, strict=True))
    costs = run.costs(last, run.table_scale)
    data = {
        "ids": [call.name for call in walks[0]],
        "middle": HEAD + BODY / 2,
        "bars": HEAD + BODY + 4,
        "longest": LONGEST_BAR,
        "top": top_share,
        "constant": constant,
        "choices": [
            [[each.style, round(each.height, 2), each.label, each.tip, each.cost] for each in options]
            for options in choices
        ],
        "first": 2,
        "frames": [
            {
                "caption": shot.caption,
                "path": list(shot.path),
                "sure": [round(value, 3) for value in shot.confidence],
                "facts": _facts(run, shot.scale / run.table_scale * total),
            }
            for shot, total in zip(shots, totals, strict=True)
        ],
    }
    return Film(last, costs, top_share, shots, json.dumps(data, allow_nan=False, separators=(",", ":")))


def _price(run: Run, call: LayerCall) -> float | None:
    if run.table is None:
        return None
    return float(macs(call)) if run.source is None else run.source.price_ms(call)


def _facts(run: Run, cost: float) -> str:
    if run.table is None or run.unit is None:
        return ""
    return format_cost(cost, run.unit) + (" predicted" if run.unit == "ms" else "")


def film_data(film: Film) -> Markup:
    """The frames as a JSON element that a script reads; nothing in it can end the element."""
    text = film.data.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
    return tag("script", Markup(text), type="application/json", id="film-data")
