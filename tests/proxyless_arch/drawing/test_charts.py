"""Charts: ticks are round, gaps stay gaps, little data still make a drawing."""

import itertools
import math
from collections import Counter

import pytest

from proxyless_arch.drawing.axes import PERCENT, Axis, Epochs, Frame, Phase, label_of, ticks
from proxyless_arch.drawing.charts import Guide, Point, Series, Target, compose, line_chart, plane, series_color
from proxyless_arch.drawing.labels import Box
from proxyless_arch.drawing.scene import Group, Path, Scene, Text, text_width, to_svg

X, Y = Axis(label="x"), Axis(label="y")


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
    chart = line_chart("t", [Series(label="a", values=values)], y=Y, shown=shown)
    assert words(chart.scene) == ["not recorded"] and chart.entries == ()
    assert words(plane("t", [], x=X, y=Y).scene) == ["nothing to show yet"]


def test_one_value_at_its_target():
    target = Target(value=0.3, label="T")
    chart = line_chart("t", [Series(label="a", values=[0.3])], y=Y, shown=shown, target=target)
    (dot,), (line,) = styled(chart.scene, "dot"), styled(chart.scene, "target")
    assert {y for _, y in line.lines[0]} == {dot.y} and dot.tip == "epoch 1: a 0.3"
    assert [entry.label for entry in chart.entries] == ["a", "T"]


def test_a_gap_stays_a_gap():
    """Three of four values: two lines, the second through the last two values, upwards as they grow."""
    chart = line_chart("t", [Series(label="a", values=[1, None, 3, 4])], y=Y, shown=shown)
    (path,) = styled(chart.scene, "line")
    assert list(map(len, path.lines)) == [1, 2]
    (first,), (third, fourth) = path.lines
    assert first[1] > third[1] > fourth[1]
    assert fourth[0] - third[0] == pytest.approx((third[0] - first[0]) / 2)
    assert {(dot.x, dot.y) for dot in styled(chart.scene, "dot")} == {first, third, fourth}


def test_many_orders_of_magnitude_have_a_logarithmic_axis():
    chart = line_chart("t", [Series(label="a", values=[1e-9, 1, 1e9])], y=Y, shown=shown, may_be_log=True)
    low, middle, high = styled(chart.scene, "line")[0].lines[0]
    assert middle[1] == pytest.approx((low[1] + high[1]) / 2)
    assert 4 <= len(styled(chart.scene, "grid")) <= 8


def test_the_warm_up_takes_a_strip():
    """25 of 50 epochs are warm-up: no more than 15 % of the width, and the search has the rest, evenly."""
    phases = [Phase(name="warm-up", first=1, last=25, aside=True), Phase(name="search", first=26, last=50)]
    chart = line_chart("t", [Series(label="a", values=list(range(50)))], y=Y, shown=shown, phases=phases)
    xs = [x for x, _ in styled(chart.scene, "line")[0].lines[0]]
    whole = Frame().right - Frame().left
    (shade,) = styled(chart.scene, "shade")
    assert shade.width == pytest.approx(0.15 * whole) and xs[24] < shade.x + shade.width < xs[25]
    steps = [after - before for before, after in itertools.pairwise(xs[25:])]
    assert steps == pytest.approx([0.85 * whole / 25] * 24)
    numbers = [word for word in words(chart.scene) if word.isdigit() and int(word) <= 25 and word != "0"]
    assert {"5", "10", "15", "20", "25"} <= set(numbers) and "warm-up" in words(chart.scene)
    assert styled(chart.scene, "dot-s1")[0].tip == "warm-up, epoch 1: a 0"


def test_a_warm_up_alone_or_short_is_as_wide_as_it_is():
    alone = Epochs.of([Phase(name="warm-up", first=1, last=10, aside=True)], 10, 0, 100)
    assert [alone(value) for value in (0.5, 5.5, 10.5)] == [0, 50, 100]
    short = [Phase(name="warm-up", first=1, last=1, aside=True), Phase(name="search", first=2, last=10)]
    assert Epochs.of(short, 10, 0, 100)(1.5) == pytest.approx(10)
    tuned = [Phase(name="warm-up", first=1, last=40, aside=True), Phase(name="search", first=41, last=60),
             Phase(name="fine-tune", first=61, last=100, aside=True)]  # fmt: skip
    x = Epochs.of(tuned, 100, 0, 100)
    assert [x(edge) for edge in (0.5, 40.5, 60.5, 100.5)] == pytest.approx([0, 15, 85, 100])


