"""experiments/bits_finetune.py: the means over seeds, the differences image by image, and a record of another study."""

import json
import math

import pytest

from experiments import bits_finetune


def row(seed, bits, method, before, after):
    return {
        "seed": seed, "bits": bits, "method": method, "size_bytes": 10.0, "evaluations": 3, "before": before,
        "after": after, "cpu_seconds": 1.0,
    }  # fmt: skip


ROWS = [
    row(0, 32, "float32", "1111", "1111"),
    row(1, 32, "float32", "1110", "1111"),
    row(0, 3, "uniform", "0000", "0011"),
    row(1, 3, "uniform", "1000", "0011"),
    row(0, 3, "exact", "1100", "1111"),
    row(1, 3, "exact", "1100", "0011"),
]


def test_differences_are_by_image_over_the_mean_of_the_seeds():
    floats, uniform, exact = bits_finetune.summary(ROWS)
    assert (floats["method"], uniform["method"], exact["method"]) == ("float32", "uniform", "exact")
    assert exact["before"]["top1_percent"] == 50 and exact["after"]["by_seed"] == [100, 50]
    gain = exact["before"]["over_uniform"]  # by image .5, 1, 0, 0: mean 3/8, variance over 3 of these
    assert gain["points"] == pytest.approx(37.5)
    deviation = math.sqrt(sum((x - 0.375) ** 2 for x in (0.5, 1, 0, 0)) / 3)
    assert gain["half_width"] == pytest.approx(100 * 1.96 * deviation / 2)
    assert "over_uniform" not in uniform["before"] and "over_random" not in exact["before"]
    assert uniform["after"]["over_float"]["points"] == pytest.approx(-50)


def test_a_control_of_other_seeds_is_left_out():
    found = bits_finetune.summary(ROWS[2:3] + ROWS[4:])
    assert "over_uniform" not in found[-1]["before"]


def test_random_plans_that_are_compared_are_as_many():
    assert bits_finetune.controls_of(3, "haq 600") == {
        "float": (32, "float32"), "uniform": (3, "uniform"), "random": (3, "random 600"),
    }  # fmt: skip
    assert bits_finetune.controls_of(3, "random") == {"float": (32, "float32"), "uniform": (3, "uniform")}
    assert bits_finetune.controls_of(32, "float32") == {}


def study_in(folder, **given):
    return bits_finetune.Study(data_path="", work=folder, output=folder / "out.json", seeds=1, **given)


def test_every_plan_has_its_float_network_which_comes_first(tmp_path):
    study = study_in(tmp_path)
    cases = list(bits_finetune.cases(study))
    assert len({case.name for case in cases}) == len(cases) == 1 + 3 * 6
    assert [case.method for case in bits_finetune.ready(study)] == ["float32"]
    for case in cases[:2]:
        bits_finetune.file_of(study, case).touch()
    assert bits_finetune.ready(study) == cases[2:]


@pytest.fixture
def begun(tmp_path, monkeypatch):
    """A study in which nothing is left to do, and what its cases left."""
    start = bits_finetune.Start(bits_finetune.spec_of(), [None] * 4, None, {}, {}, {}, {"n_train": 5})
    monkeypatch.setattr(bits_finetune, "start_of", lambda study: start)
    for case, row in zip(bits_finetune.cases(study_in(tmp_path)), [ROWS[0], ROWS[2]], strict=False):
        bits_finetune.file_of(study_in(tmp_path), case).write_text(json.dumps(row))
    return ["--data_path", "", "--work", str(tmp_path), "--output", str(tmp_path / "out.json"), "--seeds", "1"]


def test_a_record_is_of_what_is_there(begun, tmp_path, capsys):
    assert bits_finetune.main([*begun, "--summary"]) == 0
    found = json.loads((tmp_path / "out.json").read_text())
    assert [one["method"] for one in found["summary"]] == ["float32", "uniform"]
    assert found["study"]["n_train"] == 5 and found["test_images"] == 4
    assert "before" not in found["rows"][0]
    assert len(capsys.readouterr().out.splitlines()) == 3


def test_a_folder_of_another_study_is_refused(begun, capsys):
    assert bits_finetune.main([*begun, "--summary"]) == 0
    assert bits_finetune.main([*begun, "--summary", "--evaluations", "7"]) == 2
    assert "evaluations" in capsys.readouterr().err


def test_cases_are_done_by_their_names(begun, tmp_path, monkeypatch):
    """Here one after the other, and elsewhere by this function."""
    done = []
    monkeypatch.setattr(bits_finetune, "measured", lambda study, case: done.append(case) or ROWS[0])
    assert bits_finetune.main(begun) == 0
    study = study_in(tmp_path)
    assert done == list(bits_finetune.cases(study))[2:]
    assert not bits_finetune.ready(study)


def test_the_table_has_a_line_for_each_method():
    assert len(bits_finetune.table(bits_finetune.summary(ROWS))) == 4


def test_methods_can_be_named(tmp_path, begun, capsys):
    named = [case.method for case in bits_finetune.cases(study_in(tmp_path, methods="exact,haq 600"))]
    assert named == ["float32", *["exact", "haq 600"] * 3]
    assert bits_finetune.main([*begun, "--methods", "exact,magic"]) == 2
    assert "magic" in capsys.readouterr().err
