"""torchvision networks by name, and their weights: torchvision's own, or from a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_type_hints

import torch
from torch import Tensor, nn
from torchvision import models
from torchvision.models import WeightsEnum

from topolearn.compiler.modules.backbone import hub_file
from topolearn.errors import CheckpointError, LiftError, Location, OptionError, shown, suggest, tell
from topolearn.lifting.source import LIFTED, NO_GRAPH
from topolearn.runs.tensor_files import load_tensors, plain_names, why_refused

CLASSES = 1000
"""Default number of classes of a network by name: ImageNet's."""

_PREFIXES = ("resnet", "resnext", "wide_resnet", "regnet_x", "regnet_y", "mobilenet_v2")
_NAMES = ("state_dict", "model_state_dict", "model", "net", "network", "weights")
"""Keys that training programs use for the weights in a checkpoint."""
_HEADS = ("fc", "classifier.1")
"""Paths of the last layer in torchvision's networks."""


def liftable() -> list[str]:
    """Return the names of the torchvision networks that can be lifted."""
    return [name for name in models.list_models(module=models) if name.startswith(_PREFIXES)]


def by_name(name: str, weights: Any, classes: int | None) -> tuple[nn.Module, dict[str, Any]]:
    """Make a torchvision network by its name, in training mode.

    Args:
        name: Name in torchvision.
        weights: None for random ones, torchvision's name of pretrained ones, or a file.
        classes: Number of classes. If the weights have another number, the last layer starts from random weights.

    Returns:
        The network, and what is known about the data that it was trained on.

    Raises:
        LiftError: No such network, or no such weights.
        CheckpointError: The file cannot be read, or does not fit.
    """
    known = liftable()
    if name not in known:
        if name in models.list_models(module=models):
            kind = get_type_hints(models.get_model_builder(name))["return"].__name__
            raise LiftError(f"cannot lift '{name}' ({kind}): {NO_GRAPH}; {LIFTED}", module="")
        raise LiftError(f"torchvision has no network '{name}'{suggest(name, known)}")
    if classes is not None and (type(classes) is not int or classes < 1):
        raise OptionError(f"'classes' is {shown(classes)}, but it should be a number of classes")
    about: dict[str, Any] = {}
    if weights is None:
        return models.get_model(name, weights=None, num_classes=classes or CLASSES), about
    path = _file(weights)
    if path is None:
        model, about = _pretrained(name, weights)
    else:
        state = read_state(path)
        model = models.get_model(name, weights=None, num_classes=_classes(state))
        load_state(model, state, path)
    if classes is not None and _head(model).out_features != classes:
        there = _head(model).out_features
        tell(f"the last layer '{_head_path(model)}' starts at random: {there} classes in the weights, not {classes}")
        _renew_head(model, classes)
        about.pop("classes", None)
    return model, about


def load_file(model: nn.Module, weights: Any) -> None:
    """Load a file of weights into a network.

    Raises:
        OptionError: ``weights`` is a name of pretrained weights, which you can give only with a network's name.
        CheckpointError: The file cannot be read, or does not fit.
    """
    path = _file(weights)
    if path is None:
        raise OptionError(
            f"weights {shown(weights)} are not a file; for pretrained weights give the network's name, as in"
            " lift('resnet50', 'DEFAULT')"
        )
    load_state(model, read_state(path), path)


def read_state(path: Path) -> dict[str, Tensor]:
    """Read a state dict from a safetensors file or one that torch.save wrote; no code in the file is run.

    The state dict may be one entry of a checkpoint (``state_dict``, ``model`` …), and may come from a wrapped network
    (``module.…``).

    Raises:
        CheckpointError: The file cannot be read as a state dict.
    """
    where = Location(str(path))
    if not path.is_file():
        raise CheckpointError("no such file; name a .safetensors or .pth file", where)
    if path.suffix == ".safetensors":
        return plain_names(load_tensors(path))
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # for damaged files, torch.load raises many kinds of errors
        why = why_refused(error)
        raise CheckpointError(f"cannot be read as a state dict ({why}); save model.state_dict()", where) from None
    # A checkpoint holds more than the weights, which then have a key of their own.
    inner = (state.get(name) for name in _NAMES) if isinstance(state, dict) else ()
    found = next((each for each in (state, *inner) if _is_state(each)), None)
    if found is None:
        there = f" ({', '.join(map(shown, list(state)[:8]))})" if isinstance(state, dict) and state else ""
        raise CheckpointError(f"does not hold a state dict{there}; save model.state_dict()", where)
    return plain_names(found)


