"""Which formats a kind of file holds: what cannot run is refused by its layer, with the nearest that can."""

import pytest

from proxyless_arch.arch.bits import FLOAT32, INT8, Format, Range, bit_layers, uniform_plan
from proxyless_arch.exports.bit_files import file_formats, first_blocks_float, float_sums, nearest_format, needs_ranges
from tests.errors import refused
from tests.proxyless_arch.nets import three_blocks

SPEC = three_blocks()
DEPTHWISE = "blocks.0.mobile_inverted_conv.depth_conv"


def plan_of(format, **other):
    ranges = {layer.name: Range(6.0) for layer in bit_layers(SPEC)}
    return uniform_plan(SPEC, format, ranges).with_formats(other)


@pytest.mark.parametrize(
    ("format", "kind", "place", "nearest"),
    [
        (Format(4, 8), "litert_int8", "first_conv", "W8A8"),
        (Format(4, None), "litert_int8", "first_conv", "W8A8"),
        (Format(8, 16), "litert_int8", DEPTHWISE, "float32"),
        (Format(4, None), "litert_mixed", DEPTHWISE, "W8"),
        (Format(4, 8), "litert_mixed", DEPTHWISE, "W8A8"),
        (Format(3, None), "litert_mixed", "first_conv", "W4"),
    ],
)
def test_the_layer_and_the_nearest_format_are_named(format, kind, place, nearest):
    with refused(f"layers.{place}", nearest):
        file_formats(plan_of(format), SPEC, kind)


def test_what_runs_is_passed_on():
    formats = file_formats(plan_of(INT8), SPEC, "litert_int8")
    assert set(formats.values()) == {INT8}  # the first layer takes the image in as int8
    stored = {layer.name: Format(8 if layer.is_depthwise else 4, None) for layer in bit_layers(SPEC)}
    assert file_formats(plan_of(FLOAT32, **stored), SPEC, "litert_mixed") == stored
    assert nearest_format(Format(5, 5), (FLOAT32, INT8)) == INT8
    assert nearest_format(Format(8, 16), (INT8,)) == INT8


@pytest.mark.parametrize(
    ("format", "kind", "wanted"),
    [
        (Format(8, None), "litert_mixed", False),
        (FLOAT32, "litert_mixed", False),
        (INT8, "litert_mixed", True),
        (Format(8, None), "litert_int8", True),
    ],
)
def test_images_are_needed_where_activations_have_few_bits(format, kind, wanted):
    assert needs_ranges(plan_of(format), kind) is wanted
    assert needs_ranges(None, kind)


def test_the_first_blocks_are_a_plan():
    formats = first_blocks_float(SPEC, 1)
    floats = [name for name, format in formats.items() if format == FLOAT32]
    assert floats == ["first_conv", DEPTHWISE, "blocks.0.mobile_inverted_conv.point_linear"]
    assert set(first_blocks_float(SPEC, 0).values()) == {INT8}
    assert float_sums(SPEC, formats) == () and float_sums(SPEC, first_blocks_float(SPEC, 3)) == ("blocks.2",)
