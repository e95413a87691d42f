"""The pictures of a finished run: its network, and how the search went."""

from __future__ import annotations

import os
from pathlib import Path

from proxyless_arch.arch.draw import draw_architectures
from proxyless_arch.base.errors import InputError
from proxyless_arch.base.files import writing
from proxyless_arch.base.units import Unit
from search.reporting.film import rooms_of
from search.reporting.history import draw_search
from search.reporting.run_folder import Run, read_run
from search.reporting.titles import is_named, title_of

NAMES = "architecture", "search"  # of the files, before their suffix


def write_svg(folder: str | os.PathLike[str], output: str | os.PathLike[str]) -> list[Path]:
    """Write ``architecture.svg`` and ``search.svg`` of a finished search into the folder ``output``; returns them.

    Raises InputError when ``folder`` is no finished search, or the pictures cannot be written.
    """
    run = read_run(Path(folder))
    if run.spec is None or run.result is None:
        raise InputError("holds no network to draw: it did not come to its end, or it is no search", source=str(folder))
    with writing(output):
        Path(output).mkdir(parents=True, exist_ok=True)
        return draw_pictures(run, Path(output), ".svg")


def draw_pictures(run: Run, folder: Path, suffix: str) -> list[Path]:
    """Draw the pictures of a finished search into ``folder``, as ``.png`` or ``.svg``. Errors: OSError."""
    spec, unit, title = run.spec, run.unit or Unit.MS, title_of(run)
    assert spec is not None and run.result is not None
    architecture, search = (folder / f"{name}{suffix}" for name in NAMES)
    searched_for = f"{title}: searched for {run.settings['target_hardware']}" if is_named(run) else title
    row = (searched_for, spec, run.costs(spec, run.table_scale))
    draw_architectures([row], architecture, unit=unit, rooms=rooms_of(run.space))
    draw_search(
        run.records,
        search,
        target=run.target,
        unit=unit,
        labels=run.space.choice_labels if run.space is not None else None,
        chosen=run.result["path"],
        places=run.space.places if run.space is not None else None,
        title=title,
    )
    return [architecture, search]
