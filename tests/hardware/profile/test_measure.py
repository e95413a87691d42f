"""Timing: statistics, clocks, the graphs that are timed, and the runtimes that time them."""

import dataclasses
import math
import time

import numpy as np
import pytest
import torch

from hardware.profile import measure as measuring
from hardware.profile.graphs import INPUT, RandomWeights, to_litert, to_onnx, trace
from hardware.profile.measure import (
    CpuSession,
    LiteRt,
    OnnxRuntime,
    TorchCpu,
    TorchCuda,
    parse_hardware,
    runtime_named,
    torch_module,
)
from proxyless_arch.arch import catalog
from proxyless_arch.arch.ops import Zero
from proxyless_arch.arch.walk import walk
from proxyless_arch.base.errors import InputError
from proxyless_arch.base.timing import measure
from proxyless_nas.inference import fold_bn
from proxyless_nas.network import build
from tests.errors import refused
from tests.search.tiny import tiny_space

PATH = (3, 1, 4, 3)  # with stride 2, skips and a Zero


def network(padding="symmetric"):
    """A network with batch-normalization statistics that matter, and its folded copy's tensors by name."""
    spec = dataclasses.replace(tiny_space().spec_for(PATH), padding=padding)
    net = build(spec, torch.Generator().manual_seed(0)).eval()
    rng = torch.Generator().manual_seed(1)
    for layer in net.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.running_mean.normal_(0, 0.1, generator=rng)
            layer.running_var.uniform_(0.5, 2, generator=rng)
            torch.nn.init.normal_(layer.bias, 0, 0.1, generator=rng)
    tensors = {name: tensor.numpy() for name, tensor in fold_bn(net).state_dict().items()}

    def weights(name, shape):
        assert tensors[name].shape == shape, name
        return tensors[name]

    return spec, net, weights


# The graphs that are timed are the networks -------------------------------------------------------------------------


