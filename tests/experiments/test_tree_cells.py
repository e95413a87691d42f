"""The study of tree-structured cells: what it makes of scores that are there, and what it counts."""

import numpy as np
import pytest
from scipy import stats

from experiments import tree_cells
from experiments.tree_cells import Study, full_run, interval_of_gap, outcome
from proxyless_arch.base.errors import InputError
from proxyless_arch.base.files import write_json


@pytest.fixture
def study(tmp_path):
    return Study(data_path="none.zip", work=tmp_path, n_test=1000)


def write_scores(study, own, others):
    home = study.work / "search0"
    for name, score in [("spec", own), *((f"random/{k}", score) for k, score in enumerate(others))]:
        write_json(home / f"{name}.score", {"params": 10, "macs": 20, "test_top1_percent": score})


def test_a_search_beside_its_random_networks(study):
    assert outcome(study, 0) is None
    write_scores(study, 52.0, [50.0])
    assert "gap" not in outcome(study, 0) and len(tree_cells.table([outcome(study, 0)])) == 2
    write_scores(study, 52.0, [50.0, 51.0, 49.0, 53.0])
    found = outcome(study, 0)
    assert (found["gap"], found["better_than"]) == (pytest.approx(1.25), 3)
    low, high = found["searched"]["interval_95"]
    assert low < 52 < high and high - low == pytest.approx(6.2, abs=0.1)  # 1000 images
    assert len(tree_cells.table([found])) == 2


def test_the_interval_holds_a_network_that_is_drawn_like_the_others():
    rng, held = np.random.default_rng(0), 0
    for _ in range(2000):
        own, *others = rng.normal(50, 2, 6)
        low, high = interval_of_gap(own, others)
        held += low <= 0 <= high
    assert stats.binomtest(held, 2000, 0.95).pvalue > 0.01


def test_another_study_in_the_folder_is_refused(study):
    tree_cells.check_same(study, tree_cells.FACTS)
    tree_cells.check_same(study, tree_cells.FACTS)
    with pytest.raises(InputError, match=r"study\.json"):
        tree_cells.check_same(Study(data_path="none.zip", work=study.work, n_test=999), tree_cells.FACTS)


def test_what_the_papers_run_takes():
    found = full_run()
    assert found["train_macs"] == 3 * 1_213_155_872 * 50_000 * 600
    assert 3e16 < found["search_macs"] < 6e16 and 10e9 < found["search_memory_bytes"] < 20e9
    faster, slower = found["hours_on_a_v100_at_shares_of_its_peak"]["search"]
    assert slower == pytest.approx(3 * faster)
