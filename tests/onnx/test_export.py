"""Export: what is in the file, that it agrees with the network, and what happens when it does not."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

import topolearn
from tests.compiler import samples, toys
from topolearn.compiler import Network
from topolearn.errors import ExportError, TopolearnError
from topolearn.format import loads
from topolearn.graph import Edge, Node
from topolearn.learners import make_learner
from topolearn.onnx import ExportReport, export, open_session, parity
from topolearn.onnx.wrappers import Baked
from topolearn.ops import Shape

ALL_AXES = ("batch", "height", "width")


def network() -> Network:
    """A small network in training mode, with a mean of three, edges to fold and one that is off."""
    graph = toys.diamond("mean")
    net = toys.build(graph)
    net.set_edge_weights([1.0, 1.0, 0.0, -1.5, 0.5, 2.0, 1.0, 0.7])
    net.about = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.2], "classes": ["cat", "dog", "Ørsted"]}
    return net


@dataclass
class Exported:
    """A file, and all about it."""

    net: Network
    report: ExportReport
    model: onnx.ModelProto

    def count(self) -> Counter[str]:
        return Counter(node.op_type for node in self.model.graph.node)

    def run(self, **inputs: torch.Tensor) -> list[np.ndarray[Any, Any]]:
        session = open_session(self.report.path)
        return session.run(None, {name: x.numpy() for name, x in inputs.items()})


def exported(net: Network, folder: Path, **options: Any) -> Exported:
    report = topolearn.export_onnx(net, folder / "net.onnx", **options)
    model = onnx.load(report.path)
    onnx.checker.check_model(model, full_check=True)
    return Exported(net, report, model)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """The network of :func:`network` with everything at its default."""
    return exported(network(), tmp_path_factory.mktemp("plain"))


def test_the_report(plain: Exported) -> None:
    report = plain.report
    assert report.path.stat().st_size == report.size
    assert (report.precision, report.dynamic, report.provider) == ("float32", ("batch",), "cpu")
    assert set(report.errors) == {(2, 3, 8, 8), (5, 3, 8, 8)}
    assert all(0 <= error < 1e-5 for error in report.errors.values())
    assert report.nodes == len(plain.model.graph.node)


def test_the_network_stays_as_it_was(plain: Exported) -> None:
    fresh = network()
    assert plain.net.training
    assert all(module.training for module in plain.net.modules())
    assert plain.net.frozen_edge_weights == fresh.frozen_edge_weights
    state = plain.net.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in fresh.state_dict().items())


def test_inputs_outputs_and_axes_have_their_names(plain: Exported) -> None:
    (image,), (head,) = plain.model.graph.input, plain.model.graph.output
    assert (image.name, head.name) == ("image", "head")
    sizes = [[d.dim_param or d.dim_value for d in x.type.tensor_type.shape.dim] for x in (image, head)]
    assert sizes == [["batch", 3, 8, 8], ["batch", 3]]


@pytest.mark.parametrize("batch", [1, 7])
def test_it_computes_what_eval_mode_computes_at_any_batch(plain: Exported, batch: int) -> None:
    image = torch.randn(batch, 3, 8, 8)
    (found,) = plain.run(image=image)
    with torch.no_grad():
        wanted = toys.build(plain.net.graph)
        wanted.load_state_dict(plain.net.state_dict())
        wanted.set_edge_weights(plain.net.frozen_edge_weights)
        np.testing.assert_allclose(found, wanted.eval()(image).numpy(), rtol=1e-4, atol=1e-5)


def test_one_metadata_key_holds_everything_a_server_needs(plain: Exported) -> None:
    (entry,) = plain.model.metadata_props
    assert entry.key == "topolearn"
    about = json.loads(entry.value)
    assert loads(about.pop("graph")) == plain.net.graph
    assert about == {
        "version": topolearn.__version__,
        "task": "classification",
        "output": "logits",
        "input_size": {"image": [3, 8, 8]},
        "mean": [0.5, 0.4, 0.3],
        "std": [0.2, 0.2, 0.2],
        "classes": ["cat", "dog", "Ørsted"],
    }
    session = open_session(plain.report.path)
    assert json.loads(session.get_modelmeta().custom_metadata_map["topolearn"])["version"] == topolearn.__version__


def test_nothing_of_this_machine_is_in_the_file(plain: Exported) -> None:
    data = plain.report.path.read_bytes()
    for trace in (str(Path(topolearn.__file__).parents[1]), str(Path.home()), str(Path(torch.__file__).parent)):
        if len(trace) > 1:
            assert trace.encode() not in data


def test_batch_normalisation_is_folded_and_an_edge_that_is_off_costs_nothing(plain: Exported) -> None:
    count = plain.count()
    assert count["BatchNormalization"] == 0
    assert count["Conv"] == 3
    assert plain.report.folded == 2  # b -> c, the one active edge of its node, into that; join -> head likewise


def test_the_same_network_gives_the_same_bytes(plain: Exported, tmp_path: Path) -> None:
    again = exported(network(), tmp_path)
    assert again.report.path.read_bytes() == plain.report.path.read_bytes()


def test_float16_with_fixed_sizes(tmp_path: Path) -> None:
    made = exported(network(), tmp_path, precision="float16", dynamic=())
    assert set(made.report.errors) == {(1, 3, 8, 8)}
    (image,) = made.model.graph.input
    assert image.type.tensor_type.elem_type == onnx.TensorProto.FLOAT16
    assert [d.dim_value for d in image.type.tensor_type.shape.dim] == [1, 3, 8, 8]
    kinds = {tensor.data_type for tensor in made.model.graph.initializer}
    assert onnx.TensorProto.FLOAT not in kinds
    (found,) = made.run(image=torch.randn(1, 3, 8, 8).half())
    assert found.dtype == np.float16


def test_a_learners_choice_is_what_eval_mode_computes(tmp_path: Path) -> None:
    # The reference interpreter exports as well, for what is written is never its loop.
    graph = toys.diamond("sum")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = topolearn.compile(graph, make_learner("maskconnect", graph, {"fan_in": 2}), reference=True)
    made = exported(net, tmp_path)
    image = torch.randn(4, 3, 8, 8)
    with torch.no_grad():
        wanted = net.eval()(image).numpy()
    np.testing.assert_allclose(made.run(image=image)[0], wanted, rtol=1e-4, atol=1e-5)


def test_two_inputs_of_two_sizes_and_two_outputs_with_every_axis_dynamic(tmp_path: Path) -> None:
    net = toys.build(toys.two_heads()).eval()
    made = exported(net, tmp_path, dynamic=ALL_AXES)
    assert set(made.report.errors) == {(2, 3, 9, 7), (5, 3, 15, 11)}
    assert [x.name for x in made.model.graph.output] == ["classes", "map"]
    inputs = {"image": torch.randn(1, 3, 21, 6), "depth": torch.randn(1, 2, 11, 3)}
    with torch.no_grad():
        wanted = net(**inputs)
    for name, found in zip(wanted, made.run(**inputs), strict=True):
        np.testing.assert_allclose(found, wanted[name].numpy(), rtol=1e-4, atol=1e-5)
    # What is left is the normalised sum's: no convolution comes before it.
    assert made.count()["BatchNormalization"] == 1


@pytest.mark.parametrize("axis", ["height", "width"])
def test_one_dynamic_axis_is_checked_at_two_sizes(axis: str) -> None:
    shapes = {tuple(x.shape) for other in ((), (axis,)) for x in parity.examples(toys.diamond(), 1, other=other)}
    assert shapes == {(1, 3, 8, 8), (1, 3, 13, 8) if axis == "height" else (1, 3, 8, 13)}


# --- parity of every op: one export for all, as each takes seconds ---


@pytest.fixture(scope="module")
def every_op(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    graph = samples.everything(without="patch_embedding")  # which takes no larger image than it has positions for
    net = toys.build(graph)
    net.set_edge_weights([0.5 if edge.learnable else edge.weight for edge in graph.edges])
    return exported(net, tmp_path_factory.mktemp("every"), dynamic=(*ALL_AXES, "length"))


def test_every_op_agrees_at_every_size(every_op: Exported) -> None:
    net = every_op.net
    net.eval()
    for batch, size, length in ((1, (9, 7), 5), (3, (12, 16), 2), (2, (5, 3), 4)):
        ids = torch.randint(7, (batch, length))
        inputs = {"image": torch.randn(batch, 3, *size), "facts": torch.randn(batch, 4), "ids": ids}
        with torch.no_grad():
            wanted = net(**inputs)
        for name, found in zip(wanted, every_op.run(**inputs), strict=True):
            np.testing.assert_allclose(found, wanted[name].numpy(), rtol=1e-3, atol=1e-4, err_msg=name)


def test_no_batch_normalisation_is_left_behind_a_convolution(every_op: Exported) -> None:
    # Those that normalise what other nodes bring: a block with its normalisations first has one such.
    ops = [node.op for node in every_op.net.graph.nodes.values()]
    alone = ops.count("bn_relu_conv"), ops.count("batch_norm"), ops.count("resnet.preact")
    assert every_op.count()["BatchNormalization"] == sum(alone)
    assert min(alone) > 0


def test_every_op_in_float16(tmp_path: Path) -> None:
    graph = samples.everything()
    report = topolearn.export_onnx(toys.build(graph), tmp_path / "half.onnx", precision="float16")
    assert max(report.errors.values()) < 1e-2


# --- failures ---


def refused(net: Network, folder: Path, message: str, **options: Any) -> None:
    """The export raises one clear line and writes nothing."""
    before = sorted(folder.rglob("*"))
    with pytest.raises(ExportError, match=message) as caught:
        topolearn.export_onnx(net, folder / "net.onnx", **options)
    assert "\n" not in str(caught.value)
    assert "\x1b" not in str(caught.value)
    assert sorted(folder.rglob("*")) == before


@pytest.fixture
def converted(plain: Exported, monkeypatch: pytest.MonkeyPatch) -> onnx.ModelProto:
    """Save the seconds of a conversion: the converter gives a copy of this model."""
    model = onnx.ModelProto()
    model.CopyFrom(plain.model)
    del model.metadata_props[:]
    monkeypatch.setattr(export, "_convert", lambda *args: model)
    return model


def scale_head(model: onnx.ModelProto, factor: float) -> None:
    """Multiply the classifier's weights by ``factor``."""
    gemm = next(node for node in model.graph.node if node.op_type == "Gemm")
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == gemm.input[1])
    tensor.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor) * np.float32(factor), tensor.name))


