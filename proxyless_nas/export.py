"""Files that run without this repository: ONNX, torch.export, ExecuTorch, LiteRT. The twin writes LiteRT, SavedModel.

All hold the network with batch normalization folded and give (batch, classes) logits. ONNX files and torch.export
programs take float32 images (batch, 3, H, W) of the network's resolution and any batch; ExecuTorch programs one
(1, 3, H, W), LiteRT files one (1, H, W, 3) like those of the twin. Spec, class names and provenance travel inside: in
an ExecuTorch program as a constant method, which takes nothing and returns the text.
"""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import operator
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from proxyless_arch.arch.bits import BitPlan
from proxyless_arch.base.errors import InputError
from proxyless_arch.base.files import read_bytes
from proxyless_arch.base.quiet import captured_stderr
from proxyless_arch.exports.bit_files import file_formats, first_blocks_float
from proxyless_arch.exports.export_formats import Format
from proxyless_arch.exports.exported_file import METADATA_NAME, Loaded
from proxyless_arch.exports.exporting import FIRST_OPSET, write_file
from proxyless_arch.exports.litert import load_litert, with_metadata
from proxyless_arch.exports.onnx_file import INPUT, OUTPUT, load_onnx
from proxyless_arch.exports.onnx_int8 import to_onnx_int8
from proxyless_nas.inference import fold_bn
from proxyless_nas.network import ProxylessNet

DYNAMIC_SHAPES = {"x": {0: Dim("batch", min=1, max=65_536)}}


class TorchBackend:
    """PyTorch's side of an export (see exporting.Backend). Images are (N, 3, H, W).

    Args:
        net: the source network; left as it was.
        threads: of PyTorch and of the runtimes; sets PyTorch's.
        opset: of ONNX files.
        bake: whether ONNX files take uint8 images and scale them.
        plan: of an int8 file, in place of ``float_blocks``.
        float_blocks: the first blocks that stay float32 in an int8 file (default: a quarter).
    """

    channels = 1

    def __init__(
        self,
        net: ProxylessNet,
        threads: int = 1,
        opset: int | None = None,
        bake: bool = False,
        plan: BitPlan | None = None,
        float_blocks: int | None = None,
    ) -> None:
        torch.set_num_threads(threads)
        self.threads = threads
        self.framework = f"torch {torch.__version__}"
        self._net, self._folded = net.eval(), fold_bn(net)
        self._opset, self._bake = opset or FIRST_OPSET, bake
        self._plan, self._float_blocks = plan, float_blocks

    @property
    def versions(self) -> Mapping[str, str]:
        return {"torch": torch.__version__}

    @torch.inference_mode()
    def source(self, images: np.ndarray) -> np.ndarray:
        """The source network itself, batch normalization and all."""
        return self._net(_channels_last(images)).numpy()

    def native(self, pixels: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))

    def write(self, format: Format, path: Path, metadata: str, calibration: np.ndarray | None) -> Mapping[str, Any]:
        if format.name == "onnx":
            return write_onnx(self._folded, path, metadata, opset=self._opset, bake=self._bake)
        if format.name == "onnx_int8":
            assert calibration is not None
            return self._write_int8(path, metadata, self.native(calibration))
        return WRITERS[format.name](self._folded, path, metadata)

    def _write_int8(self, path: Path, metadata: str, pixels: np.ndarray) -> Mapping[str, Any]:
        spec, plan = self._net.spec, self._plan
        formats = (
            first_blocks_float(spec, self._float_blocks) if plan is None else file_formats(plan, spec, "onnx_int8")
        )
        made = write_onnx(self._folded, path, metadata, opset=self._opset)
        write_file(path, to_onnx_int8(read_bytes(path), spec, formats, pixels))
        by = {"float_blocks": self._float_blocks} if plan is None else {"plan": plan.digest}
        float_layers = [name for name, each in formats.items() if each.is_float]
        weights = "int8, one scale per output channel"
        return {**made, "weights": weights, "activations": "int8", **by, "float_layers": float_layers}

    def load(self, format: Format, path: Path) -> Loaded:
        return LOADERS[format.name](path, self.threads)


def exported_program(net: ProxylessNet) -> ExportedProgram:
    """``net`` as torch.export sees it, for its resolution and any batch; without traces of this machine."""
    return _program(net, _blank(net, 2).to(memory_format=torch.channels_last), DYNAMIC_SHAPES)


