"""The stand-alone runner of exported files, on small ONNX models built here."""

from __future__ import annotations

import ast
import importlib.util
import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from tests.export.samples import NAMES, classifier, normalised, random_images, save_model, segmenter

SCRIPT = Path(__file__).parents[2] / "export" / "run_onnx.py"
FAST = ["--warmup", "1", "--repeat", "5"]


def load_script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("run_onnx", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["run_onnx"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


runner = load_script()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    random_images(tmp_path / "images")
    return tmp_path / "images"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return classifier(tmp_path / "net.onnx")[0]


def run_json(capsys: pytest.CaptureFixture[str], *args: Any) -> dict[str, Any]:
    assert runner.main([*map(str, args), "--json", *FAST]) == 0
    result: dict[str, Any] = json.loads(capsys.readouterr().out)
    return result


def run_error(capsys: pytest.CaptureFixture[str], *args: Any) -> str:
    """Run what must fail, and return its one line."""
    try:
        status = runner.main([*map(str, args), *FAST])
    except SystemExit as stop:
        status = stop.code
    lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("skipped ")]
    assert status == 2
    assert len(lines) == 1, lines
    assert lines[0].startswith("error: ")
    return lines[0]


def run_process(*args: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-I", str(SCRIPT), *map(str, args), *FAST]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def provider_loads(provider: str) -> bool:
    """Whether a session on this provider can be opened here (the wheel naming it is not enough)."""
    weights = numpy_helper.from_array(np.zeros(1, np.float32), "w")
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Add", ["x", "w"], ["y"])], "g", value[:1], value[1:], [weights])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    if provider not in runner.ort.get_available_providers():
        return False
    runner.ort.set_default_logger_severity(4)
    try:
        session = runner.ort.InferenceSession(model.SerializeToString(), providers=[provider], enable_fallback=0)
    except Exception:
        return False
    return provider in session.get_providers()


# Classification


@pytest.mark.parametrize("batch", [1, 3, 8])
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 1e-4), (np.float16, 2e-2)])
def test_classification_equals_numpy(tmp_path, folder, capsys, batch, dtype, tolerance):
    path, reference = classifier(tmp_path / "net.onnx", dtype=dtype)
    result = run_json(capsys, path, folder, "--batch", batch, "--top", 5)
    assert [p["image"] for p in result["predictions"]] == [str(folder / f"{i}.png") for i in range(5)]
    for prediction in result["predictions"]:
        expected = reference(normalised(Path(prediction["image"])))
        found = {c["index"]: c["probability"] for c in prediction["classes"]}
        np.testing.assert_allclose([found.get(i, 0.0) for i in range(5)], expected, atol=tolerance)
        assert [c["name"] for c in prediction["classes"]] == [NAMES[i] for i in found]
        assert list(found.values()) == sorted(found.values(), reverse=True)
    assert result["provider"] == "CPUExecutionProvider"
    assert (result["task"], result["version"], result["skipped"]) == ("classification", "1.2.3", [])
    latency = result["latency"]
    assert (latency["batch"], latency["warmup"], latency["repeat"]) == (batch, 1, 5)
    assert 0 < latency["p50_ms"] <= latency["p90_ms"] <= latency["p99_ms"]
    assert latency["images_per_s"] == pytest.approx(1000 * batch / latency["mean_ms"])


def test_grey_model_gets_luminance(tmp_path, folder, capsys):
    path, reference = classifier(tmp_path / "net.onnx", ("batch", 1, 8, 8))
    for prediction in run_json(capsys, path, folder, "--top", 1)["predictions"]:
        expected = reference(normalised(Path(prediction["image"]), channels=1))
        assert prediction["classes"][0]["index"] == expected.argmax()


def test_text_names_model_provider_predictions_and_percentiles(model, folder, capsys):
    assert runner.main([str(model), str(folder), "--top", "2", *FAST]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"{model}: classification, input image ['batch', 3, 8, 8]")
    assert lines[1].startswith("provider: CPUExecutionProvider")
    assert lines[2].startswith(f"{folder / '0.png'}: ")
    assert lines[2].count("%") == 2
    for word in ("batch 1", "5 runs after 1", "p50", "p90", "p99", "mean", "images/s"):
        assert word in lines[7]


