"""Is fine-tuning worth it on few photos? A trained network on a subset of CIFAR-10, against simpler ways.

    nice python experiments/finetune.py --data_path cifar10.zip

Each way is train.py's own training, on the same images, which change with the seed; the test images stay.
The linear probe is scikit-learn's logistic regression on the features of the network as it is. Accuracies are top-1
on the test images; intervals are Student's, 95%, over the seeds; a gap is that to the probe of the same seed. The
figures go to experiments/finetune.json after every training; given again, the command goes on where it stopped.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":  # started as a script: the packages lie beside this folder
    sys.path[0] = str(ROOT)

import torch  # noqa: E402

from experiments.class_folders import subset, write_images  # noqa: E402
from experiments.intervals import interval  # noqa: E402
from proxyless_arch.base.cli import exit_code  # noqa: E402
from proxyless_arch.base.errors import InputError  # noqa: E402
from proxyless_arch.base.files import read_json, write_json  # noqa: E402
from proxyless_arch.base.machine import cpu_name  # noqa: E402
from proxyless_arch.base.settings import REQUIRED, parse, setting  # noqa: E402
from proxyless_arch.base.text import align  # noqa: E402
from proxyless_arch.base.words import ARCH, DATA_PATH, RESOLUTION, THREADS  # noqa: E402
from proxyless_arch.data.datasets import open_folder  # noqa: E402
from proxyless_nas.data import eval_batches  # noqa: E402
from proxyless_nas.train import TrainConfig, run_training  # noqa: E402
from proxyless_nas.train.probe import features_of  # noqa: E402
from proxyless_nas.train.session import new_training, prepare  # noqa: E402

FORMAT, VERSION = "proxyless-nas/finetune-study", 1
OUTPUT = ROOT / "experiments" / "finetune.json"
PROBE = "linear probe"
START = {"weights": "pretrained"}
WAYS: dict[str, dict[str, Any]] = {
    "from scratch": {"weights": "scratch", "recipe": "fast"},
    "recipe default": {**START, "recipe": "default", "train_batch_size": 32},
    "recipe finetune": {**START, "recipe": "finetune"},
}
"""What each way sets; all train for the same number of epochs."""


@dataclass(frozen=True, kw_only=True)
class Study:
    """What is compared, and on how many images."""

    data_path: str = DATA_PATH.setting(REQUIRED, " of train/ and test/")
    arch: str = ARCH.setting("efficientnet_lite0")
    resolution: int = RESOLUTION.setting(64, minimum=16, maximum=512)
    n_train: int = setting(500, "training images, those that choose the epoch included", minimum=20)
    n_test: int = setting(500, "test images", minimum=20)
    n_epochs: int = setting(10, "epochs of each way", minimum=1)
    seeds: int = setting(3, "how many seeds, from 0", minimum=2)
    threads: int = THREADS.setting(1, minimum=1)
    output: str = setting(str(OUTPUT), "the figures")


def config_of(study: Study, photos: Path, seed: int, way: Mapping[str, Any]) -> TrainConfig:
    """The settings of one training."""
    common = {"arch": study.arch, "data_path": photos, "image_size": study.resolution, "device": "cpu", "n_worker": 0}
    return TrainConfig.of(**{**common, "n_epochs": study.n_epochs, "manual_seed": seed, **way})


def probed(config: TrainConfig) -> float:
    """Top-1 in percent of logistic regression on the features of the network that ``config`` starts from."""
    from sklearn.linear_model import LogisticRegression

    job = prepare(config, torch.device("cpu"))
    net = new_training(job).net
    features, labels = zip(
        *(
            features_of(net, eval_batches(images, job.spec.preprocessing, batch_size=100))
            for images in (job.data.train, job.data.valid, job.data.test)
        ),
        strict=True,
    )
    # it has no epoch to choose, so it gets those images as well
    probe = LogisticRegression(max_iter=1000).fit(torch.cat(features[:2]).numpy(), torch.cat(labels[:2]).numpy())
    return 100 * probe.score(features[2].numpy(), labels[2].numpy())


def trained(config: TrainConfig, folder: Path) -> float:
    """Top-1 in percent of what train.py would leave."""
    result = run_training(config, folder)
    assert result is not None
    assert result.test_top1_percent is not None
    return result.test_top1_percent


def measured(study: Study, seed: int, name: str, home: Path) -> dict[str, Any]:
    """One row of the JSON: a way and a seed."""
    photos = home / f"photos_{seed}"
    if not photos.exists():
        write_images(subset(open_folder(study.data_path, "train"), study.n_train, seed), photos / "train")
        write_images(subset(open_folder(study.data_path, "test"), study.n_test, 0), photos / "test")
    start = time.process_time()
    if name == PROBE:
        top1 = probed(config_of(study, photos, seed, WAYS["recipe finetune"]))
    else:
        top1 = trained(config_of(study, photos, seed, WAYS[name]), home / f"{name}_{seed}".replace(" ", "_"))
    seconds = round(time.process_time() - start, 1)
    return {"way": name, "seed": seed, "test_top1_percent": top1, "cpu_seconds": seconds}


def summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Of each way the accuracy, and by how much it beats the probe of the same seed."""
    scores = {(row["way"], row["seed"]): row["test_top1_percent"] for row in rows}
    found: dict[str, Any] = {}
    for way in dict.fromkeys(way for way, _ in scores):
        own = {seed: score for (name, seed), score in scores.items() if name == way}
        gaps = [score - scores[PROBE, seed] for seed, score in own.items() if (PROBE, seed) in scores]
        seconds = [row["cpu_seconds"] for row in rows if row["way"] == way]
        found[way] = {
            **interval(list(own.values())),
            "gap_to_probe": interval(gaps),
            "cpu_seconds": np.mean(seconds).item(),
        }
    return found


