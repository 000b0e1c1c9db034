"""``topolearn predict``: images in, masks, overlays or a table of classes out."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from topolearn.prediction import Prediction, Skipped

_NAMED = 3
"""Classes named per image."""


def predict(
    model: Annotated[
        Path, typer.Argument(metavar="RUN_DIR|FILE.onnx", help="The folder of a finished run, or an exported file.")
    ],
    images: Annotated[list[Path], typer.Argument(metavar="IMAGES…", help="Image files, and folders of them.")],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="OUT", help="Folder to write to.")],
    provider: Annotated[str, typer.Option(help="Of an ONNX file: cpu, cuda or tensorrt.")] = "cpu",
    device: Annotated[str, typer.Option(help="Of a run: auto, cpu, cuda, cuda:1 …")] = "auto",
) -> None:
    """Predict images with the network of a run or with an exported file.

    Segmentation: OUT/masks/NAME.png (its values are the labels, its palette their colours),
    OUT/overlays/NAME.png and OUT/legend.svg. Saliency and edges: grey masks and overlays. Classification:
    OUT/predictions.csv. What cannot be read is named, left out and counted.
    """
    from topolearn.prediction import predict as run

    result = run(model, images, output, device=device, provider=provider, on_image=_tell)
    for note in result.notes:
        print(note, file=sys.stderr)
    written = sorted({str(path.parent) for each in result.images for path in each.files})
    number = len(result.images)
    count = f"{number:,} image{'s' if number > 1 else ''}"
    if result.skipped:
        count += f", skipped {len(result.skipped):,} of {number + len(result.skipped):,}"
    print(f"{result.task}, {count}: {', '.join([*written, *map(str, result.files)])}")


def _tell(done: Prediction | Skipped) -> None:
    from topolearn.prediction import Prediction

    if isinstance(done, Prediction):
        shares = ", ".join(f"{name} {share:.1%}" for name, share in done.shares[:_NAMED])
        print(f"{done.image}: {shares}", flush=True)
    else:
        print(f"skipped: {done.reason}", file=sys.stderr)
