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
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import torch

from proxyless_arch.apps.train_settings import RECIPE_DIR, TrainConfig, changes_of_resume, read_config
from proxyless_arch.arch.codec import read_spec
from proxyless_arch.base import runs
from proxyless_arch.base.cli import FAILED
from proxyless_arch.base.errors import InputError, StoppedError
from proxyless_arch.base.files import read_json
from proxyless_arch.base.machine import busy_note, usable_cores
from proxyless_arch.base.settings import as_flags, note_on_absent
from proxyless_arch.base.text import labeled
from proxyless_arch.weights.lookup import SPEC_FILE
from proxyless_nas import distributed
from proxyless_nas.steps import NonFiniteLossError
from proxyless_nas.train import session
from proxyless_nas.train.result import TrainResult, read_result

if TYPE_CHECKING:
    from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[2]
COMMAND = "train.py"
Say = Callable[[str], Any]


class TrainingStopped(KeyboardInterrupt):
    """A training ended by Ctrl-C (or SIGTERM); the message says what is kept and how to go on.

    ``folder``: the run folder; None where the training had none yet.
    """

    def __init__(self, message: str, folder: Path | None = None) -> None:
        super().__init__(message)
        self.folder = folder


def speak(line: str) -> None:
    """Print at once, also where the output goes to a file or a pipe, and above a progress bar."""
    from tqdm import tqdm

    tqdm.write(line)
    sys.stdout.flush()


def run_training(
    config: TrainConfig | None = None,
    path: str | os.PathLike[str] | None = None,
    *,
    resume: bool = False,
    say: Say | None = speak,
    command: Sequence[str] | None = None,
    notes: Sequence[str] = (),
) -> TrainResult | None:
    """Train a network: from the start, or on from where a run was stopped.

    Args:
        config: the settings. A resumed training keeps its own; these may only repeat them.
        path: the run folder (default: a dated one under runs/).
        resume: go on with the training in ``path``. One that is finished is scored again.
        say: gets each line that is for a person; None for silence, and no progress bar.
        command: the words of the command line that asked for it, for environment.json (default: those that would).
        notes: lines on the settings, said first.

    Returns:
        The product; None in all processes but the first.

    Raises:
        InputError: settings, images or files that do not fit; nothing is written then, and nothing lost.
        TrainingStopped: a Ctrl-C, behind the next step with a checkpoint written, or at once where there are no steps.
        StoppedError: a loss or gradient is no finite number; the last checkpoint stays.
    """
    request = _Request.of(config, path, resume, say, command, notes)
    with _threads_restored(), distributed.init_from_environment(request.config.device) as device:
        tell = request.say if request.say is not None and distributed.is_main() else _be_silent
        with _naming_the_way_on(request, tell):
            begun = request.resume and runs.has_begun(request.home)
            with distributed.fail_together():
                spec = read_spec(request.home / SPEC_FILE) if begun else None
                job = session.prepare(request.config, device, spec)
            if request.resume and not begun:
                request.notes = (*request.notes, "this run was killed before its first checkpoint: it starts over")
            request.claim_folder()
            return _train_in(request, job, begun, tell)


# ------------------------------------------------------------------------------------------------- what is asked for


@dataclass
class _Request:
    """What run_training was called with, settled: a resumed run has its own settings."""

    config: TrainConfig
    path: Path | None
    resume: bool
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
            return _Request(config or TrainConfig.of(), folder, resume, say, command, notes)
        if folder is None:
            raise InputError("needs the run folder: add --run_dir FOLDER", "--resume")
        saved = read_config(runs.config_to_resume(folder), fill_missing=True)
        changes = changes_of_resume(saved, config) if config is not None else ()
        notes = (*notes, *note_on_absent(saved, read_json(folder / runs.CONFIG_FILE)), *changes)
        return _Request(config or saved, folder, resume, say, command, notes, is_claimed=True)

    @property
    def home(self) -> Path:
        """The run folder, once there is one."""
        assert self.path is not None
        return self.path

    def claim_folder(self) -> None:
        """The folder of a new run, which one process makes for all."""
        if self.resume:
            return
        with distributed.fail_together():
            own = runs.new_run_dir(self.path, ROOT) if distributed.is_main() else None
        self.path, self.is_claimed = distributed.broadcast_value(own), True

    def words(self) -> list[str]:
        """The words for environment.json."""
        if self.command is not None:
            return list(self.command)
        if self.resume:
            return [COMMAND, "--run_dir", str(self.home), "--resume"]
        return [COMMAND, "--run_dir", str(self.home), *as_flags(self.config, RECIPE_DIR)]


def _be_silent(line: str) -> None:
    pass


@contextlib.contextmanager
def _threads_restored() -> Iterator[None]:
    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def _naming_the_way_on(request: _Request, tell: Say) -> Iterator[None]:
    """A Ctrl-C that no step grants becomes TrainingStopped, which says how to go on."""
    try:
        yield
    except TrainingStopped:
        raise
    except KeyboardInterrupt:
        folder = request.path if request.is_claimed else None
        message = runs.after_interrupt(COMMAND, folder)
        tell(message)
        raise TrainingStopped(message.strip(), folder) from None


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
        if begun:
            state.write_best()
        else:
            state.save()
        if not _take_steps(state, request.say is not None, tell):
            again = runs.resume_command(COMMAND, run_dir)
            message = (
                f"stopped and saved at step {training.step} of {job.schedule.total_steps}; continue with\n  {again}"
            )
            tell(f"\n{message}")
            raise TrainingStopped(message, run_dir)
        session.finish(state)
    return read_result(run_dir) if distributed.is_main() else None


def _share_cores(job: session.Job) -> None:
    """Leave the readers of images a core each, where the environment names no number of threads."""
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, usable_cores() - (job.n_workers if job.device.type == "cpu" else 0)))


def _announce(
    request: _Request, job: session.Job, training: session.Training, fields: dict[str, Any], tell: Say
) -> None:
    """Say what is about to happen. ``fields``: of the checkpoint, empty at the start."""
    for note in (*request.notes, *(session.note_on_machine(job, fields) if fields else ())):
        tell(note)
    if not fields and job.device.type == "cpu":
        busy = busy_note(torch.get_num_threads(), "put OMP_NUM_THREADS=1 in front of the command")
        if busy:
            tell(busy)
    tell(session.header(job, request.home))
    if fields:
        tell(labeled("resumed", f"at step {training.step} of {job.schedule.total_steps}"))


def _take_steps(state: session.Run, has_bar: bool, tell: Say) -> bool:
    """Run to the end of the schedule; true when it got there."""
    with runs.StopRequest() as stop, _progress_bar(state, has_bar) as bar:
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
        raise SystemExit(FAILED)
    images = ", ".join(state.job.images_of(state.training.step))
    raise StoppedError(
        f"stopped before the update: {error}; its first images: {images}; a new run may need a lower --init_lr, or "
        "--grad_clip"
    ) from None


def _progress_bar(state: session.Run, wanted: bool) -> tqdm:
    """Shown on a terminal and in a notebook, by one process."""
    from tqdm import tqdm

    hidden = True if not wanted or not distributed.is_main() else None if "ipykernel" not in sys.modules else False
    size = state.job.config.data.train_batch_size
    return tqdm(
        total=state.job.schedule.total_steps * size,
        initial=state.training.step * size,
        unit="img",
        unit_scale=True,
        dynamic_ncols=True,
        disable=hidden,
    )
