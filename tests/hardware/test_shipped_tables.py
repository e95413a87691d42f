"""Every latency file we ship says where it comes from and how good it is, and prices the space it was made for."""

import pytest

from hardware.cost import latency_price, price_space
from hardware.latency import shipped, shipped_names
from hardware.table import LookupTable
from proxyless_arch.space.mbconv import mbconv_space


def test_what_is_shipped():
    assert shipped_names() == ("amd_epyc_litert", "amd_epyc_onnxruntime", "amd_epyc_onnxruntime_predictor", "pixel1")


@pytest.mark.parametrize("name", shipped_names())
def test_it_prices_the_imagenet_space_and_names_its_source(name):
    source = shipped(name)
    table = price_space(mbconv_space(), latency_price(source))
    assert 0 < table.minimum < table.uniform_expected < table.maximum
    for key in ("device", "runtime", "batch_size", "dtype", "resolution", "source"):
        assert source.provenance[key], key


@pytest.mark.parametrize("name", ["amd_epyc_onnxruntime", "amd_epyc_litert"])
def test_the_measured_ones_passed_their_validation(name):
    source = shipped(name)
    assert isinstance(source, LookupTable)
    assert source.validation["passed"] is True
    assert source.validation["n"] >= 30
    assert source.validation["mape"] <= 5
    assert source.validation["kendall"] >= 0.9
    for key in ("date", "tool", "threads", "runtime_version", "load_average", "statistic", "rounds", "os"):
        assert source.provenance[key], key
