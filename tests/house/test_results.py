"""The figures of docs/results.md and README are those of the records in the repository, to their last digit."""

import itertools
import json
import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from benchmarks import bench_input
from proxyless_arch.arch.codec import read_spec
from proxyless_arch.arch.walk import total_macs

ROOT = Path(__file__).resolve().parents[2]
README, RESULTS = ((ROOT / page).read_text(encoding="utf-8") for page in ("README.md", "docs/results.md"))
NUMBER = re.compile(r"[-+]?\d*\.?\d+")


def record(file):
    return json.loads((ROOT / file).read_text(encoding="utf-8"))


def rows(heading: str) -> list[list[str]]:
    """The cells of the table under a heading, without its head."""
    lines = [line for line in section(heading).splitlines() if line.startswith("|")]
    return [_cells(line) for line in lines[2:]]


def tables(heading: str) -> list[list[list[str]]]:
    """The cells of each table under a heading, without their heads."""
    found = itertools.groupby(section(heading).splitlines(), lambda line: line.startswith("|"))
    return [[_cells(line) for line in [*lines][2:]] for is_table, lines in found if is_table]


def section(heading: str) -> str:
    return RESULTS.split(f"\n## {heading}\n")[1].split("\n## ")[0]


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def numbers(text: str) -> list[str]:
    return NUMBER.findall(text)


def assert_shown(shown: list[str], recorded: list[float]) -> None:
    """Each number, as precisely as it is written (half a unit of its last digit, and rounding)."""
    for text, value in zip(shown, recorded, strict=True):
        digits = len(text.partition(".")[2])
        assert abs(float(text) - value) <= 0.5000001 * 10**-digits, (shown, recorded)


def test_hitting_the_target():
    summary = record("experiments/landing_digits.json")["summary"]
    for cells, name in zip(rows("Hitting the target"), ("full_v2", "two", "rl"), strict=True):
        found = summary[name]
        assert numbers(cells[1]) == [str(found["searches"])] * 2 and found["derived_inside_percent"] == 100
        off = found["absolute_argmax_distance_percent"]
        assert_shown(numbers(cells[2] + " " + cells[3]), [off["median"], off["max"]])


def test_latency_tables():
    tables = [record(f"hardware/tables/amd_epyc_{runtime}.json") for runtime in ("onnxruntime", "litert")]
    for cells, method in zip(rows("Latency tables"), ("isolated", "in_network", "predictor"), strict=True):
        for table, shown in zip(tables, (cells[1:4], cells[4:7]), strict=True):
            found = table["validation"]["methods"][method]
            assert_shown(numbers(" ".join(shown)), [found["mape"], found["rmse_ms"], found["kendall"]])
            assert ("(the table)" in shown[0]) == (table["provenance"]["method"] == method)


def test_target_against_measurement():
    for cells, run in zip(rows("Target against measurement"), record("experiments/landing.json")["runs"], strict=True):
        target = run["target_latency_ms"]
        table, raw = run["measured_at_table_speed_ms"], run["measured_latency_ms"]
        slower = run["anchor_ms"] / run["table_anchor_ms"]
        wanted = [target, table, 100 * (table / target - 1), raw, 100 * (raw / target - 1), 100 * (slower - 1)]
        assert_shown(numbers(" ".join(cells)), [*wanted, run["measured_standard_error_percent"]])


def test_latency_of_known_networks():
    known = record("benchmarks/known_networks.json")["networks"]
    for cells, one in zip(rows("Latency of known networks"), known, strict=True):
        assert cells[0] == one["label"] and cells[1] == f"{one['params']:,}"
        assert_shown([cells[3].split()[0], cells[5]], [one["latency_ms"]["median"], one["published_top1_percent"]])


@pytest.mark.parametrize("target", ["mobile", "cpu", "cpu:litert", "flops"])
def test_one_network_per_device(target):
    spec = read_spec(ROOT / "experiments/specialization" / f"{target.replace(':', '-')}.json")
    (cells,) = [row for row in rows("One network per device") if row[0] == target]
    assert_shown(numbers(cells[3])[:1], [total_macs(spec) / 1e6])


