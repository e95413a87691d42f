"""Which bits are best where the network is trained on under them? Uniform, random, haq and exact plans of equal bytes.

    nice python experiments/bits_finetune.py --data_path cifar10.zip
    nice python experiments/bits_finetune.py --data_path cifar10.zip --parent DIR --output bits_lite0.json

A small network (experiments/small_net.py) is trained on a subset of CIFAR-10; or with --parent EfficientNet-Lite0 is
fine-tuned on photos, as in prune_proof.py, whose --work it may be. quantize.py chooses plans of 3, 4 and 5 bits per
weight, inputs in 8 bits, by each method, all of which score equally many whole plans on held-out images (uniform: one),
and ``haq 600`` and ``random 600`` as many as HAQ's paper. Then train.py --bits trains each under its plan, on the
training images, equally long; the float network is trained on as long, too. Test images are looked at twice: before the
fine-tuning and behind it.

Differences are image by image, over the test images and averaged over the seeds; half widths are of 95% intervals over
images. Each case writes one file into ``--work``; one whose file is there is not done again. With --jobs or --launcher
cases are done side by side. ``--summary`` reads what is there and writes the record.
"""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":  # started as a script: the packages lie beside this folder
    sys.path[0] = str(ROOT)

import numpy as np  # noqa: E402
import torch  # noqa: E402

from compress import BitsConfig, run_quantization  # noqa: E402
from experiments.class_folders import write_parts  # noqa: E402
from experiments.intervals import paired  # noqa: E402
from experiments.launched import run_launched  # noqa: E402
from experiments.one_study import check_same, facts_of  # noqa: E402
from experiments.pruning import CPU, Hits, Person, make_parent, make_photos  # noqa: E402
from experiments.small_net import COMMON, spec_of, trained  # noqa: E402
from proxyless_arch.arch.bits import PLAN_FILE  # noqa: E402
from proxyless_arch.arch.codec import read_spec, write_spec  # noqa: E402
from proxyless_arch.arch.spec import ArchSpec  # noqa: E402
from proxyless_arch.arch.walk import total_macs, total_params  # noqa: E402
from proxyless_arch.base.cli import exit_code  # noqa: E402
from proxyless_arch.base.errors import InputError  # noqa: E402
from proxyless_arch.base.files import read_json, write_json  # noqa: E402
from proxyless_arch.base.machine import cpu_name  # noqa: E402
from proxyless_arch.base.settings import REQUIRED, parse, setting  # noqa: E402
from proxyless_arch.base.strict import shown  # noqa: E402
from proxyless_arch.base.text import align  # noqa: E402
from proxyless_arch.base.words import DATA_PATH, THREADS  # noqa: E402
from proxyless_arch.data.datasets import ImageDataset, open_folder  # noqa: E402
from proxyless_arch.launch.launcher import LaunchFlags  # noqa: E402
from proxyless_arch.weights.files import read_tensors  # noqa: E402
from proxyless_arch.weights.lookup import SPEC_FILE  # noqa: E402
from proxyless_nas.data import eval_batches  # noqa: E402
from proxyless_nas.network import build  # noqa: E402
from proxyless_nas.quantized import build_quantized  # noqa: E402
from proxyless_nas.steps import evaluate  # noqa: E402
from proxyless_nas.weights import load_named  # noqa: E402

FORMAT, VERSION = "proxyless-nas/bits-finetuning-study", 1
OUTPUT = ROOT / "experiments" / "bits_finetune.json"
FLOAT = "float32"
BITS = (3, 4, 5)
PAPER_PLANS = 600
METHODS = ("uniform", "random", "haq", "exact", f"random {PAPER_PLANS}", f"haq {PAPER_PLANS}")
STAGES = ("before", "after")
SAME = ("network", "tuning_epochs", "tuning_lr", "evaluations", "n_calibration", "n_choosing")
"""Settings that all cases of a record have in common."""
SAME_SMALL = ("n_train", "n_test", "n_epochs", "init_lr")
"""And those that the small network has."""
SAME_PERSON = ("n_photos", "n_judges", "resolution", "parent_epochs")
"""Or EfficientNet-Lite0."""


def method_list(text: str) -> str:
    """A setting's check: names of METHODS, with commas between them."""
    if not set(METHODS).issuperset(text.split(",")):
        raise InputError(f"expected names of {', '.join(METHODS)} with commas between them, got {shown(text)}")
    return text


