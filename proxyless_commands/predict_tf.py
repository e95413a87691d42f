"""What a network sees in images, with Keras on TensorFlow.

    python predict_tf.py photo.jpg --arch efficientnet_lite0
    python predict_tf.py photos/ more.zip --arch runs/mine --csv seen.csv --sheet seen.png
    python predict_tf.py photos/ --arch exported/mine_int8.tflite --json seen.json

Images need no labels. An image that cannot be read is named and left out, and the exit status is then 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from proxyless_arch.apps import evaluation, predict_command
from proxyless_arch.apps.next_commands import after_predict, say_next
from proxyless_arch.base.cli import exit_code
from proxyless_arch.exports.exported_network import litert_network


def run(argv: Sequence[str]) -> int:
    arguments = predict_command.parse(argv, "predict_tf.py", __doc__)
    images = predict_command.open_images(arguments)
    network = litert_network(arguments) if arguments.exported else evaluation.load_network(arguments)

    network = evaluation.oriented(network, arguments, images)

    # imported here, so that a mistake in the command line is answered at once
    from proxyless_nas_tensorflow.data import eval_batches
    from proxyless_nas_tensorflow.engine import start

    forward, _, setup = start(
        arguments,
        network,
        lambda on_cpu: evaluation.reading_workers(arguments, len(images), on_cpu),
    )
    evaluation.announce(network, setup, None, None)
    batches = eval_batches(images, network.spec.preprocessing, batch_size=setup.batch_size, n_workers=setup.workers)
    seen = predict_command.predict_all(
        lambda pixels: np.asarray(forward(pixels)).astype(np.float32),
        evaluation.Progress(batches, len(images)),
        images,
        network.spec,
        arguments.top,
    )
    status = predict_command.report(
        arguments, ["predict_tf.py", *argv], network, setup, images, seen, batches.unreadable
    )
    say_next(after_predict(arguments, "predict_tf.py"))
    return status


def main(argv: Sequence[str] | None = None) -> int:
    return exit_code(run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
