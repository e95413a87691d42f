"""Which bits are best where the network is trained on under them? Uniform, random, haq and exact plans of equal bytes.

    nice python experiments/bits_finetune.py --data_path cifar10.zip

A small network (experiments/small_net.py) is trained on a subset of CIFAR-10. quantize.py chooses plans of 3, 4 and 5
bits per weight, inputs in 8 bits, by each method, all of which score equally many whole plans on held-out images
(uniform: one). Then train.py --bits trains each under its plan, on the training images, equally long; the float network
is trained on as long, too. Test images are looked at twice: before the fine-tuning and behind it.

Differences are image by image, over the test images and averaged over the seeds; half widths are of 95% intervals over
images. The figures go to experiments/bits_finetune.json after every case; given again, the command goes on where it
stopped (--work).
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":  # started as a script: the packages lie beside this folder
    sys.path[0] = str(ROOT)

import numpy as np  # noqa: E402
import torch  # noqa: E402

from compress import BitsConfig, run_quantization  # noqa: E402
from experiments.class_folders import write_parts  # noqa: E402
from experiments.small_net import COMMON, spec_of, trained  # noqa: E402
from proxyless_arch.apps.scores import hits_in_top  # noqa: E402
from proxyless_arch.arch.bits import PLAN_FILE  # noqa: E402
from proxyless_arch.arch.codec import write_spec  # noqa: E402
from proxyless_arch.arch.walk import total_macs, total_params  # noqa: E402
from proxyless_arch.base.cli import exit_code  # noqa: E402
from proxyless_arch.base.errors import InputError  # noqa: E402
from proxyless_arch.base.files import read_json, write_json  # noqa: E402
from proxyless_arch.base.machine import cpu_name  # noqa: E402
from proxyless_arch.base.settings import REQUIRED, parse, setting  # noqa: E402
from proxyless_arch.base.text import align  # noqa: E402
from proxyless_arch.base.words import DATA_PATH, THREADS  # noqa: E402
from proxyless_arch.data.datasets import open_folder  # noqa: E402
from proxyless_arch.weights.files import read_tensors  # noqa: E402
from proxyless_nas.data import eval_batches  # noqa: E402
from proxyless_nas.network import build  # noqa: E402
from proxyless_nas.quantized import build_quantized  # noqa: E402
from proxyless_nas.steps import evaluate  # noqa: E402
from proxyless_nas.weights import load_named  # noqa: E402

FORMAT, VERSION = "proxyless-nas/bits-finetuning-study", 1
OUTPUT = ROOT / "experiments" / "bits_finetune.json"
FLOAT = "float32"
BITS = (3, 4, 5)
METHODS = ("uniform", "random", "haq", "exact")
STAGES = ("before", "after")
CPU = torch.device("cpu")


@dataclass(frozen=True, kw_only=True)
class Study:
    """What is trained, chosen and compared, on how many images."""

    data_path: str = DATA_PATH.setting(REQUIRED, " of train/ and test/")
    n_train: int = setting(3000, "training images, a tenth of which is held out: it chooses", minimum=100)
    n_test: int = setting(2000, "test images", minimum=10)
    n_epochs: int = setting(10, "epochs of the float network", minimum=1)
    init_lr: float = setting(0.1, "learning rate of them", minimum=0)
    tuning_epochs: int = setting(2, "epochs of the fine-tuning", minimum=1)
    tuning_lr: float = setting(0.02, "learning rate of them", minimum=0)
    evaluations: int = setting(200, "whole plans that each method scores (of haq: episodes)", minimum=1)
    n_calibration: int = setting(128, "training images that calibrate", minimum=8)
    n_choosing: int = setting(256, "held-out images that plans are scored on", minimum=8)
    seeds: int = setting(2, "how many seeds, from 0", minimum=1)
    threads: int = THREADS.setting(1, minimum=1)
    work: Path = setting(Path("runs/bits_finetune"), "folder of the trainings", metavar="DIR")
    output: Path = setting(OUTPUT, "the figures", shown="experiments/bits_finetune.json", metavar="FILE")


class Case(NamedTuple):
    """A plan of a network; ``bits`` is 32 of the float network itself."""

    seed: int
    bits: int
    method: str

    @property
    def name(self) -> str:
        return f"{self.seed}_{self.bits}_{self.method}"


def cases(study: Study) -> Iterator[Case]:
    for seed in range(study.seeds):
        yield Case(seed, 32, FLOAT)
        for bits in BITS:
            for method in METHODS:
                yield Case(seed, bits, method)


# ---------------------------------------------------------------------------------------------------------- one case


def base(study: Study, seed: int) -> Path:
    """The run folder of the float network."""
    return trained(
        study.work / f"base_{seed}",
        arch=study.work / "spec.json", data_path=study.work / "photos", weights="scratch", n_epochs=study.n_epochs,
        init_lr=study.init_lr, warmup_epochs=1, valid_size=study.n_train // 10, manual_seed=seed,
    )  # fmt: skip


def quantized(study: Study, case: Case) -> Path:
    """The run folder of quantize.py."""
    folder = study.work / f"plan_{case.name}"
    config = BitsConfig.of(
        arch=base(study, case.seed), average_bits=case.bits, method=case.method, evaluations=study.evaluations,
        calibration_images=study.n_calibration, choosing_images=study.n_choosing, manual_seed=case.seed, device="cpu",
    )  # fmt: skip
    begun = (folder / "config.json").exists()
    run_quantization(None if begun else config, folder, resume=begun, say=None)
    return folder


def tuned(study: Study, case: Case, start: Path) -> Path:
    """The run folder of train.py, from the weights of ``start`` and under its plan, where it has one."""
    plan = {"bits": start / PLAN_FILE} if case.method != FLOAT else {}
    weights, photos = start / "weights.safetensors", study.work / "photos"
    return trained(
        study.work / f"tuned_{case.name}",
        arch=start, weights=weights, data_path=photos, n_epochs=study.tuning_epochs, init_lr=study.tuning_lr,
        warmup_epochs=0, valid_size=study.n_train // 10, manual_seed=case.seed, **plan,
    )  # fmt: skip


@dataclass(frozen=True)
class Hits:
    """A score that keeps which images a network gets right, as a text of 0 and 1."""

    text: str = ""

    def plus(self, logits: np.ndarray, labels: np.ndarray) -> Hits:
        return Hits(self.text + "".join("01"[int(hit)] for hit in hits_in_top(logits, labels, 1)))


def hits(study: Study, folder: Path) -> str:
    """Of a run's network on the test images, under the plan of its weight file."""
    found = read_tensors(folder / "weights.safetensors")
    assert found.spec is not None
    if found.bits is not None:
        net = build_quantized(found.spec, found.tensors, found.bits)
    else:
        net = build(found.spec)
        load_named(net, found.spec, found.tensors)
    images = open_folder(study.work / "photos", "eval")
    return evaluate(net.eval(), eval_batches(images, found.spec.preprocessing, batch_size=100), CPU, Hits()).text


