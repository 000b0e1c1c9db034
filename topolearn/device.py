"""Choosing the device and the precision of a run."""

from __future__ import annotations

import torch

from topolearn.errors import OptionError


def find_device(device: str | torch.device) -> torch.device:
    """Return the device to use; ``auto`` is CUDA if available, else the CPU.

    Raises:
        OptionError: The device cannot be used.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError, TypeError) as error:
        raise OptionError(f"device '{device}' cannot be used: {str(error).partition(chr(10))[0]}") from None
    return chosen


def usual_precision(precision: str, device: torch.device) -> str:
    """Return ``precision``; ``auto`` becomes ``bfloat16`` on a GPU that supports it, else ``float32``."""
    if precision != "auto":
        return precision
    # On a CPU bfloat16 is emulated unless it has special instructions; float32 is never slower there.
    good = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return "bfloat16" if good else "float32"
