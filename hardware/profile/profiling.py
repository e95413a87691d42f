"""Profile -> fit -> validate: from a search space and a runtime to a latency table that whole networks vouch for.

What is measured. ``isolated`` times every unique operation by itself. Runtimes fuse, reorder memory layouts and keep
caches differently inside a network, so ``in_network`` also times whole networks whose blocks all vary, and solves for
the operations:

    minimize   sum_n ((sum_k x_nk a_k + c - t_n) / t_n)^2 / s^2  +  sum_k ((a_k - p_k) / p_k)^2 / tau^2,   a >= 0

where x_nk counts operation k in network n and p is the isolated time, scaled to the networks. The isolated times
decide what the networks leave open; tau, how far they are trusted, is chosen by cross-validation over networks.

How. Cases are shuffled in every round. A machine's speed wanders by some per cent within seconds, so an anchor network
is timed just before and just after every case, and the case's time is given at the anchor's median speed:

    t = t_now * anchor_median / mean(anchor_before, anchor_after)

A round in which the anchor moves far is repeated all the same, and so is what is noisy. The statistic is the median
over rounds of the median in a round. Every timing is a line of raw.jsonl when it is done, so that nothing is measured
twice after an interruption. The solution makes the table where it gains a tenth of the error of the isolated times, by
cross-validation over the networks to solve from; else these do. The figures are those of other networks.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np

from hardware.formats import MAX_MS, parse_ms
from hardware.latency import parse_latency_source
from hardware.predictor import Predictor
from hardware.profile.fit import (
    MUST_GAIN,
    Calibration,
    Fit,
    NetErrors,
    Op,
    affine,
    calibrate,
    fit,
    net_errors,
    predictor_json,
)
from hardware.profile.measure import Runtime
from hardware.table import LayerKey, LookupTable, Timing, layer_key
from proxyless_arch.arch.walk import LayerCall, walk
from proxyless_arch.base.errors import InputError
from proxyless_arch.base.files import parse_json, read_bytes
from proxyless_arch.base.runs import MetricsFile
from proxyless_arch.base.strict import Node, shown
from proxyless_arch.base.timing import MAX_DRIFT, Session, Stopwatch, Times, anchor_drift, measure, steady_rounds
from proxyless_arch.data.streams import Stream, numpy_rng
from proxyless_arch.space.search_space import Path as Choices
from proxyless_arch.space.search_space import SearchSpace, Width

RAW_FORMAT, RAW_VERSION = "proxyless-latency/raw", 2
OPS, NETWORKS = "ops", "networks"  # phases
MAX_MAPE, MIN_KENDALL, MIN_SCORED = 5.0, 0.9, 30  # the gate
TAUS = (0.003, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
NETWORK_NOISE = 0.01  # s above; only its ratio to tau matters
FOLDS = 5
NOW_TIMES = 9
SAMPLED = 5
REPEATS = 2  # of what is noisy; in the log, rounds below 0
HUBER_STEPS, HUBER_LIMIT = 3, 2.0  # limit in standard deviations of the residuals


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How much is measured and what is repeated. Limits are relative: 0.03 is 3 %."""

    rounds: int = 3
    runs: int = 10
    warmup: int = 5
    min_ms: float = 2.0
    design_nets: int = 160
    validation_nets: int = 40
    calibration_nets: int = 10
    anchor_runs: int = 5  # before a case, and after it
    max_drift: float = MAX_DRIFT
    max_spread: float = 0.05
    extra_rounds: int = 2
    seed: int = 0


QUICK = Protocol(rounds=2, runs=6, warmup=3, design_nets=70, extra_rounds=1)


class Case(NamedTuple):
    """Something to time: an operation or a whole network."""

    name: str
    calls: tuple[LayerCall, ...]


def unique_ops(space: SearchSpace, more: Iterable[LayerCall] = ()) -> dict[LayerKey, LayerCall]:
    """Every operation of the space with a price, once; of a width that is chosen, beside each before it. Behind them
    those of ``more``."""
    found: dict[LayerKey, LayerCall] = {}
    for call in itertools.chain(space.layer_calls, more):
        for part in call.parts:
            key = layer_key(part)
            if key is not None:
                found.setdefault(key, part)
    return found


def _sizes_of_choices(space: SearchSpace) -> list[list[float]]:
    """Of each entry of a path: how large its choices are, in multiply-adds or channels."""
    edges = iter(space.edge_calls)
    return [
        list(map(float, each.options)) if isinstance(each, Width) else [float(call.macs) for call in next(edges)]
        for _, each in space.entries
    ]


