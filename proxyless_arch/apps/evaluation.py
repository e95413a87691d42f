"""What eval.py and eval_tf.py share: the flags, which network on which images, the record. No framework in here."""

from __future__ import annotations

import math
import os
import shlex
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np

from proxyless_arch.apps import orientation
from proxyless_arch.apps.contact_sheet import Tile, write_contact_sheet
from proxyless_arch.apps.label_map import AUTO, STRICT, LabelMap, auto_map, read_map, wnids_of
from proxyless_arch.apps.memory import SCORED, Free, Plan, Reading, image_bytes, scoring_plan
from proxyless_arch.apps.per_class import FILE as PER_CLASS_FILE
from proxyless_arch.apps.per_class import ClassScore, per_class_record
from proxyless_arch.apps.per_class_pictures import write_per_class_picture
from proxyless_arch.apps.prediction import as_record, class_names, imagenet_classes, most_likely
from proxyless_arch.apps.scores import EvalResult, shown_score
from proxyless_arch.arch import catalog
from proxyless_arch.arch.bits import BitPlan, read_plan
from proxyless_arch.arch.catalog import Demo, Layout, Release
from proxyless_arch.arch.preprocessing import assumption, preprocessing_to_dict
from proxyless_arch.arch.released_tree import CIFAR10_CLASSES
from proxyless_arch.arch.spec import GREY, RGB, ArchSpec, Preprocessing, imagenet_preprocessing, with_channels
from proxyless_arch.base import progress, settings
from proxyless_arch.base.errors import InputError
from proxyless_arch.base.files import expanded, write_json, writing
from proxyless_arch.base.machine import PRECISIONS, cpu_name, usable_cores, workers_text
from proxyless_arch.base.runs import format_seconds
from proxyless_arch.base.settings import setting
from proxyless_arch.base.sides import Sides, height_width, in_words, scaled
from proxyless_arch.base.strict import counted
from proxyless_arch.base.text import in_one_line, labeled, number_of
from proxyless_arch.base.timing import Stopwatch, wall_ms
from proxyless_arch.base.words import (
    ARCH,
    BATCH_SIZE,
    DATA_PATH,
    DEVICE,
    DRY_RUN,
    IN_CHANS,
    RESOLUTION,
    SAVE_JSON,
    THREADS,
    WORKERS,
    new_file,
)
from proxyless_arch.data.batches import seconds_of, seconds_to_read
from proxyless_arch.data.datasets import ALL, ImageDataset, digits, open_folder
from proxyless_arch.data.images import as_image, eval_transform
from proxyless_arch.data.sources import ArraySource
from proxyless_arch.weights.files import (
    NamedTensors,
    WeightFile,
    git_blob_sha1,
    in_grey,
    tensors_sha256,
)
from proxyless_arch.weights.lookup import find_trained

FORMAT, VERSION = "proxyless-arch/evaluation", 1
PER_CLASS_PICTURE, WORST_PICTURE = "per_class.svg", "worst.png"
IMAGENET_DIR = "IMAGENET_DIR"
DIGITS = "digits"
NO_BITS = "none"
PHOTOS = ("china.jpg", "flower.jpg")
"""The photos in the scikit-learn wheel."""
READER_SHARE = 4
"""One core in four reads images when a CPU also runs the network: reading takes 4 ms of a core, the released networks
at least three times that. More threads than cores cost PyTorch half its speed or worse (its threads spin)."""

AnyBatch = TypeVar("AnyBatch", bound=tuple[Sized, Sized])


# ------------------------------------------------------------------------------------------------------ the flags


WHAT, PREPARED, HOW = "what is evaluated", "how images are prepared (default: as the weights say)", "how it runs"
CHANNELS = "per channel, or one number for all, of 0..1"


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """What load_network reads: which network, with which weights, on images prepared how."""

    arch: str | None = ARCH.setting(None, f" (known: {', '.join(catalog.known_names())})", group=WHAT, common=True)
    weights: Path | None = setting(
        None,
        "of any usual format: .safetensors, .pth, .keras, .h5, ... (default: the run's own or the published)",
        group=WHAT,
        metavar="FILE",
        common=True,
    )
    bits: str | None = setting(
        None,
        "a bit plan, bits.json of quantize.py, under which the network is computed (default: that of its weight file); "
        f"{NO_BITS}: float32",
        group=WHAT,
        metavar="FILE",
    )
    resolution: Sides | None = RESOLUTION.setting(
        None, ", cut from the centre", group=PREPARED, minimum=1, maximum=8192, common=True
    )
    resize: int | None = setting(None, "short side of the image before the crop, in pixels", group=PREPARED, minimum=1)
    mean: tuple[float, ...] | None = setting(None, CHANNELS, group=PREPARED, metavar="X")
    std: tuple[float, ...] | None = setting(None, CHANNELS, group=PREPARED, metavar="X")
    interpolation: str | None = setting(None, "of the resizing", ("bilinear", "bicubic"), group=PREPARED)
    exif: str = orientation.EXIF.setting(orientation.AUTO, allowed=orientation.CHOICES, group=PREPARED)
    in_chans: int | None = IN_CHANS.setting(None, group=PREPARED, minimum=GREY, maximum=RGB)


