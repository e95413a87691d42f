"""The torch zoo: names and shapes by contract, layers against written-out references, steps against brute force."""

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import proxyless_nas
from proxyless_arch.apps.scores import EvalResult, top_k_hits
from proxyless_arch.arch import catalog
from proxyless_arch.arch.ops import MBConv, Zero
from proxyless_arch.arch.spec import BatchNorm, with_classes
from proxyless_arch.arch.tensors import expected_tensors
from proxyless_arch.arch.walk import total_params
from proxyless_arch.space.mbconv import mbconv_space
from proxyless_nas.convolution import SameConv2d
from proxyless_nas.layers import ConvBN, ZeroLayer, init_weights
from proxyless_nas.network import ProxylessNet, build
from proxyless_nas.steps import cosine_lr, evaluate, recalibrate_bn, set_lr, sgd, smoothed_loss
from proxyless_nas.weights import load_named, to_named
from tests.proxyless_arch.nets import random_tensors, rich, three_blocks

RELEASED = ("proxyless_cpu", "proxyless_gpu", "proxyless_mobile", "proxyless_mobile_14")


def shapes_of(net):
    return {
        name: tuple(tensor.shape)
        for name, tensor in net.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }


def random_specs():
    rng = np.random.default_rng(0)
    space = mbconv_space(width_mult=0.35, num_classes=7)
    for index in range(3):
        path = tuple(int(rng.integers(len(ops))) for ops in space.choices)
        yield space.spec_for(path, f"random{index}")
    yield space.spec_for(tuple(len(ops) - 1 for ops in space.choices), "all_zero")  # Zero wherever there is one


@pytest.mark.parametrize("padding", ["symmetric", "same"])
@pytest.mark.parametrize(
    "spec", [*map(catalog.load, RELEASED), *random_specs(), three_blocks(), rich()], ids=lambda spec: spec.name
)
def test_tensors_are_those_of_the_contract(spec, padding):
    net = build(replace(spec, padding=padding))
    assert list(shapes_of(net).items()) == list(expected_tensors(spec).items())
    assert sum(parameter.numel() for parameter in net.parameters()) == total_params(spec)


@pytest.mark.parametrize("padding", ["symmetric", "same"])
@pytest.mark.parametrize("resolution", [1, 7, 11, 32, 45])
def test_any_resolution(resolution, padding):
    spec = replace(three_blocks(), padding=padding)
    net = build(spec).eval()
    with torch.no_grad():
        features = net.forward_features(torch.randn(2, 3, resolution, resolution))
        logits = net(torch.randn(2, 3, resolution, resolution + 4))
    side = math.ceil(math.ceil(resolution / 2) / 2)
    assert features.shape == (2, 8, side, side)
    assert logits.shape == (2, 5)
    assert bool(torch.isfinite(logits).all())


@pytest.mark.parametrize("n_classes", [1, 2, 10, 1000])
def test_any_number_of_classes(n_classes):
    net = build(with_classes(three_blocks(), n_classes))
    assert net(torch.randn(3, 3, 11, 11)).shape == (3, n_classes)


def test_released_networks_by_name():
    for name in RELEASED:
        net = getattr(proxyless_nas, name)()
        assert net.spec == catalog.load(name)
    net = proxyless_nas.proxyless_mobile(num_classes=10, dropout_rate=0.3)
    assert net.classifier.linear.out_features == 10
    assert net.classifier.dropout.p == 0.3
    assert net.eval()(torch.randn(1, 3, 64, 64)).shape == (1, 10)


def test_without_its_top_a_network_gives_the_feature_map():
    spec, images = three_blocks(), torch.randn(2, 3, 11, 11)
    whole, headless = (build(spec, torch.Generator().manual_seed(2), include_top=top).eval() for top in (True, False))
    with torch.no_grad():
        assert torch.equal(headless(images), whole.forward_features(images))
    kept = {name: shape for name, shape in expected_tensors(spec).items() if not name.startswith("classifier.")}
    assert shapes_of(headless) == kept
    tensors = random_tensors(spec, seed=3)
    load_named(headless, spec, tensors)
    np.testing.assert_array_equal(to_named(headless)["first_conv.bn.bias"], tensors["first_conv.bn.bias"])
    net = proxyless_nas.proxyless_mobile(include_top=False).eval()
    assert net(torch.randn(1, 3, 64, 64)).shape == (1, net.spec.feature_mix.out_channels, 2, 2)


