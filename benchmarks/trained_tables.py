"""Tables of trained networks as spaces in which the accuracy and the cost of every network are known.

* NAS-Bench-Macro (github.com/xiusu/NAS-Bench-Macro, file data/nas-bench-macro_cifar10.json): 3^8 networks, CIFAR-10,
  three trainings each. Accuracy is the mean of the three.
* Accel-NASBench (github.com/afzalxo/Accel-NASBench, the folder of its JSON files as a .tar.gz): 5,138 networks of the
  MnasNet space, one shortened training each on ImageNet, with times measured on six devices. The space that is searched
  is its part without squeeze-and-excite and with expansion 4 or 6 (1 in the first stage): 2.4e7 networks, of which few
  were trained. Accuracy is what a ridge regression on pairs of factors predicts; time is additive over stages.

Both are Apache-2.0 and are not part of this project.
"""

from __future__ import annotations

import itertools
import json
import math
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path as FilePath
from typing import Any, Protocol

import numpy as np

from hardware.cost import CostTable, Path
from hardware.projection import Limit, window
from proxyless_arch.base.errors import InputError
from proxyless_arch.base.files import read_json
from proxyless_arch.base.strict import Node
from proxyless_arch.base.units import Unit

MACRO_FILE, ACCEL_FILE = "nas-bench-macro_cifar10.json", "accel_nasbench.tar.gz"
MACRO, ACCEL = "nas-bench-macro", "accel-nasbench"
WHERE = {
    MACRO_FILE: "github.com/xiusu/NAS-Bench-Macro has it, in data/",
    ACCEL_FILE: "github.com/afzalxo/Accel-NASBench has the folder of its JSON files, to be packed as .tar.gz",
}
MACS = "macs"
DEVICES = {
    "a100": ("throughput_a100", "throughput_mean"),
    "3090": ("throughput_3090", "throughput_mean"),
    "tpuv2": ("throughput_tpuv2", "throughput_mean"),
    "tpuv3": ("throughput_tpuv3", "throughput_mean"),
    "zcu102": ("latency_zcu102", "latency_mean"),
    "vck190": ("latency_vck190", "latency_mean"),
}
COSTS = (MACS, *DEVICES)

MACRO_LOWER = 0.9  # of the target: 6,561 networks are few
STAGES = 7
FACTORS = ("e", "k", "l", "se")
EXPANSIONS, KERNELS, EXCITES = (1, 4, 6), (3, 5), (False, True)
LAYERS = (*[(1, 2, 3)] * 5, (1, 2, 3, 4), (1, 2, 3))
FEWEST_TRAINED = 1000  # networks of Accel-NASBench that the regression needs
PENALTIES = (0.1, 0.3, 1.0, 3.0, 10.0)  # of pairs of factors; the first with the least error on held-out networks

Stage = tuple[int, int, int, int]  # expansion, kernel size, layers, squeeze-and-excite


# Accuracy of every network ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PairwiseAccuracy:
    """constant + sum_b single[b][j_b] + sum_{b<c} pairs[b, c][j_b, j_c], in points."""

    constant: float
    single: tuple[np.ndarray, ...]
    pairs: dict[tuple[int, int], np.ndarray]

    @cached_property
    def _lists(self) -> tuple[list[list[float]], list[tuple[int, int, list[list[float]]]]]:
        """``single`` and ``pairs`` as plain numbers, which one network alone reads faster."""
        pairs = [(one, other, both.tolist()) for (one, other), both in self.pairs.items()]
        return [values.tolist() for values in self.single], pairs

    def of(self, path: Path) -> float:
        """Of one network: a tenth of the time of an array."""
        single, pairs = self._lists
        total = self.constant + sum(values[choice] for values, choice in zip(single, path, strict=True))
        return total + sum(both[path[one]][path[other]] for one, other, both in pairs)

    def __call__(self, paths: np.ndarray) -> np.ndarray:
        """Of ``paths`` (n, blocks)."""
        total = np.full(len(paths), self.constant)
        for block, values in enumerate(self.single):
            total += values[paths[:, block]]
        for (one, other), both in self.pairs.items():
            total += both[paths[:, one], paths[:, other]]
        return total


@dataclass(frozen=True)
class ListedAccuracy:
    """One value per network, ``values[j_0, j_1, ...]``, in points."""

    values: np.ndarray

    def of(self, path: Path) -> float:
        return float(self.values[path])

    def __call__(self, paths: np.ndarray) -> np.ndarray:
        return self.values[tuple(paths.T)]


