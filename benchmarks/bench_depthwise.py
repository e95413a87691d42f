"""How long the gradients of depthwise convolutions take: torch's, and those of proxyless_nas/fast/depthwise.py.

    pip install -e '.[fast]'
    python benchmarks/bench_depthwise.py

Milliseconds of CPU time on one thread, medians of interleaved rounds; a batch of 16 in channels_last memory. ``apart``
is the largest difference from a float64 sum, relative to its largest value; ``times faster`` is the weight gradient's
ratio of torch's time to ours in a round. For kernels of 5x5 and 7x7 it should be LEAST at least; the exit status is 1
where it is not.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":  # started as a script: the packages lie beside this folder
    sys.path[0] = str(ROOT)

from benchmarks.turns import circumstances, median_of, stated, verdict  # noqa: E402
from proxyless_arch.base import settings  # noqa: E402
from proxyless_arch.base.cli import exit_code  # noqa: E402
from proxyless_arch.base.files import write_json  # noqa: E402
from proxyless_arch.base.settings import setting  # noqa: E402
from proxyless_arch.base.text import align  # noqa: E402
from proxyless_arch.base.timing import cpu_ms, in_turn, quartiles  # noqa: E402
from proxyless_arch.base.words import SAVE_JSON, new_file  # noqa: E402

LAYERS = ((3, 192, 28, 1), (5, 192, 28, 1), (7, 192, 28, 1), (5, 576, 7, 1), (7, 576, 7, 1), (5, 144, 28, 2))
"""(kernel size, channels, pixels, stride)."""
IMAGES = 16
LEAST = 3.0


@dataclass(frozen=True, kw_only=True)
class Config:
    """How they are timed."""

    rounds: int = setting(9, "in which all take their turn", minimum=1)
    precision: str = setting("both", "fp32, bf16 or both", ("fp32", "bf16", "both"))
    save_json: Path | None = SAVE_JSON.setting(None, metavar="FILE", check=new_file)


def layer(size: int, channels: int, pixels: int, stride: int, is_bf16: bool) -> tuple[dict[str, Callable], float]:
    """What is timed of a layer, by name; how far our gradient is from the sum in float64."""
    import torch
    from torch.nn import functional as F

    from proxyless_nas.fast.depthwise import input_gradient
    from proxyless_nas.fast.depthwise_kernel import weight_gradient

    rng, pad = torch.Generator().manual_seed(0), size // 2
    dtype = torch.bfloat16 if is_bf16 else torch.float32

    def random(*shape: int) -> torch.Tensor:
        drawn = torch.randn(shape, generator=rng).to(dtype)
        return drawn.contiguous(memory_format=torch.channels_last)

    x, grad = (
        random(IMAGES, channels, pixels, pixels),
        random(IMAGES, channels, -(-pixels // stride), -(-pixels // stride)),
    )
    weight = random(channels, 1, size, size)

    def torchs(x: torch.Tensor, grad: torch.Tensor, weight: torch.Tensor, *, of_weight: bool):
        places = ([stride] * 2, [pad] * 2, [1, 1], False, [0, 0], channels, [not of_weight, of_weight, False])
        return torch.ops.aten.convolution_backward(grad, x, weight, None, *places)[int(of_weight)]

    exact = torchs(x.double().contiguous(), grad.double().contiguous(), weight.double(), of_weight=True)
    apart = (weight_gradient(x, grad, size, stride, (pad, pad)).double() - exact).abs().max() / exact.abs().max()
    return {
        "forward": lambda: F.conv2d(x, weight, None, stride, pad, 1, channels),
        "input, torch": lambda: torchs(x, grad, weight, of_weight=False),
        "input, ours": lambda: input_gradient(x, weight, grad, stride, (pad, pad)),
        "weight, torch": lambda: torchs(x, grad, weight, of_weight=True),
        "weight, ours": lambda: weight_gradient(x, grad, size, stride, (pad, pad)),
    }, float(apart)


def timed(shape: tuple[int, int, int, int], is_bf16: bool, rounds: int) -> dict[str, Any]:
    """The record of a layer."""
    import numpy as np

    parts, apart = layer(*shape, is_bf16)
    times = in_turn({name: lambda part=part: cpu_ms(part) for name, part in parts.items()}, rounds, 1)
    size, channels, pixels, stride = shape
    faster = median_of(np.array(times["weight, torch"]) / np.array(times["weight, ours"]))
    goal = LEAST if size >= 5 else None
    return {
        "layer": f"{size}x{size}{', stride 2' if stride > 1 else ''}, {channels} channels, {pixels} px",
        "precision": "bf16" if is_bf16 else "fp32",
        "ms": {name: round(quartiles(ms).median, 4) for name, ms in times.items()},
        "apart": apart,
        "times_faster": faster._asdict(),
        "at_least": goal,
        "verdict": verdict(faster, goal, is_least=True),
    }


def table(rows: Sequence[dict[str, Any]]) -> list[str]:
    lines = [("layer", "precision", *rows[0]["ms"], "apart", "times faster", "interval", "")]
    for row in rows:
        ms, faster = (f"{value:.2f}" for value in row["ms"].values()), row["times_faster"]
        interval = f"{faster['low']:.1f} to {faster['high']:.1f}"
        how_much = f"{faster['median']:.1f}", interval, row["verdict"]
        lines.append((row["layer"], row["precision"], *ms, f"{row['apart']:.0e}", *how_much))
    return align(lines, left=(0, 1, len(lines[0]) - 1))


def run(argv: Sequence[str]) -> int:
    config = settings.parse(Config, argv, "bench_depthwise.py", __doc__)
    import torch

    from proxyless_nas.fast import compiler

    if compiler.version() is None:
        print(
            "no llvmlite here, or no processor for it: torch alone computes these gradients (pip install -e '.[fast]')"
        )
        return 0
    torch.set_num_threads(1)
    precisions = ("fp32", "bf16") if config.precision == "both" else (config.precision,)
    rows = [timed(shape, precision == "bf16", config.rounds) for precision in precisions for shape in LAYERS]
    record = circumstances(["benchmarks/bench_depthwise.py", *argv])
    versions = {"torch": str(torch.__version__), "kernels": compiler.version(), "rounds": config.rounds}
    print(*table(rows), stated(record), sep="\n")
    print(f"torch {versions['torch']}, {versions['kernels']}, {config.rounds} rounds")
    if config.save_json is not None:
        write_json(config.save_json, {**record, **versions, "rows": rows})
    return 1 if any(row["verdict"] == "MISSED" for row in rows) else 0


def main(argv: Sequence[str] | None = None) -> int:
    return exit_code(run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