def test_bn_constants_and_dropout_come_from_the_spec():
    spec = replace(three_blocks(), bn=BatchNorm(eps=0.02, momentum=0.3))
    net = build(spec)
    layers = [layer for layer in net.modules() if isinstance(layer, nn.BatchNorm2d)]
    assert len(layers) == 1 + 2 + 3 + 3 + 1  # stem, block without expansion, two with, feature mix
    assert {(layer.eps, layer.momentum) for layer in layers} == {(0.02, 0.3)}
    assert net.classifier.dropout.p == 0.2
    assert {(m.eps, m.momentum) for m in build(three_blocks()).modules() if isinstance(m, nn.BatchNorm2d)} == {
        (1e-3, 0.1)
    }


def test_forward_written_out():
    """The whole of three_blocks() in functional calls on the named tensors, in float64."""
    spec = three_blocks()
    net = lively(build(spec)).double().eval()
    t = net.state_dict()
    x = torch.randn(2, 3, 11, 11, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    def conv_bn(x, name, stride=1, groups=1, act=True):
        kernel = t[f"{name}.conv.weight"]
        y = F.conv2d(x, kernel, stride=stride, padding=kernel.shape[-1] // 2, groups=groups)
        mean, var, scale, shift = (
            t[f"{name}.bn.{part}"][:, None, None] for part in ("running_mean", "running_var", "weight", "bias")
        )
        y = (y - mean) / (var + 1e-3).sqrt() * scale + shift
        return y.clamp(0, 6) if act else y

    y = conv_bn(x, "first_conv", 2)
    for index, (stride, expands, skip) in enumerate([(1, False, False), (2, True, False), (1, True, True)]):
        name, start = f"blocks.{index}.mobile_inverted_conv", y
        if expands:
            y = conv_bn(y, f"{name}.inverted_bottleneck")
        y = conv_bn(y, f"{name}.depth_conv", stride, groups=y.shape[1])
        y = conv_bn(y, f"{name}.point_linear", act=False)
        y = start + y if skip else y
    y = conv_bn(y, "feature_mix_layer").mean((2, 3))
    expected = y @ t["classifier.linear.weight"].T + t["classifier.linear.bias"]
    with torch.no_grad():
        torch.testing.assert_close(net(x), expected, rtol=1e-12, atol=1e-12)
    assert expected.std() > 0.01


def lively(net, seed=0):
    """Every tensor away from 0 and 1, so that each of them matters."""
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in net.state_dict().items():
            if name.endswith(("bn.weight", "running_var")):
                tensor.copy_(0.5 + torch.rand(tensor.shape, generator=rng))
            elif name.endswith(("bn.bias", "running_mean", "linear.bias")):
                tensor.copy_(0.3 * torch.randn(tensor.shape, generator=rng))
    return net


def test_he_fan_out():
    """std = sqrt(2 / (k k out)); the sample std of n normal numbers has a relative error of about 1 / sqrt(2 n)."""
    net = build(catalog.load("proxyless_mobile"), torch.Generator().manual_seed(0))
    checked = 0
    for name, tensor in net.state_dict().items():
        if name.endswith("conv.weight"):
            out, _, kernel, _ = tensor.shape
            expected, n = math.sqrt(2 / (kernel * kernel * out)), tensor.numel()
            assert tensor.std().item() == pytest.approx(expected, rel=4.5 / math.sqrt(2 * n)), name
            assert abs(tensor.mean().item()) < 4.5 * expected / math.sqrt(n), name
            checked += n > 1000
        elif name.endswith(("bn.weight", "running_var")):
            assert bool((tensor == 1).all())
        elif name.endswith(("bias", "running_mean")):
            assert not tensor.any()
    assert checked > 40
    weight = net.classifier.linear.weight
    bound = 1280**-0.5
    assert weight.abs().max().item() <= bound
    assert weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.01)


def test_initial_weights_are_a_function_of_the_generator():
    one, same, other = (to_named(build(three_blocks(), torch.Generator().manual_seed(seed))) for seed in (1, 1, 2))
    assert all(np.array_equal(one[name], same[name]) for name in one)
    assert not np.array_equal(one["first_conv.conv.weight"], other["first_conv.conv.weight"])
    again = ProxylessNet(three_blocks())
    init_weights(again, torch.Generator().manual_seed(1))
    assert all(np.array_equal(one[name], value) for name, value in to_named(again).items())


def test_zero_gamma_makes_skip_blocks_the_identity():
    spec = rich()
    x = torch.randn(2, 6, 5, 5)
    plain, zeroed = build(spec).train(), build(spec, zero_gamma=True).train()
    for block, own, other in zip(spec.blocks, zeroed.blocks, plain.blocks, strict=True):
        if block.skip:
            assert torch.equal(own(x), x)
            assert torch.equal(other(x), x) == isinstance(block.op, Zero)
        elif block.op.in_channels == 6:
            assert own(x).abs().max() > 0
    assert sum(block.skip for block in spec.blocks) == 2
    assert isinstance(spec.blocks[-1].op, MBConv)


def test_memory_is_channels_last_and_loading_keeps_it():
    net = build(three_blocks())
    load_named(net, net.spec, to_named(build(three_blocks())))
    convolutions = [layer for layer in net.modules() if isinstance(layer, nn.Conv2d)]
    assert all(layer.weight.is_contiguous(memory_format=torch.channels_last) for layer in convolutions)


def test_zero_layer():
    x = torch.randn(2, 4, 3, 3)
    assert torch.equal(ZeroLayer()(x), torch.zeros(2, 4, 3, 3))


@pytest.mark.parametrize("size", [1, 2, 7, 8])
@pytest.mark.parametrize("kernel", [3, 5, 7])
@pytest.mark.parametrize("groups", [1, 4])
def test_same_padding_by_hand(size, kernel, groups):
    """TensorFlow's rule in loops: the pad is what the last window lacks, and its odd pixel lies below and right."""
    rng = np.random.default_rng(size * kernel)
    layer = SameConv2d(4, 4, kernel, stride=2, groups=groups, bias=False).double()
    weight, x = rng.normal(size=(4, 4 // groups, kernel, kernel)), rng.normal(size=(4, size, size))
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(weight))
        got = layer(torch.from_numpy(x)[None])[0].numpy()
    out = (size + 1) // 2
    total = max((out - 1) * 2 + kernel - size, 0)
    before = total // 2
    padded = np.zeros((4, size + total, size + total))
    padded[:, before : before + size, before : before + size] = x
    expected = np.zeros((4, out, out))
    per_group = 4 // groups
    for channel in range(4):
        first = channel // per_group * per_group
        for row in range(out):
            for column in range(out):
                window = padded[first : first + per_group, 2 * row : 2 * row + kernel, 2 * column : 2 * column + kernel]
                expected[channel, row, column] = (window * weight[channel]).sum()
    np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-12)


def test_same_and_symmetric_padding_differ_where_they_should():
    """At stride 1 they are one rule; at stride 2 they agree on odd sizes only."""
    for stride, size, equal in ((1, 8, True), (1, 7, True), (2, 7, True), (2, 8, False)):
        layers = [ConvBN(3, 4, 5, stride, BatchNorm(), padding).eval() for padding in ("symmetric", "same")]
        layers[1].load_state_dict(layers[0].state_dict())
        x = torch.randn(2, 3, size, size)
        left, right = (layer(x) for layer in layers)
        assert left.shape == right.shape
        assert torch.allclose(left, right) == equal


def test_cosine_lr():
    assert cosine_lr(0.4, 0, 10) == 0.4
    assert cosine_lr(0.4, 5, 10) == pytest.approx(0.2)
    assert cosine_lr(0.4, 10, 10) == pytest.approx(0, abs=1e-15)
    assert cosine_lr(0.4, 1, 4) == pytest.approx(0.2 * (1 + math.sqrt(0.5)))
    assert cosine_lr(0.4, 0, 0) == 0.4


@pytest.mark.parametrize("no_decay_bn", [False, True])
def test_sgd_groups_by_hand(no_decay_bn):
    net = build(three_blocks()).double()
    optimizer = sgd(net, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.5, no_decay_bn=no_decay_bn)
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    for parameter in net.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    for name, parameter in net.named_parameters():
        is_vector = parameter.ndim == 1
        decay = 0.0 if is_vector and no_decay_bn else 0.5
        gradient = 1 + decay * before[name]
        expected = before[name] - 0.1 * (gradient + 0.9 * gradient)  # nesterov, first step
        torch.testing.assert_close(parameter.detach(), expected, rtol=1e-12, atol=1e-12)
        assert is_vector == (".bn." in name or name.endswith("linear.bias"))
    set_lr(optimizer, 0.025)
    assert {group["lr"] for group in optimizer.param_groups} == {0.025}


def test_sgd_without_momentum():
    optimizer = sgd(build(three_blocks()), lr=0.1, momentum=0, nesterov=True, weight_decay=0, no_decay_bn=False)
    assert not optimizer.defaults["nesterov"]


def test_smoothed_loss_by_hand():
    logits = torch.tensor([[2.0, 0.0, -1.0], [0.5, 0.5, 0.5]], dtype=torch.float64)
    labels = torch.tensor([0, 2])
    log_p = logits - logits.exp().sum(1, keepdim=True).log()
    target = torch.tensor([[0.9 + 0.1 / 3, 0.1 / 3, 0.1 / 3], [0.1 / 3, 0.1 / 3, 0.9 + 0.1 / 3]], dtype=torch.float64)
    expected = -(target * log_p).sum() / 2
    assert smoothed_loss(logits, labels, 0.1).item() == pytest.approx(expected.item(), rel=1e-12)


def test_evaluate_is_brute_force_whatever_the_batches():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(23, 8)).astype(np.float32)
    labels = rng.integers(8, size=23)
    images = torch.from_numpy(logits)  # the network is the identity
    for size in (1, 5, 23, 40):
        batches = [
            (images[start : start + size], torch.from_numpy(labels[start : start + size]))
            for start in range(0, 23, size)
        ]
        result = evaluate(lambda x: x, batches)
        order = [sorted(range(8), key=lambda c, row=row: -row[c]) for row in logits]
        assert result.n_images == 23
        assert result.top1_hits == sum(label == o[0] for label, o in zip(labels, order, strict=True))
        assert result.top5_hits == sum(label in o[:5] for label, o in zip(labels, order, strict=True))
        losses = [-math.log(math.exp(row[k]) / sum(map(math.exp, row))) for row, k in zip(logits, labels, strict=True)]
        assert result.loss == pytest.approx(sum(losses) / 23, rel=1e-6)
        assert result.top1_percent == pytest.approx(100 * result.top1_hits / 23)
    assert 0 < result.top1_hits < result.top5_hits < 23