def test_int8():
    variants = {found["variant"]: found for found in record("experiments/int8_study.json")["variants"]}
    shown = {
        "float32": "LiteRT float32",
        "float16 weights": "float16 weights",
        "int8, one scale per weight tensor": "int8, one scale per tensor",
        "int8, 10 calibration images": "int8, per channel, 10 calibration images",
        "int8, 200 calibration images": "int8, per channel, 200 calibration images",
        "int8, float stem+6": "int8, per channel, 200 images, stem and first 6 blocks in float (the default)",
    }
    for (name, label), cells in zip(shown.items(), rows("int8"), strict=True):
        found, drop = variants[name], numbers(cells[3])
        assert cells[0] == label
        assert_shown(numbers(cells[1] + " " + cells[2]), [found["size_bytes"] / 1e6, found["top1_percent"]])
        assert_shown(drop, [found["top1_drop_percent"]] if drop else [])


def test_fine_tuning():
    summary = record("experiments/finetune.json")["summary"]
    for cells, (way, found) in zip(rows("Fine-tuning on few photos"), summary.items(), strict=True):
        assert cells[0] == way
        for shown, value in ((cells[1], found), (cells[2], found["gap_to_probe"])):
            assert_shown(numbers(shown), [value["mean"], *value["interval_95"]] if numbers(shown) else [])


def test_what_the_papers_run_on_cifar10_takes():
    full = record("experiments/tree_cells.json")["full_run"]
    hours = full["hours_on_a_v100_at_shares_of_its_peak"]
    for cells, name in zip(rows("Searched against random tree-structured cells"), ("search", "train"), strict=True):
        assert float(cells[1]) == pytest.approx(full[f"{name}_macs"], rel=0.01)
        assert_shown([*numbers(cells[2]), *numbers(cells[3])], hours[name])


def test_what_is_found_behind_new_supernets():
    """Each network that was trained, by target, and all of an algorithm; random ones are those of proof.json."""
    targets = record("experiments/proof_predictor.json")["targets"]
    lines = rows("Does searching beat not searching?")
    found = [(target, each) for target in ("high", "low") for each in targets[target]["networks"]]
    for cells, (target, network) in zip(lines[: len(found)], found, strict=True):
        random = np.array(record("experiments/proof.json")["targets"][target]["random"]["test_top1_percent"])
        assert cells[2] == str(network["seed"])
        assert_shown(numbers(cells[3]), [network["z_of_the_middle"]])
        assert_shown(numbers(cells[4]), network["test_top1_percent"])
        assert_shown(numbers(cells[5]), [random.mean(), random.std(ddof=1)])
        assert_shown(numbers(cells[6]), [network["above_random_mean"]])
        assert numbers(cells[7]) == [str(network["random_beaten"]), str(len(random))]
    together = [targets[target][name] for target in ("high", "low") for name in ("predictor", "grad", "rl_others")]
    second = lines[len(found) + 2 :][: len(together)]  # behind its head
    for cells, each in zip(second, together, strict=True):
        assert_shown(numbers(cells[2]), [each["gap"], *each["gap_interval_95"]])
        assert_shown(numbers(cells[3]), [each["permutation_p"]])
        assert_shown(numbers(cells[4]), [each["power_by_points"]["1.3"]])


def test_the_first_page_on_the_predictor():
    """with `--arch_algo predictor` +1.3 (p = 0.04) and +0.6 (p = 0.38; ..., power for 1.3: 0.36, 0.47)."""
    (said,) = re.findall(r"predictor` (\+1\.3 .*?\))\. ", README)
    high, low = (record("experiments/proof_predictor.json")["targets"][name]["predictor"] for name in ("high", "low"))
    gains = [high["gap"], high["permutation_p"], low["gap"], low["permutation_p"]]
    powers = [each["power_by_points"]["1.3"] for each in (high, low)]
    assert_shown(numbers(said.replace("power for 1.3", "")), [*gains, *powers])


