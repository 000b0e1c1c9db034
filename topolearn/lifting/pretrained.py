"""Networks of torchvision and timm by name, and their weights: torchvision's own, or from a file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision import models
from torchvision.models import WeightsEnum

from topolearn.compiler.modules.backbone import hub_file
from topolearn.errors import CheckpointError, LiftError, Location, OptionError, shown, suggest, tell
from topolearn.frozen import FrozenMap
from topolearn.graph import Source
from topolearn.ops.shape import Size
from topolearn.runs.config import NEW_LAYER
from topolearn.runs.tensor_files import load_tensors, plain_names, why_refused
from topolearn.tracing.builders import builder, names, outline_of, timm_library, version

_NAMES = ("state_dict", "model_state_dict", "model", "net", "network", "weights", "ema", "state_dict_ema")
"""Keys that training programs use for the weights in a checkpoint."""
_AUXILIARY = ("aux1.", "aux2.", "AuxLogits.")
"""Second heads of GoogLeNet and Inception, which only help to train them."""
_OPTIONS: dict[str, dict[str, Any]] = {
    "googlenet": {"aux_logits": False, "init_weights": False},
    "inception_v3": {"aux_logits": False, "init_weights": False},
}
"""Options for torchvision's builders without which a network returns more than one tensor, or warns."""


def by_name(
    name: str, weights: Any, classes: int | None, size: Size | None = None
) -> tuple[nn.Module, dict[str, Any], Source]:
    """Make a network by its name, in training mode.

    Args:
        name: Name in torchvision, or ``timm:`` and the name in timm.
        weights: None for random ones, torchvision's name of pretrained ones, or a file.
        classes: Number of classes. If the weights have another number, the last layer starts from random weights.
        size: Height and width of the images, for a network that takes only one size; None for its own.

    Returns:
        The network; what is known about it, such as the data that it was trained on; and the source that builds it.

    Raises:
        LiftError: No such network, or no such weights.
        CheckpointError: The file cannot be read, or does not fit.
    """
    library, _, model = name.rpartition(":")
    library = library or "torchvision"
    if library not in ("torchvision", "timm"):
        raise LiftError(f"there is no library '{library}'; write a name of torchvision's, or timm:{model}")
    if classes is not None and (type(classes) is not int or classes < 1):
        raise OptionError(f"'classes' is {shown(classes)}, but it should be a number of classes")
    known = names(library)
    if model not in known:
        raise LiftError(f"{library} has no network '{model}'{suggest(model, known)}")
    about: dict[str, Any] = {}
    state: dict[str, Tensor] | None = None
    path = None if weights is None else _file(weights)
    options = dict(_OPTIONS.get(model, {})) if library == "torchvision" else {}
    options |= {} if size is None else _sized(library, model, size)
    if path is not None:
        state = read_state(path)
    elif weights is not None:
        state, about = _pretrained(library, model, weights)
        options |= {"transform_input": True} if about.pop("transform_input", False) else {}
    if state is not None and model in _OPTIONS:
        state = {key: value for key, value in state.items() if not key.startswith(_AUXILIARY)}
    trained = None if state is None else _classes(library, model, options, state)
    wanted = classes or trained
    options |= {} if wanted is None else {"num_classes": wanted}
    source = Source(library, model, FrozenMap(options), version(library))
    net = builder(source)()
    if state is not None:
        own = net.state_dict()
        if wanted != trained:
            head = [key for key, value in state.items() if key in own and value.shape != own[key].shape]
            if head:
                place, there = head[0].rpartition(".")[0], state[head[0]].shape[0]
                tell(f"the last layer '{place}' starts at random: {there} classes in the weights, not {wanted}")
                about.pop("classes", None)
                about[NEW_LAYER] = place
            state |= {key: own[key] for key in head}
        load_state(net, state, path or Path(f"the weights of {model}"))
    return net, about, source


def own_size(name: str) -> Size | None:
    """Return height and width of the images that a network of timm was made for; None for torchvision's."""
    library, _, model = name.rpartition(":")
    if library != "timm":
        return None
    height, width = timm_library().get_pretrained_cfg(model).input_size[1:]
    return height, width


def _sized(library: str, model: str, size: Size) -> dict[str, Any]:
    """Return the option of a builder for a network that takes images of one size only.

    Raises:
        OptionError: The network takes only images that are as high as wide.
    """
    if library == "timm":
        return {"img_size": list(size)} if timm_library().get_pretrained_cfg(model).fixed_input_size else {}
    if not model.startswith("vit_"):
        return {}
    if size[0] != size[1]:
        raise OptionError(f"'{model}' takes only images that are as high as wide; give one number for 'size'")
    return {"image_size": size[0]}


def _shapes(library: str, model: str, options: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the tensors of a library's network by name."""
    net = outline_of(builder(Source(library, model, FrozenMap(options))))
    return {key: tuple(value.shape) for key, value in net.state_dict().items()}


def _classes(library: str, model: str, options: Mapping[str, Any], state: Mapping[str, Tensor]) -> int | None:
    """Return the number of classes that weights were made for; None if it is the library's default.

    The last layer is what changes its shape with the number of classes.
    """
    shapes = _shapes(library, model, options)
    if all(key not in state or tuple(state[key].shape) == shape for key, shape in shapes.items()):
        return None
    other = _shapes(library, model, {**options, "num_classes": 7})
    head = [key for key, shape in shapes.items() if other.get(key, shape) != shape and other[key][0] == 7]
    sizes = {state[key].shape[0] for key in head if key in state and state[key].dim()}
    return sizes.pop() if len(sizes) == 1 else None


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


def _pretrained(library: str, name: str, weights: str | WeightsEnum) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return pretrained weights of torchvision, and what is known about the data that they were trained on."""
    if library != "torchvision":
        raise LiftError(f"weights by name are torchvision's; for '{library}:{name}', give a file")
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
    about = {"mean": preset.mean, "std": preset.std, "classes": list(chosen.meta["categories"])}
    if getattr(model, "transform_input", False):
        about["transform_input"] = True
    return model.state_dict(), about
