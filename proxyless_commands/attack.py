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

from collections.abc import Sequence

from proxyless_arch.apps.attacking import SETTINGS
from proxyless_arch.base.cli import exit_code
from proxyless_arch.base.machine import tune_allocator
from proxyless_arch.base.run_settings import finished


def run(argv: Sequence[str]) -> int:
    config, asked = SETTINGS.parse(argv, "attack.py", __doc__)

    # imported here, so that a mistake in the command line is answered at once
    from proxyless_nas.robust.session import run_attack

    tune_allocator()
    how = {"resume": asked.resume, "command": ["attack.py", *argv], "dry_run": asked.dry_run}
    return finished(lambda: run_attack(config, asked.path, **how), shows=False)  # it has said what it came to


def main(argv: Sequence[str] | None = None) -> int:
    return exit_code(run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
