"""Batch normalization with its activation, and 1x1 convolutions, by kernels of our own: equal to torch's up to
rounding, the same bits for any thread count."""

import copy

import pytest
import torch
from torch import nn

from proxyless_arch.arch.spec import BatchNorm
from proxyless_nas.fast import accelerate, compiler, norm_kernel
from proxyless_nas.fast import norm as fast_norm
from proxyless_nas.fast.norm import FastConvBN, norm_act
from proxyless_nas.fast.pointwise import FastPointwise
from proxyless_nas.layers import ConvBN
from tests.torch_zoo.test_depthwise import apart, images

OURS = compiler.version()
compiled = pytest.mark.skipif(OURS is None, reason="needs the extra [fast]: llvmlite")
ACTIVATIONS = {"relu6": nn.ReLU6, "relu": nn.ReLU, "none": nn.Identity}
BN = BatchNorm(eps=1e-3, momentum=0.1)


def by_definition(x, bn, act):
    """Output and running statistics in float64, by torch's own operations on means."""
    mean = x.mean((0, 2, 3), keepdim=True)
    variance = (x - mean).square().mean((0, 2, 3), keepdim=True)
    weight, bias = (p.double().reshape(1, -1, 1, 1) for p in (bn.weight, bn.bias))
    y = (x - mean) / (variance + bn.eps).sqrt() * weight + bias
    return {"relu6": y.clamp(0, 6), "relu": y.clamp(0), "none": y}[act], mean.flatten(), variance.flatten()


def norm_of(channels, seed=3):
    rng = torch.Generator().manual_seed(seed)
    bn = nn.BatchNorm2d(channels, eps=1e-3).train()
    with torch.no_grad():
        bn.weight.copy_(torch.rand(channels, generator=rng) + 0.5)
        bn.bias.copy_(torch.randn(channels, generator=rng))
    return bn


@compiled
@pytest.mark.parametrize("act", ACTIVATIONS)
@pytest.mark.parametrize(
    "shape", [(2, 16, 1, 1), (3, 8, 5, 5), (2, 24, 9, 7), (5, 48, 12, 3), (2, 20, 8, 8), (1, 4, 3, 2)], ids=str
)
def test_output_statistics_and_gradients_are_those_of_the_definition(shape, act):
    bn, channels = norm_of(shape[1]), shape[1]
    x = (images(*shape) * 3 + torch.arange(channels).reshape(1, -1, 1, 1)).contiguous(memory_format=torch.channels_last)
    up = images(*shape, seed=1)
    exact_x = x.double().requires_grad_()
    exact, mean, variance = by_definition(exact_x, bn, act)
    (exact * up.double()).sum().backward()
    of_weight, of_bias = bn.weight.grad, bn.bias.grad
    bn.weight.grad = bn.bias.grad = None
    own_x = x.clone(memory_format=torch.channels_last).requires_grad_()
    y = norm_act(own_x * 1, bn, fast_norm.LIMITS[ACTIVATIONS[act]])
    assert apart(y, exact) < 2e-6
    (y * up).sum().backward()
    assert apart(own_x.grad, exact_x.grad) < 1e-5
    assert apart(bn.weight.grad, of_weight) < 1e-5
    assert apart(bn.bias.grad, of_bias) < 1e-5
    count = x.numel() // channels
    torch.testing.assert_close(bn.running_mean, 0.1 * mean.detach().float())
    torch.testing.assert_close(bn.running_var, 0.9 + 0.1 * (variance.detach() * count / (count - 1)).float())
    assert int(bn.num_batches_tracked) == 1


@compiled
def test_nothing_cancels_far_from_zero():
    x = (images(4, 16, 16, 16) + 1000).contiguous(memory_format=torch.channels_last)
    bn = norm_of(16)
    exact, *_ = by_definition(x.double(), bn, "none")
    known = norm_kernel.statistics(x, bn.weight, bn.bias, bn.eps)
    assert apart(norm_kernel.normalized(x, known, (-9e9, 9e9)), exact) < 1e-4  # x itself has 4 digits behind the point


@compiled
def test_in_bfloat16_it_is_rounded_once_to_the_nearest():
    x, bn = images(2, 24, 9, 9, dtype=torch.bfloat16), norm_of(24)
    own_x = x.clone(memory_format=torch.channels_last).requires_grad_()
    y = norm_act(own_x * 1, bn, (0.0, 6.0))
    exact, *_ = by_definition(x.double(), bn, "relu6")
    differs = y.detach() != exact.detach().bfloat16()
    assert y.dtype == torch.bfloat16
    assert differs.float().mean() < 1e-2  # what lies within float32's rounding of the middle between two
    assert apart(y, exact) < 4e-3
    y.float().square().sum().backward()
    assert (own_x.grad.dtype, bn.weight.grad.dtype) == (torch.bfloat16, torch.float32)


