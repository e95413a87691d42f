"""Weight files: what is written comes back, and no file can do more than be refused."""

import codecs
import copyreg
import gzip
import io
import json
import lzma
import os
import pickle
import random
import struct
import zipfile
import zlib
from collections import OrderedDict

import numpy as np
import pytest

from proxyless_arch.arch import catalog
from proxyless_arch.arch.codec import read_spec, spec_to_json
from proxyless_arch.arch.spec import replace, with_classes
from proxyless_arch.arch.tensors import expected_tensors
from proxyless_arch.base.errors import InputError
from proxyless_arch.weights import files as weights
from proxyless_arch.weights.files import (
    check_tensors,
    from_tf_layout,
    git_blob_sha1,
    load_h5,
    load_pth,
    load_safetensors,
    read_tensors,
    save_h5,
    save_safetensors,
    to_tf_layout,
)
from tests.errors import named, refused
from tests.proxyless_arch.nets import assert_equal, random_tensors, rich, three_blocks

SPEC = three_blocks()
TENSORS = random_tensors(SPEC)
PROVENANCE = {"command": "train.py", "top1_percent": 63.4, "seeds": [1, 2], "note": None}


def refusal(read, path, *arguments):
    with pytest.raises(InputError) as caught:
        read(path, *arguments)
    assert str(caught.value).endswith(f"(in {path})")
    return str(caught.value)


# ------------------------------------------------------------------------------------------------- the contract


def test_check_tensors_lists_every_kind_of_problem():
    wrong = dict(TENSORS)
    del wrong["first_conv.bn.bias"]
    wrong["extra"] = np.zeros(1, np.float32)
    wrong["classifier.linear.weight"] = np.zeros((10, 8), np.float32)
    wrong["classifier.linear.bias"] = np.zeros(5, np.int64)
    with pytest.raises(InputError) as caught:
        check_tensors(wrong, SPEC, "a.pth")
    assert (caught.value.place, caught.value.source) == ("", "a.pth")
    missing, unexpected, shape, kind = caught.value.problem.split("; ")
    named(missing, "'three'", "1 missing (first_conv.bn.bias)")
    named(unexpected, "1 unexpected (extra)")
    named(shape, 1, "classifier.linear.weight", "expected 5x8, got 10x8")
    named(kind, "1 not floating-point", "classifier.linear.bias", "int64")


def test_check_tensors_shortens_long_lists():
    with pytest.raises(InputError, match=r"52 missing \(first_conv.conv.weight, .*, and 44 more\)$") as caught:
        check_tensors({}, SPEC)
    assert str(caught.value).count(", ") == 8


# --------------------------------------------------------------------------------------- .h5 and .safetensors

OURS = pytest.mark.parametrize(
    ("save", "load", "extension"),
    [(save_h5, load_h5, ".h5"), (save_safetensors, load_safetensors, ".safetensors")],
    ids=["h5", "safetensors"],
)


@OURS
@pytest.mark.parametrize("spec", [three_blocks(), rich()], ids=lambda spec: spec.name)
def test_what_is_saved_comes_back(save, load, extension, spec, tmp_path):
    path, tensors = tmp_path / f"net{extension}", random_tensors(spec)
    shuffled = {name: tensors[name] for name in sorted(tensors, reverse=True)}
    save(path, spec, shuffled, PROVENANCE)
    for found in (load(path), read_tensors(path), read_tensors(path, replace(spec, name="mine"))):
        assert found.spec == spec
        assert found.provenance == PROVENANCE
        assert_equal(found.tensors, tensors)
    assert list(tmp_path.iterdir()) == [path]


@OURS
def test_float64_is_stored_as_float32(save, load, extension, tmp_path):
    save(tmp_path / f"net{extension}", SPEC, {n: t.astype(np.float64) for n, t in TENSORS.items()}, {})
    assert_equal(load(tmp_path / f"net{extension}").tensors, TENSORS)


@OURS
def test_bad_tensors_are_not_saved(save, load, extension, tmp_path):
    path = tmp_path / f"net{extension}"
    save(path, SPEC, TENSORS, PROVENANCE)
    before = path.read_bytes()
    with pytest.raises(InputError, match="52 missing"):
        save(path, SPEC, {}, {})
    with pytest.raises(InputError, match=r"^provenance: expected JSON values"):
        save(path, SPEC, TENSORS, {"a": {1, 2}})
    with pytest.raises(InputError, match=r"^provenance: expected JSON values"):
        save(path, SPEC, TENSORS, {"a": float("nan")})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@OURS
