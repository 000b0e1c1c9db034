"""Named sets of images and masks, in their own layouts, and files that do not fit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageOps

from tests.data.scenes import folder, mask, picture, picture_of_16_bits
from tests.data.toys import fails
from topolearn.data import Crop, Data, load_data
from topolearn.data import reading as reading_module
from topolearn.data.for_graph import read_data
from topolearn.data.images import ImageFiles, look_at, open_image, read_labels
from topolearn.data.labels import Labels, binary_labels
from topolearn.errors import DataError
from topolearn.format import loads
from topolearn.recipes.train_options import TrainOptions
from topolearn.task_kinds import kind_of

CROP = Crop(size=(8, 8))


def labels(data: Data) -> list[list[int]]:
    """The labels of each validation image."""
    return [y[0].unique().tolist() for _, y in data.val_batches(1)]


def voc(home: Path, *, with_sbd: bool) -> None:
    lists = home / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    names = {"train": ["a", "b"], "val": ["c"], "trainaug": ["a", "b", "d"]}
    for split in names if with_sbd else ("train", "val"):
        (lists / f"{split}.txt").write_text("\n".join(names[split]) + "\n")
    for index, name in enumerate("abcd"):
        picture(home / "JPEGImages" / f"{name}.jpg", index, (9 + index, 12))
    for index, name in enumerate("abc"):
        mask(home / "SegmentationClass" / f"{name}.png", index, (9 + index, 12), 21)
    mask(home / "SegmentationClass" / "c.png", size=(11, 12), only=255)
    if with_sbd:
        for index, name in enumerate("abd"):
            mask(home / "SegmentationClassAug" / f"{name}.png", index, (9 + (3 if name == "d" else index), 12), 21)


@pytest.mark.parametrize("with_sbd", [False, True])
@pytest.mark.parametrize("place", ["VOCdevkit/VOC2012", "voc/VOCdevkit/VOC2012", "voc", "VOC2012"])
def test_voc(tmp_path: Path, with_sbd: bool, place: str) -> None:
    voc(tmp_path / place, with_sbd=with_sbd)
    data = load_data("voc", root=tmp_path, augment=CROP)
    assert (data.train_size, data.val_size) == (3 if with_sbd else 2, 1)
    assert load_data("voc-train", root=tmp_path, augment=CROP).train_size == 2
    assert (len(data.info.classes), data.info.classes[15], data.info.ignore_index) == (21, "person", 255)
    assert labels(data) == [[255]]
    told = [note for note in data.notes if "without SBD's" in note]
    assert len(told) == (not with_sbd)
    if with_sbd:
        (tmp_path / place / "ImageSets/Segmentation/trainaug.txt").unlink()
        (note,) = load_data("voc", root=tmp_path, augment=CROP).notes
        assert note.endswith("trainaug.txt' is not there: trained on VOC's own 2 images, without SBD's")


def ade20k(home: Path) -> None:
    for index, split in enumerate(("training", "validation")):
        picture(home / "images" / split / "x.jpg", index)
    mask(home / "annotations" / "training" / "x.png", high=151)
    values = np.array([[0, 1, 150]], np.uint8).repeat(4, 0).repeat(4, 1)
    Image.fromarray(values).save(mask(home / "annotations" / "validation" / "x.png"))
    picture(home / "images" / "validation" / "x.jpg", size=(4, 12))


def test_ade20k(tmp_path: Path) -> None:
    home = tmp_path / "ADEChallengeData2016"
    ade20k(home)
    data = load_data("ade20k", root=tmp_path, augment=CROP)
    assert labels(data) == [[0, 149, 255]]
    assert data.info.classes == tuple(map(str, range(1, 151)))
    rows = [f"{label}\t0.1\t1\t1\t1\tname {label}, other" for label in range(1, 151)]
    (home / "objectInfo150.txt").write_text("\n".join(["Idx\tRatio\tTrain\tVal\tStuff\tName", *rows]))
    assert load_data("ade20k", root=tmp_path, augment=CROP).info.classes[149] == "name 150"
    (home / "objectInfo150.txt").write_text("\n".join(rows[:9]))
    fails("ade20k", "objectInfo150.txt' must name the labels 1 to 150", root=tmp_path)
    (home / "images" / "training" / "x.jpg").unlink()
    fails("ade20k", f"there is no image in the folder '{home / 'images' / 'training'}'", root=tmp_path)


def camvid(home: Path, ending: str = "jpg") -> None:
    for split, names in (("train", "ab"), ("val", "c"), ("test", "def")):
        for index, name in enumerate(names):
            picture(home / split / f"{name}.{ending}", index)
            mask(home / f"{split}annot" / f"{name}.png", index, only=11 if split == "val" else 10)
        (home / f"{split}.txt").write_text("\n".join(names))


def test_camvid_validates_on_val_or_on_test(tmp_path: Path) -> None:
    camvid(tmp_path / "camvid")
    data, test = (load_data(name, root=tmp_path, augment=CROP) for name in ("camvid", "camvid-test"))
    assert (data.train_size, data.val_size, test.train_size, test.val_size) == (2, 1, 2, 3)
    assert (data.info.classes, data.info.classes[10]) == (test.info.classes, "bicyclist")
    assert len(data.info.classes) == 11
    assert labels(data) == [[255]]
    assert labels(test) == [[10]] * 3
    fails("camvid", "'camvid' is for segmentation, but the task is edges", root=tmp_path, task="edges")
    fails("camvid", "'val_split' is for folders", root=tmp_path, val_split="test")


def test_camvid_with_segnet_s_own_lists(tmp_path: Path) -> None:
    camvid(tmp_path / "CamVid", "png")
    lines = [f"/SegNet/CamVid/train/{name}.png /SegNet/CamVid/trainannot/{name}.png" for name in "ab"]
    (tmp_path / "CamVid" / "train.txt").write_text("\n".join(lines))
    assert load_data("camvid", root=tmp_path, augment=CROP).train_size == 2
    (tmp_path / "CamVid" / "train.txt").write_text("a\nmissing")
    fails("camvid", "missing.jpg' cannot be read: ", root=tmp_path, augment=CROP)
    (tmp_path / "CamVid" / "train.txt").write_text("\n")
    fails("camvid", "train.txt' names no image", root=tmp_path, augment=CROP)


# -- masks of one channel -----------------------------------------------------------------------


@pytest.mark.parametrize(("task", "middle"), [("saliency", 0), ("edges", 255)])
def test_grey_masks_are_yes_or_no(tmp_path: Path, task: str, middle: int) -> None:
    where = folder(tmp_path / "set")
    values = np.array([[0, 1, 127, 128], [255, 254, 0, 0]], np.uint8)
    for split, count in (("train", 6), ("val", 2)):
        for index in range(count):
            Image.fromarray(values).save(where / f"{split}annot" / f"{index}.png")
            picture(where / split / f"{index}.png", index, (2, 4))
    mask(where / "valannot" / "1.png", size=(2, 4), high=2)  # dark greys, as the others say what 1 means
    data = load_data(where, task=task, augment=CROP)
    assert (data.info.task, data.info.labels) == (task, 2)
    assert data.info.classes == ("salient" if task == "saliency" else "edge",)
    first, second = (y[0].tolist() for _, y in data.val_batches(1))
    assert first == [[0, middle, middle, 1], [1, 1, 0, 0]]
    stored = np.asarray(Image.open(where / "valannot" / "1.png"))
    assert stored.max() == 1
    assert second == (middle * stored).tolist()
    assert data.notes == (
        "1 of 8 masks hold no value above 1, but others do: in all of them 1 is a dark grey, not a label",
    )


@pytest.mark.parametrize("task", ["saliency", "edges"])
def test_a_set_of_masks_of_0_and_1_has_the_labels_themselves(tmp_path: Path, task: str) -> None:
    where = folder(tmp_path / "set")
    for path in where.glob("*annot/*.png"):
        mask(path, int(path.stem), high=2)
    mask(where / "trainannot" / "3.png", only=0)
    data = load_data(where, task=task, augment=CROP)
    assert data.notes == ()
    for index, (_, y) in enumerate(data.val_batches(1)):
        assert y[0].tolist() == np.asarray(Image.open(where / "valannot" / f"{index}.png")).tolist()


def test_masks_of_one_bit_are_black_and_white_in_every_set(tmp_path: Path) -> None:
    where = folder(tmp_path / "set")
    white = np.random.default_rng(0).integers(0, 2, (12, 16), dtype=np.uint8)
    for path in where.glob("*annot/*.png"):
        Image.fromarray(255 * white).save(path)
    Image.fromarray(255 * white).convert("1").save(where / "valannot" / "1.png")
    data = load_data(where, task="edges", augment=CROP)
    assert data.notes == ()
    assert [y[0].tolist() for _, y in data.val_batches(1)] == [white.tolist()] * 2


def with_palette(path: Path, numbers: list[list[int]], palette: list[int]) -> Path:
    image = Image.fromarray(np.array(numbers, np.uint8), "P")
    image.putpalette(palette)
    image.save(path)
    return path


@pytest.mark.parametrize(
    ("numbers", "palette"),
    [
        ([[1, 0], [0, 1]], [255, 255, 255, 0, 0, 0]),  # of greys: what one sees counts
        ([[2, 1], [1, 0]], [30, 30, 30, 200, 200, 200, 0, 0, 0]),
        ([[0, 1], [1, 0]], [0, 0, 0, 128, 0, 0]),  # of colours: the numbers do
    ],
)
def test_palettes_of_masks_of_one_channel(tmp_path: Path, numbers: list[list[int]], palette: list[int]) -> None:
    path = with_palette(tmp_path / "mask.png", numbers, palette)
    image = picture(tmp_path / "image.png", size=(2, 2))
    found = set(read_labels(path, binary=True).flat)
    files = ImageFiles([(image, path)], 3, None, resize=False, labels=binary_labels(kind_of("saliency"), found))
    assert files[0][1].tolist() == [[0, 1], [1, 0]]


def test_the_palette_of_classes_is_colours_alone(tmp_path: Path) -> None:
    path = with_palette(tmp_path / "mask.png", [[0, 1], [2, 1]], [255, 255, 255, 0, 0, 0, 9, 9, 9])
    assert read_labels(path).tolist() == [[0, 1], [2, 1]]


# -- files that do not fit ----------------------------------------------------------------------


def spoil(where: Path) -> dict[str, str]:
    """Spoil four of six training pairs; which, and what is wrong."""
    mask(where / "trainannot" / "0.png", size=(12, 15))
    mask(where / "trainannot" / "1.png", only=9)
    (where / "train" / "2.png").write_bytes((where / "train" / "2.png").read_bytes()[:300])
    (where / "trainannot" / "3.png").unlink()
    (where / "classes.txt").write_text("a\nb\nc")
    return {
        "0.png": "they must have the same size",
        "1.png": "has the label 9, but the 3 classes are 0 to 2",
        "2.png": "cannot be read",
        "3.png": "has no mask; add",
    }


def test_files_that_cannot_be_used_are_named_and_counted(tmp_path: Path) -> None:
    where = folder(tmp_path / "set")
    expected = spoil(where)
    with pytest.raises(DataError) as caught:
        load_data(where, augment=CROP)
    assert expected["0.png"] in str(caught.value)
    assert "3 of 6 training images of 'set' cannot be used: fix them, or set 'skip_bad'" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_that_cannot_be_used_are_left_out_on_request(tmp_path: Path) -> None:
    where = folder(tmp_path / "set")
    expected = spoil(where)
    data = load_data(where, augment=CROP, skip_bad=True)
    assert (data.train_size, data.val_size) == (2, 2)
    (note,) = data.notes
    assert note.startswith("skipped 4 of 6 training images of 'set': ")
    assert all(text in note for text in list(expected.values())[:3])
    assert note.endswith("| and 1 more")
    for index in (4, 5):
        mask(where / "trainannot" / f"{index}.png", only=9)
    fails(where, "6 of 6 training images of 'set' cannot be used", augment=CROP, skip_bad=True)


def test_a_bad_label_of_a_set_without_names_is_found_in_validation(tmp_path: Path) -> None:
    where = folder(tmp_path / "set")
    mask(where / "valannot" / "1.png", only=7)
    fails(where, f"the mask '{where / 'valannot' / '1.png'}' has the label 7, but the 3 classes are 0 to 2")


def test_a_bad_label_of_a_large_set_is_found_in_validation_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading_module, "SAMPLED", 1)
    where = folder(tmp_path / "set", sizes=((12, 16), (10, 11)))
    (where / "classes.txt").write_text("0 a\n1 b\n2 c\n7 d")
    bad = mask(where / "valannot" / "0.png", only=5)
    fails(where, f"the mask '{bad}' has the label 5, but the 4 classes are 0, 1, 2, 7;", augment=CROP)


def test_masks_without_an_image_are_told_of(tmp_path: Path) -> None:
    where = folder(tmp_path / "set")
    for index in range(5):
        mask(where / "trainannot" / f"alone{index}.png")
    picture(where / "val" / "1.png").rename(where / "val" / "1.psd")
    data = load_data(where, augment=CROP)
    assert (data.train_size, data.val_size) == (6, 1)
    why = "skipped (neither images nor their masks)"
    assert data.notes == (
        f"in '{where / 'trainannot'}' 5 files and folders are {why}: alone0.png, alone1.png, alone2.png and 2 more",
        f"in '{where / 'val'}' 1 file or folder is {why}: 1.psd",
        f"in '{where / 'valannot'}' 1 file or folder is {why}: 1.png",
    )


def side_by_side(where: Path, *parts: str) -> Path:
    """``images/`` and ``masks/`` with these subfolders of three files each."""
    for part in parts:
        for index in range(3):
            picture(where / "images" / part / f"{index}.jpg", index)
            mask(where / "masks" / part / f"{index}.png", index)
    return where


def test_what_is_passed_over_beside_masks_is_counted(tmp_path: Path) -> None:
    why = "skipped (neither images nor their masks)"
    where = side_by_side(tmp_path / "set", "train", "val", "test")
    assert load_data(where).notes == ()  # a test set is for the very end
    side_by_side(where, "extra", "train/sub")
    (where / "images" / "train" / "5.heic").write_bytes(b"")
    (where / "images" / "train" / "notes.txt").write_text("text")
    (where / "masks" / "train" / "5.json").write_text("{}")
    (where / "labels").mkdir()
    assert load_data(where).notes == (
        f"in '{where}' 1 file or folder is {why}: labels/",
        f"in '{where / 'images'}' 1 file or folder is {why}: extra/",
        f"in '{where / 'images' / 'train'}' 3 files and folders are {why}: 5.heic, notes.txt, sub/",
        f"in '{where / 'masks'}' 1 file or folder is {why}: extra/",
        f"in '{where / 'masks' / 'train'}' 2 files and folders are {why}: 5.json, sub/",
    )
    whole = side_by_side(tmp_path / "whole", "", "sub")
    (whole / "classes.txt").write_text("a\nb\nc")
    assert load_data(whole).notes == tuple(
        f"in '{whole / half}' 1 file or folder is {why}: sub/" for half in ("images", "masks")
    )


def test_images_of_masks_one_level_down_are_named(tmp_path: Path) -> None:
    where = side_by_side(tmp_path / "set", "sub")
    home = where / "images"
    fails(where, f"there is no image in the folder '{home}'; move the images of '{home / 'sub'}' up")
    where = side_by_side(tmp_path / "other", "training", "validation")
    home = where / "images"
    fails(where, f"'{home / 'training'}' and '{home / 'validation'}' seem to be for training and validation; rename")


@pytest.mark.parametrize("task", [None, "segmentation", "saliency", "classification"])
@pytest.mark.parametrize(
    ("images", "masks"),
    [("imgs", "masks"), ("images", "mask"), ("train/images", "train/masks"), ("Images", "Masks"), ("img", "gt")],
)
def test_images_and_masks_are_no_classes(tmp_path: Path, images: str, masks: str, task: str | None) -> None:
    where = tmp_path / "set"
    for index in range(3):
        picture(where / images / f"{index}.jpg", index)
        mask(where / masks / f"{index}.png", index)
    if "/" in images:
        picture(where / "val" / "images" / "0.jpg")
    fails(
        where,
        f"'{where / images}' and '{where / masks}' seem to be images and their masks, but are laid out like classes;"
        " layouts with masks are train/*.png and trainannot/*.png, images/train/*.png and masks/train/*.png, or images",
        task=task,
    )


def masks_as(where: Path, name: str, mode: str | None = None) -> None:
    """Write all masks again, under another name or in another mode; ``{}`` in the name is the image's."""
    for path in list(where.glob("*annot/*.png")):
        with Image.open(path) as stored:
            image = stored.copy()
        path.unlink()
        (image if mode is None else image.convert(mode)).save(path.with_name(name.format(path.stem)))


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        *((f"{{}}{suffix}", None) for suffix in (".bmp", ".tif", ".TIFF")),
        *((f"{{}}{ending}.png", None) for ending in ("_mask", "_label", "_gt")),
        ("{}_mask.tif", None),
        *(("{}.png", mode) for mode in ("RGB", "RGBA", "LA")),
        ("{}.bmp", "RGB"),
        ("{}.tif", "I;16"),
    ],
)
def test_masks_of_other_names_formats_and_modes(tmp_path: Path, name: str, mode: str | None) -> None:
    wanted = load_data(folder(tmp_path / "set"), augment=CROP)
    masks_as(tmp_path / "set", name, mode)
    data = load_data(tmp_path / "set", augment=CROP)
    assert (data.notes, data.train_size) == ((), 6)
    assert [y.tolist() for _, y in data.val_batches(1)] == [y.tolist() for _, y in wanted.val_batches(1)]