class Accuracy(Protocol):
    """What a network is worth, in points."""

    def of(self, path: Path) -> float:
        """Of one network."""

    def __call__(self, paths: np.ndarray) -> np.ndarray:
        """Of ``paths`` (n, blocks)."""


@dataclass(frozen=True)
class Oracle:
    """A space, the cost of its networks by ``cost``, and their accuracy.

    ``attributes[b][j]``: what choice j of block b consists of. ``error``: of the costs, relative, 90 % are within it.
    """

    table: str
    cost: str
    limit: Limit
    accuracy: Accuracy
    attributes: tuple[tuple[tuple[Any, ...], ...], ...]

    @property
    def sizes(self) -> list[int]:
        return [len(group) for group in self.limit.table.groups]

    def of(self, path: Path) -> float:
        return self.accuracy.of(path)

    def within(self, chunk: int = 2**18) -> Iterator[np.ndarray]:
        """Every network within the limit, (n, blocks), in parts: the space is enumerated."""
        sizes, table = self.sizes, self.limit.table
        groups = [np.asarray(group) for group in table.groups]
        total = math.prod(sizes)
        for start in range(0, total, chunk):
            paths = np.array(np.unravel_index(np.arange(start, min(start + chunk, total)), sizes)).T
            cost = table.fixed + sum(group[paths[:, block]] for block, group in enumerate(groups))
            kept = paths[(cost >= self.limit.lower) & (cost <= self.limit.upper)]
            if len(kept):
                yield kept

    @cached_property
    def networks(self) -> tuple[np.ndarray, np.ndarray]:
        """Every network within the limit, (n, blocks), and its accuracy. Raises InputError where there is none."""
        paths = list(self.within())
        if not paths:
            raise InputError("expected networks within the limit, got none", self.cost)
        every = np.concatenate(paths).astype(np.int8)
        return every, self.accuracy(every)

    @cached_property
    def summary(self) -> Summary:
        """Of all networks within the limit, by enumeration."""
        paths, values = self.networks
        best = int(values.argmax())
        return Summary(
            len(values), float(values.mean()), float(values.std()), float(values[best]), tuple(paths[best].tolist())
        )

    def share(self, accuracy: float) -> float:
        """Of what the best network gains over the mean of all within the limit."""
        return (accuracy - self.summary.mean) / (self.summary.best - self.summary.mean)


@dataclass(frozen=True)
class Summary:
    """Networks within a limit: how many, mean and standard deviation of their accuracy, the best and its accuracy."""

    count: int
    mean: float
    sd: float
    best: float
    best_path: Path


# Reading -------------------------------------------------------------------------------------------------------------


def data_file(folder: FilePath, name: str) -> FilePath:
    """Raises InputError where it is missing, saying where it is to be had."""
    if not (folder / name).is_file():
        raise InputError(f"no such file; {WHERE[name]}", str(folder / name))
    return folder / name


def read_macro(file: FilePath) -> Oracle:
    """NAS-Bench-Macro with MACs as the cost. Raises InputError for a damaged file."""
    networks = dict(Node(read_json(file)).items())
    names = ["".join(map(str, digits)) for digits in itertools.product(range(3), repeat=8)]
    lacking = [name for name in names if name not in networks]
    if lacking:
        raise InputError(f"expected {len(names)} networks, got {len(networks)}; {lacking[0]} is missing", "", str(file))
    try:
        values = np.array([_member(networks[name], "mean_acc").number(0, 100) for name in names])
        flops = {name: _member(networks[name], "flops").number(0) for name in names}
    except InputError as error:
        raise error.from_source(str(file)) from None
    base = flops["0" * 8]
    groups = tuple(
        tuple(flops["0" * block + str(choice) + "0" * (7 - block)] - base for choice in range(3)) for block in range(8)
    )
    table = CostTable(base, groups, Unit.MACS, "NAS-Bench-Macro")
    kinds = tuple((("identity",), ("k3", "e3"), ("k5", "e6")) for _ in range(8))
    return Oracle(
        MACRO, MACS, window(table, table.uniform_expected, MACRO_LOWER), ListedAccuracy(values.reshape((3,) * 8)), kinds
    )


@dataclass(frozen=True)
class Trained:
    """The networks of Accel-NASBench: ``stages[n]``, top-1 in points, and by cost MACs or ms per image."""

    stages: tuple[tuple[Stage, ...], ...]
    top1: np.ndarray
    costs: dict[str, np.ndarray]

    def part(self, index: np.ndarray) -> Trained:
        return Trained(
            tuple(self.stages[i] for i in index), self.top1[index], {k: v[index] for k, v in self.costs.items()}
        )