def test_weights_of_another_network_are_refused(save, load, extension, tmp_path):
    path = tmp_path / f"net{extension}"
    save(path, SPEC, TENSORS, {})
    said = refusal(read_tensors, path, with_classes(SPEC, 7))
    named(said, 2, "classifier.linear.weight: expected 7x8, got 5x8", "classifier.linear.bias: expected 7, got 5")
    longer = refusal(read_tensors, path, replace(SPEC, blocks=(*SPEC.blocks, SPEC.blocks[2])))
    assert "15 missing (blocks.3.mobile_inverted_conv.inverted_bottleneck.conv.weight, " in longer
    assert "15 unexpected" in refusal(read_tensors, path, replace(SPEC, blocks=SPEC.blocks[:2]))
    unskipped = replace(SPEC, blocks=(*SPEC.blocks[:2], replace(SPEC.blocks[2], skip=False)))
    with refused("blocks", "'three'", source=path):
        read_tensors(path, unskipped)
    other_bn = replace(SPEC, bn=replace(SPEC.bn, eps=1e-5))
    assert "bn.eps: expected 1e-05, got 0.001" in refusal(read_tensors, path, other_bn)


@OURS
def test_missing_files(save, load, extension, tmp_path):
    assert refusal(load, tmp_path / f"absent{extension}").startswith("no such file")
    named(refusal(load, tmp_path), "a folder")


def test_an_h5_is_plain_hdf5(tmp_path):
    h5py = pytest.importorskip("h5py")
    save_h5(tmp_path / "net.h5", SPEC, TENSORS, PROVENANCE)
    with h5py.File(tmp_path / "net.h5", "r") as file:
        assert list(file["tensors"]) == list(TENSORS)
        assert file["tensors/classifier.linear.weight"].dtype == np.float32
        assert (file.attrs["format"], file.attrs["version"]) == ("proxyless-arch/weights", 1)


def test_an_h5_is_parsed_from_the_bytes_that_were_verified(tmp_path, monkeypatch):
    """A file exchanged between the check and the reading must not be read."""
    path = tmp_path / "net.h5"
    save_h5(path, SPEC, TENSORS, {})

    def exchange(data, inner=weights._check_seal):
        inner(data)
        save_h5(path, SPEC, random_tensors(SPEC, seed=9), {})

    monkeypatch.setattr(weights, "_check_seal", exchange)
    assert_equal(load_h5(path).tensors, TENSORS)


def test_truncated_foreign_and_altered_h5(tmp_path):
    h5py = pytest.importorskip("h5py")
    path = tmp_path / "net.h5"
    save_h5(path, SPEC, TENSORS, PROVENANCE)
    whole = path.read_bytes()
    for length in (513, 2000, len(whole) - 1):
        path.write_bytes(whole[:length])
        named(refusal(load_h5, path), "contents", "sha256")
    for content in (b"", b"hello", whole[512:]):
        path.write_bytes(content)
        named(refusal(load_h5, path), "proxyless-arch/weights", "version 1")
    path.write_bytes(whole)
    with h5py.File(path, "r+") as file:
        file["tensors/classifier.linear.bias"][0] = 1
    named(refusal(load_h5, path), "contents", "sha256")
    with h5py.File(path, "w") as file:
        file["layer"] = np.zeros(3)
    named(refusal(load_h5, path), "proxyless-arch/weights", "version 1")


def test_the_safetensors_library_reads_ours(tmp_path):
    numpy_io = pytest.importorskip("safetensors.numpy")
    for name, path in (("a", tmp_path / "a.safetensors"), ("b", tmp_path / "b.safetensors")):
        save_safetensors(path, SPEC, dict(sorted(TENSORS.items(), reverse=name == "a")), PROVENANCE)
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    assert_equal(numpy_io.load_file(tmp_path / "a.safetensors"), TENSORS)
    with numpy_io.safe_open(tmp_path / "a.safetensors", "numpy") as file:
        metadata = file.metadata()
    assert json.loads(metadata["provenance"]) == PROVENANCE
    assert metadata["version"] == "1"


