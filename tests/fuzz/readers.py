"""The readers of the project: what each begins with, how it is changed, and what a command does with it.

A new kind of file is a line in READERS.
"""

from __future__ import annotations

import contextlib
import csv
import functools
import hashlib
import importlib
import io
import json
import os
import pickle
import signal
import tempfile
import threading
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from compress.bits import config as bits_config
from compress.bits.config import BitsConfig
from compress.bits.result import read_result as read_quantized
from compress.pruning.config import SETTINGS as PRUNING
from compress.pruning.config import PruneConfig
from compress.pruning.result import read_result as read_pruned
from hardware.cost import latency_price, price_space
from hardware.latency import SHIPPED_FOLDER, load_latency_source, shipped
from hardware.profile.device import open_log
from hardware.profile.exported_ops import MANIFEST_FORMAT, Manifest, read_manifest, read_results
from hardware.profile.profiling import RAW_FORMAT, RAW_VERSION, Measured
from proxyless_arch.apps import attacking
from proxyless_arch.apps.attacking import AttackConfig, Tally, as_record, read_batches
from proxyless_arch.apps.evaluation import Network, RunConfig
from proxyless_arch.apps.label_map import read_map
from proxyless_arch.apps.per_class import read_per_class
from proxyless_arch.apps.train_settings import RECIPE_DIR, TrainConfig
from proxyless_arch.apps.train_settings import read_config as read_training
from proxyless_arch.apps.train_settings import to_dict as training_dict
from proxyless_arch.arch.bits import (
    FLOAT32,
    INT8,
    KMEANS,
    PLAN_FILE,
    BitPlan,
    Format,
    Range,
    bit_layers,
    plan_to_json,
    read_plan,
    uniform_plan,
    write_plan,
)
from proxyless_arch.arch.codec import spec_to_dict, write_spec
from proxyless_arch.arch.released import released_to_json
from proxyless_arch.arch.spec import ArchSpec
from proxyless_arch.arch.walk import walk
from proxyless_arch.base import apart, runs, settings
from proxyless_arch.base.errors import InputError
from proxyless_arch.base.files import write_json
from proxyless_arch.base.runs import write_environment
from proxyless_arch.data.cifar import find_batches
from proxyless_arch.data.datasets import open_folder
from proxyless_arch.data.images import as_image
from proxyless_arch.data.shard_writing import write_shards
from proxyless_arch.data.unlabelled import images_at
from proxyless_arch.exports.bit_files import HOLDS, file_formats
from proxyless_arch.exports.exported_file import METADATA_NAME, metadata_in, metadata_text
from proxyless_arch.exports.exported_network import litert_network, onnx_network
from proxyless_arch.exports.exporting import _check_labels, _free_record
from proxyless_arch.exports.litert import load_litert, with_metadata
from proxyless_arch.exports.onnx_file import load_onnx
from proxyless_arch.space.mbconv import TINY, mbconv_space
from proxyless_arch.space.search_space import read_space, write_space
from proxyless_arch.space.tree import tree_space
from proxyless_arch.space.uib import uib_space
from proxyless_arch.weights.files import read_tensors, save_h5, save_safetensors
from proxyless_arch.weights.lookup import find_network, find_trained
from proxyless_arch.weights.quantizer import quantized_tensors
from proxyless_nas.fast import kernels_in_use
from proxyless_nas.network import build
from proxyless_nas.train.result import read_result as read_trained_result
from proxyless_nas.train.session import CHECKPOINT_FIELDS, CHECKPOINT_FORMAT, CHECKPOINT_VERSION
from search.config import read_config
from search.config import to_dict as search_dict
from search.reporting.film import film
from search.reporting.report_page import comparison, report
from search.reporting.run_folder import read_run, read_trained
from search.reporting.summary import summary
from search.result import read_result
from search.run import checkpoint, warmup
from search.run.scoring import read_scores
from tests import trees, uib
from tests.fuzz.formats import (
    change_checkpoint,
    change_exported,
    change_hdf5,
    change_image_zip,
    change_jpeg,
    change_keras_archive,
    change_pickle,
    change_png,
    change_safetensors,
    change_torch_zip,
    sealed_checkpoint,
    zipped,
)
from tests.fuzz.mutators import change_bytes, change_json, change_lines, change_text, dumped, mostly
from tests.fuzz.running import Reader
from tests.hardware.profile.test_profile import PROFILE, log
from tests.proxyless_arch.arch.test_tree import pyramid
from tests.proxyless_arch.nets import random_tensors, rich, three_blocks
from tests.search.made_run import DIGITS, write_random, write_run
from tests.search.run.test_loop import config, go_on, new_search

FIRST = Path(__file__).resolve().parents[1] / "fixtures" / "first_generation"
SPEC = three_blocks()


def cached(make: Callable[[], Sequence[bytes]]) -> Callable[[], Sequence[bytes]]:
    return functools.cache(make)


