"""A random generator whose state travels in a module's state_dict."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class RandomState(nn.Module):
    """A random generator on the host: a seed gives the same numbers on every device.

    Attributes:
        generator: The source of the numbers.
        drawn: Whether the numbers of this step are drawn. It is part of the state, so a restored learner
            continues with the draw it was saved with.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.generator = torch.Generator().manual_seed(seed)
        self.drawn = False

    def gumbel(self, count: int) -> Tensor:
        """Draw (count,) standard Gumbel numbers."""
        uniform = torch.rand(count, generator=self.generator, dtype=torch.float64)
        return -torch.log(-torch.log(uniform.clamp(1e-12, 1 - 1e-12)))

    def normal(self, count: int) -> Tensor:
        """Draw (count,) standard normal numbers."""
        return torch.randn(count, generator=self.generator)

    def fill(self, buffer: Tensor, numbers: Tensor) -> None:
        """Copy the step's numbers into ``buffer`` without waiting for its device, and mark the step as drawn."""
        numbers = numbers.to(buffer.dtype)
        buffer.copy_(numbers.pin_memory() if buffer.is_cuda else numbers, non_blocking=True)
        self.drawn = True

    def get_extra_state(self) -> Tensor:
        """Return a uint8 tensor: the generator's state, then ``drawn`` as the last byte."""
        return torch.cat([self.generator.get_state(), torch.tensor([self.drawn], dtype=torch.uint8)])

    def set_extra_state(self, state: Tensor) -> None:
        """Restore the state that :meth:`get_extra_state` returned."""
        state = state.cpu().to(torch.uint8)
        self.generator.set_state(state[:-1])
        self.drawn = bool(state[-1])

    def __deepcopy__(self, memo: dict[int, object]) -> RandomState:
        copied = RandomState(0)
        copied.set_extra_state(self.get_extra_state())
        return copied
