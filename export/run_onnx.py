"""Run an ONNX file exported by topolearn on images or text, with its latency, on CPU, CUDA or TensorRT.

This file is all that the serving machine needs beside the model. It asks for Python 3.9 or later with numpy,
Pillow 9.1 or later, and onnxruntime or onnxruntime-gpu. README.md beside it shows the commands.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import re
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

try:
    import numpy as np
    import numpy.typing as npt
    import onnxruntime as ort
    from PIL import Image, ImageOps
except ImportError as missing:
    print(f"error: {missing}; pip install numpy pillow onnxruntime-gpu (or onnxruntime)", file=sys.stderr)
    raise SystemExit(2) from None

# What --provider asks for, then what may run the nodes for which it has no kernel.
PROVIDERS = {
    "cpu": ("CPUExecutionProvider",),
    "cuda": ("CUDAExecutionProvider", "CPUExecutionProvider"),
    "tensorrt": ("TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"),
}
TASKS = ("classification", "segmentation", "saliency", "edges")  # the last two: one channel, yes or no per pixel
TEXT_TASK, IDS, BYTES = "next_token", "tensor(int64)", 256  # of text: its task, the input's type, the vocabulary
IMAGE_OPTIONS, TEXT_OPTIONS = ("batch", "top", "size", "native", "output"), ("tokens", "temperature", "seed")
LONGEST = 2**20  # tokens that a network may read at a time
DTYPES: dict[str, Any] = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
MODES = {1: "L", 3: "RGB", 4: "RGBA"}  # channels of the model -> Pillow's image mode
SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")  # no decoder that starts another program (EPS)
BILINEAR, NEAREST = Image.Resampling.BILINEAR, Image.Resampling.NEAREST


class RunnerError(Exception):
    """A mistake that the user can mend; its text is the one line that is printed."""


@dataclass(frozen=True)
class Model:
    """What an exported file and the command line say about the model."""

    task: str  # one of TASKS
    labels: bool  # whether it gives classes (N, H, W) instead of logits
    input: str  # the image input's name
    dtype: Any  # its numpy type
    channels: int  # 1, 3 or 4
    size: tuple[int, int] | None  # (height, width) that images are resized to; None keeps each image's own
    batch: int  # images per run
    mean: npt.NDArray[np.float32]  # of pixels in [0, 1]; (C or 1, 1, 1)
    std: npt.NDArray[np.float32]
    classes: tuple[str, ...]  # names; may be empty
    version: str  # of the library that wrote the file; may be empty


@dataclass(frozen=True)
class TextModel:
    """What an exported file says about a model that continues text."""

    task: str
    input: str  # the name of the input of ids
    length: int  # tokens that it reads at a time
    vocabulary: int  # ids are below this number
    version: str  # of the library that wrote the file; may be empty


@dataclass(frozen=True)
class Loaded:
    """An image on its way through the model."""

    path: Path
    extent: tuple[int, int]  # its own (width, height)
    tensor: npt.NDArray[Any]  # (C, H, W)


def one_line(error: BaseException) -> str:
    """Return an exception's text on one line."""
    return " ".join(str(error).split()) or type(error).__name__


def printable(text: str, kept: str = "") -> str:
    """Return what a stranger or a model wrote without what a terminal would obey, except for the characters kept."""
    return "".join(char for char in text if char.isprintable() or char in kept)