@pytest.mark.parametrize(("factor", "message"), [(1.01, "differs from PyTorch by"), (np.nan, "not a number|differs")])
def test_a_wrong_model_fails_loudly(converted: onnx.ModelProto, tmp_path: Path, factor: float, message: str) -> None:
    scale_head(converted, factor)
    refused(network(), tmp_path, message)


def test_a_wrong_folding_fails_loudly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "fold_edge_weights", lambda net, weights: [1.0] * len(weights))
    refused(
        network(), tmp_path, "output 'head' of the ONNX model differs from PyTorch by .* at most 0.0001", dynamic=()
    )


def test_a_weight_that_is_no_number_is_named(tmp_path: Path) -> None:
    net = network()
    with torch.no_grad():
        name, weight = list(net.named_parameters())[2]
        weight.view(-1)[0] = float("nan")
    for check in (True, False):
        refused(net, tmp_path, f"'{name}' of the network holds values that are NaN or infinite", check=check)


def test_what_float16_cannot_hold_is_said(tmp_path: Path) -> None:
    net = network()
    with torch.no_grad():
        list(net.parameters())[-1].view(-1)[0] = 1e6  # of the classifier, into which nothing is folded
    for check in (True, False):
        refused(net, tmp_path, "too large for float16; export it in float32", precision="float16", check=check)
    with torch.no_grad():
        list(net.parameters())[-1].view(-1)[0] = 0.0
        list(net.parameters())[-2].fill_(6e4)  # each fits, their sums do not
    refused(net, tmp_path, r"A value is too large for float16\. Export it in float32", precision="float16", dynamic=())


