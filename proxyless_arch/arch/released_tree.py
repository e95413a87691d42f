"""The released dialect of the CIFAR-10 network: ``"name": "PyramidTreeNet"``, a pyramid of tree-structured cells.

The first and the last of its blocks are called ``TransitionBlock`` and hold what we call stem and feature mix; the
others hold a cell between two 1x1 convolutions. Widths, and what is always so in this family, stand in every layer;
here they are checked. The dialect holds no name, and its authors' layers take torch's batch normalization.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from proxyless_arch.arch.ops import Linear
from proxyless_arch.arch.preact import AvgPool, ConvNorm, Identity, MaxPool, NormAct, PreConv, Separable, TreeEdge
from proxyless_arch.arch.preprocessing import preprocessing_from_node, preprocessing_to_dict
from proxyless_arch.arch.spec import ArchSpec, BatchNorm, Block, Preprocessing
from proxyless_arch.arch.tree import MAX_DEPTH, Branch, TreeBlock, TreeNode
from proxyless_arch.base.errors import InputError
from proxyless_arch.base.strict import Node, judged_at, plain_number

NAME = "PyramidTreeNet"
RESOLUTION = 32
CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
TORCH_BN = BatchNorm(eps=1e-5, momentum=0.1)

_ORDER = "bn_act_weight"
_TAIL: Mapping[str, Any] = MappingProxyType({"dropout_rate": 0, "ops_order": _ORDER})
_WIDTHS = ("in_channels", "out_channels")
_CONV_KEYS = ("kernel_size", "stride", "dilation", "groups", "bias", "has_shuffle")
_NET_FIXED: Mapping[str, Any] = MappingProxyType(
    {"tree_node_config": {}, "cell_drop_rate": 0, "cell_drop_scheme": "linear"}
)
"""What later versions of the authors' code write; training alone uses it."""


def cifar10_preprocessing() -> Preprocessing:
    """Of the authors' evaluation on CIFAR-10: the images as they are, with the data set's own mean and spread."""
    return Preprocessing(
        resolution=RESOLUTION,
        resize=RESOLUTION,
        mean=(0.49139968, 0.48215827, 0.44653124),
        std=(0.24703233, 0.24348505, 0.26158768),
        assumed="the config says nothing of it; this is CIFAR-10's",
    )


# ---------------------------------------------------------------------------------------------------- reading


def _is(node: Node, value: Any) -> None:
    """A number by its value, anything else by its type as well."""
    if value == 0 and not isinstance(value, bool):
        if node.number() != 0:
            raise node.fail("0")
    elif isinstance(value, dict):
        node.fields(())
    else:
        node.exactly(value)


def _layer(node: Node, name: str, fixed: Mapping[str, Any], free: tuple[str, ...] = ()) -> dict[str, Node]:
    """The members of a layer that may have any value; the ``fixed`` ones are what we build, or refused."""
    fixed = {"name": name, **_TAIL, **fixed}
    parts = node.fields((*free, *_WIDTHS, *fixed))
    for key, value in fixed.items():
        _is(parts[key], value)
    return {key: parts[key] for key in (*free, *_WIDTHS)}


def _values(parts: Mapping[str, Node]) -> dict[str, Any]:
    return {key: part.value for key, part in parts.items()}


def _same_width(parts: dict[str, Node]) -> int:
    """The width of a layer that puts out what it takes in."""
    width = parts["in_channels"].integer()
    parts["out_channels"].exactly(width)
    return width


def _convolution(node: Node) -> PreConv:
    fixed = {"dilation": 1, "bias": False, "use_bn": True}
    parts = _layer(node, "ConvLayer", fixed, ("kernel_size", "stride", "groups", "has_shuffle", "act_func"))
    shuffle, activated = parts.pop("has_shuffle"), parts.pop("act_func").exactly("relu", None) == "relu"
    with judged_at(node.path):
        conv = PreConv(activated=activated, **_values(parts))
    if conv.groups > 1:  # without groups nothing is shuffled, whatever it says
        shuffle.exactly(True)
    return conv


def _separable(node: Node) -> Separable:
    fixed = {"groups": 1, "bias": False, "has_shuffle": False, "use_bn": True, "act_func": "relu"}
    parts = _layer(node, "DepthConvLayer", fixed, ("kernel_size", "stride", "dilation"))
    with judged_at(node.path):
        return Separable(**_values(parts))


