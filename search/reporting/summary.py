"""The end of a run as lines of a terminal, read from its folder."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from proxyless_arch.apps.scores import shown_score
from proxyless_arch.arch.tables import describe
from proxyless_arch.base.cli import command_line
from proxyless_arch.base.machine import threads_text
from proxyless_arch.base.runs import format_seconds
from proxyless_arch.base.strict import counted
from proxyless_arch.base.text import align, labeled, number_of
from proxyless_arch.base.units import Unit, format_count
from proxyless_arch.weights.lookup import own_weights
from search.config import LIMIT_KEY
from search.reporting.commands import next_commands
from search.reporting.run_folder import ARGMAX_KEY, Run, is_overruled, read_run, times_as_rare
from search.reporting.titles import title_of

FAIR = 0.7  # share of the differences between losses that is not chance, for losses to choose by
NEAR_CHANCE = 1.5  # accuracies below so many times that of guessing


def _measured_lines(record: Mapping[str, Any], goal: float) -> Iterator[tuple[str, str]]:
    """What the derived network took here, as the clock showed it and at the speed that its table was made at."""
    on, error = record.get("measured_on"), record.get("measured_standard_error_percent")

    def beside(ms: float) -> str:
        return f"{Unit.MS.exact(ms)} ({100 * (ms / goal - 1):+.2f} %)"

    where = f"; {on['runtime']} {on['runtime_version']}, {threads_text(on['threads'])}, {on['device']}" if on else ""
    noise = f", standard error {error:.1f} %" if error is not None else ""
    yield "measured", f"{beside(record['measured_latency_ms'])}{noise}{where}"
    at_table_speed = record.get("measured_at_table_speed_ms")
    if at_table_speed is not None and record.get("table_anchor_ms") is not None:
        slower = 100 * (record["anchor_ms"] / record["table_anchor_ms"] - 1)
        yield (
            "",
            f"{beside(at_table_speed)} normalized to the machine's speed during profiling; the anchor, timed in "
            f"between, is {abs(slower):.1f} % {'slower' if slower > 0 else 'faster'} now",
        )
    steps, why_stopped = record.get("landing", ()), record.get("landing_stopped")
    found = [step["measured_at_anchor_speed_ms"] for step in steps if "measured_at_anchor_speed_ms" in step]
    if found and (len(steps) > 1 or why_stopped):
        times = ", ".join(f"{ms:.{max(3, Unit.MS.decimals(ms))}f}" for ms in found)
        stopped = f"; {why_stopped}" if why_stopped else ""
        yield "landing", f"measured {times} ms in turn, at one speed{stopped}"


def _landed_lines(run: Run) -> Iterator[tuple[str, str]]:
    """Whether the network is at its target; nothing for a run older than that verdict, or without a target."""
    record = run.result or {}
    if record.get("landed") is None:
        return
    off, how = f"{record['landing_error_percent']:+.2f} % from the target", record["landed_by"]
    lower, tolerance = 100 * run.settings.get("window", 1), record["landing_tolerance_percent"]
    allowed = f"from {min(lower, 100 - tolerance):g} % to {100 + tolerance:g} % of the target counts as landed"
    if record["landed"]:
        yield "landed", f"{how} {off}"
    elif how == "measured":
        yield "NOT LANDED", f"measured {off}; {allowed}. Measure on a quiet machine: a new run with --warmup_from"
    else:
        yield "NOT LANDED", f"predicted {off}; {allowed}"


def _projection_lines(run: Run, record: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What the projection changed of the most probable network, and what that cost."""
    assert run.unit is not None
    best = run.unit.exact(record[ARGMAX_KEY[run.unit]])
    n_changed = sum(map(operator.ne, record["path"], record["argmax_path"]))
    by_what = "projection and scores" if record.get("rescored") else "projection"
    yield "argmax", f"{best}; {by_what} changed {n_changed} of {len(record['path'])} blocks"
    changes = record.get("projection_changes") or ()
    for change in changes:
        odds = f"{change['argmax_percent']:.1f} %", f"{change['chosen_percent']:.1f} %"
        against = ", against the search" if is_overruled(change) else ""
        yield "", f"blocks.{change['block']}: {change['argmax']} ({odds[0]}) to {change['chosen']} ({odds[1]}){against}"
    if record.get("argmax_top1_percent") is not None:
        scores = " and ".join(
            shown_score(record[f"argmax_{part}top1_percent"], record[f"n_{images}_images"], what)
            for part, images, what in (
                ("", "valid", "architecture-validation images"),
                ("test_", "test", "test images"),
            )
        )
        yield "", f"argmax itself scores {scores}, with inherited weights too"
    if record.get("projection_log_odds") and any(map(is_overruled, changes)):
        rarer = times_as_rare(record["projection_log_odds"])
        yield "", f"to the search, argmax is {rarer} times as probable as this network; --window 0.9 lets one end lower"


