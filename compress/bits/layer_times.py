"""Milliseconds of each layer in float32 and in int8."""

from __future__ import annotations

from collections.abc import Sequence

from compress.bits.choices import BitGroup
from compress.bits.config import BitsConfig
from hardware.cost import CostTable
from proxyless_arch.base.errors import InputError


def measured_table(groups: Sequence[BitGroup], config: BitsConfig) -> CostTable:
    """Raises InputError: the tables of profile_latency.py have float32 rows alone."""
    raise InputError(
        f"no table has int8 rows of {config.hardware} yet (hardware/profile_latency.py measures float32 alone): give "
        "--target_bytes, --keep or --max_drop; export_tf.py times the file beside its float twin",
        "--target_latency_ms",
    )
