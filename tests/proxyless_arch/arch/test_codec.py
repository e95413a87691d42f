"""JSON in both dialects: round trips, the message of each rule, and 2,000 damaged files."""

import copy
import json
import random
import re

import pytest

from proxyless_arch.arch import catalog
from proxyless_arch.arch.codec import (
    parse_spec,
    read_spec,
    spec_from_node,
    spec_to_dict,
    spec_to_json,
    write_spec,
)
from proxyless_arch.arch.released import released_to_json, to_released
from proxyless_arch.arch.spec import ArchSpec, Preprocessing, imagenet_preprocessing, replace
from proxyless_arch.base.errors import InputError
from proxyless_arch.base.strict import Node
from proxyless_arch.space.mbconv import mbconv_space
from tests.errors import refused
from tests.proxyless_arch.nets import rich, three_blocks

SMALL_NET = "proxyless-w0.3-r176_imagenet"


def message(data, source="net.json"):
    """What the reader says to a JSON value or text."""
    text = data if isinstance(data, str | bytes) else json.dumps(data)
    with pytest.raises(InputError) as caught:
        parse_spec(text, source)
    return str(caught.value)


def ours():
    return spec_to_dict(three_blocks())


def released():
    return to_released(catalog.load("proxyless_mobile"))


# ------------------------------------------------------------------------------------------------- round trips


@pytest.mark.parametrize("spec", [three_blocks(), rich(), *map(catalog.load, catalog.names())], ids=lambda s: s.name)
def test_our_dialect_round_trips(spec, tmp_path):
    text = spec_to_json(spec)
    assert parse_spec(text, "net.json") == parse_spec(text.encode(), "net.json") == spec
    assert json.loads(text) == spec_to_dict(spec)
    assert spec_to_json(parse_spec(text, "net.json")) == text
    write_spec(tmp_path / "net.json", spec)
    assert read_spec(tmp_path / "net.json") == spec


def test_derived_networks_round_trip():
    space = mbconv_space(num_classes=10, dropout_rate=0.25)
    for seed in range(20):
        chooser = random.Random(seed)
        spec = space.spec_for(tuple(chooser.randrange(len(ops)) for ops in space.choices), name=f"net {seed}")
        assert parse_spec(spec_to_json(spec), "net.json") == spec
        assert parse_spec(released_to_json(spec), f"net {seed}.json") == spec


def test_one_block_per_line():
    lines = spec_to_json(rich()).splitlines()
    assert lines[1] == '  "format": "proxyless-arch/spec",'
    assert lines[13] == (
        '    {"op": "mbconv", "in_channels": 6, "out_channels": 6, "kernel_size": 7, '
        '"expand_ratio": 6, "stride": 1, "skip": true},'
    )
    assert lines[14] == '    {"op": "zero", "channels": 6},'
    assert len(lines) == 20


def test_a_spec_inside_a_larger_document():
    document = Node({"spec": ours()})
    assert spec_from_node(document.fields(("spec",))["spec"]) == three_blocks()
    broken = ours()
    broken["blocks"][2]["in_channels"] = 7
    with pytest.raises(InputError, match=r"^spec\.blocks\[2\]\.skip: expected false, got true"):
        spec_from_node(Node({"spec": broken}).fields(("spec",))["spec"])


@pytest.mark.shared_data
@pytest.mark.parametrize("name", catalog.names())
def test_official_configs_are_the_shipped_specs(name, shared_data):
    path = shared_data / "official" / f"{name}.config"
    spec = read_spec(path)
    assert spec == catalog.load(name)
    assert to_released(spec) == json.loads(path.read_bytes())
    assert parse_spec(released_to_json(spec), str(path)) == spec


@pytest.mark.shared_data
def test_official_small_net(shared_data):
    path = shared_data / "official" / f"{SMALL_NET}.json"
    spec = read_spec(path)
    assert to_released(spec) == json.loads(path.read_bytes())
    assert spec.name == SMALL_NET
    assert spec.preprocessing == Preprocessing(resolution=176, resize=201, mean=(0.5,) * 3, std=(0.5,) * 3)


def test_released_dialect_without_data():
    """The four networks, written and read in the released dialect."""
    for name in catalog.names():
        spec = catalog.load(name)
        assert parse_spec(released_to_json(spec), f"{name}.config") == spec
        assert "resolution" not in to_released(spec)
        smaller = replace(spec, preprocessing=imagenet_preprocessing(160))
        assert to_released(smaller)["resolution"] == 160
        assert parse_spec(released_to_json(smaller), f"{name}.config") == smaller


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"padding": "same"}, "padding"),
        ({"class_names": tuple(map(str, range(1000)))}, "class_names"),
    ],
)
def test_what_the_released_dialect_cannot_hold(change, place):
    with pytest.raises(InputError, match=f"^{place}: the released dialect holds"):
        to_released(replace(catalog.load("proxyless_cpu"), **change))


