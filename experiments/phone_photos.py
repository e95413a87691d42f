"""Make a folder of photos as a telephone leaves it, to walk through docs/guide.md with.

    python experiments/phone_photos.py imagenet_sample.zip photos

15 classes of 10 to 45 of ImageNet's images, grouped (hounds, snakes, food, ...): JPEGs of 12 megapixels that lie as the
camera was held (EXIF orientation), some PNG, WebP, GIF and, where pillow-heif is installed, HEIC, and what else such
folders hold (a film, thumbnails, a damaged file). One image of each class goes to photos-new/, unlabelled.
"""

from __future__ import annotations

import argparse
import io
import random
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageOps

GROUPS = {
    "songbirds": (10, 24), "lizards": (38, 48), "snakes": (52, 68), "spiders": (69, 78), "game birds": (80, 100),
    "waterbirds": (127, 146), "hounds": (159, 178), "terriers": (179, 202), "gundogs": (205, 222),
    "herding dogs": (223, 254), "cats": (281, 293), "insects": (300, 326), "hoofed animals": (339, 355),
    "monkeys": (365, 384), "food": (924, 969),
}  # fmt: skip
"""``{class: (first, last)}`` of ImageNet's 1000 classes in the order of their wnids."""
HELD = {1: None, 3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
"""``{EXIF orientation: what the sensor saw of an upright scene}``."""
ORIENTATION = 0x0112
PIXELS = 12_000_000


def write(image: Image.Image, path: Path, rng: random.Random, heic: bool) -> None:
    """One photo as ``path`` with the ending of its format."""
    kind = rng.choices(["JPG", "jpg", "png", "webp", "gif", "heic"], [9, 3, 1, 1, 1, 3 if heic else 0])[0]
    path = path.with_suffix(f".{kind}")
    if kind.lower() != "jpg":
        image.save(path)
        return
    scale = (PIXELS / (image.width * image.height)) ** 0.5
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    orientation = rng.choice(list(HELD))
    seen, exif = image, Image.Exif()
    if HELD[orientation] is not None:
        seen = image.transpose(HELD[orientation])
    exif[ORIENTATION] = orientation
    seen.save(path, quality=85, exif=exif)
    with Image.open(path) as written:
        assert ImageOps.exif_transpose(written).size == image.size


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "source", type=Path, help=".zip of one labelled photo or more in each of ImageNet's class folders"
    )
    parser.add_argument("folder", type=Path, help="to be made; FOLDER-new holds the unlabelled ones")
    arguments = parser.parse_args(argv)
    try:
        import pillow_heif

        pillow_heif.register_heif_opener()
        heic = True
    except ImportError:
        heic = False
        print("no HEIC among them: pip install pillow-heif", file=sys.stderr)
    rng, unlabelled = random.Random(0), arguments.folder.with_name(f"{arguments.folder.name}-new")
    unlabelled.mkdir(parents=True)
    with zipfile.ZipFile(arguments.source) as photos:
        names = sorted(name for name in photos.namelist() if not name.endswith("/"))
        wnids = sorted({Path(name).parent.name for name in names})
        for group, (first, last) in GROUPS.items():
            members = [name for name in names if Path(name).parent.name in wnids[first : last + 1]]
            (arguments.folder / group).mkdir(parents=True)
            for number, name in enumerate(members):
                with Image.open(io.BytesIO(photos.read(name))) as photo:
                    image = photo.convert("RGB")
                place = unlabelled if number == 0 else arguments.folder / group
                write(image, place / f"IMG_{rng.randrange(10_000):04d}_{number}", rng, heic)
    (arguments.folder / "snakes" / "IMG_0001.MOV").write_bytes(b"\0\0\0\x14ftypqt  ")
    (arguments.folder / "food" / "@eaDir").mkdir()
    (arguments.folder / "food" / "@eaDir" / "SYNOFILE_THUMB.jpg").write_bytes(b"thumbnail")
    (arguments.folder / "food" / "Thumbs.db").write_bytes(b"thumbnails")
    (arguments.folder / "hounds" / "IMG_9999.JPG").write_bytes(b"\xff\xd8\xff\xe0 cut off")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