def sample_paths(space: SearchSpace, count: int, rng: np.random.Generator) -> list[Choices]:
    """Different networks: every other one uniform, the others tilted to light or heavy choices.

    Uniform samples alone crowd around the mean of the space; a search lands where few of them are.
    """
    weights = []
    for sizes in _sizes_of_choices(space):
        values = np.array(sizes)
        weights.append((values - values.mean()) / max(float(values.std()), 1e-9))
    found: dict[Choices, None] = {}
    while len(found) < min(count, space.size):
        tilt = rng.uniform(-2, 2) if len(found) % 2 else 0.0
        path = []
        for weight in weights:
            odds = np.exp(tilt * weight)
            path.append(int(rng.choice(len(weight), p=odds / odds.sum())))
        found[tuple(path)] = None
    return list(found)


def network_case(space: SearchSpace, path: Choices) -> Case:
    return Case("net " + ".".join(map(str, path)), walk(space.spec_for(path)))


@dataclass(frozen=True)
class Plan:
    """All that is measured of a space. ``validation``: first the networks that calibrate, then those that score."""

    ops: Mapping[LayerKey, LayerCall]
    design: tuple[Choices, ...]
    validation: tuple[Choices, ...]
    space: SearchSpace

    @classmethod
    def of(cls, space: SearchSpace, protocol: Protocol, method: str, more: Iterable[LayerCall] = ()) -> Plan:
        """Of all operations of a space; ``more``: layers that no network of it has, which are timed alone."""
        n_design = protocol.design_nets if method == "in_network" else 0
        rng = np.random.default_rng(protocol.seed)  # no number: exported networks must be found again
        paths = sample_paths(space, n_design + protocol.validation_nets, rng)
        # first the validation networks, so that they are the same for either method
        cut = protocol.validation_nets
        return cls(unique_ops(space, more), tuple(paths[cut:]), tuple(paths[:cut]), space)

    def op_cases(self) -> list[Case]:
        return [Case(str(key), (call,)) for key, call in self.ops.items()]

    def network_cases(self) -> list[Case]:
        return [network_case(self.space, path) for path in (*self.design, *self.validation)]


# What was measured --------------------------------------------------------------------------------------------------


@dataclass
class Anchor:
    """The network that is timed beside every other: every block's second choice, or the one given by its layers.

    Its session is built once.
    """

    runtime: Runtime
    space: SearchSpace
    batch_size: int
    runs: int = 5
    min_ms: float = 2.0
    calls: tuple[LayerCall, ...] | None = None
    _session: Session | None = None

    def ms(self) -> float:
        """What it takes at this moment."""
        if self._session is None:
            calls = self.calls or walk(self.space.spec_for(self.space.same_choice(1)))
            self._session = self.runtime.session(calls, self.batch_size)
            self._session.times(self.runs)
        return float(np.median(measure(self._session, runs=self.runs, warmup=1, min_ms=self.min_ms).ms))

    def now(self) -> float:
        """The median of some times in a row."""
        return float(np.median([self.ms() for _ in range(NOW_TIMES)]))


class Timed(NamedTuple):
    """The timings of a case in a round, and the anchor's time just before and after them, in ms."""

    times: Times
    anchor_ms: tuple[float, float]

    @property
    def beside(self) -> float:
        return sum(self.anchor_ms) / 2


def _timed(line: Node) -> tuple[tuple[str, int, str], Timed]:
    """((phase, round, case), its timings) of a line of raw.jsonl. Raises InputError."""
    parts = line.fields(("phase", "round", "case", "ms", "other_ms", "anchor_ms"))
    key = parts["phase"].text(), parts["round"].integer(-REPEATS), parts["case"].text()
    times = Times(
        tuple(map(parse_ms, parts["ms"].elements(1))),
        tuple(each.number(0, MAX_MS) for each in parts["other_ms"].elements()),
    )
    before, after = map(parse_ms, parts["anchor_ms"].elements(2, 2))
    return key, Timed(times, (before, after))


