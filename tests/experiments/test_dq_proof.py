"""experiments/dq_proof.py: a row of a tiny study, its means and its table, and a record of another study."""

import json

import numpy as np
import pytest

from experiments import dq_proof
from proxyless_arch.weights.files import save_safetensors
from proxyless_nas.weights import to_named
from tests.compress.nets import trained


@pytest.fixture
def study(tmp_path, monkeypatch):
    """Images and networks as if they had been written and trained."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for part, count in (("train", 2), ("test", 1)):
        for label in "abcdefghij":
            folder = tmp_path / "photos" / part / label
            folder.mkdir(parents=True)
            for number in range(count):
                Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).save(folder / f"{number}.png")
    spec = dq_proof.spec_of()
    for name, seed in (("base_0_0", 0), ("base_100_0", 1)):
        (tmp_path / name).mkdir()
        save_safetensors(tmp_path / name / "weights.safetensors", spec, to_named(trained(spec, seed)), {})
        (tmp_path / name / "result.json").write_text("{}")
    monkeypatch.setattr(dq_proof, "CALIBRATED", 10)
    return dq_proof.Study(data_path="", work=tmp_path, epsilon=8, pgd_steps=2, queries=3)


def test_a_row_and_its_record(study):
    images = dq_proof.test_images(study)
    assert images.pixels.shape == (10, 3, 32, 32)
    assert (images.transferred - images.pixels).abs().max() <= 8
    case = dq_proof.Case(0, 0.0, 8)
    net = dq_proof.net_of(study, case)
    seen = dq_proof.pixel_forward(net, net.spec.preprocessing)(images.pixels).argmax(1)
    row = dq_proof.measured(study, case, images._replace(labels=seen))
    assert row["clean"] == 100
    assert row["all"] <= min(row[name] for name in ("fgsm", "pgd", "transfer", "square"))
    assert next(iter(row["amplification"])) == "image"
    found = dq_proof.record(study, [row])
    assert found["rows"] == [row] and found["study"]["epsilon"] == 8
    assert len(found["summary"]) == 1


def row(seed, penalty, bits, value):
    scores = dict.fromkeys(dq_proof.SCORES, value)
    errors = {"image": 0.01, "blocks.0": 0.1, "blocks.10": value / 100, "feature_mix_layer": 0.3, "classifier": 0.4}
    return {"seed": seed, "penalty": penalty, "bits": bits, **scores, "amplification": errors}


def test_means_are_over_seeds_with_intervals():
    rows = [row(0, 0.0, 0, 10.0), row(1, 0.0, 0, 20.0), row(0, 3e-4, 4, 30.0)]
    first, second = dq_proof.summary(rows)
    assert (first["penalty"], first["bits"], first["seeds"]) == (0.0, 0, [0, 1])
    assert first["pgd"]["mean"] == 15
    half = 12.7062 * np.std([10, 20], ddof=1) / np.sqrt(2)
    assert first["pgd"]["interval_95"] == pytest.approx([15 - half, 15 + half], rel=1e-4)
    assert first["error_last_block"]["mean"] == pytest.approx(0.15)
    assert second["pgd"]["interval_95"] is None
    assert first["gap_to_float"] is first["gap_to_no_penalty"] is second["gap_to_float"] is None


def test_gaps_are_to_the_same_seed():
    rows = [
        row(seed, 0.0, bits, value) for seed, bits, value in ((0, 0, 10.0), (1, 0, 20.0), (0, 4, 7.0), (1, 4, 15.0))
    ]
    gap = dq_proof.summary(rows)[1]["gap_to_float"]
    assert gap["all"]["mean"] == -4
    assert gap["error_last_block"]["mean"] == pytest.approx(-0.04)


def test_the_table_has_a_line_for_each_kind():
    first, second = dq_proof.summary([row(0, 0.0, 0, 10.0), row(0, 3e-4, 4, 30.0)])
    lines = dq_proof.table([first, second])
    assert len(lines) == 3
    assert "float" in lines[1]
    assert "30.0" in lines[2]


def test_every_case_once():
    cases = list(dq_proof.cases(dq_proof.Study(data_path="")))
    assert len(cases) == len(set(cases)) == 36


def test_a_network_is_there_before_its_copies(tmp_path):
    study = dq_proof.Study(data_path="", work=tmp_path)
    cases = list(dq_proof.cases(study))
    assert dq_proof.ready(study) == [case for case in cases if case.bits == 0]
    dq_proof.file_of(study, cases[0]).touch()
    ready = dq_proof.ready(study)
    assert cases[0] not in ready and len(ready) == 5 + 5
    assert all(case.bits == 0 or (case.seed, case.penalty) == (0, 0.0) for case in ready)


def test_cases_are_done_by_their_names_and_a_folder_of_another_study_is_refused(tmp_path, monkeypatch, capsys):
    words = ["--data_path", "", "--work", str(tmp_path), "--output", str(tmp_path / "out.json"), "--seeds", "2"]
    monkeypatch.setattr(dq_proof, "test_images", lambda study: None)
    monkeypatch.setattr(dq_proof, "measured", lambda study, case, images: row(*case, 10.0))
    assert dq_proof.main(words) == 0
    found = json.loads((tmp_path / "out.json").read_text())
    assert len(found["rows"]) == 24 and len(found["summary"]) == 12
    assert dq_proof.main([*words, "--summary", "--queries", "7"]) == 2
    assert "queries" in capsys.readouterr().err
