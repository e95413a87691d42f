"""Networks are chosen by scores: what a score is, that it is kept, and what becomes of a search that is interrupted."""

import json
import math
import os
import shlex
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from proxyless_arch.base.errors import InputError
from proxyless_arch.base.runs import read_whole_lines
from proxyless_nas import distributed
from proxyless_nas.steps import evaluate, recalibrate_bn
from search import imagenet_arch_search
from search.algorithm.derive import inherit
from search.config import from_recipe, with_settings
from search.reporting.run_folder import read_run
from search.reporting.summary import FAIR, summary
from search.reporting.views import foretold_chart
from search.run import choosing, rounds, runner, scoring
from search.run.job import mixed, new_search, prepare
from search.run.scoring import FILE, Scorer
from tests.processes import Child, ranks
from tests.search.tiny import assert_same_bits, snapshot

TINY = "--space tiny --width_mult 0.05 --resolution 8 --device cpu --target_hardware flops --torch_threads 1"
SCORES = "--valid_size 1200 --score_images 60 --recalibration_images 64 --score_networks 16 --rescore 3"
WORDS = shlex.split(f"{TINY} {SCORES} --train_batch_size 32 --arch_algo predictor --warmup_epochs 1")


def tiny_job(**settings):
    small = {
        "space": "tiny", "width_mult": 0.05, "resolution": 8, "valid_size": 1200, "target_hardware": "flops",
        "torch_threads": 1, "train_batch_size": 32, "score_images": 70, "recalibration_images": 96,
        "arch_algo": "predictor", "zero_gamma": False,
    }  # fmt: skip
    return prepare(with_settings(from_recipe("digits"), small | settings), torch.device("cpu"), lambda line: None)


def some_paths(job, count):
    rng = np.random.default_rng(0)
    return [tuple(int(rng.integers(len(ops))) for ops in job.space.choices) for _ in range(count)]


@pytest.mark.parametrize("recalibration", ["plain", "augmented"])
def test_a_score_is_that_of_the_derived_network(tmp_path, recalibration):
    job = tiny_job(recalibration=recalibration)
    search, (path, other) = new_search(job), some_paths(job, 2)
    before = snapshot(search.supernet)
    scorer = Scorer(job, search.supernet, tmp_path)
    loss, _ = scorer.losses([path, other])
    assert_same_bits(before, snapshot(search.supernet))
    assert all(module.training for module in search.supernet.modules())
    net = inherit(search.supernet, job.space, path)
    images = mixed(job.data.train, 96, 0)
    augment = job.augment if recalibration == "augmented" else None
    recalibrate_bn(net, job.eval_batches(images, augment=augment, batch_size=32))
    assert loss == pytest.approx(evaluate(net, job.eval_batches(job.data.valid, limit=70)).loss, rel=1e-6)
    assert Scorer(job, search.supernet, tmp_path / "again").losses([other, path])[1] == loss


def test_images_that_do_not_fit_the_memory_are_read_again(tmp_path, monkeypatch):
    job = tiny_job()
    search, paths = new_search(job), some_paths(job, 3)
    kept = Scorer(job, search.supernet, tmp_path / "kept").losses(paths)
    monkeypatch.setattr(scoring, "MOST_KEPT", 0)
    assert Scorer(job, search.supernet, tmp_path / "read").losses(paths) == kept


def test_what_is_scored_is_not_scored_again(tmp_path, monkeypatch):
    job = tiny_job()
    search, paths = new_search(job), some_paths(job, 4)
    first = Scorer(job, search.supernet, tmp_path).losses(paths[:3])
    file = tmp_path / FILE
    file.write_bytes(file.read_bytes()[:-9])  # cut by a kill
    counts = []
    assert Scorer(job, search.supernet, tmp_path, counts.append).losses([*paths, paths[0]])[:3] == first
    assert counts == [1, 1]
    assert [tuple(record["path"]) for record in read_whole_lines(file)[0]] == paths


