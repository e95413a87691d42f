"""How much faster eval.py and eval_tf.py run a network on a CPU than the plain frameworks do.

    python benchmarks/bench_eval.py
    python benchmarks/bench_eval.py --arch proxyless_cpu --batch_size 8 --threads 2 --save_json speed.json

Forward passes only; no image is read. The variants take turns, one batch each, so that whatever else the machine does
falls on all of them; a ratio is taken within a round, and the table gives its median and range. Weights are random:
they do not change the time. Peers, of which nothing is promised: the same network of pytorchcv 0.0.67, where that is
installed (the extra [compare]), and Keras Applications' MobileNetV2, another network of about that size. The exit
status is 1 when a ratio's low end or the agreement of the float32 logits misses what is expected (of the ratios at
batch 32 only); the record, which is written all the same, lists what did.
"""

from __future__ import annotations

import contextlib
import functools
import json
import math
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":  # started as a script: the packages lie beside this folder
    sys.path[0] = str(ROOT)

from benchmarks.turns import circumstances, stated  # noqa: E402
from proxyless_arch.arch import catalog  # noqa: E402
from proxyless_arch.arch.spec import ArchSpec  # noqa: E402
from proxyless_arch.arch.tensors import expected_tensors  # noqa: E402
from proxyless_arch.base import settings  # noqa: E402
from proxyless_arch.base.cli import exit_code  # noqa: E402
from proxyless_arch.base.errors import LostProcessError  # noqa: E402
from proxyless_arch.base.files import write_json  # noqa: E402
from proxyless_arch.base.machine import tune_allocator  # noqa: E402
from proxyless_arch.base.settings import setting  # noqa: E402
from proxyless_arch.base.sides import height_width  # noqa: E402
from proxyless_arch.base.text import align  # noqa: E402
from proxyless_arch.base.timing import in_turn, wall_ms  # noqa: E402
from proxyless_arch.base.words import BATCH_SIZE, SAVE_JSON, THREADS, new_file  # noqa: E402
from proxyless_arch.weights.files import NamedTensors  # noqa: E402

Forward = Callable[[np.ndarray], np.ndarray]
"""(N, H, W, 3) float32 images -> (N, classes) logits."""

PEERS = {
    "proxyless_cpu": "proxylessnas_cpu",
    "proxyless_gpu": "proxylessnas_gpu",
    "proxyless_mobile": "proxylessnas_mobile",
    "proxyless_mobile_14": "proxylessnas_mobile14",
}
"""pytorchcv's names of our networks."""
OTHERS = CV, MOBILENET = "pytorchcv", "Keras MobileNetV2"
# One process each, because the allocator's settings belong to the process: (framework, allocator tuned) -> variants.
PROCESSES: Mapping[tuple[str, bool], tuple[str, ...]] = {
    ("torch", False): ("torch plain", CV),
    ("torch", True): ("torch plain tuned", "eval.py", "eval.py bf16"),
    ("tensorflow", False): ("tf.function", MOBILENET),
    ("tensorflow", True): ("eval_tf.py", "eval_tf.py bf16"),
}
RATIOS = (
    ("eval.py", "torch plain", 3.0),
    ("eval.py", "torch plain tuned", 1.4),
    ("eval.py bf16", "torch plain", None),
    ("eval_tf.py", "tf.function", 0.9),
    ("eval_tf.py bf16", "eval_tf.py", None),
    ("eval.py", CV, None),
    ("eval_tf.py", MOBILENET, None),
)
"""(variant, compared with, the factor it should at least have at PROMISED_BATCH)."""
PROMISED_BATCH = 32
"""The factors are promised for this batch size; the allocator, for one, matters less at smaller ones."""
TOLERANCE = 1e-4
"""Largest difference of a float32 variant's logits from the plain framework's."""


def random_tensors(spec: ArchSpec) -> NamedTensors:
    """Weights that keep the activations' size, with batch normalization that is not the identity."""
    generator = np.random.default_rng(0)
    tensors: NamedTensors = {}
    for name, shape in expected_tensors(spec).items():
        if len(shape) > 1:
            tensors[name] = generator.normal(scale=np.prod(shape[1:]) ** -0.5, size=shape).astype(np.float32)
        elif name.endswith(("bn.weight", "running_var")):
            tensors[name] = generator.uniform(0.5, 1.5, shape).astype(np.float32)
        else:
            tensors[name] = generator.normal(scale=0.1, size=shape).astype(np.float32)
    return tensors


# ------------------------------------------------------------------------------------------------ in a child process