def test_without_metadata_pixels_are_scaled_only_and_classes_are_indices(tmp_path, folder, capsys):
    path, reference = classifier(tmp_path / "net.onnx", metadata=False)
    for prediction in run_json(capsys, path, folder, "--top", 1)["predictions"]:
        pixels = np.asarray(Image.open(prediction["image"]), np.float64).transpose(2, 0, 1) / 255
        best = int(reference(pixels).argmax())
        assert (prediction["classes"][0]["index"], prediction["classes"][0]["name"]) == (best, str(best))


def test_size_comes_from_the_file_or_the_command_line(tmp_path, capsys):
    path, reference = classifier(tmp_path / "net.onnx", ("batch", 3, "height", "width"))
    images = random_images(tmp_path / "images", 2, size=(20, 12))
    for options, size in ([], (8, 8)), (["--size", "6x10"], (10, 6)), (["--native"], (20, 12)):
        result = run_json(capsys, path, *images, *options, "--top", 5)
        for image, prediction in zip(images, result["predictions"], strict=True):
            expected = reference(normalised(image, size=size))
            assert prediction["classes"][0]["probability"] == pytest.approx(expected.max(), abs=1e-4)


def test_native_runs_images_of_different_sizes(tmp_path, capsys):
    path, _ = classifier(tmp_path / "net.onnx", ("batch", 3, "height", "width"))
    images = random_images(tmp_path / "a", 1, size=(20, 12)) + random_images(tmp_path / "b", 1, size=(9, 30))
    assert len(run_json(capsys, path, *images, "--native")["predictions"]) == 2


def test_fixed_batch_is_kept(tmp_path, folder, capsys):
    path, _ = classifier(tmp_path / "net.onnx", (4, 3, 8, 8))
    result = run_json(capsys, path, folder)
    assert len(result["predictions"]) == 5
    assert result["latency"]["batch"] == 4
    assert "batches of 4 only" in run_error(capsys, path, folder, "--batch", 2)


def test_no_timing_with_repeat_zero(model, folder, capsys):
    assert runner.main([str(model), str(folder), "--json", "--repeat", "0"]) == 0
    assert json.loads(capsys.readouterr().out)["latency"] is None


# Segmentation


