"""What a finished search does beyond the loop."""

import numpy as np

from proxyless_arch.datasets import digits
from search.results import mixed


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