def test_altered_safetensors(tmp_path):
    path = tmp_path / "net.safetensors"
    save_safetensors(path, SPEC, TENSORS, PROVENANCE)
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    named(refusal(load_safetensors, path), "tensors", "sha256")
    path.write_bytes(whole.replace(b'"version":"1"', b'"version":"2"'))
    assert refusal(load_safetensors, path).startswith("expected version 1 of proxyless-arch/weights, got '2'")
    numpy_io = pytest.importorskip("safetensors.numpy")
    first = {"format": "proxyless-arch/weights", "spec": spec_to_json(SPEC), "provenance": "{}"}
    path.write_bytes(numpy_io.save(TENSORS, first))  # as the first edition wrote them
    assert load_safetensors(path).spec == SPEC


def test_safetensors_of_others(tmp_path):
    numpy_io = pytest.importorskip("safetensors.numpy")
    path = tmp_path / "net.safetensors"
    counters = {"first_conv.bn.num_batches_tracked": np.array(7)}
    numpy_io.save_file({name: t.astype(np.float16) for name, t in TENSORS.items()} | counters, path)
    assert load_safetensors(path).spec is None
    found = read_tensors(path, SPEC)
    assert found.spec == SPEC
    assert_equal(found.tensors, {n: t.astype(np.float16).astype(np.float32) for n, t in TENSORS.items()})
    numpy_io.save_file({"a": np.zeros(2, np.uint8)}, path)
    assert refusal(load_safetensors, path).startswith("a: expected F16, F32, F64, I64 or BF16, got U8")


