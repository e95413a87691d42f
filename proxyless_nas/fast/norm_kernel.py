"""Batch normalization with an activation behind it, and its gradient, in two passes each over channels_last memory.

Of the M pixels of a batch, each with C channels side by side, a channel has mean m, variance v and

    y = clamp(a x + b, low, high),  a = weight / sqrt(v + eps),  b = bias - a m.

With g = dL/dy where a x + b lies between low and high, and 0 elsewhere:

    dL/dbias = sum g,  dL/dweight = sum g (x - m) / sqrt(v + eps)
    dL/dx = a (g - mean g - (x - m) mean(g (x - m)) / (v + eps))

torch passes over them seven times, and keeps what is in front of the activation for its gradient; here x alone is kept.
Sums are of x minus the mean of the first rows, so that nothing cancels; each is formed in one order whatever the number
of threads or lanes, and added up tile by tile.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from proxyless_nas.fast.compiler import Kernel, Program, registers
from proxyless_nas.side_by_side import each

ROWS = 64
"""Pixels of a tile: those of a few hundred channels stay in the nearest cache."""
CHAINS = 4
"""Sums of a channel that are formed at a time, since each addition waits for the one before."""
MEAN, VARIANCE, SCALE, SHIFT = range(4)
"""The rows of what is known of each channel, (4, C) float32."""
FACTOR, SUMMAND = 2, 3
"""The rows of sums: what x - m is multiplied by in dL/dx, and what is added."""
WORTH_SHARING = 1_000_000
"""Numbers below which one thread computes: waking another takes as long."""
Range = tuple[float, float]


@functools.cache
def lanes_of(channels: int) -> int | None:
    """How many channels a vector has: none is left over. None where nothing is compiled for so many."""
    machine = registers()
    fitting = (lanes for lanes in (16, 8, 4) if machine is not None and lanes <= machine.lanes)
    return next((lanes for lanes in fitting if channels % lanes == 0), None)


def statistics(x: Tensor, weight: Tensor, bias: Tensor, eps: float, threads: int = 1) -> Tensor:
    """(4, C) float32: mean, variance (the sum over M), and the factor a and the summand b of each channel.

    ``x``: (N, C, H, W) in channels_last memory, float32 or bfloat16; ``threads`` share its channels.
    """
    channels = x.shape[1]
    known = torch.empty(4, channels)
    run = _kernel("statistics", channels, x)
    places = x.data_ptr(), weight.data_ptr(), bias.data_ptr(), known.data_ptr()

    def work(blocks: tuple[int, int]) -> None:
        run(*places, x.numel() // channels, channels, *blocks, eps)

    _shared(work, channels // lanes(channels), threads)
    return known


def normalized(x: Tensor, known: Tensor, limits: Range, threads: int = 1, out: Tensor | None = None) -> Tensor:
    """clamp(a x + b), into ``out``, which may be ``x``."""
    channels = x.shape[1]
    out = torch.empty_like(x) if out is None else out
    run = _kernel("normalized", channels, x)
    places = x.data_ptr(), out.data_ptr(), known.data_ptr()
    _shared(lambda rows: run(*places, channels, *rows, *limits), x.numel() // channels, threads)
    return out


def gradients(
    x: Tensor, grad: Tensor, known: Tensor, eps: float, limits: Range, threads: int = 1
) -> tuple[Tensor, Tensor, Tensor]:
    """(dL/dx, dL/dweight, dL/dbias); ``grad``: dL/dy in the memory and the type of ``x``, which becomes dL/dx."""
    channels = x.shape[1]
    found = sums(x, grad, known, eps, limits, threads)
    put_together, places = _kernel("gradient", channels, x), [one.data_ptr() for one in (x, grad, known, found)]
    _shared(lambda rows: put_together(*places, channels, *rows, *limits), x.numel() // channels, threads)
    return x, found[0], found[1]


def sums(x: Tensor, grad: Tensor, known: Tensor, eps: float, limits: Range, threads: int = 1) -> Tensor:
    """(4, C) float32: dL/dweight, dL/dbias, FACTOR and SUMMAND; as gradients, but ``x`` stays."""
    channels = x.shape[1]
    found = torch.empty(4, channels)
    add_up, places = _kernel("sums", channels, x), [one.data_ptr() for one in (x, grad, known, found)]

    def work(blocks: tuple[int, int]) -> None:
        add_up(*places, x.numel() // channels, channels, *blocks, eps, *limits)

    _shared(work, channels // lanes(channels), threads)
    return found


def lanes(channels: int) -> int:
    found = lanes_of(channels)
    assert found is not None
    return found


def _shared(work: Callable[[tuple[int, int]], None], count: int, threads: int) -> None:
    """``work`` on the numbers from 0 to ``count``, a run of them for each thread."""
    if threads == 1:
        work((0, count))
        return
    threads = min(threads, count)
    each(work, itertools.pairwise([count * number // threads for number in range(threads + 1)]), threads)


def _kernel(name: str, channels: int, x: Tensor) -> Kernel:
    return _compiled(name, lanes(channels), x.dtype == torch.bfloat16)


@functools.cache
def _compiled(name: str, lanes: int, is_bf16: bool) -> Kernel:
    kinds = {"statistics": _Statistics, "normalized": _Normalized, "sums": _Sums, "gradient": _Gradient}
    return kinds[name](lanes, is_bf16).compiled()


class Tiled(Program):
    """Passes over a matrix of pixels and channels."""

    @contextlib.contextmanager
    def tiles(self, rows: tuple[Any, Any], blocks: tuple[Any, Any]) -> Iterator[tuple[Any, Any, Any]]:
        """(first row, row behind the last, first channel) of each block of channels of each tile of rows."""
        code = self.code
        with self.counted(rows[0], rows[1], ROWS) as start:
            past = self.least(rows[1], code.add(start, self.int(ROWS)))
            with self.counted(*blocks) as block:
                yield start, past, code.mul(block, self.int(self.lanes))

    def added_up(self, rows: tuple[Any, Any], terms: Callable[[Any], list[Any]], count: int) -> list[Any]:
        """The sums over some rows of the ``count`` terms that ``terms`` gives, row by row, in CHAINS."""
        code = self.code
        chains = [[code.alloca(self.vector) for _ in range(count)] for _ in range(CHAINS)]
        for chain in chains:
            self.clear(chain)
        start, past = rows
        whole = code.sub(past, code.srem(code.sub(past, start), self.int(CHAINS)))

        def add(row: Any, chain: list[Any]) -> None:
            for place, term in zip(chain, terms(row), strict=True):
                code.store(code.fadd(self.load(place), term), place)

        with self.counted(start, whole, CHAINS) as row:
            for number, chain in enumerate(chains):
                add(code.add(row, self.int(number)), chain)
        with self.counted(whole, past) as row:
            add(row, chains[0])
        one, two, three, four = ([self.load(place) for place in chain] for chain in chains)
        return [code.fadd(code.fadd(a, b), code.fadd(c, d)) for a, b, c, d in zip(one, two, three, four, strict=True)]

    def row_of(self, table: Any, row: int, channels: Any, channel: Any) -> Any:
        """Where a channel's number of one row of (4, C) lies."""
        return self.at(table, self.code.add(self.code.mul(self.int(row), channels), channel))

    def add_to(self, place: Any, value: Any) -> None:
        self.code.store(self.code.fadd(self.load(place, 4), value), place, align=4)

    def between(self, value: Any, low: Any, high: Any) -> Any:
        """clamp(value); what is no number stays none."""
        code = self.code
        raised = code.select(code.fcmp_ordered("<", value, low), low, value)
        return code.select(code.fcmp_ordered(">", raised, high), high, raised)

    def passed(self, grad: Any, value: Any, low: Any, high: Any) -> Any:
        """``grad`` where an activation lets it through, else 0."""
        code = self.code
        stopped = code.or_(code.fcmp_ordered("<=", value, low), code.fcmp_ordered(">=", value, high))
        return code.select(stopped, self.everywhere(0.0), grad)

    def returned(self, value: Any, grad: Any, table: Sequence[Any], limits: tuple[Any, Any]) -> Any:
        """dL/dx of x and dL/dy; ``table``: MEAN, SCALE, SHIFT, FACTOR and SUMMAND of their channels."""
        mean, scale, shift, factor, summand = table
        passed = self.passed(grad, self.fma(value, scale, shift), *limits)
        return self.fma(passed, scale, self.fma(self.code.fsub(value, mean), factor, summand))

    def share_of(self, rows: Any) -> Any:
        """1 / rows, as a vector."""
        code = self.code
        return self.spread(code.fdiv(self.float(1.0), code.sitofp(rows, self.float)))

    def finish(
        self,
        sums: Sequence[Any],
        known: Any,
        weight: Any,
        bias: Any,
        n_rows: Any,
        channels: Any,
        channel: Any,
        eps: Any,
    ) -> None:
        """Write what is known of some channels. ``sums``: the number that these are about, of x and of its square."""
        code, share = self.code, self.share_of(n_rows)
        about, total, squares = sums
        moved = code.fmul(total, share)
        mean = code.fadd(about, moved)
        variance = code.fsub(code.fmul(squares, share), code.fmul(moved, moved))
        zero = self.everywhere(0.0)
        variance = code.select(code.fcmp_ordered("<", variance, zero), zero, variance)
        spread = self.root(code.fadd(variance, self.spread(eps)))
        scale = code.fdiv(self.load(self.at(weight, channel), 4), spread)
        shift = code.fsub(self.load(self.at(bias, channel), 4), code.fmul(mean, scale))
        for number, found in enumerate((mean, variance, scale, shift)):
            code.store(found, self.row_of(known, number, channels, channel), align=4)


