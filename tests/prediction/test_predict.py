"""From image files to classes, masks and overlays: what is written, and what is said of files that cannot be used."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import onnx
import pytest
import torch
from onnx import helper
from PIL import Image

import topolearn
from tests.data.scenes import folder
from tests.export.samples import NAMES, classifier, normalised, random_images, save_model, segmenter
from tests.training.runs import SEGMENTATION, quick_fit
from topolearn.data.images import SUFFIXES
from topolearn.drawing.palette import class_colours
from topolearn.errors import CheckpointError, DataError, ExportError, OptionError, TopolearnError
from topolearn.format import loads
from topolearn.prediction import Prediction, Predictions, Skipped, load, predict
from topolearn.prediction.model import About
from topolearn.runs import FitResult
from topolearn.tasks.pixels import Segmentation

COARSE = SEGMENTATION.replace("stem: {op: conv_bn_relu,", "stem: {op: conv_bn_relu, stride: 2,")
"""A graph whose logits have half the size of its images."""
ALL_AXES = ("batch", "height", "width")


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of several sizes with three classes."""
    root = folder(tmp_path_factory.mktemp("scenes"), 6, 3, ((12, 16), (14, 11)))
    (root / "classes.txt").write_text("sky\nroad\nStraße & <b>\n", encoding="utf-8")
    return root