class RawLog:
    """raw.jsonl: a header with the conditions, then one line per timing of a case in a round, only ever appended.

    Raises InputError when the file holds the timings of other conditions, or is not such a file. A line that a kill
    cut off is dropped.
    """

    def __init__(self, path: Path, conditions: Mapping[str, Any]) -> None:
        self.path = path
        self._done: dict[tuple[str, int, str], Timed] = {}
        header = {"format": RAW_FORMAT, "version": RAW_VERSION, "conditions": dict(conditions)}
        whole = self._read(header) if path.exists() else 0
        # not synced, which would stand between two timings
        self._file = MetricsFile(path.parent, whole if path.exists() else None, name=path.name, synced=False)
        if not whole:
            self._file.append(header)

    def _read(self, header: Mapping[str, Any]) -> int:
        """Take in what is there; the number of bytes of whole lines."""
        content = read_bytes(self.path)
        whole = content.rfind(b"\n") + 1
        lines = content[:whole].splitlines()
        if not lines:
            return 0
        source = str(self.path)
        first = parse_json(lines[0], source)
        if not isinstance(first, dict) or first.get("format") != RAW_FORMAT or first.get("version") != RAW_VERSION:
            found = first.get("version") if isinstance(first, dict) else None
            raise InputError(
                f"expected timings of {RAW_FORMAT}, version {RAW_VERSION}, got {found!r}: choose another --output",
                "line 1",
                source,
            )
        theirs, ours = first.get("conditions", {}), header["conditions"]
        if not isinstance(theirs, dict):
            raise InputError(f"expected an object, got {shown(theirs)}", "line 1: conditions", source)
        different = [name for name in {**ours, **theirs} if theirs.get(name) != ours.get(name)]
        if different:
            texts = ", ".join(f"{name} {theirs.get(name)!r}, now {ours.get(name)!r}" for name in sorted(different))
            raise InputError(f"holds the timings of other conditions ({texts}): choose another --output", "", source)
        for number, line in enumerate(lines[1:], start=2):
            try:
                key, timed = _timed(Node(parse_json(line, source)))
            except InputError as error:
                raise InputError(error.problem, f"line {number}: {error.place}".removesuffix(": "), source) from None
            self._done[key] = timed
        return whole

    def get(self, phase: str, number: int, case: str) -> Timed | None:
        return self._done.get((phase, number, case))

    def add(self, phase: str, number: int, case: str, timed: Timed) -> None:
        """Append one timing. Raises InputError when a time is not above 0 (a broken clock)."""
        times = timed.times
        if not times.ms or not all(0 < value < math.inf for value in (*times.ms, *timed.anchor_ms)):
            raise InputError(f"expected times above 0 ms, got {times.ms[:3]}, anchor {timed.anchor_ms}", case)
        self._done[phase, number, case] = timed
        told = {"phase": phase, "round": number, "case": case}
        self._file.append(told | times._asdict() | {"anchor_ms": timed.anchor_ms})

    def __len__(self) -> int:
        return len(self._done)

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> RawLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Measured(NamedTuple):
    """A case over its rounds, in ms: median of round medians, their standard deviation, rounds and timings.

    ``ms`` and ``sd`` are at the anchor's reference speed, ``raw_ms`` is what the clock said. ``other_ms`` is the
    statistic of ``ms`` by the runtime's other clock. ``anchor_ms``: what the anchor took beside it.
    """

    ms: float
    sd: float
    rounds: int
    n: int
    other_ms: float
    raw_ms: float = math.nan
    anchor_ms: float = math.nan

    @property
    def noise(self) -> float:
        """Standard error of ``ms``, relative: that of a median of normal values."""
        return math.sqrt(math.pi / 2 / self.rounds) * self.sd / self.ms


class Phase(NamedTuple):
    """The timings of each case in the rounds that count, how far the anchor moved in them, and how many rounds were
    repeated."""

    cases: dict[str, list[Timed]]
    drift: float
    repeated: int


def anchor_median(found: Iterable[Timed]) -> float:
    """The anchor's median time beside all these timings: the speed at which times are given."""
    return float(np.median([ms for timed in found for ms in timed.anchor_ms]))


def combined(found: Sequence[Timed], reference_ms: float) -> Measured:
    """The statistic of a case at the speed at which the anchor takes ``reference_ms``."""
    factors = [reference_ms / timed.beside for timed in found]
    raw = [float(np.median(timed.times.ms)) for timed in found]
    medians = [factor * value for factor, value in zip(factors, raw, strict=True)]
    others = [factor * float(np.median(timed.times.other_ms)) for factor, timed in zip(factors, found, strict=True)
              if timed.times.other_ms]  # fmt: skip
    return Measured(
        float(np.median(medians)), float(np.std(medians, ddof=1)) if len(medians) > 1 else 0.0, len(found),
        sum(len(timed.times.ms) for timed in found), float(np.median(others)) if others else math.nan,
        float(np.median(raw)), float(np.median([timed.beside for timed in found])),
    )  # fmt: skip


