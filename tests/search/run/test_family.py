"""Several targets in one call: one warm-up, a run folder for each, and what the family comes to."""

import json
import shlex

import pytest
import torch

from proxyless_arch.base.errors import InputError
from proxyless_arch.base.runs import locked
from search import SearchConfig, family_table, imagenet_arch_search, run_family
from search.reporting.run_folder import read_run
from search.run import job as jobs
from search.run import warmup
from tests.errors import refused

WORDS = shlex.split(
    "--space tiny --width_mult 0.05 --resolution 8 --device cpu --target_hardware flops --torch_threads 1 "
    "--valid_size 1200 --score_images 60 --recalibration_images 64 --score_networks 16 --rescore 2 "
    "--train_batch_size 32 --arch_algo predictor --warmup_epochs 1"
)


def searched(folder, targets, *more) -> int:
    return imagenet_arch_search.main(["--path", str(folder), *WORDS, "--target_macs", targets, *more])


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    folder = tmp_path_factory.mktemp("family") / "family"
    assert searched(folder, "3e5,4.5e5", "--strict_landing") == 0
    return folder


def test_one_warm_up_serves_all_targets(family):
    record = json.loads((family / "family.json").read_text())
    assert [entry["target"] for entry in record["networks"]] == [3e5, 4.5e5]
    for entry in record["networks"]:
        assert 0.99 * entry["target"] <= entry["predicted"] == entry["macs"] <= entry["target"]
        assert entry["landed"] is True
    first, second = (family / entry["run"] for entry in record["networks"])
    assert json.loads((second / "result.json").read_text())["warmup_from"] == str(first.absolute())
    assert (first / warmup.NAME).is_file()
    assert (family / "family.png").stat().st_size > 1000


def test_given_again_it_goes_on(family, capsys):
    record = json.loads((family / "family.json").read_text())
    last = family / record["networks"][1]["run"]
    (last / "result.json").unlink()
    before = (last / "scores.jsonl").read_bytes()
    assert searched(family, "3e5,4.5e5") == 0
    assert (last / "scores.jsonl").read_bytes() == before
    again = json.loads((family / "family.json").read_text())
    for entry in (*record["networks"], *again["networks"]):
        entry["wall_seconds"] = 0
    assert again == record
    assert "family.json" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("targets", "more", "place"),
    [
        ("3e5,1", (), "--target_macs"),  # out of reach, behind one that is not
        ("3e5,3e5", (), "--target_macs"),
        ("3e5,much", (), "--target_macs"),
        ("3e5,4e5", ("--arch_algo", "random"), "--target_macs"),
        ("3e5,4e5", ("--target_latency_ms", "3,4"), "--target_macs"),
    ],
)
def test_what_is_no_family_is_refused_before_anything(tmp_path, capsys, targets, more, place):
    assert searched(tmp_path / "family", targets, *more) == 2
    assert place in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_family_is_not_written_into_a_run(family, capsys):
    assert searched(family / "300000macs", "3e5,4e5") == 2
    assert "--run_dir" in capsys.readouterr().err


def test_a_family_is_held_against_other_processes(family, capsys):
    with locked(family):
        assert searched(family, "3e5,4.5e5") == 2
    assert "--run_dir" in capsys.readouterr().err


# Several sizes of the images ------------------------------------------------------------------------------------------


def searched_at(folder, sizes, *more) -> int:
    words = [word for word in WORDS if word not in ("--resolution", "8")]
    return imagenet_arch_search.main(["--path", str(folder), *words, "--resolutions", sizes, *more])


@pytest.fixture(scope="module")
def of_sizes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sizes") / "family"
    assert searched_at(folder, "8,12", "--target_macs", "6e5") == 0
    return folder


@pytest.mark.slow
def test_sizes_share_a_warm_up_and_a_target(of_sizes):
    large, small = json.loads((of_sizes / "family.json").read_text())["networks"]
    assert [(entry["run"], entry["resolution"]) for entry in (large, small)] == [("12px", 12), ("8px", 8)]
    for entry in (large, small):
        assert entry["target"] == 6e5 and 0.99 * 6e5 <= entry["macs"] <= 6e5
    result = json.loads((of_sizes / "8px" / "result.json").read_text())
    assert result["warmup_from"] == str((of_sizes / "12px").absolute())


