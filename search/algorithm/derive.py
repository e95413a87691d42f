"""From architecture parameters to a network with inherited weights."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from hardware.cost import CostTable
from hardware.projection import LOWER, Limit, Projection, project, window
from proxyless_arch.space.search_space import Path, SearchSpace
from proxyless_nas.network import ProxylessNet, build
from proxyless_nas.weights import load_named
from search.algorithm.gates import argmax_path
from search.algorithm.supernet import PathSupernet


def choose_path(
    alphas: Sequence[Tensor],
    table: CostTable | None,
    goal: float | None,
    rule: str = "projected",
    limits: Sequence[Limit] = (),
    lower: float = LOWER,
) -> tuple[Path, Projection | None]:
    """The most probable path whose cost lies in [lower * goal, goal] and within ``limits``.

    Without either, and by the ``rule`` argmax (the release's), simply the most probable one.
    """
    asked = [*([window(table, goal, lower)] if table is not None and goal is not None else []), *limits]
    if not asked or rule == "argmax":
        return argmax_path(alphas), None
    projection = project(log_probabilities(alphas), asked)
    return projection.path, projection


def log_odds(alphas: Sequence[Tensor], path: Path, other: Path, temperature: float = 1.0) -> float:
    """log of how many times as probable ``path`` is as ``other``, by softmax(alpha / temperature)."""
    rows = zip(log_probabilities([alpha / temperature for alpha in alphas]), path, other, strict=True)
    return math.fsum(row[choice] - row[instead] for row, choice, instead in rows)


def log_probabilities(alphas: Sequence[Tensor]) -> list[np.ndarray]:
    """log p of every block's choices, in double precision."""
    return [np.asarray(torch.log_softmax(alpha.detach().cpu().double(), 0).numpy()) for alpha in alphas]


def inherit(supernet: PathSupernet, space: SearchSpace, path: Path, name: str = "derived") -> ProxylessNet:
    """The stand-alone network of ``path`` with the supernet's weights: same logits as the path has inside."""
    spec = space.spec_for(path, name)
    net = build(spec)
    load_named(net, spec, supernet.inherited(path), "supernet")
    return net
