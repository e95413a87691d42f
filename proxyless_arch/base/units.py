"""The units of cost, and how a cost is written for a person."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from enum import StrEnum

_PREFIXES = ("", " k", " M", " G")


def format_count(count: float) -> str:
    """A count in about four digits: ``950``, ``4.08 M``, ``320.4 M``; from 1e12 on ``2.2e17``."""
    if abs(count) > sys.float_info.max:  # the networks of a large space: an int has no bounds
        digits = str(count)
        return f"{digits[0]}.{digits[1]}e{len(digits) - 1}"
    scaled = float(count)
    if abs(scaled) < 1000 and scaled.is_integer():
        return str(int(scaled))
    for prefix in _PREFIXES:
        text = f"{scaled:.1f}" if abs(scaled) >= 99.995 else f"{scaled:.2f}"
        if abs(float(text)) < 1000:
            return text + prefix
        scaled /= 1000
    return f"{count:.1e}".replace("e+", "e")


class Unit(StrEnum):
    """What a cost is counted in; its value is the word that files hold."""

    MS = "ms"
    MACS = "MACs"
    PARAMS = "params"
    BYTES = "bytes"
    SIMULATED_MS = "simulated ms"
    """Of a chip that is not here, by a model of it: never to be taken for a device's ms."""

    @property
    def is_counted(self) -> bool:
        """Whether a cost follows from the shapes alone; a latency is a prediction or a measurement."""
        return self not in (Unit.MS, Unit.SIMULATED_MS)

    @property
    def quantity(self) -> str:
        """What is meant: ``latency``, ``MACs``, ``parameters``."""
        return {
            Unit.MS: "latency",
            Unit.MACS: "MACs",
            Unit.PARAMS: "parameters",
            Unit.BYTES: "bytes",
            Unit.SIMULATED_MS: "simulated latency",
        }[self]

    @property
    def priced(self) -> str:
        """What a layer has a share of: ``the predicted latency``, ``the MACs``."""
        return f"the {self.quantity}" if self.is_counted else f"the predicted {self.quantity}"

    @property
    def in_loss(self) -> float:
        """What a cost is multiplied by in a loss, which sees ms or millions (the unit of the release)."""
        return 1e-6 if self.is_counted else 1.0

    def decimals(self, cost: float) -> int:
        """Of a latency two, or as many as three significant digits take (``0.0819``); of a count none."""
        if self.is_counted:
            return 0
        return 2 - math.floor(math.log10(abs(cost))) if 0 < abs(cost) < 1 else 2

    def short(self, cost: float) -> str:
        """A cost in about four digits: ``78.00 ms``, ``0.0819 ms``, ``320.4 M MACs``."""
        return f"{format_count(cost)} {self}" if self.is_counted else f"{cost:.{self.decimals(cost)}f} {self}"

    def exact(self, cost: float, rounding: Callable[[float], int] = round) -> str:
        """A cost to the digit, a latency in five: ``320,427,584 MACs``, ``80.132 ms``.

        ``rounding`` (floor, ceil) keeps a limit that is copied from a message on the right side of the limit.
        """
        if self.is_counted:
            return f"{rounding(cost):,} {self}"
        step = 10.0 ** (math.floor(math.log10(abs(cost))) - 4) if cost else 1.0
        return f"{rounding(cost / step) * step:.5g} {self}"
