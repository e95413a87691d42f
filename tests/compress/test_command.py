"""prune.py on the digits: its product, resuming, several targets, and what it refuses."""

import json
import re
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from compress import PruneConfig, read_result, run_pruning
from compress.pruning import runner
from compress.pruning.config import SETTINGS
from compress.pruning.environment import Environment
from compress.pruning.result import commands
from compress.start import split_images, training_config
from hardware.latency import load_latency_source, network_ms
from hardware.profile.profiling import Measured
from proxyless_arch.apps.train_settings import open_data
from proxyless_arch.arch.codec import read_spec, write_spec
from proxyless_arch.arch.spec import with_classes
from proxyless_arch.arch.tensors import expected_tensors
from proxyless_arch.arch.walk import total_macs, walk
from proxyless_arch.base.cli import BAD_INPUT, FAILED, INTERRUPTED
from proxyless_arch.base.errors import InputError, StoppedError
from proxyless_arch.base.progress import Progress
from proxyless_arch.base.units import format_count
from proxyless_arch.weights.files import read_tensors, save_safetensors
from proxyless_commands import eval as evaluating
from proxyless_commands.prune import main
from tests.compress.nets import tensors, trained
from tests.compress.specs import SPEC
from tests.errors import named
from tests.proxyless_arch.launch.made_engines import Inline

ROOT = Path(__file__).resolve().parents[2]
DIGITS = replace(SPEC, name="digits", classifier=replace(SPEC.classifier, out_features=10))
FEW = ["--dataset", "digits", "--target_hardware", "flops", "--width_multiple", "4", "--device", "cpu"]
FEW += ["--calibration_images", "64", "--choosing_images", "64", "--evaluations", "2"]


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    path = tmp_path_factory.mktemp("net") / "net.safetensors"
    save_safetensors(path, DIGITS, tensors(trained(DIGITS)), {})
    return str(path)


@pytest.fixture(scope="module")
def product(network, tmp_path_factory):
    """A run with an epoch of fine-tuning."""
    folder = tmp_path_factory.mktemp("run") / "small"
    words = ["--arch", network, *FEW, "--keep", "0.6", "--finetune_epochs", "1", "--run_dir", str(folder)]
    assert main(words) == 0
    return folder


def record_of(folder):
    return json.loads((folder / "result.json").read_text())


def test_the_product_is_a_network_with_its_weights(product):
    record, spec = record_of(product), read_spec(product / "spec.json")
    assert {name: tensor.shape for name, tensor in read_tensors(product / "weights.safetensors").tensors.items()} == (
        expected_tensors(spec)
    )
    assert record["macs"] == total_macs(spec) <= 0.6 * record["parent_macs"]
    assert record["target_macs"] == pytest.approx(0.6 * record["parent_macs"])
    assert record["target_latency_ms"] is record["measured_latency_ms"] is None
    assert record["evaluations"] == 2
    names = ("inherited_top1_percent", "top1_percent", "parent_top1_percent", "test_top1_percent")
    assert all(0 <= record[name] <= 100 for name in names)
    for name in ("architecture.png", "damage.png", "curve.png", "pruned/spec.json", "finetune/result.json"):
        assert (product / name).is_file(), name
    assert read_result(product).spec == spec


class Slower:
    """A machine on which networks take 1.3 times what their prices say, and the one that is pruned 1.5 times, which
    spills its cache; the first timing of each network is noise."""

    def __init__(self, source):
        self.source, self.timed, self.reference_ms = source, [], None
        self.speed = 4.0

    def beside(self, calls, reference_ms=None):
        assert total_of(calls) < total_macs(DIGITS) / 3
        self.reference_ms = reference_ms or self.speed
        return self

    def time(self, calls):
        is_first = calls not in self.timed
        self.timed.append(calls)
        ms = (1.5 if total_of(calls) == total_macs(DIGITS) else 1.3) * network_ms(self.source, calls)
        return Measured(ms=ms, sd=0.2 * ms if is_first else 0.0, rounds=9, n=9, other_ms=ms, raw_ms=ms, anchor_ms=1.0)


