"""A 1x1 convolution, its batch normalization and activation, and the depthwise convolution behind it, in one pass.

Of x, (N, I, H, W) in channels_last memory, the layers of an inverted bottleneck make

    z = W x,  y = clamp(a z + b, low, high),  d = depthwise(y)

y has several times as many channels as x, and is never written: for a few of its channels at a time, one vector
register, an image of it is made where it stays in the nearest cache, and again for the gradient. Its statistics need no
pass over it. With m and C the mean and the covariance of x over all pixels, which have few channels:

    mean z = W m,  var z = diag(W C W'),  a = weight / sqrt(var z + eps),  b = bias - a mean z

Of G = dL/dy where the activation lets it through, s = sum G and M = G'x over all pixels, of which there are P, the
gradients are, with q = sum G (z - mean z), whose parts are the sums over each row of (M - s m') W:

    dL/dbias = s,  dL/dweight = q / sqrt(var z + eps)
    dL/dW = a (M - s m' - q / (var z + eps) W C)
    dL/dx = G (a W) - s/P a W - (x - m) W' (a q / (P (var z + eps))) W

All sums are formed in one order whatever the number of threads, which share the channels.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from proxyless_nas.fast.compiler import Kernel, registers
from proxyless_nas.fast.depthwise_kernel import aligned_zeros
from proxyless_nas.fast.norm_kernel import FACTOR, MEAN, SCALE, SHIFT, SUMMAND, VARIANCE, Range, Tiled
from proxyless_nas.side_by_side import each

SUMS = 3
"""Of d, of some channels: what it is compared to, and the sums of it and of its square."""
TALL, WIDE = 2, 4
"""Pixels whose sums are formed at a time: as many as an addition waits for the one before, on two units."""


@dataclass(frozen=True)
class Moments:
    """Of x over all pixels of a batch: mean (I,) and covariance (I, I), the sum over P."""

    mean: Tensor
    covariance: Tensor

    @staticmethod
    def of(x: Tensor) -> Moments:
        rows = x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])
        mean = rows.mean(0)
        apart = rows - mean
        return Moments(mean, (apart.t() @ apart).div_(len(rows)))


@dataclass(frozen=True)
class Layer:
    """What a depthwise convolution does with places: kernel, stride, padding above and to the left."""

    size: int
    stride: int
    pads: tuple[int, int]
    height: int
    width: int
    out_height: int
    out_width: int

    @property
    def spanned(self) -> tuple[int, int]:
        """Padded input pixels under the output's."""
        high, wide = ((count - 1) * self.stride + self.size for count in (self.out_height, self.out_width))
        return high, wide

    @property
    def dilated(self) -> tuple[int, int]:
        """Pixels of the padded gradient, with zeros between its own where there is a stride."""
        return self.height + self.size - 1, self.width + self.size - 1

    @property
    def scratch(self) -> int:
        """Vectors of the larger of what both directions keep of an image."""
        high, wide = self.spanned
        tall, long = self.dilated
        return high * wide + max(self.out_height * self.out_width, tall * long)


