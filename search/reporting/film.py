"""How a network formed: the moments of a search, for the player of the report and for an animated GIF."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from proxyless_arch.arch.draw import (
    BARS_TOP,
    LONGEST_BAR,
    MIDDLE,
    PALEST,
    USUAL_EXPANSION,
    Look,
    Room,
    draw_film,
    draw_stages,
    look,
)
from proxyless_arch.arch.shrink import block_name
from proxyless_arch.arch.spec import ArchSpec
from proxyless_arch.arch.walk import LayerCall, walk
from proxyless_arch.base.errors import InputError
from proxyless_arch.base.files import writing
from proxyless_arch.base.units import Unit
from proxyless_arch.drawing.scene import Scene
from proxyless_arch.space.search_space import Path as Choices
from proxyless_arch.space.search_space import SearchSpace, Width
from search.reporting.history import phase_name
from search.reporting.run_folder import Run, read_run
from search.reporting.titles import title_of

PREFIX = "film-"  # of the ids of the layers that the player changes


@dataclass(frozen=True, kw_only=True)
class Frame:
    """The architecture at one moment of the search.

    ``path``: the leading choice of each searched block; ``confidence``: 0 where the block's choices are equally
    probable, 1 where it is decided. ``caption`` says which moment it is. ``scale``: of the table, as it was then.
    """

    caption: str
    path: Choices
    confidence: tuple[float, ...]
    scale: float = 1.0


def frames(run: Run) -> list[Frame]:
    """The film of a search: its leading choices epoch by epoch, and at the end the derived network."""
    if run.space is None or run.is_random:
        return []
    space, found = run.space, []
    try:
        for record in run.records:
            path, probabilities = record.get("argmax_path"), record.get("probabilities")
            if path is not None and probabilities is not None:
                caption = f"{phase_name(record['phase'])}, epoch {record['epoch'] + 1} of {record['n_epochs']}"
                confidence = tuple(map(_confidence, probabilities))
                found.append(Frame(caption=caption, path=space.check(tuple(path)), confidence=confidence))
        if run.spec is not None and run.result is not None:
            path, certain = space.check(tuple(run.result["path"])), (1.0,) * space.n_edges
            found.append(Frame(caption="the derived network", path=path, confidence=certain, scale=run.table_scale))
    except InputError:  # a run of another version's space
        return []
    return found


def _confidence(probabilities: Sequence[float]) -> float:
    """0 where all are equal, 1 where one is certain."""
    uniform = 1 / len(probabilities)
    return max(0.0, (max(probabilities) - uniform) / (1 - uniform)) if len(probabilities) > 1 else 1.0


# ---------------------------------------------------------------------------------------------------- on the page


@dataclass(frozen=True, kw_only=True)
class Film:
    """The network of the last frame, its drawing, and what the player makes of that (templates/page.js)."""

    spec: ArchSpec
    stages: Sequence[Scene]
    data: dict[str, Any]


def film(run: Run) -> Film | None:
    """The film of a run; None when its choices are not known, or when they are edges within blocks."""
    shots = frames(run)
    if not shots or run.space is None or len(run.space.edges) < len(run.space.choices):
        return None
    space, unit = run.space, run.unit or Unit.MS
    last = run.spec if run.spec is not None else space.spec_for(shots[-1].path, run.name)
    highest = max((USUAL_EXPANSION, *(op.drawing.expansion or 1.0 for ops in space.choices for op in ops)))
    rooms, networks = rooms_of(space), [walk(space.spec_for(shot.path)) for shot in shots]
    chosen = [
        [look(call, _price(run, call), unit, highest, rooms.get(call.name)) for call in calls] for calls in networks
    ]
    looks = [list(dict.fromkeys(layer)) for layer in zip(*chosen, strict=True)]
    constant = run.table_scale * run.source.offset_ms if run.source is not None else 0.0
    totals = [constant + sum(_costs(row)) for row in chosen]
    top_share = None
    if run.table is not None:
        top_share = max(max(_costs(row)) / total for row, total in zip(chosen, totals, strict=True))
    costs = run.costs(last, run.table_scale)
    data = {
        "ids": [PREFIX + call.name for call in walk(last)],
        "middle": MIDDLE,
        "bars": BARS_TOP,
        "longest": LONGEST_BAR,
        "pale": PALEST,
        "top": top_share,
        "constant": constant,
        "choices": [list(map(_for_player, options)) for options in looks],
        "frames": [
            {
                "caption": shot.caption,
                "looks": [options.index(each) for options, each in zip(looks, row, strict=True)],
                "sure": [round(certainty.get(call.name, 1.0), 3) for call in calls],
                "facts": _facts(run, shot.scale / run.table_scale * total),
            }
            for shot, row, calls, certainty, total in zip(
                shots, chosen, networks, (_certainty(space, shot) for shot in shots), totals, strict=True
            )
        ],
    }
    stages = draw_stages(last, costs, unit, prefix=PREFIX, top_share=top_share, highest=highest, rooms=rooms)
    return Film(spec=last, stages=stages, data=data)


def _for_player(look: Look) -> list[Any]:
    """As templates/page.js reads it."""
    return [look.style, round(look.height, 2), look.label, look.tip, look.cost, round(look.width, 2), look.channels]


def rooms_of(space: SearchSpace | None) -> dict[str, Room]:
    """By layer, the widest that each block could be where that is chosen."""
    return {
        block_name(block): Room(width.options[-1], number)
        for number, width in enumerate(space.widths if space is not None else ())
        for block in range(width.first, width.last + 1)
    }


def _certainty(space: SearchSpace, shot: Frame) -> dict[str, float]:
    """By layer, how decided it is: as its least decided choice, of its operation or its width."""
    found: dict[str, float] = {}
    for (place, each), sure in zip(space.entries, shot.confidence, strict=True):
        for block in range(each.first, each.last + 1) if isinstance(each, Width) else (place,):
            found[block_name(block)] = min(sure, found.get(block_name(block), 1.0))
    return found


def _costs(looks: Sequence[Look]) -> list[float]:
    return [each.cost or 0.0 for each in looks]


def _price(run: Run, call: LayerCall) -> float | None:
    """What a layer costs in the run's unit, as it was measured in the end; None when nothing is priced."""
    if run.table is None:
        return None
    return float(call.macs) if run.source is None else run.table_scale * run.source.price_ms(call)


def _facts(run: Run, cost: float) -> str:
    if run.table is None or run.unit is None:
        return ""
    return run.unit.short(cost) + ("" if run.unit.is_counted else " predicted")


# ---------------------------------------------------------------------------------------------------------- a GIF


def write_film(folder: str | os.PathLike[str], output: str | os.PathLike[str]) -> Path:
    """Write the film of a search as an animated GIF.

    Raises InputError when the folder is no run or its choices are not known, or the film cannot be written.
    """
    run = read_run(Path(folder))
    shots = frames(run)
    if not shots or run.space is None:
        raise InputError("holds no architecture to film: no epoch was finished, or it is no search", source=str(folder))
    is_by_block = len(run.space.edges) == len(run.space.choices)
    drawn = []
    for shot in shots:
        spec = run.space.spec_for(shot.path, run.name)
        certainty = _certainty(run.space, shot) if is_by_block else {}
        drawn.append((f"{title_of(run)}: {shot.caption}", spec, run.costs(spec, shot.scale), certainty))
    with writing(output):
        draw_film(drawn, output, unit=run.unit or Unit.MS, rooms=rooms_of(run.space))
    return Path(output)
