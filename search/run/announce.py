"""What a search is about to do, for a person who waits for it."""

from __future__ import annotations

from pathlib import Path

import torch

from hardware.profile.device import subject_of
from hardware.profile.profiling import unique_ops
from proxyless_arch.apps.few_images import SEARCHING, notes_on_few_images
from proxyless_arch.apps.orientation import in_words, note_on_edition
from proxyless_arch.base.machine import workers_text
from proxyless_arch.base.runs import format_seconds
from proxyless_arch.base.strict import counted
from proxyless_arch.base.text import labeled
from proxyless_arch.base.units import format_count
from proxyless_arch.base.words import MEASURABLE
from proxyless_arch.data.batches import note_on_few_steps
from proxyless_arch.space.search_space import SearchSpace
from proxyless_nas import distributed
from proxyless_nas.devices import device_name
from proxyless_nas.fast import kernels_text
from search.algorithm.controllers import resolved_arch_lr
from search.config import TARGET_KEY, SearchConfig
from search.run.job import Job
from search.run.loop import Schedule, Search
from search.run.rounds import most_scored
from search.run.warmup import WarmUp


def _schedule(job: Job) -> str:
    """What is done, how often."""
    config, schedule = job.config, job.schedule
    warm, steps = f"{schedule.warmup_epochs} warm-up", counted(schedule.steps_per_epoch, "step")
    if config.arch.arch_algo == "predictor":
        epochs = counted(schedule.warmup_epochs, "warm-up epoch")
        return f"{epochs} of {steps}, then networks of the target are scored to learn which to take"
    count = most_scored(job)
    rescored = f"; at the end {counted(count, 'network')} are scored" if count else ""
    if count and config.target.target_hardware in MEASURABLE:
        rescored += ", and a few for each time that this machine makes it choose again"
    return (
        f"{warm} + {counted(schedule.search_epochs, 'search epoch')} of {steps}, "
        f"{counted(schedule.arch_steps, 'architecture step')} of "
        f"{counted(job.arch_batch_size, 'image')} "
        f"(lr {resolved_arch_lr(config.arch, schedule.arch_steps):.3g}, {_rule(job)}){rescored}"
    )


def _unmoved(job: Job) -> tuple[str, ...]:
    """One line where the search is too short for alpha to learn anything, else none."""
    if job.config.arch.arch_algo == "predictor":
        problem = "no warm-up: networks are scored with weights drawn at random, which says nothing of them"
        return () if job.schedule.warmup_epochs or job.parent is not None else (problem,)
    if job.schedule.arch_steps:
        return ()
    every = counted(job.schedule.arch_every, "weight step")
    problem = f"no architecture step: alpha has one every {every} of the search epochs"
    return (
        f"{problem}. The network will be as good as one drawn at random: more --n_epochs, or a smaller --batch_size",
    )


def _rule(job: Job) -> str:
    """How alpha is updated, in a few words. Without a goal accuracy alone counts: no loss or reward to name."""
    arch, goal = job.config.arch, job.goal
    if arch.arch_algo == "rl":
        words = ["REINFORCE", counted(arch.rl_batch_size, "path")]
        words += [f"{arch.rl_reward} reward"] if goal is not None else []
        words += [f"alpha is frozen for the first {100 * arch.rl_freeze:.3g} %"] if arch.rl_freeze else []
    else:
        words = [arch.grad_binary_mode, *([job.config.target.grad_reg_loss_type] if goal is not None else [])]
    return ", ".join(words)


def _size_of(space: SearchSpace, width_mult: float) -> str:
    """How much of it there is, and is searched."""
    if space.widths:
        widths = f"{counted(len(space.choices), 'searched block')}, {counted(len(space.widths), 'searched width')}"
        return f"width {width_mult:g}: {widths}, weights shared"
    if space.shares_weights:
        return f"{counted(len(space.choices), 'searched block')}, weights shared"
    if len(space.edges) == len(space.choices):
        return f"width {width_mult:g}: {space.n_edges} searched blocks"
    width = space.feature_mix.in_channels
    return f"{counted(len(space.blocks), 'block')}, up to {width} channels: {space.n_edges} searched edges"


def _images_text(job: Job) -> str:
    """How image files are read: for weights and for alpha by processes of their own."""
    readers = workers_text(job.n_workers, distributed.world_size())
    return f"{in_words(job.space.preprocessing.exif)}; {readers}{', as many for alpha' if job.n_workers else ''}"


