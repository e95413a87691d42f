"""Write a network as files that run without this repository, with PyTorch: ONNX, torch.export, ExecuTorch, LiteRT.

    python export.py --arch proxyless_mobile --format onnx --output exported
    python export.py --arch runs/bits --format onnx,onnx_int8 --calibration photos/ --check photos/ --output exported
    python export.py --arch runs/mine --format onnx,torch_export --output exported
    python export.py --arch net.json --weights net.pth --format onnx --output exported --check photos/
    python export.py --arch proxyless_mobile --format onnx,executorch,litert_torch --output exported

Each file is compared with the source network on real images before it gets its name, and timed in its own runtime;
exported/export.json holds the figures. A file that misses its tolerance (1e-4 between logits) is not written.
executorch and litert_torch need extras of their names (pip install -e '.[executorch,litert-torch]'); one that
is not installed is skipped, with the reason, when other formats are asked for too.
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
    arguments = exporting.parse(argv, "export.py", __doc__, exporting.TORCH_FORMATS)
    network = load_network(arguments)

    # imported here, so that a mistake in the command line is answered at once
    from proxyless_nas.export import TorchBackend
    from proxyless_nas.network import build
    from proxyless_nas.weights import load_named

    tune_allocator()
    net = build(network.spec)
    load_named(net, network.spec, network.tensors, network.weights)
    backend = TorchBackend(
        net, arguments.threads, arguments.opset, arguments.bake_preprocessing, network.bits, arguments.float_blocks
    )
    record = exporting.export(arguments, ["export.py", *argv], network, backend, "export.json")
    say_next(*commands_after_export(arguments, record, "export.py"))


def main(argv: Sequence[str] | None = None) -> int:
    return exit_code(run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
