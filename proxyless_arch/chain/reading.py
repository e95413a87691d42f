"""Reads a chain back: a run folder names what it started from, that names its own start, and so on.

A parent that was moved is looked for beside its child; of one that is gone, or is another network by now, there is what
the child wrote down of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from proxyless_arch.apps import attacking, train_settings
from proxyless_arch.arch import catalog
from proxyless_arch.arch.bits import PLAN_FILE, read_plan
from proxyless_arch.arch.codec import read_spec
from proxyless_arch.arch.spec import ArchSpec
from proxyless_arch.arch.walk import total_macs
from proxyless_arch.base.errors import InputError
from proxyless_arch.base.files import read_json
from proxyless_arch.base.runs import CONFIG_FILE, RESULT_FILE
from proxyless_arch.base.schema import Schema, amount, count, factor, judge, judged, list_of, mapping, percent, texts
from proxyless_arch.base.strict import Node, listed
from proxyless_arch.base.text import readable
from proxyless_arch.base.units import Unit
from proxyless_arch.chain.values import Accuracy, Attack, Chain, Cost, Export, How, Kind, Step
from proxyless_arch.exports.export_formats import KERAS_FORMATS, TORCH_FORMATS
from proxyless_arch.exports.exported_file import FORMAT as EXPORTED
from proxyless_arch.weights.files import git_blob_sha1
from proxyless_arch.weights.lookup import SPEC_FILE, own_weights

KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        "proxyless-nas/search-config": Kind.SEARCHED,
        train_settings.FORMAT: Kind.TRAINED,
        "proxyless-compress/prune-config": Kind.PRUNED,
        "proxyless-compress/bits-config": Kind.QUANTIZED,
    }
)
"""By the format of config.json."""
BYTES_OF_A_WEIGHT = 4
FLOAT_WEIGHTS = "weights in float32"
FARTHEST = 3
"""Folders upwards from a run in which its parent is looked for, if it is not where it was."""

_CONFIG: Schema = dict.fromkeys(("format", "arch", "weights", "bits", "runtime", "hardware", "data_path"), Node.text)
_RESULT: Schema = {
    **dict.fromkeys(
        ("test_top1_percent", "top1_percent", "finetuned_test_top1_percent", "parent_test_top1_percent",
         "parent_top1_percent"),
        percent,
    ),
    **dict.fromkeys(("n_test_images", "n_valid_images", "macs", "params", "parent_macs", "parent_params"), count),
    **dict.fromkeys(
        ("measured_latency_ms", "predicted_latency_ms", "parent_measured_latency_ms", "parent_predicted_latency_ms",
         "cost"),
        amount,
    ),
    **dict.fromkeys(("size_bytes", "parent_size_bytes"), factor),
    **dict.fromkeys(("latency_source", "runtime", "source", "parent", "unit"), Node.text),
    "images": mapping,
    "measured_on": mapping,
    "family": texts,
}  # fmt: skip
_SCORE: Schema = {"percent": percent}
_ATTACKED: Schema = {
    "n_images": lambda node: node.integer(1),
    "epsilon": Node.text,
    "accuracy": lambda node: judge(node, {"all": lambda each: judge(each, _SCORE, _SCORE)}, ("all",)),
    "alarms": Node.elements,
    "weights_blob_sha1": Node.text,
    "bits": Node.text,
}
_MEDIAN: Schema = {"median": amount}
_FILE: Schema = {
    **dict.fromkeys(("format", "file", "runtime"), Node.text),
    "size_bytes": count,
    "top1_percent": percent,
    "latency_ms": lambda node: judge(node, _MEDIAN, _MEDIAN),
}
_EXPORT: Schema = {
    "weights_blob_sha1": Node.text,
    "check": lambda node: judge(node, {"n_images": count, "anchor_drift_percent": amount}, ("n_images",)),
    "files": list_of(_FILE, ("format", "file", "runtime", "size_bytes", "latency_ms")),
}


def read_chain(folder: Path) -> Chain:
    """The chain that ends at a run folder, of a search, training, pruning, quantization or attack.

    Raises InputError where the folder is no such run, or a file of it is damaged. That of an earlier run is a note.
    """
    run = _opened(_attacked(folder) or folder)
    steps, met, told = list[Step](), {run.folder.resolve()}, Step(kind=Kind.GIVEN, name="")
    note = ""
    while True:
        steps.append(_filled(_step(run), told, note))
        start = _start(run)
        if start is None:
            break
        told = _told(run)
        found, note = _find(start, run)
        try:
            parent = _opened(found) if found is not None else None
        except InputError as error:
            parent, note = None, f"cannot be read: {error}"
        if parent is None or parent.folder.resolve() in met:
            steps.append(_given(start, run, told, note))
            break
        run = parent
        met.add(run.folder.resolve())
    return Chain(tuple(reversed(steps)))


def is_in_chain(folder: Path) -> bool:
    """Whether a folder is a run that a chain ends at and that is no search."""
    try:
        kind = _format(folder)
    except InputError:
        return False
    return kind == attacking.FORMAT or KINDS.get(kind, Kind.SEARCHED) is not Kind.SEARCHED


# ---------------------------------------------------------------------------------------------------------- a run


@dataclass(frozen=True)
class _Run:
    """``result``: None where it did not come to its end."""

    folder: Path
    kind: Kind
    config: Mapping[str, Any]
    result: Mapping[str, Any] | None


def _format(folder: Path) -> str:
    config = judged(folder / CONFIG_FILE, {"format": Node.text})
    return str(config.get("format"))


def _attacked(folder: Path) -> Path | None:
    """What was attacked in a run of attack.py; None of another run."""
    if not (folder / CONFIG_FILE).is_file() or _format(folder) != attacking.FORMAT:
        return None
    config = judged(folder / CONFIG_FILE, _CONFIG)
    found = next(_places(str(config.get("arch")), folder), None)
    if found is None or not (found / CONFIG_FILE).is_file():
        raise InputError(f"the network attacked, {config.get('arch')}, is no run folder", source=str(folder))
    return found


def _opened(folder: Path) -> _Run:
    if not (folder / CONFIG_FILE).is_file():
        problem = "expected a run folder: there is no config.json in it" if folder.is_dir() else "no such folder"
        raise InputError(problem, source=str(folder))
    kind = KINDS.get(_format(folder))
    if kind is None:
        expected = "expected a search, a training, a pruning, a quantization or an attack"
        raise InputError(f"{expected}, got {_format(folder)!r}", "format", str(folder / CONFIG_FILE))
    config, result = judged(folder / CONFIG_FILE, _CONFIG), None
    if (folder / RESULT_FILE).is_file():
        result = judged(folder / RESULT_FILE, _RESULT)
        if "family" in result:
            names = listed(str(folder / name) for name in result["family"])
            raise InputError(f"holds several networks: name one of them, {names}", source=str(folder))
    return _Run(folder, kind, config, result)


def _step(run: _Run) -> Step:
    """A run by itself."""
    name = readable(run.folder.absolute().name)
    if run.result is None:
        return Step(kind=run.kind, name=name, folder=run.folder, notes=("did not come to its end",))
    weights = own_weights(run.folder)
    blob = git_blob_sha1(weights) if weights is not None else ""
    return Step(
        kind=run.kind,
        name=name,
        folder=run.folder,
        data_path=run.config.get("data_path"),
        hardware=run.config.get("hardware"),
        accuracy=_accuracy(run.result),
        latencies=tuple(_latencies(run)),
        sizes=tuple(_sizes(run)),
        attacks=tuple(_attacks(run.folder, blob)),
        exports=tuple(_exports(run.folder, blob)),
        notes=() if weights is not None else ("its weights are gone",),
    )


def _accuracy(result: Mapping[str, Any], prefix: str = "") -> Accuracy | None:
    """Of the test images, or where there are none of those that were held out; ``prefix``: parent_."""
    tested = (result.get("images") or {}).get("test_names")
    own = result.get(f"{prefix}test_top1_percent")
    tuned = result.get("finetuned_test_top1_percent") if not prefix else None
    if (value := tuned if tuned is not None else own) is not None:
        return Accuracy(percent=value, n_images=result.get("n_test_images") or None, tested=tested)
    if (value := result.get(f"{prefix}top1_percent")) is not None:
        n_images = result.get("n_valid_images") or None
        return Accuracy(percent=value, n_images=n_images, images="held-out images, which chose")
    return None


def _latencies(run: _Run, prefix: str = "") -> Iterator[Cost]:
    result = run.result or {}
    if (value := result.get(f"{prefix}measured_latency_ms")) is not None:
        on = (result.get("measured_on") or {}).get("runtime") or result.get("runtime") or run.config.get("runtime")
        yield Cost(value=value, how=How.MEASURED, by=str(on or "this machine"))
    if (value := result.get(f"{prefix}predicted_latency_ms")) is not None:
        yield Cost(value=value, how=How.PREDICTED, by=_table_name(result.get("latency_source")))
    if not prefix and run.kind is Kind.QUANTIZED and result.get("unit") in (Unit.MS, Unit.SIMULATED_MS):
        how = How.SUMMED if result["unit"] == Unit.MS else How.SIMULATED
        yield Cost(value=result.get("cost", 0.0), how=how, by=str(run.config.get("hardware")))


def _table_name(source: str | None) -> str:
    """Of a shipped table its file, of one that was made the folder that says of what, without the network's name."""
    path = Path(source or "a latency model")
    if path.name not in ("predictor.json", "table.json") or not path.parent.name:
        return readable(path.name)
    machine, around, _ = path.parent.name.partition("-around-")
    return readable(f"{machine}, its own layers" if around else machine)


