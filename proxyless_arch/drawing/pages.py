"""HTML pages that hold all they show: one look (templates/base.html, page.css), one engine for all rooms' pages."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from proxyless_arch.drawing.scene import Scene, css, to_svg

TEMPLATES = Path(__file__).parent / "templates"
NONE: Mapping[str, Any] = MappingProxyType({})


def rendered(
    templates: Path,
    name: str,
    page: Any,
    *,
    filters: Mapping[str, Any] = NONE,
    functions: Mapping[str, Any] = NONE,
) -> str:
    """The template ``name`` of a folder, which extends base.html, filled with ``page``. What is no markup is escaped.

    A template has ``css()``, ``svg(scene, attributes)``, and the ``filters`` and ``functions`` given.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    def svg(scene: Scene, attributes: Mapping[str, str] = NONE) -> Markup:
        return Markup(to_svg(scene, attributes))

    environment = Environment(
        loader=FileSystemLoader([templates, TEMPLATES]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    environment.globals |= {"css": lambda: Markup(css()), "svg": svg} | dict(functions)
    environment.filters |= dict(filters)
    return environment.get_template(name).render(page=page)
