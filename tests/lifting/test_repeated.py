"""What a module does more than once: counters and random numbers stay right, and what cannot be repeated is refused."""

from __future__ import annotations

import copy
import random
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.overrides import wrap_torch_function

import topolearn
from tests.lifting.networks import Inner, Outer
from topolearn.compiler import Network
from topolearn.errors import LiftError


def of(function: Callable[..., Any], **parts: Any) -> nn.Module:
    """A network with a module that does something."""
    torch.manual_seed(0)
    return Outer(lambda self, x: self.inner(x), inner=Inner(function, **parts))


def seeded(net: nn.Module, x: Tensor) -> Tensor:
    torch.manual_seed(3)
    random.seed(3)
    np.random.seed(3)
    out: Tensor = net(x)
    return out


def agree_twice(model: nn.Module, net: Network) -> None:
    """The same in both modes, for two batches one after the other, with gradients and buffers."""
    for training in (False, True):
        pair = [copy.deepcopy(each).train(training) for each in (model, net)]
        for x in (torch.randn(2, 3, 8, 8), torch.randn(5, 3, 8, 8)):
            wanted, found = (seeded(each, x) for each in pair)
            assert torch.allclose(found, wanted, rtol=1e-5, atol=1e-6)
            for out in (wanted, found):
                out.square().sum().backward()
        ours = {name.split(".", 2)[2]: tensor for name, tensor in pair[1].named_parameters() if "nodes." in name}
        for name, tensor in pair[0].named_parameters():
            if tensor.grad is not None:
                assert torch.allclose(ours[name].grad, tensor.grad, rtol=1e-4, atol=1e-4), name  # type: ignore[arg-type]
        ours = {name.split(".", 2)[2]: tensor for name, tensor in pair[1].named_buffers() if "nodes." in name}
        for name, tensor in pair[0].named_buffers():
            assert torch.equal(ours[name], tensor), name


def counts(self: Any, x: Tensor) -> Tensor:
    self.count += 1
    return x + self.conv(x) * self.count  # type: ignore[no-any-return]


def replaces(self: Any, x: Tensor) -> Tensor:
    self.count = self.count + 1
    return x + self.conv(x) * 1.0  # type: ignore[no-any-return]


def initialises(self: Any, x: Tensor) -> Tensor:
    if not self.done:
        with torch.no_grad():
            self.scale.copy_(x.abs().mean())
        self.done = True
    return x + self.conv(x) / self.scale  # type: ignore[no-any-return]


def remembers(self: Any, x: Tensor) -> Tensor:
    if not hasattr(self, "grid"):
        self.grid = torch.arange(x.shape[-1], device=x.device).to(x.dtype)
    return x + self.conv(x) * self.grid  # type: ignore[no-any-return]


def noisy(self: Any, x: Tensor) -> Tensor:
    return x + self.conv(x) * float(np.random.rand())  # type: ignore[no-any-return]


def noisy_in_training(self: Any, x: Tensor) -> Tensor:
    return x + self.conv(x) * (float(np.random.rand()) if self.training else 1.0)  # type: ignore[no-any-return]


def own_numbers(self: Any, x: Tensor) -> Tensor:
    return x + self.conv(x) * float(self.numbers.normal())  # type: ignore[no-any-return]


def own_generator(self: Any, x: Tensor) -> Tensor:
    return x + self.conv(x) * torch.rand(1, generator=self.numbers)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("function", "parts"),
    [
        (counts, {"count": torch.zeros(())}),
        (counts, {"count": 0}),
        (replaces, {"count": torch.zeros(())}),
        (initialises, {"done": False, "scale": torch.ones(())}),
        (remembers, {}),
        (noisy, {}),
        (noisy_in_training, {}),
        (own_numbers, {"numbers": np.random.default_rng(0)}),
        (own_generator, {"numbers": torch.Generator()}),
    ],
)
def test_a_module_with_a_memory_stays_whole(function: Callable[..., Any], parts: dict[str, Any]) -> None:
    model = of(function, **parts)
    net = topolearn.lift(model, size=8)
    agree_twice(model, net)
    assert type(net.get_submodule("nodes.inner.inner")) is Inner
    again = topolearn.lift(of(function, **parts), size=8)
    assert again.graph.sources["net"].fingerprint == net.graph.sources["net"].fingerprint


def test_a_network_that_counts_itself_is_refused() -> None:
    model = Outer(lambda self, x: self.inner(x), inner=nn.Identity(), count=torch.zeros(()))
    model.function = counts
    with pytest.raises(LiftError, match="this Outer: its own forward pass changes a tensor that it holds; put that"):
        topolearn.lift(model, size=8)


CALLS = [0]


def count_globally(self: Any, x: Tensor) -> Tensor:
    CALLS[0] += 1
    return x + self.conv(x) * CALLS[0]  # type: ignore[no-any-return]


def count_globally_in_training(self: Any, x: Tensor) -> Tensor:
    return count_globally(self, x) if self.training else x + self.conv(x) * 1


def by_the_time(self: Any, x: Tensor) -> Tensor:
    return x + self.conv(x) * (time.time() % 1)  # type: ignore[no-any-return]


@pytest.mark.parametrize("function", [count_globally, count_globally_in_training, by_the_time])
def test_what_depends_on_something_outside_is_refused(function: Callable[..., Any]) -> None:
    with pytest.raises(
        LiftError, match=r"'inner' \(Inner\) does other things each time, and so it depends on"
    ) as caught:
        topolearn.lift(of(function), size=8)
    assert caught.value.module == "inner"
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("function", [count_globally, by_the_time])
def test_also_in_a_module_that_is_marked(function: Callable[..., Any]) -> None:
    with pytest.raises(LiftError, match=r"'inner' \(Inner\) gives another result each time") as caught:
        topolearn.lift(of(function), size=8, blocks=["inner"])
    assert caught.value.module == "inner"


def draws(self: Any, x: Tensor) -> Tensor:
    x = x + self.conv(x) * torch.randn_like(x) + torch.empty_like(x).normal_(0, 0.1) + torch.empty_like(x).uniform_()
    return x + nn.functional.dropout(self.conv(x), 0.5, training=True)


def test_what_torch_draws_is_drawn_again() -> None:
    """In eval mode too: the two networks are compared with the same draws."""
    model = of(draws)
    agree_twice(model, topolearn.lift(model, size=8))


@wrap_torch_function(lambda x, function: (x,))
def applied(x: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
    return function(x) * 2


def transposes(self: Any, x: Tensor) -> Tensor:
    return x + self.conv(x.mT).mT * self.conv.weight.T.mean()  # type: ignore[no-any-return]


def applies(self: Any, x: Tensor) -> Tensor:
    return x + applied(self.conv(x), partial(torch.clamp, min=0.1))


@pytest.mark.parametrize("function", [transposes, applies])
def test_functions_that_are_made_in_each_run(function: Callable[..., Any]) -> None:
    model = of(function)
    agree_twice(model, topolearn.lift(model, size=8))