def effort(case: Case, protocol: Protocol) -> float:
    """How long a case takes relative to others, for the progress bar: building it, running it, and the anchor."""
    total = sum(call.macs for call in case.calls)
    return 3e6 * len(case.calls) + total * (protocol.runs + protocol.warmup) / 15 + 1e8


def time_once(anchor: Anchor, calls: Sequence[LayerCall], runs: int, warmup: int, min_ms: float) -> Timed:
    """One case in a session of its own, between two timings of the anchor."""
    session = anchor.runtime.session(calls, anchor.batch_size)
    before = anchor.ms()
    times = measure(session, runs=runs, warmup=warmup, min_ms=min_ms)
    return Timed(times, (before, anchor.ms()))


@dataclass
class Bench:
    """A runtime (the anchor's), its log and the protocol: measures cases, or takes them from the log.

    ``tick(effort)`` is called after every timing, whether it was measured now or read; ``more(effort)`` before what
    was not planned.
    """

    anchor: Anchor
    log: RawLog
    protocol: Protocol
    tick: Callable[[float], Any] = field(default=lambda effort: None)
    more: Callable[[float], Any] = field(default=lambda effort: None)

    def time(self, phase: str, number: int, case: Case) -> Timed:
        known = self.log.get(phase, number, case.name)
        if known is None:
            protocol = self.protocol
            known = time_once(self.anchor, case.calls, protocol.runs, protocol.warmup, protocol.min_ms)
            self.log.add(phase, number, case.name, known)
        self.tick(effort(case, self.protocol))
        return known

    def _round(self, phase: str, number: int, cases: Sequence[Case]) -> float:
        """One pass over the cases in an order of its own; how far the anchor moved."""
        if number >= self.protocol.rounds:
            self._announce(cases)
        order = numpy_rng(self.protocol.seed, Stream.TIMING_ORDER, number, len(cases)).permutation(len(cases))
        found = [self.time(phase, number, cases[index]) for index in order]
        return anchor_drift([ms for timed in found for ms in timed.anchor_ms])

    def phase(self, phase: str, cases: Sequence[Case]) -> Phase:
        """All rounds over ``cases``; a round in which the anchor moved too far is repeated, then what is noisy is."""
        protocol = self.protocol
        kept, drifts = steady_rounds(
            lambda number: self._round(phase, number, cases),
            protocol.rounds,
            protocol.extra_rounds,
            protocol.max_drift,
        )
        rounds = {case.name: [self.time_of(phase, number, case) for number in kept] for case in cases}
        for again in range(REPEATS):
            noisy = [case for case in cases if _spread(rounds[case.name]) > protocol.max_spread]
            self._announce(noisy)
            for case in noisy:
                rounds[case.name].append(self.time(phase, -1 - again, case))  # below 0: no round of its own
        return Phase(rounds, max(drifts[number] for number in kept), len(drifts) - len(kept))

    def _announce(self, cases: Sequence[Case]) -> None:
        self.more(sum(effort(case, self.protocol) for case in cases))

    def time_of(self, phase: str, number: int, case: Case) -> Timed:
        known = self.log.get(phase, number, case.name)
        assert known is not None
        return known


def _spread(rounds: Sequence[Timed]) -> float:
    """Of the round medians beside the anchor, relative: the range of two or three, else the interquartile range."""
    medians = [float(np.median(timed.times.ms)) / timed.beside for timed in rounds]
    low, high = (min(medians), max(medians)) if len(medians) < 4 else np.percentile(medians, (25, 75))
    return float((high - low) / np.median(medians))


