"""``topolearn predict``, and the output of ``export`` and ``bench`` that it is for."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

import topolearn
from tests.export.samples import classifier, random_images, segmenter
from topolearn.compiler import compile as build
from topolearn.format import loads
from topolearn.onnx import open_session
from topolearn.runs import folder as run_folder
from topolearn.runs.config import write_config
from topolearn.runs.tensor_files import save_tensors

Run = Callable[..., tuple[int, str, str]]

GRAPH = """
topolearn: 1
name: maps
task: segmentation
inputs: {image: [3, 8, 12]}
nodes:
  a: {op: conv_bn_relu, out_channels: 4, stride: 2}
  head: {op: segmentation_head, classes: 3}
edges:
  - {from: image, to: a}
  - {from: a, to: head}
outputs: [head]
"""


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    """The folder of a run of segmentation, without the training."""
    folder = tmp_path / "run"
    folder.mkdir()
    graph = loads(GRAPH)
    config = {"graph": "maps", "task": "segmentation", "learner": "fixed", "learner_options": {}, "data": "scenes"}
    config |= {"input_size": {"image": (3, 8, 12)}, "mean": (0.5,) * 3, "std": (0.25,) * 3, "batch_size": 1}
    config |= {"classes": ("sky", "road", "car"), "ignore_index": 255, "topolearn": topolearn.__version__}
    (folder / run_folder.CONFIG).write_text(write_config(config), encoding="utf-8")
    save_tensors(folder / run_folder.WEIGHTS, build(graph).state_dict(), {"graph": "maps", "format": 1})
    for name in (run_folder.SEARCHED, run_folder.GRAPH):
        topolearn.dump_graph(graph, folder / name)
    closing = {"phase": "result", "metrics": {"miou": 0.5}, "searched_metrics": {}, "one_level_params": 0}
    (folder / run_folder.HISTORY).write_text(json.dumps(closing) + "\n", encoding="utf-8")
    return folder


def test_masks_need_a_folder(run: Run, tmp_path: Path, finished: Path) -> None:
    random_images(tmp_path / "images", 1, size=(13, 9))
    status, out, err = run("predict", str(finished), str(tmp_path / "images"))
    assert (status, out) == (2, "")
    assert err == f"error: '{finished}' predicts masks; name the folder to write them to (-o, 'out')\n"


def test_a_run_and_its_file_say_the_same(run: Run, tmp_path: Path, finished: Path) -> None:
    images = random_images(tmp_path / "images", 2, size=(13, 9))
    said = {}
    for kind, options in (("logits", ()), ("argmax", ("--argmax",))):
        path = tmp_path / f"{kind}.onnx"
        assert run("export", str(finished), "-o", str(path), "--dynamic", "height,width", *options)[0] == 0
        (output,) = open_session(path).get_outputs()
        assert output.type == {"logits": "tensor(float)", "argmax": "tensor(uint8)"}[kind]
        said[kind] = run("predict", str(path), str(tmp_path / "images"), "-o", str(tmp_path / kind))
    said["run"] = run(
        "predict", str(finished), str(tmp_path / "images"), "-o", str(tmp_path / "out"), "--device", "cpu"
    )
    for status, out, err in said.values():
        assert (status, err) == (0, "")
        lines = out.splitlines()
        assert [line.partition(": ")[0] for line in lines[:2]] == [str(image) for image in images]
        assert lines[2].startswith("segmentation, 2 images: ")
    assert {out.splitlines()[0] for _, out, _ in said.values()} == {said["run"][1].splitlines()[0]}
    assert (
        said["run"][1]
        .splitlines()[2]
        .endswith(f": {tmp_path}/out/masks, {tmp_path}/out/overlays, {tmp_path}/out/legend.svg")
    )
    for folder in ("out", "logits", "argmax"):
        with Image.open(tmp_path / folder / "masks" / "1.png") as mask:
            assert (mask.mode, mask.size) == ("P", (13, 9))


def test_a_file_takes_images_of_any_size_unless_told_otherwise(run: Run, tmp_path: Path, finished: Path) -> None:
    for name, options in (("any", ()), ("one", ("--dynamic", "batch"))):
        assert run("export", str(finished), "-o", str(tmp_path / f"{name}.onnx"), *options)[0] == 0
    free, fixed = (open_session(tmp_path / f"{name}.onnx").get_inputs()[0].shape for name in ("any", "one"))
    assert [isinstance(length, str) for length in free] == [True, False, True, True]
    assert [isinstance(length, str) for length in fixed] == [True, False, False, False]


def test_bench_times_either_output(run: Run, finished: Path) -> None:
    for options in ((), ("--argmax",)):
        status, out, _ = run("bench", str(finished), *options)
        assert status == 0
        assert "ONNX Runtime, batch 1, median" in out


def test_classes_and_their_probabilities(run: Run, tmp_path: Path) -> None:
    path, _ = classifier(tmp_path / "net.onnx")
    random_images(tmp_path / "images", 2)
    status, out, err = run("predict", str(path), str(tmp_path / "images"), "-o", str(tmp_path / "out"))
    assert (status, err) == (0, "")
    assert out.splitlines()[0].count("%") == 3
    assert out.splitlines()[2] == f"classification, 2 images: {tmp_path}/out/predictions.csv"


def test_what_is_skipped_or_converted_is_said(run: Run, tmp_path: Path) -> None:
    random_images(tmp_path / "images", 1, mode="L")
    (tmp_path / "images" / "bad.png").write_text("no image")
    path = segmenter(tmp_path / "net.onnx")
    status, out, err = run("predict", str(path), str(tmp_path / "images"), "-o", str(tmp_path / "out"))
    assert status == 0
    assert out.splitlines()[1].startswith("segmentation, 1 image, skipped 1 of 2: ")
    assert err.splitlines() == [
        f"skipped: the image '{tmp_path}/images/bad.png' cannot be read: it is not an image, or it is damaged;"
        " replace or remove it",
        "1 of 1 images are converted to RGB (1 L)",
    ]


def test_mistakes_are_one_line_and_write_nothing(run: Run, tmp_path: Path) -> None:
    path, out = segmenter(tmp_path / "net.onnx"), tmp_path / "out"
    images = random_images(tmp_path / "images", 1)
    for arguments, message in (
        ((tmp_path / "none", images[0]), f"error: there is no '{tmp_path}/none'; name the folder of a finished run"),
        ((path, tmp_path / "none"), f"error: there is no file or folder '{tmp_path}/none'; name images"),
        ((path, tmp_path / "images", "--provider", "gpu"), "error: unknown provider 'gpu'; did you mean 'cpu'?"),
        ((tmp_path, images[0]), f"error: {tmp_path} holds no run"),
    ):
        status, printed, err = run("predict", *map(str, arguments), "-o", str(out))
        assert (status, printed, err.count("\n")) == (2, "", 1)
        assert err.startswith(message)
        assert not out.exists()


def test_argmax_is_for_segmentation(run: Run, tmp_path: Path, finished: Path) -> None:
    text = (finished / "graph.yaml").read_text().replace("segmentation\n", "saliency\n")
    (finished / "graph.yaml").write_text(text.replace("classes: 3", "classes: 1"), encoding="utf-8")
    net = build(topolearn.load_graph(finished / "graph.yaml"))
    save_tensors(finished / run_folder.WEIGHTS, net.state_dict(), {"graph": "maps", "format": 1})
    status, _, err = run("export", str(finished), "-o", str(tmp_path / "net.onnx"), "--argmax")
    assert status == 2
    assert err.startswith("error: output 'argmax' is the class of every pixel, but graph 'maps' is for saliency")
    assert not (tmp_path / "net.onnx").exists()


def test_help_needs_no_torch() -> None:
    code = (
        "import sys; from topolearn.cli import main; sys.argv = ['topolearn', 'predict', '--help']\n"
        "try: main()\nexcept SystemExit: print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "--provider" in done.stdout
    assert done.stdout.endswith("False\n")