@pytest.mark.parametrize(("place", "name"), [(0, "dq_proof"), (1, "dq_proof_trained")])
def test_defensive_quantization(place, name):
    """The means of each line and, of several seeds, the intervals, which end at 0."""
    names = ("clean", "fgsm", "pgd", "transfer", "square", "all", "error_last_block")
    summary = record(f"experiments/{name}.json")["summary"]
    for cells, found in zip(tables("Defensive quantization")[place], summary, strict=True):
        assert float(cells[0]) == found["penalty"]
        assert cells[1] == (f"{found['bits']} bits" if found["bits"] else "float")
        assert int(cells[2]) == len(found["seeds"])
        for cell, score in zip(cells[3:], names, strict=True):
            mean, *ends = numbers(cell)
            assert_shown([mean], [found[score]["mean"]])
            if ends and found[score]["interval_95"]:
                assert_shown(ends, [max(0, end) for end in found[score]["interval_95"]])


def assert_interval(cell: str, value) -> None:
    """``65.9 (63.8 to 68.0)``; an empty cell is none."""
    assert_shown(numbers(cell), [value["mean"], *value["interval_95"]] if value is not None else [])


def test_ways_to_a_smaller_network():
    """Each line of the study: fine-tuned, by share of MACs; and of ImageNet, without any training."""
    found, cells = record("experiments/prune_proof.json"), rows("Pruning a trained network")
    shown = {(row[0], row[1]): row[2:] for row in cells if len(row) == 7 and row[2].isdecimal()}
    assert shown.keys() == {(share, way) for share, ways in found["summary"].items() for way in ways}
    for (share, way), (count, macs, before, after, ahead) in shown.items():
        entry = found["summary"][share][way]
        assert int(count) == entry["networks"]
        assert_shown([macs], [100 * entry["macs_share"]])
        for cell, key in ((before, "before"), (after, "after"), (ahead, "exact_ahead_after")):
            assert_interval(cell, entry.get(key))
    names = {"`exact`": "exact", "`uniform`": "uniform", "`amc`": "amc", "`random`": "random",
             "the first random plan": "a random one"}  # fmt: skip
    photos = {(row[0], row[1]): row[2:] for row in cells if row[1] in ("before pruning", *names) and len(row) == 4}
    assert_interval(photos.pop(("all", "before pruning"))[0], found["imagenet"]["before"])
    assert {(share, names[way]) for share, way in photos} == {
        (share, way) for share in ("0.75", "0.5") for way in found["imagenet"][share]
    }
    for (share, way), (score, ahead) in photos.items():
        entry = found["imagenet"][share][names[way]]
        assert_interval(score, entry)
        assert_interval(ahead, entry.get("exact_ahead") if way != "`exact`" else None)


def test_the_first_page_shows_the_pruning_that_is_told():
    """Of the network trained: MACs, predicted, measured, top-1 of further images; of the pruned one when trained on."""
    trained, pruned, tuned = rows("Pruning a trained network")[:3]
    told = README.split("## Smaller, to the millisecond")[1].split("\n## ")[0]
    first, second = [line.split("|")[1:-1] for line in told.splitlines() if line.startswith("| ")][-2:]
    for shown, told in ((first, [*trained[1:4], trained[6]]), (second, [*pruned[1:4], tuned[6]])):
        assert_shown([numbers(cell)[0] for cell in shown[1:]], [float(numbers(cell)[0]) for cell in told])
    assert numbers(second[0]) == numbers(pruned[0])


