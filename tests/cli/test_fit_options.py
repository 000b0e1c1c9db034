"""Options of ``topolearn fit`` about the images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from topolearn.runs import read_config

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Two classes of grey images."""
    for name, shade in (("dark", 40), ("light", 200)):
        (tmp_path / "images" / name).mkdir(parents=True)
        for index in range(10):
            Image.new("L", (12, 9), shade + index).save(tmp_path / "images" / name / f"{index}.png")
    return tmp_path / "images"


def test_mean_std_and_size(run: Run, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    chosen = ("--mean", "0.25", "--std", "0.5", "--size", "10,8")
    short = ("--epochs", "2", "--batch-size", "4", "--device", "cpu", "--no-export", "--quiet")
    two = ("--set", "nodes.head.classes=2")
    status, _, error = run("fit", "digits", "--data", str(images), *chosen, *short, *two, "--out", str(out))
    assert status == 0, error
    config = read_config(out / "config.yaml")
    assert (config["mean"], config["std"]) == ((0.25,), (0.5,))
    assert config["input_size"] == {"image": (1, 10, 8)}


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--mean", "x", "'mean.0' of training is 'x', but it should be a number"),
        ("--mean", "0.1,0.2", "'mean' has 2 numbers, but images of 'digits' have 1 channels"),
        ("--mean", "", "'mean' of training is (), but it should have at least 1 item"),
        ("--mean", "125", "'mean' of training is (125,), but it should hold numbers up to 1, because pixel values are"),
        ("--std", "60", "'std' of training is (60,), but it should hold numbers up to 1, because pixel values"),
        ("--std", "0", "'std.0' of training is 0, but it should be greater than 0"),
        ("--size", "8x8", "--size 8x8: write a number of pixels, or height and width, such as 224 or 192,256"),
    ],
)
def test_what_cannot_be_used(run: Run, tmp_path: Path, option: str, value: str, message: str) -> None:
    status, _, error = run("fit", "digits", option, value, "--epochs", "2", "--out", str(tmp_path / "run"))
    assert status == 2
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()
