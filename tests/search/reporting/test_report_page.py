"""report.html: the numbers are result.json's, the drawing is the spec's, the page is whole and asks for nothing."""

import http.server
import json
import math
import re
import shutil
import subprocess
import threading
import urllib.parse
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from hardware.latency import network_ms, shipped
from proxyless_arch.apps.per_class import FILE as PER_CLASS_FILE
from proxyless_arch.apps.per_class import ClassScore, per_class_record
from proxyless_arch.arch.codec import read_spec
from proxyless_arch.arch.draw import draw_architectures, draw_stages
from proxyless_arch.arch.ops import Zero
from proxyless_arch.arch.walk import walk
from proxyless_arch.base.errors import InputError
from proxyless_arch.base.files import write_json
from proxyless_arch.base.units import Unit
from proxyless_arch.data.datasets import digits
from proxyless_arch.drawing.scene import to_svg
from proxyless_arch.space.mbconv import TINY
from proxyless_arch.space.wide import wide_space
from search.reporting import views
from search.reporting.commands import next_commands
from search.reporting.film import frames, write_film
from search.reporting.networks import released_points
from search.reporting.pictures import write_svg
from search.reporting.report_page import comparison, report, write_comparison, write_report
from search.reporting.run_folder import read_run, read_trained
from search.reporting.trainings import with_trained
from tests.errors import named, refused
from tests.search.made_run import DIGITS, write_random, write_run, write_trained

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
BROWSERS_OWN = ("googleapis.com", "google.com")
"""Hosts that Chromium asks on its own account, whatever page it shows."""
# six vanished blocks, and every kernel
PATH = (4, 6, 6, 1, 2, 6, 6, 0, 5, 6, 6, 3)
VOID = frozenset({"meta", "link", "input", "img", "br"})


class Page(HTMLParser):
    """Reads a page as a browser does: data values, classes, texts; asserts that every tag is closed in its place.

    ``boxes``: {id of a layer: what its box is drawn as}; ``drawn``: {id: the places and texts in it};
    ``json``: {id: value} of the data for scripts.
    """

    def __init__(self, text):
        super().__init__()
        self.open, self.values, self.elements, self.text, self.scripts = [], {}, [], [], []
        self.boxes, self.drawn, self.titles, self.json, self.shares, self.tables = {}, {}, [], {}, [], []
        self.inner, self.layer = [], None
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, name, attributes):
        attributes = dict(attributes)
        self.elements.append((name, attributes))
        if "data-key" in attributes:
            self.values.setdefault(attributes["data-key"], []).append(float(attributes["value"]))
        classes = (attributes.get("class") or "").split()
        if "block" in classes:
            self.layer = attributes.get("id")
        if "box" in classes and self.layer is not None:  # the swatches of a legend are in no block
            (self.boxes[self.layer],) = set(classes) - {"box"}
            self.drawn[self.layer] = [float(attributes["y"]), float(attributes["height"])]
            self.layer = None
        if "share" in classes:
            self.drawn[list(self.boxes)[-1]].append(float(attributes["height"]))
        if name not in VOID:
            self.open.append(name)
            self.inner.append((attributes.get("id"), classes))

    def handle_endtag(self, name):
        assert self.open and self.open[-1] == name, (name, self.open[-3:], self.getpos())
        self.open.pop()
        self.inner.pop()

    def handle_data(self, data):
        inside, (id_, classes) = (self.open[-1], self.inner[-1]) if self.open else ("", (None, []))
        (self.scripts if inside in ("script", "style") else self.text).append(data)
        if inside == "title":
            self.titles.append(data)
        if inside == "pre":
            self.tables.append(data)
        if inside == "script" and id_ is not None:
            self.json[id_] = json.loads(data)
        in_a_layer = any("block" in outer for _, outer in self.inner)
        if "percent" in classes and in_a_layer:
            self.shares.append(float(data))
        if in_a_layer and ("op" in classes or "percent" in classes):
            self.drawn[list(self.boxes)[-1]].append(data)

    @property
    def words(self):
        return " ".join(" ".join(self.text).split())

    def classed(self, name):
        return [attributes for _, attributes in self.elements if name in (attributes.get("class") or "").split()]


def page_of(folder):
    text = report(read_run(folder))
    return Page(text), text