def _blank(net: ProxylessNet, batch: int) -> Tensor:
    return torch.zeros(batch, *net.spec.preprocessing.chw)


def _program(net: nn.Module, images: Tensor, dynamic_shapes: Any = None) -> ExportedProgram:
    with _quiet(), torch.no_grad():
        program = torch.export.export(net, (images,), dynamic_shapes=dynamic_shapes, strict=False)
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)
    return program


# The writers take a network as fold_bn returns it.


def write_torch_export(net: ProxylessNet, path: Path, metadata: str) -> Mapping[str, Any]:
    """A ``.pt2`` archive, which ``torch.export.load(path).module()`` runs."""
    program, content = exported_program(net), io.BytesIO()
    program.example_inputs = None  # two blank images, which would be a third of a small network's file
    with _quiet():
        torch.export.save(program, content, extra_files={METADATA_NAME: metadata})
    write_file(path, content.getvalue())
    return {"torch": torch.__version__}


class _Baked(nn.Module):
    """A network that takes uint8 images (N, C, H, W) and scales them itself: (pixel / 255 - mean) / std."""

    def __init__(self, net: ProxylessNet) -> None:
        super().__init__()
        self.net = net
        prepared = net.spec.preprocessing
        mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (prepared.mean, prepared.std))
        self.register_buffer("scale", 1 / (255 * std))
        self.register_buffer("shift", mean / std)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x.float() * self.scale - self.shift)


