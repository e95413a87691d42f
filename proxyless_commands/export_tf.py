"""Write a network as files that run without this repository, with Keras: LiteRT (float, fp16, int8) and SavedModel.

    python export_tf.py --arch proxyless_mobile --format litert --output exported
    python export_tf.py --arch runs/mine --format litert,litert_fp16,litert_int8,saved_model --output exported
    python export_tf.py --arch net.json --weights net.pth --format litert_int8 --output exported \\
        --calibration photos.zip --check photos.zip --check_images 500

Each file is compared with the source network on real images before it gets its name, and timed in its own runtime;
exported/export_tf.json holds the figures. A float32 file that misses its tolerance (1e-4 between logits) is not
written. With --check on the network's class folders top-1 is measured before and after.
"""

from __future__ import annotations

from collections.abc import Sequence

from proxyless_arch.apps.evaluation import load_network
from proxyless_arch.apps.next_commands import say_next
from proxyless_arch.base.cli import exit_code
from proxyless_arch.base.machine import tune_allocator
from proxyless_arch.chain.commands import commands_after_export
from proxyless_arch.exports import exporting


def run(argv: Sequence[str]) -> None:
    arguments = exporting.parse(argv, "export_tf.py", __doc__, exporting.KERAS_FORMATS)
    network = load_network(arguments)

    # imported here, so that a mistake in the command line is answered at once
    from proxyless_nas_tensorflow.devices import use_threads
    from proxyless_nas_tensorflow.export import KerasBackend
    from proxyless_nas_tensorflow.network import build
    from proxyless_nas_tensorflow.weights import load_named

    tune_allocator()
    threads = use_threads(arguments.threads)
    net = build(network.spec, network.spec.resolution)
    load_named(net, network.spec, network.tensors, network.weights)
    backend = KerasBackend(
        net, arguments.threads, threads, arguments.float_blocks, arguments.bake_preprocessing, network.bits,
        arguments.integer_io,
    )  # fmt: skip
    record = exporting.export(arguments, ["export_tf.py", *argv], network, backend, "export_tf.json")
    say_next(*commands_after_export(arguments, record, "export_tf.py"))


def main(argv: Sequence[str] | None = None) -> int:
    return exit_code(run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
