"""Make a trained network smaller, to a latency, MACs or an accuracy.

    python prune.py --arch runs/photos --data_path photos/ --target_hardware cpu --target_latency_ms 4
    python prune.py --arch runs/photos --target_hardware flops --keep 0.5 --run_dir runs/small
    python prune.py --arch efficientnet_lite0 --data_path imagenet/ --target_latency_ms 40,60 --finetune_epochs 0
    python prune.py --run_dir runs/small --resume

Per block its hidden width, kernel and whether it stays are chosen, and the widths of stem, last stage and feature mix:
by what each change was measured to do to the loss, exactly within the target. Then the network is fine-tuned, with the
one before pruning as its teacher. The run folder holds config.json, environment.json, metrics.jsonl, spec.json,
weights.safetensors, result.json, report.html (what each command made of the network), architecture.png, damage.png and
curve.png.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from compress import PruneConfig
from compress import config as pruning
from proxyless_arch.base import settings
from proxyless_arch.base.cli import INTERRUPTED, Parser, exit_code
from proxyless_arch.base.machine import tune_allocator
from proxyless_arch.base.runs import resumes
from proxyless_arch.base.words import DRY_RUN, RUN_DIR, add_resume_flag

OPTIONS = ("path", "resume", "dry_run")  # flags that are no settings


def parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = Parser(prog="prune.py", description=__doc__)
    section = parser.add_argument_group("the run")
    section.add_argument(RUN_DIR.flag, *RUN_DIR.aliases, dest="path", type=Path, metavar="DIR", help=RUN_DIR.text)
    add_resume_flag(section)
    section.add_argument(DRY_RUN.flag, action="store_true", help=DRY_RUN.text)
    settings.add_flags(parser, PruneConfig)
    parsed = parser.parse_strictly(argv)
    parsed.resume = resumes(parsed.resume, parsed.path)
    return parsed


def effective_config(arguments: argparse.Namespace) -> PruneConfig:
    """The settings in force: the flags; or those of the run that is resumed."""
    given = {name: value for name, value in vars(arguments).items() if name not in OPTIONS}
    if not arguments.resume:
        return settings.with_settings(PruneConfig(), given)
    return pruning.resumed_config(arguments.path, given)


def run(argv: Sequence[str]) -> int:
    arguments = parse(argv)
    config = effective_config(arguments)

    # imported here, so that a mistake in the command line is answered at once
    from compress import PruningStopped, run_pruning

    tune_allocator()
    try:
        result = run_pruning(
            config, arguments.path, resume=arguments.resume, command=["prune.py", *argv], dry_run=arguments.dry_run
        )
    except PruningStopped:  # which has said how to go on
        return INTERRUPTED
    if result is not None:
        print(result)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    return exit_code(run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
