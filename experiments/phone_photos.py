"""Make a folder of photos as a telephone leaves it, to walk through docs/guide.md with.

    python experiments/phone_photos.py imagenet_sample.zip photos

15 classes of 10 to 45 of ImageNet's images, grouped (hounds, snakes, food, ...): JPEGs of 12 megapixels that lie as the
camera was held (EXIF orientation), some PNG, WebP, GIF and, where pillow-heif is installed, HEIC, and what else such
folders hold (a film, thumbnails, a damaged file). One image of each class goes to photos-new/, unlabelled.
"""

from __future__ import annotations

import io
import random
import sys
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageOps

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":  # started as a script: the packages lie beside this folder
    sys.path[0] = str(ROOT)

from proxyless_arch.base import settings  # noqa: E402
from proxyless_arch.base.cli import exit_code  # noqa: E402
from proxyless_arch.base.errors import InputError  # noqa: E402
from proxyless_arch.base.settings import REQUIRED, setting  # noqa: E402

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


def _new_folder(path: Path) -> Path:
    """A setting's check: neither it nor its neighbour for the unlabelled photos is there."""
    for folder in (path, unlabelled(path)):
        if folder.exists():
            raise InputError(f"expected a folder to be made, got {str(folder)!r}, which is there")
    return path


def _archive(path: Path) -> Path:
    """A setting's check: a .zip that is there."""
    if not zipfile.is_zipfile(path):
        raise InputError(f"expected a .zip of class folders, got {str(path)!r}")
    return path


@dataclass(frozen=True, kw_only=True)
class Config:
    """What is made of what."""

    source: Path = setting(
        REQUIRED,
        ".zip of one labelled photo or more in each of ImageNet's class folders",
        is_positional=True,
        metavar="SOURCE",
        check=_archive,
    )
    folder: Path = setting(
        REQUIRED,
        "to be made; FOLDER-new holds the unlabelled ones",
        is_positional=True,
        metavar="FOLDER",
        check=_new_folder,
    )


def unlabelled(folder: Path) -> Path:
    """The folder for the photos without a class."""
    return folder.with_name(f"{folder.name}-new")


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


def _reads_heic() -> bool:
    try:
        import pillow_heif
    except ImportError:
        return False
    pillow_heif.register_heif_opener()
    return True


def make(photos: zipfile.ZipFile, folder: Path, heic: bool) -> None:
    """Write ``folder`` with a folder of each group, and the one beside it for the first photo of each."""
    rng, new = random.Random(0), unlabelled(folder)
    names = sorted(name for name in photos.namelist() if not name.endswith("/"))
    wnids = sorted({Path(name).parent.name for name in names})
    new.mkdir(parents=True)
    for group, (first, last) in GROUPS.items():
        members = [name for name in names if Path(name).parent.name in wnids[first : last + 1]]
        (folder / group).mkdir(parents=True)
        for number, name in enumerate(members):
            with Image.open(io.BytesIO(photos.read(name))) as photo:
                image = photo.convert("RGB")
            place = new if number == 0 else folder / group
            write(image, place / f"IMG_{rng.randrange(10_000):04d}_{number}", rng, heic)


def litter(folder: Path) -> None:
    """What else lies in such folders."""
    (folder / "snakes" / "IMG_0001.MOV").write_bytes(b"\0\0\0\x14ftypqt  ")
    (folder / "food" / "@eaDir").mkdir()
    (folder / "food" / "@eaDir" / "SYNOFILE_THUMB.jpg").write_bytes(b"thumbnail")
    (folder / "food" / "Thumbs.db").write_bytes(b"thumbnails")
    (folder / "hounds" / "IMG_9999.JPG").write_bytes(b"\xff\xd8\xff\xe0 cut off")


def run(argv: Sequence[str]) -> int:
    config = settings.parse(Config, argv, "phone_photos.py", __doc__)
    heic = _reads_heic()
    if not heic:
        print("no HEIC among them: pip install pillow-heif", file=sys.stderr)
    with zipfile.ZipFile(config.source) as photos:
        make(photos, config.folder, heic)
    litter(config.folder)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    return exit_code(run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
