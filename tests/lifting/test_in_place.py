"""What changes tensors in place: in the graph, nothing but the reader that comes after it sees the change."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import topolearn
from tests.lifting.networks import Inner, Outer
from topolearn.errors import LiftError


def body(self: Any, x: Tensor) -> Tensor:
    return self.last(torch.relu(self.conv(x)))  # type: ignore[no-any-return]


def adds(self: Any, x: Tensor) -> Tensor:
    return body(self, x.add_(1.0))


def doubles_a_view(self: Any, x: Tensor) -> Tensor:
    x[:, :2].mul_(2.0)
    return body(self, x)


def doubles_in_training(self: Any, x: Tensor) -> Tensor:
    return body(self, x.mul_(2.0) if self.training else x)


def without_gradients(self: Any, x: Tensor) -> Tensor:
    with torch.no_grad():
        x.add_(1.0)
    return body(self, x)


def after(self: Any, x: Tensor) -> Tensor:
    return self.conv(self.inner(x))  # type: ignore[no-any-return]


def read_after(self: Any, x: Tensor) -> Tensor:
    y = self.inner(x)
    return y + self.conv(x)  # type: ignore[no-any-return]


def read_before(self: Any, x: Tensor) -> Tensor:
    return self.conv(x) + self.inner(x)  # type: ignore[no-any-return]


def of(function: Callable[..., Any], inner: Callable[..., Any]) -> nn.Module:
    torch.manual_seed(0)
    return Outer(function, inner=Inner(inner, last=nn.Conv2d(4, 4, 1)))


def agree(model: nn.Module, net: nn.Module, *, backward: bool = True) -> None:
    """The same in both modes, with gradients, for another batch than the one that was compared."""
    x = torch.randn(5, 3, 8, 8)
    for training in (False, True):
        outputs, gradients = [], []
        for each in (copy.deepcopy(model).train(training), copy.deepcopy(net).train(training)):
            given = x.clone().requires_grad_()
            out = each(given)
            if backward:
                out.square().sum().backward()
                gradients.append(given.grad)
            outputs.append(out)
        assert torch.allclose(outputs[1], outputs[0], rtol=1e-5, atol=1e-6), "training" if training else "eval"
        assert not backward or torch.allclose(gradients[1], gradients[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("blocks", [None, ["inner"]])
@pytest.mark.parametrize("inner", [adds, doubles_a_view, doubles_in_training, without_gradients])
def test_a_block_may_change_its_input(inner: Callable[..., Any], blocks: list[str] | None) -> None:
    """And an edge around it still carries what the block was given, however large its weight is."""
    model = of(after, inner)
    net = topolearn.lift(model, size=8, blocks=blocks)
    agree(model, net)
    into = next(edge.dst for edge in net.graph.edges if edge.src == "inner")
    net.set_edge_weights([0.5 if edge.dst == into else edge.weight for edge in net.graph.edges])
    model.eval()
    net.eval()
    x = torch.randn(2, 3, 8, 8)
    stem = model.stem(x)
    halves = 0.5 * stem + 0.5 * model.inner(stem.clone())
    assert torch.allclose(net(x), model.head(model.conv(halves).mean((2, 3))), atol=1e-6)


@pytest.mark.parametrize("blocks", [None, ["inner"]])
def test_what_reads_the_tensor_before_sees_no_change(blocks: list[str] | None) -> None:
    model = of(read_before, adds)
    agree(model, topolearn.lift(model, size=8, blocks=blocks), backward=False)


def test_what_reads_the_tensor_afterwards_sees_the_change() -> None:
    model = of(read_after, adds)
    agree(model, topolearn.lift(model, size=8))


@pytest.mark.parametrize(
    ("function", "inner", "blocks", "path", "message"),
    [
        (read_after, adds, ["inner"], "", "its own forward pass reads a tensor that 'inner' has changed in place"),
        (read_after, doubles_in_training, None, "inner", r"'inner' \(Inner\) stays whole, but more of it is read than"),
        (read_after, without_gradients, None, "inner", r"'inner' \(Inner\) stays whole, but more of it is read than"),
        (read_after, doubles_a_view, None, "", "its own forward pass reads a tensor that 'inner' has changed in place"),
    ],
)
def test_unless_the_module_stays_whole(
    function: Callable[..., Any], inner: Callable[..., Any], blocks: list[str] | None, path: str, message: str
) -> None:
    with pytest.raises(LiftError, match=message) as caught:
        topolearn.lift(of(function, inner), size=8, blocks=blocks)
    assert caught.value.module == path


def through_a_view(self: Any, x: Tensor) -> Tensor:
    y = self.conv(x)
    y.view(-1).add_(1.0)
    return x + y  # type: ignore[no-any-return]


def through_an_identity(self: Any, x: Tensor) -> Tensor:
    self.same(x).mul_(2.0)
    return x + self.conv(x)  # type: ignore[no-any-return]


def into_another(self: Any, x: Tensor) -> Tensor:
    with torch.no_grad():
        y = torch.empty_like(x)
        torch.mul(x, 2.0, out=y)
    return x + self.conv(x) * y  # type: ignore[no-any-return]


@pytest.mark.parametrize("function", [through_a_view, through_an_identity, into_another])
def test_a_module_that_changes_what_another_name_means_stays_whole(function: Callable[..., Any]) -> None:
    torch.manual_seed(0)
    model = Outer(lambda self, x: self.inner(x), inner=Inner(function, same=nn.Identity()))
    net = topolearn.lift(model, size=8)
    agree(model, net)
    assert type(net.get_submodule("nodes.inner.inner")) is Inner
    outside = Outer(function, same=nn.Identity())
    with pytest.raises(LiftError, match=r"this Outer: its own forward pass \w+ .*; put that part into a module of its"):
        topolearn.lift(outside, size=8)


def augmented(self: Any, x: Tensor) -> Tensor:
    y = self.conv(x)
    y[:, ::2] += 1
    y[:, 1::2] *= 2
    return x + y  # type: ignore[no-any-return]


def filled(self: Any, x: Tensor) -> Tensor:
    y = torch.empty_like(x)
    y.copy_(x)
    z = self.conv(x)
    z.fill_(2.0)
    z.requires_grad_(z.requires_grad)
    y.zero_().add_(z)
    return x + y * self.conv(x)  # type: ignore[no-any-return]


def in_parts(self: Any, x: Tensor) -> Tensor:
    y = self.conv(x)
    first, second = y[:, :2], y[:, 2:]
    first.mul_(2.0)
    return x + torch.cat([first, second], 1)


@pytest.mark.parametrize("function", [augmented, filled, in_parts])
def test_what_operations_show_can_be_split(function: Callable[..., Any]) -> None:
    torch.manual_seed(0)
    model = Outer(function)
    net = topolearn.lift(model, size=8)
    agree(model, net)
    assert any(edge.learnable for edge in net.graph.edges)