def test_what_the_projection_overruled_is_marked_with_its_cost(tmp_path):
    change = {"block": 3, "argmax": "MB3 5x5", "argmax_percent": 99.9, "chosen": "MB6 7x7", "chosen_percent": 0.04}
    mild = change | {"block": 5, "chosen": "MB3 3x3", "chosen_percent": 12.0}
    write_run(
        tmp_path / "run", projection_changes=[change, mild], projection_log_odds=math.log(1e-9),
        argmax_top1_percent=72.0, argmax_test_top1_percent=71.5,
    )  # fmt: skip
    page, _ = page_of(tmp_path / "run")
    assert len(page.classed("overruled")) == 1 == page.words.count("against the search")
    assert "MB6 7×7 (0.0 %)" in page.words and "MB3 3×3 (12.0 %)" in page.words
    assert "argmax scores 71.5 %" in page.words and "10 9 times as probable" in page.words
    assert "does not cost what was asked" in page.words
    by_scores = {"networks": 64, "loss": 1.0, "loss_of_most_probable": 1.2}
    write_run(tmp_path / "scored", projection_changes=[mild], rescored=by_scores)
    words = page_of(tmp_path / "scored")[0].words
    assert "Of the 64 most probable networks" in words and "does not cost what was asked" not in words
    write_run(tmp_path / "older")
    assert "What the target changed" not in page_of(tmp_path / "older")[0].words


@pytest.mark.parametrize(("landed", "said"), [(True, "landed"), (False, "not landed")])
def test_whether_it_landed_is_on_the_page(tmp_path, landed, said):
    more = {"landed_by": "measured", "landing_error_percent": 14.0, "landing_tolerance_percent": 2.0}
    write_run(tmp_path / "run", landed=landed, landing_stopped="" if landed else "the machine is too busy", **more)
    page, _ = page_of(tmp_path / "run")
    assert f"Landing {said} +14.00 %" in page.words
    assert page.values["landing_error_percent"] == [14.0]
    assert ("Not landed:" in page.words) == ("the machine is too busy." in page.words) != landed


def test_the_numbers_are_those_of_result_json(tmp_path):
    _, _, result, _ = write_run(tmp_path / "run", measured_latency_ms=2.3456789)
    page, _ = page_of(tmp_path / "run")
    shown = ("target_latency_ms", "predicted_latency_ms", "measured_latency_ms", "test_top1_percent", "top1_percent",
             "macs", "params", "wall_seconds")  # fmt: skip
    assert page.values == {key: [result[key]] for key in shown}
    assert "not measured" not in page.words
    for key, value in result.items():
        assert f"{key} {value}" in page.words


def test_what_was_not_measured_says_so(tmp_path):
    write_run(tmp_path / "run")
    page, _ = page_of(tmp_path / "run")
    assert "measured_latency_ms" not in page.values
    assert "Measured not measured" in page.words


def test_macs_are_counted_not_measured(tmp_path):
    _, _, result, _ = write_run(tmp_path / "run", hardware="flops")
    page, _ = page_of(tmp_path / "run")
    assert page.values["target_macs"] == [result["target_macs"]]
    assert page.values["macs_cost"] == page.values["macs"] == [result["macs"]]
    assert "Measured" not in page.words and "million MACs" in page.words


def test_the_drawing_is_the_spec(tmp_path):
    _, _, _, spec = write_run(tmp_path / "run", path=PATH)
    page, _ = page_of(tmp_path / "run")
    calls = walk(spec)
    assert len(page.boxes) == len(calls)
    for call in calls:
        drawn = page.boxes[f"film-{call.name}"]
        if isinstance(call.op, Zero):
            assert drawn == "gone"
        elif call.name.startswith("blocks."):
            assert drawn == f"k{call.op.kernel_size}"
        else:
            assert drawn == "fixed"
    assert list(page.boxes.values()).count("gone") == sum(isinstance(block.op, Zero) for block in spec.blocks) == 6


def test_the_page_shows_the_pictures_drawing(tmp_path):
    """Stage by stage, what report.html shows is what architecture.svg does, beside each other instead of wrapped."""
    _, _, _, spec = write_run(tmp_path / "run", path=PATH)
    run = read_run(tmp_path / "run")
    page, _ = page_of(tmp_path / "run")
    costs = run.costs(spec)
    draw_architectures([("title", spec, costs)], tmp_path / "one.svg")
    picture = Page((tmp_path / "one.svg").read_text())
    top = max(costs) / sum(costs) / page.json["film-data"]["top"]  # the film's bars are to the scale of all its frames
    for layer, parts in picture.drawn.items():
        y, height, bar = (part for part in parts if isinstance(part, float))
        texts = [part for part in parts if isinstance(part, str)]
        shown = page.drawn[layer.replace("row0.", "film-")]
        assert [part for part in shown if isinstance(part, str)] == texts
        assert [part for part in shown if isinstance(part, float)] == [y, height, pytest.approx(bar * top, abs=0.011)]


