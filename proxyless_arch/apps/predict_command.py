"""What predict.py and predict_tf.py share: the flags, the images, the table and the files. No framework in here."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from proxyless_arch.apps.contact_sheet import Tile, picture_file, write_contact_sheet
from proxyless_arch.apps.evaluation import (
    Network,
    RunConfig,
    Setup,
    UnreadablePlaces,
    record_header,
    save_record,
    settled,
)
from proxyless_arch.apps.prediction import TOP, Prediction, as_record, most_likely
from proxyless_arch.arch.spec import ArchSpec
from proxyless_arch.base import settings
from proxyless_arch.base.cli import FAILED
from proxyless_arch.base.errors import InputError
from proxyless_arch.base.files import write_text, writing
from proxyless_arch.base.settings import REQUIRED, setting
from proxyless_arch.base.strict import counted
from proxyless_arch.base.text import align, in_one_line, labeled
from proxyless_arch.base.words import SAVE_JSON, new_file
from proxyless_arch.data.datasets import ImageDataset
from proxyless_arch.data.unlabelled import images_at

FORMAT, VERSION = "proxyless-arch/predictions", 1
WHICH, SHOWN = "which images", "what is shown and written"
FEW_IMAGES = 10
"""So many are shown with all their classes, more in one line each."""
OFTEN = 5


@dataclass(frozen=True, kw_only=True)
class PredictConfig(RunConfig):
    """What predict.py and predict_tf.py are asked to do."""

    images: tuple[str, ...] = setting(
        REQUIRED,
        "images, folders (all images below them) and .zip files of images",
        is_positional=True,
        group=WHICH,
        metavar="IMAGE_OR_FOLDER",
        common=True,
    )
    top: int = setting(TOP, "classes of each image", group=SHOWN, minimum=1, common=True)
    save_json: Path | None = SAVE_JSON.setting(None, group=SHOWN, metavar="FILE", check=new_file, common=True)
    csv: Path | None = setting(
        None, "write one line per image to this file", group=SHOWN, metavar="FILE", check=new_file, common=True
    )
    sheet: Path | None = setting(
        None,
        "draw the images with their classes: a .png file",
        group=SHOWN,
        metavar="FILE",
        check=picture_file,
        common=True,
    )


def parse(argv: Sequence[str] | None, prog: str, description: str | None) -> PredictConfig:
    """The command line of both scripts. Raises InputError naming the flag."""
    return settled(settings.parse(PredictConfig, argv, prog, description))


def open_images(arguments: PredictConfig) -> ImageDataset:
    """The images that are named (see images_at). Raises InputError at the path."""
    return images_at(arguments.images).read_once()


@dataclass(frozen=True)
class Seen:
    """An image, by where it is and by its index, and its most likely classes, the most likely first."""

    place: str
    index: int
    best: Sequence[Prediction]


def predict_all(
    logits_of: Callable[[Any], np.ndarray],
    batches: Iterable[tuple[Any, Any]],
    images: ImageDataset,
    spec: ArchSpec,
    top: int,
) -> list[Seen]:
    """What a network sees in each image that can be read, in order.

    Args:
        logits_of: (N, classes) logits of a batch of images.
        batches: of (images, indices): see images_at.
        images: all of them.
        spec: the network's.
        top: how many classes of each.
    """
    return [
        Seen(images.place(index), index, most_likely(row, spec, top))
        for pixels, indices in batches
        for index, row in zip(np.asarray(indices).tolist(), logits_of(pixels), strict=True)
    ]


def report(
    arguments: PredictConfig,
    argv: Sequence[str],
    network: Network,
    setup: Setup,
    images: ImageDataset,
    seen: Sequence[Seen],
    unreadable: UnreadablePlaces,
) -> int:
    """Print the table and write the files that were asked for; returns FAILED where an image could not be read.

    Raises:
        InputError: not one image could be read, or a file cannot be written.
    """
    left_out = unreadable.places
    if not seen:
        raise InputError(f"none of {counted(len(images), 'image')} can be read: {_some(left_out)}")
    print("", *table(seen), "", sep="\n")
    if len(seen) > FEW_IMAGES:
        print(labeled("classes", most_often(seen)))
    for line in images.left_out.lines():
        print(labeled("note", line))
    if left_out:
        print(labeled("left out", f"{counted(len(left_out), 'unreadable image')}: {_some(left_out)}"))
    if arguments.save_json is not None:
        record = record_header(network, setup, argv, FORMAT, VERSION)
        record |= {"images": [{"image": one.place, "top": as_record(one.best)} for one in seen]}
        save_record(arguments.save_json, record | {"unreadable": list(left_out)})
    if arguments.csv is not None:
        with writing(arguments.csv):
            write_text(arguments.csv, csv_text(seen, left_out, min(arguments.top, network.spec.num_classes)))
        print(labeled("table", arguments.csv))
    if arguments.sheet is not None:
        print(labeled("sheet", draw_sheet(seen, images, arguments.sheet)))
    return FAILED if left_out else 0


def _some(places: Sequence[str]) -> str:
    """The first few of ``places``."""
    return ", ".join(places[:3]) + (", ..." if len(places) > 3 else "")


def table(seen: Sequence[Seen]) -> list[str]:
    """Lines for a terminal: of few images all classes, of many the two most likely ones in one line."""
    if len(seen) > FEW_IMAGES:
        cells = [[cell for one in image.best[:2] for cell in (_percent(one), one.name)] for image in seen]
        return align([(in_one_line(one.place), *row) for one, row in zip(seen, cells, strict=True)], left=(0, 2, 4))
    rows = [
        (in_one_line(one.place) if rank == 0 else "", _percent(prediction), prediction.name)
        for one in seen
        for rank, prediction in enumerate(one.best)
    ]
    return align(rows, left=(0, 2))


def _percent(prediction: Prediction) -> str:
    return f"{100 * prediction.probability:.1f} %"


def most_often(seen: Sequence[Seen]) -> str:
    """The classes that most images are taken for: ``daisy 12, bee 3``."""
    counts = Counter(one.best[0].name for one in seen)
    more = f" and {len(counts) - OFTEN} more" if len(counts) > OFTEN else ""
    return ", ".join(f"{name} {count}" for name, count in counts.most_common(OFTEN)) + more


def csv_text(seen: Sequence[Seen], left_out: Sequence[str], top: int) -> str:
    """One line per image: where it is, then name and percentage of each class; both empty where it cannot be read."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    ranks = ["", *(f"_{rank}" for rank in range(2, top + 1))]
    writer.writerow(["image", *(f"{column}{rank}" for rank in ranks for column in ("class", "percent"))])
    for one in seen:
        cells = [cell for each in one.best for cell in (each.name, f"{100 * each.probability:.3f}")]
        writer.writerow([one.place, *cells])
    writer.writerows([place, *[""] * (2 * top)] for place in left_out)
    return text.getvalue()


def draw_sheet(seen: Sequence[Seen], images: ImageDataset, path: Path) -> str:
    """Draw the images with their two most likely classes; returns what was written, for a person."""
    tiles = [
        Tile(
            image=partial(images.read, one.index, upright=True),
            lines=(*(f"{_percent(each)}  {each.name}" for each in one.best[:2]), Path(one.place).name),
        )
        for one in seen
    ]
    with writing(path):
        drawn = write_contact_sheet(tiles, path)
    return str(path) if drawn == len(tiles) else f"{path}: the first {drawn} of {len(tiles)} images"
