"""Runtimes that layers and networks are timed on: clocks, synchronization, and what was measured on.

A ``Runtime`` makes a ``Session`` of a sequence of LayerCalls (one operation or a whole network);
proxyless_arch/base/timing.py times it. Three runtimes: ``onnxruntime`` and ``litert`` run files of graphs.py,
``torch`` runs the zoo's layers with batch normalization folded. Nothing here knows about tables; weights are random,
which does not change the time.

Clocks. On a CPU with one thread the time is what the calling thread spent on the core: on an idle machine that is
what a wall clock shows, on a busy one it leaves out the time the system gave to others. The wall clock is recorded
beside it. With several threads the wall clock is the time. On a GPU the time is that of a replayed CUDA graph between
two events, so that gaps between kernel launches are not measured by accident; eager execution is recorded beside it.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import itertools
import os
import platform
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from hardware.profile.graphs import INPUT, OUTPUT, RandomWeights, to_litert, to_onnx, trace
from proxyless_arch.arch.ops import Hwc
from proxyless_arch.arch.spec import BatchNorm, Block
from proxyless_arch.arch.walk import LayerCall
from proxyless_arch.base.errors import InputError
from proxyless_arch.base.machine import cpu_name, tune_allocator, usable_cores
from proxyless_arch.base.strict import listed, nearest
from proxyless_arch.base.timing import Session, Times

if TYPE_CHECKING:
    import torch

ROTATED_INPUTS = 4  # a buffer that was just read is warmer in the cache than one in a network
GOVERNOR = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")


class Runtime(Protocol):
    """What runs layers. ``clock`` and ``other_clock`` name the two columns of Times."""

    @property
    def name(self) -> str: ...

    @property
    def clock(self) -> str: ...

    @property
    def other_clock(self) -> str: ...

    def facts(self) -> dict[str, Any]:
        """Device, versions and settings, for a record; JSON values."""

    def session(self, calls: Sequence[LayerCall], batch_size: int) -> Session:
        """``calls`` made ready to run on a batch of random images."""


# Sessions on a CPU --------------------------------------------------------------------------------------------------


class CpuSession:
    """A function that runs once and returns when it is done, timed by both clocks."""

    def __init__(self, run: Callable[[], Any], by_thread: bool) -> None:
        self._run, self._by_thread = run, by_thread

    def times(self, timings: int, inner: int = 1) -> Times:
        run, on_core, wall = self._run, [], []
        for _ in range(timings):
            start_wall, start_core = time.perf_counter(), time.thread_time()
            for _ in range(inner):
                run()
            on_core.append(1e3 * (time.thread_time() - start_core) / inner)
            wall.append(1e3 * (time.perf_counter() - start_wall) / inner)
        return Times(tuple(on_core), tuple(wall)) if self._by_thread else Times(tuple(wall), tuple(on_core))


def _package(module: str, extra: str, runtime: str) -> Any:
    """An optional package. Raises InputError naming the extra that brings it."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module.split(".")[0]:
            raise
        raise InputError(
            f"{runtime} needs {module.split('.')[0]}, which is not installed: pip install -e '.[{extra}]'",
            "--runtime",
        ) from None


class _CpuRuntime(ABC):
    """What the runtimes on a CPU share."""

    name = "cpu"
    package = ""
    dtype = "float32"

    def __init__(self, threads: int = 1) -> None:
        self.threads = threads
        self._weights = RandomWeights()

    @property
    def clock(self) -> str:
        return "thread_cpu" if self.threads == 1 else "wall"

    @property
    def other_clock(self) -> str:
        return "wall" if self.threads == 1 else "thread_cpu"

    @abstractmethod
    def session(self, calls: Sequence[LayerCall], batch_size: int) -> Session:
        """See Runtime.session."""

    def facts(self) -> dict[str, Any]:
        return {
            "device": cpu_name(),
            "runtime": self.name,
            "runtime_version": importlib.metadata.version(self.package),
            "threads": self.threads,
            "dtype": self.dtype,
            "clock": self.clock,
        } | machine_facts()


class OnnxRuntime(_CpuRuntime):
    """ONNX Runtime on the CPU, all graph optimizations, intra-op threads as given."""

    name = "onnxruntime"
    package = "onnxruntime"

    def __init__(self, threads: int = 1) -> None:
        super().__init__(threads)
        _package("onnx", "export", self.name)
        self._ort = _package("onnxruntime", "export", self.name)

    def load(self, model: bytes) -> Any:
        """An InferenceSession of a file's bytes with this runtime's settings."""
        options = self._ort.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = self.threads, 1
        options.log_severity_level = 3
        return self._ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def session(self, calls: Sequence[LayerCall], batch_size: int) -> Session:
        graph = trace(calls)
        loaded = self.load(to_onnx(graph, self._weights, batch_size))
        height, width, channels = graph.in_hwc
        bindings = []
        for _ in range(ROTATED_INPUTS):
            image = self._weights.normal((batch_size, channels, height, width))
            binding = loaded.io_binding()
            binding.bind_ortvalue_input(INPUT, self._ort.OrtValue.ortvalue_from_numpy(image))
            binding.bind_output(OUTPUT, "cpu")
            bindings.append(binding)
        turn = itertools.cycle(bindings)
        return CpuSession(lambda: loaded.run_with_iobinding(next(turn)), self.threads == 1)


