"""Settings as flags: what turns a switch on and off, and what --help says about it."""

import argparse
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from proxyless_arch.apps.train_settings import TrainConfig
from proxyless_arch.base.errors import InputError
from proxyless_arch.base.settings import (
    REQUIRED,
    add_flags,
    parse,
    parse_command,
    setting,
    with_settings,
)
from proxyless_arch.base.words import WORKERS
from tests.errors import refused


@dataclass(frozen=True, kw_only=True)
class Settings:
    nesterov: bool = setting(True, "look ahead", aliases=("--ahead",))
    no_decay_bn: bool = setting(False, "spare the vectors")
    steps: int = setting(3, "how many")


def parser_of(cls):
    parser = argparse.ArgumentParser(allow_abbrev=False)
    add_flags(parser, cls)
    return parser


@pytest.mark.parametrize(
    ("words", "given"),
    [
        ([], {}),
        (["--nesterov"], {"nesterov": True}),
        (["--ahead"], {"nesterov": True}),
        (["--no_nesterov"], {"nesterov": False}),
        (["--no_decay_bn"], {"no_decay_bn": True}),
        (["--decay_bn"], {"no_decay_bn": False}),
        (["--decay_bn", "--no_decay_bn"], {"no_decay_bn": True}),
    ],
)
def test_switches_turn_on_and_off(words, given):
    assert vars(parser_of(Settings).parse_args(words)) == given


def test_help_shows_both_ways():
    shown = parser_of(Settings).format_help()
    assert "--nesterov, --ahead, --no_nesterov\n" in shown
    assert "--no_decay_bn, --decay_bn\n" in shown
    assert "look ahead [True]" in shown
    assert "--no_steps" not in shown


def test_nobody_has_to_say_no_twice():
    options = {option for action in parser_of(TrainConfig)._actions for option in action.option_strings}
    assert {"--no_decay_bn", "--decay_bn", "--nesterov", "--no_nesterov"} <= options
    assert not [option for option in options if option.startswith("--no_no_")]


@dataclass(frozen=True, kw_only=True)
class Inner:
    workers_of_old: int | None = WORKERS.setting(None, maximum=8)
    kind: str = setting("small", "which", ("small", "large"), shortcuts={"--large": ("large", "the large one")})


@dataclass(frozen=True, kw_only=True)
class Command:
    files: tuple[Path, ...] = setting(REQUIRED, "what to read", is_positional=True, metavar="FILE")
    mean: tuple[float, float] | None = setting(None, "two numbers", minimum=0)
    share: float = setting(0.5, "10 % or so", minimum=0, maximum=1)
    steps: int = setting(1, "how many", minimum=1, maximum=1_000_000)
    inner: Inner = field(default_factory=Inner)
    computed: int = 7


def test_a_command_line_becomes_the_dataclass():
    words = ["a", "b", "--mean", "1", "2.5", "-j", "3", "--large"]
    expected = Command(files=(Path("a"), Path("b")), mean=(1.0, 2.5), inner=Inner(workers_of_old=3, kind="large"))
    assert parse(Command, words, "x", None) == expected
    assert parse(Command, ["a"], "x", None) == Command(files=(Path("a"),))


@pytest.mark.parametrize("flag", ["-j", "--workers", "--n_worker"])
def test_every_spelling_of_a_word_sets_the_same_field(flag):
    assert parse(Command, ["a", flag, "2"], "x", None).inner.workers_of_old == 2


@pytest.mark.parametrize(
    ("words", "place", "values"),
    [
        ([], "", ["FILE"]),
        (["a", "--workers", "9"], "--workers", ["integer", "0..8", 9]),
        (["a", "--n_worker", "many"], "--workers", ["integer", "'many'"]),
        (["a", "--steps", "0"], "--steps", ["integer", "1..1000000", 0]),
        (["a", "--share", "2"], "--share", ["number", "0..1", 2.0]),
        (["a", "--mean", "1", "-1"], "--mean", ["number", "0 or more", -1.0]),
        (["a", "--kind", "lage"], "--kind", ["'small' or 'large'", "'lage'", "mean 'large'"]),
        (["a", "--worker", "1"], "--worker", ["'--workers'", "--help"]),
        (["a", "--computed", "1"], "--computed", ["--help"]),
    ],
)
def test_what_is_wrong_is_said_at_the_usual_spelling(words, place, values):
    with refused(place, *values):
        parse(Command, words, "x", None)


def test_a_recipe_may_use_the_spelling_of_the_flag_or_an_older_one():
    start = Command(files=())
    for name in ("workers_of_old", "workers", "n_worker"):
        assert with_settings(start, {name: 4}, "f.json").inner.workers_of_old == 4
    with pytest.raises(InputError) as caught:
        with_settings(start, {"workers": 4, "n_worker": 4}, "f.json")
    assert (caught.value.place, caught.value.source) == ("n_worker", "f.json")
    assert "workers" in caught.value.problem.split()


@dataclass(frozen=True, kw_only=True)
class Go:
    """goes"""

    fast: bool = setting(False, "or slow")


def test_subcommands():
    commands = {"go": Go, "read": Command}
    assert parse_command(commands, ["go", "--fast"], "x", None) == Go(fast=True)
    assert parse_command(commands, ["read", "a"], "x", None) == Command(files=(Path("a"),))
    with refused("--fst", "'--fast'"):
        parse_command(commands, ["go", "--fst"], "x", None)


def test_paths_of_recipes_and_programs_have_their_home_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    given = {"data_path": "~/photos", "arch": "~/runs/a"}
    changed = with_settings(TrainConfig(), given, "recipe.json")
    assert (changed.data.data_path, changed.arch) == (str(tmp_path / "photos"), str(tmp_path / "runs/a"))
    assert with_settings(Command(files=()), {"files": ["~/a", "b~"]}).files == (tmp_path / "a", Path("b~"))
