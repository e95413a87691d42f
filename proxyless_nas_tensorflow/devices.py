"""Where a network runs."""

from __future__ import annotations

import tensorflow as tf

from proxyless_arch.base.machine import absent_device, network_threads, parse_device, threads_text
from proxyless_arch.base.quiet import captured_stderr

THREADS_VARIABLE = "TF_NUM_INTRAOP_THREADS"
"""The environment variable that TensorFlow itself reads when it starts."""


def tensorflow_version() -> str:
    return tf.__version__


def pick_device(name: str) -> str:
    """auto: the first GPU, else the CPU. InputError for a device that TensorFlow does not see here.

    Args:
        name: auto, cpu, cuda or cuda:N; mps is known, and never there.

    Returns:
        TensorFlow's name: ``CPU:0`` or ``GPU:N``.
    """
    kind, number = parse_device(name)
    with captured_stderr():  # TensorFlow looks for CUDA now, and says so
        counts = {"cpu": 1, "cuda": len(tf.config.list_physical_devices("GPU")), "mps": 0}
    if kind == "auto":
        kind = next(kind for kind in ("cuda", "cpu") if counts[kind])
    if (number or 0) >= counts[kind]:
        raise absent_device(name, f"TensorFlow {tf.__version__}", counts[kind])
    return "CPU:0" if kind == "cpu" else f"GPU:{number or 0}"


def device_name(device: str) -> str:
    """The device for a record: a GPU's model, or the kind and what matters about it."""
    kind, _, number = device.partition(":")
    if kind == "GPU":
        details = tf.config.experimental.get_device_details(tf.config.list_physical_devices("GPU")[int(number)])
        return details.get("device_name", device)
    return f"cpu, {threads_text(_threads())}"


def _threads() -> int:
    """Threads that one operation runs on: as configured, else as TensorFlow decides when it starts."""
    return tf.config.threading.get_intra_op_parallelism_threads() or network_threads(0, THREADS_VARIABLE)


def use_threads(threads: int) -> int:
    """Let TensorFlow run each operation on so many threads; returns how many it uses.

    That is another number in a process that has already run an operation: TensorFlow decides only once.
    """
    try:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(1)
    except RuntimeError:  # it is initialized
        return _threads()
    return threads
