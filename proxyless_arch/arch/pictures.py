"""Architectures and searches drawn with matplotlib, which is imported when a picture is asked for.

Only matplotlib's object interface is used: no pyplot, no window, no global figure. Colours are those of Okabe and Ito,
which people with any kind of colour vision can tell apart.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from proxyless_arch.arch.cost import total_macs, total_params
from proxyless_arch.arch.shapes import LayerCall, walk
from proxyless_arch.arch.spec import ArchSpec, Conv, Linear, MBConv, Zero
from proxyless_arch.arch.tables import check_costs, format_cost, format_count, op_label
from proxyless_arch.base.errors import InputError
from proxyless_arch.base.files import atomic_path
from proxyless_arch.base.strict import listed

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

INK, GREY, PALE = "#222222", "#6B6B6B", "#D9D9D9"
KERNEL_COLOURS: Mapping[int, str] = {3: "#56B4E9", 5: "#E69F00", 7: "#009E73"}
PHASE_COLOURS: Mapping[str, str] = {"warmup": "#E9E9E9", "finetune": "#F6EAF1"}
BLUE, VERMILION, ORANGE = "#0072B2", "#D55E00", "#E69F00"
SUFFIXES = (".png", ".svg")

# sizes in inches
GAP, STAGE_GAP, LEFT, RIGHT = 0.045, 0.16, 0.92, 0.25
TITLE, RULER, BODY, BARS, ROW_GAP, LEGEND = 0.34, 0.46, 1.38, 0.56, 0.22, 0.42
BAR_WIDTH, LONGEST_BAR = 0.2, 0.36
LOWEST, HIGHEST = 0.62, 1.26
MIN_WIDTH = 9.5

FILM_FRAMES, FILM_DOTS_PER_INCH, LAST_FRAME_SECONDS = 80, 90, 3
PALEST = 0.12


def draw_architectures(
    rows: Sequence[tuple[str, ArchSpec, Sequence[float] | None]],
    path: str | os.PathLike[str],
    *,
    unit: str = "ms",
) -> None:
    """Draw networks one below the other, to one scale, as in the paper's figure of specialized networks.

    A block's colour is its kernel, its height the expansion ratio, its width the square root of the output channels;
    a dashed outline is a block that vanished. Above stand feature map sizes and channels; below, where costs are
    given, each layer's share of their sum.

    Args:
        rows: (title, network, costs); ``costs`` is None or holds one number in ``unit`` per layer of ``walk(spec)``
            and, where there is one, a constant that is no layer's.
        path: the picture to write, ``.png`` or ``.svg``; an earlier file is replaced only by a whole new one.
        unit: unit of the costs.

    Raises:
        InputError: another suffix. ValueError: no rows, or costs of another length. OSError: it cannot be written.
    """
    _check_suffix(path)
    if not rows:
        raise ValueError("rows: expected at least one network")
    highest = max(6, *(_expansion(call) for _, spec, _ in rows for call in walk(spec)))
    laid_out = [_lay_out(title, spec, costs, highest, unit) for title, spec, costs in rows]
    largest_share = max((max(row.shares) for row in laid_out if row.shares), default=0.0)

    width = max(MIN_WIDTH, LEFT + RIGHT + max(row.width for row in laid_out))
    height = sum(row.height for row in laid_out) + ROW_GAP * len(laid_out) + LEGEND
    figure = _figure(width, height)
    # one axes over the whole figure, in inches, y downwards
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0))
    axes.set_axis_off()
    top = ROW_GAP / 2
    for index, row in enumerate(laid_out):
        _draw_row(axes, row, index, top, largest_share)
        top += row.height + ROW_GAP
    _draw_legend(axes, width, height - LEGEND / 2 - 0.04)
    _save(figure, path)


def draw_film(
    frames: Sequence[tuple[str, ArchSpec, Sequence[float] | None, Mapping[str, float]]],
    path: str | os.PathLike[str],
    *,
    unit: str = "ms",
) -> None:
    """Draw how a network formed as an animated GIF, one picture as of ``draw_architectures`` per frame.

    Long films are thinned out to FILM_FRAMES frames; the last frame stands for a while.

    Args:
        frames: (title, network, costs, certainty), all networks of one search space; ``certainty`` says by layer name
            how decided a layer is, from 0 (drawn pale) to 1 (which a layer that is not named is).
        path: the film, ``.gif``; an earlier file is replaced only by a whole new one.
        unit: unit of the costs.

    Raises:
        InputError: another suffix. ValueError: no frames, or costs of another length. OSError: it cannot be written.
    """
    from matplotlib.animation import PillowWriter

    if Path(path).suffix.lower() != ".gif":
        raise InputError("expected a file name that ends in .gif", source=str(path))
    if not frames:
        raise ValueError("frames: expected at least one")
    step = -(-len(frames) // FILM_FRAMES)
    kept = [*frames[: len(frames) - 1 : step], frames[-1]]
    highest = max(6, *(_expansion(call) for _, spec, *_ in kept for call in walk(spec)))
    laid_out = [_lay_out(title, spec, costs, highest, unit) for title, spec, costs, _ in kept]
    largest_share = max((max(row.shares) for row in laid_out if row.shares), default=0.0)
    width = max(MIN_WIDTH, LEFT + RIGHT + laid_out[0].width)
    height = max(row.height for row in laid_out) + ROW_GAP + LEGEND
    figure = _figure(width, height)
    frames_per_second = max(2, min(10, len(kept) // 8))
    writer = PillowWriter(fps=frames_per_second)
    with atomic_path(path) as temporary:
        writer.setup(figure, temporary, dpi=FILM_DOTS_PER_INCH)
        for row, (*_, certainty) in zip(laid_out, kept, strict=True):
            figure.clear()
            axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0))
            axes.set_axis_off()
            _draw_row(axes, row, 0, ROW_GAP / 2, largest_share, certainty)
            _draw_legend(axes, width, height - LEGEND / 2 - 0.04)
            writer.grab_frame()
        for _ in range(LAST_FRAME_SECONDS * frames_per_second):
            writer.grab_frame()
        writer.finish()


@dataclass(frozen=True)
class _Box:
    """A drawn layer: its call and its place in inches from the row's left end."""

    call: LayerCall
    left: float
    width: float
    height: float

    @property
    def right(self) -> float:
        return self.left + self.width

    @property
    def centre(self) -> float:
        return self.left + self.width / 2


