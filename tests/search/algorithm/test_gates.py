"""The binarized-path gradient against the dense mixture, in float64, and what sampling promises."""

import math
import weakref
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from proxyless_nas.side_by_side import each
from search.algorithm import gates as gates_module
from search.algorithm.controllers import GradientController, step_rng
from search.algorithm.gates import (
    BINARY_MODES,
    Gate,
    argmax_path,
    entropy,
    keep_other_probabilities,
    probabilities,
    sample,
    sample_path,
)
from search.config import ArchOpt, Target
from tests.search.tiny import (
    assert_same_bits,
    dense_logits,
    random_alphas,
    random_table,
    sizes_of,
    snapshot,
    tiny_batch,
    tiny_space,
    tiny_supernet,
)

SPACE = tiny_space()
SIZES = sizes_of(SPACE)
ZERO = 4  # the index of Zero in the blocks that have it


def gate_gradients(supernet, images, labels, path, gates):
    """Enumerated dL/dg_j of the dense mixture at the one-hot gates, and dL/dx, with every gate a leaf of its own."""
    leaves = [
        {j: torch.tensor(float(j == active), dtype=torch.float64, requires_grad=True) for j in gate.candidates}
        for active, gate in zip(path, gates, strict=True)
    ]
    x = images.clone().requires_grad_()
    loss = F.cross_entropy(dense_logits(supernet, x, leaves), labels)
    flat = [leaf for block in leaves for leaf in block.values()]
    dx, *found = torch.autograd.grad(loss, [x, *flat], allow_unused=True)
    values = iter(0.0 if gradient is None else float(gradient) for gradient in found)
    return loss.item(), [{j: next(values) for j in block} for block in leaves], dx


def equation_4(alphas, per_gate, temperature):
    """dL/dalpha_i = sum_j dL/dg_j p_j (delta_ij - p_i) / temperature, over the gates that were sampled."""
    result = []
    for alpha, block in zip(alphas, per_gate, strict=True):
        logits = {j: alpha[j].item() / temperature for j in block}
        total = sum(math.exp(value) for value in logits.values())
        p = {j: math.exp(value) / total for j, value in logits.items()}
        gradient = [0.0] * len(alpha)
        for i in block:
            gradient[i] = sum(block[j] * p[j] * ((i == j) - p[i]) for j in block) / temperature
        result.append(gradient)
    return result


def dense_gradients(supernet, images, labels, alphas, path, gates, temperature):
    """dL/dalpha and dL/dx of the dense mixture by autograd alone, gates straight-through."""
    own = [alpha.detach().clone().requires_grad_() for alpha in alphas]
    mixed = []
    for alpha, active, gate in zip(own, path, gates, strict=True):
        p = torch.softmax(torch.stack([alpha[j] for j in gate.candidates]) / temperature, 0)
        mixed.append({j: float(j == active) + p[n] - p[n].detach() for n, j in enumerate(gate.candidates)})
    x = images.clone().requires_grad_()
    loss = F.cross_entropy(dense_logits(supernet, x, mixed), labels)
    *dalphas, dx = torch.autograd.grad(loss, [*own, x])
    return dalphas, dx