def test_headers_that_no_writer_writes(tmp_path):
    path = tmp_path / "net.safetensors"
    empty = {"dtype": "F32", "data_offsets": [0, 0]}
    for shape in ([0, 2**62], [0, 2**63], [0] * 70):
        header = json.dumps({"a": {**empty, "shape": shape}}).encode()
        path.write_bytes(len(header).to_bytes(8, "little") + header)
        with refused("a", "shape", source=path):
            load_safetensors(path)
    header = json.dumps({"__metadata__": None, "a": {**empty, "shape": [0]}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    assert load_safetensors(path).tensors["a"].shape == (0,)


# --------------------------------------------------------------------------------------------- .pth without torch


def zip_of(pickled, contents, extra=()):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("net/data.pkl", pickled)
        for key, content in {**{f"net/data/{k}": v for k, v in contents.items()}, **dict(extra)}.items():
            archive.writestr(key, content)
    return buffer.getvalue()


class Global:
    """Written into a pickle as the name of something the reading process has, called with ``arguments``."""

    def __init__(self, module, name):
        self.module, self.name = module, name


class TorchPickler(pickle._Pickler):
    """Writes what torch.save writes, without torch: names by hand, storages as persistent ids."""

    def persistent_id(self, value):
        return value.pid if isinstance(value, Storage) else None

    def save(self, value, save_persistent_id=True):
        if isinstance(value, Global):
            self.write(pickle.GLOBAL + f"{value.module}\n{value.name}\n".encode())
        elif isinstance(value, Call):
            self.save(value.function)
            self.save(value.arguments)
            self.write(pickle.REDUCE)
        else:
            super().save(value, save_persistent_id)


class Call:
    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments


class Storage:
    def __init__(self, key, numel, kind="FloatStorage"):
        self.pid = ("storage", Global("torch", kind), key, "cpu", numel)


def pickled(value):
    buffer = io.BytesIO()
    TorchPickler(buffer, protocol=2).dump(value)
    return buffer.getvalue()


def tensor(storage, offset, size, stride):
    arguments = (storage, offset, size, stride, False, OrderedDict())
    return Call(Global("torch._utils", "_rebuild_tensor_v2"), *arguments)


SIX = np.arange(6, dtype="<f4").tobytes()


def read_view(tmp_path, *view, kind="FloatStorage", numel=6, content=SIX):
    path = tmp_path / "net.pth"
    path.write_bytes(zip_of(pickled({"w": tensor(Storage("0", numel, kind), *view)}), {"0": content}))
    return load_pth(path)["w"]


def test_views_of_a_storage(tmp_path):
    np.testing.assert_array_equal(read_view(tmp_path, 0, (2, 3), (3, 1)), [[0, 1, 2], [3, 4, 5]])
    np.testing.assert_array_equal(read_view(tmp_path, 0, (3, 2), (1, 3)), [[0, 3], [1, 4], [2, 5]])
    np.testing.assert_array_equal(read_view(tmp_path, 1, (2,), (2,)), [1, 3])
    np.testing.assert_array_equal(read_view(tmp_path, 5, (), ()), 5)
    assert read_view(tmp_path, 0, (0, 4), (4, 1)).shape == (0, 4)
    assert read_view(tmp_path, 0, (6,), (1,)).flags.owndata


@pytest.mark.parametrize(
    "view",
    [
        (0, (7,), (1,)),
        (6, (1,), (1,)),
        (0, (2, 3), (4, 1)),
        (0, (10**9, 10**9), (0, 0)),
        (0, (7,), (0,)),
        (-1, (1,), (1,)),
        (0, (-1,), (1,)),
        (0, (2,), (-1,)),
        (0, (2, 3), (1,)),
        (0, (2.0,), (1,)),
        (0, (True,), (1,)),
        (0, (1,) * 9, (1,) * 9),
        (0, (2**70,), (1,)),
        (0, None, (1,)),
        (None, (1,), (1,)),
    ],
    ids=str,
)
def test_lying_views_are_refused(view, tmp_path):
    with pytest.raises(InputError):
        read_view(tmp_path, *view)


@pytest.mark.parametrize("numel", [5, 7, -1, 10**12, 2**70, "6", None])
def test_lying_storages_are_refused(numel, tmp_path):
    with pytest.raises(InputError):
        read_view(tmp_path, 0, (1,), (1,), numel=numel)


def test_element_types(tmp_path):
    values = np.array([1.5, -2, 0.25, 3, 1e-3, 7])
    for kind, dtype in (("DoubleStorage", "<f8"), ("HalfStorage", "<f2"), ("FloatStorage", "<f4")):
        found = read_view(tmp_path, 0, (6,), (1,), kind=kind, content=values.astype(dtype).tobytes())
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, values.astype(dtype).astype(np.float32))
    bits = (values.astype("<f4").view("<u4") >> 16).astype("<u2")  # bfloat16 is the upper half of a float32
    found = read_view(tmp_path, 0, (6,), (1,), kind="BFloat16Storage", content=bits.tobytes())
    np.testing.assert_array_equal(found, (bits.astype("<u4") << 16).view("<f4"))
    found = read_view(tmp_path, 0, (6,), (1,), kind="LongStorage", content=np.arange(6, dtype="<i8").tobytes())
    assert found.dtype == np.int64
    with refused("w", "pickle", "torch.QInt8Storage", source=tmp_path / "net.pth"):
        read_view(tmp_path, 0, (6,), (1,), kind="QInt8Storage")


def test_names_in_a_state_dict(tmp_path):
    path, view = tmp_path / "net.pth", tensor(Storage("0", 1), 0, (1,), (1,))
    content = {"0": struct.pack("<f", 3.5)}
    names = {"module.a.weight": view, "module.a.num_batches_tracked": view, "b": view}
    for value in (names, OrderedDict(names), {"state_dict": names, "epoch": 3}):
        path.write_bytes(zip_of(pickled(value), content))
        assert list(load_pth(path)) == ["a.weight", "b"]
    path.write_bytes(zip_of(pickled({"module.a": view, "a": view}), content))
    with refused("a", "twice", source=path):
        load_pth(path)
    path.write_bytes(zip_of(pickled({"a": view, "epoch": 3}), content))
    assert list(load_pth(path)) == ["a"]
    path.write_bytes(zip_of(pickled([view]), content))
    assert refusal(load_pth, path).startswith("expected a state dict")
    path.write_bytes(zip_of(pickled({3: view}), content))
    assert refusal(load_pth, path).startswith("expected a state dict")


def test_parameters_are_tensors(tmp_path):
    view = tensor(Storage("0", 1), 0, (1,), (1,))
    parameter = Call(Global("torch._utils", "_rebuild_parameter"), view, True, OrderedDict())
    (tmp_path / "net.pth").write_bytes(zip_of(pickled({"a": parameter}), {"0": struct.pack("<f", 3.5)}))
    assert load_pth(tmp_path / "net.pth")["a"].tolist() == [3.5]


@pytest.mark.parametrize(
    ("module", "name", "argument"),
    [
        ("os", "system", "touch RAN"),
        ("posix", "system", "touch RAN"),
        ("builtins", "eval", "open('RAN', 'w')"),
        ("__builtin__", "eval", "open('RAN', 'w')"),
        ("subprocess", "check_output", ["touch", "RAN"]),
        ("torch.storage", "_load_from_bytes", b""),
        ("torch", "load", "x"),
        ("collections", "OrderedDict.__init__.__globals__", "x"),
        ("numpy", "load", "x"),
    ],
)
def test_a_pickle_that_would_run_code_is_refused(module, name, argument, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    hostile = pickled({"state_dict": {"a": Call(Global(module, name), argument)}})
    header = b"".join(map(pickled, (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})))
    for file, content in {
        "zip.pth": zip_of(hostile, {}),
        "legacy.pth": header + hostile + pickled([]),
        "first.pth": hostile,
        "net.tfinit": hostile,
    }.items():
        (tmp_path / file).write_bytes(content)
        said = refusal(read_tensors, tmp_path / file, SPEC)
        named(said, "pickle", f"{module}.{name}", "nothing was run")
    assert not (tmp_path / "RAN").exists()


def test_stand_ins_cannot_be_changed(tmp_path):
    """BUILD on an admitted name must not alter what the next file is read with."""
    good = tmp_path / "good.pth"
    good.write_bytes(zip_of(pickled({"a": tensor(Storage("0", 1), 0, (1,), (1,))}), {"0": struct.pack("<f", 3.5)}))
    for module, name in (
        ("torch._utils", "_rebuild_tensor_v2"),
        ("torch", "FloatStorage"),
        ("collections", "OrderedDict"),
    ):
        for state in ({"x": 1}, (None, {"x": 1, "__call__": 2, "dtype": "<f8"})):
            body = pickled(Global(module, name))[:-1] + pickled(state)[2:-1] + pickle.BUILD + pickle.STOP
            (tmp_path / "bad.pth").write_bytes(zip_of(body, {}))
            refusal(load_pth, tmp_path / "bad.pth")
            assert load_pth(good)["a"].tolist() == [3.5]
    assert not hasattr(OrderedDict, "x")


def test_what_is_no_pth(tmp_path):
    path = tmp_path / "net.pth"
    for content in (
        b"",
        b"<html>",
        pickled({}),
        b"\x80",
        b"PK\x03\x04",
        zip_of(b"", {}),
        zip_of(b"\x80\x02}.", {})[:-5],
    ):
        path.write_bytes(content)
        refusal(load_pth, path)
    path.write_bytes(zip_of(b"\x80\x02r\xff\xff\xff\x7f.", {}))
    assert "memo indices jump" in refusal(load_pth, path)
    path.write_bytes(zip_of(b"\x80\x02}.", {}, {"net/byteorder": "big"}))
    assert "little-endian" in refusal(load_pth, path)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("net/data.pkl", b"\x80\x02}." + bytes(10**6))
    path.write_bytes(buffer.getvalue())
    assert "compressed" in refusal(load_pth, path)


def overlapping_zip(pickled, n_entries, block):
    """Entries that each hold the headers of all later ones and the same ``block`` at the end."""
    names = [f"net/data/{k:04d}".encode() for k in range(n_entries)]
    first = zip_of(pickled, {})
    end_of_first = first.index(b"PK\x01\x02")
    content, headers, directory = block, [], []
    for name in reversed(names):  # a header is 30 bytes and its name 13; a byte of padding keeps elements whole
        size, crc = len(content), zlib.crc32(content)
        common = struct.pack("<HHHHHIIIHH", 20, 0, 0, 0, 33, crc, size, size, len(name), 1)
        content = b"PK\x03\x04" + common + name + b"\0" + content
        headers.append((name, crc, size, len(content)))
    body = first[:end_of_first] + content
    for name, crc, size, from_end in reversed(headers):
        sizes = struct.pack(
            "<HHHHHHIIIHHHHHII", 20, 20, 0, 0, 0, 33, crc, size, size, len(name), 0, 0, 0, 0, 0, len(body) - from_end
        )
        directory.append(b"PK\x01\x02" + sizes + name)
    tail = first[end_of_first : first.index(b"PK\x05\x06")] + b"".join(directory)
    return body + tail + struct.pack(
        "<4sHHHHIIH", b"PK\x05\x06", 0, 0, n_entries + 1, n_entries + 1, len(tail), len(body), 0
    ), [size for _, _, size, _ in reversed(headers)]


def test_a_small_file_cannot_fill_the_memory(tmp_path, monkeypatch):
    path = tmp_path / "net.pth"
    block, n = bytes(4000), 40
    sizes = overlapping_zip(b"", n, block)[1]
    state = {f"t{k}": tensor(Storage(f"{k:04d}", sizes[k] // 4), 0, (1,), (1,)) for k in range(n)}
    path.write_bytes(overlapping_zip(pickled(state), n, block)[0])
    assert "its entries overlap" in refusal(load_pth, path)

    shared = {f"t{k}": tensor(Storage("0", 1000), 0, (1000,), (1,)) for k in range(40)}
    path.write_bytes(zip_of(pickled(shared), {"0": bytes(4000)}))
    named(refusal(load_pth, path), "bytes of tensors", path.stat().st_size)

    read = []
    monkeypatch.setattr(
        zipfile.ZipFile,
        "read",
        lambda self, entry, inner=zipfile.ZipFile.read: read.append(entry.filename) or inner(self, entry),
    )
    path.write_bytes(zip_of(pickled({"t": tensor(Storage("0", 1), 0, (1,), (1,))}), {"0": bytes(4000)}))
    named(refusal(load_pth, path), 1, "4 bytes", "4000 bytes")
    assert read == ["net/data.pkl"], "a storage of another size was read"


@pytest.mark.parametrize("opcode", [b"\x82\x01", b"\x83\x01\x00", b"\x84\x01\x00\x00\x00"])
def test_the_extension_registry_is_closed(opcode, tmp_path, monkeypatch):
    monkeypatch.setitem(copyreg._inverted_registry, 1, ("os", "getcwd"))
    monkeypatch.setitem(copyreg._extension_cache, 1, os.getcwd)
    body = b"\x80\x02}(X\x01\x00\x00\x00a" + opcode + b")Ru."
    (tmp_path / "net.pth").write_bytes(zip_of(body, {}))
    (tmp_path / "net.tfinit").write_bytes(body)
    for name in ("net.pth", "net.tfinit"):
        assert "extension registry" in refusal(read_tensors, tmp_path / name)


@pytest.fixture
def torch_files(tmp_path):
    torch = pytest.importorskip("torch")
    state = {"state_dict": {name: torch.from_numpy(value) for name, value in TENSORS.items()}}
    paths = {}
    for kind in ("zip", "legacy"):
        paths[kind] = tmp_path / f"{kind}.pth"
        torch.save(state, paths[kind], _use_new_zipfile_serialization=kind == "zip")
    return paths


def test_files_of_torch(torch_files):
    for path in torch_files.values():
        found = read_tensors(path, SPEC)
        assert found.spec == SPEC
        assert_equal(found.tensors, TENSORS)
        assert "(classifier.linear.weight: expected 7x8, got 5x8, " in refusal(
            read_tensors, path, with_classes(SPEC, 7)
        )


def test_views_saved_by_torch(tmp_path):
    torch = pytest.importorskip("torch")
    base = torch.arange(24, dtype=torch.float32).reshape(4, 6)
    state = {
        "transposed": base.T,
        "rows": base[1:3],
        "steps": base[:, ::2],
        "double": base.double(),
        "half": base.half(),
        "bfloat16": base.bfloat16() / 3,
        "scalar": torch.tensor(2.5),
        "parameter": torch.nn.Parameter(base + 1),
        "counter": torch.tensor([3], dtype=torch.int64),
    }
    for modern in (True, False):
        torch.save(state, tmp_path / "net.pth", _use_new_zipfile_serialization=modern)
        found = load_pth(tmp_path / "net.pth")
        assert list(found) == list(state)
        for name, value in state.items():
            wanted = value.detach() if name == "counter" else value.detach().float()
            np.testing.assert_array_equal(found[name], wanted.numpy(), err_msg=name)
    torch.save(torch.nn.Linear(2, 2), tmp_path / "net.pth")
    assert "tried to use torch.nn.modules.linear.Linear" in refusal(load_pth, tmp_path / "net.pth")


@pytest.mark.shared_data
def test_the_official_small_net(shared_data):
    torch = pytest.importorskip("torch")
    base = f"{shared_data}/official/proxyless-w0.3-r176_imagenet"
    found = read_tensors(f"{base}.pth", read_spec(f"{base}.json"))
    state = torch.load(f"{base}.pth", weights_only=True)["state_dict"]
    kept = {name: value.numpy() for name, value in state.items() if not name.endswith("num_batches_tracked")}
    assert len(state) - len(kept) == 61
    assert_equal(found.tensors, kept)


# ---------------------------------------------------------------------------------------------------- .tfinit


def test_layouts():
    conv, depthwise = np.arange(2 * 3 * 9).reshape(2, 3, 3, 3), np.arange(45).reshape(5, 1, 3, 3)
    assert to_tf_layout("first_conv.conv.weight", conv)[1, 2, 0, 1] == conv[1, 0, 1, 2]
    assert (
        to_tf_layout("blocks.0.mobile_inverted_conv.depth_conv.conv.weight", depthwise)[1, 2, 4, 0]
        == depthwise[4, 0, 1, 2]
    )
    assert to_tf_layout("classifier.linear.weight", np.ones((5, 8))).shape == (8, 5)
    for name, value in TENSORS.items():
        there = to_tf_layout(name, value)
        assert there.flags.c_contiguous
        np.testing.assert_array_equal(from_tf_layout(name, there), value)


def python_2_pickle(arrays):
    """What Python 2 and numpy write with protocol 2: raw bytes as an 8-bit string."""

    def short(text):
        return b"U" + bytes([len(text)]) + text

    body = b"\x80\x02}("
    for name, value in arrays.items():
        raw = value.tobytes()
        body += short(name.encode())
        body += b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + short(b"b") + b"\x87R("
        body += b"K\x01(" + b"".join(b"M" + struct.pack("<H", size) for size in value.shape) + b"t"
        body += b"cnumpy\ndtype\n" + short(b"f4") + b"K\x00K\x01\x87R(K\x03" + short(b"<")
        body += b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T" + struct.pack("<I", len(raw)) + raw + b"tb"
    return body + b"u."


@pytest.mark.parametrize("protocol", [*range(5), "python 2"])
def test_tfinit(protocol, tmp_path):
    path = tmp_path / "net.tfinit"
    arrays = {name.replace(".", "/"): to_tf_layout(name, value) for name, value in TENSORS.items()}
    whole = python_2_pickle(arrays) if protocol == "python 2" else pickle.dumps(arrays, protocol=protocol)
    path.write_bytes(whole)
    if protocol == "python 2":
        loaded = pickle.loads(whole, encoding="latin1")
        assert_equal(loaded, arrays)
    found = read_tensors(path, SPEC)
    assert_equal(found.tensors, TENSORS)
    assert list(read_tensors(path).tensors) == list(TENSORS)


def test_arrays_in_other_forms(tmp_path):
    path, values = tmp_path / "net.tfinit", np.arange(6).reshape(2, 3)
    for value in (values.astype(">f4"), values.astype("<f8"), values.astype("<f2"), np.asfortranarray(values, "<f4")):
        path.write_bytes(pickle.dumps({"classifier/linear/weight": value}, protocol=2))
        found = read_tensors(path).tensors["classifier.linear.weight"]
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, values.T)
    for value, said in (
        (values.astype(object), "float16, float32 or float64, got |O8"),
        (values, "float16, float32 or float64, got <i8"),
        (np.array(["a"]), "float16, float32 or float64, got <U1"),
        (np.zeros(2, [("a", "f4")]), "float16, float32 or float64, got NoneV4"),
        (3, "expected a state dict ({name: tensor})"),
    ):
        path.write_bytes(pickle.dumps({"w": value}, protocol=2))
        assert said in refusal(read_tensors, path)
    path.write_bytes(pickle.dumps([values], protocol=2))
    assert refusal(read_tensors, path).startswith("expected a state dict")


def test_encode_is_latin_1_only(tmp_path):
    path = tmp_path / "net.tfinit"
    path.write_bytes(pickled({"w": Call(Global("_codecs", "encode"), "a" * 50, "bz2")}))
    named(refusal(read_tensors, path), "bytes", "form")
    assert codecs.encode("é", "latin1") == b"\xe9"


# -------------------------------------------------------------------------------------------------- any format


@pytest.mark.parametrize("name", ["net.ckpt", "net.h5", "net.safetensors", "net.pth", "net.onnx", "net", "net.json"])
@pytest.mark.parametrize("content", [b"", b"hello", b"{}", b"\x00" * 64], ids=["empty", "text", "json", "zeros"])
def test_what_is_no_weight_file(name, content, tmp_path):
    assert refusal(read_tensors, tmp_path / name).startswith("no such file")
    (tmp_path / name).write_bytes(content)
    refusal(read_tensors, tmp_path / name)


def test_git_blob_sha1(tmp_path):
    (tmp_path / "a").write_bytes(b"hello\n")
    assert git_blob_sha1(tmp_path / "a") == "ce013625030ba8dba906f756967f9e9ca394464a"  # git hash-object
    (tmp_path / "b").write_bytes(b"")
    assert git_blob_sha1(tmp_path / "b") == "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"


def damaged(data, chooser):
    """One random change to the bytes of a file; half of them near its start, where the structure is."""
    changed = bytearray(data)
    reach = len(data) if chooser.random() < 0.5 else min(len(data), 3000)
    position = chooser.randrange(reach)
    match chooser.randrange(6):
        case 0:
            del changed[position:]
        case 1:
            del changed[position : position + chooser.randint(1, 8)]
        case 2:
            changed[position:position] = chooser.randbytes(chooser.randint(1, 8))
        case _:
            for _ in range(chooser.randint(1, 5)):
                changed[chooser.randrange(reach)] = chooser.choice([0, 1, 127, 128, 255, chooser.randrange(256)])
    return bytes(changed)


def survive(path, seed, times=300):
    whole, chooser = path.read_bytes(), random.Random(seed)
    outcomes = set()
    for _ in range(times):
        path.write_bytes(damaged(whole, chooser))
        try:
            read_tensors(path, SPEC)
        except InputError as error:
            assert str(error).endswith(f"(in {path})")
            outcomes.add("refused")
        else:
            outcomes.add("read")
    assert "refused" in outcomes


@OURS
def test_damaged_files_of_ours(save, load, extension, tmp_path):
    save(tmp_path / f"net{extension}", SPEC, TENSORS, PROVENANCE)
    survive(tmp_path / f"net{extension}", seed=1)


@pytest.mark.parametrize("kind", ["zip", "legacy"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # pickletools, on odd escapes
def test_damaged_files_of_torch(kind, torch_files):
    survive(torch_files[kind], seed=2)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_damaged_pickle_in_a_sound_zip(tmp_path):
    """A zip entry has a checksum, so damage inside of it is written with a right one."""
    path, chooser = tmp_path / "net.pth", random.Random(3)
    views, contents = {}, {}
    for key, (name, value) in enumerate(TENSORS.items()):
        steps = tuple(stride // 4 for stride in value.strides)
        views[name] = tensor(Storage(str(key), value.size), 0, value.shape, steps)
        contents[str(key)] = value.tobytes()
    body = pickled(views)
    path.write_bytes(zip_of(body, contents))
    assert_equal(read_tensors(path, SPEC).tensors, TENSORS)
    for _ in range(300):
        path.write_bytes(zip_of(damaged(body, chooser), contents))
        try:
            read_tensors(path, SPEC)
        except InputError as error:
            assert str(error).endswith(f"(in {path})")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_damaged_tfinit(tmp_path):
    arrays = {name.replace(".", "/"): to_tf_layout(name, value) for name, value in TENSORS.items()}
    (tmp_path / "net.tfinit").write_bytes(pickle.dumps(arrays, protocol=2))
    survive(tmp_path / "net.tfinit", seed=4)


def test_every_released_network_has_a_contract():
    for name in catalog.names():
        assert len(expected_tensors(catalog.load(name))) > 200


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names here")
@pytest.mark.parametrize("ending", [".safetensors", ".pth", ".h5", ".weights.h5", ".keras", ".tfinit", ""])
def test_a_pipe_is_no_weight_file(ending, tmp_path):
    """Nobody writes into it: reading would wait forever."""
    path = tmp_path / f"net{ending}"
    os.mkfifo(path)
    for spec in (None, SPEC):
        with pytest.raises(InputError) as caught:
            read_tensors(path, spec)
        assert (caught.value.source, "pipe" in str(caught.value)) == (str(path), True)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "an empty file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n", "a Git LFS pointer"),
        (b"\n<!DOCTYPE html>\n<html><body>Sign in</body></html>", "a web page"),
        (gzip.compress(b"weights", mtime=0), "gzip"),
        (lzma.compress(b"weights"), "xz"),
    ],
)
@pytest.mark.parametrize("name", ["net.pth", "net.h5", "net.safetensors", "net"])
def test_what_stands_in_place_of_weights_is_named(content, what, name, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_tensors(tmp_path / name)
    assert what in caught.value.problem
    assert caught.value.source == str(tmp_path / name)
