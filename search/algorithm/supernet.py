"""The over-parameterized network: every candidate operation of every block, one path of which runs at a time."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from proxyless_arch.space.mbconv import Path, SearchSpace
from proxyless_nas.layers import ResidualBlock, build_op, init_weights, zero_last_gamma
from search.algorithm.gates import BinarizedPath, Gate


def pure_call(module: nn.Module, x: Tensor) -> Tensor:
    """``module(x)`` with its own batch statistics but without moving its running statistics."""
    buffers = {name: buffer.clone() for name, buffer in module.named_buffers()}
    return torch.func.functional_call(module, buffers, (x,))


def _pure_call_no_grad(module: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return pure_call(module, x)


class ChoiceBlock(nn.Module):
    """The candidate operations of one searched block and the identity skip around them."""

    def __init__(self, space: SearchSpace, index: int) -> None:
        super().__init__()
        ops = space.choices[index]
        self.choices = nn.ModuleList(build_op(op, space.bn, "symmetric") for op in ops)
        self.zeros = frozenset(j for j, op in enumerate(ops) if op.vanishes)
        self.skip = space.skips[index]

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


class Supernet(nn.Module):
    """All networks of ``space`` in one. (N, 3, H, W) -> (N, classes) logits of the chosen path.

    Tensor names: those of the derived network, with ``choices.<j>`` where it has ``mobile_inverted_conv``
    (``SearchSpace.tensor_map``). The fixed first block keeps the derived network's name.
    """

    def __init__(self, space: SearchSpace, generator: torch.Generator | None = None, *, zero_gamma: bool = True):
        super().__init__()
        self.space = space
        self.first_conv = build_op(space.stem, space.bn, "symmetric")
        searched = [ChoiceBlock(space, index) for index in range(space.n_blocks)]
        self.blocks = nn.ModuleList([ResidualBlock(space.first_block, space.bn, "symmetric"), *searched])
        self.feature_mix_layer = build_op(space.feature_mix, space.bn, "symmetric")
        self.classifier = build_op(space.classifier, space.bn, "symmetric")
        init_weights(self, generator)
        if zero_gamma:
            for block in searched:
                if block.skip:
                    for op in block.choices:
                        zero_last_gamma(op)
        self.to(memory_format=torch.channels_last)

    def forward(self, x: Tensor, path: Path, gates: Sequence[Gate] | None = None) -> Tensor:
        """Logits of ``path``. With ``gates`` they carry the architecture gradient, and no running statistic moves."""
        first, *searched = self.blocks
        if gates is None:
            x = first(self.first_conv(x))
            for block, choice in zip(searched, path, strict=True):
                x = block(x, choice)
            x = self.feature_mix_layer(x)
        else:
            x = pure_call(first, pure_call(self.first_conv, x))
            for block, choice, gate in zip(searched, path, gates, strict=True):
                x = block(x, choice, gate)
            x = pure_call(self.feature_mix_layer, x)
        return self.classifier(x.mean((2, 3)))
