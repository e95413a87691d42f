"""Milliseconds of each layer in float32 and in int8, measured on this machine's runtimes."""

from __future__ import annotations

from collections.abc import Sequence

from compress.bits.choices import BitGroup
from compress.bits.config import BitsConfig
from hardware.cost import CostTable
from proxyless_arch.base.errors import InputError


def measured_table(groups: Sequence[BitGroup], config: BitsConfig) -> CostTable:
    raise InputError("not measured yet", "--hardware")
