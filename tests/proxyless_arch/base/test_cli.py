"""The one way out of every command: which failure becomes which code, in one line, and which keeps its traceback."""

import errno
import os
import sys
import warnings

import pytest

from proxyless_arch.base.cli import (
    BAD_INPUT,
    CLOSED_PIPE,
    FAILED,
    INTERRUPTED,
    NO_RESOURCE,
    Parser,
    exit_code,
    own_python,
)
from proxyless_arch.base.errors import InputError, LostProcessError, StoppedError


def raising(error):
    def run(words):
        raise error

    return run


@pytest.mark.parametrize(
    ("word", "found"),
    [
        ("--path=~/x", "--path={home}/x"),
        ("-p=~/x", "-p={home}/x"),
        ("~/a b", "{home}/a b"),
        ("~", "{home}"),
        ("x~/y", "x~/y"),
        ("--name=a=~/b", "--name=a=~/b"),
        ("~nobody-of-that-name/x", "~nobody-of-that-name/x"),
    ],
)
def test_a_home_folder_is_one_in_every_word(monkeypatch, tmp_path, word, found):
    monkeypatch.setenv("HOME", str(tmp_path))
    parser = Parser()
    parser.add_argument("words", nargs="*")
    for flag in ("--path", "--name", "-p"):
        parser.add_argument(flag, action="append")
    given = parser.parse_strictly([word])
    values = [*given.words, *(given.path or ()), *(given.name or ()), *(given.p or ())]
    assert values == [found.format(home=tmp_path).removeprefix("--path=").removeprefix("--name=").removeprefix("-p=")]


class OutOfMemoryError(RuntimeError):
    """Named as torch's, which is a RuntimeError of another module."""


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (InputError("expected 3", "--x", "a.json"), BAD_INPUT, "error: --x: expected 3 (in a.json)"),
        (StoppedError("loss nan"), FAILED, "error: loss nan"),
        (OSError(errno.ENOSPC, "No space left", "/a/b"), NO_RESOURCE, "error: disk full: /a/b"),
        (OSError(errno.EDQUOT, "Quota"), NO_RESOURCE, "error: disk full"),
        (PermissionError(errno.EACCES, "Permission denied", "/a"), NO_RESOURCE, "error: no permission: /a"),
        (FileNotFoundError(errno.ENOENT, "No such", "/a"), NO_RESOURCE, "error: no such file: /a"),
        (OSError(errno.EISDIR, "Is a directory", "/a"), NO_RESOURCE, "error: Is a directory: /a"),
        (OSError("no number"), NO_RESOURCE, "error: no number"),
        (MemoryError(), NO_RESOURCE, "error: out of memory: the machine has no more"),
        (OutOfMemoryError("CUDA: tried 2 GiB\nmore"), NO_RESOURCE, "error: out of memory: CUDA: tried 2 GiB;"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: 8"), NO_RESOURCE, "error: out of memory: Default"),
        (LostProcessError("reader 3"), NO_RESOURCE, "error: lost process: reader 3"),
        (RuntimeError("DataLoader worker (pid 4) is killed by signal"), NO_RESOURCE, "error: lost process: Data"),
        (ModuleNotFoundError("No module named 'yaml'", name="yaml"), NO_RESOURCE, "error: not installed: No module"),
        (KeyboardInterrupt(), INTERRUPTED, "\ninterrupted"),
    ],
    ids=repr,
)
def test_an_expected_failure_is_one_line_and_a_code(capsys, error, code, line):
    assert exit_code(raising(error), []) == code
    out, err = capsys.readouterr()
    assert out == "" and err.startswith(line) and err.strip().count("\n") == 0


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("shape"),
        ModuleNotFoundError("", name="search.gone"),
        KeyError("x"),
        ValueError("y"),
        ArithmeticError(),
        SystemExit(5),
    ],
)
def test_any_other_keeps_its_traceback(error):
    with pytest.raises(type(error)) as caught:
        exit_code(raising(error), [])
    assert caught.value is error


@pytest.mark.parametrize(("returned", "code"), [(None, 0), (0, 0), (7, 7)])
def test_a_command_has_its_own_code_too(returned, code):
    assert exit_code(lambda words: returned, []) == code


def test_the_words_are_those_given_or_the_processs(monkeypatch):
    seen = []
    exit_code(seen.append, ("a", "b"))
    monkeypatch.setattr("sys.argv", ["command", "c"])
    exit_code(seen.append)
    assert seen == [["a", "b"], ["c"]]


def test_a_command_says_what_an_interrupt_leaves(capsys):
    assert exit_code(raising(KeyboardInterrupt()), ["--x"], lambda words: f"go on: {words}") == INTERRUPTED
    assert capsys.readouterr().err == "\ngo on: ['--x']\n"


def test_a_closed_pipe_is_silent(capfd):
    assert exit_code(raising(BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))), []) == CLOSED_PIPE
    assert capfd.readouterr().err == ""


def test_a_warning_is_one_line(capsys):
    exit_code(lambda words: warnings.warn("beware", stacklevel=1), [])
    assert capsys.readouterr().err == "warning: beware\n"


def test_a_mistyped_flag_gets_a_hint():
    parser = Parser(prog="x")
    parser.add_argument("--epochs")
    with pytest.raises(InputError, match="--epoch: unknown argument; did you mean '--epochs'"):
        parser.parse_strictly(["--epoch", "3"])


def test_python_is_named_where_another_one_would_answer(tmp_path, monkeypatch):
    own = tmp_path / ".venv" / "bin" / "python"
    own.parent.mkdir(parents=True)
    own.write_text("#!/bin/sh\n")
    own.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(own))
    monkeypatch.setenv("PATH", str(own.parent))
    assert own_python() is None
    monkeypatch.setenv("PATH", str(tmp_path))
    assert own_python() == str(own)
    monkeypatch.chdir(tmp_path)
    assert own_python() == ".venv/bin/python"
