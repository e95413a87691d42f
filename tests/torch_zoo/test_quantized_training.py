"""Training under a bit plan: what a step computes, what it learns, and what is left behind for both frameworks."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from proxyless_arch.arch.bits import FLOAT32, Format, Range, bit_layers, read_plan, uniform_plan, write_plan
from proxyless_arch.arch.codec import read_spec
from proxyless_arch.base.cli import BAD_INPUT
from proxyless_arch.weights.files import read_tensors, save_safetensors
from proxyless_commands.train import main
from proxyless_nas.quantized import build_quantized, quantizers
from proxyless_nas.quantized_training import learnt_plan, look_for_clips, train_under, weight_clips
from proxyless_nas.train import TrainConfig, TrainingStopped, run_training
from proxyless_nas.train.training import Training
from proxyless_nas.weights import to_named
from tests.compress.nets import images, tensors, trained
from tests.compress.specs import SPEC

DIGITS = replace(SPEC, name="digits", classifier=replace(SPEC.classifier, out_features=10))
FEW = {"n_epochs": 1, "valid_size": 1300, "train_batch_size": 64, "device": "cpu", "dataset": "digits"}


def plan_of(spec, format=Format(4, 4)):  # noqa: B008
    ranges = {layer.name: Range(3.0, signed=layer.leads) for layer in bit_layers(spec)}
    return uniform_plan(spec, format, ranges)


@pytest.mark.parametrize("padding", ["symmetric", pytest.param("same", marks=pytest.mark.slow)])
def test_a_forward_pass_is_that_of_the_definition(padding):
    spec = replace(SPEC, padding=padding)
    net = trained(spec)
    wanted = build_quantized(spec, tensors(net), plan_of(spec)).double()(images(4).double())
    train_under(net, plan_of(spec))
    np.testing.assert_allclose(net.double().eval()(images(4).double()).detach(), wanted.detach(), atol=1e-3)


def test_weights_scales_and_clips_learn_and_names_stay():
    net = trained()
    before = to_named(net)
    train_under(net, plan_of(SPEC))
    assert to_named(net).keys() == before.keys()
    net.eval()(images(8)).square().sum().backward()
    unmoved = [name for name, value in net.named_parameters() if value.grad is None or not value.grad.abs().sum()]
    assert unmoved == []
    assert all(np.array_equal(before[name], value) for name, value in to_named(net).items())
    found = learnt_plan(SPEC, net, plan_of(SPEC))
    assert found == plan_of(SPEC)
    shares = [each.clone() for each in weight_clips(net)]
    with torch.no_grad():
        net.first_conv.conv.weight[:, 0, 0, 0] = 50.0
    look_for_clips(net)
    assert not torch.equal(shares[0], weight_clips(net)[0]) and torch.equal(shares[1], weight_clips(net)[1])


def test_a_float_layer_and_a_float_input_stay():
    mixed = plan_of(SPEC).with_formats({"classifier.linear": FLOAT32, "feature_mix_layer": Format(4, None)})
    net = trained()
    train_under(net, mixed)
    assert len(weight_clips(net)) == len(bit_layers(SPEC)) - 1
    assert {"classifier.linear", "feature_mix_layer"}.isdisjoint(name for name, _ in quantizers(net))


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    folder = tmp_path_factory.mktemp("start")
    save_safetensors(folder / "net.safetensors", DIGITS, tensors(trained(DIGITS)), {})
    write_plan(folder / "plan.json", plan_of(DIGITS, Format(3, 4)))
    return folder


def test_a_training_leaves_weights_with_their_plan_and_scores_under_it(start, tmp_path):
    config = TrainConfig.of(arch=start / "net.safetensors", bits=start / "plan.json", init_lr=0.01, **FEW)
    result = run_training(config, tmp_path / "run", say=None)
    stored = read_tensors(tmp_path / "run" / "weights.safetensors")
    assert stored.bits == read_plan(tmp_path / "run" / "bits.json", read_spec(tmp_path / "run" / "spec.json"))
    assert stored.bits.formats == plan_of(DIGITS, Format(3, 4)).formats
    clips = [found.clip for found in stored.bits.ranges.values()]
    assert any(clip != 3.0 for clip in clips) and all(clip > 0.1 for clip in clips)
    net = build_quantized(stored.spec, stored.tensors, stored.bits)
    from proxyless_arch.data.datasets import digits
    from proxyless_nas.data import eval_batches
    from proxyless_nas.steps import evaluate

    found = evaluate(net, eval_batches(digits()[1], stored.spec.preprocessing, batch_size=64, n_workers=0))
    assert found.top1_percent == pytest.approx(result.test_top1_percent)


@pytest.mark.slow
def test_a_cut_training_goes_on_as_if_it_had_not_been(start, tmp_path, monkeypatch):
    config = TrainConfig.of(
        arch=start / "net.safetensors", bits=start / "plan.json", init_lr=0.01, **FEW, save_every_seconds=0
    )
    run_training(config, tmp_path / "whole", say=None)
    update, count = Training.update, []

    def cut(self, *given, **more):
        count.append(0)
        return update(self, *given, **more) or len(count) == 1

    monkeypatch.setattr(Training, "update", cut)
    with pytest.raises(TrainingStopped):
        run_training(config, tmp_path / "cut", say=None)
    monkeypatch.setattr(Training, "update", update)
    run_training(None, tmp_path / "cut", resume=True, say=None)
    one, other = (read_tensors(tmp_path / name / "weights.safetensors") for name in ("whole", "cut"))
    assert one.bits == other.bits
    assert all(np.array_equal(one.tensors[name], other.tensors[name]) for name in one.tensors)


@pytest.mark.parametrize(
    ("change", "more", "place"),
    [
        ({}, ["--activation_bits", "4"], "--activation_bits"),
        ({"quantizer": "tensor"}, [], "--bits"),
        ({"layers": {}}, [], "layers.first_conv"),
    ],
)
def test_what_cannot_be_trained_is_refused(change, more, place, start, tmp_path, capsys):
    plan = json.loads((start / "plan.json").read_text()) | change
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    words = ["--arch", str(start / "net.safetensors"), "--bits", str(tmp_path / "plan.json"), "--dataset", "digits"]
    assert main([*words, *more, "--epochs", "1", "--run_dir", str(tmp_path / "run")]) == BAD_INPUT
    assert place in capsys.readouterr().err
