"""JSON <-> ArchSpec. The only place that knows key names.

Two dialects are read, told apart by content:

- ours, marked ``"format": "proxyless-arch/spec"``: everything a spec holds, one block per line;
- the released one (released.py), in which the networks of the paper are published.

Reading is strict: an unknown key, a wrong type or a value that would change the network in a way we do not
build is an InputError with its JSON path and file. Values are passed on as they are: the dataclass judges them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path, PurePath
from types import MappingProxyType
from typing import Any

from proxyless_arch.arch import ops
from proxyless_arch.arch import tree as tree  # registers its block
from proxyless_arch.arch.ops import BLOCK_OPERATIONS, Conv, Linear, Operation
from proxyless_arch.arch.preact import ConvNorm, NormAct
from proxyless_arch.arch.preprocessing import preprocessing_from_node, preprocessing_to_dict
from proxyless_arch.arch.released import RELEASED_NAME, from_released, image_size_of, is_released
from proxyless_arch.arch.spec import ArchSpec, BatchNorm, Block
from proxyless_arch.arch.uib import ConvReLU, PooledConv
from proxyless_arch.base.errors import InputError
from proxyless_arch.base.files import parse_json, read_bytes, read_json, write_text
from proxyless_arch.base.strict import Node, judged_at, plain_number
from proxyless_arch.base.text import readable

FORMAT = "proxyless-arch/spec"
VERSION = 1
SHOWN_KEYS = 5
NET_CONFIG = "net.config"
"""How the authors' training and once-for-all networks call a network's file; it may have a prefix."""


# ---------------------------------------------------------------------------------------------------- reading


def parse_spec(text: str | bytes, source: str, image_size: int | None = None) -> ArchSpec:
    """The network described by JSON ``text`` in either dialect.

    Args:
        text: JSON, as str or UTF-8 bytes.
        source: the file it came from, for errors; a released config, which has no name, is named after it.
        image_size: of the ``run.config`` beside a released ``net.config``.

    Raises:
        InputError: with the JSON path and ``source``.
    """
    try:
        node, image_size = _out_of_wrapper(Node(parse_json(text, source)), image_size)
        return from_released(node, _name_of(source), image_size) if is_released(node) else spec_from_node(node)
    except InputError as error:
        raise error.from_source(source) from None


def _out_of_wrapper(node: Node, image_size: int | None) -> tuple[Node, int | None]:
    """The one network among the members of an object (``{"net_config": ..., "run_config": ...}``), and the image size
    that lies beside it; the node itself where it is no such object."""
    if not isinstance(node.value, dict) or "format" in node.value or is_released(node):
        return node, image_size
    members = {key: member for key, member in node.items() if isinstance(member.value, dict)}
    networks = [member for member in members.values() if member.value.get("format") == FORMAT or is_released(member)]
    if len(networks) != 1:
        return node, image_size
    sizes = (image_size_of(member) for member in (node, *members.values()) if member is not networks[0])
    return networks[0], next((size for size in sizes if size is not None), image_size)


def read_spec(path: str | os.PathLike[str]) -> ArchSpec:
    """The network described by a JSON file in either dialect (see parse_spec)."""
    return parse_spec(read_bytes(path), str(path), _image_size_beside(path))


def released_sibling(path: str | os.PathLike[str], name: str) -> Path | None:
    """The file ``name`` ('run.config', 'init') that was released with a ``net.config``; None where there is none.

    ``cpu.net.config`` has a ``cpu.run.config``.
    """
    path = Path(path)
    sibling = path.with_name(path.name.removesuffix(NET_CONFIG) + name)
    return sibling if path.name.endswith(NET_CONFIG) and sibling.is_file() else None


def _image_size_beside(path: str | os.PathLike[str]) -> int | None:
    beside = released_sibling(path, "run.config")
    if beside is None:
        return None
    try:
        return image_size_of(Node(read_json(beside)))
    except InputError as error:
        raise error.from_source(str(beside)) from None


def _name_of(source: str) -> str:
    """The stem of the file; a ``net.config`` is called after its folder, ``cpu.net.config`` is ``cpu``."""
    path = PurePath(source)
    stem = path.name.removesuffix(NET_CONFIG).rstrip(".") if path.name.endswith(NET_CONFIG) else path.stem
    return readable(stem or path.parent.name or path.stem) or RELEASED_NAME


STEMS: Mapping[str, type[Conv]] = MappingProxyType({op.kind: op for op in (Conv, ConvNorm, ConvReLU)})
MIXES: Mapping[str, type[Conv | NormAct]] = MappingProxyType(
    {op.kind: op for op in (Conv, NormAct, ConvReLU, PooledConv)}
)
"""What a network may begin with, and what it may have in front of the pool. ``"op"`` is left out of a Conv."""


def stem_from_node(node: Node) -> Conv:
    """The first layer that a JSON object describes."""
    return _end_from_node(node, STEMS)


def mix_from_node(node: Node) -> Conv | NormAct | None:
    """What a JSON object describes in front of the pool."""
    return None if node.value is None else _end_from_node(node, MIXES)


def _end_from_node(node: Node, known: Mapping[str, type[ops.AnyOp]]) -> ops.AnyOp:
    if isinstance(node.value, dict) and "op" not in node.value:
        node = Node({"op": Conv.kind, **node.value}, node.path)
    return ops.operation_from_node(node, known)


def end_to_dict(op: Operation | None) -> dict[str, Any] | None:
    """The first layer, or that in front of the pool, as JSON."""
    if op is None:
        return None
    return op.to_json() if op.kind == Conv.kind else ops.operation_to_dict(op)


def batch_norm_from_node(node: Node) -> BatchNorm:
    """The batch normalization constants that a JSON object describes."""
    parts = node.fields(("eps", "momentum"))
    with judged_at(node.path):
        return BatchNorm(**{key: part.value for key, part in parts.items()})


def operation_from_node(node: Node) -> Operation:
    """The block operation that a JSON object describes."""
    return ops.operation_from_node(node, BLOCK_OPERATIONS)


def block_from_node(node: Node) -> Block:
    """An operation and, unless it has one by nature, whether it has a skip."""
    kind = ops.operation_class(node, BLOCK_OPERATIONS)
    required, optional = kind.keys()
    parts = node.fields(("op", *required, *(() if kind.vanishes else ("skip",))), optional)
    with judged_at(node.path):
        return Block(op=kind.from_parts(parts), skip=True if kind.vanishes else parts["skip"].value)


def spec_from_node(node: Node) -> ArchSpec:
    """A spec in our dialect, which may be embedded in a larger document. Errors carry the path within it."""
    if isinstance(node.value, dict) and "format" not in node.value:
        start, keys = json.dumps({"format": FORMAT, "version": VERSION})[:-1], list(node.value)
        found = (
            f"; keys here: {', '.join(keys[:SHOWN_KEYS])}{', ...' if len(keys) > SHOWN_KEYS else ''}" if keys else ""
        )
        raise InputError(f"missing; a spec starts with {start}, ...}}{found}", "format").under(node.path)
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
    bn, preprocessing = batch_norm_from_node(parts["bn"]), preprocessing_from_node(parts["recipe"])
    stem = stem_from_node(parts["stem"])
    blocks = tuple(map(block_from_node, parts["blocks"].elements()))
    feature_mix = mix_from_node(parts["feature_mix"])
    last = feature_mix or (blocks[-1].op if blocks else stem)
    with judged_at(node.path, {"out_features": "num_classes"}):
        classifier = Linear(
            in_features=last.out_channels,
            out_features=parts["num_classes"].value,
            dropout_rate=parts["dropout_rate"].value,
        )
    width_keys = {
        f"blocks[{index}].in_channels": f"blocks[{index}].{block.op.keys()[0][0]}" for index, block in enumerate(blocks)
    }
    if feature_mix is not None:
        width_keys["feature_mix.in_channels"] = f"feature_mix.{feature_mix.keys()[0][0]}"
    with judged_at(node.path, width_keys):
        return ArchSpec(
            name=parts["name"].value,
            stem=stem,
            blocks=blocks,
            feature_mix=feature_mix,
            classifier=classifier,
            bn=bn,
            preprocessing=preprocessing,
            padding=parts["padding"].value,
            class_names=parts["class_names"].as_tuple() if "class_names" in parts else (),
        )


# ---------------------------------------------------------------------------------------------------- writing


def bn_to_dict(bn: BatchNorm) -> dict[str, Any]:
    return {"eps": plain_number(bn.eps), "momentum": plain_number(bn.momentum)}


def block_to_dict(block: Block) -> dict[str, Any]:
    """The keys that every block of the operation has, then those that it may have."""
    required, optional = block.op.keys()
    values = block.op.to_json()
    return {
        "op": block.op.kind,
        **{key: values[key] for key in required},
        **({} if block.op.vanishes else {"skip": block.skip}),
        **{key: values[key] for key in optional if key in values},
    }


def spec_to_dict(spec: ArchSpec) -> dict[str, Any]:
    """The JSON value of a spec in our dialect, keys in a fixed order."""
    return {
        "format": FORMAT,
        "version": VERSION,
        "name": spec.name,
        "num_classes": spec.num_classes,
        "dropout_rate": plain_number(spec.classifier.dropout_rate),
        "bn": bn_to_dict(spec.bn),
        "padding": spec.padding,
        "recipe": preprocessing_to_dict(spec.preprocessing),
        "stem": end_to_dict(spec.stem),
        "blocks": [block_to_dict(block) for block in spec.blocks],
        "feature_mix": end_to_dict(spec.feature_mix),
        **({"class_names": list(spec.class_names)} if spec.class_names else {}),
    }


def json_line(value: Any) -> str:
    """A JSON value in one line of text."""
    return json.dumps(value, allow_nan=False, ensure_ascii=False)


def spec_to_json(spec: ArchSpec) -> str:
    """A spec as JSON text in our dialect: one key per line, one block per line."""
    return rows_to_json(spec_to_dict(spec), "blocks")


def rows_to_json(members: dict[str, Any], tall: str) -> str:
    """A JSON object as text, one member per line, and one per element of the list ``tall``."""
    lines = []
    for key, value in members.items():
        if key == tall and value:
            text = "[\n" + ",\n".join(f"    {json_line(element)}" for element in value) + "\n  ]"
        else:
            text = json_line(value)
        lines.append(f"  {json_line(key)}: {text}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def write_spec(path: str | os.PathLike[str], spec: ArchSpec) -> None:
    """Write a spec as JSON in our dialect, atomically."""
    write_text(path, spec_to_json(spec))