def test_logits_that_are_no_numbers_give_no_score(tmp_path):
    job = tiny_job()
    search, (path,) = new_search(job), some_paths(job, 1)
    with torch.no_grad():
        search.supernet.classifier.linear.weight.fill_(math.nan)
    for _ in range(2):  # the second time from the file
        (loss,) = Scorer(job, search.supernet, tmp_path).losses([path])
        assert math.isnan(loss)


def test_a_file_of_scores_that_is_damaged_is_named(tmp_path):
    job = tiny_job()
    (tmp_path / FILE).write_text('{"path": [1], "loss": "low", "halves": [1, 2]}\n')
    with pytest.raises(InputError) as caught:
        Scorer(job, new_search(job).supernet, tmp_path)
    assert (caught.value.place, caught.value.source) == ("line 1.loss", str(tmp_path / FILE))


def scored_together(words):
    """``words``: the folder that the first process writes its file to."""
    with distributed.init_from_environment("cpu"):
        job = tiny_job()
        Scorer(job, new_search(job).supernet, Path(words[0])).losses(some_paths(job, 5))
    return 0


def test_two_processes_score_as_one(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    with ranks(scored_together, [tmp_path / "two"]) as both:
        for child in (Child(scored_together, [tmp_path / "one"]), *both):
            child.must_succeed()
    one, two = ((tmp_path / name / FILE).read_bytes() for name in ("one", "two"))
    assert one == two and one.count(b"\n") == 5


# ------------------------------------------------------------------------------------------------- a whole search


def found_in(folder):
    """All that a finished run holds, but clocks."""
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    timeless = [{k: v for k, v in record.items() if k not in ("seconds", "images_per_second")} for record in records]
    result = json.loads((folder / "result.json").read_text()) | {"wall_seconds": 0}
    return timeless, result, (folder / FILE).read_bytes(), (folder / "spec.json").read_bytes()


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """The folder of an uninterrupted search."""
    folder = tmp_path_factory.mktemp("straight") / "run"
    assert imagenet_arch_search.main(["--path", str(folder), *WORDS]) == 0
    return folder


def test_a_predictor_scores_networks_of_the_target(straight):
    records, result, scores, _ = found_in(straight)
    entries = [json.loads(line) for line in scores.splitlines()]
    assert [record["phase"] for record in records][:2] == ["warmup", "predictor"]
    assert len(entries) == sum(record.get("n_networks", 0) for record in records) == result["predictor"]["n_scored"]
    assert len(entries) >= 17  # 16 random ones, and what was made of them
    table = tiny_job().table
    for entry in entries:
        assert 0.99 * result["target_macs"] <= table.of_path(tuple(entry["path"])) <= result["target_macs"]
    assert result["landed"] is True
    random = [entry["loss"] for entry in entries[:16]]
    assert result["predictor"]["random_mean"] == pytest.approx(np.mean(random))
    assert result["path"] in [entry["path"] for entry in entries]
    lines = summary(straight)
    for label in ("scored", "ranking"):
        assert f"\n  {label} " in lines
    chart = foretold_chart(read_run(straight))
    assert chart is not None
    tips = [shape.tip for shape in chart.scene.shapes if "foretold" in getattr(shape, "tip", "")]
    assert len(tips) == 16 and any(f"{random[0]:.3f} nats" in tip for tip in tips)
    assert "networks that were scored" in (straight / "report.html").read_text()


def test_a_supernet_that_ranks_nothing_is_said_to(straight):
    """One epoch at next to no learning rate: its networks do no better than guessing."""
    result = json.loads((straight / "result.json").read_text())
    entry = result["predictor"]
    (straight / "result.json").write_text(
        json.dumps(
            result
            | {"predictor": entry | {"is_fallback": True, "random_mean": math.log(10), "reliability": 0.2}}
            | {"top1_percent": 9.0}
        )
    )
    try:
        notes = [line for line in summary(straight).splitlines() if line.startswith("  note ")]
    finally:
        (straight / "result.json").write_text(json.dumps(result))
    n_more = math.ceil(60 * 0.7 * 0.8 / (0.2 * 0.3))
    for said in ("does not rank", "no better than guessing", f"{n_more:,} would", "near chance"):
        assert sum(said in note for note in notes) == 1
    assert not any("alpha" in note or "--n_epochs" in note for note in notes)  # there are none


def score_of_chance(scorer, path):
    """No property of the network, though always the same."""
    return scoring.Score(*(lambda x: (x, (x, x)))(2 + float(np.random.default_rng(path).standard_normal())))


def test_losses_that_order_nothing_end_in_a_projection_that_is_marked(straight, tmp_path, monkeypatch):
    monkeypatch.setattr(Scorer, "_score", score_of_chance)
    folder = tmp_path / "run"
    assert imagenet_arch_search.main(["--path", str(folder), *WORDS, "--warmup_from", str(straight)]) == 0
    result = json.loads((folder / "result.json").read_text())
    assert (result["predictor"]["is_fallback"], result["landed"]) == (True, True)
    assert result["predictor"]["n_scored"] <= 17  # the random ones, and the one that is taken
    assert 0.99 * result["target_macs"] <= result["macs"] <= result["target_macs"]
    assert "does not rank" in summary(folder)


@pytest.mark.parametrize("algorithm", ["predictor", "grad"])
def test_losses_that_are_mostly_no_numbers_end_the_search(straight, tmp_path, monkeypatch, capsys, algorithm):
    monkeypatch.setattr(Scorer, "_score", lambda scorer, path: scoring.Score(math.nan, (math.nan, math.nan)))
    words = [*WORDS, "--warmup_from", str(straight), "--arch_algo", algorithm, "--n_epochs", "0"]
    assert imagenet_arch_search.main(["--path", str(tmp_path / "run"), *words]) == 2
    errors = capsys.readouterr().err
    assert "losses: " in errors and "--warmup_lr" in errors
    assert not (tmp_path / "run" / "result.json").exists()


def test_a_stop_and_a_resume_end_as_an_uninterrupted_search(straight, tmp_path, monkeypatch):
    class Stops(runner.StopRequest):
        """Asks to stop at its ninth look: networks have been scored by then."""

        looks = 0

        @property
        def wanted(self):
            Stops.looks += 1
            return Stops.looks == 7 + 9  # 7 weight steps

        @wanted.setter
        def wanted(self, value):
            pass

    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(runner, "StopRequest", Stops)
        assert imagenet_arch_search.main(["--path", str(folder), *WORDS]) == 130
    assert (folder / FILE).read_bytes().count(b"\n") == 9
    assert imagenet_arch_search.main(["--path", str(folder), "--resume"]) == 0
    assert found_in(folder) == found_in(straight)


@pytest.mark.slow
def test_the_same_behind_the_warm_up_of_another(straight, tmp_path):
    folder = tmp_path / "run"
    assert imagenet_arch_search.main(["--path", str(folder), *WORDS, "--warmup_from", str(straight)]) == 0
    mine, theirs = found_in(folder), found_in(straight)
    assert mine[1] | {"warmup_from": None} == theirs[1]
    assert mine[2:] == theirs[2:]


def search_killed_behind_networks(words):
    """``words``: behind how many networks, and the command's own."""
    append, left = scoring.MetricsFile.append, [int(words[0])]

    def append_and_die(file, record):
        append(file, record)
        left[0] -= "halves" in record
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)

    scoring.MetricsFile.append = append_and_die
    return imagenet_arch_search.main(words[1:])


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 16, 19])
def test_killed_behind_a_network_and_resumed(straight, tmp_path, count):
    n_scored = (straight / FILE).read_bytes().count(b"\n")
    count = min(count, n_scored)
    folder = tmp_path / "run"
    process = Child(search_killed_behind_networks, [count, "--path", folder, *WORDS])
    assert process.wait() == -signal.SIGKILL
    assert (folder / FILE).read_bytes().count(b"\n") == count
    assert imagenet_arch_search.main(["--path", str(folder), "--resume"]) == 0
    assert found_in(folder) == found_in(straight)


