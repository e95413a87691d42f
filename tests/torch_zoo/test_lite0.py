"""The demo network in torch, with its real weights on real photos."""

from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from proxyless_arch.arch import catalog
from proxyless_arch.arch.walk import total_macs, total_params
from proxyless_arch.data.datasets import open_folder
from proxyless_arch.weights.demo import demo_weights
from proxyless_nas.data import eval_batches
from proxyless_nas.network import build
from proxyless_nas.steps import evaluate
from proxyless_nas.weights import load_named
from tests.demo_net import NAME, needs_demo


def loaded(spec, tensors):
    net = build(spec).eval()
    load_named(net, spec, tensors)
    return net


@pytest.fixture(scope="module")
def weights():
    return demo_weights(NAME)


@pytest.fixture
def photos(shared_data):
    return open_folder(shared_data / "imagenet_sample.zip", "val")


def test_costs_are_what_torch_counts():
    spec = catalog.load(NAME)
    net = build(spec).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(torch.zeros(1, 3, 224, 224))
    assert counter.get_total_flops() == 2 * total_macs(spec)
    assert sum(parameter.numel() for parameter in net.parameters()) == total_params(spec)


@needs_demo
@pytest.mark.shared_data
@pytest.mark.slow
def test_padding_belongs_to_the_weights(weights, photos):
    """The negative control: symmetric padding on these weights gives other logits."""
    images, labels = next(eval_batches(photos, weights.spec.preprocessing, batch_size=32, limit=32))
    with torch.no_grad():
        wanted = loaded(weights.spec, weights.tensors)(images)
        other = loaded(replace(weights.spec, padding="symmetric"), weights.tensors)(images)
    assert (wanted.argmax(1) == labels).sum() >= 24
    assert (other - wanted).abs().max() > 1


@needs_demo
@pytest.mark.shared_data
def test_score_on_every_tenth_photo(weights, photos):
    """What the run over all photos (below, with --slow) gives on these: a tripwire, not a reference."""
    net = loaded(weights.spec, weights.tensors)
    result = evaluate(net, eval_batches(photos, weights.spec.preprocessing, batch_size=20, limit=100, strict=True))
    assert (result.n_images, result.top1_hits, result.top5_hits) == (100, 89, 98)
    assert result.loss == pytest.approx(0.58165, abs=1e-4)


@needs_demo
@pytest.mark.shared_data
@pytest.mark.slow
def test_score_on_all_photos(weights, photos):
    """Top-1 87.2 and top-5 97.3: a check of the pipeline. Most photos are of the training split."""
    net = loaded(weights.spec, weights.tensors)
    result = evaluate(net, eval_batches(photos, weights.spec.preprocessing, batch_size=20, strict=True))
    assert (result.n_images, result.top1_hits, result.top5_hits) == (1000, 872, 973)
