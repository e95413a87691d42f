"""Every flag of every command, frozen in flags.txt: a spelling that people have typed is not lost.

Write the table anew after a change that is meant: python -m tests.house.test_flags
A star behind a spelling says that the first edition (commit 5f08150) took it; a line without its star fails.
"""

import argparse
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TABLE = Path(__file__).with_name("flags.txt")
COMMANDS = {
    "eval.py": "eval.py",
    "eval_tf.py": "eval_tf.py",
    "predict.py": "predict.py",
    "predict_tf.py": "predict_tf.py",
    "train.py": "train.py",
    "prune.py": "prune.py",
    "quantize.py": "quantize.py",
    "attack.py": "attack.py",
    "export.py": "export.py",
    "export_tf.py": "export_tf.py",
    "shard.py": "shard.py",
    "search/imagenet_arch_search.py": "search/imagenet_arch_search.py",
    "search/report.py": "search/report.py",
    "search/specialize.py": "search/specialize.py",
    "hardware/profile_latency.py": "hardware/profile_latency.py",
    "search/show.py": "search/show.py",
    "python -m proxyless_arch": "proxyless_arch/__main__.py",
    "run.py of an export": "hardware/profile/standalone_runner.py",
    "benchmarks/compare_networks.py": "benchmarks/compare_networks.py",
    "benchmarks/comparison_picture.py": "benchmarks/comparison_picture.py",
    "benchmarks/bench_eval.py": "benchmarks/bench_eval.py",
    "benchmarks/bench_checkouts.py": "benchmarks/bench_checkouts.py",
    "benchmarks/bench_depthwise.py": "benchmarks/bench_depthwise.py",
    "benchmarks/bench_ranks.py": "benchmarks/bench_ranks.py",
    "benchmarks/bench_search.py": "benchmarks/bench_search.py",
    "benchmarks/bench_growth.py": "benchmarks/bench_growth.py",
    "benchmarks/memory_use.py": "benchmarks/memory_use.py",
    "benchmarks/bench_input.py": "benchmarks/bench_input.py",
    "benchmarks/search_oracles.py": "benchmarks/search_oracles.py",
    "experiments/dq_proof.py": "experiments/dq_proof.py",
    "experiments/finetune.py": "experiments/finetune.py",
    "experiments/fitted_classifier.py": "experiments/fitted_classifier.py",
    "experiments/int8_study.py": "experiments/int8_study.py",
    "experiments/landing.py": "experiments/landing.py",
    "experiments/landing_digits.py": "experiments/landing_digits.py",
    "experiments/phone_photos.py": "experiments/phone_photos.py",
    "experiments/proof.py": "experiments/proof.py",
    "experiments/search_cost.py": "experiments/search_cost.py",
}


class FoundError(BaseException):
    """The parser that a command was about to use."""


def parser_of(file: Path) -> argparse.ArgumentParser:
    """The parser of a script: its main runs up to where the command line is read."""

    def stop(parser: argparse.ArgumentParser, *words: object) -> None:
        raise FoundError(parser)

    # the folder of another script may hold a module of the same name
    name = "flags_of_" + "_".join(file.relative_to(ROOT).with_suffix("").parts)
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where dataclasses look up their types
    before, argv = argparse.ArgumentParser.parse_known_args, sys.argv
    try:
        spec.loader.exec_module(module)
        argparse.ArgumentParser.parse_known_args, sys.argv = stop, [str(file)]  # type: ignore[assignment]
        module.main()
    except FoundError as found:
        return found.args[0]
    finally:
        argparse.ArgumentParser.parse_known_args, sys.argv = before, argv  # type: ignore[method-assign]
        del sys.modules[name]
    raise AssertionError(f"{file} reads no command line")


def settings_of(command: str, parser: argparse.ArgumentParser) -> Iterator[tuple[str, list[str]]]:
    """(command, spellings of one setting): positional ones by their place's name; subcommands apart."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, inner in action.choices.items():
                yield from settings_of(f"{command} {name}", inner)
        elif "--help" not in action.option_strings:
            yield command, list(action.option_strings) or [action.dest]


def table_of_now(commands: dict[str, str]) -> dict[str, list[list[str]]]:
    table: dict[str, list[list[str]]] = {}
    for command, file in commands.items():
        for name, spellings in settings_of(command, parser_of(ROOT / file)):
            table.setdefault(name, []).append(spellings)
    return table


def read_table() -> dict[str, list[list[str]]]:
    table: dict[str, list[list[str]]] = {}
    for line in TABLE.read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            rows = table.setdefault(line.strip("[]"), [])
        elif line:
            rows.append(line.split())
    return table


def without_stars(rows: list[list[str]]) -> list[list[str]]:
    return [[word.rstrip("*") for word in row] for row in rows]


def write_table(now: dict[str, list[list[str]]], starred: dict[str, set[str]]) -> None:
    lines = []
    for command, rows in now.items():
        stars = starred.get(command, set())
        lines.append(f"[{command}]")
        lines += [" ".join(word + "*" * (word in stars) for word in row) for row in rows]
        lines.append("")
    TABLE.write_text("\n".join(lines), encoding="utf-8")


def stars_of(table: dict[str, list[list[str]]]) -> dict[str, set[str]]:
    return {name: {word[:-1] for row in rows for word in row if word.endswith("*")} for name, rows in table.items()}


@pytest.mark.parametrize("command", COMMANDS)
def test_the_flags_are_those_of_the_table(command):
    now = table_of_now({command: COMMANDS[command]})
    frozen = {name: without_stars(rows) for name, rows in read_table().items() if name in now}
    assert now == frozen


def test_the_table_keeps_what_the_first_edition_took():
    """The count, since the stars are in the file that a change rewrites."""
    assert sum(map(len, stars_of(read_table()).values())) == 307


if __name__ == "__main__":
    write_table(table_of_now(COMMANDS), stars_of(read_table()))
