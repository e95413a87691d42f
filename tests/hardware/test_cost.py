"""Additive costs of a space, against walking every network of a tiny one."""

import itertools
import math

import numpy as np
import pytest

from hardware.cost import MACS, PARAMS, Cost, CostTable, check_target, default_target, latency_price, price_space
from hardware.latency import load_latency_source, network_ms, shipped
from proxyless_arch.arch.spec import Preprocessing
from proxyless_arch.arch.walk import total_macs, total_params, walk
from proxyless_arch.base.errors import InputError
from proxyless_arch.base.units import Unit
from proxyless_arch.space.mbconv import Macro, Stage, mbconv_space
from tests.errors import named, refused

TINY = mbconv_space(
    macro=Macro(
        name="tiny", stem_width=8, stem_stride=2, first_width=8, stages=(Stage(8, 2, 1), Stage(16, 2, 2)), mix_width=32
    ),
    num_classes=10,
    preprocessing=Preprocessing(resolution=23, resize=23),
    kernel_sizes=(3, 5),
)


def every_path(table: CostTable):
    return itertools.product(*(range(len(edges)) for edges in table.groups))


def probabilities_of(table: CostTable, seed: int = 0):
    rng = np.random.default_rng(seed)
    return [rng.dirichlet(np.ones(len(edges))) for edges in table.groups]


@pytest.fixture
def latency_table():
    return price_space(TINY, latency_price(shipped("pixel1")))


def test_latency_of_every_path_is_the_price_of_its_layers(latency_table):
    source = shipped("pixel1")
    paths = list(every_path(latency_table))
    assert len(paths) == TINY.size == 400
    for path in paths:
        assert latency_table.of_path(path) == pytest.approx(network_ms(source, walk(TINY.spec_for(path))), rel=1e-12)
    assert latency_table.unit is Unit.MS
    assert latency_table.source == "pixel1.json"
    (scaled,) = (reason for reason in latency_table.extrapolated if reason.startswith("classifier:"))
    named(scaled, "32 to 10", "1280 to 1000")


def test_macs_of_every_path_are_exact():
    table = price_space(TINY, MACS)
    for path in every_path(table):
        assert table.of_path(path) == total_macs(TINY.spec_for(path))
    assert (table.unit, table.extrapolated) == (Unit.MACS, ())


def test_parameters_of_every_path_are_exact():
    table = price_space(TINY, PARAMS)
    for path in every_path(table):
        assert table.of_path(path) == total_params(TINY.spec_for(path))
    assert table.unit is Unit.PARAMS


def test_a_table_of_anything_but_a_space():
    """Widths of two layers, in bytes."""
    table = CostTable(100.0, ((8.0, 16.0), (4.0, 8.0, 32.0)), Unit.PARAMS, "by hand")
    assert (table.n_groups, table.minimum, table.maximum) == (2, 112.0, 148.0)
    assert table.of_path((1, 2)) == 148


def test_costs_compare_within_a_unit():
    assert Cost(78.0, Unit.MS) < Cost(80.0, Unit.MS) <= Cost(80.0, Unit.MS) == Cost(80.0, Unit.MS)
    assert Cost(80.0, Unit.MS) != Cost(80.0, Unit.MACS)
    with pytest.raises(TypeError, match="expected ms, got MACs"):
        assert Cost(1.0, Unit.MS) < Cost(2.0, Unit.MACS)
    assert [str(Cost(value, unit)) for value, unit in ((80.1318, Unit.MS), (2.5e6, Unit.PARAMS))] == [
        "80.132 ms",
        "2,500,000 params",
    ]
    assert Cost(80.1318, Unit.MS).rounded(math.floor) == "80.131 ms"


@pytest.mark.parametrize("seed", range(3))
def test_expected_cost_is_the_enumerated_expectation(latency_table, seed):
    p = probabilities_of(latency_table, seed)
    enumerated = math.fsum(
        math.prod(float(p[b][j]) for b, j in enumerate(path)) * latency_table.of_path(path)
        for path in every_path(latency_table)
    )
    assert latency_table.expected(p) == pytest.approx(enumerated, rel=1e-12)


def test_extremes_are_those_of_the_enumeration(latency_table):
    costs = [latency_table.of_path(path) for path in every_path(latency_table)]
    assert (latency_table.minimum, latency_table.maximum) == (min(costs), max(costs))
    assert latency_table.of_path(latency_table.min_path) == min(costs)
    assert latency_table.of_path(latency_table.max_path) == max(costs)
    assert latency_table.uniform_expected == pytest.approx(np.mean(costs), rel=1e-12)


