"""``topolearn predict`` of text: a prompt in, its continuation out."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pytest

import topolearn
from tests.export.samples import classifier, random_images
from tests.prediction.texts import text_graph, text_run
from topolearn.compiler import compile as build
from topolearn.prediction import continue_text, printable

Run = Callable[..., tuple[int, str, str]]

PROMPT = "the quick brown fox jumps over the lazy Straße".encode()[:-2]
"""Ends within a character."""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run on text."""
    folder = text_run(tmp_path_factory.mktemp("text")).folder
    assert folder is not None
    return folder


@pytest.fixture
def prompt(tmp_path: Path) -> Path:
    path = tmp_path / "prompt.txt"
    path.write_bytes(PROMPT)
    return path


def test_the_continuation_is_printed_safely(run: Run, finished: Path, prompt: Path) -> None:
    status, out, err = run("predict", str(finished), str(prompt), "--device", "cpu", "--length", "120")
    added = bytes(continue_text(finished, PROMPT, length=120, device="cpu"))
    assert (status, err) == (0, "")
    assert out == printable(added.decode(errors="replace"), kept="\n\t") + "\n"
    assert "\ufffd" in out
    assert all(char.isprintable() or char in "\n\t" for char in out)


def test_prompt_and_continuation_go_to_a_file_as_bytes(run: Run, finished: Path, prompt: Path) -> None:
    file = prompt.with_name("out.txt")
    options = ("--length", "9", "--temperature", "0.5", "--seed", "3", "--device", "cpu")
    status, out, err = run("predict", str(finished), str(prompt), "-o", str(file), *options)
    assert (status, out, err) == (0, f"next_token, 9 bytes after {len(PROMPT)}: {file}\n", "")
    added = continue_text(finished, PROMPT, length=9, temperature=0.5, seed=3, device="cpu")
    assert file.read_bytes() == PROMPT + bytes(added)


def test_a_prompt_from_standard_input(run: Run, finished: Path, prompt: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from_file = run("predict", str(finished), str(prompt), "--temperature", "0")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(PROMPT)))
    assert run("predict", str(finished), "-", "--temperature", "0") == from_file


def test_an_exported_file_says_the_same(run: Run, finished: Path, prompt: Path, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    assert run("export", str(finished), "-o", str(path))[0] == 0
    assert run("predict", str(path), str(prompt)) == run("predict", str(finished), str(prompt), "--device", "cpu")


def test_mistakes_are_one_line_and_write_nothing(run: Run, finished: Path, prompt: Path, tmp_path: Path) -> None:
    (image,) = random_images(tmp_path / "images", 1)
    (tmp_path / "empty.txt").write_bytes(b"")
    classes, _ = classifier(tmp_path / "net.onnx")
    for vocabulary in (100, 300):
        topolearn.export_onnx(build(text_graph(vocabulary)), tmp_path / f"{vocabulary}.onnx", check=False)
    out = tmp_path / "out.txt"
    for arguments, message in (
        ((finished, tmp_path / "none.txt"), f"there is no file '{tmp_path}/none.txt'; name a text file"),
        ((finished, tmp_path), f"'{tmp_path}' is a folder; name one text file"),
        ((finished, image), f"'{image}' is an image, but the network continues text; name a text file"),
        ((finished, prompt, prompt), f"'{finished}' continues one prompt, but 2 are given; name one text file"),
        ((finished, tmp_path / "empty.txt"), "the prompt is empty; give at least one token"),
        ((finished, prompt, "--temperature", "-1"), "'temperature' is -1.0, but must be a finite number from 0"),
        ((finished, prompt, "--temperature", "nan"), "'temperature' is nan, but must be"),
        ((finished, prompt, "--length", "0"), "'length' is 0, but must be at least 1"),
        ((finished, prompt, "--seed", "-1"), "'seed' is -1, but must be at least 0"),
        ((tmp_path / "none", prompt), f"there is no '{tmp_path}/none'; name the folder of a finished run"),
        ((tmp_path, prompt), f"{tmp_path} holds no run"),
        ((tmp_path / "100.onnx", prompt), "the prompt has the byte 116 at place 0, but "),
        ((tmp_path / "300.onnx", prompt), f"'{tmp_path}/300.onnx' has a vocabulary of 300, the tokens of a tokenizer"),
        ((classes, image, "--seed", "0"), f"--seed is for text, but '{classes}' is for classification; leave it out"),
        ((classes, image, "--temperature", "0"), "--temperature is for text"),
        ((classes, image, "--length", "5"), "--length is for text"),
    ):
        status, printed, err = run("predict", *map(str, arguments), "-o", str(out))
        assert (status, printed, err.count("\n")) == (2, "", 1)
        assert err.startswith(f"error: {message}")
        assert not out.exists()
    status, printed, err = run("predict", str(classes), str(prompt), "-o", str(out))
    assert (status, printed, out.exists()) == (2, "", False)
    assert err.splitlines()[-1].startswith(f"error: none of the 1 images can be used; the first: the image '{prompt}'")
    status, printed, err = run("predict", str(classes), str(image))
    assert (status, err) == (0, "")  # classes need no folder
    answer, count = printed.splitlines()
    assert answer.startswith(f"{image}: ")
    assert answer.count("%") == 3
    assert count == "classification, 1 image"
    assert not out.exists()


def test_a_file_that_cannot_be_written(run: Run, finished: Path, prompt: Path, tmp_path: Path) -> None:
    for out in (tmp_path, tmp_path / "none" / "out.txt"):
        status, printed, err = run("predict", str(finished), str(prompt), "--length", "1", "-o", str(out))
        assert (status, printed, err.count("\n")) == (2, "", 1)
        assert err.startswith(f"error: cannot write {out}: ")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["prompt.txt"]


def test_the_continuation_does_not_destroy_the_network(run: Run, finished: Path, prompt: Path) -> None:
    weights = finished / "weights.safetensors"
    before = weights.read_bytes()
    status, _, err = run("predict", str(finished), str(prompt), "--device", "cpu", "-o", str(weights))
    assert status == 2
    assert err == f"error: writing to {weights} would destroy {weights}, which is read; choose another file\n"
    assert weights.read_bytes() == before
