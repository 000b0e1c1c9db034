"""The trained network that a run starts from: what it knows of its data, and how good it is before training."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from topolearn.compiler import Network
from topolearn.errors import DataError, TrainingError
from topolearn.recipes import Recipe, TrainOptions
from topolearn.runs import read_config
from topolearn.runs.config import NEW_LAYER, about_data
from topolearn.runs.folder import CONFIG, SEARCH_STATE, WEIGHTS
from topolearn.runs.tensor_files import read_about
from topolearn.samples import Data, DataInfo, ImageData

_DEVIATIONS = 3.0
"""An accuracy this many standard deviations above guessing is not luck."""


def about_given(recipe: Recipe) -> dict[str, Any]:
    """Return what is known of the given network: ``mean``, ``std`` and ``classes`` of its data, and ``new_layer``."""
    if recipe.weights is None:
        return {} if recipe.start is None else dict(recipe.start.about)
    folder = recipe.weights if recipe.weights.is_dir() else recipe.weights.parent
    if recipe.weights == folder or recipe.weights.name in (WEIGHTS, SEARCH_STATE):
        return about_data(read_config(folder / CONFIG)) if (folder / CONFIG).is_file() else {}
    about = read_about(recipe.weights).get("about", {})
    return about if isinstance(about, dict) else {}


def seen_by_given(data: Data, about: Mapping[str, Any], options: TrainOptions) -> Data:
    """Return the data normalised and numbered as the given network needs them; options come first.

    Raises:
        DataError: The number of means is not the number of channels, the data are not normalised, or their classes come
            in another order and cannot be renumbered.
    """
    info = data.info
    mean, std = options.mean or about.get("mean"), options.std or about.get("std")
    named = known_classes(about) and set(about["classes"]) == set(info.classes)
    if not isinstance(data, ImageData):
        if options.mean or options.std:
            raise DataError(f"'mean' and 'std' are for images, but '{info.name}' has {info.items}; leave them out")
        if named and tuple(about["classes"]) != info.classes:
            raise DataError(
                f"'{info.name}' has the classes of the network that was given in another order; number them as its"
                f" outputs: {', '.join(about['classes'])}"
            )
        return data
    if not (mean or std or named):
        return data
    classes = about["classes"] if named else info.classes
    return data.seen_by(mean or info.mean, std or info.std, classes)


def is_trained(net: Network, about: Mapping[str, Any], recipe: Recipe, info: DataInfo) -> bool:
    """Whether a run starts from a network that was trained for the classes of its data.

    Args:
        net: The network, with the weights that training starts from.
        about: What is known of it, as :func:`about_given` returns it.
        recipe: The request.
        info: The data.
    """
    if recipe.start is None and recipe.weights is None:
        return False
    if NEW_LAYER in about or ("mean" in about and "classes" not in about):
        return False
    if known_classes(about) and set(about["classes"]) != set(info.classes):
        return False  # it was for something else
    return not _is_fresh(net)


def known_classes(about: Mapping[str, Any]) -> bool:
    """Whether classes have names; numbers in their order are not names."""
    classes = list(about.get("classes", ()))
    return bool(classes) and classes != [str(number) for number in range(len(classes))]


def _is_fresh(net: nn.Module) -> bool:
    """Whether no batch normalisation has seen a batch; False for a network without any."""
    seen = [value for name, value in net.state_dict().items() if name.endswith("num_batches_tracked")]
    return bool(seen) and not any(int(value) for value in seen if isinstance(value, Tensor))


def check_given(metrics: Mapping[str, float], about: Mapping[str, Any], info: DataInfo, val_size: int) -> None:
    """Raise an error if a network of unknown classes is no better than guessing.

    Args:
        metrics: Metrics of the network on the validation data.
        about: What is known of the data that it was trained on.
        info: The data.
        val_size: Number of validation images.

    Raises:
        TrainingError: Its accuracy is that of guessing.
    """
    if info.kind.target != "label" or known_classes(about) or "accuracy" not in metrics or len(info.classes) < 2:
        return
    chance = 1 / len(info.classes)
    luck = _DEVIATIONS * math.sqrt(chance * (1 - chance) / val_size)
    if metrics["accuracy"] > chance + min(luck, chance):  # of few images, twice as good as guessing is enough
        return
    scaling = "how its inputs are scaled" if info.inputs else "its normalisation (--mean, --std)"
    raise TrainingError(
        f"the given network classifies {metrics['accuracy']:.1%} of the validation {info.items} correctly, no better"
        f" than guessing among {len(info.classes)} classes; check {scaling} and the order of its classes,"
        " or set 'judge_given' to false to train it anyway"
    )
