"""A network inside a wrapper is the network, in every public function that takes one."""

from __future__ import annotations

import copy
import inspect
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torchvision
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

import topolearn
from tests.training.runs import graph, run
from topolearn.compiler import load_pretrained
from topolearn.compiler.network import unwrapped
from topolearn.errors import LiftError, OptionError
from topolearn.learners import MaskConnect
from topolearn.onnx import open_session

WRAPPERS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "ddp": nn.parallel.DistributedDataParallel,
    "data parallel": nn.DataParallel,
    "compiled": torch.compile,
    "sequential": nn.Sequential,
    "named": lambda net: nn.Sequential(OrderedDict(net=net)),
    "averaged": AveragedModel,
    "nested": lambda net: torch.compile(nn.DataParallel(nn.Sequential(net))),
}
EACH = pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)


@pytest.fixture(autouse=True, scope="module")
def group() -> Iterator[None]:
    """A process group of one, which DDP needs."""
    dist.init_process_group("gloo", rank=0, world_size=1, store=dist.HashStore())
    yield
    dist.destroy_process_group()


def network() -> topolearn.Network:
    torch.manual_seed(0)
    return topolearn.compile(graph(), MaskConnect(graph(), fan_in=1)).eval()


def images() -> Tensor:
    return torch.randn(2, 3, 8, 6, generator=torch.Generator().manual_seed(1))


def pruned(net: nn.Module, _: Path) -> Tensor:
    return topolearn.prune(net)(images())


def compiled(net: nn.Module, _: Path) -> Tensor:
    return topolearn.compile(net, MaskConnect(graph(), fan_in=1))(images())


def features(net: nn.Module, _: Path) -> Tensor:
    return topolearn.features(net, ["stem"])(images())["stem"]


def exported(net: nn.Module, folder: Path) -> Tensor:
    topolearn.export_onnx(net, folder / "net.onnx", dynamic=())
    session = open_session(folder / "net.onnx")
    return torch.tensor(session.run(None, {"image": images()[:1].numpy()})[0])


def archived(net: nn.Module, folder: Path) -> Tensor:
    topolearn.export_pt2(net, folder / "net.pt2", check=False)
    return torch.export.load(folder / "net.pt2").module()(images())


def written(net: nn.Module, folder: Path) -> Tensor:
    """The bytes of the weights."""
    topolearn.export_torch(net, folder / "net.py", check=False)
    return torch.tensor(list((folder / "net.safetensors").read_bytes()))


def given_back(net: nn.Module, _: Path) -> Tensor:
    """The letters of the error: this network has not been lifted."""
    with pytest.raises(LiftError) as caught:
        topolearn.unlift(net)
    return torch.tensor(list(str(caught.value).encode()))


def fitted(net: nn.Module, _: Path) -> Tensor:
    return run(graph=net, learner="fixed", epochs=1).model(images())


def groups(net: nn.Module, _: Path) -> Tensor:
    """How many values each group of each optimiser holds, and its decay."""
    made = topolearn.optimizers(net, lr=0.1, weight_decay=0.3)
    found = [group for optimizer in made for group in optimizer.param_groups]
    return torch.tensor([(sum(p.numel() for p in group["params"]), group["weight_decay"]) for group in found])


CALLS: dict[str, Callable[[nn.Module, Path], Tensor]] = {
    "compile": compiled,
    "export_onnx": exported,
    "export_pt2": archived,
    "export_torch": written,
    "features": features,
    "fit": fitted,
    "optimizers": groups,
    "prune": pruned,
    "unlift": given_back,
}


