"""The settings: what is saved can be read, what is wrong is refused by name, and the flags users know are there."""

import argparse
import dataclasses
import json
import random
import shlex

import pytest

from proxyless_arch.base.cli import Parser
from proxyless_arch.base.errors import InputError
from proxyless_arch.base.settings import base_type, flag_of, note_on_absent
from search import config
from search.config import (
    SearchConfig,
    flags,
    from_dict,
    from_recipe,
    read_config,
    recipe_names,
    to_dict,
    with_settings,
)
from search.imagenet_arch_search import parse
from tests.errors import named, refused

# as the release (search/imagenet_arch_search.py of mit-han-lab/proxylessnas) spells them, where they mean the same
RELEASED_FLAGS = shlex.split(
    "--path --resume --manual_seed --n_epochs --init_lr --train_batch_size --test_batch_size --n_worker "
    "--dropout --width_mult --bn_momentum --bn_eps --label_smoothing --weight_decay --momentum "
    "--warmup_epochs --arch_algo --arch_lr --arch_adam_beta1 --arch_adam_beta2 --arch_adam_eps "
    "--arch_weight_decay --arch_init_ratio --target_hardware --grad_update_arch_param_every "
    "--grad_update_steps --grad_binary_mode --grad_data_batch --grad_reg_loss_type "
    "--grad_reg_loss_lambda --grad_reg_loss_alpha --grad_reg_loss_beta --valid_size --dataset --rl_batch_size "
    "--rl_update_per_epoch --rl_update_steps_per_epoch --rl_tradeoff_ratio"
)


def test_round_trip():
    changed = with_settings(
        SearchConfig(recipe="fast"),
        {
            "manual_seed": 7, "data_path": "a b/é", "resolution": 40, "n_worker": 0, "strict_data": True,
            "zero_gamma": False, "grad_clip": 5, "arch_lr": None, "target_latency_ms": 12.5,
            "grad_reg_loss_type": "mul#log", "width_mult": 0.35,
        },
    )  # fmt: skip
    for settings in (SearchConfig(), changed, from_recipe("digits")):
        text = json.dumps(to_dict(settings), allow_nan=False)
        assert from_dict(json.loads(text), "memory") == settings
    assert to_dict(changed)["manual_seed"] == 7
    assert changed.weights.grad_clip == 5.0


def test_every_setting_is_saved_under_its_flag():
    saved = to_dict(SearchConfig())
    assert list(saved) == ["format", "version", "recipe", *flags()]
    nested = dataclasses.asdict(SearchConfig())
    leaves = [name for value in nested.values() if isinstance(value, dict) for name in value]
    assert len(leaves) == len(set(leaves))  # flat names cannot collide
    assert set(leaves) | {"manual_seed", "device", "precision", "torch_threads", "kernels"} == set(flags())


@pytest.mark.parametrize("name", recipe_names())
def test_recipes_load(name):
    settings = from_recipe(name)
    assert settings.recipe == name
    raw = json.loads((config.RECIPE_DIR / f"{name}.json").read_text())
    about = raw.pop("about")
    assert about.endswith(".")
    saved, default = to_dict(settings), to_dict(SearchConfig())
    for key, value in raw.items():
        assert saved[key] == value
    for key, value in saved.items():
        if key not in raw and key != "recipe":
            assert value == default[key]


# argparse defaults of the release (search/imagenet_arch_search.py of mit-han-lab/proxylessnas), under its names
RELEASED_DEFAULTS = {
    "manual_seed": 0, "n_epochs": 120, "init_lr": 0.025, "dataset": "imagenet", "train_batch_size": 256,
    "test_batch_size": 1000, "valid_size": 50000, "momentum": 0.9, "weight_decay": 4e-5, "label_smoothing": 0.1,
    "width_mult": 1.0, "bn_momentum": 0.1, "bn_eps": 1e-3, "dropout": 0, "arch_algo": "grad", "warmup_epochs": 40,
    "arch_init_ratio": 1e-3, "arch_lr": 1e-3, "arch_adam_beta1": 0, "arch_adam_beta2": 0.999, "arch_adam_eps": 1e-8,
    "arch_weight_decay": 0, "grad_update_arch_param_every": 5, "grad_update_steps": 1, "grad_binary_mode": "full_v2",
    "grad_data_batch": None, "grad_reg_loss_type": "mul#log", "grad_reg_loss_lambda": 0.1, "grad_reg_loss_alpha": 0.2,
    "grad_reg_loss_beta": 0.3, "rl_batch_size": 10, "rl_update_per_epoch": False, "rl_update_steps_per_epoch": 300,
    "rl_tradeoff_ratio": 0.1,
}  # fmt: skip
# what it has in its code or under another name
RELEASED_OTHERWISE = {
    "nesterov": True,  # not --no_nesterov
    "no_decay_bn": False,  # --no_decay_keys None
    "warmup_lr": 0.05,  # lr_max of warm_up()
    "resize_scale": None,  # 0.08, as ours by default
    "augment": "imagenet",  # --distort_color normal
    "grad_clip": None,
    "path_sampling": "alpha",
    "zero_gamma": False,
    "arch_rest_epochs": 1,  # if epoch > 0 in train()
    "zero_rule": "release",  # MixedEdge skips the update
    "rl_data_batch": 1000,  # test_batch_size in rl_update_step()
    "rl_reward": "paper",
    "rl_baseline_momentum": 0.01,  # baseline += 0.99 * (mean reward - baseline) ...
    "rl_baseline_rule": "release",  # ... before it is subtracted
    "rl_freeze": 0.0,
    "derive": "argmax",
}


