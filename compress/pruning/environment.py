"""What every method of pruning looks at: what a choice does to the loss, and what a whole plan scores.

Nothing is trained. A plan is a network cut out of the trained one, its weights made up for what is missing, its BN
statistics those of calibration images, and its score that on images which neither calibrated nor test it. Whatever was
scored is on disk: a run that is resumed asks for the same plans and is answered from there.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compress.pruning.pruner import Pruner
from compress.pruning.statistics import collect, make_bn_true
from compress.record import Record
from compress.scoring import Images, Score, Watch, layers_of, score_of, unseen
from hardware.cost import Path
from hardware.projection import Match
from proxyless_arch.arch.shrink import FEATURE_MIX, LAST_STAGE, STEM, Shrunk, widths_of
from proxyless_arch.arch.spec import ArchSpec
from proxyless_arch.base.progress import Progress, watched
from proxyless_arch.base.strict import counted
from proxyless_arch.space.shrinking import Axis, Group, change_of
from proxyless_arch.weights.files import NamedTensors
from proxyless_nas.network import ProxylessNet, build
from proxyless_nas.steps import recalibrate_bn
from proxyless_nas.weights import load_named, to_named

MEASURED_WIDTHS = 5
"""Of each width's choices; the damage of the others follows their layer errors."""


@dataclass
class Environment:
    """A trained network, its groups of choices, and the images that judge them.

    ``calibration``, ``choosing``: batches of (images, labels), disjoint.
    """

    pruner: Pruner
    groups: tuple[Group, ...]
    calibration: Images
    choosing: Images
    device: torch.device
    record: Record
    watch: Watch = unseen
    matches: tuple[Match, ...] = ()

    def settled(self, path: Path) -> Path:
        """Groups are independent: ``path`` itself."""
        return path

    def network(self, change: Shrunk) -> ProxylessNet:
        """The pruned network with BN statistics of the calibration images, in eval mode."""
        spec, tensors = self.pruner.pruned(change)
        net = build(spec)
        load_named(net, spec, tensors)
        net.to(self.device)
        recalibrate_bn(net, self.calibration, self.device)
        return net.eval()

    def score(self, path: Path) -> Score:
        """Of the network that the choices make."""
        change = change_of(self.groups, path)
        key = f"plan {self.pruner.reconstructs:d}{self.pruner.by_size:d} {change.key}"
        line = self.record.get(key)
        if line is None:
            found = score_of(self.network(change), self.choosing, self.device)
            line = self.record.put(key, loss=found.loss, hits=found.hits, n_images=found.n_images)
        return Score(line["loss"], line["hits"], line["n_images"])

    def damages(self) -> list[np.ndarray]:
        """By group and choice: how much the loss grows when it alone is taken, never below 0."""
        base, losses = self._single_losses
        return [self._damages_of(group, losses, base) for group in self.groups]

    def _singles(self) -> dict[str, Shrunk]:
        """The changes whose loss is measured, by their names: some widths, all kernels, all blocks."""
        found: list[Shrunk] = []
        for group in self.groups:
            for axis in group.axes:
                found += [axis.shrunk(axis.options[place]) for place in measured_places(axis)]
            if group.block is not None:
                found.append(Shrunk(left_out=frozenset({group.block})))
        return {change.key: change for change in found}

    @cached_property
    def _single_losses(self) -> tuple[float, dict[str, float]]:
        """(loss of the whole network, loss with each single change)."""
        singles = self._singles()
        known = [self._known_singles(number, singles) for number in range(len(self.choosing))]
        lines = [line for line in known if line is not None]
        if len(lines) < len(known):
            lines = self._measured_singles(singles)
        count = sum(line["n_images"] for line in lines)

        def mean(key: str) -> float:
            return math.fsum(line["losses"][key] for line in lines) / count

        return mean(""), {key: mean(key) for key in singles}

    def _known_singles(self, number: int, singles: dict[str, Shrunk]) -> dict[str, Any] | None:
        """The record of a batch, where it is there and has all changes."""
        line = self.record.get(f"damage {number}")
        return line if line is not None and {"", *singles} <= (line.get("losses") or {}).keys() else None

    def _measured_singles(self, singles: dict[str, Shrunk]) -> list[dict[str, Any]]:
        """The records of all batches of the images that choose; those that are there are not measured again."""
        n_images = sum(len(labels) for _, labels in self.choosing)
        doing = f"trying {counted(len(singles), 'change')}, one at a time, on {counted(n_images, 'image')}"
        with self.watch(doing, len(singles) * (1 + len(self.choosing)), "change") as bar:
            whole = self._layers(Shrunk())
            parts = {change.key: self._with(change, whole) for change in watched(singles.values(), bar)}
            return [
                self._known_singles(number, singles)
                or self.record.put(f"damage {number}", **self._batch_losses(whole, parts, singles, bar, images, labels))
                for number, (images, labels) in enumerate(self.choosing)
            ]

    @torch.no_grad()
    def _batch_losses(
        self,
        whole: list[nn.Module],
        parts: dict[str, list[nn.Module]],
        singles: dict[str, Shrunk],
        bar: Progress,
        images: Tensor,
        labels: Tensor,
    ) -> dict[str, Any]:
        """The sum of losses of a batch, with each change: layers in front of it run once for all."""
        inputs = [images.to(self.device)]
        for layer in whole:
            inputs.append(layer(inputs[-1]))
        labels = labels.to(self.device)

        def loss(logits: Tensor) -> float:
            return F.cross_entropy(logits.float(), labels, reduction="sum").item()

        losses = {"": loss(inputs[-1])}
        for key, layers in watched(parts.items(), bar):
            first, _ = span(singles[key], len(whole) - 2)
            x = inputs[first]
            for layer in layers[first:]:
                x = layer(x)
            losses[key] = loss(x)
        return {"losses": losses, "n_images": len(labels)}

    def _layers(self, change: Shrunk) -> list[nn.Module]:
        """Of the pruned network, BN statistics as they were."""
        spec, tensors = self.pruner.pruned(change)
        net = build(spec)
        load_named(net, spec, tensors)
        return layers_of(net.to(self.device).eval())

    def _with(self, change: Shrunk, whole: list[nn.Module]) -> list[nn.Module]:
        """The layers of the pruned network; those that the change leaves as they are, are shared."""
        own = self._layers(change)
        first, last = span(change, len(whole) - 2)
        return [*whole[:first], *own[first : last + 1], *whole[last + 1 :]]

    def _damages_of(self, group: Group, losses: dict[str, float], base: float) -> np.ndarray:
        """The sum over the axes of a choice; of the block left out, as measured."""
        rows = [self._damages_along(axis, losses, base) for axis in group.axes]
        joint = np.zeros(1)
        for row in rows:
            joint = (joint[:, None] + row[None, :]).ravel()
        if group.block is None:
            return joint
        gone = max(0.0, losses[Shrunk(left_out=frozenset({group.block})).key] - base)
        return np.append(joint, gone)

    def _damages_along(self, axis: Axis, losses: dict[str, float], base: float) -> np.ndarray:
        """Of each option: measured, or between those measured by the layer error. Less kept, more lost."""
        places = measured_places(axis)
        grown = {place: losses[axis.shrunk(axis.options[place]).key] - base for place in places}
        grown[len(axis.options) - 1] = 0.0
        if axis.kind == "width":
            errors = np.array([self.pruner.layer_error(axis.name, width) for width in axis.options])
            errors = np.maximum.accumulate(errors[::-1])[::-1]
        else:
            errors = -np.array(axis.options, dtype=float)
        known = sorted(grown)
        rising = np.maximum.accumulate(np.maximum(0.0, [grown[place] for place in known[::-1]]))
        found = np.interp(errors, errors[known[::-1]], rising)
        found[-1] = 0.0
        return found


