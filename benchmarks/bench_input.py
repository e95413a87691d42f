"""How long it takes to read images: a phone's photo, small ones in batches, and to find those of a folder of many.

    python benchmarks/bench_input.py
    python benchmarks/bench_input.py --width 4000 --height 3000 --files 50000

One thread; times are the processor's. The photo is smoothed noise, a JPEG of quality 90; both ways of decoding make the
same crops, in turn. Batches are of 64 images, each way in turn; what is kept (data/prepared.py) was decoded before. The
files of a folder are empty, in 100 class folders, with a usual ending and without one, which has to be looked into.

Two ratios should be at least so much: a photo is read at FEEDS_DECODING of the rate at which Pillow alone decodes it,
and a core reads small images at FEEDS_STEPS times the rate at which a weight step of the search takes them, in turn
with it. The exit status is 1 where one is not.
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
from typing import Any

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":  # started as a script: the packages lie beside this folder
    sys.path[0] = str(ROOT)

from benchmarks.search_steps import CASES, WEIGHT, Tasks  # noqa: E402
from benchmarks.turns import circumstances, median_of, peak_bytes, stated, verdict  # noqa: E402
from proxyless_arch.arch.spec import Preprocessing  # noqa: E402
from proxyless_arch.base import settings  # noqa: E402
from proxyless_arch.base.cli import exit_code  # noqa: E402
from proxyless_arch.base.files import write_json  # noqa: E402
from proxyless_arch.base.settings import setting  # noqa: E402
from proxyless_arch.base.text import align  # noqa: E402
from proxyless_arch.base.timing import cpu_ms, in_turn, quartiles  # noqa: E402
from proxyless_arch.base.words import SAVE_JSON, new_file  # noqa: E402
from proxyless_arch.data.batches import BatchPlan, read_batch  # noqa: E402
from proxyless_arch.data.datasets import ImageDataset, open_folder  # noqa: E402
from proxyless_arch.data.images import Augment, open_photo, train_transform  # noqa: E402
from proxyless_arch.data.prepared import LIMIT_VARIABLE, Prepared  # noqa: E402
from proxyless_arch.data.shard_writing import write_shards  # noqa: E402

CLASSES = 100
SCANS = 3
BATCH, MANY = 64, 2048
FEEDS_DECODING, FEEDS_STEPS = 0.85, 2.0
WHOLE, SCALED, BARE = "decoded whole", "decoded scaled", "decoded by Pillow alone"
KEPT = {
    "training image of 32 px (PNG, shifts and mirrors)": (32, "PNG", Augment.small(32)),
    "scored image of 32 px (PNG)": (32, "PNG", None),
    "scored image of 224 px (JPEG of 448 px)": (224, "JPEG", None),
}
"""Batches of small images and of photos: side in pixels, kind of file, how they are changed."""
IN_A_FILE, STEP = "kept in a file", "trained on by a weight step"


@dataclass(frozen=True, kw_only=True)
class Config:
    """What is read."""

    width: int = setting(4000, "of the photo, in pixels", minimum=64, maximum=9000)
    height: int = setting(3000, "of the photo, in pixels", minimum=64, maximum=9000)
    files: int = setting(50_000, "in the folder", minimum=CLASSES, maximum=2_000_000)
    rounds: int = setting(15, "photos read in each way", minimum=1)
    epochs: int = setting(0, f"over {MANY} small images, whose growth of memory is measured", minimum=0)
    save_json: Path | None = SAVE_JSON.setting(None, metavar="FILE", check=new_file)


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

    ways = {WHOLE: reader(Augment(scaled_decoding=False)), SCALED: reader(Augment())}
    ways[BARE] = lambda: cpu_ms(lambda: Image.open(io.BytesIO(data)).convert("RGB"))
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
            IN_A_FILE: reader(lambda: images),
        }
        if augment is not None:  # what such images are for
            step = Tasks(CASES["32"], "cpu").named(WEIGHT)
            ways[STEP] = lambda: cpu_ms(step) / CASES["32"].batch
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


def judged(times: dict[str, list[float]]) -> list[dict[str, Any]]:
    """The two ratios, each of the rounds of one sitting."""
    small = next(iter(KEPT))
    rows = []
    for ours, other, least in (
        (f"a photo, {SCALED}", f"a photo, {BARE}", FEEDS_DECODING),
        (f"{small}, {IN_A_FILE}", f"{small}, {STEP}", FEEDS_STEPS),
    ):
        ratio = median_of(np.array(times[other]) / np.array(times[ours]))
        judgement = verdict(ratio, least, is_least=True)
        rows.append({"rate": ours, "over": other, "ratio": ratio._asdict(), "at_least": least, "verdict": judgement})
    return rows


def run(argv: Sequence[str]) -> int:
    config = settings.parse(Config, argv, "bench_input.py", __doc__)
    import torch

    torch.set_num_threads(1)
    times = {f"a photo, {name}": ms for name, ms in reading(config).items()}
    for what, how in KEPT.items():
        times |= {f"{what}, {name}": ms for name, ms in kept_images(config, *how).items()}
    times |= {f"{config.files} files{end or ', no ending'}": finding(config.files, end) for end in (".jpg", "")}
    rows = [("", "ms", "quartiles", "a second")]
    shown = {name: quartiles(ms) for name, ms in times.items()}
    for name, (middle, low, high) in shown.items():
        rows.append((name, f"{middle:.3g}", f"{low:.3g} to {high:.3g}", f"{1000 / middle:.0f}"))
    verdicts = judged(times)
    print(*align(rows), f"{config.width} x {config.height} pixels", "", sep="\n")
    for row in verdicts:
        ratio = row["ratio"]
        print(
            f"rate of {row['rate']}, over {row['over']}: {ratio['median']:.2f} ({ratio['low']:.2f} to "
            f"{ratio['high']:.2f}), at least {row['at_least']:g}: {row['verdict']}"
        )
    grown = memory_over_epochs(config.epochs) if config.epochs else {}
    for name, megabytes in grown.items():
        print(f"memory over {config.epochs} epochs of {MANY} images of 32 px, {name}: at most {megabytes:.1f} MB more")
    record = circumstances(["benchmarks/bench_input.py", *argv])
    print(stated(record))
    if config.save_json is not None:
        ms = {name: dict(zip(("median", "low", "high"), each, strict=True)) for name, each in shown.items()}
        facts = {"pixels": [config.width, config.height], "rounds": config.rounds, "ms": ms, "ratios": verdicts}
        write_json(config.save_json, {**record, **facts, "grown_mb": grown})
    return 1 if any(row["verdict"] == "MISSED" for row in verdicts) else 0


def main(argv: Sequence[str] | None = None) -> int:
    return exit_code(run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