def total_of(calls):
    return sum(call.macs for call in calls)


@pytest.fixture
def slower(monkeypatch):
    source = load_latency_source(ROOT / "hardware" / "tables" / "amd_epyc_onnxruntime_predictor.json")
    machine = Slower(source)
    monkeypatch.setattr("compress.pruning.session.latency_source", lambda *_: (source, machine))
    monkeypatch.setattr("compress.pruning.session.unmeasured", lambda *_: None)
    return machine


def test_a_device_is_measured_until_the_network_lands_on_it(network, tmp_path, slower):
    words = ["--arch", network, *FEW, "--target_hardware", "cpu", "--keep", "0.8", "--finetune_epochs", "0"]
    assert main([*words, "--run_dir", str(tmp_path / "run")]) == 0
    record = record_of(tmp_path / "run")
    assert record["landed"] is True
    assert record["parent_measured_latency_ms"] == pytest.approx(1.5 * record["parent_predicted_latency_ms"])
    assert record["target_latency_ms"] == pytest.approx(0.8 * record["parent_measured_latency_ms"])
    assert record["measured_latency_ms"] == pytest.approx(record["target_latency_ms"], rel=0.02)
    assert record["measured_latency_ms"] == pytest.approx(1.3 * record["predicted_latency_ms"])
    assert record["table_scale"] == pytest.approx(1.3)
    assert slower.timed.count(slower.timed[-1]) > 2  # once more behind the choice, which flatters


class OneOff(Slower):
    """A machine as its prices say, but for the first network that is pruned, which takes a tenth more."""

    def time(self, calls):
        self.timed.append(calls)
        pruned = [each for each in self.timed if total_of(each) != total_macs(DIGITS)]
        ms = (1.1 if pruned[:1] == [calls] else 1.0) * network_ms(self.source, calls)
        return Measured(ms=ms, sd=0.0, rounds=9, n=9, other_ms=ms, raw_ms=ms, anchor_ms=1.0)


def test_where_the_best_plan_is_off_the_next_best_is_measured(network, tmp_path, slower, monkeypatch):
    machine = OneOff(slower.source)
    monkeypatch.setattr("compress.pruning.session.latency_source", lambda *_: (slower.source, machine))
    words = ["--arch", network, *FEW, "--target_hardware", "cpu", "--keep", "0.8", "--finetune_epochs", "0"]
    assert main([*words, "--run_dir", str(tmp_path / "run")]) == 0
    record = record_of(tmp_path / "run")
    assert record["landed"] is True and record["table_scale"] == pytest.approx(1)  # projected once
    assert record["choosing_loss"] == max(each["loss"] for each in record["scored"])
    assert len({each["loss"] for each in record["scored"]}) == 2


def test_a_target_is_judged_by_what_the_network_takes_and_not_by_its_prediction(network, tmp_path, slower, capsys):
    predicted = network_ms(slower.source, walk(DIGITS))
    words = ["--arch", network, *FEW, "--target_hardware", "cpu", "--finetune_epochs", "0", "--dry_run"]
    assert main([*words, "--target_latency_ms", f"{1.2 * predicted}"]) == 0
    (takes,) = re.findall(r"the network takes ([\d.]+) ms here", capsys.readouterr().out)
    assert float(takes) == pytest.approx(1.5 * predicted, rel=5e-3)  # three digits of it are shown
    assert main([*words, "--target_latency_ms", f"{1.6 * predicted}"]) == BAD_INPUT


