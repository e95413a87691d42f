"""Worker processes give the same batches as reading here, import no framework, and end with their iterator."""

import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from proxyless_arch.arch.spec import Preprocessing
from proxyless_arch.data import workers
from proxyless_arch.data.batches import eval_steps, read_batch
from proxyless_arch.data.datasets import digits
from tests.proxyless_arch.data import worker_probe

STEPS = eval_steps(20, 4)


def test_any_number_of_workers_gives_the_same_batches():
    read = partial(read_batch, digits()[1].subset(range(20)), Preprocessing(resolution=16, resize=18), None, 0)
    here = list(workers.batches(read, STEPS, 0))
    for n_workers in (1, 2, 9):
        there = list(workers.batches(read, STEPS, n_workers))
        assert len(there) == len(here) == 5
        for batch, other in zip(here, there, strict=True):
            np.testing.assert_array_equal(batch.images, other.images)
            np.testing.assert_array_equal(batch.labels, other.labels)


def test_workers_import_no_framework():
    for batch in workers.batches(worker_probe.frameworks_here, STEPS, 2):
        assert [str(error) for error in batch.errors] == []


def test_a_worker_may_print():
    batches = list(workers.batches(worker_probe.chatty, STEPS, 2))
    assert [batch.labels.tolist() for batch in batches] == [[s.image for s in samples] for samples in STEPS]


def test_a_worker_that_dies_is_an_error():
    with pytest.raises(RuntimeError, match="ended early, with status 7"):
        list(workers.batches(worker_probe.die, STEPS, 2))


def test_workers_end_with_an_abandoned_iterator():
    batches = workers.batches(worker_probe.chatty, STEPS, 2)
    next(batches)
    batches.close()
    deadline = time.monotonic() + 10
    while _children() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert _children() == []


def _children() -> list[str]:
    """Command lines of this process's worker children."""
    found = []
    for task in Path("/proc/self/task").glob("*/children"):
        for pid in task.read_text().split():
            command = Path("/proc", pid, "cmdline").read_bytes().replace(b"\0", b" ").decode()
            if "proxyless_arch.data.workers" in command:
                found.append(command)
    return found


def test_no_guard_is_needed_in_the_calling_script(tmp_path):
    """multiprocessing would run the script again in every worker."""
    script = tmp_path / "script.py"
    script.write_text(
        "from proxyless_arch.data import workers\n"
        "from tests.proxyless_arch.data.worker_probe import chatty\n"
        "from tests.proxyless_arch.data.test_workers import STEPS\n"
        "print('started', len(list(workers.batches(chatty, STEPS, 2))))\n"
    )
    root = Path(workers.__file__).parents[2]
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, cwd=tmp_path, env={"PYTHONPATH": str(root)}
    )
    assert done.stdout == "started 5\n", done.stderr
