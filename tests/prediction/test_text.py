"""From a prompt to its continuation: what is drawn, that a run and its file agree, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper

import topolearn
from tests.export.samples import classifier, random_images
from tests.prediction.texts import CONTEXT, always, text_graph, text_run
from topolearn.compiler import compile as build
from topolearn.errors import CheckpointError, DataError, ExportError, OptionError, TopolearnError
from topolearn.prediction import Model, TextModel, continue_text, draw_examples, load, predict, printable
from topolearn.runs import FitResult

PROMPT = "the quick brown fox"
LOGITS = (0.5, -1.0, 2.0, 1.0)


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> FitResult:
    """A finished run on text, with its folder."""
    return text_run(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="module")
def sources(result: FitResult, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folder of the run, and files exported from it that take any length, or one."""
    assert result.folder is not None
    folder = tmp_path_factory.mktemp("files")
    for name, axes in (("any", ("batch", "length")), ("one", ("batch",))):
        topolearn.export_onnx(result.model, folder / f"{name}.onnx", dynamic=axes)
    return {"run": result.folder, "any": folder / "any.onnx", "one": folder / "one.onnx"}


# -- what is drawn --------------------------------------------------------------------------------


@pytest.mark.parametrize("prompt", ["t", PROMPT])
@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_a_run_and_its_files_continue_alike(sources: dict[str, Path], prompt: str, temperature: float) -> None:
    said = {
        name: continue_text(path, prompt, length=3 * CONTEXT, temperature=temperature, device="cpu")
        for name, path in sources.items()
    }
    assert said["any"] == said["run"]
    assert said["one"] == said["run"]
    assert len(said["run"]) == 3 * CONTEXT
    assert len(set(said["run"])) > 2


def test_each_token_follows_from_the_last_ones_before_it(result: FitResult, sources: dict[str, Path]) -> None:
    ids = list(PROMPT.encode())
    with torch.no_grad():
        for _ in range(5):
            logits = result.model.cpu().eval()(torch.tensor([ids[-CONTEXT:]]))
            ids.append(int(logits[0, -1].argmax()))
    for source in sources.values():
        found = continue_text(source, PROMPT.encode(), length=5, temperature=0, device="cpu")
        assert found == ids[len(PROMPT) :]
        assert continue_text(source, PROMPT[-CONTEXT:], length=5, temperature=0, device="cpu") == found


def test_text_bytes_and_ids_are_the_same_prompt(sources: dict[str, Path]) -> None:
    model = load(sources["run"], device="cpu")
    assert isinstance(model, TextModel)
    given: tuple[Any, ...] = (
        "Straße",
        "Straße".encode(),
        list("Straße".encode()),
        np.frombuffer("Straße".encode(), "u1"),
    )
    assert len({tuple(continue_text(model, prompt, length=9)) for prompt in given}) == 1