def test_a_resumed_run_keeps_the_time_of_the_network_before(network, tmp_path, slower, monkeypatch):
    """On a machine that has become twice as slow: its targets, shares of that time, would be others."""
    score, words = Environment.score, ["--arch", network, *FEW, "--target_hardware", "cpu", "--keep", "0.8"]

    def interrupted(self, path):
        raise KeyboardInterrupt

    monkeypatch.setattr(Environment, "score", interrupted)
    assert main([*words, "--finetune_epochs", "0", "--run_dir", str(tmp_path / "run")]) == INTERRUPTED
    monkeypatch.setattr(Environment, "score", score)
    predicted = network_ms(slower.source, walk(DIGITS))
    slower.speed = 8.0
    monkeypatch.setattr(slower, "time", lambda calls: pytest.fail("timed again") if calls == walk(DIGITS) else
                        Slower.time(slower, calls))  # fmt: skip
    assert main(["--run_dir", str(tmp_path / "run"), "--resume"]) == 0
    assert record_of(tmp_path / "run")["target_latency_ms"] == pytest.approx(0.8 * 1.5 * predicted)
    assert slower.reference_ms == 4.0  # and the speed at which that was measured


@pytest.mark.parametrize("is_better", [True, False])
def test_fine_tuning_that_makes_it_worse_is_not_kept(is_better, network, tmp_path, monkeypatch, capsys):
    """By the held-out images: a product is never worse on them than before its fine-tuning."""
    other = {}

    def tuned(run, folder, spec):
        other.update(
            {name: tensor + 1 for name, tensor in read_tensors(folder / "pruned/weights.safetensors").tensors.items()}
        )
        return other, (100.0 if is_better else 0.0, 50.0)

    monkeypatch.setattr("compress.pruning.runner._Run._finetune", tuned)
    words = ["--arch", network, *FEW, "--keep", "0.6", "--finetune_epochs", "1", "--run_dir", str(tmp_path / "run")]
    assert main(words) == 0
    record, kept = record_of(tmp_path / "run"), read_tensors(tmp_path / "run/weights.safetensors").tensors
    before = read_tensors(tmp_path / "run/pruned/weights.safetensors").tensors
    assert record["finetuning_is_kept"] is is_better
    assert record["top1_percent"] == (100.0 if is_better else record["inherited_top1_percent"])
    assert all(np.array_equal(kept[name], (other if is_better else before)[name]) for name in before)
    assert ("fine-tuning is not kept" in capsys.readouterr().out) is not is_better


def test_fine_tuning_learns_from_the_network_before(product):
    config = json.loads((product / "finetune" / "config.json").read_text())
    assert config["teacher"].endswith("parent") and config["distillation"] == 0.7
    assert read_spec(product / "parent" / "spec.json").stem == DIGITS.stem


def test_a_setting_may_be_named_as_its_flag_or_as_in_config_json():
    keys = {"n_worker": 3, "manual_seed": 4, "train_batch_size": 9, "image_size": 24}
    config = PruneConfig.of(workers=3, seed=4, batch_size=9, resolution=24, keep=0.5, arch=Path("a"))
    assert {name: SETTINGS.to_dict(config)[name] for name in keys} == keys
    assert config == PruneConfig.of(**keys, keep="0.5", arch="a")


def test_a_finished_run_is_read_again(product, monkeypatch):
    monkeypatch.setattr(Environment, "network", None)  # nothing is computed
    before = record_of(product)
    assert main(["--run_dir", str(product), "--resume"]) == 0
    assert record_of(product) == before


def test_an_interrupted_run_goes_on_to_the_same_product(network, tmp_path, monkeypatch, capsys):
    config = PruneConfig.of(
        arch=network, dataset="digits", target_hardware="flops", keep=0.5, width_multiple=4, device="cpu",
        calibration_images=64, choosing_images=64, evaluations=3, finetune_epochs=0,
    )  # fmt: skip
    whole = run_pruning(config, tmp_path / "whole", say=None)
    score, count = Environment.score, []

    def interrupted(self, path):
        count.append(path)
        if len(count) == 2:
            raise KeyboardInterrupt
        return score(self, path)

    monkeypatch.setattr(Environment, "score", interrupted)
    words = ["--arch", network, *FEW, "--keep", "0.5", "--evaluations", "3", "--finetune_epochs", "0"]
    assert main([*words, "--run_dir", str(tmp_path / "cut")]) == INTERRUPTED
    assert "--resume" in capsys.readouterr().out
    monkeypatch.setattr(Environment, "score", score)
    assert main(["--run_dir", str(tmp_path / "cut"), "--resume"]) == 0
    one, other = (read_tensors(tmp_path / name / "weights.safetensors").tensors for name in ("whole", "cut"))
    assert whole is not None and all(np.array_equal(one[name], other[name]) for name in one)
    assert whole.record["scored"] == record_of(tmp_path / "cut")["scored"]


