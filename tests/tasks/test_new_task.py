"""A task that is entered in the two tables, and nowhere else, works from the graph file to the pictures."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, final

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import TensorDataset

import topolearn
from tests.data.scenes import picture
from tests.training.runs import SEGMENTATION, graph, quick_fit
from topolearn.data import DataInfo, load_data
from topolearn.errors import FormatError
from topolearn.format import loads
from topolearn.format.schema import schema
from topolearn.prediction import draw_examples, predict
from topolearn.runs.searched import load_searched
from topolearn.task_kinds import TASK_KINDS, TaskKind
from topolearn.tasks import TASKS, Loss, Metric, ScoreMap, Task
from topolearn.tasks.losses import fit_to_labels

GLASS = SEGMENTATION.replace("task: segmentation", "task: glass").replace("classes: 3", "classes: 1")


def opacity(logits: Tensor, targets: Tensor) -> Tensor:
    """A loss that no other task has."""
    return (fit_to_labels(logits.float(), targets)[:, 0].sigmoid() - (targets == 1).float()).square().mean()


@final
class GlassTask(Task):
    """Whether a pixel is of glass."""

    head: ClassVar[str] = "segmentation_head"

    def loss(self, info: DataInfo, label_smoothing: float = 0.0) -> Loss:
        return opacity

    def metrics(self, info: DataInfo) -> dict[str, Metric]:
        return {"panes": lambda logits, targets: (logits > 0).float().mean()}

    def answer(self, logits: Tensor, info: DataInfo) -> ScoreMap:
        return ScoreMap(info.kind.positive, logits[0].sigmoid())


@pytest.fixture
def glass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TASK_KINDS, "glass", TaskKind("glass", "binary_mask", positive="pane"))
    monkeypatch.setitem(TASKS, "glass", GlassTask())


def test_without_the_table_it_is_unknown() -> None:
    with pytest.raises(FormatError, match="unknown task 'glass'"):
        loads(GLASS)


@pytest.mark.usefixtures("glass")
def test_with_the_table_it_is_in_files() -> None:
    assert loads(loads(GLASS).to_yaml()) == loads(GLASS)
    assert schema()["properties"]["task"]["enum"][-1] == "glass"


@pytest.mark.usefixtures("glass")
def test_a_run_from_a_user_s_data_to_pictures(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(6, 3, 8, 8, generator=generator)
    masks = (images[:, 0] > 0.5).long()
    sets = TensorDataset(images, masks), TensorDataset(images[:3], masks[:3])
    settings = {"epochs": 4, "batch_size": 2, "lr": 0.05, "learner": "continuous"}
    result = quick_fit(loads(GLASS), data=sets, out=tmp_path / "run", **settings)
    assert result.info is not None
    assert (result.info.task, result.info.classes, result.info.labels) == ("glass", ("pane",), 2)
    assert {"loss", "panes"} <= set(result.metrics)
    with torch.no_grad():
        logits = result.model(images[:3])
    assert float(opacity(logits, masks[:3])) == pytest.approx(result.metrics["loss"], abs=1e-5)
    run = load_searched(tmp_path / "run")
    assert set(run.evaluate(run.net, run.data(sets))) == {"loss", "panes"}

    topolearn.export_onnx(result.model, tmp_path / "net.onnx")
    image = picture(tmp_path / "image.png", size=(8, 8))
    for source in (tmp_path / "run", tmp_path / "net.onnx"):
        (found,) = predict(source, image, tmp_path / "out").images
        assert found.shares[0][0] == "pane"
        assert np.asarray(Image.open(found.files[0])).shape == (8, 8)
    draw_examples(tmp_path / "run", tmp_path / "rows.png", (0,), data=sets)
    assert (tmp_path / "rows.png").is_file()


@pytest.mark.usefixtures("glass")
def test_folders_of_masks_are_for_it_if_asked(tmp_path: Path) -> None:
    for split, count in (("train", 3), ("val", 1)):
        for number in range(count):
            picture(tmp_path / split / f"{number}.png", number)
            picture(tmp_path / f"{split}annot" / f"{number}.png", number, mode="L")
    info = load_data(tmp_path, task="glass").info
    assert (info.task, info.classes, info.labels) == ("glass", ("pane",), 2)


def test_folders_of_classes_are_for_any_task_with_one_label(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for split in ("train", "val"):
        for name in "abcd":
            picture(tmp_path / split / name / "0.png", size=(8, 6))
    monkeypatch.setitem(TASK_KINDS, "grading", TaskKind("grading", "label"))
    monkeypatch.setitem(TASKS, "grading", TASKS["classification"])
    assert load_data(tmp_path, task="grading").info.task == "grading"
    assert load_data(tmp_path, task="a task of one's own").info.task == "classification"
    asked = graph().replace(task="grading")
    assert "accuracy" in quick_fit(asked, data=tmp_path, epochs=1, batch_size=2, learner="fixed").metrics