def test_evaluate_builds_no_graph():
    net = build(three_blocks()).eval()
    seen = []

    def forward(x):
        seen.append(net(x))
        return seen[-1]

    evaluate(forward, [(torch.randn(2, 3, 11, 11), torch.tensor([0, 1]))])
    assert not seen[0].requires_grad


def test_top_k_against_sorting_with_ties():
    """Among equal logits the lower class comes first: a stable sort by falling logit."""
    rng = np.random.default_rng(1)
    logits = rng.integers(0, 4, size=(500, 9)).astype(np.float32)  # many ties
    labels = rng.integers(9, size=500)
    for k in (1, 2, 5, 9):
        expected = sum(
            int(label in np.argsort(-row, kind="stable")[:k]) for row, label in zip(logits, labels, strict=True)
        )
        assert top_k_hits(logits, labels, k) == expected
    assert top_k_hits(logits, labels, 9) == 500
    assert top_k_hits(np.zeros((3, 4)), np.array([0, 1, 3]), 1) == 1


def test_top_k_of_a_constant_or_broken_network():
    logits = np.array([[1.0, np.nan, 0.0], [np.nan] * 3, [0.0, 2.0, 1.0]])
    for k in (1, 2, 3):
        assert top_k_hits(logits, np.array([0, 1, 1]), k) == 1
    assert top_k_hits(np.empty((0, 3)), np.empty(0, dtype=int), 1) == 0
    assert EvalResult().top1_percent == 0


