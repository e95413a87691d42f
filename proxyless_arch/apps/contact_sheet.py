"""Images and what is said of them, side by side in one picture."""

from __future__ import annotations

import base64
import importlib.util
import io
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from proxyless_arch.base.errors import InputError
from proxyless_arch.base.files import atomic_path
from proxyless_arch.base.text import shortened
from proxyless_arch.base.words import new_file
from proxyless_arch.drawing.scene import GREY, INK

if TYPE_CHECKING:
    from PIL.Image import Image

SIDE, GAP, LINE, TYPE = 200, 14, 16, 12
"""Pixels: of a thumbnail, between tiles, from line to line, and of the type."""
MOST_COLUMNS, MOST_TILES = 8, 200
URI_SIDE = 128
SUFFIX = ".png"


@dataclass(frozen=True)
class Tile:
    """An image, read when it is drawn, with lines of text below it; the first one is the strongest."""

    image: Callable[[], Image]
    lines: tuple[str, ...]


def picture_file(path: Path) -> Path:
    """A setting's check: a .png file that can be written."""
    if path.suffix.lower() != SUFFIX:
        raise InputError(f"expected a file that ends in {SUFFIX}, got {str(path)!r}")
    return new_file(path)


def write_contact_sheet(tiles: Sequence[Tile], path: Path) -> int:
    """Draw the first MOST_TILES of ``tiles`` in rows; returns how many. Raises OSError when it cannot be written."""
    from PIL import Image, ImageDraw

    tiles = tiles[:MOST_TILES]
    columns = min(MOST_COLUMNS, max(1, math.ceil(math.sqrt(1.5 * len(tiles)))))
    height = SIDE + 6 + LINE * max((len(tile.lines) for tile in tiles), default=0)
    size = [GAP + count * (length + GAP) for count, length in ((columns, SIDE), (-(-len(tiles) // columns), height))]
    sheet = Image.new("RGB", (size[0], size[1]), "white")
    draw, font = ImageDraw.Draw(sheet), _font()
    for tile, (left, top) in zip(tiles, _places(columns, height), strict=False):
        small = thumbnail(tile.image())
        sheet.paste(small, (left + (SIDE - small.width) // 2, top + (SIDE - small.height) // 2))
        for row, line in enumerate(tile.lines):
            place = (left, top + SIDE + 6 + row * LINE)
            draw.text(place, shortened(line, font.getlength, SIDE), fill=GREY if row else INK, font=font)
    with atomic_path(path) as temporary:
        sheet.save(temporary, format="PNG")
    return len(tiles)


def _places(columns: int, height: int) -> Iterator[tuple[int, int]]:
    number = 0
    while True:
        row, column = divmod(number, columns)
        yield GAP + column * (SIDE + GAP), GAP + row * (height + GAP)
        number += 1


def thumbnail(image: Image, side: int = SIDE) -> Image:
    """The whole image so that its longer side has ``side`` pixels; one that is smaller is magnified in whole steps."""
    from PIL import Image

    longer = max(image.size)
    if longer <= side // 2:
        factor = side // longer
        return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    scale = side / longer
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0)


def picture_uri(image: Image, side: int = URI_SIDE) -> str:
    """A small copy of an image as a data: address of a page."""
    content = io.BytesIO()
    thumbnail(image, side).save(content, format="JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(content.getvalue()).decode()}"


def _font() -> Any:
    """A font with the letters of most languages where matplotlib, which brings one, is installed; else Pillow's."""
    from PIL import ImageFont

    found = importlib.util.find_spec("matplotlib")
    if found is not None and found.origin is not None:
        file = Path(found.origin).parent / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf"
        if file.is_file():
            return ImageFont.truetype(str(file), TYPE)
    return ImageFont.load_default(TYPE)
