"""Which batch fits the memory there is: known before a command starts, for search, training and scoring alike.

A command says what it needs at each place (the machine's memory, a GPU's): ``fixed`` bytes, more for each image that
is computed at once, and more for each image of a batch that is read or waits. The plan is to compute a batch in as few
parts as fit. A batch that a person named is computed whole, or as they say, or refused with the one that fits.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from proxyless_arch.arch.memory import BYTES, scoring_bytes
from proxyless_arch.arch.spec import ArchSpec, Preprocessing
from proxyless_arch.arch.walk import total_params, walk
from proxyless_arch.base import settings
from proxyless_arch.base.errors import InputError
from proxyless_arch.base.memory import format_bytes
from proxyless_arch.base.words import ACCUMULATION, BATCH_SIZE, RESOLUTION, WORKERS
from proxyless_arch.data.datasets import ImageDataset
from proxyless_arch.data.images import Augment

Config = TypeVar("Config")

USABLE = 0.9
"""The share of the free memory that a plan fills: counts are not exact, and other programs live here too."""
FIRST_STEP_BYTES = 300 * 10**6
"""What the first steps load and never give back: kernels, threads, the libraries that write and draw."""
HEAP = 1.4
"""What a process that keeps its freed memory (machine.tune_allocator) takes of what its steps hold at once: holes stay
between tensors. 1.2 to 1.4 were measured (benchmarks/memory_use.py)."""
SCORING_HEAP = 1.75
"""The same where a network is scored: up to 1.3 of 96 images, 1.6 and 1.7 of 128 and 256."""
READER_BYTES = 40 * 10**6
"""A process that reads images, without any: what it cannot share with the process that it was copied from."""
NAME_BYTES = 150
"""Of each image's name in such a process."""
BATCHES_PER_READER = 5
"""Two batches wait, and one is being made: as images, as an array, and on its way."""
SCORED = 32
"""Images of a batch that is scored, where no other number is given."""
SCORING_COPIES = 3
"""Of the weights: as they were read, in the network, and with batch normalization folded."""
SMALLEST_PART = 2
"""Images of a part: batch normalization needs two."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How images come into memory: ``loaders`` at once, each with ``readers`` processes or threads (0: none)."""

    image_bytes: int
    readers: int
    loaders: int = 1
    are_processes: bool = True
    n_images: int = 0
    cached_bytes: int = 0
    """Of the decoded images that each process keeps."""

    @property
    def fixed(self) -> int:
        if not self.are_processes or not self.readers:
            return self.cached_bytes
        own = READER_BYTES + NAME_BYTES * self.n_images + self.cached_bytes
        return self.readers * self.loaders * own

    @property
    def per_image(self) -> int:
        """Bytes of each image of a batch."""
        waiting = BATCHES_PER_READER * self.readers * self.loaders
        return self.image_bytes * ((waiting or 1) + 1)


def image_bytes(preprocessing: Preprocessing) -> int:
    """Of a prepared image."""
    return BYTES * math.prod(preprocessing.hwc)


@dataclass(frozen=True)
class Free:
    """Bytes that this process may take: of the machine's memory and, on a GPU, of its own. None: not known."""

    machine: int | None
    gpu: int | None = None
    has_gpu: bool = False


ANY_AMOUNT = Free(None)


