"""Progress: a line per minute where nobody watches, by a clock that is moved by hand; a bar where somebody does."""

import io
import sys

import pytest

from proxyless_arch.base import progress
from proxyless_arch.base.progress import Progress
from tests.errors import line_of, named


@pytest.fixture
def clock(monkeypatch):
    """``clock.now``: the seconds that time.monotonic gives."""

    class Clock:
        now = 1000.0

        def monotonic(self):
            return self.now

    found = Clock()
    monkeypatch.setattr(progress, "time", found)
    return found


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_log_gets_a_line_per_minute(clock, capsys):
    with Progress(100, "img") as bar:
        for _ in range(100):
            clock.now += 2.5
            bar.update()
    found = capsys.readouterr()
    lines = found.err.splitlines()
    assert found.out == ""
    assert [line.split("(")[1].split("%")[0].strip() for line in lines] == ["24", "48", "72", "96"]
    named(line_of(lines[0], "progress"), "24 of 100 img", "24 %", "0.4 img/s", "3 min 10 s left")


def test_what_an_earlier_process_did_does_not_count_as_fast(clock, capsys):
    with Progress(1000, "step", done=900) as bar:
        clock.now += 60
        bar.update(10)
    (line,) = capsys.readouterr().err.splitlines()
    named(line_of(line, "progress"), "910 of 1.00 k step", "91 %", "0.167 step/s", "9 min 00 s left")


def test_an_end_that_is_not_known_and_one_without_a_unit(clock, capsys):
    for words in ({"total": None, "unit": "B", "doing": "photo.zip"}, {"total": 8, "doing": "measuring"}):
        bar = Progress(**words)
        clock.now += 61
        bar.update(2)
    assert capsys.readouterr().err.splitlines() == [
        "  photo.zip  2 B, 0.0328 B/s",
        "  measuring  25 %, 3 min 03 s left",
    ]


def test_a_total_that_grows(clock):
    bar = Progress(2, "round")
    bar.update(2)
    bar.total = 4
    clock.now += 10
    assert bar.line() == "2 of 4 round (50 %), 0.2 round/s, 10 s left"


def test_nothing_is_shown_where_it_is_hidden(clock, capsys):
    with Progress(10, "img", hidden=True) as bar:
        clock.now += 100
        bar.update(5)
    assert bar.done == 5
    assert capsys.readouterr() == ("", "")


def test_a_terminal_gets_a_bar(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    with Progress(10, "img", done=4) as bar:
        bar.update(6, about="the last ones")
        with progress.above_bars():
            pass
    shown = sys.stderr.getvalue()
    assert "100%" in shown
    assert "10/10" in shown
    assert "the last ones" in shown
