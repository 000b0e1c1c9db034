"""A network of torchvision with weights, and pictures of other classes, to shrink it for."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

MODEL = "resnet18"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of small pictures."""
    root = tmp_path_factory.mktemp("pictures")
    for split, count in (("train", 8), ("val", 2)):
        for shade, name in enumerate(("dark", "grey", "light")):
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                Image.new("RGB", (32, 32), (60 * shade + number,) * 3).save(root / split / name / f"{number}.png")
    return root


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a small network of torchvision, of seven classes."""
    from torchvision import models

    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("weights") / "seven.pth"
    torch.save(models.get_model(MODEL, num_classes=7).state_dict(), file)
    return file