@dataclass(frozen=True, kw_only=True)
class RunConfig(NetworkConfig):
    """How a command runs a network on images. ``exported``: a file of export.py, in place of ``arch``."""

    exported: Path | None = None
    batch_size: int | None = BATCH_SIZE.setting(
        None, f" (default: {SCORED}, or as many as fit the memory)", group=HOW, minimum=1, common=True
    )
    workers: int | None = WORKERS.setting(
        None, " (default: one per core, one per 4 cores without a GPU; 0 reads in this one)", group=HOW
    )
    threads: int | None = THREADS.setting(
        None, " (default: the cores that no worker reads on)", group=HOW, minimum=1, maximum=1024
    )
    device: str = DEVICE.setting("auto", group=HOW, common=True)
    gpu: str | None = setting(None, "the same as --device cuda:N", aliases=("-g",), group=HOW, metavar="N")
    precision: str = setting("fp32", "of the convolutions", PRECISIONS, group=HOW)


@dataclass(frozen=True, kw_only=True)
class EvalConfig(RunConfig):
    """What eval.py and eval_tf.py are asked to do."""

    data_path: str | None = DATA_PATH.setting(
        None,
        f", with val/ or test/ or without; or the word {DIGITS} for the embedded test set (default: ${IMAGENET_DIR}; "
        "without it, two photos are classified)",
        aliases=("-p", "--path"),
        group=WHAT,
        common=True,
    )
    label_map: str = setting(
        AUTO,
        f"which class each folder is: {AUTO} (by wnid, class name or number, where that is certain), {STRICT} (the "
        "folders must be the network's classes, all of them), or a JSON file {folder: class}",
        group=WHAT,
        metavar="MAP",
        common=True,
    )
    limit: int | None = setting(None, "at most this many images, evenly spaced", group=WHAT, minimum=1, common=True)
    strict_data: bool = setting(False, "an unreadable image is an error, not left out", group=WHAT)
    dry_run: bool = DRY_RUN.setting(False, group=HOW)
    save_json: Path | None = SAVE_JSON.setting(None, group=HOW, metavar="FILE", check=new_file, common=True)
    per_class: Path | None = setting(
        None,
        "write accuracy by class, what is taken for what, and the most confident mistakes to this folder",
        group=HOW,
        metavar="DIR",
        common=True,
    )


_EXPORTED = "an exported file, in place of --arch and --weights; it holds network, preprocessing and classes"
EXPORTED_SUFFIXES = (".onnx", ".tflite")


@dataclass(frozen=True, kw_only=True)
class OnnxEvalConfig(EvalConfig):
    """Of eval.py, which runs ONNX files as well."""

    exported: Path | None = setting(None, _EXPORTED, flag="--onnx", group=WHAT, metavar="FILE", common=True)


@dataclass(frozen=True, kw_only=True)
class TfliteEvalConfig(EvalConfig):
    """Of eval_tf.py, which runs LiteRT files as well."""

    exported: Path | None = setting(None, _EXPORTED, flag="--tflite", group=WHAT, metavar="FILE", common=True)


def parse(
    argv: Sequence[str] | None, prog: str, description: str | None, cls: type[EvalConfig] = EvalConfig
) -> EvalConfig:
    """The command line of both scripts. Raises InputError naming the flag."""
    config = settings.parse(cls, argv, prog, description)
    if config.per_class is not None:
        _check_folder(config.per_class)
    exported = settings.flag_of(cls.__dataclass_fields__["exported"]) if cls is not EvalConfig else None
    if config.data_path == "":
        raise InputError("expected a folder or .zip of images, got ''", DATA_PATH.flag)
    if config.data_path is None:
        config = replace(config, data_path=expanded(os.environ.get(IMAGENET_DIR, "")) or None)
    return settled(config, exported)


def _check_folder(path: Path) -> None:
    try:
        new_file(path / PER_CLASS_FILE)
    except InputError as error:
        raise InputError(error.problem, "--per_class") from None


AnyRun = TypeVar("AnyRun", bound=RunConfig)


