"""experiments/bits_finetune.py: the means over seeds, the differences image by image, and a record of another study."""

import math

import pytest

from experiments import bits_finetune
from tests.errors import refused


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


def test_every_plan_has_its_float_network():
    cases = list(bits_finetune.cases(bits_finetune.Study(data_path="")))
    assert len(cases) == len(set(cases)) == 2 * (1 + 3 * 4)
    assert [case.seed for case in cases if case.method == "float32"] == [0, 1]


def test_a_record_of_another_study_is_refused(tmp_path):
    study = bits_finetune.Study(data_path="", work=tmp_path, output=tmp_path / "out.json")
    bits_finetune.save(study, ROWS)
    assert bits_finetune.known(study) == ROWS
    with refused("", "evaluations", source=tmp_path / "cases.json"):
        bits_finetune.known(bits_finetune.Study(data_path="", work=tmp_path, evaluations=7))


def test_the_table_has_a_line_for_each_method():
    assert len(bits_finetune.table(bits_finetune.summary(ROWS))) == 4