@EACH
@pytest.mark.parametrize("name", CALLS)
def test_a_wrapped_network_is_the_network(
    name: str, wrap: Callable[[nn.Module], nn.Module], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrapped = wrap(network())
    if name == "fit":
        # The group of this module would be the run's.
        monkeypatch.setattr(dist, "is_initialized", lambda: False)
    with torch.no_grad() if name != "fit" else torch.enable_grad():
        torch.testing.assert_close(CALLS[name](wrapped, tmp_path), CALLS[name](network(), tmp_path), rtol=0, atol=0)


def test_these_are_all_functions_that_take_a_network() -> None:
    functions = {name: getattr(topolearn, name) for name in topolearn.__all__}
    taking = {
        name
        for name, function in functions.items()
        if inspect.isfunction(function)
        and any(
            "Module" in str(parameter.annotation) or "Network" in str(parameter.annotation)
            for parameter in inspect.signature(function).parameters.values()
        )
    }
    # These are not given networks over graphs, or look through wrappers as `fit` does.
    assert taking == {*CALLS, "lift", "load_model", "register_source", "shrink"}


@EACH
def test_the_masks_of_a_wrapped_network_are_apart(wrap: Callable[[nn.Module], nn.Module]) -> None:
    wrapped = wrap(network())
    net = unwrapped(wrapped)
    assert isinstance(net, topolearn.Network)
    weights, masks = topolearn.optimizers(wrapped, lr=0.1, weight_decay=0.3, node_lr={"head": 0.5})
    assert [p for group in masks.param_groups for p in group["params"]] == list(net.learner.parameters())  # type: ignore[union-attr]
    assert weights.param_groups[1]["params"] == list(net.nodes["head"].parameters())
    assert net.learner.mask.numel() not in {p.numel() for group in weights.param_groups for p in group["params"]}  # type: ignore[union-attr]


@EACH
def test_lift_looks_through_a_wrapper(wrap: Callable[[nn.Module], nn.Module], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_TORCHINDUCTOR_PYOBJECT_TENSOR_DATA_PTR", "")  # which compiling sets
    model = torchvision.models.resnet18(num_classes=3)
    net = topolearn.lift(wrap(model), size=32)
    assert net.graph == topolearn.lift(model, size=32).graph


@EACH
def test_load_pretrained_takes_a_wrapped_network(wrap: Callable[[nn.Module], nn.Module]) -> None:
    load_pretrained(wrap(network()))  # no backbone: nothing to load
    with pytest.raises(OptionError, match="load_pretrained takes a network over a graph, not a Linear"):
        load_pretrained(nn.Linear(2, 3))


class Own(nn.Module):
    """A network of a user's own around one over a graph."""

    def __init__(self, *nets: nn.Module) -> None:
        super().__init__()
        self.nets = nn.ModuleList(nets)
        self.last = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        total: Tensor = sum(net(x) for net in self.nets)  # type: ignore[assignment]
        return self.last(total)


def test_a_network_inside_another_has_its_masks_apart_and_the_rest_together() -> None:
    net = network()
    weights, masks = topolearn.optimizers(Own(net), lr=0.1, weight_decay=0.3)
    mask = net.learner.mask  # type: ignore[union-attr]
    (own,) = (group["params"] for group in masks.param_groups)
    (others,) = (group["params"] for group in weights.param_groups)
    assert own == [mask]
    assert len(others) == len(list(net.parameters())) - 1 + 2


def test_two_learners_need_optimizers_each() -> None:
    with pytest.raises(OptionError, match="holds 2 networks with learners; make optimizers for each"):
        topolearn.optimizers(Own(network(), network()), lr=0.1)
    fixed = topolearn.compile(graph())  # no learner
    assert len(topolearn.optimizers(Own(network(), fixed), lr=0.1)) == 2


def hooked(net: nn.Module) -> nn.Module:
    wrapped = nn.Sequential(net)
    wrapped.register_forward_hook(lambda module, given, output: output * 2)
    return wrapped


@pytest.mark.parametrize(
    "wrap", [hooked, Own, lambda net: nn.Sequential(net, nn.Softmax(1))], ids=["hook", "own", "two"]
)
def test_what_computes_something_else_is_refused(wrap: Callable[[Any], nn.Module], tmp_path: Path) -> None:
    wrapped = wrap(network())
    for name in ("prune", "compile", "features", "export_onnx", "fit"):
        with pytest.raises(OptionError, match=f"{name} takes a .*, not a {type(wrapped).__name__}"):
            CALLS[name](wrapped, tmp_path)
    model = wrap(torchvision.models.resnet18(num_classes=4))
    if wrap is hooked:
        with pytest.raises(LiftError, match=r"cannot lift this Sequential: it has a hook"):
            topolearn.lift(model)
    else:
        assert len(topolearn.lift(model, size=32).graph.outputs) == 1  # it is a network of one's own, as it is


def test_a_copy_of_a_compiled_network_computes_with_its_own_weights() -> None:
    net = network()
    net.compile(backend="eager")
    other = copy.deepcopy(net)
    for parameter in other.nodes["head"].parameters():
        nn.init.zeros_(parameter)
    assert not bool(other(images()).any())
    assert bool(net(images()).any())
