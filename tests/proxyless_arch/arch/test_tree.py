import json
import math
from collections import Counter
from dataclasses import replace

import pytest

from proxyless_arch.arch import catalog
from proxyless_arch.arch.bits import bit_layers, check_folds
from proxyless_arch.arch.codec import parse_spec, read_spec, spec_to_json
from proxyless_arch.arch.ops import MBConv, operation_to_dict
from proxyless_arch.arch.preact import ConvNorm, Identity, PreConv
from proxyless_arch.arch.released import released_to_json, to_released
from proxyless_arch.arch.released_tree import CIFAR10_CLASSES
from proxyless_arch.arch.shrink import can_shrink
from proxyless_arch.arch.spec import Block
from proxyless_arch.arch.tables import describe
from proxyless_arch.arch.tensors import expected_tensors
from proxyless_arch.arch.tree import TreeBlock
from proxyless_arch.arch.walk import total_macs, total_params, walk
from proxyless_arch.base.errors import InputError
from tests.trees import SPEC, joined_cell, node, sep

CIFAR = catalog.load("proxyless_cifar")


# ------------------------------------------------------------------------------------------------------- its costs


def test_macs_and_parameters_of_a_block_by_hand():
    block, pixels, w = SPEC.blocks[0].op, 8 * 8, 4
    depthwise = sum(k * k * w + w * w for k in (7, 3, 7, 5, 3))
    convolutions = 4 * w + 9 * w * 2 * w // 2 + depthwise + w * 6
    assert block.macs((8, 8, 4)) == pixels * convolutions
    # two for a channel of each batch normalization: edges, bottles, branches, the last one
    assert block.params == convolutions + 2 * (4 + w + 5 * w + w + 2 * w + 6)


@pytest.mark.parametrize("call", [call for call in walk(SPEC) if isinstance(call.op, TreeBlock)], ids=lambda c: c.name)
def test_parts_add_up_and_follow_one_another(call):
    assert sum(part.macs for part in call.parts) == call.macs
    assert sum(part.params for part in call.parts) == call.params
    first, *middle, last, joins = call.parts
    assert first.in_hwc == call.in_hwc and last.out_hwc == joins.out_hwc == call.out_hwc
    assert middle[0].in_hwc == first.out_hwc and all(part.in_hwc[2] == part.op.in_channels for part in call.parts)


def test_the_released_network():
    assert (total_params(CIFAR), total_macs(CIFAR)) == (5_731_530, 1_213_155_872)
    tensors = expected_tensors(CIFAR)
    counters = sum(name.endswith("running_var") for name in tensors)
    assert len(tensors) + counters == 4_413
    edges = Counter(
        edge.label.split(" s")[0] for call in walk(CIFAR)[1:-2] for _, edge, _ in call.op.edges(call.in_hwc)
    )
    assert edges["sep 3x3"] + edges["dil 3x3"] == 173
    assert edges | {"sep 3x3": 0, "dil 3x3": 0} == {
        "identity": 204, "sep 3x3": 0, "dil 3x3": 0, "sep 7x7": 116, "sep 5x5": 85,
        "max 3x3": 89, "mean 3x3": 89, "conv/2 3x3": 54,
    }  # fmt: skip
    assert CIFAR.class_names == CIFAR10_CLASSES and CIFAR.resolution == 32 and CIFAR.bn.eps == 1e-5
    assert [index for index, block in enumerate(CIFAR.blocks) if block.op.stride == 2] == [18, 36]


def test_a_table_of_it_fits_a_terminal():
    assert max(map(len, describe(CIFAR).splitlines())) <= 100


# --------------------------------------------------------------------------------------------------------- as JSON


@pytest.mark.parametrize("spec", [SPEC, CIFAR], ids=["small", "released"])
def test_json(spec):
    assert parse_spec(spec_to_json(spec), "net.json") == spec


def test_labels_name_every_edge():
    assert SPEC.blocks[0].op.label == "c3(-(7(3d-)M(7M))-(5(A3)-(--)))"
    assert SPEC.blocks[1].op.label == "c1(35) s2"


def changed(path, value):
    """SPEC as JSON with the value at ``path`` replaced, or its key left out for ``...``."""
    data = json.loads(spec_to_json(SPEC))
    place = data
    for key in path[:-1]:
        place = place[key]
    if value is ...:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return json.dumps(data)


