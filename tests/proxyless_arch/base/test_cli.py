"""The one way out of every command: which failure becomes which code, in one line, and which keeps its traceback."""

import errno
import io
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from proxyless_arch.base.cli import (
    BAD_INPUT,
    CLOSED_PIPE,
    FAILED,
    HELP_ALL,
    INTERRUPTED,
    NO_RESOURCE,
    OTHERS,
    OWNERS,
    Parser,
    exit_code,
    own_python,
)
from proxyless_arch.base.errors import ElsewhereError, InputError, LeftOutWarning, LostProcessError, StoppedError
from proxyless_arch.base.strict import nearest
from tests.errors import refused

ROOT = Path(__file__).resolve().parents[3]


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
        (MemoryError(), NO_RESOURCE, "error: out of memory: "),
        (OutOfMemoryError("CUDA: tried 2 GiB\nmore"), NO_RESOURCE, "error: out of memory: CUDA: tried"),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: 8"),
            NO_RESOURCE,
            "error: out of memory: Default",
        ),
        (LostProcessError("reader 3"), NO_RESOURCE, "error: lost process: reader 3"),
        (RuntimeError("DataLoader worker (pid 4) is killed by signal"), NO_RESOURCE, "error: lost process: Data"),
        (ModuleNotFoundError("yaml?", name="yaml"), NO_RESOURCE, "error: not installed: yaml?: pip install"),
        (KeyboardInterrupt(), INTERRUPTED, "\ninterrupted"),
    ],
    ids=repr,
)
def test_an_expected_failure_is_one_line_and_a_code(capsys, error, code, line):
    assert exit_code(raising(error), []) == code
    out, err = capsys.readouterr()
    assert out == "" and err.startswith(line) and err.strip().count("\n") == 0


@pytest.mark.parametrize(("is_input", "code"), [(True, BAD_INPUT), (False, FAILED)])
def test_what_another_process_reports_is_a_code_without_a_line(capsys, is_input, code):
    assert exit_code(raising(ElsewhereError(is_input=is_input)), []) == code
    assert capsys.readouterr() == ("", "")


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


BROKEN = BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))


@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_output_that_nobody_reads_any_more_ends_a_command_in_silence(name, monkeypatch, capfd):
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w") as stream, monkeypatch.context() as patch:
        patch.setattr(sys, name, stream)
        assert exit_code(raising(BROKEN), []) == CLOSED_PIPE
    assert capfd.readouterr() == ("", "")


@pytest.mark.skipif(os.name != "posix", reason="numbers of files")
@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_a_command_whose_streams_are_closed_does_its_work(closed, tmp_path):
    body = """import sys
from proxyless_arch.base.cli import exit_code

def run(words):
    with open(words[0], "w") as file:
        print("said")
        print("said", file=sys.stderr)
        file.write(str(file.fileno()))

sys.exit(exit_code(run))"""
    words = [sys.executable, "-c", body, str(tmp_path / "file")]
    done = subprocess.run(["sh", "-c", f'exec "$@" {closed}', "sh", *words], cwd=ROOT)
    assert done.returncode == 0
    assert int((tmp_path / "file").read_text()) > 2


def test_a_pipe_to_a_process_of_ours_is_no_reader_of_the_output(capfd):
    error = BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))
    error.add_note("continue with\n  train.py --resume")
    assert exit_code(raising(error), []) == NO_RESOURCE
    said = capfd.readouterr().err
    assert said.startswith("error: lost process: ") and said.endswith("train.py --resume\n") and said.count("\n") == 1


def test_a_warning_is_one_line(capsys):
    exit_code(lambda words: warnings.warn("beware", stacklevel=1), [])
    assert capsys.readouterr().err == "warning: beware\n"


def test_a_mistyped_flag_gets_a_hint():
    parser = Parser(prog="x")
    parser.add_argument("--epochs")
    with refused("--epoch", "'--epochs'"):
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


def parser(**more):
    found = Parser(prog="tool.py", **more)
    for flags in (("-a", "--arch"), ("-b", "--batch_size"), ("--rl_batch_size",), ("--init_lr",), ("--warmup_lr",)):
        found.add_argument(*flags)
    return found


@pytest.mark.parametrize(
    ("words", "name", "value"),
    [
        (["--batch-size", "8"], "batch_size", "8"),
        (["--batch-size=8"], "batch_size", "8"),
        (["--rl-batch-size", "-x=1"], "rl_batch_size", None),
        (["-arch", "x"], "arch", "x"),
        (["-b", "my-x"], "batch_size", "my-x"),
        (["-bmy-x"], "batch_size", "my-x"),
        (["--arch", "a-b"], "arch", "a-b"),
    ],
)
def test_dashes_are_taken_for_underscores_in_flags_alone(words, name, value):
    if value is None:
        with pytest.raises(InputError):
            parser().parse_strictly(words)
    else:
        assert getattr(parser().parse_strictly(words), name) == value


def test_dashes_are_taken_behind_a_subcommand_but_not_behind_two_dashes():
    outer = Parser(prog="tool.py")
    inner = outer.add_subparsers(dest="command").add_parser("draw")
    inner.add_argument("--save_json")
    inner.add_argument("files", nargs="*")
    assert outer.parse_strictly(["draw", "--save-json", "a-b"]).save_json == "a-b"
    assert outer.parse_strictly(["draw", "--", "--save-json"]).files == ["--save-json"]


