"""A random generator whose state travels in a module's state_dict."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class RandomState(nn.Module):
    """Draws on the host, whatever the device, so that a seed means the same everywhere.

    Attributes:
        generator: Where the numbers come from.
        drawn: Whether the present step has its numbers; part of the state, so that a restored learner
            goes on with the draw it was saved with, and with the next one after that.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.generator = torch.Generator().manual_seed(seed)
        self.drawn = False

    def gumbel(self, count: int) -> Tensor:
        """(count,) standard Gumbel numbers."""
        uniform = torch.rand(count, generator=self.generator, dtype=torch.float64)
        return -torch.log(-torch.log(uniform.clamp(1e-12, 1 - 1e-12)))

    def normal(self, count: int) -> Tensor:
        """(count,) standard normal numbers."""
        return torch.randn(count, generator=self.generator)

    def fill(self, buffer: Tensor, numbers: Tensor) -> None:
        """Put the step's numbers into ``buffer`` without waiting for its device; from now on it is drawn."""
        numbers = numbers.to(buffer.dtype)
        buffer.copy_(numbers.pin_memory() if buffer.is_cuda else numbers, non_blocking=True)
        self.drawn = True

    def get_extra_state(self) -> Tensor:
        """The generator's state and, as its last byte, ``drawn``; a uint8 tensor."""
        return torch.cat([self.generator.get_state(), torch.tensor([self.drawn], dtype=torch.uint8)])

    def set_extra_state(self, state: Tensor) -> None:
        """Restore what :meth:`get_extra_state` gave."""
        state = state.cpu().to(torch.uint8)
        self.generator.set_state(state[:-1])
        self.drawn = bool(state[-1])

    def __deepcopy__(self, memo: dict[int, object]) -> RandomState:
        copied = RandomState(0)
        copied.set_extra_state(self.get_extra_state())
        return copied
