"""What a finished search does beyond the loop."""

import numpy as np
import pytest
import torch

from proxyless_arch.datasets import digits
from proxyless_arch.space import TINY, SearchSpace
from search.results import _changes, mixed


def test_recalibration_sees_all_classes_in_every_batch():
    images = digits()[0]
    images = images.subset(np.argsort(images.labels, kind="stable"))  # as in a folder
    chosen = mixed(images, 500, seed=0)
    assert len(set(chosen.names)) == len(chosen) == 500
    for first in range(0, 500, 100):
        assert set(chosen.labels[first : first + 100]) == set(range(10))
    assert mixed(images, 500, seed=0).names == chosen.names
    assert mixed(images, 500, seed=1).names != chosen.names
    assert sorted(mixed(images, 10**6, seed=0).names) == sorted(images.names)


def test_what_projection_changed_is_told_with_its_odds():
    space = SearchSpace(macro=TINY, num_classes=10)
    odds = [torch.ones(len(ops)) / len(ops) for ops in space.choices]
    odds[4] = torch.tensor([0.01, 0.9, 0.04, 0.02, 0.01, 0.02])
    best, path = [0] * space.n_blocks, [0] * space.n_blocks
    best[4], path[4] = 1, 5
    (found,) = _changes(space, odds, best, path)
    assert found["block"] == 5  # blocks.0 is not searched
    assert (found["argmax"], found["chosen"]) == ("MB3 5x5 s2", "MB6 7x7 s2")
    assert (found["argmax_percent"], found["chosen_percent"]) == pytest.approx((90.0, 2.0))
    assert _changes(space, odds, best, best) == []