def recorded_inputs(net, batches):
    """The input of every BN for every batch, in train mode, on a copy."""
    twin = copy.deepcopy(net).train()
    inputs = {}
    for name, layer in twin.named_modules():
        if isinstance(layer, nn.BatchNorm2d):
            inputs[name] = []
            layer.register_forward_hook(lambda module, args, out, name=name: inputs[name].append(args[0].clone()))
    with torch.no_grad():
        for images, _ in batches:
            twin(images)
    return inputs


def test_recalibration_is_the_average_over_the_batches():
    net = lively(build(three_blocks())).double().train()
    rng = torch.Generator().manual_seed(2)
    batches = [
        (torch.randn(6, 3, 11, 11, dtype=torch.float64, generator=rng) + shift, torch.zeros(6)) for shift in range(3)
    ]
    inputs = recorded_inputs(net, batches)
    weights = {name: p.detach().clone() for name, p in net.named_parameters()}
    assert recalibrate_bn(net, batches) == 18
    checked = 0
    for name, layer in net.named_modules():
        if isinstance(layer, nn.BatchNorm2d):
            whole = torch.cat(inputs[name])
            torch.testing.assert_close(layer.running_mean, whole.mean((0, 2, 3)), rtol=1e-9, atol=1e-9)
            variances = torch.stack([x.var((0, 2, 3), unbiased=True) for x in inputs[name]])
            torch.testing.assert_close(layer.running_var, variances.mean(0), rtol=1e-9, atol=1e-9)
            assert layer.momentum == 0.1
            checked += 1
    assert checked == 10
    assert not net.training
    assert all(torch.equal(p, weights[name]) for name, p in net.named_parameters())
    assert all(p.grad is None for p in net.parameters())


