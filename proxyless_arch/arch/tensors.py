"""The weight contract: the name and shape of every tensor of a network.

Names and layouts are those of the released ``.pth`` files (torch's: convolution out x in x k x k, linear out x in).
Both zoos are tested against this list. torch's ``num_batches_tracked`` counters are not part of it: with a fixed
momentum they change nothing.
"""

from __future__ import annotations

from collections.abc import Iterator

from proxyless_arch.arch.spec import ArchSpec, Conv, Linear, MBConv, Zero

Shape = tuple[int, ...]


def _conv_bn(prefix: str, shape: Shape) -> Iterator[tuple[str, Shape]]:
    yield f"{prefix}.conv.weight", shape
    for part in ("weight", "bias", "running_mean", "running_var"):
        yield f"{prefix}.bn.{part}", (shape[0],)


def op_tensors(prefix: str, op: Conv | MBConv | Zero | Linear) -> Iterator[tuple[str, Shape]]:
    """Tensors of one layer whose names start with ``prefix``."""
    match op:
        case Conv():
            yield from _conv_bn(prefix, (op.out_channels, op.in_channels, op.kernel_size, op.kernel_size))
        case MBConv():
            hidden = op.hidden_channels
            if op.expand_ratio > 1:
                yield from _conv_bn(f"{prefix}.inverted_bottleneck", (hidden, op.in_channels, 1, 1))
            yield from _conv_bn(f"{prefix}.depth_conv", (hidden, 1, op.kernel_size, op.kernel_size))
            yield from _conv_bn(f"{prefix}.point_linear", (op.out_channels, hidden, 1, 1))
        case Zero():
            return
        case Linear():
            yield f"{prefix}.linear.weight", (op.out_features, op.in_features)
            yield f"{prefix}.linear.bias", (op.out_features,)


def expected_tensors(spec: ArchSpec) -> dict[str, Shape]:
    """``{name: shape}`` of every weight tensor of ``spec``, in network order."""
    named: dict[str, Shape] = dict(op_tensors("first_conv", spec.stem))
    for index, block in enumerate(spec.blocks):
        named.update(op_tensors(f"blocks.{index}.mobile_inverted_conv", block.op))
    named.update(op_tensors("feature_mix_layer", spec.feature_mix))
    named.update(op_tensors("classifier", spec.classifier))
    return named