@dataclass(frozen=True, kw_only=True)
class Study(LaunchFlags):
    """What is trained, chosen and compared, on how many images."""

    data_path: str = DATA_PATH.setting(REQUIRED, " of train/ and test/")
    parent: Path | None = setting(
        None, "in place of the small network: the --work of prune_proof.py, made where it is not there", metavar="DIR"
    )
    n_train: int = setting(3000, "training images, a tenth of which is held out: it chooses", minimum=100)
    n_test: int = setting(2000, "test images", minimum=10)
    n_epochs: int = setting(10, "epochs of the float network", minimum=1)
    init_lr: float = setting(0.1, "learning rate of them", minimum=0)
    tuning_epochs: int = setting(2, "epochs of the fine-tuning", minimum=1)
    tuning_lr: float = setting(0.02, "learning rate of them", minimum=0)
    methods: str = setting(",".join(METHODS), "which of them", check=method_list)
    evaluations: int = setting(200, "whole plans that each method scores (of haq: episodes)", minimum=1)
    n_calibration: int = setting(128, "training images that calibrate", minimum=8)
    n_choosing: int = setting(256, "held-out images that plans are scored on", minimum=8)
    seeds: int = setting(2, "how many seeds, from 0", minimum=1)
    threads: int = THREADS.setting(1, minimum=1)
    summary: bool = setting(False, "only read what is there")
    work: Path = setting(Path("runs/bits_finetune"), "folder of the trainings", metavar="DIR")
    output: Path = setting(OUTPUT, "the figures", shown="experiments/bits_finetune.json", metavar="FILE")

    @property
    def network(self) -> str:
        return "small" if self.parent is None else "efficientnet_lite0"


class Case(NamedTuple):
    """A plan of a network; ``bits`` is 32 of the float network itself."""

    seed: int
    bits: int
    method: str

    @property
    def name(self) -> str:
        return f"{self.seed}_{self.bits}_{self.method.replace(' ', '_')}"


def cases(study: Study) -> Iterator[Case]:
    """Of each seed its float network first."""
    for seed in range(study.seeds):
        yield Case(seed, 32, FLOAT)
        yield from (Case(seed, bits, method) for bits, method in itertools.product(BITS, study.methods.split(",")))


# ---------------------------------------------------------------------------------------------- what plans are made for


@dataclass(frozen=True)
class Start:
    """A float network, images to test it with, and how its copies are trained.

    ``base``: its run folder, by seed. ``images``: settings of its other images, ``training``: of a training,
    ``of_float``: of the float network's. ``facts``: for the record.
    """

    spec: ArchSpec
    test: ImageDataset
    base: Callable[[int], Path]
    images: Mapping[str, Any]
    training: Mapping[str, Any]
    of_float: Mapping[str, Any]
    facts: Mapping[str, Any]


@cache
def start_of(study: Study) -> Start:
    """Its images are written, and EfficientNet-Lite0 is trained, where they are not there yet."""
    if study.parent is None:
        return small_network(study)
    return fine_tuned(Person(work=study.parent, cifar=Path(study.data_path)))


