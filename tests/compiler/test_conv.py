"""Convolutions of ours against torch's."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from topolearn.compiler.modules.base import Conv2d

SLOW = pytest.param(6, 2, True, id="strided depthwise")


def outcome(conv: nn.Conv2d, images: Tensor, *, autocast: bool) -> list[Tensor]:
    """Output, and the gradients of input and weight."""
    images = images.clone().requires_grad_()
    conv.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        y = conv(images)
    (y.float() * torch.linspace(-1, 1, y[0].numel()).view_as(y[0])).sum().backward()
    assert images.grad is not None
    assert conv.weight.grad is not None
    return [y.detach(), images.grad, conv.weight.grad]


def pair(groups: int, stride: int, dtype: torch.dtype = torch.float32) -> tuple[Conv2d, nn.Conv2d]:
    torch.manual_seed(0)
    ours = Conv2d(6, 6, 3, stride=stride, padding=1, groups=groups).to(dtype)
    plain = nn.Conv2d(6, 6, 3, stride=stride, padding=1, groups=groups).to(dtype)
    plain.load_state_dict(ours.state_dict())
    return ours, plain


@pytest.mark.parametrize(("groups", "stride", "stands_in"), [SLOW, (6, 1, False), (2, 2, False), (1, 2, False)])
@pytest.mark.parametrize("autocast", [True, False], ids=["autocast", "module in bfloat16"])
def test_float32_stands_in_for_bfloat16_where_that_is_slow(
    groups: int, stride: int, stands_in: bool, autocast: bool
) -> None:
    ours, plain = pair(groups, stride, torch.float32 if autocast else torch.bfloat16)
    images = torch.randn(2, 6, 9, 7, dtype=ours.weight.dtype)
    found, wanted = (outcome(conv, images, autocast=autocast) for conv in (ours, plain))
    assert [x.dtype for x in found] == [x.dtype for x in wanted]
    exact = outcome(nn.Conv2d.float(plain), images.float(), autocast=False)
    for mine, theirs, best in zip(found, wanted, exact, strict=True):
        assert torch.equal(mine, theirs) or stands_in
        scale = best.abs().max()
        assert (mine.float() - best).abs().max() <= 0.02 * scale
        assert (mine.float() - best).abs().mean() <= (theirs.float() - best).abs().mean() + 1e-6


@pytest.mark.parametrize(("groups", "stride"), [(6, 2), (6, 1), (2, 2), (1, 1)])
def test_in_float32_it_is_torchs(groups: int, stride: int) -> None:
    ours, plain = pair(groups, stride)
    images = torch.randn(2, 6, 9, 7)
    for mine, theirs in zip(*(outcome(conv, images, autocast=False) for conv in (ours, plain)), strict=True):
        assert torch.equal(mine, theirs)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(ours(images), plain(images))  # no gradient, no detour
