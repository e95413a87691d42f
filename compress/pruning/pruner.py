"""From a trained network to the weights of a smaller one: the channels that matter, the rest made up for.

``Statistics`` are what one pass over some images leaves (statistics.py makes them with torch); everything behind it is
numpy in closed form, so that a plan becomes a network in milliseconds and no layer is trained.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from compress.pruning.reconstruct import Covariance, best_ridge, by_size, error, fit, importance, ridge_of
from proxyless_arch.arch.ops import Shrinkable
from proxyless_arch.arch.shrink import FEATURE_MIX, LAST_STAGE, STEM, Shrunk, block_name, shrink, widths_of
from proxyless_arch.arch.spec import ArchSpec
from proxyless_arch.arch.walk import walk
from proxyless_arch.weights.files import NamedTensors
from proxyless_arch.weights.slicing import sliced


@dataclass(frozen=True)
class Site:
    """Features and the layer behind them. ``weight``: its tensor, (outputs, features, ...); ``mean``: the running mean
    or the bias that takes up a shift of its output, and the sign with which it does. ``maker``: the layer of the block
    that makes the features, None where there is no block."""

    name: str
    weight: str
    mean: str
    sign: float
    block: int | None
    maker: str | None = None


def sites_of(spec: ArchSpec) -> dict[str, Site]:
    """The layers behind the widths, by the widths' names, and behind each block whose kernel alone may change."""
    prefixes = {call.name: call.tensor_prefix for call in walk(spec)}

    def behind_block(name: str, index: int, parts: Shrinkable) -> Site:
        prefix = prefixes[block_name(index)]
        layer, maker = f"{prefix}.{parts.layer_behind}", f"{prefix}.{parts.hidden_layer}"
        return Site(name, f"{layer}.conv.weight", f"{layer}.bn.running_mean", -1.0, index, maker)

    found: dict[str, Site] = {}
    full = widths_of(spec)
    for index, block in enumerate(spec.blocks):
        if block.op.shrinkable is not None:
            name = STEM if index == 0 and STEM in full else block_name(index)
            found[name] = behind_block(name, index, block.op.shrinkable)
    if LAST_STAGE in full:
        found[LAST_STAGE] = Site(LAST_STAGE, f"{FEATURE_MIX}.conv.weight", f"{FEATURE_MIX}.bn.running_mean", -1.0, None)
    if FEATURE_MIX in full:
        found[FEATURE_MIX] = Site(FEATURE_MIX, "classifier.linear.weight", "classifier.linear.bias", 1.0, None)
    return found


@dataclass(frozen=True)
class Statistics:
    """Of the features in front of each site, from calibration images.

    ``covariances[name]``: of all images; ``halves``: of each half. ``cropped[name, kernel]``: with that smaller kernel
    in the block; ``kernel_bn``: the mean and variance in front of the BN behind the smaller kernel. ``n_images``.
    """

    n_images: int
    covariances: Mapping[str, Covariance]
    halves: Mapping[str, tuple[Covariance, Covariance]]
    cropped: Mapping[tuple[str, int], Covariance] = field(default_factory=dict)
    kernel_bn: Mapping[tuple[str, int], tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)


