"""What modules are given and give back: objects, named tuples, functions, and tensors with the batch elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

import topolearn
from tests.lifting.networks import Inner, Outer
from tests.lifting.test_in_place import agree
from topolearn.errors import LiftError


@dataclass
class Both:
    """Two tensors."""

    x: Tensor
    y: Tensor


class Pair(NamedTuple):
    """Two tensors, as a tuple."""

    x: Tensor
    y: Tensor


class Named(dict[str, Tensor]):
    """A dict with attributes."""

    @property
    def x(self) -> Tensor:
        return self["x"]


class Settings:
    """An object without tensors; each copy of a network has its own."""

    scale = 2.0


def branch(self: Any, x: Tensor) -> Tensor:
    return self.last(torch.relu(self.conv(x)))  # type: ignore[no-any-return]


def of_two(self: Any, both: Any) -> Tensor:
    return both.x + branch(self, both.x) * both.y  # type: ignore[no-any-return]


def of_two_without_gradients(self: Any, both: Any) -> Tensor:
    with torch.no_grad():
        y = branch(self, both.x)
    return both.x + y * both.y  # type: ignore[no-any-return]


def scaled(self: Any, x: Tensor, settings: Settings) -> Tensor:
    return x + branch(self, x) * settings.scale


def applied(self: Any, x: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
    return x + branch(self, function(x))


GIVEN: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "a dataclass": (lambda self, x: self.inner(Both(x, x.mean((1, 2, 3), keepdim=True))), of_two),
    "a named tuple": (lambda self, x: self.inner(Pair(x, x.mean((1, 2, 3), keepdim=True))), of_two),
    "a dict of a class": (lambda self, x: self.inner(Named(x=x)), lambda self, d: d.x + branch(self, d["x"])),
    "a set": (lambda self, x: self.inner({x}), lambda self, given: branch(self, *given)),
    "settings": (lambda self, x: self.inner(x, self.settings), scaled),
    "a module": (lambda self, x: self.inner(x, self.conv), applied),
    "a function": (lambda self, x: self.inner(x, torch.tanh), applied),
    "a function that is made each time": (lambda self, x: self.inner(x, lambda y: y * 2), applied),
    "an object comes back": (
        lambda self, x: (lambda both: both.x + both.y)(self.inner(x)),
        lambda self, x: Both(x, branch(self, x)),
    ),
    "a named tuple comes back": (
        lambda self, x: (lambda both: both.x + both.y)(self.inner(x)),
        lambda self, x: Pair(x, branch(self, x)),
    ),
    "a shape comes back": (lambda self, x: x + self.conv(x) * self.inner(x).numel(), lambda self, x: x.shape[2:]),
    "other weights": (
        lambda self, x: x + functional_call(self.inner, {"conv.weight": self.conv.weight * 2}, (x,)),
        lambda self, x: branch(self, x),
    ),
    "what torch.max returns": (
        lambda self, x: x + self.conv(x) * x.max(1, keepdim=True).values + x.topk(1, 1).values,
        lambda self, x: x,
    ),
}


def network(function: Callable[..., Any], inner: Callable[..., Any]) -> nn.Module:
    torch.manual_seed(0)
    return Outer(function, inner=Inner(inner, last=nn.Conv2d(4, 4, 1)), settings=Settings())


@pytest.mark.parametrize("name", GIVEN)
def test_objects_of_any_class(name: str) -> None:
    model = network(*GIVEN[name])
    net = topolearn.lift(model, size=8)
    agree(model, net)
    assert any(edge.learnable for edge in net.graph.edges)


@pytest.mark.parametrize("blocks", [None, ["inner"]])
@pytest.mark.parametrize(
    ("function", "inner", "kind"),
    [
        (GIVEN["a dataclass"][0], of_two_without_gradients, "Both"),
        (
            GIVEN["settings"][0],
            lambda self, x, settings: of_two_without_gradients(self, Pair(x, settings.scale)),
            "Set",
        ),
    ],
)
def test_a_module_that_stays_whole_takes_no_objects(
    function: Callable[..., Any], inner: Callable[..., Any], kind: str, blocks: list[str] | None
) -> None:
    message = rf"'inner' \(Inner\) stays whole, but it is given an object \({kind}"
    with pytest.raises(LiftError, match=message) as caught:
        topolearn.lift(network(function, inner), size=8, blocks=blocks)
    assert caught.value.module == "inner"


class Headless(nn.Module):
    """A network that returns what a function makes of a convolution."""

    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.conv, self.function = nn.Conv2d(3, 4, 3, padding=1), function

    def forward(self, x: Tensor) -> Any:
        return self.function(self.conv(x))


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (
            lambda x: x.mean(),
            r"its output of shape \(\) for a batch of 2 has no batch axis in front; let it return one re",
        ),
        (lambda x: x.mean((0, 2, 3)), r"its output of shape \(4,\) for a batch of 2 has no batch axis"),
        (lambda x: x.mean((2, 3)).T, r"its output of shape \(4, 2\) for a batch of 2 has no batch axis"),
        (
            lambda x: x.mean((2, 3)) @ x.mean((2, 3)).T,
            r"its output of shape \(2, 2\) for a batch of 2 has no batch axis",
        ),
        (lambda x: x.flatten(0, 1), r"its output of shape \(8, 8, 8\) for a batch of 2 has no batch axis"),
        (lambda x: Both(x, x), "it returns a Both, but only networks that return one tensor"),
        (lambda x: (x, x), "it returns a tuple, but only networks that return one tensor"),
    ],
)
def test_what_a_network_returns_is_one_tensor_with_a_batch(function: Callable[[Tensor], Any], message: str) -> None:
    with pytest.raises(LiftError, match=message) as caught:
        topolearn.lift(Headless(function), size=8)
    assert caught.value.module == ""


def test_what_a_network_returns_may_be_a_part_of_what_a_function_returns() -> None:
    model = Headless(lambda x: x.max(1).values)
    agree(model, topolearn.lift(model, size=8))


class Mixing(nn.Module):
    """A block of a transformer whose tokens come before the batch; its attention counts the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.mlp = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        tokens, batch, channels = x.shape
        y = self.query(x).reshape(tokens, batch * 2, channels // 2).transpose(0, 1)
        y = torch.softmax(y @ y.mT, -1) @ y
        x = x + y.transpose(0, 1).reshape(tokens, batch, channels)
        return x + torch.relu(self.mlp(x))


class TokensFirst(nn.Module):
    """A network of such blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks, self.head = nn.ModuleList(Mixing() for _ in range(2)), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = x.transpose(0, 1)
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean(0))


def test_the_batch_may_be_another_axis_on_the_way() -> None:
    torch.manual_seed(0)
    model = TokensFirst().eval()
    net = topolearn.lift(model, example=torch.randn(2, 6, 8)).eval()
    for batch in (1, 2, 5):
        x = torch.randn(batch, 6, 8)
        assert torch.allclose(net(x), model(x), atol=1e-6)
    branches = [i for i, edge in enumerate(net.graph.edges) if edge.learnable and edge.weight == 1.0]
    assert len(branches) == 4
    assert str(net.graph.nodes["blocks_0_add"].input) == "6 tokens of 8 channels"
    for gone in branches:
        net.set_edge_weights([0.0 if i == gone else edge.weight for i, edge in enumerate(net.graph.edges)])
        small, back = topolearn.prune(net), topolearn.unlift(net)
        for batch in (2, 5):
            x = torch.randn(batch, 6, 8)
            assert torch.allclose(back(x), small(x), atol=1e-6)
        net.set_edge_weights(
            [float(i in branches) if edge.learnable else 1.0 for i, edge in enumerate(net.graph.edges)]
        )
    net.set_edge_weights([0.7 if i == branches[1] else edge.weight for i, edge in enumerate(net.graph.edges)])
    back = topolearn.unlift(net)
    x = torch.randn(5, 6, 8)
    assert torch.allclose(back(x), net(x), atol=1e-6)
