"""Summaries of a graph: a table of its nodes for people, a mapping of its counts for programs."""

from __future__ import annotations

from typing import Any

from topolearn.graph import Graph, removables
from topolearn.graph.degrees import Degree, degrees
from topolearn.graph.price import Prices
from topolearn.ops import Bundle, Shape
from topolearn.ops.shape import Size
from topolearn.report.tables import NumberText, Table


def facts(graph: Graph) -> dict[str, Any]:
    """Return the counts and costs of a graph, as ``topolearn show --json`` prints them.

    With a backbone, ``decoder_params`` and ``decoder_macs`` are the costs of everything else.
    """
    backbones = [graph.cost.nodes[node] for node, shape in graph.shapes.items() if isinstance(shape, Bundle)]
    decoder = {
        "decoder_params": graph.cost.params - sum(cost.params for cost in backbones),
        "decoder_macs": graph.cost.macs - sum(cost.macs for cost in backbones),
    }
    return {
        "name": graph.name,
        "task": graph.task,
        "data": graph.data,
        "inputs": {name: graph.input_rule(name).spec for name in graph.inputs},
        "outputs": list(graph.outputs),
        "nodes": len(graph.nodes),
        "edges": len(graph.edges),
        "learnable_edges": sum(map(len, graph.candidates.values())),
        "largest_candidate_set": graph.largest_candidate_set,
        "params": graph.cost.params,
        "macs": graph.cost.macs,
        **(decoder if backbones else {}),
    }


def resolution(graph: Graph) -> str:
    """Return the shapes of the outputs that are maps, such as ``head gives 2×8×8 for 32×32``; empty without any."""
    shapes = {name: graph.shapes[name] for name in graph.outputs}
    maps = [f"{name} gives {size_text(shape, graph.image)}" for name, shape in shapes.items() if _is_map(shape)]
    height, width = graph.image
    return f"{', '.join(maps)} for {height}×{width}" if maps else ""


def _is_map(shape: Shape | Bundle) -> bool:
    return isinstance(shape, Shape) and isinstance(shape.stride, int)


def headline(graph: Graph) -> str:
    """Return name, task, counts and costs in three lines."""
    known = facts(graph)
    data = f", data {graph.data}" if graph.data else ""
    learnable = known["learnable_edges"]
    maps = resolution(graph)
    candidates = f" ({learnable:,} learnable, up to {graph.largest_candidate_set:,} into a node)" if learnable else ""
    return (
        f"{graph.name}: {graph.task}{data}\n"
        f"{known['nodes']:,} nodes, {known['edges']:,} edges{candidates}\n"
        f"{known['params']:,} parameters, {known['macs']:,} MACs{maps and f'; {maps}'}"
    )


def node_table(graph: Graph, searched: Graph | None = None, limit: int = 60) -> Table:
    """Make a table with a row per node: op, shapes at the reference size, costs, degrees.

    Args:
        graph: The graph.
        searched: The searched graph, if ``graph`` was learned from one. Degrees are then before → after, and
            candidates are those of the searched graph.
        limit: Largest number of nodes to show.
    """
    candidates = (graph if searched is None else searched).candidates
    counts = degrees(graph, searched)
    rows = []
    for node in list(graph.nodes.values())[:limit]:
        cost = graph.cost.nodes[node.id]
        rows.append(
            (
                node.id,
                node.op,
                node.aggregate if len(graph.in_edges(node.id)) > 1 else "",
                "" if node.input is None else size_text(node.input, graph.image),
                size_text(graph.shapes[node.id], graph.image),
                cost.params,
                cost.macs,
                _changed(counts[node.id][0]),
                len(candidates.get(node.id, ())),
                _changed(counts[node.id][1]),
            )
        )
    left_out = len(graph.nodes) - len(rows)
    edges = sum(cost.params for cost in graph.cost.edges)
    gone = [] if searched is None else [name for name in searched.nodes if name not in graph.nodes]
    notes = [
        f"… and {left_out:,} more nodes" if left_out else "",
        f"edges: {edges:,} parameters, {sum(cost.macs for cost in graph.cost.edges):,} MACs" if edges else "",
        f"removed nodes: {', '.join(gone[:limit])}{', …' if len(gone) > limit else ''}" if gone else "",
    ]
    return Table(
        ("node", "op", "aggregate", "input", "output", "params", "MACs", "in-edges", "learnable", "out-edges"),
        tuple(rows),
        note="; ".join(note for note in notes if note) or None,
    )


def block_facts(graph: Graph, times: Prices | None = None) -> list[dict[str, Any]]:
    """Return what a search can remove from a graph, as ``topolearn show --json`` prints it under ``can_go``.

    Args:
        graph: The graph.
        times: Milliseconds of nodes and edges; None if they have not been measured.
    """
    return [
        {
            "id": each.id,
            "nodes": list(each.nodes),
            "params": each.params,
            "macs": each.macs,
            **({} if times is None else {"milliseconds": each.price(times)}),
        }
        for each in removables(graph)
    ]


def block_table(
    graph: Graph, learned: Graph | None = None, times: Prices | None = None, limit: int = 60
) -> Table | None:
    """Make a table with a row per branch or block that a search can remove, and its costs; None if there are none.

    Args:
        graph: The graph that is searched.
        learned: The graph that was learned from it, to say what was removed.
        times: Milliseconds of nodes and edges; None if they have not been measured.
        limit: Largest number of rows.
    """
    found = removables(graph)
    full = (graph.cost.params, graph.cost.macs)
    full_time = None if times is None or not found else found[0].before.price(times)
    rows: list[tuple[Any, ...]] = []
    for each in found[:limit]:
        row: list[Any] = [each.id, len(each.nodes)]
        for amount, whole in zip((each.params, each.macs), full, strict=True):
            row += [amount, _part(amount, whole)]
        if times is not None and full_time is not None:
            milliseconds = each.price(times)
            row += [NumberText(f"{milliseconds:.3f}"), _part(milliseconds, full_time)]
        if learned is not None:
            row.append("kept" if each.id in learned.nodes else "removed")
        rows.append(tuple(row))
    if not rows:
        return None
    headings = ["can go", "nodes", "params", "%", "MACs", "%"]
    headings += [] if times is None else ["ms", "%"]
    headings += [] if learned is None else ["is"]
    left_out = len(found) - len(rows)
    return Table(tuple(headings), tuple(rows), note=f"… and {left_out:,} more" if left_out else None)


def _part(amount: float, whole: float) -> NumberText:
    return NumberText(f"{100 * amount / whole:.1f}" if whole else "")


def _changed(degree: Degree) -> int | NumberText:
    return degree.after if degree.before == degree.after else NumberText(degree.text(" → "))


def size_text(shape: Shape | Bundle, image: Size) -> str:
    """Return a shape as text, without the batch axis: channels×height×width, tokens×channels, or channels."""
    if isinstance(shape, Bundle):
        return ", ".join(f"{name} {size_text(feature, image)}" for name, feature in shape.items())
    if shape.is_ids:
        return f"{shape.length} ids"
    if shape.is_tokens:
        return f"{shape.length}×{shape.channels}"
    if shape.dims is not None:
        return "×".join(map(str, shape.dims))
    if not shape.is_map:
        return str(shape.channels)
    height, width = shape.size(image)
    return f"{shape.channels}×{height}×{width}"
