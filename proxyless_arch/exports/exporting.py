"""What export.py and export_tf.py share: flags, formats, images, the check against the source network, the record.

No framework in here. A script builds a Backend from its zoo and hands it to ``export``: every file is written to a
folder beside its target, run in its own runtime on real images, compared with the source network, and moved to its
place when all of them pass.
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
import re
import shlex
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from proxyless_arch.apps.evaluation import (
    DIGITS,
    NO_BITS,
    Network,
    NetworkConfig,
    open_images,
)
from proxyless_arch.apps.prediction import class_names
from proxyless_arch.apps.scores import top_k_hits
from proxyless_arch.arch.bits import BitPlan
from proxyless_arch.arch.preprocessing import preprocessing_to_dict
from proxyless_arch.arch.spec import ArchSpec, Preprocessing
from proxyless_arch.base import settings
from proxyless_arch.base.cli import command_line
from proxyless_arch.base.errors import InputError
from proxyless_arch.base.files import read_bytes, read_json, write_json
from proxyless_arch.base.machine import cpu_name
from proxyless_arch.base.runs import locked
from proxyless_arch.base.settings import REQUIRED, setting
from proxyless_arch.base.strict import listed
from proxyless_arch.base.text import align, labeled
from proxyless_arch.base.timing import MAX_DRIFT, Quartiles, beside_anchor, quartiles, wall_ms
from proxyless_arch.base.units import Unit, format_count
from proxyless_arch.base.words import ARCH, DATA_PATH, SEED, THREADS
from proxyless_arch.data.batches import Sample, read_batch
from proxyless_arch.data.datasets import ImageDataset, any_images, digits, open_folder
from proxyless_arch.data.streams import Stream, numpy_rng
from proxyless_arch.exports.bit_files import HOLDS, needs_ranges
from proxyless_arch.exports.export_formats import (
    ALSO_CALLED,
    KERAS_FORMATS,
    TORCH_FORMATS,
    Format,
    Skipped,
    check_holds,
    check_runtimes,
    choose_formats,
)
from proxyless_arch.exports.exported_file import (
    BAKED,
    FORMAT,
    VERSION,
    Forward,
    Loaded,
    as_uint8,
    check_free,
    metadata_text,
)

LABELS, TWINS = "_labels.txt", "twins"
"""The ending of the file with the names of the classes; the staging folder of files that are only timed."""
WARM_UP_ROUNDS, RUNS_EACH, SHORT_MS = 3, 5, 10.0  # a network below SHORT_MS runs several times in its turn
LATENCY_KEYS = ("median", "quartile1", "quartile3")  # of a record

# ------------------------------------------------------------------------------------------------------- the flags


FIRST_OPSET, LAST_OPSET = 18, 23
EXPORTED, CHECK, CALIBRATED = "what is exported", "the check against the source network", "calibration of int8"


@dataclass(frozen=True, kw_only=True)
class ExportConfig(NetworkConfig):
    """What export.py and export_tf.py are asked to do. ``formats`` and ``skipped`` are what ``format`` comes to."""

    format: str = setting(REQUIRED, "one or more, separated by commas", group=EXPORTED, common=True)
    output: Path = setting(
        REQUIRED, "folder for the files", aliases=("-o",), group=EXPORTED, metavar="DIR", common=True
    )
    name: str | None = setting(
        None, "what the files are called, without their endings (default: the network's name)", group=EXPORTED
    )
    bake_preprocessing: bool = setting(
        False,
        "the file takes uint8 RGB images of the network's size and scales them itself (onnx, litert, litert_fp16)",
        group=EXPORTED,
        common=True,
    )
    opset: int | None = setting(
        None,
        f"operator set of the ONNX file (default: {FIRST_OPSET}, which onnxruntime reads from 1.14 on)",
        group=EXPORTED,
        minimum=FIRST_OPSET,
        maximum=LAST_OPSET,
    )
    check: str | None = setting(
        None,
        "images to compare on: a folder or .zip; with the network's class folders top-1 is measured too "
        f"(default: the embedded {DIGITS})",
        aliases=(DATA_PATH.flag,),
        group=CHECK,
        metavar="DATA",
        common=True,
    )
    check_images: int = setting(100, "how many of them", group=CHECK, minimum=1)
    threads: int = THREADS.setting(1, ", of every runtime", group=CHECK, minimum=1, maximum=1024)
    rounds: int = setting(30, "timings of each at batch 1", group=CHECK, minimum=1)
    calibration: str | None = setting(
        None,
        "training images: a folder or .zip, classes or not; may be the same as --check, whose images are then "
        f"left out (default: the embedded {DIGITS}, for a network of digits)",
        group=CALIBRATED,
        metavar="DATA",
        common=True,
    )
    calibration_images: int = setting(200, "how many", group=CALIBRATED, minimum=1)
    float_blocks: int | None = setting(
        None,
        "first blocks that stay float32, with the stem; 0: all of the network is int8 (default: a quarter)",
        group=CALIBRATED,
    )
    integer_io: bool = setting(
        False,
        "images and logits of an int8 file are int8, too, as microcontrollers and Edge TPUs want them",
        group=CALIBRATED,
    )
    seed: int = SEED.setting(0, ": which images are taken")
    formats: tuple[Format, ...] = ()
    skipped: tuple[Skipped, ...] = ()


def parse(argv: Sequence[str] | None, prog: str, description: str | None, known: Mapping[str, Format]) -> ExportConfig:
    """The command line of both scripts, whose formats are ``known``. Raises InputError naming the flag."""
    config = settings.parse(ExportConfig, argv, prog, description)
    if config.arch is None:
        raise InputError("expected a network", ARCH.flag)
    _refuse_those_of_the_twin(config, known)
    formats = choose_formats(config.format, known)
    if config.calibration and not any(format.quantized for format in formats):
        names = [format.name for format in known.values() if format.quantized]
        wanted = listed(names) if names else "the int8 format of export_tf.py"
        raise InputError(f"only {wanted} is calibrated, got --format {config.format}", "--calibration")
    if config.opset is not None and all(format.name != "onnx" for format in formats):
        raise InputError(f"only onnx has operator sets, got --format {config.format}", "--opset")
    if config.bake_preprocessing and not all(format.bakes for format in formats):
        able = listed(format.name for format in known.values() if format.bakes)
        raise InputError(f"only {able} can scale images, got --format {config.format}", "--bake_preprocessing")
    if config.integer_io and not any(format.name == "litert_int8" for format in formats):
        raise InputError(f"only litert_int8 takes integers, got --format {config.format}", "--integer_io")
    if config.integer_io and config.float_blocks != 0 and config.bits in (None, NO_BITS):
        raise InputError("an integer file has no float32 layers: add --float_blocks 0", "--integer_io")
    if config.float_blocks is not None and config.bits not in (None, NO_BITS):
        raise InputError(
            f"not together with --bits: the plan says what stays float32; --bits {NO_BITS} leaves it", "--float_blocks"
        )
    ready, skipped = check_runtimes(formats)
    return replace(config, formats=ready, skipped=skipped)


def _refuse_those_of_the_twin(config: ExportConfig, known: Mapping[str, Format]) -> None:
    """Raises InputError for formats that the other script writes, with the command that does."""
    other, theirs = ("export_tf.py", KERAS_FORMATS) if known is TORCH_FORMATS else ("export.py", TORCH_FORMATS)
    words = [word.strip() for word in config.format.split(",")]
    found = [name for word in words if (name := ALSO_CALLED.get(word.lower(), word)) in theirs and name not in known]
    if found:
        command = ["--arch", str(config.arch), "--format", ",".join(found)]
        command += ["--output", str(config.output), *(["--weights", str(config.weights)] if config.weights else [])]
        raise InputError(f"{other} writes {listed(found)}: {command_line(other, *command)}", "--format")


# ------------------------------------------------------------------------------------------------------ the images


class Images(NamedTuple):
    """Real images as the network's input.

    Args:
        source: where they come from, for a person.
        pixels: float32 (N, H, W, 3), prepared by the preprocessing.
        labels: int64 (N,), or None where they are not the network's classes.
    """

    source: str
    pixels: np.ndarray
    labels: np.ndarray | None


def _is_calibrated(format: Format, network: Network) -> bool:
    return format.quantized and needs_ranges(_plan_of(format, network), format.name)


def pick_images(arguments: ExportConfig, spec: ArchSpec, calibrates: bool = True) -> tuple[Images, Images | None]:
    """The images of the check and, when a format is quantized, those of the calibration: never the same image.

    Which ones depends on --seed and the data alone. Where both come from one set of images, the check takes its
    share first. ``calibrates``: whether a quantized one needs them (bit_files.needs_ranges).

    Raises:
        InputError: no images, unreadable ones, too few for both, or calibration images missing.
    """
    check, labelled = _check_set(arguments.check, spec)
    order = _order(check, arguments.seed)
    taken = order[: arguments.check_images]
    checked = _read(arguments.check or f"the embedded {DIGITS}", check, taken, spec.preprocessing, labelled, "--check")
    if not (calibrates and any(format.quantized for format in arguments.formats)):
        return checked, None
    calibration, origin = _calibration_set(arguments.calibration, spec)
    used = {check.place(index) for index in taken.tolist()}
    order = _order(calibration, arguments.seed)
    free = np.array([index for index in order.tolist() if calibration.place(index) not in used], dtype=np.int64)
    if not len(free):
        raise InputError(
            f"all {len(calibration)} images are used by the check: lower --check_images or give others", "--calibration"
        )
    chosen = free[: arguments.calibration_images]
    if len(chosen) < 2:
        raise InputError(f"expected at least 2 images to calibrate with, got {len(chosen)}", "--calibration")
    return checked, _read(origin, calibration, chosen, spec.preprocessing, False, "--calibration")


def _check_set(path: str | None, spec: ArchSpec) -> tuple[ImageDataset, bool]:
    """(the images, whether their labels are the network's classes)."""
    if path is None or path == DIGITS:
        images = digits()[1]
        return images, spec.class_names == images.class_names
    try:
        return open_images(path, spec), True
    except InputError:
        return any_images(path), False


def _calibration_set(path: str | None, spec: ArchSpec) -> tuple[ImageDataset, str]:
    if path is None or path == DIGITS:
        images = digits()[0]
        if path is None and spec.class_names != images.class_names:
            raise InputError(
                f"int8 needs images like those that {spec.name!r} was trained with: give a folder or .zip of them",
                "--calibration",
            )
        return images, f"the embedded {DIGITS}"
    try:
        return open_folder(path, "train"), path
    except InputError:
        return any_images(path), path


def _order(images: ImageDataset, seed: int) -> np.ndarray:
    return numpy_rng(seed, Stream.EXPORT_IMAGES).permutation(len(images))


def _read(
    source: str, images: ImageDataset, indices: np.ndarray, preprocessing: Preprocessing, labelled: bool, flag: str
) -> Images:
    batch = read_batch(images, preprocessing, None, 0, [Sample(0, index) for index in np.sort(indices).tolist()])
    if not len(batch.labels):
        raise InputError(f"none of the {len(indices)} images can be read; the first: {batch.errors[0]}", flag)
    return Images(source, batch.images, batch.labels if labelled else None)


# ------------------------------------------------------------------------------------------------------- the check


class Comparison(NamedTuple):
    """An export's logits beside the source network's, on the same images.

    ``spread``: the standard deviation of the source's logits.
    """

    max_logit_difference: float
    rms_logit_difference: float
    top1_agreement_percent: float
    source_top1_percent: float | None
    top1_percent: float | None
    spread: float

    def allowed(self, format: Format) -> float | None:
        """The largest difference that passes; rounding grows with the logits, so where they spread, more does."""
        return None if format.tolerance is None else format.tolerance * max(1.0, self.spread)


def compare(source: np.ndarray, logits: np.ndarray, labels: np.ndarray | None) -> Comparison:
    """The differences between two (N, classes) arrays of logits; accuracies where labels are known.

    Raises:
        InputError: the source network's logits are not finite: there is nothing to compare with.
    """
    if not np.isfinite(source).all():
        raise InputError("the source network's logits are not finite on the images of the check", "--weights")
    if logits.shape != source.shape:
        raise ValueError(f"expected logits of shape {source.shape}, got {logits.shape}")
    difference = np.abs(logits.astype(np.float64) - source)
    source_top1, top1 = (None, None) if labels is None else (_top1(source, labels), _top1(logits, labels))
    # a NaN anywhere makes the largest difference infinite, which no tolerance accepts
    largest = float(difference.max()) if np.isfinite(difference).all() else math.inf
    return Comparison(
        largest,
        float(np.sqrt((difference**2).mean())) if math.isfinite(largest) else math.inf,
        100 * float((logits.argmax(1) == source.argmax(1)).mean()),
        source_top1,
        top1,
        float(source.std()),
    )


def _top1(logits: np.ndarray, labels: np.ndarray) -> float:
    return 100 * top_k_hits(logits, labels, 1) / len(labels)


def require_within(format: Format, found: Comparison) -> None:
    """Whether an export is close enough to its source.

    Raises:
        InputError: it misses the format's tolerance, or its logits are not finite.
    """
    allowed = found.allowed(format)
    limit = math.inf if allowed is None else allowed
    if not found.max_logit_difference <= limit or not math.isfinite(found.max_logit_difference):
        raise InputError(
            f"its logits differ from the source network's by up to {found.max_logit_difference:.2g}, allowed are "
            f"{limit:.2g}; nothing was written",
            format.name,
        )


@dataclass(frozen=True)
class Timed:
    """Wall time of one image in ms by runtime, ``source`` being the source network's, beside which the others are timed
    (base.timing.beside_anchor); how far its own time moved, relative."""

    ms: Mapping[str, Quartiles]
    drift: float
    repeated: int


def time_beside(source: Callable[[], object], runs: Mapping[str, Callable[[], object]], rounds: int) -> Timed:
    """Time each run once per round, at the median speed of the machine by the ``source`` network.

    A short one takes the median of several runs in a row: the first finds the caches full of the others' weights, which
    is not how a network is used, nor how a search times it.
    """
    found = beside_anchor(_taker(source), {name: _taker(run) for name, run in runs.items()}, rounds, WARM_UP_ROUNDS)
    ms = {"source": found.anchor, **found.ms}
    return Timed({name: quartiles(times) for name, times in ms.items()}, found.drift, found.repeated)


def _taker(run: Callable[[], object]) -> Callable[[], float]:
    run()
    count = RUNS_EACH if wall_ms(run) < SHORT_MS else 1
    return lambda: statistics.median(wall_ms(run) for _ in range(count))


# ------------------------------------------------------------------------------------------------------- the files


@contextlib.contextmanager
def writing(place: Path) -> Iterator[None]:
    """An operating system's refusal to write becomes an InputError naming --output."""
    try:
        yield
    except OSError as error:
        raise InputError(f"cannot be written: {error.strerror or error}", "--output", str(place)) from None


STAGING = ".export-"


@contextlib.contextmanager
def staging(output: Path) -> Iterator[Path]:
    """A temporary folder inside ``output``, removed in any case; an ``output`` made for it goes too if it stays empty.

    Raises:
        InputError: nothing can be written there, or another process does.
    """
    made = not output.exists()
    with writing(output):
        output.mkdir(parents=True, exist_ok=True)
    try:
        with locked(output, "--output"):
            for litter in output.glob(f"{STAGING}*"):  # of an export that was killed
                shutil.rmtree(litter, ignore_errors=True)
            with writing(output):
                folder = Path(tempfile.mkdtemp(prefix=STAGING, dir=output))
            try:
                yield folder
            finally:
                shutil.rmtree(folder, ignore_errors=True)
    finally:
        if made:
            with contextlib.suppress(OSError):  # not empty: the files are there
                output.rmdir()


def write_file(path: Path, content: bytes | bytearray) -> None:
    """Write ``content`` and wait until it is on the disk."""
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _publish(staged: Path, target: Path) -> None:
    """Move a file or a folder to its place; what was there before is removed with the staging folder."""
    if staged.is_dir() and target.exists():
        target.replace(staged.with_name(f"{target.name}.before"))
    staged.replace(target)


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files)


