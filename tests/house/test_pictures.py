"""The pictures of docs/ are what their scripts draw of the records in the repository.

Draw them anew after a change that is meant: python -m tests.house.test_pictures
docs/architecture.svg and search.svg are of a run that is not kept: python search/report.py RUN --svg docs
"""

import functools
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from benchmarks import bench_growth, comparison_scene, oracle_picture
from experiments import landing_digits, proof, prune_proof
from proxyless_arch.__main__ import main as proxyless_arch_main
from proxyless_arch.drawing.scene import write_picture

ROOT = Path(__file__).resolve().parents[2]
DEVICES = ("mobile", "cpu", "cpu-litert", "flops")


def record(file: str):
    return json.loads((ROOT / file).read_text(encoding="utf-8"))


def draw_specialization(path: Path) -> None:
    specs = [str(ROOT / "experiments" / "specialization" / f"{name}.json") for name in DEVICES]
    assert proxyless_arch_main(["draw", *specs, "-o", str(path)]) == 0


PICTURES: Mapping[str, Callable[[Path], object]] = {
    "proof.svg": lambda path: proof.draw(record("experiments/proof.json"), path),
    "prune_proof.svg": lambda path: prune_proof.draw(record("experiments/prune_proof.json"), path),
    "landing.svg": lambda path: landing_digits.draw(record("experiments/landing_digits.json")["searches"], path),
    "comparison.svg": lambda path: comparison_scene.draw(record("benchmarks/known_networks.json"), path),
    "specialization.svg": draw_specialization,
    "growth.svg": lambda path: write_picture(bench_growth.picture(record("benchmarks/growth.json")), path),
    "oracles.svg": lambda path: oracle_picture.draw(record("benchmarks/search_oracles.json")["rows"], path),
}


@functools.cache
def documents() -> str:
    return "".join(
        path.read_text(encoding="utf-8") for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
    )


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_is_that_of_its_record(name, tmp_path, capsys):
    PICTURES[name](tmp_path / name)
    drawn = (tmp_path / name).read_text(encoding="utf-8")
    assert drawn == (ROOT / "docs" / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("path", sorted((ROOT / "docs").glob("*.svg")), ids=lambda path: path.name)
def test_a_picture_is_shown_small_and_has_both_shades(path):
    text = path.read_text(encoding="utf-8")
    assert path.name in documents() and len(text) < 100_000
    assert "prefers-color-scheme:dark" in text


if __name__ == "__main__":
    for name, draw in PICTURES.items():
        draw(ROOT / "docs" / name)