def measure_network(
    anchor: Anchor,
    calls: Sequence[LayerCall],
    reference_ms: float | None = None,
    *,
    precision: float = 0.005,
    min_rounds: int = 7,
    max_rounds: int = 40,
    runs: int = 10,
    warmup: int = 5,
) -> Measured:
    """One network by the statistic of the tables, its session built anew in every round; for a derived network.

    Args:
        anchor: timed beside it.
        calls: the network.
        reference_ms: the anchor's time at the speed that ``ms`` is given at (None: its median beside this network).
        precision: rounds are added until the standard error of ``ms`` is below this, relative.
        min_rounds, max_rounds: how many there are at least and at most.
        runs, warmup: timings in a round, and runs before them.
    """
    found: list[Timed] = []
    while True:
        found.append(time_once(anchor, calls, runs, warmup, anchor.min_ms))
        if len(found) >= min_rounds:
            measured = combined(found, reference_ms or anchor_median(found))
            if measured.noise <= precision or len(found) >= max_rounds:
                return measured


# Solving for the operations -----------------------------------------------------------------------------------------


class Solution(NamedTuple):
    """Times of operations in ms and of what every network pays besides. ``tau``: how far the prior was left;
    ``cv_mape``: percent, on networks left out in turn; ``isolated_cv_mape``: that of the prior, calibrated alike."""

    ms: dict[LayerKey, float]
    offset_ms: float
    tau: float
    cv_mape: float
    isolated_cv_mape: float


def _counts(keys: Sequence[LayerKey], networks: Sequence[Sequence[LayerCall]]) -> np.ndarray:
    index = {key: position for position, key in enumerate(keys)}
    counts = np.zeros((len(networks), len(keys)))
    for row, calls in enumerate(networks):
        for call in calls:
            key = layer_key(call)
            if key is not None:
                counts[row, index[key]] += 1
    return counts


def _solve(counts: np.ndarray, ms: np.ndarray, prior: np.ndarray, tau: float) -> tuple[np.ndarray, float]:
    """(ms of each operation, offset): the minimum of the module's docstring for one tau."""
    from scipy.optimize import nnls

    sums = counts @ prior
    calibration = affine(sums.tolist(), ms.tolist())
    scaled = np.maximum(calibration.scale * prior, 1e-9)
    trust = tau * np.maximum(scaled, 0.02 * scaled.mean())
    n_networks, n_ops = counts.shape
    # the offset may have either sign: two columns of which nnls uses one, around that of the prior
    columns = np.c_[counts, np.ones(n_networks), -np.ones(n_networks)]
    bottom = np.zeros((n_ops + 2, n_ops + 2))
    bottom[range(n_ops), range(n_ops)] = 1 / trust
    bottom[n_ops:, n_ops:] = np.eye(2) / (tau * ms.mean())
    wanted = np.r_[scaled / trust, 0.0, 0.0]
    solution = np.zeros(n_ops + 2)
    trusted = np.ones(n_networks)
    for _ in range(HUBER_STEPS):
        weights = trusted / (NETWORK_NOISE * ms)
        top, right = columns * weights[:, None], (ms - calibration.offset_ms) * weights
        solution, _ = nnls(np.r_[top, bottom], np.r_[right, wanted], maxiter=100 * (n_ops + 2))
        # a network that was timed while something else ran must not bend the table (Huber's weights)
        off = np.abs((columns @ solution + calibration.offset_ms) / ms - 1)
        limit = HUBER_LIMIT * max(1.4826 * float(np.median(off)), 1e-6)
        trusted = np.sqrt(np.minimum(1, limit / np.maximum(off, 1e-12)))
    return solution[:n_ops], calibration.offset_ms + float(solution[n_ops] - solution[n_ops + 1])


def solve(
    prior: Mapping[LayerKey, float], networks: Sequence[Sequence[LayerCall]], ms: Sequence[float], seed: int = 0
) -> Solution:
    """The operations whose sums explain whole networks, starting from their isolated times.

    Raises InputError with fewer than 2 networks per fold.
    """
    if len(networks) < 2 * FOLDS:
        raise InputError(f"expected at least {2 * FOLDS} networks, got {len(networks)}", "design_nets")
    keys = list(prior)
    counts, times = _counts(keys, networks), np.asarray(ms, dtype=np.float64)
    start = np.array([prior[key] for key in keys])
    fold = numpy_rng(seed, Stream.SOLVE_FOLDS).permutation(len(networks)) % FOLDS
    scores: dict[float, float] = {}
    for tau in TAUS:
        errors = np.zeros(len(networks))
        for number in range(FOLDS):
            inside = fold == number
            found, offset = _solve(counts[~inside], times[~inside], start, tau)
            errors[inside] = (counts[inside] @ found + offset) / times[inside] - 1
        scores[tau] = 100 * float(np.abs(errors).mean())
    sums, unsolved = counts @ start, np.zeros(len(networks))
    for number in range(FOLDS):
        inside = fold == number
        line = affine(sums[~inside].tolist(), times[~inside].tolist())
        unsolved[inside] = np.asarray(line(sums[inside].tolist())) / times[inside] - 1
    tau = min(scores, key=lambda value: scores[value])
    found, offset = _solve(counts, times, start, tau)
    # an entry of a table is above 0; what the networks cannot tell from nothing keeps a hundredth of its prior
    found = np.maximum(found, 0.01 * start)
    isolated = 100 * float(np.abs(unsolved).mean())
    return Solution(dict(zip(keys, found.tolist(), strict=True)), offset, tau, scores[tau], isolated)


