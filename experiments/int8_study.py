"""What int8 costs a network in accuracy on LiteRT, and what brings it back.

    python experiments/int8_study.py --arch net.json --weights net.pth --mean .5 .5 .5 --std .5 .5 .5 -d photos.zip

Every variant is calibrated on one half of the images and scored on the other, then the other way round: all images
are scored, none by a network that was calibrated on it; --repeats does it with other halves. The figures go to
experiments/int8_study.json. Top-1 of a thousand photos is a coarse measure (``top1_drop_percents`` shows how far the
repeats lie apart); cross-entropy and the logits' differences tell variants apart that top-1 does not.

Batch normalization is folded by the converter in all of them. ``int8`` is plain post-training quantization, weights
per output channel. ``float stem+N`` keeps the stem and the first N blocks in float32, as export_tf.py does with a
quarter of the blocks. ``filled ReLU6`` scales every channel in front of a depthwise convolution up to the common range
0..6 and that convolution's weights down. ``16x8`` has int16 activations.
"""

from __future__ import annotations

import os
import shlex
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":  # started as a script: the packages lie beside this folder
    sys.path[0] = str(ROOT)

from proxyless_arch.apps import evaluation  # noqa: E402
from proxyless_arch.apps.evaluation import Network  # noqa: E402
from proxyless_arch.apps.scores import EvalResult, top_k_hits  # noqa: E402
from proxyless_arch.arch.ops import MBConv  # noqa: E402
from proxyless_arch.base import settings  # noqa: E402
from proxyless_arch.base.cli import exit_code  # noqa: E402
from proxyless_arch.base.files import write_json  # noqa: E402
from proxyless_arch.base.machine import cpu_name  # noqa: E402
from proxyless_arch.base.settings import REQUIRED, setting  # noqa: E402
from proxyless_arch.base.text import align  # noqa: E402
from proxyless_arch.base.timing import wall_ms  # noqa: E402
from proxyless_arch.base.words import ARCH, DATA_PATH, SAVE_JSON, SEED  # noqa: E402
from proxyless_arch.data.batches import Sample, read_batch  # noqa: E402
from proxyless_arch.data.streams import Stream, numpy_rng  # noqa: E402
from proxyless_arch.exports.litert import load_litert  # noqa: E402
from proxyless_arch.weights.files import NamedTensors  # noqa: E402

FORMAT, VERSION = "proxyless-nas/int8-study", 1
HEADROOM = 2.0
"""How far above its peak in the calibration a channel may go before the filled ReLU6 clips it."""
MOST_FILL = 16.0


@dataclass(frozen=True, kw_only=True)
class StudyConfig(evaluation.NetworkConfig):
    """What int8_study.py is asked to do."""

    arch: str = ARCH.setting(REQUIRED)
    data_path: str = DATA_PATH.setting(REQUIRED, ", labeled", aliases=("-p", "--path"))
    limit: int | None = setting(None, "at most this many images, evenly spaced", minimum=1)
    seed: int = SEED.setting(0, ": the first halves")
    repeats: int = setting(2, "pairs of halves", minimum=1)
    save_json: Path = SAVE_JSON.setting(
        ROOT / "experiments" / "int8_study.json", shown="experiments/int8_study.json", metavar="FILE"
    )


