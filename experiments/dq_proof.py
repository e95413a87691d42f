"""Does quantization amplify adversarial errors, and does Defensive Quantization's penalty keep it from that?

    nice python experiments/dq_proof.py --data_path cifar10.zip

Networks of one kind are trained on a subset of CIFAR-10, without and with the penalty. Of each there are copies whose
layers take in few bits: rounded after training, with clips of 512 training images, or with --more_epochs trained on so.
Every copy is attacked on the same test images (proxyless_nas/robust): along its own gradients, by images that fool an
independent float network, and by its answers alone. Means and Student's 95% intervals are over seeds. Each copy writes
one file into --work; one whose file is there is not done again. With --jobs or --launcher copies are done side by side.
--summary reads what is there and writes the record.
"""

from __future__ import annotations

import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":  # started as a script: the packages lie beside this folder
    sys.path[0] = str(ROOT)

import numpy as np  # noqa: E402
import torch  # noqa: E402
from torch import Tensor  # noqa: E402

from experiments.class_folders import subset, write_parts  # noqa: E402
from experiments.intervals import interval  # noqa: E402
from experiments.launched import run_launched  # noqa: E402
from experiments.one_study import check_same, facts_of  # noqa: E402
from experiments.small_net import COMMON, spec_of, trained  # noqa: E402
from proxyless_arch.arch.bits import BitPlan  # noqa: E402
from proxyless_arch.arch.codec import write_spec  # noqa: E402
from proxyless_arch.base.cli import exit_code  # noqa: E402
from proxyless_arch.base.files import read_json, write_json  # noqa: E402
from proxyless_arch.base.machine import cpu_name  # noqa: E402
from proxyless_arch.base.settings import REQUIRED, parse, setting  # noqa: E402
from proxyless_arch.base.text import align  # noqa: E402
from proxyless_arch.base.words import DATA_PATH, THREADS  # noqa: E402
from proxyless_arch.data.datasets import ImageDataset, open_folder  # noqa: E402
from proxyless_arch.launch.launcher import LaunchFlags  # noqa: E402
from proxyless_arch.weights.files import WeightFile, read_tensors  # noqa: E402
from proxyless_nas.data import eval_batches  # noqa: E402
from proxyless_nas.defensive import CALIBRATED, activation_plan, calibrate, orthogonality, quantize_activations  # noqa: E402
from proxyless_nas.network import ProxylessNet, build  # noqa: E402
from proxyless_nas.quantized import build_quantized  # noqa: E402
from proxyless_nas.robust.amplification import amplification  # noqa: E402
from proxyless_nas.robust.attacks import answer, fgsm, pgd  # noqa: E402
from proxyless_nas.robust.ball import Ball, Forward, pixel_forward  # noqa: E402
from proxyless_nas.robust.square import square  # noqa: E402
from proxyless_nas.weights import load_named  # noqa: E402

FORMAT, VERSION = "proxyless-nas/defensive-quantization-study", 1
OUTPUT = ROOT / "experiments" / "dq_proof.json"
BITS = (0, 8, 6, 5, 4, 3)
"""Of what layers take in; 0: float."""
PENALTIES = (0.0, 3e-4)
SOURCE_SEED = 100
"""Of the float network whose adversarial images are tried on all others."""


@dataclass(frozen=True, kw_only=True)
class Study(LaunchFlags):
    """What is trained, and on how many images."""

    data_path: str = DATA_PATH.setting(REQUIRED, " of train/ and test/")
    n_train: int = setting(3000, "training images", minimum=100)
    n_test: int = setting(200, "test images, which are attacked", minimum=10)
    n_epochs: int = setting(5, "epochs of a float network", minimum=1)
    more_epochs: int = setting(0, "epochs behind these, of each copy; 0: rounded after training", minimum=0)
    seeds: int = setting(3, "how many seeds, from 0", minimum=2)
    epsilon: int = setting(2, "by how many steps of 1/255 a pixel may change", minimum=1, maximum=255)
    pgd_steps: int = setting(10, "of pgd and transfer", minimum=2)
    queries: int = setting(50, "of square, for each image", minimum=2)
    threads: int = THREADS.setting(1, minimum=1)
    summary: bool = setting(False, "only read what is there")
    work: Path = setting(Path("runs/dq_proof"), "folder of the trainings", metavar="DIR")
    output: Path = setting(OUTPUT, "the figures", shown="experiments/dq_proof.json", metavar="FILE")


class Case(NamedTuple):
    """A copy of a network."""

    seed: int
    penalty: float
    bits: int

    @property
    def name(self) -> str:
        return f"{self.seed}_{self.penalty:g}_{self.bits}"


def cases(study: Study) -> Iterator[Case]:
    for seed in range(study.seeds):
        for penalty in PENALTIES:
            for bits in BITS:
                yield Case(seed, penalty, bits)


# ---------------------------------------------------------------------------------------------------------- training


def photos_of(study: Study) -> Path:
    """The images as class folders, written once."""
    return write_parts(study.data_path, study.work / "photos", study.n_train, study.n_test)


