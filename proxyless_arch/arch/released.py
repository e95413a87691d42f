"""The released dialect: how the networks of the ProxylessNAS paper, and of its authors' later work, are published.

https://github.com/mit-han-lab/ProxylessNAS, ``"name": "ProxylessNASNets"``: MBConv and Zero blocks, no name and no
preprocessing. Read as the authors' code reads it: a key that is left out has the default of their layers, a width may
be a list of one. Their later releases differ a little:

- https://github.com/mit-han-lab/once-for-all: blocks called ``ResidualBlock`` with a ``conv``; the image size is in a
  ``run.config`` beside the ``net.config``;
- https://github.com/mit-han-lab/mcunet: ``resolution``, and no feature mix.

The CIFAR-10 network is of another family, and its dialect is in released_tree.py.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from proxyless_arch.arch import released_tree
from proxyless_arch.arch.ops import Conv, Linear, MBConv, Zero
from proxyless_arch.arch.preact import NormAct
from proxyless_arch.arch.preprocessing import preprocessing_from_node, preprocessing_to_dict
from proxyless_arch.arch.spec import ArchSpec, BatchNorm, Block, Preprocessing, imagenet_preprocessing
from proxyless_arch.base.errors import InputError
from proxyless_arch.base.strict import Node, judged_at, plain_number, shown

RELEASED_NAME = "ProxylessNASNets"
RELEASED_RESOLUTION = 224

# values of the released dialect that leave the network as we build it; anything else is refused
_CONV_FIXED: Mapping[str, Any] = MappingProxyType(
    {
        "name": "ConvLayer",
        "dilation": 1,
        "groups": 1,
        "bias": False,
        "has_shuffle": False,
        "use_bn": True,
        "act_func": "relu6",
        "dropout_rate": 0,
        "ops_order": "weight_bn_act",
    }
)
_LINEAR_FIXED: Mapping[str, Any] = MappingProxyType(
    {"name": "LinearLayer", "bias": True, "use_bn": False, "act_func": None, "ops_order": "weight_bn_act"}
)
_IDENTITY_FIXED: Mapping[str, Any] = MappingProxyType(
    {"name": "IdentityLayer", "use_bn": False, "act_func": None, "dropout_rate": 0, "ops_order": "weight_bn_act"}
)
# keys that later releases added
_MBCONV_LATER: Mapping[str, Any] = MappingProxyType({"act_func": "relu6", "use_se": False})
_CONV_READ: Mapping[str, Any] = MappingProxyType({**_CONV_FIXED, "use_se": False})
_MBCONV_READ: Mapping[str, Any] = MappingProxyType({**_MBCONV_LATER, "groups": None})
# what the authors' layers take for a key that is left out
_CONV_DEFAULTS: Mapping[str, Any] = MappingProxyType({"kernel_size": 3, "stride": 1})
_MBCONV_DEFAULTS: Mapping[str, Any] = MappingProxyType({**_CONV_DEFAULTS, "expand_ratio": 6, "mid_channels": None})
_BN_DEFAULTS: Mapping[str, Any] = MappingProxyType({"momentum": 0.1, "eps": 1e-3})

_CONV, _MBCONV = Conv.keys()[0], MBConv.keys()[0]
_WIDTHS = ("in_channels", "out_channels")


# ---------------------------------------------------------------------------------------------------- reading


def is_released(node: Node) -> bool:
    """Whether a JSON value is in the released dialect; InputError when it looks like another network of the release."""
    value = node.value
    if not isinstance(value, dict) or "format" in value:
        return False
    name = value.get("name")
    if name in (RELEASED_NAME, released_tree.NAME) or (
        "name" not in value and {"first_conv", "feature_mix_layer"} <= value.keys()
    ):
        return True
    if "first_conv" in value or "feature_mix_layer" in value:
        raise InputError(f"expected {RELEASED_NAME!r}, got {shown(name)}", "name")
    return False


def _fixed(parts: Mapping[str, Node], values: Mapping[str, Any]) -> None:
    """Values that must be what we build, where they are given."""
    for key, value in values.items():
        if key not in parts:
            continue
        if value == 0 and not isinstance(value, bool):
            if parts[key].number() != 0:
                raise parts[key].fail("0")
        else:
            parts[key].exactly(value)


def _single(node: Node) -> Node:
    """A list of equal values, which widths and kernel sizes may be, as that value."""
    value = node.value
    return (
        Node(value[0], node.path) if isinstance(value, list) and value and value.count(value[0]) == len(value) else node
    )


def _layer(
    node: Node, required: tuple[str, ...], fixed: Mapping[str, Any], defaults: Mapping[str, Any]
) -> dict[str, Node]:
    """The members of a layer, single values for lists of equal ones, with the defaults of those that are left out."""
    parts = {key: _single(part) for key, part in node.fields(("name", *required), (*fixed, *defaults)).items()}
    _fixed(parts, fixed)
    return {key: Node(value, node.path) for key, value in defaults.items()} | parts


def _conv(node: Node) -> Conv:
    parts = _layer(node, _WIDTHS, _CONV_READ, _CONV_DEFAULTS)
    if "act_func" not in parts:
        problem = "missing: left out, the authors' code takes 'relu', and this family has 'relu6'"
        raise InputError(problem, "act_func").under(node.path)
    with judged_at(node.path):
        return Conv.from_parts(parts)


def _mbconv(node: Node) -> MBConv:
    parts = _layer(node, _WIDTHS, _MBCONV_READ, _MBCONV_DEFAULTS)
    parts["name"].exactly("MBInvertedConvLayer", "MBConvLayer", "ZeroLayer")
    if isinstance(ratio := parts["expand_ratio"].value, float) and math.isfinite(ratio) and 0 < ratio <= 64:
        parts |= _whole_expansion(ratio, parts)
    if parts["mid_channels"].value is None:
        del parts["mid_channels"]
    with judged_at(node.path):
        return MBConv.from_parts(parts)


def _whole_expansion(ratio: float, parts: Mapping[str, Node]) -> dict[str, Node]:
    """A fractional expansion as a whole one, with the width it makes. 1 alone means no expansion."""
    if ratio.is_integer():
        return {"expand_ratio": Node(int(ratio))}
    middle = parts["mid_channels"].value
    if middle is None:
        middle = round(parts["in_channels"].integer() * ratio)
    return {"expand_ratio": Node(max(2, round(ratio))), "mid_channels": Node(middle)}


def _block(node: Node, width: int) -> tuple[Block, str]:
    """(a block that gets ``width`` channels, the JSON key that says how many it takes)."""
    conv_key = "conv" if isinstance(node.value, dict) and "conv" in node.value else "mobile_inverted_conv"
    parts = node.fields((conv_key, "shortcut"), ("name",))
    if "name" in parts:
        parts["name"].exactly("MobileInvertedResidualBlock", "ResidualBlock")
    conv, shortcut = parts[conv_key], parts["shortcut"]
    if conv.value is None or (isinstance(conv.value, dict) and conv.value.get("name") == "ZeroLayer"):
        return _vanished(conv, shortcut, width), "shortcut.in_channels"
    op = _mbconv(conv)
    if shortcut.value is None or (isinstance(shortcut.value, dict) and shortcut.value.get("name") == "ZeroLayer"):
        return Block(op=op, skip=False), f"{conv_key}.in_channels"
    outside = _identity(shortcut)
    if not op.keeps_shape:
        raise InputError(
            f"expected null, got an identity: an identity skip needs stride 1 and equal widths, here stride "
            f"{op.stride} and {op.in_channels} -> {op.out_channels}",
            shortcut.path,
        )
    if outside != op.in_channels:
        raise InputError(f"expected {op.in_channels} (the block's), got {outside}", f"{shortcut.path}.in_channels")
    return Block(op=op, skip=True), f"{conv_key}.in_channels"


def _vanished(conv: Node, shortcut: Node, width: int) -> Block:
    """A block without an operation, which passes its input on, whether it has a shortcut or not."""
    if conv.value is not None:
        zero = {key: _single(part) for key, part in conv.fields(("name",), ("stride",)).items()}
        _fixed(zero, {"stride": 1})
    if shortcut.value is not None:
        width = _identity(shortcut)
    with judged_at(shortcut.path, {"channels": "in_channels"}):
        return Block(op=Zero(channels=width), skip=True)


def _identity(node: Node) -> Any:
    """Width of an identity shortcut, which the block is to judge."""
    parts = _layer(node, _WIDTHS, _IDENTITY_FIXED, {})
    width = parts["in_channels"].value
    parts["out_channels"].exactly(width)
    return width


def _bn(node: Node) -> BatchNorm:
    parts = node.fields(tuple(_BN_DEFAULTS), ("ws_eps", "gn_channel_per_group"))
    _fixed(parts, {"ws_eps": None, "gn_channel_per_group": None})
    with judged_at(node.path):
        return BatchNorm(eps=parts["eps"].value, momentum=parts["momentum"].value)


def _linear(node: Node) -> Linear:
    required, optional = ("in_features", "out_features"), {"dropout_rate": 0}
    parts = _layer(node, required, _LINEAR_FIXED, optional)
    with judged_at(node.path):
        return Linear.from_parts(parts)


def _preprocessing(parts: Mapping[str, Node], image_size: int | None) -> Preprocessing:
    """What the config says of the preprocessing, or what its authors' evaluations did with networks like it."""
    if "recipe" in parts:
        return preprocessing_from_node(parts["recipe"])
    if "resolution" in parts:
        return replace(
            small_net_preprocessing(parts["resolution"].integer(1, 8192)),
            assumed="the config gives a resolution alone; mean and std 0.5 are the authors' for networks with this key",
        )
    if image_size is not None:
        return replace(
            once_for_all_preprocessing(image_size),
            assumed="the run.config gives an image size alone; the rest is what once-for-all networks take",
        )
    return replace(imagenet_preprocessing(), assumed="the config says nothing of it; this is ImageNet's at 224 pixels")