@pytest.mark.parametrize("space", ["tiny", pytest.param("wide_tiny", marks=pytest.mark.slow)])
def test_a_dry_run_says_what_each_size_would_do(space, tmp_path, capsys):
    words = ["--target_macs", "1e6", "--space", space, "--width_mult", "0.35", "--dry_run"]
    assert searched_at(tmp_path / "family", "8,12", *words) == 0
    said = capsys.readouterr().out
    assert said.index("== 12px ==") < said.index("== 8px ==") and said.count("expected") == 2
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_size_that_scores_best_is_named(of_sizes, monkeypatch):
    runs = [read_run(of_sizes / name) for name in ("12px", "8px")]
    for run, score in zip(runs, (50.0, 90.0), strict=True):
        run.result.update(top1_percent=score, n_valid_images=1200)
    (line,) = (line for line in family_table(runs).splitlines() if line.startswith("best"))
    assert "8 px" in line and "12 px" not in line
    runs[0].result.update(top1_percent=89.5)
    (line,) = (line for line in family_table(runs).splitlines() if line.startswith("best"))
    assert "8 px" in line and "12 px" in line  # as good, for all that is known


def test_each_step_of_the_warm_up_has_one_size_for_all():
    """Drawn by the step; behind the warm-up images stay as they are."""
    config = SearchConfig.of(
        space="tiny", width_mult=0.05, resolution=12, mixed_resolutions="8,12", device="cpu", warmup_epochs=2
    )
    search = jobs.new_search(jobs.prepare(config, torch.device("cpu")))
    images = torch.rand(2, 3, 12, 12)
    sizes = []
    for step in range(search.schedule.warmup_steps):
        search.step = step
        sized = search._sized(images)
        sizes.append(sized.shape[-1])
        assert torch.equal(sized, search._sized(images))
        assert sized is images if sizes[-1] == 12 else sized.shape == (2, 3, 8, 8)
    assert 0.2 < sizes.count(8) / len(sizes) < 0.8
    search.step += 1
    assert search._sized(images) is images


@pytest.mark.parametrize(("space", "size"), [("imagenet", 31), ("wide", 10), ("uib_small", 7), ("tiny", 3)])
def test_images_that_the_strides_leave_no_pixel_of_are_refused(tmp_path, capsys, space, size):
    words = ["--space", space, "--resolution", str(size), "--target_hardware", "flops", "--path", str(tmp_path / "run")]
    assert imagenet_arch_search.main(words) == 2
    assert "--resolution" in (said := capsys.readouterr().err) and f"got {size}" in said
    assert not list(tmp_path.iterdir())


def test_a_run_that_began_with_such_images_goes_on():
    config = SearchConfig.of(space="imagenet", resolution=16, dataset="digits", target_hardware="flops", device="cpu")
    with refused("--resolution", "32 or more pixels", "got 16"):
        jobs.prepare(config, torch.device("cpu"), say=lambda line: None)
    job = jobs.prepare(config, torch.device("cpu"), say=lambda line: None, resumed=True)
    assert job.space.reduction == 32 and job.space.preprocessing.resolution == 16


@pytest.mark.parametrize(
    ("sizes", "more", "place"),
    [
        ("8,12", (), "--resolutions:"),  # no target
        ("8,10", ("--target_macs", "6e5"), "--resolutions"),  # the strides come to 4
        ("8,8", ("--target_macs", "6e5"), "--resolution:"),
        ("8,12", ("--target_macs", "6e5,7e5"), "--"),
        ("8,12", ("--target_macs", "6e5", "--arch_algo", "random"), "--resolution:"),
        ("8,2000", ("--target_macs", "6e5"), "--resolutions: expected an integer in 8..1024, got 2000"),
        ("4,8", ("--target_macs", "6e5"), "--resolutions: expected an integer in 8..1024, got 4"),
        ("8,12", ("--target_macs", "6e5", "--mixed_resolutions", "8,12,16"), "--mixed_resolutions: has no meaning"),
        ("8,64", ("--target_macs", "3e5"), "--target_macs: 64px: "),
    ],
)
def test_sizes_that_cannot_be_compared(tmp_path, capsys, sizes, more, place):
    assert searched_at(tmp_path / "family", sizes, *more) == 2
    assert place in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_warm_up_on_several_sizes_is_done_at_the_largest(tmp_path, capsys):
    words = [*WORDS, "--mixed_resolutions", "8,12", "--target_macs", "3e5"]
    assert imagenet_arch_search.main(["--path", str(tmp_path / "run"), *words]) == 2
    assert "--mixed_resolutions: the warm-up on several sizes is done" in capsys.readouterr().err
    with pytest.raises(InputError) as caught:
        SearchConfig.of(mixed_resolutions="12,16", resolution=8)
    assert caught.value.place == "--mixed_resolutions"


def test_a_program_asks_for_a_family_of_one_kind(tmp_path):
    config = SearchConfig()

    def place(**targets):
        with pytest.raises(InputError) as caught:
            run_family(config, tmp_path / "family", **targets)
        return caught.value.place

    assert place() == "targets"
    assert place(target_ms=(1, 2)) == "targets"
    assert place(target_macs=()) == "--target_macs"
    assert place(target_macs=(3e5, 3e5)) == "--target_macs"
    assert place(target_macs=(3e5, 4e5), target_latency_ms=(3, 4)) == "--target_latency_ms"
    assert not list(tmp_path.iterdir())
