"""The profile of a space whose widths are chosen: what it measures, what it says first, and its table."""

import re

import numpy as np
import pytest

from hardware.cost import latency_price, price_space
from hardware.latency import load_latency_source, network_ms
from hardware.profile import device
from hardware.profile.device import ProfileSettings, profile_device
from hardware.profile.profiling import (
    NETWORKS,
    OPS,
    Anchor,
    Bench,
    Plan,
    Protocol,
    RawLog,
    left_to_measure,
    sample_paths,
    total_effort,
    unique_ops,
)
from hardware.table import layer_key
from proxyless_arch.arch.walk import walk
from proxyless_arch.base.progress import Progress
from proxyless_arch.space.named import space_named
from tests.hardware.fake_device import FakeDevice
from tests.search.tiny import all_paths
from tests.search.tiny import tiny_wide_space as tiny_wide

QUICK = {"quick": True, "rounds": 2, "design_nets": 60, "resolution": 8, "num_classes": 10}


def test_all_layers_of_all_networks_and_no_other():
    space = tiny_wide()
    found = {layer_key(call) for path in all_paths(space) for call in walk(space.spec_for(path))} - {None}
    assert set(unique_ops(space)) == found
    # a stage's first block has a layer for each width before it, width of its own, and operation; the other block with
    # its own width alone, and the feature mix with the last
    n_firsts, n_others, n_mixes, n_fixed = 2 * 2 + 2 * 2 * 2, 2 * 2, 2, 2  # the first block is one of them
    assert len(found) == n_firsts + n_others + n_mixes + n_fixed


def test_networks_are_drawn_with_all_widths():
    space = tiny_wide()
    paths = sample_paths(space, 40, np.random.default_rng(0))
    assert len(set(paths)) == 40 and all(space.check(path) for path in paths)
    assert [set(column) for column in zip(*paths, strict=True)] == [set(range(size)) for size in space.sizes]


@pytest.fixture
def profiled(tmp_path, monkeypatch):
    """A profile of a wide space on a simulated device: (what came out, the space, what was said)."""
    space, said = tiny_wide(multipliers=(0.5, 1, 1.5), kernel_sizes=(3, 5)), []
    monkeypatch.setattr(device, "space_of", lambda *conditions: space)
    settings = ProfileSettings(space="wide_tiny", output=tmp_path / "table", **QUICK)
    simulated = FakeDevice(isolated_error=0.0, overhead_ms=0.05)
    return profile_device(settings, simulated, said.append), space, said, (settings, simulated)


def test_it_says_how_much_and_how_long_and_its_rows_price_every_network(profiled):
    done, space, said, (settings, simulated) = profiled
    n_ops = len(unique_ops(space))
    n_networks = 60 + 40
    (told,) = (line for line in "\n".join(said).splitlines() if "expected" in line)
    assert [int(word) for word in re.findall(r"(\d+) timings", told)] == [2 * n_ops, 2 * n_networks]
    table = load_latency_source(done.folder / "table.json")
    assert len(table.entries) == n_ops
    costs = price_space(space, latency_price(table))
    for path in all_paths(space)[::23]:
        calls = walk(space.spec_for(path))
        assert costs.of_path(path) == pytest.approx(network_ms(table, calls), rel=1e-9)
        assert costs.of_path(path) == pytest.approx(simulated.true_ms(calls), rel=0.02)
    said.clear()
    profile_device(settings, simulated, said.append)  # everything is there already
    assert "0 timings of operations and 0 timings of networks" in "\n".join(said)


def test_what_a_log_has_is_not_counted(tmp_path):
    space, simulated = tiny_wide(), FakeDevice()
    protocol = Protocol(rounds=1, runs=2, warmup=1, min_ms=0.0, design_nets=4, validation_nets=4)
    plan = Plan.of(space, protocol, "in_network")
    with RawLog(tmp_path / "raw.jsonl", {}) as log:
        bench = Bench(Anchor(simulated, space, 1, 1, 0.0), log, protocol)
        before = left_to_measure(bench, plan)
        bench.time(OPS, 0, plan.op_cases()[0])
        after = left_to_measure(bench, plan)
    assert (before.ops, before.networks) == (len(plan.ops), 8) and before.seconds > 0
    assert (after.ops, after.networks) == (before.ops - 1, 8)


@pytest.mark.parametrize(("drift", "times"), [(0.0, 1), (0.002, 1.5), (0.01, 2)])  # of each timing
def test_a_machine_that_is_busy_repeats_what_is_noisy(tmp_path, drift, times):
    """Each once at a mean, of two rounds; and, where the anchor moved too far for a round, one round more."""
    few = {"rounds": 2, "extra_rounds": 1, "runs": 2, "warmup": 1, "design_nets": 4, "validation_nets": 4}
    space, protocol = tiny_wide(), Protocol(**few, min_ms=0.0)
    with RawLog(tmp_path / "raw.jsonl", {}) as log:
        bench = Bench(Anchor(FakeDevice(drift=drift), space, 1, 1, 0.0), log, protocol)
        left = left_to_measure(bench, Plan.of(space, protocol, "in_network"))
    assert left.times_repeated == times
    assert left.seconds == pytest.approx(times * left.planned_seconds)


def test_what_is_repeated_is_announced_first(tmp_path):
    """So there is always as much to do as is being done, and all is done at the end."""
    space, protocol = tiny_wide(), Protocol(rounds=2, runs=2, warmup=1, min_ms=0.0, design_nets=20, validation_nets=10)
    plan = Plan.of(space, protocol, "in_network")
    bar, planned = Progress(total_effort(plan, protocol), hidden=True), total_effort(plan, protocol)

    def tick(effort):
        bar.update(effort)
        assert bar.done <= bar.total * (1 + 1e-9)

    with RawLog(tmp_path / "raw.jsonl", {}) as log:
        device = FakeDevice(noise=0.2)
        bench = Bench(Anchor(device, space, 1, 1, 0.0), log, protocol, tick, bar.expect)
        for phase, cases in ((OPS, plan.op_cases()), (NETWORKS, plan.network_cases())):
            bench.phase(phase, cases)
    assert bar.done == pytest.approx(bar.total) and bar.total > 1.5 * planned


def test_the_whole_space_has_fewer_than_two_thousand():
    assert 1_000 < len(unique_ops(space_named("wide").build())) < 2_000