@pytest.mark.parametrize("method", ["amc", "random", "uniform"])
def test_every_method_keeps_to_the_target(method, network, tmp_path):
    words = ["--arch", network, *FEW, "--keep", "0.7", "--method", method, "--finetune_epochs", "0"]
    assert main([*words, "--run_dir", str(tmp_path / "run")]) == 0
    record = record_of(tmp_path / "run")
    assert record["macs"] <= 0.7 * record["parent_macs"]
    assert record["top1_percent"] == record["inherited_top1_percent"]
    assert record["evaluations"] == (1 if method == "uniform" else 2) == read_result(tmp_path / "run").config.n_plans


@pytest.mark.parametrize("more", [["--keep", "0.7"], []])
def test_most_parameters_are_kept_to(more, network, tmp_path):
    words = ["--arch", network, *FEW, *more, "--max_params", "2.5e3", "--finetune_epochs", "0"]
    assert main([*words, "--run_dir", str(tmp_path / "run")]) == 0
    record = read_result(tmp_path / "run").record
    assert record["params"] <= record["max_params"] == 2500 < record["parent_params"]


def test_images_that_the_network_gets_right_by_chance_alone_are_doubted(network, tmp_path, capsys):
    """Of a weight file that does not name its classes, nothing else tells."""
    tensors_of = dict(read_tensors(network).tensors)
    tensors_of["classifier.linear.weight"] = np.zeros_like(tensors_of["classifier.linear.weight"])
    save_safetensors(tmp_path / "zero.safetensors", DIGITS, tensors_of, {})
    words = [*FEW, "--keep", "0.6", "--finetune_epochs", "0", "--method", "uniform"]
    assert main(["--arch", str(tmp_path / "zero.safetensors"), *words, "--run_dir", str(tmp_path / "run")]) == 0
    found = record_of(tmp_path / "run")["parent_top1_percent"]
    assert any(f"{found:.1f} %" in line for line in lines_labeled("note", capsys.readouterr().out))


def lines_labeled(label, out):
    return [line for line in out.splitlines() if line.split()[:1] == [label]]


def test_several_targets_share_their_measurements(network, tmp_path, capsys):
    words = ["--arch", network, *FEW, "--keep", "0.5,0.8", "--finetune_epochs", "0"]
    assert main([*words, "--run_dir", str(tmp_path / "run")]) == 0
    family = read_result(tmp_path / "run").family
    assert_picked_from(tmp_path / "run", family, capsys.readouterr().out)
    assert [each.folder.name for each in family] == ["0.5", "0.8"]
    assert family[0].record["macs"] <= 0.5 * family[0].record["parent_macs"]
    assert family[0].record["macs"] <= family[1].record["macs"] <= 0.8 * family[0].record["parent_macs"]
    assert (tmp_path / "run" / "curve.png").is_file()
    error = refused(["--arch", str(tmp_path / "run"), *FEW], capsys)  # which of them?
    assert error.startswith("error: --arch:")
    assert all(str(tmp_path / "run" / each) in error for each in ("0.5", "0.8"))


