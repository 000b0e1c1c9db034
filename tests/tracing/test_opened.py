"""What is read from a network: its operations, what grows with the batch, what depends on the mode, and its parts."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from topolearn.errors import LiftError
from topolearn.tracing.opened import Opened
from topolearn.tracing.record import record
from topolearn.tracing.values import BatchMultiple, ByMode, InputType, Ref, leaves, mapped


class Net(nn.Module):
    """A network whose forward pass is the function it is given."""

    def __init__(self, forward: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.drop = nn.Dropout(0.5)
        self.forward = forward.__get__(self)  # type: ignore[method-assign]


def opened(forward: Callable[[nn.Module, Tensor], Tensor]) -> Opened:
    model = Net(forward)
    return Opened(lambda: model, model, (3, 4))


def constants(net: Opened, kind: type) -> list[object]:
    return [
        leaf for op in net.flow.trace.ops for _, leaf in leaves((op.args, dict(op.kwargs))) if isinstance(leaf, kind)
    ]


def test_operations_are_named_by_module_and_function() -> None:
    net = opened(lambda self, x: self.linear(x) + self.linear(x).relu())  # type: ignore[operator]
    assert [op.name for op in net.flow.trace.ops] == ["", "linear.linear", "linear.linear_1", "relu", "add"]
    assert [op.macs for op in net.flow.trace.ops] == [0, 2 * 48, 2 * 48, 0, 0]
    assert net.flow.added(4) == (1, 3)


def test_numbers_that_grow_with_the_batch() -> None:
    net = opened(lambda self, x: self.linear(x).reshape(x.shape[0] * 3, 4).reshape(-1, 12))  # type: ignore[operator]
    assert constants(net, BatchMultiple) == [BatchMultiple(3)]
    for batch in (1, 5):
        x = torch.randn(batch, 3, 4)
        model = net.make()
        assert torch.equal(net.region(model, "", "reshape_1")(x), model(x))


def test_constants_that_depend_on_the_mode() -> None:
    net = opened(lambda self, x: nn.functional.dropout(self.linear(x), 0.5, self.training))  # type: ignore[operator]
    assert constants(net, ByMode) == [ByMode(training=True, evaluating=False)]
    model = net.make()
    region = net.region(model, "linear.linear", "dropout")
    x = torch.ones(8, 3, 4)
    assert torch.equal(region.eval()(x), x)
    assert (region.train()(x) == 0).any()


def test_types_that_are_the_inputs() -> None:
    net = opened(lambda self, x: self.linear(x) * torch.arange(4, dtype=x.dtype, device=x.device))  # type: ignore[operator]
    assert constants(net, InputType) == [InputType()]
    model = net.make().double()
    x = torch.randn(2, 3, 4, dtype=torch.float64)
    assert torch.equal(net.region(model, "", "mul")(x), model(x))


def test_a_module_that_only_passes_its_input_on_is_an_operation() -> None:
    net = opened(lambda self, x: x + self.drop(self.linear(x)))  # type: ignore[operator]
    region = net.region(net.make(), "", "drop.dropout")
    assert [step.target for step in region.steps] == ["linear", "drop"]


def test_operations_in_place_do_not_change_what_others_read() -> None:
    def forward(self: nn.Module, x: Tensor) -> Tensor:
        y = self.linear(x)  # type: ignore[operator]
        z = y.tanh()
        z += y
        z.mul_(2.0)
        z[:, 0] = 0.0
        return z

    net = opened(forward)
    model = net.make()
    region = net.region(model, "", "set_item")
    x = torch.randn(2, 3, 4)
    before = x.clone()
    assert torch.equal(region(x), model(x))
    assert torch.equal(x, before)


def test_a_region_that_needs_more_than_its_input() -> None:
    net = opened(lambda self, x: self.linear(x).tanh() + self.linear(x))  # type: ignore[operator]
    model = net.make()
    assert net.region(model, "linear.linear", "tanh") is not None
    with pytest.raises(LiftError, match="no operation 'tan'"):
        net.region(model, "", "tan")
    with pytest.raises(LiftError, match="what leads from 'tanh' to 'add' also needs"):
        net.region(model, "tanh", "add")


def test_the_network_is_not_run_nor_changed() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    (trace,) = record(model, (2, 4), training=True)
    assert trace.changed == {"1.num_batches_tracked"}  # on the meta device, that of the averages is not seen
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


def test_the_fingerprint_is_of_what_is_computed() -> None:
    relu, again = (opened(lambda self, x: self.linear(x).relu()) for _ in range(2))  # type: ignore[operator]
    tanh = opened(lambda self, x: self.linear(x).tanh())  # type: ignore[operator]
    assert relu.fingerprint == again.fingerprint != tanh.fingerprint


def test_leaves_and_their_places() -> None:
    value = (Ref(1), [2, {"a": slice(0, Ref(3))}])
    assert [leaf for _, leaf in leaves(value)] == [Ref(1), 2, 0, Ref(3), None]
    assert mapped(lambda leaf: leaf, value) == value
