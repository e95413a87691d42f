"""Choose how many bits each layer of a trained network has, to a size, a latency or an accuracy.

    python quantize.py --arch runs/photos --average_bits 4
    python quantize.py --arch runs/photos --hardware litert --target_bytes 1e6 --run_dir runs/bits
    python quantize.py --arch proxyless_mobile --data_path imagenet/ --hardware bismo --keep 0.6 --method haq
    python quantize.py --arch runs/photos --hardware litert --export_layers phone/
    python quantize.py --run_dir runs/bits --resume

What each format does to the loss is measured, and the plan that does the least is chosen exactly within the target, by
integer programming, and checked as a whole. Bytes are counted; milliseconds are measured on this machine's runtimes, or
simulated for chips that compute with few bits, and then called so in every line. No runtime that can be installed has a
convolution below 8 bits: fewer bits are storage. The run folder holds config.json, environment.json, metrics.jsonl,
spec.json, weights.safetensors, bits.json, result.json and report.html (what each command made of the network).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from compress.bits.config import SETTINGS
from proxyless_arch.apps.first_look import look
from proxyless_arch.base.cli import exit_code
from proxyless_arch.base.machine import tune_allocator
from proxyless_arch.base.run_settings import finished


def add_more(section: argparse._ArgumentGroup) -> None:
    section.add_argument(
        "--export_layers",
        type=Path,
        metavar="DIR",
        help="write the layers in float32 and int8, to be timed on another device (for --latency_table), and stop",
    )


def run(argv: Sequence[str]) -> int:
    config, asked = SETTINGS.parse(argv, "quantize.py", __doc__, add_more)

    if not asked.resume:
        look(config.data_path, config.arch, config.latency_table)
    # imported here, so that a mistake in the command line is answered at once
    from compress import run_quantization
    from compress.bits.layer_times import write_layers

    tune_allocator()
    if asked.export_layers is not None:
        print(write_layers(config, asked.export_layers))
        return 0
    how = {"resume": asked.resume, "command": ["quantize.py", *argv], "dry_run": asked.dry_run}
    return finished(lambda: run_quantization(config, asked.path, **how))


def main(argv: Sequence[str] | None = None) -> int:
    return exit_code(run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
