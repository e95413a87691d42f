"""torch state_dict <-> NamedTensors (proxyless_arch.arch.tensors has the contract), and networks <-> weight files."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from proxyless_arch.arch.catalog import Release
from proxyless_arch.arch.spec import ArchSpec
from proxyless_arch.base.files import write_bytes
from proxyless_arch.weights.channels import for_channels
from proxyless_arch.weights.files import NamedTensors, check_tensors, read_tensors, save_tensors
from proxyless_arch.weights.pretrained import Pretrained, described, read_pretrained
from proxyless_nas.network import ProxylessNet, build

TORCH_SUFFIXES = (".pth", ".pt")
LEARNT_CLIP = ".input_quantizer.clip"
"""The end of the name of what a training under a bit plan learns beside the weights: it goes into the plan."""


def to_named(module: nn.Module) -> NamedTensors:
    """The weights as float32 numpy arrays (copies, C order) under their released names, without BN batch counters."""
    return {
        name: np.ascontiguousarray(tensor.detach().cpu().float().numpy()).copy()
        for name, tensor in module.state_dict().items()
        if not name.endswith(("num_batches_tracked", LEARNT_CLIP))
    }


def load_named(module: nn.Module, spec: ArchSpec, tensors: NamedTensors, source: str = "weights") -> None:
    """Put ``tensors`` into a network built from ``spec``. One without its top takes all but the classifier's.

    Raises InputError listing missing, unexpected and wrongly shaped tensors; the module is then untouched.
    """
    check_tensors(tensors, spec, source)
    assign(module, tensors)


def assign(module: nn.Module, tensors: NamedTensors) -> None:
    """Put checked ``tensors``, perhaps not all, into ``module``."""
    own = module.state_dict()
    with torch.no_grad():
        for name, tensor in own.items():
            if name in tensors:
                tensor.copy_(torch.from_numpy(np.array(tensors[name])))


def load_weights(network: ProxylessNet | ArchSpec, path: str | os.PathLike[str]) -> ProxylessNet:
    """The network with the weights of a ``.h5``, ``.safetensors``, ``.pth`` or ``.tfinit`` file.

    The weights go into ``network``, or into one built from it when it is a spec. Its spec takes over the preprocessing
    and class names that a ``.h5`` or ``.safetensors`` file holds: preprocessing belongs to the weights.

    Raises:
        InputError: a bad file, or the weights of another network (with the missing, unexpected and wrongly shaped
            tensors); a network given is then untouched.
    """
    spec = network if isinstance(network, ArchSpec) else network.spec
    found = read_tensors(path, spec)
    net = build(spec) if isinstance(network, ArchSpec) else network
    load_named(net, spec, found.tensors, str(path))
    net.spec = described(spec, found)
    return net


def load_pretrained(net: ProxylessNet, release: Release, pretrained: Pretrained, released_classes: int) -> None:
    """Put the weights that ``pretrained`` asks for into ``net`` (see proxyless_arch.weights.pretrained)."""
    found = read_pretrained(release, pretrained, net.spec, released_classes)
    assign(net, for_channels(found.tensors, net.first_conv.conv.in_channels))
    net.spec = described(net.spec, found)


def save_weights(path: str | os.PathLike[str], net: ProxylessNet, provenance: Mapping[str, Any]) -> None:
    """Write a network's weights, atomically, in the format that the extension names.

    ``.h5`` and ``.safetensors`` hold the spec, its preprocessing and ``provenance`` (JSON values) as well; ``.pth`` is
    a state dict under 'state_dict', as released, and holds the tensors alone.

    Raises:
        InputError: another extension, ``provenance`` is not JSON, or a network without its top.
    """
    tensors = to_named(net)
    if Path(path).suffix.lower() not in TORCH_SUFFIXES:
        save_tensors(path, net.spec, tensors, provenance, also=TORCH_SUFFIXES)
        return
    check_tensors(tensors, net.spec)
    buffer = io.BytesIO()  # torch, writing to a file itself, would not say that the disk is full
    torch.save({"state_dict": {name: torch.from_numpy(array) for name, array in tensors.items()}}, buffer)
    write_bytes(path, buffer.getvalue())