@pytest.mark.parametrize(("constant", "scale"), [(-0.1, 1.0), (0.25, 1.03), (0.0, 0.97)])
def test_the_layer_table_adds_up_to_the_prediction(constant, scale, tmp_path):
    *_, result, spec = write_run(tmp_path / "run", constant=constant, table_scale=scale)
    run = read_run(tmp_path / "run")
    predicted = scale * network_ms(replace(shipped("pixel1"), offset_ms=constant), walk(spec))
    assert result["predicted_latency_ms"] == pytest.approx(predicted, rel=1e-12)
    assert sum(run.costs(spec, run.table_scale)) == pytest.approx(predicted, rel=1e-12)
    page = Page(write_report(tmp_path / "run").read_text())
    (table,) = (text for text in page.tables if text.startswith("run: "))
    rows = [line.split() for line in table.splitlines()]
    priced = {row[0]: float(row[-3]) for row in rows if row[-1] == "%"}
    assert priced.pop("total") == float(f"{predicted:.2f}")
    assert sum(priced.values()) == pytest.approx(predicted, abs=0.005 * len(priced))
    assert priced.get("constant") == (float(f"{scale * constant:.2f}") if constant else None)
    # and so does the film, whose last frame is the derived network
    data = page.json["film-data"]
    frame = data["frames"][-1]
    assert frame["facts"] == f"{predicted:.2f} ms predicted"
    costs = [options[look][4] or 0.0 for options, look in zip(data["choices"], frame["looks"], strict=True)]
    assert data["constant"] + sum(costs) == pytest.approx(predicted, rel=1e-9)


def test_the_shares_add_up(tmp_path):
    _, _, _, spec = write_run(tmp_path / "run", path=PATH)
    page, _ = page_of(tmp_path / "run")
    assert len(page.shares) == len(walk(spec)) - 6
    assert sum(page.shares) == pytest.approx(100, abs=3)


def test_the_page_asks_for_nothing(tmp_path):
    write_run(tmp_path / "run", dataset="imagenet")
    write_random(tmp_path / "random", accuracy=50.0)
    for text in (
        report(read_run(tmp_path / "run")),
        report(read_run(tmp_path / "random")),
        comparison([read_run(tmp_path / "run"), read_run(tmp_path / "random")]),
    ):
        page = Page(text)
        for name, attributes in page.elements:
            for key in ("src", "href", "xlink:href", "action", "srcset"):
                assert attributes.get(key) in (None, "data:,"), (name, attributes)
        assert not re.search(r"url\(|@import|https?://", "".join(page.scripts))
        (policy,) = [each["content"] for _, each in page.elements if "http-equiv" in each]
        assert policy.startswith("default-src 'none'")


def test_what_a_person_typed_stays_text(tmp_path):
    write_run(tmp_path / "<b>&'\"")
    folder = tmp_path / "<b>&'\""
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"data_path": "</script><script>alert(1)</script>"}))
    page, text = page_of(folder)
    assert "<script>alert" not in text and "</script><script>alert(1)</script>" in page.words
    assert "<b>&'\"" in page.words
    assert [name for name, _ in page.elements].count("script") == 2


def test_the_film_holds_every_epoch_and_ends_at_the_derived_network(tmp_path):
    _, records, result, spec = write_run(tmp_path / "run", path=PATH)
    run = read_run(tmp_path / "run")
    shots = frames(run)
    assert [shot.path for shot in shots[:-1]] == [tuple(record["argmax_path"]) for record in records]
    assert shots[-1].path == tuple(result["path"]) and shots[-1].caption == "the derived network"
    assert shots[0].caption == "warm-up, epoch 1 of 2" and max(shots[0].confidence) < 0.02
    assert max(max(shot.confidence) for shot in shots) <= 1
    page, _ = page_of(tmp_path / "run")
    data = page.json["film-data"]
    for frame, shot in zip(data["frames"], shots, strict=True):
        calls = walk(run.space.spec_for(shot.path))
        taken = [options[place] for options, place in zip(data["choices"], frame["looks"], strict=True)]
        assert [look[6] for look in taken] == [call.out_hwc[2] for call in calls]
        assert [not look[2] for look in taken] == [call.op.vanishes for call in calls]
        assert frame["sure"] == [1, 1, *(round(sure, 3) for sure in shot.confidence), 1, 1]
    assert data["ids"] == [f"film-{call.name}" for call in walk(spec)] == list(page.boxes)
    assert sum(look[4] for look in taken) == pytest.approx(result["predicted_latency_ms"])


