"""What a run leaves in its folder: whole or not at all, the same bytes, and read back with care."""

from __future__ import annotations

import errno
import json
import os
import pickle
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch

import topolearn
from tests.data.toys import toy
from tests.training.runs import ROOT, Stopping, assert_same, graph, run
from topolearn.errors import CheckpointError, OptionError, TopolearnError
from topolearn.learners import Fixed
from topolearn.runs import folder as run_folder
from topolearn.runs import read_result
from topolearn.runs.checkpoint import load_state, save_state
from topolearn.runs.folder import STATE
from topolearn.runs.tensor_files import load_tensors, save_tensors

ARTEFACTS = [
    "config.yaml",
    "graph.yaml",
    "history.jsonl",
    "movement.f32",
    "search.safetensors",
    "search.yaml",
    "weights.safetensors",
]


class Stop(BaseException):
    """Ends a run where no handler expects it."""


def stop() -> None:
    raise Stop


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    run(folder)
    return folder


@pytest.fixture
def finished(whole: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(whole, tmp_path / "finished"))


@pytest.fixture
def stopped(tmp_path: Path) -> Path:
    """The folder of a run that was stopped in its second epoch."""
    with pytest.raises(Stop):
        run(tmp_path / "stopped", loss=Stopping(stop, at=[9]))
    return tmp_path / "stopped"


def fails(folder: Path, *texts: str, **options: Any) -> None:
    with pytest.raises(TopolearnError) as caught:
        run(folder, **{"resume": True} | options)
    assert all(text in str(caught.value) for text in texts), str(caught.value)
    assert "\n" not in str(caught.value)


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != "tensorboard")


# -- artefacts ----------------------------------------------------------------------------------


def test_artefacts(whole: Path) -> None:
    assert files(whole) == ARTEFACTS
    assert topolearn.load_graph(whole / "search.yaml") == graph()
    learned = topolearn.load_graph(whole / "graph.yaml")
    assert len(learned.edges) < len(graph().edges)
    records = [json.loads(line) for line in (whole / "history.jsonl").read_text().splitlines()]
    assert [record["phase"] for record in records] == ["search"] * 3 + ["fine_tune"] * 2 + ["result"]


def test_equal_runs_write_equal_bytes(whole: Path, tmp_path: Path) -> None:
    run(tmp_path / "again")
    assert_same(whole, tmp_path / "again")


def test_safetensors_have_one_metadata_key(whole: Path) -> None:
    from safetensors import safe_open

    for name in ("weights", "search"):
        with safe_open(whole / f"{name}.safetensors", "pt") as file:
            assert list(file.metadata()) == ["topolearn"]
            assert json.loads(file.metadata()["topolearn"])["graph"] == "tiny"


def test_saved_bytes_do_not_depend_on_the_order(tmp_path: Path) -> None:
    tensors = {name: torch.rand(3, 2).T for name in "cab"}
    save_tensors(tmp_path / "one", tensors, {"x": 1, "y": 2})
    save_tensors(tmp_path / "other", dict(sorted(tensors.items())), {"y": 2, "x": 1})
    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()
    assert all(torch.equal(value, tensors[name]) for name, value in load_tensors(tmp_path / "one").items())


def test_a_result_saves_what_its_run_wrote(whole: Path, tmp_path: Path) -> None:
    run().save(tmp_path / "deep" / "saved")
    read_result(whole).save(tmp_path / "copied")
    for folder in (tmp_path / "deep" / "saved", tmp_path / "copied"):
        assert files(folder) == [name for name in ARTEFACTS if name not in ("search.safetensors", "movement.f32")]
        for name in ("weights.safetensors", "graph.yaml", "search.yaml", "config.yaml"):
            assert (folder / name).read_bytes() == (whole / name).read_bytes()
        assert topolearn.load_model(folder).about == topolearn.load_model(whole).about
        assert read_result(folder).metrics == read_result(whole).metrics