@pytest.mark.slow
def test_networks_that_are_fine_tuned_elsewhere_are_the_same(network, tmp_path, monkeypatch):
    words = ["--arch", network, *FEW, "--keep", "0.5,0.8", "--finetune_epochs", "1", "--threads", "1"]
    assert main([*words, "--run_dir", str(tmp_path / "here")]) == 0
    monkeypatch.chdir(tmp_path)
    assert main([*words, "--jobs", "2", "--run_dir", "there"]) == 0
    for name in ("0.5", "0.8"):
        one, other = (read_tensors(tmp_path / run / name / "weights.safetensors") for run in ("here", "there"))
        assert one.spec == other.spec
        assert all(np.array_equal(one.tensors[each], other.tensors[each]) for each in one.tensors)
        own, theirs = (record_of(tmp_path / run / name) for run in ("here", "there"))
        assert {key for key in own if own[key] != theirs[key]} <= {"wall_seconds"}
        assert "epoch" in (tmp_path / "there" / "jobs" / f"{name}.log").read_text()


def test_a_fine_tuning_that_fails_is_named_and_leaves_the_other_to_go_on(network, tmp_path, monkeypatch, capsys):
    """The others are trained to their end; given again, only what is missing is done."""
    train, begun = runner.run_training, []

    def break_once(config, place, **how):
        begun.append(Path(place).parent.name)
        if begun == ["0.5"]:
            raise StoppedError("the loss is no finite number")
        return train(config, place, **how)

    monkeypatch.setattr(runner, "run_training", break_once)
    monkeypatch.setattr("proxyless_arch.launch.launcher.Launcher._place", lambda *launcher: Inline())
    run = str(tmp_path / "run")
    words = ["--arch", network, *FEW, "--keep", "0.5,0.8", "--finetune_epochs", "1", "--distillation", "0"]
    assert main([*words, "--jobs", "2", "--run_dir", run]) == FAILED
    named(capsys.readouterr().err.splitlines()[-1], "0.5", "finite")
    assert (begun, (tmp_path / "run" / "0.8" / "finetune" / "result.json").is_file()) == (["0.5", "0.8"], True)
    assert main(["--jobs", "2", "--run_dir", run, "--resume"]) == 0
    assert [member.folder.name for member in read_result(run).family] == ["0.5", "0.8"]


def assert_picked_from(folder, family, out):
    """What was printed and family.html hold every network with its figures, and how to go on with it."""
    html = (folder / "family.html").read_text()
    assert "<svg" in html and "http" not in html.replace("http-equiv", "")
    table = out[out.index("  networks ") :]
    for member in family:
        row = next(line for line in table.splitlines() if line.split()[:1] == [member.folder.name])
        for cell in (format_count(member.record["macs"]), f"{member.record['inherited_test_top1_percent']:.1f}"):
            assert cell in row and f"<td>{cell}</td>" in html
        assert f"eval.py --arch {member.folder}" in table and f"export.py --arch {member.folder}" in html
    assert table.count("before fine-tuning") == 0


