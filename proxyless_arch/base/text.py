"""How commands write for a person: rows that align, lines that open with a label, names that fit."""

from __future__ import annotations

import bisect
import contextlib
import os
import shlex
import unicodedata
from collections.abc import Callable, Collection, Iterable, Sequence

LABEL_WIDTH = 10
MANY_DIGITS = 1e4
"""From here on number_of writes an exponent."""


def readable(name: str) -> str:
    """The name of a file as text that can be shown and written, in NFC: systems write one name in several ways (macOS:
    ``e`` and an accent behind it)."""
    return unicodedata.normalize("NFC", in_one_line(name))


def in_one_line(name: str) -> str:
    """A name or path with escapes for what is no text: ``caf\\xe9`` for bytes that are no UTF-8, ``two\\nlines``."""
    text = name
    with contextlib.suppress(UnicodeEncodeError):  # halves of surrogates that stand for no byte
        text = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(map(_shown, text))


def is_text(name: str) -> bool:
    """Whether the name of a file is text, and not bytes that are no UTF-8."""
    return all(not 0xD800 <= ord(char) <= 0xDFFF for char in name)


def shell_line(words: Iterable[str]) -> str:
    """Words as a line to paste into a shell; those that are no text are written as bash and zsh read bytes."""
    return " ".join(shlex.quote(word) if is_text(word) else _as_bytes(word) for word in words)


def _as_bytes(word: str) -> str:
    plain = (chr(byte) if 32 <= byte < 127 and byte not in b"'\\" else f"\\x{byte:02x}" for byte in os.fsencode(word))
    return f"$'{''.join(plain)}'"


_TURNS = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""They show what follows from right to left."""


def printable(text: str) -> str:
    """Lines for a terminal: no character of a name in them moves the cursor or clears the screen."""
    return "\n".join(map(in_one_line, text.split("\n")))


def _shown(char: str) -> str:
    escape = unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp") or char in _TURNS
    return char.encode("unicode_escape").decode("ascii") if escape else char


def align(rows: Sequence[Sequence[str]], left: Collection[int] = (0,)) -> list[str]:
    """Rows of as many cells each as lines of aligned columns, two spaces between them and none at the end.

    A cell is one line (in_one_line).

    Args:
        rows: header first, where there is one.
        left: columns of words, which start together; all others hold numbers, which end together.
    """
    rows = [tuple(map(in_one_line, row)) for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if column in left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def ruled(lines: Sequence[str], *, totals: bool = False) -> list[str]:
    """Aligned lines with a rule under the header and, where the last line is one of ``totals``, above that."""
    rule = "-" * max(map(len, lines))
    header, *body = lines
    return [header, rule, *body[:-1], rule, body[-1]] if totals else [header, rule, *body]


def labeled(label: str, text: object) -> str:
    """``  label      text``: one line of a command's header or summary; without a label it continues the one above."""
    return f"  {label:<{LABEL_WIDTH}} {in_one_line(str(text))}"


def number_of(value: float | None, width: int, digits: int) -> str:
    """At least ``width`` characters: ``digits`` behind the point, few of a large number, a dash where it is None."""
    if value is None:
        return "-".rjust(width)
    return f"{value:{width}.{digits}f}" if abs(value) < MANY_DIGITS else f"{value:{width}.1e}"


def shortened(text: str, length: Callable[[str], float], room: float) -> str:
    """``text`` without its middle where it is longer than ``room``: names differ at their ends."""

    def cut(kept: int) -> str:
        return f"{text[: kept - kept // 2]}…{text[len(text) - kept // 2 :]}"

    if length(text) <= room:
        return text
    fitting = bisect.bisect_right(range(len(text)), room, key=lambda kept: length(cut(kept)))
    return cut(max(0, fitting - 1))
