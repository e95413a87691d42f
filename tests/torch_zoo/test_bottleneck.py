"""Inverted bottlenecks computed as wholes: equal to torch's in float64 up to rounding, the same bits for any thread
count."""

import copy

import pytest
import torch
from torch import nn

from proxyless_arch.arch.ops import MBConv, Zero
from proxyless_arch.arch.spec import BatchNorm
from proxyless_nas.fast import accelerate, bottleneck, compiler, expand_kernel, project_kernel
from proxyless_nas.fast.bottleneck import FastMBConv, FastZero
from proxyless_nas.fast.expand_kernel import Layer, Moments
from proxyless_nas.layers import ConvBN, MBConvLayer, build_op
from tests.torch_zoo.test_depthwise import apart, images

OURS = compiler.version()
compiled = pytest.mark.skipif(OURS is None, reason="needs the extra [fast]: llvmlite")
BN = BatchNorm(eps=1e-3, momentum=0.1)
# input, output channels, expand ratio, kernel, stride, height, width, padding
CASES = [
    (16, 16, 6, 7, 1, 16, 16, "symmetric"),
    (8, 16, 3, 5, 1, 5, 11, "symmetric"),
    (8, 16, 3, 3, 1, 1, 6, "symmetric"),
    (16, 24, 3, 7, 2, 8, 8, "same"),
    (24, 40, 6, 5, 2, 9, 7, "same"),
    (24, 40, 3, 3, 2, 9, 7, "symmetric"),
    (40, 40, 3, 3, 1, 2, 3, "symmetric"),
]
cases = pytest.mark.parametrize("case", CASES, ids=str)


@pytest.fixture(autouse=True)
def few_pixels_do(monkeypatch):
    monkeypatch.setattr(bottleneck, "FEWEST_PIXELS", 0)


def layers_of(case, seed=0):
    """(torch's, ours, torch's in float64), all with the same weights, none at its start."""
    inside, outside, ratio, kernel, stride, *_, padding = case
    op = MBConv(in_channels=inside, out_channels=outside, kernel_size=kernel, stride=stride, expand_ratio=ratio)
    rng = torch.Generator().manual_seed(seed)
    plain = MBConvLayer(op, BN, padding).to(memory_format=torch.channels_last).train()
    with torch.no_grad():
        for parameter in plain.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=rng) * 0.3)
    fast = copy.deepcopy(plain)
    accelerate(fast, OURS)
    assert type(fast) is FastMBConv
    return plain, fast, copy.deepcopy(plain).double()


def input_of(case, n=3, dtype=torch.float32):
    return (images(n, case[0], *case[5:7]) + 0.5).to(dtype).contiguous(memory_format=torch.channels_last)


def everything(layer, x):
    """Output, all gradients of a weighted sum of it, and all statistics."""
    x = x.clone(memory_format=torch.channels_last).requires_grad_()
    out = layer(x)
    (out * images(*out.shape, seed=1).to(out.dtype)).sum().backward()
    return [out, x.grad, *(parameter.grad for parameter in layer.parameters()), *layer.buffers()]


@compiled
@cases
def test_output_gradients_and_statistics_are_those_of_torch_in_float64(case, monkeypatch):
    plain, fast, exact = layers_of(case)
    whole = everything(exact, input_of(case, dtype=torch.float64))
    monkeypatch.setattr(FastMBConv.__mro__[1], "forward", lambda *_: pytest.fail("torch's"))
    for own, theirs in zip(everything(fast, input_of(case)), whole, strict=True):
        assert own.shape == theirs.shape
        assert apart(own, theirs) < 2e-5
    assert plain.training
    with torch.no_grad():
        assert apart(fast(input_of(case)), whole[0]) < 1e-5


@compiled
@cases
def test_where_weights_ask_for_no_gradient_that_of_x_is_the_same_bits_and_taps_are_left_out(case, monkeypatch):
    """As in an architecture step."""
    _, fast, _ = layers_of(case)
    whole = everything(copy.deepcopy(fast), input_of(case))
    compiled, asked = expand_kernel._compiled, []
    monkeypatch.setattr(expand_kernel, "_compiled", lambda way, *sizes: asked.append(way) or compiled(way, *sizes))
    fast.requires_grad_(False)
    out, of_x, *rest = everything(fast, input_of(case))
    assert torch.equal(out, whole[0]) and torch.equal(of_x, whole[1])
    assert asked == ["forward", "backward to x"]
    assert all(one is None for one in rest[: len(list(fast.parameters()))])


@compiled
@cases
def test_the_product_with_a_gradient_is_that_of_the_output(case):
    _, fast, exact = layers_of(case)
    x = input_of(case)
    with torch.no_grad():
        out = exact(x.double())
    grad = images(*out.shape, seed=2) + 0.3
    before = [buffer.clone() for buffer in fast.buffers()]
    own = fast.product(x, grad)
    if case[1] < compiler.registers().lanes:
        assert own is None
        return
    assert own.dtype == torch.float32
    terms = out * grad.double()
    assert abs(float(own) - float(terms.sum())) < 1e-6 * float(terms.abs().sum())
    assert all(map(torch.equal, fast.buffers(), before))


