"""A network that trains on the digits in seconds, and what two equal runs have in common."""

import json

import torch

from proxyless_arch.arch.spec import Preprocessing
from proxyless_arch.base.runs import WALL_CLOCK_FIELDS, read_metrics
from proxyless_arch.space.mbconv import Macro, Stage, mbconv_space
from proxyless_arch.weights.files import load_safetensors

TRAIN = ["--epochs", "6", "--warmup_epochs", "1", "-b", "128", "--save_every_seconds", "0"]
"""Settings of a run of 48 steps with a checkpoint after each."""


def mini_net(num_classes=10, resolution=16):
    """6 blocks, 387 k MACs."""
    stages = (Stage(16, 2, 1), Stage(24, 2, 2))
    macro = Macro(name="mini", stem_width=16, stem_stride=2, first_width=8, stages=stages, mix_width=64)
    recipe = Preprocessing(resolution=resolution, resize=resolution, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    return mbconv_space(macro=macro, num_classes=num_classes, preprocessing=recipe).spec_for((0, 0, 0, 0), "mini")


def same_run(left, right):
    """Two run folders hold the same bits, but for clocks, folder names and the paths given."""
    for name in ("weights.safetensors", "last.safetensors"):
        ours, theirs = (load_safetensors(folder / name) for folder in (left, right))
        assert ours.spec == theirs.spec
        assert ours.provenance | {"run": None} == theirs.provenance | {"run": None}
        for tensor, array in ours.tensors.items():
            assert torch.equal(torch.from_numpy(array), torch.from_numpy(theirs.tensors[tensor])), (name, tensor)
    metrics = [
        [
            {k: v for k, v in record.items() if k not in WALL_CLOCK_FIELDS}
            for record in read_metrics(f / "metrics.jsonl")
        ]
        for f in (left, right)
    ]
    assert metrics[0] == metrics[1]
    results = [json.loads((folder / "result.json").read_text()) | {"wall_seconds": 0} for folder in (left, right)]
    assert results[0] == results[1]
