"""From architecture parameters to a network with inherited weights."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from hardware.cost_table import CostTable
from hardware.projection import Projection, project
from proxyless_arch.space.search_space import Path, SearchSpace
from proxyless_nas.network import ProxylessNet, build
from proxyless_nas.weights import load_named, to_named
from search.algorithm.gates import argmax_path
from search.algorithm.supernet import Supernet


def choose_path(
    alphas: Sequence[Tensor], table: CostTable | None, goal: float | None, rule: str = "projected"
) -> tuple[Path, Projection | None]:
    """The most probable path whose cost lies in [0.99 goal, goal].

    Without a goal, and by the ``rule`` argmax (the release's), simply the most probable one.
    """
    if table is None or goal is None or rule == "argmax":
        return argmax_path(alphas), None
    log_probs = [torch.log_softmax(alpha.detach().cpu().double(), 0).numpy() for alpha in alphas]
    projection = project([np.asarray(values) for values in log_probs], table, goal)
    return projection.path, projection


def inherit(supernet: Supernet, space: SearchSpace, path: Path, name: str = "derived") -> ProxylessNet:
    """The stand-alone network of ``path`` with the supernet's weights: same logits as the path has inside."""
    spec = space.spec_for(path, name)
    tensors = to_named(supernet)
    net = build(spec)
    load_named(net, spec, {own: tensors[source] for own, source in space.tensor_map(path).items()}, "supernet")
    return net
