"""How long it takes to read images: a phone's photo, small ones in batches, and to find those of a folder of many.

    python benchmarks/bench_input.py
    python benchmarks/bench_input.py --width 4000 --height 3000 --files 50000

One thread. The photo is smoothed noise, a JPEG of quality 90; both ways of decoding make the same crops, in turn. The
files are empty, in 100 class folders, with a usual ending and without one, which has to be looked into.
"""

from __future__ import annotations

import io
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":  # started as a script: the packages lie beside this folder
    sys.path[0] = str(ROOT)

from proxyless_arch.arch.spec import Preprocessing  # noqa: E402
from proxyless_arch.base import settings  # noqa: E402
from proxyless_arch.base.cli import exit_code  # noqa: E402
from proxyless_arch.base.machine import cpu_name  # noqa: E402
from proxyless_arch.base.settings import setting  # noqa: E402
from proxyless_arch.base.text import align  # noqa: E402
from proxyless_arch.base.timing import in_turn, quartiles, wall_ms  # noqa: E402
from proxyless_arch.data.batches import BatchPlan, read_batch  # noqa: E402
from proxyless_arch.data.datasets import ImageDataset, open_folder  # noqa: E402
from proxyless_arch.data.images import Augment, open_photo, train_transform  # noqa: E402

CLASSES = 100
SCANS = 3
SMALL, SMALL_BATCH = 32, 64


@dataclass(frozen=True, kw_only=True)
class Config:
    """What is read."""

    width: int = setting(4000, "of the photo, in pixels", minimum=64, maximum=9000)
    height: int = setting(3000, "of the photo, in pixels", minimum=64, maximum=9000)
    files: int = setting(50_000, "in the folder", minimum=CLASSES, maximum=2_000_000)
    rounds: int = setting(15, "photos read in each way", minimum=1)


def photo(width: int, height: int) -> bytes:
    """A JPEG with about as much detail as a photo."""
    noise = np.random.default_rng(0).integers(0, 256, (height // 10, width // 10, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def reading(config: Config) -> dict[str, list[float]]:
    """ms per photo, by the way of decoding."""
    data, preprocessing = photo(config.width, config.height), Preprocessing()

    def reader(augment: Augment) -> Callable[[], float]:
        rng = np.random.default_rng(0)  # of its own: both ways make the same crops
        return lambda: wall_ms(lambda: train_transform(open_photo(data, "photo"), preprocessing, rng, augment))

    ways = {"decoded whole": reader(Augment(scaled_decoding=False)), "decoded scaled": reader(Augment())}
    ways["decoded by Pillow alone"] = lambda: wall_ms(lambda: Image.open(io.BytesIO(data)).convert("RGB"))
    return in_turn(ways, config.rounds, 1)


def small_images(config: Config) -> dict[str, list[float]]:
    """ms of each of SMALL_BATCH images of SMALL pixels: from files in class folders, and as they are kept decoded."""
    preprocessing = replace(Preprocessing(), resolution=SMALL, resize=SMALL)
    noise = np.random.default_rng(0).integers(0, 256, (SMALL_BATCH, SMALL, SMALL, 3), dtype=np.uint8)
    with tempfile.TemporaryDirectory() as home:
        for number, pixels in enumerate(noise):
            folder = Path(home, str(number % 2))
            folder.mkdir(exist_ok=True)
            Image.fromarray(pixels).save(folder / f"{number:03d}.png")
        kept = open_folder(home)
        (samples,) = BatchPlan(n_images=SMALL_BATCH, batch_size=SMALL_BATCH, seed=0).steps(0, 1)

        def reader(dataset: Callable[[], ImageDataset]) -> Callable[[], float]:
            def read() -> object:
                return read_batch(dataset(), preprocessing, Augment.small(SMALL), 0, samples)

            return lambda: wall_ms(read) / SMALL_BATCH

        return in_turn(
            {"from its file": reader(kept.read_once), "decoded before": reader(lambda: kept)}, config.rounds, 1
        )


def finding(n_files: int, ending: str) -> list[float]:
    """ms to open a folder of so many files."""
    with tempfile.TemporaryDirectory() as home:
        for number in range(n_files):
            folder = Path(home, f"{number % CLASSES:03d}")
            folder.mkdir(exist_ok=True)
            (folder / f"{number}{ending}").write_bytes(b"\xff\xd8\xff\xe0")
        return [wall_ms(lambda: open_folder(home)) for _ in range(SCANS)]


def run(argv: Sequence[str]) -> None:
    config = settings.parse(Config, argv, "bench_input.py", __doc__)
    times = {f"a photo, {name}": ms for name, ms in reading(config).items()}
    times |= {f"one of {SMALL_BATCH} images of {SMALL} px, {name}": ms for name, ms in small_images(config).items()}
    times |= {f"{config.files} files{end or ', no ending'}": finding(config.files, end) for end in (".jpg", "")}
    rows = [("", "ms", "quartiles")]
    for name, ms in times.items():
        middle, low, high = quartiles(ms)
        rows.append((name, f"{middle:.3g}", f"{low:.3g} to {high:.3g}"))
    print("\n".join([*align(rows), f"{config.width} x {config.height} pixels, {cpu_name()}"]))


def main(argv: Sequence[str] | None = None) -> int:
    return exit_code(run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
