"""The faults, and what must be true behind each."""

from __future__ import annotations

import contextlib
import functools
import os
import random
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from hardware import profile_latency
from hardware.profile import device
from proxyless_arch.arch.codec import write_spec
from proxyless_arch.base.cli import BAD_INPUT, FAILED, INTERRUPTED, NO_RESOURCE
from proxyless_arch.base.files import read_json
from proxyless_arch.base.runs import WALL_CLOCK_FIELDS, read_metrics
from proxyless_arch.weights.files import read_tensors, save_safetensors
from proxyless_commands import export, prune, train
from proxyless_nas.network import build
from proxyless_nas.train import checkpointing
from proxyless_nas.weights import to_named
from search import imagenet_arch_search
from search.run import runner
from tests.processes import Child, preload, ranks
from tests.scripts.mini import mini_net

preload("proxyless_commands.prune", "proxyless_commands.export", "proxyless_nas.export", "hardware.profile_latency")
PATIENCE = 900.0
"""Seconds for a command of a few, where ten times more work than cores is on the machine."""
OURS = (0, FAILED, BAD_INPUT, NO_RESOURCE, INTERRUPTED, -signal.SIGKILL, -signal.SIGTERM)
"""How a process may end."""
TIMES = ("wall_seconds", *WALL_CLOCK_FIELDS)
SEARCH = (
    "--space tiny --width_mult 0.05 --resolution 8 --valid_size 1300 --train_batch_size 32 --grad_data_batch 16 "
    "--warmup_epochs 1 --n_epochs 2 --recalibration_images 64 --recalibration plain --device cpu"
)
TRAIN = (
    "--arch {net} --resolution 8 --n_epochs 6 --valid_size 1300 --train_batch_size 32 --device cpu "
    "--save_every_seconds 0.05"
)
PRUNE = (
    "--arch {weights} --dataset digits --target_hardware flops --width_multiple 4 --device cpu --calibration_images 64 "
    "--choosing_images 64 --evaluations 2 --keep 0.6 --finetune_epochs 1"
)
PROFILE = (
    "--space tiny --width_mult 0.05 --resolution 8 --num_classes 10 --quick --rounds 1 --method isolated "
    "--validation_nets 20 --target_hardware cpu --runtime torch --output {folder}"
)
EXPORT = "--arch {weights} --format torch_export --output {folder} --rounds 1"


class NotHeldError(Exception):
    """What a fault brought about."""


class NotPossibleError(Exception):
    """Why a fault cannot be tried on this machine."""


def _often(main: Callable[[list[str]], int | None]) -> Callable[[list[str]], int | None]:
    return functools.partial(_saving_often, main)


def _saving_often(main: Callable[[list[str]], int | None], words: list[str]) -> int | None:
    """With a checkpoint many times in a second, so that most faults meet one."""
    runner.SAVE_EVERY_SECONDS = 0.05
    return main(words)


def _hastily(words: list[str]) -> int | None:
    """A profile of few timings, which nobody is to believe."""
    device.QUICK = replace(device.QUICK, runs=2, warmup=1, min_ms=0.1, anchor_runs=1, extra_rounds=0)
    return profile_latency.main(words)


@dataclass
class Bench:
    """What the undisturbed commands came to, each run once, and how many runs that were cut off came to the same.

    ``home``: a folder for all of it.
    """

    home: Path
    n_resumed: int = 0
    n_equal: int = 0

    @functools.cached_property
    def net(self) -> Path:
        write_spec(self.home / "net.json", mini_net(resolution=8))
        return self.home / "net.json"

    @functools.cached_property
    def weights(self) -> Path:
        spec = mini_net(resolution=8)
        save_safetensors(self.home / "net.safetensors", spec, to_named(build(spec)), {})
        return self.home / "net.safetensors"

    def words(self, line: str, folder: Path) -> list[str]:
        return shlex.split(line.format(net=self.net, weights=self.weights, folder=folder))

    def straight(self, name: str, more: str = "", n_ranks: int = 1) -> tuple[Path, float]:
        """(the folder of an undisturbed run, the seconds that it took)."""
        return self._straight(name, more, n_ranks)

    @functools.cache  # noqa: B019 (as long as the one bench)
    def _straight(self, name: str, more: str, n_ranks: int) -> tuple[Path, float]:
        folder = self.home / f"{name}{len(list(self.home.iterdir()))}"
        begun = time.monotonic()
        with started(self, name, folder, more, n_ranks) as processes:
            for process in processes:
                ended_well([process], *DONE.get(name, (0,)))
        return folder, time.monotonic() - begun

    def __hash__(self) -> int:
        return id(self)


COMMANDS: Mapping[str, tuple[Callable[[list[str]], int | None], str]] = MappingProxyType(
    {
        "search": (_often(imagenet_arch_search.main), SEARCH),
        "train": (_often(train.main), TRAIN),
        "prune": (_often(prune.main), PRUNE),
        "profile": (_hastily, PROFILE),
        "export": (export.main, EXPORT),
    }
)
RUNS = ("search", "train", "prune")
DONE = {"profile": (0, FAILED)}
"""How a command ends that has come to its end; a profile of few timings does not vouch for itself."""


