"""What a finished search does beyond the loop."""

import copy
import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from hardware.projection import LOWER
from proxyless_arch.base.errors import InputError
from proxyless_arch.base.files import write_json
from proxyless_arch.data.datasets import digits
from proxyless_arch.data.images import eval_transform, train_transform
from proxyless_arch.data.streams import Stream, numpy_rng
from proxyless_arch.space.mbconv import TINY, mbconv_space
from proxyless_nas.network import build
from proxyless_nas.steps import evaluate, recalibrate_bn
from search.algorithm.derive import log_odds
from search.config import SearchConfig, from_recipe, recipe_names, with_settings
from search.reporting.summary import _measured_lines, summary
from search.run.finish import _changes, derive, finetune, recalibrated, record_of, score
from search.run.job import mixed, new_search, prepare
from search.run.log import RunLog
from tests.errors import line_of, named, refused
from tests.search.made_run import write_run


def test_recalibration_sees_all_classes_in_every_batch():
    images = digits()[0]
    images = images.subset(np.argsort(images.labels, kind="stable"))  # as in a folder
    chosen = mixed(images, 500, seed=0)
    assert len(set(chosen.names)) == len(chosen) == 500
    for first in range(0, 500, 100):
        assert set(chosen.labels[first : first + 100]) == set(range(10))
    assert mixed(images, 500, seed=0).names == chosen.names
    assert mixed(images, 500, seed=1).names != chosen.names
    assert sorted(mixed(images, 10**6, seed=0).names) == sorted(images.names)


def test_what_projection_changed_is_told_with_its_odds():
    space = mbconv_space(macro=TINY, num_classes=10)
    odds = [torch.ones(len(ops)) / len(ops) for ops in space.choices]
    odds[4] = torch.tensor([0.01, 0.9, 0.04, 0.02, 0.01, 0.02])
    best, path = [0] * space.n_edges, [0] * space.n_edges
    best[4], path[4] = 1, 5
    (found,) = _changes(space, odds, best, path)
    assert found["block"] == 5  # blocks.0 is not searched
    first = space.blocks[1]
    fixed = replace(space, blocks=(space.blocks[0], first.block(0), *space.blocks[2:]))
    assert _changes(fixed, odds[1:], best[1:], path[1:])[0]["block"] == 5  # nor blocks.1
    assert (found["argmax"], found["chosen"]) == ("MB3 5x5 s2", "MB6 7x7 s2")
    assert (found["argmax_percent"], found["chosen_percent"]) == pytest.approx((90.0, 2.0))
    assert _changes(space, odds, best, best) == []


def finished(**settings):
    """(result.json, the derived choices) of a search that ends before its first step; nothing is written."""
    job = digits_job(**settings)
    search = new_search(job)
    derived = derive(job, search)
    return record_of(job, search, derived, score(job, search, derived, "net", log=None), 0.0, None), derived


def test_the_unprojected_network_is_scored_as_if_it_had_been_derived():
    """A search that differs in --derive alone ends with the same supernet."""
    (projected, _), (argmax, derived) = finished(), finished(derive="argmax")
    assert projected["path"] != projected["argmax_path"] == argmax["path"] == list(derived.path)
    for part in ("top1_percent", "test_top1_percent"):
        assert projected[f"argmax_{part}"] == argmax[part]
        assert f"argmax_{part}" not in argmax
    # as the percentages beside it say
    odds = [math.log(each["chosen_percent"] / each["argmax_percent"]) for each in projected["projection_changes"]]
    assert projected["projection_log_odds"] == pytest.approx(sum(odds), rel=1e-4)
    assert projected["projection_log_odds"] < 0 == argmax["projection_log_odds"]
    assert projected["landed"] is True and projected["landed_by"] == "predicted"
    off = 100 * (projected["argmax_latency_ms"] / projected["target_latency_ms"] - 1)
    assert argmax["landing_error_percent"] == pytest.approx(off)
    assert argmax["landed"] is (abs(off) <= argmax["landing_tolerance_percent"])


def test_a_wide_window_ends_lower_and_changes_less():
    found = {}
    for lower in (0.3, 0.99):
        job = digits_job(window=lower, target_latency_ms=1.2)
        found[lower] = derive(job, new_search(job)).projection
    assert 0.3 * 1.2 <= found[0.3].cost < 0.99 * 1.2 <= found[0.99].cost <= 1.2
    assert found[0.3].log_prob >= found[0.99].log_prob


def test_the_window_of_the_settings_is_that_of_projections():
    assert SearchConfig().target.window == LOWER


def test_log_odds_are_those_of_whole_paths():
    alphas = [torch.tensor([1.0, 2.0, -1.0]), torch.tensor([0.5, 0.0])]
    every = {
        path: float(torch.softmax(alphas[0], 0)[path[0]] * torch.softmax(alphas[1], 0)[path[1]])
        for path in itertools.product(range(3), range(2))
    }
    for path in every:
        assert math.exp(log_odds(alphas, path, (1, 0))) == pytest.approx(every[path] / every[1, 0], rel=1e-5)