@compiled
def test_statistics_far_from_zero_do_not_cancel():
    case = (16, 16, 3, 3, 1, 8, 8, "symmetric")
    _, fast, exact = layers_of(case)
    with torch.no_grad():
        assert apart(fast(input_of(case) + 100), exact((input_of(case) + 100).double())) < 1e-3


@compiled
def test_threads_share_the_work_and_change_no_bit():
    _, fast, _ = layers_of((24, 24, 3, 5, 2, 7, 6, "symmetric"))
    x, layer = images(3, 24, 7, 6), Layer(5, 2, (2, 2), 7, 6, 4, 3)
    first, depth = fast.inverted_bottleneck, fast.depth_conv
    up = images(3, 72, 4, 3, seed=1)

    def all_of(threads):
        norm, behind = ((one.bn.weight, one.bn.bias, 1e-3) for one in (first, depth))
        found = expand_kernel.forward(
            x, Moments.of(x), first.conv.weight, norm, depth.conv.weight, behind, (0.0, 6.0), layer, threads
        )
        d, known, known_behind = found
        sums = bottleneck.norm_kernel.sums(d, up, known_behind, 1e-3, (0.0, 6.0))
        given = x, known, first.conv.weight, depth.conv.weight, d, known_behind, up, sums
        return *found, *expand_kernel.backward(*given, (0.0, 6.0), (0.0, 6.0), layer, threads)

    alone = all_of(1)
    for threads in (2, 3, 16):
        assert all(map(torch.equal, all_of(threads), alone))


@compiled
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_no_number_stays_none(bad):
    _, fast, _ = layers_of((16, 16, 3, 3, 1, 4, 4, "symmetric"))
    x = images(2, 16, 4, 4)
    x[1, 3, 2, 2] = bad
    assert fast(x).isnan().any()
    assert not fast.product(x, images(2, 16, 4, 4)).isfinite()


@compiled
def test_an_input_without_versions_is_taken():
    case = (16, 16, 3, 3, 1, 6, 6, "symmetric")
    plain, fast, _ = layers_of(case)
    with torch.inference_mode():
        x = input_of(case)
        torch.testing.assert_close(fast(x), plain(x), atol=1e-5, rtol=1e-5)


@compiled
def test_a_network_that_was_changed_or_is_looked_at_is_left_to_its_own_layers(monkeypatch):
    case = (16, 16, 3, 3, 1, 6, 6, "symmetric")
    x, seen = input_of(case), []

    def watched(fast):
        fast.depth_conv.register_forward_pre_hook(lambda *_: seen.append("depthwise"))

    def other_activation(fast):
        fast.inverted_bottleneck.act = nn.Tanh()

    def other_layer(fast):
        fast.depth_conv.__class__ = ConvBN

    monkeypatch.setattr(expand_kernel, "forward", lambda *_: pytest.fail("ours"))
    for change in (watched, other_activation, other_layer, lambda fast: fast.eval(), lambda fast: fast.double()):
        _, fast, _ = layers_of(case)
        change(fast)
        given = x.double() if next(fast.parameters()).dtype == torch.float64 else x
        assert fast(given).isfinite().all()
        assert fast.product(given, given) is None
    assert seen == ["depthwise"]
    _, fast, _ = layers_of(case)
    large = images(1, 16, 60, 60)  # whose planes are no longer small
    fast(large).sum().backward()
    for limit, value in (("MOST_CHANNELS", 15), ("FEWEST_PIXELS", 7)):  # of 3 x 36 pixels, 16 channels
        with monkeypatch.context() as patch:
            patch.setattr(bottleneck, limit, value)
            fast(x).sum().backward()
    fast(x.contiguous()).sum()
    with torch.autocast("cpu", torch.bfloat16):
        fast(x).sum()


@compiled
def test_a_product_that_a_hook_waits_for_is_not_taken_behind_its_back(monkeypatch):
    _, fast, _ = layers_of((16, 16, 3, 3, 1, 6, 6, "symmetric"))
    monkeypatch.setattr(project_kernel, "product", lambda *_: pytest.fail("ours"))
    fast.register_forward_hook(lambda *_: None)
    zero = nn.Sequential(build_op(Zero(channels=16), BN, "symmetric"))
    accelerate(zero, OURS)
    assert type(zero[0]) is FastZero
    x = images(2, 16, 6, 6)
    assert float(zero[0].product(x, x)) == 0
    zero[0].register_forward_hook(lambda *_: None)
    assert (fast.product(x, x), zero[0].product(x, x)) == (None, None)
