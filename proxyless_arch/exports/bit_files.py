"""Which formats of a bit plan a kind of file can hold, and what its runtime makes of them.

No runtime here has a convolution below 8 bits: a file has float32 and W8A8 layers (``litert_int8``, ``onnx_int8``), and
weights of 8 or 4 bits that are unpacked before they are used (``litert_mixed``): storage, not speed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType

from proxyless_arch.arch.bits import FLOAT32, IMAGE_LAYER, INT8, BitLayer, BitPlan, Format, bit_layers
from proxyless_arch.arch.spec import ArchSpec
from proxyless_arch.base.errors import InputError
from proxyless_arch.exports.export_formats import default_float_blocks

STORED_8, STORED_4, STORED_4A8 = Format(8, None), Format(4, None), Format(4, 8)
INTEGER = (FLOAT32, INT8)
"""What runs."""
MIXED = (*INTEGER, STORED_8, STORED_4, STORED_4A8)
"""What a file can hold."""
Formats = Mapping[str, Format]
"""Of each layer."""


def _int8(layer: BitLayer) -> tuple[Format, ...]:
    return INTEGER


def _mixed(layer: BitLayer) -> tuple[Format, ...]:
    return tuple(each for each in MIXED if each.weight_bits != STORED_4.weight_bits or not layer.is_depthwise)


HOLDS: Mapping[str, Callable[[BitLayer], tuple[Format, ...]]] = MappingProxyType(
    {"litert_int8": _int8, "litert_mixed": _mixed, "onnx_int8": _int8}
)
"""By kind of file: the formats that a layer may have in it."""


def file_formats(plan: BitPlan, spec: ArchSpec, kind: str) -> Formats:
    """The format of each layer in a file of a ``kind``. The first layer of an integer file takes the image in as int8.

    Raises InputError naming the layer that no kernel can run as planned, and the nearest format.
    """
    found: dict[str, Format] = {}
    for layer in bit_layers(spec):
        wanted, able = plan.formats[layer.name], HOLDS[kind](layer)
        if layer.name == IMAGE_LAYER and wanted.weight_bits and not wanted.activation_bits and STORED_8 not in able:
            wanted = replace(wanted, activation_bits=INT8.activation_bits)
        if wanted not in able:
            near = nearest_format(wanted, able)
            problem = f"{kind} has no kernel for {wanted} ({_kind_of(layer)}); the nearest format that it has is {near}"
            raise InputError(problem, f"layers.{layer.name}")
        found[layer.name] = wanted
    return found


def fits(plan: BitPlan, spec: ArchSpec, kind: str) -> bool:
    """Whether a file of a ``kind`` can hold a plan."""
    try:
        file_formats(plan, spec, kind)
    except InputError:
        return False
    return True


KINDS_FOR: Mapping[str, tuple[str, ...]] = MappingProxyType({"onnxruntime": ("onnx_int8",)})
LITERT_KINDS = ("litert_mixed", "litert_int8")
"""By what is to run a file: the kinds that can hold a plan, the best first."""


def formats_for(plan: BitPlan | None, spec: ArchSpec, hardware: str | None = None) -> tuple[str, str] | None:
    """(script, value of --format) that write a network under a plan for a ``hardware`` of quantize.py, beside its float
    twin; None where no file can hold it."""
    if plan is None:
        return "export.py", "onnx"
    kind = next((kind for kind in KINDS_FOR.get(hardware or "", LITERT_KINDS) if fits(plan, spec, kind)), None)
    if kind is None:
        return None
    return ("export.py", f"onnx,{kind}") if kind == "onnx_int8" else ("export_tf.py", f"litert,{kind}")


def needs_ranges(plan: BitPlan | None, kind: str) -> bool:
    """Whether a file of a ``kind`` needs images that set the ranges of activations: not where weights alone have few
    bits, which ``litert_mixed`` can hold."""
    if plan is None or kind != "litert_mixed":
        return True
    return any(each.activation_bits is not None for each in plan.formats.values())


def nearest_format(wanted: Format, able: tuple[Format, ...]) -> Format:
    """The one with the fewest bits that is not below ``wanted`` in either, else the one with the most."""

    def bits(format: Format) -> tuple[int, int]:
        return format.weight_bits or 32, format.activation_bits or 32

    enough = [each for each in able if all(has >= needs for has, needs in zip(bits(each), bits(wanted), strict=True))]
    return min(enough or [max(able, key=bits)], key=bits)


def _kind_of(layer: BitLayer) -> str:
    return "a depthwise convolution" if layer.is_depthwise else "a convolution" if len(layer.shape) == 4 else "linear"


def first_blocks_float(spec: ArchSpec, blocks: int | None = None) -> Formats:
    """The plan that an int8 file has without one: the stem and the first blocks float32 (default: a quarter), all else
    W8A8. With 0 blocks the stem is W8A8, too."""
    count = default_float_blocks(spec) if blocks is None else blocks
    kept = {IMAGE_LAYER, *(f"blocks.{index}" for index in range(count))} if count else set()
    return {layer.name: FLOAT32 if layer.call.name in kept else INT8 for layer in bit_layers(spec)}


def float_sums(spec: ArchSpec, formats: Formats) -> tuple[str, ...]:
    """The blocks whose sum with the skip is float32, as what they take in is."""
    leaders = [layer for layer in bit_layers(spec) if layer.leads and layer.call.skip]
    return tuple(layer.call.name for layer in leaders if formats[layer.name].activation_bits is None)