# ------------------------------------------------------------------------------------------ one message per rule


def set_at(data, path, value):
    """``data`` with the value at a path such as ``blocks.2.kernel_size`` replaced; ``...`` deletes it."""
    *parents, last = (int(key) if key.isdigit() else key for key in path.split("."))
    inner = data
    for key in parents:
        inner = inner[key]
    if value is ...:
        del inner[last]
    else:
        inner[last] = value
    return data


OUR_RULES = [
    ("blocks.2.kernel_size", 4, "blocks[2].kernel_size: expected 3, 5 or 7, got 4"),
    ("blocks.2.kernel_size", "3", "blocks[2].kernel_size: expected 3, 5 or 7, got '3'"),
    ("blocks.2.kernel_size", 3.0, "blocks[2].kernel_size: expected 3, 5 or 7, got 3.0"),
    ("blocks.2.kernel_size", [3, 3], "blocks[2].kernel_size: expected 3, 5 or 7, got a list"),
    ("blocks.2.stride", True, "blocks[2].stride: expected 1 or 2, got True"),
    ("blocks.2.expand_ratio", 0, "blocks[2].expand_ratio: expected an integer in 1..64, got 0"),
    ("blocks.2.kernelsize", 3, "blocks[2].kernelsize: unknown key; did you mean 'kernel_size'?"),
    (
        "blocks.2.stride",
        ...,
        "blocks[2].stride: missing; keys here: op, in_channels, out_channels, kernel_size, expand_ratio, skip",
    ),
    ("blocks.2.op", "conv", "blocks[2].op: expected 'conv_relu', 'mbconv', 'tree', 'uib' or 'zero', got 'conv'"),
    ("blocks.2.op", "zero", "blocks[2].in_channels: unknown key; did you mean 'channels'?"),
    ("blocks.2.skip", 1, "blocks[2].skip: expected true or false, got 1"),
    (
        "blocks.1.skip",
        True,
        "blocks[1].skip: expected false, got true: an identity skip needs stride 1 and equal widths, "
        "here stride 2 and 4 -> 6",
    ),
    ("blocks.1.in_channels", 5, "blocks[1].in_channels: expected 4 (the width of the layer before), got 5"),
    (
        "blocks.2",
        {"op": "zero", "channels": 7},
        "blocks[2].channels: expected 6 (the width of the layer before), got 7",
    ),
    ("blocks.2", 3, "blocks[2]: expected an object, got 3"),
    ("blocks.0.mid_channels", 8, "blocks[0].mid_channels: expected in_channels (4) when expand_ratio is 1, got 8"),
    ("blocks.0.mid_channels", None, "blocks[0].mid_channels: expected a value or no such key, got null"),
    ("blocks.0.mid_channels", 0, "blocks[0].mid_channels: expected an integer in 1..65536, got 0"),
    ("blocks", {}, "blocks: expected a list, got an object"),
    ("stem.in_channels", 4, "stem.in_channels: expected 3 (an RGB image; 1 goes with one mean and std), got 4"),
    ("stem.out_channels", 65537, "stem.out_channels: expected an integer in 1..65536, got 65537"),
    ("stem.kernel_size", 2, "stem.kernel_size: expected 1, 3, 5 or 7, got 2"),
    ("feature_mix.in_channels", 7, "feature_mix.in_channels: expected 6 (the width of the last block), got 7"),
    ("num_classes", 0, "num_classes: expected an integer in 1..65536, got 0"),
    ("num_classes", 10.0, "num_classes: expected an integer in 1..65536, got 10.0"),
    ("dropout_rate", 1, "dropout_rate: expected a number in [0, 1), got 1"),
    ("bn.eps", 0, "bn.eps: expected a number in (0, 1], got 0"),
    ("bn.momentum", "0.1", "bn.momentum: expected a number in (0, 1], got '0.1'"),
    ("padding", "valid", "padding: expected 'symmetric' or 'same', got 'valid'"),
    (
        "recipe.resize",
        10,
        "recipe.resize: expected an integer in 11 (the resolution)..16384, or (height, width), got 10",
    ),
    ("recipe.interpolation", "nearest", "recipe.interpolation: expected 'bilinear' or 'bicubic', got 'nearest'"),
    (
        "recipe.mean",
        [0.5, 0.5],
        "recipe.mean: expected three numbers (R, G, B), or one for grey images, got (0.5, 0.5)",
    ),
    ("recipe.mean.1", None, "recipe.mean[1]: expected a number, got null"),
    ("recipe.std.2", 0, "recipe.std: expected numbers above 0, got 0"),
    ("class_names", ["cat", "dog"], "class_names: expected 5 names, got 2"),
    ("class_names", ["cat", 1], "class_names[1]: expected a string, got 1"),
    ("bn.gamma", 1, "bn.gamma: unknown key; allowed here: eps, momentum"),
    ("name", "", "name: expected a non-empty string, got ''"),
    ("name", "\ud800", "name: expected text that UTF-8 can hold, got '\\ud800'"),
    ("format", "proxyless-arch/specs", "format: expected 'proxyless-arch/spec', got 'proxyless-arch/specs'"),
    (
        "format",
        ...,
        'format: missing; a spec starts with {"format": "proxyless-arch/spec", "version": 1, ...}; '
        "keys here: version, name, num_classes, dropout_rate, bn, ...",
    ),
    ("version", 2, "version: expected 1, got 2"),
]


