"""Profile, fit, validate: on a simulated device whose every time is known, and on hostile files."""

import json
import math
import re
from dataclasses import replace

import numpy as np
import pytest

from hardware.cost import latency_price, price_space
from hardware.latency import check_matches, load_latency_source, network_ms
from hardware.profile import exported_ops, profiling
from hardware.profile.fit import NetErrors
from hardware.profile.profiling import (
    Anchor,
    Bench,
    Measured,
    Plan,
    Protocol,
    RawLog,
    judge,
    sample_paths,
    unique_ops,
)
from hardware.table import layer_key
from proxyless_arch.arch.spec import Preprocessing
from proxyless_arch.arch.walk import walk
from proxyless_arch.space.mbconv import TINY, mbconv_space
from tests.errors import named, refused
from tests.hardware.fake_device import FakeDevice

SPACE = mbconv_space(macro=TINY, num_classes=10, preprocessing=Preprocessing(resolution=16, resize=16))
PROTOCOL = Protocol(rounds=3, runs=5, warmup=1, min_ms=0.0, design_nets=90, validation_nets=40, extra_rounds=1)
CONDITIONS = {"device": "simulated", "batch_size": 1, "resolution": 16}


def profiled(device, folder, protocol=PROTOCOL, method="in_network"):
    plan = Plan.of(SPACE, protocol, method)
    with RawLog(folder / "raw.jsonl", CONDITIONS) as log:
        bench = Bench(Anchor(device, SPACE, 1, protocol.anchor_runs, protocol.min_ms), log, protocol)
        return profiling.profile(bench, plan, device.facts() | CONDITIONS), plan


def unseen(device, outcome, count=60):
    """(predicted, true) of networks that were not measured at all."""
    paths = sample_paths(SPACE, count, np.random.default_rng(99))
    calls = [walk(SPACE.spec_for(path)) for path in paths]
    return np.array([network_ms(outcome.table, c) for c in calls]), np.array([device.true_ms(c) for c in calls])


# The simulated device -----------------------------------------------------------------------------------------------


def test_without_noise_the_networks_give_the_table_exactly(tmp_path):
    device = FakeDevice()
    outcome, plan = profiled(device, tmp_path)
    predicted, true = unseen(device, outcome)
    np.testing.assert_allclose(predicted, true, rtol=5e-3)
    assert outcome.verdict.passed and outcome.noise == outcome.drift == 0
    # what networks tell apart: the differences between the choices of a block
    for block in range(SPACE.n_edges):
        calls = [walk(SPACE.spec_for((0,) * block + (j,) + (0,) * (SPACE.n_edges - block - 1)))[2 + block]
                 for j in range(6)]  # fmt: skip
        ours, truth = (np.array([price(call) for call in calls]) for price in (outcome.table.price_ms, device.cost_ms))
        np.testing.assert_allclose(ours - ours.mean(), truth - truth.mean(), atol=0.06 * truth.mean())
    assert set(outcome.table.entries) == set(plan.ops)


def test_noise_passes_the_gate_and_networks_beat_isolated_layers(tmp_path):
    device = FakeDevice(noise=0.02, isolated_error=0.4)
    outcome, _ = profiled(device, tmp_path)
    assert outcome.verdict.passed
    assert outcome.method == "in_network"
    assert outcome.chosen.errors.mape < 2 < outcome.priced["isolated"].errors.mape
    assert 0.002 < outcome.noise < 0.02
    predicted, true = unseen(device, outcome)
    assert 100 * np.abs(predicted / true - 1).mean() < 2
    # the figures are those of networks that were not used
    assert outcome.chosen.errors.n == 30
    assert outcome.table.validation["methods"].keys() == {"in_network", "isolated", "predictor"}


def test_networks_timed_while_something_else_ran_do_not_bend_the_table():
    device = FakeDevice(isolated_error=0.3)
    rng = np.random.default_rng(0)
    paths = sample_paths(SPACE, 120, rng)
    calls = [walk(SPACE.spec_for(path)) for path in paths]
    true = np.array([device.true_ms(c) for c in calls])
    disturbed = true * np.where(rng.random(120) < 0.1, 1.4, 1.0) * (1 + 0.003 * rng.standard_normal(120))
    isolated = {key: device.true_ms([call]) for key, call in unique_ops(SPACE).items()}
    found = profiling.solve(isolated, calls[:80], disturbed[:80])
    ours = [sum(found.ms[key] for key in map(layer_key, c) if key is not None) + found.offset_ms for c in calls[80:]]
    assert 100 * np.abs(ours / true[80:] - 1).mean() < 1.5


