"""The table of random streams: no two alike, numbers as they always were, and no generator made beside it."""

import ast
import zlib
from pathlib import Path

import numpy as np
import pytest

from proxyless_arch.data import streams
from proxyless_arch.data.streams import ProofStream, Stream, TorchStream

ROOT = Path(__file__).resolve().parents[3]
MAKERS = {"default_rng", "SeedSequence", "RandomState", "manual_seed", "PCG64", "Random"}


def generators_of_lists(source: str) -> list[int]:
    """Lines that seed a generator with several words, or spell out a SeedSequence."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        words = any(isinstance(given, ast.List | ast.Tuple) for given in node.args)
        if name == "SeedSequence" or (name in MAKERS and words):
            found.append(node.lineno)
    return found


def test_generators_are_made_of_several_words_here_alone():
    files = [path for path in ROOT.rglob("*.py") if not {".venv", "tests"} & set(path.relative_to(ROOT).parts)]
    made = {path.relative_to(ROOT).as_posix() for path in files if generators_of_lists(path.read_text("utf-8"))}
    assert made == {"proxyless_arch/data/streams.py"}


def test_the_search_for_generators_finds_them():
    source = "import numpy as np\nnp.random.default_rng([1, 2])\ndefault_rng((3, n))\nx = np.random.SeedSequence(y)\n"
    assert generators_of_lists(source + "np.random.default_rng(0)\n") == [2, 3, 4]


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
