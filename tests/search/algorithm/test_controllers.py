"""Expected cost against enumeration and finite differences, the losses against numbers worked out by hand."""

import math

import numpy as np
import pytest
import torch

from hardware.cost import MACS, CostTable, price_space
from proxyless_arch.arch.ops import Zero
from proxyless_arch.base.errors import InputError
from proxyless_arch.base.units import Unit
from proxyless_nas.steps import NonFiniteLossError
from search.algorithm import objective
from search.algorithm.controllers import (
    ExpectedCost,
    GradientController,
    init_alphas,
    resolved_arch_lr,
    step_rng,
)
from search.algorithm.gates import keep_other_probabilities, probabilities, sample
from search.config import ArchOpt, Target
from tests.search.tiny import all_paths, random_alphas, random_table, sizes_of, tiny_batch, tiny_space, tiny_supernet

SPACE = tiny_space()
SIZES = sizes_of(SPACE)
STEP = 1e-5


def enumerated_cost(table, alphas, temperature):
    """sum over all networks of P(network) * cost(network)."""
    p = [block.tolist() for block in probabilities([alpha.detach() for alpha in alphas], temperature)]
    return math.fsum(
        math.prod(block[j] for block, j in zip(p, path, strict=True)) * table.of_path(path) for path in all_paths(SPACE)
    )


def moved(alphas, block, choice, change):
    result = [alpha.detach().clone() for alpha in alphas]
    result[block][choice] += change
    return result


@pytest.mark.parametrize("temperature", [1.0, 0.4])
def test_expected_cost_is_the_enumeration_and_its_gradient_a_finite_difference(temperature):
    for table in (random_table(SIZES), price_space(SPACE, MACS)):
        scale = 1e-6 if table.unit == "MACs" else 1.0
        cost = ExpectedCost(table, scale)
        alphas = random_alphas(SIZES)
        value = cost(alphas, temperature)
        assert value.dtype == torch.float64
        assert value.item() == pytest.approx(scale * enumerated_cost(table, alphas, temperature), rel=1e-12)
        p = [block.detach().numpy() for block in probabilities(alphas, temperature)]
        assert value.item() == pytest.approx(scale * table.expected(p), rel=1e-12)
        gradients = torch.autograd.grad(value, alphas)
        for block, n in enumerate(SIZES):
            for choice in range(n):
                up, down = (cost(moved(alphas, block, choice, sign * STEP), temperature).item() for sign in (1, -1))
                expected = (up - down) / (2 * STEP)
                assert gradients[block][choice].item() == pytest.approx(expected, rel=1e-6, abs=1e-9 * scale)


@pytest.mark.parametrize("temperature", [1.0, 0.4])
def test_in_two_mode_the_value_is_the_full_one_and_the_gradient_stays_within_the_pair(temperature):
    table = random_table(SIZES)
    cost = ExpectedCost(table)
    alphas = random_alphas(SIZES)
    for draw in range(3):
        _, gates = sample(alphas, step_rng(0, 1, draw), "two", temperature)
        value = cost(alphas, temperature, gates)
        assert value.item() == pytest.approx(cost(alphas, temperature).item(), rel=1e-12)
        gradients = torch.autograd.grad(value, alphas)
        for block, gate in enumerate(gates):
            for choice in range(SIZES[block]):
                got = gradients[block][choice].item()
                if choice not in gate.candidates:
                    assert got == 0
                    continue
                sides = []
                for sign in (1, -1):  # alpha moves as an update in this mode moves it: all others stay as probable
                    other = moved(alphas, block, choice, sign * STEP)
                    keep_other_probabilities(other[block], alphas[block].detach(), gate.candidates, temperature)
                    sides.append(cost(other, temperature).item())
                assert got == pytest.approx((sides[0] - sides[1]) / (2 * STEP), rel=1e-6, abs=1e-9)


def scalar(value):
    return torch.tensor(value, dtype=torch.float64, requires_grad=True)


