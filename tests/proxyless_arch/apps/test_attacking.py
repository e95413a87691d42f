"""What attack.py is asked to do, what it counts, and what that says of the gradients."""

from dataclasses import replace

import pytest

from proxyless_arch.apps.attacking import (
    ATTACKS,
    SETTINGS,
    AttackConfig,
    Tally,
    alarms,
    as_record,
    folder_name,
    steps_of,
)
from proxyless_arch.apps.scores import score_interval
from proxyless_arch.base.errors import InputError
from proxyless_arch.base.files import write_json

HONEST = Tally(
    n_images=200,
    clean=160,
    held={"fgsm": 60, "r_fgsm": 70, "pgd": 20, "apgd_ce": 18, "apgd_dlr": 19, "transfer": 90, "square": 40},
    all_held=15,
    by_step=[160 * 2.0, 160 * 1.0, 160 * -1.0, 160 * -1.5],
    queries=16_000,
    amplification={"float": {"image": 8.0, "classifier": 80.0}},
    n_amplified=160,
)


@pytest.mark.parametrize(
    ("text", "steps"),
    [("8/255", 8), ("1/255", 1), (" 4 / 255", 4), ("0.03", 7), ("1", 255), ("0.031372549", 7), ("16/510", 8)],
)  # fmt: skip
def test_epsilon_counts_whole_steps_of_8_bits(text, steps):
    assert steps_of(AttackConfig.of(epsilon=text).epsilon) == steps


@pytest.mark.parametrize(
    "text",
    ["0", "0/255", "1/256", "-8/255", "8", "256/255", "2", "nan", "inf", "eight", "8/0", "", "1_0/255", "8//255"],
)
def test_an_epsilon_that_is_none_is_refused(text):
    with pytest.raises(InputError) as error:
        AttackConfig.of(epsilon=text)
    assert error.value.place == "--epsilon"
    assert ("8/255" in error.value.problem) or text != "8"


@pytest.mark.parametrize(
    ("given", "place"),
    [
        ({"attacks": "fgsm,pdg"}, "--attacks"),
        ({"attacks": ""}, "--attacks"),
        ({"attacks": "transfer"}, "--attacks"),
        ({"arch": "net.onnx"}, "--arch"),
        ({"arch": "net.tflite"}, "--arch"),
        ({"steps": 1}, "--steps"),
        ({"restarts": 0}, "--restarts"),
        ({"limit": 0}, "--limit"),
    ],
)
def test_settings_that_mean_nothing_are_refused(given, place):
    with pytest.raises(InputError) as error:
        AttackConfig.of(**given)
    assert error.value.place == place


def test_the_attacks_that_are_possible():
    assert AttackConfig().names(10) == tuple(name for name in ATTACKS if name != "transfer")
    assert AttackConfig(transfer_from="x").names(10) == ATTACKS
    assert "apgd_dlr" not in AttackConfig().names(2)
    assert AttackConfig(attacks="square,fgsm").names(2) == ("fgsm", "square")
    with pytest.raises(InputError):
        AttackConfig(attacks="apgd_dlr").names(2)


def test_settings_come_back_from_their_file(tmp_path):
    config = AttackConfig.of(arch="efficientnet_lite0", epsilon="0.05", attacks="pgd", limit=7)
    write_json(tmp_path / "config.json", SETTINGS.to_dict(config))
    assert SETTINGS.read(tmp_path / "config.json") == config


def test_sums_add_up():
    twice = HONEST.plus(HONEST)
    assert (twice.n_images, twice.held["pgd"], twice.by_step[0]) == (400, 40, 640)
    assert twice.means() == HONEST.means() == {"float": {"image": 0.05, "classifier": 0.5}}
    empty = Tally(n_images=3, held=dict.fromkeys(HONEST.held, 0))
    assert HONEST.plus(empty) == replace(HONEST, n_images=203, by_step=list(HONEST.by_step))
    assert empty.plus(HONEST).held == HONEST.held


def test_no_sign_of_masking_no_alarm():
    assert alarms(HONEST) == []
    assert alarms(replace(HONEST, held={**HONEST.held, "square": 17})) == [], "by chance"
    assert alarms(Tally(n_images=10, clean=9, held={"square": 0})) == [], "nothing along the gradient to compare with"


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"held": {**HONEST.held, "square": 10}}, "square"),
        ({"held": {**HONEST.held, "transfer": 10}}, "transfer"),
        ({"held": {**HONEST.held, "fgsm": 5, "apgd_ce": 5}}, "fgsm"),
        ({"zero_gradients": 1}, "gradient is 0"),
        ({"by_step": [160 * 2.0] * 4}, "steps"),
    ],
)
def test_each_sign_of_masking_raises_an_alarm(changes, word):
    (found,) = alarms(replace(HONEST, **changes))
    assert word in found


def test_a_network_that_never_holds_needs_no_more_steps():
    assert alarms(replace(HONEST, held={**HONEST.held, "pgd": 0, "apgd_ce": 0}, by_step=[-1.0] * 4)) == []


def test_the_record_has_wilsons_intervals():
    record = as_record(HONEST, tuple(HONEST.held))
    assert list(record["accuracy"]) == ["clean", *HONEST.held, "all"]
    pgd = record["accuracy"]["pgd"]
    assert (pgd["hits"], pgd["percent"]) == (20, 10)
    assert pgd["interval_95"] == pytest.approx(score_interval(10, 200), abs=1e-3)
    assert record["square_queries_mean"] == 100
    assert record["pgd_margin_by_step"] == [2.0, 1.0, -1.0, -1.5]


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("cat", "cat"),
        ("bière", "bière"),
        *((name, "0007") for name in ("a/b", "..", "", "x.", "x" * 300)),
    ],
)
def test_a_class_that_names_no_folder_is_called_by_its_number(name, folder):
    assert folder_name(name, 7) == folder
