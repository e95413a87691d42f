"""torch state_dict <-> NamedTensors (proxyless_arch.tensors has the contract)."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from proxyless_arch.spec import ArchSpec
from proxyless_arch.weights import NamedTensors, check_tensors


def to_named(module: nn.Module) -> NamedTensors:
    """The weights as float32 numpy arrays (copies, C order) under their released names, without BN batch counters."""
    return {
        name: np.ascontiguousarray(tensor.detach().cpu().float().numpy()).copy()
        for name, tensor in module.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }


def load_named(module: nn.Module, spec: ArchSpec, tensors: NamedTensors, source: str = "weights") -> None:
    """Put ``tensors`` into a network built from ``spec``.

    Raises InputError listing missing, unexpected and wrongly shaped tensors; the module is then untouched.
    """
    check_tensors(tensors, spec, source)
    own = module.state_dict()
    with torch.no_grad():
        for name, array in tensors.items():
            own[name].copy_(torch.from_numpy(np.array(array)))