def test_losses_by_hand():
    ce, cost = scalar(2.0), scalar(100.0)
    # log 100 / log 10 = 2, to the power 0.5, times 0.2 * 2
    assert objective.mul_log(ce, cost, 10.0, 0.2, 0.5).item() == pytest.approx(0.4 * math.sqrt(2), rel=1e-6)
    # 2 + 0.1 * (100 - 80) / 80
    assert objective.add_linear(ce, cost, 80.0, 0.1).item() == pytest.approx(2.025, rel=1e-12)
    # 2 + 0.3 * |100 / 80 - 1|, and the same distance below
    assert objective.hard_target(ce, cost, 80.0, 0.3).item() == pytest.approx(2.075, rel=1e-12)
    assert objective.hard_target(ce, scalar(60.0), 80.0, 0.3).item() == pytest.approx(2.075, rel=1e-12)


def test_which_way_the_losses_push():
    def push(loss, at):
        cost = scalar(at)
        return torch.autograd.grad(loss(torch.tensor(1.0), cost), cost)[0].item()

    for at in (60.0, 100.0):
        assert push(lambda ce, e: objective.add_linear(ce, e, 80.0, 0.1), at) == pytest.approx(0.1 / 80)
    assert push(lambda ce, e: objective.hard_target(ce, e, 80.0, 0.3), 100.0) == pytest.approx(0.3 / 80)
    assert push(lambda ce, e: objective.hard_target(ce, e, 80.0, 0.3), 60.0) == pytest.approx(-0.3 / 80)


def alpha_gradient(loss):
    """The gradient of a loss(ce, cost) for random alphas through both of its arguments, as one vector."""
    alphas = random_alphas(SIZES)
    table = random_table(SIZES, scale=3.0)
    ce = sum((alpha.sin() * torch.arange(len(alpha))).sum() for alpha in alphas) ** 2 + 1
    gradients = torch.autograd.grad(loss(ce, ExpectedCost(table)(alphas)), alphas)
    return torch.cat(gradients)


def test_the_target_of_mul_log_is_only_a_factor():
    """The documented fact: T scales the gradient and cannot turn it, so it does not decide where E lands."""
    one, other = (alpha_gradient(lambda ce, e, t=t: objective.mul_log(ce, e, t, 0.2, 0.3)) for t in (40.0, 80.0))
    torch.testing.assert_close(one / one.norm(), other / other.norm(), rtol=1e-9, atol=1e-12)
    ratio = (math.log(80) / math.log(40)) ** 0.3
    assert (one.norm() / other.norm()).item() == pytest.approx(ratio, rel=1e-6)
    hard = [alpha_gradient(lambda ce, e, t=t: objective.hard_target(ce, e, t, 300.0)) for t in (20.0, 200.0)]
    assert torch.dot(hard[0] / hard[0].norm(), hard[1] / hard[1].norm()).item() < 0.999


@pytest.mark.parametrize(("minimum", "target"), [(1.0, 50.0), (0.5, 50.0), (2.0, 1.0), (2.0, 0.1)])
def test_mul_log_needs_costs_above_1(minimum, target):
    with pytest.raises(InputError, match=r"grad_reg_loss_type: mul#log .*above 1"):
        objective.check_logarithm(minimum, target)
    objective.check_logarithm(1.01, 1.01)


@pytest.mark.parametrize(
    ("step", "expected"), [(0, 100.0), (25, 90.0), (50, 80.0), (51, 80.0), (100, 80.0), (1000, 80.0)]
)
def test_target_ramps_over_the_first_half(step, expected):
    assert objective.ramped_target(100.0, 80.0, step, 100) == pytest.approx(expected, rel=1e-12)


def test_target_ramps_upwards_too():
    assert objective.ramped_target(60.0, 80.0, 10, 100) == pytest.approx(64.0)


@pytest.mark.parametrize(("step", "expected"), [(0, 1.0), (25, 1.0), (62.5, math.sqrt(0.3)), (100, 0.3), (130, 0.3)])
def test_temperature_rests_for_a_quarter_then_falls_geometrically(step, expected):
    assert objective.annealed_temperature(step, 100, 0.3) == pytest.approx(expected, rel=1e-12)


def test_temperature_of_no_steps():
    assert objective.annealed_temperature(0, 0, 0.3) == 1