def test_no_label_of_the_header_is_cut(network, capsys):
    """Every text of a header starts in the same column."""
    assert main(["--arch", network, *FEW, "--keep", "0.6", "--dry_run"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("  ")]
    assert len(lines) > 8
    assert {line[12] for line in lines} == {" "} and all(line[13] != " " for line in lines)


def test_progress_is_shown_before_the_first_plan(network, tmp_path, monkeypatch):
    """By what is done: no stage of measuring is silent, and each counts to its end."""
    bars = []

    class Bar(Progress):
        def __init__(self, total, unit, **given):
            super().__init__(total, unit, **given)
            bars.append(self)

    monkeypatch.setattr("compress.run.Progress", Bar)
    lines = []
    config = PruneConfig.of(
        arch=network, dataset="digits", target_hardware="flops", keep=0.6, width_multiple=4, device="cpu",
        calibration_images=64, choosing_images=64, evaluations=1, finetune_epochs=0,
    )  # fmt: skip
    run_pruning(config, tmp_path / "run", say=lines.append)
    assert [bar.unit for bar in bars] == ["img", "", "change"]
    assert all(bar.done == bar.total > 0 for bar in bars)
    first_plan = next(number for number, line in enumerate(lines) if line.startswith("  plan"))
    assert sum(line.startswith(("measuring", "ordering", "trying")) for line in lines[:first_plan]) == 3


def test_the_cheapest_network_within_a_drop(network, tmp_path):
    words = ["--arch", network, *FEW, "--max_drop", "100", "--finetune_epochs", "0"]
    assert main([*words, "--run_dir", str(tmp_path / "run")]) == 0
    record = record_of(tmp_path / "run")
    assert record["macs"] < 0.5 * record["parent_macs"]
    assert record["max_drop"] == 100


def test_a_dry_run_writes_nothing(network, tmp_path, capsys):
    words = ["--arch", network, *FEW, "--keep", "0.6", "--dry_run", "--run_dir", str(tmp_path / "run")]
    assert main(words) == 0
    assert not (tmp_path / "run").exists()
    assert "expected" in capsys.readouterr().out


def test_no_flag_of_training_is_offered(product, capsys):
    assert main(["--arch", str(product), *FEW, "--keep", "0.9", "--dry_run"]) == 0
    out = capsys.readouterr().out
    assert "inherited from" in out and "--from_scratch" not in out


def test_the_next_commands_are_complete(product, capsys):
    assert main(["--run_dir", str(product), "--resume"]) == 0
    out = capsys.readouterr().out
    assert "before fine-tuning" in out
    lines = out[out.index("\n  next ") :].replace("next", "", 1).splitlines()
    commands = {words[1].split("/")[-1]: words[2:] for words in map(shlex.split, lines) if words}
    assert [*commands] == ["eval.py", "quantize.py", "export.py", "export_tf.py", "train.py"]
    assert (product / "report.html").is_file()
    assert all(words[:2] == ["--arch", str(product)] for words in commands.values())
    assert evaluating.main([*commands["eval.py"], "--workers", "0", "--device", "cpu"]) == 0


def test_an_export_is_checked_on_the_images_of_the_run(product):
    """With their classes, where they lie in a folder."""
    result = read_result(product)
    own = replace(result, config=replace(result.config, data_path="my photos"))
    exports = [words for words in map(shlex.split, commands(own)) if "export" in words[1]]
    assert [words[-2:] for words in exports] == [["--check", "my photos"]] * 2
    assert not any("--check" in line for line in commands(result))


def refused(words, capsys):
    assert main(words) == BAD_INPUT
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "place"),
    [
        (["--keep", "0.01"], "--keep"),
        (["--keep", "1.5"], "--keep"),
        (["--keep", "0.5,x"], "--keep"),
        (["--target_macs", "100"], "--target_macs"),
        (["--target_latency_ms", "3"], "--target_latency_ms"),
        (["--keep", "0.5", "--max_drop", "1"], "--keep"),
        (["--keep", "0.5", "--max_params", "10"], "--max_params"),
        (["--as_released"], "--as_released"),
    ],
)
def test_impossible_targets_are_refused_before_anything_is_written(more, place, network, tmp_path, capsys):
    assert place in refused(["--arch", network, *FEW, *more, "--run_dir", str(tmp_path / "run")], capsys)
    assert not (tmp_path / "run").exists()


def test_the_reachable_range_is_named(network):
    config = PruneConfig.of(arch=network, dataset="digits", target_hardware="flops", target_macs=100, device="cpu")
    with pytest.raises(InputError) as error:
        run_pruning(config, say=None)
    assert "MACs to" in error.value.problem and error.value.place == "--target_macs"


def test_a_network_without_weights_is_refused(tmp_path, capsys):
    write_spec(tmp_path / "net.json", DIGITS)
    assert "--arch" in refused(["--arch", str(tmp_path / "net.json"), *FEW], capsys)


def test_a_known_network_without_weights_is_refused(tmp_path, capsys):
    error = refused(["--arch", "mobilenetv4_conv_small", *FEW, "--run_dir", str(tmp_path / "run")], capsys)
    assert error.startswith("error: --arch:") and "mobilenetv4_conv_small" in error