@dataclass(frozen=True)
class _Row:
    title: str
    facts: str
    boxes: tuple[_Box, ...]
    shares: tuple[float, ...]  # of the total cost, in 0..1; empty when not priced
    cost: str

    @property
    def width(self) -> float:
        return self.boxes[-1].right

    @property
    def height(self) -> float:
        return TITLE + RULER + BODY + (BARS if self.shares else 0.0)


def _expansion(call: LayerCall) -> float:
    """Expansion ratio, as built."""
    return call.op.hidden_channels / call.op.in_channels if isinstance(call.op, MBConv) else 1.0


def _lay_out(title: str, spec: ArchSpec, costs: Sequence[float] | None, highest: float, unit: str) -> _Row:
    calls = walk(spec)
    check_costs(calls, costs)
    boxes: list[_Box] = []
    left = 0.0
    for call in calls:
        if boxes:
            left = boxes[-1].right + (GAP if _stage(call) == _stage(boxes[-1].call) else STAGE_GAP)
        match call.op:
            case MBConv():
                height = LOWEST + (HIGHEST - LOWEST) * (_expansion(call) - 1) / (highest - 1)
            case Zero() | Conv() | Linear():
                height = 0.78
        width = 0.34 if isinstance(call.op, Linear) else min(0.62, 0.19 + 0.0165 * math.sqrt(call.out_hwc[2]))
        boxes.append(_Box(call, left, width, height))
    total = sum(costs) if costs is not None else 0.0
    shares = tuple(cost / total for cost in costs[: len(calls)]) if costs is not None and total > 0 else ()
    facts = [
        f"{format_count(total_macs(spec))} MACs",
        f"{format_count(total_params(spec))} parameters",
        f"{spec.resolution} px",
    ]
    price = format_cost(total, unit) if shares else ""
    if costs is not None and len(costs) > len(calls):
        facts.insert(0, f"{format_cost(costs[-1], unit)} of it constant")
    return _Row(title, "   ".join(([price] if price and unit != "MACs" else []) + facts), tuple(boxes), shares, price)


def _stage(call: LayerCall) -> tuple[str, tuple[int, int, int]]:
    """Layers of one stage share it: same kind (stem, block, head), same output size and width."""
    return call.name.split(".")[0], call.out_hwc