def torch_variants(spec: ArchSpec) -> dict[str, Forward]:
    import torch

    from proxyless_nas.inference import prepared
    from proxyless_nas.network import build
    from proxyless_nas.weights import load_named

    net = build(spec).eval()
    load_named(net, spec, random_tensors(spec))
    fast, half = prepared(net, "cpu"), prepared(net, "cpu", "bf16")
    net = net.to(memory_format=torch.contiguous_format)

    def nchw(images: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(images).permute(0, 3, 1, 2)

    def plain(images: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return net(nchw(images).contiguous()).numpy()

    return {
        "torch plain": plain,
        "torch plain tuned": plain,
        "eval.py": lambda images: fast(nchw(images)).numpy(),
        "eval.py bf16": lambda images: half(nchw(images)).numpy(),
        **_peer_of(spec, nchw),
    }


def _peer_of(spec: ArchSpec, nchw: Callable[[np.ndarray], Any]) -> dict[str, Forward]:
    """pytorchcv's network of the same name, as its users call it, where that is installed."""
    import torch

    try:
        from pytorchcv.model_provider import get_model
    except ImportError:
        return {}
    if spec.name not in PEERS:
        return {}
    peer = get_model(PEERS[spec.name], pretrained=False).eval()

    def forward(images: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return peer(nchw(images).contiguous()).numpy()

    return {CV: forward}


def tensorflow_variants(spec: ArchSpec) -> dict[str, Forward]:
    import proxyless_nas_tensorflow  # noqa: F401  (imports TensorFlow silently)

    # isort: split
    import tensorflow as tf

    from proxyless_nas_tensorflow.inference import prepared
    from proxyless_nas_tensorflow.network import build
    from proxyless_nas_tensorflow.weights import load_named

    net = build(spec, spec.resolution)
    load_named(net, spec, random_tensors(spec))
    bare = tf.function(lambda images: net(images, training=False), autograph=False)
    fast, half = prepared(net, "CPU:0"), prepared(net, "CPU:0", "bf16")
    shape = (*height_width(spec.resolution), 3)
    peer = tf.keras.applications.MobileNetV2(input_shape=shape, weights=None, classes=spec.num_classes)
    bare_peer = tf.function(lambda images: peer(images, training=False), autograph=False)
    return {
        "tf.function": lambda images: np.asarray(bare(images)),
        "eval_tf.py": lambda images: np.asarray(fast(images)),
        "eval_tf.py bf16": lambda images: np.asarray(half(images)),
        MOBILENET: lambda images: np.asarray(bare_peer(images)),
    }


def serve(framework: str, tuned: bool, arch: str, batch_size: int) -> None:
    """For every variant's name on standard input: run one batch and print its milliseconds."""
    if tuned:
        tune_allocator()
    spec = catalog.load(arch)
    every = {"torch": torch_variants, "tensorflow": tensorflow_variants}[framework](spec)
    images = np.random.default_rng(1).normal(size=(batch_size, spec.resolution, spec.resolution, 3)).astype(np.float32)
    reference = next(iter(every.values()))(images)
    mine = [name for name in PROCESSES[framework, tuned] if name in every]
    differences = {name: float(np.abs(every[name](images) - reference).max()) for name in mine if name not in OTHERS}
    print(json.dumps({"variants": mine, "differences": differences, "logit_std": float(reference.std())}), flush=True)
    for line in sys.stdin:
        print(wall_ms(functools.partial(every[line.strip()], images)), flush=True)


# ----------------------------------------------------------------------------------------------------- in the parent


@contextlib.contextmanager
def child(arguments: SpeedConfig, framework: str, tuned: bool) -> Iterator[subprocess.Popen[str]]:
    serving = ["--serve", framework, str(int(tuned))]
    sizes = ["--arch", arguments.arch, "--batch_size", str(arguments.batch_size)]
    threads = {name: str(arguments.threads) for name in ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS")}
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__).resolve()), *serving, *sizes],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **threads},
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def ask(process: subprocess.Popen[str], question: str | None = None) -> str:
    assert process.stdin is not None and process.stdout is not None
    if question is not None:
        print(question, file=process.stdin, flush=True)
    answer = process.stdout.readline()
    if not answer:
        raise LostProcessError("a measuring process ended early; its error is above")
    return answer


def asked_ms(process: subprocess.Popen[str], name: str) -> float:
    """What one batch of a variant takes in its process."""
    return float(ask(process, name))


