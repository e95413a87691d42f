"""A warm-up taken from another run: the search ends bit for bit as with its own, or it is refused and told why."""

import contextlib
import io
import json
import os
import shlex
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from hardware.cost import MACS, price_space
from proxyless_arch.base.errors import InputError
from proxyless_arch.base.files import write_json
from proxyless_arch.base.runs import PREVIOUS_FILE, WALL_CLOCK_FIELDS, read_metrics
from proxyless_arch.base.words import TORCH_KERNELS
from proxyless_arch.weights.files import load_safetensors
from search.config import SearchConfig, flags, from_recipe, read_config, to_dict, with_settings
from search.imagenet_arch_search import INTERRUPTED, main
from search.run import checkpoint, family, runner, warmup
from search.run.loop import Schedule, Search, run
from tests.errors import error_line, named, refused
from tests.search.tiny import tiny_batch, tiny_space

# the smallest networks there are, on 137 images: two steps per epoch
WARM = (
    "--space tiny --width_mult 0.05 --resolution 8 --valid_size 1300 --train_batch_size 64 --dropout 0.1 --device cpu "
    "--warmup_epochs 2 --torch_threads 1 --manual_seed 5 --recalibration plain"
)
FIRST = shlex.split(f"{WARM} --n_epochs 1 --target_hardware mobile")
# all that a warm-up does not depend on is another here
SECOND = shlex.split(
    f"{WARM} --n_epochs 2 --target_hardware flops --target_macs 4e5 --arch_algo rl --rl_batch_size 3 --rl_freeze 0 "
    "--arch_lr 0.05 --arch_init_ratio 0.5 --grad_data_batch 16 --grad_update_arch_param_every 1 --init_lr 0.03 "
    "--test_batch_size 100 --recalibration_images 64"
)

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """A finished run whose warm-up is taken."""
    folder = tmp_path_factory.mktemp("first") / "run"
    assert main(["--path", str(folder), *FIRST]) == 0
    return folder


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """The oracle: the second search with a warm-up of its own."""
    folder = tmp_path_factory.mktemp("own") / "run"
    assert main(["--path", str(folder), *SECOND]) == 0
    return folder


@pytest.fixture(scope="module")
def behind(first, tmp_path_factory):
    """The second search behind the warm-up of the first, and what it printed."""
    folder, out = tmp_path_factory.mktemp("behind") / "run", io.StringIO()
    with contextlib.redirect_stdout(out):
        assert main(["--path", str(folder), *SECOND, "--warmup_from", str(first)]) == 0
    return folder, out.getvalue()


def assert_same(left, right, place=""):
    """Equal bit for bit, types and order of keys included."""
    assert type(left) is type(right), place
    if isinstance(left, torch.Tensor):
        assert torch.equal(left, right), place
    elif isinstance(left, dict):
        assert list(left) == list(right), place
        for key, value in left.items():
            assert_same(value, right[key], f"{place}.{key}")
    elif isinstance(left, list | tuple):
        assert len(left) == len(right), place
        for index, (ours, theirs) in enumerate(zip(left, right, strict=True)):
            assert_same(ours, theirs, f"{place}[{index}]")
    else:
        assert left == right, place


def assert_same_search(left, right):
    """All that two run folders hold, but clocks and where the warm-up came from."""
    for name in (checkpoint.NAME, warmup.NAME):
        states = [vars(checkpoint.load(folder / name)) for folder in (left, right)]
        # seconds are written as text: their length moves the offset
        assert_same(*({**state, "wall_seconds": 0, "metrics_offset": 0} for state in states))
    records = [read_metrics(folder / "metrics.jsonl") for folder in (left, right)]
    assert_same(*([{**r, **dict.fromkeys(WALL_CLOCK_FIELDS, 0)} for r in each] for each in records))
    results = [json.loads((folder / "result.json").read_text()) for folder in (left, right)]
    assert_same(*({**result, "wall_seconds": 0, "warmup_from": None} for result in results))
    assert (left / "spec.json").read_bytes() == (right / "spec.json").read_bytes()
    weights = [load_safetensors(folder / "weights.safetensors").tensors for folder in (left, right)]
    assert all(np.array_equal(array, weights[1][name]) for name, array in weights[0].items())


