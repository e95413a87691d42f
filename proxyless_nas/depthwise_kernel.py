"""The weight gradient of a depthwise convolution on a CPU, compiled when it is first needed (extra ``[fast]``).

For a kernel of K x K taps at stride s, over images n and output pixels (y, x) of each channel c:

    dL/dw[c, i, j] = sum_{n, y, x} input[n, c, s y + i - p, s x + j - p] * dL/dout[n, c, y, x]

Channels lie side by side in memory (channels_last), so a vector register holds one tap of as many channels as it has
lanes. The taps of some kernel rows stay in registers while the pixels of an image pass; an image's channels are first
gathered, with their padding and as float32, in a scratch plane small enough for the cache. Each sum is formed in one
order whatever the number of threads, lanes or registers, and is flushed every few rows, which keeps it as exact as
torch's. Written with llvmlite alone: it is there in .1 s, where Numba takes seconds to start and to compile.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from proxyless_nas.side_by_side import each

ROWS_PER_FLUSH = 8
"""Output rows whose products are added up in registers before they join the sum of the image's others."""
ALIGNMENT = 64
"""Bytes: of the longest vector."""
Kernel = Callable[..., None]


@dataclass(frozen=True)
class Registers:
    """Vector registers of a processor: float32 ``lanes`` of each, and how many there are."""

    lanes: int
    count: int


def registers_of(features: Sequence[str]) -> Registers | None:
    """Of a processor with these features, as LLVM names them; None for one without fused multiply-add on vectors."""
    if "avx512f" in features:
        return Registers(16, 32)
    if "avx2" in features and "fma" in features:
        return Registers(8, 16)
    return Registers(4, 32) if "neon" in features else None


@functools.cache
def llvm() -> Any:
    """llvmlite's binding, ready to compile for this machine; None where it is not installed."""
    try:
        import llvmlite.binding as binding
    except ImportError:
        return None
    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    return binding


@functools.cache
def registers() -> Registers | None:
    """Of this machine; None where nothing can be compiled for it."""
    binding = llvm()
    return (
        None if binding is None else registers_of([name for name, on in binding.get_host_cpu_features().items() if on])
    )


def version() -> str | None:
    """What compiles here, with its version; None where nothing does."""
    if registers() is None:
        return None
    import llvmlite

    return f"llvmlite {llvmlite.__version__}"


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
    count = (padded + out_height * out_width) * lanes
    room = torch.zeros(count + ALIGNMENT // 4)
    start = -room.data_ptr() % ALIGNMENT // 4
    return room[start : start + count]


@functools.cache
def _compiled(kernel_size: int, stride: int, is_bf16: bool) -> Kernel:
    """The machine code of _Program as a function of Python's; it holds no lock while it runs."""
    binding, machine = llvm(), registers()
    assert machine is not None
    module = binding.parse_assembly(str(_Program(kernel_size, stride, is_bf16, machine).module))
    module.verify()
    features = f"{binding.get_host_cpu_features().flatten()},-prefer-256-bit"  # whole registers
    target = binding.Target.from_default_triple().create_target_machine(
        cpu=binding.get_host_cpu_name(), features=features, opt=3
    )
    passes = binding.create_pass_builder(target, binding.create_pipeline_tuning_options(speed_level=2))
    passes.getModulePassManager().run(module, passes)
    engine = binding.create_mcjit_compiler(module, target)
    engine.finalize_object()
    call = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 4, *[ctypes.c_int64] * 10)
    function = call(engine.get_function_address(_Program.NAME))
    function.engine = engine  # which owns the code
    return function


