"""Every search algorithm on tables of trained networks, where the best network is known; nothing is trained.

    python benchmarks/search_oracles.py --data DIR
    python benchmarks/search_oracles.py --data DIR --costs a100 zcu102 --seeds 4 --save_json oracles.json
    python benchmarks/search_oracles.py --data DIR --picture oracles.svg

DIR has the two files of trained_tables.py, which says where to get them. For each table and cost the limit is
99 % to 100 % of a target halfway between the cheapest network and the mean of the space (in NAS-Bench-Macro, whose
networks are few, 90 % to 100 % of that mean). All networks within it are enumerated; ``share`` is what a search gained
over their mean, of what the best of them gains. The intervals are over seeds: another supernet and other images for
each, the same for all algorithms (95 %, Student's t). The scores are imitated (table_searches.py).

The gradient algorithm cannot be run on a table: it needs the outputs of all operations. It is judged by a supernet's
own score (docs/results.md).

Then networks found at the measured time of hand-made layouts. A regression on one half of the trained networks finds,
that of the other half judges; both ways, and the mean is shown. None of these networks was trained: the accuracy is a
model's.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":  # started as a script: the packages lie beside this folder
    sys.path[0] = str(ROOT)

import torch  # noqa: E402
from scipy import stats  # noqa: E402

from benchmarks.oracle_headline import Headline, headlines  # noqa: E402
from benchmarks.oracle_picture import draw  # noqa: E402
from benchmarks.table_searches import FORWARDS, SEARCHES, Scores, bound  # noqa: E402
from benchmarks.trained_tables import (  # noqa: E402
    ACCEL,
    ACCEL_FILE,
    COSTS,
    MACRO,
    MACRO_FILE,
    Oracle,
    accel_oracle,
    by_stage,
    data_file,
    fit_accuracy,
    read_accel,
    read_macro,
    searched_choices,
)
from proxyless_arch.base import settings  # noqa: E402
from proxyless_arch.base.cli import exit_code  # noqa: E402
from proxyless_arch.base.errors import InputError  # noqa: E402
from proxyless_arch.base.files import write_json  # noqa: E402
from proxyless_arch.base.machine import cpu_name  # noqa: E402
from proxyless_arch.base.progress import Progress, speak  # noqa: E402
from proxyless_arch.base.settings import REQUIRED, setting  # noqa: E402
from proxyless_arch.base.strict import listed  # noqa: E402
from proxyless_arch.base.text import align, ruled  # noqa: E402
from proxyless_arch.base.words import SAVE_JSON, new_file  # noqa: E402

FIRST = "predictor"


def _known(allowed: Sequence[str]):
    def check(word: str) -> str:
        if word not in allowed:
            raise InputError(f"expected {listed(allowed)}, got {word!r}")
        return word

    return check


@dataclass(frozen=True, kw_only=True)
class OracleConfig:
    """What search_oracles.py is asked to do."""

    data: Path = setting(REQUIRED, f"folder of {MACRO_FILE} and {ACCEL_FILE}", metavar="DIR")
    tables: tuple[str, ...] = setting((MACRO, ACCEL), "tables", check=_known((MACRO, ACCEL)))
    costs: tuple[str, ...] = setting(COSTS, f"costs of {ACCEL}", check=_known(COSTS))
    algorithms: tuple[str, ...] = setting(tuple(SEARCHES), "algorithms", check=_known(tuple(SEARCHES)))
    seeds: int = setting(24, "supernets that are imitated, for each case", minimum=2, maximum=10_000)
    first_seed: int = setting(0, "number of the first of them", minimum=0, maximum=1_000_000)
    correlation: float = setting(0.8, "of a supernet's scores with the accuracy", minimum=0.05, maximum=1)
    additive: float = setting(0.5, "share of a supernet's error that is a sum over choices", minimum=0, maximum=1)
    forwards: int = setting(FORWARDS, "images times networks, of every algorithm", minimum=10_000)
    headline: bool = setting(True, "also compare with hand-made layouts at equal time")
    picture: Path | None = setting(None, "draw the shares as .svg or .png", metavar="FILE", check=new_file)
    save_json: Path | None = SAVE_JSON.setting(None, metavar="FILE", check=new_file)


@dataclass(frozen=True)
class Row:
    """One algorithm on one table at one cost: the mean share over seeds and its interval; ``shares`` by seed."""

    table: str
    cost: str
    algorithm: str
    share: float
    low: float
    high: float
    n_seeds: int
    shares: tuple[float, ...]


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """(mean, low, high): 95 % by Student's t."""
    mean, n = float(np.mean(values)), len(values)
    half = float(stats.t.ppf(0.975, n - 1) * np.std(values, ddof=1) / np.sqrt(n))
    return mean, mean - half, mean + half


def imitated(oracle: Oracle, config: OracleConfig) -> list[Scores]:
    """The supernets of one case, by seed."""
    seeds = range(config.first_seed, config.first_seed + config.seeds)
    return [Scores(oracle, seed, config.correlation, config.additive, config.forwards) for seed in seeds]


Found = dict[tuple[str, str], dict[str, list[float]]]  # {(table, cost): {algorithm: shares}}