def written(write: Callable[[Path], Any], *files: str) -> Sequence[bytes]:
    """The bytes of files that ``write`` makes in a folder."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder))
        return tuple(Path(folder, file).read_bytes() for file in files)


# ----------------------------------------------------------------------------------------------------- run folders


def search_home(folder: Path) -> None:
    """A finished search with its weights, measured and landed, as a report shows the most of it."""
    device = {"device": "a board", "runtime": "onnxruntime", "runtime_version": "1", "threads": 1}
    change = {"block": 0, "argmax": "MB3 3x3", "argmax_percent": 70.0, "chosen": "MB6 3x3", "chosen_percent": 0.2}
    *_, spec = write_run(
        folder,
        measured_latency_ms=2.0,
        measured_on=device,
        measured_standard_error_percent=1.0,
        landed=True,
        landing_error_percent=0.1,
        landed_by="measured",
        landing_tolerance_percent=2.0,
        projection_changes=[change],
        landing=[{"measured_at_anchor_speed_ms": 2.0}],
        bn_recalibration_losses={"plain": 1.0, "augmented": 1.1},
        rescored={"networks": 3, "loss": 1.0, "loss_of_most_probable": 1.2, "reliability": 0.2, "n_images": 20},
        projection_log_odds=-3.0,
        anchor_ms=1.0,
        table_anchor_ms=1.0,
        measured_at_table_speed_ms=2.0,
    )
    save_safetensors(folder / "weights.safetensors", spec, random_tensors(spec), {})
    (folder / "per_class.json").write_bytes(per_class_seeds()[0])


def read_search(path: Path) -> Any:
    """What report.py, show.py and a program do with a run folder."""
    folder = path.parent
    run = read_run(folder)
    if zlib.crc32(path.read_bytes()) % 6 == 0:  # pages take a third of a second
        report(run)
        film(run)
        comparison([run, run])
    if run.result is None:
        return run.records, run.settings
    return run.records, run.settings, run.result, summary(folder), str(read_result(folder))


def read_lock(path: Path) -> str:
    """Who holds a run folder, as a second process says it."""
    with open(path, "rb") as file:
        return runs._owner(file.fileno())


def random_home(folder: Path) -> None:
    write_random(folder, accuracy=60.0)


def training_home(folder: Path) -> None:
    for name in ("config.json", "environment.json", "metrics.jsonl", "result.json", "spec.json", "weights.h5"):
        (folder / name).write_bytes((FIRST / "train_finished" / name).read_bytes())


def read_training_run(path: Path) -> Any:
    result = read_trained_result(path.parent)
    read_trained(path.parent)
    return result.record, str(result)


PRUNED = {
    "target_hardware": "flops",
    "target_latency_ms": None,
    "target_macs": 1e5,
    "max_params": None,
    "max_drop": None,
    "method": "fast",
    "evaluations": 2,
    "macs": 90_000,
    "params": 5000,
    "predicted_latency_ms": 1.5,
    "table_scale": 1.0,
    "measured_latency_ms": 1.6,
    "landed": True,
    "latency_source": "x.json",
    "inherited_top1_percent": 50.0,
    "inherited_test_top1_percent": 49.0,
    "top1_percent": 60.0,
    "test_top1_percent": 59.0,
    "finetune_epochs": 1,
    "n_valid_images": 100,
    "n_test_images": 100,
    "choosing_loss": 1.0,
    "choosing_top1_percent": 50.0,
    "change": {},
    "resolution": 11,
    "num_classes": 5,
    "manual_seed": 0,
    "images": {},
    "wall_seconds": 3.0,
    "scored": [{"cost": 9e4, "loss": 1.0, "hits": 3, "n_images": 9}],
    "finetuned_top1_percent": 60.0,
    "finetuning_is_kept": True,
    "parent": "three",
    "parent_top1_percent": 70.0,
    "parent_test_top1_percent": 69.0,
    "parent_macs": 200_000,
    "parent_params": 9000,
    "parent_predicted_latency_ms": 2.0,
    "parent_measured_latency_ms": 2.1,
}


def pruning_home(folder: Path) -> None:
    write_json(folder / "config.json", PRUNING.to_dict(PruneConfig(arch="x")))
    write_spec(folder / "spec.json", SPEC)
    save_safetensors(folder / "weights.safetensors", SPEC, random_tensors(SPEC), {})
    write_json(folder / "result.json", PRUNED)
    member = folder / "half"
    member.mkdir()
    for name in ("config.json", "spec.json", "weights.safetensors", "result.json"):
        (member / name).write_bytes((folder / name).read_bytes())


def read_pruning_run(path: Path) -> Any:
    result = read_pruned(path.parent)
    return result.record, str(result)


def search_seeds(file: str) -> Callable[[], Sequence[bytes]]:
    """A file of a run of today, and of those of the first generation that have it."""

    def seeds() -> Sequence[bytes]:
        older = [FIRST / run / file for run in ("search_finished", "search_stopped")]
        return *written(search_home, file), *(path.read_bytes() for path in older if path.is_file())

    return cached(seeds)


def read_environment(path: Path) -> Any:
    """A report, and the resume that adds to it."""
    found = read_search(path), warmup.recorded(path.parent)
    write_environment(path.parent, {"command": "x"}, resumed=True)
    return found


@cached
def per_class_seeds() -> Sequence[bytes]:
    entry = {
        "image": "a.png",
        "class": 0,
        "name": "a",
        "percent": 1.0,
        "predicted": 1,
        "predicted_name": "b",
        "predicted_percent": 90.0,
        "thumbnail": "data:image/png;base64,AAAA",
    }
    names = [f"class {number}" for number in range(10)]
    counted = {"n_images": 10, "top1_hits": 5, "top5_hits": 9, "top1_percent": 50.0}
    classes = [{"class": number, "name": name, **counted} for number, name in enumerate(names)]
    record = {
        "format": "proxyless-arch/per-class",
        "version": 1,
        "class_names": names,
        "n_images": 100,
        "top1_hits": 50,
        "mean_class_top1_percent": 50.0,
        "classes": classes,
        "confusions": [[0, 1, 5]],
        "worst": [entry],
        "samples": [entry],
    }
    return (dumped(record),)


# -------------------------------------------------------------------------------------------- quantized and attacked


@functools.cache
def plans() -> tuple[BitPlan, BitPlan]:
    """Of integers, and of codebooks beside layers that are float."""
    ranges = {layer.name: Range(3.0, signed=not index) for index, layer in enumerate(bit_layers(SPEC))}
    formats = {layer.name: (Format(2), FLOAT32, Format(8))[index % 3] for index, layer in enumerate(bit_layers(SPEC))}
    return (
        uniform_plan(SPEC, INT8, ranges, image=True),
        BitPlan(network=SPEC.name, formats=formats, quantizer=KMEANS),
    )


@cached
def bit_plan_seeds() -> Sequence[bytes]:
    return tuple(plan_to_json(plan).encode() for plan in plans())


@functools.cache
def positive_tensors() -> dict[str, np.ndarray]:
    """Whose variances are some."""
    return {name: np.abs(array) + 0.1 for name, array in random_tensors(SPEC).items()}


def read_bits(path: Path) -> Any:
    """What the zoos and the exports do with a plan."""
    plan = read_plan(path, SPEC)
    for kind in HOLDS:
        with contextlib.suppress(InputError):
            file_formats(plan, SPEC, kind)
    return quantized_tensors(SPEC, positive_tensors(), plan), plan.n_bytes(SPEC), plan.average_bits(SPEC), str(plan)


QUANTIZED = {
    "hardware": "storage",
    "method": "exact",
    "unit": "bytes",
    "source": "bytes",
    "target": 900.0,
    "max_drop": None,
    "cost": 890.5,
    "size_bytes": 890.5,
    "average_bits": 8.0,
    "plan": "0" * 12,
    "evaluations": 3,
    "macs": 90_000,
    "params": 5000,
    "top1_percent": 60.0,
    "test_top1_percent": 59.0,
    "n_valid_images": 100,
    "n_test_images": 100,
    "choosing_loss": 1.0,
    "choosing_top1_percent": 50.0,
    "images": {},
    "scored": [{"cost": 890.5, "loss": 1.0, "hits": 3, "n_images": 9}],
    "parent": "three",
    "parent_top1_percent": 61.0,
    "parent_test_top1_percent": None,
    "parent_size_bytes": 3562.0,
    "wall_seconds": 3.0,
}


def quantizing_home(folder: Path) -> None:
    write_json(folder / "config.json", bits_config.SETTINGS.to_dict(BitsConfig(arch="x")))
    write_spec(folder / "spec.json", SPEC)
    write_plan(folder / PLAN_FILE, plans()[0])
    save_safetensors(folder / "weights.safetensors", SPEC, random_tensors(SPEC), {}, plans()[0])
    write_json(folder / "result.json", QUANTIZED)


def read_quantizing_run(path: Path) -> Any:
    result = read_quantized(path.parent)
    return result.record, str(result), result.top1_percent, result.test_top1_percent, find_trained(str(path.parent))


ATTACKS = ("fgsm", "pgd", "square")


@cached
def attack_seeds() -> Sequence[bytes]:
    tally = Tally(
        n_images=4,
        clean=3,
        held={"fgsm": 2, "pgd": 1, "square": 2},
        all_held=1,
        by_step=[-3.0, -2.0, -1.5],
        queries=9,
        amplification={"float": {"first_conv": 0.5}},
        n_amplified=3,
    )
    lines = [{"batch": number, "images": "a" * 16, "weights": None, "sums": asdict(tally)} for number in range(3)]
    return (b"".join(dumped(line) + b"\n" for line in lines),)


def read_attack(path: Path) -> Any:
    """A resumed attack, whose last batch is still to come, and its record."""
    lines, _ = read_batches(path, ATTACKS, 2, (4,) * 4)
    more = [Tally(**json.loads(attack_seeds()[0].splitlines()[0])["sums"])]
    tally = functools.reduce(Tally.plus, [*(Tally(**line["sums"]) for line in lines), *more])
    return as_record(tally, ATTACKS)


# ------------------------------------------------------------------------------------------- checkpoints and plans

_DATA = {"train_images": 96, "processes": 1}


def _search_config() -> dict[str, Any]:
    return search_dict(config())


@cached
def search_checkpoints() -> Sequence[bytes]:
    """In the middle of the warm-up, and of the search."""
    found = []
    for step in (3, 9):
        search = new_search()
        go_on(search, [], stop_at=step)
        state = search.checkpoint(_search_config(), _DATA, 0, 1.5)
        found.append(sealed_checkpoint({"format": checkpoint.FORMAT, "version": checkpoint.VERSION, **vars(state)}))
    return found


def read_search_checkpoint(path: Path) -> Any:
    """Load, compare, restore, and one step."""
    saved = checkpoint.load(path)
    checkpoint.check_same(saved, _search_config(), _DATA, str(path))
    search = new_search()
    search.restore(saved, str(path))
    checkpoint.computed_otherwise(saved, search.device)
    if search.step < search.schedule.total_steps:
        go_on(search, [], stop_at=search.step + 1)
    return search.supernet.state_dict(), search.step


def _kernels(device: torch.device) -> str:
    return kernels_in_use(_search_config()["kernels"], device)


def warm_up_home(folder: Path) -> None:
    schedule = new_search().schedule
    lines = [
        {"phase": "warmup", "step": (epoch + 1) * schedule.steps_per_epoch, **dict.fromkeys(warmup.CARRIED, 1.0)}
        for epoch in range(schedule.warmup_epochs)
    ]
    (folder / "metrics.jsonl").write_bytes(b"".join(dumped(line) + b"\n" for line in lines))


@cached
def warm_up_seeds() -> Sequence[bytes]:
    search = new_search()
    go_on(search, [], stop_at=search.schedule.warmup_steps)
    computes = checkpoint.computes(search.device, kernels=_kernels(search.device))
    state = search.checkpoint(_search_config(), {**_DATA, **computes}, 0, 1.5)
    return (sealed_checkpoint({"format": checkpoint.FORMAT, "version": checkpoint.VERSION, **vars(state)}),)


def read_warm_up(path: Path) -> Any:
    """Whether it is the one, what it was, and the search behind it."""
    search = new_search()
    is_alike = warmup.computed_alike(path.parent, search.device, None, _kernels(search.device))
    found = warmup.read(path.parent, search.schedule, _search_config(), lambda _: _DATA, search.device)
    found.put_before(search)
    return search.supernet.state_dict(), found.seconds, found.epochs, is_alike


@cached
def training_checkpoints() -> Sequence[bytes]:
    from tests.torch_zoo.test_training import batch, training

    run = training(ema_decay=0.9)
    for _ in range(2):
        run.update(*batch())
    fields = dict.fromkeys(CHECKPOINT_FIELDS) | {
        "config": training_dict(TrainConfig()),
        "training": run.state_dict(),
        "metrics_offset": 0,
        "wall_seconds": 1.0,
        "data": None,
        "ran_on": None,
        "best": {"epoch": 0, "weights": "ema", "top1_hits": 3, "loss": 1.0},
    }
    return (sealed_checkpoint({"format": CHECKPOINT_FORMAT, "version": CHECKPOINT_VERSION, **fields}),)


def read_training_checkpoint(path: Path) -> Any:
    from proxyless_nas.train.session import read_checkpoint
    from tests.torch_zoo.test_training import batch, training

    run = training(ema_decay=0.9)
    fields = read_checkpoint(path)
    run.check_state(fields["training"], str(path))
    run.load_state_dict(fields["training"])
    if run.step < run.schedule.total_steps:
        run.update(*batch())
    return run.net.state_dict(), run.step


@cached
def score_seeds() -> Sequence[bytes]:
    lines = [{"path": [0, 1, 2, n], "loss": 1.5 + n, "halves": [1.4, 1.6]} for n in range(4)]
    return (b"".join(dumped(line) + b"\n" for line in lines),)


@cached
def plan_seeds() -> Sequence[bytes]:
    lines = [
        {"key": "plan 10 a", "loss": 1.0, "hits": 3, "n_images": 9},
        {"key": "whole", "loss": 1.0, "halves": [1.0, 1.1]},
        {"key": "single x", "loss": 1.0},
        {"key": "time x 1", **dict.fromkeys(Measured._fields, 2)},
        {"key": "parent", "valid": 60.0, "test": None, "ms": 2.0},
        {"key": "float", "loss": 1.0, "hits": 3, "n_images": 9},
        {"key": "damage 0", "losses": {"": 3.0, "w": 4.0}, "n_images": 4},
        {"key": "damage 1", "damages": {"first_conv weight 4": 0.5}},
    ]
    return (b"".join(dumped(line) + b"\n" for line in lines),)


def read_plans(path: Path) -> Any:
    from compress.record import read_record

    return read_record(path)


# ---------------------------------------------------------------------------------------------------------- weights


def _pth(legacy: bool = False, wrapped: bool = False) -> bytes:
    tensors: Any = {name: torch.from_numpy(array) for name, array in random_tensors(SPEC).items()}
    if wrapped:
        tensors = {
            "state_dict": {f"module.{name}": tensor for name, tensor in tensors.items()},
            "epoch": 3,
            "optimizer": torch.optim.SGD([torch.nn.Parameter(torch.zeros(2))], lr=0.1).state_dict(),
        }
    buffer = io.BytesIO()
    torch.save(tensors, buffer, _use_new_zipfile_serialization=not legacy)
    return buffer.getvalue()


@cached
def torch_zip_seeds() -> Sequence[bytes]:
    return _pth(), _pth(wrapped=True)


@cached
def legacy_seeds() -> Sequence[bytes]:
    return (_pth(legacy=True),)


@cached
def pickle_seeds() -> Sequence[bytes]:
    """Plain pickles of arrays (.tfinit), of several protocols."""
    arrays = random_tensors(SPEC)
    return tuple(pickle.dumps(arrays, protocol) for protocol in (0, 2, 4, 5))


@cached
def safetensors_seeds() -> Sequence[bytes]:
    from safetensors.numpy import save

    ours = written(
        lambda folder: save_safetensors(folder / "w.safetensors", SPEC, random_tensors(SPEC), {"a": 1}), "w.safetensors"
    )
    quantized = written(
        lambda folder: save_safetensors(folder / "w.safetensors", SPEC, random_tensors(SPEC), {}, plans()[0]),
        "w.safetensors",
    )
    return *ours, *quantized, save(random_tensors(SPEC))


@cached
def h5_seeds() -> Sequence[bytes]:
    def content(bits: BitPlan | None) -> bytes:
        return written(lambda folder: save_h5(folder / "w.h5", SPEC, random_tensors(SPEC), {"a": 1}, bits), "w.h5")[0]

    return content(None), content(plans()[0])


@cached
def keras_seeds() -> Sequence[bytes]:
    """As Keras 3 lays out .weights.h5, and Keras 2 its .h5."""
    import h5py

    from proxyless_arch.weights.keras_files import PARTS, _layers_in_order
    from proxyless_arch.weights.layout import to_tf_layout

    tensors = {name: to_tf_layout(name, array) for name, array in random_tensors(SPEC).items()}
    newer, older = io.BytesIO(), io.BytesIO()
    with h5py.File(newer, "w") as new, h5py.File(older, "w") as old:
        for place, layer in _layers_in_order(SPEC).items():
            kind = place.rstrip("0123456789").removesuffix("_")
            kind = kind if kind in PARTS else place
            new.create_group(f"layers/{place}").attrs["name"] = layer
            for number, part in enumerate(PARTS[kind]):
                new[f"layers/{place}/vars/{number}"] = tensors[f"{layer}.{part}"]
            names = ("kernel", "bias") if kind == "dense" else ("gamma", "beta", "moving_mean", "moving_variance")
            names = ("depthwise_kernel",) if kind == "depthwise_conv2d" else ("kernel",) if kind == "conv2d" else names
            for name, part in zip(names, PARTS[kind], strict=True):
                old[f"{layer}/{layer}/{name}:0"] = tensors[f"{layer}.{part}"]
    return newer.getvalue(), older.getvalue()


@cached
def archive_seeds() -> Sequence[bytes]:
    about = {"class_name": "ProxylessNet", "config": {"spec": spec_to_dict(SPEC)}}
    return (zipped({"config.json": dumped(about), "model.weights.h5": keras_seeds()[0], "metadata.json": b"{}"}),)


def read_weights(path: Path) -> Any:
    """By themselves, and for a network."""
    found = []
    for spec in (None, SPEC):
        try:
            found.append(read_tensors(path, spec))
        except InputError as error:
            found.append(error)
    if all(isinstance(each, InputError) for each in found):
        raise found[0]
    # weights of no known network are compared with one before they are used
    return [each.tensors for each in found if not isinstance(each, InputError) and each.spec is not None]


def read_hdf5(path: Path) -> Any:
    """As read_weights does, with the child that h5py runs in forked from here: a tenth of the time."""
    import h5py  # noqa: F401  (before the fork)

    with forked():
        return read_weights(path)


@contextlib.contextmanager
def forked() -> Iterator[None]:
    """What is read in a process of its own is read in a fork of this one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(apart, "_run", _fork)
        yield


