"""HTML and SVG written so that every tag is closed and every text is escaped."""

from __future__ import annotations

import html

VOID = frozenset({"meta", "link", "input", "br", "hr", "img"})


class Markup(str):
    """Text that is markup already; any other str is escaped when it is put into a tag."""


def escaped(text: object) -> Markup:
    """``text`` as markup; Markup stays as it is."""
    return text if isinstance(text, Markup) else Markup(html.escape(str(text)))


def joined(*children: object) -> Markup:
    """Children one after the other; None is left out."""
    return Markup("".join(escaped(child) for child in children if child is not None))


def tag(name: str, /, *children: object, **attributes: object) -> Markup:
    """One element. ``class_`` and ``stroke_width`` become class and stroke-width; None and False are left out.

    >>> tag("a", "1 < 2", class_="x", hidden=True)
    '<a class="x" hidden>1 &lt; 2</a>'
    """
    words = [name]
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        label = key.rstrip("_").replace("_", "-")
        words.append(label if value is True else f'{label}="{html.escape(_attribute(value))}"')
    opening = f"<{' '.join(words)}>"
    return Markup(opening) if name in VOID else Markup(f"{opening}{joined(*children)}</{name}>")


def _attribute(value: object) -> str:
    """Coordinates in at most two decimals."""
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