def test_rounding_is_told_from_a_wrong_file(converted: onnx.ModelProto, tmp_path: Path) -> None:
    scale_head(converted, 1.01)
    refused(network(), tmp_path, "PyTorch rounds by [0-9.e-]+ only, so the file is wrong")
    baked = Baked(toys.build(samples.everything()).eval(), [1.0] * len(samples.everything().edges))
    inputs = parity.examples(samples.everything(), 2)
    wrong = np.zeros(1, np.float32)
    assert "so the file is wrong" in parity._why(baked, inputs, wrong, "float32")
    far = toys.build(
        toys.graph(
            [Node("image", "input", {"size": (3, 1, 1)}), Node("head", "classifier", {"classes": 1})],
            [Edge("image", "head")],
        )
    )
    with torch.no_grad():  # terms of 1e8 that cancel: float32 has steps of 8 there
        far.get_parameter("nodes.head.linear.weight").copy_(torch.tensor([[1e8, -1e8 / 3, -2e8 / 3]]))
    images = torch.rand(2, 3, 1, 1, generator=torch.Generator().manual_seed(0)) * 1e-7 + 1
    said = parity._why(Baked(far.eval(), [1.0]), [images], wrong, "float32")
    assert re.match(r"PyTorch's own float32 differs from float64 by [0-9.]+, so this is rounding", said)


def test_another_shape_fails_loudly(converted: onnx.ModelProto, tmp_path: Path) -> None:
    del converted.graph.node[-1]  # the classifier
    last = converted.graph.node[-1].output[0]
    converted.graph.output[0].CopyFrom(onnx.helper.make_tensor_value_info(last, onnx.TensorProto.FLOAT, None))
    refused(network(), tmp_path, "output 'head' of the ONNX model")


