"""Small ONNX models as the exporter writes them, and images for them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

MEAN, STD = [0.4, 0.5, 0.6], [0.2, 0.25, 0.3]
NAMES = ["cat", "dog", "newt", "owl", "yak"]


def save_model(
    path: Path,
    nodes: list[Any],
    weights: dict[str, Any],
    shape: list[Any],
    out: list[Any],
    out_kind: Any = None,
    source: Any = None,
    **metadata: Any,
):
    """Write a model `image` -> `logits` in the type of its weights, with the metadata that the exporter writes.

    Of another input than an image, `source` describes it.
    """
    weights = {name: np.asarray(value) for name, value in weights.items()}
    kind = TensorProto.FLOAT16 if weights["w"].dtype == np.float16 else TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "g",
        [source or helper.make_tensor_value_info("image", kind, shape)],
        [helper.make_tensor_value_info("logits", out_kind or kind, out)],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    if metadata:
        helper.set_model_props(model, {"topolearn": json.dumps(metadata)})
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def classifier(path: Path, shape=("batch", 3, 8, 8), dtype=np.float32, metadata=True, **changes: Any):
    """Write Conv 3x3, ReLU, global average pool, linear; return its path and the same function in numpy."""
    rng = np.random.default_rng(0)
    channels = shape[1]
    w, a = rng.normal(size=(6, channels, 3, 3)), 3 * rng.normal(size=(6, len(NAMES)))
    b, c = rng.normal(size=6), rng.normal(size=len(NAMES))
    weights = {name: value.astype(dtype) for name, value in {"w": w, "b": b, "a": a, "c": c}.items()}
    nodes = [
        helper.make_node("Conv", ["image", "w", "b"], ["x"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["x"], ["y"]),
        helper.make_node("GlobalAveragePool", ["y"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "a", "c"], ["logits"]),
    ]
    about = {
        "version": "1.2.3",
        "graph": "topolearn: 1",
        "task": "classification",
        "input_size": {"image": [channels, 8, 8]},
        "mean": MEAN[:channels],
        "std": STD[:channels],
        "classes": NAMES,
        "scale": 255.0,
    }
    save_model(path, nodes, weights, list(shape), ["batch", len(NAMES)], **({**about, **changes} if metadata else {}))

    def reference(x: np.ndarray) -> np.ndarray:
        padded = np.pad(x, ((0, 0), (1, 1), (1, 1)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
        maps = np.maximum(np.einsum("chwij,ocij->ohw", windows, w) + b[:, None, None], 0)
        logits = maps.mean(axis=(1, 2)) @ a + c
        powers = np.exp(logits - logits.max())
        return powers / powers.sum()

    return path, reference


def segmenter(
    path: Path,
    stride: int = 1,
    classes: int = 3,
    shape=("batch", 3, "h", "w"),
    output: str = "logits",
    names=(),
    **changes: Any,
):
    """Write a 1x1 convolution whose class is the strongest colour channel, at 1/stride of the size.

    Of one class: a high logit where it is red. With the output `argmax`, the classes themselves.
    """
    weights = {"w": np.eye(classes, 3, dtype=np.float32)[:, :, None, None]}
    kind, out = None, ["batch", classes, "a", "b"]
    nodes = [helper.make_node("Conv", ["image", "w"], ["logits"], strides=[stride, stride])]
    if output == "argmax":
        kind, out = TensorProto.UINT8, ["batch", "a", "b"]
        nodes = [
            helper.make_node("Conv", ["image", "w"], ["x"], strides=[stride, stride]),
            helper.make_node("ArgMax", ["x"], ["best"], axis=1, keepdims=0),
            helper.make_node("Cast", ["best"], ["logits"], to=TensorProto.UINT8),
        ]
        changes["output"] = output
    about = {
        "task": "segmentation",
        "input_size": {"image": [3, 16, 16]},
        "mean": [],
        "std": [],
        "classes": list(names),
    }
    return save_model(path, nodes, weights, list(shape), out, kind, **{**about, **changes})


def speaker(path: Path, shape=("batch", 8), vocabulary: int = 256, dtype=np.float32, table=None, **changes: Any):
    """Write a network of text whose logits are the sum of a row per token read; return its path and the rows."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(vocabulary, vocabulary)).astype(dtype) if table is None else np.asarray(table, dtype)
    nodes = [
        helper.make_node("Gather", ["w", "tokens"], ["x"]),
        helper.make_node("Cast", ["x"], ["y"], to=TensorProto.FLOAT),
        helper.make_node("CumSum", ["y", "axis"], ["z"]),
        helper.make_node("Cast", ["z"], ["logits"], to=helper.np_dtype_to_tensor_dtype(np.dtype(dtype))),
    ]
    about = {
        "version": "1.2.3",
        "task": "next_token",
        "output": "logits",
        "input_size": {"tokens": {"length": 8, "vocabulary": vocabulary}},
        "mean": [],
        "std": [],
        "classes": [],
    }
    source = helper.make_tensor_value_info("tokens", TensorProto.INT64, list(shape))
    weights = {"w": rows, "axis": np.array(1)}
    out = [*shape, vocabulary]
    return save_model(path, nodes, weights, [], out, source=source, **{**about, **changes}), rows


def random_images(folder: Path, count: int = 5, size=(8, 8), mode: str = "RGB") -> list[Path]:
    rng = np.random.default_rng(1)
    folder.mkdir(exist_ok=True)
    paths = [folder / f"{i}.png" for i in range(count)]
    for path in paths:
        values = rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(values).convert(mode).save(path)
    return paths


def normalised(path: Path, channels: int = 3, size=(8, 8)) -> np.ndarray:
    image = Image.open(path).convert({1: "L", 3: "RGB"}[channels]).resize(size, Image.Resampling.BILINEAR)
    pixels = np.asarray(image, np.float64).reshape(size[1], size[0], channels)
    return ((pixels / 255 - MEAN[:channels]) / STD[:channels]).transpose(2, 0, 1)