# Validation ---------------------------------------------------------------------------------------------------------


class Priced(NamedTuple):
    """One way to price networks: its calibration and its errors on networks that neither it nor that has seen."""

    calibration: Calibration
    errors: NetErrors
    predicted_ms: tuple[float, ...]  # calibrated, of all validation networks


def validated(sums: Sequence[float], measured_ms: Sequence[float], n_calibration: int) -> Priced:
    """Calibrate on the first networks, score on the others. Raises InputError when fewer than 3 would score."""
    if len(sums) - n_calibration < 3:
        raise InputError(f"expected more than {n_calibration + 2} networks, got {len(sums)}", "validation_nets")
    found = calibrate(sums[:n_calibration], measured_ms[:n_calibration]) if n_calibration else Calibration()
    ours = found(sums)
    return Priced(found, net_errors(ours[n_calibration:], measured_ms[n_calibration:]), tuple(ours.tolist()))


class Verdict(NamedTuple):
    """Whether a table passed the gate, and why not."""

    passed: bool
    reasons: tuple[str, ...]


def judge(errors: NetErrors, noise: float, drift: float, rounds: int, max_drift: float = 0.1) -> Verdict:
    """The gate: MAPE at most 5 % and Kendall at least 0.9 on the networks that score, at least 30 of them.

    Args:
        noise: relative standard error of a network's time.
        drift: how far the anchor moved within a round, relative.
    """
    if errors.n < MIN_SCORED:
        enough = Protocol.calibration_nets + MIN_SCORED
        few = f"{errors.n} networks were scored, {MIN_SCORED} are needed: use --validation_nets {enough} (for another "
        few += f"machine: export again with --export_networks {enough})"
        return Verdict(False, (few,))
    if errors.mape <= MAX_MAPE and errors.kendall >= MIN_KENDALL:
        return Verdict(True, ())
    what = [
        f"MAPE {errors.mape:.1f} % is above {MAX_MAPE:g} %" if errors.mape > MAX_MAPE else "",
        f"Kendall's tau {errors.kendall:.3f} is below {MIN_KENDALL:g}" if errors.kendall < MIN_KENDALL else "",
    ]
    why = []
    if drift > max_drift:
        why.append(
            f"drift: the anchor network moved by {100 * drift:.1f} % within a round (limit {100 * max_drift:g} %); "
            "something else ran on this machine, or its frequency changed"
        )
    if rounds < 2:
        why.append("too few rounds: one alone does not tell noise from the runtime; use --rounds 3")
    elif 100 * noise > 0.3 * errors.mape:
        why.append(
            f"too few rounds: after {rounds} a network's time is still uncertain by {100 * noise:.1f} %; use --rounds "
            f"{2 * rounds}, on a quiet machine"
        )
    if not why:
        why.append(
            f"non-additive runtime: networks differ from the sum of their layers by {errors.mape:.1f} %, and only "
            f"{100 * noise:.1f} % is noise"
        )
    return Verdict(False, (*filter(None, what), *why))


@dataclass(frozen=True)
class Outcome:
    """A table and predictor with everything that vouches for them."""

    method: str
    table: LookupTable
    predictor: dict[str, Any] | None
    no_predictor: str  # why there is none
    fit: Fit | None
    priced: Mapping[str, Priced]  # in_network, isolated, predictor
    measured_ms: tuple[float, ...]  # of the validation networks
    verdict: Verdict
    noise: float
    drift: float
    solution: Solution | None

    @property
    def chosen(self) -> Priced:
        return self.priced[self.method]


