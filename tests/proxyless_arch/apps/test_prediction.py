"""The most likely classes of one image."""

from dataclasses import replace

import numpy as np
import pytest

from proxyless_arch.apps.prediction import class_names, most_likely
from proxyless_arch.arch import catalog
from proxyless_arch.base.errors import InputError
from tests.proxyless_arch.nets import three_blocks

SPEC = replace(three_blocks(), class_names=("v", "w", "x", "y", "z"))


def test_probabilities_are_a_softmax():
    """Logits that are logarithms of counts: the shares of the counts, whatever is added to all."""
    counts = np.array([1, 2, 4, 8, 5], np.float32)
    for shift in (0, 80, -700):
        found = most_likely(np.log(counts) + np.float32(shift), SPEC, top=5)
        assert [entry.name for entry in found] == ["y", "z", "x", "w", "v"]
        assert [entry.label for entry in found] == [3, 4, 2, 1, 0]
        np.testing.assert_allclose([entry.probability for entry in found], np.array([8, 5, 4, 2, 1]) / 20, rtol=1e-4)


def test_equal_logits_give_the_lower_label_first():
    assert [entry.label for entry in most_likely(np.array([0, 1, 0, 1, 1]), SPEC, top=4)] == [1, 3, 4, 0]


@pytest.mark.parametrize(("top", "n"), [(1, 1), (5, 5), (9, 5)])
def test_how_many(top, n):
    assert len(most_likely(np.zeros(5), SPEC, top)) == n


@pytest.mark.parametrize(
    ("shape", "top", "place"), [((5,), 0, "top"), ((4,), 1, "logits"), ((1, 5), 1, "logits")], ids=str
)
def test_what_is_refused(shape, top, place):
    with pytest.raises(InputError) as caught:
        most_likely(np.zeros(shape), SPEC, top)
    assert caught.value.place == place


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_an_overflow_is_no_prediction(bad):
    with pytest.raises(InputError) as caught:
        most_likely(np.array([0, 1, bad, 2, 3]), SPEC)
    assert caught.value.place == "logits"


def test_class_names():
    assert class_names(SPEC) == SPEC.class_names
    assert class_names(replace(SPEC, class_names=()))[4] == "class 4"
    assert class_names(catalog.load("proxyless_gpu"))[0] == "tench"
    few = replace(SPEC, class_names=("n01440764", "n01443537", "n02012849", "n03126707", "n02113186"))
    assert class_names(few) == ("tench", "goldfish", "crane", "crane", "Cardigan")
    mixed = (*few.class_names[:4], "own")
    assert class_names(replace(SPEC, class_names=mixed)) == mixed