class _Statistics(Tiled):
    """Its arguments: x, weight, bias, known; M, C, the first block of channels, the one behind the last; eps."""

    def __init__(self, lanes: int, is_bf16: bool) -> None:
        super().__init__("statistics", lanes, is_bf16, pointers=4, numbers=4, floats=1)
        x, weight, bias, known, n_rows, channels, *blocks, eps = self.arguments
        code, lane = self.code, self.int(lanes)

        def value(row: Any, channel: Any) -> Any:
            return self.taken(x, code.add(code.mul(row, channels), channel))

        head = self.least(n_rows, self.int(ROWS))
        with self.counted(*blocks) as block:
            channel = code.mul(block, lane)
            (total,) = self.added_up((self.int(0), head), lambda row: [value(row, channel)], 1)
            code.store(code.fmul(total, self.share_of(head)), self.row_of(known, MEAN, channels, channel), align=4)
            self.clear_rows(known, channels, channel)
        with self.tiles((self.int(0), n_rows), tuple(blocks)) as (start, past, channel):
            about = self.load(self.row_of(known, MEAN, channels, channel), 4)

            def terms(row: Any) -> list[Any]:
                apart = code.fsub(value(row, channel), about)
                return [apart, code.fmul(apart, apart)]

            found = self.added_up((start, past), terms, 2)
            for number, total in enumerate(found, 1):
                self.add_to(self.row_of(known, number, channels, channel), total)
        with self.counted(*blocks) as block:
            channel = code.mul(block, lane)
            sums = [self.load(self.row_of(known, number, channels, channel), 4) for number in range(3)]
            self.finish(sums, known, weight, bias, n_rows, channels, channel, eps)

    def clear_rows(self, known: Any, channels: Any, channel: Any) -> None:
        for number in (1, 2):
            self.code.store(self.everywhere(0.0), self.row_of(known, number, channels, channel), align=4)