@contextlib.contextmanager
def started(bench: Bench, name: str, folder: Path, more: str = "", n_ranks: int = 1) -> Iterator[Sequence[Child]]:
    """The processes of a command that starts, or goes on; none of them outlives the block."""
    main, line = COMMANDS[name]
    words = [*bench.words(line, folder), *shlex.split(more)]
    words += ["--run_dir", str(folder), "--resume", "auto"] if name in RUNS else []
    if n_ranks > 1:
        with ranks(main, words, n_ranks) as found:
            yield found
        return
    process = Child(main, words)
    try:
        yield [process]
    finally:
        process.kill()


# ------------------------------------------------------------------------------------------------- what must be true


def ended_well(processes: Sequence[Child], *statuses: int) -> None:
    """All have ended, or do so now, with one of the statuses (default: any of ours), and without a traceback."""
    for process in processes:
        status = process.wait(PATIENCE)
        if status not in (statuses or OURS) or "Traceback" in process.errors:
            raise NotHeldError(f"status {status}\n{process.errors[-1500:]}")


def product(folder: Path) -> Any:
    """What a run came to, without its clocks and its own name."""
    result = {name: value for name, value in read_json(folder / "result.json").items() if name not in TIMES}
    records = [
        {name: value for name, value in record.items() if name not in TIMES}
        for record in read_metrics(folder / "metrics.jsonl")
    ]
    tensors = read_tensors(folder / "weights.safetensors").tensors
    return result, records, {name: array.tobytes() for name, array in tensors.items()}


def whole_lines(path: Path) -> bytes:
    """Of a log, without a last line that was cut; none where there is no file."""
    content = path.read_bytes() if path.is_file() else b""
    return content[: content.rfind(b"\n") + 1]


def goes_on(bench: Bench, name: str, folder: Path, more: str = "", n_ranks: int = 1) -> None:
    """The same command comes to the end, and to what the undisturbed one came to."""
    resumed = name in RUNS and (folder / "config.json").exists() and not (folder / "result.json").exists()
    bench.n_resumed += resumed
    measured = whole_lines(folder / "raw.jsonl")  # of a profile
    with started(bench, name, folder, more, n_ranks) as processes:
        ended_well(processes, *DONE.get(name, (0,)))
    if name in RUNS and product(folder) != product(bench.straight(name, more, n_ranks)[0]):
        raise NotHeldError(f"{name}: not what the undisturbed run came to")
    if not whole_lines(folder / "raw.jsonl").startswith(measured):
        raise NotHeldError(f"{name}: what was measured is gone")
    bench.n_equal += resumed
    litter = [path.name for path in folder.rglob(".*") if path.name != ".lock"]
    if litter:
        raise NotHeldError(f"{name}: left behind: {', '.join(litter)}")


# -------------------------------------------------------------------------------------------------------- the faults


def signalled(bench: Bench, folder: Path, rng: random.Random, name: str, sign: int, n_ranks: int = 1) -> None:
    """One process of a command gets a signal at a random moment."""
    _, seconds = bench.straight(name, n_ranks=n_ranks)
    home = folder / "run"
    with started(bench, name, home, n_ranks=n_ranks) as processes:
        time.sleep(rng.uniform(0, seconds))
        victim = rng.choice(processes)
        if victim.poll() is None:
            victim.send_signal(sign)
        if sign == signal.SIGSTOP:
            time.sleep(0.5)
            if victim.poll() is None:
                victim.send_signal(signal.SIGCONT)
        elif n_ranks > 1:  # as torchrun does with the others
            time.sleep(1)
            for process in processes:
                process.kill()
        ended_well(processes)
    goes_on(bench, name, home, n_ranks=n_ranks)


def reader_signalled(bench: Bench, folder: Path, rng: random.Random, name: str, sign: int) -> None:
    """A process that reads images is killed, or stopped for a while."""
    home, more = folder / "run", "--workers 2"
    _, seconds = bench.straight(name, more)
    with started(bench, name, home, more) as (process,):
        end = time.monotonic() + seconds
        time.sleep(rng.uniform(0, seconds / 2))
        while process.poll() is None and not (readers := children_of(process)) and time.monotonic() < end:
            time.sleep(0.01)
        if process.poll() is None and readers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(reader := rng.choice(readers), sign)
                if sign == signal.SIGSTOP:
                    time.sleep(0.5)
                    os.kill(reader, signal.SIGCONT)
        ended_well([process], 0, *([NO_RESOURCE] if sign == signal.SIGKILL else []))
    goes_on(bench, name, home, more)


def children_of(process: Child) -> list[int]:
    number = process.pid
    try:
        return [int(word) for word in Path(f"/proc/{number}/task/{number}/children").read_text().split()]
    except OSError:
        if not Path("/proc/self/task").is_dir():
            raise NotPossibleError("the system does not tell of its processes") from None
        return []


