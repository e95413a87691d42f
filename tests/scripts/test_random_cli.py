"""--arch_algo random as a person types it: spec files of one cost, whole or not at all."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from hardware.latency import network_ms, shipped
from proxyless_arch.arch.codec import read_spec
from proxyless_arch.arch.walk import total_macs, walk
from search.imagenet_arch_search import main
from tests.errors import error_line

ROOT = Path(__file__).resolve().parents[2]
WORDS = ["--arch_algo", "random", "--space", "tiny", "--resolution", "8", "--width_mult", "0.1", "--device", "cpu"]


def draw(folder, *words, n_archs=4):
    return main([*WORDS, "--path", str(folder), "--n_archs", str(n_archs), *map(str, words)])


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def specs_of(folder):
    return [read_spec(path) for path in sorted((folder / "specs").iterdir())]


@pytest.mark.parametrize("hardware", ["mobile", "flops"])
def test_every_network_is_written_and_costs_what_was_asked(hardware, tmp_path, capsys):
    run = tmp_path / "run"
    assert draw(run, "--target_hardware", hardware) == 0
    result, specs = json.loads((run / "result.json").read_text()), specs_of(run)
    files = [f"specs/random_{index:03d}.json" for index in range(4)]
    assert [entry["spec"] for entry in result["networks"]] == files
    assert sorted(path.relative_to(run).as_posix() for path in (run / "specs").iterdir()) == files
    assert len({spec.blocks for spec in specs}) == 4
    for spec, entry in zip(specs, result["networks"], strict=True):
        # counted from the network that was written, not looked up in the table that it was drawn by
        cost = total_macs(spec) if hardware == "flops" else network_ms(shipped("pixel1"), walk(spec))
        assert 0.99 * result["target"] <= cost <= result["target"]
        assert (entry["cost"], entry["macs"]) == (pytest.approx(cost, rel=1e-6), total_macs(spec))
        assert (spec.num_classes, spec.resolution) == (10, 8)
    assert "4 random networks of" in capsys.readouterr().out
    assert (run / "report.html").stat().st_size > 0


@pytest.mark.slow
def test_the_next_commands_train_and_compare(tmp_path, capsys):
    """Typed as printed, in a shell; the trainings are cut short by a stand-in for python that adds flags."""
    search = [word for word in WORDS if word not in ("--arch_algo", "random")]
    searched = ["--valid_size", "1300", "--train_batch_size", "64", "--warmup_epochs", "1", "--n_epochs", "0"]
    searched += ["--manual_seed", "7"]
    assert main([*search, *searched, "--path", str(tmp_path / "RUN")]) == 0
    capsys.readouterr()
    assert draw(tmp_path / "my run", "--valid_size", "1300", "--manual_seed", 7, n_archs=1) == 0
    printed = capsys.readouterr().out.split("\nnext:\n")[1]
    lines = dict(re.split(r"\s{2,}", line.strip(), maxsplit=1) for line in printed.splitlines())
    (tmp_path / "python").write_text(
        f'#!/bin/sh\nscript="$1"; shift\n[ "$script" = -m ] && exec {sys.executable} -m "$@"\n'
        f'[ "$script" = train.py ] && set -- "$@" --n_epochs 1 --train_batch_size 64 --device cpu\n'
        f'exec {sys.executable} {ROOT}/"$script" "$@"\n'
    )
    (tmp_path / "python").chmod(0o755)
    own = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    assert " --split_seed 7 --recipe digits " in lines["train each of them"]
    for command in lines.values():
        done = subprocess.run(
            command, shell=True, cwd=tmp_path, env=os.environ | own, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, (command, done.stderr)
    assert sorted(path.name for path in (tmp_path / "my run" / "trained").iterdir()) == ["random_000"]
    assert (tmp_path / "my run" / "random_000.png").is_file()
    page = (tmp_path / "comparison.html").read_text()
    assert page.count("1 epoch of train.py in ") == 2
    assert "not trained alike" not in page and "test accuracy after train.py" in page


def test_a_second_draw_does_not_mix_with_the_first(tmp_path, capsys):
    assert draw(tmp_path, "--target_hardware", "flops") == 0
    before = {path.name: path.read_bytes() for path in (tmp_path / "specs").iterdir()}
    assert draw(tmp_path, "--target_hardware", "flops", "--manual_seed", 1, n_archs=2) == 2
    assert "already contains a run" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in (tmp_path / "specs").iterdir()} == before
    (tmp_path / "result.json").unlink()  # as if killed while it wrote
    (tmp_path / "specs" / "random_002.json").unlink()
    (tmp_path / "specs" / "random_003.json").rename(tmp_path / "specs" / ".random_003.json.999999999-abcd0123.tmp.json")
    capsys.readouterr()
    assert main(["--path", str(tmp_path), "--resume"]) == 0
    assert {path.name: path.read_bytes() for path in (tmp_path / "specs").iterdir()} == before
    recipe, said = capsys.readouterr().out.split("\n", 1)
    assert said.startswith("4 random networks of ")
    # now that it is finished, the same is said and nothing is written
    held = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert main(["--path", str(tmp_path), "--resume"]) == 0
    again, first, end = capsys.readouterr().out.split("\n", 2)
    assert ("finished" in first, again, end) == (True, recipe, said)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == held


@pytest.mark.parametrize(
    ("words", "place", "values"),
    [
        (["--target_hardware", "none"], "--target_hardware", ["random networks", "target"]),
        (["--target_hardware", "flops", "--n_archs", "3"], "--n_archs", ["found 0", "MACs"]),
    ],
)
def test_what_cannot_be_drawn_is_refused_before_anything_is_written(
    words, place, values, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr("search.algorithm.random_control.MAX_DRAWS_PER_NETWORK", 0)
    assert draw(tmp_path / "run", *words) == 2
    error_line(capsys.readouterr().err, place, *values)
    assert list(tmp_path.iterdir()) == []
