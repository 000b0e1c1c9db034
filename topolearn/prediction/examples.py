"""What a run's network makes of single images: image, truth and prediction side by side."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from topolearn.device import find_device
from topolearn.drawing.canvas import check_path
from topolearn.drawing.palette import VOID, Colours
from topolearn.drawing.rows import draw_rows
from topolearn.errors import OptionError, printable
from topolearn.prediction.pictures import colours_of
from topolearn.runs.config import read_config
from topolearn.runs.folder import CONFIG
from topolearn.runs.searched import find_data, train_options
from topolearn.runs.trained import load_model
from topolearn.samples import Data, DataInfo
from topolearn.task_kinds import dense_tasks, kind_of
from topolearn.tasks import LabelMap, ScoreMap, task_of
from topolearn.tasks.losses import fit_to_labels
from topolearn.tasks.sliding import judged

HEADINGS = ("image", "truth", "prediction")
UNJUDGED = "not judged"
"""What the legend calls pixels without a label."""


@dataclass(frozen=True)
class Example:
    """An image, and what is known of every pixel.

    Attributes:
        pictures: (H, W, 3) uint8 of each of :data:`HEADINGS`.
        labels: Those that occur in truth or prediction; none of a task of one channel, which is drawn in grey.
    """

    pictures: tuple[Colours, Colours, Colours]
    labels: frozenset[int]


def draw_examples(
    run_dir: str | Path,
    path: str | Path,
    places: Sequence[int] = (0, 1, 2),
    *,
    data: Any = None,
    data_root: str | Path | None = None,
    device: str = "auto",
) -> None:
    """Draw a row for each of some validation images of a run: image, truth, prediction; and what the colours mean.

    Images are seen as in evaluation, and colours are those of ``topolearn predict``. Of saliency and edges the
    prediction is the probability, 1 in white.

    Args:
        run_dir: The folder of a finished run for segmentation, saliency or edges.
        path: An SVG, PNG or PDF file; appears whole or not at all.
        places: Which of the validation images, from 0.
        data: As for :func:`topolearn.fit`; the run's own where not given.
        data_root: Folder of data sets to look in.
        device: Where the network runs; ``auto`` is CUDA where there is one.

    Raises:
        OptionError: A run for another task, places that there are not, or a file of another kind.
        TopolearnError: There is no such run, its data are not found, or the file cannot be written.
    """
    path, folder = Path(path), Path(run_dir)
    check_path(path)
    net, where = load_model(folder), find_device(device)
    if not kind_of(net.graph.task).is_dense:
        known = ", ".join(dense_tasks())
        raise OptionError(f"the run in {folder} is for {net.graph.task}; pictures of examples are for {known}")
    config = read_config(folder / CONFIG)
    found = find_data(config, net.graph, data, data_root)
    run = judged(net.to(where), train_options(config))
    colours = colours_of(found.info.classes)
    if found.info.ignore_index is not None:
        colours[found.info.ignore_index] = VOID
    examples = []
    with torch.no_grad():
        for image, truth in _chosen(found, places):
            logits = fit_to_labels(run(image.to(where)), truth).float().cpu()
            examples.append(_example(found.info, image[0].cpu(), truth[0].cpu(), logits[0], colours))
    rows = [example.pictures for example in examples]
    draw_rows(rows, path, HEADINGS, _legend(found.info, examples, colours))


# -- pictures ----------------------------------------------------------------------------------


def _chosen(data: Data, places: Sequence[int]) -> list[tuple[Tensor, Tensor]]:
    """Batches of one validation image, in the order of ``places``."""
    if not places or not all(0 <= place < data.val_size for place in places):
        raise OptionError(
            f"'places' is {list(places)}, but the validation images of '{data.info.name}' are 0 to {data.val_size - 1}"
        )
    found: dict[int, tuple[Tensor, Tensor]] = {}
    for place, pair in enumerate(_singly(data)):
        if place in places:
            found[place] = pair
        if place == max(places):
            break
    for place in places:
        if place not in found:  # a sampler of the user's own may leave images out
            raise OptionError(f"there is no validation image {place}: the data give {len(found)} of those in 'places'")
    return [found[place] for place in places]


def _singly(data: Data) -> Iterator[tuple[Tensor, Tensor]]:
    """The validation images one by one; a user's own loader has a batch size of its own."""
    for images, targets in data.val_batches(1):
        assert isinstance(images, Tensor)
        assert isinstance(targets, Tensor)
        yield from zip(images[:, None], targets[:, None], strict=True)


def _example(info: DataInfo, image: Tensor, truth: Tensor, logits: Tensor, colours: Colours) -> Example:
    """One row.

    Args:
        info: How images are normalised.
        image: (C, H, W), normalised.
        truth: (H, W) labels.
        logits: (classes, H, W), or (1, H, W) of a task of one channel.
        colours: (256, 3) of labels.
    """
    mean, std = (np.array(values).reshape(-1, 1, 1) for values in (info.mean, info.std))
    photo = _bytes(np.moveaxis(image.numpy() * std + mean, 0, -1))
    labels = truth.numpy()
    answer = task_of(info.task).answer(logits, info)
    if isinstance(answer, ScoreMap):
        known, probable = (_bytes(values[..., None]) for values in ((labels == 1) * 1.0, answer.scores.numpy()))
        return Example((photo, known, probable), frozenset())
    assert isinstance(answer, LabelMap)
    predicted = answer.labels.numpy()
    shown = frozenset(np.unique(np.concatenate([labels.ravel(), predicted.ravel()])).tolist())
    return Example((photo, colours[labels], colours[predicted]), shown)


def _bytes(values: NDArray[Any]) -> Colours:
    """(H, W, 3) of (H, W, C) values in [0, 1]; the first channel is grey where there are not three."""
    picture = np.rint(255 * np.clip(values, 0, 1)).astype(np.uint8)
    return picture if picture.shape[-1] == 3 else np.repeat(picture[..., :1], 3, axis=-1)


def _legend(info: DataInfo, examples: Sequence[Example], colours: Colours) -> list[tuple[str, Colours]]:
    """Name and colour of the labels that occur; those of one colour stand together."""
    names: dict[tuple[int, ...], list[str]] = {}
    for label in sorted(frozenset[int]().union(*(example.labels for example in examples))):
        name = UNJUDGED if label == info.ignore_index else info.classes[label]
        # Names come from files of strangers.
        names.setdefault(tuple(colours[label].tolist()), []).append(printable(name))
    return [(", ".join(words), np.array(colour, np.uint8)) for colour, words in names.items()]
