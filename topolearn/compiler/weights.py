"""The edge weights of one forward pass, as constants or as a tensor, and the selection that a step takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from topolearn.compiler.plan import NO_EDGE, Term
from topolearn.graph import Edge


@final
class Constant:
    """Indices, truth values or weights as a tensor, made once per device and dtype."""

    def __init__(self, values: Sequence[float]) -> None:
        self.values = values
        self.made: dict[tuple[torch.device, torch.dtype | None], Tensor] = {}

    def on(self, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
        """Return the tensor on a device; while compiling, make a new one."""
        if torch.compiler.is_compiling():
            return torch.tensor(self.values, dtype=dtype, device=device)
        key = (device, dtype)
        if key not in self.made:
            with torch.inference_mode(False):  # a training step may need it next
                self.made[key] = torch.tensor(self.values, dtype=dtype, device=device)
        return self.made[key]

    def entries_of(self, x: Tensor) -> Tensor:
        """Return the entries of a vector at these indices."""
        if torch.compiler.is_compiling():
            return torch.stack([x[int(index)] for index in self.values])
        return x.index_select(0, self.on(x.device))


@final
class Matrix:
    """Makes the (T, S) matrix of a term from a vector of effective edge weights."""

    def __init__(self, term: Term, edges: Sequence[Edge]) -> None:
        self.flat = [number for row in term.edges for number in row]
        self.shape = (len(term.edges), len(term.edges[0]))
        self.is_block = self.flat[0] != NO_EDGE and self.flat == list(
            range(self.flat[0], self.flat[0] + len(self.flat))
        )
        learnable = [number != NO_EDGE and edges[number].learnable for number in self.flat]
        self.learns, self.all_learn = any(learnable), all(learnable)
        self.index = Constant([max(0, number) for number in self.flat])
        self.absent = Constant([number == NO_EDGE for number in self.flat])
        self.learnable = Constant(learnable)
        self.numbers: Sequence[float] | None = None
        self.fixed = Constant(())

    def learned(self, weights: Tensor) -> Tensor:
        """Make the matrix from (E,) weights as a tensor; entries of fixed edges get no gradient."""
        if self.is_block:  # as in a bipartite stage, because edges are ordered by destination, then source
            values = weights[self.flat[0] : self.flat[0] + len(self.flat)].view(self.shape)
        else:
            entries = weights[self.index.on(weights.device)]
            values = entries.masked_fill(self.absent.on(weights.device), 0.0).view(self.shape)
        if self.all_learn:
            return values
        if not self.learns:
            return values.detach()
        return torch.where(self.learnable.on(weights.device).view(self.shape), values, values.detach())

    def frozen(self, numbers: Sequence[float], like: Tensor) -> Tensor:
        """Make the matrix from (E,) weights as Python numbers."""
        if numbers is not self.numbers:
            self.fixed = Constant([0.0 if number == NO_EDGE else numbers[number] for number in self.flat])
            self.numbers = numbers
        return self.fixed.on(like.device, like.dtype).view(self.shape)


@dataclass(frozen=True)
class InEdges:
    """Some in-edges of one node.

    Attributes:
        row: Number of the node in canonical order.
        edges: (n,) numbers of the edges.
        slots: (n,) slots of the edges' tensors.
        learnable: (n,) whether each edge is learnable.
        part: Positions among the node's in-edges; None for all in-edges.
    """

    row: int
    edges: tuple[int, ...]
    slots: tuple[int, ...]
    learnable: tuple[bool, ...]
    part: Constant | None = None

    def at(self, places: Sequence[int]) -> InEdges:
        """Select the in-edges at some positions."""
        if len(places) == len(self.edges):
            return self
        edges, slots = (tuple(values[i] for i in places) for values in (self.edges, self.slots))
        return InEdges(self.row, edges, slots, tuple(self.learnable[i] for i in places), Constant(places))


@final
class NumberWeights:
    """Constant edge weights as Python numbers."""

    def __init__(self, numbers: Sequence[float]) -> None:
        self.numbers = numbers

    def are_one(self, edges: Sequence[int]) -> bool:
        """Whether edges of weight 1 in the graph also weigh 1 here."""
        return all(self.numbers[i] == 1.0 for i in edges)

    def of(self, edges: InEdges) -> tuple[Tensor | None, Sequence[float] | None]:
        """Return the (n,) weights of some in-edges: as a tensor (None here), and as numbers."""
        return None, [self.numbers[i] for i in edges.edges]

    def mixing(self, matrix: Matrix, like: Tensor) -> Tensor:
        """Return the (T, S) weights of a term, for tensors like ``like``."""
        return matrix.frozen(self.numbers, like)


@final
class TensorWeights:
    """Edge weights as a tensor; its entries for learnable edges may get a gradient.

    Args:
        weights: (E,) weights.
        in_degrees: Number of in-edges per node, in canonical order.
        numbers: The same weights as Python numbers, if they are known on the host.
    """

    def __init__(self, weights: Tensor, in_degrees: Sequence[int], numbers: Sequence[float] | None) -> None:
        self.weights = weights
        self.rows = torch.split(weights, list(in_degrees))
        self.numbers = numbers

    def are_one(self, edges: Sequence[int]) -> bool:
        """Whether edges of weight 1 in the graph also weigh 1 here; a fixed edge's entry is its weight."""
        return True

    def of(self, edges: InEdges) -> tuple[Tensor | None, Sequence[float] | None]:
        """Return the (n,) weights of some in-edges: as a tensor, and as numbers if those are known."""
        row = self.rows[edges.row]
        numbers = None if self.numbers is None else [self.numbers[i] for i in edges.edges]
        return (row if edges.part is None else edges.part.entries_of(row)), numbers

    def mixing(self, matrix: Matrix, like: Tensor) -> Tensor:
        """Return the (T, S) weights of a term."""
        return matrix.learned(self.weights)

    def of_fan(self, edges: Constant, learnable: Constant) -> Tensor:
        """Return the (B,) weights of some edges; fixed ones get no gradient."""
        weights = edges.entries_of(self.weights)
        if all(learnable.values):
            return weights
        return torch.where(learnable.on(weights.device), weights, weights.detach())


AnyWeights = NumberWeights | TensorWeights
