"""pretrained=, torch.hub, and networks that go through weight files bit for bit."""

import pickle
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from proxyless_arch.arch import catalog
from proxyless_arch.arch.spec import with_classes
from proxyless_arch.base.errors import InputError
from proxyless_arch.weights.files import git_blob_sha1, load_h5, save_h5, save_safetensors, to_tf_layout
from proxyless_nas import build, proxyless_cpu, zoo
from proxyless_nas.weights import load_named, load_weights, save_weights, to_named
from tests.errors import named, refused
from tests.proxyless_arch.nets import assert_equal, random_tensors, rich, three_blocks

ROOT = Path(__file__).resolve().parents[2]
CPU = catalog.load("proxyless_cpu")
SPEC = three_blocks()
PROVENANCE = {"command": "train.py"}
CLASSIFIER = {"classifier.linear.weight", "classifier.linear.bias"}


def filled(spec, seed=0):
    net = build(spec)
    load_named(net, spec, random_tensors(spec, seed))
    return net


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A folder with proxyless_cpu.pth (random weights), the release that publishes it, and its tensors."""
    folder = tmp_path_factory.mktemp("published")
    net = filled(CPU)
    save_weights(folder / "proxyless_cpu.pth", net, {})
    sha1 = git_blob_sha1(folder / "proxyless_cpu.pth")
    release = replace(catalog.release("proxyless_cpu"), blob_sha1={"proxyless_cpu.pth": sha1})
    return folder, release, to_named(net)


@pytest.fixture(autouse=True)
def folders(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("PROXYLESSNAS_HOME", raising=False)


def refusal(call, *arguments, **options):
    with pytest.raises(InputError) as caught:
        call(*arguments, **options)
    return str(caught.value)


# --------------------------------------------------------------------------------------------------------- pretrained


def test_true_loads_the_published_file(published, monkeypatch):
    folder, release, tensors = published
    monkeypatch.setenv("PROXYLESSNAS_HOME", str(folder))
    net = zoo._released(release, True, 1000, 0.2, True)
    assert_equal(to_named(net), tensors)
    assert net.spec == replace(CPU, classifier=replace(CPU.classifier, dropout_rate=0.2))


def test_true_refuses_another_file_of_that_name(published, monkeypatch):
    folder, release, _ = published
    monkeypatch.setenv("PROXYLESSNAS_HOME", str(folder))
    message = refusal(proxyless_cpu, pretrained=True)
    assert message.startswith(f"expected git blob sha1 {catalog.release('proxyless_cpu').blob_sha1[f'{CPU.name}.pth']}")
    assert release.blob_sha1[f"{CPU.name}.pth"] in message


@pytest.mark.parametrize("source", ["home", "path"])
def test_another_number_of_classes_gets_all_but_the_classifier(published, monkeypatch, source):
    folder, release, tensors = published
    monkeypatch.setenv("PROXYLESSNAS_HOME", str(folder))
    pretrained = True if source == "home" else folder / "proxyless_cpu.pth"
    torch.manual_seed(3)
    fresh = to_named(zoo._released(release, False, 7, 0.0, True))
    torch.manual_seed(3)
    net = zoo._released(release, pretrained, 7, 0.0, True)
    found = to_named(net)
    for name, tensor in found.items():
        np.testing.assert_array_equal(tensor, (fresh if name in CLASSIFIER else tensors)[name], err_msg=name)
    assert net.spec.num_classes == 7 and net.eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 7)


def test_a_path_may_hold_a_fine_tuned_net_with_its_recipe(tmp_path):
    recipe = replace(CPU.preprocessing, mean=(0.5, 0.5, 0.5))
    spec = replace(with_classes(CPU, 3, ("cat", "dog", "owl")), name="pets", preprocessing=recipe)
    tensors = random_tensors(spec)
    save_h5(tmp_path / "pets.h5", spec, tensors, PROVENANCE)
    net = proxyless_cpu(pretrained=str(tmp_path / "pets.h5"), num_classes=3)
    assert_equal(to_named(net), tensors)
    assert net.spec.preprocessing == recipe and net.spec.class_names == ("cat", "dog", "owl")
    said = refusal(proxyless_cpu, pretrained=tmp_path / "pets.h5")
    assert "classifier.linear.bias: expected 1000, got 3" in said and said.endswith(f"(in {tmp_path / 'pets.h5'})")
    assert "classifier.linear.bias: expected 4, got 3" in refusal(
        proxyless_cpu, pretrained=tmp_path / "pets.h5", num_classes=4
    )


def test_transfer_takes_the_recipe_of_the_file_but_not_its_class_names(tmp_path):
    recipe = replace(CPU.preprocessing, std=(0.5, 0.5, 0.5))
    spec = replace(CPU, preprocessing=recipe, class_names=tuple(f"class {k}" for k in range(1000)))
    save_safetensors(tmp_path / "a.safetensors", spec, random_tensors(spec), PROVENANCE)
    net = proxyless_cpu(pretrained=tmp_path / "a.safetensors", num_classes=3)
    assert net.spec.preprocessing == recipe and net.spec.class_names == ()


def test_the_weights_of_another_network_are_listed(published, tmp_path):
    folder, _, _ = published
    message = refusal(zoo.proxyless_gpu, pretrained=folder / "proxyless_cpu.pth")
    unexpected, shape = message.split("; ")
    assert re.search(r"'proxyless_gpu': \d+ unexpected \(blocks\.2\.mobile.+, and \d+ more\)$", unexpected)
    assert re.match(r"\d+ .+ \(blocks\.1\..+: expected 72x1x5x5, got 144x1x3x3.+, and \d+ more\)", shape)
    assert shape.endswith(f" (in {folder / 'proxyless_cpu.pth'})")
    save_h5(tmp_path / "three.h5", SPEC, random_tensors(SPEC), PROVENANCE)
    missing, *_, shape = refusal(proxyless_cpu, pretrained=tmp_path / "three.h5").split("; ")
    assert re.search(r"'proxyless_cpu': \d+ missing \(blocks\..+\)$", missing)
    named(shape, "first_conv.conv.weight: expected 40x3x3x3, got 4x3x3x3", tmp_path / "three.h5")


@pytest.mark.parametrize("wrong", [1, 0, None, ["a.pth"], b"a.pth"])
def test_pretrained_is_true_false_or_a_path(wrong):
    with refused("pretrained", True, False, "file"):
        proxyless_cpu(pretrained=wrong)


def test_a_missing_file_and_one_that_is_none(tmp_path):
    assert refusal(proxyless_cpu, pretrained="no.pth") == "no such file (in no.pth)"
    (tmp_path / "a.bin").write_bytes(b"no weights")
    with refused("", "not a weight file", source=tmp_path / "a.bin"):
        proxyless_cpu(pretrained=tmp_path / "a.bin")


@pytest.mark.parametrize("name", catalog.names())
def test_torch_hub_offers_the_released_networks(name):
    net = torch.hub.load(str(ROOT), name, source="local", num_classes=5)
    assert net.spec == with_classes(catalog.load(name), 5)


def test_torch_hub_takes_pretrained(published):
    folder, _, tensors = published
    net = torch.hub.load(str(ROOT), "proxyless_cpu", source="local", pretrained=folder / "proxyless_cpu.pth")
    assert_equal(to_named(net), tensors)


# ---------------------------------------------------------------------------------------------------------- the files


@pytest.mark.parametrize("name", ["a.h5", "a.hdf5", "a.safetensors", "a.pth", "a.pt", "UPPER.PTH"])
@pytest.mark.parametrize("spec", [SPEC, rich()], ids=["three", "rich"])
def test_saved_weights_come_back_bit_for_bit(tmp_path, name, spec):
    net = filled(spec)
    save_weights(tmp_path / name, net, PROVENANCE)
    built = load_weights(spec, tmp_path / name)
    assert_equal(to_named(built), to_named(net))
    assert built.spec == spec
    other = filled(spec, seed=1)
    assert load_weights(other, tmp_path / name) is other
    assert_equal(to_named(other), to_named(net))


def test_tfinit_comes_in(tmp_path):
    tensors = random_tensors(SPEC)
    named = {name.replace(".", "/"): to_tf_layout(name, tensor) for name, tensor in tensors.items()}
    (tmp_path / "a.tfinit").write_bytes(pickle.dumps(named))
    assert_equal(to_named(load_weights(SPEC, tmp_path / "a.tfinit")), tensors)


def test_a_pth_is_a_state_dict_that_plain_torch_loads(tmp_path):
    net, other = filled(SPEC), build(SPEC)
    save_weights(tmp_path / "a.pth", net, PROVENANCE)
    other.load_state_dict(torch.load(tmp_path / "a.pth", weights_only=True)["state_dict"])
    assert_equal(to_named(other), to_named(net))


def test_a_keras_file_is_read_without_keras(tmp_path):
    """Layers under their released names, arrays in TensorFlow's layout."""
    h5py = pytest.importorskip("h5py")
    parts = {"weight": "kernel", "bias": "bias", "running_mean": "moving_mean", "running_var": "moving_variance"}
    with h5py.File(tmp_path / "net.h5", "w") as file:
        for name, array in to_named(filled(SPEC)).items():
            layer, _, part = name.rpartition(".")
            part = {"weight": "gamma", "bias": "beta"}.get(part, parts[part]) if layer.endswith("bn") else parts[part]
            file[f"model_weights/{layer}/{layer}/{part}"] = to_tf_layout(name, array)
    assert_equal(to_named(load_weights(SPEC, tmp_path / "net.h5")), to_named(filled(SPEC)))