def scored_lines(record: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What networks were scored to choose this one, and how far the scores can be trusted, as (label, text)."""
    if rescored := record.get("rescored"):
        before = rescored.get("loss_of_most_probable")
        beside = f", the most probable one's {number_of(before, 1, 3)}" if before is not None else ""
        networks, loss = counted(rescored["networks"], "network"), number_of(rescored["loss"], 1, 3)
        yield "rescored", f"{networks}; its cross-entropy is {loss} nats{beside}"
        yield from (("note", line) for line in notes_on_images(rescored))
    found = record.get("predictor")
    if not found:
        return
    images = counted(found["n_images"], "architecture-validation image") if found.get("n_images") else "images"
    broken = f", {found['n_broken']} of them broken" if found.get("n_broken") else ""
    yield "scored", f"{counted(found['n_scored'], 'network')}{broken} by their cross-entropy on {images}"
    taken = f"{number_of(found['loss'], 1, 3)} nats" if found.get("loss") is not None else "not scored"
    mean, sd = found["random_mean"], found["random_sd"]
    yield "", f"the one taken {taken}; {found['n_random']} random ones of this target {mean:.3f}, sd {sd:.3f}"
    if not found["is_fallback"]:
        ends = (f"{found[end] / sd:.1f}" if sd else "-" for end in ("gain_low", "gain_high"))
        yield "gain", f"{found['gain_in_sd']:.1f} sd of the random ones (95 %: {' to '.join(ends)}), on those images"
    yield "ranking", f"networks left out are ranked with a tau of {found['kendall']:.2f} (1 is right, 0 is chance)"
    yield from (("note", line) for line in notes_on_scores(record))


def notes_on_scores(record: Mapping[str, Any]) -> Iterator[str]:
    """What stands against the choice of a predictor."""
    found = record["predictor"]
    if found["is_fallback"]:
        yield (
            "the supernet does not rank networks: nothing is known to be better than a random network of this target; "
            "the one taken is what the scores suggest. Give it more --warmup_epochs or images"
        )
    guessing = math.log(max(record.get("num_classes") or 1, 1))
    if found["random_mean"] >= guessing:
        yield f"its networks do no better than guessing ({guessing:.3f} nats): give it more --warmup_epochs"
    yield from notes_on_images(found)


def notes_on_images(found: Mapping[str, Any]) -> Iterator[str]:
    """Whether the images can tell networks apart that were chosen from by their losses; how many more would."""
    reliability, n_images = found.get("reliability"), found.get("n_images")
    if reliability is None or not n_images or reliability >= FAIR:
        return
    images = counted(n_images, "image")
    if reliability <= 0:
        yield f"{images} cannot tell these networks apart: give it more --valid_size"
    else:
        wanted = math.ceil(n_images * FAIR * (1 - reliability) / (reliability * (1 - FAIR)))
        yield f"{images} hardly tell these networks apart; {wanted:,} would (--valid_size, --score_images)"


def summary(run_dir: Path) -> str:
    """The end of a run, for a person: the architecture, what it costs against what was asked, where the files are."""
    run = read_run(run_dir)
    if run.is_random:
        return _random_summary(run)
    record, spec, goal = run.result, run.spec, run.target
    assert record is not None and spec is not None
    named = replace(spec, name=title_of(run))
    lines = ["", describe(named, costs=run.costs(spec, run.table_scale), unit=run.unit or Unit.MS), ""]

    def say(label: str, text: str) -> None:
        lines.append(labeled(label, text))

    if run.unit is not None and run.predicted is not None and goal is not None:
        say("target", run.unit.exact(goal))
        measured = run.measured_ms
        source = record.get("latency_source") or "a table that was not recorded"
        how = "counted" if run.unit.is_counted else f"by {source}"
        if run.table_scale != 1:
            how += f" times {run.table_scale:.4f}, as measured"
        if not run.unit.is_counted and measured is None:
            how += "; not measured"
        say("predicted", f"{run.unit.exact(run.predicted)} ({100 * (run.predicted / goal - 1):+.2f} %), {how}")
        if measured is not None:
            for label, text in _measured_lines(record, goal):
                say(label, text)
        for label, text in _landed_lines(run):
            say(label, text)
        if record.get("predictor"):
            pass  # which has no most probable network
        elif run.settings.get("derive") != "argmax" and record.get(ARGMAX_KEY[run.unit]) is not None:
            for label, text in _projection_lines(run, record):
                say(label, text)
        else:
            say("note", "derived by argmax: nothing makes this network hit the target")
    for label, text in scored_lines(record):
        say(label, text)
    for unit, key in LIMIT_KEY.items():
        if run.settings.get(key) is not None:
            size = record["macs"] if unit is Unit.MACS else record["params"]
            say("limit", f"{unit.exact(size)} of at most {unit.exact(run.settings[key], math.floor)}")
    say(
        "size",
        f"{format_count(record['macs'])} MACs, {format_count(record['params'])} parameters (of this network, "
        "not of the supernet)",
    )
    n_valid, n_test = record["n_valid_images"], record["n_test_images"]
    say(
        "accuracy",
        f"{shown_score(record['top1_percent'], n_valid, 'architecture-validation images')}, "
        f"{shown_score(record['test_top1_percent'], n_test, 'test images')}; inherited weights, BN recalibrated",
    )
    if record.get("whole_top1_percent") is not None:
        say(
            "whole",
            f"{shown_score(record['whole_top1_percent'], n_valid, 'architecture-validation images')}, "
            f"{shown_score(record['whole_test_top1_percent'], n_test, 'test images')}; the largest network, of "
            f"{format_count(record['whole_macs'])} MACs, with the same weights",
        )
    chance = 100 / spec.num_classes
    if record["top1_percent"] < NEAR_CHANCE * chance:
        why = "alpha chose among operations that were not trained", "images, --warmup_epochs or --n_epochs"
        if record.get("predictor"):
            why = "networks were chosen by the scores of weights that were not trained", "images or --warmup_epochs"
        say("note", f"that is near chance ({chance:.1f} %): {why[0]}; give it more {why[1]}")
    if record.get("finetuned_top1_percent") is not None:
        say(
            "fine-tuned",
            f"{shown_score(record['finetuned_top1_percent'], n_valid, 'validation images')}, "
            f"{shown_score(record['finetuned_test_top1_percent'], n_test, 'test images')}, after "
            f"{counted(run.settings.get('finetune_epochs') or 0, 'epoch')} of training this network alone",
        )
    if record["unreadable_images"]:
        say("unreadable", f"{counted(record['unreadable_images'], 'image')} left out (warnings named them)")
    behind = f", behind the warm-up of {record['warmup_from']}" if record.get("warmup_from") else ""
    for note in run.notes:
        say("note", note)
    say("time", format_seconds(record["wall_seconds"]) + behind)
    weights = own_weights(run_dir)
    kept = weights.name if weights is not None else "no weights"
    say("files", f"{run_dir}/: report.html, spec.json, {kept}, result.json, architecture.png, search.png")
    return "\n".join([*lines, _commands(run)])


def _commands(run: Run) -> str:
    """How to continue with a finished run, for a person."""
    found = next_commands(run, command_line)
    return "\n".join(["\nnext:", *(f"  {line}" for line in align(found, left=(0, 1)))])


def _random_summary(run: Run) -> str:
    assert run.result is not None
    unit, costs = Unit(run.result["cost_unit"]), [entry["cost"] for entry in run.result["networks"]]
    cheapest, most_expensive, target = (unit.exact(cost) for cost in (min(costs), max(costs), run.result["target"]))
    networks = counted(len(costs), "random network")
    return f"{networks} of {cheapest} to {most_expensive} (target: {target}) in {run.folder}/specs\n{_commands(run)}"
