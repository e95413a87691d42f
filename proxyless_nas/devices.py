"""Where a network runs."""

from __future__ import annotations

import torch

from proxyless_arch.errors import InputError


def pick_device(name: str) -> torch.device:
    """auto: cuda, then mps, then cpu. Raises InputError for a device this machine does not have."""
    has_mps = torch.backends.mps.is_available()
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "mps" if has_mps else "cpu")
    kind = name.split(":")[0]
    if kind not in ("cpu", "cuda", "mps"):
        raise InputError(f"expected auto, cpu, cuda, cuda:N or mps, got {name!r}", "--device")
    if (kind == "cuda" and not torch.cuda.is_available()) or (kind == "mps" and not has_mps):
        raise InputError(
            f"{kind} asked for, but torch {torch.__version__} sees none here; use --device cpu", "--device"
        )
    try:
        return torch.device(name)
    except RuntimeError:
        raise InputError(f"expected auto, cpu, cuda, cuda:N or mps, got {name!r}", "--device") from None


def device_name(device: torch.device) -> str:
    """The device for a record: a GPU's model, or the kind and what matters about it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type}, {torch.get_num_threads()} threads" if device.type == "cpu" else device.type
