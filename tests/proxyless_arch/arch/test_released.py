"""The released dialect as its authors wrote it over the years, and the preprocessing that is assumed with it."""

import copy
import json
from dataclasses import replace

import pytest

from proxyless_arch.arch import catalog
from proxyless_arch.arch.codec import parse_spec, read_spec, spec_from_node, spec_to_dict
from proxyless_arch.arch.ops import MBConv, Zero
from proxyless_arch.arch.released import released_to_json, to_released
from proxyless_arch.arch.spec import Preprocessing, imagenet_preprocessing
from proxyless_arch.arch.tensors import expected_tensors
from proxyless_arch.arch.walk import walk
from proxyless_arch.base.errors import InputError
from proxyless_arch.base.strict import Node
from tests.errors import refused
from tests.proxyless_arch.nets import three_blocks

MOBILE = catalog.load("proxyless_mobile")
HALF = {"mean": (0.5,) * 3, "std": (0.5,) * 3}


def config():
    return to_released(MOBILE)


def read(value, source="proxyless_mobile.json"):
    return parse_spec(json.dumps(value), source)


def layers(value):
    """Every object in a config that describes a layer or a block."""
    if isinstance(value, dict):
        yield value
    for part in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from layers(part)


# ----------------------------------------------------------------------------------------------------- dialects


def listed_widths(value):
    """Widths as lists of one, as in MCUNet's and the once-for-all networks."""
    for layer in layers(value):
        layer.update({key: [layer[key]] for key in ("in_channels", "out_channels") if key in layer})


def later_names(value):
    """once-for-all since 2020: other names of blocks, more keys, no stride of a ZeroLayer."""
    for block in value["blocks"]:
        block["name"] = "ResidualBlock"
        conv = block["conv"] = block.pop("mobile_inverted_conv")
        if conv["name"] == "ZeroLayer":
            del conv["stride"]
        else:
            conv.update(name="MBConvLayer", mid_channels=None, act_func="relu6", use_se=False, groups=None)
    for part in ("first_conv", "feature_mix_layer"):
        value[part]["use_se"] = False
    value["bn"]["ws_eps"] = None


def middles(value):
    for block in value["blocks"]:
        conv = block["mobile_inverted_conv"]
        if conv["name"] != "ZeroLayer":
            conv.update(act_func="relu6", use_se=False, expand_ratio=float(conv["expand_ratio"]))


def no_skip_around_zero(value):
    for block in value["blocks"]:
        if block["mobile_inverted_conv"]["name"] == "ZeroLayer":
            block["shortcut"] = None


def zero_as_null(value):
    for block in value["blocks"]:
        if block["mobile_inverted_conv"]["name"] == "ZeroLayer":
            block["mobile_inverted_conv"] = None
        elif block["shortcut"] is None:
            block["shortcut"] = {"name": "ZeroLayer", "stride": 1}


def without_defaults(value):
    """No key whose value is the default of the authors' layers."""
    defaults = {
        "ConvLayer": {
            "kernel_size": 3,
            "stride": 1,
            "dilation": 1,
            "groups": 1,
            "bias": False,
            "has_shuffle": False,
            "use_bn": True,
            "dropout_rate": 0,
            "ops_order": "weight_bn_act",
        },
        "MBInvertedConvLayer": {"kernel_size": 3, "stride": 1, "expand_ratio": 6},
        "LinearLayer": {
            "bias": True,
            "use_bn": False,
            "act_func": None,
            "dropout_rate": 0,
            "ops_order": "weight_bn_act",
        },
        "IdentityLayer": {"use_bn": False, "act_func": None, "dropout_rate": 0, "ops_order": "weight_bn_act"},
    }
    for layer in layers(value):
        for key, default in defaults.get(layer.get("name"), {}).items():
            if layer.get(key) == default:
                del layer[key]
    for block in value["blocks"]:
        del block["name"]
    del value["name"], value["bn"]


