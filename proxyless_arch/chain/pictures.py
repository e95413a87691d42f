"""The picture of a chain: accuracy, milliseconds and bytes of every step, side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise

from proxyless_arch.apps.scores import score_interval, shown_score
from proxyless_arch.chain.values import Chain, Cost, How, Step
from proxyless_arch.drawing.axes import TICK, Axis, Frame
from proxyless_arch.drawing.charts import Chart, Guide, Point, compose, plane, series_color
from proxyless_arch.drawing.scene import Scene, text_width

KILO, MEGA = 1e3, 1e6
MARKS = {
    How.MEASURED: "circle",
    How.SUMMED: "diamond",
    How.PREDICTED: "diamond",
    How.SIMULATED: "triangle",
    How.COUNTED: "square",
}
ROOM, ABOVE = 8.0, 1.08
"""Between names of steps, in pixels; how far an axis goes, over its largest number."""


def charts(chain: Chain) -> list[Chart]:
    """Accuracy, time and size over the steps of which something is known."""
    chain = Chain(tuple(filter(_is_known, chain.steps)))
    largest = max((cost.value for step in chain.steps for cost in step.all_sizes), default=0.0)
    unit, scale = ("MB", MEGA) if largest >= MEGA / 2 else ("kB", KILO)
    return [
        _accuracies(chain),
        _costs(chain, "Time per image", "ms", 1.0, lambda step: step.all_latencies),
        _costs(chain, "Size", unit, scale, lambda step: step.all_sizes),
    ]


def _is_known(step: Step) -> bool:
    return bool(step.accuracy or step.attacks or step.all_latencies or step.all_sizes)


def picture(chain: Chain) -> Scene:
    """All three as one, for a file."""
    return compose("", charts(chain), 3)


def _names(chain: Chain) -> tuple[Axis, Frame]:
    """The axis of the steps; where they are many their names stand in two rows."""
    names, frame = [step.kind.value for step in chain.steps], Frame(foot=24.0)
    if sum(text_width(name, TICK) + ROOM for name in names) > frame.right - frame.left:
        names = [f"\n{name}" if index % 2 else name for index, name in enumerate(names)]
        frame = Frame(foot=38.0)
    return Axis(label="", names=names), frame


def _accuracies(chain: Chain) -> Chart:
    points = []
    for at, step in enumerate(chain.steps):
        if (found := step.accuracy) is not None:
            ends = score_interval(found.percent, found.n_images) if found.n_images else None
            tip = f"{step.name}: {shown_score(found.percent, found.n_images, found.images)}"
            points.append(Point(x=at, y=found.percent, group="as they are, 95% interval", tip=tip, y_range=ends))
        for attack in step.attacks:
            ends = score_interval(attack.percent, attack.n_images)
            group = f"changed by {attack.epsilon} to fool it{', as float' if attack.as_float else ''}"
            tip = f"{step.name}: {shown_score(attack.percent, attack.n_images)} after all attacks"
            points.append(
                Point(x=at, y=attack.percent, group=group, mark="triangle", color="s2", tip=tip, y_range=ends)
            )
    x, frame = _names(chain)  # no line joins accuracies of other images
    tested = {at: step.accuracy.tested for at, step in enumerate(chain.steps) if step.accuracy is not None}
    guides = [line for line in _lines(points) if len({tested.get(round(at)) for at, _ in line.points}) == 1]
    return plane("Accuracy", points, x=x, y=Axis(label="top-1, %", bounds=(0, 100)), guides=guides, frame=frame)


def _costs(chain: Chain, title: str, unit: str, scale: float, of: Callable[[Step], Iterable[Cost]]) -> Chart:
    """A color for what it was measured by, a mark for how it is known."""
    sources = list(dict.fromkeys(cost.by for step in chain.steps for cost in of(step)))
    points = [
        Point(
            x=at,
            y=cost.value / scale,
            group=f"{cost.by}, {cost.how}",
            mark=MARKS[cost.how],
            color=series_color(sources.index(cost.by)),
            tip=f"{step.name}: {cost.value / scale:.4g} {unit}, {cost.how} ({cost.by})",
        )
        for at, step in enumerate(chain.steps)
        for cost in of(step)
    ]
    x, frame = _names(chain)
    top = max((point.y for point in points), default=1.0)
    return plane(title, points, x=x, y=Axis(label=unit, ends=(0, ABOVE * top)), guides=_lines(points), frame=frame)


def _lines(points: Sequence[Point]) -> list[Guide]:
    """From each point to the next of its group, in a later step."""
    groups: dict[str, list[Point]] = {}
    for point in points:
        groups.setdefault(point.group, []).append(point)
    return [
        Guide(points=[(one.x, one.y), (other.x, other.y)], style=f"bar line-{one.color}")
        for group in groups.values()
        for one, other in pairwise(group)
        if other.x > one.x
    ]
