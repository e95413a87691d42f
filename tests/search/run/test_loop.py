"""The loop: what a step may change, when which step is due, and a resumed run against an uninterrupted one."""

import copy
import itertools
import math
import random
from dataclasses import replace

import pytest
import torch

from hardware.cost import MACS, price_space
from proxyless_arch.arch.spec import Preprocessing
from proxyless_arch.data.datasets import digits
from proxyless_arch.data.streams import TorchStream
from proxyless_nas.data import train_batches
from proxyless_nas.fast import compiler
from proxyless_nas.fast.depthwise import FastDepthwise
from proxyless_nas.fast.norm import FastConvBN
from proxyless_nas.steps import NonFiniteLossError, cosine_lr, seed_dropout
from search.config import ArchOpt, DataConfig, SearchConfig, SpaceConfig, Target, Warmup, WeightOpt
from search.run import checkpoint, loop
from search.run.log import FIELDS
from search.run.loop import Schedule, Search, schedule_of, seconds_per_step
from tests.search.tiny import RESOLUTION, assert_same_bits, snapshot, tiny_space

N_TRAIN, BATCH = 96, 16
TRAIN = digits()[0].subset(range(N_TRAIN))
VALID = digits()[0].subset(range(N_TRAIN, N_TRAIN + 40))
RECIPE = Preprocessing(resolution=RESOLUTION, resize=RESOLUTION, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
# dropout draws from torch's own generator, which is no part of the state
SPACE = tiny_space(num_classes=10, preprocessing=RECIPE, dropout_rate=0.2)
TABLE = price_space(SPACE, MACS)
GOAL = 0.8 * TABLE.uniform_expected


def config(**arch):
    return SearchConfig(
        manual_seed=5,
        data=DataConfig(train_batch_size=BATCH),
        space=SpaceConfig(dropout=0.2),
        warmup=Warmup(warmup_epochs=1, warmup_lr=0.1),
        weights=WeightOpt(n_epochs=2, init_lr=0.05),
        arch=ArchOpt(**({"grad_update_arch_param_every": 2, "arch_adam_beta1": 0.3} | arch)),
        target=Target(target_hardware="flops"),
    )


def new_search(settings=None, space=SPACE):
    settings = settings or config()
    return Search(settings, space, TABLE, GOAL, schedule_of(settings, N_TRAIN), torch.device("cpu"))


def batches(images, search, first, total):
    size = min(BATCH, len(images))
    return train_batches(
        images, RECIPE, None, batch_size=size, seed=search.config.manual_seed, first_step=first, n_steps=total - first
    )


def go_on(search, records, stop_at=None):
    """From where the search stands to the end, or to ``stop_at`` weight steps."""
    schedule = search.schedule
    return loop.run(
        search,
        batches(TRAIN, search, search.step, schedule.total_steps),
        batches(VALID, search, search.controller.step, schedule.arch_steps),
        on_epoch=records.append,
        on_step=lambda state: state.step != stop_at,
    )


def flat(value, prefix=""):
    """Nested state as {place: tensor or plain value}."""
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list | tuple):
        items = enumerate(value)
    else:
        return {prefix: value.clone() if isinstance(value, torch.Tensor) else value}
    return {place: leaf for key, inner in items for place, leaf in flat(inner, f"{prefix}.{key}").items()}


def everything(search):
    return flat(
        {
            "supernet": search.supernet.state_dict(),
            "optimizer": search.optimizer.state_dict(),
            "controller": search.controller.state_dict(),
            "sums": vars(search.sums),
            "step": search.step,
        }
    )


def assert_same(left, right):
    assert list(left) == list(right)
    for place, value in left.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, right[place]), place
        else:
            assert value == right[place], place


def timeless(records):
    return [
        {name: value for name, value in record.items() if name not in ("seconds", "images_per_second")}
        for record in records
    ]


@pytest.fixture(scope="module")
def uninterrupted():
    search, records = new_search(), []
    start = everything(search)
    assert go_on(search, records)
    return start, everything(search), records


def test_the_uninterrupted_run_did_something(uninterrupted):
    start, end, records = uninterrupted
    assert end[".step"] == 18
    assert end[".controller.step"] == 6
    for place in (".supernet.first_conv.conv.weight", ".controller.alphas.1"):
        assert not torch.equal(start[place], end[place])
    assert [(r["phase"], r["epoch"], r["n_epochs"], r["step"], r["arch_step"]) for r in records] == [
        ("warmup", 0, 1, 6, 0), ("search", 0, 2, 12, 3), ("search", 1, 2, 18, 6),
    ]  # fmt: skip
    assert records[0]["valid_loss"] is None
    for record in records:
        assert list(record) == list(FIELDS)
        assert record["cost_unit"] == "MACs"
        assert record["target"] == GOAL
        assert 0 < record["train_loss"] < 10


