"""What a finished search does beyond the loop."""

import copy

import numpy as np
import pytest
import torch

from proxyless_arch.batches import AUGMENT_STREAM
from proxyless_arch.datasets import digits
from proxyless_arch.images import eval_transform, train_transform
from proxyless_arch.space import TINY, SearchSpace
from proxyless_nas.network import build
from proxyless_nas.steps import evaluate, recalibrate_bn
from search.config import from_recipe, recipe_names, with_settings
from search.results import _changes, recalibrated
from search.session import mixed, prepare


def test_recalibration_sees_all_classes_in_every_batch():
    images = digits()[0]
    images = images.subset(np.argsort(images.labels, kind="stable"))  # as in a folder
    chosen = mixed(images, 500, seed=0)
    assert len(set(chosen.names)) == len(chosen) == 500
    for first in range(0, 500, 100):
        assert set(chosen.labels[first : first + 100]) == set(range(10))
    assert mixed(images, 500, seed=0).names == chosen.names
    assert mixed(images, 500, seed=1).names != chosen.names
    assert sorted(mixed(images, 10**6, seed=0).names) == sorted(images.names)


def test_what_projection_changed_is_told_with_its_odds():
    space = SearchSpace(macro=TINY, num_classes=10)
    odds = [torch.ones(len(ops)) / len(ops) for ops in space.choices]
    odds[4] = torch.tensor([0.01, 0.9, 0.04, 0.02, 0.01, 0.02])
    best, path = [0] * space.n_blocks, [0] * space.n_blocks
    best[4], path[4] = 1, 5
    (found,) = _changes(space, odds, best, path)
    assert found["block"] == 5  # blocks.0 is not searched
    assert (found["argmax"], found["chosen"]) == ("MB3 5x5 s2", "MB6 7x7 s2")
    assert (found["argmax_percent"], found["chosen_percent"]) == pytest.approx((90.0, 2.0))
    assert _changes(space, odds, best, best) == []


def digits_job(**settings):
    small = {"width_mult": 0.25, "torch_threads": 1, "test_batch_size": 40, "recalibration_images": 100}
    return prepare(with_settings(from_recipe("digits"), {**small, **settings}), torch.device("cpu"))


def assert_pixels(batches, dataset, job, augment):
    """``batches`` are the images of ``dataset`` in its order, transformed one by one with ``augment``."""
    rng = [np.random.default_rng([0, AUGMENT_STREAM, 0, index]) for index in range(len(dataset))]
    expected = [
        eval_transform(dataset.read(index), job.space.recipe)
        if augment is None
        else train_transform(dataset.read(index), job.space.recipe, rng[index], augment)
        for index in range(len(dataset))
    ]
    found = torch.cat([images for images, _ in batches]).permute(0, 2, 3, 1).numpy()
    np.testing.assert_array_equal(found, np.stack(expected))


def test_recalibration_takes_the_same_images_both_ways():
    job = digits_job()
    assert job.augment is not None
    for augment in (job.augment, None):
        assert_pixels(job.recalibration_batches(augment), mixed(job.data.train, 100, 0), job, augment)


def test_recalibration_keeps_the_better_way():
    job = digits_job()
    generator = torch.Generator().manual_seed(0)
    net = build(job.space.spec_for((0,) * job.space.n_blocks), generator, zero_gamma=False)
    for module in net.modules():
        if isinstance(module, torch.nn.Linear):  # logits of some size
            torch.nn.init.normal_(module.weight, generator=generator)
    chosen, scored, losses = recalibrated(job, net, set())
    assert list(losses) == sorted(losses, key=lambda name: losses[name])
    assert set(losses) == {"augmented", "as they are"}
    for name, augment in (("augmented", job.augment), ("as they are", None)):
        own = copy.deepcopy(net)
        recalibrate_bn(own, job.recalibration_batches(augment))
        score = evaluate(own, job.eval_batches(job.data.valid))
        assert losses[name] == pytest.approx(score.loss_sum / score.n_images, rel=1e-6)
        theirs = chosen.state_dict()
        same = all(torch.equal(tensor, theirs[key]) for key, tensor in own.state_dict().items())
        assert same == (name == next(iter(losses))) == (score == scored)
    plain = digits_job(augment="none")
    assert list(recalibrated(plain, net, set())[2]) == ["as they are"]


@pytest.mark.parametrize("arch_augment", [False, True])
def test_alphas_images_are_augmented_where_that_is_asked_for(arch_augment):
    job = digits_job(arch_augment=arch_augment)
    images, _ = next(job.valid_batches(0))
    pixels = images.permute(0, 2, 3, 1).numpy()
    plain = {eval_transform(job.data.valid.read(i), job.space.recipe).tobytes() for i in range(len(job.data.valid))}
    as_they_are = sum(one.tobytes() in plain for one in pixels)
    # a shift by 0 of -1 .. 1 both ways without a turn is one in nine at most
    assert as_they_are == len(pixels) if not arch_augment else as_they_are < len(pixels) / 2


def test_recipes_that_augment_alphas_images():
    assert [name for name in recipe_names() if from_recipe(name).arch.arch_augment] == ["fast"]