@pytest.mark.parametrize("resolution", [8, 11])
@pytest.mark.parametrize("padding", ["symmetric", "same"])
def test_the_onnx_file_computes_what_the_torch_network_does(padding, resolution):
    spec, net, weights = network(padding)
    images = torch.randn(2, 3, resolution, resolution, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        expected = net(images).numpy()
    model = to_onnx(trace(walk(spec, resolution), padding), weights, batch_size=2)
    found = OnnxRuntime().load(model).run(None, {INPUT: images.numpy()})[0]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert expected.std() > 0.01


@pytest.mark.parametrize("resolution", [8, 11])
@pytest.mark.parametrize("padding", ["symmetric", "same"])
def test_the_litert_file_computes_what_the_torch_network_does(padding, resolution):
    spec, net, weights = network(padding)
    images = torch.randn(2, 3, resolution, resolution, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        expected = net(images).numpy()
    loaded = LiteRt().load(to_litert(trace(walk(spec, resolution), padding), weights, batch_size=2))
    loaded.set_tensor(loaded.get_input_details()[0]["index"], images.permute(0, 2, 3, 1).contiguous().numpy())
    loaded.invoke()
    np.testing.assert_allclose(loaded.get_tensor(loaded.get_output_details()[0]["index"]), expected, atol=1e-5)


def test_a_single_layer_computes_what_the_torch_layer_does():
    spec, net, weights = network()
    call = walk(spec)[3]
    assert call.skip
    image = torch.randn(1, call.in_hwc[2], *call.in_hwc[:2], generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        expected = net.blocks[2](image).numpy()
    found = OnnxRuntime().load(to_onnx(trace([call]), weights)).run(None, {INPUT: image.numpy()})[0]
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_the_torch_module_of_the_calls_has_the_layers_of_the_network():
    spec = tiny_space().spec_for(PATH)
    calls = walk(spec)
    with torch.inference_mode():
        assert torch_module(calls)(torch.zeros(2, 3, 8, 8)).shape == (2, spec.num_classes)
    convolutions = [m for m in torch_module(calls).modules() if isinstance(m, torch.nn.Conv2d)]
    assert sum(m.weight.numel() for m in convolutions) == sum(
        m.weight.numel() for m in build(spec).modules() if isinstance(m, torch.nn.Conv2d)
    )
    assert all(m.bias is not None for m in convolutions)  # folded


def test_a_whole_network_becomes_a_file_at_once():
    spec, weights = catalog.load("proxyless_mobile"), RandomWeights()
    graph = trace(walk(spec))
    start = time.thread_time()
    to_onnx(graph, weights), to_litert(graph, weights)
    assert time.thread_time() - start < 3


def test_zero_is_nothing_and_shapes_must_follow():
    calls = walk(tiny_space().spec_for(PATH))
    zero = next(call for call in calls if isinstance(call.op, Zero))
    with refused("layers", "at least one layer"):
        trace([zero])
    with refused("feature_mix_layer"):
        trace([calls[0], calls[-2]])


# Clocks -------------------------------------------------------------------------------------------------------------


def test_the_thread_clock_leaves_out_the_time_of_others():
    asleep = CpuSession(lambda: time.sleep(0.02), by_thread=True).times(3)
    assert max(asleep.ms) < 5 < 20 <= min(asleep.other_ms)
    by_wall = CpuSession(lambda: time.sleep(0.02), by_thread=False).times(3)
    assert min(by_wall.ms) >= 20 > 5 > max(by_wall.other_ms)


@pytest.mark.parametrize("runtime", [OnnxRuntime, LiteRt, TorchCpu])
def test_every_runtime_times_layers_and_networks_and_says_what_it_ran_on(runtime):
    device = runtime(1)
    calls = walk(tiny_space().spec_for(PATH))
    for part in (calls, calls[3:4], calls[-1:]):
        found = measure(device.session(part, 2), runs=3, warmup=1, min_ms=0.05)
        assert len(found.ms) == len(found.other_ms) == 3
        assert all(0 < ms < 1000 and math.isfinite(ms) for ms in (*found.ms, *found.other_ms))
    facts = device.facts()
    assert facts["runtime"] == device.name
    assert (facts["threads"], facts["dtype"], facts["clock"]) == (1, "float32", "thread_cpu")
    assert facts["runtime_version"] and facts["device"] and facts["date"] and "governor" in facts
    assert len(facts["load_average"]) == 3


# Bad input ----------------------------------------------------------------------------------------------------------


def test_hardware_names():
    assert parse_hardware("cpu") == ("cpu", 1)
    assert parse_hardware("gpu8") == ("cuda", 8)
    for name in ("gpu", "gpu0", "tpu", "gpu-1", "gpu8x", ""):
        with refused("--target_hardware", "cpu", "gpu8", repr(name)):
            parse_hardware(name)


def test_cuda_asked_for_and_absent(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with refused("--target_hardware", "CUDA", torch.__version__):
        runtime_named(parse_hardware("gpu8"))


@pytest.mark.parametrize(
    ("name", "module"), [("onnxruntime", "onnxruntime"), ("onnxruntime", "onnx"), ("litert", "ai_edge_litert")]
)
def test_a_runtime_that_is_not_installed_names_the_extra(monkeypatch, name, module):
    original = measuring.importlib.import_module

    def without(wanted):
        if wanted.split(".")[0] == module:
            raise ModuleNotFoundError(f"No module named {module!r}", name=module)
        return original(wanted)

    monkeypatch.setattr(measuring.importlib, "import_module", without)
    with refused("--runtime", name, module, "pip install -e '.[export]'"):
        runtime_named(parse_hardware("cpu"), name)


def test_other_wrong_runtimes():
    with refused("--runtime", "'litret'", "'litert'"):
        runtime_named(parse_hardware("cpu"), "litret")
    with refused("--runtime", "torch", "'litert'"):
        runtime_named(parse_hardware("gpu8"), "litert")
    with pytest.raises(InputError, match="--threads: expected 1"):
        runtime_named(parse_hardware("cpu"), "onnxruntime", 0)
    with pytest.raises(InputError, match="--threads: expected 1"):
        runtime_named(parse_hardware("cpu"), "onnxruntime", 10_000)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_replays_a_graph_and_runs_eagerly_beside_it():
    device = TorchCuda()
    calls = walk(tiny_space().spec_for(PATH))
    found = measure(device.session(calls, 8), runs=5)
    assert 0 < np.median(found.ms) < np.median(found.other_ms)


def test_timing_on_torch_leaves_the_threads_of_the_process_alone():
    import torch

    inside = []
    before = torch.get_num_threads()
    session = measuring.TorchSession(lambda: inside.append(torch.get_num_threads()), before + 1)
    session.times(2)
    assert inside == [before + 1] * 2
    assert torch.get_num_threads() == before
