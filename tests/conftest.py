"""Where the real data is, and which tests need it."""

import os
import sys
from pathlib import Path

import pytest

from proxyless_arch.base import machine

ROOT = Path(__file__).resolve().parents[1]
SHARED_DATA = Path(os.environ.get("PROXYLESS_TEST_DATA", ROOT.parent / "shared" / "data"))


# processes that share the tests share the cores: threads that wait for a core spin (docs/decisions.md)
WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
if WORKERS > 1:
    for variable in ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
        os.environ.setdefault(variable, str(max(1, machine.usable_cores() // WORKERS)))
# what else runs on this machine is no matter of a test
machine.LOAD_AT_START = None
# what the scripts print says ``python``, which is this one in every test
os.environ.setdefault("PROXYLESSNAS_DECODED_GB", "0")  # no test writes into the cache of whoever starts it
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="also run the slow suite")


# Files that take long, first: when several processes share the tests, the last ones to start should be short.
HEAVY = ("tests/scripts/", "tests/search/run/", "tests/torch_zoo/test_distributed.py", "tests/keras_zoo/test_export.py")


def pytest_collection_modifyitems(config, items):
    items.sort(key=lambda item: not item.nodeid.startswith(HEAVY))
    for item in items:
        if "shared_data" in item.keywords and not SHARED_DATA.is_dir():
            item.add_marker(pytest.mark.skip(reason=f"no real data at {SHARED_DATA} (set PROXYLESS_TEST_DATA)"))
        if "slow" in item.keywords and not config.getoption("--slow"):
            item.add_marker(pytest.mark.skip(reason="slow: run with --slow"))


@pytest.fixture
def shared_data() -> Path:
    """The folder of real data; tests that use it carry the mark ``shared_data``."""
    return SHARED_DATA


@pytest.fixture(autouse=True)
def enough_memory(monkeypatch):
    """What fits must not depend on what else runs on the machine: in this process 64 GB are free, in every test."""
    monkeypatch.setattr("proxyless_arch.base.memory.free_memory", lambda: 64 * 10**9)
