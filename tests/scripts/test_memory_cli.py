"""Commands that know their memory: what fits by default, what is refused before anything is written, --dry_run."""

import json
import re
import shlex

import numpy as np
import pytest
import torch
from PIL import Image

from proxyless_arch.arch import catalog
from proxyless_arch.arch.spec import with_classes
from proxyless_arch.base import memory as machine
from proxyless_arch.weights.files import save_safetensors
from proxyless_commands import eval as score
from proxyless_commands import train
from proxyless_nas.network import build
from proxyless_nas.weights import to_named
from search import imagenet_arch_search, specialize
from search.run import job as jobs
from search.run import loop
from tests.errors import line_of, named

GB = 10**9


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """2,000 small JPEGs of two classes."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for name in "ab":
        (folder / name).mkdir()
        for number in range(1000):
            pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.jpg")
    return folder


@pytest.fixture
def here(capfd, monkeypatch, tmp_path):
    """``here(main, free, words) -> (status, stdout, stderr)``, in an empty folder, with ``free`` GB of memory."""
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()

    def run(main, free, *words):
        monkeypatch.setattr("proxyless_arch.base.memory.free_memory", lambda: int(free * GB))
        status = main([str(word) for word in words])
        return status, *capfd.readouterr()

    yield run
    torch.set_num_threads(threads)
    assert list(tmp_path.iterdir()) == []  # nothing was written


def test_the_first_command_of_the_readme_fits_24_gb(here, photos, monkeypatch):
    monkeypatch.setattr(jobs, "TIMED_PIXELS", 0)  # two images
    monkeypatch.setattr(loop, "ENOUGH_SECONDS", 0)  # once
    before = machine.resident_bytes(field="VmHWM")
    words = ["--data_path", photos, "--target_latency_ms", "80", "--device", "cpu", "--threads", "1", "--dry_run"]
    status, printed, errors = here(imagenet_arch_search.main, 22, *words)
    assert status == 0, errors
    memory = re.search(r"(\d+) GB .* (\d+) GB .* (\d+) images .* (\d+) parts of (\d+)$", line_of(printed, "memory"))
    needed, free, batch, parts, part = memory.groups()
    assert (int(free), int(batch)) == (22, 256)
    assert 10 < int(needed) <= 0.9 * 22
    assert int(parts) == -(-256 // int(part)) >= 2
    named(line_of(printed, "expected"), "ms per weight step")
    assert "nothing written" in printed.splitlines()[-1]
    assert machine.resident_bytes(field="VmHWM") - before < 3 * GB


def test_a_search_whose_batch_was_named_is_refused_with_the_one_that_fits(here, photos):
    words = ["--data_path", photos, "--device", "cpu", "--workers", "0", "--run_dir", "run"]
    status, _, errors = here(imagenet_arch_search.main, 22, *words, "--batch_size", "256")
    assert status == 2
    named = int(re.search(r"--batch_size (\d+) fits", errors)[1])
    assert 64 < named < 256
    assert errors.count("\n") == 1


TINY = shlex.split(
    "--space tiny --width_mult 0.05 --resolution 8 --valid_size 1300 --batch_size 64 --device cpu --threads 1"
)


def test_a_dry_search_says_what_a_search_says_and_draws_no_networks(here):
    status, printed, _ = here(imagenet_arch_search.main, 22, *TINY, "--dry_run", "--run_dir", "run")
    assert status == 0
    for label in ("schedule", "memory", "expected", "run folder"):
        assert line_of(printed, label)
    status, printed, _ = here(imagenet_arch_search.main, 22, *TINY, "--dry_run", "--arch_algo", "random")
    assert status == 0
    assert line_of(printed, "reachable")
    assert "nothing written" in printed.splitlines()[-1]


def test_a_dry_search_measures_no_device(here, monkeypatch):
    monkeypatch.setattr("hardware.profile.device.profile_device", lambda *_: pytest.fail("it measured"))
    words = [*TINY, "--dry_run", "--target_hardware", "cpu", "--runtime", "torch"]
    status, printed, errors = here(imagenet_arch_search.main, 22, *words)
    assert status == 0, errors
    assert "hardware/profile_latency.py" in printed
    assert line_of(printed, "memory")


def test_a_dry_run_refuses_a_folder_that_is_taken(tmp_path_factory, here):
    taken = tmp_path_factory.mktemp("taken")
    (taken / "config.json").write_text("{}")
    status, _, errors = here(imagenet_arch_search.main, 22, *TINY, "--dry_run", "--run_dir", taken)
    assert (status, "--run_dir" in errors) == (2, True)


def test_every_target_of_a_dry_specialization(here):
    words = [*TINY, "--dry_run", "--targets", "mobile,flops", "--warmup_epochs", "1", "--n_epochs", "1"]
    status, printed, errors = here(specialize.main, 22, *words)
    assert status == 0, errors
    assert re.findall("== (.*) ==", printed) == ["mobile", "flops"]
    assert printed.count("  memory     about") == 2


SMALL = shlex.split("--arch proxyless_mobile --device cpu --workers 0 --n_epochs 1")


@pytest.mark.parametrize(("free", "parts"), [(60, 1), (22, 1), (9, 3)])
def test_a_dry_training_fits_its_batch(here, photos, free, parts, monkeypatch):
    monkeypatch.setattr("proxyless_nas.train.memory.TIMED_PIXELS", 0)
    status, printed, errors = here(train.main, free, *SMALL, "--data_path", photos, "--dry_run", "--resolution", "192")
    assert status == 0, errors
    said = line_of(printed, "memory")
    assert said.endswith("256 images at once") if parts == 1 else f"in {parts} parts of" in said
    assert re.match(r"about .* ms per image", line_of(printed, "expected"))


def test_a_training_whose_batch_was_named_is_refused(here, photos):
    words = [*SMALL, "--data_path", photos, "--run_dir", "run", "--batch_size", "256"]
    status, _, errors = here(train.main, 9, *words)
    assert status == 2
    named = re.search(r"--batch_size (\d+) fits, or --accumulation (\d+)", errors)
    assert int(named[1]) < 256
    assert int(named[2]) > 1


@pytest.mark.slow
def test_the_parts_are_kept_for_a_resume_and_taken_over_with_a_warm_up(tmp_path_factory, here):
    """They are in config.json: more memory changes nothing."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    words = [word for word in TINY if word not in ("--batch_size", "64")]
    words += ["--warmup_epochs", "1", "--n_epochs", "1"]
    parts = ["--accumulation", "2", "--run_dir", folder]
    status, printed, errors = here(imagenet_arch_search.main, 22, *words, *parts)
    assert status == 0, errors
    assert "2 parts of 32" in line_of(printed, "memory")
    assert json.loads((folder / "config.json").read_text())["accumulation"] == 2
    status, _, errors = here(imagenet_arch_search.main, 60, "--run_dir", folder, "--resume")
    assert status == 0, errors
    status, printed, errors = here(imagenet_arch_search.main, 60, *words, "--warmup_from", folder, "--dry_run")
    assert status == 0, errors
    assert "2 parts of 32" in line_of(printed, "memory")
    assert str(folder) in line_of(printed, "warm-up")


