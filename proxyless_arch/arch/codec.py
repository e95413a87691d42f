"""JSON <-> ArchSpec. The only place that knows key names.

Two dialects are read, told apart by content:

- ours, marked ``"format": "proxyless-arch/spec"``: everything a spec holds, one block per line;
- the released one (``"name": "ProxylessNASNets"``), in which the networks of the paper are published
  (https://github.com/mit-han-lab/ProxylessNAS). It holds neither a preprocessing nor a name.

Reading is strict: an unknown key, a wrong type or a value that would change the network in a way we do not
build is an InputError with its JSON path and file.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import PurePath
from types import MappingProxyType
from typing import Any

from proxyless_arch.arch.spec import (
    KERNEL_SIZES,
    MAX_WIDTH,
    ArchSpec,
    BatchNorm,
    Block,
    Conv,
    Linear,
    MBConv,
    Preprocessing,
    Zero,
    imagenet_preprocessing,
)
from proxyless_arch.base.errors import InputError
from proxyless_arch.base.files import parse_json, read_bytes, write_text
from proxyless_arch.base.strict import Node, shown

FORMAT = "proxyless-arch/spec"
VERSION = 1
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

_WIDTHS = ("in_channels", "out_channels")
_CONV = (*_WIDTHS, "kernel_size", "stride")
_MBCONV = (*_WIDTHS, "kernel_size", "expand_ratio", "stride")


# ---------------------------------------------------------------------------------------------------- reading


def parse_spec(text: str | bytes, source: str) -> ArchSpec:
    """The network described by JSON ``text`` in either dialect.

    Args:
        text: JSON, as str or UTF-8 bytes.
        source: the file it came from, for errors; a released config, which has no name, is named after it.

    Raises:
        InputError: with the JSON path and ``source``.
    """
    try:
        node = Node(parse_json(text, source))
        name = _name_of(source)
        return _from_released(node, name) if _is_released(node) else spec_from_node(node)
    except InputError as error:
        raise error.from_source(source) from None


def read_spec(path: str | os.PathLike[str]) -> ArchSpec:
    """The network described by a JSON file in either dialect (see parse_spec)."""
    return parse_spec(read_bytes(path), str(path))


def _name_of(source: str) -> str:
    stem = PurePath(source).stem.encode("utf-8", "replace").decode()
    return stem or RELEASED_NAME


def _is_released(node: Node) -> bool:
    """Whether the JSON is in the released dialect; InputError when it is in neither."""
    value = node.value
    if not isinstance(value, dict):
        raise node.fail("an object")
    if "format" in value:
        return False
    name = value.get("name")
    if name == RELEASED_NAME:
        return True
    if name == "PyramidTreeNet":
        raise InputError(
            f"expected {RELEASED_NAME!r}, got 'PyramidTreeNet': the CIFAR-10 network of the release, a pyramid of "
            "tree-structured cells, is another family than the mobile networks read here",
            "name",
        )
    if "first_conv" in value or "feature_mix_layer" in value:
        raise InputError(f"expected {RELEASED_NAME!r}, got {shown(name)}", "name")
    raise InputError(f"missing; a spec starts with {json.dumps({'format': FORMAT, 'version': VERSION})[:-1]}", "format")


@contextlib.contextmanager
def _at(prefix: str, renamed: Mapping[str, str] = MappingProxyType({})) -> Iterator[None]:
    """Errors of a dataclass built here name a field: say which JSON key that is."""
    try:
        yield
    except InputError as error:
        place = renamed.get(error.place, error.place)
        raise InputError(error.problem, place, error.source).under(prefix) from None


def _words(node: Node) -> str:
    """A string that can be written to a file again (no lone surrogates)."""
    text = node.text()
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise node.fail("text that UTF-8 can hold") from None
    return text


def _conv(parts: Mapping[str, Node], path: str) -> Conv:
    values = {key: parts[key].integer(1, MAX_WIDTH) for key in _WIDTHS}
    kernel_size, stride = parts["kernel_size"].exactly(1, *KERNEL_SIZES), parts["stride"].exactly(1, 2)
    with _at(path):
        return Conv(kernel_size=kernel_size, stride=stride, **values)


def _mbconv(parts: Mapping[str, Node], path: str) -> MBConv:
    values = {key: parts[key].integer(1, MAX_WIDTH) for key in _WIDTHS}
    kernel_size, stride = parts["kernel_size"].exactly(*KERNEL_SIZES), parts["stride"].exactly(1, 2)
    expand_ratio = parts["expand_ratio"].integer(1, 64)
    mid_channels = parts["mid_channels"].integer(1, MAX_WIDTH) if "mid_channels" in parts else None
    with _at(path):
        return MBConv(
            kernel_size=kernel_size, expand_ratio=expand_ratio, stride=stride, mid_channels=mid_channels, **values
        )


def _batch_norm(parts: Mapping[str, Node], path: str) -> BatchNorm:
    eps, momentum = parts["eps"].number(), parts["momentum"].number()
    with _at(path):
        return BatchNorm(eps=eps, momentum=momentum)


def _preprocessing(node: Node) -> Preprocessing:
    parts = node.fields(("resolution", "resize", "interpolation", "mean", "std"))
    resolution, resize = parts["resolution"].integer(1, 8192), parts["resize"].integer(1, 16384)
    interpolation = parts["interpolation"].exactly("bilinear", "bicubic")
    mean, std = ([value.number() for value in parts[key].elements(3, 3)] for key in ("mean", "std"))
    with _at(node.path):
        return Preprocessing(
            resolution=resolution,
            resize=resize,
            interpolation=interpolation,
            mean=(mean[0], mean[1], mean[2]),
            std=(std[0], std[1], std[2]),
        )


def _block(node: Node) -> Block:
    """One block of our dialect."""
    kind = node.value.get("op") if isinstance(node.value, dict) else None
    if kind == "zero":
        parts = node.fields(("op", "channels"))
        return Block(op=Zero(channels=parts["channels"].integer(1, MAX_WIDTH)), skip=True)
    parts = node.fields(("op", *_MBCONV, "skip"), ("mid_channels",))
    parts["op"].exactly("mbconv", "zero")
    op, skip = _mbconv(parts, node.path), parts["skip"].boolean()
    with _at(node.path):
        return Block(op=op, skip=skip)


def spec_from_node(node: Node) -> ArchSpec:
    """A spec in our dialect, which may be embedded in a larger document. Errors carry the path within it."""
    parts = node.fields(
        (
            "format",
            "version",
            "name",
            "num_classes",
            "dropout_rate",
            "bn",
            "padding",
            "recipe",
            "stem",
            "blocks",
            "feature_mix",
        ),
        ("class_names",),
    )
    parts["format"].exactly(FORMAT)
    parts["version"].exactly(VERSION)
    name = _words(parts["name"])
    num_classes, dropout_rate = parts["num_classes"].integer(1, MAX_WIDTH), parts["dropout_rate"].number()
    bn = _batch_norm(parts["bn"].fields(("eps", "momentum")), parts["bn"].path)
    padding = parts["padding"].exactly("symmetric", "same")
    preprocessing = _preprocessing(parts["recipe"])
    stem = _conv(parts["stem"].fields(_CONV), parts["stem"].path)
    blocks = tuple(_block(block) for block in parts["blocks"].elements(0, 1000))
    feature_mix = _conv(parts["feature_mix"].fields(_CONV), parts["feature_mix"].path)
    class_names = tuple(_words(label) for label in parts["class_names"].elements(1)) if "class_names" in parts else ()
    with _at(node.path, {"out_features": "num_classes"}):
        classifier = Linear(in_features=feature_mix.out_channels, out_features=num_classes, dropout_rate=dropout_rate)
    keys = {
        f"blocks[{index}].in_channels": f"blocks[{index}].channels"
        for index, block in enumerate(blocks)
        if isinstance(block.op, Zero)
    }
    with _at(node.path, keys):
        return ArchSpec(
            name=name,
            stem=stem,
            blocks=blocks,
            feature_mix=feature_mix,
            classifier=classifier,
            bn=bn,
            preprocessing=preprocessing,
            padding=padding,
            class_names=class_names,
        )


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


def _released_conv(node: Node) -> Conv:
    parts = node.fields((*_CONV, *_CONV_FIXED))
    _fixed(parts, _CONV_FIXED)
    return _conv(parts, node.path)


def _released_block(node: Node) -> Block:
    parts = node.fields(("name", "mobile_inverted_conv", "shortcut"))
    parts["name"].exactly("MobileInvertedResidualBlock")
    conv, shortcut = parts["mobile_inverted_conv"], parts["shortcut"]
    kind = conv.value.get("name") if isinstance(conv.value, dict) else None
    if kind == "ZeroLayer":
        zero = conv.fields(("name", "stride"))
        zero["stride"].exactly(1)
        if shortcut.value is None:
            raise shortcut.fail("an identity shortcut around a ZeroLayer (without it the network is cut)")
        return Block(op=Zero(channels=_released_identity(shortcut)), skip=True)
    inner = conv.fields(("name", *_MBCONV), ("mid_channels", *_MBCONV_LATER))
    inner["name"].exactly("MBInvertedConvLayer", "ZeroLayer")
    _fixed(inner, _MBCONV_LATER)
    if "mid_channels" in inner and inner["mid_channels"].value is None:
        del inner["mid_channels"]
    op = _mbconv(inner, conv.path)
    if shortcut.value is None:
        return Block(op=op, skip=False)
    width = _released_identity(shortcut)
    if not op.keeps_shape:
        raise InputError(
            f"expected null, got an identity: an identity skip needs stride 1 and equal widths, here stride "
            f"{op.stride} and {op.in_channels} -> {op.out_channels}",
            shortcut.path,
        )
    if width != op.in_channels:
        raise InputError(f"expected {op.in_channels} (the block's), got {width}", f"{shortcut.path}.in_channels")
    return Block(op=op, skip=True)


def _released_identity(node: Node) -> int:
    """Width of an identity shortcut."""
    parts = node.fields((*_WIDTHS, *_IDENTITY_FIXED))
    _fixed(parts, _IDENTITY_FIXED)
    width = parts["in_channels"].integer(1, MAX_WIDTH)
    parts["out_channels"].exactly(width)
    return width


def _released_bn(node: Node) -> BatchNorm:
    parts = node.fields(("momentum", "eps"), ("ws_eps",))
    _fixed(parts, {"ws_eps": None})
    return _batch_norm(parts, node.path)


def _released_linear(node: Node) -> Linear:
    parts = node.fields(("in_features", "out_features", "dropout_rate", *_LINEAR_FIXED))
    _fixed(parts, _LINEAR_FIXED)
    features = {key: parts[key].integer(1, MAX_WIDTH) for key in ("in_features", "out_features")}
    dropout_rate = parts["dropout_rate"].number()
    with _at(node.path):
        return Linear(dropout_rate=dropout_rate, **features)


def _from_released(node: Node, name: str) -> ArchSpec:
    """A spec from the released dialect, with ImageNet's preprocessing at the config's resolution (224 unless given)."""
    parts = node.fields(("name", "bn", "first_conv", "blocks", "feature_mix_layer", "classifier"), ("resolution",))
    resolution = parts["resolution"].integer(1, 8192) if "resolution" in parts else RELEASED_RESOLUTION
    stem, bn = _released_conv(parts["first_conv"]), _released_bn(parts["bn"])
    blocks = tuple(_released_block(block) for block in parts["blocks"].elements(0, 1000))
    feature_mix, classifier = _released_conv(parts["feature_mix_layer"]), _released_linear(parts["classifier"])
    keys = {
        f"blocks[{index}].in_channels": f"blocks[{index}]."
        + ("shortcut.in_channels" if isinstance(block.op, Zero) else "mobile_inverted_conv.in_channels")
        for index, block in enumerate(blocks)
    }
    keys |= {"stem.in_channels": "first_conv.in_channels", "feature_mix.in_channels": "feature_mix_layer.in_channels"}
    with _at(node.path, keys):
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


def _plain(value: float) -> float | int:
    """0.0 is written as 0."""
    return int(value) if float(value).is_integer() else value


def _keys(item: Conv | MBConv, keys: tuple[str, ...]) -> dict[str, int]:
    return {key: getattr(item, key) for key in keys}


def _block_to_dict(block: Block) -> dict[str, Any]:
    op = block.op
    if isinstance(op, Zero):
        return {"op": "zero", "channels": op.channels}
    mid = {} if op.mid_channels is None else {"mid_channels": op.mid_channels}
    return {"op": "mbconv", **_keys(op, _MBCONV), "skip": block.skip, **mid}


def spec_to_dict(spec: ArchSpec) -> dict[str, Any]:
    """The JSON value of a spec in our dialect, keys in a fixed order."""
    preprocessing = spec.preprocessing
    return {
        "format": FORMAT,
        "version": VERSION,
        "name": spec.name,
        "num_classes": spec.num_classes,
        "dropout_rate": _plain(spec.classifier.dropout_rate),
        "bn": {"eps": _plain(spec.bn.eps), "momentum": _plain(spec.bn.momentum)},
        "padding": spec.padding,
        "recipe": {
            "resolution": preprocessing.resolution,
            "resize": preprocessing.resize,
            "interpolation": preprocessing.interpolation,
            "mean": [_plain(value) for value in preprocessing.mean],
            "std": [_plain(value) for value in preprocessing.std],
        },
        "stem": _keys(spec.stem, _CONV),
        "blocks": [_block_to_dict(block) for block in spec.blocks],
        "feature_mix": _keys(spec.feature_mix, _CONV),
        **({"class_names": list(spec.class_names)} if spec.class_names else {}),
    }


def _line(value: Any) -> str:
    return json.dumps(value, allow_nan=False, ensure_ascii=False)


def spec_to_json(spec: ArchSpec) -> str:
    """A spec as JSON text in our dialect: one key per line, one block per line."""
    lines = []
    for key, value in spec_to_dict(spec).items():
        if key == "blocks" and value:
            text = "[\n" + ",\n".join(f"    {_line(block)}" for block in value) + "\n  ]"
        else:
            text = _line(value)
        lines.append(f"  {_line(key)}: {text}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def write_spec(path: str | os.PathLike[str], spec: ArchSpec) -> None:
    """Write a spec as JSON in our dialect, atomically."""
    write_text(path, spec_to_json(spec))


def _released_block_dict(block: Block, later: bool) -> dict[str, Any]:
    op = block.op
    inner: dict[str, Any]
    if isinstance(op, Zero):
        inner = {"name": "ZeroLayer", "stride": 1}
    else:
        inner = {"name": "MBInvertedConvLayer", **_keys(op, (*_CONV, "expand_ratio"))}
        if later:
            inner |= {"mid_channels": op.mid_channels, **_MBCONV_LATER}
    widths = {"in_channels": op.in_channels, "out_channels": op.out_channels}
    shortcut = {**_IDENTITY_FIXED, **widths} if block.skip else None
    return {"name": "MobileInvertedResidualBlock", "mobile_inverted_conv": inner, "shortcut": shortcut}


def to_released(spec: ArchSpec) -> dict[str, Any]:
    """The JSON value of a spec in the released dialect.

    The keys of the four published networks are written; those that later releases added (``resolution``,
    ``mid_channels``, ``act_func``, ``use_se``, ``ws_eps``) only for a network that needs one of the first two.
    The dialect holds no name: a reader takes it from the file.

    Raises:
        InputError: the dialect cannot hold the padding, the preprocessing or the class names.
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
            "momentum": _plain(spec.bn.momentum),
            "eps": _plain(spec.bn.eps),
            **({"ws_eps": None} if later else {}),
        },
        "first_conv": {**_CONV_FIXED, **_keys(spec.stem, _CONV)},
        "blocks": [_released_block_dict(block, later) for block in spec.blocks],
        "feature_mix_layer": {**_CONV_FIXED, **_keys(spec.feature_mix, _CONV)},
        "classifier": {
            **_LINEAR_FIXED,
            "in_features": head.in_features,
            "out_features": head.out_features,
            "dropout_rate": _plain(head.dropout_rate),
        },
        **({"resolution": spec.resolution} if later else {}),
    }


def released_to_json(spec: ArchSpec) -> str:
    """A spec as JSON text in the released dialect (see to_released)."""
    return json.dumps(to_released(spec), indent=4, allow_nan=False) + "\n"
