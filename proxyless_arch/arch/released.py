"""The released dialect: how the networks of the ProxylessNAS paper are published as JSON.

https://github.com/mit-han-lab/ProxylessNAS, ``"name": "ProxylessNASNets"``. It holds neither a preprocessing nor a
name, and MBConv and Zero blocks only. Later releases of the authors added a few keys.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from proxyless_arch.arch.ops import Conv, Linear, MBConv, Zero
from proxyless_arch.arch.spec import ArchSpec, BatchNorm, Block, imagenet_preprocessing
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
# keys that later releases added to a block (networks at other resolutions than 224)
_MBCONV_LATER: Mapping[str, Any] = MappingProxyType({"act_func": "relu6", "use_se": False})

_CONV, _MBCONV = Conv.keys()[0], MBConv.keys()[0]
_WIDTHS = ("in_channels", "out_channels")


# ---------------------------------------------------------------------------------------------------- reading


def is_released(node: Node) -> bool:
    """Whether a JSON value is in the released dialect; InputError when it looks like another network of the release."""
    value = node.value
    if not isinstance(value, dict) or "format" in value:
        return False
    name = value.get("name")
    if name == RELEASED_NAME:
        return True
    if name == "PyramidTreeNet":
        raise InputError(
            f"expected {RELEASED_NAME!r}, got 'PyramidTreeNet': the CIFAR-10 network of the official implementation, a "
            "pyramid of tree-structured cells, is another family than the mobile networks read here",
            "name",
        )
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


def _conv(node: Node) -> Conv:
    parts = node.fields((*_CONV, *_CONV_FIXED))
    _fixed(parts, _CONV_FIXED)
    with judged_at(node.path):
        return Conv.from_parts(parts)


def _block(node: Node) -> Block:
    parts = node.fields(("name", "mobile_inverted_conv", "shortcut"))
    parts["name"].exactly("MobileInvertedResidualBlock")
    conv, shortcut = parts["mobile_inverted_conv"], parts["shortcut"]
    kind = conv.value.get("name") if isinstance(conv.value, dict) else None
    if kind == "ZeroLayer":
        zero = conv.fields(("name", "stride"))
        zero["stride"].exactly(1)
        if shortcut.value is None:
            raise shortcut.fail("an identity shortcut around a ZeroLayer (without it the network is cut)")
        width = _identity(shortcut)
        with judged_at(shortcut.path, {"channels": "in_channels"}):
            return Block(op=Zero(channels=width), skip=True)
    inner = conv.fields(("name", *_MBCONV), ("mid_channels", *_MBCONV_LATER))
    inner["name"].exactly("MBInvertedConvLayer", "ZeroLayer")
    _fixed(inner, _MBCONV_LATER)
    if "mid_channels" in inner and inner["mid_channels"].value is None:
        del inner["mid_channels"]
    with judged_at(conv.path):
        op = MBConv.from_parts(inner)
    if shortcut.value is None:
        return Block(op=op, skip=False)
    width = _identity(shortcut)
    if not op.keeps_shape:
        raise InputError(
            f"expected null, got an identity: an identity skip needs stride 1 and equal widths, here stride "
            f"{op.stride} and {op.in_channels} -> {op.out_channels}",
            shortcut.path,
        )
    if width != op.in_channels:
        raise InputError(f"expected {op.in_channels} (the block's), got {width}", f"{shortcut.path}.in_channels")
    return Block(op=op, skip=True)


def _identity(node: Node) -> Any:
    """Width of an identity shortcut, which the block is to judge."""
    parts = node.fields((*_WIDTHS, *_IDENTITY_FIXED))
    _fixed(parts, _IDENTITY_FIXED)
    width = parts["in_channels"].value
    parts["out_channels"].exactly(width)
    return width


def _bn(node: Node) -> BatchNorm:
    parts = node.fields(("momentum", "eps"), ("ws_eps",))
    _fixed(parts, {"ws_eps": None})
    with judged_at(node.path):
        return BatchNorm(eps=parts["eps"].value, momentum=parts["momentum"].value)


def _linear(node: Node) -> Linear:
    parts = node.fields((*Linear.keys()[0], *_LINEAR_FIXED))
    _fixed(parts, _LINEAR_FIXED)
    with judged_at(node.path):
        return Linear.from_parts(parts)


def from_released(node: Node, name: str) -> ArchSpec:
    """A spec from the released dialect, with ImageNet's preprocessing at the config's resolution (224 unless given)."""
    parts = node.fields(("name", "bn", "first_conv", "blocks", "feature_mix_layer", "classifier"), ("resolution",))
    resolution = parts["resolution"].integer(1, 8192) if "resolution" in parts else RELEASED_RESOLUTION
    stem, bn = _conv(parts["first_conv"]), _bn(parts["bn"])
    blocks = tuple(_block(block) for block in parts["blocks"].elements(0, 1000))
    feature_mix, classifier = _conv(parts["feature_mix_layer"]), _linear(parts["classifier"])
    keys = {
        f"blocks[{index}].in_channels": f"blocks[{index}]."
        + ("shortcut.in_channels" if isinstance(block.op, Zero) else "mobile_inverted_conv.in_channels")
        for index, block in enumerate(blocks)
    }
    keys |= {"stem.in_channels": "first_conv.in_channels", "feature_mix.in_channels": "feature_mix_layer.in_channels"}
    with judged_at(node.path, keys):
        return ArchSpec(
            name=name,
            stem=stem,
            blocks=blocks,
            feature_mix=feature_mix,
            classifier=classifier,
            bn=bn,
            preprocessing=imagenet_preprocessing(resolution),
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
    The dialect holds no name: a reader takes it from the file.

    Raises:
        InputError: the dialect cannot hold the padding, the preprocessing, the class names or an operation.
    """
    if spec.padding != "symmetric":
        raise InputError(f"the released dialect holds 'symmetric' only, got {spec.padding!r}", "padding")
    if spec.preprocessing != imagenet_preprocessing(spec.resolution):
        raise InputError(
            "the released dialect holds no preprocessing, and this one is not ImageNet's, which its readers assume",
            "recipe",
        )
    if spec.class_names:
        raise InputError("the released dialect holds no class names", "class_names")
    later = spec.resolution != RELEASED_RESOLUTION or any(
        isinstance(block.op, MBConv) and block.op.mid_channels is not None for block in spec.blocks
    )
    head = spec.classifier
    return {
        "name": RELEASED_NAME,
        "bn": {
            "momentum": plain_number(spec.bn.momentum),
            "eps": plain_number(spec.bn.eps),
            **({"ws_eps": None} if later else {}),
        },
        "first_conv": {**_CONV_FIXED, **_keys(spec.stem, _CONV)},
        "blocks": [_block_dict(block, later) for block in spec.blocks],
        "feature_mix_layer": {**_CONV_FIXED, **_keys(spec.feature_mix, _CONV)},
        "classifier": {
            **_LINEAR_FIXED,
            "in_features": head.in_features,
            "out_features": head.out_features,
            "dropout_rate": plain_number(head.dropout_rate),
        },
        **({"resolution": spec.resolution} if later else {}),
    }


def released_to_json(spec: ArchSpec) -> str:
    """A spec as JSON text in the released dialect (see to_released)."""
    return json.dumps(to_released(spec), indent=4, allow_nan=False) + "\n"
