"""What a search costs in hours, on 1, 8 and 32 GPUs: simulated from counted work and rates that you give.

    python experiments/search_cost.py
    python experiments/search_cost.py --images 50000 --space small --resolution 32 --gpus 1,8
    python experiments/search_cost.py --check

Counted: the multiply-adds of each step (a weight step takes three times a forward pass of the mean path; an
architecture step of mode full_v2 a forward and a backward pass of the path to its input, and a forward pass of every
other candidate), the bytes of the gradients that processes add up, the images that are read. Assumed: the rates below.
Nothing here was run on a GPU. ``--check`` takes the rate of this machine from a weight step at 32 px, and compares the
steps that follow from it with those that it measures.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":  # started as a script: the packages lie beside this folder
    sys.path[0] = str(ROOT)

from hardware.cost import MACS, price_space  # noqa: E402
from proxyless_arch.arch.memory import BYTES  # noqa: E402
from proxyless_arch.arch.spec import imagenet_preprocessing  # noqa: E402
from proxyless_arch.base import settings  # noqa: E402
from proxyless_arch.base.cli import exit_code  # noqa: E402
from proxyless_arch.base.machine import cpu_name  # noqa: E402
from proxyless_arch.base.settings import setting  # noqa: E402
from proxyless_arch.base.text import align  # noqa: E402
from proxyless_arch.space.named import SPACES, space_named  # noqa: E402
from proxyless_arch.space.search_space import SearchSpace  # noqa: E402

BACKWARD = 2
"""Passes of a training step beside the forward one: the gradients of inputs and of weights."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """What is searched, and how fast the machines are taken to be."""

    images: int = setting(1_281_167, "to train on, architecture-validation images included", minimum=2)
    space: str = setting("imagenet", "which networks there are", tuple(SPACES))
    resolution: int = setting(224, "side of the images in pixels", minimum=8)
    classes: int = setting(1000, "of the images", minimum=2)
    warmup_epochs: int = setting(40, "of training weights alone", minimum=0)
    n_epochs: int = setting(120, "search epochs", minimum=0)
    every: int = setting(5, "weight steps between architecture steps", minimum=1)
    batch_size: int = setting(256, "images of a step on each GPU", minimum=1)
    gpus: str = setting("1,8,32", "how many, between commas")
    gigamacs: float = setting(
        2000.0, "multiply-adds per second of a GPU in such networks, in 1e9: an assumption", minimum=1e-3
    )
    gigabytes: float = setting(10.0, "per second between GPUs: an assumption", minimum=1e-3)
    readers: int = setting(8, "cores that read images beside each GPU", minimum=1)
    ms_per_image: float = setting(4.0, "of a core that reads one: see benchmarks/bench_input.py", minimum=0)
    check: bool = setting(False, "compare with steps that are measured here")


@dataclass(frozen=True)
class Work:
    """Multiply-adds per image of each kind of step; bytes of the weights of a path."""

    weight_step: float
    arch_step: float
    path_bytes: float


def work_of(space: SearchSpace) -> Work:
    """Of a space, on the mean over its paths."""
    table = price_space(space, MACS)
    path = table.uniform_expected
    every_candidate = table.fixed + sum(sum(group) for group in table.groups)
    calls = [sum(call.params for call in group) / len(group) for group in space.edge_calls]
    params = sum(calls) + sum(call.params for call in space.fixed_calls)
    return Work((1 + BACKWARD) * path, every_candidate + path, BYTES * params)


def hours(config: Config, work: Work, gpus: int) -> dict[str, float]:
    """Of computing, of adding gradients up, and of reading, which goes on beside both."""
    epochs = config.warmup_epochs + config.n_epochs
    steps = epochs * config.images / (config.batch_size * gpus)
    arch_steps = config.n_epochs * config.images / (config.batch_size * gpus) / config.every
    macs = config.batch_size * (steps * work.weight_step + arch_steps * work.arch_step)
    exchanged = steps * 2 * (gpus - 1) / gpus * work.path_bytes  # a ring
    read = config.batch_size * (steps + arch_steps) * config.ms_per_image / 1e3 / config.readers
    computing, exchanging = macs / (1e9 * config.gigamacs), exchanged / (1e9 * config.gigabytes)
    return {"computing": computing / 3600, "exchanging": exchanging / 3600, "reading": read / 3600}


def table(config: Config) -> list[str]:
    preprocessing = replace(imagenet_preprocessing(config.resolution), resolution=config.resolution)
    space = space_named(config.space).build(num_classes=config.classes, preprocessing=preprocessing)
    work = work_of(space)
    rows = [("GPUs", "images a step", "hours", "GPU hours", "computing", "exchanging", "reading")]
    for gpus in map(int, config.gpus.split(",")):
        parts = hours(config, work, gpus)
        whole = max(parts["computing"] + parts["exchanging"], parts["reading"])
        shown = (f"{value:.1f}" for value in (whole, whole * gpus, *parts.values()))
        rows.append((str(gpus), str(config.batch_size * gpus), *shown))
    return [
        f"simulated: {config.images} images of {config.resolution} px, "
        f"{config.warmup_epochs} + {config.n_epochs} epochs; assumed: {config.gigamacs:g} 1e9 multiply-adds/s a GPU, "
        f"{config.gigabytes:g} GB/s between them, {config.readers} cores beside each",
        *align(rows, left=()),
    ]


def checked() -> list[str]:
    """Steps of both cases of bench_search.py on this machine: as measured, and by the rate of the first."""
    from statistics import median

    import torch

    from benchmarks.search_steps import CASES, Tasks
    from proxyless_arch.base.timing import cpu_ms

    torch.set_num_threads(1)
    rows, rate = [("step", "measured, ms", "by the model, ms", "ratio")], None
    for case in CASES.values():
        tasks = Tasks(case)
        work = work_of(tasks.space)
        for task, macs in (("weight step", work.weight_step), ("full_v2", work.arch_step)):
            step = tasks.named(task)
            step()
            ms = median(cpu_ms(step) for _ in range(5))
            rate = rate or case.batch * macs / ms
            foretold = case.batch * macs / rate
            rows.append((f"{case.pixels} px, {task}", f"{ms:.0f}", f"{foretold:.0f}", f"{ms / foretold:.2f}"))
    return [*align(rows), f"{cpu_name()}, one thread: {rate / 1e6:.1f} 1e9 multiply-adds/s at first"]  # type: ignore[operator]


def run(argv: Sequence[str]) -> None:
    config = settings.parse(Config, argv, "search_cost.py", __doc__)
    print("\n".join(checked() if config.check else table(config)))


def main(argv: Sequence[str] | None = None) -> int:
    return exit_code(run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