def open_session(args: argparse.Namespace) -> Any:
    """Open the model on the provider that was asked for, or say that this provider is not there.

    ONNX Runtime falls back to another provider silently, so what it registered is compared with what was asked.
    """
    if not args.model.is_file():
        raise RunnerError(f"{args.model}: no such file")
    options = ort.SessionOptions()
    options.log_severity_level = 2 if args.verbose else 4
    options.intra_op_num_threads = args.threads
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    ort.set_default_logger_severity(options.log_severity_level)
    providers = [name for name in PROVIDERS[args.provider] if name in ort.get_available_providers()]
    try:  # both calls print to stdout, where the results belong
        with contextlib.redirect_stdout(sys.stderr if args.verbose else io.StringIO()):
            if args.provider != "cpu" and hasattr(ort, "preload_dlls"):
                ort.preload_dlls()  # finds the CUDA libraries that pip installed
            session = ort.InferenceSession(str(args.model), options, providers=providers)
    except Exception as error:  # onnxruntime's exceptions share no base class of their own
        raise RunnerError(f"{args.model}: not a model that ONNX Runtime can load: {one_line(error)}") from None
    session.disable_fallback()
    asked, present, counts = PROVIDERS[args.provider][0], session.get_providers(), node_counts(session)
    if asked in present and (not counts or asked in counts):
        return session
    why = "runs none of the model's nodes" if asked in present else "is not there (--verbose shows why)"
    short = {chain[0]: name for name, chain in PROVIDERS.items()}
    others = ", ".join(short.get(name, name) for name in present if name != asked)
    raise RunnerError(f"provider {args.provider} ({asked}) {why}; available: {others}")


def node_counts(session: Any) -> dict[str, int]:
    """Count the model's nodes per provider that runs them; empty where this onnxruntime cannot tell."""
    counts: dict[str, int] = {}
    if hasattr(session, "get_provider_graph_assignment_info"):
        for part in session.get_provider_graph_assignment_info():
            counts[part.ep_name] = counts.get(part.ep_name, 0) + len(part.get_nodes())
    return counts


@contextlib.contextmanager
def reading_metadata(session: Any, args: argparse.Namespace) -> Iterator[Any]:
    """Give the file's metadata, which may be anything; what goes wrong while they are read is their damage."""
    try:
        yield json.loads(session.get_modelmeta().custom_metadata_map.get("topolearn") or "{}")
    except (ValueError, TypeError, AttributeError) as error:
        raise RunnerError(f"{args.model}: its metadata 'topolearn' is damaged: {one_line(error)}") from None


def describe(session: Any, args: argparse.Namespace) -> Model:
    """Put together what the file's input, its metadata and the command line say."""
    inputs, output = session.get_inputs(), session.get_outputs()[0]
    name, shape = inputs[0].name, inputs[0].shape
    if len(inputs) != 1 or inputs[0].type not in DTYPES or len(shape) != 4:
        found = ", ".join(f"{i.name}: {i.type} {i.shape}" for i in inputs)
        raise RunnerError(f"{args.model}: this runner feeds one float input (batch, C, H, W); the file has {found}")
    with reading_metadata(session, args) as metadata:
        recorded = [int(n) for n in (metadata.get("input_size") or {}).get(name) or ()]
        if len(recorded) not in (0, 3):
            raise ValueError(f"input_size {recorded} is not C, H, W")
        mean, std = (np.asarray(metadata.get(key) or fill, np.float32) for key, fill in (("mean", 0), ("std", 1)))
        classes = tuple(printable(str(name)) for name in metadata.get("classes") or ())
        task = printable(str(metadata.get("task") or "")) or (
            "classification" if len(output.shape) == 2 else "segmentation"
        )
        gives = str(metadata.get("output") or ("logits" if output.type in DTYPES else "argmax"))
    channels = next((n for n in (shape[1], *recorded[:1]) if isinstance(n, int)), 0)
    if channels not in MODES:
        raise RunnerError(f"{args.model}: its input has {channels or 'unknown'} channels; images give 1, 3 or 4")
    if not {mean.size, std.size} <= {1, channels} or not std.all():
        raise RunnerError(f"{args.model}: mean {mean.tolist()} and std {std.tolist()} do not fit {channels} channels")
    if task not in TASKS:
        raise RunnerError(f"{args.model}: its task is {task}; this runner knows {', '.join(TASKS)}")
    if gives != "logits" and (gives, task) != ("argmax", "segmentation"):
        raise RunnerError(
            f"{args.model}: its output for {task} is {gives}; this runner knows logits, and masks' argmax"
        )
    fixed = shape[0] if isinstance(shape[0], int) else None
    if args.batch and fixed and args.batch != fixed:
        raise RunnerError(f"--batch {args.batch}: {args.model} was exported for batches of {fixed} only")
    size, batch = choose_size(shape[2:], recorded[1:], args), args.batch or fixed or 1
    mean, std = mean.reshape(-1, 1, 1), std.reshape(-1, 1, 1)
    labels, dtype, version = gives == "argmax", DTYPES[inputs[0].type], str(metadata.get("version") or "")
    return Model(task, labels, name, dtype, channels, size, batch, mean, std, classes, version)


