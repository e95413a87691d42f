"""The elastic supernet: the largest network of a space, of whose tensors every smaller one takes its own.

A layer of a path is run as it will be by itself, on views of the large tensors: the first channels, the middle of a
kernel (proxyless_arch/arch/tensors.py). So whatever operation says its tensors' shapes can be searched, and a gradient
to a view is one to the weights. Batch normalization has one scale and shift per channel of the large network; its
running statistics are mixed over all widths, and are made anew wherever a network is scored (run/scoring.py).

It is trained by the sandwich rule (Yu, Huang, ICCV 2019; BigNAS, Yu et al., ECCV 2020): each step trains the largest
network on labels, and the smallest and some random ones on what the largest says.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from torch import Tensor, nn

from proxyless_arch.arch.ops import Operation
from proxyless_arch.arch.spec import Block
from proxyless_arch.arch.tensors import nested_place
from proxyless_arch.space.search_space import Path, SearchSpace
from proxyless_arch.weights.files import NamedTensors
from proxyless_nas.layers import ResidualBlock, build_op
from proxyless_nas.network import ProxylessNet, build
from proxyless_nas.weights import load_named, to_named
from search.algorithm.gates import Gate
from search.algorithm.supernet import PathSupernet, pure_call


class ElasticNet(PathSupernet):
    """All networks of a space whose choices share weights. Tensor names are those of its largest network.

    Args:
        tensors: of the largest network; without them the weights are random, drawn by ``generator``.
    """

    def __init__(
        self, space: SearchSpace, generator: torch.Generator | None = None, tensors: NamedTensors | None = None
    ) -> None:
        super().__init__()
        self.space = space
        largest = space.spec_for(space.largest_path)
        net = build(largest, generator, zero_gamma=tensors is None)
        if tensors is not None:
            load_named(net, largest, tensors)
        self.first_conv, self.blocks = net.first_conv, net.blocks
        self.feature_mix_layer, self.classifier = net.feature_mix_layer, net.classifier
        self._largest = largest
        self._smaller: dict[Block | Operation, nn.Module] = {}  # no layers of this network: they have no weights

    def parameters_on(self, paths: Collection[Path]) -> list[nn.Parameter]:
        """All: the largest network is among the paths of each step."""
        return list(self.parameters())

    def network(self, path: Path) -> ProxylessNet:
        """A copy."""
        spec = self.space.spec_for(path)
        net = build(spec)
        load_named(net, spec, self.space.inherited_tensors(path, to_named(self)))
        return net.to(next(self.parameters()).device)

    def forward(self, x: Tensor, path: Path, gates: Sequence[Gate] | None = None) -> Tensor:
        spec, moves = self.space.spec_for(path), gates is None
        x = self._run(self.first_conv, x, moves)
        for layer, whole, block in zip(self.blocks, self._largest.blocks, spec.blocks, strict=True):
            if block == whole:
                x = self._run(layer, x, moves)
            elif not block.op.vanishes:
                x = self._run_smaller(layer, block, x, moves)
        mix = spec.feature_mix
        assert mix is not None
        is_whole = mix == self._largest.feature_mix
        x = (
            self._run(self.feature_mix_layer, x, moves)
            if is_whole
            else self._run_smaller(self.feature_mix_layer, mix, x, moves)
        )
        return self.classifier(x.mean((2, 3)))

    @staticmethod
    def _run(layer: nn.Module, x: Tensor, moves_statistics: bool) -> Tensor:
        return layer(x) if moves_statistics else pure_call(layer, x)

    def _run_smaller(self, layer: nn.Module, part: Block | Operation, x: Tensor, moves_statistics: bool) -> Tensor:
        """``part`` on the tensors of ``layer``, the largest one in its place."""
        small = self._layer_of(part)
        whole = {**dict(layer.named_parameters()), **dict(layer.named_buffers())}
        own = {**dict(small.named_parameters()), **dict(small.named_buffers())}
        views = {name: whole[name][nested_place(whole[name].shape, tensor.shape)] for name, tensor in own.items()}
        if not moves_statistics:
            views |= {name: views[name].clone() for name, _ in small.named_buffers()}
        return torch.func.functional_call(small.train(self.training), views, (x,))

    def _layer_of(self, part: Block | Operation) -> nn.Module:
        """A layer without weights, made once."""
        if part not in self._smaller:
            bn, padding = self.space.bn, self.space.padding
            with torch.device("meta"):
                build_part = ResidualBlock if isinstance(part, Block) else build_op
                self._smaller[part] = build_part(part, bn, padding)  # type: ignore[operator, arg-type]
        return self._smaller[part]
