"""The tasks of an experiment where --launcher has them done: each is a job that finds itself by its name."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from proxyless_arch.launch.launcher import Job, Launcher, all_done


def run_launched(
    launcher: Launcher, work: Path, function: str, argv: Sequence[str], ready: Callable[[], Sequence[str]]
) -> None:
    """Do tasks until none is ready that was not begun.

    Args:
        function: ``module:name``, called with ``argv``, the words that this experiment was started with, and the
            ``name`` of a task.
        ready: the names of the tasks that are not done and have what they need.

    Raises:
        StoppedError: tasks failed; the message names them.
    """

    def listed(ended: Collection[str]) -> list[Job]:
        return [Job(name, function, {"argv": list(argv), "name": name}) for name in ready()]

    all_done(launcher.run(listed, work), "task")