def test_jpeg_masks_are_for_yes_and_no_alone(tmp_path: Path) -> None:
    where = folder(tmp_path / "set")
    halves = np.repeat(np.array([0, 255], np.uint8), 8)[None].repeat(12, 0)
    for path in where.glob("*annot/*.png"):
        Image.fromarray(halves).save(path)
    masks_as(where, "{}.jpg")
    data = load_data(where, task="saliency", augment=CROP)
    assert labels(data) == [[0, 1], [0, 1]]
    bad = where / "trainannot" / "0.jpg"
    fails(where, f"the mask '{bad}' is a JPEG file; JPEG compression changes labels, so save the mask as PNG")


def test_a_mask_that_is_there_under_another_name_is_named(tmp_path: Path) -> None:
    where = folder(tmp_path / "set", train=12)
    (where / "classes.txt").write_text("a\nb\nc")
    masks_as(where, "{}_labelIds.png")
    wanted = where / "trainannot" / "0.png"
    for _ in range(2):
        fails(where, f"has no mask; add '{wanted}' ('0_labelIds.png' is there); 12 of 12 training images")
    (where / "classes.txt").unlink()
    fails(where, f"has no mask; add '{wanted}' ('0_labelIds.png' is there)")
    for part in ("train", "trainannot"):
        next((where / part).glob("0*")).unlink()
    (where / "trainannot" / "1_labelIds.png").unlink()
    with pytest.raises(DataError) as caught:  # the masks of 10 and 11 have nothing to do with 1
        load_data(where)
    assert str(caught.value).endswith(f"has no mask; add '{where / 'trainannot' / '1.png'}'")


