"""Prices of layers, against published tables, hand sums and hostile files."""

import copy
import json
import random
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest

from hardware.latency import (
    SHIPPED_FOLDER,
    WithFallback,
    load_latency_source,
    network_ms,
    parse_latency_source,
    shipped,
    shipped_names,
)
from hardware.predictor import Predictor, mbconv_features, mean_taps
from hardware.profile.profiling import unique_ops
from hardware.released_yaml import _macs
from hardware.table import LayerKey, LookupTable, Timing, layer_key
from proxyless_arch.arch import catalog
from proxyless_arch.arch.ops import BLOCK_OPERATIONS, Bottleneck, Conv, Linear, MBConv, Operation, Zero
from proxyless_arch.arch.walk import LayerCall, walk
from proxyless_arch.base.errors import InputError
from proxyless_arch.space.mbconv import mbconv_space
from tests.errors import named, refused

PIXEL1_JSON = json.loads((SHIPPED_FOLDER / "pixel1.json").read_text())

RELEASED = b"""\
Conv-input:224x224x3-output:112x112x32:
  count: 982
  mean: 4.083755600814664
  var: 0.2502372872758427
Conv_1-input:7x7x320-output:7x7x1280: {mean: 3.0886, std: 0.4, count: 982}
Logits-input:7x7x1280-output:1000: {mean: 0.3096}
expanded_conv-input:112x112x16-output:56x56x24-expand:6-kernel:3-stride:2-idskip:0:
  count: 173
  mean: 16.766
  var: 0.25
expanded_conv-input:56x56x24-output:56x56x24-expand:3-kernel:5-stride:1-idskip:1:
  mean: 7.5
"""

TABLE = {
    "format": "proxyless-latency/table",
    "version": 1,
    "unit": "ms",
    "provenance": {"device": "a board", "threads": 1, "batch_size": 1},
    "entries": [
        {"op": "conv", "in": [224, 224, 3], "out": [112, 112, 32], "kernel": 3, "stride": 2, "ms": 4.1},
        {"op": "mbconv", "in": [112, 112, 16], "out": [56, 56, 24], "kernel": 3, "expand": 6, "stride": 2,
         "skip": False, "ms": 16.766, "sd": 0.712, "n": 173},
        {"op": "mbconv", "in": [56, 56, 24], "out": [56, 56, 24], "kernel": 7, "mid": 100, "stride": 1,
         "skip": True, "ms": 9.25, "sd": None, "n": None},
        {"op": "linear", "in": [7, 7, 1280], "out": [1, 1, 1000], "ms": 0.31},
    ],
    "validation": {"n": 0},
}  # fmt: skip

E6_K3 = LayerCall(
    "blocks.1",
    MBConv(in_channels=16, out_channels=24, kernel_size=3, expand_ratio=6, stride=2),
    (112, 112, 16),
    (56, 56, 24),
)


def predictor_from(changed) -> Predictor:
    source = parse_latency_source(json.dumps(changed).encode(), "p.json")
    assert isinstance(source, Predictor)
    return source


def table_from(changed) -> LookupTable:
    source = parse_latency_source(json.dumps(changed).encode(), "t.json")
    assert isinstance(source, LookupTable)
    return source


def changed(document, path, value):
    """A copy of ``document`` with one value replaced (``...`` deletes it)."""
    result = copy.deepcopy(document)
    place = result
    for step in path[:-1]:
        place = place[step]
    if value is ...:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return result