CELL = ("blocks", 0, "cell", "branches", 0)
SPLIT = (*CELL, "child")
JOINED = ("blocks", 1, "cell", "branches", 0, "child")
LEFT, RIGHT = (*SPLIT, "branches", 0), (*SPLIT, "branches", 1)
FIRST, SECOND = (*JOINED, "branches", 0), (*JOINED, "branches", 1)


def place_of(path):
    """``blocks[0].cell`` for ("blocks", 0, "cell")."""
    return "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path).removeprefix(".")


# (what is changed, into what, the place of the error when it is another one, words of the error)
@pytest.mark.parametrize(
    "path, value, place, words",
    [
        ((*CELL, "edge", "op"), "conv", None, "'preconv' or 'separable'"),
        ((*CELL, "edge", "out_channels"), 6, (*SPLIT, "in_channels"), "expected 6"),
        ((*CELL, "edge", "groups"), 3, (*CELL, "edge", "in_channels"), "multiple of the 3 groups"),
        ((*CELL, "edge", "dilation"), 2, None, "unknown key"),
        ((*SPLIT, "in_channels"), 7, None, "multiple of the 2 branches"),
        ((*SPLIT, "allocation"), "half", None, "'copy' or 'split'"),
        ((*SPLIT, "allocation"), "copy", (*LEFT, "edge", "channels"), "expected 8"),
        ((*SPLIT, "merge"), None, None, "'add' or 'concat', got null"),
        ((*SPLIT, "merge"), "concat", (*LEFT, "child", "out_channels"), "expected 2"),
        ((*SPLIT, "branch_bn"), 1, None, "true or false"),
        ((*SPLIT, "branches"), [], None, "list of at least 1"),
        ((*RIGHT, "child"), ..., None, "missing"),
        ((*RIGHT, "edge", "channels"), 2.0, None, "an integer"),
        ((*SECOND, "edge", "stride"), 1, SECOND, "stride 2"),
        ((*SECOND, "edge", "out_channels"), 3, None, "expected 2"),
        ((*FIRST, "edge", "dilation"), 2, None, "1 at stride 2"),
        (("blocks", 0, "out_channels"), 3, None, "4 (in_channels) or more"),
        (("blocks", 0, "cell"), None, None, "an object, got null"),
        (("blocks", 0, "skip"), True, None, "expected false"),
        (("stem", "op"), "conv_nb", None, "'conv_bn'"),
        (("feature_mix", "channels"), 9, None, "8 (the width"),
    ],
)
def test_bad_cells(path, value, place, words):
    with pytest.raises(InputError) as caught:
        parse_spec(changed(path, value), "net.json")
    assert (caught.value.place, caught.value.source) == (place_of(place or path), "net.json")
    assert words in caught.value.problem


def test_a_deep_tree_is_refused():
    data = json.loads(spec_to_json(SPEC))
    leaf = data["blocks"][0]["cell"]
    while leaf["branches"][0]["child"] is not None:
        leaf = leaf["branches"][0]["child"]
    for _ in range(200):
        edge = operation_to_dict(Identity(channels=4))
        child = {**leaf, "allocation": "copy", "branches": [{"edge": edge, "child": None}]}
        leaf["branches"][0]["child"] = child
        leaf = child
    with pytest.raises(InputError, match="at most 8 edges"):
        parse_spec(json.dumps(data), "net.json")


@pytest.mark.parametrize("make", [
    lambda: node(4, sep(4, 3), sep(4, 3, stride=2)),
    lambda: node(4, (sep(4, 3), node(4, sep(4, 3, stride=2))), branch_bn=True),
    lambda: node(4, sep(3, 3)),
    lambda: node(4, (sep(4, 3, out=6), node(4, sep(4, 3)))),
    lambda: TreeBlock(in_channels=8, out_channels=8, cell=node(4, (sep(4, 3, stride=2), joined_cell()))),
    lambda: PreConv(in_channels=4, out_channels=4, kernel_size=4),
    lambda: PreConv(in_channels=4, out_channels=4, kernel_size=3, groups=4),
])  # fmt: skip
def test_no_such_value(make):
    with pytest.raises(InputError):
        make()


# ------------------------------------------------------------------------------------------------ the released dialect


def pyramid(**changes):
    return replace(SPEC, preprocessing=CIFAR.preprocessing, **changes)


