"""A plug-in: a node op, its module, and a learner."""

from torch import Tensor, nn

from topolearn.compiler.modules import builds_node
from topolearn.graph import Topology
from topolearn.learners import Candidates, EdgeLearner, Options, Phase, register_learner
from topolearn.ops import Cost, NodeOp, Shape, register_node_op


@register_node_op("example.scale")
class Scale(NodeOp):
    """``y = factor * x``."""

    factor: float = 2.0

    def output(self, x: Shape) -> Shape:
        return x

    def cost(self, x: Shape, image: tuple[int, int]) -> Cost:
        return Cost()


class ScaleModule(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor


@builds_node(Scale)
def build_scale(rule: Scale, x: Shape) -> nn.Module:
    return ScaleModule(rule.factor)


@register_learner("example-first")
class First(EdgeLearner):
    """Keeps the first candidate of every node."""

    options_type = Options

    def __init__(self, graph) -> None:
        super().__init__()
        self.graph, self.options, self.fan_in = graph, Options(), 1
        self.candidates = Candidates(graph)

    def edge_weights(self) -> Tensor:
        first = {indices[0] for indices in self.graph.candidates.values()}
        return self.candidates.spread(
            self.candidates.base.new_tensor([i in first for i in self.candidates.index.tolist()])
        )

    def param_groups(self, lr: float) -> list:
        return []

    def topology(self) -> Topology:
        weights = self.edge_weights().tolist()
        return Topology(tuple(w != 0 for w in weights), tuple(weights)).close(self.graph)

    def phases(self) -> tuple[Phase, ...]:
        return (Phase("train", 1.0),)
