"""Networks of dense prediction: every height and width, logits or the class of every pixel."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor

import topolearn
from tests.compiler import toys
from tests.compiler.test_backbone import segmenter
from topolearn.compiler import Network
from topolearn.errors import ExportError
from topolearn.format import load_graph
from topolearn.graph import Edge, Graph, Node
from topolearn.onnx import open_session, parity
from topolearn.onnx.wrappers import Baked, ClassMap
from topolearn.tasks.losses import fit_to_labels
from topolearn.tasks.pixels import Segmentation

ALL_AXES = ("batch", "height", "width")
SIZES = ((2, 21, 30), (1, 40, 17), (3, 9, 64))
"""(batch, height, width) that are no multiple of any stride."""


def maps(classes: int = 5, stride: int = 2, task: str = "segmentation") -> Graph:
    """One convolution and a head; logits at a stride."""
    return toys.graph(
        [
            Node("image", "input", {"size": (3, 12, 16)}),
            Node("half", "conv_bn_relu", {"out_channels": 4, "stride": stride}),  # called as a method is
            Node("logits", "segmentation_head", {"classes": classes}),
        ],
        [Edge("image", "half"), Edge("half", "logits")],
        task=task,
    )


def network(graph: Graph) -> Network:
    """A network without downloads, its decisions not all alike."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return topolearn.compile(graph).eval()


def session_of(net: Network, folder: Path, **options: Any) -> Any:
    report = topolearn.export_onnx(net, folder / "net.onnx", dynamic=ALL_AXES, **options)
    onnx.checker.check_model(onnx.load(report.path), full_check=True)
    assert len(report.errors) == 2
    return open_session(report.path)


def images(batch: int, height: int, width: int) -> Tensor:
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(batch))


def as_the_metrics_have_it(net: Network, image: Tensor) -> Tensor:
    """Logits at the size of the image."""
    with torch.no_grad():
        return fit_to_labels(net(image), image[:, 0])


def assert_best(found: np.ndarray[Any, Any], logits: Tensor) -> None:
    """Every class found is the best one, but for ties within rounding."""
    given = logits.gather(1, torch.from_numpy(found.astype(np.int64))[:, None])[:, 0]
    torch.testing.assert_close(given, logits.max(1).values, rtol=0, atol=1e-4)


@pytest.mark.parametrize("stride", [1, 2])
def test_the_class_of_every_pixel_at_any_size(tmp_path: Path, stride: int) -> None:
    net = network(maps(stride=stride))
    session = session_of(net, tmp_path, output="argmax")
    (output,) = session.get_outputs()
    assert (output.name, output.type) == ("logits", "tensor(uint8)")
    for size in SIZES:
        image = images(*size)
        (found,) = session.run(None, {"image": image.numpy()})
        assert found.shape == size
        assert_best(found, as_the_metrics_have_it(net, image))
        assert len(np.unique(found)) > 1


def test_the_metadata_says_what_comes_out(tmp_path: Path) -> None:
    net = network(maps())
    for output in ("logits", "argmax"):
        report = topolearn.export_onnx(net, tmp_path / "net.onnx", dynamic=(), output=output)
        about = json.loads(open_session(report.path).get_modelmeta().custom_metadata_map["topolearn"])
        assert (report.output, about["output"], about["task"]) == (output, output, "segmentation")
        assert set(report.errors) == {(1, 3, 12, 16)}


def test_float16_and_fixed_sizes(tmp_path: Path) -> None:
    net = network(maps())
    report = topolearn.export_onnx(net, tmp_path / "net.onnx", dynamic=(), output="argmax", precision="float16")
    image = images(1, 12, 16).half()
    (found,) = open_session(report.path).run(None, {"image": image.numpy()})
    assert (found.dtype, found.shape) == (np.uint8, (1, 12, 16))
    logits = as_the_metrics_have_it(net, image.float())
    given = logits.gather(1, torch.from_numpy(found.astype(np.int64))[:, None])[:, 0]
    assert float((logits.max(1).values - given).max()) < 1e-2