def _fork(module: str, data: bytes, reader: str, time_limit_s: float) -> apart.Answer:
    answer_to = importlib.import_module(module).answer_to
    ours, theirs = os.pipe()
    child = os.fork()
    if not child:
        status = 1
        try:
            os.close(ours)
            status, answer = answer_to(data)
            with open(theirs, "wb") as pipe:
                pipe.write(answer)
        finally:
            os._exit(status)
    os.close(theirs)
    return _answer_of(child, ours, reader)


def _answer_of(child: int, pipe: int, reader: str) -> apart.Answer:
    stop = threading.Timer(4.0, os.kill, (child, signal.SIGKILL))
    stop.start()
    try:
        with open(pipe, "rb") as answers:
            answer = answers.read()
    finally:
        _, status = os.waitpid(child, 0)
        stop.cancel()
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        raise InputError(f"kept {reader} busy")
    return os.waitstatus_to_exitcode(status), answer


PARTS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


@cached
def index_seeds() -> Sequence[bytes]:
    names = list(random_tensors(SPEC))
    places = {name: PARTS[number * 2 // len(names)] for number, name in enumerate(names)}
    return (dumped({"metadata": {"total_size": 9}, "weight_map": places}),)


def parts_home(folder: Path) -> None:
    from safetensors.numpy import save

    tensors = random_tensors(SPEC)
    half = list(tensors)[: (len(tensors) + 1) // 2]
    (folder / PARTS[0]).write_bytes(save({name: tensors[name] for name in half}))
    (folder / PARTS[1]).write_bytes(save({name: value for name, value in tensors.items() if name not in half}))


# ------------------------------------------------------------------------------------------------- exported networks


def _metadata(spec: ArchSpec = SPEC) -> str:
    network = Network(
        spec=spec, tensors={}, weights="w.safetensors", weights_blob_sha1="0" * 40, published=None, changed=False
    )
    return metadata_text(network)


@cached
def onnx_seeds() -> Sequence[bytes]:
    import onnx

    from hardware.profile.graphs import RandomWeights, to_onnx, trace

    model = onnx.load_from_string(to_onnx(trace(walk(SPEC)), RandomWeights()))
    onnx.helper.set_model_props(model, {METADATA_NAME: _metadata()})
    return (model.SerializeToString(),)


@cached
def tflite_seeds() -> Sequence[bytes]:
    from hardware.profile.graphs import RandomWeights, to_litert, trace

    return (with_metadata(to_litert(trace(walk(SPEC)), RandomWeights()), _metadata()),)


_IMAGES = np.zeros((1, 3, 11, 11), np.float32)


def read_exported(path: Path) -> Any:
    """What eval.py and eval_tf.py do before they score: a trial apart, then here; and what export.py asks of a file."""
    metadata_in(path.read_bytes())
    arguments = RunConfig(exported=path)
    with forked():
        network = (onnx_network if path.suffix == ".onnx" else litert_network)(arguments)
    if path.suffix == ".onnx":
        return load_onnx(path, 1).forward(_IMAGES), network.spec
    return load_litert(path, 1).forward(np.ascontiguousarray(_IMAGES.transpose(0, 2, 3, 1))), network.spec


@cached
def record_seeds() -> Sequence[bytes]:
    return (dumped({"format": "proxyless-arch/export", "files": [{"file": "net.onnx"}, {"file": "net_int8.tflite"}]}),)


@cached
def label_seeds() -> Sequence[bytes]:
    return ("".join(f"{name}\n" for name in NAMES).encode(),)


NAMES = ("zero", "one", "two", "bière", "日本")


# ---------------------------------------------------------------------------------------------------------- latency


@cached
def table_seeds() -> Sequence[bytes]:
    """Of some layers, of both versions, and a predictor."""
    full = json.loads((SHIPPED_FOLDER / "amd_epyc_litert.json").read_bytes())
    few = {**full, "entries": full["entries"][:4] + full["entries"][-3:]}
    return dumped(few), (SHIPPED_FOLDER / "pixel1.json").read_bytes()


@cached
def yaml_seeds() -> Sequence[bytes]:
    text = """\
Conv-input:224x224x3-output:112x112x32: {count: 100, mean: 4.2, var: 0.01}
expanded_conv-input:112x112x32-output:112x112x16-expand:1-kernel:3-stride:1-idskip:0:
  mean: 8.25
  std: 0.25
Conv_1-input:7x7x320-output:7x7x1280: {mean: 3.0}
Logits-input:7x7x1280-output:1000: {mean: 1.2, count: 9}
"""
    return (text.encode(),)


_SPACE = mbconv_space(macro=TINY, width_mult=0.5, num_classes=10, preprocessing=DIGITS)


def read_latency(path: Path) -> Any:
    source = load_latency_source(path)
    prices = []
    for call in walk(SPEC):
        try:
            prices.append(source.price_ms(call))
            source.extrapolated(call)
        except InputError:
            pass
    try:
        table = price_space(_SPACE, latency_price(source))
    except InputError:
        table = None
    return prices, source.offset_ms, table


_CONDITIONS = {"device": "a board", "runtime": "litert"}


@cached
def raw_seeds() -> Sequence[bytes]:
    lines: list[Any] = [{"format": RAW_FORMAT, "version": RAW_VERSION, "conditions": {**_CONDITIONS, "date": "2026"}}]
    lines += [
        {
            "phase": "ops",
            "round": number,
            "case": "a",
            "ms": [1.0, 1.1],
            "other_ms": [1.2, 1.3],
            "anchor_ms": [1.0, 1.0],
        }
        for number in range(3)
    ]
    return (b"".join(dumped(line) + b"\n" for line in lines),)


def read_raw(path: Path) -> Any:
    from hardware.profile.profiling import combined

    opened, begun = open_log(path, _CONDITIONS, {"date": "now"})
    with opened:
        found = [opened.get("ops", number, "a") for number in range(3)]
        times = combined(found, 1.0)._replace(other_ms=0.0) if all(found) else None  # which may not be known
        return [each.times.ms for each in found if each], begun, times and tuple(times)


@cached
def manifest_seeds() -> Sequence[bytes]:
    conditions = {
        "batch_size": 1,
        "resolution": 224,
        "space": "tiny",
        "width_mult": 1.0,
        "num_classes": 10,
        "seed": 0,
        "validation_nets": 20,
    }
    cases = [{"file": f"op-{n:03d}", "case": f"case {n}", "suffixes": [".onnx", ".tflite"]} for n in range(3)]
    return (dumped({"format": MANIFEST_FORMAT, "version": 1, "conditions": conditions, "cases": cases}),)


_MANIFEST = Manifest({}, {"op-000": "stem", "op-001": "head", "net-000": "net"}, "0" * 16)


def _rows(first: str) -> bytes:
    text = io.StringIO()
    text.write(first + "\n")
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(("file", "round", "timing", "ms"))
    rows.writerows((file, r, n, 1.5 + n) for file in ("op-000", "op-001") for r in range(2) for n in range(3))
    return text.getvalue().encode()


@cached
def csv_seeds() -> Sequence[bytes]:
    facts = {"device": "a board", "runtime": "litert", "threads": 2, "runtime_version": "1.0", "export": "0" * 16}
    return (_rows(f"# {json.dumps(facts)}"),)


@cached
def log_seeds() -> Sequence[bytes]:
    return ((log("op-000", "7775.03", quantiles=" p5=7690 median=7766 p95=7900") + log("op-001", "2.95e+06")).encode(),)


@cached
def profile_seeds() -> Sequence[bytes]:
    return (PROFILE.encode(),)


def read_phone(path: Path) -> Any:
    found = read_results(path, _MANIFEST)
    return [(each.ms, each.sd) for each in found.cases.values()], found.facts


# ------------------------------------------------------------------------------------------------------------ images


def _picture(kind: str, **options: Any) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 255, (9, 13, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(options.pop("mode", "RGB")).save(buffer, kind, **options)
    return buffer.getvalue()


@cached
def png_seeds() -> Sequence[bytes]:
    return _picture("PNG"), _picture("PNG", mode="P"), _picture("PNG", mode="RGBA"), _picture("PNG", mode="I;16")


@cached
def jpeg_seeds() -> Sequence[bytes]:
    exif = Image.Exif()
    exif[0x0112] = 6
    return _picture("JPEG", exif=exif), _picture("JPEG", progressive=True), _picture("JPEG", mode="CMYK")


@cached
def other_image_seeds() -> Sequence[bytes]:
    kinds = ("BMP", "WEBP", "TIFF", "PPM", "GIF", "AVIF")
    return (
        *(_picture(kind) for kind in kinds),
        _picture("TIFF", compression="tiff_lzw"),
        _picture("WEBP", lossless=True),
    )


def read_image(path: Path) -> Any:
    from proxyless_arch.data.images import eval_transform

    return eval_transform(as_image(path, upright=True), SPEC.preprocessing)


@cached
def zip_seeds() -> Sequence[bytes]:
    files = {
        f"{split}/{label}/{number}.png": _picture("PNG")
        for split in ("train", "val")
        for label in "ab"
        for number in (0, 1)
    }
    return (zipped(files), zipped({name.partition("/")[2] + name[0]: data for name, data in files.items()}))


def read_zip(path: Path) -> Any:
    try:
        images = open_folder(path, "train")
    except InputError:
        images = open_folder(path)
    for index in range(len(images)):
        with contextlib.suppress(InputError):
            images.read(index)
    return list(map(int, images.labels))


def read_unlabelled(path: Path) -> Any:
    """As predict.py does."""
    images = images_at([str(path)])
    for index in range(len(images)):
        with contextlib.suppress(InputError):
            images.read(index)
    return len(images)


@cached
def map_seeds() -> Sequence[bytes]:
    return (dumped({"a": 0, "b": "one", "c": 4}),)


def read_label_map(path: Path) -> Any:
    spec = replace(SPEC, class_names=("zero", "one", "two", "three", "four"))
    return read_map(path, ("a", "b", "c"), spec).classes


@cached
def cifar_seeds() -> Sequence[bytes]:
    pixels = np.zeros((4, 3072), np.uint8)
    batch = {"data": pixels, "labels": [0, 1, 2, 3], "filenames": ["a"] * 4}
    return tuple(pickle.dumps(batch, protocol) for protocol in (2, 4))


@cached
def class_seeds() -> Sequence[bytes]:
    return (pickle.dumps({"label_names": [f"x{n}" for n in range(10)], "num_vis": 3072}, 2),)


def cifar_home(folder: Path) -> None:
    names = [f"data_batch_{n}" for n in range(1, 6)] + ["test_batch"]
    for name in names:
        (folder / name).write_bytes(cifar_seeds()[0])
    (folder / "batches.meta").write_bytes(class_seeds()[0])


def read_cifar(path: Path) -> Any:
    found = find_batches(path.parent)
    if found is None:
        return None
    return found.read("train")[2]


def shards_home(folder: Path) -> None:
    """Three images in two classes as shards; the photos they were written from lie elsewhere."""
    with tempfile.TemporaryDirectory() as photos:
        for number, label in enumerate("aab"):
            place = Path(photos, label, f"{number}.png")
            place.parent.mkdir(exist_ok=True)
            place.write_bytes(_picture("PNG"))
        write_shards(photos, folder, 10**9)


def foreign_home(folder: Path) -> None:
    """The same tar as others have it, without an index."""
    shards_home(folder)
    (folder / SHARD_TABLE).unlink()
    (folder / "index.json").unlink()


SHARD, SHARD_TABLE = "images-000000.tar", "images-000000.json"


@cached
def shard_index_seeds() -> Sequence[bytes]:
    return written(shards_home, "index.json")


@cached
def shard_table_seeds() -> Sequence[bytes]:
    return written(shards_home, SHARD_TABLE)


@cached
def tar_seeds() -> Sequence[bytes]:
    return written(shards_home, SHARD)


def read_shards(path: Path) -> Any:
    return read_zip(path.parent)


def read_shard_table(path: Path) -> Any:
    """With the hash that the index has of it put right."""
    index = path.with_name("index.json")
    found = json.loads(index.read_text())
    found["parts"]["all"][0]["table_sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    index.write_text(json.dumps(found))
    return read_zip(path.parent)


# ------------------------------------------------------------------------------------------------------ configs alone


@cached
def recipe_seeds() -> Sequence[bytes]:
    return (dumped({"about": "x", "n_epochs": 3, "init_lr": 0.1, "train_batch_size": 32, "augment": None}),)


@cached
def spec_seeds() -> Sequence[bytes]:
    return tuple(dumped(spec_to_dict(spec)) for spec in (SPEC, rich(), uib.SPEC, trees.SPEC))


@cached
def released_seeds() -> Sequence[bytes]:
    return released_to_json(SPEC).encode(), released_to_json(pyramid()).encode()


def read_network(path: Path) -> Any:
    spec, _ = find_network(str(path))
    walk(spec)
    if sum(call.params for call in walk(spec)) < 10**7:
        build(spec)
    return spec


def run_config_home(folder: Path) -> None:
    (folder / "net.config").write_bytes(released_to_json(SPEC).encode())


@cached
def space_seeds() -> Sequence[bytes]:
    """Of each kind."""
    whole = {"num_classes": 10, "preprocessing": DIGITS}
    found = uib_space(TINY, 0.5, **whole), tree_space(1, 32, **whole)
    return *search_seeds("space.json")(), *(written(lambda f, s=s: write_space(f / "s", s), "s")[0] for s in found)


def read_space_file(path: Path) -> None:
    space = read_space(path)
    with contextlib.suppress(InputError):
        price_space(space, latency_price(shipped("pixel1")))


_SEARCH = {"read": read_search, "home": search_home}
READERS: tuple[Reader, ...] = (
    Reader("metrics", search_seeds("metrics.jsonl"), change_lines, file="metrics.jsonl", **_SEARCH),
    Reader("result", search_seeds("result.json"), change_json, file="result.json", **_SEARCH),
    Reader("config", search_seeds("config.json"), change_json, file="config.json", **_SEARCH),
    Reader(
        "config_alone",
        search_seeds("config.json"),
        change_json,
        lambda path: read_config(path, fill_missing=True),
        "config.json",
    ),
    Reader(
        "environment", search_seeds("environment.json"), change_json, read_environment, "environment.json", search_home
    ),
    Reader("space", search_seeds("space.json"), change_json, file="space.json", **_SEARCH),
    Reader("space_alone", space_seeds, change_json, read_space_file, "space.json"),
    Reader("run_spec", search_seeds("spec.json"), change_json, file="spec.json", **_SEARCH),
    Reader(
        "run_weights",
        lambda: written(search_home, "weights.safetensors"),
        mostly(change_safetensors),
        lambda path: find_trained(str(path.parent)),
        "weights.safetensors",
        search_home,
    ),
    Reader(
        "per_class",
        per_class_seeds,
        change_json,
        lambda path: (read_per_class(path), read_search(path)),
        "per_class.json",
        search_home,
    ),
    Reader(
        "random_result",
        lambda: (*written(random_home, "result.json"), (FIRST / "search_random/result.json").read_bytes()),
        change_json,
        read_search,
        "result.json",
        random_home,
    ),
    Reader("scores", score_seeds, change_lines, lambda path: list(read_scores(path)[0]), "scores.jsonl"),
    Reader("search_checkpoint", search_checkpoints, change_checkpoint, read_search_checkpoint, "checkpoint.pt"),
    Reader(
        "train_result",
        lambda: ((FIRST / "train_finished/result.json").read_bytes(),),
        change_json,
        read_training_run,
        "result.json",
        training_home,
    ),
    Reader(
        "train_config",
        lambda: ((FIRST / "train_finished/config.json").read_bytes(), dumped(training_dict(TrainConfig()))),
        change_json,
        lambda path: (read_training(path, fill_missing=True), read_training_run(path)),
        "config.json",
        training_home,
    ),
    Reader("train_checkpoint", training_checkpoints, change_checkpoint, read_training_checkpoint, "checkpoint.pt"),
    Reader(
        "prune_result",
        lambda: (dumped(PRUNED), dumped({"family": ["half"]})),
        change_json,
        read_pruning_run,
        "result.json",
        pruning_home,
    ),
    Reader(
        "prune_config",
        lambda: (dumped(PRUNING.to_dict(PruneConfig(arch="x"))),),
        change_json,
        read_pruning_run,
        "config.json",
        pruning_home,
    ),
    Reader("plans", plan_seeds, change_lines, read_plans, "metrics.jsonl"),
    Reader("bits", bit_plan_seeds, change_json, read_bits, PLAN_FILE),
    Reader(
        "quantized_plan",
        lambda: bit_plan_seeds()[:1],
        change_json,
        read_quantizing_run,
        PLAN_FILE,
        quantizing_home,
    ),
    Reader(
        "quantized_result",
        lambda: (dumped(QUANTIZED),),
        change_json,
        read_quantizing_run,
        "result.json",
        quantizing_home,
    ),
    Reader(
        "quantized_config",
        lambda: (dumped(bits_config.SETTINGS.to_dict(BitsConfig(arch="x"))),),
        change_json,
        read_quantizing_run,
        "config.json",
        quantizing_home,
    ),
    Reader("attack", attack_seeds, change_lines, read_attack, "metrics.jsonl"),
    Reader(
        "attack_config",
        lambda: (dumped(attacking.SETTINGS.to_dict(AttackConfig(arch="x", data_path="y"))),),
        change_json,
        attacking.SETTINGS.read,
        "config.json",
    ),
    Reader("warm_up", warm_up_seeds, change_checkpoint, read_warm_up, warmup.NAME, warm_up_home),
    Reader("lock", lambda: (dumped({"pid": 7, "host": "a"}),), change_json, read_lock, runs.LOCK_FILE),
    Reader(
        "run_config",
        lambda: (dumped({"image_size": 144, "n_epochs": 3}), dumped({"image_size": [128, 144]})),
        change_json,
        lambda path: read_network(path.with_name("net.config")),
        "run.config",
        run_config_home,
    ),
    Reader("index", index_seeds, change_json, read_weights, "model.safetensors.index.json", parts_home),
    Reader(
        "export_record",
        record_seeds,
        change_json,
        lambda path: _free_record(path.parent, path.name, "net"),
        "export.json",
    ),
    Reader(
        "labels",
        label_seeds,
        change_bytes,
        lambda path: _check_labels(path, replace(SPEC, class_names=NAMES)),
        "labels.txt",
    ),
    Reader(
        "recipe",
        recipe_seeds,
        change_json,
        lambda path: settings.from_recipe(TrainConfig, RECIPE_DIR, str(path)),
        "recipe.json",
    ),
    Reader("spec", spec_seeds, change_json, read_network, "net.json"),
    Reader("released_spec", released_seeds, change_json, read_network, "net.config"),
    Reader("pth", torch_zip_seeds, mostly(change_torch_zip), read_weights, "net.pth"),
    Reader("legacy_pth", legacy_seeds, mostly(change_pickle), read_weights, "net.pth"),
    Reader("tfinit", pickle_seeds, mostly(change_pickle), read_weights, "net.tfinit"),
    Reader("safetensors", safetensors_seeds, mostly(change_safetensors), read_weights, "net.safetensors"),
    Reader("h5", h5_seeds, mostly(change_hdf5, share=0.05), read_hdf5, "net.h5"),
    Reader("keras_weights", keras_seeds, mostly(change_hdf5), read_hdf5, "net.weights.h5"),
    Reader("keras", archive_seeds, change_keras_archive, read_hdf5, "net.keras"),
    Reader("onnx", onnx_seeds, change_exported, read_exported, "net.onnx"),
    Reader("tflite", tflite_seeds, change_exported, read_exported, "net.tflite"),
    Reader("table", table_seeds, change_json, read_latency, "table.json"),
    Reader("yaml", yaml_seeds, change_text, read_latency, "table.yaml"),
    Reader("raw", raw_seeds, change_lines, read_raw, "raw.jsonl"),
    Reader("manifest", manifest_seeds, change_json, read_manifest, "manifest.json"),
    Reader("phone_csv", csv_seeds, change_text, read_phone, "results.csv"),
    Reader("phone_log", log_seeds, change_text, read_phone, "log.txt"),
    Reader("phone_profile", profile_seeds, change_text, read_phone, "op-000.csv"),
    Reader("png", png_seeds, mostly(change_png), read_image, "image.png"),
    Reader("jpeg", jpeg_seeds, mostly(change_jpeg), read_image, "image.jpg"),
    Reader("images", other_image_seeds, change_bytes, read_image, "image"),
    Reader("zip", zip_seeds, change_image_zip, read_zip, "images.zip"),
    Reader("unlabelled", zip_seeds, change_image_zip, read_unlabelled, "images.zip"),
    Reader("shard_index", shard_index_seeds, change_json, read_shards, "index.json", shards_home),
    Reader("shard_table", shard_table_seeds, change_json, read_shard_table, SHARD_TABLE, shards_home),
    Reader("shard", tar_seeds, change_bytes, read_shards, SHARD, foreign_home),
    Reader("label_map", map_seeds, change_json, read_label_map, "labels.json"),
    Reader("cifar", cifar_seeds, change_pickle, read_cifar, "data_batch_1", cifar_home),
    Reader("cifar_classes", class_seeds, change_pickle, read_cifar, "batches.meta", cifar_home),
)
"""All that is fuzzed."""
