"""The fuzzer finds what it is to find; whole files pass every reader, files of the corpus end as they should."""

import os
import time
from pathlib import Path

import numpy as np
import pytest

from proxyless_arch.base.errors import InputError
from tests.fuzz import running
from tests.fuzz.readers import READERS
from tests.fuzz.running import (
    ACCEPTED,
    CRASHED,
    FAULTS,
    HUNG,
    NOT_FINITE,
    TYPED,
    UNTYPED,
    Reader,
    fuzz,
    mutated,
    read_case,
)

BY_NAME = {reader.name: reader for reader in READERS}
CORPUS = sorted(Path(__file__).parent.glob("corpus/*/*"))


def _answer(path):
    """What a reader may do with a file, by its first letter."""
    match path.read_bytes()[:1]:
        case b"t":
            raise InputError("no")
        case b"u":
            raise KeyError("no")
        case b"n":
            return {"a": [np.array([1.0, np.inf])]}
        case b"c":
            os.abort()
        case b"h":
            while True:
                pass


@pytest.mark.parametrize(
    ("letter", "outcome"), [*zip("tuncha", (TYPED, UNTYPED, NOT_FINITE, CRASHED, HUNG, ACCEPTED), strict=True)]
)
def test_every_outcome_is_told_from_the_others(letter, outcome, monkeypatch):
    monkeypatch.setattr(running, "LIMIT_S", 0.3)
    reader = Reader("one", lambda: [letter.encode()], lambda data, rng: data, _answer, "file")
    tally = fuzz([reader], inputs=2, at_once=2)
    assert set(tally.counts["one"]) == {outcome}
    assert len(tally.faults) == tally.counts["one"].total() * (outcome in FAULTS)


def test_one_that_hangs_is_no_end(monkeypatch):
    monkeypatch.setattr(running, "LIMIT_S", 0.3)
    reader = Reader("one", lambda: [b"h", b"c", b"t"], lambda data, rng: data, _answer, "file")
    begun = time.monotonic()
    tally = fuzz([reader], inputs=6, at_once=4)
    assert tally.n_inputs >= 6
    assert set(tally.counts["one"]) == {CRASHED, HUNG, TYPED}
    assert time.monotonic() - begun < 60


def test_a_case_is_the_same_file_each_time():
    for name in ("metrics", "png", "yaml", "table"):
        reader = BY_NAME[name]
        first = [mutated(reader, reader.seeds(), 0, case) for case in range(5)]
        assert first == [mutated(reader, reader.seeds(), 0, case) for case in range(5)]
        assert first != [mutated(reader, reader.seeds(), 1, case) for case in range(5)]


SLOW = {"search_checkpoint", "train_checkpoint", "onnx", "tflite", "config", "environment", "space", "run_spec"}
QUICK = sorted(BY_NAME.keys() - SLOW)


@pytest.mark.parametrize("name", [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in sorted(SLOW))])
def test_a_whole_file_is_read(name, tmp_path):
    """Else no mutant of it would get past the door."""
    reader = BY_NAME[name]
    reader.home(tmp_path)
    for content in reader.seeds():
        assert read_case(reader, tmp_path, content) == (ACCEPTED, "")


HANGS = "the_interpreter_never_comes_back"  # until its time is over


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, id=f"{path.parent.name}/{path.name}", marks=[pytest.mark.slow] * (path.name == HANGS))
        for path in CORPUS
    ],
)
def test_what_was_found_once_is_a_fault_no_more(path, tmp_path):
    reader = BY_NAME[path.parent.name]
    reader.home(tmp_path)
    outcome, detail = read_case(reader, tmp_path, path.read_bytes())
    assert outcome not in FAULTS, detail


@pytest.mark.slow
def test_a_minute_of_it():
    tally = fuzz(READERS, seconds=60, seed=18)
    assert tally.faults == []
    assert tally.n_inputs > 500
