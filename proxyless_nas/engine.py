"""A network as a command runs it: what the flags mean, and a forward pass on a device. The twin has it for Keras."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from proxyless_arch.apps.evaluation import Network, RunConfig, Setup, check_exact, plan_memory, precision_of
from proxyless_arch.base.machine import busy_note, network_threads, tune_allocator
from proxyless_arch.exports.exported_network import litert_network, onnx_network
from proxyless_arch.exports.onnx_file import load_onnx
from proxyless_nas.devices import device_name, pick_device
from proxyless_nas.distributed import least_free
from proxyless_nas.export import load_litert_torch, on_tensors
from proxyless_nas.inference import prepared
from proxyless_nas.network import build
from proxyless_nas.quantized import build_quantized, exact_forward
from proxyless_nas.weights import load_named


class Engine(NamedTuple):
    """``forward``: (N, 3, H, W) float32 images -> (N, classes) logits, on ``device``; ``setup`` is for the record."""

    forward: Callable[[Tensor], Tensor]
    device: torch.device
    setup: Setup


def _is_litert(exported: Path) -> bool:
    return exported.suffix.lower() == ".tflite"


def exported_network(arguments: RunConfig) -> Network:
    """The network in an ONNX or a LiteRT file. Raises InputError for a bad file, or one without our metadata."""
    assert arguments.exported is not None
    return (litert_network if _is_litert(arguments.exported) else onnx_network)(arguments)


def start(arguments: RunConfig, network: Network, workers_of: Callable[[bool], int]) -> Engine:
    """Put a network where the flags say. Raises InputError for a device that is not here, or a batch that does not fit.

    ``workers_of``: how many processes read images, by whether the network runs on the CPU.
    """
    tune_allocator()
    device = pick_device("cpu" if arguments.exported else arguments.device)
    workers = workers_of(device.type == "cpu")
    plan = plan_memory(arguments, network, workers, least_free(device))
    threads = arguments.threads or network_threads(workers, "OMP_NUM_THREADS")
    torch.set_num_threads(threads)
    if device.type == "cpu" and (busy := busy_note(threads, "add --threads 1")):
        print(busy, file=sys.stderr)
    if arguments.exported:
        load = load_litert_torch if _is_litert(arguments.exported) else load_onnx
        loaded = load(arguments.exported, threads)
        forward, framework, version = on_tensors(loaded), loaded.runtime, loaded.version
    else:
        forward, framework, version = _forward(arguments, network, device), "torch", torch.__version__
    setup = Setup(
        framework=framework,
        framework_version=version,
        device=device_name(device),
        precision=precision_of(arguments, network),
        batch_size=plan.images,
        workers=workers,
        memory=plan,
    )
    return Engine(forward, device, setup)


def _forward(arguments: RunConfig, network: Network, device: torch.device) -> Callable[[Tensor], Tensor]:
    """Of the network in the precision asked for, or under its plan."""
    if network.bits is not None:
        check_exact(arguments)
        return exact_forward(build_quantized(network.spec, network.tensors, network.bits), device)
    net = build(network.spec)
    load_named(net, network.spec, network.tensors, network.weights)
    return prepared(net, device, arguments.precision)
