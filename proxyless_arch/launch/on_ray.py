"""Jobs on a Ray cluster, or on a Ray of this machine's own: https://docs.ray.io. The optional extra [ray]."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from proxyless_arch.base.cli import FAILED
from proxyless_arch.base.errors import InputError
from proxyless_arch.base.strict import listed
from proxyless_arch.base.words import LAUNCHER_OPTIONS
from proxyless_arch.launch.process import carried_out, finding_us, import_paths

OF_A_JOB = ("num_cpus", "num_gpus", "memory")
ADDRESS, ADDRESS_VARIABLE = "address", "RAY_ADDRESS"
TICK_S = 0.2


@dataclass
class _Task:
    """A job that Ray has."""

    reference: Any
    failure: str = ""

    def status(self) -> int | None:
        import ray

        if not ray.wait([self.reference], timeout=0)[0]:
            return None
        try:
            return int(ray.get(self.reference))
        except ray.exceptions.RayError as error:  # cancelled, or its machine is gone
            self.failure = str(error).strip()
            return FAILED

    def told(self) -> str:
        return self.failure

    def stop(self) -> None:
        import ray

        ray.cancel(self.reference)

    def kill(self) -> None:
        import ray

        ray.cancel(self.reference, force=True)


@dataclass(frozen=True)
class _Ray:
    """``task``: a remote function of the name of a file."""

    task: Any
    most: int | None
    tick_s: float = TICK_S

    def begin(self, request: Path, slot: int) -> _Task:
        return _Task(self.task.remote(str(request.absolute())))


def ray_place(options: Mapping[str, Any], most: int | None) -> _Ray:
    """Join the cluster at ``address`` (or RAY_ADDRESS), or start Ray here, with ``most`` cores if that is given.

    Raises:
        InputError: an option that is none, or a cluster that is not there.
        ModuleNotFoundError: Ray is not installed.
    """
    unknown = [name for name in options if name not in (ADDRESS, *OF_A_JOB)]
    if unknown:
        raise InputError(f"expected {listed((ADDRESS, *OF_A_JOB))} with ray, got {unknown[0]}", LAUNCHER_OPTIONS.flag)
    try:
        import ray
    except ModuleNotFoundError:
        raise ModuleNotFoundError("ray; pip install -e '.[ray]' has it", name="ray") from None

    own = {name: value for name, value in options.items() if name in OF_A_JOB}
    if not ray.is_initialized():
        _join(options.get(ADDRESS), most)
    return _Ray(ray.remote(max_retries=0, **{"num_cpus": 1, **own})(carried_out), most)


def _join(address: str | None, most: int | None) -> None:
    import ray

    said = {"log_to_driver": False, "logging_level": "WARNING"}
    try:
        with finding_us():
            if address is None and ADDRESS_VARIABLE not in os.environ:
                ray.init(num_cpus=most, include_dashboard=False, **said)
            else:  # whose processes were started elsewhere
                ray.init(address, runtime_env={"env_vars": {"PYTHONPATH": import_paths()}}, **said)
    except (ConnectionError, ValueError) as error:
        raise InputError(f"no Ray there: {error}", LAUNCHER_OPTIONS.flag) from None