# steps in the warm-up, at its end, in the search between and at arch steps, mid-epoch, at an epoch's end
@pytest.mark.parametrize("stops", [(1,), (6,), (7,), (8,), (12,), (17,), (3, 11), (18,)], ids=str)
def test_resumed_is_uninterrupted(uninterrupted, tmp_path, stops):
    resume_and_compare(uninterrupted, tmp_path, stops)


@pytest.mark.skipif(compiler.version() is None, reason="needs the extra [fast]: llvmlite")
def test_faster_kernels_move_weights_and_alpha_as_those_of_torch_do():
    searches = []
    for kernels in ("torch", "auto"):
        search = new_search(replace(config(), kernels=kernels, warmup=Warmup(warmup_epochs=0)))
        go_on(search, [], stop_at=2)  # the second one with an architecture step
        searches.append(search)
    plain, fast = searches
    assert (plain.kernels, fast.kernels) == ("torch", compiler.version())
    for kind in (FastDepthwise, FastConvBN):
        assert any(isinstance(layer, kind) for layer in fast.supernet.modules())
    for own, theirs in zip(fast.supernet.parameters(), plain.supernet.parameters(), strict=True):
        torch.testing.assert_close(own, theirs, rtol=1e-5, atol=1e-6)
    for own, theirs in zip(fast.alphas, plain.alphas, strict=True):
        torch.testing.assert_close(own, theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_resumed_at_random_steps_is_uninterrupted(uninterrupted, tmp_path, seed):
    stops = sorted(random.Random(seed).sample(range(1, 18), 2))
    resume_and_compare(uninterrupted, tmp_path, stops)


def resume_and_compare(uninterrupted, tmp_path, stops):
    path, records = tmp_path / "checkpoint.pt", []
    search = new_search()
    for stop in stops:
        go_on(search, records, stop)
        assert search.step == stop
        checkpoint.save(path, search.checkpoint({}, {}, 10 * stop, 1.5))
        before = everything(search)
        torch.manual_seed(999)  # a new process would not stand where this one does
        search = new_search()
        saved = checkpoint.load(path)
        assert (saved.metrics_offset, saved.wall_seconds) == (10 * stop, 1.5)
        search.restore(saved)
        assert_same(everything(search), before)
        seconds_per_step(search, next(batches(TRAIN, search, 0, 1)), 16, repeats=1)  # as the command does at its start
        assert_same(everything(search), before)
    assert go_on(search, records)
    assert_same(everything(search), uninterrupted[1])
    assert timeless(records) == timeless(uninterrupted[2])


def test_where_torchs_own_generator_stands_matters_to_no_step(uninterrupted):
    search, records = new_search(), []
    schedule = search.schedule

    def disturbed(state):
        torch.manual_seed(state.step % 3)
        return True

    train = batches(TRAIN, search, 0, schedule.total_steps)
    valid = batches(VALID, search, 0, schedule.arch_steps)
    assert loop.run(search, train, valid, on_epoch=records.append, on_step=disturbed)
    assert_same(everything(search), uninterrupted[1])
    assert timeless(records) == timeless(uninterrupted[2])


def test_every_step_has_dropout_masks_of_its_own():
    search, masks = new_search(), []
    search.supernet.classifier.dropout.register_forward_hook(lambda layer, given, out: masks.append(out[0] != 0))
    images, labels = next(batches(TRAIN, search, 0, 1))
    for step in (search.weight_step, search.weight_step, search.arch_step, search.arch_step):
        step(images, labels)
    assert len({tuple(mask.tolist()) for mask in masks}) == 4


@pytest.mark.parametrize("mode", ["full", "two"])
def test_other_modes_resume_too(tmp_path, mode):
    settings = config(grad_binary_mode=mode)
    straight, records = new_search(settings), []
    go_on(straight, records)
    end = everything(straight)
    first, again = new_search(settings), []
    go_on(first, again, 9)
    checkpoint.save(tmp_path / "c.pt", first.checkpoint({}, {}, 0, 0.0))
    second = new_search(settings)
    second.restore(checkpoint.load(tmp_path / "c.pt"))
    go_on(second, again)
    assert_same(everything(second), end)
    assert timeless(again) == timeless(records)


def test_modes_and_seeds_lead_elsewhere(uninterrupted):
    """The comparison above can fail: another seed or mode ends with other alphas and weights."""
    for settings in (replace(config(), manual_seed=6), config(grad_binary_mode="two")):
        search = new_search(settings)
        go_on(search, [])
        end = everything(search)
        for place in (".supernet.first_conv.conv.weight", ".controller.alphas.1"):
            assert not torch.equal(end[place], uninterrupted[1][place])


def test_images_per_second_counts_what_was_done_since_the_resume():
    first, records = new_search(), []
    assert not go_on(first, records, stop_at=4)
    saved = first.checkpoint({}, {}, 0, 0.0)
    resumed = new_search()
    resumed.restore(saved)
    assert go_on(resumed, records)
    done = [round(record["images_per_second"] * record["seconds"]) for record in records]
    assert done == [2 * BATCH, N_TRAIN, N_TRAIN]  # 2 of the 6 steps of the first epoch were left


def test_schedule_arithmetic():
    schedule = Schedule(steps_per_epoch=7, warmup_epochs=2, search_epochs=3, arch_every=5, arch_repeats=2)
    assert (schedule.warmup_steps, schedule.search_steps, schedule.total_steps) == (14, 21, 35)
    assert schedule.arch_steps == 8  # after weight steps 19, 24, 29, 34, two each
    assert [schedule.arch_steps_before(step) for step in (0, 14, 18, 19, 23, 24, 34, 35)] == [0, 0, 0, 2, 2, 4, 8, 8]
    rng = random.Random(0)
    for _ in range(200):
        any_ = Schedule(rng.randint(1, 9), rng.randint(0, 3), rng.randint(0, 4), rng.randint(1, 6), rng.randint(1, 3))
        assert any_.arch_steps_before(any_.total_steps) == any_.arch_steps
        grown = [any_.arch_steps_before(step) for step in range(any_.total_steps + 1)]
        assert set(grown[: any_.warmup_steps + 1]) == {0}
        steps = [after - before for before, after in itertools.pairwise(grown)]
        assert all(step in (0, any_.arch_repeats) for step in steps)


def released_schedule(n_batches, per_epoch, at_end):
    """{weight step of an epoch, from 0: updates behind it}: RLArchSearchConfig.get_update_schedule of the release."""
    if at_end:
        return {n_batches - 1: per_epoch}
    segments = [n_batches // per_epoch] * per_epoch
    for longer in range(n_batches % per_epoch):
        segments[longer] += 1
    return {end - 1: 1 for end in itertools.accumulate(segments)}


def test_reinforce_updates_fall_where_the_release_has_them():
    """... and none in the first epoch of the search, for either algorithm."""
    rng = random.Random(0)
    for at_end in (False, True) * 100:
        n, per_epoch, warm, search = rng.randint(1, 40), rng.randint(1, 50), rng.randint(0, 2), rng.randint(0, 3)
        schedule = Schedule(n, warm, search, 5, 1, arch_rest_epochs=1, arch_per_epoch=per_epoch, at_epoch_end=at_end)
        due = released_schedule(n, per_epoch, at_end)
        done = 0
        for step in range(schedule.total_steps):
            assert schedule.arch_steps_before(step) == done
            if step >= (warm + 1) * n:
                done += due.get(step % n, 0)
        assert schedule.arch_steps == done
    resting = Schedule(7, 2, 3, 5, 2, arch_rest_epochs=1)
    assert [resting.arch_steps_before(step) for step in (14, 21, 25, 26, 31, 35)] == [0, 0, 0, 2, 4, 4]
    assert resting.arch_steps == 4


def test_schedule_of_a_config():
    settings = replace(config(), data=DataConfig(train_batch_size=10))
    assert schedule_of(settings, 99).steps_per_epoch == 9  # the 9 left over wait for the next epoch's order
    assert schedule_of(settings, 5).steps_per_epoch == 1
    found = schedule_of(settings, 99)
    assert (found.warmup_epochs, found.search_epochs, found.arch_every, found.arch_repeats) == (1, 2, 2, 1)
    own = {"arch_rest_epochs": 1, "rl_update_steps_per_epoch": 4, "rl_update_per_epoch": True}
    assert schedule_of(config(**own, arch_algo="grad"), 96) == Schedule(
        6, 1, 2, 2, 1, arch_rest_epochs=1, at_epoch_end=True
    )
    assert schedule_of(config(**own, arch_algo="rl"), 96) == Schedule(6, 1, 2, 2, 1, 1, 4, at_epoch_end=True)


def test_learning_rate_is_a_cosine_in_each_phase():
    search = new_search()
    for step, expected in ((0, 0.1), (3, 0.05), (5, 0.1 * (1 + math.cos(math.pi * 5 / 6)) / 2), (6, 0.05), (12, 0.025)):
        search.step = step
        assert search.learning_rate() == pytest.approx(expected, rel=1e-12)
    assert search.learning_rate() == pytest.approx(cosine_lr(0.05, 6, 12))


def test_a_weight_step_trains_the_sampled_path_only():
    search = new_search()
    images, labels = next(batches(TRAIN, search, 0, 1))
    for _ in range(4):  # momentum must not carry other paths along either
        before = snapshot(search.supernet)
        alphas = [alpha.detach().clone() for alpha in search.alphas]
        path = search.sampled_path()
        own = set(SPACE.tensor_map(path).values())
        search.weight_step(images, labels)
        changed = {name for name, tensor in snapshot(search.supernet).items() if not torch.equal(tensor, before[name])}
        assert {name for name in changed if "tracked" not in name} <= own
        assert {"classifier.linear.weight", "first_conv.conv.weight"} <= changed
        for block, choice in enumerate(path):
            if SPACE.choices[block][choice].__class__.__name__ == "MBConv":
                assert f"blocks.{block + 1}.choices.{choice}.point_linear.bn.weight" in changed
        assert all(torch.equal(alpha, was) for alpha, was in zip(search.alphas, alphas, strict=True))
        assert all(alpha.grad is None for alpha in search.alphas)


def test_an_arch_step_moves_alpha_only():
    search = new_search()
    search.step = search.schedule.warmup_steps + 2
    images, labels = next(batches(VALID, search, 0, 1))
    before, alphas = snapshot(search.supernet), [alpha.detach().clone() for alpha in search.alphas]
    moments = copy.deepcopy(search.optimizer.state_dict())
    search.arch_step(images, labels)
    assert_same_bits(before, snapshot(search.supernet))
    assert_same(flat(moments), flat(search.optimizer.state_dict()))
    assert all(not torch.equal(alpha, was) for alpha, was in zip(search.alphas, alphas, strict=True))
    assert search.sums.valid_images == len(labels)
    assert search.sums.train_images == 0


def test_warmup_paths_are_uniform_whatever_alpha_says():
    search = new_search()
    with torch.no_grad():
        for alpha in search.alphas:
            alpha[0] += 50
    paths = []
    for step in range(search.schedule.warmup_steps):
        search.step = step
        paths.append(search.sampled_path())
    assert len(set(paths)) > 3
    search.step = search.schedule.warmup_steps
    assert search.sampled_path() == (0, 0, 0, 0)


def test_sums_of_an_epoch_by_hand():
    search = new_search()
    images, labels = next(batches(TRAIN, search, 0, 1))
    expected_loss = expected_hits = 0.0
    for _ in range(3):
        twin = copy.deepcopy(search.supernet).train()
        seed_dropout(5, TorchStream.WEIGHT_DROPOUT, search.step)
        logits = twin(images, search.sampled_path())
        smooth = torch.full((len(labels), 10), 0.01).scatter(1, labels[:, None], 0.91)
        expected_loss += -(smooth * logits.log_softmax(1)).sum().item()
        expected_hits += (logits.argmax(1) == labels).sum().item()
        search.weight_step(images, labels)
    assert search.sums.train_loss == pytest.approx(expected_loss, rel=1e-5)
    assert (search.sums.train_hits, search.sums.train_images) == (expected_hits, 3 * BATCH)
    search.step = 6
    record = search.record(2.0)
    assert record["train_loss"] == pytest.approx(expected_loss / (3 * BATCH), rel=1e-5)
    assert record["train_top1_percent"] == pytest.approx(100 * expected_hits / (3 * BATCH))
    assert record["images_per_second"] == 3 * BATCH / 2
    assert search.sums == loop.EpochSums()


def test_record_describes_alpha():
    search = new_search()
    with torch.no_grad():
        for alpha in search.alphas:
            alpha.zero_()
    search.step = 6
    warm = search.record(1.0)
    assert warm["entropy"] == pytest.approx(sum(math.log(len(ops)) for ops in SPACE.choices))
    assert warm["expected_cost"] == pytest.approx(TABLE.uniform_expected)
    assert warm["argmax_path"] == [0, 0, 0, 0]
    assert warm["argmax_cost"] == TABLE.of_path((0, 0, 0, 0))
    assert warm["lambda"] is None
    assert warm["probabilities"][1] == [0.2] * 5
    search.step = 12
    assert search.record(1.0)["lambda"] == 0.3


def test_a_loss_that_is_not_finite_moves_no_weight():
    search = new_search()
    images, labels = next(batches(TRAIN, search, 0, 1))
    search.weight_step(images, labels)
    before = {name: p.detach().clone() for name, p in search.supernet.named_parameters()}
    moments = copy.deepcopy(flat(search.optimizer.state_dict()))
    sums = copy.copy(search.sums)
    with pytest.raises(NonFiniteLossError, match="weight step 1"):
        search.weight_step(images * math.nan, labels)
    assert all(torch.equal(p, before[name]) for name, p in search.supernet.named_parameters())
    moments_after = flat(search.optimizer.state_dict())
    assert {k for k in moments if k.endswith(".lr")} == {k for k in moments_after if k.endswith(".lr")}
    assert_same(
        {k: v for k, v in moments.items() if not k.endswith(".lr")},
        {k: v for k, v in moments_after.items() if not k.endswith(".lr")},
    )
    assert (search.step, search.sums) == (1, sums)


def test_gradient_clipping():
    clipped = new_search(replace(config(), weights=WeightOpt(n_epochs=2, grad_clip=1e-3, weight_decay=0.0)))
    images, labels = next(batches(TRAIN, clipped, 0, 1))
    clipped.weight_step(images, labels)
    norm = math.sqrt(sum(float(p.grad.square().sum()) for p in clipped.supernet.parameters() if p.grad is not None))
    assert norm == pytest.approx(1e-3, rel=1e-3)


def test_timing_changes_nothing():
    search = new_search()
    go_on(search, [], 8)
    batch = next(batches(TRAIN, search, 0, 1))
    before = everything(search)
    weight, arch = seconds_per_step(search, batch, len(batch[0]), repeats=1)
    assert weight > 0
    assert arch > 0
    assert_same(everything(search), before)
    assert all(alpha.grad is None or alpha.grad.shape == alpha.shape for alpha in search.alphas)


def test_the_time_of_an_architecture_step_is_that_of_its_own_images(monkeypatch):
    """By a clock that ticks once a reading; recipe paper with rl scores 1,000 images and trains on 256."""
    ticks = itertools.count()
    monkeypatch.setattr("proxyless_arch.base.timing.time.perf_counter", lambda: float(next(ticks)))
    search = new_search()
    batch = next(batches(TRAIN, search, 0, 1))
    assert seconds_per_step(search, batch, 3 * len(batch[0])) == (1.0, 3.0)


def test_no_table_no_cost():
    settings = replace(config(), target=Target(target_hardware="none"))
    search = Search(settings, SPACE, None, None, schedule_of(settings, N_TRAIN), torch.device("cpu"))
    records = []
    assert go_on(search, records)
    assert all(record["expected_cost"] is record["target"] is record["lambda"] is None for record in records)
    assert search.expected_cost() is None


@pytest.mark.parametrize("parts", [2, 3, 16])
def test_a_weight_step_in_parts_is_the_step_of_the_whole_batch(parts):
    """Where batch normalization does not see how large a part is, and nothing drops out."""
    settings = replace(config(), space=SpaceConfig(dropout=0.0))
    space = tiny_space(num_classes=10, preprocessing=RECIPE)
    found = []
    for number in (1, parts):
        search = new_search(replace(settings, data=replace(settings.data, accumulation=number)), space)
        frozen = search.supernet.eval()
        frozen.train = lambda mode=True, frozen=frozen: frozen
        for images, labels in itertools.islice(batches(TRAIN, search, 0, 3), 3):
            search.weight_step(images, labels)
        found.append(search)
    whole, split = found
    for name, tensor in whole.supernet.state_dict().items():
        torch.testing.assert_close(split.supernet.state_dict()[name], tensor, atol=2e-5, rtol=1e-3)
    assert split.sums.train_loss == pytest.approx(whole.sums.train_loss, rel=1e-5)
    assert (split.sums.train_hits, split.sums.train_images) == (whole.sums.train_hits, whole.sums.train_images)


def test_no_part_of_an_architecture_step_is_larger_than_one_of_a_weight_step():
    halves = new_search(replace(config(), data=DataConfig(train_batch_size=BATCH, accumulation=2)))
    assert [halves.arch_parts(images) for images in (4, 8, 9, 16, 40)] == [1, 1, 2, 2, 5]
    assert new_search().arch_parts(1000) == 1
