"""What a new operation takes: one class, one torch layer, one Keras layer, one graph lowering.

All four are in this file, and everything works with the operation: the supernet, costs and projection, JSON, both zoos
and their weight files, exports, pruning, drawings and the report.
"""

import torch  # isort: split

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest
from keras import layers as keras_layers
from torch.nn import functional as F

import proxyless_nas_tensorflow as keras_zoo
import proxyless_nas_tensorflow.export as keras_export
import proxyless_nas_tensorflow.weights as keras_weights
from compress.pruning.choices import price_groups
from compress.pruning.pruner import Pruner
from compress.pruning.statistics import collect
from hardware.cost import MACS, latency_price, price_space
from hardware.latency import load_latency_source
from hardware.profile.graphs import INPUT, LOWERINGS, Node, to_litert, to_onnx, trace
from hardware.profile.measure import LiteRt, OnnxRuntime, torch_module
from hardware.profile.profiling import unique_ops
from hardware.projection import project, window
from hardware.table import LookupTable, Timing
from proxyless_arch.arch.codec import parse_spec, spec_to_json
from proxyless_arch.arch.draw import draw_architectures
from proxyless_arch.arch.ops import (
    BLOCK_OPERATIONS,
    ConvCall,
    Drawing,
    Operation,
    Shrinkable,
    check_width,
    conv_bn_tensors,
)
from proxyless_arch.arch.shrink import Shrunk
from proxyless_arch.arch.spec import Block, Preprocessing
from proxyless_arch.arch.tables import describe
from proxyless_arch.arch.tensors import expected_tensors
from proxyless_arch.arch.walk import total_macs, walk
from proxyless_arch.base.errors import InputError
from proxyless_arch.space.search_space import Edge, SearchSpace, read_space
from proxyless_arch.space.shrinking import Freedom, groups_of
from proxyless_nas import layers as torch_layers
from proxyless_nas.export import load_onnx, write_onnx
from proxyless_nas.inference import fold_bn
from proxyless_nas.network import build
from proxyless_nas.weights import load_named, load_weights, save_weights, to_named
from proxyless_nas_tensorflow import layers as keras_builders
from search import SearchConfig, run_search
from search.algorithm.controllers import step_rng
from search.algorithm.derive import inherit
from search.algorithm.gates import sample
from search.reporting.report_page import report
from search.reporting.run_folder import read_run
from tests.compress.nets import batches, images, trained
from tests.compress.specs import SPEC
from tests.errors import refused
from tests.search.algorithm.test_gates import dense_gradients
from tests.search.made_run import write_run
from tests.search.tiny import all_paths, random_alphas, sizes_of, tiny_batch, tiny_space, tiny_supernet


@dataclass(frozen=True, kw_only=True)
class Pooled(Operation):
    """The mean of 3x3 pixels inside the image, then a 1x1 convolution with batch normalization; keeps the size."""

    kind: ClassVar[str] = "pooled"

    channels: int

    def __post_init__(self):
        check_width("channels", self.channels)

    @property
    def in_channels(self):
        return self.channels

    @property
    def out_channels(self):
        return self.channels

    @property
    def label(self):
        return "pool 3x3"

    @property
    def drawing(self):
        return Drawing(self.label, kernel=3)

    def macs(self, in_hwc):
        return in_hwc[0] * in_hwc[1] * self.channels**2

    def convolutions(self, in_hwc):
        yield ConvCall(in_hwc, in_hwc, 1, activated=False)

    def tensors(self, prefix):
        yield from conv_bn_tensors(f"{prefix}.mix", (self.channels, self.channels, 1, 1))


class PooledLayer(torch.nn.Module):
    def __init__(self, op, bn, padding):
        super().__init__()
        self.mix = torch_layers.ConvBN(op.channels, op.channels, 1, 1, bn, padding, act=False)

    def forward(self, x):
        return self.mix(F.avg_pool2d(x, 3, 1, 1, count_include_pad=False))


def pooled_layer(x, name, op, bn, padding, seed):
    x = keras_layers.AveragePooling2D(3, strides=1, padding="same", name=f"{name}.pool")(x)
    return keras_builders.conv_bn(x, f"{name}.mix", op.channels, 1, 1, bn, padding, seed, act=False)


class Pool(Node):
    def to_onnx(self, file, inputs, output):
        file.operator("AveragePool", inputs, output, self.name, kernel_shape=[3, 3], pads=[1] * 4)

    def to_litert(self, file, inputs, output):
        same, none = file.schema.Padding.SAME, file.activation(False)
        sizes = {"strideW": 1, "strideH": 1, "filterWidth": 3, "filterHeight": 3}
        file.operator(
            "AVERAGE_POOL_2D", inputs, output, "Pool2DOptions", padding=same, fusedActivationFunction=none, **sizes
        )


