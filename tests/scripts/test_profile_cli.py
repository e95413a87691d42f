"""hardware/profile_latency.py as a person runs it: on this machine, killed and resumed, exported and imported."""

import json
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from hardware import profile_latency
from hardware.cost import latency_price, price_space
from hardware.latency import check_matches, load_latency_source
from hardware.profile import device as profiler
from hardware.profile import exported_ops
from hardware.table import LookupTable
from proxyless_arch.base.cli import command_line
from search import imagenet_arch_search
from search.run import job as jobs
from tests.errors import error_line, named
from tests.hardware.fake_device import FakeDevice
from tests.hardware.profile.test_profile import log

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "search" / "profile_latency.py"
SMALL = ["--space", "tiny", "--resolution", "16", "--num_classes", "10", "--quick", "--rounds", "1",
         "--design_nets", "20", "--validation_nets", "40"]  # fmt: skip


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
    assert re.search(rf"resumed +{len(kept) - 1} timings", out)

    # on a busy machine the gate may close, but the files are there and say so
    table = load_latency_source(folder / "table.json")
    assert isinstance(table, LookupTable)
    assert status == (0 if table.validation["passed"] else 1)
    assert ("NOT GOOD ENOUGH" in out) == (not table.validation["passed"])
    if status == 0:
        assert f"search/imagenet_arch_search.py --target_hardware cpu --latency_table {folder}/table.json" in out
    facts = table.provenance
    assert (facts["runtime"], facts["threads"], facts["batch_size"], facts["resolution"]) == ("onnxruntime", 1, 1, 16)
    assert facts["method"] in ("in_network", "isolated")
    assert facts["device"] and facts["date"] and facts["runtime_version"] and facts["anchor_ms"] > 0
    wanted = {name: facts[name] for name in ("device", "runtime", "threads", "batch_size", "dtype", "resolution")}
    check_matches(facts, wanted, "table.json")
    space = profile_latency.space_of("tiny", 1.0, 16, 10)
    costs = price_space(space, latency_price(table))
    assert 0 < costs.minimum < costs.maximum < 100
    record = json.loads((folder / "validation.json").read_text())
    assert record["figures"].keys() >= {"in_network", "isolated"}
    assert [network["role"] for network in record["networks"]] == ["calibration"] * 10 + ["score"] * 30
    assert (folder / "validation.png").read_bytes().startswith(b"\x89PNG")


EXPORT = ["--space", "tiny", "--num_classes", "10", "--resolution", "16", "--width_mult", "0.5",
          "--export_networks", "20", "--quick"]  # fmt: skip


def time_export(folder, *words):
    """run.py in the folder of an export: 3 timings of each of 40 operations and 20 networks per round."""
    words = [sys.executable, "run.py", "--runs", "3", "--warmup", "1", "--min_ms", "0.2", *words]
    return subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=90)


@pytest.mark.parametrize("runtime", ["onnxruntime", "litert"])
def test_an_export_is_timed_by_its_own_runner_and_imported(tmp_path, capsys, runtime):
    folder, out = tmp_path / "phone", tmp_path / "out"
    assert profile_latency.main([*EXPORT, "--export_ops", str(folder)]) == 0
    said = capsys.readouterr().out
    size = sum(path.stat().st_size for path in folder.iterdir() if path.suffix in (".onnx", ".tflite"))
    named(said, "40 operations", "20 networks", ".onnx", ".tflite", f"{size / 1e6:.0f} MB")
    assert "python run.py --runtime onnxruntime (or) --runtime litert" in said
    done = time_export(folder, "--runtime", runtime, "--rounds", "2")
    assert done.returncode == 0, done.stderr
    results = folder / f"results-{runtime}.csv"
    rows = [line.split(",")[:3] for line in results.read_text().splitlines()[2:]]
    files = [f"op-{n:03d}" for n in range(40)] + [f"net-{n:03d}" for n in range(20)]
    assert sorted(rows) == sorted([file, str(r), str(n)] for file in files for r in range(2) for n in range(3))
    again = time_export(folder, "--runtime", runtime, "--rounds", "2")
    assert again.returncode == 0 and "round" not in again.stderr  # nothing was left to do
    words = ["--import_results", str(results), "--device_name", "my phone", "--output", str(out)]
    assert profile_latency.main(words) == profile_latency.FAILED_GATE
    table = load_latency_source(out / "table.json")
    assert table.validation["passed"] is False
    named(table.validation["reasons"][-1], "10 networks", 30)
    facts = table.provenance
    assert (facts["device"], facts["runtime"], facts["threads"], facts["method"]) == (
        "my phone",
        runtime,
        1,
        "isolated",
    )
    assert (facts["width_mult"], facts["rounds"], table.n_nets) == (0.5, 2, 10)
    price_space(profile_latency.space_of("tiny", 0.5, 16, 10), latency_price(table))


