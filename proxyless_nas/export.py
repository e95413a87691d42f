"""Files that run without this repository: ONNX and torch.export programs. The Keras twin writes LiteRT and SavedModel.

Both hold the network with batch normalization folded, take float32 images (batch, 3, H, W) of the recipe's size and
any batch, and give (batch, classes) logits. Spec, recipe, class names and provenance travel inside.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram

from proxyless_arch.errors import InputError
from proxyless_arch.evaluation import Network, exported_network
from proxyless_arch.exporting import METADATA_NAME, Format, Loaded, read_metadata, write_file
from proxyless_nas.inference import fold_bn
from proxyless_nas.network import ProxylessNet

INPUT, OUTPUT = "images", "logits"
DYNAMIC_SHAPES = {"x": {0: Dim("batch", min=1, max=65_536)}}


class TorchBackend:
    """PyTorch's side of an export (see exporting.Backend). Images are (N, 3, H, W).

    Args:
        net: the source network; left as it was.
        threads: of PyTorch and of the runtimes; sets PyTorch's.
    """

    def __init__(self, net: ProxylessNet, threads: int = 1) -> None:
        torch.set_num_threads(threads)
        self.threads = threads
        self.framework = f"torch {torch.__version__}"
        self._net, self._folded = net.eval(), fold_bn(net)

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
        program = exported_program(self._folded)
        return WRITERS[format.name](program, path, metadata)

    def load(self, format: Format, path: Path) -> Loaded:
        return LOADERS[format.name](path, self.threads)


def exported_program(net: ProxylessNet) -> ExportedProgram:
    """``net`` as torch.export sees it, for the size of its recipe and any batch; without traces of this machine."""
    side = net.spec.resolution
    images = torch.zeros(2, 3, side, side).to(memory_format=torch.channels_last)
    with _quiet(), torch.no_grad():
        program = torch.export.export(net, (images,), dynamic_shapes=DYNAMIC_SHAPES, strict=False)
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)
    return program


def write_torch_export(program: ExportedProgram, path: Path, metadata: str) -> Mapping[str, Any]:
    """A ``.pt2`` archive, which ``torch.export.load(path).module()`` runs."""
    content = io.BytesIO()
    program.example_inputs = None  # two blank images, which would be a third of a small network's file
    with _quiet():
        torch.export.save(program, content, extra_files={METADATA_NAME: metadata})
    write_file(path, content.getvalue())
    return {"torch": torch.__version__}


def write_onnx(program: ExportedProgram, path: Path, metadata: str) -> Mapping[str, Any]:
    """One ``.onnx`` file; the metadata is an entry of its metadata_props."""
    import onnx

    with _quiet():
        exported = torch.onnx.export(
            program,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes=DYNAMIC_SHAPES,  # again: for the name of the dimension
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    assert exported is not None
    model = exported.model_proto
    for node in model.graph.node:  # what the exporter notes down for its own debugging holds paths of this machine
        del node.metadata_props[:]
    onnx.helper.set_model_props(model, {METADATA_NAME: metadata})
    onnx.checker.check_model(model, full_check=True)
    write_file(path, model.SerializeToString())
    return {"opset": model.opset_import[0].version, "ir_version": model.ir_version, "batch": "dynamic"}


WRITERS: Mapping[str, Callable[[ExportedProgram, Path, str], Mapping[str, Any]]] = {
    "onnx": write_onnx,
    "torch_export": write_torch_export,
}


def load_torch_export(path: Path, threads: int) -> Loaded:
    """A ``.pt2`` file on PyTorch, which uses its own number of threads. Load only files you trust."""
    with _quiet():
        module = torch.export.load(path).module()

    @torch.inference_mode()
    def forward(images: np.ndarray) -> np.ndarray:
        return module(_channels_last(images)).numpy()

    return Loaded(forward, "torch", torch.__version__)


def load_onnx(path: Path, threads: int) -> Loaded:
    """A ``.onnx`` file on onnxruntime's CPU provider.

    Raises:
        InputError: no such file, or onnxruntime cannot read it.
    """
    session = _session(path, threads)

    def forward(images: np.ndarray) -> np.ndarray:
        return session.run(None, {INPUT: np.ascontiguousarray(images)})[0]

    import onnxruntime

    return Loaded(forward, "onnxruntime", onnxruntime.__version__)


def onnx_metadata(path: Path) -> str | None:
    """The metadata of a ``.onnx`` file, or None when it has none of ours."""
    return _session(path, 1).get_modelmeta().custom_metadata_map.get(METADATA_NAME)


def onnx_network(arguments: argparse.Namespace) -> Network:
    """The network of ``eval.py --onnx FILE``: spec, recipe and class names are read from the file.

    Raises:
        InputError: a bad file, or one without our metadata.
    """
    spec, provenance = read_metadata(onnx_metadata(arguments.exported), str(arguments.exported))
    return exported_network(arguments, spec, provenance)


def on_tensors(loaded: Loaded) -> Callable[[Tensor], Tensor]:
    """``loaded`` as a function of (N, 3, H, W) tensors."""
    return lambda images: torch.from_numpy(loaded.forward(images.contiguous().numpy()))


LOADERS: Mapping[str, Callable[[Path, int], Loaded]] = {
    "onnx": load_onnx,
    "torch_export": load_torch_export,
}


def _session(path: Path, threads: int) -> Any:
    try:
        import onnxruntime
        from onnxruntime.capi import onnxruntime_pybind11_state as errors
    except ImportError:
        raise InputError(
            "it needs onnxruntime, not installed: pip install 'proxyless-nas[export]'", source=str(path)
        ) from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except errors.NoSuchFile:
        raise InputError("no such file", source=str(path)) from None
    except (errors.InvalidProtobuf, errors.InvalidGraph, errors.InvalidArgument, errors.Fail) as error:
        raise InputError(f"expected an ONNX file that onnxruntime reads: {error}", source=str(path)) from None


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
