"""Which tensors of a checkpoint are the network's, and what they are called there.

Training code wraps a state dict: in dicts (``{'model': {'state_dict': ...}}``), in prefixes of its names (``module.``
of DataParallel, ``_orig_mod.`` of torch.compile, ``model.`` of Lightning), with an average of the weights beside it,
with optimizer states and with the counters of profilers. Here all of that is taken off, in any order and depth.

Of several state dicts the average of the weights is taken (that is what such a training evaluated), then the one under
the most usual key; where that does not decide, the file is refused rather than guessed at.
"""

from __future__ import annotations

import itertools
import re
from collections import defaultdict, deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from proxyless_arch.base.errors import InputError
from proxyless_arch.base.strict import counted

MAX_DEPTH, MAX_CONTAINERS = 12, 100_000
MAX_PARTS = 40
"""Of a name, at its dots: a tensor deep in a tree has 15 in front of its own, and wrappers stand in front of those."""
SHOWN = 4

# the layers at the top of our networks: what stands in front of one in a tensor's name is a wrapper's
_LAYERS = frozenset(("first_conv", "blocks", "feature_mix_layer", "classifier"))
_PREFIXES = frozenset(("module", "_orig_mod", "model", "net", "network"))
_KEYS = ("state_dict", "model_state_dict", "model_state", "model", "net", "network", "module", "weights", "params")
"""Where state dicts are found, the most usual first."""
_COUNTERS = frozenset(("num_batches_tracked", "n_averaged", "total_ops", "total_params"))
"""Last parts of the names of tensors that are no weights: of torch, of its averages and of the profiler thop."""
_AVERAGE = re.compile(r"(?:^|[^a-z])(?:ema|swa|averaged?)(?:[^a-z]|$)")
# a wrapper around one layer or block alone: torch.compile, FSDP, activation checkpointing, DataParallel
_INSIDE = re.compile(r"(?<=\.)(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|module)\.")
# blocks of once-for-all's later code; ours have the name that all released files have
_LATER_BLOCK = re.compile(r"^(blocks\.[0-9]+\.)conv\.(?=(?:inverted_bottleneck|depth_conv|point_linear)\.)")

# the released CIFAR-10 network counts what we call stem and feature mix among its blocks (arch/released_tree.py)
_TREE_STEM = re.compile(r"^blocks\.0\.layers\.(?:0(?=\.conv\.)|1(?=\.bn\.))")
_TREE_MIX = re.compile(r"^blocks\.[0-9]+\.layers\.0(?=\.bn\.)")
_TREE_BLOCK = re.compile(r"^blocks\.([1-9][0-9]*)\.(?=(?:in_bottle|cell|out_bottle|final_bn)\.)")


def our_name(name: str) -> str:
    """What a tensor is called here that a released network, without any wrapper, calls ``name``."""
    name = _LATER_BLOCK.sub(r"\1mobile_inverted_conv.", _INSIDE.sub("", name))
    name = _TREE_MIX.sub("feature_mix_layer", _TREE_STEM.sub("first_conv", name))
    return _TREE_BLOCK.sub(lambda found: f"blocks.{int(found[1]) - 1}.mobile_inverted_conv.", name)


class Tensor(Protocol):
    """What a tensor of a file that is not read yet says of itself."""

    @property
    def shape(self) -> tuple[int, ...]: ...


AnyTensor = TypeVar("AnyTensor", bound=Tensor)
Kind = type[AnyTensor] | tuple[type[AnyTensor], ...]


@dataclass(frozen=True)
class Chosen(Generic[AnyTensor]):
    """The tensors of a network.

    ``note``: what else was there, for a person; empty: nothing. ``is_ours``: their names are those of our layers.
    """

    tensors: dict[str, AnyTensor]
    note: str = ""
    is_ours: bool = True