def resized(logits: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize (K, h, w) bilinearly, the corners' centres staying where they are, the slow way."""

    def weights(new: int, old: int) -> np.ndarray:
        centres = np.arange(new) * (old - 1) / max(1, new - 1)
        return np.maximum(0, 1 - np.abs(centres[:, None] - np.arange(old)))

    return np.einsum("yh,khw,xw->kyx", weights(height, logits.shape[1]), logits, weights(width, logits.shape[2]))


@pytest.mark.parametrize("stride", [1, 2])
def test_masks_are_palette_images_of_the_image_size(tmp_path, capsys, stride):
    path = segmenter(tmp_path / "net.onnx", stride)
    images = random_images(tmp_path / "images", 3, size=(16, 16))
    result = run_json(capsys, path, tmp_path / "images", "-o", tmp_path / "out", "--batch", 2, "--top", 3)
    for image, prediction in zip(images, result["predictions"], strict=True):
        pixels = np.asarray(Image.open(image), np.float64).transpose(2, 0, 1) / 255
        expected = resized(pixels[:, ::stride, ::stride], 16, 16)
        mask = Image.open(prediction["mask"])
        assert (mask.mode, mask.size, mask.getpalette()[:9]) == ("P", (16, 16), [0, 0, 0, 128, 0, 0, 0, 128, 0])
        found = np.asarray(mask)
        gap = expected.max(axis=0) - np.take_along_axis(expected, found[None].astype(int), axis=0)[0]
        assert gap.max() < 1e-5  # a tie may go either way
        shares = {c["index"]: c["share"] for c in prediction["classes"]}
        assert shares == {i: pytest.approx((found == i).mean()) for i in np.unique(found)}
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["0.png", "1.png", "2.png"]


@pytest.mark.parametrize("size", [(5, 7), (4, 3), (1, 1), (9, 2), (4, 7)])
def test_maps_are_resized_as_training_does(size):
    channel = np.random.default_rng(0).normal(size=(4, 7)).astype(np.float32)
    found = runner.resized(channel, size[::-1])
    np.testing.assert_allclose(found, resized(channel[None], *size)[0], atol=1e-6)
    wanted = torch.nn.functional.interpolate(torch.from_numpy(channel)[None, None], size, None, "bilinear", True)
    np.testing.assert_allclose(found, wanted[0, 0].numpy(), atol=1e-6)


@pytest.mark.parametrize("metadata", [{}, {"output": None, "task": None}], ids=["said", "found out"])
def test_classes_instead_of_logits(tmp_path, capsys, metadata):
    images = random_images(tmp_path / "images", 3, size=(16, 16))
    paths = segmenter(tmp_path / "a.onnx"), segmenter(tmp_path / "b.onnx", output="argmax")
    if metadata:
        proto = onnx.load(paths[1])
        del proto.metadata_props[:]
        onnx.save(proto, paths[1])
    by_logits, by_classes = (
        run_json(capsys, path, *images, "--size", "16x16", "-o", tmp_path / path.stem, "--batch", 2) for path in paths
    )
    for ours, theirs in zip(by_classes["predictions"], by_logits["predictions"], strict=True):
        assert ours["classes"] == theirs["classes"]
        np.testing.assert_array_equal(np.asarray(Image.open(ours["mask"])), np.asarray(Image.open(theirs["mask"])))


def test_classes_of_a_resized_image_are_resized_back(tmp_path, capsys):
    folder = tmp_path / "images"
    folder.mkdir()
    halves = np.zeros((30, 50, 3), np.uint8)
    halves[:, :25, 0] = halves[:, 25:, 2] = 255
    Image.fromarray(halves).save(folder / "halves.png")
    path = segmenter(tmp_path / "net.onnx", shape=("batch", 3, 6, 10), output="argmax")
    (prediction,) = run_json(capsys, path, folder, "-o", tmp_path / "out")["predictions"]
    mask = np.asarray(Image.open(prediction["mask"]))
    np.testing.assert_array_equal(mask, np.where(np.arange(50) < 25, 0, 2)[None].repeat(30, axis=0))


@pytest.mark.parametrize("task", ["saliency", "edges"])
@pytest.mark.parametrize("stride", [1, 2])
def test_tasks_of_one_channel_give_grey_masks(tmp_path, capsys, task, stride):
    images = random_images(tmp_path / "images", 3, size=(16, 16))
    path = segmenter(tmp_path / "net.onnx", stride, 1, task=task, mean=[0.5] * 3, std=[0.1] * 3, names=["what"])
    result = run_json(capsys, path, *images, "-o", tmp_path / "out")
    assert result["task"] == task
    for image, prediction in zip(images, result["predictions"], strict=True):
        red = (np.asarray(Image.open(image), np.float64)[..., 0] / 255 - 0.5) / 0.1
        chance = 1 / (1 + np.exp(-resized(red[None, ::stride, ::stride], 16, 16)[0]))
        mask = Image.open(prediction["mask"])
        assert mask.mode == "L"
        np.testing.assert_allclose(np.asarray(mask), 255 * chance, atol=0.51)
        share = pytest.approx((chance >= 0.5).mean(), abs=1e-6)
        assert prediction["classes"] == [{"index": 0, "name": "what", "share": share}]


def test_masks_of_a_resized_image_have_its_own_size(tmp_path, capsys):
    folder = tmp_path / "images" / "deep"
    folder.mkdir(parents=True)
    Image.new("RGB", (50, 30), (10, 200, 30)).save(folder / "green.jpg")
    path = segmenter(tmp_path / "net.onnx", 4, classes=3)
    result = run_json(capsys, path, tmp_path / "images", "-o", tmp_path / "out")
    mask = Image.open(tmp_path / "out" / "deep" / "green.png")
    assert mask.size == (50, 30)
    assert np.unique(np.asarray(mask)).tolist() == [1]
    assert result["predictions"][0]["classes"] == [{"index": 1, "name": "1", "share": 1.0}]


def test_masks_replace_nothing_they_should_not(tmp_path, capsys):
    path = segmenter(tmp_path / "net.onnx")
    images = random_images(tmp_path / "images", 2)
    before = images[0].read_bytes()
    assert "would replace" in run_error(capsys, path, images[0], "-o", tmp_path / "images")
    assert "lies in" in run_error(capsys, path, tmp_path / "images", "-o", tmp_path / "images")
    assert "lies in" in run_error(capsys, path, tmp_path / "images", "-o", tmp_path / "images" / "masks")
    assert "not a folder" in run_error(capsys, path, images[1], "-o", images[0])
    shutil.copy(images[0], tmp_path / "0.png")
    assert "would replace" in run_error(capsys, path, images[0], tmp_path / "0.png", "-o", tmp_path / "out")
    assert images[0].read_bytes() == before
    assert not (tmp_path / "out").exists()


def test_unwritable_output_is_one_line(tmp_path, folder, capsys, monkeypatch):
    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(runner.os, "replace", full)
    line = run_error(capsys, segmenter(tmp_path / "net.onnx"), folder, "-o", tmp_path / "out")
    assert "No space left" in line
    assert list((tmp_path / "out").iterdir()) == []


def test_more_classes_than_a_mask_holds(tmp_path, folder, capsys):
    assert "256" in run_error(capsys, segmenter(tmp_path / "net.onnx", classes=300), folder)


def test_several_channels_do_not_fit_a_task_of_one(tmp_path, folder, capsys):
    assert "does not fit saliency" in run_error(capsys, segmenter(tmp_path / "net.onnx", task="saliency"), folder)


# Images


GREY = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4
COLOUR = np.stack([GREY, GREY.T, 255 - GREY], axis=-1)


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"])
def test_every_mode_becomes_the_models_channels(tmp_path, mode, channels):
    path = tmp_path / ("image.tif" if mode == "CMYK" else "image.png")
    if mode == "I;16":
        Image.fromarray(GREY.astype(np.uint16) * 257).save(path)
        expected = Image.fromarray(GREY)
    else:
        expected = Image.fromarray(COLOUR).convert(mode)
        if mode in ("LA", "RGBA"):
            expected.putalpha(Image.fromarray(GREY))
        expected.save(path)
    loaded = runner.load_image(path, channels)
    assert loaded.mode == {1: "L", 3: "RGB", 4: "RGBA"}[channels]
    np.testing.assert_array_equal(np.asarray(loaded), np.asarray(expected.convert(loaded.mode)))


def test_sixteen_bits_keep_their_range(tmp_path):
    Image.fromarray(np.array([[0, 128, 257, 32896, 65535]], np.uint16)).save(tmp_path / "a.tif")
    assert np.asarray(runner.load_image(tmp_path / "a.tif", 1)).tolist() == [[0, 0, 1, 128, 255]]


@pytest.mark.parametrize("values", [np.ones((4, 4), np.float32), np.full((4, 4), 70000, np.int32)])
def test_pixels_without_a_known_range_are_refused(tmp_path, values):
    Image.fromarray(values).save(tmp_path / "a.tif")
    with pytest.raises(ValueError, match="known range"):
        runner.load_image(tmp_path / "a.tif", 3)


def test_exif_orientation_is_applied(tmp_path):
    image, exif = Image.new("RGB", (20, 10)), Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "a.jpg", exif=exif)
    assert runner.load_image(tmp_path / "a.jpg", 3).size == (10, 20)


