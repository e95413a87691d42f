"""Networks found at the measured time of hand-made layouts, judged by a model that did not find them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from benchmarks.trained_tables import (
    LAYERS,
    MACS,
    STAGES,
    PairwiseAccuracy,
    Trained,
    accel_oracle,
    by_stage,
    cost_table,
    fit_accuracy,
    searched_choices,
)
from hardware.cost import Path
from hardware.projection import Limit

KERNELS = {"EfficientNet-B0": (3, 3, 5, 3, 5, 5, 3), "MobileNetV2": (3,) * STAGES}
DEPTHS = {"EfficientNet-B0": (1, 2, 2, 3, 3, 4, 1), "MobileNetV2": (1, 2, 3, 4, 3, 3, 1)}
CASES = (
    ("EfficientNet-B0", "a100"),
    ("MobileNetV2", "tpuv3"),
    ("EfficientNet-B0", "vck190"),
    ("MobileNetV2", "zcu102"),
)
DRAWS, OF = 500, 20  # best of 20 random networks, so often
STEP = 0.01  # relative, of the MACs at which the best are looked for


@dataclass(frozen=True)
class Headline:
    """Top-1 in points at the measured time of ``layout`` on ``cost``, the mean of both ways of halving."""

    layout: str
    cost: str
    hand_made: float
    random_mean: float
    best_of_20: float
    searched: float
    by_macs: float


def layout_path(layout: str) -> Path:
    """The layout in the space that is searched: no squeeze-and-excite, as many layers as a stage may have."""
    path = []
    for stage, group in enumerate(searched_choices()):
        expansion, layers = 1 if stage == 0 else 6, min(DEPTHS[layout][stage], max(LAYERS[stage]))
        path.append(group.index((expansion, KERNELS[layout][stage], layers, False)))
    return tuple(path)


def headlines(trained: Trained) -> list[Headline]:
    """Of every case; half of the networks, drawn once, are one model's."""
    order = np.random.default_rng(0).permutation(len(trained.top1))
    halves = [order[: len(order) // 2], order[len(order) // 2 :]]
    models = [by_stage(fit_accuracy(trained.part(half)), searched_choices()) for half in halves]
    frontiers = [best_by_macs(trained, model) for model in models]
    found = []
    for layout, cost in CASES:
        ways = [
            judged(trained, layout, cost, models[finder], models[1 - finder], frontiers[finder]) for finder in (0, 1)
        ]
        found.append(Headline(layout, cost, *(float(np.mean(values)) for values in zip(*ways, strict=True))))
    return found


def judged(
    trained: Trained, layout: str, cost: str, finder: PairwiseAccuracy, judge: PairwiseAccuracy, frontier: np.ndarray
) -> tuple[float, float, float, float, float]:
    """(hand-made, random mean, best of 20, searched, by MACs), found by one model and judged by the other."""
    table, _ = cost_table(trained, cost, searched_choices())
    hand = layout_path(layout)
    oracle = accel_oracle(trained, finder, cost, table.of_path(hand))
    others = np.concatenate(list(oracle.within()))
    by_finder, by_judge = finder(others), judge(others)
    draws = np.random.default_rng(1).integers(0, len(others), (DRAWS, OF))
    picked = draws[np.arange(DRAWS), by_finder[draws].argmax(axis=1)]
    in_time = frontier[[table.of_path(tuple(path)) <= oracle.limit.upper for path in frontier.tolist()]]
    scaled = in_time[finder(in_time).argmax()]
    accuracies = judge(np.array([hand, others[by_finder.argmax()], scaled]))
    return (
        float(accuracies[0]),
        float(by_judge.mean()),
        float(by_judge[picked].mean()),
        float(accuracies[1]),
        float(accuracies[2]),
    )


def best_by_macs(trained: Trained, accuracy: PairwiseAccuracy) -> np.ndarray:
    """(n, stages): the most accurate network at each number of MACs, in steps of STEP."""
    oracle = accel_oracle(trained, accuracy, MACS)
    whole = replace(oracle, limit=Limit(oracle.limit.table, np.inf))
    groups = [np.asarray(group) for group in whole.limit.table.groups]
    best: dict[int, tuple[float, Sequence[int]]] = {}
    for paths in whole.within():
        macs = whole.limit.table.fixed + np.sum([group[paths[:, b]] for b, group in enumerate(groups)], axis=0)
        values, bins = accuracy(paths), np.floor(np.log(macs) / STEP).astype(int)
        order = np.lexsort((-values, bins))
        _, first = np.unique(bins[order], return_index=True)
        for index in order[first]:
            if values[index] > best.get(int(bins[index]), (-np.inf, ()))[0]:
                best[int(bins[index])] = float(values[index]), paths[index]
    return np.array([path for _, path in best.values()])
