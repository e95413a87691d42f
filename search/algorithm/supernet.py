"""The over-parameterized network: every candidate operation of every block, one path of which runs at a time."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from proxyless_arch.arch.spec import BatchNorm, Padding
from proxyless_arch.space.search_space import Edge, Path, SearchSpace
from proxyless_nas.layers import ResidualBlock, build_op, init_weights, zero_last_gamma
from search.algorithm.gates import BinarizedPath, Gate


def _call(module: nn.Module, x: Tensor) -> Tensor:
    return module(x)


def pure_call(module: nn.Module, x: Tensor) -> Tensor:
    """``module(x)`` with its own batch statistics but without moving its running statistics."""
    buffers = {name: buffer.clone() for name, buffer in module.named_buffers()}
    return torch.func.functional_call(module, buffers, (x,))


def _pure_call_no_grad(module: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return pure_call(module, x)


class ChoiceBlock(nn.Module):
    """The candidate operations of one searched block and the identity skip around them."""

    def __init__(self, edge: Edge, bn: BatchNorm, padding: Padding) -> None:
        super().__init__()
        self.choices = nn.ModuleList(build_op(op, bn, padding) for op in edge.ops)
        self.zeros = frozenset(j for j, op in enumerate(edge.ops) if op.vanishes)
        self.skip = edge.skip

    def forward(self, x: Tensor, choice: int, gate: Gate | None = None) -> Tensor:
        if gate is None:
            if choice in self.zeros:
                return x
            out = self.choices[choice](x)
        else:
            others = [partial(_pure_call_no_grad, self.choices[j]) for j in gate.candidates]
            out = BinarizedPath.apply(
                pure_call(self.choices[choice], x),
                gate.values,
                x.detach(),
                gate.candidates.index(choice),
                others,
                gate.keep_outputs,
            )
        return x + out if self.skip else out


class PathNet(nn.Module):
    """One path of a supernet as a network by itself, of the supernet's own layers: nothing is copied."""

    def __init__(self, supernet: Supernet, path: Path) -> None:
        super().__init__()
        chosen = dict(zip(supernet.space.places, path, strict=True))
        blocks = [
            block.choices[chosen[place]] if isinstance(block, ChoiceBlock) else block
            for place, block in enumerate(supernet.blocks)
        ]
        self.layers = nn.ModuleList([supernet.first_conv, *blocks, supernet.feature_mix_layer, supernet.classifier])
        self.run = partial(supernet.forward, path=path)  # no layer of this network

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, classes) logits."""
        return self.run(x)


class Supernet(nn.Module):
    """All networks of ``space`` in one. (N, 3, H, W) -> (N, classes) logits of the chosen path.

    Tensor names: those of the derived network, with ``choices.<j>`` where it has ``mobile_inverted_conv``
    (``SearchSpace.tensor_map``). Fixed blocks keep the derived network's names.
    """

    def __init__(self, space: SearchSpace, generator: torch.Generator | None = None, *, zero_gamma: bool = True):
        super().__init__()
        self.space = space
        bn, padding = space.bn, space.padding
        self.first_conv = build_op(space.stem, bn, padding)
        self.blocks = nn.ModuleList(
            ChoiceBlock(block, bn, padding) if isinstance(block, Edge) else ResidualBlock(block, bn, padding)
            for block in space.blocks
        )
        self.feature_mix_layer = build_op(space.feature_mix, bn, padding)
        self.classifier = build_op(space.classifier, bn, padding)
        init_weights(self, generator)
        if zero_gamma:
            for block in self.blocks:
                if isinstance(block, ChoiceBlock) and block.skip:
                    for op in block.choices:
                        zero_last_gamma(op)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # unknown to torch's signatures

    def parameters_on(self, paths: Collection[Path]) -> list[nn.Parameter]:
        """The parameters that any of ``paths`` runs through, in the order of ``parameters()``."""
        chosen = {(place, choice) for path in paths for place, choice in zip(self.space.places, path, strict=True)}
        resting = {
            id(parameter)
            for place in self.space.places
            for choice, op in enumerate(self.blocks[place].choices)  # type: ignore[union-attr, arg-type]
            if (place, choice) not in chosen
            for parameter in op.parameters()
        }
        return [parameter for parameter in self.parameters() if id(parameter) not in resting]

    def forward(self, x: Tensor, path: Path, gates: Sequence[Gate] | None = None) -> Tensor:
        """Logits of ``path``. With ``gates`` they carry the architecture gradient, and no running statistic moves."""
        fixed = _call if gates is None else pure_call
        choices = zip(path, [None] * len(path) if gates is None else gates, strict=True)
        chosen = dict(zip(self.space.places, choices, strict=True))
        x = fixed(self.first_conv, x)
        for place, block in enumerate(self.blocks):
            x = block(x, *chosen[place]) if place in chosen else fixed(block, x)
        return self.classifier(fixed(self.feature_mix_layer, x).mean((2, 3)))
