"""A random generator whose state travels in a module's state_dict."""

from __future__ import annotations

import torch
from torch import Tensor, nn

_LARGEST = 2**63 - 1
"""Largest number in a buffer of integers."""


class RandomState(nn.Module):
    """A random generator on the host: a seed gives the same numbers on every device.

    Attributes:
        generator: The source of the numbers.
        drawn: Whether the numbers of this step are drawn. It is part of the state, so a restored learner
            continues with the draw it was saved with.
        seed: The seed, in a buffer: ``DistributedDataParallel`` gives every process the one of process 0 there, and the
            first draw takes it. So processes whose learners were made with different seeds draw the same numbers.
    """

    seed: Tensor

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.generator = torch.Generator().manual_seed(seed)
        self.drawn = False
        self._own_seed: int | None = (
            self.generator.initial_seed() & _LARGEST
        )  # None: the state is not from a seed alone
        self.register_buffer("seed", torch.tensor(self._own_seed), persistent=False)

    def gumbel(self, count: int) -> Tensor:
        """Draw (count,) standard Gumbel numbers."""
        uniform = torch.rand(count, generator=self._agreed(), dtype=torch.float64)
        return -torch.log(-torch.log(uniform.clamp(1e-12, 1 - 1e-12)))

    def normal(self, count: int) -> Tensor:
        """Draw (count,) standard normal numbers."""
        return torch.randn(count, generator=self._agreed())

    def _agreed(self) -> torch.Generator:
        """Return the generator; before the first draw, seed it again if the buffer holds another process's seed."""
        if self._own_seed is not None and not self.seed.is_meta:
            seed = int(self.seed)
            if seed != self._own_seed:
                self.generator.manual_seed(seed)
        self._own_seed = None
        return self.generator

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
        self._own_seed = None

    def __deepcopy__(self, memo: dict[int, object]) -> RandomState:
        copied = RandomState(0)
        copied.set_extra_state(self.get_extra_state())
        copied.seed, copied._own_seed = self.seed.clone(), self._own_seed
        return copied
