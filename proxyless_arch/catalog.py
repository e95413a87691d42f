"""The released networks: their specs, where their weights are published, and the numbers published with them.

Nothing here fetches a file. No sha256 of the weights is published, but each file's git blob id is:
``weights.git_blob_sha1`` of a download must equal it.
"""

from __future__ import annotations

import importlib.resources
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from proxyless_arch.codec import parse_spec
from proxyless_arch.errors import InputError
from proxyless_arch.spec import ArchSpec
from proxyless_arch.strict import listed, nearest

WEIGHTS_BASE_URL = "https://raw.githubusercontent.com/han-cai/files/master/proxylessnas/"
SOURCE = "README and training logs of https://github.com/mit-han-lab/ProxylessNAS (Cai, Zhu, Han, ICLR 2019)"


@dataclass(frozen=True, kw_only=True)
class Release:
    """A published network.

    ``blob_sha1`` maps each weight file under ``weights_base_url`` to its git blob id. ``top1_percent`` and
    ``top5_percent`` are published ImageNet validation accuracies (resize 256, centre crop 224), ``latency`` the
    published latency with its device: none of them is measured here. ``source`` says where they were published.
    """

    name: str
    spec_file: str
    blob_sha1: Mapping[str, str]
    top1_percent: float
    top5_percent: float
    latency: str
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
        )
    }
)


def names() -> tuple[str, ...]:
    """Names of the released networks."""
    return tuple(RELEASES)


def release(name: str) -> Release:
    """The release called ``name``; InputError with the nearest valid name."""
    if name not in RELEASES:
        raise InputError(f"expected {listed(map(repr, RELEASES))}, got {name!r}{nearest(name, RELEASES)}", "name")
    return RELEASES[name]


def load(name: str) -> ArchSpec:
    """The spec of the released network ``name``, with its ImageNet recipe."""
    spec_file = release(name).spec_file
    text = importlib.resources.files("proxyless_arch").joinpath("specs", spec_file).read_bytes()
    return parse_spec(text, spec_file)