def _sizes(run: _Run) -> Iterator[Cost]:
    result = run.result or {}
    if (size := result.get("size_bytes")) is not None:
        yield Cost(value=size, how=How.COUNTED, by="weights under the plan")
    elif (plan := run.folder / PLAN_FILE).is_file() and run.config.get("bits"):
        spec = read_spec(run.folder / SPEC_FILE)
        yield Cost(value=read_plan(plan, spec).n_bytes(spec), how=How.COUNTED, by="weights under the plan")
    elif (params := result.get("params")) is not None:
        yield Cost(value=BYTES_OF_A_WEIGHT * params, how=How.COUNTED, by=FLOAT_WEIGHTS)


# ------------------------------------------------------------------------------------- what was done with a network


def _attacks(folder: Path, blob: str) -> Iterator[Attack]:
    """Those on the weights that are there, in folders within the run and beside it."""
    for home in sorted({path.parent for around in (folder, folder.parent) for path in around.glob(f"*/{RESULT_FILE}")}):
        try:
            if _format(home) != attacking.FORMAT:
                continue
            found = judged(home / RESULT_FILE, _ATTACKED, ("n_images", "epsilon", "accuracy", "alarms"))
        except InputError:  # of other runs beside it nothing is to be said here
            continue
        if found.get("weights_blob_sha1") == blob:
            yield Attack(
                folder=home,
                percent=found["accuracy"]["all"]["percent"],
                n_images=found["n_images"],
                epsilon=found["epsilon"],
                n_alarms=len(found["alarms"]),
                as_float=found.get("bits") is None and (folder / PLAN_FILE).is_file(),
            )