NETWORK = walk(SPACE.spec_for((0,) * SPACE.n_edges))


def test_a_derived_network_is_measured_like_the_table():
    device = FakeDevice(noise=0.01)
    found = profiling.measure_network(Anchor(device, SPACE, 1), NETWORK)
    assert found.ms == pytest.approx(device.true_ms(NETWORK), rel=0.01)
    assert found.rounds >= 7 and found.n == 10 * found.rounds and device.n_sessions == found.rounds + 1
    assert found.other_ms == pytest.approx(2 * found.ms, rel=0.01)
    assert 0 < found.noise <= 0.005


def test_a_noisy_network_is_measured_for_longer():
    found = [profiling.measure_network(Anchor(FakeDevice(noise=n), SPACE, 1), NETWORK) for n in (0.005, 0.04, 0.5)]
    assert [one.rounds for one in found][::2] == [7, 40]
    assert 7 < found[1].rounds < 40
    assert found[2].noise > 0.005  # the rounds ended first, and the record says so


def test_a_network_is_given_at_the_speed_of_the_table():
    """The machine is a quarter slower now than when the table was measured, and slows further while it is timed."""
    then = FakeDevice()
    reference_ms = Anchor(then, SPACE, 1).ms()
    now = FakeDevice(slower=0.25, drift=2e-4)
    found = profiling.measure_network(Anchor(now, SPACE, 1), NETWORK, reference_ms)
    assert found.ms == pytest.approx(then.true_ms(NETWORK), rel=2e-3)
    assert found.raw_ms > 1.25 * found.ms
    assert found.anchor_ms > 1.25 * reference_ms


def test_timings_are_taken_at_the_anchor_s_median_speed(tmp_path):
    """A machine that slows down by half over the measurement, and by a tenth in a round, gives the same table."""
    steady, slowing = (profiled(FakeDevice(drift=d), tmp_path / str(d))[0] for d in (0.0, 1e-4))
    assert slowing.drift > 0.05
    paths = sample_paths(SPACE, 40, np.random.default_rng(7))
    ours, true = (np.array([network_ms(o.table, walk(SPACE.spec_for(p))) for p in paths]) for o in (slowing, steady))
    # one factor for all: the median speed is not that of the start
    np.testing.assert_allclose(ours / true, np.median(ours / true), rtol=5e-3)
    assert slowing.chosen.errors.mape < 0.5
    # landing takes this for the anchor's time at the table's speed
    anchor = walk(SPACE.spec_for((1,) * SPACE.n_edges))
    assert network_ms(slowing.table, anchor) == pytest.approx(slowing.table.provenance["anchor_ms"], rel=5e-3)


def test_isolated_alone_is_calibrated_on_networks(tmp_path):
    device = FakeDevice(noise=0.005, isolated_error=0.05)
    outcome, plan = profiled(device, tmp_path, method="isolated")
    assert (outcome.method, plan.design, outcome.solution) == ("isolated", (), None)
    assert outcome.verdict.passed
    assert outcome.table.offset_ms == pytest.approx(device.overhead_ms, abs=0.3)
    assert outcome.table.n_nets == 10


def test_isolated_layers_make_the_table_where_they_predict_better(tmp_path):
    """Exact layers in isolation: solving has nothing to add to them."""
    few = replace(PROTOCOL, design_nets=30)
    outcome, _ = profiled(FakeDevice(noise=0.02, isolated_error=0.0, interaction=0.03), tmp_path, few)
    assert outcome.solution.cv_mape > 0.9 * outcome.solution.isolated_cv_mape
    assert outcome.method == outcome.table.provenance["method"] == "isolated"
    assert set(outcome.priced) >= {"isolated", "in_network"}


def test_drift_is_detected_repeated_and_named(tmp_path):
    # 5 timings and a warm-up per case: 130 networks and their anchors are some 900 timings per round
    outcome, _ = profiled(FakeDevice(noise=0.005, drift=3e-4), tmp_path)
    assert outcome.drift > 0.1
    assert outcome.table.provenance["repeated_rounds"] == PROTOCOL.extra_rounds  # of the networks; layers are quick
    assert outcome.table.provenance["anchor_drift_pct"] > 10