def describe_text(session: Any, args: argparse.Namespace) -> TextModel:
    """Put together what the file's input and output and its metadata say about a model that continues text."""
    source, output = session.get_inputs()[0], session.get_outputs()[0]
    if len(source.shape) != 2 or len(output.shape) != 3 or output.type not in DTYPES:
        found = printable(f"{source.name} {source.shape}, {output.name}: {output.type} {output.shape}")
        raise RunnerError(f"{args.model}: of text this runner feeds ids (batch, length); the file has {found}")
    if isinstance(source.shape[0], int) and source.shape[0] != 1:
        raise RunnerError(f"{args.model}: it takes {source.shape[0]} texts at a time; export it with a dynamic batch")
    with reading_metadata(session, args) as metadata:
        recorded = (metadata.get("input_size") or {}).get(source.name) or {}
        sizes = source.shape[1], recorded.get("length"), output.shape[2], recorded.get("vocabulary")
        length, vocabulary = (next((n for n in pair if isinstance(n, int)), 0) for pair in (sizes[:2], sizes[2:]))
        task = printable(str(metadata.get("task") or TEXT_TASK))
        gives = printable(str(metadata.get("output") or "logits"))
        version = str(metadata.get("version") or "")
    if (task, gives) != (TEXT_TASK, "logits"):
        raise RunnerError(f"{args.model}: it gives {gives} for {task}; of ids this runner knows logits for {TEXT_TASK}")
    if not 0 < length <= LONGEST:
        raise RunnerError(
            f"{args.model}: its length is {length or 'unknown'}; this runner needs one from 1 to {LONGEST}"
        )
    if not 0 < vocabulary <= BYTES:
        known = f"a vocabulary of {vocabulary or 'unknown size'}"
        raise RunnerError(
            f"{args.model}: it has {known}, but this runner knows bytes; feed it ids of its own tokenizer"
        )
    return TextModel(task, source.name, length, vocabulary, version)


def choose_size(dims: Sequence[Any], recorded: Sequence[int], args: argparse.Namespace) -> tuple[int, int] | None:
    """Choose the input's (height, width): fixed in the file, else asked for, else recorded; None for --native."""
    if args.native and not any(isinstance(d, int) for d in dims):
        return None
    wanted = args.size or tuple(recorded) or (0, 0)
    height, width = (d if isinstance(d, int) else wanted[i] for i, d in enumerate(dims))
    if args.native or (args.size and args.size != (height, width)):
        raise RunnerError(f"{args.model} takes images of {dims[0]}x{dims[1]} only; leave out --native and --size")
    if 0 in (height, width):
        raise RunnerError(f"{args.model}: it fixes no image size; give --size HxW or --native")
    return height, width