@dataclass(frozen=True, kw_only=True)
class Place:
    """What a command needs in one memory, in bytes, and what is free there (None: not known)."""

    name: str
    free: int | None
    fixed: int = 0
    per_image: int = 0
    per_image_read: int = 0

    def needed(self, images: int, parts: int = 1) -> int:
        """For batches of ``images``, computed in ``parts``."""
        return self.fixed + images * self.per_image_read + -(-images // parts) * self.per_image

    def holds(self, images: int, parts: int = 1) -> bool:
        return self.free is None or self.needed(images, parts) <= USABLE * self.free

    def fewest_parts(self, images: int) -> int | None:
        """In how many parts a batch fits; None where the smallest do not."""
        if self.holds(images):
            return 1
        assert self.free is not None
        room = USABLE * self.free - self.fixed - images * self.per_image_read
        part = int(room // self.per_image) if self.per_image else 0
        parts = -(-images // part) if part > 0 else images
        return parts if images // parts >= SMALLEST_PART else None

    def most_images(self) -> int | None:
        """The largest batch that fits whole; None where any does."""
        each = self.per_image + self.per_image_read
        if self.free is None or not each:
            return None
        return max(0, int((USABLE * self.free - self.fixed) // each))


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How each batch is computed. ``images``: of one process; ``parts``: one after the other."""

    places: tuple[Place, ...]
    images: int
    parts: int

    @property
    def part_images(self) -> int:
        """Images that are computed at once."""
        return -(-self.images // self.parts)

    @property
    def fits(self) -> bool:
        return all(place.holds(self.images, self.parts) for place in self.places)

    def at_most(self, images: int, per_image: int) -> int:
        """How many of ``images`` to compute at once where each takes other bytes, as scored ones do: one at least."""
        others = [replace(place, per_image=per_image if place.per_image else 0) for place in self.places]
        most = most_images(others)
        return images if most is None else max(1, min(images, most))

    def parts_of(self, images: int) -> int:
        """In how many parts to compute a batch of another size: none is larger than this plan's."""
        if self.parts == 1 and images <= self.images:
            return 1
        return max(-(-images // self.part_images), 1)

    def lines(self) -> list[tuple[str, str]]:
        """For a header, as (label, text)."""
        how = f"{self.images} images at once"
        if self.parts > 1:
            how = f"{self.images} images per step in {self.parts} parts of {self.part_images}"
        found = [("memory", f"{', '.join(map(self._of, self.places))}; {how}")]
        if self.parts > 1:
            found.append(
                ("note", f"gradients add up over the parts; BN statistics are of {self.part_images} images each")
            )
        if not self.fits:
            found.append(("note", "less memory is free than this is expected to need: it may be killed"))
        return found

    def _of(self, place: Place) -> str:
        of_free = f" of {format_bytes(place.free)} free" if place.free is not None else ""
        return f"about {format_bytes(place.needed(self.images, self.parts))}{of_free}{place.name}"


def places(free: Free, *, fixed: int, per_image: int, reading: Reading, heap: float = 1) -> tuple[Place, ...]:
    """Where a command needs what.

    Args:
        fixed: bytes of weights and their copies where the network runs.
        per_image: bytes of each image that is computed at once, there.
        reading: into the machine's memory.
        heap: what the process takes of the memory that it holds at once; more than 1 where it tunes its allocator.
    """
    read = Place(name="", free=free.machine, fixed=FIRST_STEP_BYTES + reading.fixed, per_image_read=reading.per_image)
    if not free.has_gpu:
        return (replace(read, fixed=read.fixed + fixed, per_image=int(heap * per_image)),)
    return Place(name=" on the GPU", free=free.gpu, fixed=FIRST_STEP_BYTES + fixed, per_image=per_image), read


def most_images(places: Iterable[Place]) -> int | None:
    """The largest batch of one process that fits whole at every place; None where any does."""
    known = [most for place in places if (most := place.most_images()) is not None]
    return min(known) if known else None


def fewest_parts(places: Iterable[Place], images: int) -> int | None:
    """In how many parts a batch fits at every place; None where it does not."""
    known = [place.fewest_parts(images) for place in places]
    return None if None in known else max(filter(None, known), default=1)


def scoring_plan(spec: ArchSpec, batch_size: int | None, reading: Reading, free: Free) -> Plan:
    """The plan for scoring a network in batches of ``batch_size`` images (None: SCORED, or as many as fit).

    Raises InputError for a batch that does not fit, with the one that would.
    """
    here = places(
        free,
        fixed=SCORING_COPIES * BYTES * total_params(spec),
        per_image=scoring_bytes(walk(spec), spec.padding),
        reading=reading,
        heap=SCORING_HEAP,
    )
    most = most_images(here)
    usual = SCORED if most is None else max(1, min(SCORED, most))
    found = Plan(places=here, images=usual if batch_size is None else batch_size, parts=1)
    if not found.fits:
        raise _too_large(found, None, 1)
    return found


def plan(
    places: Sequence[Place], images: int, accumulation: int | None, processes: int = 1, *, keeps: bool = False
) -> Plan:
    """The plan for batches of ``images`` in each of ``processes``.

    Args:
        accumulation: the parts of a batch; None: as few as fit.
        keeps: a run that is resumed goes on as it was begun, whatever is free now.

    Raises:
        InputError: no plan fits, or not the one that was asked for. It names the batch that would, and the parts.
    """
    fewest = fewest_parts(places, images)
    parts = accumulation if accumulation is not None else fewest
    found = Plan(places=tuple(places), images=images, parts=parts or 1)
    if keeps or (parts is not None and found.fits):
        return found
    raise _too_large(found, fewest, processes)


def _too_large(wanted: Plan, fewest: int | None, processes: int) -> InputError:
    place = next(place for place in wanted.places if not place.holds(wanted.images, wanted.parts))
    assert place.free is not None
    how = f"{wanted.images} images at once" if wanted.parts == 1 else f"{wanted.images} images in {wanted.parts} parts"
    each = f" in each of {processes} processes" if processes > 1 else ""
    needed = format_bytes(place.needed(wanted.images, wanted.parts))
    problem = f"{how}{each} need about {needed}{place.name}, {format_bytes(place.free)} are free"
    ways = []
    if (most := rounded_batch(most_images(wanted.places) or 0)) >= SMALLEST_PART:
        ways.append(f"{BATCH_SIZE.flag} {most * processes} fits")
    if fewest is not None:
        ways.append(f"{ACCUMULATION.flag} {fewest} computes the same batch in parts that fit")
    if not ways:
        ways.append(f"close other programs, or give fewer {WORKERS.flag} or a smaller {RESOLUTION.flag}")
    return InputError(f"{problem}: {', or '.join(ways)}", BATCH_SIZE.flag)


def rounded_batch(images: int) -> int:
    """The next smaller batch that a person would name: a multiple of 8, below 16 any."""
    return images if images < 16 else images - images % 8


def cached_bytes(preprocessing: Preprocessing, *sets: tuple[ImageDataset, Augment | None]) -> int:
    """Bytes of decoded images that a process which reads all of ``sets`` comes to keep (data/datasets.CACHE_BYTES)."""
    return sum(images.bytes_to_cache(preprocessing, augment) for images, augment in sets)


def as_begun(saved: Config, wanted: Config) -> Config:
    """``wanted`` with the batch, and its parts, that the run ``saved`` was begun with, where it leaves them open."""
    group = str(settings.flags(type(saved))["accumulation"][0])
    if getattr(wanted, group).accumulation is not None:
        return wanted
    begun = settings.to_dict(saved, "", 0)
    return settings.with_settings(wanted, {name: begun[name] for name in ("train_batch_size", "accumulation")})


def whole_if_named(config: Config, given: Mapping[str, Any]) -> Config:
    """``config`` with a batch that was ``given`` computed whole: it is kept or refused, never divided unasked."""
    names = settings.spellings(type(config))
    is_named = any(names.get(name) == "train_batch_size" for name in given)
    group = settings.flags(type(config))["accumulation"][0]
    if not is_named or getattr(config, str(group)).accumulation is not None:
        return config
    return settings.with_settings(config, {"accumulation": 1})