@pytest.mark.parametrize(("path", "value", "expected"), OUR_RULES, ids=lambda value: None)
def test_rules_of_our_dialect(path, value, expected):
    assert message(set_at(ours(), path, value)) == f"{expected} (in net.json)"


CONV = "mobile_inverted_conv"
RELEASED_RULES = [
    ("name", "MobileNet", "name: expected 'ProxylessNASNets', got 'MobileNet'"),
    ("bn.ws_eps", 1e-5, "bn.ws_eps: expected null, got 1e-05"),
    ("first_conv.groups", 2, "first_conv.groups: expected 1, got 2"),
    ("first_conv.dilation", 2, "first_conv.dilation: expected 1, got 2"),
    ("first_conv.bias", True, "first_conv.bias: expected False, got True"),
    ("first_conv.has_shuffle", True, "first_conv.has_shuffle: expected False, got True"),
    ("first_conv.use_bn", False, "first_conv.use_bn: expected True, got False"),
    ("first_conv.act_func", "relu", "first_conv.act_func: expected 'relu6', got 'relu'"),
    ("first_conv.dropout_rate", 0.1, "first_conv.dropout_rate: expected 0, got 0.1"),
    (
        "first_conv.in_channels",
        1,
        "first_conv.in_channels: expected 3 (an RGB image; 1 goes with one mean and std), got 1",
    ),
    (
        "feature_mix_layer.ops_order",
        "bn_act_weight",
        "feature_mix_layer.ops_order: expected 'weight_bn_act', got 'bn_act_weight'",
    ),
    (
        "feature_mix_layer.in_channels",
        8,
        "feature_mix_layer.in_channels: expected 320 (the width of the last block), got 8",
    ),
    ("classifier.bias", False, "classifier.bias: expected True, got False"),
    ("classifier.in_features", 7, "classifier.in_features: expected 1280 (the width of feature_mix), got 7"),
    (f"blocks.1.{CONV}.use_se", True, f"blocks[1].{CONV}.use_se: expected False, got True"),
    (f"blocks.1.{CONV}.act_func", "h_swish", f"blocks[1].{CONV}.act_func: expected 'relu6', got 'h_swish'"),
    (f"blocks.1.{CONV}.kernel_size", 4, f"blocks[1].{CONV}.kernel_size: expected 3, 5 or 7, got 4"),
    (
        f"blocks.1.{CONV}.in_channels",
        8,
        f"blocks[1].{CONV}.in_channels: expected 16 (the width of the layer before), got 8",
    ),
    (f"blocks.1.{CONV}", 3, f"blocks[1].{CONV}: expected an object, got 3"),
    (
        f"blocks.1.{CONV}.name",
        "MBConv",
        f"blocks[1].{CONV}.name: expected 'MBInvertedConvLayer', 'MBConvLayer' or 'ZeroLayer', got 'MBConv'",
    ),
    ("blocks.3.shortcut.in_channels", 31, "blocks[3].shortcut.out_channels: expected 31, got 32"),
    (
        "blocks.1.shortcut",
        {
            "name": "IdentityLayer",
            "in_channels": 32,
            "out_channels": 32,
            "use_bn": False,
            "act_func": None,
            "dropout_rate": 0,
            "ops_order": "weight_bn_act",
        },
        "blocks[1].shortcut: expected null, got an identity: an identity skip needs stride 1 and equal widths, "
        "here stride 2 and 16 -> 32",
    ),
    ("blocks.2.shortcut.use_bn", True, "blocks[2].shortcut.use_bn: expected False, got True"),
    ("resolution", 0, "resolution: expected an integer in 1..8192, got 0"),
    ("resolutoin", 192, "resolutoin: unknown key; did you mean 'resolution'?"),
]


