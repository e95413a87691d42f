"""What training keeps of an image: the count of proxyless_arch/arch/memory.py is autograd's, to the value."""

from dataclasses import replace

import pytest
import torch

from proxyless_arch.apps.memory import HEAP, SCORING_HEAP, Free, Place, Plan
from proxyless_arch.apps.train_settings import Images, Optimization, TrainConfig
from proxyless_arch.arch import catalog
from proxyless_arch.arch.memory import BYTES, scoring_bytes, trained, training_bytes
from proxyless_arch.arch.walk import walk
from proxyless_arch.base.errors import InputError
from proxyless_arch.data.datasets import SearchData, digits
from proxyless_nas import distributed
from proxyless_nas.network import build
from proxyless_nas.train import memory


def kept_values(run, net, images):
    """Values that autograd saves for the backward pass, weights apart; what several save is counted once."""
    own = {parameter.untyped_storage().data_ptr() for parameter in net.parameters()}
    saved = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if tensor.is_floating_point() and storage.data_ptr() not in own:
            saved[storage.data_ptr()] = tensor  # kept alive: no other tensor gets its place
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = run(images)
    assert out.requires_grad
    return sum(tensor.untyped_storage().nbytes() for tensor in saved.values()) // BYTES


def images_of(count, resolution):
    return torch.randn(count, 3, resolution, resolution).contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("resolution", [32, 45])
@pytest.mark.parametrize("name", ["proxyless_gpu", "efficientnet_lite0"])
def test_the_count_is_autograds(name, resolution):
    """The difference of two batches: what does not grow with the batch (BN statistics) falls out."""
    spec = catalog.load(name)
    spec = replace(spec, classifier=replace(spec.classifier, dropout_rate=0.0))  # masks are not counted
    net = build(spec).train()
    two, three = (kept_values(net, net, images_of(count, resolution)) for count in (2, 3))
    assert three - two == sum(trained(call, spec.padding).kept for call in walk(spec, resolution))


DATA = SearchData(train=digits()[0], valid=digits()[1], test=digits()[1])
SPEC = catalog.load("proxyless_mobile")
ENOUGH, LITTLE = 40 * 10**9, 12 * 10**9


def config(**changes):
    return TrainConfig(
        data=Images(dataset="digits", train_batch_size=256), optimization=Optimization(ema_decay=0.9, **changes)
    )


def planned(settings, free, **how):
    return memory.plan_of(settings, DATA, SPEC, 1, Free(free), **how)


def test_a_training_takes_its_batch_in_parts_where_memory_is_short():
    assert planned(config(), ENOUGH).parts == 1
    found = planned(config(), LITTLE)
    assert found.parts > 1
    assert found.places[0].per_image == int(HEAP * training_bytes(walk(SPEC), SPEC.padding))
    assert found.fits
    with pytest.raises(InputError, match="--batch_size"):
        planned(config(accumulation=1), LITTLE)
    assert planned(config(accumulation=1), LITTLE, resumed=True).parts == 1


def test_what_is_scored_at_a_time_fits_beside_a_step():
    each = int(SCORING_HEAP * scoring_bytes(walk(SPEC), SPEC.padding))
    place = Place(name="", free=20 * each, per_image=2 * each)
    here = Plan(places=(place,), images=4, parts=1)  # 8 of 18
    assert memory.most_scored(here, SPEC, 250) == 10
    assert memory.most_scored(here, SPEC, 5) == 5
    full = Plan(places=(place,), images=8, parts=1)  # 16 of 18: no more images than a step has
    assert memory.most_scored(full, SPEC, 250) == 8


def test_timing_changes_nothing():
    net = build(replace(SPEC, classifier=replace(SPEC.classifier, dropout_rate=0.5)))
    images, before = images_of(2, 32), {name: tensor.clone() for name, tensor in net.state_dict().items()}
    drawn = torch.random.get_rng_state()
    net.first_conv.requires_grad_(False)  # as in a part that is frozen
    assert memory.seconds_per_image(net.eval(), images, torch.zeros(2, dtype=torch.int64)) > 0
    assert [p.requires_grad for p in net.first_conv.parameters()] == [False] * 3
    assert not net.training
    assert torch.equal(torch.random.get_rng_state(), drawn)
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert all(parameter.grad is None for parameter in net.parameters())


def test_a_gpu_has_a_memory_of_its_own(monkeypatch):
    """No GPU was here to try it on: what torch says of one is put in its place."""
    monkeypatch.setattr("proxyless_arch.base.memory.free_memory", lambda: 8 * 10**9)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (5 * 10**9, 6 * 10**9))
    assert distributed.least_free(torch.device("cuda", 0)) == Free(8 * 10**9, 5 * 10**9, has_gpu=True)
    assert distributed.least_free(torch.device("cpu")) == Free(8 * 10**9)
    monkeypatch.setattr("proxyless_arch.base.memory.free_memory", lambda: None)
    assert distributed.least_free(torch.device("cpu")) == Free(None)
