"""How long it takes to read images: a phone's photo, small ones in batches, and to find those of a folder of many.

    python benchmarks/bench_input.py
    python benchmarks/bench_input.py --width 4000 --height 3000 --files 50000

One thread; times are the processor's. The photo is smoothed noise, a JPEG of quality 90; both ways of decoding make the
same crops, in turn. Batches are of 64 images, each way in turn; what is kept (data/prepared.py) was decoded before. The
files of a folder are empty, in 100 class folders, with a usual ending and without one, which has to be looked into.
"""

from __future__ import annotations

import contextlib
import functools
import io
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":  # started as a script: the packages lie beside this folder
    sys.path[0] = str(ROOT)

from benchmarks.turns import circumstances, peak_bytes, stated  # noqa: E402
from proxyless_arch.arch.spec import Preprocessing  # noqa: E402
from proxyless_arch.base import settings  # noqa: E402
from proxyless_arch.base.cli import exit_code  # noqa: E402
from proxyless_arch.base.settings import setting  # noqa: E402
from proxyless_arch.base.text import align  # noqa: E402
from proxyless_arch.base.timing import cpu_ms, in_turn, quartiles  # noqa: E402
from proxyless_arch.data.batches import BatchPlan, read_batch  # noqa: E402
from proxyless_arch.data.datasets import ImageDataset, open_folder  # noqa: E402
from proxyless_arch.data.images import Augment, open_photo, train_transform  # noqa: E402
from proxyless_arch.data.prepared import LIMIT_VARIABLE, Prepared  # noqa: E402
from proxyless_arch.data.shard_writing import write_shards  # noqa: E402

