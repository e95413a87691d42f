"""Training one network: ``from proxyless_nas.train import TrainConfig, run_training``.

Nothing is imported before it is asked for: the settings, and a finished run, are read without torch.
"""

from __future__ import annotations

from proxyless_arch.base.lazy import on_demand

_HOMES = {
    "TrainConfig": "proxyless_arch.apps.train_settings",
    "TrainResult": "proxyless_nas.train.result",
    "read_result": "proxyless_nas.train.result",
    "TrainingStopped": "proxyless_nas.train.runner",
    "run_training": "proxyless_nas.train.runner",
}
__all__ = list(_HOMES)
__getattr__, __dir__ = on_demand(__name__, _HOMES)
