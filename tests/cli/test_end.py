"""How the program ends: with nobody to read its output, on a full disk, and without destroying what it reads."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest
from safetensors.torch import save_file

import topolearn
from tests.cli.test_app import finished_run, process
from tests.lifting.networks import network
from topolearn.errors import tell
from topolearn.runs.folder import FILES
from topolearn.training.progress import Reporter

Run = Callable[..., tuple[int, str, str]]

COMMAND = [sys.executable, "-m", "topolearn"]


@pytest.fixture
def unread() -> Iterator[int]:
    """The end to write to of a pipe whose reader has gone away."""
    reader, writer = os.pipe()
    os.close(reader)
    yield writer
    os.close(writer)


@pytest.mark.parametrize("command", [("list",), ("show", "digits"), ("schema",), ("show", "digits", "--json")])
def test_without_a_reader_it_ends_in_silence(command: tuple[str, ...], unread: int) -> None:
    done = subprocess.run([*COMMAND, *command], stdout=unread, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (141, "")


def test_a_complaint_without_a_reader_keeps_its_status(unread: int) -> None:
    done = subprocess.run([*COMMAND, "show", "none"], stdout=subprocess.PIPE, stderr=unread, text=True)
    assert (done.returncode, done.stdout) == (2, "")


def test_progress_without_a_reader_ends_no_run(unread: int, monkeypatch: pytest.MonkeyPatch) -> None:
    stderr = os.fdopen(os.dup(unread), "w", encoding="utf-8")
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", stderr)
        with Reporter(3) as reporter:
            for _ in range(3):
                reporter.say("an epoch")
                tell("a note")
    with pytest.raises(BrokenPipeError):  # what was printed is still there
        stderr.close()


def test_closed_streams_are_no_files(tmp_path: Path) -> None:
    """A file that is opened where stdout is closed would get its number, and then what is printed."""
    path = tmp_path / "net.svg"
    for closed in (">&-", "2>&-", "<&- >&- 2>&-"):
        done = process_of(f"show digits --json -o '{path}' {closed}")
        assert (done.returncode, "Traceback" in done.stderr) == (0, False)
        ElementTree.parse(path)
        path.unlink()
    assert process_of("show none >&- 2>&-").returncode == 2


def process_of(text: str) -> subprocess.CompletedProcess[str]:
    """A command line in a shell."""
    return subprocess.run(["sh", "-c", f"'{sys.executable}' -m topolearn {text}"], capture_output=True, text=True)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
@pytest.mark.parametrize("command", [("list",), ("show", "digits", "--json")])
def test_a_full_disk_is_said(command: tuple[str, ...]) -> None:
    with open("/dev/full", "w", encoding="utf-8") as full:
        done = subprocess.run([*COMMAND, *command], stdout=full, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (2, "error: No space left on device\n")


def test_an_export_does_not_destroy_the_run(run: Run, tmp_path: Path) -> None:
    folder = finished_run(tmp_path / "run", masks=[0.25, 0.75])
    (tmp_path / "link").symlink_to(folder / "graph.yaml")
    before = {path: path.read_bytes() for path in folder.iterdir()}
    for target in (*(folder / name for name in FILES), tmp_path / "link"):
        status, out, err = run("export", str(folder), "-o", str(target))
        assert (status, out) == (2, "")
        assert err.startswith(f"error: writing to {target} would destroy {folder}/")
        assert err.endswith(", which is read; choose another file\n")
    status, _, err = run("export", str(folder), "-o", str(folder / "weights.py"))  # its weights would go beside it
    assert (status, err.partition(" would")[0]) == (2, f"error: writing to {folder / 'weights.safetensors'}")
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_exports_in_other_formats(run: Run, tmp_path: Path) -> None:
    folder = finished_run(tmp_path / "run", masks=[0.25, 0.75])
    save_file({}, folder / "weights.safetensors")  # its graph has no parameters
    archive, source = tmp_path / "net.pt2", tmp_path / "net.py"
    status, out, _ = run("export", str(folder), "-o", str(archive), "--dynamic", "none")
    assert status == 0
    assert out.startswith(f"{archive}: {archive.stat().st_size:,} bytes, differs from the network by at most ")
    status, out, _ = run("export", str(folder), "-o", str(source), "--no-check")
    assert (status, out) == (
        0,
        f"{source}: {source.stat().st_size:,} bytes, not compared\n{source.with_suffix('.safetensors')}: its weights\n",
    )
    for options, why in (
        (("--argmax",), "--argmax is for ONNX files, not for the format torch"),
        (("--format", "pickle"), "unknown format 'pickle'"),
        (("--format", "pt2", "--precision", "float16"), "the format pt2 has no option 'precision'"),
    ):
        status, _, err = run("export", str(folder), "-o", str(tmp_path / "other.py"), *options)
        assert (status, err.startswith(f"error: {why}")) == (2, True), err
    assert not (tmp_path / "other.py").exists()


def test_lifting_does_not_destroy_the_weights(run: Run, tmp_path: Path) -> None:
    weights = tmp_path / "net.safetensors"
    save_file(network("resnet18", num_classes=5).state_dict(), weights)
    before = weights.read_bytes()
    status, _, err = run("lift", "resnet18", "--weights", str(weights), "-o", str(tmp_path / "net.yaml"))
    assert (status, err) == (
        2,
        f"error: writing to {weights} would destroy {weights}, which is read; choose another file\n",
    )
    assert weights.read_bytes() == before
    assert not (tmp_path / "net.yaml").exists()


def test_what_is_there_already_is_replaced_as_before(tmp_path: Path) -> None:
    net = topolearn.compile(topolearn.load_graph("digits"))
    for _ in range(2):
        topolearn.export_onnx(net, tmp_path / "net.onnx", check=False)
    assert process("show", "digits", "-o", str(tmp_path / "net.svg")).returncode == 0
