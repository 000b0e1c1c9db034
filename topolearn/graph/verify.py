"""Checks that a graph is a network that can be built; errors name the place and what to do."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TypeVar

from topolearn.errors import GraphError, OptionError, suggest
from topolearn.frozen import FrozenMap
from topolearn.graph.wiring import AGGREGATES, Edge, Node, Wiring, edge_target, output_shape, rule_of
from topolearn.ops import Bundle, Shape, ShapeError
from topolearn.ops.base import NodeOp
from topolearn.ops.basic import Input
from topolearn.ops.part import NetworkPart
from topolearn.ops.shape import Stride

WiringT = TypeVar("WiringT", bound=Wiring)

_ID = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")


def verify(graph: Wiring) -> None:
    """Raise a GraphError for the first error in ``graph``."""
    _check_ids(graph)
    _check_acyclic(graph)
    _check_nodes(graph)
    _check_paths(graph)
    _check_shapes(graph)
    _check_ids_are_embedded(graph)
    _check_class_tokens(graph)
    _check_sharing(graph)


def _check_ids(graph: Wiring) -> None:
    for node in graph.nodes.values():
        if not _ID.match(node.id):
            raise GraphError(
                f"'{node.id}' is not an id; use letters, digits and '_', not starting with a digit", node=node.id
            )
        if node.aggregate not in AGGREGATES:
            raise GraphError(
                f"node '{node.id}': unknown aggregate '{node.aggregate}'{suggest(node.aggregate, AGGREGATES)}",
                node=node.id,
            )
    seen: set[tuple[str, str]] = set()
    known = set(graph.nodes)
    for edge in graph.edges:
        pair = (edge.src, edge.dst)
        for end in pair:
            if end not in known:
                raise GraphError(
                    f"edge {edge.src} -> {edge.dst}: unknown node '{end}'{suggest(end, graph.nodes)}", edge=pair
                )
        if pair in seen:
            raise GraphError(f"edge {edge.src} -> {edge.dst} occurs twice; keep one of them", edge=pair)
        seen.add(pair)
    if not graph.inputs:
        raise GraphError("the graph has no input; declare one under 'inputs', such as 'image: [3, 32, 32]'")
    if not graph.outputs:
        raise GraphError("the graph has no output; list one under 'outputs'")
    for output in graph.outputs:
        if output not in graph.nodes:
            raise GraphError(f"unknown output '{output}'{suggest(output, graph.nodes)}")
    if len(set(graph.outputs)) != len(graph.outputs):
        raise GraphError("an output is listed twice; keep one of them")


def _check_acyclic(graph: Wiring) -> None:
    position = {node: index for index, node in enumerate(graph.nodes)}
    if all(position[edge.src] < position[edge.dst] for edge in graph.edges):
        return
    import networkx as nx

    cycle = [src for src, _ in nx.find_cycle(nx.DiGraph([(e.src, e.dst) for e in graph.edges]))]
    start = cycle.index(min(cycle, key=position.__getitem__))
    path = cycle[start:] + cycle[: start + 1]
    raise GraphError(f"the edges form a cycle: {' -> '.join(path)}; remove one of them", edge=(path[-2], path[-1]))


def _check_nodes(graph: Wiring) -> None:
    for node in graph.nodes.values():
        rule = rule_of(node)
        incoming = len(graph.in_edges(node.id))
        if isinstance(rule, Input):
            if incoming:
                source = graph.edges[graph.in_edges(node.id)[0]].src
                raise GraphError(f"edge {source} -> {node.id}: an input takes no edges", edge=(source, node.id))
        elif not incoming:
            raise GraphError(f"node '{node.id}' has no in-edge; connect it or remove it", node=node.id)
        elif isinstance(rule, NetworkPart) and rule.source not in graph.sources:
            raise GraphError(
                f"node '{node.id}': the graph has no source '{rule.source}'{suggest(rule.source, graph.sources)}",
                node=node.id,
            )
        elif rule.takes_bundle:
            _check_feature(graph, node, incoming)
        elif node.input is None:
            raise GraphError(f"node '{node.id}' declares no input; call declare_inputs() first", node=node.id)
        elif node.aggregate == "normalised" and (node.input.is_tokens or node.input.dims is not None):
            raise GraphError(
                f"node '{node.id}': 'aggregate: normalised' is for feature maps, because batch statistics over tokens"
                " would let each see later ones; use 'sum' or 'mean'",
                node=node.id,
            )
        if rule.aggregate == "concat" and node.aggregate != "concat":
            raise GraphError(f"node '{node.id}': op '{node.op}' needs 'aggregate: concat'", node=node.id)


def _check_feature(graph: Wiring, node: Node, incoming: int) -> None:
    edge = graph.edges[graph.in_edges(node.id)[0]]
    if incoming != 1 or edge.learnable or edge.op != "identity" or edge.weight != 1.0:
        raise GraphError(
            f"node '{node.id}': a '{node.op}' reads exactly one backbone through a plain, fixed edge", node=node.id
        )


def _check_paths(graph: Wiring) -> None:
    reached = set(graph.inputs)
    for edge in graph.edges:
        if edge.src in reached:
            reached.add(edge.dst)
    useful = set(graph.outputs)
    if len(graph.image_inputs) > 1:
        useful.add(graph.image_inputs[0])  # strides are relative to it, even if nothing reads it
    for edge in reversed(graph.edges):
        if edge.dst in useful:
            useful.add(edge.src)
    for node in graph.nodes:
        if node not in reached:
            raise GraphError(f"no path leads from an input to node '{node}'; connect it or remove it", node=node)
        if node not in useful:
            raise GraphError(f"no path leads from node '{node}' to an output; connect it or remove it", node=node)


def _check_shapes(graph: Wiring) -> None:
    shapes = graph.shapes
    known: dict[EdgeKind, str | None] = {}
    for edge, kind in zip(graph.edges, edge_kinds(graph), strict=True):
        if graph.nodes[edge.dst].input is None:
            continue
        if kind not in known:
            known[kind] = _edge_fault(edge, shapes[edge.src], graph.nodes[edge.dst])
        fault = known[kind]
        if fault is not None:
            raise GraphError(f"edge {edge.src} -> {edge.dst}: {fault}", edge=(edge.src, edge.dst))
    for node in graph.nodes.values():
        if node.aggregate == "concat" and node.input is not None:
            channels = sum(_channels(shapes[graph.edges[i].src]) for i in graph.in_edges(node.id))
            if channels != node.input.channels:
                raise GraphError(
                    f"node '{node.id}' declares {node.input.channels} channels, but its sources concatenate to"
                    f" {channels}",
                    node=node.id,
                )


def _check_ids_are_embedded(graph: Wiring) -> None:
    """Check that only ops that take ids read token ids: other ops would treat ids as numbers."""
    ids = {name for name, shape in graph.shapes.items() if isinstance(shape, Shape) and shape.is_ids}
    for edge in (edge for edge in graph.edges if edge.src in ids) if ids else ():
        where, rule = f"edge {edge.src} -> {edge.dst}", rule_of(graph.nodes[edge.dst])
        if not rule.takes_ids:
            raise GraphError(
                f"{where}: '{rule.op_name}' cannot take ids of tokens; put a node 'embedding' between",
                edge=(edge.src, edge.dst),
            )
        if len(graph.in_edges(edge.dst)) > 1 or edge.learnable or edge.weight != 1.0:
            raise GraphError(
                f"{where}: node '{edge.dst}' takes ids of tokens from one node, over a plain, fixed edge;"
                " leave out 'learnable', 'weight' and 'op'",
                edge=(edge.src, edge.dst),
            )


def _check_class_tokens(graph: Wiring) -> None:
    """Check that an op that reads a class token gets one, with no causal op between."""
    rules = {name: rule_of(node) for name, node in graph.nodes.items()}
    if not any(rule.adds_class_token or rule.reads_class_token for rule in rules.values()):
        return
    having: dict[str, str] = {}  # node whose output begins with a class token -> where that comes from
    for node in graph.nodes.values():
        rule = rules[node.id]
        sources = [graph.edges[i].src for i in graph.in_edges(node.id)]
        origin = next((having[name] for name in sources if name in having), None)
        if rule.reads_class_token and origin is None:
            raise GraphError(
                f"node '{node.id}' reads a class token, but its input has none; say 'class_token: true' in the"
                " 'patch_embedding', or use 'mode: mean'",
                node=node.id,
            )
        if rule.sight == "earlier" and origin is not None:
            raise GraphError(
                f"node '{node.id}' is causal, so the class token of '{origin}', which comes first, would see no other"
                " token; say 'causal: false', or do without the class token",
                node=node.id,
            )
        shape = graph.shapes[node.id]
        if rule.adds_class_token:
            having[node.id] = node.id
        elif origin is not None and isinstance(shape, Shape) and shape.is_tokens:
            having[node.id] = origin


EdgeKind = tuple[str, FrozenMap, int, int, bool]
"""Op, parameters, number of the source's shape, number of what the target takes, whether the edge is learnable."""


