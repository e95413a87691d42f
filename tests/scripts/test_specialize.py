"""search/specialize.py as a user types it, on tiny searches."""

import json

import pytest

from proxyless_arch.codec import read_spec
from proxyless_arch.cost import total_macs
from proxyless_arch.shapes import walk
from search import specialize
from search.latency import network_ms, shipped

TINY = ["--warmup_epochs", "0", "--n_epochs", "1", "--width_mult", "0.1", "--resolution", "8"]


def test_two_targets_are_searched_crossed_and_not_searched_again(tmp_path, capsys):
    command = ["--targets", "mobile,flops", "--path", str(tmp_path), *TINY]
    assert specialize.main(command) == 0
    printed = capsys.readouterr().out
    record = json.loads((tmp_path / "specialization.json").read_text())
    assert record["devices"] == ["mobile"]
    assert [row["searched_for"] for row in record["networks"]] == ["mobile", "flops"]
    for row in record["networks"]:
        assert f"{row['test_top1_percent']:.1f} % ({round(3.6 * row['test_top1_percent'])} of 360 images)" in printed
        spec = read_spec(tmp_path / row["searched_for"] / "spec.json")
        assert row["macs"] == total_macs(spec)
        assert row["predicted_ms"]["mobile"] == pytest.approx(network_ms(shipped("pixel1"), walk(spec)), rel=1e-12)
        assert row["measured"]["mobile"] is None
    mobile, flops = record["networks"]
    assert 0.99 * mobile["asked"] <= mobile["predicted_ms"]["mobile"] <= mobile["asked"]
    assert 0.99 * flops["asked"] <= flops["macs"] <= flops["asked"]
    assert "searched for" in printed
    assert (tmp_path / "specialization.png").stat().st_size > 10_000
    before = (tmp_path / "mobile" / "checkpoint.pt").stat().st_mtime_ns
    assert specialize.main(command) == 0
    assert (tmp_path / "mobile" / "checkpoint.pt").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("targets", "problem"),
    [
        ("mobil", "expected mobile, cpu, gpu8 or flops, or cpu:RUNTIME, got 'mobil'"),
        ("mobile:litert", "got 'mobile:litert'"),
        ("flops,flops", "named twice"),
    ],
)
def test_wrong_targets(tmp_path, capsys, targets, problem):
    assert specialize.main(["--targets", targets, "--path", str(tmp_path)]) == 2
    assert problem in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_search_that_fails_is_named(tmp_path, capsys):
    assert specialize.main(["--targets", "mobile", "--path", str(tmp_path), "--n_epoch", "1"]) == 2
    errors = capsys.readouterr().err
    assert "did you mean '--n_epochs'" in errors
    assert "mobile: the search for this target did not finish" in errors
