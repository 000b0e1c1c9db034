"""Batches are a function of (seed, epoch, step); augmentation; what `load_data` takes."""

from __future__ import annotations

import random
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from tests.data.toys import Noisy, fails, global_state, info, noisy, same, toy
from topolearn.data import Augment, DatasetData, LoaderData, TensorData, load_data
from topolearn.errors import DataError

SOURCES = {
    "tensors": lambda: toy(Augment(pad=2, flip=True)),
    "masks": lambda: toy(Augment(pad=2, flip=True, fill="reflect"), task="segmentation"),
    "dataset": noisy,
    "workers": lambda: noisy(workers=2),
}


@pytest.fixture(params=SOURCES)
def fresh(request: pytest.FixtureRequest) -> Iterator[Any]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "This DataLoader will create")  # on a machine of one core
        yield SOURCES[request.param]


def test_an_epoch_entered_in_the_middle_gives_its_tail(fresh: Any) -> None:
    whole = list(fresh().train_batches(4, seed=3, epoch=1))
    assert len(whole) == fresh().steps(4) == fresh().train_size // 4
    random.seed(9)
    np.random.seed(9)
    torch.manual_seed(9)
    other = fresh()
    assert other.mid_epoch_resume
    for first in (1, len(whole) - 1, len(whole)):
        assert same(list(other.train_batches(4, seed=3, epoch=1, first=first)), whole[first:])


def test_seeds_and_epochs_differ(fresh: Any) -> None:
    data = fresh()
    whole = list(data.train_batches(4, seed=3, epoch=1))
    assert not same(list(data.train_batches(4, seed=3, epoch=2)), whole)
    assert not same(list(data.train_batches(4, seed=4, epoch=1)), whole)


def test_global_generators_are_left_alone(fresh: Any) -> None:
    before = global_state()
    data = fresh()
    list(data.train_batches(4, seed=3, epoch=1))
    list(data.val_batches(4))
    assert global_state() == before


def test_workers_change_nothing(fresh: Any) -> None:
    assert same(list(noisy(2).train_batches(4, seed=0, epoch=0)), list(noisy(0).train_batches(4, seed=0, epoch=0)))
    assert same(list(noisy(2).val_batches(4)), list(noisy(0).val_batches(4)))


def test_every_image_comes_at_most_once_in_full_batches() -> None:
    data = toy()
    batches = list(data.train_batches(4, seed=0, epoch=0))
    seen = torch.cat([x[:, 0, 0, 0] for x, _ in batches])
    assert [len(x) for x, _ in batches] == [4] * 5  # of 22 images, 2 fill no batch
    assert len(seen.unique()) == 20
    assert data.steps(22) == 1
    assert data.steps(23) == 1
    assert [len(x) for x, _ in data.train_batches(30, seed=0, epoch=0)] == [22]


def test_validation_is_in_order_and_normalised() -> None:
    data = toy(Augment(pad=2, flip=True))
    images = torch.cat([x for x, _ in data.val_batches(3)])
    targets = torch.cat([y for _, y in data.val_batches(3)])
    raw = data._val[0].double() / 255
    expected = (raw - torch.tensor([0.5, 0.4, 0.3]).view(3, 1, 1)) / 0.2
    assert images.dtype == torch.float32
    torch.testing.assert_close(images.double(), expected, rtol=0, atol=1e-5)
    assert targets.tolist() == [0, 1, 2, 3, 0, 1, 2]
    assert data.val_size == 7


@pytest.mark.parametrize("make", [toy, noisy])
def test_the_first_images_are_a_fixed_part_of_the_training_set(make: Any) -> None:
    whole, part = make(), make().first_images(9)

    def seen(data: Any, seed: int) -> set[float]:
        return {float(image.sum()) for x, _ in data.train_batches(1, seed=seed, epoch=0) for image in x}

    assert part.train_size == part.steps(1) == 9
    assert part.val_size == whole.val_size
    if make is toy:  # the other draws anew
        assert seen(part, 0) == seen(part, 1)
        assert len(seen(part, 0)) == 9
        assert seen(part, 0) < seen(whole, 0)
    with pytest.raises(DataError, match="training images, not 1,000,000; set 'train_images' to less"):
        whole.first_images(1_000_000)


def test_images_cannot_be_picked_from_a_loader() -> None:
    with pytest.raises(DataError, match=r"give it a torch\.utils\.data\.Subset instead"):
        LoaderData(DataLoader(Noisy(4)), DataLoader(Noisy(4))).first_images(2)


def test_scale_is_the_pixel_value_of_one() -> None:
    pixels = torch.tensor([0, 8, 16], dtype=torch.uint8).view(3, 1, 1, 1)
    split = (pixels, torch.zeros(3, dtype=torch.int64))
    data = TensorData(info((1, 1, 1), mean=(0.0,), std=(1.0,)), split, split, scale=16)
    (images, _), *_ = data.val_batches(3)
    assert images.flatten().tolist() == [0, 0.5, 1]


def test_to_moves_a_copy() -> None:
    for data in (toy(), noisy(), LoaderData(DataLoader(Noisy(4)), DataLoader(Noisy(4)))):
        other = data.to("meta")
        assert type(other) is type(data)
        assert other.info == data.info
        assert next(data.val_batches(2))[0].device.type == "cpu"
    assert next(toy().to("meta").val_batches(2))[0].device.type == "meta"


