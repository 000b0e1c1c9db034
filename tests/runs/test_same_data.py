"""A run's data are known by what they hold; where they lie is only where to look first."""

from __future__ import annotations

import re
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import topolearn
from tests.data.toys import toy
from tests.training.runs import TEXT, quick_fit
from topolearn.data import Data, load_data
from topolearn.errors import CheckpointError, DataError, OptionError
from topolearn.format import loads
from topolearn.prediction import predict_validation
from topolearn.runs import FitResult, load_searched, read_config, read_result
from topolearn.runs.same_data import classes_differ, content_differs, data_settings, values_differ
from topolearn.studies.reprune import reprune
from topolearn.studies.sweep import sweep

Run = Callable[..., tuple[int, str, str]]

GRAPH = """
topolearn: 1
name: tiny
inputs: {image: [1, 8, 8]}
nodes:
  a[1..3]: {op: conv_bn_relu, out_channels: 2}
  head: {op: classifier, classes: 2}
edges:
  - {from: image, to: a1}
  - {connect: complete, nodes: "a[1..3]", learnable: true}
  - {from: a3, to: head}
outputs: [head]
"""


def pictures(folder: Path, *, least: int = 0, count: int = 5, classes: tuple[str, ...] = ("cat", "dog")) -> Path:
    """A folder of grey images in classes, of values from ``least`` to ``least`` + 99."""
    values = np.random.default_rng(0)
    for name in classes:
        (folder / name).mkdir(parents=True)
        for number in range(count):
            pixels = (values.integers(0, 100, (8, 8)) + least).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return folder


def train(folder: Path, data: Any, **options: Any) -> FitResult:
    settings = {"graph": loads(GRAPH), "epochs": 2, "batch_size": 4, "lr": 0.05} | options
    return quick_fit(data=data, out=folder, **settings)


def without(config: Path, *keys: str) -> None:
    """Leave keys out of a config, as an earlier version did."""
    lines = config.read_text(encoding="utf-8").splitlines(keepends=True)
    config.write_text("".join(line for line in lines if line.partition(":")[0] not in keys), encoding="utf-8")


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory, which is not where the data are."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.delenv("TOPOLEARN_DATA", raising=False)
    monkeypatch.setenv("HOME", str(folder))
    return folder


@pytest.fixture
def run_dir(tmp_path: Path, elsewhere: Path) -> Path:
    """A run on ``here/pets``."""
    train(tmp_path / "run", pictures(tmp_path / "here" / "pets"))
    return tmp_path / "run"


def taken_up(run_dir: Path, given: Any = None, root: Path | None = None) -> Data:
    return load_searched(run_dir).data(given, root)


def measured(run_dir: Path, **options: Any) -> Any:
    return sweep(run_dir, shares=(0.0,), seeds=(0,), device="cpu", quiet=True, **options)


class TestWhatIsWritten:
    def test_a_folder(self, run_dir: Path, tmp_path: Path) -> None:
        config = read_config(run_dir / "config.yaml")
        assert (config["data"], config["data_path"]) == ("pets", str(tmp_path / "here" / "pets"))
        assert config["content"] == {"train": 8, "val": 2, "size": (1, 8, 8)}

    def test_a_user_s_own_sets_lie_nowhere(self) -> None:
        settings = data_settings(toy())
        assert "data_path" not in settings
        assert settings["content"] == {"train": 22, "val": 7, "size": (3, 8, 6)}

    def test_a_text(self, tmp_path: Path, elsewhere: Path) -> None:
        (elsewhere / "mine.txt").write_text("abcd" * 300)
        settings = data_settings(load_data("mine.txt"))
        assert settings["data_path"] == str(elsewhere / "mine.txt")
        assert settings["content"].keys() == {"train", "val", "size", "bytes", "sha256"}