def _is_state(value: Any) -> bool:
    """Whether a value is a dict with only tensors by name."""
    return (
        isinstance(value, dict)
        and bool(value)
        and all(isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in value.items())
    )


def load_state(model: nn.Module, state: dict[str, Tensor], path: Path) -> None:
    """Load a state dict with exactly the network's names and shapes.

    Raises:
        CheckpointError: A tensor does not fit; the error names the first one.
    """
    where, kind, own = Location(str(path)), type(model).__name__, model.state_dict()
    for name, tensor in own.items():
        if name not in state:
            if name.endswith("num_batches_tracked"):  # old files do not have it
                continue
            raise CheckpointError(f"holds no '{name}', which this {kind} needs; give weights of this network", where)
        if state[name].shape != tensor.shape:
            raise CheckpointError(
                f"'{name}' has shape {list(state[name].shape)}, but this {kind} needs {list(tensor.shape)}; give"
                " weights of this network",
                where,
            )
    for name in state:
        if name not in own:
            raise CheckpointError(
                f"holds '{name}', which this {kind} does not have; give weights of this network", where
            )
    model.load_state_dict(own | state)


def _file(weights: Any) -> Path | None:
    """Return the file that ``weights`` names; None for pretrained weights."""
    if isinstance(weights, WeightsEnum):
        return None
    if not isinstance(weights, str | Path):
        raise OptionError(f"'weights' is a file or the name of torchvision's weights, not {shown(weights)}")
    path = Path(weights)
    return path if isinstance(weights, Path) or path.suffix or path.is_file() else None


def _pretrained(name: str, weights: str | WeightsEnum) -> tuple[nn.Module, dict[str, Any]]:
    kinds = models.get_model_weights(name)
    wanted = weights.name if isinstance(weights, WeightsEnum) else weights
    chosen = kinds.__members__.get(wanted)
    if chosen is None or (isinstance(weights, WeightsEnum) and weights is not chosen):
        raise LiftError(f"'{name}' has no weights '{weights}'{suggest(wanted, kinds.__members__)}; or name a file")
    try:
        model = models.get_model(name, weights=chosen)
    except (OSError, RuntimeError) as error:
        raise LiftError(
            f"cannot load the weights '{chosen.name}' of '{name}': {error}; give a file, or save torchvision's file as"
            f" '{hub_file(name, chosen.name)}'"
        ) from None
    preset = chosen.transforms()
    return model, {"mean": preset.mean, "std": preset.std, "classes": list(chosen.meta["categories"])}


def _classes(state: dict[str, Tensor]) -> int:
    """Return the number of classes that a state dict was made for."""
    biases = [state[f"{head}.bias"] for head in _HEADS if f"{head}.bias" in state]
    return biases[0].numel() if biases else CLASSES


def _head_path(model: nn.Module) -> str:
    return next(path for path in _HEADS if hasattr(model, path.partition(".")[0]))


def _head(model: nn.Module) -> nn.Linear:
    head = model.get_submodule(_head_path(model))
    assert isinstance(head, nn.Linear)
    return head


def _renew_head(model: nn.Module, classes: int) -> None:
    """Give the network a new last layer for other classes, initialised as torchvision does."""
    linear = nn.Linear(_head(model).in_features, classes)
    nn.init.normal_(linear.weight, 0.0, 0.01)
    nn.init.zeros_(linear.bias)
    model.set_submodule(_head_path(model), linear)