def test_recalibration_restores_momentum_when_it_fails():
    net = build(replace(three_blocks(), bn=BatchNorm(momentum=0.25)))
    momenta = [layer for layer in net.modules() if isinstance(layer, nn.BatchNorm2d)]
    with pytest.raises(RuntimeError):
        recalibrate_bn(net, [(torch.randn(2, 4, 11, 11), torch.zeros(2))])  # four channels
    assert {layer.momentum for layer in momenta} == {0.25}


def test_recalibration_makes_eval_agree_with_the_batch():
    """One batch: its biased variance in train mode and the unbiased one stored differ by n / (n - 1) alone."""
    net = lively(build(three_blocks())).double()
    images = torch.randn(64, 3, 33, 33, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        train = copy.deepcopy(net).train().forward_features(images)
        before = net.eval().forward_features(images)
        recalibrate_bn(net, [(images, torch.zeros(64))])
        after = net.forward_features(images)
    assert (after - train).abs().max() < 0.01
    assert (before - train).abs().max() > 0.1


def test_recalibration_passes_over_what_is_left_over():
    """A single image at 1 x 1 pixels has no variance, and a few would weigh as much as a whole batch."""
    images = torch.randn(12, 3, 4, 4, generator=torch.Generator().manual_seed(4))
    labels = torch.zeros(12)
    nets = [build(three_blocks(), torch.Generator().manual_seed(0)) for _ in range(3)]
    assert nets[0].forward_features(images).shape[2:] == (1, 1)
    assert recalibrate_bn(nets[0], [(images[:8], labels)]) == 8
    assert recalibrate_bn(nets[1], [(images[:8], labels), (images[8:9], labels), (images[8:11], labels)]) == 8
    assert recalibrate_bn(nets[2], [(images[:8], labels), (images[8:], labels)]) == 12
    one, same, other = (to_named(net) for net in nets)
    assert all(np.array_equal(one[name], same[name]) for name in one)
    assert any(not np.array_equal(one[name], other[name]) for name in one)


def test_dropout_is_for_training():
    net = build(three_blocks())
    features = torch.ones(4, 8)
    with torch.no_grad():
        net.classifier.linear.weight.fill_(1.0)
        torch.manual_seed(0)
        trained = net.classifier.train()(features)
        evaluated = net.classifier.eval()(features)
    torch.testing.assert_close(evaluated, torch.full((4, 5), 8.0))
    assert len(set(trained[:, 0].tolist())) > 1
