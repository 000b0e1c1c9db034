"""Source code: it computes what the network computes, trains as it, can be read, and holds nothing of a stranger's."""

from __future__ import annotations

import ast
import copy
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import topolearn
from tests.compiler import samples, toys
from tests.lifting.networks import randomise
from tests.lifting.test_any_network import PreAct, Tokens
from topolearn.compiler import Network
from topolearn.compiler.modules.nodes import Classifier
from topolearn.errors import ExportError
from topolearn.graph import Edge, Graph, Node
from topolearn.onnx.parity import examples
from topolearn.pytorch.source_file import source_of

TOLERANCE = 1e-5


def written(net: Network, folder: Path) -> tuple[ModuleType, str]:
    """The module of a network's file, and its text."""
    path = folder / "net.py"
    topolearn.export_torch(net, path, check=False)
    spec = importlib.util.spec_from_file_location("written", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module, path.read_text(encoding="utf-8")


def outputs(net: nn.Module, graph: Graph, inputs: list[Tensor]) -> list[Tensor]:
    out = net(dict(zip(graph.inputs, inputs, strict=True))) if isinstance(net, Network) else net(*inputs)
    return list(out.values()) if isinstance(out, dict) else [out]


def agree(net: Network, folder: Path, dynamic: tuple[str, ...] = (), *, draws: bool = False) -> str:
    """Check that a file computes what a network does, in both modes, with the same gradients; return its text.

    Args:
        net: The network.
        folder: Where to write the file.
        dynamic: Axes whose size may change.
        draws: Whether several nodes draw random numbers in training, whose order is not the file's.
    """
    net = topolearn.prune(net).eval()
    module, text = written(net, folder)
    twin = module.load()
    graph = net.graph
    assert sum(p.numel() for p in twin.parameters()) == graph.cost.params
    for batch, other in ((2, ()), (3, dynamic)):
        inputs = examples(graph, batch, other=other)
        with torch.no_grad():
            for found, wanted in zip(outputs(twin, graph, inputs), outputs(net, graph, inputs), strict=True):
                assert found.shape == wanted.shape
                assert (found - wanted).abs().max() <= TOLERANCE * max(1.0, wanted.abs().max())
    if draws:
        return text
    sums = []
    for each in (twin.double().train(), copy.deepcopy(net).double().train()):
        torch.manual_seed(0)
        doubles = [x.double() if x.is_floating_point() else x for x in inputs]
        sum(out.square().sum() for out in outputs(each, graph, doubles)).backward()
        sums.append(sorted(float(p.grad.abs().sum()) for p in each.parameters() if p.grad is not None))
    assert len(sums[0]) == len(sums[1]) > 0
    assert all(abs(ours - theirs) <= 1e-6 * max(1.0, theirs) for ours, theirs in zip(*sums, strict=True))
    return text


def imported(text: str) -> set[str]:
    """The packages that a file imports, besides Python's own."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add((node.module or "").partition(".")[0])
    return found - set(sys.stdlib_module_names)


@pytest.mark.parametrize("name", samples.GRAPHS)
def test_every_op(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    assert imported(agree(topolearn.compile(samples.sample(name)), tmp_path)) == {"torch"}


@pytest.mark.parametrize("aggregate", ["sum", "mean", "normalised"])
def test_every_aggregate(aggregate: str, tmp_path: Path) -> None:
    agree(toys.build(toys.diamond(aggregate)), tmp_path)


def test_concatenation(tmp_path: Path) -> None:
    nodes = [Node("image", "input", {"size": (3, 4, 4)}), Node("a", "conv", {"out_channels": 2})]
    nodes += [Node("both", "concat", aggregate="concat"), Node("head", "classifier", {"classes": 3})]
    edges = (Edge("image", "a"), Edge("image", "both", weight=0.5), Edge("a", "both"), Edge("both", "head"))
    agree(topolearn.compile(Graph("joined", nodes, edges, ("head",)).declare_inputs()), tmp_path)


def test_all_ops_side_by_side_and_several_inputs_and_outputs(tmp_path: Path) -> None:
    agree(topolearn.compile(samples.everything()), tmp_path, draws=True)


@pytest.mark.parametrize(
    ("name", "dynamic"),
    [
        ("digits", ()),
        ("resnext20-4x8-cifar100", ()),
        ("gpt12x64-bytes", ("length",)),
        ("vit12x64-cifar100", ()),
        ("fdn-mobilenetv2-camvid", ("height", "width")),
    ],
)
def test_shipped_graphs(name: str, dynamic: tuple[str, ...], tmp_path: Path) -> None:
    torch.manual_seed(0)
    graph = topolearn.load_graph(name)
    if name.startswith("fdn"):
        text = graph.to_yaml().replace("[3, 480, 360]", "[3, 64, 96]").replace("[3, 360, 480]", "[3, 64, 96]")
        graph = topolearn.loads(text)
    net = topolearn.compile(graph)
    into = {node: [i for i in graph.in_edges(node) if graph.edges[i].learnable] for node in graph.nodes}
    dropped = {i for indices in into.values() for i in indices[:-1:2]}
    net.set_edge_weights([0.0 if i in dropped else edge.weight or 0.3 for i, edge in enumerate(graph.edges)])
    text = agree(net, tmp_path, dynamic=dynamic)
    assert imported(text) == ({"torch", "torchvision"} if name.startswith("fdn") else {"torch"})


@pytest.mark.parametrize(
    ("name", "libraries"),
    [
        ("resnet18", {"torch"}),
        ("mobilenet_v3_small", {"torch"}),
        ("swin_t", {"torch", "torchvision"}),
        ("timm:vit_tiny_patch16_224", {"torch"}),
        ("timm:efficientnet_lite0", {"torch", "timm"}),
    ],
)
def test_lifted_networks(name: str, libraries: set[str], tmp_path: Path) -> None:
    if name.startswith("timm:"):
        pytest.importorskip("timm")
    torch.manual_seed(0)
    net = topolearn.lift(name, size=224 if "vit" in name else 64, classes=5)
    sums = [name for name in net.graph.nodes if name.endswith(("_add", "_add_1"))]
    learnable = [i for i, edge in enumerate(net.graph.edges) if edge.dst in sums and edge.learnable and edge.weight]
    weights = [edge.weight for edge in net.graph.edges]
    weights[learnable[-1]] = 0.0
    weights[learnable[0]] = 0.7
    net.set_edge_weights(weights)
    module, text = written(net, tmp_path)
    assert imported(text) == libraries
    twin, x = module.load(), torch.randn(3, 3, *(net.graph.input_size("image")[1:]))
    with torch.no_grad():
        wanted = net.eval()(x)
        assert (twin(x) - wanted).abs().max() <= TOLERANCE * max(1.0, wanted.abs().max())
    assert twin.train()(x).shape == wanted.shape


@pytest.mark.parametrize(
    "params",
    [
        {"model": "test_resnet", "features": {"low": 1, "high": 3}, "bn_momentum": 0.25},
        {"model": "test_convnext", "features": {"low": 0, "high": 2}},
        {"model": "test_vit", "features": {"low": 2, "high": 5}, "img_size": (64, 96)},
    ],
    ids=lambda params: params["model"],
)
def test_encoders_of_timm(params: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("timm")
    torch.manual_seed(0)
    text = agree(topolearn.compile(toys.encoded(params)), tmp_path)
    assert imported(text) == {"torch", "timm"}


def test_a_network_of_your_own_and_what_it_looks_like(tmp_path: Path) -> None:
    torch.manual_seed(0)
    text = agree(topolearn.lift(Tokens(), size=8), tmp_path)
    assert "self.layers_1_add" not in text  # an addition is written as one
    for line in (
        "        self.layers_1_linear1 = LayersLinear1(",
        "            linear1=nn.Linear(16, 32),",
        "        norm2 = self.norm2(x)",
        "        linear1 = self.linear1(norm2)",
        "        layers_0_add = embed + layers_0_self_attn",
    ):
        assert line in text.splitlines()
    assert text.count("class LayersLinear1") == 1  # both layers are of one class


def test_a_class_of_your_own_that_must_stay_whole_is_refused(tmp_path: Path) -> None:
    net = topolearn.lift(randomise(PreAct()), size=8)
    with pytest.raises(ExportError, match=r"node 'convs_0' cannot be written as source: it needs 'norms\.0', whi"):
        topolearn.export_torch(net, tmp_path / "net.py")
    assert not list(tmp_path.iterdir())


HOSTILE = ["half", "self", "torch", "nn", "F", "class", "__init__", "_x", "forward", "Net", "size_1", "height", "x"]


def test_any_id_is_safe(tmp_path: Path) -> None:
    nodes = [Node("image", "input", {"size": (3, 4, 4)})]
    edges = []
    for before, name in zip(["image", *HOSTILE], HOSTILE, strict=False):
        nodes.append(Node(name, "conv", {"out_channels": 3}))
        edges.append(Edge(before, name, "project"))
    nodes.append(Node("image__half", "identity"))  # its name is that of an edge
    edges += [Edge("image", "image__half"), Edge("x", "image__half", "project")]
    net = topolearn.compile(Graph("hostile", nodes, tuple(edges), ("image__half",)).declare_inputs())
    agree(net, tmp_path)


def test_strings_are_only_written_as_literals(tmp_path: Path) -> None:
    evil = ["'''; import os; os.abort() #", '"""\nraise SystemExit\n"""', "\\", "\ud800", "{0}", "\u2028raise"]
    net = topolearn.compile(topolearn.load_graph("digits"))
    net.graph = net.graph.replace(name="digits'''\nraise SystemExit")
    net.about = {"mean": [0.5], "std": [float("0.25")], "classes": evil}
    module, text = written(net, tmp_path)
    assert module.ABOUT["classes"] == evil
    assert "raise SystemExit" not in [line.strip() for line in text.splitlines()]
    assert {type(node).__name__ for node in ast.parse(text).body} <= {
        "Expr", "Import", "ImportFrom", "Assign", "ClassDef", "FunctionDef",
    }  # fmt: skip


def test_what_the_check_reports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net = topolearn.compile(topolearn.load_graph("digits")).eval()
    report = topolearn.export_torch(net, tmp_path / "net.py")
    assert set(report.errors) == {(2, *net.graph.input_size("image")), (5, *net.graph.input_size("image"))}
    assert max(report.errors.values()) <= TOLERANCE
    assert {path.name for path in tmp_path.iterdir()} == {"net.py", "net.safetensors"}

    def wrong(net: Network) -> tuple[str, dict[str, Tensor]]:
        text, tensors = source_of(net)
        return text, {name: tensor + 1 for name, tensor in tensors.items()}

    monkeypatch.setattr("topolearn.pytorch.source_file.source_of", wrong)
    with pytest.raises(ExportError, match="output 'head' of the exported file differs from the network by"):
        topolearn.export_torch(net, tmp_path / "wrong.py")
    monkeypatch.setattr("topolearn.pytorch.source_file.source_of", lambda net: ("raise KeyError('x')", {}))
    with pytest.raises(ExportError, match="does not run in a process of its own: KeyError: 'x'"):
        topolearn.export_torch(net, tmp_path / "wrong.py")
    assert {path.name for path in tmp_path.iterdir()} == {"net.py", "net.safetensors"}


STRANGE = object()


def strange(self: Classifier, x: Tensor) -> Tensor:
    assert STRANGE
    return self.linear(x.mean((2, 3))) if STRANGE else x


def test_what_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net = topolearn.compile(topolearn.load_graph("digits"))
    with pytest.raises(ExportError, match=r"goes to a \.py file, not to 'net\.txt'"):
        topolearn.export_torch(net, tmp_path / "net.txt")
    with pytest.raises(ExportError, match="there is no folder"):
        topolearn.export_torch(net, tmp_path / "no" / "net.py")
    monkeypatch.setattr(Classifier, "forward", strange)
    with pytest.raises(
        ExportError, match="node 'head' cannot be written as source: it needs 'strange', which needs 'ST"
    ):
        topolearn.export_torch(net, tmp_path / "net.py")
    assert not list(tmp_path.iterdir())


class InPlace(nn.Module):
    """A network that changes tensors in place by functions that have no other form."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = torch.empty_like(x)
        y.copy_(x)
        y[:, ::2] += 1
        return (x + self.conv(y)).mean((2, 3))


def test_changes_in_place_are_written_for_copies(tmp_path: Path) -> None:
    assert ".clone().copy_(" in agree(topolearn.lift(InPlace(), size=8), tmp_path)
    sequence_first = nn.Sequential(nn.Linear(8, 8), SequenceFirst(), nn.Linear(8, 2))
    assert "x.shape[1]" in agree(topolearn.lift(sequence_first, example=torch.randn(2, 6, 8)), tmp_path)


class SequenceFirst(nn.Module):
    """A layer whose parts see the batch as the second axis."""

    def __init__(self) -> None:
        super().__init__()
        self.mix, self.more = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = x.transpose(0, 1)
        x = x + self.mix(x).reshape(6, 2 * x.shape[1], 4).tanh().reshape(6, x.shape[1], 8)
        return (x + self.more(x)).transpose(0, 1)
