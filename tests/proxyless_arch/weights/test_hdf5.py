"""HDF5 in a process of its own: what a file holds comes back, and no bytes end this process."""

import hashlib
import random

import numpy as np
import pytest

from proxyless_arch.base import apart
from proxyless_arch.base.errors import InputError
from proxyless_arch.weights import files, hdf5
from proxyless_arch.weights.files import load_h5, save_h5
from tests.errors import refused
from tests.proxyless_arch.nets import random_tensors, three_blocks

h5py = pytest.importorskip("h5py")
SPEC = three_blocks()


def written(path, fill):
    with h5py.File(path, "w") as file:
        fill(file)
    return path.read_bytes()


def test_arrays_and_attributes_come_back(tmp_path):
    rng = np.random.default_rng(0)
    arrays = {
        "layers/conv/vars/0": rng.normal(size=(3, 3, 1, 2)).astype(np.float32),
        "layers/state": np.array([7, 9], np.uint32),
        "count": np.array(5, np.int64),
        "big": rng.normal(size=4).astype(">f8"),
    }

    def fill(file):
        for name, array in arrays.items():
            file[name] = array
        file["text"] = "passed over"
        file.attrs["version"], file.attrs["format"], file.attrs["table"] = 1, "ours", np.zeros(3)
        file["layers/conv/vars"].attrs["name"] = "stem"

    found = hdf5.read(written(tmp_path / "a.h5", fill))
    assert found.attributes == {"@version": 1, "@format": "ours", "layers/conv/vars@name": "stem"}
    assert set(found.arrays) == set(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(found.arrays[name], array)
        assert found.arrays[name].dtype == array.dtype.newbyteorder("<")


@pytest.mark.parametrize(
    ("fill", "place"),
    [
        (lambda file: file.create_dataset("g/a", data=np.zeros(9), chunks=(3,)), "g/a"),
        (lambda file: file.create_dataset("a", data=np.zeros(99), compression="gzip"), "a"),
        (lambda file: file.create_dataset("a", shape=(10**9,), dtype="f4"), "a"),  # never written: no bytes in the file
        (lambda file: file.__setitem__("a", h5py.ExternalLink("other.h5", "/x")), "/a"),
        (lambda file: file.__setitem__("a", h5py.SoftLink("/")), "/a"),
        (lambda file: file.create_group("a").__setitem__("again", file["/"]), "/a"),
    ],
    ids=["chunked", "compressed", "gaps", "external link", "soft link", "circle"],
)
def test_what_is_not_plain_is_refused(fill, place, tmp_path):
    with pytest.raises(InputError) as caught:
        hdf5.read(written(tmp_path / "a.h5", fill))
    assert caught.value.place.startswith(place)


def resealed(data):
    """A mutant whose sha256 is right: it reaches the HDF5 library."""
    return files._seal(data[files._USER_BLOCK :]) + data[files._USER_BLOCK :]


@pytest.mark.parametrize("n_mutants", [8, pytest.param(100, marks=pytest.mark.slow)])
def test_mutants_never_end_this_process(tmp_path, n_mutants):
    """The structure of an .h5 lies in front of and between its arrays; about every sixth mutant crashes the library."""
    path, rng = tmp_path / "net.h5", random.Random(0)
    save_h5(path, SPEC, random_tensors(SPEC), {})
    whole = path.read_bytes()
    refused = 0
    for _ in range(n_mutants):
        mutant = bytearray(whole)
        for _ in range(rng.choice((1, 4, 16))):
            mutant[rng.randrange(files._USER_BLOCK, files._USER_BLOCK + 4096)] = rng.randrange(256)
        path.write_bytes(resealed(bytes(mutant)))
        try:
            load_h5(path)
        except InputError as error:
            assert error.source == str(path)
            refused += 1
    assert refused > n_mutants / 5


@pytest.mark.parametrize("last_words", ["os.kill(os.getpid(), signal.SIGSEGV)", "raise SystemExit(1)"])
def test_a_child_that_dies_is_an_input_error(last_words, tmp_path, monkeypatch):
    room = tmp_path / "proxyless_arch" / "weights"
    room.mkdir(parents=True)
    (room / "__init__.py").touch()
    (room.parent / "__init__.py").touch()
    (room / "hdf5.py").write_text(f"import os, signal\n{last_words}\n")
    monkeypatch.setattr(apart, "__file__", str(room.parent / "base" / "apart.py"))
    path = tmp_path / "net.h5"
    save_h5(path, SPEC, random_tensors(SPEC), {})
    with pytest.raises(InputError) as caught:
        load_h5(path)
    assert caught.value.problem.startswith("crashed the HDF5 reader") and caught.value.source == str(path)


def test_a_child_that_does_not_end_is_an_input_error(tmp_path):
    save_h5(tmp_path / "net.h5", SPEC, random_tensors(SPEC), {})
    with refused("", "0.01 s"):
        hdf5.read((tmp_path / "net.h5").read_bytes(), time_limit_s=0.01)


def test_the_seal_of_a_mutant_is_renewed(tmp_path):
    save_h5(tmp_path / "net.h5", SPEC, random_tensors(SPEC), {})
    data = (tmp_path / "net.h5").read_bytes()
    assert resealed(data) == data
    assert hashlib.sha256(data[512:]).hexdigest().encode() in data[:512]
