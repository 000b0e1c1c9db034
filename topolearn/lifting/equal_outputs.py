"""Compares a lifted network with the network that it was lifted from."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from topolearn.compiler import Network
from topolearn.compiler.finite import not_finite
from topolearn.errors import LiftError
from topolearn.tracing.draws import same_draws
from topolearn.tracing.record import tensors_in

TOLERANCE = 1e-5
"""Largest difference between the outputs of the two networks, divided by the largest output."""


def compare(model: nn.Module, net: Network, size: Sequence[int]) -> None:
    """Check that two networks compute the same in eval mode, for two random inputs.

    Args:
        model: The network that was lifted.
        net: The lifted network.
        size: Shape of the inputs, without the batch.

    Raises:
        LiftError: The outputs differ, or are not finite.
    """
    theirs, ours = outputs(model, size), outputs(net, size)
    if not theirs.isfinite().all():
        name = not_finite(model)
        if name is None:
            raise LiftError(
                "cannot lift this network: its weights are finite, but its outputs for random images are not; train it"
                " first"
            )
        raise LiftError(
            f"cannot lift this network: its outputs hold values that are not finite, and so does '{name}'; give it"
            " trained weights"
        )
    differs_by = difference(ours, theirs)
    kinds = {tensor.dtype for tensor in model.parameters() if tensor.is_floating_point()}
    if not differs_by <= max(map(tolerance_of, kinds)):
        path = _unsteady(model, size)
        if path is not None:
            where = f"'{path}' ({type(model.get_submodule(path)).__name__})" if path else "it"
            raise LiftError(
                f"cannot lift this {type(model).__name__}: {where} gives another result each time; let it depend on its"
                " input and on what it holds",
                module=path,
            )
        raise LiftError(
            f"cannot lift this network: what it computes differs from its graph by {differs_by:.2g} of the largest"
            " output; does its forward pass do other things with other values, batches or devices? If so, put that part"
            " into a module, and name the module in blocks=[…]",
            module="",
        )


def difference(found: Tensor, wanted: Tensor) -> float:
    """Return the largest difference of two outputs over the largest value that is wanted; infinite for other shapes."""
    if found.shape != wanted.shape:
        return float("inf")
    found, wanted = found.double(), wanted.double()
    return float((found - wanted).abs().max()) / (float(wanted.abs().max()) or 1.0)


def tolerance_of(dtype: torch.dtype) -> float:
    """Return the largest difference that rounding may make in the outputs of a network with weights of some dtype."""
    return max(TOLERANCE, 4 * torch.finfo(dtype).eps)


def outputs(model: nn.Module, size: Sequence[int]) -> Tensor:
    """Return a network's outputs in eval mode for two random inputs.

    A copy of the network runs, because some networks count their calls, or keep what they have computed.

    Raises:
        LiftError: The network does not run.
    """
    images = _images(model, size)
    try:
        with torch.no_grad(), same_draws(images.device):
            out = copy.deepcopy(model).eval()(images)
    except Exception as error:  # whatever a network's code raises
        path = _stopped_at(model, images)
        where = f"'{path}' ({type(model.get_submodule(path)).__name__})" if path else "it"
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise LiftError(
            f"cannot lift this {type(model).__name__}: {where} does not run on an input of"
            f" {' x '.join(map(str, size))}: {why}",
            module=path,
        ) from None
    if not isinstance(out, Tensor):
        raise LiftError(
            f"cannot lift this {type(model).__name__}: it returns a {type(out).__name__}, but only networks that return"
            " one tensor can be lifted",
            module="",
        )
    return out


def _images(model: nn.Module, size: Sequence[int]) -> Tensor:
    first = next((tensor for tensor in model.parameters() if tensor.is_floating_point()), torch.empty(0))
    numbers = torch.Generator().manual_seed(0)
    return torch.randn(2, *size, generator=numbers).to(device=first.device, dtype=first.dtype)


def _unsteady(model: nn.Module, size: Sequence[int]) -> str | None:
    """Return the path of the first module that gives another output in a second copy of a network, or None."""
    runs: list[list[tuple[str, Any]]] = []
    for _ in range(2):
        copied = copy.deepcopy(model).eval()
        run: list[tuple[str, Any]] = []
        for path, module in copied.named_modules():
            module.register_forward_hook(lambda _, args, out, path=path, run=run: run.append((path, out)))
        images = _images(model, size)
        with torch.no_grad(), same_draws(images.device):
            copied(images)
        runs.append(run)
    first, second = runs
    for (path, one), (_, other) in zip(first, second, strict=False):
        pairs = zip(tensors_in(one), tensors_in(other), strict=False)
        if any(found.shape != wanted.shape or not torch.equal(found, wanted) for found, wanted in pairs):
            return path
    return None


def _stopped_at(model: nn.Module, images: Tensor) -> str:
    """Run a network that fails again, and return the path of the module in which it does; "" for its own code.

    The first run has no hooks, since some modules of PyTorch do other things with hooks.
    """
    model = copy.deepcopy(model).eval()
    entered: list[str] = []

    def leave(*_: object) -> None:
        entered.pop()

    for path, module in model.named_modules():
        module.register_forward_pre_hook(lambda _, args, path=path: entered.append(path))
        module.register_forward_hook(leave)
    try:
        with torch.no_grad(), same_draws(images.device):
            model(images)
    except Exception:
        return entered[-1] if entered else ""
    return ""


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Switch to eval mode while entered, then restore every module's mode."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
