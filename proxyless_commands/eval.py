"""Score a network on labelled images, with PyTorch.

    python eval.py --arch proxyless_mobile --data_path imagenet/
    python eval.py --arch runs/mine --data_path digits
    python eval.py --arch net.json --weights net.pth --data_path photos.zip --save_json scores.json
    python eval.py --onnx exported/proxyless_mobile.onnx --data_path imagenet/

Without --data_path and $IMAGENET_DIR it shows what the network sees in two photos.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from proxyless_arch.apps import evaluation
from proxyless_arch.base.cli import exit_code
from proxyless_arch.base.machine import busy_note, network_threads, tune_allocator


def run(argv: Sequence[str]) -> None:
    arguments = evaluation.parse(argv, "eval.py", __doc__, evaluation.OnnxEvalConfig)
    if arguments.exported:
        from proxyless_nas.export import onnx_network

        network = onnx_network(arguments)
    else:
        network = evaluation.load_network(arguments)
    spec = network.spec
    images = evaluation.open_images(arguments.data_path, spec) if arguments.data_path else None

    # imported here, so that a mistake in the command line is answered at once
    import torch

    from proxyless_nas.data import eval_batches
    from proxyless_nas.devices import device_name, pick_device
    from proxyless_nas.export import load_onnx, on_tensors
    from proxyless_nas.inference import prepared
    from proxyless_nas.network import build
    from proxyless_nas.steps import evaluate
    from proxyless_nas.weights import load_named

    tune_allocator()
    device = pick_device("cpu" if arguments.exported else arguments.device)
    workers = evaluation.n_workers(arguments, images, device.type == "cpu") if images else 0
    threads = arguments.threads or network_threads(workers, "OMP_NUM_THREADS")
    torch.set_num_threads(threads)
    if device.type == "cpu" and (busy := busy_note(threads, "add --threads 1")):
        print(busy, file=sys.stderr)
    if arguments.exported:
        loaded = load_onnx(arguments.exported, threads)
        forward, framework, version = on_tensors(loaded), loaded.runtime, loaded.version
    else:
        net = build(spec)
        load_named(net, spec, network.tensors, network.weights)
        forward, framework, version = prepared(net, device, arguments.precision), "torch", torch.__version__
    setup = evaluation.Setup(
        framework=framework,
        framework_version=version,
        device=device_name(device),
        precision="as exported" if arguments.exported else arguments.precision,
        batch_size=arguments.batch_size,
        workers=workers,
    )
    evaluation.announce(network, setup, images, arguments.data_path)
    command = ["eval.py", *argv]
    if images is None:
        photos = torch.from_numpy(evaluation.photos(spec.preprocessing)).permute(0, 3, 1, 2)
        evaluation.demonstrate(arguments, command, network, setup, forward(photos).cpu().numpy())
        return
    forward(torch.zeros(1, 3, spec.resolution, spec.resolution))  # what happens only once is not timed
    batches = eval_batches(
        images,
        spec.preprocessing,
        batch_size=setup.batch_size,
        n_workers=workers,
        limit=arguments.limit,
        strict=arguments.strict_data,
    )
    progress = evaluation.Progress(batches, evaluation.n_images(arguments, images))
    result = evaluate(forward, progress, device)
    evaluation.report(arguments, command, network, setup, images, result, progress, batches.unreadable)


def main(argv: Sequence[str] | None = None) -> int:
    return exit_code(run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
