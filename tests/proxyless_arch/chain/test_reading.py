"""A chain read back from run folders: its figures, and what is said of parents that were moved, changed or are gone."""

import shutil
from dataclasses import replace

import pytest

from proxyless_arch.arch.codec import write_spec
from proxyless_arch.base.files import read_json, write_json
from proxyless_arch.chain import reading
from proxyless_arch.chain.reading import is_in_chain, read_chain
from proxyless_arch.chain.values import Cost, How, Kind
from tests.errors import refused
from tests.proxyless_arch.chain.made_chain import (
    NET,
    write_attack,
    write_export,
    write_files,
    write_pruned,
    write_quantized,
    write_trained,
)


def write_all(home):
    photos = write_trained(home / "photos")
    small = write_pruned(home / "small", photos)
    bits = write_quantized(home / "bits", small)
    return photos, small, bits


def test_the_steps_and_their_figures(tmp_path):
    _, small, bits = write_all(tmp_path)
    write_attack(bits / "attacked", bits)
    write_attack(tmp_path / "beside", small, percent=7.5, bits=None)
    write_export(bits, ("litert", "net.tflite", 2.0, 9000), ("litert_mixed", "net_mixed.tflite", 1.5, 3000))
    chain = read_chain(bits)
    kinds = [Kind.GIVEN, Kind.TRAINED, Kind.PRUNED, Kind.QUANTIZED]
    assert [step.kind for step in chain.steps] == kinds
    assert [step.name for step in chain.steps] == ["efficientnet_lite0", "photos", "small", "bits"]
    assert [step.accuracy and step.accuracy.percent for step in chain.steps] == [None, 70.0, 66.0, 65.0]
    given, trained, pruned, quantized = chain.steps
    assert all(not step.notes for step in chain.steps) and given.folder is None and chain.same_images
    # what prune.py measured of the network before it is the training's
    ms, table = How.MEASURED, "epyc-r32"
    assert trained.latencies == (
        Cost(value=2.5, how=ms, by="onnxruntime"), Cost(value=2.0, how=How.PREDICTED, by=table),
    )  # fmt: skip
    assert pruned.latencies[0] == Cost(value=1.25, how=ms, by="onnxruntime")
    assert quantized.latencies == (Cost(value=0.75, how=How.SUMMED, by="litert"),)
    assert [each.format for each in quantized.own_exports] == ["litert_mixed"]
    assert quantized.all_latencies[0] == Cost(value=1.5, how=ms, by="LiteRT")
    assert quantized.all_sizes[0].value == 3000 and quantized.sizes[0].value < pruned.sizes[0].value
    assert [(each.percent, each.folder.name) for each in quantized.attacks] == [(12.5, "attacked")]
    assert [each.percent for each in pruned.attacks] == [7.5]


def test_the_folder_of_an_attack_stands_for_what_was_attacked(tmp_path):
    *_, bits = write_all(tmp_path)
    attack = write_attack(tmp_path / "attacked", bits)
    assert read_chain(attack) == read_chain(bits) and is_in_chain(attack)


def test_attacks_and_files_of_other_weights_are_left_out(tmp_path):
    photos = write_trained(tmp_path / "photos")
    write_attack(photos / "attacked", photos, weights_blob_sha1="0")
    write_export(photos, ("litert", "net.tflite", 2.0, 9000), weights_blob_sha1="0")
    assert not read_chain(photos).last.attacks and not read_chain(photos).last.exports
    shutil.rmtree(photos / "exported")
    write_export(photos, ("litert", "net.tflite", 2.0, 9000))
    (photos / "exported" / "net.tflite").unlink()
    assert not read_chain(photos).last.exports


@pytest.mark.parametrize("moved", ["all", "parent alone"])
def test_a_parent_that_was_moved_is_found_beside_its_child(moved, tmp_path):
    write_all(tmp_path / "runs")
    if moved == "all":
        (tmp_path / "runs").rename(tmp_path / "elsewhere")
        chain = read_chain(tmp_path / "elsewhere" / "bits")
    else:
        (tmp_path / "runs" / "small").rename(tmp_path / "small")
        chain = read_chain(tmp_path / "runs" / "bits")
    assert [step.name for step in chain.steps] == ["efficientnet_lite0", "photos", "small", "bits"]
    assert any(str(tmp_path / "runs" / "small") in note for note in chain.steps[2].notes)
    assert chain.steps[2].accuracy.percent == 66.0