@pytest.mark.parametrize(
    "change",
    [listed_widths, later_names, middles, no_skip_around_zero, zero_as_null, without_defaults],
    ids=lambda f: f.__name__,
)
def test_the_same_network_in_every_dialect(change):
    value = config()
    before = copy.deepcopy(value)
    change(value)
    assert value != before
    assert read(value) == MOBILE


def test_all_dialects_at_once():
    value = config()
    without_defaults(value)
    value["name"] = "ProxylessNASNets"
    later_names_of_blocks = [{"conv": b["mobile_inverted_conv"], "shortcut": b["shortcut"]} for b in value["blocks"]]
    value["blocks"] = later_names_of_blocks
    listed_widths(value)
    assert read(value) == MOBILE


def test_a_network_without_feature_mix():
    value = config()
    value["feature_mix_layer"] = None
    value["classifier"]["in_features"] = 320
    spec = read(value)
    assert spec.feature_mix is None
    assert spec == replace(MOBILE, feature_mix=None, classifier=replace(MOBILE.classifier, in_features=320))
    assert [call.name for call in walk(spec)][-2:] == ["blocks.21", "classifier"]
    assert not any(name.startswith("feature_mix") for name in expected_tensors(spec))
    assert to_released(spec) == value
    assert spec_from_node(Node(spec_to_dict(spec))) == spec
    value["classifier"]["in_features"] = 1280
    with refused("classifier.in_features", 320, 1280, source="proxyless_mobile.json"):
        read(value)


@pytest.mark.parametrize(
    ("ratio", "middle", "hidden", "expand_ratio"),
    [
        (6.0, None, 96, 6),
        (4.5, None, 72, 4),
        (4.5, 80, 80, 4),
        (0.5, None, 8, 2),
        (1.0, None, 16, 1),
        (1.5, None, 24, 2),
    ],
)
def test_fractional_expansions(ratio, middle, hidden, expand_ratio):
    value = config()
    value["blocks"][1]["mobile_inverted_conv"].update(expand_ratio=ratio, mid_channels=middle)
    op = read(value).blocks[1].op
    assert isinstance(op, MBConv)
    assert (op.hidden_channels, op.expand_ratio) == (hidden, expand_ratio)


def test_zero_layers_take_the_width_before():
    value = config()
    no_skip_around_zero(value)
    spec = read(value)
    assert next(block.op for block in spec.blocks if block.op.vanishes) == Zero(channels=32)


@pytest.mark.parametrize(
    ("place", "key", "value", "expected"),
    [
        ("first_conv", "act_func", None, "first_conv.act_func"),
        ("first_conv", "in_channels", [3, 4], "first_conv.in_channels"),
        ("first_conv", "in_channels", [], "first_conv.in_channels"),
        ("first_conv", "kernel_size", [3, 5], "first_conv.kernel_size"),
        ("first_conv", "use_se", True, "first_conv.use_se"),
        ("first_conv", "groups", 2, "first_conv.groups"),
        ("classifier", "in_features", 7, "classifier.in_features"),
        ("feature_mix_layer", "act_func", "relu", "feature_mix_layer.act_func"),
    ],
)
def test_what_is_another_network_is_refused(place, key, value, expected):
    changed = config()
    changed[place][key] = value
    with pytest.raises(InputError) as caught:
        read(changed)
    assert caught.value.place == expected


def test_a_left_out_activation_is_not_ours():
    """The authors' convolutions have ReLU by default, and this family ReLU6."""
    changed = config()
    del changed["first_conv"]["act_func"]
    with refused("first_conv.act_func", "'relu'", "'relu6'", source="proxyless_mobile.json"):
        read(changed)


@pytest.mark.parametrize("name", ["MobileNetV3", "MobileNetV3Large", "ResNets"])
def test_other_families_are_refused_by_name(name):
    with pytest.raises(InputError, match=rf"^name: expected 'ProxylessNASNets', got '{name}'"):
        read(config() | {"name": name})


# ------------------------------------------------------------------------------------------------- preprocessing


def test_what_is_assumed_where_the_config_says_nothing():
    spec = read(config())
    assert spec.preprocessing == imagenet_preprocessing()
    assert "ImageNet" in spec.preprocessing.assumed
    assert MOBILE.preprocessing.assumed == ""


