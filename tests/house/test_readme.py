"""What README and the documents promise is there: files, links, commands with their flags, and code that runs."""

import ast
import importlib
import re
import shlex
import tomllib
from collections import Counter
from functools import cache
from pathlib import Path
from urllib.parse import unquote

import pytest

from proxyless_arch.base.errors import InputError
from tests.demo_net import needs_demo
from tests.house.test_flags import parser_of

ROOT = Path(__file__).resolve().parents[2]
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in [ROOT / "README.md", *ROOT.glob("docs/*.md")]
}
README = PAGES["README.md"]
WORDS = (850, 1100)
CODE = re.compile(r"^```.*?^```$|`[^`\n]+`", re.MULTILINE | re.DOTALL)
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PLACEHOLDER = re.compile(r"\b(?:[A-Z]{3,}|[A-Z]{2,}(?:_[A-Z0-9]+)+)\b")
SEARCH = "search/imagenet_arch_search.py"
GENERATED = {"phone/run.py": "hardware/profile/standalone_runner.py"}
"""Scripts that a command writes, and what they are copies of."""
LAUNCHER_FLAGS = {"--nproc_per_node", "--nnodes", "--rdzv_backend", "--rdzv_endpoint", "--rdzv_id"}
HISTORY = "docs/decisions.md"
"""The page that names flags and files of others, and of earlier days."""


# ------------------------------------------------------------------------------------------------ reading the pages


def links(text: str) -> list[str]:
    targets = re.findall(r"\]\(([^)\s]+)\)", CODE.sub("", text))
    return sorted({unquote(target) for target in targets if "://" not in target})


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", re.sub(BLOCK, "", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


def placeholders(text: str) -> list[str]:
    """Lines that are one word in capitals: text still to be written."""
    return [line.strip() for line in text.splitlines() if PLACEHOLDER.fullmatch(line.strip())]


def inline(text: str) -> list[str]:
    return re.findall(r"`([^`\n]+)`", BLOCK.sub("", text))


def commands(text: str) -> list[str]:
    """The command lines of a page: lines of blocks without a language, and inline code that starts like one."""
    blocks = [line for language, body in BLOCK.findall(text) if not language for line in body.splitlines()]
    lines = [re.split(r"\s+#\s", line)[0].strip() for line in [*blocks, *inline(text)]]
    starts = ("python ", "torchrun ", "make ", "pip ")
    return sorted({line for line in lines if line.startswith(starts)})


def flags(text: str) -> list[str]:
    """Flags in inline code, with or without a value."""
    words = [word for code in inline(text) if code.startswith("--") for word in code.split()]
    return sorted({word.split("=")[0] for word in words if re.fullmatch(r"--[a-z][\w]*(=.*)?", word)})


def files(text: str) -> list[str]:
    """Files and folders of this repository in inline code: those with a slash whose first folder is one of ours."""
    words = {word for code in inline(text) for word in code.split()}
    ours = {path.name for path in ROOT.iterdir() if path.is_dir()} - {"runs"}
    return sorted(
        word for word in words if "/" in word and re.fullmatch(r"[\w./]+", word) and word.split("/")[0] in ours
    )


def on_every_page(read) -> list:
    return [pytest.param(page, found, id=f"{page}: {found}") for page, text in PAGES.items() for found in read(text)]


@cache
def parser(script: str):
    return parser_of(ROOT / script)


# ---------------------------------------------------------------------------------------------------------- what holds


def test_the_first_page_is_read_in_minutes():
    assert WORDS[0] <= len(README.split()) <= WORDS[1]


@pytest.mark.parametrize(("page", "link"), on_every_page(links))
def test_links_and_pictures_lead_somewhere(page, link):
    name, _, anchor = link.partition("#")
    target = (ROOT / page).parent / name if name else ROOT / page
    assert target.exists()
    if anchor:
        assert anchor in anchors(target.read_text(encoding="utf-8"))


@pytest.mark.parametrize("page", PAGES)
def test_nothing_is_left_to_fill_in(page):
    assert placeholders(PAGES[page]) == []


@pytest.mark.parametrize(("page", "command"), on_every_page(commands))
def test_commands_parse(page, command):
    """The script or make target is there and takes the flags; nothing is run."""
    check_command(command)


@pytest.mark.parametrize(("page", "flag"), [case for case in on_every_page(flags) if case.values[0] != HISTORY])
def test_flags_exist(page, flag):
    assert flag in all_flags() | LAUNCHER_FLAGS


