"""Whether every class occurs: in masks of folders, in a user's own Datasets and loaders, and in their ``targets``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Subset, TensorDataset

from tests.data.scenes import folder
from tests.data.toys import Items, fails, image
from topolearn.data import Crop, Data, DatasetData, LoaderData, load_data
from topolearn.data.for_graph import read_data
from topolearn.errors import DataError
from topolearn.format import loads
from topolearn.recipes.train_options import TrainOptions
from topolearn.samples import describe as describe_module

TASKS = ["segmentation", "saliency"]


def masks(where: Path, *values: int, splits: tuple[str, ...] = ("train", "val")) -> Path:
    """A set whose masks hold these values, 12 x 16 / n times each."""
    if not where.exists():
        folder(where)
    for split in splits:
        for path in (where / f"{split}annot").iterdir():
            Image.fromarray(np.resize(np.array(values, np.uint8), (12, 16))).save(path)
    return where


def labels(data: Data) -> list[int]:
    return torch.cat([y.flatten() for _, y in data.val_batches(1)]).unique().tolist()


@pytest.mark.parametrize(
    ("task", "text", "classes"),
    [
        ("segmentation", "", ("0", "1")),
        ("segmentation", "background\nforeground", ("background", "foreground")),
        ("segmentation", "0 background\n1 foreground\n2 void", ("background", "foreground")),
        ("segmentation", "0 background\n255 foreground", ("background", "foreground")),
        ("saliency", "", ("salient",)),
        ("saliency", "background\nforeground", ("salient",)),
        ("edges", "", ("edge",)),
    ],
)
def test_masks_in_black_and_white_are_two_classes(
    tmp_path: Path, task: str, text: str, classes: tuple[str, ...]
) -> None:
    where = masks(tmp_path / "set", 0, 255)
    if text:
        (where / "classes.txt").write_text(text)
    data = load_data(where, task=task)
    assert (data.info.classes, labels(data)) == (classes, [0, 1])
    assert next(data.val_batches(1))[1][0, 0].tolist() == [0, 1] * 8
    if task == "segmentation":
        assert load_data(where, classes=2).info.classes == (classes if text else ("0", "1"))


def test_white_beside_a_third_value_is_ignored(tmp_path: Path) -> None:
    where = masks(tmp_path / "set", 0, 1, 255)
    for task in TASKS:
        assert labels(load_data(where, task=task)) == [0, 1, 255]
    masks(where, 0, 255, splits=("train",))  # the third value is in the validation masks alone
    hold = f"the masks in '{where / 'trainannot'}' hold 0 (576 pixels), 255 (576 pixels); "
    fails(where, f"the class '1' has no training example: {hold}", classes=2)
    fails(where, f"the class 'salient' has no training example: {hold}", task="saliency")
    masks(where, 0, splits=("val",))
    assert labels(load_data(where)) == [0]


@pytest.mark.parametrize(
    ("task", "values", "what", "mend"),
    [
        ("segmentation", (0, 2), "class '1' has", "as '0 background', '2 foreground'"),
        ("segmentation", (0, 1, 5), "classes '2', '3', '4' have", "as '0 NAME', '1 NAME', '5 NAME'"),
        ("segmentation", (0, 100), "classes '1', '2', '3' and 96 more have", "as '0 background', '100 foreground'"),
        ("segmentation", (0, 254), "classes '1', '2', '3' and 250 more have", "as '0 background', '254 foreground'"),
        ("segmentation", (7,), "classes '0', '1', '2' and 4 more have", "add examples of another class"),
        ("saliency", (0, 2), "class 'salient' has", "as '0 background', '2 foreground'"),
        ("saliency", (0, 100), "class 'salient' has", "as '0 background', '100 foreground'"),
        ("saliency", (0, 1, 2), "class 'salient' has", "as '0 NAME', '1 NAME', '2 NAME'"),
        ("saliency", (255,), "class 'not salient' has", "add examples of another class"),
        ("edges", (0, 100), "class 'edge' has", "as '0 background', '100 foreground'"),
        ("edges", (0,), "class 'edge' has", "add examples of another class"),
    ],
)
def test_a_class_that_no_mask_holds(tmp_path: Path, task: str, values: tuple[int, ...], what: str, mend: str) -> None:
    where = masks(tmp_path / "set", *values)
    listed = ", ".join(f"{value} ({6 * 12 * 16 // len(values):,} pixels)" for value in values)
    fails(
        where,
        f"the {what} no training example: the masks in '{where / 'trainannot'}' hold {listed}; {mend}"
        if len(values) == 1
        else f"the {what} no training example: the masks in '{where / 'trainannot'}' hold {listed};"
        f" name the labels that occur in 'classes.txt', {mend}",
        task=task,
    )


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("values", [(1, 255), (255, 1)])
def test_white_means_the_same_in_training_and_validation(tmp_path: Path, task: str, values: tuple[int, int]) -> None:
    train, val = values
    where = masks(masks(tmp_path / "set", 0, train, splits=("train",)), 0, val, splits=("val",))
    hold = f"the masks in '{where / 'trainannot'}' hold only 0 and {train}, but the validation masks only 0 and {val}"
    for text in ("", "background\nforeground"):
        if text:
            (where / "classes.txt").write_text(text)
        fails(where, f"{hold}; write all masks with the same labels", task=task)
    (where / "classes.txt").write_text("0 background\n1 foreground\n255 void")
    if val == 255:  # it has a name, so what it means is known
        assert labels(load_data(where)) == [0, 255]


@pytest.mark.parametrize("task", ["segmentation", "saliency", "edges"])
def test_masks_of_two_kinds_in_one_split(tmp_path: Path, task: str) -> None:
    where = masks(tmp_path / "set", 0, 1)
    one, white = sorted((where / "trainannot").iterdir())[::5]
    Image.fromarray(np.resize(np.array([0, 255], np.uint8), (12, 16))).save(white)
    says = f"the mask '{one}' holds the label 1 and not 255, but the mask '{white}' holds only 0 and 255; write all"
    fails(where, says, task=task)
    for text in ("background\nforeground", "0 background\n1 foreground"):
        (where / "classes.txt").write_text(text)
        fails(where, says, task=task)
    (where / "classes.txt").write_text("0 background\n1 foreground\n255 void")
    assert load_data(where, task=task).info.labels == 2
    (where / "classes.txt").unlink()
    Image.fromarray(np.resize(np.array([0, 1, 255], np.uint8), (12, 16))).save(one)  # so 255 is ignored
    assert load_data(where, task=task).info.labels == 2
    Image.fromarray(np.full((12, 16), 255, np.uint8)).save(white)
    masks(where, 0, 1, splits=("val",))
    assert labels(load_data(where, task=task)) == [0, 1]


@pytest.mark.parametrize(("task", "name"), [("segmentation", "1"), ("saliency", "salient"), ("edges", "edge")])
def test_a_class_that_no_validation_mask_holds_is_noted(tmp_path: Path, task: str, name: str) -> None:
    where = masks(tmp_path / "set", 0, 1)
    assert load_data(where, task=task).notes == ()
    masks(where, 0, splits=("val",))
    assert load_data(where, task=task).notes == (f"no validation mask holds a pixel of the class '{name}'",)


def test_white_masks_with_blended_edges(tmp_path: Path) -> None:
    """255 is the foreground here, so the list that the error proposes must not ignore it."""
    where = masks(tmp_path / "set", 0, 0, 0, 127, 255, 255)
    mend = "255 is ignored unless 'classes.txt' names it; if it is the foreground, write '0 background',"
    fails(where, f"255 (384 pixels); {mend} '255 foreground', and each value between as '127 void'")
    (where / "classes.txt").write_text("0 background\n127 foreground")
    assert load_data(where).notes == ("33.3% of the pixels of the training masks are ignored (values 255)",)
    (where / "classes.txt").write_text("0 background\n255 foreground\n127 void")
    data = load_data(where)
    assert (data.info.classes, labels(data)) == (("background", "foreground"), [0, 1, 255])
    assert data.notes == ("16.7% of the pixels of the training masks are ignored (values 127)",)
    assert load_data(masks(tmp_path / "whole", 0, 1)).notes == ()
    with pytest.raises(DataError) as caught:  # few pixels at the edges of objects are a border
        load_data(masks(tmp_path / "border", 0, 5, 5, 255))
    assert "255 is ignored" not in str(caught.value)


def test_one_label_in_all_masks(tmp_path: Path) -> None:
    where = masks(tmp_path / "set", 0)
    fails(where, "there is only one class, '0', so there is nothing to learn: the masks in ")
    (where / "classes.txt").write_text("road\nvoid")
    fails(where, "there is only one class, 'road', so there is nothing to learn: the masks in ")


def test_the_list_that_an_error_proposes_works(tmp_path: Path) -> None:
    where = masks(tmp_path / "set", 0, 2)
    (where / "classes.txt").write_text("a\nb\nc\nd")
    fails(where, "the classes 'b', 'd' have no training example")
    (where / "classes.txt").write_text("0 background\n2 foreground")
    for task, classes in (("segmentation", ("background", "foreground")), ("saliency", ("salient",))):
        data = load_data(where, task=task)
        assert (data.info.classes, labels(data)) == (classes, [0, 1])
    (where / "classes.txt").write_text("0 a\n1 b\n2 c")
    fails(where, "have 3 classes that are not ignored, but must have 2", task="saliency")


def test_a_colour_that_no_mask_holds(tmp_path: Path) -> None:
    where = masks(tmp_path / "set", 0, 9)
    (where / "classes.txt").write_text("0 0 0 sky\n9 9 9 road\n1 2 3 car")
    hold = "hold (0, 0, 0) (576 pixels), (9, 9, 9) (576 pixels)"
    fails(where, f"the class 'car' has no training example: the masks in '{where / 'trainannot'}' {hold}; remove")


def test_what_is_left_out_does_not_count(tmp_path: Path) -> None:
    where = masks(tmp_path / "set", 0)
    Image.fromarray(np.resize(np.array([0, 1], np.uint8), (12, 16))).save(where / "trainannot" / "3.png")
    assert load_data(where).info.classes == ("0", "1")
    (where / "train" / "3.png").write_bytes(b"text")
    fails(where, "there is only one class, '0'", skip_bad=True)


# -- a user's own sets --------------------------------------------------------------------------


def mask_items(*values: int, count: int = 6, **attributes: Any) -> Items:
    mask = np.resize(np.array(values, np.uint8), (4, 5))
    return Items([(image("float"), mask)] * count, **attributes)


def numbers(*values: int, **attributes: Any) -> Items:
    return Items([(image("float"), value) for value in values], **attributes)


def epoch(data: Data) -> None:
    list(data.train_batches(4, seed=0, epoch=0))


@pytest.mark.parametrize("kind", [DatasetData, LoaderData])
@pytest.mark.parametrize("task", TASKS)
def test_own_masks_in_black_and_white_are_two_classes(kind: Any, task: str) -> None:
    def data(*values: int, **options: Any) -> Any:
        sets = [mask_items(*values), mask_items(*values)]
        return kind(*(sets if kind is DatasetData else [DataLoader(each, 2) for each in sets]), task=task, **options)

    for options in ({}, {"classes": 2}):
        found = data(0, 255, **options)
        assert found.info.classes == (("0", "1") if task == "segmentation" else ("salient",))
        assert labels(found) == [0, 1]
        epoch(found)
    assert labels(data(0, 1, 255)) == [0, 1, 255]


@pytest.mark.parametrize("kind", ["sets", "loaders", "declared"])
@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("place", ["train", "val"])
def test_own_masks_of_two_kinds(kind: str, task: str, place: str) -> None:
    ones, mixed = mask_items(0, 1), mask_items(0, 1)
    mixed.items[4] = mask_items(0, 255).items[0]
    sets: list[Any] = [mixed, ones] if place == "train" else [ones, mixed]
    what = {"train": "training", "val": "validation"}[place]
    named = ("item 0", "item 4")
    if kind == "loaders":
        sets, named = [DataLoader(each, 2) for each in sets], ("an item", "an item")
    elif kind == "declared":
        pairs = [zip(*each.items, strict=True) for each in sets]
        sets = [TensorDataset(*(torch.tensor(np.stack(both)) for both in each)) for each in pairs]
    for options in ({}, {"classes": 2}):
        with pytest.raises(DataError) as caught:
            load_data(tuple(sets), task=task, **options)
        assert str(caught.value) == (
            f"{named[0]} of the training set holds the label 1 and not 255, but {named[1]} of the {what} set holds only"
            " 0 and 255; write all masks with the same labels"
        )
    mixed.items[1] = mask_items(0, 1, 255).items[0]  # so 255 is ignored
    assert load_data((mixed, ones), task=task).info.labels == 2


def test_a_third_value_after_all_that_were_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(describe_module, "SCANNED", 2)
    items = mask_items(0, 255)
    items.items[5] = mask_items(0, 1, 255).items[0]
    with pytest.raises(DataError, match="item 5 of the training set has the label 1, but the masks looked at before"):
        epoch(DatasetData(items, items))


@pytest.mark.parametrize(
    ("values", "options", "text"),
    [
        (
            range(1, 11),
            {},
            "the class '0' has no training example: the training targets hold 1 (1 images), 2 (1 images",
        ),
        ((0, 2, 0, 2), {}, "the class '1' has no training example: the training targets hold 0 (2 images), 2 (2 im"),
        ((0, 2, 0, 2), {"classes": 5}, "the class '1' has no training example"),
        (
            (0, 0, 0),
            {"classes": 2},
            "only one class, '0', so there is nothing to learn: the training targets hold 0 (3",
        ),
        ((0, 0, 0), {}, "only one class, '0', so there is nothing to learn"),
    ],
)
def test_labels_of_own_sets_are_judged_when_the_first_epoch_ends(values: Any, options: Any, text: str) -> None:
    for data in (
        DatasetData(numbers(*values), numbers(0), **options),
        LoaderData(DataLoader(numbers(*values), 4, shuffle=True), DataLoader(numbers(0)), **options),
    ):
        with pytest.raises(DataError) as caught:
            epoch(data)
        assert text in str(caught.value)


def test_all_classes_that_a_set_names_must_occur() -> None:
    named = numbers(0, 1, 0, 1, classes=["cat", "dog", "cow"])
    with pytest.raises(DataError, match="the class 'cow' has no training example"):
        epoch(DatasetData(named, named))
    epoch(DatasetData(numbers(0, 1), named, classes=3))  # a graph may have more than occur


def test_what_a_batch_leaves_out_is_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(describe_module, "SCANNED", 1)
    rare = numbers(0, 1, 0, 1, 2, classes=["a", "b", "c"])  # one of five images is in no batch of four
    for number in range(8):
        data = DatasetData(rare, rare).first_images(3)
        list(data.train_batches(2, seed=number, epoch=0))
    epoch(LoaderData(DataLoader(rare, sampler=[0, 1, 2, 3]), DataLoader(rare)))
    crop = Crop(size=(2, 2), scale=(1.0, 1.0), flip=False)
    mask = np.zeros((9, 9), np.uint8)
    mask[8, 8] = 1
    items = Items([(image("uint8", 9, 9), mask)] * 2)
    epoch(DatasetData(items, items, augment=crop, classes=2))


GRAPH = """
topolearn: 1
name: tiny
task: {task}
inputs: {{image: [3, 4, 5]}}
nodes:
  head: {{op: {op}, classes: {classes}}}
