"""How much memory steps take, beside what is predicted before a run: peak resident memory, one process per row.

    python benchmarks/memory_use.py
    python benchmarks/memory_use.py --images 32 --save_json memory.json

Needs Linux (/proc). Images are random; none is read. ``predicted`` is what a plan counts with (apps/memory.py), the
first step's own memory included; ``per image`` is the counted part, and measured, from the difference of two batches.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":  # started as a script: the packages lie beside this folder
    sys.path[0] = str(ROOT)

from proxyless_arch.apps.memory import FIRST_STEP_BYTES, HEAP, SCORING_COPIES, SCORING_HEAP  # noqa: E402
from proxyless_arch.arch import catalog  # noqa: E402
from proxyless_arch.arch.memory import BYTES, scoring_bytes, training_bytes  # noqa: E402
from proxyless_arch.arch.walk import total_params, walk  # noqa: E402
from proxyless_arch.base import settings  # noqa: E402
from proxyless_arch.base.cli import exit_code  # noqa: E402
from proxyless_arch.base.errors import LostProcessError  # noqa: E402
from proxyless_arch.base.files import write_json  # noqa: E402
from proxyless_arch.base.machine import cpu_name, tune_allocator  # noqa: E402
from proxyless_arch.base.memory import format_bytes, resident_bytes  # noqa: E402
from proxyless_arch.base.settings import setting  # noqa: E402
from proxyless_arch.base.text import align, ruled  # noqa: E402
from proxyless_arch.base.words import SAVE_JSON, new_file  # noqa: E402
from proxyless_arch.space.mbconv import mbconv_space  # noqa: E402

CASES = (
    "search, weight step",
    "search, architecture step",
    "train efficientnet_lite0",
    "train proxyless_gpu",
    "eval efficientnet_lite0",
    "eval_tf efficientnet_lite0",
)


@dataclass(frozen=True)
class Case:
    """``run`` takes a number of images; ``fixed`` and ``per_image`` are predicted bytes."""

    run: Callable[[int], object]
    fixed: int
    per_image: int


def _search(kind: str) -> Case:
    """A step of the supernet of the ImageNet space at 224 px, on its largest path."""
    import torch
    from torch.nn import functional as F

    from proxyless_nas.steps import sgd
    from search.algorithm.gates import Gate
    from search.algorithm.supernet import Supernet
    from search.run import memory

    tune_allocator()
    space = mbconv_space()
    net, path = Supernet(space, torch.Generator().manual_seed(0)).train(), memory.largest_path(space)
    optimizer = sgd(net, lr=0.01, momentum=0.9, nesterov=True, weight_decay=0.0, no_decay_bn=True)

    def weight_step(count: int) -> None:
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(net(_images(count), path), torch.zeros(count, dtype=torch.int64)).backward()
        optimizer.step()

    def arch_step(count: int) -> None:
        chosen = zip(path, space.choices, strict=True)
        values = [F.one_hot(torch.tensor(choice), len(ops)).float().requires_grad_() for choice, ops in chosen]
        gates = [Gate(tuple(range(len(value))), value) for value in values]
        loss = F.cross_entropy(net(_images(count), path, gates), torch.zeros(count, dtype=torch.int64))
        torch.autograd.grad(loss, values)

    fixed = memory.WEIGHT_COPIES * memory.weight_bytes(space)
    if kind == "weight step":
        return Case(weight_step, fixed, memory.weight_step_bytes(space))
    return Case(arch_step, fixed, memory.arch_step_bytes(space, "full_v2"))


def _images(count: int):
    import torch

    return torch.randn(count, 3, 224, 224).contiguous(memory_format=torch.channels_last)


def _train(name: str) -> Case:
    import torch

    from proxyless_arch.apps.train_settings import Optimization
    from proxyless_nas.network import build
    from proxyless_nas.train.memory import WEIGHT_COPIES
    from proxyless_nas.train.training import Schedule, Training

    spec = catalog.load(name)
    tune_allocator()
    schedule = Schedule(steps_per_epoch=100, n_epochs=1, warmup_epochs=0, init_lr=0.01)
    training = Training(build(spec), Optimization(), schedule, batch_size=2, seed=0)

    def step(count: int) -> None:
        training.batch_size = count
        training.update(_images(count), torch.zeros(count, dtype=torch.int64))

    copies = BYTES * total_params(spec) * (WEIGHT_COPIES + 1)
    return Case(step, copies, int(HEAP * training_bytes(walk(spec), spec.padding)))


def _eval(name: str, tensorflow: bool) -> Case:
    spec = catalog.load(name)
    tune_allocator()
    fixed = SCORING_COPIES * BYTES * total_params(spec)
    per_image = int(SCORING_HEAP * scoring_bytes(walk(spec), spec.padding))
    if tensorflow:
        import numpy as np

        from proxyless_nas_tensorflow.inference import prepared as prepared_tf
        from proxyless_nas_tensorflow.network import build as build_tf

        forward_tf = prepared_tf(build_tf(spec, spec.resolution), "CPU:0", "fp32")
        return Case(lambda count: forward_tf(np.zeros((count, 224, 224, 3), np.float32)), fixed, per_image)
    from proxyless_nas.inference import prepared
    from proxyless_nas.network import build

    forward = prepared(build(spec), "cpu")
    return Case(lambda count: forward(_images(count)), fixed, per_image)


def case_of(label: str) -> Case:
    command, _, what = label.partition(" ")
    if command == "search,":
        return _search(what)
    return _train(what) if command == "train" else _eval(what, command == "eval_tf")


def measured(label: str, images: int) -> dict[str, float]:
    """In this process: bytes that two steps took beyond what there was before the first."""
    case = case_of(label)
    before = resident_bytes()
    assert before is not None
    case.run(images)
    case.run(images)
    peak = resident_bytes(field="VmHWM")
    assert peak is not None
    predicted = FIRST_STEP_BYTES + case.fixed + images * case.per_image
    return {"measured": peak - before, "predicted": predicted, "per_image": case.per_image}


def in_a_process(label: str, images: int) -> dict[str, float]:
    words = [sys.executable, str(Path(__file__).resolve()), "--images", str(images), "--case", label]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise LostProcessError(f"{label}: {done.stderr.strip().splitlines()[-1:]}")
    return json.loads(done.stdout.splitlines()[-1])


@dataclass(frozen=True, kw_only=True)
class MemoryConfig:
    """What memory_use.py is asked to do."""

    images: int = setting(16, "images of the larger batch; the smaller has half", minimum=2)
    case: str | None = setting(None, "only this row, in this process, as JSON", CASES)
    save_json: Path | None = SAVE_JSON.setting(None, metavar="FILE", check=new_file)


def run(argv: Sequence[str]) -> None:
    config = settings.parse(MemoryConfig, argv, "memory_use.py", __doc__)
    if config.case is not None:
        print(json.dumps(measured(config.case, config.images)))
        return
    rows, record = [("step", "images", "measured", "predicted", "per image", "predicted")], []
    for label in CASES:
        few, many = (in_a_process(label, images) for images in (config.images // 2, config.images))
        each = (many["measured"] - few["measured"]) / (config.images - config.images // 2)
        record.append({"step": label, "images": config.images, **many, "measured_per_image": each})
        shown = (format_bytes(value) for value in (many["measured"], many["predicted"]))
        per_image = (f"{value / 1e6:.1f} MB" for value in (each, many["per_image"]))
        rows.append((label, str(config.images), *shown, *per_image))
    print("\n".join(ruled(align(rows))))
    print(cpu_name())
    if config.save_json is not None:
        write_json(config.save_json, {"cpu": cpu_name(), "steps": record})


def main(argv: Sequence[str] | None = None) -> int:
    return exit_code(run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