def settled(config: AnyRun, flag: str | None = None) -> AnyRun:
    """``config`` with --gpu as a device and an exported file that --arch names as one.

    Args:
        config: as it was parsed.
        flag: the command's own for an exported file, where it has one.

    Raises:
        InputError: no network, or what an exported file has decided already is asked for again.
    """
    if config.gpu is not None:
        config = replace(config, device=_device_of(config.gpu, config.device))
    if config.exported is None and Path(config.arch or "").suffix.lower() in EXPORTED_SUFFIXES:
        flag, config = ARCH.flag, replace(config, exported=Path(str(config.arch)), arch=None)
    if config.arch is None and config.exported is None:
        either = f"one of {ARCH.flag} and {flag}, got neither" if flag else "a network"
        raise InputError(f"expected {either}", ARCH.flag)
    if config.exported is not None:
        _check_exported(config, str(flag))
    return config


def _device_of(gpu: str, device: str) -> str:
    """--gpu of the official implementation, a number or 'all', as --device."""
    if device != "auto":
        raise InputError(f"not together with {DEVICE.flag}", "--gpu")
    if gpu != "all" and not gpu.isdecimal():
        raise InputError(f"expected an integer, 0 or more, or all, got {gpu!r}", "--gpu")
    return "auto" if gpu == "all" else f"cuda:{gpu}"


def _check_exported(config: RunConfig, flag: str) -> None:
    """What an exported file has decided already must not be asked for again."""
    for name, reason in (
        ("arch", "the file holds its network"),
        ("weights", "the file holds its weights"),
        ("bits", "the file has its precision"),
        ("resolution", "the file takes one size of image"),
        ("in_chans", "the file has its channels"),
    ):
        if getattr(config, name) is not None:
            raise InputError(f"not together with {flag}: {reason}", f"--{name}")
    if config.precision != "fp32":
        raise InputError(f"not together with {flag}: the file has its precision", "--precision")
    if config.device not in ("auto", "cpu"):
        raise InputError(f"{flag} files run on the CPU here, got {config.device!r}", DEVICE.flag)


# ---------------------------------------------------------------------------------------------------- the network


@dataclass(frozen=True, kw_only=True)
class Network:
    """What is evaluated: a spec with the preprocessing in force, and its weights.

    ``weights`` says where they come from: a file, or an installed package. ``published`` is set for a network of the
    catalog, and ``published_weights`` when its weights are those that were published. ``changed`` tells whether
    a flag changed the preprocessing. ``bits``: the plan under which it is computed, None for float32.
    """

    spec: ArchSpec
    tensors: NamedTensors
    weights: str
    weights_blob_sha1: str | None
    published: Release | Demo | Layout | None
    changed: bool
    published_weights: bool = False
    provenance: Mapping[str, Any] = field(default_factory=dict)
    """What the weight file says about itself."""
    notes: tuple[str, ...] = ()
    """What was decided about it without asking, one line each."""
    bits: BitPlan | None = None

    @property
    def arithmetic(self) -> str:
        """How it is computed under a plan, for a person."""
        assert self.bits is not None
        average = self.bits.average_bits(self.spec)
        return f"{self.bits} (plan {self.bits.digest}, {average:.2f} bits per weight, as if: in float64)"


def load_network(arguments: NetworkConfig) -> Network:
    """The network that --arch, --weights and the preprocessing's flags describe.

    Args:
        arguments: of ``parse``.

    Raises:
        InputError: an unknown name (with the nearest), a bad file, weights of another network, or no weights (with
            what to put where).
    """
    assert arguments.arch is not None
    trained = find_trained(arguments.arch, arguments.weights, place="--arch", flag="--weights")
    spec, found = trained.spec, trained.weights
    if arguments.in_chans is not None:
        spec, found = for_images(spec, found, arguments.in_chans)
    published = _published(spec)
    sha1 = None if trained.file is None else git_blob_sha1(trained.file)
    preprocessing = _preprocessing(spec.preprocessing, arguments)
    return Network(
        spec=replace(spec, preprocessing=preprocessing),
        tensors=found.tensors,
        weights=trained.origin,
        weights_blob_sha1=sha1,
        published=published,
        changed=preprocessing != spec.preprocessing,
        # without a file they are the demo's, whose sha256 demo_weights has compared
        published_weights=sha1 is None or _is_published(published, sha1, found.tensors),
        provenance=found.provenance,
        notes=(*([found.note] if found.note else []), *assumption(preprocessing)),
        bits=_bits(arguments.bits, found.bits, spec),
    )


AnyWeights = TypeVar("AnyWeights", WeightFile, WeightFile | None)