edges:
  - {{from: image, to: head}}
outputs: [head]
"""


def for_graph(train: Any, classes: int, dense: bool = False, **options: Any) -> Data:
    task, op = ("segmentation", "segmentation_head") if dense else ("classification", "classifier")
    graph = loads(GRAPH.format(task=task, op=op, classes=classes))
    return read_data(graph, (train, train), None, TrainOptions(augment=False, **options))


def test_what_all_targets_tell_is_judged_before_training() -> None:
    text = "the class '0' has no training example: the training targets hold 1 (2 images), 2 (1 images), 3 (1 images)"
    images, targets = torch.zeros(4, 3, 4, 5), torch.tensor([1, 2, 3, 1])
    own = numbers(1, 2, 3, 1)
    for train in (TensorDataset(images, targets), numbers(1, 2, 3, 1, targets=targets.tolist()), own):
        with pytest.raises(DataError) as caught:
            for_graph(train, 4)
        assert text in str(caught.value)
    with pytest.raises(DataError, match="the class '1' has no training example"):
        for_graph(Subset(TensorDataset(images, torch.tensor([0, 1, 2, 2])), [0, 2, 3]), 3)
    with pytest.raises(
        DataError, match=r"the class '1' has no training example: .* hold 0 \(40 pixels\), 2 \(40 pixels"
    ):
        for_graph(TensorDataset(images, torch.tensor([0, 2])[torch.arange(80).view(4, 4, 5) % 2]), 3, dense=True)


def test_targets_count_before_images_are_picked() -> None:
    train = TensorDataset(torch.zeros(12, 3, 4, 5), torch.arange(12) % 3)
    data = for_graph(train, 3, train_images=1)
    assert data.train_size == 1
    list(data.train_batches(1, seed=0, epoch=0))


def test_declared_targets_that_are_not_the_items_own_do_not_count() -> None:
    shifted = numbers(0, 1, 2, targets=[1, 2, 3])
    assert for_graph(shifted, 3).info.classes == ("0", "1", "2")
    transformed = numbers(0, 1, 2, targets=[0, 2, 3], target_transform=abs)
    assert for_graph(transformed, 3).info.classes == ("0", "1", "2")


@pytest.mark.parametrize("kind", ["sets", "targets", "loaders", "rows"])
@pytest.mark.parametrize(
    ("values", "text"),
    [
        ((1, 2, 2, 1), "labels start at 0; yours are 1 to 2: subtract 1"),
        ((7, 5, 6, 7), "labels start at 0; yours are 5 to 7: subtract 5"),
        ((0, 255, 0, 255), "labels are 0 to 1 for 2 classes; yours are 0, 255: number them 0, 1, … without a gap"),
        ((3, 1, 3, 1), "labels are 0 to 1 for 2 classes; yours are 1, 3: number them 0, 1, … without a gap"),
        ((0, 0, -1, 0), "item 2 of the training set has the label -1, but labels start at 0; number the classes 0, 1,"),
    ],
)
def test_labels_that_are_numbered_otherwise(kind: str, values: tuple[int, ...], text: str) -> None:
    targets = torch.tensor(values)
    train: Any = numbers(*values)
    graph = loads(GRAPH.format(task="classification", op="classifier", classes=2))
    if kind == "targets":
        train = TensorDataset(torch.zeros(4, 3, 4, 5), targets)
    elif kind == "loaders":
        train, text = DataLoader(train, 2), text.replace("item 2 of", "an item of")
    elif kind == "rows":
        train = TensorDataset(torch.zeros(4, 3), targets)
        graph = loads(TABLE)
    with pytest.raises(DataError) as caught:
        read_data(graph, (train, train), None, TrainOptions())
    assert str(caught.value).startswith(text)


TABLE = """
topolearn: 1
name: table
inputs: {row: [3]}
nodes:
  head: {op: linear, out_features: 2}