def _draw_row(
    axes: Axes,
    row: _Row,
    index: int,
    top: float,
    largest_share: float,
    certainty: Mapping[str, float] = MappingProxyType({}),
) -> None:
    heading: dict[str, Any] = {"fontsize": 11, "fontweight": "bold", "color": INK, "va": "center"}
    axes.text(LEFT, top + 0.13, row.title, parse_math=False, **heading)
    end = max(LEFT + row.width, MIN_WIDTH - RIGHT)
    axes.text(end, top + 0.13, row.facts, fontsize=9, color=GREY, va="center", ha="right")
    _draw_rulers(axes, row, top + TITLE)
    middle = top + TITLE + RULER + BODY / 2
    axes.plot(
        [LEFT - 0.12, LEFT + row.width + 0.12], [middle, middle], color=GREY, linewidth=0.9, zorder=1, clip_on=False
    )
    for box in row.boxes:
        _draw_box(axes, box, f"row{index}.{box.call.name}", middle, certainty.get(box.call.name, 1.0))
    if row.shares:
        _draw_shares(axes, row, top + TITLE + RULER + BODY, largest_share)


def _draw_rulers(axes: Axes, row: _Row, top: float) -> None:
    """Feature map size and channels over the blocks that put them out."""
    boxes = [box for box in row.boxes if not isinstance(box.call.op, Linear)]
    style: dict[str, Any] = {"fontsize": 7.5, "va": "center", "ha": "center"}
    axes.text(LEFT - 0.14, top + 0.06, "output size", fontsize=7, color=GREY, va="center", ha="right")
    axes.text(LEFT - 0.14, top + 0.31, "channels", fontsize=7, color=GREY, va="center", ha="right")
    for hwc, group in groupby(boxes, key=lambda box: box.call.out_hwc[:2]):
        members = list(group)
        left, right = LEFT + members[0].left, LEFT + members[-1].right
        axes.text((left + right) / 2, top + 0.06, f"{hwc[0]}\N{MULTIPLICATION SIGN}{hwc[1]}", color=INK, **style)
        axes.plot([left, left, right, right], [top + 0.2, top + 0.16, top + 0.16, top + 0.2], color=GREY, linewidth=0.8)
    for _, group in groupby(boxes, key=lambda box: _stage(box.call)):
        members = list(group)
        centre = LEFT + (members[0].left + members[-1].right) / 2
        axes.text(centre, top + 0.31, str(members[0].call.out_hwc[2]), color=GREY, **style)


def _draw_box(axes: Axes, box: _Box, gid: str, middle: float, certainty: float) -> None:
    from matplotlib.colors import to_rgba
    from matplotlib.patches import FancyBboxPatch

    vanished = isinstance(box.call.op, Zero)
    patch = FancyBboxPatch(
        (LEFT + box.left, middle - box.height / 2),
        box.width,
        box.height,
        boxstyle="round,pad=0,rounding_size=0.05",
        facecolor="none"
        if vanished
        else to_rgba(
            _colour(box.call.op), PALEST + (1 - PALEST) * certainty
        ),  # the data path stays visible through the outline
        edgecolor=GREY if vanished else INK,
        linewidth=0.9 if vanished else 0.7,
        linestyle=(0, (3, 2)) if vanished else "-",
        zorder=2,
        gid=gid,
    )
    axes.add_patch(patch)
    if not vanished:
        axes.text(
            LEFT + box.centre,
            middle,
            _drawn_label(box.call.op),
            fontsize=8.5,
            color=INK,
            rotation=90,
            rotation_mode="anchor",
            va="center_baseline",
            ha="center",
            zorder=4,
        )


def _drawn_label(op: Conv | MBConv | Zero | Linear) -> str:
    """Strides are seen in the output sizes, so the label goes without."""
    if isinstance(op, Linear):
        return "pool, FC"
    return op_label(op).split(" s")[0].replace("x", "\N{MULTIPLICATION SIGN}")


def _colour(op: Conv | MBConv | Zero | Linear) -> str:
    return KERNEL_COLOURS[op.kernel_size] if isinstance(op, MBConv) else PALE


