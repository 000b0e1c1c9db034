"""Folders of classes: nothing in them appears or vanishes without a word."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.data.scenes import picture
from tests.data.toys import Items, fails, image
from topolearn.data import load_data
from topolearn.data.for_graph import read_data
from topolearn.data.images import SUFFIXES, open_image
from topolearn.format import loads
from topolearn.recipes.train_options import TrainOptions

GRAPH = """
topolearn: 1
name: tiny
inputs: {image: [3, 4, 4]}
nodes:
  head: {op: classifier, classes: 2}
edges:
  - {from: image, to: head}
outputs: [head]
"""


def classes(where: Path, *names: str, count: int = 5) -> Path:
    for name in names:
        for index in range(count):
            picture(where / name / f"{index}.png", index)
    return where


def test_every_suffix_of_images_is_read(tmp_path: Path) -> None:
    where = classes(tmp_path / "set", "a", "b")
    for index, suffix in enumerate(sorted(SUFFIXES)):
        mode = {".pbm": "1", ".pgm": "L"}.get(suffix, "RGB")
        Image.open(picture(tmp_path / "source.png", index)).convert(mode).save(where / "a" / f"x{suffix.upper()}")
        assert open_image(where / "a" / f"x{suffix.upper()}").size == (16, 12)
    assert {".gif", ".tif", ".tiff", ".ppm", ".jpg", ".webp", ".avif", ".tga"} <= SUFFIXES
    data = load_data(where)
    assert data.train_size + data.val_size == 10 + len(SUFFIXES)
    assert data.notes == ("3 of 32 images are converted to RGB (1 1, 1 L, 1 P)",)


def test_what_is_passed_over_is_counted(tmp_path: Path) -> None:
    where = classes(tmp_path / "set", "a", "b", "a/inner", "__MACOSX/a", ".hidden")
    picture(where / "b" / ".0.png")
    picture(where / "0.png")
    (where / "b" / "notes.txt").write_text("text")
    data = load_data(where)
    assert (data.info.classes, data.train_size, data.val_size) == (("a", "b"), 8, 2)
    assert data.notes == (
        f"in '{where}' 6 files and folders are skipped (not images of a class): .hidden/, 0.png, __MACOSX/ and 3 more",
    )


def test_what_is_passed_over_in_splits_is_counted(tmp_path: Path) -> None:
    where = classes(tmp_path / "set", "train/a", "train/b", "val/a", "val/__MACOSX")
    (where / "train" / "b" / "x.psd").write_bytes(b"")
    first, second, third = load_data(where).notes
    assert first.startswith(f"in '{where / 'train'}' 1 file or folder is skipped")
    assert first.endswith(": b/x.psd")
    assert second.endswith(": __MACOSX/")
    assert third == "no validation image is of the class 'b'"


@pytest.mark.parametrize("split", ["", "train/"])
def test_a_class_without_a_training_image(tmp_path: Path, split: str) -> None:
    where = classes(tmp_path / "set", f"{split}a", f"{split}b")
    (where / f"{split}c").mkdir()
    if split:
        classes(where, "val/a", "val/c")
    counts = (5, 5, 0) if split else (4, 4, 0)
    hold = ", ".join(f"{name} ({count} images)" for name, count in zip("abc", counts, strict=True))
    fails(where, f"the class 'c' has no training example: the class folders of '{where}' hold {hold}; put images into")


@pytest.mark.parametrize("split", ["", "train/"])
def test_a_class_with_images_one_level_down(tmp_path: Path, split: str) -> None:
    where = classes(tmp_path / "set", f"{split}a", f"{split}b", f"{split}c/sub", *(["val/a"] if split else []))
    fails(where, f"c (0 images); move the images of '{where / split / 'c' / 'sub'}' up into the folder of their class")


@pytest.mark.parametrize("names", [("Train", "Val"), ("training", "validation"), ("train", "Validation")])
@pytest.mark.parametrize("inner", ["/a", ""])
def test_splits_of_other_names(tmp_path: Path, names: tuple[str, str], inner: str) -> None:
    where = classes(tmp_path / "set", *(f"{name}{inner}" for name in names))
    train, val = (where / name for name in names)
    if names[0] == "train" and inner:
        fails(where, f"has 'train' but no 'val' to validate on; rename '{val}' to 'val'")
    else:
        fails(where, f"'{train}' and '{val}' seem to be for training and validation; rename them to 'train' and 'val'")
    for path, name in ((train, "train"), (val, "val")):
        path.rename(where / name)
    if inner:
        classes(where, "train/b")
        assert load_data(where).train_size == 10


def test_classes_one_level_down_are_named(tmp_path: Path) -> None:
    where = classes(tmp_path / "set", "all/a", "all/b")
    place = where / "all"
    fails(
        where, f"no image in the class folders of '{where}', but in '{place / 'a'}'; if that is a class, give '{place}'"
    )
    splits = classes(tmp_path / "splits", "train/a/x", "val/a/x")
    (splits / "train" / "b").mkdir()
    fails(
        splits,
        f"there is no image in the subfolders of '{splits / 'train'}'; move the images of"
        f" '{splits / 'train' / 'a' / 'x'}' up",
    )


@pytest.mark.parametrize("name", ["labels.txt", "obj.names", "train/_classes.csv", "train/classes.txt"])
def test_lists_of_other_tools_are_told_of(tmp_path: Path, name: str) -> None:
    where = classes(tmp_path / "set", "train/a", "train/b", "val/a", "val/b", "test/a")
    assert load_data(where).notes == ()
    (where / name).write_text("b\na")
    assert load_data(where).notes == (
        f"'{where / name}' seems to list classes, but is not read: the classes are in the order of their folders'"
        f" names; for another order, write '{where / 'classes.txt'}', each line with the name of a folder",
    )
    (where / name).rename(where / "classes.txt")
    classes(where, "extra/a")
    data = load_data(where)
    assert data.info.classes == ("b", "a")
    assert data.notes == (f"in '{where}' 1 file or folder is skipped (neither training nor validation): extra/",)


def test_one_class_alone(tmp_path: Path) -> None:
    fails(classes(tmp_path / "set", "a"), "there is only one class, 'a', so there is nothing to learn")


@pytest.mark.parametrize("split", [False, True])
def test_a_list_orders_the_classes(tmp_path: Path, split: bool) -> None:
    names = ("a", "b", "é")
    where = classes(
        tmp_path / "set", *(f"{part}{name}" for part in (("train/", "val/") if split else ("",)) for name in names)
    )
    before = load_data(where)
    (where / "classes.txt").write_text("# the network's\nb\ne\N{COMBINING ACUTE ACCENT}\na\n")
    data = load_data(where)
    assert (data.info.classes, data.notes) == (("b", "é", "a"), ())
    for old, new in zip(before.val_batches(1), data.val_batches(1), strict=True):
        assert torch.equal(old[0], new[0])
        assert before.info.classes[int(old[1])] == data.info.classes[int(new[1])]
    for text, wrong in (
        ("b\na", "it lacks 'é'"),
        ("b\na\né\nc", "there is no folder 'c'"),
        ("b\na\né\ne\N{COMBINING ACUTE ACCENT}", "it has a name twice"),
    ):
        (where / "classes.txt").write_text(text)
        fails(where, f"'{where / 'classes.txt'}' must name each class folder once, one per line, in the order of the")
        fails(where, f"; but {wrong}")


def test_a_class_called_train(tmp_path: Path) -> None:
    where = classes(tmp_path / "set", "train", "car", "bus")
    data = load_data(where)
    assert (data.info.classes, data.train_size, data.val_size) == (("bus", "car", "train"), 12, 3)
    fails(where, "has 'train' but no 'val' to validate on", val_split="val")
    classes(where, "val")
    fails(where, f"the folder '{where / 'train'}' has no subfolder; a class")
    splits = classes(
        tmp_path / "splits", *(f"{split}/{name}" for split in ("train", "val") for name in ("train", "car"))
    )
    assert load_data(splits).info.classes == ("car", "train")


def test_other_names_of_the_validation_folder(tmp_path: Path) -> None:
    for name in ("val", "valid", "validation", "test"):
        where = classes(tmp_path / name, "train/a", "train/b")
        classes(where, f"{name}/a", f"{name}/b", count=2)
        assert load_data(where).val_size == 4
        if name != "test":  # it is for the very end, so it is the last choice
            classes(where, "test/a", "test/b", count=3)
            assert load_data(where).val_size == 4
    fails(classes(tmp_path / "none", "train/a", "train/b"), "has 'train' but no 'val' to validate on", val_split="val")


def test_images_that_cannot_be_used_are_left_out_on_request(tmp_path: Path) -> None:
    where = classes(tmp_path / "set", "train/a", "train/b", "val/a", "val/b")
    broken, deep, other = where / "train/a/0.png", where / "train/b/1.png", where / "val/b/2.png"
    broken.write_bytes(broken.read_bytes()[:300])
    Image.fromarray(np.full((12, 16), 1000, np.uint16)).save(deep)
    other.write_text("text")
    fails(where, f"the image '{deep}' has more than 8 bits per channel")  # the first that its first bytes tell of
    data = load_data(where, skip_bad=True)
    assert (data.train_size, data.val_size) == (8, 9)
    first, second = data.notes
    assert first.startswith(f"skipped 2 of 10 training images of 'set': the image '{broken}' cannot be read: ")
    assert first.endswith(f" | the image '{deep}' has more than 8 bits per channel; convert it to 8 bits")
    assert second.startswith(f"skipped 1 of 10 validation images of 'set': the image '{other}' cannot be read")
    for path in (where / "train" / "b").iterdir():
        path.write_text("text")
    fails(where, "the class 'b' has no training example", skip_bad=True)


def test_a_request_to_augment_is_answered(tmp_path: Path) -> None:
    where = classes(tmp_path / "set", "a", "b")
    note = "'augment' changes nothing: class folders and your own sets are not augmented"
    for data in (where, [Items([(image("float", 4, 4), 0), (image("float", 4, 4), 1)])] * 2):
        assert read_data(loads(GRAPH), data, None, TrainOptions(augment=True)).notes == (note,)
        for options in (TrainOptions(), TrainOptions(augment=False)):
            assert read_data(loads(GRAPH), data, None, options).notes == ()
    digits = loads(GRAPH.replace("[3, 4, 4]", "[1, 8, 8]").replace("classes: 2", "classes: 10"))
    assert read_data(digits, "digits", None, TrainOptions(augment=True)).notes == ()


def test_leaving_out_is_for_files(tmp_path: Path) -> None:
    fails("digits", "'digits' does not have one file per image; 'skip_bad' is for folders", skip_bad=True)
    fails((Items([]), Items([])), "'skip_bad' is for files; leave bad items out", skip_bad=True)
    where = classes(tmp_path / "set", "a", "b")
    (where / "a" / "0.png").write_text("text")
    data = read_data(loads(GRAPH), where, None, TrainOptions(skip_bad=True))
    assert data.train_size + data.val_size == 9