@pytest.mark.parametrize(
    ("lam", "deviation", "expected"),
    [
        (0.3, 0.0, 0.3), (0.3, 0.01, 0.3), (0.3, -0.01, 0.3), (0.3, 0.0101, 0.375), (0.3, -0.0101, 0.375),
        (79.9, 1.0, 99.875), (80.1, 1.0, 100.0), (100.0, 1.0, 100.0),
    ],
)  # fmt: skip
def test_lambda_raise(lam, deviation, expected):
    assert objective.raised_lambda(lam, deviation) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("steps", "expected"), [(1, 5), (359, 5), (360, 6), (2999, 49), (3000, 50), (10**6, 50)])
def test_lambda_interval(steps, expected):
    assert objective.lambda_interval(steps) == expected


@pytest.mark.parametrize(("steps", "expected"), [(0, 0.1), (1, 0.1), (600, 0.1), (1200, 0.05), (60_000, 0.001),
                                                 (10**7, 0.001)])  # fmt: skip
def test_arch_lr_by_default_lets_alpha_decide(steps, expected):
    assert resolved_arch_lr(ArchOpt(), steps) == pytest.approx(expected)
    assert resolved_arch_lr(ArchOpt(arch_lr=0.007), steps) == 0.007


class Fake:
    """Called as a supernet is; its loss depends on the gates alone."""

    def __init__(self, broken_at=None, value=math.nan):
        self.calls, self.broken_at, self.value = 0, broken_at, value

    def __call__(self, images, path, gates):
        score = sum((gate.values * torch.arange(len(gate.candidates))).sum() for gate in gates)
        if self.calls == self.broken_at:
            score = score * self.value
        self.calls += 1
        return torch.stack([score.expand(len(images)), torch.zeros(len(images), dtype=score.dtype)], 1)


IMAGES, LABELS = torch.zeros(4, 3, 2, 2), torch.zeros(4, dtype=torch.int64)


def controller(alphas, *, total_steps=40, table=None, goal=None, target=None, **opt):
    return GradientController(
        alphas, table, goal, ArchOpt(**({"arch_lr": 0.05} | opt)), target or Target(), total_steps, seed=0
    )


def state_bits(owner):
    state = owner.state_dict()
    optimizer = {
        f"{index}.{name}": torch.as_tensor(value).clone()
        for index, moments in state["optimizer"]["state"].items()
        for name, value in moments.items()
    }
    return (
        [alpha.numpy().tobytes() for alpha in state["alphas"]],
        optimizer,
        state["step"],
        state["lam"],
        state["deviation"],
    )


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("mode", ["full_v2", "two"])
def test_a_loss_that_is_not_finite_leaves_everything_as_it_was(value, mode):
    table = random_table(SIZES)
    alphas = random_alphas(SIZES, dtype=torch.float32)
    owner = controller(alphas, table=table, goal=0.7 * table.uniform_expected, grad_binary_mode=mode)
    broken = Fake(broken_at=5, value=value)
    for _ in range(5):
        owner.update(broken, IMAGES, LABELS)
    before = state_bits(owner)
    with pytest.raises(NonFiniteLossError, match="architecture step 5"):
        owner.update(broken, IMAGES, LABELS)
    after = state_bits(owner)
    assert before[0] == after[0]
    assert before[2:] == after[2:]
    assert list(before[1]) == list(after[1])
    assert all(torch.equal(before[1][name], after[1][name]) for name in before[1])
    owner.update(broken, IMAGES, LABELS)  # and the next one goes on
    assert state_bits(owner)[0] != before[0]


def test_a_gradient_that_is_not_finite_is_refused():
    """The loss itself is finite (sqrt at 0), its slope is not."""

    def steep(images, path, gates):
        zero = sum((gate.values - gate.values.detach()).sum() for gate in gates)
        return torch.stack([zero.abs().sqrt().expand(2), torch.zeros(2, dtype=zero.dtype)], 1)

    alphas = random_alphas(SIZES)
    old = [alpha.detach().clone() for alpha in alphas]
    with pytest.raises(NonFiniteLossError):
        controller(alphas).update(steep, IMAGES[:2], LABELS[:2])
    assert all(torch.equal(alpha, was) for alpha, was in zip(alphas, old, strict=True))