@pytest.mark.parametrize(("page", "file"), [case for case in on_every_page(files) if case.values[0] != HISTORY])
def test_files_exist(page, file):
    assert (ROOT / file).exists() or file in GENERATED


@pytest.mark.parametrize("page", PAGES)
def test_names_that_the_code_imports_are_there(page):
    for language, body in BLOCK.findall(PAGES[page]):
        for node in ast.walk(ast.parse(body)) if language == "python" else ():
            if isinstance(node, ast.ImportFrom):
                module = importlib.import_module(node.module)
                assert [name.name for name in node.names if not hasattr(module, name.name)] == []


@needs_demo
def test_the_code_of_the_first_page_runs(capsys):
    (body,) = [body for language, body in BLOCK.findall(README) if language == "python"]
    assert len(body.splitlines()) == 6
    exec(compile(body, "README.md", "exec"), {})
    shown = [line.split("%  ")[1] for line in capsys.readouterr().out.splitlines()]
    assert shown == ["daisy", "bee", "mushroom"]


# ------------------------------------------------------------------------------------------------------ one command


def check_command(command: str) -> None:
    """Raises AssertionError or InputError where ``command`` cannot be meant for this repository."""
    program, *words = shlex.split(command.split(" && ")[0])
    if program == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert set(words) <= set(targets)
    elif program == "pip":
        check_pip(words)
    elif program == "torchrun":
        script = next(index for index, word in enumerate(words) if not word.startswith("--"))
        assert {word.split("=")[0] for word in words[:script]} <= LAUNCHER_FLAGS
        check_script(words[script], words[script + 1 :])
    elif words[0] == "-m":
        check_script(f"{words[1].replace('.', '/')}/__main__.py", words[2:])
    else:
        check_script(words[0], words[1:])


def check_pip(words: list[str]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pinned = (ROOT / "requirements.txt").read_text().splitlines()
    for word in words[1:]:
        if extras := re.fullmatch(r"\.\[(.*)\]", word):
            assert set(extras[1].split(",")) <= set(project["optional-dependencies"])
        elif word.endswith(".txt"):
            assert (ROOT / word).is_file()
        elif word not in ("-r", "-e", "."):
            assert word in pinned


def check_script(script: str, words: list[str]) -> None:
    if words:
        parsed, unknown = parser(GENERATED.get(script, script)).parse_known_args(words)
        if script == "search/specialize.py":  # it gives the flags of a search on
            _, unknown = parser(SEARCH).parse_known_args(unknown)
        assert (parsed and unknown) == []
    else:
        assert (ROOT / GENERATED.get(script, script)).is_file()


@cache
def all_flags() -> set[str]:
    scripts = {word for text in PAGES.values() for command in commands(text) for word in command.split()}
    here = {script for script in scripts if script.endswith(".py") and (ROOT / script).is_file()}
    return {flag for script in here for action in parser(script)._actions for flag in action.option_strings}


# ------------------------------------------------------------------------------------------------- the checks can fail


@pytest.mark.parametrize(
    "command",
    [
        "make coffee",
        "pip install -e .[cofee]",
        "pip install -r requirement.txt",
        "pip install torch==1.0",
        "python evaluate.py --arch proxyless_cpu",
        "python eval.py --arc proxyless_cpu",
        "python eval.py --arch proxyless_cpu --precision fp8",
        "python -m proxyless_arch sketch proxyless_cpu",
        "torchrun --nproc_per_nod=4 train.py --arch proxyless_cpu",
        "torchrun --nproc_per_node=4 train.py --arc proxyless_cpu",
        "python search/specialize.py --targets mobile --nonsense 3",
    ],
)
def test_a_wrong_command_is_found(command):
    with pytest.raises((AssertionError, InputError, FileNotFoundError)):
        check_command(command)


def test_the_reader_sees_what_is_on_a_page():
    text = (
        "# A page, [b](https://b.org/c)\n"
        "![a](docs/a.png) [d](e.md#part) [f](#here) `make test` `--seed 3` `docs/a.md`\n"
        "\nRUN\n\n```\npython eval.py --arch x   # comment\n[not](a link)\nOMP_NUM_THREADS=1\nRUN_OUTPUT\n```\n"
        "## What it's *worth*?\n```python\nmake = 1\n```\n"
    )
    assert links(text) == ["#here", "docs/a.png", "e.md#part"]
    assert "what-its-worth" in anchors(text)
    assert Counter(placeholders(text)) == Counter(["RUN", "RUN_OUTPUT"])
    assert commands(text) == ["make test", "python eval.py --arch x"]
    assert flags(text) == ["--seed"]
    assert files(text) == ["docs/a.md"]
