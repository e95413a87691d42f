"""Architectures on the command line.

    python -m proxyless_arch list
    python -m proxyless_arch show proxyless_mobile
    python -m proxyless_arch draw proxyless_cpu proxyless_gpu runs/mine -o side_by_side.png
    python -m proxyless_arch diff proxyless_mobile runs/mine
    python -m proxyless_arch convert released.json ours.json

A network is a known name, a JSON file in either dialect, a weight file that holds its network, or the run folder of a
search. Predicted latency is search's trade: python search/show.py NAME_OR_FILE.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from proxyless_arch.arch import catalog
from proxyless_arch.arch.codec import FORMAT, NET_CONFIG, spec_to_json
from proxyless_arch.arch.draw import draw_architectures
from proxyless_arch.arch.preprocessing import assumption
from proxyless_arch.arch.released import released_to_json
from proxyless_arch.arch.spec import ArchSpec
from proxyless_arch.arch.tables import describe
from proxyless_arch.arch.walk import LayerCall, total_macs, total_params, walk
from proxyless_arch.base import settings
from proxyless_arch.base.cli import exit_code
from proxyless_arch.base.files import write_text, writing
from proxyless_arch.base.schema import judged
from proxyless_arch.base.settings import REQUIRED, setting
from proxyless_arch.base.sides import Sides, in_words
from proxyless_arch.base.text import align, in_one_line
from proxyless_arch.base.units import format_count
from proxyless_arch.base.words import RESOLUTION
from proxyless_arch.weights.files import weight_kind
from proxyless_arch.weights.lookup import SPEC_FILE, find_spec

NETWORK = "NAME_OR_FILE"
OURS, RELEASED = "ours", "released"


def show(words: Sequence[str], resolution: Sides | None) -> None:
    """Print each network layer by layer, with MACs and parameters."""
    print("\n\n".join(describe(spec, resolution) for spec in map(find_spec, words)))


def draw(words: Sequence[str], output: Path) -> None:
    """Draw networks one below the other, to one scale. Raises InputError when the picture cannot be written."""
    rows = [(spec.name, spec, None) for spec in map(find_spec, words)]
    with writing(output):
        draw_architectures(rows, output)
    print(in_one_line(str(output)))


def list_networks() -> None:
    """Print the networks known by name, with published accuracy and where their weights come from."""
    rows = [("name", "blocks", "pixels", "MACs", "params", "published", "weights")]
    for name in catalog.known_names():
        spec = catalog.load(name)
        sizes = format_count(total_macs(spec)), format_count(total_params(spec))
        rows.append((name, str(len(spec.blocks)), in_words(spec.resolution), *sizes, *_published(name)))
    print(*align(rows, left=(0, 5, 6)), sep="\n")


def _published(name: str) -> tuple[str, str]:
    """(what was published of a known network, how to get its weights)."""
    if name in catalog.RELEASES:
        release = catalog.RELEASES[name]
        where = f", {release.latency}" if release.latency is not None else " on CIFAR-10"
        return f"{release.top1_percent} % top-1{where}", "downloaded on first use"
    if name in catalog.LAYOUTS:
        return f"{catalog.LAYOUTS[name].top1_percent} % top-1", "none known: train it"
    demo = catalog.DEMOS[name]
    return f"{demo.top1_percent} % top-1", f"pip install {demo.requirement}"


def difference(first: ArchSpec, second: ArchSpec) -> tuple[list[str], list[tuple[str, str, str]]]:
    """(what sets two networks apart but for their names, one line each; a row for each layer: its name, one, other).

    Layers are compared by position; where one network is deeper the other has ``-``.
    """
    lines, rows = [], []
    for what in ("preprocessing", "padding", "bn", "num_classes", "class_names"):
        one, other = getattr(first, what), getattr(second, what)
        if one != other:
            lines.append(f"{what}: {_brief(one)} | {_brief(other)}")
    if first.classifier.dropout_rate != second.classifier.dropout_rate:
        lines.append(f"dropout_rate: {first.classifier.dropout_rate} | {second.classifier.dropout_rate}")
    ours, theirs = ({call.name: call for call in walk(spec)} for spec in (first, second))
    names = dict.fromkeys((*_in_order(first, second), *ours, *theirs))
    for name in names:
        pair = ours.get(name), theirs.get(name)
        texts = _layer(pair[0]), _layer(pair[1])
        if texts[0] != texts[1]:
            rows.append((name, *texts))
    return lines, rows


def _in_order(first: ArchSpec, second: ArchSpec) -> list[str]:
    """Names of the stem and of the blocks of the deeper network, so that they come before the head."""
    return ["first_conv", *(f"blocks.{index}" for index in range(max(len(first.blocks), len(second.blocks))))]


def _brief(value: object) -> str:
    text = str(value)
    return text if len(text) <= 90 else text[:87] + "..."


def _layer(call: LayerCall | None) -> str:
    if call is None:
        return "-"
    if call.op.vanishes:
        return call.op.label
    sizes = " to ".join("x".join(map(str, hwc)) for hwc in (call.in_hwc, call.out_hwc))
    return f"{call.op.label}, {sizes}{', skip' if call.skip else ''}"


def diff(one: str, other: str) -> None:
    """Print the layers in which two networks differ, and their sizes."""
    first, second = find_spec(one), find_spec(other)
    lines, rows = difference(first, second)
    if not lines and not rows:
        print(f"the same network: {_sizes(first)}")
        return
    print(f"{first.name} | {second.name}")
    rows.append(("total", _sizes(first), _sizes(second)))
    print(*lines, *align([(name, one, f"| {other}") for name, one, other in rows], left=range(3)), sep="\n")


def _sizes(spec: ArchSpec) -> str:
    return f"{format_count(total_macs(spec))} MACs, {format_count(total_params(spec))} parameters"


def convert(source: str, target: Path, dialect: str | None) -> None:
    """Write a network in a JSON dialect, by default in the other one than ``source`` has.

    Raises InputError when the dialect cannot hold the network, or the file cannot be written.
    """
    spec = find_spec(source)
    wanted = dialect or (OURS if _is_released(source) else RELEASED)
    text = spec_to_json(spec) if wanted == OURS else released_to_json(spec)
    with writing(target):
        write_text(target, text)
    note = "" if wanted == OURS else "; it holds no name: readers take the file's"
    print(f"{in_one_line(str(target))}: {spec.name} in {'our' if wanted == OURS else 'the released'} dialect{note}")
    for line in assumption(spec.preprocessing):  # from here on it is written as a fact
        print(line)


def _is_released(source: str) -> bool:
    """Whether ``source`` is a JSON file in the released dialect, or the folder of one."""
    path = Path(source)
    if path.is_dir() and not (path / SPEC_FILE).is_file():
        path = path / NET_CONFIG
    if source in catalog.known_names() or not path.is_file() or weight_kind(path) != "text":
        return False
    return judged(path, {}).get("format") != FORMAT


@dataclass(frozen=True, kw_only=True)
class List:
    """the networks known by name"""


@dataclass(frozen=True, kw_only=True)
class Show:
    """a network layer by layer"""

    networks: tuple[str, ...] = setting(REQUIRED, "what to show", is_positional=True, metavar=NETWORK)
    resolution: Sides | None = RESOLUTION.setting(None, " (default: the network's own)", minimum=1, maximum=8192)


@dataclass(frozen=True, kw_only=True)
class Draw:
    """networks in one picture"""

    networks: tuple[str, ...] = setting(REQUIRED, "what to draw", is_positional=True, metavar=NETWORK)
    output: Path = setting(REQUIRED, "the picture, .png or .svg", aliases=("-o",), metavar="FILE")


@dataclass(frozen=True, kw_only=True)
class Diff:
    """where two networks differ"""

    one: str = setting(REQUIRED, "a network", is_positional=True, metavar="A")
    other: str = setting(REQUIRED, "a network", is_positional=True, metavar="B")


@dataclass(frozen=True, kw_only=True)
class Convert:
    """between the two JSON dialects"""

    source: str = setting(REQUIRED, "a network", is_positional=True, metavar="IN")
    target: Path = setting(REQUIRED, "the file to write", is_positional=True, metavar="OUT")
    to: str | None = setting(None, "dialect of OUT (default: the other one than IN's)", (OURS, RELEASED))


COMMANDS = {"list": List, "show": Show, "draw": Draw, "diff": Diff, "convert": Convert}


def run(argv: Sequence[str]) -> None:
    match settings.parse_command(COMMANDS, argv, "python -m proxyless_arch", __doc__):
        case List():
            list_networks()
        case Show(networks=networks, resolution=resolution):
            show(networks, resolution)
        case Draw(networks=networks, output=output):
            draw(networks, output)
        case Diff(one=one, other=other):
            diff(one, other)
        case Convert(source=source, target=target, to=dialect):
            convert(source, target, dialect)


def main(argv: Sequence[str] | None = None) -> int:
    return exit_code(run, argv)


if __name__ == "__main__":
    sys.exit(main())