def file_stem(name: str) -> str:
    """A network's name as the start of a file name."""
    return re.sub(r"[^\w.-]+", "_", name).lstrip(".") or "network"


# ---------------------------------------------------------------------------------------------------------- the run


class Backend(Protocol):
    """A framework's side of an export. Images are in the layout that ``native`` gives."""

    @property
    def framework(self) -> str:
        """Name and version, for the table and the record."""

    @property
    def versions(self) -> Mapping[str, str]:
        """Versions of the libraries involved."""

    @property
    def threads(self) -> int:
        """Threads that the framework really uses."""

    @property
    def channels(self) -> int:
        """The axis of the channels in its images."""

    @property
    def source(self) -> Forward:
        """The source network at inference."""

    def native(self, pixels: np.ndarray) -> np.ndarray:
        """(N, H, W, 3) images in the layout of this framework's files."""

    def write(self, format: Format, path: Path, metadata: str, calibration: np.ndarray | None) -> Mapping[str, Any]:
        """Write one file or folder; returns how it was made, as JSON values."""

    def load(self, format: Format, path: Path) -> Loaded:
        """The file in its own runtime."""


@dataclass(kw_only=True)
class Export:
    """One exported file: how it was made and what the check found."""

    format: Format
    staged: Path
    target: Path
    loaded: Loaded
    comparison: Comparison
    made: Mapping[str, Any] = field(default_factory=dict)


