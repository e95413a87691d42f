"""What a worker process of test_workers.py runs; importing this imports no framework."""

import os
import sys
from collections.abc import Sequence

import numpy as np

from proxyless_arch.base.errors import InputError
from proxyless_arch.data.batches import Batch, Sample

FRAMEWORKS = ("torch", "tensorflow", "keras", "sklearn")


def frameworks_here(samples: Sequence[Sample]) -> Batch:
    """An empty batch with one error per framework that this process has imported."""
    found = [name for name in FRAMEWORKS if name in sys.modules]
    return Batch(np.empty((0, 1, 1, 3), np.float32), np.empty(0, np.int64), tuple(map(InputError, found)))


def die(samples: Sequence[Sample]) -> Batch:
    os._exit(7)


def chatty(samples: Sequence[Sample]) -> Batch:
    print("a library that prints")
    labels = np.array([sample.image for sample in samples], dtype=np.int64)
    return Batch(np.zeros((len(labels), 1, 1, 3), np.float32), labels, ())