@pytest.fixture(scope="module")
def run_of(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> FitResult:
    """A finished run of segmentation, with its folder."""
    return quick_fit(
        loads(COARSE),
        data=scenes,
        out=tmp_path_factory.mktemp("runs") / "run",
        epochs=2,
        batch_size=2,
        lr=0.05,
        learner="sparsemask",
    )


def picture(path: Path) -> Image.Image:
    with Image.open(path) as file:
        file.load()
        return file


def labels_of(path: Path) -> np.ndarray[Any, Any]:
    """The labels in a mask file, which has colours besides."""
    assert picture(path).mode == "P"
    return np.asarray(picture(path))


def miou(predictions: Predictions, truth: Path) -> float:
    """Mean IoU of the masks written, against those of a folder."""
    metric = Segmentation(("a", "b", "c"), 255)
    for each in predictions.images:
        found = torch.from_numpy(labels_of(each.files[0]).copy()).long()
        wanted = torch.from_numpy(np.array(picture(truth / f"{each.image.stem}.png"))).long()
        metric.update(torch.nn.functional.one_hot(found, 3).permute(2, 0, 1)[None], wanted[None])
    return float(metric.compute()["miou"])


# -- segmentation ---------------------------------------------------------------------------------


def test_masks_are_what_the_metrics_of_the_run_were_of(run_of: FitResult, scenes: Path, tmp_path: Path) -> None:
    assert run_of.folder is not None
    sources = {"run": run_of.folder}
    for output in ("logits", "argmax"):
        sources[output] = tmp_path / f"{output}.onnx"
        topolearn.export_onnx(run_of.model, sources[output], dynamic=ALL_AXES, output=output)
    for name, source in sources.items():
        result = predict(source, scenes / "val", tmp_path / name)
        assert (result.task, len(result.images), result.skipped, result.notes) == ("segmentation", 3, [], [])
        assert miou(result, scenes / "valannot") == pytest.approx(
            run_of.metrics["miou"], abs=1e-6 if name == "run" else 5e-3
        )
    for path in (tmp_path / "run" / "masks").iterdir():
        for name in ("logits", "argmax"):
            same = labels_of(path) == labels_of(tmp_path / name / "masks" / path.name)
            assert (~same).sum() <= 1  # a tie may go either way


def test_a_run_evaluated_in_windows_is_seen_in_windows(scenes: Path, tmp_path: Path) -> None:
    result = quick_fit(
        loads(COARSE),
        data=scenes,
        out=tmp_path / "run",
        epochs=1,
        batch_size=2,
        lr=0.05,
        learner="fixed",
        training={"evaluation": "sliding", "crop": 6},
    )
    found = predict(tmp_path / "run", scenes / "val", tmp_path / "out")
    assert miou(found, scenes / "valannot") == pytest.approx(result.metrics["miou"], abs=1e-6)
    topolearn.export_onnx(result.model, tmp_path / "net.onnx", dynamic=ALL_AXES)
    found = predict(tmp_path / "net.onnx", scenes / "val", tmp_path / "out")
    assert miou(found, scenes / "valannot") == pytest.approx(result.metrics["miou"], abs=1e-3)
    config = tmp_path / "run" / "config.yaml"
    config.write_text(config.read_text().replace("evaluation: sliding", "evaluation: whole"))
    found = predict(tmp_path / "run", scenes / "val", tmp_path / "out")
    assert abs(miou(found, scenes / "valannot") - result.metrics["miou"]) > 1e-3


def test_what_is_written_of_segmentation(tmp_path: Path) -> None:
    path = segmenter(tmp_path / "net.onnx", names=("background", "Straße & <b>", "tree\n"))
    pixels = np.zeros((4, 6, 3), np.uint8)
    pixels[..., 0] = 200  # background
    pixels[:, 2:, 1] = 255  # road
    pixels[:2, 4:, 2] = 255  # ties go to the first
    pixels[:2, 4:, 1] = 0  # tree
    Image.fromarray(pixels).save(tmp_path / "a.png")
    seen: list[Prediction | Skipped] = []
    result = predict(path, tmp_path / "a.png", tmp_path / "deep" / "out", on_image=seen.append)
    out = tmp_path / "deep" / "out"
    assert sorted(p.relative_to(out).as_posix() for p in out.rglob("*.*")) == [
        "legend.svg",
        "masks/a.png",
        "overlays/a.png",
    ]
    labels = np.array([[0, 0, 1, 1, 2, 2]] * 2 + [[0, 0, 1, 1, 1, 1]] * 2)
    np.testing.assert_array_equal(labels_of(out / "masks" / "a.png"), labels)
    colours = class_colours(3)
    colours[0] = 0  # the background is no thing
    np.testing.assert_array_equal(np.asarray(picture(out / "masks" / "a.png").convert("RGB")), colours[labels])
    overlay = np.asarray(picture(out / "overlays" / "a.png")).astype(float)
    np.testing.assert_array_equal(overlay[labels == 0], pixels[labels == 0])
    np.testing.assert_allclose(overlay[labels > 0], (pixels / 2 + colours[labels] / 2)[labels > 0], atol=0.51)
    (prediction,) = result.images
    assert seen == [prediction]
    assert prediction.files == (out / "masks" / "a.png", out / "overlays" / "a.png")
    assert prediction.shares == (
        ("Straße & <b>", 0.5),
        ("background", pytest.approx(1 / 3)),
        ("tree", pytest.approx(1 / 6)),
    )
    assert result.files == [out / "legend.svg"]
    legend = ElementTree.parse(out / "legend.svg")
    svg = "{http://www.w3.org/2000/svg}"
    assert [text.text for text in legend.iter(f"{svg}text")] == ["0 background", "1 Straße & <b>", "2 tree"]
    fills = [rect.get("fill") for rect in legend.iter(f"{svg}rect")][1:]
    assert fills == [f"#{bytes(colour.tolist()).hex()}" for colour in colours]


def test_masks_can_be_trained_on(tmp_path: Path) -> None:
    images = random_images(tmp_path / "train", 3, size=(16, 16))
    result = predict(segmenter(tmp_path / "net.onnx"), images, tmp_path / "out")
    (tmp_path / "out" / "masks").rename(tmp_path / "trainannot")
    for name in ("train", "trainannot"):
        (tmp_path / name.replace("train", "val")).symlink_to(tmp_path / name)
    data = topolearn.data.load_data(tmp_path)
    assert (data.info.task, len(data.info.classes), data.train_size) == ("segmentation", 3, len(result.images))


@pytest.mark.parametrize("output", ["logits", "argmax"])
def test_a_file_of_one_size_gets_resized_images_and_its_masks_are_resized_back(tmp_path: Path, output: str) -> None:
    path = segmenter(tmp_path / "net.onnx", shape=("batch", 3, 6, 10), output=output)
    halves = np.zeros((30, 50, 3), np.uint8)
    halves[:, :25, 0] = halves[:, 25:, 2] = 255
    (tmp_path / "in").mkdir()
    Image.fromarray(halves).save(tmp_path / "in" / "large.png")
    Image.fromarray(halves[:6, 20:30]).save(tmp_path / "in" / "right.png")
    result = predict(path, tmp_path / "in", tmp_path / "out")
    mask = labels_of(tmp_path / "out" / "masks" / "large.png")
    assert mask.shape == (30, 50)
    assert np.unique(mask[:, :24]).tolist() == [0]
    assert np.unique(mask[:, 26:]).tolist() == [2]
    assert picture(tmp_path / "out" / "overlays" / "large.png").size == (50, 30)
    (note,) = result.notes
    assert note.startswith(
        f"1 of 2 images are resized to 6x10, which is all that '{path}' takes, and their masks back;"
    )


def test_classes_without_names_have_numbers(tmp_path: Path) -> None:
    path = segmenter(tmp_path / "net.onnx", names=("sky",))
    Image.new("RGB", (4, 4), (0, 0, 255)).save(tmp_path / "blue.png")
    result = predict(path, tmp_path / "blue.png", tmp_path / "out")
    assert result.images[0].shares == (("2", 1.0),)
    assert "1 1</text>" in (tmp_path / "out" / "legend.svg").read_text(encoding="utf-8")


# -- other tasks ----------------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["saliency", "edges"])
def test_tasks_of_one_channel_give_grey_masks(tmp_path: Path, task: str) -> None:
    path = segmenter(tmp_path / "net.onnx", 1, 1, task=task, mean=[0.5] * 3, std=[0.1] * 3)
    (image,) = random_images(tmp_path / "images", 1, size=(16, 12))
    result = predict(path, image, tmp_path / "out")
    pixels = np.asarray(picture(image), np.float64)
    chance = 1 / (1 + np.exp(-(pixels[..., 0] / 255 - 0.5) / 0.1))
    mask = picture(tmp_path / "out" / "masks" / "0.png")
    assert mask.mode == "L"
    np.testing.assert_allclose(np.asarray(mask), 255 * chance, atol=0.51)
    overlay = np.asarray(picture(tmp_path / "out" / "overlays" / "0.png"), np.float64)
    wanted = pixels + chance[..., None] / 2 * (np.array([230, 159, 0]) - pixels)
    np.testing.assert_allclose(overlay, wanted, atol=0.51)
    name = {"saliency": "salient", "edges": "edge"}[task]
    assert result.images[0].shares == ((name, pytest.approx((chance >= 0.5).mean())),)
    assert result.files == []
    assert not (tmp_path / "out" / "legend.svg").exists()


def test_classification_gives_a_table(tmp_path: Path) -> None:
    path, reference = classifier(tmp_path / "net.onnx")
    images = random_images(tmp_path / "images", 3, size=(8, 8))
    Image.new("RGB", (9, 20)).save(tmp_path / "images" / "tall.png")
    result = predict(path, tmp_path / "images", tmp_path / "out")
    assert (result.files, result.notes) == ([tmp_path / "out" / "predictions.csv"], [])
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["predictions.csv"]
    with open(result.files[0], encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4 * 5
    for image in images:
        expected = reference(normalised(image))
        found = {row["class"]: float(row["probability"]) for row in rows if row["image"] == str(image)}
        assert list(found) == [NAMES[i] for i in np.argsort(-expected)]
        np.testing.assert_allclose([found[name] for name in NAMES], expected, atol=1e-4)


# -- images ---------------------------------------------------------------------------------------


def test_images_of_any_kind_are_converted_and_that_is_said(tmp_path: Path) -> None:
    random_images(tmp_path / "in", 1, size=(6, 4))
    for mode in ("L", "LA", "RGBA", "P"):
        picture(tmp_path / "in" / "0.png").convert("RGB").convert(mode).save(tmp_path / "in" / f"{mode}.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (20, 10)).save(tmp_path / "in" / "turned.jpg", exif=exif)
    result = predict(segmenter(tmp_path / "net.onnx"), tmp_path / "in", tmp_path / "out")
    assert result.notes == ["4 of 6 images are converted to RGB (1 L, 1 LA, 1 P, 1 RGBA), transparency is dropped"]
    (tmp_path / "in" / "deeper").mkdir()
    (tmp_path / "in" / "scan.heic").write_bytes(b"")
    (tmp_path / "in" / "notes.txt").write_text("")
    (first, _) = predict(segmenter(tmp_path / "net.onnx"), tmp_path / "in", tmp_path / "out").notes
    assert first == f"not looked at: subfolders (1) and other files (2); images are {', '.join(sorted(SUFFIXES))}"
    np.testing.assert_array_equal(*(labels_of(tmp_path / "out/masks" / f"{name}.png") for name in ("0", "RGBA")))
    assert picture(tmp_path / "out/masks/turned.png").size == (10, 20)  # upright, as one sees it


def test_what_cannot_be_used_is_named_and_left_out(tmp_path: Path) -> None:
    images = random_images(tmp_path / "in", 3, size=(16, 16))
    (tmp_path / "in" / "text.png").write_text("no image")
    (tmp_path / "in" / "cut.png").write_bytes(images[0].read_bytes()[:80])
    (tmp_path / "in" / "folder.png").mkdir()
    Image.fromarray(np.zeros((4, 4), np.uint16)).save(tmp_path / "in" / "deep.png")
    (tmp_path / "in" / ".hidden.png").write_text("no image")
    (tmp_path / "in" / "notes.txt").write_text("no image")
    seen: list[Prediction | Skipped] = []
    result = predict(segmenter(tmp_path / "net.onnx"), tmp_path / "in", tmp_path / "out", on_image=seen.append)
    assert [each.image.stem for each in seen] == ["0", "1", "2", "cut", "deep", "folder", "text"]
    assert [each.image.name for each in result.skipped] == ["cut.png", "deep.png", "folder.png", "text.png"]
    assert all(f"the image '{each.image}' " in each.reason for each in result.skipped)
    assert "more than 8 bits" in result.skipped[1].reason
    assert sorted(path.name for path in (tmp_path / "out" / "masks").iterdir()) == ["0.png", "1.png", "2.png"]


def test_an_image_the_network_cannot_take(tmp_path: Path) -> None:
    nodes = [helper.make_node("Conv", ["image", "w"], ["logits"])]
    weights = {"w": np.ones((2, 3, 9, 9), np.float32)}
    about = {"task": "segmentation", "input_size": {"image": [3, 16, 16]}, "mean": [], "std": [], "classes": []}
    path = save_model(tmp_path / "net.onnx", nodes, weights, ["b", 3, "h", "w"], ["b", 2, "y", "x"], **about)
    small, large = (Image.new("RGB", (side, side)) for side in (5, 12))
    small.save(tmp_path / "small.png")
    large.save(tmp_path / "large.png")
    result = predict(path, [tmp_path / "small.png", tmp_path / "large.png"], tmp_path / "out")
    assert [each.image.stem for each in result.images] == ["large"]
    assert "small.png' cannot be predicted: the network cannot take 5x5: " in result.skipped[0].reason


def test_infinite_outputs_are_no_prediction(tmp_path: Path) -> None:
    path, _ = classifier(tmp_path / "net.onnx", dtype=np.float16, std=[1e-5] * 3)
    (image,) = random_images(tmp_path / "in", 1)
    with pytest.raises(DataError, match=r"none of the 1 images can be used; .* or NaN; train it again, or"):
        predict(path, image, tmp_path / "out")
    assert not (tmp_path / "out").exists()


# -- mistakes -------------------------------------------------------------------------------------


def refused(error: type[TopolearnError], words: str, *arguments: Any) -> None:
    """It raises one line."""
    with pytest.raises(error, match=words) as caught:
        predict(*arguments)
    assert "\n" not in str(caught.value)


def test_missing_files(tmp_path: Path) -> None:
    path, out = segmenter(tmp_path / "net.onnx"), tmp_path / "out"
    (tmp_path / "empty").mkdir()
    (image,) = random_images(tmp_path / "in", 1)
    refused(
        DataError, "there is no file or folder '.*none.png'; name images", path, [image, tmp_path / "none.png"], out
    )
    refused(DataError, "there is no image in '.*empty'; looked for .apng", path, tmp_path / "empty", out)
    refused(CheckpointError, "there is no '.*none.onnx'; name the folder", tmp_path / "none.onnx", image, out)
    refused(CheckpointError, "holds no run", tmp_path / "empty", image, out)
    refused(OptionError, "net.onnx' is a file; name a folder to write to", path, image, path)
    (tmp_path / "in" / "0.png").write_text("no image")
    refused(DataError, "none of the 1 images can be used; the first: the image '.*0.png'", path, image, out)
    assert not out.exists()


def test_masks_replace_no_image_and_no_other_mask(tmp_path: Path) -> None:
    path, out = segmenter(tmp_path / "net.onnx"), tmp_path / "out"
    random_images(tmp_path / "masks", 2)
    random_images(tmp_path / "other", 1)
    before = (tmp_path / "masks" / "0.png").read_bytes()
    refused(OptionError, "'.*masks/0.png' would be replaced by a mask", path, tmp_path / "masks", tmp_path)
    folders = [tmp_path / "masks", tmp_path / "other"]
    refused(OptionError, "the masks of '.*masks/0.png' and '.*other/0.png' would have one name", path, folders, out)
    assert (tmp_path / "masks" / "0.png").read_bytes() == before
    assert not out.exists()
    assert len(predict(path, [tmp_path / "masks", tmp_path / "masks" / "0.png"], out).images) == 2


def test_masks_are_not_mixed_with_those_of_an_annotator(tmp_path: Path) -> None:
    path = segmenter(tmp_path / "net.onnx")
    (tmp_path / "scenes").mkdir()
    random_images(tmp_path / "scenes" / "images", 2)
    random_images(tmp_path / "scenes" / "masks", 2)
    before = [file.read_bytes() for file in sorted((tmp_path / "scenes" / "masks").iterdir())]
    scenes = tmp_path / "scenes" / "images", tmp_path / "scenes"
    refused(OptionError, "'?.*/scenes/masks already holds files that are not predictions, so nothing is", path, *scenes)
    assert [file.read_bytes() for file in sorted((tmp_path / "scenes" / "masks").iterdir())] == before
    assert sorted(file.name for file in (tmp_path / "scenes").iterdir()) == ["images", "masks"]


def test_old_files_are_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, out = segmenter(tmp_path / "net.onnx"), tmp_path / "out"
    random_images(tmp_path / "in", 1)
    predict(path, tmp_path / "in", out)
    before = {file: file.read_bytes() for file in out.rglob("*.*")}
    Image.new("RGB", (8, 8)).save(tmp_path / "in" / "0.png")

    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.replace", full)
        refused(TopolearnError, "cannot write .*0.png: No space left", path, tmp_path / "in", out)
    assert {file: file.read_bytes() for file in out.rglob("*.*")} == before
    predict(path, tmp_path / "in", out)
    assert (out / "masks" / "0.png").read_bytes() != before[out / "masks" / "0.png"]


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        (
            {"mean": [0.5]},
            ExportError,
            "net.onnx: its metadata are damaged .*'mean' and 'std' are not for 3 channels.;",
        ),
        ({"std": [1.0, 0.0, 1.0]}, ExportError, "metadata are damaged .std.1: "),
        ({"std": [1.0, float("nan"), 1.0]}, ExportError, "metadata are damaged .std.1: "),
        ({"input_size": {}}, ExportError, "metadata are damaged .input_size: "),
        ({"input_size": {"image": [1, 8, 8]}}, ExportError, "damaged .its input is .*, but .input_size. is .1, 8, 8."),
        ({"output": "softmax"}, ExportError, "metadata are damaged .output: "),
        ({"classes": "abc"}, ExportError, "metadata are damaged .classes: "),
        ({"task": "regression"}, DataError, "is for regression; prediction works for classification, edges"),
        ({"task": "classification"}, ExportError, "net.onnx' gives .1, 3, 8, 8., which does not fit classification"),
        ({"output": "argmax"}, ExportError, "net.onnx' gives .1, 3, 8, 8., which does not fit segmentation"),
        (
            {"output": "argmax", "task": "classification"},
            ExportError,
            "metadata are damaged .*'output' is argmax, which is for segmentation, but the task is classification",
        ),
    ],
)
def test_metadata_of_strangers(
    tmp_path: Path, changes: dict[str, Any], error: type[TopolearnError], words: str
) -> None:
    path = segmenter(tmp_path / "net.onnx")
    about = {"task": "segmentation", "input_size": {"image": [3, 8, 8]}, "mean": [], "std": [], "classes": []}
    proto = onnx.load(path)
    helper.set_model_props(proto, {"topolearn": json.dumps(about | changes)})
    onnx.save(proto, path)
    refused(error, words, path, random_images(tmp_path / "in", 1), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_names_of_strangers_cannot_steer_a_terminal() -> None:
    known = {"task": "segmentation", "input_size": {"image": (3, 8, 8)}, "mean": (), "std": ()}
    about = About.model_validate({**known, "classes": ("\x1b]0;title\x07\x1b[31mred\nerror: a fake line", "straße")})
    assert about.classes == ("]0;title[31mrederror: a fake line", "straße")


def test_files_that_are_not_ours(tmp_path: Path) -> None:
    images = random_images(tmp_path / "in", 1)
    proto = onnx.load(segmenter(tmp_path / "net.onnx"))
    del proto.metadata_props[:]
    onnx.save(proto, tmp_path / "bare.onnx")
    (tmp_path / "broken.onnx").write_bytes(b"no model" * 40)
    path, _ = classifier(tmp_path / "five.onnx", ("batch", 5, 8, 8), mean=[], std=[])
    batch = segmenter(tmp_path / "batch.onnx", shape=(4, 3, 8, 8))
    for name, error, words in (
        ("bare", ExportError, "bare.onnx: has no metadata of topolearn; export it with"),
        ("broken", ExportError, "ONNX Runtime cannot load '.*broken.onnx'"),
        ("five", DataError, "five.onnx' takes images of 5 channels; image files have 1 or 3"),
        ("batch", DataError, "batch.onnx' takes 4 images at a time; export it with a dynamic batch"),
    ):
        refused(error, words, tmp_path / f"{name}.onnx", images, tmp_path / "out")
    assert path.exists()
    assert batch.exists()


def test_the_provider_is_the_one_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = segmenter(tmp_path / "net.onnx")
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(ExportError, match="this ONNX Runtime has no CUDAExecutionProvider"):
        load(path, provider="cuda")
    assert load(path).takes == (None, None)


def test_more_classes_than_a_mask_holds(tmp_path: Path) -> None:
    path = segmenter(tmp_path / "net.onnx", classes=300)
    proto = onnx.load(path)
    weights = np.zeros((300, 3, 1, 1), np.float32)
    weights[280] = 1
    proto.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(weights, "w"))
    onnx.save(proto, path)
    images = random_images(tmp_path / "in", 1)
    refused(OptionError, "predicts 281 classes; masks hold at most 256", path, images, tmp_path / "out")


def test_a_damaged_run(run_of: FitResult, scenes: Path, tmp_path: Path) -> None:
    assert run_of.folder is not None
    for name in ("graph.yaml", "weights.safetensors", "config.yaml"):
        (tmp_path / name).write_bytes((run_of.folder / name).read_bytes())
    config = (tmp_path / "config.yaml").read_text()
    for key, value, words in (
        ("mean", "[0.5]", "config.yaml: is damaged .*'mean' and 'std' are not for 3 channels"),
        ("std", "[1, a, 1]", "config.yaml: is damaged .std.1: "),
        ("classes", "{}", "config.yaml: is damaged .classes: "),
    ):
        lines = [f"{key}: {value}" if line.startswith(f"{key}:") else line for line in config.splitlines()]
        (tmp_path / "config.yaml").write_text("\n".join(lines))
        refused(CheckpointError, words, tmp_path, scenes / "val", tmp_path / "out")
    (tmp_path / "config.yaml").unlink()
    refused(CheckpointError, "config.yaml: no such file", tmp_path, scenes / "val", tmp_path / "out")
