"""The search command as a person types it: what it prints, what it writes, what it refuses, and how it resumes."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hardware.latency import SHIPPED_FOLDER
from proxyless_arch.arch.codec import read_spec
from proxyless_arch.arch.walk import total_macs, total_params
from proxyless_arch.base.runs import WALL_CLOCK_FIELDS, read_metrics, resume_command
from proxyless_arch.data.batches import BatchPlan
from proxyless_arch.data.datasets import digits, load_for_search
from proxyless_arch.weights.files import load_safetensors
from proxyless_nas.data import eval_batches
from proxyless_nas.steps import evaluate, smoothed_loss
from proxyless_nas.weights import load_weights
from search import imagenet_arch_search
from search.imagenet_arch_search import INTERRUPTED, effective_config, main, parse
from search.run import announce, checkpoint, loop
from search.run import job as jobs
from tests.errors import error_line, line_of, named
from tests.processes import Child

ROOT = Path(__file__).resolve().parents[2]
# the smallest networks there are, on 137 images: two steps per epoch
TINY = shlex.split(
    "--space tiny --width_mult 0.05 --resolution 8 --valid_size 1300 --train_batch_size 64 "
    "--grad_data_batch 32 --device cpu --grad_update_arch_param_every 1 --warmup_epochs 1 --recalibration_images 64 "
    "--recalibration plain"
)
LONG = [*TINY, "--n_epochs", "5", "--dropout", "0.1", "--manual_seed", "3"]
QUICK = [*TINY, "--n_epochs", "2"]
FILES = {
    "config.json", "space.json", "environment.json", "metrics.jsonl", "tensorboard", "checkpoint.pt", "spec.json",
    "checkpoint.previous.pt", "weights.safetensors", "architecture.png", "search.png", "result.json", "per_class.json",
}  # fmt: skip
RESULT_KEYS = {
    "target_latency_ms", "predicted_latency_ms", "argmax_latency_ms", "macs", "params", "top1_percent", "manual_seed",
    "wall_seconds", "test_top1_percent", "unreadable_images", "path",
}  # fmt: skip


def environment():
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def typed(words, folder, *, how=("search/imagenet_arch_search.py",), timeout=240):
    """The command in a process of its own, started in ``folder``."""
    script = [str(ROOT / how[0]), *how[1:]] if how[0].endswith(".py") else list(how)
    return subprocess.run(
        [sys.executable, *script, *map(str, words)],
        cwd=folder, env=environment(), capture_output=True, text=True, timeout=timeout, check=False,
    )  # fmt: skip


@pytest.fixture
def here(capfd, monkeypatch):
    """``here(words) -> (status, stdout, stderr)``: the command in this process; signals and threads are put back.

    It times no steps in advance: the runs by the script do.
    """
    monkeypatch.setattr(loop, "seconds_per_step", lambda *_: (0.5, 0.25))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def run(*words):
        status = main([str(word) for word in words])
        found = capfd.readouterr()
        return status, found.out, found.err

    yield run
    torch.set_num_threads(threads)
    for number, handler in handlers.items():
        signal.signal(number, handler)


def result_of(run_dir):
    return json.loads((run_dir / "result.json").read_text())


def lasting(result):
    return {name: value for name, value in result.items() if name != "wall_seconds"}


def assert_whole(run_dir):
    """Every promised file is there, and none that was being written."""
    names = {path.name for path in run_dir.iterdir()}
    assert names >= FILES
    assert not any(name.startswith(".") or name.endswith(".tmp") for name in names)


def timeless(run_dir):
    records = read_metrics(run_dir / "metrics.jsonl")
    return [{name: value for name, value in record.items() if name not in WALL_CLOCK_FIELDS} for record in records]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """One whole run by the script, from a folder that is not the repository: (its folder, what it printed)."""
    folder = tmp_path_factory.mktemp("elsewhere")
    done = typed(["--path", "straight/run", *LONG], folder)
    assert done.returncode == 0, done.stderr
    return folder / "straight" / "run", done.stdout


def test_a_run_writes_everything(finished):
    run_dir, _ = finished
    assert_whole(run_dir)
    assert list((run_dir / "tensorboard").iterdir())
    for name in ("architecture.png", "search.png"):
        with Image.open(run_dir / name) as picture:
            picture.verify()
    settings = json.loads((run_dir / "config.json").read_text())
    assert (settings["n_epochs"], settings["width_mult"], settings["manual_seed"]) == (5, 0.05, 3)
    machine = json.loads((run_dir / "environment.json").read_text())
    assert machine["torch"] == torch.__version__
    assert "--n_epochs 5" in machine["command"]
    records = read_metrics(run_dir / "metrics.jsonl")
    assert [record["phase"] for record in records] == ["warmup"] + ["search"] * 5
    assert records[-1]["step"] == 12
    assert records[-1]["arch_step"] == 10


@pytest.mark.trains
def test_the_result_is_true(finished):
    run_dir, printed = finished
    result, spec = result_of(run_dir), read_spec(run_dir / "spec.json")
    assert set(result) >= RESULT_KEYS
    goal = result["target_latency_ms"]
    assert 0.99 * goal <= result["predicted_latency_ms"] <= goal
    assert (result["macs"], result["params"]) == (total_macs(spec), total_params(spec))
    assert (spec.name, spec.resolution, spec.num_classes) == ("run", 8, 10)
    assert result["manual_seed"] == 3
    assert result["unreadable_images"] == 0
    assert result["wall_seconds"] > 0
    stored = load_safetensors(run_dir / "weights.safetensors")
    assert stored.spec == spec
    net = load_weights(spec, run_dir / "weights.safetensors").eval()
    test = digits()[1]
    again = evaluate(net, eval_batches(test, spec.preprocessing, batch_size=250))
    assert again.n_images == result["n_test_images"] == 360
    assert f"{again.top1_percent:.1f} % ({again.top1_hits} of 360 test images)" in printed
    assert again.top1_percent == pytest.approx(result["test_top1_percent"], abs=1e-9)
    for words in (
        "data       digits",
        "2 steps",
        "reachable",
        "expected   about",
        "predicted",
        "blocks.12",
        "result.json",
    ):
        assert words in printed
    note = next(line for line in printed.splitlines() if "few steps" in line)
    named(note, "note", "2 steps", "64 images", "9 of 137", "--batch_size 13", 10)
    assert printed.count("\nsearch ") == 5


@pytest.mark.parametrize(
    ("words", "rule"),
    [
        ("", ["lr 0.1", "full_v2", "hard"]),
        ("--target_hardware flops --grad_reg_loss_type add#linear", ["lr 0.1", "full_v2", "add#linear"]),
        ("--target_hardware none --grad_binary_mode two", ["lr 0.1", "two"]),
        ("--arch_algo rl", ["lr 0.1", "REINFORCE", "10 paths", "absolute reward", "frozen .* 25 %"]),
        (
            "--arch_algo rl --rl_reward paper --rl_batch_size 1 --rl_baseline_rule past --rl_freeze 0",
            ["lr 0.1", "REINFORCE", "1 path", "paper reward"],
        ),
        ("--arch_algo rl --target_hardware none --rl_freeze 0", ["lr 0.1", "REINFORCE", "10 paths"]),
    ],
)
def test_the_header_says_how_alpha_is_updated(words, rule):
    config = effective_config(parse([*TINY, "--n_epochs", "2", *words.split()]))
    header = announce.header(jobs.prepare(config, torch.device("cpu")))
    parts = re.search(r"4 architecture steps of 32 images \((.+)\)$", header, re.MULTILINE)[1].split(", ")
    assert len(parts) == len(rule)
    assert all(re.search(rf"\b{wanted}$", part) for wanted, part in zip(rule, parts, strict=True)), parts


def test_the_header_says_one_as_one():
    words = ["--n_epochs", "1", "--train_batch_size", "100"]
    config = effective_config(parse([*TINY, *words]))
    header = announce.header(jobs.prepare(config, torch.device("cpu")))
    named(line_of(header, "schedule"), "1 warm-up", "1 search epoch", "1 step", "1 architecture step")


@pytest.mark.parametrize(("rank", "lines"), [("0", ["  recipe     digits, seed 7"]), ("1", [])])
def test_the_first_line_is_there_before_torch_is(rank, lines, monkeypatch, capsys):
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setattr(imagenet_arch_search, "tune_allocator", lambda: True)
    monkeypatch.setitem(sys.modules, "search.run.runner", None)  # whose import brings torch: here an ImportError
    with pytest.raises(ImportError):
        imagenet_arch_search.run(["--seed", "7"])
    assert capsys.readouterr().out.splitlines() == lines


@pytest.mark.slow
def test_the_header_comes_before_the_steps_that_are_timed(here, tmp_path, monkeypatch):
    timed = loop.seconds_per_step

    def marked(*words):
        print("  timing", flush=True)
        return timed(*words)

    monkeypatch.setattr(loop, "seconds_per_step", marked)
    status, printed, errors = here("--path", tmp_path / "run", *QUICK)
    assert status == 0, errors
    labels = [line[2:12].strip() for line in printed.splitlines()]
    first = labels.index("data")
    expected = ["data", "space", "device", "target", "reachable", "source", "note", "schedule", "memory", "timing"]
    assert labels[first : first + 12] == [*expected, "expected", "run folder"]


def test_a_search_in_which_alpha_takes_no_step_is_said(here, tmp_path):
    for every, told in (("1000", True), ("1", False)):
        words = [*QUICK, "--grad_update_arch_param_every", every, "--dry_run"]
        status, printed, _ = here("--path", tmp_path / "run", *words)
        assert (status, "note       no architecture step" in printed) == (0, told)


def test_a_terminal_says_what_it_waits_for(here, tmp_path, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    status, printed, _ = here("--path", tmp_path / "run", *QUICK)
    assert status == 0
    # 6 weight steps, 4 of them with an architecture step
    waiting, took, folder = re.search(r"\n  expected   (.+)\r  expected   (.+)\n  run folder (.+)\n", printed).groups()
    assert (waiting.endswith(" ..."), folder) == (True, str(tmp_path / "run"))
    named(took, "4.0 s", "500 ms per weight step", "250 ms per architecture step")


def test_interrupted_then_resumed_is_the_same_run(finished, here, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    straight, _ = finished
    run_dir = tmp_path / "again" / "run"
    process = Child(main, ["--path", "again/run", *LONG])
    metrics, deadline = run_dir / "metrics.jsonl", time.monotonic() + 60
    while not (metrics.exists() and metrics.read_bytes().count(b"\n") >= 2):
        assert process.poll() is None, process.errors
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    assert process.wait() == INTERRUPTED, process.errors
    assert "Traceback" not in process.errors
    again = "search/imagenet_arch_search.py --run_dir again/run --resume"
    assert again in process.output
    saved = checkpoint.load(run_dir / "checkpoint.pt")
    named(process.output, f"saved at step {saved.step} of 12")
    assert 0 < saved.step < 12
    assert not (run_dir / "result.json").exists()

    status, printed, _ = here(*again.split()[1:])
    assert (status, f"resumed    at step {saved.step} of 12" in printed) == (0, True)
    assert lasting(result_of(run_dir)) == lasting(result_of(straight))
    one, other = (checkpoint.load(folder / "checkpoint.pt") for folder in (straight, run_dir))
    for left, right in zip(one.controller["alphas"], other.controller["alphas"], strict=True):
        assert torch.equal(left, right)
    for name, tensor in one.supernet.items():
        assert torch.equal(tensor, other.supernet[name]), name
    left, right = (load_safetensors(folder / "weights.safetensors").tensors for folder in (straight, run_dir))
    assert all(np.array_equal(left[name], right[name]) for name in left)
    logs = [
        [
            {k: v for k, v in record.items() if k not in WALL_CLOCK_FIELDS}
            for record in read_metrics(folder / "metrics.jsonl")
        ]
        for folder in (straight, run_dir)
    ]
    assert logs[0] == logs[1]


def no_more(*_, **__):
    raise KeyboardInterrupt


@pytest.mark.parametrize("place", [pytest.param("run.job.prepare", marks=pytest.mark.slow), "run.job.new_search"])
def test_ctrl_c_before_the_first_step_leaves_nothing_to_resume(place, here, tmp_path, monkeypatch):
    words = [*TINY, "--n_epochs", "0", "--path", tmp_path / "run"]
    with monkeypatch.context() as patch:
        patch.setattr(f"search.{place}", no_more)
        status, printed, errors = here(*words)
    assert (status, errors) == (INTERRUPTED, "")
    named(printed.splitlines()[-1], "interrupted", "nothing to resume")
    assert here(*words)[0] == 0  # the same command does not find the folder taken


@pytest.mark.parametrize(
    "place", ["run.loop.seconds_per_step", pytest.param("run.announce.header", marks=pytest.mark.slow)]
)
def test_ctrl_c_before_the_first_step_names_the_command_that_starts_over(place, here, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(f"search.{place}", no_more)
        status, printed, _ = here(*TINY, "--n_epochs", "0", "--path", tmp_path / "run")
    command = resume_command("search/imagenet_arch_search.py", tmp_path / "run")
    said = ["interrupted before the first step; start over with", f"  {command}"]
    assert (status, printed.splitlines()[-2:]) == (INTERRUPTED, said)
    (tmp_path / "run" / f".checkpoint.pt.{os.getpid()}-abcd0123.tmp.pt").touch()  # as a kill would leave it
    assert here(*command.split()[2:])[0] == 0
    assert_whole(tmp_path / "run")


def test_a_run_that_starts_over_says_so_and_has_a_checkpoint_before_its_first_step(here, tmp_path, monkeypatch):
    run_dir, note = tmp_path / "run", "note       there is no checkpoint, nor a finished epoch: it starts over\n"
    for place, words in (("run.loop.seconds_per_step", [*QUICK]), ("run.loop.run", ["--resume"])):
        with monkeypatch.context() as patch:
            patch.setattr(f"search.{place}", no_more)
            status, printed, _ = here(*words, "--path", run_dir)
        assert (status, note in printed) == (INTERRUPTED, words == ["--resume"])
        assert (run_dir / "checkpoint.pt").exists() == (words == ["--resume"])
    assert checkpoint.load(run_dir / "checkpoint.pt").step == 0
    status, printed, _ = here("--path", run_dir, "--resume")
    assert (status, note in printed) == (0, False)


@pytest.mark.parametrize("place", ["run.finish.finish", pytest.param("run.job.prepare", marks=pytest.mark.slow)])
def test_ctrl_c_outside_the_steps_names_the_command_that_goes_on(place, finished, here, tmp_path, monkeypatch):
    run_dir = tmp_path / "run"
    shutil.copytree(finished[0], run_dir)
    (run_dir / "result.json").unlink()
    with monkeypatch.context() as patch:
        patch.setattr(f"search.{place}", no_more)
        status, printed, _ = here("--path", run_dir, "--resume")
    command = resume_command("search/imagenet_arch_search.py", run_dir)
    assert (status, printed.splitlines()[-1].strip()) == (INTERRUPTED, command)
    assert here(*command.split()[2:])[0] == 0


def held_by(run_dir):
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in run_dir.rglob("*") if path.is_file()}


def test_a_finished_run_resumed_says_its_end_again_and_changes_nothing(finished, here, monkeypatch):
    run_dir, first = finished
    before = held_by(run_dir)
    monkeypatch.chdir(run_dir.parents[1])  # the commands that are printed depend on where they are typed
    monkeypatch.setattr("search.run.job.prepare", no_more)  # neither images nor a device are needed
    status, printed, errors = here("--path", run_dir, "--resume")
    assert (status, errors) == (0, "")
    assert held_by(run_dir) == before
    recipe, said, end = printed.split("\n", 2)
    assert recipe.split()[0] == "recipe"
    named(said, "finished")
    assert "few steps" not in printed  # it keeps its settings
    assert end.startswith("\nrun: 13 blocks") and "\nnext:\n" in end
    assert first.replace("straight/run", str(run_dir)).endswith(end)
    status, _, errors = here("--path", run_dir, "--resume", "--n_epochs", "6")
    assert status == 2
    error_line(errors, "--resume", "config.json", "n_epochs")


@pytest.mark.parametrize("missing", [["report.html"], ["search.png", "report.html"]])
def test_what_a_finished_run_was_killed_before_is_made(finished, here, tmp_path, monkeypatch, missing):
    run_dir = tmp_path / "run"
    shutil.copytree(finished[0], run_dir)
    before = held_by(run_dir)
    for name in missing:
        (run_dir / name).unlink()
    with monkeypatch.context() as patch:
        patch.setattr("search.run.job.prepare", no_more)
        assert here("--path", run_dir, "--resume")[0] == 0
    after = held_by(run_dir)
    redrawn = {"architecture.png"} if "search.png" in missing else set()
    assert {path.name for path in after if after[path] != before[path]} == redrawn | set(missing)
    assert after.keys() == before.keys()


def test_a_result_without_its_weights_and_checkpoint_is_not_begun_again(finished, here, tmp_path):
    run_dir = tmp_path / "run"
    shutil.copytree(finished[0], run_dir)
    for name in ("weights.safetensors", "checkpoint.pt", "checkpoint.previous.pt", "metrics.jsonl"):
        (run_dir / name).unlink()
    before = held_by(run_dir)
    status, _, errors = here("--path", run_dir, "--resume")
    assert status == 2
    error_line(errors, "checkpoint.pt", "a result", "--run_dir")
    assert held_by(run_dir) == before


def test_a_finish_that_was_cut_before_its_result_is_done_again(finished, here, tmp_path):
    """Also where a report of the run as it was then had been made."""
    run_dir = tmp_path / "run"
    shutil.copytree(finished[0], run_dir)
    (run_dir / "result.json").unlink()
    (run_dir / "report.html").write_text("unfinished")
    assert here("--path", run_dir, "--resume")[0] == 0
    assert lasting(result_of(run_dir)) == lasting(result_of(finished[0]))
    assert (run_dir / "report.html").read_text().startswith("<!DOCTYPE html>")
    assert_whole(run_dir)


@pytest.mark.slow
def test_a_fine_tune_with_dropout_is_the_same_when_it_is_done_again(here, tmp_path):
    run_dir = tmp_path / "run"
    assert here(*QUICK, "--dropout", "0.2", "--finetune_epochs", "2", "--path", run_dir)[0] == 0
    before, weights = timeless(run_dir), load_safetensors(run_dir / "weights.safetensors").tensors
    (run_dir / "result.json").unlink()
    torch.manual_seed(77)
    assert here("--path", run_dir, "--resume")[0] == 0
    assert timeless(run_dir) == before
    assert all(
        np.array_equal(weights[name], array)
        for name, array in load_safetensors(run_dir / "weights.safetensors").tensors.items()
    )


def first_images(of, seed, step):
    """The places that the error must name: drawn by the plan of the batches, not by what read them."""
    data = load_for_search("digits", None, 1300, 0)
    images, size = (data.train, 64) if of == "train" else (data.valid, 32)
    plan = BatchPlan(n_images=len(images), batch_size=size, seed=seed)
    return ", ".join(images.place(sample.image) for sample in next(plan.steps(step, 1))[:3])


@pytest.mark.parametrize(
    ("place", "values", "images"),
    [
        ("search.run.loop.smoothed_loss", ["gradient norm nan", "weight step 0"], ("train", 0, 0)),
        (
            "search.algorithm.controllers.GradientController._loss",
            ["loss nan", "architecture step 5"],
            ("valid", 1, 5),
        ),
        (
            "proxyless_nas.train.training.smoothed_loss",
            ["gradient norm nan", "batch 1 of 2", "epoch 1", "step 0", "fine-tune"],
            ("train", 2, 0),
        ),
    ],
)
def test_what_is_not_finite_says_in_which_images(place, values, images, here, tmp_path, monkeypatch):
    def broken_gradient(logits, *rest):
        logits.register_hook(lambda gradient: gradient * float("nan"))
        return smoothed_loss(logits, *rest)

    def broken_loss(controller, ce, cost):  # steps 0 to 3 are also timed before the search
        return ce * (float("nan") if controller.step == 5 else 1.0)

    monkeypatch.setattr(place, broken_loss if images[0] == "valid" else broken_gradient)
    status, _, errors = here(*TINY, "--n_epochs", "3", "--finetune_epochs", "1", "--path", tmp_path / "run")
    assert status == 1, errors
    error_line(errors, "", *values, first_images(*images))
    assert not (tmp_path / "run" / "result.json").exists()


def test_an_occupied_folder_is_refused(finished, here):
    run_dir, _ = finished
    before = {path.name: path.stat().st_mtime_ns for path in run_dir.iterdir()}
    status, _, errors = here("--path", run_dir, *QUICK)
    assert status == 2
    error_line(errors, "--run_dir", "--resume")
    assert {path.name: path.stat().st_mtime_ns for path in run_dir.iterdir()} == before


def test_a_resumed_run_keeps_its_settings(finished, here):
    run_dir, _ = finished
    status, _, errors = here("--path", run_dir, "--resume", "--n_epochs", "6", "--width_mult", "0.05")
    assert status == 2
    error_line(errors, "--resume", "config.json", "n_epochs")
    assert "width_mult" not in errors


def test_a_damaged_checkpoint_is_refused_and_says_what_is_left(finished, here, tmp_path):
    run_dir, path = tmp_path / "run", tmp_path / "run" / "checkpoint.pt"
    shutil.copytree(finished[0], run_dir)
    for name in ("result.json", "checkpoint.previous.pt"):
        (run_dir / name).unlink()
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    status, _, errors = here("--run_dir", run_dir, "--resume")
    assert status == 2
    error_line(errors, "", "checkpoint", "--run_dir", f"--warmup_from {run_dir}", source=path)
    own = ("--path", tmp_path / "anew", "--warmup_from", run_dir, "--n_epochs", "0")
    assert here(*LONG, *own)[0] == 0
    (run_dir / "warmup.pt").unlink()
    status, _, errors = here("--path", run_dir, "--resume")
    assert (status, "--warmup_from" in errors) == (2, False)
    error_line(errors, "", "checkpoint", "--run_dir", source=path)


def test_a_mistyped_flag_suggests_the_nearest(tmp_path):
    done = typed(["--n_epoch", "3", "--path", "run"], tmp_path)
    assert done.returncode == 2
    error_line(done.stderr, "--n_epoch", "'--n_epochs'", "--help_all")
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_help_from_the_root():
    done = typed(["--help"], ROOT, how=("-m", "search.imagenet_arch_search"))
    assert done.returncode == 0
    assert "--target_latency_ms" in done.stdout
    assert "python search/imagenet_arch_search.py --target_hardware mobile" in done.stdout
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("words", "place", "values", "source"),
    [
        (["--dataset", "imagefolder"], "data_path", ["imagefolder", ".zip"], None),
        (["--dataset", "imagefolder", "--data_path", "{tmp}/nowhere"], "", ["no such folder"], "nowhere"),
        (["--resume"], "--resume", ["--run_dir FOLDER"], None),
        (["--resume", "--path", "{tmp}/nowhere"], "--run_dir", ["no such folder"], "nowhere"),
        (["--n_epochs", "-1"], "--n_epochs", ["integer", "0..", -1], None),
        (["--grad_binary_mode", "three"], "--grad_binary_mode", ["'full_v2'", "'full'", "'two'", "'three'"], None),
        (["--target_macs", "1000"], "--target_macs", ["mobile", "--target_hardware flops"], None),
        (  # refused before this device is measured
            ["--target_macs", "1000", "--target_hardware", "cpu"],
            "--target_macs",
            ["--target_hardware cpu", "--target_hardware flops"],
            None,
        ),
        *(
            (
                ["--target_latency_ms", "3", "--target_hardware", hardware],
                "--target_latency_ms",
                [f"--target_hardware {hardware}", "mobile, cpu or gpu8"],
                None,
            )
            for hardware in ("flops", "none")
        ),
        (["--target_hardware", "gpu8"], "--target_hardware", ["CUDA", "--latency_table"], None),
        (["--latency_table", "{tmp}/nowhere.yaml"], "", ["no such file"], "nowhere.yaml"),
        (["--train_batch_size", "60000"], "--batch_size", ["60000 images", 137], None),
        (["--device", "cuda:x"], "--device", ["'cuda:x'"], None),
        (["--recipe", "digit"], "recipe", ["'digit'", "'digits'"], None),
    ],
)
def test_refused_before_anything_is_written(here, tmp_path, words, place, values, source):
    run_dir = tmp_path / "run"
    own = [word.replace("{tmp}", str(tmp_path)) for word in words]
    base = [] if "--resume" in words else [*QUICK, "--path", run_dir]
    status, _, errors = here(*base, *own)
    assert status == 2
    error_line(errors, place, *values, source=source and tmp_path / source)
    assert list(tmp_path.iterdir()) == []


def test_the_layer_table_adds_up_to_the_prediction(here, tmp_path):
    """With a constant of -0.01 ms that every network costs."""
    document = json.loads((SHIPPED_FOLDER / "pixel1.json").read_text())
    document["net_calibration"] = {"scale": 1.0, "offset_ms": -0.01}
    (tmp_path / "table.json").write_text(json.dumps(document))
    table = ("--latency_table", tmp_path / "table.json", "--force_latency_table")
    status, printed, errors = here(*QUICK, "--path", tmp_path / "run", *table)
    assert status == 0, errors
    rows = {line.split()[0]: line.split()[-3] for line in printed.splitlines() if line.endswith(" %")}
    predicted = result_of(tmp_path / "run")["predicted_latency_ms"]
    assert 0.01 < predicted < 1
    assert rows["total"] == f"{float(f'{predicted:.3g}'):.{len(rows['total']) - 2}f}"
    assert float(rows["constant"]) == -0.01
    layers = [float(cost) for name, cost in rows.items() if name != "total"]
    assert sum(layers) == pytest.approx(predicted, abs=0.5 * 10.0 ** (2 - len(rows["total"])) * len(rows))


@pytest.mark.parametrize("target", ["1e-6", pytest.param("1000", marks=pytest.mark.slow)])
def test_a_target_out_of_reach_names_the_range(here, tmp_path, target):
    status, _, errors = here(*QUICK, "--path", tmp_path / "run", "--target_latency_ms", target)
    assert status == 2
    error_line(errors, "--target_latency_ms", f"{float(target):g} ms")
    assert re.search(r"0\.0\d* ms to 0\.\d+ ms", errors)
    assert list(tmp_path.iterdir()) == []


def test_the_header_and_the_refusal_name_one_range(here, tmp_path):
    config = effective_config(parse(QUICK))
    header = announce.header(jobs.prepare(config, torch.device("cpu")))
    reachable = re.match(r".+ ms to .+? ms", line_of(header, "reachable"))[0]
    _, _, errors = here(*QUICK, "--path", tmp_path / "run", "--target_latency_ms", 1000)
    error_line(errors, "--target_latency_ms", reachable, "1000 ms")


def test_a_target_that_no_network_meets_is_refused_before_the_search(here, tmp_path):
    """Within the reachable range, but in a gap of it: just above the cheapest network."""
    status, _, errors = here(*QUICK, "--path", tmp_path / "run", "--target_hardware", "flops", "--target_macs", 1)
    lowest = int(re.search(r"reaches ([\d,]+)", errors)[1].replace(",", ""))
    target = ("--target_hardware", "flops", "--target_macs", 1.0105 * lowest)
    status, _, errors = here(*QUICK, "--path", tmp_path / "run", *target)
    assert status == 2
    error_line(errors, "--target_macs", f"{lowest:,} MACs")
    assert not (tmp_path / "run").exists()
    # the nearest that exists is one to aim at
    above = int(re.search(r" and ([\d,]+) MACs: set", errors)[1].replace(",", ""))
    status, _, errors = here(*QUICK, "--path", tmp_path / "run", "--target_hardware", "flops", "--target_macs", above)
    assert status == 0, errors
    assert result_of(tmp_path / "run")["macs"] == above


@pytest.mark.slow
def test_budgets_beside_the_target(here, tmp_path):
    free, kept = tmp_path / "free", tmp_path / "kept"
    status, _, errors = here(*QUICK, "--path", free)
    assert status == 0, errors
    unlimited = result_of(free)
    limits = ["--max_params", 0.95 * unlimited["params"], "--max_macs", 0.999 * unlimited["macs"]]
    status, printed, errors = here(*QUICK, "--path", kept, *limits)
    assert status == 0, errors
    result = result_of(kept)
    assert result["params"] <= limits[1]
    assert result["macs"] <= limits[3]
    assert 0.99 * result["target_latency_ms"] <= result["predicted_latency_ms"] <= result["target_latency_ms"]
    assert result["argmax_path"] == unlimited["argmax_path"]
    named(line_of(printed, "limits"), f"{int(limits[1]):,} params", f"{int(limits[3]):,} MACs")
    held = [line for line in printed.splitlines() if line.startswith("  limit ")]
    for line, name, most in zip(held, ("params", "macs"), limits[1::2], strict=True):
        named(line, f"{result[name]:,}", f"{int(most):,}")


@pytest.mark.parametrize(
    ("words", "values"),
    [
        (["--max_params", "1"], ["1 params"]),
        (["--max_macs", "1"], ["1 MACs"]),
        (["--max_params", "1e6", "--derive", "argmax"], ["--derive argmax"]),
    ],
)
def test_budgets_that_cannot_be_kept_are_refused(here, tmp_path, words, values):
    status, _, errors = here(*QUICK, "--path", tmp_path / "run", *words)
    assert status == 2
    error_line(errors, words[0], *values)
    assert not (tmp_path / "run").exists()


def test_a_table_without_a_layer(here, tmp_path):
    table = tmp_path / "phone.yaml"
    table.write_text("Conv-input:8x8x3-output:8x8x8: {mean: 0.5, std: 0.1, count: 3}\n")
    status, _, errors = here(*QUICK, "--path", tmp_path / "run", "--latency_table", table)
    assert status == 2
    assert "phone.yaml" in errors
    assert "--latency_fallback predictor" in errors
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_counting_macs(here, tmp_path):
    status, printed, errors = here(*QUICK, "--path", tmp_path / "run", "--target_hardware", "flops",
                                   "--grad_binary_mode", "two", "--finetune_epochs", "1")  # fmt: skip
    assert status == 0, errors
    result = result_of(tmp_path / "run")
    assert 0.99 * result["target_macs"] <= result["macs"] <= result["target_macs"]
    assert result["target_latency_ms"] is result["predicted_latency_ms"] is None
    assert result["macs"] == total_macs(read_spec(tmp_path / "run" / "spec.json"))
    assert 0 <= result["finetuned_top1_percent"] <= 100
    assert "fine-tuned" in printed
    assert [record["phase"] for record in read_metrics(tmp_path / "run" / "metrics.jsonl")][-1] == "finetune"


def test_no_target(here, tmp_path):
    status, printed, errors = here(*QUICK, "--path", tmp_path / "run", "--target_hardware", "none",
                                   "--grad_binary_mode", "full", "--no_zero_gamma")  # fmt: skip
    assert status == 0, errors
    assert "accuracy alone" in printed
    result = result_of(tmp_path / "run")
    assert result["path"] == result["argmax_path"]
    assert_whole(tmp_path / "run")


def test_a_logarithm_takes_costs_above_one(here, tmp_path):
    own = ["--target_hardware", "flops", "--grad_reg_loss_type", "mul#log"]
    status, _, errors = here(*QUICK, "--path", tmp_path / "run", *own)
    assert status == 2
    error_line(errors, "--grad_reg_loss_type", "mul#log", "above 1")


MILLIONS = ("--width_mult", "1", "--resolution", "12")  # of MACs


@pytest.mark.parametrize(
    ("loss", "own"), [pytest.param("mul#log", MILLIONS, marks=pytest.mark.slow), ("add#linear", ())]
)
def test_the_losses_of_the_paper(here, tmp_path, loss, own):
    own = ["--target_hardware", "flops", "--grad_reg_loss_type", loss, *own]
    status, printed, errors = here(*QUICK, "--path", tmp_path / "run", *own, "--n_epochs", "1")
    assert status == 0, errors
    assert loss in printed
    result = result_of(tmp_path / "run")
    assert 0.99 * result["target_macs"] <= result["macs"] <= result["target_macs"]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Two classes of noise, reddish and bluish, 24 images each; one file of each split is cut."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for split, count in (("train", 24), ("test", 8)):
        for label, channel in (("red", 0), ("blue", 2)):
            (folder / split / label).mkdir(parents=True)
            for index in range(count):
                pixels = rng.integers(0, 120, size=(10, 12, 3), dtype=np.uint8)
                pixels[:, :, channel] += 120
                Image.fromarray(pixels).save(folder / split / label / f"{index:02}.png")
    for name in ("train/red/03.png", "test/blue/05.png"):
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes(whole[: len(whole) // 2])
    return folder


PHOTOS = shlex.split(
    "--space tiny --width_mult 0.05 --resolution 8 --train_batch_size 8 --device cpu --warmup_epochs 1 "
    "--n_epochs 1 --n_worker 0 --target_hardware flops --valid_size 10 --rescore 2"
)


def test_an_unreadable_image_is_named_and_counted(here, tmp_path, photos):
    words = ["--dataset", "imagefolder", "--data_path", photos, "--path", tmp_path / "run", *PHOTOS]
    status, printed, errors = here(*words)
    assert status == 0, errors
    left_out = [line for line in errors.splitlines() if "image left out" in line]
    assert all(line.startswith("warning: image left out: ") for line in left_out), errors
    assert "data.py" not in errors
    result = result_of(tmp_path / "run")
    assert any(str(Path("train", "red", "03.png")) in line for line in left_out)
    assert any(str(Path("test", "blue", "05.png")) in line for line in left_out)
    assert result["unreadable_images"] == 2
    assert "unreadable 2 images left out" in printed
    assert result["n_test_images"] == 15
    assert read_spec(tmp_path / "run" / "spec.json").class_names == ("blue", "red")


def test_strict_data_makes_it_an_error(here, tmp_path, photos):
    words = ["--dataset", "imagefolder", "--data_path", photos, "--path", tmp_path / "run", *PHOTOS, "--strict_data"]
    status, _, errors = here(*words)
    assert status == 2
    assert str(Path("train", "red", "03.png")) in errors
    assert "Traceback" not in errors