def lower_pooled(trace, name, op):
    trace.nodes.append(Pool(name=f"{name}.pool", inputs=trace.last, out_hwc=trace.hwc))
    trace.conv(f"{name}.mix.conv", op.channels, relu6=False)


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setitem(BLOCK_OPERATIONS, Pooled.kind, Pooled)
    monkeypatch.setitem(torch_layers.BUILDERS, Pooled, PooledLayer)
    monkeypatch.setitem(keras_builders.BUILDERS, Pooled, pooled_layer)
    monkeypatch.setitem(LOWERINGS, Pooled, lower_pooled)


# ------------------------------------------------------------------------------------------------------ all of it

POOLED = 5  # the choice, in the edges that have it
PATH = (1, POOLED, 4, 2)  # a stride, the new operation, a Zero


def pooled_space():
    """tiny_space with the new operation as the last choice of every edge with a skip."""
    space = tiny_space()
    blocks = [
        replace(block, ops=(*block.ops, Pooled(channels=block.out_channels)))
        if isinstance(block, Edge) and block.skip
        else block
        for block in space.blocks
    ]
    return replace(space, blocks=tuple(blocks))


def test_json():
    space = pooled_space()
    assert SearchSpace.from_json(space.to_json()) == space
    spec = space.spec_for(PATH)
    assert parse_spec(spec_to_json(spec), "net.json") == spec
    assert space.path_of(spec) == PATH
    with pytest.raises(InputError, match=r"^blocks\[2\]\.channels: expected 8 "):
        parse_spec(spec_to_json(spec).replace('"op": "pooled", "channels": 8', '"op": "pooled", "channels": 9'), "x")


@pytest.mark.parametrize("mode", ["full_v2", *(pytest.param(mode, marks=pytest.mark.slow) for mode in ("full", "two"))])
def test_the_supernet_learns_about_it(mode):
    space = pooled_space()
    supernet, alphas = tiny_supernet(space).eval(), random_alphas(sizes_of(space))
    images, labels = tiny_batch()
    seen = set()
    for step in range(20):
        path, gates = sample(alphas, step_rng(0, 1, step), mode)
        seen.add(path[1])
        loss = F.cross_entropy(supernet(images, path, gates), labels)
        found = torch.autograd.grad(loss, alphas)
        wanted, _ = dense_gradients(supernet, images, labels, alphas, path, gates, 1.0)
        for own, dense in zip(found, wanted, strict=True):
            torch.testing.assert_close(own, dense, rtol=1e-9, atol=1e-12)
    assert POOLED in seen
    with torch.no_grad():
        net = inherit(supernet.float(), space, PATH).eval()
        images = images.float()
        torch.testing.assert_close(net(images), supernet(images, PATH), rtol=1e-5, atol=1e-5)


def test_a_search_of_a_space_with_it(tmp_path):
    """By the library, from a space to a run folder, and on from there."""
    space = replace(pooled_space(), num_classes=10, preprocessing=Preprocessing(resolution=8, resize=8))
    settings = {
        "valid_size": 1300, "train_batch_size": 64, "resolution": 8, "warmup_epochs": 0, "n_epochs": 1,
        "recalibration_images": 64, "torch_threads": 1, "device": "cpu", "target_hardware": "flops", "window": 0.9,
    }  # fmt: skip
    config = SearchConfig.of(**settings)
    result = run_search(config, tmp_path / "run", space=space, say=None)
    assert read_space(tmp_path / "run" / "space.json") == space and space.path_of(result.spec) == result.choices
    (tmp_path / "run" / "result.json").unlink()
    assert run_search(config, tmp_path / "run", resume=True, say=None).spec == result.spec
    with refused("space", 10, 7):
        run_search(config, tmp_path / "other", space=replace(space, num_classes=7), say=None)


