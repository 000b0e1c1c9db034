"""Derive seeds from named parts, and seed and restore the global generators."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor


def mix(*parts: int | str) -> int:
    """Return a 63-bit seed from ``parts``. Different sequences of parts give unrelated seeds."""
    text = "/".join(map(str, parts)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") >> 1


def generator(*parts: int | str) -> torch.Generator:
    """Return a CPU generator seeded with :func:`mix`. It gives the same numbers on every training device."""
    return torch.Generator().manual_seed(mix(*parts))


def seed_global(seed: int) -> None:
    """Seed the global generators of Python, numpy and torch (CPU and the current CUDA device)."""
    random.seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)
    # Not torch.manual_seed: it would also seed devices that GlobalState does not restore.
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.manual_seed(seed)


@dataclass(frozen=True, slots=True)
class GlobalState:
    """States of the generators that :func:`seed_global` seeds."""

    python: Any
    numpy: Any
    torch: Tensor
    cuda: Tensor | None

    @staticmethod
    def capture() -> GlobalState:
        """Return the current state."""
        initialised = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
        cuda = torch.cuda.get_rng_state() if initialised else None
        return GlobalState(random.getstate(), np.random.get_state(), torch.get_rng_state(), cuda)

    def restore(self) -> None:
        """Set the generators to this state."""
        random.setstate(self.python)
        np.random.set_state(self.numpy)
        torch.set_rng_state(self.torch)
        if self.cuda is not None:
            torch.cuda.set_rng_state(self.cuda)


@contextmanager
def global_state_kept() -> Iterator[None]:
    """Restore the global generators at the end."""
    state = GlobalState.capture()
    try:
        yield
    finally:
        state.restore()