def edge_kinds(graph: Wiring) -> Iterator[EdgeKind]:
    """Return the kind of every edge: edges of one kind are all valid or all invalid, and cost the same.

    Half a million edges have few kinds. Shapes are numbered so that a kind is quick to hash.
    """
    numbers: dict[object, int] = {}
    gives = {name: numbers.setdefault(shape, len(numbers)) for name, shape in graph.shapes.items()}
    takes = {node.id: numbers.setdefault((node.input, node.aggregate), len(numbers)) for node in graph.nodes.values()}
    return ((edge.op, edge.params, gives[edge.src], takes[edge.dst], edge.learnable) for edge in graph.edges)


def _edge_fault(edge: Edge, source: Shape | Bundle, target: Node) -> str | None:
    if isinstance(source, Bundle):
        return f"the source is a backbone; read one of its features through a 'feature' node ({', '.join(source)})"
    if edge.learnable and target.aggregate == "concat":
        return (
            "a learnable edge cannot end in a concat; use 'aggregate: sum' with the edge op 'project', or with"
            " 'conv_resize' and an 'input' of the node if its sources differ in size"
        )
    wanted = edge_target(source, target)
    try:
        arrives = edge.rule.output(source, wanted)
    except OptionError as error:
        return error.message
    except ShapeError as error:
        return str(error)
    return None if arrives == wanted else f"the edge brings {arrives}, but the target takes {wanted}"


