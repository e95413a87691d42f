"""The fast forward pass gives the plain network's logits."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from proxyless_arch.arch import catalog
from proxyless_arch.arch.codec import read_spec
from proxyless_arch.data.datasets import open_folder
from proxyless_arch.weights.files import NamedTensors, load_pth
from proxyless_nas.data import eval_batches
from proxyless_nas.devices import device_name, pick_device
from proxyless_nas.inference import fold_bn, prepared
from proxyless_nas.network import build
from proxyless_nas.weights import load_named, to_named
from tests.errors import refused
from tests.proxyless_arch.nets import rich, three_blocks


def lively(spec, seed: int = 0) -> NamedTensors:
    """Weights with batch normalization that is far from the identity."""
    generator = np.random.default_rng(seed)
    tensors = {}
    for name, fresh in to_named(build(spec, torch.Generator().manual_seed(seed))).items():
        if name.endswith(("bn.weight", "running_var")):
            tensors[name] = generator.uniform(0.5, 1.5, fresh.shape).astype(np.float32)
        elif fresh.ndim == 1:
            tensors[name] = generator.normal(scale=0.3, size=fresh.shape).astype(np.float32)
        else:
            tensors[name] = fresh
    return tensors


def lively_net(spec):
    net = build(spec)
    load_named(net, spec, lively(spec))
    return net.eval()


def images_for(spec, batch_size=3, seed=1):
    size = (batch_size, 3, spec.resolution, spec.resolution)
    return torch.randn(size, generator=torch.Generator().manual_seed(seed))


SPECS = [three_blocks(), rich(), catalog.load("proxyless_gpu"), catalog.load("efficientnet_lite0")]


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_fast_logits_are_the_plain_ones(spec):
    net, x = lively_net(spec), images_for(spec)
    plain = net.to(memory_format=torch.contiguous_format)
    with torch.no_grad():
        expected = plain(x)
    assert expected.std() > 1e-3
    torch.testing.assert_close(prepared(net, "cpu")(x), expected, atol=1e-4, rtol=0)
    assert not torch.allclose(build(spec).eval()(x), expected, atol=1e-3)  # the comparison can fail


def test_folding_leaves_the_network_as_it_was():
    spec = three_blocks()
    net = lively_net(spec).train()
    before = to_named(net)
    folded = fold_bn(net)
    assert net.training and not folded.training
    assert not any(isinstance(layer, torch.nn.BatchNorm2d) for layer in folded.modules())
    for name, tensor in to_named(net).items():
        np.testing.assert_array_equal(tensor, before[name])


def test_bf16_is_close_and_gives_float32_logits():
    spec = catalog.load("proxyless_gpu")
    net, x = lively_net(spec), images_for(spec)
    exact, half = prepared(net, "cpu")(x), prepared(net, "cpu", "bf16")(x)
    assert half.dtype == torch.float32
    assert 0 < (half - exact).abs().max() < 0.1 * exact.std()


def test_a_precision_that_is_none():
    with refused("precision", "fp32", "bf16", "'fp8'"):
        prepared(build(three_blocks()), "cpu", "fp8")


def test_devices(monkeypatch):
    assert pick_device("cpu") == torch.device("cpu") and device_name(torch.device("cpu")).startswith("cpu, ")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    for n_gpus in (0, 2):
        monkeypatch.setattr(torch.cuda, "is_available", lambda n_gpus=n_gpus: n_gpus > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda n_gpus=n_gpus: n_gpus)
        assert pick_device("auto").type == ("cuda" if n_gpus else "cpu")
        for absent in ("cuda:2", "cuda:99", "mps"):
            with refused("--device", absent, torch.__version__):
                pick_device(absent)
    assert pick_device("cuda") == torch.device("cuda") and pick_device("cuda:1") == torch.device("cuda", 1)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the settings are glibc's")
def test_tuned_allocator_maps_no_activations():
    """After the first passes, forwards fault in (almost) no new pages; untuned, every one maps its activations anew."""
    code = (
        "import resource, sys, torch\n"
        "from proxyless_arch.base.machine import tune_allocator\n"
        "if sys.argv[1] == 'tuned': assert tune_allocator()\n"
        "def faults(): return resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "for _ in range(10): torch.empty(48, 2**18).fill_(1)\n"
        "start = faults()\n"
        "for _ in range(10): torch.empty(48, 2**18).fill_(1)\n"
        "print(faults() - start)\n"
    )
    counts = {
        way: int(subprocess.run([sys.executable, "-c", code, way], capture_output=True, text=True, check=True).stdout)
        for way in ("tuned", "untuned")
    }
    assert counts["tuned"] < counts["untuned"] / 10, counts


@pytest.mark.shared_data
def test_fast_logits_with_real_weights_on_real_photos(shared_data):
    """Logits here have a standard deviation near 2."""
    base = shared_data / "official" / "proxyless-w0.3-r176_imagenet"
    spec = read_spec(f"{base}.json")
    spec = replace(spec, preprocessing=replace(spec.preprocessing, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)))
    net = build(spec).eval()
    load_named(net, spec, load_pth(f"{base}.pth"))
    images, _ = next(eval_batches(open_folder(shared_data / "imagenet_sample.zip"), spec.preprocessing, batch_size=16))
    with torch.no_grad():
        expected = net.to(memory_format=torch.contiguous_format)(images.contiguous())
    assert expected.std() > 1
    torch.testing.assert_close(prepared(net, "cpu")(images), expected, atol=1e-4, rtol=0)