def test_the_recipe_of_the_paper_is_the_release():
    saved, released = to_dict(from_recipe("paper")), RELEASED_DEFAULTS | RELEASED_OTHERWISE
    assert {name: saved[name] for name in released} == released


def test_default_recipes_are_there():
    assert {"default", "digits", "fast"} <= set(recipe_names())


def test_a_recipe_file_of_ones_own(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text('{"about": "Mine.", "n_epochs": 3}')
    assert from_recipe(str(path)).weights.n_epochs == 3
    path.write_text('{"n_epochs": 3, "n_epocs": 4}')
    with refused("n_epocs", "'n_epochs'", source=path):
        from_recipe(str(path))
    path.write_text("[1]")
    with refused("", "object", source=path):
        from_recipe(str(path))
    with refused("", "no such file", source=tmp_path / "none.json"):
        from_recipe(str(tmp_path / "none.json"))
    with refused("recipe", "'digit'", "'digits'"):
        from_recipe("digit")


@pytest.mark.parametrize(
    ("typed", "meant"), [("n_epoch", "n_epochs"), ("widthmult", "width_mult"), ("grad_bin_mode", "grad_binary_mode")]
)
def test_an_unknown_setting_suggests_the_nearest(typed, meant):
    with refused(typed, repr(meant), source="file.json"):
        with_settings(SearchConfig(), {typed: 1}, "file.json")
    with refused(f"--{typed}", f"'--{meant}'", "--help_all"):
        parse([f"--{typed}", "1"])


def bounded():
    for name, (_, setting, kind) in flags().items():
        base, _ = base_type(kind)
        for side, sign in (("minimum", -1), ("maximum", 1)):
            bound = setting.metadata.get(side)
            if bound is not None:
                yield pytest.param(
                    name, base(bound), base(bound + sign * (1 if base is int else abs(bound) or 1)), id=f"{name}-{side}"
                )


NEEDED = {"blocks_per_stage": {"space": "tree"}, "final_width": {"space": "tree"},
          "target_macs": {"target_hardware": "flops"}}  # fmt: skip


@pytest.mark.parametrize(("name", "last", "beyond"), list(bounded()))
def test_bounds(name, last, beyond):
    assert to_dict(with_settings(SearchConfig(), {name: last, **NEEDED.get(name, {})}))[name] == last
    with pytest.raises(InputError, match=f"^{flag_of(flags()[name][1])}: expected"):
        with_settings(SearchConfig(), {name: beyond})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("n_epochs", 1.0), ("n_epochs", "3"), ("n_epochs", True), ("n_epochs", None), ("init_lr", "0.1"),
        ("init_lr", float("nan")), ("init_lr", float("inf")), ("init_lr", False), ("strict_data", 1),
        ("strict_data", None), ("dataset", "mnist"), ("dataset", 3), ("grad_binary_mode", "full_v3"),
        ("target_hardware", "tpu"), ("arch_algo", "darts"), ("data_path", 5), ("resolution", 7), ("manual_seed", -1),
        ("grad_reg_loss_type", "mul#lin"), ("device", None),
    ],
)  # fmt: skip
def test_wrong_values(name, value):
    with pytest.raises(InputError, match=f"^{flag_of(flags()[name][1])}: expected"):
        with_settings(SearchConfig(), {name: value})


def test_none_where_it_means_by_default():
    optional = {name for name, (_, _, kind) in flags().items() if base_type(kind)[1]}
    assert {"resolution", "arch_lr", "target_latency_ms", "grad_clip", "n_worker", "data_path"} <= optional
    for name in optional:
        assert to_dict(with_settings(SearchConfig(), {name: None}))[name] is None