def test_widths_that_were_chosen_are_drawn_to_scale_and_the_film_moves_them(tmp_path):
    from PIL import Image

    space = wide_space(TINY, 0.5, num_classes=10, preprocessing=DIGITS)
    path = tuple(size // 2 for size in space.sizes)
    write_run(tmp_path / "run", path=path, space=space)
    page, _ = page_of(tmp_path / "run")
    data, shots = page.json["film-data"], frames(read_run(tmp_path / "run"))
    assert len(page.classed("room")) == len(space.edges) and "shade: the most to choose" in page.words
    place = {name.removeprefix("film-"): index for index, name in enumerate(data["ids"])}
    seen = set()
    for frame, shot in zip(data["frames"], shots, strict=True):
        for number, (entry, width) in enumerate(zip(space.width_entries, space.widths, strict=True)):
            chosen = width.options[shot.path[entry]]
            seen.add((number, chosen))
            for block in range(width.first, width.last + 1):
                look = data["choices"][place[f"blocks.{block}"]][frame["looks"][place[f"blocks.{block}"]]]
                assert look[6] == chosen
                assert look[5] == pytest.approx(52 * chosen / width.options[-1], abs=0.01)
    assert len(seen) > len(space.widths)  # the widths changed on the way
    (svg,) = write_svg(tmp_path / "run", tmp_path / "out")[:1]
    assert svg.read_text().count('class="room"') == len(space.edges)
    with Image.open(write_film(tmp_path / "run", tmp_path / "film.gif")) as film:
        assert film.n_frames == len(shots)


def test_a_gif_of_the_film(tmp_path):
    from PIL import Image

    _, records, _, _ = write_run(tmp_path / "run", warmup=1, epochs=3)
    path = write_film(tmp_path / "run", tmp_path / "film.gif")
    with Image.open(path) as film:
        assert film.format == "GIF" and film.n_frames == len(records) + 1
    with pytest.raises(InputError, match=r"\.gif"):
        write_film(tmp_path / "run", tmp_path / "film.mp4")
    write_run(tmp_path / "empty", warmup=0, epochs=0, finished=False)
    with pytest.raises(InputError, match="no architecture to film"):
        write_film(tmp_path / "empty", tmp_path / "none.gif")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["empty", "film.gif", "run"]


def test_released_networks_only_on_their_own_data_set(tmp_path):
    write_run(tmp_path / "imagenet", dataset="imagenet")
    write_run(tmp_path / "digits")
    points = released_points(read_run(tmp_path / "imagenet"))
    assert {point.label: point.y for point in points}["proxyless_mobile"] == 74.6
    assert [round(point.x) for point in points if point.label == "proxyless_mobile"] == [85]
    page, _ = page_of(tmp_path / "imagenet")
    assert "released network" in page.words and "proxyless_gpu" in page.words
    assert released_points(read_run(tmp_path / "digits")) == []
    page, _ = page_of(tmp_path / "digits")
    assert "Released networks are not shown" in page.words and "proxyless_gpu" not in page.words


@pytest.mark.parametrize("cut", [b"", b'{"phase": "sea', b'{"phase": "search"'])
def test_an_interrupted_search_shows_what_there_is(tmp_path, cut):
    _, records, _, _ = write_run(tmp_path / "run", finished=False)
    with open(tmp_path / "run" / "metrics.jsonl", "ab") as file:
        file.write(cut)
    page, _ = page_of(tmp_path / "run")
    assert "search epoch 4 of 4" in page.words and "so far" in page.words
    assert f"{records[-1]['expected_cost']:.4g} ms" in page.words
    assert "--resume" in page.words
    assert "predicted_latency_ms" not in page.values


def test_interrupted_before_the_first_epoch(tmp_path):
    write_run(tmp_path / "run", finished=False)
    (tmp_path / "run" / "metrics.jsonl").unlink()
    page, _ = page_of(tmp_path / "run")
    assert "No epoch was finished" in page.words
    (tmp_path / "run" / "metrics.jsonl").write_text("")
    assert "No epoch was finished" in page_of(tmp_path / "run")[0].words


def test_without_a_target(tmp_path):
    write_run(tmp_path / "run")
    folder = tmp_path / "run"
    config = json.loads((folder / "config.json").read_text()) | {"target_hardware": "none"}
    (folder / "config.json").write_text(json.dumps(config))
    result = json.loads((folder / "result.json").read_text())
    nothing = ("target_latency_ms", "predicted_latency_ms", "argmax_latency_ms", "latency_source")
    (folder / "result.json").write_text(json.dumps(result | dict.fromkeys(nothing)))
    page, _ = page_of(folder)
    assert "Searched for accuracy alone" in page.words and "Target" not in page.words


def test_prices_that_changed_are_not_shown_as_shares(tmp_path):
    write_run(tmp_path / "run")
    folder = tmp_path / "run"
    result = json.loads((folder / "result.json").read_text())
    (folder / "result.json").write_text(json.dumps(result | {"predicted_latency_ms": 9.0}))
    page, _ = page_of(folder)
    assert "Prices computed now differ" in page.words
    assert not page.classed("percent") and page.values["predicted_latency_ms"] == [9.0]
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"latency_table": str(tmp_path / "gone.json")}))
    assert "cannot be used" in page_of(folder)[0].words


