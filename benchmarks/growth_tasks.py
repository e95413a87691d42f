"""What bench_growth.py times: one thing that grows at a time, of sizes that a CPU bears."""

from __future__ import annotations

import itertools
import os
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hardware.cost import CostTable, price_by, price_space
from hardware.projection import project, window
from proxyless_arch.arch.spec import Preprocessing
from proxyless_arch.arch.walk import total_macs
from proxyless_arch.base.units import Unit
from proxyless_arch.space.mbconv import Macro, Stage, mbconv_space
from proxyless_arch.space.search_space import SearchSpace

Run = Callable[[], object]
CLASS_FOLDERS = 100
PER_SCORING = 64
PROBLEMS = 8


@dataclass(frozen=True)
class Growth:
    """Something timed against how much there is of what it works on.

    ``make``: of a size, (the work in ``of``, what to time). ``most``: the exponent that it may have: 0 where the work
    does not depend on it.
    """

    name: str
    of: str
    sizes: tuple[int, ...]
    make: Callable[[int], tuple[float, Run]]
    most: float = 1.0


def _space(px: int = 16, width: float = 1.0, blocks: int = 2, choices: int = 6, classes: int = 10) -> SearchSpace:
    stages = Stage(24, blocks, 1), Stage(40, blocks, 2)
    macro = Macro(name="growth", stem_width=16, stem_stride=2, first_width=16, stages=stages, mix_width=64)
    kernels = (3, 5, 7)[: max(1, choices // 2)]
    ratios = tuple(range(1, 1 + choices // len(kernels)))
    pixels = Preprocessing(resolution=px, resize=px)
    return mbconv_space(
        macro, width, kernel_sizes=kernels, expand_ratios=ratios, num_classes=classes, preprocessing=pixels
    )


def _search(space: SearchSpace, batch: int) -> Any:
    import torch

    from search.config import SearchConfig
    from search.run.loop import Search, schedule_of

    config = SearchConfig.of(
        data_path="none", dataset="imagefolder", batch_size=batch, target_hardware="flops", warmup_epochs=0
    )
    table = price_space(space, price_by(None))
    schedule = schedule_of(config, 1_000_000 * batch)
    search = Search(config, space, table, table.uniform_expected, schedule, torch.device("cpu"))
    path = space.same_choice(0)
    search.sampled_path = lambda number=0: path  # type: ignore[method-assign]
    return search


def _step(batch: int = 16, **size: Any) -> Run:
    """A weight step of the path of first choices."""
    import torch

    space = _space(**size)
    search, px = _search(space, batch), space.preprocessing.resolution
    images = torch.randn(batch, 3, px, px).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(space.num_classes, (batch,))
    return lambda: search.weight_step(images, labels)


def _macs(**size: Any) -> float:
    space = _space(**size)
    return float(total_macs(space.spec_for(space.same_choice(0))))


def _start(**size: Any) -> Run:
    from search.algorithm.supernet import Supernet

    space = _space(**size)
    return lambda: Supernet(space)


def _scoring(images: int) -> Run:
    """Losses of a path on so many images, as the predictor asks for them."""
    import torch

    from proxyless_nas.steps import evaluate
    from search.run.scoring import ImageLosses, folded

    space = _space()
    supernet, cpu = _search(space, 16).supernet, torch.device("cpu")
    path, px = space.same_choice(0), space.preprocessing.resolution
    forward = folded(supernet, path, supernet.network(path), cpu)
    batch = torch.randn(PER_SCORING, 3, px, px), torch.zeros(PER_SCORING, dtype=torch.int64)
    return lambda: evaluate(forward, itertools.repeat(batch, images // PER_SCORING), cpu, ImageLosses())


def _projection(blocks: int = 20, choices: int = 7) -> Run:
    """The most probable network of a budget in the middle, of PROBLEMS random tables: one may be hard by chance."""
    rng = np.random.default_rng(0)
    problems = []
    for _ in range(PROBLEMS):
        groups = tuple(tuple(sorted(rng.uniform(0.1, 2, choices))) for _ in range(blocks))
        table = CostTable(1.0, groups, Unit.MS, "made up")
        scores = [np.log(rng.dirichlet(np.ones(choices))) for _ in range(blocks)]
        problems.append((scores, [window(table, (table.minimum + table.maximum) / 2)]))
    return lambda: [project(*problem) for problem in problems]


def _report(work: Path, epochs: int) -> Run:
    """The page of a search of so many epochs, from its folder."""
    from search.reporting.report_page import write_report
    from tests.search.made_run import write_run

    folder = work / f"run{epochs}"
    folder.mkdir(exist_ok=True)
    if not (folder / "config.json").exists():
        write_run(folder, epochs=epochs)
    return lambda: write_report(folder)


def _names(count: int) -> Sequence[str]:
    return [f"train/{number % CLASS_FOLDERS:03d}/{number:07d}.jpg" for number in range(count)]


def _folder(work: Path, count: int) -> Path:
    """Class folders with so many names of one small file."""
    home = work / f"images{count}"
    if not home.exists():
        source = work / "one.jpg"
        source.write_bytes(b"\xff\xd8\xff\xd9")
        for number in range(CLASS_FOLDERS):
            (home / "train" / f"{number:03d}").mkdir(parents=True)
        links = [source.with_name(f"one{part}.jpg") for part in range(count // 50_000 + 1)]  # few take more links
        for link in links:
            link.write_bytes(source.read_bytes())
        for number, name in enumerate(_names(count)):
            os.link(links[number // 50_000], home / name)
    return home


def _zip(work: Path, count: int) -> Path:
    """A zip of class folders with so many empty files."""
    file = work / f"images{count}.zip"
    if not file.exists():
        with zipfile.ZipFile(file, "w") as archive:
            for name in _names(count):
                archive.writestr(name, b"\xff\xd8\xff\xd9")
    return file


def _opened(path: Path) -> Run:
    from proxyless_arch.data.datasets import open_folder

    return lambda: open_folder(path, "train")


def _split(count: int) -> Run:
    from proxyless_arch.data.datasets import stratified_split

    labels = np.arange(count) % CLASS_FOLDERS
    return lambda: stratified_split(labels, 0.1, 0)


def growths(work: Path, most_images: int) -> Mapping[str, Growth]:
    """By name. ``work``: a folder for run folders and images."""
    names = tuple(size for size in (1000, 10_000, 100_000, 1_300_000) if size <= most_images)
    linked = tuple(size for size in names if size <= 100_000)
    found = [
        Growth("weight step", "batch", (8, 16, 32, 64), lambda n: (n, _step(n))),
        Growth("weight step", "resolution, MACs", (16, 32, 64), lambda n: (_macs(px=n), _step(px=n))),
        Growth("weight step", "width, MACs", (1, 2, 4), lambda n: (_macs(width=n), _step(width=n))),
        Growth("weight step", "blocks, MACs", (2, 4, 8), lambda n: (_macs(blocks=n), _step(blocks=n))),
        Growth("weight step", "choices", (6, 12, 24), lambda n: (n, _step(choices=n)), most=0.0),
        Growth("weight step", "classes", (10, 100, 1000, 10_000), lambda n: (n, _step(classes=n))),
        Growth("start-up", "choices", (6, 12, 24), lambda n: (n, _start(choices=n))),
        Growth("start-up", "blocks", (2, 4, 8), lambda n: (n, _start(blocks=n))),
        Growth("start-up", "classes", (10, 100, 1000, 10_000), lambda n: (n, _start(classes=n))),
        Growth("scoring", "images", (256, 512, 1024, 2048), lambda n: (n, _scoring(n))),
        Growth("projection", "blocks", (10, 20, 40, 80), lambda n: (n, _projection(blocks=n))),
        Growth("projection", "choices", (4, 8, 16, 32), lambda n: (n, _projection(choices=n))),
        Growth("report", "epochs", (50, 100, 200, 400), lambda n: (n, _report(work, n))),
        Growth("opening a folder", "images", linked, lambda n: (n, _opened(_folder(work, n)))),
        Growth("opening a zip", "images", names, lambda n: (n, _opened(_zip(work, n)))),
        Growth("splitting", "images", names, lambda n: (n, _split(n))),
    ]
    return {f"{each.name} / {each.of}": each for each in found}