def measured_environment(
    spec: ArchSpec,
    tensors: NamedTensors,
    groups: tuple[Group, ...],
    calibration: Images,
    choosing: Images,
    device: torch.device,
    record: Record,
    *,
    seed: int = 0,
    reconstructs: bool = True,
    by_size: bool = False,
    watch: Watch = unseen,
) -> tuple[ProxylessNet, Environment]:
    """(a trained network with BN statistics of the calibration images, its environment with all layers measured)."""
    net = build(spec)
    load_named(net, spec, tensors)
    net.to(device).eval()
    n_images = sum(len(labels) for _, labels in calibration)
    with watch(f"measuring the layers on {counted(n_images, 'image')}", 2 * n_images, "img") as bar:

        def batches() -> Iterator[tuple[Tensor, Tensor]]:
            return watched(calibration, bar, lambda batch: len(batch[1]))

        make_bn_true(net, batches(), device)
        statistics = collect(net, batches(), groups, device, seed)
    pruner = Pruner(spec, to_named(net), statistics, reconstructs=reconstructs, by_size=by_size)
    widths = widths_of(spec)
    doing = f"ordering the channels of {counted(len(widths), 'layer')}"
    with watch(doing, sum(width**3 for width in widths.values()), "") as bar:
        for name, width in widths.items():
            pruner.order(name)
            bar.update(width**3)
    return net, Environment(pruner, groups, calibration, choosing, device, record, watch)


def measured_places(axis: Axis) -> list[int]:
    """Which options of an axis are measured: evenly spread from the smallest on, all but the last at most."""
    count = len(axis.options) - 1
    most = count if axis.kind == "kernel" else min(MEASURED_WIDTHS, count)
    return sorted({round(place * count / most) for place in range(most)})


def span(change: Shrunk, n_blocks: int) -> tuple[int, int]:
    """Which of layers_of a network hold other weights behind a change: the first and the last."""
    ends = {STEM: (0, 1), LAST_STAGE: (n_blocks, n_blocks + 1), FEATURE_MIX: (n_blocks + 1, n_blocks + 1)}
    found = [ends.get(name) or (int(name.removeprefix("blocks.")) + 1,) * 2 for name in change.widths]
    found += [(index + 1, index + 1) for index in (*change.kernels, *change.left_out)]
    return min(first for first, _ in found), max(last for _, last in found)
