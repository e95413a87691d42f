"""A training from its settings to its product: open, start or go on, take the steps, finish.

``run_training`` is what train.py does, for a program or a notebook:

    from proxyless_nas.train import TrainConfig, run_training
    config = TrainConfig.of(arch="efficientnet_lite0", weights="pretrained", data_path="photos/")
    result = run_training(config, "runs/mine")

With several processes (torchrun) every one calls it: they fail, stop and end together, and the first alone writes,
speaks and has a result.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch

from proxyless_arch.apps.memory import as_begun
from proxyless_arch.apps.train_settings import RECIPE_DIR, TrainConfig, changes_of_resume, read_config
from proxyless_arch.arch.codec import read_spec
from proxyless_arch.base import runs
from proxyless_arch.base.errors import ElsewhereError, InputError, StoppedError
from proxyless_arch.base.files import read_json
from proxyless_arch.base.machine import busy_note, usable_cores
from proxyless_arch.base.progress import Progress, speak
from proxyless_arch.base.settings import as_flags, note_on_absent
from proxyless_arch.base.text import labeled
from proxyless_arch.base.words import DRY
from proxyless_arch.weights.lookup import SPEC_FILE
from proxyless_nas import distributed
from proxyless_nas.opening import Place, Say, interrupts_as, listener, with_threads
from proxyless_nas.steps import NonFiniteLossError
from proxyless_nas.train import session
from proxyless_nas.train.result import TrainResult, read_result

COMMAND = "train.py"


class TrainingStopped(runs.RunStopped):
    """A training ended by Ctrl-C or SIGTERM."""


def run_training(
    config: TrainConfig | None = None,
    path: str | os.PathLike[str] | None = None,
    *,
    resume: bool = False,
    say: Say | None = speak,
    command: Sequence[str] | None = None,
    notes: Sequence[str] = (),
    dry_run: bool = False,
) -> TrainResult | None:
    """Train a network: from the start, or on from where a run was stopped.

    Args:
        config: the settings. A resumed training keeps its own; these may only repeat them.
        path: the run folder (default: a dated one under runs/).
        resume: go on with the training in ``path``. One that is finished is scored again.
        say: gets each line that is for a person; None for silence, and no progress bar.
        command: the words of the command line that asked for it, for environment.json (default: those that would).
        notes: lines on the settings, said first.
        dry_run: say what would be done, with memory and time, and stop; nothing is written.

    Returns:
        The product; None in all processes but the first, and of a dry run.

    Raises:
        InputError: settings, images or files that do not fit; nothing is written then, and nothing lost.
        TrainingStopped: a Ctrl-C, behind the next step with a checkpoint written, or at once where there are no steps.
        StoppedError: a loss or gradient is no finite number; the last checkpoint stays.
        ElsewhereError: in all processes but the one that raises an error of its own.
    """
    request = _Request.of(config, path, resume, say, command, notes)
    with with_threads(None), distributed.init_from_environment(request.config.device) as device:
        tell = listener(request.say)
        with interrupts_as(TrainingStopped, COMMAND, request.folder, tell), contextlib.ExitStack() as held:
            if not dry_run:
                request.place.hold(held)
            begun = request.resume and runs.has_begun(request.home)
            free = distributed.least_free(device)
            with distributed.fail_together():
                if request.resume:
                    runs.check_images_are_there(request.config.data.data_path, request.home)
                spec = read_spec(request.home / SPEC_FILE) if begun else None
                job = session.prepare(request.config, device, spec, free, resumed=request.resume)
            if request.resume and not begun:
                request.notes = (*request.notes, "this run was killed before its first checkpoint: it starts over")
            if dry_run:
                return _say_what_would_be_done(request, job, begun, tell)
            request.claim(held)
            with runs.naming_the_way_on(COMMAND, request.home):
                return _train_in(request, job, begun, tell)


# ------------------------------------------------------------------------------------------------- what is asked for


@dataclass
class _Request:
    """What run_training was called with, settled: a resumed run has its own settings."""

    config: TrainConfig
    place: Place
    say: Say | None
    command: Sequence[str] | None
    notes: Sequence[str]
    is_claimed: bool = False

    @staticmethod
    def of(
        config: TrainConfig | None,
        path: str | os.PathLike[str] | None,
        resume: bool,
        say: Say | None,
        command: Sequence[str] | None,
        notes: Sequence[str],
    ) -> _Request:
        folder = Path(path) if path is not None else None
        if not resume:
            return _Request(config or TrainConfig.of(), Place(folder, resume), say, command, notes)
        if folder is None:
            raise InputError("needs the run folder: add --run_dir FOLDER", "--resume")
        saved = read_config(runs.config_to_resume(folder), fill_missing=True)
        config = as_begun(saved, config) if config is not None else saved
        changes = changes_of_resume(saved, config)
        notes = (*notes, *note_on_absent(saved, read_json(folder / runs.CONFIG_FILE)), *changes)
        return _Request(config, Place(folder, resume), say, command, notes, is_claimed=True)

    @property
    def resume(self) -> bool:
        return self.place.resume

    @property
    def home(self) -> Path:
        """The run folder, once there is one."""
        return self.place.home

    def folder(self) -> Path | None:
        """That a stopped run goes on in; None while there is none."""
        return self.home if self.is_claimed else None

    def claim(self, held: contextlib.ExitStack) -> None:
        """Make and lock the folder of a new run; ``held`` gives it back."""
        self.place, self.is_claimed = Place(self.place.claimed(held), self.resume), True

    def words(self) -> list[str]:
        """The words for environment.json."""
        if self.command is not None:
            return list(self.command)
        if self.resume:
            return [COMMAND, "--run_dir", str(self.home), "--resume"]
        return [COMMAND, "--run_dir", str(self.home), *as_flags(self.config, RECIPE_DIR)]


# ------------------------------------------------------------------------------------------------------------ the run


def _train_in(request: _Request, job: session.Job, begun: bool, tell: Say) -> TrainResult | None:
    """Train from the start, or from the folder's checkpoint, to the end of the schedule."""
    run_dir = request.home
    _share_cores(job)
    training = session.new_training(job)
    with distributed.fail_together():
        fields, best = session.restore(job, training, run_dir) if begun else ({}, None)
        if distributed.is_main():
            session.write_start(job, run_dir)
            runs.write_environment(run_dir, session.environment(job, request.words()), resumed=begun)
    _announce(request, job, training, fields, tell)
    with distributed.fail_together():
        metrics = runs.MetricsFile(run_dir, fields.get("metrics_offset")) if distributed.is_main() else None
    with metrics or contextlib.nullcontext():
        state = session.Run(job, training, run_dir, metrics, best, fields.get("wall_seconds", 0.0))
        if not begun:
            session.calibrate_clips(state)
            if session.has_classifier_to_fit(job):
                session.fit_classifier(state)
            state.save()
        state.write_best()
        if not _take_steps(state, request.say is not None, tell):
            again = runs.resume_command(COMMAND, run_dir)
            message = (
                f"stopped and saved at step {training.step} of {job.schedule.total_steps}; continue with\n  {again}"
            )
            tell(f"\n{message}")
            raise TrainingStopped(message, run_dir)
        session.finish(state)
    return read_result(run_dir) if distributed.is_main() else None


