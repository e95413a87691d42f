"""search.png: what a search recorded, drawn."""

import xml.etree.ElementTree as ElementTree

import pytest

from proxyless_arch.base.units import Unit
from proxyless_arch.drawing.axes import Phase
from search.reporting.history import draw_search, phases_of

SVG = "{http://www.w3.org/2000/svg}"


def record(phase, epoch, n_epochs, probabilities, **known):
    empty = dict.fromkeys(
        ("train_loss", "train_top1_percent", "valid_loss", "valid_top1_percent", "learning_rate", "expected_cost",
         "argmax_cost", "target", "lambda", "temperature", "entropy", "images_per_second", "seconds")
    )  # fmt: skip
    place = {"phase": phase, "epoch": epoch, "n_epochs": n_epochs, "step": epoch, "arch_step": 0, "cost_unit": "ms"}
    return empty | place | {"probabilities": probabilities, "argmax_path": [0, 1]} | known


def texts(path):
    return [text.text or "" for text in ElementTree.parse(path).getroot().iter(f"{SVG}text")]


def test_phases_are_counted_from_1():
    records = [record("warmup", epoch, 2, None) for epoch in range(2)] + [record("finetune", 0, 1, None)]
    assert phases_of(records) == [
        Phase(name="warm-up", first=1, last=2, aside=True),
        Phase(name="fine-tune", first=3, last=3, aside=True),
    ]
    assert phases_of([]) == []


def test_search_history(tmp_path):
    labels = [["MB3 3x3", "MB6 7x7 s2"], ["MB3 5x5", "-- skipped"]]
    uniform = [[0.5, 0.5], [0.5, 0.5]]
    records = [record("warmup", epoch, 2, uniform, train_loss=2.0, entropy=1.39) for epoch in range(2)]
    records += [
        record("search", epoch, 2, [[0.1, 0.9], [0.25, 0.75]], expected_cost=90.0, argmax_cost=85.0, **{"lambda": 0.3})
        for epoch in range(2)
    ]
    records += [
        record("finetune", 0, 1, None, train_loss=0.5),
    ]
    draw_search(records, tmp_path / "s.svg", target=80.0, unit=Unit.MS, labels=labels, title="a <title>")
    words = texts(tmp_path / "s.svg")
    assert {"predicted latency (ms)", "target: 80 ms", "a <title>"} <= set(words)
    assert "MB6 7×7 0.90" in words and "skipped 0.75" in words
    assert not any("not leading" in word for word in words)


def test_what_projection_chose_stands_for_the_leading_operation(tmp_path):
    labels = [["MB3 3x3", "MB6 7x7 s2"], ["MB3 5x5", "-- skipped"]]
    records = [record("search", 0, 1, [[0.1, 0.9], [0.25, 0.75]])]
    draw_search(records, tmp_path / "s.svg", target=80.0, unit=Unit.MS, labels=labels, chosen=(0, 1))
    words = texts(tmp_path / "s.svg")
    assert "MB3 3×3 0.10" in words and "skipped 0.75" in words and "MB6 7×7 0.90" not in words
    assert any("not leading" in word for word in words)
    draw_search(records, tmp_path / "s.svg", target=80.0, unit=Unit.MS, labels=labels, chosen=(1, 1))
    assert not any("not leading" in word for word in texts(tmp_path / "s.svg"))


def test_blocks_have_the_numbers_that_they_have_in_the_network(tmp_path):
    records = [record("search", 0, 1, [[0.1, 0.9], [0.25, 0.75]])]
    draw_search(records, tmp_path / "s.svg", target=80.0, unit=Unit.MS, places=(17, 23))
    assert {"17", "23"} <= set(texts(tmp_path / "s.svg"))


@pytest.mark.parametrize("n_warmup", [0, 1, 3])
@pytest.mark.parametrize("probabilities", [None, [], [[0.5, 0.5], [0.5, 0.5]]])
def test_search_history_without_search_epochs_and_with_nulls(tmp_path, n_warmup, probabilities):
    records = [record("warmup", epoch, n_warmup, probabilities) for epoch in range(n_warmup)]
    draw_search(records, tmp_path / "s.svg", target=None, unit=Unit.MACS)
    words = texts(tmp_path / "s.svg")
    assert words.count("not recorded") == (3 if probabilities and n_warmup else 4)
    assert words.count("undecided") == (2 if probabilities and n_warmup else 0)