def test_a_run_of_another_version_can_be_read(tmp_path):
    write_run(tmp_path / "run")
    path = tmp_path / "run" / "config.json"
    config = json.loads(path.read_text())
    for key in ("arch_algo", "zero_rule", "n_archs", "resolution"):
        config.pop(key, None)
    path.write_text(json.dumps(config | {"a_later_setting": [1, 2]}))
    page, _ = page_of(tmp_path / "run")
    assert "a_later_setting [1, 2]" in page.words


@pytest.mark.parametrize(
    ("file", "content", "place", "values"),
    [
        ("config.json", "{", "line 1 column 2", ["JSON"]),
        ("config.json", "[]", "", ["object"]),
        ("config.json", '{"format": "x"}', "format", ["'proxyless-nas/search-config'", "'x'"]),
        ("config.json", '{"format": "proxyless-nas/search-config"}', "target_hardware", ["string", "null"]),
        ("result.json", '{"macs": 1}', "predicted_latency_ms", ["missing"]),
        ("result.json", "[1]", "", ["object"]),
        ("metrics.jsonl", '{"a": 1}\n{"b": 2}\n', "line 1", ["phase", "missing"]),
        ("metrics.jsonl", "nonsense\n", "line 1", ["JSON"]),
        ("spec.json", "{}", "format", ["missing"]),
    ],
)
def test_damaged_files_are_named(tmp_path, file, content, place, values):
    write_run(tmp_path / "run")
    (tmp_path / "run" / file).write_text(content)
    with refused(place, *values, source=tmp_path / "run" / file):
        read_run(tmp_path / "run")


@pytest.mark.parametrize(
    ("changes", "place", "values"),
    [
        ({"phase": None}, "phase", ["string", "null"]),
        ({"epoch": 1.5}, "epoch", ["integer", 1.5]),
        ({"expected_cost": "2"}, "expected_cost", ["number", "'2'"]),
        ({"valid_loss": [1]}, "valid_loss", ["number", "list"]),
        ({"probabilities": [[0.5, 1.5]]}, "probabilities[0][1]", ["number", "0..1", 1.5]),
        ({"probabilities": [[]]}, "probabilities[0]", ["list", "at least 1"]),
        ({"argmax_path": [-1]}, "argmax_path[0]", ["integer", -1]),
    ],
)
def test_a_wrong_value_in_the_metrics_is_named(tmp_path, changes, place, values):
    _, records, _, _ = write_run(tmp_path / "run")
    lines = [json.dumps(record) for record in (*records[:2], records[2] | changes, *records[3:])]
    (tmp_path / "run" / "metrics.jsonl").write_text("".join(f"{line}\n" for line in lines))
    with refused(f"line 3: {place}", *values, source=tmp_path / "run" / "metrics.jsonl"):
        read_run(tmp_path / "run")


def test_a_wrong_number_in_the_result_is_named(tmp_path):
    write_run(tmp_path / "run", measured_latency_ms="fast")
    with refused("measured_latency_ms", "number", "'fast'", source=tmp_path / "run" / "result.json"):
        read_run(tmp_path / "run")


def test_a_folder_that_is_no_run(tmp_path):
    with refused("", "config.json", source=tmp_path):
        write_report(tmp_path)
    with refused("", "no such folder", source=tmp_path / "nowhere"):
        write_report(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    with refused("", "run folder", "file", source=tmp_path / "file"):
        write_report(tmp_path / "file")
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


def test_an_output_that_cannot_be_written_leaves_nothing(tmp_path):
    write_run(tmp_path / "run")
    before = sorted(tmp_path.rglob("*"))
    (tmp_path / "run" / "folder").mkdir()
    for output in (tmp_path / "run" / "spec.json" / "report.html", tmp_path / "run" / "folder"):
        with pytest.raises(InputError, match="cannot be written"):
            write_report(tmp_path / "run", output)
        with pytest.raises(InputError, match="cannot be written"):
            write_comparison([tmp_path / "run"], output)
    (tmp_path / "run" / "folder").rmdir()
    assert sorted(tmp_path.rglob("*")) == before


def test_runs_side_by_side(tmp_path):
    results = [write_run(tmp_path / name, seed=seed)[2] for seed, name in enumerate(("one", "two"))]
    write_random(tmp_path / "random", accuracy=50.0)
    write_run(tmp_path / "cut", finished=False)
    runs = [read_run(tmp_path / name) for name in ("one", "two", "random", "cut")]
    page = Page(comparison(runs))
    assert page.values["predicted"] == [result["predicted_latency_ms"] for result in results]
    assert re.search(r"Not finished[^.:]*: cut\b", page.words)
    costs = [entry["cost"] for entry in runs[2].result["networks"]]
    named(page.words, "3 networks", f"{min(costs):.4g} ms to {max(costs):.4g} ms")
    assert "random network" in page.words and len(page.classed("hollow")) == 3 + 1  # and one in the legend
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids)) and len(page.boxes) == 2 * 16
    differ = page.words.split("Settings that differ")[1]
    assert "manual_seed" in differ and all(str(tmp_path / name) in differ for name in ("one", "two", "random", "cut"))


