"""Statistics of a real network, what choices do to its loss, and plans that come out of that."""

import copy

import numpy as np
import pytest
import torch

from compress.methods import best, exact, random
from compress.pruning.choices import price_groups
from compress.pruning.choosing import uniform, uniform_path
from compress.pruning.environment import Environment, span
from compress.pruning.pruner import Pruner
from compress.pruning.statistics import collect, make_bn_true
from compress.record import Record
from hardware.cost import MACS
from hardware.projection import Limit
from proxyless_arch.arch.shrink import FEATURE_MIX, LAST_STAGE, STEM, Shrunk, widths_of
from proxyless_arch.base.runs import MetricsFile, read_metrics
from proxyless_arch.space.shrinking import Freedom, change_of, groups_of, whole_path
from proxyless_nas.network import build
from proxyless_nas.steps import recalibrate_bn
from proxyless_nas.weights import load_named
from tests.compress.nets import batches, tensors, trained
from tests.compress.specs import SPEC

FREE = Freedom(multiple=4, most=4)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def pruner():
    net = trained()
    return Pruner(SPEC, tensors(net), collect(net, batches(), groups_of(SPEC, FREE), CPU, 0))


def environment_at(pruner, folder):
    file = folder / "metrics.jsonl"
    lines = read_metrics(file) if file.exists() else []
    record = Record.opened(MetricsFile(folder, file.stat().st_size if lines else None), lines)
    return Environment(pruner, groups_of(SPEC, FREE), batches()[:2], batches(32, 16), CPU, record)


@pytest.fixture
def environment(pruner, tmp_path):
    return environment_at(pruner, tmp_path)


def test_nothing_changed_gives_the_weights_back(pruner):
    change = Shrunk(widths_of(SPEC), {1: 5, 2: 7})
    spec, found = pruner.pruned(change)
    assert spec == SPEC
    assert all(np.array_equal(found[name], tensor) for name, tensor in pruner.tensors.items())


@pytest.mark.parametrize("name", list(widths_of(SPEC)))
def test_reconstruction_is_never_worse_than_slicing(pruner, name):
    full = widths_of(SPEC)[name]
    for width in range(1, full):
        fitted, cut = (pruner.layer_error(name, width, sliced=sliced) for sliced in (False, True))
        assert fitted <= cut + 1e-9
    assert pruner.layer_error(name, full) == pytest.approx(0, abs=1e-9)


def test_the_error_of_a_layer_is_that_of_its_output(pruner):
    """Block 4's projection, half of its hidden channels: in float64, from the network itself, at all positions."""
    spec, found = pruner.pruned(Shrunk({"blocks.4": 8}))
    small, large = build(spec), trained()
    load_named(small, spec, found)

    def output(net, x):
        kept = []
        layer = net.blocks[4].mobile_inverted_conv.point_linear.conv
        handle = layer.register_forward_hook(lambda module, given, out: kept.append(out))
        with torch.no_grad():
            net.eval().double()(x.double())
        handle.remove()
        rows = kept[0].permute(0, 2, 3, 1).reshape(-1, 10)
        return rows - rows.mean(0)

    x = torch.cat([part for part, _ in batches()])
    old, new = output(large, x), output(small, x)
    expected = float(((old - new) ** 2).sum() / (old**2).sum())
    assert pruner.layer_error("blocks.4", 8) == pytest.approx(expected, rel=1e-3)


def test_a_mean_that_moved_goes_into_the_layer_behind(pruner):
    """On the calibration images the features in front of the pool keep their means, whatever is cut in front."""
    spec, found = pruner.pruned(Shrunk({FEATURE_MIX: 6}))
    small, large = build(spec), trained()
    load_named(small, spec, found)
    x = torch.cat([part for part, _ in batches()])
    with torch.no_grad():
        torch.testing.assert_close(small.eval()(x).mean(0), large(x).mean(0), rtol=1e-4, atol=1e-4)


