"""pretrained= and weight files in Keras. The search for the published file has its test in proxyless_arch/weights."""

import pickle
from dataclasses import replace

import numpy as np
import pytest

from proxyless_arch.arch import catalog
from proxyless_arch.arch.spec import with_classes
from proxyless_arch.base.errors import InputError
from proxyless_arch.weights.files import git_blob_sha1, to_tf_layout
from proxyless_nas_tensorflow import build, proxyless_cpu, zoo
from proxyless_nas_tensorflow.weights import load_named, load_pretrained, load_weights, save_weights, to_named
from tests.errors import refused
from tests.proxyless_arch.nets import assert_equal, random_tensors

CPU = catalog.load("proxyless_cpu")
TENSORS = random_tensors(CPU)
PROVENANCE = {"command": "train.py"}


def filled(spec, seed=0):
    net = build(spec)
    load_named(net, spec, random_tensors(spec, seed))
    return net


def without_classifier(tensors):
    return {name: tensor for name, tensor in tensors.items() if not name.startswith("classifier.")}


def refusal(call, *arguments, **options):
    with pytest.raises(InputError) as caught:
        call(*arguments, **options)
    return str(caught.value)


def test_true_loads_the_verified_pth(tmp_path, monkeypatch):
    """The file torch reads; torch writes it here, for nothing else does."""
    torch = pytest.importorskip("torch")
    path = tmp_path / "proxyless_cpu.pth"
    torch.save({"state_dict": {name: torch.from_numpy(tensor) for name, tensor in TENSORS.items()}}, path)
    monkeypatch.setenv("PROXYLESSNAS_HOME", str(tmp_path))
    release = replace(catalog.release("proxyless_cpu"), blob_sha1={path.name: git_blob_sha1(path)})
    net = zoo._released(release, True, 1000, 0.0, None, True)
    assert_equal(to_named(net), TENSORS)
    assert net.spec == CPU
    assert refusal(proxyless_cpu, pretrained=True).startswith("expected git blob sha1 373f6da5")


# The rest of the path from ``pretrained=`` to the weights, with a tiny network in the place of the released one.


def pretrained(spec, path, include_top=True):
    net = build(spec, include_top=include_top)
    load_pretrained(net, catalog.release("proxyless_cpu"), path, released_classes=10)
    return net


@pytest.mark.parametrize("name", ["a.h5", "a.weights.h5"])
def test_another_number_of_classes_gets_all_but_the_classifier(tiny_spec, tmp_path, name):
    save_weights(tmp_path / name, filled(tiny_spec), PROVENANCE)
    tensors = random_tensors(tiny_spec)
    assert_equal(to_named(pretrained(tiny_spec, tmp_path / name)), tensors)
    other = pretrained(with_classes(tiny_spec, 7), tmp_path / name)
    assert_equal(without_classifier(to_named(other)), without_classifier(tensors))
    assert other.spec == with_classes(tiny_spec, 7) and other.output_shape == (None, 7)
    headless = pretrained(with_classes(tiny_spec, 7), str(tmp_path / name), include_top=False)
    assert_equal(to_named(headless), without_classifier(tensors))


@pytest.mark.parametrize("name", ["a.h5", "a.weights.h5"])
def test_a_fine_tuned_file_needs_its_number_of_classes(tiny_spec, tmp_path, name):
    tuned = with_classes(tiny_spec, 7)
    save_weights(tmp_path / name, filled(tuned), PROVENANCE)
    assert_equal(to_named(pretrained(tuned, tmp_path / name)), random_tensors(tuned))
    for classes in (10, 8):
        assert str(tmp_path / name) in refusal(pretrained, with_classes(tiny_spec, classes), tmp_path / name)


def test_bad_values_and_files(tiny_spec, tmp_path):
    for wrong in (1, None, ["a.pth"]):
        with refused("pretrained", True, False, "file"):
            pretrained(tiny_spec, wrong)
    assert refusal(pretrained, tiny_spec, tmp_path / "no.weights.h5").startswith("no such file")
    (tmp_path / "bad.weights.h5").write_bytes(b"not HDF5")
    assert refusal(pretrained, tiny_spec, tmp_path / "bad.weights.h5").endswith("bad.weights.h5)")


@pytest.mark.parametrize("name", ["a.h5", "a.safetensors", "a.weights.h5"])
def test_saved_weights_come_back_bit_for_bit(tiny_spec, tmp_path, name):
    net = filled(tiny_spec)
    save_weights(tmp_path / name, net, PROVENANCE)
    built = load_weights(tiny_spec, tmp_path / name)
    assert_equal(to_named(built), to_named(net))
    assert built.spec == tiny_spec
    other = filled(tiny_spec, seed=1)
    assert load_weights(other, tmp_path / name) is other
    assert_equal(to_named(other), to_named(net))


def test_tfinit_comes_in(tiny_spec, tmp_path):
    tensors = random_tensors(tiny_spec)
    named = {name.replace(".", "/"): to_tf_layout(name, tensor) for name, tensor in tensors.items()}
    (tmp_path / "a.tfinit").write_bytes(pickle.dumps(named))
    assert_equal(to_named(load_weights(tiny_spec, tmp_path / "a.tfinit")), tensors)


def test_the_recipe_travels_with_the_weights(tiny_spec, tmp_path):
    trained = replace(
        tiny_spec, preprocessing=replace(tiny_spec.preprocessing, mean=(0.5, 0.5, 0.5)), class_names=tuple("abcdefghij")
    )
    save_weights(tmp_path / "a.h5", filled(trained), PROVENANCE)
    assert load_weights(build(tiny_spec), tmp_path / "a.h5").spec == trained


def test_a_mismatch_lists_the_tensors_and_leaves_the_net_alone(tiny_spec, tmp_path):
    save_weights(tmp_path / "a.safetensors", filled(with_classes(tiny_spec, 3)), PROVENANCE)
    named = {name.replace(".", "/"): to_tf_layout(name, array) for name, array in random_tensors(tiny_spec).items()}
    named["stranger"] = np.zeros(2, np.float32)
    (tmp_path / "a.tfinit").write_bytes(pickle.dumps(named))
    net = filled(tiny_spec)
    before = to_named(net)
    assert "classifier.linear.bias: expected 10, got 3" in refusal(load_weights, net, tmp_path / "a.safetensors")
    assert "1 unexpected (stranger)" in refusal(load_weights, net, tmp_path / "a.tfinit")
    assert_equal(to_named(net), before)


def test_what_cannot_be_saved(tiny_spec, tmp_path):
    with refused("", ".h5", ".hdf5", ".safetensors", ".weights.h5", "'.pth'", source=tmp_path / "a.pth"):
        save_weights(tmp_path / "a.pth", build(tiny_spec), PROVENANCE)
    headless = build(tiny_spec, include_top=False)
    assert "2 missing (classifier" in refusal(save_weights, tmp_path / "a.h5", headless, PROVENANCE)
    assert list(tmp_path.iterdir()) == []
