"""Settings as flags: what turns a switch on and off, and what --help says about it."""

import argparse
from dataclasses import dataclass

import pytest

from proxyless_arch.apps.train_settings import TrainConfig
from proxyless_arch.base.settings import add_flags, setting


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
