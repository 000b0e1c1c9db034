"""config.yaml: write and read the settings of a run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from topolearn.errors import CheckpointError, FormatError, Location
from topolearn.format.tree import parse, read_text
from topolearn.format.writer import scalar
from topolearn.options import tuples

NEW_LAYER = "new_layer"
"""Key of what is known of a network: path of its last layer, if that starts at random."""


def about_data(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what serving needs to know of a run's data: ``mean``, ``std``, ``classes``.

    ``windows`` is added if the run was evaluated in sliding windows.
    """
    about = {key: list(config[key]) for key in ("mean", "std", "classes")}
    training = config.get("training", {})
    if training.get("evaluation") == "sliding":
        size = next(iter(config["input_size"].values()))
        about["windows"] = list(training.get("crop") or size[1:])
    return about


def write_config(config: Mapping[str, Any]) -> str:
    """Return the text of config.yaml: one line per key."""
    return "".join(f"{key}: {scalar(value)}\n" for key, value in config.items())


_NEEDED = ("graph", "task", "learner", "learner_options", "data", "input_size", "mean", "std", "classes", "batch_size")


def read_config(path: Path) -> dict[str, Any]:
    """Read config.yaml.

    Raises:
        CheckpointError: The file is missing or damaged.
    """
    if not path.is_file():
        raise CheckpointError("no such file; is this the folder of a run?", Location(str(path)))
    try:
        config: dict[str, Any] = tuples(parse(read_text(path), str(path)).root.plain())
    except FormatError as error:
        raise CheckpointError(error.message, error.location) from None
    for key in _NEEDED:
        if key not in config:
            raise CheckpointError(f"has no '{key}'; is this the folder of a run?", Location(str(path)))
    return config
