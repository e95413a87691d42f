"""Search a network for a latency target.

    python search/imagenet_arch_search.py --target_hardware mobile
    python search/imagenet_arch_search.py --data_path photos/ --target_latency_ms 80 --path runs/mine
    python search/imagenet_arch_search.py --path runs/mine --resume
    python search/imagenet_arch_search.py --target_hardware flops --path runs/other --warmup_from runs/mine
    torchrun --nproc_per_node=4 search/imagenet_arch_search.py --data_path photos/

Without --data_path the embedded digits are searched on, in minutes. Every setting is a flag; --recipe names a set of
defaults. The run folder holds config.json, environment.json, metrics.jsonl, TensorBoard events, checkpoint.pt,
warmup.pt (what --warmup_from starts from), spec.json, weights.safetensors, architecture.png, search.png and
result.json.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":  # started as a script: the packages lie beside this folder, and nothing in it is top-level
    sys.path[:] = [str(ROOT), *(entry for entry in sys.path if Path(entry or ".").resolve() != ROOT / "search")]

import torch  # noqa: E402
from tqdm import tqdm  # noqa: E402

from proxyless_arch.base.cli import FAILED, INTERRUPTED, Parser, exit_code  # noqa: E402
from proxyless_arch.base.errors import InputError, StoppedError  # noqa: E402
from proxyless_arch.base.files import read_json, remove_abandoned, write_json  # noqa: E402
from proxyless_arch.base.machine import busy_note  # noqa: E402
from proxyless_arch.base.runs import (  # noqa: E402  # noqa: E402
    METRICS_FILE,
    StopRequest,
    after_interrupt,
    format_seconds,
    new_run_dir,
    read_metrics,
    resume_command,
)
from proxyless_arch.base.settings import note_on_absent  # noqa: E402
from proxyless_arch.base.strict import counted  # noqa: E402
from proxyless_arch.base.text import labeled  # noqa: E402
from proxyless_arch.data.batches import note_on_few_steps  # noqa: E402
from proxyless_arch.space.search_space import Path as Choices  # noqa: E402
from proxyless_nas import distributed  # noqa: E402
from proxyless_nas.steps import NonFiniteLossError  # noqa: E402
from search import config  # noqa: E402
from search.reporting.summary import summary  # noqa: E402
from search.run import announce, checkpoint, finish, loop, random_control, warmup  # noqa: E402
from search.run import job as jobs  # noqa: E402
from search.run.log import RunLog  # noqa: E402

SAVE_EVERY_SECONDS = 300
NAMED = 3  # images of a batch whose loss is not finite
SCRIPT = "search/imagenet_arch_search.py"
OPTIONS = ("path", "resume", "recipe", "warmup_from")  # flags that are no settings


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(prog="imagenet_arch_search.py", description=__doc__)
    parser.add_argument("--path", type=Path, help="run folder (default: a dated one under runs/)")
    parser.add_argument("--resume", action="store_true", help="continue the run in --path")
    parser.add_argument(
        "--warmup_from",
        type=Path,
        metavar="RUN",
        help="start behind that run's warm-up: same data, space, seed and weight training; any target or algorithm",
    )
    names = ", ".join(config.recipe_names())
    parser.add_argument("--recipe", help=f"defaults: {names} or a JSON file (default: digits, or default with data)")
    config.add_flags(parser)
    return parser.parse_strictly(argv)


def effective_config(arguments: argparse.Namespace) -> config.SearchConfig:
    """Recipe, then flags. A resumed run takes its saved config, and flags may only repeat it."""
    given = {name: value for name, value in vars(arguments).items() if name not in OPTIONS}
    if arguments.resume:
        if arguments.path is None:
            raise InputError("--resume needs the run folder: add --path FOLDER", "--resume")
        saved = config.read_config(arguments.path / "config.json", fill_missing=True)
        if arguments.recipe not in (None, saved.recipe):
            raise InputError(f"a resumed run keeps its recipe, {saved.recipe!r}; got {arguments.recipe!r}", "--recipe")
        wanted = config.to_dict(config.with_settings(saved, given))
        changed = [name for name, value in config.to_dict(saved).items() if wanted[name] != value]
        if changed:
            raise InputError(
                f"a resumed run keeps its settings; differs from config.json: {', '.join(changed)}", "--resume"
            )
        return saved
    has_data = given.get("data_path") is not None
    recipe = arguments.recipe or ("default" if has_data or given.get("dataset", "digits") != "digits" else "digits")
    return config.with_settings(config.from_recipe(recipe), given)


def say(*words: object) -> None:
    """Print from one process only."""
    if distributed.is_main():
        print(*words, flush=True)


def run(arguments: argparse.Namespace, argv: Sequence[str]) -> int:
    settings = effective_config(arguments)
    if settings.torch_threads is not None:
        torch.set_num_threads(settings.torch_threads)
    finished = arguments.resume and finish.is_finished(arguments.path)
    with distributed.init_from_environment("cpu" if finished else settings.device) as device:
        if settings.data.dataset == "digits" and not arguments.resume:
            say("no --data_path given: searching on scikit-learn's embedded 8x8 digits")
        if arguments.resume:
            with distributed.fail_together():
                kept_warm_up(arguments)
            if distributed.broadcast_value(finished):
                return say_again(arguments.path)
            for note in note_on_absent(settings, read_json(arguments.path / "config.json")):
                say(note)
        job = jobs.prepare(settings, device)
        with distributed.fail_together():
            warm = warm_up_to_start_from(arguments, job)
            drawn = random_control.random_paths(job) if settings.arch.arch_algo == "random" else []
        run_dir = arguments.path
        if not arguments.resume:  # one process chooses the folder
            with distributed.fail_together():
                own = new_run_dir(arguments.path, ROOT) if distributed.is_main() else None
            run_dir = distributed.broadcast_value(own)
        if settings.arch.arch_algo == "random":
            return draw_random(job, run_dir, drawn, argv)
        busy = busy_note(torch.get_num_threads(), "--torch_threads 1") if device.type == "cpu" else None
        if busy and not arguments.resume and warm is None:  # which keep the threads that they began with
            say(busy)
        try:
            return search_in(run_dir, job, arguments.resume, warm, argv)
        except KeyboardInterrupt:
            say(after_interrupt(SCRIPT, run_dir))
            return INTERRUPTED


def say_again(run_dir: Path) -> int:
    """The end of a finished run once more. Nothing is written but what it was killed before."""
    with distributed.fail_together():
        if distributed.is_main():
            finish.complete(run_dir)
    say(f"this run is finished: nothing is done again\n{summary(run_dir)}")
    return 0


def kept_warm_up(arguments: argparse.Namespace) -> Path | None:
    """The run whose warm-up a resumed run was started with; None for its own. The flag may only repeat it."""
    kept = warmup.recorded(arguments.path)
    if arguments.warmup_from not in (None, kept):
        problem = f"a resumed run keeps its warm-up ({kept or 'its own'}); got {arguments.warmup_from}"
        raise InputError(problem, warmup.FLAG)
    return kept


def warm_up_to_start_from(arguments: argparse.Namespace, job: jobs.Job) -> warmup.WarmUp | None:
    """The warm-up of another run, read and checked; None where this one does its own or is past it.

    A resumed run keeps what it was started with. Only where it was killed before its first checkpoint does it look at
    the other run again.
    """
    source = arguments.warmup_from
    if arguments.resume:
        source = None if (arguments.path / checkpoint.NAME).exists() else kept_warm_up(arguments)
    if source is None:
        return None
    if job.config.arch.arch_algo == "random":
        raise InputError("--arch_algo random trains nothing: it has no use for a warm-up", warmup.FLAG)
    return warmup.read(source, job.schedule, config.to_dict(job.config), jobs.fingerprint(job), job.device)


def _refuse_lost_checkpoint(run_dir: Path, may_be_there: int) -> None:
    """Raises InputError for a folder whose checkpoint is gone: starting over would destroy what it holds.

    A kill before the first checkpoint leaves ``may_be_there`` epochs at most: those of another run's warm-up.
    """
    metrics = run_dir / METRICS_FILE
    n_epochs = len(read_metrics(metrics)) if metrics.is_file() else 0
    has_result = (run_dir / "result.json").exists()
    if n_epochs > may_be_there or has_result:
        held = "a result" if has_result else counted(n_epochs, "epoch")
        problem = f"no such file, but the run holds {held}: start anew in another --path"
        raise InputError(problem, checkpoint.NAME, str(run_dir))


def search_in(run_dir: Path, job: jobs.Job, resume: bool, warm: warmup.WarmUp | None, argv: Sequence[str]) -> int:
    """Search from the start, behind another run's warm-up or from the folder's checkpoint, to the finished network."""
    search = jobs.new_search(job)
    as_json, data = config.to_dict(job.config), {**jobs.fingerprint(job), **checkpoint.computes(job.device)}
    resume_at, spent, note = 0 if resume else None, 0.0, None
    with distributed.fail_together():
        if resume and (run_dir / checkpoint.NAME).exists():
            kept = f"; {warmup.FLAG} {run_dir} takes its warm-up" if (run_dir / warmup.NAME).is_file() else ""
            saved = checkpoint.load(run_dir / checkpoint.NAME, checkpoint.ANEW + kept)
            checkpoint.check_same(saved, as_json, data, str(run_dir))
            note = checkpoint.computed_otherwise(saved, job.device)
            search.restore(saved)
            resume_at, spent = saved.metrics_offset, saved.wall_seconds
        else:
            if resume:
                _refuse_lost_checkpoint(run_dir, len(warm.epochs) if warm is not None else 0)
                note = "there is no checkpoint, nor a finished epoch: it starts over"
                if warm is not None:
                    note = "there is no checkpoint: it starts over behind the warm-up"
            if warm is not None:
                warm.put_before(search)
        if distributed.is_main():
            run_dir.mkdir(parents=True, exist_ok=True)
            remove_abandoned(run_dir)
            # config.json makes it a run to resume, and environment.json has whose warm-up that is to start behind
            jobs.write_environment(run_dir, job.device, argv, resume, warm.folder if warm is not None else None)
            write_json(run_dir / "config.json", as_json)  # a resumed one gains the settings it is too old to have
            if warm is not None:
                resume_at = warmup.begin(run_dir, warm, search, as_json, data)
    if warm is not None:  # each process read the file that it found
        agreed = distributed.same_on_all_ranks(list(search.supernet.parameters()))
        with distributed.fail_together():
            if not agreed:
                raise InputError("the processes found different weights there", warmup.FLAG, str(warm.folder))
    say(announce.header(job))
    if job.schedule.total_steps:
        if distributed.is_main() and sys.stdout.isatty():
            print(labeled("expected", "timing a few steps ..."), end="\r", flush=True)  # the next line covers it
        arch_images = job.arch_batch_size // distributed.world_size()
        timing = loop.seconds_per_step(search, job.first_batch(), arch_images)
        say(labeled("expected", announce.expected_time(job.schedule, timing, search.step)))
    say(labeled("run folder", run_dir))
    if not resume:
        size = job.config.data.train_batch_size
        for few in note_on_few_steps(len(job.data.train), size, distributed.world_size()):
            say(labeled("note", few))
    if warm is not None:
        epochs = counted(job.schedule.warmup_epochs, "epoch")
        say(labeled("warm-up", f"that of {warm.folder} ({epochs}, {format_seconds(warm.seconds)})"))
    if resume:
        say(labeled("resumed", f"at step {search.step} of {job.schedule.total_steps}"))
        if note is not None:
            say(labeled("note", note))

    start = last_save = time.perf_counter()
    quiet = None if distributed.is_main() else True
    bar = tqdm(total=job.schedule.total_steps, initial=search.step, unit="step", disable=quiet, dynamic_ncols=True)
    with contextlib.ExitStack() as stack:
        stack.enter_context(bar)
        log = None

        def save() -> None:  # every process calls it at the same step
            nonlocal last_save
            own = {*search.unreadable, *train.unreadable.places, *valid.unreadable.places}
            search.unreadable = set().union(*distributed.gathered(own))
            last_save = time.perf_counter()
            if log is not None:
                seconds = spent + last_save - start
                state = search.checkpoint(as_json, data, log.offset, seconds)
                if 0 < search.step == job.schedule.warmup_steps:
                    warmup.keep(run_dir, state)
                checkpoint.save(run_dir / checkpoint.NAME, state)

        def on_epoch(record: dict[str, Any]) -> None:
            if log is not None:
                log.epoch(record)

        def on_step(state: loop.Search) -> bool:
            bar.update(1)
            n_stopping, n_due = distributed.summed(stop.wanted, time.perf_counter() - last_save > SAVE_EVERY_SECONDS)
            if n_stopping or n_due or state.epoch_is_over:
                save()
            return not n_stopping

        train, valid = job.train_batches(search.step), job.valid_batches(search.controller.step)
        with StopRequest() as stop:
            with distributed.fail_together():
                if distributed.is_main():
                    log = stack.enter_context(RunLog(run_dir, resume_at, say=bar.write))
            if search.step == 0:  # behind another run's warm-up there is a checkpoint already
                save()
            try:
                done = loop.run(search, train, valid, on_epoch=on_epoch, on_step=on_step)
            except NonFiniteLossError as error:
                # every process is here; together the shares in which it arose are in the order of the batch
                own = (valid if search.arch_steps_due() else train).first_images
                shares = distributed.gathered(own if error.here else [])
                images = [image for row in itertools.zip_longest(*shares) for image in row if image is not None]
                bar.close()
                if distributed.is_main():  # one process speaks, at once: the others end and torchrun ends the rest
                    raise _stopped(f"{error}; its first images: {', '.join(images[:NAMED])}") from None
                return FAILED
        bar.close()
        if not done:
            again = resume_command(SCRIPT, run_dir)
            say(f"\nstopped and saved at step {search.step} of {job.schedule.total_steps}; continue with\n  {again}")
            return INTERRUPTED
        if log is not None:  # one process derives and scores: every image is counted once
            seconds = spent + time.perf_counter() - start
            finish.finish(job, search, run_dir, log, seconds, warmup.recorded(run_dir))
            say(summary(run_dir))
    return 0


def _stopped(problem: str) -> StoppedError:
    return StoppedError(
        f"stopped before the update: {problem}; a new run may need a lower learning rate (--warmup_lr, --init_lr, "
        "--arch_lr, --finetune_lr) or, for the weights, --grad_clip"
    )


def draw_random(job: jobs.Job, run_dir: Path, drawn: Sequence[Choices], argv: Sequence[str]) -> int:
    """--arch_algo random: nothing is trained; the product is a folder of spec files of equal cost, those ``drawn``."""
    if not distributed.is_main():
        return 0
    for folder in (run_dir, run_dir / "specs"):
        remove_abandoned(folder)
    jobs.write_environment(run_dir, job.device, argv, resumed=False)
    write_json(run_dir / "config.json", config.to_dict(job.config))
    random_control.write_random_networks(job, run_dir, drawn)
    print(summary(run_dir))
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    return exit_code(_run, argv)


def _run(words: Sequence[str]) -> int:
    resumed: Path | None = None
    try:
        arguments = parse(words)
        resumed = arguments.path if arguments.resume else None
        return run(arguments, [SCRIPT, *words])
    except NonFiniteLossError as error:
        raise _stopped(str(error)) from None
    except KeyboardInterrupt:
        print(after_interrupt(SCRIPT, resumed), flush=True)
        return INTERRUPTED


if __name__ == "__main__":
    raise SystemExit(main())
