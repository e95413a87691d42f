"""search/report.py and search/show.py as commands."""

import json
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

import train
from proxyless_arch.base.files import write_json
from proxyless_arch.base.units import Unit
from search import report, show
from search.reporting.pictures import NAMES
from tests.errors import error_line, named
from tests.search.made_run import write_random, write_run, write_trained

ROOT = Path(__file__).resolve().parents[2]
SVG = "{http://www.w3.org/2000/svg}"


def test_one_run(tmp_path, capsys):
    write_run(tmp_path / "run")
    assert report.main([str(tmp_path / "run")]) == 0
    assert capsys.readouterr().out == f"{tmp_path}/run/report.html\n"
    assert (tmp_path / "run" / "report.html").read_text().startswith("<!DOCTYPE html>")
    film, page = tmp_path / "film.gif", tmp_path / "elsewhere" / "page.html"
    assert report.main([str(tmp_path / "run"), "--output", str(page), "--gif", str(film)]) == 0
    assert film.read_bytes().startswith(b"GIF89a")
    assert page.read_bytes() == (tmp_path / "run" / "report.html").read_bytes()


def test_pictures_for_documents(tmp_path, capsys):
    write_run(tmp_path / "run")
    write_run(tmp_path / "cut", finished=False)
    assert report.main([str(tmp_path / "run"), "--svg", str(tmp_path / "docs")]) == 0
    assert capsys.readouterr().out.splitlines()[1:] == [f"{tmp_path}/docs/{name}.svg" for name in NAMES]
    drawn, went = (ElementTree.parse(tmp_path / "docs" / f"{name}.svg").getroot() for name in NAMES)
    words = ["".join(text.itertext()) for root in (drawn, went) for text in root.iter(f"{SVG}text")]
    assert "run: searched for mobile" in words and "Accuracy of sampled networks" in words
    assert report.main([str(tmp_path / "cut"), "--svg", str(tmp_path / "none")]) == 2
    error_line(capsys.readouterr().err, "", "no network", source=tmp_path / "cut")
    assert not (tmp_path / "none").exists()