def small_net_preprocessing(resolution: int) -> Preprocessing:
    """How the authors evaluate networks whose config has a ``resolution`` (mcunet's eval_torch.py)."""
    return replace(imagenet_preprocessing(resolution), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


def once_for_all_preprocessing(image_size: int) -> Preprocessing:
    """How the authors evaluate a specialized once-for-all network (eval_specialized_net.py)."""
    return replace(imagenet_preprocessing(image_size), resize=math.ceil(image_size / 0.875))


def image_size_of(run_config: Node) -> int | None:
    """The image size in a ``run.config``, the largest of several; None where it has none."""
    sizes = dict(run_config.items()).get("image_size")
    if sizes is None:
        return None
    several = sizes.elements(1) if isinstance(sizes.value, list) else [sizes]
    return max(size.integer(1, 8192) for size in several)


def from_released(node: Node, name: str, image_size: int | None = None) -> ArchSpec:
    """A spec from the released dialect. Its preprocessing is most often assumed, and says so.

    Args:
        node: the config.
        name: of the network; the dialect holds none.
        image_size: of the ``run.config`` beside it.
    """
    if isinstance(node.value, dict) and node.value.get("name") == released_tree.NAME:
        return released_tree.from_released_tree(node, name)
    required = ("first_conv", "blocks", "feature_mix_layer", "classifier")
    parts = node.fields(required, ("name", "bn", "resolution", "recipe"))
    preprocessing = _preprocessing(parts, image_size)
    stem, bn = _conv(parts["first_conv"]), _bn(parts.get("bn", Node(dict(_BN_DEFAULTS))))
    blocks: list[Block] = []
    keys = {"stem.in_channels": "first_conv.in_channels", "feature_mix.in_channels": "feature_mix_layer.in_channels"}
    for index, part in enumerate(parts["blocks"].elements(0, 1000)):
        block, key = _block(part, blocks[-1].op.out_channels if blocks else stem.out_channels)
        blocks.append(block)
        keys[f"blocks[{index}].in_channels"] = f"blocks[{index}].{key}"
    mix = parts["feature_mix_layer"]
    feature_mix, classifier = None if mix.value is None else _conv(mix), _linear(parts["classifier"])
    with judged_at(node.path, keys):
        return ArchSpec(
            name=name,
            stem=stem,
            blocks=tuple(blocks),
            feature_mix=feature_mix,
            classifier=classifier,
            bn=bn,
            preprocessing=preprocessing,
        )


# ---------------------------------------------------------------------------------------------------- writing


def _keys(item: Conv | MBConv, keys: tuple[str, ...]) -> dict[str, int]:
    return {key: getattr(item, key) for key in keys}


def _block_dict(block: Block, later: bool) -> dict[str, Any]:
    op = block.op
    inner: dict[str, Any]
    if isinstance(op, Zero):
        inner = {"name": "ZeroLayer", "stride": 1}
    elif isinstance(op, MBConv):
        inner = {"name": "MBInvertedConvLayer", **_keys(op, (*_CONV, "expand_ratio"))}
        if later:
            inner |= {"mid_channels": op.mid_channels, **_MBCONV_LATER}
    else:
        raise InputError(f"the released dialect holds MBConv and Zero, got {op.label}", "blocks")
    widths = {"in_channels": op.in_channels, "out_channels": op.out_channels}
    shortcut = {**_IDENTITY_FIXED, **widths} if block.skip else None
    return {"name": "MobileInvertedResidualBlock", "mobile_inverted_conv": inner, "shortcut": shortcut}


def to_released(spec: ArchSpec) -> dict[str, Any]:
    """The JSON value of a spec in the released dialect.

    The keys of the four published networks are written; those that later releases added (``resolution``,
    ``mid_channels``, ``act_func``, ``use_se``, ``ws_eps``) only for a network that needs one of the first two.
    The dialect holds no name: a reader takes it from the file. Nor does it hold a preprocessing: one that its readers
    would not assume is written as ``recipe``, which we read and others pass over.

    Raises:
        InputError: the dialect cannot hold the padding, the class names or an operation.
    """
    if spec.padding != "symmetric":
        raise InputError(f"the released dialect holds 'symmetric' only, got {spec.padding!r}", "padding")
    if released_tree.is_released_tree(spec):
        return released_tree.to_released_tree(spec)
    if spec.class_names:
        raise InputError("the released dialect holds no class names", "class_names")
    for place, end in (("stem", spec.stem), ("feature_mix", spec.feature_mix)):
        if end is not None and type(end) is not Conv:
            raise InputError(f"the released dialect holds none but a convolution with ReLU6, got {end.kind}", place)
    later = spec.resolution != RELEASED_RESOLUTION or any(
        isinstance(block.op, MBConv) and block.op.mid_channels is not None for block in spec.blocks
    )
    head, mix = spec.classifier, spec.feature_mix
    assert not isinstance(mix, NormAct)
    small = spec.preprocessing == small_net_preprocessing(spec.preprocessing.side)
    resolution = {"resolution": spec.resolution} if small or spec.resolution != RELEASED_RESOLUTION else {}
    value = {
        "name": RELEASED_NAME,
        "bn": {
            "momentum": plain_number(spec.bn.momentum),
            "eps": plain_number(spec.bn.eps),
            **({"ws_eps": None} if later else {}),
        },
        "first_conv": {**_CONV_FIXED, **_keys(spec.stem, _CONV)},
        "blocks": [_block_dict(block, later) for block in spec.blocks],
        "feature_mix_layer": {**_CONV_FIXED, **_keys(mix, _CONV)} if mix is not None else None,
        "classifier": {
            **_LINEAR_FIXED,
            "in_features": head.in_features,
            "out_features": head.out_features,
            "dropout_rate": plain_number(head.dropout_rate),
        },
        **resolution,
    }
    if _preprocessing({key: Node(size) for key, size in resolution.items()}, None) != spec.preprocessing:
        value["recipe"] = preprocessing_to_dict(spec.preprocessing)
    return value


def released_to_json(spec: ArchSpec) -> str:
    """A spec as JSON text in the released dialect (see to_released)."""
    return json.dumps(to_released(spec), indent=4, allow_nan=False) + "\n"