def result_of(folder):
    return json.loads((folder / "result.json").read_text())


def test_a_search_behind_the_warm_up_of_another_is_the_search_with_its_own(first, own, behind):
    folder, printed = behind
    assert f"warm-up    that of {first} (2 epochs, " in printed
    assert f", behind the warm-up of {first}" in printed
    assert "\nwarmup " not in printed
    assert_same_search(folder, own)
    assert (result_of(folder)["warmup_from"], result_of(own)["warmup_from"]) == (str(first), None)
    assert json.loads((folder / "environment.json").read_text())["warmup_from"] == str(first)
    assert (folder / "config.json").read_bytes() == (own / "config.json").read_bytes()
    # the clocks of the warm-up are those of the run that did it
    clocks = [[r["seconds"] for r in read_metrics(f / "metrics.jsonl")][:2] for f in (folder, first)]
    assert clocks[0] == clocks[1]
    # and its warm-up can be taken in turn
    for part in ("step", "supernet", "optimizer", "sums"):
        assert_same(*(getattr(checkpoint.load(each / warmup.NAME), part) for each in (folder, first)), part)


class StopsAtOnce(runner.StopRequest):
    """A Ctrl-C in the first step."""

    def __enter__(self):
        self.wanted = True
        return super().__enter__()


@pytest.mark.slow
def test_a_resume_needs_the_other_run_no_more(first, own, tmp_path, monkeypatch, capsys):
    source, folder = tmp_path / "first", tmp_path / "run"
    shutil.copytree(first, source)
    with monkeypatch.context() as patch:
        patch.setattr(runner, "StopRequest", StopsAtOnce)
        assert main(["--path", str(folder), *SECOND, "--warmup_from", str(source)]) == INTERRUPTED
    named(capsys.readouterr().out, "saved at step 5 of 8")
    shutil.rmtree(source)
    assert main(["--path", str(folder), "--resume", "--warmup_from", str(tmp_path / "other")]) == 2
    error_line(capsys.readouterr().err, "--warmup_from", source, tmp_path / "other")
    assert main(["--path", str(folder), "--resume", "--warmup_from", str(source)]) == 0
    assert_same_search(folder, own)
    assert result_of(folder)["warmup_from"] == str(source)


@pytest.mark.slow
def test_a_run_killed_before_its_first_checkpoint_takes_the_warm_up_again(behind, own, tmp_path, capsys):
    folder = tmp_path / "run"
    shutil.copytree(behind[0], folder)
    for name in (checkpoint.NAME, PREVIOUS_FILE, warmup.NAME, "result.json"):
        (folder / name).unlink()
    lines = (folder / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    (folder / "metrics.jsonl").write_bytes(lines[0] + lines[1][:100])
    capsys.readouterr()
    assert main(["--path", str(folder), "--resume"]) == 0
    assert "resumed    at step 4 of 8" in capsys.readouterr().out
    assert_same_search(folder, own)


@pytest.mark.parametrize("after", [False, True])
def test_a_run_killed_beside_its_config_does_not_forget_whose_warm_up_it_has(first, tmp_path, monkeypatch, after):
    folder = tmp_path / "run"
    words = ["--path", str(folder), *SECOND, "--warmup_from", str(first)]

    def killed(path, value):
        if after:
            write_json(path, value)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(runner, "write_json", killed)
        assert main(words) == INTERRUPTED
    assert warmup.recorded(folder) == first
    assert (folder / "config.json").exists() is after
    monkeypatch.setattr(runner, "StopRequest", StopsAtOnce)
    assert main(["--path", str(folder), "--resume"] if after else words) == INTERRUPTED
    assert checkpoint.load(folder / checkpoint.NAME).step == 5  # behind the four of the warm-up


def test_a_run_that_did_its_own_warm_up_keeps_it(own, tmp_path, capsys):
    folder = tmp_path / "run"
    shutil.copytree(own, folder)
    assert main(["--path", str(folder), "--resume", "--warmup_from", "other"]) == 2
    error_line(capsys.readouterr().err, "--warmup_from", "its own", "other")


@pytest.mark.parametrize(
    ("words", "values"),
    [
        ("--warmup_lr 0.2", ["warmup_lr", 0.1, 0.2]),
        ("--warmup_epochs 3", ["warmup_epochs", 2, 3]),
        ("--manual_seed 6 --warmup_lr 0.2", ["manual_seed", 5, 6, "warmup_lr", 0.1, 0.2]),
        ("--label_smoothing 0.2 --momentum 0.8", ["momentum", 0.9, 0.8, "label_smoothing", 0.0, 0.2]),
        ("--width_mult 0.1", ["width_mult", 0.05, 0.1]),
        ("--augment none", ["augment", "null", "'none'"]),
        ("--valid_size 1200", ["valid_size", 1300.0, 1200.0]),
        ("--warmup_epochs 0", ["no warm-up", "warmup_epochs is 0"]),
        ("--arch_algo random", ["--arch_algo random"]),
    ],
)
def test_another_warm_up_is_refused_before_anything_is_written(first, tmp_path, capsys, words, values):
    folder = tmp_path / "run"
    assert main(["--path", str(folder), *SECOND, *words.split(), "--warmup_from", str(first)]) == 2
    errors = capsys.readouterr().err
    error_line(errors, "--warmup_from", *values)
    assert not folder.exists()


def cut(path):
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])