def test_unreadable_images_are_named_and_skipped(model, folder, capsys):
    (folder / "text.png").write_text("no image")
    (folder / "cut.png").write_bytes((folder / "0.png").read_bytes()[:80])
    assert runner.main([str(model), str(folder), *FAST]) == 0
    captured = capsys.readouterr()
    assert "skipped 2 of 7 images" in captured.out
    for name in ("text.png", "cut.png"):
        assert f"skipped {folder / name}: " in captured.err
    assert len(captured.err.splitlines()) == 2
    result = run_json(capsys, model, folder)
    assert [Path(s["image"]).name for s in result["skipped"]] == ["cut.png", "text.png"]
    assert len(result["predictions"]) == 5


def test_folders_are_searched_at_any_depth_without_hidden_files(tmp_path, model, capsys):
    deep = tmp_path / "images" / "a"
    deep.mkdir(parents=True)
    random_images(deep, 2)
    (deep / "._0.png").write_text("what macOS leaves behind")
    (deep / "notes.txt").write_text("no image")
    result = run_json(capsys, model, tmp_path / "images")
    assert [p["image"] for p in result["predictions"]] == [str(deep / "0.png"), str(deep / "1.png")]
    assert result["skipped"] == []


# Mistakes


def test_missing_and_broken_files(tmp_path, model, folder, capsys):
    broken, empty = tmp_path / "broken.onnx", tmp_path / "empty.onnx"
    broken.write_text("not a model " * 50)
    empty.touch()
    nothing = tmp_path / "nothing"
    nothing.mkdir()
    assert "no such file" in run_error(capsys, tmp_path / "none.onnx", folder)
    assert "no such file" in run_error(capsys, folder, folder)
    assert "not a model" in run_error(capsys, broken, folder)
    assert "not a model" in run_error(capsys, empty, folder)
    assert "no such file or folder" in run_error(capsys, model, tmp_path / "none")
    assert "no images" in run_error(capsys, model, nothing)
    (nothing / "a.png").write_text("no image")
    assert "none of the 1 images" in run_error(capsys, model, nothing)


