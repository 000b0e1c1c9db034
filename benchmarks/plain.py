"""Plain PyTorch networks for comparison, written without topolearn."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class Block(nn.Module):
    """ResNet's basic block with option A: strided, zero-padded shortcuts."""

    def __init__(self, inputs: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.stride = stride
        self.extra = channels - inputs

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.stride != 1 or self.extra:
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.extra))
        return F.relu(y + x)


def resnet(blocks: int, classes: int) -> nn.Sequential:
    """Build the CIFAR ResNet with ``blocks`` blocks per stage (He et al. 2016)."""
    layers: list[nn.Module] = [nn.Sequential(nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU())]
    width = 16
    for stage, channels in enumerate((16, 32, 64)):
        for number in range(blocks):
            layers.append(Block(width, channels, 2 if stage and not number else 1))
            width = channels
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, classes)]
    return nn.Sequential(*layers)


class GroupedBottleneck(nn.Module):
    """ResNeXt's block as it is usually run: a grouped 3x3 and a 1x1 convolution for all branches together."""

    def __init__(self, inputs: int, channels: int, width: int, groups: int, stride: int) -> None:
        super().__init__()
        wide = width * groups
        self.residual = nn.Sequential(
            nn.Conv2d(inputs, wide, 1, bias=False),
            nn.BatchNorm2d(wide),
            nn.ReLU(),
            nn.Conv2d(wide, wide, 3, stride, 1, groups=groups, bias=False),
            nn.BatchNorm2d(wide),
            nn.ReLU(),
            nn.Conv2d(wide, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != channels:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, channels, 1, stride, bias=False), nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.residual(x) + self.shortcut(x))


def resnext(depth: int, width: int, groups: int, classes: int) -> nn.Sequential:
    """Build the CIFAR ResNeXt {depth, width, groups} with output widths 64, 128, 256 (Xie et al. 2017)."""
    layers: list[nn.Module] = [nn.Sequential(nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU())]
    inputs = 64
    for stage, channels in enumerate((64, 128, 256)):
        for number in range((depth - 2) // 9):
            stride = 2 if stage and not number else 1
            layers.append(GroupedBottleneck(inputs, channels, width * 2**stage, groups, stride))
            inputs = channels
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(256, classes)]
    return nn.Sequential(*layers)
