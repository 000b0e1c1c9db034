"""Small data sets for tests."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from topolearn.data import Augment, DataInfo, DatasetData, TensorData, load_data
from topolearn.errors import DataError

Batches = list[tuple[Tensor, Tensor]]


def info(size: tuple[int, int, int] = (3, 8, 6), task: str = "classification", **changes: Any) -> DataInfo:
    channels = size[0]
    fields = {"name": "toy", "classes": tuple("abcd"), "mean": (0.5, 0.4, 0.3)[:channels], "std": (0.2,) * channels}
    return DataInfo(task=task, size=size, **(fields | changes))


def toy(augment: Augment | None = None, count: int = 22, task: str = "classification", **changes: Any) -> TensorData:
    """A fresh set; pixel (0, 0) of channel 0 is the image's number."""
    numbers = torch.Generator().manual_seed(5)
    size = (3, 8, 6)

    def split(start: int, length: int) -> tuple[Tensor, Tensor]:
        images = torch.randint(0, 256, (length, *size), generator=numbers, dtype=torch.uint8)
        images[:, 0, 0, 0] = torch.arange(start, start + length)
        if task == "segmentation":
            return images, torch.randint(0, 4, (length, *size[1:]), generator=numbers, dtype=torch.uint8)
        return images, torch.arange(length) % 4

    return TensorData(info(size, task, **changes), split(0, count), split(100, 7), augment=augment)


def noisy(workers: int = 0) -> DatasetData:
    return DatasetData(Noisy(13), Noisy(5), workers=workers)


def same(first: Batches, second: Batches) -> bool:
    return len(first) == len(second) and all(
        torch.equal(x, v) and torch.equal(y, w) for (x, y), (v, w) in zip(first, second, strict=True)
    )


def global_state() -> tuple[Any, ...]:
    name, keys, *rest = np.random.get_state()
    return random.getstate(), name, keys.tobytes(), rest, torch.get_rng_state().numpy().tobytes()


class Noisy(Dataset[tuple[Tensor, int]]):
    """Random transforms by all three global generators."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.targets = [index % 3 for index in range(count)]

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        noise = torch.rand(3, 4, 4) + random.random() + float(np.random.rand())
        return noise + 10 * index, self.targets[index]


class NoisyParts(Dataset[Any]):
    """Two inputs and two targets, by all three global generators."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[dict[str, Any], dict[str, Any]]:
        inputs = {"left": torch.rand(3) + random.random(), "right": np.random.rand(5) + index / 10}
        return inputs, {"kind": index % 4, "size": float(inputs["left"].mean())}


class Items(Dataset[Any]):
    """Whatever it is given."""

    def __init__(self, items: list[Any], **attributes: Any) -> None:
        self.items = items
        self.__dict__.update(attributes)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        return self.items[index]


def image(kind: str, height: int = 4, width: int = 5) -> Any:
    pixels = (np.arange(height * width * 3) % 256).astype(np.uint8).reshape(height, width, 3)
    match kind:
        case "pil":
            return Image.fromarray(pixels)
        case "grey":
            return Image.fromarray(pixels[:, :, 0])
        case "array":
            return pixels
        case "uint8":
            return torch.from_numpy(pixels.transpose(2, 0, 1).copy())
    return torch.from_numpy(pixels.transpose(2, 0, 1).copy()) / 255


class Endless(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        return iter([(image("float"), 0)] * 3)


def fails(data: Any, text: str, **options: Any) -> None:
    with pytest.raises(DataError) as caught:
        load_data(data, **options)
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)