def export(
    arguments: ExportConfig, argv: Sequence[str], network: Network, backend: Backend, record_name: str
) -> dict[str, Any]:
    """Write, check, time and publish every format that can be; prints the table and returns the record.

    Args:
        arguments: of ``parse``.
        argv: the command, script first, for the record.
        network: the source.
        backend: its framework.
        record_name: of the JSON file beside the exports.

    Raises:
        InputError: something cannot be exported, written or read, or misses its tolerance. No file is left then.
    """
    stem = file_stem(arguments.name or network.spec.name)
    for format in arguments.formats:
        check_holds(network.spec, format)
        check_free(arguments.output / f"{stem}{format.suffix}", network)
    _check_labels(arguments.output / f"{stem}{LABELS}", network.spec)
    for note in network.notes:
        print(labeled("note", note), flush=True)
    calibrates = any(_is_calibrated(format, network) for format in arguments.formats)
    checked, calibration = pick_images(arguments, network.spec, calibrates)
    images = backend.native(checked.pixels)
    expected = backend.source(images)
    output: Path = arguments.output
    with staging(output) as folder:
        making = functools.partial(_make, folder, stem, arguments, network, backend, images, expected, checked.labels)
        exports = [making(format, calibration) for format in arguments.formats]
        one = images[:1]
        if arguments.bake_preprocessing:
            one = as_uint8(one, network.spec.preprocessing, backend.channels)
        runs = {done.format.name: functools.partial(done.loaded.forward, one) for done in exports}
        for twin in _twins_to_time(arguments.formats):
            (folder / TWINS).mkdir(exist_ok=True)
            backend.write(twin, folder / TWINS / twin.name, metadata_text(network), None)
            runs[twin.name] = functools.partial(backend.load(twin, folder / TWINS / twin.name).forward, one)
        timed = time_beside(lambda: backend.source(images[:1]), runs, arguments.rounds)
        record_name = _free_record(output, record_name, stem)
        record = _record(arguments, argv, network, backend, checked, calibration, exports, timed)
        labels = _write_labels(folder / f"{stem}{LABELS}", network.spec)
        with writing(output):
            write_json(folder / record_name, record)
            for done in exports:
                _publish(done.staged, done.target)
            for path in (*labels, folder / record_name):
                _publish(path, output / path.name)
    print(table(record))
    print(labeled("record", output / record_name), flush=True)
    return record


