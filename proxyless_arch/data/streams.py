"""Every random stream of the project, numbered once: what is random is a function of (seed, stream, place) alone.

``place`` says which draw of the stream: an epoch, a step, an image. So nothing random needs to be saved to resume, and
no draw moves another one. numpy pads short seeds with zeros: ``[seed, 5]`` and ``[seed, 5, 0]`` are one generator, so
the number comes right behind the seed and no two streams of a kind share one.

numpy's and torch's streams are numbered apart. They are other generators (PCG64 and Mersenne twister), so an equal
number is not an equal stream. A number never changes: the runs of a seed would become others.

Three draws have no number, as before there were any: the initial weights of a network trained from scratch,
``torch.Generator().manual_seed(seed)`` itself; a Keras layer's, which its name tells apart (named_seed); and the
networks that a device is profiled on, ``numpy.random.default_rng(seed)``: with them the shipped tables were made, and
a phone's times name them. tests/house/test_random_streams.py has the files that may make a generator by themselves.
"""

from __future__ import annotations

import zlib
from enum import IntEnum, unique

import numpy as np


@unique
class Stream(IntEnum):
    """Streams of numpy generators; behind each, its place."""

    SPLIT = 1
    """(label): which images of a class are held out."""
    ORDER = 2
    """(epoch): the order of the training images."""
    AUGMENT = 3
    """(epoch, image): how an image is changed. Alpha's images have the seed + 1, a fine-tune's seed + 2."""
    EXPORT_IMAGES = 4
    """Images that check and calibrate an exported file."""
    INT8_HALVES = 5
    """experiments/int8_study.py: which images calibrate and which score."""
    RECALIBRATION = 8
    """Training images for BN statistics."""
    RANDOM_NETWORKS = 9
    """Networks of the random control."""
    TIMING_ORDER = 10
    """(round, cases): the order in which the cases of a round are timed."""
    CLASSIFIER_FIT = 11
    """Training images that a fresh classifier is fitted to."""
    PREDICTOR = 12
    """(round): the networks that the search by a predictor asks for."""
    SOLVE_FOLDS = 13
    """Which timed networks are held out together while the times of operations are solved for."""
    TIMED_WEIGHTS = 14
    """Weights of the graphs that are timed."""
    PRUNING_CHOICE = 15
    """Plans that the pruning by damages or at random looks at."""
    AGENT = 16
    """Actions of AMC's and HAQ's agent, and what it learns from."""
    BIT_IMAGES = 17
    """Which images calibrate, choose and test bits, where no part of them is for training."""
    WARMUP_SIZE = 18
    """(weight step): the size of the images in a warm-up on several."""
    SHARD_ORDER = 19
    """Images in the shards of a data set."""


@unique
class ProofStream(IntEnum):
    """Streams of experiments/proof.py, which reads its images by itself; its record was made with these numbers."""

    ORDER = 1
    """(epoch): the order of the training images."""
    TRAIN = 2
    """(step): shifts and mirrors of a training batch."""
    VALID = 3
    """(step): which images alpha sees, and how."""


@unique
class TorchStream(IntEnum):
    """Streams of torch generators; behind each, its place."""

    ALPHA = 0
    """Initial alpha."""
    ARCH_STEP = 1
    """(architecture step): paths and gates of an alpha update."""
    WEIGHT_PATH = 2
    """(weight step, number): the paths that are trained, numbered from 0."""
    SUPERNET = 3
    """Initial weights of the supernet."""
    STEP_TIMING = 4
    """(repeat): paths with which a step is timed."""
    WEIGHT_DROPOUT = 5
    """(weight step, rank): dropout masks of the supernet's training."""
    ARCH_DROPOUT = 6
    """(architecture step, rank): dropout masks of an alpha update."""
    TRAIN_DROPOUT = 7
    """(step, rank): dropout masks of the training of one network."""
    AGENT_WEIGHTS = 8
    """Initial weights of AMC's agent."""
    FEATURE_PLACES = 9
    """Places of an image whose features pruning looks at."""
    ATTACK = 10
    """(batch, attack): random starts, and the squares, of an attack."""
    LARGEST_PATH = 11
    """(weight step, number): whether the largest of the networks that share weights is trained, in place of a path."""


def numpy_rng(seed: int, stream: Stream | ProofStream, *place: int) -> np.random.Generator:
    """The generator of one draw."""
    return np.random.default_rng([seed, stream, *place])


def torch_seed(seed: int, stream: TorchStream, *place: int) -> int:
    """63 bits for the torch generator of one draw."""
    high, low = _words(seed, stream, *place).generate_state(2, np.uint32).tolist()
    return (high << 32 | low) & (2**63 - 1)


def dropout_seed(seed: int, stream: TorchStream, step: int, rank: int) -> int:
    """32 bits for torch's own generator, which dropout alone draws from: other masks each step, and on each rank."""
    return int(_words(seed, stream, step, rank).generate_state(1)[0])


def named_seed(seed: int, name: str) -> int:
    """32 bits for the initial weights of the Keras layer ``name``."""
    return int(_words(seed, zlib.crc32(name.encode())).generate_state(1)[0])


def _words(*words: int) -> np.random.SeedSequence:
    return np.random.SeedSequence(list(words))
