"""The search space of a run folder: read where it is written down, made again where it is not."""

from dataclasses import replace

import pytest

from proxyless_arch.base.errors import InputError
from proxyless_arch.space.search_space import read_space, write_space
from search.reporting.run_folder import read_run
from tests.search.made_run import write_run


def test_the_space_is_read_from_its_file(tmp_path):
    write_run(tmp_path, finished=False)
    named = replace(read_space(tmp_path / "space.json"), name="mine", num_classes=2, class_names=("left", "right"))
    write_space(tmp_path / "space.json", named)
    assert read_run(tmp_path).space == named


@pytest.mark.parametrize("finished", [True, False])
def test_a_folder_of_the_first_version_has_none(tmp_path, finished):
    write_run(tmp_path, finished=finished)
    space = read_run(tmp_path).space
    (tmp_path / "space.json").unlink()
    again = read_run(tmp_path)
    assert (again.space.edges, again.space.num_classes) == (space.edges, space.num_classes)
    assert again.table is not None


def test_a_damaged_file_is_named(tmp_path):
    write_run(tmp_path)
    (tmp_path / "space.json").write_text("{}")
    with pytest.raises(InputError) as caught:
        read_run(tmp_path)
    assert caught.value.source == str(tmp_path / "space.json")
