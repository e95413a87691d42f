"""The operations of the family, as values: each owns its label, shapes, MACs, parameters, tensors and JSON.

A new operation is one subclass here (or in a file of its own), a torch layer (proxyless_nas/layers.py), a Keras layer
(proxyless_nas_tensorflow/layers.py) and a graph lowering (hardware/profile/graphs.py), each registered by its class.
Nothing else asks which operation it has: what differs between operations is one of their facts.
"""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, TypeVar

from proxyless_arch.base.checks import check, check_one_of, is_int, is_number
from proxyless_arch.base.errors import InputError
from proxyless_arch.base.strict import Node, judged_at

KERNEL_SIZES = (3, 5, 7)
MAX_WIDTH = 65_536
SKIPPED = "-- skipped"
Hwc = tuple[int, int, int]
Shape = tuple[int, ...]


def strided(size: int, stride: int) -> int:
    """Output size of a padded odd-kernel convolution: ceil(size / stride). Stride 2 of 11 is 6."""
    return -(-size // stride)


def make_divisible(value: float, divisor: int = 8) -> int:
    """The multiple of ``divisor`` nearest to ``value``, never more than 10 % below it (as in MobileNet)."""
    rounded = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * value else rounded


def check_width(place: str, value: int) -> None:
    check(is_int(value) and 1 <= value <= MAX_WIDTH, place, f"an integer in 1..{MAX_WIDTH}", value)


@dataclass(frozen=True)
class ConvCall:
    """A convolution or pool inside an operation, with its batch normalization and perhaps an activation.

    ``norm``: where the batch normalization is, with the activation behind it where it is ``activated``. ``indexed``:
    where each value came from is kept, as of a maximum. ``is_weighted``: false of a pool, and of a batch normalization
    alone. ``copied``: its activation keeps a copy of what it is given, as ReLU6 does in training; ReLU goes by what it
    puts out.
    """

    in_hwc: Hwc
    out_hwc: Hwc
    kernel_size: int
    activated: bool
    norm: Literal["behind", "before", "none"] = "behind"
    indexed: bool = False
    is_weighted: bool = True
    copied: bool = True


@dataclass(frozen=True)
class Tile:
    """A part of an operation in its drawing: a rectangle within the box, whose sides are 1, and what is drawn in it."""

    left: float
    top: float
    width: float
    height: float
    drawing: Drawing


@dataclass(frozen=True)
class Drawing:
    """What a picture shows of an operation.

    ``label``: without the stride, which is seen in the output sizes; empty: none. ``kernel``: chooses the colour, None:
    grey. ``expansion``: chooses the height, None: an ordinary one. ``tiles``: in place of the label, its parts.
    ``is_empty``: it does nothing, and has no colour.
    """

    label: str
    kernel: int | None = None
    expansion: float | None = None
    tiles: tuple[Tile, ...] = ()
    is_empty: bool = False


@dataclass(frozen=True)
class Bottleneck:
    """An inverted bottleneck: 1x1 expansion (absent unless it ``expands``), depthwise convolution, 1x1 projection.

    ``hidden_channels``: width of the depthwise convolution, whose kernel has ``kernel_size``; ``expand_ratio``: as it
    is called, which pruning does not change.
    """

    kernel_size: int
    hidden_channels: int
    expand_ratio: int

    @property
    def expands(self) -> bool:
        return self.expand_ratio > 1


@dataclass(frozen=True)
class Shrinkable:
    """What may become smaller in an operation that was trained: hidden layer, kernel, and its input and output.

    ``hidden_channels``: what its hidden layer puts out; ``follows_input``: as many as it takes in, and no other number.
    ``kernel_size``: of the hidden layer. ``hidden_layer``, ``layer_behind``: their names; the latter is a 1x1
    convolution, which takes the hidden features in.
    """

    hidden_channels: int
    follows_input: bool
    kernel_size: int
    hidden_layer: str
    layer_behind: str


@dataclass(frozen=True)
class EntryForm:
    """How latency tables write a measured layer of an operation, besides its kind, the sizes in and out, and the time.

    ``kernels``, ``strides``: what they may be; empty: any above 0, None: there are none to write. ``has_skip``: whether
    one may be around it. ``width``: how its hidden width is written: as a number of channels that may be missing, as
    ``expand`` or ``mid``, or not at all. ``has_facts``: facts besides these. ``scales``: whether its time is in
    proportion to what it puts out, where all else is equal.
    """

    kernels: tuple[int, ...] | None = ()
    strides: tuple[int, ...] | None = ()
    has_skip: bool = True
    width: Literal["mid", "expand", None] = "mid"
    has_facts: bool = True
    scales: bool = False


Channels = Literal["in", "hidden", "out"]
"""Of an operation."""


@dataclass(frozen=True, kw_only=True)
class Operation(ABC):
    """What every operation says of itself. Sizes are (height, width, channels); images come one at a time.

    Its JSON form is its fields, by their names: those that may be None are left out where they are.
    """

    kind: ClassVar[str]
    """Its name in JSON and in latency tables."""
    vanishes: ClassVar[bool] = False
    """Its output is 0: with its skip, which it needs, the block passes its input on."""
    entry_form: ClassVar[EntryForm] = EntryForm()
    """Of its layers in latency tables."""
    pools_first: ClassVar[bool] = False
    """It works on the mean over all pixels."""
    is_timed: ClassVar[bool] = True
    """Whether latency tables hold its time; else it counts as part of what is around it, and costs nothing by rule."""

    if TYPE_CHECKING:  # a subclass has them as fields, for which a property here would be a default

        @property
        def in_channels(self) -> int: ...

        @property
        def out_channels(self) -> int: ...

        @property
        def stride(self) -> int: ...
    else:
        stride = 1

    @property
    @abstractmethod
    def label(self) -> str:
        """The short name without widths: ``MB6 5x5 s2``. The stride is named where it is not 1."""

    @property
    def drawing(self) -> Drawing:
        return Drawing(self.label.removesuffix(f" s{self.stride}"))

    @property
    def bottleneck(self) -> Bottleneck | None:
        """Its parts where it is an inverted bottleneck, which latency predictors are fitted on; None of another."""
        return None

    @property
    def shrinkable(self) -> Shrinkable | None:
        """What pruning may make smaller; None where it stays as it is. With it come ``shrunk`` and ``channel_axes``."""
        return None

    def shrunk(
        self, *, into: int | None = None, hidden: int | None = None, out: int | None = None, kernel: int | None = None
    ) -> Operation:
        """With other input, hidden and output channels and another kernel size; None: as they are."""
        raise NotImplementedError(f"{self.kind} is not shrinkable")

    @property
    def channel_axes(self) -> dict[str, tuple[Channels, Channels | None]]:
        """By the beginning of its tensors' names: the channels of their first axis, and of the second where they have
        one (None: no channels). What is not named is whole."""
        return {}

    @property
    def keeps_shape(self) -> bool:
        """Whether an identity skip fits around it."""
        return self.stride == 1 and self.in_channels == self.out_channels

    def out_hwc(self, in_hwc: Hwc) -> Hwc:
        """The size of its output. Holds for both paddings: symmetric k//2 and TensorFlow's "same" agree on it."""
        return strided(in_hwc[0], self.stride), strided(in_hwc[1], self.stride), self.out_channels

    @abstractmethod
    def macs(self, in_hwc: Hwc) -> int:
        """Multiply-accumulates of convolutions and linear layers (batch normalization is folded)."""

    @abstractmethod
    def convolutions(self, in_hwc: Hwc) -> Iterator[ConvCall]:
        """Its convolutions in order: what it keeps in memory while it is trained follows from them (memory.py)."""

    @abstractmethod
    def tensors(self, prefix: str) -> Iterator[tuple[str, Shape]]:
        """(name, shape) of each of its weight tensors; the names start with ``prefix``. See tensors.py."""

    @property
    def params(self) -> int:
        """Trainable parameters: all weights but the running statistics."""
        return sum(math.prod(shape) for name, shape in self.tensors("") if ".running_" not in name)

    def parts(self, in_hwc: Hwc) -> Iterator[tuple[str, Operation, Hwc]]:
        """(name, operation, input size) of all that it is made of, where latency tables hold that and not itself.

        Their MACs and parameters add up to its own. Nothing of an operation that is one layer.
        """
        yield from ()

    def latency_facts(self) -> dict[str, int]:
        """What its latency depends on besides its kind, the sizes in and out, and a skip."""
        widths = ("channels", "in_channels", "out_channels")
        return {name: value for name, value in self.to_json().items() if name not in widths}

    def to_json(self) -> dict[str, Any]:
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: value for name, value in values.items() if value is not None}

    @classmethod
    def keys(cls) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """(required, optional) keys of its JSON form."""
        fields = dataclasses.fields(cls)
        required = tuple(field.name for field in fields if field.default is not None)
        return required, tuple(field.name for field in fields if field.default is None)

    @classmethod
    def from_parts(cls, parts: dict[str, Node]) -> Self:
        """The operation of a JSON object's members. Raises InputError naming the member."""
        required, optional = cls.keys()
        for name in optional:
            if name in parts and parts[name].value is None:
                raise InputError("expected a value or no such key, got null", name)
        return cls(**{name: parts[name].value for name in (*required, *optional) if name in parts})


