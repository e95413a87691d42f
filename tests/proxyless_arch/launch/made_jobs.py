"""What the jobs of these tests do, in whichever process they are done."""

import time
from pathlib import Path

from proxyless_arch.base.errors import InputError
from proxyless_arch.base.files import write_json
from proxyless_arch.base.runs import RunStopped, StopRequest


def write(path: str, value: int) -> None:
    print("writing", value)
    write_json(Path(path), {"value": value})


def refuse(problem: str) -> None:
    print("first line")
    raise InputError(problem, "--it")


def crash() -> None:
    raise ZeroDivisionError("a fault")


def wait_to_be_stopped(path: str) -> None:
    """Until it is told to stop, as a run is, and half a minute at most."""
    end = time.monotonic() + 30
    with StopRequest() as request:
        Path(f"{path}.begun").touch()
        while not request.wanted and time.monotonic() < end:
            time.sleep(0.01)
    Path(f"{path}.kept").touch()
    raise RunStopped("stopped")
