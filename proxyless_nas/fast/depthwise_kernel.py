"""The weight gradient of a depthwise convolution on a CPU, compiled when it is first needed (extra ``[fast]``).

For a kernel of K x K taps at stride s, over images n and output pixels (y, x) of each channel c:

    dL/dw[c, i, j] = sum_{n, y, x} input[n, c, s y + i - p, s x + j - p] * dL/dout[n, c, y, x]

Channels lie side by side in memory (channels_last), so a vector register holds one tap of as many channels as it has
lanes. The taps of some kernel rows stay in registers while the pixels of an image pass; an image's channels are first
gathered, with their padding and as float32, in a scratch plane small enough for the cache. Each sum is formed in one
order whatever the number of threads, lanes or registers, and is flushed every few rows, which keeps it as exact as
torch's.
"""

from __future__ import annotations

import functools
import itertools
from typing import Any

import torch
from torch import Tensor

from proxyless_nas.fast.compiler import Kernel, Program, Registers, registers
from proxyless_nas.side_by_side import each

ROWS_PER_FLUSH = 8
"""Output rows whose products are added up in registers before they join the sum of the image's others."""
ALIGNMENT = 64
"""Bytes: of the longest vector."""


def weight_gradient(
    x: Tensor, grad: Tensor, kernel_size: int, stride: int, pads: tuple[int, int], threads: int = 1
) -> Tensor:
    """dL/dw of a depthwise convolution, (C, 1, K, K) float32.

    Args:
        x: its input, (N, C, H, W) in channels_last memory, float32 or bfloat16, at least as many channels as lanes.
        grad: dL/dout, (N, C, H', W') in the same memory and type.
        kernel_size: K.
        stride: of both directions.
        pads: rows above and columns to the left of the input that are padded with zeros.
        threads: share the channels; the result is the same bits for any number of them.
    """
    machine = registers()
    assert machine is not None
    n, channels, height, width = x.shape
    out_height, out_width = grad.shape[2:]
    compiled = _compiled(kernel_size, stride, x.dtype == torch.bfloat16)
    sums = torch.empty((kernel_size**2, channels))
    blocks = -(-channels // machine.lanes)

    def work(run: tuple[int, int]) -> None:
        scratch = _scratch(out_height, out_width, kernel_size, stride, machine.lanes)
        sizes = (n, height, width, out_height, out_width, channels, *run, *pads)
        compiled(x.data_ptr(), grad.data_ptr(), sums.data_ptr(), scratch.data_ptr(), *sizes)

    edges = [blocks * number // threads for number in range(threads + 1)]
    each(work, itertools.pairwise(edges), threads)
    return sums.t().reshape(channels, 1, kernel_size, kernel_size)


def _scratch(out_height: int, out_width: int, kernel_size: int, stride: int, lanes: int) -> Tensor:
    """Zeros for the padded input and the gradient of one image's ``lanes`` channels, aligned."""
    padded = ((out_height - 1) * stride + kernel_size) * ((out_width - 1) * stride + kernel_size)
    return aligned_zeros((padded + out_height * out_width) * lanes)


def aligned_zeros(count: int) -> Tensor:
    """(count,) float32, whose first lies where the longest vector may."""
    room = torch.zeros(count + ALIGNMENT // 4)
    start = -room.data_ptr() % ALIGNMENT // 4
    return room[start : start + count]


@functools.cache
def _compiled(kernel_size: int, stride: int, is_bf16: bool) -> Kernel:
    machine = registers()
    assert machine is not None
    return _WeightGradient(kernel_size, stride, is_bf16, machine).compiled()


class _WeightGradient(Program):
    """Its arguments: input, gradient, sums (K*K, C) and scratch; then N, H, W, H', W', C, the first block of channels,
    the one behind the last, and the padding above and to the left. The last block of all ends with the last channel and
    may share some with the one before.
    """

    def __init__(self, kernel_size: int, stride: int, is_bf16: bool, machine: Registers) -> None:
        super().__init__("depthwise_weight_gradient", machine.lanes, is_bf16, pointers=4, numbers=10)
        self.kernel_size, self.stride = kernel_size, stride
        # beside the sums, registers for the gradient and for the next input
        self.rows_at_once = max(1, min(kernel_size, (machine.count - 3) // kernel_size))
        self._write(*self.arguments)

    def _write(
        self, x: Any, grad: Any, sums: Any, plane: Any, n: Any, h: Any, w: Any, out_h: Any, out_w: Any, c: Any,
        first: Any, past: Any, top: Any, left: Any,
    ) -> None:  # fmt: skip
        code, taps = self.code, range(self.kernel_size**2)
        high, wide = self._spanned(out_h), self._spanned(out_w)
        pixels = code.mul(out_h, out_w)
        grad_plane = self._pixel(plane, code.mul(high, wide))
        rows, columns = self.least(h, code.sub(high, top)), self.least(w, code.sub(wide, left))
        totals = [code.alloca(self.vector) for _ in taps]
        parts = [code.alloca(self.vector) for _ in taps]
        with self.counted(first, past) as block:
            channel = self.least(code.mul(block, self.int(self.lanes)), code.sub(c, self.int(self.lanes)))
            self.clear(totals)
            with self.counted(self.int(0), n) as image:
                with self.counted(self.int(0), rows) as y:
                    source = code.mul(code.add(code.mul(image, h), y), w)
                    to = code.add(code.mul(code.add(y, top), wide), left)
                    self._gather(x, source, c, channel, plane, to, columns)
                self._gather(grad, code.mul(image, pixels), c, channel, grad_plane, self.int(0), pixels)
                for start in range(0, self.kernel_size, self.rows_at_once):
                    tap_rows = range(start, min(self.kernel_size, start + self.rows_at_once))
                    self._add_up(tap_rows, plane, grad_plane, wide, out_h, out_w, totals, parts)
            for tap, total in enumerate(totals):
                place = code.add(code.mul(self.int(tap), c), channel)
                code.store(self.load(total), code.gep(sums, [place], source_etype=self.float), align=4)

    def _add_up(
        self, tap_rows: range, plane: Any, grad_plane: Any, wide: Any, out_h: Any, out_w: Any,
        totals: list[Any], parts: list[Any],
    ) -> None:  # fmt: skip
        """Add one image's products at the taps of some kernel rows to ``totals``."""
        code, size, stride = self.code, self.kernel_size, self.int(self.stride)
        own = [row * size + column for row in tap_rows for column in range(size)]
        flush = self.int(ROWS_PER_FLUSH)
        n_flushes = code.udiv(code.add(out_h, self.int(ROWS_PER_FLUSH - 1)), flush)
        with self.counted(self.int(0), n_flushes) as number:
            start = code.mul(number, flush)
            self.clear([parts[tap] for tap in own])
            with self.counted(start, self.least(out_h, code.add(start, flush))) as y:
                grads, inputs = code.mul(y, out_w), code.mul(code.mul(y, stride), wide)
                with self.counted(self.int(0), out_w) as column:
                    grad = self.load(self._pixel(grad_plane, code.add(grads, column)))
                    corner = code.add(inputs, code.mul(column, stride))
                    for tap in own:
                        row, across = divmod(tap, size)
                        moved = code.add(code.add(corner, code.mul(self.int(row), wide)), self.int(across))
                        value = self.load(self._pixel(plane, moved))
                        code.store(self.fma(value, grad, self.load(parts[tap])), parts[tap])
            for tap in own:
                code.store(code.fadd(self.load(totals[tap]), self.load(parts[tap])), totals[tap])

    def _gather(self, source: Any, at: Any, channels: Any, channel: Any, plane: Any, to: Any, count: Any) -> None:
        """Some channels of ``count`` pixels of an image, from pixel ``at``, as float32 into a plane, from ``to``."""
        code = self.code
        with self.counted(self.int(0), count) as number:
            value = self.taken(source, code.add(code.mul(code.add(at, number), channels), channel))
            code.store(value, self._pixel(plane, code.add(to, number)), align=4 * self.lanes)

    def _spanned(self, count: Any) -> Any:
        """Padded input pixels in a line under ``count`` output pixels."""
        steps = self.code.mul(self.code.sub(count, self.int(1)), self.int(self.stride))
        return self.code.add(steps, self.int(self.kernel_size))

    def _pixel(self, plane: Any, number: Any) -> Any:
        """The place of a pixel in a plane."""
        return self.code.gep(plane, [self.code.mul(number, self.int(self.lanes))], source_etype=self.float)
