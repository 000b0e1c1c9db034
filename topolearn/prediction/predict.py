"""Prediction of image files and validation images: writes classes, masks and overlays."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from topolearn.data.images import pixels
from topolearn.device import find_device
from topolearn.drawing.palette import MAX_COLOURS
from topolearn.errors import DataError, OptionError, utf8
from topolearn.files import write_atomically
from topolearn.prediction import pictures
from topolearn.prediction.inputs import Skipped, find, passed_over, read, shown
from topolearn.prediction.model import Model, model_of_run
from topolearn.prediction.opening import load
from topolearn.runs.config import read_config
from topolearn.runs.folder import CONFIG
from topolearn.runs.searched import find_data
from topolearn.runs.trained import load_model
from topolearn.samples.base import listed
from topolearn.samples.modes import conversions
from topolearn.task_kinds import kind_of
from topolearn.tasks import Answer, ClassShares, LabelMap, ScoreMap

MASKS, OVERLAYS, LEGEND, TABLE = "masks", "overlays", "legend.svg", "predictions.csv"
"""Names in the output folder. Dense tasks write masks and overlays, segmentation also the legend; classification
writes only the table."""
TOP = 5
"""Number of classes per image in the table of a classification."""
_SURE = 0.5
"""Lowest probability at which a pixel counts as salient, or as an edge."""


@dataclass(frozen=True)
class Prediction:
    """The prediction for one image.

    Attributes:
        image: The file.
        shares: Classes, the largest share first, with their probability, or for masks with their share of the
            pixels. For saliency and edges: the share of pixels with a probability of at least 0.5.
        files: The files written for the image.
    """

    image: Path
    shares: tuple[tuple[str, float], ...]
    files: tuple[Path, ...] = ()


@dataclass
class Predictions:
    """The predictions for many images.

    Attributes:
        task: The task of the network.
        images: One prediction for each image that could be used.
        skipped: The other images.
        notes: Sentences about what was skipped, converted or resized.
        files: The files written for all images together.
    """

    task: str
    images: list[Prediction] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)


def predict(
    source: str | Path | Model,
    images: str | Path | Sequence[str | Path],
    out: str | Path | None = None,
    *,
    device: str = "auto",
    provider: str = "cpu",
    on_image: Callable[[Prediction | Skipped], object] = lambda done: None,
) -> Predictions:
    """Run a network on image files, and return what it predicts; with ``out``, write it too.

    For segmentation it writes ``masks/NAME.png`` (pixel values are the labels, the palette has their
    colours), ``overlays/NAME.png`` and ``legend.svg``. For saliency and edges it writes a grey picture of the
    probabilities to ``masks/``, and overlays. All of these have the size of the image. For classification it writes
    ``predictions.csv``. Every file appears whole or not at all, and replaces a file of the same name.

    The network gets images as in evaluation. For masks, an image keeps its size, and is split into windows if the run
    was evaluated so (except for an ONNX file that returns classes). For classification, it is resized to the graph's
    input. If an ONNX file takes only one size, images are resized for it and the masks are resized back;
    ``notes`` says for how many.

    Args:
        source: The folder of a run, an ONNX file, or a :class:`Model` from :func:`load`.
        images: Image files, and folders of them.
        out: Folder to write to; None writes nothing, which masks do not allow.
        device: See :func:`load`.
        provider: See :func:`load`.
        on_image: Function called with each image when it is done or skipped.

    Raises:
        DataError: A file is missing, a folder has no images, or no image can be used.
        OptionError: Output files would replace one another or the images, masks have no folder, or would mix
            with other masks.
        TopolearnError: A file cannot be written; or see :func:`load`.
    """
    target = _folder(out)
    asked = [images] if isinstance(images, str | Path) else images
    files = find(asked)
    model = source if isinstance(source, Model) else load(source, device=device, provider=provider)
    if not isinstance(model, Model):
        raise DataError(f"'{model.info.name}' is for {model.info.task}, which takes a text; use continue_text() for it")
    writer = _Writer(model, target)
    if model.info.kind.is_dense and target is not None:
        _check_names(files, target)
    _check_free(model, target)
    result = Predictions(model.info.task)
    for path in files:
        try:
            done = writer.file(path)
        except DataError as error:
            result.skipped.append(Skipped(path, error.message))
            on_image(result.skipped[-1])
        else:
            result.images.append(done)
            on_image(done)
    if not result.images:
        raise DataError(f"none of the {len(files):,} images can be used; the first: {result.skipped[0].reason}")
    left = passed_over(asked)
    result.notes += [*([] if left is None else [left]), *writer.notes(len(result.images))]
    result.files += writer.close(result.images)
    return result


def predict_validation(
    run_dir: str | Path,
    out: str | Path | None = None,
    *,
    data: Any = None,
    data_root: str | Path | None = None,
    device: str = "auto",
    on_image: Callable[[Prediction | Skipped], object] = lambda done: None,
) -> Predictions:
    """Run the network of a run on its validation images, named by their number from 0.

    The network gets them as in evaluation. The files are those of :func:`predict`.

    Args:
        run_dir: The folder of a finished run.
        out: Folder to write to; None writes nothing, which masks do not allow.
        data: As for :func:`topolearn.fit`; default: the data of the run.
        data_root: Folder of data sets to look in.
        device: The device of the network; ``auto`` is CUDA if there is a GPU.
        on_image: Function called with each image when it is done.

    Raises:
        DataError: The data cannot be found or differ from the run's, or the network takes text.
        TopolearnError: There is no such run, or a file cannot be written.
    """
    folder, target = Path(run_dir), _folder(out)
    net = load_model(folder)
    if kind_of(net.graph.task).is_text:
        raise DataError(f"'{folder}' is for {net.graph.task}, which takes a text; use continue_text() for it")
    found = find_data(read_config(folder / CONFIG), net.graph, data, data_root)
    model = model_of_run(net, folder, find_device(device))
    result = Predictions(model.info.task, notes=list(found.notes))
    writer = _Writer(model, target)
    _check_free(model, target)
    digits = len(str(found.val_size - 1))
    images = (image[None] for batch, _ in found.val_batches(1) for image in listed(batch)[0])
    for number, image in enumerate(images):
        picture = shown(image[0], found.info)
        answer = model(image, (picture.height, picture.width))
        result.images.append(writer.write(Path(f"{number:0{digits}}"), picture, answer))
        on_image(result.images[-1])
    result.files += writer.close(result.images)
    return result


def _folder(out: str | Path | None) -> Path | None:
    """Return the folder to write to; raise an OptionError if it is a file."""
    target = None if out is None else Path(out)
    if target is not None and target.exists() and not target.is_dir():
        raise OptionError(f"'{target}' is a file; name a folder to write to")
    return target


def _check_free(model: Model, out: Path | None) -> None:
    """Raise an OptionError if predicted masks would mix with masks from elsewhere, such as those of an annotator."""
    if out is None or not model.info.kind.is_dense or (out / OVERLAYS).is_dir():
        return
    if (out / MASKS).is_dir() and any((out / MASKS).iterdir()):
        raise OptionError(
            f"the folder {out / MASKS} already holds files that are not predictions, so nothing is written there;"
            " choose another folder with -o"
        )


def _check_names(files: Sequence[Path], out: Path) -> None:
    """Raise an OptionError if a mask would replace an image, or the mask of another image."""
    images = {path.resolve(): path for path in files}
    taken: dict[str, Path] = {}
    for path in files:
        other = taken.setdefault(path.stem, path)
        if other is not path:
            raise OptionError(f"the masks of '{other}' and '{path}' would have one name; predict them one at a time")
        for folder in (MASKS, OVERLAYS):
            written = (out / folder / f"{path.stem}.png").resolve()
            if written in images:
                raise OptionError(f"'{images[written]}' would be replaced by a mask; write to another folder")


class _Writer:
    """Writes the predictions of single images, and the files for all images together; without a folder, nothing."""

    def __init__(self, model: Model, out: Path | None) -> None:
        if out is None and model.info.kind.is_dense:
            raise OptionError(f"'{model.info.name}' predicts masks; name the folder to write them to (-o, 'out')")
        self.model, self.out = model, out
        self.classes = list(model.info.classes)
        self.colours = pictures.colours_of(self.classes)
        self.modes: Counter[str] = Counter()
        self.resized = 0
        self.answer: Answer | None = None  # the latest one; all have the same type

    def file(self, path: Path) -> Prediction:
        """Predict an image file, and write the prediction."""
        image, mode = read(path, self.model.info.size[0])
        own = (image.height, image.width)
        seen = self.model.size_of(*own)
        try:
            answer = self.model(pixels(image, seen)[None], own)
        except DataError as error:
            raise DataError(f"the image '{path}' cannot be predicted: {error.message}") from None
        self.modes[mode] += 1
        self.resized += seen != own and self.model.info.kind.is_dense
        return self.write(path, image, answer)

    def write(self, path: Path, image: Image.Image, answer: Answer) -> Prediction:
        """Write the prediction for an image."""
        self.answer = answer
        match answer:
            case ClassShares(found):
                return Prediction(path, self._shares(found))
            case LabelMap(found):
                labels, shares = self._labels(found)
                drawn = pictures.mask(labels, self.colours), pictures.overlay_classes(image, labels, self.colours)
            case ScoreMap(name, found):
                scores = found.numpy()
                shares = ((name, float((scores >= _SURE).mean())),)
                drawn = pictures.grey(scores), pictures.overlay_map(image, scores)
        assert self.out is not None  # masks need it
        names = [self.out / folder / f"{path.stem}.png" for folder in (MASKS, OVERLAYS)]
        return Prediction(path, shares, tuple(map(pictures.save, drawn, names)))

    def _labels(self, found: Tensor) -> tuple[NDArray[np.uint8], tuple[tuple[str, float], ...]]:
        counts = found.flatten().bincount()
        if len(counts) > MAX_COLOURS:
            raise OptionError(
                f"'{self.model.info.name}' predicts {len(counts)} classes; masks hold at most {MAX_COLOURS}"
            )
        return found.numpy().astype(np.uint8), self._shares(counts.double() / counts.sum())

    def _shares(self, shares: Tensor) -> tuple[tuple[str, float], ...]:
        """Return class names with their ``shares`` (classes,) above 0; a class without a name gets its number."""
        self.classes += map(str, range(len(self.classes), len(shares)))
        order = shares.argsort(descending=True, stable=True).tolist()
        return tuple((self.classes[label], float(shares[label])) for label in order if shares[label] > 0)

    def notes(self, count: int) -> list[str]:
        """Return sentences that say how the ``count`` images were converted and resized."""
        said = conversions(self.modes, self.model.info.size[0])
        if self.resized:
            sides = "x".join("any" if side is None else str(side) for side in self.model.takes)
            said.append(
                f"{self.resized:,} of {count:,} images are resized to {sides}, which is all that"
                f" '{self.model.info.name}' takes, and their masks back; to keep their size, export with --dynamic"
                " batch,height,width"
            )
        return said

    def close(self, done: Sequence[Prediction]) -> list[Path]:
        """Write the files for all images together, and return their paths."""
        if self.out is None:
            return []
        self.out.mkdir(parents=True, exist_ok=True)
        match self.answer:
            case LabelMap():
                path, content = self.out / LEGEND, pictures.legend(self.classes, self.colours)
            case ClassShares():
                path, content = self.out / TABLE, _table(done)
            case _:
                return []
        write_atomically(path, content)
        return [path]


def _table(done: Sequence[Prediction]) -> bytes:
    """Return the likeliest classes of every image as CSV."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["image", "class", "probability"])
    table.writerows([str(each.image), name, f"{share:.6f}"] for each in done for name, share in each.shares[:TOP])
    return utf8(text.getvalue()).encode()
