"""What choosing bits per layer is worth: HAQ's published policy, its rule, its agent, and exact choices, side by side.

    python experiments/bits_proof.py --arch net.json --weights net.pth --data_path photos.zip --haq_table cycles.npy

H1 the cost of HAQ's published MobileNetV2 policy on HAQ's released table, against uniform bits. H2 exact plans against
HAQ's last-to-first reduction from 8/8 on that table, damages drawn at random. H3 the same bytes as 3, 4 and 5 bits per
weight, 8-bit activations: uniform, random, haq and exact plans. H4 {float32, W8A8} per layer in real LiteRT files,
against the first quarter of the blocks in float32, at equal bytes. H4W the same with {float32, W8, W8A8}, the files of
quantize.py and export_tf.py's litert_mixed: a layer that is W8 is computed in float32.

Every network of H3, H4 and H4W is calibrated and chosen on one half of the photos and scored on the other, then the
other way round. Differences come with the half width of a 95 % interval of paired differences (McNemar). The record
goes to experiments/bits_proof.json, in which other parts stay as they are; what was measured already is kept in --work,
from which a run goes on.
"""

from __future__ import annotations

import math
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":  # started as a script: the packages lie beside this folder
    sys.path[0] = str(ROOT)

from experiments.intervals import paired  # noqa: E402
from proxyless_arch.apps import evaluation  # noqa: E402
from proxyless_arch.apps.evaluation import Network  # noqa: E402
from proxyless_arch.arch.bits import FLOAT32, INT8, Format, bit_layers  # noqa: E402
from proxyless_arch.arch.spec import ArchSpec  # noqa: E402
from proxyless_arch.base import runs, settings  # noqa: E402
from proxyless_arch.base.cli import exit_code  # noqa: E402
from proxyless_arch.base.errors import InputError  # noqa: E402
from proxyless_arch.base.files import read_json, write_json  # noqa: E402
from proxyless_arch.base.machine import cpu_name  # noqa: E402
from proxyless_arch.base.settings import REQUIRED, setting  # noqa: E402
from proxyless_arch.base.text import align  # noqa: E402
from proxyless_arch.base.timing import wall_ms  # noqa: E402
from proxyless_arch.base.units import Unit  # noqa: E402
from proxyless_arch.base.words import ARCH, DATA_PATH, SAVE_JSON, SEED  # noqa: E402
from proxyless_arch.data.batches import Sample, read_batch  # noqa: E402
from proxyless_arch.data.streams import Stream, numpy_rng  # noqa: E402
from proxyless_arch.exports.bit_files import STORED_8, file_formats, first_blocks_float  # noqa: E402
from proxyless_arch.weights.files import NamedTensors  # noqa: E402

FORMAT, VERSION = "proxyless-nas/bits-proof", 1
PUBLISHED_POLICY = (
    "8- 77 56 46 56 57 56 74 46 46 77 56 46 73 57 47 73 57 47 77 47 47 64 67 47 74 67 57 74 67 57 74 67 67 64 57 67 64 "
    "57 67 77 47 77 77 47 77 77 47 77 77 47 77 88"
)
"""HAQ's for MobileNetV2 at .6 of the latency of 8/8 (README of mit-han-lab/haq): per layer the bits of weights and
activations; the first input is not quantized."""
AVERAGE_BITS = (3, 4, 5)
METHODS = ("uniform", "random", "haq", "exact")
BATCH = 50


@dataclass(frozen=True, kw_only=True)
class ProofConfig(evaluation.NetworkConfig):
    """What bits_proof.py is asked to do."""

    arch: str = ARCH.setting(REQUIRED)
    data_path: str = DATA_PATH.setting(REQUIRED, ", labeled")
    haq_table: Path | None = setting(None, "the released table of cycles (53, 8, 8), for H1 and H2", metavar="FILE")
    parts: str = setting("H1,H2,H3,H4,H4W", "which of them")
    evaluations: int = setting(8, "whole plans scored by each method of H3", minimum=1)
    halves: int = setting(2, "1: only the second half is scored", minimum=1, maximum=2)
    most: int | None = setting(
        None, "photos of a half that calibrate, and that choose (default: all of it)", minimum=10
    )
    rounds: int = setting(30, "timings of each LiteRT file", minimum=1)
    seed: int = SEED.setting(0, ": the halves")
    work: Path = setting(Path("bits_proof_work"), "folder of what was measured", metavar="DIR")
    save_json: Path = SAVE_JSON.setting(
        ROOT / "experiments" / "bits_proof.json", shown="experiments/bits_proof.json", metavar="FILE"
    )