def test_what_smaller_networks_take():
    """In each runtime, by share of the MACs."""
    found = record("experiments/prune_time.json")["runtimes"]
    ways = {(share, way) for share, own in found["onnxruntime"]["by_macs"].items() for way in own}
    cells = [row for row in rows("Pruning a trained network") if len(row) == 4 and tuple(row[:2]) in ways]
    assert {tuple(row[:2]) for row in cells} == ways and len(cells) == len(ways)
    for share, way, *times in cells:
        for cell, runtime in zip(times, ("onnxruntime", "litert"), strict=True):
            value = found[runtime]["by_macs"][share][way]
            wanted = [value["median"], *value["interval_95"]]
            assert_shown(numbers(cell), [100 * each for each in wanted])


def test_what_smaller_networks_of_equal_time_score():
    """By runtime, share of the time and way: time, MACs, accuracies and what exact is ahead by."""
    found = record("experiments/prune_time_both.json")["runtimes"]
    every = [
        (runtime, share, way, value)
        for runtime, its in found.items()
        for share, own in its["summary"].items()
        for way, value in own.items()
    ]
    lines = [row for row in rows("Pruning a trained network") if len(row) == 9 and row[0] in found]
    for cells, (runtime, share, way, value) in zip(lines, every, strict=True):
        assert cells[:3] == [runtime, share if share == "any" else f"{100 * float(share):.0f}", way]
        shares = value["time_shares"]
        medians = [100 * each["median"] for each in shares]
        if len(shares) == 1:
            wanted = [*medians, *(100 * end for end in shares[0]["interval_95"]), 100 * value["macs_share"]]
        else:
            wanted = [min(medians), max(medians), len(medians), 100 * value["macs_share"]]
        for name in ("before", "after", "exact_ahead_before", "exact_ahead_after"):
            wanted += [value[name]["mean"], *value[name]["interval_95"]] if name in value else []
        assert_shown(numbers(" ".join(cells[3:]).replace(" to ", " ")), wanted)


def test_gradients_of_depthwise_convolutions():
    found = record("benchmarks/bench_depthwise.json")["rows"]
    for cells, row in zip(rows("The gradient of a depthwise convolution"), found, strict=True):
        assert cells[:2] == [row["layer"], row["precision"]]
        faster = row["times_faster"]
        wanted = [*row["ms"].values(), faster["median"], faster["low"], faster["high"]]
        assert_shown(numbers(" ".join(cells[2:])), wanted)


def test_what_a_step_of_the_search_takes():
    one, two = record("benchmarks/bench_search.json")["cases"]
    table = next(each for each in tables("The search step") if each[0][0].startswith("null"))
    for cells, *both in zip(table, one["ratios"], two["ratios"], strict=True):
        assert cells[1] == both[0]["over"]
        for cell, row in zip(cells[2:4], both, strict=True):
            wanted = [row["cpu"][name] for name in ("median", "low", "high")]
            assert_shown(numbers(cell), wanted + ([row["wall"]["median"]] if "wall" in cell else []))
        assert ("missed" in cells[4]) == ("MISSED" in {row["verdict"] for row in both})
        assert ("undecided" in cells[4]) == ("undecided" in {row["verdict"] for row in both})


def test_reading_images():
    found = record("benchmarks/bench_input.json")
    for cells, kind in zip(rows("Reading images"), bench_input.KEPT, strict=True):
        ways = ("from files", "from shards", "kept in memory", bench_input.IN_A_FILE)
        *_, memory, file = us = [1000 * found["ms"][f"{kind}, {way}"]["median"] for way in ways]
        shown = numbers(" ".join(cells[1:]).replace(",", ""))
        assert_shown(shown, [*us, 1e6 / file, memory / file])
    said = section("Reading images")
    for row in found["ratios"]:
        shown = (
            "{median:.2f} ({low:.2f} to {high:.2f})"
            if row["at_least"] < 1
            else "{median:.0f} ({low:.0f} to {high:.0f})"
        )
        assert shown.format(**row["ratio"]) in said


@pytest.fixture
def proof():
    return record("experiments/proof.json")["targets"]


