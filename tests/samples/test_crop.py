"""Random scale, crop and flip: against slow formulas, and the same again for the same seed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor
from torch.nn import functional as F

from tests.data.scenes import folder
from tests.data.toys import Items, info, same
from topolearn.data import Crop, Data, DatasetData, TensorData, load_data
from topolearn.data import reading as reading_module
from topolearn.errors import DataError

UNIT = 2**24


def pixels(*shape: int) -> Tensor:
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def draw(factor: float, row: float, column: float, flip: int = 0) -> Tensor:
    """Draws of one image, each a share of what is possible."""
    return torch.tensor([[int(share * UNIT)] for share in (factor, row, column)] + [[flip]])


@pytest.mark.parametrize("flip", [0, 1])
def test_without_scaling_a_crop_is_a_part_of_the_image(flip: int) -> None:
    images, crop = pixels(1, 3, 9, 11), Crop(size=(4, 5), scale=(1.0, 1.0))
    draws = draw(0, 0.5, 0.5, flip)  # of 6 rows the third, of 7 columns the third
    expected = images[..., 3:7, 3:8]
    expected = expected.flip(-1) if flip else expected
    assert torch.equal(crop.images(images, draws, torch.zeros(3)), expected)
    assert torch.equal(crop.masks(images[:, 0], draws, 255), expected[:, 0])


@pytest.mark.parametrize(("factor", "size"), [(0.5, (6, 9)), (2.0, (24, 36)), (1.5, (18, 27))])
def test_scaling_is_bilinear_for_images_and_nearest_for_masks(factor: float, size: tuple[int, int]) -> None:
    images, draws = pixels(2, 3, 12, 18), draw(0, 0, 0).expand(-1, 2)
    crop = Crop(size=size, scale=(factor, factor))
    expected = F.interpolate(images.float(), size=size, mode="bilinear", align_corners=False)
    result = crop.images(images, draws, torch.zeros(3))
    assert result.dtype == torch.uint8
    torch.testing.assert_close(result.float(), expected, rtol=0, atol=0.51)  # rounding
    torch.testing.assert_close(crop.images(images.float(), draws, torch.zeros(3)), expected, rtol=0, atol=1e-3)
    nearest = F.interpolate(images.float(), size=size, mode="nearest-exact")
    assert torch.equal(crop.masks(images[:, 0], draws, 255), nearest[:, 0].to(torch.uint8))


def test_around_a_small_image_there_are_the_mean_and_the_ignored_label() -> None:
    images, crop = pixels(1, 3, 4, 6), Crop(size=(8, 8), scale=(1.0, 1.0))
    draws = draw(0, 0.999, 0)  # at the bottom, on the left
    result = crop.images(images, draws, torch.tensor([7.0, 8.0, 9.0]))
    assert torch.equal(result[:, :, 4:, :6], images)
    assert result[0, :, 0, 0].tolist() == result[0, :, 7, 7].tolist() == [7, 8, 9]
    labels = crop.masks(images[:, 0] % 3, draws, 255)
    assert torch.equal(labels[:, 4:, :6], images[:, 0] % 3)
    assert bool((labels[:, :4] == 255).all())
    assert bool((labels[..., 6:] == 255).all())


def test_draws_cover_the_range() -> None:
    crop = Crop(size=(2, 2), scale=(0.5, 2.0))
    draws = crop.draw(4000, torch.Generator().manual_seed(0))
    assert draws.shape == (4, 4000)
    for part in draws[:3]:
        assert part.min() < 0.01 * UNIT
        assert part.max() > 0.99 * UNIT
    assert 0.45 < draws[3].float().mean() < 0.55
    assert not Crop(size=(2, 2), flip=False).draw(50, torch.Generator())[3].any()


@pytest.mark.parametrize("settings", [{"size": (0, 2)}, {"size": (2, 2), "scale": (2.0, 1.0)}, {"size": 3}])
def test_what_a_crop_cannot_be(settings: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Crop(**settings)  # type: ignore[arg-type]


def test_masks_need_a_label_to_ignore() -> None:
    split = pixels(2, 3, 8, 6), pixels(2, 8, 6) % 4
    with pytest.raises(DataError, match="a crop can leave a border without a label, and 'toy' has no label to ignore"):
        TensorData(info(task="segmentation"), split, split, augment=Crop(size=(4, 4)))


@pytest.fixture(params=["in memory", "read", "other sizes"])
def fresh(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Data:
    """One set in three kinds."""
    sizes = ((12, 16), (10, 20)) if request.param == "other sizes" else ((12, 16),)
    if request.param == "read":
        monkeypatch.setattr(reading_module, "IN_MEMORY", 100)
    data = load_data(folder(tmp_path / "scenes", 7, 3, sizes), augment=Crop(size=(8, 8)))
    assert isinstance(data, TensorData if request.param == "in memory" else DatasetData)
    return data


def test_batches_are_a_function_of_seed_epoch_and_step(fresh: Data) -> None:
    whole = list(fresh.train_batches(2, seed=3, epoch=1))
    assert [(tuple(x.shape), tuple(y.shape)) for x, y in whole] == [((2, 3, 8, 8), (2, 8, 8))] * 3
    assert same(list(fresh.train_batches(2, seed=3, epoch=1, first=1)), whole[1:])
    assert not same(list(fresh.train_batches(2, seed=3, epoch=2)), whole)
    assert not same(list(fresh.train_batches(2, seed=4, epoch=1)), whole)
    halves = [list(fresh.part(rank, 2).train_batches(2, seed=3, epoch=1)) for rank in (0, 1)]
    assert same([(torch.cat([x, v]), torch.cat([y, w])) for (x, y), (v, w) in zip(*halves, strict=True)], whole)


def test_what_is_read_as_it_goes_is_cropped_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    where = folder(tmp_path / "scenes")
    kept = load_data(where, augment=Crop(size=(8, 8)))
    monkeypatch.setattr(reading_module, "IN_MEMORY", 100)
    read = load_data(where, augment=Crop(size=(8, 8)))
    assert (type(kept), type(read)) == (TensorData, DatasetData)
    assert same(list(read.train_batches(3, seed=1, epoch=2)), list(kept.train_batches(3, seed=1, epoch=2)))


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # on a machine of one core
def test_workers_change_nothing(tmp_path: Path) -> None:
    where = folder(tmp_path / "scenes", sizes=((12, 16), (10, 20)))
    here, there = (load_data(where, augment=Crop(size=(8, 8)), workers=workers) for workers in (0, 2))
    assert same(list(there.train_batches(3, seed=1, epoch=2)), list(here.train_batches(3, seed=1, epoch=2)))


def test_validation_is_at_full_size_whatever_the_sizes(tmp_path: Path) -> None:
    data = load_data(folder(tmp_path / "scenes", 3, 5, ((12, 16), (12, 16), (10, 20))), augment=Crop(size=(8, 8)))
    shapes = [tuple(y.shape) for _, y in data.val_batches(5)]
    assert shapes == [(2, 12, 16), (1, 10, 20), (2, 12, 16)]
    assert sum(len(x) for x, _ in data.part(0, 2).val_batches(5)) == 2


def test_a_pair_of_datasets_of_several_sizes() -> None:
    items = [(pixels(3, 6, size), pixels(6, size) % 2) for size in (5, 7)]
    data = DatasetData(Items(items), Items(items), task="segmentation", augment=Crop(size=(4, 4)))
    ((images, targets),) = data.train_batches(2, seed=0, epoch=0)
    assert (images.shape, targets.shape) == ((2, 3, 4, 4), (2, 4, 4))
    assert len(list(data.val_batches(2))) == 2
    few = data.first_images(1)
    assert next(few.train_batches(1, seed=0, epoch=0))[0].shape == (1, 3, 4, 4)
    wrong = Items([(pixels(3, 6, 5), pixels(6, 4))])
    with pytest.raises(DataError, match="the image of item 0 of the training set is 6x5, but its mask is 6x4"):
        DatasetData(wrong, wrong, task="segmentation", augment=Crop(size=(4, 4)))
