"""The weight contract: the name and shape of every tensor of a network.

Names and layouts are those of the released ``.pth`` files (torch's: convolution out x in x k x k, linear out x in).
Both zoos are tested against this list. torch's ``num_batches_tracked`` counters are not part of it: with a fixed
momentum they change nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

from proxyless_arch.arch.ops import Shape
from proxyless_arch.arch.spec import ArchSpec
from proxyless_arch.arch.walk import walk


def expected_tensors(spec: ArchSpec) -> dict[str, Shape]:
    """``{name: shape}`` of every weight tensor of ``spec``, in network order."""
    return dict(tensor for call in walk(spec) for tensor in call.op.tensors(call.tensor_prefix))


def nested_place(large: Sequence[int], small: Sequence[int]) -> tuple[slice, ...]:
    """Where a tensor of a smaller network lies in that of a larger one that it shares its weights with.

    Channels (the first two axes) are taken from the first on, kernels from the middle: once-for-all's order, in which
    the larger network's channels are sorted by importance (Cai et al., ICLR 2020, section 3.3). For numpy and torch.
    """
    return tuple(
        slice(own) if axis < 2 else slice((whole - own) // 2, (whole - own) // 2 + own)
        for axis, (whole, own) in enumerate(zip(large, small, strict=True))
    )
