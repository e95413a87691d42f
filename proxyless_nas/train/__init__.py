"""Training one network: ``from proxyless_nas.train import TrainConfig, run_training``.

Nothing is imported before it is asked for: the settings, and a finished run, are read without torch.
"""

from __future__ import annotations

import importlib
from typing import Any

_HOMES = {
    "TrainConfig": "proxyless_arch.apps.train_settings",
    "TrainResult": "proxyless_nas.train.result",
    "read_result": "proxyless_nas.train.result",
    "TrainingStopped": "proxyless_nas.train.runner",
    "run_training": "proxyless_nas.train.runner",
}
__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