def test_a_drifting_machine_that_fails_is_told_why():
    verdict = judge(NetErrors(30, 1, 7.0, 0, 0.9, 0.8), noise=0.01, drift=0.18, rounds=3)
    assert not verdict.passed
    mape, tau, drift = verdict.reasons
    named(mape, "MAPE", "7.0 %", "5 %")
    named(tau, "tau", "0.800", "0.9")
    named(drift, "drift", "18.0 %", "10 %")


def test_a_non_additive_runtime_fails_and_is_told_why(tmp_path):
    outcome, _ = profiled(FakeDevice(noise=0.005, interaction=0.25), tmp_path)
    assert not outcome.verdict.passed
    assert "non-additive runtime" in [reason.split(":")[0] for reason in outcome.verdict.reasons]
    assert outcome.table.validation["passed"] is False


def test_a_machine_too_noisy_fails_and_is_told_why(tmp_path):
    outcome, _ = profiled(FakeDevice(noise=0.6), tmp_path)
    assert not outcome.verdict.passed
    (reason,) = (reason for reason in outcome.verdict.reasons if reason.startswith("too few rounds:"))
    named(reason, PROTOCOL.rounds)


def test_the_gate_at_its_edges():
    good = NetErrors(30, 0.1, 5.0, 0.0, 0.99, 0.9)
    assert judge(good, 0.001, 0.2, 3).passed
    assert not judge(good._replace(mape=5.001), 0.001, 0.0, 3).passed
    assert not judge(good._replace(kendall=0.899), 0.001, 0.0, 3).passed
    assert judge(good._replace(mape=9.0), 0.0, 0.0, 1).reasons[1].startswith("too few rounds:")


def test_fewer_than_thirty_scored_networks_do_not_pass():
    verdict = judge(NetErrors(29, 0.1, 1.0, 0.0, 1.0, 1.0), 0.001, 0.0, 3)
    assert not verdict.passed
    named(verdict.reasons[0], 29, 30, "--validation_nets 40")


# What is measured ---------------------------------------------------------------------------------------------------


def test_networks_cover_the_range_and_do_not_repeat():
    space = mbconv_space()
    paths = sample_paths(space, 80, np.random.default_rng(0))
    assert len(set(paths)) == 80
    price = FakeDevice().true_ms
    plain, tilted = ([price(walk(space.spec_for(path))) for path in paths[part::2]] for part in (0, 1))
    assert np.std(tilted) > 1.5 * np.std(plain)
    assert sample_paths(space, 80, np.random.default_rng(0)) == paths


def test_validation_networks_are_not_solved_from_and_do_not_depend_on_the_method():
    plans = [Plan.of(SPACE, PROTOCOL, method) for method in ("in_network", "isolated")]
    assert plans[0].validation == plans[1].validation
    assert not set(plans[0].validation) & set(plans[0].design)
    assert len(plans[0].design) == 90


def test_the_table_prices_its_space_and_survives_the_file(tmp_path):
    device = FakeDevice(noise=0.01)
    outcome, plan = profiled(device, tmp_path)
    outcome.table.save(tmp_path / "table.json")
    table = load_latency_source(tmp_path / "table.json")
    assert table == replace(outcome.table, source=str(tmp_path / "table.json"))
    assert (table.scale, table.offset_ms, table.n_nets) == (outcome.table.scale, outcome.table.offset_ms, 100)
    costs = price_space(SPACE, latency_price(table))
    for path, predicted in zip(plan.validation, outcome.chosen.predicted_ms, strict=True):
        assert costs.of_path(path) == pytest.approx(predicted)
        assert network_ms(table, walk(SPACE.spec_for(path))) == pytest.approx(predicted)
    for key in ("device", "runtime", "threads", "dtype", "method", "statistic", "rounds", "runs_per_round", "warmup",
                "anchor_drift_pct", "batch_size", "resolution"):  # fmt: skip
        assert table.provenance[key] is not None, key
    if outcome.predictor is not None:
        (tmp_path / "predictor.json").write_text(json.dumps(outcome.predictor))
        predictor = load_latency_source(tmp_path / "predictor.json")
        nets = [network_ms(predictor, walk(SPACE.spec_for(path))) for path in plan.validation]
        assert nets == pytest.approx(outcome.priced["predictor"].predicted_ms)