def edit_record(path, number, **changes):
    records = [json.loads(line) for line in path.read_text().splitlines()]
    records[number] |= changes
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def change_tensor(path):
    state = checkpoint.load(path)
    name = next(iter(state.supernet))
    checkpoint.save(path, replace(state, supernet={**state.supernet, name: torch.zeros(3)}))


@pytest.mark.parametrize(
    ("damage", "file", "values"),
    [
        (shutil.rmtree, "", ["--warmup_from", "warmup.pt"]),
        (lambda run: (run / "warmup.pt").unlink(), "", ["end of a warm-up", "warmup.pt"]),
        (lambda run: cut(run / "warmup.pt"), "warmup.pt", ["damaged", "--warmup_from"]),
        (lambda run: shutil.copy(run / "config.json", run / "warmup.pt"), "warmup.pt", ["not a readable checkpoint"]),
        (lambda run: (run / "metrics.jsonl").unlink(), "metrics.jsonl", ["no such file"]),
        (lambda run: cut(run / "metrics.jsonl"), "metrics.jsonl", ["2 epochs", 1]),
        (lambda run: edit_record(run / "metrics.jsonl", 1, step=5), "metrics.jsonl", ["line 2.step", 4, 5]),
        (
            lambda run: edit_record(run / "metrics.jsonl", 1, phase="search"),
            "metrics.jsonl",
            ["line 2.phase", "'warmup'", "'search'"],
        ),
        (
            lambda run: edit_record(run / "metrics.jsonl", 0, train_loss="?"),
            "metrics.jsonl",
            ["line 1.train_loss", "number", "'?'"],
        ),
        (lambda run: change_tensor(run / "warmup.pt"), "warmup.pt", ["[8, 3, 3, 3]", "[3]"]),
    ],
)
def test_a_missing_or_damaged_file_is_refused(first, tmp_path, capsys, damage, file, values):
    source, folder = tmp_path / "first", tmp_path / "run"
    shutil.copytree(first, source)
    damage(source)
    assert main(["--path", str(folder), *SECOND, "--warmup_from", str(source)]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    named(line, *values)
    assert line.endswith(f" (in {source / file})")
    assert not folder.exists() or list(folder.iterdir()) == []


def test_the_state_of_another_step_is_refused(first, tmp_path):
    shutil.copytree(first, tmp_path / "run")
    state = checkpoint.load(first / warmup.NAME)
    checkpoint.save(tmp_path / "run" / warmup.NAME, replace(state, step=3))
    schedule = Schedule(steps_per_epoch=2, warmup_epochs=2, search_epochs=1, arch_every=1, arch_repeats=1)
    with refused("step", 4, 3, source=tmp_path / "run" / warmup.NAME):
        warmup.read(tmp_path / "run", schedule, state.config, lambda _: state.data, CPU)


def test_other_images_and_other_numbers_of_processes_are_refused(first, monkeypatch):
    state = checkpoint.load(first / warmup.NAME)
    schedule = Schedule(steps_per_epoch=2, warmup_epochs=2, search_epochs=1, arch_every=1, arch_repeats=1)
    fingerprint = checkpoint.load(first / checkpoint.NAME).data
    other_goal = {**fingerprint, "target": 7.0, "latency_table": "0" * 16}
    assert len(warmup.read(first, schedule, state.config, lambda _: other_goal, CPU).epochs) == 2
    counts = {"train_images": 9, "train_names": "f00", "valid_names": "f00", "class_names": "f00"}
    for changes, values in (
        ({"train_names": "f00"}, ["training images"]),
        (counts, ["train_images", 137, 9, "architecture-validation images", "classes"]),
    ):
        with refused("--warmup_from", *values, source=first):
            warmup.read(first, schedule, state.config, lambda _, changes=changes: {**fingerprint, **changes}, CPU)
    # what follows from another data set is not said again
    elsewhere = {**state.config, "dataset": "imagefolder", "torch_threads": 2, "manual_seed": 0}
    with monkeypatch.context() as patch, pytest.raises(InputError) as caught:
        patch.setattr(checkpoint.torch, "get_num_threads", lambda: 2)
        warmup.read(first, schedule, elsewhere, lambda _: {**fingerprint, **counts}, CPU)
    dataset, seed, threads = caught.value.problem.split("; ")
    named(dataset, "dataset", "'digits'", "'imagefolder'")
    named(seed, "manual_seed", 5, 0)
    named(threads, "torch_threads", 1, 2)
    monkeypatch.setattr(checkpoint.distributed, "world_size", lambda: 2)
    with refused("--warmup_from", "processes", 1, 2, source=first):
        warmup.read(first, schedule, state.config, lambda _: fingerprint, CPU)


def test_the_same_images_within_other_folders_are_taken(first):
    """A zip of the folder may hold it whole: the names of that run are asked for, as in a resume."""
    state = checkpoint.load(first / warmup.NAME)
    schedule = Schedule(steps_per_epoch=2, warmup_epochs=2, search_epochs=1, arch_every=1, arch_repeats=1)
    moved = {**state.data, "train_names": "f00"}

    def fingerprint(told):
        return {**moved, "train_names": told["train_names"]} if told else moved

    assert warmup.read(first, schedule, state.config, fingerprint, CPU).folder == first


def test_another_torch_and_other_threads_are_refused(first, monkeypatch):
    state = checkpoint.load(first / warmup.NAME)
    assert (state.data["torch_version"], state.data["num_threads"]) == (torch.__version__, 1)
    kernels = state.data["kernels"]
    schedule = Schedule(steps_per_epoch=2, warmup_epochs=2, search_epochs=1, arch_every=1, arch_repeats=1)
    fingerprint = checkpoint.load(first / checkpoint.NAME).data
    config = read_config(first / "config.json")
    monkeypatch.setattr(checkpoint.torch, "get_num_threads", lambda: 2)
    with refused("--warmup_from", "num_threads", 1, 2, source=first):
        warmup.read(first, schedule, state.config, lambda _: fingerprint, CPU)
    assert family.warmed(config, [first]) == first  # it will set its threads to 1
    assert warmup.computed_alike(first, CPU, 1, kernels)
    assert not warmup.computed_alike(first, CPU, None, kernels)
    monkeypatch.undo()
    monkeypatch.setattr(checkpoint.torch, "__version__", "0.4")
    with refused("--warmup_from", "torch_version", "'0.4'", source=first):
        warmup.read(first, schedule, state.config, lambda _: fingerprint, CPU)
    assert family.warmed(config, [first]) is None


def test_another_kind_of_device_is_refused(first, tmp_path):
    state, cuda = checkpoint.load(first / warmup.NAME), torch.device("cuda", 0)
    assert state.data["device_type"] == "cpu"
    kernels = state.data["kernels"]
    schedule = Schedule(steps_per_epoch=2, warmup_epochs=2, search_epochs=1, arch_every=1, arch_repeats=1)
    fingerprint = checkpoint.load(first / checkpoint.NAME).data
    with refused("--warmup_from", "device_type", "'cpu'", "'cuda'", source=first):
        warmup.read(first, schedule, state.config, lambda _: fingerprint, cuda)
    assert (warmup.computed_alike(first, CPU, 1, kernels), warmup.computed_alike(first, cuda, 1, kernels)) == (
        True,
        False,
    )
    shutil.copytree(first, tmp_path / "older")  # it did not say where it was computed
    data = {name: value for name, value in state.data.items() if name != "device_type"}
    data["kernels"] = TORCH_KERNELS  # as on any other device
    checkpoint.save(tmp_path / "older" / warmup.NAME, replace(state, data=data))
    assert warmup.read(tmp_path / "older", schedule, state.config, lambda _: fingerprint, cuda).state.step == 4
    assert warmup.computed_alike(tmp_path / "older", cuda, 1, TORCH_KERNELS)


@pytest.mark.slow
def test_two_processes_start_behind_the_warm_up_of_two(tmp_path):
    root = Path(__file__).resolve().parents[3]
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    words += [str(root / "search" / "imagenet_arch_search.py"), "--path"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)}

    def searched(name, *more):
        done = subprocess.run([*words, str(tmp_path / name), *more], env=environment, capture_output=True, text=True)
        return done.returncode, done.stderr

    assert searched("first/run", *FIRST)[0] == 0
    assert searched("own/run", *SECOND)[0] == 0
    assert searched("from/run", *SECOND, "--warmup_from", str(tmp_path / "first" / "run"))[0] == 0
    assert_same_search(tmp_path / "from" / "run", tmp_path / "own" / "run")
    status, errors = searched("no", *SECOND, "--warmup_lr", "0.3", "--warmup_from", str(tmp_path / "first" / "run"))
    assert status != 0
    assert errors.count("error: --warmup_from: ") == 1
    assert not (tmp_path / "no").exists()