def _pool(node: Node) -> MaxPool | AvgPool:
    parts = _layer(node, "PoolingLayer", {"stride": 1, "use_bn": False, "act_func": None}, ("pool_type", "kernel_size"))
    kind = AvgPool if parts["pool_type"].text(("avg", "max")) == "avg" else MaxPool
    width = _same_width(parts)
    with judged_at(node.path, {"channels": "in_channels"}):
        return kind(channels=width, kernel_size=parts["kernel_size"].value)


def _identity(node: Node) -> Identity:
    width = _same_width(_layer(node, "IdentityLayer", {"use_bn": False, "act_func": None}))
    with judged_at(node.path, {"channels": "in_channels"}):
        return Identity(channels=width)


_EDGES = {
    "ConvLayer": _convolution,
    "DepthConvLayer": _separable,
    "PoolingLayer": _pool,
    "IdentityLayer": _identity,
}


def _name(node: Node, allowed: tuple[str, ...]) -> str:
    members = dict(node.items())
    return node.fields(("name",), tuple(members))["name"].text(allowed)


def _edge(node: Node) -> TreeEdge:
    return _EDGES[_name(node, tuple(_EDGES))](node)


def _node(node: Node, depth: int = 1) -> TreeNode:
    if depth > MAX_DEPTH:
        raise node.fail(f"null: at most {MAX_DEPTH} edges one behind the other")
    keys = ("name", *_WIDTHS, "split_type", "merge_type", "has_branch_bn", "path_drop_rate", "edges", "child_nodes")
    parts = node.fields(keys)
    parts["name"].exactly("TreeNode")
    _is(parts["path_drop_rate"], 0)
    edges = parts["edges"].elements(1)
    children = parts["child_nodes"].elements(len(edges), len(edges))
    allowed = (None,) if len(edges) == 1 else ()
    parts["split_type"].exactly("copy", "split", *allowed)
    parts["merge_type"].exactly("add", "concat", *allowed)
    branches = []
    for edge, child in zip(edges, children, strict=True):
        front, behind = _edge(edge), None if child.value is None else _node(child, depth + 1)
        with judged_at(child.path, {"child.in_channels": "in_channels"}):
            branches.append(Branch(edge=front, child=behind))
    renamed = {
        f"branches[{index}].{ours}": f"{theirs}[{index}].{width}"
        for index in range(len(edges))
        for ours, theirs, width in (
            ("edge.in_channels", "edges", "in_channels"),
            ("edge.channels", "edges", "in_channels"),
            ("edge.out_channels", "edges", "out_channels"),
            ("child.out_channels", "child_nodes", "out_channels"),
        )
    }
    with judged_at(node.path, renamed):
        return TreeNode(
            in_channels=parts["in_channels"].value,
            out_channels=parts["out_channels"].value,
            allocation=parts["split_type"].value or "copy",
            merge=parts["merge_type"].value or "add",
            branch_bn=parts["has_branch_bn"].value,
            branches=tuple(branches),
        )


def _block(node: Node) -> Block:
    parts = node.fields(
        ("name", "cell_drop_rate", "final_bn", "shortcut", "in_bottle", "out_bottle", "cell"),
    )
    parts["name"].exactly("ResidualTreeBlock")
    parts["final_bn"].exactly(True)
    _is(parts["cell_drop_rate"], 0)
    cell = _node(parts["cell"])
    into, out = _convolution(parts["in_bottle"]), _convolution(parts["out_bottle"])
    with judged_at(node.path):
        op = TreeBlock(in_channels=into.in_channels, out_channels=out.out_channels, cell=cell)
    for key, found, wanted in (("in_bottle", into, op.in_bottle), ("out_bottle", out, op.out_bottle)):
        _check_bottle(parts[key], _edge_dict(found), _edge_dict(wanted))
    _check_shortcut(parts["shortcut"], op)
    return Block(op=op, skip=False)


