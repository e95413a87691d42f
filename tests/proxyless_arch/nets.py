"""Small networks that several tests use."""

import numpy as np

from proxyless_arch.arch.ops import Conv, Linear, MBConv, Zero
from proxyless_arch.arch.spec import ArchSpec, Block, Preprocessing
from proxyless_arch.arch.tensors import expected_tensors


def three_blocks() -> ArchSpec:
    """A 3-block network for images of 11 x 11 pixels whose MACs are summed by hand in test_cost.py."""
    return ArchSpec(
        name="three",
        stem=Conv(in_channels=3, out_channels=4, kernel_size=3, stride=2),
        blocks=(
            Block(op=MBConv(in_channels=4, out_channels=4, kernel_size=3, expand_ratio=1), skip=False),
            Block(op=MBConv(in_channels=4, out_channels=6, kernel_size=5, expand_ratio=3, stride=2), skip=False),
            Block(op=MBConv(in_channels=6, out_channels=6, kernel_size=7, expand_ratio=6), skip=True),
        ),
        feature_mix=Conv(in_channels=6, out_channels=8, kernel_size=1),
        classifier=Linear(in_features=8, out_features=5, dropout_rate=0.2),
        preprocessing=Preprocessing(
            resolution=11, resize=13, interpolation="bicubic", mean=(0.5, 0.5, 0.5), std=(0.5, 0.25, 1.0)
        ),
    )


def rich() -> ArchSpec:
    """A network that uses every key of our dialect."""
    base = three_blocks()
    zero = Block(op=Zero(channels=6), skip=True)
    wide = MBConv(in_channels=6, out_channels=6, kernel_size=3, expand_ratio=6, mid_channels=40)
    return ArchSpec(
        name="réseau",
        stem=base.stem,
        blocks=(*base.blocks, zero, Block(op=wide, skip=False)),
        feature_mix=base.feature_mix,
        classifier=base.classifier,
        preprocessing=base.preprocessing,
        padding="same",
        class_names=("cat", "dog", "bière", "日本", 'quo"te'),
    )


def random_tensors(spec: ArchSpec, seed: int = 0) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    return {name: generator.normal(size=shape).astype(np.float32) for name, shape in expected_tensors(spec).items()}


def assert_equal(left: dict[str, np.ndarray], right: dict[str, np.ndarray]) -> None:
    """Same names in the same order, same types and the same bits."""
    assert list(left) == list(right)
    for name, tensor in left.items():
        assert tensor.dtype == right[name].dtype
        np.testing.assert_array_equal(tensor, right[name], err_msg=name)
