"""Bits per layer: calibration, damages, the methods, and quantize.py from its flags to its product."""

import importlib.util
import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from compress import BitsConfig, QuantizationStopped, run_quantization
from compress.bits.calibration import InputFacts, calibrate
from compress.bits.choices import bytes_table, groups_of, matches_of, nearest_path, plan_of, settled, simulated_table
from compress.bits.environment import BitEnvironment, correct_biases, means_of, measured_bits
from compress.bits.haq import Bits, decisions_of, haq, option_of
from compress.bits.result import read_result
from compress.methods import exact, random, sample_within
from compress.record import Record
from compress.scoring import score_of, unseen
from hardware.profile import measure
from hardware.profile.exported_layers import read_layer_times
from hardware.projection import Limit, project
from hardware.simulators import SIMULATORS
from proxyless_arch.arch.bits import FLOAT32, INT8, Format, Range, bit_layers, check_plan, ties
from proxyless_arch.base.cli import BAD_INPUT
from proxyless_arch.base.errors import InputError
from proxyless_arch.weights.files import read_tensors, save_safetensors
from proxyless_arch.weights.quantizer import quantized_tensors
from proxyless_commands.quantize import main
from proxyless_nas.quantized import build_quantized, exact_forward
from tests.compress.nets import batches, images, tensors, trained
from tests.compress.specs import SPEC
from tests.errors import error_line, refused

CPU = torch.device("cpu")
ALL = tuple(Format(w, a) for w in (2, 4, 8) for a in (2, 4, 8))
DIGITS = replace(SPEC, name="digits", classifier=replace(SPEC.classifier, out_features=10))
FEW = ["--dataset", "digits", "--device", "cpu", "--calibration_images", "64", "--choosing_images", "64"]
FEW += ["--evaluations", "3"]


class Nowhere:
    """Where metrics go that nobody reads."""

    def append(self, line):
        json.dumps(line)


def slow(*words):
    return pytest.param(list(words), marks=pytest.mark.slow)


def environment_of(formats=ALL, *, corrects=True, image=False):
    net = trained()
    groups = groups_of(SPEC, formats, image=image)
    facts = calibrate(net, batches(), CPU)
    return BitEnvironment(
        SPEC, tensors(net), groups, matches_of(SPEC, groups), facts, batches(), batches(), CPU, Record(Nowhere()),
        "channel", corrects,
    )  # fmt: skip


@pytest.fixture(scope="module")
def environment():
    return environment_of()


def test_ranges_are_those_of_the_inputs_and_the_clip_errs_least():
    net = trained()
    found = calibrate(net, batches(), CPU)
    x = torch.cat([x for x, _ in batches()])
    assert found.facts["first_conv"].low == pytest.approx(x.min().item())
    assert found.facts["first_conv"].counts.sum() == x.numel()
    hidden = found.facts["blocks.1.mobile_inverted_conv.point_linear"]
    assert hidden.low == 0 and hidden.high <= 6 and not hidden.signed
    facts = InputFacts(0.0, 10.0, np.r_[np.ones(1024), np.zeros(1023), 1e-6])
    assert facts.range(2).clip < 6 < facts.range(8).clip + 2
    assert facts.error(4, facts.range(4).clip) == min(facts.error(4, clip) for clip in np.linspace(0.1, 10, 100))


def test_the_gram_form_is_the_error_of_the_output():
    """Of a 1x1 layer, brute force: rounding its weights moves its output by exactly that, over the places looked at."""
    net, name = trained(), "blocks.0.mobile_inverted_conv.point_linear"
    found = calibrate(net, batches(), CPU)
    layer = next(layer for layer in bit_layers(SPEC) if layer.name == name)
    weight = np.random.default_rng(0).normal(size=layer.shape)
    rounded = np.round(weight)
    second = found.facts[name].second
    rows = weight.reshape(len(weight), -1)
    off = rounded.reshape(len(weight), -1) - rows
    wanted = np.trace(off @ second @ off.T) / np.trace(rows @ second @ rows.T)
    assert found.weight_error(layer, weight, rounded) == pytest.approx(wanted)
    assert second.shape == (8, 8) and found.facts["blocks.1.mobile_inverted_conv.depth_conv"].second.shape == (
        12,
        25,
        25,
    )


