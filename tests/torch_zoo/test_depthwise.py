"""Faster gradients of depthwise convolutions: equal to torch's up to rounding, the same bits for any thread count."""

import copy

import pytest
import torch
from torch import nn

from proxyless_arch.base.words import TORCH_KERNELS
from proxyless_nas.convolution import SameConv2d, convolution
from proxyless_nas.fast import accelerate, compiler, depthwise, depthwise_kernel, kernels_in_use
from proxyless_nas.fast.compiler import Registers, registers_of
from proxyless_nas.fast.depthwise import FastDepthwise, FastSameDepthwise

OURS = compiler.version()
CPU = torch.device("cpu")
compiled = pytest.mark.skipif(OURS is None, reason="needs the extra [fast]: llvmlite")


def images(*shape, seed=0, dtype=torch.float32):
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=rng).to(dtype).contiguous(memory_format=torch.channels_last)


def apart(got, expected):
    """Largest difference, relative to the largest value."""
    got, expected = got.detach().double(), expected.detach().double()
    return float((got - expected).abs().max() / expected.abs().max())


def exact(x, grad, size, stride, pads):
    """dL/dw of each channel and tap as the sum that it is."""
    n, channels, height, width = x.shape
    rows, columns = grad.shape[2:]
    padded = torch.zeros(n, channels, (rows - 1) * stride + size, (columns - 1) * stride + size, dtype=torch.float64)
    inside = padded[:, :, pads[0] :, pads[1] :]
    inside = inside[:, :, :height, :width]
    inside.copy_(x[:, :, : inside.shape[2], : inside.shape[3]])
    found = torch.empty(channels, 1, size, size, dtype=torch.float64)
    for i in range(size):
        for j in range(size):
            moved = padded[:, :, i : i + (rows - 1) * stride + 1 : stride, j : j + (columns - 1) * stride + 1 : stride]
            found[:, 0, i, j] = (moved * grad.double()).sum((0, 2, 3))
    return found


