"""The plan for a batch against trying every number of parts, and what is said where none fits."""

import random
from dataclasses import dataclass, field

import pytest

from proxyless_arch.apps import memory
from proxyless_arch.apps.memory import Free, Place, Plan, Reading, plan, whole_if_named
from proxyless_arch.base.errors import InputError
from proxyless_arch.base.settings import setting
from tests.errors import refused

MB = 10**6


def place(free=1000, fixed=100, per_image=10, read=1, name=""):
    sizes = {"fixed": fixed * MB, "per_image": per_image * MB, "per_image_read": read * MB}
    return Place(name=name, free=None if free is None else free * MB, **sizes)


def test_a_batch_that_fits_is_computed_whole():
    found = plan([place()], 64, None)  # 100 + 64 + 640 of 900
    assert (found.parts, found.part_images, found.fits) == (1, 64, True)
    assert [label for label, _ in found.lines()] == ["memory"]


def test_a_batch_that_does_not_is_divided_and_the_header_says_what_that_does():
    found = plan([place()], 256, None)  # 100 + 256 + 544 / 10 a part
    assert (found.parts, found.part_images) == (5, 52)
    (label, text), (note, said) = found.lines()
    assert (label, note) == ("memory", "note")
    assert "876 MB of 1.0 GB free" in text
    assert "5 parts of 52" in text
    assert "BN" in said


@pytest.mark.parametrize("seed", range(40))
def test_as_few_parts_as_fit(seed):
    rng = random.Random(seed)
    here = [
        place(rng.randint(50, 3000), rng.randint(0, 300), rng.randint(1, 40), rng.choice((0, 1, 5)))
        for _ in range(rng.choice((1, 2)))
    ]
    images = rng.randint(2, 300)
    fitting = [
        parts
        for parts in range(1, images + 1)
        if all(each.holds(images, parts) for each in here) and (parts == 1 or images // parts >= 2)
    ]
    if fitting:
        assert plan(here, images, None).parts == fitting[0]
        assert plan(here, images, fitting[0]).fits
    else:
        with pytest.raises(InputError):
            plan(here, images, None)


def test_a_batch_that_was_named_is_kept_or_refused_with_the_one_that_fits():
    assert plan([place()], 72, 1).parts == 1  # 100 + 72 * 11 = 892
    with pytest.raises(InputError) as caught:
        plan([place()], 256, 1)
    assert caught.value.place == "--batch_size"
    for words in ("2.9 GB", "1.0 GB are free", "--batch_size 72 fits", "--accumulation 5"):
        assert words in str(caught.value)


def test_several_processes_name_the_batch_of_all():
    with pytest.raises(InputError, match="--batch_size 288 fits"):
        plan([place()], 256, 1, processes=4)


def test_where_nothing_fits_no_batch_is_named():
    with pytest.raises(InputError) as caught:
        plan([place(free=60)], 64, None)
    assert "--batch_size" not in caught.value.problem
    assert "--workers" in caught.value.problem


def test_parts_that_are_too_large():
    with refused("--batch_size", "256 images", "2 parts", "--accumulation 5"):
        plan([place()], 256, 2)


def test_a_resumed_run_goes_on_and_says_that_memory_is_short():
    found = plan([place()], 256, 2, keeps=True)
    assert (found.parts, found.fits) == (2, False)
    assert [label for label, _ in found.lines()] == ["memory", "note", "note"]


def test_memory_that_is_not_known_refuses_nothing():
    found = plan([place(free=None)], 100_000, None)
    assert (found.parts, found.fits) == (1, True)
    assert "free" not in found.lines()[0][1]


def test_a_gpu_computes_and_the_machine_reads():
    reading = Reading(image_bytes=MB, readers=2)
    gpu, machine = memory.places(Free(8000 * MB, 900 * MB, True), fixed=5 * MB, per_image=7 * MB, reading=reading)
    assert (gpu.per_image, gpu.per_image_read, machine.per_image, machine.per_image_read) == (7 * MB, 0, 0, 11 * MB)
    with pytest.raises(InputError, match="on the GPU"):
        plan([gpu, machine], 256, 1)
    (one,) = memory.places(Free(8000 * MB), fixed=5 * MB, per_image=7 * MB, reading=reading)
    assert one.needed(10) == gpu.needed(10) + machine.needed(10) - memory.FIRST_STEP_BYTES
    (kept,) = memory.places(Free(8000 * MB), fixed=5 * MB, per_image=10 * MB, reading=reading, heap=memory.HEAP)
    assert kept.per_image == 14 * MB


def test_readers_keep_batches_and_what_they_decode():
    none = Reading(image_bytes=MB, readers=0, cached_bytes=9)
    assert (none.fixed, none.per_image) == (9, 2 * MB)
    four = Reading(image_bytes=MB, readers=4, loaders=2, n_images=10, cached_bytes=9)
    assert four.fixed == 8 * (memory.READER_BYTES + 10 * memory.NAME_BYTES + 9)
    assert four.per_image == MB * (8 * memory.BATCHES_PER_READER + 1)
    threads = Reading(image_bytes=MB, readers=4, are_processes=False, cached_bytes=9)
    assert threads.fixed == 9


def test_other_batches_are_no_larger_than_the_plan():
    divided = Plan(places=(place(),), images=256, parts=5)
    assert [divided.parts_of(size) for size in (52, 53, 256, 512)] == [1, 2, 5, 10]
    whole = Plan(places=(place(),), images=64, parts=1)
    assert [whole.parts_of(size) for size in (32, 64, 128)] == [1, 1, 2]
    assert whole.at_most(250, 1 * MB) == 250  # 100 + 250 * 2 of 900
    assert whole.at_most(250, 7 * MB) == 100
    assert whole.at_most(250, 5000 * MB) == 1


@dataclass(frozen=True)
class Batches:
    train_batch_size: int = setting(256, "images", flag="--batch_size")
    accumulation: int | None = setting(None, "parts")


@dataclass(frozen=True)
class Config:
    recipe: str = ""
    data: Batches = field(default_factory=Batches)


def test_a_batch_of_the_recipe_may_be_divided_and_one_that_was_named_is_not():
    assert whole_if_named(Config(), {}).data.accumulation is None
    for name in ("train_batch_size", "batch_size"):
        assert whole_if_named(Config(), {name: 256}).data.accumulation == 1
    asked = Config(data=Batches(accumulation=4))
    assert whole_if_named(asked, {"train_batch_size": 256, "accumulation": 4}) == asked