@pytest.mark.parametrize(
    ("times", "shown"), [((0.083744, 0.081912), "0.0837, 0.0819"), ((1.92349, 1.9), "1.923, 1.900")]
)
def test_the_measurements_of_a_landing_are_told_with_three_digits(times, shown):
    record = {
        "measured_on": {"runtime": "onnxruntime", "runtime_version": "1", "threads": 1, "device": "cpu"},
        "measured_standard_error_percent": 1.0, "measured_latency_ms": times[-1], "measured_at_table_speed_ms": None,
        "landing": [{"measured_at_anchor_speed_ms": ms} for ms in times], "landing_stopped": "",
    }  # fmt: skip
    lines = dict(_measured_lines(record, times[-1]))
    named(lines["landing"], "measured", f"{shown} ms")


@pytest.mark.parametrize("older", [False, True])
def test_the_end_of_a_measured_run_is_said_from_its_folder(tmp_path, older):
    _, _, result, spec = write_run(tmp_path / "run")
    goal, predicted = result["target_latency_ms"], 1.02 * result["predicted_latency_ms"]
    facts = {"runtime": "onnxruntime", "runtime_version": "1.20", "threads": 1, "device": "some cpu", "clock": "wall"}
    younger = {"measured_standard_error_percent": 0.3, "measured_at_table_speed_ms": 1.01 * goal}
    more = {
        "predicted_latency_ms": predicted, "table_scale": 1.02, "measured_latency_ms": 1.05 * goal,
        "measured_on": facts, "anchor_ms": 1.04, "table_anchor_ms": 1.0, "landing": [], "landing_stopped": "",
        "num_classes": 10, "warmup_from": None, **({} if older else younger),
    }  # fmt: skip
    write_json(tmp_path / "run" / "result.json", result | more)
    lines = summary(tmp_path / "run").splitlines()
    assert lines[1].startswith(f"{spec.name}: 13 blocks")
    said = {line[2:12].strip(): line[13:] for line in lines if line.startswith("  ") and line[12:13] == " "}
    off = 100 * (predicted / goal - 1)
    assert said["predicted"].endswith(f" ({off:+.2f} %), by pixel1.json times 1.0200, as measured")
    noise = "" if older else ", standard error 0.3 %"
    assert said["measured"].endswith(f" (+5.00 %){noise}; onnxruntime 1.20, 1 thread, some cpu")
    slower = "(+1.00 %) normalized to the machine's speed during profiling; the anchor, timed in between, is 4.0 % "
    slower += "slower now"
    assert any(line.endswith(slower) for line in lines) is not older
    n_changed = sum(one != other for one, other in zip(result["path"], result["argmax_path"], strict=True))
    assert said["argmax"].endswith(f"; projection changed {n_changed} of {len(result['path'])} blocks")
    overruled = {"block": 1, "argmax": "MB3 3x3", "argmax_percent": 99.0, "chosen": "MB6 7x7", "chosen_percent": 0.2}
    more |= {"projection_changes": [overruled, overruled | {"chosen_percent": 1.5}], "projection_log_odds": -7.0}
    scores = {"argmax_top1_percent": 60.0, "argmax_test_top1_percent": 59.0}
    verdict = {"landed_by": "measured", "landing_error_percent": 5.0, "landing_tolerance_percent": 2.0}
    for landed in (True, False):
        write_json(tmp_path / "run" / "result.json", result | more | scores | verdict | {"landed": landed})
        text = summary(tmp_path / "run")
        assert text.count("against the search") == 1 and "MB6 7x7 (0.2 %), against the search" in text
        assert "argmax itself scores 60.0 %" in text and "1.1e+03 times as probable" in text
        named(line_of(text, "landed" if landed else "NOT LANDED"), "measured", "+5.00 %")
        assert ("\n  NOT LANDED " in text) == ("\n  landed " not in text)
    # keys that results had not from the beginning
    for missing in ("table_scale", "landing", "landing_stopped", "num_classes", "warmup_from", "table_anchor_ms"):
        record = {key: value for key, value in (result | more).items() if key != missing}
        write_json(tmp_path / "run" / "result.json", record)
        assert "\n  predicted " in summary(tmp_path / "run")
    steps = [{"measured_at_table_speed_ms": goal}] * 2  # as steps were called before
    write_json(tmp_path / "run" / "result.json", result | more | {"landing": steps})
    assert "\n  landing " not in summary(tmp_path / "run")


def digits_job(**settings):
    small = {"width_mult": 0.25, "torch_threads": 1, "test_batch_size": 40, "recalibration_images": 100}
    return prepare(with_settings(from_recipe("digits"), {**small, **settings}), torch.device("cpu"))