@pytest.mark.parametrize("n_classes", [10, 1000])
def test_a_checkpoint_as_peoples_scripts_write_them_is_a_start(n_classes, tmp_path, capsys):
    """A spec, as it was trained or before its classifier was replaced, and the state of a wrapped network beside what
    else a training saves."""
    write_spec(tmp_path / "net.json", with_classes(DIGITS, n_classes))
    state = {f"module.{name}": value for name, value in trained(DIGITS).state_dict().items()}
    torch.save({"epoch": 3, "state_dict": state, "optimizer": {"lr": 0.1}}, tmp_path / "ours.pth")
    words = ["--arch", str(tmp_path / "net.json"), "--weights", str(tmp_path / "ours.pth"), *FEW, "--dry_run"]
    assert main(words) == 0
    assert "ours.pth" in capsys.readouterr().out


def test_weights_of_another_network_are_refused(network, tmp_path, capsys):
    other = replace(DIGITS, feature_mix=replace(DIGITS.feature_mix, kernel_size=3))
    save_safetensors(tmp_path / "other.safetensors", other, tensors(trained(other)), {})
    words = ["--arch", network, "--weights", str(tmp_path / "other.safetensors"), *FEW]
    assert "other.safetensors" in refused(words, capsys)


def test_images_of_other_classes_are_refused(tmp_path, capsys):
    net = tmp_path / "net.safetensors"
    save_safetensors(net, SPEC, tensors(trained(SPEC)), {})
    error = refused(["--arch", str(net), *FEW], capsys)
    assert "--data_path" in error and f"train.py --arch {net}" in error


def test_images_of_as_many_other_classes_are_refused(tmp_path, capsys):
    """Neither another order: the network would be judged by the wrong names."""
    for names in (tuple(map(str, range(9, -1, -1))), tuple("abcdefghij")):
        save_safetensors(tmp_path / "net.safetensors", replace(DIGITS, class_names=names), tensors(trained(DIGITS)), {})
        assert "--data_path" in refused(["--arch", str(tmp_path / "net.safetensors"), *FEW], capsys)


def test_fewer_images_than_classes_are_refused(tmp_path, capsys, monkeypatch):
    from compress.pruning import session

    wide = replace(DIGITS, name="wide")
    save_safetensors(tmp_path / "net.safetensors", wide, tensors(trained(wide)), {})
    opened = session.open_data
    few = lambda config: replace(opened(config), train=opened(config).train.subset([0, 1, 2]))  # noqa: E731
    monkeypatch.setattr(session, "open_data", few)
    assert "--data_path" in refused(["--arch", str(tmp_path / "net.safetensors"), *FEW], capsys)


def test_a_table_that_cannot_price_a_width_names_what_can(network, tmp_path, capsys):
    table = {
        "format": "proxyless-latency/table",
        "version": 2,
        "unit": "ms",
        "entries": [{"op": "linear", "in": [6, 6, 16], "out": [1, 1, 10], "ms": 0.1}],
    }
    (tmp_path / "table.json").write_text(json.dumps(table))
    words = ["--arch", network, "--dataset", "digits", "--latency_table", str(tmp_path / "table.json")]
    error = refused([*words, "--run_dir", str(tmp_path / "run")], capsys)
    assert "predictor.json" in error and "profile_latency.py" in error


def test_what_calibrates_does_not_choose_and_what_tests_does_neither(network):
    config = PruneConfig.of(arch=network, dataset="digits", calibration_images=100, choosing_images=400)
    data = open_data(training_config(config)[0])
    calibrating, held, more = (set(part.names) for part in split_images(data, config))
    assert len(calibrating) == 100 and len(held) + len(more) == 400
    assert held == set(data.valid.names) and more <= set(data.train.names)
    assert not calibrating & (held | more) and not set(data.test.names) & (calibrating | held | more)