# Features -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("padding", ["SAME", "symmetric"])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [3, 5, 7])
@pytest.mark.parametrize("size", [1, 2, 3, 4, 7, 8, 11, 14, 28])
def test_mean_taps_equals_a_convolution_of_ones(size, kernel, stride, padding):
    outputs = -(-size // stride)
    total = 2 * (kernel // 2) if padding == "symmetric" else max((outputs - 1) * stride + kernel - size, 0)
    before = kernel // 2 if padding == "symmetric" else total // 2
    image = np.zeros(size + 2 * kernel + stride)
    image[before : before + size] = 1
    taps = [image[start * stride : start * stride + kernel].sum() for start in range(outputs)]
    assert mean_taps(size, kernel, stride) == pytest.approx(np.mean(taps), abs=1e-12)


def test_features_of_one_layer_by_hand():
    features = mbconv_features(E6_K3, channel_tile=16)
    assert features == pytest.approx(
        {
            "pw_mac": (112 * 112 * 16 * 96 + 56 * 56 * 96 * 32) / 1e6,  # 24 output channels fill two tiles of 16
            "dw_mac_eff": 56
            * 56
            * 96
            * (3 - 1 / 56) ** 2
            / 1e6,  # SAME, even size, stride 2: one tap falls off the end
            "exp_out_el": 112 * 112 * 96 / 1e6,
            "dw_out_el": 56 * 56 * 96 / 1e6,
            "skip_el": 0,
            "exp_in_el": 112 * 112 * 16 / 1e6,
            "proj_out_el": 56 * 56 * 24 / 1e6,
            "w_pw": (16 * 96 + 96 * 24) / 1e6,
            "w_dw": 9 * 96 / 1e6,
        }
    )


def test_features_without_expansion_have_no_expand_convolution():
    op = MBConv(in_channels=32, out_channels=16, kernel_size=3, expand_ratio=1)
    features = mbconv_features(LayerCall("blocks.0", op, (8, 8, 32), (8, 8, 16)), channel_tile=1)
    assert features["pw_mac"] == 64 * 32 * 16 / 1e6
    assert features["exp_out_el"] == features["exp_in_el"] == 0


# Predictor ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "milliseconds"),
    [("proxyless_mobile", 85.2), ("proxyless_mobile_14", 145.9), ("proxyless_cpu", 124.8), ("proxyless_gpu", 109.2)],
)
def test_predictor_on_the_released_networks(name, milliseconds):
    assert network_ms(shipped("pixel1"), walk(catalog.load(name))) == pytest.approx(milliseconds, abs=0.05)


def test_shipped_predictor_says_where_it_comes_from_and_how_far_off_it_is():
    assert "pixel1" in shipped_names()
    pixel1 = shipped("pixel1")
    assert pixel1.provenance["device"] == "Google Pixel 1 (CPU)"
    assert pixel1.error["fit"]["mape"] == pytest.approx(3.26, abs=0.01)
    with pytest.raises(InputError, match="did you mean 'pixel1'"):
        shipped("pixel2")


def test_fixed_layers_meet_their_references_and_scale():
    pixel1 = shipped("pixel1")
    stem = LayerCall(
        "first_conv", Conv(in_channels=3, out_channels=32, kernel_size=3, stride=2), (224, 224, 3), (112, 112, 32)
    )
    mix = LayerCall(
        "feature_mix_layer", Conv(in_channels=320, out_channels=1280, kernel_size=1), (7, 7, 320), (7, 7, 1280)
    )
    head = LayerCall("classifier", Linear(in_features=1280, out_features=1000), (7, 7, 1280), (1, 1, 1000))
    for call, name in ((stem, "Conv"), (mix, "Conv_1"), (head, "Logits")):
        assert pixel1.price_ms(call) == pytest.approx(PIXEL1_JSON["fixed_ops"][name]["ms"], rel=1e-12)
        assert pixel1.extrapolated(call) == ()
    wide = replace(stem, op=replace(stem.op, out_channels=64, stride=1), in_hwc=(32, 32, 3), out_hwc=(32, 32, 64))
    assert pixel1.price_ms(wide) == pytest.approx(pixel1.price_ms(stem) * 2 * 32**2 / 112**2)
    ten = replace(head, op=Linear(in_features=640, out_features=10), in_hwc=(4, 4, 640), out_hwc=(1, 1, 10))
    assert pixel1.price_ms(ten) == pytest.approx(pixel1.price_ms(head) / 200)
    (scaled,) = pixel1.extrapolated(wide)
    named(scaled, "32x32x3 to 32x32x64", "224x224x3 to 112x112x32")


def test_extrapolation_is_named():
    pixel1 = shipped("pixel1")
    assert pixel1.extrapolated(E6_K3) == ()
    assert all(pixel1.extrapolated(call) == () for call in walk(catalog.load("proxyless_mobile")))
    reasons = {r for call in walk(catalog.load("proxyless_gpu")) for r in pixel1.extrapolated(call)}
    assert "mid_channels 1536 is outside 32..1152" in reasons
    op = MBConv(in_channels=192, out_channels=192, kernel_size=3, expand_ratio=6)
    tiny = LayerCall("blocks.20", op, (4, 4, 192), (4, 4, 192), skip=True)
    assert pixel1.extrapolated(tiny) == ("input size 4 is outside 7..112", "output size 4 is outside 7..112")


def test_zero_is_free_and_calibration_is_applied_once():
    document = changed(PIXEL1_JSON, ["net_calibration"], {"scale": 1.5, "offset_ms": 2.0, "n_nets": 12})
    calibrated, plain = predictor_from(document), shipped("pixel1")
    calls = walk(catalog.load("proxyless_mobile"))
    zero = LayerCall("blocks.3", Zero(channels=24), (56, 56, 24), (56, 56, 24), skip=True)
    assert calibrated.price_ms(zero) == plain.price_ms(zero) == 0
    assert network_ms(calibrated, calls) == pytest.approx(1.5 * network_ms(plain, calls) + 2)
    assert calibrated.op_ms(E6_K3) == plain.price_ms(E6_K3)


def test_the_full_feature_set_adds_its_terms():
    coefficients = PIXEL1_JSON["model"]["coefficients"] | {"exp_in_el": 0, "proj_out_el": 1.0, "w_pw": 0.5, "w_dw": 2.0}
    model = PIXEL1_JSON["model"] | {"feature_set": "full", "coefficients": coefficients}
    full = predictor_from(PIXEL1_JSON | {"model": model})
    extra = (56 * 56 * 24 * 1.0 + (16 * 96 + 96 * 24) * 0.5 + 9 * 96 * 2.0) / 1e6
    assert full.price_ms(E6_K3) == pytest.approx(shipped("pixel1").price_ms(E6_K3) + extra)


@pytest.mark.parametrize(
    ("path", "value", "values"),
    [
        (["unit"], "s", ["'ms'", "'s'"]),
        (["unit"], ..., ["missing"]),
        (["version"], 2, [1, 2]),
        (["version"], True, [1, "True"]),
        (["format"], "other", ["'other'"]),
        (["model", "coefficients", "pw_mac"], ..., ["missing"]),
        (["model", "coefficients", "pw_mac"], -1, ["number", -1]),
        (["model", "coefficients", "w_pw"], 1, ["unknown"]),
        (["model", "padding"], "VALID", ["'SAME'", "'symmetric'", "'VALID'"]),
        (["model", "channel_tile"], 0, ["integer", 0]),
        (["model", "kind"], "mlp", ["'nnls_roofline_sum'", "'mlp'"]),
        (["fixed_ops", "Conv", "ms"], 0, ["above 0"]),
        (["fixed_ops", "Conv", "ref", "in"], [224, 224], ["list", 3, 2]),
        (["fixed_ops", "Conv_1", "rule"], "guess", ["'guess'"]),
        (["validity", "mid"], [9, 3], ["smallest", "largest"]),
        (["net_calibration", "scale"], 0, [0]),
        (["modle"], {}, ["unknown", "'model'"]),
    ],
)
def test_a_wrong_predictor_is_refused_by_key_and_file(path, value, values):
    with refused(".".join(path), *values, source="p.json"):
        predictor_from(changed(PIXEL1_JSON, path, value))


# Tables -------------------------------------------------------------------------------------------------------------


def test_released_yaml_is_read():
    table = parse_latency_source(RELEASED, "mobile_trim.yaml")
    assert isinstance(table, LookupTable)
    assert table.price_ms(E6_K3) == 16.766
    assert table.entries[layer_key(E6_K3)] == Timing(16.766, 0.5, 173)
    assert set(table.entries) == {
        LayerKey("conv", (224, 224, 3), (112, 112, 32), 3, 0, 2, False),
        LayerKey("conv", (7, 7, 320), (7, 7, 1280), 1, 0, 1, False),
        LayerKey("linear", (7, 7, 1280), (1, 1, 1000), 1, 0, 1, False),
        LayerKey("mbconv", (112, 112, 16), (56, 56, 24), 3, 96, 2, False),
        LayerKey("mbconv", (56, 56, 24), (56, 56, 24), 5, 72, 1, True),
    }


@pytest.mark.parametrize("content", [RELEASED, json.dumps(TABLE).encode()], ids=["yaml", "json"])
def test_a_table_survives_writing_and_reading(tmp_path, content):
    table = parse_latency_source(content, "somewhere")
    table.save(tmp_path / "t.json")
    again = load_latency_source(tmp_path / "t.json")
    assert again == replace(table, source=str(tmp_path / "t.json"))
    assert again.to_json() == table.to_json()


def test_a_missing_layer_is_named_with_the_way_out():
    table = parse_latency_source(RELEASED, "mobile_trim.yaml")
    absent = replace(E6_K3, op=replace(E6_K3.op, expand_ratio=3))
    layer = "mbconv 112x112x16 to 56x56x24 kernel 3 stride 2 expand 3 without skip"
    with refused("blocks.1", layer, source="mobile_trim.yaml"):
        table.price_ms(absent)


@pytest.mark.parametrize(
    ("path", "value", "place", "values"),
    [
        (["unit"], "s", "unit", ["'ms'", "'s'"]),
        (["unit"], ..., "unit", ["missing", "'ms'"]),
        (["version"], 3, "version", [1, 2, 3]),
        (["entries"], [], "entries", ["list", "at least 1"]),
        (["entries", 1, "ms"], ..., "entries[1].ms", ["missing"]),
        (["entries", 1, "ms"], 0, "entries[1].ms", ["above 0 ms"]),
        (["entries", 1, "ms"], -2.5, "entries[1].ms", ["above 0 ms", -2.5]),
        (["entries", 1, "ms"], "3", "entries[1].ms", ["number", "'3'"]),
        (["entries", 1, "ms"], 1e9, "entries[1].ms", ["number", "1000000000.0"]),
        (["entries", 1, "op"], "se", "entries[1].op", ["'conv'", "'se'"]),
        (["entries", 1, "out"], [112, 112, 24], "entries[1]", ["56x56x24", "112x112x24"]),
        (["entries", 1, "skip"], True, "entries[1]", ["no skip"]),
        (["entries", 1, "kernel"], 4, "entries[1].kernel", [1, 3, 5, 7, 4]),
        (["entries", 1, "mid"], 96, "entries[1]", ["expand", "mid"]),
        (["entries", 0, "expand"], 6, "entries[0].expand", ["unknown"]),
        (["entries", 3, "out"], [7, 7, 1000], "entries[3]", ["1x1x1000", "7x7x1000"]),
        (["entries", 2], TABLE["entries"][1], "entries[2]", ["entries[1]", "mbconv 112x112x16"]),
        (["entries", 2], TABLE["entries"][1] | {"ms": 3}, "entries[2]", ["entries[1]", "mbconv 112x112x16"]),
    ],
)
def test_a_wrong_table_is_refused_by_entry_and_file(path, value, place, values):
    with refused(place, *values, source="t.json"):
        table_from(changed(TABLE, path, value))


def test_expand_and_mid_are_one_key():
    twice = copy.deepcopy(TABLE)
    entry = {key: value for key, value in TABLE["entries"][1].items() if key != "expand"} | {"mid": 96}
    twice["entries"].append(entry)
    with refused("entries[4]", "entries[1]", source="t.json"):
        table_from(twice)


WITHOUT_EXPANSION = LayerCall(
    "blocks.0", MBConv(in_channels=32, out_channels=16, kernel_size=3, expand_ratio=1), (112, 112, 32), (112, 112, 16)
)
AS_WIDE = replace(WITHOUT_EXPANSION, op=replace(WITHOUT_EXPANSION.op, expand_ratio=3, mid_channels=32))
ENTRY = {"op": "mbconv", "in": [112, 112, 32], "out": [112, 112, 16], "kernel": 3, "stride": 1, "skip": False}


def table_of(version, *entries):
    document = {"format": "proxyless-latency/table", "version": version, "unit": "ms"}
    return table_from(document | {"entries": [ENTRY | entry for entry in entries]})


def test_a_block_that_expands_to_its_input_width_is_not_one_without_expansion(tmp_path):
    """They differ by a convolution."""
    table = table_of(2, {"expand": 1, "ms": 5.0}, {"mid": 32, "ms": 8.0})
    assert (table.price_ms(WITHOUT_EXPANSION), table.price_ms(AS_WIDE)) == (5.0, 8.0)
    table.save(tmp_path / "t.json")
    assert load_latency_source(tmp_path / "t.json").entries == table.entries
    assert set(table.entries) == {layer_key(WITHOUT_EXPANSION), layer_key(AS_WIDE)}
    assert len(set(map(str, table.entries))) == 2  # the names of what is measured
    alone = table_of(2, {"expand": 1, "ms": 5.0})
    assert not alone.has(AS_WIDE)
    with refused("blocks.0", "mbconv", "mid 32 without skip", source="t.json"):
        alone.price_ms(AS_WIDE)


def test_a_mid_of_the_input_width_is_a_block_without_expansion_in_version_1():
    table = table_of(1, {"mid": 32, "ms": 5.0})
    assert (table.has(WITHOUT_EXPANSION), table.has(AS_WIDE)) == (True, False)
    with refused("entries[1]", "entries[0]", source="t.json"):
        table_of(1, {"mid": 32, "ms": 5.0}, {"expand": 1, "ms": 5.0})
    versions = [table_of(version, {"mid": 40, "ms": 1.0}, {"expand": 2, "ms": 2.0}).entries for version in (1, 2)]
    assert versions[0] == versions[1]


@dataclass(frozen=True, kw_only=True)
class Pool(Operation):
    """Its latency depends on facts that no operation of the family has."""

    kind: ClassVar[str] = "pool"

    in_channels: int
    out_channels: int
    pool_size: int
    stride: int = 1
    rounds_up: bool | None = None

    @property
    def label(self):
        return f"pool {self.pool_size}x{self.pool_size}"

    def macs(self, in_hwc):
        return 0

    def convolutions(self, in_hwc):
        return iter(())

    def tensors(self, prefix):
        return iter(())


@dataclass(frozen=True, kw_only=True)
class Twin(Pool):
    """Another operation with the parts of an inverted bottleneck."""

    kind: ClassVar[str] = "twin"

    @property
    def bottleneck(self):
        return Bottleneck(kernel_size=self.pool_size, hidden_channels=6 * self.in_channels, expand_ratio=6)


def test_whatever_has_the_parts_of_a_bottleneck_is_priced_as_one():
    source = shipped("pixel1")
    shape = {"in_channels": 16, "out_channels": 24, "stride": 2}
    ours, twin = MBConv(kernel_size=3, expand_ratio=6, **shape), Twin(pool_size=3, **shape)
    one, other = (LayerCall("blocks.1", op, (112, 112, 16), op.out_hwc((112, 112, 16))) for op in (ours, twin))
    assert source.op_ms(other) == source.op_ms(one) > 0
    assert source.extrapolated(other) == source.extrapolated(one) == ()
    with pytest.raises(InputError, match="no price for pool 3x3"):
        source.op_ms(replace(one, op=Pool(pool_size=3, **shape)))


POOLS = [
    LayerCall("blocks.1", op, (8, 8, 4), op.out_hwc((8, 8, 4)), op.keeps_shape)
    for op in (
        Pool(in_channels=4, out_channels=4, pool_size=3),
        Pool(in_channels=4, out_channels=4, pool_size=9),
        Pool(in_channels=4, out_channels=4, pool_size=9, rounds_up=False),
        Pool(in_channels=4, out_channels=4, pool_size=9, rounds_up=True),
        Pool(in_channels=4, out_channels=6, pool_size=9, stride=3),
    )
]


def test_operations_that_differ_in_a_fact_of_their_own_differ_in_price():
    small, large, *_ = POOLS
    assert layer_key(small).facts == (("pool_size", 3),)
    assert len({layer_key(call) for call in POOLS}) == len({str(layer_key(call)) for call in POOLS}) == len(POOLS)
    with refused("blocks.1", "pool", "pool_size 9 with skip", source="made"):
        LookupTable("made", {layer_key(small): Timing(1.0)}).price_ms(large)


def test_a_registered_operation_survives_writing_and_reading(tmp_path, monkeypatch):
    monkeypatch.setitem(BLOCK_OPERATIONS, Pool.kind, Pool)
    made = LookupTable("made", {layer_key(call): Timing(index + 1.0) for index, call in enumerate(POOLS)})
    made.save(tmp_path / "t.json")
    again = load_latency_source(tmp_path / "t.json")
    assert [again.price_ms(call) for call in POOLS] == [1.0, 2.0, 3.0, 4.0, 5.0]
    for wrong in (True, 3.0, "3", None):
        with refused("entries[0].facts.pool_size", "integer", source="t.json"):
            table_from(changed(made.to_json(), ["entries", 0, "facts", "pool_size"], wrong))
    with refused("entries[0]", "3x3x6", "4x3x6", source="t.json"):
        table_from(changed(made.to_json(), ["entries", 0, "out", 0], 4))


@pytest.mark.parametrize("call", [WITHOUT_EXPANSION, AS_WIDE, E6_K3, *walk(mbconv_space().spec_for((0,) * 21))])
def test_macs_of_a_key_are_those_of_its_layer(call):
    assert _macs(layer_key(call)) == call.macs


@pytest.mark.parametrize(
    ("text", "place", "values"),
    [
        (b"", "", ["empty"]),
        (b"[1, 2]", "line 1", ["'name: value'"]),
        (b"Conv-input:4x4x3-output:2x2x8: {mean: 1}\nConv-input:4x4x3-output:2x2x8: {mean: 2}", "line 2", ["twice"]),
        (b"Conv-input:4x4x3-output:2x2x8: {count: 3}", "line 1", ["mean", "missing"]),
        (b"Conv-input:4x4x3-output:2x2x8: {mean: -3}", "line 1", ["mean", "0 or more", "'-3'"]),
        (b"Conv-input:4x4x3-output:2x2x8: {mean: 0}", "line 1", ["mean", "above 0 ms"]),
        (b"Conv-input:4x4x3-output:2x2x8: {mean: .nan}", "line 1", ["mean", "0 or more", "'.nan'"]),
        (b"Conv-input:4x4x3-output:2x2x8: {mean: 1, mean: 2}", "line 1", ["mean", "twice"]),
        (b"Conv-input:4x4x3-output:2x2x8: {mean: 1, median: 2}", "line 1", ["var", "std", "count", "'median'"]),
        (b"Conv-input:4x4x3-output:3x3x8: {mean: 1}", "line 1", ["2x2x8", "3x3x8"]),
        (b"Pool-input:4x4x3-output:2x2x8: {mean: 1}", "line 1", ["mobile_trim.yaml", "Pool"]),
        (
            b"expanded_conv-input:4x4x3-output:4x4x3-expand:6-kernel:3-stride:1-idskip:1-se:1-hs:1: {mean: 1}",
            "line 1",
            ["squeeze-and-excitation"],
        ),
        (b"a: {b: [}", "line 1", ["YAML"]),
        (b"a: !!python/object/apply:os.system [true]", "line 1", ["mobile_trim.yaml", "'a'"]),
        (b"\xff\xfe\x00", "", ["UTF-8"]),
        (b"a: &a [*a]", "line 1", ["mobile_trim.yaml", "'a'"]),
        (b"[" * 100_000, "", ["YAML", "nested"]),
    ],
)
def test_a_wrong_yaml_is_refused_by_line(text, place, values):
    with refused(place, *values, source="t.yaml"):
        parse_latency_source(text, "t.yaml")


@pytest.mark.parametrize(("factor", "unit"), [(1e-3, "seconds"), (1e3, "microseconds")])
def test_a_yaml_in_another_unit_is_refused(factor, unit):
    """The Pixel 1's prices of the space in the released format, which has no place for a unit."""
    pixel1 = shipped("pixel1")

    def released(factor):
        lines = []
        for key, call in unique_ops(mbconv_space()).items():
            name = {"linear": "Logits", "conv": "Conv" if key.kernel == 3 else "Conv_1", "mbconv": "expanded_conv"}[
                key.op
            ]
            out = key.out_hwc[2:] if key.op == "linear" else key.out_hwc
            name += f"-input:{'x'.join(map(str, key.in_hwc))}-output:{'x'.join(map(str, out))}"
            if key.op == "mbconv":
                expand = key.expand_ratio
                name += f"-expand:{expand}-kernel:{key.kernel}-stride:{key.stride}-idskip:{int(key.skip)}"
            lines.append(f"{name}: {{mean: {factor * pixel1.price_ms(call):.6e}}}\n")
        return "".join(lines).encode()

    table = parse_latency_source(released(1), "t.yaml")
    assert len(table.entries) == len(unique_ops(mbconv_space()))
    with refused("", "ms", unit, source="t.yaml"):
        parse_latency_source(released(factor), "t.yaml")


def test_a_missing_file_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        load_latency_source(tmp_path / "absent.json")


def mutated_json(document, rng: random.Random):
    """``document`` with one random member replaced, removed or doubled."""
    result = copy.deepcopy(document)
    places = []

    def visit(value):
        for key, child in list(value.items()) if isinstance(value, dict) else list(enumerate(value)):
            places.append((value, key))
            if isinstance(child, dict | list):
                visit(child)

    visit(result)
    parent, key = rng.choice(places)
    action = rng.randrange(10)
    values = [None, True, -1, 0, 1e308, 10**400, "x", "\0", [], {}, [[]], {"a": 1}, float(rng.random())]
    if action == 0:
        del parent[key]
    elif action == 1 and isinstance(parent, list):
        parent.append(parent[key])
    else:
        parent[key] = rng.choice(values)
    return json.dumps(result).encode()


def mutated_bytes(content: bytes, rng: random.Random) -> bytes:
    result = bytearray(content)
    for _ in range(rng.randrange(1, 4)):
        start = rng.randrange(len(result))
        result[start : start + rng.randrange(4)] = rng.choice(
            [b"", b"0", b"-", b":", b"\n", b"{", b"]", b"&a", b"*a", b"\xff", b"!!int", b"'", b"\t", b"e999", b"|"]
        )
    return bytes(result)


def test_mutated_files_give_a_source_or_an_input_error():
    rng = random.Random(0)
    refused = 0
    for case in range(600):
        kind = case % 3
        document = rng.choice([TABLE, PIXEL1_JSON])
        content = (
            mutated_json(document, rng)
            if kind == 0
            else mutated_bytes(RELEASED if kind == 1 else json.dumps(document).encode(), rng)
        )
        try:
            source = parse_latency_source(content, "fuzz")
        except InputError as error:
            refused += 1
            assert error.source == "fuzz"
        else:
            price = source.price_ms(E6_K3) if not isinstance(source, LookupTable) or source.has(E6_K3) else 1
            assert np.isfinite(price) and price >= 0
    assert refused > 300


# Both ---------------------------------------------------------------------------------------------------------------


def test_fallback_prices_and_counts():
    table, pixel1 = parse_latency_source(RELEASED, "mobile_trim.yaml"), shipped("pixel1")
    both = WithFallback(table, pixel1)
    calls = walk(catalog.load("proxyless_mobile"))
    assert both.price_ms(E6_K3) == 16.766
    assert both.price_ms(calls[1]) == pixel1.price_ms(calls[1])
    named(both.summary(calls), "3 of 23", "mobile_trim.yaml", 20, "pixel1.json", "blocks.0", "blocks.1")
    named(both.summary([E6_K3]), "1 of 1", "mobile_trim.yaml")
    assert "pixel1.json" not in both.summary([E6_K3])
    assert both.extrapolated(E6_K3) == ()
    calibrated = replace(pixel1, scale=2.0, offset_ms=5.0)
    assert WithFallback(table, calibrated).price_ms(calls[1]) == pixel1.price_ms(calls[1])
    assert WithFallback(table, calibrated).offset_ms == 0


@pytest.mark.shared_data
def test_the_published_pixel1_table(shared_data):
    table = load_latency_source(shared_data / "latency" / "pixel1_mobile_trim.yaml")
    pixel1 = shipped("pixel1")
    assert len(table.entries) == 72
    errors = []
    for key, timing in table.entries.items():
        if key.op != "mbconv":
            continue
        op = MBConv(
            in_channels=key.in_hwc[2],
            out_channels=key.out_hwc[2],
            kernel_size=key.kernel,
            expand_ratio=key.expand_ratio,
            stride=key.stride,
        )
        call = LayerCall("b", op, key.in_hwc, key.out_hwc, key.skip)
        assert layer_key(call) == key
        assert pixel1.extrapolated(call) == ()
        errors.append(pixel1.price_ms(call) / timing.ms - 1)
    assert len(errors) == 69
    assert 100 * np.abs(errors).mean() == pytest.approx(PIXEL1_JSON["error"]["fit"]["mape"], abs=0.001)
    assert 100 * np.abs(errors).max() == pytest.approx(PIXEL1_JSON["error"]["fit"]["max"], abs=0.001)

    mobile = walk(catalog.load("proxyless_mobile"))
    both = WithFallback(table, pixel1)
    assert network_ms(both, mobile) == pytest.approx(85.4, abs=0.05)
    assert both.summary(mobile).startswith("20 of 23 layers from ")


@pytest.mark.shared_data
def test_a_table_of_another_family_is_refused(shared_data):
    source = shared_data / "latency" / "note10_224.yaml"
    with refused("line 1", "mobile_trim.yaml", "AvgPool2D", source=source):
        load_latency_source(source)