@pytest.mark.slow
def test_other_algorithms_end_with_the_best_of_some(tmp_path):
    folder = tmp_path / "run"
    words = shlex.split(f"{TINY} --train_batch_size 32 --valid_size 1200 --warmup_epochs 0 --n_epochs 1 --rescore 4")
    assert imagenet_arch_search.main(["--path", str(folder), *words, "--score_images", "60"]) == 0
    result = json.loads((folder / "result.json").read_text())
    entries = [json.loads(line) for line in (folder / FILE).read_text().splitlines()]
    found, first = result["rescored"], entries[0]  # the most probable one
    best = min(entries, key=lambda entry: entry["loss"]) if found["reliability"] > 0 else first
    assert len(entries) == 4 and result["path"] == best["path"]
    shown = {"networks": 4, "loss": best["loss"], "loss_of_most_probable": first["loss"], "n_images": 60}
    assert found == shown | {"reliability": found["reliability"]}
    assert "\n  rescored   4 networks" in summary(folder)
    assert ("60 images" in summary(folder)) == (found["reliability"] < FAIR)


@pytest.mark.parametrize(
    ("settings", "count"),
    [
        ({}, 0),  # the digits' recipe
        ({"rescore": None}, rounds.RESCORED),
        ({"rescore": None, "arch_algo": "rl"}, rounds.RESCORED),
        ({"rescore": 5, "arch_algo": "rl"}, 5),
        ({"rescore": None, "derive": "argmax"}, 0),
        ({"rescore": None, "arch_algo": "random"}, 0),
    ],
)
def test_gradients_and_reinforce_end_with_the_best_of_some_unless_told_otherwise(settings, count):
    assert rounds.most_scored(tiny_job(**{"arch_algo": "grad"} | settings)) == count