def _check_bottle(node: Node, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """It must be what the cell and the block ask for."""
    members = dict(node.items())
    for key, value in wanted.items():
        if found[key] != value:
            members[key].exactly(value)


def _check_shortcut(node: Node, op: TreeBlock) -> None:
    if op.stride == 1:
        width = Node(_identity(node).channels, f"{node.path}.in_channels")
    else:
        fixed = {"pool_type": "avg", "kernel_size": 2, "stride": 2, "use_bn": False, "act_func": None}
        parts = _layer(node, "PoolingLayer", fixed)
        width = Node(_same_width(parts), f"{node.path}.in_channels")
    width.exactly(op.in_channels)


def _transition(node: Node, n_layers: int) -> list[Node]:
    parts = node.fields(("name", "layers"))
    parts["name"].exactly("TransitionBlock")
    return parts["layers"].elements(n_layers, n_layers)


def _stem(node: Node) -> ConvNorm:
    """A convolution, and an identity that has the batch normalization."""
    first, second = _transition(node, 2)
    fixed = {"dilation": 1, "groups": 1, "bias": False, "has_shuffle": False, "use_bn": False, "act_func": None}
    conv = _layer(first, "ConvLayer", fixed, ("kernel_size", "stride"))
    norm = _layer(second, "IdentityLayer", {"use_bn": True, "act_func": None})
    Node(_same_width(norm), f"{second.path}.in_channels").exactly(conv["out_channels"].value)
    with judged_at(first.path):
        return ConvNorm(**_values(conv))


def _feature_mix(node: Node) -> NormAct:
    """A pool over all pixels, with batch normalization and ReLU in front."""
    (only,) = _transition(node, 1)
    fixed = {"pool_type": "avg", "use_bn": True, "act_func": "relu"}
    parts = _layer(only, "PoolingLayer", fixed, ("kernel_size", "stride"))
    parts["stride"].exactly(parts["kernel_size"].integer())
    width = _same_width(parts)
    with judged_at(only.path, {"channels": "in_channels"}):
        return NormAct(channels=width)


def _linear(node: Node) -> Linear:
    fixed = {"name": "LinearLayer", "bias": True, "use_bn": False, "act_func": None, "ops_order": _ORDER}
    parts = node.fields(("in_features", "out_features", "dropout_rate", *fixed))
    for key, value in fixed.items():
        _is(parts[key], value)
    with judged_at(node.path):
        return Linear.from_parts({key: parts[key] for key in ("in_features", "out_features", "dropout_rate")})


def _bn(node: Node) -> BatchNorm:
    parts = node.fields(("momentum", "eps"))
    with judged_at(node.path):
        return BatchNorm(eps=parts["eps"].value, momentum=parts["momentum"].value)


def from_released_tree(node: Node, name: str) -> ArchSpec:
    """A spec from the dialect. Its preprocessing is assumed, unless it has a ``recipe``, and says so."""
    parts = node.fields(("name", "blocks", "classifier"), ("bn", "recipe", *_NET_FIXED))
    for key, value in _NET_FIXED.items():
        if key in parts:
            _is(parts[key], value)
    first, *middle, last = parts["blocks"].elements(2, 1002)
    stem, blocks, mix, head = _stem(first), tuple(map(_block, middle)), _feature_mix(last), _linear(parts["classifier"])
    spec_keys = {f"blocks[{index}].in_channels": f"blocks[{index + 1}].in_bottle.in_channels" for index in range(1000)}
    spec_keys["feature_mix.in_channels"] = f"{last.path}.layers[0].in_channels"
    spec_keys["stem.in_channels"] = f"{first.path}.layers[0].in_channels"
    with judged_at(node.path, spec_keys):
        spec = ArchSpec(
            name=name,
            stem=stem,
            blocks=blocks,
            feature_mix=mix,
            classifier=head,
            bn=_bn(parts["bn"]) if "bn" in parts else TORCH_BN,
            preprocessing=preprocessing_from_node(parts["recipe"]) if "recipe" in parts else cifar10_preprocessing(),
        )
    _check_pool(spec, last)
    return spec


def _check_pool(spec: ArchSpec, last: Node) -> None:
    """The last pool must take in all pixels of the feature map, as ours does."""
    stride = spec.stem.stride
    for block in spec.blocks:
        stride *= block.op.stride
    (only,) = _transition(last, 1)
    size = dict(only.items())["kernel_size"]
    side = spec.preprocessing.side
    if size.value * stride != side:
        raise size.fail(f"{side // stride}, the feature map of a {side} px image")


# ---------------------------------------------------------------------------------------------------- writing


def _widths(op: Any) -> dict[str, int]:
    return {"in_channels": op.in_channels, "out_channels": op.out_channels}


def _written(name: str, own: Mapping[str, Any], op: Any, use_bn: bool, act_func: str | None) -> dict[str, Any]:
    return {"name": name, **own, **_widths(op), "use_bn": use_bn, "act_func": act_func, **_TAIL}


def _conv_dict(
    name: str, op: PreConv | Separable | ConvNorm, use_bn: bool = True, act_func: str | None = "relu"
) -> dict[str, Any]:
    groups = getattr(op, "groups", 1)
    values = (op.kernel_size, op.stride, getattr(op, "dilation", 1), groups, False, groups > 1)
    return _written(name, dict(zip(_CONV_KEYS, values, strict=True)), op, use_bn, act_func)


def _pool_dict(op: Any, kind: str, size: int, stride: int, **norm: Any) -> dict[str, Any]:
    own = {"pool_type": kind, "kernel_size": size, "stride": stride}
    return _written("PoolingLayer", own, op, **{"use_bn": False, "act_func": None, **norm})


def _edge_dict(op: TreeEdge) -> dict[str, Any]:
    match op:
        case PreConv():
            return _conv_dict("ConvLayer", op, act_func="relu" if op.activated else None)
        case Separable():
            return _conv_dict("DepthConvLayer", op)
        case MaxPool() | AvgPool():
            return _pool_dict(op, "max" if isinstance(op, MaxPool) else "avg", op.kernel_size, 1)
        case Identity():
            return _written("IdentityLayer", {}, op, False, None)
    raise InputError(f"the released dialect holds no {op.label}", "blocks")


def _node_dict(node: TreeNode) -> dict[str, Any]:
    several = len(node.branches) > 1
    return {
        "name": "TreeNode",
        **_widths(node),
        "split_type": node.allocation if several else None,
        "merge_type": node.merge if several else None,
        "has_branch_bn": node.branch_bn,
        "path_drop_rate": 0,
        "edges": [_edge_dict(branch.edge) for branch in node.branches],
        "child_nodes": [None if branch.child is None else _node_dict(branch.child) for branch in node.branches],
    }


def _block_dict(op: TreeBlock) -> dict[str, Any]:
    shortcut = Identity(channels=op.in_channels)
    return {
        "name": "ResidualTreeBlock",
        "cell_drop_rate": 0.0,
        "final_bn": True,
        "shortcut": _edge_dict(shortcut) if op.stride == 1 else _pool_dict(shortcut, "avg", 2, 2),
        "in_bottle": _edge_dict(op.in_bottle),
        "out_bottle": _edge_dict(op.out_bottle),
        "cell": _node_dict(op.cell),
    }


def is_released_tree(spec: ArchSpec) -> bool:
    """Whether a network is of the family that the dialect holds."""
    return (
        isinstance(spec.stem, ConvNorm)
        and isinstance(spec.feature_mix, NormAct)
        and all(isinstance(block.op, TreeBlock) for block in spec.blocks)
    )


def to_released_tree(spec: ArchSpec) -> dict[str, Any]:
    """The JSON value of a spec in the dialect; InputError where that cannot hold it."""
    assert isinstance(spec.stem, ConvNorm) and isinstance(spec.feature_mix, NormAct)
    if spec.class_names not in ((), CIFAR10_CLASSES):
        raise InputError("the released dialect holds no class names but CIFAR-10's", "class_names")
    stem, mix, head = spec.stem, spec.feature_mix, spec.classifier
    size = spec.preprocessing.side
    for op in (stem, *(block.op for block in spec.blocks)):
        size //= op.stride
    norm = _written("IdentityLayer", {}, Identity(channels=stem.out_channels), True, None)
    layers = [_conv_dict("ConvLayer", stem, use_bn=False, act_func=None), norm]
    value = {
        "name": NAME,
        "blocks": [
            {"name": "TransitionBlock", "layers": layers},
            *(_block_dict(block.op) for block in spec.blocks if isinstance(block.op, TreeBlock)),
            {
                "name": "TransitionBlock",
                "layers": [_pool_dict(mix, "avg", size, size, use_bn=True, act_func="relu")],
            },
        ],
        "classifier": {
            "name": "LinearLayer",
            "in_features": head.in_features,
            "out_features": head.out_features,
            "bias": True,
            "use_bn": False,
            "act_func": None,
            "dropout_rate": plain_number(head.dropout_rate),
            "ops_order": _ORDER,
        },
    }
    if spec.bn != TORCH_BN:
        value["bn"] = {"momentum": plain_number(spec.bn.momentum), "eps": plain_number(spec.bn.eps)}
    if spec.preprocessing != cifar10_preprocessing():
        value["recipe"] = preprocessing_to_dict(spec.preprocessing)
    return value
