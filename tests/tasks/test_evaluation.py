"""Losses and metrics, against values computed by hand, and what data must have to be judged by them."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torchmetrics.classification
from torch import Tensor
from torch.nn import functional as F

from tests.data.toys import info
from tests.training.runs import SEGMENTATION, graph
from topolearn.errors import DataError, OptionError
from topolearn.format import loads
from topolearn.graph import Graph
from topolearn.tasks import Evaluation, Loss, check_fits, task_of
from topolearn.tasks.losses import fit_to_labels

CPU = torch.device("cpu")


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def loss_of(data: Any, label_smoothing: float = 0.0) -> Loss:
    return task_of(data.task).loss(data, label_smoothing)


def evaluate(batches: list[tuple[Tensor, Tensor]], data: Any, **metrics: Any) -> dict[str, float]:
    """The batches' images are the network's outputs."""
    return Evaluation(loss_of(data), metrics or task_of(data.task).metrics(data), CPU).run(
        lambda outputs: outputs, batches
    )


# -- losses -------------------------------------------------------------------------------------


def test_cross_entropy_by_hand() -> None:
    logits, targets = torch.tensor([[2.0, 0.0, 1.0, 0.0], [0.0, 3.0, 0.0, 0.0]]), torch.tensor([2, 1])
    first = -math.log(math.e / (math.e**2 + 1 + math.e + 1))
    second = -math.log(math.e**3 / (math.e**3 + 3))
    assert float(loss_of(info())(logits, targets)) == pytest.approx((first + second) / 2)


def test_label_smoothing() -> None:
    logits, targets = numbers(5, 4), torch.tensor([0, 1, 2, 3, 0])
    smooth = F.one_hot(targets, 4) * 0.9 + 0.1 / 4
    expected = -(smooth * logits.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(loss_of(info(), 0.1)(logits, targets), expected)


def test_pixels_without_a_label_do_not_count() -> None:
    data = info(task="segmentation", ignore_index=255)
    logits, targets = numbers(2, 4, 3, 3), torch.randint(0, 4, (2, 3, 3), generator=torch.Generator().manual_seed(1))
    targets[0, :2] = 255
    known = targets != 255
    expected = F.cross_entropy(logits.movedim(1, -1)[known], targets[known])
    torch.testing.assert_close(loss_of(data)(logits, targets), expected)
    smooth = F.cross_entropy(logits.movedim(1, -1)[known], targets[known], label_smoothing=0.2)
    torch.testing.assert_close(loss_of(data, 0.2)(logits, targets), smooth)


def test_a_batch_without_any_label_has_loss_0() -> None:
    data = info(task="segmentation", ignore_index=255)
    logits = numbers(2, 4, 3, 3).requires_grad_()
    loss = loss_of(data)(logits, torch.full((2, 3, 3), 255))
    loss.backward()
    assert float(loss.detach()) == 0
    assert logits.grad is not None
    assert not logits.grad.any()


def test_coarse_maps_are_resized_to_the_labels() -> None:
    coarse, targets = numbers(2, 4, 3, 2), torch.zeros(2, 7, 5, dtype=torch.long)
    resized = fit_to_labels(coarse, targets)
    assert resized.shape == (2, 4, 7, 5)
    # With aligned corners, corners stay.
    torch.testing.assert_close(resized[..., 0, 0], coarse[..., 0, 0])
    torch.testing.assert_close(resized[..., -1, -1], coarse[..., -1, -1])
    assert fit_to_labels(resized, targets) is resized
    vector = numbers(2, 4)
    assert fit_to_labels(vector, torch.zeros(2)) is vector
    assert fit_to_labels(coarse, torch.zeros(2)) is coarse


def test_loss_is_in_float32_under_autocast() -> None:
    logits, targets = numbers(4, 4).bfloat16(), torch.tensor([0, 1, 2, 3])
    assert loss_of(info())(logits, targets).dtype == torch.float32


# -- metrics ------------------------------------------------------------------------------------


def test_accuracy_by_hand_over_batches_of_different_sizes() -> None:
    batches = [(numbers(size, 4, seed=size), torch.arange(size) % 4) for size in (5, 5, 2)]
    outputs, targets = torch.cat([x for x, _ in batches]), torch.cat([y for _, y in batches])
    found = evaluate(batches, info())
    assert found["accuracy"] == pytest.approx(float((outputs.argmax(1) == targets).float().mean()))
    assert found["loss"] == pytest.approx(float(F.cross_entropy(outputs, targets)))
    assert list(found) == ["loss", "accuracy"]


def test_miou_by_hand_over_the_whole_set() -> None:
    data = info(task="segmentation", ignore_index=255)
    batches = []
    for seed in range(3):
        targets = torch.randint(0, 3, (2, 5, 4), generator=torch.Generator().manual_seed(seed))  # class 3 never
        targets[:, 0] = 255
        logits = numbers(2, 4, 5, 4, seed=seed) + 1.5 * F.one_hot(targets % 5, 5)[..., :4].movedim(-1, 1)
        logits[:, 3] = -10  # nor is it predicted
        batches.append((logits, targets))
    predicted = torch.cat([x.argmax(1) for x, _ in batches])
    targets = torch.cat([y for _, y in batches])
    known = targets != 255
    overlaps = [((predicted == c) & (targets == c) & known).sum() for c in range(3)]
    unions = [(((predicted == c) | (targets == c)) & known).sum() for c in range(3)]
    found = evaluate(batches, data)
    expected = torch.stack([a / b for a, b in zip(overlaps, unions, strict=True)]).mean()
    assert found["miou"] == pytest.approx(float(expected))
    assert found["accuracy"] == pytest.approx(float((predicted == targets)[known].float().mean()))
    assert list(found) == ["loss", "miou", "accuracy"]


def test_metrics_of_coarse_maps() -> None:
    data = info(task="segmentation", ignore_index=255)
    coarse, targets = numbers(2, 4, 3, 2), torch.randint(0, 4, (2, 8, 6), generator=torch.Generator().manual_seed(1))
    predicted = F.interpolate(coarse, (8, 6), mode="bilinear", align_corners=True).argmax(1)
    assert evaluate([(coarse, targets)], data)["accuracy"] == pytest.approx(
        float((predicted == targets).float().mean())
    )


def test_functions_are_averaged_over_samples_and_torchmetrics_are_not() -> None:
    batches = [(numbers(size, 4, seed=size), torch.arange(size) % 4) for size in (4, 1)]
    metric = torchmetrics.classification.MulticlassAccuracy(num_classes=4, average="micro")
    metric.update(numbers(3, 4), torch.tensor([0, 1, 2]))  # left from an earlier use
    found = evaluate(batches, info(), size=lambda outputs, targets: len(targets), mine=metric)
    assert found["size"] == (4 * 4 + 1 * 1) / 5
    outputs, targets = torch.cat([x for x, _ in batches]), torch.cat([y for _, y in batches])
    assert found["mine"] == pytest.approx(float((outputs.argmax(1) == targets).float().mean()))


def test_several_outputs_reach_loss_and_metrics_as_they_are() -> None:
    def loss(outputs: dict[str, Tensor], targets: Tensor) -> Tensor:
        return outputs["a"].sum() * 0 + 2.0

    evaluation = Evaluation(loss, {"b": lambda outputs, _: outputs["b"].mean()}, CPU)
    batches = [(torch.ones(2, 3), torch.zeros(2))]
    assert evaluation.run(lambda x: {"a": x, "b": 3 * x}, batches) == {"loss": 2.0, "b": 3.0}


@pytest.mark.parametrize(
    ("metric", "text"),
    [
        (lambda outputs, _: outputs, "'mine' gives 8 numbers, but must give one; average them"),
        (lambda *_: "high", "'mine' gives 'high', but must give a number"),
        (torchmetrics.classification.MulticlassAccuracy(4, average=None), "'mine' gives 4 numbers"),
    ],
)
def test_metrics_that_are_no_number(metric: Any, text: str) -> None:
    with pytest.raises(OptionError, match=text):
        evaluate([(numbers(2, 4), torch.tensor([0, 1]))], info(), mine=metric)


def test_data_without_classes_have_no_default_metrics() -> None:
    assert task_of("regression").metrics(info(task="regression", classes=())) == {}


# -- what fits what -----------------------------------------------------------------------------


def two_outputs() -> Graph:
    return loads(graph().to_yaml().replace("outputs: [head]", "outputs: [head, b1]"))


def test_data_that_fit() -> None:
    check_fits(graph(), info())
    task_of("classification").check_outputs(graph(), info())
    segmentation = info((3, 8, 8), "segmentation", classes=("x", "y", "z"))
    check_fits(loads(SEGMENTATION), segmentation)
    task_of("segmentation").check_outputs(loads(SEGMENTATION), segmentation)


@pytest.mark.parametrize(
    ("wanted", "data", "texts"),
    [
        (graph(), info(task="segmentation"), ["'toy' is for segmentation", "graph 'tiny' is for classification"]),
        (graph(channels=1), info(), ["'toy' has 3 channels", "'image' of graph 'tiny' takes 1", "change 'inputs'"]),
        (graph(), info(size=(8, 6, 3)), ["is (8, 6, 3), but channels come first, as in (3, 8, 6)", "permute"]),
        (
            loads(
                "topolearn: 1\nname: v\ninputs: {x: [5]}\nnodes: {head: {op: linear, out_features: 4}}\nedges:\n"
                "  - {from: x, to: head}\noutputs: [head]\n"
            ),
            info(),
            ["'x' of graph 'v' takes vectors", "a loop of your own"],
        ),
        (
            loads(
                graph()
                .to_yaml()
                .replace("{image: [3, 8, 6]}", "{image: [3, 8, 6], more: [3, 8, 6]}")
                .replace("stem: [image]", "stem: [image, more]")
            ),
            info(),
            ["has the inputs image, more", "a loop of your own"],
        ),
    ],
    ids=["task", "channels", "channels last", "vectors", "inputs"],
)
def test_data_that_do_not_go_in(wanted: Graph, data: Any, texts: list[str]) -> None:
    with pytest.raises(DataError) as caught:
        check_fits(wanted, data)
    assert all(text in str(caught.value) for text in texts)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("wanted", "data", "error", "texts"),
    [
        (graph(classes=7), info(), DataError, ["'toy' has 4 classes", "has 7", "set 'nodes.head.classes' to 4"]),
        (graph(), info(classes=()), OptionError, ["'toy' has no classes", "give a 'loss'"]),
        (graph(), info(task="segmentation"), DataError, ["segmentation", "a vector of 4", "in a segmentation_head"]),
        (loads(SEGMENTATION), info(), DataError, ["classification", "3 channels at stride 1", "in a classifier"]),
        (two_outputs(), info(), OptionError, ["has the outputs head, b1", "give a 'loss'", "dict by node id"]),
    ],
    ids=["classes", "no classes", "vector", "map", "outputs"],
)
def test_outputs_that_cannot_be_judged(wanted: Graph, data: Any, error: type[Exception], texts: list[str]) -> None:
    with pytest.raises(error) as caught:
        task_of(data.task).check_outputs(wanted, data)
    assert all(text in str(caught.value) for text in texts)
    assert "\n" not in str(caught.value)