def same(**changes: Any) -> dict[str, Any]:
    settings = data_settings(toy())
    content = {**settings["content"], **{key: changes.pop(key) for key in list(changes) if key in settings["content"]}}
    return {**settings, **changes, "content": content}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, None),
        ({"data": "other", "data_path": "/nowhere"}, None),
        ({"classes": ("a", "b", "d", "c")}, None),  # they are numbered as the run's are
        ({"classes": ("a", "b", "c", "e")}, "other classes than the run's"),
        ({"mean": (0.5, 0.4, 0.2)}, "the mean [0.5, 0.4, 0.2], not [0.5, 0.4, 0.3]"),
        ({"std": (0.1,) * 3}, "the standard deviation [0.1, 0.1, 0.1], not [0.2, 0.2, 0.2]"),
        ({"train": 23}, "a training set of 23, not 22"),
        ({"val": 1000}, "a validation set of 1,000, not 7"),
        ({"size": (1, 8, 6)}, "the size 1x8x6, not 3x8x6"),
    ],
)
def test_what_tells_data_apart(changes: dict[str, Any], words: str | None) -> None:
    now = same(**changes)
    assert (classes_differ(same(), now) or values_differ(same(), now) or content_differs(same(), now)) == words
    old = {key: value for key, value in same().items() if key != "content"}  # of an earlier version
    assert content_differs(old, now) is None


class TestTakenUp:
    """By ``prune``, ``prune --sweep`` and whatever else measures a finished run."""

    def test_from_another_directory(self, run_dir: Path, elsewhere: Path) -> None:
        pictures(elsewhere / "pets", least=100)
        assert taken_up(run_dir).path == run_dir.parent / "here" / "pets"
        again = reprune(run_dir, elsewhere / "again", device="cpu")
        assert again.searched_metrics == pytest.approx(read_result(run_dir).searched_metrics, abs=1e-6)

    def test_others_of_the_name_are_refused(self, run_dir: Path, elsewhere: Path, run: Run) -> None:
        (run_dir.parent / "here").rename(run_dir.parent / "there")
        pictures(elsewhere / "pets", least=100)
        words = (
            f"the data found as '{elsewhere}/pets' have the mean [0.5901], not [0.198]; say where the run's own data"
            " are with --data-root or --data"
        )
        words = re.sub(r"\[[\d.]+\]", r"\\[[\\d.]+\\]", words)
        with pytest.raises(DataError, match=words):
            measured(run_dir)
        with pytest.warns(UserWarning, match=f"'pets' cannot be found, so nothing is measured: {words}"):
            assert reprune(run_dir, elsewhere / "again").metrics == {}
        status, out, err = run("prune", str(run_dir), "--sweep", "--device", "cpu", "--quiet")
        assert (status, out) == (2, "")
        assert re.fullmatch(f"error: {words}\n", err)

    @pytest.mark.parametrize("count", [4, 6])
    def test_so_is_a_folder_that_holds_more_or_less_by_now(self, count: int, run_dir: Path) -> None:
        shutil.rmtree(run_dir.parent / "here" / "pets")
        pictures(run_dir.parent / "here" / "pets", count=count)
        with pytest.raises(DataError, match=r"data found as '.*/here/pets' have"):
            measured(run_dir)

    def test_a_folder_that_was_moved(self, run_dir: Path, elsewhere: Path, run: Run) -> None:
        pets = (run_dir.parent / "here").rename(run_dir.parent / "there") / "pets"
        with pytest.raises(DataError, match=r"there is no data set 'pets', .*; say where the run's own data are with"):
            measured(run_dir)
        assert taken_up(run_dir, root=pets.parent).path == pets
        animals = pets.rename(pets.parent / "animals")
        assert taken_up(run_dir, animals).path == animals
        for options in (("--data", "animals", "--data-root", str(pets.parent)), ("--data", str(animals))):
            for more in ((), ("--sweep",)):
                target = elsewhere / f"{len(options)}{len(more)}"
                status, out, err = run(
                    "prune", str(run_dir), "--out", str(target), "--device", "cpu", "--quiet", *options, *more
                )
                assert (status, err) == (0, "")
                assert "accuracy" in out

    def test_given_data_that_are_not_like_the_run_s(self, run_dir: Path, elsewhere: Path, run: Run) -> None:
        bright = pictures(elsewhere / "bright", least=100)
        with pytest.warns(UserWarning, match=r"these are other data than the run's: '.*/bright' has the mean "):
            seen = taken_up(run_dir, bright)
        own = taken_up(run_dir)
        assert (seen.info.mean, seen.info.std) == (own.info.mean, own.info.std)  # what its network knows
        assert next(seen.val_batches(1))[0].mean() > next(own.val_batches(1))[0].mean()
        renamed = pictures(elsewhere / "renamed", classes=("cat", "fox"))
        with pytest.raises(DataError, match=r"given as '.*/renamed' have other classes than the run's"):
            measured(run_dir, data=renamed)
        status, _, err = run("prune", str(run_dir), "--data", "renamed", "--out", str(elsewhere / "again"))
        assert status == 2
        assert err.startswith(f"error: the data given as '{renamed}' have other classes")
        assert not (elsewhere / "again").exists()

    def test_given_data_with_another_validation_set(self, run_dir: Path, elsewhere: Path) -> None:
        whole = taken_up(run_dir)
        whole.val_size = 1  # of the same mean
        with pytest.warns(
            UserWarning, match=r"these are other data than the run's: .* has a validation set of 1, not 2"
        ):
            assert taken_up(run_dir, whole) is whole

    def test_a_run_of_an_earlier_version(self, run_dir: Path, elsewhere: Path) -> None:
        without(run_dir / "config.yaml", "content", "data_path")
        with pytest.raises(DataError, match="there is no data set 'pets'"):
            measured(run_dir)
        assert taken_up(run_dir, root=run_dir.parent / "here").val_size == 2
        pictures(elsewhere / "pets", least=100)
        with pytest.raises(DataError, match="have the mean"):
            measured(run_dir)