def _free_record(output: Path, name: str, stem: str) -> str:
    """What the record is called: ``name``, or with the files' own in front where that one is of other files."""
    if not (output / name).is_file():
        return name
    try:
        files = [str(each["file"]) for each in read_json(output / name)["files"]]
    except (InputError, LookupError, TypeError):
        return f"{stem}_{name}"
    return name if all(file == f"{stem}{_ending(file)}" for file in files) else f"{stem}_{name}"


def _ending(file: str) -> str:
    """The longest suffix of a format that a file's name has."""
    suffixes = [format.suffix for format in (*TORCH_FORMATS.values(), *KERAS_FORMATS.values())]
    return max((suffix for suffix in suffixes if file.endswith(suffix)), key=len, default="?")


def _twins_to_time(formats: Sequence[Format]) -> list[Format]:
    """The float formats that quantized ones are held against, where they are not asked for as well."""
    asked, known = {format.name for format in formats}, {**TORCH_FORMATS, **KERAS_FORMATS}
    return [
        known[twin] for twin in dict.fromkeys(format.float_twin for format in formats) if twin and twin not in asked
    ]


def _check_labels(path: Path, spec: ArchSpec) -> None:
    """Raises InputError where the names of other classes lie there, beside files of another network."""
    if path.is_file() and read_bytes(path).decode(errors="replace").splitlines() != list(class_names(spec)):
        problem = "holds the classes of another network: give another folder, or a name with --name"
        raise InputError(problem, "--output", str(path))


