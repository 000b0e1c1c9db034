"""Times of nodes that are parts of another network."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import topolearn
from topolearn.compiler import measure


class Windows(nn.Module):
    """A network that mixes within four windows of an image, which stand in the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.mix, self.head = nn.Conv2d(3, 8, 2, 2), nn.Linear(8, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        n, c, h, w = x.shape
        y = x.view(n, c, 2, h // 2, 2, w // 2).permute(0, 2, 4, 3, 5, 1).reshape(n * 4, h * w // 4, c)
        y = y + torch.relu(self.mix(y))
        y = y.view(n, 4, -1, c).flatten(1, 2)
        return self.head(y.mean(1))


def test_every_part_has_a_time() -> None:
    net = topolearn.lift(Windows().half(), size=8)
    prices = measure(net.graph)
    assert {node.op for node in net.graph.nodes.values()} == {"input", "part", "identity"}
    assert all(value > 0 for name, value in prices.nodes.items() if name != "image")
    assert all(price > 0 for price in prices.edges)