def test_every_setting_is_judged():
    """A setting added later has a part in the warm-up until someone shows that it has none."""
    words = (
        "manual_seed device torch_threads dataset data_path valid_size resolution resize_scale augment "
        "train_batch_size accumulation strict_data exif data_edition space blocks_per_stage final_width "
        "width_mult bn_momentum bn_eps dropout zero_gamma warmup_epochs warmup_lr "
        "momentum nesterov weight_decay no_decay_bn label_smoothing grad_clip paths_per_step mixed_resolutions "
        "split_seed parent sandwich_paths shared_rule kernel_transform precision"
    )
    assert sorted(warmup.settings_with_a_part()) == sorted(words.split())
    assert set(warmup.NO_PART) < set(flags())


def test_a_setting_that_the_other_run_is_too_old_to_have_is_not_taken_for_its_default(tmp_path):
    config = from_recipe("digits")
    ours = to_dict(config)
    old = {name: value for name, value in ours.items() if name != "grad_clip"}
    assert warmup.differences(ours, ours, "there") == {}
    with pytest.raises(InputError, match=r"missing grad_clip \(in there\)"):
        warmup.differences(ours, old, "there")
    (tmp_path / warmup.NAME).touch()
    write_json(tmp_path / "config.json", old)
    assert family.warmed(config, [tmp_path]) is None
    with pytest.raises(InputError, match=r"format.*in there"):
        warmup.differences(ours, {"a": 1}, "there")