def test_the_seed_decides(sources: dict[str, Path]) -> None:
    first, again, other = (continue_text(sources["any"], PROMPT, length=30, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first != other
    assert continue_text(sources["any"], PROMPT, length=10, seed=1) == first[:10]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_draws_follow_the_softmax(temperature: float) -> None:
    draws = continue_text(always(LOGITS), [0], length=4000, temperature=temperature)
    powers = np.exp(np.array(LOGITS) / temperature)
    found = np.bincount(draws, minlength=len(LOGITS)) / len(draws)
    np.testing.assert_allclose(found, powers / powers.sum(), atol=0.03)


def test_temperatures_at_the_edge_of_what_numbers_hold() -> None:
    for temperature in (0.0, 5e-324, 1e-300):
        assert set(continue_text(always(LOGITS), [0], length=20, temperature=temperature)) == {2}
    assert set(continue_text(always(LOGITS), [0], length=200, temperature=1e300)) == {0, 1, 2, 3}
    assert set(continue_text(always((3e38, -3e38)), [0], length=20)) == {0}


def test_half_precision(result: FitResult, tmp_path: Path) -> None:
    path = tmp_path / "half.onnx"
    topolearn.export_onnx(result.model, path, precision="float16", dynamic=("batch", "length"))
    assert len(continue_text(path, PROMPT, length=4)) == 4


def test_turned_positions_read_no_more_than_declared(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    topolearn.export_onnx(build(text_graph(positions="rotary")), path, dynamic=("batch", "length"))
    model = load(path)
    assert isinstance(model, TextModel)
    assert model.info.size == (CONTEXT,)
    ids = list(PROMPT.encode())
    assert torch.equal(model(ids).shares, model(ids[-CONTEXT:]).shares)


def test_what_a_terminal_would_obey_is_left_out() -> None:
    text = "\x1b[31mred\r\n\tStraße \u202eabc\u2066\x9b\x07\x00 \ufffd 日本"
    assert printable(text, kept="\n\t") == "[31mred\n\tStraße abc \ufffd 日本"
    assert printable(text) == "[31mredStraße abc \ufffd 日本"


# -- mistakes -------------------------------------------------------------------------------------


def refused(error: type[TopolearnError], words: str, ask: Callable[..., Any], *arguments: Any, **options: Any) -> None:
    """It raises one line."""
    with pytest.raises(error, match=words) as caught:
        ask(*arguments, **options)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"temperature": -0.1}, "'temperature' is -0.1, but must be a finite number from 0"),
        ({"temperature": float("nan")}, "'temperature' is nan"),
        ({"temperature": float("inf")}, "'temperature' is inf"),
        ({"length": 0}, "'length' is 0, but must be at least 1"),
        ({"seed": -1}, "'seed' is -1, but must be at least 0"),
    ],
)
def test_options_that_make_no_sense(options: dict[str, Any], words: str) -> None:
    refused(OptionError, words, continue_text, always(LOGITS), [0], **options)


@pytest.mark.parametrize(
    ("vocabulary", "prompt", "words"),
    [
        (256, b"", "the prompt is empty; give at least one token"),
        (256, "", "the prompt is empty"),
        (256, [], "the prompt is empty"),
        (100, "abt", "the prompt has the byte 116 at place 2, but 'net' knows 0 to 99"),
        (256, [1, 256], "the prompt has the id 256 at place 1, but 'net' knows 0 to 255"),
        (256, [1, -1], "the prompt has the id -1 at place 1"),
        (256, [0.5], "the prompt is a list, but must be bytes, text or whole numbers"),
        (256, None, "the prompt is a NoneType, but must be"),
        (257, "text", "'net' has a vocabulary of 257, the tokens of a tokenizer, not bytes; use .*continue_text"),
    ],
)
def test_prompts_that_cannot_be_continued(vocabulary: int, prompt: Any, words: str) -> None:
    refused(DataError, words, continue_text, always([0.0] * vocabulary), prompt)


def test_ids_of_a_tokenizer_give_ids() -> None:
    logits = [0.0] * 1000
    logits[700] = 1.0
    assert continue_text(always(logits), [999], length=3, temperature=0) == [700, 700, 700]


def test_sources_that_are_not_there_or_not_finished(result: FitResult, tmp_path: Path) -> None:
    assert result.folder is not None
    refused(
        CheckpointError, "there is no '.*none'; name the folder of a finished", continue_text, tmp_path / "none", "a"
    )
    refused(CheckpointError, "holds no run", continue_text, tmp_path, "a")
    (tmp_path / "config.yaml").write_bytes((result.folder / "config.yaml").read_bytes())
    refused(CheckpointError, "is not finished; go on with --resume", continue_text, tmp_path, "a")


