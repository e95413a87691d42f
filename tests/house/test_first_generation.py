"""What the first generation wrote is still read, scored, shown and gone on with.

The folders were made by commit 5f08150 on the embedded digits (their environment.json has the commands): a search and
a training that ended, a search stopped in its second epoch, and random networks. Pictures, pages and event files were
taken out; a page that lacks is made again.
"""

import json
import lzma
import shutil
from pathlib import Path

import pytest

import eval as eval_script
import train
from proxyless_arch.__main__ import main as arch_main
from proxyless_arch.base.errors import InputError
from proxyless_arch.base.files import read_json
from proxyless_arch.base.runs import read_metrics
from proxyless_arch.weights.lookup import find_network
from search import imagenet_arch_search, report, show
from search.config import from_dict, to_dict
from search.run import warmup

OLD = Path(__file__).resolve().parents[1] / "fixtures" / "first_generation"


@pytest.fixture
def old(tmp_path, monkeypatch) -> Path:
    """A copy of the folders under ``runs``, as their own commands name them."""
    shutil.copytree(OLD, tmp_path / "runs")
    packed = tmp_path / "runs" / "search_stopped" / "checkpoint.pt.xz"
    packed.with_suffix("").write_bytes(lzma.decompress(packed.read_bytes()))
    packed.unlink()
    monkeypatch.chdir(tmp_path)
    return Path("runs")


def files_in(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(folder).iterdir() if path.is_file()}


@pytest.mark.parametrize("name", ["search_finished", "train_finished"])
def test_the_network_scores_as_it_did(name, old, capsys):
    """To within 2 of 360 images: another CPU rounds otherwise."""
    recorded = json.loads((old / name / "result.json").read_text())["test_top1_percent"]
    assert eval_script.main(["--arch", str(old / name), "--path", "digits", "--save_json", "record.json"]) == 0
    record = json.loads(Path("record.json").read_text())
    assert record["n_images"] == 360
    assert record["top1_percent"] == pytest.approx(recorded, abs=100 * 2.5 / 360)


def test_a_finished_search_says_its_end_again(old, capsys):
    before = files_in(old / "search_finished")
    assert imagenet_arch_search.main(["--path", str(old / "search_finished"), "--resume"]) == 0
    said = capsys.readouterr().out
    assert "0.20871 ms" in said and "weights.h5" in said and "weights.safetensors" not in said
    after = files_in(old / "search_finished")
    kept = {"config.json", "environment.json", "metrics.jsonl", "result.json", "spec.json", "weights.h5"}
    assert {name: after[name] for name in kept} == {name: before[name] for name in kept}
    assert after["report.html"].startswith(b"<!DOCTYPE html>") and b"0.2087 ms" in after["report.html"]


def test_a_stopped_search_goes_on_to_its_end(old, capsys):
    run = old / "search_stopped"
    begun = (run / "metrics.jsonl").read_bytes()
    assert imagenet_arch_search.main(["--path", str(run), "--resume"]) == 0
    assert (run / "metrics.jsonl").read_bytes().startswith(begun)
    assert [record["epoch"] for record in read_metrics(run / "metrics.jsonl")] == [0, *range(6)]
    result = json.loads((run / "result.json").read_text())
    target = result["target_latency_ms"]
    assert 0.99 * target <= result["predicted_latency_ms"] <= target
    spec, *_ = find_network(str(run))
    assert len(spec.blocks) == 13 and spec.num_classes == 10


def test_another_search_starts_from_nothing_it_does_not_have(old, capsys):
    """The stopped run's warm-up was taken out of the fixture: that is said, and nothing is written."""
    words = ["--warmup_from", str(old / "search_stopped"), "--path", "runs/new"]
    assert imagenet_arch_search.main(words) == 2
    assert "warmup" in capsys.readouterr().err and not Path("runs/new").exists()


def test_its_warm_up_is_the_one_of_the_same_settings_today(old):
    """Settings that are younger than the run have no part in a warm-up; one that has makes two warm-ups differ."""
    saved = read_json(old / "search_stopped" / "config.json")
    today = to_dict(from_dict(saved, "config.json", fill_missing=True))
    assert len(today) > len(saved)
    assert warmup.differences(today, saved, "config.json") == {}
    assert list(warmup.differences({**today, "warmup_lr": 0.5}, saved, "config.json")) == ["warmup_lr"]
    with pytest.raises(InputError, match="missing warmup_lr"):
        warmup.differences(today, {name: saved[name] for name in saved if name != "warmup_lr"}, "config.json")


def test_a_finished_training_goes_no_further(old, capsys):
    before = files_in(old / "train_finished")
    assert train.main(["--path", str(old / "train_finished"), "--resume"]) == 0
    after = files_in(old / "train_finished")
    assert {name: after[name] for name in ("metrics.jsonl", "spec.json")} == {
        name: before[name] for name in ("metrics.jsonl", "spec.json")
    }


def test_training_starts_from_an_old_search(old, capsys):
    words = ["--arch", str(old / "search_finished"), "--epochs", "1", "--warmup_epochs", "0", "-b", "256"]
    assert train.main([*words, "--path", "runs/new"]) == 0
    assert json.loads(Path("runs/new/result.json").read_text())["macs"] == 227296


def test_pages_and_tables_of_old_folders(old, capsys):
    runs = [str(old / name) for name in ("search_finished", "search_stopped", "search_random")]
    assert report.main([*runs, "--trained", str(old / "train_finished"), "--output", "page.html"]) == 0
    page = Path("page.html").read_text()
    assert page.startswith("<!DOCTYPE html>") and "0.2087 ms" in page
    assert show.main([str(old / "search_finished")]) == 0
    assert "predicted: 0.209 ms by pixel1.json" in capsys.readouterr().out
    specs = [str(path) for path in sorted((old / "search_random" / "specs").iterdir())]
    assert arch_main(["diff", *specs]) in (0, 1)