# ---------------------------------------------------------------------------------------------------- H1 and H2


def policy() -> list[tuple[int, int | None]]:
    """(weight bits, activation bits) of the published policy."""
    return [(int(word[0]), None if word[1] == "-" else int(word[1])) for word in PUBLISHED_POLICY.split()]


def policy_share(table: np.ndarray, first_input: int) -> float:
    """What the published policy costs, as a share of 8/8; ``first_input``: bits of the input that is not quantized."""
    costs = [table[layer, w - 1, (a or first_input) - 1] for layer, (w, a) in enumerate(policy())]
    return float(sum(costs) / table[:, 7, 7].sum())


def prove_policy(table: np.ndarray) -> dict[str, Any]:
    whole = table[:, 7, 7].sum()
    uniform = {f"w{w}a{a}": float(table[:, w - 1, a - 1].sum() / whole) for w, a in ((4, 6), (5, 6), (6, 5), (7, 5))}
    return {
        "first_input_7_bits": policy_share(table, 7),
        "first_input_8_bits": policy_share(table, 8),
        "published_target": 0.6,
        "uniform": uniform,
    }


def prove_rule(table: np.ndarray, seeds: Sequence[int]) -> list[dict[str, Any]]:
    """Damage of the reduction from 8/8 and of the exact plan, by budget and seed."""
    from hardware.cost import CostTable
    from hardware.projection import Limit, project

    bits = range(2, 9)
    pairs = [(w, a) for w in bits for a in bits]
    costs = tuple(tuple(float(layer[w - 1, a - 1]) for w, a in pairs) for layer in table)
    table_of = CostTable(0.0, costs, Unit.MACS, "cycles of HAQ's table")
    whole = table_of.of_path((len(pairs) - 1,) * len(costs))
    rows = []
    for seed in seeds:
        rng = np.random.default_rng(seed)
        scale = 10 ** rng.uniform(-3, 0, (len(costs), 2))
        damages = [np.array([s[0] * 4.0**-w + s[1] * 4.0**-a for w, a in pairs]) for s in scale]
        for share in (0.3, 0.5, 0.6):
            reduced = reduced_path(costs, pairs, share * whole)
            limits = [Limit(table_of, table_of.of_path(reduced))]
            exact = project([-row for row in damages], limits, settles_ties=False).path
            found = [sum(float(row[j]) for row, j in zip(damages, path, strict=True)) for path in (reduced, exact)]
            rows.append({"seed": seed, "share": share, "rule": found[0], "exact": found[1]})
    return rows


def reduced_path(costs: Sequence[Sequence[float]], pairs: Sequence[tuple[int, int]], budget: float) -> tuple[int, ...]:
    """From 8/8: from the last layer to the first a bit of the input and then one of the weights less, until it fits."""
    chosen = [[8, 8] for _ in costs]

    def total() -> float:
        return sum(row[pairs.index((w, a))] for row, (w, a) in zip(costs, chosen, strict=True))

    while True:
        for layer in reversed(range(len(costs))):
            for which in (1, 0):
                if total() <= budget:
                    return tuple(pairs.index((w, a)) for w, a in chosen)
                chosen[layer][which] = max(2, chosen[layer][which] - 1)


# ------------------------------------------------------------------------------------------------------ the photos


@dataclass(frozen=True)
class Half:
    """Photos that calibrate and choose, and others that score."""

    number: int
    calibration: np.ndarray
    choosing: np.ndarray
    test: np.ndarray

    @property
    def ours(self) -> np.ndarray:
        return np.concatenate([self.calibration, self.choosing])