class LiteRt(_CpuRuntime):
    """LiteRT (TensorFlow Lite) with its XNNPACK delegate, the runtime of Android phones, on the CPU."""

    name = "litert"
    package = "ai-edge-litert"

    def __init__(self, threads: int = 1) -> None:
        super().__init__(threads)
        _package("flatbuffers", "export", self.name)
        self._interpreter = _package("ai_edge_litert.interpreter", "export", self.name).Interpreter

    def load(self, model: bytes) -> Any:
        """An interpreter of a file's bytes with this runtime's settings."""
        interpreter = self._interpreter(model_content=model, num_threads=self.threads)
        interpreter.allocate_tensors()
        return interpreter

    def session(self, calls: Sequence[LayerCall], batch_size: int) -> Session:
        graph = trace(calls)
        loaded = self.load(to_litert(graph, self._weights, batch_size))
        # an interpreter has one input buffer, which is filled here and not inside the timing
        loaded.set_tensor(loaded.get_input_details()[0]["index"], self._weights.normal((batch_size, *graph.in_hwc)))
        return CpuSession(loaded.invoke, self.threads == 1)


# torch --------------------------------------------------------------------------------------------------------------


def torch_module(calls: Sequence[LayerCall], bn: BatchNorm | None = None) -> torch.nn.Module:
    """The zoo's layers for ``calls`` in a row, in eval mode, batch normalization folded, channels_last."""
    from torch import nn

    from proxyless_nas.inference import fold_bn
    from proxyless_nas.layers import ResidualBlock, build_op

    bn = bn or BatchNorm()
    layers: list[nn.Module] = []
    for call in calls:
        if call.op.pools_first:
            layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        if call.skip:
            layers.append(ResidualBlock(Block(op=call.op, skip=True), bn, "symmetric"))
        else:
            layers.append(build_op(call.op, bn, "symmetric"))
    return fold_bn(nn.Sequential(*layers))  # type: ignore[arg-type]


class TorchCpu(_CpuRuntime):
    """Eager PyTorch on the CPU. The number of threads belongs to the process: it is set for a timing and put back."""

    name = "torch"
    package = "torch"

    def __init__(self, threads: int = 1) -> None:
        super().__init__(threads)
        self._torch = _package("torch", "torch", self.name)
        self._tuned = tune_allocator()

    def facts(self) -> dict[str, Any]:
        return super().facts() | {"memory_format": "channels_last", "allocator_tuned": self._tuned}

    def session(self, calls: Sequence[LayerCall], batch_size: int) -> Session:
        torch = self._torch
        module = torch_module(calls)
        shape = _nchw(calls[0].in_hwc, batch_size)
        images = [torch.from_numpy(self._weights.normal(shape).copy()) for _ in range(ROTATED_INPUTS)]
        turn = itertools.cycle([image.contiguous(memory_format=torch.channels_last) for image in images])

        @torch.inference_mode()
        def run() -> None:
            module(next(turn))

        return TorchSession(run, self.threads)


class TorchSession(CpuSession):
    """Runs on a number of threads of its own; a search in this process keeps its."""

    def __init__(self, run: Callable[[], Any], threads: int) -> None:
        super().__init__(run, threads == 1)
        self._threads = threads

    def times(self, timings: int, inner: int = 1) -> Times:
        import torch

        before = torch.get_num_threads()
        torch.set_num_threads(self._threads)
        try:
            return super().times(timings, inner)
        finally:
            torch.set_num_threads(before)


def _nchw(hwc: Hwc, batch_size: int) -> tuple[int, int, int, int]:
    return batch_size, hwc[2], hwc[0], hwc[1]


def has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()


