"""Does the search land on this machine's CPU? Ask for three latencies, take what comes out, record asked and measured.

    python experiments/landing.py --data_path photos.zip

Searches with --target_hardware cpu at width 1.0 and 224 px for each target, with no training epochs unless flags say
otherwise: what is tested is the way from a target to a measured network (table, projection, measurement, rescaling),
not accuracy. Other flags go to the searches. Writes experiments/landing.json.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from proxyless_arch.base.cli import exit_code  # noqa: E402
from proxyless_arch.base.files import write_json  # noqa: E402
from proxyless_arch.base.settings import parse_beside, setting  # noqa: E402
from search import run_search  # noqa: E402
from search.config import SearchConfig, effective_config  # noqa: E402

SHORT = {"warmup_epochs": 0, "n_epochs": 0, "train_batch_size": 8, "recalibration_images": 64, "rescore": 0}
CONDITIONS = {"target_hardware": "cpu", "resolution": 224, "space": "imagenet"}
KEPT = (
    "target_latency_ms", "predicted_latency_ms", "table_scale", "measured_latency_ms", "measured_at_table_speed_ms",
    "anchor_ms", "table_anchor_ms", "measured_standard_error_percent", "measured_spread_percent", "measured_rounds",
    "measured_on", "measured_load_average", "landing", "landing_stopped", "landed", "manual_seed",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Options:
    """What landing.py is asked beside the settings of its searches."""

    targets: tuple[float, ...] = setting((4.0, 5.0, 6.5), "ms", shown="4 5 6.5")
    seeds: tuple[int, ...] = setting((0, 1), "of the searches", shown="0 1")
    recipe: str = setting("default", "of the searches")


def run(argv: Sequence[str]) -> None:
    options, given = parse_beside(Options, SearchConfig, argv, "landing.py", __doc__)
    records = []
    for target in options.targets:
        for seed in options.seeds:
            own = {"target_latency_ms": target, "manual_seed": seed}
            config = effective_config({**CONDITIONS, **SHORT, **own, **given}, options.recipe)
            with tempfile.TemporaryDirectory() as folder:
                result = run_search(config, Path(folder) / "run")
            assert result is not None
            print(result)
            records.append({name: result.record[name] for name in KEPT})
    write_json(ROOT / "experiments" / "landing.json", {"what": "asked against measured", "runs": records})
    print("| asked | measured at the table's speed | as clocked | machine slower by | standard error | measurements |")
    print("| --- | --- | --- | --- | --- | --- |")
    for record in records:
        asked = record["target_latency_ms"]
        own, clocked = (
            f"{ms:.2f} ms ({100 * (ms / asked - 1):+.1f} %)"
            for ms in (record["measured_at_table_speed_ms"], record["measured_latency_ms"])
        )
        slower = 100 * (record["anchor_ms"] / record["table_anchor_ms"] - 1)
        print(
            f"| {asked:.2f} ms | {own} | {clocked} | {slower:+.1f} % | "
            f"{record['measured_standard_error_percent']:.1f} % | {len(record['landing'])} |"
        )


def main(argv: Sequence[str] | None = None) -> int:
    return exit_code(run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
