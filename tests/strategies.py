"""Hypothesis strategies: small random graphs that are always valid, and topologies over them.

A graph has at most 8 nodes, 8 channels and 12 x 12 pixels, so that compiling and running one takes
milliseconds. Together the graphs use every aggregate, every edge op, most node ops, mixed strides
and channels, fixed and learnable edges, shared parts, and one or several outputs.
"""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import strategies as st

from topolearn.graph import Edge, Graph, Node, Topology
from topolearn.graph.verify import part_signature
from topolearn.ops import NODE_OPS, Shape

MAX_NODES = 8
MAX_CHANNELS = 8
MAX_STRIDE = 4

WEIGHTS = (1.0, 1.0, 0.5, -0.75, 2.0)
CONV_UNITS = (
    "conv",
    "conv_bn",
    "conv_relu",
    "conv_bn_relu",
    "conv_bn_relu6",
    "relu_conv_bn",
    "bn_relu_conv",
    "sepconv_bn_relu",
    "relu_sepconv_bn",
)
BLOCKS = (
    "resnet.basic",
    "resnet.bottleneck",
    "resnet.preact",
    "resnet.basic_branch",
    "resnet.bottleneck_branch",
    "resnext.branch",
    "mobilenetv2.inverted_bottleneck",
)
SIMPLE = ("identity", "relu", "max_pool", "avg_pool")
AGGREGATES = ("sum", "mean", "normalised", "concat")