def warmed(**changes):
    """The state of a search on a tiny space at the end of a warm-up of two epochs."""
    search_epochs = changes.get("n_epochs", 3)
    config = with_settings(
        SearchConfig(), {"train_batch_size": 6, "warmup_epochs": 2, "n_epochs": 3, "dropout": 0.2} | changes
    )
    schedule = Schedule(3, 2, search_epochs, config.arch.grad_update_arch_param_every, config.arch.grad_update_steps)
    space = tiny_space(dropout_rate=config.space.dropout)
    table = price_space(space, MACS)
    goal = (0.6 if config.target.target_macs else 0.8) * table.uniform_expected
    search = Search(config, space, table, goal, schedule, torch.device("cpu"))
    batches = (tiny_batch(dtype=torch.float32, seed=step) for step in range(6))
    run(search, batches, iter(()), on_epoch=lambda record: None, on_step=lambda state: state.step < 6)
    state = search.checkpoint({}, {}, 0, 0.0)
    return {"supernet": state.supernet, "optimizer": state.optimizer}


@pytest.mark.parametrize(
    "changes",
    [
        {"arch_algo": "rl", "rl_batch_size": 2, "rl_reward": "paper", "rl_freeze": 0.0, "rl_baseline_momentum": 0.1},
        {"arch_lr": 0.2, "arch_adam_beta1": 0.5, "arch_adam_beta2": 0.9, "arch_weight_decay": 0.1},
        {"arch_init_ratio": 1.0, "path_sampling": "uniform", "zero_rule": "release", "grad_data_batch": 3},
        {"grad_binary_mode": "two", "grad_update_arch_param_every": 1, "grad_update_steps": 4},
        {"n_epochs": 9, "init_lr": 0.7, "n_worker": 2, "test_batch_size": 3},
        {"target_hardware": "flops", "target_macs": 1e5, "hard_lambda": 3.0, "final_temperature": 0.1},
        {"grad_reg_loss_type": "add#linear", "grad_reg_loss_lambda": 2.0, "derive": "argmax"},
        {"finetune_epochs": 2, "finetune_lr": 0.5, "recalibration_images": 64},
    ],
    ids=lambda changes: ",".join(changes),
)
def test_what_is_said_to_have_no_part_has_none(changes):
    groups = {name: group for name, (group, *_) in flags().items()}
    assert all(groups[name] in warmup.NO_PART_GROUPS or name in warmup.NO_PART for name in changes)
    expected, found = warmed(), warmed(**changes)
    learning_rates = [[group.pop("lr") for group in state["optimizer"]["param_groups"]] for state in (expected, found)]
    assert_same(found, expected)
    assert learning_rates[0] == learning_rates[1]