@compiled
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_what_is_no_number_stays_none(bad, dtype):
    x = images(2, 16, 4, 4, dtype=dtype)
    x[1, 3, 2, 2] = bad
    y = norm_act(x, norm_of(16), (0.0, 6.0))
    assert y[:, 3].isnan().any()
    assert y[:, :3].isfinite().all()
    assert y[:, 4:].isfinite().all()


@compiled
def test_threads_share_the_work_and_change_no_bit():
    x, up, bn = images(3, 40, 9, 11), images(3, 40, 9, 11, seed=1), norm_of(40)

    def all_of(threads):
        known = norm_kernel.statistics(x, bn.weight, bn.bias, bn.eps, threads)
        y = norm_kernel.normalized(x, known, (0.0, 6.0), threads)
        own = x.clone(memory_format=torch.channels_last)
        return known, y, *norm_kernel.gradients(own, up, known, bn.eps, (0.0, 6.0), threads)

    alone = all_of(1)
    for threads in (2, 3, 16):
        assert all(map(torch.equal, all_of(threads), alone))


@compiled
def test_a_second_gradient_of_one_output_is_refused():
    x = images(2, 16, 4, 4).requires_grad_()
    y = norm_act(x * 1, norm_of(16), (0.0, 6.0)).sum()
    y.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="second gradient"):
        y.backward()


@compiled
@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (3, 2)])
@pytest.mark.parametrize(("inside", "outside"), [(8, 48), (48, 8)])
def test_a_layer_gives_the_same_output_gradients_and_statistics(inside, outside, kernel, stride):
    plain = ConvBN(inside, outside, kernel, stride, BN, "symmetric").to(memory_format=torch.channels_last).train()
    fast = copy.deepcopy(plain)
    accelerate(fast, OURS)
    assert type(fast) is FastConvBN
    assert type(fast.conv) is (FastPointwise if kernel == 1 else nn.Conv2d)
    found = []
    for layer in (plain, fast):
        x = images(3, inside, 6, 5).requires_grad_()
        out = layer(x)
        (out * images(*out.shape, seed=1)).sum().backward()
        found.append([out, x.grad, *(p.grad for p in layer.parameters()), *layer.buffers()])
    for theirs, own in zip(*found, strict=True):
        assert apart(own, theirs) < 1e-5
    with torch.no_grad():
        assert apart(fast(images(3, inside, 6, 5)), plain(images(3, inside, 6, 5))) < 1e-5
    assert torch.equal(fast.eval()(images(1, inside, 4, 4)), fast.eval()(images(1, inside, 4, 4)))


@compiled
def test_a_cumulative_average_of_statistics_is_torchs():
    plain = nn.BatchNorm2d(16, momentum=None).train()
    own = copy.deepcopy(plain)
    for seed in range(3):
        x = images(2, 16, 5, 5, seed=seed)
        plain(x)
        norm_act(x, own, (0.0, 6.0))
    torch.testing.assert_close(own.running_mean, plain.running_mean)
    torch.testing.assert_close(own.running_var, plain.running_var)


@compiled
def test_what_our_kernels_do_not_take_is_left_to_torch(monkeypatch):
    monkeypatch.setattr(fast_norm, "norm_act", lambda *given: pytest.fail("ours"))
    odd = ConvBN(8, 7, 1, 1, BN, "symmetric").train()
    resting = ConvBN(8, 16, 1, 1, BN, "symmetric").eval()
    double = ConvBN(8, 16, 1, 1, BN, "symmetric").train().double()
    tanh = ConvBN(8, 16, 1, 1, BN, "symmetric").train()
    tanh.act = nn.Tanh()
    for layer, x in (
        (odd, images(2, 8, 4, 4)),
        (resting, images(2, 8, 4, 4)),
        (double, images(2, 8, 4, 4).double()),
        (tanh, images(2, 8, 4, 4)),
    ):
        accelerate(layer, OURS)
        layer(x).sum().backward()
    in_rows = ConvBN(3, 16, 3, 1, BN, "symmetric").train()  # in NCHW memory
    accelerate(in_rows, OURS)
    in_rows(images(2, 3, 8, 8).contiguous()).sum().backward()