def filled_relu6(network: Network, pixels: np.ndarray) -> Network:
    """The same network with the range 0..6 in front of every depthwise convolution used by all channels."""
    import tensorflow as tf

    from proxyless_nas_tensorflow.network import build, feature_extractor
    from proxyless_nas_tensorflow.weights import load_named

    spec = network.spec
    net = build(spec, spec.resolution)
    load_named(net, spec, network.tensors, network.weights)
    expanding = [
        f"blocks.{index}.mobile_inverted_conv"
        for index, block in enumerate(spec.blocks)
        if isinstance(block.op, MBConv) and block.op.expand_ratio > 1
    ]
    features = feature_extractor(net, [f"{name}.inverted_bottleneck.act" for name in expanding])
    peaks_of = tf.function(
        lambda images: [tf.reduce_max(value, (0, 1, 2)) for value in features(images, training=False).values()],
        autograph=False,
    )
    peaks = [
        np.stack(every).max(0) for every in zip(*(map(np.asarray, peaks_of(p)) for p in parts(pixels)), strict=True)
    ]
    tensors: NamedTensors = {name: tensor.copy() for name, tensor in network.tensors.items()}
    for name, peak in zip(expanding, peaks, strict=True):
        factor = np.clip(6 / (HEADROOM * np.maximum(peak, 1e-6)), 1, MOST_FILL).astype(np.float32)
        tensors[f"{name}.inverted_bottleneck.bn.weight"] *= factor
        tensors[f"{name}.inverted_bottleneck.bn.bias"] *= factor
        tensors[f"{name}.depth_conv.conv.weight"] /= factor[:, None, None, None]
    return replace(network, tensors=tensors)


def parts(pixels: np.ndarray, size: int = 25) -> Iterator[np.ndarray]:
    for start in range(0, len(pixels), size):
        yield pixels[start : start + size]


def variants(network: Network, pixels: np.ndarray) -> Iterator[tuple[str, bytes]]:
    """(name, LiteRT file) of every variant, calibrated on some or all of ``pixels``."""
    from proxyless_nas_tensorflow.export import calibrated, float_layers, quantized, to_int16x8, to_litert
    from proxyless_nas_tensorflow.network import build
    from proxyless_nas_tensorflow.weights import load_named

    spec = network.spec
    net = build(spec, spec.resolution)
    load_named(net, spec, network.tensors, network.weights)
    yield "float32", to_litert(net)
    yield "float16 weights", to_litert(net, half=True)
    for count in (10, 50):
        yield f"int8, {count} calibration images", quantized(calibrated(net, pixels[:count]))
    yield "int8, one scale per weight tensor", quantized(calibrated(net, pixels[:200], per_channel=False))
    quantizer = calibrated(net, pixels[:200])
    yield "int8, 200 calibration images", quantized(quantizer)
    yield "int8, int8 images and logits", quantized(quantizer, integer_io=True)
    yield "int8, float classifier", quantized(quantizer, float_names=["classifier"])
    yield "int8, float stem", quantized(quantizer, float_names=["first_conv"])
    for blocks in (1, 2, 3, 6, 10):
        yield f"int8, float stem+{blocks}", quantized(quantizer, float_names=float_layers(spec, blocks))
    kept = [*float_layers(spec, 3), "classifier"]
    yield "int8, float stem+3 and classifier", quantized(quantizer, float_names=kept)
    filled = filled_relu6(network, pixels[:200])
    load_named(net, spec, filled.tensors, filled.weights)
    yield "int8, filled ReLU6", quantized(calibrated(net, pixels[:200]))
    load_named(net, spec, network.tensors, network.weights)
    yield "16x8", to_int16x8(net, pixels[:200])


def score(content: bytes, path: Path, pixels: np.ndarray) -> tuple[np.ndarray, float]:
    """((N, classes) logits, median ms per image) of a LiteRT file on one thread."""
    path.write_bytes(content)
    forward = load_litert(path, 1).forward
    rows, times = [], []
    for index in range(len(pixels)):
        image = pixels[index : index + 1]
        times.append(wall_ms(lambda image=image: rows.append(forward(image)[0])))
    path.unlink()
    return np.stack(rows), statistics.median(times)