@pytest.mark.parametrize(
    ("flag", "meant"),
    [
        ("--batch", ["--batch_size"]),
        ("--model", ["--arch"]),
        ("--lr", ["--init_lr", "--warmup_lr"]),
        ("--size-of-batch-rl", []),
        ("--rl-size", ["--rl_batch_size"]),
        ("--batch_sise", ["--batch_size"]),
        ("--zzz", []),
    ],
)
def test_a_hint_names_what_was_meant(flag, meant):
    with pytest.raises(InputError) as caught:
        parser().parse_strictly([flag, "1"])
    assert caught.value.place == flag
    assert [word.strip("'?,") for word in caught.value.problem.split() if word.startswith("'--")] == meant


@pytest.mark.parametrize("flag", ["--tflite", "--target-latency-ms"])
def test_a_flag_of_another_command_is_sent_there(flag):
    with pytest.raises(InputError, match=OWNERS[flag.replace("-", "_").replace("__", "--")].split()[0]):
        parser().parse_strictly([flag, "1"])


def test_what_stands_in_place_of_a_required_flag_is_named():
    found = parser()
    found.add_argument("--output", required=True)
    with refused("--out", "did you mean '--output'?"):
        found.parse_strictly(["--out", "folder"])
    with refused("--run", "did you mean '--arch'?"):
        found.parse_strictly(["--run", "x"])
    with pytest.raises(InputError, match="--output"):
        found.parse_strictly(["--arch", "x", "--", "--out"])


def test_a_flag_that_another_command_has_by_another_name():
    found = Parser(prog="tool.py")
    found.add_argument("--data_path")
    with refused("--model", "train.py"):  # its --arch
        found.parse_strictly(["--model", "x"])
    with refused("--threads", "OMP_NUM_THREADS"):
        found.parse_strictly(["--threads", "1"])


@pytest.mark.parametrize(
    ("flag", "meant"),
    [("--val_split", "--valid_size"), ("--cuda", "--device"), ("--confusion-matrix", "--per_class"),
     ("--train_dir", "--data_path"), ("--freeze_backbone", "--backbone_lr_mult"), ("--grayscale", "--in_chans"),
     ("--threshold", "--top")],
)  # fmt: skip
def test_the_flags_of_other_trainers_lead_to_ours(flag, meant):
    found = Parser(prog="tool.py")
    for name in (meant, "--run_dir", "--freeze_bn", "--threads", "--wd"):
        found.add_argument(name)
    with refused(flag, f"did you mean {meant!r}?"):
        found.parse_strictly([flag, "1"])
    for name in ("--num_classes", "--wandb"):
        with refused(name, "not a flag of tool.py"):
            found.parse_strictly([name, "1"])


def test_images_without_a_flag():
    found = Parser(prog="tool.py")
    found.add_argument("images", nargs="+", metavar="IMAGE")
    found.add_argument("--image_size")
    for flag in ("--data_path", "--images", "--input"):
        with refused(flag, "without a flag", "IMAGE"):
            found.parse_strictly([flag, "photos"])


def test_the_tables_of_hints_name_flags_that_commands_have():
    table = (Path(__file__).parents[2] / "house" / "flags.txt").read_text()
    rows = {part.split("]")[0]: part.replace("*", "").split() for part in table.split("[")[1:]}
    for flag, owners in OWNERS.items():
        assert all(flag in rows[owner] for owner in re.split(", | or ", owners))
    assert all(flag in table for flags in OTHERS.values() for flag in flags)
    assert not any(f"--{name}" in flags for name, flags in OTHERS.items())


def test_help_leaves_rare_flags_to_help_all(capsys):
    found = parser()
    for action in found._actions[2:]:
        action.is_rare = True
    found.add_help_all()
    for word, shown in (("--help", False), (HELP_ALL, True), ("-h", False), ("--help-all", True)):
        with pytest.raises(SystemExit) as caught:
            found.parse_strictly([word])
        assert caught.value.code == 0
        out = capsys.readouterr().out
        assert "--arch" in out and ("--rl_batch_size" in out) == shown
        assert ("4 more flags" in out) != shown
    assert found.parse_strictly(["--rl_batch_size", "3"]).rl_batch_size == "3"


def test_a_short_help_has_all(capsys):
    found = parser()
    found.add_help_all()
    with pytest.raises(SystemExit):
        found.parse_strictly(["--help"])
    out = capsys.readouterr().out
    assert "--rl_batch_size" in out and HELP_ALL not in out


@pytest.mark.parametrize(
    ("word", "hint"), [("phone", ""), ("gpu", "; did you mean 'gpu8'?"), ("mobil", "; did you mean 'mobile'?")]
)
def test_what_is_not_near_is_no_hint(word, hint):
    assert nearest(word, ["mobile", "cpu", "gpu8", "flops", "none"]) == hint


def test_a_terminal_of_ascii_shows_other_names_with_escapes(monkeypatch):
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))
    assert exit_code(lambda words: print("café \udcff"), []) == 0
    assert written.getvalue() == rb"caf\xe9 \udcff" + b"\n"


@pytest.mark.parametrize("kind", [InputError, StoppedError, OSError, LostProcessError, UserWarning])
def test_no_message_clears_the_screen_or_begins_a_line(capsys, kind):
    def body(words):
        error = kind("\x1b[2Jone\nerror: two\u2028\x9b1m")
        if kind is UserWarning:
            warnings.warn(error, stacklevel=1)
        else:
            raise error

    exit_code(body, [])
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert not set("\x1b\u2028\x9b") & set(err)


def test_of_many_images_left_out_the_first_are_named(capsys):
    def body(words):
        for number in range(200_000 if words else 10):
            warnings.showwarning(LeftOutWarning(f"{number}.jpg"), LeftOutWarning, "", 1)

    exit_code(body, [])
    assert [line.split()[1] for line in capsys.readouterr().err.splitlines()] == [f"{n}.jpg" for n in range(10)]
    exit_code(body, ["many"])
    *named, last = capsys.readouterr().err.splitlines()
    assert (len(named), "199,990" in last) == (10, True)