def test_the_mask_of_another_image_is_not_taken(tmp_path: Path) -> None:
    where = folder(tmp_path / "set")
    picture(where / "train" / "0_mask.png")
    (where / "trainannot" / "0.png").rename(where / "trainannot" / "0_mask.png")
    fails(where, f"the image '{where / 'train' / '0.png'}' has no mask; add '{where / 'trainannot' / '0.png'}'")


def test_of_two_masks_of_one_name_the_png_file_is_taken(tmp_path: Path) -> None:
    where = folder(tmp_path / "set")
    wanted = labels(load_data(where, augment=CROP))
    for index in range(2):
        for suffix in ("jpg", "tif"):
            mask(where / "valannot" / f"{index}.{suffix}", only=9)
    data = load_data(where, augment=CROP)
    assert (labels(data), data.notes) == (wanted, ())


def test_names_with_accents_in_two_forms(tmp_path: Path) -> None:
    """As one character, and as macOS writes them: a letter and its accent."""
    where = folder(tmp_path / "set")
    for path in list(where.rglob("*.png")):
        accent = "e\u0301" if "annot" in path.parent.name else "\u00e9"
        path.rename(path.with_name(f"{accent}{path.name}"))
    data = load_data(where, augment=CROP)
    assert (data.train_size, data.val_size, data.notes) == (6, 2, ())


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_more_than_eight_bits_are_an_error_before_training(tmp_path: Path, channels: int) -> None:
    where = folder(tmp_path / "set")
    deep = picture_of_16_bits(where / "train" / "3.png", channels)
    fails(where, f"the image '{deep}' has more than 8 bits per channel; convert it to 8 bits", augment=CROP)
    assert load_data(where, augment=CROP, skip_bad=True).train_size == 5
    deep = picture_of_16_bits(where / "trainannot" / "4.png", channels, value=2)
    data = load_data(where, augment=CROP, skip_bad=True)
    assert data.train_size == (5 if channels == 1 else 4)  # 2 is a label in a grey file, and lost in a colour file
    assert (f"the mask '{deep}' has more than 8 bits" in data.notes[0]) == (channels > 1)