def test_planes_of_different_things_are_not_drawn(tmp_path):
    write_run(tmp_path / "one")
    write_run(tmp_path / "two", dataset="imagenet")
    page = Page(comparison([read_run(tmp_path / name) for name in ("one", "two")]))
    assert re.search(r"Not drawn: [^.]*data set", page.words)


def test_an_unsearched_run_is_a_control(tmp_path):
    write_run(tmp_path / "run", warmup=3, epochs=0)
    assert not read_run(tmp_path / "run").is_searched
    page, _ = page_of(tmp_path / "run")
    assert "random network" in page.words


def test_trained_networks_are_shown_at_their_cost(tmp_path):
    _, _, result, spec = write_run(tmp_path / "run")
    write_random(tmp_path / "random")
    networks = json.loads((tmp_path / "random" / "result.json").read_text())["networks"]
    second = replace(read_spec(tmp_path / "random" / networks[1]["spec"]), class_names=tuple("0123456789"))
    write_trained(tmp_path / "a", second, 87.5)
    write_trained(tmp_path / "b", second, 88.5, manual_seed=1)
    write_trained(tmp_path / "c", spec, 91.25, weights="inherit")
    folders = [tmp_path / "run", tmp_path / "random"]
    alike = [tmp_path / "a", tmp_path / "b"]
    text = write_comparison(folders, tmp_path / "page.html", alike).read_text()
    page = Page(text)
    found = page.titles
    cost = f"{networks[1]['cost']:.4g} ms"
    for folder, score, hits in (("a", "87.5 %", 315), ("b", "88.5 %", 319)):
        (tip,) = (title for title in found if f" in {folder}: " in title)
        named(tip, "random", "specs/random_001.json", cost, "300 epochs", f"top-1 {score}", f"{hits} of 360")
    assert len(page.classed("hollow")) == 2 + 1  # and one in the legend
    assert "not trained alike" not in page.words and "train it too" in page.words
    text = write_comparison(folders, tmp_path / "page.html", [*alike, tmp_path / "c"]).read_text()
    cost = f"{result['predicted_latency_ms']:.4g} ms"
    (tip,) = (title for title in Page(text).titles if title.startswith("run: ") and " in c: " in title)
    named(tip, "run", cost, "300 epochs", "top-1 91.2 %", "328 of 360")
    assert re.search(r"not trained alike[^.]* weights\.", Page(text).words)
    assert "train it too" not in Page(text).words
    text = write_report(tmp_path / "random", trained=alike).read_text()
    assert len(Page(text).classed("hollow")) == 2 + 1


def test_what_an_older_training_did_not_record_is_not_certified(tmp_path):
    _, _, _, spec = write_run(tmp_path / "run")
    for name in ("old", "new"):
        write_trained(tmp_path / name, spec, 50.0)
    path = tmp_path / "old" / "config.json"
    whole = json.loads(path.read_text())
    path.write_text(json.dumps({name: value for name, value in whole.items() if name not in ("ema_decay", "n_epochs")}))
    output, both = tmp_path / "page.html", [tmp_path / "old", tmp_path / "new"]
    text = write_report(tmp_path / "run", output, both).read_text()
    assert re.search(r"not recorded: n_epochs \(in old\), ema_decay \(in old\)\.", Page(text).words)
    assert "not trained alike" not in Page(text).words
    assert any("not recorded" in title and title.count("in old") for title in Page(text).titles)
    alone = Page(write_report(tmp_path / "run", output, both[:1]).read_text())
    assert "trained alike" not in alone.words
    path.write_text(json.dumps({name: whole[name] for name in ("format", "version", "recipe")}))
    with refused("--trained", "not recorded", "config.json", "data_path", source=path.parent):
        write_report(tmp_path / "run", output, both)


def test_trainings_of_something_else_are_refused(tmp_path):
    _, _, _, spec = write_run(tmp_path / "run")
    op = spec.blocks[0].op
    other = replace(
        spec, blocks=(replace(spec.blocks[0], op=replace(op, kernel_size=8 - op.kernel_size)), *spec.blocks[1:])
    )
    smaller = replace(spec, preprocessing=replace(spec.preprocessing, resolution=8, resize=8))
    for name, net, more, message in (
        ("stranger", other, {}, "its network is none of"),
        ("data", spec, {"dataset": "imagefolder", "data_path": "x"}, "trained with other images"),
        ("size", smaller, {}, "trained with other resolution than .*: 8, not 16"),
        ("unfinished", spec, {}, "train.py --run_dir .*unfinished --resume"),
    ):
        write_trained(tmp_path / name, net, 50.0, **more)
        if name == "unfinished":
            (tmp_path / name / "result.json").unlink()
        with pytest.raises(InputError, match=message):
            write_report(tmp_path / "run", tmp_path / "page.html", [tmp_path / name])
    with pytest.raises(InputError, match="config"):
        write_report(tmp_path / "run", tmp_path / "page.html", [tmp_path / "run"])
    assert not (tmp_path / "page.html").exists()


