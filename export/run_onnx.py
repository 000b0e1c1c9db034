"""Run an ONNX file exported by topolearn on images: predictions and latency, on CPU, CUDA or TensorRT.

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
class Loaded:
    """An image on its way through the model."""

    path: Path
    extent: tuple[int, int]  # its own (width, height)
    tensor: npt.NDArray[Any]  # (C, H, W)


def one_line(error: BaseException) -> str:
    """Return an exception's text on one line."""
    return " ".join(str(error).split()) or type(error).__name__


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


def describe(session: Any, args: argparse.Namespace) -> Model:
    """Put together what the file's input, its metadata and the command line say."""
    inputs, output = session.get_inputs(), session.get_outputs()[0]
    name, shape = inputs[0].name, inputs[0].shape
    if len(inputs) != 1 or inputs[0].type not in DTYPES or len(shape) != 4:
        found = ", ".join(f"{i.name}: {i.type} {i.shape}" for i in inputs)
        raise RunnerError(f"{args.model}: this runner feeds one float input (batch, C, H, W); the file has {found}")
    try:
        metadata = json.loads(session.get_modelmeta().custom_metadata_map.get("topolearn") or "{}")
        recorded = [int(n) for n in (metadata.get("input_size") or {}).get(name) or ()]
        if len(recorded) not in (0, 3):
            raise ValueError(f"input_size {recorded} is not C, H, W")
        mean, std = (np.asarray(metadata.get(key) or fill, np.float32) for key, fill in (("mean", 0), ("std", 1)))
        # A stranger's names go to the terminal, without what it would obey.
        classes = tuple("".join(filter(str.isprintable, str(name))) for name in metadata.get("classes") or ())
        task = str(metadata.get("task") or ("classification" if len(output.shape) == 2 else "segmentation"))
        gives = str(metadata.get("output") or ("logits" if output.type in DTYPES else "argmax"))
    except (ValueError, TypeError, AttributeError) as error:
        raise RunnerError(f"{args.model}: its metadata 'topolearn' is damaged: {one_line(error)}") from None
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

    def latency(self, warmup: int, repeat: int) -> dict[str, float]:
        """Time runs on what is bound; copies between host and device are not in it."""
        times = np.empty(warmup + repeat)
        for i in range(len(times)):
            start = time.perf_counter()
            self.run()
            times[i] = time.perf_counter() - start
        p50, p90, p99 = (float(p) for p in np.percentile(1000 * times[warmup:], (50, 90, 99)))
        mean = float(times[warmup:].mean())
        rate = self.value.shape()[0] / mean
        return {"p50_ms": p50, "p90_ms": p90, "p99_ms": p99, "mean_ms": 1000 * mean, "images_per_s": rate}


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


def run(args: argparse.Namespace) -> None:
    """Do what the command line asks for."""
    if args.native and (args.batch or 1) > 1:
        raise RunnerError("--native: images of different sizes go one at a time; leave out --batch")
    session = open_session(args)
    model, counts, provider = describe(session, args), node_counts(session), PROVIDERS[args.provider][0]
    if args.output and model.task == "classification":
        raise RunnerError(f"-o writes masks, but {args.model} is for {model.task}")
    images = find_images(args.images, args.output)
    masks = mask_paths(images, args.output) if args.output else {}

    def say(line: str) -> None:
        if not args.json:
            print(line, flush=True)

    say(f"{args.model}: {model.task}, input {model.input} {session.get_inputs()[0].shape}, batch {model.batch}")
    say(f"provider: {provider}" + "".join(f"; {n} nodes on {name}" for name, n in counts.items()))
    runner = Runner(session, model.input, "cpu" if args.provider == "cpu" else "cuda")
    predictions: list[dict[str, Any]] = []
    skipped: list[dict[str, str]] = []
    for batch in load_batches(list(images), model, skipped):
        padding = [batch[-1].tensor] * (model.batch - len(batch))  # TensorRT builds an engine for each shape it sees
        outputs = runner(np.stack([item.tensor for item in batch] + padding))
        for i, item in enumerate(batch):
            predictions.append(predict(item, outputs[i], model, args.top, masks.get(item.path)))
            say(prediction_line(predictions[-1]))
    if not predictions:
        raise RunnerError(f"none of the {len(images)} images can be read")
    if skipped:
        say(f"skipped {len(skipped)} of {len(images)} images, which cannot be read")
    timing = runner.latency(args.warmup, args.repeat) if args.repeat else {}
    setting = {"batch": model.batch, "warmup": args.warmup, "repeat": args.repeat}
    if args.json:
        about = {"model": str(args.model), "task": model.task, "version": model.version, "provider": provider}
        latency = {**setting, **timing} if timing else None
        result = {**about, "nodes": counts, "predictions": predictions, "skipped": skipped, "latency": latency}
        print(json.dumps(result))
    elif timing:
        parts = ", ".join(f"{key[:-3]} {value:.3f} ms" for key, value in timing.items() if key.endswith("_ms"))
        runs = f"batch {model.batch}, {args.repeat} runs after {args.warmup} to warm up"
        print(f"latency ({runs}): {parts}; {timing['images_per_s']:.1f} images/s")


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


def image_size(text: str) -> tuple[int, int]:
    """Parse HxW."""
    match = re.fullmatch(r"([1-9][0-9]*)x([1-9][0-9]*)", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not HxW, such as 224x224")
    return int(match[1]), int(match[2])


def parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    result = Parser(description="Run an ONNX file exported by topolearn on images; print predictions and latency.")
    add = result.add_argument
    add("model", type=Path, help="exported .onnx file")
    add("images", type=Path, nargs="+", help="image files, or folders of them")
    add("--provider", choices=list(PROVIDERS), default="cpu", help="what runs the model (default: cpu)")
    add("--batch", type=at_least(1), help="images per run; the last batch is filled up (default: the file's, or 1)")
    add("--top", type=at_least(1), default=3, help="classes printed per image (default: 3)")
    size = result.add_mutually_exclusive_group()
    size.add_argument("--size", type=image_size, help="HxW to resize images to, where the file leaves it open")
    size.add_argument("--native", action="store_true", help="keep each image's own size, one image per run")
    add(
        "-o",
        "--output",
        type=Path,
        metavar="OUT",
        help="folder for masks: palette PNG of classes, grey PNG of probabilities",
    )
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
