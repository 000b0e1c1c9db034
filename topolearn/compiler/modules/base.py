"""Builders that turn ops into modules, by op class, and parts that all op families share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from topolearn.errors import OptionError
from topolearn.ops import Shape
from topolearn.ops.base import EdgeOp, NodeOp
from topolearn.ops.conv import Step
from topolearn.ops.shape import Size

NodeBuilder = Callable[[Any, Any], nn.Module]
EdgeBuilder = Callable[[Any, Shape, Shape], nn.Module]

_NODE_BUILDERS: dict[type[NodeOp], NodeBuilder] = {}
_EDGE_BUILDERS: dict[type[EdgeOp], EdgeBuilder] = {}

STACKABLE: set[type[nn.Module]] = set()
"""Module classes that :func:`stackable` declared."""

_ModuleT = TypeVar("_ModuleT", bound=type[nn.Module])
_NodeBuilderT = TypeVar("_NodeBuilderT", bound=NodeBuilder)
_EdgeBuilderT = TypeVar("_EdgeBuilderT", bound=EdgeBuilder)


class ModuleTable(nn.ModuleDict):
    """Modules by id; an id may be the name of a module's attribute (``half``, ``type``, ``training``)."""

    def __setitem__(self, key: str, module: nn.Module) -> None:
        self._modules[key] = module

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "training":
            self.__dict__[name] = value
        else:
            super().__setattr__(name, value)

    def as_attributes(self) -> Modules:
        """Return the same modules, for tools that find each one as an attribute."""
        empty = nn.ModuleDict()
        return Attributes(self) if any(hasattr(empty, key) for key in self) else self


class Attributes(nn.Module):
    """Modules by id, each also an attribute with a unique name."""

    def __init__(self, table: ModuleTable) -> None:
        super().__init__()
        self.place = {key: f"m{number}_{key}" for number, key in enumerate(table)}
        for key, module in table.items():
            self.add_module(self.place[key], module)

    def __getitem__(self, key: str) -> nn.Module:
        module = self._modules[self.place[key]]
        assert module is not None
        return module

    def __contains__(self, key: str) -> bool:
        return key in self.place


Modules = ModuleTable | Attributes


def builds_node(*ops: type[NodeOp]) -> Callable[[_NodeBuilderT], _NodeBuilderT]:
    """Register ``builder(rule, x) -> module`` for node ops; ``x`` is the shape of the aggregated input.

    The module maps the aggregated tensor to the node's output and never changes its input in place.
    If the op has shareable parts, the module holds each as an attribute of that name (None if this ``x``
    does not need it), offers ``part_input(part, x)``, and takes the part's output as a keyword. If its branch
    ends in a batch normalisation, the module returns that from ``last_norm()``; see :func:`last_norm`.
    """

    def register(builder: _NodeBuilderT) -> _NodeBuilderT:
        _NODE_BUILDERS.update(dict.fromkeys(ops, builder))
        return builder

    return register


def builds_edge(*ops: type[EdgeOp]) -> Callable[[_EdgeBuilderT], _EdgeBuilderT]:
    """Register ``builder(rule, source, target) -> module`` for edge ops.

    The module is called with the source's output and the (height, width) of the target.
    """

    def register(builder: _EdgeBuilderT) -> _EdgeBuilderT:
        _EDGE_BUILDERS.update(dict.fromkeys(ops, builder))
        return builder

    return register


def stackable(module: _ModuleT) -> _ModuleT:
    """Declare that a module's ``forward`` runs on (N, siblings, C, H, W) as on (N, C, H, W).

    This holds if ``forward`` works elementwise, through its submodules, or on the last three axes, and if all
    parameters and buffers belong to submodules. Nodes that do the same work side by side then run as one; see
    :mod:`topolearn.compiler.stacking`.
    """
    STACKABLE.add(module)
    return module


def build_node(rule: NodeOp, x: Any) -> nn.Module:
    """Build the module of a node op for an aggregated input of shape ``x``."""
    module: nn.Module = _builder(type(rule), _NODE_BUILDERS)(rule, x)
    return module


