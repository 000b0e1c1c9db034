"""One graph per registered op: being registered is enough to be tested, and to need a sample here."""

from __future__ import annotations

from typing import Any

from topolearn.graph import Edge, Graph, Node
from topolearn.ops import Shape

SIZE = (3, 9, 15)
IDS = Shape(1, None, 5, 7)
"""Five tokens of a vocabulary of seven."""
TOKENS = Shape(4, length=5)

# op, its parameters, the shape that the node takes
NODES: list[tuple[str, dict[str, Any], Shape]] = [
    ("identity", {}, Shape(4, 2)),
    ("concat", {}, Shape(4, 2)),
    ("relu", {}, Shape(4, None)),
    ("batch_norm", {}, Shape(4, 2)),
    ("batch_norm", {"affine": False}, Shape(4, "global")),
    ("max_pool", {}, Shape(4, 1)),
    ("max_pool", {"kernel": 3, "stride": 2}, Shape(4, 1)),
    ("avg_pool", {}, Shape(4, 1)),
    ("avg_pool", {"kernel": 3, "stride": 1}, Shape(4, 2)),
    ("global_avg_pool", {}, Shape(4, 2)),
    ("conv", {"out_channels": 6, "stride": 2}, Shape(4, 1)),
    ("conv", {"out_channels": 6, "dilation": 2, "groups": 2}, Shape(4, 1)),
    ("conv", {"out_channels": 6}, Shape(4, "global")),
    ("conv_bn", {"out_channels": 6, "affine": False}, Shape(4, 1)),
    ("conv_relu", {"out_channels": 6, "kernel": 1}, Shape(4, 1)),
    ("conv_bn_relu", {"out_channels": 6, "kernel": 5}, Shape(4, 2)),
    ("conv_bn_relu6", {"out_channels": 6, "groups": 2}, Shape(4, 1)),
    ("relu_conv_bn", {"out_channels": 6, "stride": 2}, Shape(4, 1)),
    ("bn_relu_conv", {"out_channels": 6}, Shape(4, 1)),
    ("sepconv_bn_relu", {"out_channels": 6, "stride": 2}, Shape(4, 1)),
    ("relu_sepconv_bn", {"out_channels": 6, "groups": 2}, Shape(4, 1)),
    ("resnet.basic", {"channels": 6, "stride": 2}, Shape(4, 1)),
    ("resnet.basic", {"channels": 4}, Shape(4, 1)),
    ("resnet.basic", {"channels": 3, "shortcut": "projection"}, Shape(4, 1)),
    ("resnet.bottleneck", {"channels": 8, "stride": 2, "groups": 2, "width": 4}, Shape(4, 1)),
    ("resnet.bottleneck", {"channels": 8, "shortcut": "pad", "affine": False}, Shape(4, 1)),
    ("resnet.preact", {"channels": 6, "stride": 2}, Shape(4, 1)),
    ("resnet.preact", {"channels": 4, "affine": False}, Shape(4, 1)),
    ("resnet.preact", {"channels": 3, "stride": 2, "shortcut": "projection"}, Shape(4, 1)),
    ("resnet.basic_branch", {"channels": 6, "stride": 2}, Shape(4, 1)),
    ("resnet.bottleneck_branch", {"channels": 8, "width": 4, "groups": 2, "dilation": 2}, Shape(4, 1)),
    ("resnet.bottleneck_branch", {"channels": 4, "width": 6, "squeeze": 2, "stride": 2}, Shape(4, 1)),
    ("resnext.branch", {"width": 2, "out_channels": 6, "stride": 2, "residual_scale": 3.0}, Shape(4, 1)),
    ("resnext.branch", {"width": 2, "out_channels": 4}, Shape(4, 1)),
    ("mobilenetv2.inverted_bottleneck", {"out_channels": 4, "expansion": 2}, Shape(4, 1)),
    ("mobilenetv2.inverted_bottleneck", {"out_channels": 4, "expansion": 2, "shortcut": False}, Shape(4, 1)),
    ("mobilenetv2.inverted_bottleneck", {"out_channels": 6, "expansion": 1, "stride": 2, "kernel": 5}, Shape(4, 1)),
    ("linear", {"out_features": 5, "activation": "relu"}, Shape(4, None)),
    ("linear", {"out_features": 5, "bias": False}, Shape(4, None)),
    ("classifier", {"classes": 5, "activation": "relu", "dropout": 0.5}, Shape(4, 2)),
    ("classifier", {"classes": 5, "activation": "relu6"}, Shape(4, None)),
    ("segmentation_head", {"classes": 5}, Shape(4, 2)),
    ("embedding", {"channels": 6}, IDS),
    ("embedding", {"channels": 6, "positions": "rotary", "dropout": 0.5}, IDS),
    ("patch_embedding", {"channels": 6, "patch": 1, "size": (5, 8), "bias": False}, Shape(4, 2)),
    (
        "patch_embedding",
        {"channels": 6, "patch": 3, "size": (9, 15), "positions": "rotary", "bias": False},
        Shape(3, 1),
    ),
    ("patch_embedding", {"channels": 6, "patch": 3, "size": (9, 15), "class_token": True}, Shape(3, 1)),
    ("layer_norm", {}, TOKENS),
    ("layer_norm", {"norm": "rms"}, TOKENS),
    ("token_head", {"classes": 5}, TOKENS),
    ("token_head", {"classes": 5, "norm": "none", "bias": False}, TOKENS),
    ("token_pool", {}, TOKENS),
    ("transformer.attention", {"heads": 2, "causal": True, "layers": 3}, TOKENS),
    ("transformer.attention", {"heads": 1, "positions": "rotary", "bias": False, "dropout": 0.5}, TOKENS),
    ("transformer.mlp", {"width": 5, "norm": "rms", "dropout": 0.5}, TOKENS),
    ("transformer.block", {"heads": 2, "causal": True, "bias": False, "layers": 3}, TOKENS),
    ("transformer.block", {"heads": 2, "positions": "rotary", "norm": "rms"}, TOKENS),
    ("concat", {}, TOKENS),
]

