"""What a network sees in images, with PyTorch.

    python predict.py photo.jpg --arch efficientnet_lite0
    python predict.py photos/ more.zip --arch runs/mine --csv seen.csv --sheet seen.png
    python predict.py photos/ --arch exported/mine.onnx --json seen.json

Images need no labels. An image that cannot be read is named and left out, and the exit status is then 1.
"""

from __future__ import annotations

from collections.abc import Sequence

from proxyless_arch.apps import evaluation, predict_command
from proxyless_arch.apps.next_commands import after_predict, say_next
from proxyless_arch.base.cli import exit_code


def run(argv: Sequence[str]) -> int:
    arguments = predict_command.parse(argv, "predict.py", __doc__)
    images = predict_command.open_images(arguments)
    if arguments.exported:
        from proxyless_nas.engine import exported_network

        network = exported_network(arguments)
    else:
        network = evaluation.load_network(arguments)

    network = evaluation.oriented(network, arguments, images)

    # imported here, so that a mistake in the command line is answered at once
    from proxyless_nas.data import eval_batches
    from proxyless_nas.engine import start

    forward, device, setup = start(
        arguments,
        network,
        lambda on_cpu: evaluation.reading_workers(arguments, len(images), on_cpu),
    )
    evaluation.announce(network, setup, None, None)
    batches = eval_batches(images, network.spec.preprocessing, batch_size=setup.batch_size, n_workers=setup.workers)
    seen = predict_command.predict_all(
        lambda pixels: forward(pixels.to(device)).float().cpu().numpy(),
        evaluation.Progress(batches, len(images)),
        images,
        network.spec,
        arguments.top,
    )
    status = predict_command.report(arguments, ["predict.py", *argv], network, setup, images, seen, batches.unreadable)
    say_next(after_predict(arguments, "predict.py"))
    return status


def main(argv: Sequence[str] | None = None) -> int:
    return exit_code(run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
