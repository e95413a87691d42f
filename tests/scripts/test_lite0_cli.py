"""The demo network through the commands: both scripts score it alike, and an exported file gives its logits."""

import contextlib
import importlib
import json

# In one process torch goes first: the reverse can crash.
with contextlib.suppress(ModuleNotFoundError):
    import torch

import numpy as np
import pytest

from proxyless_arch.weights.demo import demo_weights
from tests.demo_net import NAME, needs_demo

SCRIPTS = ("eval", "eval_tf")
N_PHOTOS = 20


@pytest.fixture(autouse=True)
def as_before():
    """The number of threads restored, which eval.py sets."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@needs_demo
@pytest.mark.shared_data
def test_both_scripts_score_the_demo_alike(shared_data, tmp_path):
    """Its weights come from the package, so --arch alone is enough; 87.2 % of the whole sample are right."""
    records = []
    for script in SCRIPTS:
        path = tmp_path / f"{script}.json"
        argv = [
            "-a",
            NAME,
            "-p",
            shared_data / "imagenet_sample.zip",
            "--limit",
            N_PHOTOS,
            "-b",
            8,
            "--save_json",
            path,
        ]
        assert importlib.import_module(script).main([str(word) for word in argv]) == 0
        records.append(json.loads(path.read_text()))
    ours, theirs = records
    for key in ("top1_hits", "top5_hits", "n_images", "preprocessing", "weights", "published", "unreadable"):
        assert ours[key] == theirs[key], key
    assert ours["n_images"] == N_PHOTOS and ours["top1_hits"] >= 14 and ours["top5_hits"] >= 18
    assert ours["loss"] == pytest.approx(theirs["loss"], abs=1e-4)
    assert ours["published"]["top1_percent"] == 75.1 and len(ours["published"]["not_comparable"]) == 2


@pytest.mark.slow
@needs_demo
def test_an_exported_demo_gives_its_logits(tmp_path):
    pytest.importorskip("onnxscript", reason="no ONNX export: pip install -e '.[export]'")
    pytest.importorskip("onnxruntime", reason="no ONNX export: pip install -e '.[export]'")
    import export
    from proxyless_nas.export import load_onnx, on_tensors
    from proxyless_nas.network import build
    from proxyless_nas.weights import load_named

    assert export.main(["--arch", NAME, "--format", "onnx", "-o", str(tmp_path), "--rounds", "1"]) == 0
    (file,) = tmp_path.rglob("*.onnx")
    weights = demo_weights(NAME)
    net = build(weights.spec).eval()
    load_named(net, weights.spec, weights.tensors)
    images = torch.from_numpy(np.random.default_rng(0).normal(size=(2, 3, 224, 224)).astype(np.float32))
    with torch.no_grad():
        wanted = net(images)
    assert wanted.std() > 0.1
    torch.testing.assert_close(on_tensors(load_onnx(file, 1))(images), wanted, rtol=0, atol=1e-4)