# op, its parameters, the shape of the source's output, the shape that it must bring
EDGES: list[tuple[str, dict[str, Any], Shape, Shape]] = [
    ("identity", {}, Shape(4, 2), Shape(4, 2)),
    ("align", {}, Shape(4, 1), Shape(8, 4)),
    ("align", {"offset": 2}, Shape(4, 2), Shape(8, 2)),
    ("align", {"offset": 1}, Shape(4, None), Shape(6, None)),
    ("align", {"offset": 1}, TOKENS, Shape(8, length=5)),
    ("project", {}, Shape(4, 1), Shape(2, 4)),
    ("project", {"affine": False}, Shape(4, "global"), Shape(6, "global")),
    ("resize", {}, Shape(4, 4), Shape(4, 1)),
    ("resize", {"align_corners": False}, Shape(4, 2), Shape(4, 1)),
    ("resize", {"mode": "nearest"}, Shape(4, 1), Shape(4, 2)),
    ("resize", {}, Shape(4, "global"), Shape(4, 2)),
    ("conv_resize", {}, Shape(4, 4), Shape(2, 1)),
    ("conv_resize", {"affine": True, "activation": "none"}, Shape(4, 1), Shape(2, 2)),
    ("conv_resize", {"batch_norm": False, "activation": "relu", "mode": "nearest"}, Shape(4, 2), Shape(6, 1)),
]

# Covered by graphs of their own: every graph has inputs, and tests/compiler/test_backbone.py and test_timm_encoder.py
# have the rest.
ELSEWHERE = {"input", "feature", "torchvision.backbone", "timm.backbone", "part"}

NODE_IDS = [f"{op}-{i}" for i, (op, *_) in enumerate(NODES)]
EDGE_IDS = [f"{op}-{i}" for i, (op, *_) in enumerate(EDGES)]


def source_of(shape: Shape, name: str) -> tuple[list[Node], list[Edge]]:
    """Nodes from the input ``image`` (or ``facts``, for a vector, ``ids``, for tokens) to a node of this shape."""
    if shape.is_ids:
        return [], []
    if shape.is_tokens:
        return [Node(name, "embedding", {"channels": shape.channels})], [Edge("ids", name)]
    if shape.stride is None:
        return [Node(name, "linear", {"out_features": shape.channels})], [Edge("facts", name)]
    if shape.stride == "global":
        before = f"{name}_map"
        return (
            [Node(before, "conv", {"out_channels": shape.channels}), Node(name, "global_avg_pool")],
            [Edge("image", before), Edge(before, name)],
        )
    return (
        [Node(name, "conv", {"out_channels": shape.channels, "stride": shape.stride})],
        [Edge("image", name)],
    )


def combined(name: str, pieces: list[tuple[list[Node], list[Edge], str]]) -> Graph:
    """One graph of several pieces, each with an output."""
    nodes = [node for piece, _, _ in pieces for node in piece]
    edges = [edge for _, piece, _ in pieces for edge in piece]
    inputs = [
        Node("image", "input", {"size": SIZE}),
        Node("facts", "input", {"size": (4,)}),
        Node("ids", "input", {"length": 5, "vocabulary": 7}),
    ]
    read = {edge.src for edge in edges}
    outputs = tuple(output for _, _, output in pieces)
    given = [node for node in inputs if node.id in read]
    return Graph(name, [*given, *nodes], tuple(edges), outputs).declare_inputs().verify()


def node_piece(number: int) -> tuple[list[Node], list[Edge], str]:
    """A source, and the node of sample ``number`` that reads it over a learnable edge where it may."""
    op, params, x = NODES[number]
    name, source = f"node{number}", f"source{number}"
    nodes, edges = source_of(x, source)
    if x.is_ids:
        return [Node(name, op, params, "sum", x)], [Edge("ids", name)], name
    node = Node(name, op, params, "concat" if op == "concat" else "sum", x)
    return [*nodes, node], [*edges, Edge(source, name, learnable=op != "concat")], name


def edge_piece(number: int) -> tuple[list[Node], list[Edge], str]:
    """A source, and an identity node that reads it over the edge of sample ``number``."""
    op, params, source, target = EDGES[number]
    name, before = f"target{number}", f"start{number}"
    nodes, edges = source_of(source, before)
    node = Node(name, "identity", {}, "sum", target)
    return [*nodes, node], [*edges, Edge(before, name, op, params, learnable=True, weight=0.75)], name


def node_graph(number: int) -> Graph:
    return combined(NODE_IDS[number], [node_piece(number)])


def edge_graph(number: int) -> Graph:
    return combined(EDGE_IDS[number], [edge_piece(number)])


GRAPHS = {
    **{name: (node_graph, i) for i, name in enumerate(NODE_IDS)},
    **{f"edge-{name}": (edge_graph, i) for i, name in enumerate(EDGE_IDS)},
}


def sample(name: str) -> Graph:
    """The graph of one sample."""
    make, number = GRAPHS[name]
    return make(number)


def everything(without: str | None = None) -> Graph:
    """All samples side by side, but for those of one op."""
    nodes = [node_piece(i) for i, (op, *_) in enumerate(NODES) if op != without]
    return combined("everything", [*nodes, *(edge_piece(i) for i in range(len(EDGES)))])
