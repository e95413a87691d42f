"""Run by test_distributed.py: the same steps by one process and by two.

``twins``: every batch holds each image twice, and each of two processes gets one of the twins. The BN statistics of a
share then equal those of the batch, so that BN in training mode must agree too. ``frozen``: other images on each rank,
BN in eval mode. ``short``: as frozen, but rank 1 could not read two of its images. ``thawing``: as frozen, and the
classifier alone in the first epoch, then the others at a lower rate, with weights of the classes.

In float64: in float32 the order of sums puts an activation on the other side of a ReLU6's bend with some kernels, and
six steps make 1e-3 of that.
"""

import math

import torch
from torch import nn

from proxyless_arch.apps.scores import EvalResult
from proxyless_arch.apps.train_settings import Optimization
from proxyless_nas import distributed
from proxyless_nas.network import build
from proxyless_nas.steps import NonFiniteLossError
from proxyless_nas.train.training import Schedule, Training, over_ranks
from tests.proxyless_arch.nets import three_blocks

SHARE, STEPS = 8, 6


def images_of(seed, n):
    rng = torch.Generator().manual_seed(seed)
    images = torch.randn(n, 3, 23, 23, generator=rng).double().contiguous(memory_format=torch.channels_last)
    return images, torch.randint(5, (n,), generator=rng)


def share_of(case, step):
    """This rank's part of a step's batch; all of it where there is one process."""
    alone = distributed.world_size() == 1
    if case == "twins":
        images, labels = images_of(step, SHARE)
        return (torch.cat([images, images]), torch.cat([labels, labels])) if alone else (images, labels)
    images, labels = images_of(step, 2 * SHARE)
    if case == "short":
        images, labels = images[:-2], labels[:-2]
    mine = slice(None) if alone else slice(0, SHARE) if distributed.is_main() else slice(SHARE, None)
    return images[mine], labels[mine]


def network(case):
    # every rank starts elsewhere; rank 0's network is the one that counts
    net = build(three_blocks(), torch.Generator().manual_seed(5 + distributed.rank())).double()
    for layer in net.modules():
        if isinstance(layer, nn.Dropout) or (isinstance(layer, nn.BatchNorm2d) and case != "twins"):
            layer.p = 0.0
            layer.eval()
            layer.train = lambda mode=True, layer=layer: layer
    return net


def new_training(case, **settings):
    settings = Optimization(grad_clip=1.0, **settings)
    schedule = Schedule(
        steps_per_epoch=3, n_epochs=2, warmup_epochs=1, init_lr=0.1, freeze_epochs=settings.freeze_epochs
    )
    weights = torch.arange(5.0) if case == "thawing" else None
    return Training(network(case), settings, schedule, batch_size=2 * SHARE, seed=3, class_weights=weights)


def steps(case, **settings):
    training = new_training(case, **settings)
    for step in range(STEPS):
        training.update(*share_of(case, step))
    state = training.net.state_dict()
    assert distributed.same_on_all_ranks([*state.values(), *training.ema.net.state_dict().values()])
    sums = training.sums
    return {"net": state, "ema": training.ema.net.state_dict(), "sums": (sums.loss, sums.hits, sums.images)}


def checks():
    """What only several ranks can show; the findings of this rank."""
    rank, world = distributed.rank(), distributed.world_size()
    found = {"rank": rank, "world": world, "local": distributed.local_size()}
    some = [torch.full((2, 3), rank + 1.0), torch.tensor(rank), torch.full((2,), rank, dtype=torch.float64)]
    distributed.all_reduce_sum(some)
    found["sums"] = [tensor.flatten().tolist() for tensor in some]
    mean = torch.arange(4.0).view(1, 1, 2, 2).contiguous(memory_format=torch.channels_last) * (rank + 1)
    distributed.all_reduce_mean([mean])
    found["mean"] = mean.flatten().tolist()
    found["value"] = distributed.broadcast_value({"from": rank})
    found["same"] = distributed.same_on_all_ranks([torch.ones(3), torch.tensor(2)])
    found["other"] = distributed.same_on_all_ranks([torch.ones(3), torch.tensor(rank)])
    result = EvalResult(1 + rank, 2, 3 + rank, 0.25) if rank < 2 else EvalResult()
    found["result"] = over_ranks(result, torch.device("cpu"))
    training = new_training("frozen")
    found["stop"] = training.update(*share_of("frozen", 0), wants_to_stop=rank == 1)
    before = [parameter.detach().clone() for parameter in training.net.parameters()]
    images, labels = share_of("frozen", 1)
    if rank == 1:
        images[0, 0, 0, 0] = math.nan
    try:
        training.update(images, labels)
        found["refused"] = False
    except NonFiniteLossError:
        found["refused"] = all(torch.equal(a, b) for a, b in zip(before, training.net.parameters(), strict=True))
    found["alone"] = alone_after_a_step() if rank == 0 else None  # the other one waits below
    distributed.barrier()
    return found


def alone_after_a_step():
    """(processes, the network) of a training that rank 0 does by itself: nobody would answer a collective."""
    with distributed.by_itself():
        training = new_training("frozen")
        training.update(*share_of("frozen", 0))
        return distributed.world_size(), training.net.state_dict()


def run_cases():
    return {
        "twins": steps("twins"),
        "frozen": steps("frozen"),
        "accumulated": steps("frozen", accumulation=3),
        "short": steps("short"),
        "thawing": steps("thawing", freeze_epochs=1, backbone_lr_mult=0.5, accumulation=2),
    }


def main(words):
    """``words``: the folder of findings."""
    (folder,) = words
    with distributed.init_from_environment("cpu"):
        found = {"checks": checks(), "cases": run_cases()}
        torch.save(found, f"{folder}/rank{distributed.rank()}.pt")