# Interruption -------------------------------------------------------------------------------------------------------


def test_nothing_is_measured_twice_after_an_interruption(tmp_path):
    whole = FakeDevice(noise=0.01)
    profiled(whole, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        profiled(FakeDevice(noise=0.01, stop_after=100), tmp_path / "cut")
    raw = tmp_path / "cut" / "raw.jsonl"
    kept = raw.read_bytes()
    raw.write_bytes(kept + b'{"phase": "ops", "round": 0, "case": "torn')  # a kill in the middle of a line
    device = FakeDevice(noise=0.01, seed=1)
    outcome, _ = profiled(device, tmp_path / "cut")
    assert raw.read_bytes().startswith(kept)
    lines = raw.read_text().splitlines()
    assert device.n_sessions == len(lines) - 1 - 99 + 1  # the anchor's session is made again
    assert len({(r["phase"], r["round"], r["case"]) for r in map(json.loads, lines[1:])}) == len(lines) - 1
    assert outcome.verdict.passed
    # and a third time nothing at all is measured
    again = FakeDevice(stop_after=0)
    assert profiled(again, tmp_path / "cut")[0].table.entries == outcome.table.entries


def test_cases_that_were_repeated_for_their_noise_are_read_again(tmp_path):
    few = Protocol(rounds=2, runs=2, warmup=1, min_ms=0.0, validation_nets=20, extra_rounds=0)
    before, _ = profiled(FakeDevice(noise=0.3), tmp_path, few, "isolated")
    lines = map(json.loads, (tmp_path / "raw.jsonl").read_text().splitlines()[1:])
    assert min(line["round"] for line in lines) == -profiling.REPEATS
    again, _ = profiled(FakeDevice(stop_after=0), tmp_path, few, "isolated")
    assert again.table.entries == before.table.entries


def test_timings_of_other_conditions_are_not_mixed(tmp_path):
    with RawLog(tmp_path / "raw.jsonl", CONDITIONS):
        pass
    with refused("", "batch_size", 1, 8, "--output", source=tmp_path / "raw.jsonl"):
        RawLog(tmp_path / "raw.jsonl", CONDITIONS | {"batch_size": 8})


@pytest.mark.parametrize(
    ("content", "place", "values"),
    [
        (b"[]\n", "line 1", ["proxyless-latency/raw", "None"]),
        (b'{"format": "proxyless-latency/raw", "version": 1}\n', "line 1", ["proxyless-latency/raw", 2, 1]),
        (b"nonsense\n", "line 1 column 1", ["JSON"]),
        (b'HEAD\n{"phase": "ops"}\n', "line 2: round", ["missing"]),
        (
            b'HEAD\n{"phase": "ops", "round": 0, "case": "a", "ms": [0], "other_ms": [], "anchor_ms": [1, 1]}\n',
            "line 2: ms[0]",
            ["above 0 ms"],
        ),
        (
            b'HEAD\n{"phase": "ops", "round": 0, "case": "a", "ms": [], "other_ms": [], "anchor_ms": [1, 1]}\n',
            "line 2: ms",
            ["list"],
        ),
    ],
)
def test_a_file_that_is_not_ours_is_refused(tmp_path, content, place, values):
    head = json.dumps({"format": "proxyless-latency/raw", "version": 2, "conditions": CONDITIONS}).encode()
    (tmp_path / "raw.jsonl").write_bytes(content.replace(b"HEAD", head))
    with refused(place, *values, source=tmp_path / "raw.jsonl"):
        RawLog(tmp_path / "raw.jsonl", CONDITIONS)


# Using a table ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("condition", "value"),
    [("batch_size", 8), ("resolution", 192), ("dtype", "int8"), ("threads", 4), ("runtime", "litert"), ("device", "x")],
)
def test_a_table_of_other_conditions_is_refused(condition, value):
    measured = {"device": "cpu", "runtime": "onnxruntime", "threads": 1, "batch_size": 1, "dtype": "float32",
                "resolution": 224, "governor": "powersave"}  # fmt: skip
    wanted = {name: measured[name] for name in measured if name != "governor"}
    check_matches(measured, wanted, "t.json")
    with refused("provenance", condition, repr(measured[condition]), repr(value), source="t.json"):
        check_matches(measured, wanted | {condition: value}, "t.json")
    # what a file does not record cannot differ, and a wish that is None is none
    check_matches(measured | {condition: None}, wanted | {condition: value}, "t.json")
    check_matches(measured, wanted | {condition: None}, "t.json")


