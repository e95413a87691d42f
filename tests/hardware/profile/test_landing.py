"""Landing on a device that the table misjudges, simulated: the measured network must reach what was asked."""

import itertools
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from hardware.cost import CostTable, latency_price, price_space
from hardware.latency import shipped
from hardware.profile.device import MATCHED
from hardware.profile.landing import land, lands
from hardware.profile.pricing import Bench, Device
from hardware.profile.profiling import Anchor, Measured
from hardware.profile.trust import anchor_of
from hardware.projection import project
from hardware.table import LookupTable
from proxyless_arch.arch.ops import Zero
from proxyless_arch.arch.walk import walk
from proxyless_arch.base.errors import InputError
from proxyless_arch.base.units import Unit
from proxyless_arch.space.mbconv import mbconv_space
from search.algorithm.derive import log_probabilities
from tests.hardware.fake_device import FakeDevice

TABLE = price_space(mbconv_space(), latency_price(shipped("pixel1")))


def took(ms, spread=0.0):
    return Measured(ms, spread * ms, 1, 1, ms, ms, 1.0)


def log_probs(seed=0):
    rng = np.random.default_rng(seed)
    return [np.log(rng.dirichlet(np.ones(len(edges)))) for edges in TABLE.groups]


def most_probable(seed=0):
    return partial(project, log_probs(seed))


@pytest.mark.parametrize("target", [60.0, 80.0, 110.0])
@pytest.mark.parametrize(("scale", "offset"), [(1.12, 0.0), (0.85, 3.0), (1.0, -4.0)])
def test_lands_on_a_device_that_is_slower_faster_or_offset(target, scale, offset):
    timed = []

    def device(path):
        timed.append(path)
        return took(scale * TABLE.of_path(path) + offset)

    landing = land(most_probable(), TABLE, target, device)
    assert landing.best.ms == pytest.approx(target, rel=0.02)
    assert landing.final.ms == pytest.approx(scale * TABLE.of_path(landing.best.projection.path) + offset)
    assert landing.landed and timed[-1] == landing.best.projection.path
    n_missed = len(landing.attempts) - 1  # each measured twice before the table is rescaled
    assert len(timed) == 2 * n_missed + 2 and n_missed <= 3
    first = landing.attempts[0].projection.cost
    assert 0.99 * target <= first <= target


@pytest.mark.parametrize("target", [80.0, 100.0])
@pytest.mark.parametrize(("scale", "offset"), [(0.45, 52.0), (0.6, 0.0), (2.2, -70.0)])
@pytest.mark.parametrize("seed", range(4))
def test_lands_where_the_device_takes_away_another_share_than_the_table(target, scale, offset, seed):
    """What LiteRT does to a network that loses widths; each network is off by a few per cent of its own as well."""

    def device(path):
        own = np.random.default_rng([seed, *path]).normal(0, 0.012)
        return took((scale * TABLE.of_path(path) + offset) * (1 + own))

    landing = land(most_probable(seed), TABLE, target, device)
    assert landing.landed, [attempt.to_json() for attempt in landing.attempts]
    assert len(landing.attempts) <= 5


def test_an_exact_table_needs_one_measurement():
    landing = land(most_probable(), TABLE, 80.0, lambda path: took(TABLE.of_path(path)))
    assert len(landing.attempts) == len(landing.attempts[0].timings) == 1
    assert landing.attempts[0].scale == 1.0 and landing.landed


def test_the_best_attempt_is_kept_when_none_lands():
    noise = iter([1.3, 1.3, 0.7, 0.7, 1.4, 1.4, 0.8, 0.8, 1.3, 1.3, 0.9, 0.9])
    landing = land(most_probable(), TABLE, 80.0, lambda path: took(80.0 * next(noise)))
    assert len(landing.attempts) == 5 and not landing.landed
    assert "still off after 4" in landing.stopped
    # what is reported was measured after the choice
    assert landing.final.ms == pytest.approx(72.0)


@pytest.mark.parametrize("factor", [0.5, 1.14, 3.0])
@pytest.mark.parametrize("when", [0, 1])
def test_one_outlier_never_rescales_the_table(factor, when):
    """One measurement is far off, of the network chosen first or of the last look at it; the device is the table's."""
    number = itertools.count()
    landing = land(
        most_probable(), TABLE, 80.0, lambda path: took((factor if next(number) == when else 1.0) * TABLE.of_path(path))
    )
    assert [attempt.scale for attempt in landing.attempts] == [1.0]
    assert landing.landed and landing.stopped == ""
    assert landing.final.ms == TABLE.of_path(landing.best.projection.path)


def test_an_outlier_beside_a_real_miss_does_not_rescale_it():
    """The device is 10 % slower than its table, and one of its measurements is half as long again."""
    for when in range(4):
        number = itertools.count()
        landing = land(
            most_probable(), TABLE, 80.0,
            lambda path, number=number, when=when: took((1.65 if next(number) == when else 1.1) * TABLE.of_path(path)),
        )  # fmt: skip
        assert landing.landed
        assert landing.attempts[-1].scale == pytest.approx(1.1)


def test_times_that_do_not_agree_rescale_nothing_and_do_not_count_as_landed():
    wild = itertools.cycle([1.0, 1.3, 0.8, 1.6])
    landing = land(most_probable(), TABLE, 80.0, lambda path: took(next(wild) * 80.0, spread=0.1))
    assert [len(attempt.timings) for attempt in landing.attempts] == [3]
    assert "do not agree" in landing.stopped and not landing.landed


def test_a_measurement_that_spreads_is_taken_again():
    timed = []

    def device(path):
        timed.append(path)
        return took(TABLE.of_path(path), spread=0.05 if len(timed) == 1 else 0.0)

    landing = land(most_probable(), TABLE, 80.0, device)
    assert landing.landed and [len(attempt.timings) for attempt in landing.attempts] == [2]


