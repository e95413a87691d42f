"""Search a network for a latency target.

    python search/imagenet_arch_search.py --target_hardware mobile
    python search/imagenet_arch_search.py --data_path photos/ --target_latency_ms 80 --run_dir runs/mine
    python search/imagenet_arch_search.py --run_dir runs/mine --resume
    python search/imagenet_arch_search.py --data_path photos/ --target_latency_ms 60,80,100 --run_dir runs/family
    python search/imagenet_arch_search.py --data_path photos/ --target_latency_ms 80 --resolutions 160,192,224
    python search/imagenet_arch_search.py --target_hardware flops --run_dir runs/other --warmup_from runs/mine
    torchrun --nproc_per_node=4 search/imagenet_arch_search.py --data_path photos/

Without --data_path the embedded digits are searched on, in minutes. Every setting is a flag; --recipe names a set of
defaults. The run folder holds config.json, space.json, environment.json, metrics.jsonl, TensorBoard events,
checkpoint.pt, warmup.pt (what --warmup_from starts from), spec.json, weights.safetensors, architecture.png, search.png,
per_class.json (the test images by class) and result.json.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":  # started as a script: the packages lie beside this folder, and nothing in it is top-level
    sys.path[:] = [str(ROOT), *(entry for entry in sys.path if Path(entry or ".").resolve() != ROOT / "search")]

from proxyless_arch.apps.first_look import look  # noqa: E402
from proxyless_arch.base.cli import INTERRUPTED, NOT_LANDED, Parser, exit_code  # noqa: E402
from proxyless_arch.base.errors import InputError  # noqa: E402
from proxyless_arch.base.machine import tune_allocator  # noqa: E402
from proxyless_arch.base.runs import RunStopped, resumes  # noqa: E402
from proxyless_arch.base.settings import add_flags, flags, of, with_settings  # noqa: E402
from proxyless_arch.base.text import labeled  # noqa: E402
from proxyless_arch.base.words import add_run_flags  # noqa: E402
from proxyless_arch.launch.launcher import LaunchFlags  # noqa: E402
from search import RandomResult, SearchResult, config  # noqa: E402

LAUNCH = tuple(flags(LaunchFlags))
OPTIONS = ("path", "resume", "recipe", "warmup_from", "strict_landing", "dry_run", *LAUNCH)
"""Flags that are no settings."""


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(prog="imagenet_arch_search.py", description=__doc__)
    names = ", ".join(config.recipe_names())
    add_run_flags(parser, f"{names} or a JSON file (default: digits, or default with data)")
    parser.add_argument(
        "--warmup_from",
        type=Path,
        metavar="RUN",
        help="start behind that run's warm-up: same data, space, seed and weight training; any target or algorithm",
    )
    parser.add_argument(
        "--strict_landing",
        action="store_true",
        help=f"exit status {NOT_LANDED} where the network is not at its target, as measured (or else predicted)",
    )
    add_flags(parser, LaunchFlags)
    config.add_flags(parser, takes_families=True)
    parsed = parser.parse_strictly(argv)
    parsed.resume = resumes(parsed.resume, parsed.path)
    return parsed


def _family(arguments: argparse.Namespace) -> int | None:
    """Run the searches for several targets or image sizes; None where there is one."""
    given = vars(arguments)
    kinds = (*config.TARGET_KEY.values(), "resolution")
    several = {key: given[key] for key in kinds if isinstance(given.get(key), tuple)}
    launch = of(LaunchFlags, given)
    if not several:
        if launch:
            raise InputError(
                "one search is one run: several targets, or image sizes, take it", f"--{next(iter(launch))}"
            )
        return None
    one = {name: given[name] for name in given if name not in (*several, *OPTIONS)}
    settings = config.effective_config(one, arguments.recipe)
    _look(settings)
    from search import family_table, run_family  # here, so that a mistake in the command line is answered at once

    how = {"warmup_from": arguments.warmup_from, "dry_run": arguments.dry_run}
    launcher = with_settings(LaunchFlags(), launch).chosen
    runs = run_family(settings, arguments.path, launcher=launcher, **how, **several)
    if runs is None:
        return 0
    print(f"\n{family_table(runs)}")
    missed = any((run.result or {}).get("landed") is False for run in runs)
    return NOT_LANDED if missed and arguments.strict_landing else 0


def effective_config(arguments: argparse.Namespace) -> config.SearchConfig:
    """The settings in force: recipe, then flags; or those of the run that is resumed."""
    given = {name: value for name, value in vars(arguments).items() if name not in OPTIONS}
    if not arguments.resume:
        return config.effective_config(given, arguments.recipe)
    return config.resumed_config(arguments.path, given, arguments.recipe)


def _look(settings: config.SearchConfig) -> None:
    look(settings.data.data_path, settings.space.parent, settings.target.latency_table, config.PARENT)


def _answer(settings: config.SearchConfig) -> None:
    """The first line, before torch is there: a second or more that a person would wait without a sign."""
    if os.environ.get("RANK", "0") == "0":
        print(labeled("recipe", f"{settings.recipe}, seed {settings.manual_seed}"), flush=True)


def run(words: Sequence[str]) -> int:
    arguments = parse(words)
    tune_allocator()
    try:
        status = _family(arguments)
    except RunStopped:
        return INTERRUPTED
    if status is not None:
        return status
    settings = effective_config(arguments)
    if not arguments.resume:  # whose images may have moved, which is told otherwise
        _look(settings)
    _answer(settings)
    # imported here, so that a mistake in the command line is answered at once
    from search.run.runner import COMMAND, draw_random, run_search

    common = {"resume": arguments.resume, "command": [COMMAND, *words], "dry_run": arguments.dry_run}
    result: SearchResult | RandomResult | None
    try:
        if settings.arch.arch_algo == "random":
            if arguments.warmup_from is not None:
                raise InputError("--arch_algo random trains nothing: it has no use for a warm-up", "--warmup_from")
            result = draw_random(settings, arguments.path, **common)
        else:
            result = run_search(settings, arguments.path, warmup_from=arguments.warmup_from, **common)
    except RunStopped:  # which has said how to go on
        return INTERRUPTED
    if result is None:
        return 0
    print(result)
    missed = isinstance(result, SearchResult) and result.landed is False
    return NOT_LANDED if missed and arguments.strict_landing else 0


def main(argv: Sequence[str] | None = None) -> int:
    return exit_code(run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
