"""The training step against closed forms: schedule, decay groups, averages, accumulation, clipping, refusal of NaN."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from proxyless_arch.apps.scores import EvalResult
from proxyless_arch.apps.train_settings import Optimization, TrainConfig, from_dict, to_dict
from proxyless_arch.base.errors import InputError, StoppedError
from proxyless_arch.base.settings import note_on_absent
from proxyless_nas.layers import ConvBN
from proxyless_nas.network import build
from proxyless_nas.steps import (
    NonFiniteLossError,
    check_learns,
    in_parts,
    sgd,
    smoothed_loss,
    warmup_cosine_lr,
    weighted_loss,
)
from proxyless_nas.train.checkpointing import check_optimizer
from proxyless_nas.train.training import Ema, Schedule, Training, over_ranks
from tests.errors import named
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


@pytest.mark.parametrize(
    ("steps", "epochs", "frozen", "warmup", "expected"),
    [(5, 4, 0, 1, 5), (5, 4, 0, 9, 5), (58, 1, 0, 5, 14), (3, 1, 0, 5, 0), (5, 5, 1, 9, 5)],
)
def test_a_warm_up_takes_a_quarter_of_the_steps_that_train_everything(steps, epochs, frozen, warmup, expected):
    schedule = Schedule(steps_per_epoch=steps, n_epochs=epochs, warmup_epochs=warmup, init_lr=0.1, freeze_epochs=frozen)
    assert schedule.warmup_steps == expected
    rates = [schedule.learning_rate(step) for step in range(schedule.total_steps)]
    assert rates[min(schedule.frozen_steps + expected, len(rates) - 1)] == max(
        rates[schedule.frozen_steps :], default=0
    )
    assert rates[-1] < max(rates) / 2  # a short run ends low, too


def test_the_classifier_alone_has_a_cosine_of_its_own():
    schedule = Schedule(steps_per_epoch=4, n_epochs=3, warmup_epochs=0, init_lr=0.1, freeze_epochs=1)
    half = [0.05 * (1 + math.cos(math.pi * k / 4)) for k in range(4)]
    whole = [0.05 * (1 + math.cos(math.pi * k / 8)) for k in range(8)]
    assert [schedule.learning_rate(step) for step in range(12)] == pytest.approx(half + whole)
    frozen = [Schedule(steps_per_epoch=4, n_epochs=3, warmup_epochs=0, init_lr=1, freeze_epochs=n) for n in (0, 2, 9)]
    assert [each.frozen_steps for each in frozen] == [0, 8, 12]


@pytest.mark.parametrize(("steps", "frozen"), [(1, 0), (10, 0), (58, 0), (58, 1), (10_000, 0)])
def test_bn_forgets_the_start_within_half_of_the_steps(steps, frozen):
    schedule = Schedule(steps_per_epoch=steps, n_epochs=1 + frozen, warmup_epochs=0, init_lr=1, freeze_epochs=frozen)
    momentum = schedule.bn_momentum(0.01)
    assert (1 - momentum) ** (steps / 2) == pytest.approx(0.01) or (momentum == 0.01 and steps == 10_000)
    assert schedule.bn_momentum(0.9999999) == 0.9999999
    assert replace(schedule, fits_run=False).bn_momentum(0.01) == 0.01


def test_a_run_of_before_has_its_warm_up_as_long_as_it_was():
    schedule = Schedule(steps_per_epoch=4, n_epochs=10, warmup_epochs=5, init_lr=0.1)
    assert (schedule.warmup_steps, replace(schedule, fits_run=False).warmup_steps) == (10, 20)
    assert replace(schedule, fits_run=False, n_epochs=3).warmup_steps == 12
    saved = to_dict(TrainConfig(arch="x"))
    younger = ("fits_run", "fit_classifier", "freeze_epochs", "backbone_lr_mult", "freeze_bn", "class_weights")
    older = {name: value for name, value in saved.items() if name not in (*younger, "resize_scale")}
    read = from_dict(older, "config.json", fill_missing=True)
    assert read == replace(TrainConfig(arch="x"), optimization=Optimization(fits_run=False))
    assert note_on_absent(read, older) == ()


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


def test_a_teacher_is_a_share_of_the_loss():
    """With the whole loss: the gradient of the cross-entropy against its probabilities. With none: as without one."""
    teacher, (images, labels) = net(seed=5).eval(), batch()
    kinds = {share: frozen_bn(net()) for share in (0.0, 1.0)}
    for share, module in kinds.items():
        trained = Training(
            module, Optimization(distillation=share, init_lr=0.1, ema_decay=0), SCHEDULE, batch_size=8, seed=3,
            teacher=teacher,
        )  # fmt: skip
        trained.update(images, labels)
    alone = training(frozen_bn(net()), init_lr=0.1, ema_decay=0)
    alone.update(images, labels)
    assert_same_bits(values(kinds[0.0]), values(alone.net))

    by_hand = frozen_bn(net())
    with torch.no_grad():
        taught = teacher(images).softmax(1)
    (-(taught * by_hand(images).log_softmax(1)).sum(1).mean()).backward()
    moved = {name: parameter.grad.clone() for name, parameter in by_hand.named_parameters()}
    for name, parameter in kinds[1.0].named_parameters():
        torch.testing.assert_close(parameter.grad, moved[name], rtol=1e-4, atol=1e-6)


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
    with pytest.raises(NonFiniteLossError) as caught:
        run.update(images, labels)
    named(str(caught.value), "training loss nan", "batch 2 of 5", "epoch 2", "step 6")
    parameters = dict(run.net.named_parameters())
    assert_same_bits({name: before[0][name] for name in parameters}, {n: p.detach() for n, p in parameters.items()})
    assert_same_bits(before[1], values(run.ema.net))
    for key, state in before[2].items():
        assert torch.equal(state["momentum_buffer"], run.optimizer.state_dict()["state"][key]["momentum_buffer"])
    assert (run.step, run.sums) == (6, before[3])


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adam])
def test_a_saved_optimizer_has_what_torch_does_not_set(kind):
    optimizer = kind([nn.Parameter(torch.zeros(2))], lr=0.1)
    for name in list(optimizer.param_groups[0]):
        state = copy.deepcopy(optimizer.state_dict())
        state["param_groups"][0].pop(name)
        try:
            check_optimizer(state, optimizer, "optimizer")
        except InputError as error:
            assert error.place == f"optimizer.param_groups[0].{name}"
        else:
            optimizer.load_state_dict(state)
            assert name in optimizer.param_groups[0], name


def test_an_epoch_that_learns_nothing_at_many_times_the_loss_of_guessing_is_the_end():
    guess = math.log(10)
    for loss, top1 in ((21 * guess, 30.0), (2 * guess, 10.0), (None, None)):  # it learns; it is only slow; no image
        check_learns(loss, top1, 1000, 10, "--init_lr")
    with pytest.raises(StoppedError, match="--warmup_lr"):
        check_learns(21 * guess, 10.0, 1000, 10, "--warmup_lr")


def test_a_gradient_that_is_not_finite_stops_before_the_update():
    run = training()
    weight = run.net.classifier.linear.weight
    before = weight.detach().clone()
    run.net.first_conv.conv.weight.register_hook(lambda gradient: gradient * math.inf)
    with pytest.raises(NonFiniteLossError, match=r"^gradient norm (nan|inf)") as caught:
        run.update(*batch())
    named(str(caught.value), "batch 1 of 5", "epoch 1")
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


FROZEN = Schedule(steps_per_epoch=3, n_epochs=3, warmup_epochs=1, init_lr=0.1, freeze_epochs=1)


def finetuning(module=None, **settings):
    settings = Optimization(freeze_epochs=1, backbone_lr_mult=0.5, **settings)
    return Training(module or net(), settings, FROZEN, batch_size=8, seed=3)


def others(state):
    return {name: tensor for name, tensor in state.items() if not name.startswith("classifier.")}


def test_frozen_steps_train_the_classifier_alone():
    run = finetuning()
    before = values(run.net)
    for step in range(3):
        assert run.is_frozen
        run.update(*batch(seed=step))
    assert_same_bits(others(before), others(values(run.net)))  # BN statistics among them
    assert not torch.equal(before["classifier.linear.weight"], run.net.classifier.linear.weight)
    run.update(*batch())
    assert not run.is_frozen
    for name, tensor in values(run.net).items():
        assert not torch.equal(tensor, before[name]), name


def test_frozen_bn_keeps_its_statistics_and_shares_add_up():
    whole, split = (training(freeze_bn=True, accumulation=n, batch_size=8) for n in (1, 4))
    for run in (whole, split):
        run.net.classifier.dropout.p = 0.0
        before = values(run.net)
        for step in range(2):
            run.update(*batch(seed=step))
        statistics = [name for name in before if "running" in name or "tracked" in name]
        assert statistics and all(torch.equal(before[name], values(run.net)[name]) for name in statistics)
        assert not torch.equal(before["first_conv.bn.weight"], run.net.first_conv.bn.weight)
    assert_close(values(whole.net), values(split.net))


def test_the_old_layers_take_smaller_steps():
    """The first step moves each parameter by lr (1 + momentum) gradient; the gradients do not depend on the rates."""
    moved = []
    for mult in (1.0, 0.25, 0.0):
        run = training(frozen_bn(net()), backbone_lr_mult=mult, weight_decay=1e-3)
        before = {name: parameter.detach().clone() for name, parameter in run.net.named_parameters()}
        run.update(*batch())
        moved.append({name: p.detach() - before[name] for name, p in run.net.named_parameters()})
    whole, quarter, none = moved
    for name, step in whole.items():
        mult = (1.0, 1.0) if name.startswith("classifier.") else (0.25, 0.0)
        torch.testing.assert_close(quarter[name], mult[0] * step, rtol=1e-3, atol=1e-7, msg=name)
        torch.testing.assert_close(none[name], mult[1] * step, rtol=1e-3, atol=1e-7, msg=name)


@pytest.mark.parametrize("stop", [2, 3, 5], ids=["frozen", "between", "all"])
def test_a_resume_is_exact_in_every_phase(stop, tmp_path):
    straight, first = finetuning(), finetuning()
    for step in range(8):
        straight.update(*batch(seed=step))
    for step in range(stop):
        first.update(*batch(seed=step))
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second = finetuning(net(9))
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    for step in range(stop, 8):
        second.update(*batch(seed=step))
    assert_same_bits(values(straight.net), values(second.net))
    assert_same_bits(values(straight.ema.net), values(second.ema.net))


def test_class_weights_are_those_of_the_mean_over_images():
    logits, labels = torch.randn(8, 5, generator=torch.Generator().manual_seed(0)), batch()[1]
    weights = torch.tensor([0.5, 2.0, 1.0, 3.0, 0.25])
    each = torch.stack([smoothed_loss(logits[i : i + 1], labels[i : i + 1], 0.1) for i in range(8)])
    torch.testing.assert_close(weighted_loss(logits, labels, 0.1, weights), (weights[labels] * each).sum() / 8)
    torch.testing.assert_close(weighted_loss(logits, labels, 0.1, torch.ones(5)), smoothed_loss(logits, labels, 0.1))


def test_a_class_that_counts_twice_is_one_whose_images_are_there_twice():
    images, labels = batch(4)
    labels = torch.tensor([0, 1, 2, 2])
    twice = torch.cat([images, images[2:]]), torch.cat([labels, labels[2:]])
    weights = torch.tensor([1.0, 1.0, 2.0, 1.0, 1.0])
    one = Training(
        frozen_bn(net()), Optimization(grad_clip=None), SCHEDULE, batch_size=4, seed=3, class_weights=weights
    )
    two = training(frozen_bn(net()), batch_size=6)
    one.update(images, labels)
    # the mean of 4 weighted terms is 6 / 4 of the mean of 6
    two.update(*twice)
    weight, other = (run.optimizer.state[run.net.classifier.linear.weight]["momentum_buffer"] for run in (one, two))
    decay = 4e-5 * net().classifier.linear.weight.detach()
    torch.testing.assert_close(weight - decay, 1.5 * (other - decay), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("images", "parts"), [(256, 18), (64, 10), (7, 3), (5, None), (2, 4)])
def test_parts_of_a_batch_differ_by_one_image_at_most(images, parts):
    batch = torch.arange(images)
    found = [len(part) for part, labels in in_parts(batch, batch, parts) if torch.equal(part, labels)]
    assert sum(found) == images and len(found) == min(parts or 1, images)
    assert max(found) - min(found) <= 1
