"""proxylessnas WORD: the same mains as the scripts'."""

import importlib
import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from proxyless_commands import __main__ as commands

ROOT = Path(__file__).resolve().parents[2]


def test_the_entry_point_is_there():
    (entry,) = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"].items()
    name, place = entry
    module, function = place.split(":")
    assert (name, getattr(importlib.import_module(module), function)) == ("proxylessnas", commands.main)


@pytest.mark.parametrize("word", commands.COMMANDS)
def test_every_word_has_a_script(word):
    path = ROOT / f"{commands.COMMANDS[word].module.replace('.', '/')}.py"
    assert "def main(argv: Sequence[str] | None = None) -> int:" in path.read_text()


def test_a_word_starts_its_script_with_what_follows(monkeypatch):
    seen = []
    module = importlib.import_module("hardware.profile_latency")
    monkeypatch.setattr(module, "main", lambda argv: seen.append(argv) or 7)
    assert commands.main(["profile", "--quick", "--seed", "3"]) == 7
    assert seen == [["--quick", "--seed", "3"]]


def test_the_words_of_one_file_are_told_apart(capsys):
    assert commands.main(["list"]) == 0
    listed = capsys.readouterr().out
    assert commands.main(["show", "proxyless_cpu"]) == 0
    shown = capsys.readouterr().out
    assert "proxyless_gpu" in listed and "proxyless_gpu" not in shown and "blocks.3" in shown


@pytest.mark.parametrize("argv", [[], ["--help"], ["-h"]])
def test_the_overview_names_every_word(argv, capsys):
    assert commands.main(argv) == 0
    printed = capsys.readouterr().out
    assert all(f"\n  {word} " in printed for word in commands.COMMANDS)


@pytest.mark.parametrize(("word", "hint"), [("serch", "search"), ("exprt", "export"), ("Train", "train")])
def test_an_unknown_word(word, hint, capsys):
    assert commands.main([word, "--help"]) == 2
    error = capsys.readouterr().err
    assert f"did you mean '{hint}'?" in error and all(known in error for known in commands.COMMANDS)


HEAVY = ("torch", "tensorflow", "keras", "onnxruntime", "scipy", "sklearn", "matplotlib", "jinja2", "h5py")
HELPED = """
import contextlib, io, json, sys
from proxyless_commands import __main__ as commands
found = {}
for word in commands.COMMANDS:
    with contextlib.redirect_stdout(io.StringIO()) as printed, contextlib.suppress(SystemExit):
        commands.main([word, "--help"])
    found[word] = [len(printed.getvalue()), sorted(set(HEAVY) & set(sys.modules))]
print(json.dumps(found))
"""


def test_help_is_there_before_anything_heavy_is_imported():
    script = f"HEAVY = {HEAVY}\n{HELPED}"
    ran = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    for word, (length, heavy) in json.loads(ran.stdout).items():
        assert length > 100 and heavy == [], word
