"""experiments/landing_digits.py: its figures by hand, its rows against the search command, and how it goes on."""

import json
import shlex

import pytest

from experiments import landing_digits as landing
from search import imagenet_arch_search
from search.run.checkpoint import Checkpoint
from tests.errors import error_line


def row(**changes):
    return {
        "algorithm": "two", "target_share": 0.7, "seed": 0, "asked_ms": 2.0, "expected_ms": 2.02,
        "expected_distance_percent": 1.0, "argmax_ms": 1.99, "argmax_distance_percent": -0.5, "derived_ms": 1.99,
        "inside": True, "blocks_changed": 1,
    } | changes  # fmt: skip


def test_the_figures_by_hand():
    far = row(argmax_ms=2.2, argmax_distance_percent=10.0, blocks_changed=4)
    lost = row(seed=1, argmax_ms=1.9, argmax_distance_percent=-5.0, inside=False, derived_ms=None)
    del lost["blocks_changed"]
    found = landing.summary([row(), far, lost, row(expected_distance_percent=-3.0)])
    assert found["searches"] == 4
    assert found["derived_inside_percent"] == 75
    assert found["argmax_inside_percent"] == 50
    # of .5, .5, 5 and 10 percent; the 90th percentile lies 7/10 of the way from the third to the fourth
    assert found["absolute_argmax_distance_percent"] == {"median": 2.75, "percentile_90": 8.5, "max": 10.0}
    assert found["absolute_expected_distance_percent"]["max"] == 3.0
    assert found["blocks_changed"] == {"mean": 2.0, "max": 4}
    both = landing.by_algorithm([row(), row(algorithm="rl", target_share=0.9), row(target_share=0.9)])
    assert {name: (own["searches"], list(own["targets"])) for name, own in both.items()} == {
        "two": (2, ["0.7", "0.9"]),
        "rl": (1, ["0.9"]),
    }


@pytest.fixture
def short(monkeypatch):
    """The experiment with searches of two weight and four architecture steps."""
    tiny = {"width_mult": 0.05, "resolution": 8, "valid_size": 1373.0, "train_batch_size": 32, "warmup_epochs": 1}
    monkeypatch.setattr(landing, "SHORT", landing.SHORT | tiny | {"grad_update_steps": 2})
    monkeypatch.setattr(landing, "SHARES", (0.8,))


@pytest.mark.slow
def test_a_row_is_what_the_command_gives(short, tmp_path, capsys):
    words = ["--seeds", "3", "--output", str(tmp_path / "out.json"), "--picture", str(tmp_path / "out.svg")]
    assert landing.main(words) == 0
    assert capsys.readouterr().out.count(" 1 searches: ") == 3
    words_drawn = (tmp_path / "out.svg").read_text()
    assert all(title in words_drawn for title in landing.TITLES.values()) and words_drawn.count("<circle") >= 9
    record = json.loads((tmp_path / "out.json").read_text())
    assert [r["algorithm"] for r in record["searches"]] == ["full_v2", "two", "rl"]
    assert record["architecture_steps"] == 4
    found = next(r for r in record["searches"] if r["algorithm"] == "rl")
    assert found["asked_ms"] == 0.8 * record["mean_ms"]
    settings = {**landing.SHORT, **landing.ALGORITHMS["rl"], "target_latency_ms": found["asked_ms"], "manual_seed": 3}
    words = shlex.split(" ".join(f"--{name} {value}" for name, value in settings.items()))
    assert imagenet_arch_search.main(["--path", str(tmp_path / "run"), *words]) == 0
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["predicted_latency_ms"] == found["derived_ms"]
    assert result["argmax_latency_ms"] == found["argmax_ms"]
    assert result["expected_cost"] == found["expected_ms"]
    assert found["inside"] is (0.99 * found["asked_ms"] <= found["derived_ms"] <= found["asked_ms"])


def test_it_goes_on_where_it_stopped_and_keeps_its_settings(short, tmp_path, monkeypatch, capsys):
    done = []

    def landed(algorithm, seed, share, mean_ms, warm):
        assert isinstance(warm, Checkpoint)
        if len(done) == 4:
            raise KeyboardInterrupt
        done.append((seed, share, algorithm))
        return row(algorithm=algorithm, seed=seed, target_share=share)

    monkeypatch.setattr(landing, "landed", landed)
    words = ["--seeds", "0", "1", "--output", str(tmp_path / "out.json")]
    assert landing.main(words) == 130
    first = list(done)
    done.clear()
    assert landing.main(words) == 0
    assert first == [(0, 0.8, "full_v2"), (0, 0.8, "two"), (0, 0.8, "rl"), (1, 0.8, "full_v2")]
    assert done == [(1, 0.8, "two"), (1, 0.8, "rl")]
    rows = json.loads((tmp_path / "out.json").read_text())["searches"]
    assert [(r["seed"], r["target_share"], r["algorithm"]) for r in rows] == first + done
    monkeypatch.setattr(landing, "SHORT", landing.SHORT | {"warmup_lr": 0.3})
    assert landing.main(words) == 2
    error_line(capsys.readouterr().err, "--output", "settings", source=tmp_path / "out.json")
