"""Pictures and tables of architectures: what is drawn is what the spec says."""

import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import pytest

from proxyless_arch.arch import catalog
from proxyless_arch.arch.draw import draw_architectures, draw_film, draw_stages, highest_expansion, look, with_times
from proxyless_arch.arch.ops import MBConv
from proxyless_arch.arch.tables import describe
from proxyless_arch.arch.tree import TreeBlock
from proxyless_arch.arch.uib import UIB
from proxyless_arch.arch.walk import total_macs, total_params, walk
from proxyless_arch.base.errors import InputError
from proxyless_arch.base.units import Unit, format_count
from proxyless_arch.drawing.scene import STYLES, Group, text_width
from proxyless_arch.space.mbconv import TINY, mbconv_space
from proxyless_arch.space.uib import uib_space
from tests import trees
from tests.errors import named

SPACE = mbconv_space()
# the layout of proxyless_mobile: expand_ratio outermost, Zero last
MOBILE = SPACE.spec_for((1, 0, 6, 6, 2, 0, 1, 1, 5, 1, 1, 1, 4, 1, 1, 1, 5, 5, 2, 2, 5), name="mobile")
SVG = "{http://www.w3.org/2000/svg}"


def shares(spec):
    return [call.macs / 1e6 for call in walk(spec)]


def drawn_layers(path):
    """{id: classes of its box} of the layers in an SVG file."""
    root = ElementTree.parse(path).getroot()
    groups = [group for group in root.iter(f"{SVG}g") if group.get("class") == "block"]
    boxes = {group.get("id"): group.find(f"{SVG}rect").get("class").split() for group in groups}
    assert all("box" in classes for classes in boxes.values())
    return boxes


def texts(path):
    return [text.text or "" for text in ElementTree.parse(path).getroot().iter(f"{SVG}text")]


def test_every_layer_is_drawn_once_and_vanished_blocks_are_dashed(tmp_path):
    other = SPACE.spec_for((0,) * 20 + (5,), name="other")
    draw_architectures([("A", MOBILE, shares(MOBILE)), ("B", other, None)], tmp_path / "two.svg")
    layers = drawn_layers(tmp_path / "two.svg")
    for row, spec in enumerate((MOBILE, other)):
        assert [gid.removeprefix(f"row{row}.") for gid in layers if gid.startswith(f"row{row}.")] == [
            call.name for call in walk(spec)
        ]
        for index, block in enumerate(spec.blocks):
            kind = f"k{block.op.kernel_size}" if isinstance(block.op, MBConv) else "gone"
            assert layers[f"row{row}.blocks.{index}"] == ["box", kind]
    assert sum("gone" in classes for classes in layers.values()) == 2
    assert STYLES["gone"].stroke_dasharray is not None


def test_labels_totals_and_shares_are_the_specs(tmp_path):
    draw_architectures([("mobile by $hand$ <1>", MOBILE, shares(MOBILE))], tmp_path / "one.svg")
    words = texts(tmp_path / "one.svg")
    assert words.count("MB6 7×7") == sum(block.op.label.startswith("MB6 7x7") for block in MOBILE.blocks) == 4
    assert "mobile by $hand$ <1>" in words  # a title is text, neither maths nor markup
    assert any(
        f"{format_count(total_macs(MOBILE))} MACs" in word and f"{format_count(total_params(MOBILE))} par" in word
        for word in words
    )
    assert "112×112" in words and "7×7" in words
    stem = 100 * walk(MOBILE)[0].macs / total_macs(MOBILE)
    assert f"{stem:.1f}" in words