def test_options_that_do_not_fit(tmp_path, model, folder, capsys):
    assert "8x8 only" in run_error(capsys, model, folder, "--size", "9x9")
    assert "8x8 only" in run_error(capsys, model, folder, "--native")
    assert "one at a time" in run_error(capsys, model, folder, "--native", "--batch", 2)
    assert "-o writes masks" in run_error(capsys, model, folder, "-o", tmp_path / "out")
    assert "'0' is not an integer from 1" in run_error(capsys, model, folder, "--batch", 0)
    assert "HxW" in run_error(capsys, model, folder, "--size", "big")
    assert "invalid choice" in run_error(capsys, model, folder, "--provider", "tpu")
    unsized, _ = classifier(tmp_path / "unsized.onnx", ("batch", 3, "h", "w"), input_size=None)
    assert "--size HxW" in run_error(capsys, unsized, folder)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"mean": [0.5, 0.5]}, "do not fit 3 channels"),
        ({"std": [0.5, 0.0, 0.5]}, "do not fit 3 channels"),
        ({"std": ["x"]}, "damaged"),
        ({"input_size": {"image": [3, 8]}}, "damaged"),
        ({"task": "regression"}, "task is regression"),
        ({"output": "softmax"}, "output for classification is softmax"),
        ({"output": "argmax"}, "output for classification is argmax"),
        ({"task": "edges"}, "does not fit edges"),
        ({"task": "segmentation"}, "does not fit segmentation"),
    ],
)
def test_metadata_that_does_not_fit(tmp_path, folder, capsys, changes, words):
    path, _ = classifier(tmp_path / "net.onnx", **changes)
    assert words in run_error(capsys, path, folder)


def test_metadata_that_is_not_json(model, folder, capsys):
    proto = onnx.load(model)
    helper.set_model_props(proto, {"topolearn": "{"})
    onnx.save(proto, model)
    assert "damaged" in run_error(capsys, model, folder)


def test_inputs_that_are_no_images(tmp_path, folder, capsys):
    five, _ = classifier(tmp_path / "five.onnx", ("batch", 5, 8, 8), mean=[], std=[])
    assert "5 channels" in run_error(capsys, five, folder)
    node = helper.make_node("MatMul", ["image", "w"], ["logits"])
    flat = save_model(tmp_path / "flat.onnx", [node], {"w": np.ones((4, 2), np.float32)}, ["batch", 4], ["batch", 2])
    assert "feeds one float input" in run_error(capsys, flat, folder)


def test_infinite_outputs_are_not_predictions(tmp_path, folder, capsys):
    path, _ = classifier(tmp_path / "net.onnx", dtype=np.float16, std=[1e-5])
    assert "infinite values or NaN" in run_error(capsys, path, folder)