def test_calibrating_needs_two_images_and_finite_values():
    with refused("--calibration_images", 1):
        calibrate(trained(), [(images(1), torch.zeros(1))], CPU)
    with refused("--calibration_images", 0):
        calibrate(trained(), [], CPU)
    broken = trained()
    with torch.no_grad():
        broken.first_conv.bn.bias[0] = float("nan")
    with pytest.raises(InputError) as error:
        calibrate(broken, batches(), CPU)
    assert error.value.place == "layers.blocks.0.mobile_inverted_conv.depth_conv"


def test_a_damage_is_measured_or_between(environment):
    assert measured_bits([2, 3, 4, 5, 6, 7, 8]) == [2, 4] and measured_bits([8, None]) == [8]
    assert measured_bits([4, 8]) == [4, 8]
    for group, row in zip(environment.groups, environment.damages(), strict=True):
        assert (row >= 0).all() and row[group.whole] == row.min()
        for bits in (2, 4, 8):  # more bits of one kind never do more
            along = [row[group.formats.index(each)] for each in group.formats if each.activation_bits in (bits, None)]
            assert along == sorted(along, reverse=True)


def test_a_change_alone_is_undone(environment):
    before = {name: value.clone() for name, value in environment.float_net.state_dict().items()}
    environment._batch(images(4), unseen("", 1, ""))
    after = environment.float_net.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


def test_a_plan_is_the_network_that_its_files_make(environment):
    path = nearest_path(environment.groups, Format(4, 4))
    net, latent = environment.network(path)
    plan = environment.plan(path)
    check_plan(plan, SPEC)
    again = build_quantized(SPEC, latent, plan)
    x = images(8)
    # a last digit may decide between two steps: in float64 none does
    np.testing.assert_allclose(exact_forward(net)(x), exact_forward(again)(x), atol=1e-5)


def test_corrected_biases_give_every_channel_its_mean():
    environment = environment_of(corrects=False)
    net, _ = environment.network(nearest_path(environment.groups, Format(2, 8)))
    wanted = [means_of(environment.float_net, x) for x, _ in batches()]
    before = max((means_of(net, x)["blocks.4.mobile_inverted_conv.point_linear.bn.bias"]
                  - target["blocks.4.mobile_inverted_conv.point_linear.bn.bias"]).abs().max().item()
                 for (x, _), target in zip(batches(), wanted, strict=True))  # fmt: skip
    whole = [(torch.cat([x for x, _ in batches()]), torch.zeros(48))]
    target = [means_of(environment.float_net, whole[0][0])]
    correct_biases(net, target, whole, CPU)
    found = means_of(net, whole[0][0])
    off = max((found[name] - target[0][name]).abs().max().item() for name in found)
    assert off < 1e-5 < 0.01 < before


def test_joined_inputs_have_one_format_in_every_method(environment):
    table = bytes_table(environment.groups)
    simulated = simulated_table(environment.groups, SIMULATORS["bismo"])
    rng = np.random.default_rng(0)
    for limits in ([Limit(table, 0.6 * table.maximum)], [Limit(simulated, 0.5 * simulated.maximum)]):
        found = exact(environment, limits, 2, rng, lambda each: None)
        found += random(environment, limits, 1, rng, lambda each: None)
        found += haq(environment, limits, 2, 0, lambda each: None, 50.0)
        assert len(found) >= 4
        for each in found:
            assert all(limit.holds(each.path) for limit in limits)
            check_plan(environment.plan(each.path), SPEC)


def test_settling_keeps_the_weights_of_a_layer_where_it_can(environment):
    groups, joined = environment.groups, environment.matches
    rng = np.random.default_rng(1)
    path = tuple(int(rng.integers(len(group.formats))) for group in groups)
    found = settled(path, groups, joined)
    assert settled(found, groups, joined) == found and all(tie.holds(found) for tie in joined)
    assert [g.formats[j].weight_bits for g, j in zip(groups, found, strict=True)] == [
        g.formats[j].weight_bits for g, j in zip(groups, path, strict=True)
    ]
    pairs = groups_of(SPEC, (FLOAT32, INT8), image=True)
    mixed = settled(tuple(int(rng.integers(2)) for _ in pairs), pairs, matches_of(SPEC, pairs))
    assert all(tie.holds(mixed) for tie in matches_of(SPEC, pairs))


