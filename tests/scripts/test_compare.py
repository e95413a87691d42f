"""benchmarks/compare_networks.py: who takes part, what is counted, how it is timed, what is written and shown."""

import json
import sys
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks import compare_networks as comparing
from benchmarks import comparison_picture
from benchmarks import published_networks as published
from benchmarks.comparison_scene import draw
from hardware.profile.measure import Times, parse_hardware
from proxyless_arch.arch import catalog
from proxyless_arch.arch.codec import write_spec
from proxyless_arch.arch.walk import total_macs, total_params
from proxyless_arch.base.cli import BAD_INPUT
from proxyless_nas.network import build
from tests.errors import error_line, named
from tests.search.tiny import tiny_space

needs_pytorchcv = pytest.mark.skipif(published.unavailable() is not None, reason=str(published.unavailable()))


@pytest.fixture(autouse=True)
def one_thread():
    """On a busy machine two threads that wait for each other take a hundred times as long."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def nets(tmp_path):
    """Two spec files, the first of a network with fewer operations than the second."""
    found = []
    for name, path in (("light", (3, 1, 4, 3)), ("heavy", (2, 2, 2, 2))):
        write_spec(tmp_path / f"{name}.json", replace(tiny_space().spec_for(path), name=name))
        found.append(str(tmp_path / f"{name}.json"))
    return found


@pytest.fixture
def without_pytorchcv(monkeypatch):
    monkeypatch.setitem(sys.modules, "pytorchcv", None)


def compare(tmp_path, *words):
    return comparing.main([*words, "--output", str(tmp_path / "out"), "--exports", str(tmp_path / "onnx")])


# Counting -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", catalog.names())
def test_the_counter_agrees_with_the_closed_form(name):
    spec = catalog.load(name)
    with torch.device("meta"):
        net = build(spec)
    for resolution in (224, 161):
        assert published.count_macs(net, resolution) == total_macs(spec, resolution)
    assert published.count_params(net) == total_params(spec)


# Exact parameters and MACs at 224 px. The papers say 4.2 M and 569 M; 3.4 M and 300 M; 6.9 M and 585 M (their released
# network, as this one: 6.1 M and 582 M); 3.9 M and 312 M; 3.5 M and 299 M; 21.8 M and 3.6 G.
COUNTS = {
    "mobilenetv1": (4_231_976, 568_740_352),
    "mobilenetv2": (3_503_872, 300_774_272),
    "mobilenetv2_14": (6_107_776, 582_195_824),
    "mnasnet_a1": (3_887_038, 311_579_072),
    "shufflenetv2_15": (3_503_624, 295_759_392),
    "resnet34": (21_797_672, 3_663_761_408),
}


@needs_pytorchcv
def test_the_foreign_networks_are_the_published_ones():
    assert set(COUNTS) == set(published.FOREIGN)
    for name in COUNTS:
        one = comparing.contender(name, 224)
        assert (one.params, one.macs) == COUNTS[name], name
        assert one.origin == "pytorchcv 0.0.67" and one.source and 70 < one.top1_percent < 76


@needs_pytorchcv
def test_folding_changes_nothing_and_no_activation_dies():
    """Denormal numbers would slow a network down."""
    for name in ("mobilenetv1", "mobilenetv2", "shufflenetv2_15", "mnasnet_a1"):
        foreign = published.FOREIGN[name]
        module = published.module_of(foreign)
        images = torch.randn(1, 3, 96, 96)
        with torch.no_grad():
            logits, folded = module(images), published.folded(module)(images)
        assert 1e-3 < logits.std() < 1e4, foreign.name
        assert torch.allclose(folded, logits, rtol=1e-4, atol=1e-4 * float(logits.std())), foreign.name
        again = published.module_of(foreign)
        assert all(map(torch.equal, module.state_dict().values(), again.state_dict().values())), foreign.name


# The command --------------------------------------------------------------------------------------------------------


def test_a_quick_comparison(nets, tmp_path, capsys):
    words = ["--quick", "--networks", "proxyless_mobile", "--also", *nets, "--resolution", "64"]
    assert compare(tmp_path, *words) == 0
    out = capsys.readouterr().out
    folder = tmp_path / "out"
    assert sorted(path.name for path in folder.iterdir()) == [
        f"cpu-onnxruntime-t1-b1-r64{s}" for s in (".json", ".png")
    ]
    record = json.loads((folder / "cpu-onnxruntime-t1-b1-r64.json").read_text())
    assert set(record) == {
        "format", "version", "environment", "load_average_end", "versions", "settings", "statistic", "reference",
        "drift", "networks", "command", "left_out",
    }  # fmt: skip
    assert record["command"].startswith("python benchmarks/compare_networks.py --quick --networks proxyless_mobile")
    facts = record["environment"]
    assert facts["runtime"] == "onnxruntime" and facts["threads"] == 1 and facts["clock"] == "thread_cpu"
    assert {"device", "runtime_version", "dtype", "os", "load_average", "date"} <= set(facts)
    assert record["reference"] is None and record["drift"]["anchor"] == "proxyless_mobile"
    assert [one["name"] for one in record["networks"]] == ["proxyless_mobile", "light", "heavy"]
    for one in record["networks"]:
        latency = one["latency_ms"]
        assert 0 < latency["low"] <= latency["median"] <= latency["high"]
        assert len(one["round_medians_ms"]) == record["drift"]["rounds_kept"] == comparing.QUICK.rounds
        assert one["ratio_to_reference"] is None and one["other_clock_ms"] > 0
    mobile, light, _ = record["networks"]
    assert mobile["macs"] == total_macs(catalog.load("proxyless_mobile"), 64)
    assert mobile["published_top1_percent"] == 74.6 and light["published_top1_percent"] is None
    assert light["latency_ms"]["median"] < mobile["latency_ms"]["median"]
    lines = out.splitlines()
    assert [word for word in ("network", "spread %", "top-1 %") if word not in lines[0]] == []
    row = next(line for line in lines if line.startswith("proxyless_mobile ")).split()
    assert row[1] == "4,080,512" and row[3] == f"{mobile['latency_ms']['median']:.2f}" and row[-1] == "74.6"
    assert next(line for line in lines if line.startswith("light ")).split()[-2:] == ["-", "-"]
    assert "published, not measured" in out and "measured: " in out and "load average" in out
    assert max(map(len, lines[:4])) <= 120 and all(line == line.rstrip() for line in lines)
    assert not (tmp_path / "onnx").exists()  # ours are built directly


def test_on_torch_without_a_published_accuracy(nets, tmp_path, capsys):
    words = ["--quick", "--rounds", "1", "--runtime", "torch", "--networks", "--also", *nets, "--resolution", "32"]
    assert compare(tmp_path, *words, "--batch", "2") == 0
    record = json.loads((tmp_path / "out" / "cpu-torch-t1-b2-r32.json").read_text())
    assert record["environment"]["memory_format"] == "channels_last" and record["settings"]["batch_size"] == 2
    assert not list((tmp_path / "out").glob("*.png"))  # nothing to draw
    assert ".png" not in capsys.readouterr().out


@needs_pytorchcv
def test_a_foreign_network_is_exported_once(tmp_path, capsys, monkeypatch):
    words = ["--quick", "--networks", "mobilenetv2", "proxyless_gpu", "--resolution", "64", "--rounds", "2"]
    assert compare(tmp_path, *words) == 0
    (kept,) = (tmp_path / "onnx").iterdir()
    assert kept.name.startswith("mobilenetv2-r64-b1-pytorchcv0.0.67-torch")
    assert str(tmp_path.parent).encode() not in kept.read_bytes()
    monkeypatch.setattr(published, "_export", None)
    assert compare(tmp_path, *words) == 0
    record = json.loads((tmp_path / "out" / "cpu-onnxruntime-t1-b1-r64.json").read_text())
    assert record["reference"] == record["drift"]["anchor"] == "mobilenetv2"
    mobile, gpu = record["networks"]
    assert mobile["ratio_to_reference"] == {"median": 1.0, "low": 1.0, "high": 1.0}
    expected = sorted(a / b for a, b in zip(gpu["round_medians_ms"], mobile["round_medians_ms"], strict=True))
    assert gpu["ratio_to_reference"]["median"] == pytest.approx(sum(expected) / 2, abs=1e-3)
    assert "x MobileNetV2 1.0" in capsys.readouterr().out


def test_without_pytorchcv_its_networks_are_left_out(without_pytorchcv):
    found, left_out = comparing.contenders(None, [], 64)
    assert tuple(one.name for one in found) == (*catalog.names(), *catalog.LAYOUTS)
    assert left_out == [foreign.label for foreign in published.FOREIGN.values()]


def test_the_line_that_names_the_extra(without_pytorchcv, nets, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(comparing, "NAMES", tuple(published.FOREIGN))
    assert compare(tmp_path, "--quick", "--also", *nets, "--resolution", "32") == 0
    first = capsys.readouterr().out.splitlines()[0]
    assert first.startswith("left out: MobileNetV1, ") and first.endswith("pip install -e '.[compare]'")
    record = json.loads((tmp_path / "out" / "cpu-onnxruntime-t1-b1-r32.json").read_text())
    assert "ResNet-34" in record["left_out"]


def test_another_version_of_pytorchcv_is_not_used(monkeypatch):
    monkeypatch.setattr(published.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(published.importlib.metadata, "version", lambda name: "0.0.74")
    named(published.unavailable(), "pytorchcv", "0.0.67", "0.0.74", "pip install -e '.[compare]'")


@pytest.mark.parametrize(
    ("words", "place", "values"),
    [
        (["--networks", "mobilnetv2"], "--networks", ["proxyless_cpu", "'mobilnetv2'", "'mobilenetv2'"]),
        (["--networks"], "--networks", ["at least one"]),
        (["--networks", "proxyless_cpu", "proxyless_cpu"], "--networks", ["two", "'proxyless_cpu'"]),
        (["--also", "nowhere.json"], "", ["'nowhere.json'"]),
        (["--runtime", "litert"], "--runtime", ["'onnxruntime'", "'torch'", "'litert'"]),
        (["--device", "tpu"], "--device", ["'cpu'", "'cuda'", "'tpu'"]),
        (["--threads", "0"], "--threads", ["integer", "1..1024", 0]),
        (["--batch", "-1"], "--batch_size", ["integer", "1..4096", -1]),
        (["--batch", "0"], "--batch_size", ["integer", "1..4096", 0]),
        (["--resolution", "31"], "--resolution", ["integer", "32..4096", 31]),
        (["--rounds", "0"], "--rounds", ["integer", "1..10000", 0]),
        (["--quikc"], "--quikc", ["'--quick'"]),
    ],
)
def test_bad_words_leave_nothing(words, place, values, tmp_path, capsys):
    assert compare(tmp_path, *words) == 2
    error = capsys.readouterr().err
    error_line(error, place, *values)
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_foreign_network_asked_for_by_name_needs_its_package(without_pytorchcv, tmp_path, capsys):
    assert compare(tmp_path, "--networks", "resnet34") == 2
    error_line(capsys.readouterr().err, "--networks", "resnet34", "pytorchcv", "pip install -e '.[compare]'")


def test_cuda_where_there_is_none(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert compare(tmp_path, "--device", "cuda") == 2
    assert "--device: torch" in capsys.readouterr().err


def test_an_interruption_leaves_no_half_record(nets, tmp_path, capsys, monkeypatch):
    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(comparing, "one_round", interrupt)
    assert compare(tmp_path, "--networks", "--also", *nets, "--resolution", "32") == 130
    assert not (tmp_path / "out").exists()


# Turns --------------------------------------------------------------------------------------------------------------


class Scripted:
    """A session of constant speed that slows down for a while."""

    def __init__(self, name, ms, calls, slow=range(0)):
        self.name, self.ms, self.calls, self.slow = name, ms, calls, slow

    def times(self, timings, inner=1):
        self.calls.append(self.name)
        ms = self.ms * (1.5 if len(self.calls) in self.slow else 1.0)
        return Times((ms,) * timings, (2 * ms,) * timings)


PROTOCOL = comparing.Protocol(rounds=3, runs=2, warmup=1, extra_rounds=2)


def test_every_round_times_everything_in_an_order_of_its_own():
    calls, order = [], []
    sessions = {name: Scripted(name, ms, calls) for name, ms in (("a", 3), ("b", 5), ("c", 7), ("d", 9))}
    rounds, repeated = comparing.take_turns(sessions, "a", PROTOCOL, order.append)
    assert repeated == 0 and len(rounds) == 3
    assert all(one.ms == {"a": 3, "b": 5, "c": 7, "d": 9} and one.drift == 0 for one in rounds)
    assert all(one.other_ms["d"] == 18 for one in rounds)
    turns = [tuple(order[start : start + 4]) for start in (0, 4, 8)]
    assert all(sorted(turn) == ["a", "b", "c", "d"] for turn in turns) and len(set(turns)) > 1
    again = []
    comparing.take_turns(sessions, "a", PROTOCOL, again.append)
    assert again == order


def test_a_round_in_which_the_anchor_drifts_is_repeated():
    # 9 timings of two calls each in a round, 4 networks and 5 anchors; the machine is slow in the second half of one
    calls = []
    sessions = {name: Scripted(name, 5, calls, range(10, 19)) for name in "abcd"}
    rounds, repeated = comparing.take_turns(sessions, "a", PROTOCOL, lambda name: None)
    assert repeated == 1 and all(one.drift == 0 for one in rounds)
    always = {name: Scripted(name, 5, [], range(2, 10_000, 3)) for name in "abcd"}
    rounds, repeated = comparing.take_turns(always, "a", PROTOCOL, lambda name: None)
    assert len(rounds) == 3 and repeated <= 2  # a machine that never rests ends as well


def test_torch_runs_on_the_threads_asked_for_whatever_the_process_has(tmp_path):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        runtime = comparing.runtime_named(parse_hardware("cpu"), "torch", 1)
        session = comparing.session_on(runtime, catalog.load("proxyless_mobile"), comparing.Conditions(1, 32), tmp_path)
        inside = []
        session._run = lambda: inside.append(torch.get_num_threads())
        session.times(1)
        assert (inside, torch.get_num_threads()) == ([1], 2)
    finally:
        torch.set_num_threads(before)


def test_times_are_given_at_the_anchor_s_median_speed():
    """The machine slows down all the time; ratios and times come out as on a steady one."""
    calls = []

    class Slowing(Scripted):
        def times(self, timings, inner=1):
            self.calls.append(self.name)
            return Times((self.ms * (1 + 0.002 * len(self.calls)),) * timings, ())

    own = {"a": 3, "b": 5, "c": 7, "d": 9}
    sessions = {name: Slowing(name, ms, calls) for name, ms in own.items()}
    rounds, _ = comparing.take_turns(sessions, "a", PROTOCOL, lambda name: None)
    contenders = [comparing.contender("proxyless_mobile", 224)._replace(name=name) for name in own]
    rows = {one.name: comparing.row(one, rounds, "a") for one in contenders}
    speed = rows["a"]["latency_ms"]["median"] / own["a"]
    assert speed > 1.05
    for name, ms in own.items():
        assert rows[name]["ratio_to_reference"]["median"] == pytest.approx(ms / own["a"], rel=2e-3)
        assert rows[name]["latency_ms"]["median"] == pytest.approx(speed * ms, rel=2e-3)
        assert rows[name]["spread_percent"] < 0.4
    assert any(abs(one.ms["d"] / (speed * own["d"]) - 1) > 0.02 for one in rounds)  # what the clock said


# The picture --------------------------------------------------------------------------------------------------------


def test_the_picture_has_every_network_with_a_published_accuracy(tmp_path):
    record = json.loads((Path(comparing.__file__).parent / "known_networks.json").read_text())
    unknown = record["networks"][0] | {"label": "unknown", "published_top1_percent": None}
    ours = record["networks"][3]
    ours["latency_ms"] |= {"low": 4.0, "high": 5.0}
    assert draw(record | {"networks": [*record["networks"], unknown]}, tmp_path / "x.svg")
    root = ElementTree.parse(tmp_path / "x.svg").getroot()
    words = {"".join(text.itertext()) for text in root.iter("{http://www.w3.org/2000/svg}text")}
    assert {one["label"] for one in record["networks"]} <= words and "unknown" not in words
    bars = [path for path in root.iter("{http://www.w3.org/2000/svg}path") if "bar" in path.get("class").split()]
    assert len(bars) == 1


@pytest.mark.parametrize(
    ("words", "place"),
    [(["net.json", "x.svg"], "net.json"), (["known.json", "x.gif"], "PICTURE"), (["known.json"], "")],
)
def test_the_picture_s_command_refuses(tmp_path, monkeypatch, capsys, words, place):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.json").write_text('{"networks": []}')
    (tmp_path / "known.json").write_text("{}")
    assert comparison_picture.main(words) == BAD_INPUT
    assert place in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["known.json", "net.json"]


def test_a_picture_of_nothing_is_not_drawn(tmp_path):
    assert not draw({"networks": [{"published_top1_percent": None}]}, tmp_path / "x.png")
    assert list(tmp_path.iterdir()) == []
