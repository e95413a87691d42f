"""A search from its settings to its product: open, start or go on, take the steps, finish.

``run_search`` is what search/imagenet_arch_search.py does, for a program or a notebook:

    from search import SearchConfig, run_search
    result = run_search(SearchConfig.of(data_path="photos/", target_latency_ms=80), "runs/mine")

With several processes (torchrun) every one calls it: they fail, stop and end together, and the first alone writes,
speaks and has a result.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch

from proxyless_arch.apps.memory import as_begun
from proxyless_arch.base import runs
from proxyless_arch.base.errors import ElsewhereError, InputError, StoppedError
from proxyless_arch.base.files import expanded, read_json, write_json
from proxyless_arch.base.machine import busy_note
from proxyless_arch.base.progress import Progress, above_bars, speak
from proxyless_arch.base.runs import (
    METRICS_FILE,
    StopRequest,
    read_metrics,
    resume_command,
)
from proxyless_arch.base.settings import note_on_absent
from proxyless_arch.base.strict import counted
from proxyless_arch.base.text import labeled
from proxyless_arch.base.timing import Stopwatch
from proxyless_arch.base.words import DRY
from proxyless_arch.space.search_space import FILE as SPACE_FILE
from proxyless_arch.space.search_space import SearchSpace, write_space
from proxyless_nas import distributed
from proxyless_nas.devices import device_name
from proxyless_nas.opening import Place, Say, interrupts_as, listener, with_threads
from proxyless_nas.steps import NonFiniteLossError, check_learns
from search.config import (
    LEFT_OPEN,
    SearchConfig,
    anchored,
    as_flags,
    changes_of_resume,
    read_config,
    to_dict,
    with_settings,
)
from search.reporting.report_page import REPORT_FILE
from search.result import RandomResult, SearchResult, read_result
from search.run import announce, checkpoint, finish, loop, random_control, rounds, scoring, warmup
from search.run import job as jobs
from search.run.choosing import Chooser
from search.run.job import Job
from search.run.log import RunLog
from search.run.loop import Search

COMMAND = "search/imagenet_arch_search.py"
SAVE_EVERY_SECONDS = 300
NAMED = 3  # images of a batch whose loss is not finite


class SearchStopped(runs.RunStopped):
    """A search ended by Ctrl-C or SIGTERM."""


def run_search(
    config: SearchConfig | None = None,
    path: str | os.PathLike[str] | None = None,
    *,
    resume: bool = False,
    warmup_from: str | os.PathLike[str] | None = None,
    say: Say | None = speak,
    command: Sequence[str] | None = None,
    dry_run: bool = False,
    space: SearchSpace | None = None,
) -> SearchResult | None:
    """Search a network: from the start, behind another run's warm-up, or on from where a run was stopped.

    Args:
        config: the settings (default: the digits'). A resumed search keeps its own; these may only repeat them.
        path: the run folder (default: a dated one under runs/).
        resume: go on with the search in ``path``. One that is finished is only read.
        warmup_from: the folder of a run whose warm-up stands for this search's own.
        say: gets each line that is for a person; None for silence, and no progress bar.
        command: the words of the command line that asked for it, for environment.json (default: those that would).
        dry_run: say what would be done, with memory and time, and stop; nothing is written.
        space: of your own, in place of a named one (--space): a SearchSpace for images of so many classes. A resumed
            search has that of its folder.

    Returns:
        The product; None in all processes but the first, and of a dry run.

    Raises:
        InputError: settings, images or files that do not fit; nothing is written then, and nothing lost.
        SearchStopped: a Ctrl-C, behind the next step with a checkpoint written, or at once where there are no steps.
        StoppedError: a loss or gradient is no finite number; the last checkpoint stays.
        ElsewhereError: in all processes but the one that raises an error of its own.
    """
    request = _Request.of(config, path, resume, warmup_from, say, command)
    if request.config.arch.arch_algo == "random":
        raise InputError("random draws networks and trains none: that is draw_random", "arch_algo")
    if space is not None and warmup_from is not None:
        raise InputError("a space of your own has a warm-up of its own", "warmup_from")
    with request.opened() as (device, tell), contextlib.ExitStack() as held:
        if not dry_run:
            request.place.hold(held)
        if request.resume:
            with distributed.fail_together():
                warmup.check_kept(request.home, request.warmup_from)
            if distributed.broadcast_value(request.is_finished):
                return _reopened(request, tell)
            with distributed.fail_together():
                runs.check_images_are_there(request.config.data.data_path, request.home)
        _say_origin(request, tell)
        config = _as_in_warm_up(request)
        space = _space_so_far(request) if request.resume else space
        job = jobs.prepare(config, device, tell, resumed=request.resume, measures=not dry_run, space=space)
        with distributed.fail_together():
            warm = _warm_up_to_start_from(request, job)
        if dry_run:
            _say_what_would_be_done(request, job, warm, tell)
            return None
        run_dir = request.place.claimed(held)
        busy = busy_note(torch.get_num_threads(), "add --threads 1") if device.type == "cpu" else None
        if busy and not request.resume and warm is None:  # which keep the threads that they began with
            tell(busy)
        with interrupts_as(SearchStopped, COMMAND, lambda: run_dir, tell), runs.naming_the_way_on(COMMAND, run_dir):
            return _search_in(run_dir, job, request, warm, tell)


def draw_random(
    config: SearchConfig | None,
    path: str | os.PathLike[str] | None = None,
    *,
    resume: bool = False,
    say: Say | None = speak,
    command: Sequence[str] | None = None,
    dry_run: bool = False,
) -> RandomResult | None:
    """The random control of a search: networks of the target's cost as spec files; nothing is trained.

    ``config.arch.arch_algo`` is random. Arguments, results and errors as for run_search.
    """
    request = _Request.of(config, path, resume, None, say, command)
    if request.config.arch.arch_algo != "random":
        raise InputError(f"expected random, got {request.config.arch.arch_algo}: that is run_search", "arch_algo")
    with request.opened() as (device, tell), contextlib.ExitStack() as held:
        if not dry_run:
            request.place.hold(held)
        if distributed.broadcast_value(request.is_finished):
            return _reopened(request, tell)
        _say_origin(request, tell)
        job = jobs.prepare(request.config, device, tell, measures=not dry_run)
        if dry_run:
            _say_what_would_be_done(request, job, None, tell)
            return None
        with distributed.fail_together():
            drawn = random_control.random_paths(job)
        run_dir = request.place.claimed(held)
        if not distributed.is_main():
            return None
        write_environment(run_dir, job, request.command_in(run_dir), resumed=False)
        write_json(run_dir / "config.json", to_dict(anchored(job.config)))
        write_space(run_dir / SPACE_FILE, job.space)
        random_control.write_random_networks(job, run_dir, drawn)
        drawn_result = read_result(run_dir)
        assert isinstance(drawn_result, RandomResult)
        return drawn_result


# ------------------------------------------------------------------------------------------------- what is asked for


@dataclass(frozen=True)
class _Request:
    """What run_search and draw_random were called with, settled: a resumed run has its own settings."""

    config: SearchConfig
    place: Place
    warmup_from: Path | None
    say: Say | None
    command: Sequence[str] | None
    changes: tuple[str, ...] = ()
    """What a resumed run has otherwise than it was started with, for a person."""

    @staticmethod
    def of(
        config: SearchConfig | None,
        path: str | os.PathLike[str] | None,
        resume: bool,
        warmup_from: str | os.PathLike[str] | None,
        say: Say | None,
        command: Sequence[str] | None,
    ) -> _Request:
        folder = Path(expanded(os.fspath(path))) if path is not None else None
        changes: tuple[str, ...] = ()
        if resume:
            if folder is None:
                raise InputError("needs the run folder: give its path", "resume")
            saved = read_config(runs.config_to_resume(folder), fill_missing=True)
            config = as_begun(saved, config) if config is not None else saved
            changes = changes_of_resume(saved, config)
        source = Path(expanded(os.fspath(warmup_from))) if warmup_from is not None else None
        return _Request(config or SearchConfig.of(), Place(folder, resume), source, say, command, changes)

    @property
    def resume(self) -> bool:
        return self.place.resume

    @property
    def home(self) -> Path:
        return self.place.home

    @property
    def is_finished(self) -> bool:
        return self.resume and finish.is_finished(self.home)

    @contextlib.contextmanager
    def opened(self) -> Iterator[tuple[torch.device, Say]]:
        """Join the other processes, with the threads asked for: this one's device, and whom it tells what it does."""
        with (
            with_threads(self.config.torch_threads),
            distributed.init_from_environment("cpu" if self.is_finished else self.config.device) as device,
        ):
            tell = listener(self.say)
            with interrupts_as(SearchStopped, COMMAND, lambda: self.place.path if self.resume else None, tell):
                yield device, tell

    def command_in(self, run_dir: Path) -> list[str]:
        """The words for environment.json."""
        if self.command is not None:
            return list(self.command)
        if self.resume:
            return [COMMAND, "--run_dir", str(run_dir), "--resume"]
        behind = [warmup.FLAG, str(self.warmup_from)] if self.warmup_from is not None else []
        return [COMMAND, "--run_dir", str(run_dir), *as_flags(self.config), *behind]


def _reopened(request: _Request, tell: Say) -> Any:
    """A finished run once more. Nothing is written but what it was killed before, and where its images are now."""
    run_dir = request.home
    with distributed.fail_together():
        if distributed.is_main():
            _note_new_place(request)
            finish.complete(run_dir)
    tell("this run is finished: nothing is done again")
    return read_result(run_dir) if distributed.is_main() else None


def _note_new_place(request: _Request) -> None:
    """Where the images of a finished run have moved, its config.json and its report say so.

    Raises:
        InputError: other images.
    """
    recorded, wanted = read_json(request.home / runs.CONFIG_FILE), anchored(request.config)
    path = wanted.data.data_path
    if path is None or not request.changes or path == recorded["data_path"]:
        return
    runs.check_images_are_there(path, request.home)
    told = read_json(request.home / runs.RESULT_FILE).get("images")
    if told is not None and jobs.open_images(wanted).fingerprint(told) != told:
        raise InputError("not the images that the run had", "--data_path", path)
    write_json(request.home / runs.CONFIG_FILE, recorded | {"data_path": path})
    (request.home / REPORT_FILE).unlink(missing_ok=True)


def _say_what_would_be_done(request: _Request, job: Job, warm: warmup.WarmUp | None, tell: Say) -> None:
    """The header of a search as it would begin; nothing is written."""
    run_dir = request.place.to_claim()
    if job.config.arch.arch_algo == "random" or job.unmeasured is not None:
        tell(announce.header(job))
    else:
        search, note = jobs.new_search(job, starts=not _has_weights(request, run_dir, warm)), None
        if request.resume or warm is not None:
            config, data = (
                to_dict(job.config),
                {**jobs.fingerprint(job), **checkpoint.computes(job.device, kernels=job.kernels)},
            )
            with distributed.fail_together():
                note = _bring_to_its_start(job, search, run_dir, request.resume, warm, config, data).note
        _announce(job, search, run_dir, request.resume, warm, note, tell)
    tell(DRY)


def _space_so_far(request: _Request) -> SearchSpace | None:
    """The space that the run searches, from its folder; None where it left none."""
    path = request.home / SPACE_FILE
    with distributed.fail_together():
        stored = read_json(path) if distributed.is_main() and path.is_file() else None
    stored = distributed.broadcast_value(stored)
    return None if stored is None else SearchSpace.from_json(stored, str(path))


def _as_in_warm_up(request: _Request) -> SearchConfig:
    """The settings; those of LEFT_OPEN as in the warm-up that stands for this search's own."""
    config, source = request.config, request.warmup_from
    ours = to_dict(config)
    open_ones = [name for name in LEFT_OPEN if ours[name] is None]
    if source is None or not open_ones or not (source / runs.CONFIG_FILE).is_file():
        return config
    theirs = to_dict(read_config(source / runs.CONFIG_FILE, fill_missing=True))
    return with_settings(config, {name: theirs[name] for name in open_ones})


def _say_origin(request: _Request, tell: Say) -> None:
    if request.resume:
        for note in (*note_on_absent(request.config, read_json(request.home / runs.CONFIG_FILE)), *request.changes):
            tell(note)
    elif request.config.data.dataset == "digits":
        tell("no --data_path given: searching on scikit-learn's embedded 8x8 digits")


def _warm_up_to_start_from(request: _Request, job: Job) -> warmup.WarmUp | None:
    """The warm-up of another run, read and checked; None where this one does its own or is past it.

    A resumed run keeps what it was started with. Only where it was killed before its first checkpoint does it look at
    the other run again.
    """
    source = request.warmup_from
    if request.resume:
        source = None if runs.has_checkpoint(request.home) else warmup.recorded(request.home)
    if source is None:
        _check_largest(request, job)
        return None
    return warmup.read(source, job.schedule, to_dict(job.config), functools.partial(jobs.fingerprint, job), job.device)


def _check_largest(request: _Request, job: Job) -> None:
    """Raises InputError where a new run would do a warm-up on sizes that its images do not reach."""
    sizes, own = job.config.data.warmup_sizes, job.space.preprocessing.resolution
    if sizes and own != sizes[-1] and job.schedule.warmup_steps and not request.resume:
        raise InputError(
            f"the warm-up on several sizes is done with images of the largest: expected --resolution {sizes[-1]}, or "
            f"that run's warm-up ({warmup.FLAG}), got {own}",
            "--mixed_resolutions",
        )


# ------------------------------------------------------------------------------------------------------------ the run


@dataclass(frozen=True)
class Start:
    """Where the steps begin. ``kept``: bytes of metrics.jsonl that stay, None for a new file."""

    kept: int | None = None
    seconds: float = 0.0
    note: str | None = None


@dataclass
class Running:
    """A search on its way, with the files it leaves. Every process has one; the first alone has a log and writes.

    ``config`` and ``data``: what a checkpoint is compared by when the search is resumed. ``seconds_before``: that the
    search took before this process.
    """

    job: Job
    search: Search
    folder: Path
    config: dict[str, Any]
    data: dict[str, Any]
    seconds_before: float
    log: RunLog | None = None
    offset: int | None = None
    """Of the metrics behind the last step; what comes after it is written again when the run is resumed."""

    def __post_init__(self) -> None:
        self.watch = Stopwatch(self.seconds_before)
        self.train = self.job.train_batches(self.search.step)
        self.valid = self.job.valid_batches(self.search.controller.step)

    @property
    def wall_seconds(self) -> float:
        return self.watch.seconds

    def write_epoch(self, record: dict[str, Any]) -> None:
        if self.log is not None:
            self.log.epoch(record)
        n_trained = self.job.schedule.steps_per_epoch * self.job.config.data.train_batch_size
        flag = "--warmup_lr" if record["phase"] == "warmup" else "--init_lr"
        check_learns(record["train_loss"], record["train_top1_percent"], n_trained, self.job.space.num_classes, flag)

    def save(self) -> None:
        """Write the checkpoint, and warmup.pt at the end of the warm-up. Every process calls it at the same step."""
        own = {*self.search.unreadable, *self.train.unreadable.places, *self.valid.unreadable.places}
        self.search.unreadable = set().union(*distributed.gathered(own))
        self.watch.lap()
        if self.log is None:
            return
        offset = self.log.offset if self.offset is None else self.offset
        state = self.search.checkpoint(self.config, self.data, offset, self.wall_seconds)
        if 0 < self.search.step == self.job.schedule.warmup_steps:
            warmup.keep(self.folder, state)
        checkpoint.save(self.folder / checkpoint.NAME, state)

    def goes_on(self, wants_to_stop: bool) -> bool:
        """Between two steps: save where it is due, and say whether no process wants to stop."""
        is_due = self.watch.since_lap > SAVE_EVERY_SECONDS
        n_stopping, n_due = distributed.summed(wants_to_stop, is_due)
        if n_stopping or n_due or self.search.epoch_is_over:
            self.save()
        return not n_stopping

    def stop_with_images(self, error: NonFiniteLossError) -> NoReturn:
        """End every process; the first one names the first images of the batch.

        All are here; together the shares in which it arose are in the order of the batch.
        """
        batches = self.valid if self.search.arch_steps_due() else self.train
        shares = distributed.gathered(batches.first_images if error.here else [])
        images = [image for row in itertools.zip_longest(*shares) for image in row if image is not None]
        if not distributed.is_main():
            raise ElsewhereError
        raise _stopped(f"{error}; its first images: {', '.join(images[:NAMED])}")


def _search_in(
    run_dir: Path, job: Job, request: _Request, warm: warmup.WarmUp | None, tell: Say
) -> SearchResult | None:
    """Search from the start, behind another run's warm-up or from the folder's checkpoint, to the finished network."""
    search = jobs.new_search(job, starts=not _has_weights(request, run_dir, warm))
    config, data = (
        to_dict(anchored(job.config)),
        {**jobs.fingerprint(job), **checkpoint.computes(job.device, kernels=job.kernels)},
    )
    with distributed.fail_together():
        start = _bring_to_its_start(job, search, run_dir, request.resume, warm, config, data)
        if distributed.is_main():
            run_dir.mkdir(parents=True, exist_ok=True)
            # config.json makes it a run to resume, and environment.json has whose warm-up that is to start behind
            source = warm.folder if warm is not None else None
            write_environment(run_dir, job, request.command_in(run_dir), request.resume, source)
            write_json(run_dir / "config.json", config)  # a resumed one gains the settings it is too old to have
            write_space(run_dir / SPACE_FILE, job.space)
            if warm is not None:
                start = Start(warmup.begin(run_dir, warm, search, config, data), start.seconds, start.note)
    _check_warm_up_is_one(warm, search)
    _announce(job, search, run_dir, request.resume, warm, start.note, tell)
    running = Running(job, search, run_dir, config, data, start.seconds)
    with contextlib.ExitStack() as files:
        done = _take_steps(running, start.kept, files, request.say is not None, tell)
        if not done:
            again = resume_command(COMMAND, run_dir)
            message = f"stopped and saved at step {search.step} of {job.schedule.total_steps}; continue with\n  {again}"
            tell(f"\n{message}")
            raise SearchStopped(message, run_dir)
        chooser = _choose(running, request.say is not None, tell)
        if running.log is None:  # one process derives and scores: every image is counted once
            return None
        try:
            source = warmup.recorded(run_dir)
            finish.finish(job, search, run_dir, running.log, running.wall_seconds, source, chooser)
        except NonFiniteLossError as error:  # of the fine-tune
            raise _stopped(str(error)) from None
        result = read_result(run_dir)
        assert isinstance(result, SearchResult)
        return result


def _has_weights(request: _Request, run_dir: Path, warm: warmup.WarmUp | None) -> bool:
    """Whether the weights to start with are in a file of this run's, or of the warm-up that it starts behind."""
    return warm is not None or (request.resume and runs.has_checkpoint(run_dir))


def _stopped(problem: str) -> StoppedError:
    return StoppedError(
        f"stopped before the update: {problem}; a new run may need a lower learning rate (--warmup_lr, --init_lr, "
        "--arch_lr, --finetune_lr) or, for the weights, --grad_clip"
    )


def _bring_to_its_start(
    job: Job,
    search: Search,
    run_dir: Path,
    resume: bool,
    warm: warmup.WarmUp | None,
    config: dict[str, Any],
    data: dict[str, Any],
) -> Start:
    """Put a checkpoint, or another run's warm-up, into a new search."""
    path = run_dir / checkpoint.NAME
    if resume and runs.has_checkpoint(run_dir):
        kept = f"; {warmup.FLAG} {run_dir} takes its warm-up" if (run_dir / warmup.NAME).is_file() else ""
        saved = checkpoint.load(path, checkpoint.ANEW + kept)
        checkpoint.check_same(saved, config, data | job.data.fingerprint(saved.data), str(run_dir))
        search.restore(saved, str(path))
        note = checkpoint.computed_otherwise(saved, search.device, search.kernels)
        return Start(saved.metrics_offset, saved.wall_seconds, note)
    if resume:
        _refuse_lost_checkpoint(run_dir, len(warm.epochs) if warm is not None else 0)
    if warm is not None:
        warm.put_before(search)
    if not resume:
        return Start()
    if warm is not None:
        return Start(0, note="there is no checkpoint: it starts over behind the warm-up")
    return Start(0, note="there is no checkpoint, nor a finished epoch: it starts over")


def _refuse_lost_checkpoint(run_dir: Path, may_be_there: int) -> None:
    """Raises InputError for a folder whose checkpoint is gone: starting over would destroy what it holds.

    A kill before the first checkpoint leaves ``may_be_there`` epochs at most: those of another run's warm-up.
    """
    metrics = run_dir / METRICS_FILE
    n_epochs = len(read_metrics(metrics)) if metrics.is_file() else 0
    has_result = (run_dir / "result.json").exists()
    if n_epochs > may_be_there or has_result:
        held = "a result" if has_result else counted(n_epochs, "epoch")
        problem = f"no such file, but the run holds {held}: start over in a new --run_dir"
        raise InputError(problem, checkpoint.NAME, str(run_dir))


def _check_warm_up_is_one(warm: warmup.WarmUp | None, search: Search) -> None:
    """Raises InputError when the processes, each of which read the file that it found, found different weights."""
    if warm is None:
        return
    agreed = distributed.same_on_all_ranks(list(search.supernet.parameters()))
    with distributed.fail_together():
        if not agreed:
            raise InputError("the processes found different weights there", warmup.FLAG, str(warm.folder))


def _announce(
    job: Job, search: Search, run_dir: Path, resume: bool, warm: warmup.WarmUp | None, note: str | None, tell: Say
) -> None:
    """Say what is about to happen. Every process calls it: the first steps are timed in all of them."""
    tell(announce.header(job))
    if job.schedule.total_steps:
        if tell is speak and sys.stdout.isatty():
            print(labeled("expected", "timing a few steps ..."), end="\r", flush=True)  # the next line covers it
        step_images, arch_images = (
            size // distributed.world_size() for size in (job.config.data.train_batch_size, job.arch_batch_size)
        )
        batch = job.first_batch()
        timing = loop.seconds_per_step(search, batch, arch_images, step_images)
        if job.config.precision != "fp32" and job.device.type == "cpu":
            with search.supernet.in_precision("fp32"):
                plain = loop.seconds_per_step(search, batch, arch_images, step_images)
            paid = announce.what_it_pays(job.config.precision, timing, plain, job.schedule)
            tell(labeled("precision", paid))
        each = job.seconds_to_read()
        reading = step_images * each, arch_images * each
        n_networks = rounds.most_scored(job)
        each_scored = _seconds_per_network(job, search) if n_networks else 0.0
        scored = n_networks, each_scored
        tell(labeled("expected", announce.expected_time(job.schedule, timing, search.step, reading, scored)))
    for label, text in announce.beginning(job, search, run_dir, resume, warm, note):
        tell(labeled(label, text))


def _seconds_per_network(job: Job, search: Search) -> float:
    """How long a network takes to be scored; of several processes each scores its share."""
    n_images = scoring.recalibration_images(job) + scoring.scored_images(job)
    images, _ = job.first_batch()
    each = max(loop.seconds_per_forward(search, images) / len(images), 0.0)
    return n_images * each / distributed.world_size()


def _take_steps(running: Running, kept: int | None, files: contextlib.ExitStack, has_bar: bool, tell: Say) -> bool:
    """Run to the end of the schedule; true when it got there. The log is left open, in ``files``."""
    search = running.search
    with StopRequest() as stop, _progress(search, has_bar) as bar:
        with distributed.fail_together():
            if distributed.is_main():
                log = RunLog(running.folder, kept, say=lambda line: _say_beside_bars(tell, line))
                running.log = files.enter_context(log)
        if search.step == 0:  # behind another run's warm-up there is a checkpoint already
            running.save()

        def on_step(_: Search) -> bool:
            bar.update(1)
            return running.goes_on(stop.wanted)

        try:
            return loop.run(search, running.train, running.valid, on_epoch=running.write_epoch, on_step=on_step)
        except NonFiniteLossError as error:
            running.stop_with_images(error)


def _choose(running: Running, has_bar: bool, tell: Say) -> Chooser:
    """Score networks, where the settings ask for it, until one is found. Raises SearchStopped."""
    job, search = running.job, running.search
    most = rounds.most_scored(job)
    running.offset = running.log.offset if running.log is not None else None
    hidden = not (has_bar and most) or not distributed.is_main()
    with StopRequest() as stop, Progress(most, "network", hidden=hidden) as bar:

        def between(count: int) -> None:
            bar.update(count)
            (n_stopping,) = distributed.summed(stop.wanted)
            if n_stopping:
                running.save()
                again = resume_command(COMMAND, running.folder)
                message = f"stopped, and what was scored is saved; continue with\n  {again}"
                tell(f"\n{message}")
                raise SearchStopped(message, running.folder)

        chooser = rounds.chooser_of(job, search, running.folder, between, running.write_epoch)
        rounds.choose(job, search, chooser)
    return chooser


def _progress(search: Search, wanted: bool) -> Progress:
    """Shown by one process."""
    hidden = not wanted or not distributed.is_main()
    return Progress(search.schedule.total_steps, "step", done=search.step, hidden=hidden)


def _say_beside_bars(tell: Say, line: str) -> None:
    with above_bars():
        tell(line)


def write_environment(
    run_dir: Path, job: Job, argv: Sequence[str], resumed: bool, warmup_from: Path | None = None
) -> None:
    """environment.json: what this run ran on, and whose warm-up it started behind, where it did not do its own."""
    now = runs.environment(
        argv,
        torch=torch.__version__,
        numpy=np.__version__,
        torch_threads=torch.get_num_threads(),
        device=device_name(job.device),
        processes=distributed.world_size(),
        kernels=job.kernels,
        **({"warmup_from": str(warmup_from.absolute())} if warmup_from is not None else {}),
    )
    runs.write_environment(run_dir, now, resumed)