def compare(oracles: Sequence[Oracle], config: OracleConfig) -> Found:
    """Case by case; each is shown as it is done."""
    found: Found = {}
    total = len(oracles) * len(config.algorithms) * config.seeds
    with Progress(total, "searches") as progress:
        for oracle in oracles:
            values: dict[str, list[float]] = {}
            for algorithm in config.algorithms:
                values[algorithm] = []
                for scores in imitated(oracle, config):
                    values[algorithm].append(oracle.share(oracle.of(SEARCHES[algorithm](scores))))
                    progress.update(about=f"{oracle.cost} {algorithm}")
            found[oracle.table, oracle.cost] = values
            speak(_case(oracle, values, bound_of(oracle, config)))
    return found


def bound_of(oracle: Oracle, config: OracleConfig) -> float:
    """The mean share that table_searches.bound leaves to algorithms."""
    return float(np.mean([oracle.share(bound(scores)) for scores in imitated(oracle, config)]))


def _case(oracle: Oracle, values: Mapping[str, Sequence[float]], bound: float) -> str:
    """A table of one case, the best algorithm first."""
    summary = oracle.summary
    rows = [("algorithm", "share of the optimum", "95 %", f"{FIRST} less it, of the same seeds")]
    for name, each in sorted(values.items(), key=lambda item: -float(np.mean(item[1]))):
        mean, low, high = interval(each)
        rows.append((name, f"{100 * mean:.1f} %", f"{100 * low:.1f} to {100 * high:.1f}", _lead(values, name)))
    head = (
        f"{oracle.table}, {oracle.cost}: {oracle.limit}, {summary.count:,} networks; accuracy {summary.mean:.2f} on "
        f"average (sd {summary.sd:.2f}), {summary.best:.2f} at best"
    )
    limit = f"endless images would give {100 * bound:.1f} %: what these supernets have wrong of choices stays"
    return "\n".join([head, *ruled(align(rows)), limit, ""])


def _lead(values: Mapping[str, Sequence[float]], other: str) -> str:
    """How far the predictor is ahead of another algorithm, seed by seed."""
    if FIRST not in values or other == FIRST:
        return ""
    mean, low, high = interval([a - b for a, b in zip(values[FIRST], values[other], strict=True)])
    return f"{100 * mean:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"


def together(found: Found) -> str:
    """The predictor's lead over each algorithm in the mean over all cases: one value for each seed."""
    means = {
        name: np.mean([values[name] for values in found.values()], axis=0).tolist()
        for name in next(iter(found.values()))
    }
    rows = [("algorithm", f"{FIRST} less it, mean of {len(found)} cases, of the same seeds")]
    rows += [(name, _lead(means, name)) for name in means if name != FIRST]
    return "\n".join([*ruled(align(rows)), ""])


def rows_of(found: Found) -> list[Row]:
    return [
        Row(table, cost, algorithm, *interval(values), len(values), tuple(round(share, 4) for share in values))
        for (table, cost), each in found.items()
        for algorithm, values in each.items()
    ]


def _headline_table(found: Sequence[Headline]) -> str:
    rows = [("time of", "hand-made", "random mean", "best of 20", "searched", "by MACs, scaled")]
    for each in found:
        shown = (each.hand_made, each.random_mean, each.best_of_20, each.searched, each.by_macs)
        rows.append((f"{each.layout}, {each.cost}", *(f"{value:.1f}" for value in shown)))
    note = "ImageNet top-1 (%) at equal measured time; predicted by a model of the networks that were not searched on"
    return "\n".join([note, *ruled(align(rows))])


def run(argv: Sequence[str]) -> None:
    config = settings.parse(OracleConfig, argv, "search_oracles.py", __doc__)
    files = {name: data_file(config.data, name) for name in (MACRO_FILE, ACCEL_FILE)}
    torch.set_num_threads(1)
    oracles = [read_macro(files[MACRO_FILE])] if MACRO in config.tables else []
    trained = read_accel(files[ACCEL_FILE]) if ACCEL in config.tables else None
    if trained is not None:
        fitted = fit_accuracy(trained)
        accuracy = by_stage(fitted, searched_choices())
        speak(f"{ACCEL}: accuracy by a regression on pairs of factors, {fitted.residual_sd:.2f} points off (sd)\n")
        oracles += [accel_oracle(trained, accuracy, cost) for cost in config.costs]
    found = compare(oracles, config)
    rows = [asdict(row) for row in rows_of(found)]
    if len(found) > 1 and FIRST in config.algorithms:
        print(together(found))
    lines = headlines(trained) if config.headline and trained is not None else []
    if lines:
        print(_headline_table(lines))
    print(cpu_name())
    if config.picture is not None:
        draw(rows, config.picture)
    if config.save_json is not None:
        asked = {key: getattr(config, key) for key in ("seeds", "first_seed", "correlation", "additive", "forwards")}
        record = {"cpu": cpu_name(), "settings": asked, "rows": rows, "headline": list(map(asdict, lines))}
        write_json(config.save_json, record)


def main(argv: Sequence[str] | None = None) -> int:
    return exit_code(run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