def measured(study: Study, case: Case) -> dict[str, Any]:
    """What a case leaves: its bytes, the plans scored for it, and which test images are right."""
    start = time.process_time()
    folder = base(study, case.seed) if case.method == FLOAT else quantized(study, case)
    plan = {} if case.method == FLOAT else read_json(folder / "result.json")
    return {
        **case._asdict(),
        "size_bytes": plan.get("size_bytes"),
        "evaluations": plan.get("evaluations"),
        "before": hits(study, folder),
        "after": hits(study, tuned(study, case, folder)),
        "cpu_seconds": round(time.process_time() - start, 1),
    }


# --------------------------------------------------------------------------------------------------------- the figures


def right(rows: Sequence[Mapping[str, Any]], stage: str) -> np.ndarray:
    """(images,): the share of the seeds that get each test image right."""
    return np.mean([[hit == "1" for hit in row[stage]] for row in rows], axis=0)


def difference(ours: np.ndarray, others: np.ndarray) -> dict[str, float]:
    """In points, and half of a 95 % interval over images."""
    gains = ours - others
    half = 1.96 * float(gains.std(ddof=1)) / math.sqrt(len(gains))
    return {"points": 100 * float(gains.mean()), "half_width": 100 * half}


def summary(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """By bits and method, over its seeds: top-1, and what it gains over the float network and over the controls."""
    found = []
    for bits, method in [(32, FLOAT), *((bits, method) for bits in BITS for method in METHODS)]:
        own = [row for row in rows if (row["bits"], row["method"]) == (bits, method)]
        if not own:
            continue
        seeds = {row["seed"] for row in own}
        others = {"float": (32, FLOAT)} | (
            {"uniform": (bits, "uniform"), "random": (bits, "random")} if bits < 32 else {}
        )
        facts: dict[str, Any] = {"bits": bits, "method": method, "seeds": sorted(seeds)}
        facts |= {"size_bytes": [row["size_bytes"] for row in own], "evaluations": [row["evaluations"] for row in own]}
        for stage in STAGES:
            hit = right(own, stage)
            facts[stage] = {
                "top1_percent": 100 * float(hit.mean()),
                "by_seed": [100 * float(right([row], stage).mean()) for row in own],
            }
            for name, key in others.items():
                control = [row for row in rows if (row["bits"], row["method"]) == key and row["seed"] in seeds]
                if key != (bits, method) and len(control) == len(own):
                    facts[stage][f"over_{name}"] = difference(hit, right(control, stage))
        found.append(facts)
    return found


def table(found: Sequence[Mapping[str, Any]]) -> list[str]:
    head = ("bits", "method", *(f"{stage} {what}" for stage in STAGES for what in ("top-1", "over uniform")))
    rows = [head]
    for one in found:
        cells = [str(one["bits"]), one["method"]]
        for stage in STAGES:
            gain = one[stage].get("over_uniform")
            cells += [f"{one[stage]['top1_percent']:.1f}", _gain(gain)]
        rows.append(tuple(cells))
    return align(rows, left=(1,))


def _gain(gain: Mapping[str, float] | None) -> str:
    return "" if gain is None else f"{gain['points']:+.1f} ({gain['half_width']:.1f})"


# ---------------------------------------------------------------------------------------------------------- the record

SAME = ("n_train", "n_test", "n_epochs", "init_lr", "tuning_epochs", "tuning_lr", "evaluations", "n_choosing")
"""Settings that all cases of a record have in common."""


def known(study: Study) -> list[dict[str, Any]]:
    """The cases that are there. Raises InputError when they are of another study."""
    file = study.work / "cases.json"
    if not file.is_file():
        return []
    saved = read_json(file)
    if other := [name for name in SAME if saved["study"][name] != getattr(study, name)]:
        raise InputError(f"holds a study with other {', '.join(other)}: name another --work", source=str(file))
    return saved["rows"]


def save(study: Study, rows: Sequence[Mapping[str, Any]]) -> None:
    facts = {name: value for name, value in asdict(study).items() if name not in ("data_path", "output", "work")}
    machine = {"cpu": cpu_name(), "torch": str(torch.__version__), "date": time.strftime("%Y-%m-%d")}
    training = {name: COMMON[name] for name in ("train_batch_size", "weight_decay")}
    spec = spec_of()
    record = {
        "format": FORMAT, "version": VERSION, "study": facts, "training": training, "machine": machine,
        "macs": total_macs(spec), "params": total_params(spec),
    }  # fmt: skip
    write_json(study.work / "cases.json", {"study": facts, "rows": list(rows)})
    plain = [{name: value for name, value in row.items() if name not in STAGES} for row in rows]
    write_json(study.output, {**record, "summary": summary(rows), "rows": plain})


def run(argv: Sequence[str]) -> int:
    study = parse(Study, argv, "bits_finetune.py", __doc__)
    torch.set_num_threads(study.threads)
    study.work.mkdir(parents=True, exist_ok=True)
    write_spec(study.work / "spec.json", spec_of())
    write_parts(study.data_path, study.work / "photos", study.n_train, study.n_test)
    rows = known(study)
    done = {Case(row["seed"], row["bits"], row["method"]) for row in rows}
    for case in cases(study):
        if case not in done:
            rows.append(measured(study, case))
            save(study, rows)
            print(f"{case.name}: {rows[-1]['cpu_seconds']:.0f} s", flush=True)
    save(study, rows)
    print("\n".join(table(summary(rows))))
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    return exit_code(run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
