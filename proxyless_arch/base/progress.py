"""How far a long work has come: a bar on a terminal and in a notebook, elsewhere (a log file) a line per minute.

The one place that shows progress. Both go to standard error, beside what a command prints.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Any, TypeVar

from proxyless_arch.base.runs import format_seconds
from proxyless_arch.base.text import labeled, printable
from proxyless_arch.base.units import format_count

T = TypeVar("T")
EVERY_SECONDS = 60.0
"""Between two lines."""
LABEL = "progress"


def is_watched() -> bool:
    """Whether a bar can be seen: standard error is a terminal, or the code runs in a notebook."""
    return "ipykernel" in sys.modules or sys.stderr.isatty()


@contextlib.contextmanager
def above_bars() -> Iterator[None]:
    """Within it a bar makes room for what is printed."""
    if not is_watched():
        yield
        return
    from tqdm import tqdm

    with tqdm.external_write_mode():
        yield


def speak(line: str) -> None:
    """Print at once, also where the output goes to a file or a pipe, and above a bar."""
    with above_bars():
        print(printable(line), flush=True)


class Progress:
    """Count with ``update``; a context, at whose end a bar stays as it is.

    Args:
        total: how much there is to do, which may grow; None: not known.
        unit: of the count; empty: only its share is shown.
        done: of an earlier process.
        doing: the label of a line and, where it is not the usual one, of a bar.
        hidden: nothing is shown.
        bar: what else tqdm is to know.
    """

    def __init__(
        self,
        total: float | None,
        unit: str = "",
        *,
        done: float = 0,
        doing: str = LABEL,
        hidden: bool = False,
        **bar: Any,
    ) -> None:
        self.total, self.unit, self.done, self.doing = total, unit, done, doing
        self._before, self._hidden = done, hidden
        self._start = self._said = time.monotonic()
        self._bar: Any = None
        if not hidden and is_watched():
            self._bar = self._shown(bar)

    def _shown(self, bar: dict[str, Any]) -> Any:
        from tqdm import tqdm

        words = {"unit": self.unit or "it", "dynamic_ncols": True, "desc": None if self.doing == LABEL else self.doing}
        return tqdm(total=self.total, initial=self.done, **(words | bar))

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()

    def update(self, count: float = 1, about: str | None = None) -> None:
        """``count`` more are done. ``about``: what the bar says behind its figures."""
        self.done += count
        if self._bar is not None:
            self._bar.total = self.total
            if about is not None:
                self._bar.set_postfix_str(about, refresh=False)
            self._bar.update(count)
        elif not self._hidden and time.monotonic() - self._said >= EVERY_SECONDS:
            self._said = time.monotonic()
            print(labeled(self.doing, self.line()), file=sys.stderr, flush=True)

    def expect(self, count: float) -> None:
        """There are ``count`` more to do than was known."""
        self.total = (self.total or 0) + count

    def line(self) -> str:
        """``1.20 k of 5.00 k img (24 %), 35 img/s, 2 min 10 s left``, as far as it is known."""
        seconds, count = time.monotonic() - self._start, self.done - self._before
        parts = []
        if self.unit:
            of_all = f" of {format_count(self.total)}" if self.total is not None else ""
            share = f" ({100 * self.done / self.total:.0f} %)" if self.total else ""
            parts.append(f"{format_count(self.done)}{of_all} {self.unit}{share}")
            parts.append(f"{count / max(seconds, 1e-9):.3g} {self.unit}/s")
        elif self.total:
            parts.append(f"{100 * self.done / self.total:.0f} %")
        if self.total is not None and count > 0:
            parts.append(f"{format_seconds(max(0.0, self.total - self.done) * seconds / count)} left")
        return ", ".join(parts)


def watched(items: Iterable[T], bar: Progress, count: Callable[[T], float] = lambda item: 1) -> Iterator[T]:
    """The items; each counts as done when the next one is asked for."""
    for item in items:
        yield item
        bar.update(count(item))