def test_a_training_run_is_told_from_a_search(tmp_path):
    write_trained(tmp_path / "net", write_run(tmp_path / "run")[3], 50.0)
    with pytest.raises(InputError, match=r"got one of train\.py.*eval\.py --arch .*net; .*report\.py RUN --trained"):
        write_report(tmp_path / "net")


def test_random_networks(tmp_path):
    write_random(tmp_path / "random", count=10)
    page, _ = page_of(tmp_path / "random")
    assert "10 networks drawn at random" in page.words and "and 2 more" in page.words
    assert len(page.boxes) == 8 * 16


def test_next_commands_name_scripts_that_are_there(tmp_path):
    write_run(tmp_path / "my run")
    commands = [command for _, command in next_commands(read_run(tmp_path / "my run"))]
    assert any(command.startswith("python eval.py --arch '") for command in commands)
    page, _ = page_of(tmp_path / "my run")
    assert set(commands) <= set(page.tables)


def test_the_same_run_gives_the_same_page(tmp_path):
    write_run(tmp_path / "run")
    first = write_report(tmp_path / "run").read_bytes()
    assert write_report(tmp_path / "run").read_bytes() == first


# --------------------------------------------------------------------------------------------------- in a browser


class _Folder(http.server.SimpleHTTPRequestHandler):
    asked: list

    def do_GET(self):
        self.asked.append(self.path)
        super().do_GET()

    def log_message(self, *_):
        pass


