"""``fit`` with several inputs, several outputs, vectors and sequences."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import torchmetrics
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import topolearn
from tests.data.toys import Items, NoisyParts
from tests.training.runs import SEVERAL, pair, run, several_loss, untimed
from topolearn.errors import DataError, OptionError, TrainingError
from topolearn.format import loads
from topolearn.graph import Graph
from topolearn.studies.reprune import reprune

TABLE = """
topolearn: 1
name: tiny-table
inputs: {row: [4]}
nodes:
  first: {op: linear, out_features: 8, activation: relu}
  layer[1..3]: {op: linear, out_features: 8, activation: relu}
  head: {op: linear, out_features: 3}
edges:
  - {from: row, to: first}
  - {connect: complete, nodes: [first, "layer[1..3]", head], learnable: true}
outputs: [head]
"""
SIGNAL = """
topolearn: 1
name: tiny-signal
inputs: {signal: {length: 6, channels: 4}}
nodes:
  block[1..2]: {op: transformer.block, heads: 2, layers: 2}
  pool: {op: token_pool}
  head: {op: classifier, classes: 2}
edges:
  - {connect: complete, nodes: [signal, "block[1..2]", pool], learnable: true, start: chain}
  - {from: pool, to: head}
outputs: [head]
"""
IMAGES = """
topolearn: 1
name: tiny-images
inputs: {left: [3, 8, 8], right: [1, 8, 8]}
nodes:
  left_stem: {op: conv_bn_relu, out_channels: 4}
  right_stem: {op: conv_bn_relu, out_channels: 4}
  block[1..2]: {op: conv_bn_relu, out_channels: 4}
  age: {op: classifier, classes: 3}
  map: {op: segmentation_head, classes: 2}
edges:
  - {from: left, to: left_stem}
  - {from: right, to: right_stem}
  - {connect: bipartite, from: [left_stem, right_stem], to: "block[1..2]", learnable: true}
  - {from: block1, to: age}
  - {from: block2, to: map}