def _draw_shares(axes: Axes, row: _Row, top: float, largest_share: float) -> None:
    """Bars that hang from a line, as long as the layer's share of the row's cost, with the share in percent."""
    from matplotlib.patches import Rectangle

    axes.text(LEFT - 0.14, top + 0.02, "share of", fontsize=7, color=GREY, va="center", ha="right")
    axes.text(LEFT - 0.14, top + 0.14, row.cost, fontsize=7, color=GREY, va="center", ha="right")
    axes.text(LEFT - 0.14, top + 0.26, "in %", fontsize=7, color=GREY, va="center", ha="right")
    for box, share in zip(row.boxes, row.shares, strict=True):
        if share <= 0:
            continue
        length = LONGEST_BAR * share / largest_share
        left = LEFT + box.centre - BAR_WIDTH / 2
        axes.add_patch(Rectangle((left, top), BAR_WIDTH, length, facecolor="#8C8C8C", linewidth=0))
        percent = 100 * share
        text = f"{percent:.1f}" if percent < 9.95 else f"{percent:.0f}"
        axes.text(LEFT + box.centre, top + length + 0.085, text, fontsize=7, color=INK, va="center", ha="center")


def _draw_legend(axes: Axes, width: float, middle: float) -> None:
    from matplotlib.patches import FancyBboxPatch

    entries: list[tuple[str, str, str, Any]] = [
        (f"kernel {size}\N{MULTIPLICATION SIGN}{size}", colour, INK, "-") for size, colour in KERNEL_COLOURS.items()
    ]
    entries += [("stem and head", PALE, INK, "-"), ("skipped block", "none", GREY, (0, (3, 2)))]
    left = LEFT
    for label, face, edge, line in entries:
        swatch = FancyBboxPatch(
            (left, middle - 0.065), 0.2, 0.13, boxstyle="round,pad=0,rounding_size=0.03",
            facecolor=face, edgecolor=edge, linewidth=0.7, linestyle=line,
        )  # fmt: skip
        axes.add_patch(swatch)
        axes.text(left + 0.26, middle, label, fontsize=8, color=INK, va="center_baseline")
        left += 0.26 + 0.068 * len(label) + 0.2
    note = "height: expansion ratio, width: channels"
    axes.text(left, middle, note, fontsize=8, color=GREY, va="center_baseline")


def draw_search(
    records: Sequence[Mapping[str, Any]],
    path: str | os.PathLike[str],
    *,
    target: float | None,
    unit: str,
    labels: Sequence[Sequence[str]] | None = None,
    chosen: Sequence[int] | None = None,
    title: str = "",
) -> None:
    """Draw how a search went from the records of its metrics.jsonl (search/report.py), epoch by epoch.

    Four panels: cost against target; loss and accuracy; entropy and lambda; each block's leading operation and how
    probable it is. Warm-up and fine-tune epochs are shaded. Fields that are None leave a gap.

    Args:
        records: oldest first; may be empty.
        path: the picture to write, ``.png`` or ``.svg``; an earlier file is replaced only by a whole new one.
        target: the cost asked for, in ``unit``, or None.
        unit: unit of the costs: "ms" or "MACs".
        labels: per block, the name of each choice (``op_label``); shown at the end of the block's row.
        chosen: per block, the choice of the derived network; where it is not the leading one it is named in its
            stead, in another colour and with its own probability.
        title: over the panels.

    Raises:
        InputError: another suffix. OSError: it cannot be written.
    """
    _check_suffix(path)
    head = 0.5 if title else 0.1
    figure = _figure(12.5, 8.0 + head)
    panels: Any = figure.subfigures(3, 2, wspace=0.0, hspace=0.0, height_ratios=(head, 4.0, 4.0))
    panels[0, 0].text(0.1, 0.35, title, fontsize=13, fontweight="bold", color=INK, va="center", parse_math=False)
    _draw_costs(panels[1, 0], records, target, unit)
    _draw_learning(panels[1, 1], records)
    _draw_entropy(panels[2, 0], records)
    _draw_choices(panels[2, 1], records, labels, chosen)
    _save(figure, path)


def _column(records: Sequence[Mapping[str, Any]], field: str) -> list[float]:
    """One field over the epochs; NaN where it is not known."""
    return [math.nan if record.get(field) is None else float(record[field]) for record in records]


