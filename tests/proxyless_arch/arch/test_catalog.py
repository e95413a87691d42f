"""The released networks as the catalog lists them (the demos: test_demo.py)."""

import re

import pytest

from proxyless_arch.arch import catalog
from proxyless_arch.arch.spec import Preprocessing
from proxyless_arch.arch.walk import total_macs, total_params
from proxyless_arch.base.errors import InputError


def test_names():
    assert catalog.names() == ("proxyless_cpu", "proxyless_gpu", "proxyless_mobile", "proxyless_mobile_14")


@pytest.mark.parametrize("name", catalog.names())
def test_releases(name):
    release, spec = catalog.release(name), catalog.load(name)
    assert spec.name == release.name == name
    assert spec.preprocessing == Preprocessing()
    assert (spec.num_classes, len(spec.blocks), spec.bn.eps, spec.bn.momentum) == (1000, 22, 1e-3, 0.1)
    assert set(release.blob_sha1) == {f"{name}.pth", f"{name}.tfinit"}
    assert all(re.fullmatch("[0-9a-f]{40}", digest) for digest in release.blob_sha1.values())
    assert 70 < release.top1_percent < release.top5_percent < 100
    assert release.weights_base_url.startswith("https://")
    assert release.weights_base_url.endswith("/")
    assert release.source
    assert " ms on a " in release.latency


def test_mobilenetv4_has_its_published_size():
    """Counted by hand from the paper's table: every convolution, batch normalization and the classifier."""
    spec = catalog.load("mobilenetv4_conv_small")
    assert (total_params(spec), total_macs(spec)) == (3_774_024, 186_005_568)
    kinds = [block.op.label.split()[0][:3] for block in spec.blocks]
    assert {kind: kinds.count(kind) for kind in kinds} == {"con": 5, "Ext": 3, "IB2": 4, "CNX": 1, "IB4": 3, "IB3": 1}
    assert "mobilenetv4_conv_small" not in catalog.trained_names()


def test_digests_are_all_different():
    digests = [digest for release in catalog.RELEASES.values() for digest in release.blob_sha1.values()]
    assert len(set(digests)) == len(digests) == 9


def test_the_network_for_cifar10():
    assert catalog.names("cifar10") == ("proxyless_cifar",)
    release = catalog.release("proxyless_cifar")
    assert release.blob_sha1 == {"proxyless_cifar.pth": "cbf4665286e2b67d6e46528fbbf71d55e34c6563"}
    assert round(100 - release.top1_percent, 2) == 2.08 and release.top5_percent is release.latency is None
    spec = catalog.load("proxyless_cifar")
    assert (spec.num_classes, spec.resolution, spec.preprocessing.resize) == (10, 32, 32)


def test_a_release_is_a_value():
    with pytest.raises(AttributeError):
        catalog.release("proxyless_cpu").name = "other"
    with pytest.raises(TypeError):
        catalog.release("proxyless_cpu").blob_sha1["x"] = ""


def test_unknown_name():
    with pytest.raises(InputError) as caught:
        catalog.load("proxyless_moble")
    error = caught.value
    assert error.place == "name" and error.problem.endswith("did you mean 'proxyless_mobile'?")
    assert all(repr(name) in error.problem for name in catalog.known_names())
