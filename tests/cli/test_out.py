"""``--out`` onto a folder of the user's: nothing is written there, whatever the command."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.training.runs import graph, quick_fit

Run = Callable[..., tuple[int, str, str]]

SMALL = ("--epochs", "2", "--set", "train_images=100", "--quiet", "--device", "cpu")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("out") / "run"
    small = graph(channels=1, classes=10)
    quick_fit(small, data="digits", epochs=2, batch_size=256, training={"train_images": 600}, out=folder)
    return folder


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Data of a user's, with some names that commands write to."""
    folder = tmp_path / "photos"
    for name in ("cat/1.png", "checkpoint/state.pt", "masks/1.png", "history.jsonl", "graph.svg", "sweep.csv"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("mine")
    return folder


def content(folder: Path) -> dict[str, str]:
    return {str(path): path.read_text() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "command",
    [
        ("fit", "digits", *SMALL),
        ("fit", "digits", *SMALL, "--resume"),
        ("prune", "RUN"),
        ("prune", "RUN", "--sweep", "--quiet"),
        ("compare", "digits", "--seeds", "0", *SMALL),
    ],
    ids=lambda command: "-".join(command[:3]),
)
def test_a_folder_of_data_is_left_alone(command: tuple[str, ...], finished: Path, photos: Path, run: Run) -> None:
    before = content(photos)
    given = [str(finished) if word == "RUN" else word for word in command]
    status, out, err = run(*given, "--out", str(photos))
    assert (status, out) == (2, "")
    assert err == (
        f"error: the folder {photos} already holds other files, 'cat', 'checkpoint', 'graph.svg' and 3 more, so nothing"
        f" is written there; choose a new or empty folder with --out\n"
    )
    assert content(photos) == before


def test_files_of_the_same_command_are_replaced(finished: Path, tmp_path: Path, run: Run) -> None:
    for _ in range(2):
        assert run("predict", str(finished), "-o", str(tmp_path / "predicted"))[0] == 0
        assert run("prune", str(finished), "--sweep", "-q", "--device", "cpu", "--out", str(tmp_path / "swept"))[0] == 0
        (tmp_path / "swept" / "notes.txt").write_text("mine")
    shutil.copytree(finished, tmp_path / "run")
    assert run("predict", str(finished), "-o", str(tmp_path / "run"))[0] == 0
