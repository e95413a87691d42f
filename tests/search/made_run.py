"""A run folder as a search leaves it, made in milliseconds: probabilities that drift from uniform to a random path."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np

from hardware.cost import MACS, latency_price, price_space
from hardware.latency import SHIPPED_FOLDER, shipped
from proxyless_arch.apps.train_settings import TrainConfig
from proxyless_arch.apps.train_settings import to_dict as training_dict
from proxyless_arch.arch.codec import write_spec
from proxyless_arch.arch.spec import Preprocessing
from proxyless_arch.arch.walk import total_macs, total_params
from proxyless_arch.base.files import read_json, write_json
from proxyless_arch.space.mbconv import IMAGENET, TINY, mbconv_space
from proxyless_arch.space.search_space import write_space
from search.config import from_recipe, to_dict, with_settings
from search.reporting.run_folder import LATENCY_FILE

DIGITS = Preprocessing(resolution=16, resize=16, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


def write_run(
    folder: Path, *, seed=0, dataset="digits", warmup=2, epochs=4, finished=True, hardware="mobile", path=None,
    constant=0.0, space=None, **more,
):  # fmt: skip
    """Returns (config, records, result or None, spec). ``more`` is added to result.json.

    ``constant``: ms that every network costs beside its layers; a predictor that says so is then part of the run.
    """
    rng = np.random.default_rng(seed)
    if dataset == "imagenet":
        space = space or mbconv_space(macro=IMAGENET)
        given = {"dataset": "imagenet", "data_path": "imagenet/"}
    else:
        space = space or mbconv_space(macro=TINY, width_mult=0.5, num_classes=10, preprocessing=DIGITS)
        given = {}
    write_space(folder / "space.json", space)
    recipe = "default" if dataset == "imagenet" else "digits"
    config = to_dict(
        with_settings(
            from_recipe(recipe),
            {**given, "warmup_epochs": warmup, "n_epochs": epochs, "target_hardware": hardware, "manual_seed": seed},
        )
    )
    source = replace(shipped("pixel1"), offset_ms=constant)
    table = price_space(space, MACS) if hardware == "flops" else price_space(space, latency_price(source))
    unit = table.unit
    chosen = path or tuple(int(rng.integers(size)) for size in space.sizes)
    target = float(f"{table.of_path(chosen) * 1.005:.4g}")
    noise = [rng.normal(0, 0.01, size) for size in space.sizes]
    speed = rng.uniform(0.5, 1.5, space.n_edges)
    records = []
    for index in range(warmup + epochs):
        phase = "warmup" if index < warmup else "search"
        done = 0 if phase == "warmup" else (index - warmup + 1) / max(epochs, 1)
        blocks = []
        for block, size in enumerate(space.sizes):
            logits = noise[block].copy()
            logits[chosen[block]] += 9 * done * speed[block]
            logits[(chosen[block] + 1) % size] += 5 * done * (1 - done)
            blocks.append(np.exp(logits) / np.exp(logits).sum())
        best = tuple(int(block.argmax()) for block in blocks)
        records.append(
            {
                "phase": phase, "epoch": index if phase == "warmup" else index - warmup,
                "n_epochs": warmup if phase == "warmup" else epochs, "step": 10 * (index + 1),
                "arch_step": max(0, 10 * (index + 1 - warmup)), "train_loss": 2.3 * math.exp(-index / 5),
                "train_top1_percent": 100 - 90 * math.exp(-index / 8), "valid_loss": None if not done else 2.4 - done,
                "valid_top1_percent": None if not done else 30 + 40 * done, "learning_rate": 0.05,
                "expected_cost": table.expected(blocks), "argmax_cost": table.of_path(best), "cost_unit": unit,
                "target": target, "lambda": None if not done else 0.3 * (1 + 30 * done), "temperature": 1.0,
                "entropy": float(-sum((block * np.log(block)).sum() for block in blocks)),
                "probabilities": [[round(float(value), 6) for value in block] for block in blocks],
                "argmax_path": list(best), "images_per_second": 500.0, "seconds": 3.0,
            }
        )  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    if constant:
        document = read_json(SHIPPED_FOLDER / "pixel1.json")
        write_json(folder / LATENCY_FILE, document | {"net_calibration": {"scale": 1.0, "offset_ms": constant}})
    write_json(folder / "config.json", config)
    command = f"python search/imagenet_arch_search.py --path {folder} <&\"'>"
    write_json(folder / "environment.json", {"command": command, "date": "2026-11-22T10:00:00+0000", "cpu": "some cpu"})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    spec = space.spec_for(chosen, folder.name)
    if not finished:
        return config, records, None, spec
    is_ms, scale = unit == "ms", more.get("table_scale", 1.0)
    result = {
        "target_hardware": hardware, "target_latency_ms": target if is_ms else None,
        "target_macs": None if is_ms else target,
        "predicted_latency_ms": scale * table.of_path(chosen) if is_ms else None,
        "argmax_latency_ms": table.of_path(best) if is_ms else None, "cost_unit": unit,
        "latency_source": "pixel1.json" if is_ms else None, "macs": total_macs(spec), "params": total_params(spec),
        "top1_percent": 71.234567, "test_top1_percent": 70.125 + seed, "n_valid_images": 287, "n_test_images": 360,
        "path": list(chosen), "argmax_path": list(best), "manual_seed": seed, "unreadable_images": 0,
        "wall_seconds": 22.72, **more,
    }  # fmt: skip
    write_json(folder / "result.json", result)
    write_spec(folder / "spec.json", spec)
    return config, records, result, spec


def write_random(folder: Path, *, count=3, accuracy=None):
    """The folder that --arch_algo random leaves; with ``accuracy`` the networks were trained and scored."""
    config, _, _, _ = write_run(folder, warmup=0, epochs=0, finished=False)
    for name in ("metrics.jsonl",):
        (folder / name).unlink()
    write_json(folder / "config.json", config | {"arch_algo": "random"})
    space = mbconv_space(macro=TINY, width_mult=0.5, num_classes=10, preprocessing=DIGITS)
    table = price_space(space, latency_price(shipped("pixel1")))
    rng = np.random.default_rng(0)
    networks = []
    for index in range(count):
        path = tuple(int(rng.integers(len(ops))) for ops in space.choices)
        spec = space.spec_for(path, f"random_{index:03d}")
        write_spec(folder / "specs" / f"{spec.name}.json", spec)
        entry = {"spec": f"specs/{spec.name}.json", "path": list(path), "cost": table.of_path(path)}
        networks.append(entry | ({"test_top1_percent": accuracy + index} if accuracy is not None else {}))
    record = {"target": 2.0, "cost_unit": "ms", "target_hardware": "mobile", "manual_seed": 0, "networks": networks}
    write_json(folder / "result.json", record)


def write_trained(folder: Path, spec, accuracy: float, test_images: str = "a" * 16, **settings):
    """The folder that train.py leaves when it has trained ``spec``, as far as a report reads it."""
    folder.mkdir()
    config = (
        training_dict(TrainConfig()) | {"dataset": "digits", "arch": "a/spec.json", "weights": "scratch"} | settings
    )
    write_json(folder / "config.json", config)
    write_spec(folder / "spec.json", spec)
    write_json(
        folder / "result.json", {"test_top1_percent": accuracy, "n_test_images": 360, "test_images": test_images}
    )
