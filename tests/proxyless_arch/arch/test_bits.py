"""Bit plans as values: their layers, ties, bytes, JSON, and what is refused."""

import json
import math
from dataclasses import replace

import pytest

from proxyless_arch.arch.bits import (
    BitPlan,
    Format,
    Range,
    bit_layers,
    check_plan,
    count_weights,
    parse_plan,
    plan_to_json,
    read_plan,
    ties,
    uniform_plan,
    write_plan,
)
from proxyless_arch.arch.shrink import Shrunk, shrink, widths_of
from proxyless_arch.arch.tensors import expected_tensors
from proxyless_arch.arch.walk import total_macs
from tests.errors import refused
from tests.proxyless_arch.nets import rich, three_blocks

BLOCK = "blocks.{}.mobile_inverted_conv.{}"
SPEC = rich()


def plan_of(spec, weights=4, activations=8):
    ranges = {layer.name: Range(6.0, signed=layer.leads) for layer in bit_layers(spec)}
    return uniform_plan(spec, Format(weights, activations), ranges)


def test_every_weight_matrix_is_one_layer_and_all_macs_are_theirs():
    for spec in (SPEC, three_blocks()):
        layers = bit_layers(spec)
        matrices = {name: shape for name, shape in expected_tensors(spec).items() if len(shape) > 1}
        assert {layer.weight: layer.shape for layer in layers} == matrices
        assert sum(layer.macs for layer in layers) == total_macs(spec)
        assert [layer.name for layer in layers if layer.is_depthwise] == [
            name.removesuffix(".conv.weight") for name in matrices if "depth_conv" in name
        ]


def test_inputs_joined_by_skips_are_tied_across_blocks_that_vanished():
    """Block 2 has a skip, block 3 is left out, block 4 takes in the sum."""
    chains = [chain for chain in ties(SPEC) if len(chain) > 1]
    assert chains == [(BLOCK.format(2, "inverted_bottleneck"), BLOCK.format(4, "inverted_bottleneck"))]
    assert sorted(name for chain in ties(SPEC) for name in chain) == sorted(layer.name for layer in bit_layers(SPEC))


def test_bytes_are_counted_by_hand():
    spec = three_blocks()
    weights = 4 * 27 + 4 * 9 + 16 + 48 + 12 * 25 + 72 + 216 + 36 * 49 + 216 + 48 + 40
    channels = 4 + 4 + 4 + 12 + 12 + 6 + 36 + 36 + 6 + 8 + 5
    plan = plan_of(spec)
    assert plan.n_bytes(spec) == weights / 2 + 8 * channels
    assert plan.average_bits(spec) == 4
    floats = uniform_plan(spec, Format(), {})
    assert (floats.n_bytes(spec), floats.average_bits(spec)) == (4 * weights + 4 * channels, 32)
    assert math.isclose(plan_of(spec, 3).n_bytes(spec), weights * 3 / 8 + 8 * channels)


def test_json_gives_the_plan_back(tmp_path):
    plan = plan_of(SPEC)
    write_plan(tmp_path / "bits.json", plan)
    assert read_plan(tmp_path / "bits.json", SPEC) == plan
    assert len(plan.digest) == 12 and plan.digest != plan_of(SPEC, 5).digest
    assert Range(1 / 3).clip == pytest.approx(1 / 3, rel=1e-7)
    assert Range(Range(1 / 3).clip) == Range(1 / 3)


@pytest.mark.parametrize(
    ("change", "place", "values"),
    [
        ({"weight_bits": 9}, "layers.first_conv.weight_bits", (9,)),
        ({"weight_bits": 0}, "layers.first_conv.weight_bits", (0,)),
        ({"weight_bits": True}, "layers.first_conv.weight_bits", ()),
        ({"weight_bits": 1}, "layers.first_conv", ("kmeans",)),
        ({"activation_bits": 17, "clip": 1.0}, "layers.first_conv.activation_bits", (17,)),
        ({"activation_bits": 8}, "layers.first_conv", ()),
        ({"activation_bits": 8, "clip": 0.0}, "layers.first_conv.clip", ()),
        ({"activation_bits": 8, "clip": 1e300}, "layers.first_conv.clip", ()),
        ({"activation_bits": 1, "clip": 1.0, "signed": True}, "layers.first_conv.activation_bits", (2,)),
        ({"bits": 3}, "layers.first_conv.bits", ()),
    ],
)
def test_bad_formats_are_refused_where_they_are(change, place, values):
    value = json.loads(plan_to_json(plan_of(SPEC)))
    value["layers"]["first_conv"] |= change
    with refused(place, *values, source="bits.json"):
        parse_plan(json.dumps(value), "bits.json")


def test_a_plan_of_another_network_is_refused():
    with refused(f"layers.{BLOCK.format(4, 'inverted_bottleneck')}"):
        check_plan(plan_of(SPEC), three_blocks())
    with refused(f"layers.{BLOCK.format(4, 'inverted_bottleneck')}"):
        check_plan(plan_of(three_blocks()), SPEC)
    with refused("network", "'other'", f"{SPEC.name!r}", source="bits.json"):  # of the same layers
        check_plan(replace(plan_of(SPEC), network="other"), SPEC, "bits.json")


def test_a_plan_of_the_network_before_it_was_pruned_is_refused(tmp_path):
    """Its name and its layers are the same."""
    name = next(iter(widths_of(SPEC)))
    small = shrink(SPEC, Shrunk(widths={name: widths_of(SPEC)[name] // 2}))
    plan = uniform_plan(small, Format(4), {})
    write_plan(tmp_path / "bits.json", plan)
    assert read_plan(tmp_path / "bits.json", small) == plan
    with refused("weights", count_weights(SPEC), count_weights(small), source=tmp_path / "bits.json"):
        read_plan(tmp_path / "bits.json", SPEC)
    check_plan(replace(plan, n_weights=None), SPEC)  # of a plan that does not say it, as the first ones


def test_joined_inputs_in_two_formats_are_refused():
    tied = BLOCK.format(4, "inverted_bottleneck")
    with refused(f"layers.{tied}.activation_bits", 8, 7, BLOCK.format(2, "inverted_bottleneck")):
        check_plan(plan_of(SPEC).with_formats({tied: Format(4, 7)}), SPEC)


def test_a_plan_says_what_it_is():
    plan = BitPlan(
        network="n", formats={"a": Format(), "b": Format(8, 8), "c": Format(4, None)}, ranges={"b": Range(1)}
    )
    assert str(plan) == "1 x float32, 1 x W8A8, 1 x W4"
    with refused("layers.b"):
        replace(plan, ranges={})
