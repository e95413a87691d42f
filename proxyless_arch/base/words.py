"""The words that commands share: the same word is the same flag, with one explanation, in every command.

A command's dataclass takes its field from here and gives the default; ``python -m tests.house.test_flags`` lists who
has which. Spellings of the official implementation, of timm and of earlier versions are aliases.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from proxyless_arch.base.errors import InputError
from proxyless_arch.base.runs import AUTO
from proxyless_arch.base.settings import setting
from proxyless_arch.base.strict import shown


@dataclass(frozen=True)
class Word:
    """A flag that several commands have."""

    flag: str
    aliases: tuple[str, ...]
    text: str

    def setting(self, default: Any, more: str = "", **said: Any) -> Any:
        """A dataclass field. ``more``: what this command adds to the explanation."""
        aliases = (*self.aliases, *said.pop("aliases", ()))
        return setting(default, self.text + more, flag=self.flag, aliases=aliases, **said)


ARCH = Word(
    "--arch",
    ("-a",),
    "a network: a known name, a spec file, a net.config of the official implementation, a run folder, or a weight file "
    "that holds its network",
)
DATA_PATH = Word(
    "--data_path", ("-d",), "images: a folder or .zip of class folders, or shards of one (a folder or URL)"
)
RESOLUTION = Word("--resolution", ("--image_size",), "side of the images in pixels, or height x width (160x256)")
IN_CHANS = Word("--in_chans", ("--input_channels",), "1 for grey images (default: the network's)")
BATCH_SIZE = Word("--batch_size", ("-b", "--train_batch_size"), "images per step")
ACCUMULATION = Word(
    "--accumulation",
    ("--grad_accum_steps",),
    "parts each process computes its share of a batch in, one after the other",
)
WORKERS = Word("--workers", ("-j", "--n_worker"), "how many read images at a time")
SEED = Word("--seed", ("--manual_seed",), "seed of everything random")
THREADS = Word("--threads", (), "threads on the CPU")
KERNELS = Word(
    "--kernels",
    (),
    "auto (on a CPU, where the extra [fast] is installed, layers are faster, equal up to rounding) or torch",
)
KERNEL_CHOICES = AUTO_KERNELS, TORCH_KERNELS = "auto", "torch"
DEVICE = Word("--device", (), "auto (cuda, then mps, then cpu), cpu, cuda, cuda:N or mps")
DATA_EDITION = Word(
    "--data_edition",
    (),
    "how folders of images are read: 2, or 1 as before December 2026 (fewer kinds of files and names of splits)",
)
RUN_DIR = Word("--run_dir", ("--path", "--output"), "run folder (default: a dated one under runs/)")
MEASURABLE = ("cpu", "gpu8")
"""Values of --target_hardware that may be this machine; what prices them is in hardware/profile/pricing.py."""
DRY_RUN = Word("--dry_run", (), "say what would be done, and stop")
DRY = "dry run: nothing was done, nothing written"
"""The last line of one."""
LAUNCHER = Word("--launcher", (), "where the runs are done: local (this machine), ray or slurm; docs/scale.md has both")
JOBS = Word("--jobs", (), "runs at a time (default: one here, all of them elsewhere)")
LAUNCHER_OPTIONS = Word(
    "--launcher_options",
    (),
    "what each run is given by ray (address=auto,num_gpus=1) or, by submitit's names, by slurm "
    "(slurm_partition=gpu,gpus_per_node=1,timeout_min=600)",
)
SAVE_JSON = Word("--save_json", ("--json",), "write the record to this file")


def add_resume_flag(section: argparse._ArgumentGroup) -> None:
    """--resume, or --resume auto; runs.resumes says what that comes to."""
    section.add_argument(
        "--resume",
        nargs="?",
        const=True,
        default=False,
        choices=(AUTO,),
        help=f"continue the run in {RUN_DIR.flag}; auto: start it where there is none yet",
    )


def add_run_flags(parser: argparse.ArgumentParser, recipes: str) -> None:
    """The flags of a command that makes a run and are no settings of it."""
    section = parser.add_argument_group("the run")
    section.add_argument(RUN_DIR.flag, *RUN_DIR.aliases, dest="path", type=Path, metavar="DIR", help=RUN_DIR.text)
    add_resume_flag(section)
    section.add_argument("--recipe", metavar="NAME", help=f"a set of defaults: {recipes}")
    section.add_argument(DRY_RUN.flag, action="store_true", help=DRY_RUN.text)


def new_file(path: Path) -> Path:
    """A setting's check: a file that can be written, in a folder that is there or can be made."""
    try:
        if path.is_dir():
            raise InputError(f"expected a file to write, got a folder, {str(path)!r}")
        there = next(parent for parent in path.absolute().parents if parent.exists())
    except OSError as error:  # a name that is too long, links in a circle
        raise InputError(f"expected a file that can be written, got {shown(str(path))}: {error.strerror}") from None
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise InputError(f"expected a file that can be written, got {str(path)!r}: {there} does not take it")
    return path