outputs: [age, map]
"""


def table() -> Graph:
    return loads(TABLE)


def rows(count: int, seed: int = 0) -> TensorDataset:
    """Vectors whose largest of three numbers is the class."""
    values = torch.randn(count, 4, generator=torch.Generator().manual_seed(seed))
    return TensorDataset(values, values[:, :3].argmax(1))


def parts(**options: Any) -> Any:
    """A run over :data:`SEVERAL`."""
    return run(**{"graph": loads(SEVERAL), "data": pair("several"), "loss": several_loss} | options)


def test_a_table_with_labels_needs_no_loss(tmp_path: Path) -> None:
    result = run(tmp_path / "run", graph=table(), data=(rows(200), rows(60, 1)), epochs=20, batch_size=16, export=True)
    assert result.metrics.keys() == {"loss", "accuracy"}
    assert result.metrics["accuracy"] > 0.85
    assert len(result.graph.edges) < len(result.searched.edges)
    assert result.info.classes == result.config["classes"] == ("0", "1", "2")
    assert result.exported is not None
    assert max(result.exported.errors.values()) < 1e-4
    again = topolearn.load_model(tmp_path / "run")
    values, labels = rows(60, 1).tensors
    assert float((again(values).argmax(1) == labels).float().mean()) == pytest.approx(result.metrics["accuracy"])


def test_a_sequence_with_labels_in_loaders() -> None:
    items = Items([(torch.full((6, 4), index % 2) + torch.rand(6, 4), index % 2) for index in range(16)])
    result = run(
        graph=loads(SIGNAL), data=(DataLoader(items, 4, shuffle=True), DataLoader(items, 4)), learner="continuous"
    )
    assert result.metrics.keys() == {"loss", "accuracy"}
    assert result.info.size == (6, 4)


def test_the_loss_gets_what_network_and_data_give() -> None:
    seen: list[tuple[Any, Any]] = []

    def loss(outputs: Any, targets: Any) -> Tensor:
        seen.append((outputs, targets))
        return several_loss(outputs, targets)

    def error(outputs: Any, targets: Any) -> Tensor:
        return (outputs["size"][:, 0] - targets["size"]).abs().mean()

    result = parts(loss=loss, metrics={"error": error})
    assert result.metrics.keys() == {"loss", "error"}
    for outputs, targets in seen:
        assert outputs.keys() == targets.keys() == {"kind", "size"}
        assert len(outputs["kind"]) == len(targets["kind"]) <= 4
    assert parts().metrics.keys() == {"loss"}
    assert "loss" in repr(parts()), "where there is no metric, the closing table shows the loss"


def test_a_number_per_item_is_not_compared_with_all_others() -> None:
    graph = loads(TABLE.replace("out_features: 3", "out_features: 1"))
    values = torch.randn(16, 4, generator=torch.Generator().manual_seed(0))
    data = (TensorDataset(values, values.sum(1)),) * 2
    with pytest.raises(OptionError) as caught:
        run(graph=graph, data=data, loss=torch.nn.MSELoss())
    assert str(caught.value) == (
        "the loss gets outputs and targets of different shapes, and would compare each with all: Using a target size"
        " (torch.Size([4])) that is different to the input size (torch.Size([4, 1])); bring them to one shape, such as"
        " outputs[:, 0] for a single number per item"
    )
    run(graph=graph, data=data, loss=lambda outputs, targets: F.mse_loss(outputs[:, 0], targets))


def test_images_with_a_metric_over_all_batches(tmp_path: Path) -> None:
    """Two images in, a label and a map out; torchmetrics get dicts, too."""

    class Right(torchmetrics.Metric):
        full_state_update = False
        right: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.add_state("right", torch.zeros(()), dist_reduce_fx="sum")

        def update(self, outputs: dict[str, Tensor], targets: dict[str, Tensor]) -> None:
            self.right += (outputs["age"].argmax(1) == targets["age"]).sum()

        def compute(self) -> Tensor:
            return self.right

    def loss(outputs: dict[str, Tensor], targets: dict[str, Tensor]) -> Tensor:
        return F.cross_entropy(outputs["age"], targets["age"]) + F.cross_entropy(outputs["map"], targets["map"])

    items = [
        (
            {"left": torch.rand(3, 8, 8), "right": torch.rand(1, 8, 8)},
            {"age": number % 3, "map": torch.ones(8, 8).byte()},
        )
        for number in range(8)
    ]
    sets = Items(items), Items(items)
    result = run(
        tmp_path,
        graph=loads(IMAGES),
        data=sets,
        loss=loss,
        metrics={"right": Right()},
        training={"channels_last": True},
        export=True,
    )
    assert 0 <= result.metrics["right"] <= 8
    assert result.metrics["right"] == round(result.metrics["right"])
    assert result.exported is not None


def test_a_metric_above_1_is_no_share() -> None:
    shown = repr(parts(metrics={"years": lambda outputs, targets: 4.25}))
    assert "4.2500" in shown
    assert "425" not in shown


def test_a_metric_of_your_own_is_shown_as_the_number_that_it_gives() -> None:
    def negative(outputs: Any, targets: Any) -> float:
        return -0.25

    shown = repr(parts(metrics={"error": lambda outputs, targets: 0.5, "r2": negative, "mae": lambda *_: 0.125}))
    rows = [line.split()[:2] for line in shown.splitlines()]
    for row in (["error", "0.5000"], ["r2", "-0.2500"], ["mae", "0.1250"]):
        assert row in rows, shown


@pytest.mark.parametrize("learner", ["maskconnect", "continuous", "sparsemask", "fixed"])
def test_every_learner(learner: str) -> None:
    first, second = parts(learner=learner), parts(learner=learner)
    assert untimed(first.history) == untimed(second.history)
    assert first.graph == second.graph


def test_an_input_that_nothing_reads_any_more() -> None:
    """Pruning takes it out of the graph; the data still have it."""
    graph = loads(SEVERAL.replace("c[1..3]", "c[1..1]"))
    result = parts(graph=graph, learner={"name": "fixed", "rule": "prev"})
    assert result.graph.inputs == ("right",)
    assert result.metrics["loss"] > 0
    given = {"left": torch.rand(2, 3), "right": torch.rand(2, 5)}
    outputs, alone = result.model(given), result.model(given["right"])
    assert all(torch.equal(outputs[name], alone[name]) for name in ("kind", "size"))


def test_precision_and_a_finished_run(tmp_path: Path) -> None:
    done = parts(out=tmp_path, precision="bfloat16")
    again = parts(out=tmp_path, precision="bfloat16", resume=True)
    assert again.metrics == done.metrics
    assert again.info.size == (3,)


def test_pruned_again_with_the_data_given(tmp_path: Path) -> None:
    sets = rows(40), rows(20, 1)
    run(tmp_path / "run", graph=table(), data=sets)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = reprune(tmp_path / "run", tmp_path / "again", {"fan_in": "1"}, device="cpu", data=sets)
    assert result.metrics.keys() == {"loss", "accuracy"}
    with pytest.warns(UserWarning, match="cannot be found, so nothing is measured"):
        reprune(tmp_path / "run", tmp_path / "third", {"fan_in": "1"}, device="cpu")


def test_a_trained_network_is_judged_and_keeps_its_classes() -> None:
    names = ["low", "middle", "high"]
    sets = Items([*rows(200)], classes=names), Items([*rows(60, 1)], classes=names)
    trained = run(graph=table(), data=sets, epochs=20, batch_size=16)
    result = run(graph=trained.model, data=sets, learner="fixed")
    assert result.given_metrics["accuracy"] == trained.metrics["accuracy"]
    guessing = topolearn.compile(table())
    with pytest.raises(TrainingError, match=r"validation samples correctly.*; check how its inputs are scaled"):
        run(graph=guessing, data=(TensorDataset(torch.zeros(60, 4), torch.arange(60) % 3),) * 2, epochs=2)
    other = Items([*rows(40)], classes=["middle", "low", "high"])
    with pytest.raises(DataError, match="in another order; number them as its outputs: low, middle, high"):
        run(graph=trained.model, data=(other, other), learner="fixed")


@pytest.mark.parametrize(
    ("error", "text", "options"),
    [
        (DataError, "needs one whole number per item; give a 'loss'", {"loss": None}),
        (
            DataError,
            "has the inputs left, right, but data 'digits' have one; in Python, give fit()",
            {"data": "digits"},
        ),
        (
            DataError,
            "data is a pair of a Dataset and a DataLoader",
            {"data": (NoisyParts(4), DataLoader(NoisyParts(4)))},
        ),
        (OptionError, "'evaluation' is for images with masks", {"training": {"evaluation": "sliding"}}),
        (DataError, "'mean' and 'std' are for images, but 'NoisyParts' has samples", {"training": {"mean": (0.5,)}}),
        (OptionError, "the loss gives {'kind'", {"loss": lambda outputs, targets: targets}),
    ],
)
def test_what_cannot_be(error: type[Exception], text: str, options: dict[str, Any]) -> None:
    with pytest.raises(error) as caught:
        parts(**options)
    assert text in str(caught.value)


def test_classes_of_a_linear_output() -> None:
    values, labels = rows(20).tensors
    more = TensorDataset(values.repeat(2, 1), torch.cat([labels, labels + 2]))
    with pytest.raises(DataError, match=r"has 5 classes .* has 3; set 'nodes.head.out_features' to 5"):
        run(graph=table(), data=(more, more))


def test_large_numbers_are_a_cause() -> None:
    values, labels = rows(20).tensors
    far = TensorDataset(values * 1e30, labels)
    with pytest.raises(TrainingError, match=r"the samples reach [\d.]+e\+30: bring them to about 1"):
        run(graph=table(), data=(far, far))