@dataclass(frozen=True)
class Pruner:
    """A trained network and how it becomes smaller.

    ``reconstructs``: whether the layer behind makes up for the channels left out. ``by_size``: channels are chosen by
    the size of their weights, as AMC does, and not by the error that leaving them out makes.
    """

    spec: ArchSpec
    tensors: NamedTensors
    statistics: Statistics
    reconstructs: bool = True
    by_size: bool = False
    _orders: dict[str, np.ndarray] = field(default_factory=dict, init=False, repr=False, compare=False)

    @cached_property
    def sites(self) -> dict[str, Site]:
        return sites_of(self.spec)

    def old(self, name: str) -> np.ndarray:
        """W0 of a site, (features, outputs), float64."""
        weight = self.tensors[self.sites[name].weight].astype(np.float64)
        return weight.reshape(len(weight), -1).T

    @cached_property
    def ridges(self) -> dict[str, float]:
        """By site, as shares."""
        return {name: best_ridge(*self.statistics.halves[name], self.old(name)) for name in self.sites}

    def order(self, name: str) -> np.ndarray:
        """The channels of a width, the most important first. Of 1,280 channels it takes seconds, once."""
        if name not in self._orders:
            self._orders[name] = self._ordered(name)
        return self._orders[name]

    def _ordered(self, name: str) -> np.ndarray:
        if self.by_size:
            return by_size(self.old(name))
        spread = self.statistics.covariances[name].spread
        return importance(spread, self.old(name), ridge_of(spread, self.ridges[name]))

    def kept(self, name: str, width: int) -> np.ndarray:
        """The channels that a width keeps, in their own order."""
        return np.sort(self.order(name)[:width])

    def _covariance(self, name: str, kernel: int | None) -> Covariance:
        return self.statistics.covariances[name] if kernel is None else self.statistics.cropped[name, kernel]

    def layer_error(self, name: str, width: int | None, kernel: int | None = None, *, sliced: bool = False) -> float:
        """What the output of the layer behind is off by, as a share of its variance.

        ``sliced``: with its old weights, in place of those fitted anew.
        """
        cov, old = self._covariance(name, kernel), self.old(name)
        kept = np.arange(len(old)) if width is None else self.kept(name, width)
        ridge = ridge_of(cov.spread, self.ridges[name])
        weights = old[kept] if sliced else fit(cov, old, kept, ridge).weights
        return error(cov, self.statistics.covariances[name].spread, old, kept, weights)

    def pruned(self, change: Shrunk) -> tuple[ArchSpec, NamedTensors]:
        """The smaller network with its weights. BN statistics are still those of the large one, but where a fit moved a
        mean: recalibrate them."""
        change = self._without_idle(change)
        small = shrink(self.spec, change)
        tensors = dict(sliced(self.tensors, self.spec, change, {n: self.kept(n, w) for n, w in change.widths.items()}))
        for index, size in change.kernels.items():
            self._set_kernel_bn(tensors, change, index, size)
        if self.reconstructs:
            for name, site in self.sites.items():
                self._reconstruct(tensors, change, name, site)
        return small, tensors

    def _without_idle(self, change: Shrunk) -> Shrunk:
        """Without what is as it was, and without what is inside a block that is left out."""
        full = widths_of(self.spec)
        gone = {block_name(index) for index in change.left_out}
        widths = {n: w for n, w in change.widths.items() if w != full[n] and n not in gone}
        kernels = {
            index: size
            for index, size in change.kernels.items()
            if index not in change.left_out and size != self.spec.blocks[index].op.shrinkable.kernel_size  # type: ignore[union-attr]
        }
        return Shrunk(widths, kernels, change.left_out)

    def _site_of_block(self, index: int) -> str:
        return next(name for name, site in self.sites.items() if site.block == index)

    def _set_kernel_bn(self, tensors: NamedTensors, change: Shrunk, index: int, size: int) -> None:
        name = self._site_of_block(index)
        mean, variance = self.statistics.kernel_bn[name, size]
        kept = self.kept(name, change.widths[name]) if name in change.widths else np.arange(len(mean))
        maker = self.sites[name].maker
        tensors[f"{maker}.bn.running_mean"] = mean[kept].astype(np.float32)
        tensors[f"{maker}.bn.running_var"] = variance[kept].astype(np.float32)

    def _reconstruct(self, tensors: NamedTensors, change: Shrunk, name: str, site: Site) -> None:
        """Fit the layer behind ``site`` anew where its features are fewer or others."""
        kernel = change.kernels.get(site.block) if site.block is not None else None
        if site.weight not in tensors or (name not in change.widths and kernel is None):
            return
        cov, old = self._covariance(name, kernel), self.old(name)
        kept = self.kept(name, change.widths[name]) if name in change.widths else np.arange(len(old))
        found = fit(cov, old, kept, ridge_of(cov.spread, self.ridges[name]))
        weights, shift = found.weights.T, found.shift
        is_last = site.block == len(self.spec.blocks) - 1 and LAST_STAGE in change.widths
        into_mix = name == LAST_STAGE and FEATURE_MIX in change.widths
        rows = LAST_STAGE if is_last else FEATURE_MIX if into_mix else None
        if rows is not None:
            out = self.kept(rows, change.widths[rows])
            weights, shift = weights[out], shift[out]
        shape = tensors[site.weight].shape
        tensors[site.weight] = weights.reshape(shape).astype(np.float32)
        tensors[site.mean] = (tensors[site.mean] + site.sign * shift).astype(np.float32)