def halves_of(count: int, config: ProofConfig) -> Iterator[Half]:
    order = numpy_rng(config.seed, Stream.INT8_HALVES).permutation(count)
    both = [order[: count // 2], order[count // 2 :]]
    for number in range(config.halves):
        ours, theirs = both[number], both[1 - number]
        calibration, choosing = ours[: len(ours) // 2], ours[len(ours) // 2 :]
        yield Half(number, calibration[: config.most], choosing[: config.most], theirs)


@dataclass(frozen=True)
class Photos:
    """(N, H, W, 3) and labels."""

    pixels: np.ndarray
    labels: np.ndarray

    def batches(self, chosen: np.ndarray) -> list[tuple[Any, Any]]:
        """As the torch zoo takes them."""
        import torch

        images = torch.from_numpy(np.ascontiguousarray(self.pixels[chosen].transpose(0, 3, 1, 2)))
        labels = torch.from_numpy(self.labels[chosen])
        return list(zip(images.split(BATCH), labels.split(BATCH), strict=True))


def environment_of(
    network: Network, photos: Photos, half: Half, formats: Sequence[Format], image: bool, folder: Path
) -> Any:
    """A BitEnvironment on the photos that choose."""
    import torch

    from compress.bits.calibration import calibrate
    from compress.bits.choices import groups_of, matches_of
    from compress.bits.environment import BitEnvironment
    from compress.record import Record
    from proxyless_nas.network import build
    from proxyless_nas.weights import load_named

    folder.mkdir(parents=True, exist_ok=True)
    file = folder / runs.METRICS_FILE
    lines = runs.read_metrics(file) if file.is_file() else []
    groups = groups_of(network.spec, formats, image=image)
    net = build(network.spec)
    load_named(net, network.spec, network.tensors)
    calibration, cpu = photos.batches(half.calibration), torch.device("cpu")
    return BitEnvironment(
        spec=network.spec,
        tensors=network.tensors,
        groups=groups,
        matches=matches_of(network.spec, groups),
        facts=calibrate(net.eval(), calibration, cpu),
        calibration=calibration,
        choosing=photos.batches(half.choosing),
        device=cpu,
        record=Record.opened(runs.MetricsFile(folder, file.stat().st_size if file.is_file() else None), lines),
        quantizer="channel",
    )


def is_right(net: Any, photos: Photos, chosen: np.ndarray) -> list[bool]:
    """Whether each photo's label is what the network holds most likely."""
    import torch

    with torch.no_grad():
        return [bool(hit) for images, labels in photos.batches(chosen) for hit in net(images).argmax(1) == labels]


# ------------------------------------------------------------------------------------------------------------- H3


def prove_bits(network: Network, photos: Photos, config: ProofConfig) -> list[dict[str, Any]]:
    """One row per number of bits and method, over all halves."""
    right: dict[tuple[int, str], list[bool]] = {}
    facts: dict[tuple[int, str], dict[str, Any]] = {}
    for half in halves_of(len(photos.labels), config):
        formats = [Format(bits, 8) for bits in range(2, 9)]
        environment = environment_of(network, photos, half, formats, False, config.work / f"h3_{half.number}")
        floats = is_right(environment.float_net, photos, half.test)
        right.setdefault((32, "float32"), []).extend(floats)
        for bits in AVERAGE_BITS:
            for method in METHODS:
                found = chosen_by(method, environment, bits, config)
                hits = is_right(environment.network(found.path)[0], photos, half.test)
                right.setdefault((bits, method), []).extend(hits)
                facts[bits, method] = {"size_bytes": environment.plan(found.path).n_bytes(network.spec)}
                print(f"  half {half.number + 1}  {bits} bits  {method:8} {100 * np.mean(hits):5.1f} %", flush=True)
    return [
        {
            "bits": bits,
            "method": method,
            "top1_percent": 100 * float(np.mean(hits)),
            **facts.get((bits, method), {}),
            **({"over_uniform": paired(hits, right[bits, "uniform"])} if bits != 32 else {}),
            "over_float": paired(hits, right[32, "float32"]),
        }
        for (bits, method), hits in right.items()
    ]


def chosen_by(method: str, environment: Any, bits: int, config: ProofConfig) -> Any:
    """The best plan that a method finds in the bytes of ``bits`` per weight."""
    from compress.bits.choices import bytes_table, nearest_path, uniform_path
    from compress.bits.haq import haq
    from compress.methods import Found, best, exact, random
    from hardware.projection import Limit

    table = bytes_table(environment.groups)
    limits = [Limit(table, table.of_path(nearest_path(environment.groups, Format(bits, 8))))]
    rng = numpy_rng(config.seed, Stream.PRUNING_CHOICE)
    count = config.evaluations

    def silent(each: Any) -> None:
        pass

    match method:
        case "uniform":
            path = uniform_path(environment.groups, limits)
            return Found(path, environment.score(path))
        case "random":
            return best(random(environment, limits, count, rng, silent))
        case "haq":
            return best(haq(environment, limits, count, config.seed, silent, 0.0))
        case _:
            return best(exact(environment, limits, count, rng, silent))


# ------------------------------------------------------------------------------------------------------------- H4


Contents = dict[str, bytes]
"""LiteRT files, by what they are called; the float one first."""
RULE, EXACT = "first quarter float", "exact, bytes of the first quarter"


def prove_files(photos: Photos, config: ProofConfig, files: Callable[[Half], Contents]) -> list[dict[str, Any]]:
    """One row per LiteRT file, over all halves: bytes, ms and top-1."""
    right: dict[str, list[bool]] = {}
    facts: dict[str, dict[str, Any]] = {}
    for half in halves_of(len(photos.labels), config):
        for name, (right_here, fact) in run_files(files(half), photos, half, config).items():
            right.setdefault(name, []).extend(right_here)
            facts.setdefault(name, {"size_bytes": [], "ms": []})
            for key in ("size_bytes", "ms"):
                facts[name][key].append(fact[key])
            print(f"  half {half.number + 1}  {name:34} {100 * np.mean(right_here):5.1f} %  {fact}", flush=True)
    return [
        {
            "file": name,
            "top1_percent": 100 * float(np.mean(hits)),
            **facts[name],
            "over_float": paired(hits, right["float32"]),
            "over_rule": paired(hits, right[RULE]),
        }
        for name, hits in right.items()
    ]


def rule_of(spec: ArchSpec, few: Format, blocks: int | None = None) -> dict[str, Format]:
    """Today's: the stem and the first blocks float32, every other layer in ``few``."""
    formats = first_blocks_float(spec, blocks)
    return {name: format if format.is_float else few for name, format in formats.items()}


def exact_within(environment: Any, budget: float, config: ProofConfig) -> tuple[int, ...]:
    """The choices of the exact plan of at most so many bytes."""
    from compress.bits.choices import bytes_table
    from compress.methods import best, exact
    from hardware.projection import Limit

    limits = [Limit(bytes_table(environment.groups), budget)]
    rng = numpy_rng(config.seed, Stream.PRUNING_CHOICE)
    return best(exact(environment, limits, config.evaluations, rng, lambda each: None)).path


def n_bytes(spec: ArchSpec, formats: Mapping[str, Format]) -> float:
    return math.fsum(layer.n_bytes(formats[layer.name]) for layer in bit_layers(spec))


def int8_files(network: Network, photos: Photos, half: Half, config: ProofConfig) -> Contents:
    """Of TensorFlow's converter: today's rule, and exact plans of no more bytes."""
    from proxyless_nas_tensorflow.export import calibrated, float_names, quantized, to_litert

    spec = network.spec
    rule = rule_of(spec, INT8)
    plans = {"all int8": rule_of(spec, INT8, 0), RULE: rule}
    environment = environment_of(network, photos, half, (FLOAT32, INT8), True, config.work / f"h4_{half.number}")
    third = n_bytes(spec, dict.fromkeys(rule, FLOAT32)) / 3
    for name, budget in ((EXACT, n_bytes(spec, rule)), ("exact, a third of float32", third)):
        plans[name] = dict(environment.plan(exact_within(environment, budget, config)).formats)
    net = keras_net(network, network.tensors)
    quantizer = calibrated(net, photos.pixels[half.ours[:200]])
    made = {name: quantized(quantizer, float_names=float_names(spec, each)) for name, each in plans.items()}
    return {"float32": to_litert(net)} | made


def mixed_files(network: Network, photos: Photos, half: Half, config: ProofConfig) -> Contents:
    """Of ai-edge-quantizer: today's rule with W8, and the exact plan of no more bytes, its biases corrected."""
    from proxyless_nas_tensorflow.export import to_litert
    from proxyless_nas_tensorflow.mixed import to_mixed

    spec = network.spec
    float_file = to_litert(keras_net(network, network.tensors))
    plans = {"all W8": rule_of(spec, STORED_8, 0), RULE: rule_of(spec, STORED_8)}
    contents = {"float32": float_file} | {name: to_mixed(float_file, spec, each, None) for name, each in plans.items()}
    formats = (FLOAT32, STORED_8, INT8)
    environment = environment_of(network, photos, half, formats, True, config.work / f"h4_{half.number}")
    path = exact_within(environment, n_bytes(spec, plans[RULE]), config)
    chosen = to_litert(keras_net(network, environment.network(path)[1]))
    planned = file_formats(environment.plan(path), spec, "litert_mixed")
    contents[EXACT] = to_mixed(chosen, spec, planned, photos.pixels[half.ours[:200]])
    return contents


def keras_net(network: Network, tensors: NamedTensors) -> Any:
    from proxyless_nas_tensorflow.network import build
    from proxyless_nas_tensorflow.weights import load_named

    net = build(network.spec, network.spec.resolution)
    load_named(net, network.spec, tensors, network.weights)
    return net


def run_files(
    contents: Contents, photos: Photos, half: Half, config: ProofConfig
) -> dict[str, tuple[list[bool], dict[str, Any]]]:
    """Score each file on the photos of the other half, and time it beside the float one."""
    from proxyless_arch.exports.litert import load_litert

    config.work.mkdir(parents=True, exist_ok=True)
    loaded = {}
    for index, (name, content) in enumerate(contents.items()):
        file = config.work / f"file_{os.getpid()}_{index}.tflite"
        file.write_bytes(content)
        loaded[name] = load_litert(file, 1).forward
        file.unlink()
    found = {}
    for name, forward in loaded.items():
        logits = forward(photos.pixels[half.test])
        found[name] = [bool(hit) for hit in logits.argmax(1) == photos.labels[half.test]]
    times = timed({name: (lambda f=forward: f(photos.pixels[:1])) for name, forward in loaded.items()}, config.rounds)
    return {name: (found[name], {"size_bytes": len(contents[name]), "ms": times[name]}) for name in contents}


def timed(takers: dict[str, Any], rounds: int) -> dict[str, float]:
    """Median ms of each, one after the other in every round."""
    taken: dict[str, list[float]] = {name: [] for name in takers}
    for _ in range(rounds):
        for name, run in takers.items():
            taken[name].append(wall_ms(run))
    return {name: round(float(np.median(times)), 3) for name, times in taken.items()}


# ------------------------------------------------------------------------------------------------------------- run


def run(argv: Sequence[str]) -> None:
    config = settings.parse(ProofConfig, argv, "experiments/bits_proof.py", __doc__)
    parts = config.parts.split(",")
    if config.haq_table is None and {"H1", "H2"} & set(parts):
        raise InputError("H1 and H2 need the released table", "--haq_table")
    network = evaluation.load_network(config)
    images = evaluation.open_images(config.data_path, network.spec)
    batch = read_batch(images, network.spec.preprocessing, None, 0, [Sample(0, index) for index in range(len(images))])
    photos = Photos(batch.images, batch.labels)
    record = known(config.save_json, network) | {
        "format": FORMAT,
        "version": VERSION,
        "arch": network.spec.name,
        "weights_blob_sha1": network.weights_blob_sha1,
        "n_images": len(photos.labels),
        "cpu": cpu_name(),
        "threads": 1,
        "seed": config.seed,
    }
    table = None if config.haq_table is None else np.load(config.haq_table, allow_pickle=False)
    steps = {
        "H1": lambda: prove_policy(table),
        "H2": lambda: prove_rule(table, range(5)),
        "H4W": lambda: prove_files(photos, config, lambda half: mixed_files(network, photos, half, config)),
        "H4": lambda: prove_files(photos, config, lambda half: int8_files(network, photos, half, config)),
        "H3": lambda: prove_bits(network, photos, config),
    }
    for name, step in steps.items():
        if name in parts:
            print(name, flush=True)
            record[name] = step()
            record["runs"] = record.get("runs", {}) | {name: facts_of(argv, config)}
            write_json(config.save_json, record)
    for name in ("H3", "H4", "H4W"):
        if name in parts:
            print(*align(_cells(record[name])), sep="\n")


def known(file: Path, network: Network) -> dict[str, Any]:
    """The parts of a record. Raises InputError when they are of another network."""
    found = read_json(file) if file.is_file() else {}
    if found and found["weights_blob_sha1"] != network.weights_blob_sha1:
        raise InputError(f"holds figures of another {found['arch']}: name another --save_json", source=str(file))
    return found


def facts_of(argv: Sequence[str], config: ProofConfig) -> dict[str, Any]:
    """How a part was measured."""
    return {
        "command": shlex.join(["python", "experiments/bits_proof.py", *argv]),
        "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "evaluations": config.evaluations,
        "halves": config.halves,
        "most": config.most,
    }


def _cells(rows: Sequence[dict[str, Any]]) -> list[tuple[str, ...]]:
    head = ("", "top-1", "against float32")
    found = [head]
    for row in rows:
        name = row.get("file") or f"{row['bits']} bits, {row['method']}"
        off = row["over_float"]
        found.append((name, f"{row['top1_percent']:.1f} %", f"{off['points']:+.1f} +- {off['half_width']:.1f}"))
    return found


def main(argv: Sequence[str] | None = None) -> int:
    return exit_code(run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
