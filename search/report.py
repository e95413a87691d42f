"""The report of a run, or of several searches side by side: one self-contained page.

    python search/report.py runs/mine
    python search/report.py runs/mine --gif search.gif
    python search/report.py runs/mine --svg pictures
    python search/report.py runs/mine runs/other --output comparison.html
    python search/report.py runs/mine runs/random --trained runs/trained-*
    python search/report.py runs/bits

One run: its report.html is made (again). Several searches: one page that compares them. Of a training, pruning,
quantization or attack the page shows the chain: what each command made of the network, from the first one on.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":  # started as a script: the packages lie beside this folder, and nothing in it is top-level
    sys.path[:] = [str(ROOT), *(entry for entry in sys.path if Path(entry or ".").resolve() != ROOT / "search")]

from proxyless_arch.base import settings  # noqa: E402
from proxyless_arch.base.cli import exit_code  # noqa: E402
from proxyless_arch.base.errors import InputError  # noqa: E402
from proxyless_arch.base.settings import REQUIRED, setting  # noqa: E402
from proxyless_arch.base.text import in_one_line  # noqa: E402
from proxyless_arch.chain.page import write_chain, write_chain_picture  # noqa: E402
from proxyless_arch.chain.reading import is_in_chain  # noqa: E402
from search.reporting.film import write_film  # noqa: E402
from search.reporting.pictures import write_svg  # noqa: E402
from search.reporting.report_page import write_comparison, write_report  # noqa: E402


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """What report.py is asked to do."""

    runs: tuple[Path, ...] = setting(REQUIRED, "run folders", is_positional=True, metavar="RUN")
    output: Path | None = setting(
        None, "the page (default: report.html in the run, or comparison.html here)", metavar="FILE"
    )
    gif: Path | None = setting(None, "also write the animation of the (one) search as a GIF", metavar="FILE")
    svg: Path | None = setting(
        None,
        "also draw the (one) run for documents: architecture.svg and search.svg, or chain.svg",
        metavar="FOLDER",
    )
    trained: tuple[Path, ...] = setting(
        (),
        "run folders of train.py, each with a network of the runs: shows the accuracy it reached",
        metavar="TRAINED_RUN",
    )


def run(argv: Sequence[str]) -> None:
    arguments = settings.parse(ReportConfig, argv, "report.py", __doc__)
    if len(arguments.runs) > 1:
        for flag in ("gif", "svg"):
            if getattr(arguments, flag) is not None:
                raise InputError("shows one search: name one run", f"--{flag}")
        _say(write_comparison(arguments.runs, arguments.output or Path("comparison.html"), arguments.trained))
        return
    if is_in_chain(arguments.runs[0]):
        _report_chain(arguments)
        return
    _say(write_report(arguments.runs[0], arguments.output, arguments.trained))
    if arguments.gif is not None:
        _say(write_film(arguments.runs[0], arguments.gif))
    if arguments.svg is not None:
        _say(*write_svg(arguments.runs[0], arguments.svg))


def _say(*files: Path) -> None:
    print(*(in_one_line(str(file)) for file in files), sep="\n")


def _report_chain(arguments: ReportConfig) -> None:
    for flag in ("gif", "trained"):
        if getattr(arguments, flag):
            raise InputError("is of searches alone", f"--{flag}", str(arguments.runs[0]))
    _say(write_chain(arguments.runs[0], arguments.output))
    if arguments.svg is not None:
        _say(write_chain_picture(arguments.runs[0], arguments.svg))


def main(argv: Sequence[str] | None = None) -> int:
    return exit_code(run, argv)


if __name__ == "__main__":
    sys.exit(main())
