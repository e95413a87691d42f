"""Layers written out for another machine, and its timings read back.

``export`` writes every operation of a plan (and networks to validate with) as ONNX and LiteRT files, a manifest and
``run.py``, which needs only numpy and the runtime's package. ``read_results`` takes what comes back:

* the CSV of ``run.py``: ``file,round,timing,ms`` after a comment line with the facts of the machine;
* logs of Android's LiteRT benchmark_model, one after the other in one file or one per file: its lines
  ``Graph: [...]`` and ``Inference timings in us: ... Inference (avg): ...`` (the median where it prints one);
* its operator profiles as CSV (--enable_op_profiling=true --profiling_output_csv_file=op-000.csv), one file per graph,
  named after the graph.
"""

from __future__ import annotations

import csv
import hashlib
import re
import shutil
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from hardware.formats import MAX_MS
from hardware.profile.graphs import RandomWeights, to_litert, to_onnx, trace
from hardware.profile.profiling import Case, Measured
from proxyless_arch.base.errors import InputError
from proxyless_arch.base.files import parse_json, read_bytes, write_json
from proxyless_arch.base.schema import Schema, judge, mapping
from proxyless_arch.base.strict import Node
from proxyless_arch.space.mbconv import MACROS

MAX_THREADS = 4096
MANIFEST_FORMAT = "proxyless-latency/manifest"
SUFFIX_OF = {"onnxruntime": ".onnx", "litert": ".tflite"}  # the runtimes of run.py
SUFFIXES = tuple(SUFFIX_OF.values())
RUNNER = Path(__file__).parent / "standalone_runner.py"


def export(
    folder: Path,
    ops: Sequence[Case],
    networks: Sequence[Case],
    conditions: Mapping[str, Any],
    suffixes: Sequence[str] = SUFFIXES,
) -> int:
    """Write every case as a file of each suffix into ``folder``; the number of bytes written.

    Files of an earlier export are replaced, or removed.

    Args:
        conditions: of the export (batch size, resolution, space, ...), for the manifest.

    Raises:
        InputError: the folder holds something else already.
    """
    if folder.exists() and any(folder.iterdir()) and not (folder / "manifest.json").is_file():
        raise InputError("the folder is not empty", "--export_ops", str(folder))
    folder.mkdir(parents=True, exist_ok=True)
    for earlier in folder.iterdir():
        if _EXPORTED.fullmatch(earlier.name):
            earlier.unlink()
    weights, batch_size = RandomWeights(), int(conditions["batch_size"])
    written, cases = 0, []
    for kind, members in (("op", ops), ("net", networks)):
        for index, case in enumerate(members):
            name = f"{kind}-{index:03d}"
            graph = trace(case.calls)
            for suffix in suffixes:
                content = (to_onnx if suffix == ".onnx" else to_litert)(graph, weights, batch_size)
                (folder / (name + suffix)).write_bytes(content)
                written += len(content)
            cases.append({"file": name, "case": case.name, "suffixes": list(suffixes)})
    shutil.copyfile(RUNNER, folder / "run.py")
    write_json(
        folder / "manifest.json",
        {"format": MANIFEST_FORMAT, "version": 1, "conditions": dict(conditions), "cases": cases},
    )
    return written


_EXPORTED = re.compile(r"(op|net)-[0-9]{3,}\.(onnx|tflite)")


class Manifest(NamedTuple):
    conditions: dict[str, Any]
    cases: dict[str, str]  # file stem -> case name
    digest: str = ""  # as run.py writes it into its results


def read_manifest(path: Path) -> Manifest:
    """A manifest that ``export`` wrote. Raises InputError."""
    try:
        content = read_bytes(path)
        top = Node(parse_json(content, str(path))).fields(("format", "version", "conditions", "cases"))
        top["format"].exactly(MANIFEST_FORMAT)
        top["version"].exactly(1)
        cases: dict[str, str] = {}
        for element in top["cases"].elements(minimum=1):
            keys = element.fields(("file", "case", "suffixes"))
            if keys["file"].text() in cases:
                raise InputError(f"{keys['file'].text()} appears twice", element.path)
            cases[keys["file"].text()] = keys["case"].text()
        return Manifest(_conditions(top["conditions"]), cases, hashlib.sha256(content).hexdigest()[:16])
    except InputError as error:
        raise error.from_source(str(path)) from None


def _conditions(node: Node) -> dict[str, Any]:
    keys = node.fields(("batch_size", "resolution", "space", "width_mult", "num_classes", "seed", "validation_nets"))
    return {
        "batch_size": keys["batch_size"].integer(1, 4096),
        "resolution": keys["resolution"].integer(8, 4096),
        "space": keys["space"].text(tuple(MACROS)),
        "width_mult": keys["width_mult"].number(0.05, 10),
        "num_classes": keys["num_classes"].integer(1, 65_536),
        "seed": keys["seed"].integer(0, 2**31 - 1),
        "validation_nets": keys["validation_nets"].integer(20, 1000),
    }


