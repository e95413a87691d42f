"""The weight contract: the name and shape of every tensor of a network.

Names and layouts are those of the released ``.pth`` files (torch's: convolution out x in x k x k, linear out x in).
Both zoos are tested against this list. torch's ``num_batches_tracked`` counters are not part of it: with a fixed
momentum they change nothing.
"""

from __future__ import annotations

from proxyless_arch.arch.ops import Shape
from proxyless_arch.arch.spec import ArchSpec
from proxyless_arch.arch.walk import walk


def expected_tensors(spec: ArchSpec) -> dict[str, Shape]:
    """``{name: shape}`` of every weight tensor of ``spec``, in network order."""
    return dict(tensor for call in walk(spec) for tensor in call.op.tensors(call.tensor_prefix))
