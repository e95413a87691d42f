"""Every sentence that an expected failure ends in, in one file: tests/house/sentences.txt.

Read it as a text when it changes: python -m tests.house.test_sentences writes it anew. Other tests look at what an
error or a command names (tests.errors: place, source, values, labels), so that a sentence can be changed here alone.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SNAPSHOT = Path(__file__).with_name("sentences.txt")
ERRORS = {"InputError", "StoppedError", "LostProcessError"}
ROOMS = (
    "proxyless_arch",
    "proxyless_nas",
    "proxyless_nas_tensorflow",
    "hardware",
    "search",
    "compress",
    "proxyless_commands",
)


def text_of(node: ast.AST) -> str | None:
    """A string as it is written, ``{...}`` where it takes a value; None for anything else."""
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=parts):
            return "".join(text_of(part) or "{...}" for part in parts)
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return f"{text_of(left) or '{...}'}{text_of(right) or '{...}'}"
        case ast.IfExp(body=body, orelse=other):
            return f"{text_of(body) or '{...}'} | {text_of(other) or '{...}'}"
    return None


def errors_in(function: ast.AST) -> Iterator[str]:
    """The sentences of the errors that a function makes, in order; one that a name holds is what was assigned to it."""
    named: dict[str, list[str]] = {}
    for node in ast.walk(function):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and (text := text_of(node.value)):
            named.setdefault(node.targets[0].id, []).append(text)
    for node in ast.walk(function):
        if isinstance(node, ast.Call) and getattr(node.func, "id", None) in ERRORS and node.args:
            said = node.args[0]
            yield from named.get(said.id, []) if isinstance(said, ast.Name) else filter(None, [text_of(said)])


def sentences() -> list[str]:
    """``file: sentence`` of every room, sorted."""
    found = set()
    for path in sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for function in ast.walk(tree):
            if isinstance(function, ast.FunctionDef):
                found.update(f"{path.relative_to(ROOT).as_posix()}: {text!r}" for text in errors_in(function))
    return sorted(found)


def test_the_sentences_are_those_of_the_snapshot():
    assert sentences() == SNAPSHOT.read_text(encoding="utf-8").splitlines()


def test_a_sentence_is_read_from_the_code():
    code = "def f(a):\n    problem = f'got {a}'\n    raise InputError(problem, 'x')\n"
    assert list(errors_in(ast.parse(code))) == ["got {...}"]
    assert list(errors_in(ast.parse("raise InputError('a' if b else f'{c} d')"))) == ["a | {...} d"]
    assert len(sentences()) > 300


if __name__ == "__main__":
    SNAPSHOT.write_text("".join(f"{line}\n" for line in sentences()), encoding="utf-8")
