"""--resume auto: the same command starts a run and goes on with it, by one process or several."""

import json

import pytest

from proxyless_arch.arch.codec import write_spec
from proxyless_arch.base.cli import BAD_INPUT
from proxyless_arch.base.errors import InputError
from proxyless_arch.base.runs import resumes
from proxyless_commands import attack, prune, quantize, train
from search import imagenet_arch_search
from tests.scripts.mini import mini_net

SMALL = ["--n_epochs", "1", "--train_batch_size", "64", "--valid_size", "1300", "--device", "cpu"]


def test_the_same_command_starts_and_goes_on(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    write_spec(tmp_path / "net.json", mini_net(resolution=8))
    words = ["--arch", "net.json", *SMALL, "--run_dir", "run", "--resume", "auto"]
    assert train.main(words) == 0
    first = json.loads((tmp_path / "run" / "result.json").read_text())
    assert "resumed" not in json.loads((tmp_path / "run" / "environment.json").read_text())
    assert train.main(words) == 0
    assert len(json.loads((tmp_path / "run" / "environment.json").read_text())["resumed"]) == 1
    again = json.loads((tmp_path / "run" / "result.json").read_text())
    assert again["test_top1_percent"] == first["test_top1_percent"]


@pytest.mark.parametrize("main", [train.main, prune.main, quantize.main, attack.main, imagenet_arch_search.main])
@pytest.mark.parametrize("words", [["--resume", "auto"], ["--resume"], ["--resume", "perhaps", "--run_dir", "x"]])
def test_it_needs_a_folder_and_no_other_word(main, words, capsys):
    assert main(words) == BAD_INPUT
    assert "--resume" in capsys.readouterr().err


def test_what_it_comes_to(tmp_path):
    assert not resumes("auto", tmp_path)
    assert resumes(True, tmp_path)
    (tmp_path / "config.json").write_text("{}")
    assert resumes("auto", tmp_path)
    assert not resumes(False, tmp_path)
    with pytest.raises(InputError):
        resumes("auto", None)