def header(job: Job) -> str:
    """What is about to happen, for a person: all that is known without a step."""
    config, space, table = job.config, job.space, job.table
    processes = f"{distributed.world_size()} processes, each on " if distributed.world_size() > 1 else ""
    data = job.data
    name = "digits (scikit-learn, embedded)" if config.data.dataset == "digits" else str(config.data.data_path)
    resolution = space.preprocessing.resolution
    precision = f", {config.precision}" if config.precision != "fp32" else ""
    computes = f"torch {torch.__version__}{kernels_text(job.kernels)}"
    lines = [
        (
            "data",
            f"{name}: {len(data.train)} training, {len(data.valid)} architecture-validation and {len(data.test)} test "
            f"images, {space.num_classes} classes, {resolution} px",
        ),
        *([("images", _images_text(job))] if config.data.dataset != "digits" else []),
        *data.kept_in_words(space.preprocessing, job.augment),
        *[("note", line) for line in (*note_on_edition(config.data), *data.left_out.lines())],
        (
            "space",
            f"{space.name}, {_size_of(space, config.space.width_mult)}, {format_count(space.size)} networks",
        ),
        ("device", f"{processes}{device_name(job.device)}{precision}, {computes}"),
    ]
    if table is not None and job.goal is not None:
        flag = f"--{TARGET_KEY[table.unit]}"
        given = config.target.target_latency_ms or config.target.target_macs
        why = "" if given else f" (default: 0.7 x the space's mean; change with {flag})"
        share = config.target.window
        low = (
            "" if share == SearchConfig().target.window else f"; the network may cost {100 * share:g} % of it at least"
        )
        lines.append(("target", f"{config.target.target_hardware}: {table.shown(job.goal)}{why}{low}"))
        lines.append(
            (
                "reachable",
                f"{table.reachable}, predicted {table.unit.quantity}; mean of the space "
                f"{table.shown(table.uniform_expected)}",
            )
        )
        from_file = "" if table.unit.is_counted else " from"
        lines.append(("source", f"{table.unit.quantity}{from_file} {table.source}"))
        if len(table.extrapolated) == 1:
            lines.append(("note", f"{table.extrapolated[0]}: an estimate, not a measurement"))
        elif table.extrapolated:
            lines.append(
                (
                    "note",
                    f"{len(table.extrapolated)} layer prices lie outside the predictor's fitted range: estimates only",
                )
            )
    elif job.unmeasured is not None:
        lines.append(("target", f"{config.target.target_hardware}, whose latency table would be measured first"))
        subject = subject_of(job.unmeasured)
        n_layers = len(unique_ops(subject.space, subject.more))
        lines.append(("", f"{counted(n_layers, 'layer')} and whole networks, once: {job.unmeasured.command()}"))
    else:
        lines.append(("target", "none: accuracy alone"))
    if job.limits:
        lines.append(("limits", " and ".join(map(str, job.limits))))
    lines.append(("schedule", _schedule(job)))
    lines += [("note", text) for text in (*_unmoved(job), *job.notes)]
    lines += job.memory.lines() if job.memory is not None else []
    return "\n".join(labeled(*line) for line in lines)


def expected_time(
    schedule: Schedule,
    seconds: tuple[float, float],
    first_step: int,
    reading: tuple[float, float] = (0.0, 0.0),
    scored: tuple[int, float] = (0, 0.0),
) -> str:
    """How long the search takes from weight step ``first_step`` on, for a person.

    ``seconds``: measured per weight step and per architecture step. ``reading``: of their images, beside that.
    ``scored``: how many networks are scored at the end, at most, and the seconds that each takes.
    """
    weight, arch = map(max, seconds, reading)
    arch_steps = schedule.arch_steps - schedule.arch_steps_before(first_step)
    total = (schedule.total_steps - first_step) * weight + arch_steps * arch + scored[0] * scored[1]
    slow = "; reading images takes longest" if reading[0] > seconds[0] else ""
    parts = [f"{1000 * weight:.0f} ms per weight step"]
    if schedule.arch_steps:
        parts.append(f"{1000 * arch:.0f} ms per architecture step")
    if scored[0]:
        parts.append(f"{1000 * scored[1]:.0f} ms for each of at most {scored[0]} networks that are scored")
    return f"about {format_seconds(total)} ({', '.join(parts)}{slow})"


def what_it_pays(precision: str, taken: tuple[float, float], in_fp32: tuple[float, float], schedule: Schedule) -> str:
    """Whether a precision makes a search faster here, by the measured seconds of (weight steps, architecture steps)."""
    wholes = [schedule.total_steps * weight + schedule.arch_steps * arch for weight, arch in (taken, in_fp32)]
    ratio = wholes[0] / wholes[1] if wholes[1] else 1.0
    if ratio < 1:
        return f"{precision} takes {ratio:.2f} of the time of fp32 here"
    return f"{precision} takes {ratio:.2f} times as long as fp32 here: it does not pay on this machine"


def beginning(
    job: Job, search: Search, run_dir: Path, resume: bool, warm: WarmUp | None, note: str | None
) -> list[tuple[str, str]]:
    """Where the steps begin and what comes of them, as (label, text); ``note``: on how a resumed run goes on."""
    lines = [("run folder", str(run_dir))]
    if not resume:
        size = job.config.data.train_batch_size
        few = note_on_few_steps(len(job.data.train), size, distributed.world_size())
        lines += [("note", text) for text in few]
        lines += notes_on_few_images(job.data, job.config.data.data_path, SEARCHING)
    if warm is not None:
        epochs = counted(job.schedule.warmup_epochs, "epoch")
        lines.append(("warm-up", f"that of {warm.folder} ({epochs}, {format_seconds(warm.seconds)})"))
    if resume:
        lines.append(("resumed", f"at step {search.step} of {job.schedule.total_steps}"))
    if note is not None:
        lines.append(("note", note))
    return lines