class Results(NamedTuple):
    """Measured cases by name, and what the files say of the machine."""

    cases: dict[str, Measured]
    facts: dict[str, Any]


_GRAPH = re.compile(r"Graph: \[(?P<path>[^\]]+)\]")
_NUMBER = r"[0-9]+(?:\.[0-9]*)?(?:e[+-]?[0-9]+)?"
_COUNTED = re.compile(r"\bcount=[0-9]")
_COUNT = re.compile(rf"\bcount=(?P<count>[0-9]+) .*\bavg=(?P<avg>{_NUMBER}) std=(?P<std>{_NUMBER})(?P<rest>.*)")
_MEDIAN = re.compile(rf"\bmedian=(?P<median>{_NUMBER})")
_TIMINGS = re.compile(rf"Inference timings in us: Init: .*Inference \(avg\): (?P<avg>{_NUMBER})")
_WHOLE = re.compile(r"[0-9]{1,9}")
_THREADS = re.compile(r"Num threads: \[(?P<threads>[0-9]+)\]")


def read_results(path: Path, manifest: Manifest) -> Results:
    """The timings in a file, or in all files of a folder. Raises InputError with the file and line."""
    files = sorted(entry for entry in path.iterdir() if entry.is_file()) if path.is_dir() else [path]
    cases: dict[str, Measured] = {}
    facts: dict[str, Any] = {}
    for file in files:
        if file.name == "manifest.json" or file.suffix in (*SUFFIXES, ".py"):
            continue
        try:
            found, said = _read(file, read_bytes(file).decode("utf-8-sig", "replace"))
            facts = _merged(facts, said)
        except InputError as error:
            raise error.from_source(str(file)) from None
        if said.get("export", manifest.digest) != manifest.digest:
            raise InputError("these are timings of another export than the manifest's", "export", str(file))
        for stem, measured in found.items():
            if stem not in manifest.cases:
                raise InputError(f"no such file in the manifest: {stem!r}", "", str(file))
            name = manifest.cases[stem]
            if name in cases:
                raise InputError(f"the timings of {stem} are there twice", "", str(file))
            cases[name] = measured
    if not cases:
        raise InputError(
            "no timings: expected the CSV of run.py, or output of the LiteRT benchmark tool", "", str(path)
        )
    facts.pop("export", None)
    return Results(cases, facts)


def _merged(facts: dict[str, Any], said: dict[str, Any], place: str = "") -> dict[str, Any]:
    for name in ("device", "runtime", "threads"):
        if name in said and facts.get(name, said[name]) != said[name]:
            raise InputError(f"{name} {said[name]!r}, but {facts[name]!r} before: import them by themselves", place)
    return facts | said


def _read(file: Path, text: str) -> tuple[dict[str, Measured], dict[str, Any]]:
    if _TIMINGS.search(text) or _GRAPH.search(text):
        return _benchmark_logs(text, file.stem)
    if "node type" in text:
        return {file.stem: _operator_profile(text)}, {"runtime": "litert"}
    return _runner_csv(text)


def _count(text: str, place: str) -> int:
    """A whole number of at most nine digits: Python reads more, slowly, and none above 4,300."""
    if not _WHOLE.fullmatch(text):
        raise InputError(f"expected a whole number below 1e9, got {text[:40]!r}", place)
    return int(text)


def _spread(text: str, place: str) -> float:
    """A standard deviation in microseconds, as ms."""
    value = float(text) / 1000
    if not value <= MAX_MS:
        raise InputError(f"expected a standard deviation, got {text[:40]!r}", place)
    return value


def _ms(text: str, place: str, factor: float = 1.0) -> float:
    try:
        value = float(text) * factor
    except ValueError:
        raise InputError(f"expected a time, got {text[:40]!r}", place) from None
    if not 0 < value <= MAX_MS:
        raise InputError(f"expected a time above 0 ms, got {text[:40]!r}", place)
    return value


def _runner_csv(text: str) -> tuple[dict[str, Measured], dict[str, Any]]:
    facts: dict[str, Any] = {}
    times: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    seen: set[tuple[str, ...]] = set()
    lines = text.splitlines()
    if text and not text.endswith("\n"):
        lines.pop()  # cut off by a kill
    for number, line in enumerate(lines, start=1):
        place = f"line {number}"
        if line.startswith("#"):
            facts = _merged(facts, _facts(line[1:], place), place)
            continue
        try:
            row = next(csv.reader([line]), [])
        except csv.Error as error:
            raise InputError(f"expected file,round,timing,ms: {error}", place) from None
        if row in ([], ["file", "round", "timing", "ms"]):
            continue
        if len(row) != 4:
            raise InputError(f"expected file,round,timing,ms, got {line[:60]!r}", place)
        if tuple(row[:3]) in seen:
            raise InputError(f"timing {row[2]} of {row[0]} in round {row[1]} is there twice", place)
        seen.add(tuple(row[:3]))
        times[row[0]][row[1]].append(_ms(row[3], place))
    return {stem: _over_rounds(rounds.values()) for stem, rounds in times.items()}, facts


