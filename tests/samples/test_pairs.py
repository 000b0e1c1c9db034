"""A user's own Datasets and DataLoaders."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, IterableDataset, Subset, TensorDataset, get_worker_info

from tests.data.scenes import picture_of_16_bits
from tests.data.toys import Endless, Items, Noisy, global_state, image, same
from topolearn.data import Augment, DataInfo, DatasetData, LoaderData, load_data
from topolearn.errors import DataError


@pytest.mark.parametrize("kind", ["pil", "array", "uint8", "float"])
def test_all_kinds_of_images_are_the_same_pixels(kind: str) -> None:
    data = DatasetData(*(Items([(image(kind), 0), (image(kind), 2)]) for _ in range(2)))
    (images, targets), *_ = data.val_batches(2)
    torch.testing.assert_close(images[1], image("float"))
    assert targets.tolist() == [0, 2]
    assert data.info == DataInfo("Items", "classification", ("0", "1", "2"), (3, 4, 5), (0.0,) * 3, (1.0,) * 3)


def test_grey_images_and_masks() -> None:
    mask = np.array([[0, 1, 2, 255, 255]] * 4, np.uint8)
    for target in (mask, torch.from_numpy(mask), torch.from_numpy(mask).long(), Image.fromarray(mask)):
        pair = Items([(image("grey"), target)])
        data = DatasetData(pair, pair)
        (images, targets), *_ = data.train_batches(1, seed=0, epoch=0)
        assert images.shape == (1, 1, 4, 5)
        assert targets.dtype == torch.int64
        assert targets[0].tolist() == mask.tolist()
        assert (data.info.task, data.info.classes, data.info.ignore_index) == ("segmentation", ("0", "1", "2"), 255)


@pytest.mark.parametrize("keys", [("image", "label"), ("img", "labels"), ("pixel_values", "target"), ("image", "mask")])
@pytest.mark.parametrize("loaders", [False, True])
def test_items_that_are_dicts(keys: tuple[str, str], loaders: bool) -> None:
    labels = [2, 0, 1]
    items = Items([{keys[0]: image("float") + label, "path": "x", keys[1]: label} for label in labels])
    if loaders:
        data: DatasetData | LoaderData = LoaderData(*(DataLoader(items, batch_size=3) for _ in range(2)))
    else:
        data = DatasetData(items, items)
    ((images, targets),) = data.val_batches(3)
    assert targets.tolist() == labels
    assert torch.equal(images, torch.stack([image("float") + label for label in labels]))


@pytest.mark.parametrize(
    ("item", "keys"),
    [
        ({}, "none"),
        ({"x": image("float"), "y": 0}, "'x', 'y'"),
        (
            {"image": image("float"), "label": 0, "mask": torch.zeros(4, 5, dtype=torch.uint8)},
            "'image', 'label', 'mask'",
        ),
    ],
)
def test_dicts_that_are_no_items(item: Any, keys: str) -> None:
    text = (
        f"is a dict with the keys {keys}, but needs just one of 'image', 'img', 'pixel_values' and one of 'label',"
        " 'labels', 'target', 'mask'; or give pairs (image, target)"
    )
    with pytest.raises(DataError) as caught:
        DatasetData(Items([item]), Items([item]))
    assert str(caught.value) == f"item 0 of the training set {text}"
    with pytest.raises(DataError) as caught:
        LoaderData(DataLoader(Items([item])), DataLoader(Items([item])))
    assert str(caught.value) == f"a batch of the training loader {text}"


def test_numbers_as_targets_are_regression() -> None:
    pair = Items([(image("float"), 0.5), (image("float"), np.float64(1.5))])
    data = DatasetData(pair, pair)
    (_, targets), *_ = data.val_batches(2)
    assert (data.info.task, data.info.classes, targets.dtype) == ("regression", (), torch.float32)


def test_where_the_classes_come_from() -> None:
    items = [(image("float"), label) for label in (0, 3, 1)]

    def classes(dataset: Any, count: int | None = None) -> tuple[str, ...]:
        return DatasetData(dataset, dataset, classes=count).info.classes

    assert classes(Items(items)) == tuple("0123")
    assert classes(Items(items), 6) == tuple("012345")
    assert classes(Items(items, classes=["a", "b", "c", "d"])) == tuple("abcd")
    assert classes(Items(items, classes=["a", "b", "c", "d"]), 5) == tuple("01234")
    assert classes(Items(items, targets=[0, 3, 4])) == tuple("01234")
    assert classes(Items(items, targets=["cat"])) == tuple("0123")
    assert classes(Subset(Items(items, classes=["a", "b", "c", "d"]), [0, 1])) == tuple("abcd")
    tensors = TensorDataset(torch.zeros(3, 1, 2, 2), torch.tensor([0, 299, 1]))
    assert len(classes(tensors)) == 300


def test_few_items_of_a_long_dataset_are_looked_at() -> None:
    class Counting(Items):
        seen = 0

        def __getitem__(self, index: int) -> Any:
            Counting.seen += 1
            return image("float"), index * 10 // len(self)

        def __len__(self) -> int:
            return 50_000

    data = DatasetData(Counting([]), Items([(image("float"), 0)]))
    assert len(data.info.classes) == 10
    assert Counting.seen <= 2001


def test_augmentation_after_a_user_s_transforms() -> None:
    items = Items([(image("uint8"), index) for index in range(4)])
    plain, augmented = DatasetData(items, items), DatasetData(items, items, augment=Augment(pad=2))
    (first, *_), (second, *_) = plain.train_batches(4, seed=0, epoch=0), augmented.train_batches(4, seed=0, epoch=0)
    assert torch.equal(first[1], second[1])
    assert not torch.equal(first[0], second[0])


def test_datasets_that_do_not_fit() -> None:
    good = Items([(image("float"), 0)] * 3)

    def message(train: Any, val: Any = good, **options: Any) -> str:
        with pytest.raises(DataError) as caught:
            list(DatasetData(train, val, **options).train_batches(8, seed=0, epoch=0))
        assert "\n" not in str(caught.value)
        return str(caught.value)

    pair = "item 0 of the training set is a"
    assert message(Items([])) == "the training set is empty"
    assert message(good, Items([])) == "the validation set is empty"
    assert message(Items([image("float")])) == f"{pair} Tensor, but must be a pair (image, target)"
    assert message(Items([(image("float"), 0, 1)])) == f"{pair} tuple of 3, but must be a pair (image, target)"
    assert "the image of item 0 of the training set is a str, but must be a float tensor (C, H, W)" in message(
        Items([("a.png", 0)])
    )
    assert "is a Tensor (4, 5) of torch.float32, but" in message(Items([(torch.zeros(4, 5), 0)]))
    assert "the target of item 0 of the training set is a str, but must be a number" in message(
        Items([(image("float"), "cat")])
    )
    assert "without length or items by number; wrap both sets in DataLoaders" in message(Endless())
    assert "the training set has images of different sizes or types, 3x4x5 and 3x4x6; resize them" in message(
        Items([(image("float"), 0), (image("float", 4, 6), 0)])
    )
    assert "of different sizes or types, float32 and uint8" in message(
        Items([(image("float"), 0), (image("uint8"), 0)])
    )
    assert "the validation set has images of 3x9x5, but the first is 3x4x5; resize them in its transform" in message(
        good, Items([(image("float", 9), 0)])
    )
    assert "has the label 3, but there are 2 classes (0 to 1); correct the labels, or give the number" in message(
        Items([(image("float"), 3)]), classes=2
    )
    assert "classification needs one whole number per image" in message(
        Items([(image("float"), 0.5)]), task="classification"
    )
    assert "segmentation needs masks (H, W) = (4, 5) of labels, but the target is ()" in message(
        good, task="segmentation"
    )
    assert "the targets are (2,); they must be one number or one mask" in message(
        Items([(image("float"), torch.tensor([1, 2]))])
    )
    assert "the targets hold no label" in message(Items([(image("float"), torch.full((4, 5), 255, dtype=torch.uint8))]))
    declared = TensorDataset(torch.rand(2, 3, 4, 5), torch.full((2, 4, 5), 255))
    assert "the targets hold no label" in message(declared)


@pytest.mark.parametrize(
    ("target", "task", "text"),
    [
        (2.0, "classification", "per image; use targets.long()"),
        ([2], "classification", "per image; use targets[:, 0]"),
        ([2.0], "classification", "per image; use targets[:, 0].long()"),
        ([2], None, "one mask (H, W) per image; use targets[:, 0]"),
        ([0.0, 1.0, 0.0], "classification", "per image; use targets.argmax(1)"),
        ([[1] * 5] * 4, "classification", "for masks, write 'task: segmentation' into the graph"),
        ([0.2, 0.8], "classification", "give labels as whole numbers, not scaled, or write a task of your own"),
        ([[2.0] * 5] * 4, "segmentation", "per pixel; use targets.long()"),
        ([[[2] * 5] * 4], "segmentation", "per pixel; use targets[:, 0]"),
        ([[[2.0] * 5] * 4], "saliency", "per pixel; use targets[:, 0].long()"),
        ([[[0.2] * 5] * 4], "segmentation", "give labels as whole numbers, not scaled, or write a task of your own"),
        (1, "segmentation", "for one label per image, write 'task: classification' into the graph"),
    ],
)
def test_targets_that_are_no_labels_say_what_to_do(target: Any, task: str | None, text: str) -> None:
    items = Items([(image("float"), torch.tensor(target))])
    for data in ((items, items), (DataLoader(items), DataLoader(items))):
        with pytest.raises(DataError) as caught:
            load_data(data, task=task)
        assert text in str(caught.value)


def test_sizes_that_differ_from_batch_to_batch() -> None:
    data = DatasetData(Items([(image("float"), 0), (image("float", 9), 0)]), Items([(image("float"), 0)]))
    with pytest.raises(DataError, match="the training set has images of 3x9x5, but the first is 3x4x5"):
        list(data.train_batches(1, seed=0, epoch=0))


def test_more_than_eight_bits_are_not_cut_off() -> None:
    items = Items([(Image.fromarray(np.full((4, 5), 1000, np.uint16)), 0)])
    with pytest.raises(DataError, match="the image of item 0 of the training set is a PIL image of mode I;16"):
        DatasetData(items, items)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_colours_of_more_than_eight_bits_are_not_cut_off(tmp_path: Path, channels: int) -> None:
    with Image.open(picture_of_16_bits(tmp_path / "deep.png", channels)) as deep:
        items = Items([(deep, 0)])
        text = f"the image of item 0 of the training set is a PIL image of mode {deep.mode}, of more than 8 bits per ch"
        with pytest.raises(DataError, match=text):
            DatasetData(items, items)


def test_pil_images_of_every_mode_take_the_channels_that_are_asked_for() -> None:
    items = Items([(image("grey"), 0), (image("pil"), 1), (image("pil").convert("RGBA"), 1), (image("pil"), 0)])
    for channels, mode, note in (
        (3, "RGB", "3 of 5 PIL images that were looked at are converted to RGB (2 L, 1 RGBA), transparency is dropped"),
        (1, "L", "3 of 5 PIL images that were looked at are converted to L (2 RGB, 1 RGBA), transparency is dropped"),
    ):
        data = DatasetData(items, items, channels=channels)
        assert data.info.size == (channels, 4, 5)
        assert data.notes == (note,)
        ((images, _),) = data.val_batches(4)
        expected = [np.asarray(each.convert(mode)).reshape(4, 5, channels).tolist() for each, _ in items.items]
        assert (255 * images).round().permute(0, 2, 3, 1).tolist() == expected
        assert data.first_images(3).train_size == len(next(data.first_images(3).train_batches(3, seed=0, epoch=0))[1])


def test_an_error_in_a_worker_is_one_line() -> None:
    bad = Items([(image("float"), 0)] * 3 + [(image("float", 9), 0)])
    with pytest.raises(DataError, match=r"^the training set has images of different sizes[^\n]*$"):
        list(DatasetData(bad, bad, workers=1).train_batches(4, seed=0, epoch=0))


def of_form(shape: tuple[int, ...] = (3, 4, 5), dtype: torch.dtype = torch.float32, target: Any = 1) -> Items:
    return Items([(torch.ones(shape, dtype=dtype), torch.as_tensor(target))] * 4)


OTHER_FORMS = [
    (of_form((1, 4, 5)), "has images of 1 channel, but the training set starts with images of 3 channels; give all in"),
    (
        of_form(dtype=torch.uint8),
        "has uint8 images, which are scaled to [0, 1], but the training set starts with float images, which are used",
    ),
    (
        of_form(target=0.5),
        "has targets that are floats, one per image, but the training set starts with targets that are whole numbers,",
    ),
    (
        of_form(target=torch.zeros(4, 5, dtype=torch.int64)),
        "has targets that are whole numbers, in masks (H, W), but the training set starts with targets that are whole",
    ),
]


@pytest.mark.parametrize("loaders", [False, True])
@pytest.mark.parametrize(("other", "text"), OTHER_FORMS)
def test_validation_is_held_to_the_form_of_the_training_set_before_training(
    other: Items, text: str, loaders: bool
) -> None:
    def load(train: Items, val: Items) -> DatasetData | LoaderData:
        if loaders:
            return LoaderData(DataLoader(train, batch_size=2), DataLoader(val, batch_size=2))
        return DatasetData(train, val)

    good = of_form()
    assert load(good, good).val_size == 4
    with pytest.raises(DataError) as caught:
        load(good, other)
    assert str(caught.value).startswith(f"the validation {'loader' if loaders else 'set'} {text}")


@pytest.mark.parametrize("loaders", [False, True])
@pytest.mark.parametrize(("other", "text"), OTHER_FORMS)
def test_every_batch_is_held_to_the_form_of_the_first_item(other: Items, text: str, loaders: bool) -> None:
    mixed = Items([*of_form().items, *other.items])
    if loaders:
        data: DatasetData | LoaderData = LoaderData(DataLoader(mixed), DataLoader(mixed))
    else:
        data = DatasetData(mixed, mixed)
    for batches in (data.train_batches(1, seed=0, epoch=0), data.val_batches(1)):
        with pytest.raises(DataError) as caught:
            list(batches)
        assert text in str(caught.value)


def test_a_loader_without_batches_is_named() -> None:
    class Empty(Endless):
        def __len__(self) -> int:
            return 5

        def __iter__(self) -> Iterator[Any]:
            return iter([])

    good, empty = DataLoader(of_form()), DataLoader(Empty())
    for pair, name in (((empty, good), "training"), ((good, empty), "validation")):
        with pytest.raises(DataError, match=f"^the {name} loader ended after 0 of the 5 batches"):
            LoaderData(*pair)


def loaders(**options: Any) -> LoaderData:
    return LoaderData(DataLoader(Noisy(13), batch_size=4, shuffle=True, **options), DataLoader(Noisy(5), batch_size=2))


@pytest.mark.parametrize("generator", [False, True])
def test_an_epoch_of_a_loader_can_be_had_again(generator: bool) -> None:
    options = [{"generator": torch.Generator().manual_seed(seed)} if generator else {} for seed in (1, 2)]
    first = loaders(**options[0])
    list(first.train_batches(1, seed=0, epoch=0))
    whole = list(first.train_batches(1, seed=0, epoch=1))
    before = global_state()
    again = []
    for batch in loaders(**options[1]).train_batches(1, seed=0, epoch=1):
        again.append(batch)
        assert global_state() == before
        torch.rand(3)  # what training draws in between
        before = global_state()
    assert same(again, whole)
    assert not same(list(first.train_batches(1, seed=0, epoch=2)), whole)
    assert [len(x) for x, _ in whole] == [4, 4, 4, 1]
    assert (first.steps(99), first.train_size, first.val_size, first.mid_epoch_resume) == (4, 13, 5, False)
    assert first.info.classes == ("0", "1", "2")


def test_a_look_at_a_loader_leaves_no_trace() -> None:
    generator = torch.Generator().manual_seed(1)
    states = generator.get_state(), global_state()
    data = loaders(generator=generator)
    LoaderData(DataLoader(Noisy(4)), DataLoader(Noisy(4), shuffle=True, generator=generator))
    assert torch.equal(generator.get_state(), states[0])
    assert same(list(data.val_batches(2)), list(data.val_batches(2)))
    assert global_state() == states[1]


def test_a_sampler_is_told_the_epoch() -> None:
    class Sampler(list[int]):
        def set_epoch(self, epoch: int) -> None:
            self.epoch = epoch

    sampler = Sampler(range(4))
    data = LoaderData(DataLoader(Noisy(4), sampler=sampler), DataLoader(Noisy(4)))
    data.train_batches(1, seed=0, epoch=7)
    assert sampler.epoch == 7


def test_channels_last_beside_a_mask() -> None:
    item = (torch.zeros(8, 6, 3), torch.zeros(8, 6, dtype=torch.uint8))
    for data in (Items([item]), DataLoader(Items([item]))):
        source = LoaderData if isinstance(data, DataLoader) else DatasetData
        with pytest.raises(DataError, match=r"is \(8, 6, 3\), but channels come first, as in \(3, 8, 6\); give"):
            source(data, data)


def test_loaders_that_do_not_fit() -> None:
    def message(dataset: Any, **options: Any) -> str:
        with pytest.raises(DataError) as caught:
            list(LoaderData(DataLoader(dataset, **options), DataLoader(Noisy(4))).train_batches(1, seed=0, epoch=0))
        return str(caught.value)

    assert "the training loader has no length" in message(Endless())
    assert "the training loader is empty" in message(Items([]))
    assert "the training loader gives a Tensor, but must give pairs of tensors" in message(Items([image("float")]))
    assert "gives images (1, 2, 3) of torch.float32" in message(TensorDataset(torch.zeros(4, 2, 3), torch.zeros(4)))
    assert "the training loader has the label 7, but there are 3 classes" in message(
        Items([(image("float"), 7)], classes=["a", "b", "c"])
    )
    with pytest.raises(DataError, match="at the beginning of an epoch, not at step 2; give the Datasets instead"):
        loaders().train_batches(4, seed=0, epoch=0, first=2)


class Stream(IterableDataset[Any]):
    """Says how many items it has, and gives as many as it is told to in each pass."""

    classes = ("a", "b")

    def __init__(self, said: int, *given: int) -> None:
        self.said, self.given = said, list(given)

    def __len__(self) -> int:
        return self.said

    def __iter__(self) -> Iterator[Any]:
        count = self.given.pop(0) if len(self.given) > 1 else self.given[0]
        worker = get_worker_info()
        numbers = range(count) if worker is None else range(worker.id, count, worker.num_workers)
        return iter([(image("float"), number % 2) for number in numbers])


class Stopped(Items):
    """Lets a StopIteration out at item 2."""

    def __getitem__(self, index: int) -> Any:
        if index == 2:
            raise StopIteration
        return super().__getitem__(index)


class TestPromises:
    """What a set's length promises, and what a pass over it gives."""

    GOOD = DataLoader(Items([(image("float"), 0)] * 4, classes=["a", "b"]), 2)

    def passed(self, loader: DataLoader[Any], what: str = "train") -> int:
        data = LoaderData(*((loader, self.GOOD) if what == "train" else (self.GOOD, loader)))
        batches = data.train_batches(1, seed=0, epoch=0) if what == "train" else data.val_batches(1)
        return sum(len(images) for images, _ in batches)

    @pytest.mark.parametrize(("given", "batches"), [((2, 0), 0), ((8, 5), 3), ((8, 4), 2)])
    def test_a_pass_that_ends_early(self, given: tuple[int, ...], batches: int) -> None:
        with pytest.raises(
            DataError, match=f"^the training loader ended after {batches} of the 4 batches that its len"
        ):
            self.passed(DataLoader(Stream(8, *given), 2))

    def test_a_loader_that_gives_nothing(self) -> None:
        for what, words in (("train", "the training loader ended after 0 of"), ("val", "the validation loader ended")):
            with pytest.raises(DataError, match=words):
                self.passed(DataLoader(Stream(8, 0), 2), what)

    @pytest.mark.parametrize("workers", [0, 1])
    def test_an_item_that_raises_stop_iteration(self, workers: int) -> None:
        items = Stopped([(image("float"), 0)] * 6, classes=["a", "b"])
        with pytest.raises(DataError, match="the training loader ended after 1 of the 3 batches"):
            self.passed(DataLoader(items, 2, num_workers=workers))
        data = DatasetData(items, items, workers=workers)
        for batches in (data.train_batches(2, seed=0, epoch=0), data.val_batches(2)):
            with pytest.raises(
                DataError, match=r"^item 2 of the \w+ set raises StopIteration, but .* length of 6; let"
            ):
                list(batches)

    def test_a_batch_of_none_is_no_end(self) -> None:
        with pytest.raises(DataError, match="the validation loader gives a NoneType, but must give pairs"):
            self.passed(DataLoader(Stream(8, 8), 2, collate_fn=lambda items: None), "val")

    def test_passes_that_are_complete(self) -> None:
        assert self.passed(DataLoader(Stream(8, 8), 2)) == 8
        assert self.passed(DataLoader(Stream(8, 8), 3, drop_last=True)) == 6
        # Each of two workers has four of eight, and drops one.
        assert self.passed(DataLoader(Stream(8, 8), 3, drop_last=True, num_workers=2)) == 6
        # Five of ten are one batch of three, so there are two of the three that ten would make.
        assert self.passed(DataLoader(Stream(10, 10), 3, drop_last=True, num_workers=2)) == 6