@pytest.fixture
def served(tmp_path):
    """(address of tmp_path, paths asked for)"""
    asked = []
    handler = type("Handler", (_Folder,), {"asked": asked})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), lambda *words: handler(*words, directory=str(tmp_path)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    thread.join()
    server.server_close()


def browse(address, profile):
    """(the page after its scripts ran, what it said to the console, addresses that it asked for)"""
    words = [
        CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-extensions",
        "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1", "--enable-logging=stderr",
        f"--user-data-dir={profile}", f"--log-net-log={profile}/net.json",
        "--window-size=500,900", "--dump-dom", address,
    ]  # fmt: skip
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    log = (profile / "net.json").read_text()
    urls = {urllib.parse.urlsplit(url) for url in re.findall(r'"url":"(http[^"]*)"', log)}
    wanted = {url.geturl() for url in urls if not (url.hostname or "").endswith(BROWSERS_OWN) and url.path != "/"}
    return done.stdout, console, wanted


def assert_drawn_alike(scripted, drawn):
    """What the player made of the drawing is what the renderer draws, to the hundredth of a pixel that it writes."""
    assert scripted.boxes == drawn.boxes
    for layer, parts in drawn.drawn.items():
        found = scripted.drawn[layer]
        assert [part for part in found if isinstance(part, str)] == [part for part in parts if isinstance(part, str)]
        numbers = [part for part in parts if isinstance(part, float)]
        assert [part for part in found if isinstance(part, float)] == pytest.approx(numbers, abs=0.011), layer


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine (apt-get install chromium)")
def test_in_a_browser(tmp_path, served):
    _, _, result, spec = write_run(tmp_path / "run", path=PATH)
    write_report(tmp_path / "run")
    address, asked = served
    dom, console, requests = browse(f"{address}/run/report.html", tmp_path / "one")
    assert console == [] and asked == ["/run/report.html"]
    assert requests == {f"{address}/run/report.html"}
    page = Page(dom.removeprefix("<!DOCTYPE html>"))
    assert page.values["predicted_latency_ms"] == [result["predicted_latency_ms"]]
    assert list(page.boxes.values()).count("gone") == 6 and len(page.boxes) == len(walk(spec))
    unscripted = Page((tmp_path / "run" / "report.html").read_text())
    assert_drawn_alike(page, unscripted)
    (controls,) = [each for _, each in page.elements if each.get("id") == "film-controls"]
    assert "hidden" not in controls
    assert "the derived network" in page.words

    dom, console, _ = browse(f"{address}/run/report.html#frame=0", tmp_path / "two")
    assert console == []
    page = Page(dom.removeprefix("<!DOCTYPE html>"))
    assert "warm-up, epoch 1 of 2" in page.words
    assert len(page.boxes) == len(walk(spec)) and len(page.classed("unsure")) == 12
    run = read_run(tmp_path / "run")
    first = run.space.spec_for(frames(run)[0].path, run.name)
    top_share = page.json["film-data"]["top"]
    stages = draw_stages(first, run.costs(first), Unit.MS, prefix="film-", top_share=top_share)
    assert_drawn_alike(page, Page("".join(map(to_svg, stages))))


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine (apt-get install chromium)")
def test_the_browser_test_can_fail(tmp_path, served):
    (tmp_path / "bad.html").write_text("<script>console.error('no')</script><img src=x.png>")
    address, asked = served
    _, console, requests = browse(f"{address}/bad.html", tmp_path / "profile")
    assert console and "/x.png" in asked and f"{address}/x.png" in requests


def test_trainings_scored_on_other_images_are_not_alike(tmp_path):
    _, _, _, spec = write_run(tmp_path / "run")
    for name, images in (("a", "1" * 16), ("b", "2" * 16), ("c", "1" * 16)):
        write_trained(tmp_path / name, spec, 50.0, images)
    output = tmp_path / "page.html"
    text = write_report(tmp_path / "run", output, [tmp_path / "a", tmp_path / "b"]).read_text()
    assert re.search(r"not trained alike[^.]* the test images\.", Page(text).words)
    text = write_report(tmp_path / "run", output, [tmp_path / "a", tmp_path / "c"]).read_text()
    assert "not trained alike" not in Page(text).words
    result = json.loads((tmp_path / "c" / "result.json").read_text())
    del result["test_images"]
    (tmp_path / "c" / "result.json").write_text(json.dumps(result))
    text = write_report(tmp_path / "run", output, [tmp_path / "a", tmp_path / "c"]).read_text()
    assert re.search(r"not recorded: the test images \(in c\)\.", Page(text).words)


# ------------------------------------------------------------------------------------------------------- by class


def write_by_class(folder, seed):
    """per_class.json of random logits on some digits; returns it."""
    images = digits()[1].subset(range(40))
    logits = np.random.default_rng(seed).standard_normal((40, 10)).astype(np.float32)
    record = per_class_record(ClassScore(images.labels).plus(logits, np.arange(40)), images, images.class_names)
    write_json(folder / PER_CLASS_FILE, record)
    return record


def test_scores_by_class_are_shown_where_there_are_some(tmp_path):
    """Of the network found and of what train.py made of it: each with its own mistakes, counted and pictured."""
    *_, spec = write_run(tmp_path / "run")
    write_trained(tmp_path / "trained", spec, 90.0)

    def page():
        return report(*with_trained([read_run(tmp_path / "run")], [read_trained(tmp_path / "trained")]))

    assert "Class by class" not in page()
    records = [write_by_class(tmp_path / name, seed) for seed, name in enumerate(("run", "trained"))]
    text = page()
    assert text.count("Class by class, ") == 2
    found = Page(text)
    pictures = [attributes["src"] for name, attributes in found.elements if name == "img"]
    shown = [entry for record in records for key in ("samples", "worst") for entry in record[key]]
    assert pictures == [entry["thumbnail"] for entry in shown]
    n_right = sum(entry["class"] == entry["predicted"] for entry in shown)
    assert (len(found.classed("right")), len(found.classed("wrong"))) == (n_right, len(shown) - n_right)
    for record in records:
        counts = {entry["class"]: entry["n_images"] for entry in record["classes"]}
        for label, predicted, count in record["confusions"]:
            assert f"{label} taken for {predicted}: {count} of {counts[label]}" in found.titles


def test_a_page_does_not_grow_with_its_pictures(tmp_path, monkeypatch):
    """Room for the pictures of one record: those of the other are left out, its drawings are not."""
    *_, spec = write_run(tmp_path / "run")
    write_trained(tmp_path / "trained", spec, 90.0)
    first, _ = (write_by_class(tmp_path / name, seed) for seed, name in enumerate(("run", "trained")))
    shown = [entry["thumbnail"] for key in ("samples", "worst") for entry in first[key]]
    monkeypatch.setattr(views, "MOST_IMAGE_BYTES", sum(map(len, shown)) + 10)
    (run,) = with_trained([read_run(tmp_path / "run")], [read_trained(tmp_path / "trained")])
    page = Page(report(run))
    assert [attributes["src"] for name, attributes in page.elements if name == "img"] == shown
    assert page.words.count("taken for what") == 2


def test_damaged_scores_by_class_are_named(tmp_path):
    write_run(tmp_path / "run")
    record = write_by_class(tmp_path / "run", 0)
    write_json(tmp_path / "run" / PER_CLASS_FILE, record | {"n_images": -1})
    with pytest.raises(InputError) as caught:
        read_run(tmp_path / "run")
    assert (caught.value.place, caught.value.source) == ("n_images", str(tmp_path / "run" / PER_CLASS_FILE))
