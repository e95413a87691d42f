"""What prune.py is asked to do: its settings, checked. No framework."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from compress.config import FREE, PATHS, TrainedConfig
from proxyless_arch.base import settings
from proxyless_arch.base.errors import InputError
from proxyless_arch.base.run_settings import RunSettings
from proxyless_arch.base.settings import setting
from proxyless_arch.base.words import BATCH_SIZE
from proxyless_arch.space.shrinking import Freedom

FORMAT, VERSION = "proxyless-compress/prune-config", 1
METHODS = ("exact", "amc", "random", "uniform")
HARDWARE = ("cpu", "mobile", "flops")
REWARDS = ("accuracy", "macs", "params")


def numbers(text: str) -> str:
    """A setting's check: numbers above 0, with commas between them."""
    for word in text.split(","):
        try:
            good = math.isfinite(float(word)) and float(word) > 0 and "_" not in word
        except ValueError:
            good = False
        if not good:
            raise InputError(f"expected a number above 0, or several with commas between them, got {text!r}")
    return text


@dataclass(frozen=True, kw_only=True)
class PruneConfig(TrainedConfig):
    """Everything that determines a pruning."""

    recipe: str = "finetune"
    target_hardware: str = setting(
        "mobile",
        "cpu (this machine: a table of the layers, then measured), mobile (a Pixel 1, predicted) or flops (MACs)",
        HARDWARE,
        group="target",
        common=True,
    )
    target_latency_ms: str | None = setting(
        None, "one target, or several: 2,4,6", group="target", common=True, check=numbers
    )
    target_macs: str | None = setting(None, "with flops: 2e8, or several", group="target", common=True, check=numbers)
    keep: str | None = setting(
        None,
        "target as a share of what the network costs, 0.5, or several (default: 0.5, where nothing else is asked)",
        group="target",
        common=True,
        check=numbers,
    )
    max_params: float | None = setting(
        None, "most parameters, beside the target", group="target", common=True, minimum=1
    )
    max_drop: float | None = setting(
        None,
        "in place of a target: the fastest network found within so many points of top-1, before fine-tuning",
        group="target",
        common=True,
        minimum=0,
        maximum=100,
    )
    latency_table: str | None = setting(
        None, "a latency table or predictor in place of the usual one", group="target", metavar="FILE"
    )
    force_latency_table: bool = setting(
        False, "use a latency table made for other conditions, or not validated", group="target"
    )
    runtime: str | None = setting(None, "onnxruntime, litert or torch: what runs networks with cpu", group="target")
    latency_threads: int = setting(1, "threads with cpu", group="target", minimum=1, maximum=1024)
    method: str = setting(
        "exact", "exact, amc (the paper's agent), random or uniform (controls)", METHODS, group="choosing", common=True
    )
    evaluations: int = setting(
        32, "whole plans that are scored (of amc: episodes)", group="choosing", minimum=1, maximum=100_000, common=True
    )
    width_multiple: int = setting(8, "widths are multiples of it", group="choosing", minimum=1, maximum=1024)
    smallest_width: float = setting(0.2, "smallest share of a width", group="choosing", minimum=0.01, maximum=1)
    prune_kernels: bool = setting(True, "kernels may become smaller", group="choosing")
    prune_depth: bool = setting(True, "blocks with a skip may be left out", group="choosing")
    reconstruct: bool = setting(
        True, "weights behind channels left out are fitted anew, by least squares", group="choosing"
    )
    reward: str = setting("accuracy", "of amc: accuracy, or -error x log of macs or params", REWARDS, group="choosing")
    as_released: bool = setting(False, "amc with the released code's known defects", group="choosing")
    finetune_epochs: int = setting(
        10,
        "epochs of training behind the pruning; 0: none",
        group="fine-tuning",
        minimum=0,
        maximum=100_000,
        common=True,
    )
    init_lr: float = setting(
        0.02, "learning rate of the fine-tuning", aliases=("--lr",), group="fine-tuning", minimum=0
    )
    train_batch_size: int = BATCH_SIZE.setting(
        64, " of the fine-tuning", group="fine-tuning", minimum=2, maximum=1_000_000
    )
    distillation: float = setting(
        0.7,
        "share of the loss that is the network before pruning; 0: labels alone",
        group="fine-tuning",
        minimum=0,
        maximum=1,
    )

    def __post_init__(self) -> None:
        named = [
            name for name in ("target_latency_ms", "target_macs", "keep", "max_drop") if getattr(self, name) is not None
        ]
        if len(named) > 1:
            raise InputError(f"one target at a time, got --{' and --'.join(named)}", f"--{named[0]}")
        wrong = {"target_latency_ms": ("cpu", "mobile"), "target_macs": ("flops",)}
        for name, takers in wrong.items():
            if getattr(self, name) is not None and self.target_hardware not in takers:
                problem = f"has no meaning with --target_hardware {self.target_hardware}"
                raise InputError(f"{problem}: --target_hardware {' or '.join(takers)} takes it", f"--{name}")
        if self.latency_table is not None and self.target_hardware == "flops":
            raise InputError("a latency table has no use with --target_hardware flops", "--latency_table")
        if (self.as_released or self.reward != "accuracy") and self.method != "amc":
            flag = "--as_released" if self.as_released else "--reward"
            raise InputError(f"has no meaning with --method {self.method}: --method amc takes it", flag)

    @staticmethod
    def of(**given: Any) -> PruneConfig:
        """The settings that the command has with these flags: ``PruneConfig.of(arch="runs/mine", keep=0.5)``.

        Args:
            given: settings by a spelling of their flags (``workers=2``) or as config.json names them
                (``n_worker=2``); a path may be a Path.

        Raises InputError for an unknown setting (with the nearest) or a value outside what is allowed.
        """
        plain = settings.keywords(PruneConfig, given)
        for name in ("target_latency_ms", "target_macs", "keep"):  # which may be several numbers
            if plain.get(name) is not None:
                plain[name] = str(plain[name])
        return settings.with_settings(PruneConfig(), plain)

    @property
    def n_plans(self) -> int:
        """Scored for each target, at most."""
        return 1 if self.method == "uniform" else self.evaluations

    @property
    def freedom(self) -> Freedom:
        depth = self.prune_depth and self.method in ("exact", "random")
        kernels = self.prune_kernels and self.method in ("exact", "random")
        return Freedom(multiple=self.width_multiple, smallest=self.smallest_width, kernels=kernels, depth=depth)


SETTINGS = RunSettings(PruneConfig, FORMAT, VERSION, FREE, PATHS)