def test_only_conditions_are_compared():
    with pytest.raises(KeyError, match="governor"):
        check_matches({}, {"governor": "performance"}, "t.json")


# Another machine ----------------------------------------------------------------------------------------------------

# As benchmark_model prints it: tensorflow/lite/tools/benchmark/benchmark_model.cc, tensorflow/lite/tools/logging.h
LOG = """\
INFO: STARTING!
INFO: Log parameter values verbosely: [0]
INFO: Min num runs: [50]
INFO: Num threads: [1]
INFO: Graph: [{folder}{stem}.tflite]
INFO: Signature to run: []
INFO: #threads used for CPU inference: [1]
INFO: Loaded model {folder}{stem}.tflite
INFO: Created TensorFlow Lite XNNPACK delegate for CPU.
INFO: The input model file size (MB): 0.61
INFO: Initialized session in 5.579ms.
INFO: Running benchmark for at least 1 iterations and at least 0.5 seconds but terminate if exceeding 150 seconds.
INFO: count=63 first=9671 curr=7800 min=7705 max=9671 avg=7953.4 std=301{quantiles_0}

INFO: Running benchmark for at least 50 iterations and at least 1 seconds but terminate if exceeding 150 seconds.
INFO: {count}

INFO: Inference timings in us: Init: 5579, First inference: 9671, Warmup (avg): 7953.4, Inference (avg): {avg}
INFO: Note: as the benchmark tool itself affects memory footprint, the following is only APPROXIMATE to the actual \
memory footprint of the model at runtime. Take the information at your discretion.
INFO: Memory footprint delta from the start of the tool (MB): init=8.44922 overall=10.8789
"""


def log(stem, avg, count=None, quantiles="", folder="phone/"):
    count = count or f"count=129 first=7839 curr=7761 min=7676 max=8290 avg={avg} std=61{quantiles}"
    return LOG.format(stem=stem, avg=avg, count=count, quantiles_0=quantiles, folder=folder)


# As tensorflow/core/util/stats_calculator.cc writes it: node types of XNNPACK have commas, avg_ms is of one call, and
# what takes less than a microsecond is 0
PROFILE = """\
Profiling Info for Benchmark Initialization:
============================== Run Order ==============================
node type, first, avg_ms, %, cdf%, mem KB, times called, name
ModifyGraphWithDelegate, 4.2, 4.2, 80.7692%, 80.7692%, 7148, 1, ModifyGraphWithDelegate/0
AllocateTensors, 0.9, 0.5, 19.2308%, 100%, 0, 2, AllocateTensors/0

============================== Top by Computation Time ==============================
node type, first, avg_ms, %, cdf%, mem KB, times called, name
ModifyGraphWithDelegate, 4.2, 4.2, 80.7692%, 80.7692%, 7148, 1, ModifyGraphWithDelegate/0

Number of nodes executed: 2
============================== Summary by node type ==============================
node type, count, avg_ms, avg %, cdf %, mem KB, times called
ModifyGraphWithDelegate, 1, 4.2, 80.7692%, 80.7692%, 7148, 1

Timings (microseconds): count=1 curr=5200
Memory (bytes): count=0
2 nodes observed



Operator-wise Profiling Info for Regular Benchmark Runs:
============================== Run Order ==============================
node type, first, avg_ms, %, cdf%, mem KB, times called, name
Convolution (NHWC, F32) GEMM, 0.031, 0.5, 40%, 40%, 0, 1, Delegate/Convolution (NHWC\t F32) GEMM:0
Convolution (NHWC, F32) DWConv, 0.031, 0.125, 20%, 60%, 0, 2, Delegate/Convolution (NHWC\t F32) DWConv:1
Add (ND, F32), 0.001, 0.000, 0%, 60%, 0, 1, Delegate/Add (ND\t F32):2
Copy (NC, X32), 0, 0, 0%, 60%, 0, 1, Delegate/Copy (NC\t X32):3
CONV_2D, 0.031, 0.5, 40%, 100%, 0, 1, [StatefulPartitionedCall:0]:4

============================== Top by Computation Time ==============================
node type, first, avg_ms, %, cdf%, mem KB, times called, name
CONV_2D, 0.031, 0.5, 40%, 40%, 0, 1, [StatefulPartitionedCall:0]:4

Number of nodes executed: 5
============================== Summary by node type ==============================
node type, count, avg_ms, avg %, cdf %, mem KB, times called
Convolution (NHWC, F32) GEMM, 1, 0.5, 40%, 40%, 0, 1

Timings (microseconds): count=50 first=1290 curr=1245 min=1240 max=1290 avg=1250 std=6
Memory (bytes): count=0
5 nodes observed


"""
DELEGATE = """\
Delegate internal: 
============================== Run Order ==============================
node type, first, avg_ms, %, cdf%, mem KB, times called, name
DelegateOpInvoke, 0.3, 0.3, 100%, 100%, 0, 1, Delegate/conv:0

"""

