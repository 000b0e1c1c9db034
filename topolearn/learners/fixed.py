"""Rule-based wirings, the baselines that learned ones are compared with."""

from __future__ import annotations

import random
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from topolearn.graph import Graph, Topology
from topolearn.learners.base import Candidates, EdgeLearner, Options, Phase, kept, register_learner, resolve_fan_in
from topolearn.options import validate


class FixedOptions(Options):
    """Options of :class:`Fixed`.

    Attributes:
        rule: ``prev``: one source per node, the one at the node's own position where several nodes
            have the same candidates, else the latest candidate; ``full``: all; ``random``: K
            distinct candidates, drawn uniformly per node.
        fan_in: K of ``random``; default: half of the largest candidate set, rounded up.
        seed: Seed of ``random``.
    """

    rule: Literal["prev", "full", "random"] = "prev"
    fan_in: Annotated[int, Field(ge=1)] | None = None
    seed: int = 0


@register_learner("fixed")
class Fixed(EdgeLearner):
    """A wiring by rule; learns nothing. Options as in :class:`FixedOptions`.

    A graph without learnable edges is taken as it is.

    Raises:
        OptionError: A fan-in larger than every candidate set.
    """

    options_type = FixedOptions
    capturable = True
    options: FixedOptions
    mask: Tensor

    def __init__(self, graph: Graph, rule: str = "prev", fan_in: int | None = None, seed: int = 0) -> None:
        super().__init__()
        self.options = validate(FixedOptions, {"rule": rule, "fan_in": fan_in, "seed": seed}, "learner 'fixed'")
        self.graph = graph
        self.candidates = Candidates(graph)
        self.fan_in = {
            "prev": min(1, graph.largest_candidate_set),
            "full": graph.largest_candidate_set,
            "random": resolve_fan_in(graph, fan_in),
        }[self.options.rule]
        chosen = _choose(graph, self.options.rule, self.fan_in, seed)
        self.register_buffer("mask", torch.tensor(chosen, dtype=torch.float32), persistent=False)

    def edge_weights(self) -> Tensor:
        """(E,) 1 for chosen candidates, 0 for others, and fixed edges."""
        return self.candidates.spread(self.mask)

    def active(self) -> Tensor:
        """(E,) the chosen candidates, and fixed edges."""
        return (self.candidates.base != 0).index_copy(0, self.candidates.index, self.mask != 0)

    def param_groups(self, lr: float) -> list[dict[str, Any]]:
        """None: there is nothing to learn."""
        return []

    def topology(self) -> Topology:
        """The rule's choice."""
        weights = self.edge_weights().tolist()
        return Topology(tuple(kept(self.graph, self.mask.bool().tolist())), tuple(weights)).close(self.graph)

    def phases(self) -> tuple[Phase, ...]:
        """Training of the pruned network."""
        return (Phase("train", 1.0),)


def _choose(graph: Graph, rule: str, fan_in: int, seed: int) -> list[bool]:
    """(L,) the candidates that ``rule`` picks."""
    sources = {node: tuple(graph.edges[i].src for i in indices) for node, indices in graph.candidates.items()}
    groups: dict[tuple[str, ...], list[str]] = {}
    for node, names in sources.items():
        groups.setdefault(names, []).append(node)
    generator = random.Random(seed)
    chosen: list[bool] = []
    for node, names in sources.items():
        picked = set(range(len(names)))
        if rule == "prev":
            siblings = groups[names]
            position = siblings.index(node) if len(siblings) > 1 else len(names) - 1
            picked = {min(position, len(names) - 1)}
        elif rule == "random":
            picked = set(generator.sample(range(len(names)), min(fan_in, len(names))))
        chosen += [position in picked for position in range(len(names))]
    return chosen