PALTRY = shlex.split("--resolution 32 --space tiny --width_mult 0.05")


def test_few_photos_get_a_batch_that_they_fill_and_the_command_that_works(here, tmp_path_factory):
    few = tmp_path_factory.mktemp("few")
    for number in range(30):
        (few / f"{number % 2}").mkdir(exist_ok=True)
        Image.new("RGB", (8, 8), (number, 0, 0)).save(few / f"{number % 2}" / f"{number}.png")
    words = ["--data_path", few, *PALTRY, "--device", "cpu", "--threads", "1", "--dry_run"]
    status, printed, errors = here(imagenet_arch_search.main, 22, *words)
    assert status == 0, errors
    named(line_of(printed, "few images"), 30, 15)
    assert f"train.py --arch efficientnet_lite0 --pretrained --data_path {few}" in printed
    assert "not the recipe's 256" in printed
    assert line_of(printed, "memory").endswith("2 images at once")
    status, _, errors = here(imagenet_arch_search.main, 22, *words, "--batch_size", "256")
    assert (status, "256 images per step" in errors) == (2, True)
    words = ["--data_path", few, *SMALL, "--dry_run", "--resolution", "32"]
    status, printed, errors = here(train.main, 22, *words)
    assert status == 0, errors
    assert "trained from scratch" in line_of(printed, "few images")


@pytest.mark.parametrize("free", [22, 0.5])
def test_scoring_takes_the_usual_batch_or_what_fits(here, photos, free, tmp_path_factory, monkeypatch):
    spec = catalog.load("proxyless_mobile")
    weights = tmp_path_factory.mktemp("net") / "net.safetensors"
    two = with_classes(spec, 2, ("a", "b"))
    save_safetensors(weights, two, to_named(build(two)), {})
    words = ["--arch", weights, "--data_path", photos, "--device", "cpu", "--threads", "1", "--workers", "0"]
    status, printed, errors = here(score.main, free, *words, "--dry_run")
    assert status == 0, errors
    batch = int(re.search(r"(\d+) images at once", line_of(printed, "memory"))[1])
    assert batch == 32 if free == 22 else 1 <= batch < 32
    assert re.match(r"about .* ms per image", line_of(printed, "expected"))
    if free == 0.5:
        status, _, errors = here(score.main, free, *words, "--batch_size", "32")
        assert (status, "--batch_size" in errors, "--accumulation" in errors) == (2, True, False)