def _phases(records: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, int, int]]:
    """(phase, first, last) epochs of the run, counted from 1."""
    first = 1
    for phase, group in groupby(records, key=lambda record: record["phase"]):
        last = first + len(list(group)) - 1
        yield phase, first, last
        first = last + 1


def _panel(axes: Axes, records: Sequence[Mapping[str, Any]], ylabel: str, *, upper: bool = False) -> None:
    """What the panels over time share: shading of the phases, limits, grid, labels; the names of the phases on top.

    ``upper``: another panel below it carries the epochs.
    """
    from matplotlib.ticker import MaxNLocator

    axes.set_xlim(0.5, max(len(records), 1) + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8, min_n_ticks=1))
    axes.set_ylabel(ylabel, fontsize=9, color=INK)
    axes.tick_params(labelsize=8, colors=INK, labelbottom=not upper)
    if not upper:
        axes.set_xlabel("epoch", fontsize=9, color=INK)
    axes.grid(True, color="#E4E4E4", linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for phase, first, last in _phases(records):
        if phase in PHASE_COLOURS:
            axes.axvspan(first - 0.5, last + 0.5, color=PHASE_COLOURS[phase], linewidth=0, zorder=0)


def _name_phases(axes: Axes, records: Sequence[Mapping[str, Any]]) -> None:
    """The phases' names over the panel."""
    names = {"warmup": "warm-up", "finetune": "fine-tune"}
    for phase, first, last in _phases(records):
        axes.text(
            (first + last) / 2, 1.015, names.get(phase, phase), transform=axes.get_xaxis_transform(),
            fontsize=8, color=GREY, ha="center", va="bottom",
        )  # fmt: skip


def _line(axes: Axes, values: Sequence[float], colour: str, label: str) -> None:
    if all(math.isnan(value) for value in values):
        return
    marker = "o" if len(values) <= 40 else None
    axes.plot(
        range(1, len(values) + 1), values, color=colour, label=label, linewidth=1.7, marker=marker, markersize=3.2,
    )  # fmt: skip


def _finish(axes: Axes, *, legend: bool = True) -> None:
    """A legend for the lines that are there, or a word that there are none."""
    if not axes.lines:
        axes.set_yticks([])
        axes.text(0.5, 0.5, "not recorded", transform=axes.transAxes, ha="center", va="center", fontsize=9, color=GREY)
    elif legend:
        axes.legend(fontsize=8, frameon=True, framealpha=0.85, edgecolor="none", loc="best")


def _heading(panel: SubFigure, text: str) -> None:
    panel.text(0.1, 0.955, text, fontsize=10.5, fontweight="bold", color=INK, va="center")


def _draw_costs(panel: SubFigure, records: Sequence[Mapping[str, Any]], target: float | None, unit: str) -> None:
    from matplotlib.ticker import FuncFormatter

    _heading(panel, "Cost of the architecture")
    axes = panel.add_axes((0.1, 0.12, 0.86, 0.74))
    _panel(axes, records, f"cost ({unit})")
    _name_phases(axes, records)
    _line(axes, _column(records, "expected_cost"), BLUE, "expected cost")
    _line(axes, _column(records, "argmax_cost"), VERMILION, "most probable network")
    if target is not None:
        axes.axhline(target, color=INK, linestyle="--", linewidth=1.2, label=f"target {format_cost(target, unit)}")
    if unit == "MACs":
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value / 1e6:g}"))
        axes.set_ylabel("cost (million MACs)")
    axes.margins(y=0.12)
    _finish(axes)


def _draw_learning(panel: SubFigure, records: Sequence[Mapping[str, Any]]) -> None:
    _heading(panel, "Learning")
    upper, lower = _two_axes(panel, records, "loss", "top-1 accuracy (%)")
    for axes, field in ((upper, "loss"), (lower, "top1_percent")):
        _line(axes, _column(records, f"train_{field}"), BLUE, "training")
        _line(axes, _column(records, f"valid_{field}"), ORANGE, "validation")
        _finish(axes)
    if lower.lines:
        lower.set_ylim(0, min(102, max(1, 1.08 * lower.dataLim.y1)))