def test_state_dict_continues_bit_for_bit():
    table = random_table(SIZES)

    def fresh():
        alphas = random_alphas(SIZES, dtype=torch.float32)
        return controller(alphas, table=table, goal=0.6 * table.uniform_expected, arch_adam_beta1=0.5)

    straight, first, second = fresh(), fresh(), fresh()
    for _ in range(30):
        straight.update(Fake(), IMAGES, LABELS)
    for _ in range(13):
        first.update(Fake(), IMAGES, LABELS)
    second.load_state_dict(first.state_dict())
    for _ in range(17):
        second.update(Fake(), IMAGES, LABELS)
    assert state_bits(straight)[0] == state_bits(second)[0]
    assert state_bits(straight)[2:] == state_bits(second)[2:]
    assert straight.lam > 0.3  # the feedback was at work


def test_the_first_adam_step_by_hand():
    """With beta1 = 0 the first step is lr * sign(gradient) (eps aside): utility 0..n-1 raises the last choice."""
    alphas = [torch.zeros(3, dtype=torch.float64, requires_grad=True)]
    controller(alphas, arch_lr=0.1).update(Fake(), IMAGES, LABELS)
    np.testing.assert_allclose(alphas[0].detach()[[0, 2]], [-0.1, 0.1], rtol=1e-5)


def test_stats_of_an_update():
    table = random_table(SIZES)
    alphas = random_alphas(SIZES)
    goal = 0.8 * table.uniform_expected
    owner = controller(alphas, table=table, goal=goal)
    expected = ExpectedCost(table)(alphas).item()
    stats = owner.update(Fake(), IMAGES, LABELS)
    assert stats.expected_cost == pytest.approx(expected, rel=1e-12)
    assert stats.n_images == 4
    assert stats.lam == 0.3
    assert stats.temperature == 1
    # at step 0 the ramped target is the uniform mean of the space
    penalty = 0.3 * abs(expected / table.uniform_expected - 1)
    assert stats.loss == pytest.approx(stats.cross_entropy + penalty, rel=1e-9)
    assert controller(random_alphas(SIZES)).update(Fake(), IMAGES, LABELS).expected_cost is None


def test_macs_reach_the_loss_in_millions():
    table = price_space(SPACE, MACS)
    alphas = random_alphas(SIZES)
    owner = controller(alphas, table=table, goal=table.uniform_expected, target=Target(grad_reg_loss_type="add#linear"))
    assert owner.goal == pytest.approx(table.uniform_expected / 1e6)
    stats = owner.update(Fake(), IMAGES, LABELS)
    assert stats.expected_cost == pytest.approx(ExpectedCost(table)(random_alphas(SIZES)).item(), rel=1e-9)
    assert stats.lam is None
    relative = stats.expected_cost / table.uniform_expected - 1
    assert stats.loss == pytest.approx(stats.cross_entropy + 0.1 * relative, rel=1e-9)


def test_only_the_hard_target_anneals():
    table = random_table(SIZES)
    for kind, last in (("hard", 0.3), ("mul#log", 1.0), ("add#linear", 1.0)):
        owner = controller(
            random_alphas(SIZES), table=table, goal=table.uniform_expected, target=Target(grad_reg_loss_type=kind)
        )
        owner.step = owner.total_steps
        assert owner.temperature == pytest.approx(last)
    assert controller(random_alphas(SIZES)).temperature == 1


def test_lambda_rises_while_the_target_is_missed():
    """E is held above the target, so lambda grows by a quarter at every look, five steps apart."""
    table = CostTable(fixed=0.0, groups=((1.0, 2.0),), unit=Unit.MS, source="made up")
    alphas = [torch.tensor([-30.0, 30.0], dtype=torch.float64, requires_grad=True)]  # E stays at 2
    owner = controller(alphas, table=table, goal=1.0, total_steps=40)
    seen = [owner.update(Fake(), IMAGES, LABELS).lam for _ in range(16)]
    assert seen == pytest.approx([0.3] * 5 + [0.375] * 5 + [0.46875] * 5 + [0.5859375])
    # the mean deviation follows (2 / ramp - 1) with decay 1 - 1/5, from 0
    deviation = 0.0
    for step in range(16):
        ramp = 1.5 + (1.0 - 1.5) * min(1.0, step / 20)
        deviation = 0.8 * deviation + 0.2 * (2 / ramp - 1)
    assert owner.deviation == pytest.approx(deviation, rel=1e-9)


