"""The sets that are known by name; files that are broken or malicious."""

from __future__ import annotations

import gzip
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from topolearn.data import DATASETS, Augment, load_data
from topolearn.data.text import TEXT_SETS
from topolearn.errors import DataError


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No data set anywhere but in the folder returned, if a test puts it there."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("TOPOLEARN_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_digits_are_the_same_in_every_run() -> None:
    data = load_data("digits")
    assert (data.info.size, data.train_size, data.val_size) == ((1, 8, 8), 1437, 360)
    assert (data.info.mean, data.info.std) == ((0.3054,), (0.3761,))
    targets = torch.cat([y for _, y in data.val_batches(100)])
    assert 33 <= targets.bincount().min() <= targets.bincount().max() <= 38
    images = torch.cat([x for x, _ in load_data("digits", augment=Augment()).train_batches(1437, seed=0, epoch=0)])
    torch.testing.assert_close(images.mean(), torch.tensor(0.0), rtol=0, atol=1e-3)
    torch.testing.assert_close(images.std(), torch.tensor(1.0), rtol=0, atol=1e-3)


def write_cifar(folder: Path, kind: str, count: int = 4) -> Tensor:
    """CIFAR in its own format, but for the protocol; returns the training images."""
    pixels = np.random.default_rng(0).integers(0, 256, (count, 3072), dtype=np.uint8)
    folder.mkdir(parents=True)

    def write(name: str, content: dict[bytes, Any]) -> None:
        (folder / name).write_bytes(pickle.dumps(content, protocol=4))

    if kind == "cifar100":
        names = {b"fine_label_names": [b"a", b"b", b"c"], b"coarse_label_names": [b"x", b"y"]}
        labels = {b"fine_labels": [0, 1, 2, 0][:count], b"coarse_labels": [0, 1, 1, 0][:count]}
        for name in ("train", "test"):
            write(name, {b"data": pixels, **labels})
        write("meta", names)
    else:
        for name in [f"data_batch_{number}" for number in range(1, 6)] + ["test_batch"]:
            write(name, {b"data": pixels, b"labels": [0, 1, 2, 0][:count]})
        write("batches.meta", {b"label_names": [b"a", b"b", b"c"]})
    return torch.from_numpy(pixels).view(-1, 3, 32, 32)


@pytest.mark.parametrize("place", ["cifar-100-python", "cifar100/cifar-100-python", "."])
def test_cifar100_in_the_folder_or_a_subfolder(nowhere: Path, place: str) -> None:
    pixels = write_cifar(nowhere / "sets" / place, "cifar100")
    data = load_data("cifar100", root=nowhere / "sets")
    assert data.info.classes == tuple("abc")
    (images, targets), *_ = data.val_batches(4)
    mean, std = (torch.tensor(each).view(3, 1, 1) for each in (data.info.mean, data.info.std))
    torch.testing.assert_close(images * std + mean, pixels / 255)
    assert targets.tolist() == [0, 1, 2, 0]
    coarse = load_data("cifar100-coarse", root=nowhere / "sets")
    assert (coarse.info.name, coarse.info.classes) == ("cifar100-coarse", ("x", "y"))
    assert next(coarse.val_batches(4))[1].tolist() == [0, 1, 1, 0]


