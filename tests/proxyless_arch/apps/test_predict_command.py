"""Tables and pictures of predictions."""

from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from proxyless_arch.apps import contact_sheet
from proxyless_arch.apps.contact_sheet import Tile, thumbnail, write_contact_sheet
from proxyless_arch.apps.predict_command import FEW_IMAGES, Seen, csv_text, most_often, predict_all, table
from proxyless_arch.apps.prediction import Prediction
from tests.errors import named
from tests.proxyless_arch.nets import three_blocks

BEST = [Prediction("ant", 0.75, 0), Prediction("bee, honey", 0.2, 1), Prediction("cat", 0.05, 2)]


def seen(n):
    return [Seen(f"photos/{index}.jpg", index, BEST) for index in range(n)]


def test_few_images_have_all_their_classes_and_many_a_line_each():
    few, many = table(seen(2)), table(seen(FEW_IMAGES + 1))
    assert [line.split()[0] for line in few] == ["photos/0.jpg", "20.0", "5.0", "photos/1.jpg", "20.0", "5.0"]
    assert len(many) == FEW_IMAGES + 1 and all(line.endswith("75.0 %  ant  20.0 %  bee, honey") for line in many)


def test_a_csv_survives_names_with_commas():
    lines = csv_text(seen(1), ["bad.jpg"], 3).splitlines()
    assert lines[1] == 'photos/0.jpg,ant,75.000,"bee, honey",20.000,cat,5.000'
    assert [line.count(",") for line in (lines[0], lines[2])] == [6, 6]


def test_most_often():
    names = "a" * 5 + "b" * 3 + "cdefg"
    images = [Seen("x", index, [Prediction(name, 1.0, 0)]) for index, name in enumerate(names)]
    *some, last = most_often(images).split(", ")
    assert (some, last.split()[:2]) == (["a 5", "b 3", "c 1", "d 1"], ["e", "1"])
    named(last, 2)


def test_a_batch_says_which_images_it_holds():
    """The labels are the images' numbers; one is left out."""
    images = SimpleNamespace(place="photo {}".format)
    logits = {0: [0, 0, 0, 0, 1], 2: [0, 1, 0, 0, 0], 3: [1, 0, 0, 0, 0]}
    batches = [(np.array([0, 2]), np.array([0, 2])), (np.array([3]), np.array([3]))]
    found = predict_all(lambda pixels: np.array([logits[p] for p in pixels]), batches, images, three_blocks(), 1)
    assert [(one.place, one.index, one.best[0].label) for one in found] == [
        ("photo 0", 0, 4), ("photo 2", 2, 1), ("photo 3", 3, 0)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("size", "wanted"),
    [((4000, 2000), (200, 100)), ((8, 8), (200, 200)), ((300, 1), (200, 1)), ((150, 100), (200, 133))],
)
def test_a_thumbnail_holds_the_whole_image(size, wanted):
    assert thumbnail(Image.new("RGB", size)).size == wanted


def test_a_sheet_draws_each_image_once_and_no_more_than_fit(tmp_path, monkeypatch):
    monkeypatch.setattr(contact_sheet, "MOST_TILES", 7)
    colors = [(250, 30 * index, 5) for index in range(9)]
    tiles = [Tile(lambda c=color: Image.new("RGB", (40, 30), c), ("first", "second")) for color in colors]
    assert write_contact_sheet(tiles, tmp_path / "sheet.png") == 7
    found = {color for _, color in Image.open(tmp_path / "sheet.png").getcolors(1 << 24)}
    assert [color in found for color in colors] == [True] * 7 + [False] * 2