@pytest.mark.parametrize(("resolution", "resize"), [(176, 201), (144, 164), (80, 91), (224, 256)])
def test_a_resolution_means_the_small_networks_preprocessing(resolution, resize):
    spec = read(config() | {"resolution": resolution})
    assert spec.preprocessing == Preprocessing(resolution=resolution, resize=resize, **HALF)
    assert "0.5" in spec.preprocessing.assumed
    assert to_released(spec)["resolution"] == resolution
    assert "recipe" not in to_released(spec)
    assert read(to_released(spec)) == spec


@pytest.mark.parametrize(("size", "resolution", "resize"), [(144, 144, 165), (128, 128, 147), ([160, 224], 224, 256)])
@pytest.mark.parametrize("prefix", ["", "cpu_lat-10ms."])
def test_a_run_config_beside_gives_the_size(size, resolution, resize, prefix, tmp_path):
    folder = tmp_path / "cpu_lat@10ms"
    folder.mkdir()
    (folder / f"{prefix}net.config").write_text(json.dumps(config()))
    (folder / f"{prefix}run.config").write_text(json.dumps({"n_epochs": 25, "image_size": size}))
    spec = read_spec(folder / f"{prefix}net.config")
    assert spec.preprocessing == Preprocessing(resolution=resolution, resize=resize)
    assert spec.preprocessing.assumed
    assert spec.name == (prefix.rstrip(".") or "cpu_lat@10ms")


def test_a_run_config_without_a_size_or_with_a_bad_one(tmp_path):
    (tmp_path / "net.config").write_text(json.dumps(config()))
    (tmp_path / "run.config").write_text('{"dataset": "imagenet"}')
    assert read_spec(tmp_path / "net.config").preprocessing == imagenet_preprocessing()
    (tmp_path / "run.config").write_text('{"image_size": "big"}')
    with refused("image_size", "1..8192", "'big'", source=tmp_path / "run.config"):
        read_spec(tmp_path / "net.config")


@pytest.mark.parametrize("preprocessing", [imagenet_preprocessing(160), three_blocks().preprocessing])
def test_a_preprocessing_that_readers_would_not_assume_is_written(preprocessing):
    spec = replace(MOBILE, preprocessing=preprocessing)
    found = parse_spec(released_to_json(spec), "proxyless_mobile.json")
    assert found == spec
    assert found.preprocessing.assumed == ""


@pytest.mark.shared_data
@pytest.mark.parametrize(
    ("name", "size", "resize", "blocks"),
    [("1080ti_gpu64-12ms_top1-72.6_finetune-25", 128, 147, 18), ("cpu_lat-10ms_top1-71.1_finetune-25", 144, 165, 13)],
)
def test_released_once_for_all_networks(name, size, resize, blocks, shared_data):
    spec = read_spec(shared_data / "official" / "ofa" / f"{name}.net.config")
    assert spec.name == name
    assert spec.preprocessing == Preprocessing(resolution=size, resize=resize)
    assert len(spec.blocks) == blocks
    assert parse_spec(released_to_json(spec), f"{spec.name}.json") == spec


@pytest.mark.parametrize("key", ["net_config", "config", "net", "arch"])
def test_a_config_within_an_object(key):
    assert read({key: config(), "accuracy": 74.6}) == read(config())
    sized = read({key: config(), "run_config": {"image_size": [160, 192], "n_epochs": 3}}).preprocessing
    assert (sized.resolution, "run.config" in sized.assumed) == (192, True)
    ours = {key: spec_to_dict(MOBILE), "image_size": 192}
    assert read(ours) == MOBILE  # its own preprocessing
    with refused("format", "missing", source="proxyless_mobile.json"):
        read({key: config(), "other": config()})


def test_a_vanished_block_with_its_stride_in_a_list():
    value = config()
    for layer in layers(value):
        layer |= {"stride": [layer["stride"]] * 2} if "stride" in layer else {}
    assert read(value) == read(config())
