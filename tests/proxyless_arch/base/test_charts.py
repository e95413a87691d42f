"""Charts: ticks are round, gaps stay gaps, little data still make a drawing."""

from collections import Counter

import pytest

from proxyless_arch.base.charts import (
    Point,
    Series,
    Target,
    compose,
    label_of,
    line_chart,
    plane,
    series_color,
    ticks,
)
from proxyless_arch.base.scene import Group, Text, to_svg


def shown(value):
    return f"{value:g}"


def flat(shapes):
    for shape in shapes:
        yield from flat(shape.shapes) if isinstance(shape, Group) else [shape]


def words(scene):
    return [shape.text for shape in flat(scene.shapes) if isinstance(shape, Text)]


def styled(scene, style):
    return [shape for shape in flat(scene.shapes) if style in shape.style.split()]


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0.0, 22.9), (1.83, 3.4), (-3, 1e-3), (82e6, 4e8), (1, 160)])
def test_ticks_are_round_and_inside(low, high):
    found = ticks(low, high)
    assert 3 <= len(found) <= 8
    assert all(low - 1e-9 * abs(low) <= value <= high + 1e-9 * abs(high) for value in found)
    assert len({label_of(value) for value in found}) == len(found)


def test_the_labels_of_ticks_are_their_values():
    assert list(map(label_of, ticks(1.8843, 1.9011))) == ["1.885", "1.89", "1.895", "1.9"]
    assert list(map(label_of, ticks(0.0803, 0.0839))) == ["0.081", "0.082", "0.083"]
    assert list(map(label_of, (0, 0.1 + 0.2, 5.0, 1200.0, 320e6))) == ["0", "0.3", "5", "1,200", "320,000,000"]


def test_ticks_of_nothing():
    assert ticks(3, 3) == [3]


@pytest.mark.parametrize("values", [[], [None], [None, None]])
def test_what_was_not_recorded_says_so(values):
    chart = line_chart("t", [Series(label="a", values=values)], y_label="y", shown=shown)
    assert words(chart.scene) == ["not recorded"] and chart.entries == ()
    assert words(plane("t", [], x_label="x", y_label="y").scene) == ["nothing to show yet"]


def test_one_value_at_its_target():
    target = Target(value=0.3, label="T")
    chart = line_chart("t", [Series(label="a", values=[0.3])], y_label="y", shown=shown, target=target)
    (dot,), (line,) = styled(chart.scene, "dot"), styled(chart.scene, "target")
    assert {y for _, y in line.lines[0]} == {dot.y} and dot.tip == "epoch 1: a 0.3"
    assert [entry.label for entry in chart.entries] == ["a", "T"]


def test_a_gap_stays_a_gap():
    """Three of four values: two lines, the second through the last two values, upwards as they grow."""
    chart = line_chart("t", [Series(label="a", values=[1, None, 3, 4])], y_label="y", shown=shown)
    (path,) = styled(chart.scene, "line")
    assert list(map(len, path.lines)) == [1, 2]
    (first,), (third, fourth) = path.lines
    assert first[1] > third[1] > fourth[1]
    assert fourth[0] - third[0] == pytest.approx((third[0] - first[0]) / 2)
    assert {(dot.x, dot.y) for dot in styled(chart.scene, "dot")} == {first, third, fourth}


def test_many_orders_of_magnitude_have_a_logarithmic_axis():
    chart = line_chart("t", [Series(label="a", values=[1e-9, 1, 1e9])], y_label="y", shown=shown, may_be_log=True)
    low, middle, high = styled(chart.scene, "line")[0].lines[0]
    assert middle[1] == pytest.approx((low[1] + high[1]) / 2)
    assert 4 <= len(styled(chart.scene, "grid")) <= 8


def test_marks_say_what_a_network_is():
    points = [
        Point(label="a", x=1, y=70, kind="run", tip="a < b"),
        Point(label="b", x=2, y=71, kind="control", color="s2"),
        Point(label="c", x=2, y=71, kind="published", color="s7"),
    ]
    chart = plane("t", points, x_label="x", y_label="y", trail=[(1, 60), (2, 65)])
    assert Counter(type(mark).__name__ for mark in styled(chart.scene, "mark")) == {"Circle": 1, "Path": 1, "Rect": 1}
    assert len(styled(chart.scene, "hollow")) == len(styled(chart.scene, "trail")) == 1
    assert [entry.label for entry in chart.entries] == ["searched network", "random control", "released network"]
    labels = styled(chart.scene, "name")
    assert {label.text for label in labels} == {"a", "b", "c"}
    below, beside = (label for label in labels if label.text in "bc")
    assert abs(below.y - beside.y) >= 12  # two marks at one place have their names apart
    assert "a &lt; b" in to_svg(chart.scene)


def test_charts_side_by_side():
    charts = [
        line_chart(
            title, [Series(label="a", values=[1, 2])], y_label="y", shown=shown, target=Target(value=1, label="T")
        )
        for title in ("one", "two", "three")
    ]
    scene = compose("all", charts, columns=2)
    assert {"all", "one", "two", "three"} <= set(words(scene))
    headings = [shape for shape in flat(scene.shapes) if isinstance(shape, Text) and shape.style == "heading"]
    assert len(headings) == 3
    origins = [(group.x, group.y) for group in scene.shapes if isinstance(group, Group)]
    assert len(set(origins)) == 3 and origins[0][1] == origins[1][1] < origins[2][1] and origins[0][0] == origins[2][0]
    assert scene.width > 2 * charts[0].scene.width and scene.height > 2 * charts[0].scene.height


def test_colors_come_around():
    assert [series_color(index) for index in (0, 6, 7)] == ["s1", "s7", "s1"]
