"""What quantize.py is asked to do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from compress.config import FREE, PATHS, TrainedConfig
from hardware.simulators import SIMULATORS
from proxyless_arch.arch.bits import CHANNEL, FLOAT32, INT8, MAX_WEIGHT_BITS, QUANTIZERS, Format
from proxyless_arch.base import settings
from proxyless_arch.base.errors import InputError
from proxyless_arch.base.run_settings import RunSettings
from proxyless_arch.base.settings import setting
from proxyless_arch.base.strict import shown

FORMAT, VERSION = "proxyless-compress/bits-config", 1
METHODS = ("exact", "haq", "uniform", "random")
STORAGE = "storage"
RUNTIMES = ("litert", "onnxruntime")
HARDWARE = (STORAGE, *RUNTIMES, *SIMULATORS)
TARGETS = ("target_bytes", "target_latency_ms", "average_bits", "keep", "max_drop")
DEFAULT_DROP = 0.5


def bit_list(text: str) -> str:
    """A setting's check: whole numbers of bits, with commas between them."""
    allowed = {str(bits) for bits in range(2, MAX_WEIGHT_BITS + 1)}
    if not allowed.issuperset(text.split(",")):
        raise InputError(f"expected numbers in 2..{MAX_WEIGHT_BITS} with commas between them, got {shown(text)}")
    return text


@dataclass(frozen=True, kw_only=True)
class BitsConfig(TrainedConfig):
    """Everything that determines a quantization."""

    recipe: str = "bits"
    hardware: str = setting(
        STORAGE,
        "what is to run it: storage (bytes alone: any bits, 8-bit activations), litert or onnxruntime (float32 or W8A8 "
        "per layer, which is what they run; litert stores W8 too), bismo or bitfusion (chips that are simulated)",
        HARDWARE,
        group="target",
        common=True,
    )
    target_bytes: float | None = setting(
        None, "weights, biases and scales in bytes: 1e6", group="target", common=True, minimum=1
    )
    average_bits: float | None = setting(
        None, "in place of bytes: as many as so many bits per weight take", group="target", common=True, minimum=1,
        maximum=32,
    )  # fmt: skip
    target_latency_ms: float | None = setting(
        None,
        "measured layer by layer for litert and onnxruntime, here or on another device (--latency_table); simulated "
        "for bismo and bitfusion",
        group="target",
        common=True,
        minimum=1e-9,
    )
    keep: float | None = setting(
        None,
        "target as a share of what W8A8 costs (of float32 with litert and onnxruntime, in bytes)",
        group="target",
        common=True,
        minimum=1e-6,
        maximum=1,
    )
    max_drop: float | None = setting(
        None,
        f"in place of a target: the cheapest plan found within so many points of top-1 (default: {DEFAULT_DROP}, where "
        "nothing else is asked)",
        group="target",
        common=True,
        minimum=0,
        maximum=100,
    )
    weight_bits: str | None = setting(
        None, "bits to choose from, of storage and simulated chips: 2,4,8 (default: 2 to 8)", group="target",
        check=bit_list,
    )  # fmt: skip
    activation_bits: str | None = setting(
        None, "as --weight_bits (default: 8; of simulated chips: 2 to 8)", group="target", check=bit_list
    )
    latency_table: str | None = setting(
        None,
        "times of the layers on another device: the results of run.py, from a folder of --export_layers",
        group="target",
        metavar="FILE",
    )
    latency_threads: int = setting(1, "threads with litert and onnxruntime", group="target", minimum=1, maximum=1024)
    method: str = setting(
        "exact", "exact, haq (the paper's agent), uniform or random (controls)", METHODS, group="choosing", common=True
    )
    evaluations: int = setting(
        32, "whole plans that are scored (of haq: episodes)", group="choosing", minimum=1, maximum=100_000, common=True
    )
    quantizer: str = setting(
        CHANNEL,
        "of weights: channel (a step per output channel), tensor or kmeans (per layer, as in the paper)",
        QUANTIZERS,
        group="choosing",
    )
    correct_biases: bool = setting(
        True, "biases make up for what rounding does to the mean of each channel", group="choosing"
    )
    as_released: bool = setting(False, "haq as in the released code, its known defects included", group="choosing")

    def __post_init__(self) -> None:
        named = [name for name in TARGETS if getattr(self, name) is not None]
        if len(named) > 1:
            raise InputError(f"one target at a time, got --{' and --'.join(named)}", f"--{named[0]}")
        if self.hardware == STORAGE and self.target_latency_ms is not None:
            problem = "storage takes no time: add --hardware, one of litert, onnxruntime, bismo, bitfusion"
            raise InputError(problem, "--target_latency_ms")
        if self.latency_table is not None and (self.hardware not in RUNTIMES or self.target_latency_ms is None):
            problem = "is for --target_latency_ms with --hardware litert or onnxruntime alone"
            raise InputError(problem, "--latency_table")
        if self.hardware in RUNTIMES:
            for name in ("weight_bits", "activation_bits"):
                if getattr(self, name) is not None:
                    problem = (
                        f"{self.hardware} runs float32 and W8A8 alone: no runtime here has a convolution below 8 bits"
                    )
                    raise InputError(f"{problem}; --hardware {STORAGE} or a simulated chip takes it", f"--{name}")
        if self.as_released and self.method != "haq":
            raise InputError(f"has no meaning with --method {self.method}: --method haq takes it", "--as_released")

    @staticmethod
    def of(**given: Any) -> BitsConfig:
        """The settings that the command has with these flags: ``BitsConfig.of(arch="runs/mine", average_bits=4)``.

        Raises InputError for an unknown setting (with the nearest) or a value outside what is allowed.
        """
        return settings.with_settings(BitsConfig(), settings.keywords(BitsConfig, given))

    @property
    def n_plans(self) -> int:
        """Scored for a target, at most."""
        return 1 if self.method == "uniform" else self.evaluations

    @property
    def drop(self) -> float | None:
        """--max_drop, in force also where nothing is asked; None with a target."""
        return DEFAULT_DROP if all(getattr(self, name) is None for name in TARGETS) else self.max_drop

    @property
    def is_simulated(self) -> bool:
        return self.hardware in SIMULATORS

    @property
    def counts_bytes(self) -> bool:
        """Whether bytes are what is limited; else it is milliseconds."""
        if self.target_bytes is not None or self.average_bits is not None or self.hardware == STORAGE:
            return True
        return self.hardware in RUNTIMES and self.target_latency_ms is None

    @property
    def formats(self) -> tuple[Format, ...]:
        """What a layer may have."""
        if self.hardware in RUNTIMES:
            stored = (Format(INT8.weight_bits, None),) if self.hardware == "litert" else ()
            return INT8, *stored, FLOAT32
        own = SIMULATORS[self.hardware].bits if self.is_simulated else tuple(range(2, 9))
        weights = _bits(self.weight_bits) or own
        activations = _bits(self.activation_bits) or (own if self.is_simulated else (8,))
        return tuple(Format(w, a) for w in weights for a in activations)

    @property
    def quantizes_image(self) -> bool:
        """What runs integers takes the image in as integers, too."""
        return self.hardware in RUNTIMES


def _bits(text: str | None) -> tuple[int, ...]:
    return () if text is None else tuple(sorted({int(word) for word in text.split(",")}))


SETTINGS = RunSettings(BitsConfig, FORMAT, VERSION, FREE, PATHS)