def build_edge(rule: EdgeOp, source: Shape, target: Shape) -> nn.Module:
    """Build the module of an edge op from ``source`` to ``target``."""
    module: nn.Module = _builder(type(rule), _EDGE_BUILDERS)(rule, source, target)
    return module


def last_norm(module: nn.Module) -> nn.Module | None:
    """Return the batch normalisation that ends the branch of a node or edge module; None if the module names none.

    Only an activation and a shortcut may follow it. So its scale and the weights of the following edges can compensate
    for each other.
    """
    find = getattr(module, "last_norm", None)
    norm: nn.Module | None = None if find is None else find()
    return norm


def _builder(op: type[Any], builders: dict[type[Any], Any]) -> Any:
    for base in op.__mro__:
        if base in builders:
            return builders[base]
    raise OptionError(
        f"no module is registered for op '{op.op_name}'; register one with topolearn.compiler.modules.builds_node"
    )


def conv2d(
    x: Tensor, weight: Tensor, bias: Tensor | None, *, stride: Any, padding: Any, dilation: Any, groups: int
) -> Tensor:
    """Convolve as ``torch.nn.functional.conv2d``; in training, use float32 if bfloat16 has no fast kernel.

    On a CPU the gradient of the input of a depthwise convolution with a stride takes 10 to 50 times as long in
    bfloat16 as in float32. Measured on one core, channels last: 51 ms and 4 ms for 8 x 96 x 90 x 120, 29 ms and 2 ms
    for 8 x 144 x 45 x 60, 16 ms and 0.3 ms for 16 x 64 x 32 x 32.

    Args:
        x: (N, C, H, W).
        weight: (C', C / groups, kernel, kernel).
        bias: (C',), or None.
        stride: Stride per axis, in the form of ``nn.Conv2d``; ``padding`` and ``dilation`` likewise.
        padding: Zeros around ``x``.
        dilation: Distance between kernel positions.
        groups: Number of groups of channels.

    Returns:
        (N, C', H', W'), in bfloat16 if ``x`` is computed in bfloat16.
    """
    options: dict[str, Any] = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    depthwise = groups == x.shape[1] > 1 and any(step > 1 for step in stride)
    if not (depthwise and x.requires_grad and x.device.type == "cpu" and _precision(x) is torch.bfloat16):
        return F.conv2d(x, weight, bias, **options)
    with torch.autocast("cpu", enabled=False):
        y = F.conv2d(x.float(), weight.float(), None if bias is None else bias.float(), **options)
    return y.to(torch.bfloat16)


def _precision(x: Tensor) -> torch.dtype:
    """Return the type that a convolution of ``x`` on the CPU is computed in."""
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype


class Conv2d(nn.Conv2d):
    """Convolution with zero padding that uses :func:`conv2d`."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, C', H', W')."""
        return conv2d(
            x,
            self.weight,
            self.bias,
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            groups=self.groups,
        )


class BatchNorm(nn.BatchNorm2d):
    """Batch normalisation that can train on a batch of one.

    If a channel has a single value, it has no variance: that call normalises with the running statistics and leaves
    them unchanged.

    Attributes:
        copies: Number of equal batches that the given one stands for. It changes only the factor n / (n - 1) of the
            running variance, for n values.
    """

    copies = 1

    def last_norm(self) -> nn.Module:
        """Return the module itself."""
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (N, C, H, W)."""
        values = x.shape[0] * x.shape[2] * x.shape[3]
        if not self.training or (self.copies == 1 and values > 1):
            return super().forward(x)
        mean, var = self.running_mean, self.running_var
        assert mean is not None
        assert var is not None
        assert self.num_batches_tracked is not None
        if values == 1 and self.copies > 1:
            return super().forward(x.repeat(self.copies, 1, 1, 1))[:1]
        if values == 1:
            return F.batch_norm(x, mean, var, self.weight, self.bias, False, 0.0, self.eps)
        self.num_batches_tracked.add_(1)
        momentum = self.momentum
        if momentum is None:  # a cumulative mean
            momentum = 1.0 / float(self.num_batches_tracked)
        single = var.clone()
        y = F.batch_norm(x, mean, single, self.weight, self.bias, True, momentum, self.eps)
        scale = (values - 1) * self.copies / (values * self.copies - 1)
        with torch.no_grad():
            old = (1.0 - momentum) * var
            var.copy_(old + (single - old) * scale)
        return y


def activate(x: Tensor, name: str) -> Tensor:
    """Apply the activation ``none``, ``relu`` or ``relu6``."""
    if name == "relu":
        return F.relu(x)
    return F.relu6(x) if name == "relu6" else x


def init_he(module: nn.Module) -> None:
    """Initialise every convolution in ``module`` by He's rule (fan-out, relu), and its bias with 0."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
            if part.bias is not None:
                nn.init.zeros_(part.bias)


