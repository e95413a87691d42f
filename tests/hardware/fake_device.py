"""A simulated device: a runtime whose times come from a known model, plus noise and drift."""

import hashlib

import numpy as np

from hardware.latency import network_ms, shipped
from hardware.profile.measure import Times
from hardware.table import layer_key
from proxyless_arch.arch.ops import Zero


def repeatable(text):
    """A number in -1..1 that depends on ``text`` alone."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") / 2**31 - 1


class FakeDevice:
    """Networks cost the sum of their layers (a distorted Pixel 1) and ``overhead_ms``; isolated layers mislead.

    noise: standard deviation of one timing, relative. slower: the whole machine, relative. drift: change of that per
    timing (a machine that heats up).
    interaction: how far networks are from the sum of their layers, relative. isolated_error: how far isolated layers
    are from their cost inside a network.
    """

    name, clock, other_clock = "fake", "thread_cpu", "wall"

    def __init__(
        self,
        *,
        noise=0.0,
        slower=0.0,
        drift=0.0,
        interaction=0.0,
        isolated_error=0.15,
        overhead_ms=0.4,
        stop_after=None,
        seed=0,
    ):
        self.noise, self.slower, self.drift, self.interaction = noise, slower, drift, interaction
        self.isolated_error, self.overhead_ms, self.stop_after = isolated_error, overhead_ms, stop_after
        self.rng = np.random.default_rng(seed)
        self.pixel1 = shipped("pixel1")
        self.n_sessions = self.n_timings = 0

    def facts(self):
        return {"device": "simulated", "runtime": self.name, "runtime_version": "1", "threads": 1, "dtype": "float32",
                "clock": self.clock, "load_average": [0.0], "governor": None}  # fmt: skip

    def cost_ms(self, call):
        """The true cost of a layer in a network."""
        return self.pixel1.price_ms(call) * (1 + 0.2 * repeatable(str(layer_key(call))))

    def true_ms(self, calls):
        real = [call for call in calls if not isinstance(call.op, Zero)]
        if len(real) == 1:
            wrong = 1 + self.isolated_error * repeatable(f"alone {layer_key(real[0])}")
            return self.cost_ms(real[0]) * wrong
        total = self.overhead_ms + sum(map(self.cost_ms, real))
        return total * (1 + self.interaction * repeatable("".join(str(layer_key(call)) for call in real)))

    def session(self, calls, batch_size):
        if self.stop_after is not None and self.n_sessions >= self.stop_after:
            raise KeyboardInterrupt
        self.n_sessions += 1
        assert batch_size == 1 and network_ms(self.pixel1, calls) > 0
        return FakeSession(self, self.true_ms(calls))


class FakeSession:
    def __init__(self, device, ms):
        self.device, self.ms = device, ms

    def times(self, timings, inner=1):
        found = []
        for _ in range(timings):
            self.device.n_timings += 1
            factor = max(0.1, 1 + self.device.noise * self.device.rng.standard_normal())
            found.append(self.ms * factor * (1 + self.device.slower + self.device.drift * self.device.n_timings))
        return Times(tuple(found), tuple(2 * ms for ms in found))
