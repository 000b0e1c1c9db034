"""torchvision networks with random weights that leave no tensor at its default, made in no time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision import models

INITIALISERS = ("kaiming_normal_", "kaiming_uniform_", "normal_", "uniform_")


FAMILIES = ("resnet", "resnext", "wide_resnet", "regnet_x", "regnet_y", "mobilenet_v2")
"""What the names of torchvision's networks begin with that become graphs of ordinary nodes."""


def torchvision_names() -> list[str]:
    """Names of torchvision's classification networks."""
    found: list[str] = models.list_models(module=models)
    return found


def in_families() -> list[str]:
    """Names of the networks that become graphs of ordinary nodes."""
    return [name for name in torchvision_names() if name.startswith(FAMILIES)]


@contextmanager
def no_initialisation() -> Iterator[None]:
    """Weights stay as the memory was: every one of them is to be overwritten, or none is to be read."""
    with pytest.MonkeyPatch.context() as patch:
        for name in INITIALISERS:
            patch.setattr(nn.init, name, lambda tensor, *args, **options: tensor)
        yield


def resnet(**options: Any) -> nn.Module:
    return models.ResNet(models.resnet.BasicBlock, [1, 2, 1, 1], num_classes=5, **options)


def regnet() -> nn.Module:
    return models.regnet_y_400mf(num_classes=5)


def mobilenet() -> nn.Module:
    return models.mobilenet_v2(width_mult=0.25, num_classes=5)


def changed(make: Callable[[], nn.Module], path: str, part: Any) -> nn.Module:
    """A network with the module at ``path`` replaced."""
    model = make()
    model.set_submodule(path, part)
    return model


def network(name: str, **options: Any) -> nn.Module:
    """A torchvision network by name."""
    with no_initialisation():
        return randomise(models.get_model(name, weights=None, **options))


def randomise(model: nn.Module, seed: int = 0) -> nn.Module:
    """Fill every tensor of a network, so that its activations stay of size 1."""
    numbers = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                for tensor, low, high in (
                    (module.weight, 0.6, 1.2),
                    (module.bias, -0.3, 0.3),
                    (module.running_mean, -0.5, 0.5),
                    (module.running_var, 0.5, 1.5),
                ):
                    assert tensor is not None
                    tensor.uniform_(low, high, generator=numbers)
                assert module.num_batches_tracked is not None
                module.num_batches_tracked.fill_(7)
            elif isinstance(module, (nn.Conv2d, nn.Linear)):
                fan_in = module.weight[0].numel()
                module.weight.normal_(0.0, (2.0 / fan_in) ** 0.5, generator=numbers)
                if module.bias is not None:
                    module.bias.uniform_(-0.5, 0.5, generator=numbers)
    return model


def images(count: int = 3, side: int | tuple[int, int] = 64, channels: int = 3) -> Tensor:
    """Random images."""
    height, width = (side, side) if isinstance(side, int) else side
    return torch.randn(count, channels, height, width, generator=torch.Generator().manual_seed(1))


def relative(found: Tensor, wanted: Tensor) -> float:
    """Largest difference over the largest value; a NaN where one is not finite."""
    found, wanted = found.detach().double(), wanted.detach().double()
    return float((found - wanted).abs().max() / wanted.abs().max())


class Windows(nn.Module):
    """A network whose batch grows on the way, as in attention within windows."""

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


class Inner(nn.Module):
    """A module with a convolution, whose forward pass is the function it is given."""

    def __init__(self, function: Callable[..., Any], **parts: Any) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.function = function
        for name, part in parts.items():
            if isinstance(part, Tensor) and not isinstance(part, nn.Parameter):
                self.register_buffer(name, part)
            else:
                setattr(self, name, part)

    def forward(self, *args: Any, **named: Any) -> Any:
        return self.function(self, *args, **named)


class Outer(Inner):
    """A network of a stem, the function it is given, and a head."""

    def __init__(self, function: Callable[..., Any], **parts: Any) -> None:
        super().__init__(function, **parts)
        self.stem, self.head = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4, 2)
        self._modules = {"stem": self.stem, **self._modules}  # the first layer says what the network takes

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.function(self, self.stem(x)).mean((2, 3)))
