"""A search in bfloat16: weights, alpha and losses stay in float32, what is computed is that of float32 within the
digits of bfloat16, and a resumed run equals an uninterrupted one."""

import shlex
from dataclasses import replace

import pytest
import torch

from hardware.cost import MACS, price_space
from proxyless_arch.base.errors import InputError
from proxyless_arch.data.streams import TorchStream
from search import imagenet_arch_search
from search.algorithm.controllers import step_rng
from search.algorithm.derive import choose_path
from search.algorithm.gates import sample
from search.config import SearchConfig
from search.run import checkpoint, loop
from search.run.announce import what_it_pays
from search.run.loop import Schedule, Search
from search.run.scoring import Scorer
from tests.errors import named
from tests.search.run.test_loop import GOAL, TABLE, config, everything, go_on, new_search
from tests.search.run.test_scoring import some_paths, tiny_job
from tests.search.tiny import tiny_space

IMAGES = torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(0)).to(memory_format=torch.channels_last)
LABELS = torch.arange(8) % 5
BOUND = 0.1
"""Of the largest value: some layers of numbers with 8 bits."""


def in_both(mode, **arch):
    """A search of each precision behind one weight and one architecture step on the same images."""
    space = tiny_space()
    table = price_space(space, MACS)
    found = []
    for precision in ("fp32", "bf16"):
        settings = replace(config(grad_binary_mode=mode, **arch), precision=precision)
        schedule = Schedule(1, 0, 4, 1, 1)
        found.append(Search(settings, space, table, table.uniform_expected, schedule, torch.device("cpu")))
    return found


@pytest.mark.parametrize("mode", ["full_v2", "full", "two"])
def test_logits_and_gradients_of_alpha_are_within_the_digits_of_bfloat16(mode):
    found = []
    for search in in_both(mode):
        for parameter in search.supernet.parameters():
            torch.nn.init.normal_(parameter, 0.5, 0.2, generator=torch.Generator().manual_seed(1))
        path, gates = sample(search.alphas, step_rng(3, TorchStream.ARCH_STEP), mode)
        logits = search.supernet(IMAGES, path, gates)
        assert logits.dtype == torch.float32
        gradients = torch.autograd.grad(torch.nn.functional.cross_entropy(logits, LABELS), search.alphas)
        found.append((logits.detach(), *gradients))
    for plain, lower in zip(*found, strict=True):
        assert lower.dtype == torch.float32
        assert (plain - lower).abs().max() < BOUND * max(float(plain.abs().max()), 1e-3)
    assert not torch.equal(found[0][0], found[1][0])


@pytest.mark.parametrize("arch", [{}, {"arch_algo": "rl", "rl_batch_size": 3, "rl_freeze": 0.0}], ids=["grad", "rl"])
def test_weights_alpha_and_momentum_stay_in_float32(arch):
    plain, lower = in_both("two", **arch)
    for search in (plain, lower):
        search.weight_step(IMAGES, LABELS)
        search.arch_step(IMAGES, LABELS)
    state = everything(lower)
    assert {value.dtype for value in state.values() if isinstance(value, torch.Tensor)} <= {torch.float32, torch.int64}
    pairs = zip(lower.supernet.parameters(), plain.supernet.parameters(), strict=True)
    apart = [float((own - theirs).detach().abs().max()) for own, theirs in pairs]
    assert 0 < max(apart) < 1e-2
    assert lower.sums.valid_loss == pytest.approx(plain.sums.valid_loss, rel=BOUND)


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2, 3))])
def test_a_search_for_a_target_ends_with_the_network_of_float32(seed):
    found = []
    for precision in ("fp32", "bf16"):
        settings = config(grad_update_arch_param_every=1, arch_lr=0.05)
        weights = replace(settings.weights, n_epochs=6)
        search = new_search(replace(settings, manual_seed=seed, precision=precision, weights=weights))
        start, _ = choose_path(search.alphas, TABLE, GOAL)
        assert go_on(search, [])
        path, _ = choose_path(search.alphas, TABLE, GOAL)
        assert path != start
        found.append(path)
    assert found[0] == found[1]


@pytest.mark.parametrize("stop", [7, 8])
def test_resumed_is_uninterrupted(tmp_path, stop):
    settings, path = replace(config(), precision="bf16"), tmp_path / "checkpoint.pt"
    straight, search = new_search(settings), new_search(settings)
    go_on(straight, [], 10)
    go_on(search, [], stop)
    checkpoint.save(path, search.checkpoint({}, {}, 0, 1.0))
    search = new_search(settings)
    search.restore(checkpoint.load(path))
    go_on(search, [], 10)
    for place, value in everything(straight).items():
        same = everything(search)[place]
        assert torch.equal(value, same) if isinstance(value, torch.Tensor) else value == same, place


def test_networks_are_scored_in_it(tmp_path):
    losses = []
    for precision in ("fp32", "bf16"):
        job = tiny_job(precision=precision)
        search = loop.Search(job.config, job.space, job.table, job.goal, job.schedule, job.device)
        losses.append(Scorer(job, search.supernet, tmp_path / precision).losses(some_paths(job, 2)))
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=BOUND)


def test_what_it_pays_is_measured_and_said(tmp_path, capsys):
    words = "--space tiny --width_mult 0.05 --resolution 8 --device cpu --target_hardware flops --threads 1"
    lower = ["--precision", "bf16", "--dry_run", "--run_dir", str(tmp_path / "run")]
    assert imagenet_arch_search.main([*shlex.split(words), *lower]) == 0
    lines = capsys.readouterr().out
    assert "cpu, 1 thread, bf16, torch" in lines
    named(next(line for line in lines.splitlines() if line.startswith("  precision")), "bf16", "fp32 here")
    schedule = Schedule(10, 0, 1, 1, 1)
    assert "0.50 of" in what_it_pays("bf16", (0.5, 1.0), (1.0, 2.0), schedule)
    assert "2.00 times" in what_it_pays("bf16", (2.0, 2.0), (1.0, 1.0), schedule)


def test_another_precision_is_refused():
    with pytest.raises(InputError, match="precision"):
        SearchConfig.of(precision="fp16")
