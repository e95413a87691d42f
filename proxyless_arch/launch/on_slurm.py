"""Jobs on a Slurm cluster, through submitit: https://github.com/facebookincubator/submitit. The optional extra [slurm].

``cluster=local`` among the options has submitit do them on this machine, as a rehearsal.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from proxyless_arch.base.cli import FAILED
from proxyless_arch.base.errors import InputError
from proxyless_arch.base.words import LAUNCHER_OPTIONS
from proxyless_arch.launch.process import carried_out, finding_us

CLUSTER = "cluster"
TICK_S = 1.0


class Request:
    """What submitit calls on a node. At the end of the time it is given, or pre-empted, it is queued again, and the job
    goes on from its checkpoint."""

    def __call__(self, request: str) -> int:
        return carried_out(request)

    def checkpoint(self, request: str) -> Any:
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, request)


@dataclass
class _Submitted:
    """A job in the queue, or running."""

    job: Any
    failure: str = ""

    def status(self) -> int | None:
        if not self.job.done():
            return None
        error = self.job.exception()
        if error is None:
            return int(self.job.result())
        self.failure = str(error).strip()
        return FAILED

    def told(self) -> str:
        return self.failure

    def stop(self) -> None:
        self.job.cancel(check=False)  # it may have ended

    def kill(self) -> None:
        if not self.job.done():
            self.job.cancel(check=False)


@dataclass(frozen=True)
class _Slurm:
    executor: Any
    most: int | None
    tick_s: float = TICK_S

    def begin(self, request: Path, slot: int) -> _Submitted:
        with finding_us():
            return _Submitted(self.executor.submit(Request(), str(request.absolute())))


def slurm_place(options: Mapping[str, Any], most: int | None, home: Path) -> _Slurm:
    """An executor whose files lie in ``home``/slurm, with options by submitit's names.

    Raises:
        InputError: no Slurm here, or an option that submitit does not know.
        ModuleNotFoundError: submitit is not installed.
    """
    try:
        import submitit
    except ModuleNotFoundError:
        raise ModuleNotFoundError("submitit; pip install -e '.[slurm]' has it", name="submitit") from None

    own = {name: value for name, value in options.items() if name != CLUSTER}
    try:
        executor = submitit.AutoExecutor(home / "slurm", cluster=options.get(CLUSTER, "slurm"))
        executor.update_parameters(**own)
    except (RuntimeError, ValueError, NameError, TypeError) as error:
        raise InputError(f"not taken by submitit: {error}", LAUNCHER_OPTIONS.flag) from None
    return _Slurm(executor, most)
