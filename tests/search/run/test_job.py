"""What a search is made of before it starts."""

import pytest

from search.config import SearchConfig
from search.run import job


@pytest.mark.parametrize(("cores", "ranks", "readers"), [(1, 1, 1), (2, 1, 2), (16, 1, 4), (16, 8, 2), (4, 8, 1)])
def test_the_ranks_of_a_machine_share_its_cores(cores, ranks, readers, monkeypatch):
    monkeypatch.setattr(job, "usable_cores", lambda: cores)
    monkeypatch.setattr(job.distributed, "local_size", lambda: ranks)
    photos = SearchConfig.of(dataset="imagefolder", data_path="photos", recipe="default")
    assert job.readers_of(photos) == readers
    assert job.readers_of(SearchConfig.of()) == 0
    assert job.readers_of(SearchConfig.of(dataset="imagefolder", data_path="photos", recipe="default", workers=7)) == 7
