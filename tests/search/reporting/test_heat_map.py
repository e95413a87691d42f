"""Heat maps: cells lie where their epochs are, and what is alike is one shape."""

from proxyless_arch.drawing.axes import Phase
from proxyless_arch.drawing.scene import Text, text_width, to_svg
from search.reporting.heat_map import HeatRow, heat_map
from tests.proxyless_arch.drawing.test_charts import styled, words


def test_a_heat_map_merges_what_is_alike():
    rows = [HeatRow(label=label, values=[0.5] * 100, last="50.0 %") for label in "ab"]
    scene = heat_map("block", rows, []).scene
    (cells,) = styled(scene, "heat")
    assert cells.opacity == 0.5 and len(cells.lines) == 2 and len(to_svg(scene)) < 2000
    assert words(scene).count("50.0 %") == 2


def test_the_warm_up_of_a_heat_map_takes_a_strip():
    phases = [Phase(name="warm-up", first=1, last=50, aside=True), Phase(name="search", first=51, last=60)]
    rows = [HeatRow(label="a", values=[0.5] * 50 + [1.0] * 10, last="")]
    scene = heat_map("t", rows, phases, width=200, label_width=50, last_width=50).scene
    (border,), (cells,) = styled(scene, "border"), [cell for cell in styled(scene, "heat") if cell.opacity == 1]
    assert border.lines[0][0][0] == cells.lines[0][0][0] == 65  # 15 of 100 pixels
    assert words(scene)[-3:] == ["1", "epoch", "10"]


def test_long_labels_have_room():
    """That of a choice is never wider than what lies left of the cells."""
    longest = "ExtraDW4 5\N{MULTIPLICATION SIGN}5 5\N{MULTIPLICATION SIGN}5"
    rows = [HeatRow(label=label, values=[1.0], last="50.0 %") for label in ("a", longest)]
    scene = heat_map("t", rows, [], width=200, label_width=20).scene
    (label,) = (shape for shape in scene.shapes if isinstance(shape, Text) and shape.text == longest)
    assert label.x - text_width(longest, 10.5) >= 0
    (cells,) = styled(scene, "heat")
    assert cells.lines[0][0][0] == label.x + 5


def test_a_heat_map_places_its_cells():
    """A third of the epochs at 1, a third not known, a third at 1/4; the border is where the second phase starts."""
    values = [1.0] * 5 + [None] * 5 + [0.25] * 5
    phases = [Phase(name="warm-up", first=1, last=5), Phase(name="search", first=6, last=15)]
    rows = [HeatRow(label="a", values=values, last="")]
    scene = heat_map("t", rows, phases, width=200, label_width=20, last_width=30).scene
    cells = {cell.opacity: cell.lines for cell in styled(scene, "heat")}
    assert {opacity: (corners[0][0], corners[1][0]) for opacity, (corners,) in cells.items()} == {
        1.0: (20, 70),
        0.25: (120, 170),
    }
    (border,) = styled(scene, "border")
    assert {x for x, _ in border.lines[0]} == {70}