def test_searched_against_random_networks(proof):
    """Each line's accuracy and percentile at both targets, where the line is one network."""
    cells = {row[0]: row[1:] for row in rows("Does searching beat not searching?")}
    seen = 0
    for column, target in enumerate(("high", "low")):
        found = proof[target]
        searched = {f"{one['algorithm']} {one['seed']}": one for one in found["searched"]}
        lines = {
            "gradient search, supernet 0": searched["grad 0"],
            "gradient search, supernet 1": searched["grad 1"],
            "REINFORCE search, supernet 0": searched["rl 0"],
            "REINFORCE search, supernet 1": searched["rl 1"],
        }
        by_hand = {name.replace("Zero to fit", "skipping to fit"): one for name, one in found["controls"].items()}
        for line, one in {**lines, **by_hand}.items():
            interval = [round(value) for value in one["percentile_interval_95"]]
            assert_shown(numbers(cells[line][column]), [one["mean"], round(one["percentile"] + 1e-9), *interval])
            seen += 1
        scores = found["random"]["test_top1_percent"]
        assert_shown(numbers(cells["20 random networks, mean (sd)"][column])[:1], [sum(scores) / len(scores)])
    assert seen == 12


@pytest.mark.parametrize("page", [README, RESULTS], ids=["README", "results"])
def test_the_gap_to_random_networks(page, proof):
    """+0.8 points (95% interval -0.9 to 2.5 ...) at 1.9 M MACs, 0.0 (-0.6 to 0.6 ...) at 0.95 M."""
    (sentence,) = re.findall(r"\+0\.8 points \(.*?at 1\.9 M MACs, .*?at 0\.95 M", page)
    plain = re.sub(r"95% interval |, permutation p = \.\d+|, p = \.\d+|at [\d.]+ M(?: MACs)?", "", sentence)
    wanted = []
    for target in ("high", "low"):
        found = proof[target]["searched_against_random"]
        wanted += [found["gap"], *found["gap_interval_95"]]
    assert_shown(numbers(plain), wanted)


def test_searches_on_tables():
    """By table, cost and algorithm; then what was found at the time of hand-made layouts."""
    found = record("benchmarks/search_oracles.json")
    cells = rows("Search algorithms on tables of trained networks")
    cases = list(dict.fromkeys((row["table"], row["cost"]) for row in found["rows"]))
    names = (
        "predictor", "ridge_256", "evolution", "reinforce_others", "reinforce_past", "reinforce_release",
        "random_256", "random_20",
    )  # fmt: skip
    columns = {name: 1 + index for index, name in enumerate(names)}
    for row in found["rows"]:
        shown = numbers(cells[cases.index((row["table"], row["cost"]))][columns[row["algorithm"]]])
        wanted = [row["share"], row["low"], row["high"]] if row["algorithm"] == "predictor" else [row["share"]]
        assert_shown(shown, [100 * value for value in wanted])
    keys = ("hand_made", "random_mean", "best_of_20", "searched", "by_macs")
    lines = [line for line in cells[len(cases) :] if len(line) == 1 + len(keys) and numbers(line[1])]
    for line, headline in zip(lines, found["headline"], strict=True):
        assert_shown([number for cell in line[1:] for number in numbers(cell)], [headline[key] for key in keys])


def test_supernets_of_shared_weights():
    found = record("experiments/shared_weights.json")
    ways = list(found["ways"].values())  # by way of training: statistics made anew, running ones, those by width
    taus, losses = [[way["tau"], *way["interval_95"]] for way in ways], [[way["mean_loss"]] for way in ways]
    behind = [[each["ahead"], *each["interval_95"]] for each in found["than_recalibrated"].values()]
    lines = [line[first : first + 3] for first in (0, 3, 6) for line in (taus, losses)]
    for cells, line in zip(rows("How supernets of shared weights rank"), [*lines, behind], strict=True):
        shown = numbers(" ".join(cells[1:]).replace(" to ", " "))
        assert_shown(shown, [value for each in line for value in each])
    assert_shown(["0.24"], [found["tau_between_training_seeds"]])
    assert behind[0][2] < 0 < behind[1][2]
    assert all(taus[first] == max(taus[first : first + 3]) for first in (0, 3, 6))