class TestResumed:
    def test_with_a_folder_of_another_name(self, run_dir: Path) -> None:
        animals = (run_dir.parent / "here" / "pets").rename(run_dir.parent / "animals")
        assert train(run_dir, animals, resume=True).history

    def test_with_another_number_of_images(self, run_dir: Path) -> None:
        more = pictures(run_dir.parent / "more" / "pets", count=10)
        words = f"began with other data: '{more}' has a training set of 16, not 8; resume it with the same data"
        with pytest.raises(CheckpointError, match=words):
            train(run_dir, more, resume=True)

    def test_a_run_of_an_earlier_version(self, run_dir: Path) -> None:
        without(run_dir / "config.yaml", "content", "data_path")
        pets = run_dir.parent / "here" / "pets"
        assert train(run_dir, pets, resume=True).history
        with pytest.raises(CheckpointError, match="began with data pets, not animals"):
            train(run_dir, pets.rename(run_dir.parent / "animals"), resume=True)


class TestFoldersThatAreCalledAsSets:
    @pytest.fixture
    def digits(self, tmp_path: Path, elsewhere: Path) -> Path:
        """A run on a folder that is called ``digits``."""
        train(tmp_path / "run", pictures(tmp_path / "here" / "digits"))
        return tmp_path / "run"

    def test_the_name_alone_could_mean_either(self, elsewhere: Path, run: Run) -> None:
        words = (
            r"'digits' is the name of a data set, which comes with a library, and of a folder; write '{}' for the"
            r" folder, or rename the folder to use the data set"
        )
        assert load_data("digits").val_size == 360
        folder = pictures(elsewhere / "data" / "digits")
        with pytest.raises(DataError, match=words.format("data/digits")):
            load_data("digits")
        assert load_data("data/digits").path == folder
        folder = folder.rename(elsewhere / "digits")
        with pytest.raises(DataError, match=words.format("./digits")):
            load_data("digits")
        for given in ("./digits", Path("digits"), folder):
            data = load_data(given)
            assert (data.info.name, data.val_size, data.path) == ("digits", 2, folder)
        Path("graph.yaml").write_text(GRAPH)
        status, _, err = run("fit", "graph.yaml", "--data", "digits", "--out", "run", "--quiet")
        assert status == 2
        assert re.match(f"error: {words.format('./digits')}", err)

    def test_a_set_s_own_folder_is_no_other(self, elsewhere: Path) -> None:
        (elsewhere / "text").mkdir()
        (elsewhere / "text" / "a.txt").write_text("abcd" * 300)
        assert load_data("text", root=elsewhere).path == elsewhere / "text"
        (elsewhere / "data").mkdir()
        (elsewhere / "data" / "text.txt").write_text("abcd" * 400)
        with pytest.raises(
            DataError, match=r"'text' is the name of a data set, which is in '.*/data/text.txt', and of"
        ):
            load_data("text")

    def test_a_run_measures_on_its_folder(self, digits: Path) -> None:
        assert taken_up(digits).path == digits.parent / "here" / "digits"

    def test_never_on_the_set(self, digits: Path) -> None:
        shutil.rmtree(digits.parent / "here")
        with pytest.raises(DataError, match="the data found as 'digits' have other classes than the run's"):
            measured(digits)
        assert taken_up(digits, root=pictures(digits.parent / "there" / "digits").parent).val_size == 2

    def test_a_run_on_the_set_measures_on_the_set(self, tmp_path: Path, elsewhere: Path) -> None:
        graph = loads(GRAPH.replace("classes: 2", "classes: 10"))
        train(tmp_path / "run", "digits", graph=graph, epochs=2, batch_size=512)
        pictures(elsewhere / "digits")
        assert taken_up(tmp_path / "run").val_size == 360
        without(tmp_path / "run" / "config.yaml", "content")
        assert taken_up(tmp_path / "run").val_size == 360