def _facts(text: str, place: str) -> dict[str, Any]:
    try:
        facts = Node(parse_json(text, ""))
        judge(facts, _FACTS)
    except InputError as error:
        problem = f"expected the facts of the machine as JSON: {error}"
        raise InputError(problem, place) from None
    return dict(mapping(facts))


def _threads(node: Node) -> int:
    return node.integer(1, MAX_THREADS)


_FACTS: Schema = {
    **dict.fromkeys(("device", "runtime", "runtime_version", "clock", "export", "dtype", "date"), Node.text),
    "threads": _threads,
}
"""What run.py says of the machine, as far as it is read; what else it says is kept."""


def _over_rounds(rounds: Iterable[Sequence[float]]) -> Measured:
    found = list(rounds)
    medians = [statistics.median(times) for times in found]
    sd = statistics.stdev(medians) if len(medians) > 1 else 0.0
    return Measured(statistics.median(medians), sd, len(found), sum(map(len, found)), float("nan"))


def _benchmark_logs(text: str, file_stem: str) -> tuple[dict[str, Measured], dict[str, Any]]:
    """Every run in the log: the last ``count=`` line before its timings has the median, spread and number."""
    found: dict[str, Measured] = {}
    facts: dict[str, Any] = {"runtime": "litert", "clock": "wall"}
    stem, count = file_stem, None
    for number, line in enumerate(text.splitlines(), start=1):
        place = f"line {number}"
        if match := _GRAPH.search(line):
            stem, count = PurePosixPath(match["path"]).stem, None
        elif match := _THREADS.search(line):
            facts = _merged(facts, {"threads": _threads(Node(_count(match["threads"], place), place))}, place)
        elif _COUNTED.search(line):
            count = _COUNT.search(line)  # none for one run: the timings' line has it
        elif match := _TIMINGS.search(line):
            average, sd, n = match["avg"], 0.0, 1
            if count is not None:
                middle = _MEDIAN.search(count["rest"])
                average = middle["median"] if middle else count["avg"]
                sd, n = _spread(count["std"], place), _count(count["count"], place)
            if stem in found:
                raise InputError(f"the timings of {stem} are there twice", place)
            found[stem] = Measured(_ms(average, place, 1e-3), sd, 1, max(n, 1), float("nan"))
            stem, count = file_stem, None
    return found, facts


def _operator_profile(text: str) -> Measured:
    """Time per run: of every line in the run order of the regular runs (not of initialization), ms times calls.

    The columns are ``node type[, start], first, avg_ms, %, cdf%, mem KB, times called, name``, counted here from the
    first percentage: a node type has commas of its own (``Convolution (NHWC, F32) GEMM``). avg_ms is that of a call;
    one that takes less than a microsecond is 0.
    """
    lines = text.splitlines()
    regular = next((number for number, line in enumerate(lines) if "Operator-wise Profiling Info" in line), 0)
    titles = (number for number in range(regular, len(lines)) if "= Run Order =" in lines[number])
    title = next(titles, None)
    if title is None:
        raise InputError("expected the section 'Run Order' of an operator profile")
    columns = [name.strip() for name in "".join(lines[title + 1 : title + 2]).split(",")]
    if not {"avg_ms", "avg ms"} & set(columns):
        raise InputError("expected a column avg_ms", f"line {title + 2}")
    total = 0.0
    for number, line in enumerate(lines[title + 2 :], start=title + 3):
        if not line.strip():
            break
        total += _operator_ms(line, f"line {number}")
    else:
        raise InputError("the run order is cut off: expected an empty line after it")
    return Measured(_ms(repr(total), "Run Order"), 0.0, 1, 1, float("nan"))


def _operator_ms(line: str, place: str) -> float:
    cells = [cell.strip() for cell in line.split(",")]
    share = next((index for index, cell in enumerate(cells) if cell.endswith("%")), 0)
    if share < 2 or len(cells) < share + 4 or not _WHOLE.fullmatch(cells[share + 3]):
        raise InputError(f"expected node type, first, avg_ms, %, cdf%, mem KB, times called, got {line[:60]!r}", place)
    try:
        value = float(cells[share - 1])
    except ValueError:
        raise InputError(f"expected a time, got {cells[share - 1][:40]!r}", place) from None
    if not 0 <= value <= MAX_MS:
        raise InputError(f"expected a time of 0 ms or more, got {cells[share - 1][:40]!r}", place)
    return value * max(1, int(cells[share + 3]))  # older ones print 0 calls