@dataclass(frozen=True)
class _StateDict(Generic[AnyTensor]):
    """The tensors of a dict at ``keys`` whose names start with ``prefix``, without it."""

    keys: tuple[str, ...]
    prefix: str
    tensors: dict[str, AnyTensor]
    is_ours: bool

    @property
    def is_average(self) -> bool:
        return any(_AVERAGE.search(key.lower()) for key in (*self.keys, self.prefix))

    @property
    def rank(self) -> tuple[int, int]:
        """The less, the more usual is the place."""
        keys = [_KEYS.index(key) for key in self.keys if key in _KEYS]
        unusual = self.prefix != "" and self.prefix.partition(".")[0] not in _PREFIXES
        return min(keys, default=len(_KEYS) if self.keys else 0), int(unusual)

    def __str__(self) -> str:
        places = [*map(repr, self.keys), *([f"names in {self.prefix!r}"] if self.prefix else [])]
        return ", ".join(places) or "bare names"


def choose(tree: Any, kind: Kind[AnyTensor], wanted: Mapping[str, Any]) -> Chosen[AnyTensor]:
    """The network's tensors among all that ``tree``, dicts and lists with tensors of ``kind`` in them, holds.

    Args:
        tree: what a file holds.
        kind: the class of its tensors.
        wanted: ``{name: shape}`` of the network they are for; empty when it is not known.

    Raises:
        InputError: no state dict, or several of which none goes before the others.
    """
    found: list[_StateDict[AnyTensor]] = []
    outside: list[str] = []
    for keys, tensors in _named_tensors(tree, kind):
        several, rest = _without_prefix(keys, tensors)
        found += several
        outside += rest if several else []
    if not found:
        raise InputError(
            f"expected a state dict ({{name: tensor}}), alone or in the dicts of a checkpoint{_held(tree)}"
        )
    best, others = _best(found, wanted)
    average = " (averaged weights)" if best.is_average else ""
    notes = [f"taken from {best}{average}, also there: {'; '.join(map(str, others))}"] if others else []
    if outside:
        notes.append(f"{counted(len(outside), 'tensor')} left out ({', '.join(outside[:SHOWN])})")
    return Chosen(best.tensors, "; ".join(notes), best.is_ours)


def _held(tree: Any) -> str:
    """What a checkpoint without weights holds, in words."""
    if not isinstance(tree, dict):
        return ""
    if _is_optimizer(tree):
        return "; found the state of an optimizer alone"
    members = list(itertools.islice(dict.items(tree), SHOWN + 1))
    names = [f"{key!s:.40}{_kind_of(value)}" for key, value in members[:SHOWN]]
    more = ", ..." if len(members) > SHOWN else ""
    return f"; found {', '.join(names)}{more}" if names else "; found nothing"


def _kind_of(value: Any) -> str:
    if _is_optimizer(value):
        return " (the state of an optimizer)"
    return " (empty)" if isinstance(value, dict) and not dict.__len__(value) else ""


def _is_optimizer(value: Any) -> bool:
    """Whether a dict is the state of a torch optimizer, whose tensors are no weights."""
    return isinstance(value, dict) and {"state", "param_groups"} <= dict.keys(value)


def _best(
    found: list[_StateDict[AnyTensor]], wanted: Mapping[str, Any]
) -> tuple[_StateDict[AnyTensor], list[_StateDict[AnyTensor]]]:
    """(the state dict to take, others that could have been)."""
    fitting = [one for one in found if _shapes(one) == wanted] if wanted else []
    found = fitting or [one for one in found if one.is_ours] or found
    largest = max(len(one.tensors) for one in found)
    complete = [one for one in found if len(one.tensors) == largest]
    order = sorted(complete, key=lambda one: (not one.is_average, one.rank))
    first, *others = order
    if others and (first.is_average, first.rank) == (others[0].is_average, others[0].rank):
        each = "; ".join(map(str, order))
        raise InputError(f"several networks, of which none goes before the others: {each}; save one of them alone")
    return first, others


