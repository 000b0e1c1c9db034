"""``topolearn predict``: predict masks or classes of images, or continue a prompt."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from topolearn.cli.common import say
from topolearn.errors import DataError, OptionError, tell
from topolearn.files import read_start

if TYPE_CHECKING:
    from topolearn.prediction import Prediction, Predictions, Skipped, TextModel

_NAMED = 3
"""Number of classes named per image."""
_LONGEST = 64 * 2**20
"""Most bytes of a prompt."""
_STDIN = "-"
"""Name of a prompt that is read from standard input."""
_TEXT = "Text"
"""Heading of the options that apply to text only."""


def predict(
    model: Annotated[
        Path, typer.Argument(metavar="RUN_DIR|FILE.onnx", help="The folder of a finished run, or an exported file.")
    ],
    inputs: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="IMAGES…|PROMPT",
            help="Image files and folders; or one text file; or - for a prompt from standard input. Default: the"
            " validation images of the run's data.",
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            metavar="OUT",
            help="Folder to write to, for text a file. Needed for masks; classes and text are only printed without it.",
        ),
    ] = None,
    provider: Annotated[str, typer.Option(help="Where an ONNX file runs: cpu, cuda or tensorrt.")] = "cpu",
    device: Annotated[str, typer.Option(help="Where a run's network runs: auto, cpu, cuda, cuda:1 …")] = "auto",
    data: Annotated[
        str | None, typer.Option(help="Predict the validation images of this data set or folder, instead of IMAGES.")
    ] = None,
    data_root: Annotated[
        Path | None, typer.Option(envvar="TOPOLEARN_DATA", help="Folder in which data sets are looked for.")
    ] = None,
    length: Annotated[
        int | None, typer.Option(help="Number of tokens to add.", show_default="200", rich_help_panel=_TEXT)
    ] = None,
    temperature: Annotated[
        float | None,
        typer.Option(
            help="Below 1, likely tokens get likelier; 0 always takes the likeliest.",
            show_default="1.0",
            rich_help_panel=_TEXT,
        ),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Seed of the draws.", show_default="0", rich_help_panel=_TEXT)
    ] = None,
) -> None:
    """Run a trained network or an exported file on images, or let it continue a text.

    Segmentation: OUT/masks/NAME.png (its values are the labels, its palette their colours),
    OUT/overlays/NAME.png and OUT/legend.svg. Saliency and edges: grey masks and overlays. Classification:
    OUT/predictions.csv; without -o the classes are only printed. Images that cannot be read are named, skipped and
    counted.

    Next token: the continuation is printed, without terminal control characters. With -o the prompt and its
    continuation go to the file OUT, byte for byte.
    """
    from topolearn.files import check_target
    from topolearn.prediction import TextModel, load, predict_validation
    from topolearn.prediction import predict as run
    from topolearn.runs.folder import FILES

    if inputs and data is not None:
        raise OptionError("IMAGES and --data both say what to predict; give one of them")
    asked = {"length": length, "temperature": temperature, "seed": seed}
    given = {name: value for name, value in asked.items() if value is not None}
    loaded = load(model, device=device, provider=provider)
    if isinstance(loaded, TextModel):
        if not inputs:
            raise OptionError(f"'{model}' continues a text; name one text file, or - for standard input")
        if output is not None:
            check_target(output, [model, *(model / name for name in FILES)])
        _continue(loaded, inputs, output, given)
        return
    if given:
        raise OptionError(f"--{next(iter(given))} is for text, but '{model}' is for {loaded.info.task}; leave it out")
    shown = _tell if output is None else _tell_if_read
    if inputs:
        _print(run(loaded, inputs, output, on_image=shown))
    elif model.is_dir():
        _print(predict_validation(model, output, data=data, data_root=data_root, device=device, on_image=shown))
    else:
        raise OptionError(f"'{model}' is a file without data; name images, or a folder of images")


def _print(result: Predictions) -> None:
    for note in result.notes:
        tell(note)
    written = sorted({str(path.parent) for each in result.images for path in each.files})
    number = len(result.images)
    count = f"{number:,} image{'s' if number > 1 else ''}"
    if result.skipped:
        count += f", skipped {len(result.skipped):,} of {number + len(result.skipped):,}"
    files = ", ".join([*written, *map(str, result.files)])
    say(f"{result.task}, {count}{files and f': {files}'}")


def _tell(done: Prediction | Skipped) -> None:
    from topolearn.prediction import Prediction

    if isinstance(done, Prediction):
        shares = ", ".join(f"{name} {share:.1%}" for name, share in done.shares[:_NAMED])
        say(f"{done.image}: {shares}")
    else:
        tell(f"skipped: {done.reason}")


def _tell_if_read(done: Prediction | Skipped) -> None:
    """Print a result; a closed stdout is no error, because the result is also written to a file."""
    with contextlib.suppress(BrokenPipeError):
        _tell(done)


def _continue(model: TextModel, prompts: list[Path], output: Path | None, options: dict[str, Any]) -> None:
    from topolearn.files import write_atomically
    from topolearn.prediction import continue_text

    if len(prompts) > 1:
        raise OptionError(f"'{model.info.name}' continues one prompt, but {len(prompts)} are given; name one text file")
    prompt = _prompt(prompts[0])
    added = bytes(continue_text(model, prompt, **options))
    if output is not None:
        write_atomically(output, prompt + added)
        say(f"{model.info.task}, {len(added):,} bytes after {len(prompt):,}: {output}")
    else:
        say(added.decode(errors="replace"), kept="\n\t")


def _short(prompt: bytes, name: str) -> bytes:
    if len(prompt) > _LONGEST:
        raise DataError(f"{name} is longer than {_LONGEST // 2**20} MiB; give a shorter prompt, only its end is read")
    return prompt


def _prompt(path: Path) -> bytes:
    """Read the bytes of a prompt from a file or standard input."""
    from topolearn.data.images import SUFFIXES

    if str(path) == _STDIN:
        return _short(sys.stdin.buffer.read(_LONGEST + 1), "standard input")
    if not path.exists():
        raise DataError(f"there is no file '{path}'; name a text file, or - for standard input")
    if path.is_dir():
        raise DataError(f"'{path}' is a folder; name one text file, or - for standard input")
    if path.suffix.lower() in SUFFIXES:
        raise DataError(f"'{path}' is an image, but the network continues text; name a text file")
    try:
        return _short(read_start(path, _LONGEST + 1), f"'{path}'")
    except OSError as error:
        raise DataError(f"'{path}' cannot be read: {error.strerror or error}; name a text file") from None