def test_damages_are_what_the_changes_do_alone(environment, pruner):
    damages, groups = environment.damages(), environment.groups
    assert [len(row) for row in damages] == [len(group.choices) for group in groups]
    assert all(row[group.whole] == 0 and row.min() >= 0 for row, group in zip(damages, groups, strict=True))
    net = build(SPEC)
    load_named(net, SPEC, pruner.tensors)

    def loss(module):
        with torch.no_grad():
            logits = torch.cat([module.eval()(x) for x, _ in environment.choosing])
        labels = torch.cat([y for _, y in environment.choosing])
        return torch.nn.functional.cross_entropy(logits, labels).item()

    for number, change in ((2, Shrunk(left_out=frozenset({2}))), (1, Shrunk(kernels={1: 3})), (0, Shrunk({STEM: 4}))):
        spec, found = pruner.pruned(change)
        small = build(spec)
        load_named(small, spec, found)
        choice = groups[number].choices.index(change)
        assert damages[number][choice] == pytest.approx(max(0.0, loss(small) - loss(net)), abs=1e-5)


def test_damages_are_measured_once(environment, pruner, tmp_path, monkeypatch):
    first = environment.damages()
    monkeypatch.setattr(Environment, "_layers", None)  # no network is built
    for again in (environment, environment_at(pruner, tmp_path)):
        assert all(np.array_equal(one, other) for one, other in zip(first, again.damages(), strict=True))


def test_where_a_change_begins_and_ends():
    assert span(Shrunk({STEM: 4}), 5) == (0, 1)
    assert span(Shrunk({"blocks.2": 4}), 5) == (3, 3)
    assert span(Shrunk({LAST_STAGE: 4}), 5) == (5, 6)
    assert span(Shrunk(left_out=frozenset({3})), 5) == (4, 4)


def limits_of(environment, share=0.6):
    table = price_groups(SPEC, environment.groups, MACS)
    return [Limit(table, share * table.maximum)]


@pytest.mark.parametrize("method", [exact, random])
def test_plans_keep_to_the_limits_and_are_answered_again(method, environment, pruner, tmp_path):
    limits = limits_of(environment)
    found = method(environment, limits, 6, np.random.default_rng(0), lambda each: None)
    assert len({each.path for each in found}) == len(found)
    assert 4 <= len(found) <= 6
    assert all(limit.holds(each.path) for each in found for limit in limits)
    n_lines = len(read_metrics(tmp_path / "metrics.jsonl"))
    again = environment_at(pruner, tmp_path)
    assert method(again, limits, 6, np.random.default_rng(0), lambda each: None) == found
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == n_lines


def test_uniform_takes_the_largest_common_share(environment):
    limits = limits_of(environment)
    path = uniform_path(environment.groups, limits)
    change = change_of(environment.groups, path)
    assert not change.kernels and not change.left_out
    full = widths_of(SPEC)
    shares = [width / full[name] for name, width in change.widths.items()]
    assert max(shares) - min(shares) <= 0.5
    assert uniform(environment, limits, lambda each: None)[0].path == path
    assert uniform_path(environment.groups, limits_of(environment, 1.0)) == whole_path(environment.groups)


def test_the_plan_taken_has_the_least_loss(environment):
    found = exact(environment, limits_of(environment), 5, np.random.default_rng(0), lambda each: None)
    assert best(found).score.loss == min(each.score.loss for each in found)


def test_true_statistics_change_nothing_and_bear_recalibration():
    """BN statistics far from those of the images, as frozen ones are."""
    net, images = trained(), batches()
    for layer in net.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.running_mean += 0.3
            layer.running_var *= 1.7
    net.eval()

    def output(net):
        with torch.no_grad():
            return torch.cat([net(part) for part, _ in images])

    before = output(net)
    recalibrate_bn(other := copy.deepcopy(net), images, CPU)
    make_bn_true(net, images, CPU)
    torch.testing.assert_close(output(net), before, atol=1e-4, rtol=1e-4)
    recalibrate_bn(net, images, CPU)
    moved, moved_before = ((output(each) - before).pow(2).mean().item() for each in (net, other))
    assert moved < 0.02 * moved_before
