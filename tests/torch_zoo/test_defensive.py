"""Defensive Quantization in training: the penalty against closed forms, rounded inputs that follow what passes."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

import train
from proxyless_arch.apps.scores import EvalResult
from proxyless_arch.apps.train_settings import Optimization
from proxyless_arch.arch import catalog
from proxyless_arch.arch.bits import bit_layers, check_plan
from proxyless_arch.arch.codec import write_spec
from proxyless_arch.arch.spec import BatchNorm
from proxyless_arch.base.errors import InputError
from proxyless_arch.data.datasets import digits
from proxyless_arch.weights.files import load_safetensors
from proxyless_nas.data import eval_batches
from proxyless_nas.defensive import (
    NORMAL_CLIPS,
    RELU6,
    TrackingQuantizer,
    activation_plan,
    calibrate,
    folded_rows,
    inputs_of,
    orthogonality,
    quantize_activations,
)
from proxyless_nas.layers import ConvBN
from proxyless_nas.network import build
from proxyless_nas.quantized import build_quantized, quantizers
from proxyless_nas.steps import evaluate
from proxyless_nas.train.session import check_defensive
from proxyless_nas.train.training import Schedule, Training
from tests.proxyless_arch.nets import three_blocks
from tests.scripts.mini import mini_net
from tests.torch_zoo.test_training import assert_same_bits, batch, values

SCHEDULE = Schedule(steps_per_epoch=4, n_epochs=2, warmup_epochs=0, init_lr=0.05)


def layer(seed=0, *, inputs=5, outputs=3, groups=1):
    """A convolution with batch normalization whose gain is no identity."""
    generator = torch.Generator().manual_seed(seed)
    made = ConvBN(inputs, outputs, 3, 1, BatchNorm(), "symmetric", groups=groups)
    with torch.no_grad():
        for tensor in (made.conv.weight, made.bn.weight):
            tensor.copy_(torch.randn(tensor.shape, generator=generator))
        made.bn.running_var.copy_(0.5 + torch.rand(outputs, generator=generator))
    return made


def operator(made):
    """The matrix of a layer in numpy, float64."""
    gain = made.bn.weight.detach().numpy() / np.sqrt(made.bn.running_var.numpy().astype(np.float64) + made.bn.eps)
    return gain[:, None] * made.conv.weight.detach().flatten(1).numpy()


@pytest.mark.parametrize("sizes", [{}, {"inputs": 1, "outputs": 12}])
def test_the_penalty_is_the_papers_up_to_a_constant(sizes):
    made = layer(**sizes)
    matrix = operator(made)
    papers = ((matrix.T @ matrix - np.eye(matrix.shape[1])) ** 2).sum()
    constant = max(0, matrix.shape[1] - len(matrix))
    assert orthogonality(made).item() == pytest.approx(papers - constant, rel=1e-5)


def test_an_isometry_costs_nothing_and_depthwise_rows_are_asked_for_their_length():
    made = layer(inputs=2, outputs=6)
    rows = np.linalg.qr(np.random.default_rng(0).normal(size=(18, 6)))[0].T
    with torch.no_grad():
        made.bn.weight.copy_((made.bn.running_var + made.bn.eps).sqrt())
        made.conv.weight.copy_(torch.from_numpy(rows).float().view(6, 2, 3, 3))
    assert orthogonality(made).item() == pytest.approx(0, abs=1e-9)
    deep = layer(inputs=4, outputs=4, groups=4)
    lengths = (operator(deep) ** 2).sum(1)
    assert orthogonality(deep).item() == pytest.approx(((lengths - 1) ** 2).sum(), rel=1e-5)


def test_the_length_of_a_row_is_left_to_the_batch_normalization_behind_it():
    made = layer()
    before = folded_rows(made).detach()
    orthogonality(made).backward()
    along = (made.conv.weight.grad * made.conv.weight).flatten(1).sum(1)
    torch.testing.assert_close(along, torch.zeros(3), rtol=0, atol=1e-3 * made.conv.weight.grad.abs().max().item())
    with torch.no_grad():
        made.conv.weight.mul_(4)
        made.bn.running_var.copy_(16 * (made.bn.running_var + made.bn.eps) - made.bn.eps)
    torch.testing.assert_close(folded_rows(made).detach(), before)


@pytest.mark.parametrize("spec", [three_blocks(), catalog.load("mobilenetv4_conv_small")], ids=lambda spec: spec.name)
def test_what_layers_take_in(spec):
    """As it is seen in a forward pass: signs, and what a ReLU6 cut off."""
    net, seen = build(spec, torch.Generator().manual_seed(0)).eval(), {}
    layers = bit_layers(spec)

    def noting(name):
        return lambda module, inputs: seen.update({name: (inputs[0].min().item(), inputs[0].max().item())})

    for layer in layers:
        net.get_submodule(layer.input_place).register_forward_pre_hook(noting(layer.name))
    net(40 * torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1)))
    inputs = inputs_of(layers)
    assert {name: low < 0 for name, (low, _) in seen.items()} == {name: each.signed for name, each in inputs.items()}
    assert all(high <= RELU6 for name, (_, high) in seen.items() if inputs[name].ends)
    assert any(not each.signed for each in inputs.values())
    assert any(not each.signed and not each.ends for each in inputs.values()) is (spec.name != "three")


def test_behind_a_relu_a_clip_is_that_of_half_a_normal_distribution():
    quantizer = TrackingQuantizer(4, signed=False)
    half = torch.randn(200_000, generator=torch.Generator().manual_seed(0)).relu()
    assert quantizer.clip_of(half).item() == pytest.approx(NORMAL_CLIPS[5], rel=0.01)
    assert len(quantizer(half).unique()) == 16


def test_a_clip_follows_the_size_of_what_passes_in_training_alone():
    quantizer = TrackingQuantizer(4)
    x = torch.randn(64, 3, generator=torch.Generator().manual_seed(0)) * 3
    start, wanted = NORMAL_CLIPS[4], NORMAL_CLIPS[4] * x.square().mean().sqrt().item()
    rounded = quantizer.train()(x)
    assert quantizer.clip.item() == pytest.approx(0.9 * start + 0.1 * wanted)
    assert len(rounded.unique()) <= 15
    kept = quantizer.clip.clone()
    quantizer.eval()(10 * x)
    assert torch.equal(quantizer.clip, kept)


def test_clips_of_trained_weights_begin_with_what_their_layers_take_in():
    net = build(three_blocks(), torch.Generator().manual_seed(0)).eval()
    images, labels = batch()
    taken = []
    handle = net.blocks[2].register_forward_pre_hook(lambda module, inputs: taken.append(inputs[0]))
    net(images)
    handle.remove()
    quantize_activations(net, 3)
    calibrate(net, [(images, labels)], torch.device("cpu"))
    clips = {name: quantizer.clip.item() for name, quantizer in quantizers(net)}
    assert clips["blocks.2"] == pytest.approx(NORMAL_CLIPS[3] * taken[0].square().mean().sqrt().item(), rel=1e-5)
    assert clips["blocks.0"] == clips["classifier.linear"] == RELU6
    plan = activation_plan(net.spec, net, 3)
    check_plan(plan, net.spec)
    assert plan.formats["first_conv"].is_float
    assert {each.activation_bits for name, each in plan.formats.items() if name != "first_conv"} == {3}
    assert plan.average_bits(net.spec) == 32


def training(seed=0, **settings):
    net = build(three_blocks(), torch.Generator().manual_seed(seed))
    return Training(net, Optimization(ema_decay=0.9, **settings), SCHEDULE, batch_size=8, seed=3)


def steps(state, numbers):
    for number in numbers:
        state.update(*batch(seed=number))
    return state


def test_it_is_off_by_default():
    state = training()
    assert "clips" not in state.state_dict()
    assert not list(quantizers(state.net))


def test_the_penalty_pulls_layers_towards_isometries_and_is_no_part_of_the_loss_reported():
    plain, held = steps(training(), range(4)), training(lipschitz=0.05)
    held.update(*batch(seed=0))
    first = training()
    first.update(*batch(seed=0))
    assert held.sums.loss == first.sums.loss
    steps(held, range(1, 4))
    assert orthogonality(held.net).item() < 0.9 * orthogonality(plain.net).item()


def test_a_stopped_training_with_rounded_inputs_goes_on_bit_for_bit():
    straight = steps(training(activation_bits=3, lipschitz=1e-3), range(6))
    state = steps(training(activation_bits=3, lipschitz=1e-3), range(3)).state_dict()
    state = {**state, "clips": {name: clip.clone() for name, clip in state["clips"].items()}}
    again = training(seed=1, activation_bits=3, lipschitz=1e-3)
    again.load_state_dict(state)
    steps(again, range(3, 6))
    assert_same_bits(values(straight.net), values(again.net))
    assert straight.state_dict()["clips"] == again.state_dict()["clips"]
    assert dict(quantizers(again.ema.net)).keys() == straight.state_dict()["clips"].keys()
    for name, quantizer in quantizers(again.ema.net):
        assert torch.equal(quantizer.clip, again.state_dict()["clips"][name]), name


@pytest.mark.parametrize("words", [["--activation_bits", "1"], ["--activation_bits", "9"], ["--lipschitz", "-1"],
                                   ["--lipschitz", "nan"]])  # fmt: skip
def test_settings_that_mean_nothing_are_refused(words, capsys):
    assert train.main(["--arch", "proxyless_mobile", "--dataset", "digits", *words]) == 2
    assert words[0] in capsys.readouterr().err


@pytest.mark.parametrize("given", [{"lipschitz": 3e-4}, {"activation_bits": 4}])
def test_trees_whose_batch_normalization_is_in_front_are_refused(given):
    spec = catalog.load("proxyless_cifar")
    check_defensive(Optimization(), spec)
    with pytest.raises(InputError) as error:
        check_defensive(Optimization(**given), spec)
    assert error.value.place == f"--{next(iter(given))}"


@pytest.mark.trains
def test_a_run_scores_and_keeps_the_network_as_it_was_trained_to_be_rounded(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    write_spec(tmp_path / "mini.json", mini_net())
    run = tmp_path / "run"
    words = ["--epochs", "1", "-b", "128", "--activation_bits", "4", "--lipschitz", "3e-4", "--device", "cpu"]
    assert train.main([*words, "--arch", str(tmp_path / "mini.json"), "--path", str(run)]) == 0
    config = json.loads((run / "config.json").read_text())
    assert (config["lipschitz"], config["activation_bits"]) == (3e-4, 4)
    found = load_safetensors(run / "weights.safetensors")
    assert found.bits is not None
    net = build_quantized(found.spec, found.tensors, found.bits)
    images = eval_batches(digits()[1], found.spec.preprocessing, batch_size=250)
    score = evaluate(net, images, score=EvalResult())
    result = json.loads((run / "result.json").read_text())
    assert score.top1_percent == pytest.approx(result["test_top1_percent"])
    assert found.spec == replace(mini_net(), class_names=found.spec.class_names, preprocessing=found.spec.preprocessing)
