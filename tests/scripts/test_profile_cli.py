"""search/profile_latency.py as a person runs it: on this machine, killed and resumed, exported and imported."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from search import profile_latency
from search.cost_table import latency_cost_table
from search.latency import LookupTable, check_matches, load_latency_source

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "search" / "profile_latency.py"
SMALL = ["--space", "tiny", "--num_classes", "10", "--quick", "--rounds", "1", "--design_nets", "20",
         "--validation_nets", "20"]  # fmt: skip


def lines_of(raw):
    return raw.read_bytes().splitlines(keepends=True) if raw.exists() else []


def test_a_killed_profile_goes_on_and_makes_a_table(tmp_path, capsys):
    folder = tmp_path / "lat"
    words = [sys.executable, str(SCRIPT), *SMALL, "--output", str(folder)]
    raw = folder / "raw.jsonl"
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=tmp_path)
    try:
        end = time.monotonic() + 60
        while len(lines_of(raw)) < 30 and time.monotonic() < end:
            assert process.poll() is None, "ended before it could be killed"
            time.sleep(0.02)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    kept = [line for line in lines_of(raw) if line.endswith(b"\n")]
    assert len(kept) >= 30

    status = profile_latency.main([*SMALL, "--output", str(folder)])
    out = capsys.readouterr().out
    assert lines_of(raw)[: len(kept)] == kept  # what was measured was not measured again, nor lost
    assert f"resumed    {len(kept) - 1} timings are there already" in out

    # on a busy machine the gate may close, but the files are there and say so
    table = load_latency_source(folder / "table.json")
    assert isinstance(table, LookupTable)
    assert status == (0 if table.validation["passed"] else 1)
    assert ("NOT GOOD ENOUGH" in out) == (not table.validation["passed"])
    if status == 0:
        assert f"python search/imagenet_arch_search.py --target_hardware cpu --latency_table {folder}/table.json" in out
    facts = table.provenance
    assert (facts["runtime"], facts["threads"], facts["batch_size"], facts["resolution"]) == ("onnxruntime", 1, 1, 16)
    assert facts["method"] in ("in_network", "isolated")
    assert facts["device"] and facts["date"] and facts["runtime_version"] and facts["anchor_ms"] > 0
    wanted = {name: facts[name] for name in ("device", "runtime", "threads", "batch_size", "dtype", "resolution")}
    check_matches(facts, wanted, "table.json")
    space = profile_latency.space_of("tiny", 1.0, 16, 10)
    costs = latency_cost_table(space, table)
    assert 0 < costs.minimum < costs.maximum < 100
    record = json.loads((folder / "validation.json").read_text())
    assert record["figures"].keys() >= {"in_network", "isolated"}
    assert [network["role"] for network in record["networks"]] == ["calibration"] * 10 + ["score"] * 10
    assert (folder / "validation.png").read_bytes().startswith(b"\x89PNG")


def test_an_export_is_timed_by_its_own_runner_and_imported(tmp_path, capsys):
    folder = tmp_path / "phone"
    settings = ["--space", "tiny", "--num_classes", "10", "--width_mult", "0.5"]
    assert profile_latency.main([*settings, "--export_ops", str(folder), "--export_networks", "20"]) == 0
    assert "python run.py --runtime onnxruntime" in capsys.readouterr().out
    words = [sys.executable, "run.py", "--rounds", "2", "--runs", "3", "--warmup", "1", "--min_ms", "0.2"]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=90)
    assert done.returncode == 0, done.stderr
    results = folder / "results-onnxruntime.csv"
    again = subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=90)
    assert again.returncode == 0 and "round" not in again.stderr  # nothing was left to do
    status = profile_latency.main(["--import_results", str(results), "--output", str(tmp_path / "out")])
    table = load_latency_source(tmp_path / "out" / "table.json")
    assert status == (0 if table.validation["passed"] else 1)
    assert table.provenance["method"] == "isolated"
    assert (table.provenance["runtime"], table.provenance["width_mult"]) == ("onnxruntime", 0.5)
    assert table.n_nets == 10
    latency_cost_table(profile_latency.space_of("tiny", 0.5, 16, 10), table)


def test_the_runner_needs_numpy_and_the_runtime_alone():
    imported = {
        line.split()[1].split(".")[0]
        for line in (ROOT / "search" / "standalone_runner.py").read_text().splitlines()
        if line.lstrip().startswith(("import ", "from "))
    }
    assert {name for name in imported if name not in sys.stdlib_module_names} == {
        "numpy",
        "onnxruntime",
        "ai_edge_litert",
    }


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--target_hardware", "tpu"], "--target_hardware: expected cpu, or gpu and a batch size"),
        (
            ["--runtime", "litret"],
            "--runtime: expected onnxruntime, litert or torch, got 'litret'; did you mean 'litert'?",
        ),
        (["--threads", "0"], "--threads: expected 1.."),
        (["--batch_size", "0", "--space", "tiny"], "--batch_size: expected 1..4096, got 0"),
        (["--target_hardware", "gpu8", "--batch_size", "4"], "--batch_size: the batch size of gpu8 is in its name"),
        (["--space", "imagnet"], "macro: expected 'imagenet', 'small' or 'tiny', got 'imagnet'; did you mean"),
        (["--width_mult", "0"], "width_mult: expected a number in 0.05..10"),
        (["--resolution", "4"], "--resolution: expected 8..4096, got 4"),
        (["--method", "guess"], "--method: expected in_network or isolated, got 'guess'"),
        (["--validation_nets", "5"], "--validation_nets: expected 20..10000, got 5"),
        (["--rounds", "0"], "--rounds: expected 1..100, got 0"),
        (["--import_results", "absent.csv"], "no such file (in manifest.json)"),
        (["--quik"], "--quik: unknown argument; did you mean '--quick'?"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    assert profile_latency.main([*words, "--output", str(tmp_path / "out")]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ") and captured.err.count("\n") == 1
    assert message in captured.err
    assert not (tmp_path / "out").exists()


def test_cuda_asked_for_and_absent(tmp_path, monkeypatch, capsys):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert profile_latency.main(["--target_hardware", "gpu8", "--output", str(tmp_path / "out")]) == 2
    assert "CUDA asked for, but torch" in capsys.readouterr().err


def test_a_folder_of_other_conditions_is_left_alone(tmp_path, capsys):
    (tmp_path / "raw.jsonl").write_text('{"format": "proxyless-latency/raw", "version": 2, "conditions": {}}\n')
    assert profile_latency.main([*SMALL, "--output", str(tmp_path)]) == 2
    assert "holds the timings of other conditions" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["raw.jsonl"]