def _write_labels(path: Path, spec: ArchSpec) -> list[Path]:
    """A text file with the name of a class per line, in the order of the logits; none where they are not known."""
    names = class_names(spec)
    if not names:
        return []
    write_file(path, "".join(f"{name}\n" for name in names).encode())
    return [path]


def _make(
    folder: Path,
    stem: str,
    arguments: ExportConfig,
    network: Network,
    backend: Backend,
    images: np.ndarray,
    expected: np.ndarray,
    labels: np.ndarray | None,
    format: Format,
    calibration: Images | None,
) -> Export:
    """Write one format into the staging folder and compare it with the source."""
    name = f"{stem}{format.suffix}"
    facts: dict[str, Any] = {"framework": backend.framework, "format": format.name}
    if arguments.bake_preprocessing:
        facts["input"] = BAKED
    pixels = None
    if _is_calibrated(format, network) and calibration is not None:
        pixels = calibration.pixels
        facts["calibration"] = {"n_images": len(pixels), "seed": arguments.seed}
    with writing(arguments.output):
        made = backend.write(format, folder / name, metadata_text(network, _plan_of(format, network), **facts), pixels)
    loaded = backend.load(format, folder / name)
    found = compare(expected, loaded.forward(images), labels)
    require_within(format, found)
    return Export(
        format=format,
        staged=folder / name,
        target=arguments.output / name,
        loaded=loaded,
        comparison=found,
        made=made,
    )


