"""The over-parameterized network: every candidate operation of every block, one path of which runs at a time."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import cached_property, partial

import torch
from torch import Tensor, nn

from proxyless_arch.arch.ops import Operation
from proxyless_arch.arch.spec import BatchNorm, Block, Padding
from proxyless_arch.space.search_space import Edge, OpenTree, Path, SearchSpace
from proxyless_arch.weights.files import NamedTensors
from proxyless_nas.layers import ResidualBlock, build_op, init_weights, zero_last_gamma
from proxyless_nas.steps import computing_in
from proxyless_nas.weights import to_named
from search.algorithm.gates import BinarizedPath, Gate


def _call(module: nn.Module, x: Tensor) -> Tensor:
    return module(x)


def norms_of(module: nn.Module) -> list[nn.BatchNorm2d]:
    """Its layers that keep running statistics."""
    return [layer for layer in module.modules() if isinstance(layer, nn.BatchNorm2d) and layer.track_running_stats]


def pure_call(module: nn.Module, x: Tensor, norms: Sequence[nn.BatchNorm2d] | None = None) -> Tensor:
    """``module(x)`` with its own batch statistics but without moving its running statistics.

    ``norms``: norms_of the module, where they are known already.
    """
    norms = norms_of(module) if norms is None else norms
    for layer in norms:
        layer.track_running_stats = False
    try:
        return module(x)
    finally:
        for layer in norms:
            layer.track_running_stats = True


def _pure_call_no_grad(module: nn.Module, norms: Sequence[nn.BatchNorm2d], x: Tensor) -> Tensor:
    with torch.no_grad():
        return pure_call(module, x, norms)


class Choices(nn.Module):
    """The candidate operations of one edge."""

    def __init__(self, ops: Sequence[Operation], bn: BatchNorm, padding: Padding) -> None:
        super().__init__()
        self.choices = nn.ModuleList(build_op(op, bn, padding) for op in ops)
        self._norms = [norms_of(choice) for choice in self.choices]

    def chosen(self, x: Tensor, choice: int, gate: Gate | None) -> Tensor:
        """What the ``choice`` makes of ``x``; with a gate, which then has a gradient, no running statistic moves."""
        if gate is None:
            return self.choices[choice](x)
        others = [partial(_pure_call_no_grad, self.choices[j], self._norms[j]) for j in gate.candidates]
        return BinarizedPath.apply(
            pure_call(self.choices[choice], x, self._norms[choice]),
            gate.values,
            x.detach(),
            gate.candidates.index(choice),
            others,
            gate.keep_outputs,
            [getattr(self.choices[j], "product", None) for j in gate.candidates],
        )


class ChoiceBlock(Choices):
    """The candidate operations of one searched block and the identity skip around them."""

    def __init__(self, edge: Edge, bn: BatchNorm, padding: Padding) -> None:
        super().__init__(edge.ops, bn, padding)
        self.zeros = frozenset(j for j, op in enumerate(edge.ops) if op.vanishes)
        self.skip = edge.skip

    @property
    def searched(self) -> list[Choices]:
        """Its edges, in the order of a path."""
        return [self]

    @property
    def unsearched(self) -> list[nn.Module]:
        """Its layers that are there whatever is chosen."""
        return []

    def forward(self, x: Tensor, choices: Sequence[int], gates: Sequence[Gate] | None = None) -> Tensor:
        (choice,) = choices
        if gates is None and choice in self.zeros:
            return x
        out = self.chosen(x, choice, None if gates is None else gates[0])
        return x + out if self.skip else out


class ChoiceTree(nn.Module):
    """A block with a tree-structured cell, candidate operations at its searched edges."""

    def __init__(self, block: OpenTree, bn: BatchNorm, padding: Padding) -> None:
        super().__init__()
        self.mobile_inverted_conv = build_op(block.template, bn, padding)
        for place in block.places:
            where, _, index = place.rpartition(".")
            edges = self.mobile_inverted_conv.get_submodule(where)
            edges[int(index)] = Choices(block.ops, bn, padding)  # type: ignore[index, operator]
        self.places = block.places

    @property
    def searched(self) -> list[Choices]:
        """Its edges, in the order of a path."""
        return [self.mobile_inverted_conv.get_submodule(place) for place in self.places]  # type: ignore[misc]

    @property
    def unsearched(self) -> list[nn.Module]:
        """Its layers that are there whatever is chosen."""
        searched = {id(layer) for edge in self.searched for layer in edge.modules()}
        return [layer for layer in self.modules() if id(layer) not in searched and not list(layer.children())]

    def forward(self, x: Tensor, choices: Sequence[int], gates: Sequence[Gate] | None = None) -> Tensor:
        fixed = _call if gates is None else pure_call
        taken = zip(choices, [None] * len(choices) if gates is None else gates, strict=True)

        def run(module: nn.Module, x: Tensor) -> Tensor:
            return module.chosen(x, *next(taken)) if isinstance(module, Choices) else fixed(module, x)

        return self.mobile_inverted_conv(x, run)


LAYERS: Mapping[type, Callable[..., nn.Module]] = {Block: ResidualBlock, Edge: ChoiceBlock, OpenTree: ChoiceTree}
"""Of a block of a space, by its class."""


class PathSupernet(nn.Module, ABC):
    """All networks of ``space`` in one, one path of which runs at a time: what a search trains and asks.

    ``precision``: in which its layers compute, fp32 or bf16.
    """

    space: SearchSpace
    precision: str = "fp32"

    @contextlib.contextmanager
    def in_precision(self, precision: str) -> Iterator[None]:
        """Within it its layers compute in ``precision``."""
        before, self.precision = self.precision, precision
        try:
            yield
        finally:
            self.precision = before

    @cached_property
    def weights(self) -> list[nn.Parameter]:
        """All of ``parameters()``, without a walk through the layers each time."""
        return list(self.parameters())

    def forward(self, x: Tensor, path: Path, gates: Sequence[Gate] | None = None) -> Tensor:
        """(N, 3, H, W) -> (N, classes) float32 logits of ``path``. With ``gates`` no running statistic moves."""
        with computing_in(self.precision, x.device):
            found = self.logits(x, path, gates)
        return found.to(torch.promote_types(found.dtype, torch.float32))

    @abstractmethod
    def logits(self, x: Tensor, path: Path, gates: Sequence[Gate] | None = None) -> Tensor:
        """What ``forward`` gives, in the precision of the layers."""

    @abstractmethod
    def parameters_on(self, paths: Collection[Path]) -> list[nn.Parameter]:
        """The parameters that any of ``paths`` runs through, in the order of ``parameters()``."""

    @abstractmethod
    def inherited(self, path: Path) -> NamedTensors:
        """The tensors of ``path``'s network."""

    @abstractmethod
    def network(self, path: Path) -> nn.Module:
        """``path`` as a network by itself, whose BN statistics may be made anew."""