def test_a_state_in_memory_serves_several_searches():
    """Two searches behind one state are equal: the first has not moved what the second starts from."""
    config = with_settings(SearchConfig(), {"train_batch_size": 6, "warmup_epochs": 1, "n_epochs": 1})
    space = tiny_space()
    table = price_space(space, MACS)

    def new():
        schedule = Schedule(3, 1, 1, 1, 1)
        return Search(config, space, table, 0.8 * table.uniform_expected, schedule, torch.device("cpu"))

    def batches(first):
        return (tiny_batch(dtype=torch.float32, seed=step) for step in range(first, 6))

    def go_on(search, last):
        valid = (tiny_batch(dtype=torch.float32, seed=100 + step) for step in range(3))
        run(search, batches(search.step), valid, on_epoch=lambda record: None, on_step=lambda s: s.step < last)
        return search.checkpoint({}, {}, 0, 0.0)

    uninterrupted = go_on(new(), 6)
    warm = go_on(new(), 3)
    for _ in range(2):
        search = new()
        search.start_behind(warm)
        found = go_on(search, 6)
        assert_same(vars(found)["supernet"], vars(uninterrupted)["supernet"])
        assert_same(found.optimizer, uninterrupted.optimizer)
        assert_same(found.controller, uninterrupted.controller)


@pytest.mark.parametrize("changes", [{"warmup_lr": 0.2}, {"momentum": 0.5}, {"weight_decay": 0.1}, {"manual_seed": 1}])
def test_what_has_a_part_moves_the_weights(changes):
    expected, found = warmed(), warmed(**changes)
    assert any(not torch.equal(tensor, found["supernet"][name]) for name, tensor in expected["supernet"].items())
