"""Pictures of single images of a run: what it was told, and what it says, in the colours of the legend."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, TensorDataset

from tests.drawing.samples import Drawing
from tests.training.runs import SEGMENTATION, quick_fit
from tests.training.runs import run as classify
from tests.training.test_dense_fit import scenes, train
from topolearn.drawing.palette import VOID, class_colours
from topolearn.errors import CheckpointError, DataError, OptionError
from topolearn.format import loads
from topolearn.prediction import draw_examples, predict, predict_validation
from topolearn.prediction import examples as module


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = scenes(tmp_path_factory.mktemp("scenes") / "set")
    (found / "classes.txt").write_text("sky\nroad\ntree\nvoid\n")
    # One corner of the second image is not judged.
    path = found / "valannot" / "1.png"
    labels = np.array(Image.open(path))
    labels[:4, :4] = 3
    Image.fromarray(labels).save(path)
    return found


@pytest.fixture(scope="module")
def finished(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "run"
    train(root, out=folder, epochs=4, lr=0.1)
    return folder


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What was asked to be drawn, besides drawing it."""
    asked: dict[str, Any] = {}
    draw = module.draw_rows

    def keep(rows: Any, path: Any, headings: Any, legend: Any) -> None:
        asked.update(rows=rows, headings=headings, legend=legend)
        draw(rows, path, headings, legend)

    monkeypatch.setattr(module, "draw_rows", keep)
    return asked


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as file:
        return np.asarray(file.convert("RGB"))


def test_image_truth_and_prediction(root: Path, finished: Path, drawn: dict[str, Any], tmp_path: Path) -> None:
    draw_examples(finished, tmp_path / "one.svg", (2, 1), data_root=root.parent)
    predict(finished, root / "val", tmp_path / "out")
    table = np.concatenate([class_colours(3), [VOID]])
    for row, place in zip(drawn["rows"], (2, 1), strict=True):
        image, truth, prediction = row
        assert np.abs(image.astype(int) - pixels(root / "val" / f"{place}.png")).max() <= 1
        assert np.array_equal(truth, table[np.asarray(Image.open(root / "valannot" / f"{place}.png"))])
        assert np.array_equal(prediction, pixels(tmp_path / "out" / "masks" / f"{place}.png"))
    assert (drawn["rows"][1][1][:4, :4] == VOID).all()
    assert drawn["headings"] == ("image", "truth", "prediction")
    assert [name for name, _ in drawn["legend"]] == ["sky", "road", "tree", "not judged"]
    assert np.array_equal([colour for _, colour in drawn["legend"]], table)
    words = Drawing(tmp_path / "one.svg").words()
    assert words[:3] == ["image", "truth", "prediction"]
    assert words[-4:] == ["sky", "road", "tree", "not judged"]


def test_masks_of_all_validation_images(root: Path, finished: Path, tmp_path: Path) -> None:
    done = predict_validation(finished, tmp_path / "own", data_root=root.parent)
    predict(finished, root / "val", tmp_path / "files")
    assert [each.image.name for each in done.images] == ["0", "1", "2"]
    for folder in ("masks", "overlays"):
        for name in ("0.png", "1.png", "2.png"):
            own, files = (pixels(tmp_path / where / folder / name).astype(int) for where in ("own", "files"))
            assert np.abs(own - files).max() <= (0 if folder == "masks" else 1)
    assert done.files == [tmp_path / "own" / "legend.svg"]


def test_a_class_that_occurs_nowhere_is_not_in_the_legend(
    root: Path, finished: Path, drawn: dict[str, Any], tmp_path: Path
) -> None:
    draw_examples(finished, tmp_path / "one.svg", (0,), data_root=root.parent)
    assert "not judged" not in [name for name, _ in drawn["legend"]]


@pytest.mark.parametrize("task", ["saliency", "edges"])
def test_tasks_of_one_channel_are_grey(task: str, drawn: dict[str, Any], tmp_path: Path) -> None:
    root = scenes(tmp_path / "set", task)
    train(root, task, out=tmp_path / "run")
    draw_examples(tmp_path / "run", tmp_path / "one.png", (0,), data_root=tmp_path)
    ((_, truth, prediction),) = drawn["rows"]
    assert np.array_equal(truth, pixels(root / "valannot" / "0.png"))
    predict(tmp_path / "run", root / "val" / "0.png", tmp_path / "out")
    assert np.abs(prediction.astype(int) - pixels(tmp_path / "out" / "masks" / "0.png")).max() <= 1
    assert len(np.unique(prediction)) > 2
    assert drawn["legend"] == []


def test_data_of_one_s_own(drawn: dict[str, Any], tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    images, masks = torch.rand(6, 3, 8, 8, generator=generator), torch.randint(3, (6, 8, 8), generator=generator)
    sets = TensorDataset(images, masks), TensorDataset(images[:5], masks[:5])
    loaders = tuple(DataLoader(each, batch_size=2) for each in sets)
    graph = loads(SEGMENTATION)
    quick_fit(graph, data=sets, out=tmp_path / "run", epochs=2, batch_size=2, lr=0.05, learner="fixed")
    for data in (sets, loaders):
        draw_examples(tmp_path / "run", tmp_path / "one.svg", (4, 0), data=data)
        assert len(drawn["rows"]) == 2
        for (image, truth, _), place in zip(drawn["rows"], (4, 0), strict=True):
            assert np.abs(image / 255 - images[place].permute(1, 2, 0).numpy()).max() < 0.01
            assert np.array_equal(truth, class_colours(3)[masks[place].numpy()])
    left_out = DataLoader(sets[1], batch_size=2, drop_last=True)
    with pytest.raises(OptionError, match="there is no validation image 4: the data give 1 of those in 'places'"):
        draw_examples(tmp_path / "run", tmp_path / "two.svg", (4, 0), data=(loaders[0], left_out))
    with pytest.raises(DataError):
        draw_examples(tmp_path / "run", tmp_path / "two.svg")
    assert not (tmp_path / "two.svg").exists()


def test_what_cannot_be_drawn(root: Path, finished: Path, tmp_path: Path) -> None:
    for places in ((), (3,), (-1,)):
        with pytest.raises(OptionError, match=r"but the validation images of 'set' are 0 to 2"):
            draw_examples(finished, tmp_path / "one.svg", places, data_root=root.parent)
    with pytest.raises(OptionError, match=r"give it one of the endings"):
        draw_examples(finished, tmp_path / "one.bmp")
    with pytest.raises(CheckpointError, match="name the folder of a finished run"):
        draw_examples(tmp_path / "nowhere", tmp_path / "one.svg")
    classify(tmp_path / "classes", "fixed")
    with pytest.raises(OptionError, match=r"is for classification; pictures of examples are for edges, saliency, segm"):
        draw_examples(tmp_path / "classes", tmp_path / "one.svg")
    assert not list(tmp_path.glob("one.*"))
