"""The training step against closed forms: schedule, decay groups, averages, accumulation, clipping, refusal of NaN."""

import copy
import math

import pytest
import torch
from torch import nn

from proxyless_arch.apps.scores import EvalResult
from proxyless_arch.apps.train_settings import Optimization
from proxyless_nas.layers import ConvBN
from proxyless_nas.network import build
from proxyless_nas.steps import NonFiniteLossError, sgd, warmup_cosine_lr
from proxyless_nas.train.training import Ema, Schedule, Training, over_ranks
from tests.proxyless_arch.nets import three_blocks

SCHEDULE = Schedule(steps_per_epoch=5, n_epochs=4, warmup_epochs=1, init_lr=0.1)


def net(seed=0):
    return build(three_blocks(), torch.Generator().manual_seed(seed))


def batch(n=8, seed=1):
    rng = torch.Generator().manual_seed(seed)
    images = torch.randn(n, 3, 11, 11, generator=rng).contiguous(memory_format=torch.channels_last)
    return images, torch.randint(5, (n,), generator=rng)


def training(module=None, *, batch_size=8, precision="fp32", **settings):
    return Training(
        module or net(), Optimization(**settings), SCHEDULE, batch_size=batch_size, seed=3, precision=precision
    )


def frozen_bn(module):
    """The network with BN that stays in eval mode and without dropout: its output is a function of each image alone."""
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d | nn.Dropout):
            layer.eval()
            layer.train = lambda mode=True, layer=layer: layer
    return module


def values(module):
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def assert_same_bits(left, right):
    assert list(left) == list(right)
    for name, tensor in left.items():
        assert torch.equal(tensor, right[name]), name


def assert_close(left, right, atol=1e-6):
    for name, tensor in left.items():
        torch.testing.assert_close(tensor, right[name], rtol=1e-4, atol=atol, msg=name)


def test_learning_rate_closed_form():
    rates = [SCHEDULE.learning_rate(step) for step in range(SCHEDULE.total_steps + 1)]
    assert rates[:5] == pytest.approx([0.1 * k / 6 for k in range(1, 6)])
    assert rates[5] == 0.1
    assert rates[5:] == pytest.approx([0.05 * (1 + math.cos(math.pi * k / 15)) for k in range(16)])
    assert rates[-1] == pytest.approx(0, abs=1e-15)


@pytest.mark.parametrize("warmup_epochs", [4, 9])
def test_a_warm_up_as_long_as_the_run(warmup_epochs):
    schedule = Schedule(steps_per_epoch=5, n_epochs=4, warmup_epochs=warmup_epochs, init_lr=0.1)
    assert schedule.learning_rate(19) == pytest.approx(0.1 * 20 / 21)


def test_no_warm_up_starts_at_the_full_rate():
    assert warmup_cosine_lr(0.3, 0, 10, 0) == 0.3


def test_weight_decay_spares_bn_and_bias():
    module = net()
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    optimizer = sgd(module, lr=1, momentum=0.9, nesterov=True, weight_decay=4e-5, no_decay_bn=True)
    decayed, spared = ({names[id(p)] for p in group["params"]} for group in optimizer.param_groups)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [4e-5, 0.0]
    assert decayed | spared == set(names.values())
    convolutions = {f"{name}.conv.weight" for name, layer in module.named_modules() if isinstance(layer, ConvBN)}
    assert decayed == convolutions | {"classifier.linear.weight"}
    assert spared == {name for name in names.values() if ".bn." in name} | {"classifier.linear.bias"}
    everything = sgd(module, lr=1, momentum=0.9, nesterov=True, weight_decay=4e-5, no_decay_bn=False)
    assert [group["weight_decay"] for group in everything.param_groups] == [4e-5, 4e-5]


def test_ema_closed_form():
    """e_T = prod(d_t) w_0 + sum_t (1 - d_t) prod_{s>t} d_s w_t, for parameters and BN statistics alike."""
    decay, length = 0.6, 20
    nets = [net(seed) for seed in range(length + 1)]
    for seed, each in enumerate(nets):
        rng = torch.Generator().manual_seed(seed)
        for buffer in each.buffers():
            buffer.copy_(torch.rand(buffer.shape, generator=rng) if buffer.is_floating_point() else torch.tensor(seed))
    ema = Ema(nets[0], decay)
    for each in nets[1:]:
        ema.update(each)
    d = [min(decay, (1 + t) / (10 + t)) for t in range(length)]
    assert d[0] == 0.1
    assert d[-1] == 0.6 > d[5]  # the test covers the decay's warm-up and what comes after
    weights = [math.prod(d), *((1 - d[t]) * math.prod(d[t + 1 :]) for t in range(length))]
    assert sum(weights) == pytest.approx(1)
    states = [each.state_dict() for each in nets]
    for name, found in ema.net.state_dict().items():
        if found.is_floating_point():
            wanted = sum(w * state[name].double() for w, state in zip(weights, states, strict=True))
            torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=1e-6, msg=name)
        else:
            assert found == length
    assert not any(parameter.requires_grad for parameter in ema.net.parameters())


