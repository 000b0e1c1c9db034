"""Load data in the form that a graph needs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader

from topolearn.data.load import load_data
from topolearn.data.named_images import DATASETS
from topolearn.data.text import TextFormat
from topolearn.errors import OptionError
from topolearn.graph import Graph
from topolearn.ops import Shape
from topolearn.recipes.train_options import TrainOptions
from topolearn.samples import Augment, Crop, Data
from topolearn.samples.modes import MODES
from topolearn.samples.structured import StructuredData, fits_images
from topolearn.task_kinds import dense_tasks, kind_of


def crop_size(graph: Graph, options: TrainOptions) -> tuple[int, int]:
    """Return (height, width) of training crops: the option ``crop``, else the size of the graph's input.

    Raises:
        OptionError: The graph's input is not an image.
    """
    size = graph.input_size(graph.inputs[0])
    if options.crop is not None:
        return options.crop
    if len(size) != 3:
        raise OptionError(f"input '{graph.inputs[0]}' of graph '{graph.name}' is not an image; give your own Datasets")
    return size[1], size[2]


def read_data(
    graph: Graph, data: Any, root: str | Path | None, options: TrainOptions, *, own_loss: bool = False
) -> Data:
    """Load data in the form that the graph needs: its channels, size, classes or context length.

    Args:
        graph: The graph to train.
        data: The data, as given to :func:`topolearn.fit`.
        root: Folder of data sets to look in first.
        options: The training options.
        own_loss: Whether you give the loss. Then targets may have any form.

    Raises:
        TopolearnError: A subclass of it, for data or options that cannot be used.
    """
    if kind_of(graph.task).is_text:
        return _read_text(graph, data, root, options)
    source = _read_others(graph, data, root, options, own_loss)  # names data that are text themselves
    if (given := _changed(options, "steps_per_epoch", "validation_tokens")) is not None:
        raise OptionError(f"'{given}' is for text, but graph '{graph.name}' is for {graph.task}")
    return source if options.train_images is None else source.first_images(options.train_images)


def _read_others(graph: Graph, data: Any, root: str | Path | None, options: TrainOptions, own_loss: bool) -> Data:
    """Load the whole data set, images or other tensors."""
    if _are_tensors(graph, data, own_loss):
        return _read_tensors(graph, data, options, own_loss)
    size = graph.input_size(graph.inputs[0])
    settings: dict[str, Any] = {
        "task": graph.task,
        "root": root,
        "workers": options.workers,
        "skip_bad": options.skip_bad,
        "channels": size[0] if len(size) == 3 and size[0] in MODES else None,
    }
    from_files = isinstance(data, str | Path)
    if kind_of(graph.task).is_dense:
        # A pair of Datasets has its own transforms, unless a crop is asked for.
        if from_files or options.crop is not None:
            settings["augment"] = training_crop(graph, options)
    elif (given := _of_masks(options)) is not None:
        raise OptionError(f"'{given}' is for {', '.join(dense_tasks())}, but graph '{graph.name}' is for {graph.task}")
    else:
        settings["size"] = size[1:] if len(size) == 3 else None
        if not options.augment and from_files:  # your own sets have only their own transforms
            settings["augment"] = Augment()
    source = load_data(data, **settings)
    shape = graph.shapes[graph.outputs[0]]
    known = len(source.info.classes)
    channels = shape.channels if source.info.counted and isinstance(shape, Shape) else known
    source.check_numbers(channels)
    if 0 < known < channels:
        # Only labels that were seen are counted. The graph declares rarer ones too.
        source = load_data(data, classes=channels, **settings)
    if known <= channels:
        source.check_classes()  # otherwise the number of classes is the mistake
    asked = options.augment and "augment" in options.model_fields_set
    has_own = isinstance(data, Data) or (isinstance(data, str) and data in DATASETS)
    if asked and not has_own and "augment" not in settings:
        source.notes += ("'augment' changes nothing: class folders and your own sets are not augmented",)
    return source


def _are_tensors(graph: Graph, data: Any, own_loss: bool) -> bool:
    """Whether data are a pair of your own sets whose inputs or targets are not those of single images."""
    if not isinstance(data, tuple | list) or len(data) != 2:
        return False
    if len({isinstance(each, DataLoader) for each in data}) == 2:
        return False
    if graph.inputs != graph.image_inputs or len(graph.inputs) > 1:
        return True
    return own_loss and not fits_images(data[0], graph.task)


def _read_tensors(graph: Graph, data: Any, options: TrainOptions, own_loss: bool) -> Data:
    """Load a pair of Datasets or DataLoaders whose tensors are used as they are."""
    if (given := _of_masks(options)) is not None:
        raise OptionError(
            f"'{given}' is for images with masks only, but the tensors of data for graph '{graph.name}'"
            " are used as they are; leave it out"
        )
    source = StructuredData(graph, *data, own_loss=own_loss, workers=options.workers)
    if options.cuda_graph and not source.signature.are_single:
        raise OptionError(
            "'cuda_graph' needs one tensor of inputs and one of targets, not several by name; set it to false"
        )
    shape = graph.shapes[graph.outputs[0]]
    if isinstance(shape, Shape):
        source.check_numbers(shape.channels)
    source.check_classes()
    return source


def _read_text(graph: Graph, data: Any, root: str | Path | None, options: TrainOptions) -> Data:
    """Load text in contexts as long as the graph's input."""
    if (given := _of_images(options)) is not None:
        raise OptionError(f"'{given}' is for images, but graph '{graph.name}' is for {graph.task}; leave it out")
    length = graph.input_rule(graph.inputs[0]).length
    if length is None:
        raise OptionError(
            f"graph '{graph.name}' is for {graph.task}, but its input '{graph.inputs[0]}' is not a sequence; declare it"
            " as {length: 128, vocabulary: 256}"
        )
    form = TextFormat(length, options.steps_per_epoch, options.validation_tokens)
    return load_data(data, task=graph.task, root=root, text=form)


def _of_images(options: TrainOptions) -> str | None:
    """Return the name of an option that only acts on images and is not at its default, or None."""
    return _of_masks(options) or _changed(options, "skip_bad", "train_images")


def _of_masks(options: TrainOptions) -> str | None:
    """Return the name of an option that only acts on images with masks and is not at its default, or None."""
    return _changed(options, "crop", "evaluation", "scale")


def _changed(options: TrainOptions, *names: str) -> str | None:
    """Return the first of the named options that is not at its default, or None."""
    defaults = TrainOptions()
    return next((name for name in names if getattr(options, name) != getattr(defaults, name)), None)


def training_crop(graph: Graph, options: TrainOptions) -> Crop:
    """Return the crop for training images: of the size of the option ``crop``, else of the graph's input.

    Raises:
        OptionError: The graph's input is not an image.
    """
    size = crop_size(graph, options)
    if not options.augment:
        return Crop(size=size, scale=(1.0, 1.0), flip=False)
    return Crop(size=size, scale=options.scale)
