"""A tiny network with everything that pruning tells apart."""

from proxyless_arch.arch.ops import Conv, Linear, MBConv
from proxyless_arch.arch.spec import ArchSpec, Block, Preprocessing


def block(into, out, kernel=3, expand=3, stride=1, skip=False):
    op = MBConv(in_channels=into, out_channels=out, kernel_size=kernel, expand_ratio=expand, stride=stride)
    return Block(op=op, skip=skip)


SPEC = ArchSpec(
    name="tiny",
    stem=Conv(in_channels=3, out_channels=8, kernel_size=3, stride=1),
    blocks=(
        block(8, 4, expand=1),
        block(4, 6, kernel=5, stride=2),
        block(6, 6, kernel=7, skip=True),
        block(6, 6, expand=1, skip=True),
        block(6, 10, kernel=5),
    ),
    feature_mix=Conv(in_channels=10, out_channels=16, kernel_size=1),
    classifier=Linear(in_features=16, out_features=4),
    preprocessing=Preprocessing(resolution=12, resize=12),
)