class _Normalized(Tiled):
    """Its arguments: x, y, known; C, the first row, the one behind the last; low, high."""

    def __init__(self, lanes: int, is_bf16: bool) -> None:
        super().__init__("normalized", lanes, is_bf16, pointers=3, numbers=3, floats=2, apart=False)
        x, y, known, channels, *rows, low, high = self.arguments
        code, low, high = self.code, self.spread(low), self.spread(high)
        blocks = self.int(0), code.sdiv(channels, self.int(lanes))
        with self.tiles(tuple(rows), blocks) as (start, past, channel):
            scale, shift = (self.load(self.row_of(known, row, channels, channel), 4) for row in (SCALE, SHIFT))
            with self.counted(start, past) as row:
                place = code.add(code.mul(row, channels), channel)
                value = self.fma(self.taken(x, place), scale, shift)
                self.put(self.between(value, low, high), y, place)


class _Sums(Tiled):
    """Its arguments: x, dL/dy, known, sums; M, C, the first block of channels, the one behind the last; eps, low, high.

    The rows of ``sums``: dL/dweight, dL/dbias, and the factors of x - m and the summand of dL/dx.
    """

    def __init__(self, lanes: int, is_bf16: bool) -> None:
        super().__init__("sums", lanes, is_bf16, pointers=4, numbers=4, floats=3)
        x, grad, known, sums, n_rows, channels, *blocks, eps, low, high = self.arguments
        code, low, high = self.code, self.spread(low), self.spread(high)
        with self.counted(*blocks) as block:
            for row in range(2):
                place = self.row_of(sums, row, channels, code.mul(block, self.int(lanes)))
                code.store(self.everywhere(0.0), place, align=4)
        with self.tiles((self.int(0), n_rows), tuple(blocks)) as (start, past, channel):
            mean, scale, shift = (
                self.load(self.row_of(known, row, channels, channel), 4) for row in (MEAN, SCALE, SHIFT)
            )

            def terms(row: Any) -> list[Any]:
                place = code.add(code.mul(row, channels), channel)
                value = self.taken(x, place)
                passed = self.passed(self.taken(grad, place), self.fma(value, scale, shift), low, high)
                return [code.fmul(passed, code.fsub(value, mean)), passed]

            for row, total in enumerate(self.added_up((start, past), terms, 2)):
                self.add_to(self.row_of(sums, row, channels, channel), total)
        with self.counted(*blocks) as block:
            self._finish(code.mul(block, self.int(lanes)), known, sums, n_rows, channels, eps)

    def _finish(self, channel: Any, known: Any, sums: Any, n_rows: Any, channels: Any, eps: Any) -> None:
        code, share = self.code, self.share_of(n_rows)
        variance, scale = (self.load(self.row_of(known, row, channels, channel), 4) for row in (VARIANCE, SCALE))
        places = [self.row_of(sums, row, channels, channel) for row in range(4)]
        of_spread, of_bias = (self.load(place, 4) for place in places[:2])
        squared = code.fadd(variance, self.spread(eps))
        of_weight = code.fdiv(of_spread, self.root(squared))
        factor = code.fneg(code.fmul(scale, code.fdiv(code.fmul(of_spread, share), squared)))
        summand = code.fneg(code.fmul(scale, code.fmul(of_bias, share)))
        for found, place in zip((of_weight, of_bias, factor, summand), places, strict=True):
            code.store(found, place, align=4)


class _Gradient(Tiled):
    """Its arguments: x, which becomes dL/dx, and dL/dy, known, sums; C, the first row, the one behind the last; the
    limits."""

    def __init__(self, lanes: int, is_bf16: bool) -> None:
        super().__init__("gradient", lanes, is_bf16, pointers=4, numbers=3, floats=2)
        x, grad, known, sums, channels, *rows, low, high = self.arguments
        code, low, high = self.code, self.spread(low), self.spread(high)
        blocks = self.int(0), code.sdiv(channels, self.int(lanes))
        with self.tiles(tuple(rows), blocks) as (start, past, channel):
            table = [self.load(self.row_of(known, row, channels, channel), 4) for row in (MEAN, SCALE, SHIFT)]
            table += [self.load(self.row_of(sums, row, channels, channel), 4) for row in (FACTOR, SUMMAND)]
            with self.counted(start, past) as row:
                place = code.add(code.mul(row, channels), channel)
                self.put(self.returned(self.taken(x, place), self.taken(grad, place), table, (low, high)), x, place)
