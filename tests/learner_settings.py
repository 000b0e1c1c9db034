"""One table of canonical settings per learner: the same tests run for every line of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from topolearn.graph import Graph
from topolearn.learners import EdgeLearner, make_learner


@dataclass(frozen=True)
class Setting:
    """One way to use a learner.

    Attributes:
        learner: Its registered name.
        options: What is set explicitly.
        learns: Whether it has parameters.
        draws: Whether it draws random numbers while training.
        binary: Whether its edge weights are 0 or 1.
        penalises: Whether its penalty is above 0 at the start, on nodes with several candidates.
    """

    learner: str
    options: Mapping[str, Any] = field(default_factory=dict)
    learns: bool = True
    draws: bool = False
    binary: bool = False
    penalises: bool = False

    def make(self, graph: Graph, **changes: Any) -> EdgeLearner:
        """The learner for ``graph``."""
        return make_learner(self.learner, graph, {**self.options, **changes})


SETTINGS = {
    "maskconnect": Setting("maskconnect", {"seed": 3}, draws=True, binary=True),
    "maskconnect-literal": Setting(
        "maskconnect", {"update": "literal", "lr_scale": 10.0, "seed": 3}, draws=True, binary=True
    ),
    "continuous-uniform": Setting("continuous", {"penalty": "uniform"}, penalises=True),
    "continuous-adaptive": Setting("continuous", {"penalty": "adaptive"}, penalises=True),
    "continuous-proximal": Setting("continuous", {"proximal": True}),
    "continuous-budget": Setting("continuous", {"budget": {"macs": 1.0}}),
    "sparsemask-cost": Setting("sparsemask", {"cost": "macs", "seed": 3}, draws=True, penalises=True),
    "sparsemask": Setting("sparsemask", {"seed": 3}, draws=True, penalises=True),
    "fixed-prev": Setting("fixed", {"rule": "prev"}, learns=False, binary=True),
    "fixed-full": Setting("fixed", {"rule": "full"}, learns=False, binary=True),
    "fixed-given": Setting("fixed", {"rule": "given"}, learns=False),
    "fixed-random": Setting("fixed", {"rule": "random", "seed": 3}, learns=False, binary=True),
    "ablation": Setting("ablation", {"budget": {"macs": 1.0}}, learns=False),
    "taylor": Setting("taylor", {"budget": {"params": 1.0}}, learns=False),
    "similarity": Setting("similarity", {"batches": 2}, learns=False),
    "random_blocks": Setting("random_blocks", {"seed": 3}, learns=False),
}