def _exports(folder: Path, blob: str) -> Iterator[Export]:
    """The files in folders within the run that hold the weights that are there."""
    for record in sorted(folder.glob("*/*export*.json")):
        try:
            found = read_json(record)
            if not isinstance(found, dict) or found.get("format") != EXPORTED:
                continue
            judge(Node(found), _EXPORT, ("files", "check"))
        except InputError:
            continue
        for file in found["files"] if found.get("weights_blob_sha1") == blob else ():
            if (record.parent / file["file"]).exists():
                yield _export(record.parent, file, found["check"])


def _export(folder: Path, file: Mapping[str, Any], check: Mapping[str, Any]) -> Export:
    known = {**TORCH_FORMATS, **KERAS_FORMATS}.get(file["format"])
    return Export(
        file=folder / file["file"],
        format=file["format"],
        is_quantized=known is not None and known.quantized,
        runtime=file["runtime"].partition(" ")[0],
        ms=file["latency_ms"]["median"],
        n_bytes=file["size_bytes"],
        percent=file.get("top1_percent"),
        n_images=check["n_images"],
        drift_percent=check.get("anchor_drift_percent") or 0.0,
    )


# ------------------------------------------------------------------------------------------------------ its parent


def _start(run: _Run) -> str | None:
    """What a run started from, as it wrote it down: the weights where they were named, else the network."""
    if run.kind is Kind.SEARCHED:
        return None
    words = (train_settings.INHERIT, train_settings.SCRATCH, train_settings.PRETRAINED)
    weights = run.config.get("weights")
    if weights is not None and weights not in words:
        return str(Path(weights).parent) if (Path(weights).parent / CONFIG_FILE).is_file() else weights
    arch = run.config.get("arch")
    return str(arch) if arch is not None else None


