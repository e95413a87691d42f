"""Where a network runs."""

from __future__ import annotations

import torch

from proxyless_arch.base.machine import absent_device, parse_device, threads_text


def pick_device(name: str) -> torch.device:
    """auto: cuda, then mps, then cpu. Raises InputError for a device this machine does not have."""
    kind, number = parse_device(name)
    counts = {
        "cpu": 1,
        "cuda": torch.cuda.device_count() if torch.cuda.is_available() else 0,
        "mps": int(torch.backends.mps.is_available()),
    }
    if kind == "auto":
        kind = next(kind for kind in ("cuda", "mps", "cpu") if counts[kind])
    if (number or 0) >= counts[kind]:
        raise absent_device(name, f"torch {torch.__version__}", counts[kind])
    return torch.device(kind) if number is None else torch.device(kind, number)


def device_name(device: torch.device) -> str:
    """The device for a record: a GPU's model, or the kind and what matters about it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type}, {threads_text(torch.get_num_threads())}" if device.type == "cpu" else device.type
