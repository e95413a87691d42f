"""Tree-structured cells: both zoos, their files and the graphs that are timed compute what the released code computes.

The oracle is written down again here, with torch's functions, over tensors that have the names of the release.
"""

import torch  # isort: split

from dataclasses import replace

import numpy as np
import pytest
from torch.nn import functional as F

import proxyless_nas_tensorflow as keras_zoo
import proxyless_nas_tensorflow.export as keras_export
import proxyless_nas_tensorflow.weights as keras_weights
from hardware.profile.graphs import INPUT, to_litert, to_onnx, trace
from hardware.profile.measure import LiteRt, OnnxRuntime, torch_module
from proxyless_arch.arch import catalog
from proxyless_arch.arch.memory import trained
from proxyless_arch.arch.released import to_released
from proxyless_arch.arch.tensors import expected_tensors
from proxyless_arch.arch.walk import walk
from proxyless_arch.weights.wrapping import our_name
from proxyless_nas import zoo
from proxyless_nas.export import load_onnx, write_onnx
from proxyless_nas.inference import fold_bn
from proxyless_nas.network import build
from proxyless_nas.weights import load_weights, save_weights, to_named
from tests.torch_zoo.test_memory import images_of, kept_values
from tests.trees import SPEC

ATOL = 1e-5
IMAGES = np.random.default_rng(0).standard_normal((3, 8, 8, 3), dtype=np.float32)


@pytest.fixture(scope="module")
def net(lively):
    return lively(SPEC).eval()


