"""Folders of images, with classes and with masks."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from tests.data.scenes import picture_of_16_bits
from tests.data.toys import Batches, fails, same
from topolearn.data import Augment, Data, DatasetData, TensorData, load_data
from topolearn.data import reading as reading_module
from topolearn.data.for_graph import read_data
from topolearn.errors import DataError
from topolearn.format import loads
from topolearn.recipes.train_options import TrainOptions
from topolearn.tasks import check_fits


def save(path: Path, seed: int = 0, size: tuple[int, int] = (6, 8), mode: str = "RGB", high: int = 256) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = size if mode in ("L", "P") else (*size, 3)
    pixels = np.random.default_rng(seed).integers(0, high, shape, dtype=np.uint8)
    picture = Image.fromarray(pixels)
    if mode == "P":
        picture.putpalette(list(range(256)) * 3)
    picture.save(path)
    return path


@pytest.fixture
def class_folder(tmp_path: Path) -> Path:
    for number, name in enumerate(["bee", "ant"]):
        for index in range(10):
            save(tmp_path / "insects" / name / f"{index}.{'png' if index % 2 else 'BMP'}", 10 * number + index)
    (tmp_path / "insects" / "ant" / "notes.txt").write_text("not an image")
    return tmp_path / "insects"


@pytest.fixture
def mask_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "roads"
    for split, count in (("train", 5), ("val", 2), ("test", 3)):
        for index in range(count):
            save(folder / split / f"{split}{index}.jpg", index)
            save(folder / f"{split}annot" / f"{split}{index}.png", index, mode="P" if index % 2 else "L", high=4)
    return folder


def read_back(data: Data, batches: Batches) -> Tensor:
    mean, std = (torch.tensor(each).view(-1, 1, 1) for each in (data.info.mean, data.info.std))
    return ((torch.cat([x for x, _ in batches]) * std + mean) * 255).round().to(torch.uint8)


def test_a_folder_of_classes_is_split_in_the_same_way_every_time(class_folder: Path) -> None:
    data = load_data(class_folder)
    assert (data.info.name, data.info.classes, data.info.size) == ("insects", ("ant", "bee"), (3, 6, 8))
    assert (data.train_size, data.val_size) == (16, 4)
    (_, targets), *_ = data.val_batches(4)
    assert targets.tolist() == [0, 0, 1, 1]
    assert same(list(load_data(class_folder).val_batches(4)), list(data.val_batches(4)))
    images = torch.cat([x for x, _ in data.train_batches(16, seed=0, epoch=0)])
    torch.testing.assert_close(images.mean((0, 2, 3)), torch.zeros(3), rtol=0, atol=1e-3)
    torch.testing.assert_close(images.std((0, 2, 3)), torch.ones(3), rtol=0, atol=1e-2)


def test_a_folder_of_classes_with_a_split_of_its_own(class_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "split").mkdir()
    class_folder.rename(tmp_path / "split" / "train")
    expected = [np.asarray(Image.open(save(tmp_path / "split" / "val" / "bee" / f"{i}.png", 50 + i))) for i in (0, 1)]
    save(tmp_path / "split" / "test" / "ant" / "0.png")
    data = load_data(str(tmp_path / "split"))
    assert (data.train_size, data.val_size) == (20, 2)
    batches = list(data.val_batches(2))
    assert batches[0][1].tolist() == [1, 1]
    assert read_back(data, batches).permute(0, 2, 3, 1).tolist() == np.stack(expected).tolist()
    assert load_data(tmp_path / "split", val_split="test").val_size == 1


def test_grey_folders_and_resizing(tmp_path: Path) -> None:
    for index in range(5):
        for name in "ab":
            save(tmp_path / "grey" / name / f"{index}.png", index, size=(6 + index, 8), mode="L")
    data = load_data(tmp_path / "grey", size=(5, 4))
    assert data.info.size == (1, 5, 4)
    with pytest.raises(DataError, match=r"the image '.*\.png' is \d+x8, but the first one is \d+x8; give a 'size'"):
        load_data(tmp_path / "grey")


def test_a_class_with_an_accent_in_two_forms(tmp_path: Path) -> None:
    for split, name in (("train", "\u00e9"), ("train", "e\u0301"), ("val", "e\u0301")):
        for index in range(2):
            save(tmp_path / "set" / split / name / f"{index}.png", index)
            save(tmp_path / "set" / split / "bee" / f"{index}.png", index)
    data = load_data(tmp_path / "set")
    assert (len(data.info.classes), data.train_size, data.val_size) == (2, 6, 4)
    assert [y.tolist() for _, y in data.val_batches(4)] == [[0, 0, 1, 1]]
    whole = load_data(tmp_path / "set" / "train")  # held out from the same classes
    assert (len(whole.info.classes), whole.train_size + whole.val_size) == (2, 6)


@pytest.mark.parametrize("channels", [1, 3])
def test_more_than_eight_bits_are_an_error_before_training(
    class_folder: Path, channels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading_module, "IN_MEMORY", 100)
    deep = picture_of_16_bits(class_folder / "bee" / "3.png", channels, size=(6, 8))
    fails(class_folder, f"the image '{deep}' has more than 8 bits per channel; convert it to 8 bits")


@pytest.mark.parametrize("channels", [None, 1, 3])
def test_the_channels_of_a_folder_do_not_depend_on_its_first_image(class_folder: Path, channels: int | None) -> None:
    save(class_folder / "ant" / "0.BMP", mode="L")
    Image.new("RGBA", (8, 6), (250, 0, 0, 0)).save(class_folder / "bee" / "1.png")
    data = load_data(class_folder, channels=channels)
    assert data.info.size == (channels or 3, 6, 8)
    *_, note = data.notes
    if channels == 1:
        assert note == "19 of 20 images are converted to L (18 RGB, 1 RGBA), transparency is dropped"
    else:
        assert note == "2 of 20 images are converted to RGB (1 L, 1 RGBA), transparency is dropped"


def test_a_folder_of_grey_images_with_transparency_is_grey(tmp_path: Path) -> None:
    for index in range(5):
        save(tmp_path / "grey" / "a" / f"{index}.png", index, mode="L")
        save(tmp_path / "grey" / "b" / f"{index}.png", index, mode="L")
    Image.new("LA", (8, 6), (200, 0)).save(tmp_path / "grey" / "a" / "0.png")
    data = load_data(tmp_path / "grey")
    assert data.info.size == (1, 6, 8)
    assert data.notes == ("1 of 10 images are converted to L (1 LA), transparency is dropped",)


@pytest.mark.parametrize(("mode", "channels"), [("L", 3), ("RGB", 1)])
def test_the_channels_of_a_folder_are_those_of_the_graph(tmp_path: Path, mode: str, channels: int) -> None:
    for index in range(10):
        save(tmp_path / "set" / "ab"[index % 2] / f"{index}.png", index, mode=mode)
    graph = loads(GRAPH.format(channels=channels))
    data = read_data(graph, tmp_path / "set", None, TrainOptions())
    check_fits(graph, data.info)
    assert data.notes == (f"10 of 10 images are converted to {'RGB' if channels == 3 else 'L'} (10 {mode})",)
    (images, _), *_ = data.val_batches(2)
    assert images.shape == (2, channels, 8, 8)
    if channels == 3:
        assert torch.equal(images[:, 0], images[:, 2])


GRAPH = """
topolearn: 1
name: letters
inputs: {{image: [{channels}, 8, 8]}}
nodes: {{head: {{op: classifier, classes: 2}}}}
edges: [{{from: image, to: head}}]
outputs: [head]
"""


def test_a_folder_of_masks(mask_folder: Path) -> None:
    data = load_data(mask_folder)
    assert data.info.task == "segmentation"
    assert (data.info.classes, data.info.ignore_index) == (tuple("0123"), 255)
    assert (data.train_size, data.val_size) == (5, 2)
    stored = [np.asarray(Image.open(mask_folder / "valannot" / f"val{index}.png")).tolist() for index in (0, 1)]
    batches = list(data.val_batches(2))
    assert batches[0][1].tolist() == stored
    pictures = [np.asarray(Image.open(mask_folder / "val" / f"val{index}.jpg")).tolist() for index in (0, 1)]
    assert read_back(data, batches).permute(0, 2, 3, 1).tolist() == pictures
    assert load_data(mask_folder, val_split="test").val_size == 3
    small = load_data(mask_folder, size=(3, 4))
    ((images, targets),) = small.val_batches(2)
    assert images.shape == (2, 3, 3, 4)
    assert targets.shape == (2, 3, 4)


@pytest.mark.parametrize(
    ("text", "names", "table"),
    [
        ("sky\nroad\ncar\ntree\n\n", ("sky", "road", "car", "tree"), [0, 1, 2, 3]),
        ("0 sky\n1 road\n2 traffic light\n3 unlabelled\n", ("sky", "road", "traffic light"), [0, 1, 2, 255]),
        ("void\nsky\nroad\ncar", ("sky", "road", "car"), [255, 0, 1, 2]),
        ("\ufeffvoid\r\nsky\r\nroad\r\ncar", ("sky", "road", "car"), [255, 0, 1, 2]),
        ("3: car\n1: sky\n0: void\n2: void", ("sky", "car"), [255, 0, 255, 1]),
    ],
)
def test_names_of_classes(mask_folder: Path, text: str, names: tuple[str, ...], table: list[int]) -> None:
    (mask_folder / "classes.txt").write_bytes(text.encode())
    data = load_data(mask_folder)
    assert data.info.classes == names
    stored = np.asarray(Image.open(mask_folder / "valannot" / "val0.png"))
    assert next(data.val_batches(1))[1][0].tolist() == np.array(table)[stored].tolist()


def test_labels_outside_the_classes(mask_folder: Path) -> None:
    first = mask_folder / "trainannot" / "train0.png"
    fails(mask_folder, f"the mask '{first}' has the label 2, but the 2 classes are 0 to 1; correct the mask", classes=2)
    (mask_folder / "classes.txt").write_text("1 sky\n2 road\n3 car")
    fails(mask_folder, f"the mask '{first}' has the label 0, but the 3 classes are 1 to 3; correct the mask, or give")


@pytest.mark.parametrize("augment", [None, Augment(pad=2, flip=True)])
def test_a_large_folder_is_read_as_it_goes(
    mask_folder: Path, class_folder: Path, augment: Augment | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in (mask_folder, class_folder):
        kept = load_data(folder, augment=augment)
        with monkeypatch.context() as patch:
            patch.setattr(reading_module, "IN_MEMORY", 100)
            read = load_data(folder, augment=augment)
        assert isinstance(kept, TensorData)
        assert isinstance(read, DatasetData)
        assert read.info == kept.info
        assert same(list(read.train_batches(3, seed=1, epoch=2)), list(kept.train_batches(3, seed=1, epoch=2)))
        assert same(list(read.val_batches(3)), list(kept.val_batches(3)))


def test_a_folder_is_found_by_name_among_the_data_sets(mask_folder: Path) -> None:
    assert load_data("roads", root=mask_folder.parent).info.name == "roads"
    with pytest.raises(DataError, match="there is no data set 'road', and no such folder in "):
        load_data("road", root=mask_folder.parent)


@pytest.mark.parametrize("masks", ["masks", "annotations", "labels"])
def test_images_and_masks_side_by_side(mask_folder: Path, tmp_path: Path, masks: str) -> None:
    other = tmp_path / "other"
    for split in ("train", "val"):
        for kind, source in (("images", split), (masks, f"{split}annot")):
            shutil.copytree(mask_folder / source, other / kind / split)
    (other / "classes.txt").write_text("void\nsky\nroad\ncar")
    wanted = load_data(mask_folder, val_split="val")
    found = load_data(other)
    assert (found.info.classes, found.train_size, found.val_size) == (("sky", "road", "car"), 5, 2)
    assert same([x for x, _ in found.val_batches(2)], [x for x, _ in wanted.val_batches(2)])
    fails(other, "is laid out for segmentation, but the task is classification", task="classification")
    (other / masks / "train" / "train3.png").rename(other / "elsewhere.png")
    fails(other, f"has no mask; add '{other / masks / 'train' / 'train3.png'}'")


def test_images_and_masks_without_a_split(mask_folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    for kind in ("images", "masks"):
        shutil.copytree(mask_folder / ("train" if kind == "images" else "trainannot"), other / kind)
    data = load_data(other)
    assert (data.train_size, data.val_size) == (4, 1)
    assert same(list(load_data(other).val_batches(1)), list(data.val_batches(1)))
    fails(other, "has no 'train', so it has no 'test' to validate on", val_split="test")
    for path in sorted((other / "images").iterdir())[1:]:
        path.unlink()
    fails(other, f"the folder '{other / 'images'}' has only one image; add at least one more, for validation")


def test_folders_that_do_not_fit(class_folder: Path, mask_folder: Path, tmp_path: Path) -> None:
    fails(class_folder, "is laid out for classification, but the task is segmentation", task="segmentation")
    wrong = "is laid out for segmentation, but the task is classification; write 'task: segmentation' into the graph"
    fails(mask_folder, wrong, task="classification")
    fails(class_folder, "has no 'train', so it has no 'test' to validate on", val_split="test")
    fails(class_folder, "has 2 classes, not 3", classes=3)
    empty = tmp_path / "empty"
    empty.mkdir()
    fails(empty, f"there is no image in the folder '{empty}'; supported layouts are train/CLASS/*.png")
    one = next(path for path in class_folder.rglob("*") if path.is_dir() and any(path.glob("*.png")))
    count = len(list(one.iterdir()))
    fails(one, f"the folder '{one}' has no class folders, only {count} images of its own; if it is one class, give the")
    (empty / "train").mkdir()
    fails(empty, f"has 'train' but no 'val' to validate on; add '{empty / 'val'}'")
    (empty / "val").mkdir()
    fails(empty, f"the folder '{empty / 'train'}' has no subfolder")
    (empty / "train" / "a").mkdir()
    fails(empty, f"there is no image in the subfolders of '{empty / 'train'}'")
    save(empty / "train" / "a" / "0.png")
    save(empty / "val" / "b" / "0.png")
    fails(empty, f"'{empty / 'val' / 'b'}' is a class without a folder in '{empty / 'train'}'")
    save(tmp_path / "single" / "a" / "0.png")
    fails(tmp_path / "single", "has only one image per class; add images, for validation")
    fails(tmp_path / "absent", f"there is no folder '{tmp_path / 'absent'}'")
    fails(empty / "train" / "a" / "0.png", "0.png' is a file; give its folder")


def test_files_that_do_not_fit(class_folder: Path, mask_folder: Path) -> None:
    broken = class_folder / "ant" / "3.png"
    broken.write_bytes(broken.read_bytes()[:60])
    fails(class_folder, f"the image '{broken}' cannot be read: ")
    broken.write_bytes(b"text")
    fails(class_folder, f"the image '{broken}' cannot be read: it is not an image, or it is damaged")
    Image.fromarray(np.full((6, 8), 1000, np.uint16)).save(broken)
    fails(class_folder, f"the image '{broken}' has more than 8 bits per channel; convert it")
    picture, mask = mask_folder / "train" / "train3.jpg", mask_folder / "trainannot" / "train3.png"
    save(mask, size=(6, 9), mode="L", high=4)
    fails(mask_folder, f"the image '{picture}' is 6x8, but its mask '{mask}' is 6x9; they must have the same size")
    save(mask)
    fails(mask_folder, f"the mask '{mask}' is of mode RGB; a mask holds one label per pixel")
    mask.unlink()
    fails(mask_folder, f"the image '{picture}' has no mask; add '{mask}'")
    save(mask, mode="L", high=4)
    names = mask_folder / "classes.txt"
    for text in ("", "0 a\n0 b", "256 a"):
        names.write_text(text)
        fails(mask_folder, f"'{names}' must name each label once")
    names.write_text("void")
    fails(mask_folder, "have 0 classes that are not ignored, but must have 1 to 255")
    names.write_text("a\nb\nvoid")
    fails(mask_folder, "have 2 classes that are not ignored, but must have 3", classes=3)
    names.write_bytes(b"\xff\xff")
    fails(mask_folder, f"'{names}' cannot be read")


def test_pipes_and_devices_are_not_waited_for(class_folder: Path, mask_folder: Path) -> None:
    why = "is not a file but a folder, a pipe or a device; remove it"
    path = class_folder / "ant" / "0.png"
    os.mkfifo(path)
    fails(class_folder, f"the image '{path}' {why}")
    path.unlink()
    path.symlink_to("/dev/zero")
    fails(class_folder, f"the image '{path}' {why}")
    for kind, path in (
        ("image", mask_folder / "train" / "train1.jpg"),
        ("mask", mask_folder / "trainannot" / "train2.png"),
    ):
        path.rename(path.with_suffix(".old"))
        os.mkfifo(path)
        fails(mask_folder, f"the {kind} '{path}' {why}")
        path.unlink()
        path.with_suffix(".old").rename(path)
    os.mkfifo(mask_folder / "classes.txt")
    fails(mask_folder, f"'{mask_folder / 'classes.txt'}' is not a file but a folder, a pipe or a device")


def test_an_unreadable_file_of_a_large_folder(class_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading_module, "IN_MEMORY", 100)
    monkeypatch.setattr(reading_module, "SAMPLED", 1)
    data = load_data(class_folder, workers=1)
    broken = list(class_folder.rglob("*.png"))
    for path in broken:
        path.write_bytes(b"text")
    with pytest.raises(
        DataError, match=r"^the image '.*' cannot be read: it is not an image, or it is damaged; replace or remove it$"
    ):
        list(data.train_batches(8, seed=0, epoch=0))
