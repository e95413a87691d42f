"""What a candidate's output weighs in a gradient, without writing the output: its last layers in one pass.

Of d, P pixels with C channels each, in front of a normalization with activation and a 1x1 convolution to O channels,
whose normalization has no activation, and of g, the gradient at the output,

    h = clamp(a d + b, low, high),  y = W h,  <g, bn(y)> = sum over O of a' (sum g y - mean y sum g) + bias' sum g

with a' = weight' / sqrt(var y + eps). A few pixels at a time, neither h nor y leaves the nearest cache. Sums are of y
minus its mean over the first pixels, so that nothing cancels.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from proxyless_nas.fast.compiler import Kernel, registers
from proxyless_nas.fast.depthwise_kernel import aligned_zeros
from proxyless_nas.fast.norm_kernel import SCALE, SHIFT, Range, Tiled

PIXELS = 16
"""Of which h is made at a time."""
AT_ONCE = 8
"""Pixels whose outputs are formed at a time: as many as an addition waits for the one before, on two units."""
SUMS = 5
"""Vectors of some output channels: what y is compared to, and the sums of y, y y, g y and g."""


def takes(channels: int, outside: int) -> bool:
    """Whether our kernel is there for so many channels of d and of the output."""
    machine = registers()
    return machine is not None and min(channels, outside) >= machine.lanes


def product(
    d: Tensor, known: Tensor, limits: Range, last: Tensor, norm: tuple[Tensor, Tensor, float], grad: Tensor
) -> Tensor:
    """<g, bn(y)>, a float32 number.

    Args:
        d: (N, C, H, W) in channels_last memory, float32.
        known: of d, as norm_kernel.statistics gives it; ``limits``: of the activation.
        last: W, (O, C, 1, 1).
        norm: weight', bias' and eps of the normalization behind it.
        grad: g, (N, O, H, W) in channels_last memory.
    """
    machine = registers()
    assert machine is not None
    outside, channels = last.shape[:2]
    weight, parts = last.flatten(1).t().contiguous(), torch.empty(outside)
    blocks = -(-outside // machine.lanes)
    scratch = aligned_zeros((blocks * SUMS + PIXELS * -(-channels // machine.lanes)) * machine.lanes)
    given = (d, known, weight, *norm[:2], grad, parts, scratch)
    _compiled()(*[tensor.data_ptr() for tensor in given], d.numel() // channels, channels, outside, norm[2], *limits)
    return parts.sum()


@functools.cache
def _compiled() -> Kernel:
    machine = registers()
    assert machine is not None
    return _Product(machine.lanes).compiled()


class _Product(Tiled):
    """Its arguments: d, known, W' (C, O), weight' and bias', g, the parts of the product by channel, scratch; P, C, O;
    eps, the limits."""

    def __init__(self, lanes: int) -> None:
        super().__init__("product", lanes, False, pointers=8, numbers=3, floats=3)
        d, known, weight, gamma, beta, grad, parts, scratch, n_rows, channels, outside, eps, low, high = self.arguments
        code, lane = self.code, self.int(lanes)
        low, high = self.spread(low), self.spread(high)
        in_blocks, out_blocks = (code.sdiv(code.add(count, self.int(lanes - 1)), lane) for count in (channels, outside))
        tile = self.at(scratch, code.mul(out_blocks, self.int(SUMS * lanes)))
        with self.counted(self.int(0), n_rows, PIXELS) as start:
            count = self.least(self.int(PIXELS), code.sub(n_rows, start))
            with self.counted(self.int(0), in_blocks) as block:
                channel = self._first_of(block, channels)
                scale, shift = (self.load(self.row_of(known, row, channels, channel), 4) for row in (SCALE, SHIFT))
                with self.counted(self.int(0), count) as row:
                    place = code.add(code.mul(code.add(start, row), channels), channel)
                    value = self.fma(self.load(self.at(d, place), 4), scale, shift)
                    to = code.add(code.mul(row, channels), channel)
                    code.store(self.between(value, low, high), self.at(tile, to), align=4)
            whole = code.sub(count, code.srem(count, self.int(AT_ONCE)))
            with self.counted(self.int(0), out_blocks) as block:
                sums = self.at(scratch, code.mul(block, self.int(SUMS * lanes)))
                channel = self._first_of(block, outside)
                for at_once, first, past in ((AT_ONCE, self.int(0), whole), (1, whole, count)):
                    with self.counted(first, past, at_once) as row:
                        found = self._outputs(tile, row, at_once, weight, channels, outside, channel)
                        number = code.add(start, row)
                        self._add(found, number, grad, outside, channel, sums)
        with self.counted(self.int(0), out_blocks) as block:
            sums = self.at(scratch, code.mul(block, self.int(SUMS * lanes)))
            self._finish(sums, self._first_of(block, outside), gamma, beta, parts, n_rows, eps)

    def _first_of(self, block: Any, channels: Any) -> Any:
        """The first channel of a block; the last block ends with the last channel."""
        code, lane = self.code, self.int(self.lanes)
        return self.least(code.mul(block, lane), code.sub(channels, lane))

    def _outputs(
        self, tile: Any, row: Any, count: int, weight: Any, channels: Any, outside: Any, channel: Any
    ) -> list[Any]:
        """y of some rows of the tile, at some output channels."""
        code = self.code
        sums = [code.alloca(self.vector) for _ in range(count)]
        self.clear(sums)
        lines = [code.mul(code.add(row, self.int(number)), channels) for number in range(count)]
        with self.counted(self.int(0), channels) as inner:
            own = self.load(self.at(weight, code.add(code.mul(inner, outside), channel)), 4)
            for place, line in zip(sums, lines, strict=True):
                value = self.spread(code.load(self.at(tile, code.add(line, inner)), typ=self.float, align=4))
                code.store(self.fma(value, own, self.load(place)), place)
        return [self.load(place) for place in sums]

    def _add(self, found: list[Any], number: Any, grad: Any, outside: Any, channel: Any, sums: Any) -> None:
        """Rows of y, from ``number`` on, to the sums of their block."""
        code = self.code
        about_first, *totals = (self.at(sums, self.int(row * self.lanes)) for row in range(SUMS))
        with code.if_then(code.icmp_signed("==", number, self.int(0))):
            total = functools.reduce(code.fadd, found)
            code.store(code.fmul(total, self.everywhere(1 / len(found))), about_first)
        about = self.load(about_first)
        terms = []
        for more, value in enumerate(found):
            place = code.add(code.mul(code.add(number, self.int(more)), outside), channel)
            weighed, apart = self.load(self.at(grad, place), 4), code.fsub(value, about)
            terms.append((apart, code.fmul(apart, apart), code.fmul(weighed, apart), weighed))
        for place, own in zip(totals, zip(*terms, strict=True), strict=True):
            code.store(code.fadd(self.load(place), functools.reduce(code.fadd, own)), place)

    def _finish(self, sums: Any, channel: Any, gamma: Any, beta: Any, parts: Any, n_rows: Any, eps: Any) -> None:
        """The part of each channel of a block."""
        code, share = self.code, self.share_of(n_rows)
        _, total, squares, weighed, of_grad = (
            self.load(self.at(sums, self.int(row * self.lanes))) for row in range(SUMS)
        )
        mean, zero = code.fmul(total, share), self.everywhere(0.0)
        variance = code.fsub(code.fmul(squares, share), code.fmul(mean, mean))
        variance = code.select(code.fcmp_ordered("<", variance, zero), zero, variance)
        scale = code.fdiv(self.load(self.at(gamma, channel), 4), self.root(code.fadd(variance, self.spread(eps))))
        spread = code.fmul(scale, code.fsub(weighed, code.fmul(mean, of_grad)))
        part = self.fma(self.load(self.at(beta, channel), 4), of_grad, spread)
        code.store(part, self.at(parts, channel), align=4)
