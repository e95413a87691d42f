"""Networks by what a person calls them: folders and files of others among them."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from proxyless_arch.apps import evaluation
from proxyless_arch.arch.released import once_for_all_preprocessing, small_net_preprocessing, to_released
from proxyless_arch.arch.spec import imagenet_preprocessing
from proxyless_arch.base.errors import InputError
from proxyless_arch.weights.files import save_safetensors
from proxyless_arch.weights.lookup import find_network, find_trained
from tests.errors import refused
from tests.proxyless_arch.nets import assert_equal, random_tensors, three_blocks

torch = pytest.importorskip("torch")

SPEC = replace(three_blocks(), preprocessing=imagenet_preprocessing())
TENSORS = random_tensors(SPEC)


def save(path):
    torch.save({"state_dict": {name: torch.from_numpy(array) for name, array in TENSORS.items()}}, path)


@pytest.fixture(params=["", "cpu."])
def released(request, tmp_path):
    """A once-for-all network as it is published, its ``net.config`` in a folder, with and without a prefix."""
    folder = tmp_path / "cpu_lat@10ms"
    folder.mkdir()
    (folder / f"{request.param}net.config").write_text(json.dumps(to_released(SPEC)))
    (folder / f"{request.param}run.config").write_text('{"image_size": 144}')
    save(folder / f"{request.param}init")
    return folder / f"{request.param}net.config"


def test_a_once_for_all_network(released):
    for word in (str(released), *([str(released.parent)] if released.name == "net.config" else [])):
        trained = find_trained(word)
        assert trained.spec.preprocessing == once_for_all_preprocessing(144)
        assert_equal(trained.weights.tensors, TENSORS)
        assert trained.file == released.with_name(released.name.removesuffix("net.config") + "init")
        assert "run.config" in " ".join(trained.notes)


def test_a_config_with_weights_beside_it(tmp_path):
    (tmp_path / "net.json").write_text(json.dumps({**to_released(SPEC), "resolution": 48}))
    save(tmp_path / "net.ckpt")
    with pytest.raises(InputError, match="holds no weights"):
        find_trained(str(tmp_path / "net.json"))
    trained = find_trained(str(tmp_path / "net.json"), tmp_path / "net.ckpt")
    assert trained.spec.preprocessing == small_net_preprocessing(48)
    assert find_network(str(tmp_path / "net.json"))[1] is None
    with refused("", "which network", "net.json", source=tmp_path / "net.ckpt"):
        find_network(str(tmp_path / "net.ckpt"))


def test_what_was_assumed_and_taken_is_said(tmp_path):
    """In the header of every command; not where a file or the flags say how images are prepared."""
    (tmp_path / "net.json").write_text(json.dumps(to_released(SPEC)))
    save(tmp_path / "net.pth")
    base = ["--arch", str(tmp_path / "net.json"), "--weights", str(tmp_path / "net.pth")]
    (note,) = evaluation.load_network(evaluation.parse(base, "eval.py", None)).notes
    assert "assumed" in note
    named = [*base, "--mean", "0.5", "0.5", "0.5", "--std", "0.5", "0.5", "0.5"]
    assert evaluation.load_network(evaluation.parse(named, "eval.py", None)).notes == ()
    save_safetensors(tmp_path / "ours.safetensors", SPEC, TENSORS, {})
    own = [*base[:2], "--weights", str(tmp_path / "ours.safetensors")]
    assert evaluation.load_network(evaluation.parse(own, "eval.py", None)).notes == ()


def test_load_warns_of_what_was_assumed(tmp_path):
    import proxyless_nas

    (tmp_path / "net.json").write_text(json.dumps(to_released(SPEC)))
    save(tmp_path / "net.pth")
    with pytest.warns(UserWarning, match="assumed"):
        net = proxyless_nas.load(tmp_path / "net.json", tmp_path / "net.pth")
    assert net.spec == replace(SPEC, name="net")


@pytest.mark.parametrize("name", ["net.onnx", "net.tflite", "net.pt2"])
def test_an_exported_file_is_no_network_to_load(name, tmp_path):
    (tmp_path / name).write_bytes(b"\x08\x08\x12\x07pytorch" + bytes(40))
    with refused("", Path(name).suffix, "exported network", source=tmp_path / name):
        find_network(str(tmp_path / name))
