"""The generators of random numbers that a network may draw from."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def drawn() -> tuple[Any, ...]:
    """Return the states of the generators that no operation on a device uses."""
    with torch._C.DisableTorchFunction():
        _, keys, *rest = np.random.get_state(legacy=True)
        return torch.random.get_rng_state().numpy().tobytes(), random.getstate(), np.asarray(keys).tobytes(), *rest


@contextmanager
def same_draws(device: torch.device | None = None, seed: int | None = None) -> Iterator[None]:
    """Leave the generators as they were.

    Args:
        device: Device of the network.
        seed: What the generators start from; None: from where they are.
    """
    pythons, numpys = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[device] if device is not None and device.type == "cuda" else []):
        if seed is not None:
            torch.manual_seed(seed)
            random.seed(seed)
            np.random.seed(seed)
        try:
            yield
        finally:
            random.setstate(pythons)
            np.random.set_state(numpys)