def test_one_hot_probabilities_cost_their_path(latency_table):
    for path in itertools.islice(every_path(latency_table), 0, 400, 37):
        one_hot = [np.eye(len(edges))[j] for edges, j in zip(latency_table.groups, path, strict=True)]
        assert latency_table.expected(one_hot) == latency_table.of_path(path)


def test_zero_is_free(latency_table):
    for table in (latency_table, price_space(TINY, MACS)):
        for edges, ops in zip(table.groups, TINY.choices, strict=True):
            assert (edges[-1] == 0) == (len(ops) == 5)


def test_scaled(latency_table):
    scaled = latency_table.scaled(1.25)
    assert scaled.minimum == pytest.approx(1.25 * latency_table.minimum)
    assert scaled.expected(probabilities_of(scaled)) == pytest.approx(
        1.25 * latency_table.expected(probabilities_of(scaled))
    )
    assert scaled.source == "pixel1.json, times 1.25"
    for factor in (0, -1, math.nan, math.inf):
        with pytest.raises(InputError, match="factor"):
            latency_table.scaled(factor)


def test_wrong_shapes_are_refused(latency_table):
    with refused("path", 4, 3):
        latency_table.of_path((0, 0, 0))
    with refused("path[1]", "0..4", -1):
        latency_table.of_path((0, -1, 0, 0))
    p = probabilities_of(latency_table)
    with refused("probabilities", 4, 3):
        latency_table.expected(p[:3])
    with refused("probabilities[0]", 4, "(5,)"):
        latency_table.expected([p[1], *p[1:]])
    with pytest.raises(InputError, match="finite"):
        CostTable(1.0, ((math.inf, 1.0),), Unit.MS, "hand")
    with refused("groups[1]", "one choice"):
        CostTable(1.0, ((1.0,), ()), Unit.MS, "hand")


HAND = CostTable(10.0, ((1.0, 2.0), (0.0, 30.0)), Unit.MS, "hand")


def test_check_target():
    for target in (11.0, 20.0, 42.0):
        assert check_target(target, HAND) == target
    with refused("--latency", "11 ms", "42 ms", "hand", "9 ms", "smaller", "width", "resolution"):
        check_target(9, HAND, "--latency")
    with refused("--target", "11 ms", "42 ms", "43 ms", "larger"):
        check_target(43, HAND)
    for target in (math.nan, math.inf):
        with pytest.raises(InputError) as caught:
            check_target(target, HAND)
        assert caught.value.place == "--target" and "space (" not in caught.value.problem  # none has such a network
        named(caught.value.problem, target)


@pytest.mark.parametrize("unit", [Unit.MS, Unit.MACS])
def test_a_limit_copied_from_the_range_is_accepted(unit):
    factor = 1 if unit is Unit.MS else 1e7
    table = CostTable(11.36415 * factor, ((0.123456 * factor, 17.77777 * factor),), unit, "hand")
    with pytest.raises(InputError, match=f"reaches {table.reachable} "):
        check_target(1, table)
    low, high = table.reachable.split(" to ")
    assert (low, high) == (("11.488 ms", "29.141 ms") if unit is Unit.MS else ("114,876,060 MACs", "291,419,200 MACs"))
    for text in (low, high):
        check_target(float(text.split()[0].replace(",", "")), table)


def test_default_target():
    assert default_target(HAND) == 19  # 0.7 * (10 + 1.5 + 15) = 18.55
    assert default_target(CostTable(100.0, ((1.0, 2.0),), Unit.MS, "hand")) == 101.0  # 71 is out of reach
    assert default_target(price_space(mbconv_space(), MACS)) == 260e6


@pytest.mark.shared_data
def test_the_imagenet_space_on_the_published_pixel1_table(shared_data):
    table = price_space(
        mbconv_space(), latency_price(load_latency_source(shared_data / "latency" / "pixel1_mobile_trim.yaml"))
    )
    assert table.fixed == pytest.approx(11.36, abs=0.005)
    assert table.minimum == pytest.approx(29.6, abs=0.05)
    assert table.maximum == pytest.approx(191.0, abs=0.05)
    assert table.uniform_expected == pytest.approx(114.0, abs=0.05)
    assert default_target(table) == 80
    uniform = {(3, 3): 76.0, (5, 3): 87.7, (3, 6): 136.5}
    for (kernel, expand), milliseconds in uniform.items():
        index = (3, 5, 7).index(kernel) + 3 * (3, 6).index(expand)
        assert table.of_path((index,) * 21) == pytest.approx(milliseconds, abs=0.05)