def write_onnx(
    net: ProxylessNet, path: Path, metadata: str, *, opset: int = FIRST_OPSET, bake: bool = False
) -> Mapping[str, Any]:
    """One ``.onnx`` file; the metadata is an entry of its metadata_props.

    Its IR version is the first that has the operator set, so that the oldest onnxruntime that knows the operators reads
    it: 8 for operator set 18, which is onnxruntime 1.14.
    """
    import onnx

    images = _blank(net, 2).to(memory_format=torch.channels_last)
    program = _program(_Baked(net).eval(), images.byte(), DYNAMIC_SHAPES) if bake else exported_program(net)
    with _quiet():
        exported = torch.onnx.export(
            program,
            opset_version=opset,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes=DYNAMIC_SHAPES,  # again: for the name of the dimension
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    assert exported is not None
    model = exported.model_proto
    graph = model.graph
    # what the exporter notes down for its own debugging holds paths of this machine, and is younger than IR version 8
    for each in (graph, *graph.node, *graph.value_info, *graph.initializer, *graph.input, *graph.output):
        del each.metadata_props[:]
    model.ir_version = onnx.helper.find_min_ir_version_for(model.opset_import)
    onnx.helper.set_model_props(model, {METADATA_NAME: metadata})
    onnx.checker.check_model(model, full_check=True)
    write_file(path, model.SerializeToString())
    return {"opset": model.opset_import[0].version, "ir_version": model.ir_version, "batch": "dynamic"}


def write_executorch(net: ProxylessNet, path: Path, metadata: str) -> Mapping[str, Any]:
    """A ``.pte`` program for one image, computed by XNNPACK; its method ``METADATA_NAME`` returns the metadata."""
    with _silence():
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import to_edge_transform_and_lower
        from executorch.version import __version__ as version

        lowered = to_edge_transform_and_lower(
            _program(_PooledForXnnpack(net).eval(), _blank(net, 1)),
            partitioner=[XnnpackPartitioner()],
            constant_methods={METADATA_NAME: metadata},
        )
        content = lowered.to_executorch().buffer
    write_file(path, content)
    calls = [node.target for node in lowered.exported_program().graph.nodes if node.op == "call_function"]
    delegated = (torch.ops.higher_order.executorch_call_delegate, operator.getitem)
    left = sorted({str(call) for call in calls if call not in delegated})
    return {"executorch": version, "delegate": "XNNPACK", "not_delegated": left, "batch": 1}


class _PooledForXnnpack(nn.Module):
    """A network as XNNPACK takes all of it: weights in NCHW memory, and a mean that keeps its dimensions."""

    def __init__(self, net: ProxylessNet) -> None:
        super().__init__()
        self.net = copy.deepcopy(net)
        for weight in self.net.parameters():
            # contiguous() would keep the strides of channels_last where a dimension is 1
            weight.data = weight.data.clone(memory_format=torch.contiguous_format)

    def forward(self, x: Tensor) -> Tensor:
        return self.net.classifier(self.net.forward_features(x).mean((2, 3), keepdim=True).flatten(1))


def write_litert_torch(net: ProxylessNet, path: Path, metadata: str) -> Mapping[str, Any]:
    """A ``.tflite`` file for one image (1, H, W, 3), which ``eval_tf.py --tflite`` evaluates like those of the twin."""
    with _silence():
        import litert_torch

        image = _blank(net, 1).permute(0, 2, 3, 1).contiguous()
        model = litert_torch.convert(litert_torch.to_channel_last_io(net, args=[0]).eval(), (image,))
        content = model.model_content()
    write_file(path, with_metadata(content, metadata))
    return {"litert_torch": litert_torch.__version__, "weights": "float32", "batch": 1}


WRITERS: Mapping[str, Callable[[ProxylessNet, Path, str], Mapping[str, Any]]] = {
    "onnx": write_onnx,
    "torch_export": write_torch_export,
    "executorch": write_executorch,
    "litert_torch": write_litert_torch,
}


def load_torch_export(path: Path, threads: int) -> Loaded:
    """A ``.pt2`` file on PyTorch, which uses its own number of threads. Load only files you trust."""
    with _quiet():
        module = torch.export.load(path).module()

    @torch.inference_mode()
    def forward(images: np.ndarray) -> np.ndarray:
        return module(_channels_last(images)).numpy()

    return Loaded(forward, "torch", torch.__version__)


def load_executorch(path: Path, threads: int) -> Loaded:
    """A ``.pte`` file on ExecuTorch, image by image. Sets the number of threads of every ExecuTorch program.

    Raises:
        InputError: no such file, or ExecuTorch cannot read it.
    """
    program = _executorch_program(path)
    with _silence():
        from executorch.extension.pybindings.portable_lib import _unsafe_reset_threadpool
        from executorch.version import __version__ as version

        _unsafe_reset_threadpool(threads)  # unsafe while a program runs
        program.load_method("forward")  # once, and without its remarks

    def forward(images: np.ndarray) -> np.ndarray:
        method = program.load_method("forward")  # from the program, because a method crashes when it outlives that
        # in NCHW memory: the runtime reads other strides as if they were these
        return np.concatenate(
            [method.execute([torch.from_numpy(np.ascontiguousarray(image[None]))])[0].numpy() for image in images]
        )

    return Loaded(forward, "executorch", version)


def load_litert_torch(path: Path, threads: int) -> Loaded:
    """A LiteRT file on its interpreter, for images (N, 3, H, W) like those of the other formats here."""
    loaded = load_litert(path, threads)
    return loaded._replace(forward=lambda images: loaded.forward(np.ascontiguousarray(images.transpose(0, 2, 3, 1))))


def on_tensors(loaded: Loaded) -> Callable[[Tensor], Tensor]:
    """``loaded`` as a function of (N, 3, H, W) tensors."""
    return lambda images: torch.from_numpy(loaded.forward(images.contiguous().numpy()))


LOADERS: Mapping[str, Callable[[Path, int], Loaded]] = {
    "onnx": load_onnx,
    "onnx_int8": load_onnx,
    "torch_export": load_torch_export,
    "executorch": load_executorch,
    "litert_torch": load_litert_torch,
}


def _executorch_program(path: Path) -> Any:
    content = read_bytes(path)
    try:
        with _silence():
            from executorch.runtime import Runtime
    except ImportError:
        raise InputError(
            "it needs executorch, not installed: pip install -e '.[executorch]'", source=str(path)
        ) from None
    try:
        with _silence():
            return Runtime.get().load_program(content)
    except RuntimeError as error:
        raise InputError(f"expected a file that ExecuTorch reads: {error}", source=str(path)) from None


def _channels_last(images: np.ndarray) -> Tensor:
    return torch.from_numpy(images).contiguous(memory_format=torch.channels_last)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's remarks about libraries that are not needed here."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Without what converters say of their progress and of libraries that are not there; shown if the body fails."""
    with _quiet(), captured_stderr(), contextlib.redirect_stdout(io.StringIO()):
        yield
