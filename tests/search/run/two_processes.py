"""Run by test_distributed_search.py, by one process and by two: the same steps of a search by one process and by two.

``twins``: every batch holds each image twice, and each of two processes gets one of the twins. The BN statistics of a
share then equal those of the batch, so that BN in training mode must agree too. ``halves``: other images on each rank,
BN in eval mode. ``short``: as halves, but each rank could not read some of its images, rank 1 more of them. ``paths``:
other images and another path on each rank, which one process trains in turn; BN in training mode. ``wide``: as twins,
in a space of shared weights and widths. ``wide paths``: as paths there, none of which need have all layers.
"""

import itertools
import math
from pathlib import Path

import torch
from torch import nn

from hardware.cost import MACS, price_space
from proxyless_nas import distributed
from proxyless_nas.steps import NonFiniteLossError
from search.config import SearchConfig, with_settings
from search.run.loop import Schedule, Search, run
from tests.search.tiny import tiny_space, tiny_wide_space

SHARE = 8
CASES = ("twins", "halves", "short", "paths", "wide", "wide paths")
ALGORITHMS = ("grad", "rl")
BROKEN = ("weights", "gradient", "grad", "rl")


def images_of(step, seed, n):
    rng = torch.Generator().manual_seed(1000 * seed + step)
    return torch.randn(n, 3, 8, 8, generator=rng), torch.randint(5, (n,), generator=rng)


def share_of(case, step, seed):
    """This rank's part of a step's batch; all of it where there is one process."""
    alone = distributed.world_size() == 1
    if case in ("twins", "wide"):
        images, labels = images_of(step, seed, SHARE)
        return (torch.cat([images, images]), torch.cat([labels, labels])) if alone else (images, labels)
    images, labels = images_of(step, seed, 2 * SHARE)
    if "paths" in case:
        return (images, labels) if alone else (images[distributed.rank() :: 2], labels[distributed.rank() :: 2])
    read = (
        [slice(0, SHARE), slice(SHARE, 2 * SHARE)] if case == "halves" else [slice(1, SHARE), slice(SHARE, SHARE + 3)]
    )
    mine = read if alone else [read[distributed.rank()]]
    return torch.cat([images[part] for part in mine]), torch.cat([labels[part] for part in mine])


def batches(case, n_steps, seed):
    return (share_of(case, step, seed) for step in range(n_steps))


def new_search(algorithm, device, dropout_rate=0.0, space=None, **settings):
    space = space or tiny_space(dropout_rate=dropout_rate)
    table = price_space(space, MACS)
    fixed = {"arch_algo": algorithm, "rl_freeze": 0.0, "rl_batch_size": 3, "arch_lr": 0.05, "train_batch_size": 16}
    config = with_settings(SearchConfig(), fixed | settings)
    schedule = Schedule(steps_per_epoch=5, warmup_epochs=1, search_epochs=3, arch_every=1, arch_repeats=1)
    return Search(config, space, table, 0.7 * table.uniform_expected, schedule, device)


def use_running_statistics(net):
    for layer in net.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.eval()
            layer.train = lambda mode=True, layer=layer: layer


def steps(case, algorithm, device):
    records = []
    space, given = None, {"paths_per_step": 2 if "paths" in case else 1}
    if "wide" in case:
        space = tiny_wide_space()
        given = given | {"shared_rule": "largest_first"} if "paths" in case else {}
    search = new_search(algorithm, device, space=space, **given)
    if case in ("halves", "short"):
        use_running_statistics(search.supernet)
    train, valid = batches(case, 20, 1), batches("twins" if "paths" in case else case, 15, 2)
    run(search, train, valid, on_epoch=records.append, on_step=lambda state: True)
    kept = [{k: v for k, v in r.items() if k not in ("seconds", "images_per_second")} for r in records]
    return {
        "alphas": [a.detach() for a in search.alphas],
        "supernet": search.supernet.state_dict(),
        "records": kept,
    }


def apart(device):
    """What a search says whose alphas are not the same on all ranks."""
    search = new_search("grad", device, path_sampling="uniform")
    with torch.no_grad():
        search.alphas[2][1] += 1e-6 * distributed.rank()
    try:
        run(search, batches("halves", 20, 1), batches("halves", 15, 2), on_epoch=print, on_step=lambda state: True)
    except RuntimeError as error:
        return str(error)


def with_dropout(device):
    """Whether the ranks drop the same features of the same images, and whether a search of unequal shares ends the
    same, bit for bit, when rank 0's checkpoint of its ninth step is where every rank goes on.
    """
    masks = []
    search = new_search("grad", device, dropout_rate=0.5)
    search.supernet.classifier.dropout.register_forward_hook(lambda layer, given, out: masks.append(out != 0))
    search.weight_step(*share_of("twins", 0, 1))
    found = {"same masks": distributed.same_on_all_ranks(masks)}

    def ending(search, last=20):
        train, valid = batches("short", 20, 1), batches("short", 15, 2)
        train, valid = itertools.islice(train, search.step, None), itertools.islice(valid, search.controller.step, None)
        run(search, train, valid, on_epoch=lambda record: None, on_step=lambda state: state.step < last)
        return search.checkpoint({}, {}, 0, 0.0)

    whole = ending(new_search("grad", device, dropout_rate=0.5))
    saved = distributed.broadcast_value(ending(new_search("grad", device, dropout_rate=0.5), 9))
    torch.manual_seed(0)  # a new process would not stand where this one does
    search = new_search("grad", device, dropout_rate=0.5)
    search.restore(saved)
    resumed = ending(search)
    names = [name for name, _ in search.supernet.named_parameters()]  # BN statistics are each rank's own
    found["resumed"] = all(torch.equal(whole.supernet[name], resumed.supernet[name]) for name in names)
    return found


def broken(kind, device):
    """What is said, and whether of this rank's share, when the last rank's loss is nan or, if finite, its gradient."""
    search = new_search("rl" if kind == "rl" else "grad", device)
    images, labels = share_of("halves", 0, 1)
    if distributed.rank() == distributed.world_size() - 1:
        if kind == "gradient":
            weight = search.supernet.classifier.linear.weight
            weight.register_hook(lambda gradient: gradient * math.nan)
        else:
            images = images * math.nan
    try:
        (search.weight_step if kind in ("weights", "gradient") else search.arch_step)(images, labels)
    except NonFiniteLossError as error:
        return str(error), error.here


def main(words: list[str]) -> None:
    """``words``: what the names of the files of findings begin with."""
    (out,) = words
    with distributed.init_from_environment("cpu") as device:
        found = {f"{case} {algorithm}": steps(case, algorithm, device) for case in CASES for algorithm in ALGORITHMS}
        said = apart(device) if distributed.world_size() > 1 else None
        found |= {"dropout": with_dropout(device)}
        found |= {"broken": {kind: broken(kind, device) for kind in BROKEN}}
        torch.save(found | {"processes": distributed.world_size(), "apart": said}, f"{out}.{distributed.rank()}.pt")
    # a group that something still refers to leaves its threads, and the interpreter aborts as it ends, once in ten
    names = [task.read_text() for task in Path("/proc/self/task").glob("*/comm")]
    assert not [name for name in names if "gloo" in name], names