def test_the_released_dialect():
    text = released_to_json(pyramid())
    again = parse_spec(text, "folder/small trees.config")
    assert again == pyramid() and again.preprocessing.assumed
    assert json.loads(text)["blocks"][2]["cell"]["child_nodes"][0]["merge_type"] == "concat"
    other = replace(SPEC, bn=replace(SPEC.bn, eps=1e-3))
    assert parse_spec(released_to_json(other), "small trees.config") == other


@pytest.mark.parametrize(
    "change, place",
    [
        (lambda d: d["blocks"][1].update(final_bn=False), "blocks[1].final_bn"),
        (lambda d: d["blocks"][1]["shortcut"].update(in_channels=5), "blocks[1].shortcut.out_channels"),
        (lambda d: d["blocks"][1]["in_bottle"].update(act_func="relu"), "blocks[1].in_bottle.act_func"),
        (lambda d: d["blocks"][1]["out_bottle"].update(in_channels=5), "blocks[1].out_bottle.in_channels"),
        (lambda d: d["blocks"][1]["cell"]["edges"][0].update(has_shuffle=False), "blocks[1].cell.edges[0].has_shuffle"),
        (lambda d: d["blocks"][1]["cell"]["edges"][0].update(stride=3), "blocks[1].cell.edges[0].stride"),
        (lambda d: d["blocks"][1]["cell"]["edges"][0].update(name="Conv"), "blocks[1].cell.edges[0].name"),
        (lambda d: d["blocks"][1]["cell"].update(path_drop_rate=0.2), "blocks[1].cell.path_drop_rate"),
        (lambda d: d["blocks"][1]["cell"].update(child_nodes=[]), "blocks[1].cell.child_nodes"),
        (lambda d: d["blocks"][2]["in_bottle"].update(in_channels=5), "blocks[2].shortcut.in_channels"),
        (lambda d: d["blocks"][4]["layers"][0].update(kernel_size=4, stride=4), "blocks[4].layers[0].kernel_size"),
        (lambda d: d["blocks"][0]["layers"][0].update(use_bn=True), "blocks[0].layers[0].use_bn"),
        (lambda d: d.update(cell_drop_rate=0.1), "cell_drop_rate"),
        (lambda d: d["classifier"].update(in_features=9), "classifier.in_features"),
    ],
)  # fmt: skip
def test_a_released_config_that_is_not_built(change, place):
    data = to_released(pyramid())
    change(data)
    with pytest.raises(InputError) as caught:
        parse_spec(json.dumps(data), "x.config")
    assert caught.value.place == place


def test_what_the_dialect_cannot_hold():
    with pytest.raises(InputError, match="class_names"):
        to_released(pyramid(class_names=tuple("abcde")))
    mobile = Block(op=MBConv(in_channels=4, out_channels=4, kernel_size=3, expand_ratio=3), skip=True)
    with pytest.raises(InputError):
        to_released(pyramid(blocks=(mobile, *SPEC.blocks)))
    with pytest.raises(InputError):
        to_released(
            replace(
                catalog.load("proxyless_cpu"), stem=ConvNorm(in_channels=3, out_channels=40, kernel_size=3, stride=2)
            )
        )


@pytest.mark.shared_data
def test_the_config_that_was_released(shared_data):
    path = shared_data / "official" / "proxyless_cifar.config"
    spec = read_spec(path)
    assert replace(spec, class_names=CIFAR.class_names) == CIFAR
    assert json.loads(released_to_json(CIFAR)) == json.loads(path.read_text())


def test_every_weight_has_a_format():
    """Pools and batch normalizations have none; the MACs of those that do are all there are."""
    layers = bit_layers(SPEC)
    assert {layer.weight for layer in layers} == {
        name for name, shape in expected_tensors(SPEC).items() if len(shape) in (2, 4)
    }
    assert sum(layer.macs for layer in layers) == total_macs(SPEC)


def test_nothing_of_it_becomes_smaller():
    assert not can_shrink(SPEC) and can_shrink(catalog.load("proxyless_cpu"))


def test_no_bit_plan_is_made_for_it():
    with pytest.raises(InputError) as caught:
        check_folds(SPEC)
    assert caught.value.place == "blocks.0"
    check_folds(catalog.load("proxyless_cpu"))


def test_sizes_at_another_resolution():
    *_, last = (call for call in walk(SPEC, 11) if isinstance(call.op, TreeBlock))
    assert last.out_hwc == (3, 3, 8) and math.isclose(last.macs, sum(part.macs for part in last.parts))