def test_an_axis_ends_where_no_number_can_lie():
    points = [Point(x=1, y=99.6, group="a", y_range=(98, 99.9)), Point(x=2, y=90, group="a")]
    chart = plane("t", points, x=X, y=Axis(label="%", bounds=PERCENT))
    numbers = [float(word) for word in words(chart.scene) if word.replace(".", "").isdigit()]
    assert max(numbers) == 100 and min(number for number in numbers if number > 3) >= 80


def test_an_axis_holds_more_than_trifles():
    """Two costs 1 % apart on an axis of a tenth of them lie a tenth of it apart, in its middle; others as they do."""
    near = [Point(x=99.0, y=1, group="a"), Point(x=100.0, y=2, group="a")]
    for span, share in ((0.1, 0.1 / 1.16), (0.0, 1 / 1.16)):
        chart = plane("t", near, x=Axis(label="x", span=span), y=Axis(label="y", ends=(0, 5)))
        left, right = (mark.x for mark in styled(chart.scene, "mark"))
        frame = Frame()
        assert (right - left) / (frame.right - frame.left) == pytest.approx(share)
        assert left + right == pytest.approx(frame.left + frame.right)


def test_ticks_leave_room_for_the_label_of_their_axis():
    """Five digits and more: the widest tick ends beside the axis and starts behind the turned label."""
    for values in ([2.3201, 2.3412], [1e6, 3e6], [0.0001234, 0.0001299]):
        for chart in (
            line_chart("t", [Series(label="a", values=values)], y=Y, shown=shown),
            plane("t", [Point(x=value, y=value, group="a") for value in values], x=X, y=Y),
        ):
            ends = [text for text in flat(chart.scene.shapes) if isinstance(text, Text) and text.anchor == "end"]
            (label,) = (text for text in flat(chart.scene.shapes) if isinstance(text, Text) and text.turned)
            assert ends and min(text.x - text_width(text.text) for text in ends) > label.x + 3


def test_bars_show_how_uncertain_a_point_is():
    points = [Point(x=1, y=70, group="a", y_range=(60, 90)), Point(x=2, y=75, group="a", x_range=(1.5, 2.5))]
    chart = plane("t", points, x=X, y=Y)
    up, across = (bar.lines[0] for bar in sorted(styled(chart.scene, "bar"), key=lambda bar: bar.lines[0][0][0]))
    marks = [(mark.x, mark.y) for mark in styled(chart.scene, "mark")]
    assert up[0][0] == up[1][0] == marks[0][0] and up[0][1] > marks[0][1] > up[1][1]
    assert up[0][1] - marks[0][1] == pytest.approx((marks[0][1] - up[1][1]) / 2)  # 10 below, 20 above
    assert across[0][1] == across[1][1] == marks[1][1] and across[0][0] < marks[1][0] < across[1][0]


def test_marks_say_what_a_network_is():
    points = [
        Point(label="a", x=1, y=70, group="searched", tip="a < b"),
        Point(label="b", x=2, y=71, group="random", mark="diamond", color="s2"),
        Point(label="c", x=2, y=71, group="released", mark="square", color="s7"),
    ]
    guide = Guide(points=[(1.5, -math.inf), (1.5, math.inf)], label="T")
    chart = plane("t", points, x=X, y=Y, trail=[(1, 60), (2, 65)], guides=[guide])
    assert Counter(type(mark).__name__ for mark in styled(chart.scene, "mark")) == {"Circle": 1, "Path": 1, "Rect": 1}
    assert len(styled(chart.scene, "hollow")) == len(styled(chart.scene, "trail")) == 1
    assert [entry.label for entry in chart.entries] == ["searched", "random", "released", "T"]
    assert {label.text for label in styled(chart.scene, "name")} == {"a", "b", "c"}
    assert "a &lt; b" in to_svg(chart.scene)
    (target,) = styled(chart.scene, "target")
    assert [y for _, y in target.lines[0]] == [Frame().bottom, Frame().top]


def box_of(label):
    width = text_width(label.text, 11)
    left = label.x - {"start": 0, "middle": width / 2, "end": width}[label.anchor]
    return Box(left, label.y - 9, left + width, label.y + 2)