def _say_what_would_be_done(request: _Request, job: session.Job, begun: bool, tell: Say) -> None:
    """The header of a training as it would begin; nothing is written."""
    request.place = Place(request.place.to_claim(), request.resume)
    _share_cores(job)
    training = session.new_training(job)
    with distributed.fail_together():
        fields, _ = session.restore(job, training, request.home) if begun else ({}, None)
    _announce(request, job, training, fields, tell)
    tell(DRY)


def _share_cores(job: session.Job) -> None:
    """Leave the readers of images a core each, where neither a setting nor the environment names the threads."""
    if job.config.torch_threads is not None:
        torch.set_num_threads(job.config.torch_threads)
    elif "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, usable_cores() - (job.n_workers if job.device.type == "cpu" else 0)))


def _announce(
    request: _Request, job: session.Job, training: session.Training, fields: dict[str, Any], tell: Say
) -> None:
    """Say what is about to happen. ``fields``: of the checkpoint, empty at the start."""
    for note in (*request.notes, *(session.note_on_machine(job, fields) if fields else ())):
        tell(note)
    if not fields and job.device.type == "cpu":
        busy = busy_note(torch.get_num_threads(), "add --threads 1")
        if busy:
            tell(busy)
    tell(session.header(job))
    if (expected := session.expected(job, training)) is not None:
        tell(labeled("expected", expected))
    tell(labeled("run folder", str(request.home)))
    if fields:
        tell(labeled("resumed", f"at step {training.step} of {job.schedule.total_steps}"))


def _take_steps(state: session.Run, has_bar: bool, tell: Say) -> bool:
    """Run to the end of the schedule; true when it got there."""
    with runs.StopRequest() as stop, _progress(state, has_bar) as bar:
        try:
            return session.loop(
                state,
                wants_to_stop=lambda: stop.wanted,
                on_step=bar.update,
                on_epoch=lambda record: tell(session.epoch_line(record)),
            )
        except NonFiniteLossError as error:
            _stop_with_images(state, error)


def _stop_with_images(state: session.Run, error: NonFiniteLossError) -> NoReturn:
    """End every process; the first one names the first images of the batch."""
    if not distributed.is_main():
        raise ElsewhereError
    images = ", ".join(state.job.images_of(state.training.step))
    raise StoppedError(
        f"stopped before the update: {error}; its first images: {images}; a new run may need a lower --init_lr, or "
        "--grad_clip"
    ) from None


def _progress(state: session.Run, wanted: bool) -> Progress:
    """Shown by one process."""
    hidden = not wanted or not distributed.is_main()
    size, total = state.job.config.data.train_batch_size, state.job.schedule.total_steps
    return Progress(total * size, "img", done=state.training.step * size, hidden=hidden, unit_scale=True)
