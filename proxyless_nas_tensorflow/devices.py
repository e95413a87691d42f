"""Where a network runs."""

from __future__ import annotations

import tensorflow as tf

from proxyless_arch.errors import InputError
from proxyless_arch.machine import usable_cores
from proxyless_nas_tensorflow._quiet import captured_stderr


def tensorflow_version() -> str:
    return tf.__version__


def pick_device(name: str) -> str:
    """auto: the first GPU, else the CPU. InputError for a device that TensorFlow does not see here.

    Args:
        name: auto, cpu, cuda or cuda:N.

    Returns:
        TensorFlow's name: ``CPU:0`` or ``GPU:N``.
    """
    with captured_stderr():  # TensorFlow looks for CUDA now, and says so
        n_gpus = len(tf.config.list_physical_devices("GPU"))
    if name == "auto":
        return "GPU:0" if n_gpus else "CPU:0"
    kind, _, number = name.partition(":")
    if name != "cpu" and (kind != "cuda" or not (number or "0").isdecimal()):
        raise InputError(f"expected auto, cpu, cuda or cuda:N, got {name!r}", "--device")
    if kind == "cuda" and int(number or 0) >= n_gpus:
        raise InputError(
            f"{name} asked for, but TensorFlow {tf.__version__} sees {n_gpus} GPUs here; use --device cpu", "--device"
        )
    return "CPU:0" if kind == "cpu" else f"GPU:{int(number or 0)}"


def device_name(device: str) -> str:
    """The device for a record: a GPU's model, or the kind and what matters about it."""
    kind, _, number = device.partition(":")
    if kind == "GPU":
        details = tf.config.experimental.get_device_details(tf.config.list_physical_devices("GPU")[int(number)])
        return details.get("device_name", device)
    threads = tf.config.threading.get_intra_op_parallelism_threads() or usable_cores()
    return f"cpu, {threads} threads"


def use_threads(threads: int) -> int:
    """Let TensorFlow run each operation on so many threads; returns how many it uses.

    That is another number in a process that has already run an operation: TensorFlow decides only once.
    """
    try:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(1)
    except RuntimeError:  # it is initialized
        return tf.config.threading.get_intra_op_parallelism_threads() or usable_cores()
    return threads