@compiled
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize(
    ("size", "stride", "channels", "height", "width"),
    [(3, 1, 16, 5, 5), (3, 2, 17, 9, 4), (5, 1, 48, 20, 3), (5, 2, 31, 1, 1), (7, 1, 33, 10, 9), (7, 2, 40, 12, 13)],
)
def test_the_sum_is_that_of_its_definition(size, stride, channels, height, width, dtype):
    x = images(3, channels, height, width, dtype=dtype)
    grad = images(3, channels, -(-height // stride), -(-width // stride), seed=1, dtype=dtype)
    for pads in ((size // 2, size // 2), (0, size - 1)):
        got = depthwise_kernel.weight_gradient(x, grad, size, stride, pads)
        assert (got.dtype, got.shape) == (torch.float32, (channels, 1, size, size))
        assert apart(got, exact(x, grad, size, stride, pads)) < 1e-6


@compiled
def test_threads_share_the_channels_and_change_no_bit():
    x, grad = images(2, 70, 9, 9), images(2, 70, 9, 9, seed=1)
    alone = depthwise_kernel.weight_gradient(x, grad, 5, 1, (2, 2))
    for threads in (2, 3, 16):
        assert torch.equal(depthwise_kernel.weight_gradient(x, grad, 5, 1, (2, 2), threads), alone)


@compiled
@pytest.mark.parametrize("padding", ["symmetric", "same"])
@pytest.mark.parametrize(("size", "stride"), [(5, 1), (5, 2), (7, 1), (7, 2)])
def test_a_layer_gives_the_same_output_and_gradients(size, stride, padding):
    plain = convolution(24, 24, size, padding, stride=stride, groups=24).to(memory_format=torch.channels_last)
    fast = copy.deepcopy(plain)
    accelerate(fast, OURS)
    assert type(fast) is (FastSameDepthwise if type(plain) is SameConv2d else FastDepthwise)
    found = []
    for layer in (plain, fast):
        x = images(2, 24, 10, 11).requires_grad_()
        out = layer(x)
        (out * images(*out.shape, seed=1)).sum().backward()
        found.append((out, x.grad, layer.weight.grad))
    assert torch.equal(found[0][0], found[1][0])
    assert all(apart(got, expected) < 1e-5 for got, expected in zip(found[1], found[0], strict=True))


@compiled
@pytest.mark.parametrize("stride", [1, 2])
def test_under_autocast_the_gradients_are_within_the_digits_of_bfloat16(stride):
    plain = convolution(24, 24, 5, "symmetric", stride=stride, groups=24).to(memory_format=torch.channels_last)
    fast = copy.deepcopy(plain)
    accelerate(fast, OURS)
    found = []
    for layer in (plain, fast):
        x = images(2, 24, 8, 8).requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            out = layer(x)
        assert out.dtype == torch.bfloat16
        out.float().square().sum().backward()
        assert layer.weight.grad.dtype == torch.float32
        found.append((x.grad, layer.weight.grad))
    assert all(apart(got, expected) < 2e-2 for got, expected in zip(found[1], found[0], strict=True))


@compiled
def test_a_gradient_that_nobody_asks_for_is_not_computed(monkeypatch):
    layer = convolution(24, 24, 5, "symmetric", groups=24).to(memory_format=torch.channels_last)
    accelerate(layer, OURS)
    asked = []
    monkeypatch.setattr(depthwise_kernel, "weight_gradient", lambda *given: asked.append(given))
    layer.weight.requires_grad_(False)
    x = images(2, 24, 8, 8).requires_grad_()
    layer(x).sum().backward()
    with torch.no_grad():
        layer(x)
    assert not asked
    assert x.grad is not None


@compiled
def test_what_our_kernel_does_not_take_is_left_to_torch(monkeypatch):
    monkeypatch.setattr(depthwise.Depthwise, "apply", lambda *given: pytest.fail("ours"))
    few, small = (convolution(n, n, size, "symmetric", groups=n) for n, size in ((3, 5), (32, 3)))
    double = convolution(32, 32, 5, "symmetric", groups=32).double()
    ordinary = nn.Sequential(convolution(32, 32, 5, "symmetric"), nn.Conv2d(32, 32, 5, groups=32))
    others = ({"padding_mode": "circular", "padding": 2}, {"padding": 5}, {"padding": (2, 6)}, {"padding": "same"})
    unusual = nn.Sequential(*(nn.Conv2d(32, 32, 5, groups=32, bias=False, **each) for each in others))
    for net, x in (
        (few, images(1, 3, 8, 8)),
        (small, images(1, 32, 8, 8)),
        (double, images(1, 32, 8, 8).double()),
        (ordinary, images(1, 32, 8, 8)),  # of other groups, and with a bias
        (unusual, images(1, 32, 8, 8)),
        (convolution(32, 32, 5, "symmetric", groups=32), images(1, 32, 8, 8).contiguous()),
    ):
        accelerate(net, OURS)
        net(x).sum().backward()


@compiled
def test_copies_and_states_know_nothing_of_it():
    layer = convolution(24, 24, 5, "same", stride=2, groups=24)
    weight = layer.weight
    accelerate(layer, OURS)
    assert layer.weight is weight
    assert list(layer.state_dict()) == ["weight"]
    assert type(copy.deepcopy(layer)) is FastSameDepthwise


def test_torch_is_used_where_it_is_asked_for_or_nothing_else_is_there(monkeypatch):
    assert kernels_in_use("torch", CPU) == TORCH_KERNELS
    assert kernels_in_use("auto", torch.device("cuda", 0)) == TORCH_KERNELS
    monkeypatch.setattr(compiler, "version", lambda: None)
    assert kernels_in_use("auto", CPU) == TORCH_KERNELS
    monkeypatch.setattr(compiler, "version", lambda: "llvmlite 1.2")
    assert kernels_in_use("auto", CPU) == "llvmlite 1.2"
    layer = convolution(24, 24, 5, "same", groups=24)
    accelerate(layer, TORCH_KERNELS)
    assert type(layer) is nn.Conv2d


def test_registers_follow_from_the_processor():
    assert registers_of(["sse2", "avx2", "fma", "avx512f"]) == Registers(16, 32)
    assert registers_of(["avx2", "fma"]) == Registers(8, 16)
    assert registers_of(["neon", "fp-armv8"]) == Registers(4, 32)
    assert registers_of(["sse2", "avx"]) is None