@pytest.mark.parametrize("training", [False, True], ids=["frozen_bn", "batch_statistics"])
@pytest.mark.parametrize("mode", BINARY_MODES)
def test_gradient_is_that_of_the_dense_mixture_and_equation_4(mode, training):
    supernet = tiny_supernet().train(training)
    images, labels = tiny_batch()
    alphas = random_alphas(SIZES)
    with torch.no_grad():
        alphas[1][ZERO] += 2
    seen_zero = False
    for draw, temperature in enumerate((1.0, 1.0, 1.0, 0.4, 2.5)):
        path, gates = sample(alphas, step_rng(5, 1, draw), mode, temperature)
        seen_zero |= ZERO in path
        if mode == "two":
            assert all(len(gate.candidates) == 2 for gate in gates)
        x = images.clone().requires_grad_()
        loss = F.cross_entropy(supernet(x, path, gates), labels)
        *got, got_x = torch.autograd.grad(loss, [*alphas, x])

        expected_loss, per_gate, expected_x = gate_gradients(supernet, images, labels, path, gates)
        assert loss.item() == pytest.approx(expected_loss, rel=1e-12)
        dense, dense_x = dense_gradients(supernet, images, labels, alphas, path, gates, temperature)
        by_hand = equation_4(alphas, per_gate, temperature)
        for ours, autograd, hand in zip(got, dense, by_hand, strict=True):
            assert float(ours.abs().max()) > 1e-6  # the comparison is not one of zeros
            torch.testing.assert_close(ours, autograd, rtol=1e-9, atol=1e-12)
            torch.testing.assert_close(ours, torch.tensor(hand, dtype=torch.float64), rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(got_x, expected_x, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(got_x, dense_x, rtol=1e-9, atol=1e-12)
    assert seen_zero


@pytest.mark.parametrize("mode", BINARY_MODES)
def test_gate_gradient_is_a_finite_difference_of_the_mixture(mode):
    """No autograd in the oracle: the dense mixture is evaluated at gates moved by +-h."""
    supernet = tiny_supernet().eval()
    images, labels = tiny_batch(3)
    path, gates = sample(random_alphas(SIZES), step_rng(1, 1, 0), mode)
    values = [gate.values.detach().clone().requires_grad_() for gate in gates]
    leaves = [replace(gate, values=leaf) for gate, leaf in zip(gates, values, strict=True)]
    got = torch.autograd.grad(F.cross_entropy(supernet(images, path, leaves), labels), values)
    onehot = [{j: float(j == active) for j in gate.candidates} for active, gate in zip(path, gates, strict=True)]
    step = 1e-6
    for block, gate in enumerate(gates):
        for place, choice in enumerate(gate.candidates):
            sides = []
            for sign in (1, -1):
                moved = [dict(weights) for weights in onehot]
                moved[block][choice] += sign * step
                with torch.no_grad():
                    sides.append(float(F.cross_entropy(dense_logits(supernet, images, moved), labels)))
            assert float(got[block][place]) == pytest.approx((sides[0] - sides[1]) / (2 * step), rel=1e-4, abs=1e-8)


@pytest.mark.parametrize("mode", ["full", "full_v2"])
def test_zero_is_an_ordinary_operation(mode):
    """Its own gate gets <dL/dout, 0> = 0; alpha still moves, since the other gates' gradients share the softmax."""
    supernet = tiny_supernet().train()
    images, labels = tiny_batch()
    alphas = random_alphas(SIZES)
    for path in ((0, ZERO, 1, 2), (0, 1, ZERO, 2), (3, 0, 2, 1)):
        gates = [
            Gate(tuple(range(n)), F.one_hot(torch.tensor(j), n).double().requires_grad_(), mode == "full")
            for j, n in zip(path, SIZES, strict=True)
        ]
        loss = F.cross_entropy(supernet(images, path, gates), labels)
        found = torch.autograd.grad(loss, [gate.values for gate in gates])
        for gradient in found[1:3]:
            assert float(gradient[ZERO]) == 0
            assert float(gradient[:ZERO].abs().min()) > 0
    path, gates = sample(alphas, step_rng(0, 1, 0), mode)
    dalpha = torch.autograd.grad(F.cross_entropy(supernet(images, path, gates), labels), alphas)
    assert float(dalpha[1][ZERO]) != 0


def controller_for(alphas, mode, *, table=None, goal=None, total_steps=20, target=None, **opt):
    settings = ArchOpt(**({"grad_binary_mode": mode, "arch_lr": 0.05} | opt))
    return GradientController(alphas, table, goal, settings, target or Target(), total_steps, seed=11)


def test_cost_alone_moves_zero():
    """An operation without output still has a price: with CE at rest the cheap Zero gains probability."""
    alphas = random_alphas(SIZES, std=0.0)
    table = random_table(SIZES)
    table = replace(table, groups=tuple((*edges[:ZERO], *(0.0 for _ in edges[ZERO:])) for edges in table.groups))
    controller = controller_for(alphas, "full_v2", table=table, goal=table.minimum, total_steps=20)

    def indifferent(images, path, gates):
        return torch.zeros(len(images), 5, dtype=torch.float64) + 0 * sum(gate.values.sum() for gate in gates)

    for _ in range(10):
        controller.update(indifferent, *tiny_batch())
    for block in (1, 2):
        assert int(alphas[block].argmax()) == ZERO


@pytest.mark.parametrize("mode", BINARY_MODES)
def test_an_architecture_step_leaves_the_supernet_as_it_was(mode):
    supernet = tiny_supernet().train()
    images, labels = tiny_batch()
    marked = list(supernet.parameters())[::2]
    for parameter in marked:
        parameter.grad = torch.full_like(parameter, 0.25)
    gradients = {name: p.grad for name, p in supernet.named_parameters()}
    before = snapshot(supernet)
    alphas = random_alphas(SIZES)
    old = [alpha.detach().clone() for alpha in alphas]
    table = random_table(SIZES)
    controller = controller_for(alphas, mode, table=table, goal=0.7 * table.uniform_expected)
    for _ in range(4):
        controller.update(supernet, images, labels)
    assert_same_bits(before, snapshot(supernet))  # weights, running statistics and batch counters
    for name, parameter in supernet.named_parameters():
        assert parameter.grad is gradients[name]
        assert parameter.grad is None or bool((parameter.grad == 0.25).all())
    assert all(not torch.equal(alpha, was) for alpha, was in zip(alphas, old, strict=True))


@pytest.mark.parametrize("temperature", [1.0, 0.3])
@pytest.mark.parametrize("opt", [{}, {"arch_adam_beta1": 0.5}, {"arch_weight_decay": 0.1}], ids=str)
def test_two_paths_leave_other_probabilities_alone(temperature, opt):
    supernet = tiny_supernet().train()
    images, labels = tiny_batch()
    alphas = random_alphas(SIZES)
    table = random_table(SIZES)
    target = Target(final_temperature=temperature)
    controller = controller_for(
        alphas, "two", table=table, goal=0.7 * table.uniform_expected, total_steps=8, target=target, **opt
    )
    for step in range(8):
        assert controller.temperature == pytest.approx(temperature ** max(0, (step / 8 - 0.25) / 0.75))
        before = [p.detach() for p in probabilities(alphas, controller.temperature)]
        used = controller.temperature
        _, gates = sample(alphas, step_rng(11, 1, step), "two", used)  # the gates that update() will draw
        controller.update(supernet, images, labels)
        after = [p.detach() for p in probabilities(alphas, used)]
        moved = 0.0
        for block, gate in enumerate(gates):
            others = [j for j in range(SIZES[block]) if j not in gate.candidates]
            pair = list(gate.candidates)
            torch.testing.assert_close(after[block][others], before[block][others], rtol=0, atol=1e-12)
            moved = max(moved, float((after[block][pair] - before[block][pair]).abs().max()))
        assert moved > 1e-3


def test_keep_other_probabilities_by_hand():
    """softmax(0, 0, 0) is (1/3, 1/3, 1/3); after alpha_0 += log 3 the pair (0, 1) shares 2/3 as 3:1."""
    before = torch.zeros(3, dtype=torch.float64)
    alpha = torch.tensor([math.log(3), 0.0, 0.0], dtype=torch.float64)
    keep_other_probabilities(alpha, before, (0, 1))
    torch.testing.assert_close(torch.softmax(alpha, 0), torch.tensor([1 / 2, 1 / 6, 1 / 3], dtype=torch.float64))


def within(count, n, p, sigmas=5):
    return abs(count - n * p) <= sigmas * math.sqrt(n * p * (1 - p)) + 1


def pair_marginals(p):
    """P(active = j) in mode two: an ordered pair without replacement, then one of the two by its share."""
    n = len(p)
    result = [0.0] * n
    for a in range(n):
        for b in range(n):
            if a != b:
                chance = p[a] * p[b] / (1 - p[a])
                result[a] += chance * p[a] / (p[a] + p[b])
                result[b] += chance * p[b] / (p[a] + p[b])
    return result


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_sampling_frequencies(temperature):
    alphas = [torch.tensor([0.2, -0.4, 1.0, 0.1], dtype=torch.float64), torch.tensor([1.0, 0.0], dtype=torch.float64)]
    n, rng = 2000, torch.Generator().manual_seed(3)
    p = [block.tolist() for block in probabilities(alphas, temperature)]
    draws = {
        "path": [sample_path(alphas, rng, temperature) for _ in range(n)],
        "full_v2": [sample(alphas, rng, "full_v2", temperature)[0] for _ in range(n)],
        "two": [sample(alphas, rng, "two", temperature)[0] for _ in range(n)],
    }
    for name, paths in draws.items():
        for block, probs in enumerate(p):
            expected = pair_marginals(probs) if name == "two" and len(probs) > 2 else probs
            for choice, chance in enumerate(expected):
                count = sum(path[block] == choice for path in paths)
                assert within(count, n, chance), (name, block, choice, count, n * chance)


def test_two_samples_pairs_without_replacement():
    alphas = [torch.tensor([3.0, 0.0, -3.0], dtype=torch.float64)]
    rng = torch.Generator().manual_seed(0)
    p = probabilities(alphas)[0].tolist()
    pairs = [sample(alphas, rng, "two")[1][0].candidates for _ in range(1000)]
    assert all(len(set(pair)) == 2 for pair in pairs)
    for a in range(3):
        for b in range(a):
            chance = p[a] * p[b] / (1 - p[a]) + p[b] * p[a] / (1 - p[b])
            assert within(sum(set(pair) == {a, b} for pair in pairs), 1000, chance)


def test_sampling_is_a_function_of_its_generator():
    alphas = random_alphas(SIZES)
    one, same, other = (sample(alphas, step_rng(0, 1, step))[0] for step in (4, 4, 5))
    assert one == same
    assert one != other
    state = torch.get_rng_state()
    sample(alphas, step_rng(0, 1, 6), "two")
    sample_path(alphas, step_rng(0, 1, 6))
    assert torch.equal(state, torch.get_rng_state())


def test_gates_are_one_hot_at_the_path():
    alphas = random_alphas(SIZES)
    for mode in BINARY_MODES:
        path, gates = sample(alphas, step_rng(0, 1, 0), mode)
        for choice, gate in zip(path, gates, strict=True):
            assert gate.keep_outputs == (mode == "full")
            expected = torch.tensor([float(j == choice) for j in gate.candidates], dtype=torch.float64)
            torch.testing.assert_close(gate.values.detach(), expected, rtol=0, atol=1e-15)


def test_entropy_of_equal_logits_is_the_sum_of_log_n():
    alphas = [torch.full((n,), 0.7, dtype=torch.float64) for n in SIZES]
    expected = sum(math.log(n) for n in SIZES)
    for temperature in (1.0, 0.3):
        assert float(entropy(alphas, temperature)) == pytest.approx(expected, abs=1e-12)
    sure = [torch.tensor([800.0, 0.0, 0.0], dtype=torch.float64)]
    assert float(entropy(sure)) == pytest.approx(0, abs=1e-12)


def test_entropy_by_hand():
    alphas = [torch.tensor([math.log(3), 0.0], dtype=torch.float64)]
    assert float(entropy(alphas)) == pytest.approx(-0.75 * math.log(0.75) - 0.25 * math.log(0.25), abs=1e-12)


def test_argmax_path_takes_the_first_among_equals():
    assert argmax_path([torch.tensor([0.0, 2.0, 2.0]), torch.tensor([1.0, 1.0])]) == (1, 0)


class Watch:
    """Which operations ran, and how many of their outputs are alive at once."""

    def __init__(self, supernet):
        self.calls, self.alive, self.peak = [], [], 0
        for block, layer in enumerate(supernet.blocks[1:]):
            for choice, op in enumerate(layer.choices):
                op.register_forward_hook(self.hook(block, choice))

    def hook(self, block, choice):
        def ran(module, args, output):
            self.calls.append((block, choice))
            self.alive.append(((block, choice), weakref.ref(output)))
            self.peak = max(self.peak, self.n_alive())

        return ran

    def n_alive(self):
        return sum(ref() is not None for _, ref in self.alive)

    def forget(self):
        self.calls, self.alive, self.peak = [], [], 0


def test_full_v2_holds_one_other_output_at_a_time(monkeypatch):
    monkeypatch.setattr(gates_module, "spare_threads", lambda: 1)
    supernet = tiny_supernet().train()
    watch = Watch(supernet)
    images, labels = tiny_batch()
    alphas = random_alphas(SIZES)
    n_ops = sum(SIZES)

    path, gates = sample(alphas, step_rng(0, 1, 0), "full_v2")
    loss = F.cross_entropy(supernet(images, path, gates), labels)
    assert watch.calls == list(enumerate(path))  # the forward pass runs the sampled path and nothing else
    held = watch.n_alive()
    assert held <= len(path)
    kept = [node.kept for node in graph_nodes(loss) if type(node).__name__ == "BinarizedPathBackward"]
    assert kept == [None] * len(path)
    watch.peak = 0
    torch.autograd.grad(loss, alphas)
    assert len(watch.calls) == n_ops
    assert len(set(watch.calls)) == n_ops
    assert watch.peak <= held + 1

    watch.forget()
    path, gates = sample(alphas, step_rng(0, 1, 0), "full")
    loss = F.cross_entropy(supernet(images, path, gates), labels)
    assert len(set(watch.calls)) == n_ops  # the contrast: everything ran, and every other output is kept
    assert watch.n_alive() >= n_ops - len(path)
    torch.autograd.grad(loss, alphas)
    assert len(watch.calls) == n_ops


@pytest.mark.parametrize("mode", ["full_v2", "two"])
def test_candidates_side_by_side_change_no_bit(monkeypatch, mode):
    supernet = tiny_supernet(dtype=torch.float32).train()
    images, labels = tiny_batch(dtype=torch.float32)
    before, asked, found = snapshot(supernet), set(), []

    def watched(run, items, threads):
        asked.add(threads)
        return each(run, items, threads)

    monkeypatch.setattr(gates_module, "each", watched)
    for threads in (1, 3):
        monkeypatch.setattr(gates_module, "spare_threads", lambda threads=threads: threads)
        alphas = random_alphas(SIZES, dtype=torch.float32)
        path, gates = sample(alphas, step_rng(0, 1, 0), mode)
        found.append(torch.autograd.grad(F.cross_entropy(supernet(images, path, gates), labels), alphas))
    assert asked == {1, 3}
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))
    assert_same_bits(before, snapshot(supernet))


def graph_nodes(tensor):
    seen, todo = [], [tensor.grad_fn]
    while todo:
        node = todo.pop()
        if node is not None and node not in seen:
            seen.append(node)
            todo.extend(parent for parent, _ in node.next_functions)
    return seen


def saved_bytes(run):
    """Bytes of the distinct storages autograd keeps for the backward pass of ``run()``."""
    storages = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = run()
    assert result.requires_grad
    return sum(storages.values())


def test_full_v2_saves_what_one_path_saves():
    supernet = tiny_supernet().train()
    images, _ = tiny_batch(16)
    alphas = random_alphas(SIZES)
    path, gates = sample(alphas, step_rng(0, 1, 0), "full_v2")
    one_path = saved_bytes(lambda: supernet(images, path))
    gated = saved_bytes(lambda: supernet(images, path, gates))
    # on top of one path: each block's output and the copies of BN statistics (both outputs are 8 x 4 x 4 at most)
    extra = len(path) * 16 * 8 * 4 * 4 * 8
    buffers = sum(buffer.nbytes for buffer in supernet.buffers())
    assert gated <= one_path + extra + buffers