def test_h5_keeps_provenance_and_its_recipe_travels(tmp_path):
    save_weights(tmp_path / "a.h5", filled(SPEC), PROVENANCE)
    assert load_h5(tmp_path / "a.h5").provenance == PROVENANCE
    other = build(replace(SPEC, name="mine", preprocessing=replace(SPEC.preprocessing, mean=(0.1, 0.1, 0.1))))
    load_weights(other, tmp_path / "a.h5")
    assert other.spec == replace(SPEC, name="mine")


def test_a_mismatch_lists_the_tensors_and_leaves_the_net_alone(tmp_path):
    save_weights(tmp_path / "a.pth", filled(rich()), PROVENANCE)
    net = filled(SPEC)
    before = to_named(net)
    message = refusal(load_weights, net, tmp_path / "a.pth")
    assert "'three': 15 unexpected (blocks.4." in message
    assert_equal(to_named(net), before)
    save_weights(tmp_path / "b.pth", filled(with_classes(SPEC, 9)), PROVENANCE)
    assert "classifier.linear.bias: expected 5, got 9" in refusal(load_weights, SPEC, tmp_path / "b.pth")


def test_what_cannot_be_saved(tmp_path):
    net = filled(SPEC)
    with refused("", ".h5", ".hdf5", ".safetensors", ".pth", ".pt", "'.bin'", source=tmp_path / "a.bin"):
        save_weights(tmp_path / "a.bin", net, PROVENANCE)
    with refused("", "Keras", source=tmp_path / "a.weights.h5"):
        save_weights(tmp_path / "a.weights.h5", net, PROVENANCE)
    assert refusal(save_weights, tmp_path / "a.h5", net, {"when": object()}).startswith("provenance: expected JSON")
    assert list(tmp_path.iterdir()) == []