def two_at_once(bench: Bench, folder: Path, rng: random.Random, name: str) -> None:
    """A second process wants the folder of one that runs."""
    home = folder / "run"
    _, seconds = bench.straight(name)
    with started(bench, name, home) as first:
        while first[0].poll() is None and not (home / "config.json").exists():
            time.sleep(0.02)
        time.sleep(rng.uniform(0, seconds / 4))
        with started(bench, name, home) as second:
            ended_well(second, 0, BAD_INPUT)  # 0: the first one had ended
        ended_well(first, 0)
    goes_on(bench, name, home)


def file_spoilt(bench: Bench, folder: Path, rng: random.Random, name: str) -> None:
    """A file of a run that was killed is cut or gone: it goes on to the same end, or says what is wrong."""
    home = folder / "run"
    _, seconds = bench.straight(name)
    with started(bench, name, home) as (process,):
        time.sleep(rng.uniform(0.3 * seconds, seconds))
        process.kill()
    files = sorted(path for path in home.rglob("*") if path.is_file() and path.stat().st_size) if home.exists() else []
    if not files:
        return
    victim = rng.choice(files)
    if rng.random() < 0.3:
        victim.unlink()
    else:
        os.truncate(victim, rng.randrange(victim.stat().st_size))
    with started(bench, name, home) as processes:
        ended_well(processes, 0, BAD_INPUT)
        status = processes[0].returncode
    if status == 0 and victim.name in (checkpointing.NAME, "checkpoint.previous.pt"):
        goes_on(bench, name, home)


def metrics_gone(bench: Bench, folder: Path, rng: random.Random, name: str) -> None:
    """metrics.jsonl is deleted while the run writes to it."""
    home = folder / "run"
    _, seconds = bench.straight(name)
    with started(bench, name, home) as processes:
        while processes[0].poll() is None and not (home / "metrics.jsonl").exists():
            time.sleep(0.01)
        time.sleep(rng.uniform(0, seconds / 4))
        (home / "metrics.jsonl").unlink(missing_ok=True)
        ended_well(processes, 0, BAD_INPUT, NO_RESOURCE)


@contextlib.contextmanager
def small_disk(place: Path, options: str) -> Iterator[None]:
    """A file system in memory at ``place``. Raises NotPossibleError where none may be mounted."""
    place.mkdir()
    mount = shutil.which("mount")
    done = mount and subprocess.run([mount, "-t", "tmpfs", "-o", options, "tmpfs", str(place)], capture_output=True)
    if not done or done.returncode:
        raise NotPossibleError("no file system may be mounted here")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(place)], capture_output=True, check=False)


def disk_full(bench: Bench, folder: Path, rng: random.Random, name: str) -> None:
    """The disk takes no more at some moment; with room again it goes on."""
    place = folder / "disk"
    with small_disk(place, f"size={rng.choice((64, 256, 512, 1024))}k"):
        with started(bench, name, place / "run") as processes:
            ended_well(processes, 0, BAD_INPUT, NO_RESOURCE)
        subprocess.run(["mount", "-o", "remount,size=200m", str(place)], check=True, capture_output=True)
        goes_on(bench, name, place / "run")


def disk_read_only(bench: Bench, folder: Path, rng: random.Random, name: str) -> None:
    """The disk becomes read-only at some moment; once it can be written to again, it goes on."""
    place = folder / "disk"
    _, seconds = bench.straight(name)
    with small_disk(place, "size=200m"):
        with started(bench, name, place / "run") as processes:
            time.sleep(rng.uniform(0.2 * seconds, seconds))
            # files that are open for writing hold it back: then there is no such fault at this moment
            done = subprocess.run(["mount", "-o", "remount,ro", str(place)], check=False, capture_output=True)
            ended_well(processes, 0, *(() if done.returncode else (BAD_INPUT, NO_RESOURCE)))
        subprocess.run(["mount", "-o", "remount,rw", str(place)], check=False, capture_output=True)
        goes_on(bench, name, place / "run")


Case = Callable[[Bench, Path, random.Random], None]
_SIGNS = {"killed": signal.SIGKILL, "terminated": signal.SIGTERM, "stopped": signal.SIGSTOP}
CASES: Mapping[str, Case] = MappingProxyType(
    {
        **{
            f"{name} {how}": functools.partial(signalled, name=name, sign=sign)
            for name in COMMANDS
            for how, sign in _SIGNS.items()
        },
        **{
            f"{name} rank {how}": functools.partial(signalled, name=name, sign=sign, n_ranks=2)
            for name in ("train", "search")
            for how, sign in _SIGNS.items()
        },
        **{
            f"{name} reader {how}": functools.partial(reader_signalled, name=name, sign=_SIGNS[how])
            for name in ("search", "train")
            for how in ("killed", "stopped")
        },
        **{f"{name} twice at once": functools.partial(two_at_once, name=name) for name in RUNS},
        **{f"{name} file spoilt": functools.partial(file_spoilt, name=name) for name in RUNS},
        **{f"{name} metrics gone": functools.partial(metrics_gone, name=name) for name in RUNS},
        **{f"{name} disk full": functools.partial(disk_full, name=name) for name in RUNS},
        **{f"{name} disk read-only": functools.partial(disk_read_only, name=name) for name in RUNS},
    }
)