def small_network(study: Study) -> Start:
    """Trained from scratch, with each seed."""
    study.work.mkdir(parents=True, exist_ok=True)
    write_spec(study.work / SPEC_FILE, spec_of())
    photos = write_parts(study.data_path, study.work / "photos", study.n_train, study.n_test)
    images = {"data_path": photos, "valid_size": study.n_train // 10}

    def base(seed: int) -> Path:
        return trained(
            study.work / f"base_{seed}", arch=study.work / SPEC_FILE, weights="scratch", n_epochs=study.n_epochs,
            init_lr=study.init_lr, warmup_epochs=1, manual_seed=seed, **images,
        )  # fmt: skip

    return Start(spec_of(), open_folder(photos, "eval"), base, images, {}, {}, facts_of(study, SAME_SMALL))


def fine_tuned(person: Person) -> Start:
    """The parent of prune_proof.py, of one seed, and the images by which all is compared there."""
    make_photos(person)
    make_parent(person)
    images = {"data_path": person.photos, "valid_size": 0.15, "split_seed": 0}
    training = {"recipe": "finetune", "fit_classifier": False, "freeze_bn": False, "backbone_lr_mult": 1.0}
    spec, facts = read_spec(person.parent / SPEC_FILE), facts_of(person, SAME_PERSON)
    as_before = {"freeze_bn": True}  # with its batches' own statistics, not ImageNet's, it is another network
    return Start(spec, open_folder(person.judges), lambda seed: person.parent, images, training, as_before, facts)


# ---------------------------------------------------------------------------------------------------------- one case


def quantized(study: Study, case: Case) -> Path:
    """The run folder of quantize.py."""
    folder, start = study.work / f"plan_{case.name}", start_of(study)
    method, *count = case.method.split()
    config = BitsConfig.of(
        arch=start.base(case.seed), average_bits=case.bits, method=method,
        evaluations=int(count[0]) if count else study.evaluations, calibration_images=study.n_calibration,
        choosing_images=study.n_choosing, manual_seed=case.seed, device="cpu", n_worker=0, **start.images,
    )  # fmt: skip
    begun = (folder / "config.json").exists()
    run_quantization(None if begun else config, folder, resume=begun, say=None)
    return folder


def tuned(study: Study, case: Case, folder: Path) -> Path:
    """The run folder of train.py, from the weights of ``folder`` and under its plan, where it has one."""
    start = start_of(study)
    own = {"bits": folder / PLAN_FILE} if case.method != FLOAT else start.of_float
    return trained(
        study.work / f"tuned_{case.name}",
        arch=folder, weights=folder / "weights.safetensors", n_epochs=study.tuning_epochs, init_lr=study.tuning_lr,
        warmup_epochs=0, manual_seed=case.seed, **start.images, **start.training | own,
    )  # fmt: skip


def hits(study: Study, folder: Path) -> str:
    """Of a run's network on the test images, under the plan of its weight file."""
    found = read_tensors(folder / "weights.safetensors")
    assert found.spec is not None
    if found.bits is not None:
        net = build_quantized(found.spec, found.tensors, found.bits)
    else:
        net = build(found.spec)
        load_named(net, found.spec, found.tensors)
    batches = eval_batches(start_of(study).test, found.spec.preprocessing, batch_size=100)
    return evaluate(net.eval(), batches, CPU, Hits()).text


def measured(study: Study, case: Case) -> dict[str, Any]:
    """What a case leaves: its bytes, the plans scored for it, and which test images are right."""
    start = time.process_time()
    folder = start_of(study).base(case.seed) if case.method == FLOAT else quantized(study, case)
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


def controls_of(bits: int, method: str) -> dict[str, tuple[int, str]]:
    """By name, the bits and method that one is compared with; random plans are as many as its own."""
    if method == FLOAT:
        return {}
    as_many = method.partition(" ")[2]
    others = {"float": (32, FLOAT), "uniform": (bits, "uniform"), "random": (bits, f"random {as_many}".strip())}
    return {name: other for name, other in others.items() if other != (bits, method)}


def summary(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """By bits and method, over its seeds: top-1, and what it gains over the float network and over the controls."""
    by_kind: dict[tuple[int, str], list[Mapping[str, Any]]] = {}
    for row in sorted(rows, key=lambda row: (row["bits"] != 32, row["bits"])):
        by_kind.setdefault((row["bits"], row["method"]), []).append(row)
    return [_entry(kind, by_kind) for kind in by_kind]


def _entry(kind: tuple[int, str], by_kind: Mapping[tuple[int, str], list[Mapping[str, Any]]]) -> dict[str, Any]:
    own = by_kind[kind]
    seeds = {row["seed"] for row in own}
    facts: dict[str, Any] = {"bits": kind[0], "method": kind[1], "seeds": sorted(seeds)}
    facts |= {name: [row[name] for row in own] for name in ("size_bytes", "evaluations")}
    for stage in STAGES:
        hit = right(own, stage)
        facts[stage] = {
            "top1_percent": 100 * float(hit.mean()),
            "by_seed": [100 * float(right([row], stage).mean()) for row in own],
        }
        for name, other in controls_of(*kind).items():
            control = [row for row in by_kind.get(other, []) if row["seed"] in seeds]
            if len(control) == len(own):
                facts[stage][f"over_{name}"] = paired(hit, right(control, stage))
    return facts


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


def file_of(study: Study, case: Case) -> Path:
    return study.work / f"case_{case.name}.json"


def ready(study: Study) -> list[Case]:
    """What is not done; the float network of a seed comes first."""
    wanted = [case for case in cases(study) if not file_of(study, case).exists()]
    floats = [case.seed for case in wanted if case.method == FLOAT]
    return [case for case in wanted if case.method == FLOAT or case.seed not in floats]


def do_case(argv: Sequence[str], name: str) -> None:
    """The case of this name; ``argv``: the words that the study was started with."""
    study = parse(Study, argv, "bits_finetune.py", __doc__)
    torch.set_num_threads(study.threads)
    case = next(case for case in cases(study) if case.name == name)
    row = measured(study, case)
    write_json(file_of(study, case), row)
    print(f"{case.name}: {row['cpu_seconds']:.0f} s", flush=True)


def record(study: Study, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    start = start_of(study)
    plain = [{name: value for name, value in row.items() if name not in STAGES} for row in rows]
    return {
        "format": FORMAT,
        "version": VERSION,
        "study": facts_of(study, (*SAME, "seeds", "threads")) | start.facts,
        "training": {name: COMMON[name] for name in ("train_batch_size", "weight_decay")},
        "machine": {"cpu": cpu_name(), "torch": str(torch.__version__), "date": time.strftime("%Y-%m-%d")},
        "test_images": len(start.test),
        "macs": total_macs(start.spec),
        "params": total_params(start.spec),
        "summary": summary(rows),
        "rows": plain,
    }


def run(argv: Sequence[str]) -> int:
    study = parse(Study, argv, "bits_finetune.py", __doc__)
    torch.set_num_threads(study.threads)
    check_same(study, (*SAME, *SAME_SMALL))
    start_of(study)
    if not study.summary:
        names = lambda: [case.name for case in ready(study)]  # noqa: E731
        run_launched(study.chosen, study.work, "experiments.bits_finetune:do_case", argv, names)
    files = [file_of(study, case) for case in cases(replace(study, methods=",".join(METHODS)))]
    rows = [read_json(file) for file in files if file.exists()]
    write_json(study.output, record(study, rows))
    print("\n".join(table(summary(rows))))
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    return exit_code(run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
