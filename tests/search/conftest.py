"""The networks here are tiny: threads cost more than they save."""

import os

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def few_threads():
    """One, unless the environment asks for more."""
    before = torch.get_num_threads()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    yield
    torch.set_num_threads(before)
