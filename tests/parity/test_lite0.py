"""The demo networks: a full-size net with real weights and "same" padding gives the same logits in both frameworks."""

import torch  # isort: split

from dataclasses import replace

import numpy as np
import pytest

import proxyless_nas
import proxyless_nas.weights as torch_weights
import proxyless_nas_tensorflow as keras_zoo
import proxyless_nas_tensorflow.weights as keras_weights
from proxyless_arch.data.batches import eval_steps, read_batch
from proxyless_arch.data.datasets import open_folder
from proxyless_arch.weights.demo import demo_weights
from proxyless_nas_tensorflow.steps import compiled
from tests.demo_net import LARGER, NAME, needs

ATOL = 1e-4  # at logits of standard deviation 1.2


CASES = [(NAME, 193), (NAME, 224), *((name, None) for name in LARGER)]  # None: as published


@pytest.mark.shared_data
@pytest.mark.parametrize(
    ("name", "resolution"),
    [pytest.param(*case, marks=[needs(case[0])] + [pytest.mark.slow] * (case != CASES[0])) for case in CASES],
)
def test_real_weights_on_real_photos(shared_data, name, resolution):
    weights = demo_weights(name)
    net = proxyless_nas.build(weights.spec).eval()
    torch_weights.load_named(net, weights.spec, weights.tensors)

    def keras_logits(spec, images):
        twin = keras_zoo.build(spec)
        keras_weights.load_named(twin, spec, weights.tensors)
        return compiled(twin)(images).numpy()

    photos = open_folder(shared_data / "imagenet_sample.zip", "val")
    (samples,) = eval_steps(len(photos), 16, limit=16)
    recipe = weights.spec.preprocessing
    recipe = replace(recipe, resolution=resolution or recipe.resolution)
    images, labels, errors = read_batch(photos, recipe, None, 0, samples)
    assert not errors
    with torch.no_grad():
        wanted = net(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()
    assert 0.8 < wanted.std() < 2
    assert (wanted.argmax(1) == labels).sum() >= 12  # 87 % of all photos at 224
    found = keras_logits(weights.spec, images)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=ATOL)
    assert np.array_equal(np.argsort(-found, axis=1)[:, :5], np.argsort(-wanted, axis=1)[:, :5])
    if resolution == 224:  # at 193 every strided layer sees an odd size, where both rules agree
        other = keras_logits(replace(weights.spec, padding="symmetric"), images)
        assert np.abs(other - wanted).max() > 1, "the negative control passes"