@st.composite
def graphs(
    draw: st.DrawFn,
    *,
    max_nodes: int = MAX_NODES,
    min_learnable: int = 0,
    max_inputs: int = 1,
    aggregates: Sequence[str] = AGGREGATES,
    node_ops: Sequence[str] = (*SIMPLE, *CONV_UNITS, *BLOCKS),
    share: bool = True,
) -> Graph:
    """Verified graphs.

    Args:
        draw: Given by hypothesis.
        max_nodes: Most nodes, inputs and head included; at least 4.
        min_learnable: 1 for graphs that have a learnable edge for certain.
        max_inputs: 2 for graphs that may take a second image, half as large.
        aggregates: Which aggregates nodes may have.
        node_ops: Which ops nodes may have.
        share: Whether nodes may share projections.
    """
    height, width = draw(st.integers(8, 12)), draw(st.integers(8, 12))
    nodes = [Node("image", "input", {"size": (3, height, width)})]
    shapes = {"image": Shape(3, 1)}
    if max_inputs > 1 and draw(st.booleans()):
        nodes.append(Node("half", "input", {"size": (2, -(-height // 2), -(-width // 2))}))
        shapes["half"] = Shape(2, 2)
    inputs = list(shapes)
    edges: list[Edge] = []
    groups: dict[object, str] = {}
    for number in range(1, draw(st.integers(1, max_nodes - len(nodes) - 1)) + 1):
        # The first node reads every input, so that none is left over.
        sources = inputs if number == 1 else _some(draw, list(shapes))
        name = f"n{number}"
        node, incoming = _aggregation(draw, name, sources, shapes, aggregates)
        op, params = draw(node_transforms(node.input, node_ops))
        node = Node(name, op, params, node.aggregate, node.input)
        if share and node.rule.parts and node.rule.projects(node.input) and draw(st.booleans()):
            signature = part_signature(node.rule, "projection", node)
            node = Node(
                name, op, params, node.aggregate, node.input, {"projection": groups.setdefault(signature, f"g{number}")}
            )
        nodes.append(node)
        edges += incoming
        shapes[name] = node.rule.output(node.input)
    used = {edge.src for edge in edges}
    loose = [name for name in shapes if name not in used and name not in inputs]
    outputs = [name for name in loose[:-1] if draw(st.integers(0, 3)) == 0]
    sources = [name for name in loose if name not in outputs]
    head, incoming = _aggregation(draw, "head", sources, shapes, ["sum", "mean"])
    if min_learnable and not any(edge.learnable for edge in [*edges, *incoming]):
        incoming = [Edge(e.src, e.dst, e.op, e.params, True, e.weight) for e in incoming]
    op = draw(st.sampled_from(["classifier", "segmentation_head", "global_avg_pool"]))
    params = {} if op == "global_avg_pool" else {"classes": draw(st.integers(2, 5))}
    nodes.append(Node("head", op, params, head.aggregate, head.input))
    task = "segmentation" if op == "segmentation_head" else "classification"
    return Graph("random", nodes, (*edges, *incoming), (*outputs, "head"), task).verify()


def _some(draw: st.DrawFn, names: list[str]) -> list[str]:
    """One to four of ``names``, the latest among them more often than not."""
    chosen = draw(st.lists(st.sampled_from(names), min_size=1, max_size=4, unique=True))
    if names[-1] not in chosen and draw(st.booleans()):
        chosen.append(names[-1])
    return sorted(chosen, key=names.index)


def _aggregation(
    draw: st.DrawFn, name: str, sources: list[str], shapes: dict[str, Shape], aggregates: Sequence[str]
) -> tuple[Node, list[Edge]]:
    """An identity node with a declared input, and in-edges that bring it."""
    aggregate = draw(st.sampled_from(list(aggregates)))
    total = sum(shapes[source].channels for source in sources)
    if aggregate == "concat" and total > MAX_CHANNELS:
        aggregate = "sum"
    stride = draw(st.sampled_from(sorted({shapes[source].stride for source in sources})))
    channels = total
    if aggregate != "concat":
        common = {shapes[source].channels for source in sources}
        channels = draw(st.sampled_from([*sorted(common), max(common), MAX_CHANNELS]))
    wanted = Shape(channels, stride)
    edges = []
    for source in sources:
        there = Shape(shapes[source].channels, stride) if aggregate == "concat" else wanted
        op, params = draw(carriers(shapes[source], there))
        learnable = aggregate != "concat" and draw(st.booleans())
        edges.append(Edge(source, name, op, params, learnable, draw(st.sampled_from(WEIGHTS))))
    return Node(name, "identity", {}, aggregate, wanted), edges


@st.composite
def carriers(draw: st.DrawFn, source: Shape, target: Shape) -> tuple[str, dict[str, object]]:
    """An edge op that brings a map of shape ``source`` to ``target``, and its parameters."""
    assert isinstance(source.stride, int)
    assert isinstance(target.stride, int)
    finer = target.stride % source.stride == 0
    kinds = ["conv_resize"]
    if source == target:
        kinds += ["identity", "identity"]
    if finer and source.channels <= target.channels:
        kinds += ["align", "align"]
    if finer:
        kinds.append("project")
    if source.channels == target.channels:
        kinds.append("resize")
    op = draw(st.sampled_from(kinds))
    params: dict[str, object] = {}
    match op:
        case "align":
            offset = draw(st.integers(0, target.channels - source.channels))
            params = {"offset": offset} if offset else {}
        case "project":
            params = {} if draw(st.booleans()) else {"affine": False}
        case "resize":
            params = {"mode": draw(st.sampled_from(["bilinear", "nearest"]))}
        case "conv_resize":
            params = {
                "activation": draw(st.sampled_from(["none", "relu", "relu6"])),
                "batch_norm": draw(st.booleans()),
            }
    return op, params


@st.composite
def node_transforms(
    draw: st.DrawFn, x: Shape, node_ops: Sequence[str] = (*SIMPLE, *CONV_UNITS, *BLOCKS)
) -> tuple[str, dict[str, object]]:
    """A node op that takes ``x`` and gives a map, and its parameters."""
    assert isinstance(x.stride, int)
    op = draw(st.sampled_from(list(node_ops)))
    stride = draw(st.sampled_from([1, 1, 2])) if x.stride < MAX_STRIDE else 1
    channels = draw(st.sampled_from([2, 4, 4, 6, MAX_CHANNELS]))
    params: dict[str, object] = {}
    if op in ("max_pool", "avg_pool"):
        params = {"kernel": 2} if stride == 2 and draw(st.booleans()) else {"kernel": 3, "stride": stride}
    elif op in CONV_UNITS:
        params = {"out_channels": channels, "stride": stride, "kernel": draw(st.sampled_from([1, 3]))}
        if "sepconv" not in op and x.channels % 2 == 0 and channels % 2 == 0 and draw(st.booleans()):
            params["groups"] = 2
    elif op in ("resnet.basic", "resnet.bottleneck", "resnet.preact"):
        shortcut = "pad" if channels >= x.channels and draw(st.booleans()) else "projection"
        params = {"channels": channels, "stride": stride, "shortcut": shortcut}
        if op == "resnet.bottleneck":
            params["width"] = draw(st.integers(1, 4))
    elif op in ("resnet.basic_branch", "resnet.bottleneck_branch"):
        params = {"channels": channels, "stride": stride}
        if op == "resnet.bottleneck_branch":
            params |= {"width": draw(st.integers(1, 4)), "dilation": draw(st.integers(1, 2))}
            params["squeeze"] = draw(st.sampled_from([None, 2]))
    elif op == "resnext.branch":
        params = {"width": draw(st.integers(1, 4)), "out_channels": channels, "stride": stride}
        if draw(st.booleans()):
            params["residual_scale"] = 0.5
    elif op == "mobilenetv2.inverted_bottleneck":
        params = {"out_channels": channels, "expansion": draw(st.sampled_from([1, 2])), "stride": stride}
    if "affine" in NODE_OPS[op].model_fields and draw(st.integers(0, 3)) == 0:
        params["affine"] = False
    return op, params


@st.composite
def topologies(draw: st.DrawFn, graph: Graph) -> Topology:
    """A choice among the learnable edges of ``graph``, not closed; fixed edges stay with their weights."""
    keep = [not edge.learnable or draw(st.booleans()) for edge in graph.edges]
    weights = [draw(st.sampled_from([0.25, -1.5, 3.0])) if edge.learnable else edge.weight for edge in graph.edges]
    return Topology(tuple(keep), tuple(weights))


@st.composite
def layered_graphs(draw: st.DrawFn) -> Graph:
    """Layers of one to four siblings: equal ops, equal inputs, each with sources of its own in earlier layers."""
    nodes = [Node("image", "input", {"size": (3, draw(st.integers(8, 11)), 9)})]
    edges: list[Edge] = []
    shapes = {"image": Shape(3, 1)}
    for layer in range(draw(st.integers(1, 4))):
        latest = [name for name in shapes if name.startswith(f"l{layer - 1}_")] or ["image"]
        older = [name for name in shapes if name not in latest]
        stride = max(shapes[name].stride for name in shapes)
        x = Shape(max(shape.channels for shape in shapes.values()), stride)
        op, params = draw(node_transforms(x, ("identity", "relu", "max_pool", *CONV_UNITS, *BLOCKS)))
        aggregate = draw(st.sampled_from(["sum", "mean", "normalised"]))
        shared = {}
        rule = Node("n", op, params, aggregate, x).rule
        if rule.parts and rule.projects(x) and draw(st.booleans()):
            shared = {"projection": f"g{layer}"}
        siblings = [f"l{layer}_{i}" for i in range(draw(st.integers(1, 4)))]
        alike = draw(st.booleans())  # as in a bipartite stage, or each its own way
        for number, name in enumerate(siblings):
            if number == 0 or not alike:
                # The first reads the whole layer before, so that none of it is left over.
                sources = [*latest] if number == 0 else draw(st.lists(st.sampled_from(latest), min_size=1, unique=True))
                sources += draw(st.lists(st.sampled_from(older), max_size=2, unique=True)) if older else []
                learnable = draw(st.booleans())
                weight = draw(st.sampled_from(WEIGHTS))
            nodes.append(Node(name, op, params, aggregate, x, shared))
            for source in sorted(set(sources), key=list(shapes).index):
                carry = "identity" if shapes[source] == x else "align"
                edges.append(Edge(source, name, carry, {}, learnable and source != "image", weight))
        shapes.update(dict.fromkeys(siblings, rule.output(x)))
    last = [name for name in shapes if name.startswith(f"l{layer}_")]
    nodes.append(Node("head", "classifier", {"classes": 3}, "mean", shapes[last[0]]))
    edges += [Edge(name, "head", learnable=draw(st.booleans())) for name in last]
    return Graph("layered", nodes, tuple(edges), ("head",), "classification").verify()


@st.composite
def relu_graphs(draw: st.DrawFn) -> Graph:
    """Graphs of one shape with many relus, most of them over sums that are nowhere below 0."""
    x = Shape(3, 1)
    nodes = [Node("image", "input", {"size": (3, 5, 6)}), Node("stem", "conv_bn_relu", {"out_channels": 3}, input=x)]
    edges = [Edge("image", "stem")]
    names = ["stem"]
    for number in range(draw(st.integers(1, 7))):
        name = f"n{number}"
        op = draw(st.sampled_from(["relu", "relu", "relu", "relu", "identity", "max_pool", "conv_bn"]))
        params: dict[str, object] = {"kernel": 3, "stride": 1} if op == "max_pool" else {}
        aggregate = draw(st.sampled_from([*["sum"] * 5, *["mean"] * 3, "normalised", "concat"]))
        recent = names[-4:]
        sources = draw(st.one_of(st.just([names[-1]]), st.lists(st.sampled_from(recent), min_size=1, unique=True)))
        if aggregate == "concat":
            op = "conv_bn_relu"  # which brings the channels back
        if op.startswith("conv"):
            params = {"out_channels": 3}
        takes = Shape(3 * len(sources), 1) if aggregate == "concat" else x
        nodes.append(Node(name, op, params, aggregate, takes))
        for source in sources:
            carry = draw(st.sampled_from(["identity"] * 14 + ["align", "project"]))
            weight = draw(st.sampled_from([*[1.0] * 4, 0.5, 2.0, 2.0, 0.25, -0.75, 0.0]))
            learnable = aggregate != "concat" and draw(st.integers(0, 19)) == 0
            edges.append(Edge(source, name, carry, {}, learnable, weight))
        names.append(name)
    used = {edge.src for edge in edges}
    loose = [name for name in names if name not in used]
    outputs = [name for name in loose[:-1] if draw(st.booleans())]
    nodes.append(Node("head", "classifier", {"classes": 3}, draw(st.sampled_from(["sum", "mean"])), x))
    edges += [Edge(name, "head") for name in loose if name not in outputs]
    return Graph("relus", nodes, tuple(edges), (*outputs, "head")).verify()
