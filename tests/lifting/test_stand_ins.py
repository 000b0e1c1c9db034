"""What stands where a module was removed: it passes on the right argument, or gives zeros of the right shape."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import topolearn
from tests.lifting.networks import Inner, Outer
from tests.lifting.test_unlift import without


def body(self: Any, x: Tensor) -> Tensor:
    return self.last(torch.relu(self.conv(x)))  # type: ignore[no-any-return]


def block(function: Callable[..., Any]) -> nn.Module:
    return Inner(function, last=nn.Conv2d(4, 4, 1))


# How it is made, and the node to remove.
NETWORKS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "the second argument": (
        lambda: Outer(
            lambda self, x: self.inner(x.mean() + 0 * x[:, :, :1, :1], x),
            inner=block(lambda self, c, x: body(self, x) * c),
        ),
        "inner",
    ),
    "after a parameter": (
        lambda: Outer(
            lambda self, x: self.inner(self.scale, self.conv(x)),
            inner=block(lambda self, scale, x: body(self, x) * scale),
            scale=nn.Parameter(torch.ones(1, 4, 8, 8)),
        ),
        "inner",
    ),
    "after a word": (
        lambda: Outer(lambda self, x: self.inner("up", x), inner=block(lambda self, word, x: body(self, x))),
        "inner",
    ),
    "by keyword": (
        lambda: Outer(
            lambda self, x: self.inner(b=self.conv(x), a=self.scale),
            inner=block(lambda self, a, b: body(self, b) * a),
            scale=nn.Parameter(torch.ones(1, 4, 8, 8)),
        ),
        "inner",
    ),
    "a branch with a shortcut that it is given": (
        lambda: Outer(lambda self, x: self.inner(x, self.conv(x)), inner=block(lambda self, x, y: x + body(self, y))),
        "conv",
    ),
    "a branch that grows on the way": (
        lambda: Outer(
            lambda self, x: x + self.down(self.up(x).relu()),
            up=nn.ConvTranspose2d(4, 8, 2, 2),
            down=nn.Conv2d(8, 4, 2, 2),
        ),
        "up",
    ),
    "a branch that asks for its own shape": (
        lambda: Outer(
            lambda self, x: x + self.down(self.up(x).reshape(-1, 8, 2 * x.shape[2], 2 * x.shape[3])),
            up=nn.ConvTranspose2d(4, 8, 2, 2),
            down=nn.Conv2d(8, 4, 2, 2),
        ),
        "up",
    ),
    "a branch without padding": (
        lambda: Outer(lambda self, x: x + F.pad(self.smaller(self.conv(x)), (1, 1, 1, 1)), smaller=nn.Conv2d(4, 4, 3)),
        "conv",
    ),
    "a branch of one size": (
        lambda: Outer(
            lambda self, x: x + F.interpolate(self.pool(x), x.shape[2:]),
            pool=nn.Sequential(nn.AdaptiveAvgPool2d(3), nn.Conv2d(4, 4, 1)),
        ),
        "pool",
    ),
    "a branch of words": (
        lambda: Outer(
            lambda self, x: x + self.table(x.mean((2, 3)).argmax(1))[:, :, None, None].expand_as(x),
            table=nn.Embedding(4, 4),
        ),
        "table",
    ),
    "an object": (
        lambda: Outer(
            lambda self, x: (lambda pair: x + pair["y"])(self.inner(x)),
            inner=block(lambda self, x: {"y": body(self, x), "n": 1}),
        ),
        "inner",
    ),
    "a half of the channels": (
        lambda: Outer(
            lambda self, x: (lambda a, b: torch.cat([a + self.part(b), b], 1))(*x.chunk(2, 1)), part=nn.Conv2d(2, 2, 1)
        ),
        "part",
    ),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", NETWORKS)
def test_any_batch_and_any_size(name: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    make, node = NETWORKS[name]
    small = without(topolearn.lift(make().eval().to(dtype), size=8), [node])
    back = topolearn.unlift(small)
    assert sum(p.numel() for p in back.parameters()) < sum(p.numel() for p in make().parameters())
    sides = [(8, 8)] if name in ("after a parameter", "by keyword") else [(8, 8), (12, 10), (16, 16)]
    for batch, side in product((1, 2, 5), sides):
        x = torch.randn(batch, 3, *side, dtype=dtype)
        wanted, found = small(x), back(x)
        assert found.dtype == wanted.dtype == dtype
        assert torch.allclose(found, wanted, atol=1e-6)


def test_stand_ins_can_be_exported() -> None:
    torch.manual_seed(0)
    make, node = NETWORKS["a branch that grows on the way"]
    back = topolearn.unlift(without(topolearn.lift(make().eval(), size=8), [node]))
    batch = torch.export.Dim("batch", min=2, max=9)
    program = torch.export.export(back, (torch.randn(3, 3, 8, 8),), dynamic_shapes=({0: batch},))
    x = torch.randn(5, 3, 8, 8)
    assert torch.allclose(program.module()(x), back(x), atol=1e-6)


def frozen(*, twice: bool) -> nn.Module:
    """A stack of layers, two of which are frozen, and of which one may be there twice, under two names."""

    def layer() -> nn.Module:
        return nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True))

    model = Outer(lambda self, x: self.four(self.three(self.two(self.one(x)))), one=layer(), two=layer(), three=layer())
    model.four = model.two if twice else layer()
    model.conv = nn.Identity()
    for module in (model.stem, model.two):
        module.requires_grad_(False)
    return model


@pytest.mark.parametrize("twice", [False, True])
def test_frozen_and_shared_blocks(twice: bool) -> None:
    torch.manual_seed(0)
    model = frozen(twice=twice)
    net = topolearn.lift(model, size=8)
    names = [edge.src for edge in net.graph.edges if edge.learnable and edge.weight == 1.0]
    assert names == (["one", "two"] if twice else ["one", "two", "three", "four"])
    for name in names:
        small = without(net, [name]).eval()
        back = topolearn.unlift(small)
        x = torch.randn(5, 3, 8, 8)
        assert torch.allclose(back(x), small(x), atol=1e-6)
        assert sum(p.numel() for p in back.parameters()) == small.graph.cost.params
        for path, parameter in back.named_parameters():
            assert parameter.requires_grad == model.get_parameter(path).requires_grad, path
        gone = {"two", "three", "four"} if twice and name == "two" else {name}
        assert {path for path, module in back._modules.items() if not list(module.parameters())} >= gone  # type: ignore[union-attr]


@pytest.mark.parametrize("kind", ["of torchvision", "of your own"])
def test_what_is_frozen_stays_frozen(kind: str) -> None:
    """And what is frozen after lifting comes back frozen."""
    from torchvision.models import resnet18

    model = resnet18(num_classes=3) if kind == "of torchvision" else frozen(twice=False)
    first = "layer1.0.conv1" if kind == "of torchvision" else "one.0"
    model.get_submodule(first).requires_grad_(False)
    net = topolearn.lift(model, size=32)
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    assert sum(parameter.numel() for parameter in net.parameters() if parameter.requires_grad) == trained
    for each in (net, topolearn.prune(net), topolearn.compile(net)):
        back = topolearn.unlift(each)
        flags = {path: parameter.requires_grad for path, parameter in back.named_parameters()}
        assert flags == {path: parameter.requires_grad for path, parameter in model.named_parameters()}
    net.requires_grad_(False)
    assert not any(parameter.requires_grad for parameter in topolearn.unlift(topolearn.prune(net)).parameters())


def two_precisions() -> nn.Module:
    """A network whose head is in float32, and the rest in bfloat16."""
    model = Outer(lambda self, x: (x + self.conv(x)).float()).bfloat16()
    model.head.float()
    return model


def with_complex_numbers() -> nn.Module:
    """A network with a complex parameter, which comes first."""
    scale = nn.Parameter(torch.randn(4, 1, 1, dtype=torch.complex64))
    model = Outer(lambda self, x: x + torch.fft.ifft2(torch.fft.fft2(self.conv(x)) * self.scale).real, scale=scale)
    assert next(model.parameters()) is scale
    return model


@pytest.mark.parametrize("make", [two_precisions, with_complex_numbers])
def test_parameters_of_several_types(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    model = make().eval()
    net = topolearn.lift(model, size=8).eval()
    x = torch.randn(5, 3, 8, 8, dtype=model.stem.weight.dtype)
    assert torch.equal(net(x), model(x))
    assert torch.equal(topolearn.prune(net)(x), model(x))
    assert torch.equal(topolearn.unlift(net)(x), model(x))
    small = without(net, ["conv"])
    assert torch.equal(topolearn.unlift(small)(x), small(x))
