"""The layers of a network in float32 and in int8 as files for another device, and the times that come back from it.

``export_layers`` writes them beside run.py, which times them where they are brought (see exported_ops.py for the
operations of a search space). A layer is known by its shapes, so a table serves every network that has no others.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hardware.profile.exported_ops import RUNNER, SUFFIX_OF, Manifest, read_results
from hardware.profile.graphs import Graph, RandomWeights, to_litert, to_onnx
from hardware.profile.layer_times import Times, layer_graph
from proxyless_arch.arch.bits import BitLayer
from proxyless_arch.base.errors import InputError
from proxyless_arch.base.files import parse_json, read_bytes, write_json
from proxyless_arch.base.strict import Node

MANIFEST_FORMAT, MANIFEST = "proxyless-latency/layer-manifest", "manifest.json"
FORMATS = {False: "float32", True: "int8"}


def export_layers(folder: Path, layers: Sequence[BitLayer], runtime: str) -> int:
    """Write every layer, equal ones once, as a float32 and an int8 file into a new or empty ``folder``; returns how
    many files. Raises InputError where something is in there."""
    if folder.exists() and any(folder.iterdir()):
        raise InputError("the folder is not empty", "--export_layers", str(folder))
    folder.mkdir(parents=True, exist_ok=True)
    suffix, weights, cases = SUFFIX_OF[runtime], RandomWeights(), list[dict[str, Any]]()
    write = to_onnx if suffix == ".onnx" else to_litert
    for graph in dict.fromkeys(map(layer_graph, layers)):
        for integer in FORMATS:
            name = f"op-{len(cases):03d}"
            (folder / (name + suffix)).write_bytes(write(graph, weights, integer=integer))
            cases.append({"file": name, "case": _case(graph, integer), "suffixes": [suffix]})
    shutil.copyfile(RUNNER, folder / "run.py")
    write_json(folder / MANIFEST, {"format": MANIFEST_FORMAT, "version": 1, "cases": cases})
    return len(cases)


def read_layer_times(
    results: Path, layers: Sequence[BitLayer], runtime: str, command: str
) -> tuple[Times, dict[str, Any]]:
    """(ms of each layer in float32 and int8, what is known of the device), of a results file of run.py.

    Args:
        command: what measures the layers, for the errors.

    Raises InputError: no such file, one that has no rows of layers in int8, or not of all layers, or another runtime's.
    """
    manifest = _manifest(results, command)
    found = read_results(results, manifest)
    if found.facts.get("runtime", runtime) != runtime:
        raise InputError(f"expected times of {runtime}, got {found.facts['runtime']}", "--latency_table", str(results))
    times: Times = {}
    for layer in layers:
        for integer, format in FORMATS.items():
            measured = found.cases.get(_case(layer_graph(layer), integer))
            if measured is None:
                raise InputError(f"has no {format} row of {layer.name}: measure it with {command}", "--latency_table",
                                 str(results))  # fmt: skip
            times[layer.name, integer] = measured.ms
    return times, found.facts


def _manifest(results: Path, command: str) -> Manifest:
    """The manifest that lies beside the results, where run.py wrote them."""
    path = results.parent / MANIFEST
    if not results.is_file():
        raise InputError("no such file", "--latency_table", str(results))
    content = read_bytes(path) if path.is_file() and results.suffix != ".json" else b"{}"
    top = parse_json(content, str(path))
    if not isinstance(top, dict) or top.get("format") != MANIFEST_FORMAT:
        problem = f"has no int8 rows: this command writes what measures them, {command}"
        raise InputError(problem, "--latency_table", str(results))
    keys = Node(top).fields(("format", "version", "cases"))
    keys["version"].exactly(1)
    cases = {}
    for element in keys["cases"].elements(minimum=1):
        case = element.fields(("file", "case", "suffixes"))
        cases[case["file"].text()] = case["case"].text()
    return Manifest({}, cases, hashlib.sha256(content).hexdigest()[:16])


def _case(graph: Graph, integer: bool) -> str:
    return f"{hashlib.sha256(repr(graph).encode()).hexdigest()[:16]} {FORMATS[integer]}"
