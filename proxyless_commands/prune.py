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

from collections.abc import Sequence

from compress.pruning.config import SETTINGS
from proxyless_arch.apps.first_look import look
from proxyless_arch.base.cli import exit_code
from proxyless_arch.base.machine import tune_allocator
from proxyless_arch.base.run_settings import finished
from proxyless_arch.launch.launcher import LaunchFlags


def run(argv: Sequence[str]) -> int:
    config, asked = SETTINGS.parse(argv, "prune.py", __doc__, beside=LaunchFlags)

    if not asked.resume:
        look(config.data_path, config.arch, config.latency_table)
    # imported here, so that a mistake in the command line is answered at once
    from compress import run_pruning

    tune_allocator()
    how = {"resume": asked.resume, "command": ["prune.py", *argv], "dry_run": asked.dry_run}
    return finished(lambda: run_pruning(config, asked.path, launcher=asked.beside.chosen, **how))


def main(argv: Sequence[str] | None = None) -> int:
    return exit_code(run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
