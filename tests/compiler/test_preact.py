"""The pre-activation block against the formula of its paper, written here without the library's parts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from topolearn.compiler.modules import build_node
from topolearn.compiler.modules.base import last_norm
from topolearn.frozen import FrozenMap
from topolearn.ops import Shape, node_op


def norm(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Batch normalisation by the statistics of the batch."""
    mean, var = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), unbiased=False, keepdim=True)
    return (x - mean) / (var + 1e-5).sqrt() * scale[:, None, None] + shift[:, None, None]


@pytest.mark.parametrize(
    "params",
    [
        {"channels": 4},
        {"channels": 6, "stride": 2},
        {"channels": 6, "stride": 2, "shortcut": "projection"},
        {"channels": 3, "shortcut": "projection"},
        {"channels": 4, "shortcut": "projection"},  # same shape: the identity
    ],
)
def test_it_is_the_formula(params: dict[str, Any]) -> None:
    torch.manual_seed(0)
    block = build_node(node_op("resnet.preact", FrozenMap(params)), Shape(4, 1)).double()
    stride, channels = params.get("stride", 1), params["channels"]
    weights = dict(block.named_parameters())
    for name in ("norm.weight", "norm.bias", "residual.0.bn.weight", "residual.0.bn.bias"):
        torch.nn.init.normal_(weights[name])
    x = torch.randn(3, 4, 7, 6, dtype=torch.float64)
    u = F.relu(norm(x, weights["norm.weight"], weights["norm.bias"]))
    y = F.conv2d(u, weights["residual.0.conv.weight"], stride=stride, padding=1)
    y = F.relu(norm(y, weights["residual.0.bn.weight"], weights["residual.0.bn.bias"]))
    y = F.conv2d(y, weights["residual.1.conv.weight"], padding=1)
    if "projection.conv.weight" in weights:
        shortcut = F.conv2d(u, weights["projection.conv.weight"], stride=stride)
    else:
        shortcut = torch.zeros_like(y)
        shortcut[:, :4] = x[:, :, ::stride, ::stride]
    assert ("projection.conv.weight" in weights) == (params.get("shortcut") == "projection" and channels != 4)
    torch.testing.assert_close(block(x), y + shortcut)
    assert bool((block(x) < 0).any())  # nothing follows the addition
    assert last_norm(block) is None
