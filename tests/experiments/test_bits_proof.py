"""experiments/bits_proof.py: LiteRT files over both halves, today's rule, and a record whose other parts stay."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from experiments import bits_proof as proof
from proxyless_arch.arch.bits import FLOAT32, INT8, bit_layers
from proxyless_arch.exports.bit_files import STORED_8
from tests.compress.specs import SPEC
from tests.errors import refused


def config(folder, **given):
    return proof.ProofConfig(arch="", data_path="", work=folder, save_json=folder / "out.json", **given)


def test_files_are_scored_on_the_half_that_did_not_choose_them(tmp_path, monkeypatch):
    photos = proof.Photos(np.zeros((8, 2, 2, 3), np.float32), np.arange(8))
    chosen = []

    def scored(contents, photos, half, config):
        assert not set(half.ours) & set(half.test) and len(half.ours) == len(half.test) == 4
        chosen.extend(half.test)
        right = {"float32": [True] * 4, proof.RULE: [True, True, False, False], proof.EXACT: [True, True, True, False]}
        return {name: (right[name], {"size_bytes": len(content), "ms": 1.0}) for name, content in contents.items()}

    monkeypatch.setattr(proof, "run_files", scored)
    contents = {"float32": b"1234", proof.RULE: b"12", proof.EXACT: b"1"}
    floats, rule, exact = proof.prove_files(photos, config(tmp_path), lambda half: contents)
    assert sorted(chosen) == list(range(8))
    assert (floats["top1_percent"], rule["top1_percent"], exact["top1_percent"]) == (100, 50, 75)
    assert exact["size_bytes"] == [1, 1] and exact["over_float"]["points"] == -25
    gains = np.array([0, 0, 1, 0] * 2)
    assert exact["over_rule"]["points"] == 25
    assert exact["over_rule"]["half_width"] == pytest.approx(100 * 1.96 * gains.std(ddof=1) / np.sqrt(8))


def test_fewer_photos_choose_where_asked(tmp_path):
    one, other = proof.halves_of(80, config(tmp_path, most=12))
    assert (len(one.calibration), len(one.choosing), len(one.test)) == (12, 12, 40)
    assert not {*one.test} & {*other.test} and {*other.ours} <= {*one.test}


def test_the_rule_keeps_the_first_blocks_and_stores_the_others():
    formats, plain = proof.rule_of(SPEC, STORED_8), proof.rule_of(SPEC, INT8)
    assert formats["first_conv"] == plain["first_conv"] == FLOAT32
    assert formats["classifier.linear"] == STORED_8 and plain["classifier.linear"] == INT8
    assert [*formats] == [layer.name for layer in bit_layers(SPEC)]
    assert proof.n_bytes(SPEC, formats) == proof.n_bytes(SPEC, plain)
    assert set(proof.rule_of(SPEC, STORED_8, 0).values()) == {STORED_8}


def test_other_parts_of_a_record_stay_and_those_of_another_network_are_refused(tmp_path):
    network = SimpleNamespace(weights_blob_sha1="a")
    file = tmp_path / "out.json"
    assert proof.known(file, network) == {}
    file.write_text(json.dumps({"arch": "net", "weights_blob_sha1": "a", "H1": 3}))
    assert proof.known(file, network)["H1"] == 3
    with refused("", "net", source=file):
        proof.known(file, SimpleNamespace(weights_blob_sha1="b"))
