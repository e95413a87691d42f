"""benchmarks/bench_eval.py says whether the promises of speed and agreement hold, by its exit status too."""

import json

import pytest

from benchmarks import bench_eval
from tests.errors import named

VARIANTS = [name for names in bench_eval.PROCESSES.values() for name in names]
FAST = {"torch plain": 40.0, "torch plain tuned": 20.0}


def measured(times, differences, absent=()):
    """Stands in for measure: milliseconds of two rounds of every variant, and how far the logits are apart."""
    per_round = {name: times.get(name, [FAST.get(name, 10.0)] * 2) for name in VARIANTS if name not in absent}
    apart = {name: 1e-6 for name in per_round if name not in bench_eval.OTHERS}
    return lambda arguments: (per_round, apart | differences, {"torch": 1.0, "tensorflow": 1.0})


@pytest.mark.parametrize(
    ("times", "differences", "missed"),
    [
        ({}, {"eval.py bf16": 0.05}, []),
        ({"eval.py": [10.0, 14.0]}, {}, ["eval.py over torch plain:", "3.0", "2.857"]),
        ({"eval_tf.py": [12.0, 10.0]}, {}, ["eval_tf.py over tf.function:", "0.9", "0.833"]),
        ({}, {"eval.py": 2e-4}, ["eval.py:", "0.0001", "0.0002"]),
        ({}, {"eval_tf.py": float("inf")}, ["eval_tf.py:", "0.0001", "inf"]),
    ],
)
def test_a_promise_that_is_missed_fails_the_command(times, differences, missed, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(bench_eval, "measure", measured(times, differences))
    path = tmp_path / "speed.json"
    assert bench_eval.main(["--rounds", "2", "--save_json", str(path)]) == (1 if missed else 0)
    told = json.loads(path.read_text())["missed"]
    assert capsys.readouterr().err.splitlines() == [f"missed: {line}" for line in told]
    assert len(told) == (1 if missed else 0)
    named(" ".join(told), *missed)


@pytest.mark.parametrize("flag", ["--batch_size", "--rounds", "--threads"])
def test_nothing_cannot_be_measured(flag, capsys):
    assert bench_eval.main([flag, "0"]) == 2
    assert capsys.readouterr().err.startswith(f"error: {flag}: expected an integer")


def test_the_ratios_are_promised_at_batch_32_only(monkeypatch):
    monkeypatch.setattr(bench_eval, "measure", measured({"eval.py": [39.0, 39.0]}, {}))
    assert bench_eval.main(["--rounds", "2"]) == 1
    assert bench_eval.main(["--rounds", "2", "--batch_size", "8"]) == 0


@pytest.mark.parametrize("absent", [(), (bench_eval.CV,), bench_eval.OTHERS])
def test_peers_are_beside_ours_where_they_are_installed(absent, monkeypatch, tmp_path, capsys):
    """They promise nothing, and their logits are those of other weights."""
    monkeypatch.setattr(bench_eval, "measure", measured({bench_eval.CV: [90.0, 90.0]}, {}, absent))
    path = tmp_path / "speed.json"
    assert bench_eval.main(["--rounds", "2", "--batch_size", "1", "--save_json", str(path)]) == 0
    record = json.loads(path.read_text())
    over = {row["over"]: row["median"] for row in record["speedup"]}
    assert {name: name in over for name in bench_eval.OTHERS} == {
        name: name not in absent for name in bench_eval.OTHERS
    }
    assert absent or over[bench_eval.CV] == 9.0
    told = [line for line in capsys.readouterr().out.splitlines() if line.startswith("not measured: ")]
    assert [name for name in bench_eval.OTHERS if any(name in line for line in told)] == list(absent)
    assert all(record["ms_per_image"][name]["largest_difference"] is None for name in bench_eval.OTHERS if name in over)
