"""The stand-alone runner of exported files, on networks of text built here."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.export.samples import classifier, random_images, speaker
from tests.export.test_run_onnx import FAST, run_error, run_json, run_process, runner
from topolearn.prediction import continue_text

PROMPT = b"to be, or not to be"


@pytest.fixture
def prompt(tmp_path: Path) -> Path:
    path = tmp_path / "prompt.txt"
    path.write_bytes(PROMPT)
    return path


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return speaker(tmp_path / "net.onnx")[0]


def greedy(rows: np.ndarray, prompt: bytes, count: int) -> list[int]:
    """What follows where the likeliest byte is taken each time, of the last eight."""
    text = list(prompt)
    for _ in range(count):
        text.append(int(rows[text[-8:]].astype(np.float64).sum(axis=0).argmax()))
    return text[len(prompt) :]


# What is drawn


@pytest.mark.parametrize("shape", [("batch", 8), ("batch", "length"), (1, 8)])
@pytest.mark.parametrize("given", [b"t", PROMPT])
def test_the_likeliest_bytes_equal_numpy(tmp_path, prompt, capsys, shape, given):
    path, rows = speaker(tmp_path / "net.onnx", shape)
    prompt.write_bytes(given)
    result = run_json(capsys, path, prompt, "--tokens", 20, "--temperature", 0)
    assert result["tokens"] == greedy(rows, given, 20)
    assert result["text"] == bytes(result["tokens"]).decode(errors="replace")
    assert (result["task"], result["version"], result["prompt"]) == ("next_token", "1.2.3", str(prompt))
    assert (result["provider"], result["latency"]["repeat"]) == ("CPUExecutionProvider", 5)
    assert result["latency"]["tokens_per_s"] == pytest.approx(1000 / result["latency"]["mean_ms"])


@pytest.mark.parametrize("temperature", [0, 0.8, 1.0, 1e-300])
def test_the_library_draws_the_same(model, prompt, capsys, temperature):
    result = run_json(capsys, model, prompt, "--tokens", 50, "--temperature", temperature, "--seed", 7)
    assert result["tokens"] == continue_text(model, PROMPT, length=50, temperature=temperature, seed=7)


def test_the_usual_values_are_the_librarys(model, prompt, capsys):
    assert run_json(capsys, model, prompt)["tokens"] == continue_text(model, PROMPT)


def test_the_seed_decides(model, prompt, capsys):
    first, again, other = (run_json(capsys, model, prompt, "--seed", seed)["tokens"] for seed in (1, 1, 2))
    assert first == again
    assert first != other


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_draws_follow_the_softmax(tmp_path, capsys, temperature):
    logits = np.array([0.5, -1.0, 2.0, 1.0])
    size = {"tokens": {"length": 1, "vocabulary": 4}}
    path, _ = speaker(tmp_path / "net.onnx", (1, 1), 4, table=np.tile(logits, (4, 1)), input_size=size)
    (tmp_path / "prompt.bin").write_bytes(b"\x00")
    arguments = ("--tokens", 2000, "--temperature", temperature)
    draws = run_json(capsys, path, tmp_path / "prompt.bin", *arguments)["tokens"]
    powers = np.exp(logits / temperature)
    np.testing.assert_allclose(np.bincount(draws, minlength=4) / 2000, powers / powers.sum(), atol=0.04)


def test_half_precision(tmp_path, prompt, capsys):
    path, rows = speaker(tmp_path / "net.onnx", dtype=np.float16)
    assert run_json(capsys, path, prompt, "--tokens", 3, "--temperature", 0)["tokens"] == greedy(rows, PROMPT, 3)


def test_without_metadata_the_shapes_say_what_it_takes(tmp_path, prompt, capsys):
    bare = {"task": None, "output": None, "input_size": None, "version": None}
    path, rows = speaker(tmp_path / "net.onnx", **bare)
    result = run_json(capsys, path, prompt, "--tokens", 5, "--temperature", 0)
    assert (result["tokens"], result["version"]) == (greedy(rows, PROMPT, 5), "")


# What is printed


def test_lines_name_model_provider_continuation_and_latency(model, prompt, capsys):
    assert runner.main([str(model), str(prompt), "--temperature", "0", "--tokens", "9", *FAST]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{model}: next_token, input tokens ['batch', 8], batch 1"
    assert lines[1].startswith("provider: CPUExecutionProvider")
    for word in ("batch 1", "5 runs after 1", "p50", "tokens/s"):
        assert word in lines[-1]
    assert runner.main([str(model), str(prompt), "--tokens", "9", "--repeat", "0"]) == 0
    assert "latency" not in capsys.readouterr().out


def test_nothing_steers_the_terminal(tmp_path, prompt, capsys):
    wanted = "\x1b[2J\x9b1m\r\x07\u202ered\n\tß".encode()  # no byte twice: each says which one is next
    table = np.zeros((256, 256))
    table[list(b"!" + wanted[:-1]), list(wanted)] = 1
    path, _ = speaker(tmp_path / "net.onnx", (1, 1), table=table)
    prompt.write_bytes(b"!")
    arguments = (str(path), str(prompt), "--tokens", str(len(wanted)), "--temperature", "0")
    assert runner.main([*arguments, *FAST]) == 0
    out = capsys.readouterr().out
    assert "\n[2J1mred\n\tß\nlatency" in out
    assert all(char.isprintable() or char in "\n\t" for char in out)
    done = run_process(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    assert done.stdout.rstrip("\n").isprintable()
    assert json.loads(done.stdout)["tokens"] == list(wanted)
    path, _ = speaker(tmp_path / "net.onnx", task="next\x1b[31m")
    assert "it gives logits for next[31m" in run_error(capsys, path, prompt)


def test_a_prompt_from_standard_input(model, prompt, capsys, monkeypatch):
    wanted = run_json(capsys, model, prompt)["tokens"]
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(PROMPT)))
    assert run_json(capsys, model, "-")["tokens"] == wanted


# Mistakes


def test_prompts_that_cannot_be_continued(tmp_path, model, prompt, capsys):
    (image,) = random_images(tmp_path / "images", 1)
    empty = tmp_path / "empty.txt"
    empty.touch()
    small, _ = speaker(tmp_path / "small.onnx", vocabulary=100)
    assert "none.txt: no such file" in run_error(capsys, model, tmp_path / "none.txt")
    assert "it is a folder; name one text file" in run_error(capsys, model, tmp_path)
    assert "it is an image, but the model continues text" in run_error(capsys, model, image)
    assert "it is empty; the model needs at least one byte" in run_error(capsys, model, empty)
    assert "one prompt, but 2 are given" in run_error(capsys, model, prompt, prompt)
    assert "it has the byte 116, but the model knows 0 to 99" in run_error(capsys, small, prompt)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--tokens", "0"), "'0' is not an integer from 1"),
        (("--temperature", "-1"), "'-1' is not a finite number from 0"),
        (("--temperature", "nan"), "'nan' is not a finite number from 0"),
        (("--temperature", "inf"), "'inf' is not a finite number from 0"),
        (("--temperature", "hot"), "'hot' is not a finite number from 0"),
        (("--seed", "-1"), "'-1' is not an integer from 0"),
        (("--size", "8x8"), "--size is for images, but "),
        (("--native",), "--native is for images, but "),
        (("--batch", "2"), "--batch is for images, but "),
        (("--top", "2"), "--top is for images, but "),
        (("-o", "out"), "--output is for images, but "),
    ],
)
def test_options_that_do_not_fit(model, prompt, capsys, options, words):
    assert words in run_error(capsys, model, prompt, *options)


@pytest.mark.parametrize("options", [("--tokens", 5), ("--temperature", 0), ("--seed", 0)])
def test_options_of_text_are_not_for_images(tmp_path, capsys, options):
    path, _ = classifier(tmp_path / "net.onnx")
    words = f"{options[0]} is for text, but {path} takes images; leave it out"
    assert words in run_error(capsys, path, *random_images(tmp_path / "images", 1), *options)


def test_text_for_a_network_of_images(tmp_path, prompt, capsys):
    path, _ = classifier(tmp_path / "net.onnx")
    assert "none of the 1 images can be read" in run_error(capsys, path, prompt)


def sizes(length: Any, vocabulary: Any = 256) -> dict[str, Any]:
    return {"input_size": {"tokens": {"length": length, "vocabulary": vocabulary}}}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"shape": ("batch", "length"), "input_size": None}, "its length is unknown"),
        ({"shape": ("batch", "length"), **sizes(-1)}, "its length is -1"),
        ({"shape": ("batch", "length"), **sizes(2**40)}, f"its length is {2**40}; this runner needs one from 1 to"),
        ({"shape": ("batch", "length"), **sizes("8")}, "its length is unknown"),
        ({"shape": ("batch", "length"), "input_size": [8]}, "is damaged"),
        ({"shape": (4, 8)}, "it takes 4 texts at a time; export it with a dynamic batch"),
        ({"vocabulary": 300}, "it has a vocabulary of 300, but this runner knows bytes"),
        ({"task": "regression"}, "it gives logits for regression; of ids this runner knows logits for next_token"),
        ({"output": "argmax"}, "it gives argmax for next_token"),
        ({"shape": ("batch", 8, 2)}, "of text this runner feeds ids (batch, length)"),
        ({"table": np.full((256, 256), np.nan)}, "infinite values or NaN"),
    ],
)
def test_files_that_do_not_fit(tmp_path, prompt, capsys, changes, words):
    path, _ = speaker(tmp_path / "net.onnx", **changes)
    assert words in run_error(capsys, path, prompt)