edges:
  - {from: row, to: head}
outputs: [head]
"""


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ((1, 2), "labels start at 0; yours are 1 to 2: subtract 1"),
        ((0, 5, 255), "labels are 0 to 1 for 2 classes; yours are 0, 5: number them 0, 1, … without a gap"),
        ((0, -1), "item 0 of the training set has the label -1, but labels start at 0; number the classes 0, 1, …, or "
         "write 255 for pixels to ignore"),
    ],
)  # fmt: skip
def test_masks_that_are_numbered_otherwise(values: tuple[int, ...], text: str) -> None:
    masks = torch.tensor(np.resize(np.array(values), (4, 4, 5)))
    for declared in (True, False):
        items: Any = TensorDataset(torch.zeros(4, 3, 4, 5), masks)
        with pytest.raises(DataError) as caught:
            for_graph(items if declared else Items(list(items)), 2, dense=True)
        assert str(caught.value) == text


def test_numbers_with_another_fault_are_not_blamed() -> None:
    def own(*values: int) -> TensorDataset:
        return TensorDataset(torch.zeros(3, 3, 4, 5), torch.tensor(values))

    assert for_graph(own(0, 1, 1), 2).info.classes == ("0", "1")
    for values, missing in (((1, 2, 2), "class '0' has"), ((3, 3, 3), "classes '0', '1', '2' have")):
        with pytest.raises(DataError, match=f"^the {missing} no training example"):
            for_graph(own(*values), 4)


def test_a_negative_label_in_validation_is_named() -> None:
    negative = TensorDataset(torch.zeros(3, 3, 4, 5), torch.tensor([0, 1, -1]))
    data = DatasetData(TensorDataset(*negative[:2]), negative)
    with pytest.raises(DataError, match="item 2 of the validation set has the label -1, but labels start at 0"):
        list(data.val_batches(4))