def read_accel(file: FilePath) -> Trained:
    """Raises InputError for an archive that is cut or holds something else."""
    records = []
    try:
        with tarfile.open(file) as archive:
            for member in archive:
                if member.isfile() and member.name.endswith(".json"):
                    stream = archive.extractfile(member)
                    assert stream is not None
                    records.append(_trained(member.name, stream.read()))
    except (tarfile.TarError, EOFError, OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise error.from_source(str(file)) from None
        raise InputError(
            f"expected a whole .tar.gz, got one that ends or is damaged ({error})", "", str(file)
        ) from None
    if len(records) < FEWEST_TRAINED:
        raise InputError(f"expected {FEWEST_TRAINED} networks or more, got {len(records)}", "", str(file))
    stages, top1, costs = zip(*records, strict=True)
    return Trained(stages, np.array(top1), {key: np.array([each[key] for each in costs]) for key in COSTS})


def _trained(name: str, content: bytes) -> tuple[tuple[Stage, ...], float, dict[str, float]]:
    try:
        node = Node(json.loads(content), name)
    except ValueError:
        raise InputError("expected JSON", name) from None
    arch, times = _member(node, "architecture"), _member(node, "platform_perf")
    stages = []
    for index, layers in enumerate(LAYERS):
        factors = zip(FACTORS, (EXPANSIONS, KERNELS, layers, EXCITES), strict=True)
        stages.append(tuple(_member(arch, f"block{index}_{factor}").exactly(*allowed) for factor, allowed in factors))
    costs = {MACS: 1e6 * _member(_member(node, "model_info"), "macs").number(0)}
    for device, (group, key) in DEVICES.items():
        known = _member(_member(times, group), key)
        value = math.nan if known.value is None else known.number(1e-9)  # some were not measured
        costs[device] = value if group.startswith("latency") else 1000 / value
    return tuple(stages), _member(_member(node, "metrics"), "val_top1").number(0, 100), costs


def _member(node: Node, key: str) -> Node:
    """A member of an object that has others as well. Raises InputError."""
    if not isinstance(node.value, dict) or key not in node.value:
        raise InputError("missing", f"{node.path}.{key}")
    return Node(node.value[key], f"{node.path}.{key}")


# What was trained, as a space ----------------------------------------------------------------------------------------


def _one_hot(stages: Sequence[Sequence[Stage]]) -> np.ndarray:
    """(n, levels) of every factor of every stage."""
    values = np.array(stages)  # (n, stages, factors)
    columns = [
        values[:, stage, factor : factor + 1] == np.array(levels)
        for stage in range(STAGES)
        for factor, levels in enumerate((EXPANSIONS, KERNELS, LAYERS[stage], EXCITES))
    ]
    return np.concatenate(columns, axis=1).astype(float)


@cache
def _level_owner() -> np.ndarray:
    """(levels,): the factor, counted over all stages, that each column of _one_hot belongs to."""
    sizes = [len(levels) for stage in range(STAGES) for levels in (EXPANSIONS, KERNELS, LAYERS[stage], EXCITES)]
    return np.repeat(np.arange(len(sizes)), sizes)


@cache
def _pair_columns() -> tuple[np.ndarray, np.ndarray]:
    """The columns of _one_hot whose products are the pairs of levels of two factors."""
    owner = _level_owner()
    one, other = np.triu_indices(len(owner), 1)
    apart = owner[one] != owner[other]
    return one[apart], other[apart]


@dataclass(frozen=True)
class FactorFit:
    """Ridge regression on levels of factors and, where ``pairs`` is given, on their pairs. In the unit of the values.

    ``residual_sd``: on networks held out, a fifth of them.
    """

    constant: float
    single: np.ndarray
    pairs: np.ndarray
    penalty: float
    residual_sd: float

    def predict(self, stages: Sequence[Sequence[Stage]]) -> np.ndarray:
        levels = _one_hot(stages)
        one, other = _pair_columns()
        return self.constant + levels @ self.single + (levels[:, one] * levels[:, other]) @ self.pairs


def fit_accuracy(trained: Trained) -> FactorFit:
    """The accuracy by factors and their pairs. Penalty: the best of PENALTIES on a fifth of the networks."""
    levels = _one_hot(trained.stages)
    one, other = _pair_columns()
    features = np.concatenate([levels, levels[:, one] * levels[:, other]], axis=1)
    held = np.arange(len(features)) % 5 == 0
    mean = trained.top1.mean()
    values = trained.top1 - mean
    rest = features[~held]
    gram, moments = rest.T @ rest, rest.T @ values[~held]
    diagonal = np.eye(len(gram))
    errors = {}
    for penalty in PENALTIES:
        coefficients = np.linalg.solve(gram + penalty * diagonal, moments)
        errors[penalty] = float(np.std(features[held] @ coefficients - values[held]))
    penalty = min(errors, key=lambda each: errors[each])
    gram, moments = gram + features[held].T @ features[held], moments + features[held].T @ values[held]
    coefficients = np.linalg.solve(gram + penalty * diagonal, moments)
    n_levels = levels.shape[1]
    return FactorFit(float(mean), coefficients[:n_levels], coefficients[n_levels:], penalty, errors[penalty])


def searched_choices() -> tuple[tuple[Stage, ...], ...]:
    """The part of the space that is searched: no squeeze-and-excite, expansion 4 or 6, and 1 in the first stage."""
    return tuple(
        tuple(
            (e, k, layers, False) for e in ((1,) if stage == 0 else (4, 6)) for k in KERNELS for layers in LAYERS[stage]
        )
        for stage in range(STAGES)
    )


def by_stage(fitted: FactorFit, choices: Sequence[Sequence[Stage]]) -> PairwiseAccuracy:
    """``fitted`` as a function of one choice per stage: a pair of factors of one stage is the stage's own."""
    base = tuple(group[0] for group in choices)

    def changed(*moves: tuple[int, Stage]) -> tuple[Stage, ...]:
        stages = list(base)
        for stage, choice in moves:
            stages[stage] = choice
        return tuple(stages)

    constant = float(fitted.predict([base])[0])
    single = tuple(fitted.predict([changed((s, c)) for c in group]) - constant for s, group in enumerate(choices))
    pairs = {}
    for one, other in itertools.combinations(range(len(choices)), 2):
        both = fitted.predict([changed((one, a), (other, b)) for a in choices[one] for b in choices[other]])
        table = both.reshape(len(choices[one]), len(choices[other])) - constant
        pairs[one, other] = table - single[one][:, None] - single[other][None, :]
    return PairwiseAccuracy(constant, single, pairs)


def middling(table: CostTable) -> float:
    """A target halfway between the cheapest network and the mean of all."""
    return (table.minimum + table.uniform_expected) / 2


def cost_table(trained: Trained, cost: str, choices: Sequence[Sequence[Stage]]) -> tuple[CostTable, float]:
    """(the cost of every choice of every stage; the relative error that 90 % of the networks stay below)."""
    every = [list(itertools.product(EXPANSIONS, KERNELS, LAYERS[stage], EXCITES)) for stage in range(STAGES)]
    columns = [
        np.array([[network[stage] == choice for choice in every[stage]] for network in trained.stages], dtype=float)
        for stage in range(STAGES)
    ]
    measured = np.isfinite(trained.costs[cost])
    features = np.concatenate([np.ones((len(trained.top1), 1)), *columns], axis=1)[measured]
    gram = features.T @ features + 1e-6 * np.eye(features.shape[1])
    values = trained.costs[cost][measured]
    coefficients = np.linalg.solve(gram, features.T @ values)
    error = float(np.quantile(np.abs(features @ coefficients / values - 1), 0.9))
    fixed, groups, start = float(coefficients[0]), [], 1
    for stage, group in enumerate(choices):
        prices = [float(coefficients[start + every[stage].index(choice)]) for choice in group]
        fixed += min(prices)
        groups.append(tuple(price - min(prices) for price in prices))
        start += len(every[stage])
    unit = Unit.MACS if cost == MACS else Unit.MS
    return CostTable(fixed, tuple(groups), unit, f"Accel-NASBench, {cost}"), error


def accel_oracle(trained: Trained, accuracy: PairwiseAccuracy, cost: str, target: float | None = None) -> Oracle:
    """The searched part of the space at ``target`` (middling)."""
    choices = searched_choices()
    table, _ = cost_table(trained, cost, choices)
    limit = window(table, middling(table) if target is None else target)
    kinds = tuple(tuple((f"e{e}", f"k{k}", f"l{layers}") for e, k, layers, _ in group) for group in choices)
    return Oracle(ACCEL, cost, limit, accuracy, kinds)
