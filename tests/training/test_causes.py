"""An error names only causes that were looked at: inputs, targets and weights come before the learning rate."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import topolearn
from tests.data.toys import Items
from tests.training.runs import STEPS, graph, run
from topolearn.data import DatasetData
from topolearn.errors import DataError, TrainingError
from topolearn.runs.tensor_files import save_tensors


def test_the_rate_is_no_cause_before_the_first_update() -> None:
    with pytest.raises(TrainingError) as caught:
        run(loss=lambda outputs, targets: outputs.sum() * float("nan"))
    assert str(caught.value) == (
        "the loss became nan in phase 'search', epoch 1, step 1; no weight has changed yet, so check the loss function"
    )


def test_the_weight_that_is_lost_is_named() -> None:
    steps = []

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        value = F.cross_entropy(outputs, targets)
        steps.append(value)
        if len(steps) < STEPS:
            return value
        return value + (outputs - outputs.detach()).sum().sqrt()  # finite, with an infinite slope

    with pytest.raises(TrainingError, match=r"step 5; the first is 'learner\.mask'; lower 'lr'"):
        run(loss=loss)


def floats(count: int, **values: float) -> TensorDataset:
    """Normalised images of :func:`graph`; ``image`` and ``target`` are what its item 7 has instead."""
    images = torch.randn(count, 3, 8, 6, generator=torch.Generator().manual_seed(0))
    targets = torch.arange(count) % 4
    if "image" in values:
        images[7, 1, 2, 3] = values["image"]
    if "target" in values:
        targets[7] = int(values["target"])
    return TensorDataset(images, targets)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_image_that_is_no_number_is_named(value: float) -> None:
    good, bad = floats(13), floats(13, image=value)
    why = "holds values that are NaN or infinite"
    for data, item in (
        ((bad, good), "item 7 of the training set"),
        ((good, bad), "item 7 of the validation set"),
        ((DataLoader(bad, 4), DataLoader(good, 4)), "item 3 of batch 1 of the training loader"),
        ((DataLoader(good, 4), DataLoader(bad, 4)), "item 3 of batch 1 of the validation loader"),
    ):
        with pytest.raises(DataError, match=f"the image of {item} {why}"):
            run(data=data, epochs=2)


def test_a_target_that_is_no_number_is_named() -> None:
    images = floats(13).tensors[0]
    targets = torch.zeros(13, 4)
    targets[7, 2] = float("nan")
    data = DatasetData(TensorDataset(images, targets), TensorDataset(images[:5], torch.zeros(5, 4)), task="regression")
    with pytest.raises(DataError, match="the target of item 7 of the training set holds values that are NaN"):
        list(data.train_batches(4, seed=0, epoch=0))


def test_images_far_from_1_are_a_cause() -> None:
    with pytest.raises(TrainingError, match=r"; the images reach 1e\+30: bring them to about 1; .*lower 'lr'"):
        run(data=(floats(13, image=1e30), floats(5)), epochs=2)


def test_a_label_that_is_met_once_is_named() -> None:
    for data in (
        (floats(13, target=75), floats(5)),
        (DataLoader(floats(13, target=75), 4, shuffle=True), DataLoader(floats(5), 4)),
        (Items([*floats(13, target=75)]), floats(5)),
    ):
        with pytest.raises(DataError) as caught:
            run(data=data, epochs=2)
        assert str(caught.value).endswith(
            " has 76 classes (item 7 has the label 75), but output 'head' of graph 'tiny' has 4;"
            " set 'nodes.head.classes' to 76, or correct that label"
        )
    wrong = floats(13, target=9)
    for data, item in (
        ((floats(13), wrong), "item 7 of the validation set"),
        ((DataLoader(floats(13), 4), DataLoader(wrong, 4)), "item 3 of batch 1 of the validation loader"),
    ):
        with pytest.raises(DataError, match=rf"{item} has the label 9, but there are 4 classes \(0 to 3\)"):
            run(data=data, epochs=2)


def test_weights_to_start_from_are_numbers(tmp_path: Path) -> None:
    net = topolearn.compile(graph())
    with torch.no_grad():
        net.get_parameter("nodes.a2.conv.weight")[0] = float("nan")
    save_tensors(tmp_path / "w.safetensors", net.state_dict(), {})
    why = "'nodes.a2.conv.weight' holds values that are NaN or infinite; start from other weights"
    with pytest.raises(TrainingError) as caught:
        run(weights=tmp_path / "w.safetensors")
    assert str(caught.value) == f"{tmp_path / 'w.safetensors'}: {why}"
    with pytest.raises(TrainingError, match=why):
        run(graph=net)