def for_images(spec: ArchSpec, found: AnyWeights, channels: int) -> tuple[ArchSpec, AnyWeights]:
    """A network and its weights, where it has some, for images of so many channels.

    Raises:
        InputError: another number than 1 and 3, or RGB images for a network of grey ones.
    """
    if channels not in (GREY, spec.stem.in_channels):
        raise InputError(f"expected {GREY} or the network's {spec.stem.in_channels}, got {channels}", IN_CHANS.flag)
    if channels == spec.stem.in_channels:
        return spec, found
    return with_channels(spec, channels), found and in_grey(found)


def _bits(given: str | None, own: BitPlan | None, spec: ArchSpec) -> BitPlan | None:
    """The plan in force."""
    if given is None:
        return own
    return None if given == NO_BITS else read_plan(expanded(given), spec)


def exported_network(arguments: RunConfig, spec: ArchSpec, provenance: Mapping[str, Any]) -> Network:
    """The network in an exported file, from what the file says about itself; its tensors stay in the file."""
    assert arguments.exported is not None
    preprocessing = _preprocessing(spec.preprocessing, arguments)
    return Network(
        spec=replace(spec, preprocessing=preprocessing),
        tensors={},
        weights=str(arguments.exported),
        weights_blob_sha1=git_blob_sha1(arguments.exported),
        published=_published(spec),
        changed=preprocessing != spec.preprocessing,
        provenance=provenance,
    )


def oriented(
    network: Network, arguments: NetworkConfig, images: ImageDataset, labels: LabelMap | None = None
) -> Network:
    """The network with images that are turned upright, or not, as ``--exif`` says and the data set asks for.

    Weights of a run here want what they were trained on; where that run is older than the choice, nothing was turned.

    Args:
        network: with what its weights say.
        arguments: of ``parse``.
        images: that it is to see.
        labels: how their folders became classes, where they are not the network's own.
    """
    if isinstance(images.source, ArraySource) or arguments.exif != orientation.AUTO:
        return network
    preprocessing = network.spec.preprocessing
    trained = preprocessing.exif
    if trained is None and _was_trained_here(network.provenance):
        trained = False
    folders = tuple(labels.classes) if labels is not None else images.class_names
    exif = orientation.turns_upright(orientation.AUTO, folders, network.published is not None, trained)
    if exif == bool(preprocessing.exif):
        return network
    return replace(network, spec=replace(network.spec, preprocessing=replace(preprocessing, exif=exif)))


def _was_trained_here(provenance: Mapping[str, Any]) -> bool:
    """Whether the weights are of a run of ours, as their file, or the file that they were exported from, says."""
    inner = provenance.get("weight_file_says")
    return any(isinstance(said, Mapping) and "run" in said for said in (provenance, inner))


def _published(spec: ArchSpec) -> Release | Demo | Layout | None:
    """The catalog's entry for a network: its name and everything but the preprocessing agree."""
    if spec.name not in catalog.known_names():
        return None
    known = catalog.load(spec.name)
    if known.stem != spec.stem or replace(known, preprocessing=spec.preprocessing) != spec:
        return None
    return catalog.published(spec.name)


def _is_published(published: Release | Demo | Layout | None, blob_sha1: str, tensors: NamedTensors) -> bool:
    """Whether a weight file is the published one or, for a demo, a converted copy of it.

    The releases' tensors are not known here, only their files: a converted copy of those counts as another file.
    """
    match published:
        case Release():
            return blob_sha1 in published.blob_sha1.values()
        case Demo():
            return tensors_sha256(tensors) == published.tensors_sha256
        case Layout() | None:
            return False


def _preprocessing(preprocessing: Preprocessing, arguments: NetworkConfig) -> Preprocessing:
    """``preprocessing`` with what the flags change; a new image size alone keeps the crop's share of the image."""
    changes: dict[str, Any] = {}
    if arguments.resolution is not None:
        changes |= {"resolution": arguments.resolution, "resize": resize_for(arguments.resolution, preprocessing)}
    if arguments.resize is not None:
        changes["resize"] = arguments.resize
    if arguments.interpolation is not None:
        changes["interpolation"] = arguments.interpolation
    if arguments.exif != orientation.AUTO:
        changes["exif"] = arguments.exif == orientation.YES
    given = {key: value for key in ("mean", "std") if (value := getattr(arguments, key)) is not None}
    changes |= {key: _per_channel(value, len(preprocessing.mean), key) for key, value in given.items()}
    if {"mean", "std"} <= changes.keys():
        changes["assumed"] = ""
    try:
        return replace(preprocessing, **changes)
    except InputError as error:
        raise InputError(error.problem, f"--{error.place}") from None