MANIFEST = exported_ops.Manifest({}, {"op-000": "stem", "op-001": "head"})


def test_logs_of_the_litert_benchmark_tool(tmp_path):
    text = log("op-000", "7775.03", quantiles=" p5=7690 median=7766 p95=7900")
    text += log("op-001", "2.95034e+06", folder="/data/local/tmp/")  # older: without quantiles
    (tmp_path / "log.txt").write_text(text)
    found = exported_ops.read_results(tmp_path / "log.txt", MANIFEST)
    assert found.cases["stem"][:4] == pytest.approx((7.766, 0.061, 1, 129))
    assert found.cases["head"][:4] == pytest.approx((2950.34, 0.061, 1, 129))
    assert found.facts == {"runtime": "litert", "clock": "wall", "threads": 1}
    (tmp_path / "log.txt").write_text(log("op-000", "7100", count="count=1 curr=7100"))  # not that of the warm-up
    assert exported_ops.read_results(tmp_path / "log.txt", MANIFEST).cases["stem"].ms == pytest.approx(7.1)


def test_operator_profiles_of_the_litert_benchmark_tool(tmp_path):
    (tmp_path / "op-000.csv").write_text(PROFILE)
    old = re.sub(r", (first|[0-9.]+)(, (avg_ms|[0-9.]+), [0-9.]*%)", r", 0.7, \1\2", PROFILE)  # a column start more
    (tmp_path / "op-001.csv").write_text(old.replace(" 0.5, 40%", " 1.5, 40%") + DELEGATE)
    found = exported_ops.read_results(tmp_path, MANIFEST)
    assert {name: measured.ms for name, measured in found.cases.items()} == {"stem": 1.25, "head": 3.25}


def test_the_csv_of_the_runner(tmp_path):
    lines = ['# {"device": "a board", "threads": 2}', "file,round,timing,ms"]
    lines += [f"op-000,{r},{n},{ms}" for r, row in enumerate([(1, 2, 9), (3, 4, 5)]) for n, ms in enumerate(row)]
    (tmp_path / "r.csv").write_text("\n".join(lines) + "\nop-000,2,0,1.")  # the last line was cut off
    found = exported_ops.read_results(tmp_path / "r.csv", MANIFEST)
    assert found.cases["stem"][:4] == pytest.approx((3.0, math.sqrt(2), 2, 6))
    assert found.facts == {"device": "a board", "threads": 2}


@pytest.mark.parametrize(
    ("text", "place", "values"),
    [
        ("", "", ["CSV", "LiteRT"]),
        ("op-000,0,0,0\n", "line 1", ["above 0 ms", "'0'"]),
        ("op-000,0,0,-2\n", "line 1", ["above 0 ms", "'-2'"]),
        ("op-000,0,0,nan\n", "line 1", ["above 0 ms", "'nan'"]),
        ("op-000,0,0,fast\n", "line 1", ["'fast'"]),
        ("op-000,0,0,1\nop-000,0,0,1\n", "line 2", ["timing 0", "op-000", "round 0", "twice"]),
        ("op-009,0,0,1\n", "", ["manifest", "'op-009'"]),
        ("op-000;0;0;1\n", "line 1", ["file,round,timing,ms"]),
        ("# {\n", "line 1", ["facts", "JSON"]),
        (2 * log("op-000", "7"), "line 38", ["op-000", "twice"]),
        (log("op-000", "7") + log("op-001", "7").replace("[1]", "[4]"), "line 24", ["threads 4", "1"]),
        ("node type, first, avg_ms\n", "", ["'Run Order'"]),
        (re.sub(" 0.5, | 0.125, ", " 0.000, ", PROFILE), "Run Order", ["above 0 ms"]),
        (PROFILE.replace(" 0.125,", " -0.1,"), "line 26", ["0 ms or more", "'-0.1'"]),
        (PROFILE.replace(" 0.125,", " fast,"), "line 26", ["'fast'"]),
        (PROFILE.replace(", 20%, 60%", ""), "line 26", ["avg_ms", "cdf%, mem KB"]),
        (PROFILE[: PROFILE.rindex("Add (ND")], "", ["cut off"]),
    ],
)
def test_wrong_results_are_refused_by_file_and_line(tmp_path, text, place, values):
    (tmp_path / "results.csv").write_text(text)
    with refused(place, *values, source=tmp_path / "results.csv"):
        exported_ops.read_results(tmp_path / "results.csv", MANIFEST)


