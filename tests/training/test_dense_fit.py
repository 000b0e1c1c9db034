"""Training and evaluation of graphs with masks, from options to the run's folder."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from tests.data.scenes import folder
from tests.training.runs import SEGMENTATION, quick_fit, untimed
from topolearn.compiler import compile as build
from topolearn.errors import OptionError
from topolearn.format import loads
from topolearn.recipes import TrainOptions
from topolearn.runs import read_result
from topolearn.tasks.sliding import judged, sliding

ONE_CHANNEL = SEGMENTATION.replace("classes: 3", "classes: 1")


def scenes(where: Path, task: str = "segmentation", sizes: Any = ((12, 16), (14, 11))) -> Path:
    """Images whose brightness is their label: 0 at the top left, 2 at the bottom right, 1 elsewhere."""
    root = folder(where, 6, 3, sizes)
    for path in sorted(root.glob("*annot/*.png")):
        rows, columns = np.indices(np.asarray(Image.open(path)).shape)
        labels = ((rows > rows.max() / 2).astype(np.uint8) + (columns > columns.max() / 2)).astype(np.uint8)
        Image.fromarray(labels).save(path)
        if task != "segmentation":
            labels = (labels > 1).astype(np.uint8)
            Image.fromarray(labels * 255).save(path)
        pixels = np.repeat((60 * labels + 40)[..., None], 3, 2).astype(np.uint8)
        Image.fromarray(pixels).save(root / path.parent.name.removesuffix("annot") / path.name)
    return root


def train(where: Path, task: str = "segmentation", out: Path | None = None, **settings: Any) -> Any:
    text = (SEGMENTATION if task == "segmentation" else ONE_CHANNEL).replace("task: segmentation", f"task: {task}")
    options = {"epochs": 2, "batch_size": 2, "lr": 0.05, "learner": "sparsemask"} | settings
    return quick_fit(loads(text), data=where, out=out, **options)


def test_a_run_with_images_of_several_sizes(tmp_path: Path) -> None:
    root = scenes(tmp_path / "set")
    (root / "classes.txt").write_text("sky\nroad\ncar")
    result = train(root, out=tmp_path / "run", epochs=10, lr=0.2)
    assert list(result.metrics) == ["loss", "miou", "accuracy"]
    assert result.metrics["miou"] > 0.5  # always 1 has 0.17
    assert [row["class"] for row in result.per_class] == ["sky", "road", "car"]
    assert result.metrics["miou"] == pytest.approx(sum(row["iou"] for row in result.per_class) / 3)
    assert sum(row["pixels"] for row in result.per_class) == 2 * 12 * 16 + 14 * 11
    with open(tmp_path / "run" / "classes.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["class"], float(row["iou"])) for row in rows] == [(r["class"], r["iou"]) for r in result.per_class]
    closing = json.loads((tmp_path / "run" / "history.jsonl").read_text().splitlines()[-1])
    assert closing["per_class"] == result.per_class == read_result(tmp_path / "run").per_class


def test_a_run_gone_on_with_is_the_same_byte_by_byte(tmp_path: Path) -> None:
    root = scenes(tmp_path / "set")
    whole = train(root, out=tmp_path / "whole")

    def interrupt(record: Any) -> None:
        raise KeyboardInterrupt

    settings = {"training": {"checkpoint_steps": 1, "workers": 0}}
    with pytest.raises(KeyboardInterrupt):
        train(root, out=tmp_path / "parts", callbacks=[interrupt], **settings)
    parts = train(root, out=tmp_path / "parts", resume=True, **settings)
    for name in ("weights.safetensors", "classes.csv"):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert untimed(parts.history) == untimed(whole.history)


@pytest.mark.parametrize(("task", "metrics"), [("saliency", ["f_beta", "mae"]), ("edges", ["ods", "ois"])])
def test_tasks_of_one_channel(tmp_path: Path, task: str, metrics: list[str]) -> None:
    result = train(scenes(tmp_path / "set", task), task, out=tmp_path / "run")
    assert list(result.metrics) == ["loss", *metrics]
    assert all(0 < value < 1 for name, value in result.metrics.items() if name != "loss")
    assert result.per_class == []
    assert not (tmp_path / "run" / "classes.csv").exists()
    assert result.history[-2]["train_loss"] < result.history[0]["train_loss"]


def test_a_batch_of_one_trains(tmp_path: Path) -> None:
    root = scenes(tmp_path / "set")
    for path in root.glob("trainannot/*.png"):
        if path.stem != "0":
            path.unlink()
            (root / "train" / path.name).unlink()
    result = train(root, batch_size=1, training={"crop": [1, 1], "scale": [1.0, 1.0]})
    assert all(np.isfinite(record["train_loss"]) for record in result.history[:-1])
    result = train(root, batch_size=1)
    assert result.history[-2]["train_loss"] != result.history[0]["train_loss"]


def test_what_was_converted_or_skipped_is_said_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = scenes(tmp_path / "set")
    Image.open(root / "train" / "0.png").convert("RGBA").save(root / "train" / "0.png")
    (root / "train" / "1.png").write_bytes(b"no image")
    for quiet in (False, True):  # it is no progress
        result = train(root, quiet=quiet, training={"skip_bad": True}, out=tmp_path / f"quiet {quiet}")
        said = "".join(capsys.readouterr())
        assert said.count("skipped 1 of 6 training images of 'set'") == 1
        assert said.count("images are converted to RGB (1 RGBA)") == 1
        assert [note[:7] for note in result.notes] == ["skipped", "1 of 8 "]
        assert read_result(tmp_path / f"quiet {quiet}").notes == result.notes


def test_crops_are_for_masks() -> None:
    with pytest.raises(OptionError, match="'crop' is for edges, saliency, segmentation, but graph 'digits' is for cl"):
        quick_fit("digits", data="digits", training={"crop": 8})


@pytest.mark.parametrize("option", [{"evaluation": "sliding"}, {"scale": [0.5, 1.0]}])
def test_what_is_for_masks_is_refused_before_training(option: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=f"'{next(iter(option))}' is for edges, saliency, segmentation, but graph 'd"):
        quick_fit("digits", data="digits", training=option, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


# -- windows ------------------------------------------------------------------------------------


def ramp(images: Tensor) -> Tensor:
    """A network of one output channel per input channel that tells pixels apart by what it is given."""
    return images * 2 + 1


@pytest.mark.parametrize("size", [(12, 17), (5, 9), (6, 6), (1, 1), (40, 3)])
def test_windows_of_a_network_that_looks_at_single_pixels_change_nothing(size: tuple[int, int]) -> None:
    images = torch.randn(2, 3, 12, 17, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(sliding(ramp, images, size), ramp(images))


def test_windows_overlap_by_a_third_and_are_averaged() -> None:
    seen: list[tuple[int, ...]] = []

    def number(images: Tensor) -> Tensor:
        seen.append(tuple(images.shape))
        return torch.full_like(images[:, :1], float(len(seen)))

    result = sliding(number, torch.zeros(1, 3, 6, 10), (6, 6))
    assert seen == [(1, 3, 6, 6)] * 2
    assert result[0, 0, 0].tolist() == [1, 1, 1, 1, 1.5, 1.5, 2, 2, 2, 2]


def test_coarse_windows_are_resized_to_the_window() -> None:
    def coarse(images: Tensor) -> Tensor:
        return F.avg_pool2d(images, 2)

    images = torch.randn(1, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    expected = F.interpolate(coarse(images), size=(8, 8), mode="bilinear", align_corners=True)
    torch.testing.assert_close(sliding(coarse, images, (8, 8)), expected)
    with pytest.raises(OptionError, match="'evaluation: sliding' needs a graph with one output, a map of logits"):
        sliding(lambda x: x.mean((2, 3)), images, (8, 8))


def test_evaluation_in_windows_is_an_option(tmp_path: Path) -> None:
    net = build(loads(SEGMENTATION)).eval()
    images = torch.randn(1, 3, 9, 20, generator=torch.Generator().manual_seed(0))
    assert judged(net, TrainOptions()) is net
    with torch.no_grad():
        windows = judged(net, TrainOptions(evaluation="sliding"))(images)  # as large as the graph's input, 8 x 8
        torch.testing.assert_close(windows, sliding(net, images, (8, 8)))
        assert not torch.allclose(windows, net(images))
        torch.testing.assert_close(judged(net, TrainOptions(evaluation="sliding", crop=(9, 20)))(images), net(images))
    root = scenes(tmp_path / "set")
    whole, slid = (train(root, training={"evaluation": kind}).metrics for kind in ("whole", "sliding"))
    assert whole["loss"] != slid["loss"]
