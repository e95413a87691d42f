"""What a search needs in memory: its largest path, what autograd keeps of a step, and which batches fit."""

import itertools
from dataclasses import replace

import pytest
import torch

from proxyless_arch.apps.memory import Free, as_begun
from proxyless_arch.arch.memory import training_bytes
from proxyless_arch.arch.walk import walk
from proxyless_arch.base.errors import InputError
from proxyless_arch.data.datasets import SearchData, digits
from proxyless_arch.data.images import Augment
from proxyless_arch.space.mbconv import mbconv_space
from search.algorithm.gates import Gate
from search.algorithm.supernet import Supernet
from search.config import SearchConfig, changes_of_resume, from_dict, to_dict
from search.run import memory
from tests.search.tiny import RESOLUTION, all_paths, tiny_space
from tests.torch_zoo.test_memory import images_of, kept_values

SPACE = tiny_space()
PATH = memory.largest_path(SPACE)


def test_no_path_needs_more_than_the_largest():
    def needed(path):
        return training_bytes(walk(SPACE.spec_for(path)), SPACE.padding)

    assert needed(PATH) == max(map(needed, all_paths(SPACE))) == memory.weight_step_bytes(SPACE)


def gates_of(path, mode):
    """Of every operation, with the path's open."""
    for ops, choice in zip(SPACE.choices, path, strict=True):
        values = torch.nn.functional.one_hot(torch.tensor(choice), len(ops)).float().requires_grad_()
        yield Gate(tuple(range(len(ops))), values, keep_outputs=mode == "full")


@pytest.mark.parametrize("mode", [None, "full_v2"])
def test_the_count_of_a_step_is_autograds(mode):
    """The layers' kept values are those of the peak when nothing passes."""
    net = Supernet(SPACE, torch.Generator().manual_seed(0)).train()
    gates = None if mode is None else list(gates_of(PATH, mode))
    two, three = (
        kept_values(lambda images: net(images, PATH, gates), net, images_of(count, RESOLUTION)) for count in (2, 3)
    )
    assert three - two == sum(layer.kept for layer in memory.layers_of_step(SPACE, mode))


def test_the_other_outputs_of_mode_full_are_kept_as_well():
    full, one = (sum(layer.kept for layer in memory.layers_of_step(SPACE, mode)) for mode in ("full", "full_v2"))
    sizes = [calls[0].out_hwc for calls in SPACE.edge_calls]
    others = [len(calls) - 1 for calls in SPACE.edge_calls]
    assert full - one == sum(h * w * c * n for (h, w, c), n in zip(sizes, others, strict=True))


IMAGES = SearchData(train=digits()[0], valid=digits()[1], test=digits()[1])
PHOTOS = mbconv_space()
GB = 10**9


def planned(free, **given):
    config = SearchConfig.of(**({"dataset": "imagefolder", "recipe": "default"} | given))
    return memory.plan_of(config, IMAGES, PHOTOS, Augment.imagenet(), 2, Free(free * GB))


def test_the_default_recipe_at_224_px_needs_28_gb_and_more():
    """Which is why a machine of 24 GB killed it."""
    whole = planned(64)
    assert whole.parts == 1
    assert whole.places[0].needed(256) > 28 * GB
    divided = planned(21)
    assert (divided.parts, divided.images) == (3, 256)  # two readers for each of two loaders take 4 GB
    assert divided.fits
    assert planned(8).parts > planned(16).parts > 2


def test_a_batch_that_was_named_is_kept_or_refused():
    assert planned(21, batch_size=128).parts == 1
    with pytest.raises(InputError) as caught:
        planned(21, batch_size=256)
    assert caught.value.place == "--batch_size"
    assert planned(21, batch_size=256, accumulation=4).parts == 4


def test_every_batch_that_is_refused_names_one_that_fits():
    for free, size in itertools.product((4, 9, 21), (256, 512)):
        with pytest.raises(InputError, match=r"--batch_size [0-9]+ fits") as caught:
            planned(free, batch_size=size)
        named = int(str(caught.value).split("--batch_size ")[1].split()[0])
        assert planned(free, batch_size=named).fits


def test_scored_batches_shrink_only_where_memory_is_short():
    assert memory.most_scored(planned(21), PHOTOS, 250) == 250
    assert 1 <= memory.most_scored(planned(5), PHOTOS, 250) < 250


def test_a_resumed_search_keeps_its_parts_and_an_older_one_had_one():
    saved = SearchConfig.of(accumulation=3)
    assert as_begun(saved, SearchConfig.of()) == saved  # left open: those it began with
    with pytest.raises(InputError, match="accumulation"):
        changes_of_resume(saved, as_begun(saved, SearchConfig.of(accumulation=2)))
    older = to_dict(saved)
    del older["accumulation"]
    assert from_dict(older, "config.json").data.accumulation == 1
    assert replace(saved.data, accumulation=1) == from_dict(older, "config.json").data