def test_missing_results_are_named():
    plan = Plan.of(SPACE, PROTOCOL, "isolated")
    some = {case.name: Measured(1.0, 0.0, 1, 1, math.nan) for case in plan.op_cases()[1:]}
    with refused("conv 16x16x3 to 16x16x32 kernel 3 stride 1"):
        profiling.assemble(plan, PROTOCOL, some, {}, 0.0, {})
    every = {case.name: Measured(1.0, 0.0, 1, 1, math.nan) for case in plan.op_cases()}
    with refused(plan.network_cases()[0].name, 39):
        profiling.assemble(plan, PROTOCOL, every, {}, 0.0, {})


EXPORTED = {"batch_size": 1, "resolution": 16, "space": "tiny", "width_mult": 1.0, "num_classes": 10, "seed": 0,
            "validation_nets": 20}  # fmt: skip


def test_an_export_can_be_read_back(tmp_path):
    plan = Plan.of(SPACE, replace(PROTOCOL, validation_nets=2), "isolated")
    many = replace(PROTOCOL, validation_nets=4)
    exported_ops.export(tmp_path / "out", [], Plan.of(SPACE, many, "isolated").network_cases(), EXPORTED)
    assert (tmp_path / "out" / "net-003.onnx").is_file()
    size = exported_ops.export(tmp_path / "out", plan.op_cases(), plan.network_cases(), EXPORTED)
    manifest = exported_ops.read_manifest(tmp_path / "out" / "manifest.json")
    assert manifest.conditions == EXPORTED
    assert list(manifest.cases.values()) == [case.name for case in (*plan.op_cases(), *plan.network_cases())]
    names = {path.name for path in (tmp_path / "out").iterdir()}
    stems = [f"op-{n:03d}" for n in range(len(plan.ops))] + ["net-000", "net-001"]  # and none of the earlier export
    assert names == {"run.py", "manifest.json", *(stem + suffix for stem in stems for suffix in (".onnx", ".tflite"))}
    written = sum(path.stat().st_size for path in (tmp_path / "out").iterdir() if path.suffix in (".onnx", ".tflite"))
    assert size == written
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("precious")
    with refused("--export_ops", "empty", source=tmp_path / "full"):
        exported_ops.export(tmp_path / "full", [], [], EXPORTED)


@pytest.mark.parametrize(
    ("change", "values"),
    [
        ({"validation_nets": None}, ["missing", "batch_size"]),
        ({"width_mult": None}, ["missing", "batch_size"]),
        ({"resolution": "16"}, ["integer", "8..4096", "'16'"]),
        ({"space": "imagnet"}, ["'imagenet'", "'small'", "'tiny'", "'imagnet'"]),
        ({"validation_nets": 5}, ["integer", "20..1000", 5]),
        ({"threads": 1}, ["unknown", "batch_size"]),
    ],
)
def test_a_manifest_is_read_strictly(tmp_path, change, values):
    conditions = {name: value for name, value in (EXPORTED | change).items() if value is not None}
    cases = [{"file": "op-000", "case": "stem", "suffixes": [".onnx"]}]
    manifest = {"format": exported_ops.MANIFEST_FORMAT, "version": 1, "conditions": conditions, "cases": cases}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with refused(f"conditions.{next(iter(change))}", *values, source=tmp_path / "manifest.json"):
        exported_ops.read_manifest(tmp_path / "manifest.json")


def test_every_op_has_one_key():
    ops = unique_ops(SPACE)
    assert all(layer_key(call) == key for key, call in ops.items())
    assert len({str(key) for key in ops}) == len(ops)