def test_a_picture_is_reproducible_and_needs_no_searched_block(tmp_path):
    tiny = replace(
        MOBILE, blocks=(), feature_mix=replace(MOBILE.feature_mix, in_channels=MOBILE.stem.out_channels), name="tiny"
    )
    for name in ("a.svg", "b.svg"):
        draw_architectures([("tiny", tiny, None)], tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    assert len(drawn_layers(tmp_path / "a.svg")) == 3


def test_heights_are_expansions_and_bars_are_shares():
    """A box of expansion 6 is 114 high and one of 1 is 60; the longest bar is 34 and the others in proportion."""
    stages = draw_stages(MOBILE, shares(MOBILE), Unit.MACS)
    blocks = [shape for stage in stages for shape in stage.shapes if isinstance(shape, Group)]
    calls, total = walk(MOBILE), sum(shares(MOBILE))
    assert [block.id for block in blocks] == [call.name for call in calls]
    top = max(shares(MOBILE)) / total
    for call, cost, block in zip(calls, shares(MOBILE), blocks, strict=True):
        box, label, bar, percent = block.shapes
        if isinstance(call.op, MBConv):
            assert box.height == pytest.approx(60 + 54 * (call.op.hidden_channels / call.op.in_channels - 1) / 5)
        assert box.opacity is None and label.turned
        assert bar.height == pytest.approx(34 * cost / total / top)
        assert percent.text == ("" if cost == 0 else f"{100 * cost / total:.{1 if cost / total < 0.0995 else 0}f}")
    assert [stage.height for stage in stages] == [stages[0].height] * len(stages)
    bare = draw_stages(MOBILE, None, Unit.MS)
    assert bare[0].height < stages[0].height and len(bare[0].shapes[-1].shapes) == 2


def test_undecided_layers_are_pale():
    blocks = {
        shape.id: shape.shapes[0]
        for stage in draw_stages(MOBILE, None, Unit.MS, certainty={"blocks.1": 0.0, "blocks.2": 0.5})
        for shape in stage.shapes
        if isinstance(shape, Group)
    }
    opacities = [blocks[f"blocks.{index}"].opacity for index in (1, 2, 5)]
    assert opacities == [0.12, pytest.approx(0.56), None]


def test_blocks_without_a_depthwise_convolution_have_a_color_and_an_entry_of_their_own(tmp_path):
    space = uib_space(TINY, num_classes=10)
    has_none = [edge.ops.index(op) for edge in space.edges for op in edge.ops if isinstance(op, UIB) and is_ffn(op)]
    for path, n_drawn in ((space.same_choice(0), 0), (space.same_choice(has_none[0]), len(has_none))):
        draw_architectures([("net", space.spec_for(path), None)], tmp_path / "net.svg")
        written = (tmp_path / "net.svg").read_text()
        assert ("feed-forward (FFN)" in written) == (n_drawn > 0)
        assert written.count('class="box ffn"') == n_drawn + (n_drawn > 0)


def test_labels_of_mobilenetv4s_blocks_stay_within_them():
    space = uib_space(TINY, num_classes=10)
    calls = [call for choice in range(max(map(len, space.choices))) for call in space.walks[choice]]
    seen = [look(call, None, Unit.MS) for call in calls if isinstance(call.op, UIB)]
    assert {"ExtraDW4 3\N{MULTIPLICATION SIGN}3", "ExtraDW4 5\N{MULTIPLICATION SIGN}5"} < {one.label for one in seen}
    assert all(text_width(one.label) <= one.height for one in seen)


def is_ffn(op):
    return not op.start_kernel_size and not op.kernel_size


def test_a_cell_is_drawn_edge_by_edge(tmp_path):
    draw_architectures([("trees", trees.SPEC, shares(trees.SPEC))], tmp_path / "net.svg")
    root = ElementTree.parse(tmp_path / "net.svg").getroot()
    groups = [group for group in root.iter(f"{SVG}g") if group.get("class") == "block"]
    assert [group.get("id") for group in groups] == [f"row0.{call.name}" for call in walk(trees.SPEC)]
    for group, call in zip(groups, walk(trees.SPEC), strict=True):
        if not isinstance(call.op, TreeBlock):
            continue
        outer, *tiles = (
            [float(rect.get(side)) for side in ("x", "y", "width", "height")]
            for rect in group.iter(f"{SVG}rect")
            if rect.get("class") != "share"
        )
        edges = [edge for _, edge, _ in call.op.edges(call.in_hwc)]
        assert [text.text for text in group.iter(f"{SVG}text")][: len(edges)] == [edge.symbol for edge in edges]
        assert len(tiles) == len(edges)
        for x, y, width, height in tiles:
            assert outer[0] - 0.1 <= x and x + width <= outer[0] + outer[2] + 0.1
            assert outer[1] - 0.1 <= y and y + height <= outer[1] + outer[3] + 0.1
        areas = sum(width * height for *_, width, height in tiles)
        assert areas == pytest.approx(outer[2] * outer[3], rel=0.01)  # none over another, none left free
    assert {"max pool", "mean pool", "identity"} <= set(texts(tmp_path / "net.svg"))


def test_a_sign_stands_between_numbers_alone():
    assert with_times("max 3x3, 8x8x16 to 4x4x8") == "max 3×3, 8×8×16 to 4×4×8"


def test_a_long_network_goes_on_below(tmp_path):
    spec = catalog.load("proxyless_cifar")
    draw_architectures([("long", spec, None)], tmp_path / "net.svg")
    width, height = (float(ElementTree.parse(tmp_path / "net.svg").getroot().get(key)) for key in ("width", "height"))
    assert width < 1700 and height > 600
    assert len(drawn_layers(tmp_path / "net.svg")) == len(walk(spec))


def test_a_larger_expansion_than_usual_stays_inside():
    wide = replace(MOBILE.blocks[1].op, expand_ratio=12, mid_channels=None)
    spec = replace(MOBILE, blocks=(MOBILE.blocks[0], replace(MOBILE.blocks[1], op=wide), *MOBILE.blocks[2:]))
    assert highest_expansion(MOBILE) == 6 and highest_expansion(spec) == 12
    call = walk(spec)[2]
    assert look(call, None, Unit.MS, 12).height == 114 and look(walk(MOBILE)[2], None, Unit.MS, 12).height < 80


def test_a_film(tmp_path, monkeypatch):
    monkeypatch.setattr("proxyless_arch.arch.draw.FILM_FRAMES", 6)
    from PIL import Image

    other = SPACE.spec_for((0,) * 20 + (5,), name="other")
    shots = [(f"epoch {index}", spec, None, {"blocks.1": 0.1}) for index, spec in enumerate([MOBILE, other] * 5)]
    draw_film(shots, tmp_path / "film.gif")
    with Image.open(tmp_path / "film.gif") as film:
        assert film.format == "GIF" and 3 < film.n_frames <= 6  # thinned out from 10
    with pytest.raises(InputError, match=r"\.gif"):
        draw_film(shots, tmp_path / "film.mp4")
    with pytest.raises(ValueError, match="at least one"):
        draw_film([], tmp_path / "film.gif")


def test_png(tmp_path):
    path = tmp_path / "new folder" / "one.PNG"
    draw_architectures([("A", MOBILE, None)], path)
    assert path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 10_000
    assert [file.name for file in path.parent.iterdir()] == ["one.PNG"]


def test_nothing_is_left_where_nothing_can_be_written(tmp_path):
    blocker = tmp_path / "a file"
    blocker.write_text("not a folder")
    with pytest.raises(OSError):
        draw_architectures([("A", MOBILE, None)], blocker / "one.png")
    with pytest.raises(InputError, match=r"\.png or \.svg"):
        draw_architectures([("A", MOBILE, None)], tmp_path / "one.bmp")
    with pytest.raises(ValueError, match="that is 25, got 1"):
        draw_architectures([("A", MOBILE, [1.0])], tmp_path / "one.png")
    with pytest.raises(ValueError, match="at least one"):
        draw_architectures([], tmp_path / "one.png")
    assert [file.name for file in tmp_path.iterdir()] == ["a file"]


def test_a_failure_while_saving_keeps_the_earlier_picture(tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    path = tmp_path / "one.png"
    path.write_bytes(b"earlier")

    def full_disk(self, target, **_):
        target.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Figure, "savefig", full_disk)
    with pytest.raises(OSError, match="No space"):
        draw_architectures([("A", MOBILE, None)], path)
    assert path.read_bytes() == b"earlier" and len(list(tmp_path.iterdir())) == 1


def test_matplotlib_is_imported_only_where_a_picture_is_drawn():
    code = "import sys, proxyless_arch.arch.draw, proxyless_arch.arch.tables; assert 'matplotlib' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_table_names_every_layer_and_adds_up():
    lines = describe(MOBILE, costs=shares(MOBILE)).splitlines()
    assert max(map(len, lines)) <= 100
    named(lines[0], "mobile", "22 blocks", "2 skipped", "224 px", "1000 classes")
    body = [line for line in lines[3:] if not set(line) <= {"-"}]
    assert [line.split()[0] for line in body] == [*(call.name for call in walk(MOBILE)), "total"]
    assert sum(line.endswith("-- skipped") for line in body) == 2
    rows = [line.split() for line in body if not line.endswith("-- skipped")]
    for column, total in ((-5, total_params(MOBILE)), (-4, total_macs(MOBILE))):
        *numbers, last = [int(row[column].replace(",", "")) for row in rows]
        assert sum(numbers) == last == total
    assert rows[-1][-3] == f"{total_macs(MOBILE) / 1e6:,.2f}"
    assert sum(float(row[-2]) for row in rows[:-1]) == pytest.approx(100, abs=0.05 * len(rows))
    assert "blocks.1           MB3 5x5 s2   112x112x16  56x56x24" in body[2]


def test_a_constant_has_a_row_and_is_part_of_the_total(tmp_path):
    """25 layers of 0.0036 ms and -0.0074 ms."""
    costs = [*[0.0036] * 25, -0.0074]
    lines = describe(MOBILE, costs=costs).splitlines()
    rows = {line.split()[0]: line.split()[-3:] for line in lines if line.endswith("%")}
    assert rows["total"] == ["0.0826", "100.0", "%"]
    assert rows["constant"] == ["-0.0074", "-9.0", "%"] and rows["blocks.1"] == ["0.0036", "4.4", "%"]
    assert sum(float(cost) for name, (cost, *_) in rows.items() if name != "total") == pytest.approx(0.0826)
    assert len({len(line) for line in lines if line.endswith("%")}) == 1
    assert "constant" not in describe(MOBILE, costs=costs[:-1])
    draw_architectures([("A", MOBILE, costs)], tmp_path / "one.svg")
    words = texts(tmp_path / "one.svg")
    (total,) = (word for word in words if word.startswith("0.0826 ms"))
    named(total, "-0.00740 ms", "constant")
    assert words.count("4.4") == 25


@pytest.mark.parametrize("resolution", [1, 97, 8192])
def test_table_fits_its_width_at_any_resolution(resolution):
    lines = describe(MOBILE, resolution, [1234.5] * 25).splitlines()
    assert max(map(len, lines)) <= 100
    assert f"{resolution} px" in lines[0]


def test_table_without_costs_shares_macs():
    plain = describe(MOBILE)
    assert plain == describe(MOBILE, costs=[call.macs for call in walk(MOBILE)], unit=Unit.MACS)
    assert " ms " not in plain
    with pytest.raises(ValueError, match="one per layer"):
        describe(MOBILE, costs=[1.0])


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0"), (950, "950"), (1000, "1.00 k"), (4_080_512, "4.08 M"), (320_427_584, "320.4 M"), (99_999, "100.0 k"),
     (999_999, "1.00 M"), (2_500_000_000, "2.50 G"), (999_999_999_999, "1.0e12"), (SPACE.size, "2.2e17")],
)  # fmt: skip
def test_counts_for_people(count, text):
    assert format_count(count) == text


def test_costs_for_people():
    costs = (78, 1.899, 1, 0.99, 0.35, 0.081875, 0.1, 0.00512, -0.0074, 0)
    shown = ["78.00", "1.90", "1.00", "0.990", "0.350", "0.0819", "0.100", "0.00512", "-0.00740", "0.00"]
    assert [Unit.MS.short(cost) for cost in costs] == [f"{text} ms" for text in shown]
    assert Unit.MACS.short(320_427_584) == "320.4 M MACs"
