"""Score a network on labelled images, with Keras on TensorFlow.

    python eval_tf.py --arch proxyless_mobile --data_path imagenet/
    python eval_tf.py --arch runs/mine --data_path digits
    python eval_tf.py --arch net.json --weights net.pth --data_path photos.zip --save_json scores.json
    python eval_tf.py --tflite exported/proxyless_mobile_int8.tflite --data_path imagenet/

Without --data_path and $IMAGENET_DIR it shows what the network sees in two photos.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from proxyless_arch.apps import evaluation
from proxyless_arch.apps.litert import litert_network, load_litert
from proxyless_arch.arch.spec import ArchSpec
from proxyless_arch.base.cli import exit_code
from proxyless_arch.base.machine import network_threads, tune_allocator
from proxyless_arch.weights.files import NamedTensors


def read_keras(path: Path, spec: ArchSpec) -> NamedTensors:
    from proxyless_nas_tensorflow.weights import load_keras_weights

    return load_keras_weights(path, spec)


def run(argv: Sequence[str]) -> None:
    arguments = evaluation.parse(argv, "eval_tf.py", __doc__, evaluation.TfliteEvalConfig)
    network = litert_network(arguments) if arguments.exported else evaluation.load_network(arguments, read_keras)
    spec = network.spec
    images = evaluation.open_images(arguments.data_path, spec) if arguments.data_path else None

    # imported here, so that a mistake in the command line is answered at once
    from proxyless_nas_tensorflow.data import eval_batches
    from proxyless_nas_tensorflow.devices import (
        THREADS_VARIABLE,
        device_name,
        pick_device,
        tensorflow_version,
        use_threads,
    )
    from proxyless_nas_tensorflow.inference import prepared
    from proxyless_nas_tensorflow.network import build
    from proxyless_nas_tensorflow.steps import evaluate
    from proxyless_nas_tensorflow.weights import load_named

    tune_allocator()
    device = pick_device("cpu" if arguments.exported else arguments.device)
    workers = evaluation.n_workers(arguments, images, device == "CPU:0") if images else 0
    threads = arguments.threads or network_threads(workers, THREADS_VARIABLE, "OMP_NUM_THREADS")
    if arguments.exported:
        forward, framework, version = load_litert(arguments.exported, threads)
        described = f"cpu, {threads} threads"
    else:
        if device == "CPU:0":
            use_threads(threads)
        net = build(spec, spec.resolution)
        load_named(net, spec, network.tensors, network.weights)
        forward, framework, version = prepared(net, device, arguments.precision), "tensorflow", tensorflow_version()
        described = device_name(device)
    setup = evaluation.Setup(
        framework=framework,
        framework_version=version,
        device=described,
        precision="as exported" if arguments.exported else arguments.precision,
        batch_size=arguments.batch_size,
        workers=workers,
    )
    evaluation.announce(network, setup, images, arguments.data_path)
    command = ["eval_tf.py", *argv]
    if images is None:
        photos = evaluation.photos(spec.preprocessing)
        evaluation.demonstrate(arguments, command, network, setup, np.asarray(forward(photos)))
        return
    forward(np.zeros((1, spec.resolution, spec.resolution, 3), np.float32))  # what happens only once is not timed
    batches = eval_batches(
        images,
        spec.preprocessing,
        batch_size=setup.batch_size,
        n_workers=workers,
        limit=arguments.limit,
        strict=arguments.strict_data,
    )
    progress = evaluation.Progress(batches, evaluation.n_images(arguments, images))
    result = evaluate(forward, progress)
    evaluation.report(arguments, command, network, setup, images, result, progress, batches.unreadable)


def main(argv: Sequence[str] | None = None) -> int:
    return exit_code(run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
