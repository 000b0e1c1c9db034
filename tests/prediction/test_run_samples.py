"""What a page shows of a run's network: masks of some images, or how it continues a text."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.prediction.texts import text_run
from tests.training.runs import run as classify
from tests.training.test_dense_fit import scenes, train
from topolearn.errors import DataError
from topolearn.prediction import continue_text, run_samples

Run = Callable[..., tuple[int, str, str]]


def test_masks_of_images(tmp_path: Path, run: Run) -> None:
    root = scenes(tmp_path / "set")
    result = train(root, out=tmp_path / "run", epochs=2)
    found = run_samples(tmp_path / "run")
    assert found is not None
    assert found.svg.startswith("<svg")
    assert found.svg.count("<image") == 9, "image, truth and prediction of three"
    result.report(tmp_path / "page.html", run_samples)
    assert "<h2>Examples</h2>" in (tmp_path / "page.html").read_text()
    shutil.rmtree(root)
    with pytest.raises(DataError):
        run_samples(tmp_path / "run")
    status, _, err = run("report", str(tmp_path / "run"), "-o", str(tmp_path / "other.html"))
    assert status == 0, "the page has all else"
    assert err.startswith(f"no examples of {tmp_path / 'run'}: ")
    assert "<h2>Examples</h2>" not in (tmp_path / "other.html").read_text()


def test_the_continuation_of_a_text(tmp_path: Path, run: Run) -> None:
    text_run(tmp_path)
    found = run_samples(tmp_path / "run")
    assert found is not None
    before, after = found.text.split("\n[here the network goes on]\n")
    validated = (tmp_path / "text.txt").read_text()
    assert before in validated
    added = continue_text(tmp_path / "run", before, length=400, temperature=0.8, device="cpu")
    assert after == bytes(added).decode(errors="replace")
    status, _, err = run("report", str(tmp_path / "run"), "-o", str(tmp_path / "page.html"))
    assert (status, err) == (0, "")
    assert "<h2>Sample text</h2>" in (tmp_path / "page.html").read_text()


def test_classes_of_images_have_none(tmp_path: Path) -> None:
    classify(tmp_path / "run", "fixed")
    assert run_samples(tmp_path / "run") is None
