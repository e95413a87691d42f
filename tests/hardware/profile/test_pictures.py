"""The picture of a table's validation: every network where its two latencies put it."""

import xml.etree.ElementTree as ElementTree

import pytest

from hardware.profile.pictures import draw_validation
from proxyless_arch.base.errors import InputError

SVG = "{http://www.w3.org/2000/svg}"


def draw(path, measured=(1.0, 2.0, 3.0), predicted=(1.1, 2.0, 2.9), n_calibration=1):
    draw_validation(measured, predicted, n_calibration, path, title="a <device>", note="MAPE 3 %")


def test_networks_and_band(tmp_path):
    draw(tmp_path / "v.svg")
    root = ElementTree.parse(tmp_path / "v.svg").getroot()
    words = ["".join(text.itertext()) for text in root.iter(f"{SVG}text")]
    assert {"a <device>", "MAPE 3 %", "2 networks never seen", "1 network of the calibration", "within 5 %"} <= {*words}
    circles = [circle for circle in root.iter(f"{SVG}circle") if "mark" in circle.get("class")]
    xs, ys = ([float(circle.get(key)) for circle in circles] for key in ("cx", "cy"))
    drawn = sorted(zip(xs, ys, strict=True))[-2:]  # the legend's lies to the left
    assert drawn[0][0] < drawn[1][0] and drawn[0][1] > drawn[1][1]


def test_what_cannot_be_drawn_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"\.png or \.svg"):
        draw(tmp_path / "v.pdf")
    for measured, predicted in (((), ()), ((1.0,), (1.0, 2.0))):
        with pytest.raises(ValueError, match="as many"):
            draw(tmp_path / "v.svg", measured, predicted)
    assert list(tmp_path.iterdir()) == []
