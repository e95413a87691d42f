"""Branches of tree-structured cells that are left out in training, and squares cut out of images."""

import numpy as np
import pytest
import torch
from PIL import Image

from proxyless_arch.apps import train_settings
from proxyless_arch.arch.spec import Preprocessing
from proxyless_arch.base.errors import InputError
from proxyless_arch.data.images import Augment, train_transform
from proxyless_nas.network import build
from proxyless_nas.train.training import Schedule, Training
from proxyless_nas.trees import PathDrop, set_path_drop
from tests.trees import SPEC

SIDE, HOLE = 12, 4


def test_a_branch_is_left_out_for_whole_images_and_its_mean_stays():
    torch.manual_seed(0)
    dropped = PathDrop(0.25).train()(torch.ones(4000, 2, 3, 3))
    each = dropped[:, 0, 0, 0]
    assert torch.equal(dropped, each[:, None, None, None].expand_as(dropped))
    assert sorted(set(each.tolist())) == pytest.approx([0, 4 / 3])
    assert float(each.mean()) == pytest.approx(1, abs=0.03)


def test_an_evaluation_drops_nothing():
    net, images = build(SPEC, torch.Generator().manual_seed(0)).eval(), torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        before = net(images)
        set_path_drop(net, 0.9)
        assert torch.equal(net(images), before)
        net.train()
        torch.manual_seed(0)
        assert not torch.allclose(net(images), net(images))


def trained(steps, seed=3):
    settings = train_settings.Optimization(path_drop=0.5, warmup_epochs=0, ema_decay=0.0)
    schedule = Schedule(steps_per_epoch=4, n_epochs=1, warmup_epochs=0, init_lr=0.1)
    net = build(SPEC, torch.Generator().manual_seed(0))
    training = Training(net, settings, schedule, batch_size=4, seed=seed)
    rng = torch.Generator().manual_seed(1)
    for step in range(steps):
        images, labels = torch.randn(4, 3, 8, 8, generator=rng), torch.randint(5, (4,), generator=rng)
        torch.manual_seed(step % 2)  # where torch's own generator stands matters to no step
        training.update(images, labels)
    return {name: tensor.clone() for name, tensor in net.state_dict().items()}


def test_what_is_left_out_is_a_function_of_seed_and_step():
    one, same, other = trained(2), trained(2), trained(2, seed=4)
    assert all(torch.equal(tensor, same[name]) for name, tensor in one.items())
    assert not all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_a_square_is_cut_out():
    how = Preprocessing(resolution=SIDE, resize=SIDE, mean=(0.5,) * 3, std=(0.5,) * 3)
    plain = Augment(pad_crop=0, min_scale=1, flip=False, brightness=0, saturation=0)
    rng = np.random.default_rng(0)
    image, sizes = Image.fromarray(np.full((SIDE, SIDE, 3), 255, np.uint8)), set()
    for _ in range(200):
        made = train_transform(image, how, rng, Augment(**vars(plain) | {"cutout": HOLE}))
        rows, columns = np.nonzero((made == 0).all(2).any(1))[0], np.nonzero((made == 0).all(2).any(0))[0]
        hole = made[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        assert (hole == 0).all() and (made == 1).sum() == made.size - hole.size
        sizes.add(hole.shape[:2])
    assert max(sizes) == (HOLE, HOLE) and min(sizes)[0] == HOLE // 2  # partly outside
    with pytest.raises(InputError, match="cutout"):
        Augment(cutout=-1)


def test_no_cutout_draws_nothing():
    how = Preprocessing(resolution=SIDE, resize=SIDE)
    image = Image.fromarray(np.random.default_rng(1).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8))
    one, other = np.random.default_rng(0), np.random.default_rng(0)
    train_transform(image, how, one, Augment.small(SIDE))
    cut = train_transform(image, how, other, Augment(**vars(Augment.small(SIDE)) | {"cutout": 2}))
    assert one.random() != other.random() and cut.shape == (SIDE, SIDE, 3)


def test_flags_without_a_meaning():
    images = train_settings.Images(cutout=4, augment="none", dataset="digits")
    with pytest.raises(InputError, match="--cutout"):
        train_settings.augment_for(train_settings.TrainConfig(data=images), 16)
    found = train_settings.augment_for(
        train_settings.TrainConfig(data=train_settings.Images(cutout=4, dataset="digits")), 16
    )
    assert found is not None and found.cutout == 4 and "4 px cut out" in found.in_words()