def test_an_image_size_the_network_cannot_take(tmp_path, capsys):
    nodes = [helper.make_node("Conv", ["image", "w"], ["logits"])]
    weights = {"w": np.ones((2, 3, 9, 9), np.float32)}
    path = save_model(tmp_path / "net.onnx", nodes, weights, ["b", 3, "h", "w"], ["b", 2, "y", "x"])
    random_images(tmp_path / "images", 1, size=(5, 5))
    assert "[1, 3, 5, 5]" in run_error(capsys, path, tmp_path / "images", "--native")


# Providers


@pytest.mark.parametrize(
    ("provider", "name"), [("cuda", "CUDAExecutionProvider"), ("tensorrt", "TensorrtExecutionProvider")]
)
def test_absent_provider_is_said(model, folder, provider, name):
    if provider_loads(name):
        pytest.skip(f"{name} is there")
    done = run_process(model, folder, "--provider", provider, "--json")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"error: provider {provider} ({name}) is not there")
    assert done.stderr.rstrip().endswith("cpu")


def test_a_registered_provider_must_run_nodes(model, folder, capsys, monkeypatch):
    opened = runner.ort.InferenceSession

    def fallback(path: str, options: Any, providers: Any) -> Any:
        session = opened(path, options, providers=["CPUExecutionProvider"])
        session.get_providers = lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"]
        return session

    monkeypatch.setattr(runner.ort, "InferenceSession", fallback)
    monkeypatch.setattr(runner.ort, "preload_dlls", lambda: None, raising=False)
    monkeypatch.setattr(runner, "node_counts", lambda session: {"CPUExecutionProvider": 4})
    line = run_error(capsys, model, folder, "--provider", "cuda")
    assert "runs none of the model's nodes; available: cpu" in line


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("provider", "name"), [("cuda", "CUDAExecutionProvider"), ("tensorrt", "TensorrtExecutionProvider")]
)
def test_gpu_equals_cpu(model, folder, capsys, provider, name):
    if not provider_loads(name):
        pytest.skip(f"{name} is not there")
    expected = run_json(capsys, model, folder, "--batch", 2)
    found = run_json(capsys, model, folder, "--batch", 2, "--provider", provider)
    assert found["provider"] == name
    for ours, theirs in zip(found["predictions"], expected["predictions"], strict=True):
        assert ours["classes"][0]["index"] == theirs["classes"][0]["index"]
        assert ours["classes"][0]["probability"] == pytest.approx(theirs["classes"][0]["probability"], abs=1e-2)


# Standing alone


def test_imports_are_numpy_pillow_and_onnxruntime_only():
    names: set[str] = set()
    for node in ast.walk(ast.parse(SCRIPT.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(str(node.module).split(".")[0])
    assert names - set(sys.stdlib_module_names) == {"numpy", "onnxruntime", "PIL"}


def test_a_copy_runs_where_the_training_libraries_are_missing(tmp_path, model, folder):
    copy = tmp_path / "elsewhere" / "runner.py"
    copy.parent.mkdir()
    shutil.copy(SCRIPT, copy)
    code = (
        "import runpy, sys\n"
        "for name in ('torch', 'topolearn', 'onnx'): sys.modules[name] = None\n"
        f"sys.argv = {[str(copy), str(model), str(folder), '--json', *FAST]!r}\n"
        f"runpy.run_path({str(copy)!r}, run_name='__main__')\n"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", code], cwd=copy.parent, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)["predictions"]) == 5


def test_a_missing_package_is_one_line():
    code = f"import runpy, sys; sys.modules['onnxruntime'] = None; runpy.run_path({str(SCRIPT)!r}, run_name='__main__')"
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert "pip install" in done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_ctrl_c_ends_with_130(model, folder):
    command = [sys.executable, "-I", str(SCRIPT), str(model), str(folder), "--repeat", "100000000"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        for _ in range(7):
            process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert errors == "interrupted\n"


def test_a_closed_pipe_is_no_error(model, folder):
    command = [sys.executable, "-I", str(SCRIPT), str(model), str(folder), *FAST]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    errors = process.stderr.read()
    process.stderr.close()
    assert (process.wait(timeout=60), errors) == (0, "")