def _plan_of(format: Format, network: Network) -> BitPlan | None:
    """The plan that a file is made by."""
    return network.bits if format.name in HOLDS else None


def _record(
    arguments: ExportConfig,
    argv: Sequence[str],
    network: Network,
    backend: Backend,
    checked: Images,
    calibration: Images | None,
    exports: Sequence[Export],
    timed: Timed,
) -> dict[str, Any]:
    spec, latencies = network.spec, timed.ms
    return {
        "format": FORMAT,
        "version": VERSION,
        "command": shlex.join(["python", *argv]),
        "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "arch": spec.name,
        "num_classes": spec.num_classes,
        "weights": network.weights,
        "weights_blob_sha1": network.weights_blob_sha1,
        "preprocessing": preprocessing_to_dict(spec.preprocessing),
        "notes": list(network.notes),
        "cpu": cpu_name(),
        "threads": backend.threads,
        "versions": dict(backend.versions),
        "check": {
            "data": checked.source,
            "n_images": len(checked.pixels),
            "labelled": checked.labels is not None,
            "seed": arguments.seed,
            "rounds": arguments.rounds,
            "anchor_drift_percent": 100 * timed.drift,
            "repeated_rounds": timed.repeated,
        },
        "calibration": None
        if calibration is None
        else {"data": calibration.source, "n_images": len(calibration.pixels), "seed": arguments.seed},
        "source": {
            "runtime": backend.framework,
            "top1_percent": exports[0].comparison.source_top1_percent,
            "latency_ms": dict(zip(LATENCY_KEYS, latencies["source"], strict=True)),
        },
        "files": [
            {
                "format": done.format.name,
                "file": done.target.name,
                "size_bytes": size_of(done.staged),
                "runtime": f"{done.loaded.runtime} {done.loaded.version}",
                "tolerance": done.comparison.allowed(done.format),
                "max_logit_difference": done.comparison.max_logit_difference,
                "rms_logit_difference": done.comparison.rms_logit_difference,
                "top1_agreement_percent": done.comparison.top1_agreement_percent,
                "top1_percent": done.comparison.top1_percent,
                "latency_ms": dict(zip(LATENCY_KEYS, latencies[done.format.name], strict=True)),
                "float_latency_ms": latencies[done.format.float_twin].median if done.format.float_twin else None,
                "made": dict(done.made),
            }
            for done in exports
        ],
        "skipped": [{"format": format.name, "reason": reason} for format, reason in arguments.skipped],
    }


