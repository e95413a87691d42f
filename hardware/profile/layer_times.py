"""How long a layer takes in float32 and in int8, on a runtime of this machine: what a bit plan is chosen by.

A layer is a file of its own, one convolution or matrix product. An int8 layer takes int8 in and gives int8: changing
from float to int8 between two layers is not in these times, and is seen when the exported file is timed. Times are
those of the thread on its core where the runtime has one thread (see measure.py).
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from hardware.profile.graphs import INPUT, Convolution, Graph, MatrixProduct, RandomWeights, to_litert, to_onnx
from hardware.profile.measure import CpuSession, LiteRt, OnnxRuntime, Runtime, parse_hardware, runtime_named
from proxyless_arch.arch.bits import BitLayer
from proxyless_arch.base.errors import InputError
from proxyless_arch.base.strict import judged_at
from proxyless_arch.base.timing import measure

Times = dict[tuple[str, bool], float]
"""ms by (layer, whether it is int8)."""
RUNS = 20


def layer_graph(layer: BitLayer) -> Graph:
    """The layer alone, batch normalization folded."""
    conv = layer.conv
    if len(layer.shape) == 2:
        flat = MatrixProduct(name="layer", inputs=(0,), out_hwc=conv.out_hwc, in_features=layer.shape[1])
        return Graph(conv.in_hwc, (flat,))
    kernel = conv.kernel_size
    node = Convolution(
        name="layer",
        inputs=(0,),
        out_hwc=conv.out_hwc,
        in_hwc=conv.in_hwc,
        kernel=kernel,
        stride=-(-conv.in_hwc[0] // conv.out_hwc[0]),
        groups=layer.shape[0] if layer.is_depthwise else 1,
        pads=(kernel // 2, kernel // 2),
        relu6=conv.activated,
    )
    return Graph(conv.in_hwc, (node,))


def time_layers(layers: Sequence[BitLayer], runtime: str, threads: int, tell: Callable[[str], Any]) -> Times:
    """ms of each layer in float32 and in int8; equal layers are timed once.

    Raises InputError for a runtime that is not installed, or has no int8 files here.
    """
    with judged_at("", {"--runtime": "--hardware", "--threads": "--latency_threads"}):
        on = runtime_named(parse_hardware("cpu"), runtime, threads)
    known: dict[tuple[Graph, bool], float] = {}
    found: Times = {}
    for number, layer in enumerate(layers, start=1):
        graph = layer_graph(layer)
        for integer in (False, True):
            if (graph, integer) not in known:
                known[graph, integer] = statistics.median(measure(session_of(on, graph, integer), runs=RUNS).ms)
            found[layer.name, integer] = known[graph, integer]
        if number % 10 == 0 or number == len(layers):
            tell(f"  {number} of {len(layers)} layers timed in float32 and int8")
    return found


def session_of(runtime: Runtime, graph: Graph, integer: bool) -> CpuSession:
    """The graph ready to run on random values."""
    weights, is_flat = RandomWeights(), graph.nodes[0].takes_flat
    height, width, channels = graph.in_hwc
    match runtime:
        case LiteRt():
            loaded = runtime.load(to_litert(graph, weights, integer=integer))
            given = loaded.get_input_details()[0]
            loaded.set_tensor(given["index"], _values(weights, tuple(given["shape"]), integer))
            return CpuSession(loaded.invoke, runtime.threads == 1)
        case OnnxRuntime():
            session = runtime.load(to_onnx(graph, weights, integer=integer))
            shape = (1, channels) if is_flat else (1, channels, height, width)
            images = {INPUT: _values(weights, shape, integer)}
            return CpuSession(lambda: session.run(None, images), runtime.threads == 1)
        case _:
            raise InputError(f"{runtime.name} runs no int8 layers here: expected litert or onnxruntime", "--hardware")


def _values(weights: RandomWeights, shape: tuple[int, ...], integer: bool) -> np.ndarray:
    values = weights.normal(shape)
    return np.clip(np.rint(20 * values), -128, 127).astype(np.int8) if integer else np.ascontiguousarray(values)
