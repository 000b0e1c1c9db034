"""Aggregation over a branch axis: what a whole set of siblings brings, mixed by one matrix.

For sources y (N, S, C, H, W) and targets x (N, T, C, H, W), ``x_t = sum_s m_ts y_s`` with the (T, S)
matrix of their edges' weights. The gradient of the matrix is dense, entries at 0 included.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from topolearn.compiler.plan import NO_EDGE, Term


@dataclass
class Matrix:
    """The (T, S) matrix of a term, from a vector of effective edge weights."""

    term: Term
    cache: dict[tuple[object, ...], Tensor] = field(default_factory=dict)
    numbers: Sequence[float] | None = None

    def __post_init__(self) -> None:
        flat = [edge for row in self.term.edges for edge in row]
        learnable = [each for row in self.term.learnable for each in row]
        self.flat = flat
        self.shape = (len(self.term.edges), len(self.term.edges[0]))
        self.is_block = flat == list(range(flat[0], flat[0] + len(flat))) and flat[0] != NO_EDGE
        self.learns, self.all_learn = any(learnable), all(learnable)

    def learned(self, weights: Tensor) -> Tensor:
        """From the (E,) weights as a tensor; entries of fixed edges get no gradient."""
        if self.is_block:  # as in a bipartite stage, edges being ordered by destination, then source
            values = weights[self.flat[0] : self.flat[0] + len(self.flat)].view(self.shape)
        else:
            index = self.constant("index", weights.device, lambda: [max(0, edge) for edge in self.flat])
            there = self.constant("there", weights.device, lambda: [edge != NO_EDGE for edge in self.flat])
            values = weights[index].masked_fill(~there, 0.0).view(self.shape)
        if self.all_learn:
            return values
        if not self.learns:
            return values.detach()
        flags = [each for row in self.term.learnable for each in row]
        free = self.constant("learnable", weights.device, lambda: flags).view(self.shape)
        return torch.where(free, values, values.detach())

    def frozen(self, numbers: Sequence[float], like: Tensor) -> Tensor:
        """From the (E,) weights as Python numbers."""
        if numbers is not self.numbers:
            self.cache.clear()
            self.numbers = numbers
        values = self.constant(
            like.dtype, like.device, lambda: [0.0 if edge == NO_EDGE else numbers[edge] for edge in self.flat]
        )
        return values.view(self.shape)

    def constant(self, name: object, device: torch.device, values: Callable[[], list[Any]]) -> Tensor:
        """A constant on ``device``, made once; compilers make their own."""
        dtype = name if isinstance(name, torch.dtype) else None
        if torch.compiler.is_compiling():
            return torch.tensor(values(), dtype=dtype, device=device)
        key = (name, device)
        if key not in self.cache:
            with torch.inference_mode(False):  # a training step may be the next to need it
                self.cache[key] = torch.tensor(values(), dtype=dtype, device=device)
        return self.cache[key]


def mix(matrix: Tensor, y: Tensor, x: Tensor | None = None) -> Tensor:
    """``x + matrix y`` over the branch axis, (T, S) times (N, S, C, H, W), as (N, T, C, H, W).

    The matrix is expanded before it is cast, so that its gradient is summed up in its own precision.
    """
    targets, sources = matrix.shape
    if y.is_contiguous():
        rows = y.flatten(2)
        product = torch.bmm(matrix.expand(rows.shape[0], targets, sources).to(y.dtype), rows)
        product = product.view(y.shape[0], targets, *y.shape[2:])
    else:  # channels last: the branches of a pixel stand together
        by_pixel = y.permute(0, 3, 4, 1, 2)
        rows = by_pixel.flatten(0, 2)
        product = torch.bmm(matrix.expand(rows.shape[0], targets, sources).to(y.dtype), rows)
        product = product.view(*by_pixel.shape[:3], targets, -1).permute(0, 3, 4, 1, 2)
    return product if x is None else x + product