@pytest.mark.parametrize(("path", "value", "expected"), RELEASED_RULES, ids=lambda value: None)
def test_rules_of_the_released_dialect(path, value, expected):
    assert message(set_at(released(), path, value)) == f"{expected} (in net.json)"


def test_what_is_no_spec():
    for text, place, values in (
        ("[]", "", ["object", "list"]),
        ("", "line 1 column 1", ["JSON"]),
        (b"\xff\xfe\x00", "", ["JSON"]),
        ('{"a": 1, "a": 2}', "", ["'a'", "twice"]),
        ('{"a": NaN}', "", ["NaN", "JSON"]),
        ("[" * 100_000, "", ["JSON", "nested"]),
        ('{"name": "PyramidTreeNet"}', "blocks", ["missing", "name"]),
    ):
        with refused(place, *values, source="net.json"):
            parse_spec(text, "net.json")


def test_missing_file(tmp_path):
    with pytest.raises(InputError, match=r"^no such file \(in .*absent\.json\)$"):
        read_spec(tmp_path / "absent.json")
    with refused("", "folder", source=tmp_path):
        read_spec(tmp_path)


def test_errors_carry_the_file(tmp_path):
    path = tmp_path / "my_net.json"
    path.write_text(json.dumps(set_at(ours(), "blocks.2.kernel_size", 4)))
    with pytest.raises(InputError, match=re.escape(f"blocks[2].kernel_size: expected 3, 5 or 7, got 4 (in {path})")):
        read_spec(path)


# ------------------------------------------------------------------------------------------------- damaged files

ODD_VALUES = [None, True, 0, -1, 1, 2, 3.0, 4, 1e308, 10**30, "", "3", [], [3, 3], {}, {"a": 1}, "relu6", float("inf")]


def containers(value):
    found = []
    if isinstance(value, dict | list):
        if value:
            found.append(value)
        for inner in value.values() if isinstance(value, dict) else value:
            found += containers(inner)
    return found


def mutated(data, chooser):
    """The bytes of a JSON value after one to three random changes."""
    data = copy.deepcopy(data)
    for _ in range(chooser.randint(1, 3)):
        holder = chooser.choice(containers(data) or [{"x": 0}])
        keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
        key, other = chooser.choice(keys), chooser.choice(keys)
        match chooser.randrange(5):
            case 0:
                del holder[key]
            case 1:
                holder[key] = copy.deepcopy(chooser.choice(ODD_VALUES))
            case 2:
                holder[key], holder[other] = holder[other], holder[key]
            case 3 if isinstance(holder, dict):
                holder[chooser.choice(["extra", f"{key}s", "mid_channels", "format", "resolution"])] = holder[key]
            case 3:
                holder.insert(key, copy.deepcopy(holder[other]))
            case 4 if isinstance(holder[key], int | float) and abs(holder[key]) < 1e9:
                holder[key] = holder[key] * chooser.choice([2, -1, 0.5, 10]) + chooser.choice([0, 1])
    text = json.dumps(data).encode()
    match chooser.randrange(8):
        case 0:
            return text[: chooser.randrange(len(text))]
        case 1:
            position = chooser.randrange(len(text))
            return text[:position] + chooser.randbytes(chooser.randint(1, 4)) + text[position + 1 :]
        case 2:  # a duplicated stretch: keys that come twice
            start = chooser.randrange(len(text))
            return text[:start] + text[start : start + 40] + text[start:]
    return text


@pytest.mark.parametrize("make", [ours, released], ids=["ours", "released"])
def test_damaged_files_give_an_input_error_or_a_spec(make):
    base, chooser = make(), random.Random(20)
    accepted = 0
    for _ in range(1000):
        damaged = mutated(base, chooser)
        try:
            spec = parse_spec(damaged, "net.json")
        except InputError as error:
            assert str(error).endswith("(in net.json)")
        else:
            accepted += 1
            assert isinstance(spec, ArchSpec)
            assert parse_spec(spec_to_json(spec), "net.json") == spec
    assert 0 < accepted < 500