def assemble(
    plan: Plan,
    protocol: Protocol,
    ops: Mapping[str, Measured],
    networks: Mapping[str, Measured],
    drift: float,
    provenance: Mapping[str, Any],
) -> Outcome:
    """Solve, fit, calibrate, validate and judge, from measured cases (by name).

    ``provenance`` is completed with the method, the statistic and the counts, where it does not give them itself.

    Raises:
        InputError: a case of the plan is missing.
    """
    for case in plan.op_cases():
        if case.name not in ops:
            raise InputError("was not measured", case.name)
    isolated = {key: ops[str(key)].ms for key in plan.ops}
    names = {path: network_case(plan.space, path).name for path in (*plan.design, *plan.validation)}
    missing = [name for name in names.values() if name not in networks]
    if missing:
        raise InputError(f"was not measured, nor were {len(missing) - 1} more networks", missing[0])
    calls = {path: walk(plan.space.spec_for(path)) for path in names}
    truth = [networks[names[path]].ms for path in plan.validation]
    held = [calls[path] for path in plan.validation]
    keys = list(isolated)
    counts = _counts(keys, held)

    def price(by_key: Mapping[LayerKey, float], base: Calibration) -> Priced:
        sums = base(counts @ np.array([by_key[key] for key in keys]))
        return validated(sums.tolist(), truth, protocol.calibration_nets)

    method, entries, base, solution = "isolated", isolated, Calibration(), None
    priced = {}
    if plan.design:
        design = [calls[path] for path in plan.design]
        design_ms = [networks[names[path]].ms for path in plan.design]
        base = affine((_counts(keys, design) @ np.array([isolated[key] for key in keys])).tolist(), design_ms)
        solution = solve(isolated, design, design_ms, protocol.seed)
        solved = Calibration(1.0, solution.offset_ms, len(design))
        priced["in_network"] = price(solution.ms, solved)
    priced["isolated"] = price(isolated, base)
    if solution is not None and solution.cv_mape < (1 - MUST_GAIN) * solution.isolated_cv_mape:
        method, entries, base = "in_network", solution.ms, solved
    noise = float(np.median([networks[names[path]].noise for path in plan.validation]))
    chosen = priced[method]
    calibration = chosen.calibration
    record = {
        "method": method,
        "statistic": "median over rounds of the median in a round",
        "rounds": protocol.rounds,
        "runs_per_round": protocol.runs,
        "warmup": protocol.warmup,
        "anchor_drift_pct": round(100 * drift, 3),
        "network_noise_pct": round(100 * noise, 3),
        "design_nets": len(plan.design),
        "other_clock_ratio": _other_clock(networks.values()),
    } | dict(provenance)
    verdict = judge(chosen.errors, noise, drift, protocol.rounds, protocol.max_drift)
    fitted, predictor, why = _predictor(plan, entries, record, held, truth, protocol)
    if predictor is not None:
        priced["predictor"] = predictor[1]
    figures = {name: way.errors.to_json() for name, way in priced.items()}
    validation = {
        "truth": "measured networks, none of them used to make the table",
        "calibration_nets": protocol.calibration_nets,
        "passed": verdict.passed,
        "reasons": list(verdict.reasons),
        **chosen.errors.to_json(),
        "methods": figures,
    }
    table = LookupTable(
        source="measured here",
        entries={key: _timing(entries[key], ops[str(key)], method) for key in keys},
        provenance=record,
        validation=validation,
        scale=calibration.scale * base.scale,
        offset_ms=calibration.offset_ms + calibration.scale * base.offset_ms,
        n_nets=calibration.n_nets + base.n_nets,
    )
    return Outcome(
        method=method, table=table, predictor=predictor[0] if predictor else None, no_predictor=why, fit=fitted,
        priced=priced, measured_ms=tuple(truth), verdict=verdict, noise=noise, drift=drift, solution=solution,
    )  # fmt: skip


def _other_clock(networks: Iterable[Measured]) -> float | None:
    """Whole networks by the runtime's other clock (wall time, eager execution) over their time: the median ratio."""
    ratios = [found.other_ms / found.ms for found in networks if math.isfinite(found.other_ms)]
    return round(float(np.median(ratios)), 4) if ratios else None


def _timing(ms: float, isolated: Measured, method: str) -> Timing:
    """An entry: spread and number of timings are those of the isolated layer, and say nothing of a solved one."""
    return Timing(ms, isolated.sd, isolated.n) if method == "isolated" else Timing(ms)


