"""Fitting the latency predictor: nonnegative least squares on relative errors, and how far off it is on held-out ops.

    minimize   sum_i (sum_f a_f x_if / t_i - 1)^2   subject to   a >= 0

over the features of hardware/predictor.py. The feature set (core or full) and the channel tile (1, 8, 16) are chosen by
leave-one-block-out cross-validation; full is taken only when it is at least 3 % better, because it extrapolates worse.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from hardware.predictor import FEATURES, FIXED_RULES, PREDICTOR_FORMAT, FeatureSet, fixed_name, mbconv_features
from proxyless_arch.arch.ops import Bottleneck
from proxyless_arch.arch.walk import LayerCall
from proxyless_arch.base.errors import InputError

CHANNEL_TILES = (1, 8, 16)
FULL_MUST_GAIN = 0.03  # relative
MIN_OPS = 8

Row = Mapping[str, float]
Numbers = Sequence[float] | np.ndarray


class Op(NamedTuple):
    """A measured MBConv."""

    call: LayerCall
    ms: float


class Errors(NamedTuple):
    """Relative errors in percent: mean absolute and largest absolute."""

    mape: float
    max: float

    @classmethod
    def of(cls, predicted: np.ndarray, measured: np.ndarray) -> Errors:
        relative = 100 * np.abs(predicted / measured - 1)
        return cls(float(relative.mean()), float(relative.max()))

    def to_json(self) -> dict[str, float]:
        return {"mape": round(self.mape, 4), "max": round(self.max, 4)}


def nnls_relative(rows: Sequence[Row], ms: Numbers) -> dict[str, float]:
    """Coefficients >= 0 of the named features that minimize the squared relative error.

    Raises InputError for fewer rows than features, or times that are not above 0.
    """
    from scipy.optimize import nnls

    times = np.asarray(ms, dtype=np.float64)
    names = list(rows[0]) if rows else []
    if len(rows) < max(len(names), 1):
        raise InputError(f"expected at least {max(len(names), 1)} measured layers, got {len(rows)}", "entries")
    if not (np.isfinite(times) & (times > 0)).all():
        raise InputError("expected times above 0 ms", "ms")
    matrix = np.array([[row[name] for name in names] for row in rows])
    scale = np.maximum(np.abs(matrix).max(axis=0), 1e-30)  # columns of like size: nnls has an absolute tolerance
    solution, _ = nnls(matrix / scale / times[:, None], np.ones(len(times)))
    return dict(zip(names, (solution / scale).tolist(), strict=True))


def predicted(coefficients: Mapping[str, float], rows: Sequence[Row]) -> np.ndarray:
    """ms of each row."""
    return np.array([math.fsum(coefficients[name] * row[name] for name in coefficients) for row in rows])


def held_out(rows: Sequence[Row], ms: Numbers, groups: Sequence[Hashable]) -> Errors | None:
    """Errors on each group of rows by a fit on the others; None where there is one group only."""
    times, found = np.asarray(ms, dtype=np.float64), np.zeros(len(rows))
    kinds = list(dict.fromkeys(groups))
    if len(kinds) < 2:
        return None
    for kind in kinds:
        inside = [index for index, group in enumerate(groups) if group == kind]
        outside = [index for index, group in enumerate(groups) if group != kind]
        if len(outside) < len(rows[0]):
            return None
        coefficients = nnls_relative([rows[index] for index in outside], times[outside])
        found[inside] = predicted(coefficients, [rows[index] for index in inside])
    return Errors.of(found, times)


def row_of(call: LayerCall, feature_set: FeatureSet, channel_tile: int) -> dict[str, float]:
    """The features of a layer and the constant, as nnls_relative takes them."""
    features = mbconv_features(call, channel_tile)
    return {name: features[name] for name in FEATURES[feature_set]} | {"const_ms": 1.0}


def block_of(call: LayerCall) -> Hashable:
    """Layers of one place in a network: they differ in kernel and expansion alone."""
    return call.in_hwc, call.out_hwc


def _parts(call: LayerCall) -> Bottleneck:
    assert call.op.bottleneck is not None
    return call.op.bottleneck


GROUPS: Mapping[str, Callable[[LayerCall], Hashable]] = {
    "leave_one_block": block_of,
    "leave_one_kernel": lambda call: _parts(call).kernel_size,
    "leave_one_resolution": lambda call: call.in_hwc[0],
    "leave_one_expand": lambda call: _parts(call).hidden_channels / call.op.in_channels,
}


@dataclass(frozen=True)
class Fit:
    """A fitted predictor of MBConv layers; ``cv``: errors on held-out groups, None where there is one group only."""

    feature_set: FeatureSet
    channel_tile: int
    coefficients: Mapping[str, float]
    errors: Errors
    cv: Mapping[str, Errors | None]

    def ms(self, calls: Sequence[LayerCall]) -> np.ndarray:
        return predicted(self.coefficients, [row_of(call, self.feature_set, self.channel_tile) for call in calls])


def fit_fixed(ops: Sequence[Op], feature_set: FeatureSet, channel_tile: int) -> Fit:
    """The fit for one feature set and tile, with all its held-out errors."""
    rows, ms = [row_of(op.call, feature_set, channel_tile) for op in ops], [op.ms for op in ops]
    coefficients = nnls_relative(rows, ms)
    cv = {name: held_out(rows, ms, [group(op.call) for op in ops]) for name, group in GROUPS.items()}
    return Fit(feature_set, channel_tile, coefficients, Errors.of(predicted(coefficients, rows), np.array(ms)), cv)


def fit(ops: Sequence[Op]) -> Fit:
    """The fit whose feature set and tile have the least leave-one-block-out error (core unless full is 3 % better).

    Raises InputError for fewer than MIN_OPS measured layers, or layers of one block only.
    """
    if len(ops) < MIN_OPS:
        raise InputError(f"expected at least {MIN_OPS} measured MBConv layers, got {len(ops)}", "entries")
    best: dict[str, tuple[float, int]] = {}
    for feature_set, tile in itertools.product(("core", "full"), CHANNEL_TILES):
        name: FeatureSet = "core" if feature_set == "core" else "full"
        if len(ops) < len(FEATURES[name]) + 2:
            continue
        rows = [row_of(op.call, name, tile) for op in ops]
        errors = held_out(rows, [op.ms for op in ops], [block_of(op.call) for op in ops])
        if errors is not None:
            best[name] = min(best.get(name, (math.inf, 0)), (errors.mape, tile))
    if "core" not in best:
        raise InputError("expected measured MBConv layers of several shapes", "entries")
    full_wins = "full" in best and best["full"][0] <= (1 - FULL_MUST_GAIN) * best["core"][0]
    return fit_fixed(ops, "full" if full_wins else "core", best["full" if full_wins else "core"][1])


# Whole networks -----------------------------------------------------------------------------------------------------


class NetErrors(NamedTuple):
    """How predictions of whole networks compare with measurements that were not used to make them."""

    n: int
    rmse_ms: float
    mape: float
    bias_ms: float
    spearman: float
    kendall: float

    def to_json(self) -> dict[str, Any]:
        return {name: value if name == "n" else round(value, 4) for name, value in self._asdict().items()}


def net_errors(predicted_ms: Numbers, measured_ms: Numbers) -> NetErrors:
    """RMSE and bias in ms, MAPE in percent, rank correlations (0 where all are equal)."""
    from scipy.stats import kendalltau, spearmanr

    ours, truth = np.asarray(predicted_ms, dtype=np.float64), np.asarray(measured_ms, dtype=np.float64)
    if len(ours) != len(truth) or len(ours) < 3:
        raise ValueError("expected as many predictions as measurements, three or more")
    error = ours - truth
    constant = np.ptp(ours) == 0 or np.ptp(truth) == 0
    spearman, kendall = (0.0, 0.0) if constant else (spearmanr(ours, truth)[0], kendalltau(ours, truth)[0])
    return NetErrors(
        n=len(ours),
        rmse_ms=float(np.sqrt(np.mean(error**2))),
        mape=float(100 * np.mean(np.abs(error) / truth)),
        bias_ms=float(error.mean()),
        spearman=float(spearman),
        kendall=float(kendall),
    )


class Calibration(NamedTuple):
    """measured = scale * predicted + offset_ms, fitted on ``n_nets`` whole networks."""

    scale: float = 1.0
    offset_ms: float = 0.0
    n_nets: int = 0

    def __call__(self, predicted_ms: Numbers | float) -> np.ndarray:
        return self.scale * np.asarray(predicted_ms, dtype=np.float64) + self.offset_ms


def affine(predicted_ms: Numbers, measured_ms: Numbers) -> Calibration:
    """Scale and offset by least squares on relative errors; the scale alone where the offset is not determined."""
    ours, truth = np.asarray(predicted_ms, dtype=np.float64), np.asarray(measured_ms, dtype=np.float64)
    if len(ours) < 1:
        raise ValueError("expected at least one network")
    ratio = ours / truth
    if len(ours) >= 4 and np.ptp(ours) > 0.1 * ours.mean():
        (slope, offset), *_ = np.linalg.lstsq(np.c_[ratio, 1 / truth], np.ones(len(ours)), rcond=None)
        if slope > 0.1 * _scale(ratio):
            return Calibration(float(slope), float(offset), len(ours))
    return Calibration(_scale(ratio), 0.0, len(ours))


def _scale(ratio: np.ndarray) -> float:
    return float(ratio.sum() / (ratio**2).sum())


CALIBRATIONS: tuple[Callable[[Numbers, Numbers], Calibration], ...] = (
    lambda ours, truth: Calibration(1.0, 0.0, len(ours)),
    lambda ours, truth: Calibration(_scale(np.asarray(ours) / np.asarray(truth)), 0.0, len(ours)),
    affine,
)
MUST_GAIN = 0.1  # of the leave-one-out error, for a parameter more


def calibrate(predicted_ms: Numbers, measured_ms: Numbers) -> Calibration:
    """No calibration, a scale, or a scale and an offset: what a left-out network speaks for.

    Ten noisy networks determine two numbers badly; where predictions are right already, fitting them does harm.
    Raises ValueError without networks.
    """
    if len(predicted_ms) < 4:
        return affine(predicted_ms, measured_ms)
    ours, truth = np.asarray(predicted_ms, dtype=np.float64), np.asarray(measured_ms, dtype=np.float64)
    keep = ~np.eye(len(ours), dtype=bool)
    best, least = CALIBRATIONS[0], math.inf
    for candidate in CALIBRATIONS:
        left_out = [
            float(candidate(ours[others], truth[others])(ours[index]) / truth[index] - 1)
            for index, others in enumerate(keep)
        ]
        error = float(np.sqrt(np.mean(np.square(left_out))))
        if error < (1 - MUST_GAIN) * least:
            best, least = candidate, error
    return best(ours, truth)


# The predictor's file -----------------------------------------------------------------------------------------------


def _fixed_op(name: str, call: LayerCall, ms: float) -> dict[str, Any]:
    if call.op.pools_first:
        ref: dict[str, Any] = {"in": call.op.in_channels, "out": call.op.out_channels}
    else:
        ref = {"in": list(call.in_hwc), "out": list(call.out_hwc)}
    return {"rule": FIXED_RULES[name], "ref": ref, "ms": ms}


def predictor_json(
    found: Fit,
    measured: Sequence[tuple[LayerCall, float]],
    provenance: Mapping[str, Any],
    calibration: Calibration,
    net: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """The predictor in the format that hardware/predictor.py reads.

    Args:
        measured: every measured layer with its ms: the MBConvs of the fit and stem, feature mix and classifier.
        net: errors on whole networks with their ``truth``, or None.

    Raises:
        InputError: stem, feature mix or classifier was not measured.
    """
    fixed: dict[str, Any] = {}
    for call, ms in measured:
        name = fixed_name(call)
        if name is not None:
            fixed[name] = _fixed_op(name, call, ms)
    missing = [name for name in FIXED_RULES if name not in fixed]
    if missing:
        raise InputError(f"not measured: {', '.join(missing)} (stem, feature mix, classifier)", "entries")
    calls = [call for call, _ in measured if call.op.bottleneck is not None]
    parts = [_parts(call) for call in calls]
    ranges: dict[str, list[float]] = {
        "h": [value for call in calls for value in (*call.in_hwc[:2], *call.out_hwc[:2])],
        "cin": [call.op.in_channels for call in calls],
        "cout": [call.op.out_channels for call in calls],
        "mid": [part.hidden_channels for part in parts],
        "kernel": [part.kernel_size for part in parts],
        "expand": [part.expand_ratio for part in parts],
    }
    return {
        "format": PREDICTOR_FORMAT,
        "version": 1,
        "unit": "ms",
        "feature_unit": "1e6 multiply-accumulates or elements per image; a coefficient is ns per one of them",
        "provenance": dict(provenance) | {"n_ops": len(calls)},
        "model": {
            "kind": "nnls_roofline_sum",
            "loss": "relative",
            "padding": "symmetric",
            "channel_tile": found.channel_tile,
            "feature_set": found.feature_set,
            "coefficients": dict(found.coefficients),
        },
        "fixed_ops": fixed,
        "net_calibration": calibration._asdict(),
        "validity": {name: [min(values), max(values)] for name, values in ranges.items()},
        "error": {
            "fit": found.errors.to_json(),
            "cv": {name: None if errors is None else errors.to_json() for name, errors in found.cv.items()},
            "net": dict(net) if net is not None else None,
        },
    }