AnyOp = TypeVar("AnyOp", bound=Operation)
AnyOperation = TypeVar("AnyOperation", bound=type[Operation])
BLOCK_OPERATIONS: dict[str, type[Operation]] = {}
"""The operations that a block may hold, by their ``kind``."""


def operation_from_node(node: Node, known: Mapping[str, type[AnyOp]]) -> AnyOp:
    """The operation that a JSON object describes, one of ``known``, which it names under "op"."""
    kind = operation_class(node, known)
    required, optional = kind.keys()
    parts = node.fields(("op", *required), optional)
    with judged_at(node.path):
        return kind.from_parts(parts)


def operation_class(node: Node, known: Mapping[str, type[AnyOp]]) -> type[AnyOp]:
    """The class, one of ``known``, that a JSON object names under "op"."""
    members = dict(node.items())
    return known[node.fields(("op",), tuple(members))["op"].text(sorted(known))]


def operation_to_dict(op: Operation) -> dict[str, Any]:
    return {"op": op.kind, **op.to_json()}


def block_operation(cls: AnyOperation) -> AnyOperation:
    """Register an operation that a block may hold. Raises ValueError when its kind is taken."""
    if BLOCK_OPERATIONS.setdefault(cls.kind, cls) is not cls:
        raise ValueError(f"two operations of the kind {cls.kind!r}")
    return cls


