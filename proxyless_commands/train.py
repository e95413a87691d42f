"""Train a network, from scratch or from inherited weights, with PyTorch.

    python train.py --arch runs/mine
    python train.py --arch proxyless_mobile --data_path imagenet/ --precision bf16
    python train.py --arch net.json --data_path photos.zip --recipe fast --resolution 32 --run_dir runs/photos
    python train.py --run_dir runs/photos --resume
    torchrun --nproc_per_node=4 train.py --arch proxyless_mobile --data_path imagenet/ --run_dir runs/mobile

A run folder of the search starts from its inherited weights and trains on its images by its recipe. Every setting is
a flag; --recipe names a set of defaults. The run folder holds config.json, environment.json, spec.json, metrics.jsonl,
checkpoint.pt, weights.safetensors (the best epoch), last.safetensors (the last one), per_class.json
(the test images by class) and result.json.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from proxyless_arch.apps import train_settings
from proxyless_arch.apps.first_look import look
from proxyless_arch.base import settings
from proxyless_arch.base.cli import INTERRUPTED, Parser, exit_code
from proxyless_arch.base.machine import tune_allocator
from proxyless_arch.base.runs import resumes
from proxyless_arch.base.words import add_run_flags

OPTIONS = ("path", "resume", "recipe", "dry_run")  # flags that are no settings


def parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = Parser(prog="train.py", description=__doc__)
    names = ", ".join(train_settings.recipe_names())
    add_run_flags(parser, f"{names} or a JSON file (default: by the images)")
    settings.add_flags(parser, train_settings.TrainConfig)
    parsed = parser.parse_strictly(argv)
    parsed.resume = resumes(parsed.resume, parsed.path)
    return parsed


def effective_config(arguments: argparse.Namespace) -> tuple[train_settings.TrainConfig, tuple[str, ...]]:
    """The settings in force, and what was decided: by recipe, then flags; or those of the run that is resumed."""
    given = {name: value for name, value in vars(arguments).items() if name not in OPTIONS}
    if not arguments.resume:
        return train_settings.effective_config(given, arguments.recipe)
    return train_settings.resumed_config(arguments.path, given, arguments.recipe), ()


def run(argv: Sequence[str]) -> int:
    arguments = parse(argv)
    config, notes = effective_config(arguments)
    if not arguments.resume:  # whose images may have moved, which is told otherwise
        look(config.data.data_path, config.arch)

    # imported here, so that a mistake in the command line is answered at once
    from proxyless_nas.train import TrainingStopped, run_training

    tune_allocator()
    try:
        result = run_training(
            config,
            arguments.path,
            resume=arguments.resume,
            command=["train.py", *argv],
            notes=notes,
            dry_run=arguments.dry_run,
        )
    except TrainingStopped:  # which has said how to go on
        return INTERRUPTED
    if result is not None:
        print(result)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    return exit_code(run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