def test_a_mask_of_fractions_is_none(tmp_path: Path) -> None:
    where = folder(tmp_path / "set")
    (where / "valannot" / "1.png").unlink()
    path = where / "valannot" / "1.tif"
    Image.fromarray(np.full((12, 16), 0.5, np.float32)).save(path)
    fails(where, f"the mask '{path}' is of mode F; a mask holds one label per pixel, as grey values (R = G = B) or pal")


def test_two_images_with_one_mask_and_endings_in_capitals(tmp_path: Path) -> None:
    where = folder(tmp_path / "set")
    for part in ("val", "valannot"):
        (where / part / "1.png").rename(where / part / "1.PNG")
    assert load_data(where, augment=CROP).notes == ()
    picture(where / "train" / "2.jpg")
    first, second = where / "train" / "2.jpg", where / "train" / "2.png"
    fails(where, f"'{first}' and '{second}' would share one mask; rename or remove one of them", augment=CROP)


def test_a_bad_label_of_a_large_set_is_found_before_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading_module, "SAMPLED", 1)  # for mean and standard deviation
    where = folder(tmp_path / "set", sizes=((12, 16), (10, 11)))
    (where / "classes.txt").write_text("a\nb\nc")
    bad = mask(where / "trainannot" / "4.png", only=9)
    fails(where, f"the mask '{bad}' has the label 9, but the 3 classes are 0 to 2", augment=CROP)


