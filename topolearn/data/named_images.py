"""The built-in data sets, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from topolearn.data.named_masks import ade20k, camvid, camvid_test, voc, voc_train
from topolearn.data.raw_files import pickled_array, pickled_texts, read_idx, read_pickle
from topolearn.data.reading import Reading
from topolearn.data.roots import find_set
from topolearn.data.text import TEXT_SETS
from topolearn.errors import DataError
from topolearn.samples.augment import Augment, Crop
from topolearn.samples.base import Data, DataInfo
from topolearn.samples.tensors import TensorData, mean_and_std

Split = tuple[Tensor, Tensor]


def digits(root: str | Path | None = None, augment: Augment | None = None) -> TensorData:
    """scikit-learn's 8x8 digits: 1,437 for training, 360 for validation, the same in every run.

    Args:
        root: Not used; the images come with scikit-learn.
        augment: Augmentation of training batches. None takes random crops after padding by one pixel.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    images, labels = load_digits(return_X_y=True)
    train, val = train_test_split(np.arange(len(labels)), train_size=1437, stratify=labels, random_state=0)
    pixels = torch.from_numpy(images.reshape(-1, 1, 8, 8).astype(np.uint8))
    targets = torch.from_numpy(labels.astype(np.int64))
    mean, std = mean_and_std(pixels[train], scale=16)
    return TensorData(
        DataInfo("digits", "classification", tuple(map(str, range(10))), (1, 8, 8), mean, std),
        (pixels[train], targets[train]),
        (pixels[val], targets[val]),
        augment=Augment(pad=1) if augment is None else augment,
        scale=16,
    )


@dataclass(frozen=True)
class Cifar:
    """CIFAR (Krizhevsky 2009): 50,000 + 10,000 colour images, 32x32.

    The files are pickles, with one image per row.

    Attributes:
        name: Name of the set.
        folder: Name of the folder in which the set is distributed.
        train: Names of the training files.
        test: Name of the file of test images. Runs validate on them.
        meta: Name of the file of class names.
        labels: Key of the labels.
        names: Key of the class names.
        mean: Mean of the training images, per channel.
        std: Standard deviation of the training images, per channel.
    """

    name: str
    folder: str
    train: tuple[str, ...]
    test: str
    meta: str
    labels: str
    names: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __call__(self, root: str | Path | None = None, augment: Augment | None = None) -> TensorData:
        """Load the set.

        Args:
            root: Folder to look in first.
            augment: Augmentation of training batches. None takes random crops after zero padding by 4 pixels, and
                flips.

        Raises:
            DataError: The set is not found, or a file does not have the expected content.
        """
        home = self.name.removesuffix("-coarse")
        *train, test, meta = find_set(home, self.folder, [[name] for name in (*self.train, self.test, self.meta)], root)
        classes = pickled_texts(read_pickle(meta).get(self.names), meta)
        parts = [self._read(path, len(classes)) for path in train]
        data = TensorData(
            DataInfo(self.name, "classification", classes, (3, 32, 32), self.mean, self.std),
            (torch.cat([images for images, _ in parts]), torch.cat([labels for _, labels in parts])),
            self._read(test, len(classes)),
            augment=Augment(pad=4, flip=True) if augment is None else augment,
        )
        data.path = meta.parent.absolute()
        return data

    def _read(self, path: Path, classes: int) -> Split:
        content = read_pickle(path)
        pixels = pickled_array(content.get("data"), path)
        labels: Any = content.get(self.labels)
        if pixels.ndim != 2 or pixels.shape[1] != 3 * 32 * 32:
            raise DataError(f"'{path}' holds an array {pixels.shape}, but needs (N, 3072); download it again")
        if not isinstance(labels, list) or not all(type(each) is int and 0 <= each < classes for each in labels):
            raise DataError(f"'{path}' does not hold '{self.labels}' from 0 to {classes - 1}; download it again")
        if len(labels) != len(pixels):
            raise DataError(f"'{path}' holds {len(pixels)} images but {len(labels)} labels; download it again")
        return torch.from_numpy(pixels.copy()).view(-1, 3, 32, 32), torch.tensor(labels, dtype=torch.int64)


def fashion_mnist(root: str | Path | None = None, augment: Augment | None = None) -> TensorData:
    """Fashion-MNIST (Xiao et al. 2017): 60,000 + 10,000 grey images, 28x28.

    Args:
        root: Folder to look in first.
        augment: Augmentation of training batches. None takes random crops after zero padding by 2 pixels, and flips.

    Raises:
        DataError: The set is not found, or a file does not have the expected content.
    """
    files = [f"{part}-{kind}" for part in ("train", "t10k") for kind in ("images-idx3-ubyte", "labels-idx1-ubyte")]
    paths = find_set("fashion_mnist", "FashionMNIST/raw", [[name, f"{name}.gz"] for name in files], root)
    splits = [_read_mnist(images, labels) for images, labels in (paths[:2], paths[2:])]
    data = TensorData(
        DataInfo("fashion_mnist", "classification", _FASHION, (1, 28, 28), mean=(0.2860,), std=(0.3530,)),
        splits[0],
        splits[1],
        augment=Augment(pad=2, flip=True) if augment is None else augment,
    )
    data.path = paths[0].parent.absolute()
    return data


_FASHION = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)


def _read_mnist(images: Path, labels: Path) -> Split:
    pixels, targets = read_idx(images), read_idx(labels)
    if pixels.shape[1:] != (28, 28) or targets.shape != pixels.shape[:1] or (targets >= len(_FASHION)).any():
        raise DataError(
            f"'{images}' and '{labels}' hold {pixels.shape} and {targets.shape}, but need (N, 28, 28) and (N,) from "
            f"0 to {len(_FASHION) - 1}; download them again"
        )
    return torch.from_numpy(pixels.copy())[:, None], torch.from_numpy(targets.astype(np.int64))


_CIFAR10 = Cifar(
    name="cifar10",
    folder="cifar-10-batches-py",
    train=tuple(f"data_batch_{number}" for number in range(1, 6)),
    test="test_batch",
    meta="batches.meta",
    labels="labels",
    names="label_names",
    mean=(0.4914, 0.4822, 0.4465),
    std=(0.2470, 0.2435, 0.2616),
)


def _cifar100(name: str, kind: str) -> Cifar:
    return Cifar(
        name=name,
        folder="cifar-100-python",
        train=("train",),
        test="test",
        meta="meta",
        labels=f"{kind}_labels",
        names=f"{kind}_label_names",
        mean=(0.5071, 0.4865, 0.4409),
        std=(0.2673, 0.2564, 0.2762),
    )


MASK_SETS: dict[str, Callable[[str | Path | None, Augment | Crop | None, Reading | None], Data]] = {
    "ade20k": ade20k,
    "camvid": camvid,
    "camvid-test": camvid_test,
    "voc": voc,
    "voc-train": voc_train,
}
"""Name -> loader of images and masks. Its arguments are those of :data:`IMAGE_SETS`, and how to read files."""

IMAGE_SETS: dict[str, Callable[[str | Path | None, Augment | None], Data]] = {
    "cifar10": _CIFAR10,
    "cifar100": _cifar100("cifar100", "fine"),
    "cifar100-coarse": _cifar100("cifar100-coarse", "coarse"),
    "digits": digits,
    "fashion_mnist": fashion_mnist,
}
"""Name -> loader. Its arguments are the folder to look in first and the augmentation (None: the set's default)."""

DATASETS: Mapping[str, Callable[..., Data]] = {**IMAGE_SETS, **MASK_SETS, **TEXT_SETS}
"""All built-in sets: name -> loader."""
