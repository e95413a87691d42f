"""The process of a job: reads what is asked for, does it, and stops when the process that started it is gone.

python -m proxyless_arch.launch.worker REQUEST.json
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from proxyless_arch.base.cli import INTERRUPTED, exit_code
from proxyless_arch.base.files import read_json
from proxyless_arch.base.machine import tune_allocator
from proxyless_arch.base.runs import RunStopped
from proxyless_arch.launch.process import call


def stop_with_starter() -> None:
    """Become a SIGTERM when standard input ends: runs save what they have at the next step."""

    def wait() -> None:
        while os.read(0, 1024):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()


def run(words: Sequence[str]) -> int:
    (file,) = words
    wanted = read_json(Path(file))
    tune_allocator()
    try:
        call(wanted["function"], wanted["arguments"])
    except RunStopped:  # which has said how to go on
        return INTERRUPTED
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    stop_with_starter()
    return exit_code(run, argv)


if __name__ == "__main__":
    sys.exit(main())