@pytest.mark.parametrize(
    ("share", "lower", "landed"),
    [(1.0, 0.99, True), (1.021, 0.99, False), (0.979, 0.99, False), (0.981, 0.99, True), (0.93, 0.9, True),
     (0.89, 0.9, False), (1.021, 0.9, False), (1.019, 1.0, True), (0.979, 1.0, False)],
)  # fmt: skip
def test_what_counts_as_landed(share, lower, landed):
    assert lands(share * 80.0, 80.0, lower) == landed


def test_a_wider_window_lets_the_network_end_lower_and_nearer_to_the_search():
    odds = log_probs(3)
    narrow, wide = (
        land(partial(project, odds), TABLE, 80.0, lambda path: took(TABLE.of_path(path)), lower=lower)
        for lower in (0.99, 0.8)
    )
    assert narrow.landed and wide.landed
    assert wide.best.projection.log_prob > narrow.best.projection.log_prob
    assert 64.0 <= wide.best.projection.cost < narrow.best.projection.cost


def test_a_target_that_the_device_cannot_reach_ends_with_a_reason():
    landing = land(most_probable(), TABLE, 180.0, lambda path: took(0.5 * TABLE.of_path(path)))
    assert len(landing.attempts) == 1 and not landing.landed
    assert "rescaled table" in landing.stopped


def test_an_impossible_first_projection_is_an_error():
    table = CostTable(1.0, ((0.0, 5.0),), Unit.MS, "made up")
    with pytest.raises(InputError):
        land(partial(project, [np.log(np.array([0.5, 0.5]))]), table, 3.0, lambda path: took(3.0))


SPACE = mbconv_space(num_classes=1000)
ANCHOR_MS = Anchor(FakeDevice(), SPACE, 1).ms()
FACTS = {name: FakeDevice().facts()[name] for name in MATCHED}
CONDITIONS = {"space": "imagenet", "width_mult": 1.0, "resolution": 224, "batch_size": 1, "num_classes": 1000} | FACTS


@pytest.mark.parametrize(
    ("changed", "known"),
    [
        ({}, True),
        ({"resolution": 192}, False),
        ({"runtime": "litert"}, False),
        ({"runtime_version": "0.9"}, False),
        ({"anchor_ms": 0.5 * ANCHOR_MS}, False),
        ({"anchor_ms": "soon"}, False),
        ({"num_classes": None}, False),
    ],
)
def test_a_table_of_another_space_has_no_anchor_for_this_one(changed, known):
    table = LookupTable("here", {}, provenance=CONDITIONS | {"anchor_ms": ANCHOR_MS} | changed)
    anchor, reference_ms = anchor_of(FakeDevice(), SPACE, 1, table)
    assert reference_ms == (ANCHOR_MS if known else None)
    assert anchor.ms() == pytest.approx(ANCHOR_MS)


def test_a_slow_moment_does_not_move_the_landing():
    """The table is exact; the machine is a fifth slower than when it was made: the first network is the one."""
    now = FakeDevice(slower=0.2, isolated_error=0.0)
    prices = price_space(SPACE, latency_price(Exact(now)))
    source = LookupTable("here", {}, provenance=CONDITIONS | {"anchor_ms": ANCHOR_MS})
    alphas = [torch.zeros(len(edges)) for edges in prices.groups]
    landing = Device(now).land(SPACE, partial(project, log_probabilities(alphas)), prices, 80.0, source)
    assert len(landing.attempts) == 1
    assert landing.final.ms == pytest.approx(landing.best.projection.cost, rel=1e-6)
    assert landing.final.raw_ms == pytest.approx(1.2 * landing.final.ms, rel=1e-6)
    assert landing.final.anchor_ms == pytest.approx(1.2 * landing.reference_ms)


def test_without_an_anchor_of_the_table_one_speed_holds_for_the_whole_landing():
    """The device is what its table says, and gets slower while it is measured."""
    now = FakeDevice(drift=1e-4, isolated_error=0.0)
    prices = price_space(SPACE, latency_price(Exact(now)))
    alphas = [torch.zeros(len(edges)) for edges in prices.groups]
    landing = Device(now).land(SPACE, partial(project, log_probabilities(alphas)), prices, 80.0, shipped("pixel1"))
    assert landing.reference_ms is None
    assert [attempt.scale for attempt in landing.attempts] == [1.0]
    assert landing.final.ms == pytest.approx(landing.attempts[0].ms, rel=1e-3)
    assert landing.final.raw_ms > 1.005 * landing.attempts[0].timings[0].raw_ms


class Exact:
    """The prices of a simulated device."""

    source = "simulated"

    def __init__(self, device):
        self.device, self.offset_ms = device, device.overhead_ms

    def price_ms(self, call):
        return self.device.cost_ms(call) if not isinstance(call.op, Zero) else 0.0

    def extrapolated(self, call):
        return ()


def test_another_network_may_be_the_one_that_is_timed_beside():
    device, small = FakeDevice(), walk(SPACE.spec_for(SPACE.same_choice(0)))
    bench = Bench(Anchor(device, SPACE, 1), 7.0)
    beside = bench.beside(small)
    assert beside.reference_ms == pytest.approx(device.true_ms(small)) and bench.reference_ms == 7.0
    slower = replace(bench, anchor=Anchor(FakeDevice(slower=0.5), SPACE, 1)).beside(small, beside.reference_ms)
    network = walk(SPACE.spec_for(SPACE.same_choice(2)))
    assert slower.time(network).ms == pytest.approx(beside.time(network).ms)
