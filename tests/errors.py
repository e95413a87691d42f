"""What a test asks of a refusal and of printed text: the place, the source and the values, in whatever sentence."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

import pytest

from proxyless_arch.base.errors import InputError
from proxyless_arch.base.text import labeled


def named(text: str, *values: object) -> None:
    """``text`` must hold every value as a word of its own (3 is in neither 30 nor 3.5), in whatever order."""

    def is_there(value: str) -> bool:
        end = r"(?!\w)(?!\.\d)" if re.search(r"\w$", value) else ""
        return re.search(rf"(?<!\w)(?<!\d\.){re.escape(value)}{end}", text) is not None

    assert [value for value in values if not is_there(str(value))] == [], text


@contextlib.contextmanager
def refused(place: str, *values: object, source: object = None) -> Iterator[None]:
    """The block must end in an InputError at exactly ``place`` and of exactly ``source`` that names every value."""
    with pytest.raises(InputError) as caught:
        yield
    error = caught.value
    assert (error.place, error.source) == (place, None if source is None else str(source)), error
    named(error.problem, *values)


def error_line(printed: str, place: str, *values: object, source: object = None) -> None:
    """The last line of what a command ``printed`` must be a refusal at ``place`` that names every value."""
    line = printed.splitlines()[-1]
    start, end = f"error: {place}: " if place else "error: ", "" if source is None else f" (in {source})"
    assert line.startswith(start) and line.endswith(end), printed
    named(line.removeprefix(start).removesuffix(end), *values)


def line_of(printed: str, label: str) -> str:
    """What a command ``printed`` behind a label of its header or its end (proxyless_arch.base.text.labeled)."""
    start = labeled(label, "")
    texts = [line.removeprefix(start) for line in printed.splitlines() if line.startswith(start)]
    assert texts, printed
    return texts[0]