def measure(arguments: SpeedConfig) -> tuple[dict[str, list[float]], dict[str, float], dict[str, float]]:
    """({variant: ms of each round}, {variant: largest logit difference}, {framework: logit std}).

    A peer that is not installed is in none of them, and one that is has other weights: no difference.
    """
    differences: dict[str, float] = {}
    deviations: dict[str, float] = {}
    takers: dict[str, Callable[[], float]] = {}
    with contextlib.ExitStack() as stack:
        children = {key: stack.enter_context(child(arguments, *key)) for key in PROCESSES}
        for key, process in children.items():
            ready = json.loads(ask(process))
            differences |= ready["differences"]
            deviations[key[0]] = ready["logit_std"]
            takers |= {name: functools.partial(asked_ms, process, name) for name in ready["variants"]}
        times = in_turn(takers, arguments.rounds, arguments.warmup)
    return times, differences, deviations


def spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": round(statistics.median(values), 3), "low": round(min(values), 3), "high": round(max(values), 3)}


@dataclass(frozen=True, kw_only=True)
class SpeedConfig:
    """What bench_eval.py is asked to do."""

    arch: str = setting("proxyless_mobile", "a known network", catalog.known_names(), aliases=("-a",))
    batch_size: int = BATCH_SIZE.setting(32, minimum=1)
    threads: int = THREADS.setting(1, ", of every variant", minimum=1, maximum=1024)
    rounds: int = setting(9, "timings of every variant", minimum=1)
    warmup: int = setting(2, "rounds that are not counted")
    save_json: Path | None = SAVE_JSON.setting(None, metavar="FILE", check=new_file)
    serve: tuple[str, str] | None = setting(None, "of the processes that this one starts: FRAMEWORK TUNED")


def run(argv: Sequence[str]) -> int:
    """The exit status."""
    arguments = settings.parse(SpeedConfig, argv, "bench_eval.py", __doc__)
    if arguments.serve:
        framework, tuned = arguments.serve
        serve(framework, tuned == "1", arguments.arch, arguments.batch_size)
        return 0
    times, differences, deviations = measure(arguments)
    per_image = {
        name: spread([value / arguments.batch_size for value in values])
        | {"largest_difference": differences[name] if math.isfinite(differences.get(name, math.inf)) else None}
        for name, values in times.items()
    }
    ratios = [
        {"variant": name, "over": base, "at_least": least if arguments.batch_size == PROMISED_BATCH else None}
        | spread([slow / fast for fast, slow in zip(times[name], times[base], strict=True)])
        for name, base, least in RATIOS
        if base in times
    ]
    absent = [name for name in OTHERS if name not in times]
    record = {
        "arch": arguments.arch,
        "batch_size": arguments.batch_size,
        "threads": arguments.threads,
        "rounds": arguments.rounds,
        **circumstances(["benchmarks/bench_eval.py", *argv]),
        "python": platform.python_version(),
        "versions": versions(),
        "logit_std": deviations,
        "ms_per_image": per_image,
        "speedup": ratios,
        "missed": missed(ratios, differences),
    }
    print(f"{arguments.arch} at batch {arguments.batch_size}, {arguments.threads} thread(s), {arguments.rounds} rounds")
    print(stated(record), record["versions"], sep="\n")
    rows = [("variant", "ms per image", "low", "high", "logits within")]
    rows += [
        (name, *_figures(row), f"{differences[name]:.1e}" if name in differences else "-")
        for name, row in per_image.items()
    ]
    print(*align(rows), "", sep="\n")
    rows = [("variant", "over", "times faster", "low", "high", "expected")]
    rows += [(row["variant"], row["over"], *_figures(row), _least(row["at_least"])) for row in ratios]
    print(*align(rows, left=(0, 1)), sep="\n")
    for name in absent:
        print(f"not measured: {name}, which is not installed or has no such network (pip install -e '.[compare]')")
    if arguments.save_json:
        write_json(arguments.save_json, record)
    for miss in record["missed"]:
        print(f"missed: {miss}", file=sys.stderr)
    return 1 if record["missed"] else 0


def _figures(row: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(f"{row[name]:.2f}" for name in ("median", "low", "high"))


def _least(ratio: float | None) -> str:
    return "-" if ratio is None else f"{ratio} or more"


def missed(ratios: Sequence[Mapping[str, Any]], differences: Mapping[str, float]) -> list[str]:
    """What falls short, one line each: a ratio's slowest round, or float32 logits that differ."""
    slow = [
        f"{row['variant']} over {row['over']}: expected {row['at_least']} or more, got {row['low']}"
        for row in ratios
        if row["at_least"] is not None and row["low"] < row["at_least"]
    ]
    apart = [
        f"{name}: expected logits within {TOLERANCE:g}, got {difference:.2g}"
        for name, difference in differences.items()
        if not name.endswith("bf16") and not difference <= TOLERANCE
    ]
    return slow + apart


def versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for name in ("torch", "tensorflow-cpu", "tensorflow", "keras", "numpy", "pytorchcv"):
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def main(argv: Sequence[str] | None = None) -> int:
    return exit_code(run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