def _per_channel(values: Sequence[float], channels: int, name: str) -> tuple[float, ...]:
    """One number for each of ``channels``; a single one is that of all. Raises InputError at the flag ``name``."""
    if len(values) not in (1, channels):
        raise InputError(f"expected one number, or one for each of {channels} channels, got {len(values)}", f"--{name}")
    return tuple(values) * (channels // len(values))


def resize_for(resolution: Sides, preprocessing: Preprocessing) -> Sides:
    """To what images are resized before a crop that keeps as much of them as ``preprocessing`` does."""
    if preprocessing.resize == imagenet_preprocessing(preprocessing.resolution).resize:
        return imagenet_preprocessing(resolution).resize
    resized, kept = (max(height_width(sides)) for sides in (preprocessing.resize, preprocessing.resolution))
    return scaled(resolution, lambda side: round(side * resized / kept))


# ----------------------------------------------------------------------------------------------------- the images


@dataclass(frozen=True)
class Benchmark:
    """Images that accuracies are published on. ``name``: as in the catalog; ``classes``: in sorted order."""

    name: str
    title: str
    part: str
    n_images: int
    classes: Callable[[], tuple[str, ...]]


BENCHMARKS = (
    Benchmark(catalog.IMAGENET, "ImageNet", "validation", 50_000, lambda: tuple(imagenet_classes())),
    Benchmark(catalog.CIFAR10, "CIFAR-10", "test", 10_000, lambda: CIFAR10_CLASSES),
)


def open_images(path: str, spec: ArchSpec) -> ImageDataset:
    """As open_labelled, where nothing is said by hand."""
    return open_labelled(path, spec)[0]


def open_labelled(path: str, spec: ArchSpec, how: str = AUTO) -> tuple[ImageDataset, LabelMap | None]:
    """The labelled images at ``path``, and how their folders came to be the network's classes.

    Args:
        path: a folder, a .zip or the word 'digits'.
        spec: the network; the labels are numbers of its classes.
        how: of --label_map.

    Returns:
        (the images, their map, or None where the folders are the classes of the network, in its order).

    Raises:
        InputError: nothing there, another layout, or folders that are not classes of ``spec`` for certain.
    """
    images = replace(digits()[1], split="test") if path == DIGITS else open_folder(path, "eval")
    folders = images.class_names
    if how == STRICT or path == DIGITS:
        check_classes(folders, spec, path)
        return images, None
    if how != AUTO:
        return _relabelled(images, spec, read_map(Path(how), folders, spec))
    known = expected_folders(folders, spec)
    if folders == known or (not known and len(folders) == spec.num_classes and not all(map(str.isdecimal, folders))):
        return images, None
    try:
        return _relabelled(images, spec, auto_map(folders, spec))
    except InputError as error:
        raise InputError(error.problem, DATA_PATH.flag, path) from None


def _relabelled(images: ImageDataset, spec: ArchSpec, found: LabelMap) -> tuple[ImageDataset, LabelMap]:
    classes = np.array([found.classes[folder] for folder in images.class_names], dtype=np.int64)
    names = wnids_of(spec) or class_names(spec)
    return replace(images, labels=classes[images.labels], class_names=names), found


def check_classes(found: Sequence[str], spec: ArchSpec, path: str) -> None:
    """Whether the class folders, in sorted order, are the classes of a network.

    Where the network's class names are known they must be equal. A network of 1000 classes that names none is taken
    for one of ImageNet when it is in the catalog or the folders look like wnids.

    Raises:
        InputError: another number of classes, or the first class that differs.
    """
    if len(found) != spec.num_classes:
        raise InputError(
            f"found {counted(len(found), 'class folder')}, but the network {spec.name!r} has "
            f"{counted(spec.num_classes, 'class', 'classes')}",
            DATA_PATH.flag,
            path,
        )
    expected = expected_folders(found, spec)
    differing = [index for index, name in enumerate(found) if expected and name != expected[index]]
    if differing:
        first = differing[0]
        same = "the same names in another order" if sorted(found) == sorted(expected) else "other names"
        raise InputError(
            f"the class folders are not the classes of {spec.name!r} ({same}): number {first}, in sorted order, is "
            f"{found[first]!r}, expected {expected[first]!r}",
            DATA_PATH.flag,
            path,
        )


def expected_folders(found: Sequence[str], spec: ArchSpec) -> tuple[str, ...]:
    """Names the class folders must have; none where nothing is known about them."""
    wnids = imagenet_classes()
    if spec.class_names and spec.class_names != tuple(wnids.values()):
        return spec.class_names
    looks_like_wnids = any(name in wnids for name in found)
    if spec.class_names or (spec.num_classes == len(wnids) and (looks_like_wnids or _published(spec))):
        return tuple(wnids)
    return ()


# -------------------------------------------------------------------------------------------------------- the run


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What a network runs on. ``device`` is a description for the record."""

    framework: str
    framework_version: str
    device: str
    precision: str
    batch_size: int
    workers: int
    memory: Plan | None = None
    """What that takes; no part of the record."""


def plan_memory(
    arguments: RunConfig, network: Network, workers: int, free: Free, *, are_processes: bool = True
) -> Plan:
    """How many images are computed at once beside ``workers`` that read them. Raises InputError for too many."""
    reading = Reading(image_bytes=image_bytes(network.spec.preprocessing), readers=workers, are_processes=are_processes)
    return scoring_plan(network.spec, arguments.batch_size, reading, free)


def say_expected(network: Network, setup: Setup, images: ImageDataset, n_images: int, computing: float) -> None:
    """How long scoring ``n_images`` takes: ``computing`` seconds each, and what it takes to read a few of them."""
    reading = seconds_to_read(images, network.spec.preprocessing)
    each = seconds_of(computing, reading, setup.workers)
    slow = "; reading them takes longest" if setup.workers and each > computing else ""
    _say("expected", f"about {format_seconds(n_images * each)} ({1000 * each:.3g} ms per image{slow})")


TIMED = 8
"""Images that are timed."""


def seconds_per_image(forward: Callable[[int], Any], setup: Setup) -> float:
    """Of a forward pass on a few images; ``forward`` takes how many. What happens only once is not timed."""
    count = min(TIMED, setup.batch_size)
    forward(count)
    return wall_ms(lambda: forward(count)) / 1000 / count


def n_workers(arguments: EvalConfig, images: ImageDataset, on_cpu: bool) -> int:
    """Image reading processes: --workers, else one per core (a quarter of them where the network needs the others).

    Never more than there are batches, and none for the digits, which are small and in memory.
    """
    return reading_workers(arguments, 0 if arguments.data_path == DIGITS else n_images(arguments, images), on_cpu)


def reading_workers(arguments: RunConfig, n_images: int, on_cpu: bool) -> int:
    """As n_workers, for so many images that are read from files (0: from memory)."""
    n_batches = math.ceil(n_images / (arguments.batch_size or SCORED))
    if arguments.workers is not None:
        return min(arguments.workers, n_batches or arguments.workers)
    return min(max(1, usable_cores() // READER_SHARE) if on_cpu else usable_cores(), n_batches)


def n_images(arguments: EvalConfig, images: ImageDataset) -> int:
    """How many images are read: all, or --limit."""
    return min(len(images), arguments.limit or len(images))


class Progress(Iterable[AnyBatch]):
    """Batches with a progress bar (images, rate, time left), timed.

    Args:
        batches: of (images, labels).
        n_images: how many images are expected.

    ``seconds`` is the wall time of the whole pass so far, ``waited_s`` the part of it spent waiting for images.
    """

    def __init__(self, batches: Iterable[AnyBatch], n_images: int) -> None:
        self.seconds = self.waited_s = 0.0
        self._batches, self._n_images = batches, n_images

    def __iter__(self) -> Iterator[AnyBatch]:
        watch = Stopwatch()
        with progress.Progress(self._n_images, "img") as bar:
            for batch in self._batches:
                self.waited_s += watch.lap()
                yield batch
                watch.lap()
                self.seconds = watch.seconds
                bar.update(len(batch[1]))


def precision_of(arguments: RunConfig, network: Network) -> str:
    """For the record."""
    if arguments.exported:
        return "as exported"
    return arguments.precision if network.bits is None else "fp64"


def check_exact(arguments: RunConfig) -> None:
    """Raises InputError where a network under a plan is to be computed in less than float64."""
    if arguments.precision != "fp32":
        problem = f"a network under a bit plan is computed in float64; for float32 weights add --bits {NO_BITS}"
        raise InputError(problem, "--precision")


class UnreadablePlaces(Protocol):
    places: list[str]


def describe_preprocessing(preprocessing: Preprocessing) -> str:
    """One line with all of a preprocessing."""
    mean, std = (" ".join(f"{value:g}" for value in values) for values in (preprocessing.mean, preprocessing.std))
    exif = f", {orientation.in_words(preprocessing.exif)}" if preprocessing.exif is not None else ""
    crop, frame = (height_width(each) for each in (preprocessing.resolution, preprocessing.resize))
    resized = f"short side {frame[0]}" if frame[0] == frame[1] else f"resized to cover {in_words(frame)}"
    grey = ", grey" if preprocessing.channels == GREY else ""
    return f"{resized} ({preprocessing.interpolation}), centre {in_words(crop)}{grey}, mean {mean}, std {std}{exif}"


def _say(label: str, text: str) -> None:
    print(labeled(label, text), flush=True)


def announce(
    network: Network, setup: Setup, images: ImageDataset | None, path: str | None, labels: LabelMap | None = None
) -> None:
    """Say what is about to run; ``labels``: how folders became classes."""
    spec = network.spec
    print(f"{spec.name}, {counted(spec.num_classes, 'class', 'classes')}")
    _say("weights", network.weights)
    if network.bits is not None:
        _say("bits", network.arithmetic)
    for note in network.notes:
        _say("note", note)
    _say("images", describe_preprocessing(spec.preprocessing) + (" (changed by flags)" if network.changed else ""))
    if images is not None:
        n_classes = counted(len(set(images.labels.tolist())), "class", "classes")
        is_plain = spec.preprocessing.exif is None and not isinstance(images.source, ArraySource)
        exif = f", {orientation.in_words(None)}" if is_plain else ""
        which = f" {images.split}" if images.split not in ("", ALL) else ""
        _say("data", f"{path}: {counted(len(images), f'{which} image'.strip())}, {n_classes}{exif}")
        if labels is not None:
            _say("classes", labels.text(spec.num_classes))
        for line in images.left_out.lines():
            _say("note", line)
        if path not in (None, DIGITS) and _was_trained_here(network.provenance) and images.split == ALL:
            _say("note", "it has no val/ or test/: all images are scored, those it was trained on included, if it was")
    reading = f", batches of {setup.batch_size}, {workers_text(setup.workers)}" if images is not None else ""
    _say("runs on", f"{setup.device}, {setup.precision}, {setup.framework} {setup.framework_version}{reading}")
    for label, text in setup.memory.lines() if setup.memory is not None else ():
        _say(label, text)


def _bits_record(network: Network) -> dict[str, Any]:
    """What a record says of the plan; nothing of a float network."""
    if network.bits is None:
        return {}
    average = network.bits.average_bits(network.spec)
    return {"bits": {"plan": network.bits.digest, "formats": str(network.bits), "average_bits": average}}


def record_header(
    network: Network, setup: Setup, argv: Sequence[str], format_name: str = FORMAT, version: int = VERSION
) -> dict[str, Any]:
    """What every record of a network at work begins with: what ran, on what, and how images were prepared."""
    return {
        "format": format_name,
        "version": version,
        "command": shlex.join(["python", *argv]),
        "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "arch": network.spec.name,
        "num_classes": network.spec.num_classes,
        "weights": network.weights,
        "weights_blob_sha1": network.weights_blob_sha1,
        "preprocessing": preprocessing_to_dict(network.spec.preprocessing),
        "notes": list(network.notes),
        **_bits_record(network),
        **{name: value for name, value in vars(setup).items() if name != "memory"},
        "cpu": cpu_name(),
    }


def report(
    arguments: EvalConfig,
    argv: Sequence[str],
    network: Network,
    setup: Setup,
    images: ImageDataset,
    result: EvalResult,
    progress: Progress,
    unreadable: UnreadablePlaces,
    labels: LabelMap | None = None,
) -> dict[str, Any]:
    """Print the scores and return the record, which --save_json writes; ``labels``: how folders became classes.

    Raises:
        InputError: not one image could be read.
    """
    if not result.n_images:
        problem = f"none of the {len(unreadable.places)} images can be read"
        raise InputError(problem, DATA_PATH.flag, arguments.data_path)
    finite = math.isfinite(result.loss)
    seconds = max(progress.seconds, 1e-9)
    record = record_header(network, setup, argv) | {
        "data": arguments.data_path,
        "split": images.split,
        "label_map": None if labels is None else {"by": labels.by, "classes": dict(labels.classes)},
        "limit": arguments.limit,
        "n_images": result.n_images,
        "top1_hits": result.top1_hits,
        "top5_hits": result.top5_hits,
        "top1_percent": round(result.top1_percent, 6),
        "top5_percent": round(result.top5_percent, 6),
        "loss": result.loss if finite else None,
        "images_per_second": round(result.n_images / seconds, 2),
        "seconds": round(progress.seconds, 3),
        "waited_for_images_percent": round(100 * progress.waited_s / seconds, 1),
        "unreadable": list(unreadable.places),
        "left_out": images.left_out.to_json(),
        "published": _published_record(network, images, result.n_images),
    }
    _say("top-1", shown_score(result.top1_percent, result.n_images))
    _say("top-5", shown_score(result.top5_percent, result.n_images))
    _say("loss", number_of(result.loss, 1, 4) if finite else "not finite: the logits overflow")
    _say(
        "speed",
        f"{record['images_per_second']:.1f} images/s, reading included; "
        f"{record['waited_for_images_percent']:.0f} % of the time it waited for images",
    )
    if unreadable.places:
        _say("left out", counted(len(unreadable.places), "unreadable image"))
    if record["published"]:
        _say("published", _published_line(record["published"]))
    save_record(arguments.save_json, record)
    return record


def report_classes(arguments: EvalConfig, network: Network, images: ImageDataset, score: ClassScore) -> None:
    """Write what --per_class asks for, if it does, and say so. Raises InputError when that is impossible."""
    folder = arguments.per_class
    if folder is None:
        return
    record = per_class_record(score, images, class_names(network.spec))
    tiles = [
        Tile(partial(images.read, mistake.image, upright=True), _mistake_lines(entry))
        for mistake, entry in zip(score.worst, record["worst"], strict=True)
    ]
    with writing(folder):
        write_json(folder / PER_CLASS_FILE, record)
        write_per_class_picture(record, folder / PER_CLASS_PICTURE)
        if tiles:
            write_contact_sheet(tiles, folder / WORST_PICTURE)
    _say("by class", f"{folder}: {PER_CLASS_FILE}, {PER_CLASS_PICTURE}{f', {WORST_PICTURE}' if tiles else ''}")


def _mistake_lines(entry: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        f"{entry['predicted_percent']:.1f} %  {entry['predicted_name']}",
        f"is {entry['name']} ({entry['percent']:.1f} %)",
        Path(entry["image"].rpartition(":")[2]).name,
    )


def _published_record(network: Network, images: ImageDataset, n_images: int) -> dict[str, Any] | None:
    """Published accuracies of the network, when images of the same classes, ImageNet's or CIFAR-10's, were measured.

    ``not_comparable`` lists why the measured accuracy may differ from them; it is empty for the same weights on the
    same images prepared in the same way.
    """
    published = network.published
    measured = next((one for one in BENCHMARKS if images.class_names == one.classes()), None)
    if published is None or measured is None or measured.name != published.dataset:
        return None
    caveats = []
    if n_images != measured.n_images:
        caveats.append(f"these {n_images} images are not the {measured.part} set of {measured.n_images}")
    if not network.published_weights:
        caveats.append("the weights are not the published file")
    if network.spec.preprocessing != catalog.load(published.name).preprocessing:
        caveats.append("the preprocessing is another")
    if isinstance(published, Demo):
        caveats.append(published.pipeline)
    return {
        "top1_percent": published.top1_percent,
        "top5_percent": published.top5_percent if isinstance(published, Release) else None,
        "images": f"the {measured.title} {measured.part} set",
        "source": published.source,
        "not_comparable": caveats,
    }


def _published_line(published: Mapping[str, Any]) -> str:
    top5 = "" if published["top5_percent"] is None else f" / {published['top5_percent']}"
    caveats = published["not_comparable"]
    note = f"; not comparable: {', and '.join(caveats)}" if caveats else ""
    return f"{published['top1_percent']}{top5} % on {published['images']} ({published['source']}){note}"


def save_record(path: Path | None, record: Mapping[str, Any]) -> None:
    """Write what --save_json asks for, and say so. Raises InputError when that is impossible."""
    if path is not None:
        try:
            write_json(path, record)
        except OSError as error:
            raise InputError(f"cannot be written: {error.strerror}", SAVE_JSON.flag, str(path)) from None
        _say("record", str(path))


# ------------------------------------------------------------------------------------------------------- the demo


def photos(preprocessing: Preprocessing) -> np.ndarray:
    """scikit-learn's two photos as the network's input: float32 (2, H, W, 3).

    Raises:
        InputError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_sample_image
    except ImportError:
        raise InputError(
            "give images to evaluate on; the two photos to show predictions on come with scikit-learn: "
            "pip install scikit-learn",
            DATA_PATH.flag,
        ) from None
    return np.stack([eval_transform(as_image(load_sample_image(name)), preprocessing) for name in PHOTOS])


def demonstrate(
    arguments: EvalConfig, argv: Sequence[str], network: Network, setup: Setup, logits: np.ndarray
) -> dict[str, Any]:
    """Print the most likely classes of the two photos from their (2, classes) logits; the record likewise."""
    predictions = []
    print(f"no --data_path and no ${IMAGENET_DIR}: what it sees in the two photos of scikit-learn")
    for photo, row in zip(PHOTOS, logits, strict=True):
        best = most_likely(row, network.spec)
        print(f"  {photo}")
        for name, probability, _ in best:
            print(f"    {100 * probability:5.1f} %  {in_one_line(name)}")
        predictions.append({"image": photo, "top": as_record(best)})
    record = record_header(network, setup, argv) | {"predictions": predictions}
    save_record(arguments.save_json, record)
    return record