CLASSES = 100
SCANS = 3
BATCH, MANY = 64, 2048
KEPT = {
    "training image of 32 px (PNG, shifts and mirrors)": (32, "PNG", Augment.small(32)),
    "scored image of 32 px (PNG)": (32, "PNG", None),
    "scored image of 224 px (JPEG of 448 px)": (224, "JPEG", None),
}
"""Batches of small images and of photos: side in pixels, kind of file, how they are changed."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """What is read."""

    width: int = setting(4000, "of the photo, in pixels", minimum=64, maximum=9000)
    height: int = setting(3000, "of the photo, in pixels", minimum=64, maximum=9000)
    files: int = setting(50_000, "in the folder", minimum=CLASSES, maximum=2_000_000)
    rounds: int = setting(15, "photos read in each way", minimum=1)
    epochs: int = setting(0, f"over {MANY} small images, whose growth of memory is measured", minimum=0)


def photo(width: int, height: int, seed: int = 0) -> bytes:
    """A JPEG with about as much detail as a photo."""
    noise = np.random.default_rng(seed).integers(0, 256, (height // 10, width // 10, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def reading(config: Config) -> dict[str, list[float]]:
    """ms per photo, by the way of decoding."""
    data, preprocessing = photo(config.width, config.height), Preprocessing()

    def reader(augment: Augment) -> Callable[[], float]:
        rng = np.random.default_rng(0)  # of its own: both ways make the same crops
        return lambda: cpu_ms(lambda: train_transform(open_photo(data, "photo"), preprocessing, rng, augment))

    ways = {"decoded whole": reader(Augment(scaled_decoding=False)), "decoded scaled": reader(Augment())}
    ways["decoded by Pillow alone"] = lambda: cpu_ms(lambda: Image.open(io.BytesIO(data)).convert("RGB"))
    return in_turn(ways, config.rounds, 1)


def kept_images(config: Config, side: int, kind: str, augment: Augment | None) -> dict[str, list[float]]:
    """ms of each image of a batch, in turn: from files, from shards of them, and as they are kept.

    Kept in memory, as before there were files of them, they are changed one by one; kept in a file, all together.
    """
    preprocessing = replace(Preprocessing(), resolution=side, resize=side)
    with tempfile.TemporaryDirectory() as home, _cache_in(home):
        _write_photos(Path(home, "photos"), side * (1 if kind == "PNG" else 2), kind)
        write_shards(str(Path(home, "photos")), Path(home, "shards"), 10**9)
        images, shards = open_folder(Path(home, "photos")), open_folder(Path(home, "shards"))
        in_memory = replace(images, _whole=Prepared(images.source, (), keeps=False))
        (samples,) = BatchPlan(n_images=BATCH, batch_size=BATCH, seed=0).steps(0, 1)

        def reader(dataset: Callable[[], ImageDataset]) -> Callable[[], float]:
            return lambda: cpu_ms(lambda: read_batch(dataset(), preprocessing, augment, 0, samples)) / BATCH

        ways = {
            "from files": reader(images.read_once),
            "from shards": reader(shards.read_once),
            "kept in memory": reader(lambda: in_memory),
            "kept in a file": reader(lambda: images),
        }
        return in_turn(ways, config.rounds, 1)


def memory_over_epochs(epochs: int) -> dict[str, float]:
    """MB that a process grows by over ``epochs`` of small training images behind the first ten, by where they are."""
    preprocessing, augment = replace(Preprocessing(), resolution=32, resize=32), Augment.small(32)
    with tempfile.TemporaryDirectory() as home, _cache_in(home):
        _write_photos(Path(home, "photos"), 32, "PNG", MANY)
        images = open_folder(Path(home, "photos"))
        plan = BatchPlan(n_images=MANY, batch_size=BATCH, seed=0)

        def read(dataset: ImageDataset, first: int, count: int) -> None:
            for samples in plan.steps(first * plan.steps_per_epoch, count * plan.steps_per_epoch):
                read_batch(dataset, preprocessing, augment, 0, samples)

        found = {}
        for name, dataset in (("kept in a file", images), ("from files", images.read_once())):
            read(dataset, 0, 10)
            grown = peak_bytes(functools.partial(read, dataset, 10, epochs))
            found[name] = float("nan") if grown is None else grown / 1e6
        return found


@contextlib.contextmanager
def _cache_in(home: str) -> Iterator[None]:
    before = dict(os.environ)
    os.environ |= {"XDG_CACHE_HOME": home, LIMIT_VARIABLE: "1"}
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _write_photos(folder: Path, side: int, kind: str, count: int = BATCH) -> None:
    """Square images in two class folders."""
    for number in range(count):
        place = folder / str(number % 2) / f"{number:03d}.{kind.lower()}"
        place.parent.mkdir(parents=True, exist_ok=True)
        if kind == "JPEG":
            place.write_bytes(photo(side, side, number))
        else:
            noise = np.random.default_rng(number).integers(0, 256, (side, side, 3), dtype=np.uint8)
            Image.fromarray(noise).save(place)


def finding(n_files: int, ending: str) -> list[float]:
    """ms to open a folder of so many files."""
    with tempfile.TemporaryDirectory() as home:
        for number in range(n_files):
            folder = Path(home, f"{number % CLASSES:03d}")
            folder.mkdir(exist_ok=True)
            (folder / f"{number}{ending}").write_bytes(b"\xff\xd8\xff\xe0")
        return [cpu_ms(lambda: open_folder(home)) for _ in range(SCANS)]


def run(argv: Sequence[str]) -> None:
    config = settings.parse(Config, argv, "bench_input.py", __doc__)
    times = {f"a photo, {name}": ms for name, ms in reading(config).items()}
    for what, how in KEPT.items():
        times |= {f"{what}, {name}": ms for name, ms in kept_images(config, *how).items()}
    times |= {f"{config.files} files{end or ', no ending'}": finding(config.files, end) for end in (".jpg", "")}
    rows = [("", "ms", "quartiles", "a second")]
    for name, ms in times.items():
        middle, low, high = quartiles(ms)
        rows.append((name, f"{middle:.3g}", f"{low:.3g} to {high:.3g}", f"{1000 / middle:.0f}"))
    print(*align(rows), f"{config.width} x {config.height} pixels", sep="\n")
    print(stated(circumstances(["benchmarks/bench_input.py", *argv])))
    for name, grown in memory_over_epochs(config.epochs).items() if config.epochs else ():
        print(f"memory over {config.epochs} epochs of {MANY} images of 32 px, {name}: at most {grown:.1f} MB more")


def main(argv: Sequence[str] | None = None) -> int:
    return exit_code(run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