def test_average_follows_the_network_and_scores_like_one():
    run = training(ema_decay=0.9)
    for step in range(4):
        run.update(*batch(seed=step))
    assert run.ema.updates == 4
    assert run.ema.net(batch()[0]).isfinite().all()
    assert any(not torch.equal(a, b) for a, b in zip(run.ema.net.parameters(), run.net.parameters(), strict=True))
    assert training(ema_decay=0).ema is None


@pytest.mark.trains
@pytest.mark.parametrize("parts", [2, 3, 8])
def test_accumulation_is_the_bigger_batch(parts):
    whole, split = (training(frozen_bn(net()), accumulation=n) for n in (1, parts))
    for step in range(3):
        whole.update(*batch(seed=step))
        split.update(*batch(seed=step))
    assert_close(values(whole.net), values(split.net))
    assert split.sums.loss == pytest.approx(whole.sums.loss, rel=1e-5)
    assert (split.sums.hits, split.sums.images) == (whole.sums.hits, whole.sums.images) == (whole.sums.hits, 24)


def test_images_left_out_do_not_shrink_the_gradient():
    images, labels = batch(6)
    short, exact = training(frozen_bn(net()), batch_size=8), training(frozen_bn(net()), batch_size=6)
    short.update(images, labels)
    exact.update(images, labels)
    assert_close(values(short.net), values(exact.net))
    assert (short.left_out, exact.left_out) == (2, 0)


def test_clipping_bounds_the_update():
    run = training(frozen_bn(net()), momentum=0.0, nesterov=False, weight_decay=0.0, grad_clip=0.01)
    before = [p.detach().clone() for p in run.net.parameters()]
    run.update(*batch())
    moved = torch.stack([(p - b).norm() for p, b in zip(run.net.parameters(), before, strict=True)]).norm()
    assert moved.item() == pytest.approx(0.01 * SCHEDULE.learning_rate(0), rel=1e-3)


def test_a_loss_that_is_not_finite_stops_before_the_update():
    run = training()
    for step in range(6):
        run.update(*batch(seed=step))
    before = copy.deepcopy((values(run.net), values(run.ema.net), run.optimizer.state_dict()["state"], run.sums))
    images, labels = batch()
    images[3, 1, 2, 2] = math.nan
    with pytest.raises(NonFiniteLossError, match=r"^training loss nan at batch 2 of 5 of epoch 2 \(step 6\)$"):
        run.update(images, labels)
    parameters = dict(run.net.named_parameters())
    assert_same_bits({name: before[0][name] for name in parameters}, {n: p.detach() for n, p in parameters.items()})
    assert_same_bits(before[1], values(run.ema.net))
    for key, state in before[2].items():
        assert torch.equal(state["momentum_buffer"], run.optimizer.state_dict()["state"][key]["momentum_buffer"])
    assert (run.step, run.sums) == (6, before[3])


def test_a_gradient_that_is_not_finite_stops_before_the_update():
    run = training()
    weight = run.net.classifier.linear.weight
    before = weight.detach().clone()
    run.net.first_conv.conv.weight.register_hook(lambda gradient: gradient * math.inf)
    with pytest.raises(NonFiniteLossError, match=r"^gradient norm (nan|inf) at batch 1 of 5 of epoch 1"):
        run.update(*batch())
    assert torch.equal(weight, before)


def test_state_makes_a_resume_exact(tmp_path):
    """Dropout included: its masks are a function of the step."""
    straight, first = training(), training()
    for step in range(7):
        straight.update(*batch(seed=step))
        torch.rand(step)  # torch's own generator is not part of it
    for step in range(3):
        first.update(*batch(seed=step))
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second = training(net(9))
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    for step in range(3, 7):
        second.update(*batch(seed=step))
    assert_same_bits(values(straight.net), values(second.net))
    assert_same_bits(values(straight.ema.net), values(second.ema.net))
    assert (straight.sums, straight.step) == (second.sums, second.step)


@pytest.mark.trains
def test_bf16_learns_and_keeps_float32_weights():
    run = training(precision="bf16", init_lr=0.1, ema_decay=0)
    losses = []
    for _ in range(20):
        run.update(*batch())
        losses.append(run.take_sums().loss)
    assert losses[-1] < 0.8 * losses[0]
    assert {parameter.dtype for parameter in run.net.parameters()} == {torch.float32}


def test_one_process_counts_as_it_is():
    result = EvalResult(3, 4, 5, 0.1)
    assert over_ranks(result, torch.device("cpu")) == result


@pytest.mark.skipif(not torch.cuda.is_available(), reason="fp16 training needs a GPU")
def test_fp16_on_a_gpu_skips_an_overflow():
    module = net().to("cuda")
    run = training(module, precision="fp16", init_lr=0.1)
    images, labels = (tensor.cuda() for tensor in batch())
    losses = []
    for _ in range(30):
        run.update(images, labels)
        losses.append(run.take_sums().loss)
    assert losses[-1] < 0.8 * losses[0]
    assert all(parameter.isfinite().all() for parameter in module.parameters())
