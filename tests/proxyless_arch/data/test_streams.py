"""The table of random streams: no two alike, numbers as they always were."""

import zlib

import numpy as np
import pytest

from proxyless_arch.data import streams
from proxyless_arch.data.streams import ProofStream, Stream, TorchStream


@pytest.mark.parametrize("kind", [Stream, ProofStream, TorchStream])
def test_no_two_streams_of_a_kind_share_a_number(kind):
    assert len(set(map(int, kind.__members__.values()))) == len(kind.__members__) > 2


def test_numpy_streams_are_what_they_always_were():
    for seed, place in ((0, (3,)), (7, (2, 5)), (2**31 - 1, ())):
        for stream, number in (
            (Stream.SPLIT, 1),
            (Stream.AUGMENT, 3),
            (Stream.EXPORT_IMAGES, 4),
            (ProofStream.VALID, 3),
        ):
            expected = np.random.default_rng([seed, number, *place]).integers(0, 2**62, 4)
            np.testing.assert_array_equal(streams.numpy_rng(seed, stream, *place).integers(0, 2**62, 4), expected)


def test_torch_seeds_are_what_they_always_were():
    high, low = np.random.SeedSequence([3, 2, 11]).generate_state(2, np.uint32)
    assert streams.torch_seed(3, TorchStream.WEIGHT_PATH, 11) == (int(high) << 32 | int(low)) & (2**63 - 1)
    expected = int(np.random.SeedSequence([3, 5, 11, 1]).generate_state(1)[0])
    assert streams.dropout_seed(3, TorchStream.WEIGHT_DROPOUT, 11, 1) == expected
    expected = int(np.random.SeedSequence([3, zlib.crc32(b"stem")]).generate_state(1)[0])
    assert streams.named_seed(3, "stem") == expected


def test_a_place_is_told_from_its_neighbours():
    def draw(stream, *place):
        return streams.numpy_rng(5, stream, *place).integers(0, 2**62)

    keys = [(stream, epoch, image) for stream in Stream for epoch in range(3) for image in range(4)]
    assert len({draw(*key) for key in keys}) == len(keys)
    seeds = {streams.torch_seed(5, stream, step) for stream in TorchStream for step in range(50)}
    assert len(seeds) == 50 * len(TorchStream)
