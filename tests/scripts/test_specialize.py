"""search/specialize.py as a user types it, on tiny searches."""

import json
import shlex
from types import SimpleNamespace

import pytest

from hardware.latency import network_ms, shipped
from hardware.profile.pricing import Bench
from hardware.profile.profiling import Anchor
from proxyless_arch.arch.codec import read_spec
from proxyless_arch.arch.spec import Preprocessing
from proxyless_arch.arch.walk import total_macs, walk
from proxyless_arch.space.mbconv import TINY as TINY_MACRO
from proxyless_arch.space.mbconv import mbconv_space
from search import specialize
from search.run import family
from tests.errors import error_line, named
from tests.hardware.fake_device import FakeDevice

TINY = shlex.split(
    "--warmup_epochs 0 --n_epochs 1 --space tiny --width_mult 0.1 --resolution 8 --valid_size 1300 "
    "--recalibration_images 64"
)


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


def test_a_network_is_measured_at_the_speed_of_its_column_s_table():
    """This machine is a third slower than when the table was made."""
    space = mbconv_space(macro=TINY_MACRO, num_classes=10, preprocessing=Preprocessing(resolution=16, resize=16))
    reference_ms = Anchor(FakeDevice(), space, 1).ms()
    now = FakeDevice(slower=1 / 3)
    device = specialize.Device("cpu", shipped("pixel1"), Bench(Anchor(now, space, 1), reference_ms))
    spec = space.spec_for((1,) * space.n_edges)
    found = device.measured(spec)
    assert found["ms"] == pytest.approx(now.true_ms(walk(spec)))
    assert found["raw_ms"] == pytest.approx(4 / 3 * found["ms"])
    assert specialize.Device("mobile", shipped("pixel1")).measured(spec) is None


def test_a_column_is_measured_by_the_runtime_of_its_search(monkeypatch):
    """Named in the target, or by a flag for all searches."""
    asked = []
    monkeypatch.setattr("hardware.profile.pricing.runtime_named", lambda *words: asked.append(words))
    monkeypatch.setattr("hardware.profile.pricing.anchor_of", lambda *words: (None, None))
    run = SimpleNamespace(source=shipped("pixel1"), measured_ms=1.0, space=mbconv_space(),
                          settings={"runtime": "litert", "latency_threads": 2})  # fmt: skip
    goals = [specialize.Goal("cpu", None), specialize.Goal("cpu", "onnxruntime"), specialize.Goal("flops", None)]
    assert [device.name for device in specialize.devices_of(goals, [run] * 3)] == ["cpu", "cpu-onnxruntime"]
    assert [words[1:] for words in asked] == [("litert", 2), ("onnxruntime", 2)]


@pytest.mark.parametrize(
    ("targets", "values"),
    [
        ("mobil", ["mobile", "cpu", "gpu8", "flops", "cpu:RUNTIME", "'mobil'"]),
        ("mobile:litert", ["'mobile:litert'"]),
        ("flops,flops", ["flops", "twice"]),
    ],
)
def test_wrong_targets(tmp_path, capsys, targets, values):
    assert specialize.main(["--targets", targets, "--path", str(tmp_path)]) == 2
    error_line(capsys.readouterr().err, "--targets", *values)
    assert list(tmp_path.iterdir()) == []


def test_a_mistyped_flag_is_found_before_any_search(tmp_path, capsys):
    assert specialize.main(["--targets", "mobile", "--path", str(tmp_path), "--n_epoch", "1"]) == 2
    assert "did you mean '--n_epochs'" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_search_that_fails_is_named(tmp_path, capsys):
    assert specialize.main(["--targets", "mobile", "--path", str(tmp_path), "--train_batch_size", "60000"]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    named(line, "--batch_size", 60000, "mobile")


@pytest.mark.slow
def test_one_warm_up_serves_all_targets(tmp_path, capsys):
    few = ["--path", str(tmp_path), *TINY, "--warmup_epochs", "2"]
    assert specialize.main(["--targets", "mobile,flops", *few]) == 0
    printed = capsys.readouterr().out
    named(printed, "2 epochs", "saves 2 of 6")
    titles = [line.strip("= ").split() for line in printed.splitlines() if line.startswith("== ")]
    assert [words[0].strip(",") for words in titles] == ["mobile", "flops"]
    assert ("mobile" in titles[1][1:], len(titles[0])) == (True, 1)

    def warmup_of(name):
        return json.loads((tmp_path / name / "result.json").read_text())["warmup_from"]

    assert warmup_of("mobile") is None
    assert warmup_of("flops") == str(tmp_path / "mobile")
    # searches of other flags in the same folder: their warm-up is another, and they do it themselves
    (tmp_path / "flops").rename(tmp_path / "before")
    assert specialize.main(["--targets", "mobile,flops", *few, "--warmup_lr", "0.2"]) == 0
    printed = capsys.readouterr().out
    assert "done once" not in printed
    assert "== flops ==" in printed
    assert warmup_of("flops") is None


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ([], "saves 50 of 147 epochs"),
        (["--n_epochs", "0"], "saves 50 of 75 epochs"),
        (["--warmup_epochs", "0"], None),
        (["--warmup_from", "elsewhere"], None),
    ],
)
def test_what_sharing_saves(tmp_path, flags, expected):
    options, common = specialize.parse(["--targets", "mobile,cpu:litert,flops", *flags])
    searches = specialize.members(specialize.parse_goals(options.targets), common)
    line = family.sharing(searches, tmp_path, common.warmup_from)
    assert (line is None) if expected is None else line.endswith(expected)
