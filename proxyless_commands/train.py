"""Train a network, from scratch or from inherited weights, with PyTorch.

    python train.py --arch runs/mine
    python train.py --arch proxyless_mobile --data_path imagenet/ --precision bf16
    python train.py --arch net.json --data_path photos.zip --recipe fast --resolution 32 --run_dir runs/photos
    python train.py --run_dir runs/photos --resume
    torchrun --nproc_per_node=4 train.py --arch proxyless_mobile --data_path imagenet/ --run_dir runs/mobile

A run folder of the search starts from its inherited weights and trains on its images by its recipe. Every setting is
a flag; --recipe names a set of defaults. The run folder holds config.json, environment.json, spec.json, metrics.jsonl,
checkpoint.pt, weights.safetensors (the best epoch), last.safetensors (the last one) and result.json.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from proxyless_arch.apps import train_settings
from proxyless_arch.arch.codec import read_spec
from proxyless_arch.base import runs, settings
from proxyless_arch.base.cli import FAILED, INTERRUPTED, Parser, exit_code
from proxyless_arch.base.errors import InputError, StoppedError
from proxyless_arch.base.files import read_json
from proxyless_arch.base.machine import busy_note, tune_allocator, usable_cores
from proxyless_arch.base.text import labeled
from proxyless_arch.base.words import add_run_flags

ROOT = Path(__file__).resolve().parents[1]


def parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = Parser(prog="train.py", description=__doc__)
    names = ", ".join(train_settings.recipe_names())
    add_run_flags(parser, f"{names} or a JSON file (default: by the images)")
    settings.add_flags(parser, train_settings.TrainConfig)
    return parser.parse_strictly(argv)


def resumed_config(
    arguments: argparse.Namespace, given: dict[str, Any]
) -> tuple[train_settings.TrainConfig, tuple[str, ...]]:
    """The settings that a run was started with (flags may only repeat them), and what to say about them."""
    if arguments.path is None:
        raise InputError("needs the run folder: add --run_dir FOLDER", "--resume")
    path = arguments.path / "config.json"
    saved = train_settings.read_config(path, fill_missing=True)
    if arguments.recipe not in (None, saved.recipe):
        raise InputError(f"a resumed run keeps its recipe, {saved.recipe!r}; got {arguments.recipe!r}", "--recipe")
    wanted = train_settings.to_dict(settings.with_settings(saved, given))
    changed = [name for name, value in train_settings.to_dict(saved).items() if wanted[name] != value]
    if changed:
        raise InputError(
            f"a resumed run keeps its settings; differs from config.json: {', '.join(changed)}", "--resume"
        )
    return saved, settings.note_on_absent(saved, read_json(path))


def run(argv: Sequence[str]) -> int:
    arguments = parse(argv)
    given = {name: value for name, value in vars(arguments).items() if name not in ("path", "resume", "recipe")}
    if arguments.resume:
        config, notes = resumed_config(arguments, given)
    else:
        config, notes = train_settings.effective_config(given, arguments.recipe)

    # imported here, so that a mistake in the command line is answered at once
    from proxyless_nas import distributed

    with distributed.init_from_environment(config.device) as device:
        return train(arguments, argv, config, notes, device)


def train(
    arguments: argparse.Namespace,
    argv: Sequence[str],
    config: train_settings.TrainConfig,
    notes: Sequence[str],
    device: Any,
) -> int:
    from proxyless_nas import distributed
    from proxyless_nas.train import session as train_session

    resume = arguments.resume
    run_dir = arguments.path if resume else None
    try:
        tune_allocator()
        with distributed.fail_together():
            begun = resume and runs.has_begun(run_dir)
            job = train_session.prepare(config, device, read_spec(run_dir / "spec.json") if begun else None)
        if resume and not begun:
            notes = (*notes, "this run was killed before its first checkpoint: it starts over")
        if not resume:
            with distributed.fail_together():
                found = runs.new_run_dir(arguments.path, ROOT) if distributed.is_main() else None
            run_dir = distributed.broadcast_value(found)
        return train_in(run_dir, job, begun, argv, notes)
    except KeyboardInterrupt:
        if distributed.is_main():
            print(runs.after_interrupt("train.py", run_dir), flush=True)
        return INTERRUPTED


def train_in(run_dir: Path, job: Any, resume: bool, argv: Sequence[str], notes: Sequence[str]) -> int:
    """Train from the start, or from the folder's checkpoint, to the end of the schedule."""
    import torch
    from tqdm import tqdm

    from proxyless_nas import distributed
    from proxyless_nas.steps import NonFiniteLossError
    from proxyless_nas.train import session as train_session

    main_rank = distributed.is_main()

    def say(text: str) -> None:
        if main_rank:
            tqdm.write(text)
            sys.stdout.flush()

    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, usable_cores() - (job.n_workers if job.device.type == "cpu" else 0)))
    training = train_session.new_training(job)
    with distributed.fail_together():
        fields, best = train_session.restore(job, training, run_dir) if resume else ({}, None)
        if main_rank:
            train_session.write_start(job, run_dir)
            runs.write_environment(run_dir, train_session.environment(job, ["train.py", *argv]), resumed=resume)
    for note in (*notes, *(train_session.note_on_machine(job, fields) if resume else ())):
        say(note)
    if (
        not resume
        and job.device.type == "cpu"
        and (busy := busy_note(torch.get_num_threads(), "put OMP_NUM_THREADS=1 in front of the command"))
    ):
        say(busy)
    say(train_session.header(job, run_dir))
    if resume:
        say(labeled("resumed", f"at step {training.step} of {job.schedule.total_steps}"))

    size, total = job.config.data.train_batch_size, job.schedule.total_steps
    bar = tqdm(
        total=total * size,
        initial=training.step * size,
        unit="img",
        unit_scale=True,
        dynamic_ncols=True,
        disable=None if main_rank else True,
    )
    with runs.StopRequest() as stop, bar:
        with distributed.fail_together():
            metrics = runs.MetricsFile(run_dir, fields.get("metrics_offset")) if main_rank else None
        state = train_session.Run(job, training, run_dir, metrics, best, fields.get("wall_seconds", 0.0))
        try:
            if resume:
                state.write_best()
            else:
                state.save()
            done = train_session.loop(
                state,
                wants_to_stop=lambda: stop.wanted,
                on_step=bar.update,
                on_epoch=lambda record: say(train_session.epoch_line(record)),
            )
        except NonFiniteLossError as error:
            if main_rank:  # one process speaks
                images = ", ".join(job.images_of(training.step))
                raise StoppedError(
                    f"stopped before the update: {error}; its first images: {images}; a new run may need a lower "
                    "--init_lr, or --grad_clip"
                ) from None
            return FAILED
    if not done:
        again = runs.resume_command("train.py", run_dir)
        say(f"\nstopped and saved at step {training.step} of {total}; continue with\n  {again}")
        return INTERRUPTED
    record = train_session.finish(state)
    say(train_session.summary(job, record, run_dir))
    if metrics is not None:
        metrics.close()
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    return exit_code(run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
