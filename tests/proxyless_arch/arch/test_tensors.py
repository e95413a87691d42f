"""The weight contract."""

import math

import pytest

from proxyless_arch.arch import catalog
from proxyless_arch.arch.codec import read_spec
from proxyless_arch.arch.tensors import expected_tensors
from proxyless_arch.arch.walk import total_params
from tests.proxyless_arch.nets import rich, three_blocks


def test_names_and_shapes_of_three_blocks():
    tensors = expected_tensors(three_blocks())
    assert list(tensors)[:6] == [
        "first_conv.conv.weight",
        "first_conv.bn.weight",
        "first_conv.bn.bias",
        "first_conv.bn.running_mean",
        "first_conv.bn.running_var",
        "blocks.0.mobile_inverted_conv.depth_conv.conv.weight",
    ]
    block = "blocks.1.mobile_inverted_conv"
    assert tensors["first_conv.conv.weight"] == (4, 3, 3, 3)
    assert tensors[f"{block}.inverted_bottleneck.conv.weight"] == (12, 4, 1, 1)
    assert tensors[f"{block}.depth_conv.conv.weight"] == (12, 1, 5, 5)
    assert tensors[f"{block}.point_linear.conv.weight"] == (6, 12, 1, 1)
    assert tensors[f"{block}.point_linear.bn.running_var"] == (6,)
    assert tensors["classifier.linear.weight"] == (5, 8)
    assert tensors["classifier.linear.bias"] == (5,)
    assert not any(name.startswith("blocks.0.mobile_inverted_conv.inverted_bottleneck") for name in tensors)


def test_a_vanished_block_has_no_tensors():
    assert not any(name.startswith("blocks.3.") for name in expected_tensors(rich()))


@pytest.mark.parametrize("name", catalog.names())
def test_trainable_tensors_sum_to_the_parameters(name):
    spec = catalog.load(name)
    trainable = {n: shape for n, shape in expected_tensors(spec).items() if "running_" not in n}
    assert sum(map(math.prod, trainable.values())) == total_params(spec)


@pytest.mark.shared_data
def test_a_released_file_has_these_tensors(shared_data):
    torch = pytest.importorskip("torch")
    base = shared_data / "official" / "proxyless-w0.3-r176_imagenet.pth"
    state = torch.load(base, weights_only=True)["state_dict"]
    shapes = {name: tuple(t.shape) for name, t in state.items() if not name.endswith("num_batches_tracked")}
    assert expected_tensors(read_spec(base.with_suffix(".json"))) == shapes
