"""search as a library: the same search as by the command, in silence and as values."""

import json
import os
import shlex
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from hardware.latency import network_ms, shipped
from proxyless_arch.arch.codec import read_spec
from proxyless_arch.arch.walk import total_macs, walk
from proxyless_arch.base.errors import InputError
from proxyless_arch.base.runs import WALL_CLOCK_FIELDS, read_metrics
from search import SearchConfig, SearchStopped, draw_random, imagenet_arch_search, read_result, run_search
from search.config import as_flags, recipe_names, to_dict
from search.run import checkpoint, runner
from tests.errors import named, refused

ROOT = Path(__file__).resolve().parents[2]
# the smallest networks there are, on 137 images: two steps per epoch
SETTINGS = {
    "space": "tiny", "width_mult": 0.05, "resolution": 8, "valid_size": 1300, "train_batch_size": 64, "device": "cpu",
    "warmup_epochs": 1, "n_epochs": 1, "recalibration_images": 64,
    "recalibration": "plain", "torch_threads": 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("library") / "run"


@pytest.fixture(scope="module")
def result(folder):
    """A silent search: its value, and what it printed."""
    return run_search(SearchConfig.of(**SETTINGS), folder, say=None)


def test_a_search_returns_what_it_came_to(result, folder):
    assert (result.folder, result.config) == (folder, SearchConfig.of(**SETTINGS))
    assert result.spec == read_spec(folder / "spec.json")
    record = json.loads((folder / "result.json").read_text())
    assert result.record == record
    assert result.choices == tuple(record["path"])
    assert result.costs.unit == "ms"
    assert 0.99 * result.costs.asked <= result.costs.predicted <= result.costs.asked
    assert result.costs.predicted == pytest.approx(network_ms(shipped("pixel1"), walk(result.spec)), rel=1e-12)
    assert result.costs.measured is None
    assert (result.top1_percent, result.test_top1_percent) == (record["top1_percent"], record["test_top1_percent"])
    assert result.tensors()["classifier.linear.weight"].shape[0] == 10
    assert result.files["spec.json"] == folder / "spec.json"
    assert all(path.is_file() for path in result.files.values())
    assert result._repr_png_()[:4] == b"\x89PNG"


def test_it_is_the_search_of_the_command(result, folder, tmp_path):
    """By the words in environment.json, which the library was never given."""
    script, *words = shlex.split(json.loads((folder / "environment.json").read_text())["command"])[1:]
    assert script == "search/imagenet_arch_search.py"
    assert imagenet_arch_search.main([*words, "--path", str(tmp_path / "run")]) == 0
    other = read_result(tmp_path / "run")
    assert (other.config, other.choices, other.costs) == (result.config, result.choices, result.costs)
    assert (tmp_path / "run" / "config.json").read_bytes() == (folder / "config.json").read_bytes()
    ours, theirs = result.tensors(), other.tensors()
    assert all(np.array_equal(array, theirs[name]) for name, array in ours.items())
    records = [
        [{k: v for k, v in each.items() if k not in WALL_CLOCK_FIELDS} for each in read_metrics(run / "metrics.jsonl")]
        for run in (folder, tmp_path / "run")
    ]
    assert records[0] == records[1]


def test_a_finished_search_is_only_read(result, folder, capsys, monkeypatch):
    monkeypatch.setattr("search.run.job.prepare", None)  # neither images nor a device are needed
    said = []
    assert run_search(None, folder, resume=True, say=said.append) == result
    (line,) = said
    named(line, "finished")
    assert capsys.readouterr().out == ""


def test_lines_go_where_they_are_wanted_and_threads_come_back(tmp_path, capsys):
    before, said = torch.get_num_threads(), []
    torch.set_num_threads(3)
    try:
        run_search(SearchConfig.of(**SETTINGS, target_hardware="flops"), tmp_path / "run", say=said.append)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    assert capsys.readouterr() == ("", "")
    text = "\n".join(said)
    assert "run folder" in text and "warmup     1/1" in text and "search     1/1" in text


@pytest.mark.slow
def test_ctrl_c_leaves_a_checkpoint_and_the_search_goes_on(result, tmp_path, monkeypatch):
    class StopsAtOnce(runner.StopRequest):
        def __enter__(self):
            self.wanted = True
            return super().__enter__()

    config, folder = SearchConfig.of(**SETTINGS), tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(runner, "StopRequest", StopsAtOnce)
        with pytest.raises(SearchStopped, match="step 1 of 4") as stopped:
            run_search(config, folder, say=None)
    assert isinstance(stopped.value, KeyboardInterrupt)
    assert stopped.value.folder == folder
    assert checkpoint.load(folder / checkpoint.NAME).step == 1
    with refused("--resume", "config.json", "n_epochs"):
        run_search(SearchConfig.of(**{**SETTINGS, "n_epochs": 2}), folder, resume=True, say=None)
    again = run_search(config, folder, resume=True, say=None)
    assert (again.choices, again.costs) == (result.choices, result.costs)
    ours, theirs = result.tensors(), again.tensors()
    assert all(np.array_equal(array, theirs[name]) for name, array in ours.items())


def test_a_search_may_run_beside_the_main_thread(tmp_path):
    """Where no signal handler can be set."""
    found = []
    config = SearchConfig.of(**SETTINGS | {"warmup_epochs": 0, "n_epochs": 0}, target_hardware="flops")
    thread = threading.Thread(target=lambda: found.append(run_search(config, tmp_path / "run", say=None)))
    thread.start()
    thread.join(timeout=120)
    assert len(found) == 1


def test_random_networks_are_values_too(tmp_path):
    config = SearchConfig.of(**SETTINGS, arch_algo="random", n_archs=3, target_hardware="flops")
    with pytest.raises(InputError, match="draw_random"):
        run_search(config, tmp_path / "run", say=None)
    assert not (tmp_path / "run").exists()
    drawn = draw_random(config, tmp_path / "run", say=None)
    assert drawn.costs == tuple(total_macs(spec) for spec in drawn.networks())
    assert all(0.99 * drawn.asked <= cost <= drawn.asked for cost in drawn.costs)
    assert len(set(drawn.choices)) == 3 and drawn.unit == "MACs"
    assert draw_random(None, tmp_path / "run", resume=True, say=None) == drawn


def parsed(words):
    return imagenet_arch_search.effective_config(imagenet_arch_search.parse(words))


@pytest.mark.parametrize("given", [{}, {"data_path": "photos"}, {"dataset": "cifar10", "data_path": "x"}], ids=str)
@pytest.mark.parametrize("recipe", [None, *recipe_names()])
def test_flat_settings_have_the_command_s_defaults(recipe, given):
    words = [word for name, value in given.items() for word in (f"--{name}", value)]
    words += ["--recipe", recipe] if recipe else []
    assert SearchConfig.of(recipe=recipe, **given) == parsed(words)


def test_a_setting_may_be_named_as_its_flag_or_as_in_config_json():
    config = SearchConfig.of(workers=3, threads=2, seed=4, batch_size=9, resolution=24)
    keys = {"n_worker": 3, "torch_threads": 2, "manual_seed": 4, "train_batch_size": 9, "resolution": 24}
    assert {name: to_dict(config)[name] for name in keys} == keys
    assert config == SearchConfig.of(**keys)
    assert config.data.accumulation == 1  # a named batch is computed whole, however it is named


def test_a_setting_is_not_named_twice():
    with pytest.raises(InputError) as caught:
        SearchConfig.of(workers=1, n_worker=1)
    assert caught.value.place == "n_worker" and "workers" in caught.value.problem.split()


@pytest.mark.parametrize("recipe", recipe_names())
def test_a_config_as_flags_is_read_back(recipe):
    config = SearchConfig.of(
        recipe=recipe, data_path=Path("a b"), zero_gamma=False, no_decay_bn=recipe == "paper", grad_clip=0.5, n_epochs=7
    )
    assert parsed(as_flags(config)) == config
    assert config.data.data_path == "a b"


def test_flags_do_not_need_the_recipe_file_any_more(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text('{"n_epochs": 7, "warmup_lr": 0.01}')
    config = SearchConfig.of(recipe=str(path), data_path="photos", init_lr=0.5)
    path.unlink()
    found = parsed(as_flags(config))
    # its batch is not that of the recipe default, so a flag names it: a named batch is computed whole
    whole = replace(config.data, accumulation=1)
    assert found == replace(config, recipe="default", data=whole)


def test_a_mistyped_setting_is_refused_with_the_nearest():
    with refused("n_epoch", "'n_epochs'"):
        SearchConfig.of(n_epoch=3)


def test_the_settings_and_a_finished_run_are_read_without_a_framework(result, folder):
    code = """
import sys
sys.modules["torch"] = sys.modules["tensorflow"] = None
from search import SearchConfig, read_result
print(SearchConfig.of(n_epochs=3).weights.n_epochs, read_result(sys.argv[1]).choices)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)], capture_output=True, text=True, cwd=ROOT, env={**os.environ}
    )
    assert (done.returncode, done.stdout.strip()) == (0, f"3 {result.choices}"), done.stderr
