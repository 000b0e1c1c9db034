"""One forward pass: holds its tensors and computes their weighted sums."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, final

import torch
from torch import Tensor

from topolearn.compiler.aggregate import EdgeWeights, FanOut, Ledger, Sink, WeightedSum, weighted_sum
from topolearn.compiler.schedule import Schedule
from topolearn.compiler.weights import AnyWeights, InEdges, NumberWeights, TensorWeights
from topolearn.ops.shape import Size, Stride


class Run(ABC):
    """The tensors of one forward pass, by slot.

    Attributes:
        values: Content of each slot: a tensor, or the bundle of a backbone.
        weights: The edge weights.
        norm_weights: The edge weights, if batch normalisations at the end of fans apply them as their scale; else None.
        image: Height and width that strides refer to.
    """

    sizes_known: ClassVar[bool] = True

    def __init__(self, schedule: Schedule, weights: AnyWeights, image: Size) -> None:
        self.values: list[Any] = [None] * schedule.slots
        self.weights = weights
        self.norm_weights = weights if isinstance(weights, TensorWeights) else None
        self.image = image

    def fill(self, slot: int, value: Any) -> None:
        """Store the result of a step."""
        self.values[slot] = value

    @abstractmethod
    def add(self, edges: InEdges) -> Tensor:
        """Return the weighted sum of the tensors of some in-edges."""

    def brought(self, edges: InEdges) -> list[Tensor]:
        """Return the tensors of some in-edges."""
        values = self.values
        return [values[slot] for slot in edges.slots]

    def size(self, stride: Stride) -> tuple[Any, Any]:
        """Return height and width at a stride."""
        if not isinstance(stride, int):
            return (1, 1)
        return ((self.image[0] + stride - 1) // stride, (self.image[1] + stride - 1) // stride)


@final
class TracedRun(Run):
    """Plain arithmetic that compilers can trace and fuse; they would refuse the side effects of sinks."""

    sizes_known = False  # a compiler may not know them yet

    def __init__(self, schedule: Schedule, weights: AnyWeights, image: Size) -> None:
        super().__init__(schedule, weights, image)
        self.norm_weights = None  # a compiler fuses the products by itself

    def add(self, edges: InEdges) -> Tensor:
        """Return the weighted sum: a product and an addition per in-edge."""
        row, numbers = self.weights.of(edges)
        ys = self.brought(edges)
        weights: list[Any]
        if numbers is not None:
            weights = list(numbers)
        else:
            assert row is not None
            weights = [w if wanted else w.detach() for w, wanted in zip(row.unbind(), edges.learnable, strict=True)]
            weights = [w.to(y.dtype) for w, y in zip(weights, ys, strict=True)]
        active = [(y, w) for y, w in zip(ys, weights, strict=True) if not (isinstance(w, float) and w == 0.0)]
        if not active:
            return torch.zeros_like(ys[0])
        common = active[0][1]
        if isinstance(common, float) and all(weight == common for _, weight in active):
            sum_of_all = total([y for y, _ in active])
            return sum_of_all if common == 1.0 else sum_of_all * common
        return total([y if isinstance(w, float) and w == 1.0 else y * w for y, w in active])


@final
class EagerRun(Run):
    """In-place sums that record nothing for a backward pass."""

    def add(self, edges: InEdges) -> Tensor:
        """Return the weighted sum, in one new tensor."""
        return weighted_sum(self.brought(edges), *self.weights.of(edges))


@final
class RecordedRun(Run):
    """Sums that autograd records; a tensor that several sums read has a sink for its gradient."""

    def __init__(self, schedule: Schedule, weights: AnyWeights, image: Size, ledger: Ledger | None) -> None:
        super().__init__(schedule, weights, image)
        self.schedule = schedule
        self.ledger = ledger
        # The tensor by which autograd tracks learned weights.
        self.learned = weights.weights if isinstance(weights, TensorWeights) and ledger is not None else None
        self.sinks: list[Sink | None] = [None] * schedule.slots

    def fill(self, slot: int, value: Any) -> None:
        """Store the result of a step, with a sink if more than one sum reads it."""
        if self.schedule.shared_reads[slot] and value.requires_grad:
            sink = Sink()
            learned = self.learned if self.schedule.learned_reads[slot] else None
            value = FanOut.apply(value, sink, learned, self.ledger)
            self.sinks[slot] = sink
        self.values[slot] = value

    def add(self, edges: InEdges) -> Tensor:
        """Return the weighted sum; its gradients go to the sinks and the ledger."""
        row, numbers = self.weights.of(edges)
        sinks = [self.sinks[slot] for slot in edges.slots]
        ys = self.brought(edges)
        x: Tensor = WeightedSum.apply(row, numbers, edges.learnable, sinks, self.ledger, edges.edges, *ys)
        return x


def start_run(schedule: Schedule, weights: Tensor | Sequence[float], image: Size) -> Run:
    """Make the run of one forward pass; the kind depends on the weights and on compiling and gradient mode.

    Args:
        schedule: The schedule to run.
        weights: (E,) effective edge weights.
        image: Height and width that strides refer to.
    """
    degrees = schedule.in_degrees
    if torch.compiler.is_compiling():
        traced = TensorWeights(weights, degrees, None) if isinstance(weights, Tensor) else NumberWeights(weights)
        return TracedRun(schedule, traced, image)
    ledger = None
    if torch.is_grad_enabled() and isinstance(weights, Tensor) and weights.requires_grad:
        ledger = Ledger()
        weights = EdgeWeights.apply(weights, ledger)
    if isinstance(weights, Tensor):
        numbers = weights.tolist() if weights.device.type == "cpu" else None
        known: AnyWeights = TensorWeights(weights, degrees, numbers)
    else:
        known = NumberWeights(weights)
    if torch.is_grad_enabled():
        return RecordedRun(schedule, known, image, ledger)
    return EagerRun(schedule, known, image)


def total(terms: Sequence[Tensor]) -> Tensor:
    """Add tensors one after another."""
    result = terms[0]
    for term in terms[1:]:
        result = result + term
    return result