def conv_bn_tensors(prefix: str, shape: Shape) -> Iterator[tuple[str, Shape]]:
    """Tensors of a convolution of ``shape`` (out, in / groups, k, k) with its batch normalization."""
    yield f"{prefix}.conv.weight", shape
    yield from bn_tensors(f"{prefix}.bn", shape[0])


def bn_tensors(prefix: str, channels: int) -> Iterator[tuple[str, Shape]]:
    """Tensors of a batch normalization."""
    for part in ("weight", "bias", "running_mean", "running_var"):
        yield f"{prefix}.{part}", (channels,)


def strided_label(name: str, kernel_size: int, stride: int) -> str:
    label = f"{name} {kernel_size}x{kernel_size}"
    return label if stride == 1 else f"{label} s{stride}"


@dataclass(frozen=True, kw_only=True)
class Conv(Operation):
    """Convolution without bias, batch normalization, ReLU6."""

    kind: ClassVar[str] = "conv"
    entry_form: ClassVar[EntryForm] = EntryForm(
        kernels=(1, *KERNEL_SIZES), strides=(1, 2), has_skip=False, width=None, has_facts=False
    )

    in_channels: int
    out_channels: int
    kernel_size: int
    stride: int = 1

    def __post_init__(self) -> None:
        check_width("in_channels", self.in_channels)
        check_width("out_channels", self.out_channels)
        check_one_of("kernel_size", self.kernel_size, (1, *KERNEL_SIZES))
        check_one_of("stride", self.stride, (1, 2))

    @property
    def label(self) -> str:
        return strided_label("conv", self.kernel_size, self.stride)

    def macs(self, in_hwc: Hwc) -> int:
        return math.prod(self.out_hwc(in_hwc)) * self.kernel_size**2 * self.in_channels

    def convolutions(self, in_hwc: Hwc) -> Iterator[ConvCall]:
        yield ConvCall(in_hwc, self.out_hwc(in_hwc), self.kernel_size, activated=True)

    def tensors(self, prefix: str) -> Iterator[tuple[str, Shape]]:
        yield from conv_bn_tensors(prefix, (self.out_channels, self.in_channels, self.kernel_size, self.kernel_size))

    @property
    def channel_axes(self) -> dict[str, tuple[Channels, Channels | None]]:
        return {"": ("out", "in")}


