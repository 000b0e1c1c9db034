"""The compiled network: runs a plan over the modules of a graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from topolearn.compiler.lowering import find_siblings, make_plan
from topolearn.compiler.modules.base import Modules
from topolearn.compiler.plan import NodeOutput, Plan
from topolearn.compiler.run import start_run
from topolearn.compiler.schedule import make_schedule
from topolearn.compiler.stacking import stack
from topolearn.compiler.steps import Binding, BoundLevel
from topolearn.graph import Graph

Inputs = Tensor | Mapping[str, Tensor]
Outputs = Tensor | dict[str, Tensor]
Weights = Tensor | Sequence[float]


class DAG(nn.Module):
    """A graph's forward pass for given effective edge weights.

    Effective means that the divisor of ``mean`` is already included. A fixed edge's entry is its weight in the graph
    and gets no gradient.

    The DAG owns no tensors: the modules are the network's, whose ``state_dict`` keeps the graph's layout.
    Nodes that do the same work side by side run as one (:mod:`topolearn.compiler.lowering.siblings`). So do the
    convolutions of ``conv_resize`` edges from one source. For these modules, forward hooks are not called, replacing
    a module has no effect, and either all of them train or none does.
    """

    def __init__(
        self, graph: Graph, nodes: Modules, edges: Modules, shared: Modules, *, plan: Plan | None = None
    ) -> None:
        super().__init__()
        self.nodes = nodes
        self.edges = edges
        self.shared = shared
        if plan is None:
            plan = make_plan(graph, find_siblings(graph, lambda ids: stack([nodes[name] for name in ids]) is not None))
        self.plan = plan
        self.schedule = make_schedule(plan)
        self.given = [(name, self.schedule.slot_of[NodeOutput(name)]) for name in graph.inputs]
        self.returned = [(name, self.schedule.slot_of[NodeOutput(name)]) for name in graph.outputs]
        self.image = graph.image_inputs[0] if graph.image_inputs else None  # what strides refer to
        to = Binding(self.schedule, nodes, edges, shared)
        levels = zip(self.schedule.levels, self.schedule.last_reads, strict=True)
        self.levels = [BoundLevel(turns, last_reads, to) for turns, last_reads in levels]

    def forward(self, inputs: Inputs, weights: Weights) -> Outputs:
        """Run the network.

        Args:
            inputs: (N, C, H, W) or (N, features); several inputs as a mapping by input id.
            weights: (E,) effective edge weights. Python numbers are constants; those equal to 0 cost no addition,
                except between sets of siblings, whose weights are one matrix. Nodes and edge ops still run:
                only :func:`topolearn.prune` leaves them out.

        Returns:
            The output, or several as a dict by node id.
        """
        given = {self.given[0][0]: inputs} if isinstance(inputs, Tensor) else inputs
        image = (1, 1) if self.image is None else (given[self.image].shape[-2], given[self.image].shape[-1])
        run = start_run(self.schedule, weights, image)
        for name, slot in self.given:
            run.values[slot] = given[name]
        for level in self.levels:
            level.run(run)
        if len(self.returned) == 1:
            output: Tensor = run.values[self.returned[0][1]]
            return output
        return {name: run.values[slot] for name, slot in self.returned}
