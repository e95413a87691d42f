"""What a test asks of a refusal: its place, its source and the values it names, in whatever sentence."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

import pytest

from proxyless_arch.base.errors import InputError


@contextlib.contextmanager
def refused(place: str, *values: object, source: object = None) -> Iterator[None]:
    """The block must end in an InputError at exactly ``place`` and of exactly ``source`` that names every value."""
    with pytest.raises(InputError) as caught:
        yield
    error = caught.value
    assert (error.place, error.source) == (place, None if source is None else str(source)), error
    absent = [value for value in values if not re.search(rf"(?<!\w){re.escape(str(value))}(?!\w)", error.problem)]
    assert absent == [], error
