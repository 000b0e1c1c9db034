"""The Graph class: a network as an immutable graph of nodes and weighted edges."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, final

from topolearn.graph.cost import GraphCost, graph_cost
from topolearn.graph.verify import declare_inputs, verify
from topolearn.graph.wiring import Wiring

if TYPE_CHECKING:
    import networkx as nx


@final
class Graph(Wiring):
    """A network as a graph: a :class:`Wiring`, which gives its fields, that can be verified, priced and written."""

    @cached_property
    def cost(self) -> GraphCost:
        """Parameters and multiply-accumulates: total, per node, and per edge."""
        return graph_cost(self)

    def verify(self) -> Graph:
        """Check that this is a network that can be built.

        Returns:
            The graph itself.

        Raises:
            GraphError: The first error: a cycle, an unknown id, two shapes that disagree, an invalid parameter, or a
                node on no path from an input to an output.
        """
        verify(self)
        return self

    def declare_inputs(self) -> Graph:
        """Fill in the ``input`` of every node that has none.

        The default has the most channels and the largest stride of the sources. Passes do not repeat this: removing
        the only source of that shape must not change the node.
        """
        return declare_inputs(self)

    def to_yaml(self) -> str:
        """Return the canonical explicit form as YAML; ``load(dump(g)) == g``."""
        from topolearn.format import dumps

        return dumps(self)

    def _repr_svg_(self) -> str:
        """Show the graph in a notebook."""
        from topolearn.drawing import svg

        return svg(self)

    def to_networkx(self) -> nx.DiGraph[str]:
        """Return a DiGraph with the fields of nodes and edges as attributes."""
        import networkx as nx

        graph: nx.DiGraph[str] = nx.DiGraph(name=self.name)
        for node in self.nodes.values():
            graph.add_node(
                node.id,
                op=node.op,
                params=node.params,
                aggregate=node.aggregate,
                input=node.input,
                share=node.share,
            )
        for edge in self.edges:
            graph.add_edge(
                edge.src, edge.dst, op=edge.op, params=edge.params, learnable=edge.learnable, weight=edge.weight
            )
        return graph
