"""report.html: a search, or several, on one page that holds everything it shows and asks no network for anything.

A run folder is read (run_folder.py), what the page says is decided (views.py) and laid out (templates/*.html).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from proxyless_arch.apps.scores import shown_counts, shown_percent, shown_score
from proxyless_arch.arch.draw import legend, legend_note
from proxyless_arch.base.files import write_text, writing
from proxyless_arch.base.runs import format_seconds
from proxyless_arch.base.text import readable
from proxyless_arch.base.units import format_count
from proxyless_arch.drawing.charts import series_color
from proxyless_arch.drawing.pages import rendered
from search.reporting.history import choice_name, cost_text, phase_name
from search.reporting.networks import accuracy_of
from search.reporting.run_folder import Run, is_overruled, read_run, read_trained, times_as_rare
from search.reporting.titles import data_name, title_of
from search.reporting.trainings import with_trained
from search.reporting.views import comparison_page, percent_apart, run_page, signed_percent

REPORT_FILE = "report.html"
TEMPLATES = Path(__file__).parent / "templates"


def write_report(
    folder: str | os.PathLike[str], output: str | os.PathLike[str] | None = None, trained: Sequence[Path] = ()
) -> Path:
    """Write the report of one run; returns its path, by default ``report.html`` in the run folder.

    ``trained``: run folders of train.py that trained its network or networks. Raises InputError when a folder is no
    run or has nothing to do with it, or the report cannot be written (nothing is then left).
    """
    (run,) = with_trained([read_run(Path(folder))], list(map(read_trained, trained)))
    return _write(output if output is not None else run.folder / REPORT_FILE, report(run))


def write_comparison(
    folders: Sequence[str | os.PathLike[str]], output: str | os.PathLike[str], trained: Sequence[Path] = ()
) -> Path:
    """Write one page that compares runs. ``trained`` and errors: as for ``write_report``."""
    runs = [read_run(Path(folder)) for folder in folders]
    return _write(output, comparison(with_trained(runs, list(map(read_trained, trained)))))


def report(run: Run) -> str:
    """The page of one run as HTML text."""
    return _render("report.html", run_page(run))


def comparison(runs: Sequence[Run]) -> str:
    """The page that sets runs side by side as HTML text."""
    return _render("comparison.html", comparison_page(runs))


def _write(output: str | os.PathLike[str], page: str) -> Path:
    with writing(output):
        write_text(output, page)
    return Path(output)


def _render(template: str, page: Any) -> str:
    filters = {
        "overruled": is_overruled,
        "rarer": times_as_rare,
        "accuracy": lambda result: accuracy_of(result or {}),
        "apart": percent_apart,
        "choice": choice_name,
        "color": series_color,
        "cost": cost_text,
        "count": format_count,
        "data": data_name,
        "duration": format_seconds,
        "file_name": lambda path: readable(Path(path).name),
        "hits": shown_counts,
        "percent": shown_percent,
        "phase": phase_name,
        "score": shown_score,
        "signed": signed_percent,
        "title": title_of,
    }
    functions = {"network_entries": legend, "network_note": legend_note}
    return rendered(TEMPLATES, template, page, filters=filters, functions=functions)
