"""Checks a network before it is lifted: that its modules are what they seem to be, and what input it takes."""

from __future__ import annotations

import copy
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from topolearn.errors import LiftError, OptionError, shown
from topolearn.tracing.record import meta_copy

SIZE = 224
"""Default height and width of the graph's input: the size that most image networks were made for."""

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_METHODS = ("forward", "_forward_impl", "_call_impl")


def refuse_unreadable(model: nn.Module) -> None:
    """Refuse what cannot be copied module by module.

    Raises:
        LiftError: A module has a hook or a replaced method, is a script, or its tensors hold no values.
    """
    if not isinstance(model, nn.Module):
        raise OptionError(f"lift takes a network or the name of one, not {shown(model)}")
    for path, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            raise refusal(path, module, "it is a script, which holds no modules to copy; give the network itself")
        if hasattr(module, "_orig_mod"):
            raise refusal(path, module, "it is compiled; lift the network before torch.compile")
        if "quantized" in type(module).__module__:
            raise refusal(path, module, "it is quantised; lift the network before that")
        held = (*module.parameters(recurse=False), *module.buffers(recurse=False))
        if any(isinstance(tensor, UninitializedParameter | UninitializedBuffer) for tensor in held):
            raise refusal(path, module, "it waits for its first input; run the network once")
        if any(getattr(module, hooks) for hooks in _HOOKS):
            raise refusal(path, module, "it has a hook, which a graph cannot have; remove it")
        hooked = [name for name, tensor in module.named_parameters(recurse=False) if tensor._backward_hooks]
        if hooked:
            raise refusal(path, module, f"its parameter '{hooked[0]}' has a hook, which a graph cannot have; remove it")
        changed = [name for name in _METHODS if name in vars(module) and not _is_own_method(module, vars(module)[name])]
        if changed:
            raise refusal(path, module, f"its method '{changed[0]}' has been replaced; put that into a class")
    kinds = {(tensor.device, tensor.dtype) for tensor in model.parameters() if tensor.is_floating_point()}
    if not kinds:
        raise refusal("", model, "it has no parameters")
    if any(device.type == "meta" for device, _ in kinds):
        raise refusal("", model, "its parameters are on the meta device and hold no values")
    if len({device for device, _ in kinds}) > 1:
        raise refusal("", model, "its parameters are on several devices; move them with .to(…) first")
    _refuse_uncopied(model)


def _refuse_uncopied(model: nn.Module) -> None:
    """Raise a LiftError unless a network can be copied, and its copy trained."""
    for path, module in model.named_modules():
        for name, tensor in {**module._parameters, **module._buffers}.items():
            if tensor is not None and tensor.is_inference():
                why = "was made under torch.inference_mode and cannot be trained; make the network outside of that"
                raise refusal(path, module, f"its tensor '{name}' {why}")
        for name, value in vars(module).items():
            if isinstance(value, Tensor) and not value.is_leaf:
                why = f"is a tensor with a history of gradients; keep {name}.detach(), or compute it in forward"
                raise refusal(path, module, f"its attribute '{name}' {why}")
    try:
        meta_copy(model, torch.float32)
    except Exception as error:  # whatever an object raises
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        for path, module in model.named_modules():
            for name, value in vars(module).items():
                if name not in ("_parameters", "_buffers", "_modules") and not _is_copied(value):
                    raise refusal(
                        path, module, f"its attribute '{name}' cannot be copied ({why}); make it in forward"
                    ) from None
        raise refusal("", model, f"it cannot be copied: {why}") from None


def _is_copied(value: Any) -> bool:
    try:
        copy.deepcopy(value)
    except Exception:
        return False
    return True


def _is_own_method(module: nn.Module, value: Any) -> bool:
    """Whether something is a method of a module's own class: it chose one of several, and a copy has the same."""
    is_bound = isinstance(value, MethodType) and value.__self__ is module
    return is_bound and getattr(type(module), value.__name__, None) is value.__func__


def input_size(model: nn.Module, example: Any, size: Any) -> tuple[int, ...]:
    """Return the shape of a network's input, without the batch.

    Args:
        model: The network.
        example: An input; None if ``size`` is given.
        size: Height and width; None for the default.

    Raises:
        OptionError: An option is not valid, or the input cannot be known from the network.
    """
    if example is not None:
        if size is not None:
            raise OptionError("'example' and 'size' both give the size of the input; leave one out")
        if not isinstance(example, Tensor) or example.dim() < 2:
            raise OptionError(f"'example' is {shown(example)}, but it should be an input of the network with a batch")
        if example.dim() not in (2, 3, 4):
            raise OptionError(
                f"'example' has {example.dim()} dimensions, but an input is (N, features), (N, tokens, channels) or"
                " (N, channels, height, width)"
            )
        if not example.is_floating_point():
            raise OptionError(f"'example' holds {example.dtype}, but lifting is for networks that take numbers")
        return tuple(example.shape[1:])
    pair = pair_of(size)
    if type(channels := getattr(model, "in_chans", None)) is int:  # timm's networks say it
        return (channels, *pair)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            return (module.in_channels, *pair)
        if isinstance(module, nn.Linear) and size is None:
            return (module.in_features,)
    raise OptionError(
        f"this {type(model).__name__} does not say what it takes; give lift an example=, such as one batch"
    )


def pair_of(size: Any) -> tuple[int, int]:
    """Check ``size`` and return height and width."""
    if size is None:
        return (SIZE, SIZE)
    pair = (size, size) if type(size) is int else size
    if not isinstance(pair, tuple | list) or len(pair) != 2 or not all(type(n) is int and n > 0 for n in pair):
        raise OptionError(f"'size' is {shown(size)}, but it should be a number of pixels, or height and width")
    return (pair[0], pair[1])


def refusal(path: str, module: nn.Module, why: str) -> LiftError:
    """Make the error that says which module cannot be lifted and why."""
    kind = type(module).__name__
    where = f"'{path}' ({kind})" if path else f"this {kind}"
    return LiftError(f"cannot lift {where}: {why}", module=path)
