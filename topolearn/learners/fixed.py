"""Rule-based wirings: the baselines for learned ones."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Annotated, Any, Literal, final

import torch
from pydantic import Field, model_validator
from torch import Tensor

from topolearn.errors import OptionError
from topolearn.graph import Graph, Topology, chain_edges
from topolearn.graph.price import Alive
from topolearn.learners.base import EdgeLearner, Options, Phase, kept, register_learner, resolve_fan_in


class FixedOptions(Options):
    """Options of :class:`Fixed`."""

    rule: Literal["prev", "full", "random", "given"] = "prev"
    """``prev``: one source per node. If several nodes have the same candidates, each takes the one at its own position;
    otherwise a node takes its latest candidate, and one of 1 x 1 (``global``) only if there is no other. ``full``: all
    candidates. ``random``: K distinct candidates, drawn uniformly per node. ``given``: the candidates of a weight other
    than 0 in the graph, at that weight; so a lifted network stays as it is.
    """
    fan_in: Annotated[int, Field(ge=1)] | None = None
    """K of ``random``; default: half of the largest candidate set, rounded up."""
    edges: Annotated[int, Field(ge=1)] | None = None
    """For ``random``, instead of ``fan_in``: the number of learnable edges that stay in the whole graph. Edges are
    removed in random order, together with the nodes that they leave without a path from input to output. An edge stays
    if removing it would leave fewer edges or cut off an output.
    """
    seed: int = 0
    """Seed of ``random``."""

    @model_validator(mode="after")
    def _one_size(self) -> FixedOptions:
        if self.edges is not None and self.fan_in is not None:
            raise ValueError("give 'fan_in', a size per node, or 'edges', one for all, not both")
        if self.edges is not None and self.rule != "random":
            raise ValueError(f"'edges' belongs to rule 'random', not '{self.rule}'")
        return self


@final
@register_learner("fixed")
class Fixed(EdgeLearner):
    """A wiring chosen by a rule; learns nothing.

    A graph without learnable edges stays as it is.

    Raises:
        OptionError: A fan-in larger than every candidate set, or more edges than are learnable.
    """

    options_type = FixedOptions
    capturable = True
    options: FixedOptions
    mask: Tensor

    def __init__(self, graph: Graph, **options: Any) -> None:
        super().__init__(graph, **options)
        rule, seed = self.options.rule, self.options.seed
        if self.options.edges is not None:
            chosen = _thin_out(graph, self.options.edges, seed)
        else:
            self.fan_in = {
                "prev": min(1, graph.largest_candidate_set),
                "full": graph.largest_candidate_set,
                "random": resolve_fan_in(graph, self.options.fan_in),
                "given": max((len(_used(graph, group)) for group in graph.candidates.values()), default=0),
            }[rule]
            chosen = _choose(graph, rule, self.fan_in, seed)
        mask = torch.tensor(chosen, dtype=torch.float32)
        if rule == "given":
            mask = self.candidates.base[self.candidates.index].clone()
        self.register_buffer("mask", mask, persistent=False)

    def edge_weights(self) -> Tensor:
        """Return the (E,) weights: 1 for chosen candidates, 0 for others, the graph's weight for fixed edges.

        With the rule ``given``, chosen candidates have the graph's weight too.
        """
        return self.candidates.spread(self.mask)

    def active(self) -> Tensor:
        """Return (E,) bool: the chosen candidates and the fixed edges."""
        return (self.candidates.base != 0).index_copy(0, self.candidates.index, self.mask != 0)

    def param_groups(self, lr: float) -> list[dict[str, Any]]:
        """Return no groups: there is nothing to learn."""
        return []

    def topology(self) -> Topology:
        """Return the topology that the rule chose."""
        weights = self.edge_weights().tolist()
        return Topology(tuple(kept(self.graph, self.mask.bool().tolist())), tuple(weights)).close(self.graph)

    def phases(self) -> tuple[Phase, ...]:
        """Return one phase: training of the pruned network."""
        return (Phase("train", 1.0),)


def _choose(graph: Graph, rule: str, fan_in: int, seed: int) -> list[bool]:
    """Return (L,) bool: the candidates that ``rule`` picks."""
    groups = graph.candidates.values()
    if rule == "prev":
        chosen = set(chain_edges(graph).values())
    elif rule == "random":
        generator = random.Random(seed)
        chosen = {i for group in groups for i in generator.sample(group, min(fan_in, len(group)))}
    elif rule == "given":
        chosen = {i for group in groups for i in _used(graph, group)}
    else:
        chosen = {i for group in groups for i in group}
    return [i in chosen for group in groups for i in group]


def _used(graph: Graph, candidates: Sequence[int]) -> list[int]:
    return [i for i in candidates if graph.edges[i].weight]


def _thin_out(graph: Graph, count: int, seed: int) -> list[bool]:
    """Remove candidates in random order while ``count`` or more are left; return (L,) bool, the ones that stay."""
    order = [i for indices in graph.candidates.values() for i in indices]
    if count > len(order):
        raise OptionError(
            f"'edges' is {count}, but graph '{graph.name}' has {len(order)} learnable edges; give at most that many"
        )
    learnable = frozenset(order)
    left = frozenset(range(len(graph.edges)))
    for i in random.Random(seed).sample(order, len(order)):
        alive = Alive.of(graph, [j in left and j != i for j in range(len(graph.edges))])
        if len(learnable.intersection(alive.edges)) >= count and alive.nodes.issuperset(graph.outputs):
            left = frozenset(alive.edges)
    return [i in left for i in order]