@block_operation
@dataclass(frozen=True, kw_only=True)
class MBConv(Operation):
    """Inverted bottleneck: 1x1 expand (absent when expand_ratio is 1), depthwise kxk, 1x1 project.

    Each convolution is followed by batch normalization, the first two by ReLU6 as well.
    ``mid_channels`` overrides the expanded width, which is otherwise in_channels * expand_ratio.
    """

    kind: ClassVar[str] = "mbconv"
    entry_form: ClassVar[EntryForm] = EntryForm(
        kernels=(1, *KERNEL_SIZES), strides=(1, 2), width="expand", has_facts=False
    )

    in_channels: int
    out_channels: int
    kernel_size: int
    expand_ratio: int
    stride: int = 1
    mid_channels: int | None = None

    def __post_init__(self) -> None:
        check_width("in_channels", self.in_channels)
        check_width("out_channels", self.out_channels)
        check_one_of("kernel_size", self.kernel_size, KERNEL_SIZES)
        check_one_of("stride", self.stride, (1, 2))
        ratio = self.expand_ratio
        check(is_int(ratio) and 1 <= ratio <= 64, "expand_ratio", "an integer in 1..64", ratio)
        if self.mid_channels is not None:
            check_width("mid_channels", self.mid_channels)
            allowed = f"in_channels ({self.in_channels}) when expand_ratio is 1"
            check(self.expands or self.mid_channels == self.in_channels, "mid_channels", allowed, self.mid_channels)

    @property
    def expands(self) -> bool:
        """Whether it has the 1x1 convolution in front of the depthwise one."""
        return self.expand_ratio > 1

    @property
    def hidden_channels(self) -> int:
        """Width of the depthwise convolution."""
        return self.mid_channels if self.mid_channels is not None else self.in_channels * self.expand_ratio

    @property
    def label(self) -> str:
        return strided_label(f"MB{self.expand_ratio}", self.kernel_size, self.stride)

    @property
    def drawing(self) -> Drawing:
        expansion = self.hidden_channels / self.in_channels  # as built
        return Drawing(super().drawing.label, self.kernel_size, expansion)

    @property
    def bottleneck(self) -> Bottleneck:
        return Bottleneck(self.kernel_size, self.hidden_channels, self.expand_ratio)

    @property
    def shrinkable(self) -> Shrinkable:
        return Shrinkable(
            self.hidden_channels,
            not self.expands,
            self.kernel_size,
            hidden_layer="depth_conv",
            layer_behind="point_linear",
        )

    def shrunk(
        self, *, into: int | None = None, hidden: int | None = None, out: int | None = None, kernel: int | None = None
    ) -> MBConv:
        mid = self.mid_channels if hidden in (None, self.hidden_channels) else hidden
        return dataclasses.replace(
            self,
            in_channels=into or self.in_channels,
            out_channels=out or self.out_channels,
            kernel_size=kernel or self.kernel_size,
            mid_channels=mid if self.expands else None if into else self.mid_channels,
        )

    @property
    def channel_axes(self) -> dict[str, tuple[Channels, Channels | None]]:
        hidden: Channels = "hidden" if self.expands else "in"
        return {
            "inverted_bottleneck": ("hidden", "in"),
            "depth_conv": (hidden, None),
            "point_linear": ("out", hidden),
        }

    def macs(self, in_hwc: Hwc) -> int:
        in_pixels, out_pixels = math.prod(in_hwc[:2]), math.prod(self.out_hwc(in_hwc)[:2])
        hidden = self.hidden_channels
        expand = in_pixels * self.in_channels * hidden if self.expands else 0
        depthwise = out_pixels * self.kernel_size**2 * hidden
        return expand + depthwise + out_pixels * hidden * self.out_channels

    def convolutions(self, in_hwc: Hwc) -> Iterator[ConvCall]:
        wide, out = (*in_hwc[:2], self.hidden_channels), self.out_hwc(in_hwc)
        narrowed = (*out[:2], self.hidden_channels)
        if self.expands:
            yield ConvCall(in_hwc, wide, 1, activated=True)
        yield ConvCall(wide, narrowed, self.kernel_size, activated=True)
        yield ConvCall(narrowed, out, 1, activated=False)

    def tensors(self, prefix: str) -> Iterator[tuple[str, Shape]]:
        hidden = self.hidden_channels
        if self.expands:
            yield from conv_bn_tensors(f"{prefix}.inverted_bottleneck", (hidden, self.in_channels, 1, 1))
        yield from conv_bn_tensors(f"{prefix}.depth_conv", (hidden, 1, self.kernel_size, self.kernel_size))
        yield from conv_bn_tensors(f"{prefix}.point_linear", (self.out_channels, hidden, 1, 1))

    def latency_facts(self) -> dict[str, int]:
        """``mid``: the width after the 1x1 convolution, 0 without one."""
        mid = self.hidden_channels if self.expands else 0
        return {"kernel_size": self.kernel_size, "stride": self.stride, "mid": mid}