def test_a_set_without_masks_is_not_cropped() -> None:
    fails("digits", "'digits' has images without masks; a crop is for images with masks, or for Datasets", augment=CROP)
    fails("digits", "'digits' is for classification, but the task is edges; use other", augment=CROP, task="edges")


def test_no_class_at_all(tmp_path: Path) -> None:
    where = folder(tmp_path / "set")
    (where / "classes.txt").write_text("")
    fails(where, "classes.txt' must name each label once")
    (where / "classes.txt").write_text("void\nvoid\nunlabelled")
    fails(where, "have 0 classes that are not ignored, but must have 1 to 255")
    (where / "classes.txt").unlink()
    for index in range(6):
        mask(where / "trainannot" / f"{index}.png", only=255)
    fails(where, f"the masks in '{where / 'trainannot'}' hold only 255, which is ignored")


def test_grey_and_transparent_images_are_converted_and_counted(tmp_path: Path) -> None:
    where = folder(tmp_path / "set")
    picture(where / "train" / "0.png", mode="L")
    picture(where / "train" / "1.png", mode="RGBA")
    picture(where / "val" / "1.png", mode="RGBA")
    data = load_data(where, augment=CROP)
    assert data.notes == ("3 of 8 images are converted to RGB (1 L, 2 RGBA), transparency is dropped",)
    assert next(data.train_batches(6, seed=0, epoch=0))[0].shape == (6, 3, 8, 8)
    assert load_data(where, augment=CROP, channels=1).notes[0].startswith("7 of 8 images are converted to L (5 RGB,")