def test_step_rng_is_reproducible_and_distinct():
    def draws(*key):
        return tuple(torch.rand(4, generator=step_rng(*key)).tolist())

    assert draws(3, 1, 7) == draws(3, 1, 7)
    keys = [(seed, stream, step) for seed in range(4) for stream in range(6) for step in range(20)]
    assert len({draws(*key) for key in keys}) == len(keys)
    state = torch.get_rng_state()
    draws(2**31 - 1, 5, 10**9)
    assert torch.equal(state, torch.get_rng_state())


def test_initial_alphas():
    alphas = init_alphas([1000, 7], 1e-3, seed=4)
    assert [len(alpha) for alpha in alphas] == [1000, 7]
    assert all(alpha.is_leaf and alpha.requires_grad for alpha in alphas)
    assert alphas[0].std().item() == pytest.approx(1e-3, rel=0.1)
    assert torch.equal(alphas[0], init_alphas([1000, 7], 1e-3, seed=4)[0])
    assert not torch.equal(alphas[0], init_alphas([1000, 7], 1e-3, seed=5)[0])


def test_update_on_a_supernet_counts_hits():
    supernet = tiny_supernet(dtype=torch.float32).train()
    images = torch.randn(12, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    alphas = random_alphas(SIZES, dtype=torch.float32)
    path, _ = sample(alphas, step_rng(0, 1, 0))
    with torch.no_grad():
        labels = tiny_supernet(dtype=torch.float32).train()(images, path).argmax(1)
    labels[:5] = (labels[:5] + 1) % 5
    assert controller(alphas).update(supernet, images, labels).top1_hits == 7


def test_release_rule_leaves_a_block_that_sampled_zero():
    """The release skips the whole update of a block, its cost gradient included, when Zero was active there."""
    images = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    labels = torch.tensor([0, 1, 2, 0])
    kept = moved = 0
    for seed in range(2):
        alphas = random_alphas(sizes_of(SPACE), std=0.1)
        before = [alpha.detach().clone() for alpha in alphas]
        opt = ArchOpt(arch_lr=0.1, zero_rule="release")
        table = price_space(SPACE, MACS)
        control = GradientController(alphas, table, 0.7 * table.uniform_expected, opt, Target(), 10, seed)
        path, _ = sample(alphas, step_rng(seed, 1, 0), "full_v2")
        control.update(tiny_supernet(), images, labels)
        for block, choice, old, new in zip(SPACE.choices, path, before, alphas, strict=True):
            if isinstance(block[choice], Zero):
                assert torch.equal(old, new)
                kept += 1
            else:
                assert not torch.equal(old, new)
                moved += 1
    assert kept and moved


@pytest.mark.parametrize("mode", ["full_v2", "two"])
@pytest.mark.parametrize("rule", ["hard", "mul#log", "add#linear"])
def test_an_architecture_step_in_parts_is_that_of_all_images(rule, mode):
    """Where batch normalization does not see how large a part is; the losses are not all linear in cross-entropy."""
    supernet, table = tiny_supernet(SPACE).eval(), price_space(SPACE, MACS)
    images, labels = tiny_batch(7)
    found = []
    for parts in (1, 2, 3):
        controller = GradientController(
            random_alphas(SIZES), table, 0.8 * table.uniform_expected,
            ArchOpt(grad_binary_mode=mode), Target(grad_reg_loss_type=rule), 20, 3,
        )  # fmt: skip
        stats = controller.update(supernet, images, labels, parts)
        found.append((controller.alphas, [alpha.grad for alpha in controller.alphas], stats))
    (alphas, gradients, stats), *others = found
    for other_alphas, other_gradients, other in others:
        torch.testing.assert_close(other_alphas, alphas)
        torch.testing.assert_close(other_gradients, gradients)
        assert other.loss == pytest.approx(stats.loss)
        assert other.cross_entropy == pytest.approx(stats.cross_entropy)
        assert (other.top1_hits, other.n_images) == (stats.top1_hits, stats.n_images) == (stats.top1_hits, 7)
