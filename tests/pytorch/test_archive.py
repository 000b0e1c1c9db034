"""Archives of torch.export: they load without topolearn, and take any batch, length and size that the graph takes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import topolearn
from tests.compiler import toys
from tests.lifting.networks import randomise
from tests.lifting.test_any_network import SmallResNet
from topolearn.errors import ExportError
from topolearn.onnx.parity import examples


def test_text_of_another_length(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = topolearn.compile(topolearn.load_graph("gpt12x64-bytes")).eval()
    report = topolearn.export_pt2(net, tmp_path / "net.pt2")
    assert len(report.errors) == 2
    assert max(report.errors.values()) <= 1e-5
    assert report.size == (tmp_path / "net.pt2").stat().st_size
    loaded = torch.export.load(tmp_path / "net.pt2").module()
    (x,) = examples(net.graph, 4, other=("length",))
    with torch.no_grad():
        assert torch.allclose(loaded(x), net(x), atol=1e-5)


def test_a_lifted_network_without_a_block(tmp_path: Path) -> None:
    net = topolearn.lift(randomise(SmallResNet()), size=16)
    net.set_edge_weights([0.0 if edge.src == "blocks_1" else edge.weight for edge in net.graph.edges])
    report = topolearn.export_pt2(net, tmp_path / "net.pt2")
    assert set(report.errors) == {(2, 3, 16, 16), (5, 3, 16, 16)}


def test_a_dense_network_of_any_size(tmp_path: Path) -> None:
    net = toys.build(toys.diamond("mean"))
    report = topolearn.export_pt2(net, tmp_path / "net.pt2", dynamic=("batch", "height", "width"))
    assert len({shape[2:] for shape in report.errors}) == 2


def test_what_cannot_be_exported(tmp_path: Path) -> None:
    net = topolearn.compile(topolearn.load_graph("digits"))
    with pytest.raises(ExportError, match="there is no folder"):
        topolearn.export_pt2(net, tmp_path / "no" / "net.pt2")
    with pytest.raises(ExportError, match="unknown axis 'length_'; did you mean 'length'"):
        topolearn.export_pt2(net, tmp_path / "net.pt2", dynamic=("length_",))
    with torch.no_grad():
        next(iter(net.parameters())).fill_(float("nan"))
    with pytest.raises(ExportError, match="NaN or infinite"):
        topolearn.export_pt2(net, tmp_path / "net.pt2")
    assert not list(tmp_path.iterdir())