@pytest.mark.parametrize("place", ["data", "home/.cache/topolearn", "elsewhere"])
def test_the_roots_that_are_searched(nowhere: Path, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    write_cifar(nowhere / place / "cifar-10-batches-py", "cifar10")
    if place == "elsewhere":
        monkeypatch.setenv("TOPOLEARN_DATA", str(nowhere / place))
    data = load_data("cifar10")
    assert (data.train_size, data.val_size) == (20, 4)


def test_fashion_mnist(nowhere: Path) -> None:
    folder = nowhere / "data" / "FashionMNIST" / "raw"
    folder.mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (3, 28, 28), dtype=np.uint8)
    for part in ("train", "t10k"):
        images = b"\0\0\x08\x03" + np.array(pixels.shape, ">i4").tobytes() + pixels.tobytes()
        (folder / f"{part}-images-idx3-ubyte").write_bytes(images)
        (folder / f"{part}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(b"\0\0\x08\x01\0\0\0\x03\x09\x00\x05"))
    data = load_data("fashion_mnist")
    (images, targets), *_ = data.val_batches(3)
    torch.testing.assert_close(images[:, 0] * 0.3530 + 0.2860, torch.from_numpy(pixels) / 255)
    assert targets.tolist() == [9, 0, 5]
    (folder / "t10k-images-idx3-ubyte").write_bytes(b"\0\0\x08\x03" + pixels.tobytes())
    with pytest.raises(
        DataError, match="t10k-images-idx3-ubyte' is not a complete IDX file of bytes; download it again"
    ):
        load_data("fashion_mnist")
    (folder / "t10k-images-idx3-ubyte").write_bytes(b"\0\0\x08\x01\0\0\0\x02ab")
    with pytest.raises(DataError, match=r"hold \(2,\) and \(3,\), but need \(N, 28, 28\)"):
        load_data("fashion_mnist")
    (folder / "t10k-labels-idx1-ubyte.gz").write_bytes(b"no gzip")
    with pytest.raises(DataError, match=r"idx1-ubyte.gz' cannot be read"):
        load_data("fashion_mnist")


@pytest.mark.parametrize("name", sorted(set(DATASETS) - {"digits", *TEXT_SETS}))
def test_a_missing_set_names_every_folder(name: str, nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOPOLEARN_DATA", "/none/b")
    with pytest.raises(DataError) as caught:
        load_data(name, root="/none/a")
    message = str(caught.value)
    home = name.removesuffix("-coarse").removesuffix("-test").removesuffix("-train")
    roots = ["/none/a", "/none/b", "data", f"{nowhere}/home/.cache/topolearn"]
    places = ", ".join(f"'{root}', '{root}/{home}'" for root in roots)
    assert message.startswith(f"the data set '{home}' was not found in {places}; put its folder ")
    assert message.endswith("name the folder that holds it with TOPOLEARN_DATA or --data-root")
    assert "\n" not in message


class Evil:
    def __reduce__(self) -> Any:
        return os.mkdir, ("pwned",)


class EvilArray:
    """Reaches for a function by way of the names that are allowed."""

    def __reduce__(self) -> Any:
        return eval, ("__import__('os').mkdir('pwned')",)


@pytest.mark.parametrize("payload", [Evil(), EvilArray(), {b"data": Evil()}, [print], {b"data": np.array([Evil()])}])
@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_a_malicious_pickle_is_refused_and_does_not_run(nowhere: Path, payload: Any, protocol: int) -> None:
    write_cifar(nowhere / "data" / "cifar-100-python", "cifar100")
    (nowhere / "data" / "cifar-100-python" / "train").write_bytes(pickle.dumps(payload, protocol))
    with pytest.raises(DataError, match=r"cifar-100-python/train' is refused: it names '[\w.]+', but data may hold"):
        load_data("cifar100")
    assert not Path("pwned").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "'data/cifar-100-python/test' is not a pickle file that can be read"),
        (b"garbage", "'data/cifar-100-python/test' is not a pickle file that can be read"),
        # BUILD on an allowed name itself, to change what later calls do.
        (b"cnumpy\ndtype\n}S'x'\nI1\nsb.", "does not hold a dict of arrays and lists"),
        (pickle.dumps([1]), "does not hold a dict of arrays and lists"),
        (pickle.dumps({}), "does not hold the images as an array of bytes"),
        (pickle.dumps({"data": np.zeros(3)}, 4), "does not hold the images as an array of bytes"),
        (pickle.dumps({"data": np.zeros((2, 5), np.uint8)}, 4), r"holds an array \(2, 5\), but needs \(N, 3072\)"),
        (
            pickle.dumps({"data": np.zeros((2, 3072), np.uint8), "fine_labels": [0, 3]}, 4),
            "does not hold 'fine_labels' from 0 to 2",
        ),
        (
            pickle.dumps({"data": np.zeros((2, 3072), np.uint8), "fine_labels": [0]}, 4),
            "holds 2 images but 1 labels",
        ),
    ],
)
def test_a_broken_cifar_file_is_named(nowhere: Path, content: bytes, message: str) -> None:
    write_cifar(nowhere / "data" / "cifar-100-python", "cifar100")
    (nowhere / "data" / "cifar-100-python" / "test").write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        load_data("cifar100")
    assert "\n" not in str(caught.value)


def test_cifar100_itself() -> None:
    if not os.environ.get("TOPOLEARN_DATA"):
        pytest.skip("TOPOLEARN_DATA names no folder of data sets")
    try:
        data = load_data("cifar100")
    except DataError:
        pytest.skip("CIFAR-100 is not in the folder that TOPOLEARN_DATA names")
    assert (data.train_size, data.val_size, len(data.info.classes)) == (50_000, 10_000, 100)
    images = torch.cat([x for x, _ in data.val_batches(1000)])
    torch.testing.assert_close(images.mean((0, 2, 3)), torch.zeros(3), rtol=0, atol=0.02)
    torch.testing.assert_close(images.std((0, 2, 3)), torch.ones(3), rtol=0, atol=0.02)
    assert torch.cat([y for _, y in data.val_batches(1000)]).bincount().tolist() == [100] * 100
