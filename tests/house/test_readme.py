"""What README promises to show is there."""

import re
from pathlib import Path
from urllib.parse import unquote

import pytest

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
CODE = re.compile(r"^```.*?^```$|`[^`\n]+`", re.MULTILINE | re.DOTALL)
PLACEHOLDER = re.compile(r"\b[A-Z]{2,}(?:_[A-Z0-9]+)+\b")


def local_links(text):
    targets = re.findall(r"\]\(([^)\s]+)\)", CODE.sub("", text))
    return sorted({unquote(target.split("#")[0]) for target in targets if "://" not in target} - {""})


def placeholders(text):
    """Words still to be replaced: in the text, or alone on a line of an example."""
    alone = [line.strip() for line in text.splitlines() if PLACEHOLDER.fullmatch(line.strip())]
    return sorted({*PLACEHOLDER.findall(CODE.sub("", text)), *alone})


@pytest.mark.parametrize("target", local_links(README))
def test_local_links_and_pictures_exist(target):
    assert (ROOT / target).exists()


def test_nothing_is_left_to_fill_in():
    assert placeholders(README) == []


def test_the_reader_sees_links_and_placeholders():
    text = "![a](docs/a.png) [b](https://b.org/c) [d](e.md#part) [f](#here)\n`OMP_NUM_THREADS=1`\n\nRUN_OUTPUT\n"
    assert local_links(text) == ["docs/a.png", "e.md"]
    assert placeholders(text) == ["RUN_OUTPUT"]
    assert placeholders("```\n[not](a link) OMP_NUM_THREADS=1 make test\nRUN_OUTPUT\n```\n") == ["RUN_OUTPUT"]
