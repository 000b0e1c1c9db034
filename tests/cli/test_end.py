"""How the program ends: with nobody to read its output, on a full disk, and without destroying what it reads."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest
from PIL import Image
from safetensors.torch import save_file

import topolearn
from tests.cli.test_app import finished_run, process
from tests.lifting.networks import network
from tests.training.runs import ROOT, graph, quick_fit
from topolearn.errors import tell
from topolearn.runs.folder import FILES
from topolearn.training.progress import Reporter

Run = Callable[..., tuple[int, str, str]]

SHORT = ("--epochs", "2", "--set", "train_images=100", "--quiet", "--device", "cpu")

COMMAND = [sys.executable, "-m", "topolearn"]


@pytest.fixture
def unread() -> Iterator[int]:
    """The end to write to of a pipe whose reader has gone away."""
    reader, writer = os.pipe()
    os.close(reader)
    yield writer
    os.close(writer)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "run"
    small = graph(channels=1, classes=10)
    quick_fit(small, data="digits", epochs=2, batch_size=256, training={"train_images": 600}, out=folder)
    return folder


@pytest.mark.parametrize("command", [("list",), ("show", "digits"), ("schema",), ("show", "digits", "--json")])
def test_without_a_reader_it_ends_in_silence(command: tuple[str, ...], unread: int) -> None:
    done = subprocess.run([*COMMAND, *command], stdout=unread, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.parametrize(
    ("command", "written"),
    [
        (("fit", "digits", *SHORT, "--out", "new"), ("new/weights.safetensors", "new/model.onnx")),
        (("prune", "RUN", "--device", "cpu", "--out", "new"), ("new/weights.safetensors",)),
        (("predict", "RUN", "IMAGES", "--device", "cpu", "-o", "new"), ("new/predictions.csv",)),
        (("export", "RUN", "-o", "new.onnx"), ("new.onnx",)),
        (("validate", "digits", "digits"), ()),
        (("list", "ops"), ()),
        (("list", "learners", "maskconnect"), ()),
        (("show", "digits", "--expand"), ()),
        (("bench", "RUN"), ()),
        (("predict", "RUN", "IMAGES", "--device", "cpu"), ()),
    ],
    ids=lambda value: "-".join(value[:2]),
)
def test_without_a_reader_the_work_is_done(
    command: tuple[str, ...], written: tuple[str, ...], unread: int, tmp_path: Path, trained: Path
) -> None:
    (tmp_path / "images").mkdir()
    for number in range(3):
        Image.new("L", (8, 8), number).save(tmp_path / "images" / f"{number}.png")
    names = {"RUN": str(trained), "IMAGES": str(tmp_path / "images")}
    done = subprocess.run(
        [*COMMAND, *(names.get(word, word) for word in command)],
        stdout=unread,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert (done.returncode, done.stderr) == (141, "")
    assert [name for name in written if not (tmp_path / name).is_file()] == []
    if command[0] == "predict" and written:
        assert (tmp_path / "new" / "predictions.csv").read_text().count(".png") >= 3


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


class TestPipesAndDevices:
    """What nobody writes to, or what never ends, is no file: nothing waits for it."""

    @pytest.fixture(autouse=True)
    def _pipes(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        monkeypatch.chdir(tmp_path)
        for name in ("net.yaml", "pipe", "net.safetensors", "net.onnx", "a.png", "a.txt"):
            os.mkfifo(name)
        (tmp_path / "folder").mkdir()
        os.mkfifo("folder/a.png")

        def hangs(*_: object) -> None:
            raise AssertionError("it waits")

        before = signal.signal(signal.SIGALRM, hangs)
        signal.alarm(60)
        yield
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)

    @pytest.mark.parametrize(
        ("command", "says"),
        [
            (("show", "net.yaml"), "net.yaml:1:1: the file is empty"),
            (("validate", "net.yaml"), "net.yaml:1:1: the file is empty"),
            (("fit", "net.yaml"), "net.yaml:1:1: the file is empty"),
            (("compare", "net.yaml"), "net.yaml:1:1: the file is empty"),
            (("show", "/dev/zero"), "/dev/zero: the file is larger than 64 MiB"),
            (("fit", "digits", *SHORT, "--data", "pipe"), "'pipe' is a file; give its folder"),
            (("fit", "digits", *SHORT, "--data", "/dev/zero"), "'/dev/zero' is a file; give its folder"),
            (("fit", "digits", *SHORT, "--data", "folder"), "the folder 'folder' has no class folders"),
            (("fit", "gpt12x64-bytes", *SHORT[:2], "--data", "a.txt"), "'a.txt' is not a file that can be read twice"),
            (("fit", "digits", *SHORT, "--weights", "pipe"), "pipe: not a file but a folder, a pipe or a device"),
            (("fit", "digits", *SHORT, "--weights", "net.safetensors"), "net.safetensors: not a file but a folder"),
            (("fit", "digits", *SHORT, "--weights", "/dev/zero"), "/dev/zero: not a file but a folder, a pipe or a"),
            (("predict", "net.onnx", "a.png"), "there is no 'net.onnx'; name the folder of a finished run, or an ONNX"),
            (
                ("predict", "RUN", "a.png"),
                "none of the 1 images can be used; the first: the image 'a.png' is not a file",
            ),
            (("predict", "RUN", "/dev/zero"), "none of the 1 images can be used; the first: the image '/dev/zero' is"),
            (("predict", "RUN", "folder"), "none of the 1 images can be used; the first: the image 'folder/a.png' is"),
        ],
        ids=lambda value: "-".join(value) if isinstance(value, tuple) else None,
    )
    def test_given_on_the_command_line(self, command: tuple[str, ...], says: str, run: Run, trained: Path) -> None:
        status, out, err = run(*(str(trained) if word == "RUN" else word for word in command))
        assert (status, out) == (2, "")
        assert err.splitlines()[-1].startswith(f"error: {says}")

    def test_a_pipe_with_a_writer_is_read(self, run: Run) -> None:
        text = topolearn.load_graph("digits").to_yaml().encode()
        writer = threading.Thread(target=lambda: Path("net.yaml").write_bytes(text))
        writer.start()
        status, out, _ = run("show", "net.yaml", "--json")
        writer.join()
        assert (status, '"name": "digits"' in out) == (0, True)
