"""Checks that all weights of a network are finite."""

from __future__ import annotations

import itertools

import torch
from torch import nn


def not_finite(module: nn.Module) -> str | None:
    """Return the name of the first parameter or buffer with a NaN or infinite value; None if all are finite."""
    named = itertools.chain(module.named_parameters(), module.named_buffers())
    tensors = {name: tensor.detach() for name, tensor in named if tensor.is_floating_point()}
    if not tensors:
        return None
    fine = torch.stack([tensor.isfinite().all() for tensor in tensors.values()])  # waits for a GPU only once
    return next((name for name, good in zip(tensors, fine.tolist(), strict=True) if not good), None)