def _shapes(state: _StateDict[Any]) -> dict[str, tuple[int, ...]]:
    return {name: tensor.shape for name, tensor in state.tensors.items()}


def _named_tensors(tree: Any, kind: Kind[AnyTensor]) -> Iterator[tuple[tuple[str, ...], dict[str, AnyTensor]]]:
    """(keys that lead there, the tensors with a name) of every dict that has some."""
    waiting: deque[tuple[tuple[str, ...], Any]] = deque([((), tree)])
    seen: set[int] = set()
    while waiting and len(seen) < MAX_CONTAINERS:
        keys, value = waiting.popleft()
        if not isinstance(value, dict | list | tuple) or isinstance(value, kind) or id(value) in seen:
            continue
        if _is_optimizer(value):
            continue
        seen.add(id(value))
        members = _members(value, kind)
        tensors = {key: member for key, member in members if isinstance(member, kind) and isinstance(key, str)}
        if tensors:
            yield keys, tensors
        if len(keys) < MAX_DEPTH:
            waiting.extend(((*keys, str(key)), member) for key, member in members if isinstance(key, str | int))


def _members(value: dict | list | tuple, kind: Kind[Any]) -> list[tuple[Any, Any]]:
    """(key, value) of a dict, of a list of such pairs with tensors (``list(state_dict.items())``), or of a list."""
    if isinstance(value, dict):
        return list(dict.items(value))  # the dict's own method: a pickle may have set another as an attribute
    pairs = [each for each in value if isinstance(each, tuple) and len(each) == 2 and isinstance(each[1], kind)]
    is_named = len(pairs) == len(value) and all(isinstance(name, str) for name, _ in pairs)
    return pairs if is_named else list(enumerate(value))


def _without_prefix(
    keys: tuple[str, ...], tensors: dict[str, AnyTensor]
) -> tuple[list[_StateDict[AnyTensor]], list[str]]:
    """(the state dicts in one dict, one for each prefix of our layers' names; tensors of no such prefix)."""
    weights = {name: tensor for name, tensor in tensors.items() if name.rpartition(".")[2] not in _COUNTERS}
    prefixes = {prefix for name in weights if (prefix := _prefix_of(name)) is not None}
    if not prefixes:
        return ([_StateDict(keys, "", _unwrapped(weights), is_ours=False)] if weights else []), []
    grouped: dict[str, dict[str, AnyTensor]] = defaultdict(dict)
    outside = []
    for name, tensor in weights.items():
        prefix = next((start for start in _starts(name) if start in prefixes), None)
        if prefix is None:
            outside.append(name)
        else:
            grouped[prefix][our_name(name.removeprefix(prefix))] = tensor
    return [_StateDict(keys, prefix, members, is_ours=True) for prefix, members in grouped.items()], outside


def _starts(name: str) -> Iterator[str]:
    """``a.b.``, ``a.`` and the empty string for the name ``a.b.c``; of a long name the last ones alone."""
    for _ in range(MAX_PARTS):
        name = name.rpartition(".")[0]
        if not name:
            break
        yield f"{name}."
    yield ""


def _prefix_of(name: str) -> str | None:
    """What stands in front of our layer in the name of a tensor, with its dot; None without such a layer."""
    parts = name.split(".")
    at = next((index for index, part in enumerate(parts[:-1]) if part in _LAYERS), None)
    return None if at is None else "".join(f"{part}." for part in parts[:at])


def _unwrapped(tensors: dict[str, AnyTensor]) -> dict[str, AnyTensor]:
    """Names of another network without the usual wrappers in front."""
    named: dict[str, AnyTensor] = {}
    for name, tensor in tensors.items():
        short = name
        while "." in short and short.partition(".")[0] in _PREFIXES:
            short = short.partition(".")[2]
        if short in named:
            raise InputError("this tensor comes twice, with and without a wrapper's prefix", short)
        named[short] = tensor
    return named
