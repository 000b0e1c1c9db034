"""Opens the networks that a graph takes parts from: those of torchvision and timm, by name, and your own."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from topolearn.errors import LiftError, suggest
from topolearn.graph import Source
from topolearn.tracing.opened import Opened, alive

_REGISTERED: dict[str, Callable[[], nn.Module]] = {}


def register_source(name: str, builder: Callable[[], nn.Module]) -> None:
    """Register a network of your own, so that graphs that were lifted from it can be built.

    Args:
        name: What graph files call it.
        builder: Returns the network, with the weights that training should start from.
    """
    _REGISTERED[name] = builder


def names(library: str) -> list[str]:
    """Return the names of a library's models.

    Raises:
        LiftError: The library is not installed.
    """
    if library == "torchvision":
        from torchvision import models

        found: list[str] = models.list_models(module=models)
        return found
    return list(timm_library().list_models())


def version(library: str) -> str:
    """Return the version of a library; "" for your own networks."""
    return "" if library == "own" else importlib.metadata.version(library)


def builder(source: Source) -> Callable[[], nn.Module]:
    """Return a function that builds the network of a source, with random weights, or those of your own.

    Raises:
        LiftError: There is no such network.
    """
    if source.library == "own":
        if source.model not in _REGISTERED:
            raise LiftError(
                f"it comes from '{source.model}', a network of your own; in Python call"
                f" register_source('{source.model}', {source.model}) first, or give load_model a {source.model} with"
                " 'sources'; the command line can use the run's ONNX file"
            )
        return _REGISTERED[source.model]
    known = names(source.library)
    if source.model not in known:
        raise LiftError(f"{source.library} has no network '{source.model}'{suggest(source.model, known)}")
    options = source.options.thaw()
    if source.library == "torchvision":
        from torchvision import models

        return lambda: models.get_model(source.model, weights=None, **options)
    return lambda: timm_library().create_model(source.model, pretrained=False, **options)


def open_source(source: Source, size: Sequence[int]) -> Opened:
    """Return the network of a source, and check that it is the one that the graph was made from.

    Args:
        source: Where it comes from.
        size: Shape of the graph's input, without the batch.

    Raises:
        LiftError: There is no such network, or it is another one than when the graph was lifted.
    """
    if isinstance(source.net, Opened):
        return source.net
    if source.library == "own" and source.model not in _REGISTERED and (found := alive(source.fingerprint)):
        return found
    make = builder(source)
    outline = outline_of(make)
    params = sum(parameter.numel() for parameter in outline.parameters())
    opened = _opened(make, outline, source, size) if params == source.params else None
    if opened is None or opened.fingerprint != source.fingerprint:
        now = version(source.library)
        changed = f" with {source.library} {source.version}, and {now} is installed" if now != source.version else ""
        raise LiftError(
            f"the network '{source.model}' is not the one that the graph was lifted from{changed}; lift it again"
        )
    return opened


def _opened(make: Callable[[], nn.Module], outline: nn.Module, source: Source, size: Sequence[int]) -> Opened:
    # What a block gives is seen only with values.
    return Opened(make, make() if source.blocks else outline, size, source.blocks)


def outline_of(make: Callable[[], nn.Module]) -> nn.Module:
    """Build a network on the meta device, where its size costs nothing."""
    with torch.random.fork_rng(devices=[]):
        try:
            with torch.device("meta"):
                return make()
        except (NotImplementedError, RuntimeError):  # a builder that reads values of its tensors
            return make()


def timm_library() -> Any:
    """Return timm.

    Raises:
        LiftError: It is not installed.
    """
    try:
        import timm
    except ImportError:
        raise LiftError("timm is not installed; run: pip install 'topolearn-torch[timm]'") from None
    return timm
