"""The search space as a value: which networks there are, and how a path of choices becomes one of them.

A space is a network some of whose blocks are open: an Edge holds the operations one of which is chosen (Cai, Zhu, Han,
ICLR 2019, section 3.1), an OpenTree is a block whose cell has such edges. How many channels the blocks of a stage put
out may be open as well: a Width is one more choice (as in TuNAS, Bender et al., CVPR 2020). A Path holds
one choice per edge and per width, in network order, a width in front of its first block. A further space is a function
that returns one of these (mbconv.py and tree.py have those of the paper); a run folder holds the space it searched as
space.json.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from numbers import Integral
from typing import Any, Literal, NamedTuple

from proxyless_arch.arch import codec
from proxyless_arch.arch.ops import Conv, Hwc, Linear, Operation, operation_from_node, operation_to_dict
from proxyless_arch.arch.preact import TREE_EDGES, NormAct, TreeEdge
from proxyless_arch.arch.preprocessing import preprocessing_from_node, preprocessing_to_dict
from proxyless_arch.arch.shrink import FEATURE_MIX
from proxyless_arch.arch.spec import ArchSpec, BatchNorm, Block, Padding, Preprocessing
from proxyless_arch.arch.tensors import expected_tensors
from proxyless_arch.arch.tree import TreeBlock
from proxyless_arch.arch.walk import LayerCall, stages, walk
from proxyless_arch.base.checks import check, check_line, check_number, check_one_of, is_int
from proxyless_arch.base.errors import InputError
from proxyless_arch.base.files import parse_json, read_bytes, write_text
from proxyless_arch.base.strict import Node, judged_at, listed, plain_number

FORMAT = "proxyless-arch/space"
VERSION = 1
FILE = "space.json"
"""What it is called in a run folder."""

Path = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Edge:
    """A block whose operation is searched, and whether it has an identity skip.

    All operations agree in widths and stride: a block's input does not depend on the choices before it, which makes
    costs additive.
    """

    ops: tuple[Operation, ...]
    skip: bool

    def __post_init__(self) -> None:
        check(isinstance(self.ops, tuple) and bool(self.ops), "ops", "one or more operations", self.ops)
        for index, op in enumerate(self.ops):
            with judged_at("", {"op": f"ops[{index}]", "skip": f"ops[{index}]"}):
                Block(op=op, skip=self.skip)
            shape, first = _ends(op), _ends(self.ops[0])
            check(shape == first, f"ops[{index}]", f"(in_channels, out_channels, stride) {first}", shape)

    @property
    def in_channels(self) -> int:
        return self.ops[0].in_channels

    @property
    def out_channels(self) -> int:
        return self.ops[0].out_channels

    @property
    def choices(self) -> tuple[tuple[Operation, ...], ...]:
        """The operations at each edge: here at the only one."""
        return (self.ops,)

    def block(self, *choices: int) -> Block:
        (choice,) = choices
        return Block(op=self.ops[choice], skip=self.skip)

    def choices_of(self, block: Block) -> tuple[int, ...] | None:
        """Those that make ``block``; None where none do."""
        return (self.ops.index(block.op),) if block.op in self.ops and block.skip == self.skip else None

    def calls(self, name: str, in_hwc: Hwc) -> tuple[tuple[LayerCall, ...], tuple[tuple[LayerCall, ...], ...]]:
        """(layers that are there whatever is chosen, one layer per choice of each edge)."""
        return (), (tuple(LayerCall(name, op, in_hwc, op.out_hwc(in_hwc), self.skip) for op in self.ops),)

    def inherited(self, choices: Sequence[int], name: str) -> Iterator[tuple[str, str]]:
        """(what the names of an edge's tensors start with in the derived network, in the supernet)."""
        (choice,) = choices
        yield f"{name}.mobile_inverted_conv.", f"{name}.choices.{choice}."

    def to_json(self) -> dict[str, Any]:
        return {"choices": [operation_to_dict(op) for op in self.ops], "skip": self.skip}


@dataclass(frozen=True, kw_only=True)
class OpenTree:
    """A block with a tree-structured cell some of whose edges are searched, each among the same operations.

    ``template``: with any of them at those edges. ``places``: the names of these, as in TreeBlock.edges.
    """

    template: TreeBlock
    ops: tuple[TreeEdge, ...]
    places: tuple[str, ...]

    def __post_init__(self) -> None:
        check(isinstance(self.template, TreeBlock), "tree", "a TreeBlock", self.template)
        check(isinstance(self.ops, tuple) and bool(self.ops), "choices", "one or more operations", self.ops)
        edges = {name: edge for name, edge, _ in self.template.edges((1, 1, self.template.in_channels))}
        check(isinstance(self.places, tuple) and bool(self.places), "open", "one or more edges", self.places)
        for index, place in enumerate(self.places):
            is_edge = isinstance(place, str) and place in edges and self.places.count(place) == 1
            check(is_edge, f"open[{index}]", "the name of an edge", place)
            for number, op in enumerate(self.ops):
                ends = _ends(edges[place])
                expected = f"(in_channels, out_channels, stride) {ends} of {place}"
                check(_ends(op) == ends, f"choices[{number}]", expected, _ends(op))
        in_order = tuple(name for name in edges if name in self.places)
        check(self.places == in_order, "open", "names in the order of the edges", self.places)

    @property
    def choices(self) -> tuple[tuple[Operation, ...], ...]:
        return (self.ops,) * len(self.places)

    def block(self, *choices: int) -> Block:
        chosen = {place: self.ops[choice] for place, choice in zip(self.places, choices, strict=True)}
        return Block(op=self.template.with_edges(chosen), skip=False)

    def choices_of(self, block: Block) -> tuple[int, ...] | None:
        if not isinstance(block.op, TreeBlock):
            return None
        found = {name: edge for name, edge, _ in block.op.edges((1, 1, block.op.in_channels))}
        taken = [found.get(place) for place in self.places]
        if not all(edge in self.ops for edge in taken):
            return None
        choices = tuple(self.ops.index(edge) for edge in taken if edge is not None)
        return choices if self.block(*choices) == block else None

    def calls(self, name: str, in_hwc: Hwc) -> tuple[tuple[LayerCall, ...], tuple[tuple[LayerCall, ...], ...]]:
        call = LayerCall(name, self.template, in_hwc, self.template.out_hwc(in_hwc))
        parts = {part.name.removeprefix(f"{name}."): part for part in call.parts}
        fixed = tuple(part for place, part in parts.items() if place not in self.places)
        return fixed, tuple(
            tuple(replace(parts[place], op=op, out_hwc=op.out_hwc(parts[place].in_hwc)) for op in self.ops)
            for place in self.places
        )

    def inherited(self, choices: Sequence[int], name: str) -> Iterator[tuple[str, str]]:
        for place, choice in zip(self.places, choices, strict=True):
            edge = f"{name}.mobile_inverted_conv.{place}."
            yield edge, f"{edge}choices.{choice}."

    def to_json(self) -> dict[str, Any]:
        ops = [operation_to_dict(op) for op in self.ops]
        return {"tree": self.template.to_json(), "choices": ops, "open": list(self.places)}


@dataclass(frozen=True, kw_only=True)
class Width:
    """How many channels the blocks ``first`` to ``last`` put out: one of ``options``, ascending.

    The blocks of the space have the last one, the largest.
    """

    options: tuple[int, ...]
    first: int
    last: int

    def __post_init__(self) -> None:
        good = isinstance(self.options, tuple) and bool(self.options) and all(map(is_int, self.options))
        good = good and self.options[0] > 0 and list(self.options) == sorted(set(self.options))
        check(good, "options", "positive integers, ascending", self.options)
        check(is_int(self.first) and self.first >= 0, "first", "the index of a block", self.first)
        check(is_int(self.last) and self.last >= self.first, "last", f"an index from {self.first} on", self.last)

    def to_json(self) -> dict[str, Any]:
        return {"options": list(self.options), "first": self.first, "last": self.last}


def resized(op: Operation, into: int, out: int) -> Operation:
    """``op`` with other numbers of channels in and out; what is inside goes by its expansion."""
    if (op.in_channels, op.out_channels) == (into, out):
        return op
    return replace(op, channels=out) if op.vanishes else replace(op, in_channels=into, out_channels=out)  # type: ignore[call-arg]


class PricedTogether(NamedTuple):
    """Layers whose cost depends on several choices: those of the path's ``entries``, and the layer that each
    combination of them makes, choices of the last entry fastest."""

    entries: tuple[int, ...]
    calls: tuple[LayerCall, ...]


def _label(op: Operation) -> str:
    return op.label


def _label_with_width(op: Operation) -> str:
    return op.label if op.shrinkable is None else f"{op.drawing.label} {op.shrinkable.hidden_channels}"


def _labels(choices: Width | Sequence[Operation]) -> tuple[str, ...]:
    if isinstance(choices, Width):
        return tuple(f"{width} channels" for width in choices.options)
    is_wide = len({op.label for op in choices}) < len(choices)
    return tuple(map(_label_with_width if is_wide else _label, choices))


def _ends(op: Operation) -> tuple[int, int, int]:
    return op.in_channels, op.out_channels, op.stride


@dataclass(frozen=True, kw_only=True)
class SearchSpace:
    """Networks that differ in the operations of their open blocks.

    Args:
        name: of the macro-architecture; with ``width_mult`` what a latency table says it was made for.
        blocks: from the stem on; a Block is in every network, an Edge or an OpenTree is searched.
        weights: in a supernet, whether each choice has its own, or all of a block share those of the largest one:
            channels from the first on, the middle of kernels (tensors.nested_place).
        widths: of stages, where they are chosen too; weights are then shared.
    """

    name: str
    stem: Conv
    blocks: tuple[Block | Edge | OpenTree, ...]
    feature_mix: Conv | NormAct
    num_classes: int = 1000
    width_mult: float = 1.0
    dropout_rate: float = 0.0
    bn: BatchNorm = field(default_factory=BatchNorm)
    padding: Padding = "symmetric"
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    class_names: tuple[str, ...] = ()
    weights: Literal["own", "shared"] = "own"
    widths: tuple[Width, ...] = ()

    def __post_init__(self) -> None:
        check(isinstance(self.name, str) and bool(self.name), "name", "a non-empty string", self.name)
        check_line("name", self.name)
        check_one_of("weights", self.weights, ("own", "shared"))
        check_number("width_mult", self.width_mult, 0.05, 10)
        check(isinstance(self.blocks, tuple), "blocks", "a tuple of Blocks, Edges and OpenTrees", self.blocks)
        for index, block in enumerate(self.blocks):
            check(isinstance(block, Block | Edge | OpenTree), f"blocks[{index}]", "a Block, Edge or OpenTree", block)
        check(bool(self.choices), "blocks", "one or more edges", "none")
        check(isinstance(self.feature_mix, Conv | NormAct), "feature_mix", "a Conv or NormAct", self.feature_mix)
        self._check_widths()
        with judged_at("", {"out_features": "num_classes"}):
            self.spec_for(self.same_choice(0))
        if self.shares_weights:
            self._check_nested()

    @property
    def shares_weights(self) -> bool:
        return self.weights == "shared"

    def _check_widths(self) -> None:
        """Raises InputError for widths that overlap, or are not those of the blocks that have them."""
        check(not self.widths or self.shares_weights, "weights", "shared, where widths are chosen", self.weights)
        start = 0
        for index, width in enumerate(self.widths):
            within = start <= width.first and width.last < len(self.blocks)
            check(within, f"widths[{index}]", f"blocks from {start} to {len(self.blocks) - 1}", width)
            for place in range(width.first, width.last + 1):
                block = self.blocks[place]
                fits = isinstance(block, Edge) and block.out_channels == width.options[-1]
                check(fits, f"blocks[{place}]", f"an edge of {width.options[-1]} channels", block)
            start = width.last + 1

    def _check_nested(self) -> None:
        """Raises InputError for an operation that does not lie within the largest one of its block."""
        for index, block in self.open_blocks:
            check(isinstance(block, Edge), f"blocks[{index}]", "a block of one operation, to share its weights", block)
        edges = [part[0] for part in self.by_block(self.largest_path) if part]
        for (place, _), ops, largest in zip(self.open_blocks, self.choices, edges, strict=True):
            whole = dict(ops[largest].tensors(""))
            for index, op in enumerate(ops):
                within = all(
                    name in whole and all(own <= size for own, size in zip(shape, whole[name], strict=True))
                    for name, shape in op.tensors("")
                )
                check(within, f"blocks[{place}].choices[{index}]", f"weights within those of {ops[largest].label}", op)

    @cached_property
    def classifier(self) -> Linear:
        return Linear(
            in_features=self.feature_mix.out_channels, out_features=self.num_classes, dropout_rate=self.dropout_rate
        )

    # ------------------------------------------------------------------------------------------------ its choices

    @cached_property
    def entries(self) -> tuple[tuple[int, Width | tuple[Operation, ...]], ...]:
        """What a path chooses from, in its order: (the block it is of, a width or the operations of an edge)."""
        first = {width.first: width for width in self.widths}
        found: list[tuple[int, Width | tuple[Operation, ...]]] = []
        for index, block in self.open_blocks:
            found += [(index, first[index])] if index in first else []
            found += [(index, ops) for ops in block.choices]
        return tuple(found)

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """How many choices each entry of a path has."""
        return tuple(len(each.options if isinstance(each, Width) else each) for _, each in self.entries)

    @cached_property
    def places(self) -> tuple[int, ...]:
        """Which block of a network each entry of a path is of, or is in."""
        return tuple(index for index, _ in self.entries)

    @cached_property
    def width_entries(self) -> tuple[int, ...]:
        """Which entries of a path are widths."""
        return tuple(entry for entry, (_, each) in enumerate(self.entries) if isinstance(each, Width))

    @cached_property
    def open_blocks(self) -> tuple[tuple[int, Edge | OpenTree], ...]:
        """(index, block) of each that is searched."""
        return tuple((index, block) for index, block in enumerate(self.blocks) if not isinstance(block, Block))

    @cached_property
    def edges(self) -> tuple[Edge, ...]:
        """The blocks that are one searched operation."""
        return tuple(block for block in self.blocks if isinstance(block, Edge))

    @property
    def n_edges(self) -> int:
        """How many choices a path holds."""
        return len(self.sizes)

    @cached_property
    def choices(self) -> tuple[tuple[Operation, ...], ...]:
        """The candidate operations of each edge."""
        return tuple(ops for _, block in self.open_blocks for ops in block.choices)

    def by_block(self, path: Sequence[Any]) -> list[Sequence[Any]]:
        """``path``, or anything with one element per choice, as one slice per block: of its edges, without widths; an
        empty one of a block not open.

        Raises ValueError for another length.
        """
        if len(path) != self.n_edges:
            raise ValueError(f"expected one element for each of {self.n_edges} edges, got {len(path)}")
        if self.widths:
            path = [each for entry, each in enumerate(path) if entry not in self.width_entries]
        found, start = [], 0
        for block in self.blocks:
            count = 0 if isinstance(block, Block) else len(block.choices)
            found.append(path[start : start + count])
            start += count
        return found

    def vanishing(self, path: Path) -> tuple[int, ...]:
        """The entries whose blocks ``path`` leaves out."""
        return tuple(
            entry
            for entry, (choice, (_, each)) in enumerate(zip(path, self.entries, strict=True))
            if not isinstance(each, Width) and each[choice].vanishes
        )

    @property
    def size(self) -> int:
        """How many networks there are."""
        return math.prod(self.sizes)

    def check(self, path: Path) -> Path:
        """``path`` itself; InputError when it does not fit the space."""
        if len(path) != self.n_edges:
            raise InputError(f"expected {self.n_edges} choices, got {len(path)}", "path")
        for index, (choice, size) in enumerate(zip(path, self.sizes, strict=True)):
            if not isinstance(choice, Integral) or not 0 <= choice < size:
                raise InputError(f"expected 0..{size - 1}, got {choice!r}", f"path[{index}]")
        return tuple(path)

    def same_choice(self, choice: int) -> Path:
        """The path that takes ``choice`` everywhere, the last one where there are fewer."""
        return tuple(min(choice, size - 1) for size in self.sizes)

    @cached_property
    def largest_path(self) -> Path:
        """The choice with the most parameters of each edge, the first of equal ones, and the largest widths."""
        return tuple(
            size - 1 if isinstance(each, Width) else max(range(size), key=lambda choice: each[choice].params)
            for size, (_, each) in zip(self.sizes, self.entries, strict=True)
        )

    @cached_property
    def smallest_path(self) -> Path:
        """The choice with the least multiply-accumulates of each edge, the first of equal ones, and the smallest
        widths."""
        sizes = {call.name: call.in_hwc for call in walk(self.spec_for(self.same_choice(10**9)))}
        return tuple(
            0
            if isinstance(each, Width)
            else min(range(len(each)), key=lambda choice: each[choice].macs(sizes[f"blocks.{place}"]))
            for place, each in self.entries
        )

    @cached_property
    def choice_labels(self) -> tuple[tuple[str, ...], ...]:
        """Of the choices of each entry of a path; with the hidden width where that is chosen."""
        return tuple(map(_labels, (each for _, each in self.entries)))

    @cached_property
    def titles(self) -> tuple[str, ...]:
        """What each entry of a path is, for a person."""
        found = []
        for entry, (place, each) in enumerate(self.entries):
            if isinstance(each, Width):
                found.append(f"Width of blocks {each.first} to {each.last}")
                continue
            is_chosen = place in self._widths_of_blocks
            width = "" if is_chosen else f", {each[0].out_channels} channels"
            if self.places.count(place) > 1 and not is_chosen:  # the edges of a cell, all of one width
                width = f", edge {entry - self.places.index(place) + 1}"
            found.append(f"Block {place}{width}")
        return tuple(found)

    # ----------------------------------------------------------------------------------------------- its networks

    @property
    def reduction(self) -> int:
        """The product of all strides: pixels of the image for a pixel of the last feature map, along a side."""
        return stages(self.spec_for((0,) * self.n_edges))[-1].reduction

    def check_side(self, side: int, place: str) -> None:
        """Raises InputError, of ``place``, for images that the strides leave less than a pixel of."""
        if side < self.reduction:
            raise InputError(
                f"expected {self.reduction} or more pixels (the strides of {self.name}), got {side}", place
            )

    def spec_for(self, path: Path, name: str = "derived") -> ArchSpec:
        """The network that ``path`` chooses. Vanished blocks stay in the spec as Zero, so that indices do not move."""
        parts = zip(self.blocks, self.by_block(self.check(path)), strict=True)
        blocks = [block if isinstance(block, Block) else block.block(*part) for block, part in parts]
        mix = self.feature_mix
        if self.widths:
            blocks, mix = self._with_widths(blocks, path)
        return ArchSpec(
            name=name,
            stem=self.stem,
            blocks=tuple(blocks),
            feature_mix=mix,
            classifier=self.classifier,
            bn=self.bn,
            preprocessing=self.preprocessing,
            padding=self.padding,
            class_names=self.class_names,
        )

    def _with_widths(self, blocks: Sequence[Block], path: Path) -> tuple[list[Block], Conv | NormAct]:
        """(blocks, feature mix) with the widths that ``path`` chooses."""
        chosen = {entry: self.entries[entry][1].options[path[entry]] for entry in self.width_entries}  # type: ignore[union-attr]
        found, into = [], self.stem.out_channels
        for index, block in enumerate(blocks):
            own = self._widths_of_blocks.get(index)
            width = block.op.out_channels if own is None else chosen[own[0]]
            found.append(replace(block, op=resized(block.op, into, width)))
            into = width
        return found, resized(self.feature_mix, into, self.feature_mix.out_channels)  # type: ignore[return-value]

    @cached_property
    def _widths_of_blocks(self) -> dict[int, tuple[int, Width]]:
        """(entry of a path, width) of each block whose width is chosen."""
        return {
            block: (entry, each)
            for entry, (_, each) in enumerate(self.entries)
            if isinstance(each, Width)
            for block in range(each.first, each.last + 1)
        }

    def path_of(self, spec: ArchSpec) -> Path:
        """The path that yields ``spec``'s blocks; InputError naming the first block that is not in this space."""
        if self.widths:
            return self._path_with_widths(spec)
        for place in ("stem", "feature_mix"):
            if getattr(spec, place) != getattr(self, place):
                raise InputError("differs from the search space's", place)
        if len(spec.blocks) != len(self.blocks):
            raise InputError(f"expected {len(self.blocks)} blocks, got {len(spec.blocks)}", "blocks")
        path: list[int] = []
        for index, (found, block) in enumerate(zip(spec.blocks, self.blocks, strict=True)):
            if isinstance(block, Block):
                if found != block:
                    raise InputError("differs from the search space's block", f"blocks[{index}]")
            elif (choices := block.choices_of(found)) is None:
                problem = "this operation (or its skip) is not a choice of the search space"
                raise InputError(problem, f"blocks[{index}]")
            else:
                path += choices
        return tuple(path)

    def _path_with_widths(self, spec: ArchSpec) -> Path:
        """As path_of: the widths, and then the path through the space that has them."""
        if len(spec.blocks) != len(self.blocks):
            raise InputError(f"expected {len(self.blocks)} blocks, got {len(spec.blocks)}", "blocks")
        chosen, widths = dict[int, int](), dict[int, int]()
        for entry, (place, width) in enumerate(self.entries):
            if isinstance(width, Width):
                got = spec.blocks[place].op.out_channels
                if got not in width.options:
                    raise InputError(f"expected {listed(width.options)}, got {got}", f"blocks[{place}].out_channels")
                chosen[entry] = width.options.index(got)
                widths |= dict.fromkeys(range(width.first, width.last + 1), got)
        edges = iter(self.at(widths).path_of(spec))
        return tuple(chosen[entry] if entry in chosen else next(edges) for entry in range(self.n_edges))

    def at(self, widths: Mapping[int, int]) -> SearchSpace:
        """With other numbers of channels that blocks put out, by their index; none is chosen any more."""
        blocks: list[Block | Edge | OpenTree] = []
        into = self.stem.out_channels
        for index, block in enumerate(self.blocks):
            assert isinstance(block, Block | Edge)
            usual = block.op.out_channels if isinstance(block, Block) else block.out_channels
            out = widths.get(index, usual)
            if isinstance(block, Block):
                blocks.append(replace(block, op=resized(block.op, into, out)))
            else:
                blocks.append(replace(block, ops=tuple(resized(op, into, out) for op in block.ops)))
            into = out
        mix: Any = resized(self.feature_mix, into, self.feature_mix.out_channels)
        return replace(self, blocks=tuple(blocks), feature_mix=mix, widths=())

    def tensor_map(self, path: Path) -> dict[str, str]:
        """``{tensor of the derived network: tensor of the supernet}``: how weights of choices' own are inherited."""
        starts = [
            pair
            for index, part in enumerate(self.by_block(self.check(path)))
            if not isinstance(block := self.blocks[index], Block)
            for pair in block.inherited(part, f"blocks.{index}")
        ]
        return {name: _renamed(name, starts) for name in expected_tensors(self.spec_for(path))}

    # -------------------------------------------------------------------------------------------------- its layers

    @cached_property
    def walks(self) -> tuple[tuple[LayerCall, ...], ...]:
        """The layers of the networks with the same choice everywhere: between them, every layer of the space."""
        return tuple(walk(self.spec_for(self.same_choice(choice))) for choice in range(max(map(len, self.choices))))

    @cached_property
    def layer_names(self) -> tuple[str, ...]:
        """The name of each edge's layer, in every network."""
        return tuple(calls[0].name for calls in self.edge_calls)

    @cached_property
    def walk_places(self) -> tuple[int, ...]:
        """Where each edge's layer, or the block that it is in, stands in the ``walk`` of any network."""
        names = [call.name for call in self.walks[0]]
        return tuple(names.index(f"blocks.{place}") for place in self.places)

    @cached_property
    def _calls(self) -> tuple[tuple[LayerCall, ...], tuple[tuple[LayerCall, ...], ...]]:
        blocks = {f"blocks.{index}": block for index, block in self.open_blocks}
        fixed: list[LayerCall] = []
        edges: list[tuple[LayerCall, ...]] = []
        for call in walk(self.spec_for(self.largest_path)) if self.widths else self.walks[0]:
            always, choices = blocks[call.name].calls(call.name, call.in_hwc) if call.name in blocks else ((call,), ())
            fixed += always
            edges += choices
        return tuple(fixed), tuple(edges)

    @property
    def fixed_calls(self) -> tuple[LayerCall, ...]:
        """The layers that every network has."""
        if self.widths:
            changed = {each.calls[0].name for each in self.priced_together}
            return tuple(call for call in walk(self.spec_for(self.largest_path)) if call.name not in changed)
        return self._calls[0]

    @cached_property
    def layer_calls(self) -> tuple[LayerCall, ...]:
        """Every layer that any of its networks has, and no other; some more than once."""
        if self.widths:
            return (*self.fixed_calls, *(call for each in self.priced_together for call in each.calls))
        return tuple(call for calls in self.walks for call in calls)

    @property
    def edge_calls(self) -> tuple[tuple[LayerCall, ...], ...]:
        """One layer per choice of each edge; where widths are chosen, at the largest."""
        return self._calls[1]

    @cached_property
    def priced_together(self) -> tuple[PricedTogether, ...]:
        """Where widths are chosen: every layer that a choice changes, with the choices that do."""
        by_block: dict[int, list[int]] = {}
        for entry, (place, each) in enumerate(self.entries):
            if not isinstance(each, Width):
                by_block.setdefault(place, []).append(entry)
        found = []
        for call in walk(self.spec_for(self.largest_path)):
            place = self._place_of(call.name)
            own, before = self._widths_of_blocks.get(place), self._widths_of_blocks.get(place - 1)
            widths = {each[0] for each in (own, before) if each is not None}
            entries = (*sorted(widths), *by_block.get(place, ()))
            if entries:
                options = itertools.product(*(range(self.sizes[entry]) for entry in entries))
                chosen = (dict(zip(entries, each, strict=True)) for each in options)
                found.append(PricedTogether(entries, tuple(self._layer(call, each, own, before) for each in chosen)))
        return tuple(found)

    def _place_of(self, name: str) -> int:
        """The block of a layer; behind the last one, of the feature mix; and where that is none, below 0."""
        if name == FEATURE_MIX:
            return len(self.blocks)
        return int(name.removeprefix("blocks.")) if name.startswith("blocks.") else -2

    def _layer(
        self, call: LayerCall, chosen: dict[int, int], own: tuple[int, Width] | None, before: tuple[int, Width] | None
    ) -> LayerCall:
        """A layer of the largest network under other choices."""
        into, out = (
            usual if width is None else width[1].options[chosen[width[0]]]
            for width, usual in ((before, call.in_hwc[2]), (own, call.out_hwc[2]))
        )
        edges = [ops for entry in chosen if not isinstance(ops := self.entries[entry][1], Width)]
        op = edges[0][chosen[max(chosen)]] if edges else call.op
        op, in_hwc = resized(op, into, out), (*call.in_hwc[:2], into)
        return replace(call, op=op, in_hwc=in_hwc, out_hwc=op.out_hwc(in_hwc))

    # --------------------------------------------------------------------------------------------------- as a file

    def to_json(self) -> dict[str, Any]:
        """As JSON data, from which ``from_json`` makes the same space."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "name": self.name,
            "width_mult": plain_number(self.width_mult),
            "num_classes": self.num_classes,
            "dropout_rate": plain_number(self.dropout_rate),
            "bn": codec.bn_to_dict(self.bn),
            "padding": self.padding,
            "preprocessing": preprocessing_to_dict(self.preprocessing),
            "stem": codec.end_to_dict(self.stem),
            "blocks": [_block_to_dict(block) for block in self.blocks],
            "feature_mix": codec.end_to_dict(self.feature_mix),
            "class_names": list(self.class_names),
            **({"weights": self.weights} if self.shares_weights else {}),
            **({"widths": [width.to_json() for width in self.widths]} if self.widths else {}),
        }

    @classmethod
    def from_json(cls, value: Any, source: str | None = None) -> SearchSpace:
        """The space of JSON data. Raises InputError with the place in it and ``source``."""
        try:
            return _from_node(Node(value))
        except InputError as error:
            raise (error.from_source(source) if source is not None else error) from None


def _renamed(name: str, starts: Sequence[tuple[str, str]]) -> str:
    """``name`` with its beginning exchanged, where it is the first of a pair."""
    return next((new + name.removeprefix(old) for old, new in starts if name.startswith(old)), name)


def _block_to_dict(block: Block | Edge | OpenTree) -> dict[str, Any]:
    return codec.block_to_dict(block) if isinstance(block, Block) else block.to_json()


def _block_from_node(node: Node) -> Block | Edge | OpenTree:
    if not (isinstance(node.value, dict) and "choices" in node.value):
        return codec.block_from_node(node)
    if "tree" in node.value:
        return _open_tree_from_node(node)
    parts = node.fields(("choices", "skip"))
    ops = tuple(map(codec.operation_from_node, parts["choices"].elements()))
    with judged_at(node.path):
        return Edge(ops=ops, skip=parts["skip"].value)


def _open_tree_from_node(node: Node) -> OpenTree:
    parts = node.fields(("tree", "choices", "open"))
    with judged_at(parts["tree"].path):
        block = TreeBlock.from_parts(Node(parts["tree"].value).fields(TreeBlock.keys()[0]))
    ops = tuple(operation_from_node(part, TREE_EDGES) for part in parts["choices"].elements())
    with judged_at(node.path):
        return OpenTree(template=block, ops=ops, places=parts["open"].as_tuple())


def _from_node(node: Node) -> SearchSpace:
    readers: dict[str, Callable[[Node], Any]] = {
        "name": lambda part: part.value,
        "width_mult": lambda part: part.value,
        "num_classes": lambda part: part.value,
        "dropout_rate": lambda part: part.value,
        "bn": codec.batch_norm_from_node,
        "padding": lambda part: part.value,
        "preprocessing": preprocessing_from_node,
        "stem": codec.stem_from_node,
        "blocks": lambda part: tuple(map(_block_from_node, part.elements())),
        "feature_mix": codec.mix_from_node,
        "class_names": lambda part: part.as_tuple(),
    }
    parts = node.fields(("format", "version", *readers), ("weights", "widths"))
    parts["format"].exactly(FORMAT)
    parts["version"].exactly(VERSION)
    later: dict[str, Any] = {"weights": parts["weights"].value} if "weights" in parts else {}
    if "widths" in parts:
        later["widths"] = tuple(map(_width_from_node, parts["widths"].elements(1)))
    return SearchSpace(**{key: read(parts[key]) for key, read in readers.items()}, **later)


def _width_from_node(node: Node) -> Width:
    parts = node.fields(("options", "first", "last"))
    with judged_at(node.path):
        return Width(options=parts["options"].as_tuple(), first=parts["first"].value, last=parts["last"].value)


def write_space(path: str | os.PathLike[str], space: SearchSpace) -> None:
    """Write a space as JSON, atomically: one key per line, one block per line."""
    write_text(path, codec.rows_to_json(space.to_json(), "blocks"))


def read_space(path: str | os.PathLike[str]) -> SearchSpace:
    """The space of a JSON file. Raises InputError."""
    return SearchSpace.from_json(parse_json(read_bytes(path), str(path)), str(path))
