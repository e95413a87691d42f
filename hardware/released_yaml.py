"""The table that was released with ProxylessNAS (mobile_trim.yaml): ``layer description: {mean, var, count}``."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from hardware.formats import MAX_MS, STEM_KERNEL
from hardware.table import LayerKey, LookupTable, Timing, checked_key
from proxyless_arch.base.errors import InputError
from proxyless_arch.base.strict import listed

if TYPE_CHECKING:
    import yaml

# of the released YAML, which names no unit; a Pixel 1 does 3e6 a millisecond, its whole table takes 400 ms
MAX_MACS_PER_MS = 1e9  # on one image; layers this small keep a server's GPU below it
MAX_TABLE_MS = 1e5  # all layers together, a few networks' worth

_SHAPES = r"-input:(?P<in>[0-9]{1,5}x[0-9]{1,5}x[0-9]{1,5})-output:(?P<out>[0-9]{1,5}(?:x[0-9]{1,5}x[0-9]{1,5})?)"
_KEY = re.compile(
    rf"(?P<op>Conv|Conv_1|Logits|expanded_conv){_SHAPES}"
    r"(?P<mbconv>-expand:(?P<expand>[0-9]{1,2})-kernel:(?P<kernel>[0-9])-stride:(?P<stride>[12])-idskip:(?P<skip>[01]))?"
)
_NUMBER = re.compile(r"[+]?[0-9]+(\.[0-9]*)?([eE][-+]?[0-9]{1,3})?")


def parse_released_yaml(text: bytes, source: str) -> LookupTable:
    """Read a file of that format.

    The format names no unit; the released file is in ms, and so must any other one be: times that no device has
    are refused. Raises InputError naming the line.
    """
    entries: dict[LayerKey, Timing] = {}
    for name, children, line in _yaml_mapping(_yaml_root(text)):
        place = f"line {line}"
        key = _key(name, place)
        if key in entries:
            raise InputError(f"the layer {name!r} appears twice", place)
        if children is None:
            raise InputError(f"expected mean, var and count of {name!r}", place)
        entries[key] = _timing(children, place)
    if not entries:
        raise InputError("expected layers and their times, got none")
    _check_plausible(entries)
    return LookupTable(source, entries, {"source": source})


def _key(name: str, place: str) -> LayerKey:
    match = _KEY.fullmatch(name)
    is_mbconv = match is not None and match["op"] == "expanded_conv"
    if match is None or is_mbconv != (match["mbconv"] is not None):
        foreign = re.search("-se:|-hs:", name)
        why = " (networks with squeeze-and-excitation or h-swish are not of this family)" if foreign else ""
        raise InputError(f"expected a layer of mobile_trim.yaml, got {name[:120]!r}{why}", place)
    height, width, c_in = map(int, match["in"].split("x"))
    out = tuple(map(int, match["out"].split("x")))
    if (len(out) == 1) != (match["op"] == "Logits") or min(height, width, c_in, *out) < 1:
        raise InputError(f"unexpected shapes in {name!r}", place)
    in_hwc = (height, width, c_in)
    if match["op"] == "Logits":
        return LayerKey("linear", in_hwc, (1, 1, out[0]), 1, 0, 1, False)
    out_hwc = (out[0], out[1], out[2])
    if not is_mbconv:
        # the names hold neither kernel nor stride: "Conv" is the 3x3 stem, "Conv_1" the 1x1 feature mix
        kernel = STEM_KERNEL if match["op"] == "Conv" else 1
        stride = 1 if in_hwc[:2] == out_hwc[:2] else 2
        return checked_key(LayerKey("conv", in_hwc, out_hwc, kernel, 0, stride, False), place)
    kernel, expand, stride = (int(match[group]) for group in ("kernel", "expand", "stride"))
    if kernel not in (3, 5, 7) or not 1 <= expand <= 64:
        raise InputError(f"expected kernel 3, 5 or 7 and expand 1..64 in {name!r}", place)
    mid = c_in * expand if expand > 1 else 0
    return checked_key(LayerKey("mbconv", in_hwc, out_hwc, kernel, mid, stride, match["skip"] == "1"), place)


def _check_plausible(entries: Mapping[LayerKey, Timing]) -> None:
    """Raises InputError when the times must be in another unit than ms."""
    total, macs = math.fsum(timing.ms for timing in entries.values()), sum(map(_macs, entries))
    if macs > MAX_MACS_PER_MS * total:
        why = f"{macs / total * 1e3:.1e} multiply-accumulates per second on one image. Are they in seconds?"
    elif total > MAX_TABLE_MS:
        why = f"more than {MAX_TABLE_MS:g}. Are they in microseconds?"
    else:
        return
    raise InputError(
        f"expected times in ms, but the {len(entries)} layers would take {total:.4g} ms together, {why} "
        "(This format names no unit; our JSON format does)"
    )


def _macs(key: LayerKey) -> int:
    """Multiply-accumulates of a layer, from its key."""
    (height, width, c_in), (out_height, out_width, c_out) = key.in_hwc, key.out_hwc
    out_pixels = out_height * out_width
    if key.op != "mbconv":
        return out_pixels * key.kernel**2 * c_in * c_out
    depthwise = out_pixels * (key.mid or c_in) * (key.kernel**2 + c_out)
    return height * width * c_in * key.mid + depthwise


def _yaml_root(text: bytes) -> yaml.Node:
    """The document as nodes. Nothing is constructed, so no tag can do anything, and every node knows its line."""
    import yaml

    try:
        # not CSafeLoader: deep nesting overflows its C stack and kills the process
        root = yaml.compose(text.decode("utf-8-sig"), Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        raise InputError(f"not YAML: {error.problem}", f"line {mark.line + 1}" if mark else "") from None
    except yaml.YAMLError as error:
        raise InputError(f"not YAML: {str(error).splitlines()[0]}") from None
    except UnicodeDecodeError:
        raise InputError("not YAML: the file is not UTF-8 text") from None
    except RecursionError:
        raise InputError("not YAML we read: nested too deeply") from None
    if root is None:
        raise InputError("the file is empty")
    return root


def _yaml_mapping(node: yaml.Node) -> list[tuple[str, yaml.Node, int]]:
    """(key, value, line) of a mapping with text keys; an empty value is an error of whoever reads it."""
    import yaml

    line = node.start_mark.line + 1
    if not isinstance(node, yaml.MappingNode):
        raise InputError("expected 'name: value' pairs", f"line {line}")
    pairs = []
    for key, value in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise InputError("expected a name before the colon", f"line {key.start_mark.line + 1}")
        pairs.append((key.value, value, key.start_mark.line + 1))
    return pairs


def _timing(node: yaml.Node, place: str) -> Timing:
    import yaml

    numbers: dict[str, float] = {}
    for name, value, line in _yaml_mapping(node):
        where = f"line {line}"
        if name not in ("mean", "var", "std", "count"):
            raise InputError(f"expected {listed(('mean', 'var', 'std', 'count'))}, got {name[:60]!r}", where)
        if name in numbers:
            raise InputError(f"{name} appears twice", where)
        text = value.value if isinstance(value, yaml.ScalarNode) else ""
        if not _NUMBER.fullmatch(text) or not float(text) <= MAX_MS**2:
            raise InputError(f"{name}: expected a number of 0 or more, got {text[:60]!r}", where)
        numbers[name] = float(text)
    if "mean" not in numbers:
        raise InputError("mean is missing", place)
    if not 0 < numbers["mean"] <= MAX_MS:
        raise InputError(f"mean: expected a time above 0 ms, got {numbers['mean']!r}", place)
    sd = numbers.get("std", math.sqrt(numbers["var"]) if "var" in numbers else None)
    return Timing(numbers["mean"], sd, int(numbers["count"]) if numbers.get("count") else None)
