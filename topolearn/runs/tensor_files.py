"""Tensors by name in safetensors files, and into modules."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from topolearn.errors import CheckpointError, Location
from topolearn.files import write_atomically

_WRAPPERS = ("module.", "_orig_mod.", "model.", "net.", "network.")
"""What names of tensors begin with where a wrapper's state was saved."""


def save_tensors(path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
    """Write tensors as safetensors, the same bytes for the same tensors."""
    from safetensors.torch import save

    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in sorted(tensors.items())}
    # safetensors writes several metadata keys in random order, so there is one.
    write_atomically(path, save(plain, {"topolearn": json.dumps(dict(about), sort_keys=True)}))


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file.

    Raises:
        CheckpointError: It is missing or damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    if not path.is_file():
        raise CheckpointError("no such file; is this the folder of a finished run?", Location(str(path)))
    try:
        # From bytes, because safetensors knows no names of files that are not UTF-8.
        tensors: dict[str, Tensor] = load(path.read_bytes())
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(
            f"damaged, or no safetensors file ({error}); put back the file that the run wrote", Location(str(path))
        ) from None
    return tensors


def read_about(path: Path) -> dict[str, Any]:
    """What a file that :func:`save_tensors` wrote says of its tensors; empty for one of another program."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {}).get("topolearn", "{}"))
    except (SafetensorError, OSError, ValueError):
        return {}  # whoever loads the tensors says what is wrong
    return about if isinstance(about, dict) else {}


def why_refused(error: Exception) -> str:
    """What ``torch.load`` with ``weights_only`` did not like of a file: its first line offers to run what is in it."""
    text = str(error)
    return (text.partition("WeightsUnpickler error: ")[2] or text).partition("\n")[0].partition(". ")[0][:120]


def plain_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors by the names that they have without a wrapper, as DistributedDataParallel or torch.compile."""
    plain = dict(tensors)
    for prefix in _WRAPPERS * 2:  # one may be around another
        if plain and all(name.startswith(prefix) for name in plain):
            plain = {name.removeprefix(prefix): tensor for name, tensor in plain.items()}
    return plain


def load_into(module: torch.nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Load tensors into a module of exactly these names and shapes.

    Raises:
        CheckpointError: Names the first tensor that does not fit.
    """
    own = module.state_dict()
    mend = "; take the weights of this very graph"
    for name, tensor in own.items():
        if name not in tensors:
            raise CheckpointError(f"holds no '{name}', which the graph needs{mend}", Location(str(path)))
        if isinstance(tensor, Tensor) and tensors[name].shape != tensor.shape:
            raise CheckpointError(
                f"'{name}' has shape {list(tensors[name].shape)}, but the graph needs {list(tensor.shape)}{mend}",
                Location(str(path)),
            )
    for name in tensors:
        if name not in own:
            raise CheckpointError(f"holds '{name}', which the graph does not have{mend}", Location(str(path)))
    module.load_state_dict(dict(tensors))
