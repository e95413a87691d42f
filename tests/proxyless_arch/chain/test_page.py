"""The page and the picture of a chain."""

import pytest

from proxyless_arch.base.cli import BAD_INPUT
from proxyless_arch.chain.page import chain_page
from proxyless_arch.chain.pictures import charts
from proxyless_arch.chain.reading import read_chain
from search import report
from tests.proxyless_arch.chain.made_chain import (
    write_attack,
    write_export,
    write_pruned,
    write_quantized,
    write_trained,
)


@pytest.fixture
def bits(tmp_path):
    small = write_pruned(tmp_path / "small", write_trained(tmp_path / "photos"))
    bits = write_quantized(tmp_path / "bits", small)
    write_attack(bits / "attacked", bits)
    write_export(bits, ("litert", "net.tflite", 2.0, 9000), ("litert_mixed", "net_mixed.tflite", 1.5, 3000))
    return bits


def test_every_step_has_its_row_and_its_marks(bits):
    page = chain_page(read_chain(bits))
    assert [row.cells[0] for row in page.rows if row.is_step] == ["given", "trained", "pruned", "quantized"]
    assert [row.cells[0] for row in page.rows if not row.is_step] == ["attacked", "exported", "exported"]
    assert page.warnings == [] and page.commands == []
    accuracy, time, size = charts(read_chain(bits))
    assert {entry.label for entry in time.entries} == {
        "onnxruntime, measured", "epyc-r32, predicted", "LiteRT, measured", "litert, sum of measured layers",
    }  # fmt: skip
    assert len(accuracy.entries) == 2 and any("LiteRT file" in entry.label for entry in size.entries)


def test_the_page_names_what_was_not_done_yet(tmp_path):
    photos = write_trained(tmp_path / "photos", data_path="my photos")
    commands = chain_page(read_chain(photos)).commands
    assert [line.split()[1] for line in commands] == ["prune.py", "quantize.py", "attack.py", "export.py"]
    assert all(str(photos) in line for line in commands) and "'my photos'" in commands[2]
    bits = write_quantized(tmp_path / "bits", photos)
    assert [line.split()[1] for line in chain_page(read_chain(bits)).commands] == ["attack.py", "export_tf.py"]


def test_no_line_joins_accuracies_of_other_images(tmp_path):
    photos = write_trained(tmp_path / "photos")
    small = write_pruned(tmp_path / "small", photos)
    lines = [shape.style for shape in charts(read_chain(small))[0].scene.shapes].count("bar line-s1")
    write_pruned(small, photos, images={"test_names": "other"})
    less = [shape.style for shape in charts(read_chain(small))[0].scene.shapes].count("bar line-s1")
    assert lines == less + 1


def test_a_time_of_a_machine_that_changed_says_so(tmp_path):
    photos = write_trained(tmp_path / "photos")
    write_export(photos, ("litert", "net.tflite", 2.0, 9000), check={"n_images": 50, "anchor_drift_percent": 54.0})
    row = next(row for row in chain_page(read_chain(photos)).rows if row.cells[0] == "exported")
    assert "54 %" in row.cells[-1]


def test_report_py_writes_the_page_of_a_chain(bits, tmp_path, capsys):
    assert report.main([str(bits), "--svg", str(tmp_path / "docs")]) == 0
    page, drawn = capsys.readouterr().out.split()
    assert page == str(bits / "report.html") and drawn == str(tmp_path / "docs" / "chain.svg")
    text = (bits / "report.html").read_text()
    assert text.startswith("<!DOCTYPE html>") and "net_mixed.tflite" in text and text.count("<svg") > 3
    assert report.main([str(bits), "--gif", str(tmp_path / "film.gif")]) == BAD_INPUT
    assert "--gif" in capsys.readouterr().err and not (tmp_path / "film.gif").exists()


def test_a_chain_of_one_run_without_figures_is_a_page(tmp_path, capsys):
    photos = write_trained(tmp_path / "photos")
    (photos / "result.json").unlink()
    assert report.main([str(photos)]) == 0
    assert "did not come to its end" in (photos / "report.html").read_text()
