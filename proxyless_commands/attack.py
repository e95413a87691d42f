"""Score a network on images that are changed, within bounds, to fool it.

    python attack.py --arch runs/photos --data_path photos/
    python attack.py --arch runs/photos --data_path photos/ --epsilon 4/255 --attacks fgsm,pgd --limit 100
    python attack.py --arch runs/photos --data_path photos/ --transfer_from runs/other --restarts 5
    python attack.py --run_dir runs/attacked --resume

FGSM, R+FGSM, PGD and APGD follow the network's own gradients, transfer those of a second network, and Square asks for
answers alone. Beside the figures stand the signs that gradients mislead: a network that hides them is not robust. It
is a measurement, and no defence. The run folder holds config.json, environment.json, metrics.jsonl, result.json,
amplification.svg (how the error grows from layer to layer) and adversarial/: the worst image found of each, which
eval.py and eval_tf.py score.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from proxyless_arch.apps import attacking
from proxyless_arch.apps.attacking import AttackConfig
from proxyless_arch.base import settings
from proxyless_arch.base.cli import INTERRUPTED, Parser, exit_code
from proxyless_arch.base.machine import tune_allocator
from proxyless_arch.base.runs import resumes
from proxyless_arch.base.words import DRY_RUN, RUN_DIR, add_resume_flag

OPTIONS = ("path", "resume", "dry_run")  # flags that are no settings


def parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = Parser(prog="attack.py", description=__doc__)
    section = parser.add_argument_group("the run")
    section.add_argument(RUN_DIR.flag, *RUN_DIR.aliases, dest="path", type=Path, metavar="DIR", help=RUN_DIR.text)
    add_resume_flag(section)
    section.add_argument(DRY_RUN.flag, action="store_true", help=DRY_RUN.text)
    settings.add_flags(parser, AttackConfig)
    parsed = parser.parse_strictly(argv)
    parsed.resume = resumes(parsed.resume, parsed.path)
    return parsed


def effective_config(arguments: argparse.Namespace) -> AttackConfig:
    """The settings in force: the flags; or those of the run that is resumed."""
    given = {name: value for name, value in vars(arguments).items() if name not in OPTIONS}
    if not arguments.resume:
        return settings.with_settings(AttackConfig(), given)
    return attacking.resumed_config(arguments.path, given)


def run(argv: Sequence[str]) -> int:
    arguments = parse(argv)
    config = effective_config(arguments)

    # imported here, so that a mistake in the command line is answered at once
    from proxyless_nas.robust.session import AttackStopped, run_attack

    tune_allocator()
    try:
        run_attack(
            config, arguments.path, resume=arguments.resume, command=["attack.py", *argv], dry_run=arguments.dry_run
        )
    except AttackStopped:  # which has said how to go on
        return INTERRUPTED
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    return exit_code(run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
