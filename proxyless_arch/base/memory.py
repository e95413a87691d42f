"""How much memory this process may still take, and how it is written."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SLASH = Path("/")


def format_bytes(count: float) -> str:
    """``850 MB``, ``1.3 GB``, ``21 GB``: powers of 1000, as machines are sold."""
    gigabytes = count / 1e9
    if gigabytes < 0.995:
        return f"{count / 1e6:.0f} MB"
    return f"{gigabytes:.1f} GB" if gigabytes < 9.95 else f"{gigabytes:.0f} GB"


def free_memory(root: Path = SLASH) -> int | None:
    """Bytes that this process may still take before something is killed; None where no system tells.

    On Linux the least of what the machine has left (MemAvailable), what the control groups around this process leave
    it (a container's or a job's limit, of either version) and its own limits (ulimit); elsewhere what the machine has.
    ``root``: where /proc and /sys are.
    """
    found = [*_available(root), *_left_by_groups(root), *_left_by_limits(root)]
    return max(0, min(found)) if found else _installed()


def resident_bytes(root: Path = SLASH, field: str = "VmRSS") -> int | None:
    """What this process holds in memory now (``VmHWM``: the most it ever held); None where no system tells."""
    found = _table(root / "proc/self/status").get(field)
    return None if found is None else found * 1024


def _installed() -> int | None:
    names = getattr(os, "sysconf_names", {})
    if "SC_PHYS_PAGES" not in names or "SC_PAGE_SIZE" not in names:
        return None
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _available(root: Path) -> Iterator[int]:
    found = _table(root / "proc/meminfo").get("MemAvailable")
    if found is not None:
        yield found * 1024


def _left_by_groups(root: Path) -> Iterator[int]:
    """What each control group around this process leaves: its limit less its use, from which cached files can go."""
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, group = line.split(":", 2)
        if not controllers:
            yield from _left_above(root / "sys/fs/cgroup", group, _V2)
        elif "memory" in controllers.split(","):
            yield from _left_above(root / "sys/fs/cgroup/memory", group, _V1)


@dataclass(frozen=True)
class _Files:
    """What a version of control groups calls its files, and cached files in memory.stat."""

    limits: tuple[str, ...]
    use: str
    cached: str


_V2 = _Files(("memory.max", "memory.high"), "memory.current", "inactive_file")
_V1 = _Files(("memory.limit_in_bytes",), "memory.usage_in_bytes", "total_inactive_file")


def _left_above(home: Path, group: str, files: _Files) -> Iterator[int]:
    """What a group and those around it, up to ``home``, leave. A container sees its own group at ``home``."""
    inner = home / group.lstrip("/")
    for folder in (inner, *inner.parents):
        if not folder.is_relative_to(home):
            return
        limits = [limit for name in files.limits if (limit := _number(folder / name)) is not None]
        used = _number(folder / files.use)
        if limits and used is not None:
            yield min(limits) - used + _table(folder / "memory.stat").get(files.cached, 0)


def _left_by_limits(root: Path) -> Iterator[int]:
    try:
        import resource
    except ImportError:  # Windows
        return
    status = _table(root / "proc/self/status")
    for limit, field in ((resource.RLIMIT_AS, "VmSize"), (resource.RLIMIT_DATA, "VmData")):
        soft, _ = resource.getrlimit(limit)
        if soft != resource.RLIM_INFINITY and field in status:
            yield soft - status[field] * 1024


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []


def _number(path: Path) -> int | None:
    """The number that a file holds; None for ``max``, or where there is no such file."""
    lines = _lines(path)
    return int(lines[0]) if len(lines) == 1 and lines[0].isdecimal() else None


def _table(path: Path) -> dict[str, int]:
    """``{name: number}`` of lines such as ``MemFree:  12 kB`` and ``inactive_file 34``."""
    words = [line.replace(":", " ").split() for line in _lines(path)]
    return {line[0]: int(line[1]) for line in words if len(line) > 1 and line[1].isdecimal()}
