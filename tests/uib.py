"""A tiny network of MobileNetV4's blocks: every kind of UIB, its stem, its convolutions, its head."""

from proxyless_arch.arch.ops import Linear
from proxyless_arch.arch.spec import ArchSpec, Block, Preprocessing
from proxyless_arch.arch.uib import UIB, ConvReLU, PooledConv


def block(into, out, start, kernel, expand=2, stride=1, skip=False):
    return Block(
        op=UIB(
            in_channels=into,
            out_channels=out,
            start_kernel_size=start,
            kernel_size=kernel,
            expand_ratio=expand,
            stride=stride,
        ),
        skip=skip,
    )


SPEC = ArchSpec(
    name="tiny_uib",
    stem=ConvReLU(in_channels=3, out_channels=8, kernel_size=3, stride=2),
    blocks=(
        Block(op=ConvReLU(in_channels=8, out_channels=8, kernel_size=3), skip=True),
        block(8, 12, 5, 3, stride=2),  # ExtraDW
        block(12, 12, 0, 5, skip=True),  # inverted bottleneck
        block(12, 12, 3, 0, expand=3, skip=True),  # ConvNext-like
        block(12, 16, 3, 0, stride=2),
        block(16, 16, 0, 0, skip=True),  # feed-forward
        Block(op=ConvReLU(in_channels=16, out_channels=24, kernel_size=1), skip=False),
    ),
    feature_mix=PooledConv(in_channels=24, out_channels=32),
    classifier=Linear(in_features=32, out_features=5),
    preprocessing=Preprocessing(resolution=26, resize=26),
)
