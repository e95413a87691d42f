"""Independent calls on several threads of this process: torch, and our kernels, hold no lock of Python's meanwhile.

Each call computes what it would compute alone, so results are the same bits for any number of threads; and a thread
that finds no free core waits without spinning, so that other work on the machine costs nothing but the gain.
"""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from proxyless_arch.base.machine import network_threads
from proxyless_nas import distributed

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

_within = threading.local()
Item = TypeVar("Item")
Result = TypeVar("Result")


def spare_threads() -> int:
    """How many calls at a time leave each of torch's threads a core: those that OMP_NUM_THREADS grants, or all."""
    cores = network_threads(0, "OMP_NUM_THREADS") // distributed.local_size()
    return max(1, cores // torch.get_num_threads())


def each(run: Callable[[Item], Result], items: Iterable[Item], threads: int) -> list[Result]:
    """``run`` of every item, in their order; this thread and ``threads - 1`` others take the next one when they can.

    Within another such call it runs them alone: those threads have work, and would wait for themselves.
    """
    items = list(items)
    others = min(threads, len(items)) - 1
    if others < 1 or getattr(_within, "another", False):
        return [run(item) for item in items]
    found: list[Any] = [None] * len(items)
    left = iter(list(enumerate(items)))

    def work() -> None:
        _within.another = True
        try:
            for place, item in left:
                found[place] = run(item)
        finally:
            _within.another = False

    waiting = [_pool(threads).submit(work) for _ in range(others)]
    try:
        work()
    finally:
        errors = [one.exception() for one in waiting]
    for error in errors:
        if error is not None:
            raise error
    return found


@functools.cache
def _pool(threads: int) -> ThreadPoolExecutor:
    from concurrent.futures import ThreadPoolExecutor

    return ThreadPoolExecutor(threads - 1, "side_by_side")


if hasattr(os, "register_at_fork"):  # a child process has none of its parent's threads
    os.register_at_fork(after_in_child=_pool.cache_clear)