def table(found: Mapping[str, Any]) -> list[str]:
    def shown(value: Mapping[str, Any]) -> str:
        low, high = value["interval_95"] or (float("nan"), float("nan"))
        return f"{value['mean']:.1f} ({low:.1f} to {high:.1f})"

    rows = [(way, shown(one), shown(one["gap_to_probe"]), f"{one['cpu_seconds']:.0f}") for way, one in found.items()]
    return align([("", "top-1, %", "over the probe", "CPU s"), *rows], left=(0,))


def known(study: Study) -> list[dict[str, Any]]:
    """The rows that are there. Raises InputError when they are of another study."""
    output, facts = Path(study.output), asdict(study)
    if not output.is_file():
        return []
    saved = read_json(output)
    same = ("arch", "resolution", "n_train", "n_test", "n_epochs")
    other = [name for name in same if saved["study"][name] != facts[name]]
    if other:
        raise InputError(f"holds a study with other {', '.join(other)}: name another --output", source=str(output))
    return saved["rows"]


def save(study: Study, rows: Sequence[Mapping[str, Any]]) -> None:
    facts = {name: value for name, value in asdict(study).items() if name not in ("data_path", "output")}
    machine = {"cpu": cpu_name(), "torch": str(torch.__version__), "date": time.strftime("%Y-%m-%d")}
    record = {"format": FORMAT, "version": VERSION, "study": facts, "machine": machine, "ways": WAYS}
    write_json(Path(study.output), {**record, "summary": summary(rows), "rows": list(rows)})


def run(argv: Sequence[str]) -> int:
    study = parse(Study, argv, "finetune.py", __doc__)
    torch.set_num_threads(study.threads)
    rows = known(study)
    done = {(row["way"], row["seed"]) for row in rows}
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(study.seeds):
            for way in (PROBE, *WAYS):
                if (way, seed) not in done:
                    rows.append(measured(study, seed, way, Path(folder)))
                    save(study, rows)
    print("\n".join(table(summary(rows))))
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    return exit_code(run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
