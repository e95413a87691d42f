"""Devices by name: the same words and messages as in torch."""

import pytest
import tensorflow as tf

from proxyless_nas_tensorflow.devices import pick_device
from tests.errors import refused


@pytest.mark.parametrize("n_gpus", [0, 2])
def test_devices(n_gpus, monkeypatch):
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: ["gpu"] * n_gpus)
    assert pick_device("cpu") == "CPU:0" and pick_device("auto") == ("GPU:0" if n_gpus else "CPU:0")
    for absent in ("cuda:2", "mps"):
        with refused("--device", absent, tf.__version__):
            pick_device(absent)
    if n_gpus:
        assert (pick_device("cuda"), pick_device("cuda:1")) == ("GPU:0", "GPU:1")


@pytest.mark.parametrize("name", ["cuda:", "cpu:5", "tpu"])
def test_what_is_no_device(name):
    with refused("--device", "auto", "cpu", "cuda:N", "mps", repr(name)):
        pick_device(name)