def test_images_and_text_are_not_mixed_up(sources: dict[str, Path], tmp_path: Path) -> None:
    path, _ = classifier(tmp_path / "net.onnx")
    assert isinstance(load(path), Model)
    refused(DataError, "net.onnx' is for classification, which takes images; use predict", continue_text, path, "a")
    images = random_images(tmp_path / "in", 1)
    for source in sources.values():
        words = "is for next_token, which takes a text; use continue_text"
        refused(DataError, words, predict, source, images, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_there_are_no_pictures_of_text(sources: dict[str, Path], tmp_path: Path) -> None:
    words = "is for next_token; pictures of examples are for edges, saliency, segmentation"
    refused(OptionError, words, draw_examples, sources["run"], tmp_path / "examples.png")
    assert not list(tmp_path.iterdir())


def test_numbers_that_are_none() -> None:
    words = "the network gives infinite values or NaN; train it again, or export it in float32"
    for wrong in (float("nan"), float("inf"), float("-inf")):
        refused(DataError, words, continue_text, always([0.0, wrong]), [0])


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"input_size": {}}, ExportError, "metadata are damaged .input_size: "),
        ({"input_size": {"tokens": [8, 256]}}, ExportError, "metadata are damaged .input_size.tokens: "),
        ({"input_size": {"tokens": {"length": 8}}}, ExportError, "damaged .input_size.tokens.vocabulary: "),
        (
            {"input_size": {"tokens": {"length": 0, "vocabulary": 256}}},
            ExportError,
            "damaged .input_size.tokens.length",
        ),
        ({"input_size": {"tokens": {"length": 2**40, "vocabulary": 256}}}, ExportError, "damaged .*tokens.length"),
        ({"input_size": {"tokens": {"length": 8, "vocabulary": 2**40}}}, ExportError, "damaged .*tokens.vocabulary"),
        ({"input_size": {"tokens": {"length": 9, "vocabulary": 256}}}, ExportError, "damaged .its input is tokens"),
        ({"input_size": {"\x1b[31m": [8]}}, ExportError, "damaged .input_size..31m: "),
        ({"input_size": {"ids": {"length": 8, "vocabulary": 256}}}, ExportError, "damaged .its input is tokens"),
        (
            {"input_size": {"tokens": {"length": 8, "vocabulary": 255}}},
            ExportError,
            "gives .1, 7, 256., which does not",
        ),
        ({"output": "argmax"}, ExportError, "metadata are damaged .output: "),
        ({"task": "classification"}, DataError, "prediction needs one image"),
        ({"task": "\x1b[31mred"}, DataError, "prediction needs one image"),
        ({"task": None}, ExportError, "metadata are damaged .task: "),
    ],
)
def test_metadata_of_strangers(
    sources: dict[str, Path], tmp_path: Path, changes: dict[str, Any], error: type[TopolearnError], words: str
) -> None:
    proto = onnx.load(sources["one"])
    (about,) = (json.loads(each.value) for each in proto.metadata_props)
    helper.set_model_props(proto, {"topolearn": json.dumps(about | changes)})
    onnx.save(proto, tmp_path / "net.onnx")
    refused(error, words, continue_text, tmp_path / "net.onnx", "the qui")


def test_files_with_other_inputs(tmp_path: Path) -> None:
    size = {"image": {"length": 8, "vocabulary": 256}}
    path, _ = classifier(tmp_path / "image.onnx", task="next_token", input_size=size)
    refused(DataError, "image.onnx' has image: .*to continue a text it needs ids", continue_text, path, "a")
    topolearn.export_onnx(build(text_graph()), tmp_path / "two.onnx", dynamic=())
    model = onnx.load(tmp_path / "two.onnx")
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_value = 2
    onnx.save(model, tmp_path / "two.onnx")
    words = "two.onnx' takes 2 texts at a time; export it with a dynamic batch"
    refused(DataError, words, continue_text, tmp_path / "two.onnx", "a")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"length": 2.5}, "'length' is 2.5, but must be a whole number"),
        ({"length": "2"}, "'length' is '2', but must be a whole number"),
        ({"seed": None}, "'seed' is None, but must be a whole number"),
        ({"temperature": "1"}, "'temperature' is '1', but must be a number"),
        ({"length": True}, "'length' is True, but must be a whole number"),
    ],
)
def test_numbers_of_another_kind(options: dict[str, Any], text: str) -> None:
    with pytest.raises(OptionError) as caught:
        continue_text("nowhere", b"a", **options)
    assert str(caught.value) == text