GRAPH = """
topolearn: 1
name: maps
task: {task}
inputs: {{image: [3, 8, 8]}}
nodes: {{head: {{op: segmentation_head, classes: 3}}}}
edges: [{{from: image, to: head}}]
outputs: [head]
"""


@pytest.mark.parametrize("orientation", [*range(1, 9), 9])
def test_images_are_upright_as_their_masks_are(tmp_path: Path, orientation: int) -> None:
    """Pillow's own reading is the judge; a number that EXIF does not have means nothing."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    path, drawn = tmp_path / "photo.png", tmp_path / "mask.png"
    Image.fromarray(np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)).save(path, exif=exif)
    with Image.open(path) as stored:
        upright = np.array(ImageOps.exif_transpose(stored))
    Image.fromarray(upright[..., 0]).save(drawn)
    assert look_at(path) == (upright.shape[:2], "RGB")
    numbers = Labels((), np.arange(256, dtype=np.int16))
    image, labels = ImageFiles([(path, drawn)], 3, None, resize=False, labels=numbers)[0]
    np.testing.assert_array_equal(image.numpy().transpose(1, 2, 0), upright)
    np.testing.assert_array_equal(labels.numpy(), upright[..., 0])


@pytest.mark.parametrize("readable", [True, False])
@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
def test_an_orientation_beside_damaged_metadata(tmp_path: Path, suffix: str, readable: bool) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation], exif[ExifTags.Base.XResolution] = 6, 72.0
    damaged = bytearray(exif.tobytes())
    damaged[damaged.index(bytes([1, 26, 0, 5])) + 3] = 2  # the resolution, a fraction, claims to be a text
    if not readable:
        damaged[damaged.index(b"MM")] = 0
    path = tmp_path / f"photo.{suffix}"
    top_is_white = np.repeat(np.array([[255], [0]], np.uint8), 20, axis=0).repeat(60, axis=1)
    Image.fromarray(top_is_white).convert("RGB").save(path, exif=bytes(damaged))
    if readable:
        with Image.open(path) as stored, pytest.raises(TypeError, match="bad operand"):
            ImageOps.exif_transpose(stored)
    height, width = (60, 40) if readable else (40, 60)
    assert look_at(path) == ((height, width), "RGB")
    pixels = np.array(open_image(path).convert("L")) > 127
    assert pixels.shape == (height, width)
    white = pixels[:, 20:] if readable else pixels[:20]
    assert white.mean() == 2 * pixels.mean() == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize("where", ["before the pixels", "behind them", "nowhere"])
def test_the_orientation_of_a_png_is_found_without_its_pixels(tmp_path: Path, where: str) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    path = tmp_path / "photo.png"
    Image.fromarray(np.zeros((40, 60), np.uint8)).save(path, **({} if where == "nowhere" else {"exif": exif}))
    data = path.read_bytes()
    if where == "behind them":
        start = data.index(b"eXIf") - 4
        end = start + 12 + int.from_bytes(data[start : start + 4], "big")
        stop = data.index(b"IEND") - 4
        data = data[:start] + data[end:stop] + data[start:end] + data[stop:]
        path.write_bytes(data)
    assert look_at(path) == ((40, 60) if where == "nowhere" else (60, 40), "L")
    if where != "behind them":
        path.write_bytes(data[: data.index(b"IDAT") + 20])  # the pixels cut short
        assert look_at(path) == ((40, 60) if where == "nowhere" else (60, 40), "L")


def test_what_training_options_make_of_a_folder(tmp_path: Path) -> None:
    where = folder(tmp_path / "set", sizes=((12, 16), (10, 11)))
    graph = loads(GRAPH.format(task="segmentation"))

    def shape(**options: object) -> tuple[int, ...]:
        data = read_data(graph, where, None, TrainOptions.model_validate(options))
        assert sorted(tuple(x.shape) for x, _ in data.val_batches(1)) == [(1, 3, 10, 11), (1, 3, 12, 16)]
        return tuple(next(data.train_batches(2, seed=0, epoch=0))[0].shape)

    assert shape() == (2, 3, 8, 8)
    assert shape(crop=6) == (2, 3, 6, 6)
    assert shape(crop=[5, 9], augment=False) == (2, 3, 5, 9)
