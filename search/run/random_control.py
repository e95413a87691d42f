"""The random control of a search: networks of the target's cost, drawn and written down, none of them trained."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from proxyless_arch.arch import codec
from proxyless_arch.arch.draw import draw_architectures
from proxyless_arch.arch.walk import total_macs, total_params, walk
from proxyless_arch.base.errors import InputError
from proxyless_arch.data.streams import Stream, numpy_rng
from proxyless_arch.space.search_space import Path as Choices
from search.algorithm.random_control import sample_at_cost
from search.run.finish import complete, write_result
from search.run.job import Job


def random_paths(job: Job) -> list[Choices]:
    """``n_archs`` different networks of the target's cost.

    Raises InputError when there is no target, or there are not as many.
    """
    if job.table is None or job.goal is None:
        raise InputError("random networks are drawn at a cost: they need a target", "--target_hardware")
    rng = numpy_rng(job.config.manual_seed, Stream.RANDOM_NETWORKS)
    lower, count = job.config.target.window, job.config.arch.n_archs
    return sample_at_cost(job.table, job.goal, count, rng, lower, job.limits)


def write_random_networks(job: Job, run_dir: Path, paths: Sequence[Choices]) -> None:
    """The random control, of ``random_paths``: each network as a spec file, and their list.

    Writes ``specs/random_000.json`` and on, ``architectures.png`` (the first eight) and ``result.json``.
    """
    table, goal, config = job.table, job.goal, job.config
    assert table is not None
    entries = []
    rows = []
    for index, path in enumerate(paths):
        spec = job.space.spec_for(path, f"random_{index:03d}")
        codec.write_spec(run_dir / "specs" / f"{spec.name}.json", spec)
        rows.append((spec.name, spec, job.costs(walk(spec))))
        entries.append(
            {
                "spec": f"specs/{spec.name}.json",
                "path": list(path),
                "cost": table.of_path(path),
                "macs": total_macs(spec),
                "params": total_params(spec),
            }
        )
    draw_architectures(rows[:8], run_dir / "architectures.png", unit=table.unit)
    record = {
        "target": goal,
        "cost_unit": table.unit,
        "cost_source": table.source,
        "target_hardware": config.target.target_hardware,
        "manual_seed": config.manual_seed,
        "networks": entries,
    }
    write_result(run_dir, record)
    complete(run_dir)