def assert_pixels(batches, dataset, job, augment):
    """``batches`` are the images of ``dataset`` in its order, transformed one by one with ``augment``."""
    rng = [numpy_rng(0, Stream.AUGMENT, 0, index) for index in range(len(dataset))]
    expected = [
        eval_transform(dataset.read(index), job.space.preprocessing)
        if augment is None
        else train_transform(dataset.read(index), job.space.preprocessing, rng[index], augment)
        for index in range(len(dataset))
    ]
    found = torch.cat([images for images, _ in batches]).permute(0, 2, 3, 1).numpy()
    np.testing.assert_array_equal(found, np.stack(expected))


def test_recalibration_takes_the_same_images_both_ways():
    job = digits_job()
    assert job.augment is not None
    for augment in (job.augment, None):
        assert_pixels(job.recalibration_batches(augment), mixed(job.data.train, 100, 0), job, augment)


def test_recalibration_keeps_the_better_way():
    job = digits_job()
    generator = torch.Generator().manual_seed(0)
    net = build(job.space.spec_for((0,) * job.space.n_edges), generator, zero_gamma=False)
    for module in net.modules():
        if isinstance(module, torch.nn.Linear):  # logits of some size
            torch.nn.init.normal_(module.weight, generator=generator)
    chosen, scored, losses = recalibrated(job, net, set())
    assert list(losses) == sorted(losses, key=lambda name: losses[name])
    assert set(losses) == {"augmented", "plain"}
    for name, augment in (("augmented", job.augment), ("plain", None)):
        own = copy.deepcopy(net)
        recalibrate_bn(own, job.recalibration_batches(augment))
        score = evaluate(own, job.eval_batches(job.data.valid))
        assert losses[name] == pytest.approx(score.loss_sum / score.n_images, rel=1e-6)
        theirs = chosen.state_dict()
        same = all(torch.equal(tensor, theirs[key]) for key, tensor in own.state_dict().items())
        assert same == (name == next(iter(losses))) == (score == scored)
    plain = digits_job(augment="none")
    assert list(recalibrated(plain, net, set())[2]) == ["plain"]


def test_recalibration_by_a_way_that_is_asked_for():
    for chosen in ("plain", "augmented"):
        job = digits_job(recalibration=chosen)
        net = build(job.space.spec_for((0,) * job.space.n_edges), torch.Generator().manual_seed(0))
        assert list(recalibrated(job, net, set())[2]) == [chosen]
    with refused("--recalibration augmented", "--augment none"):
        digits_job(recalibration="augmented", augment="none")


@pytest.mark.parametrize("test_batch_size", [1, 40, 250])
def test_recalibration_does_not_depend_on_how_many_are_scored_at_a_time(test_batch_size):
    job = digits_job(test_batch_size=test_batch_size, train_batch_size=32)
    assert [len(labels) for _, labels in job.recalibration_batches(None)] == [32, 32, 32, 4]


def test_a_smallest_crop_is_refused_where_nothing_is_cropped():
    for augment in ("small", "none", None):
        with pytest.raises(InputError, match="--resize_scale: has no use with --augment"):
            digits_job(augment=augment, resize_scale=0.5)
    found = digits_job(augment="imagenet", resize_scale=0.5).augment
    assert found is not None and found.min_scale == 0.5


def test_a_fine_tune_is_clipped(tmp_path):
    """With a learning rate of 1, no momentum and no decay, one step is as long as the clipped gradient."""
    clip, tuning = 1e-3, {"finetune_epochs": 1, "finetune_lr": 1.0, "valid_size": 1300, "train_batch_size": 128}
    plain = {"momentum": 0.0, "nesterov": False, "weight_decay": 0.0}
    for grad_clip in (clip, None):
        job = digits_job(**tuning, **plain, grad_clip=grad_clip)
        assert job.schedule.steps_per_epoch == 1
        net = build(job.space.spec_for((0,) * job.space.n_edges), torch.Generator().manual_seed(0))
        before = [parameter.detach().clone() for parameter in net.parameters()]
        with RunLog(tmp_path / str(grad_clip), None, say=str) as log:
            finetune(job, net, log, 0)
        moved = math.sqrt(
            sum(float((p.detach() - q).square().sum()) for p, q in zip(net.parameters(), before, strict=True))
        )
        assert (moved == pytest.approx(clip, rel=1e-3)) == (grad_clip is not None)


@pytest.mark.parametrize("arch_augment", [False, True])
def test_alphas_images_are_augmented_where_that_is_asked_for(arch_augment):
    job = digits_job(arch_augment=arch_augment)
    images, _ = next(job.valid_batches(0))
    pixels = images.permute(0, 2, 3, 1).numpy()
    plain = {
        eval_transform(job.data.valid.read(i), job.space.preprocessing).tobytes() for i in range(len(job.data.valid))
    }
    as_they_are = sum(one.tobytes() in plain for one in pixels)
    # a shift by 0 of -1 .. 1 both ways without a turn is one in nine at most
    assert as_they_are == len(pixels) if not arch_augment else as_they_are < len(pixels) / 2


def test_recipes_that_augment_alphas_images():
    assert [name for name in recipe_names() if from_recipe(name).arch.arch_augment] == ["cifar_small", "fast"]
