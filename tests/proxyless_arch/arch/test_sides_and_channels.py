"""Networks for images that are no squares of RGB: their costs in closed form, their files, their pixels."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from proxyless_arch.apps.evaluation import describe_preprocessing, resize_for
from proxyless_arch.apps.next_commands import pruning
from proxyless_arch.arch.codec import parse_spec, spec_to_json
from proxyless_arch.arch.spec import Preprocessing, imagenet_preprocessing, with_channels
from proxyless_arch.arch.tables import describe
from proxyless_arch.arch.walk import total_macs, total_params, walk
from proxyless_arch.base.errors import InputError
from proxyless_arch.data.images import Augment, eval_transform, random_crop_box, train_transform
from proxyless_arch.weights.files import read_tensors, save_tensors
from tests.proxyless_arch.nets import random_tensors, three_blocks

BASE = three_blocks()
GREY = replace(with_channels(BASE, 1), preprocessing=Preprocessing(resolution=(10, 22), mean=(0.5,), std=(0.25,)))
NONE = Augment(min_scale=1.0, flip=False, brightness=0.0, saturation=0.0)


def test_macs_count_both_sides_and_the_channels():
    def expected(height, width, channels):
        half, quarter = (math.ceil(height / by) * math.ceil(width / by) for by in (2, 4))
        stem = half * 4 * 9 * channels
        first = half * (4 * 9 + 4 * 4)
        second = half * 4 * 12 + quarter * (12 * 25 + 12 * 6)
        third = quarter * (6 * 36 + 36 * 49 + 36 * 6)
        return stem + first + second + third + quarter * 6 * 8 + 8 * 5

    assert total_macs(GREY) == expected(10, 22, 1)
    assert total_macs(BASE, (10, 22)) == expected(10, 22, 3)
    assert total_macs(BASE, 11) == expected(11, 11, 3)
    assert total_params(BASE) - total_params(GREY) == 2 * 4 * 9
    assert walk(GREY)[0].in_hwc == GREY.preprocessing.hwc == (10, 22, 1)


def test_a_spec_and_its_weights_say_it_in_their_files(tmp_path):
    again = parse_spec(spec_to_json(GREY), "grey.json")
    assert again == GREY and again.resolution == (10, 22)
    save_tensors(tmp_path / "grey.safetensors", GREY, random_tensors(GREY), {})
    assert read_tensors(tmp_path / "grey.safetensors").spec == GREY
    with pytest.raises(InputError, match=r"^stem.in_channels: expected 3"):
        parse_spec(
            spec_to_json(GREY).replace('"mean": [0.5]', '"mean": [0.5, 0.5, 0.5]').replace("[0.25]", "[1, 1, 1]"), ""
        )
    with pytest.raises(InputError, match=r"^std: expected as many"):
        Preprocessing(mean=(0.5,))
    with pytest.raises(InputError, match=r"^resolution: expected a square"):
        _ = GREY.preprocessing.side


def test_weights_of_rgb_are_taken_for_grey_images(tmp_path):
    tensors = random_tensors(BASE)
    save_tensors(tmp_path / "rgb.safetensors", BASE, tensors, {})
    found = read_tensors(tmp_path / "rgb.safetensors", GREY)
    first = "first_conv.conv.weight"
    np.testing.assert_allclose(found.tensors[first], tensors[first].sum(1, keepdims=True))
    assert all((found.tensors[name] == tensor).all() for name, tensor in tensors.items() if name != first)
    assert found.spec is not None and found.spec.preprocessing.channels == 1 and "RGB" in found.note
    save_tensors(tmp_path / "grey.safetensors", GREY, random_tensors(GREY), {})
    with pytest.raises(InputError):
        read_tensors(tmp_path / "grey.safetensors", BASE)


@pytest.mark.parametrize(
    ("size", "crop", "frame", "covering"),
    [
        ((100, 60), (20, 40), (24, 44), (44, 26)),  # taller than the frame, so its width is met
        ((100, 20), (20, 40), (24, 44), (120, 24)),
        ((40, 20), (20, 40), (20, 40), (40, 20)),
        ((30, 90), (8, 6), 9, (9, 27)),
    ],
)
def test_an_image_is_resized_until_it_covers_and_cut_in_its_middle(size, crop, frame, covering):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8))
    how = Preprocessing(resolution=crop, resize=frame, mean=(0.0,) * 3, std=(1.0,) * 3)
    resized = np.asarray(image.resize(covering, Image.Resampling.BILINEAR), np.float32) / np.float32(255)
    top, left = (round((resized.shape[axis] - crop[axis]) / 2) for axis in (0, 1))
    np.testing.assert_array_equal(eval_transform(image, how), resized[top : top + crop[0], left : left + crop[1]])


def test_grey_images_have_the_brightness_of_colored_ones():
    pixels = np.random.default_rng(0).integers(0, 256, (9, 13, 3), np.uint8)
    how = Preprocessing(resolution=(9, 13), resize=(9, 13), mean=(0.0,), std=(1.0,))
    found = eval_transform(Image.fromarray(pixels), how)
    assert found.shape == (9, 13, 1)
    np.testing.assert_allclose(found[..., 0], pixels @ [0.299, 0.587, 0.114] / 255, atol=0.003)
    grey = np.repeat(pixels[..., :1], 3, axis=2)
    np.testing.assert_array_equal(eval_transform(Image.fromarray(grey), how)[..., 0], np.float32(grey[..., 0]) / 255)


def test_training_images_have_the_shape_and_keep_their_proportions():
    how = Preprocessing(resolution=(20, 40), resize=(20, 40), mean=(0.5,), std=(0.5,))
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (200, 300, 3), np.uint8))
    for augment in (NONE, replace(NONE, pad_crop=3), Augment.imagenet()):
        assert train_transform(image, how, np.random.default_rng(0), augment).shape == (20, 40, 1)
    rng = np.random.default_rng(0)
    ratios = [width / height for _, _, width, height in (random_crop_box(4000, 2000, rng, 0.1, 2.0) for _ in range(99))]
    assert 1.49 < min(ratios) < 1.6 and 2.5 < max(ratios) < 2.68  # 3/4 and 4/3 of 2
    assert random_crop_box(4000, 100, rng, 1.0, 2.0)[2:] == (267, 100)


def test_sizes_in_words_and_from_flags():
    square = imagenet_preprocessing(224)
    assert resize_for((160, 256), square) == (182, 292) == imagenet_preprocessing((160, 256)).resize
    assert resize_for((20, 40), Preprocessing(resolution=10, resize=12)) == (24, 48)
    said = describe_preprocessing(GREY.preprocessing)
    assert "10 x 22" in said and "256" in said and "grey" in said
    assert describe_preprocessing(square).startswith("short side 256 (bilinear), centre 224 x 224, mean 0.485")


def test_a_pruning_of_other_images_is_priced_in_macs():
    assert pruning(Path("run"), GREY)[3:5] == ("--target_hardware", "flops")
    assert pruning(Path("run"), BASE)[3:5] == ("--target_hardware", "cpu")
    assert describe(GREY).startswith("three: 3 blocks, 10 x 22 px, 5 classes")