@pytest.mark.parametrize("seed", range(5))
def test_exact_is_never_worse_in_damage_than_the_papers_reduction_at_equal_cost(seed):
    """H2: whatever an agent decided and the reduction took away, the projection finds no more damage."""
    rng = np.random.default_rng(seed)
    groups = groups_of(SPEC, ALL, image=False)

    class Judge:
        matches = matches_of(SPEC, groups)

        def settled(self, path):
            return settled(path, groups, self.matches)

    judge = Judge()
    judge.groups = groups
    damages = [np.sort(10.0 ** rng.uniform(-3, 0) * rng.random(len(group.formats)))[::-1] for group in groups]
    table = simulated_table(groups, SIMULATORS["bismo"])
    limits = [Limit(table, rng.uniform(0.3, 0.9) * table.maximum)]
    decisions = decisions_of(groups, frozenset(tie.groups[1] for tie in judge.matches))
    bits = Bits(judge, decisions)
    bits.chosen = [int(rng.integers(len(decision.bits))) for decision in decisions]
    bits.reduce(limits, frozenset())
    assert limits[0].holds(bits.path)

    def damage(path):
        return sum(row[choice] for row, choice in zip(damages, path, strict=True))

    equal = [Limit(table, table.of_path(bits.path))]
    assert damage(project([-row for row in damages], equal, judge.matches).path) <= damage(bits.path) + 1e-9


def test_an_action_is_the_papers_number_of_bits_and_never_0():
    assert [option_of(action, 7) for action in (0.0, 0.1, 0.5, 0.999, 1.0)] == [0, 0, 3, 6, 6]
    wanted = [min(8, max(2, round((8 - 2 + 1) * a + 2 - 0.5))) for a in (0.1, 0.3, 0.62, 0.9)]
    assert [2 + option_of(a, 7) for a in (0.1, 0.3, 0.62, 0.9)] == wanted


def test_random_plans_cost_what_is_asked(environment):
    table = bytes_table(environment.groups)
    limits = [Limit(table, 0.7 * table.maximum)]
    paths = itertools.islice(sample_within(limits, 0.9, np.random.default_rng(0), environment.settled), 3)
    assert all(0.9 * limits[0].upper <= table.of_path(path) <= limits[0].upper for path in paths)


def test_a_plan_has_the_ranges_of_its_bits():
    groups = groups_of(SPEC, ALL, image=False)
    ranges = {(group.layer.name, bits): Range(bits) for group in groups for bits in (2, 4, 8)}
    plan = plan_of(SPEC, groups, nearest_path(groups, Format(2, 4)), ranges, "channel")
    assert {found.clip for found in plan.ranges.values()} == {4.0} and "first_conv" not in plan.ranges


# ------------------------------------------------------------------------------------------------------ the command


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    path = tmp_path_factory.mktemp("net") / "net.safetensors"
    save_safetensors(path, DIGITS, tensors(trained(DIGITS)), {})
    return str(path)