def test_of_a_parent_that_is_gone_there_is_what_its_child_knows(tmp_path):
    photos, small, _ = write_all(tmp_path)
    shutil.rmtree(photos)
    given, pruned = read_chain(small).steps
    assert given.kind is Kind.GIVEN and given.name == "photos" and str(photos) in given.notes[0]
    assert given.accuracy.percent == 70.0 and [cost.value for cost in given.latencies] == [2.5, 2.0]
    assert given.sizes[0].how is How.COUNTED and pruned.kind is Kind.PRUNED


def test_another_network_in_the_place_of_the_parent_is_none(tmp_path):
    photos, small, _ = write_all(tmp_path)
    write_spec(photos / "spec.json", replace(NET, blocks=NET.blocks[:2]))
    given, _ = read_chain(small).steps
    assert given.kind is Kind.GIVEN and given.accuracy.percent == 70.0
    assert "another network" in given.notes[0]


def test_a_damaged_parent_is_a_note_and_a_damaged_run_an_error(tmp_path):
    photos, small, _ = write_all(tmp_path)
    write_json(photos / "result.json", {"macs": "many"})
    given, _ = read_chain(small).steps
    assert str(photos / "result.json") in given.notes[0]
    with refused("macs", source=photos / "result.json"):
        read_chain(photos)


def test_runs_that_name_each_other_come_to_an_end(tmp_path):
    photos, small, _ = write_all(tmp_path)
    write_trained(photos, arch=small)
    assert [step.name for step in read_chain(small).steps] == ["small", "photos", "small"]


def test_a_run_without_an_end_is_a_step(tmp_path):
    photos, small, _ = write_all(tmp_path)
    (photos / "result.json").unlink()
    step = read_chain(small).steps[1]
    assert step.kind is Kind.TRAINED and step.notes and step.accuracy.percent == 70.0


def test_weights_named_beside_the_network_are_the_start(tmp_path):
    photos, *_ = write_all(tmp_path)
    more = write_trained(tmp_path / "more", arch="some.json", weights=str(photos / "weights.safetensors"))
    assert [step.name for step in read_chain(more).steps][1:] == ["photos", "more"]
    write_files(tmp_path / "loose")
    loose = write_trained(tmp_path / "own", arch="some.json", weights=str(tmp_path / "loose" / "weights.safetensors"))
    assert [step.name for step in read_chain(loose).steps] == ["weights.safetensors", "own"]


def test_accuracies_of_other_images_are_told_apart(tmp_path):
    _, small, _ = write_all(tmp_path)
    assert read_chain(small).same_images
    record = read_json(small / "result.json")
    write_json(small / "result.json", record | {"images": {"test_names": "other"}})
    assert not read_chain(small).same_images


def test_what_is_no_run_is_refused(tmp_path):
    with refused("", source=tmp_path / "none"):
        read_chain(tmp_path / "none")
    write_json(tmp_path / "config.json", {"format": "proxyless-other/config"})
    with refused("format", "'proxyless-other/config'", source=tmp_path / "config.json"):
        read_chain(tmp_path)
    assert not is_in_chain(tmp_path)
    _, small, _ = write_all(tmp_path)
    write_json(small / "result.json", {"family": ["0.5", "0.8"]})
    with refused("", small / "0.8", source=small):
        read_chain(small)


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("pixel1.json", "pixel1.json"),
        ("/far/epyc-r32/table.json", "epyc-r32"),
        ("/far/epyc-litert-r64-w1.0-around-lite0-a62b3b15-c10/table.json", "epyc-litert-r64-w1.0, its own layers"),
        (None, "a latency model"),
    ],
)
def test_what_predicted_is_called(source, name):
    assert reading._table_name(source) == name
