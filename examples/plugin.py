"""Add your own op and learner. In a package, an entry point of the group topolearn.plugins imports them.

python examples/plugin.py
"""

import torch
from torch import Tensor, nn

import topolearn
from topolearn.compiler import builds_node
from topolearn.graph import Graph
from topolearn.learners import EdgeLearner, Phase, register_learner
from topolearn.ops import Cost, NodeOp, Shape, register_node_op

GRAPH = """
topolearn: 1
name: scaled
inputs: {image: [1, 8, 8]}
nodes:
  stem: {op: conv_bn_relu, out_channels: 8}
  block[1..4]: {op: conv_bn_relu, out_channels: 8, aggregate: mean}
  scale: {op: example.channel_scale, start: 0.5}
  head: {op: classifier, classes: 10}
edges:
  - {from: image, to: stem}
  - {connect: complete, nodes: [stem, "block[1..4]", scale], learnable: true}
  - {from: scale, to: head}
outputs: [head]
"""


@register_node_op("example.channel_scale")
class ChannelScale(NodeOp):
    """Multiplies each channel by a learned factor."""

    start: float = 1.0
    """Start value of the factors."""

    def output(self, x: Shape) -> Shape:
        """The output has the shape of the input."""
        return x

    def cost(self, x: Shape, image: tuple[int, int]) -> Cost:
        """Count one parameter per channel."""
        return Cost(params=x.channels)


class ChannelScaleModule(nn.Module):
    """The computation: (N, C, H, W) -> (N, C, H, W)."""

    def __init__(self, channels: int, start: float) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.full((channels, 1, 1), start))

    def forward(self, x: Tensor) -> Tensor:
        """Scale each channel."""
        return x * self.factor


@builds_node(ChannelScale)
def build(rule: ChannelScale, x: Shape) -> nn.Module:
    """Make the module of a rule."""
    return ChannelScaleModule(x.channels, rule.start)


@register_learner("example-newest")
class Newest(EdgeLearner):
    """Keeps the newest candidate of every node; learns nothing."""

    def edge_weights(self) -> Tensor:
        """Return (E,) weights: 1 for the newest candidate of each node, 0 for the others."""
        newest = {indices[-1] for indices in self.graph.candidates.values()}
        chosen = [float(index in newest) for index in self.candidates.index.tolist()]
        return self.candidates.spread(self.candidates.base.new_tensor(chosen))

    def param_groups(self, lr: float) -> list[dict[str, object]]:
        """Return no parameters: nothing is learned."""
        return []

    def topology(self) -> topolearn.Topology:
        """Return what is kept in the end: the same edges."""
        weights = self.edge_weights().tolist()
        return topolearn.Topology(tuple(weight != 0 for weight in weights), tuple(weights)).close(self.graph)

    def phases(self) -> tuple[Phase, ...]:
        """Plan one phase, which trains what is kept."""
        return (Phase("train", 1.0),)


def main() -> None:
    """Train with the op and the learner, and export."""
    graph: Graph = topolearn.loads(GRAPH)
    result = topolearn.fit(graph, "example-newest", "digits", epochs=2)
    print(result.searched, "->", result.graph)
    print("done:", topolearn.export_onnx(result.model, "plugin.onnx"))


if __name__ == "__main__":
    main()
