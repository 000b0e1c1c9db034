"""Named tensors: save to and load from safetensors files, and load into modules."""

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
"""Prefixes of tensor names in the state of a wrapped network."""
_TORCH_SAVE = (b"PK\x03\x04", b"\x80\x02")
"""First bytes of the files of torch.save: a zip archive, or the pickle of old versions."""


def save_tensors(path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
    """Write tensors to a safetensors file; the same tensors give the same bytes."""
    from safetensors.torch import save

    plain: dict[str, Tensor] = {}
    stored: set[int] = set()
    for name, tensor in sorted(tensors.items()):
        own = tensor.detach().cpu().contiguous()
        place = own.untyped_storage().data_ptr()
        plain[name] = own.clone() if place in stored else own  # safetensors takes no tied weights
        stored.add(place)
    # safetensors writes several metadata keys in random order, so there is only one.
    write_atomically(path, save(plain, {"topolearn": json.dumps(dict(about), sort_keys=True)}))


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file.

    Raises:
        CheckpointError: It is missing or damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    if path.exists() and not path.is_file():  # reading a pipe would block
        raise CheckpointError(
            "not a file but a folder, a pipe or a device; name a safetensors file", Location(str(path))
        )
    if not path.is_file():
        raise CheckpointError("no such file; is this the folder of a finished run?", Location(str(path)))
    content = b""
    try:
        # From bytes, because safetensors cannot open file names that are not UTF-8.
        content = path.read_bytes()
        tensors: dict[str, Tensor] = load(content)
    except (SafetensorError, OSError, ValueError) as error:
        if content.startswith(_TORCH_SAVE):
            raise CheckpointError(
                "written by torch.save, but a safetensors file is needed here; for a torchvision network write"
                f" 'topolearn lift MODEL --weights {path.name} -o GRAPH.yaml', else use safetensors.torch.save_file",
                Location(str(path)),
            ) from None
        raise CheckpointError(
            f"damaged, or not a safetensors file ({error}); replace it with an undamaged copy", Location(str(path))
        ) from None
    return tensors


def read_about(path: Path) -> dict[str, Any]:
    """Read the ``about`` of a file that :func:`save_tensors` wrote; empty for files of other programs."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        return {}
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {}).get("topolearn", "{}"))
    except (SafetensorError, OSError, ValueError):
        return {}  # loading the tensors reports what is wrong
    return about if isinstance(about, dict) else {}


def why_refused(error: Exception) -> str:
    """Return why ``torch.load`` with ``weights_only`` refused a file.

    The first line of torch's message is left out, because it suggests running the file's code.
    """
    text = str(error)
    return (text.partition("WeightsUnpickler error: ")[2] or text).partition("\n")[0].partition(". ")[0][:120]


def plain_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors without the name prefixes of wrappers such as DistributedDataParallel or torch.compile."""
    plain = dict(tensors)
    for prefix in _WRAPPERS * 2:  # wrappers may be nested
        if plain and all(name.startswith(prefix) for name in plain):
            plain = {name.removeprefix(prefix): tensor for name, tensor in plain.items()}
    return plain


def load_into(module: torch.nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Load tensors into a module with exactly these names and shapes.

    Raises:
        CheckpointError: A tensor does not fit; the message names the first one.
    """
    own = module.state_dict()
    mend = "; use weights of this graph"
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
