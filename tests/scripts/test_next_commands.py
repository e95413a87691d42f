"""Each command names the next: from photos to a prediction by pasting what was printed, in process."""

import contextlib
import importlib
import shlex
import sys
from pathlib import Path

# In one process torch goes first: the reverse can crash.
with contextlib.suppress(ModuleNotFoundError):
    import torch

import numpy as np
import pytest
from PIL import Image

from proxyless_arch.apps.evaluation import EvalConfig
from proxyless_arch.apps.next_commands import after_eval, network_words
from proxyless_arch.arch.codec import write_spec
from proxyless_arch.base import cli
from proxyless_arch.base.runs import resume_command
from tests.scripts.mini import mini_net

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
ROOT = Path(__file__).resolve().parents[2]
LOOK = ("search/imagenet_arch_search.py", "--space", "tiny", "--resolution", "16", "--dry_run", "--data_path")


@pytest.fixture(autouse=True)
def as_before(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def photos(tmp_path):
    """Two classes of eight, in a folder whose name has a space."""
    generator = np.random.default_rng(0)
    for name, color in (("a cat", (200, 40, 40)), ("dog", (40, 40, 200))):
        folder = tmp_path / "my photos" / name
        folder.mkdir(parents=True)
        for number in range(8):
            pixels = np.clip(generator.normal(color, 30, (20, 24, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"{number}.png")
    return tmp_path / "my photos"


def pasted(words):
    """Run a printed command in this process, as its script would; returns the exit status."""
    script = Path(words[1])
    script = (script if script.is_absolute() else Path.cwd() / script).relative_to(ROOT)
    return importlib.import_module(script.with_suffix("").as_posix().replace("/", ".")).main(words[2:])


def printed(out, label):
    """The command that is printed behind ``label``."""
    line = next(line for line in out.splitlines() if label in line)
    return shlex.split(line.split(label, 1)[1])


@pytest.mark.parametrize("elsewhere", [pytest.param(False, marks=pytest.mark.slow), True])
def test_each_command_names_the_next(elsewhere, photos, tmp_path, capsys, monkeypatch):
    """From the repository, and from another folder with a run folder there."""
    monkeypatch.chdir(photos.parent if elsewhere else ROOT)
    write_spec(tmp_path / "mini.json", mini_net(num_classes=2))
    assert pasted(["python", str(ROOT / LOOK[0]), *LOOK[1:], str(photos)]) == 0
    train = printed(capsys.readouterr().out, "needs far fewer:")
    # a network that trains in a second, in place of the one named
    words = [word for word in train if word not in ("--pretrained", "efficientnet_lite0")]
    words[3:3] = [str(tmp_path / "mini.json"), "--epochs", "1", "--batch_size", "4", "--valid_size", "4", "-j", "0"]
    run = "run folder" if elsewhere else str(tmp_path / "run folder")
    words += ["--run_dir", run, "--device", "cpu"]
    scripts = []
    while words:
        scripts.append(Path(words[1]).name)
        more = ["--workers", "0"] if words[1].endswith(("eval.py", "predict.py")) else []
        more += ["--rounds", "1"] if words[1].endswith("export.py") else []
        assert pasted([*words, *more]) == 0
        out = capsys.readouterr().out
        words = printed(out, "next ") if "\n  next " in out else []
    assert scripts == ["train.py", "eval.py", "predict.py", "export.py", "predict.py"]
    assert len(["search", *scripts]) == 6
    assert (tmp_path / "run folder" / "exported" / "mini.onnx").is_file()


def test_the_flags_that_say_which_network_go_along(tmp_path):
    given = EvalConfig(arch="net.json", weights=tmp_path / "a b.pth", mean=(0.5, 0.5, 0.5), data_path="photos")
    words = ["--arch", "net.json", "--weights", str(tmp_path / "a b.pth"), "--mean", "0.5", "0.5", "0.5"]
    assert network_words(given) == words
    predict, export = map(shlex.split, after_eval(given, "eval_tf.py"))
    assert predict[1:] == ["predict_tf.py", "photos", *words]
    assert export[1] == "export_tf.py" and export[2 : 2 + len(words)] == words and export[-2:] == ["--check", "photos"]


def test_a_command_is_named_as_it_was_started(monkeypatch, tmp_path):
    monkeypatch.setattr(cli, "own_python", lambda: None)
    monkeypatch.chdir(ROOT)
    assert cli.command_line("eval.py", "--arch", "a b") == "python eval.py --arch 'a b'"
    monkeypatch.chdir(tmp_path)
    assert shlex.split(cli.command_line("eval.py")) == ["python", str(ROOT / "eval.py")]
    assert resume_command("train.py", tmp_path) == f"python {ROOT / 'train.py'} --run_dir {tmp_path} --resume"
    assert cli.command_line("gone.py") == "python -m proxyless_commands gone"
    monkeypatch.setattr(sys, "argv", ["/somewhere/bin/proxylessnas", "train"])
    assert cli.command_line("eval_tf.py", "--arch", "x") == "proxylessnas eval_tf --arch x"
    assert resume_command("search/imagenet_arch_search.py", "run") == "proxylessnas search --run_dir run --resume"
