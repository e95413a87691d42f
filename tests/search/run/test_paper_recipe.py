"""``--recipe paper`` on the digits, in seconds: what its rules make of a run, with sizes of ours."""

import json

import pytest
import torch

from search import imagenet_arch_search
from search.config import from_recipe, with_settings
from search.run import job as jobs

SIZES = {
    "dataset": "digits", "space": "tiny", "resolution": 20, "augment": "digits", "valid_size": 1357, "width_mult": 0.4,
    "train_batch_size": 16, "warmup_epochs": 1, "n_epochs": 2, "torch_threads": 1, "target_hardware": "flops",
    "rl_data_batch": 100, "rl_update_steps_per_epoch": 3, "rl_batch_size": 2, "grad_update_arch_param_every": 2,
    "recalibration_images": 64,
}  # fmt: skip


@pytest.mark.parametrize(
    ("algorithm", "updates", "images"), [("grad", 2, 16), pytest.param("rl", 3, 100, marks=pytest.mark.slow)]
)
def test_a_run_by_the_rules_of_the_release(tmp_path, algorithm, updates, images):
    """5 weight steps an epoch; alpha rests in the first epoch of the search; the network is the argmax of alpha."""
    settings = SIZES | {"arch_algo": algorithm}
    job = jobs.prepare(with_settings(from_recipe("paper"), settings), torch.device("cpu"))
    assert len(next(job.valid_batches(0))[1]) == images
    words = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    folder = tmp_path / "run"
    assert imagenet_arch_search.main(["--recipe", "paper", "--path", str(folder), *words]) == 0
    warm, first, last = (json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines())
    assert [(each["step"], each["arch_step"]) for each in (warm, first, last)] == [(5, 0), (10, 0), (15, updates)]
    assert warm["probabilities"] == first["probabilities"] != last["probabilities"]
    assert first["valid_loss"] is None
    assert json.loads((folder / "config.json").read_text())["arch_rest_epochs"] == 1
    assert json.loads((folder / "result.json").read_text())["macs"] == last["argmax_cost"]
