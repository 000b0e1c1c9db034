"""Add an op and a learner of your own. In a package, an entry point of the group topolearn.plugins imports them.

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
    """What the factors start from."""

    def output(self, x: Shape) -> Shape:
        """As the input."""
        return x

    def cost(self, x: Shape, image: tuple[int, int]) -> Cost:
        """A parameter per channel."""
        return Cost(params=x.channels)


class ChannelScaleModule(nn.Module):
    """The computation: (N, C, H, W) -> (N, C, H, W)."""

    def __init__(self, channels: int, start: float) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.full((channels, 1, 1), start))

    def forward(self, x: Tensor) -> Tensor:
        """Scaled."""
        return x * self.factor


@builds_node(ChannelScale)
def build(rule: ChannelScale, x: Shape) -> nn.Module:
    """Rule to module."""
    return ChannelScaleModule(x.channels, rule.start)


@register_learner("example-newest")
class Newest(EdgeLearner):
    """Keeps the newest candidate of every node; a wiring by rule."""

    def edge_weights(self) -> Tensor:
        """(E,) 1 for the newest candidate of each node, 0 for the others."""
        newest = {indices[-1] for indices in self.graph.candidates.values()}
        chosen = [float(index in newest) for index in self.candidates.index.tolist()]
        return self.candidates.spread(self.candidates.base.new_tensor(chosen))

    def param_groups(self, lr: float) -> list[dict[str, object]]:
        """Nothing is learned."""
        return []

    def topology(self) -> topolearn.Topology:
        """The same edges, for good."""
        weights = self.edge_weights().tolist()
        return topolearn.Topology(tuple(weight != 0 for weight in weights), tuple(weights)).close(self.graph)

    def phases(self) -> tuple[Phase, ...]:
        """One phase that trains what is kept."""
        return (Phase("train", 1.0),)


def main() -> None:
    """Use both."""
    graph: Graph = topolearn.loads(GRAPH)
    result = topolearn.fit(graph, "example-newest", "digits", epochs=2)
    print(result.searched, "->", result.graph)
    print("done:", topolearn.export_onnx(result.model, "plugin.onnx"))


if __name__ == "__main__":
    main()
