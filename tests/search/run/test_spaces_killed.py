"""Searches of other spaces than the paper's, killed (SIGKILL, one process or two) and resumed: equal bit for bit."""

import shlex
import time

import pytest
import torch

from search import imagenet_arch_search
from tests.processes import ranks
from tests.search.run.test_distributed_search import all_found

WORDS = shlex.split(
    "--width_mult 0.1 --resolution 8 --valid_size 1300 --device cpu --target_hardware flops --recalibration plain "
    "--recalibration_images 64 --train_batch_size 64 --warmup_epochs 1 --n_epochs 2 --grad_binary_mode two "
    "--rl_batch_size 2"
)
WIDTHS = {"wide_tiny": "0.35", "uib_tiny": "0.1"}


def search(folder, words, n_ranks, *, kills_behind=None):
    """A search, or one whose last rank is killed once so many epochs are written."""
    metrics, deadline = folder / "metrics.jsonl", time.monotonic() + 240
    with ranks(imagenet_arch_search.main, ["--run_dir", folder, *words], n_ranks) as children:
        if kills_behind is None:
            assert [child.wait() for child in children] == [0] * n_ranks, children[0].errors
            return
        while not metrics.exists() or metrics.read_bytes().count(b"\n") < kills_behind:
            assert children[0].poll() is None, children[0].errors
            assert time.monotonic() < deadline
            time.sleep(0.005)
        children[-1].kill()
        assert children[0].wait() != 0
    assert not (folder / "result.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize("n_ranks", [1, 2])
@pytest.mark.parametrize("algorithm", ["grad", "rl"])
@pytest.mark.parametrize("space", WIDTHS)
def test_killed_and_resumed_it_ends_as_an_uninterrupted_search(space, algorithm, n_ranks, tmp_path):
    words = [*WORDS, "--space", space, "--width_mult", WIDTHS[space], "--arch_algo", algorithm]
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    search(straight, words, n_ranks)
    search(broken, words, n_ranks, kills_behind=2)
    search(broken, ["--resume"], n_ranks)
    (one, result), (two, other) = all_found(straight), all_found(broken)
    assert result == other
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        assert torch.equal(tensor, two[name]), name
    moved = [alpha.abs().max() for name, alpha in one.items() if name.startswith("alpha")]
    assert max(moved) > 0
