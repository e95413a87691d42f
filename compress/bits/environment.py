"""What every method looks at: what a format does to the loss, and what a whole plan scores.

The damage of a format is by how much the network's own expectation of the loss grows when it alone is taken: the
divergence of its probabilities from those of the float network (Kullback-Leibler). It is what the loss would grow by if
labels were drawn by these probabilities; labels, whose noise is larger than the damage of 8 bits, are not looked at. It
is measured for some numbers of bits, and follows the error of the layer's output between them.

A plan is scored as a whole network, with labels, on images that neither calibrate nor test it. Whatever was measured is
on disk: a run that is resumed is answered from there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compress.bits.calibration import Calibration
from compress.bits.choices import BitGroup, plan_of, settled
from compress.record import Record
from compress.scoring import Images, Score, Watch, layers_of, score_of, unseen
from hardware.cost import Path
from hardware.projection import Match
from proxyless_arch.arch.bits import BitLayer, BitPlan, Range
from proxyless_arch.arch.spec import ArchSpec
from proxyless_arch.base.progress import Progress, watched
from proxyless_arch.base.strict import counted
from proxyless_arch.weights.files import NamedTensors
from proxyless_arch.weights.quantizer import RoundedWeights
from proxyless_nas.network import ProxylessNet, build
from proxyless_nas.quantized import InputQuantizer, attach, detach, set_quantizer
from proxyless_nas.weights import assign, load_named

MEASURED = 2
"""Numbers of bits of each kind, from the fewest on, whose damage is measured; that of the others follows the error."""
STRIDE = 2
"""Between the bits that are measured, where there are many."""


@dataclass
class BitEnvironment:
    """A trained network, the formats of its layers, and the images that judge them.

    ``calibration``: batches that correct biases, ``choosing``: batches of (images, labels) that score; disjoint.
    """

    spec: ArchSpec
    tensors: NamedTensors
    groups: tuple[BitGroup, ...]
    matches: tuple[Match, ...]
    facts: Calibration
    calibration: Images
    choosing: Images
    device: torch.device
    record: Record
    quantizer: str
    corrects: bool = True
    watch: Watch = unseen

    @cached_property
    def weights(self) -> RoundedWeights:
        return RoundedWeights(self.spec, self.tensors, self.quantizer)

    def settled(self, path: Path) -> Path:
        """``path`` with joined inputs in one format."""
        return settled(path, self.groups, self.matches)

    def plan(self, path: Path) -> BitPlan:
        return plan_of(self.spec, self.groups, path, self.ranges, self.quantizer)

    @cached_property
    def ranges(self) -> dict[tuple[str, int], Range]:
        """By layer and activation bits."""
        return {
            (group.layer.name, bits): self.facts.range(group.layer.name, bits)
            for group in self.groups
            for bits in {format.activation_bits for format in group.formats}
            if bits is not None
        }

    # plans

    def network(self, path: Path) -> tuple[ProxylessNet, NamedTensors]:
        """The quantized network in eval mode, and the weights that it is of, biases corrected."""
        plan, latent = self.plan(path), dict(self.tensors)
        net = build(self.spec)
        load_named(net, self.spec, self.weights.under(plan))
        net = attach(net.to(self.device).eval(), plan)
        if self.corrects:
            for name, shift in correct_biases(net, self.means, self.calibration, self.device).items():
                latent[name] = (latent[name] + shift).astype(np.float32)
        return net, latent

    def score(self, path: Path) -> Score:
        key = f"plan {self.corrects:d} {self.plan(path).digest}"
        line = self.record.get(key)
        if line is None:
            found = score_of(self.network(path)[0], self.choosing, self.device)
            line = self.record.put(key, loss=found.loss, hits=found.hits, n_images=found.n_images)
        return Score(line["loss"], line["hits"], line["n_images"])

    @cached_property
    def float_net(self) -> ProxylessNet:
        net = build(self.spec)
        load_named(net, self.spec, self.tensors)
        return net.to(self.device).eval()

    @cached_property
    def means(self) -> list[dict[str, Tensor]]:
        """Of what each layer of the float network puts out, by calibration batch."""
        return [means_of(self.float_net, images.to(self.device)) for images, _ in self.calibration]

    # damages

    def damages(self) -> list[np.ndarray]:
        """By group and format, never below 0: the weights' and the input's, added up."""
        return [self._damages_of(group) for group in self.groups]

    def _damages_of(self, group: BitGroup) -> np.ndarray:
        weights = self._along(group, "weight", [format.weight_bits for format in group.formats])
        inputs = self._along(group, "input", [format.activation_bits for format in group.formats])
        return weights + inputs

    def _along(self, group: BitGroup, kind: str, bits: Sequence[int | None]) -> np.ndarray:
        """The damage of each number of bits: measured, or by the error of the layer between those."""
        known = {each: self._measured[f"{group.layer.name} {kind} {each}"] for each in measured_bits(bits)}
        errors = {each: self._error(group.layer, kind, each) for each in {*bits} if each is not None}
        points = sorted({(0.0, 0.0), *((errors[each], damage) for each, damage in known.items())})
        xs, ys = np.array([x for x, _ in points]), np.maximum.accumulate([y for _, y in points])
        return np.array([0.0 if each is None else float(np.interp(errors[each], xs, ys)) for each in bits])

    def _error(self, layer: BitLayer, kind: str, bits: int) -> float:
        if kind == "input":
            return self.facts.activation_error(layer.name, bits)
        whole, rounded = self.weights.whole(layer.name).weight, self.weights.rounded(layer.name, bits)
        return self.facts.weight_error(layer, whole, rounded)

    @cached_property
    def singles(self) -> dict[str, tuple[BitLayer, str, int]]:
        """The changes that are measured, by their names."""
        found = {}
        for group in self.groups:
            kinds = {
                "weight": [format.weight_bits for format in group.formats],
                "input": [format.activation_bits for format in group.formats],
            }
            for kind, bits in kinds.items():
                for each in measured_bits(bits):
                    found[f"{group.layer.name} {kind} {each}"] = (group.layer, kind, each)
        return found

    @cached_property
    def _measured(self) -> dict[str, float]:
        n_images = sum(len(labels) for _, labels in self.choosing)
        sums = dict.fromkeys(self.singles, 0.0)
        doing = f"trying {counted(len(sums), 'format')}, one at a time, on {counted(n_images, 'image')}"
        with self.watch(doing, len(self.choosing) * len(sums), "format") as bar:
            for number, (images, _) in enumerate(self.choosing):
                key = f"damage {number}"
                line = self.record.get(key)
                if line is None or not self.singles.keys() <= (line.get("damages") or {}).keys():
                    line = self.record.put(key, damages=self._batch(images, bar))
                for name in sums:
                    sums[name] += line["damages"][name]
        return {name: max(0.0, value) / n_images for name, value in sums.items()}

    @torch.no_grad()
    def _batch(self, images: Tensor, bar: Progress) -> dict[str, float]:
        """The sum of divergences over a batch, with each change: layers in front of it run once for all."""
        net = self.float_net
        layers = layers_of(net)
        inputs = [images.to(self.device)]
        for layer in layers:
            inputs.append(layer(inputs[-1]))
        target = F.log_softmax(inputs[-1].float(), 1)
        found = {}
        for name, (bit_layer, kind, bits) in watched(self.singles.items(), bar):
            first = self._place(bit_layer)
            with self._changed(net, bit_layer, kind, bits):
                x = inputs[first]
                for layer in layers[first:]:
                    x = layer(x)
            logits = F.log_softmax(x.float(), 1)
            found[name] = F.kl_div(logits, target, reduction="sum", log_target=True).item()
        return found

    def _place(self, layer: BitLayer) -> int:
        """Of layers_of the network, the one that it is in."""
        name = layer.call.name
        if name.startswith("blocks."):
            return 1 + int(name.removeprefix("blocks."))
        return 0 if name == "first_conv" else 1 + len(self.spec.blocks)

    @contextmanager
    def _changed(self, net: ProxylessNet, layer: BitLayer, kind: str, bits: int) -> Iterator[None]:
        """``net`` with one layer's weights or input in other bits."""
        if kind == "input":
            given, module = self.ranges[layer.name, bits], net.get_submodule(layer.input_place)
            set_quantizer(module, InputQuantizer(bits, given.clip, given.signed))
            yield
            detach(module)
            return
        made = self.weights.layer(layer.name, bits)
        assign(net, made)
        yield
        assign(net, {name: self.tensors[name] for name in made})