class TestTexts:
    def test_a_set_in_files_is_found_where_it_was(self, elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (elsewhere / "data").mkdir()
        (elsewhere / "data" / "text.txt").write_bytes(bytes(range(16)) * 40)
        train(elsewhere / "run", "text", graph=loads(TEXT), training={"steps_per_epoch": 2})
        (elsewhere / "deeper" / "data").mkdir(parents=True)
        monkeypatch.chdir("deeper")
        Path("data", "text.txt").write_bytes(bytes(range(15, -1, -1)) * 40)
        assert taken_up(elsewhere / "run").path == elsewhere / "data" / "text.txt"
        (elsewhere / "data" / "text.txt").unlink()
        with pytest.raises(DataError, match=r"as '.*/deeper/data/text.txt' have another text \(sha256 \w+, not sha256"):
            taken_up(elsewhere / "run")


class TestPredict:
    """Without images, ``predict`` takes the validation images of the run's data."""

    def test_classes_as_in_evaluation(self, run_dir: Path, elsewhere: Path, run: Run) -> None:
        status, out, err = run("predict", str(run_dir), "-o", "out", "--device", "cpu")
        assert (status, err) == (0, "")
        assert [line.partition(":")[0] for line in out.splitlines()] == ["0", "1", "classification, 2 images"]
        pets = run_dir.parent / "here" / "pets"
        held_out = [image for image, _ in _held_out(pets)]
        status, _, err = run("predict", str(run_dir), *map(str, held_out), "-o", "files", "--device", "cpu")
        assert (status, err) == (0, "")
        tables = [(elsewhere / name / "predictions.csv").read_text().splitlines() for name in ("out", "files")]
        assert [line.split(",")[1:] for line in tables[0]] == [line.split(",")[1:] for line in tables[1]]

    def test_data_that_moved(self, run_dir: Path, elsewhere: Path, run: Run) -> None:
        pets = (run_dir.parent / "here").rename(run_dir.parent / "there") / "pets"
        command = ("predict", str(run_dir), "-o", "out", "--device", "cpu")
        status, _, err = run(*command)
        assert status == 2
        assert err.endswith("; say where the run's own data are with --data-root or --data\n")
        for options in (("--data", str(pets)), ("--data-root", str(pets.parent))):
            status, out, _ = run(*command, *options)
            assert (status, out.count("\n")) == (0, 3)
        bright = pictures(elsewhere / "bright", least=100)
        with warnings.catch_warnings():
            warnings.simplefilter("default")
            status, _, err = run(*command, "--data", str(bright))
        assert status == 0
        assert err.startswith("warning: these are other data than the run's: ")

    def test_what_does_not_go_together(self, run_dir: Path, elsewhere: Path, run: Run) -> None:
        status, _, err = run("predict", str(run_dir), str(elsewhere), "--data", "pets", "-o", "out")
        assert (status, err) == (2, "error: IMAGES and --data both say what to predict; give one of them\n")
        topolearn.export_onnx(topolearn.load_model(run_dir), elsewhere / "m.onnx")
        status, _, err = run("predict", "m.onnx", "-o", "out")
        assert (status, err) == (
            2,
            "error: 'm.onnx' is a file without data; name images, or a folder of images\n",
        )
        with pytest.raises(OptionError, match="is a file; name a folder to write to"):
            predict_validation(run_dir, elsewhere / "m.onnx")


def _held_out(folder: Path) -> list[tuple[Path, int]]:
    from topolearn.data.folder_layout import ClassFiles, find_files

    files = find_files(folder, None, None)
    assert isinstance(files, ClassFiles)
    return files.val
