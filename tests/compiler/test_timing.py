"""Times of nodes that are parts of another network."""

from __future__ import annotations

import topolearn
from tests.lifting.networks import Windows
from topolearn.compiler import measure


def test_every_part_has_a_time() -> None:
    net = topolearn.lift(Windows().half(), size=8)
    prices = measure(net.graph)
    assert {node.op for node in net.graph.nodes.values()} == {"input", "part", "identity"}
    assert all(value > 0 for name, value in prices.nodes.items() if name != "image")
    assert all(price > 0 for price in prices.edges)
