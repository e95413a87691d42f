"""Every command of this project by one word: what `pip install -e .` calls proxylessnas.

    proxylessnas search --data_path photos/ --target_latency_ms 80 --run_dir runs/mine
    proxylessnas train --arch runs/mine
    proxylessnas eval --arch runs/mine --data_path photos/
    proxylessnas predict photo.jpg --arch runs/mine
    proxylessnas export --help

A word starts the script of that name with what follows it.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from typing import NamedTuple

from proxyless_arch.base.cli import exit_code
from proxyless_arch.base.errors import InputError
from proxyless_arch.base.strict import nearest
from proxyless_arch.base.text import align


class Command(NamedTuple):
    """The module whose ``main(argv)`` a word starts, the words it wants first, and what it does."""

    module: str
    first: tuple[str, ...]
    does: str


ARCHITECTURES = "proxyless_arch.__main__"
COMMANDS = {
    "search": Command("search.imagenet_arch_search", (), "search a network for a latency target"),
    "train": Command("proxyless_commands.train", (), "train a network"),
    "prune": Command("proxyless_commands.prune", (), "make a trained network smaller"),
    "quantize": Command("proxyless_commands.quantize", (), "choose how many bits each of its layers has"),
    "attack": Command("proxyless_commands.attack", (), "score a network on images changed to fool it"),
    "eval": Command("proxyless_commands.eval", (), "score a network on labelled images"),
    "eval_tf": Command("proxyless_commands.eval_tf", (), "the same with TensorFlow"),
    "predict": Command("proxyless_commands.predict", (), "what a network sees in images"),
    "predict_tf": Command("proxyless_commands.predict_tf", (), "the same with TensorFlow"),
    "export": Command("proxyless_commands.export", (), "write a network as ONNX, torch.export, ..."),
    "export_tf": Command("proxyless_commands.export_tf", (), "write a network as LiteRT, SavedModel"),
    "shard": Command("proxyless_commands.shard", (), "write images as tar files with an index"),
    "profile": Command("hardware.profile_latency", (), "measure a latency table of this machine"),
    "report": Command("search.report", (), "write the report page of runs"),
    "list": Command(ARCHITECTURES, ("list",), "the networks known by name"),
    "show": Command(ARCHITECTURES, ("show",), "a network layer by layer"),
    "draw": Command(ARCHITECTURES, ("draw",), "networks in one picture"),
}


def overview() -> str:
    """What there is to type."""
    words = align([(f"  {word}", command.does) for word, command in COMMANDS.items()], left=(0, 1))
    return "\n".join(["usage: proxylessnas COMMAND ...", "", *words, "", "proxylessnas COMMAND --help lists its flags"])


def command_of(word: str) -> Command:
    """The command that a word means. Raises InputError with the nearest one, and all."""
    if word not in COMMANDS:
        raise InputError(f"expected {', '.join(COMMANDS)}, got {word!r}{nearest(word, COMMANDS)}", "command")
    return COMMANDS[word]


def run(argv: Sequence[str]) -> int:
    if not argv or argv[0] in ("-h", "--help"):
        print(overview())
        return 0
    command = command_of(argv[0])
    return importlib.import_module(command.module).main([*command.first, *argv[1:]])


def main(argv: Sequence[str] | None = None) -> int:
    return exit_code(run, argv)


if __name__ == "__main__":
    sys.exit(main())