def test_costs_and_projection():
    space = pooled_space()
    counted = price_space(space, MACS)
    assert counted.of_path(PATH) == total_macs(space.spec_for(PATH))
    entries = {key: Timing(1 + index / 7) for index, key in enumerate(unique_ops(space))}
    made = LookupTable(source="made", entries=entries)
    timed = price_space(space, latency_price(made))
    for path in all_paths(space)[::13]:
        costs = [made.price_ms(call) for call in walk(space.spec_for(path))]
        assert timed.of_path(path) == pytest.approx(sum(costs), rel=1e-12)
    odds = [alpha.detach().log_softmax(0).numpy() for alpha in random_alphas(sizes_of(space))]
    goal = timed.of_path(PATH)
    inside = [path for path in all_paths(space) if 0.99 * goal <= timed.of_path(path) <= goal]
    best = max(sum(row[choice] for row, choice in zip(odds, path, strict=True)) for path in inside)
    chosen = project(odds, [window(timed, goal)]).path
    assert chosen in inside
    assert sum(row[choice] for row, choice in zip(odds, chosen, strict=True)) == pytest.approx(best)


def test_a_table_file(tmp_path):
    entries = {key: Timing(1 + index / 7) for index, key in enumerate(unique_ops(pooled_space()))}
    assert Pooled.kind in {key.op for key in entries}
    LookupTable(source="made", entries=entries).save(tmp_path / "table.json")
    assert load_latency_source(tmp_path / "table.json").entries == entries


@pytest.fixture
def nets(lively):
    """The torch network and its Keras twin, with the same tensors."""
    net = lively(pooled_space().spec_for(PATH)).eval()
    twin = keras_zoo.build(net.spec, 8)
    keras_weights.load_named(twin, net.spec, to_named(net))
    return net, twin


IMAGES = np.random.default_rng(0).standard_normal((1, 8, 8, 3), dtype=np.float32)


def torch_logits(net):
    with torch.no_grad():
        return net(torch.from_numpy(IMAGES).permute(0, 3, 1, 2)).numpy()


def test_both_zoos_agree(nets):
    net, twin = nets
    wanted = torch_logits(net)
    assert wanted.std() > 0.01
    np.testing.assert_allclose(twin(IMAGES), wanted, rtol=0, atol=1e-5)
    assert {name: array.shape for name, array in to_named(net).items()} == expected_tensors(net.spec)


def test_weight_files(nets, tmp_path):
    net, _ = nets
    save_weights(tmp_path / "net.safetensors", net, {"created": "now"})
    for load, named in ((load_weights, to_named), (keras_weights.load_weights, keras_weights.to_named)):
        again = load(net.spec, tmp_path / "net.safetensors")
        assert again.spec == net.spec
        for name, array in named(again).items():
            np.testing.assert_array_equal(array, to_named(net)[name])


def test_exports(nets, tmp_path):
    net, twin = nets
    wanted = torch_logits(net)
    write_onnx(fold_bn(net), tmp_path / "net.onnx", "{}")
    images = IMAGES.transpose(0, 3, 1, 2)
    np.testing.assert_allclose(load_onnx(tmp_path / "net.onnx", 1).forward(images), wanted, rtol=0, atol=1e-5)
    np.testing.assert_allclose(run_litert(keras_export.to_litert(twin)), wanted, rtol=0, atol=1e-5)


def test_graphs_that_are_timed(nets):
    net, _ = nets
    wanted = torch_logits(net)
    tensors = {name: tensor.numpy() for name, tensor in fold_bn(net).state_dict().items()}
    graph = trace(walk(net.spec))
    model = to_onnx(graph, lambda name, shape: tensors[name].reshape(shape))
    found = OnnxRuntime().load(model).run(None, {INPUT: IMAGES.transpose(0, 3, 1, 2)})[0]
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5)
    np.testing.assert_allclose(
        run_litert(to_litert(graph, lambda name, shape: tensors[name])), wanted, rtol=0, atol=1e-5
    )
    with torch.no_grad():
        assert torch_module(walk(net.spec))(torch.zeros(1, 3, 8, 8)).shape == wanted.shape


def run_litert(model):
    loaded = LiteRt().load(model)
    loaded.set_tensor(loaded.get_input_details()[0]["index"], IMAGES)
    loaded.invoke()
    return loaded.get_tensor(loaded.get_output_details()[0]["index"])


@dataclass(frozen=True, kw_only=True)
class Squeezed(Pooled):
    """A hidden layer in place of the pool, a 1x1 convolution with ReLU6, which may become narrower."""

    kind: ClassVar[str] = "squeezed"

    hidden: int

    @property
    def shrinkable(self):
        return Shrinkable(self.hidden, False, 1, hidden_layer="squeeze", layer_behind="mix")

    def shrunk(self, *, into=None, hidden=None, out=None, kernel=None):
        return replace(self, hidden=hidden or self.hidden)

    @property
    def channel_axes(self):
        return {"squeeze": ("hidden", "in"), "mix": ("out", "hidden")}

    def macs(self, in_hwc):
        return 2 * in_hwc[0] * in_hwc[1] * self.channels * self.hidden

    def tensors(self, prefix):
        yield from conv_bn_tensors(f"{prefix}.squeeze", (self.hidden, self.channels, 1, 1))
        yield from conv_bn_tensors(f"{prefix}.mix", (self.channels, self.hidden, 1, 1))