class PathNet(nn.Module):
    """One path of a supernet as a network by itself, of the supernet's own layers: nothing is copied."""

    def __init__(self, supernet: Supernet, path: Path) -> None:
        super().__init__()
        blocks: list[nn.Module] = []
        for block, part in zip(supernet.blocks, supernet.space.by_block(path), strict=True):
            if isinstance(block, ChoiceBlock | ChoiceTree):
                taken = zip(block.searched, part, strict=True)
                blocks += [*block.unsearched, *(edge.choices[choice] for edge, choice in taken)]
            else:
                blocks.append(block)
        self.layers = nn.ModuleList([supernet.first_conv, *blocks, supernet.feature_mix_layer, supernet.classifier])
        self.run = partial(supernet.forward, path=path)  # no layer of this network

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, classes) logits."""
        return self.run(x)


class Supernet(PathSupernet):
    """Every choice has weights of its own. (N, 3, H, W) -> (N, classes) logits of the chosen path.

    Tensor names: those of the derived network, with ``choices.<j>`` where it has ``mobile_inverted_conv`` or, in a
    tree, behind the name of an edge (``SearchSpace.tensor_map``). Fixed blocks keep the derived network's names.
    """

    def __init__(self, space: SearchSpace, generator: torch.Generator | None = None, *, zero_gamma: bool = True):
        super().__init__()
        self.space = space
        bn, padding = space.bn, space.padding
        self.first_conv = build_op(space.stem, bn, padding)
        self.blocks = nn.ModuleList(LAYERS[type(block)](block, bn, padding) for block in space.blocks)
        self.feature_mix_layer = build_op(space.feature_mix, bn, padding)
        self.classifier = build_op(space.classifier, bn, padding)
        init_weights(self, generator)
        if zero_gamma:
            for block in self.blocks:
                if isinstance(block, ChoiceBlock) and block.skip:
                    for op in block.choices:
                        zero_last_gamma(op)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # unknown to torch's signatures

    @property
    def searched(self) -> list[Choices]:
        """Every searched edge, in the order of a path."""
        return [edge for block in self.blocks if isinstance(block, ChoiceBlock | ChoiceTree) for edge in block.searched]

    def parameters_on(self, paths: Collection[Path]) -> list[nn.Parameter]:
        chosen = {pair for path in paths for pair in enumerate(path)}
        resting = {
            id(parameter)
            for number, edge in enumerate(self.searched)
            for choice, op in enumerate(edge.choices)
            if (number, choice) not in chosen
            for parameter in op.parameters()
        }
        return [parameter for parameter in self.parameters() if id(parameter) not in resting]

    def inherited(self, path: Path) -> NamedTensors:
        own = to_named(self)
        return {name: own[source] for name, source in self.space.tensor_map(path).items()}

    def network(self, path: Path) -> PathNet:
        """Of the supernet's own layers."""
        return PathNet(self, path)

    def logits(self, x: Tensor, path: Path, gates: Sequence[Gate] | None = None) -> Tensor:
        """Logits of ``path``. With ``gates`` they carry the architecture gradient, and no running statistic moves."""
        fixed = _call if gates is None else pure_call
        choices = self.space.by_block(path)
        opened = [None] * len(choices) if gates is None else self.space.by_block(gates)
        x = fixed(self.first_conv, x)
        for block, part, gate in zip(self.blocks, choices, opened, strict=True):
            x = block(x, part, gate) if part else fixed(block, x)
        return self.classifier(fixed(self.feature_mix_layer, x).mean((2, 3)))
