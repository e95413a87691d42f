"""What pages and pictures call a run: by the name that a person gave its folder, else by what it is."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from proxyless_arch.base.text import readable
from proxyless_arch.base.units import Unit
from search.reporting.history import cost_text
from search.reporting.run_folder import Run

NO_NAME = re.compile(r"(?:run|runs|search|exp|[tz]|[\d\W_])*", re.IGNORECASE)
DIGITS_OF_A_DATE = 6
"""Folder names that say nothing of their run: dates and times, also behind a word for any run."""


def title_of(run: Run) -> str:
    """``mine`` of runs/mine; of a folder named by the time ``digits on mobile, 1.895 of 1.9 ms``."""
    if run.shown_as or is_named(run):
        return run.shown_as or run.name
    hardware = f" on {run.settings['target_hardware']}" if run.unit is Unit.MS else ""
    return ", ".join(filter(None, (data_name(run) + hardware, *_kind(run), _costs(run))))


def is_named(run: Run) -> bool:
    """Whether a person gave the folder a name."""
    return _is_name(run.name)


def _is_name(folder: str) -> bool:
    return NO_NAME.fullmatch(folder) is None or sum(map(str.isdigit, folder)) < DIGITS_OF_A_DATE


def network_name(folder: Path, settings: Mapping[str, Any], target: float | None, unit: Unit | None) -> str:
    """What a search calls the network it found: as its folder is called, else ``digits-mobile-1.9ms``."""
    if _is_name(folder.name):
        return readable(folder.name)
    hardware = settings["target_hardware"] if unit is Unit.MS else ""
    cost = cost_text(target, unit).replace(" ", "") if target is not None else ""
    return "-".join(filter(None, (re.sub(r"[^\w.-]+", "_", _data_name(settings)), hardware, cost)))


def told_apart(runs: Sequence[Run]) -> list[Run]:
    """The runs, each shown under a title of its own, a short one: ``mobile, 1.895 ms``."""
    one_data = len(set(map(data_name, runs))) == 1
    titles = [run.name if is_named(run) else _short_title(run, "" if one_data else data_name(run)) for run in runs]
    seeds: dict[str, set[str]] = {}
    for title, run in zip(titles, runs, strict=True):
        seeds.setdefault(title, set()).add(_seed(run))
    titles = [f"{t} ({_seed(run)})" if len(seeds[t]) > 1 else t for t, run in zip(titles, runs, strict=True)]
    numbers = [titles[: place + 1].count(title) for place, title in enumerate(titles)]
    titles = [f"{t} #{number}" if titles.count(t) > 1 else t for t, number in zip(titles, numbers, strict=True)]
    return [replace(run, shown_as=title) for run, title in zip(runs, titles, strict=True)]


def _short_title(run: Run, data: str) -> str:
    found = run.measured_ms if run.measured_ms is not None else run.predicted
    cost = cost_text(found, run.unit) if found is not None else _costs(run)
    hardware = run.settings["target_hardware"] if run.unit is Unit.MS else ""
    return ", ".join(filter(None, (data, hardware, *_kind(run), cost)))


def _seed(run: Run) -> str:
    return f"seed {run.settings.get('manual_seed', 'not recorded')}"


def data_name(run: Run) -> str:
    """``digits``, or the name of the person's folder or zip."""
    return _data_name(run.settings)


def _data_name(settings: Mapping[str, Any]) -> str:
    path = settings.get("data_path")
    return readable(Path(path).resolve().name.removesuffix(".zip")) if path is not None else settings["dataset"]


def _kind(run: Run) -> tuple[str, ...]:
    return ("random networks",) if run.is_random else ()


def _costs(run: Run) -> str:
    """``1.895 of 1.9 ms``: what was found, of what was asked for."""
    if run.unit is None:
        return "accuracy alone"
    found = run.measured_ms if run.measured_ms is not None else run.predicted
    if run.target is None:
        return cost_text(found, run.unit) if found is not None else ""
    if found is None:
        return f"target {cost_text(run.target, run.unit)}"
    asked, (number, _, unit) = cost_text(run.target, run.unit), cost_text(found, run.unit).partition(" ")
    return f"{number if asked.endswith(f' {unit}') else f'{number} {unit}'} of {asked}"