def _predictor(
    plan: Plan,
    entries: Mapping[LayerKey, float],
    provenance: Mapping[str, Any],
    held: Sequence[Sequence[LayerCall]],
    truth: Sequence[float],
    protocol: Protocol,
) -> tuple[Fit | None, tuple[dict[str, Any], Priced] | None, str]:
    """(fit, (the file and how it validated), why there is none)."""
    measured = [(call, entries[key]) for key, call in plan.ops.items()]
    try:
        fitted = fit([Op(call, ms) for call, ms in measured if call.op.bottleneck is not None])
        draft = predictor_json(fitted, measured, provenance, Calibration(), None)
        parsed = parse_latency_source(json.dumps(draft).encode(), "predictor.json")
    except InputError as error:
        return None, None, str(error)
    assert isinstance(parsed, Predictor)
    sums = [math.fsum(map(parsed.op_ms, calls)) for calls in held]
    priced = validated(sums, truth, protocol.calibration_nets)
    net = priced.errors.to_json() | {"truth": "measured networks, none of them used in the fit"}
    return fitted, (predictor_json(fitted, measured, provenance, priced.calibration, net), priced), ""


def total_effort(plan: Plan, protocol: Protocol) -> float:
    """Of the planned rounds, in the units of ``effort``."""
    total = 0.0
    for cases in (plan.op_cases(), plan.network_cases()):
        total += sum(effort(case, protocol) for case in cases)
    return protocol.rounds * total


class Left(NamedTuple):
    """Timings that a log lacks of the planned rounds, of operations and of networks; about how long they take; and how
    many times as long as that with what is noisy and therefore repeated, on a machine as busy as this one is now."""

    ops: int
    networks: int
    planned_seconds: float
    times_repeated: float

    @property
    def seconds(self) -> float:
        return self.planned_seconds * self.times_repeated


def left_to_measure(bench: Bench, plan: Plan) -> Left:
    """From timing SAMPLED cases of each kind, small to large, that no log keeps."""
    counts, seconds, anchors = [], 0.0, list[float]()
    for phase, cases in ((OPS, plan.op_cases()), (NETWORKS, plan.network_cases())):
        rounds = range(bench.protocol.rounds)
        left = [case for number in rounds for case in cases if bench.log.get(phase, number, case.name) is None]
        counts.append(len(left))
        if left:
            bench.anchor.ms()  # builds its session, once
            watch = Stopwatch()
            sampled = _sampled(bench, left)
            seconds += len(left) * watch.seconds / SAMPLED
            anchors += [ms for timed in sampled for ms in timed.anchor_ms]
    n_ops, n_networks = counts
    return Left(n_ops, n_networks, seconds, times_repeated(bench.protocol, anchors))


def times_repeated(protocol: Protocol, anchors: Sequence[float]) -> float:
    """How many times the planned rounds are likely to be measured, where the anchor moves as in these times: once on a
    steady machine, else with half of the repeats of what is noisy, and with all further rounds where it drifts."""
    moved, repeats = anchor_drift(anchors) if anchors else 0.0, 0.0
    if moved > protocol.max_spread:
        repeats += REPEATS / 2
    if moved > protocol.max_drift:
        repeats += protocol.extra_rounds
    return 1 + repeats / protocol.rounds


def _sampled(bench: Bench, cases: Sequence[Case]) -> list[Timed]:
    protocol, by_effort = bench.protocol, sorted(cases, key=lambda case: effort(case, bench.protocol))
    sampled = [by_effort[int(share * (len(cases) - 1))] for share in np.linspace(0.1, 0.9, SAMPLED)]
    return [time_once(bench.anchor, case.calls, protocol.runs, protocol.warmup, protocol.min_ms) for case in sampled]


def profile(bench: Bench, plan: Plan, provenance: Mapping[str, Any]) -> Outcome:
    """Measure the plan (what the log lacks of it) and make a table of it."""
    ops = bench.phase(OPS, plan.op_cases())
    networks = bench.phase(NETWORKS, plan.network_cases())
    every = [timed for phase in (ops, networks) for found in phase.cases.values() for timed in found]
    reference = anchor_median(every)
    priced = [{name: combined(found, reference) for name, found in phase.cases.items()} for phase in (ops, networks)]
    return assemble(
        plan, bench.protocol, priced[0], priced[1], max(ops.drift, networks.drift),
        dict(provenance) | {"repeated_rounds": ops.repeated + networks.repeated, "anchor_ms": reference},
    )  # fmt: skip