def trained_here(study: Study, folder: Path, **settings: Any) -> Path:
    """A training of the study's network on its images."""
    return trained(folder, arch=study.work / "spec.json", data_path=photos_of(study), **settings)


def base(study: Study, seed: int, penalty: float) -> Path:
    """A float network from scratch."""
    folder = study.work / f"base_{seed}_{penalty:g}"
    settings = {"weights": "scratch", "n_epochs": study.n_epochs, "init_lr": 0.1, "warmup_epochs": 1}
    return trained_here(study, folder, manual_seed=seed, lipschitz=penalty, **settings)


def copy_of(study: Study, case: Case) -> Path:
    """A copy of a float network, trained on as ``case`` says."""
    start = base(study, case.seed, case.penalty)
    folder = study.work / f"copy_{case.name}"
    settings = {"weights": start / "weights.safetensors", "n_epochs": study.more_epochs, "init_lr": 0.02}
    return trained_here(
        study,
        folder,
        manual_seed=case.seed,
        lipschitz=case.penalty,
        activation_bits=case.bits,
        warmup_epochs=0,
        **settings,
    )


def weights_of(study: Study, case: Case) -> WeightFile:
    """The weights of a copy, with its plan where it was trained under one."""
    folder = copy_of(study, case) if study.more_epochs else base(study, case.seed, case.penalty)
    return read_tensors(folder / "weights.safetensors")


def float_net(found: WeightFile) -> ProxylessNet:
    assert found.spec is not None
    net = build(found.spec)
    load_named(net, found.spec, found.tensors)
    return net.eval().requires_grad_(False)


def rounded_plan(study: Study, found: WeightFile, bits: int) -> BitPlan:
    """Of a float network, with clips of training images."""
    net = float_net(found)
    quantize_activations(net, bits)
    images = subset(open_folder(photos_of(study), "train"), CALIBRATED, 0)
    calibrate(net, eval_batches(images, net.spec.preprocessing, batch_size=128), torch.device("cpu"))
    return activation_plan(net.spec, net, bits)


def net_of(study: Study, case: Case) -> ProxylessNet:
    """The copy that is attacked."""
    found = weights_of(study, case)
    if not case.bits:
        return float_net(found)
    assert found.spec is not None
    plan = found.bits or rounded_plan(study, found, case.bits)
    return build_quantized(found.spec, found.tensors, plan).requires_grad_(False)


# --------------------------------------------------------------------------------------------------------- measuring


class TestImages(NamedTuple):
    """All test images as pixels, (N, 3, H, W) in 0..255, and what fools the independent network."""

    pixels: Tensor
    labels: Tensor
    transferred: Tensor


@cache
def test_images(study: Study) -> TestImages:
    images: ImageDataset = open_folder(photos_of(study), "eval")
    arrays = np.stack([np.asarray(images.read(index)) for index in range(len(images))])
    pixels = torch.from_numpy(arrays).permute(0, 3, 1, 2).float()
    labels = torch.from_numpy(images.labels)
    source = float_net(read_tensors(base(study, SOURCE_SEED, 0.0) / "weights.safetensors"))
    forward = pixel_forward(source, source.spec.preprocessing)
    rng = torch.Generator().manual_seed(SOURCE_SEED)
    found = pgd(forward, Ball(pixels, study.epsilon), labels, rng, steps=study.pgd_steps)
    return TestImages(pixels, labels, found.pixels)


def percent(right: Tensor) -> float:
    return 100 * right.double().mean().item()


def after(forward: Forward, study: Study, images: TestImages, right: Tensor, seed: int) -> dict[str, Tensor]:
    """The images that the network is right on after each attack, (N,) of bool, and those that pgd found."""
    ball, labels = Ball(images.pixels[right], study.epsilon), images.labels[right]
    rng = torch.Generator().manual_seed(seed)
    found = {
        "fgsm": fgsm(forward, ball, labels),
        "pgd": pgd(forward, ball, labels, rng, steps=study.pgd_steps),
        "square": square(forward, ball, labels, rng, queries=study.queries),
    }
    transferred = right & (answer(forward, images.transferred, images.labels) > 0)
    held = {name: torch.zeros_like(right).masked_scatter(right, each.held) for name, each in found.items()}
    return {**held, "transfer": transferred, "pixels": found["pgd"].pixels}


def measured(study: Study, case: Case, images: TestImages) -> dict[str, Any]:
    """One row of the JSON: accuracies in percent of all test images, and the amplification of pgd's images."""
    start = time.process_time()
    net = net_of(study, case)
    forward = pixel_forward(net, net.spec.preprocessing)
    right = answer(forward, images.pixels, images.labels) > 0
    held = after(forward, study, images, right, case.seed)
    errors = amplification(net, images.pixels[right], held.pop("pixels"))
    return {
        **case._asdict(),
        "clean": percent(right),
        **{name: percent(kept) for name, kept in held.items()},
        "all": percent(torch.stack(list(held.values())).all(0)),
        "amplification": errors.means,
        "orthogonality": orthogonality(float_net(weights_of(study, case))).item(),
        "cpu_seconds": round(time.process_time() - start, 1),
    }


