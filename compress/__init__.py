"""Making a trained network smaller: ``from compress import PruneConfig, run_pruning``.

Nothing is imported before it is asked for: the settings, and a finished run, are read without a framework.
"""

from __future__ import annotations

from proxyless_arch.base.lazy import on_demand

_HOMES = {
    "PruneConfig": "compress.pruning.config",
    "PruneResult": "compress.pruning.result",
    "read_result": "compress.pruning.result",
    "PruningStopped": "compress.pruning.runner",
    "run_pruning": "compress.pruning.runner",
    "BitsConfig": "compress.bits.config",
    "QuantizationStopped": "compress.bits.runner",
    "run_quantization": "compress.bits.runner",
}
__all__ = list(_HOMES)
__getattr__, __dir__ = on_demand(__name__, _HOMES)