def test_the_log_of_a_loop_over_benchmark_model_is_imported(tmp_path, capsys):
    """README's loop for Android, with a stand-in whose microseconds are the bytes of the file."""
    assert profile_latency.main([*EXPORT, "--export_ops", str(tmp_path / "phone"), "--runtime", "litert"]) == 0
    tool = tmp_path / "benchmark_model"
    says = log("$stem", "$avg", folder="")
    tool.write_text(
        f'#!/bin/sh\ngraph=${{1#--graph=}}\nstem=${{graph%.tflite}}\navg=$(wc -c < "$graph")\ncat <<END\n{says}END\n'
    )
    tool.chmod(0o755)
    loop = "for f in phone/*.tflite; do ./benchmark_model --graph=$f --num_threads=1 --num_runs=50; done 2>&1"
    done = subprocess.run(["sh", "-c", loop], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    results, out = tmp_path / "phone" / "benchmark.log", tmp_path / "out"
    results.write_text(done.stdout)
    capsys.readouterr()
    assert profile_latency.main(["--import_results", str(results), "--output", str(out)]) == 2
    error_line(capsys.readouterr().err, "--device_name")
    words = ["--import_results", str(results), "--device_name", "my phone", "--output", str(out)]
    assert profile_latency.main(words) == profile_latency.FAILED_GATE  # these few networks cannot vouch for it
    table = load_latency_source(out / "table.json")
    cases = exported_ops.read_manifest(tmp_path / "phone" / "manifest.json").cases
    wanted = {name: (tmp_path / "phone" / f"{stem}.tflite").stat().st_size / 1000 for stem, name in cases.items()}
    networks = json.loads((out / "validation.json").read_text())["networks"]
    found = {str(key): timing.ms for key, timing in table.entries.items()}
    found |= {f"net {'.'.join(map(str, network['path']))}": network["measured_ms"] for network in networks}
    assert found == pytest.approx(wanted) and len(found) == 60
    facts = table.provenance
    assert (facts["runtime"], facts["threads"], facts["clock"], facts["source"]) == (
        "litert", 1, "wall", "benchmark.log")  # fmt: skip


def test_the_runner_goes_on_where_it_was_cut_off_and_under_the_same_conditions_alone(tmp_path, capsys):
    folder = tmp_path / "phone"
    assert profile_latency.main([*EXPORT, "--export_ops", str(folder), "--runtime", "litert"]) == 0
    assert "as .tflite: " in capsys.readouterr().out and not list(folder.glob("*.onnx"))
    missing = time_export(folder)
    assert missing.returncode == 1
    named(missing.stderr, "60 of 60", ".onnx")
    litert = ("--runtime", "litert", "--rounds", "1")
    results = folder / "results-litert.csv"
    assert time_export(folder, *litert).returncode == 0
    lines = results.read_bytes().splitlines(keepends=True)
    kept = b"".join(lines[: 2 + 3 * 30])
    results.write_bytes(kept + lines[2 + 3 * 30][:9])  # killed in the middle of a line
    cut = results.read_bytes()
    refused = time_export(folder, *litert, "--threads", "2")
    assert refused.returncode == 1
    named(refused.stderr, "results-litert.csv", "(threads 1, now 2)")
    (folder / "thesis.txt").write_text("precious")
    named(time_export(folder, *litert, "--output", "thesis.txt").stderr, "thesis.txt", "no results")
    assert results.read_bytes() == cut and (folder / "thesis.txt").read_text() == "precious"

    assert time_export(folder, *litert).returncode == 0
    assert results.read_bytes().startswith(kept)
    manifest = exported_ops.read_manifest(folder / "manifest.json")
    found = exported_ops.read_results(results, manifest)
    assert found.cases.keys() == set(manifest.cases.values())
    assert {measured.n for measured in found.cases.values()} == {3}

    # the files of another export have the same names
    assert profile_latency.main([*EXPORT, "--seed", "1", "--export_ops", str(folder), "--runtime", "litert"]) == 0
    assert "other conditions (export " in time_export(folder, *litert).stderr
    capsys.readouterr()
    assert profile_latency.main(["--import_results", str(results), "--output", str(tmp_path / "out")]) == 2
    error_line(capsys.readouterr().err, "export", "manifest's", source=results)
    assert not (tmp_path / "out").exists()


def test_the_runner_needs_numpy_and_the_runtime_alone():
    imported = {
        line.split()[1].split(".")[0]
        for line in (ROOT / "hardware" / "profile" / "standalone_runner.py").read_text().splitlines()
        if line.lstrip().startswith(("import ", "from "))
    }
    assert {name for name in imported if name not in sys.stdlib_module_names} == {
        "numpy",
        "onnxruntime",
        "ai_edge_litert",
    }


@pytest.mark.parametrize(
    ("words", "place", "values"),
    [
        (["--target_hardware", "tpu"], "--target_hardware", ["cpu", "gpu", "'tpu'"]),
        (["--runtime", "litret"], "--runtime", ["onnxruntime", "litert", "torch", "'litret'", "'litert'"]),
        (["--threads", "0"], "--threads", ["1..", 0]),
        (["--batch_size", "0", "--space", "tiny"], "--batch_size", ["1..4096", 0]),
        (["--target_hardware", "gpu8", "--batch_size", "4"], "--batch_size", ["gpu8"]),
        (["--space", "imagnet"], "--space", ["'imagnet'", "'imagenet'"]),
        (["--target_hardware", "mobile"], "--target_hardware", ["--export_ops", "--import_results"]),
        (["--width_mult", "0"], "--width_mult", ["0.05..10"]),
        (["--resolution", "4"], "--resolution", ["8..4096", 4]),
        (["--method", "guess"], "--method", ["in_network", "isolated", "'guess'"]),
        (["--validation_nets", "5"], "--validation_nets", ["20..10000", 5]),
        (["--validation_nets", "39"], "--validation_nets", ["40..10000", 39, 10, 30]),
        (["--export_ops", "absent", "--export_networks", "39"], "--export_networks", ["40..1000", 39, 10, 30]),
        (["--rounds", "0"], "--rounds", ["1..100", 0]),
        (["--import_results", "absent.csv"], "--import_results", ["manifest.json", "--manifest"]),
        (["--runtime", "torch", "--export_ops", "out"], "--runtime", ["onnxruntime", "litert", "'torch'"]),
        (["--quik"], "--quik", ["'--quick'"]),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(tmp_path, monkeypatch, capsys, words, place, values):
    monkeypatch.chdir(tmp_path)
    assert profile_latency.main([*words, "--output", str(tmp_path / "out")]) == 2
    captured = capsys.readouterr()
    error_line(captured.err, place, *values)
    assert captured.err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_cuda_asked_for_and_absent(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert profile_latency.main(["--target_hardware", "gpu8", "--output", str(tmp_path / "out")]) == 2
    error_line(capsys.readouterr().err, "--target_hardware", "CUDA", torch.__version__)


def test_a_folder_of_other_conditions_is_left_alone(tmp_path, capsys):
    (tmp_path / "raw.jsonl").write_text('{"format": "proxyless-latency/raw", "version": 2, "conditions": {}}\n')
    assert profile_latency.main([*SMALL, "--output", str(tmp_path)]) == 2
    error_line(capsys.readouterr().err, "", "batch_size None, now 1", "--fresh", source=tmp_path / "raw.jsonl")
    assert [path.name for path in tmp_path.iterdir()] == ["raw.jsonl"]


# On a simulated device ----------------------------------------------------------------------------------------------

TINY = ["--space", "tiny", "--resolution", "16", "--width_mult", "0.5", "--num_classes", "10", "--quick"]


@pytest.fixture
def profiled(tmp_path, monkeypatch):
    """``profiled(words, day, **facts)``: (exit status, the simulated device, table.json) of one command on a day."""

    def run(words, day, **settings):
        device = FakeDevice(noise=0.005, **settings)
        facts = device.facts() | {"runtime": "onnxruntime", "date": day, "load_average": [len(day)]}
        device.facts = lambda: facts
        monkeypatch.setattr(profiler, "runtime_named", lambda *wanted: device)
        status = profile_latency.main([*words, "--output", str(tmp_path / "lat")])
        table = tmp_path / "lat" / "table.json"
        return status, device, json.loads(table.read_text()) if table.exists() else None

    return run


def test_a_table_says_when_its_timings_were_taken(profiled, tmp_path, capsys):
    with_date = profiled(TINY, "Monday")
    assert with_date[0] == 0 and with_date[1].n_sessions > 0
    again = profiled(TINY, "on Tuesday")
    assert again[1].n_sessions == 0
    assert again[2] == with_date[2]
    assert (again[2]["provenance"]["date"], again[2]["provenance"]["load_average"]) == ("Monday", [6])
    capsys.readouterr()

    # timings of another protocol are not taken over; more rounds of the same one are added
    status, device, _ = profiled([word for word in TINY if word != "--quick"], "on Tuesday")
    assert (status, device.n_sessions) == (2, 0)
    error_line(capsys.readouterr().err, "", "runs 6, now 10", "--fresh", source=tmp_path / "lat" / "raw.jsonl")
    status, more, table = profiled([*TINY, "--rounds", "3"], "on Tuesday")
    assert status == 0 and 0 < more.n_sessions < with_date[1].n_sessions
    assert (table["provenance"]["rounds"], table["provenance"]["date"]) == (3, "Monday")

    # --fresh measures everything, and keeps what was there
    kept = (tmp_path / "lat" / "raw.jsonl").read_bytes()
    status, fresh, table = profiled([*TINY, "--fresh"], "on Tuesday")
    assert status == 0 and fresh.n_sessions == with_date[1].n_sessions
    assert table["provenance"]["date"] == "on Tuesday"
    assert [path.read_bytes() for path in (tmp_path / "lat").glob("raw-*.jsonl")] == [kept]
    capsys.readouterr()

    # after an interruption the command that goes on does not begin anew
    assert profiled([*TINY, "--fresh"], "today", stop_after=5)[0] == 130
    assert "--fresh" not in capsys.readouterr().err
    assert len(list((tmp_path / "lat").glob("raw-*.jsonl"))) == 2


def test_the_command_that_is_printed_is_one_that_the_search_takes(profiled, tmp_path, monkeypatch, capsys):
    _, device, _ = profiled(TINY, "Monday")
    printed = capsys.readouterr().out
    line = printed.split("now search for it:\n")[1].splitlines()[0]
    words = shlex.split(line)
    start = ["--target_hardware", "cpu", "--latency_table", str(tmp_path / "lat" / "table.json"), "--space", "tiny"]
    script = shlex.split(command_line("search/imagenet_arch_search.py"))
    assert words == [*script, *start, "--width_mult", "0.5", "--resolution", "16",
                     "--runtime", "onnxruntime", "--latency_threads", "1"]  # fmt: skip
    named(printed, "10 classes")
    monkeypatch.setattr("hardware.profile.pricing.runtime_named", lambda *wanted: device)
    settings = imagenet_arch_search.effective_config(imagenet_arch_search.parse(words[2:]))
    job = jobs.prepare(settings, torch.device("cpu"))
    assert job.prices.device is not None and job.table.extrapolated == ()


def test_too_few_networks_do_not_vouch(profiled, capsys):
    status, _, table = profiled([*TINY, "--validation_nets", "39"], "Monday")
    assert status == 1 and table["validation"]["passed"] is False
    assert table["validation"]["n"] == 29
    printed = capsys.readouterr().out
    named(printed, "29 networks", 30, "--validation_nets 40")
    assert "now search for it" not in printed
