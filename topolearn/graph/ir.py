"""The IR: a network as an immutable graph of nodes and weighted edges."""

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
    """A network: a wiring that can be verified, priced and written; its fields are those of :class:`Wiring`."""

    @cached_property
    def cost(self) -> GraphCost:
        """Parameters and multiply-accumulates, in all and by node and edge."""
        return graph_cost(self)

    def verify(self) -> Graph:
        """Check everything that makes this a network that can be built.

        Returns:
            The graph itself.

        Raises:
            GraphError: The first thing that is wrong: a cycle, an unknown id, two shapes that
                disagree, an invalid parameter, a node on no path from an input to an output.
        """
        verify(self)
        return self

    def declare_inputs(self) -> Graph:
        """Fill in the ``input`` of every node that has none.

        The default is the most channels and the largest stride among the sources. No pass does this
        again: removing the only source of that shape must not change the node.
        """
        return declare_inputs(self)

    def to_yaml(self) -> str:
        """The canonical explicit form; ``load(dump(g)) == g``."""
        from topolearn.format import dumps

        return dumps(self)

    def to_networkx(self) -> nx.DiGraph[str]:
        """A DiGraph with the fields of nodes and edges as attributes."""
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
