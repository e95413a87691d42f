"""A run folder: its search space, read or made again, and files that hold another kind of value than they should."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

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


OLD = Path(__file__).resolve().parents[2] / "fixtures" / "first_generation"


@pytest.mark.parametrize(
    ("name", "key", "value", "place"),
    [
        ("result.json", "table_scale", 0, "table_scale"),
        ("result.json", "table_scale", "a", "table_scale"),
        ("result.json", "path", 5, "path"),
        ("result.json", "path", [0, "1"], "path[1]"),
        ("result.json", "path", None, "path"),
        ("result.json", "latency_source", 5, "latency_source"),
        ("result.json", "wall_seconds", "x", "wall_seconds"),
        ("result.json", "n_test_images", "x", "n_test_images"),
        ("result.json", "cost_unit", "s", "cost_unit"),
        ("result.json", "measured_on", {"device": "cpu"}, "measured_on.runtime"),
        ("result.json", "projection_changes", [{}], "projection_changes[0].block"),
        ("environment.json", "date", 5, "date"),
        ("environment.json", "command", [], "command"),
    ],
)
def test_a_value_of_another_kind_is_named(name, key, value, place, tmp_path):
    write_run(tmp_path)
    file = tmp_path / name
    file.write_text(json.dumps(json.loads(file.read_text()) | {key: value}))
    with pytest.raises(InputError) as caught:
        read_run(tmp_path)
    assert (caught.value.place, caught.value.source) == (place, str(file))


@pytest.mark.parametrize(
    ("networks", "place"),
    [
        (5, "networks"),
        ([{}], "networks[0].spec"),
        ([{"spec": "../x.json"}], "networks[0].path"),
        ([{"spec": "../x.json", "path": [0], "cost": 1, "macs": 1, "params": 1}], "networks[0].spec"),
        ([{"spec": "/x.json", "path": [0], "cost": 1, "macs": 1, "params": 1}], "networks[0].spec"),
    ],
)
def test_random_networks_of_another_kind_are_named(networks, place, tmp_path):
    shutil.copytree(OLD / "search_random", tmp_path, dirs_exist_ok=True)
    file = tmp_path / "result.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"networks": networks}))
    with pytest.raises(InputError) as caught:
        read_run(tmp_path)
    assert (caught.value.place, caught.value.source) == (place, str(file))
