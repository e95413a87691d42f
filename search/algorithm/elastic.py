"""The elastic supernet: the largest network of a space, of whose tensors every smaller one takes its own.

A layer of a path is run as it will be by itself, on views of the large tensors: the first channels, the middle of a
kernel (proxyless_arch/arch/tensors.py). So whatever operation says its tensors' shapes can be searched, and a gradient
to a view is one to the weights. Batch normalization has one scale and shift per channel of the large network; its
running statistics are mixed over all widths, and are made anew wherever a network is scored (run/scoring.py), which
ranks better than statistics kept for each number of channels (docs/results.md).

It is trained by the sandwich rule (Yu, Huang, ICCV 2019; BigNAS, Yu et al., ECCV 2020): each step trains the largest
network on labels, and the smallest and some random ones on what the largest says.

An architecture gradient goes through the gates of operations as in any supernet (gates.BinarizedPath), all of them at
the widths of the path. Widths have no gate in the network: their gradient is one of losses (controllers.py).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from proxyless_arch.arch.ops import Operation
from proxyless_arch.arch.spec import Block
from proxyless_arch.arch.tensors import expected_tensors, nested_place
from proxyless_arch.arch.walk import LayerCall, walk
from proxyless_arch.space.search_space import Edge, Path, SearchSpace, resized
from proxyless_arch.weights.files import NamedTensors
from proxyless_nas.layers import ResidualBlock, build_op
from proxyless_nas.network import ProxylessNet, build
from proxyless_nas.weights import load_named
from search.algorithm.gates import BinarizedPath, Gate
from search.algorithm.supernet import PathSupernet, pure_call

TRANSFORM = "to_"
"""What the names of matrices that make smaller kernels begin with, the size behind it."""


class ElasticNet(PathSupernet):
    """All networks of a space whose choices share weights. Tensor names are those of its largest network.

    Args:
        tensors: of the largest network; without them the weights are random, drawn by ``generator``, and with
            ``zero_gamma`` each block with a skip starts as the identity.
        kernel_transform: a smaller kernel is the middle of the next larger one times a matrix that is learned, the
            same for all channels, the identity at first (Cai et al., ICLR 2020, section 3.3).
    """

    def __init__(
        self,
        space: SearchSpace,
        generator: torch.Generator | None = None,
        tensors: NamedTensors | None = None,
        *,
        kernel_transform: bool = False,
        zero_gamma: bool = True,
    ) -> None:
        super().__init__()
        self.space = space
        largest = space.spec_for(space.largest_path)
        net = build(largest, generator, zero_gamma=zero_gamma and tensors is None)
        if tensors is not None:
            load_named(net, largest, tensors)
        self.first_conv, self.blocks = net.first_conv, net.blocks
        self.feature_mix_layer, self.classifier = net.feature_mix_layer, net.classifier
        self._largest = largest
        self._smaller: dict[Block | Operation, nn.Module] = {}  # no layers of this network: they have no weights
        if kernel_transform:
            for name in self._transforms_of(call for calls in space.edge_calls for call in calls):
                conv, _, matrix = name.rpartition(".")
                size = int(matrix.removeprefix(TRANSFORM))
                self.get_submodule(conv).register_parameter(matrix, nn.Parameter(torch.eye(size * size)))

    def _transforms_of(self, calls: Iterable[LayerCall]) -> list[str]:
        """The names of the matrices that make the kernels of these layers, where they are smaller than the largest."""
        whole, found = dict(self.named_parameters()), dict[str, None]()
        for call in calls:
            for name, shape in call.op.tensors(call.tensor_prefix):
                if len(shape) == 4:
                    conv = name.removesuffix(".weight")
                    sizes = range(whole[name].shape[-1] - 2, shape[-1] - 1, -2)
                    found |= dict.fromkeys(f"{conv}.{TRANSFORM}{size}" for size in sizes)
        return list(found)

    def parameters_on(self, paths: Collection[Path]) -> list[nn.Parameter]:
        """Whole tensors, of which they have any part, and the matrices of their kernels."""
        used: set[str] = set()
        for spec in map(self.space.spec_for, paths):
            used.update(expected_tensors(spec), self._transforms_of(walk(spec)))
        return [parameter for name, parameter in self.named_parameters() if name in used]

    @torch.no_grad()
    def inherited(self, path: Path) -> NamedTensors:
        whole, shapes = self.state_dict(), expected_tensors(self.space.spec_for(path))
        return {name: np.array(_nested(whole, name, shape).cpu().numpy()) for name, shape in shapes.items()}

    def network(self, path: Path) -> ProxylessNet:
        """A copy."""
        spec = self.space.spec_for(path)
        net = build(spec)
        load_named(net, spec, self.inherited(path))
        return net.to(next(self.parameters()).device)

    def logits(self, x: Tensor, path: Path, gates: Sequence[Gate] | None = None) -> Tensor:
        spec, moves = self.space.spec_for(path), gates is None
        opened = self.space.by_block(gates) if gates is not None else [()] * len(self.blocks)
        x = self._run(self.first_conv, x, moves)
        for index, (layer, whole, block, gate) in enumerate(
            zip(self.blocks, self._largest.blocks, spec.blocks, opened, strict=True)
        ):
            if gate and len(gate[0].candidates) > 1:
                x = self._run_gated(index, block, gate[0], x)
            elif block == whole:
                x = self._run(layer, x, moves)
            elif not block.op.vanishes:
                x = self._within(layer, block, moves)(x)
        mix = spec.feature_mix
        assert mix is not None
        is_whole = mix == self._largest.feature_mix
        x = (
            self._run(self.feature_mix_layer, x, moves)
            if is_whole
            else self._within(self.feature_mix_layer, mix, moves)(x)
        )
        return self.classifier(x.mean((2, 3)))

    def _run_gated(self, index: int, block: Block, gate: Gate, x: Tensor) -> Tensor:
        """``block``, what is chosen at ``index``, with the gates of its candidates, all of its widths."""
        edge, layer = self.space.blocks[index], self.blocks[index]
        assert isinstance(edge, Edge)
        ends = block.op.in_channels, block.op.out_channels
        ops = [resized(edge.ops[choice], *ends) for choice in gate.candidates]
        runs = [self._within(layer.mobile_inverted_conv, op, False) for op in ops]  # type: ignore[arg-type]
        active, others = ops.index(block.op), [partial(_without_gradient, run) for run in runs]
        out = BinarizedPath.apply(runs[active](x), gate.values, x.detach(), active, others, gate.keep_outputs)
        return x + out if block.skip else out

    @staticmethod
    def _run(layer: nn.Module, x: Tensor, moves_statistics: bool) -> Tensor:
        return layer(x) if moves_statistics else pure_call(layer, x)

    def _within(self, layer: nn.Module, part: Block | Operation, moves_statistics: bool) -> Callable[[Tensor], Tensor]:
        """``part`` on the tensors of ``layer``, the largest one in its place."""
        small = self._layer_of(part).train(self.training)
        whole = {**dict(layer.named_parameters()), **dict(layer.named_buffers())}
        own = {**dict(small.named_parameters()), **dict(small.named_buffers())}
        views = {name: _nested(whole, name, tensor.shape) for name, tensor in own.items()}
        if not moves_statistics:
            views |= {name: views[name].clone() for name, _ in small.named_buffers()}
        return lambda x: torch.func.functional_call(small, views, (x,))

    def _layer_of(self, part: Block | Operation) -> nn.Module:
        """A layer without weights, made once."""
        if part not in self._smaller:
            bn, padding = self.space.bn, self.space.padding
            with torch.device("meta"):
                build_part = ResidualBlock if isinstance(part, Block) else build_op
                self._smaller[part] = build_part(part, bn, padding)  # type: ignore[operator, arg-type]
        return self._smaller[part]


def _nested(whole: Mapping[str, Tensor], name: str, shape: Sequence[int]) -> Tensor:
    """A smaller layer's tensor as a part of the larger one's of that name among ``whole``: a view, unless matrices make
    it."""
    large = whole[name]
    large = large[nested_place(large.shape[:2], shape[:2])]
    conv = name.removesuffix("weight")
    while len(shape) == 4 and (size := large.shape[-1] - 2) >= shape[-1] and f"{conv}{TRANSFORM}{size}" in whole:
        inner = large[nested_place(large.shape, (*shape[:2], size, size))]
        large = (inner.flatten(2) @ whole[f"{conv}{TRANSFORM}{size}"]).reshape(inner.shape)
    return large[nested_place(large.shape, shape)]


def _without_gradient(run: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    with torch.no_grad():
        return run(x)
