"""A small network of tree-structured cells that has every edge, allocation and merge."""

from proxyless_arch.arch.ops import Linear
from proxyless_arch.arch.preact import AvgPool, ConvNorm, Identity, MaxPool, NormAct, PreConv, Separable
from proxyless_arch.arch.spec import ArchSpec, BatchNorm, Block, Preprocessing
from proxyless_arch.arch.tree import Branch, TreeBlock, TreeNode


def sep(width, kernel, dilation=1, out=None, stride=1):
    return Separable(in_channels=width, out_channels=out or width, kernel_size=kernel, dilation=dilation, stride=stride)


def node(width, *branches, out=None, **how):
    """A node whose branches are edges, or pairs of an edge and a node."""
    made = tuple(
        Branch(edge=each[0], child=each[1]) if isinstance(each, tuple) else Branch(edge=each) for each in branches
    )
    return TreeNode(in_channels=width, out_channels=out or width, branches=made, **how)


def released_cell(width=4, stride=1):
    """As the released network has them: a grouped convolution, a split with branch batch norms, copies that add."""
    conv = PreConv(in_channels=width, out_channels=2 * width, kernel_size=3, groups=2, stride=stride)
    one, pool = Identity(channels=width), MaxPool(channels=width)
    left = node(width, (sep(width, 7), node(width, sep(width, 3, 2), one)), (pool, node(width, sep(width, 7), pool)))
    right = node(
        width, (sep(width, 5), node(width, AvgPool(channels=width), sep(width, 3))), (one, node(width, one, one))
    )
    split = node(2 * width, (one, left), (one, right), out=width, allocation="split", branch_bn=True)
    return node(width, (conv, split))


def joined_cell(width=4):
    """A split whose branches are joined, at stride 2, in front of a grouped convolution."""
    half = width // 2
    first = node(width, sep(half, 3, stride=2), sep(half, 5, stride=2), allocation="split", merge="concat")
    conv = PreConv(in_channels=width, out_channels=width, kernel_size=1, groups=2, activated=False)
    return node(width, (conv, first))


SPEC = ArchSpec(
    name="small trees",
    stem=ConvNorm(in_channels=3, out_channels=4, kernel_size=3),
    blocks=(
        Block(op=TreeBlock(in_channels=4, out_channels=6, cell=released_cell()), skip=False),
        Block(op=TreeBlock(in_channels=6, out_channels=6, cell=joined_cell()), skip=False),
        Block(op=TreeBlock(in_channels=6, out_channels=8, cell=released_cell(4, stride=2)), skip=False),
    ),
    feature_mix=NormAct(channels=8),
    classifier=Linear(in_features=8, out_features=5),
    bn=BatchNorm(eps=1e-5),
    preprocessing=Preprocessing(resolution=8, resize=8),
)