def table(record: Mapping[str, Any]) -> str:
    """The record for a terminal: one line per file, the source network first, what was left out last."""
    check = record["check"]
    rows = [("", "size", "max |d logit|", "same top-1", "top-1", "ms per image", "runtime")]
    source = record["source"]
    rows.append(("source", "", "", "", _percent(source["top1_percent"]), _ms(source["latency_ms"]), source["runtime"]))
    for file in record["files"]:
        rows.append(
            (
                file["file"],
                f"{format_count(file['size_bytes'])}B",
                f"{file['max_logit_difference']:.1e}",
                _percent(file["top1_agreement_percent"]),
                _percent(file["top1_percent"]),
                _ms(file["latency_ms"]),
                file["runtime"],
            )
        )
    lines = align(rows, left=(0, len(rows[0]) - 1))
    width = max(len(row[0]) for row in rows)
    lines += [f"{left['format']:<{width}}  skipped: {left['reason']}" for left in record["skipped"]]
    lines += list(map(_slower_than_float, filter(_is_slower, record["files"])))
    if check["anchor_drift_percent"] > 100 * MAX_DRIFT:
        lines.append(
            f"the machine's speed moved by {check['anchor_drift_percent']:.0f} % meanwhile: do not quote the times"
        )
    unknown = "" if check["labelled"] else " (not labelled with the network's classes)"
    note = f"compared on {check['n_images']} images of {check['data']}{unknown}; latency: median (quartiles) of "
    note += f"{check['rounds']} rounds at batch 1, wall time, threads: {record['threads']}, {record['cpu']}"
    return "\n".join([*lines, note])


def _is_slower(file: Mapping[str, Any]) -> bool:
    """Whether a quantized file takes longer than its float twin, by more than either's quartiles."""
    float_ms = file["float_latency_ms"]
    return float_ms is not None and file["latency_ms"]["quartile1"] > float_ms


def _slower_than_float(file: Mapping[str, Any]) -> str:
    times = f"{file['latency_ms']['median']:.2g} against {file['float_latency_ms']:.2g} ms"
    what = f"{file['file']} is slower here than its float twin ({times})"
    return f"{what}: smaller but slower, on this machine"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.1f} %"


def _ms(latency: Mapping[str, float]) -> str:
    decimals = Unit.MS.decimals(latency["median"])
    median, low, high = (f"{latency[key]:.{decimals}f}" for key in LATENCY_KEYS)
    return f"{median} ({low}-{high})"