def _channels(shape: Shape | Bundle) -> int:
    return shape.channels if isinstance(shape, Shape) else 0


def _check_sharing(graph: Wiring) -> None:
    groups: dict[str, tuple[Node, object]] = {}
    for node in graph.nodes.values():
        rule = rule_of(node)
        for part, group in node.share.items():
            if part not in rule.parts:
                known = suggest(part, rule.parts) if rule.parts else f"; '{node.op}' has no part that can be shared"
                raise GraphError(f"node '{node.id}': unknown part '{part}'{known}", node=node.id)
            if not isinstance(group, str) or not _ID.match(group):
                raise GraphError(f"node '{node.id}': '{group}' is not a group's name; use letters, digits and '_'")
            signature = part_signature(rule, part, node)
            first, expected = groups.setdefault(group, (node, signature))
            if signature != expected:
                raise GraphError(
                    f"node '{node.id}' cannot share group '{group}' with '{first.id}': the parts differ in shape or"
                    " parameters; give each kind its own group",
                    node=node.id,
                )


def part_signature(rule: NodeOp, part: str, node: Node) -> object:
    """Return what must be equal for nodes to share a part: op, part, its parameters, channels, ratio of strides."""
    assert node.input is not None
    params = rule.part_cost(part, node.input, (1, 1)).params
    out = rule.output(node.input)
    assert isinstance(out, Shape)
    ratio = (
        out.stride / node.input.stride
        if isinstance(out.stride, int) and isinstance(node.input.stride, int)
        else out.stride
    )
    return (rule.op_name, part, params, node.input.channels, out.channels, ratio)


def declare_inputs(graph: WiringT) -> WiringT:
    """Fill in missing inputs of nodes in topological order; see :meth:`Graph.declare_inputs`."""
    _check_ids(graph)
    _check_acyclic(graph)
    nodes: dict[str, Node] = {}
    shapes: dict[str, Shape | Bundle] = {}
    for node in graph.nodes.values():
        edges = [graph.edges[i] for i in graph.in_edges(node.id)]
        sources = [shapes[edge.src] for edge in edges]
        rule = rule_of(node)
        if node.input is None and sources and not rule.takes_bundle and not isinstance(rule, Input):
            node = replace(node, input=_default_input(node, edges, sources))
        nodes[node.id] = node
        if sources or isinstance(rule, Input) or node.input is not None:
            node = nodes[node.id] = _sized(graph, node)
            shapes[node.id] = output_shape(graph, node, sources)
        else:
            raise GraphError(f"node '{node.id}' has no in-edge; connect it or remove it", node=node.id)
    return graph.replace(nodes=nodes)


def _sized(graph: Wiring, node: Node) -> Node:
    """Return the node with the parameters filled in that its op takes from the image size."""
    if node.input is None:
        return node
    rule = rule_of(node)
    try:
        sized = rule.sized(node.input, graph.image)
    except ShapeError as error:
        raise GraphError(f"node '{node.id}': {error}", node=node.id) from None
    return node if sized == rule else replace(node, params=FrozenMap(sized.model_dump(exclude_unset=True)))


def _default_input(node: Node, edges: Sequence[Edge], sources: Sequence[Shape | Bundle]) -> Shape:
    shapes = []
    for edge, source in zip(edges, sources, strict=True):
        if isinstance(source, Bundle):
            raise GraphError(
                f"edge {edge.src} -> {edge.dst}: the source is a backbone; read one of its features through a"
                f" 'feature' node ({', '.join(source)})",
                edge=(edge.src, edge.dst),
            )
        shapes.append(source)
    channels = [shape.channels for shape in shapes]
    total = sum(channels) if node.aggregate == "concat" else max(channels)
    lengths = [shape for shape in shapes if shape.length is not None]
    if lengths:
        return max(lengths, key=lambda shape: shape.length or 0).with_channels(total)
    return Shape(total, _largest_stride(shapes))


def _largest_stride(shapes: Sequence[Shape]) -> Stride:
    strides = [shape.stride for shape in shapes if isinstance(shape.stride, int)]
    if strides:
        return max(strides)
    return "global" if any(shape.stride == "global" for shape in shapes) else None
