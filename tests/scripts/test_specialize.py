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
from proxyless_arch.base.cli import FAILED
from proxyless_arch.base.errors import StoppedError
from proxyless_arch.space.mbconv import TINY as TINY_MACRO
from proxyless_arch.space.mbconv import mbconv_space
from proxyless_arch.weights.files import load_safetensors
from search import specialize
from search.run import family
from tests.errors import error_line, named
from tests.hardware.fake_device import FakeDevice
from tests.proxyless_arch.launch.made_engines import Inline

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
def test_searches_in_other_processes_are_the_same(tmp_path, monkeypatch):
    common = ["--targets", "mobile,flops", *TINY, "--warmup_epochs", "1", "--threads", "1"]
    assert specialize.main([*common, "--path", str(tmp_path / "here")]) == 0
    monkeypatch.chdir(tmp_path)
    assert specialize.main([*common, "--path", "there", "--launcher", "local", "--jobs", "2"]) == 0
    here, there = (json.loads((tmp_path / run / "specialization.json").read_text()) for run in ("here", "there"))
    for one, other in zip(here["networks"], there["networks"], strict=True):
        name = one["searched_for"]
        assert (other.pop("run"), one.pop("run")) == (f"there/{name}", str(tmp_path / "here" / name))
        own, theirs = (load_safetensors(tmp_path / run / name / "weights.safetensors") for run in ("here", "there"))
        assert all((own.tensors[each] == theirs.tensors[each]).all() for each in own.tensors)
    assert here == there
    warm = [
        json.loads((tmp_path / "there" / name / "result.json").read_text())["warmup_from"]
        for name in ("mobile", "flops")
    ]
    assert warm == [None, str(tmp_path / "there" / "mobile")]


def test_a_search_that_fails_leaves_the_others_alone(tmp_path, capsys, monkeypatch):
    """It is named with what it said."""
    search = family.run_search

    def break_one(config, path, **how):
        if path.name == "mobile":
            raise StoppedError("the loss is no finite number")
        return search(config, path, **how)

    monkeypatch.setattr(family, "run_search", break_one)
    monkeypatch.setattr("proxyless_arch.launch.launcher.Launcher._place", lambda *launcher: Inline())
    assert specialize.main(["--targets", "mobile,flops", *TINY, "--path", str(tmp_path), "--jobs", "2"]) == FAILED
    named(capsys.readouterr().err.splitlines()[-1], "mobile", "finite")
    assert [(tmp_path / name / "result.json").exists() for name in ("mobile", "flops")] == [False, True]


def test_only_one_search_warms_up_and_the_others_wait(tmp_path, monkeypatch):
    monkeypatch.setattr(
        family, "warmed", lambda config, folders: next((f for f in folders if (f / "warmup.pt").is_file()), None)
    )
    members = specialize.members(specialize.parse_goals("mobile,flops,gpu8"), specialize.Common({}))

    def ready(*ended):
        return list(family._ready(members, tmp_path, None, ended))

    assert ready() == ["mobile"]
    (tmp_path / "mobile").mkdir()
    (tmp_path / "mobile" / "config.json").touch()
    assert ready() == ["mobile"]  # it has begun, and is not there yet
    assert ready("mobile") == ["mobile", "flops"]  # it failed: another one warms up
    (tmp_path / "mobile" / "warmup.pt").touch()
    assert ready() == ["mobile", "flops", "gpu8"]
    assert list(family._ready(members, tmp_path / "other", tmp_path, ())) == ["mobile", "flops", "gpu8"]
    cold = specialize.members(specialize.parse_goals("mobile,flops"), specialize.Common({"warmup_epochs": 0}))
    assert list(family._ready(cold, tmp_path / "other", None, ())) == ["mobile", "flops"]


def test_what_a_launcher_cannot_do_is_refused(tmp_path, capsys):
    command = ["--targets", "mobile,cpu", "--path", str(tmp_path / "run"), *TINY]
    assert specialize.main([*command, "--launcher", "slurm"]) == 2
    error_line(capsys.readouterr().err, "--launcher", "cpu", "local", "slurm")
    assert not (tmp_path / "run").exists()


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
        (["--arch_algo", "predictor"], "saves 50 of 75 epochs"),
        (["--warmup_epochs", "0"], None),
        (["--warmup_from", "elsewhere"], None),
    ],
)
def test_what_sharing_saves(tmp_path, flags, expected):
    options, common = specialize.parse(["--targets", "mobile,cpu:litert,flops", *flags])
    searches = specialize.members(specialize.parse_goals(options.targets), common)
    line = family.sharing(searches, tmp_path, common.warmup_from)
    assert (line is None) if expected is None else line.endswith(expected)
