"""benchmarks/bench_growth.py: exponents that are known, its verdict, and one real growth."""

import json

import numpy as np
import pytest

from benchmarks import bench_growth
from benchmarks.bench_growth import exponent_of
from benchmarks.growth_tasks import Growth


@pytest.mark.parametrize("power", [0.0, 1.0, 2.0])
def test_the_exponent_of_a_power(power):
    """What is paid once makes small sizes dear, and is not in the largest ones."""
    work = np.array([1.0, 10.0, 100.0, 1000.0, 1e4])
    rng = np.random.default_rng(0)
    rounds = work**power * rng.uniform(0.95, 1.05, (9, 5))
    rounds[:, 0] += 5
    found = exponent_of(work, rounds)
    assert found.low <= power <= found.high
    assert found.high - found.low < 0.05


@pytest.mark.parametrize(("power", "most", "status"), [(1.0, 1.0, 0), (1.5, 1.0, 1), (0.3, 0.0, 1)])
def test_what_grows_faster_fails_the_command(power, most, status, monkeypatch, tmp_path, capsys):
    growth = Growth("made", "things", (1, 10, 100), lambda n: (n, lambda: n**power), most)
    monkeypatch.setattr(bench_growth, "growths", lambda work, most_images: {"made / things": growth})
    monkeypatch.setattr(bench_growth, "cpu_ms", lambda run: run())
    record, picture = tmp_path / "growth.json", tmp_path / "growth.svg"
    assert bench_growth.main(["--output", str(record), "--picture", str(picture)]) == status
    (found,) = json.loads(record.read_text())["growths"]
    assert found["exponent"][0] == pytest.approx(power, abs=1e-3)
    assert (found["verdict"] == "MISSED") == (status == 1)
    assert "made" in picture.read_text()


def test_opening_images_is_timed(tmp_path, capsys):
    growths = bench_growth.growths(tmp_path, 1000)
    for name in ("opening a folder / images", "opening a zip / images"):
        work, run = growths[name].make(1000)
        assert len(run()) == work == 1000
    assert bench_growth.main(["--only", "nothing of that name"]) == 2
    assert "--only" in capsys.readouterr().err
