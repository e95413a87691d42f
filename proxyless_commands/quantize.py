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

from compress import BitsConfig
from compress.bits import config as quantizing
from proxyless_arch.base import settings
from proxyless_arch.base.cli import INTERRUPTED, Parser, exit_code
from proxyless_arch.base.machine import tune_allocator
from proxyless_arch.base.runs import resumes
from proxyless_arch.base.words import DRY_RUN, RUN_DIR, add_resume_flag

OPTIONS = ("path", "resume", "dry_run", "export_layers")  # flags that are no settings


def parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = Parser(prog="quantize.py", description=__doc__)
    section = parser.add_argument_group("the run")
    section.add_argument(RUN_DIR.flag, *RUN_DIR.aliases, dest="path", type=Path, metavar="DIR", help=RUN_DIR.text)
    add_resume_flag(section)
    section.add_argument(DRY_RUN.flag, action="store_true", help=DRY_RUN.text)
    section.add_argument(
        "--export_layers",
        type=Path,
        metavar="DIR",
        help="write the layers in float32 and int8, to be timed on another device (for --latency_table), and stop",
    )
    settings.add_flags(parser, BitsConfig)
    parsed = parser.parse_strictly(argv)
    parsed.resume = resumes(parsed.resume, parsed.path)
    return parsed


def effective_config(arguments: argparse.Namespace) -> BitsConfig:
    """The settings in force: the flags; or those of the run that is resumed."""
    given = {name: value for name, value in vars(arguments).items() if name not in OPTIONS}
    if not arguments.resume:
        return settings.with_settings(BitsConfig(), given)
    return quantizing.resumed_config(arguments.path, given)


def run(argv: Sequence[str]) -> int:
    arguments = parse(argv)
    config = effective_config(arguments)

    # imported here, so that a mistake in the command line is answered at once
    from compress import QuantizationStopped, run_quantization
    from compress.bits.layer_times import write_layers

    tune_allocator()
    if arguments.export_layers is not None:
        print(write_layers(config, arguments.export_layers))
        return 0
    try:
        result = run_quantization(
            config, arguments.path, resume=arguments.resume, command=["quantize.py", *argv], dry_run=arguments.dry_run
        )
    except QuantizationStopped:  # which has said how to go on
        return INTERRUPTED
    if result is not None:
        print(result)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    return exit_code(run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