def test_spaces_of_equal_time():
    found = record("experiments/spaces_proof.json")["networks"]
    for cells, (kind, value) in zip(rows("Which space has more to find"), found.items(), strict=True):
        assert kind.split()[-1] in cells[0]
        means = [sum(pair) / len(pair) for pair in value["test_top1_percent"]]
        top = [sum(means) / len(means), *(value["of_networks"]["interval_95"] or [])]
        gate = [max(means), value["gate"]["true_sd"], value["gate"]["noise_sd"]] if value.get("gate") else []
        wanted = [len(means), sum(value["macs"]) / len(means) / 1e6, *top, *gate]
        assert_shown(numbers(" ".join(cells[1:]).replace(" to ", " ")), wanted)


def test_the_checks_can_fail():
    for shown, value in (("1.6", 1.66), ("72.3", 72.36), ("-0.9", -0.84)):
        with pytest.raises(AssertionError):
            assert_shown([shown], [value])
    assert rows("int8")[0][0] == "LiteRT float32"
    assert all(len(one) == len(two) for one, two in pairwise(rows("Latency tables")))


def test_bits_per_layer():
    found = record("experiments/bits_proof.json")
    by_bits = {(row["bits"], row["method"]): row for row in found["H3"]}
    by_method, int8_files, by_halves = tables("Bits per layer")
    for cells in by_method:
        bits = int(cells[0])
        assert_shown(
            cells[1:5], [by_bits[bits, name]["top1_percent"] for name in ("uniform", "random", "haq", "exact")]
        )
        exact = by_bits[bits, "exact"]
        wanted = [exact[name][key] for name in ("over_uniform", "over_float") for key in ("points", "half_width")]
        assert_shown(numbers(" ".join(cells[5:])), wanted)
    for cells, file in zip(int8_files, found["H4"], strict=True):
        assert cells[0] == file["file"]
        assert_shown(cells[1:4], [file["size_bytes"][0] / 1e6, file["ms"][0], file["top1_percent"]])
        assert_gain(cells[4], file["over_float"])
    for cells, file in zip(by_halves, found["H4W"], strict=True):
        assert cells[0].startswith(file["file"])
        sizes = [size / 1e6 for size in file["size_bytes"]]
        smaller = sum(found["H4W"][0]["size_bytes"]) / sum(file["size_bytes"])
        assert_shown(numbers(" ".join(cells[1:4])), [*sizes, smaller, file["top1_percent"]])
        assert_gain(cells[4], file["over_float"])
        if cells[5]:
            assert_gain(cells[5], file["over_rule"])
    assert 0.591 <= found["H1"]["first_input_7_bits"] < found["H1"]["first_input_8_bits"] <= 0.5965
    assert all(row["exact"] <= row["rule"] for row in found["H2"])


def test_bits_after_fine_tuning():
    """By bits and way: plans scored, top-1 as rounded and as trained on, and the gains."""
    names = "experiments/bits_finetune.json", "experiments/bits_finetune_lite0.json"
    summary = [found for name in names for found in record(name)["summary"]]
    lines = [row for row in rows("Bits after fine-tuning") if row[0].isdigit()]
    for cells, found in zip(lines, summary, strict=True):
        assert cells[:2] == [str(found["bits"]), found["method"]]
        assert numbers(cells[2]) == [str(count) for count in found["evaluations"][:1] if count is not None]
        wanted = [(found[stage]["top1_percent"], found[stage].get("over_uniform")) for stage in ("before", "after")]
        for (top, gain), (shown, over) in zip(wanted, (cells[3:5], cells[5:7]), strict=True):
            assert_shown([shown], [top])
            assert_gain(over, gain)
        assert_gain(cells[7], found["after"].get("over_float"))


def assert_gain(cell: str, gain) -> None:
    """``+2.1 (1.7)``; an empty cell is none."""
    assert_shown(numbers(cell), [gain["points"], gain["half_width"]] if gain is not None else [])
