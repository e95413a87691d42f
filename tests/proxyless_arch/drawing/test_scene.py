"""Scenes: the SVG is well formed and holds text as text, the picture has the shapes where the numbers put them."""

import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import pytest

from proxyless_arch.base.errors import InputError
from proxyless_arch.drawing.scene import (
    COLORS,
    STYLES,
    Circle,
    Entry,
    Group,
    Path,
    Rect,
    Scene,
    Style,
    Text,
    css,
    legend_rows,
    line,
    style_of,
    text_width,
    to_svg,
    write_film,
    write_picture,
)

HOSTILE = "</text><script>&'\"$x$"
SHAPES = [
    Rect(10, 20, 30, 40, style="k5"),
    Group([Circle(5, 5, 4, style="dot-s1"), Text(0, 30, HOSTILE, style="label", tip=HOSTILE)], 60, 10, id="a&b"),
    Path([[(100, 10), (120, 10), (120, 30)]], True, style="heat", opacity=0.5),
    line(0, 90, 130, 90, "target"),
]
SCENE = Scene(SHAPES, 130, 100, "a <scene>")
SVG = "{http://www.w3.org/2000/svg}"


def test_svg_is_well_formed_and_escaped():
    root = ElementTree.fromstring(to_svg(SCENE, {"class": "x"}))
    assert root.attrib == {"viewBox": "0 0 130 100", "role": "img", "aria-label": "a <scene>", "class": "x"}
    rect, group, path, _ = root
    assert rect.attrib == {"x": "10", "y": "20", "width": "30", "height": "40", "class": "k5"}
    assert (group.get("id"), group.get("transform")) == ("a&b", "translate(60 10)")
    text = group[1]
    assert text[0].text == HOSTILE and text[0].tail == HOSTILE and len(text) == 1
    assert path.get("d") == "M100 10H120V30z" and path.get("fill-opacity") == "0.5"


def test_numbers_are_short():
    found = to_svg(Scene([Rect(1.23456, -0.001, 2.0, 1e-9)], 10, 10))
    assert 'x="1.23" y="0" width="2" height="0"' in found


def test_an_svg_file_holds_the_styles_that_it_uses(tmp_path):
    write_picture(SCENE, tmp_path / "one.svg")
    root = ElementTree.parse(tmp_path / "one.svg").getroot()
    rules = root.find(f"{SVG}style").text
    used = {name for each in root.iter() for name in (each.get("class") or "").split()}
    assert all(f".{name}{{" in rules for name in used) and ".k7{" not in rules
    assert COLORS["k5"][0] in rules and "var(" not in rules


def test_an_svg_file_has_both_shades_of_every_color(tmp_path):
    write_picture(SCENE, tmp_path / "one.svg")
    light, dark = ElementTree.parse(tmp_path / "one.svg").getroot().find(f"{SVG}style").text.split("@media ")
    condition, dark = dark.split("{", 1)
    assert "prefers-color-scheme:dark" in condition
    for name in ("s1", "grey", "ink", "card"):
        bright, dim = COLORS[name]
        assert bright in light and dim in dark and bright not in dark
    assert "font-size" not in dark and dark.count("{") == dark.count("}") - 1


def test_the_style_sheet_names_no_color_that_is_not_there():
    sheet = css()
    light, dark = sheet.splitlines()[:2]
    for name, (bright, dim) in COLORS.items():
        assert f"--{name}:{bright};" in light and f"--{name}:{dim};" in dark
    named = {style.fill for style in STYLES.values()} | {style.stroke for style in STYLES.values()}
    assert named - {None, "none"} <= set(COLORS)
    assert {part.split(")")[0] for part in sheet.split("var(--")[1:]} <= set(COLORS)


def test_later_classes_win():
    assert style_of(Text(0, 0, "x", style="lead choice")) == Style(fill="ink", font_size=10.5, font_weight=700)
    assert style_of(Rect(0, 0, 1, 1, style="box gone")).stroke == "grey"
    with pytest.raises(ValueError, match="no such style: nothing"):
        style_of(Rect(0, 0, 1, 1, style="box nothing"))


def test_the_picture_has_the_shapes_where_the_numbers_put_them(tmp_path):
    from PIL import Image, ImageColor

    write_picture(SCENE, tmp_path / "one.png")
    with Image.open(tmp_path / "one.png") as picture:
        scale = picture.width / SCENE.width
        assert picture.height / SCENE.height == pytest.approx(scale, rel=0.02)

        def at(x, y):
            return picture.convert("RGB").getpixel((round(x * scale), round(y * scale)))

        assert at(12, 22) == at(38, 58) == ImageColor.getrgb(COLORS["k5"][0])
        assert at(65, 15) == ImageColor.getrgb(COLORS["s1"][0])
        assert at(8, 40) == at(42, 40) == at(25, 18) == at(25, 62) == (255, 255, 255)
        heat = ImageColor.getrgb(COLORS["accent"][0])
        assert at(117, 13) == pytest.approx([(255 + part) / 2 for part in heat], abs=2)
        assert at(103, 27) == (255, 255, 255)  # the other half of the square


def test_the_same_scene_gives_the_same_bytes(tmp_path):
    for suffix in (".png", ".svg"):
        for name in ("a", "b"):
            write_picture(SCENE, tmp_path / f"{name}{suffix}")
        assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()


def test_a_film_moves(tmp_path):
    from PIL import Image

    scenes = [replace(SCENE, shapes=[Rect(10 * index, 0, 10, 10, style="k3")]) for index in range(3)]
    write_film(scenes, tmp_path / "film.gif", frames_per_second=2, hold_seconds=1)
    with Image.open(tmp_path / "film.gif") as film:
        assert film.n_frames == 3
        for index in range(3):
            film.seek(index)
            assert [film.convert("RGB").getpixel((10 * at + 5, 5)) != (255, 255, 255) for at in range(3)] == [
                at == index for at in range(3)
            ]


def test_other_suffixes_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"\.png or \.svg"):
        write_picture(SCENE, tmp_path / "one.jpg")
    with pytest.raises(InputError, match=r"\.gif"):
        write_film([SCENE], tmp_path / "one.png", frames_per_second=1, hold_seconds=1)
    assert list(tmp_path.iterdir()) == []


def test_wide_letters_take_more_room():
    assert text_width("abc", 10) == pytest.approx(18)
    assert text_width("ABC", 10) > 21 and text_width("WWW", 10) == text_width("花の鳥", 10) == 30


def test_a_legend_breaks_into_rows():
    entries = [Entry(label, Rect(0, 0, 10, 10)) for label in ("a" * 10, "b" * 10, "c" * 10)]
    group, height = legend_rows(entries, 0, 0, 250)
    places = [(shape.x, shape.y) for shape in group.shapes if isinstance(shape, Group)]
    assert places[0] == (0, 0) and places[1][1] == 0 and places[2] == (0, height / 2)
    assert legend_rows([], 0, 0, 100)[1] == 0
