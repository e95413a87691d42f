"""Every search space by name: what --space takes, and what a latency table says that it was made for.

A further space is a function that returns a SearchSpace, and an entry here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import NamedTuple

from proxyless_arch.base.errors import InputError
from proxyless_arch.base.strict import listed, nearest
from proxyless_arch.space import tree, uib, wide
from proxyless_arch.space.mbconv import MACROS, mbconv_space
from proxyless_arch.space.search_space import SearchSpace


class NamedSpace(NamedTuple):
    """``build(width_mult=..., num_classes=..., preprocessing=..., bn=..., dropout_rate=..., class_names=...)``, all of
    them optional; ``resolution``: of images, in pixels, where nothing else says it; ``is_timed``: whether devices can
    measure its layers one by one, for a latency table."""

    build: Callable[..., SearchSpace]
    resolution: int
    is_timed: bool = True


SPACES: Mapping[str, NamedSpace] = MappingProxyType(
    {
        **{name: NamedSpace(partial(mbconv_space, macro), macro.resolution) for name, macro in MACROS.items()},
        **{name: NamedSpace(partial(uib.uib_space, macro), macro.resolution) for name, macro in uib.NAMES.items()},
        **{name: NamedSpace(partial(wide.wide_space, macro), macro.resolution) for name, macro in wide.NAMES.items()},
        tree.NAME: NamedSpace(tree.tree_space, tree.RESOLUTION, is_timed=False),
    }
)
TIMED = tuple(name for name, space in SPACES.items() if space.is_timed)


def space_named(name: str) -> NamedSpace:
    """The space called ``name``. Raises InputError with the nearest valid name."""
    if name not in SPACES:
        raise InputError(f"expected {listed(map(repr, SPACES))}, got {name!r}{nearest(name, SPACES)}", "space")
    return SPACES[name]