def _draw_entropy(panel: SubFigure, records: Sequence[Mapping[str, Any]]) -> None:
    from matplotlib.ticker import FuncFormatter

    _heading(panel, "Entropy of the choices, weight of the target")
    upper, lower = _two_axes(panel, records, "entropy (nats)", "lambda")
    _line(upper, _column(records, "entropy"), BLUE, "entropy")
    strength = _column(records, "lambda")
    _line(lower, strength, BLUE, "lambda")
    if upper.lines:
        upper.set_ylim(0, max(1, 1.08 * upper.dataLim.y1))
    known = [value for value in strength if value > 0]
    if known and max(known) > 20 * min(known):
        lower.set_yscale("log")
        lower.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    _finish(upper, legend=False)
    _finish(lower, legend=False)


def _two_axes(
    panel: SubFigure, records: Sequence[Mapping[str, Any]], upper_label: str, lower_label: str
) -> tuple[Axes, Axes]:
    """Two panels over the same epochs, one above the other."""
    upper, lower = panel.add_axes((0.1, 0.52, 0.86, 0.34)), panel.add_axes((0.1, 0.12, 0.86, 0.34))
    _panel(upper, records, upper_label, upper=True)
    _panel(lower, records, lower_label)
    _name_phases(upper, records)
    return upper, lower


def _draw_choices(
    panel: SubFigure,
    records: Sequence[Mapping[str, Any]],
    labels: Sequence[Sequence[str]] | None,
    chosen: Sequence[int] | None,
) -> None:
    _heading(panel, "Probability of each block's leading operation")
    columns = [record.get("probabilities") or [] for record in records]
    n_blocks = max(map(len, columns), default=0)
    axes = panel.add_axes((0.1, 0.12, 0.68, 0.74))
    _panel(axes, records, "searched block")
    _name_phases(axes, records)
    if not n_blocks:
        _finish(axes)
        return
    grid = [
        [max(column[block]) if block < len(column) else math.nan for column in columns] for block in range(n_blocks)
    ]
    image = axes.imshow(
        grid, aspect="auto", interpolation="nearest", cmap="cividis", vmin=0, vmax=1,
        extent=(0.5, len(columns) + 0.5, n_blocks + 0.5, 0.5), zorder=2,
    )  # fmt: skip
    axes.set_ylim(n_blocks + 0.5, 0.5)
    axes.set_yticks(range(1, n_blocks + 1, 1 if n_blocks <= 12 else 2))
    for _, first, _last in list(_phases(records))[1:]:
        axes.axvline(first - 0.5, color="white", linewidth=1.4, zorder=3)
    final = next(column for column in reversed(columns) if column)
    any_other = False
    for block, probabilities in enumerate(final):
        leading = max(probabilities)
        choice = probabilities.index(leading) if chosen is None else chosen[block]
        name = labels[block][choice].removesuffix(" s2").removeprefix("-- ") if labels else f"choice {choice}"
        undecided = min(probabilities) == leading
        other = probabilities[choice] < leading
        any_other = any_other or other
        axes.text(
            1.012, block + 1, "undecided" if undecided else f"{name} {probabilities[choice]:.2f}",
            transform=axes.get_yaxis_transform(), fontsize=7.5, va="center",
            color=GREY if undecided else VERMILION if other else INK,
        )  # fmt: skip
    if any_other:
        text = "in this colour: chosen to meet the target, not leading"
        panel.text(0.96, 0.035, text, fontsize=7.5, color=VERMILION, ha="right", va="center")
    bar = panel.colorbar(image, cax=panel.add_axes((0.925, 0.12, 0.018, 0.74)))
    bar.ax.tick_params(labelsize=8, colors=INK)
    bar.outline.set_visible(False)  # type: ignore[operator]


def _figure(width: float, height: float) -> Figure:
    """An empty white figure of a size in inches, with its own canvas."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def _check_suffix(path: str | os.PathLike[str]) -> None:
    if Path(path).suffix.lower() not in SUFFIXES:
        raise InputError(f"expected a file name that ends in {listed(SUFFIXES)}", source=str(path))


def _save(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Write the figure whole or not at all, the same bytes for the same figure."""
    import matplotlib

    kind = Path(path).suffix.lower().removeprefix(".")
    dots_per_inch = min(200, int(60_000 / max(figure.get_size_inches())))
    metadata = {"Date": None} if kind == "svg" else {}
    with atomic_path(path) as temporary, matplotlib.rc_context({"svg.hashsalt": "proxyless"}):
        figure.savefig(temporary, format=kind, dpi=dots_per_inch, metadata=metadata)