def torch_logits(net, images=IMAGES):
    with torch.no_grad():
        return net(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()


# -------------------------------------------------------------------------------------- the network, written again


def released_names(spec, names):
    """{name in the released file: ours}, by the config in the released dialect."""
    last = len(spec.blocks) + 1
    ends = {f"classifier.linear.{part}": f"classifier.linear.{part}" for part in ("weight", "bias")}
    ends["blocks.0.layers.0.conv.weight"] = "first_conv.conv.weight"
    for part in ("weight", "bias", "running_mean", "running_var"):
        ends[f"blocks.0.layers.1.bn.{part}"] = f"first_conv.bn.{part}"
        ends[f"blocks.{last}.layers.0.bn.{part}"] = f"feature_mix_layer.bn.{part}"
    for name in names:
        if name.startswith("blocks."):
            _, index, _, rest = name.split(".", 3)
            ends[f"blocks.{int(index) + 1}.{rest}"] = name
    return ends


class Oracle:
    """A released config and tensors by their released names."""

    def __init__(self, config, tensors):
        self.config, self.tensors = config, {name: torch.from_numpy(array) for name, array in tensors.items()}

    def bn(self, x, name):
        parts = [self.tensors[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")]
        return F.batch_norm(x, *parts, eps=1e-5)

    def layer(self, x, layer, name):
        """bn_act_weight."""
        x = self.bn(x, f"{name}.bn") if layer["use_bn"] else x
        x = x.relu() if layer["act_func"] == "relu" else x
        stride, size, dilation = (layer.get(key, 1) for key in ("stride", "kernel_size", "dilation"))
        how = {"stride": stride, "padding": dilation * (size // 2), "dilation": dilation}
        if layer["name"] == "ConvLayer":
            x, groups = F.conv2d(x, self.tensors[f"{name}.conv.weight"], groups=layer["groups"], **how), layer["groups"]
            order = [group * (x.shape[1] // groups) + k for k in range(x.shape[1] // groups) for group in range(groups)]
            return x[:, order]
        if layer["name"] == "DepthConvLayer":
            x = F.conv2d(x, self.tensors[f"{name}.depth_conv.weight"], groups=x.shape[1], **how)
            return F.conv2d(x, self.tensors[f"{name}.point_conv.weight"])
        if layer["name"] == "PoolingLayer":
            border = size // 2 if stride == 1 else 0
            if layer["pool_type"] == "max":
                return F.max_pool2d(x, size, stride, border)
            ones = torch.ones_like(x)
            summed, counted = (F.avg_pool2d(each, size, stride, border) for each in (x, ones))
            return summed / counted
        return x

    def node(self, x, node, name):
        n, outs = len(node["edges"]), []
        width = x.shape[1] // n if node["split_type"] == "split" else x.shape[1]
        for k, (edge, child) in enumerate(zip(node["edges"], node["child_nodes"], strict=True)):
            mine = x[:, k * width : (k + 1) * width] if node["split_type"] == "split" else x
            first = out = self.layer(mine, edge, f"{name}.edges.{k}")
            out = out if child is None else self.node(out, child, f"{name}.child_nodes.{k}")
            outs.append(self.bn(out, f"{name}.branch_bns.{k}") + first if node["has_branch_bn"] else out)
        return torch.cat(outs, 1) if node["merge_type"] == "concat" else sum(outs)

    def __call__(self, x):
        for k, block in enumerate(self.config["blocks"]):
            name = f"blocks.{k}"
            if block["name"] == "TransitionBlock":
                for number, layer in enumerate(block["layers"]):
                    x = self.layer(x, layer, f"{name}.layers.{number}")
                continue
            out = self.layer(x, block["in_bottle"], f"{name}.in_bottle")
            out = self.node(out, block["cell"], f"{name}.cell")
            out = self.bn(self.layer(out, block["out_bottle"], f"{name}.out_bottle"), f"{name}.final_bn")
            x = self.layer(x, block["shortcut"], f"{name}.shortcut")
            out[:, : x.shape[1]] += x
            x = out
        return F.linear(x.flatten(1), *(self.tensors[f"classifier.linear.{part}"] for part in ("weight", "bias")))


def released_tensors(net):
    named = to_named(net)
    return {theirs: named[ours] for theirs, ours in released_names(net.spec, named).items()}


def test_the_network_is_the_released_one(net):
    oracle = Oracle(to_released(net.spec), released_tensors(net))
    wanted = oracle(torch.from_numpy(IMAGES).permute(0, 3, 1, 2)).numpy()
    assert wanted.std() > 0.01
    np.testing.assert_allclose(torch_logits(net), wanted, rtol=0, atol=ATOL)


@pytest.mark.parametrize("wrapper", ["", "module."])
def test_released_names_are_ours(net, tmp_path, wrapper):
    """A .pth as the release has it, with its counters."""
    tensors = released_tensors(net)
    assert {our_name(name) for name in tensors} == expected_tensors(SPEC).keys() and len(tensors) == len(to_named(net))
    assert all(our_name(name) == name for name in expected_tensors(SPEC))
    state = {f"{wrapper}{name}": torch.from_numpy(array) for name, array in tensors.items()}
    counters = {
        name.replace("running_var", "num_batches_tracked"): torch.tensor(1) for name in state if name.endswith("var")
    }
    torch.save({"state_dict": state | counters}, tmp_path / "net.pth")
    for load, named in ((load_weights, to_named), (keras_weights.load_weights, keras_weights.to_named)):
        for name, array in named(load(SPEC, tmp_path / "net.pth")).items():
            np.testing.assert_array_equal(array, to_named(net)[name])


def test_both_zoos_agree_at_every_size(net):
    assert {name: array.shape for name, array in to_named(net).items()} == expected_tensors(SPEC)
    twin = keras_zoo.build(SPEC)
    keras_weights.load_named(twin, SPEC, to_named(net))
    for images in (IMAGES, IMAGES[:, :7, :5]):  # a stride of an odd size among them
        np.testing.assert_allclose(twin(images), torch_logits(net, images), rtol=0, atol=ATOL)
    assert keras_weights.to_named(twin).keys() == to_named(net).keys()


def test_padding_of_tensorflow(lively):
    net = lively(replace(SPEC, padding="same")).eval()
    twin = keras_zoo.build(net.spec, 8)
    keras_weights.load_named(twin, net.spec, to_named(net))
    np.testing.assert_allclose(twin(IMAGES), torch_logits(net), rtol=0, atol=ATOL)


def test_weight_files(net, tmp_path):
    save_weights(tmp_path / "net.safetensors", net, {})
    again = load_weights(SPEC, tmp_path / "net.safetensors")
    assert again.spec == SPEC
    np.testing.assert_array_equal(torch_logits(again.eval()), torch_logits(net))


def test_the_graphs_that_are_timed(net):
    wanted, images, folded = torch_logits(net), IMAGES.transpose(0, 3, 1, 2), fold_bn(net)
    np.testing.assert_allclose(torch_logits(folded), wanted, rtol=0, atol=ATOL)
    graph, weights = trace(walk(SPEC)), folded_weights(folded)
    found = OnnxRuntime().load(to_onnx(graph, weights, 3)).run(None, {INPUT: images})[0]
    np.testing.assert_allclose(found, wanted, rtol=0, atol=ATOL)
    np.testing.assert_allclose(run_litert(to_litert(graph, weights)), wanted[:1], rtol=0, atol=ATOL)
    with torch.no_grad():
        assert torch_module(walk(SPEC))(torch.zeros(1, 3, 8, 8)).shape == (1, 5)


@pytest.mark.slow
def test_exports(net, tmp_path):
    wanted, images = torch_logits(net), IMAGES.transpose(0, 3, 1, 2)
    write_onnx(fold_bn(net), tmp_path / "net.onnx", "{}")
    np.testing.assert_allclose(load_onnx(tmp_path / "net.onnx", 1).forward(images), wanted, rtol=0, atol=ATOL)
    twin = keras_zoo.build(SPEC, 8)
    keras_weights.load_named(twin, SPEC, to_named(net))
    np.testing.assert_allclose(run_litert(keras_export.to_litert(twin)), wanted[:1], rtol=0, atol=ATOL)


def folded_weights(folded):
    """The scale and shift of a batch normalization that is in front of an activation; 0 for a bias that is none."""
    tensors, layers = {name: t.numpy() for name, t in folded.state_dict().items()}, dict(folded.named_modules())

    def weights(name, shape):
        place, _, part = name.rpartition(".")
        layer = layers[place]
        if isinstance(layer, torch.nn.BatchNorm2d):
            scale = layer.weight / torch.sqrt(layer.running_var + layer.eps)
            value = scale if part == "weight" else layer.bias - scale * layer.running_mean
            return value.detach().numpy()
        return tensors[name].reshape(shape) if name in tensors else np.zeros(shape, np.float32)

    return weights


def run_litert(model):
    loaded = LiteRt().load(model)
    loaded.set_tensor(loaded.get_input_details()[0]["index"], IMAGES[:1])
    loaded.invoke()
    return loaded.get_tensor(loaded.get_output_details()[0]["index"])


def test_memory_of_a_training_is_not_underestimated():
    """Two branches may keep the same input, which is counted twice; of a maximum the places are kept beside."""
    net = build(SPEC).train()
    two, three = (kept_values(net, net, images_of(count, 32)) for count in (2, 3))
    counted = sum(trained(call, SPEC.padding).kept for call in walk(SPEC, 32))
    places = sum(
        2 * np.prod(conv.out_hwc)
        for call in walk(SPEC, 32)
        for conv in call.op.convolutions(call.in_hwc)
        if conv.indexed
    )
    assert three - two <= counted - places <= 1.5 * (three - two)


@pytest.mark.slow
def test_the_released_network_is_the_same_in_both(lively):
    spec = catalog.load("proxyless_cifar")
    net = lively(spec).eval()
    images = np.random.default_rng(0).standard_normal((2, 32, 32, 3), dtype=np.float32)
    oracle = Oracle(to_released(spec), released_tensors(net))
    wanted = oracle(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()
    np.testing.assert_allclose(torch_logits(net, images), wanted, rtol=0, atol=1e-4)
    twin = keras_zoo.build(spec, 32)
    keras_weights.load_named(twin, spec, to_named(net))
    np.testing.assert_allclose(twin(images), wanted, rtol=0, atol=1e-4)


def test_a_network_with_pretrained_weights(net, tmp_path, monkeypatch):
    """proxyless_cifar(pretrained=FILE): with the classes of the file, and with others."""
    monkeypatch.setattr(catalog, "load", lambda name: SPEC)
    torch.save({"state_dict": {n: torch.from_numpy(a) for n, a in released_tensors(net).items()}}, tmp_path / "a.pth")
    found = zoo.proxyless_cifar(pretrained=tmp_path / "a.pth").eval()
    np.testing.assert_array_equal(torch_logits(found), torch_logits(net))
    wider = zoo.proxyless_cifar(pretrained=tmp_path / "a.pth", num_classes=7)
    assert wider.classifier.linear.out_features == 7
