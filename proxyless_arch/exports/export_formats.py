"""The kinds of files that export.py and export_tf.py write: what each needs, can hold, and is called by others."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

from proxyless_arch.arch.spec import ArchSpec
from proxyless_arch.arch.walk import total_params, walk
from proxyless_arch.base.errors import InputError
from proxyless_arch.base.strict import listed, nearest
from proxyless_arch.base.units import format_count

TOLERANCE = 1e-4
"""Largest logit difference of a float32 export, times the standard deviation of the logits where that is above 1."""
FLOAT_SHARE = 1 / 4
"""Share of the blocks, from the stem on, that stay float32 in an int8 file: experiments/int8_study.json says why."""
MAX_FLATBUFFER = 2**31 - 1
"""Bytes of a LiteRT flatbuffer, and of an ONNX protobuf without files beside it."""


@dataclass(frozen=True, kw_only=True)
class Format:
    """A kind of file.

    Args:
        name: for --format.
        suffix: of the file, behind the network's name.
        modules: what writing and checking it imports, beside the framework.
        extra: of this package, which brings them.
        optional: the extra is in no list of requirements; without it the format is left out and others are written.
        tolerance: the largest logit difference from the source network that passes, where logits have a standard
            deviation of 1 or less; None: reported, not judged.
        quantized: it needs calibration images.
        float_twin: the float format whose time a quantized one is held against.
        bakes: it can take uint8 images and scale them itself.
        max_bytes: what a file can hold; None: anything.
        operations, paddings: what the writer knows how to express; operations None: every one.
    """

    name: str
    suffix: str
    modules: tuple[str, ...] = ()
    extra: str = "export"
    optional: bool = False
    tolerance: float | None = TOLERANCE
    quantized: bool = False
    float_twin: str | None = None
    bakes: bool = False
    max_bytes: int | None = None
    operations: tuple[type, ...] | None = None
    paddings: tuple[str, ...] = ("symmetric", "same")


def _table(*formats: Format) -> Mapping[str, Format]:
    return MappingProxyType({format.name: format for format in formats})


TORCH_FORMATS: Mapping[str, Format] = _table(
    Format(
        name="onnx", suffix=".onnx", modules=("onnx", "onnxscript", "onnxruntime"), max_bytes=MAX_FLATBUFFER, bakes=True
    ),
    Format(
        name="onnx_int8",
        suffix="_int8.onnx",
        modules=("onnx", "onnxscript", "onnxruntime"),
        max_bytes=MAX_FLATBUFFER,
        tolerance=None,
        quantized=True,
        float_twin="onnx",
    ),
    Format(name="torch_export", suffix=".pt2"),
    Format(
        name="executorch",
        suffix=".pte",
        modules=("executorch",),
        extra="executorch",
        optional=True,
        max_bytes=MAX_FLATBUFFER,
    ),
    Format(
        name="litert_torch",
        suffix="_torch.tflite",  # beside the files of export_tf.py
        modules=("litert_torch", "ai_edge_litert"),
        extra="litert-torch",
        optional=True,
        max_bytes=MAX_FLATBUFFER,
    ),
)
KERAS_FORMATS: Mapping[str, Format] = _table(
    Format(name="litert", suffix=".tflite", modules=("ai_edge_litert",), max_bytes=MAX_FLATBUFFER, bakes=True),
    Format(
        name="litert_fp16",
        suffix="_fp16.tflite",
        modules=("ai_edge_litert",),
        max_bytes=MAX_FLATBUFFER,
        tolerance=None,
        bakes=True,
    ),
    Format(
        name="litert_int8",
        suffix="_int8.tflite",
        modules=("ai_edge_litert",),
        max_bytes=MAX_FLATBUFFER,
        tolerance=None,
        quantized=True,
        float_twin="litert",
    ),
    Format(
        name="litert_mixed",
        suffix="_mixed.tflite",
        modules=("ai_edge_litert", "ai_edge_quantizer"),
        extra="litert-mixed",
        optional=True,
        max_bytes=MAX_FLATBUFFER,
        tolerance=None,
        quantized=True,
        float_twin="litert",
    ),
    Format(name="saved_model", suffix="_saved_model"),
)


ALSO_CALLED: Mapping[str, str] = MappingProxyType(
    {
        **dict.fromkeys(("tflite", "lite"), "litert"),
        **dict.fromkeys(("tflite_fp16", "fp16", "float16"), "litert_fp16"),
        **dict.fromkeys(("tflite_int8", "int8"), "litert_int8"),
        **dict.fromkeys(("onnx_qdq", "qdq"), "onnx_int8"),
        **dict.fromkeys(("tflite_mixed", "mixed"), "litert_mixed"),
        **dict.fromkeys(("savedmodel", "tf", "tensorflow"), "saved_model"),
        **dict.fromkeys(("pt2", "torchscript"), "torch_export"),
        "pte": "executorch",
    }
)
"""What others call these formats."""


def choose_formats(text: str, known: Mapping[str, Format]) -> tuple[Format, ...]:
    """The formats of a comma-separated list.

    Raises:
        InputError: an unknown one (with the nearest), one named twice, or none.
    """
    found = [name.strip() for name in text.split(",") if name.strip()]
    names = [name if name in known else ALSO_CALLED.get(name.lower(), name) for name in found]
    if not names:
        raise InputError(f"expected {listed(known)}, separated by commas, got {text!r}", "--format")
    for name in names:
        if name not in known:
            raise InputError(
                f"expected {listed(known)}, got {name!r}{nearest(name, [*known, *ALSO_CALLED])}", "--format"
            )
    if len(set(names)) != len(names):
        raise InputError(f"expected every format once, got {text!r}", "--format")
    return tuple(known[name] for name in names)


class Skipped(NamedTuple):
    """A format that was asked for and is left out: ``reason`` says what to install."""

    format: Format
    reason: str


def missing(format: Format) -> str | None:
    """What ``format`` needs that is not installed, and what to install; None when nothing is missing."""
    packages = [module.replace("_", "-") for module in format.modules if importlib.util.find_spec(module) is None]
    if not packages:
        return None
    return f"needs {listed(packages, 'and')}, not installed: pip install -e '.[{format.extra}]'"


def check_runtimes(formats: Sequence[Format]) -> tuple[tuple[Format, ...], tuple[Skipped, ...]]:
    """(the formats that can be written, the optional ones whose packages are not installed).

    Raises:
        InputError: what a format needs is not installed, and it is not optional, or there is no other to write.
    """
    found = [(format, missing(format)) for format in formats]
    ready = tuple(format for format, reason in found if reason is None)
    skipped = tuple(Skipped(format, reason) for format, reason in found if reason is not None)
    refused = [f"{format.name} {reason}" for format, reason in skipped if not (format.optional and ready)]
    if refused:
        raise InputError("; ".join(refused), "--format")
    return ready, skipped


def check_holds(spec: ArchSpec, format: Format) -> None:
    """Whether a format can hold a network.

    Raises:
        InputError: an operation or a padding that its writer does not know, or more weights than fit into a file.
    """
    for call in walk(spec):
        if format.operations is not None and type(call.op) not in format.operations:
            known = listed(kind.__name__ for kind in format.operations)
            raise InputError(f"{format.name} holds {known}, got {type(call.op).__name__}", call.name)
    if spec.padding not in format.paddings:
        raise InputError(f"{format.name} holds {listed(map(repr, format.paddings))}, got {spec.padding!r}", "padding")
    size = 4 * total_params(spec)
    if format.max_bytes is not None and size > format.max_bytes:
        raise InputError(
            f"{format.name} files hold at most {format_count(format.max_bytes)}B, the weights of {spec.name!r} are "
            f"{format_count(size)}B",
            "--format",
        )


def default_float_blocks(spec: ArchSpec) -> int:
    """How many of the first blocks of ``spec`` stay float32 in an int8 file: a quarter, rounded up."""
    return math.ceil(FLOAT_SHARE * len(spec.blocks))