def test_a_result_loads_without_code_of_the_search(whole: Path, tmp_path: Path) -> None:
    for name in ("graph.yaml", "weights.safetensors"):
        shutil.copy(whole / name, tmp_path / name)
    program = (
        "import sys, torch, topolearn\n"
        f"net = topolearn.load_model({str(tmp_path)!r})\n"
        "assert net(torch.zeros(2, 3, 8, 6)).shape == (2, 4) and not net.training\n"
        "print(*[name for name in sys.modules if name.startswith('topolearn.')])\n"
    )
    ran = subprocess.run([sys.executable, "-W", "error", "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    loaded = ran.stdout.split()
    assert "topolearn.runs.config" in loaded
    search = ("learners", "training", "data", "tasks")
    assert not [name for name in loaded if name.startswith(tuple(f"topolearn.{part}" for part in search))]


def test_a_finished_run_is_returned(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {name: (finished / name).read_bytes() for name in files(finished)}
    monkeypatch.setattr("topolearn.training.fitting.Trainer", None)
    result = run(finished, resume=True)
    assert {name: (finished / name).read_bytes() for name in files(finished)} == before
    assert result.learner is None
    assert result.searched == graph()
    assert result.metrics == result.history[-1]["metrics"]
    assert result.searched_metrics
    assert result.info.classes == toy().info.classes
    assert result.info.size == (3, 8, 6)
    assert result.folder == finished


# -- folders that hold something else -----------------------------------------------------------


def test_a_folder_that_holds_a_run(finished: Path) -> None:
    fails(finished, str(finished), "already holds a run; give --resume, or choose another folder", resume=False)
    (finished / "config.yaml").unlink()
    fails(finished, "already holds a run", resume=False)
    fails(finished, "config.yaml: no such file; is this the folder of a run?")


def test_resume_without_a_run_starts_one(whole: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").write_text("mine")
    for resume in (False, True):
        with pytest.raises(OptionError) as caught:
            run(tmp_path / "run", resume=resume)
        assert str(caught.value) == (
            f"the folder {tmp_path / 'run'} already holds other files, 'notes.txt', so nothing is written there; choose"
            " a new or empty folder with --out"
        )
    assert [path.read_text() for path in (tmp_path / "run").iterdir()] == ["mine"]
    (tmp_path / "run" / "notes.txt").rename(tmp_path / "run" / ".notes")
    (tmp_path / "run" / "search.yaml").write_text("")  # of a run that was killed before it wrote its config.yaml
    run(tmp_path / "run", resume=True)
    (tmp_path / "run" / ".notes").unlink()
    assert_same(whole, tmp_path / "run")


@pytest.mark.parametrize("which", ["stopped", "finished"])
def test_a_run_of_something_else(which: str, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(which)
    fails(folder, "searches graph 'tiny', which is not this graph 'other'", graph=graph(name="other"))
    for options, text in (
        ({"lr": 0.1}, "began with lr 0.05, not 0.1"),
        ({"seed": 1}, "began with seed 0, not 1"),
        ({"epochs": 6}, "began with epochs 5, not 6"),
        ({"learner": "continuous"}, "began with learner maskconnect, not continuous"),
        ({"fan_in": 1}, "began with learner_options.fan_in null, not 1"),
        ({"training": {"schedule": "poly"}}, "began with training.schedule cosine, not poly"),
        ({"data": toy(classes=tuple("wxzq"))}, "began with classes [a, b, c, d], not [w, x, z, q]"),
    ):
        fails(folder, text, "resume it with the same settings, or choose another folder", **options)
    # Neither changes what comes out.
    assert run(folder, resume=True, training={"workers": 1, "checkpoint_steps": 7}).metrics


def test_a_run_begun_before_an_option_existed(finished: Path) -> None:
    path = finished / "config.yaml"
    config = path.read_text()
    assert " node_lr: {}," in config
    path.write_text(config.replace(" node_lr: {},", ""))
    assert run(finished, resume=True).metrics
    fails(finished, "began with training.node_lr.head null, not 0.5", training={"node_lr": {"head": 0.5}})
    assert " update: balanced," in config
    path.write_text(config.replace(" update: balanced,", ""))
    assert run(finished, resume=True).metrics
    fails(finished, "began with learner_options.update balanced, not literal", update="literal")


def test_a_run_of_a_learner_that_is_not_registered(tmp_path: Path) -> None:
    class Own(Fixed):  # type: ignore[misc]
        learner_name = "own"

    begun = run(tmp_path / "run", Own(graph()), epochs=1)
    assert run(tmp_path / "run", Own(graph()), epochs=1, resume=True).metrics == begun.metrics
    fails(tmp_path / "run", "began with learner own, not fixed", learner="fixed", epochs=1)


# -- damage -------------------------------------------------------------------------------------


class Malice:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (os.mkdir, (str(self.path),))


def test_a_damaged_checkpoint(stopped: Path, tmp_path: Path, whole: Path) -> None:
    path = stopped / STATE
    good = path.read_bytes()
    trap = tmp_path / "trap"
    bad = {
        "truncated": good[: len(good) // 2],
        "empty": b"",
        "garbage": os.urandom(1000),
        "text": b"hello",
        "a pickle": pickle.dumps({"format": 1, "position": Malice(trap)}),
    }
    for name, content in bad.items():
        path.write_bytes(content)
        fails(stopped, str(path), "damaged checkpoint", "remove it to start again")
        assert path.read_bytes() == content, name
    torch.save({"format": 1, "position": Malice(trap)}, path)
    fails(stopped, "damaged checkpoint")
    assert not trap.exists(), "the checkpoint ran code"
    torch.save({"format": 99}, path)
    fails(stopped, "a checkpoint of another version")
    torch.save([1, 2], path)
    fails(stopped, "a checkpoint of another version")
    path.unlink()
    run(stopped, resume=True)
    assert_same(whole, stopped)


def test_the_checkpoint_of_another_run(stopped: Path, tmp_path: Path) -> None:
    path = stopped / STATE
    good = torch.load(path, weights_only=True)
    removed = next(name for name in good["network"] if name.startswith("nodes.head"))
    short = {name: value for name, value in good["network"].items() if name != removed}
    wide = good["network"] | {removed: torch.zeros(9, 9)}
    moved = {**good["position"], "phase": 7}
    for changes, text in (
        ({"network": short}, f"holds no '{removed}'"),
        ({"network": wide}, f"'{removed}' has shape [9, 9], but the graph needs [4, 3]"),
        ({"network": {}}, "holds no "),
        ({"learner": {}}, "holds no 'mask'"),
        ({"position": moved}, "the checkpoint of another run"),
        ({"position": {}, "optimizers": []}, "the checkpoint of another run"),
        ({"optimizers": good["optimizers"][:1]}, "the checkpoint of another run"),
        ({"optimizers": good["optimizers"][::-1]}, "the checkpoint of another run"),
        ({"history": None}, "the checkpoint of another run"),
    ):
        torch.save({**good, **changes}, path)
        fails(stopped, str(path), text)
    torch.save({name: value for name, value in good.items() if name != "epoch_loss"}, path)
    fails(stopped, "the checkpoint of another run")


@pytest.mark.parametrize("content", [b"", b"text", b"\x10\x00\x00\x00\x00\x00\x00\x00{", None])
def test_damaged_weights(finished: Path, content: bytes | None) -> None:
    path = finished / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:-100] if content is None else content)
    for read in (topolearn.load_model, read_result, lambda folder: run(folder, resume=True)):
        with pytest.raises(CheckpointError) as caught:
            read(finished)
        assert str(caught.value).startswith(f"{path}: damaged, or not a safetensors file (")
        assert "\n" not in str(caught.value)


def test_weights_of_another_graph(finished: Path) -> None:
    text = (finished / "graph.yaml").read_text()
    (finished / "graph.yaml").write_text(text.replace("stem", "trunk"))
    with pytest.raises(CheckpointError, match=r"weights.safetensors: holds no 'nodes.trunk"):
        topolearn.load_model(finished)


def test_folders_without_a_result(tmp_path: Path, stopped: Path, finished: Path) -> None:
    for folder, text in (
        (stopped, "is not finished; go on with --resume"),
        (tmp_path, "holds no run"),
        (tmp_path / "nowhere", "there is no folder"),
    ):
        with pytest.raises(CheckpointError, match=text):
            topolearn.load_model(folder)
    with pytest.raises(CheckpointError, match="is not finished; go on with --resume"):
        read_result(stopped)
    for content in ("", "3\n", '{"phase": "result"', '{"phase": "search"}\n', "\xff\xfe"):
        (finished / "history.jsonl").write_text(content, encoding="latin-1")
        with pytest.raises(CheckpointError):
            read_result(finished)
    (finished / "history.jsonl").unlink()
    with pytest.raises(CheckpointError, match=r"history.jsonl: cannot be read"):
        read_result(finished)


# -- writing ------------------------------------------------------------------------------------


def test_a_file_in_place_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    fails(tmp_path / "file", "cannot make the folder", "choose another place", resume=False)
    fails(tmp_path / "file" / "run", "cannot make the folder", "choose another place", resume=False)
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    fails(tmp_path / "run", "cannot make the folder", "choose another place", resume=False)
    fails(tmp_path, "cannot write", "choose another place", resume=False)
    tmp_path.chmod(0o700)


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_file(tmp_path: Path, call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    save_state(tmp_path, {"value": 1})

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, call, full)
    with pytest.raises(TopolearnError, match="No space left on device; choose another place or make room"):
        save_state(tmp_path, {"value": 2})
    assert load_state(tmp_path) == {"format": 1, "value": 1}
    assert [path.name for path in (tmp_path / "checkpoint").iterdir()] == ["state.pt"]


@pytest.fixture
def writes(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes the n-th file that is written fail, by an error of one's choice."""
    replace = os.replace
    plan: dict[str, Any] = {"left": -1, "error": None, "seen": []}

    def limited(source: Any, target: Any) -> None:
        plan["seen"].append(Path(target).name)
        plan["left"] -= 1
        if plan["left"] == -1:
            raise plan["error"]
        replace(source, target)

    monkeypatch.setattr(os, "replace", limited)

    def at(number: int, error: BaseException) -> list[str]:
        plan.update(left=number, error=error, seen=[])
        return plan["seen"]

    return at


def test_stopped_at_any_write_and_resumed(whole: Path, tmp_path: Path, writes: Any) -> None:
    """Whether the disk is full or the process ends: what is there is whole, and a resume mends the rest."""
    few = {"checkpoint_steps": None}
    seen = writes(1000, Stop())
    run(tmp_path / "counted", training=few)
    total = list(seen)
    # Of the files of a run, state.pt is written after each epoch, history.jsonl at the start and the end.
    assert total == [
        *("search.yaml", "config.yaml", "history.jsonl", "state.pt", "state.pt", "state.pt"),
        *("search.safetensors", "state.pt", "state.pt", "history.jsonl", "graph.yaml", "weights.safetensors"),
    ]
    for number, name in enumerate(total):
        folder = tmp_path / f"stopped at {number}"
        error = Stop() if number % 2 else OSError(errno.ENOSPC, "No space left on device")
        writes(number, error)
        with pytest.raises(Stop if number % 2 else TopolearnError) as caught:
            run(folder, training=few)
        if not number % 2:
            assert f"{name}: No space left on device; choose another place or make room" in str(caught.value)
        hidden = [path.name for path in folder.rglob(".*")]
        assert not hidden, "a temporary file was left"
        writes(1000, Stop())
        run(folder, training=few, resume=number > 1)
        for artefact in ("weights.safetensors", "graph.yaml", "search.safetensors", "movement.f32"):
            assert (folder / artefact).read_bytes() == (whole / artefact).read_bytes()
        assert files(folder) == ARTEFACTS


def test_what_a_killed_write_left_is_removed(stopped: Path, whole: Path) -> None:
    for name in (".weights.safetensors.x1", ".history.jsonl.x2", "checkpoint/.state.pt.x3"):
        (stopped / name).write_text("half")
    (stopped / ".mine").write_text("mine")
    run(stopped, resume=True)
    assert (stopped / ".mine").read_text() == "mine"
    (stopped / ".mine").unlink()
    assert_same(whole, stopped)


def test_history_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        (tmp_path / "run" / "history.jsonl").unlink()
        (tmp_path / "run" / "history.jsonl").mkdir()

    with pytest.raises(TopolearnError, match=r"cannot write .*history.jsonl: Is a directory; make room, then --resume"):
        run(tmp_path / "run", loss=Stopping(full, at=[3]))


# -- one run per folder -------------------------------------------------------------------------


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("resume", [True, False])
def test_a_folder_that_another_run_trains_in(resume: bool, stopped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_folder, "PATIENCE", 0.0)
    before = contents(stopped)
    with run_folder.claimed(stopped):
        fails(stopped, f"another process is training in {stopped}; wait for it", "--out", resume=resume)
    assert contents(stopped) == before


def test_a_run_claims_its_folder_until_it_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_folder, "PATIENCE", 0.0)
    folder = tmp_path / "run"
    refused: list[str] = []

    def second() -> None:
        with pytest.raises(CheckpointError) as caught:
            run(folder, resume=True)
        refused.append(str(caught.value))

    run(folder, loss=Stopping(second, at=[1, 9], val=[9]))
    assert len(refused) == 3
    assert all("another process is training in" in text for text in refused)
    run(folder, resume=True)


def test_a_claim_waits_for_what_is_about_to_end(tmp_path: Path) -> None:
    entered, order = threading.Event(), []

    def first() -> None:
        with run_folder.claimed(tmp_path):
            entered.set()
            time.sleep(0.3)
            order.append("first")

    thread = threading.Thread(target=first)
    thread.start()
    entered.wait()
    with run_folder.claimed(tmp_path):
        order.append("second")
    thread.join()
    assert order == ["first", "second"]


def test_a_claim_leaves_no_empty_folder(tmp_path: Path) -> None:
    with run_folder.claimed(tmp_path / "a" / "b"):
        assert (tmp_path / "a" / "b").is_dir()
    assert not list(tmp_path.iterdir())
    (tmp_path / "mine").mkdir()
    with run_folder.claimed(tmp_path / "mine"), run_folder.claimed(tmp_path / "c" / "d"):
        (tmp_path / "c" / "file").write_text("")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["c", "file", "mine"]