@stackable
class ConvUnit(nn.Module):
    """Convolution, batch normalisation and activation in the order of ``layout``.

    A ``sepconv`` step is a depthwise convolution with the kernel and stride, then a 1 x 1 convolution.
    """

    def __init__(
        self,
        layout: tuple[Step, ...],
        in_channels: int,
        out_channels: int,
        *,
        kernel: int = 1,
        stride: int = 1,
        groups: int = 1,
        dilation: int = 1,
        bias: bool = False,
        affine: bool = True,
    ) -> None:
        super().__init__()
        self.layout = layout
        padding = dilation * (kernel // 2)
        spatial: dict[str, Any] = {"stride": stride, "padding": padding, "dilation": dilation}
        if "sepconv" in layout:
            self.depthwise = Conv2d(in_channels, in_channels, kernel, groups=in_channels, bias=False, **spatial)
            self.conv = nn.Conv2d(in_channels, out_channels, 1, groups=groups, bias=bias)
        else:
            self.conv = Conv2d(in_channels, out_channels, kernel, groups=groups, bias=bias, **spatial)
        if "bn" in layout:
            position = next(i for i, step in enumerate(layout) if step.endswith("conv"))
            first = layout.index("bn") < position
            self.bn = BatchNorm(in_channels if first else out_channels, affine=affine)
        init_he(self)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, out_channels, ceil(H / stride), ceil(W / stride))."""
        for step in self.layout:
            if step == "conv":
                x = self.conv(x)
            elif step == "sepconv":
                x = self.conv(self.depthwise(x))
            elif step == "bn":
                x = self.bn(x)
            else:
                x = activate(x, step)
        return x

    def fold_batch_norm(self) -> None:
        """Fold a batch normalisation that directly follows the convolution into it (eval mode)."""
        steps = list(self.layout)
        for i, step in enumerate(steps[:-1]):
            if step.endswith("conv") and steps[i + 1] == "bn":
                self.conv = torch.nn.utils.fuse_conv_bn_eval(self.conv, self.bn)
                del self.bn
                self.layout = tuple(steps[: i + 1] + steps[i + 2 :])
                return

    def last_norm(self) -> nn.Module | None:
        """Return the batch normalisation after the convolution, if there is one."""
        steps = [step for step in self.layout if step == "bn" or step.endswith("conv")]
        return self.bn if steps[-1] == "bn" else None

    def scale_input(self, factor: float) -> bool:
        """Turn ``f(x)`` into ``f(factor * x)`` if that is exact; return whether it was."""
        first = self.layout[0]
        linear = first.endswith("conv")
        homogeneous = first == "relu" and factor > 0 and self.layout[1].endswith("conv")
        if linear or homogeneous:
            with torch.no_grad():
                (self.depthwise if "sepconv" in self.layout else self.conv).weight.mul_(factor)
        return linear or homogeneous

    def scale_output(self, factor: float) -> bool:
        """Turn ``f(x)`` into ``factor * f(x)`` if that is exact; return whether it was."""
        if not self.layout[-1].endswith("conv"):
            return False
        with torch.no_grad():
            self.conv.weight.mul_(factor)
            if self.conv.bias is not None:
                self.conv.bias.mul_(factor)
        return True


def resize(x: Tensor, size: Size, mode: str, align_corners: bool) -> Tensor:
    """Interpolate (N, C, h, w) to ``size``."""
    if mode == "nearest":
        return F.interpolate(x, size=size, mode=mode)
    return F.interpolate(x, size=size, mode=mode, align_corners=align_corners)