class TorchCuda:
    """PyTorch on an NVIDIA GPU: the replay of a CUDA graph between two events; eager execution beside it."""

    name = "torch"
    clock = "cuda_graph"
    other_clock = "cuda_eager"

    def __init__(self, device: str = "cuda") -> None:
        self._torch = torch = _package("torch", "torch", self.name)
        if not torch.cuda.is_available():
            raise InputError(
                f"CUDA requested, but torch {torch.__version__} sees no GPU here; --target_hardware cpu needs none",
                "--target_hardware",
            )
        self.device = torch.device(device)

    def facts(self) -> dict[str, Any]:
        torch = self._torch
        return {
            "device": torch.cuda.get_device_name(self.device),
            "runtime": self.name,
            "runtime_version": torch.__version__,
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
            "threads": None,
            "dtype": "float32",
            "tf32": True,  # forced while a session is made and timed
            "memory_format": "channels_last",
            "clock": self.clock,
        } | machine_facts()

    def session(self, calls: Sequence[LayerCall], batch_size: int) -> Session:
        torch = self._torch
        module = torch_module(calls).to(self.device)
        image = torch.randn(_nchw(calls[0].in_hwc, batch_size), device=self.device)
        image = image.contiguous(memory_format=torch.channels_last)
        return CudaSession(module, image)


class CudaSession:
    """A module captured once as a CUDA graph; convolution algorithms are chosen before (cudnn.benchmark).

    Written without a GPU at hand and not run on one.
    """

    def __init__(self, module: torch.nn.Module, image: torch.Tensor) -> None:
        import torch

        self._torch, self._module, self._image = torch, module, image
        with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, benchmark=True):
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):  # capture needs warm-up on another stream than the default one
                for _ in range(3):
                    module(image)
            torch.cuda.current_stream().wait_stream(side)
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph):
                self._output = module(image)
        torch.cuda.synchronize()

    def times(self, timings: int, inner: int = 1) -> Times:
        def eager() -> None:
            self._module(self._image)

        with (
            self._torch.inference_mode(),
            self._torch.backends.cudnn.flags(enabled=True, benchmark=True),
        ):
            return Times(self._between_events(self._graph.replay, timings, inner),
                         self._between_events(eager, timings, inner))  # fmt: skip

    def _between_events(self, run: Callable[[], Any], timings: int, inner: int) -> tuple[float, ...]:
        cuda, found = self._torch.cuda, []
        for _ in range(timings):
            start, end = cuda.Event(enable_timing=True), cuda.Event(enable_timing=True)
            cuda.synchronize()
            run()  # keeps the GPU busy while the first timed run is launched: an idle one would show the launch
            start.record()
            for _ in range(inner):
                run()
            end.record()
            end.synchronize()
            found.append(start.elapsed_time(end) / inner)
        return tuple(found)


# Choosing one -------------------------------------------------------------------------------------------------------

CPU_RUNTIMES: Mapping[str, type[_CpuRuntime]] = {"onnxruntime": OnnxRuntime, "litert": LiteRt, "torch": TorchCpu}


class Hardware(NamedTuple):
    """``cpu``, or ``gpuN``: a GPU at batch size N."""

    kind: str
    batch_size: int


def parse_hardware(name: str) -> Hardware:
    """``cpu`` (batch 1) or ``gpu8`` (any number). Raises InputError."""
    if name == "cpu":
        return Hardware("cpu", 1)
    number = name.removeprefix("gpu")
    if name.startswith("gpu") and number.isascii() and number.isdigit() and 1 <= int(number) <= 4096:
        return Hardware("cuda", int(number))
    raise InputError(f"expected cpu, or gpu and a batch size as in gpu8, got {name!r}", "--target_hardware")


def runtime_named(hardware: Hardware, name: str | None = None, threads: int = 1) -> Runtime:
    """The runtime of a device (default: onnxruntime on a CPU, torch on a GPU).

    Raises InputError for an unknown one, one that is not installed (with the extra to install), or CUDA where there
    is none.
    """
    if hardware.kind == "cuda":
        if name not in (None, "torch"):
            raise InputError(f"a GPU is measured with torch, got {name!r}", "--runtime")
        return TorchCuda()
    name = name or "onnxruntime"
    if name not in CPU_RUNTIMES:
        raise InputError(f"expected {listed(CPU_RUNTIMES)}, got {name!r}{nearest(name, CPU_RUNTIMES)}", "--runtime")
    if not 1 <= threads <= usable_cores():
        raise InputError(f"expected 1..{usable_cores()}, the cores of this process, got {threads}", "--threads")
    return CPU_RUNTIMES[name](threads)


def machine_facts() -> dict[str, Any]:
    """System, cores, frequency governor (None where it cannot be read), load average and date."""
    return {
        "os": platform.platform(),
        "python": platform.python_version(),
        "cores": usable_cores(),
        "affinity": sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "governor": GOVERNOR.read_text().strip() if os.access(GOVERNOR, os.R_OK) else None,
        "load_average": [round(value, 2) for value in os.getloadavg()] if hasattr(os, "getloadavg") else None,
        "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }
