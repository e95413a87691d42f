"""experiments/prune_time.py: its intervals, and how a network comes to its share of the time."""

import pytest

from experiments import prune_time as study
from proxyless_arch.arch.shrink import Shrunk


def test_the_interval_of_a_median_leaves_out_what_order_statistics_allow():
    assert study.median_interval([3.0, 1.0, 2.0]) == (1.0, 3.0)
    assert study.median_interval([9, 1, 8, 2, 7, 3, 6, 4, 5]) == (2, 8)


class Clock(study.Clock):
    """Networks take 1.2 times what is predicted; what is chosen costs 0.99 of what it may."""

    def next_choice(self, product):
        self.choosers = {0: self}
        return super().next_choice(product)

    @property
    def priced(self):
        return None, None

    def choose(self, way, source, share):
        return study.Choice(Shrunk({"blocks.1": round(1000 * share)}), 0.99 * share)

    def timed(self, number, choices):
        return {product.name: [1.2 * choice.predicted] * 3 for product, choice in choices.items()}


def test_a_network_that_is_off_is_chosen_again_for_what_makes_up_for_it(tmp_path, capsys):
    clock = Clock(study.TimeStudy(work=tmp_path), "onnxruntime", {})
    choices, last = clock.landed
    assert len(choices) == len(study.SHARES) * len(study.WAYS)
    for product, tried in clock.tried.items():
        assert [measured / product.share for _, measured in tried] == pytest.approx([1.188, 0.99])
        assert choices[product] == tried[1][0]
        assert last[product.name][0] == pytest.approx(0.99 * product.share)


def test_every_product_has_a_file_of_its_own(tmp_path):
    names = [product.name for product in study.products(study.TimeStudy(work=tmp_path, seeds=2))]
    assert len(set(names)) == len(names) == 2 * len(study.SHARES) * len(study.WAYS)
