"""How far a file of latencies can be trusted: by its own record, and by the anchor that it was measured beside."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from hardware.latency import LatencySource, check_matches
from hardware.predictor import Predictor
from hardware.profile.device import MATCHED, ProfileSettings
from hardware.profile.measure import Runtime
from hardware.profile.profiling import MAX_MAPE, MIN_KENDALL, MIN_SCORED, Anchor
from hardware.table import LookupTable
from proxyless_arch.base.errors import InputError
from proxyless_arch.space.search_space import SearchSpace

MAX_MOVED = 0.25  # of the anchor since its table was made, relative; see docs/decisions.md


def check_trusted(
    source: LookupTable | Predictor, path: str, wanted: Mapping[str, Any], made_by: ProfileSettings | None = None
) -> None:
    """Raises InputError when a file was made under other conditions than ``wanted``, or did not pass its validation.

    What a file does not record is not checked: the released YAML records nothing. Both errors name
    --force_latency_table, with which the command does not ask here.

    Args:
        wanted: any of hardware.latency.CONDITIONS with the value of this run.
        made_by: the settings that it was made with, where they are known.
    """
    try:
        check_matches(source.provenance, wanted, path)
    except InputError as error:
        hint = f"{error.problem}, or use it all the same with --force_latency_table"
        raise InputError(hint, error.place, error.source) from None
    check_passed(source, path, made_by)


def check_passed(source: LookupTable | Predictor, path: str, made_by: ProfileSettings | None = None) -> None:
    """Raises InputError when the file's own record says that it predicts whole networks badly, or that too few vouch.

    Args:
        made_by: the settings that it was made with, where they are known.
    """
    if reasons := what_speaks_against(source):
        again = replace(made_by, fresh=True).command() if made_by else "the command that made it, with --fresh"
        raise InputError(
            f"{reasons}; measure it again on a quiet machine ({again}), or use it all the same with "
            "--force_latency_table",
            "validation" if isinstance(source, LookupTable) else "error.net",
            path,
        )


def what_speaks_against(source: LookupTable | Predictor) -> str:
    """How the file's own record failed, for a person; empty where it did not."""
    record = source.validation if isinstance(source, LookupTable) else source.error.get("net")
    reasons = _failures(record) if isinstance(record, Mapping) else []
    return f"did not pass its validation on whole networks ({'; '.join(reasons)})" if reasons else ""


def _failures(record: Mapping[str, Any]) -> list[str]:
    """Why the networks of a record do not vouch for prices; it holds whatever the file says."""
    if record.get("passed") is False:
        reasons = record.get("reasons")
        return list(map(str, reasons)) if isinstance(reasons, list) and reasons else ["passed: false"]
    figures = {name: record[name] for name in ("mape", "kendall", "n") if isinstance(record.get(name), int | float)}
    found = []
    if figures.get("mape", 0) > MAX_MAPE:
        found.append(f"MAPE {figures['mape']:.1f} % is above {MAX_MAPE:g} %")
    if figures.get("kendall", 1) < MIN_KENDALL:
        found.append(f"Kendall's tau {figures['kendall']:.3f} is below {MIN_KENDALL:g}")
    if figures and figures.get("n", MIN_SCORED) < MIN_SCORED:
        found.append(f"{figures['n']:g} networks score, at least {MIN_SCORED} must")
    return found


def anchor_of(
    runtime: Runtime, space: SearchSpace, batch_size: int, source: LatencySource
) -> tuple[Anchor, float | None]:
    """The anchor to time networks of ``space`` beside, and its time when ``source`` was measured.

    That is None for what was not measured on this space, with this runtime and here, and where the anchor takes more
    than MAX_MOVED more or less now: another machine of the same name, or a table made under load.
    """
    known = getattr(source, "provenance", {})
    ours: dict[str, Any] = {
        "space": space.name,
        "width_mult": space.width_mult,
        "resolution": space.preprocessing.resolution,
    }
    facts = runtime.facts()
    ours |= {"batch_size": batch_size} | {name: facts[name] for name in MATCHED}
    same = all(known.get(name) == value for name, value in ours.items())
    reference_ms, num_classes = known.get("anchor_ms"), known.get("num_classes")
    if not same or not isinstance(reference_ms, float) or not isinstance(num_classes, int):
        return Anchor(runtime, space, batch_size), None
    as_it_was = replace(space, num_classes=num_classes, class_names=())  # to the classifier
    anchor = Anchor(runtime, as_it_was, batch_size)
    moved = anchor.now() / reference_ms - 1
    return anchor, reference_ms if abs(moved) <= MAX_MOVED else None