@pytest.mark.parametrize("n_runs", [2, 5, 9])
@pytest.mark.parametrize("spread", [0.0, 0.01, 1.0])
def test_no_two_names_of_a_dense_plane_overlap(n_runs, spread):
    points = [
        Point(
            x=1.9 + spread * ((7 * k) % 5) / 5, y=97 + spread * ((3 * k) % 4), group="a",
            label=f"digits on mobile, 1.{890 + k} of 1.9 ms", y_range=(95.0, 98.5),
        )
        for k in range(n_runs)
    ]  # fmt: skip
    chart = plane("t", points, x=X, y=Axis(label="%", bounds=PERCENT))
    boxes = [box_of(label) for label in styled(chart.scene, "name")]
    assert len(boxes) == n_runs
    assert all(one.shared(other) == 0 for one, other in itertools.combinations(boxes, 2))
    assert all(box.left > 0 and box.right < chart.scene.width for box in boxes)


def test_a_long_name_keeps_its_ends():
    points = [Point(x=1, y=2, group="a", label="my_search_" + 60 * "x" + "_of_birds")]
    (label,) = styled(plane("t", points, x=X, y=Y).scene, "name")
    assert label.text.startswith("my_search_") and label.text.endswith("_of_birds") and "…" in label.text
    assert text_width(label.text, 11) <= 0.4 * Frame().width


def test_names_stand_in_place_of_numbers():
    points = [Point(x=1, y=2, group="a")]
    chart = plane("t", points, x=Axis(label="", names=("one", "two\nlines")), y=Y, frame=Frame(foot=60))
    assert {"one", "two", "lines"} <= set(words(chart.scene))
    one, two = (next(word.x for word in flat(chart.scene.shapes) if getattr(word, "text", "") == text)
                for text in ("one", "two"))  # fmt: skip
    (mark,) = styled(chart.scene, "mark")
    assert one < two == mark.x


def test_charts_side_by_side():
    charts = [
        line_chart(title, [Series(label="a", values=[1, 2])], y=Y, shown=shown, target=Target(value=1, label="T"))
        for title in ("one", "two", "three")
    ]
    scene = compose("all", charts, columns=2, facts=["some machine"])
    assert {"all", "one", "two", "three", "some machine"} <= set(words(scene))
    headings = [shape for shape in flat(scene.shapes) if isinstance(shape, Text) and shape.style == "heading"]
    assert len(headings) == 3
    legend, first, second = (group for group in scene.shapes if isinstance(group, Group))
    assert [word.text for word in flat(legend.shapes) if isinstance(word, Text)] == ["a", "T"]  # the same of all, once
    assert legend.y < first.y < second.y and first.x == second.x
    assert [panel.x for panel in first.shapes] == [0, charts[0].scene.width + 24] and len(second.shapes) == 1
    assert scene.width > 2 * charts[0].scene.width and scene.height > 2 * charts[0].scene.height


def test_legends_that_differ_stand_with_their_charts():
    charts = [line_chart("t", [Series(label=name, values=[1, 2]), Series(label="b", values=[1, 3])], y=Y, shown=shown)
              for name in "ac"]  # fmt: skip
    (row,) = (group for group in compose("", charts, columns=2).shapes if isinstance(group, Group))
    assert [word for word in words(Scene([row], 1, 1)) if word in "abc"] == ["a", "b", "c", "b"]


def test_colors_come_around():
    assert [series_color(index) for index in (0, 6, 7)] == ["s1", "s7", "s1"]


def test_names_keep_off_a_target():
    """A name of eight points one over the other is nowhere on the line of a target beside them."""
    points = [Point(x=5.0, y=5.0, group="a", label=f"name {k}", mark="circle", color="s1", tip="") for k in range(8)]
    for at in (5.02, 4.98, 5.0):
        guide = Guide(points=[(at, -math.inf), (at, math.inf)], label="target")
        shapes = plane("", points, x=X, y=Y, guides=[guide]).scene.shapes
        (target,) = [shape for shape in shapes if isinstance(shape, Path) and shape.style == guide.style]
        edge = target.lines[0][0][0]
        names = [shape for shape in shapes if isinstance(shape, Text) and shape.style == "name"]
        assert len(names) == 8
        for name in names:
            width = text_width(name.text, 11)
            left = name.x - {"start": 0, "middle": width / 2, "end": width}[name.anchor]
            assert not left < edge < left + width
