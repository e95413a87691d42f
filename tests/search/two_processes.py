"""Started by test_distributed_search.py, alone or under torchrun: a few steps of a search on batches of twin images.

Every batch holds each image twice, and with two processes each gets one of the twins: then the BN statistics of a
share equal those of the whole batch, and the two runs must agree to float tolerance.
"""

import sys
from pathlib import Path

import torch

from proxyless_nas import distributed
from search.config import SearchConfig, with_settings
from search.cost_table import macs_cost_table
from search.loop import Schedule, Search, run
from tests.search.tiny import tiny_space


def batches(n_steps, seed):
    for step in range(n_steps):
        rng = torch.Generator().manual_seed(1000 * seed + step)
        images = torch.randn(8, 3, 8, 8, generator=rng)
        labels = torch.randint(5, (8,), generator=rng)
        if distributed.world_size() == 1:
            images, labels = torch.cat([images, images]), torch.cat([labels, labels])
        yield images, labels


def main(algorithm: str, out: str) -> None:
    torch.set_num_threads(1)
    space = tiny_space()
    table = macs_cost_table(space)
    settings = {"arch_algo": algorithm, "rl_freeze": 0.0, "rl_batch_size": 3, "arch_lr": 0.05, "train_batch_size": 16}
    config = with_settings(SearchConfig(), settings)
    schedule = Schedule(steps_per_epoch=5, warmup_epochs=1, search_epochs=3, arch_every=1, arch_repeats=1)
    records = []
    with distributed.init_from_environment("cpu") as device:
        search = Search(config, space, table, 0.7 * table.uniform_expected, schedule, device)
        run(search, batches(20, 1), batches(15, 2), on_epoch=records.append, on_step=lambda state: True)
        if distributed.is_main():
            kept = [{k: v for k, v in r.items() if k not in ("seconds", "images_per_second")} for r in records]
            state = {"alphas": [a.detach() for a in search.alphas], "supernet": search.supernet.state_dict()}
            torch.save({**state, "records": kept, "processes": distributed.world_size()}, out)
    # a group that something still refers to leaves its threads, and the interpreter aborts as it ends, once in ten
    names = [task.read_text() for task in Path("/proc/self/task").glob("*/comm")]
    assert not [name for name in names if "gloo" in name], names


if __name__ == "__main__":
    main(*sys.argv[1:])
