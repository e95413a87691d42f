"""What a resume refuses, and what it keeps."""

import contextlib
import io
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hardware.profile.device import ProfileSettings, conditions_of
from proxyless_arch.arch.codec import read_spec
from proxyless_arch.base.errors import InputError
from proxyless_arch.base.files import write_json
from proxyless_arch.base.units import Unit
from search import config, imagenet_arch_search, report
from search.run import checkpoint
from tests.errors import error_line, named

TINY = ["--space", "tiny", "--width_mult", "0.1", "--resolution", "8", "--warmup_epochs", "1", "--n_epochs", "1",
        "--torch_threads", "1", "--rescore", "3"]  # fmt: skip
FAST = ["--recipe", "fast", "--train_batch_size", "16", "--n_worker", "0"]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Two classes of noise, told apart by brightness."""
    root = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for label, name in enumerate(("dark", "light")):
        (root / name).mkdir()
        for index in range(40):
            pixels = rng.integers(100 * label, 100 * label + 100, (12, 12, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{index:03d}.png")
    return root


def test_a_search_whose_names_are_no_text_comes_to_its_end(photos, tmp_path, monkeypatch):
    """On a terminal that shows ASCII alone."""
    data, folder = tmp_path / os.fsdecode(b"p\xe9"), tmp_path / os.fsdecode(b"r\xe9")
    shutil.copytree(photos, data)
    (data / "dark").rename(data / os.fsdecode(b"caf\xe9"))
    (data / "light").rename(data / "two\nlines")
    written = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(written, encoding="ascii"))
    words = ["--data_path", str(data), "--recipe", "fast", "--train_batch_size", "16", "--n_worker", "0", *TINY]
    assert imagenet_arch_search.main(["--path", str(folder), *words]) == 0
    assert rb"p\xe9: " in written.getvalue() or rb"p\udce9: " in written.getvalue()
    spec = read_spec(folder / "spec.json")
    assert (spec.name, spec.class_names) == (r"r\xe9", (r"caf\xe9", r"two\nlines"))
    assert json.loads((folder / "config.json").read_text())["data_path"] == str(data)
    assert imagenet_arch_search.main(["--path", str(folder), "--resume"]) == 0


@pytest.fixture(scope="module")
def killed(photos, tmp_path_factory):
    """``data``, a copy of the photos, and ``run``, a search of them as a kill before its result leaves it."""
    home = tmp_path_factory.mktemp("killed")
    shutil.copytree(photos, home / "data")
    flags = ["--data_path", "data", *FAST, *TINY]
    with contextlib.chdir(home):
        assert imagenet_arch_search.main(["--path", "run", *flags]) == 0
    (home / "run" / "result.json").unlink()
    return home


@pytest.fixture
def run(killed, tmp_path, monkeypatch):
    """A copy of it, and its folder the current one: (photos, run folder)."""
    shutil.copytree(killed, tmp_path / "home")
    monkeypatch.chdir(tmp_path / "home")
    return Path("data"), Path("run")


def resumed(folder, capsys, *more) -> tuple[int, str]:
    """The copy of the run in a copy of its home: its images are those beside it, not those that it names."""
    capsys.readouterr()
    status = imagenet_arch_search.main(["--path", str(folder), "--resume", "--data_path", "data", *more])
    return status, capsys.readouterr().err


def test_a_run_goes_on_from_anywhere_with_its_images_by_their_absolute_path(killed, tmp_path, monkeypatch, capsys):
    shutil.copytree(killed / "run", tmp_path / "elsewhere" / "run")
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    assert imagenet_arch_search.main(["--path", "elsewhere/run", "--resume"]) == 0
    said = capsys.readouterr()
    assert said.err == "" and "resumed with" not in said.out
    assert same_product(tmp_path / "elsewhere" / "run", killed / "run")


def same_product(one, other):
    return all(
        (one / name).read_bytes() == (other / name).read_bytes() for name in ("spec.json", "weights.safetensors")
    )


def test_images_that_moved_are_named_and_prove_themselves(run, killed, capsys):
    data, folder = run
    moved = data.rename("moved photos")
    shutil.copytree(folder, "other")
    words = ["--resume", "--data_path", str(moved), "--workers", "1", "--test_batch_size", "7", "--device", "cpu"]
    capsys.readouterr()
    assert imagenet_arch_search.main(["--path", str(folder), *words]) == 0
    (said,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("resumed with"))
    was = json.loads((killed / "run" / "config.json").read_text())
    changes = f"data_path {moved} (was {was['data_path']})", "device cpu (was auto)", "n_worker 1 (was 0)"
    assert sorted(said.removeprefix("resumed with ").split(", ")) == [*changes, "test_batch_size 7 (was 250)"]
    assert same_product(folder, killed / "run")
    kept = json.loads((folder / "config.json").read_text())
    assert kept["data_path"] == str(moved.absolute()) and kept["test_batch_size"] == 7
    assert imagenet_arch_search.main(["--path", str(folder), "--resume"]) == 0  # finished by now
    archive = shutil.make_archive("again", "zip", ".", moved)  # with the folder in it
    assert imagenet_arch_search.main(["--path", str(folder), "--resume", "--data_path", archive]) == 0
    assert archive in capsys.readouterr().out.partition("nothing is done again")[2]
    assert archive in (folder / "report.html").read_text()
    assert json.loads((folder / "config.json").read_text()) == kept | {"data_path": archive}
    (moved / "dark" / "000.png").rename(moved / "dark" / "new.png")
    for name, place, value in (("other", "data", "differs"), (str(folder), "--data_path", "not the images")):
        assert imagenet_arch_search.main(["--path", name, *words[:3]]) == 2
        error_line(capsys.readouterr().err, place, value)


def test_a_warm_up_serves_wherever_its_images_are_now(run, killed, capsys):
    """Named from elsewhere, and moved; other images are refused by their path."""
    data, _ = run
    words = ["--warmup_from", str(killed / "run"), *FAST, *TINY, "--target_hardware", "flops"]
    path = data.rename("moved")
    assert imagenet_arch_search.main(["--path", "behind", "--data_path", str(path), *words]) == 0
    (path / "light" / "000.png").unlink()
    capsys.readouterr()
    assert imagenet_arch_search.main(["--path", "other", "--data_path", str(path), *words]) == 2
    error_line(capsys.readouterr().err, "--warmup_from", "data_path")


def test_the_batch_of_training_stays(run, capsys):
    _, folder = run
    status, errors = resumed(folder, capsys, "--batch_size", "8", "--workers", "1")
    assert (status, "n_worker" in errors) == (2, False)
    error_line(errors, "--resume", "config.json", "train_batch_size")


def test_images_that_went_away_are_noticed(run, capsys):
    data, folder = run
    for index in range(20):
        (data / "dark" / f"{index:03d}.png").unlink()
    status, errors = resumed(folder, capsys)
    assert status == 2
    error_line(errors, "data", "train_images")
    assert not (folder / "result.json").exists()


def test_a_class_that_came_is_noticed(run, capsys):
    data, folder = run
    shutil.copytree(data / "dark", data / "medium")
    status, errors = resumed(folder, capsys)
    assert status == 2
    assert "class_names" in errors


def test_a_run_whose_checkpoint_is_gone_is_not_begun_again(run, capsys):
    _, folder = run
    for path in folder.glob("checkpoint*.pt"):
        path.unlink()
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    status, errors = resumed(folder, capsys)
    assert status == 2
    error_line(errors, "checkpoint.pt", "2 epochs", "--run_dir")
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before


def test_one_epoch_alone_says_that_there_was_a_checkpoint(run, capsys):
    """Every run has one before its first step."""
    _, folder = run
    for path in folder.glob("checkpoint*.pt"):
        path.unlink()
    epoch = (folder / "metrics.jsonl").read_bytes().splitlines(keepends=True)[0]
    (folder / "metrics.jsonl").write_bytes(epoch)
    status, errors = resumed(folder, capsys)
    assert status == 2
    error_line(errors, "checkpoint.pt", "1 epoch", "--run_dir")
    assert (folder / "metrics.jsonl").read_bytes() == epoch


def test_an_edited_config_is_noticed(run, capsys):
    _, folder = run
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**settings, "init_lr": 0.5}))
    status, errors = resumed(folder, capsys)
    assert status == 2
    error_line(errors, "config.json", "init_lr")


def test_a_run_that_is_older_than_a_setting_goes_on(run, capsys):
    """Its default is taken, said once and written down; a value that the run had is not given up for it."""
    _, folder = run
    whole = json.loads((folder / "config.json").read_text())
    younger = ("strict_data", "grad_clip")
    old = {name: value for name, value in whole.items() if name not in younger}
    state = torch.load(folder / checkpoint.NAME, weights_only=True)
    torch.save({**state, "config": old}, folder / checkpoint.NAME)
    write_json(folder / "config.json", old)
    assert report.main([str(folder)]) == 0
    said = "strict_data=False, grad_clip=None"
    capsys.readouterr()
    for expected in (1, 0):
        assert imagenet_arch_search.main(["--path", str(folder), "--resume"]) == 0
        (folder / "result.json").unlink()
        assert capsys.readouterr().out.count(said) == expected
        assert json.loads((folder / "config.json").read_text()) == whole
    write_json(folder / "config.json", {name: value for name, value in whole.items() if name != "width_mult"})
    status, errors = resumed(folder, capsys)
    assert (status, "differs in width_mult" in errors) == (2, True)


def test_a_run_from_before_the_second_edition_reads_its_images_as_it_did(run, capsys):
    data, folder = run
    state = torch.load(folder / checkpoint.NAME, weights_only=True)
    settings = json.loads((folder / "config.json").read_text())
    for name in ("exif", "data_edition"):
        del settings[name], state["config"][name]
    write_json(folder / "config.json", settings)
    space = json.loads((folder / "space.json").read_text())
    del space["preprocessing"]["exif"]
    write_json(folder / "space.json", space)
    torch.save(state, folder / checkpoint.NAME)
    Image.new("RGB", (12, 12)).save(data / "dark" / "new.gif")  # was none of its images
    assert imagenet_arch_search.main(["--path", str(folder), "--resume"]) == 0
    assert "read as before December 2026 (data_edition=1)" in capsys.readouterr().out
    settings = json.loads((folder / "config.json").read_text())
    assert (settings["data_edition"], settings["exif"]) == (1, "auto")
    assert "exif" not in json.loads((folder / "spec.json").read_text())["recipe"]
    assert json.loads((folder / "result.json").read_text())["n_test_images"] == 8


def test_a_resume_keeps_its_recipe_and_the_first_environment(run, capsys):
    _, folder = run
    status, errors = resumed(folder, capsys, "--recipe", "paper")
    assert status == 2
    error_line(errors, "--recipe", "'fast'", "'paper'")
    first = json.loads((folder / "environment.json").read_text())
    assert resumed(folder, capsys)[0] == 0
    later = json.loads((folder / "environment.json").read_text())
    assert {key: later[key] for key in first} == first
    assert "--resume" in later["resumed"][0]["command"]


def test_other_prices_are_noticed(run, capsys):
    _, folder = run
    saved = checkpoint.load(folder / checkpoint.NAME)
    other = {**saved.data, "latency_table": "0" * 16}
    with pytest.raises(InputError, match="differs in latency_table"):
        checkpoint.check_same(saved, saved.config, other, "here")


@pytest.mark.slow
def test_other_processes_and_another_torch_are_said(run, capsys):
    _, folder = run
    state = torch.load(folder / checkpoint.NAME, weights_only=True)
    facts = {"processes": 1, "torch_version": torch.__version__, "num_threads": 1, "device_type": "cpu"}
    assert {name: state["data"][name] for name in facts} == facts

    def resumed_as(**changes) -> tuple[int, str, str]:
        data = {name: value for name, value in (state["data"] | changes).items() if value is not None}
        torch.save({**state, "data": data}, folder / checkpoint.NAME)
        (folder / "result.json").unlink(missing_ok=True)
        capsys.readouterr()
        status = imagenet_arch_search.main(["--path", str(folder), "--resume"])
        return status, *capsys.readouterr()

    status, said, _ = resumed_as(processes=2)
    (line,) = [line for line in said.splitlines() if "bit for bit" in line]
    named(line, "processes", 2, 1)
    assert status == 0
    status, said, errors = resumed_as(torch_version="2.0.1", num_threads=4)
    assert (status, errors.count("Traceback")) == (0, 0)
    (line,) = [line for line in said.splitlines() if "bit for bit" in line]
    named(line, "torch_version", "'2.0.1'", repr(torch.__version__), "num_threads", 4, 1)
    status, said, _ = resumed_as(device_type="cuda", num_threads=4)
    (line,) = [line for line in said.splitlines() if "bit for bit" in line]
    named(line, "device_type", "'cuda'", "'cpu'")
    assert (status, "num_threads" in line) == (0, False)
    status, said, _ = resumed_as(**dict.fromkeys(facts))  # as a run has it that is older than these facts
    assert (status, "bit for bit" in said) == (0, False)


def test_other_kernels_are_said_and_a_checkpoint_without_any_had_those_of_torch(run):
    _, folder = run
    saved, cpu = checkpoint.load(folder / checkpoint.NAME), torch.device("cpu")
    own = saved.data["kernels"]
    other = checkpoint.computed_otherwise(saved, cpu, "llvmlite 0.1")
    named(other, "kernels", repr(own), "'llvmlite 0.1'", "bit for bit")
    assert checkpoint.computed_otherwise(saved, cpu, own) is None
    older = replace(saved, data={name: value for name, value in saved.data.items() if name != "kernels"})
    assert checkpoint.computed_otherwise(older, cpu, "torch") is None
    assert "kernels was 'torch'" in checkpoint.computed_otherwise(older, cpu, "llvmlite 0.1")


def test_another_kind_of_device_is_said_whichever_it_is(run):
    _, folder = run
    saved, cuda = checkpoint.load(folder / checkpoint.NAME), torch.device("cuda", 0)
    named(checkpoint.computed_otherwise(saved, cuda), "device_type", "'cpu'", "'cuda'", "bit for bit")
    there = replace(saved, data={**saved.data, "device_type": "cuda", "num_threads": 7})
    assert checkpoint.computed_otherwise(there, cuda) is None
    older = {name: value for name, value in saved.data.items() if name != "device_type"}
    assert checkpoint.computed_otherwise(replace(saved, data=older), cuda) is None
    eight = replace(there, data={**there.data, "processes": 8})
    named(checkpoint.computed_otherwise(eight, cuda), "processes", 8, 1, "bit for bit")


@pytest.mark.parametrize(
    ("dataset", "space", "pixels", "macro"),
    [
        ("digits", None, 16, "small"),
        ("cifar10", None, 32, "small"),
        ("imagefolder", "tiny", 32, "small"),
        ("imagefolder", None, 224, "imagenet"),
    ],
)
def test_defaults_follow_the_data(dataset, space, pixels, macro):
    assert config.default_resolution(dataset, space) == pixels
    assert config.default_space(pixels) == macro


@pytest.mark.parametrize("space", ["imagenet", "small", "tiny"])
def test_a_space_has_one_default_size(space):
    profiled = conditions_of(ProfileSettings(space=space))
    assert profiled["resolution"] == config.default_resolution("imagefolder", space)


@pytest.mark.parametrize(
    ("flags", "place", "values"),
    [
        (["--valid_size", "1.5"], "--valid_size", ["below 1", "whole number", 1.5]),
        (["--runtime", "torch"], "--runtime", ["--target_hardware mobile"]),
        (["--rl_update_per_epoch"], "--rl_update_per_epoch", ["--rl_update_steps_per_epoch"]),
        (["--arch_algo", "rl", "--rl_batch_size", "1"], "--rl_batch_size", [2, "--rl_baseline_rule others", 1]),
        (["--latency_fallback", "predictor"], "--latency_fallback", ["Pixel 1"]),
    ],
)
def test_settings_without_use_are_refused(flags, place, values, tmp_path, capsys):
    assert imagenet_arch_search.main(["--path", str(tmp_path / "run"), *flags]) == 2
    error_line(capsys.readouterr().err, place, *values)
    assert list(tmp_path.iterdir()) == []


def test_mps_needs_no_double_precision_in_the_cost():
    """The expected cost is computed on the CPU, whatever the device of alpha."""
    from hardware.cost import CostTable
    from search.algorithm.controllers import ExpectedCost

    cost = ExpectedCost(CostTable(1.0, ((0.0, 2.0),), Unit.MS, "made up"))
    assert all(costs.device.type == "cpu" for _, costs in cost.parts)
