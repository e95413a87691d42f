"""Each zoo works where the other framework is not installed, and TensorFlow starts in silence."""

import os
import subprocess
import sys
import types
from pathlib import Path

import pytest

from proxyless_arch.base.errors import InputError
from proxyless_nas_tensorflow import _quiet

ROOT = Path(__file__).resolve().parents[2]
BLOCK = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {names}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
"""
USE_KERAS = """
import numpy as np
from proxyless_nas_tensorflow import proxyless_mobile
from proxyless_nas_tensorflow.steps import compiled
assert compiled(proxyless_mobile(num_classes=5))(np.zeros((1, 64, 64, 3), np.float32)).shape == (1, 5)
"""
USE_TORCH = """
import torch
from proxyless_nas import proxyless_mobile
assert proxyless_mobile(num_classes=5).eval()(torch.zeros(1, 3, 64, 64)).shape == (1, 5)
"""


def python(code: str, *, path: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run ``code`` from the repository's root, in an environment where TensorFlow may talk."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("TF_", "KERAS_"))}
    places = os.pathsep.join(str(place) for place in (path, ROOT) if place)
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=inherited | {"PYTHONPATH": places} | environment,
        capture_output=True,
        text=True,
        timeout=80,
        check=False,
    )


def test_keras_without_torch_in_silence():
    done = python(BLOCK.format(names=["torch"]) + USE_KERAS)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_torch_without_tensorflow():
    done = python(BLOCK.format(names=["tensorflow", "keras"]) + USE_TORCH)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_missing_tensorflow_is_named():
    done = python(BLOCK.format(names=["tensorflow"]) + "import proxyless_nas_tensorflow")
    assert done.returncode == 1
    assert "pip install -e '.[tf]'" in done.stderr


def test_what_a_failing_import_says_is_shown(tmp_path):
    broken = 'import os\nos.write(2, b"said by C++\\n")\nraise ImportError("a library is missing")\n'
    (tmp_path / "tensorflow.py").write_text(broken)
    (tmp_path / "keras.py").write_text("import tensorflow\n")
    done = python("import proxyless_nas_tensorflow", path=tmp_path)
    assert done.returncode == 1
    assert "said by C++" in done.stderr
    assert "ImportError: a library is missing" in done.stderr


def test_another_backend_in_the_environment():
    done = python("import proxyless_nas_tensorflow", KERAS_BACKEND="jax")
    assert done.returncode == 1
    assert "InputError: KERAS_BACKEND: proxyless_nas_tensorflow needs 'tensorflow', got 'jax'" in done.stderr


def test_keras_already_on_another_backend(monkeypatch):
    fake = types.SimpleNamespace(backend=types.SimpleNamespace(backend=lambda: "torch"))
    monkeypatch.setitem(sys.modules, "keras", fake)
    with pytest.raises(InputError, match="imported on 'torch'"):
        _quiet.check_backend()