class Runner:
    """Runs a session on tensors that stay on the provider's device, "cpu" or "cuda" (I/O binding)."""

    def __init__(self, session: Any, input_name: str, device: str) -> None:
        self.session, self.input_name, self.device = session, input_name, device
        self.binding: Any = None
        self.value: Any = None
        self.outputs: list[Any] = []

    def __call__(self, batch: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Run one batch (N, C, H, W) and return the model's first output."""
        if self.value is None or tuple(self.value.shape()) != batch.shape:
            self.bind(batch)
        self.value.update_inplace(batch)
        self.run()
        return np.array(self.outputs[0].numpy())

    def bind(self, batch: npt.NDArray[Any]) -> None:
        """Allocate input and outputs for batches of this shape on the device, and bind them."""
        self.binding = self.session.io_binding()
        self.value = ort.OrtValue.ortvalue_from_shape_and_type(list(batch.shape), batch.dtype.type, self.device, 0)
        self.value.update_inplace(batch)
        self.binding.bind_ortvalue_input(self.input_name, self.value)
        names = [output.name for output in self.session.get_outputs()]
        for name in names:
            self.binding.bind_output(name, self.device, 0)
        self.run()  # allocates outputs of the right shapes; later runs write to these
        self.outputs = self.binding.get_outputs()
        for i, name in enumerate(names):
            self.binding.bind_ortvalue_output(name, self.outputs[i])

    def run(self) -> None:
        """Run once on what is bound, until the results are there."""
        try:
            self.session.run_with_iobinding(self.binding)
            self.binding.synchronize_outputs()
        except Exception as error:
            raise RunnerError(f"ONNX Runtime, with an input of {self.value.shape()}: {one_line(error)}") from None

    def latency(self, warmup: int, repeat: int, what: str) -> dict[str, float]:
        """Time runs on what is bound, `what` being counted; copies between host and device are not in it."""
        times = np.empty(warmup + repeat)
        for i in range(len(times)):
            start = time.perf_counter()
            self.run()
            times[i] = time.perf_counter() - start
        p50, p90, p99 = (float(p) for p in np.percentile(1000 * times[warmup:], (50, 90, 99)))
        mean = float(times[warmup:].mean())
        rate = self.value.shape()[0] / mean
        return {"p50_ms": p50, "p90_ms": p90, "p99_ms": p99, "mean_ms": 1000 * mean, f"{what}_per_s": rate}


def find_images(paths: Sequence[Path], out: Path | None) -> dict[Path, Path]:
    """List the images named and those in folders at any depth, each with its path below that folder."""
    found: dict[Path, Path] = {}
    for path in paths:
        if not path.is_dir():
            if not path.exists():
                raise RunnerError(f"{path}: no such file or folder")
            found[path] = Path(path.name)
            continue
        if out is not None and path.resolve() in (out.resolve(), *out.resolve().parents):
            raise RunnerError(f"-o {out} lies in {path}, where masks would be taken for images; give another folder")
        for file in sorted(path.rglob("*")):
            if file.suffix.lower() in SUFFIXES and file.is_file() and not file.name.startswith("."):
                found[file] = file.relative_to(path)
    if not found:
        raise RunnerError(f"{', '.join(map(str, paths))}: no images; looked for {' '.join(SUFFIXES)}")
    return found


def load_image(path: Path, channels: int) -> Image.Image:
    """Read an image as the 8-bit mode (L, RGB or RGBA) that a model of so many channels takes.

    16-bit grey is scaled to 8 bits. Alpha is dropped, not blended, where the model has no channel for it, as
    training pipelines that call `convert("RGB")` do.
    """
    with Image.open(path, formats=FORMATS) as file:
        image: Image.Image = ImageOps.exif_transpose(file) or file
        if image.mode == "F" or image.mode.startswith("I"):
            pixels = np.asarray(image, dtype=np.float64)
            if image.mode == "F" or pixels.min() < 0 or pixels.max() > 65535:
                raise ValueError("its 32-bit pixels have no known range")
            image = Image.fromarray(np.rint(pixels / 257).astype(np.uint8))
        elif image.mode in ("P", "PA"):
            image = image.convert("RGBA")
        return image.convert(MODES[channels])


def preprocess(image: Image.Image, model: Model) -> npt.NDArray[Any]:
    """Resize, scale to [0, 1] and normalise an image: (C, H, W) in the model's type."""
    if model.size is not None and image.size != model.size[::-1]:
        image = image.resize(model.size[::-1], BILINEAR)
    pixels = np.asarray(image, dtype=np.float32).reshape(image.height, image.width, model.channels)
    return ((pixels.transpose(2, 0, 1) / np.float32(255) - model.mean) / model.std).astype(model.dtype, order="C")


def load_batches(paths: Sequence[Path], model: Model, skipped: list[dict[str, str]]) -> Iterator[list[Loaded]]:
    """Yield batches of readable images; the unreadable ones are named on stderr and noted in `skipped`."""
    batch: list[Loaded] = []
    for path in paths:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Pillow's remarks on metadata: what matters is whether it decodes
                image = load_image(path, model.channels)
            batch.append(Loaded(path, image.size, preprocess(image, model)))
        except Exception as error:  # decoders of damaged files raise exceptions of many kinds
            print(f"skipped {path}: {one_line(error)}", file=sys.stderr)
            skipped.append({"image": str(path), "reason": one_line(error)})
        if len(batch) == model.batch:
            yield batch
            batch = []
    if batch:
        yield batch


def resized(channel: npt.NDArray[np.float32], extent: tuple[int, int]) -> npt.NDArray[np.float32]:
    """Resize a map (h, w) to an image's (width, height), bilinearly with aligned corners, as training measures it."""
    for axis, new in enumerate(extent[::-1]):
        if (old := channel.shape[axis]) != new:
            places = np.linspace(0, old - 1, new, dtype=np.float32)
            low = places.astype(np.intp)
            share = (places - low).reshape((-1, 1) if axis == 0 else (1, -1))
            below, above = (np.take(channel, i, axis) for i in (low, np.minimum(low + 1, old - 1)))
            channel = below + share * (above - below)
    return channel


def class_map(logits: npt.NDArray[np.float32], extent: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """Resize logits (classes, h, w) to an image's (width, height) and take the class of each pixel."""
    best, index = np.full(extent[::-1], -np.inf, np.float32), np.zeros(extent[::-1], np.uint8)
    for i, channel in enumerate(logits):  # one by one: many classes of a large image would not fit in memory
        layer = resized(channel, extent)
        index[layer > best] = i
        np.maximum(best, layer, out=best)
    return index


def mask_paths(images: Mapping[Path, Path], out: Path) -> dict[Path, Path]:
    """Choose each image's mask file before anything is written; none may replace an image or another mask."""
    if out.exists() and not out.is_dir():
        raise RunnerError(f"-o {out}: it is a file, not a folder")
    masks: dict[Path, Path] = {}
    taken = {path.resolve() for path in images}
    for path, name in images.items():
        masks[path] = out / name.with_suffix(".png")
        if masks[path].resolve() in taken:
            raise RunnerError(f"{masks[path]}: the mask of {path} would replace another file; run them separately")
        taken.add(masks[path].resolve())
    return masks


def write_mask(mask: npt.NDArray[np.uint8], path: Path, colours: bool) -> None:
    """Write class indices (H, W) as a palette PNG in the colours of PASCAL VOC, or a grey PNG; never half a file."""
    image = Image.fromarray(mask)
    if colours:  # bit k of the class index i goes to bit 7 - k // 3 of channel k % 3
        rgb = ((i, range(c, 8, 3)) for i in range(256) for c in range(3))
        image.putpalette([sum((i >> k & 1) << 7 - k // 3 for k in bits) for i, bits in rgb])
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".part")
    try:
        image.save(partial, format="PNG")
        os.replace(partial, path)
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()


def predict(item: Loaded, output: npt.NDArray[Any], model: Model, top: int, mask: Path | None) -> dict[str, Any]:
    """Turn what the model gives of one image into what is printed, and write its mask where one is asked for."""
    check_output(item, output, model)
    pixels: npt.NDArray[np.uint8] | None = None
    if model.labels:
        pixels = np.asarray(Image.fromarray(output.astype(np.uint8)).resize(item.extent, NEAREST))
    elif model.task == "segmentation":
        pixels = class_map(output.astype(np.float32), item.extent)
    if pixels is not None:
        scores = np.bincount(pixels.ravel()) / pixels.size
    elif model.task == "classification":
        powers = np.exp(output.astype(np.float32) - output.max())
        scores = powers / powers.sum()
    else:
        chances = (1 + np.tanh(resized(output[0].astype(np.float32), item.extent) / 2)) / 2  # the sigmoid
        pixels, scores = np.rint(255 * chances).astype(np.uint8), np.array([np.mean(chances >= 0.5)])
    if mask is not None and pixels is not None:
        write_mask(pixels, mask, model.task == "segmentation")
    best = [int(i) for i in np.argsort(-scores, kind="stable")[:top] if scores[i] > 0 or len(scores) == 1]
    names = {i: model.classes[i] if i < len(model.classes) else str(i) for i in best}
    key = "probability" if model.task == "classification" else "share"
    classes = [{"index": i, "name": names[i], key: float(scores[i])} for i in best]
    return {"image": str(item.path), "classes": classes, **({"mask": str(mask)} if mask else {})}


def check_output(item: Loaded, output: npt.NDArray[Any], model: Model) -> None:
    """Refuse an output that is no number, or does not fit the task."""
    if not np.isfinite(output).all():
        raise RunnerError(f"{item.path}: the model's output holds infinite values or NaN")
    rank = 1 if model.task == "classification" else 2 if model.labels else 3
    classes = int(output.max()) + 1 if model.labels else len(output)
    most = 256 if model.task == "segmentation" else 1  # channels of a map
    if output.ndim != rank or (rank > 1 and not 0 < classes <= most):
        raise RunnerError(f"an output of {list(output.shape)} per image does not fit {model.task} (masks: 256 classes)")


def prediction_line(prediction: Mapping[str, Any]) -> str:
    """Return one image's prediction as a line of text."""
    parts = [f"{c['name']} {100 * c.get('probability', c.get('share')):.1f}%" for c in prediction["classes"]]
    return f"{prediction['image']}: {', '.join(parts)}" + (f" -> {prediction['mask']}" if "mask" in prediction else "")


def read_prompt(paths: Sequence[Path], model: TextModel) -> bytes:
    """Read the one prompt, from a file or from standard input, and check that the model knows its bytes."""
    if len(paths) != 1:
        raise RunnerError(f"a text continues one prompt, but {len(paths)} are given; name one text file")
    path = paths[0]
    if path.suffix.lower() in SUFFIXES:
        raise RunnerError(f"{path}: it is an image, but the model continues text; name a text file")
    if str(path) != "-" and not path.exists():
        raise RunnerError(f"{path}: no such file")
    if path.is_dir():
        raise RunnerError(f"{path}: it is a folder; name one text file")
    prompt = sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()
    if not prompt:
        raise RunnerError(f"{path}: it is empty; the model needs at least one byte to continue")
    if max(prompt) >= model.vocabulary:
        raise RunnerError(f"{path}: it has the byte {max(prompt)}, but the model knows 0 to {model.vocabulary - 1}")
    return prompt


def continuation(runner: Runner, prompt: bytes, model: TextModel, args: argparse.Namespace) -> bytes:
    """Continue a prompt byte by byte, each drawn from softmax(logits / temperature) in float64.

    The model reads the last `length` bytes. Fewer are filled up on the right, so that every run has one shape; the
    model is causal, so what stands there changes nothing before it.
    """
    text, random = bytearray(prompt), np.random.default_rng(args.seed or 0)
    temperature = 1.0 if args.temperature is None else args.temperature
    for _ in range(args.tokens or 200):
        read = text[-model.length :]
        row = np.zeros((1, model.length), np.int64)
        row[0, : len(read)] = list(read)
        logits = runner(row)
        if logits.shape != (1, model.length, model.vocabulary):
            raise RunnerError(f"an output of {list(logits.shape)} does not fit {model.task}")
        last = logits[0, len(read) - 1].astype(np.float64)
        if not np.isfinite(last).all():
            raise RunnerError("the model's output holds infinite values or NaN")
        if temperature == 0:
            text.append(int(last.argmax()))
        else:
            with np.errstate(over="ignore"):  # of a tiny temperature: -inf, whose share is 0
                powers = np.exp((last - last.max()) / temperature)
            text.append(int(random.choice(len(powers), p=powers / powers.sum())))
    return bytes(text[len(prompt) :])


class Report:
    """What is printed: lines as they come, or one JSON object at the end."""

    def __init__(self, session: Any, model: Model | TextModel, batch: int, args: argparse.Namespace) -> None:
        self.model, self.batch, self.args = model, batch, args
        self.provider, self.counts = PROVIDERS[args.provider][0], node_counts(session)
        self.say(
            f"{args.model}: {model.task}, input {printable(model.input)} {session.get_inputs()[0].shape}, batch {batch}"
        )
        self.say(f"provider: {self.provider}" + "".join(f"; {n} nodes on {name}" for name, n in self.counts.items()))

    def say(self, line: str) -> None:
        """Print a line, unless all is to be one JSON object."""
        if not self.args.json:
            print(line, flush=True)

    def close(self, runner: Runner, what: str, found: dict[str, Any]) -> None:
        """Time the model, and print the latency, or the JSON object with what was `found`; `what` is counted."""
        warmup, repeat = self.args.warmup, self.args.repeat
        timing = runner.latency(warmup, repeat, what) if repeat else {}
        if self.args.json:
            about = {"model": str(self.args.model), "task": self.model.task, "version": self.model.version}
            latency = {"batch": self.batch, "warmup": warmup, "repeat": repeat, **timing} if timing else None
            print(json.dumps({**about, "provider": self.provider, "nodes": self.counts, **found, "latency": latency}))
        elif timing:
            parts = ", ".join(f"{key[:-3]} {value:.3f} ms" for key, value in timing.items() if key.endswith("_ms"))
            runs = f"batch {self.batch}, {repeat} runs after {warmup} to warm up"
            print(f"latency ({runs}): {parts}; {timing[f'{what}_per_s']:.1f} {what}/s")


def run(args: argparse.Namespace) -> None:
    """Do what the command line asks for."""
    session = open_session(args)
    is_text = [source.type for source in session.get_inputs()] == [IDS]
    for name in IMAGE_OPTIONS if is_text else TEXT_OPTIONS:
        if getattr(args, name) is not None:
            mine, its = ("images", "text") if is_text else ("text", "images")
            raise RunnerError(f"--{name} is for {mine}, but {args.model} takes {its}; leave it out")
    (run_text if is_text else run_images)(session, args)


def run_text(session: Any, args: argparse.Namespace) -> None:
    """Continue the prompt."""
    model = describe_text(session, args)
    prompt = read_prompt(args.inputs, model)
    report = Report(session, model, 1, args)
    runner = Runner(session, model.input, "cpu" if args.provider == "cpu" else "cuda")
    added = continuation(runner, prompt, model, args)
    text = added.decode(errors="replace")
    report.say(printable(text, kept="\n\t"))
    report.close(runner, "tokens", {"prompt": str(args.inputs[0]), "tokens": list(added), "text": text})


def run_images(session: Any, args: argparse.Namespace) -> None:
    """Predict the images."""
    if args.native and (args.batch or 1) > 1:
        raise RunnerError("--native: images of different sizes go one at a time; leave out --batch")
    model = describe(session, args)
    if args.output and model.task == "classification":
        raise RunnerError(f"-o writes masks, but {args.model} is for {model.task}")
    images = find_images(args.inputs, args.output)
    masks = mask_paths(images, args.output) if args.output else {}
    report = Report(session, model, model.batch, args)
    runner = Runner(session, model.input, "cpu" if args.provider == "cpu" else "cuda")
    predictions: list[dict[str, Any]] = []
    skipped: list[dict[str, str]] = []
    for batch in load_batches(list(images), model, skipped):
        padding = [batch[-1].tensor] * (model.batch - len(batch))  # TensorRT builds an engine for each shape it sees
        outputs = runner(np.stack([item.tensor for item in batch] + padding))
        for i, item in enumerate(batch):
            predictions.append(predict(item, outputs[i], model, args.top or 3, masks.get(item.path)))
            report.say(prediction_line(predictions[-1]))
    if not predictions:
        raise RunnerError(f"none of the {len(images)} images can be read")
    if skipped:
        report.say(f"skipped {len(skipped)} of {len(images)} images, which cannot be read")
    report.close(runner, "images", {"predictions": predictions, "skipped": skipped})


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        """Print the error and leave with status 2."""
        self.exit(2, f"error: {message}; see --help\n")


def at_least(lowest: int) -> Callable[[str], int]:
    """Return an argument type: an integer from `lowest`."""

    def parse(text: str) -> int:
        if not text.isdecimal() or int(text) < lowest:
            raise argparse.ArgumentTypeError(f"{text!r} is not an integer from {lowest}")
        return int(text)

    return parse


def temperature(text: str) -> float:
    """Parse a finite number from 0."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a finite number from 0")
    return value


def image_size(text: str) -> tuple[int, int]:
    """Parse HxW."""
    match = re.fullmatch(r"([1-9][0-9]*)x([1-9][0-9]*)", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not HxW, such as 224x224")
    return int(match[1]), int(match[2])


def parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    result = Parser(description="Run an ONNX file exported by topolearn; print predictions or text, and the latency.")
    add = result.add_argument
    add("model", type=Path, help="exported .onnx file")
    add("inputs", type=Path, nargs="+", help="image files, or folders of them; of text one prompt file, or -")
    add("--provider", choices=list(PROVIDERS), default="cpu", help="what runs the model (default: cpu)")
    add("--batch", type=at_least(1), help="images per run; the last batch is filled up (default: the file's, or 1)")
    add("--top", type=at_least(1), help="classes printed per image (default: 3)")
    size = result.add_mutually_exclusive_group()
    size.add_argument("--size", type=image_size, help="HxW to resize images to, where the file leaves it open")
    size.add_argument(
        "--native", action="store_true", default=None, help="keep each image's own size, one image per run"
    )
    add(
        "-o",
        "--output",
        type=Path,
        metavar="OUT",
        help="folder for masks: palette PNG of classes, grey PNG of probabilities",
    )
    add("--tokens", type=at_least(1), help="of text: tokens to add (default: 200)")
    add(
        "--temperature",
        type=temperature,
        help="of text: below 1 likely tokens get likelier; 0: the likeliest (default: 1)",
    )
    add("--seed", type=at_least(0), help="of text: of the draws (default: 0)")
    add("--warmup", type=at_least(0), default=10, help="untimed runs before the timed ones (default: 10)")
    add("--repeat", type=at_least(0), default=100, help="timed runs; 0: no timing (default: 100)")
    add("--threads", type=at_least(0), default=0, help="CPU threads; 0: ONNX Runtime's choice (default)")
    add("--json", action="store_true", help="print one JSON object")
    add("--verbose", action="store_true", help="show ONNX Runtime's own log on stderr")
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status: 0, 2 for the user's mistakes, 130 after Ctrl-C."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # file names that the terminal's encoding lacks
    try:
        run(parser().parse_args(argv))
        sys.stdout.flush()
        return 0
    except BrokenPipeError:  # the reader of a pipe has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (RunnerError, OSError, MemoryError) as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
