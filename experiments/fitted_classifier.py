"""Is the classifier that fine-tuning starts from better than a linear probe? Many splits of one folder of photos.

    PYTHONPATH=heif python experiments/phone_photos.py imagenet_sample.zip photos   # with pillow-heif in heif/
    PYTHONPATH=heif python experiments/fitted_classifier.py --data_path photos

Features are computed once. Each split holds out 15% of the images to test, of each class in proportion. The probe is
scikit-learn's logistic regression on all others; ours chooses its penalty on 85% of these and is fitted to all of them,
as ``train.py --epochs 0`` does. The gap is paired; its 95% interval allows for splits that share images (Nadeau and
Bengio 2003, "Inference for the generalization error"). The figures go to experiments/fitted_classifier.json.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":  # started as a script: the packages lie beside this folder
    sys.path[0] = str(ROOT)

import torch  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from proxyless_arch.base.cli import exit_code  # noqa: E402
from proxyless_arch.base.files import write_json  # noqa: E402
from proxyless_arch.base.machine import cpu_name, tune_allocator  # noqa: E402
from proxyless_arch.base.settings import REQUIRED, parse, setting  # noqa: E402
from proxyless_arch.base.words import ARCH, DATA_PATH, RESOLUTION, THREADS  # noqa: E402
from proxyless_arch.data.datasets import stratified_split  # noqa: E402
from proxyless_nas.train import TrainConfig  # noqa: E402
from proxyless_nas.train.probe import best_penalty, features_of, fit_linear  # noqa: E402
from proxyless_nas.train.session import new_training, prepare  # noqa: E402

FORMAT, VERSION = "proxyless-nas/fitted-classifier-study", 1
HELD_OUT = 0.15


@dataclass(frozen=True, kw_only=True)
class Study:
    """On which images, and how often."""

    data_path: str = DATA_PATH.setting(REQUIRED, " of class folders")
    arch: str = ARCH.setting("efficientnet_lite0")
    resolution: int = RESOLUTION.setting(224, minimum=16, maximum=512)
    splits: int = setting(50, "how many splits, of seeds from 0", minimum=2)
    threads: int = THREADS.setting(1, minimum=1)
    output: str = setting(str(ROOT / "experiments" / "fitted_classifier.json"), "the figures")


@dataclass(frozen=True)
class Features:
    """Of all images, (images, features), their classes, and the matrix of the classifier the network had.

    ``n_test``: the last so many are those that train.py holds out to test.
    """

    values: Tensor
    labels: Tensor
    former: Tensor
    n_test: int


def features(study: Study) -> Features:
    config = TrainConfig.of(
        arch=study.arch, weights="pretrained", data_path=study.data_path, image_size=study.resolution, device="cpu"
    )
    job = prepare(config, torch.device("cpu"))
    assert job.start is not None
    assert job.start.former_classifier is not None
    net, sets = new_training(job).net, (job.data.train, job.data.valid, job.data.test)
    parts = [features_of(net, job.batches_as_they_are(images)) for images in sets]
    values, labels = (torch.cat(list(each)) for each in zip(*parts, strict=True))
    return Features(values, labels, torch.from_numpy(job.start.former_classifier), len(job.data.test))


def measured(known: Features, seed: int) -> dict[str, Any]:
    """One row of the JSON: both classifiers on one split."""
    return compared(known, seed, *stratified_split(known.labels.numpy(), HELD_OUT, seed))


def compared(known: Features, seed: int, rest: np.ndarray, test: np.ndarray) -> dict[str, Any]:
    """Both classifiers, fitted to the images ``rest`` and scored on ``test``."""
    from sklearn.linear_model import LogisticRegression

    x, y = known.values, known.labels
    fitted_to = rest[stratified_split(y.numpy()[rest], HELD_OUT, seed)[0]]
    probe = LogisticRegression(max_iter=1000).fit(x[rest].numpy(), y[rest].numpy())
    classes = int(y.max()) + 1
    penalty = best_penalty(x[fitted_to], y[fitted_to], classes, None, known.former, np.random.default_rng(seed))
    layer = nn.Linear(x.shape[1], classes)
    fit_linear(layer, x[rest], y[rest], trained=known.former, penalty=penalty)
    with torch.no_grad():
        hits = (layer(x[test]).argmax(1) == y[test]).float().mean().item()
    return {
        "seed": seed,
        "probe_top1_percent": 100 * probe.score(x[test].numpy(), y[test].numpy()),
        "ours_top1_percent": 100 * hits,
        "strength": penalty.strength,
    }


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Means, and the paired gap with its corrected interval."""
    from scipy.stats import t

    probe, ours = (np.array([row[f"{who}_top1_percent"] for row in rows]) for who in ("probe", "ours"))
    gaps, count = ours - probe, len(rows)
    half = t.ppf(0.975, count - 1) * np.sqrt((1 / count + HELD_OUT / (1 - HELD_OUT)) * gaps.var(ddof=1))
    return {
        "probe_mean": probe.mean(),
        "ours_mean": ours.mean(),
        "gap": gaps.mean(),
        "gap_interval_95": [gaps.mean() - half, gaps.mean() + half],
        "better_equal_worse": [int((gaps > 0).sum()), int((gaps == 0).sum()), int((gaps < 0).sum())],
        "strengths": {str(strength): n for strength, n in sorted(Counter(row["strength"] for row in rows).items())},
    }


def run(argv: Sequence[str]) -> int:
    study = parse(Study, argv, "fitted_classifier.py", __doc__)
    torch.set_num_threads(study.threads)
    tune_allocator()
    known = features(study)
    rows = [measured(known, seed) for seed in range(study.splits)]
    own = compared(known, 0, *np.split(np.arange(len(known.labels)), [len(known.labels) - known.n_test]))
    found = summary(rows)
    facts = {name: value for name, value in asdict(study).items() if name not in ("data_path", "output")}
    facts |= {"images": len(known.labels), "classes": int(known.labels.max()) + 1}
    machine = {"cpu": cpu_name(), "torch": str(torch.__version__), "date": time.strftime("%Y-%m-%d")}
    record = {"format": FORMAT, "version": VERSION, "study": facts, "machine": machine}
    write_json(study.output, {**record, "summary": found, "rows": rows, "train_py": own})
    low, high = found["gap_interval_95"]
    print(f"linear probe {found['probe_mean']:.1f} %, fitted classifier {found['ours_mean']:.1f} %")
    print(f"gap {found['gap']:.1f} points (95 %: {low:.1f} to {high:.1f}) over {study.splits} splits")
    probe, ours = own["probe_top1_percent"], own["ours_top1_percent"]
    print(f"on the {known.n_test} images that train.py holds out: linear probe {probe:.1f} %, fitted {ours:.1f} %")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    return exit_code(run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