def study(
    network: Network, pixels: np.ndarray, labels: np.ndarray, seeds: Sequence[int], scratch: Path
) -> list[dict[str, Any]]:
    """One row per variant, over both halves of every seed."""
    logits: dict[str, np.ndarray] = {}
    facts: dict[str, dict[str, Any]] = {}
    for repeat, seed in enumerate(seeds):
        order = numpy_rng(seed, Stream.INT8_HALVES).permutation(len(pixels))
        halves = [order[: len(order) // 2], order[len(order) // 2 :]]
        for half, (ours, theirs) in enumerate((halves, halves[::-1])):
            for name, content in variants(network, pixels[ours]):
                found, ms = score(content, scratch, pixels[theirs])
                shape = (len(seeds), len(pixels), found.shape[1])
                logits.setdefault(name, np.zeros(shape, np.float32))[repeat, theirs] = found
                facts.setdefault(name, {"size_bytes": len(content), "ms_per_image": []})
                facts[name]["ms_per_image"].append(round(ms, 3))
                percent = 100 * top_k_hits(found, labels[theirs], 1) / len(theirs)
                print(f"  seed {seed} half {half + 1}  {name:36} {percent:5.1f} %  {ms:5.1f} ms", flush=True)
    return [_row(name, facts[name], logits[name], logits["float32"], labels) for name in logits]


def _row(
    name: str, facts: dict[str, Any], found: np.ndarray, reference: np.ndarray, labels: np.ndarray
) -> dict[str, Any]:
    """The figures of (repeats, images, classes) logits."""
    results = [EvalResult().plus(logits, labels) for logits in found]
    sources = [EvalResult().plus(logits, labels) for logits in reference]
    drops = [source.top1_percent - result.top1_percent for source, result in zip(sources, results, strict=True)]
    return {
        "variant": name,
        **facts,
        "top1_percent": round(statistics.mean(result.top1_percent for result in results), 3),
        "top1_drop_percent": round(statistics.mean(drops), 3),
        "top1_drop_percents": [round(drop, 3) for drop in drops],
        "cross_entropy": round(statistics.mean(result.loss for result in results), 5),
        "same_top1_percent": round(100 * float((found.argmax(2) == reference.argmax(2)).mean()), 3),
        "rms_logit_difference": round(float(np.sqrt(((found - reference) ** 2).mean())), 5),
        "max_logit_difference": round(float(np.abs(found - reference).max()), 5),
    }


def run(argv: Sequence[str]) -> None:
    arguments = settings.parse(StudyConfig, argv, "experiments/int8_study.py", __doc__)
    network = evaluation.load_network(arguments)
    images = evaluation.open_images(arguments.data_path, network.spec)
    count = min(len(images), arguments.limit or len(images))
    samples = [Sample(0, position * len(images) // count) for position in range(count)]
    batch = read_batch(images, network.spec.preprocessing, None, 0, samples)
    seeds = range(arguments.seed, arguments.seed + arguments.repeats)
    scratch = arguments.save_json.with_suffix(f".{os.getpid()}.tflite")
    try:
        rows = study(network, batch.images, batch.labels, seeds, scratch)
    finally:
        scratch.unlink(missing_ok=True)
    record = {
        "format": FORMAT,
        "version": VERSION,
        "command": shlex.join(["python", "experiments/int8_study.py", *argv]),
        "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "arch": network.spec.name,
        "weights_blob_sha1": network.weights_blob_sha1,
        "n_images": len(batch.labels),
        "unreadable": len(batch.errors),
        "cpu": cpu_name(),
        "threads": 1,
        "seeds": list(seeds),
        "note": "two halves, each scored by networks calibrated on the other; ms_per_image: median of each half",
        "variants": rows,
    }
    write_json(arguments.save_json, record)
    cells = [
        (
            row["variant"],
            f"{row['top1_percent']:.1f}%",
            f"{row['top1_drop_percent']:.1f}",
            f"{row['cross_entropy']:.4f}",
            f"{row['same_top1_percent']:.1f}%",
            f"{row['rms_logit_difference']:.4f}",
            f"{row['size_bytes']:,}",
        )
        for row in rows
    ]
    print(*align([("variant", "top-1", "drop", "cross-entropy", "same top-1", "rms", "bytes"), *cells]), sep="\n")


def main(argv: Sequence[str] | None = None) -> int:
    return exit_code(run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