def test_a_failed_export_leaves_the_old_file(converted: onnx.ModelProto, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(b"old")
    scale_head(converted, 1.01)
    refused(network(), tmp_path, "differs")
    assert path.read_bytes() == b"old"


def test_without_a_check_nothing_is_compared(converted: onnx.ModelProto, tmp_path: Path) -> None:
    scale_head(converted, 2.0)
    report = topolearn.export_onnx(network(), tmp_path / "net.onnx", dynamic="batch", check=False)
    assert (report.errors, report.provider, report.dynamic) == ({}, None, ("batch",))
    assert report.path.exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "float61"}, "unknown precision 'float61'; did you mean 'float16'"),
        ({"dynamic": ("batch", "hight")}, "unknown axis 'hight'; did you mean 'height'"),
        ({"output": "softmax"}, "unknown output 'softmax'; known: argmax, logits"),
        (
            {"output": "argmax"},
            "'argmax' is the class of every pixel, but graph 'toy' is for classification and gives a vector of 3",
        ),
        ({"provider": "cudda"}, "unknown provider 'cudda'; did you mean 'cuda'"),
    ],
)
def test_a_wrong_option_is_a_clear_error(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    refused(network(), tmp_path, message, **options)


@pytest.mark.parametrize(
    ("inputs", "head", "axis", "there"),
    [
        ("{x: [5]}", "{op: linear, out_features: 4}", "height", "batch"),
        ("{x: {length: 6, channels: 4}}", "{op: layer_norm}", "width", "batch, length"),
    ],
)
def test_an_axis_that_no_input_has_is_a_clear_error(
    tmp_path: Path, inputs: str, head: str, axis: str, there: str
) -> None:
    text = f"topolearn: 1\nname: v\ninputs: {inputs}\nnodes: {{head: {head}}}\n"
    net = topolearn.compile(topolearn.loads(f"{text}edges: [{{from: x, to: head}}]\noutputs: [head]\n"))
    message = f"the axis '{axis}' cannot change, since no input has it; the inputs have: {there}"
    refused(net, tmp_path, message, dynamic=("batch", axis))


@pytest.mark.skipif(torch.cuda.is_available(), reason="CUDA is there")
def test_a_provider_that_is_not_there_is_an_error(
    converted: onnx.ModelProto, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    refused(network(), tmp_path, "CUDAExecutionProvider", provider="cuda")
    assert capfd.readouterr() == ("", "")


@pytest.mark.gpu
def test_parity_on_a_gpu(converted: onnx.ModelProto, tmp_path: Path) -> None:
    assert topolearn.export_onnx(network(), tmp_path / "net.onnx", provider="cuda").provider == "cuda"


def test_a_missing_folder_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"there is no folder .*sub; create it first"):
        topolearn.export_onnx(network(), tmp_path / "sub" / "net.onnx")


def test_a_place_that_cannot_be_written_is_a_clear_error(converted: onnx.ModelProto, tmp_path: Path) -> None:
    (tmp_path / "net.onnx").mkdir()
    with pytest.raises(TopolearnError, match="cannot write"):
        topolearn.export_onnx(network(), tmp_path / "net.onnx")


def test_a_graph_that_cannot_be_exported_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from topolearn.compiler.modules.nodes import Classifier

    def peek(self: Classifier, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x.mean((2, 3))) if x.sum().item() > 0 else self.linear(x.amax((2, 3)))

    monkeypatch.setattr(Classifier, "forward", peek)
    refused(network(), tmp_path, "the graph cannot be exported with dynamic batch: .*")
    assert capfd.readouterr() == ("", "")


def test_an_axis_that_the_graph_fixes_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from topolearn.compiler.modules.nodes import Classifier

    def fixed(self: Classifier, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x.reshape(-1, 6, 16).mean(2))

    monkeypatch.setattr(Classifier, "forward", fixed)
    refused(network(), tmp_path, "with dynamic batch, height at image 5 x 3 x 13 x 8: ", dynamic=("batch", "height"))


def test_a_backbone_folds_but_for_the_features_taken_before_its_normalisation(tmp_path: Path) -> None:
    params = {"model": "resnet18", "features": {"conv": "layer1.0.conv1", "low": "layer1.0"}}
    graph = toys.graph(
        [
            Node("image", "input", {"size": (3, 32, 32)}),
            Node("backbone", "torchvision.backbone", params),
            *(Node(name, "feature", {"name": name}) for name in params["features"]),
            Node("sum", "identity", {}, "sum", Shape(8, 4)),
            Node("logits", "segmentation_head", {"classes": 3}),
        ],
        [
            Edge("image", "backbone"),
            *(Edge("backbone", name) for name in params["features"]),
            *(Edge(name, "sum", "conv_resize", weight=0.5) for name in params["features"]),
            Edge("sum", "logits"),
        ],
        task="segmentation",
    )
    made = exported(toys.build(graph), tmp_path)
    assert made.count()["BatchNormalization"] == 1
    assert made.report.folded == 2
