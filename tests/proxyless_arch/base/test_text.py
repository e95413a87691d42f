"""Aligned rows and labeled lines: where columns start and end, counted in characters."""

import os
import shlex
import subprocess
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxyless_arch.base.text import align, labeled, printable, readable, ruled, shell_line, shortened

CELLS = st.text("abc1.%", min_size=1, max_size=8)


def tables(width):
    return st.lists(st.tuples(*[CELLS] * width), min_size=1, max_size=6)


@given(st.integers(1, 4).flatmap(lambda width: st.tuples(tables(width), st.sets(st.integers(0, 3)))))
def test_a_column_starts_or_ends_at_one_place_in_every_row(given_):
    rows, left = given_
    at = 0
    for column in range(len(rows[0])):
        width = max(len(row[column]) for row in rows)
        for row, line in zip(rows, align(rows, left), strict=True):
            start = at if column in left else at + width - len(row[column])
            assert line[start : start + len(row[column])] == row[column]
            assert not line[at:start].strip() and not line[start + len(row[column]) : at + width + 2].strip()
        at += width + 2


def test_an_example():
    rows = [("name", "ms", "from"), ("a", "12.5", "here"), ("longer", "1.0", "")]
    assert align(rows, left=(0, 2)) == ["name      ms  from", "a       12.5  here", "longer   1.0"]


def test_rows_of_other_lengths_are_a_mistake():
    with pytest.raises(ValueError):
        align([("a", "b"), ("c",)])


def test_rules_are_as_long_as_the_longest_line():
    assert ruled(["h", "row", "sum"]) == ["h", "---", "row", "sum"]
    assert ruled(["h", "row", "sum"], totals=True) == ["h", "---", "row", "---", "sum"]


def test_a_label_and_what_continues_it():
    assert labeled("size", 3) == "  size       3"
    assert labeled("", "more").index("more") == labeled("size", "more").index("more")


def test_shortened_keeps_both_ends():
    assert shortened("abcdefghij", len, 10) == "abcdefghij"
    assert shortened("abcdefghij", len, 5) == "ab…ij"
    assert shortened("abcdefghij", len, 0) == "…"
    assert shortened("x" * 70_000, len, 5) == "xx…xx"  # in no time


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (b"plain name", "plain name"),
        ("café".encode(), "café"),
        ("cafe\u0301".encode(), "café"),
        ("café".encode("latin-1"), r"caf\xe9"),
        (b"two\nlines\t\x1b[31m", r"two\nlines\t\x1b[31m"),
        ("日本語 \U0001f408".encode(), "日本語 \U0001f408"),
    ],
)
def test_the_name_of_a_file_as_text(name, text):
    found = readable(name.decode("utf-8", "surrogateescape"))
    assert found == text
    found.encode()


def test_a_surrogate_that_no_file_can_have_is_escaped():
    assert readable("a\ud800") == r"a\ud800"


@given(st.text())
def test_no_name_moves_the_cursor_or_begins_a_line(name):
    shown = [labeled("files", name), *align([("a", "b"), (name, name)]), *printable(name).split("\n")]
    for line in shown:
        assert not any(unicodedata.category(char) in ("Cc", "Zl", "Zp") for char in line)
    assert len(shown) == 4 + name.count("\n")


def test_names_do_not_turn_a_line():
    assert labeled("", "\u202egpj") == labeled("", "\\u202egpj")


def test_what_a_shell_reads_back():
    words = ["python", "a b", "it's", "\u017dirafa", os.fsdecode(b"caf\xe9's\\ 1")]
    echoed = subprocess.run(["bash", "-c", f"printf '%s\\0' {shell_line(words)}"], stdout=subprocess.PIPE, check=True)
    assert echoed.stdout.split(b"\0")[:-1] == [os.fsencode(word) for word in words]
    assert shell_line(words[:3]) == shlex.join(words[:3])