def test_flags_of_the_release_are_there():
    parser = Parser(prog="test")
    config.add_flags(parser)
    options = {option for action in parser._actions for option in action.option_strings}
    assert {flag for flag in RELEASED_FLAGS if flag not in ("--path", "--resume")} <= options
    parsed = parse(
        [
            "--path",
            "run",
            "--resume",
            "--n_epochs",
            "3",
            "--init_lr",
            "0.5",
            "--train_batch_size",
            "8",
            "--manual_seed",
            "4",
            "--arch_algo",
            "grad",
            "--arch_lr",
            "0.1",
            "--warmup_epochs",
            "2",
            "--grad_binary_mode",
            "two",
            "--grad_update_arch_param_every",
            "3",
            "--width_mult",
            "0.5",
            "--n_worker",
            "2",
        ]
    )
    assert (str(parsed.path), parsed.resume, parsed.n_epochs, parsed.grad_binary_mode) == ("run", True, 3, "two")
    assert parsed.width_mult == 0.5


def test_flags_that_are_not_given_are_left_to_the_recipe():
    given = vars(parse(["--n_epochs", "3"]))
    run = {"path": None, "resume": False, "recipe": None, "warmup_from": None}
    assert given == {**run, "dry_run": False, "strict_landing": False, "n_epochs": 3}
    assert vars(parse(["--no_zero_gamma"]))["zero_gamma"] is False
    assert vars(parse(["--strict_data"]))["strict_data"] is True


@pytest.mark.parametrize(
    ("words", "values"),
    [
        (["--n_epochs", "many"], ["integer", "'many'"]),
        (["--n_epochs"], ["one argument"]),
        (["--n_epo", "3"], ["unknown", "'--n_epochs'"]),  # no abbreviations
        (["stray"], ["a flag"]),
    ],
)
def test_a_wrong_command_line_is_our_error(words, values):
    with refused(words[0], *values):
        parse(words)


def test_every_flag_has_a_help_text():
    for name, (_, setting, _) in flags().items():
        assert len(setting.metadata["help"]) > 5, name
    parser = Parser(prog="test")
    config.add_flags(parser)
    shown = parser.format_help_all()
    assert isinstance(parser, argparse.ArgumentParser)
    assert all(any(f"--{name}{end}" in shown for end in " ,\n") for name in flags())


STRANGE = (
    None, True, False, 0, 1, -1, 3, 2**31, 2**70, -0.0, 0.5, 1e308, 1e-320, "", "full", "digits", "NaN", "é" * 100,
    [], [1], {}, {"a": 1}, [[[]]],
)  # fmt: skip


def mutate(rng, value):
    """One random change to the text or the value of a config file."""
    kind = rng.randrange(7)
    key = rng.choice(list(value))
    if kind == 0:
        value.pop(key)
    elif kind == 1:
        value[key] = rng.choice(STRANGE)
    elif kind == 2:
        value[key + rng.choice(["", "s", "_"])] = rng.choice(STRANGE)
    elif kind == 3:
        return rng.choice([*STRANGE, [value], {"config": value}])
    elif kind == 4:
        other = rng.choice(list(value))
        value[key], value[other] = value[other], value[key]
    text = json.dumps(value)
    if kind == 5:
        place = rng.randrange(len(text))
        return text[:place] + rng.choice('{}[]",:0e-. \x00nft') + text[place + rng.randrange(3) :]
    if kind == 6:
        return text[: rng.randrange(len(text))]
    return text


def test_mutated_files_give_our_error_or_a_valid_config(tmp_path):
    rng = random.Random(0)
    path = tmp_path / "config.json"
    refused = accepted = 0
    for _ in range(100):
        found = mutate(rng, to_dict(from_recipe(rng.choice(recipe_names()))))
        path.write_text(found if isinstance(found, str) else json.dumps(found))
        try:
            settings = read_config(path)
        except InputError as error:
            assert str(path) in str(error)
            refused += 1
        else:
            assert from_dict(to_dict(settings), "again") == settings
            accepted += 1
    assert refused > 50
    assert accepted > 1


def test_a_missing_setting_is_an_error_unless_a_resume_fills_it():
    saved = to_dict(SearchConfig()) | {"manual_seed": 7}
    older = {name: value for name, value in saved.items() if name not in ("strict_data", "grad_clip")}
    with refused("", "missing", "strict_data, grad_clip", source="memory"):
        from_dict(older, "memory")
    assert to_dict(from_dict(older, "memory", fill_missing=True)) == saved
    (said,) = note_on_absent(from_dict(older, "memory", fill_missing=True), older)
    named(said, "config.json", "strict_data=False", "grad_clip=None")
    bare = {name: saved[name] for name in ("format", "version", "recipe")}
    with pytest.raises(InputError, match="missing manual_seed, device, "):
        from_dict(bare, "memory")
    for fill in (True, False):  # what a file must have is not filled
        with pytest.raises(InputError, match=r"^recipe: missing"):
            from_dict({name: saved[name] for name in saved if name != "recipe"}, "memory", fill_missing=fill)


def test_format_and_version_are_checked():
    saved = to_dict(SearchConfig())
    for key, value in (("format", "other"), ("version", 2), ("version", True), ("version", "1")):
        with pytest.raises(InputError, match=f"^{key}: expected"):
            from_dict(saved | {key: value}, "memory")