def crop_slowly(image: Tensor, row: int, column: int, flip: bool, augment: Augment, border: int) -> Tensor:
    """One image (C, H, W), as numpy pads it."""
    pad, (_, height, width) = augment.pad, image.shape
    widths = ((0, 0), (pad, pad), (pad, pad))
    if augment.fill == "reflect":
        padded = np.pad(image.numpy(), widths, mode="reflect")
    else:
        padded = np.pad(image.numpy(), widths, constant_values=border)
    result = padded[:, row : row + height, column : column + width]
    return torch.from_numpy((result[:, :, ::-1] if flip else result).copy())


@pytest.mark.parametrize("fill", ["zero", "reflect"])
@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("pad", [0, 1, 5])
@pytest.mark.parametrize("channels", [1, 3])
def test_augmentation_is_crop_and_flip_of_each_image(pad: int, flip: bool, fill: Any, channels: int) -> None:
    augment = Augment(pad=pad, flip=flip, fill=fill)
    images = torch.randint(0, 256, (200, channels, 9, 7), dtype=torch.uint8)
    draws = augment.draw(len(images), torch.Generator().manual_seed(0))
    for border in (0, 255):
        result = augment.apply(images, draws, border)
        expected = [
            crop_slowly(image, row, column, bool(flipped), augment, border)
            for image, (row, column, flipped) in zip(images, draws.T.tolist(), strict=True)
        ]
        assert torch.equal(result, torch.stack(expected))
    for offset in draws[:2]:
        assert offset.unique().tolist() == list(range(2 * pad + 1))
    assert 0.3 < draws[2].float().mean() < 0.7 if flip else not draws[2].any()


def test_masks_go_with_their_images() -> None:
    images = torch.randint(0, 4, (9, 1, 8, 8), dtype=torch.uint8)
    split = (images, images[:, 0])
    toy_info = info((1, 8, 8), "segmentation", mean=(0.0,), std=(1.0,), ignore_index=255)
    data = TensorData(toy_info, split, split, augment=Augment(pad=3, flip=True), scale=1)
    for x, y in data.train_batches(9, seed=0, epoch=0):
        border = y == 255
        assert 0 < border.sum() < y.numel()
        assert not x[:, 0][border].any()
        assert torch.equal(x[:, 0][~border].long(), y[~border])


def test_augmentation_that_does_not_fit() -> None:
    with pytest.raises(DataError, match=r"'pad: 6' with 'fill: reflect' needs images larger than 6 pixels, but .* 8x6"):
        toy(Augment(pad=6, fill="reflect"))
    with pytest.raises(DataError, match=r"'pad: 1' leaves a border without a label.*use 'fill: reflect'"):
        toy(Augment(pad=1), task="segmentation")
    toy(Augment(pad=1), task="segmentation", ignore_index=255)


def test_tensors_that_do_not_fit() -> None:
    images, targets = torch.zeros(4, 3, 8, 6, dtype=torch.uint8), torch.zeros(4, dtype=torch.int64)
    good = (images, targets)
    with pytest.raises(DataError, match="the training set of 'toy' is empty"):
        TensorData(info(), (images[:0], targets[:0]), good)
    with pytest.raises(DataError, match=r"the validation set of 'toy' has images \(4, 3, 8, 6\) of torch.float32"):
        TensorData(info(), good, (images.float(), targets))
    with pytest.raises(DataError, match=r"images \(4, 3, 8, 5\).*needs \(N, C, H, W\) = \(N, 3, 8, 6\)"):
        TensorData(info(), good, (images[..., :5], targets))
    with pytest.raises(DataError, match=r"targets \(3,\) of torch.int64, but needs \(4,\)"):
        TensorData(info(), (images, targets[:3]), good)
    with pytest.raises(DataError, match=r"needs \(4, 8, 6\) of torch.uint8 for segmentation"):
        TensorData(info(task="segmentation"), good, good)


def test_what_data_may_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TOPOLEARN_DATA", raising=False)
    data = toy()
    assert load_data(data) is data
    assert isinstance(load_data((Noisy(4), Noisy(4))), DatasetData)
    assert isinstance(load_data((DataLoader(Noisy(4)), DataLoader(Noisy(4))), classes=5), LoaderData)
    fails(data, "'toy' is for classification, but the task is segmentation", task="segmentation")
    fails("digits", "'digits' is for classification, but the task is segmentation", task="segmentation")
    fails("digits", "'val_split' is for folders", val_split="test")
    fails("cifar1000", "there is no data set 'cifar1000', and no such folder in '.', 'data', ")
    (tmp_path / "photos").mkdir()
    fails("phtos", "'; did you mean 'photos'?", root=tmp_path)
    with pytest.raises(DataError) as caught:
        load_data("zzz", root=tmp_path)
    assert "photos" not in str(caught.value)
    fails("cifar1000", "; did you mean 'cifar10")
    fails("sets/mine", f"there is no folder '{Path('sets/mine').absolute()}'")
    fails(3, "data is a int, but must be a name, a folder, or a pair (train, val)")
    fails((Noisy(4), DataLoader(Noisy(4))), "a pair of a Dataset and a DataLoader; give two Datasets or")
    fails((DataLoader(Noisy(4)), DataLoader(Noisy(4))), "'augment' does not work with DataLoaders", augment=Augment())