SCORES = ("clean", "fgsm", "pgd", "transfer", "square", "all")


def summary(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """By penalty and bits: means over seeds, with intervals, and gaps to the float copy and to the one without penalty,
    of the same seed."""
    by_case = {Case(row["seed"], row["penalty"], row["bits"]): row for row in rows}
    by_kind: dict[tuple[float, int], list[Case]] = defaultdict(list)
    for case in by_case:
        by_kind[case.penalty, case.bits].append(case)
    return [
        {
            "penalty": penalty,
            "bits": bits,
            "seeds": [case.seed for case in own],
            **{name: interval([by_case[case][name] for case in own]) for name in SCORES},
            "error_image": interval([by_case[case]["amplification"]["image"] for case in own]),
            "error_last_block": interval([last_block(by_case[case]) for case in own]),
            "error_logits": interval([by_case[case]["amplification"]["classifier"] for case in own]),
            "gap_to_float": gaps(by_case, {case: case._replace(bits=0) for case in own}),
            "gap_to_no_penalty": gaps(by_case, {case: case._replace(penalty=0.0) for case in own}),
        }
        for (penalty, bits), own in by_kind.items()
    ]


def gaps(by_case: Mapping[Case, Mapping[str, Any]], others: Mapping[Case, Case]) -> dict[str, Any] | None:
    """By how much each case is above its other one, with intervals; None of cases that are their own, or alone."""
    pairs = [(by_case[case], by_case[other]) for case, other in others.items() if other in by_case and other != case]
    if not pairs:
        return None
    found = {name: interval([one[name] - other[name] for one, other in pairs]) for name in ("clean", "all")}
    errors = [last_block(one) - last_block(other) for one, other in pairs]
    return {**found, "error_last_block": interval(errors)}


def last_block(row: Mapping[str, Any]) -> float:
    return [error for place, error in row["amplification"].items() if place.startswith("blocks.")][-1]


def table(found: Sequence[Mapping[str, Any]]) -> list[str]:
    def shown(value: Mapping[str, Any], digits: int = 1) -> str:
        ends = value["interval_95"]
        return f"{value['mean']:.{digits}f}" + (f" ({ends[0]:.{digits}f} to {ends[1]:.{digits}f})" if ends else "")

    head = ("penalty", "bits", "seeds", *SCORES, "error, last block", "error, logits")
    rows = [
        (
            f"{one['penalty']:g}",
            str(one["bits"] or "float"),
            str(len(one["seeds"])),
            *(shown(one[name]) for name in SCORES),
            shown(one["error_last_block"], 3),
            shown(one["error_logits"], 3),
        )
        for one in found
    ]
    return align([head, *rows], left=())


# -------------------------------------------------------------------------------------------------------- the record

SAME = ("n_train", "n_test", "n_epochs", "more_epochs", "epsilon", "pgd_steps", "queries")


def file_of(study: Study, case: Case) -> Path:
    return study.work / f"case_{case.name}.json"


def ready(study: Study) -> list[Case]:
    """What is not done; the first copy of a network, which trains it, comes before others."""
    wanted = [case for case in cases(study) if not file_of(study, case).exists()]
    first = {(case.seed, case.penalty): case for case in wanted if case.bits == BITS[0]}
    return [case for case in wanted if first.get((case.seed, case.penalty), case) == case]


def do_case(argv: Sequence[str], name: str) -> None:
    """The copy of this name; ``argv``: the words that the study was started with."""
    study = parse(Study, argv, "dq_proof.py", __doc__)
    torch.set_num_threads(study.threads)
    case = next(case for case in cases(study) if case.name == name)
    write_json(file_of(study, case), measured(study, case, test_images(study)))


def record(study: Study, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "version": VERSION,
        "study": facts_of(study, (*SAME, "seeds", "threads")),
        "training": {name: COMMON[name] for name in ("train_batch_size", "weight_decay")},
        "machine": {"cpu": cpu_name(), "torch": str(torch.__version__), "date": time.strftime("%Y-%m-%d")},
        "summary": summary(rows),
        "rows": list(rows),
    }


def run(argv: Sequence[str]) -> int:
    study = parse(Study, argv, "dq_proof.py", __doc__)
    torch.set_num_threads(study.threads)
    check_same(study, SAME)
    if not study.summary:
        write_spec(study.work / "spec.json", spec_of())
        test_images(study)  # and so the network that they are of is there
        names = lambda: [case.name for case in ready(study)]  # noqa: E731
        run_launched(study.chosen, study.work, "experiments.dq_proof:do_case", argv, names)
    files = [file_of(study, case) for case in cases(study)]
    rows = [read_json(file) for file in files if file.exists()]
    write_json(study.output, record(study, rows))
    print("\n".join(table(summary(rows))))
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    return exit_code(run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