class _Program:
    """The kernel in LLVM's language: ``module``.

    Its arguments: input, gradient, sums (K*K, C) and scratch; then N, H, W, H', W', C, the first block of channels, the
    one behind the last, and the padding above and to the left. The last block of all ends with the last channel and may
    share some with the one before.
    """

    NAME = "depthwise_weight_gradient"

    def __init__(self, kernel_size: int, stride: int, is_bf16: bool, machine: Registers) -> None:
        from llvmlite import ir

        self.ir, self.kernel_size, self.stride, self.is_bf16 = ir, kernel_size, stride, is_bf16
        self.lanes = machine.lanes
        # beside the sums, registers for the gradient and for the next input
        self.rows_at_once = max(1, min(kernel_size, (machine.count - 3) // kernel_size))
        self.int, self.float = ir.IntType(64), ir.FloatType()
        self.vector = ir.VectorType(self.float, self.lanes)
        self.module = ir.Module(self.NAME)
        pointer = ir.PointerType()
        kind = ir.FunctionType(ir.VoidType(), [pointer] * 4 + [self.int] * 10)
        function = ir.Function(self.module, kind, self.NAME)
        for argument in function.args[:4]:
            argument.add_attribute("noalias")
        self.fma = ir.Function(
            self.module, ir.FunctionType(self.vector, [self.vector] * 3), f"llvm.fma.v{self.lanes}f32"
        )
        self.code = ir.IRBuilder(function.append_basic_block("entry"))
        self._write(*function.args)

    def _write(
        self, x: Any, grad: Any, sums: Any, plane: Any, n: Any, h: Any, w: Any, out_h: Any, out_w: Any, c: Any,
        first: Any, past: Any, top: Any, left: Any,
    ) -> None:  # fmt: skip
        code, taps = self.code, range(self.kernel_size**2)
        high, wide = self._spanned(out_h), self._spanned(out_w)
        pixels = code.mul(out_h, out_w)
        grad_plane = self._pixel(plane, code.mul(high, wide))
        rows, columns = self._least(h, code.sub(high, top)), self._least(w, code.sub(wide, left))
        totals = [code.alloca(self.vector) for _ in taps]
        parts = [code.alloca(self.vector) for _ in taps]
        with self._counted(first, past) as block:
            channel = self._least(code.mul(block, self.int(self.lanes)), code.sub(c, self.int(self.lanes)))
            self._clear(totals)
            with self._counted(self.int(0), n) as image:
                with self._counted(self.int(0), rows) as y:
                    source = code.mul(code.add(code.mul(image, h), y), w)
                    to = code.add(code.mul(code.add(y, top), wide), left)
                    self._gather(x, source, c, channel, plane, to, columns)
                self._gather(grad, code.mul(image, pixels), c, channel, grad_plane, self.int(0), pixels)
                for start in range(0, self.kernel_size, self.rows_at_once):
                    tap_rows = range(start, min(self.kernel_size, start + self.rows_at_once))
                    self._add_up(tap_rows, plane, grad_plane, wide, out_h, out_w, totals, parts)
            for tap, total in enumerate(totals):
                place = code.add(code.mul(self.int(tap), c), channel)
                code.store(self._load(total), code.gep(sums, [place], source_etype=self.float), align=4)
        code.ret_void()

    def _add_up(
        self, tap_rows: range, plane: Any, grad_plane: Any, wide: Any, out_h: Any, out_w: Any,
        totals: list[Any], parts: list[Any],
    ) -> None:  # fmt: skip
        """Add one image's products at the taps of some kernel rows to ``totals``."""
        code, size, stride = self.code, self.kernel_size, self.int(self.stride)
        own = [row * size + column for row in tap_rows for column in range(size)]
        flush = self.int(ROWS_PER_FLUSH)
        n_flushes = code.udiv(code.add(out_h, self.int(ROWS_PER_FLUSH - 1)), flush)
        with self._counted(self.int(0), n_flushes) as number:
            start = code.mul(number, flush)
            self._clear([parts[tap] for tap in own])
            with self._counted(start, self._least(out_h, code.add(start, flush))) as y:
                grads, inputs = code.mul(y, out_w), code.mul(code.mul(y, stride), wide)
                with self._counted(self.int(0), out_w) as column:
                    grad = self._load(self._pixel(grad_plane, code.add(grads, column)))
                    corner = code.add(inputs, code.mul(column, stride))
                    for tap in own:
                        row, across = divmod(tap, size)
                        moved = code.add(code.add(corner, code.mul(self.int(row), wide)), self.int(across))
                        value = self._load(self._pixel(plane, moved))
                        code.store(code.call(self.fma, [value, grad, self._load(parts[tap])]), parts[tap])
            for tap in own:
                code.store(code.fadd(self._load(totals[tap]), self._load(parts[tap])), totals[tap])

    def _gather(self, source: Any, at: Any, channels: Any, channel: Any, plane: Any, to: Any, count: Any) -> None:
        """Some channels of ``count`` pixels of an image, from pixel ``at``, as float32 into a plane, from ``to``."""
        ir, code = self.ir, self.code
        kept = ir.IntType(16) if self.is_bf16 else self.float
        with self._counted(self.int(0), count) as number:
            place = code.add(code.mul(code.add(at, number), channels), channel)
            value = code.load(
                code.gep(source, [place], source_etype=kept),
                typ=ir.VectorType(kept, self.lanes),
                align=2 if self.is_bf16 else 4,
            )
            if self.is_bf16:  # the upper half of a float32
                whole = ir.VectorType(ir.IntType(32), self.lanes)
                shift = ir.Constant(whole, [ir.IntType(32)(16)] * self.lanes)
                value = code.bitcast(code.shl(code.zext(value, whole), shift), self.vector)
            code.store(value, self._pixel(plane, code.add(to, number)), align=4 * self.lanes)

    def _spanned(self, count: Any) -> Any:
        """Padded input pixels in a line under ``count`` output pixels."""
        steps = self.code.mul(self.code.sub(count, self.int(1)), self.int(self.stride))
        return self.code.add(steps, self.int(self.kernel_size))

    def _pixel(self, plane: Any, number: Any) -> Any:
        """The place of a pixel in a plane."""
        return self.code.gep(plane, [self.code.mul(number, self.int(self.lanes))], source_etype=self.float)

    def _load(self, place: Any) -> Any:
        return self.code.load(place, typ=self.vector, align=4 * self.lanes)

    def _clear(self, places: list[Any]) -> None:
        for place in places:
            self.code.store(self.ir.Constant(self.vector, [self.float(0.0)] * self.lanes), place)

    def _least(self, one: Any, other: Any) -> Any:
        return self.code.select(self.code.icmp_signed("<", one, other), one, other)

    @contextlib.contextmanager
    def _counted(self, start: Any, past: Any) -> Iterator[Any]:
        """A loop whose number runs from ``start`` to before ``past``; what is written within is its body."""
        code = self.code
        head, body, end = (code.append_basic_block(name) for name in ("head", "body", "end"))
        before = code.block
        code.branch(head)
        code.position_at_end(head)
        number = code.phi(self.int)
        number.add_incoming(start, before)
        code.cbranch(code.icmp_signed("<", number, past), body, end)
        code.position_at_end(body)
        yield number
        number.add_incoming(code.add(number, self.int(1)), code.block)
        code.branch(head)
        code.position_at_end(end)