def test_a_recipe_without_a_count_leaves_the_predictor_its_own():
    job = tiny_job(rescore=0)
    assert choosing.predictor_of(job.config, job.candidates).options == choosing.PredictorOptions()


@pytest.mark.parametrize(
    ("words", "place"),
    [
        ("--target_macs 86000", "--target_macs"),  # next to the cheapest network
        ("--rescore 1", "--rescore"),
        ("--score_networks 15", "--score_networks"),
    ],
)
def test_what_cannot_be_learnt_from_is_refused_before_anything(tmp_path, capsys, words, place):
    assert imagenet_arch_search.main(["--path", str(tmp_path / "run"), *WORDS, *words.split()]) == 2
    assert place in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("settings", [{"derive": "argmax"}, {"target_hardware": "none"}])
def test_without_a_target_networks_of_any_cost_are_scored(settings):
    job = tiny_job(**settings)
    assert job.asked == []
    predictor = choosing.predictor_of(job.config, job.candidates)
    costs = [job.candidates[0].table.of_path(path) for path in predictor.ask()]
    assert min(costs) < job.candidates[0].table.uniform_expected < max(costs)


# -------------------------------------------------------------------------------------------------------- reliability


def test_reliability_is_the_share_of_true_variance():
    """Losses of true standard deviation 2, each half with noise of 1: the mean of both has noise of variance 1/2."""
    rng = np.random.default_rng(0)
    true = 2 * rng.standard_normal(20_000)
    halves = [tuple(value + rng.standard_normal(2)) for value in true]
    assert choosing.split_half_reliability(halves) == pytest.approx(4 / 4.5, abs=0.01)
    noise = [tuple(pair) for pair in rng.standard_normal((20_000, 2))]
    assert choosing.split_half_reliability(noise) == pytest.approx(0, abs=0.03)
    assert choosing.split_half_reliability([(1.0, 2.0)] * 9) is None
    assert choosing.split_half_reliability([(math.nan, 2.0)] * 9) is None
