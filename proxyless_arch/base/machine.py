"""What this process runs on: the processor, the cores it may use, the C library's allocator."""

from __future__ import annotations

import ctypes
import os
import platform
from pathlib import Path

from proxyless_arch.base.errors import InputError
from proxyless_arch.base.strict import counted

PRECISIONS = ("fp32", "bf16")
"""The number formats in which a network may compute."""

# mallopt's parameters, from glibc's malloc.h
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4


def cpu_name() -> str:
    """The processor's model name, or the architecture where it cannot be read."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def usable_cores() -> int:
    """Cores this process may run on (a container or taskset may leave fewer than the machine has)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def workers_text(n_workers: int, processes: int = 1) -> str:
    """``2 workers to read images``; of several ``processes`` each has its own."""
    each = " in each process" if processes > 1 else ""
    return f"{counted(n_workers, 'worker')}{each} to read images" if n_workers else "images read in this process"


def threads_text(n: int) -> str:
    """``1 thread``, ``2 threads``: for a record or a line that a person reads."""
    return counted(n, "thread")


_LOADS = Path("/proc/loadavg")
"""Linux: three averages, then how many are running, this process among them, of how many."""


def network_threads(n_readers: int, *variables: str) -> int:
    """Threads for a network on a CPU beside ``n_readers`` processes that read images: every core they leave.

    The first of the environment ``variables`` that holds a number decides instead.
    """
    for variable in variables:
        text = os.environ.get(variable, "")
        if text.isascii() and text.isdecimal() and int(text) > 0:
            return int(text)
    return max(1, usable_cores() - n_readers)


def _load_average() -> float | None:
    """Of the minute before, or what else runs now where that is less: a command that has just ended is no other work.

    None where there is no such figure, or where it is of more cores than this process has.
    """
    if not hasattr(os, "getloadavg") or usable_cores() != os.cpu_count():
        return None
    running = _LOADS.read_text().split()[3].partition("/")[0] if _LOADS.is_file() else ""
    return min(os.getloadavg()[0], int(running) - 1) if running.isdecimal() else os.getloadavg()[0]


LOAD_AT_START = _load_average()
"""Taken as the process begins, before it computes anything itself."""


def busy_note(threads: int, instead: str) -> str | None:
    """What to tell a person before ``threads`` threads compute together on a CPU where other work holds its cores.

    They wait for each other at every layer: where one of them gets no core, a step can take many times longer than on
    one thread (docs/decisions.md). ``instead`` is what to give for one thread. None where the load average at the
    start left each thread a core, where one thread computes, or where the load is not known.
    """
    load, cores = LOAD_AT_START, usable_cores()
    if threads == 1 or load is None or load + threads < cores + 0.5:
        return None
    return (
        f"note: other work ran here in the last minute (load average {load:.1f} on {cores} cores). {threads} threads "
        f"that share cores with it can be many times slower than one; for one thread {instead}"
    )


def parse_device(name: str) -> tuple[str, int | None]:
    """(auto, cpu, cuda or mps; N of ``cuda:N``). Whether this machine has it is for the framework to say.

    Raises InputError for anything else.
    """
    kind, colon, number = name.partition(":")
    numbered = kind == "cuda" and number.isascii() and number.isdecimal()
    if kind not in ("auto", "cpu", "cuda", "mps") or (colon and not numbered):
        raise InputError(f"expected auto, cpu, cuda, cuda:N or mps, got {name!r}", "--device")
    return kind, int(number) if numbered else None


def absent_device(name: str, framework: str, n_found: int) -> InputError:
    """The error for a device that ``framework`` (with its version) does not see, of which kind it sees ``n_found``."""
    return InputError(
        f"{name} requested, but {framework} sees {n_found} of that kind here; use --device cpu", "--device"
    )


def tune_allocator() -> bool:
    """Let freed memory stay with the process: glibc otherwise maps and unmaps every large activation of every forward.

    Call it once, before the first forward; the process then keeps its peak memory. At batch 32 this alone makes a
    mobile network on a CPU about twice as fast in PyTorch.

    Returns:
        Whether it was done: true with glibc, false with any other C library, where nothing happens.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    settings = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, 2**31 - 1), (_M_TOP_PAD, 256 * 2**20))
    accepted = [mallopt(parameter, value) for parameter, value in settings]
    return accepted == [1, 1, 1]
