"""How a score is shown: no decimal that its images do not carry, and the counts beside it."""

import math

import pytest

from proxyless_arch.apps.scores import Z, score_interval, shown_counts, shown_percent, shown_score
from tests.errors import named


@pytest.mark.parametrize(
    ("hits", "n_images", "shown"),
    [
        (351, 360, "97.5 % (351 of 360 test images)"),
        (283, 287, "98.6 % (283 of 287 test images)"),
        (1, 3, "33.3 % (1 of 3 test images)"),
        (999, 999, "100.0 % (999 of 999 test images)"),
        (634, 1000, "63.40 % (634 of 1,000 test images)"),
        (37_295, 50_000, "74.59 % (37,295 of 50,000 test images)"),
    ],
)
def test_counts_come_back_from_the_percentage(hits, n_images, shown):
    assert shown_score(100 * hits / n_images, n_images, "test images") == shown


def test_every_count_comes_back():
    for n_images in (7, 360, 997):
        for hits in range(n_images + 1):
            assert shown_counts(100 * hits / n_images, n_images) == f"{hits} of {n_images} images"


def test_an_old_record_without_the_number():
    assert shown_percent(97.5, None) == "97.5 %"
    named(shown_score(97.5, None, "test images"), "97.5 %", "test images", "not recorded")


@pytest.mark.parametrize(("hits", "n"), [(0, 10), (1, 10), (353, 360), (360, 360), (5000, 10000)])
def test_what_was_seen_lies_at_the_edge_of_what_an_interval_expects(hits, n):
    """At each end p, the share seen is 1.96 standard deviations sqrt(p (1 - p) / n) away, or p is 0 or 1."""
    low, high = (end / 100 for end in score_interval(100 * hits / n, n))
    assert 0 <= low <= hits / n <= high <= 1 and low < high
    for end in (low, high):
        distance = abs(hits / n - end) / math.sqrt(end * (1 - end) / n) if 0 < end < 1 else Z
        assert distance == pytest.approx(Z, rel=1e-6) or end == pytest.approx(hits / n, abs=1e-12)