def test_several_runs(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(("one", "two")):
        write_run(Path(name), seed=seed)
    assert report.main(["one", "two"]) == 0
    assert capsys.readouterr().out == "comparison.html\n"
    assert "Compared: one and two" in Path("comparison.html").read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["comparison.html", "one", "two"]


def test_a_random_network_that_train_py_trained_is_a_control(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_random(Path("random"))
    words = ["--arch", "random/specs/random_001.json", "--epochs", "0", "--path", "trained", "--device", "cpu"]
    assert train.main(words) == 0
    assert report.main(["random", "--trained", "trained"]) == 0
    accuracy = json.loads(Path("trained/result.json").read_text())["test_top1_percent"]
    tip = f"0 epochs of train.py in trained: top-1 {accuracy:.1f} % ({round(3.6 * accuracy)} of 360 test images)"
    assert tip in Path("random/report.html").read_text()
    capsys.readouterr()
    assert report.main(["random", "trained"]) == 2
    assert "got one of train.py" in capsys.readouterr().err
    assert report.main(["trained"]) == 0  # alone it has the page of its chain
    assert "random_001" in Path("trained/report.html").read_text()


@pytest.mark.parametrize(
    ("words", "place", "values", "source"),
    [
        ([], "", ["RUN"], None),
        (["nowhere"], "", ["no such folder"], "nowhere"),
        (["."], "", ["config.json"], "."),
        (["run", "."], "", ["config.json"], "."),
        (["run", "run", "--gif", "x.gif"], "--gif", ["one search"], None),
        (["run", "run", "--svg", "x"], "--svg", ["one search"], None),
        (["run", "--output", "run"], "", ["cannot be written"], "run"),
        (["run", "--output", "run/spec.json/page.html"], "", ["cannot be written"], "run/spec.json/page.html"),
        (["run", "--outptu", "x"], "--outptu", ["'--output'"], None),
    ],
)
def test_bad_words_leave_nothing(words, place, values, source, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_run(Path("run"))
    before = sorted(tmp_path.rglob("*"))
    assert report.main(words) == 2
    error = capsys.readouterr().err
    error_line(error, place, *values, source=source)
    assert error.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_a_damaged_file_is_an_error_not_a_page(tmp_path, capsys):
    write_run(tmp_path / "run")
    (tmp_path / "run" / "result.json").write_text("{")
    assert report.main([str(tmp_path / "run")]) == 2
    assert "result.json" in capsys.readouterr().err
    assert not (tmp_path / "run" / "report.html").exists()


@pytest.mark.parametrize("script", ["report.py", "show.py"])
def test_as_a_script_from_another_folder_without_a_framework(script, tmp_path):
    write_run(tmp_path / "run")
    blocked = tmp_path / "blocked"
    for name in ("torch", "tensorflow", "keras", "tensorboardX"):
        blocked.mkdir(exist_ok=True)
        (blocked / f"{name}.py").write_text(f"raise ImportError('{name} was imported')\n")
    done = subprocess.run(
        [sys.executable, ROOT / "search" / script, "run"],
        cwd=tmp_path, env={"PYTHONPATH": str(blocked)}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "run/report.html\n" if script == "report.py" else "predicted: " in done.stdout


def test_show_prices_a_network(tmp_path, capsys):
    assert show.main(["proxyless_mobile"]) == 0
    out = capsys.readouterr().out
    named(out, "320,427,584", "predicted: 85.17 ms by pixel1.json", "not measured")
    _, _, result, _ = write_run(tmp_path / "run")
    assert show.main([str(tmp_path / "run"), "--latency", str(ROOT / "hardware" / "tables" / "pixel1.json")]) == 0
    out = capsys.readouterr().out
    assert f"predicted: {Unit.MS.short(result['predicted_latency_ms'])} by" in out and "compare networks with it" in out


def test_show_prices_a_searched_network_as_its_search_did(tmp_path, capsys):
    folder, twice = tmp_path / "run", tmp_path / "twice.json"
    config, records, result, spec = write_run(folder)
    predictor = json.loads((ROOT / "hardware" / "tables" / "pixel1.json").read_text())
    net = predictor["net_calibration"]
    predictor["net_calibration"] = net | {name: 2 * net[name] for name in ("scale", "offset_ms")}
    write_json(twice, predictor)
    own_ms, pixel1_ms = 2 * result["predicted_latency_ms"], result["predicted_latency_ms"]
    write_json(folder / "config.json", config | {"latency_table": str(twice)})
    write_json(folder / "result.json", result | {"predicted_latency_ms": own_ms})
    last = records[-1] | {"argmax_cost": 2 * records[-1]["argmax_cost"]}
    (folder / "metrics.jsonl").write_text(json.dumps(last) + "\n")

    def shown(*words):
        assert show.main([str(word) for word in words]) == 0
        return capsys.readouterr().out

    by_pixel1 = f"predicted: {Unit.MS.short(pixel1_ms)} by pixel1.json"
    assert f"predicted: {Unit.MS.short(own_ms)} by {twice}; not measured\n" in shown(folder)
    assert by_pixel1 in shown(folder, "--latency", "pixel1")
    write_json(folder / "result.json", result | {"predicted_latency_ms": 1.25 * own_ms, "table_scale": 1.25})
    landed = shown(folder)
    named(landed, f"predicted: {Unit.MS.short(1.25 * own_ms)} by {twice} times 1.2500")
    assert re.search(rf"\ntotal .* {1.25 * own_ms:.2f}  100\.0 %\n", landed)
    write_json(folder / "result.json", result | {"predicted_latency_ms": own_ms})
    both = shown(folder, "proxyless_mobile")
    assert f"{own_ms:.2f} ms by {twice}" in both and "85.17 ms by pixel1.json" in both
    shutil.copy(twice, folder / "latency_table")  # what a run keeps of a table that is not shipped
    twice.unlink()
    assert f"predicted: {Unit.MS.short(own_ms)} by {folder / 'latency_table'}; not measured\n" in shown(folder)
    (folder / "latency_table").unlink()
    gone = shown(folder)
    assert by_pixel1 in gone and "\nnote: what priced" in gone and "\nnote: what priced" not in landed
    write_trained(tmp_path / "trained", spec, 50.0)
    assert by_pixel1 in shown(tmp_path / "trained")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["proxyless_mobile", "--latency", "pixel2"], "no such file"),
        (["proxyles_cpu"], "did you mean 'proxyless_cpu'?"),
    ],
)
def test_show_bad_words(words, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert show.main(words) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_show_is_a_script():
    words = [sys.executable, str(ROOT / "search" / "show.py"), "proxyless_gpu"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert "by pixel1.json; not measured" in done.stdout
