"""Lifting runs copies of a network: what a forward pass changes, it does not change in the original."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import topolearn
from tests.lifting.networks import Inner, Outer
from topolearn.errors import LiftError, OptionError


def counting(self: Any, x: Tensor) -> Tensor:
    self.count += 1
    self.calls += 1
    return x + self.conv(x)  # type: ignore[no-any-return]


def counting_by_chance(self: Any, x: Tensor) -> Tensor:
    np.random.rand()
    random.random()
    return counting(self, x)


def network(function: Callable[..., Any] = counting) -> nn.Module:
    return Outer(lambda self, x: self.inner(x), inner=Inner(function, count=torch.zeros(()), calls=0))


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("blocks", [None, ["inner"]])
def test_counters_stay_as_they_were(training: bool, blocks: list[str] | None) -> None:
    model = network(counting_by_chance).train(training)
    model.stem.eval()  # modes of the parts too
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    generators = random.getstate(), str(np.random.get_state()), torch.get_rng_state()
    net = topolearn.lift(model, size=8, blocks=blocks)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.inner.calls == 0
    assert [module.training for module in model.modules()] == modes
    assert (random.getstate(), str(np.random.get_state())) == generators[:2]
    assert torch.equal(torch.get_rng_state(), generators[2])
    counts = [value for name, value in net.state_dict().items() if name.endswith("count")]
    assert counts == [0]
    topolearn.unlift(net)
    assert counts == [0]


def test_and_after_an_error() -> None:
    model = network()
    model.head = nn.Linear(5, 2)
    with pytest.raises(LiftError, match=r"'head' \(Linear\) does not run"):
        topolearn.lift(model, size=8)
    assert model.inner.calls == model.inner.count == 0
    assert model.training
    assert not any(module._forward_hooks for module in model.modules())


def holding(**parts: Any) -> nn.Module:
    return Outer(lambda self, x: x + self.conv(x), **parts)


def with_history() -> nn.Module:
    model = holding()
    model.scale = model.conv.weight.mean() * 2  # not a parameter
    return model


def under_inference_mode() -> nn.Module:
    with torch.inference_mode():
        return holding()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: holding(lock=threading.Lock()), r"this Outer: its attribute 'lock' cannot be copied \(cannot pickle"),
        (
            lambda: holding(inner=Inner(counting, numbers=(i for i in range(3)))),
            r"'inner' \(Inner\): its attribute 'nu",
        ),
        (
            with_history,
            r"this Outer: its attribute 'scale' is a tensor with a history of gradients; keep scale\.detach",
        ),
        (under_inference_mode, r"'stem' \(Conv2d\): its tensor 'weight' was made under torch\.inference_mode"),
    ],
)
@pytest.mark.parametrize("weights", [None, "none.pth"])
def test_what_cannot_be_copied(make: Callable[[], nn.Module], message: str, weights: str | None) -> None:
    with pytest.raises(LiftError, match=message) as caught:
        topolearn.lift(make(), weights, size=8)
    assert "\n" not in str(caught.value)


def test_lifting_under_inference_mode() -> None:
    model = holding()
    with torch.inference_mode():
        nets = topolearn.lift(model, size=8), topolearn.lift("resnet18", size=32, classes=2)
    for net in nets:
        assert all(parameter.requires_grad and not parameter.is_inference() for parameter in net.parameters())


def test_weights_are_a_file() -> None:
    with pytest.raises(OptionError, match="are not a file"):
        topolearn.lift(holding(), "DEFAULT", size=8)
