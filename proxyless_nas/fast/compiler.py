"""Loops over vector registers, written in LLVM's language and compiled when they are first needed (extra ``[fast]``).

Written with llvmlite alone: it is there in .1 s, where Numba takes seconds to start and to compile.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from proxyless_nas.fast import kernel_cache

Kernel = Callable[..., None]
EDITION = 3
"""Of our kernels, one higher where they round otherwise: the first had depthwise gradients alone, the second batch
normalizations too."""
OPTIMIZED = 3, 2
"""How much: by the code generator, and by the passes in front of it."""
WHOLE_REGISTERS = "-prefer-256-bit"


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
    """What computes with our kernels: their compiler's version, and their edition; None where nothing compiles."""
    if registers() is None:
        return None
    import llvmlite

    return f"llvmlite {llvmlite.__version__}, edition {EDITION}"


class Program:
    """A function of pointers, of whole numbers and of float32 numbers, in that order, that returns nothing.

    ``lanes``: float32 numbers of a vector. A tensor in memory has ``is_bf16`` or float32 numbers; all is computed in
    float32. ``apart``: no two of the pointers lead to the same memory.
    """

    def __init__(
        self, name: str, lanes: int, is_bf16: bool, *, pointers: int, numbers: int, floats: int = 0, apart: bool = True
    ) -> None:
        from llvmlite import ir

        self.ir, self.name, self.lanes, self.is_bf16 = ir, name, lanes, is_bf16
        self.int, self.float = ir.IntType(64), ir.FloatType()
        self.vector = ir.VectorType(self.float, lanes)
        self.module = ir.Module(name)
        self._counts = pointers, numbers, floats
        kinds = [ir.PointerType()] * pointers + [self.int] * numbers + [self.float] * floats
        function = ir.Function(self.module, ir.FunctionType(ir.VoidType(), kinds), name)
        for argument in function.args[: pointers if apart else 0]:
            argument.add_attribute("noalias")
        self.arguments = function.args
        self._fma = ir.Function(self.module, ir.FunctionType(self.vector, [self.vector] * 3), f"llvm.fma.v{lanes}f32")
        self._sqrt = ir.Function(self.module, ir.FunctionType(self.vector, [self.vector]), f"llvm.sqrt.v{lanes}f32")
        self.code = ir.IRBuilder(function.append_basic_block("entry"))

    def compiled(self) -> Kernel:
        """The machine code as a function of Python's; it holds no lock while it runs. Kept code is not compiled again
        (kernel_cache.py)."""
        self.code.ret_void()
        binding, text = llvm(), str(self.module)
        cpu, features = binding.get_host_cpu_name(), f"{binding.get_host_cpu_features().flatten()},{WHOLE_REGISTERS}"
        triple = binding.get_default_triple()
        made_by = f"{version()}, LLVM {binding.llvm_version_info}, {OPTIMIZED}"
        key = kernel_cache.key_of(text, triple, cpu, features, made_by)
        kept = kernel_cache.load(key)
        module = binding.parse_assembly(text)
        module.verify()
        target = binding.Target.from_triple(triple).create_target_machine(cpu=cpu, features=features, opt=OPTIMIZED[0])
        if kept is None:
            options = binding.create_pipeline_tuning_options(speed_level=OPTIMIZED[1])
            passes = binding.create_pass_builder(target, options)
            passes.getModulePassManager().run(module, passes)
        engine = binding.create_mcjit_compiler(module, target)
        engine.set_object_cache(lambda _, code: kernel_cache.store(key, code), lambda _: kept)
        engine.finalize_object()
        pointers, numbers, floats = self._counts
        kinds = [ctypes.c_void_p] * pointers + [ctypes.c_int64] * numbers + [ctypes.c_float] * floats
        function = ctypes.CFUNCTYPE(None, *kinds)(engine.get_function_address(self.name))
        function.engine = engine  # which owns the code
        return function

    def fma(self, one: Any, other: Any, added: Any) -> Any:
        """one * other + added, rounded once."""
        return self.code.call(self._fma, [one, other, added])

    def root(self, value: Any) -> Any:
        return self.code.call(self._sqrt, [value])

    def everywhere(self, value: float) -> Any:
        """A vector of one number known now."""
        return self.ir.Constant(self.vector, [self.float(value)] * self.lanes)

    def spread(self, scalar: Any) -> Any:
        """A vector of one number known when it runs."""
        empty = self.ir.Constant(self.vector, self.ir.Undefined)
        first = self.code.insert_element(empty, scalar, self.ir.IntType(32)(0))
        zeros = self.ir.Constant(self.ir.VectorType(self.ir.IntType(32), self.lanes), [0] * self.lanes)
        return self.code.shuffle_vector(first, empty, zeros)

    def load(self, place: Any, align: int | None = None) -> Any:
        """The vector at ``place``, of float32 numbers; by default it lies at a multiple of its own length."""
        return self.code.load(place, typ=self.vector, align=align or 4 * self.lanes)

    def clear(self, places: list[Any]) -> None:
        for place in places:
            self.code.store(self.everywhere(0.0), place)

    def at(self, base: Any, number: Any) -> Any:
        """Where float32 number ``number`` behind ``base`` lies."""
        return self.code.gep(base, [number], source_etype=self.float)

    def taken(self, source: Any, number: Any) -> Any:
        """The vector of a tensor from its number ``number`` on."""
        ir, code = self.ir, self.code
        kept = ir.IntType(16) if self.is_bf16 else self.float
        value = code.load(
            code.gep(source, [number], source_etype=kept),
            typ=ir.VectorType(kept, self.lanes),
            align=2 if self.is_bf16 else 4,
        )
        if not self.is_bf16:
            return value
        whole = ir.VectorType(ir.IntType(32), self.lanes)  # of which bfloat16 is the upper half
        shift = ir.Constant(whole, [ir.IntType(32)(16)] * self.lanes)
        return code.bitcast(code.shl(code.zext(value, whole), shift), self.vector)

    def put(self, value: Any, to: Any, number: Any) -> None:
        """Write a vector into a tensor, from its number ``number`` on."""
        code = self.code
        if not self.is_bf16:
            code.store(value, self.at(to, number), align=4)
            return
        place = code.gep(to, [number], source_etype=self.ir.IntType(16))
        code.store(self._rounded(value), place, align=2)

    def _rounded(self, value: Any) -> Any:
        """As the upper halves of float32 numbers, to the nearest, to even among two; what is no number stays none."""
        ir, code = self.ir, self.code
        word, half = ir.IntType(32), ir.IntType(16)
        whole, halves = ir.VectorType(word, self.lanes), ir.VectorType(half, self.lanes)

        def words(number: int) -> Any:
            return ir.Constant(whole, [word(number)] * self.lanes)

        bits = code.bitcast(value, whole)
        odd = code.and_(code.lshr(bits, words(16)), words(1))
        up = code.lshr(code.add(code.add(bits, words(0x7FFF)), odd), words(16))
        nan = ir.Constant(halves, [half(0x7FC0)] * self.lanes)
        return code.select(code.fcmp_unordered("uno", value, value), nan, code.trunc(up, halves))

    def least(self, one: Any, other: Any) -> Any:
        """Of two whole numbers."""
        return self.code.select(self.code.icmp_signed("<", one, other), one, other)

    @contextlib.contextmanager
    def counted(self, start: Any, past: Any, by: int = 1) -> Iterator[Any]:
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
        number.add_incoming(code.add(number, self.int(by)), code.block)
        code.branch(head)
        code.position_at_end(end)
