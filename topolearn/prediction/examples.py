"""Pictures of examples from a run: validation image, truth and prediction side by side."""

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
"""The name of pixels without a label in the legend."""


@dataclass(frozen=True)
class Example:
    """One row of the picture: image, truth and prediction.

    Attributes:
        pictures: One (H, W, 3) uint8 array for each of :data:`HEADINGS`.
        labels: The labels that occur in truth or prediction; empty for saliency and edges, which are drawn in grey.
    """

    pictures: tuple[Colours, Colours, Colours]
    labels: frozenset[int]


def draw_examples(
    run_dir: str | Path,
    path: str | Path,
    places: Sequence[int] | None = None,
    *,
    data: Any = None,
    data_root: str | Path | None = None,
    device: str = "auto",
) -> None:
    """Draw image, truth and prediction of some validation images of a run, one row each, with a legend of colours.

    The network gets the images as in evaluation. Colours are those of ``topolearn predict``. For saliency and edges,
    the prediction is the probability in grey, with 1 in white.

    Args:
        run_dir: The folder of a finished run for segmentation, saliency or edges.
        path: An SVG, PNG or PDF file. It appears whole or not at all.
        places: Numbers of the validation images, from 0; default: the first three.
        data: As for :func:`topolearn.fit`; default: the data of the run.
        data_root: Folder of data sets to look in.
        device: The device of the network; ``auto`` is CUDA if there is a GPU.

    Raises:
        OptionError: The run is for another task, there is no such place, or the file has another suffix.
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
        for image, truth in _chosen(found, range(min(3, found.val_size)) if places is None else places):
            logits = fit_to_labels(run(image.to(where)), truth).float().cpu()
            examples.append(_example(found.info, image[0].cpu(), truth[0].cpu(), logits[0], colours))
    rows = [example.pictures for example in examples]
    draw_rows(rows, path, HEADINGS, _legend(found.info, examples, colours))


# -- pictures ----------------------------------------------------------------------------------


def _chosen(data: Data, places: Sequence[int]) -> list[tuple[Tensor, Tensor]]:
    """Return a batch of one validation image for each of ``places``, in that order."""
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
        if place not in found:  # the user's own sampler may leave images out
            raise OptionError(f"there is no validation image {place}: the data give {len(found)} of those in 'places'")
    return [found[place] for place in places]


def _singly(data: Data) -> Iterator[tuple[Tensor, Tensor]]:
    """Iterate over the validation images one by one; a user's own loader may have any batch size."""
    for images, targets in data.val_batches(1):
        assert isinstance(images, Tensor)
        assert isinstance(targets, Tensor)
        yield from zip(images[:, None], targets[:, None], strict=True)


def _example(info: DataInfo, image: Tensor, truth: Tensor, logits: Tensor, colours: Colours) -> Example:
    """Make one row of the picture.

    Args:
        info: Task and normalisation of the images.
        image: (C, H, W), normalised.
        truth: (H, W) labels.
        logits: (classes, H, W), or (1, H, W) for saliency and edges.
        colours: (256, 3), the colours of labels.
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
    """Convert (H, W, C) values in [0, 1] to (H, W, 3) bytes; if C is not 3, the first channel becomes grey."""
    picture = np.rint(255 * np.clip(values, 0, 1)).astype(np.uint8)
    return picture if picture.shape[-1] == 3 else np.repeat(picture[..., :1], 3, axis=-1)


def _legend(info: DataInfo, examples: Sequence[Example], colours: Colours) -> list[tuple[str, Colours]]:
    """Return name and colour of the labels that occur; labels of the same colour share an entry."""
    names: dict[tuple[int, ...], list[str]] = {}
    for label in sorted(frozenset[int]().union(*(example.labels for example in examples))):
        name = UNJUDGED if label == info.ignore_index else info.classes[label]
        # Names may come from untrusted files.
        names.setdefault(tuple(colours[label].tolist()), []).append(printable(name))
    return [(", ".join(words), np.array(colour, np.uint8)) for colour, words in names.items()]
