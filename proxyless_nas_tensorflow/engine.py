"""A network as a command runs it: what the flags mean, and a forward pass on a device. The twin has it for PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from proxyless_arch.apps.evaluation import Network, RunConfig, Setup, check_exact, plan_memory, precision_of
from proxyless_arch.apps.memory import Free
from proxyless_arch.base import memory
from proxyless_arch.base.machine import network_threads, tune_allocator
from proxyless_arch.exports.litert import load_litert
from proxyless_nas_tensorflow.devices import (
    THREADS_VARIABLE,
    device_name,
    pick_device,
    tensorflow_version,
    use_threads,
)
from proxyless_nas_tensorflow.inference import prepared
from proxyless_nas_tensorflow.network import build
from proxyless_nas_tensorflow.quantized import exact_forward
from proxyless_nas_tensorflow.weights import load_named


class Engine(NamedTuple):
    """``forward``: (N, H, W, 3) float32 images -> (N, classes) logits; ``setup`` is for the record."""

    forward: Callable[[np.ndarray | tf.Tensor], Any]
    device: str
    setup: Setup


def start(arguments: RunConfig, network: Network, workers_of: Callable[[bool], int]) -> Engine:
    """Put a network where the flags say. Raises InputError for a device that is not here, or a batch that does not fit.

    ``workers_of``: how many threads read images, by whether the network runs on the CPU.
    """
    tune_allocator()
    device = pick_device("cpu" if arguments.exported else arguments.device)
    workers = workers_of(device == "CPU:0")
    free = Free(memory.free_memory(), has_gpu=device.startswith("GPU"))  # how much a GPU has, TensorFlow does not tell
    plan = plan_memory(arguments, network, workers, free, are_processes=False)
    threads = arguments.threads or network_threads(workers, THREADS_VARIABLE, "OMP_NUM_THREADS")
    if arguments.exported:
        forward, framework, version = load_litert(arguments.exported, threads)
        described = f"cpu, {threads} threads"
    else:
        if device == "CPU:0":
            use_threads(threads)
        forward, framework, version = _forward(arguments, network, device), "tensorflow", tensorflow_version()
        described = device_name(device)
    setup = Setup(
        framework=framework,
        framework_version=version,
        device=described,
        precision=precision_of(arguments, network),
        batch_size=plan.images,
        workers=workers,
        memory=plan,
    )
    return Engine(forward, device, setup)


def _forward(arguments: RunConfig, network: Network, device: str) -> Callable[[np.ndarray | tf.Tensor], tf.Tensor]:
    """Of the network in the precision asked for, or under its plan."""
    spec = network.spec
    if network.bits is not None:
        check_exact(arguments)
        with tf.device(device):
            return exact_forward(spec, network.tensors, network.bits)
    net = build(spec, spec.resolution)
    load_named(net, spec, network.tensors, network.weights)
    return prepared(net, device, arguments.precision)
