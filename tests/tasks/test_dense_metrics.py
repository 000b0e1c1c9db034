"""Losses and metrics of tasks with masks, against values computed by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tests.data.toys import info
from topolearn.tasks import Evaluation, Loss, task_of
from topolearn.tasks.edge_detection import EdgeDetection, f_measure, matches, thinned
from topolearn.tasks.pixels import Saliency, Segmentation

CPU = torch.device("cpu")
VOID = 255


def logit(probability: float) -> float:
    return math.log(probability / (1 - probability))


def of_one_channel(task: str) -> Any:
    return info(task=task, classes=("yes",), ignore_index=VOID)


def loss_of(data: Any) -> Loss:
    return task_of(data.task).loss(data)


def evaluate(batches: list[tuple[Tensor, Tensor]], data: Any) -> dict[str, float]:
    """The batches' images are the network's outputs."""
    return Evaluation(loss_of(data), task_of(data.task).metrics(data), CPU).run(lambda outputs: outputs, batches)


# -- segmentation -------------------------------------------------------------------------------


def test_one_confusion_matrix_by_hand() -> None:
    metric = Segmentation(("a", "b", "c", "never"), VOID)
    for labels, predicted in (([0, 0, 1, VOID], [0, 1, 1, 2]), ([1, 2, 0, VOID], [0, 2, 0, 0])):
        logits = F.one_hot(torch.tensor(predicted), 4).float().T.view(1, 4, 2, 2)
        metric.update(logits, torch.tensor(labels).view(1, 2, 2))
    assert metric.confusion.tolist() == [[2, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]]
    assert metric.compute() == {"miou": pytest.approx((2 / 4 + 1 / 3 + 1) / 3), "accuracy": pytest.approx(4 / 6)}
    assert metric.per_class == [
        {"class": "a", "iou": 2 / 4, "accuracy": pytest.approx(2 / 3), "pixels": 3},
        {"class": "b", "iou": pytest.approx(1 / 3), "accuracy": 1 / 2, "pixels": 2},
        {"class": "c", "iou": 1.0, "accuracy": 1.0, "pixels": 1},
        {"class": "never", "iou": None, "accuracy": None, "pixels": 0},
    ]
    metric.reset()
    metric.update(torch.zeros(1, 4, 2, 2), torch.full((1, 2, 2), VOID))
    with pytest.warns(UserWarning, match="no pixel of the validation masks has a label"):
        assert metric.compute() == {"miou": 0.0, "accuracy": 0.0}


@pytest.mark.parametrize("task", ["segmentation", "saliency", "edges"])
def test_the_loss_of_bfloat16_logits_is_computed_in_float32(task: str) -> None:
    classes = ("a", "b", "c") if task == "segmentation" else (task,)
    loss = loss_of(info(task=task, classes=classes, ignore_index=VOID))
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, len(classes), 5, 4, generator=generator).bfloat16()
    targets = torch.randint(2, (2, 9, 7), generator=generator)
    assert float(loss(logits, targets)) == float(loss(logits.float(), targets))


def test_the_ignored_label_may_be_one_of_the_numbers_of_classes() -> None:
    metric = Segmentation(("a", "b"), 0)
    metric.update(torch.zeros(1, 2, 1, 2), torch.tensor([[[0, 1]]]))
    assert metric.confusion.tolist() == [[0, 0], [1, 0]]


# -- saliency -----------------------------------------------------------------------------------


def test_binary_cross_entropy_by_hand() -> None:
    logits = torch.tensor([logit(0.9), logit(0.2), logit(0.6), logit(0.5)]).view(1, 1, 2, 2)
    labels = torch.tensor([1, 0, 1, VOID]).view(1, 2, 2)
    expected = -(math.log(0.9) + math.log(0.8) + math.log(0.6)) / 3
    assert float(loss_of(of_one_channel("saliency"))(logits, labels)) == pytest.approx(expected)
    nothing = loss_of(of_one_channel("saliency"))(logits.requires_grad_(), torch.full((1, 2, 2), VOID))
    assert float(nothing.detach()) == 0


def test_f_beta_is_of_mean_precision_and_recall_at_the_best_threshold() -> None:
    # First image: from the threshold .5 to .9 P = 1, R = 1/2; to .2 P = 2/3, R = 1; below P = R = 1/2, 1.
    # Second: one salient pixel at .8 and no other above .1: P = R = 1 from .1 to .8.
    scores = torch.tensor([[0.9, 0.3, 0.4, 0.01], [0.8, 0.1, 0.1, 0.1]]).logit().view(2, 1, 2, 2)
    labels = torch.tensor([[1, 1, 0, 0], [1, 0, 0, 0]]).view(2, 2, 2)
    found = evaluate([(scores, labels)], of_one_channel("saliency"))

    def f_beta(precision: float, recall: float) -> float:
        return 1.3 * precision * recall / (0.3 * precision + recall)

    at_half, at_a_quarter = f_beta((1 + 1) / 2, (0.5 + 1) / 2), f_beta((2 / 3 + 1) / 2, 1)
    assert at_half > at_a_quarter
    assert found["f_beta"] == pytest.approx(at_half)
    mae = (0.1 + 0.7 + 0.4 + 0.01 + 0.2 + 0.3) / 8
    assert found["mae"] == pytest.approx(mae)
    assert list(found) == ["loss", "f_beta", "mae"]


def test_saliency_of_ignored_pixels_and_of_images_without_any() -> None:
    scores = torch.tensor([[0.9, 0.99], [0.25, 0.25]]).logit().view(2, 1, 1, 2)
    labels = torch.tensor([[[1, VOID]], [[0, 0]]])
    metric = Saliency(VOID)
    metric.update(scores, labels)
    assert metric.compute() == {"f_beta": 1.0, "mae": pytest.approx((0.1 + 0.25) / 2)}


# -- edges --------------------------------------------------------------------------------------


def test_balanced_cross_entropy_by_hand() -> None:
    # One edge among four known pixels of the first image, none in the second.
    logits = torch.tensor([[0.9, 0.2, 0.4, 0.3, 0.5], [0.7] * 5]).logit().view(2, 1, 1, 5)
    labels = torch.tensor([[1, 0, 0, 0, VOID], [0] * 5]).view(2, 1, 5)
    first = -(3 / 4 * math.log(0.9) + 1 / 4 * (math.log(0.8) + math.log(0.6) + math.log(0.7)))
    assert float(loss_of(of_one_channel("edges"))(logits, labels)) == pytest.approx(first / 9)


def brute_force(detected: np.ndarray, truth: np.ndarray, distance: float) -> int:
    """The largest matching, by trying all."""
    found, known = np.argwhere(detected), np.argwhere(truth)

    def best(first: int, free: frozenset[int]) -> int:
        if first == len(found):
            return 0
        near = [k for k in free if np.hypot(*(found[first] - known[k])) <= distance]
        return max([best(first + 1, free), *(1 + best(first + 1, free - {k}) for k in near)])

    return best(0, frozenset(range(len(known))))


@pytest.mark.parametrize("distance", [0.0, 1.0, 1.5, 2.9])
def test_as_many_pixels_are_matched_as_can_be(distance: float) -> None:
    numbers = np.random.default_rng(0)
    for _ in range(8):
        detected, truth = numbers.random((2, 5, 6)) < 0.2
        assert matches(detected, truth, distance) == brute_force(detected, truth, distance)
    assert matches(np.zeros((5, 6), bool), truth, distance) == 0


def line(column: int, score: float = 1.0, size: tuple[int, int] = (30, 40)) -> np.ndarray:
    scores = np.zeros(size)
    scores[:, column] = score
    return scores


def test_a_pixel_is_matched_once() -> None:
    both = (line(10) + line(11)) > 0
    assert matches(both, line(10) > 0, 2) == 30
    assert matches(line(10) > 0, both, 2) == 30
    assert matches(line(10) > 0, line(12) > 0, 2) == 30
    assert matches(line(10) > 0, line(13) > 0, 2) == 0


@pytest.mark.parametrize("turned", [False, True])
def test_blurred_edges_are_thinned_to_their_ridge(turned: bool) -> None:
    position = np.arange(40)
    scores = np.exp(-((position - 17) ** 2) / 8)[None].repeat(30, 0)
    scores = scores.T.copy() if turned else scores
    ridge = thinned(scores) > 0.1
    assert np.argwhere(ridge.T if turned else ridge)[:, 1].tolist() == [17] * 30
    diagonal = np.exp(-((position[:, None] - position[None]) ** 2) / 8)
    rows, columns = np.nonzero(thinned(diagonal)[5:-5, 5:-5] > 0.1)
    assert rows.tolist() == columns.tolist() == list(range(30))


def test_ods_and_ois_by_hand() -> None:
    # Diagonal 50: a tolerance of .03 is 1.5 pixels. First image: its edge found at .9 one pixel off, with a false one
    # at .3. Second: its edge found at .3 alone, a false one at .2.
    scores = [line(10, 0.9) + line(30, 0.3), line(20, 0.3) + line(5, 0.2)]
    truths = [line(11), line(20)]
    metric = EdgeDetection(VOID, tolerance=0.03, thresholds=9)
    assert metric.thresholds[0] == 0.1
    clipped = torch.from_numpy(np.stack(scores)).clamp(1e-6, 1 - 1e-6)
    # 0.3 and 0.2 are thresholds themselves: a little more leaves no doubt about rounding.
    metric.update((clipped + 1e-3).clamp(max=0.999).logit()[:, None], torch.from_numpy(np.stack(truths)).long())
    found = metric.compute()
    at_three, at_nine = f_measure(60, 90, 60), f_measure(30, 30, 60)
    assert found["ods"] == pytest.approx(max(at_three, at_nine)) == pytest.approx(0.8)
    assert found["ois"] == pytest.approx(1.0)


def test_an_image_without_an_edge_is_best_without_a_detection() -> None:
    metric = EdgeDetection(VOID, tolerance=0.03, thresholds=9)
    scores = torch.from_numpy(np.stack([line(10, 0.9), line(20, 0.35)])).clamp(1e-6, 1 - 1e-6)
    metric.update(scores.logit()[:, None], torch.from_numpy(np.stack([line(10), 0 * line(10)])).long())
    assert metric.compute() == {"ods": 1.0, "ois": 1.0}


def test_detections_where_the_label_is_not_known_do_not_count() -> None:
    labels = torch.from_numpy(line(10)).long()
    labels[:, 25:] = VOID
    scores = torch.from_numpy(line(10, 0.9) + line(30, 0.9)).clamp(1e-6).logit()
    found = evaluate([(scores[None, None], labels[None])], of_one_channel("edges"))
    assert (found["ods"], found["ois"]) == (1.0, 1.0)
    assert list(found) == ["loss", "ods", "ois"]


def test_no_edge_at_all() -> None:
    metric = EdgeDetection(VOID)
    metric.update(torch.full((1, 1, 8, 8), -9.0), torch.zeros(1, 8, 8, dtype=torch.int64))
    assert metric.compute() == {"ods": 0.0, "ois": 0.0}