def forward(
    x: Tensor, moments: Moments, first: Tensor, norm: tuple[Tensor, Tensor, float], depthwise: Tensor,
    behind: tuple[Tensor, Tensor, float], limits: Range, layer: Layer, threads: int = 1,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """(d, what is known of z, what is known of d), the latter as norm_kernel.statistics gives it.

    ``first``: (C, I, 1, 1). ``norm``, ``behind``: weight, bias and eps of the normalizations in front of and behind the
    ``depthwise`` convolution, (C, 1, K, K).
    """
    machine = registers()
    assert machine is not None
    channels, inside = first.shape[:2]
    d = torch.empty((len(x), channels, layer.out_height, layer.out_width), memory_format=torch.channels_last)
    known, behind_known = torch.empty(4, channels), torch.empty(4, channels)
    weight, taps = first.flatten(1).t().contiguous(), depthwise.flatten(1).t().contiguous()
    given = (x, weight, moments.mean, moments.covariance, *norm[:2], known, taps, *behind[:2], d, behind_known)
    run = _compiled("forward", layer.size, layer.stride)

    def work(blocks: tuple[int, int]) -> None:
        scratch = _scratch(layer, inside, SUMS, blocks, machine.lanes)
        places = [tensor.data_ptr() for tensor in (*given, scratch)]
        run(*places, *_sizes(x, layer), channels, *blocks, *layer.pads, norm[2], behind[2], *limits)

    _by_blocks(work, channels, threads)
    return d, known, behind_known


def backward(
    x: Tensor, known: Tensor, first: Tensor, depthwise: Tensor, d: Tensor, behind: Tensor, grad: Tensor, sums: Tensor,
    limits: Range, limits_behind: Range, layer: Layer, threads: int = 1, wants_taps: bool = True,
) -> tuple[Tensor, Tensor, Tensor | None]:  # fmt: skip
    """(G as rows (P, C), its sums (C,), dL/d depthwise, which is None where it is not wanted).

    ``known``, ``behind``: of z and of d. ``grad``: the gradient behind d's normalization and activation, in
    channels_last memory; ``sums``: norm_kernel.sums of it.
    """
    machine = registers()
    assert machine is not None
    channels, inside = first.shape[:2]
    rows = x.new_empty((x.numel() // inside, channels))
    row_sums, taps_grad = torch.empty(channels), torch.empty((layer.size**2, channels))
    weight, taps = first.flatten(1).t().contiguous(), depthwise.flatten(1).t().contiguous()
    given = (x, weight, known, taps, d, behind, grad, sums, rows, row_sums, taps_grad)
    run = _compiled("backward" if wants_taps else "backward to x", layer.size, layer.stride)

    def work(blocks: tuple[int, int]) -> None:
        scratch = _scratch(layer, inside, layer.size**2 + 1, blocks, machine.lanes)
        places = [tensor.data_ptr() for tensor in (*given, scratch)]
        run(*places, *_sizes(x, layer), channels, *blocks, *layer.pads, *limits, *limits_behind)

    _by_blocks(work, channels, threads)
    return rows, row_sums, taps_grad.t().reshape(depthwise.shape) if wants_taps else None


def first_gradients(
    x: Tensor, moments: Moments, known: Tensor, first: Tensor, eps: float, rows: Tensor, sums: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """(dL/dx, dL/dW, dL/dweight) from G, (P, C), and its sums."""
    pixels = x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])
    matrix, scale, squared = first.flatten(1), known[SCALE], known[VARIANCE] + eps
    apart = (pixels.t() @ rows).t().addr_(sums, moments.mean, alpha=-1)  # M - s m'
    of_spread = (apart * matrix).sum(1)
    factor = of_spread / squared
    of_matrix = scale[:, None] * apart.addmm_(factor[:, None] * matrix, moments.covariance, alpha=-1)
    scaled = scale[:, None] * matrix
    between = matrix.t() @ (factor[:, None] * scaled).div_(-len(pixels))
    constant = (sums @ scaled).div_(-len(pixels)) - moments.mean @ between
    of_x = torch.addmm(constant, pixels, between).addmm_(rows, scaled)
    n, _, height, width = x.shape
    return of_x.view(n, height, width, -1).permute(0, 3, 1, 2), of_matrix.view_as(first), of_spread / squared.sqrt()


def _sizes(x: Tensor, layer: Layer) -> tuple[int, ...]:
    return len(x), layer.height, layer.width, layer.out_height, layer.out_width, x.shape[1]


def _scratch(layer: Layer, inside: int, sums: int, blocks: tuple[int, int], lanes: int) -> Tensor:
    """Zeros for the planes of an image, and for the weights, shift, taps and ``sums`` of some blocks of channels."""
    of_block = inside + 1 + layer.size**2 + sums
    return aligned_zeros((layer.scratch + (blocks[1] - blocks[0]) * of_block) * lanes)


def _by_blocks(work: Callable[[tuple[int, int]], None], channels: int, threads: int) -> None:
    """``work`` on the blocks of channels, a run of them for each thread."""
    machine = registers()
    assert machine is not None
    blocks = -(-channels // machine.lanes)
    threads = min(threads, blocks)
    each(work, itertools.pairwise([blocks * number // threads for number in range(threads + 1)]), threads)


@functools.cache
def _compiled(direction: str, size: int, stride: int) -> Kernel:
    machine = registers()
    assert machine is not None
    if direction == "forward":
        return _Forward(size, stride, machine.lanes).compiled()
    return _Backward(size, stride, machine.lanes, wants_taps=direction == "backward").compiled()


Moves = list[tuple[int, int]]
"""Rows and columns from the first of some pixels to each."""
Place = tuple[Any, Any]
"""A row and a column, known when it runs."""


@dataclass(frozen=True)
class Own:
    """Places in the scratch of what some channels have: W' times a, b, taps, and sums over the images so far."""

    weights: Any
    shift: Any
    taps: Any
    sums: Any


class _Planes(Tiled):
    """Images of a few channels in a scratch, pixel by pixel, each a vector."""

    def __init__(self, name: str, size: int, stride: int, lanes: int, *, pointers: int, floats: int) -> None:
        super().__init__(name, lanes, False, pointers=pointers, numbers=11, floats=floats)
        self.size, self.stride = size, stride

    def lay_out(
        self, scratch: Any, sizes: list[Any], pads: tuple[Any, Any], limits: tuple[Any, Any], sums: int
    ) -> None:
        """Where what is in the scratch lies: the planes, of y and of what is behind it, and what each block has."""
        code = self.code
        _, self.height, self.width, out_height, out_width, self.inside, self.channels = sizes
        self.low, self.high = (self.spread(limit) for limit in limits)
        tall, self.wide = self.spanned(out_height), self.spanned(out_width)
        self.of_block = self.moved(self.inside, 1 + self.size**2 + sums)
        self.plane, (top, left) = scratch, pads
        self.behind_plane = self.vector_at(scratch, code.mul(tall, self.wide))
        self.corner = self.pixel(top, self.wide, left)
        self.rows = self.least(self.height, code.sub(tall, top))
        self.columns = self.least(self.width, code.sub(self.wide, left))
        self.blocks = self._behind_planes(sizes, tall)

    def _behind_planes(self, sizes: list[Any], tall: Any) -> Any:
        """As Layer.scratch has it."""
        code, (_, height, width, out_height, out_width, *_) = self.code, sizes
        dilated = code.mul(self.moved(height, self.size - 1), self.moved(width, self.size - 1))
        out = code.mul(out_height, out_width)
        larger = code.select(code.icmp_signed("<", out, dilated), dilated, out)
        return self.vector_at(self.plane, code.add(code.mul(tall, self.wide), larger))

    def own(self, block: Any, first: Any) -> Own:
        """What a block of channels has in the scratch."""
        start = self.vector_at(self.blocks, self.code.mul(self.code.sub(block, first), self.of_block))
        shift = self.vector_at(start, self.inside)
        taps = self.vector_at(shift, self.int(1))
        return Own(start, shift, taps, self.vector_at(taps, self.int(self.size**2)))

    def first_channel(self, block: Any, channels: Any) -> Any:
        """The last block ends with the last channel, and may share some with the one before."""
        lane = self.int(self.lanes)
        return self.least(self.code.mul(block, lane), self.code.sub(channels, lane))

    def scale_weights(self, own: Own, scale: Any, shift: Any) -> None:
        with self.counted(self.int(0), self.inside) as i:
            place = self.vector_at(own.weights, i)
            self.code.store(self.code.fmul(self.load(place), scale), place)
        self.code.store(shift, own.shift)

    def vector_at(self, plane: Any, number: Any) -> Any:
        """The place of a vector of a plane."""
        return self.code.gep(plane, [self.code.mul(number, self.int(self.lanes))], source_etype=self.float)

    def scalar(self, base: Any, number: Any) -> Any:
        """A number known when it runs, everywhere in a vector."""
        return self.spread(self.code.load(self.at(base, number), typ=self.float, align=4))

    def pixel(self, row: Any, width: Any, column: Any) -> Any:
        """Its number in a plane of that width."""
        return self.code.add(self.code.mul(row, width), column)

    def moved(self, number: Any, by: int) -> Any:
        return self.code.add(number, self.int(by))

    def spanned(self, count: Any) -> Any:
        """Padded input pixels in a line under ``count`` output pixels."""
        return self.moved(self.code.mul(self.moved(count, -1), self.int(self.stride)), self.size)

    def gathered(self, source: Any, count: Any, channels: Any, channel: Any, plane: Any) -> None:
        """Some channels of ``count`` rows of a matrix, in a plane."""
        with self.counted(self.int(0), count) as number:
            place = self.pixel(number, channels, channel)
            self.code.store(self.load(self.at(source, place), 4), self.vector_at(plane, number))

    def in_tiles(self, rows: Any, columns: Any, write: Callable[[Any, Any, Moves, Place], None]) -> None:
        """``write`` the code for each pixel of an image: for the first of some, those as moves from it, and what says
        which of them are new: the last ones of a line end with it, and may share some with those before."""
        code = self.code
        is_large = code.and_(
            code.icmp_signed(">=", rows, self.int(TALL)), code.icmp_signed(">=", columns, self.int(WIDE))
        )
        for tall, wide, past in ((TALL, WIDE, (rows, 0)), (1, 1, (0, rows))):
            count = code.select(is_large, *(self.int(end) if isinstance(end, int) else end for end in past))
            with self.counted(self.int(0), count, tall) as row, self.counted(self.int(0), columns, wide) as column:
                first = self.least(row, self.moved(rows, -tall)), self.least(column, self.moved(columns, -wide))
                write(*first, [(y, x) for y in range(tall) for x in range(wide)], (row, column))

    def expanded(self, x: Any, image: Any, own: Own) -> None:
        """y of some channels of an image, in its plane."""
        code, start, shift = (
            self.code,
            self.code.mul(image, self.code.mul(self.height, self.width)),
            self.load(own.shift),
        )

        def write(row: Any, column: Any, moves: Moves, _: Place) -> None:
            sums = [code.alloca(self.vector) for _ in moves]
            pixels = []
            for place, (y, x_) in zip(sums, moves, strict=True):
                code.store(shift, place)
                pixel = self.pixel(self.moved(row, y), self.width, self.moved(column, x_))
                pixels.append(code.mul(code.add(start, pixel), self.inside))
            with self.counted(self.int(0), self.inside) as channel:
                weight = self.load(self.vector_at(own.weights, channel))
                for place, pixel in zip(sums, pixels, strict=True):
                    value = self.scalar(x, code.add(pixel, channel))
                    code.store(self.fma(value, weight, self.load(place)), place)
            for place, (y, x_) in zip(sums, moves, strict=True):
                pixel = self.pixel(self.moved(row, y), self.wide, self.moved(column, x_))
                to = self.vector_at(self.plane, code.add(self.corner, pixel))
                code.store(self.between(self.load(place), self.low, self.high), to)

        self.in_tiles(self.rows, self.columns, write)

    def convolved(
        self, plane: Any, wide: Any, stride: int, taps: Any, row: Any, column: Any, moves: Moves,
        *, turned: bool = False,
    ) -> list[Any]:  # fmt: skip
        """Of some pixels the sums over the taps, which a plane of padded pixels holds; the kernel may be ``turned``."""
        code, size = self.code, self.size
        sums = [code.alloca(self.vector) for _ in moves]
        self.clear(sums)
        corners = [
            (code.mul(self.moved(row, y), self.int(stride)), code.mul(self.moved(column, x), self.int(stride)))
            for y, x in moves
        ]
        with self.counted(self.int(0), self.int(size)) as i:
            lines = [self.pixel(code.add(y, i), wide, x) for y, x in corners]
            own = code.mul(code.sub(self.int(size - 1), i) if turned else i, self.int(size))
            for j in range(size):
                weight = self.load(self.vector_at(taps, self.moved(own, size - 1 - j if turned else j)))
                for place, line in zip(sums, lines, strict=True):
                    value = self.load(self.vector_at(plane, self.moved(line, j)))
                    code.store(self.fma(value, weight, self.load(place)), place)
        return [self.load(place) for place in sums]


class _Forward(_Planes):
    """Its arguments: x, W' (I, C), mean, covariance, weight, bias, known, taps (K K, C), weight and bias behind, d,
    known behind, scratch; N, H, W, H', W', I, C, the first block of channels, the one behind the last, the padding
    above and to the left; both eps, the limits."""

    def __init__(self, size: int, stride: int, lanes: int) -> None:
        super().__init__("expand_depthwise", size, stride, lanes, pointers=13, floats=4)
        x, w, mean, covariance, gamma, beta, known, taps, gamma_2, beta_2, d, known_2, scratch, *rest = self.arguments
        *sizes, first, past, top, left, eps, eps_2, low, high = rest
        n, _, _, out_height, out_width, _, c = sizes
        code = self.code
        self.lay_out(scratch, sizes, (top, left), (low, high), SUMS)
        out, pixels = self.behind_plane, code.mul(out_height, out_width)
        with self.counted(first, past) as block:
            own, channel = self.own(block, first), self.first_channel(block, c)
            self._fold(w, mean, covariance, gamma, beta, known, channel, eps, own)
            self.gathered(taps, self.int(size**2), c, channel, own.taps)
        with self.counted(self.int(0), n) as image, self.counted(first, past) as block:
            own, channel = self.own(block, first), self.first_channel(block, c)
            self.expanded(x, image, own)
            self.in_tiles(out_height, out_width, functools.partial(self._convolve, own.taps, out, out_width))
            self._leave(out, image, pixels, d, own.sums, c, channel)
        with self.counted(first, past) as block:
            own, channel = self.own(block, first), self.first_channel(block, c)
            found = [self.load(self.vector_at(own.sums, self.int(number))) for number in range(SUMS)]
            self.finish(found, known_2, gamma_2, beta_2, code.mul(n, pixels), c, channel, eps_2)

    def _convolve(self, taps: Any, out: Any, out_width: Any, row: Any, column: Any, moves: Moves, _: Place) -> None:
        found = self.convolved(self.plane, self.wide, self.stride, taps, row, column, moves)
        for value, (y, x) in zip(found, moves, strict=True):
            to = self.pixel(self.moved(row, y), out_width, self.moved(column, x))
            self.code.store(value, self.vector_at(out, to))

    def _fold(
        self, w: Any, mean: Any, covariance: Any, gamma: Any, beta: Any, known: Any, channel: Any, eps: Any, own: Own
    ) -> None:
        """What is known of z of some channels; their weights times a and b, in the scratch."""
        code, zero, inside, c = self.code, self.everywhere(0.0), self.inside, self.channels
        self.gathered(w, inside, c, channel, own.weights)
        totals = [code.alloca(self.vector) for _ in range(3)]
        self.clear(totals)
        middle, variance, line = totals
        with self.counted(self.int(0), inside) as i:
            weight = self.load(self.vector_at(own.weights, i))
            code.store(self.fma(self.scalar(mean, i), weight, self.load(middle)), middle)
            code.store(zero, line)
            with self.counted(self.int(0), inside) as j:
                entry = self.scalar(covariance, self.pixel(i, inside, j))
                code.store(self.fma(entry, self.load(self.vector_at(own.weights, j)), self.load(line)), line)
            code.store(self.fma(self.load(line), weight, self.load(variance)), variance)
        found = self.load(variance)
        found = code.select(code.fcmp_ordered("<", found, zero), zero, found)
        root = self.root(code.fadd(found, self.spread(eps)))
        scale = code.fdiv(self.load(self.at(gamma, channel), 4), root)
        shift = code.fsub(self.load(self.at(beta, channel), 4), code.fmul(self.load(middle), scale))
        for row, value in ((MEAN, self.load(middle)), (VARIANCE, found), (SCALE, scale), (SHIFT, shift)):
            code.store(value, self.row_of(known, row, c, channel), align=4)
        self.scale_weights(own, scale, shift)

    def _leave(self, out: Any, image: Any, pixels: Any, d: Any, sums: Any, c: Any, channel: Any) -> None:
        """Write an image's plane into d, and add it to the sums of d and of its squares, about the first's mean."""
        code = self.code
        about_first, *totals = (self.vector_at(sums, self.int(number)) for number in range(SUMS))
        with code.if_then(code.icmp_signed("==", image, self.int(0))):
            (total,) = self.added_up((self.int(0), pixels), lambda row: [self.load(self.vector_at(out, row))], 1)
            code.store(code.fmul(total, self.share_of(pixels)), about_first)
        about, start = self.load(about_first), code.mul(image, pixels)

        def terms(row: Any) -> list[Any]:
            value = self.load(self.vector_at(out, row))
            self.put(value, d, self.pixel(code.add(start, row), c, channel))
            apart = code.fsub(value, about)
            return [apart, code.fmul(apart, apart)]

        for place, total in zip(totals, self.added_up((self.int(0), pixels), terms, 2), strict=True):
            code.store(code.fadd(self.load(place), total), place)


class _Backward(_Planes):
    """Its arguments: x, W' (I, C), known, taps (K K, C), d, known behind, the gradient behind, its sums, G, its sums,
    dL/dtaps (K K, C), scratch; N, H, W, H', W', I, C, the first block of channels, the one behind the last, the padding
    above and to the left; the limits, and those behind. dL/dtaps is left alone where it is not wanted."""

    def __init__(self, size: int, stride: int, lanes: int, *, wants_taps: bool) -> None:
        super().__init__("expand_depthwise_gradient", size, stride, lanes, pointers=12, floats=4)
        x, w, known, taps, d, behind, grad, grad_sums, g, sums, of_taps, scratch, *rest = self.arguments
        *sizes, first, past, top, left, low, high, low_behind, high_behind = rest
        limits_behind = self.spread(low_behind), self.spread(high_behind)
        n, height, width, out_height, out_width, inside, c = sizes
        self.lay_out(scratch, sizes, (top, left), (low, high), size**2 + 1)
        self.grad_wide = self.moved(width, size - 1)
        self.before = [self.code.sub(self.int(size - 1), pad) for pad in (top, left)]
        with self.counted(first, past) as block:
            own, channel = self.own(block, first), self.first_channel(block, c)
            scale, shift = (self.load(self.row_of(known, row, c, channel), 4) for row in (SCALE, SHIFT))
            self.gathered(w, inside, c, channel, own.weights)
            self.scale_weights(own, scale, shift)
            self.gathered(taps, self.int(size**2), c, channel, own.taps)
        with self.counted(self.int(0), n) as image, self.counted(first, past) as block:
            own, channel = self.own(block, first), self.first_channel(block, c)
            self.expanded(x, image, own)
            table = [self.load(self.row_of(behind, row, c, channel), 4) for row in (MEAN, SCALE, SHIFT)]
            table += [self.load(self.row_of(grad_sums, row, c, channel), 4) for row in (FACTOR, SUMMAND)]
            self._gather_gradient(d, grad, image, out_height, out_width, channel, table, limits_behind)
            if wants_taps:
                self._add_taps(out_height, out_width, own.sums)
            self.in_tiles(height, width, functools.partial(self._return, own, g, image, height, width, channel))
        with self.counted(first, past) as block:
            own, channel = self.own(block, first), self.first_channel(block, c)
            self.code.store(self.load(self.vector_at(own.sums, self.int(size**2))), self.at(sums, channel), align=4)
            if wants_taps:
                with self.counted(self.int(0), self.int(size**2)) as tap:
                    total = self.load(self.vector_at(own.sums, tap))
                    self.code.store(total, self.at(of_taps, self.pixel(tap, c, channel)), align=4)

    def _grad_pixel(self, row: Any, column: Any) -> Any:
        """Where the gradient of an output pixel lies in its plane, with zeros between where there is a stride."""
        code, (above, left) = self.code, self.before
        places = [code.mul(place, self.int(self.stride)) for place in (row, column)]
        return self.pixel(code.add(places[0], above), self.grad_wide, code.add(places[1], left))

    def _gather_gradient(
        self, d: Any, grad: Any, image: Any, out_height: Any, out_width: Any, channel: Any, table: list[Any],
        limits: tuple[Any, Any],
    ) -> None:  # fmt: skip
        """dL/dd of an image in its plane; ``table``: mean, a and b of d, and what norm_kernel.sums gives for it."""
        start = self.code.mul(image, self.code.mul(out_height, out_width))
        with self.counted(self.int(0), out_height) as row, self.counted(self.int(0), out_width) as column:
            pixel = self.code.add(start, self.pixel(row, out_width, column))
            place = self.pixel(pixel, self.channels, channel)
            value = self.returned(self.taken(d, place), self.taken(grad, place), table, limits)
            self.code.store(value, self.vector_at(self.behind_plane, self._grad_pixel(row, column)))

    def _return(
        self, own: Own, g: Any, image: Any, height: Any, width: Any, channel: Any, row: Any, column: Any, moves: Moves,
        new: Place,
    ) -> None:  # fmt: skip
        """Write G of some pixels, and add it up."""
        code, sums = self.code, self.vector_at(own.sums, self.int(self.size**2))
        found = self.convolved(self.behind_plane, self.grad_wide, 1, own.taps, row, column, moves, turned=True)
        start, total = code.mul(image, code.mul(height, width)), self.load(sums)
        for value, (y, x) in zip(found, moves, strict=True):
            own_row, own_column = self.moved(row, y), self.moved(column, x)
            place = code.add(self.corner, self.pixel(own_row, self.wide, own_column))
            passed = self.passed(value, self.load(self.vector_at(self.plane, place)), self.low, self.high)
            is_new = code.and_(code.icmp_signed(">=", own_row, new[0]), code.icmp_signed(">=", own_column, new[1]))
            total = code.select(is_new, code.fadd(total, passed), total)
            pixel = code.add(start, self.pixel(own_row, width, own_column))
            self.put(passed, g, self.pixel(pixel, self.channels, channel))
        code.store(total, sums)

    def _add_taps(self, out_height: Any, out_width: Any, totals: Any) -> None:
        """Add one image's products at all taps to ``totals``, a few kernel rows at a time in registers."""
        code, size, stride = self.code, self.size, self.int(self.stride)
        machine = registers()
        assert machine is not None
        at_once = max(1, min(size, (machine.count - 3) // size))
        for start in range(0, size, at_once):
            own = [row * size + column for row in range(start, min(size, start + at_once)) for column in range(size)]
            parts = [code.alloca(self.vector) for _ in own]
            self.clear(parts)
            with self.counted(self.int(0), out_height) as y, self.counted(self.int(0), out_width) as column:
                value = self.load(self.vector_at(self.behind_plane, self._grad_pixel(y, column)))
                corner = self.pixel(code.mul(y, stride), self.wide, code.mul(column, stride))
                for tap, part in zip(own, parts, strict=True):
                    i, j = divmod(tap, size)
                    moved = self.moved(code.add(corner, code.mul(self.int(i), self.wide)), j)
                    code.store(self.fma(self.load(self.vector_at(self.plane, moved)), value, self.load(part)), part)
            for tap, part in zip(own, parts, strict=True):
                place = self.vector_at(totals, self.int(tap))
                code.store(code.fadd(self.load(place), self.load(part)), place)
