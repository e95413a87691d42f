"""Score a network on labelled images, with Keras on TensorFlow.

    python eval_tf.py --arch proxyless_mobile --data_path imagenet/
    python eval_tf.py --arch runs/mine --data_path digits
    python eval_tf.py --arch net.json --weights net.pth --data_path photos.zip --save_json scores.json
    python eval_tf.py --tflite exported/proxyless_mobile_int8.tflite --data_path imagenet/

Without --data_path and $IMAGENET_DIR it shows what the network sees in two photos.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from proxyless_arch.apps import evaluation
from proxyless_arch.apps.next_commands import after_eval, say_next
from proxyless_arch.apps.per_class import ClassScore, numbered
from proxyless_arch.base.cli import exit_code
from proxyless_arch.base.words import DRY
from proxyless_arch.exports.exported_network import litert_network


def run(argv: Sequence[str]) -> None:
    arguments = evaluation.parse(argv, "eval_tf.py", __doc__, evaluation.TfliteEvalConfig)
    network = litert_network(arguments) if arguments.exported else evaluation.load_network(arguments)
    images, labels = None, None
    if arguments.data_path:
        images, labels = evaluation.open_labelled(arguments.data_path, network.spec, arguments.label_map)
        images = images.read_once()
        network = evaluation.oriented(network, arguments, images, labels)
    spec = network.spec

    # imported here, so that a mistake in the command line is answered at once
    from proxyless_nas_tensorflow.data import eval_batches
    from proxyless_nas_tensorflow.engine import start
    from proxyless_nas_tensorflow.steps import evaluate

    forward, _, setup = start(
        arguments,
        network,
        lambda on_cpu: evaluation.n_workers(arguments, images, on_cpu) if images else 0,
    )
    evaluation.announce(network, setup, images, arguments.data_path, labels)
    command = ["eval_tf.py", *argv]
    if arguments.dry_run and images is None:
        print(DRY)
        return
    if images is None:
        photos = evaluation.photos(spec.preprocessing)
        evaluation.demonstrate(arguments, command, network, setup, np.asarray(forward(photos)))
        say_next(*after_eval(arguments, "eval_tf.py"))
        return
    n_images, shape = evaluation.n_images(arguments, images), spec.preprocessing.hwc
    computing = evaluation.seconds_per_image(lambda count: forward(np.zeros((count, *shape), np.float32)), setup)
    evaluation.say_expected(network, setup, images, n_images, computing)
    if arguments.dry_run:
        print(DRY)
        return
    batches = eval_batches(
        numbered(images),
        spec.preprocessing,
        batch_size=setup.batch_size,
        n_workers=setup.workers,
        limit=arguments.limit,
        strict=arguments.strict_data,
    )
    progress = evaluation.Progress(batches, n_images)
    score = evaluate(forward, progress, ClassScore(images.labels))
    evaluation.report(arguments, command, network, setup, images, score.total, progress, batches.unreadable, labels)
    evaluation.report_classes(arguments, network, images, score)
    say_next(*after_eval(arguments, "eval_tf.py"))


def main(argv: Sequence[str] | None = None) -> int:
    return exit_code(run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
