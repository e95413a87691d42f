"""Run folders as train.py, prune.py, quantize.py, attack.py and export.py leave them, made in milliseconds."""

from pathlib import Path

from proxyless_arch.arch.bits import INT8, PLAN_FILE, Range, bit_layers, uniform_plan, write_plan
from proxyless_arch.arch.codec import write_spec
from proxyless_arch.arch.walk import total_macs, total_params
from proxyless_arch.base.files import write_json
from proxyless_arch.weights.files import git_blob_sha1, save_safetensors
from tests.proxyless_arch.nets import random_tensors, three_blocks

NET = three_blocks()
TESTED = {"test_names": "a" * 16}


def write_files(folder: Path, spec=NET, plan=None):
    folder.mkdir(parents=True, exist_ok=True)
    write_spec(folder / "spec.json", spec)
    save_safetensors(folder / "weights.safetensors", spec, random_tensors(spec), {"run": folder.name}, plan)
    if plan is not None:
        write_plan(folder / PLAN_FILE, plan)


def result_of(spec, percent, **more):
    return {
        "macs": total_macs(spec), "params": total_params(spec), "resolution": spec.resolution,
        "test_top1_percent": percent, "top1_percent": percent, "n_test_images": 200, "n_valid_images": 100,
        "images": TESTED, **more,
    }  # fmt: skip


def write_trained(folder: Path, arch="efficientnet_lite0", percent=70.0, spec=NET, **config):
    write_files(folder, spec)
    told = {"format": "proxyless-arch/training-config", "version": 1, "arch": str(arch), "weights": "pretrained"}
    write_json(folder / "config.json", told | config)
    write_json(folder / "result.json", result_of(spec, percent))
    return folder


def write_pruned(folder: Path, arch, percent=66.0, spec=NET, **more):
    write_files(folder, spec)
    write_json(folder / "config.json", {"format": "proxyless-compress/prune-config", "version": 1, "arch": str(arch)})
    parent = {
        "parent": "the parent", "parent_macs": total_macs(NET), "parent_params": total_params(NET),
        "parent_test_top1_percent": 70.0, "parent_predicted_latency_ms": 2.0, "parent_measured_latency_ms": 2.5,
    }  # fmt: skip
    ms = {"predicted_latency_ms": 1.0, "measured_latency_ms": 1.25, "latency_source": "/far/epyc-r32/predictor.json"}
    record = result_of(spec, percent, runtime="onnxruntime", **ms, **parent)
    write_json(folder / "result.json", record | more)
    return folder


def write_quantized(folder: Path, arch, percent=65.0, **more):
    plan = uniform_plan(NET, INT8, {layer.name: Range(clip=6.0, signed=False) for layer in bit_layers(NET)})
    write_files(folder, plan=plan)
    config = {"format": "proxyless-compress/bits-config", "version": 1, "arch": str(arch), "hardware": "litert"}
    write_json(folder / "config.json", config)
    told = {
        "unit": "ms", "cost": 0.75, "source": "measured", "size_bytes": plan.n_bytes(NET), "parent": "the parent",
        "parent_size_bytes": 1000.0, "parent_test_top1_percent": 66.0,
    }  # fmt: skip
    write_json(folder / "result.json", result_of(NET, percent, **told) | more)
    return folder


def write_attack(folder: Path, arch: Path, percent=12.5, **more):
    folder.mkdir(parents=True)
    write_json(folder / "config.json", {"format": "proxyless-arch/attack-config", "version": 1, "arch": str(arch)})
    record = {
        "n_images": 40, "epsilon": "8/255", "accuracy": {"all": {"percent": percent}}, "alarms": [], "bits": "abc",
        "weights_blob_sha1": git_blob_sha1(arch / "weights.safetensors"),
    }  # fmt: skip
    write_json(folder / "result.json", record | more)
    return folder


def write_export(run: Path, *files, **more):
    """``files``: (format, name, ms, bytes) each."""
    folder = run / "exported"
    folder.mkdir()
    told = []
    for format, name, ms, size in files:
        (folder / name).write_bytes(b"x")
        told.append({"format": format, "file": name, "runtime": "LiteRT 2.3.0", "size_bytes": size,
                     "top1_percent": 64.0, "latency_ms": {"median": ms}})  # fmt: skip
    sha1 = git_blob_sha1(run / "weights.safetensors")
    record = {"format": "proxyless-arch/export", "weights_blob_sha1": sha1, "check": {"n_images": 50}, "files": told}
    write_json(folder / "export_tf.json", record | more)