@pytest.fixture(scope="module")
def product(network, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "bits"
    assert main(["--arch", network, *FEW, "--average_bits", "4", "--run_dir", str(folder)]) == 0
    return folder


def test_the_product_is_a_network_with_its_plan(product):
    result, stored = read_result(product), read_tensors(product / "weights.safetensors")
    assert stored.bits == result.plan and result.record["plan"] == result.plan.digest
    assert result.record["average_bits"] <= 4 and result.record["size_bytes"] == result.plan.n_bytes(DIGITS)
    assert result.record["cost"] == result.plan.n_bytes(DIGITS)
    assert {format.activation_bits for name, format in result.plan.formats.items() if name != "first_conv"} == {8}
    assert set(quantized_tensors(DIGITS, stored.tensors, result.plan)) == set(stored.tensors)
    assert "storage" in str(result)


def test_a_finished_run_is_read_again_and_a_cut_one_goes_on(product, network, tmp_path, monkeypatch):
    monkeypatch.setattr(BitEnvironment, "network", None)
    assert main(["--run_dir", str(product), "--resume"]) == 0
    monkeypatch.undo()
    config = BitsConfig.of(arch=network, dataset="digits", device="cpu", calibration_images=64, choosing_images=64,
                           evaluations=3, average_bits=4)  # fmt: skip
    score, count = BitEnvironment.score, []

    def cut(self, path):
        count.append(path)
        if len(count) == 2:
            raise KeyboardInterrupt
        return score(self, path)

    monkeypatch.setattr(BitEnvironment, "score", cut)
    with pytest.raises(QuantizationStopped):
        run_quantization(config, tmp_path / "cut", say=None)
    monkeypatch.setattr(BitEnvironment, "score", score)
    again = run_quantization(None, tmp_path / "cut", resume=True, say=None)
    assert again is not None and again.plan == read_result(product).plan


@pytest.mark.parametrize(
    "more",
    [
        ["--hardware", "bismo", "--keep", "0.5", "--method", "haq"],
        ["--hardware", "litert", "--keep", "0.5"],
        slow("--average_bits", "5", "--method", "uniform"),
        slow("--target_bytes", "4000", "--method", "random"),
        slow("--hardware", "bitfusion", "--target_latency_ms", "0.01", "--method", "haq", "--as_released"),
        slow("--average_bits", "3", "--quantizer", "kmeans", "--no_correct_biases"),
    ],
)
def test_every_method_keeps_to_its_target(more, network, tmp_path, capsys):
    assert main(["--arch", network, *FEW, *more, "--run_dir", str(tmp_path / "run")]) == 0
    result, out = read_result(tmp_path / "run"), capsys.readouterr().out
    assert result.record["cost"] <= result.record["target"] * (1 + 1e-12)
    check_plan(result.plan, DIGITS)
    if "bismo" in more or "bitfusion" in more:
        lines = [line for line in out.splitlines() if " ms" in line]
        assert len(lines) >= 5 and all("simulated" in line for line in lines if "memory" not in line)


@pytest.mark.slow
def test_the_cheapest_plan_within_a_drop(network, tmp_path):
    assert main(["--arch", network, *FEW, "--max_drop", "100", "--run_dir", str(tmp_path / "run")]) == 0
    record = read_result(tmp_path / "run").record
    assert record["max_drop"] == 100 and record["average_bits"] < 2.5


@pytest.mark.parametrize(
    ("more", "place"),
    [
        (["--target_bytes", "10"], "--target_bytes"),
        (["--average_bits", "1.5"], "--average_bits"),
        (["--hardware", "bismo", "--target_latency_ms", "1e-6"], "--target_latency_ms"),
        (["--target_latency_ms", "3"], "--target_latency_ms"),
        (["--average_bits", "4", "--max_drop", "1"], "--average_bits"),
        (["--weight_bits", "4,9"], "--weight_bits"),
        (["--weight_bits", "４"], "--weight_bits"),
        (["--hardware", "litert", "--weight_bits", "4"], "--weight_bits"),
        (["--as_released"], "--as_released"),
        (["--latency_table", "times.csv"], "--latency_table"),
        (["--hardware", "litert", "--target_latency_ms", "1", "--latency_table", "times.csv"], "--latency_table"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(more, place, network, tmp_path, capsys):
    assert main(["--arch", network, *FEW, *more, "--run_dir", str(tmp_path / "run")]) == BAD_INPUT
    assert place in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_average_bits_below_the_fewest_are_told_in_bits(network, capsys):
    assert main(["--arch", network, *FEW, "--average_bits", "1.5", "--weight_bits", "3,7", "--dry_run"]) == BAD_INPUT
    error_line(capsys.readouterr().err, "--average_bits", 3, 7, "1.5")


def test_a_runtime_that_is_not_installed_is_named(network, tmp_path, monkeypatch, capsys):

    there = importlib.import_module

    def absent(module):
        if module.startswith("ai_edge_litert"):
            raise ModuleNotFoundError(module, name="ai_edge_litert")
        return there(module)

    monkeypatch.setattr(measure.importlib, "import_module", absent)
    more = ["--hardware", "litert", "--target_latency_ms", "1", "--run_dir", str(tmp_path / "run")]
    assert main(["--arch", network, *FEW, *more]) == BAD_INPUT
    said = capsys.readouterr().err
    assert "ai_edge_litert" in said and "--hardware" in said and not (tmp_path / "run").exists()


def test_the_float_format_costs_nothing_in_accuracy():
    environment = environment_of((FLOAT32, INT8), image=True)
    found = environment.score(nearest_path(environment.groups, FLOAT32))
    assert found.loss == pytest.approx(score_of(environment.float_net, batches(), CPU).loss, abs=1e-5)
    assert {len(chain) for chain in ties(SPEC)} == {1, 3}


@pytest.fixture
def layers(network, tmp_path):
    """The layers of the network, written for another device."""
    words = ["--arch", network, "--hardware", "onnxruntime", "--export_layers", str(tmp_path / "phone")]
    assert main(words) == 0
    return tmp_path / "phone"


def results_of(layers, keep=lambda case: True, ms=lambda case: 1.0 if "int8" in case else 2.0):
    """As run.py writes them, of a device on which int8 is twice as fast."""
    path, rows = layers / "results-onnxruntime.csv", ["file,round,timing,ms"]
    cases = json.loads((layers / "manifest.json").read_text())["cases"]
    rows += [f"{case['file']},0,{n},{ms(case['case'])}" for case in cases if keep(case["case"]) for n in range(3)]
    facts = {"device": "a phone", "runtime": "onnxruntime", "threads": 4}
    path.write_text("\n".join([f"# {json.dumps(facts)}", *rows, ""]))
    return path


def test_a_plan_is_chosen_by_the_times_of_another_device(layers, network, tmp_path):
    n_layers = len(bit_layers(DIGITS))
    more = ["--hardware", "onnxruntime", "--target_latency_ms", str(1.5 * n_layers)]
    more += ["--latency_table", str(results_of(layers)), "--run_dir", str(tmp_path / "run")]
    assert main(["--arch", network, *FEW, *more]) == 0
    record = read_result(tmp_path / "run").record
    assert record["cost"] <= 1.5 * n_layers and "a phone" in record["source"]


@pytest.mark.parametrize("lacks", ["int8 rows", "a row", "layers", "the file"])
def test_a_table_without_int8_rows_names_what_measures_them(lacks, layers, network, tmp_path, capsys):
    path = results_of(layers)
    if lacks == "int8 rows":
        path = results_of(layers, keep=lambda case: "int8" not in case)
    elif lacks == "a row":
        first = json.loads((layers / "manifest.json").read_text())["cases"][1]["case"]
        path = results_of(layers, keep=lambda case: case != first)
    elif lacks == "layers":  # a table of a search space, as a phone's import makes it
        path = tmp_path / "table.json"
        path.write_text("{}")
    else:
        path = tmp_path / "none.csv"
    capsys.readouterr()
    more = ["--hardware", "onnxruntime", "--target_latency_ms", "1000", "--latency_table", str(path)]
    assert main(["--arch", network, *FEW, *more, "--run_dir", str(tmp_path / "run")]) == BAD_INPUT
    said = capsys.readouterr().err
    assert "--latency_table" in said and ("--export_layers" in said) == (lacks != "the file")
    assert not (tmp_path / "run").exists()


def test_layers_are_timed_where_they_are_brought(layers, monkeypatch, capsys):
    runner = importlib.util.spec_from_file_location("runner", layers / "run.py")
    module = importlib.util.module_from_spec(runner)
    runner.loader.exec_module(module)
    words = ["run.py", "--runtime", "onnxruntime", "--rounds", "1", "--runs", "1", "--warmup", "1", "--min_ms", "0"]
    monkeypatch.setattr("sys.argv", words)
    module.main()
    times, facts = read_layer_times(layers / "results-onnxruntime.csv", bit_layers(DIGITS), "onnxruntime", "")
    assert len(times) == 2 * len(bit_layers(DIGITS)) and min(times.values()) > 0 and facts["threads"] == 1


def test_only_runtimes_have_layers_to_export(network, tmp_path, capsys):
    assert main(["--arch", network, "--hardware", "bismo", "--export_layers", str(tmp_path / "x")]) == BAD_INPUT
    assert "--export_layers" in capsys.readouterr().err
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    words = ["--arch", network, "--hardware", "litert", "--export_layers", str(tmp_path / "full")]
    assert main(words) == BAD_INPUT
