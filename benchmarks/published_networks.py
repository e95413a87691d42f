"""The networks ProxylessNAS was published against: where they come from, what they cost, how accurate they were.

The implementations are those of pytorchcv 0.0.67, an optional extra: ``pip install -e '.[compare]'``. Later
releases need torchvision and a CUDA build. Where its presets are not the published network, the published widths are
given here. Weights are random, because latency does not depend on them; accuracies are published, never measured.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import io
import logging
import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from proxyless_arch.arch.ops import make_divisible
from proxyless_arch.base.files import atomic_path, read_bytes

if TYPE_CHECKING:
    from torch import nn

PACKAGE, VERSION, EXTRA = "pytorchcv", "0.0.67", "compare"
REFERENCE = "mobilenetv2"


@dataclass(frozen=True, kw_only=True)
class Foreign:
    """A published network of others.

    Args:
        make: builds the module; needs the package.
        top1_percent: published ImageNet validation accuracy at 224 px; ``source`` says where.
    """

    name: str
    label: str
    top1_percent: float
    source: str
    make: Callable[[], nn.Module]


def unavailable() -> str | None:
    """Why the foreign networks cannot be built here and what to install, or None when they can."""
    install = f"pip install -e '.[{EXTRA}]'"
    if importlib.util.find_spec(PACKAGE) is None:
        return f"{PACKAGE} is not installed: {install}"
    found = importlib.metadata.version(PACKAGE)
    return None if found == VERSION else f"expected {PACKAGE} {VERSION}, found {found}: {install}"


def _mobilenet_v1() -> nn.Module:
    from pytorchcv.models.mobilenet import mobilenet_w1

    return mobilenet_w1()


def _mobilenet_v2(width_mult: float) -> nn.Module:
    """Widths are multiples of 8 and the first block has no expansion, as published; pytorchcv's presets differ.

    Deviation: pytorchcv's classifier has no bias, which is 1000 parameters less.
    """
    from pytorchcv.models.mobilenetv2 import MobileNetV2

    stages = (((16, 1),), ((24, 2),), ((32, 3),), ((64, 4), (96, 3)), ((160, 3), (320, 1)))
    channels = [
        [make_divisible(width * width_mult) for width, blocks in stage for _ in range(blocks)] for stage in stages
    ]
    last = make_divisible(1280 * max(1.0, width_mult))
    return MobileNetV2(channels, make_divisible(32 * width_mult), last, remove_exp_conv=True)


def _mnasnet_a1() -> nn.Module:
    from pytorchcv.models.mnasnet import mnasnet_a1

    return mnasnet_a1()


def _shufflenet_v2() -> nn.Module:
    """The last convolution has 1024 channels at width 1.5, as published; pytorchcv's preset has 1553."""
    from pytorchcv.models.shufflenetv2 import ShuffleNetV2

    return ShuffleNetV2([[176] * 4, [352] * 8, [704] * 4], init_block_channels=24, final_block_channels=1024)


def _resnet34() -> nn.Module:
    from pytorchcv.models.resnet import resnet34

    return resnet34()


_V2 = "Sandler et al. 2018, arXiv:1801.04381, table 4"
FOREIGN: Mapping[str, Foreign] = MappingProxyType(
    {
        foreign.name: foreign
        for foreign in (
            Foreign(
                name="mobilenetv1",
                label="MobileNetV1",
                top1_percent=70.6,
                source="Howard et al. 2017, arXiv:1704.04861",
                make=_mobilenet_v1,
            ),
            Foreign(
                name=REFERENCE,
                label="MobileNetV2 1.0",
                top1_percent=72.0,
                source=_V2,
                make=lambda: _mobilenet_v2(1.0),
            ),
            Foreign(
                name="mobilenetv2_14",
                label="MobileNetV2 1.4",
                top1_percent=74.7,
                source=_V2,
                make=lambda: _mobilenet_v2(1.4),
            ),
            Foreign(
                name="mnasnet_a1",
                label="MnasNet-A1",
                top1_percent=75.2,
                source="Tan et al. 2019, arXiv:1807.11626, table 1",
                make=_mnasnet_a1,
            ),
            Foreign(
                name="shufflenetv2_15",
                label="ShuffleNetV2 1.5",
                top1_percent=72.6,
                source="Ma et al. 2018, arXiv:1807.11164 (as an error of 27.4 %)",
                make=_shufflenet_v2,
            ),
            Foreign(
                name="resnet34",
                label="ResNet-34",
                top1_percent=73.3,
                source="Cai et al. 2019, arXiv:1812.00332, table of GPU latencies",
                make=_resnet34,
            ),
        )
    }
)


def module_of(foreign: Foreign, device: str = "cpu") -> nn.Module:
    """The network in eval mode with random weights, always the same, for images of any size.

    On the device ``meta`` it has shapes and no weights, which is enough to count.
    """
    import torch
    from torch import nn

    with torch.random.fork_rng(devices=[]), torch.device(device):
        torch.manual_seed(0)
        module = foreign.make().eval()
    # its own pool is made for 224 px and no other size, where it computes the same
    module.get_submodule("features").add_module("final_pool", nn.AdaptiveAvgPool2d(1))
    return module


def folded(module: nn.Module) -> nn.Module:
    """A copy whose convolutions contain their batch normalization."""
    from torch.fx.experimental.optimization import fuse

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return fuse(module)


def count_params(module: nn.Module) -> int:
    """Trainable parameters, among them batch normalization's scale and shift, as cost.params counts them."""
    return sum(parameter.numel() for parameter in module.parameters())


def count_macs(module: nn.Module, resolution: int) -> int:
    """Multiply-accumulates of the convolutions and linear layers for one image, from the shapes of a forward pass.

    cost.macs counts the same in closed form; this one watches the network run, on tensors without data.
    """
    import copy

    import torch
    from torch import nn

    found: list[int] = []

    def watch(layer: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        found.append(output.numel() * math.prod(layer.get_parameter("weight").shape[1:]))

    shadow = copy.deepcopy(module).eval().to("meta")
    for layer in shadow.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.register_forward_hook(watch)
    with torch.no_grad():
        shadow(torch.empty(1, 3, resolution, resolution, device="meta"))
    return sum(found)


def onnx_of(foreign: Foreign, resolution: int, batch_size: int, exports: Path) -> bytes:
    """The network as an ONNX file, from the folder ``exports`` or, the first time, by torch's exporter (10 to 30 s)."""
    import torch

    version = torch.__version__.split("+")[0]
    path = exports / f"{foreign.name}-r{resolution}-b{batch_size}-{PACKAGE}{VERSION}-torch{version}.onnx"
    if not path.is_file():
        content = _export(folded(module_of(foreign)), torch.zeros(batch_size, 3, resolution, resolution))
        with atomic_path(path) as temporary:
            temporary.write_bytes(content)
    return read_bytes(path)


def _export(module: nn.Module, images: object) -> bytes:
    import torch

    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)  # its remarks about libraries that are not needed here
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), torch.no_grad():
            warnings.simplefilter("ignore")
            exported = torch.onnx.export(
                module, (images,), dynamo=True, external_data=False, verbose=False, input_names=["images"]
            )
    finally:
        logger.setLevel(level)
    assert exported is not None
    model = exported.model_proto
    for node in model.graph.node:  # the exporter's notes for its own debugging hold paths of this machine
        del node.metadata_props[:]
    return model.SerializeToString()