def test_more_classes_than_a_byte_holds() -> None:
    for classes, dtype in ((256, torch.uint8), (257, torch.int64)):
        graph = maps(classes)
        assert ClassMap(Baked(network(graph), [1.0, 1.0]), graph)(images(1, 4, 4)).dtype == dtype


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        (maps(1, task="saliency"), "graph 'toy' is for saliency and gives 1 channel"),
        (maps(1), "graph 'toy' is for segmentation and gives 1 channel"),
        (toys.two_heads(), "graph 'toy' is for classification and gives a vector of 3 and 2 channels"),
    ],
)
def test_what_has_no_classes_per_pixel_is_refused(tmp_path: Path, graph: Graph, message: str) -> None:
    with pytest.raises(ExportError, match=f"output 'argmax' is the class of every pixel, but {message}"):
        topolearn.export_onnx(network(graph), tmp_path / "net.onnx", output="argmax")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("wrong", ["largest", "out of range", "shape"])
def test_a_class_that_is_not_the_best_fails_loudly(wrong: str) -> None:
    logits = torch.tensor([[0.0, 3.0], [1.0, 2.0]]).view(1, 2, 1, 2).numpy()
    right = np.array([[[1, 0]]], np.uint8)
    assert parity._shortfall(right, logits) == 0
    found = {"largest": 1 - right, "out of range": right + 1, "shape": right[0]}[wrong]
    assert parity._shortfall(found, logits) == {"largest": pytest.approx(1 / 3)}.get(wrong, float("inf"))


def test_a_file_of_other_classes_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ClassMap, "forward", lambda self, *x: self.logits(*x).argmin(1).to(torch.uint8))
    with pytest.raises(ExportError, match="output 'logits' of the ONNX model differs from PyTorch by"):
        topolearn.export_onnx(network(maps()), tmp_path / "net.onnx", dynamic=(), output="argmax")
    assert list(tmp_path.iterdir()) == []


# -- decoders --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "output"),
    [
        ("sparsemask-mobilenetv2-voc", "argmax"),
        pytest.param("sparsemask-mobilenetv2-voc", "logits", marks=pytest.mark.slow),
        pytest.param("fdn-mobilenetv2-camvid", "logits", marks=pytest.mark.slow),
        pytest.param("fdn-resnet50-voc", "argmax", marks=pytest.mark.slow),
    ],
)
def test_a_decoder_on_a_backbone_at_any_size(tmp_path: Path, name: str, output: str) -> None:
    net = network(load_graph(name, {"inputs": "{image: [3, 64, 96]}"}))
    session = session_of(net, tmp_path, output=output)
    classes = tuple(map(str, range(net.graph.nodes["head"].params["classes"])))
    ours, theirs = Segmentation(classes, None), Segmentation(classes, None)
    for size in ((1, 65, 97), (2, 127, 80)):
        image = images(*size)
        labels = torch.randint(len(classes), size, generator=torch.Generator().manual_seed(0))
        wanted = as_the_metrics_have_it(net, image)
        (found,) = session.run(None, {"image": image.numpy()})
        if output == "argmax":
            assert_best(found, wanted)
            logits = torch.nn.functional.one_hot(torch.from_numpy(found).long(), len(classes)).permute(0, 3, 1, 2)
        else:
            logits = fit_to_labels(torch.from_numpy(found), labels)
            torch.testing.assert_close(logits, wanted, rtol=1e-3, atol=1e-4 * float(wanted.abs().max()))
        ours.update(wanted, labels)
        theirs.update(logits, labels)
    assert theirs.compute() == pytest.approx(ours.compute(), abs=1e-3)


def test_a_backbone_that_rounds_sizes_down_is_exported_for_any_size(tmp_path: Path) -> None:
    graph = segmenter({"model": "vgg11_bn", "features": {"low": "features.1", "high": "features.9"}}, (24, 32))
    net = network(graph)
    session = session_of(net, tmp_path)
    for size in SIZES:
        image = images(*size)
        (found,) = session.run(None, {"image": image.numpy()})
        with torch.no_grad():
            torch.testing.assert_close(torch.from_numpy(found), net(image), rtol=1e-3, atol=1e-4)