class SqueezedLayer(torch.nn.Module):
    def __init__(self, op, bn, padding):
        super().__init__()
        self.squeeze = torch_layers.ConvBN(op.channels, op.hidden, 1, 1, bn, padding)
        self.mix = torch_layers.ConvBN(op.hidden, op.channels, 1, 1, bn, padding, act=False)

    def forward(self, x):
        return self.mix(self.squeeze(x))


@pytest.fixture
def pruned_ones(monkeypatch):
    """A trained network whose third block has the new operation and whose fourth is Squeezed, and how it is pruned."""
    monkeypatch.setitem(BLOCK_OPERATIONS, Squeezed.kind, Squeezed)
    monkeypatch.setitem(torch_layers.BUILDERS, Squeezed, SqueezedLayer)
    blocks = list(SPEC.blocks)
    blocks[2] = Block(op=Pooled(channels=6), skip=True)
    blocks[3] = Block(op=Squeezed(channels=6, hidden=8), skip=True)
    net = trained(replace(SPEC, blocks=tuple(blocks)))
    groups = groups_of(net.spec, Freedom(multiple=2, most=5))
    statistics = collect(net, batches(), groups, torch.device("cpu"), 0)
    return net, groups, Pruner(net.spec, to_named(net), statistics, reconstructs=False)


def test_pruning_leaves_it_out_or_makes_it_narrower(pruned_ones):
    net, groups, pruner = pruned_ones
    assert {group.layers: group.block for group in groups if not group.axes} == {("blocks.2",): 2}
    (group,) = (each for each in groups if each.layers == ("blocks.3",))
    assert [(axis.name, axis.options) for axis in group.axes] == [("blocks.3", (2, 4, 6, 8))]
    change = Shrunk(widths={"blocks.3": 4}, left_out=frozenset({2}))
    spec, tensors = pruner.pruned(change)
    assert (spec.blocks[2].op.vanishes, spec.blocks[3].op.hidden) == (True, 4)
    taken = (Shrunk(widths={"blocks.3": 4}), Shrunk(left_out=frozenset({2})))
    path = [next((n for n, each in enumerate(group.choices) if each in taken), group.whole) for group in groups]
    assert price_groups(net.spec, groups, MACS).of_path(tuple(path)) == total_macs(spec)
    small = build(spec)
    load_named(small, spec, tensors)
    with torch.no_grad():
        gone = np.setdiff1d(np.arange(8), pruner.kept("blocks.3", 4))
        bn = net.get_submodule("blocks.3.mobile_inverted_conv.squeeze.bn")
        bn.weight[gone] = bn.bias[gone] = 0.0
        net.get_submodule("blocks.2.mobile_inverted_conv.mix.bn").weight[:] = 0.0
        net.get_submodule("blocks.2.mobile_inverted_conv.mix.bn").bias[:] = 0.0
        torch.testing.assert_close(small.eval()(images(4)), net(images(4)), rtol=1e-5, atol=1e-5)


def test_pruning_fits_the_layer_behind_it_anew(pruned_ones):
    *_, pruner = pruned_ones
    name, change = "blocks.3.mobile_inverted_conv.mix.conv.weight", Shrunk(widths={"blocks.3": 4})
    spec, tensors = replace(pruner, reconstructs=True).pruned(change)
    assert {name: tensor.shape for name, tensor in tensors.items()} == expected_tensors(spec)
    assert not np.allclose(tensors[name], pruner.pruned(change)[1][name])
    assert pruner.layer_error("blocks.3", 4) <= pruner.layer_error("blocks.3", 4, sliced=True)


def test_tables_pictures_and_the_report(tmp_path):
    space = pooled_space()
    spec = space.spec_for(PATH)
    assert "blocks.2           pool 3x3" in describe(spec)
    draw_architectures([("mine", spec, None)], tmp_path / "net.svg")
    assert "pool 3×3" in (tmp_path / "net.svg").read_text()
    write_run(tmp_path / "run", hardware="flops", space=space, path=PATH)
    run = read_run(tmp_path / "run")
    assert run.table is not None and run.space == space
    page = report(run)
    assert "pool 3×3" in page and "blocks.2: pool 3×3" in page
