"""A tiny network, built once per test session."""

import contextlib

# In one process torch goes first: the reverse can crash, and other tests of this session may import it later.
with contextlib.suppress(ModuleNotFoundError):
    import torch  # noqa: F401

import pytest

from proxyless_arch.arch.spec import ArchSpec
from proxyless_arch.space.mbconv import Macro, Stage, mbconv_space


@pytest.fixture(scope="session")
def tiny_spec() -> ArchSpec:
    """Stem, five blocks (one of them vanished, two with a skip), mix; total stride 8, 10 classes."""
    stages = (Stage(24, 3, 2), Stage(40, 2, 2))
    macro = Macro(name="tiny", stem_width=16, stem_stride=2, first_width=8, stages=stages, mix_width=64)
    return mbconv_space(macro=macro, num_classes=10).spec_for((1, 6, 3, 2, 0), name="tiny")