def _find(start: str, run: _Run) -> tuple[Path | None, str]:
    """(the run folder that ``start`` means, or None; what is to be said of that)."""
    if start in catalog.known_names():
        return None, ""
    elsewhere = ""
    for place in _places(start, run.folder):
        if not (place / CONFIG_FILE).is_file():
            continue
        if not _is_parent(place, run):
            elsewhere = f"; at {place} there is another network now"
            continue
        is_moved = place.resolve() != Path(start).resolve()
        return place, f"moved: it was at {start}" if is_moved else ""
    return None, f"no longer at {start}{elsewhere}" if elsewhere or not Path(start).exists() else ""


def _places(start: str, folder: Path) -> Iterator[Path]:
    """Where it was, and where it would be if it was moved with ``folder``."""
    path, home = Path(start), folder.absolute()
    if path.is_dir():
        yield path
    for above in home.parents[:FARTHEST]:
        for depth in range(min(FARTHEST, len(path.parts)), 0, -1):
            if (place := above.joinpath(*path.parts[-depth:])).is_dir() and place.resolve() != path.resolve():
                yield place


def _is_parent(folder: Path, run: _Run) -> bool:
    """Whether it can be: its network has the size that the run found it with."""
    result = run.result or {}
    name = "parent_macs" if run.kind is Kind.PRUNED else "macs" if run.kind is Kind.QUANTIZED else None
    if name is None or result.get(name) is None or not (folder / SPEC_FILE).is_file():
        return True
    try:
        spec = read_spec(folder / SPEC_FILE)
    except InputError:
        return False
    return total_macs(spec) == result[name] or _at_resolution(spec, result) == result[name]


def _at_resolution(spec: ArchSpec, result: Mapping[str, Any]) -> int:
    """MACs at the resolution of the run, which may be another one (--image_size)."""
    side = result.get("resolution")
    return total_macs(spec, side) if isinstance(side, int) else total_macs(spec)


def _told(run: _Run) -> Step:
    """What a run wrote down of its parent."""
    result = run.result or {}
    sizes = list[Cost]()
    if (size := result.get("parent_size_bytes")) is not None:
        sizes.append(Cost(value=size, how=How.COUNTED, by=FLOAT_WEIGHTS))
    elif (params := result.get("parent_params")) is not None:
        sizes.append(Cost(value=BYTES_OF_A_WEIGHT * params, how=How.COUNTED, by=FLOAT_WEIGHTS))
    return Step(
        kind=Kind.GIVEN,
        name=readable(str(result.get("parent") or "")),
        accuracy=_accuracy(result, "parent_"),
        latencies=tuple(_latencies(run, "parent_")),
        sizes=tuple(sizes),
    )


def _filled(step: Step, told: Step, note: str) -> Step:
    """A step with what its child measured of it, where it has nothing of its own."""
    known = {(cost.how, cost.by) for cost in step.latencies}
    return replace(
        step,
        accuracy=step.accuracy or told.accuracy,
        latencies=(*step.latencies, *(cost for cost in told.latencies if (cost.how, cost.by) not in known)),
        sizes=step.sizes or told.sizes,
        notes=(*step.notes, *([note] if note else [])),
    )


def _given(start: str, run: _Run, told: Step, note: str) -> Step:
    """What the first run started from: a known network, a file, or a run that is not there any more."""
    scratch = run.config.get("weights") == train_settings.SCRATCH
    notes = [note] if note else ["its architecture alone: the weights were random"] if scratch else []
    return replace(told, name=readable(Path(start).name or start), notes=tuple(notes))