def measured_bits(bits: Sequence[int | None]) -> list[int]:
    """Which of a layer's numbers of bits are measured: the fewest, and one above, where there are many."""
    several = sorted({each for each in bits if each is not None})
    step = STRIDE if len(several) > MEASURED else 1
    return several[: step * MEASURED : step]


# ------------------------------------------------------------------------------------------------- bias correction


def _outputs(net: ProxylessNet) -> dict[str, nn.Module]:
    """By the name of its bias: what puts out the values in front of each activation."""
    found: dict[str, nn.Module] = {}
    for name, module in net.named_modules():
        if isinstance(module, nn.BatchNorm2d | nn.Linear):
            found[f"{name}.bias"] = module
    return found


def _channel_means(x: Tensor) -> Tensor:
    return x.mean([0, *range(2, x.ndim)])


@torch.no_grad()
def means_of(net: ProxylessNet, images: Tensor) -> dict[str, Tensor]:
    """The mean of each channel of every layer's output."""
    found: dict[str, Tensor] = {}

    def look(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            found[name] = _channel_means(output)

        return hook

    hooks = [module.register_forward_hook(look(name)) for name, module in _outputs(net).items()]
    net(images)
    for hook in hooks:
        hook.remove()
    return found


@torch.no_grad()
def correct_biases(
    net: ProxylessNet, means: Sequence[dict[str, Tensor]], batches: Images, device: torch.device
) -> dict[str, np.ndarray]:
    """Move the biases of a quantized network so that each channel has the mean that it had in float.

    What rounding does to weights is no noise to the layer behind: it moves the mean of a channel (Nagel et al. 2019,
    "Data-free quantization through weight equalization and bias correction", section 4.2). In network order, so that a
    layer sees inputs that are corrected already. Returns by how much each bias was moved.
    """
    outputs = _outputs(net)
    total: dict[str, Tensor] = {}
    wanted: dict[str, Tensor] = {}

    def look(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            shift = wanted[name] - _channel_means(output)
            total[name] = total[name] + shift if name in total else shift
            return output + shift.view(1, -1, *[1] * (output.ndim - 2))

        return hook

    hooks = [module.register_forward_hook(look(name)) for name, module in outputs.items()]
    for (images, _), target in zip(batches, means, strict=True):
        wanted.update(target)
        net(images.to(device))
    for hook in hooks:
        hook.remove()
    shifts = {name: (value / len(batches)).cpu().numpy() for name, value in total.items()}
    for name, module in outputs.items():
        module.bias += torch.from_numpy(shifts[name]).to(device)  # type: ignore[operator, arg-type]
    return shifts