@dataclass(frozen=True, kw_only=True)
class SameWidth(Operation):
    """An operation that puts out as many channels as it takes in, and has no weights unless it says so."""

    channels: int

    def __post_init__(self) -> None:
        check_width("channels", self.channels)

    @property
    def in_channels(self) -> int:
        return self.channels

    @property
    def out_channels(self) -> int:
        return self.channels

    def macs(self, in_hwc: Hwc) -> int:
        return 0

    def convolutions(self, in_hwc: Hwc) -> Iterator[ConvCall]:
        yield from ()

    def tensors(self, prefix: str) -> Iterator[tuple[str, Shape]]:
        yield from ()


@block_operation
@dataclass(frozen=True, kw_only=True)
class Zero(SameWidth):
    """The operation whose output is 0. With its identity skip the block passes its input on: the block vanished."""

    kind: ClassVar[str] = "zero"
    vanishes: ClassVar[bool] = True

    @property
    def label(self) -> str:
        return SKIPPED

    @property
    def drawing(self) -> Drawing:
        return Drawing("")


@dataclass(frozen=True, kw_only=True)
class Linear(Operation):
    """The classifier: dropout (while training), then a linear layer with bias."""

    kind: ClassVar[str] = "linear"
    entry_form: ClassVar[EntryForm] = EntryForm(
        kernels=None, strides=None, has_skip=False, width=None, has_facts=False, scales=True
    )
    pools_first: ClassVar[bool] = True

    in_features: int
    out_features: int
    dropout_rate: float = 0.0

    def __post_init__(self) -> None:
        check_width("in_features", self.in_features)
        check_width("out_features", self.out_features)
        rate = self.dropout_rate
        check(is_number(rate) and 0 <= rate < 1, "dropout_rate", "a number in [0, 1)", rate)

    @property
    def in_channels(self) -> int:
        return self.in_features

    @property
    def out_channels(self) -> int:
        return self.out_features

    @property
    def label(self) -> str:
        return "linear"

    @property
    def drawing(self) -> Drawing:
        return Drawing("pool, FC")

    def out_hwc(self, in_hwc: Hwc) -> Hwc:
        return 1, 1, self.out_features

    def macs(self, in_hwc: Hwc) -> int:
        return self.in_features * self.out_features

    def convolutions(self, in_hwc: Hwc) -> Iterator[ConvCall]:
        yield from ()

    def tensors(self, prefix: str) -> Iterator[tuple[str, Shape]]:
        yield f"{prefix}.linear.weight", (self.out_features, self.in_features)
        yield f"{prefix}.linear.bias", (self.out_features,)

    @property
    def channel_axes(self) -> dict[str, tuple[Channels, Channels | None]]:
        return {"linear": ("out", "in")}

    def latency_facts(self) -> dict[str, int]:
        return {}
